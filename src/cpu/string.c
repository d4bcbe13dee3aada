/* MOVS, STOS, LODS, SCAS, CMPS with and without repeat prefixes.
 *
 * A repeated instruction is restartable: RCX, RSI, RDI always say what is left, so a fault in the middle or an interrupt
 * between two elements finds a precise state. It runs in chunks; between chunks it looks whether it must leave, and then
 * stays on itself (RIP does not move) to be resumed.
 *
 * MOVS and STOS upwards through plain RAM, the common case, move whole pieces of a page at once. Overlapping moves go
 * element by element, as the manual's operation section does.
 */
#include <string.h>

#include "cpu/fast.h"

pick_fn pick_movs, pick_stos, pick_lods, pick_scas, pick_cmps;

/* Elements per look at the outside world on the slow path. */
#define SLOW_CHUNK 256

static inline uint64_t cut(const struct insn *in, uint64_t value)
{
    return in->addrsize == 8 ? value : in->addrsize == 4 ? (uint32_t)value : (uint16_t)value;
}

static inline bool repeated(const struct insn *in)
{
    return (in->flags & (INSN_REP | INSN_REPNE)) != 0;
}

static inline gva_t source(struct vcpu *v, const struct insn *in, bool write)
{
    return seg_linear(v, in->seg, cut(in, v->regs[RSI]), in->opsize, write);
}

static inline gva_t destination(struct vcpu *v, const struct insn *in, bool write)
{
    return seg_linear(v, SEG_ES, cut(in, v->regs[RDI]), in->opsize, write);
}

static inline void advance(struct vcpu *v, const struct insn *in, unsigned reg, uint64_t elements)
{
    uint64_t bytes = elements * in->opsize;
    uint64_t value = v->rflags_rest & FLAG_DF ? v->regs[reg] - bytes : v->regs[reg] + bytes;
    reg_write(v, reg * 8, in->addrsize, cut(in, value));
}

static inline uint64_t load(struct vcpu *v, gva_t gva, unsigned size)
{
    switch (size) {
    case 1: return mem_read8(v, gva);
    case 2: return mem_read16(v, gva);
    case 4: return mem_read32(v, gva);
    default: return mem_read64(v, gva);
    }
}

static inline void store(struct vcpu *v, gva_t gva, unsigned size, uint64_t value)
{
    switch (size) {
    case 1: mem_write8(v, gva, (uint8_t)value); break;
    case 2: mem_write16(v, gva, (uint16_t)value); break;
    case 4: mem_write32(v, gva, (uint32_t)value); break;
    default: mem_write64(v, gva, value); break;
    }
}

/* Whether offsets are linear addresses that need no check: the chunked paths rest on it. */
static inline bool plain_addresses(const struct vcpu *v, const struct insn *in)
{
    bool mode = in->mode == CODE_64 || (in->mode == CODE_32_FLAT && in->addrsize == 4);
    return mode && in->seg != SEG_FS && in->seg != SEG_GS && in->addrsize >= 4 && !(v->rflags_rest & FLAG_DF) &&
           !v->stepping;
}

static inline uint64_t elements_in_page(gva_t gva, unsigned size)
{
    return (PAGE_SIZE - (gva & PAGE_OFFSET_MASK)) / size;
}

/* Resume later: rip stays here, the instruction is not counted as executed. */
static const struct insn *resume_later(struct vcpu *v, const struct insn *in)
{
    rip_sync(v, in);
    return NULL;
}

/* ---- MOVS ---- */

static uint64_t movs_chunk(struct vcpu *v, const struct insn *in, uint64_t count)
{
    if (!plain_addresses(v, in))
        return 0;
    unsigned size = in->opsize;
    gva_t from = cut(in, v->regs[RSI]), to = cut(in, v->regs[RDI]);
    const struct tlb_entry *r = tlb_entry(v, from), *w = tlb_entry(v, to);
    if (!tlb_hit(r->read_tag, from, 1) || !tlb_hit(w->write_tag, to, 1))
        return 0;
    uint64_t n = elements_in_page(from, size), m = elements_in_page(to, size);
    n = n < m ? n : m;
    n = n < count ? n : count;
    const uint8_t *src = (const uint8_t *)(from + (uint64_t)r->addend);
    uint8_t *dst = (uint8_t *)(to + (uint64_t)w->addend);
    uint64_t bytes = n * size;
    if (dst + bytes > src && src + bytes > dst && dst > src)
        return 0; /* the copy must see what it has just written */
    memmove(dst, src, bytes);
    return n;
}

static uint64_t movs_slow(struct vcpu *v, const struct insn *in, uint64_t count)
{
    (void)count;
    gva_t from = source(v, in, false), to = destination(v, in, true);
    store(v, to, in->opsize, load(v, from, in->opsize));
    return 1;
}

/* ---- STOS ---- */

static uint64_t stos_chunk(struct vcpu *v, const struct insn *in, uint64_t count)
{
    if (!plain_addresses(v, in))
        return 0;
    unsigned size = in->opsize;
    gva_t to = cut(in, v->regs[RDI]);
    const struct tlb_entry *w = tlb_entry(v, to);
    if (!tlb_hit(w->write_tag, to, 1))
        return 0;
    uint64_t n = elements_in_page(to, size);
    n = n < count ? n : count;
    uint8_t *dst = (uint8_t *)(to + (uint64_t)w->addend);
    uint64_t value = v->regs[RAX];
    if (size == 1 || value == 0)
        memset(dst, (uint8_t)value, n * size);
    else
        for (uint64_t i = 0; i < n; i++)
            memcpy(dst + i * size, &value, size);
    return n;
}

