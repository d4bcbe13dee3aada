/* The Bochs extensions of the VGA: a mode is a width, a height and a depth, without timing. And the adapter as a PCI function.
 *
 * Model. Sixteen-bit registers behind an index, at ports 1CEh (index) and 1CFh (data), and in memory behind base address 2.
 * Setting VBE_ENABLED takes the resolution that was written before, makes it fit (pixels in eights, never more than the memory
 * holds, never 0), and sets the VGA's registers to what the memory's window needs then: chain-4, or planes with 4 bits a pixel.
 * While enabled, width and height stay; the rest of the picture may be moved and the virtual width changed. Clearing it leaves the
 * VGA's registers to whoever cleared it.
 *
 * Base address 0 is the memory, linear. Base address 2:
 *
 *     000h  EDID; all zero: there is none
 *     400h  the VGA's ports from 3C0h on
 *     500h  the registers of the extensions, two bytes each
 *     600h  size of this register group (8), byte order (1E1E1E1Eh: little endian; it cannot be changed)
 *
 * Bochs: "VBE Display API" (B0C0h to B0C5h); QEMU: standard-vga. Registers have 16 bits; accesses of one byte to the ports are
 * not decoded. */
#include "device/vga_internal.h"

#include <string.h>

#define ID_FIRST 0xb0c0u
#define ID_LAST 0xb0c5u
#define BITS_MAX 32u

#define MMIO_SIZE 0x1000u
#define MMIO_VGA 0x400u
#define MMIO_VBE 0x500u
#define MMIO_OWN 0x600u
#define OWN_SIZE 8u
#define LITTLE_ENDIAN 0x1e1e1e1eu

/* ---- what the registers say ---- */

unsigned vga_vbe_bits(const struct vga *vga)
{
    unsigned bits = vga->state.vbe[VBE_BPP];
    return bits == 15 ? 16 : bits;
}

static uint32_t bytes_of(unsigned bits, uint32_t pixels)
{
    return bits == 4 ? pixels / 8 : pixels * (bits / 8);
}

uint32_t vga_vbe_pitch(const struct vga *vga)
{
    return bytes_of(vga_vbe_bits(vga), vga->state.vbe[VBE_VIRT_WIDTH]);
}

uint32_t vga_vbe_start(const struct vga *vga)
{
    const uint16_t *vbe = vga->state.vbe;
    return vbe[VBE_Y_OFFSET] * vga_vbe_pitch(vga) + bytes_of(vga_vbe_bits(vga), vbe[VBE_X_OFFSET]);
}

static uint16_t at_most(uint32_t value, uint32_t limit)
{
    return (uint16_t)(value < limit ? value : limit);
}

/* Makes the registers a picture that lies within the memory. */
static void make_fit(struct vga *vga)
{
    uint16_t *vbe = vga->state.vbe;
    uint16_t bits = vbe[VBE_BPP];
    if (bits != 4 && bits != 8 && bits != 15 && bits != 16 && bits != 24 && bits != 32)
        vbe[VBE_BPP] = 8;
    uint32_t memory = vga_vbe_bits(vga) == 4 ? VGA_MEMORY_SIZE / 4 : VGA_MEMORY_SIZE;
    vbe[VBE_XRES] = at_most(vbe[VBE_XRES] & ~7u, VBE_XRES_MAX);
    if (vbe[VBE_XRES] == 0)
        vbe[VBE_XRES] = 8;
    vbe[VBE_VIRT_WIDTH] &= (uint16_t)~7u;
    if (vbe[VBE_VIRT_WIDTH] < vbe[VBE_XRES])
        vbe[VBE_VIRT_WIDTH] = vbe[VBE_XRES];
    uint32_t lines = memory / vga_vbe_pitch(vga); /* at least 64: 65528 pixels of 4 bytes */
    vbe[VBE_YRES] = at_most(at_most(vbe[VBE_YRES], VBE_YRES_MAX), lines);
    if (vbe[VBE_YRES] == 0)
        vbe[VBE_YRES] = 1;
    vbe[VBE_VIRT_HEIGHT] = at_most(lines, UINT16_MAX);
    vbe[VBE_X_OFFSET] = at_most(vbe[VBE_X_OFFSET], (uint32_t)vbe[VBE_VIRT_WIDTH] - vbe[VBE_XRES]);
    vbe[VBE_Y_OFFSET] = at_most(vbe[VBE_Y_OFFSET], (uint32_t)vbe[VBE_VIRT_HEIGHT] - vbe[VBE_YRES]);
}

