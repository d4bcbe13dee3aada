/* The small chips of one port each: system control port A, debug exit, pvpanic, debug console. */
#include "device_test.h"

#include "device/debugcon.h"
#include "device/debugexit.h"
#include "device/port92.h"
#include "device/pvpanic.h"

struct heard {
    int status;
    unsigned events, resets, bytes, lines;
    char line[300];
};

static void heard_reset(void *opaque)
{
    ((struct heard *)opaque)->resets++;
}

static void heard_exit(void *opaque, int status)
{
    ((struct heard *)opaque)->status = status;
}

static void heard_event(void *opaque, unsigned events)
{
    ((struct heard *)opaque)->events = events;
}

static void heard_byte(void *opaque, uint8_t byte)
{
    ((struct heard *)opaque)->bytes++;
}

static void heard_line(void *opaque, const char *line)
{
    struct heard *heard = opaque;
    heard->lines++;
    strncpy(heard->line, line, sizeof heard->line - 1);
}

static void test_port92(void **state)
{
    struct bench bench;
    struct heard heard = {0};
    bench_init(&bench);
    struct port92 *port92 = port92_create(bench_line(&bench, 0), heard_reset, &heard);
    assert_true(bench.line[0].level);
    assert_int_equal(bench_read(&port92_ops, port92, 0, 1), 2);
    bench_write(&port92_ops, port92, 0, 1, 0xf4);
    assert_false(bench.line[0].level);
    assert_int_equal(bench_read(&port92_ops, port92, 0, 1), 0xc0);
    bench_write(&port92_ops, port92, 0, 1, 3);
    bench_write(&port92_ops, port92, 0, 1, 3); /* no edge */
    assert_int_equal(heard.resets, 1);
    port92_reset(port92);
    bench_write(&port92_ops, port92, 0, 1, 1);
    assert_int_equal(heard.resets, 2);
    port92_destroy(port92);
}

static void test_debugexit(void **state)
{
    struct heard heard = {0};
    struct debugexit *debugexit = debugexit_create(heard_exit, &heard);
    bench_write(&debugexit_ops, debugexit, 0, 4, 0x10);
    assert_int_equal(heard.status, 0x21);
    bench_write(&debugexit_ops, debugexit, 0, 1, 0);
    assert_int_equal(heard.status, 1);
    bench_write(&debugexit_ops, debugexit, 0, 4, 0xffffffff);
    assert_int_equal(heard.status, 0x7fffffff);
    assert_int_equal(bench_read(&debugexit_ops, debugexit, 0, 4), 0);
    debugexit_destroy(debugexit);
}

static void test_pvpanic(void **state)
{
    struct heard heard = {0};
    struct pvpanic *pvpanic = pvpanic_create(heard_event, &heard);
    assert_int_equal(bench_read(&pvpanic_ops, pvpanic, 0, 1), 3);
    bench_write(&pvpanic_ops, pvpanic, 0, 1, 0xf0);
    assert_int_equal(heard.events, 0);
    bench_write(&pvpanic_ops, pvpanic, 0, 1, 0xf2);
    assert_int_equal(heard.events, PVPANIC_CRASH_LOADED);
    pvpanic_destroy(pvpanic);
}

static void test_debugcon(void **state)
{
    struct heard heard = {0};
    struct debugcon *debugcon =
        debugcon_create(&(struct debugcon_sink){.byte = heard_byte, .line = heard_line, .opaque = &heard});
    assert_int_equal(bench_read(&debugcon_ops, debugcon, 0, 1), 0xe9);
    for (const char *c = "hi \x1b[m\r\n"; *c != '\0'; c++)
        bench_write(&debugcon_ops, debugcon, 0, 1, (uint8_t)*c);
    assert_int_equal(heard.bytes, 8);
    assert_string_equal(heard.line, "hi ?[m");
    for (unsigned i = 0; i < 300; i++)
        bench_write(&debugcon_ops, debugcon, 0, 1, 'a');
    assert_int_equal(heard.lines, 2);
    assert_int_equal(strlen(heard.line), 255);
    bench_write(&debugcon_ops, debugcon, 0, 2, 'c' << 8 | 'b');
    debugcon_destroy(debugcon);
    assert_int_equal(heard.lines, 3);
    assert_string_equal(heard.line + 44, "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_port92),
        cmocka_unit_test(test_debugexit),
        cmocka_unit_test(test_pvpanic),
        cmocka_unit_test(test_debugcon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
