/* A growing list of pieces of guest memory, gathered range by range: for devices whose scatter lists have no bound of
 * their own.
 *
 * Built on memory/dma.h, whose words on pointers and watchers hold here. Pieces that lie side by side on the host
 * become one. A list is all zeros at first.
 *
 * Threads: scatter_add() under the device lock. */
#ifndef RING3_MEMORY_SCATTER_H
#define RING3_MEMORY_SCATTER_H

#include "memory/dma.h"

struct scatter {
    struct iovec *iov;
    unsigned count, capacity;
    uint64_t size; /* bytes in all */
};

/* Empties it; the array stays for the next use until scatter_free(). */
void scatter_clear(struct scatter *scatter);
void scatter_free(struct scatter *scatter);

/* Appends `size` bytes at `gpa`. False, with the list as it was, if not all of them are RAM, or ROM if nothing is
 * written. Aborts when the host has no memory for the list itself. */
bool scatter_add(struct scatter *scatter, struct memory *memory, gpa_t gpa, uint64_t size, bool write);

/* The first `size` bytes have been written through the pointers. */
void scatter_written(const struct scatter *scatter, struct memory *memory, uint64_t size);

/* Copy between the first `size` bytes, which it must have, and a buffer. Copying in tells who watches. */
void scatter_copy_out(const struct scatter *scatter, void *buffer, uint64_t size);
void scatter_copy_in(const struct scatter *scatter, struct memory *memory, const void *buffer, uint64_t size);

#endif
