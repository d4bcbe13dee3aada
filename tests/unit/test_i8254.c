/* The timer: each mode's OUT and count against the data sheet's diagrams, tick by tick. */
#include "device_test.h"

#include "device/i8254.h"

enum { OUT0 };

struct fixture {
    struct bench bench;
    struct i8254 *pit;
    int64_t tick;
};

static void out(struct fixture *f, unsigned port, uint8_t value)
{
    bench_write(&i8254_ops, f->pit, port, 1, value);
}

static uint8_t in(struct fixture *f, unsigned port)
{
    return (uint8_t)bench_read(&i8254_ops, f->pit, port, 1);
}

/* To the first nanosecond of the tick that is `ticks` after the last one this function went to. */
static void ticks(struct fixture *f, int64_t n)
{
    f->tick += n;
    uint64_t ns = ((uint64_t)f->tick * 88000 + 104) / 105;
    bench_advance(&f->bench, ns - f->bench.now_ns);
}

static void start(struct fixture *f)
{
    bench_init(&f->bench);
    f->pit = i8254_create(&f->bench.queue, bench_line(&f->bench, OUT0));
    f->tick = 0;
    ticks(f, 1000);
}

static unsigned count_of(struct fixture *f, unsigned counter)
{
    out(f, 3, (uint8_t)(counter << 6));
    unsigned low = in(f, counter);
    return low | (unsigned)in(f, counter) << 8;
}

static bool out2(struct fixture *f)
{
    return bench_read(&i8254_port61_ops, f->pit, 0, 1) & 0x20;
}

static void gate2(struct fixture *f, bool gate)
{
    bench_write(&i8254_port61_ops, f->pit, 0, 1, gate);
}

static uint8_t status_of(struct fixture *f, unsigned counter)
{
    out(f, 3, (uint8_t)(0xe0 | 2u << counter));
    return in(f, counter);
}

static void load2(struct fixture *f, uint8_t mode, unsigned count)
{
    out(f, 3, (uint8_t)(0xb0 | mode << 1));
    out(f, 2, (uint8_t)count);
    out(f, 2, (uint8_t)(count >> 8));
}

static void mode0(void **state)
{
    struct fixture f;
    start(&f);
    gate2(&f, true);
    load2(&f, 0, 4);
    assert_false(out2(&f));
    assert_int_equal(status_of(&f, 2), 0x70); /* null count until the next clock */
    ticks(&f, 1);
    assert_int_equal(status_of(&f, 2), 0x30);
    assert_int_equal(count_of(&f, 2), 4);
    ticks(&f, 3);
    assert_int_equal(count_of(&f, 2), 1);
    gate2(&f, false);
    ticks(&f, 10);
    assert_int_equal(count_of(&f, 2), 1);
    gate2(&f, true);
    assert_false(out2(&f));
    ticks(&f, 1);
    assert_true(out2(&f));
    ticks(&f, 1);
    assert_int_equal(count_of(&f, 2), 0xffff); /* goes on */
    out(&f, 2, 9);                             /* the first byte stops it, and OUT falls */
    assert_false(out2(&f));
    ticks(&f, 5);
    assert_int_equal(count_of(&f, 2), 0xffff);
    i8254_destroy(f.pit);
}

static void mode1_and_5(void **state)
{
    struct fixture f;
    start(&f);
    gate2(&f, false);
    load2(&f, 1, 3);
    ticks(&f, 5);
    assert_true(out2(&f));
    assert_int_equal(status_of(&f, 2) & 0x40, 0x40); /* not loaded before the trigger */
    gate2(&f, true);
    assert_true(out2(&f));
    ticks(&f, 1);
    assert_false(out2(&f));
    ticks(&f, 2);
    gate2(&f, false);
    gate2(&f, true); /* retriggered: stays low */
    ticks(&f, 1);
    assert_false(out2(&f));
    assert_int_equal(count_of(&f, 2), 3);
    ticks(&f, 3);
    assert_true(out2(&f));

    gate2(&f, false);
    load2(&f, 5, 3);
    ticks(&f, 5);
    gate2(&f, true);
    ticks(&f, 3);
    assert_true(out2(&f));
    ticks(&f, 1);
    assert_false(out2(&f));
    ticks(&f, 1);
    assert_true(out2(&f));
    i8254_destroy(f.pit);
}

