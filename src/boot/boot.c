/* Loading a kernel, from files to the first processor's state; see boot.h.
 *
 * The order matters only in one point: what lies at fixed places (BIOS data, ACPI, command line) is claimed before
 * the kernel, so that a kernel linked on top of it is told so. The formats are linux.c, elf.c and pvh.c; the
 * places load.c; the zero page params.c. */
#include "boot/boot.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "boot/decompress.h"
#include "boot/elf.h"
#include "boot/image.h"
#include "boot/linux.h"
#include "boot/load.h"
#include "boot/mptable.h"
#include "boot/multiboot.h"
#include "boot/params.h"
#include "boot/pvh.h"

#define KERNEL_FILE_MAX (2 * GiB)
#define BASE_MEMORY_END 0xa0000
#define LINUX32_INITRD_END 0x38000000 /* what 32-bit kernels map directly */

static bool map_build(struct load *load, struct error *err)
{
    const struct boot_request *request = load->request;
    uint64_t size = memory_ram_size(load->memory);
    if (size < MiB)
        return error_set(err, "%s: guest memory of %llu KiB is too small for any kernel; give at least -m 1M",
                         load->kernel_name, size / KiB);
    if (request->ranges != NULL) {
        for (size_t i = 0; i < request->range_count; i++)
            if (!e820_set(&load->map, request->ranges[i].base, request->ranges[i].size, request->ranges[i].type, err))
                return false;
    } else {
        uint64_t low = size < MEMORY_LOW_MAX ? size : MEMORY_LOW_MAX;
        if (!e820_set(&load->map, 0, BASE_MEMORY_END, BOOT_RANGE_RAM, err) ||
            !e820_set(&load->map, MiB, low - MiB, BOOT_RANGE_RAM, err) ||
            !e820_set(&load->map, MEMORY_HIGH_BASE, size - low, BOOT_RANGE_RAM, err))
            return false;
    }
    return e820_set(&load->map, LOAD_EBDA, LOAD_EBDA_SIZE, BOOT_RANGE_RESERVED, err) &&
           e820_set(&load->map, LOAD_RSDP, LOAD_BIOS_SIZE, BOOT_RANGE_RESERVED, err);
}

/* Writes to a fixed place outside the RAM of the memory map. */
static bool firmware_write(struct load *load, gpa_t base, const void *bytes, uint64_t size, struct error *err)
{
    uint8_t *at = memory_ram(load->memory, base, size);
    if (at == NULL)
        return error_set(err, "%s: firmware tables cannot be placed at %#" PRIx64 ": the machine has no RAM there",
                         load->kernel_name, base);
    memcpy(at, bytes, size);
    return true;
}

static bool acpi_load(struct load *load, struct error *err)
{
    if (load->request->acpi == NULL)
        return true;
    struct acpi_tables tables;
    if (!acpi_build(load->request->acpi, LOAD_ACPI, LOAD_ACPI_SIZE, LOAD_FACS, &tables, err))
        return false;
    bool ok = firmware_write(load, LOAD_ACPI, tables.tables, tables.tables_size, err) &&
              firmware_write(load, LOAD_FACS, tables.facs, sizeof tables.facs, err) &&
              firmware_write(load, LOAD_RSDP, tables.rsdp, sizeof tables.rsdp, err) &&
              e820_set(&load->map, LOAD_ACPI, LOAD_ACPI_SIZE, BOOT_RANGE_ACPI, err) &&
              e820_set(&load->map, LOAD_FACS, LOAD_FACS_SIZE, BOOT_RANGE_NVS, err);
    acpi_tables_fini(&tables);
    load->rsdp = LOAD_RSDP;
    return ok;
}

static bool mptable_load(struct load *load, struct error *err)
{
    struct mptable table;
    if (load->request->acpi == NULL || !mptable_build(load->request->acpi, LOAD_MP_TABLE, &table))
        return true;
    return firmware_write(load, LOAD_MP_FLOATING, table.floating, sizeof table.floating, err) &&
           firmware_write(load, LOAD_MP_TABLE, table.bytes, table.size, err);
}

/* What kernels look up in the BIOS data area: where the extended one is, how much base memory, where COM1. */
static bool bios_data_load(struct load *load, struct error *err)
{
    uint8_t *bda = load_claim(load, LOAD_BDA, LOAD_BDA_SIZE, "the BIOS data area", err);
    if (bda == NULL)
        return false;
    memset(bda, 0, LOAD_BDA_SIZE);
    uint16_t com1 = load->request->acpi != NULL ? load->request->acpi->com1_port : 0;
    memcpy(bda, &com1, 2);
    memcpy(bda + 0x0e, &(uint16_t){LOAD_EBDA >> 4}, 2);
    memcpy(bda + 0x13, &(uint16_t){LOAD_EBDA / KiB}, 2);
    if (load->request->vga_text) {
        bda[0x49] = 3; /* the mode, its columns, bytes, rows less one, lines of a character; the CRT controller's port */
        memcpy(bda + 0x4a, &(uint16_t){80}, 2);
        memcpy(bda + 0x4c, &(uint16_t){0x1000}, 2);
        memcpy(bda + 0x60, &(uint16_t){0x0d0e}, 2);
        memcpy(bda + 0x63, &(uint16_t){0x3d4}, 2);
        bda[0x84] = 24;
        memcpy(bda + 0x85, &(uint16_t){16}, 2);
    }
    const uint8_t ebda[LOAD_EBDA_SIZE] = {LOAD_EBDA_SIZE / KiB};
    return firmware_write(load, LOAD_EBDA, ebda, sizeof ebda, err);
}

