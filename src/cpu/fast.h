/* What the files with fast instruction functions share: operand access by type, flags from host instructions, leaving
 * straight-line code, and how a picker chooses a function. Not for anybody else.
 */
#ifndef RING3_CPU_FAST_H
#define RING3_CPU_FAST_H

#include <Zydis/Zydis.h>

#include "cpu/insn.h"
#include "mmu/access.h"

/* A picker gets the record with all operand fields filled in and returns the function that runs it; NULL means #UD. It
 * may set in->op and return run_slow. */
struct pick {
    struct insn *in;
    const ZydisDecodedInstruction *z;
    const ZydisDecodedOperand *operands;
};
typedef insn_fn *pick_fn(const struct pick *p);

/* What a picker returns for an operand form that is run on the host. */
insn_fn pick_host;

/* Runs in->op with rip materialised, then leaves straight-line code (STOP) or goes on if nothing changed (CALL). */
insn_fn run_slow, run_slow_continue;

/* Registers by byte offset. */
#define REG(v, offset, T) (*(T *)((char *)(v)->regs + (offset)))
#define REG_SET(v, offset, T, value)                                                                                   \
    do {                                                                                                               \
        if (sizeof(T) == 4)                                                                                            \
            REG(v, offset, uint64_t) = (uint32_t)(value);                                                              \
        else                                                                                                           \
            REG(v, offset, T) = (T)(value);                                                                            \
    } while (0)

#define MEM_READ(v, gva, T)                                                                                            \
    ((T)(sizeof(T) == 1   ? mem_read8(v, gva)                                                                          \
         : sizeof(T) == 2 ? mem_read16(v, gva)                                                                         \
         : sizeof(T) == 4 ? mem_read32(v, gva)                                                                         \
                          : mem_read64(v, gva)))
#define MEM_WRITE(v, gva, T, value)                                                                                    \
    do {                                                                                                               \
        if (sizeof(T) == 1)                                                                                            \
            mem_write8(v, gva, (uint8_t)(value));                                                                      \
        else if (sizeof(T) == 2)                                                                                       \
            mem_write16(v, gva, (uint16_t)(value));                                                                    \
        else if (sizeof(T) == 4)                                                                                       \
            mem_write32(v, gva, (uint32_t)(value));                                                                    \
        else                                                                                                           \
            mem_write64(v, gva, (uint64_t)(value));                                                                    \
    } while (0)

/* X(bits, type) for the operand sizes. */
#define FOR_ALL_SIZES(X, ...) X(8, uint8_t, __VA_ARGS__) FOR_WORD_SIZES(X, __VA_ARGS__)
#define FOR_WORD_SIZES(X, ...)                                                                                         \
    X(16, uint16_t, __VA_ARGS__) X(32, uint32_t, __VA_ARGS__) X(64, uint64_t, __VA_ARGS__)

