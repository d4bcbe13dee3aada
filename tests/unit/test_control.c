/* Control and debug registers, flags, TLB maintenance, ports, waiting: src/cpu/control.c, flags_ops.c, io_ops.c,
 * misc.c. */
#include "system_test.h"

/* MOV CRn/DRn, RBX and back into RCX. */
static struct insn insn_to(enum operand_kind kind, unsigned n)
{
    return (struct insn){.op_kind = {(uint8_t)kind, OPERAND_REG},
                         .op_reg = {(uint8_t)n, RBX * 8},
                         .base = GPR_ZERO,
                         .index = GPR_ZERO,
                         .opsize = 8,
                         .addrsize = 8};
}

static struct insn insn_from(enum operand_kind kind, unsigned n)
{
    struct insn in = insn_to(kind, n);
    in.op_kind[0] = OPERAND_REG;
    in.op_reg[0] = RCX * 8;
    in.op_kind[1] = (uint8_t)kind;
    in.op_reg[1] = (uint8_t)n;
    return in;
}

static int cr_write(struct bench *b, unsigned cr, uint64_t value)
{
    struct insn in = insn_to(OPERAND_CR, cr);
    b->v->regs[RBX] = value;
    return bench_run(b, op_mov_to_cr, &in);
}

static int dr_write(struct bench *b, unsigned dr, uint64_t value)
{
    struct insn in = insn_to(OPERAND_DR, dr);
    b->v->regs[RBX] = value;
    return bench_run(b, op_mov_to_dr, &in);
}

static int dr_read(struct bench *b, unsigned dr)
{
    struct insn in = insn_from(OPERAND_DR, dr);
    return bench_run(b, op_mov_from_dr, &in);
}

struct saved {
    uint64_t cr0, cr3, cr4, efer, code_mode, cpl;
};

static struct saved save(const struct vcpu *v)
{
    return (struct saved){v->cr0, v->cr3, v->cr4, v->efer, v->code_mode, v->cpl};
}

/* A write that raises #GP and changes nothing. */
static void assert_refused(struct bench *b, unsigned cr, uint64_t value)
{
    struct saved before = save(b->v);
    assert_int_equal(cr_write(b, cr, value), VECTOR_GP);
    struct saved after = save(b->v);
    assert_memory_equal(&before, &after, sizeof before);
}

static void test_cr0_refused(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    uint64_t base = v->cr0 & ~(CR0_CD | CR0_NW);
    assert_refused(b, 0, (base & ~CR0_PE) | CR0_PG);
    assert_refused(b, 0, base | CR0_NW);
    v->efer = EFER_LME;
    assert_refused(b, 0, base | CR0_PG); /* LME without PAE */
    v->cr4 = CR4_PAE;
    v->seg[SEG_CS].attr |= SEG_ATTR_L;
    assert_refused(b, 0, base | CR0_PG); /* CS.L */
    v->seg[SEG_CS].attr &= ~SEG_ATTR_L;
    v->seg[SEG_TR].attr = 0x83;
    assert_refused(b, 0, base | CR0_PG); /* 16-bit TSS */
    bench_long(b, 0);
    assert_refused(b, 0, v->cr0 & ~CR0_PG);
    assert_refused(b, 0, v->cr0 | 1ull << 32);
    assert_refused(b, 0, v->cr0 | 1ull << 63);
    bench_segment(b, SEG_CS, CODE(0)); /* compatibility mode: may leave, but not with PCIDE */
    vcpu_mode_changed(v);
    v->cr4 |= CR4_PCIDE;
    assert_refused(b, 0, v->cr0 & ~CR0_PG);
    v->cr4 &= ~CR4_PCIDE;
    assert_int_equal(cr_write(b, 0, v->cr0 & ~CR0_PG), NO_FAULT);
    assert_false(v->efer & EFER_LMA);
    assert_true(v->efer & EFER_LME);
}

