/* The VGA's window: what happens to a byte between the processor and the planes. See vga_internal.h.
 *
 * An access goes through three steps:
 *
 *     where     the map of the window (128 KiB, or one of three smaller ones), then chain-4, odd/even or planar addressing:
 *               an address of the planes, and the planes that take part
 *     what      write modes 0 to 3: rotation, set/reset, the logical function with the latch, the bit mask
 *     store     under the map mask
 *
 * All four planes of an address lie in one double word, so a latch is one, and the four planes are treated at once.
 *
 * Chain-4 is packed, as on adapters with a linear frame buffer: the byte at window address a is byte a of the memory, where the
 * original leaves out three of four addresses. So a window in chain-4 whose other registers do nothing to a byte is plain memory,
 * and then it is shown as such (memory_map_ram()): mode 13h and the banks of the extended modes are written at full speed. What is
 * read that way does not load the latches.
 *
 * Text has a short way of its own: nothing happens to a byte there either, but it is not memory without gaps.
 *
 * Without an extended mode addresses wrap at the original's 256 KiB.
 *
 * PS/2 Hardware Interface Technical Reference, "Video Subsystem": "Graphics Controller Registers", "Memory Operations". */
#include "device/vga_internal.h"

#include <string.h>

#include "base/check.h"

#define LEGACY_ADDRESSES 0x10000u
#define MEMORY_ADDRESSES ((uint32_t)(VGA_MEMORY_SIZE / 4))

/* Spreads bits 0 to 3, one for each plane, to the planes' bytes. */
static uint32_t planes_of(unsigned bits)
{
    return ((bits & 1) | (bits & 2) << 7 | (bits & 4) << 14 | (uint32_t)(bits & 8) << 21) * 0xffu;
}

static uint32_t broadcast(uint8_t byte)
{
    return byte * 0x01010101u;
}

/* The window as GR6 maps it: the address within, or UINT32_MAX outside. */
static uint32_t window_address(const struct vga *vga, uint32_t offset)
{
    switch (vga->state.gr[GR_MISC] >> 2 & 3) {
    case 0: return offset;
    case 1: return offset < 0x10000 ? offset : UINT32_MAX;
    case 2: return offset >= 0x10000 && offset < 0x18000 ? offset - 0x10000 : UINT32_MAX;
    default: return offset >= 0x18000 ? offset - 0x18000 : UINT32_MAX;
    }
}

static uint32_t bank_of(const struct vga *vga)
{
    return vga_vbe_enabled(vga) ? (uint32_t)vga->state.vbe[VBE_BANK] << 16 : 0;
}

/* The planes' address behind an address in the window. */
static uint32_t plane_address(const struct vga *vga, uint32_t address)
{
    const struct vga_state *s = &vga->state;
    address += bank_of(vga);
    if (s->sr[SR_MEMORY] & SR4_CHAIN4)
        address >>= 2;
    else if (s->gr[GR_MISC] & GR6_CHAIN_ODD_EVEN)
        address &= ~1u;
    return address & ((vga_vbe_enabled(vga) ? MEMORY_ADDRESSES : LEGACY_ADDRESSES) - 1);
}

static uint32_t logical(unsigned function, uint32_t value, uint32_t latch)
{
    switch (function) {
    case 1: return value & latch;
    case 2: return value | latch;
    case 3: return value ^ latch;
    default: return value;
    }
}

/* What comes out of the graphics controller for a byte from the processor: for all planes. */
static uint32_t written_planes(const struct vga_state *s, uint8_t byte)
{
    unsigned rotate = s->gr[GR_ROTATE] & 7, function = s->gr[GR_ROTATE] >> 3 & 3;
    uint8_t rotated = (uint8_t)(byte >> rotate | byte << (8 - rotate)), mask = s->gr[GR_MASK];
    uint32_t set_reset = planes_of(s->gr[GR_SET_RESET]), value;
    switch (s->gr[GR_MODE] & GR5_WRITE_MODE) {
    case 0: {
        uint32_t enabled = planes_of(s->gr[GR_ENABLE_SET_RESET]);
        value = (set_reset & enabled) | (broadcast(rotated) & ~enabled);
        break;
    }
    case 1: return s->latch;
    case 2: value = planes_of(byte & 0x0f); break;
    default:
        value = set_reset;
        mask &= rotated;
        break;
    }
    uint32_t bits = broadcast(mask);
    return (logical(function, value, s->latch) & bits) | (s->latch & ~bits);
}

static void byte_write(struct vga *vga, uint32_t offset, uint8_t byte)
{
    const struct vga_state *s = &vga->state;
    uint32_t address = window_address(vga, offset), old;
    if (address == UINT32_MAX || !(s->misc & MISC_RAM))
        return;
    unsigned planes = s->sr[SR_MAP_MASK];
    if (s->sr[SR_MEMORY] & SR4_CHAIN4)
        planes &= 1u << (address & 3);
    else if (!(s->sr[SR_MEMORY] & SR4_SEQUENTIAL))
        planes &= address & 1 ? 0xau : 0x5u;
    uint8_t *at = vga->vram + 4 * (size_t)plane_address(vga, address);
    uint32_t mask = planes_of(planes), value = written_planes(s, byte);
    memcpy(&old, at, 4);
    value = (old & ~mask) | (value & mask);
    memcpy(at, &value, 4);
}

