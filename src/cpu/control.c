/* Control registers, debug registers, and the other registers that decide how the processor works.
 *
 * Every write is checked whole before anything is changed: a MOV that raises #GP leaves the register, and all state
 * derived from it, as it was. The checks are gathered in one predicate a register (cr0_acceptable() ...), each line of
 * which is a sentence of the manual.
 *
 * Translations. What is cached holds for one setting of the paging bits: changing CR0.PG, CR0.WP, CR0.PE, or CR4's PSE, PAE,
 * PGE, PCIDE, SMEP or SMAP flushes everything. Which translations CR3 loads, INVLPG and INVPCID leave alone (global ones,
 * those of other PCIDs) is told to mmu/, which may forget more: the vCPU's own TLBs have no tags.
 *
 * PAE paging keeps the four top entries in the processor: loaded by MOV to CR3, and by MOV to CR0 or CR4 when it
 * changes one of the bits that SDM 4.4.1 names; a reserved bit in them is #GP and the register keeps its old value.
 *
 * Counting: an access goes through the door when it has passed its checks, just before it takes effect.
 *
 * Not emulated: caches (CR0.CD, CR0.NW, INVD and WBINVD are accepted and do nothing), DR7's RTM and DR6's bus-lock bits
 * (CPUID does not offer them), MOV CR8 by LOCK MOV CR0 (AMD, not offered).
 *
 * SDM vol. 3, 2.5 (control registers), 4.4 to 4.10 (paging), 9.8.5 (IA-32e mode), 17.2 (debug registers); vol. 2, MOV
 * to and from CR and DR, LMSW, SMSW, CLTS, INVLPG, INVPCID, XSETBV, SWAPGS, WRFSBASE.
 */
#include "cpu/cpuid.h"
#include "cpu/ops.h"
#include "mmu/access.h"

#define CR3_NO_FLUSH (1ull << 63)
#define CR4_PDPTE_LOAD (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP) /* a change loads the PDPTEs */
#define CR4_FLUSH (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)
#define CR0_FLUSH (CR0_PG | CR0_WP | CR0_PE)

#define DR6_WRITABLE 0x0000e00full /* BT, BS, BD, B3-B0 */
#define DR6_ONES 0xffff0ff0ull
#define DR6_BD (1ull << 13)
#define DR7_WRITABLE 0xffff23ffull
#define DR7_ONES 0x400ull
#define DR7_GD (1ull << 13)

#define UPPER_HALF 0xffffffff00000000ull
#define TSS16 0x1u /* system types 1 and 3 */

static void require_cpl0(struct vcpu *v)
{
    if (v->cpl != 0)
        fault_gp(v, 0);
}

static unsigned register_size(const struct vcpu *v)
{
    return v->code_mode == CODE_64 ? 8 : 4;
}

static void count(struct vcpu *v, enum exit_reason reason, uint64_t address, uint64_t value)
{
    vcpu_exit(v, &(struct exit){.reason = reason, .address = address, .value = value});
}

/* ---- CR0 ---- */
static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* `cr0` without reserved bits. */
static bool cr0_acceptable(const struct vcpu *v, uint64_t cr0)
{
    const struct segment *cs = &v->seg[SEG_CS];
    if ((cr0 & CR0_PG) && !(cr0 & CR0_PE))
        return false;
    if ((cr0 & CR0_NW) && !(cr0 & CR0_CD))
        return false;
    bool enable = (cr0 & CR0_PG) && !(v->cr0 & CR0_PG), disable = !(cr0 & CR0_PG) && (v->cr0 & CR0_PG);
    if (enable && (v->efer & EFER_LME)) {
        if (!(v->cr4 & CR4_PAE) || (cs->attr & SEG_ATTR_L))
            return false;
        if (!v->model->amd && (v->seg[SEG_TR].attr & (SEG_ATTR_TYPE & ~2u)) == TSS16)
            return false;
    }
    if (disable && ((v->cr4 & CR4_PCIDE) || v->code_mode == CODE_64))
        return false;
    return true;
}

