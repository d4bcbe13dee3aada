/* The diskette controller: phases, seeks, data by DMA and through the FIFO, errors. */
#include "device_test.h"

#include <stdlib.h>
#include <unistd.h>

#include "device/fdc.h"
#include "host/block.h"

enum { DOR = 2, MSR = 4, FIFO = 5 };

struct fdc_bench {
    struct bench bench;
    struct fdc *fdc;
    struct block *block;
    char path[64];
    uint8_t memory[65536]; /* what "DMA" moves from and to */
    size_t at, size;
    bool dma_off;
    uint8_t result[10];
};

#define SECTORS 18u
#define IMAGE (80 * 2 * SECTORS * 512)

/* The first byte of each sector is the lower byte of its number, the second the upper. */
static void image_make(const char *path, unsigned size)
{
    FILE *file = fopen(path, "w");
    uint8_t sector[512] = {0};
    for (unsigned i = 0; i < size / 512; i++) {
        sector[0] = (uint8_t)i;
        sector[1] = (uint8_t)(i >> 8);
        sector[511] = 0xaa;
        fwrite(sector, 1, 512, file);
    }
    fclose(file);
}

static size_t dma(void *opaque, uint8_t *bytes, size_t n, bool to_memory, bool *terminal)
{
    struct fdc_bench *b = opaque;
    size_t left = b->size - b->at, take = n < left ? n : left;
    *terminal = false;
    if (b->dma_off)
        return 0;
    if (to_memory)
        memcpy(b->memory + b->at, bytes, take);
    else
        memcpy(bytes, b->memory + b->at, take);
    b->at += take;
    *terminal = take != 0 && b->at == b->size;
    return take;
}

static void bench_make(struct fdc_bench *b, unsigned size, bool read_only)
{
    bench_init(&b->bench);
    strcpy(b->path, "/tmp/ring3-fdc-XXXXXX");
    close(mkstemp(b->path));
    image_make(b->path, size);
    const struct block_options options = {.queue = &b->bench.queue, .read_only = read_only, .raw = true};
    b->block = block_open(b->path, &options, NULL);
    assert_non_null(b->block);
    struct fdc_config config = {
        .queue = &b->bench.queue, .irq = bench_line(&b->bench, 6), .dma = dma, .opaque = b};
    config.drive[0].present = true;
    config.drive[0].block = b->block;
    b->fdc = fdc_create(&config, NULL);
    assert_non_null(b->fdc);
}

static int setup(void **state)
{
    struct fdc_bench *b = test_calloc(1, sizeof *b);
    bench_make(b, IMAGE, false);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct fdc_bench *b = *state;
    fdc_destroy(b->fdc);
    block_close(b->block);
    unlink(b->path);
    test_free(b);
    return 0;
}

static uint8_t in(struct fdc_bench *b, unsigned port)
{
    return (uint8_t)bench_read(&fdc_ops, b->fdc, port, 1);
}

static void out(struct fdc_bench *b, unsigned port, uint8_t value)
{
    bench_write(&fdc_ops, b->fdc, port, 1, value);
}

static void command(struct fdc_bench *b, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(in(b, MSR) & 0xc0, 0x80);
        out(b, FIFO, (uint8_t)bytes[i]);
    }
}

/* Waits for the interrupt and reads the result. */
static unsigned result(struct fdc_bench *b)
{
    unsigned n = 0;
    bench_advance(&b->bench, NS_PER_S / 10);
    while ((in(b, MSR) & 0xd0) == 0xd0 && n < sizeof b->result)
        b->result[n++] = in(b, FIFO);
    return n;
}

