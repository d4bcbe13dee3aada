/* What the backends of character devices have in common: descriptors that neither block nor lose bytes.
 * Private to src/host. All under the loop's lock. */
#ifndef RING3_HOST_STREAM_H
#define RING3_HOST_STREAM_H

#include <sys/types.h>

#include "host/chardev_create.h"

/* How a descriptor can be used without blocking. */
struct stream_fd {
    int fd; /* -1: none */
    bool socket;
    bool careful; /* may block: only after poll(), and only a few bytes at a time */
};

/* A descriptor of our own onto the file that `fd` is open on, so that O_NONBLOCK is not forced upon the processes that
 * share it with us. `access` is O_RDONLY or O_WRONLY. .fd is -1 if `fd` is not open. */
struct stream_fd stream_fd_private(int fd, int access);

/* As read(): 0 is the end, -1 with EAGAIN nothing now. */
ssize_t stream_fd_read(const struct stream_fd *from, void *bytes, size_t n);

#define OUTPUT_SIZE 65536u

/* Bytes on their way out. */
struct output {
    struct chardev *dev, *second; /* second: also told that there is room; may be NULL */
    struct stream_fd to;
    struct loop_source *source;
    void (*failed)(void *opaque, int error); /* the host refuses for good; the output is closed already */
    void *opaque;
    size_t head, length;
    bool owed; /* a short write is to be answered by chardev_notify_writable() */
    uint8_t bytes[OUTPUT_SIZE];
};

void output_init(struct output *out, struct chardev *dev, void (*failed)(void *opaque, int error), void *opaque);
/* Starts writing to `to`. */
void output_open(struct output *out, struct loop *loop, struct stream_fd to);
/* Stops; what is buffered is lost, and from now on everything is taken and dropped. Does not close the descriptor. */
void output_close(struct output *out);
/* Takes up to n bytes; see chardev_write(). */
size_t output_write(struct output *out, const uint8_t *bytes, size_t n);
size_t output_room(const struct output *out);
/* Waits until all is written, the host refuses, or the time is over. */
void output_flush(struct output *out, uint64_t timeout_ns);

/* Whether the device has room now; if so reads that much, at most, and hands it over. Returns what
 * stream_fd_read() returned, or -1 with errno EBUSY when the device has no room. */
ssize_t stream_receive(struct chardev *dev, const struct stream_fd *from);

#endif
