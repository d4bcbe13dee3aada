/* Loading kernels: bzImages made here around a small ELF payload, ELF files of every entry kind, placement of command
 * line, ramdisk and structures, and the errors of what does not fit. Stock kernels are loaded too when the
 * environment variable RING3_TEST_KERNELS lists files (separated by colons). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "boot/boot.h"

#define PARAMS 0x90000
#define COMMAND_LINE 0x91000
#define KERNEL_BASE (16 * MiB)
#define CODE_SIZE 0x300

static const struct acpi_description acpi = {
    .cpu_count = 1,
    .local_apic_gpa = 0xfee00000,
    .io_apic_gpa = 0xfec00000,
    .sci_irq = 9,
    .pm1a_event = 0x600,
    .pm1a_control = 0x604,
    .pm_timer = 0x608,
    .com1_port = 0x3f8,
    .com1_irq = 4,
    .reset_port = 0xcf9,
    .reset_value = 6,
};

struct machine {
    struct memory *memory;
    struct boot_request request;
    struct boot_state state;
    struct error err;
};

static struct machine *machine_new(uint64_t ram_size)
{
    struct machine *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->memory = memory_create(ram_size, NULL, &m->err);
    assert_non_null(m->memory);
    m->request.kernel = "k";
    m->request.append = "console=ttyS0";
    m->request.acpi = &acpi;
    return m;
}

static void machine_free(struct machine *m)
{
    memory_destroy(m->memory);
    free(m);
}

static bool load(struct machine *m, const uint8_t *bytes, uint64_t size, uint64_t initrd_size)
{
    const struct boot_file kernel = {"k", bytes, size};
    uint8_t *ramdisk = malloc(initrd_size + 1);
    memset(ramdisk, 0xab, initrd_size);
    const struct boot_file initrd = {"i", ramdisk, initrd_size};
    bool ok = boot_load_files(m->memory, &m->request, &kernel, initrd_size > 0 ? &initrd : NULL, &m->state, &m->err);
    free(ramdisk);
    return ok;
}

static void expect_error(struct machine *m, const uint8_t *bytes, uint64_t size, uint64_t initrd_size, const char *part)
{
    assert_false(load(m, bytes, size, initrd_size));
    if (strstr(m->err.message, part) == NULL)
        fail_msg("expected \"%s\" in: %s", part, m->err.message);
}

static uint64_t peek(struct machine *m, gpa_t gpa, unsigned width)
{
    uint64_t value = 0;
    assert_true(memory_read(m->memory, gpa, &value, width));
    return value;
}

static void set(uint8_t *bytes, unsigned offset, unsigned width, uint64_t value)
{
    memcpy(bytes + offset, &value, width);
}

/* --- kernels made here --- */

#define ELF_SIZE 0x1000

/* An ELF file of one segment: 0x600 bytes at file offset 0x200, which take 0x2000 in memory at `base`. */
static void make_elf(uint8_t bytes[static ELF_SIZE], bool is_64, uint64_t base, uint64_t entry)
{
    memset(bytes, 0, ELF_SIZE);
    memset(bytes + 0x200, 0xc3, 0x600);
    memcpy(bytes, ELFMAG, SELFMAG);
    bytes[EI_CLASS] = is_64 ? ELFCLASS64 : ELFCLASS32;
    bytes[EI_DATA] = ELFDATA2LSB;
    bytes[EI_VERSION] = EV_CURRENT;
    if (is_64) {
        Elf64_Ehdr *header = (Elf64_Ehdr *)bytes;
        *(Elf64_Phdr *)(bytes + 0x40) = (Elf64_Phdr){.p_type = PT_LOAD,
                                                     .p_offset = 0x200,
                                                     .p_paddr = base,
                                                     .p_vaddr = 0xffffffff80000000 + base,
                                                     .p_filesz = 0x600,
                                                     .p_memsz = 0x2000,
                                                     .p_align = 0x1000};
        header->e_type = ET_EXEC;
        header->e_machine = EM_X86_64;
        header->e_entry = entry;
        header->e_phoff = 0x40;
        header->e_phentsize = sizeof(Elf64_Phdr);
        header->e_phnum = 1;
    } else {
        Elf32_Ehdr *header = (Elf32_Ehdr *)bytes;
        *(Elf32_Phdr *)(bytes + 0x40) = (Elf32_Phdr){.p_type = PT_LOAD,
                                                     .p_offset = 0x200,
                                                     .p_paddr = (uint32_t)base,
                                                     .p_vaddr = 0xc0000000 + (uint32_t)base,
                                                     .p_filesz = 0x600,
                                                     .p_memsz = 0x2000,
                                                     .p_align = 0x1000};
        header->e_type = ET_EXEC;
        header->e_machine = EM_386;
        header->e_entry = (uint32_t)entry;
        header->e_phoff = 0x40;
        header->e_phentsize = sizeof(Elf32_Phdr);
        header->e_phnum = 1;
    }
}

