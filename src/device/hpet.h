/* The high precision event timer: a counter of 100 MHz and three comparators.
 *
 * Threads: every call under the device lock.
 * Source: IA-PC HPET Specification 1.0a. */
#ifndef RING3_DEVICE_HPET_H
#define RING3_DEVICE_HPET_H

#include "base/irq.h"
#include "base/timer.h"
#include "base/types.h"
#include "memory/memory.h"

#define HPET_SIZE 4096u /* of which 1 KiB is decoded; mappings are whole pages */
#define HPET_TIMERS 3u
#define HPET_ROUTES 0x00ff0000u /* inputs of the I/O APIC that a comparator can be routed to */
#define HPET_BLOCK_ID 0x8086a201u /* the lower half of its capabilities, which ACPI tells, too */

struct hpet;

struct hpet_lines {
    struct irq_line timer;  /* ISA interrupt 0, while the legacy replacement route is on */
    struct irq_line rtc;    /* ISA interrupt 8, likewise */
    struct irq_line io_apic; /* inputs 16 and up: `set` is called with the input's number */
    /* The legacy replacement route is switched: meanwhile the 8254 and the RTC do not interrupt. */
    void (*legacy)(void *opaque, bool on);
    void *opaque;
};

/* NULL when out of memory. */
struct hpet *hpet_create(struct timer_queue *queue, const struct hpet_lines *lines);
void hpet_destroy(struct hpet *hpet);
void hpet_reset(struct hpet *hpet);

extern const struct io_ops hpet_ops;

#endif
