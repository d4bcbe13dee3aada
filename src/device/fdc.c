/* The 82077AA: registers, phases, and the commands that move no data. See fdc.h; fdc_transfer.c has the others.
 *
 * Model. A command is a state machine of phases: the processor writes the command and its parameters to the FIFO, data moves
 * (by DMA, or byte by byte through the FIFO), the processor reads the result. The main status register says whose turn it is:
 *
 *     phase             RQM DIO NDM BSY
 *     command, empty     1   0   0   0      command, begun   1 0 0 1
 *     busy               0   0   0   1
 *     data to processor  1   1   1   1      from it          1 0 1 1
 *     result             1   1   0   1
 *
 * Interrupts: when a result waits after data, and when a seek has ended or a reset is done, which SENSE INTERRUPT answers. The
 * wire is gated by the DOR's DMA bit. In non-DMA mode each byte interrupts.
 *
 * Drives. The DOR selects one for the change line, a command names its own. The heads move in SEEK_NS a command, whatever the
 * distance: nobody can see how long steps take but by waiting. A drive that is not there never reaches track 0.
 *
 * A diskette is read only at its data rate, so that software that tries them out finds the right one. The change line is set
 * while no diskette is in, and until the first step after one was put in.
 *
 * Not emulated: drives 2 and 3, tape, precompensation, motors (a diskette is ready at once), the FIFO's threshold, power-down
 * (its bit is kept), marks of deleted data (all data is ordinary), sectors of other sizes than 512 bytes. */
#include "device/fdc_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "device/io_bytes.h"

#define SEEK_NS 1000000u

#define DOR_SELECT 0x03u
#define DOR_NOT_RESET 0x04u
#define DOR_DMA_GATE 0x08u
#define DSR_RESET 0x80u
#define DSR_POWER_DOWN 0x40u
#define MSR_RQM 0x80u
#define MSR_DIO 0x40u
#define MSR_NON_DMA 0x20u
#define MSR_BUSY 0x10u
#define DIR_CHANGED 0x80u
#define ST3_WRITE_PROTECTED 0x40u
#define ST3_READY 0x20u
#define ST3_TRACK_0 0x10u
#define ST3_TWO_SIDES 0x08u
#define CONFIGURE_NO_POLLING 0x10u
#define CONFIGURE_DEFAULT 0x20u /* no FIFO, polling */
#define NON_DMA 0x01u
#define VERSION_82077AA 0x90u

enum { PORT_SRA, PORT_SRB, PORT_DOR, PORT_TDR, PORT_MSR, PORT_FIFO };

/* ---- geometry ---- */

static const struct fdc_geometry geometries[] = {
    {40, 1, 8, RATE_250, FDC_DRIVE_360K},   {40, 1, 9, RATE_250, FDC_DRIVE_360K},   {40, 2, 8, RATE_250, FDC_DRIVE_360K},
    {40, 2, 9, RATE_250, FDC_DRIVE_360K},   {80, 2, 8, RATE_250, FDC_DRIVE_720K},   {80, 2, 9, RATE_250, FDC_DRIVE_720K},
    {80, 2, 15, RATE_500, FDC_DRIVE_1200K}, {80, 2, 18, RATE_500, FDC_DRIVE_1440K}, {80, 2, 20, RATE_500, FDC_DRIVE_1440K},
    {80, 2, 21, RATE_500, FDC_DRIVE_1440K}, {82, 2, 21, RATE_500, FDC_DRIVE_1440K}, {83, 2, 21, RATE_500, FDC_DRIVE_1440K},
    {80, 2, 36, RATE_1000, FDC_DRIVE_2880K},
};

static uint64_t geometry_size(const struct fdc_geometry *geometry)
{
    return (uint64_t)geometry->cylinders * geometry->heads * geometry->sectors * FDC_SECTOR;
}

/* The format whose size it is; else the smallest that holds it, behind whose end nothing is. NULL: none. Sizes below 360K that are
 * nobody's are beginnings of a 1.44M diskette. */
static const struct fdc_geometry *geometry_find(uint64_t size)
{
    for (unsigned i = 0; i < ARRAY_LEN(geometries); i++)
        if (geometry_size(&geometries[i]) == size)
            return &geometries[i];
    for (unsigned i = 0; i < ARRAY_LEN(geometries); i++)
        if (geometries[i].type >= FDC_DRIVE_1440K && geometry_size(&geometries[i]) >= size)
            return &geometries[i];
    return NULL;
}

