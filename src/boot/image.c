/* Kernel and ramdisk files; see image.h.
 *
 * A file that is no x86 kernel is recognised where users really go wrong: another architecture's kernel, a compressed
 * kernel, an initial ramdisk or a disk image in the wrong option, an EFI program, a package. The table of
 * magics is searched in order, so longer and rarer ones stand first. Compressed files are looked into, one layer
 * deep, because "gzip" says less than "a gzip-compressed initial ramdisk".
 *
 * Reading is by read(), not by mapping: a mapped file that is truncated by somebody else kills the process. Pipes
 * work; directories and devices (which may be endless) are refused. */
#include "boot/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_FIRST (64 * KiB)
#define PEEK_SIZE (64 * KiB)

/* Reads to the end of the file into a buffer that starts with room for `expected` bytes (0: not known). */
static bool read_all(int fd, const char *path, uint64_t expected, uint64_t limit, struct buffer *out, struct error *err)
{
    uint64_t capacity = expected == 0 && READ_FIRST < limit ? READ_FIRST : expected;
    capacity++; /* the byte more lets the end be seen without growing */
    uint8_t *bytes = malloc(capacity);
    uint64_t size = 0;
    while (bytes != NULL) {
        if (size == capacity) {
            capacity = capacity * 2 < limit + 1 ? capacity * 2 : limit + 1;
            uint8_t *more = realloc(bytes, capacity);
            if (more == NULL)
                free(bytes);
            bytes = more;
            continue;
        }
        ssize_t n = read(fd, bytes + size, capacity - size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            error_set(err, "%s: cannot read: %m", path);
            break;
        }
        if (n == 0) {
            *out = (struct buffer){bytes, size};
            return true;
        }
        size += (uint64_t)n;
        if (size > limit) {
            error_set(err, "%s: larger than %llu MiB, which is no file for this option", path, limit / MiB);
            break;
        }
    }
    if (bytes == NULL)
        error_set(err, "%s: out of memory after %llu MiB", path, size / MiB);
    free(bytes);
    return false;
}

bool image_read(const char *path, uint64_t limit, const char *advice, struct buffer *out, struct error *err)
{
    *out = (struct buffer){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, "%s: cannot open: %m; %s", path, advice);
    struct stat st;
    bool ok = false;
    if (fstat(fd, &st) != 0)
        error_set(err, "%s: cannot examine: %m", path);
    else if (S_ISDIR(st.st_mode))
        error_set(err, "%s: is a directory; %s", path, advice);
    else if (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode))
        error_set(err, "%s: is a device, not a file; %s", path, advice);
    else if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > limit)
        error_set(err, "%s: %llu MiB is too large (at most %llu MiB); %s", path, (uint64_t)st.st_size / MiB,
                  limit / MiB, advice);
    else
        ok = read_all(fd, path, S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0, limit, out, err);
    close(fd);
    if (ok && out->size == 0) {
        buffer_free(out);
        return error_set(err, "%s: is empty; %s", path, advice);
    }
    return ok;
}

static uint32_t load(const uint8_t *bytes, uint64_t size, uint64_t offset, unsigned width)
{
    uint32_t value = 0;
    if (offset <= size && width <= size - offset)
        memcpy(&value, bytes + offset, width);
    return value;
}

enum image_format image_format(const struct boot_file *file)
{
    if (load(file->bytes, file->size, 0, 4) == 0x464c457f)
        return IMAGE_ELF;
    if (load(file->bytes, file->size, 0x1fe, 2) == 0xaa55 && load(file->bytes, file->size, 0x202, 4) == 0x53726448)
        return IMAGE_BZIMAGE;
    return IMAGE_UNKNOWN;
}

struct magic {
    uint32_t offset;
    uint8_t size;
    const char *bytes;
    const char *what;
    const char *advice;
};

#define OTHER_ARCHITECTURE "ring3 runs x86 kernels; " IMAGE_KERNEL_ADVICE
#define IS_INITRD "give it with --initrd, and the kernel with --kernel"
#define IS_DISK "give it as a disk, not with --kernel"

