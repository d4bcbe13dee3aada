/* The door's counting and carrying out, and both printed forms of the counters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/symbols.h"
#include "engine/door.h"
#include "engine/hot.h"
#include "engine/stats.h"
#include "memory/memory.h"

#define TEST_MMIO 0xfe000000ull

struct chip {
    uint64_t last_offset, last_value;
    unsigned reads, writes;
};

static uint64_t chip_read(void *dev, uint64_t offset, unsigned size)
{
    struct chip *chip = dev;
    chip->reads++;
    chip->last_offset = offset;
    return 0x5a + offset;
}

static void chip_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct chip *chip = dev;
    chip->writes++;
    chip->last_offset = offset;
    chip->last_value = value;
}

static const struct io_ops chip_ops = {.read = chip_read, .write = chip_write, .name = "a \"chip\""};

struct bench {
    struct chip chip;
    struct memory *memory;
    struct vcpu *v;
    struct door door;
};

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    b->memory = memory_create(1 * MiB, NULL, NULL);
    memory_map_ports(b->memory, 0x3f8, 8, &chip_ops, &b->chip, NULL);
    memory_map_mmio(b->memory, TEST_MMIO, 4096, &chip_ops, &b->chip, NULL);
    b->v = calloc(1, sizeof *b->v);
    b->door.memory = b->memory;
    b->v->exit_opaque = &b->door;
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;
    memory_destroy(b->memory);
    free(b->v);
    free(b);
    return 0;
}

static uint64_t leave(struct bench *b, enum exit_reason reason, enum exit_mode mode, uint64_t address, uint64_t value)
{
    struct exit exit = {.reason = reason, .mode = mode, .address = address, .value = value, .size = 1};
    door_exit(b->v, &exit);
    return exit.value;
}

static void fill(struct bench *b)
{
    for (unsigned i = 0; i < 3; i++)
        leave(b, EXIT_IO_OUT, EXIT_MODE_KERNEL, 0x3f8, 'x');
    leave(b, EXIT_IO_OUT, EXIT_MODE_USER, 0x80, 1);
    leave(b, EXIT_HLT, EXIT_MODE_KERNEL, 0, 0);
    struct exit fault = {.reason = EXIT_EXCEPTION, .mode = EXIT_MODE_USER, .vector = VECTOR_PF};
    door_exit(b->v, &fault);
    struct exit timer = {.reason = EXIT_INTERRUPT, .mode = EXIT_MODE_USER, .vector = 0x30};
    door_exit(b->v, &timer);
}

static void test_door(void **state)
{
    struct bench *b = *state;
    assert_int_equal(leave(b, EXIT_IO_IN, EXIT_MODE_REAL, 0x3fa, 0), 0x5c);
    leave(b, EXIT_IO_OUT, EXIT_MODE_KERNEL, 0x3f9, 0x77);
    assert_int_equal(b->chip.last_offset, 1);
    assert_int_equal(b->chip.last_value, 0x77);
    assert_int_equal(leave(b, EXIT_MMIO_READ, EXIT_MODE_KERNEL, TEST_MMIO + 0x10, 0), 0x6a);
    leave(b, EXIT_MMIO_WRITE, EXIT_MODE_KERNEL, TEST_MMIO + 4, 9);
    assert_int_equal(b->chip.last_value, 9);
    assert_int_equal(leave(b, EXIT_IO_IN, EXIT_MODE_KERNEL, 0x5000, 0), 0xff); /* nobody */
    assert_int_equal(leave(b, EXIT_CPUID, EXIT_MODE_USER, 0, 42), 42);         /* not the door's to carry out */
    assert_int_equal(b->chip.reads, 2);
    assert_int_equal(b->chip.writes, 2);
    assert_int_equal(b->door.stats.exits[EXIT_IO_IN][EXIT_MODE_REAL], 1);
    assert_int_equal(b->door.stats.ports[0x3f8 / 8], 2);
    assert_int_equal(b->door.stats.exits[EXIT_CPUID][EXIT_MODE_USER], 1);
}

static void test_merge(void **state)
{
    struct bench *b = *state;
    struct stats *sum = calloc(1, sizeof *sum);
    fill(b);
    b->door.stats.instructions = 10;
    b->door.stats.wall_ns = 100;
    b->door.stats.halted_ns = 5;
    b->door.stats.host_stubs = 3;
    stats_merge(sum, &b->door.stats);
    stats_merge(sum, &b->door.stats);
    assert_int_equal(sum->exits[EXIT_IO_OUT][EXIT_MODE_KERNEL], 6);
    assert_int_equal(sum->exceptions[VECTOR_PF], 2);
    assert_int_equal(sum->interrupts[0x30], 2);
    assert_int_equal(sum->ports[0x80 / 8], 2);
    assert_int_equal(sum->instructions, 20);
    assert_int_equal(sum->wall_ns, 100);
    assert_int_equal(sum->halted_ns, 10);
    assert_int_equal(sum->host_stubs, 6);
    free(sum);
}

