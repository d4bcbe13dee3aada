/* A stream socket, Unix or TCP, as the far end of a serial line: as a server for one client at a time, or as a client.
 *
 * A server that finds its path taken by a socket that nobody listens on (left by a process that was killed) takes it
 * over. A client that only ends its sending direction still gets output. When a client goes, output waiting for it is
 * dropped, and the next client may come. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "host/chardev_kinds.h"
#include "host/stream.h"

#define FLUSH_NS NS_PER_S
#define CONNECT_MS 5000

struct stream_socket {
    struct chardev dev;
    struct chardev_env env;
    struct socket_address address;
    int listen_fd; /* -1: we are a client */
    dev_t listen_dev;
    ino_t listen_ino; /* what we bound, so that nobody else's socket is unlinked */
    struct loop_source *listen_source;
    struct stream_fd peer; /* .fd -1: none */
    struct loop_source *peer_source;
    bool input_ended;
    struct output out;
};

static void socket_detach(struct stream_socket *u)
{
    if (u->peer.fd < 0)
        return;
    output_close(&u->out);
    loop_remove(u->peer_source);
    u->peer_source = NULL;
    close(u->peer.fd);
    u->peer.fd = -1;
}

static void socket_gone(struct stream_socket *u)
{
    socket_detach(u);
    if (u->listen_source != NULL)
        loop_modify(u->listen_source, LOOP_READ);
    chardev_notify_carrier(&u->dev, false);
    if (u->out.owed) {
        u->out.owed = false;
        chardev_notify_writable(&u->dev);
    }
}

static void socket_receive(struct stream_socket *u, bool hangup)
{
    if (u->input_ended) {
        if (hangup)
            socket_gone(u);
        return;
    }
    ssize_t got = stream_receive(&u->dev, &u->peer);
    if (got < 0 && errno == EBUSY) {
        loop_modify(u->peer_source, 0); /* until the device accepts input again */
    } else if (got == 0 && !hangup) {
        u->input_ended = true;
        loop_modify(u->peer_source, LOOP_HANGUP);
    } else if (got == 0 || (got < 0 && errno != EAGAIN)) {
        socket_gone(u);
    }
}

static void socket_peer_ready(void *opaque, unsigned events)
{
    socket_receive(opaque, events & LOOP_HANGUP);
}

static void socket_write_failed(void *opaque, int error)
{
    socket_gone(opaque);
}

static void socket_attach(struct stream_socket *u, int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* means nothing to a Unix socket */
    u->peer = (struct stream_fd){.fd = fd, .socket = true};
    u->input_ended = false;
    u->peer_source = loop_add(u->env.loop, fd, LOOP_READ, socket_peer_ready, u);
    output_open(&u->out, u->env.loop, u->peer);
    if (u->listen_source != NULL)
        loop_modify(u->listen_source, 0);
}

static void socket_listen_ready(void *opaque, unsigned events)
{
    struct stream_socket *u = opaque;
    int fd = accept4(u->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return; /* the client went away again, or no descriptor is free now: level-triggered, so tried again */
    socket_attach(u, fd);
    chardev_notify_carrier(&u->dev, true);
}

static size_t socket_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    return output_write(&container_of(dev, struct stream_socket, dev)->out, bytes, n);
}

static void socket_accept_input(struct chardev *dev)
{
    struct stream_socket *u = container_of(dev, struct stream_socket, dev);
    if (u->peer_source != NULL && !u->input_ended)
        loop_modify(u->peer_source, LOOP_READ);
}

static bool socket_connected(struct chardev *dev)
{
    return container_of(dev, struct stream_socket, dev)->peer.fd >= 0;
}

/* Removes the socket's file, if it still is the one that was made. */
static void socket_close(int fd, const struct socket_address *address, dev_t dev, ino_t ino)
{
    struct stat st;
    close(fd);
    if (address->is_file && stat(address->name, &st) == 0 && st.st_dev == dev && st.st_ino == ino)
        unlink(address->name);
}

static void socket_destroy(struct chardev *dev)
{
    struct stream_socket *u = container_of(dev, struct stream_socket, dev);
    u->dev.frontend = (struct chardev_frontend){0};
    output_flush(&u->out, FLUSH_NS);
    socket_detach(u);
    loop_remove(u->listen_source);
    if (u->listen_fd >= 0)
        socket_close(u->listen_fd, &u->address, u->listen_dev, u->listen_ino);
    free(u);
}

static const struct chardev_ops socket_ops = {
    .write = socket_write,
    .accept_input = socket_accept_input,
    .connected = socket_connected,
    .destroy = socket_destroy,
    .name = "unix",
};

/* The connection is being made: waits for that. */
static bool connect_wait(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = ETIMEDOUT;
    socklen_t length = sizeof error;
    if (poll(&p, 1, CONNECT_MS) > 0)
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    errno = error;
    return error == 0;
}

