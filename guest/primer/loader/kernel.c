/* The kernel's file is in memory: put its parts where they belong, and go there.
 *
 * An ELF file of either class; both builds of the kernel are entered in 32-bit protected mode. It is told what Multiboot 1
 * tells: how much memory there is, and the command line, which is on the volume's label. A file that is not what it should be
 * gets no further; there is no BIOS any more to say so with, so it stands on the screen's first line.
 *
 * System V ABI (gABI), chapter 5; Multiboot Specification 0.6.96, 3.2 and 3.3. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../volume.h"
#include "loader.h"

_Static_assert(VOLUME_LABEL_SECTOR == VOLUME_LABEL, "loader.h");
_Static_assert(VOLUME_SECTORS == 1 + VOLUME_FILES * sizeof(struct volume_entry) / 512, "loader.h");
_Static_assert(ENTRY_SIZE == sizeof(struct volume_entry) && ENTRY_START == offsetof(struct volume_entry, start) &&
                   ENTRY_SIZE_BYTES == offsetof(struct volume_entry, size), "loader.h");

struct elf32_segment {
    uint32_t type, offset, address, physical, file_size, memory_size, flags, align;
};
struct elf64_segment {
    uint32_t type, flags;
    uint64_t offset, address, physical, file_size, memory_size, align;
};
struct elf32_header {
    uint8_t ident[16];
    uint16_t type, machine;
    uint32_t version, entry, segments, sections, flags;
    uint16_t header_size, segment_size, segment_count;
};
struct elf64_header {
    uint8_t ident[16];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, segments, sections;
    uint32_t flags;
    uint16_t header_size, segment_size, segment_count;
};
#define ELF_MAGIC 0x464c457fu
#define ELF_CLASS_64 2
#define PT_LOAD 1u

#define MULTIBOOT_LOADER_MAGIC 0x2badb002u
#define MULTIBOOT_HAS_MEMORY 0x1u
#define MULTIBOOT_HAS_COMMAND 0x4u
static struct {
    uint32_t flags, kib_below, kib_above, boot_device, command, rest[20];
} info;

_Noreturn void kernel_jump(uint32_t entry, uint32_t magic, const void *info);
_Noreturn void kernel_enter(uint32_t size, uint32_t kib_above, const struct volume_label *label);

static _Noreturn void fail(const char *words)
{
    volatile uint16_t *screen = (volatile uint16_t *)0xb8000;
    for (; *words != 0; words++)
        *screen++ = (uint16_t)(0x0700 | (uint8_t)*words);
    for (;;)
        __asm__ volatile("hlt");
}

/* One part of the file, and zeros behind it. What would lie on the loader, or on the file itself, is refused. */
static void part_place(uint32_t file_size, uint64_t offset, uint64_t to, uint64_t bytes, uint64_t memory)
{
    const uint32_t above = 0x100000;
    if (offset > file_size || bytes > file_size - offset || bytes > memory || to < above || to > KERNEL_FILE_GPA ||
        memory > KERNEL_FILE_GPA - to)
        fail("primer: the kernel's file does not fit");
    const void *from = (const void *)(KERNEL_FILE_GPA + (uint32_t)offset);
    void *at = (void *)(uint32_t)to;
    uint32_t n = (uint32_t)bytes, zeros = (uint32_t)(memory - bytes);
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(zeros) : "a"(0) : "memory");
}

void kernel_enter(uint32_t size, uint32_t kib_above, const struct volume_label *label)
{
    const struct elf32_header *elf = (const struct elf32_header *)KERNEL_FILE_GPA;
    const struct elf64_header *elf64 = (const struct elf64_header *)KERNEL_FILE_GPA;
    if (size < sizeof(*elf64) || *(const uint32_t *)elf->ident != ELF_MAGIC)
        fail("primer: the kernel is not an ELF file");
    bool wide = elf->ident[4] == ELF_CLASS_64;
    uint32_t count = wide ? elf64->segment_count : elf->segment_count;
    uint64_t at = wide ? elf64->segments : elf->segments, step = wide ? sizeof(struct elf64_segment) : sizeof(struct elf32_segment);
    if (at > size || count * step > size - at)
        fail("primer: the kernel's file is too short");
    for (uint32_t i = 0; i < count; i++) {
        const void *segment = (const void *)(KERNEL_FILE_GPA + (uint32_t)(at + i * step));
        const struct elf32_segment *s = segment;
        const struct elf64_segment *s64 = segment;
        if (s->type != PT_LOAD)
            continue;
        if (wide)
            part_place(size, s64->offset, s64->physical, s64->file_size, s64->memory_size);
        else
            part_place(size, s->offset, s->physical, s->file_size, s->memory_size);
    }
    info.flags = MULTIBOOT_HAS_MEMORY | MULTIBOOT_HAS_COMMAND;
    info.kib_below = 640;
    info.kib_above = kib_above;
    info.command = (uint32_t)label->command_line;
    kernel_jump(wide ? (uint32_t)elf64->entry : elf->entry, MULTIBOOT_LOADER_MAGIC, &info);
}