bool fdc_set_medium(struct fdc *fdc, unsigned n, struct block *block, struct error *err)
{
    check(n < FDC_DRIVES && fdc->drive[n].present);
    struct fdc_drive *drive = &fdc->drive[n];
    if (fdc->transfer.drive == n)
        fdc_transfer_cancel(fdc);
    drive->block = NULL;
    drive->geometry = NULL;
    drive->changed = true;
    if (block == NULL)
        return true;
    drive->geometry = geometry_find(block_size(block));
    if (drive->geometry == NULL)
        return error_set(err, "%s: %llu bytes are more than a diskette holds (at most %llu)", block_path(block),
                         (unsigned long long)block_size(block), FDC_IMAGE_MAX);
    drive->block = block;
    return true;
}

enum fdc_drive_type fdc_drive_type(const struct fdc *fdc, unsigned n)
{
    return n < FDC_DRIVES ? fdc->drive[n].type : FDC_DRIVE_NONE;
}

struct fdc_drive *fdc_drive_at(struct fdc *fdc, unsigned n)
{
    return n < FDC_DRIVES && fdc->drive[n].present ? &fdc->drive[n] : NULL;
}

bool fdc_can_read(const struct fdc *fdc, const struct fdc_drive *drive)
{
    return drive != NULL && drive->geometry != NULL && drive->geometry->rate == fdc->rate;
}

/* ---- interrupts and phases ---- */

bool fdc_dma_gate(const struct fdc *fdc)
{
    return fdc->dor & DOR_DMA_GATE;
}

bool fdc_dma_mode(const struct fdc *fdc)
{
    return !(fdc->hlt_nd & NON_DMA);
}

void fdc_set_interrupt(struct fdc *fdc, bool level)
{
    fdc->interrupt = level;
    irq_set(&fdc->config.irq, level && fdc_dma_gate(fdc));
}

static void command_wait(struct fdc *fdc)
{
    fdc->phase = PHASE_COMMAND;
    fdc->command_size = fdc->command_length = 0;
}

void fdc_result(struct fdc *fdc, const uint8_t *bytes, unsigned n, bool interrupt)
{
    memcpy(fdc->result, bytes, n);
    fdc->result_size = n;
    fdc->result_at = 0;
    fdc->phase = PHASE_RESULT;
    if (interrupt)
        fdc_set_interrupt(fdc, true);
}

static void result_byte(struct fdc *fdc, uint8_t byte)
{
    fdc_result(fdc, &byte, 1, false);
}

/* ---- reset ---- */

static void software_reset(struct fdc *fdc)
{
    fdc_transfer_cancel(fdc);
    timer_disarm(&fdc->timer);
    fdc_set_interrupt(fdc, false);
    command_wait(fdc);
    fdc->seeking = fdc->arrived = 0;
    memset(fdc->pcn, 0, sizeof fdc->pcn);
    if (!fdc->locked) {
        fdc->configure = CONFIGURE_DEFAULT;
        fdc->precompensation = 0;
    }
    fdc->perpendicular &= 0xfc;
}

/* With polling, the drives' ready lines seem to have changed. */
static void reset_done(struct fdc *fdc)
{
    if (fdc->configure & CONFIGURE_NO_POLLING)
        return;
    fdc->reset_senses = 4;
    fdc_set_interrupt(fdc, true);
}

void fdc_reset(struct fdc *fdc)
{
    fdc->locked = false;
    fdc->dor = fdc->tdr = 0;
    fdc->rate = RATE_250;
    fdc->srt_hut = fdc->hlt_nd = fdc->perpendicular = 0;
    fdc->power_down = false;
    fdc->reset_senses = 0;
    software_reset(fdc);
    for (unsigned i = 0; i < FDC_DRIVES; i++)
        fdc->drive[i].changed = true;
}

static void dor_write(struct fdc *fdc, uint8_t value)
{
    uint8_t before = fdc->dor;
    fdc->dor = value;
    if (!(value & DOR_NOT_RESET) && before & DOR_NOT_RESET) {
        fdc->reset_senses = 0;
        software_reset(fdc);
    }
    if (value & DOR_NOT_RESET && !(before & DOR_NOT_RESET))
        reset_done(fdc);
    fdc_set_interrupt(fdc, fdc->interrupt); /* the gate */
}

static void dsr_write(struct fdc *fdc, uint8_t value)
{
    fdc->rate = value & 3;
    fdc->power_down = value & DSR_POWER_DOWN;
    if (value & DSR_RESET) { /* it clears itself */
        software_reset(fdc);
        if (fdc->dor & DOR_NOT_RESET)
            reset_done(fdc);
    }
}

