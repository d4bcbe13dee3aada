/* Logs: what the tables hold, and for which address space.
 *
 * A log is an array of records without order; a record that goes is replaced by the last one. Islands name the
 * records of the current address space and of global pages by their place in the log, so that a page's record is
 * found, and removed, at once. Leaving an address space walks over its log and poisons its entries; entering one
 * writes them. Its log meanwhile is only memory: what invalidates translations of an address space that is not the
 * current one edits the log.
 *
 * What a kept record says may have become wrong for reasons that are not the guest's: its page may be watched now. So
 * whether a page is watched is looked at again when an entry is written back. Changes of the memory map drop all logs.
 *
 * Under the policy proactive a log outlives the flush of its address space: it then says only which pages have been
 * used, and everything else is read from the guest's tables before they come back. Watching the page tables instead,
 * so that logs are always right, was tried: a Linux guest that forks and runs programs makes 340 writes to watched
 * tables for each program, 1.6 s in 450 programs; reading 124,000 entries again is 4 ms.
 *
 * All logs together are bounded; the least recently used address space goes first.
 */
#include "mmu/shadow_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "cpu/crew.h"

#define LOG_FIRST 64u    /* records that a log begins with */
#define REREAD_MAX 8192u /* entries; more would hold up a switch for too long */

/* ---- the memory of logs ---- */

static void log_free(struct shadow *s, struct space *space)
{
    free(space->records);
    s->capacity -= space->capacity;
    space->records = NULL;
    space->count = space->capacity = 0;
}

static struct space *least_recently_used(struct shadow *s)
{
    struct space *oldest = NULL;
    for (unsigned i = 0; i < SPACES; i++) {
        struct space *space = &s->spaces[i];
        if (space != s->current && space->tag != SPACE_FREE && (oldest == NULL || space->last_used < oldest->last_used))
            oldest = space;
    }
    return oldest;
}

/* Makes room for one more record. False: there is none. */
static bool log_grow(struct shadow *s, struct space *space)
{
    if (space->count < space->capacity)
        return true;
    uint32_t more = space->capacity == 0 ? LOG_FIRST : space->capacity;
    struct space *oldest;
    while (s->capacity + more > RECORDS_MAX && (oldest = least_recently_used(s)) != NULL)
        space_drop(s, oldest);
    if (s->capacity + more > RECORDS_MAX)
        return false;
    struct record *records = realloc(space->records, (space->capacity + more) * sizeof *records);
    if (records == NULL)
        return false;
    space->records = records;
    space->capacity += more;
    s->capacity += more;
    return true;
}

/* ---- records in the tables ---- */

struct record *record_find(struct shadow *s, uint64_t page, bool wide)
{
    struct island *island = island_find(s, page, wide);
    uint32_t ref = island == NULL ? 0 : island->ref[page & (ISLAND_PAGES - 1)];
    return ref == 0 ? NULL : record_of(s, ref);
}

static uint32_t *ref_of(struct island *island, uint64_t key)
{
    return &island->ref[key & (ISLAND_PAGES - 1)];
}

/* The last record of the log moves to the place of the one that goes. */
static void log_remove(struct shadow *s, struct space *log, uint32_t at, bool in_tables)
{
    struct record *last = &log->records[--log->count];
    if (last == &log->records[at])
        return;
    log->records[at] = *last;
    if (!in_tables)
        return;
    struct island *island = island_find(s, key_page(last->key), key_wide(last->key));
    check(island != NULL);
    uint32_t *ref = ref_of(island, last->key), moved = (at + 1) | (*ref & REF_GLOBAL);
    if (s->writers[last->frame] == *ref)
        s->writers[last->frame] = moved;
    *ref = moved;
}

static void ref_remove(struct shadow *s, struct island *island, uint32_t ref)
{
    uint64_t key = record_of(s, ref)->key;
    entries_clear(s, island, key);
    *ref_of(island, key) = 0;
    log_remove(s, log_of(s, ref), (ref & ~REF_GLOBAL) - 1, true);
}

static bool make_room(struct shadow *s, struct space *log, bool may_evict)
{
    if (!table_has_room(s)) {
        table_reclaim(s);
        if (!table_has_room(s)) {
            if (!may_evict)
                return false;
            shadow_evict(s);
        }
    }
    if (log_grow(s, log))
        return true;
    if (!may_evict)
        return false;
    shadow_evict(s);
    log_free(s, s->current);
    log_free(s, &s->global);
    return log_grow(s, log);
}

