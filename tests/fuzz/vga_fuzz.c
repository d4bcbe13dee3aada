/* libFuzzer entry for the display adapter: whatever its registers say, no access leaves its memory, and every picture can be drawn.
 *
 * The input is a sequence of steps of 6 bytes: what to do, a selector, and four bytes of value. Ports and memory are those of a PC
 * (machine/pc_video.c), so what arrives at the adapter has gone over the bus. The adapter's memory lies behind RAM in a mapping with
 * guard pages, so an access beyond it faults. */
#include <stdint.h>
#include <stdlib.h>

#include "base/timer.h"
#include "device/vga.h"

#define STEP_BYTES 6u
#define STEPS_MAX 2048u
#define PIXELS_MAX (1024u * 1024u)
#define PICTURES_MAX 8u
#define WINDOW 0xa0000u
#define LFB 0xe0000000u
#define MMIO 0xe1000000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum step_kind {
    STEP_INDEXED, /* an index and its register */
    STEP_PORT_WRITE,
    STEP_PORT_READ,
    STEP_WINDOW_WRITE,
    STEP_WINDOW_READ,
    STEP_VBE,
    STEP_MMIO,
    STEP_TIME,
    STEP_DRAW,
    STEP_MODE,
    STEP_PCI,
    STEP_RESET,
    STEP_KINDS,
};

struct world {
    uint64_t now_ns;
    struct timer_queue queue;
    struct memory *memory;
    struct pci_host *pci;
    struct vga *vga;
    struct screen_picture picture;
    struct screen_text text;
    unsigned pictures;
};

static uint64_t world_now(void *opaque)
{
    return ((struct world *)opaque)->now_ns;
}

static void map(struct world *w)
{
    memory_map_ports(w->memory, 0x3b0, VGA_MONO_PORTS, &vga_mono_ops, w->vga, NULL);
    memory_map_ports(w->memory, 0x3c0, VGA_COLOR_PORTS, &vga_color_ops, w->vga, NULL);
    memory_map_ports(w->memory, 0x1ce, VGA_VBE_PORTS, &vga_vbe_ops, w->vga, NULL);
    memory_map_mmio(w->memory, WINDOW, VGA_WINDOW_SIZE, &vga_window_ops, w->vga, NULL);
    pci_host_write(w->pci, 2, 0, PCI_BAR0, 4, LFB);
    pci_host_write(w->pci, 2, 0, PCI_BAR0 + 8, 4, MMIO);
    pci_host_write(w->pci, 2, 0, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
}

/* Large pictures take long, and are drawn by the same code. */
static void picture(struct world *w)
{
    memory_port_write(w->memory, 0x1ce, 2, 1);
    uint32_t width = memory_port_read(w->memory, 0x1cf, 2);
    memory_port_write(w->memory, 0x1ce, 2, 2);
    uint32_t height = memory_port_read(w->memory, 0x1cf, 2);
    vga_text(w->vga, &w->text);
    if (width * height <= PIXELS_MAX && w->pictures++ < PICTURES_MAX)
        vga_render(w->vga, &w->picture);
}

static void step(struct world *w, const uint8_t bytes[STEP_BYTES])
{
    static const uint16_t indexed[] = {0x3c4, 0x3d4, 0x3ce, 0x3c0, 0x3b4, 0x3c8};
    uint32_t value = bytes[2] | (uint32_t)bytes[3] << 8 | (uint32_t)bytes[4] << 16 | (uint32_t)bytes[5] << 24;
    unsigned which = bytes[1], width = 1u << (which & 3);
    uint32_t at = (value >> 8) % VGA_WINDOW_SIZE;
    switch (bytes[0] % STEP_KINDS) {
    case STEP_INDEXED:
        memory_port_write(w->memory, indexed[which % ARRAY_LEN(indexed)], 1, bytes[2] & 0x3f);
        memory_port_write(w->memory, (uint16_t)(indexed[which % ARRAY_LEN(indexed)] | 1), 1, bytes[3]);
        break;
    case STEP_PORT_WRITE: memory_port_write(w->memory, (uint16_t)(0x3b0 + which % 0x30), 1u << (value >> 16 & 1), value & 0xffff); break;
    case STEP_PORT_READ: memory_port_read(w->memory, (uint16_t)(0x3b0 + which % 0x30), 1u << (value & 1)); break;
    case STEP_WINDOW_WRITE: memory_mmio_write(w->memory, WINDOW + at, width, value * 0x100000001ull); break;
    case STEP_WINDOW_READ: memory_mmio_read(w->memory, WINDOW + at, width); break;
    case STEP_VBE:
        memory_port_write(w->memory, 0x1ce, 2, which % 13);
        memory_port_write(w->memory, 0x1cf, 2, which % 13 == 4 ? (value & 0xff) | 0x80 : value & 0xffff);
        memory_port_read(w->memory, 0x1cf, 2);
        break;
    case STEP_MMIO:
        memory_mmio_read(w->memory, MMIO + (value & 0xfff), width);
        memory_mmio_write(w->memory, MMIO + (which & 4 ? 0x500 + (value & 0x1f) : value & 0x7ff), width, value >> 12);
        break;
    case STEP_TIME: w->now_ns += value; break;
    case STEP_DRAW: picture(w); break;
    case STEP_MODE: vga_set_text_mode(w->vga); break;
    case STEP_PCI: pci_host_write(w->pci, 2, 0, which & 0x3c, 4, value); break;
    default: vga_reset(w->vga); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {0};
    timer_queue_init(&w.queue, world_now, NULL, &w);
    w.memory = memory_create_with_device_ram(1 * MiB, VGA_MEMORY_SIZE, NULL, NULL);
    w.pci = w.memory != NULL ? pci_host_create(w.memory) : NULL;
    if (w.pci == NULL)
        abort();
    const struct vga_config config = {.memory = w.memory, .queue = &w.queue, .pci = w.pci, .slot = 2, .window_base = WINDOW};
    w.vga = vga_create(&config, NULL);
    if (w.vga == NULL)
        abort();
    map(&w);
    for (size_t i = 0; i < size / STEP_BYTES && i < STEPS_MAX; i++)
        step(&w, data + STEP_BYTES * i);
    picture(&w);
    screen_picture_fini(&w.picture);
    screen_text_fini(&w.text);
    vga_destroy(w.vga);
    pci_host_destroy(w.pci);
    memory_destroy(w.memory);
    return 0;
}
