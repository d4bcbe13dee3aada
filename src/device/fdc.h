/* The Intel 82077AA diskette controller in AT mode, with up to two drives whose diskettes are images.
 *
 * Data moves by DMA through functions of the board's, or by the processor (the non-DMA mode). An image's geometry follows from
 * its size; sectors have 512 bytes. Reads and writes of images are requests of host/block.h.
 *
 * Threads: everything under the device lock. Errors: of creation; what goes wrong with a medium is the guest's to see.
 * Source: Intel 82077AA data sheet (290166), chapters 2 to 7. */
#ifndef RING3_DEVICE_FDC_H
#define RING3_DEVICE_FDC_H

#include "base/error.h"
#include "base/irq.h"
#include "base/timer.h"
#include "base/types.h"
#include "memory/memory.h"

#define FDC_DRIVES 2u
#define FDC_IMAGE_MAX (2880 * KiB)

struct block;
struct fdc;

/* What kind of drive it is, as CMOS byte 10h numbers them. */
enum fdc_drive_type {
    FDC_DRIVE_NONE = 0,
    FDC_DRIVE_360K = 1,
    FDC_DRIVE_1200K = 2,
    FDC_DRIVE_720K = 3,
    FDC_DRIVE_1440K = 4,
    FDC_DRIVE_2880K = 5,
};

struct fdc_config {
    struct timer_queue *queue;
    struct irq_line irq; /* 6 on a PC */
    /* The DMA channel that the controller is wired to: as i8237_transfer(). */
    size_t (*dma)(void *opaque, uint8_t *bytes, size_t n, bool to_memory, bool *terminal);
    void *opaque;
    struct {
        bool present;
        struct block *block; /* NULL: no diskette in it. Owned by the caller, outlives the controller. */
    } drive[FDC_DRIVES];
};

/* NULL with a message when an image is larger than any diskette, or out of memory. A drive is of the kind that its first
 * diskette asks for; without one, of 1.44M. */
struct fdc *fdc_create(const struct fdc_config *config, struct error *err);
void fdc_destroy(struct fdc *fdc);
void fdc_reset(struct fdc *fdc);

enum fdc_drive_type fdc_drive_type(const struct fdc *fdc, unsigned drive);

/* Another diskette, or none. The guest sees the change line. False with a message, and the drive empty, when the image is too
 * large. The one that was in it is not used any more. */
bool fdc_set_medium(struct fdc *fdc, unsigned drive, struct block *block, struct error *err);

/* Six ports (3F0h on a PC), and one (3F7h). 3F6h is the disk controller's. */
extern const struct io_ops fdc_ops;
extern const struct io_ops fdc_dir_ops;

#endif
