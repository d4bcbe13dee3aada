/* The constructors behind chardev_create(). Private to src/host. */
#ifndef RING3_HOST_CHARDEV_KINDS_H
#define RING3_HOST_CHARDEV_KINDS_H

#include "host/chardev_create.h"

struct chardev *chardev_null_create(void);
struct chardev *chardev_stdio_create(const struct chardev_env *env, struct error *err);
struct chardev *chardev_file_create(const char *path, bool append, const struct chardev_env *env, struct error *err);
struct chardev *chardev_unix_create(const char *path, bool server, bool wait, const struct chardev_env *env,
                                    struct error *err);
struct chardev_listener *chardev_unix_listen(const char *path, bool wait, const struct chardev_env *env,
                                             void (*accepted)(void *opaque, struct chardev *dev), void *opaque,
                                             struct error *err);
struct chardev *chardev_pty_create(const struct chardev_env *env, struct error *err);

/* Tells the user, behind the device's label. */
void chardev_warn(const struct chardev_env *env, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
