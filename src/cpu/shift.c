/* Shifts and rotates, by the host's own instructions with the guest's flags put in first: a count of zero leaves them all,
 * rotates leave most. */
#include "cpu/fast.h"

pick_fn pick_shift_rol, pick_shift_ror, pick_shift_rcl, pick_shift_rcr, pick_shift_shl, pick_shift_shr, pick_shift_sar,
    pick_shift_shld, pick_shift_shrd;

/* How the host computes: the single-operand forms, and SHLD and SHRD, which shift bits in from the second operand. */
#define COMPUTE_ONE(T, name, a, count, st)                                                                             \
    __asm__(GIVE_FLAGS name " %%cl, %[a]\n\t" TAKE_FLAGS : [a] "+&q"(a), "+&a"(st) : "c"((uint8_t)(count)) : "cc")
#define COMPUTE_TWO(T, name, a, count, st)                                                                             \
    __asm__(GIVE_FLAGS name " %%cl, %[b], %[a]\n\t" TAKE_FLAGS                                                         \
            : [a] "+&r"(a), "+&a"(st)                                                                                  \
            : [b] "r"(REG(v, in->op_reg[1], T)), "c"((uint8_t)(count))                                                 \
            : "cc")

#define SHIFT_FORM(bits, T, fn, form, compute, name, count)                                                            \
    static const struct insn *fn##bits##_r##form(struct vcpu *v, const struct insn *in)                                \
    {                                                                                                                  \
        T a = REG(v, in->op_reg[0], T);                                                                                \
        uint32_t st = v->status;                                                                                       \
        compute(T, name, a, count, st);                                                                                \
        REG_SET(v, in->op_reg[0], T, a);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                   \
    }                                                                                                                  \
    static const struct insn *fn##bits##_m##form(struct vcpu *v, const struct insn *in)                                \
    {                                                                                                                  \
        T *p = rmw_begin(v, ea_linear(v, in, sizeof(T), true), sizeof(T));                                             \
        T a = *p;                                                                                                      \
        uint32_t st = v->status;                                                                                       \
        compute(T, name, a, count, st);                                                                                \
        *p = a;                                                                                                        \
        v->status = (uint16_t)st;                                                                                      \
        rmw_end(v);                                                                                                    \
        NEXT(v, in);                                                                                                   \
    }
#define SHIFT_FORMS(bits, T, fn, compute, name)                                                                        \
    SHIFT_FORM(bits, T, fn, i, compute, name, in->imm)                                                                 \
    SHIFT_FORM(bits, T, fn, c, compute, name, v->regs[RCX])

#define DEFINE_SHIFT(fn, name)                                                                                         \
    FOR_ALL_SIZES(SHIFT_FORMS, fn, COMPUTE_ONE, name)                                                                  \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        if (is_reg(p, 0))                                                                                              \
            return is_imm(p, 1) ? PICK_SIZE(p, fn, ri) : PICK_SIZE(p, fn, rc);                                         \
        return is_imm(p, 1) ? PICK_SIZE(p, fn, mi) : PICK_SIZE(p, fn, mc);                                             \
    }
#define DEFINE_DOUBLE_SHIFT(fn, name)                                                                                  \
    FOR_WORD_SIZES(SHIFT_FORMS, fn, COMPUTE_TWO, name)                                                                 \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        if (is_reg(p, 0))                                                                                              \
            return is_imm(p, 2) ? PICK_WORD(p, fn, ri) : PICK_WORD(p, fn, rc);                                         \
        return is_imm(p, 2) ? PICK_WORD(p, fn, mi) : PICK_WORD(p, fn, mc);                                             \
    }

DEFINE_SHIFT(shift_rol, "rol")
DEFINE_SHIFT(shift_ror, "ror")
DEFINE_SHIFT(shift_rcl, "rcl")
DEFINE_SHIFT(shift_rcr, "rcr")
DEFINE_SHIFT(shift_shl, "shl")
DEFINE_SHIFT(shift_shr, "shr")
DEFINE_SHIFT(shift_sar, "sar")
DEFINE_DOUBLE_SHIFT(shift_shld, "shld")
DEFINE_DOUBLE_SHIFT(shift_shrd, "shrd")