static void cr0_write(struct vcpu *v, uint64_t cr0)
{
    if (cr0 & UPPER_HALF)
        fault_gp(v, 0);
    cr0 = (cr0 & v->model->cr0_mask) | CR0_ET;
    if (!cr0_acceptable(v, cr0))
        fault_gp(v, 0);
    uint64_t changed = cr0 ^ v->cr0, efer = v->efer;
    bool pdptes = changed & (CR0_PG | CR0_CD | CR0_NW);
    if (changed & CR0_PG)
        efer = (cr0 & CR0_PG) && (efer & EFER_LME) ? efer | EFER_LMA : efer & ~EFER_LMA;
    if (pdptes && pae_paging(cr0, v->cr4, efer) && !mmu_load_pdptes(v, v->cr3))
        fault_gp(v, 0);
    count(v, EXIT_CR_WRITE, 0, cr0);
    v->cr0 = cr0;
    v->efer = efer;
    if ((changed & CR0_FLUSH) || (pdptes && pae_paging(cr0, v->cr4, efer)))
        mmu_flush(v);
    vcpu_mode_changed(v);
}

/* ---- CR3 ---- */
static void cr3_write(struct vcpu *v, uint64_t cr3)
{
    bool keep = false;
    if (v->cr4 & CR4_PCIDE) {
        keep = cr3 & CR3_NO_FLUSH;
        cr3 &= ~CR3_NO_FLUSH;
    }
    if (vcpu_long_mode(v) && cr3 >> v->maxphyaddr)
        fault_gp(v, 0);
    if (pae_paging(v->cr0, v->cr4, v->efer) && !mmu_load_pdptes(v, cr3))
        fault_gp(v, 0);
    count(v, EXIT_CR_WRITE, 3, cr3);
    if (!(keep && cr3 == v->cr3))
        count(v, EXIT_TLB_FLUSH, cr3, 0);
    mmu_switch(v, cr3, keep);
}

/* ---- CR4 ---- */
static bool cr4_acceptable(const struct vcpu *v, uint64_t cr4)
{
    if (cr4 & ~v->model->cr4_mask)
        return false;
    if (vcpu_long_mode(v) && !(cr4 & CR4_PAE))
        return false;
    if ((cr4 & CR4_PCIDE) && !(v->cr4 & CR4_PCIDE) && (!vcpu_long_mode(v) || (v->cr3 & CR3_PCID)))
        return false;
    return true;
}

static void cr4_write(struct vcpu *v, uint64_t cr4)
{
    if (!cr4_acceptable(v, cr4))
        fault_gp(v, 0);
    uint64_t changed = cr4 ^ v->cr4;
    if ((changed & CR4_PDPTE_LOAD) && pae_paging(v->cr0, cr4, v->efer) && !mmu_load_pdptes(v, v->cr3))
        fault_gp(v, 0);
    count(v, EXIT_CR_WRITE, 4, cr4);
    v->cr4 = cr4;
    if (changed & CR4_FLUSH)
        mmu_flush(v);
    vcpu_mode_changed(v);
}

/* CR4 came with late 80486s, CR8 with 64-bit mode; the others have no register behind them. */
static void require_cr(struct vcpu *v, unsigned cr)
{
    bool there =
        cr == 0 || cr == 2 || cr == 3 || (cr == 4 && v->model->cr4_mask != 0) || (cr == 8 && v->code_mode == CODE_64);
    if (!there)
        fault_ud(v);
}

void op_mov_to_cr(struct vcpu *v, const struct insn *in)
{
    unsigned cr = in->op_reg[0];
    require_cr(v, cr);
    require_cpl0(v);
    uint64_t value = reg_read(v, in->op_reg[1], register_size(v));
    switch (cr) {
    case 0:
        cr0_write(v, value);
        break;
    case 2:
        count(v, EXIT_CR_WRITE, 2, value);
        v->cr2 = value;
        break;
    case 3:
        cr3_write(v, value);
        break;
    case 4:
        cr4_write(v, value);
        break;
    case 8:
        if (value & ~0xfull)
            fault_gp(v, 0);
        count(v, EXIT_CR_WRITE, 8, value);
        v->platform.cr8_write(v->platform.opaque, value);
        break;
    }
}

