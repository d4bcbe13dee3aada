/* The disk: the first IDE drive, by programmed I/O, and a cache of its sectors.
 *
 * A drive is asked by storing a sector's number and a command into its registers. When it has the sector it interrupts, and
 * the processor fetches the 512 bytes, two at a time; with a sector to be written it is the other way round. One request is
 * under way at a time. Who has to wait for it sleeps, and others run: a disk is why a system has processes that wait.
 * Before there is a first process the drive is asked again and again instead.
 *
 * Sectors that have been read are kept, and the one that was not needed for the longest time gives way to a new one. What is
 * written goes to the drive at once; disk_flush() makes the drive write what it has kept itself. A sector on its way is marked busy; whoever wants it, too, waits for it.
 *
 * Only in the build for a whole PC. ATA/ATAPI-6 (T13 1410D), chapters 7, 8 and 9.5: PIO data. */
#include "kernel.h"
#include "privileged.h"

#ifdef WHOLE_PC
#define IDE_DATA 0x1f0u
#define IDE_ERROR 0x1f1u
#define IDE_COUNT 0x1f2u
#define IDE_LBA_LOW 0x1f3u
#define IDE_LBA_MIDDLE 0x1f4u
#define IDE_LBA_HIGH 0x1f5u
#define IDE_DEVICE 0x1f6u
#define IDE_COMMAND 0x1f7u
#define IDE_STATUS 0x1f7u
#define IDE_CONTROL 0x3f6u
#define DEVICE_LBA 0xe0u
#define STATUS_ERR 0x01u
#define STATUS_DRQ 0x08u
#define STATUS_DF 0x20u
#define STATUS_BSY 0x80u
#define CMD_READ_SECTORS 0x20u
#define CMD_WRITE_SECTORS 0x30u
#define CMD_FLUSH_CACHE 0xe7u
#define CMD_IDENTIFY 0xecu
#define IDENTIFY_SECTORS 60u /* words 60 and 61 */
#define TRIES 10000000u

#define BUFFERS 64u
static struct buffer {
    uint32_t sector;
    bool valid, busy;
    uint64_t used; /* when; 0: never */
    uint8_t bytes[SECTOR];
} buffers[BUFFERS];

static uint32_t sectors;
static bool busy, done; /* a request is under way; the drive has interrupted */
static uint64_t turn;

uint32_t disk_sectors(void)
{
    return sectors;
}

void disk_interrupt(void)
{
    in8(IDE_STATUS); /* the drive lowers its line */
    done = true;
    wake(&done);
}

static bool sleeps(void)
{
    return current != NULL && current != idle_here();
}

/* With interrupts off. False: the drive says that it failed, or nothing. */
static bool drive_wait(uint8_t wanted)
{
    for (unsigned i = 0; i < TRIES; i++) {
        uint8_t status = in8(IDE_STATUS);
        if (status & STATUS_BSY)
            continue;
        if (status & (STATUS_ERR | STATUS_DF))
            return false;
        if ((status & wanted) == wanted)
            return true;
    }
    return false;
}

static bool interrupt_wait(uint8_t wanted)
{
    while (sleeps() && !done)
        sleep_on(&done);
    return drive_wait(wanted);
}

static void command(uint32_t sector, uint8_t code)
{
    done = false;
    out8(IDE_COUNT, 1);
    out8(IDE_LBA_LOW, (uint8_t)sector);
    out8(IDE_LBA_MIDDLE, (uint8_t)(sector >> 8));
    out8(IDE_LBA_HIGH, (uint8_t)(sector >> 16));
    out8(IDE_DEVICE, (uint8_t)(DEVICE_LBA | sector >> 24));
    out8(IDE_COMMAND, code);
}

static void words_in(void *to)
{
    unsigned n = SECTOR / 2;
    __asm__ volatile("rep insw" : "+D"(to), "+c"(n) : "d"((uint16_t)IDE_DATA) : "memory");
}

static void words_out(const void *from)
{
    unsigned n = SECTOR / 2;
    __asm__ volatile("rep outsw" : "+S"(from), "+c"(n) : "d"((uint16_t)IDE_DATA) : "memory");
}

