/* Guest page-table walk.
 *
 * All formats are one loop over levels, from the top: each level says which bits of the linear address index it, where its
 * entries' addresses lie, whether it may map a page by itself (PS), and which bits are reserved. The entries met are
 * remembered, so that accessed and dirty bits are set only when the translation is used, all at once and each by a
 * compare-and-exchange (SDM 4.8: updates are locked).
 *
 * Not emulated: paging-structure caches (an entry is read at each walk), protection keys, shadow stacks, 5 levels:
 * CPUID does not offer them.
 */
#include "mmu/walk.h"

#include <string.h>

#include "cpu/cpuid.h"
#include "memory/memory.h"

#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_A (1ull << 5)
#define PTE_D (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G (1ull << 8)
#define PTE_NX (1ull << 63)

#define MAX_LEVELS 4

struct entry_ref {
    uint8_t *hva; /* NULL: neither RAM nor ROM */
    uint8_t *flags; /* NULL: not in RAM, cannot be updated */
    gpa_t gpa;
    uint64_t value;
};

struct walker {
    struct vcpu *v;
    gva_t gva;
    unsigned entry_size; /* 4 or 8 */
    unsigned count;
    struct entry_ref used[MAX_LEVELS];
};

static uint64_t entry_read(struct walker *w, gpa_t gpa)
{
    struct entry_ref *ref = &w->used[w->count++];
    gpa &= w->v->a20_mask;
    struct page_backing page = memory_page(w->v->memory, gpa);
    *ref = (struct entry_ref){.gpa = gpa, .value = UINT64_MAX};
    if (page.kind == PAGE_RAM || page.kind == PAGE_ROM) {
        uint8_t *hva = page.hva + (gpa & PAGE_OFFSET_MASK);
        ref->value = w->entry_size == 8 ? __atomic_load_n((uint64_t *)hva, __ATOMIC_RELAXED)
                                        : __atomic_load_n((uint32_t *)hva, __ATOMIC_RELAXED);
        ref->hva = hva;
        ref->flags = page.flags;
    } else if (w->entry_size == 4) {
        ref->value = UINT32_MAX;
    }
    return ref->value;
}