/* ---- writing ---- */

/* The VGA as the window and programs that read its registers need it. */
static void set_vga(struct vga *vga)
{
    struct vga_state *s = &vga->state;
    const uint16_t *vbe = s->vbe;
    unsigned last_line = vbe[VBE_YRES] - 1u;
    s->misc |= MISC_COLOR | MISC_RAM;
    s->gr[GR_MISC] = (uint8_t)((s->gr[GR_MISC] & ~0x0eu) | 0x04 | GR6_GRAPHICS);
    s->gr[GR_MODE] &= (uint8_t)~(GR5_SHIFT_CGA | GR5_SHIFT_256 | GR5_ODD_EVEN);
    s->cr[CR_VRETRACE_END] &= (uint8_t)~CR11_PROTECT;
    s->cr[CR_MODE] |= CR17_ROW_TO_BIT_13 | CR17_ROW_TO_BIT_14;
    s->cr[CR_OFFSET] = (uint8_t)(vga_vbe_pitch(vga) >> 3);
    s->cr[CR_HDISPLAY_END] = (uint8_t)(vbe[VBE_XRES] / 8 - 1);
    s->cr[CR_VDISPLAY_END] = (uint8_t)last_line;
    s->cr[CR_OVERFLOW] = (uint8_t)((s->cr[CR_OVERFLOW] & ~0x52u) | (last_line & 0x100) >> 7 | (last_line & 0x200) >> 3 | 0x10);
    s->cr[CR_LINE_COMPARE] = 0xff;
    s->cr[CR_MAX_SCAN] = (uint8_t)((s->cr[CR_MAX_SCAN] & ~0x9fu) | 0x40);
    s->sr[SR_CLOCKING] &= (uint8_t)~(SR1_HALF_CLOCK | SR1_SCREEN_OFF);
    s->sr[SR_MEMORY] = (uint8_t)((s->sr[SR_MEMORY] & ~SR4_CHAIN4) | 0x02 | SR4_SEQUENTIAL);
    if (vga_vbe_bits(vga) != 4) {
        s->gr[GR_MODE] |= GR5_SHIFT_256;
        s->sr[SR_MEMORY] |= SR4_CHAIN4;
        s->sr[SR_MAP_MASK] = 0x0f;
    }
    s->ar_index |= AR_INDEX_ON;
}

static void write_enable(struct vga *vga, uint16_t value)
{
    uint16_t *vbe = vga->state.vbe;
    bool was_on = vga_vbe_enabled(vga), on = value & VBE_ENABLED, wide = value & VBE_8BIT_DAC;
    if (wide != ((vbe[VBE_ENABLE] & VBE_8BIT_DAC) != 0)) { /* the colours stay what they are */
        for (unsigned i = 0; i < 256; i++)
            for (unsigned n = 0; n < 3; n++) {
                uint8_t *level = &vga->state.dac[i][n];
                *level = (uint8_t)(wide ? *level << 2 | *level >> 4 : *level >> 2);
            }
    }
    vbe[VBE_ENABLE] = value & (VBE_ENABLED | VBE_GET_CAPABILITIES | VBE_8BIT_DAC | VBE_LINEAR | VBE_NO_CLEAR);
    if (on && !was_on) {
        vbe[VBE_VIRT_WIDTH] = vbe[VBE_XRES];
        vbe[VBE_X_OFFSET] = vbe[VBE_Y_OFFSET] = 0;
        make_fit(vga);
        set_vga(vga);
        if (!(value & VBE_NO_CLEAR))
            memset(vga->vram, 0, (size_t)vbe[VBE_YRES] * vga_vbe_pitch(vga) * (vga_vbe_bits(vga) == 4 ? 4 : 1));
    }
    if (!on)
        vbe[VBE_BANK] = 0;
}

static void vbe_write(struct vga *vga, unsigned n, uint16_t value)
{
    uint16_t *vbe = vga->state.vbe;
    switch (n) {
    case VBE_ID:
        if (value >= ID_FIRST && value <= ID_LAST)
            vbe[n] = value;
        break;
    case VBE_XRES:
    case VBE_YRES:
    case VBE_BPP:
        if (!vga_vbe_enabled(vga))
            vbe[n] = value;
        break;
    case VBE_VIRT_WIDTH:
    case VBE_X_OFFSET:
    case VBE_Y_OFFSET:
        vbe[n] = value;
        if (vga_vbe_enabled(vga)) {
            make_fit(vga);
            vga->state.cr[CR_OFFSET] = (uint8_t)(vga_vbe_pitch(vga) >> 3);
        }
        break;
    case VBE_BANK: vbe[n] = value & (VGA_MEMORY_SIZE / (64 * KiB) - 1); break;
    case VBE_ENABLE: write_enable(vga, value); break;
    default: break;
    }
    if (n == VBE_ENABLE || n == VBE_BANK)
        vga_window_update(vga);
}

