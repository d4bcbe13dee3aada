/* The board's drives: images are opened here, once, and given to the controllers: the PIIX3's IDE function (0:1.1,
 * channels at 1F0h and 170h, interrupts 14 and 15), and virtio devices in slots of their own, in order of their index.
 * */
#include "machine/pc_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "host/block.h"

/* Configuration of the IDE function (82371SB, 2.3). */
#define IDE_FUNCTION 1u
#define IDETIM 0x40u
#define IDETIM_ENABLE 0x8000u
#define IDE_BUS_MASTER_BAR (PCI_BAR0 + 4 * 4)

#define SERIAL_SIZE 21u

static struct block *image_open(struct pc *pc, const struct drive_config *config, const char *file, struct error *err)
{
    const struct block_options options = {
        .read_only = config->read_only,
        .snapshot = config->snapshot,
        .unsafe = config->unsafe,
        .raw = config->raw || config->cdrom,
        .loop = pc->config.loop,
        .queue = pc->config.repeatable ? pc->config.queue : NULL,
        .log = pc->config.log,
    };
    return block_open(file, &options, err);
}

bool pc_open_drives(struct pc *pc, struct error *err)
{
    for (unsigned i = 0; i < pc->config.drive_count; i++) {
        pc->drives[i].config = &pc->config.drives[i];
        pc->drive_count = i + 1;
        if (pc->config.drives[i].file == NULL)
            continue;
        pc->drives[i].block = image_open(pc, &pc->config.drives[i], pc->config.drives[i].file, err);
        if (pc->drives[i].block == NULL)
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

/* ---- the user's hands ---- */

#define NAME_SIZE 32u

/* What the user has called it, or its interface and place. */
static const char *name_of(const struct drive_config *config, char name[NAME_SIZE])
{
    static const char *const interfaces[DRIVE_INTERFACES] = {"ide", "virtio", "floppy"};
    snprintf(name, NAME_SIZE, "%s%u", interfaces[config->interface], config->index);
    return config->id != NULL ? config->id : name;
}

void pc_describe_drives(const struct pc *pc, FILE *out)
{
    for (unsigned i = 0; i < pc->drive_count; i++) {
        const struct pc_drive *drive = &pc->drives[i];
        const struct drive_config *config = drive->config;
        char name[NAME_SIZE];
        fprintf(out, "%s: %s, ", name_of(config, name),
                config->cdrom                       ? "CD-ROM"
                : config->interface == DRIVE_FLOPPY ? "diskette"
                                                    : "disk");
        if (drive->block == NULL)
            fputs("empty", out);
        else
            fprintf(out, "%s, %" PRIu64 " bytes%s%s", block_path(drive->block), block_size(drive->block),
                    config->read_only ? ", read-only" : "", config->snapshot && !config->read_only ? ", snapshot" : "");
        unsigned channel = config->index / IDE_UNITS, unit = config->index % IDE_UNITS;
        if (config->cdrom)
            fprintf(out, "%s%s", ide_is_open(pc->ide, channel, unit) ? ", open" : "",
                    ide_is_locked(pc->ide, channel, unit) ? ", locked" : "");
        fputc('\n', out);
    }
}

bool pc_change_medium(struct pc *pc, const char *drive_name, const char *file, bool force, struct error *err)
{
    struct pc_drive *drive = NULL;
    char name[NAME_SIZE];
    for (unsigned i = 0; i < pc->drive_count; i++)
        if (strcmp(name_of(pc->drives[i].config, name), drive_name) == 0)
            drive = &pc->drives[i];
    if (drive == NULL)
        return error_set(err, "there is no drive '%.60s'; 'info drives' lists them", drive_name);
    if (!drive->config->cdrom)
        return error_set(err, "%s: only the medium of a CD-ROM drive can be changed", drive_name);
    unsigned channel = drive->config->index / IDE_UNITS, unit = drive->config->index % IDE_UNITS;
    if (!force && drive->block != NULL && ide_is_locked(pc->ide, channel, unit))
        return error_set(err, "%s: the guest has locked it; eject it in the guest, or use -f", drive_name);
    struct block *block = file != NULL ? image_open(pc, drive->config, file, err) : NULL;
    if (file != NULL && block == NULL)
        return false;
    ide_change_medium(pc->ide, channel, unit, block);
    block_close(drive->block);
    drive->block = block;
    return true;
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

void pc_enable_ide(struct pc *pc)
{
    for (unsigned i = 0; i < IDE_CHANNELS; i++)
        pci_host_write(pc->pci, PIIX_SLOT, IDE_FUNCTION, IDETIM + 2 * i, 2, IDETIM_ENABLE);
}

/* As firmware leaves it: both channels on, the bus master at its place. */
void pc_setup_ide(struct pc *pc)
{
    pc_enable_ide(pc);
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
