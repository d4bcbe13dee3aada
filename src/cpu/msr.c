/* Model-specific registers.
 *
 * One row an MSR, or a run of them. A row says which processors have it and how it is read and written; most are a field of
 * vcpu.msr with the bits that may be set, or a constant. An MSR without a row does not exist: #GP and a line in the log,
 * which is the first thing to look at when a guest gives up early.
 *
 * Rules kept for all: reserved bits, addresses that are not canonical and invalid memory types are #GP and change nothing.
 * MSRs that control what ring3 does not have (caches, thermal throttling, speculation) exist only where software reads them
 * without asking CPUID first; there they read as a quiet machine and writes are forgotten.
 *
 * Time. The TSC is guest time in ticks plus IA32_TSC_ADJUST, so writing one moves the other. The local APIC knows
 * guest time only: IA32_TSC_DEADLINE is converted here, and again whenever the guest moves its TSC.
 *
 * Memory types (MTRRs, PAT) are stored and checked, and have no effect: host memory is write-back.
 *
 * Not there: performance counters of CPUID leaf 0xA (the P6 and K7 ones read as 0), last-branch records (read as 0), RAPL,
 * MPERF and APERF, VMX, SVM, SGX. IA32_SPEC_CTRL and its kin are stored and have no effect. IA32_BIOS_SIGN_ID always shows the revision that is "loaded".
 *
 * SDM vol. 4; vol. 3, 11.11 (MTRRs), 11.12 (PAT), 15.3 (machine check), 17.17 (TSC); APM vol. 2, 3.1.7 and appendix A.
 */
#include "cpu/msr.h"

#include <stddef.h>

#include "base/log.h"
#include "cpu/cpuid.h"
#include "cpu/ops.h"
#include "cpu/pvclock.h"
#include "mmu/access.h"

#define MSR_TSC_DEADLINE 0x6e0u
#define MTRR_CAP (8u | 1u << 8 | 1u << 10) /* 8 variable ranges, fixed ranges, write combining */
#define MTRR_PAIRS 8u
#define MCG_CAP (8u | 1u << 8) /* 8 banks, IA32_MCG_CTL */
#define MTRR_DEF_TYPE_WRITABLE 0xcffull
#define SYSCFG_MTRR_FIX_DRAM_MOD (1ull << 19)
#define SYSCFG_WRITABLE 0x7c0000ull /* MtrrFixDramEn .. Tom2ForceMemTypeWB */
#define HWCR_MC_STATUS_WRITE (1ull << 18)
#define HWCR_TSC_FREQ_SEL (1ull << 24)
#define HWCR_WRITABLE (1ull << 3 | 1ull << 4 | 1ull << 6 | 1ull << 8 | HWCR_MC_STATUS_WRITE)
#define DE_CFG_LFENCE_SERIALIZE (1ull << 1)
#define FEATURE_CONTROL_LOCK 1ull
#define BUS_KHZ 100000u
#define SPEC_CTRL_IBRS_STIBP 3ull
#define SPEC_CTRL_SSBD (1ull << 2)
#define SPEC_CTRL_PSFD (1ull << 7)
#define PRED_CMD_IBPB 1ull
#define PRED_CMD_SBPB (1ull << 7)
#define FLUSH_CMD_L1D 1ull
#define ANY_BITS UINT64_MAX

struct msr_row;
typedef bool msr_reader(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value);
typedef bool msr_writer(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value);
typedef bool msr_presence(const struct cpu_model *model);

struct msr_row {
    uint32_t first;
    uint32_t count;
    const char *name;
    msr_presence *present;
    uint16_t feature;
    uint16_t field;   /* offset within struct vcpu */
    uint64_t bits;    /* writable bits; or the constant that is read */
    msr_reader *read;  /* NULL: write-only */
    msr_writer *write; /* NULL: read-only */
};

/* ---- presence ---- */
static bool on_any(const struct cpu_model *model)
{
    return true;
}

static bool on_p6(const struct cpu_model *model)
{
    return model->family >= 6;
}

static bool on_intel_p6(const struct cpu_model *model)
{
    return !model->amd && model->family >= 6;
}

