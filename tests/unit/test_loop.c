/* The event loop: readiness, timers, deadlines, wakes, and changes made while it waits or dispatches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/clock.h"
#include "host/loop.h"

struct probe {
    struct loop_source *source, *victim;
    int fd;
    unsigned calls, events;
};

static void probe_ready(void *opaque, unsigned events)
{
    struct probe *p = opaque;
    p->calls++;
    p->events = events;
    char byte;
    if (events & LOOP_READ)
        assert_true(read(p->fd, &byte, 1) >= 0);
    if (p->victim != NULL)
        loop_remove(p->victim);
    p->victim = NULL;
}

static void count_up(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void test_readiness(void **state)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct loop *loop = loop_create(NULL);
    struct probe p = {.fd = fds[0]};
    p.source = loop_add(loop, fds[0], LOOP_READ, probe_ready, &p);
    loop_set_deadline(loop, 0); /* do not wait */
    loop_run_once(loop, NULL);
    assert_int_equal(p.calls, 0);
    assert_int_equal(write(fds[1], "a", 1), 1);
    loop_run_once(loop, NULL);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.events, LOOP_READ);
    loop_modify(p.source, LOOP_WRITE);
    loop_run_once(loop, NULL);
    assert_int_equal(p.events, LOOP_WRITE);
    loop_modify(p.source, 0);
    assert_int_equal(write(fds[1], "a", 1), 1);
    loop_run_once(loop, NULL);
    assert_int_equal(p.calls, 2);
    close(fds[1]);
    loop_modify(p.source, LOOP_HANGUP);
    loop_run_once(loop, NULL);
    assert_int_equal(p.events, LOOP_HANGUP);
    loop_remove(p.source);
    loop_destroy(loop);
    close(fds[0]);
}

static void test_regular_file_is_ready(void **state)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct loop *loop = loop_create(NULL);
    struct probe p = {.fd = fd};
    p.source = loop_add(loop, fd, LOOP_READ, probe_ready, &p);
    loop_run_once(loop, NULL);
    assert_int_equal(p.events, LOOP_READ);
    loop_remove(p.source);
    loop_destroy(loop);
    close(fd);
}

/* A callback removes a source that is ready too: that one is not called any more. */
static void test_removal_in_callback(void **state)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct loop *loop = loop_create(NULL);
    struct probe first = {.fd = fds[1]}, second = {.fd = fds[1]};
    first.source = loop_add(loop, fds[1], LOOP_WRITE, probe_ready, &first);
    second.source = loop_add(loop, fds[1], LOOP_WRITE, probe_ready, &second);
    first.victim = second.source;
    loop_run_once(loop, NULL);
    assert_int_equal(first.calls, 1);
    assert_int_equal(second.calls, 0);
    first.victim = first.source;
    loop_run_once(loop, NULL);
    assert_int_equal(first.calls, 2);
    loop_destroy(loop);
    close(fds[0]);
    close(fds[1]);
}

static void test_timer_and_deadline(void **state)
{
    struct loop *loop = loop_create(NULL);
    unsigned fired = 0;
    struct timer timer;
    timer_init(&timer, loop_timers(loop), count_up, &fired);
    uint64_t start = clock_monotonic_ns();
    loop_set_deadline(loop, start + 5000000);
    loop_run_once(loop, NULL);
    assert_true(clock_monotonic_ns() >= start + 5000000);
    assert_int_equal(fired, 0);
    start = clock_monotonic_ns();
    timer_arm(&timer, start + 20000000);
    loop_set_deadline(loop, TIMER_NEVER);
    loop_run_once(loop, NULL);
    assert_int_equal(fired, 1);
    assert_true(clock_monotonic_ns() >= start + 20000000);
    loop_destroy(loop);
}

struct other {
    struct loop *loop;
    pthread_mutex_t lock;
    int fd;
    struct probe probe;
    unsigned step;
};

static void *other_thread(void *opaque)
{
    struct other *o = opaque;
    usleep(20000);
    switch (o->step) {
    case 0:
        loop_wake(o->loop);
        break;
    case 1:
        pthread_mutex_lock(&o->lock);
        o->probe.source = loop_add(o->loop, o->fd, LOOP_WRITE, probe_ready, &o->probe);
        pthread_mutex_unlock(&o->lock);
        break;
    case 2:
        pthread_mutex_lock(&o->lock);
        loop_set_deadline(o->loop, clock_monotonic_ns());
        pthread_mutex_unlock(&o->lock);
        break;
    }
    return NULL;
}

/* Whatever another thread does while the loop waits takes effect at once; a lost wake would hang the test. */
static void test_changes_while_waiting(void **state)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct other o = {.loop = loop_create(NULL), .lock = PTHREAD_MUTEX_INITIALIZER, .fd = fds[1]};
    for (o.step = 0; o.step < 3; o.step++) {
        pthread_t thread;
        pthread_create(&thread, NULL, other_thread, &o);
        loop_run_once(o.loop, &o.lock);
        if (o.step == 1) {
            loop_run_once(o.loop, &o.lock);
            assert_int_equal(o.probe.calls, 1);
            loop_remove(o.probe.source);
        }
        pthread_join(thread, NULL);
    }
    loop_wake(o.loop); /* kept until the next wait */
    loop_set_deadline(o.loop, TIMER_NEVER);
    loop_run_once(o.loop, &o.lock);
    loop_destroy(o.loop);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readiness),
        cmocka_unit_test(test_regular_file_is_ready),
        cmocka_unit_test(test_removal_in_callback),
        cmocka_unit_test(test_timer_and_deadline),
        cmocka_unit_test(test_changes_while_waiting),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
