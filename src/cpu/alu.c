/* Addition, logic, comparison, increment, negation: computed by the host's own instructions, which also compute the
 * flags. So even the flags that the manual calls undefined are those of a real processor.
 *
 * Forms: rr, ri (register first operand), rm (register, memory), mr, mi (memory first), each plain or locked.
 */
#include "cpu/fast.h"

/* carry: GIVE_CF for ADC and SBB, else "". store: whether the first operand is written. */
#define ALU_COMPUTE(carry, name, a, b, st)                                                                             \
    __asm__(carry name " %[b], %[a]\n\t" TAKE_FLAGS                                                                    \
            : [a] "+&q"(a), [st] "=&a"(st)                                                                             \
            : [b] "q"(b), [s] "r"((uint32_t)v->status)                                                                 \
            : "cc")
#define ALU_COMPUTE_MEM(carry, lock, name, p, b, st)                                                                   \
    __asm__(carry lock name " %[b], %[m]\n\t" TAKE_FLAGS                                                               \
            : [m] "+m"(*(p)), [st] "=&a"(st)                                                                           \
            : [b] "q"(b), [s] "r"((uint32_t)v->status)                                                                 \
            : "cc", "memory")

#define ALU_REG_FORM(bits, T, fn, form, carry, name, store, source)                                                    \
    static const struct insn *fn##bits##_##form(struct vcpu *v, const struct insn *in)                                 \
    {                                                                                                                  \
        T b = (T)(source), a = REG(v, in->op_reg[0], T);                                                               \
        uint32_t st;                                                                                                   \
        ALU_COMPUTE(carry, name, a, b, st);                                                                            \
        if (store)                                                                                                     \
            REG_SET(v, in->op_reg[0], T, a);                                                                           \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                   \
    }
#define ALU_REG_FORMS(bits, T, fn, carry, name, store)                                                                 \
    ALU_REG_FORM(bits, T, fn, rr, carry, name, store, REG(v, in->op_reg[1], T))                                        \
    ALU_REG_FORM(bits, T, fn, ri, carry, name, store, in->imm)                                                         \
    ALU_REG_FORM(bits, T, fn, rm, carry, name, store, MEM_READ(v, ea_linear(v, in, sizeof(T), false), T))

#define ALU_MEM_FORM(bits, T, fn, form, carry, lock, name, source)                                                     \
    static const struct insn *fn##bits##_##form(struct vcpu *v, const struct insn *in)                                 \
    {                                                                                                                  \
        T *p = rmw_begin(v, ea_linear(v, in, sizeof(T), true), sizeof(T));                                             \
        T b = (T)(source);                                                                                             \
        uint32_t st;                                                                                                   \
        ALU_COMPUTE_MEM(carry, lock, name, p, b, st);                                                                  \
        v->status = (uint16_t)st;                                                                                      \
        rmw_end(v);                                                                                                    \
        NEXT(v, in);                                                                                                 \
    }
#define ALU_STORE_FORMS(bits, T, fn, carry, name, ...)                                                                 \
    ALU_MEM_FORM(bits, T, fn, mr, carry, "", name, REG(v, in->op_reg[1], T))                                           \
    ALU_MEM_FORM(bits, T, fn, mi, carry, "", name, in->imm)                                                            \
    ALU_MEM_FORM(bits, T, fn, lmr, carry, "lock ", name, REG(v, in->op_reg[1], T))                                     \
    ALU_MEM_FORM(bits, T, fn, lmi, carry, "lock ", name, in->imm)

#define ALU_READ_FORM(bits, T, fn, form, name, source)                                                                 \
    static const struct insn *fn##bits##_##form(struct vcpu *v, const struct insn *in)                                 \
    {                                                                                                                  \
        T a = MEM_READ(v, ea_linear(v, in, sizeof(T), false), T), b = (T)(source);                                     \
        uint32_t st;                                                                                                   \
        ALU_COMPUTE("", name, a, b, st);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                 \
    }
#define ALU_COMPARE_FORMS(bits, T, fn, name, ...)                                                                      \
    ALU_READ_FORM(bits, T, fn, mr, name, REG(v, in->op_reg[1], T))                                                     \
    ALU_READ_FORM(bits, T, fn, mi, name, in->imm)

#define PICK_READS(fn)                                                                                                 \
    if (is_reg(p, 0) && is_reg(p, 1))                                                                                  \
        return PICK_SIZE(p, fn, rr);                                                                                   \
    if (is_reg(p, 0) && is_imm(p, 1))                                                                                  \
        return PICK_SIZE(p, fn, ri);                                                                                   \
    if (is_reg(p, 0))                                                                                                  \
        return PICK_SIZE(p, fn, rm);

#define DEFINE_ALU(fn, carry, name)                                                                                    \
    FOR_ALL_SIZES(ALU_REG_FORMS, fn, carry, name, true)                                                                \
    FOR_ALL_SIZES(ALU_STORE_FORMS, fn, carry, name, )                                                                  \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        PICK_READS(fn)                                                                                                 \
        if (is_reg(p, 1))                                                                                              \
            return has_lock(p) ? PICK_SIZE(p, fn, lmr) : PICK_SIZE(p, fn, mr);                                         \
        return has_lock(p) ? PICK_SIZE(p, fn, lmi) : PICK_SIZE(p, fn, mi);                                             \
    }
