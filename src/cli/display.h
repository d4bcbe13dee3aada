/* The machine's screen and keyboard in the terminal that ring3 was started on: `--display text`.
 *
 * Text modes are shown character by character, graphics modes reduced to half blocks. Everything typed goes to the PS/2 keyboard
 * but for Ctrl-A, which begins a command. Threads: all under the device lock, on the loop's thread; no thread of its own.
 */
#ifndef RING3_CLI_DISPLAY_H
#define RING3_CLI_DISPLAY_H

#include "base/error.h"
#include "host/chardev.h"

struct display;
struct loop;
struct pc;

struct display_config {
    struct loop *loop;
    struct pc *pc;
    void (*quit)(void *opaque); /* Ctrl-A x */
    void *opaque;
};

/* Takes the terminal on standard input and output. NULL with a message if there is none, or it can do too little. */
struct display *display_create(const struct display_config *config, struct error *err);
/* Gives the terminal back as it was. NULL is allowed. Before the monitor that has a session on display_monitor(). */
void display_destroy(struct display *display);

/* Shows a line to the user for a while. */
void display_say(struct display *display, const char *line);

/* The pane behind Ctrl-A c: a terminal for a session of the monitor. */
struct chardev *display_monitor(struct display *display);

#endif
