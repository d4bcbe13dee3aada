/* The guest-physical address space: RAM, ROM, memory-mapped devices and I/O ports.
 *
 * RAM is one memfd, mapped twice: read-write, and read-only for whoever wants writes to fault. Both views are whole and
 * have pages without access before and behind them. In guest-physical space RAM lies in two slots, as on a PC:
 *
 *     0 .. min(size, 3 GiB)            low RAM   (host offset 0)
 *     3 GiB .. 4 GiB                   the PCI hole: devices, ROM, local APIC, I/O APIC
 *     4 GiB .. 4 GiB + (size - 3 GiB)  high RAM  (host offset 3 GiB)
 *
 * Behind it in the memfd, and in both views, lies *device RAM*: memory of a device that guests read and write without the
 * device looking on, such as the frame buffer of a display adapter. The device says where in guest-physical space parts of it
 * are seen (memory_map_ram()), in several places at once if need be. It has the backing PAGE_RAM, so every engine uses it at
 * full speed; its pages carry the flag PAGE_DEVICE: since one page may be seen in several places, nobody keeps what he decoded
 * from it.
 *
 * Holes within low RAM (the VGA window, ROM) are made by mapping devices or ROM over it: a device range
 * hides RAM below it for the CPU and for DMA alike. All ranges are whole pages except I/O port ranges.
 *
 * Whoever caches what it read from RAM (decoded instructions, translated code) *watches*
 * the page: `page_flags` of that page gets the bit that says what for, every writer looks at them (memory_write() here,
 * the CPU's slow path in mmu/), and the watcher is told through the callback, after the write, on the writer's thread.
 *
 * Unclaimed ports and addresses read as ones and swallow writes.
 *
 * Threads: mappings change only under the device lock, or before anybody else runs. The accessors of RAM and memory_page()
 * are safe from any thread at any time (guest RAM is racy by nature); device callbacks are to be called under the device
 * lock.
 */
#ifndef RING3_MEMORY_MEMORY_H
#define RING3_MEMORY_MEMORY_H

#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "base/types.h"

#define MEMORY_LOW_MAX (3 * GiB)
#define MEMORY_HIGH_BASE (4 * GiB)
#define MEMORY_RAM_MAX (512 * GiB)

/* A device's view of one of its ranges: offsets only, sizes 1, 2, 4 (ports) or 1, 2, 4, 8 (memory). The
 * bus never passes an access that leaves the range; it splits it into bytes. (A port access that begins and ends in one
 * range is whole, even where another device claims a port between: CF8h as a double word, with CF9h in it.) Values are zero-extended; a
 * read may leave junk above `size`, the bus cuts it off. NULL read gives ones, NULL write swallows. */
struct io_ops {
    uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
    void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
    /* Ports only, and where a device has much to say: up to `count` accesses of `size` bytes at one offset, at once, from or to
     * an array. They do, and return, as many as they can without anything else happening between; 0 leaves it to the above. NULL:
     * always one by one. */
    unsigned (*read_string)(void *dev, uint64_t offset, unsigned size, uint8_t *bytes, unsigned count);
    unsigned (*write_string)(void *dev, uint64_t offset, unsigned size, const uint8_t *bytes, unsigned count);
    const char *name; /* for the log and the counters: "16550A" */
};

/* Why the watcher is told about writes to a page. */
enum page_flag {
    PAGE_CODE = 1,   /* something decoded or translated from it is alive */
    PAGE_TABLE = 2,  /* shadow page tables are kept in step with it */
    PAGE_DIRECT = 4, /* it is executed directly: engine/trap/ */
    PAGE_DEVICE = 8, /* no reason, and always so: it is device RAM */
    PAGE_WATCHED = PAGE_CODE | PAGE_TABLE | PAGE_DIRECT,
};

struct memory;

/* Creates an address space with `ram_size` bytes of RAM (a multiple of 4 KiB, at least 64 KiB, at most
 * MEMORY_RAM_MAX). The RAM is zero and takes no host memory until touched. */
struct memory *memory_create(uint64_t ram_size, struct log *log, struct error *err);
/* The same with `device_size` bytes of device RAM (whole pages). */
struct memory *memory_create_with_device_ram(uint64_t ram_size, uint64_t device_size, struct log *log, struct error *err);
void memory_destroy(struct memory *memory);

uint64_t memory_ram_size(const struct memory *memory);
uint64_t memory_backing_size(const struct memory *memory); /* of the memfd: RAM and device RAM */
int memory_fd(const struct memory *memory);        /* the memfd; still owned by `memory` */
uint8_t *memory_ram_base(struct memory *memory);   /* the read-write mapping of the whole memfd */
const uint8_t *memory_ram_view_read_only(const struct memory *memory); /* the read-only one: the same offsets */

/* Mapping. `dev` and `ops` must outlive the mapping. Overlaps: the newest mapping wins until it is unmapped. False
 * with a message when the tables are full or the range is malformed. */
bool memory_map_ports(struct memory *memory, uint16_t port, unsigned count, const struct io_ops *ops, void *dev,
                      struct error *err);
bool memory_map_mmio(struct memory *memory, gpa_t base, uint64_t size, const struct io_ops *ops, void *dev,
                     struct error *err);
/* A ROM: reads see `bytes` (page-aligned host memory of `size` bytes, kept by the caller), writes are swallowed. For
 * memory_unmap_device() its `dev` is `bytes`. */
