/* The 8254 programmable interval timer of the PC, with port 61h, which gates its counter 2.
 *
 * Counter 0 drives an interrupt line, counter 1 has the refresh request to itself, counter 2 the speaker.
 *
 * Threads: every call under the device lock. Source: Intel 82C54 data sheet (231244), PIIX3 data sheet (NMISC). */
#ifndef RING3_DEVICE_I8254_H
#define RING3_DEVICE_I8254_H

#include "base/irq.h"
#include "base/timer.h"
#include "memory/memory.h"

struct i8254;

/* `out0` is counter 0's OUT: meant for an edge-triggered input. `queue` must outlive the chip. */
struct i8254 *i8254_create(struct timer_queue *queue, struct irq_line out0);
void i8254_destroy(struct i8254 *pit);
void i8254_reset(struct i8254 *pit);

/* Both take the struct i8254: 40h-43h, and the one byte of port 61h. */
extern const struct io_ops i8254_ops;
extern const struct io_ops i8254_port61_ops;

#endif
