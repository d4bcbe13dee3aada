/* The debug exit port: a test program in the guest ends the machine with a status. Under the device lock. */
#ifndef RING3_DEVICE_DEBUGEXIT_H
#define RING3_DEVICE_DEBUGEXIT_H

#include "memory/memory.h"

#define DEBUGEXIT_SIZE 4u

struct debugexit;

/* `exit` gets (value << 1) | 1, never 0, from the port write: the callee remembers it. NULL when out of memory. */
struct debugexit *debugexit_create(void (*exit)(void *opaque, int status), void *opaque);
void debugexit_destroy(struct debugexit *debugexit);

extern const struct io_ops debugexit_ops; /* DEBUGEXIT_SIZE ports */

#endif
