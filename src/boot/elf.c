/* ELF kernels; see elf.h.
 *
 * Kernels are loaded by physical address (p_paddr), with the part beyond p_filesz zeroed. e_entry is physical in
 * Linux; kernels that give a virtual one are recognised because no segment lies there physically, and it is
 * translated by the segment that holds it. An ET_DYN file whose lowest segment is in physical page 0, where a linker
 * puts a position-independent image, is moved up to 1 MiB (more, if its alignment asks); such a kernel relocates
 * itself: nothing here applies relocations. Section headers and symbols are never looked at.
 *
 * All numbers in the file are hostile: every offset is compared with the file's size before it is used, sums are
 * made where they cannot wrap, and loops are bounded by the file's size.
 *
 * Source: System V gABI chapters 4 and 5; Xen's public/elfnote.h for PHYS32_ENTRY. */
#include "boot/elf.h"

#include <elf.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define XEN_ELFNOTE_PHYS32_ENTRY 18

static const struct {
    uint16_t machine;
    const char *name;
} machines[] = {
    {EM_ARM, "32-bit ARM"}, {EM_AARCH64, "ARM64"},  {EM_RISCV, "RISC-V"},  {EM_PPC, "32-bit PowerPC"},
    {EM_PPC64, "PowerPC"},  {EM_MIPS, "MIPS"},      {EM_S390, "s390"},     {EM_SPARC, "SPARC"},
    {EM_SPARCV9, "SPARC"},  {EM_68K, "68000"},      {EM_IA_64, "Itanium"}, {EM_SH, "SuperH"},
    {EM_ALPHA, "Alpha"},    {EM_PARISC, "PA-RISC"}, {EM_BPF, "BPF"},       {EM_MICROBLAZE, "MicroBlaze"},
    {258, "LoongArch"},     {EM_XTENSA, "Xtensa"},
};

static bool machine_refuse(uint16_t machine, struct error *err)
{
    for (unsigned i = 0; i < ARRAY_LEN(machines); i++)
        if (machines[i].machine == machine)
            return error_set(err, "is an ELF file for %s; ring3 runs x86 kernels: give --kernel one built for x86",
                             machines[i].name);
    return error_set(
        err, "is an ELF file for machine number %u; ring3 runs x86 kernels: give --kernel one built for x86", machine);
}

static bool type_refuse(uint16_t type, struct error *err)
{
    switch (type) {
    case ET_REL:
        return error_set(err, "is an ELF object file or kernel module, not linked; give --kernel the kernel itself");
    case ET_CORE:
        return error_set(err, "is a core dump; give --kernel the kernel itself");
    default:
        return error_set(err, "is an ELF file of type %u, which cannot be booted (2, EXEC, and 3, DYN, can)", type);
    }
}

/* The file header in its 64-bit form, from either class. */
static bool header_read(const uint8_t *bytes, uint64_t size, Elf64_Ehdr *header, struct error *err)
{
    if (size < sizeof(Elf32_Ehdr) || memcmp(bytes, ELFMAG, SELFMAG) != 0)
        return error_set(err, "is a truncated ELF file: %" PRIu64 " bytes hold no header", size);
    uint8_t class = bytes[EI_CLASS];
    if (bytes[EI_DATA] == ELFDATA2MSB)
        return error_set(err, "is a big-endian ELF file; ring3 runs x86 kernels: give --kernel one built for x86");
    if (bytes[EI_DATA] != ELFDATA2LSB || (class != ELFCLASS32 && class != ELFCLASS64))
        return error_set(err, "is an ELF file of unknown class %u or byte order %u", class, bytes[EI_DATA]);
    if (class == ELFCLASS64) {
        if (size < sizeof *header)
            return error_set(err, "is a truncated ELF file: %" PRIu64 " bytes hold no header", size);
        memcpy(header, bytes, sizeof *header);
    } else {
        Elf32_Ehdr narrow;
        memcpy(&narrow, bytes, sizeof narrow);
        memcpy(header->e_ident, narrow.e_ident, EI_NIDENT);
        header->e_type = narrow.e_type;
        header->e_machine = narrow.e_machine;
        header->e_entry = narrow.e_entry;
        header->e_phoff = narrow.e_phoff;
        header->e_phentsize = narrow.e_phentsize;
        header->e_phnum = narrow.e_phnum;
    }
    if (header->e_machine != EM_386 && header->e_machine != EM_X86_64 && header->e_machine != EM_IAMCU)
        return machine_refuse(header->e_machine, err);
    if (class == ELFCLASS64 && header->e_machine != EM_X86_64)
        return error_set(err, "is a 64-bit ELF file for a 32-bit machine (number %u)", header->e_machine);
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
        return type_refuse(header->e_type, err);
    size_t entry_size = class == ELFCLASS64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (header->e_phnum == 0)
        return error_set(err, "is an ELF file without program headers: nothing in it can be loaded");
    if (header->e_phentsize != entry_size || header->e_phoff > size ||
        (uint64_t)header->e_phnum * entry_size > size - header->e_phoff)
        return error_set(err,
                         "is a truncated or damaged ELF file: %u program headers at %#" PRIx64
                         " do not lie in its %" PRIu64 " bytes",
                         header->e_phnum, (uint64_t)header->e_phoff, size);
    return true;
}

