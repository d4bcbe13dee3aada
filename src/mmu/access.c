/* Guest memory accesses that the TLB cannot answer.
 *
 * A TLB is kept for each way of access control: supervisor with SMAP in force, supervisor without, user. An explicit
 * access uses the one that vcpu_mode_changed() chose; implicit accesses (descriptor tables, TSS) and accesses for another
 * privilege level pick theirs by ACCESS_* flags. TLB_NONE stays empty: alignment checking and data breakpoints make
 * every access come here.
 */
#include "mmu/access.h"

#include <string.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/crew.h"
#include "cpu/decode.h"
#include "cpu/insn.h"
#include "memory/memory.h"
#include "mmu/shadow.h"
#include "mmu/walk.h"

static struct tlb *tlb_for(struct vcpu *v, unsigned flags)
{
    if (v->tlb == &v->tlbs[TLB_NONE])
        return v->tlb;
    if (flags & ACCESS_USER)
        return &v->tlbs[TLB_USER];
    if ((flags & ACCESS_IMPLICIT) || ((v->cr4 & CR4_SMAP) && !(v->rflags_rest & FLAG_AC)))
        return &v->tlbs[TLB_KERNEL];
    return &v->tlbs[TLB_KERNEL_AC];
}

static void check_memory_map(struct vcpu *v)
{
    if (unlikely(v->memory_generation != memory_generation(v->memory))) {
        mmu_flush(v);
        v->memory_generation = memory_generation(v->memory);
    }
}

static _Noreturn void fault_non_canonical(struct vcpu *v, unsigned flags)
{
    if (flags & ACCESS_STACK)
        fault_ss(v, 0);
    fault_gp(v, 0);
}

static void note_large(struct vcpu *v, gva_t gva, uint64_t size)
{
    gva_t base = gva & ~(size - 1);
    if (base < v->large_low)
        v->large_low = base;
    if (base + (size - 1) > v->large_high)
        v->large_high = base + (size - 1);
}

static uint64_t *tlb_written(struct vcpu *v, gpa_t gpa)
{
    return &v->tlb_written[(gpa >> PAGE_SHIFT & (TLB_WRITTEN_BITS - 1)) / 64];
}

