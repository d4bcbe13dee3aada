/* The guest's page tables that kept translations come from (policy proactive, without PCID).
 *
 * Each page that the walk went through on the way to an entry that is not global is watched, from the top table to the
 * leaf's. A "track" is one such page in one place of the hierarchy: its entries map consecutive pieces of the linear
 * address space from `base` on. It knows which of its entries have been used, and by which address spaces.
 *
 * A write to an entry that was never used takes nothing away: it is how a guest adds a page. A write to a used one
 * removes what it maps from the current address space, and drops the logs of the others that have used the table:
 * guests mostly change the tables that they run on. So what a log holds always agrees with the tables, and CR3 can be
 * loaded without forgetting anything.
 *
 * Each of these writes is slow, since the page is watched. A table that is written again and again without being used
 * in between is being filled, write-protected or torn down as a whole, or its page has become something else. Then all
 * that came from it goes, and it is left alone until it is used again.
 *
 * The accessed and dirty bits that the walk sets are not such writes: they take nothing away.
 *
 * One page may be several tables: at several places, or at several levels (a page directory that maps itself). Each is
 * a track of its own; they are found together, by the page.
 */
#include <stdlib.h>
#include <string.h>

#include "mmu/shadow_internal.h"

#define TRACKS_MAX 4096u /* beyond, everything starts over */
#define TRACK_BUCKETS 1024u
#define STREAK_MAX                                                                                                     \
    3u /* writes in a row, without use; measured: with 12 there are twice as many, for little more that is kept */
#define NONE 0xffffffffu

struct track {
    uint64_t gpfn;
    uint64_t base;     /* first page mapped, within the 2^36 */
    uint64_t spaces;   /* bit by number of shadow.spaces[] */
    uint64_t used[16]; /* bit by entry */
    uint32_t next;     /* in its bucket, or in the list of free ones */
    uint8_t shift;     /* an entry maps 1 << shift pages */
    uint8_t entry_size;
    uint8_t streak;
    bool live;
};
_Static_assert(SPACES <= 64, "a bit each");

struct shadow_tracker {
    uint32_t count; /* of tracks that have ever been used */
    uint32_t live;
    uint32_t free;
    uint32_t buckets[TRACK_BUCKETS];
    struct track tracks[TRACKS_MAX];
};

struct shadow_tracker *tracker_create(struct shadow *s)
{
    struct shadow_tracker *t = calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    memset(t->buckets, 0xff, sizeof t->buckets);
    t->free = NONE;
    return t;
}

void tracker_destroy(struct shadow *s)
{
    free(s->tracker);
}

static uint32_t *bucket(struct shadow_tracker *t, uint64_t gpfn)
{
    return &t->buckets[(gpfn ^ gpfn >> 10) & (TRACK_BUCKETS - 1)];
}

static bool page_is_tracked(const struct shadow_tracker *t, uint64_t gpfn)
{
    for (uint32_t i = *bucket((struct shadow_tracker *)t, gpfn); i != NONE; i = t->tracks[i].next)
        if (t->tracks[i].gpfn == gpfn)
            return true;
    return false;
}

/* Forgets the track, not what came from it. */
static void track_remove(struct shadow *s, struct track *track)
{
    struct shadow_tracker *t = s->tracker;
    uint32_t number = (uint32_t)(track - t->tracks), *link = bucket(t, track->gpfn);
    while (*link != number)
        link = &t->tracks[*link].next;
    *link = track->next;
    track->next = t->free;
    track->live = false;
    t->free = number;
    t->live--;
    if (!page_is_tracked(t, track->gpfn))
        memory_unwatch(s->v->memory, track->gpfn, PAGE_TABLE);
}

void tracker_forget_all(struct shadow *s)
{
    struct shadow_tracker *t = s->tracker;
    for (uint32_t i = 0; i < t->count; i++)
        if (t->tracks[i].live)
            memory_unwatch(s->v->memory, t->tracks[i].gpfn, PAGE_TABLE);
    memset(t->buckets, 0xff, sizeof t->buckets);
    t->count = t->live = 0;
    t->free = NONE;
}

void tracker_forget_space(struct shadow *s, const struct space *space)
{
    struct shadow_tracker *t = s->tracker;
    uint64_t bit = 1ull << (space - s->spaces);
    for (uint32_t i = 0; i < t->count; i++) {
        struct track *track = &t->tracks[i];
        if (!track->live || !(track->spaces & bit))
            continue;
        track->spaces &= ~bit;
        if (track->spaces == 0)
            track_remove(s, track);
    }
}

/* ---- use ---- */

static struct track *track_find(struct shadow_tracker *t, uint64_t gpfn, uint64_t base, unsigned shift)
{
    for (uint32_t i = *bucket(t, gpfn); i != NONE; i = t->tracks[i].next) {
        struct track *track = &t->tracks[i];
        if (track->gpfn == gpfn && track->base == base && track->shift == shift)
            return track;
    }
    return NULL;
}

