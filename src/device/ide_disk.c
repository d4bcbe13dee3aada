/* Commands of an ATA disk. One table: what a command is, and its variant in a few bits.
 *
 * Addresses. With 48 bits each register holds two bytes, the one written last is the low one. With 28 bits, or
 * cylinder, head and sector, the device register has the top. A range that leaves the disk is IDNF before anything is
 * moved. The registers say at the end of a command which sector was the last, after an error which one failed.
 *
 * Errors. What cannot be read is UNC. What cannot be written or flushed is a device fault: the cause is the
 * host's (a full file system, say), and no other sector would help. A disk that may not be written aborts writes.
 *
 * Write cache. On, as after power-on: a write is done when the host's kernel has it. Off: when it is on the medium.
 *
 * ATA/ATAPI-6, chapter 8; ATA8-ACS for DATA SET MANAGEMENT and the FUA commands. */
#include <string.h>

#include "device/ide_internal.h"

/* Variants. */
#define EXT 0x01u      /* 48-bit address */
#define WRITE 0x02u
#define DMA 0x04u
#define MULTIPLE 0x08u /* a DRQ block is several sectors */
#define VERIFY 0x10u
#define FUA 0x20u

#define LBA28_MAX 0x10000000ull
#define TRIM 0x01u
#define TRIM_ENTRY 8u

/* ---- addresses ---- */

static uint64_t lba48(const struct ide_device *device)
{
    return device->lba_low[0] | (uint64_t)device->lba_mid[0] << 8 | (uint64_t)device->lba_high[0] << 16 |
           (uint64_t)device->lba_low[1] << 24 | (uint64_t)device->lba_mid[1] << 32 | (uint64_t)device->lba_high[1] << 40;
}

/* UINT64_MAX: there is no such sector. */
static uint64_t address_read(const struct ide_device *device, bool ext)
{
    unsigned top = device->channel->device_register & 0xf;
    if (ext)
        return lba48(device);
    if (device->channel->device_register & ATA_LBA)
        return device->lba_low[0] | (uint64_t)device->lba_mid[0] << 8 | (uint64_t)device->lba_high[0] << 16 |
               (uint64_t)top << 24;
    unsigned cylinder = device->lba_mid[0] | (unsigned)device->lba_high[0] << 8, sector = device->lba_low[0];
    if (sector == 0 || sector > device->sectors_per_track || top >= device->heads)
        return UINT64_MAX;
    return ((uint64_t)cylinder * device->heads + top) * device->sectors_per_track + sector - 1;
}

static void address_write(struct ide_device *device, uint64_t lba, bool ext)
{
    struct ide_channel *channel = device->channel;
    unsigned top = channel->device_register & 0xf0;
    if (!ext && !(channel->device_register & ATA_LBA)) {
        uint64_t track = lba / device->sectors_per_track, cylinder = track / device->heads;
        device->lba_low[0] = (uint8_t)(lba % device->sectors_per_track + 1);
        device->lba_mid[0] = (uint8_t)cylinder;
        device->lba_high[0] = (uint8_t)(cylinder >> 8);
        channel->device_register = (uint8_t)(top | (unsigned)(track % device->heads));
        return;
    }
    device->lba_low[0] = (uint8_t)lba;
    device->lba_mid[0] = (uint8_t)(lba >> 8);
    device->lba_high[0] = (uint8_t)(lba >> 16);
    if (ext) {
        device->lba_low[1] = (uint8_t)(lba >> 24);
        device->lba_mid[1] = (uint8_t)(lba >> 32);
        device->lba_high[1] = (uint8_t)(lba >> 40);
    } else {
        channel->device_register = (uint8_t)(top | (lba >> 24 & 0xf));
    }
}

/* ---- commands with a table row ---- */

static const struct {
    uint8_t command, how;
} transfers[] = {
    {0x20, 0}, {0x21, 0},                 /* READ SECTOR(S) */
    {0x24, EXT},                          /* READ SECTOR(S) EXT */
    {0x25, EXT | DMA},                    /* READ DMA EXT */
    {0x29, EXT | MULTIPLE},               /* READ MULTIPLE EXT */
    {0x30, WRITE}, {0x31, WRITE},         /* WRITE SECTOR(S) */
    {0x34, EXT | WRITE},                  /* WRITE SECTOR(S) EXT */
    {0x35, EXT | WRITE | DMA},            /* WRITE DMA EXT */
    {0x39, EXT | WRITE | MULTIPLE},       /* WRITE MULTIPLE EXT */
    {0x3d, EXT | WRITE | DMA | FUA},      /* WRITE DMA FUA EXT */
    {0x40, VERIFY}, {0x41, VERIFY},       /* READ VERIFY SECTOR(S) */
    {0x42, EXT | VERIFY},                 /* READ VERIFY SECTOR(S) EXT */
    {0xc4, MULTIPLE},                     /* READ MULTIPLE */
    {0xc5, WRITE | MULTIPLE},             /* WRITE MULTIPLE */
    {0xc8, DMA}, {0xc9, DMA},             /* READ DMA */
    {0xca, WRITE | DMA}, {0xcb, WRITE | DMA}, /* WRITE DMA */
    {0xce, EXT | WRITE | MULTIPLE | FUA}, /* WRITE MULTIPLE FUA EXT */
};