static void mode2(void **state)
{
    struct fixture f;
    start(&f);
    gate2(&f, true);
    load2(&f, 2, 4);
    ticks(&f, 1);
    static const uint8_t counts[] = {4, 3, 2, 1, 4, 3};
    for (unsigned i = 0; i < ARRAY_LEN(counts); i++) {
        assert_int_equal(count_of(&f, 2), counts[i]);
        assert_int_equal(out2(&f), counts[i] != 1);
        ticks(&f, 1);
    }
    out(&f, 2, 3); /* from the end of this period on */
    out(&f, 2, 0);
    assert_int_equal(status_of(&f, 2) & 0x40, 0x40);
    assert_int_equal(count_of(&f, 2), 2);
    ticks(&f, 2);
    assert_int_equal(status_of(&f, 2) & 0x40, 0);
    assert_int_equal(count_of(&f, 2), 3);
    ticks(&f, 2);
    assert_false(out2(&f));
    gate2(&f, false); /* at once */
    assert_true(out2(&f));
    ticks(&f, 7);
    gate2(&f, true);
    ticks(&f, 1);
    assert_int_equal(count_of(&f, 2), 3);
    load2(&f, 2, 1); /* forbidden: nothing happens */
    ticks(&f, 10);
    assert_true(out2(&f));
    i8254_destroy(f.pit);
}

static void mode3(void **state)
{
    struct fixture f;
    start(&f);
    gate2(&f, true);
    load2(&f, 3, 5);
    ticks(&f, 1);
    static const uint8_t odd[] = {4, 2, 0, 4, 2, 4};
    static const bool levels[] = {true, true, true, false, false, true};
    for (unsigned i = 0; i < ARRAY_LEN(odd); i++) {
        assert_int_equal(count_of(&f, 2), odd[i]);
        assert_int_equal(out2(&f), levels[i]);
        ticks(&f, 1);
    }
    load2(&f, 7, 4); /* an alias */
    ticks(&f, 1);
    assert_int_equal(status_of(&f, 2), 0xbe); /* as written */
    static const uint8_t even[] = {4, 2, 4, 2};
    for (unsigned i = 0; i < ARRAY_LEN(even); i++) {
        assert_int_equal(count_of(&f, 2), even[i]);
        assert_int_equal(out2(&f), i < 2);
        ticks(&f, 1);
    }
    out(&f, 2, 8); /* from the end of this half on */
    out(&f, 2, 0);
    ticks(&f, 2);
    assert_false(out2(&f));
    assert_int_equal(count_of(&f, 2), 8);
    ticks(&f, 4);
    assert_true(out2(&f));
    i8254_destroy(f.pit);
}

static void mode4(void **state)
{
    struct fixture f;
    start(&f);
    gate2(&f, true);
    load2(&f, 4, 2);
    ticks(&f, 2);
    assert_true(out2(&f));
    ticks(&f, 1);
    assert_false(out2(&f));
    ticks(&f, 1);
    assert_true(out2(&f));
    ticks(&f, 65535); /* strobes once a count */
    assert_true(out2(&f));
    i8254_destroy(f.pit);
}

static void access_modes(void **state)
{
    struct fixture f;
    start(&f);
    gate2(&f, true);
    out(&f, 3, 0xb1); /* BCD */
    out(&f, 2, 0x34);
    out(&f, 2, 0x12);
    ticks(&f, 1 + 35);
    assert_int_equal(count_of(&f, 2), 0x1199);
    out(&f, 3, 0x80);
    ticks(&f, 1);
    out(&f, 3, 0x80); /* a second latch command is ignored */
    assert_int_equal(in(&f, 2), 0x99);
    assert_int_equal(in(&f, 2), 0x11);
    assert_int_equal(in(&f, 2), 0x98); /* live */
    assert_int_equal(in(&f, 2), 0x11);

    out(&f, 3, 0xa0); /* high byte only */
    out(&f, 2, 0x02);
    ticks(&f, 1);
    assert_int_equal(in(&f, 2), 0x02);
    ticks(&f, 1);
    assert_int_equal(in(&f, 2), 0x01);
    out(&f, 3, 0x90); /* low byte only; 0 is 65536 */
    out(&f, 2, 0x00);
    ticks(&f, 2);
    assert_int_equal(in(&f, 2), 0xff);

    out(&f, 3, 0xc8); /* read-back, status and count: status comes first */
    assert_int_equal(in(&f, 2), 0x10);
    ticks(&f, 5);
    assert_int_equal(in(&f, 2), 0xff);
    assert_int_equal(in(&f, 2), 0xfa);
    assert_int_equal(in(&f, 3), 0xff);
    i8254_destroy(f.pit);
}

