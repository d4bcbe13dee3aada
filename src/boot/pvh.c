/* The PVH entry: 32-bit protected mode without paging, EBX at struct hvm_start_info (version 1, which has the memory
 * map). CS and the data segments are flat, TR is a 32-bit TSS at 0 with limit 0x67: load_enter_32() makes just
 * that.
 *
 * Source: Xen docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h. */
#include "boot/pvh.h"

#include <assert.h>
#include <string.h>

#define HVM_START_MAGIC 0x336ec578

struct hvm_memmap_entry {
    uint64_t addr;
    uint64_t size;
    uint32_t type; /* E820 types */
    uint32_t reserved;
};

struct hvm_modlist_entry {
    uint64_t paddr;
    uint64_t size;
    uint64_t cmdline_paddr;
    uint64_t reserved;
};

struct hvm_start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t nr_modules;
    uint64_t modlist_paddr;
    uint64_t cmdline_paddr;
    uint64_t rsdp_paddr;
    uint64_t memmap_paddr;
    uint32_t memmap_entries;
    uint32_t reserved;
};
static_assert(sizeof(struct hvm_start_info) == 56, "start_info.h");
static_assert(sizeof(struct hvm_modlist_entry) == 32, "start_info.h");
static_assert(sizeof(struct hvm_memmap_entry) == 24, "start_info.h");

struct pvh_page {
    struct hvm_start_info info;
    struct hvm_modlist_entry module;
    struct hvm_memmap_entry memmap[E820_MAX];
};
static_assert(sizeof(struct pvh_page) <= LOAD_PVH_SIZE, "boot.h's table");

bool pvh_enter(struct load *load, gpa_t entry, struct error *err)
{
    uint8_t *at = load_claim(load, LOAD_PVH, LOAD_PVH_SIZE, "the PVH start information", err);
    if (at == NULL || !load_enter_32(load, entry, err))
        return false;
    struct pvh_page page = {
        .info =
            {
                .magic = HVM_START_MAGIC,
                .version = 1,
                .cmdline_paddr = LOAD_COMMAND_LINE,
                .rsdp_paddr = load->rsdp,
                .memmap_paddr = LOAD_PVH + offsetof(struct pvh_page, memmap),
                .memmap_entries = load->map.count,
            },
    };
    if (load->initrd_gpa != 0) {
        page.info.nr_modules = 1;
        page.info.modlist_paddr = LOAD_PVH + offsetof(struct pvh_page, module);
        page.module.paddr = load->initrd_gpa;
        page.module.size = load->initrd->size;
    }
    for (unsigned i = 0; i < load->map.count; i++) {
        page.memmap[i].addr = load->map.ranges[i].base;
        page.memmap[i].size = load->map.ranges[i].size;
        page.memmap[i].type = load->map.ranges[i].type;
    }
    memset(at, 0, LOAD_PVH_SIZE);
    memcpy(at, &page, sizeof page);
    load->state->rbx = LOAD_PVH;
    return true;
}
