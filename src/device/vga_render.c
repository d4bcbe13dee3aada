/* From the VGA's memory to pixels and characters. See vga.h, and vga_internal.h for the files.
 *
 * Model. A frame is drawn as the hardware scans it, line by line. The CRT controller counts through the lines of a row of
 * characters (a row of pixels is one, too, of as many lines as are shown of it) and through the characters of a line; the count of
 * characters plus the row's start is an address, which is turned into one of the planes by the byte, word or double word mode and
 * the bits that CGA's modes take from the line's number. The fetched bytes become eight or nine dots of 4 bits by a font (text) or
 * by shifting (planes, CGA's pairs), which the attribute controller's palette makes an index of the table of colours; or four
 * pixels of two dots with that index itself. The result is in dots of the screen: mode 13h is 640 by 400.
 *
 * Double word mode takes the count as it is: chain-4, for which it is there, is packed here (vga_memory.c).
 *
 * What blinks is drawn in its visible phase, so that a picture depends on memory and registers alone. Not drawn: the border, the
 * skew of display and cursor, loading the shift registers at every second or fourth character (EGA's modes with 64 KiB).
 *
 * PS/2 Hardware Interface Technical Reference, "Video Subsystem": "CRT Controller Registers", "Attribute Controller
 * Registers", "Video Memory Organization". */
#include "device/vga_internal.h"

#include <string.h>

#define CHARACTERS_MAX 257u /* of a line, and one to shift in */
#define DOTS_MAX (9 * CHARACTERS_MAX)
#define PLANES_MASK 0xffffu
#define FONT_ROWS 32u

/* What stays the same for a frame. */
struct scan {
    const struct vga *vga;
    const struct vga_state *s;
    bool text, shift_256, shift_cga;
    unsigned characters, lines;
    unsigned dots;   /* of a character: 8 or 9 */
    unsigned double_dot; /* 1, or 2: each dot twice */
    unsigned row_lines; /* of a row, doubled lines counted once */
    bool double_scan;
    uint8_t palette[16]; /* the attribute controller's, to indices of the table of colours */
    uint32_t colors[256];
};

/* ---- colours ---- */

static uint32_t color_at(const struct vga_state *s, uint8_t index)
{
    const uint8_t *rgb = s->dac[index & s->dac_mask];
    if (s->vbe[VBE_ENABLE] & VBE_8BIT_DAC)
        return SCREEN_RGB(rgb[0], rgb[1], rgb[2]);
    uint8_t level[3];
    for (unsigned i = 0; i < 3; i++)
        level[i] = (uint8_t)((rgb[i] & 0x3f) << 2 | (rgb[i] & 0x3f) >> 4);
    return SCREEN_RGB(level[0], level[1], level[2]);
}

/* A pixel of 4 bits, through the attribute controller. */
static uint8_t palette_at(const struct vga_state *s, unsigned pixel)
{
    uint8_t value = s->ar[pixel & s->ar[AR_PLANES] & 0x0f] & 0x3f, select = s->ar[AR_SELECT];
    if (s->ar[AR_MODE] & AR10_PALETTE_45)
        value = (uint8_t)((value & 0x0f) | (select & 3) << 4);
    return (uint8_t)(value | (select & 0x0c) << 4);
}

static void colors_init(struct scan *c)
{
    for (unsigned i = 0; i < 16; i++)
        c->palette[i] = palette_at(c->s, i);
    for (unsigned i = 0; i < 256; i++)
        c->colors[i] = color_at(c->s, (uint8_t)i);
}

/* ---- the frame ---- */

static void scan_init(struct scan *c, const struct vga *vga)
{
    const struct vga_state *s = &vga->state;
    *c = (struct scan){
        .vga = vga,
        .s = s,
        .text = !(s->gr[GR_MISC] & GR6_GRAPHICS),
        .shift_256 = s->gr[GR_MODE] & GR5_SHIFT_256,
        .shift_cga = s->gr[GR_MODE] & GR5_SHIFT_CGA,
        .characters = s->cr[CR_HDISPLAY_END] + 1u,
        .lines = vga_vertical_display_end(vga) + 1,
        .double_dot = s->sr[SR_CLOCKING] & SR1_HALF_CLOCK ? 2 : 1,
        .row_lines = (s->cr[CR_MAX_SCAN] & 0x1f) + 1u,
        .double_scan = s->cr[CR_MAX_SCAN] & CR9_DOUBLE_SCAN,
    };
    c->dots = c->text && !(s->sr[SR_CLOCKING] & SR1_8_DOTS) ? 9 : 8;
    colors_init(c);
}

