/* Placing things in guest memory; see load.h.
 *
 * Every structure is claimed before it is written, so that two never overlap, whatever addresses a hostile kernel file
 * asks for: a claim must be RAM by the memory map, be one piece of RAM on the host, and be free. The claims are few
 * (structures, segments of the kernel, the ramdisk) and searched linearly.
 *
 * The ramdisk goes to the highest free place, as far from the kernel as possible: a kernel's own decompressor
 * and its early allocations grow upwards from where it is loaded. */
#include "boot/load.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"

#define GDT_CODE64 0x00af9b000000ffffull
#define GDT_CODE32 0x00cf9b000000ffffull
#define GDT_DATA 0x00cf93000000ffffull
#define GDT_TSS_BUSY 0x00008b0000000067ull /* base 0, limit 0x67: 32-bit, or the low half of a 64-bit one */

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_PS 0x80ull

#define CR0_PE 1ull
#define CR0_ET 0x10ull
#define CR0_PG 0x80000000ull
#define CR4_PAE 0x20ull
#define EFER_LME 0x100ull
#define EFER_LMA 0x400ull
#define RFLAGS_FIXED 2ull

static uint64_t ram_mib(const struct load *load)
{
    return memory_ram_size(load->memory) / MiB;
}

bool load_reaches(struct load *load, gpa_t end, const char *what, struct error *err)
{
    if (end > MEMORY_LOW_MAX)
        return error_set(err, "%s: %s would reach up to %#" PRIx64 ", beyond the low %llu GiB of guest memory",
                         load->kernel_name, what, end - 1, MEMORY_LOW_MAX / GiB);
    if (end > memory_ram_size(load->memory))
        return error_set(
            err, "%s: %s needs guest memory up to %llu MiB and does not fit in -m %" PRIu64 "M; give more with -m",
            load->kernel_name, what, (end + MiB - 1) / MiB, ram_mib(load));
    return true;
}

static const struct claim *claim_find(const struct load *load, gpa_t base, gpa_t end)
{
    for (unsigned i = 0; i < load->claim_count; i++)
        if (base < load->claims[i].end && end > load->claims[i].base)
            return &load->claims[i];
    return NULL;
}

uint8_t *load_claim(struct load *load, gpa_t base, uint64_t size, const char *what, struct error *err)
{
    check(size > 0);
    gpa_t end = size > UINT64_MAX - base ? UINT64_MAX : base + size;
    uint8_t *hva = e820_is_ram(&load->map, base, size) ? memory_ram(load->memory, base, size) : NULL;
    if (hva == NULL) {
        if (load_reaches(load, end, what, err))
            error_set(err, "%s: %s would lie at %#" PRIx64 "-%#" PRIx64 ", which is not all usable RAM",
                      load->kernel_name, what, base, end - 1);
        return NULL;
    }
    const struct claim *other = claim_find(load, base, end);
    if (other != NULL) {
        error_set(err,
                  "%s: %s at %#" PRIx64 "-%#" PRIx64 " overlaps %s at %#" PRIx64 "-%#" PRIx64
                  "; link the kernel elsewhere (memory from 1 MiB up is free)",
                  load->kernel_name, what, base, end - 1, other->what, other->base, other->end - 1);
        return NULL;
    }
    if (load->claim_count == LOAD_CLAIM_MAX) {
        error_set(err, "%s: is in too many pieces", load->kernel_name);
        return NULL;
    }
    load->claims[load->claim_count++] = (struct claim){base, end, what};
    return hva;
}

bool load_command_line(struct load *load, uint64_t most, struct error *err)
{
    size_t length = strlen(load->command_line);
    if (most > LOAD_COMMAND_LINE_SIZE - 1)
        most = LOAD_COMMAND_LINE_SIZE - 1;
    if (length > most)
        return error_set(err,
                         "%s: the command line of %zu characters is longer than the %" PRIu64
                         " that this kernel takes; shorten --append",
                         load->kernel_name, length, most);
    uint8_t *at = load_claim(load, LOAD_COMMAND_LINE, length + 1, "the command line", err);
    if (at == NULL)
        return false;
    memcpy(at, load->command_line, length + 1);
    return true;
}

/* Highest page-aligned base at or above `lowest` of `size` free bytes of RAM that end by `highest`; 0 if none. Starts
 * from each place where something begins: the ends of RAM ranges and the bases of claims. */
static gpa_t highest_fit(const struct load *load, gpa_t lowest, gpa_t highest, uint64_t size)
{
    gpa_t best = 0;
    for (unsigned i = 0; i < load->map.count + load->claim_count; i++) {
        gpa_t top = i < load->map.count ? load->map.ranges[i].base + load->map.ranges[i].size
                                        : load->claims[i - load->map.count].base;
        if (top > highest)
            top = highest;
        if (top < size)
            continue;
        gpa_t base = (top - size) & ~PAGE_OFFSET_MASK;
        if (base >= lowest && base > best && e820_is_ram(&load->map, base, size) &&
            claim_find(load, base, base + size) == NULL && memory_ram(load->memory, base, size) != NULL)
            best = base;
    }
    return best;
}

