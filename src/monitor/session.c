/* Sessions: lines in, answers out.
 *
 * An answer is made as a whole and then leaves as the far end takes it. Until it has left, no further input is taken; so
 * a client that sends without reading holds up nobody but itself, and an answer's size is the bound of what is buffered.
 *
 * A session whose client has gone is destroyed by a timer of the loop: it may be in the middle of its own callback. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/types.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/machine.h"
#include "monitor/internal.h"
#include "monitor/line.h"

#define SESSIONS_MAX 32u
#define INPUT_SIZE 4096u
#define ECHO_MAX (1024u * 1024u) /* what is typed while a terminal is stuck this far behind is lost */

struct session {
    struct monitor *monitor;
    struct session *next;
    struct chardev *dev;
    bool owned, editing, gone;
    bool too_long;          /* the rest of a line that is too long is being skipped */
    size_t in_head, in_length;
    uint8_t in[INPUT_SIZE]; /* taken, not yet looked at */
    size_t length;
    char line[MONITOR_LINE_MAX + 1];
    struct line *editor;    /* with `editing` */
    char *out;              /* what the far end has not taken yet */
    size_t out_size, out_done;
};

static void flush(struct session *s)
{
    if (s->out == NULL)
        return;
    s->out_done += chardev_write(s->dev, (const uint8_t *)s->out + s->out_done, s->out_size - s->out_done);
    if (s->out_done < s->out_size)
        return;
    free(s->out);
    s->out = NULL;
}

/* Takes `text`, which was allocated. */
static void answer(struct session *s, char *text, size_t size)
{
    if (s->out != NULL) { /* echo and prompts come in small pieces */
        char *joined = realloc(s->out, s->out_size + size + 1);
        check(joined != NULL);
        memcpy(joined + s->out_size, text, size);
        s->out = joined;
        s->out_size += size;
        free(text);
    } else {
        s->out = text;
        s->out_size = size;
        s->out_done = 0;
    }
    flush(s);
}

static void execute(struct session *s, const char *line)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    check(out != NULL);
    if (line != NULL)
        monitor_execute(s->monitor, line, out);
    else
        fprintf(out, "%s monitor; 'help' lists the commands\n", s->monitor->config.version);
    if (!s->editing)
        fputs(MONITOR_PROMPT, out);
    check(fclose(out) == 0);
    answer(s, text, size);
    if (s->editing)
        line_prompt(s->editor);
}

static void take_byte(struct session *s, char byte)
{
    if (byte != '\n') {
        if (s->length < MONITOR_LINE_MAX)
            s->line[s->length++] = byte == 0 ? ' ' : byte;
        else
            s->too_long = true;
        return;
    }
    s->line[s->length] = 0;
    s->length = 0;
    if (s->too_long) {
        static const char text[] = "Error: this line is too long\n" MONITOR_PROMPT;
        s->too_long = false;
        char *copy = strdup(text);
        check(copy != NULL);
        answer(s, copy, sizeof text - 1);
        return;
    }
    execute(s, s->line);
}

/* ---- the chardev's frontend ---- */

/* A line may be followed by the next, whose turn comes when the answer has left. A terminal's keys are taken always. */
static void process(struct session *s)
{
    while (s->in_length > 0 && (s->out == NULL || (s->editing && s->out_size - s->out_done < ECHO_MAX))) {
        char byte = (char)s->in[s->in_head++];
        s->in_length--;
        if (s->editing)
            line_key(s->editor, byte);
        else
            take_byte(s, byte);
    }
    if (s->editing)
        s->in_length = 0;
}

static size_t session_can_receive(void *opaque)
{
    const struct session *s = opaque;
    return s->in_length == 0 && (s->out == NULL || s->editing) ? INPUT_SIZE : 0;
}

static void session_receive(void *opaque, const uint8_t *bytes, size_t n)
{
    struct session *s = opaque;
    check(s->in_length == 0 && n <= INPUT_SIZE);
    memcpy(s->in, bytes, n);
    s->in_head = 0;
    s->in_length = n;
    process(s);
}

static void session_writable(void *opaque)
{
    struct session *s = opaque;
    flush(s);
    process(s);
    if (session_can_receive(s) > 0)
        chardev_accept_input(s->dev);
}

static void session_carrier(void *opaque, bool present)
{
    struct session *s = opaque;
    if (present && s->editing) {
        execute(s, NULL);
    } else if (!present && s->owned) {
        s->gone = true;
        timer_arm(&s->monitor->reaper, clock_monotonic_ns());
    }
}

/* ---- the editor's other side ---- */

static void editor_write(void *opaque, const char *text, size_t n)
{
    struct session *s = opaque;
    char *copy = malloc(n + 1);
    check(copy != NULL);
    memcpy(copy, text, n);
    answer(s, copy, n);
}

static void editor_line(void *opaque, const char *line)
{
    execute(opaque, line);
}

/* ---- life ---- */

static void session_destroy(struct session *s)
{
    chardev_disconnect(s->dev);
    if (s->owned)
        chardev_destroy(s->dev);
    line_destroy(s->editor);
    free(s->out);
    free(s);
}

static void reap(void *opaque)
{
    struct monitor *monitor = opaque;
    for (struct session **at = &monitor->sessions; *at != NULL;) {
        struct session *s = *at;
        if (s->gone) {
            *at = s->next;
            session_destroy(s);
        } else {
            at = &s->next;
        }
    }
}

void monitor_attach(struct monitor *monitor, struct chardev *dev, bool editing, bool owned)
{
    struct session *s = calloc(1, sizeof *s);
    check(s != NULL);
    *s = (struct session){.monitor = monitor, .dev = dev, .owned = owned, .editing = editing, .next = monitor->sessions};
    if (editing)
        s->editor = line_create(MONITOR_PROMPT, &(struct line_ops){.write = editor_write, .line = editor_line, .opaque = s});
    monitor->sessions = s;
    if (chardev_connected(dev))
        execute(s, NULL);
    chardev_connect(dev, &(struct chardev_frontend){.can_receive = session_can_receive,
                                                    .receive = session_receive,
                                                    .writable = session_writable,
                                                    .carrier = session_carrier,
                                                    .opaque = s});
}

void monitor_accept(void *opaque, struct chardev *dev)
{
    struct monitor *monitor = opaque;
    unsigned n = 0;
    for (const struct session *s = monitor->sessions; s != NULL; s = s->next)
        n++;
    if (n >= SESSIONS_MAX) {
        static const char text[] = "Error: there are too many clients\n";
        chardev_write(dev, (const uint8_t *)text, sizeof text - 1);
        chardev_destroy(dev);
        return;
    }
    monitor_attach(monitor, dev, chardev_second(dev) != NULL, true);
}

struct monitor *monitor_create(const struct monitor_config *config)
{
    struct monitor *monitor = calloc(1, sizeof *monitor);
    check(monitor != NULL);
    monitor->config = *config;
    timer_init(&monitor->reaper, loop_timers(config->loop), reap, monitor);
    timer_init(&monitor->keys_up, loop_timers(config->loop), keys_release, monitor);
    return monitor;
}

void monitor_destroy(struct monitor *monitor)
{
    if (monitor == NULL)
        return;
    timer_disarm(&monitor->reaper);
    timer_disarm(&monitor->keys_up);
    vm_go(monitor->config.vm);
    for (struct session *s = monitor->sessions, *next; s != NULL; s = next) {
        next = s->next;
        session_destroy(s);
    }
    free(monitor);
}
