/* The virtio block device: requests as a driver makes them, in flight together, and wrong ones. The oracle is VIRTIO
 * 1.1, 5.2, and the image's bytes. */
#include "virtio_driver.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/virtio/virtio_blk.h"
#include "host/block.h"

#define SECTORS 2000u
#define HEADER(n) (DRIVER_BUFFERS + (n) * 32u)
#define STATUS(n) (DRIVER_BUFFERS + 0x4000 + (n))
#define DATA (DRIVER_BUFFERS + 0x8000)
#define NOTHING 0xeeu
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };
#define F_RO (1ull << 5)
#define F_FLUSH (1ull << 9)
#define F_WCE (1ull << 11)

struct rig {
    struct driver driver;
    struct block *block;
    struct virtio_blk *blk;
    int fd;
};

static struct rig *rig_create(bool read_only)
{
    struct rig *rig = calloc(1, sizeof *rig);
    char path[32];
    driver_init(&rig->driver);
    rig->fd = memfd_create("image", 0);
    for (unsigned i = 0; i < SECTORS * 128; i++)
        assert_int_equal(pwrite(rig->fd, &i, 4, 4 * i), 4);
    snprintf(path, sizeof path, "/proc/self/fd/%d", rig->fd);
    const struct block_options options = {.read_only = read_only, .raw = true, .queue = &rig->driver.bench.queue};
    rig->block = block_open(path, &options, NULL);
    assert_non_null(rig->block);
    rig->blk = virtio_blk_create(&rig->driver.bus, rig->block, "NUMBER 7", NULL);
    assert_non_null(rig->blk);
    driver_map(&rig->driver);
    return rig;
}

static void rig_destroy(struct rig *rig)
{
    pci_host_destroy(rig->driver.host);
    virtio_blk_destroy(rig->blk);
    block_close(rig->block);
    driver_fini(&rig->driver);
    close(rig->fd);
    free(rig);
}

/* Offers request n: descriptors 3n to 3n + 2. */
static void offer(struct rig *rig, unsigned n, uint32_t type, uint64_t sector, gpa_t data, uint32_t size)
{
    struct driver *d = &rig->driver;
    const uint64_t header[2] = {type, sector};
    uint8_t nothing = NOTHING;
    uint16_t write = type == IN || type == GET_ID ? DESC_WRITE : 0;
    driver_put(d, HEADER(n), header, 16);
    driver_put(d, STATUS(n), &nothing, 1);
    driver_desc(d, 0, 3 * n, HEADER(n), 16, DESC_NEXT, (uint16_t)(size > 0 ? 3 * n + 1 : 3 * n + 2));
    driver_desc(d, 0, 3 * n + 1, data, size, DESC_NEXT | write, (uint16_t)(3 * n + 2));
    driver_desc(d, 0, 3 * n + 2, STATUS(n), 1, DESC_WRITE, 0);
    driver_offer(d, 0, (uint16_t)(3 * n));
}

static uint8_t status_of(struct rig *rig, unsigned n)
{
    uint8_t status;
    assert_true(memory_read(rig->driver.memory, STATUS(n), &status, 1));
    return status;
}

/* One request, to its end. */
static uint8_t run(struct rig *rig, uint32_t type, uint64_t sector, gpa_t data, uint32_t size)
{
    offer(rig, 0, type, sector, data, size);
    driver_notify(&rig->driver, 0);
    bench_advance(&rig->driver.bench, NS_PER_S);
    struct driver_used used = driver_take(&rig->driver, 0);
    uint8_t status = status_of(rig, 0);
    assert_int_equal(used.head, 0);
    assert_int_equal(used.written, 1 + (status == 0 && type == IN ? size : status == 0 && type == GET_ID ? 20 : 0));
    return status;
}

static void expect_words(struct rig *rig, gpa_t gpa, uint32_t first, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t word;
        memory_read(rig->driver.memory, gpa + 4 * i, &word, 4);
        assert_int_equal(word, first + i);
    }
}