static uint8_t byte_read(struct vga *vga, uint32_t offset)
{
    struct vga_state *s = &vga->state;
    uint32_t address = window_address(vga, offset);
    if (address == UINT32_MAX || !(s->misc & MISC_RAM))
        return 0xff;
    memcpy(&s->latch, vga->vram + 4 * (size_t)plane_address(vga, address), 4);
    if (s->gr[GR_MODE] & GR5_READ_COMPARE) {
        uint32_t differs = (s->latch ^ planes_of(s->gr[GR_COMPARE])) & planes_of(s->gr[GR_IGNORE]);
        differs |= differs >> 16;
        return (uint8_t)~(differs | differs >> 8);
    }
    unsigned plane = s->gr[GR_READ_MAP];
    if (s->sr[SR_MEMORY] & SR4_CHAIN4)
        plane = address & 3;
    else if (s->gr[GR_MODE] & GR5_ODD_EVEN)
        plane = (plane & 2) | (address & 1);
    return (uint8_t)(s->latch >> (8 * plane));
}

/* Whether an access lies in text, and where there. */
static bool is_text(const struct vga *vga, uint64_t offset, unsigned size, uint32_t *at)
{
    *at = (uint32_t)offset - vga->text_from;
    return *at < vga->text_size && size <= vga->text_size - *at;
}

static uint8_t *text_byte(const struct vga *vga, uint32_t at)
{
    return vga->vram + 4 * (size_t)(at & ~1u) + (at & 1);
}

static uint64_t window_read(void *dev, uint64_t offset, unsigned size)
{
    struct vga *vga = dev;
    uint64_t value = 0;
    uint32_t at;
    if (is_text(vga, offset, size, &at)) {
        for (unsigned i = 0; i < size; i++)
            value |= (uint64_t)*text_byte(vga, at + i) << (8 * i);
        memcpy(&vga->state.latch, text_byte(vga, (at + size - 1) & ~1u), 4);
        return value;
    }
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)byte_read(dev, (uint32_t)offset + i) << (8 * i);
    return value;
}

static void window_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    const struct vga *vga = dev;
    uint32_t at;
    if (is_text(vga, offset, size, &at)) {
        for (unsigned i = 0; i < size; i++)
            *text_byte(vga, at + i) = (uint8_t)(value >> (8 * i));
        return;
    }
    for (unsigned i = 0; i < size; i++)
        byte_write(dev, (uint32_t)offset + i, (uint8_t)(value >> (8 * i)));
}

const struct io_ops vga_window_ops = {.read = window_read, .write = window_write, .name = "VGA memory"};

/* ---- as plain memory ---- */

/* The memory answers, and a byte arrives as it was sent and comes back as it is. */
static bool bytes_pass(const struct vga_state *s)
{
    return (s->misc & MISC_RAM) && !(s->gr[GR_MODE] & (GR5_WRITE_MODE | GR5_READ_COMPARE)) &&
           s->gr[GR_ENABLE_SET_RESET] == 0 && s->gr[GR_ROTATE] == 0 && s->gr[GR_MASK] == 0xff;
}

static bool window_is_plain(const struct vga_state *s)
{
    return bytes_pass(s) && (s->sr[SR_MEMORY] & SR4_CHAIN4) && s->sr[SR_MAP_MASK] == 0x0f && (s->gr[GR_MISC] >> 2 & 3) < 2;
}

/* Characters and attributes in planes 0 and 1, at B0000h or B8000h: as good as all accesses of text modes. */
static void text_update(struct vga *vga)
{
    const struct vga_state *s = &vga->state;
    unsigned map = s->gr[GR_MISC] >> 2 & 3;
    bool text = bytes_pass(s) && map >= 2 && !vga_vbe_enabled(vga) && (s->gr[GR_MISC] & GR6_CHAIN_ODD_EVEN) &&
                (s->gr[GR_MODE] & GR5_ODD_EVEN) && !(s->sr[SR_MEMORY] & (SR4_CHAIN4 | SR4_SEQUENTIAL)) &&
                s->sr[SR_MAP_MASK] == 0x03 && s->gr[GR_READ_MAP] < 2;
    vga->text_from = map == 2 ? 0x10000 : 0x18000;
    vga->text_size = text ? 0x8000 : 0;
}

void vga_window_update(struct vga *vga)
{
    struct memory *memory = vga->config.memory;
    uint64_t from = bank_of(vga), size = 0;
    text_update(vga);
    if (window_is_plain(&vga->state))
        size = (vga->state.gr[GR_MISC] >> 2 & 3) == 0 ? 0x20000 : 0x10000;
    if (size > VGA_MEMORY_SIZE - from)
        size = 0; /* it wraps within the window */
    if (size == vga->direct_size && (size == 0 || from == vga->direct_from))
        return;
    if (vga->direct_size != 0)
        memory_unmap_device(memory, vga->config.window_base, &vga->direct_size);
    /* Should the tables be full, the accesses come here, to the same effect. */
    bool mapped = size != 0 && memory_map_ram(memory, vga->config.window_base, size, vga->ram_offset + from,
                                            &vga->direct_size, NULL);
    vga->direct_size = mapped ? size : 0;
    vga->direct_from = from;
}
