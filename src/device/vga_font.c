/* The characters that text mode 3 begins with when there is no video BIOS to bring its own. See vga_internal.h.
 *
 * Letters, digits and signs are drawn on a grid of 5 by 9: seven rows above the base line, two below. On the screen they are 10 and
 * 2 lines high: between some rows stands what two neighbours have in common, so that strokes keep their thickness. Letters with
 * accents are composed. Lines and blocks are made from what they are.
 *
 * Drawn as an empty frame: Greek letters, most mathematical and currency signs, faces, cards and notes. */
#include "device/vga_internal.h"

#include <string.h>

#define ROWS 16u
#define GRID_ROWS 9u
#define TOP 2u /* of capital letters */

/* From 20h to 7Eh: the grid's rows, two digits each; five bits, the highest is left. */
static const char *const ascii[95] = {
    "",               "04040404040004", "0a0a0a",         "0a0a1f0a1f0a0a", "040f140e051e04", "18190204081303",
    "0c12140815120d", "040408",         "02040808080402", "08040202020408", "0004150e150400", "0004041f040400",
    "00000000000c0408", "0000001f",     "00000000000c0c", "01010204081010", "0e11131519110e", "040c040404040e",
    "0e11010204081f", "1f02040201110e", "02060a121f0202", "1f101e0101110e", "0608101e11110e", "1f010204080808",
    "0e11110e11110e", "0e11110f01020c", "000c0c000c0c",   "000c0c000c0408", "02040810080402", "00001f001f",
    "08040201020408", "0e110102040004", "0e11010d15150e", "0e11111f111111", "1e11111e11111e", "0e11101010110e",
    "1c12111111121c", "1f10101e10101f", "1f10101e101010", "0e11101711110f", "1111111f111111", "0e04040404040e",
    "0702020202120c", "11121418141211", "1010101010101f", "111b1515111111", "11111915131111", "0e11111111110e",
    "1e11111e101010", "0e11111115120d", "1e11111e141211", "0f10100e01011e", "1f040404040404", "1111111111110e",
    "11111111110a04", "1111111515150a", "11110a040a1111", "11110a04040404", "1f01020408101f", "0e08080808080e",
    "10100804020101", "0e02020202020e", "040a11",         "000000000000001f", "080402",       "00000e010f110f",
    "1010161911111e", "00000e1010110e", "01010d1311110f", "00000e111f100e", "0609081c080808", "00000f1111110f010e",
    "10101619111111", "04000c0404040e", "02000602020202120c", "10101214181412", "0c04040404040e", "00001a15151111",
    "00001619111111", "00000e1111110e", "00001e1111111e1010", "00000f1111110f0101", "00001619101010", "00000e100e011e",
    "08081c08080906", "0000111111130d", "00001111110a04", "0000111115150a", "0000110a040a11", "0000111111110f010e",
    "00001f0204081f", "02040408040402", "04040404040404", "08040402040408", "0000081502",
};

/* Of others, the same. */
static const struct {
    uint8_t code;
    const char *rows;
} signs[] = {
    {0x07, "00000e0e0e"},     {0x10, "10181c1e1c1810"}, {0x11, "0103070f070301"}, {0x18, "040e1504040404"},
    {0x19, "04040404150e04"}, {0x1a, "0004021f0204"}, {0x1b, "0004081f0804"},   {0x1e, "00040e0e1f1f"},
    {0x1f, "001f1f0e0e04"},   {0x9b, "040e1514150e04"}, {0x9c, "0609081c08091f"}, {0xa8, "0400040810110e"},
    {0xad, "04000404040404"}, {0xae, "00050a140a05"}, {0xaf, "00140a050a14"},  {0xe1, "0e11121e11111e1010"},
    {0xe6, "0000111111131d1010"}, {0xf1, "00041f0400001f"}, {0xf6, "0004001f0004"}, {0xf8, "040a04"},
    {0xf9, "0000000c0c"},     {0xfa, "00000004"},       {0xfd, "0c0204080e"},     {0xfe, "00000e0e0e0e"},
};

