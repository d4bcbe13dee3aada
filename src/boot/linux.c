/* bzImages by the Linux/x86 boot protocol, 2.00 to 2.15; see linux.h.
 *
 * A bzImage is real-mode setup code, whose first sectors hold the setup header, and protected-mode code: a
 * decompressor with the compressed kernel, the payload, an ELF file. Two ways in:
 *
 * Directly. The payload is decompressed here, at the host's speed, and its ELF segments go to the physical addresses
 * they are linked at. There nothing needs relocation: the table behind the ELF file is for kernels that are moved. The
 * entry is the kernel's own: startup_64 in long mode with an identity map of 4 GiB, or startup_32 without
 * paging; boot_params in (R)SI either way. Of what the guest's decompressor would do, nothing is left out that
 * such a kernel misses: no randomisation (KASLR_FLAG stays clear), four-level paging.
 *
 * By the guest's decompressor: the protected-mode code goes to the preferred address (code32_start, if it cannot
 * be moved) with init_size bytes free from there, and is entered at its 64-bit entry, 0x200 into it, when
 * XLF_KERNEL_64 promises one, else at its start in 32-bit mode. This is what --kaslr asks for, and what is done with a
 * payload that is not announced (before protocol 2.08), not an ELF file, or LZO-compressed.
 *
 * A damaged payload is an error, not a reason to fall back: the guest would only say so later.
 *
 * Not supported: zImage (loaded below 640 KiB; kernels of the 1990s) and the EFI handover.
 *
 * Source: Linux Documentation/arch/x86/boot.rst. */
#include "boot/linux.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "boot/decompress.h"
#include "boot/elf.h"
#include "boot/params.h"

#define SECTOR 512u
#define PAYLOAD_MAX GiB
#define CODE32_DEFAULT MiB
#define ENTRY64_OFFSET 0x200
#define XLF_KERNEL_64 1u

struct linux_image {
    const struct boot_file *file;
    struct params header;
    uint16_t version;
    const uint8_t *code; /* the protected-mode code */
    uint64_t code_size;
    const uint8_t *payload; /* NULL when not announced */
    uint64_t payload_size;
    uint64_t initrd_end; /* exclusive */
    uint64_t command_line_max;
    char release[64];
};

/* A header field that exists since protocol `since`; 0 in older kernels. */
static uint64_t field(const struct linux_image *image, enum params_offset offset, unsigned width, uint16_t since)
{
    return image->version >= since ? params_get(&image->header, offset, width) : 0;
}

/* The release, "6.1.0-9-amd64", from the version string in the setup code. */
static void release_read(struct linux_image *image, uint64_t setup_size)
{
    uint64_t at = params_get(&image->header, PARAMS_KERNEL_VERSION, 2);
    snprintf(image->release, sizeof image->release, "of unknown version");
    if (at == 0 || (at += SECTOR) >= setup_size)
        return;
    const uint8_t *text = image->file->bytes + at;
    size_t n = 0;
    while (n + 1 < sizeof image->release && at + n < setup_size && text[n] > ' ' && text[n] < 0x7f)
        n++;
    if (n > 0)
        snprintf(image->release, sizeof image->release, "%.*s", (int)n, (const char *)text);
}

static bool payload_find(struct linux_image *image, struct error *err)
{
    uint64_t offset = field(image, PARAMS_PAYLOAD_OFFSET, 4, 0x208);
    uint64_t size = field(image, PARAMS_PAYLOAD_LENGTH, 4, 0x208);
    if (size == 0)
        return true;
    if (offset > image->code_size || size > image->code_size - offset)
        return error_set(err,
                         "%s: is truncated: the kernel's payload of %" PRIu64 " bytes does not lie in its %" PRIu64
                         " bytes; get the whole file",
                         image->file->name, size, image->file->size);
    image->payload = image->code + offset;
    image->payload_size = size;
    return true;
}

static bool image_parse(const struct boot_file *file, struct linux_image *image, struct error *err)
{
    memset(image, 0, sizeof *image);
    image->file = file;
    const uint8_t *bytes = file->bytes;
    uint64_t setup_sectors = file->size > PARAMS_HEADER_BASE ? bytes[PARAMS_HEADER_BASE] : 0;
    uint64_t setup_size = ((setup_sectors == 0 ? 4 : setup_sectors) + 1) * SECTOR;
    if (file->size <= setup_size)
        return error_set(err,
                         "%s: is truncated: %" PRIu64 " bytes, of which the real-mode code alone takes %" PRIu64
                         "; get the whole file",
                         file->name, file->size, setup_size);
    uint64_t end = PARAMS_HEADER + bytes[PARAMS_JUMP + 1]; /* where the jump over the header lands */
    end = end < PARAMS_HEADER_END ? end : PARAMS_HEADER_END;
    memcpy(image->header.bytes + PARAMS_HEADER_BASE, bytes + PARAMS_HEADER_BASE, end - PARAMS_HEADER_BASE);
    image->version = (uint16_t)params_get(&image->header, PARAMS_VERSION, 2);
    if (image->version < 0x200)
        return error_set(err, "%s: has boot protocol %u.%02u, which is not supported (2.00 and later are)", file->name,
                         image->version >> 8, image->version & 0xff);
    if (!(params_get(&image->header, PARAMS_LOADFLAGS, 1) & LOADED_HIGH))
        return error_set(err, "%s: is a zImage, which is loaded below 640 KiB and not supported; build a bzImage",
                         file->name);
    image->code = bytes + setup_size;
    image->code_size = file->size - setup_size;
    release_read(image, setup_size);
    uint64_t initrd_max = field(image, PARAMS_INITRD_ADDR_MAX, 4, 0x203);
    image->initrd_end = image->version >= 0x203 ? initrd_max + 1 : 0x38000000;
    uint64_t command_line_max = field(image, PARAMS_CMDLINE_SIZE, 4, 0x206);
    image->command_line_max = command_line_max != 0 ? command_line_max : 255;
    return payload_find(image, err);
}

