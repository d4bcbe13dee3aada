/* The PIIX3's IDE function: registers, PIO, bus master, errors, resets, and a CD-ROM drive's packets. The primary
 * channel has a disk and a CD-ROM drive, the secondary one a disk that may not be written, alone. Images go by the
 * bench's clock. The oracle is ATA/ATAPI-6, MMC and the bus master specification, written into the test, and the
 * images' bytes. */
#include "device_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/ide.h"
#include "device/pci.h"
#include "host/block.h"

#define SECTORS 3000u /* 2 * 16 * 63 and some */
#define CD_SECTORS 100u
#define TABLE 0x1000u
#define BUFFER 0x10000u
#define BSY 0x80u
#define DRDY 0x40u
#define DF 0x20u
#define DRQ 0x08u
#define ERR 0x01u
#define LATENCY_NS 2000000u

enum { LINE_IRQ14, LINE_IRQ15 };

struct rig {
    struct bench bench;
    struct memory *memory;
    struct pci_host *host;
    struct ide *ide;
    int disk_fd, cd_fd;
    struct block *disk, *cd, *locked;
    unsigned notices; /* of watched memory */
    uint16_t base;    /* of the channel in use */
};

static void noticed(void *opaque, gpa_t gpa, unsigned size)
{
    ((struct rig *)opaque)->notices++;
}

/* A file whose words say where they are. */
static int file(unsigned bytes, uint32_t salt)
{
    int fd = memfd_create("image", 0);
    assert_true(fd >= 0);
    for (unsigned at = 0; at < bytes; at += 512) {
        uint32_t words[128];
        for (unsigned i = 0; i < 128; i++)
            words[i] = (at + 4 * i) ^ salt;
        assert_int_equal(pwrite(fd, words, 512, at), 512);
    }
    return fd;
}

static struct block *image(struct rig *rig, int fd, bool read_only)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct block_options options = {.read_only = read_only, .raw = true, .queue = &rig->bench.queue};
    struct block *block = block_open(path, &options, NULL);
    assert_non_null(block);
    return block;
}

