/* pvpanic: the guest's kernel tells the monitor that it has panicked. Under the device lock. */
#ifndef RING3_DEVICE_PVPANIC_H
#define RING3_DEVICE_PVPANIC_H

#include "memory/memory.h"

#define PVPANIC_PANICKED 1u     /* the guest panicked and halts */
#define PVPANIC_CRASH_LOADED 2u /* it panicked and now runs its crash kernel */

struct pvpanic;

/* `event` gets the PVPANIC_ bits that the guest wrote, at least one. NULL when out of memory. */
struct pvpanic *pvpanic_create(void (*event)(void *opaque, unsigned events), void *opaque);
void pvpanic_destroy(struct pvpanic *pvpanic);

extern const struct io_ops pvpanic_ops; /* one port; the DSDT announces it as device QEMU0001 */

#endif
