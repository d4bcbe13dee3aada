/* The clock: registers, setting it, and its three interrupts. */
#include <stdio.h>

#include "device_test.h"

#include "device/mc146818.h"

enum { IRQ };

struct fixture {
    struct bench bench;
    struct mc146818 *rtc;
};

static uint8_t get(struct fixture *f, uint8_t index)
{
    bench_write(&mc146818_ops, f->rtc, 0, 1, index);
    return (uint8_t)bench_read(&mc146818_ops, f->rtc, 1, 1);
}

static void set(struct fixture *f, uint8_t index, uint8_t value)
{
    bench_write(&mc146818_ops, f->rtc, 0, 1, index);
    bench_write(&mc146818_ops, f->rtc, 1, 1, value);
}

/* 2024-02-28 23:59:58 UTC, a Wednesday. */
#define START_S 1709164798

static void start(struct fixture *f)
{
    bench_init(&f->bench);
    f->rtc = mc146818_create(&f->bench.queue, bench_line(&f->bench, IRQ), START_S);
}

static void assert_time(struct fixture *f, const char *hex)
{
    static const uint8_t order[] = {0x32, 9, 8, 7, 4, 2, 0, 6};
    char got[2 * sizeof(order) + 1];
    for (unsigned i = 0; i < sizeof(order); i++)
        snprintf(got + 2 * i, 3, "%02x", get(f, order[i]));
    assert_string_equal(got, hex);
}

static void calendar(void **state)
{
    struct fixture f;
    start(&f);
    assert_time(&f, "2024022823595804");
    bench_advance(&f.bench, 2 * NS_PER_S);
    assert_time(&f, "2024022900000005"); /* a leap year */
    bench_advance(&f.bench, 86400 * NS_PER_S);
    assert_time(&f, "2024030100000006");
    set(&f, 11, 0x06); /* binary */
    assert_time(&f, "2018030100000006");
    set(&f, 11, 0x00); /* BCD, 12 hours */
    assert_int_equal(get(&f, 4), 0x12);
    bench_advance(&f.bench, 13 * 3600 * NS_PER_S);
    assert_int_equal(get(&f, 4), 0x81);
    assert_int_equal(mc146818_epoch_s(f.rtc), START_S + 2 + 86400 + 13 * 3600);
    mc146818_destroy(f.rtc);
}

static void setting(void **state)
{
    struct fixture f;
    start(&f);
    bench_advance(&f.bench, 300000000);
    set(&f, 11, 0x82);
    static const uint8_t values[][2] = {{0, 0x58}, {2, 0x59}, {4, 0x23}, {6, 0x06}, {7, 0x31}, {8, 0x12}, {9, 0x99}};
    for (unsigned i = 0; i < ARRAY_LEN(values); i++)
        set(&f, values[i][0], values[i][1]);
    set(&f, 0x32, 0x19);
    bench_advance(&f.bench, 10 * NS_PER_S); /* stands still */
    assert_time(&f, "1999123123595806");
    set(&f, 11, 0x02);
    bench_advance(&f.bench, 600000000);
    assert_time(&f, "1999123123595806");
    bench_advance(&f.bench, 100000000); /* the second's phase was kept */
    assert_time(&f, "1999123123595906");
    bench_advance(&f.bench, NS_PER_S);
    assert_time(&f, "2000010100000007");
    set(&f, 4, 0x12); /* without SET */
    assert_time(&f, "2000010112000007");
    bench_advance(&f.bench, NS_PER_S);
    assert_time(&f, "2000010112000107");

    set(&f, 10, 0x76); /* the divider held: the first second is half a second long */
    bench_advance(&f.bench, 5 * NS_PER_S);
    assert_time(&f, "2000010112000107");
    set(&f, 10, 0x26);
    bench_advance(&f.bench, 499999999);
    assert_time(&f, "2000010112000107");
    bench_advance(&f.bench, 1);
    assert_time(&f, "2000010112000207");
    mc146818_destroy(f.rtc);
}

static void update_in_progress(void **state)
{
    struct fixture f;
    start(&f);
    assert_int_equal(get(&f, 10), 0x26);
    bench_advance(&f.bench, NS_PER_S - 2228000);
    assert_int_equal(get(&f, 10), 0xa6);
    bench_advance(&f.bench, 2227999);
    assert_int_equal(get(&f, 10), 0xa6);
    assert_int_equal(get(&f, 0), 0x58);
    bench_advance(&f.bench, 1);
    assert_int_equal(get(&f, 10), 0x26);
    assert_int_equal(get(&f, 0), 0x59);
    mc146818_destroy(f.rtc);
}

