/* Far JMP, CALL and RET: transfers that load CS.
 *
 * Model. A far pointer names a code segment, a call gate, a task gate or a TSS. All of them come down to the same
 * steps: find the code segment's descriptor, check privilege, check the offset against it, build the stack frame (on
 * the current stack or, when a gate leads to a more privileged level, on the one from the TSS), then change registers.
 * Every fault comes before the first register changes; the stores to a stack are made with the privilege that owns it.
 *
 * 64-bit far pointers (REX.W) exist on Intel processors only; with AMD's manual the offset stays 32 bits wide, though
 * what CALL pushes is 64 bits wide.
 *
 * In real and v86 mode only the limit of CS in force is checked.
 *
 * SDM vol. 2, CALL, JMP, RET; SDM vol. 3, 5.8; APM vol. 2, 4.11 and 8.7.
 */
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/descriptor.h"
#include "cpu/ops.h"
#include "cpu/transfer.h"
#include "mmu/access.h"

struct far_pointer {
    uint16_t selector;
    uint64_t offset;
};

static struct far_pointer far_pointer_read(struct vcpu *v, const struct insn *in)
{
    struct far_pointer far = {.selector = in->imm2};
    if (in->op_kind[0] == OPERAND_FAR) {
        far.offset = in->opsize == 2 ? (uint16_t)in->imm : (uint32_t)in->imm;
        return far;
    }
    if (in->op_kind[0] != OPERAND_MEM)
        fault_ud(v);
    unsigned size = in->opsize == 8 && v->model->amd ? 4 : in->opsize;
    uint8_t bytes[10];
    unsigned access = access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
    access_read_bytes(v, ea_linear(v, in, size + 2, false), bytes, size + 2, access);
    far.offset = 0;
    memcpy(&far.offset, bytes, size);
    memcpy(&far.selector, bytes + size, 2);
    return far;
}

static void real_mode_go(struct vcpu *v, struct far_pointer to)
{
    segment_load_real(v, SEG_CS, to.selector);
    v->next_rip = to.offset;
}

/* Reads the descriptor that a far pointer, a gate or a return names. */
static void code_read(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    if (selector_is_null(selector))
        fault_gp(v, 0);
    descriptor_read(v, selector, VECTOR_GP, d);
}

/* L and D together are reserved. */
static bool code_is_malformed(const struct vcpu *v, const struct descriptor *d)
{
    return descriptor_is_code64(v, d) && (d->high & SEG_ATTR_DB << 8);
}

/* Checks of a direct JMP or CALL to code segment `d`. */
static void code_check_direct(struct vcpu *v, uint16_t selector, const struct descriptor *d)
{
    unsigned dpl = descriptor_dpl(d);
    bool ok = descriptor_is_conforming(d) ? dpl <= v->cpl : (selector & 3u) <= v->cpl && dpl == v->cpl;
    if (!ok || code_is_malformed(v, d))
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(d))
        fault_selector(v, VECTOR_NP, selector);
}

/* ---- gates ---- */

struct call_gate {
    uint16_t selector; /* of the code segment */
    uint64_t offset;
    unsigned parameters;
    unsigned size; /* of what is pushed: 2, 4, 8 */
};

static void gate_check(struct vcpu *v, uint16_t selector, const struct descriptor *gate)
{
    unsigned dpl = descriptor_dpl(gate);
    if (dpl < v->cpl || dpl < (selector & 3u))
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(gate))
        fault_selector(v, VECTOR_NP, selector);
}

static struct call_gate call_gate_read(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    gate_check(v, selector, d);
    descriptor_read_upper(v, selector, d);
    struct call_gate gate = {
        .selector = (uint16_t)(d->low >> 16),
        .offset = (d->low & 0xffff) | (d->high & 0xffff0000u),
        .parameters = d->high & 0x1f,
        .size = 4,
    };
    if (vcpu_long_mode(v)) {
        gate.offset |= (uint64_t)d->upper_base << 32;
        gate.size = 8;
    } else if (descriptor_type(d) == TYPE_CALL16) {
        gate.offset &= 0xffff;
        gate.size = 2;
    }
    return gate;
}

/* The code segment behind a gate. In long mode it has to be 64-bit code. */
static void gate_code_read(struct vcpu *v, const struct call_gate *gate, bool jump, struct descriptor *code)
{
    code_read(v, gate->selector, code);
    bool ok = descriptor_is_code(code) && descriptor_dpl(code) <= v->cpl;
    if (jump && !descriptor_is_conforming(code) && descriptor_dpl(code) != v->cpl)
        ok = false;
    if (vcpu_long_mode(v) && (!descriptor_is_code64(v, code) || code_is_malformed(v, code)))
        ok = false;
    if (!ok)
        fault_selector(v, VECTOR_GP, gate->selector);
    if (!descriptor_is_present(code))
        fault_selector(v, VECTOR_NP, gate->selector);
}