/* Program header `i` in its 64-bit form; it lies in the file. */
static Elf64_Phdr phdr_read(const struct elf_image *elf, const Elf64_Ehdr *header, unsigned i)
{
    Elf64_Phdr phdr;
    const uint8_t *at = elf->bytes + header->e_phoff + (uint64_t)i * header->e_phentsize;
    if (elf->is_64) {
        memcpy(&phdr, at, sizeof phdr);
        return phdr;
    }
    Elf32_Phdr narrow;
    memcpy(&narrow, at, sizeof narrow);
    return (Elf64_Phdr){
        .p_type = narrow.p_type,
        .p_flags = narrow.p_flags,
        .p_offset = narrow.p_offset,
        .p_vaddr = narrow.p_vaddr,
        .p_paddr = narrow.p_paddr,
        .p_filesz = narrow.p_filesz,
        .p_memsz = narrow.p_memsz,
        .p_align = narrow.p_align,
    };
}

static bool segment_add(struct elf_image *elf, const Elf64_Phdr *phdr, unsigned i, struct error *err)
{
    if (phdr->p_memsz == 0)
        return true;
    if (phdr->p_filesz > phdr->p_memsz)
        return error_set(err, "is a damaged ELF file: segment %u has more bytes in the file than in memory", i);
    if (phdr->p_filesz > 0 && (phdr->p_offset > elf->size || phdr->p_filesz > elf->size - phdr->p_offset))
        return error_set(err,
                         "is a truncated ELF file: segment %u, %" PRIu64 " bytes at %#" PRIx64
                         ", does not lie in its %" PRIu64 " bytes",
                         i, (uint64_t)phdr->p_filesz, (uint64_t)phdr->p_offset, elf->size);
    if (phdr->p_memsz > MEMORY_RAM_MAX || phdr->p_paddr > UINT64_MAX - MEMORY_RAM_MAX)
        return error_set(
            err, "is an ELF file whose segment %u, %" PRIu64 " bytes at physical %#" PRIx64 ", fits in no memory", i,
            (uint64_t)phdr->p_memsz, (uint64_t)phdr->p_paddr);
    if (elf->count == ELF_SEGMENT_MAX)
        return error_set(err, "is an ELF file of more than %u segments", ELF_SEGMENT_MAX);
    elf->segments[elf->count++] = (struct elf_segment){
        .offset = phdr->p_offset,
        .file_size = phdr->p_filesz,
        .vaddr = phdr->p_vaddr,
        .paddr = phdr->p_paddr,
        .memory_size = phdr->p_memsz,
    };
    return true;
}

/* Looks through one PT_NOTE segment for Xen's 32-bit entry. Names and descriptors are padded to 4 bytes. */
static void notes_read(struct elf_image *elf, const Elf64_Phdr *phdr)
{
    if (phdr->p_offset > elf->size || phdr->p_filesz > elf->size - phdr->p_offset)
        return;
    const uint8_t *at = elf->bytes + phdr->p_offset;
    uint64_t left = phdr->p_filesz;
    Elf64_Nhdr note;
    while (left >= sizeof note) {
        memcpy(&note, at, sizeof note);
        uint64_t name_size = ((uint64_t)note.n_namesz + 3) & ~3ull;
        uint64_t size = sizeof note + name_size + (((uint64_t)note.n_descsz + 3) & ~3ull);
        if (size > left)
            return;
        if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 && memcmp(at + sizeof note, "Xen", 4) == 0 &&
            (note.n_descsz == 4 || note.n_descsz == 8)) {
            elf->pvh_entry = 0;
            memcpy(&elf->pvh_entry, at + sizeof note + name_size, note.n_descsz);
            elf->has_pvh = true;
        }
        at += size;
        left -= size;
    }
}

/* A dynamic linker of an operating system's programs. FreeBSD's kernel names "/red/herring". */
static bool is_program(const struct elf_image *elf, const Elf64_Phdr *phdr)
{
    if (phdr->p_type != PT_INTERP || phdr->p_filesz < 5 || phdr->p_offset > elf->size ||
        phdr->p_filesz > elf->size - phdr->p_offset)
        return false;
    const char *path = (const char *)elf->bytes + phdr->p_offset;
    return memcmp(path, "/lib", 4) == 0 || memcmp(path, "/usr", 4) == 0 || memcmp(path, "/nix", 4) == 0;
}

