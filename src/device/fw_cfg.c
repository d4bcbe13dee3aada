/* The firmware configuration device. See fw_cfg.h.
 *
 * Model. A table of items, few and found by a linear search; `selected` points to one of them or to none, `offset` is the next
 * byte to be read. Beyond the end of an item, and with none selected, zeros are read.
 *
 * Ports: a 16-bit write to the first selects (little endian); 8-bit reads of the second read. Writes of data belong to a
 * version of the interface that is gone, and are ignored.
 *
 * DMA: the two halves of the address register are big endian; the write of the lower one starts the operation that a
 * descriptor at that guest-physical address describes: select, then read, skip or write. When it is done, the descriptor's
 * control field is 0, or has the error bit. All items are read-only: a write is an error. So is a length above DMA_MAX: no item
 * is so long, and the copy is made while the guest's other devices wait. A descriptor outside memory is ignored, as there is
 * nowhere to report to.
 *
 * The directory is made anew whenever a file is added: a count and entries of 64 bytes, big endian. */
#include "device/fw_cfg.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define ITEMS_MAX (FW_CFG_FILES_MAX + 16u)
#define ID_TRADITIONAL 1u
#define ID_DMA 2u
#define DMA_MAX (64 * MiB)
#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */

#define DMA_ERROR 0x01u
#define DMA_READ 0x02u
#define DMA_SKIP 0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE 0x10u

struct item {
    uint16_t key;
    uint8_t *bytes;
    size_t size;
    char name[FW_CFG_NAME_MAX + 1]; /* "": no file */
};

struct fw_cfg {
    struct memory *memory;
    unsigned item_count, file_count;
    struct item items[ITEMS_MAX];
    /* What the guest can change. */
    const struct item *selected;
    size_t offset;
    uint64_t dma_address;
};

struct __attribute__((packed)) directory_entry {
    uint32_t size;
    uint16_t key;
    uint16_t reserved;
    char name[FW_CFG_NAME_MAX + 1];
};
_Static_assert(sizeof(struct directory_entry) == 64, "struct FWCfgFile");

struct __attribute__((packed)) dma_descriptor {
    uint32_t control;
    uint32_t length;
    uint64_t address;
};

/* ---- items ---- */

static struct item *item_find(struct fw_cfg *fw_cfg, uint16_t key)
{
    for (unsigned i = 0; i < fw_cfg->item_count; i++)
        if (fw_cfg->items[i].key == key)
            return &fw_cfg->items[i];
    return NULL;
}

static struct item *file_find(const struct fw_cfg *fw_cfg, const char *name)
{
    for (unsigned i = 0; i < fw_cfg->item_count; i++)
        if (fw_cfg->items[i].name[0] != '\0' && strcmp(fw_cfg->items[i].name, name) == 0)
            return (struct item *)&fw_cfg->items[i];
    return NULL;
}

static struct item *item_add(struct fw_cfg *fw_cfg, uint16_t key)
{
    check(fw_cfg->item_count < ITEMS_MAX);
    struct item *item = &fw_cfg->items[fw_cfg->item_count++];
    *item = (struct item){.key = key};
    return item;
}

static bool item_fill(struct fw_cfg *fw_cfg, struct item *item, const void *bytes, size_t size, struct error *err)
{
    uint8_t *copy = malloc(size != 0 ? size : 1);
    if (copy == NULL)
        return error_set(err, "out of memory");
    if (size != 0)
        memcpy(copy, bytes, size);
    free(item->bytes);
    item->bytes = copy;
    item->size = size;
    return true;
}

bool fw_cfg_set(struct fw_cfg *fw_cfg, uint16_t key, const void *bytes, size_t size, struct error *err)
{
    struct item *item = item_find(fw_cfg, key);
    return item_fill(fw_cfg, item != NULL ? item : item_add(fw_cfg, key), bytes, size, err);
}

bool fw_cfg_set_u16(struct fw_cfg *fw_cfg, uint16_t key, uint16_t value, struct error *err)
{
    uint16_t little = htole16(value);
    return fw_cfg_set(fw_cfg, key, &little, sizeof little, err);
}

static bool directory_make(struct fw_cfg *fw_cfg, struct error *err)
{
    struct __attribute__((packed)) {
        uint32_t count;
        struct directory_entry entries[FW_CFG_FILES_MAX];
    } directory = {.count = htobe32(fw_cfg->file_count)};
    unsigned n = 0;
    for (unsigned i = 0; i < fw_cfg->item_count; i++) {
        const struct item *item = &fw_cfg->items[i];
        if (item->name[0] == '\0')
            continue;
        struct directory_entry *entry = &directory.entries[n++];
        entry->size = htobe32((uint32_t)item->size);
        entry->key = htobe16(item->key);
        memcpy(entry->name, item->name, sizeof entry->name);
    }
    return fw_cfg_set(fw_cfg, FW_CFG_FILE_DIR, &directory, sizeof(uint32_t) + n * sizeof directory.entries[0], err);
}

bool fw_cfg_set_file(struct fw_cfg *fw_cfg, const char *name, const void *bytes, size_t size, struct error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length > FW_CFG_NAME_MAX)
        return error_set(err, "'%s' is no name for firmware's configuration (1 to %u characters)", name, FW_CFG_NAME_MAX);
    if (size > FW_CFG_ITEM_MAX)
        return error_set(err, "%s: %zu bytes are too many for firmware's configuration (at most %llu)", name, size,
                         FW_CFG_ITEM_MAX);
    struct item *item = file_find(fw_cfg, name);
    if (item == NULL) {
        if (fw_cfg->file_count == FW_CFG_FILES_MAX)
            return error_set(err, "%s: firmware's configuration has no room for more than %u files", name,
                             FW_CFG_FILES_MAX);
        item = item_add(fw_cfg, (uint16_t)(FW_CFG_FILE_FIRST + fw_cfg->file_count++));
        memcpy(item->name, name, length);
    }
    return item_fill(fw_cfg, item, bytes, size, err) && directory_make(fw_cfg, err);
}