void op_mov_from_cr(struct vcpu *v, const struct insn *in)
{
    unsigned cr = in->op_reg[1];
    require_cr(v, cr);
    require_cpl0(v);
    uint64_t value = cr == 0   ? v->cr0
                     : cr == 2 ? v->cr2
                     : cr == 3 ? v->cr3
                     : cr == 4 ? v->cr4
                               : v->platform.cr8_read(v->platform.opaque);
    count(v, EXIT_CR_READ, cr, value);
    reg_write(v, in->op_reg[0], register_size(v), value);
}

/* ---- the machine status word ---- */
void op_lmsw(struct vcpu *v, const struct insn *in)
{
    require_cpl0(v);
    uint64_t msw = operand_read(v, in, 0, 2) & (CR0_PE | CR0_MP | CR0_EM | CR0_TS);
    msw |= v->cr0 & CR0_PE; /* LMSW cannot leave protected mode */
    cr0_write(v, (v->cr0 & ~(CR0_PE | CR0_MP | CR0_EM | CR0_TS)) | msw);
}

void op_smsw(struct vcpu *v, const struct insn *in)
{
    if ((v->cr4 & CR4_UMIP) && v->cpl != 0)
        fault_gp(v, 0);
    operand_write(v, in, 0, in->op_kind[0] == OPERAND_MEM ? 2 : in->opsize, v->cr0);
    count(v, EXIT_CR_READ, 0, v->cr0);
}

void op_clts(struct vcpu *v, const struct insn *in)
{
    require_cpl0(v);
    count(v, EXIT_CR_WRITE, 0, v->cr0 & ~CR0_TS);
    v->cr0 &= ~CR0_TS;
    vcpu_mode_changed(v);
}

/* ---- debug registers ---- */
/* The register that `n` names; raises what any access raises. */
static unsigned dr_access(struct vcpu *v, unsigned n)
{
    if (n == 4 || n == 5) {
        if (v->cr4 & CR4_DE)
            fault_ud(v);
        n += 2;
    }
    if (n > 7)
        fault_ud(v);
    require_cpl0(v);
    if (v->dr[7] & DR7_GD) /* delivering the fault clears GD */
        fault_raise(v, &(struct fault){.vector = VECTOR_DB, .dr6 = DR6_BD});
    return n;
}

void op_mov_from_dr(struct vcpu *v, const struct insn *in)
{
    unsigned n = dr_access(v, in->op_reg[1]);
    count(v, EXIT_DR_ACCESS, n, v->dr[n]);
    reg_write(v, in->op_reg[0], register_size(v), v->dr[n]);
}

void op_mov_to_dr(struct vcpu *v, const struct insn *in)
{
    unsigned n = dr_access(v, in->op_reg[0]);
    uint64_t value = reg_read(v, in->op_reg[1], register_size(v));
    if (n >= 6 && (value & UPPER_HALF))
        fault_gp(v, 0);
    if (n == 6)
        value = (value & DR6_WRITABLE) | DR6_ONES;
    else if (n == 7)
        value = (value & DR7_WRITABLE) | DR7_ONES;
    count(v, EXIT_DR_ACCESS, n, value);
    v->dr[n] = value;
    vcpu_mode_changed(v);
}

/* ---- translations and caches ---- */
/* Linear address of the operand without limit and type checks: INVLPG raises none. */
static gva_t operand_gva_unchecked(const struct vcpu *v, const struct insn *in)
{
    uint64_t offset = ea_offset(v, in);
    if (v->code_mode == CODE_64)
        return in->seg == SEG_FS || in->seg == SEG_GS ? v->seg[in->seg].base + offset : offset;
    return (uint32_t)(v->seg[in->seg].base + offset);
}

void op_invlpg(struct vcpu *v, const struct insn *in)
{
    if (in->op_kind[0] != OPERAND_MEM)
        fault_ud(v);
    require_cpl0(v);
    gva_t gva = operand_gva_unchecked(v, in);
    count(v, EXIT_TLB_FLUSH, gva, 0);
    if (gva_canonical(gva))
        mmu_flush_page(v, gva);
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL, INVPCID_TYPES };