static uint64_t stos_slow(struct vcpu *v, const struct insn *in, uint64_t count)
{
    (void)count;
    store(v, destination(v, in, true), in->opsize, v->regs[RAX]);
    return 1;
}

/* One repeated (or single) MOVS or STOS. */
typedef uint64_t element_fn(struct vcpu *v, const struct insn *in, uint64_t count);

static inline const struct insn *run_string(struct vcpu *v, const struct insn *in, element_fn *chunk, element_fn *slow,
                                            bool uses_rsi, bool uses_rdi)
{
    uint64_t count = repeated(in) ? cut(in, v->regs[RCX]) : 1;
    for (unsigned slow_left = SLOW_CHUNK; count != 0;) {
        uint64_t n = chunk != NULL && repeated(in) ? chunk(v, in, count) : 0;
        bool looked_at = n != 0;
        if (n == 0) {
            n = slow(v, in, count);
            looked_at = --slow_left == 0;
        }
        if (uses_rsi)
            advance(v, in, RSI, n);
        if (uses_rdi)
            advance(v, in, RDI, n);
        count -= n;
        if (!repeated(in))
            break;
        reg_write(v, RCX * 8, in->addrsize, count);
        if (looked_at)
            slow_left = SLOW_CHUNK;
        if (count != 0 && (v->stepping || (looked_at && must_leave(v))))
            return resume_later(v, in);
    }
    NEXT(v, in);
}

static const struct insn *movs(struct vcpu *v, const struct insn *in)
{
    return run_string(v, in, movs_chunk, movs_slow, true, true);
}

static const struct insn *stos(struct vcpu *v, const struct insn *in)
{
    return run_string(v, in, stos_chunk, stos_slow, false, true);
}

static uint64_t lods_slow(struct vcpu *v, const struct insn *in, uint64_t count)
{
    (void)count;
    uint64_t value = load(v, source(v, in, false), in->opsize);
    reg_write(v, RAX * 8, in->opsize, value);
    return 1;
}

static const struct insn *lods(struct vcpu *v, const struct insn *in)
{
    return run_string(v, in, NULL, lods_slow, true, false);
}

/* ---- SCAS and CMPS: stop at the first (in)equality ---- */

static void compare(struct vcpu *v, unsigned size, uint64_t a, uint64_t b)
{
    uint32_t st;
    switch (size) {
    case 1: __asm__("cmpb %b2, %b1\n\t" TAKE_FLAGS : "=&a"(st) : "q"(a), "q"(b) : "cc"); break;
    case 2: __asm__("cmpw %w2, %w1\n\t" TAKE_FLAGS : "=&a"(st) : "r"(a), "r"(b) : "cc"); break;
    case 4: __asm__("cmpl %k2, %k1\n\t" TAKE_FLAGS : "=&a"(st) : "r"(a), "r"(b) : "cc"); break;
    default: __asm__("cmpq %2, %1\n\t" TAKE_FLAGS : "=&a"(st) : "r"(a), "r"(b) : "cc"); break;
    }
    v->status = (uint16_t)st;
}

static inline const struct insn *run_compare(struct vcpu *v, const struct insn *in, bool scas)
{
    uint64_t count = repeated(in) ? cut(in, v->regs[RCX]) : 1;
    for (unsigned left = SLOW_CHUNK; count != 0;) {
        uint64_t b = load(v, destination(v, in, false), in->opsize); /* first, as processors do: its fault counts */
        uint64_t a = scas ? v->regs[RAX] : load(v, source(v, in, false), in->opsize);
        compare(v, in->opsize, a, b);
        if (!scas)
            advance(v, in, RSI, 1);
        advance(v, in, RDI, 1);
        if (!repeated(in))
            break;
        reg_write(v, RCX * 8, in->addrsize, --count);
        bool equal = v->status & STATUS_ZF;
        if (count == 0 || equal != ((in->flags & INSN_REP) != 0))
            break;
        if (v->stepping || (--left == 0 && must_leave(v)))
            return resume_later(v, in);
        if (left == 0)
            left = SLOW_CHUNK;
    }
    NEXT(v, in);
}

static const struct insn *scas(struct vcpu *v, const struct insn *in)
{
    return run_compare(v, in, true);
}

static const struct insn *cmps(struct vcpu *v, const struct insn *in)
{
    return run_compare(v, in, false);
}

/* MOVSD and CMPSD are also the names of scalar double instructions, which run on the host. */
static insn_fn *pick_string(const struct pick *p, insn_fn *fn)
{
    p->in->op_kind[0] = p->in->op_kind[1] = OPERAND_NONE;
    return fn;
}

static bool is_vector(const struct pick *p)
{
    return !(p->z->attributes & ZYDIS_ATTRIB_ACCEPTS_REP) && !(p->z->attributes & ZYDIS_ATTRIB_ACCEPTS_REPE) &&
           p->z->meta.isa_set != ZYDIS_ISA_SET_I86 && p->z->meta.isa_set != ZYDIS_ISA_SET_I386;
}

insn_fn *pick_movs(const struct pick *p)
{
    return is_vector(p) ? pick_host : pick_string(p, movs);
}

insn_fn *pick_stos(const struct pick *p)
{
    return pick_string(p, stos);
}

insn_fn *pick_lods(const struct pick *p)
{
    return pick_string(p, lods);
}

insn_fn *pick_scas(const struct pick *p)
{
    return pick_string(p, scas);
}

insn_fn *pick_cmps(const struct pick *p)
{
    return is_vector(p) ? pick_host : pick_string(p, cmps);
}