static bool on_intel_64(const struct cpu_model *model)
{
    return !model->amd && model_has(model, CPU_LM);
}

static bool on_amd(const struct cpu_model *model)
{
    return model->amd;
}

static bool with_efer(const struct cpu_model *model)
{
    return model->efer_mask != 0;
}

static bool with_tsc_aux(const struct cpu_model *model)
{
    return model_has(model, CPU_RDTSCP) || model_has(model, CPU_RDPID);
}

static bool with_ssbd(const struct cpu_model *model)
{
    return model_has(model, CPU_SSBD) || model_has(model, CPU_AMD_SSBD);
}

static bool with_spec_ctrl(const struct cpu_model *model)
{
    return model_has(model, CPU_SPEC_CTRL) || model_has(model, CPU_STIBP) || model_has(model, CPU_AMD_IBRS) ||
           model_has(model, CPU_AMD_STIBP) || model_has(model, CPU_AMD_PSFD) || with_ssbd(model);
}

static bool with_ibpb(const struct cpu_model *model)
{
    return model_has(model, CPU_SPEC_CTRL) || model_has(model, CPU_AMD_IBPB);
}

/* ---- plain registers ---- */
static uint64_t *field_of(struct vcpu *v, const struct msr_row *row, uint32_t msr)
{
    return (uint64_t *)((char *)v + row->field) + (msr - row->first);
}

static bool read_field(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    *value = *field_of(v, row, msr);
    return true;
}

static bool write_field(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    if (value & ~row->bits)
        return false;
    *field_of(v, row, msr) = value;
    return true;
}

/* Other bits do not stick. */
static bool write_masked(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    *field_of(v, row, msr) = value & row->bits;
    return true;
}

static bool write_canonical(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    if (!model_has(v->model, CPU_LM))
        value = (uint32_t)value;
    if (!gva_canonical(value))
        return false;
    *field_of(v, row, msr) = value;
    return true;
}

static bool read_constant(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    *value = row->bits;
    return true;
}

static bool write_ignored(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    return true;
}

/* Commands: nothing is kept. */
static bool write_command(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    return !(value & ~row->bits);
}

static bool write_pred_cmd(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    return !(value & ~(PRED_CMD_IBPB | (cpu_has(v, CPU_SBPB) ? PRED_CMD_SBPB : 0)));
}

static bool write_spec_ctrl(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    uint64_t writable = SPEC_CTRL_IBRS_STIBP | (with_ssbd(v->model) ? SPEC_CTRL_SSBD : 0) |
                        (cpu_has(v, CPU_AMD_PSFD) ? SPEC_CTRL_PSFD : 0);
    if (value & ~writable)
        return false;
    v->msr.spec_ctrl = value;
    return true;
}

static bool read_arch_capabilities(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    *value = v->model->arch_capabilities;
    return true;
}

/* The TSC's frequency as a multiple of the bus's. */
static bool read_ratio(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    *value = (uint64_t)((v->tsc_khz + BUS_KHZ / 2) / BUS_KHZ) << 8;
    return true;
}

/* ---- the local APIC and time ---- */
static bool read_platform(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    return v->platform.apic_msr_read != NULL && v->platform.apic_msr_read(v->platform.opaque, msr, value);
}

static bool write_platform(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    return v->platform.apic_msr_write != NULL && v->platform.apic_msr_write(v->platform.opaque, msr, value);
}

/* The APIC's deadline is guest time in ns, 0 when not armed; the guest's is its TSC then. Both counters go on from now. */
static bool read_deadline(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    if (!read_platform(v, row, MSR_TSC_DEADLINE, value))
        return false;
    if (*value != 0)
        *value = vcpu_tsc_at(v, *value);
    return true;
}

static bool write_deadline(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    if (value != 0) {
        uint64_t now_ns = v->platform.now_ns(v->platform.opaque), tsc = vcpu_tsc_at(v, now_ns);
        uint64_t wait_ns = value > tsc ? tsc_to_ns(v, value - tsc) : 0;
        value = wait_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + wait_ns;
        value += value == 0; /* at guest time 0: the next ns, since 0 disarms */
    }
    return write_platform(v, row, MSR_TSC_DEADLINE, value);
}