enum accent { ACUTE, GRAVE, CIRCUMFLEX, DIAERESIS, TILDE, RING, CEDILLA };

static const struct {
    uint8_t code;
    char letter;
    uint8_t accent;
} composed[] = {
    {0x80, 'C', CEDILLA},    {0x81, 'u', DIAERESIS}, {0x82, 'e', ACUTE},      {0x83, 'a', CIRCUMFLEX}, {0x84, 'a', DIAERESIS},
    {0x85, 'a', GRAVE},      {0x86, 'a', RING},      {0x87, 'c', CEDILLA},    {0x88, 'e', CIRCUMFLEX}, {0x89, 'e', DIAERESIS},
    {0x8a, 'e', GRAVE},      {0x8b, 'i', DIAERESIS}, {0x8c, 'i', CIRCUMFLEX}, {0x8d, 'i', GRAVE},      {0x8e, 'A', DIAERESIS},
    {0x8f, 'A', RING},       {0x90, 'E', ACUTE},     {0x93, 'o', CIRCUMFLEX}, {0x94, 'o', DIAERESIS},  {0x95, 'o', GRAVE},
    {0x96, 'u', CIRCUMFLEX}, {0x97, 'u', GRAVE},     {0x98, 'y', DIAERESIS},  {0x99, 'O', DIAERESIS},  {0x9a, 'U', DIAERESIS},
    {0xa0, 'a', ACUTE},      {0xa1, 'i', ACUTE},     {0xa2, 'o', ACUTE},      {0xa3, 'u', ACUTE},      {0xa4, 'n', TILDE},
    {0xa5, 'N', TILDE},
};

static unsigned digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10);
}

