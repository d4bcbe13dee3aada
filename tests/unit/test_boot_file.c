/* Files given as kernels: error messages of reading, recognition of what is no kernel, decompression within bounds, and
 * the memory map. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <bzlib.h>
#include <fcntl.h>
#include <lz4.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "boot/decompress.h"
#include "boot/e820.h"
#include "boot/image.h"

/* --- compression --- */

#define PLAIN_SIZE (300 * KiB + 17)

static uint64_t compress_with(enum compression compression, uint8_t *plain, uint64_t size, uint8_t *out, uint64_t room)
{
    size_t used = 0;
    switch (compression) {
    case COMPRESSION_GZIP: {
        z_stream stream = {.next_in = plain, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)room};
        assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
        deflateEnd(&stream);
        return stream.total_out;
    }
    case COMPRESSION_XZ: {
        lzma_options_lzma options;
        lzma_lzma_preset(&options, 1);
        lzma_filter filters[] = {{LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};
        assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, plain, size, out, &used, room),
                         LZMA_OK);
        return used;
    }
    case COMPRESSION_LZMA: {
        lzma_options_lzma options;
        lzma_lzma_preset(&options, 1);
        lzma_stream stream = LZMA_STREAM_INIT;
        assert_int_equal(lzma_alone_encoder(&stream, &options), LZMA_OK);
        stream.next_in = plain;
        stream.avail_in = size;
        stream.next_out = out;
        stream.avail_out = room;
        assert_int_equal(lzma_code(&stream, LZMA_FINISH), LZMA_STREAM_END);
        lzma_end(&stream);
        return stream.total_out;
    }
    case COMPRESSION_ZSTD:
        return ZSTD_compress(out, room, plain, size, 3);
    case COMPRESSION_BZIP2: {
        unsigned length = (unsigned)room;
        assert_int_equal(BZ2_bzBuffToBuffCompress((char *)out, &length, (char *)plain, (unsigned)size, 9, 0, 0), BZ_OK);
        return length;
    }
    case COMPRESSION_LZ4: {
        memcpy(out, "\x02\x21\x4c\x18", 4);
        uint64_t at = 4;
        for (uint64_t from = 0; from < size; from += 8 * MiB) {
            int part = (int)(size - from < 8 * MiB ? size - from : 8 * MiB);
            int n = LZ4_compress_default((char *)plain + from, (char *)out + at + 4, part, (int)(room - at - 4));
            assert_true(n > 0);
            memcpy(out + at, &n, 4);
            at += 4 + (unsigned)n;
        }
        return at;
    }
    default:
        fail();
        return 0;
    }
}

static void test_decompress(void **state)
{
    uint8_t *plain = malloc(PLAIN_SIZE), *packed = malloc(2 * PLAIN_SIZE);
    for (unsigned i = 0; i < PLAIN_SIZE; i++)
        plain[i] = (uint8_t)(i % 251 * (i >> 12));
    for (unsigned c = COMPRESSION_GZIP; c <= COMPRESSION_BZIP2; c++) {
        struct buffer out;
        struct error err;
        uint64_t size = compress_with(c, plain, PLAIN_SIZE, packed, 2 * PLAIN_SIZE - 4);
        assert_int_equal(compression_detect(packed, size), c);
        /* As the kernel build leaves it: the size behind the stream. */
        memcpy(packed + size, &(uint32_t){PLAIN_SIZE}, 4);
        assert_true(decompress(c, packed, size + 4, PLAIN_SIZE, &out, &err));
        assert_int_equal(out.size, PLAIN_SIZE);
        assert_memory_equal(out.bytes, plain, PLAIN_SIZE);
        buffer_free(&out);
        /* One byte too many for the limit. */
        assert_false(decompress(c, packed, size, PLAIN_SIZE - 1, &out, &err));
        assert_non_null(strstr(err.message, "more than"));
        assert_null(out.bytes);
        /* Looking inside. */
        assert_true(decompress_head(c, packed, size, 100, &out));
        assert_int_equal(out.size, 100);
        assert_memory_equal(out.bytes, plain, 100);
        buffer_free(&out);
        /* Cut in the middle. */
        assert_false(decompress(c, packed, size / 2, PLAIN_SIZE, &out, &err));
        assert_non_null(strstr(err.message, "early"));
        /* Damage may be found or not, but never reads or writes too far. */
        for (unsigned i = 0; i < 40; i++) {
            uint64_t at = 4 + (size - 4) / 40 * i;
            packed[at] ^= 0x5a;
            if (decompress(c, packed, size, PLAIN_SIZE, &out, &err))
                buffer_free(&out);
            packed[at] ^= 0x5a;
        }
    }
    struct buffer out;
    struct error err;
    assert_false(decompress(COMPRESSION_LZO, packed, 100, PLAIN_SIZE, &out, &err));
    assert_non_null(strstr(err.message, "LZO"));
    free(plain);
    free(packed);
}