/* Moves the guest's TSC, and with it everything that was told in its terms. */
static void tsc_adjust_set(struct vcpu *v, uint64_t adjust)
{
    uint64_t deadline = 0;
    bool armed = cpu_has(v, CPU_TSC_DEADLINE) && read_deadline(v, NULL, MSR_TSC_DEADLINE, &deadline) && deadline != 0;
    v->msr.tsc_adjust = adjust;
    if (armed)
        write_deadline(v, NULL, MSR_TSC_DEADLINE, deadline);
    pvclock_update(v);
}

static bool read_tsc(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    *value = vcpu_tsc(v);
    return true;
}

static bool write_tsc(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    tsc_adjust_set(v, v->msr.tsc_adjust + (value - vcpu_tsc(v)));
    return true;
}

static bool write_tsc_adjust(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    tsc_adjust_set(v, value);
    return true;
}

static bool write_kvm_system_time(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    v->msr.kvm_system_time = value;
    pvclock_update(v);
    return true;
}

static bool write_kvm_wall_clock(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    v->msr.kvm_wall_clock = value;
    pvclock_write_wall_clock(v, value);
    return true;
}

/* ---- modes and segments ---- */
static bool write_efer(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    uint64_t offered = v->model->efer_mask;
    if (!v->model->amd && (v->msr.misc_enable & MISC_ENABLE_XD_DISABLE))
        offered &= ~EFER_NXE;
    value = (value & ~EFER_LMA) | (v->efer & EFER_LMA); /* LMA follows CR0.PG */
    uint64_t changed = value ^ v->efer;
    if ((value & ~offered) || ((changed & EFER_LME) && (v->cr0 & CR0_PG)))
        return false;
    v->efer = value;
    if (changed & EFER_NXE)
        mmu_flush(v);
    vcpu_mode_changed(v);
    return true;
}

static enum seg base_segment(uint32_t msr)
{
    return msr == 0xc0000100 ? SEG_FS : SEG_GS;
}

static bool read_base(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t *value)
{
    *value = v->seg[base_segment(msr)].base;
    return true;
}

static bool write_base(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    if (!gva_canonical(value))
        return false;
    v->seg[base_segment(msr)].base = value;
    return true;
}

static bool write_tsc_aux(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    if (!v->model->amd && value >> 32) /* AMD forgets the upper half */
        return false;
    v->msr.tsc_aux = (uint32_t)value;
    return true;
}

/* ---- memory types ---- */
static bool mtrr_type_valid(uint64_t type)
{
    return type <= 6 && type != 2 && type != 3; /* UC, WC, WT, WP, WB */
}

static bool write_pat(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    for (unsigned i = 0; i < 64; i += 8) {
        uint64_t type = value >> i & 0xff;
        if (!mtrr_type_valid(type) && type != 7) /* UC- */
            return false;
    }
    v->msr.pat = value;
    return true;
}

static bool write_mtrr_fixed(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    /* AMD: RdMem and WrMem, seen only while SYSCFG shows them */
    uint64_t dram = v->model->amd && (v->msr.syscfg & SYSCFG_MTRR_FIX_DRAM_MOD) ? 0x18 : 0;
    for (unsigned i = 0; i < 64; i += 8)
        if (!mtrr_type_valid(value >> i & 0xff & ~dram))
            return false;
    *field_of(v, row, msr) = value;
    return true;
}

static bool write_mtrr_variable(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    bool mask = msr & 1;
    if (value >> v->maxphyaddr || (value & (mask ? 0x7ffu : 0xf00u)) || (!mask && !mtrr_type_valid(value & 0xff)))
        return false;
    *field_of(v, row, msr) = value;
    return true;
}

static bool write_mtrr_def_type(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    return mtrr_type_valid(value & 0xff) && write_field(v, row, msr, value);
}

/* ---- the rest ---- */
static bool write_misc_enable(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    uint64_t writable = MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_LIMIT_CPUID;
    if (cpu_has(v, CPU_MONITOR))
        writable |= MISC_ENABLE_MONITOR;
    if (cpu_has(v, CPU_NX))
        writable |= MISC_ENABLE_XD_DISABLE;
    v->msr.misc_enable = (v->msr.misc_enable & ~writable) | (value & writable);
    return true;
}