#define IMAGE_ROOM 0x8000
#define SETUP_SIZE 1024

/* A bzImage of protocol 2.15 around `payload`; returns its size. */
static uint64_t make_bzimage(uint8_t image[static IMAGE_ROOM], const uint8_t *payload, uint64_t payload_size)
{
    memset(image, 0, IMAGE_ROOM);
    image[0x1f1] = 1; /* setup_sects */
    set(image, 0x1fe, 2, 0xaa55);
    set(image, 0x200, 2, 0x66eb); /* jump to 0x268 */
    memcpy(image + 0x202, "HdrS", 4);
    set(image, 0x206, 2, 0x20f);
    set(image, 0x20e, 2, 0x100); /* version string at 0x300 */
    strcpy((char *)image + 0x300, "9.8.7-test (somebody)");
    image[0x211] = 1 | 1 << 6;
    set(image, 0x214, 4, MiB);
    set(image, 0x22c, 4, 0x7fffffff);
    set(image, 0x230, 4, 2 * MiB);
    image[0x234] = 1;
    set(image, 0x236, 2, 1);
    set(image, 0x238, 4, 2047);
    set(image, 0x248, 4, CODE_SIZE);
    set(image, 0x24c, 4, payload_size);
    set(image, 0x258, 8, KERNEL_BASE);
    set(image, 0x260, 4, 4 * MiB);
    memset(image + SETUP_SIZE, 0x90, CODE_SIZE);
    memcpy(image + SETUP_SIZE + CODE_SIZE, payload, payload_size);
    return SETUP_SIZE + CODE_SIZE + payload_size;
}

static uint64_t make_gzip_bzimage(uint8_t image[static IMAGE_ROOM], bool is_64)
{
    uint8_t elf[ELF_SIZE], packed[ELF_SIZE];
    make_elf(elf, is_64, KERNEL_BASE, KERNEL_BASE + 0x10);
    z_stream stream = {.next_in = elf, .avail_in = sizeof elf, .next_out = packed, .avail_out = sizeof packed};
    assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);
    return make_bzimage(image, packed, stream.total_out);
}

/* --- bzImage --- */

