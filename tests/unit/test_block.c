/* Disk images: every operation with threads and in guest time, snapshots, ends of files, errors, locks, cancelling. The
 * oracle is the file itself, and a copy in memory that is changed as the requests say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/block.h"
#include "host/loop.h"

#define SIZE (1u << 20)

struct one {
    struct block_request request;
    struct iovec iov[3];
    bool done;
    unsigned order;
    int result;
};

struct rig {
    char path[64];
    struct loop *loop;
    struct timer_queue queue;
    uint64_t now_ns;
    struct block *block;
    bool repeatable;
    unsigned log_lines;
    struct log log;
    struct block_options options;
};

static unsigned order; /* of completions */

static void one_done(struct block_request *request, int result)
{
    struct one *one = container_of(request, struct one, request);
    one->done = true;
    one->result = result;
    one->order = ++order;
}

static uint64_t rig_now(void *opaque)
{
    return ((struct rig *)opaque)->now_ns;
}

static void rig_log(void *opaque, const char *line)
{
    ((struct rig *)opaque)->log_lines++;
}

static void rig_file(struct rig *rig, size_t size)
{
    int fd = open(rig->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    for (size_t at = 0; at < size; at += 4) {
        uint32_t word = (uint32_t)at ^ 0xa5000000;
        assert_true(write(fd, &word, size - at < 4 ? size - at : 4) > 0);
    }
    close(fd);
}

static void rig_init(struct rig *rig, bool repeatable)
{
    memset(rig, 0, sizeof *rig);
    strcpy(rig->path, "/tmp/test_block.XXXXXX");
    close(mkstemp(rig->path));
    rig->loop = loop_create(NULL);
    timer_queue_init(&rig->queue, rig_now, NULL, rig);
    log_init(&rig->log, LOG_WARN, rig_log, rig);
    rig->repeatable = repeatable;
    rig->options = (struct block_options){.loop = rig->loop, .queue = repeatable ? &rig->queue : NULL, .log = &rig->log};
}

static void rig_open(struct rig *rig)
{
    struct error err;
    rig->block = block_open(rig->path, &rig->options, &err);
    if (rig->block == NULL)
        fail_msg("%s", err.message);
}

static void rig_fini(struct rig *rig)
{
    block_close(rig->block);
    loop_destroy(rig->loop);
    unlink(rig->path);
}

static void rig_step(struct rig *rig)
{
    if (rig->repeatable) {
        uint64_t next = timer_queue_next(&rig->queue);
        assert_true(next != TIMER_NEVER && next > rig->now_ns);
        rig->now_ns = next;
        timer_queue_run(&rig->queue);
    } else {
        loop_run_once(rig->loop, NULL);
    }
}

static void submit(struct rig *rig, struct one *one, enum block_op op, uint64_t offset, void *bytes, uint64_t size)
{
    *one = (struct one){.request = {.op = op, .offset = offset, .size = size, .done = one_done}};
    /* In three pieces, one of them empty. */
    one->iov[0] = (struct iovec){.iov_base = bytes, .iov_len = size / 3};
    one->iov[1] = (struct iovec){.iov_base = bytes, .iov_len = 0};
    one->iov[2] = (struct iovec){.iov_base = (char *)bytes + size / 3, .iov_len = size - size / 3};
    one->request.iov = one->iov;
    one->request.iov_count = 3;
    block_submit(rig->block, &one->request);
    assert_false(one->done);
}

static int run(struct rig *rig, enum block_op op, uint64_t offset, void *bytes, uint64_t size)
{
    struct one one;
    submit(rig, &one, op, offset, bytes, size);
    while (!one.done)
        rig_step(rig);
    return one.result;
}

static void file_bytes(struct rig *rig, uint8_t *bytes, size_t size)
{
    int fd = open(rig->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, bytes, size, 0), size);
    close(fd);
}