static void code_go(struct vcpu *v, uint16_t selector, unsigned cpl, const struct descriptor *code, uint64_t offset)
{
    code_load(v, selector, cpl, code);
    v->next_rip = offset;
    vcpu_mode_changed(v);
}

static void gate_jump(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    struct descriptor code;
    struct call_gate gate = call_gate_read(v, selector, d);
    gate_code_read(v, &gate, true, &code);
    code_check_offset(v, &code, gate.offset);
    descriptor_set_accessed(v, gate.selector, &code);
    code_go(v, gate.selector, v->cpl, &code, gate.offset);
}

/* Parameters are copied from the caller's stack, the deepest first. */
static void parameters_copy(struct vcpu *v, struct frame *f, const struct call_gate *gate)
{
    if (gate->size == 8)
        return;
    uint32_t values[31];
    for (unsigned i = 0; i < gate->parameters; i++)
        values[i] = (uint32_t)stack_peek(v, i * gate->size, gate->size);
    for (unsigned i = gate->parameters; i > 0; i--)
        frame_push(v, f, gate->size, values[i - 1]);
}

static void gate_call(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    struct descriptor code;
    struct frame f;
    struct call_gate gate = call_gate_read(v, selector, d);
    gate_code_read(v, &gate, false, &code);
    unsigned cpl = v->cpl;
    bool inner = !descriptor_is_conforming(&code) && descriptor_dpl(&code) < v->cpl;
    if (inner) {
        cpl = descriptor_dpl(&code);
        frame_init_inner(v, &f, cpl, 0);
    } else {
        frame_init_current(v, &f, gate.size == 8);
    }
    code_check_offset(v, &code, gate.offset);
    descriptor_set_accessed(v, gate.selector, &code);
    if (inner) {
        frame_push(v, &f, gate.size, v->seg[SEG_SS].selector);
        frame_push(v, &f, gate.size, v->regs[RSP]);
        parameters_copy(v, &f, &gate);
    }
    frame_push(v, &f, gate.size, v->seg[SEG_CS].selector);
    frame_push(v, &f, gate.size, v->next_rip);
    frame_commit(v, &f);
    code_go(v, gate.selector, cpl, &code, gate.offset);
}

/* ---- tasks ---- */

static void transfer_to_task(struct vcpu *v, uint16_t selector, enum task_cause cause)
{
    task_switch(v, &(struct task_switch){
                       .cause = cause, .selector = selector, .rip = v->next_rip, .flags = rflags_get(v) & ~FLAG_RF});
}

/* JMP and CALL to a descriptor that is not code; false if it is a call gate, which differs. */
static bool transfer_system(struct vcpu *v, uint16_t selector, const struct descriptor *d, enum task_cause cause)
{
    unsigned type = descriptor_type(d);
    if (!descriptor_is_system(d))
        fault_selector(v, VECTOR_GP, selector);
    if (type == TYPE_CALL32 || (type == TYPE_CALL16 && !vcpu_long_mode(v)))
        return false;
    if (vcpu_long_mode(v))
        fault_selector(v, VECTOR_GP, selector);
    switch (type) {
    case TYPE_TASK_GATE:
        gate_check(v, selector, d);
        transfer_to_task(v, (uint16_t)(d->low >> 16), cause);
        return true;
    case TYPE_TSS16:
    case TYPE_TSS32:
        if (descriptor_dpl(d) < v->cpl || descriptor_dpl(d) < (selector & 3u))
            fault_selector(v, VECTOR_GP, selector);
        transfer_to_task(v, selector, cause);
        return true;
    default: fault_selector(v, VECTOR_GP, selector);
    }
}

/* ---- JMP and CALL ---- */

void op_jmp_far(struct vcpu *v, const struct insn *in)
{
    struct far_pointer to = far_pointer_read(v, in);
    struct descriptor d;
    if (!vcpu_protected(v)) {
        if (to.offset > v->seg[SEG_CS].limit)
            fault_gp(v, 0);
        real_mode_go(v, to);
        return;
    }
    code_read(v, to.selector, &d);
    if (!descriptor_is_code(&d)) {
        if (!transfer_system(v, to.selector, &d, TASK_JMP))
            gate_jump(v, to.selector, &d);
        return;
    }
    code_check_direct(v, to.selector, &d);
    code_check_offset(v, &d, to.offset);
    descriptor_set_accessed(v, to.selector, &d);
    code_go(v, to.selector, v->cpl, &d, to.offset);
}

static void push_return(struct vcpu *v, struct frame *f, unsigned size)
{
    frame_init_current(v, f, false);
    frame_push(v, f, size, v->seg[SEG_CS].selector);
    frame_push(v, f, size, v->next_rip);
}

