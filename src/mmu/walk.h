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
};

/* Translates for an access described by ACCESS_* flags. On success A (and for writes D) bits have been set. False:
 * `*error` is the page-fault error code, nothing was changed. With `peek` neither permissions nor A/D bits matter. */
bool walk_page_tables(struct vcpu *v, gva_t gva, unsigned flags, bool peek, struct walk *walk, uint32_t *error);

#endif
