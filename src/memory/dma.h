/* What a device needs that reads and writes guest memory by itself: host pointers to it, and the notice afterwards.
 *
 * A device gets a stretch of guest-physical space as pieces that are contiguous on the host (dma_map()), copies or has
 * the host's kernel copy, and says then what it has written (dma_written()), so that nobody goes on with code or tables that
 * are not there any more. The pointers stay good for the life of the memory, whatever the guest maps meanwhile; what they lead
 * to is the guest's, and may change at any moment: a device looks at a byte once.
 *
 * Threads: dma_map() under the device lock; dma_written() on any thread, without locks of its caller's other than the device
 * lock. Copying needs no lock.
 */
#ifndef RING3_MEMORY_DMA_H
#define RING3_MEMORY_DMA_H

#include <sys/uio.h>

#include "memory/memory.h"

/* Fills in up to `max` pieces for `size` bytes at `gpa`, in order, and returns how many; 0 if a byte of it is neither RAM nor (for
 * reading only) ROM, if it wraps around, if it takes more than `max` pieces, or if `size` is 0. */
unsigned dma_map(struct memory *memory, gpa_t gpa, uint64_t size, bool write, struct iovec *pieces, unsigned max);

/* `size` bytes at `hva`, from dma_map(), have just been written. */
void dma_written(struct memory *memory, const void *hva, uint64_t size);

#endif