/* Whether the monitor gets a picture at all. */
static bool screen_is_on(const struct vga_state *s)
{
    return (s->ar_index & AR_INDEX_ON) && !(s->sr[SR_CLOCKING] & SR1_SCREEN_OFF);
}

/* The address of the planes behind a count of the CRT controller, in line `line` of a row. */
static uint32_t fetch_address(const struct vga_state *s, uint32_t count, unsigned line)
{
    uint8_t mode = s->cr[CR_MODE];
    uint32_t address = count;
    if (!(s->cr[CR_UNDERLINE] & CR14_DOUBLE_WORD) && !(mode & CR17_BYTE))
        address = count << 1 | (count >> (mode & CR17_WRAP_BIT_15 ? 15 : 13) & 1);
    if (!(mode & CR17_ROW_TO_BIT_13))
        address = (address & ~0x2000u) | (line & 1) << 13;
    if (!(mode & CR17_ROW_TO_BIT_14))
        address = (address & ~0x4000u) | (line & 2) << 13;
    return address & PLANES_MASK;
}

static const uint8_t *planes_at(const struct vga *vga, uint32_t address)
{
    return vga->vram + 4 * (size_t)address;
}

/* ---- characters ---- */

/* Where in plane 2 the font of a character lies: two fonts, chosen by bit 3 of the attribute. */
static uint32_t font_base(const struct vga_state *s, uint8_t attribute)
{
    unsigned select = s->sr[SR_FONT];
    unsigned n = attribute & 0x08 ? (select >> 2 & 3) | (select >> 3 & 4) : (select & 3) | (select >> 2 & 4);
    return (n & 3) * 0x4000 + (n & 4) * 0x800; /* 0, 16, 32, 48, then 8, 24, 40, 56 KiB */
}

static bool has_two_fonts(const struct vga_state *s)
{
    return font_base(s, 0) != font_base(s, 8);
}

static void attribute_colors(const struct scan *c, uint8_t attribute, uint8_t *foreground, uint8_t *background)
{
    bool blink = c->s->ar[AR_MODE] & AR10_BLINK;
    *foreground = c->palette[attribute & 0x0f];
    *background = c->palette[attribute >> 4 & (blink ? 0x07 : 0x0f)];
}

static bool cursor_covers(const struct vga_state *s, uint32_t count, unsigned line)
{
    unsigned first = s->cr[CR_CURSOR_START] & 0x1f, last = s->cr[CR_CURSOR_END] & 0x1f;
    return !(s->cr[CR_CURSOR_START] & CR10_CURSOR_OFF) && line >= first && line <= last &&
           (count & PLANES_MASK) == ((uint32_t)s->cr[CR_CURSOR_HIGH] << 8 | s->cr[CR_CURSOR_LOW]);
}

static void draw_character(const struct scan *c, uint32_t count, unsigned line, uint8_t *out)
{
    const struct vga_state *s = c->s;
    const uint8_t *planes = planes_at(c->vga, fetch_address(s, count, line));
    uint8_t code = planes[0], attribute = planes[1], foreground, background;
    unsigned bits = planes_at(c->vga, (font_base(s, attribute) + code * FONT_ROWS + line) & PLANES_MASK)[2];
    attribute_colors(c, attribute, &foreground, &background);
    if (line == (s->cr[CR_UNDERLINE] & 0x1fu) && (attribute & 0x07) == 1)
        bits = 0xff;
    bits <<= 1; /* the ninth dot */
    if (code >= 0xc0 && code < 0xe0 && (s->ar[AR_MODE] & AR10_LINE_GRAPHICS))
        bits |= bits >> 1 & 1;
    if (cursor_covers(s, count, line))
        bits = 0x1ff;
    for (unsigned i = 0; i < c->dots; i++)
        out[i] = bits >> (8 - i) & 1 ? foreground : background;
}

/* ---- dots ---- */

static void draw_planes(const struct scan *c, const uint8_t *planes, uint8_t *out)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned bit = 7 - i;
        unsigned pixel = (planes[0] >> bit & 1) | (planes[1] >> bit & 1) << 1 | (planes[2] >> bit & 1) << 2 |
                         (planes[3] >> bit & 1u) << 3;
        out[i] = c->palette[pixel];
    }
}

