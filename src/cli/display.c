/* `--display text`: see display.h, and display_internal.h for the files.
 *
 * Model. Thirty times a second (less often where that takes long) the machine's screen is drawn; ncurses sends what differs. Bytes from the terminal are collected and
 * taken apart into strokes (display_keys.c). A lone escape is the key Esc when nothing has followed it for a moment. Strokes go to the
 * keyboard as single events, one every two milliseconds, and only when the guest has read the ones before; so a pasted text arrives
 * whole.
 *
 * Ctrl-A begins a command, as on the serial port's terminal. While the monitor's pane is shown it has the keys.
 *
 * The terminal's modes are kept by host/tty.h, which puts them back on every way out; what ncurses changes in them and on the screen,
 * it is told (tty_adopt()). In the background nothing is drawn. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/display_internal.h"
#include "host/clock.h"
#include "host/loop.h"
#include "host/tty.h"
#include "machine/pc.h"

#define FRAME_NS (NS_PER_S / 30)
#define ESCAPE_NS (NS_PER_S / 20) /* what follows an escape within it belongs to it */
#define EVENT_NS (2 * NS_PER_S / 1000)
#define WELCOME_NS (4 * NS_PER_S)
#define SAID_NS (20 * NS_PER_S)
#define PATIENCE_NS NS_PER_S /* for a guest that does not read its keyboard; then it loses keys, as it would on a desk */
#define EVENTS_MAX 8192u
#define INPUT_MAX 512u
#define COMMAND_KEY 0x01 /* Ctrl-A */

struct event {
    uint16_t key;
    bool down;
};

struct display {
    struct display_config config;
    struct tty *tty;
    struct drawing *drawing;
    struct loop_source *input_source;
    struct timer frame, escape, typing;
    struct chardev monitor;
    bool pane_shown, pane_opened, command; /* command: the last key was Ctrl-A */
    const char *notice;
    char said[160];           /* by display_say() */
    uint64_t typed_ns;        /* when the last event left */
    uint64_t notice_until_ns; /* TIMER_NEVER: until a key */
    size_t input_length;
    uint8_t input[INPUT_MAX];
    unsigned event_head, event_count;
    struct event events[EVENTS_MAX];
    struct pane pane;
};

static const char help[] = "ring3 keys:\n"
                           "Ctrl-A h       this help\n"
                           "Ctrl-A x       quit\n"
                           "Ctrl-A c       turn to the monitor, and back\n"
                           "Ctrl-A d       press Ctrl-Alt-Delete\n"
                           "Ctrl-A l       draw the screen anew\n"
                           "Ctrl-A Ctrl-A  press Ctrl-A (so does Ctrl-A a)";

/* ---- drawing ---- */

static void show(struct display *d)
{
    const struct drawing_extra extra = {.pane = d->pane_shown ? &d->pane : NULL, .notice = d->notice};
    drawing_show(d->drawing, d->config.pc, &extra);
}

static void on_frame(void *opaque)
{
    struct display *d = opaque;
    uint64_t now_ns = clock_monotonic_ns();
    if (d->notice != NULL && now_ns >= d->notice_until_ns)
        d->notice = NULL;
    if (tty_claim(d->tty))
        show(d);
    /* A large picture takes its time, in which the guest's devices wait: a tenth of all time at most. */
    uint64_t taken_ns = clock_monotonic_ns() - now_ns;
    timer_arm(&d->frame, now_ns + (taken_ns * 10 > FRAME_NS ? taken_ns * 10 : FRAME_NS));
}

/* In the foreground (again): the terminal may have been anybody's. */
static void on_claimed(void *opaque)
{
    struct display *d = opaque;
    loop_modify(d->input_source, LOOP_READ);
    drawing_again(d->drawing);
    tty_adopt(d->tty, drawing_goodbye(d->drawing));
}

/* ---- the keyboard ---- */

static void event_add(struct display *d, unsigned key, bool down)
{
    d->events[(d->event_head + d->event_count++) % EVENTS_MAX] = (struct event){(uint16_t)key, down};
    if (!timer_armed(&d->typing))
        timer_arm(&d->typing, clock_monotonic_ns());
}

static void on_typing(void *opaque)
{
    struct display *d = opaque;
    uint64_t now_ns = clock_monotonic_ns();
    if (d->event_count == 0)
        return;
    if (pc_key_is_behind(d->config.pc) && now_ns < d->typed_ns + PATIENCE_NS) {
        timer_arm(&d->typing, now_ns + EVENT_NS);
        return;
    }
    d->typed_ns = now_ns;
    struct event event = d->events[d->event_head];
    d->event_head = (d->event_head + 1) % EVENTS_MAX;
    d->event_count--;
    pc_key(d->config.pc, event.key, event.down);
    if (d->event_count > 0)
        timer_arm(&d->typing, now_ns + EVENT_NS);
}

static void stroke_type(struct display *d, const struct stroke *stroke)
{
    static const struct {
        unsigned bit, key;
    } held[] = {{KEY_CTRL, 0x1d}, {KEY_ALT, 0x38}, {KEY_SHIFT, 0x2a}};
    if (stroke->key == 0)
        return;
    if (d->event_count + 2 * (ARRAY_LEN(held) + 1) > EVENTS_MAX) {
        drawing_beep();
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(held); i++)
        if (stroke->held & held[i].bit)
            event_add(d, held[i].key, true);
    event_add(d, stroke->key, true);
    event_add(d, stroke->key, false);
    for (unsigned i = ARRAY_LEN(held); i-- > 0;)
        if (stroke->held & held[i].bit)
            event_add(d, held[i].key, false);
}