static void test_cr0_modes(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    assert_int_equal(cr_write(b, 0, CR0_PE | CR0_CD), NO_FAULT);
    assert_int_equal(v->cr0, CR0_PE | CR0_CD | CR0_ET);
    assert_int_equal(v->cpl, 0);
    assert_int_equal(cr_write(b, 0, CR0_PE | 1u << 6 | 1u << 28), NO_FAULT); /* reserved bits do not stick */
    assert_int_equal(v->cr0, CR0_PE | CR0_ET);
    assert_int_equal(cr_write(b, 0, 0), NO_FAULT);
    assert_int_equal(v->cr0, CR0_ET);
    bench_protected(b, 0);
    v->cr4 = CR4_PAE;
    v->cr3 = PML4_AT;
    v->efer = EFER_LME;
    assert_int_equal(cr_write(b, 0, CR0_PE | CR0_PG), NO_FAULT);
    assert_int_equal(v->efer, EFER_LME | EFER_LMA);
    assert_int_equal(v->code_mode, CODE_32_FLAT);
    assert_true(b->exits[EXIT_CR_WRITE] >= 4);
    bench_protected(b, 3);
    assert_int_equal(cr_write(b, 0, CR0_PE), VECTOR_GP);
}

static void test_cr0_old_processors(void **state)
{
    struct bench *b = *state;
    system_model(*state, "386");
    assert_int_equal(cr_write(b, 0, UINT32_MAX & ~CR0_PG), NO_FAULT);
    assert_int_equal(b->v->cr0, CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET);
    assert_int_equal(cr_write(b, 4, 0), VECTOR_UD);
    system_model(*state, "486");
    assert_int_equal(cr_write(b, 4, CR4_PSE | CR4_VME), NO_FAULT);
    assert_refused(b, 4, CR4_PAE);
}

static void test_pdptes(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    v->cr4 = CR4_PAE;
    put64(b, 0x6000, 0x7000 | 1);
    put64(b, 0x6008, 0x7000 | 3); /* R/W is reserved here */
    v->cr3 = 0x6000;
    assert_refused(b, 0, CR0_PE | CR0_PG);
    put64(b, 0x6008, 0);
    assert_int_equal(cr_write(b, 0, CR0_PE | CR0_PG), NO_FAULT);
    assert_int_equal(v->pdpte[0], 0x7001);
    put64(b, 0x6020, 2 | 1);
    assert_refused(b, 3, 0x6020);
    put64(b, 0x6000, 0x7000 | 0x101);
    assert_refused(b, 4, CR4_PAE | CR4_PGE); /* PGE reloads them */
    put64(b, 0x6000, 0x9000 | 1);
    assert_int_equal(cr_write(b, 4, CR4_PAE | CR4_PGE), NO_FAULT);
    assert_int_equal(v->pdpte[0], 0x9001);
    assert_int_equal(cr_write(b, 4, CR4_PAE | CR4_PGE | CR4_OSFXSR), NO_FAULT);
}

static void test_cr3_cr4(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    assert_refused(b, 4, CR4_PCIDE); /* not in long mode */
    bench_long(b, 0);
    assert_refused(b, 3, PML4_AT | 1ull << 63);
    assert_refused(b, 3, PML4_AT | 1ull << v->maxphyaddr);
    assert_refused(b, 4, 0);
    for (unsigned bit = 0; bit < 64; bit++)
        if (!(v->model->cr4_mask >> bit & 1))
            assert_refused(b, 4, CR4_PAE | 1ull << bit);
    assert_int_equal(cr_write(b, 3, PML4_AT | 5), NO_FAULT);
    assert_refused(b, 4, CR4_PAE | CR4_PCIDE); /* CR3[11:0] */
    assert_int_equal(cr_write(b, 3, PML4_AT), NO_FAULT);
    assert_int_equal(cr_write(b, 4, CR4_PAE | CR4_PCIDE), NO_FAULT);
    uint64_t flushes = v->count.tlb_flushes;
    assert_int_equal(cr_write(b, 3, PML4_AT | 1ull << 63), NO_FAULT);
    assert_int_equal(v->cr3, PML4_AT);
    assert_int_equal(v->count.tlb_flushes, flushes);
    assert_int_equal(cr_write(b, 3, PML4_AT | 7), NO_FAULT);
    assert_int_equal(v->cr3, PML4_AT | 7);
    assert_true(v->count.tlb_flushes > flushes);
    assert_refused(b, 3, PML4_AT | 1ull << 62);
}

