/* The constructors behind chardev_create(). Private to src/host. */
#ifndef RING3_HOST_CHARDEV_KINDS_H
#define RING3_HOST_CHARDEV_KINDS_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "host/chardev_create.h"

struct chardev *chardev_null_create(void);
struct chardev *chardev_stdio_create(const struct chardev_env *env, struct error *err);
struct chardev *chardev_file_create(const char *path, bool append, const struct chardev_env *env, struct error *err);

/* Where a stream socket listens or connects to. */
struct socket_address {
    union {
        struct sockaddr any;
        struct sockaddr_un file;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
    socklen_t length;
    bool is_file;
    char name[sizeof(struct sockaddr_un)]; /* as the user wrote it */
};
/* From a path, and from "HOST:PORT": a numeric address, in brackets if it has colons, localhost, or nothing, which is
 * the same. */
bool socket_address_file(const char *path, struct socket_address *address, struct error *err);
bool socket_address_tcp(const char *text, struct socket_address *address, struct error *err);

struct chardev *chardev_socket_create(const struct socket_address *address, bool server, bool wait,
                                      const struct chardev_env *env, struct error *err);
struct chardev_listener *chardev_socket_listen(const struct socket_address *address, bool wait,
                                               const struct chardev_env *env,
                                               void (*accepted)(void *opaque, struct chardev *dev), void *opaque,
                                               struct error *err);
struct chardev *chardev_pty_create(const struct chardev_env *env, struct error *err);

/* Tells the user, behind the device's label. */
void chardev_warn(const struct chardev_env *env, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
