/* A pair of Intel 8237A DMA controllers with the AT's page registers.
 *
 * Channels 0 to 3 move bytes, 5 to 7 words; 4 is the cascade. There are no DREQ wires here: a device that would drive one calls
 * i8237_transfer(), which moves as much as the channel's programming permits, at once.
 *
 * Threads: everything under the device lock.
 * Source: Intel 8237A data sheet; IBM PC AT Technical Reference; 82371SB (PIIX3) data sheet, 3.2.1. */
#ifndef RING3_DEVICE_I8237_H
#define RING3_DEVICE_I8237_H

#include "base/types.h"
#include "memory/memory.h"

struct i8237;

/* NULL when out of memory. */
struct i8237 *i8237_create(struct memory *memory);
void i8237_destroy(struct i8237 *dma);
void i8237_reset(struct i8237 *dma);

/* Moves up to `n` bytes (for channels 5 to 7: an even number) between a device and guest memory: into memory when `to_memory`,
 * else out of it. Returns how many bytes the channel took: none while it is masked, or its controller disabled; fewer than
 * asked for when terminal count is reached, which `terminal` then says (also when it is reached by the last one). A channel
 * that is programmed for the other direction, or to verify, counts without moving anything: bytes read are then FFh. */
size_t i8237_transfer(struct i8237 *dma, unsigned channel, uint8_t *bytes, size_t n, bool to_memory, bool *terminal);

/* 16 ports (00h on a PC), 32 ports (C0h), 16 page registers (80h). */
extern const struct io_ops i8237_low_ops;
extern const struct io_ops i8237_high_ops;
extern const struct io_ops i8237_page_ops;

#endif
