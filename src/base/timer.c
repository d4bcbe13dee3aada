#include "base/timer.h"

#include <stddef.h>

void timer_queue_init(struct timer_queue *queue, uint64_t (*now_ns)(void *), void (*earliest_changed)(void *),
                      void *opaque)
{
    *queue = (struct timer_queue){.now_ns = now_ns, .earliest_changed = earliest_changed, .opaque = opaque};
}

uint64_t timer_now_ns(const struct timer_queue *queue)
{
    return queue->now_ns(queue->opaque);
}

uint64_t timer_queue_next(const struct timer_queue *queue)
{
    return queue->first != NULL ? queue->first->deadline_ns : TIMER_NEVER;
}

void timer_init(struct timer *timer, struct timer_queue *queue, void (*fire)(void *), void *opaque)
{
    *timer = (struct timer){.queue = queue, .deadline_ns = TIMER_NEVER, .fire = fire, .opaque = opaque};
}

static void unlink_timer(struct timer *timer)
{
    for (struct timer **at = &timer->queue->first; *at != NULL; at = &(*at)->next) {
        if (*at == timer) {
            *at = timer->next;
            break;
        }
    }
    timer->next = NULL;
    timer->deadline_ns = TIMER_NEVER;
}

void timer_disarm(struct timer *timer)
{
    if (timer_armed(timer))
        unlink_timer(timer);
}

void timer_arm(struct timer *timer, uint64_t deadline_ns)
{
    struct timer_queue *queue = timer->queue;
    uint64_t before = timer_queue_next(queue);
    timer_disarm(timer);
    if (deadline_ns == TIMER_NEVER)
        return;
    timer->deadline_ns = deadline_ns;
    struct timer **at = &queue->first;
    while (*at != NULL && (*at)->deadline_ns <= deadline_ns)
        at = &(*at)->next;
    timer->next = *at;
    *at = timer;
    if (deadline_ns < before && queue->earliest_changed != NULL)
        queue->earliest_changed(queue->opaque);
}

void timer_queue_run(struct timer_queue *queue)
{
    uint64_t now = timer_now_ns(queue);
    uint64_t pass = ++queue->pass;
    for (;;) {
        struct timer *timer = queue->first;
        while (timer != NULL && timer->deadline_ns <= now && timer->fired_in_pass == pass)
            timer = timer->next;
        if (timer == NULL || timer->deadline_ns > now)
            return;
        unlink_timer(timer);
        timer->fired_in_pass = pass;
        timer->fire(timer->opaque);
    }
}
