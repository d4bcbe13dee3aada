/* Disk images: what is behind a disk, a CD-ROM or a diskette. A raw file or a block device of the host, read and
 * written off the processors' threads.
 *
 * An image is an array of bytes; sectors, cylinders and partitions are the devices' and the guest's matter. Its size is
 * that of the file, rounded up to 512: what lies behind the file's end reads as zeros, and a write there makes the file
 * longer, never beyond the rounded size.
 *
 * Requests. A device fills a struct block_request and gives it away with block_submit() until its `done` is called, on
 * the loop's thread, under the device lock, never from within block_submit(). Requests of one image run side by side
 * and may be done in any order; who needs an order waits for the one before submitting the other. A flush covers the
 * writes that were done before it was submitted: when it is done they are on the medium (fdatasync). No acknowledged
 * write is lost when the monitor is killed, flushed or not; the host's crash or power failure loses what was not
 * flushed.
 *
 * Repeatable runs. With a guest timer queue in the options there are no threads: a request is carried out by a timer of
 * that queue, a fixed guest time after it was submitted (by operation and size), and done in order. What the guest sees
 * then depends on nothing of the host's but the image.
 *
 * Locks on the image. Writers hold an exclusive OFD lock on the file, readers a shared one; two machines cannot write
 * one image, nor one read what the other writes. Block devices are opened exclusively for writing: mounted ones are
 * refused.
 *
 * Snapshots. Nothing is written to the image: writes go to an unnamed file (in $TMPDIR, else /var/tmp; where that
 * cannot be made, in memory), which is gone with the process.
 *
 * Threads: everything under the device lock. Errors: of opening, struct error; of a request, its result. */
#ifndef RING3_HOST_BLOCK_H
#define RING3_HOST_BLOCK_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/log.h"
#include "base/timer.h"
#include "base/types.h"

#define BLOCK_SECTOR 512u

struct block;
struct loop;

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,
    BLOCK_DISCARD,      /* the contents do not matter any more; a hint */
    BLOCK_WRITE_ZEROES, /* reads as zeros from now on */
};

struct block_request {
    enum block_op op;
    bool durable;            /* WRITE, WRITE_ZEROES: on the medium when done, as if a flush followed */
    bool may_unmap;          /* WRITE_ZEROES: the range need not stay allocated */
    uint64_t offset, size;   /* bytes; any alignment. FLUSH: ignored */
    const struct iovec *iov; /* READ, WRITE: `size` bytes or more in all; kept by the caller until done */
    unsigned iov_count;
    /* result: 0, or a negative errno: -EINVAL beyond the end, -EROFS, -EIO, -ENOSPC ... `transferred` bytes from the
     * start were read or written all the same. */
    void (*done)(struct block_request *request, int result);
    uint64_t transferred;
    /* block.c's: */
    struct block_request *next;
    int result;
    uint64_t due_ns;
};

struct block_options {
    bool read_only;            /* the guest may not write */
    bool snapshot;             /* the guest's writes are thrown away */
    bool unsafe;               /* a flush does nothing: for disks that nobody will miss */
    bool raw;                  /* do not look whether the contents are another image format, which is refused otherwise */
    struct loop *loop;         /* on whose thread requests are done; unused with a `queue` */
    struct timer_queue *queue; /* of guest time: makes requests repeatable; NULL: worker threads */
    struct log *log;           /* the first errors are told there, the very first one even if it is off */
};

/* NULL with a message. `path` is copied. */
struct block *block_open(const char *path, const struct block_options *options, struct error *err);
/* Requests in flight are cancelled. `block` may be NULL. */
void block_close(struct block *block);

const char *block_path(const struct block *block);
uint64_t block_size(const struct block *block); /* a multiple of BLOCK_SECTOR, not 0 */
bool block_read_only(const struct block *block);

void block_submit(struct block *block, struct block_request *request);
/* For resets. Returns when no request is in flight: those not begun are dropped, the others waited for. `done` is
 * called for none of them. */
void block_cancel(struct block *block);

#endif
