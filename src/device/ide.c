/* The PIIX3's IDE function: PCI, channels, registers. See ide.h, and ide_internal.h for the other files.
 *
 * Model. A channel is a cable with up to two devices. Registers of the command block are written in both devices at
 * once; commands and reads are for the one that the device register selects. A device that is executing a command, or
 * moving data, does not take writes. An absent device 1 is answered for by device 0, with a status of 0; where device 0
 * is absent nobody drives the bus, and its pulled-down bit 7 says "not busy".
 *
 * Interrupts. Each device has an interrupt pending; the cable carries that of the selected device unless nIEN is set in
 * the device control register. A rising edge sets the bus master's interrupt bit. Reading the status register, and a
 * new command, take it back.
 *
 * A channel answers at its ports while the PCI command register permits I/O and IDETIM bit 15 is set. Timings are
 * remembered, without effect; so are the drive-capable bits of the bus master's status.
 *
 * Reset. SRST ends all that is under way; requests to the image are waited for. When it is cleared devices show their
 * signature. A reset of the PCI bus is the hardware reset.
 *
 * Deliberately not emulated: overlapped and queued commands, security, SMART, host protected area (but READ NATIVE MAX
 * ADDRESS), power-up in standby, compatible transfer timing, PIO to a device while the other one's DMA is active taking
 * longer. */
#include "device/ide.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "device/ide_internal.h"

#define PIIX3_IDE_ID 0x7010u
#define IDETIM 0x40u
#define IDETIM_ENABLE 0x8000u
#define SIDETIM 0x44u
#define BM_BAR 4u

#define NOBODY 0x7fu /* an undriven bus */

#define ATA_EXECUTE_DEVICE_DIAGNOSTIC 0x90u
#define ATA_DEVICE_RESET 0x08u
#define DIAGNOSTIC_PASSED 0x01u

/* ---- interrupts and ends ---- */

void ide_irq_update(struct ide_channel *channel)
{
    const struct ide_device *device = ide_selected(channel);
    bool level = device->kind != IDE_NONE && device->intrq && !(channel->control & ATA_NIEN);
    if (level == channel->level)
        return;
    channel->level = level;
    if (level)
        channel->bm.status |= BM_STATUS_INTERRUPT;
    irq_set(&channel->ide->config.irq[channel->n], level);
}

void ide_interrupt(struct ide_device *device)
{
    device->intrq = true;
    ide_irq_update(device->channel);
}

void ide_complete_quietly(struct ide_device *device)
{
    device->phase = IDE_IDLE;
    device->status = ATA_DRDY | ATA_DSC;
    device->error = 0;
}

void ide_complete(struct ide_device *device)
{
    ide_complete_quietly(device);
    ide_interrupt(device);
}

void ide_abort(struct ide_device *device, uint8_t error)
{
    device->phase = IDE_IDLE;
    device->status = ATA_DRDY | ATA_DSC | ATA_ERR;
    device->error = error;
    ide_interrupt(device);
}

/* ---- resets ---- */

void ide_signature(struct ide_device *device)
{
    device->count[0] = device->lba_low[0] = 1;
    device->lba_mid[0] = device->kind == IDE_CDROM ? 0x14 : 0;
    device->lba_high[0] = device->kind == IDE_CDROM ? 0xeb : 0;
    device->status = device->kind == IDE_CDROM ? 0 : ATA_DRDY | ATA_DSC;
    device->phase = IDE_IDLE;
}

void ide_stop(struct ide_device *device)
{
    if (device->phase == IDE_WORK)
        ide_bus_master_cancel(device);
    device->phase = IDE_IDLE;
    device->intrq = false;
    device->at = device->end = device->filled = 0;
}

static void reset_begin(struct ide_channel *channel)
{
    for (unsigned i = 0; i < IDE_UNITS; i++) {
        ide_stop(&channel->device[i]);
        channel->device[i].phase = IDE_RESET;
        channel->device[i].status = ATA_BSY;
    }
    ide_irq_update(channel);
}

/* Also the end of EXECUTE DEVICE DIAGNOSTIC. */
static void reset_end(struct ide_channel *channel, bool power_on)
{
    for (unsigned i = 0; i < IDE_UNITS; i++) {
        struct ide_device *device = &channel->device[i];
        if (device->kind == IDE_DISK && (power_on || device->revert))
            ide_disk_defaults(device);
        if (device->kind == IDE_CDROM)
            atapi_reset(device, power_on);
        device->standby = false;
        device->error = DIAGNOSTIC_PASSED;
        ide_signature(device);
    }
    channel->device_register = 0;
}

