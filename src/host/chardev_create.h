/* The backends that `--serial` and `--debugcon` can name.
 *
 *   null                      output is dropped, there is no input
 *   stdio                     standard input and output; a terminal becomes raw, with QEMU's Ctrl-A keys
 *   file:PATH[,append=on]     output to a file (truncated unless append=on), no input
 *   unix:PATH[,server=off][,wait=on]   a Unix socket: we listen (or, with server=off, connect); wait=on waits for the
 *                             first client before the machine starts; one client at a time
 *   tcp:HOST:PORT[,server=off][,wait=on]   the same over TCP; no HOST is this host alone
 *   pty                       a new pseudo-terminal, whose name is announced
 *
 * In PATH a comma is written twice, as in QEMU.
 *
 * Common behaviour. Output is buffered up to 64 KiB; more is refused until there is room (chardev.h). While there is no
 * far end (no client, nobody opened the pty) output is dropped. When the host refuses output for good (closed pipe,
 * full disk) that is reported once through `warn`, and output is dropped from then on. The end of input is no event.
 *
 * The process must ignore SIGPIPE. */
#ifndef RING3_HOST_CHARDEV_CREATE_H
#define RING3_HOST_CHARDEV_CREATE_H

#include <stdio.h>

#include "base/error.h"
#include "host/chardev.h"
#include "host/loop.h"

/* What a backend needs from whoever creates it. The callbacks run in the loop, under the lock; any may be NULL. */
struct chardev_env {
    struct loop *loop;
    const char *label;          /* "serial0": for messages; outlives the backend */
    bool output_only;           /* the device has no input: stdio then leaves standard input and the terminal alone */
    void (*quit)(void *opaque); /* Ctrl-A x was typed */
    void (*announce)(void *opaque, const char *line); /* something the user must know to use the backend */
    void (*warn)(void *opaque, const char *line);
    void *opaque;
};

/* From a specification as above. NULL with a message for a bad one, or when the host refuses. */
struct chardev *chardev_create(const char *spec, const struct chardev_env *env, struct error *err);

/* A backend for each of those who come: with unix:PATH or tcp:HOST:PORT as a server any number of clients at a time, each handed over to
 * `accepted`, which owns it from then on; `*listener` is then to be destroyed. Other specifications make one
 * backend, which is handed over before this returns, and `*listener` is NULL. False with a message. */
struct chardev_listener;
bool chardev_create_each(const char *spec, const struct chardev_env *env,
                         void (*accepted)(void *opaque, struct chardev *dev), void *opaque,
                         struct chardev_listener **listener, struct error *err);
void chardev_listener_destroy(struct chardev_listener *listener); /* NULL is allowed */

/* The other device on a terminal that `dev` has: Ctrl-A c turns the keyboard to it and back, which its carrier tells.
 * It is a part of `dev`. NULL: `dev` is not on a terminal, or NULL. */
struct chardev *chardev_second(struct chardev *dev);

/* Gives pending output one second to leave, puts everything on the host back, frees. After the device is gone. NULL
 * is allowed. */
void chardev_destroy(struct chardev *dev);

#endif