#define PICK_SIZE(p, name, form)                                                                                       \
    ((p)->in->opsize == 1   ? name##8_##form                                                                           \
     : (p)->in->opsize == 2 ? name##16_##form                                                                          \
     : (p)->in->opsize == 4 ? name##32_##form                                                                          \
                            : name##64_##form)
#define PICK_WORD(p, name, form)                                                                                       \
    ((p)->in->opsize == 2 ? name##16_##form : (p)->in->opsize == 4 ? name##32_##form : name##64_##form)

/* Reading the flags that a host instruction has left: after these, AX is in `status` layout. */
#define TAKE_FLAGS "lahf\n\tseto %%al"
/* The reverse, from AX: OF by an addition that overflows exactly when AL is 1, the rest by SAHF. */
#define GIVE_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
/* Only CF, from status in %[s]. */
#define GIVE_CF "btl $8, %k[s]\n\t"

/* How a fast instruction ends: with a jump into the next one's function. It costs a quarter less than going back to the
 * engine's loop for each instruction, and gives the host's branch predictor a place for each kind of instruction. It must
 * be a real jump, or the stack would grow: builds in which the compiler may not make it one return to the loop. */
#if defined(__OPTIMIZE__) && !defined(RING3_SANITIZE)
#define RING3_THREADED 1
#endif

static inline const struct insn *next_insn(struct vcpu *v, const struct insn *in)
{
#ifdef RING3_THREADED
    v->in = in + 1;
    return in[1].fn(v, in + 1);
#else
    (void)v;
    return in + 1;
#endif
}
#define NEXT(v, in) return next_insn(v, in)

/* An instruction with one form only: `statement` is what it does, to `v` by `in`. */
#define DEFINE_ONLY_FORM(fn, statement)                                                                                \
    static const struct insn *run_##fn(struct vcpu *v, const struct insn *in)                                          \
    {                                                                                                                  \
        statement;                                                                                                     \
        NEXT(v, in);                                                                                                   \
    }                                                                                                                  \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        (void)p;                                                                                                       \
        return run_##fn;                                                                                               \
    }

static inline bool is_mem(const struct pick *p, unsigned n)
{
    return p->in->op_kind[n] == OPERAND_MEM;
}

static inline bool is_reg(const struct pick *p, unsigned n)
{
    return p->in->op_kind[n] == OPERAND_REG;
}

static inline bool is_imm(const struct pick *p, unsigned n)
{
    return p->in->op_kind[n] == OPERAND_IMM;
}

static inline bool has_lock(const struct pick *p)
{
    return (p->in->flags & INSN_LOCK) != 0;
}

/* ---- leaving straight-line code (flow.c) ---- */

/* RIP cut to what the mode has. */
static inline uint64_t rip_cut(const struct insn *in, uint64_t rip)
{
    return in->mode == CODE_64 ? rip : (uint32_t)rip;
}

/* Brings `rip` and the instruction count up to date; `in` is not counted yet. */
static inline void rip_sync(struct vcpu *v, const struct insn *in)
{
    if (v->run_start != NULL) {
        v->rip = rip_cut(in, v->regs[GPR_PAGE] + in->off);
        v->instructions += (uint64_t)(in - v->run_start);
        v->run_start = NULL;
    }
}

/* Ends `in` by going to `rip`, already checked. Returns NULL. */
static inline const struct insn *leave_to(struct vcpu *v, const struct insn *in, uint64_t rip)
{
    v->instructions += (uint64_t)(in - v->run_start) + 1;
    v->run_start = NULL;
    v->rip = rip;
    return NULL;
}

/* #GP(0) unless `rip` may be jumped to: canonical, within CS. */
void branch_check(struct vcpu *v, const struct insn *in, uint64_t rip);

/* Is it time to look at interrupts, the clock ...? */
static inline bool must_leave(const struct vcpu *v)
{
    return v->instructions >= __atomic_load_n(&v->instructions_stop, __ATOMIC_RELAXED);
}

/* A push of `size` bytes by a fast instruction. RSP changes last. */
static inline void push_value(struct vcpu *v, const struct insn *in, unsigned size, uint64_t value)
{
    if (in->mode == CODE_64 && size == 8) {
        gva_t gva = v->regs[RSP] - 8;
        const struct tlb_entry *e = tlb_entry(v, gva);
        if (likely(tlb_hit(e->write_tag, gva, 8))) {
            *(uint64_t *)(gva + (uint64_t)e->addend) = value;
            v->regs[RSP] = gva;
            return;
        }
    } else if (in->mode == CODE_32_FLAT && size == 4) {
        gva_t gva = (uint32_t)(v->regs[RSP] - 4);
        const struct tlb_entry *e = tlb_entry(v, gva);
        if (likely(tlb_hit(e->write_tag, gva, 4))) {
            *(uint32_t *)(gva + (uint64_t)e->addend) = (uint32_t)value;
            v->regs[RSP] = gva;
            return;
        }
    }
    stack_push(v, size, value);
}

/* The value on top of the stack; RSP does not move. */
static inline uint64_t top_value(struct vcpu *v, const struct insn *in, unsigned size)
{
    if (in->mode == CODE_64 && size == 8) {
        gva_t gva = v->regs[RSP];
        const struct tlb_entry *e = tlb_entry(v, gva);
        if (likely(tlb_hit(e->read_tag, gva, 8)))
            return *(const uint64_t *)(gva + (uint64_t)e->addend);
    } else if (in->mode == CODE_32_FLAT && size == 4) {
        gva_t gva = (uint32_t)v->regs[RSP];
        const struct tlb_entry *e = tlb_entry(v, gva);
        if (likely(tlb_hit(e->read_tag, gva, 4)))
            return *(const uint32_t *)(gva + (uint64_t)e->addend);
    }
    return stack_peek(v, 0, size);
}

static inline void drop_values(struct vcpu *v, const struct insn *in, uint64_t bytes)
{
    if (in->mode == CODE_64)
        v->regs[RSP] += bytes;
    else
        stack_pointer_set(v, stack_pointer(v) + bytes);
}

#endif
