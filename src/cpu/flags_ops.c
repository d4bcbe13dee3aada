/* Instructions on RFLAGS' system bits: CLI, STI, PUSHF, POPF, CLAC, STAC.
 *
 * These are the famous non-virtualizable ones: what they do depends on CPL and IOPL and most forms do it in silence.
 *
 *     mode                     CLI, STI                        PUSHF, POPF
 *     real, or CPL 0           IF                              all
 *     protected, CPL <= IOPL   IF                              all but IOPL
 *     protected, CPL > IOPL    VIF with CR4.PVI and CPL 3,     all but IOPL and IF, in silence
 *                              else #GP
 *     v86, IOPL 3              IF                              all but IOPL
 *     v86, IOPL < 3            VIF with CR4.VME, else #GP      16-bit ones with CR4.VME: IF is VIF; else #GP
 *
 * STI opens interrupts after the next instruction only, and only if they were closed before. POPF does so at once.
 *
 * SDM vol. 2 (the instructions), vol. 3, 20.3 (VME), 20.4 (PVI; PUSHF and POPF are not part of it).
 */
#include "cpu/cpuid.h"
#include "cpu/ops.h"

/* What POPF may change in any mode; RF is always cleared by the 32- and 64-bit forms. */
#define POPF_ALWAYS (FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID)

/* Which interrupt flag CLI and STI act on: FLAG_IF, FLAG_VIF; raises #GP(0) when neither. */
static uint32_t interrupt_flag(struct vcpu *v)
{
    if (!(v->cr0 & CR0_PE) || v->cpl <= vcpu_iopl(v))
        return FLAG_IF; /* v86 mode has CPL 3 */
    if (v->cr4 & (vcpu_v86(v) ? CR4_VME : v->cpl == 3 ? CR4_PVI : 0))
        return FLAG_VIF;
    fault_gp(v, 0);
}

void op_cli(struct vcpu *v, const struct insn *in)
{
    v->rflags_rest &= ~interrupt_flag(v);
}

void op_sti(struct vcpu *v, const struct insn *in)
{
    uint32_t flag = interrupt_flag(v);
    if (flag == FLAG_VIF && (v->rflags_rest & FLAG_VIP))
        fault_gp(v, 0);
    if (flag == FLAG_IF && !(v->rflags_rest & FLAG_IF))
        v->shadow = SHADOW_STI;
    v->rflags_rest |= flag;
}

/* True in virtual-8086 mode with IOPL < 3, where 16-bit forms work on VIF; raises #GP(0) where they do not work. */
static bool flags_virtual(struct vcpu *v, const struct insn *in)
{
    if (!vcpu_v86(v) || vcpu_iopl(v) == 3)
        return false;
    if (!(v->cr4 & CR4_VME) || in->opsize != 2)
        fault_gp(v, 0);
    return true;
}

void op_pushf(struct vcpu *v, const struct insn *in)
{
    uint32_t flags = rflags_get(v) & ~(FLAG_VM | FLAG_RF);
    if (flags_virtual(v, in)) {
        flags |= FLAG_IOPL;
        flags = flags & FLAG_VIF ? flags | FLAG_IF : flags & ~FLAG_IF;
    }
    stack_push(v, in->opsize, flags);
}

void op_popf(struct vcpu *v, const struct insn *in)
{
    uint32_t old = rflags_get(v), mask = POPF_ALWAYS;
    bool virtual = flags_virtual(v, in);
    uint32_t value = (uint32_t)stack_peek(v, 0, in->opsize);
    if (virtual) {
        if ((value & FLAG_TF) || ((value & FLAG_IF) && (old & FLAG_VIP)))
            fault_gp(v, 0);
    } else {
        if (v->cpl == 0) /* real mode too */
            mask |= FLAG_IOPL;
        if (v->cpl <= vcpu_iopl(v))
            mask |= FLAG_IF;
    }
    mask &= v->model->rflags_mask;
    if (in->opsize == 2)
        mask &= 0xffff;
    uint32_t flags = (old & ~mask) | (value & mask);
    if (in->opsize != 2)
        flags &= ~FLAG_RF;
    if (virtual)
        flags = value & FLAG_IF ? flags | FLAG_VIF : flags & ~FLAG_VIF;
    stack_pointer_set(v, stack_pointer(v) + in->opsize);
    rflags_set(v, flags);
    if ((old ^ flags) & (FLAG_TF | FLAG_AC | FLAG_RF))
        vcpu_mode_changed(v);
}

static void ac_set(struct vcpu *v, bool on)
{
    if (v->cpl != 0)
        fault_ud(v);
    v->rflags_rest = on ? v->rflags_rest | FLAG_AC : v->rflags_rest & ~FLAG_AC;
    vcpu_mode_changed(v);
}

void op_clac(struct vcpu *v, const struct insn *in)
{
    ac_set(v, false);
}

void op_stac(struct vcpu *v, const struct insn *in)
{
    ac_set(v, true);
}
