/* The keyboard controller, the keyboard and the mouse. */
#include "device_test.h"

#include "device/i8042.h"

enum { KEYBOARD, MOUSE, A20, RESET };

#define WIRE_NS 200000

struct fixture {
    struct bench bench;
    struct i8042 *kbc;
};

static void data(struct fixture *f, uint8_t value)
{
    bench_write(&i8042_data_ops, f->kbc, 0, 1, value);
}

static void command(struct fixture *f, uint8_t value)
{
    bench_write(&i8042_command_ops, f->kbc, 0, 1, value);
}

static uint8_t status(struct fixture *f)
{
    return (uint8_t)bench_read(&i8042_command_ops, f->kbc, 0, 1);
}

static uint8_t get(struct fixture *f)
{
    return (uint8_t)bench_read(&i8042_data_ops, f->kbc, 0, 1);
}

/* Reads, a wire time apart, whatever comes, and compares. `status_bits` is what OBF and AUX_OBF must be. */
static void expect(struct fixture *f, uint8_t status_bits, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        bench_advance(&f->bench, WIRE_NS);
        assert_int_equal(status(f) & 0x21, status_bits);
        assert_int_equal(get(f), bytes[i]);
    }
    bench_advance(&f->bench, WIRE_NS);
    assert_int_equal(status(f) & 1, 0);
}

#define EXPECT_KEYBOARD(f, ...) expect(f, 0x01, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define EXPECT_MOUSE(f, ...) expect(f, 0x21, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void mouse_command(struct fixture *f, uint8_t value)
{
    command(f, 0xd4);
    data(f, value);
}

static void command_byte(struct fixture *f, uint8_t value)
{
    command(f, 0x60);
    data(f, value);
}

static void start(struct fixture *f)
{
    bench_init(&f->bench);
    const struct i8042_lines lines = {
        .keyboard = bench_line(&f->bench, KEYBOARD),
        .mouse = bench_line(&f->bench, MOUSE),
        .a20 = bench_line(&f->bench, A20),
        .reset = bench_line(&f->bench, RESET),
    };
    f->kbc = i8042_create(&f->bench.queue, &lines);
}

static void controller(void **state)
{
    struct fixture f;
    start(&f);
    assert_int_equal(status(&f), 0x10);
    command(&f, 0xaa);
    assert_int_equal(status(&f), 0x1d);
    assert_int_equal(get(&f), 0x55);
    assert_int_equal(status(&f), 0x1c);
    command(&f, 0xab);
    assert_int_equal(get(&f), 0x00);
    command(&f, 0xa9);
    assert_int_equal(get(&f), 0x00);
    command(&f, 0xa4);
    assert_int_equal(get(&f), 0xf1);
    command_byte(&f, 0x47);
    command(&f, 0x20);
    assert_int_equal(get(&f), 0x47);
    command(&f, 0xad);
    command(&f, 0xa7);
    command(&f, 0x20);
    assert_int_equal(get(&f), 0x77);
    command(&f, 0xae);
    command(&f, 0xa8);
    command(&f, 0x20);
    assert_int_equal(get(&f), 0x47);
    command(&f, 0x71);
    data(&f, 0x99);
    command(&f, 0x31);
    assert_int_equal(get(&f), 0x99);
    command(&f, 0xd2);
    data(&f, 0x3c);
    assert_true(f.bench.line[KEYBOARD].level);
    assert_int_equal(get(&f), 0x3c);
    command(&f, 0xd3);
    data(&f, 0x3d);
    assert_int_equal(status(&f) & 0x21, 0x21);
    assert_true(f.bench.line[MOUSE].level);
    assert_false(f.bench.line[KEYBOARD].level);
    assert_int_equal(get(&f), 0x3d);
    assert_int_equal(get(&f), 0x3d); /* the buffer keeps its byte */
    command(&f, 0xa5);
    data(&f, 'p');
    data(&f, 0);
    data(&f, 0xee);
    EXPECT_KEYBOARD(&f, 0xee);
    i8042_destroy(f.kbc);
}