/* ---- commands ---- */

static void pane_turn(struct display *d)
{
    d->pane_shown = !d->pane_shown;
    if (!d->pane_opened || !d->pane_shown)
        chardev_notify_carrier(&d->monitor, d->pane_shown);
    d->pane_opened = d->pane_shown;
}

/* A byte behind Ctrl-A. */
static void command(struct display *d, uint8_t byte)
{
    switch (byte) {
    case 'x': d->config.quit(d->config.opaque); break;
    case 'c': pane_turn(d); break;
    case 'd': stroke_type(d, &(struct stroke){0xe053, KEY_CTRL | KEY_ALT}); break;
    case 'l': drawing_again(d->drawing); break;
    case COMMAND_KEY:
    case 'a':
        if (d->pane_shown)
            chardev_receive(&d->monitor, (const uint8_t[]){COMMAND_KEY}, 1);
        else
            stroke_type(d, &(struct stroke){0x1e, KEY_CTRL});
        break;
    case 'h':
    case '?':
        d->notice = help;
        d->notice_until_ns = TIMER_NEVER;
        break;
    default: drawing_beep(); break;
    }
}

/* ---- input ---- */

static void input_drop(struct display *d, size_t n)
{
    d->input_length -= n;
    memmove(d->input, d->input + n, d->input_length);
}

/* Takes the collected bytes apart. `all`: nothing follows what is there. */
static void input_take(struct display *d, bool all)
{
    while (d->input_length > 0) {
        uint8_t first = d->input[0];
        if (d->command || first == COMMAND_KEY) {
            bool begins = !d->command;
            d->command = begins;
            input_drop(d, 1);
            if (!begins)
                command(d, first);
        } else if (d->pane_shown) {
            if (chardev_can_receive(&d->monitor) > 0)
                chardev_receive(&d->monitor, &first, 1);
            input_drop(d, 1);
        } else {
            struct stroke stroke;
            size_t taken = keys_parse(d->input, d->input_length, all, &stroke);
            if (taken == 0) {
                timer_arm(&d->escape, clock_monotonic_ns() + ESCAPE_NS);
                return;
            }
            input_drop(d, taken);
            stroke_type(d, &stroke);
        }
    }
}

static void on_escape(void *opaque)
{
    input_take(opaque, true);
}

static void on_input(void *opaque, unsigned events)
{
    struct display *d = opaque;
    if (!tty_claim(d->tty)) {
        loop_modify(d->input_source, 0);
        return;
    }
    ssize_t n = read(STDIN_FILENO, d->input + d->input_length, INPUT_MAX - d->input_length);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) { /* the terminal is gone; SIGHUP says the rest */
        loop_modify(d->input_source, 0);
        return;
    }
    if (d->notice_until_ns == TIMER_NEVER)
        d->notice = NULL;
    d->input_length += (size_t)n;
    timer_disarm(&d->escape);
    input_take(d, d->input_length == INPUT_MAX);
}

/* ---- the monitor's side ---- */

static size_t monitor_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct display *d = (struct display *)((char *)dev - offsetof(struct display, monitor));
    pane_write(&d->pane, bytes, n);
    return n;
}

static bool monitor_connected(struct chardev *dev)
{
    const struct display *d = (const struct display *)((char *)dev - offsetof(struct display, monitor));
    return d->pane_shown;
}

struct chardev *display_monitor(struct display *display)
{
    return &display->monitor;
}

void display_say(struct display *d, const char *line)
{
    snprintf(d->said, sizeof d->said, "%s", line);
    d->notice = d->said;
    d->notice_until_ns = clock_monotonic_ns() + SAID_NS;
    pane_write(&d->pane, (const uint8_t *)line, strlen(line));
    pane_write(&d->pane, (const uint8_t *)"\n", 1);
}

/* ---- life ---- */

struct display *display_create(const struct display_config *config, struct error *err)
{
    static const struct chardev_ops monitor_ops = {
        .write = monitor_write, .connected = monitor_connected, .name = "display"};
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        error_set(err, "standard input and output are not a terminal");
        return NULL;
    }
    struct display *d = calloc(1, sizeof *d);
    if (d == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    d->config = *config;
    d->monitor.ops = &monitor_ops;
    timer_init(&d->frame, loop_timers(config->loop), on_frame, d);
    timer_init(&d->escape, loop_timers(config->loop), on_escape, d);
    timer_init(&d->typing, loop_timers(config->loop), on_typing, d);
    d->tty = tty_create(STDIN_FILENO, config->loop, on_claimed, d, err);
    d->drawing = d->tty != NULL ? drawing_create(err) : NULL;
    if (d->drawing == NULL) {
        display_destroy(d);
        return NULL;
    }
    tty_adopt(d->tty, drawing_goodbye(d->drawing));
    d->input_source = loop_add(config->loop, STDIN_FILENO, LOOP_READ, on_input, d);
    d->notice = "Ctrl-A h lists the keys of ring3; all others are the guest's";
    d->notice_until_ns = clock_monotonic_ns() + WELCOME_NS;
    timer_arm(&d->frame, clock_monotonic_ns());
    return d;
}

void display_destroy(struct display *d)
{
    if (d == NULL)
        return;
    timer_disarm(&d->frame);
    timer_disarm(&d->escape);
    timer_disarm(&d->typing);
    loop_remove(d->input_source);
    drawing_destroy(d->drawing);
    if (d->tty != NULL)
        tty_adopt(d->tty, NULL);
    tty_destroy(d->tty);
    free(d);
}