static void set_up(struct rig *rig)
{
    memset(rig, 0, sizeof *rig);
    bench_init(&rig->bench);
    rig->memory = memory_create(1 * MiB, NULL, NULL);
    memory_set_watcher(rig->memory, noticed, rig);
    rig->host = pci_host_create(rig->memory);
    rig->disk_fd = file(SECTORS * 512, 0);
    rig->cd_fd = file(CD_SECTORS * 2048, 0xcd000000);
    rig->disk = image(rig, rig->disk_fd, false);
    rig->cd = image(rig, rig->cd_fd, true);
    int fd = file(2048 * 512, 0x10000000);
    rig->locked = image(rig, fd, true);
    close(fd);
    const struct ide_config config = {
        .unit = {{{IDE_DISK, rig->disk, "SERIAL 1"}, {IDE_CDROM, rig->cd, "CD 1"}}, {{IDE_DISK, rig->locked, "2"}}},
        .irq = {bench_line(&rig->bench, LINE_IRQ14), bench_line(&rig->bench, LINE_IRQ15)},
        .command_port = {0x1f0, 0x170},
        .control_port = {0x3f6, 0x376},
        .memory = rig->memory,
    };
    rig->ide = ide_create(rig->host, 1, &config, NULL);
    assert_non_null(rig->ide);
    assert_int_equal(memory_port_read(rig->memory, 0x1f7, 1), 0xff); /* not enabled yet */
    pci_host_write(rig->host, 1, 1, 0x40, 4, 0x80008000);
    pci_host_write(rig->host, 1, 1, 0x20, 4, 0xc000);
    pci_host_write(rig->host, 1, 1, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    rig->base = 0x1f0;
}

static void tear_down(struct rig *rig)
{
    ide_destroy(rig->ide);
    pci_host_destroy(rig->host);
    block_close(rig->disk);
    block_close(rig->cd);
    block_close(rig->locked);
    memory_destroy(rig->memory);
    close(rig->disk_fd);
    close(rig->cd_fd);
}

/* ---- a driver's hands ---- */

static uint32_t in(struct rig *rig, unsigned offset, unsigned size)
{
    return memory_port_read(rig->memory, (uint16_t)(rig->base + offset), size);
}

static void out(struct rig *rig, unsigned offset, unsigned size, uint32_t value)
{
    memory_port_write(rig->memory, (uint16_t)(rig->base + offset), size, value);
}

static unsigned status(struct rig *rig)
{
    return memory_port_read(rig->memory, rig->base == 0x1f0 ? 0x3f6 : 0x376, 1);
}

static void control(struct rig *rig, uint8_t value)
{
    memory_port_write(rig->memory, rig->base == 0x1f0 ? 0x3f6 : 0x376, 1, value);
}

static unsigned bm_status(struct rig *rig)
{
    return memory_port_read(rig->memory, 0xc002, 1);
}

/* Until it is not busy; then what the status register says, which ends the interrupt. */
static unsigned settle(struct rig *rig)
{
    for (unsigned i = 0; i < 100 && status(rig) & BSY; i++)
        bench_advance(&rig->bench, LATENCY_NS);
    return in(rig, 7, 1);
}

static void command(struct rig *rig, uint32_t lba, unsigned count, uint8_t code)
{
    out(rig, 6, 1, 0xe0 | (lba >> 24 & 0xf));
    out(rig, 2, 1, count);
    for (unsigned i = 0; i < 3; i++)
        out(rig, 3 + i, 1, lba >> (8 * i) & 0xff);
    out(rig, 7, 1, code);
}

static void command_ext(struct rig *rig, uint64_t lba, unsigned count, uint8_t code)
{
    out(rig, 6, 1, 0xe0);
    out(rig, 2, 1, count >> 8);
    out(rig, 2, 1, count & 0xff);
    for (unsigned i = 0; i < 3; i++) {
        out(rig, 3 + i, 1, (uint8_t)(lba >> (24 + 8 * i)));
        out(rig, 3 + i, 1, (uint8_t)(lba >> (8 * i)));
    }
    out(rig, 7, 1, code);
}

/* One that moves no data. */
static void expect(struct rig *rig, uint8_t code, uint8_t feature, unsigned count, unsigned wanted)
{
    out(rig, 1, 1, feature);
    command(rig, 0, count, code);
    assert_int_equal(settle(rig) & (BSY | DRQ | ERR | DF), wanted);
}

static void read_block(struct rig *rig, void *to, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 2) {
        uint16_t word = (uint16_t)in(rig, 0, 2);
        memcpy((uint8_t *)to + i, &word, bytes - i < 2 ? 1 : 2);
    }
}

static void write_block(struct rig *rig, const void *from, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 4) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)from + i, 4);
        out(rig, 0, 4, word);
    }
}

static void expect_sectors(const void *bytes, uint32_t lba, unsigned count, uint32_t salt)
{
    for (unsigned i = 0; i < count * 128; i++)
        assert_int_equal(((const uint32_t *)bytes)[i], (lba * 512 + 4 * i) ^ salt);
}

static void prd(struct rig *rig, unsigned n, uint32_t base, uint32_t size, bool last)
{
    uint32_t words[2] = {base, size | (last ? 0x80000000u : 0)};
    memory_write(rig->memory, TABLE + 8 * n, words, 8);
}

static void bm_start(struct rig *rig, bool to_memory)
{
    memory_port_write(rig->memory, 0xc004, 4, TABLE);
    memory_port_write(rig->memory, 0xc002, 1, 0x66);
    memory_port_write(rig->memory, 0xc000, 1, to_memory ? 9 : 1);
}

/* ---- disks ---- */

static void test_identify(void **state)
{
    struct rig rig;
    uint16_t words[256];
    uint8_t sum = 0;
    set_up(&rig);
    command(&rig, 0, 0, 0xec);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, 1);
    assert_int_equal(settle(&rig), 0x58);
    assert_false(rig.bench.line[LINE_IRQ14].level);
    read_block(&rig, words, 512);
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(words[1], SECTORS / (16 * 63));
    assert_int_equal(words[60] | words[61] << 16, SECTORS);
    assert_int_equal(words[100], SECTORS);
    assert_int_equal(words[10], 'S' << 8 | 'E');
    assert_int_equal(words[83] & 0xc400, 0x4400); /* valid, 48 bits */
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + ((uint8_t *)words)[i]);
    assert_int_equal(sum, 0);
    tear_down(&rig);
}