static bool write_feature_control(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    return !(v->msr.feature_control & FEATURE_CONTROL_LOCK) && write_field(v, row, msr, value);
}

/* IA32_MCi_CTL takes anything; STATUS, ADDR and MISC can only be cleared, unless AMD's HWCR opens them. */
static bool write_mc_bank(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    bool open = v->model->amd && (v->msr.hwcr & HWCR_MC_STATUS_WRITE);
    if ((msr & 3) != 0 && value != 0 && !open)
        return false;
    *field_of(v, row, msr) = value;
    return true;
}

static bool write_hwcr(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    v->msr.hwcr = (value & HWCR_WRITABLE) | HWCR_TSC_FREQ_SEL;
    return true;
}

static bool write_debugctl(struct vcpu *v, const struct msr_row *row, uint32_t msr, uint64_t value)
{
    if (v->model->amd)
        value &= ~0x3cull; /* pins */
    return write_field(v, row, msr, value);
}

/* ---- the table, by number ---- */
#define NO_FEATURE CPU_FPU /* every model has it */
#define MSR(n, count, name, present, feature, field, bits, read, write)                                                \
    {n, count, name, present, feature, field, bits, read, write},
#define FIELD(member) offsetof(struct vcpu, member)
#define PLAIN(n, name, present, feature, member, bits)                                                                 \
    MSR(n, 1, name, present, feature, FIELD(member), bits, read_field, write_field)
#define CUSTOM(n, count, name, present, feature, member, write)                                                        \
    MSR(n, count, name, present, feature, FIELD(member), 0, read_field, write)
#define CONSTANT(n, count, name, present, feature, value)                                                              \
    MSR(n, count, name, present, feature, 0, value, read_constant, NULL)
#define FORGETS(n, count, name, present, feature, value)                                                               \
    MSR(n, count, name, present, feature, 0, value, read_constant, write_ignored)

