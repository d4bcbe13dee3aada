/* Multiboot 2: the header's tags, and the information as tags.
 *
 * A tag that is not optional and that the loader does not know, or a request for information that it has not, ends the
 * attempt, as the specification wants it. There is no EFI and no BIOS: tags that concern them alone (EFI entry points, boot
 * services) have no effect, information about them cannot be had. A kernel that may be moved is loaded where it was linked,
 * which is always one of the places that it permits.
 *
 * Multiboot2 Specification 2.0, 3.1 and 3.6. */
#include "boot/multiboot.h"

#include <string.h>

enum header_tag {
    HEADER_END, HEADER_REQUEST, HEADER_ADDRESS, HEADER_ENTRY, HEADER_CONSOLE, HEADER_FRAMEBUFFER, HEADER_MODULE_ALIGN,
    HEADER_EFI_BOOT_SERVICES, HEADER_EFI_ENTRY_32, HEADER_EFI_ENTRY_64, HEADER_RELOCATABLE
};

enum info_tag {
    INFO_END = 0,
    INFO_COMMAND_LINE = 1,
    INFO_LOADER_NAME = 2,
    INFO_MODULE = 3,
    INFO_MEMORY = 4,
    INFO_MEMORY_MAP = 6,
    INFO_FRAMEBUFFER = 8,
    INFO_ELF = 9,
    INFO_ACPI_OLD = 14,
    INFO_ACPI_NEW = 15,
    INFO_LOAD_BASE = 21,
};

#define TAG_OPTIONAL 1u
#define CONSOLE_REQUIRED 1u
#define RSDP_OLD_SIZE 20u
#define RSDP_NEW_SIZE 36u

static bool has_info(const struct multiboot_kernel *k, uint32_t type)
{
    switch (type) {
    case INFO_COMMAND_LINE:
    case INFO_LOADER_NAME:
    case INFO_MODULE:
    case INFO_MEMORY:
    case INFO_MEMORY_MAP:
    case INFO_ELF:
    case INFO_LOAD_BASE: return true;
    case INFO_FRAMEBUFFER: return k->load->request->vga_text;
    case INFO_ACPI_OLD:
    case INFO_ACPI_NEW: return k->load->rsdp != 0;
    default: return false;
    }
}

static bool damaged(const struct multiboot_kernel *k, unsigned type, struct error *err)
{
    return error_set(err, "%s: is a damaged Multiboot 2 kernel: its header tag %u is too short", k->file->name, type);
}

/* The tag at `at` of the file, `size` bytes of it. */
static bool read_tag(struct multiboot_kernel *k, unsigned type, bool optional, uint32_t at, uint32_t size, struct error *err)
{
    struct multiboot *h = &k->header;
    switch (type) {
    case HEADER_REQUEST:
        for (uint32_t i = 8; i + 4 <= size; i += 4)
            if (!optional && !has_info(k, multiboot_u32(k->file, at + i)))
                return error_set(err, "%s: is a Multiboot 2 kernel that requires information of type %u, which this machine has not",
                                 k->file->name, multiboot_u32(k->file, at + i));
        return true;
    case HEADER_ADDRESS:
        if (size < 24)
            return damaged(k, type, err);
        h->has_address = true;
        h->header_gpa = multiboot_u32(k->file, at + 8);
        h->load_gpa = multiboot_u32(k->file, at + 12);
        h->load_end_gpa = multiboot_u32(k->file, at + 16);
        h->bss_end_gpa = multiboot_u32(k->file, at + 20);
        return true;
    case HEADER_ENTRY:
        if (size < 12)
            return damaged(k, type, err);
        h->has_entry = true;
        h->entry_gpa = multiboot_u32(k->file, at + 8);
        return true;
    case HEADER_CONSOLE:
        if (size < 12)
            return damaged(k, type, err);
        if (!optional && (multiboot_u32(k->file, at + 8) & CONSOLE_REQUIRED) && !k->load->request->vga_text)
            return error_set(err, "%s: is a Multiboot 2 kernel that requires a screen, which this machine has not", k->file->name);
        return true;
    case HEADER_RELOCATABLE:
        h->relocatable = true;
        return true;
    case HEADER_FRAMEBUFFER: /* a wish: what there is, is told */
    case HEADER_MODULE_ALIGN: /* they always are */
    case HEADER_EFI_BOOT_SERVICES:
    case HEADER_EFI_ENTRY_32:
    case HEADER_EFI_ENTRY_64: return true;
    default:
        return optional || error_set(err, "%s: is a Multiboot 2 kernel with a header tag %u, which ring3 does not know and which is "
                                     "not optional", k->file->name, type);
    }
}

