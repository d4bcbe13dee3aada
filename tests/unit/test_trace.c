/* The timeline: valid JSON whose slices tell who ran when, also when the run was killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/trace.h"

static char path[] = "/tmp/ring3-trace-XXXXXX";

static uint64_t guest_now(void *opaque)
{
    return *(uint64_t *)opaque;
}

static json_t *load(void)
{
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    return root;
}

static const char *text_of(json_t *event, const char *key)
{
    return json_string_value(json_object_get(event, key));
}

static const char *argument(json_t *event, const char *key)
{
    return json_string_value(json_object_get(json_object_get(event, "args"), key));
}

/* The nth event with this phase and name. */
static json_t *find(json_t *root, const char *phase, const char *name, unsigned nth)
{
    size_t i;
    json_t *event;
    json_array_foreach(root, i, event)
    {
        if (strcmp(text_of(event, "ph"), phase) == 0 && strcmp(text_of(event, "name"), name) == 0 && nth-- == 0)
            return event;
    }
    return NULL;
}

static double number(json_t *event, const char *key)
{
    return json_number_value(json_object_get(event, key));
}

static void test_story(void **state)
{
    uint64_t now = 1500;
    struct vcpu *v = calloc(1, sizeof *v);
    v->platform.now_ns = guest_now;
    v->platform.opaque = &now;
    struct trace *trace = trace_create(path, TRACE_CLOCK_GUEST, TRACE_LIMIT_DEFAULT, NULL);
    assert_int_equal(trace_now_ns(trace, v), 1500);
    /* User code runs until 1.5 us, writes to a port until 2 us; a page fault at 3 us; then HLT; woken at 9 us. */
    struct exit out = {
        .reason = EXIT_IO_OUT, .mode = EXIT_MODE_USER, .rip = 0x401000, .address = 0x3f8, .value = 0x41, .size = 1};
    trace_exit(trace, v, &out, "16\"550\\A", 1500, 2000);
    struct exit fault = {
        .reason = EXIT_EXCEPTION, .mode = EXIT_MODE_USER, .vector = VECTOR_PF, .error = 6, .address = 0xdeadbeef000};
    trace_exit(trace, v, &fault, NULL, 3000, 3000);
    struct exit halt = {.reason = EXIT_HLT, .mode = EXIT_MODE_KERNEL, .rip = 0xffffffff81000000};
    trace_exit(trace, v, &halt, NULL, 4000, 4001);
    struct exit wake = {.reason = EXIT_INTERRUPT, .mode = EXIT_MODE_KERNEL, .vector = 0x30};
    trace_exit(trace, v, &wake, NULL, 9000, 9100);
    assert_true(trace_destroy(trace, NULL));
    json_t *root = load(), *event;

    event = find(root, "X", exit_mode_name(EXIT_MODE_USER), 0);
    assert_int_equal(number(event, "tid"), 1);
    assert_true(number(event, "ts") == 0 && number(event, "dur") == 1.5);
    event = find(root, "X", "io-out", 0);
    assert_int_equal(number(event, "tid"), 3);
    assert_true(number(event, "ts") == 1.5 && number(event, "dur") == 0.5);
    assert_string_equal(argument(event, "rip"), "0x401000");
    assert_string_equal(argument(event, "port"), "0x3f8");
    assert_string_equal(argument(event, "value"), "0x41");
    assert_string_equal(argument(event, "device"), "16_550_A");
    event = find(root, "i", "#PF", 0);
    assert_int_equal(number(event, "tid"), 1);
    assert_string_equal(argument(event, "cr2"), "0xdeadbeef000");
    assert_string_equal(argument(event, "error"), "0x6");
    event = find(root, "X", "halted", 0);
    assert_int_equal(number(event, "tid"), 3);
    assert_true(number(event, "ts") == 4.001 && number(event, "dur") == 4.999);
    assert_non_null(find(root, "i", "interrupt 0x30", 0));
    assert_null(find(root, "X", "halted", 1));
    json_decref(root);
    free(v);
}

/* Slices of a track do not overlap; whatever has a time lies between the first and the last. */
static void check_times(json_t *root)
{
    double end[64] = {0}, last = 0;
    size_t i;
    json_t *event;
    json_array_foreach(root, i, event)
    {
        unsigned track = (unsigned)number(event, "tid");
        double begin = number(event, "ts"), duration = number(event, "dur");
        assert_true(track < 64);
        if (strcmp(text_of(event, "ph"), "X") == 0) {
            assert_true(begin > end[track] - 0.0005 && duration >= 0); /* as exact as three digits are */
            end[track] = begin + duration;
            last = end[track] > last ? end[track] : last;
        } else if (strcmp(text_of(event, "ph"), "i") == 0) {
            assert_true(begin >= 0 && begin > end[track] - 0.0005);
        }
    }
    assert_true(last > 0);
}