static void tlb_enter(struct vcpu *v, struct tlb *tlb, gva_t gva, gpa_t gpa, const struct page_backing *page,
                      bool writable)
{
    v->count.tlb_fills++;
    gva_t gva_page = gva & ~PAGE_OFFSET_MASK;
    struct tlb_entry *e = &tlb->entries[gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
    tlb->used = true;
    e->read_tag = gva_page;
    bool plain_write = page->kind == PAGE_RAM && writable && crew_may_write(v, page->flags);
    e->write_tag = plain_write ? gva_page : TLB_NO_TAG;
    e->addend = (intptr_t)page->hva - (intptr_t)gva_page;
    if (unlikely(page->flags != NULL && (*page->flags & PAGE_DEVICE))) /* by one name, for mmu_stop_plain_writes() */
        gpa = memory_frame_gpa(v->memory, (uint64_t)(page->flags - memory_page_flags(v->memory)));
    e->gpa = gpa & ~PAGE_OFFSET_MASK;
    if (plain_write)
        *tlb_written(v, gpa) |= 1ull << (gpa >> PAGE_SHIFT) % 64;
}

/* Translates and enters the page into the TLB of this kind of access. */
gpa_t mmu_translate_walk(struct vcpu *v, gva_t gva, unsigned flags, struct walk *walk, struct page_backing *page)
{
    check_memory_map(v);
    if (vcpu_long_mode(v) && !gva_canonical(gva))
        fault_non_canonical(v, flags);
    uint32_t error;
    if (!walk_page_tables(v, gva, flags, false, walk, &error))
        fault_pf(v, gva, error);
    *page = memory_page(v->memory, walk->gpa);
    if (walk->size > PAGE_SIZE)
        note_large(v, gva, walk->size);
    struct tlb *tlb = tlb_for(v, flags);
    if (tlb == &v->tlbs[TLB_NONE] || (page->kind != PAGE_RAM && page->kind != PAGE_ROM) || (flags & ACCESS_FETCH) ||
        (unlikely(v->points != NULL) && points_watch_page(v->points, gva)))
        return walk->gpa;
    if (v->mmu_shadow != NULL)
        shadow_filled(v, (enum tlb_kind)(tlb - v->tlbs), gva, walk, page);
    tlb_enter(v, tlb, gva, walk->gpa, page, walk->writable && walk->dirty);
    return walk->gpa;
}

/* The same from the shadow page tables, if they have it: they are tagged, and far larger than a TLB. */
static bool translate_by_shadow(struct vcpu *v, gva_t gva, unsigned flags, struct page_backing *page, gpa_t *gpa)
{
    struct tlb *tlb = tlb_for(v, flags);
    struct shadow_translation found;
    if (tlb == &v->tlbs[TLB_NONE] || (flags & ACCESS_FETCH) || (vcpu_long_mode(v) && !gva_canonical(gva)) ||
        !shadow_lookup(v, (enum tlb_kind)(tlb - v->tlbs), gva, flags & ACCESS_WRITE, &found))
        return false;
    *gpa = found.gpa;
    *page = found.page;
    if (found.size > PAGE_SIZE)
        note_large(v, gva, found.size);
    tlb_enter(v, tlb, gva, found.gpa, page, found.writable);
    return true;
}

static gpa_t translate_fill(struct vcpu *v, gva_t gva, unsigned flags, struct page_backing *page)
{
    struct walk walk;
    gpa_t gpa;
    if (v->mmu_shadow != NULL) {
        check_memory_map(v);
        if (translate_by_shadow(v, gva, flags, page, &gpa))
            return gpa;
    }
    return mmu_translate_walk(v, gva, flags, &walk, page);
}

gpa_t mmu_translate(struct vcpu *v, gva_t gva, unsigned flags)
{
    struct page_backing page;
    return translate_fill(v, gva, flags, &page);
}

bool mmu_peek(struct vcpu *v, gva_t gva, gpa_t *gpa)
{
    struct walk walk;
    uint32_t error;
    if ((vcpu_long_mode(v) && !gva_canonical(gva)) || !walk_page_tables(v, gva, 0, true, &walk, &error))
        return false;
    *gpa = walk.gpa;
    return true;
}

/* ---- the guest's data breakpoints and alignment: only reached while v->tlb is TLB_NONE ---- */

static void check_data_breakpoints(struct vcpu *v, gva_t gva, unsigned size, unsigned flags)
{
    if (v->tlb != &v->tlbs[TLB_NONE] || (flags & (ACCESS_IMPLICIT | ACCESS_FETCH)))
        return;
    bool write = flags & ACCESS_WRITE;
    static const uint8_t length[4] = {1, 2, 8, 4};
    uint64_t dr7 = v->dr[7];
    for (unsigned i = 0; i < 4; i++) {
        unsigned type = dr7 >> (16 + 4 * i) & 3;
        bool enabled = dr7 >> (2 * i) & 3;
        if (!enabled || !(type == 3 || (type == 1 && write)))
            continue;
        unsigned n = length[dr7 >> (18 + 4 * i) & 3];
        gva_t first = v->dr[i] & ~(uint64_t)(n - 1);
        if (gva < first + n && first < gva + size)
            v->dr6_pending |= 1u << i;
    }
}

static void check_alignment(struct vcpu *v, gva_t gva, unsigned size, unsigned flags)
{
    if (v->tlb != &v->tlbs[TLB_NONE] || (flags & (ACCESS_IMPLICIT | ACCESS_FETCH)))
        return;
    bool alignment = (v->cr0 & CR0_AM) && (v->rflags_rest & FLAG_AC) && v->cpl == 3 && (flags & ACCESS_USER);
    if (alignment && size > 1 && (gva & (size - 1)) != 0 && (size & (size - 1)) == 0)
        fault_ac(v);
}

/* ---- device space ---- */

static uint64_t device_read(struct vcpu *v, gpa_t gpa, unsigned size)
{
    struct exit exit = {.reason = EXIT_MMIO_READ, .address = gpa, .size = (uint8_t)size};
    vcpu_exit(v, &exit);
    return exit.value;
}

static void device_write(struct vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
    struct exit exit = {.reason = EXIT_MMIO_WRITE, .address = gpa, .size = (uint8_t)size, .value = value};
    vcpu_exit(v, &exit);
}

/* The bytes of one access that lie in one page. Devices see accesses of 1, 2, 4 or 8 bytes. */
static unsigned device_piece(gpa_t gpa, unsigned size)
{
    for (unsigned piece = 8; piece > 1; piece /= 2)
        if (size >= piece && (size == piece || (gpa & (piece - 1)) == 0))
            return piece;
    return 1;
}

/* Constant sizes become single loads and stores: other processors see an aligned access as a whole. */
static void bytes_copy(uint8_t *to, const uint8_t *from, unsigned size)
{
    switch (size) {
    case 1: *to = *from; break;
    case 2: memcpy(to, from, 2); break;
    case 4: memcpy(to, from, 4); break;
    case 8: memcpy(to, from, 8); break;
    default: memcpy(to, from, size);
    }
}

/* After bytes have been stored by other means than a plain way: tells who watches them. */
static void written(struct vcpu *v, gpa_t gpa, const struct page_backing *page, unsigned size)
{
    if (v->crew != NULL) /* who watches sets the flag first and reads then: the store must not be late */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(page->flags, __ATOMIC_RELAXED) & PAGE_WATCHED)
        memory_notify_written(v->memory, gpa, size);
}