bool multiboot2_read(struct multiboot_kernel *k, struct error *err)
{
    const struct multiboot *h = &k->header;
    uint32_t end = h->offset + h->length;
    for (uint32_t at = h->offset + 16; at + 8 <= end;) {
        uint32_t word = multiboot_u32(k->file, at), size = multiboot_u32(k->file, at + 4);
        unsigned type = word & 0xffff;
        if (size < 8 || size > end - at)
            return error_set(err, "%s: is a damaged Multiboot 2 kernel: header tag %u of %u bytes does not lie in its header",
                             k->file->name, type, size);
        if (type == HEADER_END)
            break;
        if (!read_tag(k, type, word >> 16 & TAG_OPTIONAL, at, size, err))
            return false;
        at += (size + 7) & ~7u;
    }
    if (h->has_address && !h->has_entry)
        return error_set(err, "%s: is a Multiboot 2 kernel with addresses but without an entry point", k->file->name);
    return true;
}

/* ---- information ---- */

/* A tag of a fixed part and of something behind it. */
static void put_tag(struct multiboot_writer *w, uint32_t type, const void *fixed, uint32_t fixed_size, const void *rest,
                    uint64_t rest_size)
{
    const uint32_t head[2] = {type, (uint32_t)(8 + fixed_size + rest_size)};
    multiboot_put(w, head, sizeof head, 8);
    if (fixed_size != 0)
        multiboot_put(w, fixed, fixed_size, 1);
    if (rest_size != 0)
        multiboot_put(w, rest, rest_size, 1);
}

static void put_string(struct multiboot_writer *w, uint32_t type, const char *text)
{
    put_tag(w, type, NULL, 0, text, strlen(text) + 1);
}

static void put_map(struct multiboot_kernel *k, struct multiboot_writer *w)
{
    struct entry {
        uint64_t base, length;
        uint32_t type, reserved;
    } entries[E820_MAX];
    const struct e820_map *map = &k->load->map;
    const uint32_t fixed[2] = {sizeof entries[0], 0};
    for (unsigned i = 0; i < map->count; i++)
        entries[i] = (struct entry){map->ranges[i].base, map->ranges[i].size, map->ranges[i].type, 0};
    put_tag(w, INFO_MEMORY_MAP, fixed, sizeof fixed, entries, map->count * sizeof entries[0]);
}

static void put_sections(struct multiboot_kernel *k, struct multiboot_writer *w)
{
    const struct multiboot_sections *s = &k->sections;
    const uint32_t fixed[3] = {s->count, s->entry_size, s->names};
    const uint8_t *table = memory_ram(k->load->memory, s->gpa, (uint64_t)s->count * s->entry_size);
    if (s->count != 0 && table != NULL)
        put_tag(w, INFO_ELF, fixed, sizeof fixed, table, (uint64_t)s->count * s->entry_size);
}

static void put_screen(struct multiboot_writer *w)
{
    const struct {
        uint64_t gpa;
        uint32_t pitch, width, height;
        uint8_t bits, type;
        uint16_t reserved;
    } __attribute__((packed)) screen = {MULTIBOOT_TEXT_GPA, 2 * MULTIBOOT_TEXT_COLUMNS, MULTIBOOT_TEXT_COLUMNS, MULTIBOOT_TEXT_ROWS, 16, 2, 0};
    put_tag(w, INFO_FRAMEBUFFER, &screen, sizeof screen, NULL, 0);
}

uint32_t multiboot2_info(struct multiboot_kernel *k, uint8_t bytes[MULTIBOOT_INFO_MAX])
{
    struct multiboot_writer w = {.info = bytes};
    uint32_t head[2] = {0, 0};
    multiboot_put(&w, head, sizeof head, 8);
    put_string(&w, INFO_COMMAND_LINE, k->command_line);
    put_string(&w, INFO_LOADER_NAME, MULTIBOOT_LOADER);
    for (unsigned i = 0; i < k->module_count; i++) {
        const struct multiboot_module *module = &k->modules[i];
        const uint32_t fixed[2] = {(uint32_t)module->gpa, (uint32_t)(module->gpa + module->size)};
        put_tag(&w, INFO_MODULE, fixed, sizeof fixed, module->line, strlen(module->line) + 1);
    }
    const uint32_t sizes[2] = {k->mem_lower_kib, k->mem_upper_kib};
    put_tag(&w, INFO_MEMORY, sizes, sizeof sizes, NULL, 0);
    put_map(k, &w);
    put_sections(k, &w);
    if (k->load->request->vga_text)
        put_screen(&w);
    const uint8_t *rsdp = k->load->rsdp != 0 ? memory_ram(k->load->memory, k->load->rsdp, RSDP_NEW_SIZE) : NULL;
    if (rsdp != NULL) {
        put_tag(&w, INFO_ACPI_OLD, NULL, 0, rsdp, RSDP_OLD_SIZE);
        put_tag(&w, INFO_ACPI_NEW, NULL, 0, rsdp, RSDP_NEW_SIZE);
    }
    const uint32_t base = (uint32_t)k->base;
    if (k->header.relocatable)
        put_tag(&w, INFO_LOAD_BASE, &base, sizeof base, NULL, 0);
    put_tag(&w, INFO_END, NULL, 0, NULL, 0);
    head[0] = w.used;
    memcpy(bytes, head, sizeof head);
    return w.full ? 0 : w.used;
}
