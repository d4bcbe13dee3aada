/* IRET, in every mode.
 *
 * Which flags the popped image may change depends on the privilege before the return: IOPL and VIF/VIP at CPL 0 only,
 * IF when CPL <= IOPL; with a 16-bit operand size the upper half stays. RF is loaded (the engine clears it after the
 * next instruction). 64-bit mode always pops SS:RSP and allows a null SS below CPL 3.
 *
 * NMIs are unblocked as soon as IRET executes, even if it faults then (SDM vol. 3, 6.7.1 and 27.2.3).
 *
 * In v86 mode IRET needs IOPL 3; with CR4.VME a 16-bit IRET works on VIF instead, and #GP(0) lets the monitor handle
 * what cannot be done that way.
 *
 * SDM vol. 2, IRET; SDM vol. 3, 7.3, 20.2, 20.3; APM vol. 2, 8.9.
 */
#include "cpu/cpuid.h"
#include "cpu/ops.h"
#include "cpu/transfer.h"
#include "mmu/access.h"

/* Flags that IRET can load at all. */
#define FLAGS_IRET                                                                                                     \
    (FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_VIF | FLAG_VIP |      \
     FLAG_ID)

static void flags_load(struct vcpu *v, uint32_t flags, uint32_t mask)
{
    mask &= v->model->rflags_mask | FLAGS_STATUS;
    rflags_set(v, (rflags_get(v) & ~mask) | (flags & mask));
}

static uint32_t size_mask(unsigned size)
{
    return size == 2 ? 0xffff : 0xffffffff;
}

/* Pops IP, CS and FLAGS without checks other than the limit. */
static void iret_real(struct vcpu *v, unsigned size, uint32_t mask)
{
    uint64_t rip = stack_peek(v, 0, size);
    uint16_t cs = (uint16_t)stack_peek(v, size, size);
    uint32_t flags = (uint32_t)stack_peek(v, 2 * size, size);
    if (rip > v->seg[SEG_CS].limit)
        fault_gp(v, 0);
    stack_pointer_set(v, stack_pointer(v) + 3 * size);
    flags_load(v, flags, mask & size_mask(size));
    segment_load_real(v, SEG_CS, cs);
    v->next_rip = rip;
}

/* v86 mode with IOPL below 3 and CR4.VME: IF in the image is VIF. */
static void iret_v86_extended(struct vcpu *v, unsigned size)
{
    uint32_t flags = (uint32_t)stack_peek(v, 2 * size, size);
    if (!(v->cr4 & CR4_VME) || size != 2 || (flags & FLAG_TF) ||
        ((flags & FLAG_IF) && (v->rflags_rest & FLAG_VIP)))
        fault_gp(v, 0);
    iret_real(v, size, FLAGS_IRET & ~(FLAG_IOPL | FLAG_IF));
    v->rflags_rest = (v->rflags_rest & ~FLAG_VIF) | (flags & FLAG_IF ? FLAG_VIF : 0);
}

static void iret_to_v86(struct vcpu *v, uint32_t flags)
{
    static const uint8_t order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint32_t rip = (uint32_t)stack_peek(v, 0, 4);
    uint16_t cs = (uint16_t)stack_peek(v, 4, 4);
    uint32_t rsp = (uint32_t)stack_peek(v, 12, 4);
    uint16_t ss = (uint16_t)stack_peek(v, 16, 4);
    uint16_t data[4];
    for (unsigned i = 0; i < 4; i++)
        data[i] = (uint16_t)stack_peek(v, 20 + 4 * i, 4);
    if (rip > 0xffff)
        fault_gp(v, 0);
    flags_load(v, flags, FLAGS_IRET);
    v->rflags_rest |= FLAG_VM;
    segment_set_v86(&v->seg[SEG_CS], cs);
    segment_set_v86(&v->seg[SEG_SS], ss);
    for (unsigned i = 0; i < 4; i++)
        segment_set_v86(&v->seg[order[i]], data[i]);
    v->regs[RSP] = rsp;
    v->next_rip = rip;
    vcpu_mode_changed(v);
}

/* NT: the back link in the TSS names the task to go back to. */
static void iret_task(struct vcpu *v)
{
    const struct segment *tr = &v->seg[SEG_TR];
    if (vcpu_long_mode(v))
        fault_gp(v, 0);
    if ((tr->attr & SEG_ATTR_NULL) || tr->limit < 1)
        fault_selector(v, VECTOR_TS, tr->selector);
    uint16_t link = (uint16_t)access_read(v, gva_system(v, tr->base), 2, ACCESS_IMPLICIT);
    task_switch(v, &(struct task_switch){.cause = TASK_IRET,
                                         .selector = link,
                                         .rip = v->next_rip,
                                         .flags = rflags_get(v) & ~(FLAG_NT | FLAG_RF)});
}

static uint32_t flags_changeable(const struct vcpu *v, unsigned size)
{
    uint32_t mask = FLAGS_IRET & ~(FLAG_IF | FLAG_IOPL | FLAG_VIF | FLAG_VIP);
    if (v->cpl <= vcpu_iopl(v))
        mask |= FLAG_IF;
    if (v->cpl == 0)
        mask |= FLAG_IOPL | FLAG_VIF | FLAG_VIP;
    return mask & size_mask(size);
}

static void iret_protected(struct vcpu *v, unsigned size)
{
    if (v->rflags_rest & FLAG_NT) {
        iret_task(v);
        return;
    }
    struct far_return r = {.rip = stack_peek(v, 0, size), .cs = (uint16_t)stack_peek(v, size, size)};
    uint32_t flags = (uint32_t)stack_peek(v, 2 * size, size);
    if (size == 4 && (flags & FLAG_VM) && v->cpl == 0 && !vcpu_long_mode(v)) {
        iret_to_v86(v, flags);
        return;
    }
    return_code_read(v, r.cs, &r.code);
    unsigned rpl = r.cs & 3;
    if (rpl > v->cpl || v->code_mode == CODE_64) {
        r.new_stack = true;
        r.rsp = stack_peek(v, 3 * size, size);
        return_stack_read(v, (uint16_t)stack_peek(v, 4 * size, size), rpl, &r.code, &r.ss);
    }
    code_check_offset(v, &r.code, r.rip);
    descriptor_set_accessed(v, r.cs, &r.code);
    if (!r.new_stack)
        stack_pointer_set(v, stack_pointer(v) + 3 * size);
    flags_load(v, flags, flags_changeable(v, size));
    return_commit(v, &r);
}

void op_iret(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize;
    v->nmi_blocked = false;
    if (vcpu_protected(v))
        iret_protected(v, size);
    else if (!vcpu_v86(v))
        iret_real(v, size, FLAGS_IRET & ~(FLAG_VIF | FLAG_VIP));
    else if (vcpu_iopl(v) == 3)
        iret_real(v, size, FLAGS_IRET & ~(FLAG_IOPL | FLAG_VIF | FLAG_VIP));
    else
        iret_v86_extended(v, size);
}