/* The variant of the command that is being executed. */
static unsigned variant(const struct ide_device *device)
{
    for (unsigned i = 0; i < ARRAY_LEN(transfers); i++)
        if (transfers[i].command == device->command)
            return transfers[i].how;
    return 0;
}

static void transferred(struct ide_device *device)
{
    unsigned how = variant(device);
    address_write(device, device->transfer.offset / IDE_SECTOR - 1, how & EXT);
    device->count[0] = device->count[1] = 0;
    if (device->transfer.write || device->transfer.dma || device->transfer.verify)
        ide_complete(device);
    else
        ide_complete_quietly(device); /* the interrupt was that of the last block */
}

void ide_disk_failed(struct ide_device *device, int result)
{
    bool bus = result == IDE_BUS_ERROR, write = device->transfer.write || !device->transfer.image;
    if (device->transfer.image)
        address_write(device, device->transfer.offset / IDE_SECTOR, variant(device) & EXT);
    ide_abort(device, write || bus ? ATA_ABRT : ATA_UNC);
    if (write && !bus)
        device->status |= ATA_DF;
}

static void command_transfer(struct ide_device *device, unsigned how)
{
    uint64_t lba = address_read(device, how & EXT);
    uint64_t count = device->count[0];
    if (how & EXT)
        count |= (uint64_t)device->count[1] << 8;
    if (count == 0)
        count = how & EXT ? 65536 : 256;
    if ((how & MULTIPLE && device->multiple == 0) || (how & WRITE && block_read_only(device->block))) {
        ide_abort(device, ATA_ABRT);
        return;
    }
    if (lba >= device->sectors || count > device->sectors - lba) {
        ide_abort(device, ATA_IDNF);
        return;
    }
    device->transfer = (struct ide_transfer){
        .write = how & WRITE,
        .dma = how & DMA,
        .image = true,
        .verify = how & VERIFY,
        .durable = how & WRITE && (how & FUA || !device->write_cache),
        .offset = lba * IDE_SECTOR,
        .left = count * IDE_SECTOR,
        .block = (how & MULTIPLE ? device->multiple : 1) * IDE_SECTOR,
        .done = transferred,
    };
    ide_transfer_start(device);
}

/* ---- other commands ---- */

static void command_done(struct ide_device *device, int result)
{
    if (result != 0)
        ide_disk_failed(device, result);
    else
        ide_complete(device);
}

static void command_flush(struct ide_device *device)
{
    ide_request(device, BLOCK_FLUSH, 0, 0, command_done);
}

static void command_identify(struct ide_device *device)
{
    ide_identify_disk(device, device->buffer);
    device->filled = IDE_SECTOR;
    device->transfer = (struct ide_transfer){.block = IDE_SECTOR, .done = ide_complete_quietly};
    ide_transfer_start(device);
}

static void command_set_features(struct ide_device *device)
{
    bool ok = true;
    switch (device->features[0]) {
    case 0x02:
        device->write_cache = true;
        break;
    case 0x82: /* what is cached goes to the medium first */
        device->write_cache = false;
        command_flush(device);
        return;
    case 0x03:
        ok = ide_set_transfer_mode(device, device->count[0]);
        break;
    case 0x55:
        device->look_ahead = false;
        break;
    case 0xaa:
        device->look_ahead = true;
        break;
    case 0x66:
        device->revert = false;
        break;
    case 0xcc:
        device->revert = true;
        break;
    default:
        ok = false;
        break;
    }
    if (ok)
        ide_complete(device);
    else
        ide_abort(device, ATA_ABRT);
}

static void command_set_multiple(struct ide_device *device)
{
    unsigned n = device->count[0];
    if (n > 16 || (n & (n - 1)) != 0) {
        ide_abort(device, ATA_ABRT);
        return;
    }
    device->multiple = n;
    ide_complete(device);
}

static void command_set_geometry(struct ide_device *device)
{
    if (device->count[0] == 0) {
        ide_abort(device, ATA_ABRT);
        return;
    }
    device->sectors_per_track = device->count[0];
    device->heads = (device->channel->device_register & 0xfu) + 1;
    ide_complete(device);
}

