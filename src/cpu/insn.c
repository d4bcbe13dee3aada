/* Operands and the stack, for slow instructions.
 *
 * Fast instructions have accessors of their own for each operand form; the functions here take any form, check
 * everything, and are what system instructions use. All accesses are made at the current CPL; an address that is not
 * canonical is blamed on the stack (#SS) when the segment is SS.
 *
 * SDM vol. 1, 3.7 (operands), 6.2 (stacks).
 */
#include "cpu/insn.h"

#include "base/check.h"
#include "mmu/access.h"

static unsigned operand_access(const struct vcpu *v, const struct insn *in)
{
    return access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
}

uint64_t operand_read(struct vcpu *v, const struct insn *in, unsigned n, unsigned size)
{
    uint64_t mask = size == 8 ? ~0ull : (1ull << size * 8) - 1;
    switch (in->op_kind[n]) {
    case OPERAND_REG: return reg_read(v, in->op_reg[n], size);
    case OPERAND_MEM: return access_read(v, ea_linear(v, in, size, false), size, operand_access(v, in));
    case OPERAND_SEG: return v->seg[in->op_reg[n]].selector;
    case OPERAND_IMM: return in->imm & mask;
    default: check(!"operand_read: register, memory or immediate operand"); return 0;
    }
}

void operand_write(struct vcpu *v, const struct insn *in, unsigned n, unsigned size, uint64_t value)
{
    switch (in->op_kind[n]) {
    case OPERAND_REG: reg_write(v, in->op_reg[n], size, value); break;
    case OPERAND_MEM: access_write(v, ea_linear(v, in, size, true), size, value, operand_access(v, in)); break;
    default: check(!"operand_write: register or memory operand");
    }
}

uint64_t stack_pointer(const struct vcpu *v)
{
    uint64_t rsp = v->regs[RSP];
    return v->code_mode == CODE_64 ? rsp : v->stack_big ? (uint32_t)rsp : (uint16_t)rsp;
}

void stack_pointer_set(struct vcpu *v, uint64_t value)
{
    if (v->code_mode == CODE_64)
        v->regs[RSP] = value;
    else if (v->stack_big)
        v->regs[RSP] = (uint32_t)value;
    else
        v->regs[RSP] = (v->regs[RSP] & ~0xffffull) | (uint16_t)value;
}

/* Offset within SS, `delta` above the top, as the stack's size wraps it. */
static uint64_t stack_offset(const struct vcpu *v, uint64_t delta)
{
    uint64_t offset = stack_pointer(v) + delta;
    return v->code_mode == CODE_64 ? offset : v->stack_big ? (uint32_t)offset : (uint16_t)offset;
}

void stack_push(struct vcpu *v, unsigned size, uint64_t value)
{
    uint64_t offset = stack_offset(v, -(uint64_t)size);
    access_write(v, seg_linear(v, SEG_SS, offset, size, true), size, value, ACCESS_STACK | access_current(v));
    stack_pointer_set(v, offset);
}

uint64_t stack_peek(struct vcpu *v, unsigned offset, unsigned size)
{
    gva_t gva = seg_linear(v, SEG_SS, stack_offset(v, offset), size, false);
    return access_read(v, gva, size, ACCESS_STACK | access_current(v));
}

uint64_t stack_pop(struct vcpu *v, unsigned size)
{
    uint64_t value = stack_peek(v, 0, size);
    stack_pointer_set(v, stack_offset(v, size));
    return value;
}
