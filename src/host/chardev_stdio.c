/* Standard input and output as the far end of a serial line.
 *
 * On a terminal, Ctrl-A introduces a command for us, with the keys QEMU has for it; all else goes to the guest. From a
 * pipe or a file every byte goes to the guest, Ctrl-A too. Input is read ahead, up to 1 MiB, even while the device has
 * no room: otherwise a guest that hangs could not be quit with Ctrl-A x behind what was typed or pasted before.
 *
 * On a terminal there is a second device behind Ctrl-A c (chardev_second()): the keyboard is for one of the two, what
 * either says is shown. The second takes what is typed at once, or never.
 *
 * Timestamps (Ctrl-A t) are written before the first byte of each line of output: time since they were switched on. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "host/chardev_kinds.h"
#include "host/clock.h"
#include "host/stream.h"
#include "host/tty.h"

#define ESCAPE_KEY 0x01 /* Ctrl-A */
#define AHEAD_SIZE (1024u * 1024u)
#define PIECE_SIZE 4096u /* moved at a time */
#define FLUSH_NS NS_PER_S

struct stdio {
    struct chardev dev;
    struct chardev second; /* behind Ctrl-A c */
    bool second_has_keys;
    struct chardev_env env;
    struct stream_fd in, to;
    struct loop_source *source;
    struct tty *tty; /* NULL: standard input is not a terminal */
    bool escaped;    /* the last key was Ctrl-A */
    bool delivering; /* the device may ask for more input while it takes some */
    bool stamps, line_start;
    uint64_t stamps_from_ns;
    size_t ahead_head, ahead_length;
    uint8_t ahead[AHEAD_SIZE]; /* typed, not yet taken by the device */
    struct output out;
};

static void stdio_print(struct stdio *s, const char *text)
{
    output_write(&s->out, (const uint8_t *)text, strlen(text));
    s->line_start = true;
}

static void stdio_help(struct stdio *s)
{
    stdio_print(s, "\nring3 keys:\n"
                   "Ctrl-A h       this help\n"
                   "Ctrl-A x       quit\n"
                   "Ctrl-A b       send a break\n"
                   "Ctrl-A c       turn to the monitor, and back\n"
                   "Ctrl-A t       time stamps on or off\n"
                   "Ctrl-A Ctrl-A  send Ctrl-A (so does Ctrl-A a)\n");
}

static void stdio_turn(struct stdio *s)
{
    if (s->second.frontend.receive == NULL)
        return;
    s->second_has_keys = !s->second_has_keys;
    if (!s->second_has_keys || !s->line_start)
        stdio_print(s, "\n");
    chardev_notify_carrier(&s->second, s->second_has_keys);
}

static void stdio_type(struct stdio *s, uint8_t byte)
{
    if (s->second_has_keys) {
        if (chardev_can_receive(&s->second) > 0)
            chardev_receive(&s->second, &byte, 1);
        return;
    }
    s->ahead[(s->ahead_head + s->ahead_length) % AHEAD_SIZE] = byte;
    s->ahead_length++;
}

static void stdio_command(struct stdio *s, uint8_t key)
{
    switch (key) {
    case 'h':
    case '?':
        stdio_help(s);
        break;
    case 'x':
        stdio_print(s, "\nring3: quit\n");
        if (s->env.quit != NULL)
            s->env.quit(s->env.opaque);
        break;
    case 'b':
        chardev_receive_break(&s->dev);
        break;
    case 'c':
        stdio_turn(s);
        break;
    case 't':
        s->stamps = !s->stamps;
        s->stamps_from_ns = clock_monotonic_ns();
        break;
    case 'a':
    case ESCAPE_KEY:
        stdio_type(s, ESCAPE_KEY);
        break;
    default: /* as in QEMU: not a command, not for the guest */
        break;
    }
}

/* Hands over what the device takes, and reads on if there is room again. */
static void stdio_deliver(struct stdio *s)
{
    if (s->delivering)
        return;
    s->delivering = true;
    while (s->ahead_length > 0) {
        size_t n = chardev_can_receive(&s->dev);
        if (n == 0)
            break;
        if (n > s->ahead_length)
            n = s->ahead_length;
        if (n > AHEAD_SIZE - s->ahead_head)
            n = AHEAD_SIZE - s->ahead_head;
        uint8_t bytes[PIECE_SIZE]; /* taken out before: the device may call back */
        if (n > sizeof bytes)
            n = sizeof bytes;
        memcpy(bytes, s->ahead + s->ahead_head, n);
        s->ahead_head = (s->ahead_head + n) % AHEAD_SIZE;
        s->ahead_length -= n;
        chardev_receive(&s->dev, bytes, n);
    }
    s->delivering = false;
    if (s->source != NULL && s->ahead_length < AHEAD_SIZE && (s->tty == NULL || tty_claim(s->tty)))
        loop_modify(s->source, LOOP_READ);
}

static void stdio_input_end(struct stdio *s)
{
    loop_remove(s->source);
    s->source = NULL;
}

