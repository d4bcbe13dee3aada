/* From a specification to a backend: "unix:/tmp/console,server=off" and the like. Also the two smallest backends: null,
 * and file. */
#include "host/chardev_create.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/suggest.h"
#include "host/chardev_kinds.h"
#include "host/stream.h"

#define FLUSH_NS NS_PER_S

/* --- null --- */

static size_t null_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    return n;
}

static void null_destroy(struct chardev *dev)
{
    free(dev);
}

static const struct chardev_ops null_ops = {.write = null_write, .destroy = null_destroy, .name = "null"};

struct chardev *chardev_null_create(void)
{
    struct chardev *dev = calloc(1, sizeof *dev);
    check(dev != NULL);
    dev->ops = &null_ops;
    return dev;
}

/* --- file --- */

struct file {
    struct chardev dev;
    struct chardev_env env;
    char *path;
    int fd;
    struct output out;
};

static size_t file_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    return output_write(&container_of(dev, struct file, dev)->out, bytes, n);
}

static void file_failed(void *opaque, int error)
{
    struct file *file = opaque;
    chardev_warn(&file->env, "%s: %s; output is dropped from here on", file->path, strerror(error));
}

static void file_destroy(struct chardev *dev)
{
    struct file *file = container_of(dev, struct file, dev);
    output_flush(&file->out, FLUSH_NS);
    output_close(&file->out);
    close(file->fd);
    free(file->path);
    free(file);
}

static const struct chardev_ops file_ops = {.write = file_write, .destroy = file_destroy, .name = "file"};

struct chardev *chardev_file_create(const char *path, bool append, const struct chardev_env *env, struct error *err)
{
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (append ? O_APPEND : O_TRUNC);
    int fd = open(path, flags, 0666);
    if (fd < 0) {
        error_set(err, "%s: %s", path, errno == ENXIO ? "a pipe or device that nobody reads" : strerror(errno));
        return NULL;
    }
    struct file *file = calloc(1, sizeof *file);
    check(file != NULL);
    file->dev.ops = &file_ops;
    file->env = *env;
    file->path = strdup(path);
    check(file->path != NULL);
    file->fd = fd;
    output_init(&file->out, &file->dev, file_failed, file);
    output_open(&file->out, env->loop, (struct stream_fd){.fd = fd});
    return &file->dev;
}

/* --- specifications --- */

enum kind { KIND_NULL, KIND_STDIO, KIND_FILE, KIND_UNIX, KIND_TCP, KIND_PTY, KIND_COUNT };
static const char *const kind_names[KIND_COUNT] = {"null", "stdio", "file", "unix", "tcp", "pty"};

enum setting { SETTING_APPEND, SETTING_SERVER, SETTING_WAIT, SETTING_COUNT };
static const char *const setting_names[SETTING_COUNT] = {"append", "server", "wait"};

/* Which settings a kind has. */
static const unsigned kind_settings[KIND_COUNT] = {
    [KIND_FILE] = 1u << SETTING_APPEND,
    [KIND_UNIX] = 1u << SETTING_SERVER | 1u << SETTING_WAIT,
    [KIND_TCP] = 1u << SETTING_SERVER | 1u << SETTING_WAIT,
};

