/* The flat tables and their islands.
 *
 * One reservation without access holds guard pages and the six tables: 2^36 entries of 8 bytes for each kind of access of
 * 64-bit code, 2^23 for each of 32-bit code. What is in use is an island: one host page of a table, made accessible
 * and filled with poison when the first entry in it is needed. Poison depends on the page, so that its sum with any address
 * of the page is the same guard address plus the offset within the page.
 *
 * The three tables of one width have their islands in common as a structure (which names the records, see
 * shadow_internal.h), but each has memory of its own only where it has entries: user pages do not appear in the table of
 * supervisor accesses under SMAP, and the other way round.
 *
 * The host may refuse memory or mappings at any time. Then an entry that should be is not: the access goes the slow way, as
 * it does for a device.
 */
#include "mmu/shadow_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GUARD_PAGES 16u
#define POISON_BIT 1u

bool table_reserve(struct shadow *s, struct error *err)
{
    uint64_t guard_size = GUARD_PAGES * PAGE_SIZE;
    s->reserved_size = guard_size + KINDS * 8 * (WIDE_PAGES + NARROW_PAGES);
    s->reserved = mmap(NULL, s->reserved_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->reserved == MAP_FAILED) {
        s->reserved = NULL;
        return error_set(err, "the host does not give %llu GiB of address space for shadow page tables: %m",
                         (unsigned long long)(s->reserved_size / GiB));
    }
    s->guard = (uint64_t)(uintptr_t)s->reserved + guard_size / 2;
    uint8_t *at = s->reserved + guard_size;
    for (unsigned wide = 0; wide < 2; wide++)
        for (unsigned kind = 0; kind < KINDS; kind++) {
            s->table[wide][kind] = (uint64_t *)at;
            at += 8 * (wide ? WIDE_PAGES : NARROW_PAGES);
        }
    return true;
}

static void free_islands(struct shadow *s)
{
    for (unsigned i = 0; i < ISLAND_BUCKETS; i++) {
        for (struct island *island = s->buckets[i], *next; island != NULL; island = next) {
            next = island->next;
            free(island);
        }
        s->buckets[i] = NULL;
    }
    s->last = NULL;
    s->chunks = 0;
}

void table_release(struct shadow *s)
{
    free_islands(s);
    if (s->reserved != NULL)
        munmap(s->reserved, s->reserved_size);
}

/* ---- islands ---- */

static struct island **bucket(struct shadow *s, uint64_t number)
{
    return &s->buckets[(number ^ number >> 10 ^ number >> 20) & (ISLAND_BUCKETS - 1)];
}

struct island *island_find(struct shadow *s, uint64_t page, bool wide)
{
    uint64_t number = (page >> ISLAND_SHIFT) << 1 | wide;
    if (s->last != NULL && s->last->number == number)
        return s->last;
    for (struct island *island = *bucket(s, number); island != NULL; island = island->next)
        if (island->number == number)
            return s->last = island;
    return NULL;
}

struct island *island_get(struct shadow *s, uint64_t page, bool wide)
{
    struct island *island = island_find(s, page, wide);
    if (island != NULL)
        return island;
    island = calloc(1, sizeof *island);
    if (island == NULL)
        return NULL;
    island->number = (page >> ISLAND_SHIFT) << 1 | wide;
    struct island **list = bucket(s, island->number);
    island->next = *list;
    *list = island;
    return s->last = island;
}

static uint64_t *chunk(const struct shadow *s, const struct island *island, unsigned kind)
{
    return s->table[island->number & 1][kind] + (island->number >> 1 << ISLAND_SHIFT);
}

static uint64_t poison(const struct shadow *s, uint64_t page, bool wide)
{
    return s->guard + POISON_BIT - page_gva(page, wide);
}

static bool island_populate(struct shadow *s, struct island *island, unsigned kind)
{
    uint64_t *entries = chunk(s, island, kind);
    if (mprotect(entries, ISLAND_BYTES, PROT_READ | PROT_WRITE) != 0)
        return false;
    uint64_t value = poison(s, island->number >> 1 << ISLAND_SHIFT, island->number & 1);
    for (unsigned i = 0; i < ISLAND_PAGES; i++)
        entries[i] = value - (uint64_t)i * PAGE_SIZE;
    island->kinds |= (uint8_t)(1u << kind);
    s->chunks++;
    s->count.islands++;
    return true;
}

/* Back to what it was before it was used. */
static void unmap(void *at, uint64_t size)
{
    if (mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED)
        return;
    /* No mapping to spare. Zeros must not be readable; poison may stay. */
    if (mprotect(at, size, PROT_NONE) == 0)
        madvise(at, size, MADV_DONTNEED);
}

bool table_has_room(const struct shadow *s)
{
    return s->chunks + KINDS <= CHUNKS_MAX;
}

void table_reclaim(struct shadow *s)
{
    s->last = NULL;
    for (unsigned i = 0; i < ISLAND_BUCKETS; i++) {
        for (struct island **list = &s->buckets[i]; *list != NULL;) {
            struct island *island = *list;
            if (island->live != 0) {
                list = &island->next;
                continue;
            }
            for (unsigned kind = 0; kind < KINDS; kind++) {
                if (!(island->kinds & 1u << kind))
                    continue;
                unmap(chunk(s, island, kind), ISLAND_BYTES);
                s->chunks--;
            }
            *list = island->next;
            free(island);
        }
    }
}

void table_forget(struct shadow *s)
{
    uint8_t *tables = (uint8_t *)s->table[0][0];
    if (s->chunks != 0)
        unmap(tables, s->reserved_size - (uint64_t)(tables - s->reserved));
    free_islands(s);
}

/* ---- entries ---- */

void entries_write(struct shadow *s, struct island *island, struct record *record)
{
    gva_t gva = page_gva(record->page, record->wide);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        unsigned right = right_of(record->rights, kind);
        if (!(island->kinds & 1u << kind)) {
            if (right == RIGHT_NONE)
                continue;
            if (!island_populate(s, island, kind)) {
                record->rights &= ~(3u << 2 * kind);
                continue;
            }
        }
        uint64_t entry = right == RIGHT_NONE ? s->guard + POISON_BIT : s->view[right] + ((uint64_t)record->frame << PAGE_SHIFT);
        s->table[record->wide][kind][record->page] = entry - gva;
    }
    if (record->rights & RIGHTS_WRITE)
        s->written_to[record->frame / 64] |= 1ull << record->frame % 64;
}

void entries_clear(struct shadow *s, struct island *island, const struct record *record)
{
    uint64_t value = poison(s, record->page, record->wide);
    for (unsigned kind = 0; kind < KINDS; kind++)
        if (right_of(record->rights, kind) != RIGHT_NONE)
            s->table[record->wide][kind][record->page] = value;
}