static bool holds(uint64_t base, uint64_t size, uint64_t at)
{
    return at >= base && at - base < size;
}

bool elf_holds(const struct elf_image *elf, gpa_t gpa)
{
    for (unsigned i = 0; i < elf->count; i++)
        if (holds(elf->segments[i].paddr, elf->segments[i].memory_size, gpa))
            return true;
    return false;
}

/* Makes `entry` physical; see the essay. */
static bool entry_find(struct elf_image *elf, uint64_t entry, struct error *err)
{
    if (elf_holds(elf, entry)) {
        elf->entry = entry;
        return true;
    }
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        if (holds(segment->vaddr, segment->memory_size, entry)) {
            elf->entry = segment->paddr + (entry - segment->vaddr);
            return true;
        }
    }
    return error_set(err, "is an ELF file whose entry point %#" PRIx64 " lies in none of its segments", entry);
}

static void image_move(struct elf_image *elf, uint64_t align)
{
    gpa_t lowest = UINT64_MAX;
    for (unsigned i = 0; i < elf->count; i++)
        lowest = elf->segments[i].paddr < lowest ? elf->segments[i].paddr : lowest;
    if (lowest >= PAGE_SIZE)
        return;
    uint64_t by = align > MiB && align <= GiB && (align & (align - 1)) == 0 ? align : MiB;
    for (unsigned i = 0; i < elf->count; i++)
        elf->segments[i].paddr += by;
    elf->entry += by;
    elf->pvh_entry += by;
}

bool elf_parse(const uint8_t *bytes, uint64_t size, struct elf_image *elf, struct error *err)
{
    memset(elf, 0, sizeof *elf);
    Elf64_Ehdr header = {0};
    if (!header_read(bytes, size, &header, err))
        return false;
    elf->bytes = bytes;
    elf->size = size;
    elf->is_64 = bytes[EI_CLASS] == ELFCLASS64;
    uint64_t align = 0;
    for (unsigned i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr phdr = phdr_read(elf, &header, i);
        if (phdr.p_type == PT_NOTE)
            notes_read(elf, &phdr);
        if (is_program(elf, &phdr))
            return error_set(err, "is a program for an operating system, not a kernel; give --kernel a kernel");
        if (phdr.p_type != PT_LOAD)
            continue;
        if (!segment_add(elf, &phdr, i, err))
            return false;
        align = phdr.p_align > align ? phdr.p_align : align;
    }
    if (header.e_type == ET_DYN && header.e_entry == 0)
        return error_set(err, "is a shared library without entry point; give --kernel a kernel");
    if (elf->count == 0)
        return error_set(err, "is an ELF file without loadable segments: nothing in it can be loaded");
    if (!entry_find(elf, header.e_entry, err))
        return false;
    if (header.e_type == ET_DYN)
        image_move(elf, align);
    for (unsigned i = 0; i < elf->count; i++) {
        gpa_t end = elf->segments[i].paddr + elf->segments[i].memory_size;
        elf->end = end > elf->end ? end : elf->end;
    }
    return true;
}

bool elf_find_linux(const struct elf_image *elf, char *release, size_t release_size)
{
    static const char banner[] = "Linux version ";
    const size_t length = sizeof banner - 1;
    for (unsigned i = 0; i < elf->count; i++) {
        const uint8_t *at = elf->bytes + elf->segments[i].offset;
        const uint8_t *end = at + elf->segments[i].file_size;
        /* A digit tells the banner from format strings such as "Linux version %s". */
        while (elf->segments[i].file_size > 0 && (at = memmem(at, (size_t)(end - at), banner, length)) != NULL) {
            at += length;
            if (at == end || *at < '0' || *at > '9')
                continue;
            size_t n = 0;
            while (n + 1 < release_size && at + n < end && at[n] > ' ' && at[n] < 0x7f) {
                release[n] = (char)at[n];
                n++;
            }
            release[n] = '\0';
            return true;
        }
    }
    return false;
}

bool elf_load(struct load *load, const struct elf_image *elf, struct error *err)
{
    if (!load_reaches(load, elf->end, "the kernel", err))
        return false;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        uint8_t *at = load_claim(load, segment->paddr, segment->memory_size, "the kernel's segment", err);
        if (at == NULL)
            return false;
        if (segment->file_size > 0)
            memcpy(at, elf->bytes + segment->offset, segment->file_size);
        memset(at + segment->file_size, 0, segment->memory_size - segment->file_size);
    }
    return true;
}
