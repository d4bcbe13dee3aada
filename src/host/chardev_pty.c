/* A new pseudo-terminal as the far end of a serial line: for `screen /dev/pts/7`, for test harnesses, for getty-like
 * uses.
 *
 * The kernel reports a hang-up on the master side as long as nobody has the other side open, but not its end; so while
 * there is nobody, a timer looks ten times a second. What somebody typed before he went stays in the kernel until the
 * device takes it. The line is raw from the start. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/check.h"
#include "host/chardev_kinds.h"
#include "host/clock.h"
#include "host/stream.h"

#define LOOK_NS (NS_PER_S / 10)
#define FLUSH_NS NS_PER_S

struct pty {
    struct chardev dev;
    struct chardev_env env;
    struct stream_fd master;
    struct loop_source *source; /* while somebody is there */
    struct timer look;          /* while nobody is */
    struct output out;
};

static void pty_absent(struct pty *p)
{
    if (p->source == NULL)
        return;
    output_close(&p->out);
    loop_remove(p->source);
    p->source = NULL;
    timer_arm(&p->look, clock_monotonic_ns() + LOOK_NS);
    chardev_notify_carrier(&p->dev, false);
    if (p->out.owed) {
        p->out.owed = false;
        chardev_notify_writable(&p->dev);
    }
}

static void pty_ready(void *opaque, unsigned events)
{
    struct pty *p = opaque;
    ssize_t got = stream_receive(&p->dev, &p->master); /* what was written before a hang-up can still be read */
    if (got < 0 && errno == EBUSY)
        loop_modify(p->source, 0);
    else if (got == 0 || (got < 0 && errno != EAGAIN) || (got < 0 && (events & LOOP_HANGUP)))
        pty_absent(p);
}

static void pty_write_failed(void *opaque, int error)
{
    pty_absent(opaque);
}

static void pty_look(void *opaque)
{
    struct pty *p = opaque;
    struct pollfd poll_fd = {.fd = p->master.fd, .events = POLLIN};
    poll(&poll_fd, 1, 0);
    bool typed = (poll_fd.revents & POLLIN) && chardev_can_receive(&p->dev) > 0;
    if ((poll_fd.revents & POLLHUP) && !typed) {
        timer_arm(&p->look, clock_monotonic_ns() + LOOK_NS);
        return;
    }
    p->source = loop_add(p->env.loop, p->master.fd, LOOP_READ, pty_ready, p);
    output_open(&p->out, p->env.loop, p->master);
    chardev_notify_carrier(&p->dev, true);
}

static size_t pty_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    return output_write(&container_of(dev, struct pty, dev)->out, bytes, n);
}

static void pty_accept_input(struct chardev *dev)
{
    struct pty *p = container_of(dev, struct pty, dev);
    if (p->source != NULL)
        loop_modify(p->source, LOOP_READ);
}

static bool pty_connected(struct chardev *dev)
{
    return container_of(dev, struct pty, dev)->source != NULL;
}

static void pty_destroy(struct chardev *dev)
{
    struct pty *p = container_of(dev, struct pty, dev);
    p->dev.frontend = (struct chardev_frontend){0};
    output_flush(&p->out, FLUSH_NS);
    output_close(&p->out);
    loop_remove(p->source);
    timer_disarm(&p->look);
    close(p->master.fd);
    free(p);
}

static const struct chardev_ops pty_ops = {
    .write = pty_write,
    .accept_input = pty_accept_input,
    .connected = pty_connected,
    .destroy = pty_destroy,
    .name = "pty",
};

/* Opens the pair, makes the line raw, closes the far side again: so that the hang-up tells whether somebody is there.
 */
static int pty_open(char *name, size_t size)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0)
        return -1;
    int slave = -1;
    if (grantpt(master) == 0 && unlockpt(master) == 0 && ptsname_r(master, name, size) == 0)
        slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios settings;
    if (slave < 0 || tcgetattr(slave, &settings) != 0) {
        int error = errno;
        if (slave >= 0)
            close(slave);
        close(master);
        errno = error;
        return -1;
    }
    cfmakeraw(&settings);
    tcsetattr(slave, TCSANOW, &settings);
    close(slave);
    return master;
}

struct chardev *chardev_pty_create(const struct chardev_env *env, struct error *err)
{
    char name[64];
    int master = pty_open(name, sizeof name);
    if (master < 0) {
        error_set(err, "a pseudo-terminal cannot be opened: %s", strerror(errno));
        return NULL;
    }
    struct pty *p = calloc(1, sizeof *p);
    check(p != NULL);
    p->dev.ops = &pty_ops;
    p->env = *env;
    p->master.fd = master;
    output_init(&p->out, &p->dev, pty_write_failed, p);
    timer_init(&p->look, loop_timers(env->loop), pty_look, p);
    timer_arm(&p->look, clock_monotonic_ns() + LOOK_NS);
    if (env->announce != NULL) {
        char line[160];
        snprintf(line, sizeof line, "char device redirected to %s (label %s)", name, env->label);
        env->announce(env->opaque, line);
    }
    return &p->dev;
}
