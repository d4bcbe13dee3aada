/* The firmware configuration device: items by key and by name, byte by byte and by DMA. */
#include "device_test.h"

#include <endian.h>

#include "device/fw_cfg.h"

#define DESCRIPTOR 0x1000u
#define TARGET 0x2000u
#define DMA_ERROR 1u
#define DMA_READ 2u
#define DMA_SKIP 4u
#define DMA_SELECT 8u
#define DMA_WRITE 16u

struct fw_bench {
    struct memory *memory;
    struct fw_cfg *fw_cfg;
};

static int setup(void **state)
{
    struct fw_bench *b = test_calloc(1, sizeof *b);
    b->memory = memory_create(1 * MiB, NULL, NULL);
    b->fw_cfg = fw_cfg_create(b->memory);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct fw_bench *b = *state;
    fw_cfg_destroy(b->fw_cfg);
    memory_destroy(b->memory);
    test_free(b);
    return 0;
}

static void item_select(struct fw_bench *b, unsigned key)
{
    bench_write(&fw_cfg_ops, b->fw_cfg, 0, 2, key);
}

static uint8_t next(struct fw_bench *b)
{
    return (uint8_t)bench_read(&fw_cfg_ops, b->fw_cfg, 1, 1);
}

static void assert_bytes(struct fw_bench *b, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(next(b), (uint8_t)bytes[i]);
}

/* Starts what the descriptor at DESCRIPTOR says; returns the control field afterwards. */
static uint32_t dma_at(struct fw_bench *b, uint64_t at)
{
    uint32_t control = 0;
    bench_write(&fw_cfg_dma_ops, b->fw_cfg, 0, 4, htobe32((uint32_t)(at >> 32)));
    bench_write(&fw_cfg_dma_ops, b->fw_cfg, 4, 4, htobe32((uint32_t)at));
    memory_read(b->memory, at, &control, sizeof control);
    return be32toh(control);
}

static uint32_t dma(struct fw_bench *b, uint32_t control, uint32_t length, uint64_t address)
{
    const uint32_t words[2] = {htobe32(control), htobe32(length)};
    const uint64_t be_address = htobe64(address);
    memory_write(b->memory, DESCRIPTOR, words, sizeof words);
    memory_write(b->memory, DESCRIPTOR + 8, &be_address, sizeof be_address);
    return dma_at(b, DESCRIPTOR);
}

static void test_items(void **state)
{
    struct fw_bench *b = *state;
    struct error err;
    assert_int_equal(next(b), 0); /* nothing is selected */
    item_select(b, FW_CFG_SIGNATURE);
    assert_bytes(b, "QEMU\0\0", 6);
    item_select(b, FW_CFG_ID);
    assert_bytes(b, "\3\0\0\0", 4); /* bytes and DMA */
    item_select(b, 0x7fff);
    assert_bytes(b, "\0\0", 2);
    assert_true(fw_cfg_set_u16(b->fw_cfg, FW_CFG_NB_CPUS, 0x1234, &err));
    item_select(b, FW_CFG_NB_CPUS);
    assert_bytes(b, "\x34\x12\0", 3);
    assert_true(fw_cfg_set_u16(b->fw_cfg, FW_CFG_NB_CPUS, 2, &err)); /* set again */
    item_select(b, FW_CFG_NB_CPUS);
    assert_bytes(b, "\2\0", 2);
    fw_cfg_reset(b->fw_cfg);
    assert_int_equal(next(b), 0);
    item_select(b, FW_CFG_SIGNATURE);
    assert_int_equal(bench_read(&fw_cfg_ops, b->fw_cfg, 0, 2), 0xffff); /* the selector is not read */
    bench_write(&fw_cfg_ops, b->fw_cfg, 1, 1, 0x55);                    /* nor is data written */
    assert_bytes(b, "QEMU", 4);
}

