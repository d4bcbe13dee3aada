/* The display adapter on the board: PCI slot 2, as on QEMU's PC, and at the places where a VGA has been since 1987.
 *
 * The legacy ports and the window at A0000h answer always, whatever the function's command register says: the host bridge of this
 * machine has nobody else to send them to.
 *
 * A kernel that is started directly finds what a BIOS would have left: text mode 3, decoding enabled, and base addresses. With
 * firmware the video BIOS in the adapter's expansion ROM sets the mode, and firmware places it.
 *
 * Without an adapter (`--vga none`) nobody answers. */
#include "machine/pc_internal.h"

#include "device/vga.h"

enum {
    PORT_VGA_MONO = 0x3b0,
    PORT_VGA_COLOR = 0x3c0,
    PORT_VBE = 0x1ce,
};

#define VIDEO_SLOT 2u
#define VIDEO_MEMORY 0xfd000000u /* where a kernel started directly finds it; firmware decides for itself */
#define VIDEO_REGISTERS 0xfebf0000u
#define VIDEO_BIOS "vgabios-stdvga.bin"

_Static_assert(VGA_WINDOW_SIZE == VIDEO_SIZE, "the whole of the chipset's hole for it");

uint64_t pc_device_ram(bool vga)
{
    return vga ? VGA_MEMORY_SIZE : 0;
}

bool pc_has_vga(const struct pc *pc)
{
    return pc->vga != NULL;
}

static bool map(struct pc *pc, struct error *err)
{
    struct memory *memory = pc->config.memory;
    return memory_map_ports(memory, PORT_VGA_MONO, VGA_MONO_PORTS, &vga_mono_ops, pc->vga, err) &&
           memory_map_ports(memory, PORT_VGA_COLOR, VGA_COLOR_PORTS, &vga_color_ops, pc->vga, err) &&
           memory_map_ports(memory, PORT_VBE, VGA_VBE_PORTS, &vga_vbe_ops, pc->vga, err) &&
           memory_map_mmio(memory, VIDEO_BASE, VIDEO_SIZE, &vga_window_ops, pc->vga, err);
}

bool pc_create_video(struct pc *pc, struct error *err)
{
    /* The chipset sends accesses there to PCI, never to RAM. */
    static const struct io_ops nobody_ops = {.name = "video memory"};
    if (!pc->config.vga)
        return memory_map_mmio(pc->config.memory, VIDEO_BASE, VIDEO_SIZE, &nobody_ops, NULL, err);
    const struct vga_config config = {.memory = pc->config.memory,
                                      .queue = pc->config.queue,
                                      .pci = pc->pci,
                                      .slot = VIDEO_SLOT,
                                      .window_base = VIDEO_BASE};
    pc->vga = vga_create(&config, err);
    if (pc->vga == NULL || !map(pc, err))
        return false;
    return !pc_has_firmware(pc) || pc_set_rom(pc, vga_function(pc->vga), VIDEO_BIOS, err);
}

void pc_destroy_video(struct pc *pc)
{
    vga_destroy(pc->vga);
}

void pc_reset_video(struct pc *pc)
{
    if (pc->vga == NULL)
        return;
    vga_reset(pc->vga);
    if (pc_has_firmware(pc))
        return;
    vga_set_text_mode(pc->vga);
    pci_host_write(pc->pci, VIDEO_SLOT, 0, PCI_BAR0, 4, VIDEO_MEMORY);
    pci_host_write(pc->pci, VIDEO_SLOT, 0, PCI_BAR0 + 8, 4, VIDEO_REGISTERS);
    pci_host_write(pc->pci, VIDEO_SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
}

void pc_describe_video(const struct pc *pc, FILE *out)
{
    if (pc->vga != NULL)
        vga_describe(pc->vga, out);
    else
        fputs("no display adapter (--vga none)\n", out);
}

bool pc_screen_render(const struct pc *pc, struct screen_picture *picture)
{
    return pc->vga != NULL && vga_render(pc->vga, picture);
}

bool pc_screen_text(const struct pc *pc, struct screen_text *text)
{
    return pc->vga != NULL && vga_text(pc->vga, text);
}
