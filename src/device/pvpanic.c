/* pvpanic. See pvpanic.h.
 *
 * One port: a read gives the events that are supported, a write reports one. Bits that are not supported are ignored.
 * There is no state. Source: docs/specs/pvpanic of QEMU, which Linux's drivers/misc/pvpanic follows.
 */
#include "device/pvpanic.h"

#include <stdlib.h>

#define PVPANIC_EVENTS (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)

struct pvpanic {
    void (*event)(void *opaque, unsigned events);
    void *opaque;
};

static uint64_t pvpanic_read(void *dev, uint64_t offset, unsigned size)
{
    return PVPANIC_EVENTS;
}

static void pvpanic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pvpanic *pvpanic = dev;
    if (value & PVPANIC_EVENTS)
        pvpanic->event(pvpanic->opaque, (unsigned)value & PVPANIC_EVENTS);
}

const struct io_ops pvpanic_ops = {.read = pvpanic_read, .write = pvpanic_write, .name = "pvpanic"};

struct pvpanic *pvpanic_create(void (*event)(void *opaque, unsigned events), void *opaque)
{
    struct pvpanic *pvpanic = calloc(1, sizeof *pvpanic);
    if (pvpanic == NULL)
        return NULL;
    *pvpanic = (struct pvpanic){.event = event, .opaque = opaque};
    return pvpanic;
}

void pvpanic_destroy(struct pvpanic *pvpanic)
{
    free(pvpanic);
}