static void channel_reset(struct ide_channel *channel)
{
    reset_begin(channel);
    channel->control = 0;
    scatter_clear(&channel->bm.dma);
    channel->bm = (struct bus_master){.dma = channel->bm.dma};
    reset_end(channel, true);
    ide_irq_update(channel);
}

static void diagnose(struct ide_channel *channel)
{
    reset_begin(channel);
    reset_end(channel, false);
    ide_interrupt(&channel->device[0]);
}

/* ---- the command block ---- */

static bool takes_writes(const struct ide_device *device)
{
    return device->kind != IDE_NONE && !(device->status & (ATA_BSY | ATA_DRQ));
}

static void register_push(uint8_t levels[2], uint8_t value)
{
    levels[1] = levels[0];
    levels[0] = value;
}

static void device_write(struct ide_device *device, unsigned offset, uint8_t value)
{
    if (!takes_writes(device))
        return;
    switch (offset) {
    case ATA_ERROR_FEATURES:
        register_push(device->features, value);
        break;
    case ATA_COUNT:
        register_push(device->count, value);
        break;
    case ATA_LBA_LOW:
        register_push(device->lba_low, value);
        break;
    case ATA_LBA_MID:
        register_push(device->lba_mid, value);
        break;
    default:
        register_push(device->lba_high, value);
        break;
    }
}

static void command_write(struct ide_channel *channel, uint8_t command)
{
    struct ide_device *device = ide_selected(channel);
    if (command == ATA_EXECUTE_DEVICE_DIAGNOSTIC && channel->device[0].phase != IDE_RESET) {
        diagnose(channel);
        return;
    }
    bool wakes = command == ATA_DEVICE_RESET && device->kind == IDE_CDROM && device->phase != IDE_RESET;
    if (!wakes && (!takes_writes(device) || device->phase == IDE_SLEEP))
        return;
    device->intrq = false;
    ide_irq_update(channel);
    device->command = command;
    device->transfer = (struct ide_transfer){0};
    if (device->kind == IDE_CDROM)
        atapi_command(device, command);
    else
        ide_disk_command(device, command);
}

static void register_write(struct ide_channel *channel, unsigned offset, uint8_t value)
{
    if (offset == ATA_STATUS_COMMAND) {
        command_write(channel, value);
    } else if (offset == ATA_DEVICE) {
        channel->device_register = value;
        ide_irq_update(channel);
    } else {
        device_write(&channel->device[0], offset, value);
        device_write(&channel->device[1], offset, value);
    }
    channel->control &= (uint8_t)~ATA_HOB;
}

/* Who answers reads; NULL: nobody. */
static struct ide_device *answering(struct ide_channel *channel)
{
    struct ide_device *device = ide_selected(channel);
    if (device->kind == IDE_NONE)
        device = &channel->device[0];
    return device->kind != IDE_NONE ? device : NULL;
}

static uint8_t status_read(struct ide_channel *channel)
{
    const struct ide_device *device = answering(channel);
    if (device == NULL)
        return NOBODY;
    return device == ide_selected(channel) ? device->status : 0;
}

static uint8_t register_read(struct ide_channel *channel, unsigned offset)
{
    struct ide_device *device = answering(channel);
    unsigned level = channel->control & ATA_HOB ? 1 : 0;
    if (device == NULL)
        return NOBODY;
    switch (offset) {
    case ATA_ERROR_FEATURES:
        return device->error;
    case ATA_COUNT:
        return device->count[level];
    case ATA_LBA_LOW:
        return device->lba_low[level];
    case ATA_LBA_MID:
        return device->lba_mid[level];
    case ATA_LBA_HIGH:
        return device->lba_high[level];
    case ATA_DEVICE:
        return channel->device_register;
    default:
        if (device == ide_selected(channel)) {
            device->intrq = false;
            ide_irq_update(channel);
        }
        return status_read(channel);
    }
}

static uint64_t command_block_read(void *dev, uint64_t offset, unsigned size)
{
    struct ide_channel *channel = dev;
    uint64_t value = 0;
    if (offset == ATA_DATA && answering(channel) != NULL)
        return ide_data_read(ide_selected(channel), size);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)register_read(channel, (unsigned)offset + i) << (8 * i);
    return value;
}

