/* See smbios.h.
 *
 * Structures: firmware (0), system (1), chassis (3), a processor for each socket (4), the memory array (16), its devices of up
 * to 16 GiB (17), what addresses they are at (19), boot status (32), end (127). Each is a formatted part, then its strings, then
 * a zero byte; strings are numbered from 1. Handles are the type times 256, plus a number.
 *
 * Not told, because there is nothing to tell: caches, slots, serial numbers, UUID. */
#include "boot/smbios.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRUCTURE_MAX 512u
#define DEVICE_MAX (16 * GiB)
#define UNKNOWN 2u

enum type {
    TYPE_FIRMWARE = 0,
    TYPE_SYSTEM = 1,
    TYPE_CHASSIS = 3,
    TYPE_PROCESSOR = 4,
    TYPE_MEMORY_ARRAY = 16,
    TYPE_MEMORY_DEVICE = 17,
    TYPE_MEMORY_MAPPED = 19,
    TYPE_BOOT = 32,
    TYPE_END = 127,
};

struct builder {
    FILE *out;
    unsigned count;
    size_t largest;
    /* The structure that is being made. */
    uint8_t bytes[STRUCTURE_MAX];
    size_t size;
    char strings[STRUCTURE_MAX];
    size_t strings_size;
    uint8_t string_count;
};

static void put(struct builder *b, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        b->bytes[b->size++] = (uint8_t)(value >> (8 * i));
}

/* The number of a string; 0: none. */
static void put_string(struct builder *b, const char *text)
{
    size_t length = text != NULL ? strlen(text) : 0;
    if (length > 64)
        length = 64;
    if (length == 0) {
        put(b, 0, 1);
        return;
    }
    memcpy(b->strings + b->strings_size, text, length);
    b->strings[b->strings_size + length] = '\0';
    b->strings_size += length + 1;
    put(b, ++b->string_count, 1);
}

static void begin(struct builder *b, enum type type, unsigned number)
{
    b->size = b->strings_size = 0;
    b->string_count = 0;
    put(b, type, 1);
    put(b, 0, 1); /* the length of the formatted part; see end() */
    put(b, (unsigned)type << 8 | number, 2);
}

static void end(struct builder *b)
{
    static const char zeros[2];
    b->bytes[1] = (uint8_t)b->size;
    size_t tail = b->strings_size == 0 ? 2 : 1, whole = b->size + b->strings_size + tail;
    fwrite(b->bytes, 1, b->size, b->out);
    fwrite(b->strings, 1, b->strings_size, b->out);
    fwrite(zeros, 1, tail, b->out);
    b->largest = whole > b->largest ? whole : b->largest;
    b->count++;
}

static void firmware(struct builder *b)
{
    begin(b, TYPE_FIRMWARE, 0);
    put_string(b, "ring3");
    put_string(b, "1");
    put(b, 0xe800, 2);     /* segment */
    put_string(b, "01/01/2024");
    put(b, 0, 1);          /* ROM size */
    put(b, 1ull << 3, 8);  /* characteristics are not told */
    put(b, 0, 1);
    put(b, 1u << 4 | 1u << 2, 1); /* a virtual machine; nothing targeted to distributions */
    put(b, 0, 2);          /* release */
    put(b, 0xffff, 2);     /* no embedded controller */
    end(b);
}

static void machine(struct builder *b)
{
    static const uint8_t no_uuid[16];
    begin(b, TYPE_SYSTEM, 0);
    put_string(b, "ring3");
    put_string(b, "PC (i440FX + PIIX)");
    put_string(b, NULL);
    put_string(b, NULL);
    for (unsigned i = 0; i < sizeof no_uuid; i++)
        put(b, no_uuid[i], 1);
    put(b, 6, 1); /* woken by the power switch */
    put_string(b, NULL);
    put_string(b, NULL);
    end(b);
    begin(b, TYPE_CHASSIS, 0);
    put_string(b, "ring3");
    put(b, 1, 1); /* other */
    put_string(b, NULL);
    put_string(b, NULL);
    put_string(b, NULL);
    for (unsigned i = 0; i < 3; i++)
        put(b, 3, 1); /* boot-up, power supply and thermal states: safe */
    put(b, UNKNOWN, 1);
    put(b, 0, 4);
    put(b, 0, 4); /* height, cords, elements */
    put_string(b, NULL);
    end(b);
}

static void processor(struct builder *b, const struct smbios_description *d, unsigned number)
{
    char socket[16];
    snprintf(socket, sizeof socket, "CPU %u", number);
    begin(b, TYPE_PROCESSOR, number);
    put_string(b, socket);
    put(b, 3, 1); /* central processor */
    put(b, 1, 1); /* family: other */
    put_string(b, d->cpu_vendor);
    put(b, d->cpu_signature, 4);
    put(b, d->cpu_features, 4);
    put_string(b, d->cpu_name);
    put(b, 0, 1); /* voltage */
    put(b, 0, 2);
    put(b, 0, 2);
    put(b, 0, 2);    /* clock, highest and present speed: unknown */
    put(b, 0x41, 1); /* populated, enabled */
    put(b, 1, 1);    /* upgrade: other */
    for (unsigned i = 0; i < 3; i++)
        put(b, 0xffff, 2); /* no caches told */
    put_string(b, NULL);
    put_string(b, NULL);
    put_string(b, NULL);
    for (unsigned i = 0; i < 3; i++)
        put(b, 1, 1); /* cores, enabled ones, threads */
    put(b, 1u << UNKNOWN, 2);
    put(b, 1, 2);
    end(b);
}