static void page_read(struct vcpu *v, gpa_t gpa, const struct page_backing *page, uint8_t *buffer, unsigned size)
{
    if (page->kind == PAGE_RAM || page->kind == PAGE_ROM) {
        bytes_copy(buffer, page->hva + (gpa & PAGE_OFFSET_MASK), size);
        return;
    }
    for (unsigned done = 0; done < size;) {
        unsigned piece = device_piece(gpa + done, size - done);
        uint64_t value = device_read(v, gpa + done, piece);
        memcpy(buffer + done, &value, piece);
        done += piece;
    }
}

static void page_write(struct vcpu *v, gpa_t gpa, const struct page_backing *page, const uint8_t *buffer, unsigned size)
{
    if (unlikely(v->rehearsal != NULL)) {
        bool plain = page->kind == PAGE_RAM && !(__atomic_load_n(page->flags, __ATOMIC_RELAXED) & PAGE_WATCHED);
        v->rehearsal(v, plain ? page->hva + (gpa & PAGE_OFFSET_MASK) : NULL, size);
    }
    if (page->kind == PAGE_RAM) {
        bytes_copy(page->hva + (gpa & PAGE_OFFSET_MASK), buffer, size);
        written(v, gpa, page, size);
        return;
    }
    if (page->kind == PAGE_ROM)
        return;
    for (unsigned done = 0; done < size;) {
        unsigned piece = device_piece(gpa + done, size - done);
        uint64_t value = 0;
        memcpy(&value, buffer + done, piece);
        device_write(v, gpa + done, piece, value);
        done += piece;
    }
}

/* An access to at most two pages, translated before anything happens. */
struct span {
    gpa_t gpa[2];
    struct page_backing page[2];
    unsigned size[2];
};