/* Megabytes of zeros in a few kilobytes, for LZ4 in several blocks: output stops at the limit. */
static void test_bomb(void **state)
{
    const uint64_t size = 17 * MiB;
    uint8_t *plain = calloc(1, size), *packed = malloc(MiB);
    for (unsigned c = COMPRESSION_GZIP; c <= COMPRESSION_BZIP2; c++) {
        struct buffer out;
        struct error err;
        uint64_t packed_size = compress_with(c, plain, size, packed, MiB);
        assert_false(decompress(c, packed, packed_size, 100000, &out, &err));
        assert_non_null(strstr(err.message, "more than 100000 bytes"));
    }
    free(plain);
    free(packed);
}

/* --- reading --- */

static void expect_read_error(const char *path, uint64_t limit, const char *message)
{
    struct buffer out;
    struct error err;
    assert_false(image_read(path, limit, IMAGE_KERNEL_ADVICE, &out, &err));
    assert_null(out.bytes);
    assert_string_equal(err.message, message);
}

static void test_read(void **state)
{
    char directory[] = "/tmp/ring3-file-XXXXXX";
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chdir(directory), 0);
    expect_read_error("vmlinuz", MiB, "vmlinuz: cannot open: No such file or directory; " IMAGE_KERNEL_ADVICE);
    expect_read_error(".", MiB, ".: is a directory; " IMAGE_KERNEL_ADVICE);
    expect_read_error("/dev/zero", MiB, "/dev/zero: is a device, not a file; " IMAGE_KERNEL_ADVICE);
    int fd = open("vmlinuz", O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    expect_read_error("vmlinuz", MiB, "vmlinuz: is empty; " IMAGE_KERNEL_ADVICE);
    assert_int_equal(ftruncate(fd, 3 * MiB), 0);
    expect_read_error("vmlinuz", 2 * MiB, "vmlinuz: 3 MiB is too large (at most 2 MiB); " IMAGE_KERNEL_ADVICE);
    struct buffer out;
    assert_true(image_read("vmlinuz", 3 * MiB, IMAGE_KERNEL_ADVICE, &out, NULL));
    assert_int_equal(out.size, 3 * MiB);
    buffer_free(&out);
    close(fd);
    if (geteuid() != 0) {
        assert_int_equal(chmod("vmlinuz", 0), 0);
        expect_read_error("vmlinuz", MiB, "vmlinuz: cannot open: Permission denied; " IMAGE_KERNEL_ADVICE);
    }
    /* A pipe: its size is not known beforehand. */
    int ends[2];
    char path[64];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "abcdef", 6), 6);
    close(ends[1]);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    assert_true(image_read(path, MiB, IMAGE_KERNEL_ADVICE, &out, NULL));
    assert_int_equal(out.size, 6);
    assert_memory_equal(out.bytes, "abcdef", 6);
    buffer_free(&out);
    close(ends[0]);
    assert_int_equal(unlink("vmlinuz"), 0);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(rmdir(directory), 0);
}

/* --- what is no kernel --- */

static void expect_refusal(const uint8_t *bytes, uint64_t size, const char *part)
{
    struct boot_file file = {"k", bytes, size};
    struct error err;
    assert_int_equal(image_format(&file), IMAGE_UNKNOWN);
    assert_false(image_refuse(&file, &err));
    if (strstr(err.message, part) == NULL || strncmp(err.message, "k: ", 3) != 0)
        fail_msg("expected \"%s\" in: %s", part, err.message);
}