/* Out of reset, with the data rate of 1.44M, the drive at track 0. */
static void start(struct fdc_bench *b)
{
    out(b, DOR, 0x1c);
    for (unsigned i = 0; i < 4; i++) {
        command(b, "\x08", 1);
        assert_int_equal(result(b), 2);
        assert_int_equal(b->result[0], 0xc0 + i);
    }
    command(b, "\x08", 1);
    assert_int_equal(result(b), 1);
    assert_int_equal(b->result[0], 0x80); /* nothing left to say */
    bench_write(&fdc_dir_ops, b->fdc, 0, 1, 0);
    command(b, "\x03\xaf\x02", 3);
    command(b, "\x07\x00", 2);
    bench_advance(&b->bench, NS_PER_S / 10);
    assert_true(b->bench.line[6].level);
    command(b, "\x08", 1);
    assert_int_equal(result(b), 2);
    assert_int_equal(b->result[0], 0x20);
    assert_false(b->bench.line[6].level);
}

static void seek(struct fdc_bench *b, uint8_t head_drive, uint8_t cylinder)
{
    const char bytes[] = {0x0f, (char)head_drive, (char)cylinder};
    command(b, bytes, 3);
    assert_int_equal(in(b, MSR) & 0xf, 1u << (head_drive & 3));
    bench_advance(&b->bench, NS_PER_S / 10);
    command(b, "\x08", 1);
    assert_int_equal(result(b), 2);
    assert_int_equal(b->result[1], cylinder);
}

/* A command with data; `size` is what DMA is programmed for. */
static unsigned transfer(struct fdc_bench *b, const char *bytes, size_t size)
{
    b->at = 0;
    b->size = size;
    command(b, bytes, 9);
    return result(b);
}

static void assert_result(struct fdc_bench *b, const char *bytes)
{
    assert_memory_equal(b->result, bytes, 7);
}

static unsigned sector_at(const struct fdc_bench *b, size_t at)
{
    assert_int_equal(b->memory[at + 511], 0xaa);
    return b->memory[at] | (unsigned)b->memory[at + 1] << 8;
}

static void test_reset(void **state)
{
    struct fdc_bench *b = *state;
    assert_int_equal(in(b, MSR), 0);
    assert_int_equal(in(b, 0), 0xff);
    out(b, FIFO, 0x10); /* in reset nothing is taken */
    out(b, DOR, 0x0c);
    assert_int_equal(in(b, MSR), 0x80);
    assert_true(b->bench.line[6].level);
    out(b, DOR, 0x04); /* the gate */
    assert_false(b->bench.line[6].level);
    out(b, DOR, 0x0c);
    assert_true(b->bench.line[6].level);
    start(b);
    command(b, "\x10", 1);
    assert_int_equal(result(b), 1);
    assert_int_equal(b->result[0], 0x90);
    command(b, "\x1f", 1); /* no command */
    assert_int_equal(result(b), 1);
    assert_int_equal(b->result[0], 0x80);
    command(b, "\x13\x00\x57\x11", 4); /* implied seek, no polling */
    command(b, "\x94", 1);
    assert_int_equal(result(b), 1);
    assert_int_equal(b->result[0], 0x10);
    out(b, 4, 0x80); /* a reset by DSR: locked, so the configuration stays, and nobody polls */
    assert_false(b->bench.line[6].level);
    command(b, "\x0e", 1);
    assert_int_equal(result(b), 10);
    assert_int_equal(b->result[4], 0xaf);
    assert_int_equal(b->result[7], 0x80);
    assert_int_equal(b->result[8], 0x57);
    assert_int_equal(b->result[9], 0x11);
    command(b, "\x04\x04", 2);
    assert_int_equal(result(b), 1);
    assert_int_equal(b->result[0], 0x3c); /* track 0, ready, two sides, head 1 */
    command(b, "\x04\x01", 2);
    result(b);
    assert_int_equal(b->result[0], 0x29); /* drive 1 is not there */
    assert_int_equal(fdc_drive_type(b->fdc, 0), FDC_DRIVE_1440K);
    assert_int_equal(fdc_drive_type(b->fdc, 1), FDC_DRIVE_NONE);
}