static void test_cr2_cr8(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    bench_long(b, 0);
    assert_int_equal(cr_write(b, 2, 0x123456789abcdef0), NO_FAULT);
    struct insn in = insn_from(OPERAND_CR, 2);
    assert_int_equal(bench_run(b, op_mov_from_cr, &in), NO_FAULT);
    assert_int_equal(b->v->regs[RCX], 0x123456789abcdef0);
    assert_int_equal(cr_write(b, 8, 16), VECTOR_GP);
    assert_int_equal(cr_write(b, 8, 9), NO_FAULT);
    assert_int_equal(s->cr8, 9);
    in = insn_from(OPERAND_CR, 8);
    assert_int_equal(bench_run(b, op_mov_from_cr, &in), NO_FAULT);
    assert_int_equal(b->v->regs[RCX], 9);
    assert_int_equal(cr_write(b, 1, 0), VECTOR_UD);
    assert_int_equal(cr_write(b, 5, 0), VECTOR_UD);
    bench_protected(b, 0);
    assert_int_equal(cr_write(b, 8, 0), VECTOR_UD);
}

static void test_machine_status_word(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    v->cr0 = CR0_PE | CR0_ET;
    struct insn in = insn_reg(2, RBX);
    v->regs[RBX] = 0xfff0 | 8;
    assert_int_equal(bench_run(b, op_lmsw, &in), NO_FAULT);
    assert_int_equal(v->cr0, CR0_PE | CR0_ET | CR0_TS); /* PE stays, upper bits are not loaded */
    in = insn_reg(4, RBX);
    assert_int_equal(bench_run(b, op_smsw, &in), NO_FAULT);
    assert_int_equal(v->regs[RBX], v->cr0);
    in = insn_mem(4, 0, 0x100);
    put32(b, 0x100, 0xffffffff);
    assert_int_equal(bench_run(b, op_smsw, &in), NO_FAULT);
    assert_int_equal(get32(b, 0x100), 0xffff0000 | v->cr0);
    in = insn_plain(4);
    assert_int_equal(bench_run(b, op_clts, &in), NO_FAULT);
    assert_false(v->cr0 & CR0_TS);
    bench_protected(b, 3);
    assert_int_equal(bench_run(b, op_clts, &in), VECTOR_GP);
    in = insn_reg(4, RBX);
    assert_int_equal(bench_run(b, op_smsw, &in), NO_FAULT);
    v->cr4 |= CR4_UMIP;
    assert_int_equal(bench_run(b, op_smsw, &in), VECTOR_GP);
}

static void test_debug_registers(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_long(b, 0);
    assert_int_equal(dr_write(b, 0, 0xffff800000001234), NO_FAULT);
    assert_int_equal(dr_read(b, 0), NO_FAULT);
    assert_int_equal(v->regs[RCX], 0xffff800000001234);
    assert_int_equal(dr_write(b, 6, 0xffffffff), NO_FAULT);
    assert_int_equal(v->dr[6], 0xffffefff);
    assert_int_equal(dr_write(b, 4, 0), NO_FAULT); /* alias */
    assert_int_equal(v->dr[6], 0xffff0ff0);
    assert_int_equal(dr_write(b, 7, 1ull << 32), VECTOR_GP);
    assert_int_equal(dr_write(b, 6, 1ull << 63), VECTOR_GP);
    assert_int_equal(dr_write(b, 7, 0xffffdfff & ~0xffull), NO_FAULT);
    assert_int_equal(v->dr[7], 0xffff0700);
    v->cr4 |= CR4_DE;
    assert_int_equal(dr_write(b, 4, 0), VECTOR_UD);
    assert_int_equal(dr_read(b, 5), VECTOR_UD);
    assert_int_equal(dr_write(b, 7, 0x2400), NO_FAULT);
    assert_int_equal(dr_read(b, 3), VECTOR_DB);
    assert_int_equal(v->fault.dr6, 1u << 13);
    assert_false(v->fault.trap);
    bench_protected(b, 3);
    assert_int_equal(dr_read(b, 3), VECTOR_GP);
}