bool memory_map_rom(struct memory *memory, gpa_t base, uint64_t size, uint8_t *bytes, struct error *err);
/* Device RAM. memory_take_device_ram() gives `size` bytes of it (whole pages) to a device, for good: *offset is where in the
 * memfd, and in the views. memory_map_ram() shows a part of what `dev` took at `base`; memory_unmap_device() ends that. */
bool memory_take_device_ram(struct memory *memory, uint64_t size, uint64_t *offset, struct error *err);
bool memory_map_ram(struct memory *memory, gpa_t base, uint64_t size, uint64_t offset, void *dev, struct error *err);
void memory_unmap_ports(struct memory *memory, uint16_t port, unsigned count);
void memory_unmap(struct memory *memory, gpa_t base);
/* The same for ranges that a guest places (PCI base address registers): only the range of this very `dev` goes, though
 * others lie at the same place, and what it hid is seen again. */
void memory_unmap_device_ports(struct memory *memory, uint16_t port, unsigned count, const void *dev);
void memory_unmap_device(struct memory *memory, gpa_t base, const void *dev);

/* What backs one guest page. */
enum page_kind { PAGE_NONE, PAGE_RAM, PAGE_ROM, PAGE_MMIO };
struct page_backing {
    enum page_kind kind;
    uint8_t *hva;       /* RAM and ROM: the page's first byte */
    uint8_t *flags;     /* RAM: its enum page_flag bits; else NULL */
};
struct page_backing memory_page(struct memory *memory, gpa_t gpa);
/* The enum page_flag bits of all RAM and device RAM, a byte for each page of the memfd. */
const uint8_t *memory_page_flags(const struct memory *memory);
/* Where a page of the memfd is seen, or UINT64_MAX: device RAM that is not mapped. Of several places always the same one
 * until the map changes. */
gpa_t memory_frame_gpa(struct memory *memory, uint64_t frame);

/* The first piece of RAM or ROM that ends behind `from`, begun at `from` where that lies in it: contiguous for the guest and
 * on the host. False if there is none. For whoever maps guest memory as a whole. */
struct memory_piece {
    gpa_t base;
    uint64_t size;
    enum page_kind kind; /* PAGE_RAM or PAGE_ROM */
    uint8_t *hva;
};
bool memory_next_piece(struct memory *memory, gpa_t from, struct memory_piece *piece);

/* Host pointer to `size` bytes of RAM at `gpa`, or NULL unless they are all RAM and contiguous on the host. Writing
 * through it bypasses the watcher: for loaders before the machine runs, and for reading. */
uint8_t *memory_ram(struct memory *memory, gpa_t gpa, uint64_t size);

/* Copies between guest RAM/ROM and a buffer; writes tell the watcher and skip ROM. Never touches devices: false,
 * with nothing copied, if any byte is neither RAM nor ROM. */
bool memory_read(struct memory *memory, gpa_t gpa, void *buffer, uint64_t size);
bool memory_write(struct memory *memory, gpa_t gpa, const void *buffer, uint64_t size);

/* One CPU access to device space (or to anything: RAM and ROM work too). size 1, 2, 4, 8. */
uint64_t memory_mmio_read(struct memory *memory, gpa_t gpa, unsigned size);
void memory_mmio_write(struct memory *memory, gpa_t gpa, unsigned size, uint64_t value);

/* One CPU access to I/O ports. size 1, 2, 4. */
uint32_t memory_port_read(struct memory *memory, uint16_t port, unsigned size);
void memory_port_write(struct memory *memory, uint16_t port, unsigned size, uint32_t value);
/* Several accesses to one port, as REP INS and REP OUTS make them: at least one of `count`; returns how many were made. */
unsigned memory_port_read_string(struct memory *memory, uint16_t port, unsigned size, uint8_t *bytes, unsigned count);
unsigned memory_port_write_string(struct memory *memory, uint16_t port, unsigned size, const uint8_t *bytes,
                                  unsigned count);

/* Name of the device behind a port or address, or NULL: for counters, traces and messages. */
const char *memory_port_name(const struct memory *memory, uint16_t port);
const char *memory_mmio_name(const struct memory *memory, gpa_t gpa);

/* RAM, the ranges of devices and ROMs, and ports, a line each, in order of addresses. */
void memory_describe(const struct memory *memory, FILE *out);

/* Watching. One watcher a machine; `written` gets the bytes that were written, which lie in one page, and may clear the
 * watch. */
void memory_set_watcher(struct memory *memory, void (*written)(void *opaque, gpa_t gpa, unsigned size), void *opaque);
void memory_watch(struct memory *memory, uint64_t gpfn, enum page_flag why);
void memory_unwatch(struct memory *memory, uint64_t gpfn, enum page_flag why);
/* Called by whoever has just written to a watched page through a host pointer. Not across pages. */
void memory_notify_written(struct memory *memory, gpa_t gpa, unsigned size);

/* A counter that goes up with every change of mappings: caches of memory_page() compare it. */
uint64_t memory_generation(const struct memory *memory);
/* Hears of every change, after it, on the thread that made it. */
void memory_set_map_watcher(struct memory *memory, void (*changed)(void *opaque), void *opaque);

/* A window is address space for two pages of RAM, side by side on the host though they are not in RAM: locked accesses across
 * pages go through one. NULL, or false: the host has none to give. `page` is memory_page().hva, `n` 0 or 1. */
uint8_t *memory_window_create(void);
void memory_window_destroy(uint8_t *window);
bool memory_window_set(const struct memory *memory, uint8_t *window, unsigned n, const uint8_t *page);

#endif
