/* Virtio block device. See virtio_blk.h.
 *
 * Model. Each chain is a request: a header of 16 bytes to read, data in either direction, and a status byte to write,
 * the last byte that is writable. Data go between the image and the chain's pieces directly. Requests are submitted as
 * they are found, and given back as they are done, in any order; at most REQUESTS_MAX are in flight, however many the
 * guest claims to have: the rest stays in the ring until some are done.
 *
 * Chains without room for header and status break the device, since there is nowhere to answer. Anything else that is
 * wrong with a request is answered: IOERR for what cannot be done (a range beyond the end, writing a read-only image,
 * half sectors), UNSUPP for what is not known.
 *
 * Write cache. Writes are in the host's page cache when they are done, unless the driver cannot flush (FLUSH was not
 * negotiated) or has switched the cache off (CONFIG_WCE, `writeback` = 0): then they are on the medium.
 *
 * Deliberately not here: several queues, zones, secure erase, lifetime; the geometry, which nobody needs.
 *
 * VIRTIO 1.1, 5.2. */
#include "device/virtio/virtio_blk.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "host/block.h"

#define CLASS_STORAGE 0x010000u
#define QUEUE_SIZE 256u
#define REQUESTS_MAX QUEUE_SIZE
#define RANGES_MAX 16u
#define SERIAL_SIZE 20u

/* Feature bits. */
#define F_SEG_MAX 2
#define F_RO 5
#define F_BLK_SIZE 6
#define F_FLUSH 9
#define F_TOPOLOGY 10
#define F_CONFIG_WCE 11
#define F_DISCARD 13
#define F_WRITE_ZEROES 14
#define BIT(n) (1ull << (n))

/* Types and statuses of requests. */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
#define WRITE_ZEROES_UNMAP 1u

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

/* Of DISCARD and WRITE ZEROES. */
struct range {
    uint64_t sector;
    uint32_t count, flags;
};

/* The configuration, as the specification lays it out. */
struct config {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
_Static_assert(sizeof(struct header) == 16 && sizeof(struct range) == 16 && sizeof(struct config) == 64 &&
                   offsetof(struct config, writeback) == 32 && offsetof(struct config, max_write_zeroes_sectors) == 48,
               "as in the specification (but for padding at the end)");
#define CONFIG_SIZE 60u

struct request {
    struct block_request block;
    struct virtio_blk *blk;
    struct virtio_chain *chain; /* kept; the header and the status are cut off */
    uint32_t type;
    uint8_t *status;
    struct range range[RANGES_MAX];
    unsigned range_count, range_at;
    struct request *next, **link; /* in blk->first */
};

struct virtio_blk {
    struct virtio *virtio;
    struct memory *memory;
    struct block *block;
    char serial[SERIAL_SIZE];
    struct request *first; /* in flight */
    unsigned in_flight;
    bool serving; /* blk_notified() is at it */
};

/* ---- ends ---- */

static void request_free(struct request *request)
{
    *request->link = request->next;
    if (request->next != NULL)
        request->next->link = request->link;
    request->blk->in_flight--;
    virtio_chain_free(request->chain);
    free(request);
}

/* Gives it back; `written` bytes of data are in its writable part. */
static void request_end(struct request *request, uint8_t status, uint64_t written)
{
    struct virtio_blk *blk = request->blk;
    struct virtqueue *queue = virtio_queue(blk->virtio, 0);
    *request->status = status;
    dma_written(blk->memory, request->status, 1);
    request->chain->in_size++; /* with the status again */
    virtqueue_push(queue, request->chain, written + 1);
    if (!blk->serving)
        virtqueue_flush(queue);
    request_free(request);
}

static void blk_notified(void *dev, unsigned index);

static void block_done(struct block_request *block_request, int result)
{
    struct request *request = container_of(block_request, struct request, block);
    struct virtio_blk *blk = request->blk;
    bool was_full = blk->in_flight == REQUESTS_MAX;
    uint64_t size = request->block.size;
    if (request->type == T_IN)
        virtio_written(blk->memory, request->chain->in, request->chain->in_count, size);
    if (result == 0 && request->range_at + 1 < request->range_count) {
        const struct range *range = &request->range[++request->range_at];
        request->block.offset = range->sector * BLOCK_SECTOR;
        request->block.size = (uint64_t)range->count * BLOCK_SECTOR;
        request->block.may_unmap = range->flags & WRITE_ZEROES_UNMAP;
        block_submit(blk->block, &request->block);
        return;
    }
    request_end(request, result == 0 ? S_OK : S_IOERR, request->type == T_IN && result == 0 ? size : 0);
    if (was_full)
        blk_notified(blk, 0);
}

/* ---- beginnings ---- */

static bool in_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t count)
{
    uint64_t sectors = block_size(blk->block) / BLOCK_SECTOR;
    return sector <= sectors && count <= sectors - sector;
}