static void periodic_interrupt(void **state)
{
    struct fixture f;
    start(&f);
    struct bench_line *line = &f.bench.line[IRQ];
    set(&f, 11, 0x42);
    bench_advance(&f.bench, NS_PER_S / 2);
    assert_int_equal(line->rises, 1); /* the line stays up until register C is read */
    assert_int_equal(get(&f, 12), 0xc0);
    assert_false(line->level);
    assert_int_equal(get(&f, 12), 0x00);
    unsigned before = line->rises;
    for (unsigned i = 0; i < 1024; i++) {
        bench_advance(&f.bench, NS_PER_S / 1024);
        get(&f, 12);
    }
    assert_in_range(line->rises - before, 1022, 1024);

    get(&f, 12);
    before = line->rises;
    bench_jump(&f.bench, 100 * NS_PER_S / 1024); /* the host slept over 100 of them */
    for (unsigned i = 0; i < 400; i++) {
        get(&f, 12);
        bench_advance(&f.bench, NS_PER_S / 2048);
    }
    assert_in_range(line->rises - before, 290, 305);

    set(&f, 10, 0x20); /* no rate, no flag */
    set(&f, 11, 0x02);
    get(&f, 12);
    bench_advance(&f.bench, NS_PER_S / 2);
    assert_int_equal(get(&f, 12) & 0x40, 0);
    set(&f, 10, 0x2f); /* 2 Hz, flag without interrupt */
    bench_advance(&f.bench, NS_PER_S);
    assert_int_equal(get(&f, 12) & 0xc0, 0x40);
    bench_advance(&f.bench, NS_PER_S);
    assert_false(line->level);
    set(&f, 11, 0x42); /* enabling it then raises the line */
    assert_true(line->level);
    mc146818_reset(f.rtc);
    assert_false(line->level);
    assert_int_equal(get(&f, 11), 0x02);
    mc146818_destroy(f.rtc);
}

static void alarm_and_update_interrupts(void **state)
{
    struct fixture f;
    start(&f);
    struct bench_line *line = &f.bench.line[IRQ];
    set(&f, 11, 0x12);
    bench_advance(&f.bench, NS_PER_S - 1);
    assert_false(line->level);
    bench_advance(&f.bench, 1);
    assert_true(line->level);
    assert_int_equal(get(&f, 12) & 0xb0, 0x90);
    set(&f, 1, 0x05);
    set(&f, 3, 0x00);
    set(&f, 5, 0x00);
    set(&f, 11, 0x22);
    bench_advance(&f.bench, 6 * NS_PER_S - 1);
    assert_false(line->level);
    bench_advance(&f.bench, 1);
    assert_true(line->level);
    assert_int_equal(get(&f, 12) & 0xa0, 0xa0);
    bench_advance(&f.bench, 86399 * NS_PER_S);
    assert_false(line->level);
    bench_advance(&f.bench, NS_PER_S);
    assert_true(line->level);
    get(&f, 12);
    set(&f, 3, 0xff); /* every minute of hour 0 */
    bench_advance(&f.bench, 60 * NS_PER_S);
    assert_true(line->level);
    get(&f, 12);
    set(&f, 1, 0x99); /* never */
    bench_advance(&f.bench, 3 * 86400 * NS_PER_S);
    assert_false(line->level);
    set(&f, 1, 0xc0); /* each second, at any time */
    set(&f, 5, 0xc0);
    bench_advance(&f.bench, NS_PER_S);
    assert_true(line->level);
    set(&f, 11, 0xb2); /* SET clears UIE */
    assert_int_equal(get(&f, 11), 0xa2);
    mc146818_destroy(f.rtc);
}

static void ram(void **state)
{
    struct fixture f;
    start(&f);
    set(&f, 0x8f, 0x5a); /* with the NMI mask */
    assert_int_equal(bench_read(&mc146818_ops, f.rtc, 0, 1), 0x8f);
    assert_int_equal(get(&f, 0x0f), 0x5a);
    assert_int_equal(mc146818_cmos(f.rtc, 0x0f), 0x5a);
    mc146818_set_cmos(f.rtc, 0x34, 0x77);
    assert_int_equal(get(&f, 0x34), 0x77);
    bench_write(&mc146818_ops, f.rtc, 2, 2, 0x1203); /* bank 2: index and data in one access */
    assert_int_equal(bench_read(&mc146818_ops, f.rtc, 3, 1), 0x12);
    assert_int_equal(get(&f, 13), 0x80);
    set(&f, 13, 0);
    assert_int_equal(get(&f, 13), 0x80);
    mc146818_destroy(f.rtc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calendar),
        cmocka_unit_test(setting),
        cmocka_unit_test(update_in_progress),
        cmocka_unit_test(periodic_interrupt),
        cmocka_unit_test(alarm_and_update_interrupts),
        cmocka_unit_test(ram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
