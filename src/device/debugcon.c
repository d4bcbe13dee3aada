/* The debug console. See debugcon.h.
 *
 * One port, known from Bochs: a read gives E9h, by which firmware finds out that it is there, a write is one byte of
 * output. Wider writes are as many bytes, lowest first.
 */
#include "device/debugcon.h"

#include <stdlib.h>

#define DEBUGCON_PRESENT 0xe9
#define LINE_MAX_BYTES 256u

struct debugcon_state {
    unsigned length;
    char line[LINE_MAX_BYTES];
};

struct debugcon {
    struct debugcon_sink sink;
    struct debugcon_state state;
};

static void line_flush(struct debugcon *debugcon)
{
    debugcon->state.line[debugcon->state.length] = '\0';
    debugcon->state.length = 0;
    debugcon->sink.line(debugcon->sink.opaque, debugcon->state.line);
}

static void byte_put(struct debugcon *debugcon, uint8_t byte)
{
    struct debugcon_state *state = &debugcon->state;
    if (debugcon->sink.byte != NULL)
        debugcon->sink.byte(debugcon->sink.opaque, byte);
    if (debugcon->sink.line == NULL || byte == '\r')
        return;
    if (byte == '\n') {
        line_flush(debugcon);
        return;
    }
    state->line[state->length++] = (byte >= ' ' && byte < 0x7f) || byte == '\t' ? (char)byte : '?';
    if (state->length == LINE_MAX_BYTES - 1)
        line_flush(debugcon);
}

static uint64_t debugcon_read(void *dev, uint64_t offset, unsigned size)
{
    return DEBUGCON_PRESENT;
}

static void debugcon_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        byte_put(dev, (uint8_t)(value >> (8 * i)));
}

const struct io_ops debugcon_ops = {.read = debugcon_read, .write = debugcon_write, .name = "debug console"};

struct debugcon *debugcon_create(const struct debugcon_sink *sink)
{
    struct debugcon *debugcon = calloc(1, sizeof *debugcon);
    if (debugcon != NULL)
        debugcon->sink = *sink;
    return debugcon;
}

void debugcon_destroy(struct debugcon *debugcon)
{
    if (debugcon == NULL)
        return;
    if (debugcon->state.length != 0)
        line_flush(debugcon);
    free(debugcon);
}