static bool writes_are_durable(struct virtio_blk *blk)
{
    const struct config *config = (const struct config *)virtio_config(blk->virtio);
    if (!virtio_has(blk->virtio, F_FLUSH))
        return true;
    return virtio_has(blk->virtio, F_CONFIG_WCE) && config->writeback == 0;
}

/* Reads or writes the chain's data. */
static uint8_t transfer_begin(struct request *request, uint64_t sector)
{
    struct virtio_blk *blk = request->blk;
    const struct virtio_chain *chain = request->chain;
    bool write = request->type == T_OUT;
    uint64_t size = write ? chain->out_size : chain->in_size;
    if (size % BLOCK_SECTOR != 0 || !in_disk(blk, sector, size / BLOCK_SECTOR) ||
        (write && block_read_only(blk->block)))
        return S_IOERR;
    request->block = (struct block_request){
        .op = write ? BLOCK_WRITE : BLOCK_READ,
        .durable = write && writes_are_durable(blk),
        .offset = sector * BLOCK_SECTOR,
        .size = size,
        .iov = write ? chain->out : chain->in,
        .iov_count = write ? chain->out_count : chain->in_count,
        .done = block_done,
    };
    block_submit(blk->block, &request->block);
    return S_OK;
}

static uint8_t ranges_begin(struct request *request)
{
    struct virtio_blk *blk = request->blk;
    const struct virtio_chain *chain = request->chain;
    bool discard = request->type == T_DISCARD;
    uint64_t size = chain->out_size;
    if (size == 0 || size % sizeof(struct range) != 0 || size > sizeof request->range || block_read_only(blk->block))
        return S_IOERR;
    virtio_copy_from(chain->out, chain->out_count, 0, request->range, size);
    request->range_count = (unsigned)(size / sizeof(struct range));
    for (unsigned i = 0; i < request->range_count; i++) {
        const struct range *range = &request->range[i];
        if (range->flags & ~WRITE_ZEROES_UNMAP || (discard && range->flags != 0))
            return S_UNSUPP;
        if (!in_disk(blk, range->sector, range->count))
            return S_IOERR;
    }
    request->block = (struct block_request){
        .op = discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES,
        .durable = writes_are_durable(blk),
        .may_unmap = request->range[0].flags & WRITE_ZEROES_UNMAP,
        .offset = request->range[0].sector * BLOCK_SECTOR,
        .size = (uint64_t)request->range[0].count * BLOCK_SECTOR,
        .done = block_done,
    };
    block_submit(blk->block, &request->block);
    return S_OK;
}

static void flush_begin(struct request *request)
{
    request->block = (struct block_request){.op = BLOCK_FLUSH, .done = block_done};
    block_submit(request->blk->block, &request->block);
}

static void request_begin(struct request *request, uint64_t sector)
{
    struct virtio_blk *blk = request->blk;
    uint8_t status = S_UNSUPP;
    switch (request->type) {
    case T_IN:
    case T_OUT:
        status = transfer_begin(request, sector);
        break;
    case T_FLUSH:
        flush_begin(request);
        return;
    case T_GET_ID:
        request_end(
            request, S_OK,
            virtio_copy_to(blk->memory, request->chain->in, request->chain->in_count, 0, blk->serial, SERIAL_SIZE));
        return;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        status = ranges_begin(request);
        break;
    }
    if (status != S_OK)
        request_end(request, status, 0);
}

/* Cuts the header off the readable pieces, and the status byte off the writable ones. */
static void chain_trim(struct virtio_chain *chain, struct header *header, uint8_t **status)
{
    virtio_copy_from(chain->out, chain->out_count, 0, header, sizeof *header);
    uint64_t left = sizeof *header;
    while (left > 0 && left >= chain->out->iov_len) {
        left -= chain->out->iov_len;
        chain->out++;
        chain->out_count--;
    }
    if (left > 0) {
        chain->out->iov_base = (uint8_t *)chain->out->iov_base + left;
        chain->out->iov_len -= left;
    }
    chain->out_size -= sizeof *header;
    struct iovec *last = &chain->in[chain->in_count - 1]; /* pieces are never empty */
    *status = (uint8_t *)last->iov_base + --last->iov_len;
}

