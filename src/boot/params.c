/* boot_params; see params.h.
 *
 * A bzImage entered at its 32- or 64-bit entry never runs its real-mode code, which would ask the BIOS for the memory
 * map, the video mode and much else. What of that the kernel needs is filled in here: memory sizes in all three
 * generations (ext_mem_k, alt_mem_k, e820), text mode 3, the command line, the ramdisk, and the RSDP. Left zero,
 * which the kernel reads as "unknown": APM, drive parameters, EDD, the boot device, EFI.
 *
 * type_of_loader is 0xff, "undefined": ring3 has no number of its own. */
#include "boot/params.h"

#include <string.h>

#define OLD_CL_MAGIC 0xa33f
#define E820_ENTRY_SIZE 20

void params_default(struct params *params)
{
    memset(params, 0, sizeof *params);
    params_set(params, PARAMS_BOOT_FLAG, 2, 0xaa55);
    params_set(params, PARAMS_HEADER, 4, 0x53726448);
    params_set(params, PARAMS_VERSION, 2, 0x20f);
    params_set(params, PARAMS_LOADFLAGS, 1, LOADED_HIGH);
    params_set(params, PARAMS_KERNEL_ALIGNMENT, 4, 2 * MiB);
    params_set(params, PARAMS_CMDLINE_SIZE, 4, LOAD_COMMAND_LINE_SIZE - 1);
}

static void put(uint8_t *page, unsigned offset, unsigned width, uint64_t value)
{
    memcpy(page + offset, &value, width);
}

static void memory_sizes(uint8_t *page, const struct e820_map *map)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct boot_range *range = &map->ranges[i];
        uint8_t *entry = page + PARAMS_E820_TABLE + i * E820_ENTRY_SIZE;
        put(entry, 0, 8, range->base);
        put(entry, 8, 8, range->size);
        put(entry, 16, 4, range->type);
        if (range->type == BOOT_RANGE_RAM && range->base <= MiB && range->base + range->size > MiB) {
            uint64_t kib = (range->base + range->size - MiB) / KiB;
            put(page, PARAMS_EXT_MEM_K, 2, kib < 0xfc00 ? kib : 0xfc00);
            put(page, PARAMS_ALT_MEM_K, 4, kib < UINT32_MAX ? kib : UINT32_MAX);
        }
    }
    put(page, PARAMS_E820_ENTRIES, 1, map->count);
}

static void text_mode(uint8_t *page)
{
    put(page, PARAMS_ORIG_VIDEO_MODE, 1, 3);
    put(page, PARAMS_ORIG_VIDEO_COLS, 1, 80);
    put(page, PARAMS_ORIG_VIDEO_EGA_BX, 2, 3); /* colour, 256 KiB */
    put(page, PARAMS_ORIG_VIDEO_LINES, 1, 25);
    put(page, PARAMS_ORIG_VIDEO_ISVGA, 1, 1);
    put(page, PARAMS_ORIG_VIDEO_POINTS, 2, 16);
}

bool params_write(struct load *load, const struct params *header, struct error *err)
{
    uint8_t *page = load_claim(load, LOAD_BOOT_PARAMS, LOAD_BOOT_PARAMS_SIZE, "the boot parameters", err);
    if (page == NULL)
        return false;
    uint16_t version = (uint16_t)params_get(header, PARAMS_VERSION, 2);
    memset(page, 0, LOAD_BOOT_PARAMS_SIZE);
    memcpy(page + PARAMS_HEADER_BASE, header->bytes + PARAMS_HEADER_BASE, PARAMS_HEADER_END - PARAMS_HEADER_BASE);
    memory_sizes(page, &load->map);
    if (load->request->vga_text)
        text_mode(page);
    put(page, PARAMS_ACPI_RSDP_ADDR, 8, load->rsdp);
    put(page, PARAMS_VID_MODE, 2, 0xffff); /* "normal" */
    put(page, PARAMS_TYPE_OF_LOADER, 1, 0xff);
    uint8_t loadflags = (uint8_t)params_get(header, PARAMS_LOADFLAGS, 1);
    loadflags &= (uint8_t) ~(KASLR_FLAG | KEEP_SEGMENTS | CAN_USE_HEAP);
    put(page, PARAMS_LOADFLAGS, 1, loadflags | LOADED_HIGH);
    put(page, PARAMS_RAMDISK_IMAGE, 4, load->initrd_gpa);
    put(page, PARAMS_RAMDISK_SIZE, 4, load->initrd_gpa != 0 ? load->initrd->size : 0);
    if (version >= 0x202) {
        put(page, PARAMS_EXT_LOADER_VER, 1, 0);
        put(page, PARAMS_EXT_LOADER_TYPE, 1, 0);
        put(page, PARAMS_CMD_LINE_PTR, 4, LOAD_COMMAND_LINE);
    } else {
        put(page, PARAMS_OLD_CL_MAGIC, 2, OLD_CL_MAGIC);
        put(page, PARAMS_OLD_CL_OFFSET, 2, LOAD_COMMAND_LINE - LOAD_BOOT_PARAMS);
    }
    if (version >= 0x209)
        put(page, PARAMS_SETUP_DATA, 8, 0);
    return true;
}
