/* The debug exit port. See debugexit.h.
 *
 * The interface is the one that test kernels already know from other monitors as isa-debug-exit: a write of v ends the
 * machine with process status (v << 1) | 1, so that 0 keeps its meaning "the guest shut down by itself". Reads give
 * zero. There is no state. As a process status only the low eight bits reach a shell.
 */
#include "device/debugexit.h"

#include <stdlib.h>

struct debugexit {
    void (*exit)(void *opaque, int status);
    void *opaque;
};

static uint64_t debugexit_read(void *dev, uint64_t offset, unsigned size)
{
    return 0;
}

static void debugexit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct debugexit *debugexit = dev;
    debugexit->exit(debugexit->opaque, (int)((uint32_t)value << 1 & 0x7fffffff) | 1);
}

const struct io_ops debugexit_ops = {.read = debugexit_read, .write = debugexit_write, .name = "debug exit"};

struct debugexit *debugexit_create(void (*exit)(void *opaque, int status), void *opaque)
{
    struct debugexit *debugexit = calloc(1, sizeof *debugexit);
    if (debugexit == NULL)
        return NULL;
    *debugexit = (struct debugexit){.exit = exit, .opaque = opaque};
    return debugexit;
}

void debugexit_destroy(struct debugexit *debugexit)
{
    free(debugexit);
}
