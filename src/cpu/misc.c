/* Instructions that wait, tell the time, draw numbers or describe the processor.
 *
 * MONITOR and MWAIT. A store to the monitored line by somebody else cannot be noticed cheaply, and the manual lets
 * MWAIT end for any reason. So MWAIT waits like HLT where only an interrupt can end it anyway: one processor,
 * interrupts open. In all other cases it returns at once, as after a false wake-up, and the guest's loop looks at its
 * variable again: correct, but it burns time. That is why models do not offer MONITOR by themselves. The extension
 * "interrupts break MWAIT though IF = 0" (ECX bit 0) comes for free.
 *
 * RDPMC: processors without counters in CPUID leaf 0xA still have those of the P6 (two) and the K7 (four); all stand at
 * 0.
 *
 * SDM vol. 2 (the instructions).
 */
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/ops.h"
#include "mmu/access.h"

static void count(struct vcpu *v, enum exit_reason reason, uint64_t address, uint64_t value)
{
    vcpu_exit(v, &(struct exit){.reason = reason, .address = address, .value = value});
}

static void pair_write(struct vcpu *v, uint64_t value)
{
    v->regs[RAX] = (uint32_t)value;
    v->regs[RDX] = value >> 32;
}

/* ---- waiting ---- */
void op_hlt(struct vcpu *v, const struct insn *in)
{
    if (v->cpl != 0)
        fault_gp(v, 0);
    v->activity = ACTIVITY_HLT;
    count(v, EXIT_HLT, 0, 0);
}

#define MWAIT_BREAK_ON_INTERRUPT 1u /* ECX */

static void monitor_check(struct vcpu *v)
{
    if (v->cpl != 0 || (!v->model->amd && !(v->msr.misc_enable & MISC_ENABLE_MONITOR)))
        fault_ud(v);
}

void op_monitor(struct vcpu *v, const struct insn *in)
{
    monitor_check(v);
    if ((uint32_t)v->regs[RCX] != 0) /* no extensions */
        fault_gp(v, 0);
    unsigned flags = access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
    gva_t gva = seg_linear(v, in->seg, reg_read(v, RAX * 8, in->addrsize), 1, false);
    access_probe(v, gva, 1, flags);
    v->monitor_gva = gva;
    v->monitor_armed = true;
}

void op_mwait(struct vcpu *v, const struct insn *in)
{
    monitor_check(v);
    if ((uint32_t)v->regs[RCX] & ~MWAIT_BREAK_ON_INTERRUPT)
        fault_gp(v, 0);
    bool armed = v->monitor_armed;
    v->monitor_armed = false;
    if (armed && v->model->cpus == 1 && (v->rflags_rest & FLAG_IF))
        v->activity = ACTIVITY_HLT;
    count(v, EXIT_MWAIT, v->monitor_gva, 0);
}

/* ---- time and counters ---- */
static void rdtsc_check(struct vcpu *v)
{
    if ((v->cr4 & CR4_TSD) && v->cpl != 0)
        fault_gp(v, 0);
}

void op_rdtsc(struct vcpu *v, const struct insn *in)
{
    rdtsc_check(v);
    pair_write(v, vcpu_tsc(v));
}

void op_rdtscp(struct vcpu *v, const struct insn *in)
{
    rdtsc_check(v);
    pair_write(v, vcpu_tsc(v));
    v->regs[RCX] = (uint32_t)v->msr.tsc_aux;
}

void op_rdpmc(struct vcpu *v, const struct insn *in)
{
    unsigned counters = v->model->amd ? 4 : 2;
    if ((!(v->cr4 & CR4_PCE) && v->cpl != 0) || (uint32_t)v->regs[RCX] >= counters)
        fault_gp(v, 0);
    pair_write(v, 0);
}

void op_rdpid(struct vcpu *v, const struct insn *in)
{
    reg_write(v, in->op_reg[0], v->code_mode == CODE_64 ? 8 : 4, (uint32_t)v->msr.tsc_aux);
}

/* ---- random numbers ---- */
static void random_read(struct vcpu *v, const struct insn *in)
{
    reg_write(v, in->op_reg[0], in->opsize, v->platform.random(v->platform.opaque));
    v->status = STATUS_CF; /* a number every time; the other flags are cleared */
}

void op_rdrand(struct vcpu *v, const struct insn *in)
{
    random_read(v, in);
}

void op_rdseed(struct vcpu *v, const struct insn *in)
{
    random_read(v, in);
}

/* ---- identification ---- */
void op_cpuid(struct vcpu *v, const struct insn *in)
{
    uint32_t leaf = (uint32_t)v->regs[RAX], subleaf = (uint32_t)v->regs[RCX];
    count(v, EXIT_CPUID, leaf, subleaf);
    struct cpuid_result r = cpuid_query(v, leaf, subleaf);
    v->regs[RAX] = r.eax;
    v->regs[RBX] = r.ebx;
    v->regs[RCX] = r.ecx;
    v->regs[RDX] = r.edx;
}

/* ---- what there is not ---- */
/* There is no system management mode to return from. */
void op_rsm(struct vcpu *v, const struct insn *in)
{
    fault_ud(v);
}

void op_ud(struct vcpu *v, const struct insn *in)
{
    fault_ud(v);
}