static void output_port(void **state)
{
    struct fixture f;
    start(&f);
    assert_true(f.bench.line[A20].level);
    command(&f, 0xd1);
    data(&f, 0xdd);
    assert_false(f.bench.line[A20].level);
    command(&f, 0xd0);
    assert_int_equal(get(&f), 0xcd);
    command(&f, 0xdf);
    assert_true(f.bench.line[A20].level);
    command(&f, 0xdd);
    assert_false(f.bench.line[A20].level);
    command(&f, 0xff); /* pulses nothing */
    assert_int_equal(f.bench.line[RESET].rises, 0);
    command(&f, 0xfe);
    assert_int_equal(f.bench.line[RESET].rises, 1);
    assert_false(f.bench.line[RESET].level);
    command(&f, 0xd1);
    data(&f, 0xde);
    assert_int_equal(f.bench.line[RESET].rises, 2);
    i8042_reset(f.kbc);
    assert_true(f.bench.line[A20].level);
    i8042_destroy(f.kbc);
}

static void press(struct fixture *f, unsigned key)
{
    i8042_key(f->kbc, key, true);
    i8042_key(f->kbc, key, false);
}

static void scan_codes(void **state)
{
    struct fixture f;
    start(&f);
    press(&f, 0x1e);
    assert_false(f.bench.line[KEYBOARD].level);
    bench_advance(&f.bench, WIRE_NS);
    assert_true(f.bench.line[KEYBOARD].level);
    assert_int_equal(get(&f), 0x1e);
    assert_int_equal(get(&f), 0x1e); /* a handler may read twice */
    EXPECT_KEYBOARD(&f, 0x9e);
    press(&f, 0xe048);
    EXPECT_KEYBOARD(&f, 0xe0, 0x48, 0xe0, 0xc8);
    press(&f, 0x41); /* F7, above 7fh in set 2 */
    EXPECT_KEYBOARD(&f, 0x41, 0xc1);
    press(&f, PS2_KEY_PAUSE);
    EXPECT_KEYBOARD(&f, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
    press(&f, PS2_KEY_PRINT_SCREEN);
    EXPECT_KEYBOARD(&f, 0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa);
    press(&f, 0xe000); /* no such keys */
    press(&f, 0x1234);
    EXPECT_KEYBOARD(&f, );

    command_byte(&f, 0x01); /* no translation: set 2 */
    press(&f, 0x1e);
    EXPECT_KEYBOARD(&f, 0x1c, 0xf0, 0x1c);
    data(&f, 0xf0);
    EXPECT_KEYBOARD(&f, 0xfa);
    data(&f, 0x01);
    EXPECT_KEYBOARD(&f, 0xfa);
    press(&f, 0xe01d);
    EXPECT_KEYBOARD(&f, 0xe0, 0x1d, 0xe0, 0x9d);
    data(&f, 0xf0);
    data(&f, 0x03);
    EXPECT_KEYBOARD(&f, 0xfa);
    data(&f, 0xf0);
    data(&f, 0x00);
    EXPECT_KEYBOARD(&f, 0xfa, 0x03);
    press(&f, 0x1e); /* typematic: no break */
    press(&f, 0x2a); /* make/break */
    EXPECT_KEYBOARD(&f, 0x1c, 0x12, 0xf0, 0x12);
    data(&f, 0xfc);
    data(&f, 0x1c);
    EXPECT_KEYBOARD(&f, 0xfa);
    press(&f, 0x1e);
    EXPECT_KEYBOARD(&f, 0x1c, 0xf0, 0x1c);
    i8042_destroy(f.kbc);
}

static void keyboard_commands(void **state)
{
    struct fixture f;
    start(&f);
    command_byte(&f, 0x01);
    data(&f, 0xff);
    EXPECT_KEYBOARD(&f, 0xfa, 0xaa);
    data(&f, 0xf2);
    EXPECT_KEYBOARD(&f, 0xfa, 0xab, 0x83);
    data(&f, 0xfe);
    EXPECT_KEYBOARD(&f, 0x83);
    data(&f, 0xed);
    EXPECT_KEYBOARD(&f, 0xfa);
    data(&f, 0x05);
    EXPECT_KEYBOARD(&f, 0xfa);
    assert_int_equal(i8042_leds(f.kbc), 5);
    data(&f, 0xed);
    data(&f, 0xee); /* a command instead of the parameter */
    EXPECT_KEYBOARD(&f, 0xee);
    data(&f, 0xe0);
    EXPECT_KEYBOARD(&f, 0xfe);
    data(&f, 0xf5);
    EXPECT_KEYBOARD(&f, 0xfa);
    press(&f, 0x1e);
    EXPECT_KEYBOARD(&f, );
    data(&f, 0xf4);
    EXPECT_KEYBOARD(&f, 0xfa);
    command(&f, 0xad); /* inhibited: the keyboard waits */
    press(&f, 0x1e);
    EXPECT_KEYBOARD(&f, );
    command(&f, 0xae);
    EXPECT_KEYBOARD(&f, 0x1c, 0xf0, 0x1c);
    i8042_destroy(f.kbc);
}

static void typematic_and_overrun(void **state)
{
    struct fixture f;
    start(&f);
    data(&f, 0xf3);
    data(&f, 0x00); /* 250 ms, then 30 a second */
    EXPECT_KEYBOARD(&f, 0xfa);
    i8042_key(f.kbc, 0x10, true);
    i8042_key(f.kbc, 0x10, true);
    EXPECT_KEYBOARD(&f, 0x10);
    unsigned repeats = 0;
    for (unsigned i = 0; i < 1250; i++) {
        bench_advance(&f.bench, 1000000);
        if (status(&f) & 1) {
            assert_int_equal(get(&f), 0x10);
            repeats++;
        }
    }
    assert_in_range(repeats, 29, 31);
    i8042_key(f.kbc, 0x10, false);
    EXPECT_KEYBOARD(&f, 0x90);
    bench_advance(&f.bench, NS_PER_S);
    EXPECT_KEYBOARD(&f, );

    for (unsigned i = 0; i < 20; i++)
        press(&f, 0x11); /* three bytes each, of set 2 */
    for (unsigned i = 0; i < 5; i++) {
        bench_advance(&f.bench, WIRE_NS);
        assert_int_equal(get(&f), 0x11);
        bench_advance(&f.bench, WIRE_NS);
        assert_int_equal(get(&f), 0x91);
    }
    EXPECT_KEYBOARD(&f, 0xff); /* overrun */
    press(&f, 0x11);
    EXPECT_KEYBOARD(&f, 0x11, 0x91);
    i8042_destroy(f.kbc);
}

static void sample_rates(struct fixture *f, uint8_t a, uint8_t b, uint8_t c)
{
    const uint8_t rates[3] = {a, b, c};
    for (unsigned i = 0; i < 3; i++) {
        mouse_command(f, 0xf3);
        EXPECT_MOUSE(f, 0xfa);
        mouse_command(f, rates[i]);
        EXPECT_MOUSE(f, 0xfa);
    }
}

static void mouse(void **state)
{
    struct fixture f;
    start(&f);
    command_byte(&f, 0x47);
    mouse_command(&f, 0xff);
    EXPECT_MOUSE(&f, 0xfa, 0xaa, 0x00);
    mouse_command(&f, 0xf2);
    EXPECT_MOUSE(&f, 0xfa, 0x00);
    i8042_mouse(f.kbc, 5, 5, 0, 0); /* not enabled */
    EXPECT_MOUSE(&f, );
    mouse_command(&f, 0xf4);
    EXPECT_MOUSE(&f, 0xfa);
    unsigned before = f.bench.line[MOUSE].rises;
    i8042_mouse(f.kbc, 5, -6, 1, PS2_BUTTON_LEFT);
    EXPECT_MOUSE(&f, 0x29, 0x05, 0xfa);
    assert_int_equal(f.bench.line[MOUSE].rises, before + 3);
    i8042_mouse(f.kbc, 300, 0, 0, 0); /* more than a packet can say; and the sample period must pass */
    EXPECT_MOUSE(&f, );
    bench_advance(&f.bench, NS_PER_S / 100);
    EXPECT_MOUSE(&f, 0x08, 0xff, 0x00);
    bench_advance(&f.bench, NS_PER_S / 100);
    EXPECT_MOUSE(&f, 0x08, 0x2d, 0x00);

    sample_rates(&f, 200, 100, 80);
    mouse_command(&f, 0xf2);
    EXPECT_MOUSE(&f, 0xfa, 0x03);
    bench_advance(&f.bench, NS_PER_S);
    i8042_mouse(f.kbc, 0, 0, -2, 0);
    EXPECT_MOUSE(&f, 0x08, 0x00, 0x00, 0xfe);
    sample_rates(&f, 200, 200, 80);
    bench_advance(&f.bench, NS_PER_S);
    i8042_mouse(f.kbc, 0, 0, -2, PS2_BUTTON_SIDE);
    EXPECT_MOUSE(&f, 0x08, 0x00, 0x00, 0x1e);
    mouse_command(&f, 0xe9);
    EXPECT_MOUSE(&f, 0xfa, 0x20, 0x02, 80);
    mouse_command(&f, 0xe8);
    mouse_command(&f, 0x03);
    mouse_command(&f, 0xe7);
    mouse_command(&f, 0xf0); /* remote */
    EXPECT_MOUSE(&f, 0xfa);
    i8042_mouse(f.kbc, 3, 3, 0, 0);
    EXPECT_MOUSE(&f, );
    mouse_command(&f, 0xeb);
    EXPECT_MOUSE(&f, 0xfa, 0x08, 0x03, 0x03, 0x00);
    mouse_command(&f, 0xea);
    EXPECT_MOUSE(&f, 0xfa);
    bench_advance(&f.bench, NS_PER_S);
    i8042_mouse(f.kbc, 4, -7, 0, 0); /* 2:1 */
    EXPECT_MOUSE(&f, 0x28, 0x06, 0xf2, 0x00);
    mouse_command(&f, 0xee); /* wrap */
    EXPECT_MOUSE(&f, 0xfa);
    mouse_command(&f, 0xf2);
    EXPECT_MOUSE(&f, 0xf2);
    mouse_command(&f, 0xec);
    EXPECT_MOUSE(&f, 0xfa);
    mouse_command(&f, 0x12);
    EXPECT_MOUSE(&f, 0xfe);
    for (unsigned i = 0; i < 10000; i++)
        i8042_mouse(f.kbc, INT32_MAX, INT32_MIN, INT32_MAX, ~0u);
    i8042_destroy(f.kbc);
}

/* Who types waits until the guest has read: a code in the output buffer has left the keyboard, those behind it have not. */
static void behind(void **state)
{
    struct fixture f;
    start(&f);
    assert_false(i8042_key_is_behind(f.kbc));
    i8042_key(f.kbc, 0x1e, true);
    i8042_key(f.kbc, 0x1e, false);
    assert_true(i8042_key_is_behind(f.kbc));
    bench_advance(&f.bench, 10000000);
    assert_true(i8042_key_is_behind(f.kbc));
    assert_int_equal(get(&f), 0x1e);
    bench_advance(&f.bench, 10000000);
    assert_false(i8042_key_is_behind(f.kbc));
    assert_int_equal(get(&f), 0x9e);
    i8042_destroy(f.kbc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behind), cmocka_unit_test(controller),        cmocka_unit_test(output_port),           cmocka_unit_test(scan_codes),
        cmocka_unit_test(keyboard_commands), cmocka_unit_test(typematic_and_overrun), cmocka_unit_test(mouse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
