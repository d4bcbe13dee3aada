/* A stream of bytes between a device (a serial port, the debug port) and the host: a terminal, a file, a socket.
 *
 *     frontend (the device)  -- chardev_write() ------------------>  backend (src/host)
 *     frontend               <-- can_receive(), receive(), ... ----  backend
 *
 * Shape. A backend embeds `struct chardev` in its own struct as its only face, sets `ops` in its constructor and leaves
 * `frontend` zero. A device is given a `struct chardev *` (or NULL: nothing is plugged in), calls chardev_connect()
 * once, and chardev_disconnect() before it dies.
 *
 * Flow. Neither side ever blocks or buffers for the other. chardev_write() takes what the backend has room for now;
 * when it took less than it was given, the backend calls `writable` once, as soon as it can take at least one byte. A
 * backend asks `can_receive` first and passes at most that many bytes to `receive`; when the answer was 0 it keeps its
 * input where it is (in the kernel), and the device calls chardev_accept_input() as soon as there is room again.
 *
 * Ownership: whoever created the backend destroys it, after the device. Threads: every function here, in both
 * directions, is called under the machine's device lock. A callback into the device may call back chardev_write()
 * and chardev_accept_input(), and chardev_accept_input() may call `receive` before it returns. chardev_write() never
 * calls the device. */
#ifndef RING3_HOST_CHARDEV_H
#define RING3_HOST_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;

/* What the device offers to the backend. Any of them may be NULL: no input is wanted, the event is ignored. */
struct chardev_frontend {
    size_t (*can_receive)(void *opaque);
    void (*receive)(void *opaque, const uint8_t *bytes, size_t n); /* n <= can_receive() */
    void (*receive_break)(void *opaque);                           /* the line was held low (a BREAK) */
    void (*writable)(void *opaque);                                /* after a short chardev_write() */
    void (*carrier)(void *opaque, bool present);                   /* somebody (dis)connected at the far end */
    void *opaque;
};

/* The rate and framing a device was programmed for: for backends that are a real line. */
struct chardev_params {
    uint32_t baud;
    uint8_t data_bits; /* 5..8 */
    uint8_t stop_bits; /* 1, 2 */
    char parity;       /* 'N', 'O', 'E', 'M' (mark), 'S' (space) */
};

/* What a backend implements. Only `write` is required. */
struct chardev_ops {
    size_t (*write)(struct chardev *dev, const uint8_t *bytes, size_t n); /* returns how many it took, 0..n */
    void (*accept_input)(struct chardev *dev);                            /* can_receive() became nonzero */
    void (*set_break)(struct chardev *dev, bool on);
    void (*set_params)(struct chardev *dev, const struct chardev_params *params);
    bool (*connected)(struct chardev *dev); /* is there a far end now? NULL: always */
    void (*destroy)(struct chardev *dev);   /* for chardev_destroy(), see host/chardev_create.h */
    const char *name;                       /* for messages: "stdio", "file" */
};

struct chardev {
    const struct chardev_ops *ops;
    struct chardev_frontend frontend;
};

/* Plugs the device in, and lets pending input flow. `dev` may be NULL in all of these. */
static inline void chardev_connect(struct chardev *dev, const struct chardev_frontend *frontend)
{
    if (dev == NULL)
        return;
    dev->frontend = *frontend;
    if (dev->ops->accept_input != NULL)
        dev->ops->accept_input(dev);
}

static inline void chardev_disconnect(struct chardev *dev)
{
    if (dev != NULL)
        dev->frontend = (struct chardev_frontend){0};
}

/* Returns how many of the n bytes were taken; a missing backend takes all of them. */
static inline size_t chardev_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    return dev != NULL ? dev->ops->write(dev, bytes, n) : n;
}

static inline void chardev_accept_input(struct chardev *dev)
{
    if (dev != NULL && dev->ops->accept_input != NULL)
        dev->ops->accept_input(dev);
}

static inline void chardev_set_break(struct chardev *dev, bool on)
{
    if (dev != NULL && dev->ops->set_break != NULL)
        dev->ops->set_break(dev, on);
}

static inline void chardev_set_params(struct chardev *dev, const struct chardev_params *params)
{
    if (dev != NULL && dev->ops->set_params != NULL)
        dev->ops->set_params(dev, params);
}

static inline bool chardev_connected(struct chardev *dev)
{
    return dev != NULL && (dev->ops->connected == NULL || dev->ops->connected(dev));
}

/* For backends: the device's side, when there is one. */
static inline size_t chardev_can_receive(struct chardev *dev)
{
    const struct chardev_frontend *to = &dev->frontend;
    return to->can_receive != NULL && to->receive != NULL ? to->can_receive(to->opaque) : 0;
}

static inline void chardev_receive(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    if (dev->frontend.receive != NULL)
        dev->frontend.receive(dev->frontend.opaque, bytes, n);
}

static inline void chardev_receive_break(struct chardev *dev)
{
    if (dev->frontend.receive_break != NULL)
        dev->frontend.receive_break(dev->frontend.opaque);
}

static inline void chardev_notify_writable(struct chardev *dev)
{
    if (dev->frontend.writable != NULL)
        dev->frontend.writable(dev->frontend.opaque);
}

static inline void chardev_notify_carrier(struct chardev *dev, bool present)
{
    if (dev->frontend.carrier != NULL)
        dev->frontend.carrier(dev->frontend.opaque, present);
}

#endif