static struct track *track_add(struct shadow *s, uint64_t gpfn, uint64_t base, unsigned shift, unsigned entry_size)
{
    struct shadow_tracker *t = s->tracker;
    uint32_t number = t->free;
    if (number != NONE)
        t->free = t->tracks[number].next;
    else
        number = t->count++;
    t->live++;
    struct track *track = &t->tracks[number];
    uint32_t *list = bucket(t, gpfn);
    *track = (struct track){.gpfn = gpfn,
                            .base = base,
                            .shift = (uint8_t)shift,
                            .entry_size = (uint8_t)entry_size,
                            .next = *list,
                            .live = true};
    *list = number;
    s->count.tracked_pages++;
    memory_watch(s->v->memory, gpfn, PAGE_TABLE);
    mmu_stop_plain_writes(s->v, gpfn << PAGE_SHIFT);
    return track;
}

void tracker_use(struct shadow *s, gva_t gva, const struct walk *walk)
{
    struct shadow_tracker *t = s->tracker;
    if (walk->entry_count == 0 || (s->v->cr4 & CR4_PCIDE))
        return;
    if (t->live + walk->entry_count > TRACKS_MAX)
        shadow_flush_non_global(s->v);
    unsigned index_bits = walk->entry_size == 8 ? 9 : 10;
    uint64_t page = gva >> PAGE_SHIFT & (WIDE_PAGES - 1);
    unsigned shift = 0; /* of the leaf's table */
    for (uint64_t size = PAGE_SIZE; size < walk->size; size *= 2)
        shift++;
    for (unsigned i = walk->entry_count; i-- > 0; shift += index_bits) {
        uint64_t gpfn = walk->entry_gpa[i] >> PAGE_SHIFT, base = page >> (shift + index_bits) << (shift + index_bits);
        struct track *track = track_find(t, gpfn, base, shift);
        if (track == NULL)
            track = track_add(s, gpfn, base, shift, walk->entry_size);
        unsigned entry = (unsigned)(walk->entry_gpa[i] & PAGE_OFFSET_MASK) / walk->entry_size;
        track->used[entry / 64] |= 1ull << entry % 64;
        track->spaces |= 1ull << (s->current - s->spaces);
        track->streak = 0;
    }
}

/* ---- writes ---- */

static void remove_mapped(struct shadow *s, uint64_t spaces, uint64_t page, uint64_t count)
{
    uint64_t current = 1ull << (s->current - s->spaces);
    if (spaces & current) {
        current_remove(s, page, count);
        fetch_remove(s, page, count, LEAF_4K);
    }
    for (unsigned i = 0; i < SPACES; i++)
        if (spaces & ~current & 1ull << i)
            space_drop(s, &s->spaces[i]);
}

/* False: the track is gone, and perhaps others. */
static bool track_written(struct shadow *s, struct track *track, unsigned first, unsigned last)
{
    uint64_t spaces = track->spaces, base = track->base;
    unsigned shift = track->shift;
    if (++track->streak > STREAK_MAX) {
        uint64_t count = (uint64_t)(PAGE_SIZE / track->entry_size) << shift;
        track_remove(s, track);
        remove_mapped(s, spaces, base, count);
        return false;
    }
    uint64_t others = spaces & ~(1ull << (s->current - s->spaces));
    for (unsigned entry = first; entry <= last; entry++) {
        uint64_t *word = &track->used[entry / 64], bit = 1ull << entry % 64;
        if (!(*word & bit))
            continue;
        *word &= ~bit;
        remove_mapped(s, spaces, base + ((uint64_t)entry << shift), 1ull << shift);
        if (others != 0)
            return false;
    }
    return true;
}

void shadow_table_written(struct vcpu *v, gpa_t gpa, unsigned size)
{
    struct shadow *s = v->mmu_shadow;
    uint64_t gpfn = gpa >> PAGE_SHIFT;
    if (s == NULL || s->tracker == NULL) {
        memory_unwatch(v->memory, gpfn, PAGE_TABLE);
        return;
    }
    struct shadow_tracker *t = s->tracker;
    s->count.tracked_writes++;
    unsigned off = (unsigned)(gpa & PAGE_OFFSET_MASK);
    /* Dropping an address space may take any track away: then look again from the start. What was done stays done, and
     * each round drops something, so it ends. */
    for (uint32_t i = *bucket(t, gpfn); i != NONE;) {
        struct track *track = &t->tracks[i];
        unsigned first = off / track->entry_size, last = (off + size - 1) / track->entry_size;
        uint32_t next = track->next;
        if (track->gpfn == gpfn && !track_written(s, track, first, last))
            next = *bucket(t, gpfn);
        i = next;
    }
    if (!page_is_tracked(t, gpfn))
        memory_unwatch(v->memory, gpfn, PAGE_TABLE);
}
