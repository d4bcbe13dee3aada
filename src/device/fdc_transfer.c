/* The 82077AA's commands with data. See fdc_internal.h.
 *
 * A command goes from sector to sector. Reading, verifying and scanning fetch the sector from the image, then move it (or
 * compare it with what comes); writing and formatting take what comes, then give it to the image. Moving is done at once by DMA, or
 * by the processor in its own time; the image answers later. So each step ends where something is awaited:
 *
 *     sector_begin() -> [request] -> data_move() -> [processor] -> advance() -> sector_begin() ...
 *
 * The command ends at terminal count, at the end of track that EOT names (which is an error if nobody said terminal count),
 * after a count of sectors, or at the first error. The result has the address of the sector that would come next (table 5-9).
 *
 * What an image cannot hold is refused: formats other than its own, sectors behind the end of a short image (which read as
 * zeros). */
#include "device/fdc_internal.h"

#include <errno.h>
#include <string.h>

#define CONFIGURE_IMPLIED_SEEK 0x40u
#define VERIFY_COUNTED 0x80u
#define SECTOR_SIZE_512 2u
#define ROTATION_NS 200000000u

static void sector_begin(struct fdc *fdc);
static void advance(struct fdc *fdc);

/* ---- the end ---- */

static void finish(struct fdc *fdc, uint8_t st0, uint8_t st1, uint8_t st2)
{
    const struct fdc_transfer *t = &fdc->transfer;
    const uint8_t bytes[7] = {(uint8_t)(st0 | (t->side ? ST0_HEAD : 0) | t->drive), (uint8_t)(st1 | t->st1), (uint8_t)(st2 | t->st2), t->c, t->h,
                              t->r, t->n};
    fdc_result(fdc, bytes, sizeof bytes, true);
}

static void fail(struct fdc *fdc, uint8_t st1, uint8_t st2)
{
    finish(fdc, ST0_IC_ABNORMAL, st1, st2);
}

void fdc_transfer_cancel(struct fdc *fdc)
{
    if (!fdc->in_flight)
        return;
    block_cancel(fdc->drive[fdc->transfer.drive].block);
    fdc->in_flight = false;
    if (fdc->phase == PHASE_BUSY)
        fail(fdc, ST1_MISSING_ADDRESS_MARK, 0);
}

/* ---- the image ---- */

static bool writes(const struct fdc_transfer *t)
{
    return t->work == WORK_WRITE || t->work == WORK_FORMAT;
}

static void fetched(struct fdc *fdc);

static void request_done(struct block_request *request, int result)
{
    struct fdc *fdc = container_of(request, struct fdc, request);
    fdc->in_flight = false;
    if (result == -EROFS)
        fail(fdc, ST1_NOT_WRITABLE, 0);
    else if (result != 0)
        fail(fdc, ST1_DATA_ERROR, ST2_DATA_ERROR);
    else if (writes(&fdc->transfer))
        advance(fdc);
    else
        fetched(fdc);
}

/* Reads or writes the sector that the transfer is at, from or into the buffer. */
static void sector_request(struct fdc *fdc)
{
    const struct fdc_transfer *t = &fdc->transfer;
    struct fdc_drive *drive = &fdc->drive[t->drive];
    const struct fdc_geometry *geometry = drive->geometry;
    uint64_t sector = ((uint64_t)t->c * geometry->heads + t->h) * geometry->sectors + t->r - 1;
    fdc->phase = PHASE_BUSY;
    if ((sector + 1) * FDC_SECTOR > block_size(drive->block)) {
        if (writes(t)) {
            fail(fdc, ST1_NO_DATA, 0);
            return;
        }
        memset(fdc->buffer, 0, sizeof fdc->buffer);
        fetched(fdc);
        return;
    }
    fdc->iov = (struct iovec){.iov_base = fdc->buffer, .iov_len = FDC_SECTOR};
    fdc->request = (struct block_request){.op = writes(t) ? BLOCK_WRITE : BLOCK_READ,
                                          .offset = sector * FDC_SECTOR,
                                          .size = FDC_SECTOR,
                                          .iov = &fdc->iov,
                                          .iov_count = 1,
                                          .done = request_done};
    fdc->in_flight = true;
    block_submit(drive->block, &fdc->request);
}