/* The end of the BIOS area: what software that wants a restart jumps to (F000:FFF0), the BIOS's date, and the model
 * byte of an AT. There is no firmware to start, so the machine is reset through the port that ACPI names. */
static bool reset_vector_load(struct load *load, struct error *err)
{
    const struct acpi_description *acpi = load->request->acpi;
    if (acpi == NULL || acpi->reset_port == 0)
        return true;
    const uint8_t port_low = acpi->reset_port & 0xff, port_high = acpi->reset_port >> 8;
    /* clang-format off */
    const uint8_t bytes[LOAD_RESET_SIZE] = {
        0xba, port_low, port_high,                                          /* mov dx, port */
        0xb0, acpi->reset_value,                                            /* mov al, value */
        0xee,                                                               /* out dx, al */
        0xf4, 0xeb, 0xfd,                                                   /* hlt; jmp to it */
        [16] = 0xea, LOAD_RESET & 0xff, LOAD_RESET >> 8 & 0xff, 0x00, 0xf0, /* jmp f000:ffe0 */
        '0', '1', '/', '0', '1', '/', '2', '4',
        [30] = 0xfc,
    };
    /* clang-format on */
    return firmware_write(load, LOAD_RESET, bytes, sizeof bytes, err);
}

static bool pvh_load(struct load *load, const struct elf_image *elf, struct error *err)
{
    char *description = load->state->description;
    if (!elf_holds(elf, elf->pvh_entry))
        return error_set(err, "%s: is an ELF file whose PVH entry point %#" PRIx64 " lies in none of its segments",
                         load->kernel_name, elf->pvh_entry);
    if (!load_initrd(load, elf->end, MEMORY_LOW_MAX, err) || !pvh_enter(load, elf->pvh_entry, err))
        return false;
    snprintf(description, sizeof load->state->description,
             "ELF%s kernel: entered by PVH at %#" PRIx64 " in 32-bit protected mode", elf->is_64 ? "64" : "32",
             elf->pvh_entry);
    return true;
}

/* A vmlinux, or an ELF file of no protocol at all: both get boot_params. */
static bool elf_enter(struct load *load, const struct elf_image *elf, const char *release, struct error *err)
{
    struct boot_state *state = load->state;
    struct params params;
    params_default(&params);
    params_set(&params, PARAMS_CODE32_START, 4, elf->entry);
    uint64_t initrd_end = elf->is_64 ? MEMORY_LOW_MAX : LINUX32_INITRD_END;
    if (!load_initrd(load, elf->end, initrd_end, err) || !params_write(load, &params, err) ||
        !(elf->is_64 ? load_enter_64(load, elf->entry, err) : load_enter_32(load, elf->entry, err)))
        return false;
    state->rsi = LOAD_BOOT_PARAMS;
    const char *mode = state->is_64 ? "64-bit" : "32-bit protected";
    if (release[0] != '\0')
        snprintf(state->description, sizeof state->description,
                 "Linux %s (ELF%s vmlinux): entered at %#" PRIx64 " in %s mode", release, elf->is_64 ? "64" : "32",
                 elf->entry, mode);
    else
        snprintf(state->description, sizeof state->description, "ELF%s executable: entered at %#" PRIx64 " in %s mode",
                 elf->is_64 ? "64" : "32", elf->entry, mode);
    return true;
}

static bool elf_kernel_load(struct load *load, const struct boot_file *file, struct error *err)
{
    struct elf_image elf;
    char release[64] = "";
    if (!elf_parse(file->bytes, file->size, &elf, err))
        return error_prefix(err, "%s", file->name);
    if (load->request->kaslr)
        return error_set(err,
                         "%s: an ELF kernel has no decompressor that could move it; drop --kaslr or give a bzImage",
                         file->name);
    bool is_linux = elf_find_linux(&elf, release, sizeof release);
    if (!load_command_line(load, LOAD_COMMAND_LINE_SIZE - 1, err) || !elf_load(load, &elf, err))
        return false;
    return !is_linux && elf.has_pvh ? pvh_load(load, &elf, err) : elf_enter(load, &elf, release, err);
}

/* A bzImage is Linux, whatever else its bytes may be. */
static bool is_multiboot(const struct boot_file *kernel)
{
    struct multiboot header;
    return image_format(kernel) != IMAGE_BZIMAGE && multiboot_find(kernel, &header);
}

