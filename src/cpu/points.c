/* See points.h for the model. */
#include "cpu/points.h"

#include <string.h>

#include "cpu/code_cache.h"
#include "cpu/vcpu.h"

/* ---- sets ---- */

static bool same(const struct point *a, const struct point *b)
{
    return a->kind == b->kind && a->gva == b->gva && (a->kind == POINT_EXECUTE || a->size == b->size);
}

static bool contains(const struct point *list, unsigned count, const struct point *point)
{
    for (unsigned i = 0; i < count; i++)
        if (same(&list[i], point))
            return true;
    return false;
}

bool points_add(struct points *points, const struct point *point)
{
    bool data = point->kind != POINT_EXECUTE;
    if (contains(data ? points->data : points->execute, data ? points->data_count : points->execute_count, point))
        return true;
    if (point->kind == POINT_EXECUTE) {
        unsigned off = (unsigned)(point->gva & PAGE_OFFSET_MASK);
        if (points->execute_count == POINTS_EXECUTE_MAX)
            return false;
        points->execute[points->execute_count++] = *point;
        points->offsets[off / 64] |= 1ull << off % 64;
        return true;
    }
    if (points->data_count == POINTS_DATA_MAX || point->size == 0 || point->size > POINTS_SIZE_MAX ||
        point->gva + (point->size - 1) < point->gva)
        return false;
    points->data[points->data_count++] = *point;
    return true;
}

static bool remove_from(struct point *list, unsigned *count, const struct point *point)
{
    for (unsigned i = 0; i < *count; i++) {
        if (!same(&list[i], point))
            continue;
        list[i] = list[--*count];
        return true;
    }
    return false;
}

bool points_remove(struct points *points, const struct point *point)
{
    if (point->kind != POINT_EXECUTE)
        return remove_from(points->data, &points->data_count, point);
    if (!remove_from(points->execute, &points->execute_count, point))
        return false;
    memset(points->offsets, 0, sizeof points->offsets);
    for (unsigned i = 0; i < points->execute_count; i++) {
        unsigned off = (unsigned)(points->execute[i].gva & PAGE_OFFSET_MASK);
        points->offsets[off / 64] |= 1ull << off % 64;
    }
    return true;
}

void points_clear(struct points *points)
{
    points->execute_count = points->data_count = 0;
    memset(points->offsets, 0, sizeof points->offsets);
}

bool points_is_empty(const struct points *points)
{
    return points->execute_count == 0 && points->data_count == 0;
}

bool points_same(const struct points *a, const struct points *b, bool data)
{
    const struct point *of_a = data ? a->data : a->execute, *of_b = data ? b->data : b->execute;
    unsigned count = data ? a->data_count : a->execute_count;
    if (count != (data ? b->data_count : b->execute_count))
        return false;
    for (unsigned i = 0; i < count; i++)
        if (!contains(of_b, count, &of_a[i]))
            return false;
    return true;
}

/* ---- questions ---- */

bool points_at(const struct points *points, gva_t gva)
{
    if (!points_at_offset(points, (unsigned)(gva & PAGE_OFFSET_MASK)))
        return false;
    for (unsigned i = 0; i < points->execute_count; i++)
        if (points->execute[i].gva == gva)
            return true;
    return false;
}

bool points_watch_page(const struct points *points, gva_t gva)
{
    gva_t first = gva & ~PAGE_OFFSET_MASK, last = first | PAGE_OFFSET_MASK;
    for (unsigned i = 0; points != NULL && i < points->data_count; i++)
        if (points->data[i].gva <= last && points->data[i].gva + (points->data[i].size - 1) >= first)
            return true;
    return false;
}

bool points_in_code_page(const struct points *points, gva_t gva)
{
    for (unsigned i = 0; points != NULL && i < points->execute_count; i++)
        if (points->execute[i].gva >> PAGE_SHIFT == gva >> PAGE_SHIFT)
            return true;
    return false;
}

/* ---- a processor ---- */

static gva_t next_gva(const struct vcpu *v)
{
    return v->code_mode == CODE_64 ? v->rip : (uint32_t)(v->rip + v->seg[SEG_CS].base);
}

bool points_here(const struct vcpu *v)
{
    return !v->single && points_at(v->points, next_gva(v));
}

void points_stop_here(struct vcpu *v)
{
    v->hit = (struct point_hit){.kind = HIT_EXECUTE, .point = {.kind = POINT_EXECUTE, .gva = next_gva(v)}};
    vcpu_raise(v, PENDING_STOP);
}

void points_check_data(struct vcpu *v, gva_t gva, unsigned size, bool write)
{
    const struct points *points = v->points;
    for (unsigned i = 0; i < points->data_count; i++) {
        const struct point *point = &points->data[i];
        bool wanted = point->kind == POINT_ACCESS || (point->kind == POINT_WRITE) == write;
        if (!wanted || gva + (size - 1) < point->gva || gva > point->gva + (point->size - 1))
            continue;
        if (v->rehearsal != NULL || v->hit.kind == HIT_DATA)
            return;
        v->hit = (struct point_hit){.kind = HIT_DATA, .point = *point};
        code_cache_interrupt(v);
        vcpu_raise(v, PENDING_STOP);
        return;
    }
}
