/* Text mode 3 for a kernel that is started without firmware: 80 by 25 characters of 9 by 16 dots, 16 colours, an empty screen with
 * the cursor at its upper left. See vga.h.
 *
 * Everything goes through the registers and the window, as a video BIOS does it; so this is also the adapter's first test.
 *
 * The register values are those of the mode's table in the PS/2 Hardware Interface Technical Reference, "Video Subsystem". */
#include "device/vga_internal.h"

#include <string.h>

#define TEXT_CELLS 0x4000u
#define TEXT_WINDOW 0x18000u /* B8000h, from the window's beginning */
#define BLANK 0x0720u        /* a space, light grey on black */
#define GLYPH_ROWS 16u
#define GLYPH_BYTES 32u

static void indexed(struct vga *vga, unsigned port, unsigned index, uint8_t value)
{
    vga_port_write(vga, port, (uint8_t)index);
    vga_port_write(vga, port + 1, value);
}

/* Plane 2 at A0000h, and nothing else. */
static void open_font(struct vga *vga)
{
    indexed(vga, 0x3c4, SR_MAP_MASK, 0x04);
    indexed(vga, 0x3c4, SR_MEMORY, 0x06);
    indexed(vga, 0x3ce, GR_SET_RESET, 0);
    indexed(vga, 0x3ce, GR_ENABLE_SET_RESET, 0);
    indexed(vga, 0x3ce, GR_ROTATE, 0);
    indexed(vga, 0x3ce, GR_MODE, 0);
    indexed(vga, 0x3ce, GR_MISC, 0x04);
    indexed(vga, 0x3ce, GR_MASK, 0xff);
}

static void load_font(struct vga *vga)
{
    open_font(vga);
    for (unsigned code = 0; code < 256; code++) {
        uint8_t rows[GLYPH_ROWS];
        vga_font_draw((uint8_t)code, rows);
        for (unsigned i = 0; i < GLYPH_BYTES; i++)
            vga_window_ops.write(vga, code * GLYPH_BYTES + i, 1, i < GLYPH_ROWS ? rows[i] : 0);
    }
}

static void set_registers(struct vga *vga)
{
    static const uint8_t sr[SR_COUNT] = {0x03, 0x00, 0x03, 0x00, 0x02};
    static const uint8_t cr[CR_COUNT] = {
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00,
        0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    };
    static const uint8_t gr[GR_COUNT] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x0f, 0xff};
    static const uint8_t ar[AR_COUNT] = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a,
                                         0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0x00, 0x0f, 0x08, 0x00};
    vga_port_write(vga, 0x3c2, 0x67);
    for (unsigned i = 0; i < SR_COUNT; i++)
        indexed(vga, 0x3c4, i, sr[i]);
    indexed(vga, 0x3d4, CR_VRETRACE_END, 0); /* unprotected */
    for (unsigned i = 0; i < CR_COUNT; i++)
        indexed(vga, 0x3d4, i, cr[i]);
    for (unsigned i = 0; i < GR_COUNT; i++)
        indexed(vga, 0x3ce, i, gr[i]);
    vga_port_read(vga, 0x3da);
    for (unsigned i = 0; i < AR_COUNT; i++) {
        vga_port_write(vga, 0x3c0, (uint8_t)i);
        vga_port_write(vga, 0x3c0, ar[i]);
    }
    vga_port_write(vga, 0x3c0, AR_INDEX_ON);
}

/* The 64 colours of EGA, two bits for red, green and blue: a third and two thirds of full brightness. */
static void set_colors(struct vga *vga)
{
    vga_port_write(vga, 0x3c6, 0xff);
    vga_port_write(vga, 0x3c8, 0);
    for (unsigned i = 0; i < 64; i++)
        for (int n = 2; n >= 0; n--) /* red is bits 2 and 5 */
            vga_port_write(vga, 0x3c9, (uint8_t)((i >> n & 1) * 42 + (i >> (n + 3) & 1) * 21));
}

void vga_set_text_mode(struct vga *vga)
{
    vga_port_write(vga, 0x3c2, 0x67); /* the memory answers */
    load_font(vga);
    set_registers(vga);
    set_colors(vga);
    for (unsigned i = 0; i < TEXT_CELLS; i++)
        vga_window_ops.write(vga, TEXT_WINDOW + 2 * i, 2, BLANK);
}