static void test_seek(void **state)
{
    struct fdc_bench *b = *state;
    start(b);
    seek(b, 0, 79);
    const char *up = "\xcf\x00\x05", *down = "\x8f\x00\x50";
    command(b, up, 3);
    bench_advance(&b->bench, NS_PER_S / 10);
    command(b, "\x08", 1);
    result(b);
    assert_int_equal(b->result[1], 84);
    command(b, down, 3);
    bench_advance(&b->bench, NS_PER_S / 10);
    command(b, "\x08", 1);
    result(b);
    assert_int_equal(b->result[1], 4);
    command(b, "\x07\x01", 2); /* a drive that is not there never finds track 0 */
    bench_advance(&b->bench, NS_PER_S / 10);
    command(b, "\x08", 1);
    result(b);
    assert_int_equal(b->result[0], 0x71);
}

static void test_read(void **state)
{
    struct fdc_bench *b = *state;
    start(b);
    assert_int_equal(transfer(b, "\xe6\x00\x00\x00\x02\x02\x12\x1b\xff", 1024), 7);
    assert_result(b, "\0\0\0\0\0\x04\x02");
    assert_int_equal(sector_at(b, 0), 1);
    assert_int_equal(sector_at(b, 512), 2);
    assert_false(b->bench.line[6].level);
    seek(b, 0, 10); /* both sides */
    assert_int_equal(transfer(b, "\xe6\x00\x0a\x00\x12\x02\x12\x1b\xff", 1024), 7);
    assert_result(b, "\x04\0\0\x0a\x01\x02\x02");
    assert_int_equal(sector_at(b, 0), 10 * 36 + 17);
    assert_int_equal(sector_at(b, 512), 10 * 36 + 18);
    transfer(b, "\xe6\x04\x0a\x01\x12\x02\x12\x1b\xff", 512); /* the last of the cylinder */
    assert_result(b, "\x04\0\0\x0b\0\x01\x02");
    transfer(b, "\x46\x00\x0a\x00\x12\x02\x12\x1b\xff", 1024); /* the end of the track comes first */
    assert_result(b, "\x40\x80\0\x0b\0\x01\x02");
    transfer(b, "\x46\x00\x0a\x00\x01\x02\x12\x1b\xff", 100); /* a part of a sector */
    assert_int_equal(b->result[0], 0);
    transfer(b, "\x42\x00\x0a\x00\x09\x02\x03\x1b\xff", 4096); /* three sectors from the index on */
    assert_int_equal(b->result[0], 0);
    assert_int_equal(b->at, 3 * 512);
    assert_int_equal(sector_at(b, 1024), 10 * 36 + 2);
}

static void test_read_errors(void **state)
{
    struct fdc_bench *b = *state;
    start(b);
    transfer(b, "\x46\x00\x05\x00\x01\x02\x12\x1b\xff", 512);
    assert_result(b, "\x40\x04\x10\x05\0\x01\x02"); /* another cylinder */
    transfer(b, "\x46\x00\x00\x00\x13\x02\x13\x1b\xff", 512);
    assert_result(b, "\x40\x04\0\0\0\x13\x02"); /* no such sector */
    transfer(b, "\x46\x00\x00\x01\x01\x02\x12\x1b\xff", 512);
    assert_result(b, "\x40\x04\0\0\x01\x01\x02"); /* the other side's */
    transfer(b, "\x46\x00\x00\x00\x01\x03\x12\x1b\xff", 512);
    assert_result(b, "\x40\x04\0\0\0\x01\x03"); /* another size */
    transfer(b, "\x46\x01\x00\x00\x01\x02\x12\x1b\xff", 512);
    assert_result(b, "\x41\x01\0\0\0\x01\x02"); /* no drive */
    b->dma_off = true;
    transfer(b, "\x46\x00\x00\x00\x01\x02\x12\x1b\xff", 512);
    assert_result(b, "\x40\x10\0\0\0\x01\x02"); /* overrun */
    b->dma_off = false;
    bench_write(&fdc_dir_ops, b->fdc, 0, 1, 2); /* 250 kbit/s */
    transfer(b, "\x46\x00\x00\x00\x01\x02\x12\x1b\xff", 512);
    assert_result(b, "\x40\x01\0\0\0\x01\x02");
    command(b, "\x4a\x00", 2);
    assert_int_equal(result(b), 7);
    assert_int_equal(b->result[0], 0x40);
    bench_write(&fdc_dir_ops, b->fdc, 0, 1, 0);
    command(b, "\x4a\x04", 2);
    assert_int_equal(result(b), 7);
    assert_memory_equal(b->result, "\x04\0\0\0\x01", 5);
    assert_in_range(b->result[5], 1, 18);
    command(b, "\x13\x00\x40\x00", 4); /* implied seek */
    transfer(b, "\x46\x00\x05\x00\x01\x02\x12\x1b\xff", 512);
    assert_int_equal(b->result[0], 0);
    assert_int_equal(sector_at(b, 0), 5 * 36);
}

