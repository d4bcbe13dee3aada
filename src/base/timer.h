/* Timers against an injectable clock.
 *
 * A machine has one timer_queue. Its clock is the guest's time in nanoseconds since the machine was
 * created: the host's monotonic clock, the count of executed instructions, or a variable that a test
 * moves. Devices never ask the host for the time; they ask their queue.
 *
 * Threads: every call is made under the machine's device lock (or by the only thread there is).
 * `earliest_changed` is called under it too, whenever timer_queue_next() would return something earlier
 * than before; the machine uses it to wake whoever waits for the next deadline.
 */
#ifndef RING3_BASE_TIMER_H
#define RING3_BASE_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#define TIMER_NEVER UINT64_MAX

struct timer {
    struct timer_queue *queue;
    uint64_t deadline_ns; /* TIMER_NEVER when not armed */
    void (*fire)(void *opaque);
    void *opaque;
    struct timer *next;     /* in the queue's list, by deadline */
    uint64_t fired_in_pass; /* the last timer_queue_run() that fired it */
};

struct timer_queue {
    uint64_t (*now_ns)(void *opaque);
    void (*earliest_changed)(void *opaque); /* may be NULL */
    void *opaque;
    struct timer *first;
    uint64_t pass; /* counts calls of timer_queue_run() */
};

void timer_queue_init(struct timer_queue *queue, uint64_t (*now_ns)(void *), void (*earliest_changed)(void *),
                      void *opaque);

/* The guest's time now, ns since machine creation. */
uint64_t timer_now_ns(const struct timer_queue *queue);

/* Deadline of the earliest armed timer, or TIMER_NEVER. */
uint64_t timer_queue_next(const struct timer_queue *queue);

/* Fires, in order of deadline, every timer that is due. A timer is disarmed before its function runs, which may arm
 * it again; at most one expiry a timer and call, so a periodic timer re-armed in the past cannot spin. */
void timer_queue_run(struct timer_queue *queue);

void timer_init(struct timer *timer, struct timer_queue *queue, void (*fire)(void *), void *opaque);

/* (Re)arms for an absolute deadline in ns; TIMER_NEVER disarms. */
void timer_arm(struct timer *timer, uint64_t deadline_ns);
void timer_disarm(struct timer *timer);

static inline bool timer_armed(const struct timer *timer)
{
    return timer->deadline_ns != TIMER_NEVER;
}

#endif
