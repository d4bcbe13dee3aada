/* The address space that is in force, as a list: what the guest's own tables map where, and how much of it is in the
 * monitor's shadow (the software TLB or the shadow page tables) just now. For people who look on; changes nothing.
 *
 * Neighbouring pages that continue each other in physical memory with the same rights are one range. The work is
 * bounded, since a guest's tables can describe 2^48 bytes many times over: `truncated` then says that the list is not
 * all.
 */
#ifndef RING3_MMU_RANGES_H
#define RING3_MMU_RANGES_H

#include "cpu/vcpu.h"

#define RANGES_MAX 2048u
#define RANGES_TABLES_MAX 16384u /* page tables that are read */
#define RANGES_PAGES_MAX 262144u /* pages that are looked up in the shadow */

struct range {
    gva_t gva;
    uint64_t size;      /* bytes */
    gpa_t gpa;
    uint32_t page_size; /* of the guest's pages; 0: 1 GiB */
    bool writable, user, nx, global;
    /* Pages of 4 KiB that the shadow has for kernel and for user mode, and of these the writable ones. */
    bool counted;
    uint32_t kernel, kernel_writable, user_pages, user_writable;
};

struct ranges {
    struct range list[RANGES_MAX];
    unsigned count;
    bool truncated;
    const char *paging; /* "none", "32-bit", "PAE", "4-level" */
};

/* Whether the shadow has a page for reading, or for writing. */
typedef bool ranges_has_fn(const struct vcpu *v, gva_t gva, bool user, bool write);
/* That of the software TLB, or of the shadow page tables where there are some. */
ranges_has_fn ranges_shadow_has;

/* While the vCPU does not run. `has` may be NULL: then nothing is counted. */
void ranges_read(struct vcpu *v, ranges_has_fn *has, struct ranges *ranges);

#endif
