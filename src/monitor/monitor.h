/* The monitor console: a person, or a program, looks into a running machine and steers it, line by line.
 *
 * The commands are those that QEMU's users know (docs/monitor.md). A session belongs to a chardev: a client of a Unix
 * socket, or the other side of the serial port's terminal. A session reads a line, answers it, and prints the prompt
 * MONITOR_PROMPT at the start of a line; so a program knows where an answer ends.
 *
 * Threads: everything under the device lock, on the thread that runs the machine's loop. Commands that look at the
 * processors pause them for that moment. */
#ifndef RING3_MONITOR_MONITOR_H
#define RING3_MONITOR_MONITOR_H

#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "host/chardev_create.h"

struct monitor;
struct vm;

#define MONITOR_PROMPT "(ring3) "
#define MONITOR_LINE_MAX 1000u

struct monitor_config {
    struct vm *vm;
    struct loop *loop;
    struct log *log;     /* whose level `log` changes; may be NULL */
    const char *version; /* constant */
};

struct monitor *monitor_create(const struct monitor_config *config);
/* Before the machine and the chardevs that it does not own. Destroys those that it owns; a machine that `stop` has
 * stopped goes on. NULL is allowed. */
void monitor_destroy(struct monitor *monitor);

/* A session on `dev`, greeted when somebody is there; a terminal in raw mode gets `editing`, which echoes and edits
 * lines. With `owned` the session ends, and the device is destroyed, when
 * its carrier goes. */
void monitor_attach(struct monitor *monitor, struct chardev *dev, bool editing, bool owned);

/* The shape that chardev_create_each() wants: a client came to the struct monitor `opaque`. */
void monitor_accept(void *opaque, struct chardev *dev);

/* Carries out one line. What it says, errors too, goes to `out`. */
void monitor_execute(struct monitor *monitor, const char *line, FILE *out);

/* Of the words that may stand at the end of `line`, the `n`th in the table's order, or NULL: for completion. Returns
 * where in `line` the word begins. */
const char *monitor_candidate(const char *line, unsigned n, size_t *begin);

#endif