/* ---- seeks ---- */

static void seek_begin(struct fdc *fdc, unsigned n, int cylinder, bool recalibrate)
{
    struct fdc_drive *drive = fdc_drive_at(fdc, n);
    uint8_t status = (uint8_t)(ST0_SEEK_END | n);
    if (drive == NULL && recalibrate)
        status |= ST0_IC_ABNORMAL | ST0_EQUIPMENT; /* no track 0 signal ever comes */
    if (cylinder < 0)
        cylinder = 0;
    if (cylinder > 255)
        cylinder = 255;
    fdc->pcn[n] = (uint8_t)cylinder;
    if (drive != NULL) {
        drive->cylinder = (uint8_t)cylinder;
        if (drive->geometry != NULL)
            drive->changed = false;
    }
    fdc->seek_status[n] = status;
    fdc->seeking |= (uint8_t)(1u << n);
    command_wait(fdc);
    timer_arm(&fdc->timer, timer_now_ns(fdc->config.queue) + SEEK_NS);
}

static void seeks_done(void *opaque)
{
    struct fdc *fdc = opaque;
    fdc->arrived |= fdc->seeking;
    fdc->seeking = 0;
    fdc_set_interrupt(fdc, true);
}

static void sense_interrupt(struct fdc *fdc)
{
    uint8_t bytes[2];
    fdc_set_interrupt(fdc, false);
    if (fdc->reset_senses > 0) {
        unsigned n = 4 - fdc->reset_senses--;
        bytes[0] = (uint8_t)(ST0_IC_CHANGED | n);
        bytes[1] = fdc->pcn[n];
        fdc_result(fdc, bytes, 2, false);
        return;
    }
    for (unsigned n = 0; n < 4; n++) {
        if (!(fdc->arrived >> n & 1))
            continue;
        fdc->arrived &= (uint8_t)~(1u << n);
        bytes[0] = fdc->seek_status[n];
        bytes[1] = fdc->pcn[n];
        fdc_result(fdc, bytes, 2, false);
        if (fdc->arrived != 0)
            fdc_set_interrupt(fdc, true);
        return;
    }
    result_byte(fdc, ST0_IC_INVALID);
}

/* ---- commands ---- */

static void command_specify(struct fdc *fdc)
{
    fdc->srt_hut = fdc->command[1];
    fdc->hlt_nd = fdc->command[2];
    command_wait(fdc);
}

static void command_sense_drive(struct fdc *fdc)
{
    unsigned n = fdc->command[1] & 3;
    const struct fdc_drive *drive = fdc_drive_at(fdc, n);
    uint8_t st3 = (uint8_t)((fdc->command[1] & 7) | ST3_READY | ST3_TWO_SIDES);
    if (drive != NULL && drive->cylinder == 0)
        st3 |= ST3_TRACK_0;
    if (drive != NULL && drive->block != NULL && block_read_only(drive->block))
        st3 |= ST3_WRITE_PROTECTED;
    result_byte(fdc, st3);
}

static void command_recalibrate(struct fdc *fdc)
{
    seek_begin(fdc, fdc->command[1] & 3, 0, true);
}

static void command_seek(struct fdc *fdc)
{
    seek_begin(fdc, fdc->command[1] & 3, fdc->command[2], false);
}

static void command_relative_seek(struct fdc *fdc)
{
    unsigned n = fdc->command[1] & 3;
    int steps = fdc->command[2];
    seek_begin(fdc, n, fdc->pcn[n] + (fdc->command[0] & 0x40 ? steps : -steps), false);
}

static void command_dump_registers(struct fdc *fdc)
{
    const uint8_t bytes[10] = {fdc->pcn[0],     fdc->pcn[1],
                               fdc->pcn[2],     fdc->pcn[3],
                               fdc->srt_hut,    fdc->hlt_nd,
                               fdc->transfer.eot, (uint8_t)(fdc->locked << 7 | (fdc->perpendicular & 0x7f)),
                               fdc->configure,  fdc->precompensation};
    fdc_result(fdc, bytes, sizeof bytes, false);
}

static void command_version(struct fdc *fdc)
{
    result_byte(fdc, VERSION_82077AA);
}

