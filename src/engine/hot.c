/* See hot.h. Open addressing: a place is looked for in PROBES slots behind its hash, and has no room if they are all
 * somebody else's. Nothing is ever removed, so a free slot ends the search. */
#include "engine/hot.h"

#include <stdlib.h>
#include <string.h>

#include "mmu/access.h"

#define PROBES 64u

struct hot *hot_create(void)
{
    return calloc(1, sizeof(struct hot));
}

void hot_destroy(struct hot *hot)
{
    free(hot);
}

static uint64_t place_hash(const struct hot_place *p)
{
    uint64_t h = p->rip ^ p->cr3 << 20 ^ (uint64_t)p->what << 56 ^ (uint64_t)p->mode << 52;
    h *= 0x9e3779b97f4a7c15ull; /* Fibonacci hashing (Knuth vol. 3, 6.4) */
    return h >> 40;
}

static bool place_is(const struct hot_place *a, const struct hot_place *b)
{
    return a->rip == b->rip && a->cr3 == b->cr3 && a->what == b->what && a->mode == b->mode &&
           a->code_mode == b->code_mode;
}

void hot_add(struct hot *hot, const struct hot_place *place)
{
    uint64_t hash = place_hash(place);
    for (unsigned i = 0; i < PROBES; i++) {
        struct hot_place *slot = &hot->places[(hash + i) & (HOT_SIZE - 1)];
        if (slot->count == 0) {
            *slot = *place;
            hot->used++;
            return;
        }
        if (place_is(slot, place)) {
            slot->count += place->count;
            slot->ns += place->ns;
            slot->gpa = place->gpa;
            return;
        }
    }
    hot->others += place->count;
    hot->others_ns += place->ns;
}

static uint64_t space_of(const struct vcpu *v, enum exit_mode mode)
{
    return mode == EXIT_MODE_USER || mode == EXIT_MODE_V86 ? v->cr3 : 0;
}

void hot_exit(struct hot *hot, const struct vcpu *v, const struct exit *exit, uint64_t ns)
{
    hot_add(hot, &(struct hot_place){.rip = exit->rip,
                                     .cr3 = space_of(v, exit->mode),
                                     .gpa = UINT64_MAX,
                                     .count = 1,
                                     .ns = ns,
                                     .what = (uint8_t)exit->reason,
                                     .mode = (uint8_t)exit->mode,
                                     .code_mode = v->code_mode});
}

void hot_sample(struct hot *hot, struct vcpu *v)
{
    enum exit_mode mode = vcpu_exit_mode(v);
    gpa_t gpa;
    gva_t gva = v->code_mode == CODE_64 ? v->rip : (uint32_t)(v->seg[SEG_CS].base + v->rip);
    if (!mmu_peek(v, gva, &gpa))
        gpa = UINT64_MAX;
    hot->samples[mode]++;
    hot_add(hot, &(struct hot_place){.rip = gva,
                                     .cr3 = space_of(v, mode),
                                     .gpa = gpa,
                                     .count = 1,
                                     .what = HOT_SAMPLE,
                                     .mode = (uint8_t)mode,
                                     .code_mode = v->code_mode});
}

void hot_merge(struct hot *to, const struct hot *from)
{
    for (size_t i = 0; i < HOT_SIZE; i++)
        if (from->places[i].count != 0)
            hot_add(to, &from->places[i]);
    for (unsigned mode = 0; mode < EXIT_MODE_COUNT; mode++)
        to->samples[mode] += from->samples[mode];
    to->others += from->others;
    to->others_ns += from->others_ns;
}

static int compare_places(const void *a, const void *b)
{
    const struct hot_place *x = *(const struct hot_place *const *)a, *y = *(const struct hot_place *const *)b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    if (x->rip != y->rip)
        return x->rip < y->rip ? -1 : 1;
    return (int)x->what - (int)y->what;
}

size_t hot_top(const struct hot *hot, bool samples, const struct hot_place **top, size_t max)
{
    const struct hot_place **all = malloc(HOT_SIZE * sizeof *all);
    size_t n = 0;
    if (all == NULL)
        return 0;
    for (size_t i = 0; i < HOT_SIZE; i++)
        if (hot->places[i].count != 0 && (hot->places[i].what == HOT_SAMPLE) == samples)
            all[n++] = &hot->places[i];
    qsort(all, n, sizeof *all, compare_places);
    if (n > max)
        n = max;
    memcpy(top, all, n * sizeof *top);
    free(all);
    return n;
}
