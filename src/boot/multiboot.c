/* Multiboot kernels: finding the header, loading, modules, sections; see multiboot.h.
 *
 * A file may have headers of both versions, and be an ELF file with a PVH entry, too. Version 2 goes first, then 1, then
 * the others: a kernel with a header asks for this way in. A file that names its own addresses ("a.out kludge", address
 * tag) is loaded by these, whatever else it is.
 *
 * Modules are what --initrd names, as users of QEMU write it: files separated by commas, each with arguments behind a space;
 * a comma in a name is written twice. They begin on page boundaries, whether the kernel asks for that or not.
 *
 * Sections that ELF headers do not place in memory, such as symbols and their names, are put into free memory, and the copy
 * of the section headers says where, as the specification wants it. */
#include "boot/multiboot.h"

#include <elf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define MAGIC_1 0x1badb002u
#define MAGIC_2 0xe85250d6u
#define SEARCH_1 8192u
#define SEARCH_2 32768u
#define HEADER_1_SIZE 12u
#define HEADER_2_SIZE 16u
#define SECTIONS_MAX 4096u
#define INFO_MAGIC_1 0x2badb002u
#define INFO_MAGIC_2 0x36d76289u

/* ---- finding ---- */

static bool find_2(const struct boot_file *file, struct multiboot *header)
{
    for (uint32_t at = 0; at < SEARCH_2 && at + HEADER_2_SIZE <= file->size; at += 8) {
        uint32_t magic = multiboot_u32(file, at);
        if (magic != MAGIC_2)
            continue;
        uint32_t architecture = multiboot_u32(file, at + 4), length = multiboot_u32(file, at + 8);
        if (magic + architecture + length + multiboot_u32(file, at + 12) != 0)
            continue;
        if (architecture != 0 || length < HEADER_2_SIZE || length > SEARCH_2 || length > file->size - at)
            continue;
        *header = (struct multiboot){.version = 2, .offset = at, .length = length};
        return true;
    }
    return false;
}

static bool find_1(const struct boot_file *file, struct multiboot *header)
{
    for (uint32_t at = 0; at < SEARCH_1 && at + HEADER_1_SIZE <= file->size; at += 4) {
        uint32_t magic = multiboot_u32(file, at), flags = multiboot_u32(file, at + 4);
        if (magic != MAGIC_1 || magic + flags + multiboot_u32(file, at + 8) != 0)
            continue;
        *header = (struct multiboot){.version = 1, .offset = at, .flags = flags};
        return true;
    }
    return false;
}

bool multiboot_find(const struct boot_file *file, struct multiboot *header)
{
    return find_2(file, header) || find_1(file, header);
}

/* ---- loading ---- */

/* By the addresses of the header: one piece of the file, and zeros behind it. */
static bool load_by_address(struct multiboot_kernel *k, struct error *err)
{
    const struct multiboot *h = &k->header;
    const char *name = k->file->name;
    if (h->load_gpa > h->header_gpa || h->header_gpa - h->load_gpa > h->offset)
        return error_set(err, "%s: its Multiboot header at %#x of the file would lie at %#x of memory, which its load address %#x "
                         "does not permit", name, h->offset, h->header_gpa, h->load_gpa);
    uint64_t from = h->offset - (h->header_gpa - h->load_gpa), size = k->file->size - from;
    if (h->load_end_gpa != 0 && (h->load_end_gpa < h->load_gpa || h->load_end_gpa - h->load_gpa > size))
        return error_set(err, "%s: is a truncated or damaged Multiboot kernel: its file has not the bytes from %#x to %#x that its "
                         "header names", name, h->load_gpa, h->load_end_gpa);
    if (h->load_end_gpa != 0)
        size = h->load_end_gpa - h->load_gpa;
    uint64_t end = (uint64_t)h->load_gpa + size, all = size;
    if (h->bss_end_gpa != 0 && h->bss_end_gpa < end)
        return error_set(err, "%s: is a damaged Multiboot kernel: its header has the end of its data behind that of its bss", name);
    if (h->bss_end_gpa != 0)
        all = h->bss_end_gpa - h->load_gpa;
    if (all == 0 || !h->has_entry || h->entry_gpa < h->load_gpa || h->entry_gpa - h->load_gpa >= all)
        return error_set(err, "%s: is a damaged Multiboot kernel: its entry point %#x does not lie within it", name, h->entry_gpa);
    k->base = h->load_gpa;
    k->end = h->load_gpa + all;
    if (!load_reaches(k->load, k->end, "the kernel", err))
        return false;
    uint8_t *at = load_claim(k->load, h->load_gpa, all, "the kernel", err);
    if (at == NULL)
        return false;
    memcpy(at, k->file->bytes + from, size);
    memset(at + size, 0, all - size);
    return true;
}

