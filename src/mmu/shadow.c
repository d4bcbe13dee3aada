/* Shadow page tables: when they are filled, and what the guest's invalidations take from them. See shadow.h for the
 * model, shadow_internal.h for the files.
 *
 * Filling. Whoever has walked the guest's tables, for whatever kind of access, enters the page in the tables of all
 * kinds that may use it, with what each may do (SDM vol. 3, 4.6), so that one walk serves all; but only the kind that
 * asked for it is worth a new island. TLB_KERNEL's tables are used only under SMAP. The walk has set A, and D if the
 * access was a write; as long as D is clear the entry permits reading only, so that the first write comes back here. A
 * fault also enters the neighbours that the guest's A bits recommend: their D bit decides alike.
 *
 * Invalidation is that of a TLB with tags (SDM 4.10.4.1), where the policy keeps tags at all:
 *
 *     MOV CR3            the non-global translations of the PCID that is loaded, unless bit 63 is set; all others stay
 *                        (proactive: they are read again from the tables)
 *     INVLPG             the page in the current PCID, and if it is global; all pieces of a large page
 *     INVPCID 0, 1       a page, or everything, of a PCID, but global translations
 *     INVPCID 2, 3       everything; the same but global translations
 *     CR4.PGE, PCIDE, PAE, PSE, SMEP, SMAP, CR0.PG, WP, EFER.NXE, a change of the memory map:  everything
 *
 * Entries never change on their own otherwise, so a guest that changes its tables and does not invalidate sees the old
 * translation for as long as it lasts, as on a processor.
 *
 * The tables hold non-global entries of the current address space only. So there are no tags to compare, and the cost
 * of a switch is proportional to what the two address spaces have used.
 */
#include "mmu/shadow.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/crew.h"
#include "mmu/shadow_internal.h"

#define PREFILL_PAGES 8 /* on either side */

static const char *const policy_names[SHADOW_POLICY_COUNT] = {
    [SHADOW_ONDEMAND] = "ondemand",
    [SHADOW_TAGGED] = "tagged",
    [SHADOW_PROACTIVE] = "proactive",
    [SHADOW_SINGLE] = "single",
};

const char *shadow_policy_name(enum shadow_policy policy)
{
    return policy_names[policy];
}

bool shadow_policy_find(const char *name, enum shadow_policy *policy)
{
    for (unsigned i = 0; i < SHADOW_POLICY_COUNT; i++) {
        if (strcmp(name, policy_names[i]) == 0) {
            *policy = (enum shadow_policy)i;
            return true;
        }
    }
    return false;
}

/* ---- life ---- */

static void destroy(struct shadow *s)
{
    table_release(s);
    for (unsigned i = 0; i < SPACES; i++) {
        free(s->spaces[i].records);
        free(s->spaces[i].fetch);
    }
    free(s->global.records);
    if (s->writers != NULL)
        munmap(s->writers, s->writers_size);
    free(s);
}

bool shadow_create(struct vcpu *v, enum shadow_policy policy, struct error *err)
{
    struct shadow *s = calloc(1, sizeof *s);
    if (s == NULL)
        return error_set(err, "out of memory");
    s->v = v;
    s->policy = policy == SHADOW_SINGLE ? SHADOW_ONDEMAND : policy;
    s->ram_size = memory_backing_size(v->memory);
    s->view[RIGHT_READ] = (uint64_t)(uintptr_t)memory_ram_view_read_only(v->memory);
    s->view[RIGHT_WRITE] = (uint64_t)(uintptr_t)memory_ram_base(v->memory);
    s->page_flags = memory_page_flags(v->memory);
    for (unsigned i = 0; i < SPACES; i++)
        s->spaces[i].tag = SPACE_FREE;
    s->large_low = UINT64_MAX;
    s->writers_size = (s->ram_size >> PAGE_SHIFT) * sizeof *s->writers;
    s->writers =
        mmap(NULL, s->writers_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->writers == MAP_FAILED) {
        s->writers = NULL;
        destroy(s);
        return error_set(err, "no memory for shadow page tables: %m");
    }
    if (!table_reserve(s, err)) {
        destroy(s);
        return false;
    }
    space_enter(s, 0, false);
    v->mmu_shadow = s;
    return true;
}

void shadow_destroy(struct vcpu *v)
{
    if (v->mmu_shadow == NULL)
        return;
    shadow_flush(v, true); /* nothing stays watched */
    destroy(v->mmu_shadow);
    v->mmu_shadow = NULL;
}

/* ---- what translated code uses ---- */