/* Random requests against a copy in memory. */
static void exercise(struct rig *rig, uint8_t *model, unsigned steps)
{
    static uint8_t bytes[SIZE];
    unsigned seed = 7;
    for (unsigned i = 0; i < steps; i++) {
        uint64_t offset = (uint64_t)rand_r(&seed) % SIZE, size = (uint64_t)rand_r(&seed) % (i % 3 ? 5000 : 70000);
        if (i % 2) {
            offset &= ~511ull;
            size &= ~511ull;
        }
        if (size > SIZE - offset)
            size = SIZE - offset;
        switch (rand_r(&seed) % 4) {
        case 0:
            assert_int_equal(run(rig, BLOCK_READ, offset, bytes, size), 0);
            assert_memory_equal(bytes, model + offset, size);
            break;
        case 1:
            for (uint64_t k = 0; k < size; k++)
                bytes[k] = model[offset + k] = (uint8_t)(k + i);
            assert_int_equal(run(rig, BLOCK_WRITE, offset, bytes, size), 0);
            break;
        case 2:
            memset(model + offset, 0, size);
            assert_int_equal(run(rig, BLOCK_WRITE_ZEROES, offset, NULL, size), 0);
            break;
        default:
            assert_int_equal(run(rig, BLOCK_FLUSH, 0, NULL, 0), 0);
            break;
        }
    }
    assert_int_equal(run(rig, BLOCK_READ, 0, bytes, SIZE), 0);
    assert_memory_equal(bytes, model, SIZE);
}

static void test_contents(void **state)
{
    for (unsigned variant = 0; variant < 4; variant++) {
        static uint8_t model[SIZE], before[SIZE], after[SIZE];
        struct rig rig;
        rig_init(&rig, variant & 1);
        rig.options.snapshot = variant & 2;
        rig_file(&rig, SIZE);
        file_bytes(&rig, model, SIZE);
        memcpy(before, model, SIZE);
        rig_open(&rig);
        assert_int_equal(block_size(rig.block), SIZE);
        exercise(&rig, model, 400);
        file_bytes(&rig, after, SIZE);
        assert_memory_equal(after, variant & 2 ? before : model, SIZE);
        rig_fini(&rig);
    }
}

/* A file that ends amid a sector. */
static void test_tail(void **state)
{
    struct rig rig;
    uint8_t bytes[1024];
    struct stat st;
    rig_init(&rig, false);
    rig_file(&rig, 1000);
    rig_open(&rig);
    assert_int_equal(block_size(rig.block), 1024);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(run(&rig, BLOCK_READ, 0, bytes, 1024), 0);
    assert_int_equal(bytes[999], 0xa5);
    for (unsigned i = 1000; i < 1024; i++)
        assert_int_equal(bytes[i], 0);
    assert_int_equal(run(&rig, BLOCK_READ, 1024, bytes, 1), -EINVAL);
    assert_int_equal(run(&rig, BLOCK_READ, UINT64_MAX, bytes, 2), -EINVAL);
    assert_int_equal(run(&rig, BLOCK_WRITE, 1023, bytes, 2), -EINVAL);
    assert_int_equal(run(&rig, BLOCK_WRITE, 512, bytes, 512), 0);
    assert_int_equal(stat(rig.path, &st), 0);
    assert_int_equal(st.st_size, 1024);
    assert_int_equal(rig.log_lines, 0);
    rig_fini(&rig);
}

/* Somebody else makes the file shorter: no zeros where there was data. */
static void test_errors(void **state)
{
    struct rig rig;
    static uint8_t bytes[SIZE];
    rig_init(&rig, false);
    rig.log.level = LOG_OFF;
    rig_file(&rig, SIZE);
    rig_open(&rig);
    assert_int_equal(truncate(rig.path, SIZE / 2), 0);
    struct one one;
    submit(&rig, &one, BLOCK_READ, 0, bytes, SIZE);
    while (!one.done)
        rig_step(&rig);
    assert_int_equal(one.result, -EIO);
    assert_int_equal(one.request.transferred, SIZE / 2);
    assert_int_equal(rig.log_lines, 1); /* although the log is off */
    rig.log.level = LOG_WARN;
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(run(&rig, BLOCK_READ, SIZE / 2, bytes, 512), -EIO);
    assert_true(rig.log_lines <= 8);
    /* A limit on file sizes is an error of writes, which are done up to there. */
    struct rlimit before, limit;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = (struct rlimit){.rlim_cur = SIZE * 3 / 4, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    submit(&rig, &one, BLOCK_WRITE, SIZE / 2, bytes, SIZE / 2);
    while (!one.done)
        rig_step(&rig);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(one.result, -EFBIG);
    assert_int_equal(one.request.transferred, SIZE / 4);
    rig_fini(&rig);
}

static void expect_refusal(struct rig *rig, const char *words)
{
    struct error err;
    struct block *block = block_open(rig->path, &rig->options, &err);
    assert_null(block);
    if (strstr(err.message, words) == NULL)
        fail_msg("'%s' is not in: %s", words, err.message);
}

static void test_refusals(void **state)
{
    struct rig rig;
    rig_init(&rig, false);
    expect_refusal(&rig, "is empty");
    rig_file(&rig, 4096);
    int fd = open(rig.path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "QFI\xfb", 4, 0), 4);
    expect_refusal(&rig, "qemu-img convert");
    rig.options.raw = true;
    rig_open(&rig);
    block_close(rig.block);
    rig.options.raw = false;
    unlink(rig.path);
    expect_refusal(&rig, "No such file");
    assert_int_equal(mkfifo(rig.path, 0600), 0);
    expect_refusal(&rig, "neither a regular file nor a block device");
    close(fd);
    rig.block = NULL;
    rig_fini(&rig);
}