#define DEFINE_COMPARE(fn, name)                                                                                       \
    FOR_ALL_SIZES(ALU_REG_FORMS, fn, "", name, false)                                                                  \
    FOR_ALL_SIZES(ALU_COMPARE_FORMS, fn, name, )                                                                       \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        PICK_READS(fn)                                                                                                 \
        return is_reg(p, 1) ? PICK_SIZE(p, fn, mr) : PICK_SIZE(p, fn, mi);                                             \
    }

pick_fn pick_alu_add, pick_alu_or, pick_alu_adc, pick_alu_sbb, pick_alu_and, pick_alu_sub, pick_alu_xor, pick_alu_cmp,
    pick_alu_test, pick_alu_inc, pick_alu_dec, pick_alu_not, pick_alu_neg;

DEFINE_ALU(alu_add, "", "add")
DEFINE_ALU(alu_or, "", "or")
DEFINE_ALU(alu_adc, GIVE_CF, "adc")
DEFINE_ALU(alu_sbb, GIVE_CF, "sbb")
DEFINE_ALU(alu_and, "", "and")
DEFINE_ALU(alu_sub, "", "sub")
DEFINE_ALU(alu_xor, "", "xor")
DEFINE_COMPARE(alu_cmp, "cmp")
DEFINE_COMPARE(alu_test, "test")

/* ---- one operand ---- */

#define UNARY_FORMS(bits, T, fn, name, suffix)                                                                         \
    static const struct insn *fn##bits##_r(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        T a = REG(v, in->op_reg[0], T);                                                                                \
        uint32_t st;                                                                                                   \
        __asm__(GIVE_CF name " %[a]\n\t" TAKE_FLAGS                                                                    \
                : [a] "+&q"(a), "=&a"(st)                                                                              \
                : [s] "r"((uint32_t)v->status)                                                                         \
                : "cc");                                                                                               \
        REG_SET(v, in->op_reg[0], T, a);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    UNARY_MEM(bits, T, fn, m, "", name)                                                                                \
    UNARY_MEM(bits, T, fn, lm, "lock ", name)
#define UNARY_SUFFIX_8 "b"
#define UNARY_SUFFIX_16 "w"
#define UNARY_SUFFIX_32 "l"
#define UNARY_SUFFIX_64 "q"
#define UNARY_MEM(bits, T, fn, form, lock, name)                                                                       \
    static const struct insn *fn##bits##_##form(struct vcpu *v, const struct insn *in)                                 \
    {                                                                                                                  \
        T *p = rmw_begin(v, ea_linear(v, in, sizeof(T), true), sizeof(T));                                             \
        uint32_t st;                                                                                                   \
        __asm__(GIVE_CF lock name UNARY_SUFFIX_##bits " %[m]\n\t" TAKE_FLAGS                                           \
                : [m] "+m"(*p), "=&a"(st)                                                                              \
                : [s] "r"((uint32_t)v->status)                                                                         \
                : "cc", "memory");                                                                                     \
        v->status = (uint16_t)st;                                                                                      \
        rmw_end(v);                                                                                                    \
        NEXT(v, in);                                                                                                 \
    }
#define DEFINE_UNARY(fn, name)                                                                                         \
    FOR_ALL_SIZES(UNARY_FORMS, fn, name, )                                                                             \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        if (is_reg(p, 0))                                                                                              \
            return PICK_SIZE(p, fn, r);                                                                                \
        return has_lock(p) ? PICK_SIZE(p, fn, lm) : PICK_SIZE(p, fn, m);                                               \
    }

/* INC and DEC keep CF: the host's do, too, once it is given. */
DEFINE_UNARY(alu_inc, "inc")
DEFINE_UNARY(alu_dec, "dec")
DEFINE_UNARY(alu_neg, "neg")

#define NOT_FORMS(bits, T, ...)                                                                                        \
    static const struct insn *not##bits##_r(struct vcpu *v, const struct insn *in)                                     \
    {                                                                                                                  \
        REG_SET(v, in->op_reg[0], T, ~REG(v, in->op_reg[0], T));                                                       \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *not##bits##_m(struct vcpu *v, const struct insn *in)                                     \
    {                                                                                                                  \
        T *p = rmw_begin(v, ea_linear(v, in, sizeof(T), true), sizeof(T));                                             \
        if (in->flags & INSN_LOCK)                                                                                     \
            __atomic_fetch_xor(p, (T)~(T)0, __ATOMIC_SEQ_CST);                                                         \
        else                                                                                                           \
            *p = (T)~*p;                                                                                               \
        rmw_end(v);                                                                                                    \
        NEXT(v, in);                                                                                                 \
    }
FOR_ALL_SIZES(NOT_FORMS, )

insn_fn *pick_alu_not(const struct pick *p)
{
    return is_reg(p, 0) ? PICK_SIZE(p, not, r) : PICK_SIZE(p, not, m);
}