static void test_requests(void **state)
{
    struct rig *rig = rig_create(false);
    uint8_t bytes[1024], back[1024], id[20];
    driver_start(&rig->driver, F_FLUSH, 1, 64);
    assert_int_equal(driver_get(&rig->driver, AT_DEVICE, 4), SECTORS);
    memory_watch(rig->driver.memory, DATA >> PAGE_SHIFT, PAGE_CODE);
    assert_int_equal(run(rig, IN, 17, DATA, 1536), 0);
    expect_words(rig, DATA, 17 * 128, 3 * 128);
    assert_true(rig->driver.written > 0);
    memset(bytes, 0x77, sizeof bytes);
    driver_put(&rig->driver, DATA, bytes, sizeof bytes);
    assert_int_equal(run(rig, OUT, SECTORS - 2, DATA, 1024), 0);
    assert_int_equal(pread(rig->fd, back, 1024, (SECTORS - 2) * 512), 1024);
    assert_memory_equal(back, bytes, 1024);
    assert_int_equal(run(rig, FLUSH, 0, 0, 0), 0);
    assert_int_equal(run(rig, GET_ID, 0, DATA, 20), 0);
    memory_read(rig->driver.memory, DATA, id, 20);
    assert_memory_equal(id, "NUMBER 7\0\0\0\0\0\0\0\0\0\0\0", 20);
    /* Two ranges. */
    const uint64_t ranges[4] = {100, 2, 200, 1 | 1ull << 32};
    driver_put(&rig->driver, DATA, ranges, sizeof ranges);
    assert_int_equal(run(rig, WRITE_ZEROES, 0, DATA, sizeof ranges), 0);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(pread(rig->fd, back, 1024, 100 * 512), 1024);
    assert_memory_equal(back, bytes, 1024);
    assert_int_equal(pread(rig->fd, back, 512, 200 * 512), 512);
    assert_memory_equal(back, bytes, 512);
    assert_int_equal(run(rig, DISCARD, 0, DATA, 16), 0);
    rig_destroy(rig);
}

static void test_wrong_requests(void **state)
{
    struct rig *rig = rig_create(false);
    driver_start(&rig->driver, F_FLUSH, 1, 64);
    assert_int_equal(run(rig, 99, 0, DATA, 512), 2);
    assert_int_equal(run(rig, IN, 0, DATA, 100), 1);
    assert_int_equal(run(rig, IN, SECTORS, DATA, 512), 1);
    assert_int_equal(run(rig, IN, SECTORS - 1, DATA, 1024), 1);
    assert_int_equal(run(rig, IN, UINT64_MAX, DATA, 512), 1);
    assert_int_equal(run(rig, OUT, 1ull << 55, DATA, 512), 1);
    const uint64_t ranges[][2] = {{SECTORS, 1}, {0, SECTORS + 1}, {UINT64_MAX, UINT32_MAX}};
    for (unsigned i = 0; i < ARRAY_LEN(ranges); i++) {
        driver_put(&rig->driver, DATA, ranges[i], 16);
        assert_int_equal(run(rig, DISCARD, 0, DATA, 16), 1);
        assert_int_equal(run(rig, WRITE_ZEROES, 0, DATA, 16), 1);
    }
    const uint64_t flags[2] = {0, 1 | 1ull << 32};
    driver_put(&rig->driver, DATA, flags, 16);
    assert_int_equal(run(rig, DISCARD, 0, DATA, 16), 2); /* has no flag */
    assert_int_equal(run(rig, WRITE_ZEROES, 0, DATA, 15), 1);
    assert_int_equal(run(rig, WRITE_ZEROES, 0, DATA, 16 * 17), 1); /* more than config says */
    /* No place for a status: the device is broken, and works again after a reset. */
    driver_desc(&rig->driver, 0, 0, HEADER(0), 16, 0, 0);
    driver_offer(&rig->driver, 0, 0);
    driver_notify(&rig->driver, 0);
    assert_true(driver_status(&rig->driver) & STATUS_NEEDS_RESET);
    driver_start(&rig->driver, F_FLUSH, 1, 64);
    assert_int_equal(run(rig, IN, 1, DATA, 512), 0);
    rig_destroy(rig);
}