/* SYSCALL and IRET make no exits: the change of mode ends a slice. */
static void test_modes(void **state)
{
    uint64_t now = 0;
    struct vcpu *v = calloc(1, sizeof *v);
    v->platform.now_ns = guest_now;
    v->platform.opaque = &now;
    struct trace *trace = trace_create(path, TRACE_CLOCK_GUEST, TRACE_LIMIT_DEFAULT, NULL);
    now = 1000;
    trace_mode(trace, v, true);
    now = 3000;
    trace_mode(trace, v, false);
    now = 7000;
    struct exit fault = {.reason = EXIT_EXCEPTION, .mode = EXIT_MODE_USER, .vector = VECTOR_PF};
    trace_exit(trace, v, &fault, NULL, 7000, 7000);
    now = 7250;
    trace_mode(trace, v, true);
    now = 8000;
    trace_mode(trace, v, false);
    assert_true(trace_destroy(trace, NULL));
    json_t *root = load();
    static const struct {
        const char *name;
        unsigned nth, track;
        double ts, dur;
    } slices[] = {{"user", 0, 1, 0, 1}, {"kernel", 0, 2, 1, 2}, {"user", 1, 1, 3, 4}, {"deliver", 0, 3, 7, 0.25}, {"kernel", 1, 2, 7.25, 0.75}};
    for (unsigned i = 0; i < ARRAY_LEN(slices); i++) {
        json_t *event = find(root, "X", slices[i].name, slices[i].nth);
        assert_non_null(event);
        assert_true(number(event, "tid") == slices[i].track && number(event, "ts") == slices[i].ts &&
                    number(event, "dur") == slices[i].dur);
    }
    assert_null(find(root, "X", "user", 2));
    check_times(root);
    json_decref(root);
    free(v);
}

static void *storm(void *opaque)
{
    struct trace *trace = ((void **)opaque)[0];
    struct vcpu *v = ((void **)opaque)[1];
    for (unsigned i = 0; i < 4000; i++) {
        struct exit exit = {.reason = i % EXIT_REASON_COUNT,
                            .mode = i % EXIT_MODE_COUNT,
                            .vector = (uint8_t)i,
                            .address = ~0ull,
                            .value = ~0ull,
                            .rip = ~0ull,
                            .error = ~0u,
                            .size = 8};
        uint64_t begin_ns = trace_now_ns(trace, v);
        trace_exit(trace, v, &exit, "device", begin_ns, trace_now_ns(trace, v));
    }
    return NULL;
}

/* Four processors at once, all reasons, several times the buffer; looked at as it lies on the disk when the process
 * is killed now, and again when it is complete. */
static void test_storm(void **state)
{
    struct trace *trace = trace_create(path, TRACE_CLOCK_HOST, TRACE_LIMIT_DEFAULT, NULL);
    pthread_t threads[4];
    void *arguments[4][2];
    for (unsigned i = 0; i < 4; i++) {
        struct vcpu *v = calloc(1, sizeof *v);
        v->index = i;
        arguments[i][0] = trace;
        arguments[i][1] = v;
        pthread_create(&threads[i], NULL, storm, arguments[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    json_t *root = load();
    size_t on_disk = json_array_size(root);
    json_decref(root);
    assert_true(trace_destroy(trace, NULL));
    root = load();
    assert_true(on_disk > 1000 && json_array_size(root) > on_disk);
    assert_true(json_array_size(root) > 4 * 4000);
    check_times(root);
    json_decref(root);
    for (unsigned i = 0; i < 4; i++)
        free(arguments[i][1]);
}

/* A small limit: the file says so, stays complete, and takes the report all the same. */
static void test_limit(void **state)
{
    struct trace *trace = trace_create(path, TRACE_CLOCK_HOST, 64 * KiB, NULL);
    struct vcpu *v = calloc(1, sizeof *v);
    storm((void *[]){trace, v});
    assert_true(trace_is_full(trace));
    trace_report(trace, "{\"hello\": [1, 2]}");
    json_t *root = load(); /* before the end */
    json_t *report = find(root, "M", "ring3_report", 0);
    assert_int_equal(json_array_size(json_object_get(json_object_get(report, "args"), "hello")), 2);
    json_decref(root);
    assert_true(trace_destroy(trace, NULL));
    root = load();
    check_times(root);
    assert_non_null(find(root, "i", "the timeline ends here: --trace-size was reached", 0));
    assert_null(find(root, "i", "the timeline ends here: --trace-size was reached", 1));
    assert_true(json_array_size(root) > 50);
    FILE *file = fopen(path, "r");
    fseek(file, 0, SEEK_END);
    assert_true(ftell(file) < (long)(65 * KiB));
    fclose(file);
    json_decref(root);
    free(v);
}

static void test_refusals(void **state)
{
    struct error err;
    assert_null(trace_create("/nonexistent/trace", TRACE_CLOCK_HOST, TRACE_LIMIT_DEFAULT, &err));
    assert_string_equal(err.message, "/nonexistent/trace: the timeline cannot be written: No such file or directory");
    struct trace *trace = trace_create("/dev/full", TRACE_CLOCK_HOST, TRACE_LIMIT_DEFAULT, &err);
    assert_non_null(trace);
    assert_false(trace_destroy(trace, &err));
    assert_string_equal(err.message, "/dev/full: the timeline is incomplete: No space left on device");
    assert_true(trace_destroy(NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_story),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_storm),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_refusals),
    };
    close(mkstemp(path));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