/* The drives' bits change only when OW is set. */
static void command_perpendicular(struct fdc *fdc)
{
    uint8_t value = fdc->command[1];
    fdc->perpendicular = (uint8_t)((value & 0x80 ? value & 0x3c : fdc->perpendicular & 0x3c) | (value & 3));
    command_wait(fdc);
}

static void command_configure(struct fdc *fdc)
{
    fdc->configure = fdc->command[2] & 0x7f;
    fdc->precompensation = fdc->command[3];
    command_wait(fdc);
}

static void command_lock(struct fdc *fdc)
{
    fdc->locked = fdc->command[0] & 0x80;
    result_byte(fdc, fdc->locked ? 0x10 : 0);
}

static void command_invalid(struct fdc *fdc)
{
    result_byte(fdc, ST0_IC_INVALID);
}

static void command_read(struct fdc *fdc)
{
    fdc_command_transfer(fdc, WORK_READ);
}

static void command_write(struct fdc *fdc)
{
    fdc_command_transfer(fdc, WORK_WRITE);
}

static void command_verify(struct fdc *fdc)
{
    fdc_command_transfer(fdc, WORK_VERIFY);
}

static void command_scan_equal(struct fdc *fdc)
{
    fdc_command_transfer(fdc, WORK_SCAN_EQUAL);
}

static void command_scan_low(struct fdc *fdc)
{
    fdc_command_transfer(fdc, WORK_SCAN_LOW);
}

static void command_scan_high(struct fdc *fdc)
{
    fdc_command_transfer(fdc, WORK_SCAN_HIGH);
}

struct command_row {
    uint8_t mask, value; /* of the first byte */
    uint8_t length;      /* with it */
    void (*run)(struct fdc *fdc);
};

/* Table 5-1. Bits 7, 6, 5 of commands with data are MT, MFM, SK. */
static const struct command_row rows[] = {
    {0x1f, 0x06, 9, command_read},         {0x1f, 0x0c, 9, command_read},        {0x3f, 0x05, 9, command_write},
    {0x3f, 0x09, 9, command_write},        {0x9f, 0x02, 9, fdc_command_read_track}, {0x1f, 0x16, 9, command_verify},
    {0xbf, 0x0a, 2, fdc_command_read_id},  {0xbf, 0x0d, 6, fdc_command_format},  {0x1f, 0x11, 9, command_scan_equal},
    {0x1f, 0x19, 9, command_scan_low},     {0x1f, 0x1d, 9, command_scan_high},   {0xff, 0x07, 2, command_recalibrate},
    {0xff, 0x08, 1, sense_interrupt},      {0xff, 0x03, 3, command_specify},     {0xff, 0x04, 2, command_sense_drive},
    {0xff, 0x0f, 3, command_seek},         {0xbf, 0x8f, 3, command_relative_seek}, {0xff, 0x0e, 1, command_dump_registers},
    {0xff, 0x10, 1, command_version},      {0xff, 0x12, 2, command_perpendicular}, {0xff, 0x13, 4, command_configure},
    {0x7f, 0x14, 1, command_lock},
};

static const struct command_row *row_find(uint8_t byte)
{
    static const struct command_row invalid = {0, 0, 1, command_invalid};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if ((byte & rows[i].mask) == rows[i].value)
            return &rows[i];
    return &invalid;
}

/* ---- the FIFO ---- */

static void command_byte(struct fdc *fdc, uint8_t byte)
{
    if (fdc->command_size == 0)
        fdc->command_length = row_find(byte)->length;
    fdc->command[fdc->command_size++] = byte;
    if (fdc->command_size < fdc->command_length)
        return;
    if (fdc->command[0] != 0x08)
        fdc->reset_senses = 0; /* whoever goes on without asking does not want to know */
    row_find(fdc->command[0])->run(fdc);
}

static void fifo_write(struct fdc *fdc, uint8_t byte)
{
    if (!(fdc->dor & DOR_NOT_RESET))
        return;
    if (fdc->phase == PHASE_COMMAND) {
        command_byte(fdc, byte);
    } else if (fdc->phase == PHASE_FROM_HOST) {
        fdc_set_interrupt(fdc, false);
        fdc->buffer[fdc->transfer.at++] = byte;
        if (fdc->transfer.at == fdc->transfer.size)
            fdc_transfer_continue(fdc);
        else
            fdc_set_interrupt(fdc, true);
    }
}

