/* The monitor's pane: the last lines that a session has written, as on a paper terminal. It understands what sessions send: text,
 * new lines, carriage return, backspace. Lines wrap at the pane's width. */
#include <string.h>

#include "cli/display_internal.h"

static void line_next(struct pane *pane)
{
    pane->newest = (pane->newest + 1) % PANE_LINES;
    if (pane->count < PANE_LINES - 1)
        pane->count++;
    memset(pane->lines[pane->newest], 0, sizeof pane->lines[0]);
    pane->column = 0;
}

static void put(struct pane *pane, char c)
{
    if (pane->column == PANE_COLUMNS)
        line_next(pane);
    pane->lines[pane->newest][pane->column++] = c;
}

void pane_write(struct pane *pane, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        switch (bytes[i]) {
        case '\n': line_next(pane); break;
        case '\r': pane->column = 0; break;
        case '\b': pane->column -= pane->column > 0; break;
        case '\t':
            do
                put(pane, ' ');
            while (pane->column % 8 != 0);
            break;
        default:
            if (bytes[i] >= ' ' && bytes[i] < 0x7f)
                put(pane, (char)bytes[i]);
            else if (bytes[i] >= 0x80)
                put(pane, '?');
        }
    }
}

const char *pane_line(const struct pane *pane, unsigned n)
{
    return n <= pane->count ? pane->lines[(pane->newest + PANE_LINES - n) % PANE_LINES] : "";
}
