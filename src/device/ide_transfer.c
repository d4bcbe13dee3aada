/* How data move between an IDE device and its host.
 *
 * PIO. The data port moves a window of the buffer, buffer[at..end), the *DRQ block*: a sector, several for READ
 * MULTIPLE, what the host's byte count permits for packets. When it is through, the next window of the buffer follows
 * at once with its interrupt. When the buffer is through, it is filled from the image, or written to it, in one request
 * of up to IDE_BUFFER_SIZE, with BSY set meanwhile.
 *
 * Bus master. Nothing moves before both sides are ready: the device has a command with DMA, the guest has set the start
 * bit. Then descriptors (PRDs) are gathered into a scatter list of guest memory, at most CHUNK bytes at a time, and the
 * image's request goes to or from guest memory directly. Descriptors are the guest's: the table wraps within 64 KiB, as
 * the address counter of the chip does, so it always ends; an address where no memory is sets the error bit, and the
 * command is aborted.
 *
 *     table shorter than the transfer   the bus master becomes inactive, the device waits for another start; no
 * interrupt
 *     table longer                      interrupt; the active bit stays
 *     alike                             interrupt; inactive
 *
 * When the start bit is cleared amid a transfer, what is under way is waited for or dropped, and the device waits for
 * another start or, more likely, for its reset.
 *
 * ATA/ATAPI-6, 9.5 to 9.8; Programming Interface for Bus Master IDE Controller, 1.2 to 3.1. */
#include <string.h>

#include "base/check.h"
#include "device/ide_internal.h"

#define CHUNK (256 * KiB)
#define PRD_END 0x80000000u
#define PRD_COUNT 0xfffeu
#define PRD_COUNT_MAX 0x10000u

/* ---- requests ---- */

static void request_finished(struct block_request *request, int result)
{
    struct ide_device *device = container_of(request, struct ide_device, request);
    check(device->phase == IDE_WORK);
    device->phase = IDE_IDLE;
    device->request_done(device, result);
}

static void submit(struct ide_device *device, enum block_op op, uint64_t offset, uint64_t size, const struct iovec *iov,
                   unsigned iov_count, void (*done)(struct ide_device *device, int result))
{
    device->phase = IDE_WORK;
    device->status = ATA_BSY;
    device->request_done = done;
    device->request = (struct block_request){.op = op,
                                             .durable = device->transfer.durable,
                                             .offset = offset,
                                             .size = size,
                                             .iov = iov,
                                             .iov_count = iov_count,
                                             .done = request_finished};
    block_submit(device->block, &device->request);
}

void ide_request(struct ide_device *device, enum block_op op, uint64_t offset, uint64_t size,
                 void (*done)(struct ide_device *device, int result))
{
    device->iov = (struct iovec){.iov_base = device->buffer, .iov_len = size};
    submit(device, op, offset, size, &device->iov, op == BLOCK_READ || op == BLOCK_WRITE, done);
}

static void failed(struct ide_device *device, int result)
{
    if (device->kind == IDE_CDROM)
        atapi_failed(device, result);
    else
        ide_disk_failed(device, result);
}

/* What of the image's data has been moved. */
static void advance(struct ide_device *device, uint64_t bytes)
{
    device->transfer.offset += bytes;
    device->transfer.left -= bytes;
}

/* ---- PIO ---- */

/* Shows the next window of the buffer. */
static void block_begin(struct ide_device *device, bool interrupt)
{
    unsigned n = device->filled - device->at;
    if (n > device->transfer.block)
        n = device->transfer.block;
    device->end = device->at + n;
    device->phase = IDE_DATA;
    device->status = ATA_DRDY | ATA_DSC | ATA_DRQ;
    if (device->kind == IDE_CDROM)
        atapi_begin_block(device, n);
    if (interrupt)
        ide_interrupt(device);
}

static void chunk_read(struct ide_device *device);

static void chunk_was_read(struct ide_device *device, int result)
{
    struct ide_transfer *transfer = &device->transfer;
    if (result != 0) {
        advance(device, device->request.transferred);
        failed(device, result);
        return;
    }
    advance(device, device->request.size);
    device->at = 0;
    device->filled = (unsigned)device->request.size;
    if (!transfer->verify)
        block_begin(device, true);
    else if (transfer->left > 0)
        chunk_read(device);
    else
        transfer->done(device);
}

static void chunk_read(struct ide_device *device)
{
    uint64_t left = device->transfer.left, n = left < IDE_BUFFER_SIZE ? left : IDE_BUFFER_SIZE;
    ide_request(device, BLOCK_READ, device->transfer.offset, n, chunk_was_read);
}

