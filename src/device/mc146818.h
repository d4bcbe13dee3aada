/* The MC146818 real-time clock with its battery-backed RAM: 128 bytes, and the PIIX's second bank of 128.
 *
 * Threads: every call under the device lock. Source: Motorola MC146818A data sheet; PIIX3 data sheet (ports 70h-73h).
 */
#ifndef RING3_DEVICE_MC146818_H
#define RING3_DEVICE_MC146818_H

#include <stdint.h>

#include "base/irq.h"
#include "base/timer.h"
#include "memory/memory.h"

struct mc146818;

/* The clock shows `epoch_s` (seconds since 1970 in the guest's time zone) when the queue's clock stands where it does
 * at this call, and goes with the queue's clock from there. `queue` must outlive the chip. */
struct mc146818 *mc146818_create(struct timer_queue *queue, struct irq_line irq, int64_t epoch_s);
void mc146818_destroy(struct mc146818 *rtc);

/* The RESET# pin: interrupts off and flags cleared. Time and RAM are on the battery. */
void mc146818_reset(struct mc146818 *rtc);

/* The battery-backed bytes as the firmware's setup left them: index 0eh..ffh (from 80h on: the second bank). 32h, the
 * century, belongs to the clock. */
void mc146818_set_cmos(struct mc146818 *rtc, unsigned index, uint8_t value);
uint8_t mc146818_cmos(const struct mc146818 *rtc, unsigned index);

/* What the clock shows now, in seconds since 1970. */
int64_t mc146818_epoch_s(struct mc146818 *rtc);

/* Ports 70h-73h: index and data, twice. Takes the struct mc146818. */
extern const struct io_ops mc146818_ops;

#endif