static void test_invlpg_invpcid(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_long(b, 0);
    struct insn in = insn_mem(8, 0, 0x1000);
    in.addrsize = 8;
    assert_int_equal(bench_run(b, op_invlpg, &in), NO_FAULT);
    assert_int_equal(b->exits[EXIT_TLB_FLUSH], 1);
    in.disp = 0x7fffffffffffffff; /* not canonical: nothing happens */
    assert_int_equal(bench_run(b, op_invlpg, &in), NO_FAULT);
    in = insn_reg(8, RBX);
    assert_int_equal(bench_run(b, op_invlpg, &in), VECTOR_UD);

    in = insn_mem(8, 1, 0x100);
    in.addrsize = 8;
    in.op_reg[0] = RBX * 8;
    put64(b, 0x100, 0);
    put64(b, 0x108, 0x5000);
    for (unsigned type = 0; type < 4; type++) {
        v->regs[RBX] = type;
        assert_int_equal(bench_run(b, op_invpcid, &in), NO_FAULT);
    }
    v->regs[RBX] = 4;
    assert_int_equal(bench_run(b, op_invpcid, &in), VECTOR_GP);
    v->regs[RBX] = 1ull << 32;
    assert_int_equal(bench_run(b, op_invpcid, &in), VECTOR_GP);
    v->regs[RBX] = 0;
    put64(b, 0x108, 1ull << 60);
    assert_int_equal(bench_run(b, op_invpcid, &in), VECTOR_GP);
    put64(b, 0x108, 0);
    put64(b, 0x100, 1);
    assert_int_equal(bench_run(b, op_invpcid, &in), VECTOR_GP); /* PCIDE is off */
    v->cr4 |= CR4_PCIDE;
    assert_int_equal(bench_run(b, op_invpcid, &in), NO_FAULT);
    put64(b, 0x100, 0x1000);
    v->regs[RBX] = 2;
    assert_int_equal(bench_run(b, op_invpcid, &in), VECTOR_GP);
    bench_long(b, 3);
    assert_int_equal(bench_run(b, op_invpcid, &in), VECTOR_GP);
    in = insn_plain(4);
    assert_int_equal(bench_run(b, op_invd, &in), VECTOR_GP);
}

static void test_xcr0(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    bench_protected(b, 0);
    assert_int_equal(bench_run(b, op_xgetbv, &in), VECTOR_UD);
    assert_int_equal(bench_run(b, op_xsetbv, &in), VECTOR_UD);
    v->cr4 = CR4_OSXSAVE;
    v->regs[RAX] = 3;
    v->regs[RCX] = v->regs[RDX] = 0;
    assert_int_equal(bench_run(b, op_xsetbv, &in), NO_FAULT);
    assert_int_equal(v->xcr0, 3);
    static const uint64_t wrong[] = {0, 2, 4, 5, 1u << 9 | 3, 7 /* this model has no AVX */};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        v->regs[RAX] = wrong[i];
        assert_int_equal(bench_run(b, op_xsetbv, &in), VECTOR_GP);
    }
    v->regs[RAX] = 3;
    v->regs[RDX] = 1;
    assert_int_equal(bench_run(b, op_xsetbv, &in), VECTOR_GP);
    v->regs[RDX] = 0;
    v->regs[RCX] = 2;
    assert_int_equal(bench_run(b, op_xsetbv, &in), VECTOR_GP);
    assert_int_equal(bench_run(b, op_xgetbv, &in), VECTOR_GP);
    v->regs[RCX] = 0;
    v->regs[RAX] = v->regs[RDX] = ~0ull;
    assert_int_equal(bench_run(b, op_xgetbv, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX], 3);
    assert_int_equal(v->regs[RDX], 0);
    v->regs[RCX] = 1;
    assert_int_equal(bench_run(b, op_xgetbv, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX] & ~3ull, 0);
    bench_protected(b, 3);
    v->cr4 = CR4_OSXSAVE;
    assert_int_equal(bench_run(b, op_xsetbv, &in), VECTOR_GP);
}

static void test_bases(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_long(b, 3);
    struct insn in = insn_reg(8, RBX);
    assert_int_equal(bench_run(b, op_rdfsbase, &in), VECTOR_UD);
    v->cr4 |= CR4_FSGSBASE;
    v->regs[RBX] = 0x800000000000;
    assert_int_equal(bench_run(b, op_wrgsbase, &in), VECTOR_GP);
    v->regs[RBX] = 0xffff900012345678;
    assert_int_equal(bench_run(b, op_wrgsbase, &in), NO_FAULT);
    in = insn_reg(4, RBX);
    assert_int_equal(bench_run(b, op_rdgsbase, &in), NO_FAULT);
    assert_int_equal(v->regs[RBX], 0x12345678);
    assert_int_equal(bench_run(b, op_wrfsbase, &in), NO_FAULT);
    assert_int_equal(v->seg[SEG_FS].base, 0x12345678);
    assert_int_equal(bench_run(b, op_swapgs, &in), VECTOR_GP);
    bench_long(b, 0);
    v->seg[SEG_GS].base = 1;
    v->msr.kernel_gs_base = 2;
    assert_int_equal(bench_run(b, op_swapgs, &in), NO_FAULT);
    assert_int_equal(v->seg[SEG_GS].base, 2);
    assert_int_equal(v->msr.kernel_gs_base, 1);
    bench_protected(b, 0);
    assert_int_equal(bench_run(b, op_swapgs, &in), VECTOR_UD);
}