static char *print(struct bench *b, bool json)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (json)
        assert_true(stats_print_json(&b->door.stats, b->memory, out, NULL));
    else
        stats_print(&b->door.stats, b->memory, out);
    fclose(out);
    return text;
}

static void test_table(void **state)
{
    struct bench *b = *state;
    fill(b);
    b->door.stats.instructions = 30000000;
    b->door.stats.wall_ns = 2000000000;
    b->door.stats.halted_ns = 500000000;
    char *text = print(b, false);
    char *first = strstr(text, "io-out"), *second = strstr(text, "hlt");
    assert_true(first != NULL && second != NULL && first < second); /* the most frequent first */
    assert_non_null(strstr(first, " 57.14%"));
    assert_non_null(strstr(text, "#PF"));
    assert_non_null(strstr(text, "0x30 "));
    assert_non_null(strstr(text, "0x3f8-0x3ff                   3  a \"chip\"\n"));
    assert_non_null(strstr(text, "0x80-0x87                     1  (nobody)\n"));
    assert_non_null(strstr(text, "30000000 instructions in 2.000 s (halted 0.500 s; guest time 0.000 s): 20.0 MIPS\n"));
    free(text);
    memset(&b->door.stats, 0, sizeof b->door.stats);
    text = print(b, false); /* nothing happened: no division by it */
    assert_non_null(strstr(text, "0.0 MIPS"));
    assert_null(strstr(text, "translation"));
    assert_null(strstr(text, "shadow"));
    assert_null(strstr(text, "nan"));
    free(text);
}

/* With somebody who wants times, places and names. */
static void test_watched(void **state)
{
    static const char map[] = "1000 T guest_main\n2000 T guest_idle\n";
    struct bench *b = *state;
    struct symbols *symbols = symbols_parse((const uint8_t *)map, sizeof map - 1, NULL);
    b->door.stats = (struct stats){.timed = true, .sensitive_counted = true, .hot = hot_create(), .symbols = symbols};
    door_open(&b->door, b->v);
    assert_non_null(b->v->watch);
    for (unsigned i = 0; i < 5; i++) {
        struct exit exit = {.reason = EXIT_IO_OUT, .mode = EXIT_MODE_KERNEL, .address = 0x3f8, .rip = 0x1010, .size = 1};
        door_exit(b->v, &exit);
    }
    struct insn in = {.row = ROW_CLI};
    b->v->watch->begin(b->v->watch->opaque, b->v, &in);
    b->v->cpl = 3;
    b->v->watch->mode(b->v->watch->opaque, b->v, 0);
    hot_add(b->door.stats.hot, &(struct hot_place){.rip = 0x2004, .count = 9, .what = HOT_SAMPLE, .mode = EXIT_MODE_USER});
    b->door.stats.hot->samples[EXIT_MODE_USER] = 9;
    b->door.stats.wall_ns = NS_PER_S;
    assert_true(b->door.stats.exit_ns[EXIT_IO_OUT][EXIT_MODE_KERNEL] > 0);

    char *text = print(b, false);
    assert_non_null(strstr(text, "ns each"));
    assert_non_null(strstr(text, "guest, user              100.00%  of 9 samples"));
    assert_non_null(strstr(text, "0 changes to kernel mode, 1 to user mode"));
    assert_non_null(strstr(text, "guest_main+0x10\n"));
    assert_non_null(strstr(text, "guest_idle+0x4\n"));
    assert_non_null(strstr(text, "CLI                           1  traps\n"));
    free(text);
    text = print(b, true);
    json_t *root = json_loads(text, 0, NULL), *place = json_array_get(json_object_get(root, "top_exits"), 0);
    assert_string_equal(json_string_value(json_object_get(place, "symbol")), "guest_main+0x10");
    assert_int_equal(json_integer_value(json_object_get(place, "count")), 5);
    assert_true(json_integer_value(json_object_get(json_object_get(json_object_get(root, "exits"), "io-out"), "ns")) > 0);
    place = json_array_get(json_object_get(root, "top_samples"), 0);
    assert_string_equal(json_string_value(json_object_get(place, "rip")), "0x2004");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "sensitive"), "CLI")), 1);
    json_decref(root);
    free(text);
    hot_destroy(b->door.stats.hot);
    symbols_destroy(symbols);
}

