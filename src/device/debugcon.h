/* The debug console port: firmware writes its messages there, byte by byte. Under the device lock. */
#ifndef RING3_DEVICE_DEBUGCON_H
#define RING3_DEVICE_DEBUGCON_H

#include "memory/memory.h"

struct debugcon;

/* Where the bytes go; set one of the two. `byte` gets each byte at once; `line` gets whole lines, without the newline
 * and with every byte that is not printable ASCII or a tab replaced by '?', so that it is fit for a log; a line that
 * grows too long is handed over in pieces. */
struct debugcon_sink {
    void (*byte)(void *opaque, uint8_t byte);
    void (*line)(void *opaque, const char *line);
    void *opaque;
};

/* NULL when out of memory. */
struct debugcon *debugcon_create(const struct debugcon_sink *sink);
/* Hands an unfinished line over first. */
void debugcon_destroy(struct debugcon *debugcon);

extern const struct io_ops debugcon_ops; /* one port */

#endif
