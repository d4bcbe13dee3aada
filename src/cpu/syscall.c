/* SYSCALL, SYSRET, SYSENTER and SYSEXIT: system calls that look at no table.
 *
 * The segments get fixed hidden parts; nothing is read from memory, so nothing but the checks at the start can fault.
 *
 * Where vendors differ (model->amd): on AMD processors SYSCALL and SYSRET also exist outside 64-bit mode (SYSRET then
 * only sets IF), SYSRET loads only the selector of SS and leaves its hidden part (here: but for the DPL, which is the
 * CPL), and SYSENTER and SYSEXIT are #UD in long mode. On Intel processors SYSCALL and SYSRET are #UD outside 64-bit
 * mode and SYSRET to a non-canonical RCX is #GP(0) before the privilege changes.
 *
 * SDM vol. 2, SYSCALL, SYSENTER, SYSEXIT, SYSRET; APM vol. 3, the same.
 */
#include "cpu/cpuid.h"
#include "cpu/descriptor.h"
#include "cpu/ops.h"

/* RFLAGS bits that SYSRET loads from R11. */
#define FLAGS_SYSRET 0x3c7fd7u

static void segments_set(struct vcpu *v, unsigned cs, bool wide, unsigned ss, unsigned dpl)
{
    uint32_t privilege = ATTR_DPL(dpl);
    segment_set_flat(&v->seg[SEG_CS], (uint16_t)cs, (wide ? ATTR_CODE64 : ATTR_CODE32) | privilege);
    segment_set_flat(&v->seg[SEG_SS], (uint16_t)ss, ATTR_DATA32 | privilege);
}

static void require_syscall(struct vcpu *v)
{
    if (!(v->efer & EFER_SCE) || !vcpu_protected(v) || (!v->model->amd && v->code_mode != CODE_64))
        fault_ud(v);
}

void op_syscall(struct vcpu *v, const struct insn *in)
{
    require_syscall(v);
    uint16_t cs = (uint16_t)(v->msr.star >> 32);
    uint32_t flags = rflags_get(v) & ~FLAG_RF;
    bool long_mode = vcpu_long_mode(v);
    v->regs[RCX] = v->next_rip;
    if (long_mode) {
        v->regs[R11] = flags;
        v->next_rip = v->code_mode == CODE_64 ? v->msr.lstar : v->msr.cstar;
        rflags_set(v, flags & ~(uint32_t)v->msr.sfmask);
    } else {
        v->next_rip = (uint32_t)v->msr.star;
        rflags_set(v, flags & ~(FLAG_IF | FLAG_VM));
    }
    segments_set(v, cs & ~3u, long_mode, cs + 8u, 0);
    vcpu_mode_changed(v);
}

void op_sysret(struct vcpu *v, const struct insn *in)
{
    require_syscall(v);
    if (v->cpl != 0)
        fault_gp(v, 0);
    bool from64 = v->code_mode == CODE_64;
    bool to64 = from64 && in->opsize == 8;
    if (to64 && !v->model->amd && !gva_canonical(v->regs[RCX]))
        fault_gp(v, 0);
    uint16_t selector = (uint16_t)(v->msr.star >> 48);
    struct segment ss = v->seg[SEG_SS];
    uint64_t rip = to64 ? v->regs[RCX] : (uint32_t)v->regs[RCX];
    uint32_t flags = from64 ? (uint32_t)v->regs[R11] & FLAGS_SYSRET & (v->model->rflags_mask | FLAGS_STATUS)
                            : rflags_get(v) | FLAG_IF;
    rflags_set(v, flags & ~(FLAG_RF | FLAG_VM));
    segments_set(v, (selector + (to64 ? 16u : 0)) | 3, to64, (selector + 8u) | 3, 3);
    if (v->model->amd) {
        ss.selector = v->seg[SEG_SS].selector;
        ss.attr |= ATTR_DPL(3);
        v->seg[SEG_SS] = ss;
    }
    v->next_rip = rip;
    vcpu_mode_changed(v);
}

static void require_sysenter(struct vcpu *v)
{
    if (v->model->amd && vcpu_long_mode(v))
        fault_ud(v);
    if (!(v->cr0 & CR0_PE) || selector_is_null((uint16_t)v->msr.sysenter_cs))
        fault_gp(v, 0);
}

void op_sysenter(struct vcpu *v, const struct insn *in)
{
    require_sysenter(v);
    bool wide = vcpu_long_mode(v);
    uint16_t cs = (uint16_t)v->msr.sysenter_cs & 0xfffc;
    rflags_set(v, rflags_get(v) & ~(FLAG_VM | FLAG_IF | FLAG_RF));
    segments_set(v, cs, wide, cs + 8u, 0);
    v->next_rip = wide ? v->msr.sysenter_eip : (uint32_t)v->msr.sysenter_eip;
    vcpu_mode_changed(v);
    v->regs[RSP] = wide ? v->msr.sysenter_esp : (uint32_t)v->msr.sysenter_esp;
}

void op_sysexit(struct vcpu *v, const struct insn *in)
{
    require_sysenter(v);
    if (v->cpl != 0)
        fault_gp(v, 0);
    bool to64 = v->code_mode == CODE_64 && in->opsize == 8;
    uint64_t rip = v->regs[RDX], rsp = v->regs[RCX];
    if (to64 && (!gva_canonical(rip) || !gva_canonical(rsp)))
        fault_gp(v, 0);
    uint16_t cs = (uint16_t)((v->msr.sysenter_cs & 0xfffc) + (to64 ? 32 : 16));
    segments_set(v, cs | 3u, to64, (cs + 8u) | 3, 3);
    v->next_rip = to64 ? rip : (uint32_t)rip;
    v->regs[RSP] = to64 ? rsp : (uint32_t)rsp;
    vcpu_mode_changed(v);
}
