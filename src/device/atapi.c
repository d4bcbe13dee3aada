/* The packet interface of ATAPI devices: how a command packet, its data and its end travel through ATA's registers.
 *
 *     PACKET            DRQ, and "command" in the interrupt reason; the host writes 12 bytes
 *     data to the host  DRQ, "to the host", and in the byte count how much; again until all is moved. Or DMA
 *     the end           "command" and "to the host" together; the error register has the sense key
 *
 * The interrupt reason is in the sector count register, the byte count in LBA mid and high; the host has put there how
 * much it takes at a time. Replies are made in the buffer; sectors come from the image, in DMA directly to guest
 * memory.
 *
 * ATA/ATAPI-6, 9.7, 9.8, 8.23 (PACKET); SFF-8020i. */
#include <string.h>

#include "device/ide_internal.h"

#define PACKET_DMA 0x01u
#define PACKET_OVERLAP 0x02u

/* Interrupt reason. */
#define REASON_COMMAND 0x01u
#define REASON_TO_HOST 0x02u

#define BYTE_LIMIT_MAX 0xfffeu

void atapi_begin_block(struct ide_device *device, unsigned bytes)
{
    if (device->transfer.write) {
        device->count[0] = REASON_COMMAND;
        return;
    }
    device->count[0] = REASON_TO_HOST;
    device->lba_mid[0] = (uint8_t)bytes;
    device->lba_high[0] = (uint8_t)(bytes >> 8);
}

/* ---- ends ---- */

void atapi_good(struct ide_device *device)
{
    device->count[0] = REASON_COMMAND | REASON_TO_HOST;
    device->sense = (struct sense){0};
    ide_complete(device);
}

void atapi_check(struct ide_device *device, uint8_t key, uint8_t asc, uint8_t ascq)
{
    device->count[0] = REASON_COMMAND | REASON_TO_HOST;
    device->sense = (struct sense){.key = key, .asc = asc, .ascq = ascq};
    ide_abort(device, (uint8_t)(key << 4 | ATA_ABRT));
}

void atapi_failed(struct ide_device *device, int result)
{
    if (result == IDE_BUS_ERROR)
        atapi_check(device, 0x0b, 0x4b, 0x00); /* aborted command: data phase error */
    else
        atapi_check(device, 0x03, 0x11, 0x00); /* medium error: unrecovered read error */
}

/* ---- data ---- */

/* A DRQ block has an even number of bytes, unless it is the last one. */
static unsigned drq_block(const struct ide_device *device)
{
    unsigned limit = device->byte_limit;
    return limit == 0 || limit > BYTE_LIMIT_MAX ? BYTE_LIMIT_MAX : limit > 1 ? limit & ~1u : 2;
}

void atapi_reply(struct ide_device *device, unsigned length, unsigned allocated)
{
    device->filled = length < allocated ? length : allocated;
    if (device->filled == 0) {
        atapi_good(device);
        return;
    }
    device->transfer = (struct ide_transfer){.dma = device->packet_dma, .block = drq_block(device), .done = atapi_good};
    ide_transfer_start(device);
}

void atapi_read_image(struct ide_device *device, uint32_t lba, uint32_t count)
{
    device->transfer = (struct ide_transfer){.dma = device->packet_dma,
                                             .image = true,
                                             .offset = (uint64_t)lba * CD_SECTOR,
                                             .left = (uint64_t)count * CD_SECTOR,
                                             .block = drq_block(device),
                                             .done = atapi_good};
    ide_transfer_start(device);
}

/* ---- commands of ATA ---- */

static void packet_arrived(struct ide_device *device)
{
    memcpy(device->packet, device->buffer, sizeof device->packet);
    device->status = ATA_BSY;
    atapi_execute(device);
}

static void command_packet(struct ide_device *device)
{
    if (device->features[0] & PACKET_OVERLAP) {
        ide_abort(device, ATA_ABRT);
        return;
    }
    device->packet_dma = device->features[0] & PACKET_DMA;
    device->byte_limit = device->lba_mid[0] | (unsigned)device->lba_high[0] << 8;
    device->filled = sizeof device->packet;
    device->transfer =
        (struct ide_transfer){.write = true, .block = sizeof device->packet, .done = packet_arrived};
    ide_transfer_start(device);
}

static void command_identify(struct ide_device *device)
{
    ide_identify_cdrom(device, device->buffer);
    device->filled = IDE_SECTOR;
    device->transfer = (struct ide_transfer){.block = IDE_SECTOR, .done = ide_complete_quietly};
    ide_transfer_start(device);
}

/* What hosts try first on any device: the signature tells them that this is not a disk. */
static void command_not_a_disk(struct ide_device *device)
{
    ide_signature(device);
    ide_abort(device, ATA_ABRT);
}

static void command_set_features(struct ide_device *device)
{
    bool known = device->features[0] == 0x66 || device->features[0] == 0xcc; /* there is nothing to revert */
    if (known || (device->features[0] == 0x03 && ide_set_transfer_mode(device, device->count[0])))
        ide_complete(device);
    else
        ide_abort(device, ATA_ABRT);
}

void atapi_command(struct ide_device *device, uint8_t command)
{
    switch (command) {
    case 0x08: /* DEVICE RESET: no interrupt */
        ide_stop(device);
        atapi_reset(device, false);
        device->error = 0x01;
        ide_signature(device);
        ide_irq_update(device->channel);
        break;
    case 0xa0:
        command_packet(device);
        break;
    case 0xa1:
        command_identify(device);
        break;
    case 0x20: /* READ SECTOR(S) */
    case 0xec: /* IDENTIFY DEVICE */
        command_not_a_disk(device);
        break;
    case 0xe0: /* STANDBY IMMEDIATE */
    case 0xe1: /* IDLE IMMEDIATE */
        ide_complete(device);
        break;
    case 0xe5: /* CHECK POWER MODE */
        device->count[0] = 0xff;
        ide_complete(device);
        break;
    case 0xe6: /* SLEEP */
        ide_complete(device);
        device->phase = IDE_SLEEP;
        break;
    case 0xef:
        command_set_features(device);
        break;
    default:
        ide_abort(device, ATA_ABRT);
        break;
    }
}

void atapi_reset(struct ide_device *device, bool power_on)
{
    device->sense = (struct sense){0};
    device->locked = false;
    if (!power_on)
        return;
    device->dma_mode = 0x45;
    device->attention_reset = true;
    device->attention_medium = false;
    device->event_new_medium = device->event_eject = false;
}