static void program0(struct fixture *f, uint8_t mode, unsigned count)
{
    out(f, 3, (uint8_t)(0x30 | mode << 1));
    out(f, 0, (uint8_t)count);
    out(f, 0, (uint8_t)(count >> 8));
}

static void interrupts(void **state)
{
    struct fixture f;
    start(&f);
    struct bench_line *line = &f.bench.line[OUT0];
    program0(&f, 2, 11932); /* 100 a second */
    unsigned before = line->rises;
    bench_advance(&f.bench, NS_PER_S);
    assert_in_range(line->rises - before, 99, 100);
    program0(&f, 3, 11932);
    before = line->rises;
    bench_advance(&f.bench, NS_PER_S);
    assert_in_range(line->rises - before, 99, 100);

    program0(&f, 0, 1000);
    assert_false(line->level);
    before = line->rises;
    bench_advance(&f.bench, 839000);
    assert_int_equal(line->rises, before + 1);
    bench_advance(&f.bench, NS_PER_S);
    assert_int_equal(line->rises, before + 1);
    program0(&f, 4, 1000);
    before = line->rises;
    bench_advance(&f.bench, NS_PER_S);
    assert_int_equal(line->rises, before + 1);
    assert_int_equal(timer_queue_next(&f.bench.queue), TIMER_NEVER);
    i8254_destroy(f.pit);
}

static void late_host(void **state)
{
    struct fixture f;
    start(&f);
    struct bench_line *line = &f.bench.line[OUT0];
    program0(&f, 2, 11932);
    unsigned before = line->rises;
    bench_jump(&f.bench, NS_PER_S / 10); /* 10 periods */
    assert_int_equal(line->rises, before + 1);
    bench_advance(&f.bench, NS_PER_S / 10);
    assert_in_range(line->rises - before, 18, 20); /* caught up */
    bench_advance(&f.bench, NS_PER_S / 10);
    assert_in_range(line->rises - before, 29, 30);

    before = line->rises;
    bench_jump(&f.bench, 3600 * NS_PER_S);
    bench_advance(&f.bench, 2 * NS_PER_S);
    assert_in_range(line->rises - before, 245, 255); /* 200, and half a second's worth */

    program0(&f, 2, 2); /* 600 kHz: bounded */
    before = line->rises;
    bench_advance(&f.bench, NS_PER_S / 10);
    assert_in_range(line->rises - before, 5000, 10000);
    i8254_destroy(f.pit);
}

static void port61(void **state)
{
    struct fixture f;
    start(&f);
    bench_write(&i8254_port61_ops, f.pit, 0, 1, 0xff);
    assert_int_equal(bench_read(&i8254_port61_ops, f.pit, 0, 1) & 0xcf, 0x0f);
    unsigned toggles = 0;
    bool was = bench_read(&i8254_port61_ops, f.pit, 0, 1) & 0x10;
    for (unsigned i = 0; i < 1000; i++) {
        bench_advance(&f.bench, 1000);
        bool is = bench_read(&i8254_port61_ops, f.pit, 0, 1) & 0x10;
        toggles += is != was;
        was = is;
    }
    assert_in_range(toggles, 65, 67);
    i8254_reset(f.pit);
    assert_int_equal(bench_read(&i8254_port61_ops, f.pit, 0, 1) & 0x0f, 0);
    i8254_destroy(f.pit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mode0),      cmocka_unit_test(mode1_and_5), cmocka_unit_test(mode2),
        cmocka_unit_test(mode3),      cmocka_unit_test(mode4),       cmocka_unit_test(access_modes),
        cmocka_unit_test(interrupts), cmocka_unit_test(late_host),   cmocka_unit_test(port61),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