/* ---- flags ---- */
static void bench_v86(struct bench *b, unsigned iopl)
{
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    rflags_set(v, FLAG_VM | iopl << FLAG_IOPL_SHIFT);
    for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
        segment_load_real(v, seg, 0x1000);
    v->regs[RSP] = 0x8000;
    vcpu_mode_changed(v);
}

static int sti(struct bench *b)
{
    struct insn in = insn_plain(2);
    return bench_run(b, op_sti, &in);
}

static int cli(struct bench *b)
{
    struct insn in = insn_plain(2);
    return bench_run(b, op_cli, &in);
}

static void test_cli_sti(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    assert_int_equal(sti(b), NO_FAULT);
    assert_int_equal(v->shadow, SHADOW_STI);
    v->shadow = 0;
    assert_int_equal(sti(b), NO_FAULT); /* was open: no shadow */
    assert_int_equal(v->shadow, 0);
    assert_int_equal(cli(b), NO_FAULT);
    assert_false(v->rflags_rest & FLAG_IF);
    bench_protected(b, 3);
    assert_int_equal(cli(b), VECTOR_GP);
    assert_int_equal(sti(b), VECTOR_GP);
    v->rflags_rest |= FLAG_IOPL;
    assert_int_equal(sti(b), NO_FAULT);
    assert_true(v->rflags_rest & FLAG_IF);
    bench_protected(b, 3);
    v->cr4 = CR4_PVI;
    assert_int_equal(sti(b), NO_FAULT);
    assert_true(v->rflags_rest & FLAG_VIF);
    assert_false(v->rflags_rest & FLAG_IF);
    assert_int_equal(cli(b), NO_FAULT);
    v->rflags_rest |= FLAG_VIP;
    assert_int_equal(sti(b), VECTOR_GP);
    bench_protected(b, 1);
    v->cr4 = CR4_PVI;
    assert_int_equal(sti(b), VECTOR_GP); /* CPL 3 only */
    bench_v86(b, 0);
    assert_int_equal(sti(b), VECTOR_GP);
    v->cr4 = CR4_PVI;
    assert_int_equal(sti(b), VECTOR_GP); /* PVI is not for v86 */
    v->cr4 = CR4_VME;
    assert_int_equal(sti(b), NO_FAULT);
    assert_true(v->rflags_rest & FLAG_VIF);
    bench_v86(b, 3);
    assert_int_equal(sti(b), NO_FAULT);
    assert_true(v->rflags_rest & FLAG_IF);
}

static int popf(struct bench *b, unsigned size, uint64_t flags)
{
    struct vcpu *v = b->v;
    uint32_t at = (uint32_t)(v->seg[SEG_SS].base + v->regs[RSP]);
    put64(b, at, flags);
    struct insn in = insn_plain(size);
    uint64_t rsp = v->regs[RSP];
    int fault = bench_run(b, op_popf, &in);
    assert_int_equal(v->regs[RSP], fault == NO_FAULT ? rsp + size : rsp);
    v->regs[RSP] = rsp;
    return fault;
}

static uint64_t pushf(struct bench *b, unsigned size)
{
    struct vcpu *v = b->v;
    struct insn in = insn_plain(size);
    uint64_t rsp = v->regs[RSP];
    assert_int_equal(bench_run(b, op_pushf, &in), NO_FAULT);
    assert_int_equal(v->regs[RSP], rsp - size);
    v->regs[RSP] = rsp;
    uint64_t value = get64(b, (uint32_t)(v->seg[SEG_SS].base + rsp - size));
    return size == 8 ? value : value & ((1ull << size * 8) - 1);
}

