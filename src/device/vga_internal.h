/* The display adapter's parts as its files share them. Nobody else includes this.
 *
 *   vga.c         registers behind ports, time, reset
 *   vga_memory.c  the window at A0000h, and what happens to a byte on its way to the planes
 *   vga_vbe.c     the extensions: their registers, the PCI function
 *   vga_render.c  from memory to pixels and characters
 *   vga_mode.c    text mode 3 without a BIOS
 *   vga_font.c    the characters for it
 */
#ifndef RING3_DEVICE_VGA_INTERNAL_H
#define RING3_DEVICE_VGA_INTERNAL_H

#include "device/vga.h"

/* Miscellaneous output. */
#define MISC_COLOR 0x01u /* ports 3Dxh, not 3Bxh */
#define MISC_RAM 0x02u
#define MISC_CLOCK 0x0cu
#define MISC_CLOCK_28 0x04u

/* Sequencer. */
enum { SR_RESET, SR_CLOCKING, SR_MAP_MASK, SR_FONT, SR_MEMORY, SR_COUNT };
#define SR1_8_DOTS 0x01u
#define SR1_HALF_CLOCK 0x08u
#define SR1_SCREEN_OFF 0x20u
#define SR4_SEQUENTIAL 0x04u /* clear: even addresses to maps 0 and 2, odd ones to 1 and 3 */
#define SR4_CHAIN4 0x08u

/* CRT controller. */
enum {
    CR_HTOTAL = 0x00,
    CR_HDISPLAY_END = 0x01,
    CR_VTOTAL = 0x06,
    CR_OVERFLOW = 0x07,
    CR_PRESET_ROW = 0x08,
    CR_MAX_SCAN = 0x09,
    CR_CURSOR_START = 0x0a,
    CR_CURSOR_END = 0x0b,
    CR_START_HIGH = 0x0c,
    CR_START_LOW = 0x0d,
    CR_CURSOR_HIGH = 0x0e,
    CR_CURSOR_LOW = 0x0f,
    CR_VRETRACE_START = 0x10,
    CR_VRETRACE_END = 0x11,
    CR_VDISPLAY_END = 0x12,
    CR_OFFSET = 0x13,
    CR_UNDERLINE = 0x14,
    CR_MODE = 0x17,
    CR_LINE_COMPARE = 0x18,
    CR_COUNT = 0x19,
};
#define CR9_DOUBLE_SCAN 0x80u
#define CR10_CURSOR_OFF 0x20u
#define CR11_PROTECT 0x80u
#define CR14_DOUBLE_WORD 0x40u
#define CR17_ROW_TO_BIT_13 0x01u /* active low, as the next one */
#define CR17_ROW_TO_BIT_14 0x02u
#define CR17_WRAP_BIT_15 0x20u
#define CR17_BYTE 0x40u

/* Graphics controller. */
enum { GR_SET_RESET, GR_ENABLE_SET_RESET, GR_COMPARE, GR_ROTATE, GR_READ_MAP, GR_MODE, GR_MISC, GR_IGNORE, GR_MASK, GR_COUNT };
#define GR5_WRITE_MODE 0x03u
#define GR5_READ_COMPARE 0x08u
#define GR5_ODD_EVEN 0x10u
#define GR5_SHIFT_CGA 0x20u
#define GR5_SHIFT_256 0x40u
#define GR6_GRAPHICS 0x01u
#define GR6_CHAIN_ODD_EVEN 0x02u

/* Attribute controller. */
enum { AR_MODE = 0x10, AR_OVERSCAN, AR_PLANES, AR_PANNING, AR_SELECT, AR_COUNT };
#define AR10_LINE_GRAPHICS 0x04u
#define AR10_BLINK 0x08u
#define AR10_SPLIT_NO_PANNING 0x20u
#define AR10_PALETTE_45 0x80u
#define AR_INDEX_ON 0x20u /* palette address source: the screen is on */

/* The registers of the Bochs extensions. */
enum {
    VBE_ID,
    VBE_XRES,
    VBE_YRES,
    VBE_BPP,
    VBE_ENABLE,
    VBE_BANK,
    VBE_VIRT_WIDTH,
    VBE_VIRT_HEIGHT,
    VBE_X_OFFSET,
    VBE_Y_OFFSET,
    VBE_MEMORY_64K,
    VBE_COUNT,
};
#define VBE_ENABLED 0x01u
#define VBE_GET_CAPABILITIES 0x02u
#define VBE_8BIT_DAC 0x20u
#define VBE_LINEAR 0x40u
#define VBE_NO_CLEAR 0x80u
#define VBE_XRES_MAX 4096u
#define VBE_YRES_MAX 4096u

struct vga_state {
    uint8_t misc, feature;
    uint8_t sr_index, sr[SR_COUNT];
    uint8_t cr_index, cr[CR_COUNT];
    uint8_t gr_index, gr[GR_COUNT];
    uint8_t ar_index, ar[AR_COUNT];
    bool ar_is_data; /* what the next write to 3C0h is */
    uint8_t dac[256][3];
    uint8_t dac_mask, dac_index, dac_component, dac_reads; /* dac_reads: what 3C7h answers */
    uint8_t dac_pending[3];
    uint32_t latch;
    uint16_t vbe_index, vbe[VBE_COUNT];
};

struct vga {
    struct vga_config config;
    struct pci_function *function;
    uint8_t *vram;       /* plane p of address a is at 4 a + p */
    uint64_t ram_offset; /* of vram in the memory's backing */
    /* What the window shows directly: device RAM from `direct_from` on, direct_size bytes; 0: nothing, it is handled here. */
    uint64_t direct_from, direct_size;
    /* Where in the window it is text as the BIOS sets it up, and nothing else happens to a byte; text_size 0: nowhere. */
    uint32_t text_from, text_size;
    struct vga_state state;
};

/* vga.c: registers of the VGA by port, 3B0h to 3DFh. */
uint8_t vga_port_read(struct vga *vga, unsigned port);
void vga_port_write(struct vga *vga, unsigned port, uint8_t value);
/* Heights and positions of which the CRT controller keeps two bits elsewhere. */
unsigned vga_vertical_display_end(const struct vga *vga);
unsigned vga_line_compare(const struct vga *vga);

/* vga_memory.c */
/* Makes the window agree with the registers, whenever one of those was written that say whether it is plain memory. */
void vga_window_update(struct vga *vga);

/* vga_vbe.c */
bool vga_vbe_create(struct vga *vga, struct error *err);
void vga_vbe_reset(struct vga *vga);
static inline bool vga_vbe_enabled(const struct vga *vga)
{
    return vga->state.vbe[VBE_ENABLE] & VBE_ENABLED;
}
/* How many bits there are for a pixel in memory: 4, 8, 16, 24 or 32 (15 is kept in 16); bytes from line to line; the byte
 * in memory with the first pixel (4 bits: in one plane). All within the memory for the whole picture. */
unsigned vga_vbe_bits(const struct vga *vga);
uint32_t vga_vbe_pitch(const struct vga *vga);
uint32_t vga_vbe_start(const struct vga *vga);

/* vga_font.c: the 8 by 16 dots of a character of code page 437, from the top, bit 7 left. */
void vga_font_draw(uint8_t code, uint8_t rows[16]);

#endif