/* ---- data ---- */

/* Scans: FFh on either side matches anything. */
static bool byte_satisfies(enum fdc_work work, uint8_t disk, uint8_t given)
{
    if (disk == given || disk == 0xff || given == 0xff)
        return true;
    return work == WORK_SCAN_LOW ? disk < given : work == WORK_SCAN_HIGH ? disk > given : false;
}

/* The buffer holds the sector, then what it is compared with byte by byte as it comes. */
static void scan_byte(struct fdc_transfer *t, uint8_t disk, uint8_t given)
{
    if (!byte_satisfies(t->work, disk, given))
        t->scan_failed = true;
    if (disk != given && disk != 0xff && given != 0xff)
        t->scan_equal = false;
}

static bool scans(const struct fdc_transfer *t)
{
    return t->work == WORK_SCAN_EQUAL || t->work == WORK_SCAN_LOW || t->work == WORK_SCAN_HIGH;
}

/* What came for a scan: the rest of a cut sector is not looked at. */
static void scan_compare(struct fdc_transfer *t, const uint8_t *disk, const uint8_t *given, size_t n)
{
    t->scan_failed = false;
    t->scan_equal = true;
    for (size_t i = 0; i < n; i++)
        scan_byte(t, disk[i], given[i]);
    t->st2 &= (uint8_t) ~(ST2_SCAN_EQUAL | ST2_SCAN_NOT_SATISFIED);
    if (t->scan_failed)
        t->st2 |= ST2_SCAN_NOT_SATISFIED;
    else if (t->scan_equal)
        t->st2 |= ST2_SCAN_EQUAL;
}

/* The identification that FORMAT was given for one sector. */
static void format_sector(struct fdc *fdc)
{
    struct fdc_transfer *t = &fdc->transfer;
    const struct fdc_geometry *geometry = fdc->drive[t->drive].geometry;
    const uint8_t *id = fdc->buffer;
    unsigned head = fdc->command[1] >> 2 & 1;
    if (id[0] != t->c || id[1] != head || id[2] == 0 || id[2] > geometry->sectors || id[3] != SECTOR_SIZE_512) {
        fail(fdc, ST1_NO_DATA, 0);
        return;
    }
    t->r = id[2];
    memset(fdc->buffer, t->fill, FDC_SECTOR);
    sector_request(fdc);
}

/* The data of this step has come, or gone. The processor took its time: the diskette may be another one. */
static void data_moved(struct fdc *fdc)
{
    if (!fdc_can_read(fdc, &fdc->drive[fdc->transfer.drive]))
        fail(fdc, ST1_MISSING_ADDRESS_MARK, 0);
    else if (fdc->transfer.work == WORK_WRITE)
        sector_request(fdc);
    else if (fdc->transfer.work == WORK_FORMAT)
        format_sector(fdc);
    else
        advance(fdc);
}

/* By DMA, which is programmed or is not: the controller cannot wait for it. */
static void data_dma(struct fdc *fdc, uint8_t *bytes, size_t n, bool to_memory)
{
    struct fdc_transfer *t = &fdc->transfer;
    size_t done = 0;
    bool terminal = false;
    if (fdc_dma_gate(fdc) && fdc->config.dma != NULL)
        done = fdc->config.dma(fdc->config.opaque, bytes, n, to_memory, &terminal);
    t->terminal = terminal;
    if (done < n && !terminal) {
        fail(fdc, ST1_OVERRUN, 0);
        return;
    }
    if (!to_memory && done < n)
        memset(bytes + done, 0, n - done);
    t->size = done;
    data_moved(fdc);
}