static void test_in_flight(void **state)
{
    struct rig *rig = rig_create(false);
    driver_start(&rig->driver, F_FLUSH, 1, 64);
    for (unsigned i = 0; i < 20; i++)
        offer(rig, i, IN, 10 * i, DATA + 512 * i, 512);
    driver_notify(&rig->driver, 0);
    assert_int_equal(driver_used(&rig->driver, 0), 0); /* never at once */
    bench_advance(&rig->driver.bench, NS_PER_S);
    assert_int_equal(driver_used(&rig->driver, 0), 20);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(status_of(rig, i), 0);
        expect_words(rig, DATA + 512 * i, 10 * i * 128, 128);
    }
    /* A reset: nothing of what was asked for arrives. */
    rig->driver.queue[0].used_index = 20;
    for (unsigned i = 0; i < 20; i++)
        offer(rig, i, IN, 10 * i + 1, DATA + 512 * i, 512);
    driver_notify(&rig->driver, 0);
    driver_set(&rig->driver, COMMON_STATUS, 1, 0);
    bench_advance(&rig->driver.bench, NS_PER_S);
    assert_int_equal(driver_used(&rig->driver, 0), 20);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(status_of(rig, i), NOTHING);
        expect_words(rig, DATA + 512 * i, 10 * i * 128, 128);
    }
    /* One that is destroyed meanwhile. */
    driver_start(&rig->driver, 0, 1, 64);
    offer(rig, 0, OUT, 0, DATA, 512);
    driver_notify(&rig->driver, 0);
    rig_destroy(rig);
}

/* A guest that claims more requests than a ring has: the same chain, again and again. */
static void test_too_many(void **state)
{
    struct rig *rig = rig_create(false);
    driver_start(&rig->driver, F_FLUSH, 1, 64);
    offer(rig, 0, IN, 3, DATA, 512);
    driver_notify(&rig->driver, 0);
    for (unsigned i = 0; i < 1000; i++) {
        driver_offer(&rig->driver, 0, 0);
        driver_notify(&rig->driver, 0);
    }
    bench_advance(&rig->driver.bench, NS_PER_S);
    assert_true(driver_status(&rig->driver) & STATUS_NEEDS_RESET || driver_used(&rig->driver, 0) == 1001);
    driver_start(&rig->driver, F_FLUSH, 1, 64);
    assert_int_equal(run(rig, IN, 1, DATA, 512), 0);
    rig_destroy(rig);
}

static void test_read_only(void **state)
{
    struct rig *rig = rig_create(true);
    assert_true(driver_offered(&rig->driver) & F_RO);
    assert_false(driver_offered(&rig->driver) & F_WCE);
    driver_start(&rig->driver, F_FLUSH | F_RO, 1, 64);
    assert_int_equal(run(rig, IN, 5, DATA, 512), 0);
    assert_int_equal(run(rig, OUT, 5, DATA, 512), 1);
    assert_int_equal(run(rig, WRITE_ZEROES, 0, DATA, 16), 1);
    assert_int_equal(run(rig, FLUSH, 0, 0, 0), 0);
    rig_destroy(rig);
}

static void test_write_cache(void **state)
{
    struct rig *rig = rig_create(false);
    driver_start(&rig->driver, F_FLUSH | F_WCE, 1, 64);
    assert_int_equal(driver_get(&rig->driver, AT_DEVICE + 32, 1), 1);
    driver_set(&rig->driver, AT_DEVICE + 32, 1, 0);
    assert_int_equal(driver_get(&rig->driver, AT_DEVICE + 32, 1), 0);
    assert_int_equal(run(rig, OUT, 5, DATA, 512), 0);
    driver_set(&rig->driver, AT_DEVICE, 4, 7); /* the rest is not to be written */
    assert_int_equal(driver_get(&rig->driver, AT_DEVICE, 4), SECTORS);
    driver_set(&rig->driver, COMMON_STATUS, 1, 0);
    assert_int_equal(driver_get(&rig->driver, AT_DEVICE + 32, 1), 1);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),  cmocka_unit_test(test_wrong_requests), cmocka_unit_test(test_in_flight),
        cmocka_unit_test(test_too_many),  cmocka_unit_test(test_read_only),      cmocka_unit_test(test_write_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