/* Connects; -1 with errno. A Unix socket's backlog may be full: then ECONNREFUSED is told from EAGAIN. */
static int socket_connect(const struct socket_address *address)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, &address->any, address->length) == 0 || (errno == EINPROGRESS && connect_wait(fd)))
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Binds, over a stale socket if need be. */
static bool socket_bind(int fd, const struct socket_address *address, struct error *err)
{
    const char *name = address->name;
    int on = 1;
    if (!address->is_file)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, &address->any, address->length) == 0)
        return true;
    if (errno == EADDRINUSE && !address->is_file)
        return error_set(err, "%s: another process listens there already", name);
    if (errno != EADDRINUSE)
        return error_set(err, "%s: the socket cannot be made: %s", name, strerror(errno));
    struct stat st;
    if (lstat(name, &st) == 0 && !S_ISSOCK(st.st_mode))
        return error_set(err, "%s: there is a file of that name already, and it is not a socket", name);
    int other = socket_connect(address);
    if (other >= 0 || errno != ECONNREFUSED) {
        if (other >= 0)
            close(other);
        return error_set(err, "%s: another process listens there already", name);
    }
    if (unlink(name) != 0 || bind(fd, &address->any, address->length) != 0)
        return error_set(err, "%s: the socket cannot be made: %s", name, strerror(errno));
    return true;
}

/* A listening socket; `st` then says which file was made, if one was. -1 with a message. */
static int socket_open(const struct socket_address *address, int backlog, struct stat *st, struct error *err)
{
    const char *name = address->name;
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set(err, "%s: %s", name, strerror(errno));
        return -1;
    }
    *st = (struct stat){0};
    if (!socket_bind(fd, address, err)) {
        close(fd);
        return -1;
    }
    if (listen(fd, backlog) != 0 || (address->is_file && stat(name, st) != 0)) {
        error_set(err, "%s: %s", name, strerror(errno));
        close(fd);
        if (address->is_file)
            unlink(name);
        return -1;
    }
    return fd;
}

/* Until the first client knocks. */
static bool socket_wait(int fd, const char *path, const struct chardev_env *env, struct error *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (env->announce != NULL) {
        char line[200];
        snprintf(line, sizeof line, "%s: waiting for a client on %s", env->label, path);
        env->announce(env->opaque, line);
    }
    return poll(&p, 1, -1) >= 0 || error_set(err, "%s: interrupted while waiting for a client", path);
}

static bool socket_serve(struct stream_socket *u, bool wait, struct error *err)
{
    struct stat st;
    u->listen_fd = socket_open(&u->address, 1, &st, err);
    if (u->listen_fd < 0)
        return false;
    u->listen_dev = st.st_dev;
    u->listen_ino = st.st_ino;
    u->listen_source = loop_add(u->env.loop, u->listen_fd, LOOP_READ, socket_listen_ready, u);
    if (!wait)
        return true;
    if (!socket_wait(u->listen_fd, u->address.name, &u->env, err))
        return false;
    socket_listen_ready(u, LOOP_READ);
    return true;
}

static struct stream_socket *socket_alloc(const struct chardev_env *env)
{
    struct stream_socket *u = calloc(1, sizeof *u);
    check(u != NULL);
    u->dev.ops = &socket_ops;
    u->env = *env;
    u->listen_fd = -1;
    u->peer.fd = -1;
    output_init(&u->out, &u->dev, socket_write_failed, u);
    return u;
}

struct chardev *chardev_socket_create(const struct socket_address *address, bool server, bool wait,
                                      const struct chardev_env *env, struct error *err)
{
    struct stream_socket *u = socket_alloc(env);
    u->address = *address;
    if (server) {
        if (!socket_serve(u, wait, err)) {
            socket_destroy(&u->dev);
            return NULL;
        }
        return &u->dev;
    }
    int fd = socket_connect(address);
    if (fd < 0) {
        error_set(err, "%s: cannot connect: %s", address->name, strerror(errno));
        socket_destroy(&u->dev);
        return NULL;
    }
    socket_attach(u, fd);
    return &u->dev;
}

/* ---- a server for many clients ---- */

struct chardev_listener {
    struct chardev_env env;
    struct socket_address address;
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
        return; /* see socket_listen_ready() */
    struct stream_socket *u = socket_alloc(&listener->env);
    socket_attach(u, fd);
    listener->accepted(listener->opaque, &u->dev);
}

struct chardev_listener *chardev_socket_listen(const struct socket_address *address, bool wait,
                                               const struct chardev_env *env,
                                               void (*accepted)(void *opaque, struct chardev *dev), void *opaque,
                                               struct error *err)
{
    struct stat st;
    int fd = socket_open(address, SOMAXCONN, &st, err);
    if (fd < 0)
        return NULL;
    struct chardev_listener *listener = malloc(sizeof *listener);
    check(listener != NULL);
    *listener = (struct chardev_listener){.env = *env, .address = *address, .fd = fd, .dev = st.st_dev, .ino = st.st_ino,
                                          .accepted = accepted, .opaque = opaque};
    if (wait && !socket_wait(fd, address->name, env, err)) {
        socket_close(fd, address, st.st_dev, st.st_ino);
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
    socket_close(listener->fd, &listener->address, listener->dev, listener->ino);
    free(listener);
}
