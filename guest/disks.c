/* IDE disks from a driver's side: string instructions on the data port in every shape, bus master DMA, flushes.
 *
 *     (no argument)  checks, on a disk of at least 8 MiB as primary master; what they write is "line" below
 *     speed          reads 64 MiB by PIO and by DMA, and says how long it took
 *     rounds         for ever: a block of 4 KiB is written and flushed, then acknowledged on the debug console, for who
 *                    kills the monitor and looks what the image holds
 *
 * A line is 32 bytes: "block BBBBBBBB round RRRRRRRR ....\n", with BBBBBBBB the number of the 4 KiB block and RRRRRRRR
 * the round, in hexadecimal; a block is 128 of them.
 *
 * ATA/ATAPI-6; Programming Interface for Bus Master IDE Controller 1.0. */
#include "guest.h"

#define DATA 0x1f0
#define COUNT 0x1f2
#define LBA0 0x1f3
#define LBA1 0x1f4
#define LBA2 0x1f5
#define DEVICE 0x1f6
#define COMMAND 0x1f7
#define CONTROL 0x3f6
#define BM 0xc000 /* where the machine puts it for kernels that are started directly */
#define BSY 0x80
#define DRQ 0x08
#define ERR 0x01

#define BLOCK 4096u
#define SECTORS (BLOCK / 512)

static uint8_t *buffer, *other;

CODE(rep_insw, "rep insw");
CODE(rep_insl, "rep insl");
CODE(rep_insw_down, "std; rep insw; cld");
CODE(rep_outsw, "rep outsw");
CODE(rep_outsl, "rep outsl");

static uint8_t wait_ready(void)
{
    uint8_t status;
    while ((status = inb(CONTROL)) & BSY)
        ;
    return inb(COMMAND);
}

static void command(uint32_t lba, unsigned sectors, uint8_t code)
{
    outb(DEVICE, (uint8_t)(0xe0 | lba >> 24));
    wait_ready();
    outb(COUNT, (uint8_t)sectors);
    outb(LBA0, (uint8_t)lba);
    outb(LBA1, (uint8_t)(lba >> 8));
    outb(LBA2, (uint8_t)(lba >> 16));
    outb(COMMAND, code);
}

static void insl(void *to, unsigned count)
{
    ASM("rep insl" : "+D"(to), "+c"(count) : "d"(DATA) : "memory");
}

static void outsl(const void *from, unsigned count)
{
    ASM("rep outsl" : "+S"(from), "+c"(count) : "d"(DATA) : "memory");
}

static bool read_pio(uint32_t lba, unsigned sectors, uint8_t *to)
{
    command(lba, sectors, 0x20);
    sectors = sectors == 0 ? 256 : sectors;
    for (unsigned i = 0; i < sectors; i++, to += 512) {
        uint8_t status = wait_ready();
        if (status & ERR || !(status & DRQ))
            return false;
        insl(to, 128);
    }
    return !(wait_ready() & (ERR | DRQ));
}

static bool write_pio(uint32_t lba, unsigned sectors, const uint8_t *from)
{
    command(lba, sectors, 0x30);
    for (unsigned i = 0; i < sectors; i++, from += 512) {
        uint8_t status = wait_ready();
        if (status & ERR || !(status & DRQ))
            return false;
        outsl(from, 128);
    }
    return !(wait_ready() & (ERR | DRQ));
}

static bool flush(void)
{
    command(0, 0, 0xe7);
    return !(wait_ready() & ERR);
}

static bool transfer_dma(uint32_t lba, unsigned sectors, uint8_t *memory, bool write)
{
    static struct {
        uint32_t base, size;
    } table[17] __attribute__((aligned(256)));
    unsigned n = 0;
    for (uint32_t left = sectors * 512, at = (uint32_t)(word)memory, part; left > 0; left -= part, at += part) {
        part = 0x10000 - (at & 0xffff);
        part = part < left ? part : left;
        table[n].base = at;
        table[n++].size = (part & 0xffff) | (part == left ? 0x80000000u : 0);
    }
    outb(BM, 0);
    outl(BM + 4, (uint32_t)(word)table);
    outb(BM + 2, 0x66);
    command(lba, sectors, write ? 0xca : 0xc8);
    outb(BM, write ? 1 : 9);
    while (!(inb(BM + 2) & 4))
        ;
    uint8_t bm = inb(BM + 2), status = wait_ready();
    outb(BM, 0);
    return (bm & 3) == 0 && !(status & (ERR | DRQ));
}

static void put_hex(uint8_t *to, uint32_t value)
{
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)"0123456789abcdef"[value >> (28 - 4 * i) & 15];
}

static void make_block(uint8_t *to, uint32_t block, uint32_t round)
{
    for (unsigned i = 0; i < BLOCK; i += 32) {
        memcpy(to + i, "block 00000000 round 00000000..\n", 32);
        put_hex(to + i + 6, block);
        put_hex(to + i + 21, round);
    }
}

/* ---- checks ---- */

static bool same(const uint8_t *a, const uint8_t *b, size_t size)
{
    return memcmp(a, b, size) == 0;
}

/* One sector, by a snippet, to `to`. */
static void check_ins(const char *code, const char *end, unsigned size, bool down, uint8_t *to, const char *what)
{
    uint8_t expected[512];
    memcpy(expected, other, 512);
    if (down)
        for (unsigned i = 0; i < 512; i += 2)
            memcpy(expected + i, other + 510 - i, 2);
    memset(to - 8, 0xcc, 512 + 16);
    command(8, 1, 0x20);
    wait_ready();
    word start = (word)to + (down ? 510 : 0);
    struct trap t = run_kernel(code, .di = start, .cx = 512 / size, .dx = DATA);
    ok_done(&t, end, "rep ins %s", what);
    ok(same(to, expected, 512) && to[-1] == 0xcc && to[512] == 0xcc, "rep ins %s: the sector, and nothing beside it", what);
    ok_equal(t.regs.cx, 0, "rep ins %s: nothing is left", what);
    ok_equal(t.regs.di, start + (down ? -512ul : 512ul), "rep ins %s: the index", what);
    ok(!(wait_ready() & (DRQ | ERR)), "rep ins %s: the command is over", what);
}