static bool load_by_elf(struct multiboot_kernel *k, struct error *err)
{
    struct elf_image elf;
    if (!elf_parse(k->file->bytes, k->file->size, &elf, err))
        return error_prefix(err, "%s: has a Multiboot header without addresses, and", k->file->name);
    gpa_t entry = k->header.has_entry ? k->header.entry_gpa : elf.entry;
    if (entry > UINT32_MAX || !elf_holds(&elf, entry))
        return error_set(err, "%s: is a Multiboot kernel whose entry point %#" PRIx64 " lies in none of its segments below 4 GiB",
                         k->file->name, entry);
    k->header.entry_gpa = (uint32_t)entry;
    k->end = elf.end;
    k->base = UINT64_MAX;
    for (unsigned i = 0; i < elf.count; i++)
        k->base = elf.segments[i].paddr < k->base ? elf.segments[i].paddr : k->base;
    return elf_load(k->load, &elf, err);
}

/* ---- modules ---- */

static bool modules_place(struct multiboot_kernel *k, struct multiboot_module *modules, struct error *err)
{
    struct load *load = k->load;
    for (unsigned i = 0; i < load->module_count; i++) {
        const struct boot_module *module = &load->modules[i];
        modules[i] = (struct multiboot_module){.size = module->file.size, .line = module->line};
        if (module->file.size == 0) {
            modules[i].gpa = k->end; /* of no bytes: anywhere */
            continue;
        }
        uint8_t *at = load_claim_high(load, k->end > MiB ? k->end : MiB, module->file.size, "a module", &modules[i].gpa);
        if (at == NULL)
            return error_set(err, "%s: the module of %llu KiB does not fit in the machine's memory beside the kernel; give more with -m",
                             module->file.name, (module->file.size + KiB - 1) / KiB);
        memcpy(at, module->file.bytes, module->file.size);
    }
    k->modules = modules;
    k->module_count = load->module_count;
    return true;
}

/* ---- sections ---- */

struct section_table {
    bool wide;
    uint64_t offset;
    uint32_t count, entry_size, names;
};

/* False: the file has none, or none that lies within it. */
static bool sections_find(const struct boot_file *file, struct section_table *table)
{
    Elf64_Ehdr wide;
    Elf32_Ehdr narrow;
    if (file->size < sizeof wide || memcmp(file->bytes, ELFMAG, SELFMAG) != 0)
        return false;
    table->wide = file->bytes[EI_CLASS] == ELFCLASS64;
    if (table->wide) {
        memcpy(&wide, file->bytes, sizeof wide);
        *table = (struct section_table){true, wide.e_shoff, wide.e_shnum, wide.e_shentsize, wide.e_shstrndx};
    } else {
        memcpy(&narrow, file->bytes, sizeof narrow);
        *table = (struct section_table){false, narrow.e_shoff, narrow.e_shnum, narrow.e_shentsize, narrow.e_shstrndx};
    }
    uint32_t size = table->wide ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
    return table->count != 0 && table->count <= SECTIONS_MAX && table->entry_size == size && table->offset <= file->size &&
           (uint64_t)table->count * size <= file->size - table->offset;
}

static Elf64_Shdr section_read(const uint8_t *at, bool wide)
{
    Elf64_Shdr s;
    Elf32_Shdr narrow;
    if (wide) {
        memcpy(&s, at, sizeof s);
        return s;
    }
    memcpy(&narrow, at, sizeof narrow);
    return (Elf64_Shdr){.sh_type = narrow.sh_type, .sh_addr = narrow.sh_addr, .sh_offset = narrow.sh_offset, .sh_size = narrow.sh_size};
}

static void section_set_address(uint8_t *at, bool wide, uint64_t gpa)
{
    uint32_t low = (uint32_t)gpa;
    if (wide)
        memcpy(at + offsetof(Elf64_Shdr, sh_addr), &gpa, sizeof gpa);
    else
        memcpy(at + offsetof(Elf32_Shdr, sh_addr), &low, sizeof low);
}

/* What the program headers do not load. */
static bool section_is_loose(const struct boot_file *file, const Elf64_Shdr *s)
{
    return s->sh_type != SHT_NULL && s->sh_type != SHT_NOBITS && s->sh_addr == 0 && s->sh_size != 0 &&
           s->sh_offset <= file->size && s->sh_size <= file->size - s->sh_offset;
}

#define ALIGNED(size) (((size) + 15) & ~15ull)