bool record_enter(struct shadow *s, const struct record *record, enum tlb_kind for_kind, bool global, bool may_evict)
{
    struct space *log = global ? &s->global : s->current;
    if (!make_room(s, log, may_evict))
        return false;
    struct island *island = island_get(s, key_page(record->key), key_wide(record->key));
    if (island == NULL)
        return false;
    uint32_t *ref = ref_of(island, record->key);
    if (*ref != 0 && log_of(s, *ref) != log)
        ref_remove(s, island, *ref);
    if (*ref == 0)
        *ref = ++log->count | (global ? REF_GLOBAL : 0);
    *record_of(s, *ref) = *record;
    island->large |= key_size(record->key) != LEAF_4K;
    for (unsigned kind = 0; kind < KINDS; kind++) /* elsewhere an entry is not worth a chunk before it is asked for */
        if (kind != for_kind && island->chunk[kind] == s->nowhere)
            record_of(s, *ref)->key &= ~((uint64_t)3 << (KEY_RIGHTS_SHIFT + 2 * kind));
    entries_write(s, island, record_of(s, *ref));
    return true;
}

void records_remove(struct shadow *s, uint64_t page, uint64_t count, bool wide, enum leaf_size size)
{
    for (uint64_t end = page + count; page < end;) {
        struct island *island = island_find(s, page, wide);
        uint64_t next = (page | (ISLAND_PAGES - 1)) + 1;
        if (next > end)
            next = end;
        if (island != NULL && (size == LEAF_4K || island->large)) {
            for (; page < next; page++) {
                uint32_t ref = island->ref[page & (ISLAND_PAGES - 1)];
                if (ref != 0 && key_size(record_of(s, ref)->key) >= size)
                    ref_remove(s, island, ref);
            }
        }
        page = next;
    }
}

static void ref_stop_writes(struct shadow *s, uint32_t ref, uint32_t frame)
{
    if (!is_writer(s, ref, frame))
        return;
    struct record *record = record_of(s, ref);
    record->key = key_without_write(record->key);
    entries_write(s, island_find(s, key_page(record->key), key_wide(record->key)), record);
}

void records_stop_writes(struct shadow *s, uint32_t frame)
{
    uint32_t writer = s->writers[frame];
    s->writers[frame] = 0;
    if (writer != 0 && writer != WRITERS_MANY)
        ref_stop_writes(s, writer, frame);
    if (writer != WRITERS_MANY)
        return;
    for (uint32_t i = 0; i < s->current->count; i++)
        if (unlikely(s->current->records[i].frame == frame))
            ref_stop_writes(s, i + 1, frame);
    for (uint32_t i = 0; i < s->global.count; i++)
        if (unlikely(s->global.records[i].frame == frame))
            ref_stop_writes(s, (i + 1) | REF_GLOBAL, frame);
}

/* ---- fetch slots ---- */

static unsigned fetch_slot(uint64_t page)
{
    return page & (SHADOW_FETCH_SLOTS - 1);
}

static void fetch_clear(struct shadow *s, unsigned slot)
{
    s->fetch[slot] = 0;
    s->fetch_keys[slot].used = 0;
}

void fetch_remove(struct shadow *s, uint64_t page, uint64_t count, enum leaf_size size)
{
    if (count >= SHADOW_FETCH_SLOTS) {
        for (unsigned slot = 0; slot < SHADOW_FETCH_SLOTS; slot++)
            if (s->fetch_keys[slot].used && s->fetch_keys[slot].page - page < count && s->fetch_keys[slot].size >= size)
                fetch_clear(s, slot);
        return;
    }
    for (; count > 0; count--, page++) {
        unsigned slot = fetch_slot(page);
        if (s->fetch_keys[slot].used && s->fetch_keys[slot].page == page && s->fetch_keys[slot].size >= size)
            fetch_clear(s, slot);
    }
}

static void fetch_enter(struct shadow *s, struct fetch_key key, uint64_t identity)
{
    unsigned slot = fetch_slot(key.page);
    key.used = 1;
    key.listed = s->fetch_keys[slot].listed;
    if (!key.global && !key.listed) {
        s->fetch_list[s->fetch_listed++] = (uint16_t)slot;
        key.listed = 1;
    }
    s->fetch_keys[slot] = key;
    s->fetch[slot] = identity;
}

void shadow_fetch_set(struct vcpu *v, gva_t gva, uint64_t identity, const struct walk *walk)
{
    struct shadow *s = v->mmu_shadow;
    struct fetch_key key = {.page = gva >> PAGE_SHIFT & (WIDE_PAGES - 1),
                            .size = shadow_leaf_size(walk),
                            .global = shadow_is_global(v, walk)};
    shadow_note_large(s, gva, walk);
    fetch_enter(s, key, identity);
}

