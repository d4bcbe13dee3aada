/* Timers against a clock that the test moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/timer.h"
#include "base/types.h"

struct world {
    uint64_t now_ns;
    unsigned earliest_changes;
    char order[16];
    unsigned fired;
    struct timer_queue queue;
};

struct named {
    struct timer timer;
    struct world *world;
    char name;
    uint64_t period_ns; /* armed again from within, 0: not */
    struct timer *disarm;
};

static uint64_t world_now(void *opaque)
{
    return ((struct world *)opaque)->now_ns;
}

static void world_changed(void *opaque)
{
    ((struct world *)opaque)->earliest_changes++;
}

static void fire(void *opaque)
{
    struct named *n = opaque;
    assert_false(timer_armed(&n->timer));
    if (n->world->fired < sizeof n->world->order - 1)
        n->world->order[n->world->fired++] = n->name;
    if (n->period_ns != 0)
        timer_arm(&n->timer, n->world->now_ns + 1 - n->period_ns); /* in the past, if the host is late */
    if (n->disarm != NULL)
        timer_disarm(n->disarm);
}

static void setup(struct world *w, struct named *named, unsigned count)
{
    *w = (struct world){0};
    timer_queue_init(&w->queue, world_now, world_changed, w);
    for (unsigned i = 0; i < count; i++) {
        named[i] = (struct named){.world = w, .name = (char)('a' + i)};
        timer_init(&named[i].timer, &w->queue, fire, &named[i]);
    }
}

static void test_order(void **state)
{
    struct world w;
    struct named n[4];
    setup(&w, n, 4);
    assert_int_equal(timer_queue_next(&w.queue), TIMER_NEVER);
    timer_arm(&n[0].timer, 30);
    timer_arm(&n[1].timer, 10);
    timer_arm(&n[2].timer, 20);
    timer_arm(&n[3].timer, 20);
    assert_int_equal(w.earliest_changes, 2);
    assert_int_equal(timer_queue_next(&w.queue), 10);
    timer_arm(&n[1].timer, 40); /* moved */
    w.now_ns = 30;
    timer_queue_run(&w.queue);
    assert_string_equal(w.order, "cda");
    assert_int_equal(timer_queue_next(&w.queue), 40);
    timer_arm(&n[1].timer, TIMER_NEVER);
    assert_int_equal(timer_queue_next(&w.queue), TIMER_NEVER);
}

/* One that arms itself again in the past fires once a run, and does not keep later ones from firing. */
static void test_late(void **state)
{
    struct world w;
    struct named n[2];
    setup(&w, n, 2);
    n[0].period_ns = 5;
    timer_arm(&n[0].timer, 1);
    timer_arm(&n[1].timer, 100);
    w.now_ns = 100;
    timer_queue_run(&w.queue);
    assert_string_equal(w.order, "ab");
    timer_queue_run(&w.queue);
    assert_string_equal(w.order, "aba");
}

/* A fired function may disarm a timer that is due, too. */
static void test_disarm_within(void **state)
{
    struct world w;
    struct named n[3];
    setup(&w, n, 3);
    n[0].disarm = &n[1].timer;
    for (unsigned i = 0; i < 3; i++)
        timer_arm(&n[i].timer, 10 + i);
    w.now_ns = 50;
    timer_queue_run(&w.queue);
    assert_string_equal(w.order, "ac");
    timer_disarm(&n[1].timer); /* again: harmless */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_late),
        cmocka_unit_test(test_disarm_within),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
