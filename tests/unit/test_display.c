/* Keys from what terminals send, and the pane that the monitor writes to. The sequences are those of ECMA-48 and of xterm's list of
 * control sequences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/display_internal.h"

static void test_keys(void **state)
{
    static const struct {
        const char *bytes;
        unsigned key, held;
    } cases[] = {
        {"a", 0x1e, 0},
        {"Z", 0x2c, KEY_SHIFT},
        {"0", 0x0b, 0},
        {")", 0x0b, KEY_SHIFT},
        {" ", 0x39, 0},
        {"\\", 0x2b, 0},
        {"|", 0x2b, KEY_SHIFT},
        {"`", 0x29, 0},
        {"~", 0x29, KEY_SHIFT},
        {"\"", 0x28, KEY_SHIFT},
        {"?", 0x35, KEY_SHIFT},
        {"\r", 0x1c, 0},
        {"\t", 0x0f, 0},
        {"\x7f", 0x0e, 0},
        {"\x03", 0x2e, KEY_CTRL},
        {"\x1a", 0x2c, KEY_CTRL},
        {"\x1c", 0x2b, KEY_CTRL},
        {"\x1d", 0x1b, KEY_CTRL},
        {"\x1f", 0x0c, KEY_CTRL | KEY_SHIFT},
        {"\x1b", 0x01, 0},
        {"\x1b" "b", 0x30, KEY_ALT},
        {"\x1b" "B", 0x30, KEY_ALT | KEY_SHIFT},
        {"\x1b\x1b", 0x01, KEY_ALT},
        {"\x1b[A", 0xe048, 0},
        {"\x1bOD", 0xe04b, 0},
        {"\x1b[H", 0xe047, 0},
        {"\x1b[4~", 0xe04f, 0},
        {"\x1b[3~", 0xe053, 0},
        {"\x1bOP", 0x3b, 0},
        {"\x1b[[C", 0x3d, 0},
        {"\x1b[15~", 0x3f, 0},
        {"\x1b[17~", 0x40, 0},
        {"\x1b[21~", 0x44, 0},
        {"\x1b[23~", 0x57, 0},
        {"\x1b[24;5~", 0x58, KEY_CTRL},
        {"\x1b[1;2P", 0x3b, KEY_SHIFT},
        {"\x1b[1;3A", 0xe048, KEY_ALT},
        {"\x1b[1;8D", 0xe04b, KEY_SHIFT | KEY_ALT | KEY_CTRL},
        {"\x1b[Z", 0x0f, KEY_SHIFT},
        {"\x1b[", 0x1a, KEY_ALT}, /* alone it is Alt and a bracket */
        {"\x1bO", 0x18, KEY_ALT | KEY_SHIFT},
        {"\x1b[99~", 0, 0},
        {"\x1b[?25h", 0, 0},
        {"\xc3", 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct stroke stroke;
        size_t length = strlen(cases[i].bytes);
        assert_int_equal(keys_parse((const uint8_t *)cases[i].bytes, length, true, &stroke), length);
        assert_int_equal(stroke.key, cases[i].key);
        if (stroke.key != 0)
            assert_int_equal(stroke.held, cases[i].held);
    }
}

/* A beginning is left until more has come, or time has passed; what follows a key stays. */
static void test_pieces(void **state)
{
    struct stroke stroke;
    static const char *const beginnings[] = {"\x1b", "\x1b[", "\x1bO", "\x1b[1", "\x1b[1;", "\x1b[1;5", "\x1b[["};
    for (size_t i = 0; i < ARRAY_LEN(beginnings); i++)
        assert_int_equal(keys_parse((const uint8_t *)beginnings[i], strlen(beginnings[i]), false, &stroke), 0);
    assert_int_equal(keys_parse((const uint8_t *)"\x1b[Axyz", 6, false, &stroke), 3);
    assert_int_equal(stroke.key, 0xe048);
    assert_int_equal(keys_parse((const uint8_t *)"xyz", 3, false, &stroke), 1);
}

/* Any bytes: something is always taken when nothing more comes, never more than there is, and every key is a key. */
static void test_anything(void **state)
{
    uint32_t seed = 5;
    for (unsigned i = 0; i < 200000; i++) {
        static const uint8_t likely[] = "\x1b\x1b[[O;;0159~AZ?";
        uint8_t bytes[40];
        size_t length = 1 + i % sizeof bytes;
        for (size_t n = 0; n < length; n++) {
            seed = seed * 1664525 + 1013904223;
            bytes[n] = seed & 0x1000000 ? likely[(seed >> 16) % (sizeof likely - 1)] : (uint8_t)(seed >> 16);
        }
        struct stroke stroke;
        size_t taken = keys_parse(bytes, length, true, &stroke);
        assert_in_range(taken, 1, length);
        assert_true(stroke.key < 0x80 || stroke.key >> 8 == 0xe0);
        assert_true(keys_parse(bytes, length, false, &stroke) <= length);
    }
}

static void test_pane(void **state)
{
    struct pane *pane = calloc(1, sizeof *pane);
    const char *text = "one\ntwx\bo\na\tb\x07\xc3";
    pane_write(pane, (const uint8_t *)text, strlen(text));
    assert_string_equal(pane_line(pane, 0), "a       b?");
    assert_string_equal(pane_line(pane, 1), "two");
    assert_string_equal(pane_line(pane, 2), "one");
    assert_string_equal(pane_line(pane, 3), "");
    assert_int_equal(pane->column, 10);
    pane_write(pane, (const uint8_t *)"\rA\b\b\b\b", 6);
    assert_string_equal(pane_line(pane, 0), "A       b?");
    assert_int_equal(pane->column, 0);
    for (unsigned i = 0; i < 100000; i++)
        pane_write(pane, (const uint8_t *)"x", 1);
    assert_int_equal(strlen(pane_line(pane, 1)), PANE_COLUMNS);
    for (unsigned i = 0; i < 1000; i++)
        pane_write(pane, (const uint8_t *)"y\n", 2);
    assert_string_equal(pane_line(pane, PANE_LINES - 1), "y");
    assert_string_equal(pane_line(pane, PANE_LINES), "");
    free(pane);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_anything),
        cmocka_unit_test(test_pane),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