static const struct magic magics[] = {
    {0x38, 4, "ARM\x64", "an ARM64 kernel (Image)", OTHER_ARCHITECTURE},
    {0x38, 4, "RSC\x05", "a RISC-V kernel (Image)", OTHER_ARCHITECTURE},
    {0x30, 5, "RISCV", "a RISC-V kernel (Image)", OTHER_ARCHITECTURE},
    {0x38, 4, "\xcd\x23\x82\x81", "a LoongArch kernel (Image)", OTHER_ARCHITECTURE},
    {0x24, 4, "\x18\x28\x6f\x01", "a 32-bit ARM kernel (zImage)", OTHER_ARCHITECTURE},
    {4, 4, "zimg", "an EFI zboot kernel, which is not an x86 format", OTHER_ARCHITECTURE},
    {0, 4, "\x27\x05\x19\x56", "a U-Boot image (uImage)", OTHER_ARCHITECTURE},
    {0, 4, "\xd0\x0d\xfe\xed", "a device tree or U-Boot FIT image", OTHER_ARCHITECTURE},
    {0, 8, "ANDROID!", "an Android boot image", "unpack it and give --kernel the bzImage inside"},
    {0, 6, "070701", "an initial ramdisk (cpio archive)", IS_INITRD},
    {0, 6, "070702", "an initial ramdisk (cpio archive)", IS_INITRD},
    {0, 6, "070707", "an old cpio archive", IMAGE_KERNEL_ADVICE},
    {0, 2, "\xc7\x71", "an old cpio archive", IMAGE_KERNEL_ADVICE},
    {0, 4, "QFI\xfb", "a qcow2 disk image", IS_DISK},
    {0, 4, "KDMV", "a VMDK disk image", IS_DISK},
    {0, 8, "vhdxfile", "a VHDX disk image", IS_DISK},
    {0x8001, 5, "CD001", "a CD image (ISO 9660)", IS_DISK},
    {0, 7, "!<arch>", "a Debian package or an archive", "unpack it and give --kernel the vmlinuz inside"},
    {0, 4, "\xed\xab\xee\xdb", "an RPM package", "unpack it and give --kernel the vmlinuz inside"},
    {0, 4, "PK\x03\x04", "a zip archive", "unpack it and give --kernel the kernel inside"},
    {257, 5, "ustar", "a tar archive", "unpack it and give --kernel the kernel inside"},
    {0, 4, "\xfe\xed\xfa\xce", "a Mach-O file", IMAGE_KERNEL_ADVICE},
    {0, 4, "\xce\xfa\xed\xfe", "a Mach-O file", IMAGE_KERNEL_ADVICE},
    {0, 4, "\xcf\xfa\xed\xfe", "a Mach-O file", IMAGE_KERNEL_ADVICE},
    {0, 4, "hsqs", "a squashfs file system", IS_DISK},
    {0x438, 2, "\x53\xef", "an ext2/3/4 file system", IS_DISK},
    {0, 2, "#!", "a script", IMAGE_KERNEL_ADVICE},
};

static const struct magic *magic_find(const uint8_t *bytes, uint64_t size)
{
    for (unsigned i = 0; i < ARRAY_LEN(magics); i++) {
        const struct magic *magic = &magics[i];
        if (size >= magic->offset + magic->size && memcmp(bytes + magic->offset, magic->bytes, magic->size) == 0)
            return magic;
    }
    return NULL;
}

static const char *pe_machine(uint32_t machine)
{
    switch (machine) {
    case 0x014c:
        return "i386";
    case 0x8664:
        return "x86-64";
    case 0xaa64:
        return "ARM64";
    case 0x01c0:
    case 0x01c2:
    case 0x01c4:
        return "ARM";
    case 0x5064:
        return "RISC-V";
    case 0x6264:
        return "LoongArch";
    case 0x0200:
        return "Itanium";
    default:
        return NULL;
    }
}

