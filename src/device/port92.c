/* System control port A. See port92.h.
 *
 * Bit 0 alternate hot reset, bit 1 alternate A20 gate; bit 3 (security lock), bits 6 and 7 (activity lights) are
 * remembered. The rest reads zero. A20 is open after a reset: monitors of today start with it open, firmware sets it
 * again, and nothing that runs here depends on the 8088's wrap-around before it has asked for it.
 *
 * Source: IBM PS/2 Hardware Interface Technical Reference, System Control Port A.
 */
#include "device/port92.h"

#include <stdlib.h>

#define PORT92_RESET 0x01
#define PORT92_A20 0x02
#define PORT92_BITS 0xcb

struct port92_state {
    uint8_t value;
};

struct port92 {
    struct irq_line a20;
    void (*reset)(void *opaque);
    void *opaque;
    struct port92_state state;
};

static uint64_t port92_read(void *dev, uint64_t offset, unsigned size)
{
    const struct port92 *port92 = dev;
    return port92->state.value;
}

static void port92_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct port92 *port92 = dev;
    bool rises = value & PORT92_RESET && !(port92->state.value & PORT92_RESET);
    port92->state.value = (uint8_t)(value & PORT92_BITS);
    irq_set(&port92->a20, value & PORT92_A20);
    if (rises && port92->reset != NULL)
        port92->reset(port92->opaque);
}

const struct io_ops port92_ops = {.read = port92_read, .write = port92_write, .name = "System control port A"};

void port92_reset(struct port92 *port92)
{
    port92->state.value = PORT92_A20;
    irq_set(&port92->a20, true);
}

struct port92 *port92_create(struct irq_line a20, void (*reset)(void *opaque), void *opaque)
{
    struct port92 *port92 = calloc(1, sizeof *port92);
    if (port92 == NULL)
        return NULL;
    *port92 = (struct port92){.a20 = a20, .reset = reset, .opaque = opaque};
    port92_reset(port92);
    return port92;
}

void port92_destroy(struct port92 *port92)
{
    free(port92);
}
