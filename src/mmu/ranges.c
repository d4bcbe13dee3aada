/* See ranges.h. The tables are read as memory, a page at a time; what is not RAM maps nothing here. Formats: SDM vol.
 * 3, 4.3 (32-bit), 4.4 (PAE), 4.5 (4-level). */
#include "mmu/ranges.h"

#include <string.h>

#include "memory/memory.h"
#include "mmu/shadow.h"

#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_PS (1ull << 7)
#define PTE_G (1ull << 8)
#define PTE_NX (1ull << 63)
#define RIGHTS (PTE_W | PTE_U)

struct reading {
    struct vcpu *v;
    struct ranges *ranges;
    unsigned tables, pages;
    bool wide_entries; /* of 8 bytes */
};

static void add(struct reading *r, gva_t gva, uint64_t size, gpa_t gpa, uint64_t rights, bool global)
{
    struct ranges *all = r->ranges;
    struct range next = {.gva = gva,
                         .size = size,
                         .gpa = gpa,
                         .page_size = (uint32_t)(size >= GiB ? 0 : size),
                         .writable = rights & PTE_W,
                         .user = rights & PTE_U,
                         .nx = (rights & PTE_NX) && (r->v->efer & EFER_NXE),
                         .global = global};
    struct range *last = all->count > 0 ? &all->list[all->count - 1] : NULL;
    if (last != NULL && last->gva + last->size == gva && last->gpa + last->size == gpa &&
        last->page_size == next.page_size && last->writable == next.writable && last->user == next.user &&
        last->nx == next.nx && last->global == next.global)
        last->size += size;
    else if (all->count < RANGES_MAX)
        all->list[all->count++] = next;
    else
        all->truncated = true;
}

static uint64_t entry_of(const struct reading *r, const uint8_t *page, unsigned i)
{
    uint64_t wide;
    uint32_t narrow;
    if (r->wide_entries) {
        memcpy(&wide, page + i * 8, 8);
        return wide;
    }
    memcpy(&narrow, page + i * 4, 4);
    return narrow;
}

static uint64_t large_gpa(const struct reading *r, uint64_t entry, uint64_t size)
{
    if (!r->wide_entries) /* PSE-36: bits 20:13 are bits 39:32 of the address */
        return (entry & 0xffc00000u) | (entry >> 13 & 0xff) << 32;
    return entry & 0x000ffffffffff000ull & ~(size - 1);
}

static void read_table(struct reading *r, gpa_t table, unsigned level, gva_t gva, uint64_t rights)
{
    uint8_t page[PAGE_SIZE];
    unsigned bits = r->wide_entries ? 9 : 10;
    uint64_t each = (uint64_t)PAGE_SIZE << bits * (level - 1);
    if (++r->tables > RANGES_TABLES_MAX || r->ranges->count == RANGES_MAX) {
        r->ranges->truncated = true;
        return;
    }
    if (!memory_read(r->v->memory, table & r->v->a20_mask, page, sizeof page))
        return;
    for (unsigned i = 0; i < 1u << bits; i++) {
        uint64_t entry = entry_of(r, page, i);
        gva_t at = gva + i * each;
        if (level == 4 && i >= 256)
            at |= 0xffff000000000000ull;
        if (!(entry & PTE_P))
            continue;
        uint64_t here = (rights & entry & RIGHTS) | ((rights | entry) & PTE_NX);
        bool large = level > 1 && level < 4 && (entry & PTE_PS) && (r->wide_entries || (r->v->cr4 & CR4_PSE));
        if (level == 1)
            add(r, at, PAGE_SIZE, entry & 0x000ffffffffff000ull, here, entry & PTE_G);
        else if (large)
            add(r, at, each, large_gpa(r, entry, each), here, entry & PTE_G);
        else
            read_table(r, entry & 0x000ffffffffff000ull, level - 1, at, here);
    }
}

/* ---- the shadow ---- */

static bool kind_has(struct vcpu *v, enum tlb_kind kind, gva_t gva, bool write)
{
    if (v->mmu_shadow != NULL) {
        struct shadow_translation found;
        return shadow_lookup(v, kind, gva, write, &found);
    }
    const struct tlb_entry *e = &v->tlbs[kind].entries[gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
    return (write ? e->write_tag : e->read_tag) == gva;
}

bool ranges_shadow_has(const struct vcpu *cv, gva_t gva, bool user, bool write)
{
    struct vcpu *v = (struct vcpu *)cv; /* looking up changes nothing */
    if (user)
        return kind_has(v, TLB_USER, gva, write);
    return kind_has(v, TLB_KERNEL, gva, write) || kind_has(v, TLB_KERNEL_AC, gva, write);
}

static void count_shadow(struct reading *r, ranges_has_fn *has, struct range *range)
{
    uint64_t pages = range->size / PAGE_SIZE;
    if (has == NULL || pages > RANGES_PAGES_MAX - r->pages)
        return;
    r->pages += (unsigned)pages;
    range->counted = true;
    for (uint64_t i = 0; i < pages; i++) {
        gva_t gva = range->gva + i * PAGE_SIZE;
        range->kernel += has(r->v, gva, false, false);
        range->kernel_writable += has(r->v, gva, false, true);
        range->user_pages += has(r->v, gva, true, false);
        range->user_writable += has(r->v, gva, true, true);
    }
}

void ranges_read(struct vcpu *v, ranges_has_fn *has, struct ranges *ranges)
{
    struct reading r = {.v = v, .ranges = ranges, .wide_entries = (v->cr4 & CR4_PAE) || vcpu_long_mode(v)};
    ranges->count = 0;
    ranges->truncated = false;
    if (!(v->cr0 & CR0_PG)) {
        ranges->paging = "none";
        return;
    }
    if (vcpu_long_mode(v)) {
        ranges->paging = "4-level";
        read_table(&r, v->cr3 & 0x000ffffffffff000ull, 4, 0, RIGHTS);
    } else if (v->cr4 & CR4_PAE) {
        ranges->paging = "PAE";
        for (unsigned i = 0; i < 4; i++)
            if (v->pdpte[i] & PTE_P)
                read_table(&r, v->pdpte[i] & 0x000ffffffffff000ull, 2, (gva_t)i * GiB, RIGHTS);
    } else {
        ranges->paging = "32-bit";
        read_table(&r, v->cr3 & 0xfffff000u, 2, 0, RIGHTS);
    }
    for (unsigned i = 0; i < ranges->count; i++)
        count_shadow(&r, has, &ranges->list[i]);
}