uint64_t shadow_table(const struct vcpu *v, enum tlb_kind kind, bool wide)
{
    return kind == TLB_NONE ? 0 : (uint64_t)(uintptr_t)v->mmu_shadow->table[wide][kind];
}

uint64_t shadow_base(const struct vcpu *v)
{
    return shadow_table(v, (enum tlb_kind)(v->tlb - v->tlbs), v->code_mode == CODE_64);
}

uint64_t *shadow_fetch_slots(struct vcpu *v)
{
    return v->mmu_shadow->fetch;
}

bool shadow_owns(const struct vcpu *v, uintptr_t host_address)
{
    const struct shadow *s = v->mmu_shadow;
    return host_address - (uintptr_t)s->reserved < s->reserved_size;
}

bool shadow_is_read_only_view(const struct vcpu *v, uintptr_t host_address)
{
    const struct shadow *s = v->mmu_shadow;
    return host_address - s->view[RIGHT_READ] < s->ram_size;
}

const struct shadow_counters *shadow_counters(const struct vcpu *v)
{
    return &v->mmu_shadow->count;
}

uint64_t shadow_bytes(const struct vcpu *v)
{
    const struct shadow *s = v->mmu_shadow;
    uint64_t islands = 0;
    for (unsigned i = 0; i < ISLAND_BUCKETS; i++)
        for (const struct island *island = s->buckets[i]; island != NULL; island = island->next)
            islands++;
    return sizeof *s + s->chunks * ISLAND_BYTES + islands * sizeof(struct island) + s->capacity * sizeof(struct record);
}

/* ---- filling ---- */

enum leaf_size shadow_leaf_size(const struct walk *walk)
{
    return walk->size >= GiB ? LEAF_1G : walk->size >= 4 * MiB ? LEAF_4M : walk->size >= 2 * MiB ? LEAF_2M : LEAF_4K;
}

bool shadow_is_global(const struct vcpu *v, const struct walk *walk)
{
    return walk->global && (v->cr4 & CR4_PGE);
}

void shadow_note_large(struct shadow *s, gva_t gva, const struct walk *walk)
{
    if (walk->size <= PAGE_SIZE)
        return;
    gva_t base = gva & ~(walk->size - 1);
    s->sizes_seen |= 1u << shadow_leaf_size(walk);
    if (base < s->large_low)
        s->large_low = base;
    if (base + (walk->size - 1) > s->large_high)
        s->large_high = base + (walk->size - 1);
}

/* What each kind of access may do with a page of RAM. */
static unsigned rights_by_kind(const struct vcpu *v, const struct walk *walk, bool plain)
{
    unsigned supervisor = plain && (walk->all_writable || !(v->cr0 & CR0_WP)) ? RIGHT_WRITE : RIGHT_READ;
    unsigned user = plain && walk->all_writable ? RIGHT_WRITE : RIGHT_READ;
    unsigned rights = supervisor << 2 * TLB_KERNEL_AC;
    if ((v->cr4 & CR4_SMAP) && !(walk->user && (v->cr0 & CR0_PG)))
        rights |= supervisor << 2 * TLB_KERNEL;
    if (walk->user)
        rights |= user << 2 * TLB_USER;
    return rights;
}

struct record shadow_record(struct vcpu *v, gva_t gva, bool wide, const struct walk *walk,
                            const struct page_backing *page)
{
    bool writable = walk->dirty && (walk->all_writable || !(v->cr0 & CR0_WP));
    bool plain = writable && crew_may_write(v, page->flags);
    uint64_t number = gva >> PAGE_SHIFT & (WIDE_PAGES - 1), ram = v->mmu_shadow->view[RIGHT_WRITE];
    return (struct record){
        .key = key_make(number, wide, shadow_leaf_size(walk), rights_by_kind(v, walk, plain)),
        .frame = (uint32_t)(((uint64_t)(uintptr_t)page->hva - ram) >> PAGE_SHIFT),
    };
}

static bool fill(struct shadow *s, enum tlb_kind kind, gva_t gva, const struct walk *walk,
                 const struct page_backing *page, bool may_evict)
{
    struct vcpu *v = s->v;
    bool wide = v->code_mode == CODE_64;
    if (page->kind != PAGE_RAM || (!wide && gva >> PAGE_SHIFT >= NARROW_USED) ||
        (unlikely(v->points != NULL) && points_watch_page(v->points, gva)))
        return false;
    struct record record = shadow_record(v, gva, wide, walk, page);
    shadow_note_large(s, gva, walk);
    return record_enter(s, &record, kind, shadow_is_global(v, walk), may_evict);
}