static void test_direct_64(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(64 * MiB);
    m->request.vga_text = true;
    uint64_t size = make_gzip_bzimage(image, true);
    assert_true(load(m, image, size, 5000));
    const struct boot_state *s = &m->state;
    assert_int_equal(s->mode, BOOT_LONG64);
    assert_true(s->is_64);
    assert_int_equal(s->rip, KERNEL_BASE + 0x10);
    assert_int_equal(s->rsi, PARAMS);
    assert_int_equal(s->cr0, 0x80000011);
    assert_int_equal(s->cr4, 0x20);
    assert_int_equal(s->efer, 0x500);
    assert_int_equal(s->rflags, 2);
    assert_int_equal(s->cs.selector, 0x10);
    assert_int_equal(s->cs.attributes, 0xa09b);
    assert_int_equal(s->ds.selector, 0x18);
    assert_int_equal(s->ds.attributes, 0xc093);
    assert_int_equal(s->ds.limit, 0xffffffff);
    assert_int_equal(peek(m, s->gdt_base + 0x10, 8), 0x00af9b000000ffff);
    assert_string_equal(s->description, "Linux 9.8.7-test (bzImage, boot protocol 2.15): gzip payload decompressed by "
                                        "ring3, entered at 0x1000010 in 64-bit mode");
    /* The segment, and its zeroed end. */
    assert_int_equal(peek(m, KERNEL_BASE + 0x5ff, 2), 0xc3);
    /* boot_params. */
    assert_int_equal(peek(m, PARAMS + 0x202, 4), 0x53726448);
    assert_int_equal(peek(m, PARAMS + 0x210, 2), 0x01ff); /* KEEP_SEGMENTS is cleared */
    assert_int_equal(peek(m, PARAMS + 0x228, 4), COMMAND_LINE);
    assert_int_equal(peek(m, PARAMS + 0x070, 8), 0xf0000);
    assert_int_equal(peek(m, PARAMS + 0x006, 2), 80 << 8 | 3);
    assert_int_equal(peek(m, PARAMS + 0x1e0, 4), 63 * 1024);
    assert_int_equal(peek(m, COMMAND_LINE, 8), 0x3d656c6f736e6f63); /* "console=" */
    gpa_t initrd = peek(m, PARAMS + 0x218, 4);
    assert_int_equal(initrd, 64 * MiB - 2 * PAGE_SIZE);
    assert_int_equal(peek(m, PARAMS + 0x21c, 4), 5000);
    assert_int_equal(peek(m, initrd + 4999, 1), 0xab);
    /* RAM, EBDA, ACPI data, ACPI NVS, BIOS, RAM. */
    static const uint64_t map[][3] = {{0, 0x9fc00, 1},      {0x9fc00, 0x400, 2},   {0xe0000, 0xf000, 3},
                                      {0xef000, 0x1000, 4}, {0xf0000, 0x10000, 2}, {MiB, 63 * MiB, 1}};
    assert_int_equal(peek(m, PARAMS + 0x1e8, 1), ARRAY_LEN(map));
    for (unsigned i = 0; i < ARRAY_LEN(map); i++) {
        assert_int_equal(peek(m, PARAMS + 0x2d0 + i * 20, 8), map[i][0]);
        assert_int_equal(peek(m, PARAMS + 0x2d0 + i * 20 + 8, 8), map[i][1]);
        assert_int_equal(peek(m, PARAMS + 0x2d0 + i * 20 + 16, 4), map[i][2]);
    }
    assert_int_equal(peek(m, 0xf0000, 8), 0x2052545020445352); /* "RSD PTR " */
    assert_int_equal(peek(m, 0x400, 2), 0x3f8);
    assert_int_equal(peek(m, 0x413, 2), 639);
    assert_int_equal(peek(m, 0x449, 1), 3); /* text mode 3: 80 columns, 25 rows of 16 lines, CRT controller at 3D4h */
    assert_int_equal(peek(m, 0x44a, 2), 80);
    assert_int_equal(peek(m, 0x463, 2), 0x3d4);
    assert_int_equal(peek(m, 0x484, 1), 24);
    assert_int_equal(peek(m, 0x485, 2), 16);
    machine_free(m);
}

/* The identity map translates every address below 4 GiB to itself. */
static void test_identity_map(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(64 * MiB);
    uint64_t size = make_gzip_bzimage(image, true);
    assert_true(load(m, image, size, 0));
    for (uint64_t gva = 0; gva < 4 * GiB; gva += 2 * MiB) {
        uint64_t pml4e = peek(m, m->state.cr3, 8);
        assert_int_equal(pml4e & 0xfff, 3);
        uint64_t pdpte = peek(m, (pml4e & ~0xfffull) + (gva >> 30) * 8, 8);
        assert_int_equal(pdpte & 0xfff, 3);
        uint64_t pde = peek(m, (pdpte & ~0xfffull) + (gva >> 21 & 511) * 8, 8);
        assert_int_equal(pde, gva | 0x83);
    }
    machine_free(m);
}

