/* A line of text, typed on a terminal in raw mode: echo, editing, history, completion.
 *
 * Keys: Backspace, Delete, Left, Right, Home, End, Up and Down (history), Ctrl-A to Ctrl-U as shells have them (A B C D E F
 * H K L N P U W), Tab (completes commands of the monitor). Bytes go in through line_key(), what the terminal is to show
 * comes out through `write`, with "\n" where a new line begins. For terminals that understand backspace and spaces. */
#ifndef RING3_MONITOR_LINE_H
#define RING3_MONITOR_LINE_H

#include <stddef.h>

struct line;

struct line_ops {
    void (*write)(void *opaque, const char *text, size_t n);
    void (*line)(void *opaque, const char *line); /* Enter; the callee calls line_prompt() when it wants the next */
    void (*end)(void *opaque);                    /* Ctrl-D on an empty line; may be NULL */
    void *opaque;
};

/* `prompt` is a constant. Never fails: aborts when there is no memory. */
struct line *line_create(const char *prompt, const struct line_ops *ops);
void line_destroy(struct line *line);

/* Shows the prompt and begins a new line. */
void line_prompt(struct line *line);
void line_key(struct line *line, char key);

#endif
