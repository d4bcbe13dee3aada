/* An interrupt line as a value: whoever drives it does not know what it is wired to. */
#ifndef RING3_BASE_IRQ_H
#define RING3_BASE_IRQ_H

#include <stdbool.h>
#include <stddef.h>

struct irq_line {
    void (*set)(void *opaque, unsigned n, bool level);
    void *opaque;
    unsigned n;
};

/* Drives the line; a line that is not wired (set == NULL) swallows it. Under the device lock. */
static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->set != NULL)
        line->set(line->opaque, line->n, level);
}

#endif
