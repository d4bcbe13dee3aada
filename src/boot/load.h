/* What the loaders of src/boot share while one kernel is being loaded: who occupies which guest memory, where the fixed
 * structures lie, and the entry states. Internal to src/boot. */
#ifndef RING3_BOOT_LOAD_H
#define RING3_BOOT_LOAD_H

#include "boot/boot.h"
#include "boot/e820.h"

/* The places of boot.h's table. */
#define LOAD_BDA 0x400
#define LOAD_BDA_SIZE 0x100
#define LOAD_GDT 0x500
#define LOAD_PAGE_TABLES 0x1000
#define LOAD_PAGE_TABLES_SIZE 0x6000
#define LOAD_PVH 0x7000
#define LOAD_PVH_SIZE 0x1000
#define LOAD_STACK 0x8000
#define LOAD_STACK_SIZE 0x1000
#define LOAD_MULTIBOOT 0x10000
#define LOAD_MULTIBOOT_SIZE 0x10000
#define LOAD_BOOT_PARAMS 0x90000
#define LOAD_BOOT_PARAMS_SIZE 0x1000
#define LOAD_COMMAND_LINE 0x91000
#define LOAD_COMMAND_LINE_SIZE 0xe000
#define LOAD_EBDA 0x9fc00
#define LOAD_EBDA_SIZE 0x400
#define LOAD_ACPI 0xe0000
#define LOAD_ACPI_SIZE 0xf000
#define LOAD_FACS 0xef000
#define LOAD_FACS_SIZE 0x1000
#define LOAD_RSDP 0xf0000
#define LOAD_MP_FLOATING 0xf0040
#define LOAD_MP_TABLE 0xf0050
#define LOAD_BIOS_SIZE 0x10000
#define LOAD_RESET 0xfffe0
#define LOAD_RESET_SIZE 0x20

/* Linux boot-time selectors (__BOOT_CS, __BOOT_DS); the PVH and flat entries use the same. */
#define LOAD_CS 0x10
#define LOAD_DS 0x18
#define LOAD_TR 0x20

#define LOAD_CLAIM_MAX 96

struct claim {
    gpa_t base;
    gpa_t end;
    const char *what;
};

/* A Multiboot module: a file, and what the user wrote. */
struct boot_module {
    struct boot_file file;
    const char *line;
};

struct load {
    struct memory *memory;
    const struct boot_request *request;
    struct boot_state *state;
    const char *kernel_name;
    const struct boot_file *initrd; /* NULL: none */
    const struct boot_module *modules; /* for kernels that take several */
    unsigned module_count;
    const char *command_line;
    struct e820_map map;
    gpa_t rsdp; /* 0: none */
    gpa_t initrd_gpa;
    unsigned claim_count;
    struct claim claims[LOAD_CLAIM_MAX];
};

/* Takes guest memory [base, base + size), which must be free and RAM in the memory map, for `what` (a string that
 * lives as long as `load`), and returns it on the host; NULL with a message that begins with the kernel's name. `size`
 * is not 0. */
uint8_t *load_claim(struct load *load, gpa_t base, uint64_t size, const char *what, struct error *err);

/* The same as high as it goes below 3 GiB, at or above `lowest`, on a page boundary; `*base` says where. NULL: there is no room. */
uint8_t *load_claim_high(struct load *load, gpa_t lowest, uint64_t size, const char *what, gpa_t *base);

/* Whether the RAM below 4 GiB reaches up to `end`; else a message that says how much `what` needs. */
bool load_reaches(struct load *load, gpa_t end, const char *what, struct error *err);

/* Puts the command line at its place. `most` is the kernel's limit in characters. */
bool load_command_line(struct load *load, uint64_t most, struct error *err);

/* Puts the ramdisk, if there is one, as high as it goes: in RAM below `highest` (exclusive; and below 4 GiB), above
 * `kernel_end`, on a page boundary. */
bool load_initrd(struct load *load, gpa_t kernel_end, uint64_t highest, struct error *err);

/* Entry states: descriptor tables (and page tables) are written and `state` is filled but for general registers. */
bool load_enter_32(struct load *load, gpa_t entry, struct error *err);
bool load_enter_64(struct load *load, gpa_t entry, struct error *err);

#endif
