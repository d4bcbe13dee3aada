/* The VGA's registers. See vga.h for the adapter, vga_internal.h for its files.
 *
 * Model. Five groups of registers, each behind an index register, and a table of 256 colours; the memory is four planes of bytes
 * at 256 KiB of addresses, of which a character clock fetches one address (all four planes) at a time. What the registers mean
 * for an access to memory is in vga_memory.c, what they mean for the picture in vga_render.c. Writes are masked to the bits that
 * exist; reading gives back what was written.
 *
 * Time. The beam is where the registers say that it is at this guest time, counted from time 0: bits 0 and 3 of input status 1
 * follow it, so that a guest that waits for the retrace waits as long as on the hardware. While one of the extended modes is on,
 * which have no timing, it is 60 frames a second.
 *
 * Accesses of two and four bytes are taken apart, low byte first: that is how `out %ax` sets an index and its register.
 *
 * Deliberately not there: light pens; the interrupt at the vertical retrace, which adapters on a PCI bus do not wire (its enable
 * and clear bits are kept); switches and sense lines of monitors other than a colour monitor.
 *
 * IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem": registers, "VGA programming considerations". */
#include "device/vga_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define PORT_FIRST 0x3b0u
#define PORT_COLOR_FIRST 0x3c0u

static const uint8_t sr_writable[SR_COUNT] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e};
static const uint8_t gr_writable[GR_COUNT] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};
static const uint8_t cr_writable[CR_COUNT] = {
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0x3f, 0x7f, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xef, 0xff,
};

/* ---- the beam ---- */

unsigned vga_vertical_display_end(const struct vga *vga)
{
    const uint8_t *cr = vga->state.cr;
    return cr[CR_VDISPLAY_END] | (cr[CR_OVERFLOW] & 0x02u) << 7 | (cr[CR_OVERFLOW] & 0x40u) << 3;
}

unsigned vga_line_compare(const struct vga *vga)
{
    const uint8_t *cr = vga->state.cr;
    return cr[CR_LINE_COMPARE] | (cr[CR_OVERFLOW] & 0x10u) << 4 | (cr[CR_MAX_SCAN] & 0x40u) << 3;
}

struct beam {
    uint64_t line_ns;                /* of a scan line, ... */
    uint64_t shown_ns;               /* of its visible part */
    unsigned lines, shown_lines;     /* of a frame */
    unsigned retrace, retrace_lines; /* where the vertical retrace begins, and how long it is */
};

static struct beam beam_vga(const struct vga *vga)
{
    const struct vga_state *s = &vga->state;
    const uint8_t *cr = s->cr;
    uint64_t clock_khz = (s->misc & MISC_CLOCK) == MISC_CLOCK_28 ? 28322 : 25175;
    uint64_t dots = (s->sr[SR_CLOCKING] & SR1_8_DOTS ? 8 : 9) * (s->sr[SR_CLOCKING] & SR1_HALF_CLOCK ? 2u : 1u);
    unsigned start = cr[CR_VRETRACE_START] | (cr[CR_OVERFLOW] & 0x04u) << 6 | (cr[CR_OVERFLOW] & 0x80u) << 2;
    unsigned length = (cr[CR_VRETRACE_END] - start) & 0x0f;
    return (struct beam){
        .line_ns = (cr[CR_HTOTAL] + 5) * dots * 1000000 / clock_khz,
        .shown_ns = (cr[CR_HDISPLAY_END] + 1) * dots * 1000000 / clock_khz,
        .lines = (cr[CR_VTOTAL] | (cr[CR_OVERFLOW] & 0x01u) << 8 | (cr[CR_OVERFLOW] & 0x20u) << 4) + 2u,
        .shown_lines = vga_vertical_display_end(vga) + 1,
        .retrace = start,
        .retrace_lines = length == 0 ? 16 : length,
    };
}

/* Sixty frames a second, a twentieth of each without picture. */
static struct beam beam_vbe(const struct vga *vga)
{
    unsigned shown = vga->state.vbe[VBE_YRES], lines = shown + shown / 20 + 3;
    uint64_t line_ns = NS_PER_S / 60 / lines;
    return (struct beam){.line_ns = line_ns,
                         .shown_ns = line_ns * 4 / 5,
                         .lines = lines,
                         .shown_lines = shown,
                         .retrace = shown + 1,
                         .retrace_lines = 2};
}