static void describe(struct load *load, const struct linux_image *image, const char *how)
{
    const struct boot_state *state = load->state;
    snprintf(load->state->description, sizeof load->state->description,
             "Linux %s (bzImage, boot protocol %u.%02u): %s, entered at %#" PRIx64 " in %s mode", image->release,
             image->version >> 8, image->version & 0xff, how, state->rip, state->is_64 ? "64-bit" : "32-bit protected");
}

/* Ramdisk, boot_params and the entry state, once the kernel's memory is claimed. */
static bool finish(struct load *load, struct linux_image *image, gpa_t kernel_end, gpa_t entry, bool is_64,
                   struct error *err)
{
    if (!load_initrd(load, kernel_end, image->initrd_end, err) || !params_write(load, &image->header, err))
        return false;
    if (!(is_64 ? load_enter_64(load, entry, err) : load_enter_32(load, entry, err)))
        return false;
    load->state->rsi = LOAD_BOOT_PARAMS;
    return true;
}

/* The guest's own decompressor. */
static bool load_compressed(struct load *load, struct linux_image *image, const char *why, struct error *err)
{
    uint64_t base = field(image, PARAMS_CODE32_START, 4, 0x200);
    if (base == 0)
        base = CODE32_DEFAULT;
    if (field(image, PARAMS_RELOCATABLE_KERNEL, 1, 0x205) != 0 && field(image, PARAMS_PREF_ADDRESS, 8, 0x20a) != 0)
        base = field(image, PARAMS_PREF_ADDRESS, 8, 0x20a);
    uint64_t needed = field(image, PARAMS_INIT_SIZE, 4, 0x20a);
    if (needed == 0)
        needed = 3 * image->code_size; /* nobody says: what the kernel may decompress to */
    if (needed < image->code_size)
        needed = image->code_size;
    bool is_64 = (field(image, PARAMS_XLOADFLAGS, 2, 0x20c) & XLF_KERNEL_64) && image->code_size > ENTRY64_OFFSET;
    uint8_t *at = load_claim(load, base, needed, "the kernel", err);
    if (at == NULL)
        return false;
    memcpy(at, image->code, image->code_size);
    params_set(&image->header, PARAMS_CODE32_START, 4, base);
    if (!finish(load, image, base + needed, is_64 ? base + ENTRY64_OFFSET : base, is_64, err))
        return false;
    char how[80];
    snprintf(how, sizeof how, "decompressed by the guest (%s)", why);
    describe(load, image, how);
    return true;
}

static bool load_direct(struct load *load, struct linux_image *image, const struct elf_image *elf, const char *how,
                        struct error *err)
{
    if (!elf_load(load, elf, err))
        return false;
    params_set(&image->header, PARAMS_CODE32_START, 4, elf->entry);
    if (!finish(load, image, elf->end, elf->entry, elf->is_64, err))
        return false;
    describe(load, image, how);
    return true;
}

/* Decompresses the payload and loads what is inside, or falls back. */
static bool load_payload(struct load *load, struct linux_image *image, struct error *err)
{
    if (image->payload == NULL)
        return load_compressed(load, image, "its payload is not announced", err);
    struct buffer plain = {0};
    struct boot_file payload = {image->file->name, image->payload, image->payload_size};
    enum compression compression = compression_detect(payload.bytes, payload.size);
    char how[80] = "payload not compressed";
    if (compression_supported(compression)) {
        /* What it decompresses to must fit in guest memory, or the kernel does not. */
        uint64_t ram = memory_ram_size(load->memory);
        uint64_t limit = ram < PAYLOAD_MAX ? ram : PAYLOAD_MAX;
        if (!decompress(compression, payload.bytes, payload.size, limit, &plain, err)) {
            uint64_t end = field(image, PARAMS_PREF_ADDRESS, 8, 0x20a) + field(image, PARAMS_INIT_SIZE, 4, 0x20a);
            return load_reaches(load, end, "the kernel", err) &&
                   error_prefix(err, "%s: the kernel inside cannot be decompressed", payload.name);
        }
        payload.bytes = plain.bytes;
        payload.size = plain.size;
        snprintf(how, sizeof how, "%s payload decompressed by ring3", compression_name(compression));
    }
    struct elf_image elf;
    bool ok;
    if (elf_parse(payload.bytes, payload.size, &elf, NULL)) {
        ok = load_direct(load, image, &elf, how, err);
    } else {
        char why[48];
        snprintf(why, sizeof why, "its %s payload is not an ELF file", compression_name(compression));
        if (compression == COMPRESSION_LZO || compression == COMPRESSION_LZ4_FRAME)
            snprintf(why, sizeof why, "%s is not supported", compression_name(compression));
        ok = load_compressed(load, image, why, err);
    }
    buffer_free(&plain);
    return ok;
}

bool linux_load(struct load *load, const struct boot_file *file, struct error *err)
{
    struct linux_image image;
    if (!image_parse(file, &image, err) || !load_command_line(load, image.command_line_max, err))
        return false;
    if (load->request->kaslr)
        return load_compressed(load, &image, "for kernel address space randomisation", err);
    return load_payload(load, &image, err);
}