void shadow_filled(struct vcpu *v, enum tlb_kind kind, gva_t gva, const struct walk *walk,
                   const struct page_backing *page)
{
    v->mmu_shadow->count.fills++;
    fill(v->mmu_shadow, kind, gva, walk, page, true);
}

bool shadow_lookup(struct vcpu *v, enum tlb_kind kind, gva_t gva, bool write, struct shadow_translation *found)
{
    struct shadow *s = v->mmu_shadow;
    const struct record *record = record_find(s, gva >> PAGE_SHIFT & (WIDE_PAGES - 1), v->code_mode == CODE_64);
    if (record == NULL || key_right(record->key, kind) < (write ? RIGHT_WRITE : RIGHT_READ))
        return false;
    uint64_t offset = (uint64_t)record->frame << PAGE_SHIFT;
    gpa_t frame = memory_frame_gpa(v->memory, record->frame);
    if (unlikely(frame == UINT64_MAX))
        return false; /* device RAM, moved away at this moment */
    found->gpa = frame | (gva & PAGE_OFFSET_MASK);
    found->page = (struct page_backing){.kind = PAGE_RAM,
                                        .hva = (uint8_t *)(uintptr_t)(s->view[RIGHT_WRITE] + offset),
                                        .flags = (uint8_t *)&s->page_flags[record->frame]};
    found->size = large_pages(key_size(record->key)) * PAGE_SIZE;
    found->writable = key_right(record->key, kind) == RIGHT_WRITE;
    return true;
}

static void prefill(struct shadow *s, enum tlb_kind kind, gva_t gva, const struct walk *walk)
{
    struct vcpu *v = s->v;
    for (int side = -1; side <= 1; side += 2) {
        for (int i = 1; i <= PREFILL_PAGES; i++) {
            struct walk sibling;
            gva_t to = gva + (int64_t)(side * i) * PAGE_SIZE;
            if (record_find(s, to >> PAGE_SHIFT & (WIDE_PAGES - 1), v->code_mode == CODE_64) != NULL ||
                !walk_sibling(v, gva, walk, side * i, &sibling))
                continue;
            struct page_backing page = memory_page(v->memory, sibling.gpa);
            if (fill(s, kind, to, &sibling, &page, false))
                s->count.prefills++;
        }
    }
}

bool shadow_is_table(const struct vcpu *v, uintptr_t host_address)
{
    const struct shadow *s = v->mmu_shadow;
    uintptr_t tables = (uintptr_t)s->table[0][0];
    return host_address >= tables && host_address - (uintptr_t)s->reserved < s->reserved_size;
}

bool shadow_touch(struct vcpu *v, gva_t gva)
{
    struct shadow *s = v->mmu_shadow;
    if (v->tlb == &v->tlbs[TLB_NONE] || !gva_canonical(gva))
        return false;
    if (!table_has_room(s))
        table_reclaim(s);
    if (!table_has_room(s))
        shadow_evict(s);
    bool wide = v->code_mode == CODE_64;
    uint64_t page = wide ? gva >> PAGE_SHIFT & (WIDE_PAGES - 1) : (uint32_t)gva >> PAGE_SHIFT;
    return table_touch(s, page, wide, (enum tlb_kind)(v->tlb - v->tlbs));
}

bool shadow_fault(struct vcpu *v, gva_t gva, bool write)
{
    struct shadow *s = v->mmu_shadow;
    if (v->code_mode != CODE_64)
        gva = (uint32_t)gva;
    if (v->tlb == &v->tlbs[TLB_NONE] || !gva_canonical(gva))
        return false;
    struct walk walk;
    struct page_backing page;
    mmu_translate_walk(v, gva, access_current(v) | (write ? ACCESS_WRITE : 0), &walk, &page);
    if (page.kind != PAGE_RAM)
        return false;
    enum tlb_kind kind = (enum tlb_kind)(v->tlb - v->tlbs);
    prefill(s, kind, gva, &walk);
    const struct record *record = record_find(s, gva >> PAGE_SHIFT & (WIDE_PAGES - 1), v->code_mode == CODE_64);
    return record != NULL && key_right(record->key, kind) >= (write ? RIGHT_WRITE : RIGHT_READ);
}

/* ---- invalidation ---- */

static void forget_large(struct shadow *s)
{
    s->large_low = UINT64_MAX;
    s->large_high = 0;
    s->sizes_seen = 0;
}

static void drop_kept(struct shadow *s)
{
    for (unsigned i = 0; i < SPACES; i++)
        if (&s->spaces[i] != s->current && s->spaces[i].tag != SPACE_FREE)
            space_drop(s, &s->spaces[i]);
}