const uint8_t *fw_cfg_file(const struct fw_cfg *fw_cfg, const char *name, size_t *size)
{
    const struct item *item = file_find(fw_cfg, name);
    if (item == NULL)
        return NULL;
    *size = item->size;
    return item->bytes;
}

/* ---- the guest's side ---- */

static void item_select(struct fw_cfg *fw_cfg, uint16_t key)
{
    fw_cfg->selected = item_find(fw_cfg, key);
    fw_cfg->offset = 0;
}

/* How many bytes of the selected item are left. */
static size_t left(const struct fw_cfg *fw_cfg)
{
    const struct item *item = fw_cfg->selected;
    return item != NULL && fw_cfg->offset < item->size ? item->size - fw_cfg->offset : 0;
}

static void skip(struct fw_cfg *fw_cfg, size_t n)
{
    size_t most = left(fw_cfg);
    fw_cfg->offset += n < most ? n : most;
}

static uint64_t fw_cfg_read(void *dev, uint64_t offset, unsigned size)
{
    struct fw_cfg *fw_cfg = dev;
    if (offset != 1 || size != 1)
        return UINT64_MAX;
    if (left(fw_cfg) == 0)
        return 0;
    return fw_cfg->selected->bytes[fw_cfg->offset++];
}

static void fw_cfg_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if (offset == 0 && size == 2)
        item_select(dev, (uint16_t)value);
}

const struct io_ops fw_cfg_ops = {.read = fw_cfg_read, .write = fw_cfg_write, .name = "firmware configuration"};

/* Copies what is left of the item, then zeros. */
static bool dma_copy(struct fw_cfg *fw_cfg, gpa_t address, size_t length)
{
    static const uint8_t zeros[PAGE_SIZE];
    while (length > 0) {
        size_t most = left(fw_cfg), n = length < PAGE_SIZE ? length : PAGE_SIZE;
        const uint8_t *from = most != 0 ? fw_cfg->selected->bytes + fw_cfg->offset : zeros;
        if (most != 0 && n > most)
            n = most;
        if (!memory_write(fw_cfg->memory, address, from, n))
            return false;
        skip(fw_cfg, n);
        address += n;
        length -= n;
    }
    return true;
}

static bool dma_run(struct fw_cfg *fw_cfg, const struct dma_descriptor *descriptor)
{
    uint32_t control = be32toh(descriptor->control), length = be32toh(descriptor->length);
    if (control & DMA_SELECT)
        item_select(fw_cfg, (uint16_t)(control >> 16));
    if (control & DMA_READ)
        return length <= DMA_MAX && dma_copy(fw_cfg, be64toh(descriptor->address), length);
    if (control & DMA_WRITE)
        return false;
    if (control & DMA_SKIP)
        skip(fw_cfg, length);
    return true;
}

static void dma_start(struct fw_cfg *fw_cfg)
{
    struct dma_descriptor descriptor;
    gpa_t at = fw_cfg->dma_address;
    fw_cfg->dma_address = 0;
    if (!memory_read(fw_cfg->memory, at, &descriptor, sizeof descriptor))
        return;
    uint32_t result = dma_run(fw_cfg, &descriptor) ? 0 : htobe32(DMA_ERROR);
    memory_write(fw_cfg->memory, at + offsetof(struct dma_descriptor, control), &result, sizeof result);
}

/* The register as the bytes of a big-endian number. */
static uint64_t dma_read(void *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (DMA_SIGNATURE >> (56 - 8 * (offset + i)) & 0xff) << (8 * i);
    return value;
}

static void dma_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg *fw_cfg = dev;
    if (size != 4 || (offset != 0 && offset != 4))
        return;
    uint64_t half = be32toh((uint32_t)value);
    if (offset == 0) {
        fw_cfg->dma_address = half << 32;
        return;
    }
    fw_cfg->dma_address = (fw_cfg->dma_address & ~(uint64_t)UINT32_MAX) | half;
    dma_start(fw_cfg);
}

const struct io_ops fw_cfg_dma_ops = {.read = dma_read, .write = dma_write, .name = "firmware configuration DMA"};

/* ---- life ---- */

void fw_cfg_reset(struct fw_cfg *fw_cfg)
{
    fw_cfg->selected = NULL;
    fw_cfg->offset = 0;
    fw_cfg->dma_address = 0;
}

struct fw_cfg *fw_cfg_create(struct memory *memory)
{
    struct fw_cfg *fw_cfg = calloc(1, sizeof *fw_cfg);
    if (fw_cfg == NULL)
        return NULL;
    fw_cfg->memory = memory;
    const uint32_t id = htole32(ID_TRADITIONAL | ID_DMA);
    if (!fw_cfg_set(fw_cfg, FW_CFG_SIGNATURE, "QEMU", 4, NULL) || !fw_cfg_set(fw_cfg, FW_CFG_ID, &id, sizeof id, NULL) ||
        !directory_make(fw_cfg, NULL)) {
        fw_cfg_destroy(fw_cfg);
        return NULL;
    }
    return fw_cfg;
}

void fw_cfg_destroy(struct fw_cfg *fw_cfg)
{
    if (fw_cfg == NULL)
        return;
    for (unsigned i = 0; i < fw_cfg->item_count; i++)
        free(fw_cfg->items[i].bytes);
    free(fw_cfg);
}