static void test_files(void **state)
{
    struct fw_bench *b = *state;
    struct error err;
    size_t size;
    item_select(b, FW_CFG_FILE_DIR);
    assert_bytes(b, "\0\0\0\0", 4);
    assert_true(fw_cfg_set_file(b->fw_cfg, "etc/one", "first", 5, &err));
    assert_true(fw_cfg_set_file(b->fw_cfg, "two", "22", 2, &err));
    assert_true(fw_cfg_set_file(b->fw_cfg, "etc/one", "again!", 6, &err)); /* keeps its place */
    item_select(b, FW_CFG_FILE_DIR);
    assert_bytes(b, "\0\0\0\2\0\0\0\6\0\x20\0\0etc/one\0", 20);
    item_select(b, FW_CFG_FILE_FIRST + 1);
    assert_bytes(b, "22\0", 3);
    assert_memory_equal(fw_cfg_file(b->fw_cfg, "etc/one", &size), "again!", 6);
    assert_int_equal(size, 6);
    assert_null(fw_cfg_file(b->fw_cfg, "three", &size));

    char name[80];
    memset(name, 'x', sizeof name);
    name[FW_CFG_NAME_MAX + 1] = '\0';
    assert_false(fw_cfg_set_file(b->fw_cfg, name, "", 0, &err));
    assert_false(fw_cfg_set_file(b->fw_cfg, "", "", 0, &err));
    assert_false(fw_cfg_set_file(b->fw_cfg, "large", "", FW_CFG_ITEM_MAX + 1, &err));
    name[FW_CFG_NAME_MAX] = '\0';
    assert_true(fw_cfg_set_file(b->fw_cfg, name, "", 0, &err));
    for (unsigned i = 3; i < FW_CFG_FILES_MAX; i++) {
        snprintf(name, sizeof name, "file%u", i);
        assert_true(fw_cfg_set_file(b->fw_cfg, name, &i, sizeof i, &err));
    }
    assert_false(fw_cfg_set_file(b->fw_cfg, "one too many", "", 0, &err));
    item_select(b, FW_CFG_FILE_FIRST + FW_CFG_FILES_MAX - 1);
    assert_int_equal(next(b), FW_CFG_FILES_MAX - 1);
}

static void test_dma(void **state)
{
    struct fw_bench *b = *state;
    struct error err;
    char bytes[16];
    assert_int_equal(bench_read(&fw_cfg_dma_ops, b->fw_cfg, 0, 4), 0x554d4551); /* "QEMU CFG" */
    assert_int_equal(bench_read(&fw_cfg_dma_ops, b->fw_cfg, 4, 4), 0x47464320);
    assert_true(fw_cfg_set_file(b->fw_cfg, "digits", "0123456789", 10, &err));
    memory_write(b->memory, TARGET, "................", 16);
    assert_int_equal(dma(b, DMA_SELECT | DMA_READ | FW_CFG_FILE_FIRST << 16, 4, TARGET), 0);
    assert_int_equal(dma(b, DMA_SKIP, 3, 0), 0);
    assert_int_equal(dma(b, DMA_READ, 5, TARGET + 4), 0); /* three bytes, then zeros */
    memory_read(b->memory, TARGET, bytes, sizeof bytes);
    assert_memory_equal(bytes, "0123789\0\0.......", 16);
    assert_int_equal(dma(b, DMA_SELECT | FW_CFG_FILE_FIRST << 16, 0, 0), 0);
    assert_bytes(b, "01", 2);
    assert_int_equal(dma(b, DMA_SKIP, UINT32_MAX, 0), 0);
    assert_bytes(b, "\0", 1);
    assert_int_equal(dma(b, DMA_SELECT | DMA_WRITE | FW_CFG_FILE_FIRST << 16, 4, TARGET), DMA_ERROR);
    assert_int_equal(dma(b, DMA_READ, 0, 0), 0);
}

/* What does not lead into memory, or asks for too much, is an error and nothing more. */
static void test_dma_refused(void **state)
{
    struct fw_bench *b = *state;
    uint8_t byte;
    assert_int_equal(dma(b, DMA_SELECT | DMA_READ, 4, 1 * MiB), DMA_ERROR);
    assert_int_equal(dma(b, DMA_READ, 4, 1 * MiB - 2), DMA_ERROR);
    assert_int_equal(dma(b, DMA_READ, 4, UINT64_MAX - 1), DMA_ERROR);
    assert_int_equal(dma(b, DMA_READ, UINT32_MAX, TARGET), DMA_ERROR);
    assert_int_equal(dma(b, DMA_READ, 64 * MiB, TARGET), DMA_ERROR); /* as far as memory goes, and no further */
    memory_read(b->memory, TARGET + 100, &byte, 1);
    assert_int_equal(byte, 0);
    dma_at(b, UINT64_MAX);
    dma_at(b, 1 * MiB - 8);
    dma_at(b, 0xfffffffff000);
    item_select(b, FW_CFG_SIGNATURE);
    assert_bytes(b, "QEMU", 4);
    bench_write(&fw_cfg_dma_ops, b->fw_cfg, 0, 8, htobe64(DESCRIPTOR)); /* not one of the two halves */
    assert_bytes(b, "\0", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_items, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
