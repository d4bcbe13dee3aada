/* Between fdc.c (registers, phases, commands without data) and fdc_transfer.c (commands with data). Nobody else includes this. */
#ifndef RING3_DEVICE_FDC_INTERNAL_H
#define RING3_DEVICE_FDC_INTERNAL_H

#include "device/fdc.h"
#include "host/block.h"

#define FDC_SECTOR 512u
#define FDC_PARAMETERS_MAX 9u
#define FDC_RESULTS_MAX 10u

#define ST0_IC_ABNORMAL 0x40u
#define ST0_IC_INVALID 0x80u
#define ST0_IC_CHANGED 0xc0u
#define ST0_SEEK_END 0x20u
#define ST0_EQUIPMENT 0x10u
#define ST0_HEAD 0x04u
#define ST1_END_OF_CYLINDER 0x80u
#define ST1_DATA_ERROR 0x20u
#define ST1_OVERRUN 0x10u
#define ST1_NO_DATA 0x04u
#define ST1_NOT_WRITABLE 0x02u
#define ST1_MISSING_ADDRESS_MARK 0x01u
#define ST2_CONTROL_MARK 0x40u
#define ST2_DATA_ERROR 0x20u
#define ST2_WRONG_CYLINDER 0x10u
#define ST2_SCAN_EQUAL 0x08u
#define ST2_SCAN_NOT_SATISFIED 0x04u

enum fdc_rate { RATE_500, RATE_300, RATE_250, RATE_1000 };

struct fdc_geometry {
    uint8_t cylinders, heads, sectors;
    uint8_t rate; /* enum fdc_rate */
    uint8_t type; /* enum fdc_drive_type: the drive for it */
};

enum fdc_phase {
    PHASE_COMMAND,  /* takes a command and its parameters */
    PHASE_BUSY,     /* a request of the image, or a timer, is awaited */
    PHASE_TO_HOST,  /* non-DMA mode: the processor reads the buffer */
    PHASE_FROM_HOST,
    PHASE_RESULT,
};

/* How a command goes over the sectors. */
enum fdc_work { WORK_READ, WORK_WRITE, WORK_VERIFY, WORK_SCAN_EQUAL, WORK_SCAN_LOW, WORK_SCAN_HIGH, WORK_FORMAT };

struct fdc_drive {
    bool present;
    struct block *block;
    const struct fdc_geometry *geometry; /* of the diskette; NULL: there is none */
    uint8_t type;
    uint8_t cylinder; /* where the heads are */
    bool changed;     /* the change line */
};

/* A command with data, under way. */
struct fdc_transfer {
    enum fdc_work work;
    unsigned drive;
    uint8_t c, h, r, n, eot; /* as the command has them; advanced */
    bool multi_track;
    bool side;      /* of the last sector */
    uint8_t left;   /* VERIFY with EC, FORMAT: sectors still to do */
    bool counted;   /* `left` ends it */
    bool terminal;  /* DMA has said so: the last sector */
    bool scan_failed, scan_equal;
    uint8_t fill;   /* FORMAT */
    uint8_t st1, st2;
    size_t at, size; /* in `buffer` */
};

struct fdc {
    struct fdc_config config;
    struct fdc_drive drive[FDC_DRIVES];
    struct timer timer; /* seeks */

    enum fdc_phase phase;
    uint8_t dor, tdr, rate;
    bool power_down;
    bool interrupt; /* the IRQ wire, before the gate */
    uint8_t command[FDC_PARAMETERS_MAX];
    unsigned command_size, command_length;
    uint8_t result[FDC_RESULTS_MAX];
    unsigned result_size, result_at;

    /* SPECIFY, CONFIGURE, PERPENDICULAR, LOCK. */
    uint8_t srt_hut, hlt_nd, configure, precompensation, perpendicular;
    bool locked;

    /* Seeks, for SENSE INTERRUPT: which drives are moving, which have arrived, with what status. */
    uint8_t seeking, arrived;
    uint8_t seek_status[4];
    uint8_t pcn[4]; /* where the controller believes the heads to be */
    unsigned reset_senses; /* answers left after a reset */

    struct fdc_transfer transfer;
    bool in_flight;
    struct block_request request;
    struct iovec iov;
    uint8_t buffer[FDC_SECTOR];
};

/* fdc.c */
void fdc_set_interrupt(struct fdc *fdc, bool level);
/* Enters the result phase with these bytes, and interrupts if `interrupt`. */
void fdc_result(struct fdc *fdc, const uint8_t *bytes, unsigned n, bool interrupt);
/* The drive that a command or the DOR selects; NULL: not there. */
struct fdc_drive *fdc_drive_at(struct fdc *fdc, unsigned n);
bool fdc_dma_mode(const struct fdc *fdc);
bool fdc_dma_gate(const struct fdc *fdc);
/* True while the data rate is that of the diskette. */
bool fdc_can_read(const struct fdc *fdc, const struct fdc_drive *drive);

/* fdc_transfer.c: the commands, with all their parameters in fdc->command. */
void fdc_command_transfer(struct fdc *fdc, enum fdc_work work);
void fdc_command_read_track(struct fdc *fdc);
void fdc_command_format(struct fdc *fdc);
void fdc_command_read_id(struct fdc *fdc);
/* The processor has taken, or given, the last byte of the buffer. */
void fdc_transfer_continue(struct fdc *fdc);
/* Whatever is under way is forgotten. */
void fdc_transfer_cancel(struct fdc *fdc);

#endif