static void test_direct_32(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(64 * MiB);
    uint64_t size = make_gzip_bzimage(image, false);
    assert_true(load(m, image, size, 0));
    assert_int_equal(m->state.mode, BOOT_PROTECTED32);
    assert_int_equal(m->state.rip, KERNEL_BASE + 0x10);
    assert_int_equal(m->state.rsi, PARAMS);
    assert_int_equal(m->state.cr0, 0x11);
    assert_int_equal(m->state.efer, 0);
    assert_int_equal(m->state.cs.attributes, 0xc09b);
    machine_free(m);
}

static void test_guest_decompressor(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(64 * MiB);
    uint64_t size = make_gzip_bzimage(image, true);
    m->request.kaslr = true;
    assert_true(load(m, image, size, 0));
    assert_int_equal(m->state.mode, BOOT_LONG64);
    assert_int_equal(m->state.rip, KERNEL_BASE + 0x200);
    assert_int_equal(peek(m, KERNEL_BASE, 1), 0x90);
    assert_int_equal(peek(m, PARAMS + 0x214, 4), KERNEL_BASE);
    set(image, 0x236, 2, 0); /* no 64-bit entry */
    assert_true(load(m, image, size, 0));
    assert_int_equal(m->state.mode, BOOT_PROTECTED32);
    assert_int_equal(m->state.rip, KERNEL_BASE);
    image[0x234] = 0; /* not relocatable */
    assert_true(load(m, image, size, 0));
    assert_int_equal(m->state.rip, MiB);
    m->request.kaslr = false;
    uint8_t lzo[64] = "\x89LZO\0\r\n\x1a\n";
    size = make_bzimage(image, lzo, sizeof lzo);
    assert_true(load(m, image, size, 0));
    assert_non_null(strstr(m->state.description, "decompressed by the guest (LZO is not supported)"));
    machine_free(m);
}

/* Kernels before protocol 2.02 find their command line by an offset from boot_params. */
static void test_old_protocol(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(64 * MiB);
    uint64_t size = make_gzip_bzimage(image, false);
    set(image, 0x206, 2, 0x201);
    assert_true(load(m, image, size, 100));
    assert_int_equal(m->state.mode, BOOT_PROTECTED32);
    assert_int_equal(m->state.rip, MiB);
    assert_int_equal(peek(m, PARAMS + 0x20, 2), 0xa33f);
    assert_int_equal(peek(m, PARAMS + 0x22, 2), 0x1000);
    set(image, 0x206, 2, 0x1ff);
    expect_error(m, image, size, 0, "boot protocol 1.255, which is not supported");
    set(image, 0x206, 2, 0x20f);
    image[0x211] = 0;
    expect_error(m, image, size, 0, "is a zImage");
    machine_free(m);
}

