/* The I/O APIC: 24 interrupt pins, turned into messages on the APIC bus.
 *
 * Threads: under the device lock. Source: 82093AA datasheet (290566); the EOI register is that of later chips (version
 * 20h), e.g. ICH 12.5.5. */
#ifndef RING3_DEVICE_IOAPIC_H
#define RING3_DEVICE_IOAPIC_H

#include <stdio.h>

#include "device/apic_bus.h"
#include "memory/memory.h"

#define IOAPIC_PINS 24u
#define IOAPIC_VERSION 0x20u
#define IOAPIC_SIZE 4096u

struct ioapic;

/* Becomes the bus's listener for EOIs. NULL when out of memory. */
struct ioapic *ioapic_create(struct apic_bus *bus, uint8_t id);
/* Before the bus. */
void ioapic_destroy(struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic);

/* Pin `n` is asserted or not, whatever voltage that is; has the signature of irq_line.set. Pins that do not exist
 * swallow it. */
void ioapic_set_irq(void *opaque, unsigned n, bool level);

/* Each pin, for people. */
void ioapic_describe(const struct ioapic *ioapic, FILE *out);

extern const struct io_ops ioapic_mmio_ops; /* IOAPIC_SIZE bytes */

#endif