static void span_translate(struct vcpu *v, gva_t gva, unsigned size, unsigned flags, struct span *span)
{
    check(size <= PAGE_SIZE);
    if (vcpu_long_mode(v) && size > 1 && !gva_canonical(gva + size - 1))
        fault_non_canonical(v, flags);
    check_alignment(v, gva, size, flags); /* processors look at this before they translate */
    unsigned first = PAGE_SIZE - (unsigned)(gva & PAGE_OFFSET_MASK);
    span->size[0] = size < first ? size : first;
    span->size[1] = size - span->size[0];
    span->gpa[0] = translate_fill(v, gva, flags, &span->page[0]);
    if (span->size[1] != 0) {
        gva_t next = gva + span->size[0];
        span->gpa[1] = translate_fill(v, vcpu_long_mode(v) ? next : (uint32_t)next, flags, &span->page[1]);
    }
    check_data_breakpoints(v, gva, size, flags);
}

/* What a debugger watches. */
static void check_points(struct vcpu *v, gva_t gva, unsigned size, unsigned flags)
{
    if (unlikely(v->points != NULL) && !(flags & (ACCESS_IMPLICIT | ACCESS_FETCH)))
        points_check_data(v, gva, size, flags & ACCESS_WRITE);
}

void access_read_bytes(struct vcpu *v, gva_t gva, void *buffer, unsigned size, unsigned flags)
{
    struct span span;
    span_translate(v, gva, size, flags, &span);
    check_points(v, gva, size, flags);
    page_read(v, span.gpa[0], &span.page[0], buffer, span.size[0]);
    if (span.size[1] != 0)
        page_read(v, span.gpa[1], &span.page[1], (uint8_t *)buffer + span.size[0], span.size[1]);
}

void access_write_bytes(struct vcpu *v, gva_t gva, const void *buffer, unsigned size, unsigned flags)
{
    struct span span;
    span_translate(v, gva, size, flags | ACCESS_WRITE, &span);
    check_points(v, gva, size, flags | ACCESS_WRITE);
    page_write(v, span.gpa[0], &span.page[0], buffer, span.size[0]);
    if (span.size[1] != 0)
        page_write(v, span.gpa[1], &span.page[1], (const uint8_t *)buffer + span.size[0], span.size[1]);
}

void access_probe(struct vcpu *v, gva_t gva, unsigned size, unsigned flags)
{
    struct span span;
    span_translate(v, gva, size, flags, &span);
}