static void memory_device(struct builder *b, unsigned number, uint64_t size)
{
    char locator[16];
    snprintf(locator, sizeof locator, "DIMM %u", number);
    begin(b, TYPE_MEMORY_DEVICE, number);
    put(b, TYPE_MEMORY_ARRAY << 8, 2);
    put(b, 0xfffe, 2); /* no error information */
    put(b, 0xffff, 2);
    put(b, 0xffff, 2); /* widths unknown */
    put(b, size % MiB != 0 && size < 32 * MiB ? 0x8000 | size / KiB : size / MiB, 2); /* bit 15: in KiB */
    put(b, 9, 1); /* DIMM */
    put(b, 0, 1);
    put_string(b, locator);
    put_string(b, NULL);
    put(b, 7, 1); /* RAM */
    put(b, 1u << 1, 2);
    put(b, 0, 2);
    put_string(b, "ring3");
    for (unsigned i = 0; i < 3; i++)
        put_string(b, NULL);
    put(b, 0, 1);
    put(b, 0, 4);
    put(b, 0, 2);
    for (unsigned i = 0; i < 3; i++)
        put(b, 0, 2);
    end(b);
}

static void memory_mapped(struct builder *b, unsigned number, gpa_t base, uint64_t size)
{
    bool large = (base + size - 1) / KiB >= UINT32_MAX;
    begin(b, TYPE_MEMORY_MAPPED, number);
    put(b, large ? UINT32_MAX : base / KiB, 4);
    put(b, large ? UINT32_MAX : (base + size - 1) / KiB, 4);
    put(b, TYPE_MEMORY_ARRAY << 8, 2);
    put(b, 1, 1);
    put(b, large ? base : 0, 8);
    put(b, large ? base + size - 1 : 0, 8);
    end(b);
}

static void memory_structures(struct builder *b, const struct smbios_description *d)
{
    uint64_t size = d->low_ram + d->high_ram, devices = (size + DEVICE_MAX - 1) / DEVICE_MAX;
    bool large = size / KiB >= 0x80000000u;
    begin(b, TYPE_MEMORY_ARRAY, 0);
    put(b, 3, 1); /* on the system board */
    put(b, 3, 1); /* system memory */
    put(b, 3, 1); /* no error correction */
    put(b, large ? 0x80000000u : size / KiB, 4);
    put(b, 0xfffe, 2);
    put(b, devices, 2);
    put(b, large ? size : 0, 8);
    end(b);
    for (unsigned i = 0; i < devices; i++)
        memory_device(b, i, i + 1 < devices ? DEVICE_MAX : size - i * DEVICE_MAX);
    memory_mapped(b, 0, 0, d->low_ram);
    if (d->high_ram != 0)
        memory_mapped(b, 1, 4 * GiB, d->high_ram);
}

static uint8_t checksum(const uint8_t *bytes, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

static void anchor_build(const struct builder *b, struct smbios *out)
{
    uint8_t *anchor = out->anchor;
    memset(anchor, 0, SMBIOS_ANCHOR_SIZE);
    memcpy(anchor, "_SM_", 4);
    anchor[5] = SMBIOS_ANCHOR_SIZE;
    anchor[6] = 2;
    anchor[7] = 8;
    anchor[8] = (uint8_t)b->largest;
    anchor[9] = (uint8_t)(b->largest >> 8);
    memcpy(anchor + 16, "_DMI_", 5);
    anchor[22] = (uint8_t)out->size;
    anchor[23] = (uint8_t)(out->size >> 8);
    anchor[28] = (uint8_t)b->count;
    anchor[29] = (uint8_t)(b->count >> 8);
    anchor[30] = 0x28;
    anchor[21] = checksum(anchor + 16, 15);
    anchor[4] = checksum(anchor, SMBIOS_ANCHOR_SIZE);
}

bool smbios_build(const struct smbios_description *d, struct smbios *out, struct error *err)
{
    struct builder b = {0};
    char *bytes = NULL;
    memset(out, 0, sizeof *out);
    b.out = open_memstream(&bytes, &out->size);
    if (b.out == NULL)
        return error_set(err, "out of memory");
    firmware(&b);
    machine(&b);
    for (unsigned i = 0; i < d->cpu_count; i++)
        processor(&b, d, i);
    memory_structures(&b, d);
    begin(&b, TYPE_BOOT, 0);
    put(&b, 0, 6);
    put(&b, 0, 1); /* no errors */
    end(&b);
    begin(&b, TYPE_END, 0);
    end(&b);
    bool ok = ferror(b.out) == 0;
    ok = fclose(b.out) == 0 && ok;
    out->bytes = (uint8_t *)bytes;
    if (!ok) {
        smbios_fini(out);
        return error_set(err, "out of memory");
    }
    anchor_build(&b, out);
    return true;
}

void smbios_fini(struct smbios *smbios)
{
    free(smbios->bytes);
    memset(smbios, 0, sizeof *smbios);
}