/* clang-format off */
static const struct msr_row rows[] = {
    FORGETS(0x00, 1, "IA32_P5_MC_ADDR", on_any, CPU_MCE, 0)
    FORGETS(0x01, 1, "IA32_P5_MC_TYPE", on_any, CPU_MCE, 0)
    MSR(0x10, 1, "IA32_TIME_STAMP_COUNTER", on_any, CPU_TSC, 0, 0, read_tsc, write_tsc)
    CUSTOM(0x11, 1, "MSR_KVM_WALL_CLOCK", on_any, CPU_KVM_CLOCKSOURCE, msr.kvm_wall_clock, write_kvm_wall_clock)
    CUSTOM(0x12, 1, "MSR_KVM_SYSTEM_TIME", on_any, CPU_KVM_CLOCKSOURCE, msr.kvm_system_time, write_kvm_system_time)
    CONSTANT(0x17, 1, "IA32_PLATFORM_ID", on_intel_p6, NO_FEATURE, 0)
    MSR(0x1b, 1, "IA32_APIC_BASE", on_p6, CPU_APIC, 0, 0, read_platform, write_platform)
    FORGETS(0x2a, 1, "MSR_EBL_CR_POWERON", on_intel_p6, NO_FEATURE, 0)
    CONSTANT(0x34, 1, "MSR_SMI_COUNT", on_intel_64, NO_FEATURE, 0)
    MSR(0x3a, 1, "IA32_FEATURE_CONTROL", on_intel_64, NO_FEATURE, FIELD(msr.feature_control), FEATURE_CONTROL_LOCK,
        read_field, write_feature_control)
    CUSTOM(0x3b, 1, "IA32_TSC_ADJUST", on_any, CPU_TSC_ADJUST, msr.tsc_adjust, write_tsc_adjust)
    CUSTOM(0x48, 1, "IA32_SPEC_CTRL", with_spec_ctrl, NO_FEATURE, msr.spec_ctrl, write_spec_ctrl)
    MSR(0x49, 1, "IA32_PRED_CMD", with_ibpb, NO_FEATURE, 0, 0, NULL, write_pred_cmd)
    FORGETS(0x79, 1, "IA32_BIOS_UPDT_TRIG", on_intel_p6, NO_FEATURE, 0)
    CUSTOM(0x8b, 1, "IA32_BIOS_SIGN_ID", on_p6, NO_FEATURE, msr.bios_sign_id, write_ignored)
    FORGETS(0xc1, 2, "IA32_PMC", on_intel_p6, NO_FEATURE, 0)
    MSR(0xce, 1, "MSR_PLATFORM_INFO", on_intel_64, NO_FEATURE, 0, 0, read_ratio, NULL)
    CONSTANT(0xfe, 1, "IA32_MTRRCAP", on_any, CPU_MTRR, MTRR_CAP)
    MSR(0x10a, 1, "IA32_ARCH_CAPABILITIES", on_any, CPU_ARCH_CAPABILITIES, 0, 0, read_arch_capabilities, NULL)
    MSR(0x10b, 1, "IA32_FLUSH_CMD", on_any, CPU_FLUSH_L1D, 0, FLUSH_CMD_L1D, NULL, write_command)
    FORGETS(0x11e, 1, "MSR_BBL_CR_CTL3", on_intel_p6, NO_FEATURE, 0xbe702111) /* an L2 cache, enabled */
    MSR(0x174, 1, "IA32_SYSENTER_CS", on_any, CPU_SEP, FIELD(msr.sysenter_cs), UINT32_MAX, read_field, write_masked)
    CUSTOM(0x175, 1, "IA32_SYSENTER_ESP", on_any, CPU_SEP, msr.sysenter_esp, write_canonical)
    CUSTOM(0x176, 1, "IA32_SYSENTER_EIP", on_any, CPU_SEP, msr.sysenter_eip, write_canonical)
    CONSTANT(0x179, 1, "IA32_MCG_CAP", on_any, CPU_MCA, MCG_CAP)
    PLAIN(0x17a, "IA32_MCG_STATUS", on_any, CPU_MCA, msr.mcg_status, 7)
    PLAIN(0x17b, "IA32_MCG_CTL", on_any, CPU_MCA, msr.mcg_ctl, ANY_BITS)
    FORGETS(0x186, 2, "IA32_PERFEVTSEL", on_intel_p6, NO_FEATURE, 0)
    MSR(0x198, 1, "IA32_PERF_STATUS", on_intel_64, NO_FEATURE, 0, 0, read_ratio, NULL)
    MSR(0x199, 1, "IA32_PERF_CTL", on_intel_64, NO_FEATURE, 0, 0, read_ratio, write_ignored)
    CUSTOM(0x1a0, 1, "IA32_MISC_ENABLE", on_intel_64, NO_FEATURE, msr.misc_enable, write_misc_enable)
    MSR(0x1d9, 1, "IA32_DEBUGCTL", on_p6, NO_FEATURE, FIELD(msr.debugctl), DEBUGCTL_LBR | DEBUGCTL_BTF, read_field,
        write_debugctl)
    CONSTANT(0x1db, 4, "MSR_LASTBRANCH", on_p6, NO_FEATURE, 0) /* FROMIP, TOIP; of the last exception too */
    FORGETS(0x1fc, 1, "MSR_POWER_CTL", on_intel_64, NO_FEATURE, 0)
    CUSTOM(0x200, 2 * MTRR_PAIRS, "IA32_MTRR_PHYS", on_any, CPU_MTRR, msr.mtrr_variable, write_mtrr_variable)
    CUSTOM(0x250, 1, "IA32_MTRR_FIX64K", on_any, CPU_MTRR, msr.mtrr_fixed[0], write_mtrr_fixed)
    CUSTOM(0x258, 2, "IA32_MTRR_FIX16K", on_any, CPU_MTRR, msr.mtrr_fixed[1], write_mtrr_fixed)
    CUSTOM(0x268, 8, "IA32_MTRR_FIX4K", on_any, CPU_MTRR, msr.mtrr_fixed[3], write_mtrr_fixed)
    CUSTOM(0x277, 1, "IA32_PAT", on_any, CPU_PAT, msr.pat, write_pat)
    MSR(0x2ff, 1, "IA32_MTRR_DEF_TYPE", on_any, CPU_MTRR, FIELD(msr.mtrr_def_type), MTRR_DEF_TYPE_WRITABLE, read_field,
        write_mtrr_def_type)
    CUSTOM(0x400, 32, "IA32_MC", on_any, CPU_MCA, msr.mc_bank, write_mc_bank)
    MSR(MSR_TSC_DEADLINE, 1, "IA32_TSC_DEADLINE", on_any, CPU_TSC_DEADLINE, 0, 0, read_deadline, write_deadline)
    MSR(0x800, 0x100, "IA32_X2APIC", on_any, CPU_X2APIC, 0, 0, read_platform, write_platform)
    PLAIN(0xda0, "IA32_XSS", on_any, CPU_XSAVES, msr.xss, 0) /* no supervisor components */

    CUSTOM(0x4b564d00, 1, "MSR_KVM_WALL_CLOCK_NEW", on_any, CPU_KVM_CLOCKSOURCE2, msr.kvm_wall_clock,
           write_kvm_wall_clock)
    CUSTOM(0x4b564d01, 1, "MSR_KVM_SYSTEM_TIME_NEW", on_any, CPU_KVM_CLOCKSOURCE2, msr.kvm_system_time,
           write_kvm_system_time)
    MSR(0x4b564d04, 1, "MSR_KVM_PV_EOI_EN", on_any, CPU_KVM_PV_EOI, 0, 0, read_platform, write_platform)

    MSR(0xc0000080, 1, "IA32_EFER", with_efer, NO_FEATURE, FIELD(efer), 0, read_field, write_efer)
    PLAIN(0xc0000081, "IA32_STAR", on_any, CPU_SYSCALL, msr.star, ANY_BITS)
    CUSTOM(0xc0000082, 1, "IA32_LSTAR", on_any, CPU_LM, msr.lstar, write_canonical)
    CUSTOM(0xc0000083, 1, "IA32_CSTAR", on_any, CPU_LM, msr.cstar, write_canonical)
    MSR(0xc0000084, 1, "IA32_FMASK", on_any, CPU_LM, FIELD(msr.sfmask), UINT32_MAX, read_field, write_masked)
    MSR(0xc0000100, 1, "IA32_FS_BASE", on_any, CPU_LM, 0, 0, read_base, write_base)
    MSR(0xc0000101, 1, "IA32_GS_BASE", on_any, CPU_LM, 0, 0, read_base, write_base)
    CUSTOM(0xc0000102, 1, "IA32_KERNEL_GS_BASE", on_any, CPU_LM, msr.kernel_gs_base, write_canonical)
    CUSTOM(0xc0000103, 1, "IA32_TSC_AUX", with_tsc_aux, NO_FEATURE, msr.tsc_aux, write_tsc_aux)

    FORGETS(0xc0010000, 4, "PERF_CTL", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0010004, 4, "PERF_CTR", on_amd, NO_FEATURE, 0)
    MSR(0xc0010010, 1, "SYSCFG", on_amd, NO_FEATURE, FIELD(msr.syscfg), SYSCFG_WRITABLE, read_field, write_masked)
    CUSTOM(0xc0010015, 1, "HWCR", on_amd, NO_FEATURE, msr.hwcr, write_hwcr)
    MSR(0xc001001a, 1, "TOP_MEM", on_amd, NO_FEATURE, FIELD(msr.top_mem[0]), 0x000fffffff800000, read_field, write_masked)
    MSR(0xc001001d, 1, "TOP_MEM2", on_amd, NO_FEATURE, FIELD(msr.top_mem[1]), 0x000fffffff800000, read_field,
        write_masked)
    FORGETS(0xc001001f, 1, "NB_CFG", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0010020, 1, "PATCH_LOADER", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0010055, 1, "INT_PENDING_MSG", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0010058, 1, "MMIO_CFG_BASE", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0010112, 2, "SMM_ADDR", on_amd, NO_FEATURE, 0) /* and SMM_MASK: no TSEG */
    PLAIN(0xc001011f, "VIRT_SPEC_CTRL", on_any, CPU_VIRT_SSBD, msr.virt_spec_ctrl, SPEC_CTRL_SSBD)
    FORGETS(0xc0011020, 1, "LS_CFG", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0011021, 1, "IC_CFG", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0011022, 1, "DC_CFG", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0011023, 1, "TW_CFG", on_amd, NO_FEATURE, 0)
    FORGETS(0xc0011029, 1, "DE_CFG", on_amd, NO_FEATURE, DE_CFG_LFENCE_SERIALIZE)
    FORGETS(0xc001102a, 1, "BU_CFG2", on_amd, NO_FEATURE, 0)
};
/* clang-format on */