static void command_seek(struct ide_device *device)
{
    if (address_read(device, false) < device->sectors)
        ide_complete(device);
    else
        ide_abort(device, ATA_IDNF);
}

static void command_native_max(struct ide_device *device, bool ext)
{
    uint64_t last = device->sectors - 1;
    if (!ext && last >= LBA28_MAX)
        last = LBA28_MAX - 1;
    if (!ext)
        device->channel->device_register |= ATA_LBA;
    address_write(device, last, ext);
    ide_complete(device);
}

static void command_standby(struct ide_device *device, bool standby)
{
    device->standby = standby;
    if (standby)
        command_flush(device);
    else
        ide_complete(device);
}

static void asleep(struct ide_device *device, int result)
{
    command_done(device, result);
    if (result == 0)
        device->phase = IDE_SLEEP;
}

/* ---- DATA SET MANAGEMENT ---- */

/* Entries of 48 bits of address and 16 of length; a length of 0 is no entry. */
static void trim_next(struct ide_device *device, int result)
{
    if (result != 0) {
        ide_disk_failed(device, result);
        return;
    }
    while (device->trim_at < device->filled) {
        uint64_t entry;
        memcpy(&entry, device->buffer + device->trim_at, TRIM_ENTRY);
        device->trim_at += TRIM_ENTRY;
        uint64_t lba = entry & 0xffffffffffffull, count = entry >> 48;
        if (count == 0)
            continue;
        if (lba >= device->sectors || count > device->sectors - lba) {
            ide_abort(device, ATA_IDNF | ATA_ABRT);
            return;
        }
        ide_request(device, BLOCK_DISCARD, lba * IDE_SECTOR, count * IDE_SECTOR, trim_next);
        return;
    }
    ide_complete(device);
}

static void trim_arrived(struct ide_device *device)
{
    device->trim_at = 0;
    trim_next(device, 0);
}

static void command_data_set_management(struct ide_device *device)
{
    unsigned blocks = device->count[0] | (unsigned)device->count[1] << 8;
    if (device->features[0] != TRIM || blocks == 0 || blocks > IDE_TRIM_BLOCKS || block_read_only(device->block)) {
        ide_abort(device, ATA_ABRT);
        return;
    }
    device->filled = blocks * IDE_SECTOR;
    device->transfer = (struct ide_transfer){.write = true, .dma = true, .done = trim_arrived};
    ide_transfer_start(device);
}

/* ---- all ---- */

static void command_other(struct ide_device *device, uint8_t command)
{
    switch (command) {
    case 0x06:
        command_data_set_management(device);
        break;
    case 0x10 ... 0x1f: /* RECALIBRATE */
        ide_complete(device);
        break;
    case 0x27:
        command_native_max(device, true);
        break;
    case 0x70 ... 0x7f:
        command_seek(device);
        break;
    case 0x91:
        command_set_geometry(device);
        break;
    case 0xc6:
        command_set_multiple(device);
        break;
    case 0xe0: /* STANDBY IMMEDIATE */
    case 0xe2: /* STANDBY: whatever its timer says, there is nothing to be saved */
        command_standby(device, true);
        break;
    case 0xe1: /* IDLE IMMEDIATE */
    case 0xe3: /* IDLE */
        command_standby(device, false);
        break;
    case 0xe5: /* CHECK POWER MODE */
        device->count[0] = device->standby ? 0x00 : 0xff;
        ide_complete(device);
        break;
    case 0xe6: /* SLEEP */
        ide_request(device, BLOCK_FLUSH, 0, 0, asleep);
        break;
    case 0xe7: /* FLUSH CACHE */
    case 0xea: /* FLUSH CACHE EXT */
        command_flush(device);
        break;
    case 0xec:
        command_identify(device);
        break;
    case 0xef:
        command_set_features(device);
        break;
    case 0xf8:
        command_native_max(device, false);
        break;
    default: /* NOP among them, which always ends so */
        ide_abort(device, ATA_ABRT);
        break;
    }
}

void ide_disk_command(struct ide_device *device, uint8_t command)
{
    for (unsigned i = 0; i < ARRAY_LEN(transfers); i++) {
        if (transfers[i].command == command) {
            device->standby = false;
            command_transfer(device, transfers[i].how);
            return;
        }
    }
    command_other(device, command);
}

void ide_disk_defaults(struct ide_device *device)
{
    device->heads = IDE_HEADS;
    device->sectors_per_track = IDE_SECTORS_PER_TRACK;
    device->multiple = 0;
    device->dma_mode = 0x45; /* what firmware would choose */
    device->write_cache = device->look_ahead = true;
    device->revert = false;
}