static void test_write(void **state)
{
    struct fdc_bench *b = *state;
    start(b);
    memset(b->memory, 0x5a, 1024);
    transfer(b, "\x45\x00\x00\x00\x03\x02\x12\x1b\xff", 1024);
    assert_result(b, "\0\0\0\0\0\x05\x02");
    transfer(b, "\x45\x00\x00\x00\x07\x02\x12\x1b\xff", 10); /* the rest is zeros */
    assert_int_equal(b->result[0], 0);
    memset(b->memory, 0, sizeof b->memory);
    transfer(b, "\x46\x00\x00\x00\x03\x02\x12\x1b\xff", 5 * 512);
    assert_int_equal(b->memory[0], 0x5a);
    assert_int_equal(b->memory[1023], 0x5a);
    assert_int_equal(sector_at(b, 1024), 4);
    assert_int_equal(b->memory[4 * 512 + 9], 0x5a);
    assert_int_equal(b->memory[4 * 512 + 10], 0);
    assert_int_equal(b->memory[4 * 512 + 511], 0);

    for (unsigned i = 0; i < SECTORS; i++) /* the second side of cylinder 0, anew */
        memcpy(b->memory + 4 * i, (const uint8_t[]){0, 1, (uint8_t)(i + 1), 2}, 4);
    b->at = 0;
    b->size = 4 * SECTORS;
    command(b, "\x4d\x04\x02\x12\x54\xf6", 6);
    assert_int_equal(result(b), 7);
    assert_int_equal(b->result[0], 0x04);
    transfer(b, "\x46\x04\x00\x01\x01\x02\x12\x1b\xff", SECTORS * 512);
    for (unsigned i = 0; i < SECTORS * 512; i++)
        assert_int_equal(b->memory[i], 0xf6);
    b->at = 0;
    command(b, "\x4d\x04\x02\x09\x54\xf6", 6); /* nine sectors: another format */
    assert_int_equal(result(b), 7);
    assert_int_equal(b->result[0], 0x44);
    assert_int_equal(b->result[1], 0x04);
}

static void test_scan_and_verify(void **state)
{
    struct fdc_bench *b = *state;
    start(b);
    assert_int_equal(transfer(b, "\x56\x00\x00\x00\x01\x02\x12\x1b\xff", 0), 7); /* VERIFY to EOT */
    assert_result(b, "\0\0\0\x01\0\x01\x02");
    transfer(b, "\x56\x80\x00\x00\x01\x02\x12\x1b\x03", 0); /* three sectors */
    assert_result(b, "\0\0\0\0\0\x04\x02");
    memset(b->memory, 0, sizeof b->memory);
    for (unsigned i = 0; i < 3; i++) { /* the third sector is as we say */
        b->memory[512 * i] = i == 2 ? 2 : 0x77;
        b->memory[512 * i + 511] = 0xaa;
    }
    transfer(b, "\x51\x00\x00\x00\x01\x02\x12\x1b\x01", 3 * 512);
    assert_result(b, "\0\0\x08\0\0\x04\x02");
    transfer(b, "\x59\x00\x00\x00\x01\x02\x12\x1b\x01", 512); /* low: 0 is less than 77h */
    assert_result(b, "\0\0\0\0\0\x02\x02");
    transfer(b, "\x5d\x00\x00\x00\x01\x02\x02\x1b\x01", 3 * 512); /* high, to EOT: neither */
    assert_result(b, "\0\0\x04\x01\0\x01\x02");
}