static void test_popf(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    assert_int_equal(popf(b, 4, 0xffffffff), NO_FAULT);
    assert_int_equal(rflags_get(v), 0x247fd7); /* all but RF, VM, VIF, VIP */
    assert_int_equal(pushf(b, 4), 0x247fd7);
    v->rflags_rest |= FLAG_RF;
    assert_int_equal(pushf(b, 4), 0x247fd7);
    assert_int_equal(popf(b, 2, 0), NO_FAULT);
    assert_int_equal(rflags_get(v), FLAG_ID | FLAG_AC | FLAG_RF | FLAG_FIXED);
    bench_protected(b, 3);
    assert_int_equal(popf(b, 4, 0xffffffff), NO_FAULT);
    assert_int_equal(rflags_get(v), 0x244dd7); /* neither IF nor IOPL, in silence */
    rflags_set(v, FLAG_IOPL | FLAG_IF);
    assert_int_equal(popf(b, 4, 0), NO_FAULT);
    assert_int_equal(rflags_get(v), FLAG_IOPL | FLAG_FIXED);
    bench_long(b, 0);
    assert_int_equal(popf(b, 8, ~0ull), NO_FAULT);
    assert_int_equal(pushf(b, 8), 0x247fd7);
    system_model(*state, "386");
    assert_int_equal(popf(b, 4, 0xffffffff), NO_FAULT);
    assert_int_equal(rflags_get(v), 0x7fd7); /* neither AC nor ID */
}

static void test_popf_v86(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_v86(b, 0);
    assert_int_equal(popf(b, 2, 0), VECTOR_GP);
    v->cr4 = CR4_VME;
    assert_int_equal(popf(b, 4, 0), VECTOR_GP);
    assert_int_equal(popf(b, 2, FLAG_TF), VECTOR_GP);
    assert_int_equal(popf(b, 2, FLAG_IF | FLAG_CF), NO_FAULT);
    assert_int_equal(rflags_get(v), FLAG_VM | FLAG_VIF | FLAG_CF | FLAG_FIXED);
    assert_int_equal(pushf(b, 2), FLAG_IOPL | FLAG_IF | FLAG_CF | FLAG_FIXED);
    v->rflags_rest |= FLAG_VIP;
    assert_int_equal(popf(b, 2, FLAG_IF), VECTOR_GP);
    assert_int_equal(popf(b, 2, 0), NO_FAULT);
    assert_false(v->rflags_rest & FLAG_VIF);
    bench_v86(b, 3);
    assert_int_equal(popf(b, 4, 0xffffffff & ~FLAG_IOPL), NO_FAULT);
    assert_int_equal(rflags_get(v), 0x247fd7 | FLAG_VM);
    assert_int_equal(pushf(b, 4), 0x247fd7);
}

static void test_alignment_flag(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    bench_long(b, 0);
    v->cr4 |= CR4_SMAP;
    vcpu_mode_changed(v);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_KERNEL]);
    assert_int_equal(bench_run(b, op_stac, &in), NO_FAULT);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_KERNEL_AC]);
    assert_int_equal(bench_run(b, op_clac, &in), NO_FAULT);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_KERNEL]);
    bench_long(b, 3);
    assert_int_equal(bench_run(b, op_stac, &in), VECTOR_UD);
}

/* ---- ports ---- */
static struct insn insn_port(uint8_t opcode, unsigned opsize)
{
    struct insn in = insn_plain(opsize);
    in.opcode = opcode;
    return in;
}

static void test_in_out(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    s->port_value = 0xa1b2c3d4;
    v->regs[RAX] = ~0ull;
    struct insn in = insn_port(0xe5, 4);
    in.imm = (uint64_t)(int64_t)(int8_t)0xcf;
    assert_int_equal(bench_run(b, op_in, &in), NO_FAULT);
    assert_int_equal(b->last_exit.address, 0xcf);
    assert_int_equal(b->last_exit.size, 4);
    assert_int_equal(v->regs[RAX], 0xa1b2c3d4);
    v->regs[RDX] = 0xfffe1234;
    in = insn_port(0xec, 1);
    s->port_value = 0x155;
    assert_int_equal(bench_run(b, op_in, &in), NO_FAULT);
    assert_int_equal(b->last_exit.address, 0x1234);
    assert_int_equal(v->regs[RAX], 0xa1b2c355);
    in = insn_port(0xef, 8); /* REX.W is ignored */
    assert_int_equal(bench_run(b, op_out, &in), NO_FAULT);
    assert_int_equal(b->last_exit.size, 4);
    assert_int_equal(s->last_written, 0xa1b2c355);
    bench_protected(b, 3);
    b->ram[TSS_AT + 102] = 0xff; /* no bitmap within the limit */
    b->ram[TSS_AT + 103] = 0xff;
    assert_int_equal(bench_run(b, op_out, &in), VECTOR_GP);
    v->rflags_rest |= FLAG_IOPL;
    assert_int_equal(bench_run(b, op_out, &in), NO_FAULT);
}