void chardev_warn(const struct chardev_env *env, const char *format, ...)
{
    if (env->warn == NULL)
        return;
    char text[512], line[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(line, sizeof line, "%s: %s", env->label, text);
    env->warn(env->opaque, line);
}

/* Cuts the next piece, up to a single comma, off `*rest`, in place; a double comma becomes one. */
static char *cut_piece(char **rest)
{
    char *piece = *rest, *from = piece, *to = piece;
    while (*from != 0) {
        if (*from == ',') {
            if (from[1] != ',')
                break;
            from++;
        }
        *to++ = *from++;
    }
    *rest = *from == ',' ? from + 1 : NULL;
    *to = 0;
    return piece;
}

/* One setting: "server=off", "server" (on), "noserver" or "nowait" (off). */
static bool parse_setting(char *piece, enum kind kind, bool values[SETTING_COUNT], struct error *err)
{
    char *value = strchr(piece, '=');
    if (value != NULL)
        *value++ = 0;
    bool negated = value == NULL && strncmp(piece, "no", 2) == 0;
    const char *name = negated ? piece + 2 : piece;
    const char *offered[SETTING_COUNT];
    size_t n = 0;
    for (unsigned i = 0; i < SETTING_COUNT; i++) {
        if (!(kind_settings[kind] & 1u << i))
            continue;
        offered[n++] = setting_names[i];
        if (strcmp(name, setting_names[i]) != 0)
            continue;
        if (value != NULL && strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
            return error_set(err, "%s=%s: on or off is expected", name, value);
        values[i] = !negated && (value == NULL || strcmp(value, "on") == 0);
        return true;
    }
    char tail[80];
    return error_set(err, "'%s' is not a setting of %s%s", piece, kind_names[kind],
                     suggest_tail(piece, offered, n, tail, sizeof tail));
}

static bool parse_kind(const char *name, enum kind *kind, struct error *err)
{
    for (unsigned i = 0; i < KIND_COUNT; i++) {
        if (strcmp(name, kind_names[i]) == 0) {
            *kind = i;
            return true;
        }
    }
    char tail[80];
    return error_set(err, "'%s' is not one of stdio, null, file:PATH, unix:PATH, tcp:HOST:PORT, pty%s", name,
                     suggest_tail(name, kind_names, KIND_COUNT, tail, sizeof tail));
}

struct specification {
    enum kind kind;
    char *path; /* with a kind that has one */
    bool values[SETTING_COUNT];
};

/* Cuts up `copy`, which `to` then points into. */
static bool parse(char *copy, struct specification *to, struct error *err)
{
    char *colon = strchr(copy, ':'), *comma = strchr(copy, ',');
    bool has_path = colon != NULL && (comma == NULL || colon < comma);
    char *rest = copy, *path = NULL;
    if (has_path) {
        *colon = 0;
        rest = colon + 1;
        path = cut_piece(&rest);
    } else {
        cut_piece(&rest);
    }
    enum kind kind = KIND_NULL;
    if (!parse_kind(copy, &kind, err))
        return false;
    bool wants_path = kind == KIND_FILE || kind == KIND_UNIX || kind == KIND_TCP;
    if (wants_path && (path == NULL || *path == 0))
        return error_set(err, kind == KIND_TCP ? "%s needs an address: %s:HOST:PORT" : "%s needs a path: %s:PATH", copy, copy);
    if (!wants_path && has_path)
        return error_set(err, "%s takes nothing behind a colon", copy);
    *to = (struct specification){.kind = kind, .path = path, .values = {[SETTING_SERVER] = true}};
    while (rest != NULL) {
        if (!parse_setting(cut_piece(&rest), kind, to->values, err))
            return false;
    }
    return true;
}

static bool is_socket(const struct specification *spec)
{
    return spec->kind == KIND_UNIX || spec->kind == KIND_TCP;
}

static bool parse_address(const struct specification *spec, struct socket_address *address, struct error *err)
{
    return spec->kind == KIND_TCP ? socket_address_tcp(spec->path, address, err)
                                  : socket_address_file(spec->path, address, err);
}

static struct chardev *create_parsed(const struct specification *spec, const struct chardev_env *env, struct error *err)
{
    struct socket_address address;
    switch (spec->kind) {
    case KIND_STDIO:
        return chardev_stdio_create(env, err);
    case KIND_FILE:
        return chardev_file_create(spec->path, spec->values[SETTING_APPEND], env, err);
    case KIND_UNIX:
    case KIND_TCP:
        if (!parse_address(spec, &address, err))
            return NULL;
        return chardev_socket_create(&address, spec->values[SETTING_SERVER], spec->values[SETTING_WAIT], env, err);
    case KIND_PTY:
        return chardev_pty_create(env, err);
    default:
        return chardev_null_create();
    }
}

struct chardev *chardev_create(const char *spec, const struct chardev_env *env, struct error *err)
{
    char *copy = strdup(spec);
    check(copy != NULL);
    struct specification parsed;
    struct chardev *dev = parse(copy, &parsed, err) ? create_parsed(&parsed, env, err) : NULL;
    free(copy);
    return dev;
}

bool chardev_create_each(const char *spec, const struct chardev_env *env,
                         void (*accepted)(void *opaque, struct chardev *dev), void *opaque,
                         struct chardev_listener **listener, struct error *err)
{
    char *copy = strdup(spec);
    check(copy != NULL);
    struct specification parsed;
    bool ok = parse(copy, &parsed, err);
    *listener = NULL;
    struct socket_address address;
    if (ok && is_socket(&parsed) && parsed.values[SETTING_SERVER]) {
        ok = parse_address(&parsed, &address, err);
        if (ok)
            *listener = chardev_socket_listen(&address, parsed.values[SETTING_WAIT], env, accepted, opaque, err);
        ok = *listener != NULL;
    } else if (ok) {
        struct chardev *dev = create_parsed(&parsed, env, err);
        ok = dev != NULL;
        if (ok)
            accepted(opaque, dev);
    }
    free(copy);
    return ok;
}

void chardev_destroy(struct chardev *dev)
{
    if (dev != NULL)
        dev->ops->destroy(dev);
}