static void chunk_ask(struct ide_device *device, bool interrupt)
{
    uint64_t left = device->transfer.left;
    device->at = 0;
    device->filled = (unsigned)(left < IDE_BUFFER_SIZE ? left : IDE_BUFFER_SIZE);
    block_begin(device, interrupt);
}

static void chunk_was_written(struct ide_device *device, int result)
{
    if (result != 0) {
        advance(device, device->request.transferred);
        failed(device, result);
        return;
    }
    advance(device, device->request.size);
    if (device->transfer.left > 0)
        chunk_ask(device, true);
    else
        device->transfer.done(device);
}

/* The window has been moved. */
static void block_end(struct ide_device *device)
{
    struct ide_transfer *transfer = &device->transfer;
    device->status &= (uint8_t)~ATA_DRQ;
    device->phase = IDE_IDLE;
    if (device->at < device->filled)
        block_begin(device, true);
    else if (transfer->write && transfer->image)
        ide_request(device, BLOCK_WRITE, transfer->offset, device->filled, chunk_was_written);
    else if (transfer->image && transfer->left > 0)
        chunk_read(device);
    else
        transfer->done(device);
}

uint64_t ide_data_read(struct ide_device *device, unsigned size)
{
    uint64_t value = UINT64_MAX;
    if (device->phase != IDE_DATA || device->transfer.write)
        return value;
    unsigned n = device->end - device->at < size ? device->end - device->at : size;
    memcpy(&value, device->buffer + device->at, n);
    device->at += n;
    if (device->at == device->end)
        block_end(device);
    return value;
}

void ide_data_write(struct ide_device *device, unsigned size, uint64_t value)
{
    if (device->phase != IDE_DATA || !device->transfer.write)
        return;
    unsigned n = device->end - device->at < size ? device->end - device->at : size;
    memcpy(device->buffer + device->at, &value, n);
    device->at += n;
    if (device->at == device->end)
        block_end(device);
}

/* Whole elements of the window; what is left over goes the other way. */
static unsigned string_bytes(const struct ide_device *device, unsigned size, unsigned count)
{
    unsigned n = (device->end - device->at) / size;
    return (n < count ? n : count) * size;
}

unsigned ide_data_read_string(struct ide_device *device, unsigned size, uint8_t *bytes, unsigned count)
{
    if (device->phase != IDE_DATA || device->transfer.write)
        return 0;
    unsigned n = string_bytes(device, size, count);
    memcpy(bytes, device->buffer + device->at, n);
    device->at += n;
    if (device->at == device->end)
        block_end(device);
    return n / size;
}

unsigned ide_data_write_string(struct ide_device *device, unsigned size, const uint8_t *bytes, unsigned count)
{
    if (device->phase != IDE_DATA || !device->transfer.write)
        return 0;
    unsigned n = string_bytes(device, size, count);
    memcpy(device->buffer + device->at, bytes, n);
    device->at += n;
    if (device->at == device->end)
        block_end(device);
    return n / size;
}

/* ---- bus master ---- */

/* The next region of memory. False: the table is not in memory. */
static bool region_next(struct ide_channel *channel)
{
    struct bus_master *bm = &channel->bm;
    uint8_t bytes[8];
    if (!memory_read(channel->ide->config.memory, bm->entry, bytes, sizeof bytes))
        return false;
    uint32_t base, flags;
    memcpy(&base, bytes, 4);
    memcpy(&flags, bytes + 4, 4);
    bm->region = base & ~1u;
    bm->region_left = (flags & PRD_COUNT) != 0 ? flags & PRD_COUNT : PRD_COUNT_MAX;
    bm->end_of_table = flags & PRD_END;
    bm->entry = (bm->entry & ~0xffffu) | ((bm->entry + 8) & 0xffffu);
    return true;
}

/* Memory for the next at most `limit` bytes, into bm->dma. False: the guest has named something else. */
static bool gather(struct ide_channel *channel, uint64_t limit, bool to_guest)
{
    struct bus_master *bm = &channel->bm;
    scatter_clear(&bm->dma);
    while (bm->dma.size < limit) {
        if (bm->region_left == 0 && bm->end_of_table)
            return true;
        if (bm->region_left == 0 && !region_next(channel))
            return false;
        uint64_t n = bm->region_left < limit - bm->dma.size ? bm->region_left : limit - bm->dma.size;
        if (!scatter_add(&bm->dma, channel->ide->config.memory, bm->region, n, to_guest))
            return false;
        bm->region += (uint32_t)n;
        bm->region_left -= (uint32_t)n;
    }
    return true;
}

static void table_end(struct bus_master *bm)
{
    if (bm->end_of_table && bm->region_left == 0)
        bm->status &= (uint8_t)~BM_STATUS_ACTIVE;
}

