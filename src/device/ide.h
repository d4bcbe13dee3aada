/* The IDE function of the Intel PIIX3: two channels of two devices, each a disk or an ATAPI CD-ROM drive, with PIO and
 * bus master DMA.
 *
 * Ownership: images belong to the caller and outlive the function; destroy it before the PCI host, or after, but before
 * the images are closed. Threads: everything under the device lock.
 *
 * Sources: Intel 82371FB/82371SB data sheet (290550), "IDE"; Programming Interface for Bus Master IDE Controller 1.0;
 * ATA/ATAPI-6 (T13/1410D); SFF-8020i and MMC-5 for CD-ROM drives. */
#ifndef RING3_DEVICE_IDE_H
#define RING3_DEVICE_IDE_H

#include "base/error.h"
#include "base/irq.h"
#include "base/log.h"
#include "device/pci.h"
#include "memory/memory.h"

#define IDE_CHANNELS 2u
#define IDE_UNITS 2u
#define IDE_COMMAND_PORTS 8u /* of the command block; the control block has one port */
#define IDE_SERIAL_MAX 20u

struct ide;
struct block;

enum ide_kind { IDE_NONE, IDE_DISK, IDE_CDROM };

struct ide_unit_config {
    enum ide_kind kind;
    struct block *block; /* NULL: no medium, for CD-ROM drives */
    const char *serial;  /* up to IDE_SERIAL_MAX printable characters; copied */
};

struct ide_config {
    struct ide_unit_config unit[IDE_CHANNELS][IDE_UNITS];
    struct irq_line irq[IDE_CHANNELS];
    uint16_t command_port[IDE_CHANNELS], control_port[IDE_CHANNELS]; /* where the channels are while they are enabled */
    struct memory *memory;
    struct log *log;
};

/* Makes itself function 1 of the PIIX3's slot. NULL with a message. Until somebody sets IDETIM (40h, 42h) bit 15 and
 * permits I/O there are no channels. */
struct ide *ide_create(struct pci_host *host, unsigned slot, const struct ide_config *config, struct error *err);
void ide_destroy(struct ide *ide);

/* The registers of a channel, for tests; on a PC the function maps them by itself. `dev` is ide_channel(). */
extern const struct io_ops ide_command_ops, ide_control_ops;
void *ide_channel(struct ide *ide, unsigned n);
extern const struct io_ops ide_bus_master_ops; /* 16 bytes; `dev` is the struct ide */

/* What the host does with a CD-ROM drive. The guest has locked the tray; it is open. */
bool ide_is_locked(const struct ide *ide, unsigned channel, unsigned unit);
bool ide_is_open(const struct ide *ide, unsigned channel, unsigned unit);
/* Changes the medium in a CD-ROM drive; NULL takes it out. The drive tells its host. The old image may be closed then.
 * */
void ide_change_medium(struct ide *ide, unsigned channel, unsigned unit, struct block *block);

#endif