uint64_t access_read(struct vcpu *v, gva_t gva, unsigned size, unsigned flags)
{
    const struct tlb_entry *e = &tlb_for(v, flags)->entries[gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
    uint64_t value = 0;
    if (tlb_hit(e->read_tag, gva, size))
        bytes_copy((uint8_t *)&value, (const uint8_t *)(gva + (uint64_t)e->addend), size);
    else
        access_read_bytes(v, gva, &value, size, flags);
    return value;
}

void access_write(struct vcpu *v, gva_t gva, unsigned size, uint64_t value, unsigned flags)
{
    access_write_bytes(v, gva, &value, size, flags);
}

/* The segment that an explicit access of the running instruction goes through decides #SS or #GP. */
static unsigned flags_of_running(const struct vcpu *v)
{
    unsigned flags = access_current(v);
    if (v->in != NULL && v->in->seg == SEG_SS)
        flags |= ACCESS_STACK;
    return flags;
}

uint64_t mem_read_slow(struct vcpu *v, gva_t gva, unsigned size)
{
    return access_read(v, gva, size, flags_of_running(v));
}

void mem_write_slow(struct vcpu *v, gva_t gva, unsigned size, uint64_t value)
{
    access_write(v, gva, size, value, flags_of_running(v));
}

/* ---- read-modify-write ---- */

/* A locked instruction is atomic wherever its operand lies in RAM: also in a page that is watched, which is told of it
 * afterwards, and across two pages, which are seen side by side in a window: there the host locks the bus for us. Where
 * nobody else could tell (not locked), or nobody promises anything (device space), a copy is used. */

static bool is_locked(const struct vcpu *v)
{
    return v->in != NULL && ((v->in->flags & INSN_LOCK) || v->in->row == ROW_XCHG);
}

/* The bytes across two pages of RAM in one piece; NULL: the host does not give a window. */
static uint8_t *rmw_window(struct vcpu *v, const struct span *span)
{
    if (v->rmw.window == NULL)
        v->rmw.window = memory_window_create();
    for (unsigned n = 0; n < 2 && v->rmw.window != NULL; n++) {
        if (v->rmw.windowed[n] == span->page[n].hva)
            continue;
        v->rmw.windowed[n] = NULL;
        if (!memory_window_set(v->memory, v->rmw.window, n, span->page[n].hva))
            return NULL;
        v->rmw.windowed[n] = span->page[n].hva;
    }
    return v->rmw.window == NULL ? NULL : v->rmw.window + (span->gpa[0] & PAGE_OFFSET_MASK);
}

/* Where the instruction can work on RAM itself. NULL: it cannot. */
static void *rmw_direct(struct vcpu *v, const struct span *span)
{
    if (v->rehearsal != NULL || span->page[0].kind != PAGE_RAM)
        return NULL;
    if (span->size[1] == 0)
        return span->page[0].hva + (span->gpa[0] & PAGE_OFFSET_MASK);
    return span->page[1].kind == PAGE_RAM && is_locked(v) ? rmw_window(v, span) : NULL;
}

void *rmw_begin_slow(struct vcpu *v, gva_t gva, unsigned size)
{
    struct span span;
    span_translate(v, gva, size, flags_of_running(v) | ACCESS_WRITE, &span);
    check_points(v, gva, size, 0);
    check_points(v, gva, size, ACCESS_WRITE);
    void *direct = rmw_direct(v, &span);
    if (direct != NULL && span.size[1] == 0 && crew_may_write(v, span.page[0].flags))
        return direct;
    for (unsigned n = 0; n < 2; n++) {
        v->rmw.gpa[n] = span.gpa[n];
        v->rmw.size[n] = span.size[n];
    }
    v->rmw.active = true;
    v->rmw.bounced = direct == NULL;
    if (direct != NULL)
        return direct;
    page_read(v, span.gpa[0], &span.page[0], v->rmw.bytes, span.size[0]);
    if (span.size[1] != 0)
        page_read(v, span.gpa[1], &span.page[1], v->rmw.bytes + span.size[0], span.size[1]);
    return v->rmw.bytes;
}

void rmw_end_slow(struct vcpu *v)
{
    v->rmw.active = false;
    const uint8_t *bytes = v->rmw.bytes;
    for (unsigned n = 0; n < 2 && v->rmw.size[n] != 0; bytes += v->rmw.size[n++]) {
        struct page_backing page = memory_page(v->memory, v->rmw.gpa[n]);
        if (v->rmw.bounced)
            page_write(v, v->rmw.gpa[n], &page, bytes, v->rmw.size[n]);
        else if (page.kind == PAGE_RAM)
            written(v, v->rmw.gpa[n], &page, v->rmw.size[n]);
    }
}

/* ---- maintenance ---- */

/* The vCPU's own TLBs have no tags and do not tell global pages apart: they hold the current address space. */
static void flush_tlbs(struct vcpu *v)
{
    v->count.tlb_flushes++;
    for (unsigned kind = 0; kind < TLB_KIND_COUNT; kind++) {
        struct tlb *tlb = &v->tlbs[kind];
        if (!tlb->used)
            continue;
        for (unsigned i = 0; i < TLB_SIZE; i++)
            tlb->entries[i].read_tag = tlb->entries[i].write_tag = TLB_NO_TAG;
        tlb->used = false;
    }
    memset(v->itlb, 0xff, sizeof v->itlb);
    memset(v->tlb_written, 0, sizeof v->tlb_written);
    v->large_low = UINT64_MAX;
    v->large_high = 0;
}

static void flush_tlbs_page(struct vcpu *v, gva_t gva)
{
    if (gva >= v->large_low && gva <= v->large_high) {
        flush_tlbs(v); /* the page may be a piece of a large one, entered piece by piece */
        return;
    }
    for (unsigned kind = 0; kind < TLB_KIND_COUNT; kind++) {
        struct tlb_entry *e = &v->tlbs[kind].entries[gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
        e->read_tag = e->write_tag = TLB_NO_TAG;
    }
    v->itlb[gva >> PAGE_SHIFT & (ITLB_SIZE - 1)].tag = UINT64_MAX;
}

void mmu_flush(struct vcpu *v)
{
    flush_tlbs(v);
    shadow_flush(v, true);
    if (v->mmu_observer != NULL)
        v->mmu_observer->flush(v);
}

void mmu_flush_non_global(struct vcpu *v)
{
    flush_tlbs(v);
    shadow_flush_non_global(v);
    if (v->mmu_observer != NULL)
        v->mmu_observer->flush(v);
}

void mmu_flush_pcid(struct vcpu *v, uint64_t pcid, gva_t gva, bool one_page)
{
    uint64_t current = v->cr4 & CR4_PCIDE ? v->cr3 & CR3_PCID : 0;
    if (pcid == current && one_page)
        flush_tlbs_page(v, gva);
    else if (pcid == current)
        flush_tlbs(v);
    shadow_flush_pcid(v, pcid, gva, one_page);
    if (v->mmu_observer != NULL && one_page)
        v->mmu_observer->flush_page(v, gva);
    else if (v->mmu_observer != NULL)
        v->mmu_observer->flush(v);
}

void mmu_switch(struct vcpu *v, uint64_t cr3, bool keep)
{
    bool same = keep && cr3 == v->cr3;
    shadow_switch(v, cr3, keep);
    if (v->mmu_observer != NULL)
        v->mmu_observer->cr3_load(v, cr3, keep);
    v->cr3 = cr3;
    if (!same)
        flush_tlbs(v);
}

void mmu_init(struct vcpu *v)
{
    for (unsigned kind = 0; kind < TLB_KIND_COUNT; kind++)
        v->tlbs[kind].used = true;
    mmu_flush(v);
    v->memory_generation = memory_generation(v->memory);
}

void mmu_flush_page(struct vcpu *v, gva_t gva)
{
    flush_tlbs_page(v, gva);
    shadow_flush_page(v, gva);
    if (v->mmu_observer != NULL)
        v->mmu_observer->flush_page(v, gva);
}

void mmu_written(struct vcpu *v, gpa_t gpa, unsigned size)
{
    struct page_backing page = memory_page(v->memory, gpa);
    if (page.kind != PAGE_RAM)
        return;
    if (v->code != NULL && (__atomic_load_n(page.flags, __ATOMIC_RELAXED) & PAGE_CODE))
        code_cache_written(v, gpa, size);
    if (v->mmu_observer != NULL && (__atomic_load_n(page.flags, __ATOMIC_RELAXED) & (PAGE_TABLE | PAGE_DIRECT)))
        v->mmu_observer->written(v, gpa, size);
}

void mmu_stop_plain_writes(struct vcpu *v, gpa_t gpa)
{
    gpa &= ~PAGE_OFFSET_MASK;
    shadow_stop_plain_writes(v, gpa);
    if (v->mmu_observer != NULL)
        v->mmu_observer->stop_writes(v, gpa);
    if (!(*tlb_written(v, gpa) & 1ull << (gpa >> PAGE_SHIFT) % 64))
        return;
    for (unsigned kind = 0; kind < TLB_KIND_COUNT; kind++) {
        struct tlb *tlb = &v->tlbs[kind];
        if (!tlb->used)
            continue;
        for (unsigned i = 0; i < TLB_SIZE; i++)
            if (tlb->entries[i].gpa == gpa)
                tlb->entries[i].write_tag = TLB_NO_TAG;
    }
}