static void dma_fault(struct ide_device *device)
{
    struct bus_master *bm = &device->channel->bm;
    bm->status = (uint8_t)((bm->status & ~BM_STATUS_ACTIVE) | BM_STATUS_ERROR);
    log_info(device->channel->ide->config.log, "IDE channel %u: the bus master was sent where no memory is",
             device->channel->n);
    device->phase = IDE_IDLE;
    failed(device, IDE_BUS_ERROR);
}

static void dma_moved(struct ide_device *device, int result)
{
    struct ide_channel *channel = device->channel;
    bool write = device->transfer.write;
    uint64_t bytes = result == 0 ? device->request.size : device->request.transferred;
    if (!write)
        scatter_written(&channel->bm.dma, channel->ide->config.memory, device->request.size);
    advance(device, bytes);
    table_end(&channel->bm);
    channel->bm.owner = NULL;
    if (result != 0)
        failed(device, result);
    else if (device->transfer.left == 0)
        device->transfer.done(device);
    else
        device->phase = IDE_DMA;
    ide_bus_master_kick(channel);
}

static void dma_run_image(struct ide_device *device)
{
    struct ide_transfer *transfer = &device->transfer;
    struct bus_master *bm = &device->channel->bm;
    bm->owner = device;
    submit(device, transfer->write ? BLOCK_WRITE : BLOCK_READ, transfer->offset, bm->dma.size, bm->dma.iov,
           bm->dma.count, dma_moved);
}

static void dma_run_buffer(struct ide_device *device)
{
    struct bus_master *bm = &device->channel->bm;
    uint8_t *bytes = device->buffer + device->at;
    if (device->transfer.write)
        scatter_copy_out(&bm->dma, bytes, bm->dma.size);
    else
        scatter_copy_in(&bm->dma, device->channel->ide->config.memory, bytes, bm->dma.size);
    device->at += (unsigned)bm->dma.size;
    table_end(bm);
    if (device->at == device->filled) {
        device->phase = IDE_IDLE;
        device->transfer.done(device);
    }
}

void ide_bus_master_kick(struct ide_channel *channel)
{
    struct bus_master *bm = &channel->bm;
    struct ide_device *device = &channel->device[channel->device[1].phase == IDE_DMA];
    if (bm->owner != NULL || device->phase != IDE_DMA || !(bm->status & BM_STATUS_ACTIVE) ||
        !pci_bus_master(channel->ide->function))
        return;
    const struct ide_transfer *transfer = &device->transfer;
    uint64_t wanted = transfer->image ? transfer->left : device->filled - device->at;
    if (!gather(channel, wanted < CHUNK ? wanted : CHUNK, !transfer->write))
        dma_fault(device);
    else if (bm->dma.size == 0)
        table_end(bm);
    else if (transfer->image)
        dma_run_image(device);
    else
        dma_run_buffer(device);
}

void ide_bus_master_cancel(struct ide_device *device)
{
    struct bus_master *bm = &device->channel->bm;
    block_cancel(device->block);
    if (bm->owner != device)
        return;
    bm->owner = NULL;
    if (!device->transfer.write) /* some of it may be there */
        scatter_written(&bm->dma, device->channel->ide->config.memory, device->request.size);
}

void ide_bus_master_write_command(struct ide_channel *channel, uint8_t value)
{
    struct bus_master *bm = &channel->bm;
    bool started = bm->command & BM_COMMAND_START;
    bm->command = value & (BM_COMMAND_START | BM_COMMAND_TO_MEMORY);
    if (!started && value & BM_COMMAND_START) {
        bm->status |= BM_STATUS_ACTIVE;
        bm->entry = bm->prd;
        bm->region_left = 0;
        bm->end_of_table = false;
        ide_bus_master_kick(channel);
    } else if (started && !(value & BM_COMMAND_START)) {
        bm->status &= (uint8_t)~BM_STATUS_ACTIVE;
        struct ide_device *device = bm->owner;
        if (device != NULL) {
            ide_bus_master_cancel(device);
            device->phase = IDE_DMA;
        }
    }
}

/* ---- begin ---- */

void ide_transfer_start(struct ide_device *device)
{
    const struct ide_transfer *transfer = &device->transfer;
    device->at = 0;
    if (transfer->dma) {
        device->phase = IDE_DMA;
        device->status = ATA_BSY;
        ide_bus_master_kick(device->channel);
    } else if (transfer->image && !transfer->write) {
        chunk_read(device);
    } else if (transfer->image) {
        chunk_ask(device, false);
    } else {
        block_begin(device, !transfer->write);
    }
}
