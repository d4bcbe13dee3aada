/* The HPET: counter, comparators, where their interrupts go. */
#include "device_test.h"

#include "device/hpet.h"

#define CAPABILITIES 0x000
#define CONFIG 0x010
#define STATUS 0x020
#define COUNTER 0x0f0
#define TN_CONFIG(n) (0x100 + 0x20 * (n))
#define TN_VALUE(n) (0x108 + 0x20 * (n))
#define LEVEL 0x2
#define INTERRUPT 0x4
#define PERIODIC 0x8
#define SET_VALUE 0x40
#define NARROW 0x100
#define ROUTE(n) ((n) << 9)

enum { LINE_TIMER = 0, LINE_RTC = 8 }; /* and 16 to 23 of the I/O APIC */

struct hpet_bench {
    struct bench bench;
    struct hpet *hpet;
    unsigned legacy_calls;
    bool legacy;
};

static void legacy(void *opaque, bool on)
{
    struct hpet_bench *b = opaque;
    b->legacy_calls++;
    b->legacy = on;
}

static int setup(void **state)
{
    struct hpet_bench *b = test_calloc(1, sizeof *b);
    bench_init(&b->bench);
    const struct hpet_lines lines = {.timer = bench_line(&b->bench, LINE_TIMER),
                                     .rtc = bench_line(&b->bench, LINE_RTC),
                                     .io_apic = bench_line(&b->bench, 0),
                                     .legacy = legacy,
                                     .opaque = b};
    b->hpet = hpet_create(&b->bench.queue, &lines);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct hpet_bench *b = *state;
    hpet_destroy(b->hpet);
    assert_int_equal(timer_queue_next(&b->bench.queue), TIMER_NEVER);
    test_free(b);
    return 0;
}

static uint64_t get(struct hpet_bench *b, unsigned reg)
{
    return bench_read(&hpet_ops, b->hpet, reg, 8);
}

static void put(struct hpet_bench *b, unsigned reg, uint64_t value)
{
    bench_write(&hpet_ops, b->hpet, reg, 8, value);
}

static void test_counter(void **state)
{
    struct hpet_bench *b = *state;
    assert_int_equal(get(b, CAPABILITIES), 0x009896808086a201);
    assert_int_equal(bench_read(&hpet_ops, b->hpet, CAPABILITIES + 4, 4), 10000000); /* fs */
    bench_advance(&b->bench, 1000);
    assert_int_equal(get(b, COUNTER), 0);
    put(b, COUNTER, 0xfffffff0);
    put(b, CONFIG, 1);
    bench_advance(&b->bench, 319);
    assert_int_equal(get(b, COUNTER), 0xfffffff0ull + 31);
    assert_int_equal(bench_read(&hpet_ops, b->hpet, COUNTER, 4), 0xf);
    assert_int_equal(bench_read(&hpet_ops, b->hpet, COUNTER + 4, 4), 1);
    put(b, COUNTER, 5); /* not while it counts */
    assert_int_equal(get(b, COUNTER), 0xfffffff0ull + 31);
    put(b, CONFIG, 0);
    bench_advance(&b->bench, 1000);
    assert_int_equal(get(b, COUNTER), 0xfffffff0ull + 31);
    bench_write(&hpet_ops, b->hpet, COUNTER + 4, 4, 7);
    bench_write(&hpet_ops, b->hpet, COUNTER, 2, 0); /* too narrow */
    assert_int_equal(get(b, COUNTER), 0x70000000f);
    assert_int_equal(get(b, 0x3f8), 0);
    assert_int_equal(get(b, 0x160), 0); /* there is no fourth */
    put(b, 0x168, 1);
}

static void test_one_shot(void **state)
{
    struct hpet_bench *b = *state;
    struct bench_line *line = &b->bench.line[20];
    put(b, CONFIG, 1);
    put(b, TN_VALUE(2), 100);
    put(b, TN_CONFIG(2), INTERRUPT | ROUTE(20));
    assert_int_equal(get(b, TN_CONFIG(2)), (uint64_t)HPET_ROUTES << 32 | 0x30 | INTERRUPT | ROUTE(20));
    bench_advance(&b->bench, 999);
    assert_int_equal(line->rises, 0);
    bench_advance(&b->bench, 1);
    assert_int_equal(line->rises, 1);
    assert_false(line->level);
    bench_advance(&b->bench, NS_PER_S);
    assert_int_equal(line->rises, 1);
    put(b, TN_CONFIG(2), INTERRUPT | ROUTE(20) | NARROW); /* 32 bits: again when the lower half comes round */
    bench_advance(&b->bench, 43 * NS_PER_S);
    assert_int_equal(line->rises, 2);
    put(b, TN_CONFIG(2), INTERRUPT | ROUTE(3)); /* an input it does not reach */
    put(b, TN_VALUE(2), get(b, COUNTER) + 10);
    bench_advance(&b->bench, 1000);
    assert_int_equal(b->bench.line[3].rises, 0);
    assert_int_equal(get(b, STATUS), 0);
}