uint8_t *load_claim_high(struct load *load, gpa_t lowest, uint64_t size, const char *what, gpa_t *base)
{
    *base = highest_fit(load, lowest, MEMORY_LOW_MAX, size);
    return *base != 0 ? load_claim(load, *base, size, what, NULL) : NULL;
}

bool load_initrd(struct load *load, gpa_t kernel_end, uint64_t highest, struct error *err)
{
    const struct boot_file *initrd = load->initrd;
    if (initrd == NULL || initrd->size == 0)
        return true;
    if (highest > MEMORY_LOW_MAX)
        highest = MEMORY_LOW_MAX;
    gpa_t lowest = kernel_end > MiB ? kernel_end : MiB;
    gpa_t base = highest_fit(load, lowest, highest, initrd->size);
    uint64_t mib = (initrd->size + MiB - 1) / MiB;
    if (base == 0) {
        if (highest < memory_ram_size(load->memory) && (highest < lowest || initrd->size > highest - lowest))
            return error_set(err,
                             "%s: the initrd of %" PRIu64 " MiB does not fit between the kernel and %llu MiB, the "
                                                          "highest that this kernel allows; give a smaller --initrd",
                             initrd->name, mib, highest / MiB);
        return error_set(err,
                         "%s: the initrd of %" PRIu64 " MiB does not fit in -m %" PRIu64
                         "M beside the kernel, which ends at %llu MiB; give more with -m",
                         initrd->name, mib, ram_mib(load), (kernel_end + MiB - 1) / MiB);
    }
    uint8_t *at = load_claim(load, base, initrd->size, "the initrd", err);
    if (at == NULL)
        return false;
    memcpy(at, initrd->bytes, initrd->size);
    load->initrd_gpa = base;
    return true;
}

static struct boot_segment segment(uint16_t selector, uint64_t descriptor)
{
    uint32_t limit = (uint32_t)((descriptor & 0xffff) | (descriptor >> 32 & 0xf0000));
    bool pages = descriptor >> 55 & 1;
    return (struct boot_segment){
        .selector = selector,
        .attributes = (uint16_t)(descriptor >> 40 & 0xf0ff),
        .limit = pages ? limit << 12 | 0xfff : limit,
        .base = (descriptor >> 16 & 0xffffff) | (descriptor >> 56 & 0xff) << 24,
    };
}

/* GDT, stack and what both entry states share. */
static bool enter_common(struct load *load, gpa_t entry, uint64_t code, struct error *err)
{
    const uint64_t gdt[] = {
        [LOAD_CS / 8] = code,
        [LOAD_DS / 8] = GDT_DATA,
        [LOAD_TR / 8] = GDT_TSS_BUSY,
        [LOAD_TR / 8 + 1] = 0, /* upper half of the 64-bit TSS's base */
    };
    uint8_t *at = load_claim(load, LOAD_GDT, sizeof gdt, "the GDT", err);
    if (at == NULL || load_claim(load, LOAD_STACK, LOAD_STACK_SIZE, "the boot stack", err) == NULL)
        return false;
    memcpy(at, gdt, sizeof gdt);
    struct boot_state *state = load->state;
    state->rip = entry;
    state->rsp = LOAD_STACK + LOAD_STACK_SIZE;
    state->rflags = RFLAGS_FIXED;
    state->cr0 = CR0_PE | CR0_ET;
    state->gdt_base = LOAD_GDT;
    state->gdt_limit = sizeof gdt - 1;
    state->cs = segment(LOAD_CS, code);
    state->ds = segment(LOAD_DS, GDT_DATA);
    state->tr = segment(LOAD_TR, GDT_TSS_BUSY);
    return true;
}

bool load_enter_32(struct load *load, gpa_t entry, struct error *err)
{
    load->state->mode = BOOT_PROTECTED32;
    return enter_common(load, entry, GDT_CODE32, err);
}

/* Long mode on an identity map of the low 4 GiB in pages of 2 MiB. */
bool load_enter_64(struct load *load, gpa_t entry, struct error *err)
{
    struct boot_state *state = load->state;
    uint8_t *at = load_claim(load, LOAD_PAGE_TABLES, LOAD_PAGE_TABLES_SIZE, "the boot page tables", err);
    if (at == NULL || !enter_common(load, entry, GDT_CODE64, err))
        return false;
    static_assert(LOAD_PAGE_TABLES_SIZE == 6 * PAGE_SIZE, "PML4, PDPT, four page directories");
    uint64_t(*tables)[512] = (uint64_t(*)[512])at;
    memset(at, 0, LOAD_PAGE_TABLES_SIZE);
    tables[0][0] = (LOAD_PAGE_TABLES + PAGE_SIZE) | PTE_P | PTE_W;
    for (uint64_t i = 0; i < 4; i++)
        tables[1][i] = (LOAD_PAGE_TABLES + (2 + i) * PAGE_SIZE) | PTE_P | PTE_W;
    for (uint64_t i = 0; i < 4 * 512; i++)
        tables[2 + i / 512][i % 512] = i * 2 * MiB | PTE_P | PTE_W | PTE_PS;
    state->mode = BOOT_LONG64;
    state->is_64 = true;
    state->cr0 |= CR0_PG;
    state->cr3 = LOAD_PAGE_TABLES;
    state->cr4 = CR4_PAE;
    state->efer = EFER_LME | EFER_LMA;
    return true;
}