/* Sets bits in an entry that still has the value that was walked; false if another processor changed it. */
static bool entry_set_bits(struct walker *w, struct entry_ref *ref, uint64_t bits)
{
    if ((ref->value & bits) == bits || ref->flags == NULL)
        return true;
    bool done;
    if (w->entry_size == 8) {
        uint64_t expected = ref->value;
        done = __atomic_compare_exchange_n((uint64_t *)ref->hva, &expected, ref->value | bits, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_RELAXED);
    } else {
        uint32_t expected = (uint32_t)ref->value;
        done = __atomic_compare_exchange_n((uint32_t *)ref->hva, &expected, (uint32_t)(ref->value | bits), false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (done && (*ref->flags & PAGE_WATCHED))
        memory_notify_written(w->v->memory, ref->gpa, w->entry_size);
    return done;
}

static uint64_t address_mask(const struct vcpu *v)
{
    return ((1ull << v->maxphyaddr) - 1) & ~PAGE_OFFSET_MASK;
}

/* Bits that must be zero in a PAE or 4-level entry. */
static uint64_t reserved_bits_64(const struct vcpu *v, unsigned level, bool leaf)
{
    uint64_t reserved = ~((1ull << v->maxphyaddr) - 1) & ((1ull << 52) - 1);
    if (!vcpu_long_mode(v))
        reserved |= 0x7ff0000000000000ull; /* PAE: 62:52 */
    if (!(v->efer & EFER_NXE))
        reserved |= PTE_NX;
    if (level == 4 || (level == 3 && !cpu_has(v, CPU_PDPE1GB)))
        reserved |= PTE_PS;
    if (leaf && level == 3)
        reserved |= 0x3fffe000ull; /* 29:13 */
    if (leaf && level == 2)
        reserved |= 0x1fe000ull; /* 20:13 */
    return reserved;
}

/* The result of following the entries down to a leaf, before permissions. */
struct leaf {
    uint64_t base; /* of the page */
    unsigned shift;
    bool writable, user, nx, global;
    uint64_t above; /* PTE_W, PTE_U: set in all entries above; PTE_NX: set in one */
};

enum follow { FOLLOW_OK, FOLLOW_NOT_PRESENT, FOLLOW_RESERVED };

static enum follow follow_64(struct walker *w, unsigned top, uint64_t table, struct leaf *leaf)
{
    struct vcpu *v = w->v;
    uint64_t all = PTE_W | PTE_U, nx = 0;
    for (unsigned level = top;; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint64_t entry = entry_read(w, table + (w->gva >> shift & 0x1ff) * 8);
        if (!(entry & PTE_P))
            return FOLLOW_NOT_PRESENT;
        bool is_leaf = level == 1 || ((entry & PTE_PS) && level < 4);
        if (entry & reserved_bits_64(v, level, is_leaf && level > 1))
            return FOLLOW_RESERVED;
        uint64_t above = all | nx;
        all &= entry;
        nx |= entry & PTE_NX;
        if (is_leaf) {
            uint64_t page_mask = (1ull << shift) - 1;
            *leaf = (struct leaf){.base = entry & address_mask(v) & ~page_mask,
                                  .shift = shift,
                                  .writable = all & PTE_W,
                                  .user = all & PTE_U,
                                  .nx = nx && (v->efer & EFER_NXE),
                                  .global = entry & PTE_G,
                                  .above = above};
            return FOLLOW_OK;
        }
        table = entry & address_mask(v);
    }
}

static enum follow follow_pae(struct walker *w, struct leaf *leaf)
{
    uint64_t pdpte = w->v->pdpte[w->gva >> 30 & 3];
    if (!(pdpte & PTE_P))
        return FOLLOW_NOT_PRESENT;
    return follow_64(w, 2, pdpte & address_mask(w->v), leaf);
}

static enum follow follow_32(struct walker *w, struct leaf *leaf)
{
    struct vcpu *v = w->v;
    uint64_t pde = entry_read(w, (v->cr3 & 0xfffff000ull) + (w->gva >> 22 & 0x3ff) * 4);
    if (!(pde & PTE_P))
        return FOLLOW_NOT_PRESENT;
    if ((pde & PTE_PS) && (v->cr4 & CR4_PSE)) {
        unsigned high_bits = 0; /* PSE-36: bits 39:32 of the address in bits 20:13 */
        if (cpu_has(v, CPU_PSE36))
            high_bits = (v->maxphyaddr < 40 ? v->maxphyaddr : 40) - 32;
        uint64_t reserved = 0x3fe000ull & ~(((1ull << high_bits) - 1) << 13);
        if (pde & reserved)
            return FOLLOW_RESERVED;
        *leaf = (struct leaf){.base = (pde & 0xffc00000ull) | (pde >> 13 & ((1ull << high_bits) - 1)) << 32,
                              .shift = 22,
                              .writable = pde & PTE_W,
                              .user = pde & PTE_U,
                              .global = pde & PTE_G,
                              .above = PTE_W | PTE_U};
        return FOLLOW_OK;
    }
    uint64_t pte = entry_read(w, (pde & 0xfffff000ull) + (w->gva >> 12 & 0x3ff) * 4);
    if (!(pte & PTE_P))
        return FOLLOW_NOT_PRESENT;
    *leaf = (struct leaf){.base = pte & 0xfffff000ull,
                          .shift = 12,
                          .writable = pde & pte & PTE_W,
                          .user = pde & pte & PTE_U,
                          .global = pte & PTE_G,
                          .above = pde};
    return FOLLOW_OK;
}

static bool permitted(const struct vcpu *v, const struct leaf *leaf, unsigned flags)
{
    if ((flags & ACCESS_FETCH) && leaf->nx)
        return false;
    if (flags & ACCESS_USER)
        return leaf->user && (!(flags & ACCESS_WRITE) || leaf->writable);
    if (flags & ACCESS_FETCH)
        return !(leaf->user && (v->cr4 & CR4_SMEP));
    if (leaf->user && (v->cr4 & CR4_SMAP) && ((flags & ACCESS_IMPLICIT) || !(v->rflags_rest & FLAG_AC)))
        return false;
    return !(flags & ACCESS_WRITE) || leaf->writable || !(v->cr0 & CR0_WP);
}

static uint32_t fault_error(const struct vcpu *v, unsigned flags, enum follow why)
{
    uint32_t error = why == FOLLOW_NOT_PRESENT ? 0 : PF_P;
    if (why == FOLLOW_RESERVED)
        error |= PF_RSVD;
    if (flags & ACCESS_WRITE)
        error |= PF_W;
    if (flags & ACCESS_USER)
        error |= PF_U;
    bool nx_possible = (v->cr4 & CR4_PAE) && (v->efer & EFER_NXE);
    if ((flags & ACCESS_FETCH) && (nx_possible || (v->cr4 & CR4_SMEP)))
        error |= PF_I;
    return error;
}

static enum follow follow(struct walker *w, struct leaf *leaf)
{
    struct vcpu *v = w->v;
    if (vcpu_long_mode(v)) {
        w->entry_size = 8;
        return follow_64(w, 4, v->cr3 & address_mask(v), leaf);
    }
    if (v->cr4 & CR4_PAE) {
        w->entry_size = 8;
        return follow_pae(w, leaf);
    }
    w->entry_size = 4;
    return follow_32(w, leaf);
}

static void describe(const struct walker *w, const struct leaf *leaf, unsigned flags, struct walk *walk)
{
    struct vcpu *v = w->v;
    const struct entry_ref *last = &w->used[w->count - 1];
    uint64_t page_mask = (1ull << leaf->shift) - 1;
    *walk = (struct walk){
        .gpa = ((leaf->base | (w->gva & page_mask)) & v->a20_mask),
        .size = page_mask + 1,
        .writable = permitted(v, leaf, (flags & ~ACCESS_FETCH) | ACCESS_WRITE),
        .dirty = (last->value & PTE_D) || (flags & ACCESS_WRITE),
        .user = leaf->user,
        .nx = leaf->nx,
        .global = leaf->global,
        .all_writable = leaf->writable,
        .entry_count = w->count,
        .entry_size = w->entry_size,
        .leaf = last->hva,
        .above_user = leaf->above & PTE_U,
        .above_writable = leaf->above & PTE_W,
        .above_nx = (leaf->above & PTE_NX) && (v->efer & EFER_NXE),
    };
    walk->accessed = true;
    for (unsigned i = 0; i < w->count; i++) {
        walk->entry_gpa[i] = w->used[i].gpa;
        walk->accessed = walk->accessed && (w->used[i].value & PTE_A);
    }
}

bool walk_page_tables(struct vcpu *v, gva_t gva, unsigned flags, bool peek, struct walk *walk, uint32_t *error)
{
    if (!(v->cr0 & CR0_PG)) {
        *walk = (struct walk){.gpa = (uint32_t)gva & v->a20_mask,
                              .size = PAGE_SIZE,
                              .writable = true,
                              .dirty = true,
                              .user = true,
                              .all_writable = true,
                              .accessed = true};
        return true;
    }
    v->count.page_walks++;
    for (;;) {
        struct walker w = {.v = v, .gva = gva};
        struct leaf leaf;
        enum follow result = follow(&w, &leaf);
        if (result == FOLLOW_OK && !peek && !permitted(v, &leaf, flags)) {
            *error = fault_error(v, flags, FOLLOW_OK);
            return false;
        }
        if (result != FOLLOW_OK) {
            *error = fault_error(v, flags, result);
            return false;
        }
        bool updated = true;
        if (!peek) {
            uint64_t leaf_bits = PTE_A | ((flags & ACCESS_WRITE) ? PTE_D : 0);
            for (unsigned i = 0; updated && i < w.count; i++)
                updated = entry_set_bits(&w, &w.used[i], i + 1 == w.count ? leaf_bits : PTE_A);
        }
        if (!updated)
            continue; /* changed under us: walk again */
        describe(&w, &leaf, flags, walk);
        return true;
    }
}

/* The leaf entry `distance` after that of `walk`, in a table of 4-KiB pages. */
static bool sibling_entry(const struct vcpu *v, gva_t gva, const struct walk *walk, int distance, uint64_t *entry)
{
    unsigned in_table = PAGE_SIZE / walk->entry_size;
    int index = (int)(gva >> PAGE_SHIFT & (in_table - 1)) + distance;
    if (walk->leaf == NULL || index < 0 || index >= (int)in_table)
        return false;
    const uint8_t *at = walk->leaf + distance * (int)walk->entry_size;
    *entry = walk->entry_size == 8 ? __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED)
                                   : __atomic_load_n((const uint32_t *)at, __ATOMIC_RELAXED);
    return (*entry & PTE_P) && (*entry & PTE_A) &&
           !(walk->entry_size == 8 && (*entry & reserved_bits_64(v, 1, false)));
}

bool walk_sibling(struct vcpu *v, gva_t gva, const struct walk *walk, int distance, struct walk *sibling)
{
    gva_t to = gva + (int64_t)distance * PAGE_SIZE;
    if (!vcpu_long_mode(v) && to >> 32)
        return false;
    *sibling = *walk;
    if (walk->entry_count == 0) {
        sibling->gpa = to & v->a20_mask;
        return true;
    }
    if (walk->size > PAGE_SIZE) {
        sibling->gpa = ((walk->gpa & ~(walk->size - 1)) | (to & (walk->size - 1))) & v->a20_mask;
        return ((gva ^ to) & ~(walk->size - 1)) == 0;
    }
    uint64_t entry;
    if (!sibling_entry(v, gva, walk, distance, &entry))
        return false;
    sibling->gpa = ((entry & (walk->entry_size == 8 ? address_mask(v) : 0xfffff000ull)) | (to & PAGE_OFFSET_MASK)) &
                   v->a20_mask;
    sibling->all_writable = walk->above_writable && (entry & PTE_W);
    sibling->user = walk->above_user && (entry & PTE_U);
    sibling->nx = walk->above_nx || ((entry & PTE_NX) && (v->efer & EFER_NXE));
    sibling->writable = sibling->all_writable;
    sibling->dirty = entry & PTE_D;
    sibling->global = entry & PTE_G;
    sibling->entry_gpa[walk->entry_count - 1] += (uint64_t)(distance * (int)walk->entry_size);
    sibling->leaf += distance * (int)walk->entry_size;
    return true;
}

bool mmu_load_pdptes(struct vcpu *v, uint64_t cr3)
{
    uint64_t loaded[4];
    uint64_t reserved = ~((1ull << v->maxphyaddr) - 1) | 0x1e6;
    if (!memory_read(v->memory, (cr3 & 0xffffffe0ull) & v->a20_mask, loaded, sizeof loaded))
        memset(loaded, 0xff, sizeof loaded);
    for (unsigned i = 0; i < 4; i++)
        if ((loaded[i] & PTE_P) && (loaded[i] & reserved))
            return false;
    memcpy(v->pdpte, loaded, sizeof loaded);
    return true;
}