static void test_periodic(void **state)
{
    struct hpet_bench *b = *state;
    struct bench_line *line = &b->bench.line[16];
    put(b, TN_CONFIG(0), INTERRUPT | PERIODIC | SET_VALUE | ROUTE(16));
    put(b, TN_VALUE(0), 100000);
    put(b, TN_VALUE(0), 200000); /* the period: SET_VALUE has cleared itself */
    assert_int_equal(get(b, TN_CONFIG(0)) & SET_VALUE, 0);
    put(b, CONFIG, 1);
    bench_advance(&b->bench, 1000000);
    assert_int_equal(line->rises, 1);
    bench_advance(&b->bench, 10 * 2000000);
    assert_int_equal(line->rises, 11);
    assert_int_equal(get(b, TN_VALUE(0)), 100000 + 11 * 200000);
    bench_jump(&b->bench, 5 * 2000000 + 500000); /* the host was late: one for all */
    assert_int_equal(line->rises, 12);
    bench_advance(&b->bench, 1500000);
    assert_int_equal(line->rises, 13);
    put(b, TN_CONFIG(0), PERIODIC | ROUTE(16)); /* no interrupts: it goes on counting */
    assert_int_equal(timer_queue_next(&b->bench.queue), TIMER_NEVER);
    bench_advance(&b->bench, 2000000 * 1000ull);
    uint64_t value = get(b, TN_VALUE(0)), counter = get(b, COUNTER);
    assert_true(value > counter && value - counter <= 200000);
}

/* A period of a tick cannot be kept; it must not keep the host busy either. */
static void test_short_period(void **state)
{
    struct hpet_bench *b = *state;
    put(b, TN_CONFIG(0), INTERRUPT | PERIODIC | SET_VALUE | ROUTE(16));
    put(b, TN_VALUE(0), 1);
    put(b, CONFIG, 1);
    bench_advance(&b->bench, 1000000);
    assert_in_range(b->bench.line[16].rises, 90, 110);
    put(b, TN_VALUE(0), 0); /* no period at all */
    bench_advance(&b->bench, 1000000);
    assert_in_range(b->bench.line[16].rises, 90, 112);
}

static void test_level(void **state)
{
    struct hpet_bench *b = *state;
    struct bench_line *line = &b->bench.line[17];
    put(b, CONFIG, 1);
    put(b, TN_CONFIG(1), LEVEL | INTERRUPT | ROUTE(17));
    put(b, TN_VALUE(1), 10);
    bench_advance(&b->bench, 100);
    assert_true(line->level);
    assert_int_equal(get(b, STATUS), 2);
    put(b, STATUS, 1); /* another's */
    assert_true(line->level);
    put(b, TN_CONFIG(1), LEVEL | INTERRUPT | ROUTE(18)); /* moved meanwhile */
    assert_false(line->level);
    assert_true(b->bench.line[18].level);
    put(b, STATUS, 2);
    assert_false(b->bench.line[18].level);
    put(b, TN_CONFIG(1), LEVEL | ROUTE(18)); /* status without an interrupt */
    put(b, TN_VALUE(1), get(b, COUNTER) + 10);
    bench_advance(&b->bench, 100);
    assert_int_equal(get(b, STATUS), 2);
    assert_false(b->bench.line[18].level);
    put(b, TN_CONFIG(1), LEVEL | INTERRUPT | ROUTE(18));
    assert_true(b->bench.line[18].level);
    put(b, CONFIG, 0);
    assert_false(b->bench.line[18].level);
    put(b, CONFIG, 1);
    assert_true(b->bench.line[18].level);
    hpet_reset(b->hpet);
    assert_false(b->bench.line[18].level);
    assert_int_equal(get(b, STATUS), 0);
}

static void test_legacy(void **state)
{
    struct hpet_bench *b = *state;
    unsigned calls = b->legacy_calls;
    put(b, TN_CONFIG(0), INTERRUPT);
    put(b, TN_CONFIG(1), INTERRUPT | ROUTE(19));
    put(b, TN_VALUE(0), 10);
    put(b, TN_VALUE(1), 10);
    put(b, CONFIG, 3);
    assert_true(b->legacy && b->legacy_calls == calls + 1);
    bench_advance(&b->bench, 100);
    assert_int_equal(b->bench.line[LINE_TIMER].rises, 1);
    assert_int_equal(b->bench.line[LINE_RTC].rises, 1);
    assert_int_equal(b->bench.line[19].rises, 0);
    put(b, CONFIG, 1);
    assert_false(b->legacy);
    put(b, CONFIG, 3);
    hpet_reset(b->hpet);
    assert_false(b->legacy);
    assert_int_equal(get(b, COUNTER), 0);
    assert_int_equal(get(b, TN_VALUE(0)), UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counter, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_shot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_period, setup, teardown),
        cmocka_unit_test_setup_teardown(test_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_legacy, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
