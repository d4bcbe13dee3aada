/* The display adapter: an IBM VGA with 16 MiB of memory and the extensions of Bochs and QEMU ("stdvga", PCI 1234:1111), for
 * which SeaBIOS has a video BIOS and every system a driver.
 *
 * Ownership: the adapter takes VGA_MEMORY_SIZE of device RAM for good; its PCI function belongs to the host bridge. Threads:
 * every call under the device lock. Errors: only while it is made.
 *
 * Sources: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; Bochs, "VBE Display API"; QEMU,
 * docs/specs/standard-vga. */
#ifndef RING3_DEVICE_VGA_H
#define RING3_DEVICE_VGA_H

#include "base/error.h"
#include "base/screen.h"
#include "base/timer.h"
#include "device/pci.h"
#include "memory/memory.h"

#define VGA_MEMORY_SIZE (16 * MiB)
#define VGA_WINDOW_SIZE 0x20000u /* A0000h to BFFFFh of a PC */

struct vga;

struct vga_config {
    struct memory *memory; /* created with VGA_MEMORY_SIZE of device RAM to take */
    struct timer_queue *queue;
    struct pci_host *pci;
    unsigned slot;
    gpa_t window_base; /* where the board maps vga_window_ops, so that the adapter can show memory there instead */
};

/* NULL with a message when the slot is taken or there is no memory. */
struct vga *vga_create(const struct vga_config *config, struct error *err);
void vga_destroy(struct vga *vga);
/* After power-on: nothing is shown, until somebody sets a mode. The memory keeps what it has. */
void vga_reset(struct vga *vga);
/* What a video BIOS would have left behind: text mode 3 (80x25, a font, an empty screen), for a kernel started directly. */
void vga_set_text_mode(struct vga *vga);
/* For the video BIOS in its expansion ROM. */
struct pci_function *vga_function(struct vga *vga);

/* For the board to map, all with the struct vga: ports 3B0h to 3BBh, 3C0h to 3DFh, 1CEh to 1D0h of a PC, and memory. */
extern const struct io_ops vga_mono_ops;
extern const struct io_ops vga_color_ops;
extern const struct io_ops vga_vbe_ops;
extern const struct io_ops vga_window_ops;
#define VGA_MONO_PORTS 12u
#define VGA_COLOR_PORTS 32u
#define VGA_VBE_PORTS 3u

/* What a monitor on the adapter shows now; what blinks is in its visible phase. False, and the picture is 0 by 0, when out of
 * memory. While the screen is off (or no mode was ever set) the picture is black. */
bool vga_render(const struct vga *vga, struct screen_picture *picture);
/* The characters, while in a text mode; false otherwise. */
bool vga_text(const struct vga *vga, struct screen_text *text);

/* The mode and the main registers, in words. */
void vga_describe(const struct vga *vga, FILE *out);

#endif