void shadow_flush_non_global(struct vcpu *v)
{
    struct shadow *s = v->mmu_shadow;
    if (s == NULL)
        return;
    s->count.flushes++;
    drop_kept(s);
    space_clear(s, s->current);
}

void shadow_flush(struct vcpu *v, bool global_too)
{
    struct shadow *s = v->mmu_shadow;
    if (s == NULL)
        return;
    if (global_too) {
        shadow_flush_non_global(v);
        space_clear(s, &s->global);
        forget_large(s);
    } else {
        s->count.flushes++;
        space_clear(s, s->current);
    }
}

static void flush_large(struct shadow *s, gva_t gva, enum leaf_size size)
{
    if (!(s->sizes_seen & 1u << size))
        return;
    uint64_t pages = large_pages(size), first = gva >> PAGE_SHIFT & (WIDE_PAGES - 1) & ~(pages - 1);
    records_remove(s, first, pages, true, size);
    if (gva >> 32 == 0)
        records_remove(s, first, pages, false, size);
    fetch_remove(s, first, pages, size);
}

void shadow_flush_page(struct vcpu *v, gva_t gva)
{
    struct shadow *s = v->mmu_shadow;
    if (s == NULL)
        return;
    s->count.page_flushes++;
    uint64_t page = gva >> PAGE_SHIFT & (WIDE_PAGES - 1);
    records_remove(s, page, 1, true, LEAF_4K);
    if (gva >> 32 == 0)
        records_remove(s, page, 1, false, LEAF_4K);
    fetch_remove(s, page, 1, LEAF_4K);
    if (gva < s->large_low || gva > s->large_high)
        return;
    flush_large(s, gva, LEAF_2M);
    flush_large(s, gva, LEAF_4M);
    flush_large(s, gva, LEAF_1G);
}

void shadow_flush_pcid(struct vcpu *v, uint64_t pcid, gva_t gva, bool one_page)
{
    struct shadow *s = v->mmu_shadow;
    if (s == NULL)
        return;
    uint64_t current = v->cr4 & CR4_PCIDE ? v->cr3 & CR3_PCID : 0;
    if (pcid == current && one_page) {
        shadow_flush_page(v, gva);
        return;
    }
    if (pcid == current) {
        shadow_flush(v, false);
        return;
    }
    s->count.page_flushes += one_page;
    s->count.flushes += !one_page;
    struct space *space = space_find(s, pcid);
    if (space == NULL || space == s->current)
        return;
    if (one_page)
        space_remove_page(s, space, gva >> PAGE_SHIFT & (WIDE_PAGES - 1));
    else
        space_drop(s, space);
}

/* ---- switching ---- */

/* The tag under which the policy keeps the address space of a CR3 value; SPACE_FREE: it does not. */
static uint64_t tag_of(const struct shadow *s, uint64_t cr3)
{
    const struct vcpu *v = s->v;
    if (!(v->cr0 & CR0_PG))
        return SPACE_FREE;
    if (v->cr4 & CR4_PCIDE)
        return s->policy == SHADOW_ONDEMAND ? SPACE_FREE : cr3 & CR3_PCID;
    return s->policy == SHADOW_PROACTIVE ? cr3 | SPACE_BY_CR3 : SPACE_FREE;
}

void shadow_switch(struct vcpu *v, uint64_t cr3, bool keep)
{
    struct shadow *s = v->mmu_shadow;
    if (s == NULL)
        return;
    s->count.switches++;
    uint64_t from = tag_of(s, v->cr3), to = tag_of(s, cr3);
    if (to == SPACE_FREE) {
        if (!(keep && cr3 == v->cr3))
            space_clear(s, s->current);
        return;
    }
    s->count.switches_kept++;
    if (from == to && keep)
        return;
    if (from == to && s->policy != SHADOW_PROACTIVE) {
        space_clear(s, s->current);
        return;
    }
    s->current->tag = from; /* it may have become the current one while the paging bits were others */
    space_leave(s);
    struct space *space = space_find(s, to);
    if (!keep && s->policy != SHADOW_PROACTIVE && space != NULL)
        space_drop(s, space);
    v->cr3 = cr3; /* for the walk */
    space_enter(s, to, !keep);
}

/* ---- watched pages ---- */

void shadow_stop_plain_writes(struct vcpu *v, gpa_t gpa)
{
    struct shadow *s = v->mmu_shadow;
    if (s == NULL)
        return;
    struct page_backing page = memory_page(v->memory, gpa);
    if (page.kind == PAGE_RAM)
        records_stop_writes(s, (uint32_t)(((uint64_t)(uintptr_t)page.hva - s->view[RIGHT_WRITE]) >> PAGE_SHIFT));
}
