/* The DMA controllers: registers, and what a channel moves. */
#include "device_test.h"

#include "device/i8237.h"

struct dma_bench {
    struct memory *memory;
    struct i8237 *dma;
};

static int setup(void **state)
{
    struct dma_bench *b = test_calloc(1, sizeof *b);
    b->memory = memory_create(1 * MiB, NULL, NULL);
    b->dma = i8237_create(b->memory);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct dma_bench *b = *state;
    i8237_destroy(b->dma);
    memory_destroy(b->memory);
    test_free(b);
    return 0;
}

static void low(struct dma_bench *b, unsigned port, uint8_t value)
{
    bench_write(&i8237_low_ops, b->dma, port, 1, value);
}

static void high(struct dma_bench *b, unsigned port, uint8_t value)
{
    bench_write(&i8237_high_ops, b->dma, port, 1, value);
}

static void cascade(struct dma_bench *b)
{
    high(b, 0x16, 0xc0);
    high(b, 0x14, 0);
}

/* Channel 2, unmasked. */
static void program(struct dma_bench *b, uint8_t mode, uint8_t page, uint16_t address, uint16_t count)
{
    low(b, 0xa, 4 | 2);
    low(b, 0xc, 0);
    low(b, 0xb, mode | 2);
    low(b, 4, (uint8_t)address);
    low(b, 4, (uint8_t)(address >> 8));
    low(b, 5, (uint8_t)count);
    low(b, 5, (uint8_t)(count >> 8));
    bench_write(&i8237_page_ops, b->dma, 1, 1, page);
    low(b, 0xa, 2);
}

static void test_registers(void **state)
{
    struct dma_bench *b = *state;
    program(b, 0x44, 3, 0x1234, 0x5678);
    low(b, 0xc, 0);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 4, 1), 0x34);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 4, 1), 0x12);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 5, 1), 0x78);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 5, 1), 0x56);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 0xf, 1), 0xfb); /* all masked but channel 2 */
    low(b, 0xe, 0);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 0xf, 1), 0xf0);
    low(b, 0xf, 5);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 0xf, 1), 0xf5);
    low(b, 9, 4 | 1);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 8, 1), 0x20);
    low(b, 0xd, 0);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 0xf, 1), 0xff);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 8, 1), 0);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 4, 2), 0x5634); /* two registers, one byte pointer */
    for (unsigned i = 0; i < 16; i++)
        bench_write(&i8237_page_ops, b->dma, i, 1, 0x40 + i);
    assert_int_equal(bench_read(&i8237_page_ops, b->dma, 0, 4), 0x43424140);
    high(b, 0x18, 0);
    high(b, 0x0, 0x11);
    high(b, 0x1, 0x22); /* an odd port is the one before it */
    high(b, 0x18, 0);
    assert_int_equal(bench_read(&i8237_high_ops, b->dma, 0, 1), 0x11);
    assert_int_equal(bench_read(&i8237_high_ops, b->dma, 1, 1), 0x22);
}

static void test_transfers(void **state)
{
    struct dma_bench *b = *state;
    uint8_t bytes[16] = "0123456789abcdef", back[16];
    bool terminal;
    program(b, 0x44, 1, 0xfffc, 7);
    assert_int_equal(i8237_transfer(b->dma, 2, bytes, 4, true, &terminal), 0); /* the cascade is masked */
    cascade(b);
    assert_int_equal(i8237_transfer(b->dma, 2, bytes, 5, true, &terminal), 5);
    assert_false(terminal);
    assert_int_equal(i8237_transfer(b->dma, 2, bytes + 5, 11, true, &terminal), 3);
    assert_true(terminal);
    memory_read(b->memory, 0x1fffc, back, 4);
    assert_memory_equal(back, "0123", 4);
    memory_read(b->memory, 0x10000, back, 4); /* round within the page */
    assert_memory_equal(back, "4567", 4);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 8, 1), 4);
    assert_int_equal(bench_read(&i8237_low_ops, b->dma, 8, 1), 0); /* read once */
    assert_int_equal(i8237_transfer(b->dma, 2, bytes, 1, true, &terminal), 0); /* masked at the end */

    program(b, 0x48, 1, 0xfffc, 3);
    memset(back, 0, sizeof back);
    assert_int_equal(i8237_transfer(b->dma, 2, back, 16, false, &terminal), 4);
    assert_memory_equal(back, "0123\0", 5);
    program(b, 0x68, 1, 0xffff, 3); /* downwards */
    i8237_transfer(b->dma, 2, back, 4, false, &terminal);
    assert_memory_equal(back, "3210", 4);
    program(b, 0x58, 1, 0xfffc, 1); /* again and again */
    assert_int_equal(i8237_transfer(b->dma, 2, back, 4, false, &terminal), 2);
    assert_true(terminal);
    assert_int_equal(i8237_transfer(b->dma, 2, back + 2, 4, false, &terminal), 2);
    assert_memory_equal(back, "0101", 4);
}

static void test_not_moved(void **state)
{
    struct dma_bench *b = *state;
    uint8_t bytes[4] = "wxyz", back[4];
    bool terminal;
    cascade(b);
    program(b, 0x40, 0, 0x1000, 3); /* verify */
    assert_int_equal(i8237_transfer(b->dma, 2, bytes, 4, true, &terminal), 4);
    assert_true(terminal);
    memory_read(b->memory, 0x1000, back, 4);
    assert_memory_equal(back, "\0\0\0", 4);
    program(b, 0x44, 0, 0x1000, 3); /* the other way round */
    assert_int_equal(i8237_transfer(b->dma, 2, back, 4, false, &terminal), 4);
    assert_memory_equal(back, "\xff\xff\xff\xff", 4);
    program(b, 0xc4, 0, 0x1000, 3); /* a cascade */
    assert_int_equal(i8237_transfer(b->dma, 2, bytes, 4, true, &terminal), 0);
    program(b, 0x44, 0, 0x1000, 3);
    low(b, 8, 4); /* disabled */
    assert_int_equal(i8237_transfer(b->dma, 2, bytes, 4, true, &terminal), 0);
    low(b, 8, 0);
    program(b, 0x48, 0x80, 0, 3); /* no memory there */
    assert_int_equal(i8237_transfer(b->dma, 2, back, 4, false, &terminal), 4);
    assert_memory_equal(back, "\xff\xff\xff\xff", 4);
    program(b, 0x44, 0x80, 0, 3);
    assert_int_equal(i8237_transfer(b->dma, 2, bytes, 4, true, &terminal), 4);
}

static void test_words(void **state)
{
    struct dma_bench *b = *state;
    uint8_t back[8];
    bool terminal;
    memory_write(b->memory, 0x3fffc, "wordswrd", 8);
    memory_write(b->memory, 0x20000, "next", 4);
    high(b, 0x18, 0);
    high(b, 0x16, 0x48 | 1);
    high(b, 0x4, 0xfe);
    high(b, 0x4, 0xff);
    high(b, 0x6, 3);
    high(b, 0x6, 0);
    bench_write(&i8237_page_ops, b->dma, 0xb, 1, 3); /* its lowest bit is not used */
    high(b, 0x14, 1);
    assert_int_equal(i8237_transfer(b->dma, 5, back, 7, false, &terminal), 6);
    assert_false(terminal);
    assert_memory_equal(back, "wordne", 6);
    assert_int_equal(i8237_transfer(b->dma, 5, back, 8, false, &terminal), 2);
    assert_true(terminal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transfers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_moved, setup, teardown),
        cmocka_unit_test_setup_teardown(test_words, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