/* Takes the current space's slots away, into its log if `keep`. */
static void fetch_leave(struct shadow *s, bool keep)
{
    struct space *space = s->current;
    keep = keep && s->fetch_listed != 0 && (space->fetch = malloc(s->fetch_listed * sizeof *space->fetch)) != NULL;
    for (uint32_t i = 0; i < s->fetch_listed; i++) {
        unsigned slot = s->fetch_list[i];
        struct fetch_key key = s->fetch_keys[slot];
        s->fetch_keys[slot].listed = 0;
        if (!key.used || key.global)
            continue;
        if (keep)
            space->fetch[space->fetch_count++] = (struct fetch_record){.key = key, .identity = s->fetch[slot]};
        fetch_clear(s, slot);
    }
    s->fetch_listed = 0;
}

static void fetch_restore(struct shadow *s)
{
    struct space *space = s->current;
    for (uint32_t i = 0; i < space->fetch_count; i++)
        if (!s->fetch_keys[fetch_slot(space->fetch[i].key.page)].used)
            fetch_enter(s, space->fetch[i].key, space->fetch[i].identity);
    free(space->fetch);
    space->fetch = NULL;
    space->fetch_count = 0;
}

static void fetch_clear_global(struct shadow *s)
{
    for (unsigned slot = 0; slot < SHADOW_FETCH_SLOTS; slot++)
        if (s->fetch_keys[slot].used && s->fetch_keys[slot].global)
            fetch_clear(s, slot);
}

/* ---- address spaces ---- */

/* Switching is two loops over logs. Both remember the island that they are in, and do by themselves what is usual. */
struct place {
    uint64_t number; /* of the island */
    struct island *island;
    uint64_t *chunk[KINDS];
    unsigned there; /* RIGHT_READ of the kinds whose chunk exists */
};
#define NO_PLACE UINT64_MAX

static void place_set(const struct shadow *s, struct place *place, struct island *island)
{
    *place = (struct place){.number = island->number, .island = island};
    for (unsigned kind = 0; kind < KINDS; kind++) {
        place->chunk[kind] = island->chunk[kind];
        if (island->chunk[kind] != s->nowhere)
            place->there |= (unsigned)RIGHT_READ << 2 * kind;
    }
}

static void entries_leave(struct shadow *s, struct space *log)
{
    struct place place = {.number = NO_PLACE};
    for (uint32_t n = 0; n < log->count; n++) {
        uint64_t key = log->records[n].key, poison = s->view[RIGHT_NONE] - key_gva(key);
        if (key_island(key) != place.number)
            place_set(s, &place, island_find(s, key_page(key), key_wide(key)));
        unsigned i = key & (ISLAND_PAGES - 1);
        for (unsigned kind = 0; kind < KINDS; kind++)
            place.chunk[kind][i] = poison;
        place.island->ref[i] = 0;
    }
}

/* The island for a record that is to come back. NULL: there is no room. */
static struct island *place_get(struct shadow *s, struct place *place, uint64_t key)
{
    place->number = NO_PLACE;
    if (!table_has_room(s))
        table_reclaim(s);
    struct island *island = table_has_room(s) ? island_get(s, key_page(key), key_wide(key)) : NULL;
    if (island != NULL)
        place_set(s, place, island);
    return island;
}

/* What the guest's tables say now about the page of a record of the current space. `*table` and `*table_gva` are the
 * last page walked to, so that its neighbours need no walk. False: nothing that may be entered without an access. */
static bool record_reread(struct shadow *s, struct record *record, struct walk *table, gva_t *table_gva)
{
    struct vcpu *v = s->v;
    uint64_t key = record->key;
    gva_t gva = key_gva(key);
    struct walk walk;
    int64_t distance = (int64_t)(gva - *table_gva) / (int64_t)PAGE_SIZE;
    bool near = table->entry_count != 0 && distance > -(int64_t)ISLAND_PAGES && distance < (int64_t)ISLAND_PAGES;
    if (!near || !walk_sibling(v, *table_gva, table, (int)distance, &walk)) {
        uint32_t error;
        if (!walk_page_tables(v, gva, 0, true, &walk, &error) || !walk.accessed)
            return false;
        *table = walk;
        *table_gva = gva;
    }
    struct page_backing page = memory_page(v->memory, walk.gpa);
    if (page.kind != PAGE_RAM || shadow_is_global(v, &walk))
        return false;
    shadow_note_large(s, gva, &walk);
    *record = shadow_record(v, gva, key_wide(key), &walk, &page);
    for (unsigned kind = 0; kind < KINDS; kind++) /* for whom it was before */
        if (key_right(key, kind) == RIGHT_NONE)
            record->key &= ~(3ull << (KEY_RIGHTS_SHIFT + 2 * kind));
    return (record->key >> KEY_RIGHTS_SHIFT) != 0;
}