static void data_move(struct fdc *fdc, size_t n, bool to_memory)
{
    struct fdc_transfer *t = &fdc->transfer;
    if (fdc_dma_mode(fdc)) {
        data_dma(fdc, fdc->buffer, n, to_memory);
        return;
    }
    t->at = 0;
    t->size = n;
    fdc->phase = to_memory ? PHASE_TO_HOST : PHASE_FROM_HOST;
    fdc_set_interrupt(fdc, true);
}

void fdc_transfer_continue(struct fdc *fdc)
{
    fdc->phase = PHASE_BUSY;
    data_moved(fdc);
}

/* Scans exist with DMA only: that is how drivers of the time had them, and the buffer is one sector. */
static void scan_dma(struct fdc *fdc)
{
    struct fdc_transfer *t = &fdc->transfer;
    uint8_t given[FDC_SECTOR];
    bool terminal = false;
    size_t done = 0;
    if (fdc_dma_gate(fdc) && fdc_dma_mode(fdc) && fdc->config.dma != NULL)
        done = fdc->config.dma(fdc->config.opaque, given, sizeof given, false, &terminal);
    t->terminal = terminal;
    if (done < sizeof given && !terminal) {
        fail(fdc, ST1_OVERRUN, 0);
        return;
    }
    scan_compare(t, fdc->buffer, given, done);
    advance(fdc);
}

/* The sector is in the buffer. */
static void fetched(struct fdc *fdc)
{
    if (scans(&fdc->transfer))
        scan_dma(fdc);
    else if (fdc->transfer.work == WORK_VERIFY)
        advance(fdc);
    else
        data_move(fdc, FDC_SECTOR, true);
}

/* ---- from sector to sector ---- */

/* Moves to the next sector; true at the end of the track, or cylinder, that the command may go to. */
static bool position_next(struct fdc *fdc)
{
    struct fdc_transfer *t = &fdc->transfer;
    unsigned step = scans(t) && fdc->command[8] == 2 ? 2 : 1;
    if (t->r != t->eot && t->r + step <= 0xff && (t->r > t->eot || t->r + step <= t->eot)) {
        t->r = (uint8_t)(t->r + step);
        return false;
    }
    t->r = 1;
    if (t->multi_track && t->h == 0) {
        t->h = 1;
        return false;
    }
    t->c++;
    if (t->multi_track)
        t->h = 0;
    return true;
}

static void advance(struct fdc *fdc)
{
    struct fdc_transfer *t = &fdc->transfer;
    bool found = scans(t) && !t->scan_failed;
    bool last = t->counted && --t->left == 0;
    if (t->work == WORK_FORMAT) {
        if (last || t->terminal)
            finish(fdc, 0, 0, 0);
        else
            sector_begin(fdc);
        return;
    }
    bool end = position_next(fdc);
    if (t->terminal || last || found || (end && (t->work == WORK_VERIFY || scans(t))))
        finish(fdc, 0, 0, 0);
    else if (end)
        fail(fdc, ST1_END_OF_CYLINDER, 0);
    else
        sector_begin(fdc);
}

/* Whether the sector is under the head: false after the command has failed. */
static bool sector_reach(struct fdc *fdc)
{
    const struct fdc_transfer *t = &fdc->transfer;
    struct fdc_drive *drive = fdc_drive_at(fdc, t->drive);
    unsigned head = fdc->command[1] >> 2 & 1;
    if (!fdc_can_read(fdc, drive)) {
        fail(fdc, ST1_MISSING_ADDRESS_MARK, 0);
        return false;
    }
    if (fdc->configure & CONFIGURE_IMPLIED_SEEK && t->work != WORK_FORMAT) {
        drive->changed = drive->changed && drive->cylinder == t->c;
        drive->cylinder = fdc->pcn[t->drive] = t->c;
    }
    const struct fdc_geometry *geometry = drive->geometry;
    if (t->c != drive->cylinder) {
        fail(fdc, ST1_NO_DATA, ST2_WRONG_CYLINDER);
        return false;
    }
    bool other_side = t->multi_track && t->h == 1 && head == 0;
    if (t->c >= geometry->cylinders || t->h >= geometry->heads || (t->h != head && !other_side) || t->r == 0 ||
        t->r > geometry->sectors || t->n != SECTOR_SIZE_512) {
        fail(fdc, ST1_NO_DATA, 0);
        return false;
    }
    if (writes(t) && block_read_only(drive->block)) {
        fail(fdc, ST1_NOT_WRITABLE, 0);
        return false;
    }
    return true;
}

