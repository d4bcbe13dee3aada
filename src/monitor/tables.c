/* info mem, info tlb: what the guest's page tables map.
 *
 * All tables are gone through, as the walk of mmu/walk.c would, without a bit of theirs being changed. Tables may lead to
 * themselves, on purpose (then a page is mapped at many addresses) or by malice: so the number of tables that are read
 * is bounded, and so are the lines.
 *
 * SDM vol. 3, 4.3 (32-bit paging), 4.4 (PAE), 4.5 (4-level). */
#include <inttypes.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "memory/memory.h"
#include "monitor/internal.h"

#define PTE_P (1ull << 0)
#define PTE_RW (1ull << 1)
#define PTE_US (1ull << 2)
#define PTE_PWT (1ull << 3)
#define PTE_PCD (1ull << 4)
#define PTE_A (1ull << 5)
#define PTE_D (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G (1ull << 8)
#define PTE_XD (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull

#define TABLES_MAX 65536u
#define LINES_MAX 20000u

struct mapping {
    gva_t gva;
    gpa_t gpa;
    uint64_t size;
    uint64_t leaf;             /* the entry */
    bool user, writable, nx;   /* by all levels */
};

struct tour {
    const struct vcpu *v;
    FILE *out;
    void (*page)(struct tour *tour, const struct mapping *mapping);
    unsigned tables, lines;
    bool cut;                  /* a bound was reached */
    struct mapping run;        /* info mem: pages with the same rights so far; size 0: none */
};

/* What is common to the levels: 4-level and PAE have 512 entries of 8 bytes, 32-bit paging 1024 of 4. */
struct level {
    unsigned shift;            /* bits of the address below this level's index */
    unsigned entries, entry_size;
    bool may_be_leaf;          /* PS means a page */
};

static uint64_t entry_of(const uint8_t *table, const struct level *level, unsigned i)
{
    uint64_t entry = 0;
    memcpy(&entry, table + (size_t)i * level->entry_size, level->entry_size);
    return entry;
}

static void found(struct tour *tour, struct mapping *mapping, const struct level *level)
{
    uint64_t page = level->entry_size == 4 ? (uint32_t)mapping->leaf : mapping->leaf & PTE_ADDRESS;
    if (level->entry_size == 4 && level->shift == 22) /* PSE-36: bits 20:13 are 39:32 of the address */
        page = (page & 0xffc00000u) | (page >> 13 & 0xff) << 32;
    mapping->size = 1ull << level->shift;
    mapping->gpa = page & ~(mapping->size - 1);
    tour->page(tour, mapping);
}

/* `levels` ends with the one whose shift is 12. */
static void go(struct tour *tour, const struct level *levels, gpa_t table_gpa, const struct mapping *above)
{
    uint8_t table[PAGE_SIZE];
    unsigned size = levels->entries * levels->entry_size;
    if (tour->cut || ++tour->tables > TABLES_MAX) {
        tour->cut = true;
        return;
    }
    if (!memory_read(tour->v->memory, table_gpa & tour->v->a20_mask, table, size))
        return;
    for (unsigned i = 0; i < levels->entries && !tour->cut; i++) {
        uint64_t entry = entry_of(table, levels, i);
        if (!(entry & PTE_P))
            continue;
        struct mapping mapping = *above;
        mapping.gva |= (uint64_t)i << levels->shift;
        if (levels->shift == 39 && i >= 256)
            mapping.gva |= 0xffff000000000000ull;
        mapping.leaf = entry;
        bool pdpte = levels->entries == 4; /* of PAE paging: no rights in it */
        mapping.user &= pdpte || (entry & PTE_US);
        mapping.writable &= pdpte || (entry & PTE_RW);
        mapping.nx |= levels->entry_size == 8 && !pdpte && (entry & PTE_XD) && (tour->v->efer & EFER_NXE);
        if (levels->shift == PAGE_SHIFT || (levels->may_be_leaf && (entry & PTE_PS)))
            found(tour, &mapping, levels);
        else
            go(tour, levels + 1, levels->entry_size == 4 ? entry & 0xfffff000u : entry & PTE_ADDRESS, &mapping);
    }
}

static void go_all(struct tour *tour)
{
    static const struct level long_mode[] = {{39, 512, 8, false}, {30, 512, 8, true}, {21, 512, 8, true}, {12, 512, 8, true}};
    static const struct level pae[] = {{30, 4, 8, false}, {21, 512, 8, true}, {12, 512, 8, true}};
    static const struct level plain[] = {{22, 1024, 4, true}, {12, 1024, 4, true}};
    static const struct level plain_without_pse[] = {{22, 1024, 4, false}, {12, 1024, 4, true}};
    const struct vcpu *v = tour->v;
    const struct mapping all = {.user = true, .writable = true};
    if (vcpu_long_mode(v))
        go(tour, long_mode, v->cr3 & PTE_ADDRESS, &all);
    else if (v->cr4 & CR4_PAE)
        go(tour, pae, v->cr3 & 0xffffffe0u, &all);
    else
        go(tour, v->cr4 & CR4_PSE ? plain : plain_without_pse, v->cr3 & 0xfffff000u, &all);
}

static bool line_left(struct tour *tour)
{
    if (tour->lines >= LINES_MAX)
        tour->cut = true;
    else
        tour->lines++;
    return !tour->cut;
}

/* ---- info tlb ---- */

static void tlb_line(struct tour *tour, const struct mapping *m)
{
    if (!line_left(tour))
        return;
    const struct {
        uint64_t bit;
        char letter;
    } flags[] = {{PTE_XD, 'X'}, {PTE_G, 'G'}, {m->size > PAGE_SIZE ? PTE_PS : 0, 'P'}, {PTE_D, 'D'}, {PTE_A, 'A'},
                 {PTE_PCD, 'C'}, {PTE_PWT, 'T'}, {PTE_US, 'U'}, {PTE_RW, 'W'}};
    fprintf(tour->out, "%016" PRIx64 ": %016" PRIx64 " ", m->gva, m->gpa);
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        fputc(m->leaf & flags[i].bit ? flags[i].letter : '-', tour->out);
    fputc('\n', tour->out);
}

/* ---- info mem ---- */

static void mem_flush(struct tour *tour)
{
    const struct mapping *run = &tour->run;
    if (run->size == 0 || !line_left(tour))
        return;
    fprintf(tour->out, "%016" PRIx64 "-%016" PRIx64 " %016" PRIx64 " %cr%c%c\n", run->gva, run->gva + run->size, run->size,
            run->user ? 'u' : '-', run->writable ? 'w' : '-', run->nx ? '-' : 'x');
    tour->run.size = 0;
}

static void mem_page(struct tour *tour, const struct mapping *m)
{
    struct mapping *run = &tour->run;
    if (run->size != 0 && run->gva + run->size == m->gva && run->user == m->user && run->writable == m->writable &&
        run->nx == m->nx) {
        run->size += m->size;
        return;
    }
    mem_flush(tour);
    *run = *m;
}

static void tour_begin(struct call *call, void (*page)(struct tour *, const struct mapping *))
{
    struct tour tour = {.v = call->v, .out = call->out, .page = page};
    if (!(call->v->cr0 & CR0_PG)) {
        fputs("paging is off\n", call->out);
        return;
    }
    go_all(&tour);
    bool cut = tour.cut;
    tour.cut = false;
    mem_flush(&tour);
    if (cut)
        fputs("... and more\n", call->out);
}

void info_mem(struct call *call)
{
    tour_begin(call, mem_page);
}

void info_tlb(struct call *call)
{
    tour_begin(call, tlb_line);
}