/* Without DMA the processor moves each byte, at an interrupt each. */
static void test_pio(void **state)
{
    struct fdc_bench *b = *state;
    start(b);
    command(b, "\x03\xaf\x03", 3);
    command(b, "\x46\x00\x00\x00\x05\x02\x06\x1b\xff", 9);
    for (unsigned i = 0; i < 1024; i++) {
        bench_advance(&b->bench, NS_PER_S / 100);
        assert_int_equal(in(b, MSR), 0xf0);
        assert_true(b->bench.line[6].level);
        b->memory[i] = in(b, FIFO);
    }
    assert_int_equal(result(b), 7);
    assert_result(b, "\x40\x80\0\x01\0\x01\x02"); /* nobody says terminal count */
    assert_int_equal(sector_at(b, 0), 4);
    assert_int_equal(sector_at(b, 512), 5);
    command(b, "\x45\x00\x00\x00\x05\x02\x05\x1b\xff", 9);
    for (unsigned i = 0; i < 512; i++) {
        assert_int_equal(in(b, MSR), 0xb0);
        out(b, FIFO, (uint8_t)(i * 3));
    }
    assert_int_equal(result(b), 7);
    command(b, "\x46\x00\x00\x00\x05\x02\x05\x1b\xff", 9);
    for (unsigned i = 0; i < 512; i++) {
        bench_advance(&b->bench, NS_PER_S / 100);
        assert_int_equal(in(b, FIFO), (uint8_t)(i * 3));
    }
    result(b);
    command(b, "\x45\x00\x00\x00\x05\x02\x05\x1b\xff", 9); /* the diskette goes amid */
    for (unsigned i = 0; i < 512; i++) {
        if (i == 100)
            assert_true(fdc_set_medium(b->fdc, 0, NULL, NULL));
        out(b, FIFO, 0);
    }
    assert_int_equal(result(b), 7);
    assert_int_equal(b->result[1], 0x01);
}

static void test_media(void **state)
{
    struct fdc_bench *b = *state;
    start(b);
    assert_int_equal(bench_read(&fdc_dir_ops, b->fdc, 0, 1), 0); /* the drive has stepped */
    assert_true(fdc_set_medium(b->fdc, 0, NULL, NULL));
    assert_int_equal(bench_read(&fdc_dir_ops, b->fdc, 0, 1), 0x80);
    seek(b, 0, 3); /* does not help while none is in */
    assert_int_equal(bench_read(&fdc_dir_ops, b->fdc, 0, 1), 0x80);
    transfer(b, "\x46\x00\x03\x00\x01\x02\x12\x1b\xff", 512);
    assert_int_equal(b->result[1], 1);
    assert_true(fdc_set_medium(b->fdc, 0, b->block, NULL));
    assert_int_equal(bench_read(&fdc_dir_ops, b->fdc, 0, 1), 0x80);
    out(b, DOR, 0x0c); /* motor off: nobody looks */
    assert_int_equal(bench_read(&fdc_dir_ops, b->fdc, 0, 1), 0);
    out(b, DOR, 0x1c);
    seek(b, 0, 0);
    assert_int_equal(bench_read(&fdc_dir_ops, b->fdc, 0, 1), 0);

    b->at = 0; /* a diskette that is taken out, and a reset, while the image is read */
    b->size = 512;
    command(b, "\x46\x00\x00\x00\x01\x02\x12\x1b\xff", 9);
    assert_int_equal(in(b, MSR), 0x10);
    assert_true(fdc_set_medium(b->fdc, 0, NULL, NULL));
    assert_int_equal(result(b), 7);
    assert_int_equal(b->result[0], 0x40);
    assert_true(fdc_set_medium(b->fdc, 0, b->block, NULL));
    command(b, "\x46\x00\x00\x00\x01\x02\x12\x1b\xff", 9);
    fdc_reset(b->fdc);
    bench_advance(&b->bench, NS_PER_S);
    assert_int_equal(in(b, MSR), 0);
    assert_false(b->bench.line[6].level);
}

