/* ELF kernels: parsing, and loading segments at their physical addresses. Internal to src/boot. */
#ifndef RING3_BOOT_ELF_H
#define RING3_BOOT_ELF_H

#include "boot/load.h"

#define ELF_SEGMENT_MAX 64

struct elf_segment {
    uint64_t offset, file_size;
    uint64_t vaddr, paddr, memory_size;
};

struct elf_image {
    const uint8_t *bytes;
    uint64_t size;
    bool is_64;
    gpa_t entry;  /* physical */
    bool has_pvh; /* a Xen PHYS32_ENTRY note: */
    gpa_t pvh_entry;
    unsigned count; /* PT_LOAD segments that occupy memory; their parts in the file lie within it */
    struct elf_segment segments[ELF_SEGMENT_MAX];
    gpa_t end; /* of the highest segment */
};

/* Parses an x86 executable. `elf` refers to `bytes`. False with a message, without file name, that says what the
 * file is instead and what to do. */
bool elf_parse(const uint8_t *bytes, uint64_t size, struct elf_image *elf, struct error *err);

/* Whether a segment occupies the byte at `gpa`. */
bool elf_holds(const struct elf_image *elf, gpa_t gpa);

/* Finds the kernel's banner, "Linux version 6.1.0 ...", in the loaded parts of the file, and copies the release that
 * it names. False when this is no Linux kernel. */
bool elf_find_linux(const struct elf_image *elf, char *release, size_t release_size);

/* Claims and fills the memory of all segments. Messages begin with the kernel's name. */
bool elf_load(struct load *load, const struct elf_image *elf, struct error *err);

#endif