/* Pairs of bits: the first four pixels from planes 0 and 2, then 1 and 3. */
static void draw_pairs(const struct scan *c, const uint8_t *planes, uint8_t *out)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned plane = i / 4, shift = 6 - 2 * (i % 4);
        out[i] = c->palette[(planes[plane] >> shift & 3) | (planes[plane + 2] >> shift & 3) << 2];
    }
}

static void draw_unit(const struct scan *c, uint32_t count, unsigned line, uint8_t *out)
{
    if (c->text) {
        draw_character(c, count, line, out);
        return;
    }
    const uint8_t *planes = planes_at(c->vga, fetch_address(c->s, count, line));
    if (c->shift_256)
        for (unsigned i = 0; i < 8; i++)
            out[i] = planes[i / 2];
    else if (c->shift_cga)
        draw_pairs(c, planes, out);
    else
        draw_planes(c, planes, out);
}

/* How many dots of the line's first character are hidden. */
static unsigned panning(const struct scan *c)
{
    unsigned value = c->s->ar[AR_PANNING];
    if (c->shift_256)
        return value & 7;
    if (c->dots == 9)
        return value >= 8 ? 0 : value + 1;
    return value & 7;
}

static void draw_line(const struct scan *c, uint32_t count, unsigned line, unsigned hidden, uint32_t *out)
{
    uint8_t dots[DOTS_MAX];
    for (unsigned i = 0; i <= c->characters; i++)
        draw_unit(c, count + i, line, dots + i * c->dots);
    unsigned width = c->characters * c->dots;
    for (unsigned i = 0; i < width; i++)
        for (unsigned n = 0; n < c->double_dot; n++)
            *out++ = c->colors[dots[i + hidden]];
}

/* Where in its memory a row of the screen begins, and which of its lines comes first: what the beam counts. */
struct beam_row {
    uint32_t count;
    unsigned line;    /* of the row */
    bool repeated;    /* a doubled line was shown once */
};

static struct beam_row first_row(const struct vga_state *s)
{
    uint32_t start = (uint32_t)s->cr[CR_START_HIGH] << 8 | s->cr[CR_START_LOW];
    return (struct beam_row){.count = start + (s->cr[CR_PRESET_ROW] >> 5 & 3), .line = s->cr[CR_PRESET_ROW] & 0x1f};
}

static void next_line(const struct scan *c, struct beam_row *row)
{
    if (c->double_scan && !row->repeated) {
        row->repeated = true;
        return;
    }
    row->repeated = false;
    if (row->line != c->row_lines - 1) {
        row->line = (row->line + 1) & 0x1f; /* five bits: a preset beyond the last line comes round */
        return;
    }
    row->line = 0;
    row->count += 2u * c->s->cr[CR_OFFSET];
}

static bool render_vga(const struct vga *vga, struct screen_picture *picture)
{
    struct scan c;
    scan_init(&c, vga);
    unsigned width = c.characters * c.dots * c.double_dot, hidden = panning(&c), split = vga_line_compare(vga);
    if (!screen_picture_resize(picture, width, c.lines))
        return false;
    if (!screen_is_on(c.s)) {
        memset(picture->pixels, 0, (size_t)width * c.lines * sizeof *picture->pixels);
        return true;
    }
    struct beam_row row = first_row(c.s);
    for (unsigned y = 0; y < c.lines; y++) {
        draw_line(&c, row.count, row.line, hidden, picture->pixels + (size_t)y * width);
        next_line(&c, &row);
        if (y == split) {
            row = (struct beam_row){0};
            if (c.s->ar[AR_MODE] & AR10_SPLIT_NO_PANNING)
                hidden = 0;
        }
    }
    return true;
}

/* ---- the extended modes ---- */

static uint32_t five_bits(unsigned value)
{
    return (value & 31) << 3 | (value & 31) >> 2;
}

static uint32_t six_bits(unsigned value)
{
    return (value & 63) << 2 | (value & 63) >> 4;
}