/* The row of an MSR that this model has, or NULL. */
static const struct msr_row *row_find(const struct cpu_model *model, uint32_t msr)
{
    size_t low = 0, high = ARRAY_LEN(rows);
    while (high - low > 1) { /* the last row that begins at or before `msr` */
        size_t middle = (low + high) / 2;
        if (rows[middle].first <= msr)
            low = middle;
        else
            high = middle;
    }
    const struct msr_row *row = &rows[low];
    bool there = msr - row->first < row->count && row->present(model) && model_has(model, row->feature);
    return there ? row : NULL;
}

bool msr_read(struct vcpu *v, uint32_t msr, uint64_t *value)
{
    const struct msr_row *row = row_find(v->model, msr);
    return row != NULL && row->read != NULL && row->read(v, row, msr, value);
}

bool msr_write(struct vcpu *v, uint32_t msr, uint64_t value)
{
    const struct msr_row *row = row_find(v->model, msr);
    return row != NULL && row->write != NULL && row->write(v, row, msr, value);
}

const char *msr_name(const struct vcpu *v, uint32_t msr)
{
    const struct msr_row *row = row_find(v->model, msr);
    return row == NULL ? NULL : row->name;
}

void msr_reset(struct vcpu *v, bool init)
{
    if (init) /* everything is kept but EFER (vcpu_reset) and what the SDM names */
        return;
    v->msr = (struct msr_state){
        .pat = 0x0007040600070406,
        .misc_enable = MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE |
                       (cpu_has(v, CPU_MONITOR) ? MISC_ENABLE_MONITOR : 0),
        .bios_sign_id = v->model->amd ? 0x01000065 : 1ull << 32,
        .feature_control = FEATURE_CONTROL_LOCK,
        .mcg_ctl = UINT64_MAX,
        .hwcr = HWCR_TSC_FREQ_SEL,
    };
}