static uint8_t input_status_1(const struct vga *vga)
{
    struct beam beam = vga_vbe_enabled(vga) ? beam_vbe(vga) : beam_vga(vga);
    uint64_t at = timer_now_ns(vga->config.queue) % (beam.line_ns * beam.lines);
    unsigned line = (unsigned)(at / beam.line_ns);
    bool retrace = line - beam.retrace < beam.retrace_lines; /* unsigned: false before it */
    bool shown = line < beam.shown_lines && at % beam.line_ns < beam.shown_ns;
    return (uint8_t)((shown ? 0 : 0x01) | (retrace ? 0x08 : 0));
}

/* ---- the table of colours ---- */

static void dac_write(struct vga_state *s, uint8_t value)
{
    bool wide = s->vbe[VBE_ENABLE] & VBE_8BIT_DAC;
    s->dac_pending[s->dac_component] = wide ? value : value & 0x3f;
    if (++s->dac_component < 3)
        return;
    s->dac_component = 0;
    memcpy(s->dac[s->dac_index++], s->dac_pending, 3);
}

static uint8_t dac_read(struct vga_state *s)
{
    uint8_t value = s->dac[s->dac_index][s->dac_component];
    if (++s->dac_component == 3) {
        s->dac_component = 0;
        s->dac_index++;
    }
    return value;
}

static void dac_address(struct vga_state *s, uint8_t index, bool reads)
{
    s->dac_index = index;
    s->dac_component = 0;
    s->dac_reads = reads ? 0x03 : 0x00;
}

/* ---- registers behind indices ---- */

static void cr_write(struct vga_state *s, uint8_t value)
{
    unsigned n = s->cr_index;
    if (n >= CR_COUNT)
        return;
    if (n <= CR_OVERFLOW && (s->cr[CR_VRETRACE_END] & CR11_PROTECT)) {
        if (n == CR_OVERFLOW) /* but bit 8 of line compare */
            s->cr[n] = (uint8_t)((s->cr[n] & ~0x10) | (value & 0x10));
        return;
    }
    s->cr[n] = value & cr_writable[n];
}

static void ar_write(struct vga_state *s, uint8_t value)
{
    static const uint8_t writable[AR_COUNT - AR_MODE] = {0xef, 0xff, 0x3f, 0x0f, 0x0f};
    unsigned n = s->ar_index & 0x1f;
    if (!s->ar_is_data)
        s->ar_index = value & 0x3f;
    else if (n < AR_MODE)
        s->ar[n] = value & 0x3f;
    else if (n < AR_COUNT)
        s->ar[n] = value & writable[n - AR_MODE];
    s->ar_is_data = !s->ar_is_data;
}

/* 3Bxh and 3Dxh: the CRT controller and the status, at one of the two places. */
static uint8_t crt_read(struct vga *vga, unsigned port)
{
    struct vga_state *s = &vga->state;
    switch (port & 0x0f) {
    case 0x4: return s->cr_index;
    case 0x5: return s->cr_index < CR_COUNT ? s->cr[s->cr_index] : 0;
    case 0xa: s->ar_is_data = false; return input_status_1(vga);
    default: return 0xff;
    }
}

static void crt_write(struct vga *vga, unsigned port, uint8_t value)
{
    struct vga_state *s = &vga->state;
    switch (port & 0x0f) {
    case 0x4: s->cr_index = value; break;
    case 0x5: cr_write(s, value); break;
    case 0xa: s->feature = value & 0x08; break;
    default: break;
    }
}

static bool crt_is_there(const struct vga *vga, unsigned port)
{
    return (port >= 0x3d0) == ((vga->state.misc & MISC_COLOR) != 0);
}

uint8_t vga_port_read(struct vga *vga, unsigned port)
{
    struct vga_state *s = &vga->state;
    if (port < 0x3c0 || port >= 0x3d0)
        return crt_is_there(vga, port) ? crt_read(vga, port) : 0xff;
    switch (port) {
    case 0x3c0: return s->ar_index;
    case 0x3c1: return (s->ar_index & 0x1f) < AR_COUNT ? s->ar[s->ar_index & 0x1f] : 0;
    case 0x3c2: return 0x10; /* input status 0: a colour monitor, no retrace interrupt */
    case 0x3c4: return s->sr_index;
    case 0x3c5: return s->sr_index < SR_COUNT ? s->sr[s->sr_index] : 0;
    case 0x3c6: return s->dac_mask;
    case 0x3c7: return s->dac_reads;
    case 0x3c8: return s->dac_index;
    case 0x3c9: return dac_read(s);
    case 0x3ca: return s->feature;
    case 0x3cc: return s->misc;
    case 0x3ce: return s->gr_index;
    case 0x3cf: return s->gr_index < GR_COUNT ? s->gr[s->gr_index] : 0;
    default: return 0xff;
    }
}

