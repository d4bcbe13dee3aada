/* One decoded instruction, and what the C functions that mean instructions may rely on.
 *
 * An instruction is described once: Zydis decodes it, a row of insn.def says which C function means it and how the
 * translator lowers it, decode.c joins both into this record. Two kinds of functions:
 *
 *   insn_fn   (fast) runs inside straight-line code: gets the record, returns the next record to run or NULL to leave
 *             straight-line code (rip then is the next instruction's). `v->rip` is stale when it starts.
 *   insn_op   (slow) what most system instructions are: `v->rip` is this instruction, `v->next_rip` the following
 *             one; it may set `next_rip` to jump. After it returns, rip = next_rip. It may change any mode; call
 *             vcpu_mode_changed() where vcpu.h asks for it.
 *
 * Operands, in Intel order, op[0..3]: a register is named by its byte offset within vcpu.regs (AH is 1); there is at
 * most one memory operand, described by base/index/scale/disp/seg; immediates are sign-extended to 64 bits.
 */
#ifndef RING3_CPU_INSN_H
#define RING3_CPU_INSN_H

#include "cpu/vcpu.h"

struct insn;
typedef const struct insn *insn_fn(struct vcpu *v, const struct insn *in);
typedef void insn_op(struct vcpu *v, const struct insn *in);

enum operand_kind {
    OPERAND_NONE,
    OPERAND_REG,  /* general register: reg offset in op_reg */
    OPERAND_MEM,
    OPERAND_IMM,  /* value in imm */
    OPERAND_SEG,  /* segment register: enum seg in op_reg */
    OPERAND_CR,   /* control register number in op_reg */
    OPERAND_DR,
    OPERAND_FAR,  /* ptr16:16/32: offset in imm, selector in imm2 */
    OPERAND_OTHER /* vector, x87, mask ...: host-executed instructions look at their own decoding */
};

#define INSN_LOCK 0x01u
#define INSN_REP 0x02u    /* F3 that acts as REP/REPE */
#define INSN_REPNE 0x04u
#define INSN_EA_GENERAL 0x08u /* address needs a segment base, a limit check or odd masking: use ea_general() */
#define INSN_EA_32 0x10u      /* flat 32-bit address: only wraps at 4 GiB */

struct insn {
    insn_fn *fn;
    union {
        insn_op *op;               /* slow functions */
        const struct insn *target; /* direct branches: the target's record when in the same page and decoded */
        struct host_stub *stub;    /* host-executed */
    };
    int64_t disp;      /* displacement; GPR_PAGE-relative when base is GPR_PAGE */
    uint64_t imm;      /* immediate; direct branches: target as offset from GPR_PAGE (may lie outside the page) */
    uint16_t off;      /* of the first byte within its page */
    uint16_t row;      /* enum insn_row */
    uint16_t imm2;     /* ENTER nesting level, far selector */
    uint8_t len;
    uint8_t opsize;    /* 1, 2, 4, 8: effective operand size in bytes */
    uint8_t addrsize;  /* 2, 4, 8 */
    uint8_t memsize;   /* size of the memory operand in bytes; 0 if variable */
    uint8_t op_kind[3];
    uint8_t op_reg[3];
    uint8_t base, index, scale; /* gpr numbers (GPR_ZERO for none), scale as shift count */
    uint8_t seg;       /* enum seg of the memory operand */
    uint8_t flags;     /* INSN_* */
    uint8_t mode;      /* enum code_mode it was decoded for */
    uint8_t opcode;    /* last opcode byte */
    uint8_t modrm;
};

_Static_assert(sizeof(struct insn) <= 64, "a decoded instruction is at most one cache line");

/* ---- registers by offset ---- */
static inline uint64_t reg_read(const struct vcpu *v, unsigned offset, unsigned size)
{
    const char *p = (const char *)v->regs + offset;
    switch (size) {
    case 1: return *(const uint8_t *)p;
    case 2: return *(const uint16_t *)p;
    case 4: return *(const uint32_t *)p;
    default: return *(const uint64_t *)p;
    }
}

/* A 32-bit write clears the upper half. */
static inline void reg_write(struct vcpu *v, unsigned offset, unsigned size, uint64_t value)
{
    char *p = (char *)v->regs + offset;
    switch (size) {
    case 1: *(uint8_t *)p = (uint8_t)value; break;
    case 2: *(uint16_t *)p = (uint16_t)value; break;
    case 4: *(uint64_t *)p = (uint32_t)value; break;
    default: *(uint64_t *)p = value; break;
    }
}

/* ---- the memory operand ---- */
/* Effective address (offset within the segment), cut to the address size. */
static inline uint64_t ea_offset(const struct vcpu *v, const struct insn *in)
{
    uint64_t ea = v->regs[in->base] + (v->regs[in->index] << in->scale) + (uint64_t)in->disp;
    return in->addrsize == 8 ? ea : in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* Linear address of `size` bytes at `offset` in segment `seg`, for reading or writing: limit, type and null checks in
 * legacy modes, base of FS/GS (and 32-bit truncation outside long mode); raises #GP(0) or #SS(0). In 64-bit mode the
 * canonical check comes with the access itself. */
gva_t seg_linear(struct vcpu *v, enum seg seg, uint64_t offset, unsigned size, bool write);

gva_t ea_general(struct vcpu *v, const struct insn *in, unsigned size, bool write);

/* Linear address of the memory operand. */
static inline gva_t ea_linear(struct vcpu *v, const struct insn *in, unsigned size, bool write)
{
    gva_t gva = v->regs[in->base] + (v->regs[in->index] << in->scale) + (uint64_t)in->disp;
    if (likely(!(in->flags & (INSN_EA_GENERAL | INSN_EA_32))))
        return gva;
    return in->flags & INSN_EA_32 ? (uint32_t)gva : ea_general(v, in, size, write);
}

/* ---- operands of slow instructions ---- */
/* Reads operand `n` (register, memory or immediate) as `size` bytes, zero-extended. */
uint64_t operand_read(struct vcpu *v, const struct insn *in, unsigned n, unsigned size);
/* Writes operand `n`; a 32-bit register write clears the upper half. */
void operand_write(struct vcpu *v, const struct insn *in, unsigned n, unsigned size, uint64_t value);

/* ---- the stack ---- */
/* Pushes/pops at SS:RSP with the current stack size; `size` 2, 4 or 8. Faults leave RSP as it was. */
void stack_push(struct vcpu *v, unsigned size, uint64_t value);
uint64_t stack_pop(struct vcpu *v, unsigned size);
/* Reads without moving RSP: `offset` bytes above the top. */
uint64_t stack_peek(struct vcpu *v, unsigned offset, unsigned size);
/* RSP cut to the stack size, and adding to it (only the low 16 bits change for a 16-bit stack). */
uint64_t stack_pointer(const struct vcpu *v);
void stack_pointer_set(struct vcpu *v, uint64_t value);

#endif