static void test_bzimage_errors(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(24 * MiB);
    uint64_t size = make_gzip_bzimage(image, true);
    expect_error(m, image, size - 10, 0, "k: is truncated: the kernel's payload");
    expect_error(m, image, 900, 0, "k: is truncated: 900 bytes");
    expect_error(m, image, size, 8 * MiB, "i: the initrd of 8 MiB does not fit in -m 24M beside the kernel");
    assert_true(load(m, image, size, 7 * MiB));
    set(image, 0x22c, 4, KERNEL_BASE + 2 * MiB - 1);
    expect_error(m, image, size, 3 * MiB, "i: the initrd of 3 MiB does not fit between the kernel and 18 MiB");
    image[SETUP_SIZE + CODE_SIZE + 40] ^= 0xff;
    expect_error(m, image, size, 0, "k: the kernel inside cannot be decompressed: the gzip data is damaged");
    char *text = malloc(3001);
    memset(text, 'x', 3000);
    text[3000] = '\0';
    m->request.append = text;
    expect_error(m, image, size, 0, "the command line of 3000 characters is longer than the 2047");
    free(text);
    m->request.append = NULL;
    machine_free(m);

    m = machine_new(16 * MiB);
    size = make_gzip_bzimage(image, true);
    expect_error(m, image, size, 0, "k: the kernel needs guest memory up to 17 MiB and does not fit in -m 16M");
    m->request.kaslr = true;
    expect_error(m, image, size, 0, "k: the kernel needs guest memory up to 20 MiB and does not fit in -m 16M");
    machine_free(m);

    m = machine_new(512 * KiB);
    expect_error(m, image, size, 0, "guest memory of 512 KiB is too small");
    machine_free(m);
}

/* --- ELF --- */

static void test_elf_flat(void **state)
{
    uint8_t elf[ELF_SIZE];
    struct machine *m = machine_new(2 * MiB);
    make_elf(elf, false, MiB, MiB + 4);
    assert_true(load(m, elf, sizeof elf, 0));
    assert_int_equal(m->state.mode, BOOT_PROTECTED32);
    assert_int_equal(m->state.rip, MiB + 4);
    assert_int_equal(m->state.rax, 0);
    assert_int_equal(m->state.rbx, 0);
    assert_int_equal(m->state.rsi, PARAMS);
    make_elf(elf, true, MiB, 0xffffffff80000000 + MiB + 4); /* a virtual entry */
    assert_true(load(m, elf, sizeof elf, 0));
    assert_int_equal(m->state.mode, BOOT_LONG64);
    assert_int_equal(m->state.rip, MiB + 4);
    make_elf(elf, true, 0, 4); /* position-independent */
    ((Elf64_Ehdr *)elf)->e_type = ET_DYN;
    assert_true(load(m, elf, sizeof elf, 0));
    assert_int_equal(m->state.rip, MiB + 4);
    assert_int_equal(peek(m, MiB, 1), 0xc3);
    machine_free(m);
}

static void test_elf_linux(void **state)
{
    uint8_t elf[ELF_SIZE];
    struct machine *m = machine_new(64 * MiB);
    make_elf(elf, true, KERNEL_BASE, KERNEL_BASE);
    strcpy((char *)elf + 0x300, "Linux version %s and Linux version 6.1.0-test (x)");
    assert_true(load(m, elf, sizeof elf, 1000));
    assert_string_equal(m->state.description, "Linux 6.1.0-test (ELF64 vmlinux): entered at 0x1000000 in 64-bit mode");
    assert_int_equal(peek(m, PARAMS + 0x202, 4), 0x53726448);
    assert_int_equal(peek(m, PARAMS + 0x21c, 4), 1000);
    machine_free(m);
}

static void add_pvh_note(uint8_t *elf, uint64_t entry)
{
    const uint32_t note[] = {4, 8, 18, 0x006e6558 /* "Xen" */};
    memcpy(elf + 0xa00, note, sizeof note);
    set(elf, 0xa10, 8, entry);
    ((Elf64_Phdr *)(elf + 0x40))[1] = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = 0xa00, .p_filesz = 24};
    ((Elf64_Ehdr *)elf)->e_phnum = 2;
}

