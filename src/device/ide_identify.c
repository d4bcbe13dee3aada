/* What ATA and ATAPI devices say of themselves: IDENTIFY DEVICE and IDENTIFY PACKET DEVICE. Tables of words, with what
 * depends on the device put in afterwards.
 *
 * ATA/ATAPI-6, 8.15 and 8.16. */
#include <stdio.h>
#include <string.h>

#include "device/ide_internal.h"

#define WORDS 256u

struct words {
    uint16_t word[WORDS];
};

/* Characters come in pairs, the first one high. */
static void put_text(struct words *words, unsigned first, unsigned count, const char *text)
{
    size_t length = strlen(text);
    for (unsigned i = 0; i < count; i++) {
        uint8_t a = 2 * i < length ? (uint8_t)text[2 * i] : ' ', b = 2 * i + 1 < length ? (uint8_t)text[2 * i + 1] : ' ';
        words->word[first + i] = (uint16_t)(a << 8 | b);
    }
}

static void put_number(struct words *words, unsigned first, unsigned count, uint64_t value)
{
    for (unsigned i = 0; i < count; i++)
        words->word[first + i] = (uint16_t)(value >> (16 * i));
}

/* Words 63 and 88: modes that are possible, and the one that is selected. */
static void put_modes(struct words *words, const struct ide_device *device)
{
    words->word[63] = 0x0007;
    words->word[88] = 0x003f;
    if ((device->dma_mode & 0xf8) == 0x20)
        words->word[63] |= (uint16_t)(0x0100u << (device->dma_mode & 7));
    if ((device->dma_mode & 0xf8) == 0x40)
        words->word[88] |= (uint16_t)(0x0100u << (device->dma_mode & 7));
}

/* The integrity word: all bytes add up to zero. */
static void finish(struct words *words, uint8_t bytes[IDE_SECTOR])
{
    uint8_t sum = 0;
    words->word[255] = 0x00a5;
    memcpy(bytes, words->word, IDE_SECTOR);
    for (unsigned i = 0; i < IDE_SECTOR - 1; i++)
        sum = (uint8_t)(sum + bytes[i]);
    bytes[IDE_SECTOR - 1] = (uint8_t)-sum;
}

bool ide_set_transfer_mode(struct ide_device *device, uint8_t mode)
{
    unsigned n = mode & 7;
    switch (mode >> 3) {
    case 0: /* PIO, default */
        return n <= 1;
    case 1: /* PIO with flow control */
        return n <= 4;
    case 4: /* multiword DMA */
        if (n > 2)
            return false;
        break;
    case 8: /* Ultra DMA */
        if (n > 5)
            return false;
        break;
    default:
        return false;
    }
    device->dma_mode = mode;
    return true;
}

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

/* Cylinders that a translation has, of those that can be told. */
static uint64_t cylinders(const struct ide_device *device, unsigned heads, unsigned sectors_per_track, uint64_t limit)
{
    uint64_t n = at_most(device->sectors / ((uint64_t)heads * sectors_per_track), limit);
    return n > 0 ? n : 1;
}

void ide_identify_disk(const struct ide_device *device, uint8_t bytes[IDE_SECTOR])
{
    struct words words = {.word = {
                              [0] = 0x0040, /* fixed */
                              [3] = IDE_HEADS,
                              [6] = IDE_SECTORS_PER_TRACK,
                              [47] = 0x8010, /* READ MULTIPLE: up to 16 */
                              [49] = 0x0f00, /* IORDY, may be disabled; LBA, DMA */
                              [50] = 0x4000,
                              [51] = 0x0200, /* PIO mode of old: 2 */
                              [53] = 0x0007, /* words 54-58, 64-70, 88 are valid */
                              [64] = 0x0003, /* PIO 3 and 4 */
                              [65] = 120,
                              [66] = 120,
                              [67] = 120,
                              [68] = 120,
                              [80] = 0x0070, /* ATA/ATAPI-4 to -6 */
                              [82] = 0x4068, /* NOP, look-ahead, write cache, power management */
                              [83] = 0x7400, /* FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses */
                              [84] = 0x4040, /* FUA */
                              [85] = 0x4008,
                              [86] = 0x3400,
                              [87] = 0x4040,
                              [93] = 0x6001, /* 80-conductor cable; device 0 and 1 told apart below */
                              [106] = 0x4000,
                              [169] = 0x0001, /* DATA SET MANAGEMENT, TRIM */
                              [217] = 0x0001, /* no rotating medium */
                          }};
    uint64_t now = cylinders(device, device->heads, device->sectors_per_track, 65535);
    words.word[1] = (uint16_t)cylinders(device, IDE_HEADS, IDE_SECTORS_PER_TRACK, 16383);
    put_text(&words, 10, 10, device->serial);
    put_text(&words, 23, 4, "1.0");
    put_text(&words, 27, 20, "RING3 DISK");
    words.word[54] = (uint16_t)now;
    words.word[55] = (uint16_t)device->heads;
    words.word[56] = (uint16_t)device->sectors_per_track;
    put_number(&words, 57, 2, now * device->heads * device->sectors_per_track);
    words.word[59] = (uint16_t)(device->multiple != 0 ? 0x0100 | device->multiple : 0);
    put_number(&words, 60, 2, at_most(device->sectors, 0x0fffffff));
    put_modes(&words, device);
    words.word[85] |= (uint16_t)((device->write_cache ? 0x20 : 0) | (device->look_ahead ? 0x40 : 0));
    words.word[93] |= device->unit == 0 ? 0x0008 : 0x0200;
    put_number(&words, 100, 4, device->sectors);
    words.word[105] = IDE_TRIM_BLOCKS;
    finish(&words, bytes);
}

void ide_identify_cdrom(const struct ide_device *device, uint8_t bytes[IDE_SECTOR])
{
    struct words words = {.word = {
                              [0] = 0x85c0, /* ATAPI CD-ROM, removable, DRQ within 50 us, packets of 12 bytes */
                              [49] = 0x0f00, /* IORDY, may be disabled; LBA, DMA */
                              [50] = 0x4000,
                              [53] = 0x0006, /* words 64-70, 88 are valid */
                              [64] = 0x0003,
                              [65] = 120,
                              [66] = 120,
                              [67] = 120,
                              [68] = 120,
                              [80] = 0x0070,
                              [82] = 0x4210, /* NOP, DEVICE RESET, PACKET */
                              [83] = 0x4000,
                              [84] = 0x4000,
                              [85] = 0x4210,
                              [87] = 0x4000,
                              [93] = 0x6001,
                          }};
    put_text(&words, 10, 10, device->serial);
    put_text(&words, 23, 4, "1.0");
    put_text(&words, 27, 20, "RING3 CD-ROM");
    put_modes(&words, device);
    words.word[93] |= device->unit == 0 ? 0x0008 : 0x0200;
    finish(&words, bytes);
}
