/* The parts of the display in the terminal, as its files share them.
 *
 *   display.c       life, the loop, what keys do
 *   display_keys.c  from a terminal's bytes to keys of a PC
 *   display_draw.c  from the screen to the terminal
 *   display_pane.c  the monitor's pane: a small terminal in the terminal
 */
#ifndef RING3_CLI_DISPLAY_INTERNAL_H
#define RING3_CLI_DISPLAY_INTERNAL_H

#include "base/screen.h"
#include "base/timer.h"
#include "base/types.h"
#include "cli/display.h"

/* ---- keys ---- */

#define KEY_SHIFT 0x01u
#define KEY_ALT 0x02u
#define KEY_CTRL 0x04u

/* A key of the PC with what is held down with it; `key` is a name of device/ps2_keyboard.h. */
struct stroke {
    unsigned key;
    unsigned held; /* KEY_SHIFT ... */
};

/* Takes the first key out of `bytes`: what a terminal sends for it, on an American keyboard. Returns how many bytes it took;
 * 0: more may follow that belong to it. With `all` nothing more comes. stroke->key 0: nothing that a PC has a key for. */
size_t keys_parse(const uint8_t *bytes, size_t n, bool all, struct stroke *stroke);

/* ---- the pane ---- */

#define PANE_LINES 200u
#define PANE_COLUMNS 240u

/* The last lines of what was written, of which the newest grows at `column`. */
struct pane {
    unsigned newest, count, column;
    char lines[PANE_LINES][PANE_COLUMNS + 1];
};

void pane_write(struct pane *pane, const uint8_t *bytes, size_t n);
/* The nth line from the end; "" beyond the beginning. */
const char *pane_line(const struct pane *pane, unsigned n);

/* ---- drawing ---- */

struct drawing;

/* What is to be seen beside the screen. */
struct drawing_extra {
    const struct pane *pane; /* NULL: is not shown */
    const char *notice;      /* for the last line, or several lines over the screen; NULL: none */
};

/* After the terminal is raw: takes it over. NULL with a message. */
struct drawing *drawing_create(struct error *err);
void drawing_destroy(struct drawing *drawing);
/* What puts the terminal's screen right if this process cannot: constant while it lives. */
const char *drawing_goodbye(const struct drawing *drawing);
/* The terminal was somebody else's in between, or has another size. */
void drawing_again(struct drawing *drawing);
void drawing_show(struct drawing *drawing, const struct pc *pc, const struct drawing_extra *extra);
void drawing_beep(void);

#endif
