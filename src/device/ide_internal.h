/* The parts of the IDE function as its files share them. Nobody else includes this.
 *
 *   ide.c           the PCI function, channels: registers, selection, interrupts, resets
 *   ide_transfer.c  how data come from and to a device: blocks of PIO, bus master
 *   ide_disk.c      commands of a disk
 *   ide_identify.c  what devices say of themselves
 *   atapi.c         the packet interface; atapi_command.c the CD-ROM's commands
 */
#ifndef RING3_DEVICE_IDE_INTERNAL_H
#define RING3_DEVICE_IDE_INTERNAL_H

#include "device/ide.h"
#include "host/block.h"
#include "memory/scatter.h"

#define IDE_SECTOR 512u
#define IDE_BUFFER_SIZE (128 * KiB)
#define CD_SECTOR 2048u
#define IDE_HEADS 16u /* of the translation after power-on */
#define IDE_SECTORS_PER_TRACK 63u
#define IDE_TRIM_BLOCKS 8u /* of one DATA SET MANAGEMENT */

/* Status. */
#define ATA_BSY 0x80u
#define ATA_DRDY 0x40u
#define ATA_DF 0x20u
#define ATA_DSC 0x10u /* of old: seek complete */
#define ATA_DRQ 0x08u
#define ATA_ERR 0x01u
/* Error. */
#define ATA_UNC 0x40u
#define ATA_IDNF 0x10u
#define ATA_ABRT 0x04u
/* Device. */
#define ATA_LBA 0x40u
#define ATA_DEV 0x10u
/* Device control. */
#define ATA_HOB 0x80u
#define ATA_SRST 0x04u
#define ATA_NIEN 0x02u

/* Registers of the command block. */
enum { ATA_DATA, ATA_ERROR_FEATURES, ATA_COUNT, ATA_LBA_LOW, ATA_LBA_MID, ATA_LBA_HIGH, ATA_DEVICE, ATA_STATUS_COMMAND };

/* Bus master registers of a channel. */
enum { BM_COMMAND = 0, BM_STATUS = 2, BM_PRD = 4, BM_SIZE = 8 };
#define BM_COMMAND_START 0x01u
#define BM_COMMAND_TO_MEMORY 0x08u
#define BM_STATUS_ACTIVE 0x01u
#define BM_STATUS_ERROR 0x02u
#define BM_STATUS_INTERRUPT 0x04u
#define BM_STATUS_CAPABLE 0x60u /* drive 0, drive 1: for software to remember */

enum ide_phase {
    IDE_IDLE,  /* no command is being executed */
    IDE_DATA,  /* DRQ: the data port moves buffer[at..end) */
    IDE_DMA,   /* waits for the bus master */
    IDE_WORK,  /* a request to the image is under way */
    IDE_RESET, /* SRST is set */
    IDE_SLEEP, /* only a reset wakes it */
};

struct ide_device;

/* A data transfer of a command. Data are those of the image from `offset` on, or what is in the buffer. */
struct ide_transfer {
    bool write; /* from the host to the device */
    bool dma;
    bool image;
    bool verify;  /* read, and give to nobody */
    bool durable; /* written data are on the medium before the command ends */
    uint64_t offset, left; /* image: bytes that have not been read or written yet */
    unsigned block;        /* PIO: bytes that are moved for each DRQ, at most */
    void (*done)(struct ide_device *device);
};

/* Sense data of a CD-ROM drive. */
struct sense {
    uint8_t key, asc, ascq;
};

struct ide_device {
    struct ide_channel *channel;
    unsigned unit;
    enum ide_kind kind; /* IDE_NONE: there is none */
    struct block *block;
    char serial[IDE_SERIAL_MAX + 1];

    /* Registers; those of two levels have what was written before behind HOB. */
    uint8_t features[2], count[2], lba_low[2], lba_mid[2], lba_high[2];
    uint8_t error, status;
    bool intrq;

    /* The command under way. */
    enum ide_phase phase;
    uint8_t command;
    struct ide_transfer transfer;
    uint8_t *buffer;
    unsigned at, end, filled; /* of the buffer: next byte, end of the DRQ block, end of the data */
    struct block_request request;
    struct iovec iov;
    void (*request_done)(struct ide_device *device, int result);
    unsigned trim_at;

    /* Settings of a disk. */
    uint64_t sectors;
    unsigned heads, sectors_per_track; /* of the current translation */
    unsigned multiple;                 /* sectors; 0: off */
    unsigned dma_mode;                 /* as SET FEATURES has it: 20h + n multiword, 40h + n Ultra */
    bool write_cache, look_ahead;
    bool revert; /* a software reset brings back the defaults */
    bool standby;

