/* Multiplication and division. Products and their flags come from the host's instructions; a division is first checked
 * here, because on the host a bad one would be a signal. */
#include "cpu/fast.h"

pick_fn pick_mul, pick_imul, pick_div, pick_idiv, pick_mulx;

static uint64_t operand_value(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize;
    if (in->op_kind[0] == OPERAND_REG)
        return reg_read(v, in->op_reg[0], size);
    gva_t gva = ea_linear(v, in, size, false);
    return size == 1   ? mem_read8(v, gva)
           : size == 2 ? mem_read16(v, gva)
           : size == 4 ? mem_read32(v, gva)
                       : mem_read64(v, gva);
}

/* ---- one operand: accumulator times operand ---- */

#define WIDE_MULTIPLY(fn, name)                                                                                        \
    static const struct insn *fn##8_a(struct vcpu *v, const struct insn *in)                                           \
    {                                                                                                                  \
        uint8_t b = (uint8_t)operand_value(v, in);                                                                     \
        uint32_t a = (uint8_t)v->regs[RAX], st = v->status, product;                                                   \
        __asm__("movl %[st], %%eax\n\t" GIVE_FLAGS "movl %[a], %%eax\n\t" name "b %[b]\n\tmovl %%eax, %[p]\n\t"        \
                TAKE_FLAGS                                                                                             \
                : [p] "=&r"(product), "=&a"(st)                                                                        \
                : [st] "r"(st), [a] "r"(a), [b] "r"(b)                                                                 \
                : "cc");                                                                                               \
        REG(v, RAX * 8, uint16_t) = (uint16_t)product;                                                                 \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    FOR_WORD_SIZES(WIDE_MULTIPLY_FORM, fn, name)
#define WIDE_MULTIPLY_FORM(bits, T, fn, name)                                                                          \
    static const struct insn *fn##bits##_a(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        T b = (T)operand_value(v, in), a = (T)v->regs[RAX], high, low;                                                 \
        uint64_t acc = v->status;                                                                                      \
        __asm__(GIVE_FLAGS "mov %[a], " ACC_##bits "\n\t" name " %[b]\n\tmov " ACC_##bits ", %[low]\n\t" TAKE_FLAGS  \
                : [low] "=&r"(low), [high] "=&d"(high), "+&a"(acc)                                                     \
                : [a] "r"(a), [b] "r"(b)                                                                               \
                : "cc");                                                                                               \
        REG_SET(v, RAX * 8, T, low);                                                                                   \
        REG_SET(v, RDX * 8, T, high);                                                                                  \
        v->status = (uint16_t)acc;                                                                                     \
        NEXT(v, in);                                                                                                 \
    }
#define ACC_16 "%%ax"
#define ACC_32 "%%eax"
#define ACC_64 "%%rax"
WIDE_MULTIPLY(mul, "mul")
WIDE_MULTIPLY(imul, "imul")

insn_fn *pick_mul(const struct pick *p)
{
    return PICK_SIZE(p, mul, a);
}

/* ---- IMUL with two and three operands ---- */

#define IMUL_FORM(bits, T, form, first, second)                                                                        \
    static const struct insn *imul##bits##_##form(struct vcpu *v, const struct insn *in)                               \
    {                                                                                                                  \
        T a = (T)(first), b = (T)(second);                                                                             \
        uint32_t st = v->status;                                                                                       \
        __asm__(GIVE_FLAGS "imul %[b], %[a]\n\t" TAKE_FLAGS : [a] "+&r"(a), "+&a"(st) : [b] "r"(b) : "cc");            \
        REG_SET(v, in->op_reg[0], T, a);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                 \
    }
#define IMUL_FORMS(bits, T, ...)                                                                                       \
    IMUL_FORM(bits, T, rr, REG(v, in->op_reg[0], T), REG(v, in->op_reg[1], T))                                         \
    IMUL_FORM(bits, T, rri, REG(v, in->op_reg[1], T), in->imm)                                                         \
    IMUL_FORM(bits, T, rmi, MEM_READ(v, ea_linear(v, in, sizeof(T), false), T), in->imm)                               \
    IMUL_FORM(bits, T, rm, MEM_READ(v, ea_linear(v, in, sizeof(T), false), T), REG(v, in->op_reg[0], T))
FOR_WORD_SIZES(IMUL_FORMS, )

insn_fn *pick_imul(const struct pick *p)
{
    if (p->in->op_kind[1] == OPERAND_NONE)
        return PICK_SIZE(p, imul, a);
    if (is_imm(p, 2))
        return is_mem(p, 1) ? PICK_WORD(p, imul, rmi) : PICK_WORD(p, imul, rri);
    return is_mem(p, 1) ? PICK_WORD(p, imul, rm) : PICK_WORD(p, imul, rr);
}

