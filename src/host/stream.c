/* Descriptors that neither block nor lose bytes; see stream.h.
 *
 * O_NONBLOCK belongs to the open file description, which we share with the shell and with everybody else who has our
 * terminal or pipe; set there, it would outlive us. So terminals, pipes and other character devices are opened anew
 * through /proc/self/fd; sockets, which cannot be, take MSG_DONTWAIT; regular files never block. What cannot be opened
 * anew (the permissions forbid it) is used with care: after poll() said so, and with few bytes at a time.
 *
 * Output is written from the loop, not by the vCPU's thread that produces it byte by byte: so many bytes become one
 * system call. */
#include "host/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/clock.h"

#define CAREFUL_BYTES 256u
#define RECEIVE_BYTES 4096u

struct stream_fd stream_fd_private(int fd, int access)
{
    struct stream_fd stream = {.fd = -1};
    struct stat st;
    if (fstat(fd, &st) != 0)
        return stream;
    stream.socket = S_ISSOCK(st.st_mode);
    if (!stream.socket && !S_ISREG(st.st_mode)) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        stream.fd = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (stream.fd >= 0)
            return stream;
        stream.careful = true;
    }
    stream.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return stream;
}

ssize_t stream_fd_read(const struct stream_fd *from, void *bytes, size_t n)
{
    ssize_t got;
    if (from->careful) {
        struct pollfd p = {.fd = from->fd, .events = POLLIN};
        if (poll(&p, 1, 0) == 0) {
            errno = EAGAIN;
            return -1;
        }
    }
    do
        got = from->socket ? recv(from->fd, bytes, n, MSG_DONTWAIT) : read(from->fd, bytes, n);
    while (got < 0 && errno == EINTR);
    return got;
}

static ssize_t stream_fd_write(const struct stream_fd *to, const void *bytes, size_t n)
{
    ssize_t put;
    if (to->careful && n > CAREFUL_BYTES)
        n = CAREFUL_BYTES;
    do
        put = to->socket ? send(to->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL) : write(to->fd, bytes, n);
    while (put < 0 && errno == EINTR);
    return put;
}

void output_init(struct output *out, struct chardev *dev, void (*failed)(void *opaque, int error), void *opaque)
{
    out->dev = dev;
    out->second = NULL;
    out->to.fd = -1;
    out->failed = failed;
    out->opaque = opaque;
    out->head = out->length = 0;
    out->owed = false;
    out->source = NULL;
}

size_t output_room(const struct output *out)
{
    return OUTPUT_SIZE - out->length;
}

/* Writes what the host takes now. False when it takes nothing more for good, and the output is closed: a far end that
 * has hung up and is full will not be emptied by anybody (a pty says EAGAIN then, where sockets and pipes say EPIPE).
 */
static bool output_drain(struct output *out, bool hangup)
{
    while (out->length > 0) {
        size_t piece = OUTPUT_SIZE - out->head;
        if (piece > out->length)
            piece = out->length;
        ssize_t put = stream_fd_write(&out->to, out->bytes + out->head, piece);
        bool full = put == 0 || (put < 0 && errno == EAGAIN);
        if (full && !hangup)
            return true;
        if (put <= 0) {
            int error = full ? EIO : errno;
            output_close(out);
            if (out->failed != NULL)
                out->failed(out->opaque, error);
            return false;
        }
        out->head = (out->head + (size_t)put) % OUTPUT_SIZE;
        out->length -= (size_t)put;
        if (out->to.careful)
            return true; /* ask poll() again */
    }
    return true;
}

static void output_pay(struct output *out)
{
    if (out->owed && output_room(out) > 0) {
        out->owed = false;
        chardev_notify_writable(out->dev);
        if (out->second != NULL)
            chardev_notify_writable(out->second);
    }
}

static void output_ready(void *opaque, unsigned events)
{
    struct output *out = opaque;
    if (output_drain(out, events & LOOP_HANGUP) && out->length == 0)
        loop_modify(out->source, 0);
    output_pay(out);
}

void output_open(struct output *out, struct loop *loop, struct stream_fd to)
{
    out->to = to;
    out->source = loop_add(loop, to.fd, 0, output_ready, out);
}

void output_close(struct output *out)
{
    loop_remove(out->source);
    out->source = NULL;
    out->to.fd = -1;
    out->head = out->length = 0;
}

size_t output_write(struct output *out, const uint8_t *bytes, size_t n)
{
    if (out->source == NULL)
        return n;
    size_t room = output_room(out);
    if (n > room) {
        out->owed = true;
        n = room;
    }
    size_t tail = (out->head + out->length) % OUTPUT_SIZE;
    size_t first = OUTPUT_SIZE - tail < n ? OUTPUT_SIZE - tail : n;
    memcpy(out->bytes + tail, bytes, first);
    memcpy(out->bytes, bytes + first, n - first);
    out->length += n;
    if (n > 0)
        loop_modify(out->source, LOOP_WRITE);
    return n;
}

void output_flush(struct output *out, uint64_t timeout_ns)
{
    uint64_t end_ns = clock_monotonic_ns() + timeout_ns;
    while (out->source != NULL && out->length > 0) {
        uint64_t now_ns = clock_monotonic_ns();
        if (now_ns >= end_ns)
            return;
        struct pollfd p = {.fd = out->to.fd, .events = POLLOUT};
        poll(&p, 1, (int)((end_ns - now_ns) / 1000000 + 1));
        if (p.revents != 0)
            output_drain(out, p.revents & (POLLHUP | POLLERR | POLLNVAL));
    }
}

ssize_t stream_receive(struct chardev *dev, const struct stream_fd *from)
{
    uint8_t bytes[RECEIVE_BYTES];
    size_t room = chardev_can_receive(dev);
    if (room == 0) {
        errno = EBUSY;
        return -1;
    }
    ssize_t got = stream_fd_read(from, bytes, room < sizeof bytes ? room : sizeof bytes);
    if (got > 0)
        chardev_receive(dev, bytes, (size_t)got);
    return got;
}