static json_int_t at(json_t *root, const char *a, const char *b, const char *c)
{
    json_t *value = json_object_get(root, a);
    if (b != NULL)
        value = json_object_get(value, b);
    if (c != NULL)
        value = json_object_get(value, c);
    assert_non_null(value);
    return json_integer_value(value);
}

static void test_json(void **state)
{
    struct bench *b = *state;
    fill(b);
    b->door.stats.instructions = 5;
    b->door.stats.page_walks = 7;
    char *text = print(b, true);
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    assert_int_equal(at(root, "instructions", NULL, NULL), 5);
    assert_int_equal(at(root, "page_walks", NULL, NULL), 7);
    assert_int_equal(at(root, "exits", "io-out", "total"), 4);
    assert_int_equal(at(root, "exits", "io-out", exit_mode_name(EXIT_MODE_KERNEL)), 3);
    assert_int_equal(at(root, "exceptions", "#PF", NULL), 1);
    assert_int_equal(at(root, "interrupts", "48", NULL), 1);
    json_t *port = json_array_get(json_object_get(root, "ports"), 0);
    assert_int_equal(json_integer_value(json_object_get(port, "port")), 0x3f8);
    assert_string_equal(json_string_value(json_object_get(port, "device")), "a \"chip\"");
    json_decref(root);
    free(text);
}

/* An engine that translates and does not count. */
static void fill_translate(struct stats *s)
{
    s->instructions = 1234;
    s->instructions_partial = true;
    s->wall_ns = 2000000000;
    s->monitor_bytes = 5 * MiB / 2;
    s->translate = (struct stats_translate){.present = true,
                                            .blocks = 3,
                                            .instructions = 40,
                                            .guest_bytes = 100,
                                            .host_bytes = 450,
                                            .translate_ns = 20000000,
                                            .helper_calls = 8,
                                            .faults = {.miss = 17}};
    s->calls[ROW_CPUID] = 2;
    s->calls[ROW_RDTSC] = 6;
    s->shadow = (struct stats_shadow){.policy = "tagged", .fills = 21};
}

static void test_translate_table(void **state)
{
    struct bench *b = *state;
    fill_translate(&b->door.stats);
    char *text = print(b, false);
    assert_non_null(strstr(text, "3 blocks, 40 guest instructions: 100 bytes became 450 (4.5 for 1)\n"));
    assert_non_null(strstr(text, "500000 ns for each, 0.020 s in all: 1.0% of the time\n"));
    assert_non_null(strstr(text, "faults: miss 17 write 0 "));
    char *first = strstr(text, "RDTSC"), *second = strstr(text, "CPUID");
    assert_true(first != NULL && second != NULL && first < second);
    assert_non_null(strstr(first, " 75.00%\n"));
    assert_non_null(strstr(text, "shadow page tables, tagged\n  21 fills"));
    assert_non_null(strstr(text, "memory of the monitor itself: 2.5 MiB\n"));
    assert_non_null(strstr(text, "\n2.000 s (halted 0.000 s; guest time 0.000 s); this engine counts"));
    assert_null(strstr(text, "MIPS"));
    assert_null(strstr(text, "1234"));
    free(text);
}

static void test_translate_json(void **state)
{
    struct bench *b = *state;
    struct stats *sum = calloc(1, sizeof *sum);
    fill_translate(&b->door.stats);
    stats_merge(sum, &b->door.stats);
    b->door.stats = *sum;
    free(sum);
    char *text = print(b, true);
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    assert_true(json_is_null(json_object_get(root, "instructions")));
    assert_true(json_is_null(json_object_get(root, "mips")));
    assert_int_equal(at(root, "monitor_bytes", NULL, NULL), 5 * MiB / 2);
    assert_int_equal(at(root, "translate", "instructions", NULL), 40);
    assert_int_equal(at(root, "translate", "faults", "miss"), 17);
    assert_int_equal(at(root, "calls", "RDTSC", NULL), 6);
    assert_int_equal(at(root, "shadow", "fills", NULL), 21);
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "shadow"), "policy")), "tagged");
    json_decref(root);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_door, setup, teardown),
        cmocka_unit_test_setup_teardown(test_merge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watched, setup, teardown),
        cmocka_unit_test_setup_teardown(test_json, setup, teardown),
        cmocka_unit_test_setup_teardown(test_translate_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_translate_json, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