static void vbe_line(const struct scan *c, const uint8_t *from, unsigned width, uint32_t *out)
{
    unsigned bits = c->s->vbe[VBE_BPP];
    for (unsigned x = 0; x < width; x++) {
        if (bits == 8) {
            out[x] = c->colors[from[x]];
        } else if (bits <= 16) {
            unsigned pixel = from[2 * x] | (unsigned)from[2 * x + 1] << 8;
            out[x] = bits == 15 ? SCREEN_RGB(five_bits(pixel >> 10), five_bits(pixel >> 5), five_bits(pixel))
                                : SCREEN_RGB(five_bits(pixel >> 11), six_bits(pixel >> 5), five_bits(pixel));
        } else {
            const uint8_t *pixel = from + bits / 8 * x;
            out[x] = SCREEN_RGB(pixel[2], pixel[1], pixel[0]);
        }
    }
}

static void vbe_line_planes(const struct scan *c, uint32_t from, unsigned width, uint32_t *out)
{
    uint8_t pixels[8];
    for (unsigned x = 0; x < width; x += 8) {
        draw_planes(c, planes_at(c->vga, from + x / 8), pixels);
        for (unsigned i = 0; i < 8; i++)
            out[x + i] = c->colors[pixels[i]];
    }
}

static bool render_vbe(const struct vga *vga, struct screen_picture *picture)
{
    struct scan c;
    scan_init(&c, vga);
    unsigned width = c.s->vbe[VBE_XRES], height = c.s->vbe[VBE_YRES];
    uint32_t from = vga_vbe_start(vga), pitch = vga_vbe_pitch(vga);
    if (!screen_picture_resize(picture, width, height))
        return false;
    if (!(c.s->ar_index & AR_INDEX_ON)) {
        memset(picture->pixels, 0, (size_t)width * height * sizeof *picture->pixels);
        return true;
    }
    for (unsigned y = 0; y < height; y++, from += pitch) {
        uint32_t *out = picture->pixels + (size_t)y * width;
        if (c.s->vbe[VBE_BPP] == 4)
            vbe_line_planes(&c, from, width, out);
        else
            vbe_line(&c, vga->vram + from, width, out);
    }
    return true;
}

bool vga_render(const struct vga *vga, struct screen_picture *picture)
{
    return vga_vbe_enabled(vga) ? render_vbe(vga, picture) : render_vga(vga, picture);
}

/* ---- text ---- */

static void cell_fill(const struct scan *c, uint32_t count, struct screen_cell *cell)
{
    const uint8_t *planes = planes_at(c->vga, fetch_address(c->s, count, 0));
    uint8_t attribute = planes[1], foreground, background;
    attribute_colors(c, attribute, &foreground, &background);
    *cell = (struct screen_cell){
        .foreground = c->colors[foreground],
        .background = c->colors[background],
        .unicode = screen_cp437(planes[0]),
        .code = planes[0],
        .attribute = attribute,
        .blinks = (c->s->ar[AR_MODE] & AR10_BLINK) && (attribute & 0x80),
    };
    if (has_two_fonts(c->s) && (attribute & 0x08))
        cell->unicode = 0xfffd; /* one of the second font's, which may be anything */
    if (!screen_is_on(c->s))
        cell->foreground = cell->background = 0;
}

bool vga_text(const struct vga *vga, struct screen_text *text)
{
    if (vga_vbe_enabled(vga) || (vga->state.gr[GR_MISC] & GR6_GRAPHICS))
        return false;
    struct scan c;
    scan_init(&c, vga);
    unsigned lines = c.row_lines * (c.double_scan ? 2 : 1), rows = (c.lines + lines - 1) / lines;
    const uint8_t *cr = c.s->cr;
    uint32_t cursor = (uint32_t)cr[CR_CURSOR_HIGH] << 8 | cr[CR_CURSOR_LOW], count = first_row(c.s).count;
    if (!screen_text_resize(text, c.characters, rows))
        return false;
    text->cursor = false;
    for (unsigned y = 0, split = vga_line_compare(vga); y < rows; y++, count += 2u * cr[CR_OFFSET]) {
        if (y != 0 && y * lines > split && (y - 1) * lines <= split)
            count = 0;
        for (unsigned x = 0; x < c.characters; x++) {
            cell_fill(&c, count + x, &text->cells[(size_t)y * c.characters + x]);
            if (((count + x) & PLANES_MASK) == cursor && !(cr[CR_CURSOR_START] & CR10_CURSOR_OFF) &&
                (cr[CR_CURSOR_START] & 0x1f) <= (cr[CR_CURSOR_END] & 0x1f) && (cr[CR_CURSOR_START] & 0x1f) < c.row_lines) {
                text->cursor = true;
                text->cursor_column = x;
                text->cursor_row = y;
            }
        }
    }
    return true;
}
