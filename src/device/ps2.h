/* What a PS/2 keyboard and a PS/2 mouse share: the bytes they have to send, and the wire they send them on.
 *
 * A device answers commands from `replies`, which go first and which every new command empties, and reports events from
 * `events`. `ready` is high while it has something to send; who is at the other end of the wire (the i8042) takes bytes
 * with x_take() when it pleases. Threads: under the device lock. */
#ifndef RING3_DEVICE_PS2_H
#define RING3_DEVICE_PS2_H

#include <stdbool.h>
#include <stdint.h>

#define PS2_QUEUE_SIZE 16

enum { PS2_ACK = 0xfa, PS2_RESEND = 0xfe, PS2_BAT_OK = 0xaa };

struct ps2_queue {
    uint8_t bytes[PS2_QUEUE_SIZE];
    uint8_t first, count;
};

static inline void ps2_queue_clear(struct ps2_queue *queue)
{
    queue->count = 0;
}

static inline unsigned ps2_queue_room(const struct ps2_queue *queue)
{
    return PS2_QUEUE_SIZE - queue->count;
}

/* Drops the byte when the queue is full: callers that care look at the room first. */
static inline void ps2_queue_put(struct ps2_queue *queue, uint8_t byte)
{
    if (queue->count < PS2_QUEUE_SIZE)
        queue->bytes[(queue->first + queue->count++) % PS2_QUEUE_SIZE] = byte;
}

static inline bool ps2_queue_take(struct ps2_queue *queue, uint8_t *byte)
{
    if (queue->count == 0)
        return false;
    *byte = queue->bytes[queue->first];
    queue->first = (queue->first + 1) % PS2_QUEUE_SIZE;
    queue->count--;
    return true;
}

#endif