void vga_port_write(struct vga *vga, unsigned port, uint8_t value)
{
    struct vga_state *s = &vga->state;
    if (port < 0x3c0 || port >= 0x3d0) {
        if (crt_is_there(vga, port))
            crt_write(vga, port, value);
        return;
    }
    switch (port) {
    case 0x3c0: ar_write(s, value); break;
    case 0x3c2: s->misc = value & 0xef; break;
    case 0x3c4: s->sr_index = value & 0x07; break;
    case 0x3c5: if (s->sr_index < SR_COUNT) s->sr[s->sr_index] = value & sr_writable[s->sr_index]; break;
    case 0x3c6: s->dac_mask = value; break;
    case 0x3c7: dac_address(s, value, true); break;
    case 0x3c8: dac_address(s, value, false); break;
    case 0x3c9: dac_write(s, value); break;
    case 0x3ce: s->gr_index = value & 0x0f; break;
    case 0x3cf: if (s->gr_index < GR_COUNT) s->gr[s->gr_index] = value & gr_writable[s->gr_index]; break;
    default: break;
    }
    if (port == 0x3c2 || port == 0x3c5 || port == 0x3cf)
        vga_window_update(vga);
}

/* ---- the bus ---- */

static uint64_t bytes_read(struct vga *vga, unsigned port, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)vga_port_read(vga, port + i) << (8 * i);
    return value;
}

static void bytes_write(struct vga *vga, unsigned port, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        vga_port_write(vga, port + i, (uint8_t)(value >> (8 * i)));
}

static uint64_t mono_read(void *dev, uint64_t offset, unsigned size)
{
    return bytes_read(dev, PORT_FIRST + (unsigned)offset, size);
}

static void mono_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    bytes_write(dev, PORT_FIRST + (unsigned)offset, size, value);
}

static uint64_t color_read(void *dev, uint64_t offset, unsigned size)
{
    return bytes_read(dev, PORT_COLOR_FIRST + (unsigned)offset, size);
}

static void color_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    bytes_write(dev, PORT_COLOR_FIRST + (unsigned)offset, size, value);
}

const struct io_ops vga_mono_ops = {.read = mono_read, .write = mono_write, .name = "VGA"};
const struct io_ops vga_color_ops = {.read = color_read, .write = color_write, .name = "VGA"};

/* ---- life ---- */

struct vga *vga_create(const struct vga_config *config, struct error *err)
{
    struct vga *vga = calloc(1, sizeof *vga);
    if (vga == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    vga->config = *config;
    if (!memory_take_device_ram(config->memory, VGA_MEMORY_SIZE, &vga->ram_offset, err) || !vga_vbe_create(vga, err)) {
        free(vga);
        return NULL;
    }
    vga->vram = memory_ram_base(config->memory) + vga->ram_offset;
    vga_reset(vga);
    return vga;
}

void vga_destroy(struct vga *vga)
{
    free(vga);
}

void vga_reset(struct vga *vga)
{
    vga->state = (struct vga_state){.dac_mask = 0xff};
    vga_vbe_reset(vga);
    vga_window_update(vga);
}

struct pci_function *vga_function(struct vga *vga)
{
    return vga->function;
}

void vga_describe(const struct vga *vga, FILE *out)
{
    const struct vga_state *s = &vga->state;
    if (!vga_vbe_enabled(vga))
        fprintf(out, "VGA %s, %u lines\n", s->gr[GR_MISC] & GR6_GRAPHICS ? "graphics" : "text", vga_vertical_display_end(vga) + 1);
    else
        fprintf(out, "VBE %ux%u, %u bits a pixel, lines of %u bytes, first byte %#x\n", s->vbe[VBE_XRES], s->vbe[VBE_YRES],
                s->vbe[VBE_BPP], vga_vbe_pitch(vga), vga_vbe_start(vga));
    const struct {
        const char *name;
        const uint8_t *bytes;
        unsigned count;
    } groups[] = {{"sequencer", s->sr, SR_COUNT},
                  {"CRT controller", s->cr, CR_COUNT},
                  {"graphics controller", s->gr, GR_COUNT},
                  {"attribute controller", s->ar, AR_COUNT}};
    fprintf(out, "%-22s%02x\n", "miscellaneous output", s->misc);
    for (unsigned i = 0; i < ARRAY_LEN(groups); i++) {
        fprintf(out, "%-21s", groups[i].name);
        for (unsigned n = 0; n < groups[i].count; n++)
            fprintf(out, " %02x", groups[i].bytes[n]);
        fprintf(out, "\n");
    }
}
