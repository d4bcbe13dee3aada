/* Shadow page tables for translated code: flat tables in host memory that answer "where are the bytes of this guest
 * page" with one load.
 *
 * A table has one 8-byte entry for each guest virtual page; translated code computes
 *
 *     entry = table[gva bits 47:12];  access the host at gva + entry
 *
 * and does nothing else: no tag, no compare. So an entry is a host address minus the page's own guest address, and an
 * entry that must not be used ("poison") is one whose sum lies in a guard page without access: GUARD + 1 - page address
 * (bit 0 tells them apart; entries in use are multiples of 4096). Since the index ignores bits 63:48 of the address,
 * the sum of a non-canonical address is non-canonical on the host too and faults, whatever the entry: no address that
 * a guest can form reaches anything but its own RAM or a guard page. A part of a table that holds no entry yet is not
 * mapped; touching it faults as well.
 *
 * Only what a kind of access has asked for is in its table, and in the tables of other kinds only where they have a
 * piece of table already. A table page that holds entries is called an island; empty ones are given back, and if that
 * is not enough, everything goes.
 *
 * An entry leads either to the read-write view of RAM, or to the read-only view: when the guest's tables forbid
 * writing, when the page's D bit is still clear, or when the page is watched (it holds decoded code). Device pages,
 * ROM and what is not mapped stay poison. So an entry never permits more than the guest's tables do, and the A and D
 * bits are set by the walk that precedes the fill.
 *
 * Tables. One for each way of access control (enum tlb_kind but TLB_NONE) and each width of code: 64-bit code indexes
 * with 36 bits; 32-bit code with 20 bits below two bits that are zero when the access is aligned (see translate.h), so
 * its tables are four times as long as what is ever filled. They hold the current address space; each entry that does
 * not come from a global page (with CR4.PGE) is noted in the address space's log, the others in one of their own.
 * Switching address spaces clears what the old log says and, where the policy lets an address space keep its
 * translations, writes the new one's log back: a few ns an entry and no faults.
 *
 * Policies. ondemand: MOV CR3 forgets all but global pages. tagged: with CR4.PCIDE logs are kept by PCID as a TLB with
 * tags keeps its entries (SDM 4.10.4); without, as ondemand. proactive: besides, where MOV CR3 demands that an address
 * space be forgotten, its log (kept by CR3, without PCID) is read again: for each page in it the guest's tables are
 * looked at, and the entry becomes what they say now, if their A bits are still set. So what has been used comes back
 * without a fault, and it is right by construction: a processor too may enter a translation at any time after the
 * flush.
 *
 * Fetch slots say what the current address space has at a page for jumps. They are cleared, kept and brought back like
 * entries, so an identity must never be used for a second piece of code: it can come back after that piece is gone. It
 * stands for a page as code of one mode and one privilege: whether the page may be fetched from was only looked at for
 * these.
 *
 * The engine trap has its own tables, those of the host (engine/trap/space.c), and the same names of policies. One exists only
 * there: single, one table for kernel and user mode; here it is ondemand.
 *
 * Threads: the vCPU's own, like everything here.
 */
#ifndef RING3_MMU_SHADOW_H
#define RING3_MMU_SHADOW_H

#include "cpu/vcpu.h"
#include "memory/memory.h"
#include "mmu/walk.h"

enum shadow_policy { SHADOW_ONDEMAND, SHADOW_TAGGED, SHADOW_PROACTIVE, SHADOW_SINGLE, SHADOW_POLICY_COUNT };
const char *shadow_policy_name(enum shadow_policy policy);
/* False if there is no policy of this name. */
bool shadow_policy_find(const char *name, enum shadow_policy *policy);

/* The instruction side of the same idea, for blocks that jump to another page: slot [page number mod
 * SHADOW_FETCH_SLOTS] holds the identity (never 0) of the piece of code that the current address space has at that
 * page, or 0. */
#define SHADOW_FETCH_SLOTS 4096u

struct shadow_counters {
    uint64_t fills, prefills, flushes, page_flushes, switches, switches_kept, entries_restored, islands, evictions;
    uint64_t entries_reread; /* entries that the guest's tables were read for again at a switch */
};