static void sector_begin(struct fdc *fdc)
{
    fdc->phase = PHASE_BUSY;
    fdc->transfer.side = (fdc->command[1] & ST0_HEAD) || (fdc->transfer.multi_track && fdc->transfer.h == 1);
    if (!sector_reach(fdc))
        return;
    if (fdc->transfer.work == WORK_FORMAT)
        data_move(fdc, 4, false);
    else if (fdc->transfer.work == WORK_WRITE)
        data_move(fdc, FDC_SECTOR, false);
    else
        sector_request(fdc);
}

/* ---- commands ---- */

static void transfer_init(struct fdc *fdc, enum fdc_work work)
{
    const uint8_t *command = fdc->command;
    fdc->transfer = (struct fdc_transfer){.work = work,
                                          .drive = command[1] & 3,
                                          .c = command[2],
                                          .h = command[3],
                                          .r = command[4],
                                          .n = command[5],
                                          .eot = command[6],
                                          .multi_track = command[0] & 0x80};
}

void fdc_command_transfer(struct fdc *fdc, enum fdc_work work)
{
    struct fdc_transfer *t = &fdc->transfer;
    transfer_init(fdc, work);
    if (work == WORK_VERIFY && fdc->command[1] & VERIFY_COUNTED) {
        t->counted = true;
        t->left = fdc->command[8]; /* 0 is 256 */
    }
    sector_begin(fdc);
}

/* The sectors in the order in which they lie, from the index hole; whether their numbers are those asked for makes no difference. */
void fdc_command_read_track(struct fdc *fdc)
{
    struct fdc_transfer *t = &fdc->transfer;
    transfer_init(fdc, WORK_READ);
    t->multi_track = false;
    t->r = 1;
    t->counted = true;
    t->left = t->eot;
    sector_begin(fdc);
}

void fdc_command_format(struct fdc *fdc)
{
    struct fdc_transfer *t = &fdc->transfer;
    struct fdc_drive *drive = fdc_drive_at(fdc, fdc->command[1] & 3);
    unsigned head = fdc->command[1] >> 2 & 1;
    *t = (struct fdc_transfer){.work = WORK_FORMAT,
                               .drive = fdc->command[1] & 3,
                               .c = drive != NULL ? drive->cylinder : 0,
                               .h = (uint8_t)head,
                               .r = 1,
                               .n = fdc->command[2],
                               .counted = true,
                               .left = fdc->command[3],
                               .fill = fdc->command[5]};
    t->side = head;
    if (drive != NULL && drive->geometry != NULL && t->left != drive->geometry->sectors) {
        fail(fdc, ST1_NO_DATA, 0);
        return;
    }
    sector_begin(fdc);
}

/* The next address mark that comes by. */
void fdc_command_read_id(struct fdc *fdc)
{
    struct fdc_transfer *t = &fdc->transfer;
    unsigned n = fdc->command[1] & 3;
    uint8_t head = fdc->command[1] >> 2 & 1;
    const struct fdc_drive *drive = fdc_drive_at(fdc, n);
    *t = (struct fdc_transfer){.drive = n, .h = head, .side = head, .n = SECTOR_SIZE_512};
    if (!fdc_can_read(fdc, drive) || head >= drive->geometry->heads || drive->cylinder >= drive->geometry->cylinders) {
        fail(fdc, ST1_MISSING_ADDRESS_MARK, 0);
        return;
    }
    uint64_t phase_ns = timer_now_ns(fdc->config.queue) % ROTATION_NS;
    t->c = drive->cylinder;
    t->r = (uint8_t)(1 + phase_ns * drive->geometry->sectors / ROTATION_NS);
    finish(fdc, 0, 0, 0);
}
