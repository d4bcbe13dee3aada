/* System control port A (port 92h of the PS/2): fast A20 gate and fast processor reset. Under the device lock. */
#ifndef RING3_DEVICE_PORT92_H
#define RING3_DEVICE_PORT92_H

#include "base/irq.h"
#include "memory/memory.h"

struct port92;

/* `a20` follows bit 1 (the board combines it with the keyboard controller's gate); it is driven at creation, reset and
 * every write. `reset` is called when bit 0 goes from 0 to 1, from the port write: the callee remembers it. NULL when
 * out of memory. */
struct port92 *port92_create(struct irq_line a20, void (*reset)(void *opaque), void *opaque);
void port92_destroy(struct port92 *port92);
void port92_reset(struct port92 *port92);

extern const struct io_ops port92_ops; /* one port */

#endif