static void test_absent(void **state)
{
    struct rig rig;
    set_up(&rig);
    rig.base = 0x170;
    out(&rig, 6, 1, 0xa0);
    assert_int_equal(in(&rig, 7, 1), 0x50);
    out(&rig, 6, 1, 0xb0); /* device 1: device 0 answers for it */
    assert_int_equal(in(&rig, 7, 1), 0);
    assert_int_equal(status(&rig), 0);
    out(&rig, 7, 1, 0xec);
    bench_advance(&rig.bench, LATENCY_NS);
    assert_int_equal(in(&rig, 7, 1), 0);
    assert_int_equal(rig.bench.line[LINE_IRQ15].rises, 0);
    /* Signatures, after SRST. */
    rig.base = 0x1f0;
    control(&rig, 4);
    assert_int_equal(status(&rig), BSY);
    control(&rig, 0);
    assert_int_equal(in(&rig, 7, 1), 0x50);
    assert_int_equal(in(&rig, 2, 1) | in(&rig, 3, 1) << 8 | in(&rig, 4, 1) << 16 | in(&rig, 5, 1) << 24, 0x00000101);
    assert_int_equal(in(&rig, 1, 1), 1);
    out(&rig, 6, 1, 0xb0);
    assert_int_equal(in(&rig, 7, 1), 0);
    assert_int_equal(in(&rig, 2, 1) | in(&rig, 3, 1) << 8 | in(&rig, 4, 1) << 16 | in(&rig, 5, 1) << 24, 0xeb140101);
    tear_down(&rig);
}

static void test_pio(void **state)
{
    struct rig rig;
    uint8_t bytes[8 * 512], back[8 * 512];
    set_up(&rig);
    command(&rig, 5, 3, 0x20);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(settle(&rig), 0x58);
        read_block(&rig, bytes, 512);
        expect_sectors(bytes, 5 + i, 1, 0);
    }
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, 3); /* one for each block, none at the end */
    assert_int_equal(in(&rig, 3, 1), 7);
    /* Written: an interrupt for each block but the first, and one at the end. */
    memset(bytes, 0x5a, sizeof bytes);
    command(&rig, 10, 3, 0x30);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(settle(&rig), 0x58);
        write_block(&rig, bytes + 512 * i, 512);
    }
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, 6);
    assert_int_equal(pread(rig.disk_fd, back, 3 * 512, 10 * 512), 3 * 512);
    assert_memory_equal(back, bytes, 3 * 512);
    /* READ MULTIPLE wants a count first. */
    command(&rig, 20, 4, 0xc4);
    assert_int_equal(settle(&rig) & ERR, ERR);
    expect(&rig, 0xc6, 0, 3, ERR);
    expect(&rig, 0xc6, 0, 2, 0);
    unsigned rises = rig.bench.line[LINE_IRQ14].rises;
    command(&rig, 20, 4, 0xc4);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(settle(&rig), 0x58);
        read_block(&rig, bytes + 1024 * i, 1024);
    }
    expect_sectors(bytes, 20, 4, 0);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, rises + 2);
    /* nIEN. */
    control(&rig, 2);
    expect(&rig, 0xe5, 0, 0, 0);
    assert_int_equal(in(&rig, 2, 1), 0xff);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, rises + 2);
    tear_down(&rig);
}