static void test_locks(void **state)
{
    struct rig rig;
    uint8_t bytes[512] = {0};
    rig_init(&rig, false);
    rig_file(&rig, 4096);
    rig_open(&rig);
    expect_refusal(&rig, "in use by another machine");
    rig.options.read_only = true;
    expect_refusal(&rig, "in use by another machine");
    block_close(rig.block);
    rig_open(&rig); /* readers share */
    assert_true(block_read_only(rig.block));
    struct block *first = rig.block;
    rig_open(&rig);
    assert_int_equal(run(&rig, BLOCK_WRITE, 0, bytes, 512), -EROFS);
    assert_int_equal(run(&rig, BLOCK_DISCARD, 0, bytes, 512), -EROFS);
    block_close(first);
    rig.options.read_only = false;
    rig.options.snapshot = true;
    first = rig.block;
    rig_open(&rig); /* a snapshot is a reader, too */
    assert_int_equal(run(&rig, BLOCK_WRITE, 0, bytes, 512), 0);
    rig.options.snapshot = false;
    expect_refusal(&rig, "snapshot=on can share it");
    block_close(first);
    rig_fini(&rig);
}

/* Requests side by side, then cancelled ones: nobody is called afterwards, and the image goes on. */
static void test_cancel(void **state)
{
    for (unsigned variant = 0; variant < 2; variant++) {
        static struct one ones[64];
        static uint8_t bytes[64][4096], back[4096];
        struct rig rig;
        rig_init(&rig, variant);
        rig_file(&rig, SIZE);
        rig_open(&rig);
        for (unsigned i = 0; i < 64; i++) {
            memset(bytes[i], (int)i + 1, 4096);
            submit(&rig, &ones[i], BLOCK_WRITE, i * 4096, bytes[i], 4096);
        }
        for (unsigned left = 64; left > 0;) {
            rig_step(&rig);
            left = 0;
            for (unsigned i = 0; i < 64; i++)
                left += !ones[i].done;
        }
        for (unsigned i = 0; variant && i < 63; i++)
            assert_true(ones[i].order < ones[i + 1].order);
        for (unsigned i = 0; i < 64; i++)
            submit(&rig, &ones[i], BLOCK_WRITE, i * 4096, bytes[63 - i], 4096);
        block_cancel(rig.block);
        for (unsigned i = 0; i < 64; i++)
            assert_false(ones[i].done);
        assert_int_equal(run(&rig, BLOCK_READ, 5 * 4096, back, 4096), 0);
        assert_true(back[0] == 6 || back[0] == 59);
        for (unsigned i = 0; i < 64; i++)
            assert_false(ones[i].done);
        rig_fini(&rig);
    }
}

/* What takes how long does not depend on the host. */
static void test_repeatable(void **state)
{
    struct rig rig;
    static uint8_t bytes[8192];
    uint64_t times[2][2];
    for (unsigned i = 0; i < 2; i++) {
        rig_init(&rig, true);
        rig_file(&rig, SIZE);
        rig_open(&rig);
        run(&rig, BLOCK_READ, 0, bytes, 512);
        times[i][0] = rig.now_ns;
        run(&rig, BLOCK_WRITE, 0, bytes, 8192);
        times[i][1] = rig.now_ns;
        rig_fini(&rig);
    }
    assert_memory_equal(times[0], times[1], sizeof times[0]);
    assert_true(times[0][0] > 0 && times[0][1] > times[0][0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents), cmocka_unit_test(test_tail),   cmocka_unit_test(test_errors),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_locks),  cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
