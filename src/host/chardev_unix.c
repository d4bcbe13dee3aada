/* A Unix stream socket as the far end of a serial line: as a server for one client at a time, or as a client.
 *
 * A server that finds its path taken by a socket that nobody listens on (left by a process that was killed) takes it
 * over. A client that only ends its sending direction still gets output. When a client goes, output waiting for it is
 * dropped, and the next client may come. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "host/chardev_kinds.h"
#include "host/stream.h"

#define FLUSH_NS NS_PER_S

struct unix_socket {
    struct chardev dev;
    struct chardev_env env;
    struct sockaddr_un address;
    int listen_fd; /* -1: we are a client */
    dev_t listen_dev;
    ino_t listen_ino; /* what we bound, so that nobody else's socket is unlinked */
    struct loop_source *listen_source;
    struct stream_fd peer; /* .fd -1: none */
    struct loop_source *peer_source;
    bool input_ended;
    struct output out;
};

static void unix_detach(struct unix_socket *u)
{
    if (u->peer.fd < 0)
        return;
    output_close(&u->out);
    loop_remove(u->peer_source);
    u->peer_source = NULL;
    close(u->peer.fd);
    u->peer.fd = -1;
}

static void unix_gone(struct unix_socket *u)
{
    unix_detach(u);
    if (u->listen_source != NULL)
        loop_modify(u->listen_source, LOOP_READ);
    chardev_notify_carrier(&u->dev, false);
    if (u->out.owed) {
        u->out.owed = false;
        chardev_notify_writable(&u->dev);
    }
}

static void unix_receive(struct unix_socket *u, bool hangup)
{
    if (u->input_ended) {
        if (hangup)
            unix_gone(u);
        return;
    }
    ssize_t got = stream_receive(&u->dev, &u->peer);
    if (got < 0 && errno == EBUSY) {
        loop_modify(u->peer_source, 0); /* until the device accepts input again */
    } else if (got == 0 && !hangup) {
        u->input_ended = true;
        loop_modify(u->peer_source, LOOP_HANGUP);
    } else if (got == 0 || (got < 0 && errno != EAGAIN)) {
        unix_gone(u);
    }
}

static void unix_peer_ready(void *opaque, unsigned events)
{
    unix_receive(opaque, events & LOOP_HANGUP);
}

static void unix_write_failed(void *opaque, int error)
{
    unix_gone(opaque);
}

static void unix_attach(struct unix_socket *u, int fd)
{
    u->peer = (struct stream_fd){.fd = fd, .socket = true};
    u->input_ended = false;
    u->peer_source = loop_add(u->env.loop, fd, LOOP_READ, unix_peer_ready, u);
    output_open(&u->out, u->env.loop, u->peer);
    if (u->listen_source != NULL)
        loop_modify(u->listen_source, 0);
}

static void unix_listen_ready(void *opaque, unsigned events)
{
    struct unix_socket *u = opaque;
    int fd = accept4(u->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return; /* the client went away again, or no descriptor is free now: level-triggered, so tried again */
    unix_attach(u, fd);
    chardev_notify_carrier(&u->dev, true);
}

static size_t unix_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    return output_write(&container_of(dev, struct unix_socket, dev)->out, bytes, n);
}

static void unix_accept_input(struct chardev *dev)
{
    struct unix_socket *u = container_of(dev, struct unix_socket, dev);
    if (u->peer_source != NULL && !u->input_ended)
        loop_modify(u->peer_source, LOOP_READ);
}

static bool unix_connected(struct chardev *dev)
{
    return container_of(dev, struct unix_socket, dev)->peer.fd >= 0;
}

/* Removes the socket's file, if it still is the one that was made. */
static void unix_close(int fd, const char *path, dev_t dev, ino_t ino)
{
    struct stat st;
    close(fd);
    if (stat(path, &st) == 0 && st.st_dev == dev && st.st_ino == ino)
        unlink(path);
}

static void unix_destroy(struct chardev *dev)
{
    struct unix_socket *u = container_of(dev, struct unix_socket, dev);
    u->dev.frontend = (struct chardev_frontend){0};
    output_flush(&u->out, FLUSH_NS);
    unix_detach(u);
    loop_remove(u->listen_source);
    if (u->listen_fd >= 0)
        unix_close(u->listen_fd, u->address.sun_path, u->listen_dev, u->listen_ino);
    free(u);
}

static const struct chardev_ops unix_ops = {
    .write = unix_write,
    .accept_input = unix_accept_input,
    .connected = unix_connected,
    .destroy = unix_destroy,
    .name = "unix",
};

/* Connects; -1 with errno. A socket's backlog may be full: then ECONNREFUSED is told from EAGAIN. */
static int unix_connect(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Binds, over a stale socket if need be. */
static bool unix_bind(int fd, const struct sockaddr_un *address, struct error *err)
{
    const char *path = address->sun_path;
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) == 0)
        return true;
    if (errno != EADDRINUSE)
        return error_set(err, "%s: the socket cannot be made: %s", path, strerror(errno));
    struct stat st;
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return error_set(err, "%s: there is a file of that name already, and it is not a socket", path);
    int other = unix_connect(address);
    if (other >= 0 || errno != ECONNREFUSED) {
        if (other >= 0)
            close(other);
        return error_set(err, "%s: another process listens there already", path);
    }
    if (unlink(path) != 0 || bind(fd, (const struct sockaddr *)address, sizeof *address) != 0)
        return error_set(err, "%s: the socket cannot be made: %s", path, strerror(errno));
    return true;
}