static void test_refuse(void **state)
{
    static const struct {
        unsigned offset;
        const char *bytes;
        unsigned size;
        const char *part;
    } cases[] = {
        {0x38, "ARM\x64", 4, "an ARM64 kernel"},
        {0x38, "RSC\x05", 4, "a RISC-V kernel"},
        {0x24, "\x18\x28\x6f\x01", 4, "a 32-bit ARM kernel"},
        {0, "MZ\0\0zimg", 8, "EFI zboot"},
        {0, "\x27\x05\x19\x56", 4, "uImage"},
        {0, "070701", 6, "give it with --initrd"},
        {0, "QFI\xfb", 4, "a qcow2 disk image; give it as a disk"},
        {0x1fe, "\x55\xaa", 2, "boot sector"},
        {0, "#!/bin/sh", 9, "a script"},
        {0, "MZ", 2, "DOS program"},
        {0, "\x1f\x8b", 2, "gzip-compressed data"},
        {0, "plain text", 10, "is not a kernel that ring3 knows"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t bytes[2048] = {0};
        memcpy(bytes + cases[i].offset, cases[i].bytes, cases[i].size);
        expect_refusal(bytes, sizeof bytes, cases[i].part);
        expect_refusal(bytes, cases[i].offset + cases[i].size, cases[i].part);
    }
    expect_refusal((const uint8_t *)"", 0, "is not a kernel");

    uint8_t pe[512] = "MZ";
    pe[0x3c] = 0x80;
    memcpy(pe + 0x80, "PE\0\0\x64\xaa\x01\0", 8);
    expect_refusal(pe, sizeof pe, "PE, ARM64");
    memcpy(pe + 0x84, "\x64\x86", 2);
    memcpy(pe + 0x98, ".linux\0", 8);
    expect_refusal(pe, sizeof pe, "unified kernel image");

    uint8_t packed[4096], inside[1024] = "070701";
    uint64_t size = compress_with(COMPRESSION_GZIP, inside, sizeof inside, packed, sizeof packed);
    expect_refusal(packed, size, "gzip-compressed: an initial ramdisk");
    memcpy(inside, "\177ELF\1\1", 6);
    size = compress_with(COMPRESSION_XZ, inside, sizeof inside, packed, sizeof packed);
    expect_refusal(packed, size, "is a xz-compressed ELF file; decompress it");
}

/* --- the memory map --- */

static void test_map(void **state)
{
    struct e820_map map = {0};
    assert_true(e820_set(&map, 0, 0xa0000, BOOT_RANGE_RAM, NULL));
    assert_true(e820_set(&map, MiB, 63 * MiB, BOOT_RANGE_RAM, NULL));
    assert_true(e820_set(&map, 4 * GiB, 0, BOOT_RANGE_RAM, NULL));
    assert_int_equal(map.count, 2);
    assert_true(e820_set(&map, 0x9fc00, 0x400, BOOT_RANGE_RESERVED, NULL));
    assert_int_equal(map.count, 3);
    assert_int_equal(map.ranges[0].size, 0x9fc00);
    assert_true(e820_set(&map, 0x9f000, 0xc00, BOOT_RANGE_RESERVED, NULL)); /* joins its neighbour */
    assert_int_equal(map.count, 3);
    assert_int_equal(map.ranges[1].base, 0x9f000);
    assert_int_equal(map.ranges[1].size, 0x1000);
    assert_true(e820_set(&map, 2 * MiB, MiB, BOOT_RANGE_NONE, NULL)); /* a hole */
    assert_int_equal(map.count, 4);
    assert_true(e820_is_ram(&map, MiB, MiB));
    assert_false(e820_is_ram(&map, MiB, MiB + 1));
    assert_false(e820_is_ram(&map, 2 * MiB, 1));
    assert_true(e820_is_ram(&map, 3 * MiB, 61 * MiB));
    assert_false(e820_is_ram(&map, 3 * MiB, UINT64_MAX));
    assert_false(e820_is_ram(&map, 0x9f000, 1));
    struct error err;
    assert_false(e820_set(&map, UINT64_MAX, 2, BOOT_RANGE_RAM, &err));
    for (unsigned i = map.count; i < E820_MAX; i++)
        assert_true(e820_set(&map, 8 * GiB + i * 2 * MiB, MiB, BOOT_RANGE_RAM, NULL));
    assert_false(e820_set(&map, 16 * GiB, MiB, BOOT_RANGE_RAM, &err));
    assert_int_equal(map.count, E820_MAX);
    for (unsigned i = 1; i < map.count; i++)
        assert_true(map.ranges[i - 1].base + map.ranges[i - 1].size <= map.ranges[i].base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decompress), cmocka_unit_test(test_bomb), cmocka_unit_test(test_read),
        cmocka_unit_test(test_refuse),     cmocka_unit_test(test_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
