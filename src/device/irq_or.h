/* A wire that several sources pull: asserted while any of them asserts it. The board puts one before each input that
 * legacy chips and PCI share; source `n` (0 to 31) drives bit n. */
#ifndef RING3_DEVICE_IRQ_OR_H
#define RING3_DEVICE_IRQ_OR_H

#include <stdint.h>

#include "base/irq.h"

struct irq_or {
    struct irq_line out;
    uint32_t asserted;
};

/* Has the signature of irq_line.set; `opaque` is the struct irq_or. */
static inline void irq_or_set(void *opaque, unsigned n, bool level)
{
    struct irq_or *wire = (struct irq_or *)opaque;
    uint32_t before = wire->asserted, bit = 1u << (n & 31);
    wire->asserted = level ? before | bit : before & ~bit;
    if ((before != 0) != (wire->asserted != 0))
        irq_set(&wire->out, wire->asserted != 0);
}

#endif