static void check_outs(const char *code, const char *end, unsigned size, uint8_t *from, const char *what)
{
    make_block(from, 2, size);
    command(16, 8, 0x30);
    for (unsigned i = 0; i < 8; i++) {
        wait_ready();
        struct trap t = run_kernel(code, .si = (word)from + 512 * i, .cx = 512 / size, .dx = DATA);
        if (i == 0)
            ok_done(&t, end, "rep outs %s", what);
    }
    ok(!(wait_ready() & (DRQ | ERR)), "rep outs %s: the command is over", what);
    memset(other, 0, BLOCK);
    ok(read_pio(16, 8, other) && same(other, from, BLOCK), "rep outs %s: what was written is read", what);
}

static void check_faults(void)
{
    uint8_t *page = (uint8_t *)0x200000000000; /* and nothing behind it */
    *pte((word)page, 1) = (word)page_alloc(1) | PTE_P | PTE_W;
    memcpy(other, buffer, BLOCK);
    command(8, 1, 0x20);
    wait_ready();
    struct trap t = run_kernel(rep_insw, .di = (word)page + PAGE - 100, .cx = 256, .dx = DATA);
    ok_pf(&t, PF_W, (word)page + PAGE, rep_insw, "rep ins into a missing page");
    ok_equal(t.regs.cx, 256 - 50, "rep ins into a missing page: what is left");
    ok(same(page + PAGE - 100, other, 100), "rep ins into a missing page: what came before");
    ok(inb(CONTROL) & DRQ, "rep ins into a missing page: the rest waits");
    insl(page, (512 - 100) / 4);
    ok(same(page, other + 100, 512 - 100), "the rest");
    ok(!(wait_ready() & (DRQ | ERR)), "the command is over");
}

static void checks(void)
{
    uint8_t *wide = page_alloc(20);
    make_block(buffer, 1, 0x1234);
    ok(write_pio(8, SECTORS, buffer), "a block is written");
    ok(flush(), "and flushed");
    ok(read_pio(8, SECTORS, other) && same(other, buffer, BLOCK), "a block is read");
    check_ins(rep_insw, rep_insw_end, 2, false, wide + 64, "of words");
    check_ins(rep_insl, rep_insl_end, 4, false, wide + 64, "of double words");
    check_ins(rep_insl, rep_insl_end, 4, false, wide + PAGE - 102, "across pages, unaligned");
    check_ins(rep_insw_down, rep_insw_down_end, 2, true, wide + 2 * PAGE - 256, "downwards");
    check_faults();
    check_outs(rep_outsw, rep_outsw_end, 2, wide + 64, "of words");
    check_outs(rep_outsl, rep_outsl_end, 4, wide + PAGE - 7, "across pages, unaligned");
    for (unsigned i = 0; i < 16; i++)
        make_block(wide + BLOCK * i, 16 + i, 0xd0a);
    ok(transfer_dma(16 * SECTORS, 16 * SECTORS, wide, true), "64 KiB are written by DMA");
    memset(wide, 0, 16 * BLOCK);
    ok(transfer_dma(16 * SECTORS, 16 * SECTORS, wide + 2, false), "and read, to another place");
    make_block(buffer, 16 + 9, 0xd0a);
    ok(same(wide + 2 + 9 * BLOCK, buffer, BLOCK), "and are the same");
    ok(read_pio(25 * SECTORS, SECTORS, other) && same(other, buffer, BLOCK), "also by PIO");
    command(0x0fffffff, 1, 0x20);
    ok((wait_ready() & (ERR | DRQ)) == ERR && inb(DATA + 1) == 0x10, "a sector that is not there: IDNF");
}

/* ---- speed, rounds ---- */

static void speed(void)
{
    uint8_t *whole = page_alloc(32);
    uint64_t start = rdtsc();
    for (uint32_t at = 0; at < 64 * MiB / 512; at += 256)
        if (!read_pio(at, 0, whole)) /* 256 sectors */
            bail_out("PIO failed");
    uint64_t pio = rdtsc() - start;
    start = rdtsc();
    for (uint32_t at = 0; at < 64 * MiB / 512; at += 128)
        if (!transfer_dma(at, 128, buffer, false))
            bail_out("DMA failed");
    note("PIO: 64 MiB in %u us", (unsigned)(pio / 1000));
    note("DMA: 64 MiB in %u us", (unsigned)((rdtsc() - start) / 1000));
    ok(true, "64 MiB were read");
}

_Noreturn static void rounds(void)
{
    for (uint32_t round = 1;; round++) {
        uint32_t block = round * 61 % 256;
        bool dma = round & 1;
        make_block(buffer, block, round);
        bool written = dma ? transfer_dma(block * SECTORS, SECTORS, buffer, true) : write_pio(block * SECTORS, SECTORS, buffer);
        if (!written || !flush())
            bail_out("block %x could not be written", block);
        print("acknowledged %x %x\n", block, round);
    }
}

void test_main(void)
{
    buffer = page_alloc_aligned(64 * 1024, 64 * 1024);
    other = page_alloc(4);
    outb(CONTROL, 0); /* the 8259s mask the interrupts; the bus master must see them */
    if (strcmp(guest_arguments, "rounds") == 0)
        rounds();
    if (strcmp(guest_arguments, "speed") == 0)
        speed();
    else
        checks();
    finish();
}