static void test_elf_pvh(void **state)
{
    uint8_t elf[ELF_SIZE];
    struct machine *m = machine_new(64 * MiB);
    make_elf(elf, true, 2 * MiB, 2 * MiB);
    add_pvh_note(elf, 2 * MiB + 0x40);
    assert_true(load(m, elf, sizeof elf, 1000));
    assert_int_equal(m->state.mode, BOOT_PROTECTED32);
    assert_int_equal(m->state.rip, 2 * MiB + 0x40);
    assert_int_equal(m->state.tr.limit, 0x67);
    assert_int_equal(m->state.tr.attributes, 0x8b);
    gpa_t info = m->state.rbx;
    assert_int_equal(peek(m, info, 4), 0x336ec578);
    assert_int_equal(peek(m, info + 4, 4), 1);
    assert_int_equal(peek(m, info + 12, 4), 1);
    gpa_t module = peek(m, info + 16, 8);
    assert_int_equal(peek(m, module + 8, 8), 1000);
    assert_int_equal(peek(m, peek(m, module, 8), 1), 0xab);
    assert_int_equal(peek(m, info + 24, 8), COMMAND_LINE);
    assert_int_equal(peek(m, info + 32, 8), 0xf0000);
    assert_int_equal(peek(m, info + 48, 4), 6);
    gpa_t map = peek(m, info + 40, 8);
    assert_int_equal(peek(m, map + 5 * 24 + 8, 8), 63 * MiB);
    add_pvh_note(elf, 4 * MiB);
    expect_error(m, elf, sizeof elf, 0, "PVH entry point 0x400000 lies in none");
    machine_free(m);
}

static void test_elf_errors(void **state)
{
    uint8_t elf[ELF_SIZE];
    struct machine *m = machine_new(64 * MiB);
    Elf64_Ehdr *header = (Elf64_Ehdr *)elf;
    Elf64_Phdr *phdr = (Elf64_Phdr *)(elf + 0x40);
    make_elf(elf, true, MiB, MiB);
    expect_error(m, elf, 40, 0, "k: is a truncated ELF file");
    expect_error(m, elf, 0x60, 0, "program headers");
    expect_error(m, elf, 0x300, 0, "k: is a truncated ELF file: segment 0");
    header->e_machine = EM_AARCH64;
    expect_error(m, elf, sizeof elf, 0, "k: is an ELF file for ARM64; ring3 runs x86 kernels");
    header->e_machine = 9999;
    expect_error(m, elf, sizeof elf, 0, "machine number 9999");
    make_elf(elf, true, MiB, MiB);
    header->e_type = ET_REL;
    expect_error(m, elf, sizeof elf, 0, "object file or kernel module");
    make_elf(elf, true, MiB, 64 * MiB);
    expect_error(m, elf, sizeof elf, 0, "entry point 0x4000000 lies in none");
    make_elf(elf, true, PARAMS - 0x1000, PARAMS);
    expect_error(m, elf, sizeof elf, 0, "overlaps");
    make_elf(elf, true, 0xa0000, 0xa0000);
    expect_error(m, elf, sizeof elf, 0, "not all usable RAM");
    make_elf(elf, true, MiB, MiB);
    phdr->p_memsz = 64 * MiB;
    expect_error(m, elf, sizeof elf, 0, "k: the kernel needs guest memory up to 65 MiB and does not fit in -m 64M");
    phdr->p_memsz = UINT64_MAX;
    expect_error(m, elf, sizeof elf, 0, "fits in no memory");
    make_elf(elf, true, MiB, MiB);
    phdr->p_filesz = 0x3000;
    expect_error(m, elf, sizeof elf, 0, "more bytes in the file than in memory");
    make_elf(elf, true, UINT64_MAX - 10, UINT64_MAX - 10);
    expect_error(m, elf, sizeof elf, 0, "fits in no memory");
    make_elf(elf, false, 3 * GiB, 3 * GiB);
    expect_error(m, elf, sizeof elf, 0, "beyond the low 3 GiB");
    make_elf(elf, true, MiB, MiB);
    m->request.kaslr = true;
    expect_error(m, elf, sizeof elf, 0, "drop --kaslr");
    machine_free(m);
}

/* --- memory maps and reset --- */