/* Whether a PE file has a section ".linux", as unified kernel images do. */
static bool pe_is_unified(const uint8_t *bytes, uint64_t size, uint64_t pe)
{
    unsigned count = load(bytes, size, pe + 6, 2);
    uint64_t section = pe + 24 + load(bytes, size, pe + 20, 2);
    for (unsigned i = 0; i < count && i < 96; i++, section += 40)
        if (section <= size && size - section >= 8 && memcmp(bytes + section, ".linux\0", 8) == 0)
            return true;
    return false;
}

/* "MZ" without a Linux header. True when described. */
static bool pe_refuse(const struct boot_file *file, struct error *err)
{
    uint64_t pe = load(file->bytes, file->size, 0x3c, 4);
    if (load(file->bytes, file->size, 0, 2) != 0x5a4d)
        return false;
    if (load(file->bytes, file->size, pe, 4) != 0x4550) {
        error_set(err, "%s: is a DOS program; " IMAGE_KERNEL_ADVICE, file->name);
        return true;
    }
    uint32_t machine = load(file->bytes, file->size, pe + 4, 2);
    const char *name = pe_machine(machine);
    char unknown[32];
    snprintf(unknown, sizeof unknown, "machine %#x", machine);
    if (pe_is_unified(file->bytes, file->size, pe))
        error_set(err,
                  "%s: is a unified kernel image for EFI (%s); extract its section with "
                  "`objcopy -O binary --only-section=.linux` and give --kernel the result",
                  file->name, name != NULL ? name : unknown);
    else
        error_set(err, "%s: is an EFI or Windows program (PE, %s) without a Linux boot header; " IMAGE_KERNEL_ADVICE,
                  file->name, name != NULL ? name : unknown);
    return true;
}

/* A compressed file: says what is inside. True when described. */
static bool compressed_refuse(const struct boot_file *file, struct error *err)
{
    enum compression compression = compression_detect(file->bytes, file->size);
    if (compression == COMPRESSION_NONE)
        return false;
    const char *name = compression_name(compression);
    struct buffer head;
    if (!decompress_head(compression, file->bytes, file->size, PEEK_SIZE, &head)) {
        error_set(err, "%s: is %s-compressed data, not a kernel; decompress it first, or give it with --initrd",
                  file->name, name);
        return true;
    }
    const struct boot_file inside = {file->name, head.bytes, head.size};
    const struct magic *magic = magic_find(head.bytes, head.size);
    if (image_format(&inside) != IMAGE_UNKNOWN)
        error_set(err, "%s: is a %s-compressed %s; decompress it and give --kernel the result", file->name, name,
                  image_format(&inside) == IMAGE_ELF ? "ELF file" : "bzImage");
    else if (magic != NULL)
        error_set(err, "%s: is %s-compressed: %s; %s", file->name, name, magic->what, magic->advice);
    else
        error_set(err, "%s: is %s-compressed data, not a kernel; decompress it first, or give it with --initrd",
                  file->name, name);
    buffer_free(&head);
    return true;
}

bool image_refuse(const struct boot_file *file, struct error *err)
{
    if (compressed_refuse(file, err))
        return false;
    const struct magic *magic = magic_find(file->bytes, file->size);
    if (magic != NULL)
        return error_set(err, "%s: is %s; %s", file->name, magic->what, magic->advice);
    if (pe_refuse(file, err))
        return false;
    if (load(file->bytes, file->size, 0x1fe, 2) == 0xaa55)
        return error_set(err,
                         "%s: has a boot sector but no Linux boot header: a disk image, or a kernel from before Linux "
                         "1.3.73; %s",
                         file->name, file->size > 512 ? "give a disk image as a disk" : IMAGE_KERNEL_ADVICE);
    return error_set(err, "%s: is not a kernel that ring3 knows; " IMAGE_KERNEL_ADVICE, file->name);
}
