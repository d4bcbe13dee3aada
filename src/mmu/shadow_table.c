/* The flat tables and their islands.
 *
 * One reservation without access holds guard pages and the six tables: 2^36 entries of 8 bytes for each kind of access
 * of 64-bit code, 2^23 for each of 32-bit code. What is in use is an island: one host page of a table, made accessible
 * and filled with poison when the first entry in it is needed. Poison depends on the page, so that its sum with any
 * address of the page is the same guard address plus the offset within the page.
 *
 * The three tables of one width have their islands in common as a structure (which names the records, see
 * shadow_internal.h), but each has memory of its own only where it has entries: user pages do not appear in the table
 * of supervisor accesses under SMAP, and the other way round.
 *
 * The host may refuse memory or mappings at any time. Then an entry that should be is not: the access goes the slow
 * way, as it does for a device.
 */
#include "mmu/shadow_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GUARD_PAGES 16u
#define POISON_BIT 1u
/* Between tables, so that the entries of a page in the three of them do not have the same low bits: first-level caches
 * that look lines up by a hash of the linear address (AMD's) hold only one of them then. */
#define STAGGER (0x2d * PAGE_SIZE)

#define GUARD_SIZE (GUARD_PAGES * PAGE_SIZE)
#define RESERVED_SIZE (GUARD_SIZE + KINDS * (8 * (WIDE_INDICES + NARROW_PAGES) + 2 * STAGGER))

/* Address space without memory. */
static uint8_t *reserve(struct error *err)
{
    void *at = mmap(NULL, RESERVED_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED)
        return at;
    error_set(err, "the host does not give %llu GiB of address space for shadow page tables: %m (a limit of the shell, "
              "`ulimit -v`, may be in the way)", (unsigned long long)(RESERVED_SIZE / GiB));
    return NULL;
}

bool shadow_usable(struct error *why_not)
{
    uint8_t *at = reserve(why_not);
    if (at != NULL)
        munmap(at, RESERVED_SIZE);
    return at != NULL;
}

bool table_reserve(struct shadow *s, struct error *err)
{
    uint64_t guard_size = GUARD_SIZE;
    s->reserved_size = RESERVED_SIZE;
    s->reserved = reserve(err);
    if (s->reserved == NULL)
        return false;
    s->view[RIGHT_NONE] = (uint64_t)(uintptr_t)s->reserved + guard_size / 2 + POISON_BIT;
    uint8_t *at = s->reserved + guard_size;
    for (unsigned wide = 0; wide < 2; wide++)
        for (unsigned kind = 0; kind < KINDS; kind++) {
            s->table[wide][kind] = (uint64_t *)at;
            at += 8 * (wide ? WIDE_INDICES : NARROW_PAGES) + STAGGER;
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
    uint64_t number = key_island(key_make(page, wide, 0, 0));
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
    island->number = key_island(key_make(page, wide, 0, 0));
    for (unsigned kind = 0; kind < KINDS; kind++)
        island->chunk[kind] = s->nowhere;
    struct island **list = bucket(s, island->number);
    island->next = *list;
    *list = island;
    return s->last = island;
}

static bool island_populate(struct shadow *s, struct island *island, unsigned kind)
{
    uint64_t key = island->number << ISLAND_SHIFT; /* of the first page */
    uint64_t *entries = s->table[key_wide(key)][kind] + key_page(key);
    if (mprotect(entries, ISLAND_BYTES, PROT_READ | PROT_WRITE) != 0)
        return false;
    uint64_t value = s->view[RIGHT_NONE] - key_gva(key);
    for (unsigned i = 0; i < ISLAND_PAGES; i++)
        entries[i] = value - (uint64_t)i * PAGE_SIZE;
    island->chunk[kind] = entries;
    s->chunks++;
    s->count.islands++;
    return true;
}

bool table_touch(struct shadow *s, uint64_t page, bool wide, enum tlb_kind kind)
{
    struct island *island = island_get(s, page, wide);
    return island != NULL && (island->chunk[kind] != s->nowhere || island_populate(s, island, kind));
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

static bool is_empty(const struct island *island)
{
    uint32_t any = 0;
    for (unsigned i = 0; i < ISLAND_PAGES; i++)
        any |= island->ref[i];
    return any == 0;
}

void table_reclaim(struct shadow *s)
{
    s->last = NULL;
    for (unsigned i = 0; i < ISLAND_BUCKETS; i++) {
        for (struct island **list = &s->buckets[i]; *list != NULL;) {
            struct island *island = *list;
            if (!is_empty(island)) {
                list = &island->next;
                continue;
            }
            for (unsigned kind = 0; kind < KINDS; kind++) {
                if (island->chunk[kind] == s->nowhere)
                    continue;
                unmap(island->chunk[kind], ISLAND_BYTES);
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
    uint64_t key = record->key, poison = s->view[RIGHT_NONE] - key_gva(key);
    uint64_t to = ((uint64_t)record->frame << PAGE_SHIFT) - key_gva(key);
    const uint64_t entry[] = {poison, s->view[RIGHT_READ] + to, s->view[RIGHT_WRITE] + to};
    unsigned i = key & (ISLAND_PAGES - 1);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        enum right right = key_right(key, kind);
        if (unlikely(right != RIGHT_NONE && island->chunk[kind] == s->nowhere) && !island_populate(s, island, kind)) {
            record->key &= ~(3ull << (KEY_RIGHTS_SHIFT + 2 * kind));
            right = RIGHT_NONE;
        }
        island->chunk[kind][i] = entry[right];
    }
    frame_note_writer(s, island->ref[i], record);
}

void entries_clear(struct shadow *s, struct island *island, uint64_t key)
{
    uint64_t poison = s->view[RIGHT_NONE] - key_gva(key);
    unsigned i = key & (ISLAND_PAGES - 1);
    for (unsigned kind = 0; kind < KINDS; kind++)
        island->chunk[kind][i] = poison;
}