static void log_reread(struct shadow *s, struct space *space)
{
    struct walk table = {.entry_count = 0};
    gva_t table_gva = 0;
    for (uint32_t i = 0; i < space->count;) {
        if (record_reread(s, &space->records[i], &table, &table_gva))
            i++;
        else
            log_remove(s, space, i, false);
    }
    s->count.entries_reread += space->count;
}

/* Writes what the current space's log says into the tables. */
static void entries_enter(struct shadow *s)
{
    struct space *log = s->current;
    struct place place = {.number = NO_PLACE};
    for (uint32_t n = 0; n < log->count;) {
        struct record *record = &log->records[n];
        uint64_t key = record->key;
        unsigned i = key & (ISLAND_PAGES - 1);
        if ((key_island(key) != place.number && place_get(s, &place, key) == NULL) ||
            place.island->ref[i] != 0) { /* or a global page is there now */
            log_remove(s, log, n, false);
            continue;
        }
        if ((key & KEY_RIGHTS_WRITE) && unlikely(!crew_may_write(s->v, &s->page_flags[record->frame])))
            record->key = key = key_without_write(key);
        place.island->ref[i] = ++n;
        place.island->large |= key_size(key) != LEAF_4K;
        unsigned rights = (unsigned)(key >> KEY_RIGHTS_SHIFT);
        if (unlikely((rights | rights >> 1) & ~place.there & RIGHTS_ANY)) {
            entries_write(s, place.island, record);
            place_set(s, &place, place.island);
            continue;
        }
        uint64_t gva = key_gva(key), to = (uint64_t)record->frame << PAGE_SHIFT;
        for (unsigned kind = 0; kind < KINDS; kind++) {
            enum right right = key_right(key, kind);
            place.chunk[kind][i] = s->view[right] + (right == RIGHT_NONE ? 0 : to) - gva;
        }
        frame_note_writer(s, n, record);
    }
    s->count.entries_restored += log->count;
}

void space_clear(struct shadow *s, struct space *space)
{
    if (space == s->current || space == &s->global)
        entries_leave(s, space);
    if (space == s->current)
        fetch_leave(s, false);
    if (space == &s->global)
        fetch_clear_global(s);
    space->count = 0;
}

void space_drop(struct shadow *s, struct space *space)
{
    log_free(s, space);
    free(space->fetch);
    space->fetch = NULL;
    space->fetch_count = 0;
    space->tag = SPACE_FREE;
}

struct space *space_find(struct shadow *s, uint64_t tag)
{
    for (unsigned i = 0; i < SPACES; i++)
        if (s->spaces[i].tag == tag)
            return &s->spaces[i];
    return NULL;
}

void space_leave(struct shadow *s)
{
    struct space *space = s->current;
    entries_leave(s, space);
    fetch_leave(s, true);
    space->last_used = s->clock;
    s->current = NULL;
}

void space_enter(struct shadow *s, uint64_t tag, bool reread)
{
    check(s->current == NULL);
    s->clock++;
    struct space *space = space_find(s, tag);
    if (space == NULL)
        space = space_find(s, SPACE_FREE);
    if (space == NULL) {
        space = least_recently_used(s);
        space_drop(s, space);
    }
    space->tag = tag;
    s->current = space;
    if (reread && space->count > REREAD_MAX)
        space->count = 0;
    if (reread) {
        space->fetch_count = 0;
        log_reread(s, space);
    }
    entries_enter(s);
    fetch_restore(s);
}

void space_remove_page(struct shadow *s, struct space *space, uint64_t page)
{
    for (uint32_t i = 0; i < space->count;) {
        uint64_t key = space->records[i].key;
        if (((key_page(key) ^ page) & ~(large_pages(key_size(key)) - 1)) == 0)
            log_remove(s, space, i, false);
        else
            i++;
    }
    for (uint32_t i = 0; i < space->fetch_count;) {
        struct fetch_key key = space->fetch[i].key;
        if (((key.page ^ page) & ~(large_pages(key.size) - 1)) == 0)
            space->fetch[i] = space->fetch[--space->fetch_count];
        else
            i++;
    }
}

void shadow_evict(struct shadow *s)
{
    s->count.evictions++;
    space_clear(s, s->current);
    space_clear(s, &s->global);
    table_forget(s);
}