static void command_block_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct ide_channel *channel = dev;
    if (offset == ATA_DATA) {
        ide_data_write(ide_selected(channel), size, value);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        register_write(channel, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
}

static unsigned command_block_read_string(void *dev, uint64_t offset, unsigned size, uint8_t *bytes, unsigned count)
{
    return offset == ATA_DATA ? ide_data_read_string(ide_selected(dev), size, bytes, count) : 0;
}

static unsigned command_block_write_string(void *dev, uint64_t offset, unsigned size, const uint8_t *bytes,
                                           unsigned count)
{
    return offset == ATA_DATA ? ide_data_write_string(ide_selected(dev), size, bytes, count) : 0;
}

const struct io_ops ide_command_ops = {.read = command_block_read,
                                       .write = command_block_write,
                                       .read_string = command_block_read_string,
                                       .write_string = command_block_write_string,
                                       .name = "IDE"};

/* ---- the control block ---- */

static uint64_t control_read(void *dev, uint64_t offset, unsigned size)
{
    return status_read(dev);
}

static void control_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct ide_channel *channel = dev;
    bool was_reset = channel->control & ATA_SRST;
    channel->control = (uint8_t)value & (ATA_HOB | ATA_SRST | ATA_NIEN);
    if (value & ATA_SRST && !was_reset)
        reset_begin(channel);
    else if (!(value & ATA_SRST) && was_reset)
        reset_end(channel, false);
    ide_irq_update(channel);
}

const struct io_ops ide_control_ops = {.read = control_read, .write = control_write, .name = "IDE control"};

/* ---- bus master registers ---- */

static uint8_t bus_master_byte(const struct ide_channel *channel, unsigned offset)
{
    const struct bus_master *bm = &channel->bm;
    switch (offset) {
    case BM_COMMAND:
        return bm->command;
    case BM_STATUS:
        return bm->status;
    case BM_PRD ... BM_PRD + 3:
        return (uint8_t)(bm->prd >> (8 * (offset - BM_PRD)));
    default:
        return 0;
    }
}

static uint64_t bus_master_read(void *dev, uint64_t offset, unsigned size)
{
    struct ide *ide = dev;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i;
        value |= (uint64_t)bus_master_byte(&ide->channel[at / BM_SIZE % IDE_CHANNELS], at % BM_SIZE) << (8 * i);
    }
    return value;
}

static void bus_master_write_byte(struct ide_channel *channel, unsigned offset, uint8_t value)
{
    struct bus_master *bm = &channel->bm;
    if (offset == BM_COMMAND) {
        ide_bus_master_write_command(channel, value);
    } else if (offset == BM_STATUS) {
        uint8_t kept = bm->status & (uint8_t) ~(value & (BM_STATUS_INTERRUPT | BM_STATUS_ERROR));
        bm->status = (uint8_t)((kept & ~BM_STATUS_CAPABLE) | (value & BM_STATUS_CAPABLE));
    } else if (offset >= BM_PRD) {
        unsigned shift = 8 * (offset - BM_PRD);
        bm->prd = ((bm->prd & ~(0xffu << shift)) | (uint32_t)value << shift) & ~3u;
    }
}

static void bus_master_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct ide *ide = dev;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i;
        bus_master_write_byte(&ide->channel[at / BM_SIZE % IDE_CHANNELS], at % BM_SIZE, (uint8_t)(value >> (8 * i)));
    }
}

const struct io_ops ide_bus_master_ops = {.read = bus_master_read, .write = bus_master_write, .name = "IDE bus master"};

/* ---- PCI ---- */

static void map(struct ide *ide, uint16_t *mapped, uint16_t wanted, unsigned count, const struct io_ops *ops, void *dev)
{
    if (*mapped == wanted)
        return;
    if (*mapped != 0)
        memory_unmap_device_ports(ide->config.memory, *mapped, count, dev);
    *mapped = wanted != 0 && memory_map_ports(ide->config.memory, wanted, count, ops, dev, NULL) ? wanted : 0;
}

