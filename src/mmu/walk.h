/* The walk of the guest's own page tables: 32-bit, PSE, PAE, 4-level. SDM vol. 3, chapter 4. */
#ifndef RING3_MMU_WALK_H
#define RING3_MMU_WALK_H

#include "cpu/vcpu.h"
#include "mmu/access.h"

struct walk {
    gpa_t gpa;        /* of the byte asked for, A20 applied */
    uint64_t size;    /* bytes mapped by the leaf entry: 4 KiB, 2 MiB, 4 MiB, 1 GiB; 4 KiB without paging */
    bool writable;    /* a write by the same kind of access would be permitted */
    bool dirty;       /* the leaf's D bit is set (or there is no paging) */
    bool user, nx, global;
    bool all_writable;     /* W is set in every entry (or there is no paging) */
    bool accessed;         /* A was set in every entry before (or there is no paging) */
    /* How it was found: the entries, the leaf last. PDPTEs of PAE paging lie in the processor and do not count. */
    unsigned entry_count;  /* 0 without paging */
    gpa_t entry_gpa[4];
    unsigned entry_size;   /* 4 or 8 */
    const uint8_t *leaf;   /* the last of them */
    bool above_user, above_writable, above_nx; /* by the entries above the leaf */
};

/* Translates for an access described by ACCESS_* flags. On success A (and for writes D) bits have been set. False:
 * `*error` is the page-fault error code, nothing was changed. With `peek` neither permissions nor A/D bits matter. */
bool walk_page_tables(struct vcpu *v, gva_t gva, unsigned flags, bool peek, struct walk *walk, uint32_t *error);

/* After a walk for `gva`: the translation of the page `distance` pages away, if the same table, or the same large
 * page, maps it and its A bit is set. Changes nothing in the tables; `sibling` can be used as if it had
 * been walked for reading, by any kind of access that its `user` and `nx` allow. */
bool walk_sibling(struct vcpu *v, gva_t gva, const struct walk *walk, int distance, struct walk *sibling);

#endif