static void test_images(void **state)
{
    static const struct {
        unsigned kib, sectors, rate;
        enum fdc_drive_type type;
    } images[] = {
        {160, 8, 2, FDC_DRIVE_360K},   {180, 9, 2, FDC_DRIVE_360K},    {320, 8, 2, FDC_DRIVE_360K},
        {360, 9, 2, FDC_DRIVE_360K},   {720, 9, 2, FDC_DRIVE_720K},    {1200, 15, 0, FDC_DRIVE_1200K},
        {1440, 18, 0, FDC_DRIVE_1440K}, {2880, 36, 3, FDC_DRIVE_2880K}, {100, 18, 0, FDC_DRIVE_1440K},
    };
    for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
        struct fdc_bench *b = test_calloc(1, sizeof *b);
        bench_make(b, images[i].kib * 1024, i % 2 == 1);
        start(b);
        assert_int_equal(fdc_drive_type(b->fdc, 0), images[i].type);
        bench_write(&fdc_dir_ops, b->fdc, 0, 1, images[i].rate);
        char bytes[] = "\x46\x00\x00\x00\x01\x02\x12\x1b\xff";
        bytes[4] = (char)images[i].sectors;
        bytes[6] = (char)images[i].sectors;
        transfer(b, bytes, 512);
        assert_int_equal(b->result[0], 0);
        assert_int_equal(sector_at(b, 0), images[i].sectors - 1);
        bytes[4]++;
        bytes[6]++;
        transfer(b, bytes, 512);
        assert_int_equal(b->result[1], 4);
        bytes[0] = 0x45; /* written if it may be */
        bytes[4] = 1;
        transfer(b, bytes, 512);
        assert_int_equal(b->result[1], i % 2 == 1 ? 2 : 0);
        command(b, "\x04\x00", 2);
        result(b);
        assert_int_equal(b->result[0] & 0x40, i % 2 == 1 ? 0x40 : 0);
        void *p = b;
        teardown(&p);
    }
}

/* Behind the end of a short image are zeros, which cannot be written. */
static void test_short_image(void **state)
{
    struct fdc_bench *b = test_calloc(1, sizeof *b);
    bench_make(b, 100 * 1024, false);
    start(b);
    seek(b, 0, 79);
    memset(b->memory, 0xff, 512);
    transfer(b, "\x46\x00\x4f\x00\x01\x02\x12\x1b\xff", 512);
    assert_int_equal(b->result[0], 0);
    assert_int_equal(b->memory[511], 0);
    transfer(b, "\x45\x00\x4f\x00\x01\x02\x12\x1b\xff", 512);
    assert_int_equal(b->result[1], 4);
    teardown((void *[]){b});

    struct fdc_config config = {0};
    struct error err;
    b = test_calloc(1, sizeof *b);
    bench_make(b, 1024, false);
    fdc_destroy(b->fdc);
    block_close(b->block);
    assert_int_equal(truncate(b->path, FDC_IMAGE_MAX + 512), 0);
    const struct block_options options = {.queue = &b->bench.queue, .raw = true};
    config.queue = &b->bench.queue;
    config.drive[0].present = true;
    b->block = config.drive[0].block = block_open(b->path, &options, NULL);
    assert_null(fdc_create(&config, &err));
    assert_non_null(strstr(err.message, "more than a diskette holds"));
    b->fdc = NULL;
    teardown((void *[]){b});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seek, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scan_and_verify, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pio, setup, teardown),
        cmocka_unit_test_setup_teardown(test_media, setup, teardown),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_short_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