static void test_high_memory(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(9 * GiB);
    uint64_t size = make_gzip_bzimage(image, true);
    assert_true(load(m, image, size, 100));
    unsigned count = (unsigned)peek(m, PARAMS + 0x1e8, 1);
    gpa_t last = PARAMS + 0x2d0 + (count - 1) * 20;
    assert_int_equal(peek(m, last, 8), 4 * GiB);
    assert_int_equal(peek(m, last + 8, 8), 6 * GiB);
    assert_int_equal(peek(m, PARAMS + 0x218, 4), 0x80000000 - PAGE_SIZE); /* initrd_addr_max */
    machine_free(m);
}

static void test_given_map(void **state)
{
    uint8_t image[IMAGE_ROOM];
    struct machine *m = machine_new(64 * MiB);
    const struct boot_range ranges[] = {{0, 0xa0000, BOOT_RANGE_RAM},
                                        {MiB, 63 * MiB, BOOT_RANGE_RAM},
                                        {60 * MiB, 2 * MiB, BOOT_RANGE_RESERVED},
                                        {0xfec00000, 0x1000, BOOT_RANGE_RESERVED}};
    m->request.ranges = ranges;
    m->request.range_count = ARRAY_LEN(ranges);
    uint64_t size = make_gzip_bzimage(image, true);
    assert_true(load(m, image, size, 3 * MiB));
    assert_int_equal(peek(m, PARAMS + 0x218, 4), 57 * MiB); /* below the reserved range */
    machine_free(m);
}

static void test_reset_state(void **state)
{
    struct boot_state s;
    boot_state_reset(&s);
    assert_int_equal(s.mode, BOOT_REAL16);
    assert_int_equal(s.cs.base + s.rip, 0xfffffff0);
}

/* Where software jumps to restart the machine; there is no firmware behind it. */
static void test_restart_jump(void **state)
{
    uint8_t elf[ELF_SIZE];
    struct machine *m = machine_new(2 * MiB);
    make_elf(elf, false, MiB, MiB);
    assert_true(load(m, elf, sizeof elf, 0));
    assert_int_equal(peek(m, 0xffff0, 5), 0xf000ffe0ea);       /* jmp f000:ffe0 */
    assert_int_equal(peek(m, 0xfffe0, 6), 0xee06b00cf9ba);     /* mov dx, cf9h; mov al, 6; out dx, al */
    assert_int_equal(peek(m, 0xffff5, 8), 0x34322f31302f3130); /* 01/01/24 */
    assert_int_equal(peek(m, 0xffffe, 1), 0xfc);
    machine_free(m);
}

static void test_stock_kernels(void **state)
{
    const char *list = getenv("RING3_TEST_KERNELS");
    if (list == NULL || *list == '\0')
        skip();
    char *paths = strdup(list), *rest = paths;
    for (char *path; (path = strsep(&rest, ":")) != NULL;) {
        struct machine *m = machine_new(256 * MiB);
        m->request.kernel = path;
        if (!boot_load(m->memory, &m->request, &m->state, &m->err))
            fail_msg("%s", m->err.message);
        print_message("%s\n", m->state.description);
        assert_int_equal(m->state.rsi, PARAMS);
        m->request.kaslr = true;
        assert_true(boot_load(m->memory, &m->request, &m->state, &m->err));
        machine_free(m);
    }
    free(paths);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_direct_64),     cmocka_unit_test(test_identity_map),
        cmocka_unit_test(test_direct_32),     cmocka_unit_test(test_guest_decompressor),
        cmocka_unit_test(test_old_protocol),  cmocka_unit_test(test_bzimage_errors),
        cmocka_unit_test(test_elf_flat),      cmocka_unit_test(test_elf_linux),
        cmocka_unit_test(test_elf_pvh),       cmocka_unit_test(test_elf_errors),
        cmocka_unit_test(test_high_memory),   cmocka_unit_test(test_given_map),
        cmocka_unit_test(test_reset_state),   cmocka_unit_test(test_restart_jump),
        cmocka_unit_test(test_stock_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