static uint16_t vbe_read(const struct vga *vga, unsigned n)
{
    const uint16_t *vbe = vga->state.vbe;
    bool capabilities = vbe[VBE_ENABLE] & VBE_GET_CAPABILITIES;
    switch (n) {
    case VBE_XRES: return capabilities ? VBE_XRES_MAX : vbe[n];
    case VBE_YRES: return capabilities ? VBE_YRES_MAX : vbe[n];
    case VBE_BPP: return capabilities ? BITS_MAX : vbe[n];
    case VBE_MEMORY_64K: return VGA_MEMORY_SIZE / (64 * KiB);
    default: return n < VBE_COUNT ? vbe[n] : 0;
    }
}

/* ---- ports ---- */

static uint64_t ports_read(void *dev, uint64_t offset, unsigned size)
{
    const struct vga *vga = dev;
    if (size != 2)
        return UINT64_MAX;
    return offset == 0 ? vga->state.vbe_index : vbe_read(vga, vga->state.vbe_index);
}

static void ports_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct vga *vga = dev;
    if (size != 2)
        return;
    if (offset == 0)
        vga->state.vbe_index = (uint16_t)value;
    else
        vbe_write(vga, vga->state.vbe_index, (uint16_t)value);
}

const struct io_ops vga_vbe_ops = {.read = ports_read, .write = ports_write, .name = "VBE"};

/* ---- base address 2 ---- */

static uint8_t mmio_read_byte(struct vga *vga, uint32_t offset)
{
    if (offset >= MMIO_VGA && offset < MMIO_VGA + VGA_COLOR_PORTS)
        return vga_port_read(vga, 0x3c0 + offset - MMIO_VGA);
    if (offset >= MMIO_VBE && offset < MMIO_VBE + 2 * VBE_COUNT)
        return (uint8_t)(vbe_read(vga, (offset - MMIO_VBE) / 2) >> (8 * (offset & 1)));
    if (offset >= MMIO_OWN && offset < MMIO_OWN + OWN_SIZE)
        return offset < MMIO_OWN + 4 ? (uint8_t)(OWN_SIZE >> (8 * (offset & 3))) : LITTLE_ENDIAN & 0xff;
    return 0;
}

static uint64_t mmio_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)mmio_read_byte(dev, (uint32_t)offset + i) << (8 * i);
    return value;
}

static void mmio_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct vga *vga = dev;
    for (unsigned i = 0; i < size; i++) {
        uint32_t at = (uint32_t)offset + i;
        if (at >= MMIO_VGA && at < MMIO_VGA + VGA_COLOR_PORTS)
            vga_port_write(vga, 0x3c0 + at - MMIO_VGA, (uint8_t)(value >> (8 * i)));
        else if (at >= MMIO_VBE && at < MMIO_VBE + 2 * VBE_COUNT && at % 2 == 0 && i + 1 < size)
            vbe_write(vga, (at - MMIO_VBE) / 2, (uint16_t)(value >> (8 * i)));
    }
}

static const struct io_ops mmio_ops = {.read = mmio_read, .write = mmio_write, .name = "VGA registers"};

bool vga_vbe_create(struct vga *vga, struct error *err)
{
    static const struct pci_function_desc desc = {.vendor_id = 0x1234,
                                                  .device_id = 0x1111,
                                                  .revision = 2,
                                                  .class_code = 0x030000,
                                                  .subsystem_vendor_id = 0x1af4,
                                                  .subsystem_id = 0x1100};
    vga->function = pci_add_function(vga->config.pci, vga->config.slot, 0, &desc, vga, err);
    if (vga->function == NULL)
        return false;
    pci_set_bar_ram(vga->function, 0, PCI_BAR_MEMORY, true, VGA_MEMORY_SIZE, vga->ram_offset, vga);
    pci_set_bar(vga->function, 2, PCI_BAR_MEMORY, false, MMIO_SIZE, &mmio_ops, vga);
    return true;
}

void vga_vbe_reset(struct vga *vga)
{
    vga->state.vbe[VBE_ID] = ID_LAST;
    vga->state.vbe[VBE_BPP] = 8;
}
