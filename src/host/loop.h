/* The machine's event loop: host file descriptors, host timers, and one deadline of the machine's.
 *
 *     for (;;) {
 *         loop_run_once(loop, &device_lock);      waits without the lock; callbacks run with it
 *         lock; timer_queue_run(guest timers); loop_set_deadline(loop, host time of the next one); unlock
 *     }
 *
 * Threads. One thread runs the loop. Everything else here but loop_wake() is called under the lock that is given to
 * loop_run_once(), by any thread, also from within callbacks (a callback may remove any source, its own too). A change
 * made by another thread while the loop waits takes effect at once. loop_wake() may be called from any thread and from
 * signal handlers, with the lock or without.
 *
 * Ownership. A source does not own its descriptor: remove the source, then close the descriptor. */
#ifndef RING3_HOST_LOOP_H
#define RING3_HOST_LOOP_H

#include <pthread.h>

#include "base/error.h"
#include "base/timer.h"
#include "base/types.h"

/* What a source waits for, and what it is told. */
#define LOOP_READ 1u
#define LOOP_WRITE 2u
#define LOOP_HANGUP 4u /* the far end is gone (POLLHUP, POLLERR, POLLNVAL): told to whoever waits for anything */

struct loop;
struct loop_source;

struct loop *loop_create(struct error *err);
/* All sources must have been removed. */
void loop_destroy(struct loop *loop);

/* Calls `ready` with what is ready, as long as it is (level-triggered). With `events` 0 the descriptor is not looked
 * at. Regular files are always ready. Never fails: it aborts when there is no memory for 48 bytes. */
struct loop_source *loop_add(struct loop *loop, int fd, unsigned events, void (*ready)(void *opaque, unsigned events),
                             void *opaque);
void loop_modify(struct loop_source *source, unsigned events);
/* `source` may be NULL. Its callback will not be called again. */
void loop_remove(struct loop_source *source);

/* Timers in host time (clock_monotonic_ns), fired by the loop with the lock held: for host matters such as retrying;
 * guest timers have their own queue. */
struct timer_queue *loop_timers(struct loop *loop);

/* loop_run_once() returns when clock_monotonic_ns() reaches it; TIMER_NEVER for none. Stays until it is changed. */
void loop_set_deadline(struct loop *loop, uint64_t deadline_ns);

/* Makes the running, or else the next, loop_run_once() return. */
void loop_wake(struct loop *loop);

/* Waits for the first of: a source is ready, a host timer is due, the deadline, loop_wake(), a signal. Then calls what
 * there is to call and returns. Called without the lock; `lock` may be NULL when there is only one thread. */
void loop_run_once(struct loop *loop, pthread_mutex_t *lock);

#endif
