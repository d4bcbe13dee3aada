/* Kernels with a Multiboot header, of version 1 or 2: found, loaded by their ELF headers or by the addresses that they
 * name, told what they may ask, and entered in 32-bit protected mode without paging. Internal to src/boot.
 *
 *   multiboot.c    finding headers, loading, modules, ELF sections
 *   multiboot1.c   version 1: its header, its information structure
 *   multiboot2.c   version 2: the same, in tags
 *
 * Sources: Multiboot Specification 0.6.96; Multiboot2 Specification 2.0. */
#ifndef RING3_BOOT_MULTIBOOT_H
#define RING3_BOOT_MULTIBOOT_H

#include "boot/elf.h"
#include "boot/load.h"

#define MULTIBOOT_LOADER "ring3"
#define MULTIBOOT_INFO LOAD_MULTIBOOT /* where the information lies */
#define MULTIBOOT_INFO_MAX LOAD_MULTIBOOT_SIZE
#define MULTIBOOT_TEXT_GPA 0xb8000u
#define MULTIBOOT_TEXT_COLUMNS 80u
#define MULTIBOOT_TEXT_ROWS 25u

/* What a header says of its kernel. */
struct multiboot {
    unsigned version;  /* 1, 2; 0: there is none */
    uint32_t offset;   /* of the header in the file */
    uint32_t length;   /* version 2: of the header with its tags */
    uint32_t flags;    /* version 1 */
    bool has_address;  /* it names addresses of its own, instead of ELF headers: */
    uint32_t header_gpa, load_gpa, load_end_gpa, bss_end_gpa; /* an end of 0: the file's, none */
    bool has_entry;
    uint32_t entry_gpa;
    bool wants_text;   /* a console is required, or text is all that it can do */
    bool relocatable;
};

/* A module as it lies in memory; the string is the user's: the file's name and what follows it. */
struct multiboot_module {
    gpa_t gpa;
    uint64_t size;
    const char *line;
};

/* The ELF section headers in memory, with the addresses of what the kernel itself does not load. */
struct multiboot_sections {
    uint32_t count, entry_size, names; /* count 0: the file has none */
    gpa_t gpa;
};

struct multiboot_kernel {
    struct load *load;
    const struct boot_file *file;
    struct multiboot header;
    gpa_t base, end;        /* of the kernel */
    char *command_line;     /* the kernel's name, and --append */
    const struct multiboot_module *modules;
    unsigned module_count;
    struct multiboot_sections sections;
    uint32_t mem_lower_kib, mem_upper_kib;
};

/* Whether the file has a header. Wrong checksums make none. */
bool multiboot_find(const struct boot_file *file, struct multiboot *header);

/* Loads and enters it. */
bool multiboot_load(struct load *load, const struct boot_file *file, struct error *err);

/* What the versions have of their own: reads the header that `kernel->header` names, false with a message if the kernel needs
 * something that there is not; writes the information, and says how long it is. */
bool multiboot1_read(struct multiboot_kernel *kernel, struct error *err);
uint32_t multiboot1_info(struct multiboot_kernel *kernel, uint8_t info[MULTIBOOT_INFO_MAX]);
bool multiboot2_read(struct multiboot_kernel *kernel, struct error *err);
uint32_t multiboot2_info(struct multiboot_kernel *kernel, uint8_t info[MULTIBOOT_INFO_MAX]);

static inline uint32_t multiboot_u32(const struct boot_file *file, uint64_t offset)
{
    const uint8_t *at = file->bytes + offset;
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Information under construction: what does not fit is an error of the caller's sums. */
struct multiboot_writer {
    uint8_t *info;
    uint32_t used;
    bool full;
};
uint32_t multiboot_put(struct multiboot_writer *w, const void *bytes, uint64_t size, unsigned align); /* its offset */

#endif
