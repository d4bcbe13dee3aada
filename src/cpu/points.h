/* Where a debugger wants a processor to stop: instructions and data, by linear address in whatever address space.
 *
 * These have nothing to do with the guest's debug registers: both work at once, and the guest sees nothing of them. Guest
 * memory is not written either: an instruction point is known to whoever decodes, translates or maps code.
 *
 *   instruction   the vCPU leaves its engine with RIP at the point, before the instruction. Code runs at full speed
 *                 elsewhere: straight-line code ends before offsets at which a page may have a point (code_cache.c), blocks
 *                 of translated code before the point itself; so whoever comes there passes the engine's loop, which asks
 *                 points_here() (events_need_care()).
 *   data          the vCPU leaves its engine after the instruction that made the access. No TLB, shadow entry or mapping is
 *                 made for a page with such a point, so every access to it comes the slow way and is compared there
 *                 (mmu/access.c). As with debug registers, implicit accesses (descriptor tables) do not count.
 *
 * A hit is noted in vcpu.hit and raises PENDING_STOP. A set of points belongs to the machine, for all vCPUs; it changes only
 * while no vCPU is in the engine, and PENDING_FLUSH has to be raised then: what has been derived from code and page tables
 * knows the old set.
 */
#ifndef RING3_CPU_POINTS_H
#define RING3_CPU_POINTS_H

#include "base/types.h"

struct vcpu;

#define POINTS_EXECUTE_MAX 1024u
#define POINTS_DATA_MAX 64u
#define POINTS_SIZE_MAX (1024u * 1024u) /* bytes of one data point */

enum point_kind { POINT_EXECUTE, POINT_WRITE, POINT_READ, POINT_ACCESS };

struct point {
    enum point_kind kind;
    gva_t gva;
    uint64_t size; /* data: bytes, at least 1 */
};

struct points {
    unsigned execute_count, data_count;
    struct point execute[POINTS_EXECUTE_MAX], data[POINTS_DATA_MAX];
    uint64_t offsets[PAGE_SIZE / 64]; /* a bit for each offset within a page that some instruction point has */
};

/* Why a vCPU has stopped for a debugger. */
enum point_hit_kind { HIT_NONE, HIT_EXECUTE, HIT_DATA };
struct point_hit {
    enum point_hit_kind kind;
    struct point point;
};

/* False, without any effect: there are too many, or it makes no sense. Adding one that is there already does nothing. */
bool points_add(struct points *points, const struct point *point);
/* Takes one away that was added with the same values; false: there is none. */
bool points_remove(struct points *points, const struct point *point);
void points_clear(struct points *points);
bool points_is_empty(const struct points *points);
/* Whether two sets hold the same, of instructions or of data, in whatever order. */
bool points_same(const struct points *a, const struct points *b, bool data);

/* Whether an instruction at this offset of some page, or at this address, is to be stopped before. `points` may be NULL. */
static inline bool points_at_offset(const struct points *points, unsigned off)
{
    return unlikely(points != NULL) && (points->offsets[off / 64] >> off % 64 & 1);
}
bool points_at(const struct points *points, gva_t gva);

/* Whether some byte of the page that holds `gva` is in a data point, or an instruction point lies in it. */
bool points_watch_page(const struct points *points, gva_t gva);
bool points_in_code_page(const struct points *points, gva_t gva);

/* The processor is about to execute an instruction with a point, and is not being single-stepped. */
bool points_here(const struct vcpu *v);
/* ... and stops for it. */
void points_stop_here(struct vcpu *v);

/* An access to data, which is certain to be made: notes a hit. */
void points_check_data(struct vcpu *v, gva_t gva, unsigned size, bool write);

#endif