static void stdio_ready(void *opaque, unsigned events)
{
    struct stdio *s = opaque;
    size_t room = AHEAD_SIZE - s->ahead_length;
    if (room == 0 || (s->tty != NULL && !tty_claim(s->tty))) {
        loop_modify(s->source, 0);
        return;
    }
    uint8_t bytes[PIECE_SIZE];
    ssize_t got = stream_fd_read(&s->in, bytes, room < sizeof bytes ? room : sizeof bytes);
    if (got < 0 && errno == EAGAIN && !(events & LOOP_HANGUP))
        return;
    if (got <= 0) {
        stdio_input_end(s);
        return;
    }
    for (ssize_t i = 0; i < got; i++) {
        if (s->escaped) {
            s->escaped = false;
            stdio_command(s, bytes[i]);
        } else if (s->tty != NULL && bytes[i] == ESCAPE_KEY) {
            s->escaped = true;
        } else {
            stdio_type(s, bytes[i]);
        }
    }
    stdio_deliver(s);
}

static void stdio_claimed(void *opaque)
{
    stdio_deliver(opaque);
}

static void stdio_accept_input(struct chardev *dev)
{
    stdio_deliver(container_of(dev, struct stdio, dev));
}

/* False when there is no room for the stamp and a byte behind it. */
static bool stdio_stamp(struct stdio *s)
{
    char stamp[40];
    uint64_t ms = (clock_monotonic_ns() - s->stamps_from_ns) / 1000000;
    unsigned hours = (unsigned)(ms / 3600000 % 10000);
    int n = snprintf(stamp, sizeof stamp, "[%02u:%02u:%02u.%03u] ", hours, (unsigned)(ms / 60000 % 60),
                     (unsigned)(ms / 1000 % 60), (unsigned)(ms % 1000));
    if (output_room(&s->out) <= (size_t)n) {
        s->out.owed = true;
        return false;
    }
    output_write(&s->out, (const uint8_t *)stamp, (size_t)n);
    return true;
}

static size_t stdio_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct stdio *s = container_of(dev, struct stdio, dev);
    if (!s->stamps || s->out.source == NULL) {
        size_t put = output_write(&s->out, bytes, n);
        if (put > 0)
            s->line_start = bytes[put - 1] == '\n';
        return put;
    }
    size_t done = 0;
    while (done < n) {
        if (s->line_start && !stdio_stamp(s))
            break;
        s->line_start = false;
        const uint8_t *newline = memchr(bytes + done, '\n', n - done);
        size_t piece = newline != NULL ? (size_t)(newline - bytes) + 1 - done : n - done;
        size_t put = output_write(&s->out, bytes + done, piece);
        done += put;
        if (put < piece)
            break;
        s->line_start = newline != NULL;
    }
    return done;
}

static size_t second_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct stdio *s = container_of(dev, struct stdio, second);
    size_t put = output_write(&s->out, bytes, n);
    if (put > 0)
        s->line_start = bytes[put - 1] == '\n';
    return put;
}

static bool second_connected(struct chardev *dev)
{
    return container_of(dev, struct stdio, second)->second_has_keys;
}

static const struct chardev_ops second_ops = {.write = second_write, .connected = second_connected, .name = "stdio"};

static void stdio_failed(void *opaque, int error)
{
    struct stdio *s = opaque;
    chardev_warn(&s->env, "standard output: %s; output is dropped from here on", strerror(error));
}

static void stdio_destroy(struct chardev *dev)
{
    struct stdio *s = container_of(dev, struct stdio, dev);
    output_flush(&s->out, FLUSH_NS);
    output_close(&s->out);
    loop_remove(s->source);
    tty_destroy(s->tty);
    if (s->in.fd >= 0)
        close(s->in.fd);
    if (s->to.fd >= 0)
        close(s->to.fd);
    free(s);
}

static const struct chardev_ops stdio_ops = {
    .write = stdio_write,
    .accept_input = stdio_accept_input,
    .destroy = stdio_destroy,
    .name = "stdio",
};

struct chardev *chardev_stdio_create(const struct chardev_env *env, struct error *err)
{
    struct stdio *s = calloc(1, sizeof *s);
    check(s != NULL);
    s->dev.ops = &stdio_ops;
    s->env = *env;
    s->line_start = true;
    s->in.fd = -1;
    output_init(&s->out, &s->dev, stdio_failed, s);
    s->second.ops = &second_ops;
    s->out.second = &s->second;
    s->to = stream_fd_private(STDOUT_FILENO, O_WRONLY);
    if (s->to.fd >= 0)
        output_open(&s->out, env->loop, s->to);
    if (env->output_only)
        return &s->dev;
    s->in = stream_fd_private(STDIN_FILENO, O_RDONLY);
    if (s->in.fd < 0)
        return &s->dev;
    if (isatty(s->in.fd)) {
        s->tty = tty_create(s->in.fd, env->loop, stdio_claimed, s, err);
        if (s->tty == NULL) {
            stdio_destroy(&s->dev);
            return NULL;
        }
    }
    s->source = loop_add(env->loop, s->in.fd, LOOP_READ, stdio_ready, s);
    return &s->dev;
}

struct chardev *chardev_second(struct chardev *dev)
{
    if (dev == NULL || dev->ops != &stdio_ops)
        return NULL;
    struct stdio *s = container_of(dev, struct stdio, dev);
    return s->tty != NULL ? &s->second : NULL;
}