static void test_rep_ins(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    struct insn in = insn_port(0x6d, 2);
    in.flags = INSN_REP;
    s->port_value = 0x1111;
    v->regs[RDX] = 0x1f0;
    v->regs[RDI] = 0x300000;
    v->regs[RCX] = 1000;
    unsigned runs = 0;
    uint64_t rip = v->rip;
    do {
        assert_int_equal(bench_run(b, op_ins, &in), NO_FAULT);
        runs++;
    } while (v->rip == rip);
    assert_true(runs > 1 && runs < 1000);
    assert_int_equal(v->rip, rip + 2);
    assert_int_equal(s->ports_read, 1000);
    assert_int_equal(v->regs[RCX], 0);
    assert_int_equal(v->regs[RDI], 0x300000 + 2000);
    assert_int_equal(get16(b, 0x300000), 0x1111);
    assert_int_equal(get16(b, 0x300000 + 1998), 0x1111 + 999);
    /* an event cuts it short */
    v->regs[RCX] = 5;
    v->pending = PENDING_NMI;
    rip = v->rip;
    assert_int_equal(bench_run(b, op_ins, &in), NO_FAULT);
    assert_int_equal(v->rip, rip);
    assert_int_equal(v->regs[RCX], 4);
    v->pending = 0;
    /* memory is asked before the port */
    v->seg[SEG_ES].limit = 0x300003;
    v->regs[RDI] = 0x300000;
    v->regs[RCX] = 5;
    s->ports_read = 0;
    assert_int_equal(bench_run(b, op_ins, &in), VECTOR_GP);
    assert_int_equal(s->ports_read, 2);
    assert_int_equal(v->regs[RCX], 3);
    assert_int_equal(v->regs[RDI], 0x300004);
}

static void test_rep_outs(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    struct insn in = insn_port(0x6e, 1);
    in.flags = INSN_REP;
    in.addrsize = 2;
    in.seg = SEG_FS;
    v->seg[SEG_FS].base = 0x200000;
    memcpy(b->ram + 0x200000, "abc", 3);
    v->rflags_rest |= FLAG_DF;
    v->regs[RSI] = 0x10002;
    v->regs[RCX] = 0xffff0003;
    assert_int_equal(bench_run(b, op_outs, &in), NO_FAULT);
    assert_int_equal(s->ports_written, 3);
    assert_int_equal(s->last_written, 'a');
    assert_int_equal(v->regs[RSI], 0x1ffff);
    assert_int_equal(v->regs[RCX], 0xffff0000);
    assert_int_equal(bench_run(b, op_outs, &in), NO_FAULT);
    assert_int_equal(s->ports_written, 3);
}

static void test_io_breakpoint(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    v->dr[1] = 0x3f8;
    v->dr[7] = 0x400 | 1u << 2 | 2u << 20 | 1u << 22; /* L1, I/O, two bytes */
    v->regs[RDX] = 0x3f9;
    struct insn in = insn_port(0xee, 1);
    assert_int_equal(bench_run(b, op_out, &in), NO_FAULT);
    assert_int_equal(v->dr6_pending, 0); /* CR4.DE is off */
    v->cr4 |= CR4_DE;
    assert_int_equal(bench_run(b, op_out, &in), NO_FAULT);
    assert_int_equal(v->dr6_pending, 2);
    v->dr6_pending = 0;
    v->regs[RDX] = 0x3fa;
    assert_int_equal(bench_run(b, op_out, &in), NO_FAULT);
    assert_int_equal(v->dr6_pending, 0);
}

/* ---- the rest ---- */
static void test_waiting(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    system_model(*state, "x86-64-v1,+monitor");
    bench_protected(b, 0);
    assert_int_equal(bench_run(b, op_hlt, &in), NO_FAULT);
    assert_int_equal(v->activity, ACTIVITY_HLT);
    assert_int_equal(b->exits[EXIT_HLT], 1);
    v->activity = ACTIVITY_RUNNING;
    assert_int_equal(bench_run(b, op_mwait, &in), NO_FAULT); /* not armed */
    assert_int_equal(v->activity, ACTIVITY_RUNNING);
    assert_int_equal(bench_run(b, op_monitor, &in), NO_FAULT);
    assert_true(v->monitor_armed);
    assert_int_equal(bench_run(b, op_mwait, &in), NO_FAULT); /* IF = 0: a false wake-up */
    assert_int_equal(v->activity, ACTIVITY_RUNNING);
    v->rflags_rest |= FLAG_IF;
    assert_int_equal(bench_run(b, op_monitor, &in), NO_FAULT);
    assert_int_equal(bench_run(b, op_mwait, &in), NO_FAULT);
    assert_int_equal(v->activity, ACTIVITY_HLT);
    v->regs[RCX] = 2;
    assert_int_equal(bench_run(b, op_mwait, &in), VECTOR_GP);
    assert_int_equal(bench_run(b, op_monitor, &in), VECTOR_GP);
    bench_protected(b, 3);
    assert_int_equal(bench_run(b, op_hlt, &in), VECTOR_GP);
    assert_int_equal(bench_run(b, op_mwait, &in), VECTOR_UD);
}