struct shadow; /* opaque but for what translated code reads, which translate/ reaches through the functions below */

/* Whether the host has the address space that shadow tables need. */
bool shadow_usable(struct error *why_not);

/* Sets v->mmu_shadow. Reserves address space; takes memory as it is used, within a bound. Destroy it before the
 * memory. */
bool shadow_create(struct vcpu *v, enum shadow_policy policy, struct error *err);
void shadow_destroy(struct vcpu *v);

/* The table that code running now has to use (code_mode, cpl, SMAP/AC: v->tlb and v->code_mode), as a GS base; 0 when
 * every access must be looked at (v->tlb is TLB_NONE). */
uint64_t shadow_base(const struct vcpu *v);
/* The same for a given kind and width, constant for the life of the shadow. */
uint64_t shadow_table(const struct vcpu *v, enum tlb_kind kind, bool wide);
/* SHADOW_FETCH_SLOTS identities; constant address. */
uint64_t *shadow_fetch_slots(struct vcpu *v);
/* Enters an identity for the page of `gva`, which has just been translated for fetching; `global`, `walk` as for a
 * fill. */
void shadow_fetch_set(struct vcpu *v, gva_t gva, uint64_t identity, const struct walk *walk);

/* Whether a host address lies in the guard page or in a table: a miss; and what else a fault handler has to tell apart.
 * Async-signal-safe. */
bool shadow_owns(const struct vcpu *v, uintptr_t host_address);
/* Whether a host address lies in the read-only view of RAM. Async-signal-safe. */
bool shadow_is_read_only_view(const struct vcpu *v, uintptr_t host_address);

/* Whether a host address lies in a table: a part of it without any entry was read. */
bool shadow_is_table(const struct vcpu *v, uintptr_t host_address);
/* Makes the part of the current table where the entry of `gva` stands readable: poison, for now. False: it cannot. */
bool shadow_touch(struct vcpu *v, gva_t gva);

/* A translated access to `gva` faulted: fills what the guest's tables permit, raising the guest's fault through
 * v->unwind if they do not. True: the entry now permits this access, run the instruction again. False: it does not
 * (device, ROM, watched page, TLB_NONE, an address that is not canonical): run it in C, which raises what there is to
 * raise. Fills neighbours that the guest has already used (A set; D set for writing). */
bool shadow_fault(struct vcpu *v, gva_t gva, bool write);

/* What an entry in the tables says, for others than translated code: as good as a hit in a TLB. Not for addresses that
 * are not canonical. False: there is none that permits this access. */
struct shadow_translation {
    gpa_t gpa;
    struct page_backing page;
    uint64_t size; /* of the guest's page */
    bool writable;
};
bool shadow_lookup(struct vcpu *v, enum tlb_kind kind, gva_t gva, bool write, struct shadow_translation *found);

/* Called by mmu/access.c. The flushes and those behind them do nothing while v->mmu_shadow is NULL. */
void shadow_filled(struct vcpu *v, enum tlb_kind kind, gva_t gva, const struct walk *walk,
                   const struct page_backing *page);
void shadow_flush(struct vcpu *v, bool global_too);          /* this address space; with global pages: everything */
void shadow_flush_non_global(struct vcpu *v);                /* all address spaces */
void shadow_flush_page(struct vcpu *v, gva_t gva);           /* INVLPG: in this address space, and global */
void shadow_flush_pcid(struct vcpu *v, uint64_t pcid, gva_t gva, bool one_page); /* INVPCID 0, 1 */
/* MOV CR3, before v->cr3 changes; `keep`: bit 63 was set. */
void shadow_switch(struct vcpu *v, uint64_t cr3, bool keep);
void shadow_stop_plain_writes(struct vcpu *v, gpa_t gpa);    /* entries of this physical page become read-only */

const struct shadow_counters *shadow_counters(const struct vcpu *v);
/* Host memory that tables and logs use now. */
uint64_t shadow_bytes(const struct vcpu *v);

#endif