static void test_addresses(void **state)
{
    struct rig rig;
    uint8_t bytes[512];
    set_up(&rig);
    command_ext(&rig, SECTORS - 1, 1, 0x24);
    assert_int_equal(settle(&rig), 0x58);
    read_block(&rig, bytes, 512);
    expect_sectors(bytes, SECTORS - 1, 1, 0);
    const struct {
        uint64_t lba;
        unsigned count;
    } beyond[] = {{SECTORS, 1}, {SECTORS - 1, 2}, {1ull << 40, 1}, {0xffffffffffff, 0xffff}, {0, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(beyond); i++) { /* a count of 0 is 65536 */
        command_ext(&rig, beyond[i].lba, beyond[i].count, 0x24);
        assert_int_equal(settle(&rig), 0x51);
        assert_int_equal(in(&rig, 1, 1), 0x10);
    }
    /* Behind HOB there is what was written first. */
    out(&rig, 4, 1, 0x12);
    out(&rig, 4, 1, 0x34);
    control(&rig, 0x80);
    assert_int_equal(in(&rig, 4, 1), 0x12);
    out(&rig, 2, 1, 0);
    assert_int_equal(in(&rig, 4, 1), 0x34);
    /* Cylinder 1, head 2, sector 3 of 16 heads and 63 sectors. */
    out(&rig, 6, 1, 0xa2);
    out(&rig, 2, 1, 1);
    out(&rig, 3, 1, 3);
    out(&rig, 4, 1, 1);
    out(&rig, 5, 1, 0);
    out(&rig, 7, 1, 0x20);
    assert_int_equal(settle(&rig), 0x58);
    read_block(&rig, bytes, 512);
    expect_sectors(bytes, (16 + 2) * 63 + 2, 1, 0);
    out(&rig, 3, 1, 0); /* there is no sector 0 */
    out(&rig, 2, 1, 1);
    out(&rig, 7, 1, 0x20);
    assert_int_equal(settle(&rig), 0x51);
    assert_int_equal(in(&rig, 1, 1), 0x10);
    tear_down(&rig);
}

static void test_dma(void **state)
{
    struct rig rig;
    static uint8_t bytes[64 * 512];
    set_up(&rig);
    memory_watch(rig.memory, BUFFER >> PAGE_SHIFT, PAGE_CODE);
    /* As long as the transfer. */
    prd(&rig, 0, BUFFER, 1024, false);
    prd(&rig, 1, BUFFER + 0x8000, 3 * 512 - 1024, true);
    command(&rig, 100, 3, 0xc8);
    assert_int_equal(status(&rig) & BSY, BSY); /* nothing happens before the bus master starts */
    bench_advance(&rig.bench, LATENCY_NS);
    assert_int_equal(status(&rig) & BSY, BSY);
    bm_start(&rig, true);
    assert_int_equal(bm_status(&rig) & 7, 1);
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(bm_status(&rig) & 7, 4);
    memory_read(rig.memory, BUFFER, bytes, 1024);
    memory_read(rig.memory, BUFFER + 0x8000, bytes + 1024, 512);
    expect_sectors(bytes, 100, 3, 0);
    assert_true(rig.notices > 0);
    /* A longer table: still active. */
    prd(&rig, 0, BUFFER, 0, true);
    memory_port_write(rig.memory, 0xc000, 1, 0);
    command(&rig, 7, 64, 0xc8);
    bm_start(&rig, true);
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(bm_status(&rig) & 7, 5);
    memory_read(rig.memory, BUFFER, bytes, sizeof bytes);
    expect_sectors(bytes, 7, 64, 0);
    /* A shorter one: no interrupt, the device waits; with another table it goes on. */
    prd(&rig, 0, BUFFER, 512, true);
    memory_port_write(rig.memory, 0xc000, 1, 0);
    command(&rig, 200, 2, 0xc8);
    bm_start(&rig, true);
    bench_advance(&rig.bench, LATENCY_NS);
    assert_int_equal(bm_status(&rig) & 7, 0);
    assert_int_equal(status(&rig) & BSY, BSY);
    prd(&rig, 0, BUFFER + 512, 512, true);
    memory_port_write(rig.memory, 0xc000, 1, 0);
    bm_start(&rig, true);
    assert_int_equal(settle(&rig), 0x50);
    memory_read(rig.memory, BUFFER, bytes, 1024);
    expect_sectors(bytes, 200, 2, 0);
    tear_down(&rig);
}

static void test_dma_hostile(void **state)
{
    struct rig rig;
    static uint8_t bytes[512];
    set_up(&rig);
    /* A region that is not memory, and a table that is not. */
    for (unsigned i = 0; i < 2; i++) {
        prd(&rig, 0, i == 0 ? 0xf0000000u : BUFFER, 512, true);
        command(&rig, 0, 1, 0xc8);
        bm_start(&rig, true);
        if (i == 1) {
            memory_port_write(rig.memory, 0xc000, 1, 0);
            control(&rig, 4);
            control(&rig, 0);
            command(&rig, 0, 1, 0xc8);
            memory_port_write(rig.memory, 0xc004, 4, 0xfffffff8);
            memory_port_write(rig.memory, 0xc002, 1, 6);
            memory_port_write(rig.memory, 0xc000, 1, 9);
        }
        assert_int_equal(settle(&rig) & (BSY | ERR), ERR);
        assert_int_equal(in(&rig, 1, 1), 0x04);
        assert_int_equal(bm_status(&rig) & 3, 2);
        memory_port_write(rig.memory, 0xc000, 1, 0);
    }
    /* A table without an end, of the smallest regions, which wraps in its 64 KiB. */
    for (unsigned i = 0; i < 0x10000 / 8; i++)
        prd(&rig, i, BUFFER + 0x10000, 2, false);
    command(&rig, 0, 0, 0xc8);
    bm_start(&rig, true);
    assert_int_equal(settle(&rig), 0x50);
    /* Without permission to be a bus master nothing moves until there is. */
    memory_port_write(rig.memory, 0xc000, 1, 0);
    pci_host_write(rig.host, 1, 1, PCI_COMMAND, 2, PCI_COMMAND_IO);
    prd(&rig, 0, BUFFER, 512, true);
    command(&rig, 9, 1, 0xc8);
    bm_start(&rig, true);
    bench_advance(&rig.bench, LATENCY_NS);
    assert_int_equal(status(&rig) & BSY, BSY);
    pci_host_write(rig.host, 1, 1, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    assert_int_equal(settle(&rig), 0x50);
    memory_read(rig.memory, BUFFER, bytes, 512);
    expect_sectors(bytes, 9, 1, 0);
    /* Stopped amid, then reset: nothing comes any more. */
    memset(bytes, 0xee, sizeof bytes);
    memory_write(rig.memory, BUFFER, bytes, sizeof bytes);
    memory_port_write(rig.memory, 0xc000, 1, 0);
    command(&rig, 11, 1, 0xc8);
    bm_start(&rig, true);
    memory_port_write(rig.memory, 0xc000, 1, 0);
    unsigned rises = rig.bench.line[LINE_IRQ14].rises;
    bench_advance(&rig.bench, LATENCY_NS);
    assert_int_equal(status(&rig) & BSY, BSY);
    control(&rig, 4);
    control(&rig, 0);
    bench_advance(&rig.bench, LATENCY_NS);
    assert_int_equal(status(&rig), 0x50);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, rises);
    memory_read(rig.memory, BUFFER, bytes, 512);
    assert_int_equal(bytes[0], 0xee);
    /* Two devices, one bus master: the second waits its turn. */
    command(&rig, 1, 1, 0xc8);
    bm_start(&rig, true);
    pci_host_reset(rig.host);
    bench_advance(&rig.bench, LATENCY_NS);
    assert_int_equal(rig.bench.line[LINE_IRQ14].rises, rises);
    tear_down(&rig);
}

static void test_commands(void **state)
{
    struct rig rig;
    uint8_t bytes[512] = {0};
    set_up(&rig);
    expect(&rig, 0x00, 0, 0, ERR);    /* NOP */
    expect(&rig, 0x08, 0, 0, ERR);    /* DEVICE RESET is for packet devices */
    expect(&rig, 0x10, 0, 0, 0);      /* RECALIBRATE */
    expect(&rig, 0x40, 0, 0, 0);      /* READ VERIFY of 256 */
    expect(&rig, 0x70, 0, 0, 0);      /* SEEK */
    expect(&rig, 0x91, 0, 32, 0);     /* INITIALIZE DEVICE PARAMETERS */
    expect(&rig, 0x91, 0, 0, ERR);
    expect(&rig, 0xe7, 0, 0, 0);      /* FLUSH CACHE */
    expect(&rig, 0xea, 0, 0, 0);
    expect(&rig, 0xef, 3, 0x22, 0);   /* multiword DMA 2 */
    expect(&rig, 0xef, 3, 0x45, 0);   /* Ultra DMA 5 */
    expect(&rig, 0xef, 3, 0x46, ERR); /* not 6 */
    expect(&rig, 0xef, 3, 0x18, ERR);
    expect(&rig, 0xef, 0x82, 0, 0);   /* write cache off, on */
    expect(&rig, 0xef, 0x02, 0, 0);
    expect(&rig, 0xef, 0x99, 0, ERR);
    expect(&rig, 0xe0, 0, 0, 0);      /* STANDBY IMMEDIATE */
    expect(&rig, 0xe5, 0, 0, 0);
    assert_int_equal(in(&rig, 2, 1), 0);
    expect(&rig, 0xe1, 0, 0, 0);
    expect(&rig, 0xe5, 0, 0, 0);
    assert_int_equal(in(&rig, 2, 1), 0xff);
    expect(&rig, 0xf8, 0, 0, 0);      /* READ NATIVE MAX ADDRESS */
    assert_int_equal(in(&rig, 3, 1) | in(&rig, 4, 1) << 8 | in(&rig, 5, 1) << 16, SECTORS - 1);
    expect(&rig, 0xb0, 0xd8, 0, ERR); /* SMART */
    expect(&rig, 0xff, 0, 0, ERR);
    /* EXECUTE DEVICE DIAGNOSTIC: both, and device 0 is selected. */
    out(&rig, 6, 1, 0xb0);
    out(&rig, 7, 1, 0x90);
    assert_int_equal(in(&rig, 6, 1), 0);
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(in(&rig, 1, 1), 1);
    /* TRIM: sectors 40 to 47 and 100, and an entry without length. */
    const uint64_t entries[64] = {40 | 8ull << 48, 12345, 100 | 1ull << 48};
    memory_write(rig.memory, BUFFER, entries, 512);
    prd(&rig, 0, BUFFER, 512, true);
    out(&rig, 1, 1, 1);
    command_ext(&rig, 0, 1, 0x06);
    bm_start(&rig, false);
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(pread(rig.disk_fd, bytes, 512, 47 * 512), 512);
    assert_int_equal(bytes[1], 0); /* memfds give zeros for what was discarded */
    assert_int_equal(pread(rig.disk_fd, bytes, 512, 48 * 512), 512);
    expect_sectors(bytes, 48, 1, 0);
    out(&rig, 1, 1, 1);
    command_ext(&rig, 0, 9, 0x06); /* more blocks than word 105 says */
    assert_int_equal(settle(&rig) & ERR, ERR);
    /* SLEEP: only a reset helps. */
    expect(&rig, 0xe6, 0, 0, 0);
    out(&rig, 7, 1, 0xec);
    assert_int_equal(status(&rig), 0x50);
    control(&rig, 4);
    control(&rig, 0);
    expect(&rig, 0xe5, 0, 0, 0);
    tear_down(&rig);
}

static void test_errors(void **state)
{
    struct rig rig;
    uint8_t bytes[512];
    set_up(&rig);
    /* Writing what may not be written. */
    rig.base = 0x170;
    command(&rig, 0, 1, 0x30);
    assert_int_equal(settle(&rig), 0x51);
    assert_int_equal(in(&rig, 1, 1), 0x04);
    command(&rig, 3, 1, 0x20);
    assert_int_equal(settle(&rig), 0x58);
    read_block(&rig, bytes, 512);
    expect_sectors(bytes, 3, 1, 0x10000000);
    /* The image has become shorter: UNC, and where. */
    rig.base = 0x1f0;
    assert_int_equal(ftruncate(rig.disk_fd, 1000 * 512), 0);
    command(&rig, 998, 4, 0x20);
    assert_int_equal(settle(&rig), 0x51);
    assert_int_equal(in(&rig, 1, 1), 0x40);
    assert_int_equal(in(&rig, 3, 1) | in(&rig, 4, 1) << 8, 1000);
    prd(&rig, 0, BUFFER, 0, true);
    command(&rig, 998, 4, 0xc8);
    bm_start(&rig, true);
    assert_int_equal(settle(&rig), 0x51);
    assert_int_equal(in(&rig, 1, 1), 0x40);
    assert_int_equal(bm_status(&rig) & 6, 4); /* the device's error, not the bus's */
    tear_down(&rig);
}

/* ---- the CD-ROM drive ---- */

/* Sends a packet; returns the status after it. */
static unsigned packet(struct rig *rig, const uint8_t bytes[12], unsigned limit, bool dma)
{
    out(rig, 6, 1, 0xb0);
    out(rig, 1, 1, dma);
    out(rig, 4, 1, limit & 0xff);
    out(rig, 5, 1, limit >> 8);
    out(rig, 7, 1, 0xa0);
    assert_int_equal(status(rig) & (BSY | DRQ), DRQ);
    assert_int_equal(in(rig, 2, 1) & 3, 1); /* a command, to the device */
    for (unsigned i = 0; i < 12; i += 2)
        out(rig, 0, 2, (uint32_t)bytes[i] | (uint32_t)bytes[i + 1] << 8);
    return dma ? 0 : settle(rig);
}
#define PACKET(...) ((const uint8_t[12]){__VA_ARGS__})

/* All data of a reply, piece by piece; returns how many bytes. */
static unsigned reply(struct rig *rig, uint8_t *bytes, unsigned limit)
{
    unsigned total = 0;
    while (status(rig) & DRQ) {
        assert_int_equal(in(rig, 2, 1) & 3, 2);
        unsigned n = in(rig, 4, 1) | in(rig, 5, 1) << 8;
        assert_true(n > 0 && n <= limit);
        read_block(rig, bytes + total, n);
        total += n;
        settle(rig);
    }
    assert_int_equal(in(rig, 2, 1) & 3, 3);
    return total;
}

static void expect_sense(struct rig *rig, unsigned key, unsigned asc)
{
    uint8_t bytes[18];
    assert_int_equal(in(rig, 1, 1) >> 4, key);
    packet(rig, PACKET(0x03, 0, 0, 0, 18), 64, false);
    assert_int_equal(reply(rig, bytes, 64), 18);
    assert_int_equal(bytes[0], 0x70);
    assert_int_equal(bytes[2], key);
    assert_int_equal(bytes[12], asc);
}

static void cd_ready(struct rig *rig)
{
    set_up(rig);
    assert_int_equal(packet(rig, PACKET(0), 0, false) & ERR, ERR);
    expect_sense(rig, 6, 0x29); /* the power-on */
    assert_int_equal(packet(rig, PACKET(0), 0, false), 0x50);
}

static void test_cd_identity(void **state)
{
    struct rig rig;
    uint8_t bytes[2048];
    cd_ready(&rig);
    out(&rig, 7, 1, 0xec);
    assert_int_equal(settle(&rig) & ERR, ERR);
    assert_int_equal(in(&rig, 4, 1), 0x14);
    out(&rig, 7, 1, 0xa1);
    assert_int_equal(settle(&rig), 0x58);
    read_block(&rig, bytes, 512);
    assert_int_equal(bytes[1], 0x85);
    packet(&rig, PACKET(0x12, 0, 0, 0, 36), 10, false); /* in pieces of 10 */
    assert_int_equal(reply(&rig, bytes, 10), 36);
    assert_int_equal(bytes[0], 5);
    assert_memory_equal(bytes + 8, "RING3   CD-ROM", 14);
    packet(&rig, PACKET(0x25), 64, false);
    assert_int_equal(reply(&rig, bytes, 64), 8);
    assert_memory_equal(bytes, "\0\0\0\x63\0\0\x08\0", 8);
    packet(&rig, PACKET(0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64), 64, false);
    assert_int_equal(reply(&rig, bytes, 64), 28);
    assert_int_equal(bytes[8], 0x2a);
    packet(&rig, PACKET(0x1a, 0, 0x3f, 0, 255), 64, false);
    assert_int_equal(reply(&rig, bytes, 64), 4 + 8 + 20);
    packet(&rig, PACKET(0x46, 0, 0, 0, 0, 0, 0, 0, 255), 256, false);
    unsigned length = reply(&rig, bytes, 256);
    assert_int_equal(bytes[3], length - 4);
    assert_int_equal(bytes[7], 8); /* a CD-ROM */
    packet(&rig, PACKET(0x43, 2, 0, 0, 0, 0, 0, 0, 20), 64, false);
    assert_int_equal(reply(&rig, bytes, 64), 20);
    assert_memory_equal(bytes, "\0\x12\x01\x01\0\x14\x01\0\0\0\x02\0\0\x14\xaa\0\0\0\x03\x19", 20);
    packet(&rig, PACKET(0x51, 0, 0, 0, 0, 0, 0, 0, 34), 64, false);
    assert_int_equal(reply(&rig, bytes, 64), 34);
    packet(&rig, PACKET(0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8), 64, false);
    assert_int_equal(reply(&rig, bytes, 64), 8);
    packet(&rig, PACKET(0xfe), 64, false);
    expect_sense(&rig, 5, 0x20);
    tear_down(&rig);
}

static void test_cd_reading(void **state)
{
    struct rig rig;
    static uint8_t bytes[8 * 2048];
    cd_ready(&rig);
    packet(&rig, PACKET(0x28, 0, 0, 0, 0, 7, 0, 0, 2), 3000, false);
    assert_int_equal(reply(&rig, bytes, 3000), 2 * 2048);
    expect_sectors(bytes, 7 * 4, 8, 0xcd000000);
    packet(&rig, PACKET(0xbe, 8, 0, 0, 0, 9, 0, 0, 1, 0x10), 0xffff, false);
    assert_int_equal(reply(&rig, bytes, 0xfffe), 2048);
    expect_sectors(bytes, 9 * 4, 4, 0xcd000000);
    prd(&rig, 0, BUFFER, 8 * 2048, true);
    packet(&rig, PACKET(0xa8, 0, 0, 0, 0, 90, 0, 0, 0, 8), 0, true);
    bm_start(&rig, true);
    assert_int_equal(settle(&rig), 0x50);
    assert_int_equal(bm_status(&rig) & 7, 4);
    memory_read(rig.memory, BUFFER, bytes, sizeof bytes);
    expect_sectors(bytes, 90 * 4, 32, 0xcd000000);
    packet(&rig, PACKET(0x28, 0, 0, 0, 0, 99, 0, 0, 2), 2048, false);
    expect_sense(&rig, 5, 0x21);
    packet(&rig, PACKET(0x28, 0, 0, 0, 0, 0, 0, 0, 0), 2048, false); /* of nothing */
    assert_int_equal(in(&rig, 7, 1), 0x50);
    packet(&rig, PACKET(0xbe, 0, 0, 0, 0, 9, 0, 0, 1, 0xf8), 0xffff, false); /* raw sectors */
    expect_sense(&rig, 5, 0x24);
    assert_int_equal(ftruncate(rig.cd_fd, 2048 * 50), 0);
    packet(&rig, PACKET(0x28, 0, 0, 0, 0, 60, 0, 0, 1), 2048, false);
    expect_sense(&rig, 3, 0x11);
    tear_down(&rig);
}

static void test_cd_medium(void **state)
{
    struct rig rig;
    uint8_t bytes[8];
    cd_ready(&rig);
    packet(&rig, PACKET(0x1e, 0, 0, 0, 1), 0, false); /* locked */
    packet(&rig, PACKET(0x1b, 0, 0, 0, 2), 0, false);
    expect_sense(&rig, 5, 0x53);
    packet(&rig, PACKET(0x1e, 0, 0, 0, 0), 0, false);
    packet(&rig, PACKET(0x1b, 0, 0, 0, 2), 0, false); /* opened */
    packet(&rig, PACKET(0x25), 8, false);
    expect_sense(&rig, 2, 0x3a);
    packet(&rig, PACKET(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 8, false);
    assert_int_equal(reply(&rig, bytes, 8), 8);
    assert_int_equal(bytes[5], 1);
    packet(&rig, PACKET(0x1b, 0, 0, 0, 3), 0, false); /* and closed */
    packet(&rig, PACKET(0), 0, false);
    expect_sense(&rig, 6, 0x28);
    packet(&rig, PACKET(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 8, false);
    reply(&rig, bytes, 8);
    assert_int_equal(bytes[4], 2);
    assert_int_equal(bytes[5], 2);
    /* Changed by the user, while it is being read. */
    packet(&rig, PACKET(0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0, true);
    bm_start(&rig, true);
    ide_change_medium(rig.ide, 0, 1, NULL);
    assert_int_equal(settle(&rig) & ERR, ERR);
    packet(&rig, PACKET(0), 0, false);
    expect_sense(&rig, 2, 0x3a);
    ide_change_medium(rig.ide, 0, 1, rig.cd);
    packet(&rig, PACKET(0), 0, false);
    expect_sense(&rig, 6, 0x28);
    assert_int_equal(packet(&rig, PACKET(0), 0, false), 0x50);
    tear_down(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identify),    cmocka_unit_test(test_absent),   cmocka_unit_test(test_pio),
        cmocka_unit_test(test_addresses),   cmocka_unit_test(test_dma),      cmocka_unit_test(test_dma_hostile),
        cmocka_unit_test(test_commands),    cmocka_unit_test(test_errors),   cmocka_unit_test(test_cd_identity),
        cmocka_unit_test(test_cd_reading),  cmocka_unit_test(test_cd_medium),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