static void ports_update(struct ide *ide)
{
    bool io = pci_config_get16(ide->function, PCI_COMMAND) & PCI_COMMAND_IO;
    for (unsigned i = 0; i < IDE_CHANNELS; i++) {
        struct ide_channel *channel = &ide->channel[i];
        bool on = io && pci_config_get16(ide->function, IDETIM + 2 * i) & IDETIM_ENABLE;
        map(ide, &channel->command_mapped, on ? ide->config.command_port[i] : 0, IDE_COMMAND_PORTS, &ide_command_ops,
            channel);
        map(ide, &channel->control_mapped, on ? ide->config.control_port[i] : 0, 1, &ide_control_ops, channel);
    }
}

static void ide_config_written(void *dev, unsigned offset, unsigned size)
{
    struct ide *ide = dev;
    ports_update(ide);
    for (unsigned i = 0; i < IDE_CHANNELS; i++)
        ide_bus_master_kick(&ide->channel[i]); /* bus mastering may have been permitted */
}

static void ide_reset(void *dev)
{
    struct ide *ide = dev;
    for (unsigned i = 0; i < IDE_CHANNELS; i++)
        channel_reset(&ide->channel[i]);
    ports_update(ide);
}

static const struct pci_function_ops ide_pci_ops = {.config_written = ide_config_written, .reset = ide_reset};

void *ide_channel(struct ide *ide, unsigned n)
{
    return &ide->channel[n];
}

static bool device_init(struct ide_device *device, struct ide_channel *channel, unsigned unit,
                        const struct ide_unit_config *config)
{
    device->channel = channel;
    device->unit = unit;
    device->kind = config->kind;
    device->block = config->block;
    if (config->kind == IDE_NONE)
        return true;
    if (config->kind == IDE_DISK)
        device->sectors = block_size(config->block) / IDE_SECTOR;
    size_t length = strlen(config->serial);
    memcpy(device->serial, config->serial, length < IDE_SERIAL_MAX ? length : IDE_SERIAL_MAX);
    device->buffer = malloc(IDE_BUFFER_SIZE);
    return device->buffer != NULL;
}

static void buffers_free(struct ide *ide)
{
    for (unsigned i = 0; i < IDE_CHANNELS; i++) {
        scatter_free(&ide->channel[i].bm.dma);
        for (unsigned k = 0; k < IDE_UNITS; k++)
            free(ide->channel[i].device[k].buffer);
    }
    free(ide);
}

struct ide *ide_create(struct pci_host *host, unsigned slot, const struct ide_config *config, struct error *err)
{
    static const struct pci_function_desc desc = {
        .vendor_id = 0x8086, .device_id = PIIX3_IDE_ID, .class_code = 0x010180, .ops = &ide_pci_ops};
    struct ide *ide = calloc(1, sizeof *ide);
    bool ok = ide != NULL;
    for (unsigned i = 0; ok && i < IDE_CHANNELS; i++) {
        struct ide_channel *channel = &ide->channel[i];
        channel->ide = ide;
        channel->n = i;
        for (unsigned k = 0; ok && k < IDE_UNITS; k++)
            ok = device_init(&channel->device[k], channel, k, &config->unit[i][k]);
    }
    if (ok) {
        ide->config = *config;
        ide->function = pci_add_function(host, slot, 1, &desc, ide, err);
    } else {
        error_set(err, "out of memory");
    }
    if (ide == NULL || ide->function == NULL) {
        if (ide != NULL)
            buffers_free(ide);
        return NULL;
    }
    uint8_t *writable = pci_config_writable(ide->function);
    memset(writable + IDETIM, 0xff, 5);
    writable[SIDETIM] = 0xff;
    writable[PCI_CACHE_LINE] = 0;
    writable[PCI_COMMAND] = PCI_COMMAND_IO | PCI_COMMAND_MASTER;
    writable[PCI_COMMAND + 1] = 0;
    pci_set_bar(ide->function, BM_BAR, PCI_BAR_IO, false, 16, &ide_bus_master_ops, ide);
    ide_reset(ide);
    return ide;
}

void ide_destroy(struct ide *ide)
{
    if (ide == NULL)
        return;
    for (unsigned i = 0; i < IDE_CHANNELS; i++) {
        struct ide_channel *channel = &ide->channel[i];
        for (unsigned k = 0; k < IDE_UNITS; k++)
            ide_stop(&channel->device[k]);
        map(ide, &channel->command_mapped, 0, IDE_COMMAND_PORTS, NULL, channel);
        map(ide, &channel->control_mapped, 0, 1, NULL, channel);
    }
    buffers_free(ide);
}
