#include "machine/boot_state.h"

#include "mmu/access.h"

static struct segment segment_of(const struct boot_segment *from)
{
    return (struct segment){
        .selector = from->selector, .attr = from->attributes, .limit = from->limit, .base = from->base};
}

void boot_state_apply(const struct boot_state *state, struct vcpu *v)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        v->regs[i] = 0;
    v->regs[RSP] = state->rsp;
    v->regs[RAX] = state->rax;
    v->regs[RBX] = state->rbx;
    v->regs[RDX] = state->rdx;
    v->regs[RSI] = state->rsi;
    v->rip = state->rip;
    rflags_set(v, (uint32_t)state->rflags);
    v->cr0 = state->cr0;
    v->cr3 = state->cr3;
    v->cr4 = state->cr4;
    v->efer = state->efer;
    v->gdtr = (struct table_register){.base = state->gdt_base, .limit = state->gdt_limit};
    v->idtr = (struct table_register){.limit = state->idt_limit};
    v->seg[SEG_CS] = segment_of(&state->cs);
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        if (i != SEG_CS)
            v->seg[i] = segment_of(&state->ds);
    if (state->mode != BOOT_REAL16) {
        v->seg[SEG_TR] = segment_of(&state->tr);
        v->seg[SEG_LDTR].attr = SEG_ATTR_NULL;
    }
    mmu_flush(v);
    vcpu_mode_changed(v);
}
