/* The bench on which a chip is tested: a clock that the test moves, a timer queue upon it, and interrupt lines
 * that remember what was done to them. No CPU, no board.
 *
 *     struct bench bench;
 *     bench_init(&bench);
 *     struct x *x = x_create(&bench.queue, bench_line(&bench, 0));
 *     bench_write(&x_ops, x, 0, 1, 0x34);
 *     bench_advance(&bench, 1000000);
 *     assert_int_equal(bench.line[0].rises, 3);
 *
 * A bench owns no memory; it must stay where it is while timers are armed on its queue. One thread. */
#ifndef RING3_TESTS_UNIT_DEVICE_TEST_H
#define RING3_TESTS_UNIT_DEVICE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/irq.h"
#include "base/timer.h"
#include "base/types.h"
#include "memory/memory.h"

#define BENCH_LINES 64

struct bench_line {
    bool level;
    unsigned sets;  /* calls of set, whether the level changed or not */
    unsigned rises; /* low to high */
    unsigned falls; /* high to low */
};

struct bench {
    uint64_t now_ns;
    struct timer_queue queue;
    unsigned earliest_changes;
    struct bench_line line[BENCH_LINES];
};

static inline uint64_t bench_now(void *opaque)
{
    return ((struct bench *)opaque)->now_ns;
}

static inline void bench_earliest_changed(void *opaque)
{
    ((struct bench *)opaque)->earliest_changes++;
}

static inline void bench_init(struct bench *bench)
{
    memset(bench, 0, sizeof(*bench));
    timer_queue_init(&bench->queue, bench_now, bench_earliest_changed, bench);
}

static inline void bench_set_line(void *opaque, unsigned n, bool level)
{
    struct bench_line *line = &((struct bench *)opaque)->line[n];
    line->sets++;
    line->rises += level && !line->level;
    line->falls += !level && line->level;
    line->level = level;
}

/* The line that records into bench->line[n]. */
static inline struct irq_line bench_line(struct bench *bench, unsigned n)
{
    return (struct irq_line){.set = bench_set_line, .opaque = bench, .n = n};
}

/* Moves the clock by `ns`, stopping at every deadline on the way: the host that is never late. */
static inline void bench_advance(struct bench *bench, uint64_t ns)
{
    uint64_t target = bench->now_ns + ns;
    for (uint64_t next; (next = timer_queue_next(&bench->queue)) <= target;) {
        if (next > bench->now_ns)
            bench->now_ns = next;
        timer_queue_run(&bench->queue);
    }
    bench->now_ns = target;
}

/* Moves the clock by `ns` at once, then runs the queue one time: the host that was away. */
static inline void bench_jump(struct bench *bench, uint64_t ns)
{
    bench->now_ns += ns;
    timer_queue_run(&bench->queue);
}

static inline uint64_t bench_read(const struct io_ops *ops, void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = ops->read(dev, offset, size);
    return size == 8 ? value : value & ((1ull << (8 * size)) - 1);
}

static inline void bench_write(const struct io_ops *ops, void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    ops->write(dev, offset, size, value);
}

#endif
