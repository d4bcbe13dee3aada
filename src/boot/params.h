/* struct boot_params, the "zero page" that Linux is given. Internal to src/boot. */
#ifndef RING3_BOOT_PARAMS_H
#define RING3_BOOT_PARAMS_H

#include "boot/load.h"

/* Offsets in boot_params (Documentation/arch/x86/zero-page.rst); from PARAMS_HEADER_BASE up they are also offsets in a
 * bzImage (boot.rst). The name is the field's. */
enum params_offset {
    PARAMS_EXT_MEM_K = 0x002,
    PARAMS_ORIG_VIDEO_MODE = 0x006,
    PARAMS_ORIG_VIDEO_COLS = 0x007,
    PARAMS_ORIG_VIDEO_EGA_BX = 0x00a,
    PARAMS_ORIG_VIDEO_LINES = 0x00e,
    PARAMS_ORIG_VIDEO_ISVGA = 0x00f,
    PARAMS_ORIG_VIDEO_POINTS = 0x010,
    PARAMS_OLD_CL_MAGIC = 0x020,
    PARAMS_OLD_CL_OFFSET = 0x022,
    PARAMS_ACPI_RSDP_ADDR = 0x070,
    PARAMS_ALT_MEM_K = 0x1e0,
    PARAMS_E820_ENTRIES = 0x1e8,
    PARAMS_HEADER_BASE = 0x1f1, /* setup_sects: struct setup_header begins */
    PARAMS_SYSSIZE = 0x1f4,
    PARAMS_VID_MODE = 0x1fa,
    PARAMS_BOOT_FLAG = 0x1fe,
    PARAMS_JUMP = 0x200,
    PARAMS_HEADER = 0x202, /* "HdrS" */
    PARAMS_VERSION = 0x206,
    PARAMS_KERNEL_VERSION = 0x20e,
    PARAMS_TYPE_OF_LOADER = 0x210,
    PARAMS_LOADFLAGS = 0x211,
    PARAMS_CODE32_START = 0x214,
    PARAMS_RAMDISK_IMAGE = 0x218,
    PARAMS_RAMDISK_SIZE = 0x21c,
    PARAMS_EXT_LOADER_VER = 0x226,
    PARAMS_EXT_LOADER_TYPE = 0x227,
    PARAMS_CMD_LINE_PTR = 0x228,
    PARAMS_INITRD_ADDR_MAX = 0x22c,
    PARAMS_KERNEL_ALIGNMENT = 0x230,
    PARAMS_RELOCATABLE_KERNEL = 0x234,
    PARAMS_XLOADFLAGS = 0x236,
    PARAMS_CMDLINE_SIZE = 0x238,
    PARAMS_PAYLOAD_OFFSET = 0x248,
    PARAMS_PAYLOAD_LENGTH = 0x24c,
    PARAMS_SETUP_DATA = 0x250,
    PARAMS_PREF_ADDRESS = 0x258,
    PARAMS_INIT_SIZE = 0x260,
    PARAMS_HEADER_END = 0x290, /* as far as boot_params has room for it */
    PARAMS_E820_TABLE = 0x2d0,
};

enum params_loadflags { LOADED_HIGH = 1 << 0, KASLR_FLAG = 1 << 1, KEEP_SEGMENTS = 1 << 6, CAN_USE_HEAP = 1 << 7 };

/* The setup header, at its offsets in boot_params; nothing below PARAMS_HEADER_BASE. */
struct params {
    uint8_t bytes[PARAMS_HEADER_END];
};

static inline uint64_t params_get(const struct params *params, enum params_offset offset, unsigned width)
{
    uint64_t value = 0;
    __builtin_memcpy(&value, params->bytes + offset, width);
    return value;
}

static inline void params_set(struct params *params, enum params_offset offset, unsigned width, uint64_t value)
{
    __builtin_memcpy(params->bytes + offset, &value, width);
}

/* The setup header for a kernel that came without one (an ELF file). */
void params_default(struct params *params);

/* Claims and writes boot_params around the setup header: what the loader and the BIOS would have filled in. After
 * load_command_line() and load_initrd(). The code32_start field must be set. */
bool params_write(struct load *load, const struct params *header, struct error *err);

#endif