void op_invpcid(struct vcpu *v, const struct insn *in)
{
    require_cpl0(v);
    uint64_t type = reg_read(v, in->op_reg[0], register_size(v));
    struct {
        uint64_t pcid, gva;
    } descriptor;
    unsigned flags = access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
    access_read_bytes(v, ea_linear(v, in, sizeof(descriptor), false), &descriptor, sizeof(descriptor), flags);
    if (type >= INVPCID_TYPES || (descriptor.pcid & ~CR3_PCID))
        fault_gp(v, 0);
    if (type <= INVPCID_CONTEXT && descriptor.pcid != 0 && !(v->cr4 & CR4_PCIDE))
        fault_gp(v, 0);
    if (type == INVPCID_ADDRESS && !gva_canonical(descriptor.gva))
        fault_gp(v, 0);
    count(v, EXIT_TLB_FLUSH, descriptor.gva, type);
    if (type == INVPCID_ALL_GLOBAL)
        mmu_flush(v);
    else if (type == INVPCID_ALL)
        mmu_flush_non_global(v);
    else
        mmu_flush_pcid(v, descriptor.pcid, descriptor.gva, type == INVPCID_ADDRESS);
}

/* INVD, WBINVD, WBNOINVD: there are no caches that memory could differ from. */
void op_invd(struct vcpu *v, const struct insn *in)
{
    require_cpl0(v);
}

/* ---- extended control registers ---- */
void op_xgetbv(struct vcpu *v, const struct insn *in)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        fault_ud(v);
    uint32_t index = (uint32_t)v->regs[RCX];
    uint64_t value = v->xcr0;
    if (index == 1 && cpu_has(v, CPU_XGETBV1))
        value &= fpu_xinuse(v);
    else if (index != 0)
        fault_gp(v, 0);
    v->regs[RAX] = (uint32_t)value;
    v->regs[RDX] = value >> 32;
}

void op_xsetbv(struct vcpu *v, const struct insn *in)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        fault_ud(v);
    require_cpl0(v);
    uint64_t value = v->regs[RDX] << 32 | (uint32_t)v->regs[RAX];
    if ((uint32_t)v->regs[RCX] != 0 || (value & ~v->model->xcr0_mask) || !(value & XCR0_X87))
        fault_gp(v, 0);
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        fault_gp(v, 0);
    v->xcr0 = value;
    vcpu_mode_changed(v);
}

/* ---- FS and GS bases ---- */
static void fsgsbase_check(struct vcpu *v)
{
    if (v->code_mode != CODE_64 || !(v->cr4 & CR4_FSGSBASE))
        fault_ud(v);
}

static void base_read(struct vcpu *v, const struct insn *in, enum seg seg)
{
    fsgsbase_check(v);
    reg_write(v, in->op_reg[0], in->opsize, v->seg[seg].base);
}

static void base_write(struct vcpu *v, const struct insn *in, enum seg seg)
{
    fsgsbase_check(v);
    uint64_t base = reg_read(v, in->op_reg[0], in->opsize);
    if (!gva_canonical(base))
        fault_gp(v, 0);
    v->seg[seg].base = base;
}

void op_rdfsbase(struct vcpu *v, const struct insn *in)
{
    base_read(v, in, SEG_FS);
}

void op_rdgsbase(struct vcpu *v, const struct insn *in)
{
    base_read(v, in, SEG_GS);
}

void op_wrfsbase(struct vcpu *v, const struct insn *in)
{
    base_write(v, in, SEG_FS);
}

void op_wrgsbase(struct vcpu *v, const struct insn *in)
{
    base_write(v, in, SEG_GS);
}

void op_swapgs(struct vcpu *v, const struct insn *in)
{
    if (v->code_mode != CODE_64)
        fault_ud(v);
    require_cpl0(v);
    uint64_t base = v->seg[SEG_GS].base;
    v->seg[SEG_GS].base = v->msr.kernel_gs_base;
    v->msr.kernel_gs_base = base;
}