void op_call_far(struct vcpu *v, const struct insn *in)
{
    struct far_pointer to = far_pointer_read(v, in);
    struct descriptor d;
    struct frame f;
    if (!vcpu_protected(v)) {
        if (to.offset > v->seg[SEG_CS].limit)
            fault_gp(v, 0);
        push_return(v, &f, in->opsize);
        frame_commit(v, &f);
        real_mode_go(v, to);
        return;
    }
    code_read(v, to.selector, &d);
    if (!descriptor_is_code(&d)) {
        if (!transfer_system(v, to.selector, &d, TASK_CALL))
            gate_call(v, to.selector, &d);
        return;
    }
    code_check_direct(v, to.selector, &d);
    code_check_offset(v, &d, to.offset);
    descriptor_set_accessed(v, to.selector, &d);
    push_return(v, &f, in->opsize);
    frame_commit(v, &f);
    code_go(v, to.selector, v->cpl, &d, to.offset);
}

/* ---- far returns, for RET and IRET ---- */

void return_code_read(struct vcpu *v, uint16_t selector, struct descriptor *code)
{
    unsigned rpl = selector & 3;
    code_read(v, selector, code);
    unsigned dpl = descriptor_dpl(code);
    bool ok = descriptor_is_code(code) && rpl >= v->cpl && (descriptor_is_conforming(code) ? dpl <= rpl : dpl == rpl);
    if (!ok || code_is_malformed(v, code))
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(code))
        fault_selector(v, VECTOR_NP, selector);
}

void return_stack_read(struct vcpu *v, uint16_t selector, unsigned rpl, const struct descriptor *code,
                       struct segment *ss)
{
    struct descriptor d;
    if (selector_is_null(selector)) {
        if (!descriptor_is_code64(v, code) || rpl == 3)
            fault_gp(v, 0);
        segment_set_null(ss, selector, rpl);
        return;
    }
    descriptor_read(v, selector, VECTOR_GP, &d);
    if ((selector & 3u) != rpl || !descriptor_is_writable(&d) || descriptor_dpl(&d) != rpl)
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_SS, selector);
    descriptor_set_accessed(v, selector, &d);
    segment_from_descriptor(ss, selector, d.low, d.high);
}

/* What the new privilege level must not reach through the data segment registers becomes null. */
static void segments_retract(struct vcpu *v, unsigned cpl)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
        struct segment *s = &v->seg[data[i]];
        const uint32_t conforming = SEG_ATTR_CODE | SEG_ATTR_EC;
        if ((s->attr & SEG_ATTR_NULL) || (s->attr & conforming) == conforming || segment_dpl(s) >= cpl)
            continue;
        s->selector = 0;
        s->attr = SEG_ATTR_NULL;
        s->limit = 0;
    }
}

void return_commit(struct vcpu *v, const struct far_return *r)
{
    unsigned cpl = r->cs & 3;
    bool outer = cpl != v->cpl;
    code_load(v, r->cs, cpl, &r->code);
    v->next_rip = r->rip;
    if (r->new_stack)
        v->seg[SEG_SS] = r->ss;
    if (outer)
        segments_retract(v, cpl);
    vcpu_mode_changed(v);
    if (r->new_stack)
        stack_pointer_set(v, r->rsp);
}

static void real_mode_return(struct vcpu *v, unsigned size, unsigned extra)
{
    uint64_t rip = stack_peek(v, 0, size);
    uint16_t cs = (uint16_t)stack_peek(v, size, size);
    if (rip > v->seg[SEG_CS].limit)
        fault_gp(v, 0);
    stack_pointer_set(v, stack_pointer(v) + 2 * size + extra);
    real_mode_go(v, (struct far_pointer){.selector = cs, .offset = rip});
}

void op_ret_far(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize;
    unsigned extra = in->op_kind[0] == OPERAND_IMM ? (uint16_t)in->imm : 0;
    if (!vcpu_protected(v)) {
        real_mode_return(v, size, extra);
        return;
    }
    struct far_return r = {.rip = stack_peek(v, 0, size), .cs = (uint16_t)stack_peek(v, size, size)};
    return_code_read(v, r.cs, &r.code);
    unsigned rpl = r.cs & 3;
    if (rpl > v->cpl) {
        unsigned at = 2 * size + extra;
        r.new_stack = true;
        r.rsp = stack_peek(v, at, size) + extra;
        return_stack_read(v, (uint16_t)stack_peek(v, at + size, size), rpl, &r.code, &r.ss);
    }
    code_check_offset(v, &r.code, r.rip);
    descriptor_set_accessed(v, r.cs, &r.code);
    if (!r.new_stack)
        stack_pointer_set(v, stack_pointer(v) + 2 * size + extra);
    return_commit(v, &r);
}