static bool load_all(struct load *load, const struct boot_file *kernel, struct error *err)
{
    enum image_format format = image_format(kernel);
    bool multiboot = is_multiboot(kernel);
    load->kernel_name = kernel->name;
    load->command_line = load->request->append != NULL ? load->request->append : "";
    memset(load->state, 0, sizeof *load->state);
    if (format == IMAGE_UNKNOWN && !multiboot)
        return image_refuse(kernel, err);
    if (!map_build(load, err) || !acpi_load(load, err) || !mptable_load(load, err) || !bios_data_load(load, err) ||
        !reset_vector_load(load, err))
        return false;
    if (multiboot)
        return multiboot_load(load, kernel, err);
    return format == IMAGE_ELF ? elf_kernel_load(load, kernel, err) : linux_load(load, kernel, err);
}

bool boot_load_files(struct memory *memory, const struct boot_request *request, const struct boot_file *kernel,
                     const struct boot_file *initrd, struct boot_state *state, struct error *err)
{
    struct boot_module module;
    struct load load = {.memory = memory, .request = request, .state = state, .initrd = initrd};
    if (initrd != NULL) {
        module = (struct boot_module){.file = *initrd, .line = initrd->name};
        load.modules = &module;
        load.module_count = 1;
    }
    return load_all(&load, kernel, err);
}

/* ---- files ---- */

#define MODULES_MAX 32u

struct modules {
    unsigned count;
    struct boot_module list[MODULES_MAX];
    struct buffer bytes[MODULES_MAX];
    char *lines[MODULES_MAX], *paths[MODULES_MAX];
};

static void modules_free(struct modules *modules)
{
    for (unsigned i = 0; i < modules->count; i++) {
        buffer_free(&modules->bytes[i]);
        free(modules->lines[i]);
        free(modules->paths[i]);
    }
}

/* The next piece of `*text`, up to a comma that is not doubled; allocated. */
static char *cut_line(const char **text)
{
    char *line = malloc(strlen(*text) + 1);
    check(line != NULL);
    size_t n = 0;
    for (; **text != 0; (*text)++) {
        if (**text == ',') {
            if ((*text)[1] != ',')
                break;
            (*text)++;
        }
        line[n++] = **text;
    }
    line[n] = 0;
    *text += **text == ',';
    return line;
}

/* "a args,b args": QEMU's habit for Multiboot kernels. */
static bool modules_read(const char *text, struct modules *modules, struct error *err)
{
    while (text != NULL && *text != 0) {
        unsigned n = modules->count;
        if (n == MODULES_MAX)
            return error_set(err, "--initrd: there are more than %u modules", MODULES_MAX);
        modules->count++;
        modules->lines[n] = cut_line(&text);
        modules->paths[n] = strndup(modules->lines[n], strcspn(modules->lines[n], " "));
        check(modules->paths[n] != NULL);
        if (!image_read(modules->paths[n], MEMORY_LOW_MAX, "give --initrd the kernel's modules: FILE ARGUMENTS,FILE ...",
                        &modules->bytes[n], err))
            return false;
        modules->list[n] = (struct boot_module){
            .file = {modules->paths[n], modules->bytes[n].bytes, modules->bytes[n].size}, .line = modules->lines[n]};
    }
    return true;
}

static bool multiboot_files(struct memory *memory, const struct boot_request *request, const struct boot_file *kernel,
                            struct boot_state *state, struct error *err)
{
    struct modules modules = {.count = 0};
    struct load load = {.memory = memory, .request = request, .state = state, .modules = modules.list};
    bool ok = modules_read(request->initrd, &modules, err);
    load.module_count = modules.count;
    ok = ok && load_all(&load, kernel, err);
    modules_free(&modules);
    return ok;
}

bool boot_load(struct memory *memory, const struct boot_request *request, struct boot_state *state, struct error *err)
{
    struct buffer kernel = {0}, initrd = {0};
    bool ok = image_read(request->kernel, KERNEL_FILE_MAX, IMAGE_KERNEL_ADVICE, &kernel, err);
    const struct boot_file kernel_file = {request->kernel, kernel.bytes, kernel.size};
    if (ok && is_multiboot(&kernel_file)) {
        ok = multiboot_files(memory, request, &kernel_file, state, err);
    } else if (ok) {
        ok = request->initrd == NULL || image_read(request->initrd, MEMORY_LOW_MAX, IMAGE_INITRD_ADVICE, &initrd, err);
        const struct boot_file initrd_file = {request->initrd, initrd.bytes, initrd.size};
        ok = ok && boot_load_files(memory, request, &kernel_file, request->initrd != NULL ? &initrd_file : NULL, state, err);
    }
    buffer_free(&kernel);
    buffer_free(&initrd);
    return ok;
}

void boot_state_reset(struct boot_state *state)
{
    *state = (struct boot_state){
        .mode = BOOT_REAL16,
        .rip = 0xfff0,
        .rflags = 2,
        .cr0 = 0x60000010, /* CD, NW, ET */
        .gdt_limit = 0xffff,
        .idt_limit = 0xffff,
        .cs = {.selector = 0xf000, .attributes = 0x9b, .limit = 0xffff, .base = 0xffff0000},
        .ds = {.selector = 0, .attributes = 0x93, .limit = 0xffff, .base = 0},
        .tr = {.selector = 0, .attributes = 0x8b, .limit = 0xffff, .base = 0},
        .description = "firmware: entered at the reset vector in real mode",
    };
}