static void test_time_and_random(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    bench_protected(b, 3);
    s->now_ns = 0x500000007;
    v->regs[RAX] = v->regs[RDX] = ~0ull;
    assert_int_equal(bench_run(b, op_rdtsc, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX], 7);
    assert_int_equal(v->regs[RDX], 5);
    v->msr.tsc_aux = 0x12345678;
    assert_int_equal(bench_run(b, op_rdtscp, &in), NO_FAULT);
    assert_int_equal(v->regs[RCX], 0x12345678);
    v->cr4 |= CR4_TSD;
    assert_int_equal(bench_run(b, op_rdtsc, &in), VECTOR_GP);
    assert_int_equal(bench_run(b, op_rdtscp, &in), VECTOR_GP);
    v->regs[RCX] = 0;
    assert_int_equal(bench_run(b, op_rdpmc, &in), VECTOR_GP);
    v->cr4 |= CR4_PCE;
    assert_int_equal(bench_run(b, op_rdpmc, &in), NO_FAULT);
    v->regs[RCX] = 2;
    assert_int_equal(bench_run(b, op_rdpmc, &in), VECTOR_GP);
    in = insn_reg(2, RBX);
    v->regs[RBX] = 0xffff0000;
    rflags_set(v, FLAGS_STATUS);
    assert_int_equal(bench_run(b, op_rdrand, &in), NO_FAULT);
    assert_int_equal(v->regs[RBX], 0xffff7788);
    assert_int_equal(rflags_get(v) & FLAGS_STATUS, FLAG_CF);
    in = insn_reg(4, RBX);
    assert_int_equal(bench_run(b, op_rdpid, &in), NO_FAULT);
    assert_int_equal(v->regs[RBX], 0x12345678);
}

static void test_hypercall(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    bench_long(b, 0);
    v->regs[RAX] = 1234;
    assert_int_equal(bench_run(b, op_hypercall, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX], -1000ull);
    v->regs[RAX] = 9;
    v->regs[RBX] = 0x2000;
    v->regs[RCX] = 0;
    assert_int_equal(bench_run(b, op_hypercall, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX], 0);
    assert_int_equal(get64(b, 0x2000), 1700000000);
    assert_int_equal(get64(b, 0x2010), 1000);
    v->regs[RAX] = 9;
    v->regs[RBX] = ~0ull;
    assert_int_equal(bench_run(b, op_hypercall, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX], -14ull);
    bench_protected(b, 3);
    v->regs[RAX] = 1;
    assert_int_equal(bench_run(b, op_hypercall, &in), NO_FAULT);
    assert_int_equal(v->regs[RAX], UINT32_MAX);
    assert_int_equal(bench_run(b, op_rsm, &in), VECTOR_UD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SYSTEM_TEST(test_cr0_refused),
        SYSTEM_TEST(test_cr0_modes),
        SYSTEM_TEST(test_cr0_old_processors),
        SYSTEM_TEST(test_pdptes),
        SYSTEM_TEST(test_cr3_cr4),
        SYSTEM_TEST(test_cr2_cr8),
        SYSTEM_TEST(test_machine_status_word),
        SYSTEM_TEST(test_debug_registers),
        SYSTEM_TEST(test_invlpg_invpcid),
        SYSTEM_TEST(test_xcr0),
        SYSTEM_TEST(test_bases),
        SYSTEM_TEST(test_cli_sti),
        SYSTEM_TEST(test_popf),
        SYSTEM_TEST(test_popf_v86),
        SYSTEM_TEST(test_alignment_flag),
        SYSTEM_TEST(test_in_out),
        SYSTEM_TEST(test_rep_ins),
        SYSTEM_TEST(test_rep_outs),
        SYSTEM_TEST(test_io_breakpoint),
        SYSTEM_TEST(test_waiting),
        SYSTEM_TEST(test_time_and_random),
        SYSTEM_TEST(test_hypercall),
    };
    return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