/* Where there is no room for them the kernel does without: they are for debugging. */
static void sections_place(struct multiboot_kernel *k)
{
    struct section_table table;
    if (k->header.has_address || !sections_find(k->file, &table))
        return;
    uint64_t size = ALIGNED((uint64_t)table.count * table.entry_size), used = size;
    const uint8_t *from = k->file->bytes + table.offset;
    for (uint32_t i = 0; i < table.count; i++) {
        Elf64_Shdr s = section_read(from + (uint64_t)i * table.entry_size, table.wide);
        size += section_is_loose(k->file, &s) ? ALIGNED(s.sh_size) : 0;
    }
    gpa_t gpa;
    uint8_t *at = size > MEMORY_LOW_MAX ? NULL : load_claim_high(k->load, k->end > MiB ? k->end : MiB, size, "section headers", &gpa);
    if (at == NULL)
        return;
    memcpy(at, from, (uint64_t)table.count * table.entry_size);
    for (uint32_t i = 0; i < table.count; i++) {
        uint8_t *entry = at + (uint64_t)i * table.entry_size;
        Elf64_Shdr s = section_read(entry, table.wide);
        if (!section_is_loose(k->file, &s))
            continue;
        memcpy(at + used, k->file->bytes + s.sh_offset, s.sh_size);
        section_set_address(entry, table.wide, gpa + used);
        used += ALIGNED(s.sh_size);
    }
    k->sections = (struct multiboot_sections){table.count, table.entry_size, table.names, gpa};
}

/* ---- the information ---- */

uint32_t multiboot_put(struct multiboot_writer *w, const void *bytes, uint64_t size, unsigned align)
{
    uint32_t at = (w->used + align - 1) & ~(align - 1);
    if (at > MULTIBOOT_INFO_MAX || size > MULTIBOOT_INFO_MAX - at) {
        w->full = true;
        return 0;
    }
    memcpy(w->info + at, bytes, size);
    w->used = at + (uint32_t)size;
    return at;
}

/* KiB of memory from 0, and from 1 MiB to the first hole. */
static void memory_sizes(struct multiboot_kernel *k)
{
    const struct e820_map *map = &k->load->map;
    for (unsigned i = 0; i < map->count; i++) {
        uint64_t base = map->ranges[i].base, end = base + map->ranges[i].size;
        if (map->ranges[i].type != BOOT_RANGE_RAM)
            continue;
        if (base == 0)
            k->mem_lower_kib = (uint32_t)((end < 640 * KiB ? end : 640 * KiB) / KiB);
        if (base <= MiB && end > MiB)
            k->mem_upper_kib = (uint32_t)((end - MiB) / KiB);
    }
}

static bool info_place(struct multiboot_kernel *k, struct error *err)
{
    struct load *load = k->load;
    uint8_t *info = calloc(1, MULTIBOOT_INFO_MAX);
    check(info != NULL);
    bool old = k->header.version == 1;
    uint32_t size = old ? multiboot1_info(k, info) : multiboot2_info(k, info);
    if (size == 0) {
        free(info);
        return error_set(err, "%s: what a Multiboot kernel is told does not fit into %u KiB: shorten --append or --initrd", k->file->name,
                         (unsigned)(MULTIBOOT_INFO_MAX / KiB));
    }
    uint8_t *at = load_claim(load, MULTIBOOT_INFO, size, "the Multiboot information", err);
    if (at != NULL)
        memcpy(at, info, size);
    free(info);
    if (at == NULL || !load_enter_32(load, k->header.entry_gpa, err))
        return false;
    load->state->rax = old ? INFO_MAGIC_1 : INFO_MAGIC_2;
    load->state->rbx = MULTIBOOT_INFO;
    return true;
}

static bool load_parts(struct multiboot_kernel *k, struct multiboot_module *modules, struct error *err)
{
    if (k->header.version == 1 ? !multiboot1_read(k, err) : !multiboot2_read(k, err))
        return false;
    if (k->header.has_address ? !load_by_address(k, err) : !load_by_elf(k, err))
        return false;
    if (!modules_place(k, modules, err))
        return false;
    sections_place(k);
    memory_sizes(k);
    return info_place(k, err);
}

bool multiboot_load(struct load *load, const struct boot_file *file, struct error *err)
{
    struct multiboot_kernel k = {.load = load, .file = file};
    check(multiboot_find(file, &k.header));
    if (load->request->kaslr)
        return error_set(err, "%s: a Multiboot kernel has no decompressor that could move it; drop --kaslr", file->name);
    struct multiboot_module *modules = calloc(load->module_count + 1, sizeof *modules);
    check(modules != NULL);
    const char *space = load->command_line[0] != 0 ? " " : "";
    check(asprintf(&k.command_line, "%s%s%s", file->name, space, load->command_line) >= 0);
    bool ok = load_parts(&k, modules, err);
    if (ok)
        snprintf(load->state->description, sizeof load->state->description,
                 "Multiboot %u kernel: entered at %#x in 32-bit protected mode, %u module%s", k.header.version, k.header.entry_gpa,
                 k.module_count, k.module_count == 1 ? "" : "s");
    free(k.command_line);
    free(modules);
    return ok;
}
