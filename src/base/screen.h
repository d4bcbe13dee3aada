/* What a display adapter shows, in two shapes: a picture, and the characters of a text mode.
 *
 * Both are filled in by the adapter (device/vga.h), into memory that belongs to the structure: begun as {0}, grown as needed,
 * freed by the _fini functions. One thread at a time. */
#ifndef RING3_BASE_SCREEN_H
#define RING3_BASE_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCREEN_RGB(r, g, b) ((uint32_t)(r) << 16 | (uint32_t)(g) << 8 | (uint32_t)(b))

/* Rows from the top, pixels from the left, each 0x00RRGGBB. */
struct screen_picture {
    unsigned width, height;
    uint32_t *pixels;
    size_t capacity; /* pixels there is room for */
};

struct screen_cell {
    uint32_t foreground, background; /* 0x00RRGGBB */
    uint16_t unicode;                /* what the code means in code page 437 */
    uint8_t code, attribute;         /* the two bytes in the adapter's memory */
    bool blinks;
};

struct screen_text {
    unsigned columns, rows;
    bool cursor;                       /* is shown, ... */
    unsigned cursor_column, cursor_row; /* ... here, within the screen */
    struct screen_cell *cells;         /* row by row */
    size_t capacity;
};

/* Makes room. False when out of memory: the structure is then empty, 0 by 0. */
bool screen_picture_resize(struct screen_picture *picture, unsigned width, unsigned height);
bool screen_text_resize(struct screen_text *text, unsigned columns, unsigned rows);
void screen_picture_fini(struct screen_picture *picture);
void screen_text_fini(struct screen_text *text);

/* What a byte shows in IBM's code page 437, the set of characters in the PC's ROM: graphics for the control codes, too; 0 and
 * 255 are blank. */
uint16_t screen_cp437(uint8_t code);

#endif