static void grid_read(const char *text, uint8_t grid[GRID_ROWS])
{
    memset(grid, 0, GRID_ROWS);
    for (unsigned i = 0; i < GRID_ROWS && text[2 * i] != 0; i++)
        grid[i] = (uint8_t)(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
}

static void grid_draw(const uint8_t grid[GRID_ROWS], uint8_t rows[ROWS])
{
    for (unsigned i = 0, to = TOP; i < GRID_ROWS; i++) {
        rows[to++] = (uint8_t)(grid[i] << 2);
        if (i == 1 || i == 3 || i == 5) { /* a line between this row and the next */
            uint8_t both = grid[i] & grid[i + 1];
            rows[to++] = (uint8_t)((both != 0 ? both : grid[i] == 0 || grid[i + 1] == 0 ? 0 : grid[i]) << 2);
        }
    }
}

static void accent_draw(uint8_t accent, bool small, uint8_t rows[ROWS])
{
    static const uint8_t shape[][2] = {
        [ACUTE] = {0x02, 0x04}, [GRAVE] = {0x08, 0x04}, [CIRCUMFLEX] = {0x04, 0x0a}, [DIAERESIS] = {0x0a, 0x00},
        [TILDE] = {0x05, 0x0a}, [RING] = {0x0e, 0x0a},  [CEDILLA] = {0x04, 0x0c},
    };
    unsigned at = accent == CEDILLA ? TOP + 10 : small ? TOP : 0;
    for (unsigned i = 0; i < 2; i++)
        rows[at + i] = (uint8_t)(shape[accent][i] << 2);
    if (small && accent != CEDILLA)
        rows[at + 2] = rows[at + 3] = 0;
}

/* B3h to DAh: the kinds of line that go up, right, down and left: 0 none, 1 single, 2 double. */
#define BOX(up, right, down, left) ((up) | (right) << 2 | (down) << 4 | (left) << 6)
static const uint8_t boxes[40] = {
    BOX(1, 0, 1, 0), BOX(1, 0, 1, 1), BOX(1, 0, 1, 2), BOX(2, 0, 2, 1), BOX(0, 0, 2, 1), BOX(0, 0, 1, 2), BOX(2, 0, 2, 2),
    BOX(2, 0, 2, 0), BOX(0, 0, 2, 2), BOX(2, 0, 0, 2), BOX(2, 0, 0, 1), BOX(1, 0, 0, 2), BOX(0, 0, 1, 1), BOX(1, 1, 0, 0),
    BOX(1, 1, 0, 1), BOX(0, 1, 1, 1), BOX(1, 1, 1, 0), BOX(0, 1, 0, 1), BOX(1, 1, 1, 1), BOX(1, 2, 1, 0), BOX(2, 1, 2, 0),
    BOX(2, 2, 0, 0), BOX(0, 2, 2, 0), BOX(2, 2, 0, 2), BOX(0, 2, 2, 2), BOX(2, 2, 2, 0), BOX(0, 2, 0, 2), BOX(2, 2, 2, 2),
    BOX(1, 2, 0, 2), BOX(2, 1, 0, 1), BOX(0, 2, 1, 2), BOX(0, 1, 2, 1), BOX(2, 1, 0, 0), BOX(1, 2, 0, 0), BOX(0, 2, 1, 0),
    BOX(0, 1, 2, 0), BOX(2, 1, 2, 1), BOX(1, 2, 1, 2), BOX(1, 0, 0, 1), BOX(0, 1, 1, 0),
};

static void box_draw(uint8_t box, uint8_t rows[ROWS])
{
    static const uint8_t across[3] = {0x00, 0x18, 0x24}; /* the columns of a vertical line */
    unsigned up = box & 3, right = box >> 2 & 3, down = box >> 4 & 3, left = box >> 6;
    bool wide = right == 2 || left == 2, tall = up == 2 || down == 2;
    unsigned first = wide ? 6 : 7, last = wide ? 8 : 7; /* the lines of a horizontal one */
    for (unsigned y = 0; y < ROWS; y++) {
        if (y <= last)
            rows[y] |= across[up];
        if (y >= first)
            rows[y] |= across[down];
        if (y == first || y == last)
            rows[y] |= (uint8_t)((left != 0 ? tall ? 0xfc : 0xf8 : 0) | (right != 0 ? tall ? 0x3f : 0x1f : 0));
    }
}

static bool block_draw(uint8_t code, uint8_t rows[ROWS])
{
    for (unsigned y = 0; y < ROWS; y++) {
        switch (code) {
        case 0xb0: rows[y] = y & 1 ? 0x44 : 0x11; break;
        case 0xb1: rows[y] = y & 1 ? 0xaa : 0x55; break;
        case 0xb2: rows[y] = y & 1 ? 0xbb : 0xee; break;
        case 0xdb: rows[y] = 0xff; break;
        case 0xdc: rows[y] = y < 8 ? 0 : 0xff; break;
        case 0xdd: rows[y] = 0xf0; break;
        case 0xde: rows[y] = 0x0f; break;
        case 0xdf: rows[y] = y < 8 ? 0xff : 0; break;
        default: return false;
        }
    }
    return true;
}

static void frame_draw(uint8_t rows[ROWS])
{
    for (unsigned y = TOP; y < TOP + 10; y++)
        rows[y] = y == TOP || y == TOP + 9 ? 0x7c : 0x44;
}

void vga_font_draw(uint8_t code, uint8_t rows[16])
{
    uint8_t grid[GRID_ROWS];
    memset(rows, 0, ROWS);
    if (code == 0 || code == 0xff || block_draw(code, rows))
        return;
    if (code >= 0xb3 && code <= 0xda) {
        box_draw(boxes[code - 0xb3], rows);
        return;
    }
    if (code >= 0x20 && code < 0x7f) {
        grid_read(ascii[code - 0x20], grid);
        grid_draw(grid, rows);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(signs); i++) {
        if (signs[i].code == code) {
            grid_read(signs[i].rows, grid);
            grid_draw(grid, rows);
            return;
        }
    }
    for (unsigned i = 0; i < ARRAY_LEN(composed); i++) {
        if (composed[i].code == code) {
            grid_read(ascii[composed[i].letter - 0x20], grid);
            grid_draw(grid, rows);
            accent_draw(composed[i].accent, composed[i].letter >= 'a', rows);
            return;
        }
    }
    frame_draw(rows);
}
