/* The PC's pair of 8259A interrupt controllers, cascaded: inputs 0..7 on the master, 8..15 on the slave.
 *
 * Threads: every call under the device lock. Source: Intel 8259A data sheet (231468), PIIX3 data sheet (ELCR). */
#ifndef RING3_DEVICE_I8259_H
#define RING3_DEVICE_I8259_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/irq.h"
#include "memory/memory.h"

struct i8259;

/* `intr` is the master's INT output, driven when it changes. Never fails (allocation failure aborts). */
struct i8259 *i8259_create(struct irq_line intr);
void i8259_destroy(struct i8259 *pic);

/* To the state after power-on: nothing initialised, every input unmasked, edge triggered. The input lines keep their
 * levels: they belong to whoever drives them. */
void i8259_reset(struct i8259 *pic);

/* Drives input n (0..15); shaped for irq_line.set with a struct i8259 as opaque. Input 2 is the slave's: ignored. */
void i8259_set_irq(void *pic, unsigned n, bool level);

/* Is INT high: will i8259_ack() return a real interrupt? */
bool i8259_pending(const struct i8259 *pic);

/* The processor's interrupt acknowledge cycle: returns the vector. With no request it is the spurious one of IR7. */
uint8_t i8259_ack(struct i8259 *pic);

/* The registers of both chips, for people. */
void i8259_describe(const struct i8259 *pic, FILE *out);

/* All three take the struct i8259: 20h-21h, a0h-a1h, and ELCR 4d0h-4d1h. */
extern const struct io_ops i8259_master_ops;
extern const struct io_ops i8259_slave_ops;
extern const struct io_ops i8259_elcr_ops;

#endif
