/* Multiboot 1: what the header's flags ask for, and the information structure.
 *
 * Given: memory sizes and map, command line, modules, ELF sections, the loader's name, and the screen if it shows text. Not
 * given: boot device, drives, a BIOS's configuration table, APM, VBE: there is no BIOS. A kernel that asks for a graphics
 * mode gets text, which the specification leaves to the loader.
 *
 * Multiboot Specification 0.6.96, 3.1 and 3.3. */
#include "boot/multiboot.h"

#include <string.h>

#define FLAG_PAGE_ALIGN (1u << 0) /* modules always are */
#define FLAG_MEMORY_INFO (1u << 1)
#define FLAG_VIDEO_MODE (1u << 2)
#define FLAG_ADDRESSES (1u << 16)
#define FLAGS_REQUIRED 0xffffu

#define INFO_MEMORY (1u << 0)
#define INFO_COMMAND_LINE (1u << 2)
#define INFO_MODULES (1u << 3)
#define INFO_ELF (1u << 5)
#define INFO_MEMORY_MAP (1u << 6)
#define INFO_LOADER_NAME (1u << 9)
#define INFO_FRAMEBUFFER (1u << 12)

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t elf_num, elf_size, elf_addr, elf_shndx;
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name, apm_table;
    uint32_t vbe_control_info, vbe_mode_info;
    uint16_t vbe_mode, vbe_interface_seg, vbe_interface_off, vbe_interface_len;
    uint64_t framebuffer_addr;
    uint32_t framebuffer_pitch, framebuffer_width, framebuffer_height;
    uint8_t framebuffer_bpp, framebuffer_type, color_info[6];
} __attribute__((packed));
_Static_assert(sizeof(struct info) == 116, "3.3");

struct mmap_entry {
    uint32_t size;
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

struct module_entry {
    uint32_t start, end, string, reserved;
};

bool multiboot1_read(struct multiboot_kernel *k, struct error *err)
{
    struct multiboot *h = &k->header;
    uint32_t unknown = h->flags & FLAGS_REQUIRED & ~(FLAG_PAGE_ALIGN | FLAG_MEMORY_INFO | FLAG_VIDEO_MODE);
    if (unknown != 0)
        return error_set(err, "%s: is a Multiboot kernel that requires what ring3 does not know: flags %#x", k->file->name, unknown);
    if (!(h->flags & FLAG_ADDRESSES))
        return true;
    if (k->file->size - h->offset < 32)
        return error_set(err, "%s: is a truncated Multiboot kernel: its header has no room for the addresses that it announces",
                         k->file->name);
    h->has_address = h->has_entry = true;
    h->header_gpa = multiboot_u32(k->file, h->offset + 12);
    h->load_gpa = multiboot_u32(k->file, h->offset + 16);
    h->load_end_gpa = multiboot_u32(k->file, h->offset + 20);
    h->bss_end_gpa = multiboot_u32(k->file, h->offset + 24);
    h->entry_gpa = multiboot_u32(k->file, h->offset + 28);
    return true;
}

static uint32_t put_string(struct multiboot_writer *w, const char *text)
{
    return MULTIBOOT_INFO + multiboot_put(w, text, strlen(text) + 1, 4);
}

static void put_modules(struct multiboot_kernel *k, struct multiboot_writer *w, struct info *info)
{
    info->flags |= INFO_MODULES;
    info->mods_count = k->module_count;
    struct module_entry entry = {0};
    uint32_t first = w->used = (w->used + 15) & ~15u;
    for (unsigned i = 0; i < k->module_count; i++)
        multiboot_put(w, &entry, sizeof entry, 4);
    info->mods_addr = MULTIBOOT_INFO + first;
    for (unsigned i = 0; i < k->module_count && !w->full; i++) {
        const struct multiboot_module *module = &k->modules[i];
        entry = (struct module_entry){.start = (uint32_t)module->gpa, .end = (uint32_t)(module->gpa + module->size),
                                      .string = put_string(w, module->line)};
        memcpy(w->info + first + i * sizeof entry, &entry, sizeof entry);
    }
}

static void put_map(struct multiboot_kernel *k, struct multiboot_writer *w, struct info *info)
{
    const struct e820_map *map = &k->load->map;
    info->flags |= INFO_MEMORY_MAP;
    for (unsigned i = 0; i < map->count; i++) {
        const struct mmap_entry entry = {.size = sizeof entry - 4, .base = map->ranges[i].base, .length = map->ranges[i].size,
                                         .type = map->ranges[i].type};
        uint32_t at = multiboot_put(w, &entry, sizeof entry, 4);
        info->mmap_addr = i == 0 ? MULTIBOOT_INFO + at : info->mmap_addr;
        info->mmap_length += sizeof entry;
    }
}

uint32_t multiboot1_info(struct multiboot_kernel *k, uint8_t bytes[MULTIBOOT_INFO_MAX])
{
    struct info info = {.flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_LOADER_NAME,
                        .mem_lower = k->mem_lower_kib,
                        .mem_upper = k->mem_upper_kib};
    struct multiboot_writer w = {.info = bytes};
    multiboot_put(&w, &info, sizeof info, 4); /* its place */
    info.cmdline = put_string(&w, k->command_line);
    info.boot_loader_name = put_string(&w, MULTIBOOT_LOADER);
    put_modules(k, &w, &info);
    put_map(k, &w, &info);
    if (k->sections.count != 0) {
        info.flags |= INFO_ELF;
        info.elf_num = k->sections.count;
        info.elf_size = k->sections.entry_size;
        info.elf_addr = (uint32_t)k->sections.gpa;
        info.elf_shndx = k->sections.names;
    }
    if (k->load->request->vga_text) {
        info.flags |= INFO_FRAMEBUFFER;
        info.framebuffer_addr = MULTIBOOT_TEXT_GPA;
        info.framebuffer_pitch = 2 * MULTIBOOT_TEXT_COLUMNS;
        info.framebuffer_width = MULTIBOOT_TEXT_COLUMNS;
        info.framebuffer_height = MULTIBOOT_TEXT_ROWS;
        info.framebuffer_bpp = 16;
        info.framebuffer_type = 2; /* EGA text */
    }
    memcpy(bytes, &info, sizeof info);
    return w.full ? 0 : w.used;
}