static uint8_t fifo_read(struct fdc *fdc)
{
    if (fdc->phase == PHASE_RESULT) {
        uint8_t byte = fdc->result[fdc->result_at++];
        if (fdc->result_at == 1 && fdc->result_size > 2)
            fdc_set_interrupt(fdc, false);
        if (fdc->result_at == fdc->result_size)
            command_wait(fdc);
        return byte;
    }
    if (fdc->phase == PHASE_TO_HOST) {
        fdc_set_interrupt(fdc, false);
        uint8_t byte = fdc->buffer[fdc->transfer.at++];
        if (fdc->transfer.at == fdc->transfer.size)
            fdc_transfer_continue(fdc);
        else
            fdc_set_interrupt(fdc, true);
        return byte;
    }
    return 0;
}

/* ---- registers ---- */

static uint8_t msr_read(const struct fdc *fdc)
{
    static const uint8_t of_phase[] = {
        [PHASE_COMMAND] = MSR_RQM,
        [PHASE_BUSY] = MSR_BUSY,
        [PHASE_TO_HOST] = MSR_RQM | MSR_DIO | MSR_NON_DMA | MSR_BUSY,
        [PHASE_FROM_HOST] = MSR_RQM | MSR_NON_DMA | MSR_BUSY,
        [PHASE_RESULT] = MSR_RQM | MSR_DIO | MSR_BUSY,
    };
    if (!(fdc->dor & DOR_NOT_RESET))
        return 0;
    uint8_t begun = fdc->phase == PHASE_COMMAND && fdc->command_size > 0 ? MSR_BUSY : 0;
    return (uint8_t)(of_phase[fdc->phase] | begun | fdc->seeking | fdc->arrived);
}

static uint8_t register_read(void *dev, unsigned offset)
{
    struct fdc *fdc = dev;
    switch (offset) {
    case PORT_DOR: return fdc->dor;
    case PORT_TDR: return fdc->tdr | 0xfc;
    case PORT_MSR: return msr_read(fdc);
    case PORT_FIFO: return fifo_read(fdc);
    default: return 0xff; /* status registers A and B are not decoded in AT mode */
    }
}

static void register_write(void *dev, unsigned offset, uint8_t value)
{
    struct fdc *fdc = dev;
    switch (offset) {
    case PORT_DOR: dor_write(fdc, value); break;
    case PORT_TDR: fdc->tdr = value & 3; break;
    case PORT_MSR: dsr_write(fdc, value); break;
    case PORT_FIFO: fifo_write(fdc, value); break;
    }
}

static uint64_t fdc_read(void *dev, uint64_t offset, unsigned size)
{
    return io_read_bytes(dev, offset, size, register_read);
}

static void fdc_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    io_write_bytes(dev, offset, size, value, register_write);
}

static uint64_t dir_read(void *dev, uint64_t offset, unsigned size)
{
    struct fdc *fdc = dev;
    unsigned n = fdc->dor & DOR_SELECT;
    const struct fdc_drive *drive = fdc_drive_at(fdc, n);
    bool motor = fdc->dor >> (4 + n) & 1;
    (void)offset;
    (void)size;
    return drive != NULL && motor && drive->changed ? DIR_CHANGED : 0;
}

/* CCR */
static void dir_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fdc *fdc = dev;
    (void)offset;
    (void)size;
    fdc->rate = value & 3;
}

const struct io_ops fdc_ops = {.read = fdc_read, .write = fdc_write, .name = "82077AA diskette controller"};
const struct io_ops fdc_dir_ops = {.read = dir_read, .write = dir_write, .name = "82077AA diskette controller"};

/* ---- life ---- */

static void drive_init(struct fdc_drive *drive)
{
    drive->type = drive->geometry != NULL ? drive->geometry->type : FDC_DRIVE_1440K;
}

struct fdc *fdc_create(const struct fdc_config *config, struct error *err)
{
    struct fdc *fdc = calloc(1, sizeof *fdc);
    if (fdc == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    fdc->config = *config;
    timer_init(&fdc->timer, config->queue, seeks_done, fdc);
    for (unsigned i = 0; i < FDC_DRIVES; i++) {
        if (!config->drive[i].present)
            continue;
        fdc->drive[i].present = true;
        if (!fdc_set_medium(fdc, i, config->drive[i].block, err)) {
            fdc_destroy(fdc);
            return NULL;
        }
        drive_init(&fdc->drive[i]);
    }
    fdc_reset(fdc);
    return fdc;
}

void fdc_destroy(struct fdc *fdc)
{
    if (fdc == NULL)
        return;
    fdc_transfer_cancel(fdc);
    timer_disarm(&fdc->timer);
    free(fdc);
}
