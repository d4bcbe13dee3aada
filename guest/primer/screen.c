/* The screen: 80 x 25 characters in memory.
 *
 * The adapter shows what stands at B8000h: two bytes for each character, its code and its colours. To print is to store.
 * No instruction here needs any privilege - the page tables say who may touch the page - and that is what makes
 * memory-mapped devices hard for a monitor: any instruction that can store may be the one, so the page is left unmapped,
 * and what faults on it is decoded and carried out. One character is one store of two bytes, and so one trap.
 *
 * To scroll by moving memory would be 2000 loads and stores, all of them to a device. But the adapter's memory holds 204
 * lines, and it can be told at which one to begin: so the window moves instead, and only when the memory ends is the
 * last page written again at the start, from a copy.
 *
 * IBM VGA Technical Reference; the registers 0Ch to 0Fh of the CRT controller. */
#include "kernel.h"

#define SCREEN_GPA 0xb8000ul
#define COLUMNS 80u
#define ROWS 25u
#define ROWS_IN_MEMORY (32768u / 2 / COLUMNS)
#define GREY 0x0700u

#define CRTC_INDEX 0x3d4u
#define CRTC_DATA 0x3d5u
#define CRTC_START_HIGH 0x0cu
#define CRTC_START_LOW 0x0du
#define CRTC_CURSOR_HIGH 0x0eu
#define CRTC_CURSOR_LOW 0x0fu

static volatile uint16_t *const memory = (volatile uint16_t *)SCREEN_GPA;
static uint16_t copy[ROWS][COLUMNS]; /* of row r: copy[r % ROWS] */
static unsigned first;               /* the row in memory that is the top of the screen */
static unsigned row, column;         /* where the next character goes; `row` in memory */

static void crtc_write(uint8_t reg, uint8_t value)
{
    out8(CRTC_INDEX, reg);
    out8(CRTC_DATA, value);
}

static void start_show(void)
{
    crtc_write(CRTC_START_HIGH, (uint8_t)(first * COLUMNS >> 8));
    crtc_write(CRTC_START_LOW, (uint8_t)(first * COLUMNS));
}

void screen_show_cursor(void)
{
    unsigned at = row * COLUMNS + column;
    crtc_write(CRTC_CURSOR_HIGH, (uint8_t)(at >> 8));
    crtc_write(CRTC_CURSOR_LOW, (uint8_t)at);
}

static void row_clear(void)
{
    for (unsigned i = 0; i < COLUMNS; i++)
        memory[row * COLUMNS + i] = copy[row % ROWS][i] = GREY | ' ';
}

void screen_init(void)
{
    for (row = 0; row < ROWS; row++)
        row_clear();
    row = 0;
    start_show();
}

/* The window's last rows go to the start of memory. */
static void window_rewind(void)
{
    static uint16_t last[ROWS][COLUMNS];
    for (unsigned i = 0; i < ROWS - 1; i++)
        memcpy(last[i], copy[(row - (ROWS - 1) + i) % ROWS], sizeof(last[i]));
    memcpy(copy, last, sizeof(copy));
    for (unsigned i = 0; i < (ROWS - 1) * COLUMNS; i++)
        memory[i] = last[i / COLUMNS][i % COLUMNS];
    first = 0;
    row = ROWS - 1;
}

static void line_feed(void)
{
    column = 0;
    row++;
    if (row < first + ROWS) /* written before, when the screen was cleared */
        return;
    if (row == ROWS_IN_MEMORY)
        window_rewind();
    else
        first++;
    row_clear();
    start_show();
}

void screen_put(char c)
{
    switch (c) {
    case '\n':
        line_feed();
        return;
    case '\r':
        column = 0;
        return;
    case '\b':
        column -= column > 0;
        return;
    default:
        break;
    }
    if (column == COLUMNS)
        line_feed();
    uint16_t cell = GREY | (uint8_t)c;
    copy[row % ROWS][column] = cell;
    memory[row * COLUMNS + column] = cell; /* the store that a monitor has to see */
    column++;
}

word screen_write(const char *bytes, word n)
{
    for (word i = 0; i < n; i++)
        screen_put(bytes[i]);
    return n;
}
