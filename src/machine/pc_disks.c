/* The board's drives: images are opened here, once, and given to the controllers: the PIIX3's IDE function (0:1.1, channels at
 * 1F0h and 170h, interrupts 14 and 15), and virtio devices in slots of their own, in order of their index. */
#include "machine/pc_internal.h"

#include <stdio.h>

#include "host/block.h"

/* Configuration of the IDE function (82371SB, 2.3). */
#define IDE_FUNCTION 1u
#define IDETIM 0x40u
#define IDETIM_ENABLE 0x8000u
#define IDE_BUS_MASTER_BAR (PCI_BAR0 + 4 * 4)

#define SERIAL_SIZE 21u

static bool drive_open(struct pc *pc, struct pc_drive *drive, struct error *err)
{
    const struct drive_config *config = drive->config;
    const struct block_options options = {
        .read_only = config->read_only,
        .snapshot = config->snapshot,
        .unsafe = config->unsafe,
        .raw = config->raw || config->cdrom,
        .loop = pc->config.loop,
        .queue = pc->config.repeatable ? pc->config.queue : NULL,
        .log = pc->config.log,
    };
    if (config->file == NULL)
        return true;
    drive->block = block_open(config->file, &options, err);
    return drive->block != NULL;
}

bool pc_open_drives(struct pc *pc, struct error *err)
{
    for (unsigned i = 0; i < pc->config.drive_count; i++) {
        pc->drives[i].config = &pc->config.drives[i];
        pc->drive_count = i + 1;
        if (!drive_open(pc, &pc->drives[i], err))
            return false;
    }
    return true;
}

const struct pc_drive *pc_drive(const struct pc *pc, enum drive_interface interface, unsigned index)
{
    for (unsigned i = 0; i < pc->drive_count; i++)
        if (pc->drives[i].config->interface == interface && pc->drives[i].config->index == index)
            return &pc->drives[i];
    return NULL;
}

void pc_close_drives(struct pc *pc)
{
    for (unsigned i = 0; i < pc->drive_count; i++)
        block_close(pc->drives[i].block);
    pc->drive_count = 0;
}

/* Its serial number, or one that tells its place. */
static const char *serial_of(const struct pc_drive *drive, char made_up[SERIAL_SIZE])
{
    const struct drive_config *config = drive->config;
    snprintf(made_up, SERIAL_SIZE, "R3-%s-%u", config->interface == DRIVE_IDE ? "IDE" : "VIRTIO", config->index);
    return config->serial != NULL ? config->serial : made_up;
}

/* Firmware is told where the user wants it in the order of booting. */
static void boot_add(struct pc *pc, const struct pc_drive *drive, const char *path)
{
    if (drive->config->boot_index >= 0)
        pc_add_boot_device(pc, (unsigned)drive->config->boot_index, path);
}

/* ---- IDE ---- */

bool pc_create_ide(struct pc *pc, struct error *err)
{
    struct ide_config config = {
        .irq = {wire(pc, IRQ_IDE0, WIRE_LEGACY), wire(pc, IRQ_IDE1, WIRE_LEGACY)},
        .command_port = {PORT_IDE0, PORT_IDE1},
        .control_port = {PORT_IDE0_CONTROL, PORT_IDE1_CONTROL},
        .memory = pc->config.memory,
        .log = pc->config.log,
    };
    char serial[DRIVES_IDE][SERIAL_SIZE];
    for (unsigned i = 0; i < DRIVES_IDE; i++) {
        const struct pc_drive *drive = pc_drive(pc, DRIVE_IDE, i);
        if (drive == NULL)
            continue;
        config.unit[i / IDE_UNITS][i % IDE_UNITS] = (struct ide_unit_config){
            .kind = drive->config->cdrom ? IDE_CDROM : IDE_DISK,
            .block = drive->block,
            .serial = serial_of(drive, serial[i]),
        };
        char path[64];
        snprintf(path, sizeof path, "/pci@i0cf8/ide@%u,1/drive@%u/disk@%u", PIIX_SLOT, i / IDE_UNITS, i % IDE_UNITS);
        boot_add(pc, drive, path);
    }
    pc->ide = ide_create(pc->pci, PIIX_SLOT, &config, err);
    return pc->ide != NULL;
}

/* As firmware leaves it: both channels on, the bus master at its place. */
void pc_setup_ide(struct pc *pc)
{
    for (unsigned i = 0; i < IDE_CHANNELS; i++)
        pci_host_write(pc->pci, PIIX_SLOT, IDE_FUNCTION, IDETIM + 2 * i, 2, IDETIM_ENABLE);
    pci_host_write(pc->pci, PIIX_SLOT, IDE_FUNCTION, IDE_BUS_MASTER_BAR, 4, PORT_IDE_BUS_MASTER);
    pci_host_write(pc->pci, PIIX_SLOT, IDE_FUNCTION, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
}

/* ---- virtio ---- */

bool pc_create_virtio_disks(struct pc *pc, struct error *err)
{
    for (unsigned i = 0; i < DRIVES_MAX; i++) {
        const struct pc_drive *drive = pc_drive(pc, DRIVE_VIRTIO, i);
        struct virtio_bus bus;
        char serial[SERIAL_SIZE];
        if (drive == NULL)
            continue;
        if (!pc_virtio_bus(pc, &bus, err))
            return false;
        pc->disks[i] = virtio_blk_create(&bus, drive->block, serial_of(drive, serial), err);
        if (pc->disks[i] == NULL)
            return false;
        char path[64];
        snprintf(path, sizeof path, "/pci@i0cf8/scsi@%x/disk@0,0", bus.slot);
        boot_add(pc, drive, path);
    }
    return true;
}

void pc_destroy_virtio_disks(struct pc *pc)
{
    for (unsigned i = 0; i < DRIVES_MAX; i++)
        virtio_blk_destroy(pc->disks[i]);
}
