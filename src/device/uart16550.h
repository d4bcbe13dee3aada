/* The 16550A serial port.
 *
 * Threads: every call under the device lock, and the chardev's callbacks too. Source: National Semiconductor
 * PC16550D data sheet. */
#ifndef RING3_DEVICE_UART16550_H
#define RING3_DEVICE_UART16550_H

#include "base/irq.h"
#include "base/timer.h"
#include "host/chardev.h"
#include "memory/memory.h"

struct uart16550;

/* `line` is INTR behind the PC's OUT2 gate. `dev` may be NULL: nothing is plugged in, and what is sent is lost. `queue`
 * and `dev` must outlive the port. */
struct uart16550 *uart16550_create(struct timer_queue *queue, struct irq_line line, struct chardev *dev);
void uart16550_destroy(struct uart16550 *uart);
void uart16550_reset(struct uart16550 *uart);

/* Eight ports. Takes the struct uart16550. */
extern const struct io_ops uart16550_ops;

#endif