/* ---- the instructions ---- */
void op_rdmsr(struct vcpu *v, const struct insn *in)
{
    if (v->cpl != 0)
        fault_gp(v, 0);
    uint32_t msr = (uint32_t)v->regs[RCX];
    uint64_t value = 0;
    bool ok = msr_read(v, msr, &value);
    vcpu_exit(v, &(struct exit){.reason = EXIT_MSR_READ, .address = msr, .value = value});
    if (!ok) {
        log_info(v->log, "RDMSR 0x%x at 0x%llx: #GP, there is no such MSR", msr, (unsigned long long)v->rip);
        fault_gp(v, 0);
    }
    v->regs[RAX] = (uint32_t)value;
    v->regs[RDX] = value >> 32;
}

void op_wrmsr(struct vcpu *v, const struct insn *in)
{
    if (v->cpl != 0)
        fault_gp(v, 0);
    uint32_t msr = (uint32_t)v->regs[RCX];
    uint64_t value = v->regs[RDX] << 32 | (uint32_t)v->regs[RAX];
    vcpu_exit(v, &(struct exit){.reason = EXIT_MSR_WRITE, .address = msr, .value = value});
    if (!msr_write(v, msr, value)) {
        const char *name = msr_name(v, msr);
        log_info(v->log, "WRMSR 0x%x (%s) = 0x%llx at 0x%llx: #GP", msr, name != NULL ? name : "no such MSR",
                 (unsigned long long)value, (unsigned long long)v->rip);
        fault_gp(v, 0);
    }
}