static void chain_serve(struct virtio_blk *blk, const struct virtio_chain *chain)
{
    struct header header;
    if (chain->out_size < sizeof header || chain->in_size < 1) {
        virtio_break(blk->virtio, "a request without room for header and status");
        return;
    }
    struct request *request = calloc(1, sizeof *request);
    struct virtio_chain *kept = virtio_chain_keep(chain);
    check(request != NULL && kept != NULL);
    *request = (struct request){.blk = blk, .chain = kept, .next = blk->first, .link = &blk->first};
    if (blk->first != NULL)
        blk->first->link = &request->next;
    blk->first = request;
    blk->in_flight++;
    chain_trim(kept, &header, &request->status);
    kept->in_size--;
    request->type = header.type;
    request_begin(request, header.sector);
}

static void blk_notified(void *dev, unsigned index)
{
    struct virtio_blk *blk = dev;
    struct virtqueue *queue = virtio_queue(blk->virtio, index);
    struct virtio_chain chain;
    blk->serving = true;
    do {
        virtqueue_set_notify(queue, false);
        while (blk->in_flight < REQUESTS_MAX && virtqueue_pop(queue, &chain))
            chain_serve(blk, &chain);
        virtqueue_flush(queue);
    } while (blk->in_flight < REQUESTS_MAX && !virtqueue_set_notify(queue, true));
    blk->serving = false;
}

/* ---- the device ---- */

static void blk_reset(void *dev)
{
    struct virtio_blk *blk = dev;
    block_cancel(blk->block);
    while (blk->first != NULL) {
        struct request *request = blk->first;
        if (request->type == T_IN) /* some of it may be there */
            virtio_written(blk->memory, request->chain->in, request->chain->in_count, request->block.size);
        request_free(request);
    }
    ((struct config *)virtio_config(blk->virtio))->writeback = 1;
}

static void config_init(struct virtio_blk *blk)
{
    struct config config = {
        .capacity = block_size(blk->block) / BLOCK_SECTOR,
        .seg_max = QUEUE_SIZE - 2,
        .blk_size = BLOCK_SECTOR,
        .min_io_size = 1,
        .writeback = 1,
        .num_queues = 1,
        .max_discard_sectors = UINT32_MAX,
        .max_discard_seg = RANGES_MAX,
        .discard_sector_alignment = 1,
        .max_write_zeroes_sectors = UINT32_MAX,
        .max_write_zeroes_seg = RANGES_MAX,
        .write_zeroes_may_unmap = 1,
    };
    memcpy(virtio_config(blk->virtio), &config, CONFIG_SIZE);
    virtio_config_writable(blk->virtio)[offsetof(struct config, writeback)] = 0xff;
}

struct virtio_blk *virtio_blk_create(const struct virtio_bus *bus, struct block *block, const char *serial,
                                     struct error *err)
{
    static const struct virtio_ops ops = {.notified = blk_notified, .reset = blk_reset, .name = "virtio-blk"};
    struct virtio_desc desc = {
        .type = VIRTIO_BLOCK,
        .class_code = CLASS_STORAGE,
        .features = BIT(F_SEG_MAX) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY),
        .queues = 1,
        .queue_size = QUEUE_SIZE,
        .config_size = CONFIG_SIZE,
        .ops = &ops,
    };
    desc.features |= block_read_only(block) ? BIT(F_RO) : BIT(F_CONFIG_WCE) | BIT(F_DISCARD) | BIT(F_WRITE_ZEROES);
    struct virtio_blk *blk = calloc(1, sizeof *blk);
    if (blk == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    blk->memory = bus->memory;
    blk->block = block;
    memcpy(blk->serial, serial, strnlen(serial, SERIAL_SIZE));
    blk->virtio = virtio_create(bus, &desc, blk, err);
    if (blk->virtio == NULL) {
        free(blk);
        return NULL;
    }
    config_init(blk);
    return blk;
}

void virtio_blk_destroy(struct virtio_blk *blk)
{
    if (blk == NULL)
        return;
    blk_reset(blk);
    virtio_destroy(blk->virtio);
    free(blk);
}