/* One sector, in or out. The caller has marked the buffer busy. */
static bool transfer(struct buffer *b, bool write)
{
    word flags = interrupts_save();
    while (busy)
        sleep_on(&busy);
    busy = true;
    bool good;
    if (write) {
        command(b->sector, CMD_WRITE_SECTORS);
        good = drive_wait(STATUS_DRQ);
        if (good) {
            words_out(b->bytes);
            good = interrupt_wait(0);
        }
    } else {
        command(b->sector, CMD_READ_SECTORS);
        good = interrupt_wait(STATUS_DRQ);
        if (good)
            words_in(b->bytes);
    }
    busy = false;
    wake(&busy);
    interrupts_restore(flags);
    return good;
}

bool disk_flush(void)
{
    word flags = interrupts_save();
    while (busy)
        sleep_on(&busy);
    busy = true;
    command(0, CMD_FLUSH_CACHE);
    bool good = interrupt_wait(0);
    busy = false;
    wake(&busy);
    interrupts_restore(flags);
    return good;
}

/* The sector's buffer, or the one to be used for it. */
static struct buffer *buffer_find(uint32_t sector)
{
    for (;;) {
        struct buffer *oldest = NULL;
        for (struct buffer *b = buffers; b < buffers + BUFFERS; b++) {
            if (b->valid && b->sector == sector)
                return b;
            if (!b->busy && (oldest == NULL || b->used < oldest->used))
                oldest = b;
        }
        if (oldest != NULL) {
            oldest->valid = false;
            return oldest;
        }
        sleep_on(buffers); /* all are on their way */
    }
}

/* The sector in memory, read from the drive if need be; NULL if that failed. Marked busy, with interrupts off. */
static struct buffer *buffer_take(uint32_t sector, bool contents)
{
    if (sector >= sectors)
        return NULL;
    struct buffer *b = buffer_find(sector);
    while (b->busy) {
        sleep_on(buffers);
        b = buffer_find(sector);
    }
    b->busy = true;
    b->used = ++turn;
    if (b->valid)
        return b;
    b->sector = sector;
    b->valid = true; /* others find it, and wait */
    if (contents && !transfer(b, false)) {
        b->valid = b->busy = false;
        wake(buffers);
        return NULL;
    }
    return b;
}

static void buffer_give(struct buffer *b)
{
    b->busy = false;
    wake(buffers);
}

/* By way of the stack: `to` may be a program's, and a store there may fault and end the program. */
bool disk_read(uint32_t sector, unsigned from, void *to, unsigned n)
{
    uint8_t bytes[SECTOR];
    word flags = interrupts_save();
    struct buffer *b = buffer_take(sector, true);
    if (b != NULL) {
        memcpy(bytes, b->bytes + from, n);
        buffer_give(b);
    }
    interrupts_restore(flags);
    if (b != NULL)
        memcpy(to, bytes, n);
    return b != NULL;
}

bool disk_write(uint32_t sector, unsigned at, const void *from, unsigned n)
{
    word flags = interrupts_save();
    struct buffer *b = buffer_take(sector, n < SECTOR);
    bool good = b != NULL;
    if (good) {
        memcpy(b->bytes + at, from, n);
        good = transfer(b, true);
        b->valid = good;
        buffer_give(b);
    }
    interrupts_restore(flags);
    return good;
}

/* Whether there is a drive, and how large. */
bool disk_init(void)
{
    uint16_t words[SECTOR / 2];
    if (in8(IDE_STATUS) == 0xff)
        return false; /* nothing is connected */
    out8(IDE_CONTROL, 0);
    out8(IDE_DEVICE, DEVICE_LBA);
    if (!drive_wait(0))
        return false;
    command(0, CMD_IDENTIFY);
    if (in8(IDE_STATUS) == 0 || !drive_wait(STATUS_DRQ))
        return false;
    words_in(words);
    sectors = (uint32_t)words[IDENTIFY_SECTORS + 1] << 16 | words[IDENTIFY_SECTORS];
    interrupt_enable(IRQ_DISK);
    return sectors != 0;
}
#endif
