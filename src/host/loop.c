/* The event loop, over ppoll().
 *
 * Why not epoll: it refuses regular files, and standard input may be one. A machine has a handful of descriptors, so
 * the array is built anew for every wait, under the lock; the wait itself works on that copy.
 *
 * Invariants
 *  - The list of sources changes only under the lock. While a wait or a dispatch is under way a removed source stays in
 *    the list, marked dead; it is freed when the next array is built. So no pointer in the array ever dangles.
 *  - `waiting` is true while the loop's thread may be in ppoll() on an array that was built before now. Whoever changes
 *    sources or makes the deadline earlier meanwhile writes to the eventfd.
 *  - A wake is never lost: the eventfd keeps it until the loop reads it. */
#include "host/loop.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "host/clock.h"

struct loop_source {
    struct loop *loop;
    struct loop_source *next;
    int fd;
    unsigned events;
    bool dead;
    void (*ready)(void *opaque, unsigned events);
    void *opaque;
};

struct loop {
    int wake_fd;
    bool waiting;
    uint64_t deadline_ns;
    struct timer_queue timers;
    struct loop_source *first;
    struct pollfd *fds; /* [0] is wake_fd; the others belong to polled[] of the same index */
    struct loop_source **polled;
    size_t capacity;
};

static uint64_t loop_now_ns(void *opaque)
{
    return clock_monotonic_ns();
}

static void loop_refresh(struct loop *loop)
{
    if (loop->waiting)
        loop_wake(loop);
}

static void loop_timer_earlier(void *opaque)
{
    loop_refresh(opaque);
}

struct loop *loop_create(struct error *err)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        error_set(err, "the event loop needs an eventfd: %s", strerror(errno));
        return NULL;
    }
    struct loop *loop = calloc(1, sizeof *loop);
    check(loop != NULL);
    loop->wake_fd = fd;
    loop->deadline_ns = TIMER_NEVER;
    timer_queue_init(&loop->timers, loop_now_ns, loop_timer_earlier, loop);
    return loop;
}

/* Frees the sources that were removed. Only where no array is in use. */
static void loop_sweep(struct loop *loop)
{
    for (struct loop_source **at = &loop->first; *at != NULL;) {
        struct loop_source *source = *at;
        if (source->dead) {
            *at = source->next;
            free(source);
        } else {
            at = &source->next;
        }
    }
}

void loop_destroy(struct loop *loop)
{
    if (loop == NULL)
        return;
    loop_sweep(loop);
    check(loop->first == NULL);
    close(loop->wake_fd);
    free(loop->fds);
    free(loop->polled);
    free(loop);
}

struct loop_source *loop_add(struct loop *loop, int fd, unsigned events, void (*ready)(void *opaque, unsigned events),
                             void *opaque)
{
    struct loop_source *source = malloc(sizeof *source);
    check(source != NULL);
    *source = (struct loop_source){.loop = loop, .fd = fd, .events = events, .ready = ready, .opaque = opaque};
    struct loop_source **at = &loop->first;
    while (*at != NULL)
        at = &(*at)->next;
    *at = source;
    loop_refresh(loop);
    return source;
}

void loop_modify(struct loop_source *source, unsigned events)
{
    check(!source->dead);
    if (source->events == events)
        return;
    source->events = events;
    loop_refresh(source->loop);
}

void loop_remove(struct loop_source *source)
{
    if (source == NULL)
        return;
    check(!source->dead);
    source->dead = true;
    loop_refresh(source->loop);
}

struct timer_queue *loop_timers(struct loop *loop)
{
    return &loop->timers;
}

void loop_set_deadline(struct loop *loop, uint64_t deadline_ns)
{
    bool earlier = deadline_ns < loop->deadline_ns;
    loop->deadline_ns = deadline_ns;
    if (earlier)
        loop_refresh(loop);
}

void loop_wake(struct loop *loop)
{
    int saved_errno = errno;
    uint64_t one = 1;
    ssize_t n = write(loop->wake_fd, &one, sizeof one); /* full means that a wake is pending anyway */
    (void)n;
    errno = saved_errno;
}

static void loop_reserve(struct loop *loop)
{
    size_t n = 1;
    for (struct loop_source *source = loop->first; source != NULL; source = source->next)
        n++;
    if (n <= loop->capacity)
        return;
    loop->fds = realloc(loop->fds, n * sizeof *loop->fds);
    loop->polled = realloc(loop->polled, n * sizeof *loop->polled);
    check(loop->fds != NULL && loop->polled != NULL);
    loop->capacity = n;
}

/* Builds the array for one wait; returns its length. */
static nfds_t loop_gather(struct loop *loop)
{
    loop_sweep(loop);
    loop_reserve(loop);
    loop->fds[0] = (struct pollfd){.fd = loop->wake_fd, .events = POLLIN};
    nfds_t n = 1;
    for (struct loop_source *source = loop->first; source != NULL; source = source->next) {
        if (source->events == 0)
            continue;
        short events = (short)((source->events & LOOP_READ ? POLLIN : 0) | (source->events & LOOP_WRITE ? POLLOUT : 0));
        loop->fds[n] = (struct pollfd){.fd = source->fd, .events = events};
        loop->polled[n++] = source;
    }
    return n;
}

static void loop_dispatch(struct loop *loop, nfds_t n)
{
    for (nfds_t i = 1; i < n; i++) {
        struct loop_source *source = loop->polled[i];
        short revents = loop->fds[i].revents;
        if (revents == 0 || source->dead)
            continue;
        unsigned events = (revents & POLLIN ? LOOP_READ : 0) | (revents & POLLOUT ? LOOP_WRITE : 0);
        events &= source->events; /* an earlier callback may have lost interest */
        if (revents & (POLLHUP | POLLERR | POLLNVAL))
            events |= LOOP_HANGUP;
        if (events != 0 && source->events != 0)
            source->ready(source->opaque, events);
    }
}

void loop_run_once(struct loop *loop, pthread_mutex_t *lock)
{
    if (lock != NULL)
        pthread_mutex_lock(lock);
    nfds_t n = loop_gather(loop);
    uint64_t deadline_ns = timer_queue_next(&loop->timers);
    if (loop->deadline_ns < deadline_ns)
        deadline_ns = loop->deadline_ns;
    loop->waiting = true;
    if (lock != NULL)
        pthread_mutex_unlock(lock);

    struct timespec wait, *timeout = NULL;
    if (deadline_ns != TIMER_NEVER) {
        uint64_t now_ns = clock_monotonic_ns();
        uint64_t ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        wait = (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
        timeout = &wait;
    }
    int ready = ppoll(loop->fds, n, timeout, NULL);
    check(ready >= 0 || errno == EINTR || errno == ENOMEM);

    if (lock != NULL)
        pthread_mutex_lock(lock);
    loop->waiting = false;
    if (ready > 0) {
        if (loop->fds[0].revents != 0) {
            uint64_t count;
            ssize_t got = read(loop->wake_fd, &count, sizeof count);
            (void)got;
        }
        loop_dispatch(loop, n);
    }
    timer_queue_run(&loop->timers);
    if (lock != NULL)
        pthread_mutex_unlock(lock);
}