/* A listening socket; `st` then says which file was made. -1 with a message. */
static int unix_open(const struct sockaddr_un *address, int backlog, struct stat *st, struct error *err)
{
    const char *path = address->sun_path;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set(err, "%s: %s", path, strerror(errno));
        return -1;
    }
    if (!unix_bind(fd, address, err)) {
        close(fd);
        return -1;
    }
    if (listen(fd, backlog) != 0 || stat(path, st) != 0) {
        error_set(err, "%s: %s", path, strerror(errno));
        close(fd);
        unlink(path);
        return -1;
    }
    return fd;
}

/* Until the first client knocks. */
static bool unix_wait(int fd, const char *path, const struct chardev_env *env, struct error *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (env->announce != NULL) {
        char line[200];
        snprintf(line, sizeof line, "%s: waiting for a client on %s", env->label, path);
        env->announce(env->opaque, line);
    }
    return poll(&p, 1, -1) >= 0 || error_set(err, "%s: interrupted while waiting for a client", path);
}

static bool unix_serve(struct unix_socket *u, bool wait, struct error *err)
{
    struct stat st;
    u->listen_fd = unix_open(&u->address, 1, &st, err);
    if (u->listen_fd < 0)
        return false;
    u->listen_dev = st.st_dev;
    u->listen_ino = st.st_ino;
    u->listen_source = loop_add(u->env.loop, u->listen_fd, LOOP_READ, unix_listen_ready, u);
    if (!wait)
        return true;
    if (!unix_wait(u->listen_fd, u->address.sun_path, &u->env, err))
        return false;
    unix_listen_ready(u, LOOP_READ);
    return true;
}

static bool unix_address(const char *path, struct sockaddr_un *address, struct error *err)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path)
        return error_set(err, "%s: a socket's path has at most %zu characters", path, sizeof address->sun_path - 1);
    strcpy(address->sun_path, path);
    return true;
}

static struct unix_socket *unix_alloc(const struct chardev_env *env)
{
    struct unix_socket *u = calloc(1, sizeof *u);
    check(u != NULL);
    u->dev.ops = &unix_ops;
    u->env = *env;
    u->listen_fd = -1;
    u->peer.fd = -1;
    output_init(&u->out, &u->dev, unix_write_failed, u);
    return u;
}

struct chardev *chardev_unix_create(const char *path, bool server, bool wait, const struct chardev_env *env,
                                    struct error *err)
{
    struct sockaddr_un address;
    if (!unix_address(path, &address, err))
        return NULL;
    struct unix_socket *u = unix_alloc(env);
    u->address = address;
    if (server) {
        if (!unix_serve(u, wait, err)) {
            unix_destroy(&u->dev);
            return NULL;
        }
        return &u->dev;
    }
    int fd = unix_connect(&address);
    if (fd < 0) {
        error_set(err, "%s: cannot connect: %s", path, strerror(errno));
        unix_destroy(&u->dev);
        return NULL;
    }
    unix_attach(u, fd);
    return &u->dev;
}

/* ---- a server for many clients ---- */

struct chardev_listener {
    struct chardev_env env;
    struct sockaddr_un address;
    int fd;
    dev_t dev;
    ino_t ino;
    struct loop_source *source;
    void (*accepted)(void *opaque, struct chardev *dev);
    void *opaque;
};

static void listener_ready(void *opaque, unsigned events)
{
    struct chardev_listener *listener = opaque;
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return; /* see unix_listen_ready() */
    struct unix_socket *u = unix_alloc(&listener->env);
    unix_attach(u, fd);
    listener->accepted(listener->opaque, &u->dev);
}

struct chardev_listener *chardev_unix_listen(const char *path, bool wait, const struct chardev_env *env,
                                             void (*accepted)(void *opaque, struct chardev *dev), void *opaque,
                                             struct error *err)
{
    struct sockaddr_un address;
    struct stat st;
    if (!unix_address(path, &address, err))
        return NULL;
    int fd = unix_open(&address, SOMAXCONN, &st, err);
    if (fd < 0)
        return NULL;
    struct chardev_listener *listener = malloc(sizeof *listener);
    check(listener != NULL);
    *listener = (struct chardev_listener){.env = *env, .address = address, .fd = fd, .dev = st.st_dev, .ino = st.st_ino,
                                          .accepted = accepted, .opaque = opaque};
    if (wait && !unix_wait(fd, path, env, err)) {
        unix_close(fd, path, st.st_dev, st.st_ino);
        free(listener);
        return NULL;
    }
    listener->source = loop_add(env->loop, fd, LOOP_READ, listener_ready, listener);
    if (wait)
        listener_ready(listener, LOOP_READ);
    return listener;
}

void chardev_listener_destroy(struct chardev_listener *listener)
{
    if (listener == NULL)
        return;
    loop_remove(listener->source);
    unix_close(listener->fd, listener->address.sun_path, listener->dev, listener->ino);
    free(listener);
}