/* ---- division ---- */

typedef unsigned __int128 u128;
typedef __int128 s128;

static u128 dividend(const struct vcpu *v, unsigned size)
{
    switch (size) {
    case 1: return (uint16_t)v->regs[RAX];
    case 2: return (uint32_t)(uint16_t)v->regs[RDX] << 16 | (uint16_t)v->regs[RAX];
    case 4: return v->regs[RDX] << 32 | (uint32_t)v->regs[RAX];
    default: return (u128)v->regs[RDX] << 64 | v->regs[RAX];
    }
}

/* The division itself, known to be possible, with the flags that the host's makes: undefined ones, but the same in every
 * engine. Operands and results as in AX or rDX:rAX. */
#define HOST_DIVIDE(instruction, divisor_operand)                                                                      \
    __asm__("movl %[st], %%eax\n\t" GIVE_FLAGS "movq %[low], %%rax\n\t" instruction " " divisor_operand                 \
            "\n\tmovq %%rax, %[low]\n\t" TAKE_FLAGS "\n\tmovl %%eax, %[st]"                                           \
            : [low] "+&r"(low), "+&d"(high), [st] "+&r"(st)                                                            \
            : [d] "r"(divisor)                                                                                         \
            : "rax", "cc")
#define HOST_DIVIDE_SIZES(name)                                                                                        \
    switch (size) {                                                                                                    \
    case 1: HOST_DIVIDE(name, "%b[d]"); break;                                                                         \
    case 2: HOST_DIVIDE(name, "%w[d]"); break;                                                                         \
    case 4: HOST_DIVIDE(name, "%k[d]"); break;                                                                         \
    default: HOST_DIVIDE(name, "%q[d]"); break;                                                                        \
    }
static void divide(struct vcpu *v, unsigned size, uint64_t divisor, bool is_signed)
{
    uint64_t low = v->regs[RAX], high = v->regs[RDX];
    uint32_t st = v->status;
    if (is_signed)
        HOST_DIVIDE_SIZES("idiv")
    else
        HOST_DIVIDE_SIZES("div")
    v->status = (uint16_t)st;
    if (size == 1) {
        REG(v, RAX * 8, uint16_t) = (uint16_t)low;
        return;
    }
    reg_write(v, RAX * 8, size, low);
    reg_write(v, RDX * 8, size, high);
}

static const struct insn *divide_unsigned(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize;
    uint64_t divisor = operand_value(v, in);
    u128 n = dividend(v, size);
    if (divisor == 0 || (n >> (8 * size)) >= divisor)
        fault_de(v);
    divide(v, size, divisor, false);
    NEXT(v, in);
}

static s128 sign_extend(u128 value, unsigned bits)
{
    return (s128)(value << (128 - bits)) >> (128 - bits);
}

static const struct insn *divide_signed(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize, bits = 8 * size;
    s128 divisor = sign_extend(operand_value(v, in), bits);
    u128 raw = dividend(v, size);
    s128 n = size == 8 ? (s128)raw : sign_extend(raw, 2 * bits);
    if (divisor == 0)
        fault_de(v);
    u128 lowest = (u128)1 << (2 * bits - 1);
    if (divisor == -1 && raw == lowest)
        fault_de(v); /* would overflow even the wide quotient */
    s128 quotient = (int64_t)n == n && (int64_t)n != INT64_MIN ? (int64_t)n / (int64_t)divisor : n / divisor;
    if (quotient != sign_extend((u128)quotient, bits))
        fault_de(v);
    divide(v, size, (uint64_t)divisor, true);
    NEXT(v, in);
}

insn_fn *pick_div(const struct pick *p)
{
    (void)p;
    return divide_unsigned;
}

insn_fn *pick_idiv(const struct pick *p)
{
    (void)p;
    return divide_signed;
}

/* ---- MULX: no flags; the second destination (low half) is written first ---- */

static const struct insn *mulx(struct vcpu *v, const struct insn *in)
{
    uint64_t b;
    if (in->op_kind[2] == OPERAND_REG)
        b = reg_read(v, in->op_reg[2], in->opsize);
    else if (in->opsize == 8)
        b = mem_read64(v, ea_linear(v, in, 8, false));
    else
        b = mem_read32(v, ea_linear(v, in, 4, false));
    u128 product = (u128)b * reg_read(v, RDX * 8, in->opsize);
    reg_write(v, in->op_reg[1], in->opsize, (uint64_t)product);
    reg_write(v, in->op_reg[0], in->opsize, (uint64_t)(product >> (8 * in->opsize)));
    NEXT(v, in);
}

insn_fn *pick_mulx(const struct pick *p)
{
    (void)p;
    return mulx;
}
