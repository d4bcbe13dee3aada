/* Guest memory by linear address, as the processor accesses it.
 *
 * The fast path is a TLB lookup that fails for everything that needs care: other page, page crossing, watched page,
 * device, permission. The slow path walks the guest's tables (setting A and D), raises #PF / #GP / #SS / #AC through
 * vcpu.unwind, checks data breakpoints, and reaches devices through the door.
 *
 * An access that crosses a page checks both pages before it changes anything.
 */
#ifndef RING3_MMU_ACCESS_H
#define RING3_MMU_ACCESS_H

#include "cpu/vcpu.h"

/* Flags of a slow access. */
#define ACCESS_WRITE 0x01u
#define ACCESS_FETCH 0x02u
#define ACCESS_USER 0x04u     /* as CPL 3 */
#define ACCESS_IMPLICIT 0x08u /* GDT, LDT, IDT, TSS: as supervisor whatever CPL, SMAP applies whatever AC */
#define ACCESS_STACK 0x10u    /* non-canonical raises #SS instead of #GP */

/* Flags for an explicit access at the current CPL. */
static inline unsigned access_current(const struct vcpu *v)
{
    return v->cpl == 3 ? ACCESS_USER : 0;
}

/* 1 to 8 bytes. */
uint64_t access_read(struct vcpu *v, gva_t gva, unsigned size, unsigned flags);
void access_write(struct vcpu *v, gva_t gva, unsigned size, uint64_t value, unsigned flags);
/* Any number of bytes, within two neighbouring pages (at most 4096 bytes); for vector operands, FXSAVE, descriptors. */
void access_read_bytes(struct vcpu *v, gva_t gva, void *buffer, unsigned size, unsigned flags);
void access_write_bytes(struct vcpu *v, gva_t gva, const void *buffer, unsigned size, unsigned flags);
/* Raises the fault that an access would raise; changes nothing but A/D bits. */
void access_probe(struct vcpu *v, gva_t gva, unsigned size, unsigned flags);

static inline bool tlb_hit(uint64_t tag, gva_t gva, unsigned size)
{
    return tag == ((gva + size - 1) & ~PAGE_OFFSET_MASK);
}

static inline struct tlb_entry *tlb_entry(const struct vcpu *v, gva_t gva)
{
    return &v->tlb->entries[gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
}

/* mem_read8..64, mem_write8..64: explicit accesses at the current CPL. The segment that a non-canonical address is
 * blamed on is the running instruction's (v->in). */
uint64_t mem_read_slow(struct vcpu *v, gva_t gva, unsigned size);
void mem_write_slow(struct vcpu *v, gva_t gva, unsigned size, uint64_t value);

#define DEFINE_MEM_ACCESS(bits)                                                                                        \
    static inline uint##bits##_t mem_read##bits(struct vcpu *v, gva_t gva)                                             \
    {                                                                                                                  \
        const struct tlb_entry *e = tlb_entry(v, gva);                                                                 \
        if (likely(tlb_hit(e->read_tag, gva, bits / 8)))                                                               \
            return *(const uint##bits##_t *)(gva + (uint64_t)e->addend);                                               \
        return (uint##bits##_t)mem_read_slow(v, gva, bits / 8);                                                        \
    }                                                                                                                  \
    static inline void mem_write##bits(struct vcpu *v, gva_t gva, uint##bits##_t value)                                \
    {                                                                                                                  \
        const struct tlb_entry *e = tlb_entry(v, gva);                                                                 \
        if (likely(tlb_hit(e->write_tag, gva, bits / 8)))                                                              \
            *(uint##bits##_t *)(gva + (uint64_t)e->addend) = value;                                                    \
        else                                                                                                           \
            mem_write_slow(v, gva, bits / 8, value);                                                                   \
    }
DEFINE_MEM_ACCESS(8)
DEFINE_MEM_ACCESS(16)
DEFINE_MEM_ACCESS(32)
DEFINE_MEM_ACCESS(64)
#undef DEFINE_MEM_ACCESS

/* Read-modify-write: a host pointer to the bytes, after all write faults have been raised. On plain RAM it is the RAM
 * itself, so that a locked instruction can be a host atomic; else a bounce buffer, which rmw_end() writes back. */
void *rmw_begin_slow(struct vcpu *v, gva_t gva, unsigned size);
void rmw_end_slow(struct vcpu *v);

static inline void *rmw_begin(struct vcpu *v, gva_t gva, unsigned size)
{
    const struct tlb_entry *e = tlb_entry(v, gva);
    if (likely(tlb_hit(e->write_tag, gva, size)))
        return (void *)(gva + (uint64_t)e->addend);
    return rmw_begin_slow(v, gva, size);
}

static inline void rmw_end(struct vcpu *v)
{
    if (unlikely(v->rmw.active))
        rmw_end_slow(v);
}

/* Translation and maintenance. */
/* Guest physical address of `gva` for this kind of access; raises #PF. A/D bits are set. */
gpa_t mmu_translate(struct vcpu *v, gva_t gva, unsigned flags);
/* The same, and how it was found. */
struct walk;
struct page_backing;
gpa_t mmu_translate_walk(struct vcpu *v, gva_t gva, unsigned flags, struct walk *walk, struct page_backing *page);
/* The same for a debugger: no fault, no A/D; false if not mapped. */
bool mmu_peek(struct vcpu *v, gva_t gva, gpa_t *gpa);
/* Whoever keeps translations outside of this process hears of what takes them away: v->mmu_observer. Everything; one page, in all
 * address spaces; a load of CR3, before v->cr3 changes; a physical page that may not be written any more without notice;
 * bytes of one with PAGE_TABLE or PAGE_DIRECT that were written. */
struct mmu_observer {
    void (*flush)(struct vcpu *v);
    void (*flush_page)(struct vcpu *v, gva_t gva);
    void (*cr3_load)(struct vcpu *v, uint64_t cr3, bool keep);
    void (*stop_writes)(struct vcpu *v, gpa_t gpa);
    void (*written)(struct vcpu *v, gpa_t gpa, unsigned size);
};
void mmu_init(struct vcpu *v);                  /* at creation: all empty */
void mmu_flush(struct vcpu *v);                 /* all translations of all address spaces, global ones too */
void mmu_flush_non_global(struct vcpu *v);      /* the same without global ones */
void mmu_flush_page(struct vcpu *v, gva_t gva); /* INVLPG */
/* What is tagged with `pcid` and not global: one page, or all. */
void mmu_flush_pcid(struct vcpu *v, uint64_t pcid, gva_t gva, bool one_page);
/* A write to CR3 that has been found to be possible: sets v->cr3. `keep`: bit 63 was set (with CR4.PCIDE). */
void mmu_switch(struct vcpu *v, uint64_t cr3, bool keep);
/* Bytes of a watched page were written (memory_set_watcher), all in one page: tells whoever watches it here. The vCPU's
 * thread. */
void mmu_written(struct vcpu *v, gpa_t gpa, unsigned size);
/* From now on writes to the physical page come through the slow path: it has just been watched. */
void mmu_stop_plain_writes(struct vcpu *v, gpa_t gpa);
/* PAE paging: (re)loads the four PDPTEs from CR3. False if a reserved bit is set (caller raises #GP(0)). */
bool mmu_load_pdptes(struct vcpu *v, uint64_t cr3);

#endif