    /* A CD-ROM drive. */
    struct sense sense;
    uint8_t packet[12];
    unsigned byte_limit; /* PIO: what the host takes for one DRQ */
    bool packet_dma;
    bool tray_open, locked;
    bool attention_reset, attention_medium; /* unit attentions to be told */
    bool event_new_medium, event_eject;     /* for GET EVENT STATUS NOTIFICATION */
};

struct bus_master {
    uint8_t command, status;
    uint32_t prd;
    uint32_t entry;       /* the next descriptor */
    uint32_t region, region_left;
    bool end_of_table;    /* `region` is the last one */
    struct ide_device *owner; /* whose request is under way with `dma`; NULL: none */
    struct scatter dma;
};

struct ide_channel {
    struct ide *ide;
    unsigned n;
    struct ide_device device[IDE_UNITS];
    uint8_t device_register, control;
    bool level; /* of the interrupt line */
    struct bus_master bm;
    uint16_t command_mapped, control_mapped; /* ports; 0: not */
};

struct ide {
    struct ide_config config;
    struct pci_function *function;
    struct ide_channel channel[IDE_CHANNELS];
};

static inline struct ide_device *ide_selected(struct ide_channel *channel)
{
    return &channel->device[channel->device_register & ATA_DEV ? 1 : 0];
}

/* ---- ide.c ---- */

void ide_irq_update(struct ide_channel *channel);
void ide_interrupt(struct ide_device *device);
/* The ends of commands: status, error, and the interrupt. */
void ide_complete(struct ide_device *device);
void ide_abort(struct ide_device *device, uint8_t error);
/* Without an interrupt: after the last block of a PIO read. */
void ide_complete_quietly(struct ide_device *device);
/* What the device registers hold after a reset or DEVICE RESET. */
void ide_signature(struct ide_device *device);
/* Ends whatever is under way; nothing of it is done any more. */
void ide_stop(struct ide_device *device);

/* ---- ide_transfer.c ---- */

/* Begins the transfer that device->transfer describes; for one from the buffer `filled` says how much is there or is to
 * come. */
void ide_transfer_start(struct ide_device *device);
/* Sends a request to the image; device->request_done is called with the result, while BSY is shown until then. */
void ide_request(struct ide_device *device, enum block_op op, uint64_t offset, uint64_t size,
                 void (*done)(struct ide_device *device, int result));
uint64_t ide_data_read(struct ide_device *device, unsigned size);
void ide_data_write(struct ide_device *device, unsigned size, uint64_t value);
unsigned ide_data_read_string(struct ide_device *device, unsigned size, uint8_t *bytes, unsigned count);
unsigned ide_data_write_string(struct ide_device *device, unsigned size, const uint8_t *bytes, unsigned count);
/* The bus master may have work now. */
void ide_bus_master_kick(struct ide_channel *channel);
/* Drops, or waits for, the device's requests. */
void ide_bus_master_cancel(struct ide_device *device);
void ide_bus_master_write_command(struct ide_channel *channel, uint8_t value);

/* ---- ide_disk.c, ide_identify.c ---- */

void ide_disk_command(struct ide_device *device, uint8_t command);
/* Data could not be read or written: the image's result, or IDE_BUS_ERROR if the bus master was sent where no memory
 * is. */
#define IDE_BUS_ERROR 1
void ide_disk_failed(struct ide_device *device, int result);
void ide_disk_defaults(struct ide_device *device);
void ide_identify_disk(const struct ide_device *device, uint8_t bytes[IDE_SECTOR]);
void ide_identify_cdrom(const struct ide_device *device, uint8_t bytes[IDE_SECTOR]);
/* SET FEATURES, subcommand 03h; false: there is no such mode. */
bool ide_set_transfer_mode(struct ide_device *device, uint8_t mode);

/* ---- atapi.c, atapi_command.c ---- */

void atapi_command(struct ide_device *device, uint8_t command);
void atapi_failed(struct ide_device *device, int result);
void atapi_reset(struct ide_device *device, bool power_on);
/* Byte count and interrupt reason of a DRQ block. */
void atapi_begin_block(struct ide_device *device, unsigned bytes);
/* The packet has arrived: executes it. */
void atapi_execute(struct ide_device *device);
/* Ends of packet commands. */
void atapi_good(struct ide_device *device);
void atapi_check(struct ide_device *device, uint8_t key, uint8_t asc, uint8_t ascq);
/* Sends `length` bytes of the buffer, but no more than `allocated`; then the command is over. */
void atapi_reply(struct ide_device *device, unsigned length, unsigned allocated);
void atapi_read_image(struct ide_device *device, uint32_t lba, uint32_t count);

#endif
