/* Logs: what the tables hold, and for which address space.
 *
 * A log is an array of records without order; a record that goes is replaced by the last one. Islands name the
 * records of the current address space and of global pages by their place in the log, so that a page's record is found, and
 * removed, at once. Leaving an address space walks over its log and poisons its entries; entering one writes them. Its log
 * meanwhile is only memory: what invalidates translations of an address space that is not the current one edits the log.
 *
 * What a kept record says may have become wrong for reasons that are not the guest's: its page may be watched now. So
 * whether a page is watched is looked at again when an entry is written back. Changes of the memory map drop all logs.
 *
 * All logs together are bounded; the least recently used address space goes first.
 */
#include "mmu/shadow_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define LOG_FIRST 64u /* records that a log begins with */

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

static struct space *log_of(struct shadow *s, uint32_t ref)
{
    return ref & REF_GLOBAL ? &s->global : s->current;
}

static struct record *record_of(struct shadow *s, uint32_t ref)
{
    return &log_of(s, ref)->records[(ref & ~REF_GLOBAL) - 1];
}

struct record *record_find(struct shadow *s, uint64_t page, bool wide)
{
    struct island *island = island_find(s, page, wide);
    uint32_t ref = island == NULL ? 0 : island->ref[page & (ISLAND_PAGES - 1)];
    return ref == 0 ? NULL : record_of(s, ref);
}

static void island_forget(struct island *island, const struct record *record)
{
    island->ref[record->page & (ISLAND_PAGES - 1)] = 0;
    island->live--;
    island->large -= record->size != LEAF_4K;
}

static void island_remember(struct island *island, const struct record *record, uint32_t ref)
{
    island->ref[record->page & (ISLAND_PAGES - 1)] = ref;
    island->live++;
    island->large += record->size != LEAF_4K;
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
    struct island *island = island_find(s, last->page, last->wide);
    check(island != NULL);
    island->ref[last->page & (ISLAND_PAGES - 1)] = (at + 1) | (log == &s->global ? REF_GLOBAL : 0);
}

static void ref_remove(struct shadow *s, struct island *island, uint32_t ref)
{
    struct record *record = record_of(s, ref);
    entries_clear(s, island, record);
    island_forget(island, record);
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

bool record_enter(struct shadow *s, const struct record *record, bool global, bool may_evict)
{
    struct space *log = global ? &s->global : s->current;
    if (!make_room(s, log, may_evict))
        return false;
    struct island *island = island_get(s, record->page, record->wide);
    if (island == NULL)
        return false;
    uint32_t *ref = &island->ref[record->page & (ISLAND_PAGES - 1)];
    if (*ref != 0 && log_of(s, *ref) != log)
        ref_remove(s, island, *ref);
    if (*ref == 0) {
        log->records[log->count++] = *record;
        island_remember(island, record, log->count | (global ? REF_GLOBAL : 0));
    } else {
        struct record *old = record_of(s, *ref);
        island->large -= old->size != LEAF_4K;
        island->large += record->size != LEAF_4K;
        *old = *record;
    }
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
        if (island != NULL && (size == LEAF_4K ? island->live : island->large) != 0) {
            for (; page < next; page++) {
                uint32_t ref = island->ref[page & (ISLAND_PAGES - 1)];
                if (ref != 0 && record_of(s, ref)->size >= size)
                    ref_remove(s, island, ref);
            }
        }
        page = next;
    }
}

void current_remove(struct shadow *s, uint64_t page, uint64_t count)
{
    if (count <= s->current->count + ISLAND_PAGES) {
        records_remove(s, page, count, true, LEAF_4K);
        if (page < NARROW_USED)
            records_remove(s, page, count, false, LEAF_4K);
        return;
    }
    for (uint32_t i = 0; i < s->current->count;) {
        const struct record *record = &s->current->records[i];
        if (record->page - page < count)
            ref_remove(s, island_find(s, record->page, record->wide), i + 1);
        else
            i++;
    }
}

static void log_stop_writes(struct shadow *s, struct space *log, uint32_t frame)
{
    for (uint32_t i = 0; i < log->count; i++) {
        struct record *record = &log->records[i];
        if (record->frame != frame || !(record->rights & RIGHTS_WRITE))
            continue;
        record->rights = (record->rights & ~RIGHTS_WRITE) | (record->rights & RIGHTS_WRITE) >> 1;
        entries_write(s, island_find(s, record->page, record->wide), record);
    }
}

void records_stop_writes(struct shadow *s, uint32_t frame)
{
    uint64_t *word = &s->written_to[frame / 64], bit = 1ull << frame % 64;
    if (!(*word & bit))
        return;
    *word &= ~bit;
    log_stop_writes(s, s->current, frame);
    log_stop_writes(s, &s->global, frame);
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
    if (s->tracker != NULL && !key.global)
        tracker_use(s, gva, walk);
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

static void entries_leave(struct shadow *s, struct space *log)
{
    for (uint32_t i = 0; i < log->count; i++) {
        const struct record *record = &log->records[i];
        struct island *island = island_find(s, record->page, record->wide);
        entries_clear(s, island, record);
        island_forget(island, record);
    }
}

void space_clear(struct shadow *s, struct space *space)
{
    if (space == s->current || space == &s->global)
        entries_leave(s, space);
    if (space == s->current)
        fetch_leave(s, false);
    if (space == &s->global)
        fetch_clear_global(s);
    else if (s->tracker != NULL)
        tracker_forget_space(s, space);
    space->count = 0;
}

void space_drop(struct shadow *s, struct space *space)
{
    log_free(s, space);
    free(space->fetch);
    space->fetch = NULL;
    space->fetch_count = 0;
    space->tag = SPACE_FREE;
    if (s->tracker != NULL)
        tracker_forget_space(s, space);
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

void space_enter(struct shadow *s, uint64_t tag)
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
    for (uint32_t i = 0; i < space->count;) {
        struct record *record = &space->records[i];
        if (!table_has_room(s))
            table_reclaim(s);
        struct island *island = table_has_room(s) ? island_get(s, record->page, record->wide) : NULL;
        if (island == NULL || island->ref[record->page & (ISLAND_PAGES - 1)] != 0) { /* or a global page is there now */
            log_remove(s, space, i, false);
            continue;
        }
        if ((record->rights & RIGHTS_WRITE) && frame_is_watched(s, record->frame))
            record->rights = (record->rights & ~RIGHTS_WRITE) | (record->rights & RIGHTS_WRITE) >> 1;
        i++;
        island_remember(island, record, i);
        entries_write(s, island, record);
        s->count.entries_restored++;
    }
    fetch_restore(s);
}

void space_remove_page(struct shadow *s, struct space *space, uint64_t page)
{
    for (uint32_t i = 0; i < space->count;) {
        const struct record *record = &space->records[i];
        if (((record->page ^ page) & ~(large_pages(record->size) - 1)) == 0)
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
