/* Segment loads, limits, descriptor-table instructions and what they examine, against tables written from the manual. */
#include "cpu_test.h"

/* What each type of code or data descriptor (S = 1) is for a load of DS: data, readable conforming code, or unloadable;
 * and whether SS takes it. Types 0 to 15, SDM vol. 3, table 3-1. */
static const char loadable[] = "ddddddddxxddxxcc";
static const char stackable[] = "--ww--ww--------";

static int expected_ds(unsigned type, unsigned dpl, unsigned cpl, unsigned rpl, bool present)
{
    char kind = loadable[type];
    if (kind == 'x' || (kind == 'd' && (dpl < cpl || dpl < rpl)))
        return VECTOR_GP;
    return present ? NO_FAULT : VECTOR_NP;
}

static int expected_ss(unsigned type, unsigned dpl, unsigned cpl, unsigned rpl, bool present)
{
    if (stackable[type] != 'w' || dpl != cpl || rpl != cpl)
        return VECTOR_GP;
    return present ? NO_FAULT : VECTOR_SS;
}

static void check_load(struct bench *b, enum seg seg, uint16_t selector, uint64_t descriptor, int expected)
{
    struct vcpu *v = b->v;
    struct segment before = v->seg[seg];
    gdt_put(b, selector, descriptor);
    assert_int_equal(bench_load(b, seg, selector), expected);
    if (expected == NO_FAULT) {
        assert_int_equal(v->seg[seg].selector, selector);
        assert_int_equal(v->seg[seg].base, 0x12345678);
        assert_int_equal(v->seg[seg].limit, 0xabcd);
        assert_int_equal(gdt_access(b, selector), (uint8_t)(descriptor >> 40) | 1);
    } else {
        assert_int_equal(v->fault.error, selector & 0xfffc);
        assert_memory_equal(&v->seg[seg], &before, sizeof before);
        assert_int_equal(gdt_access(b, selector), (uint8_t)(descriptor >> 40));
    }
}

static void loads_by_type_and_privilege(void **state)
{
    struct bench *b = *state;
    for (unsigned n = 0; n < 16 * 4 * 4 * 4 * 2; n++) {
        unsigned type = n & 15, dpl = n >> 4 & 3, cpl = n >> 6 & 3, rpl = n >> 8 & 3;
        bool present = n >> 10;
        uint16_t selector = (uint16_t)(SCRATCH | rpl);
        uint64_t d = descriptor_make(0x12345678, 0xabcd, type | 0x10 | dpl << 5 | (unsigned)present << 7, 0);
        bench_protected(b, cpl);
        check_load(b, SEG_DS, selector, d, expected_ds(type, dpl, cpl, rpl, present));
        bench_protected(b, cpl);
        check_load(b, SEG_SS, selector, d, expected_ss(type, dpl, cpl, rpl, present));
        bench_protected(b, cpl);
        check_load(b, SEG_GS, selector, d & ~(1ull << 44), VECTOR_GP); /* system descriptors never */
    }
}

static void loads_null_and_outside(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    assert_int_equal(bench_load(b, SEG_ES, 3), NO_FAULT);
    assert_true(v->seg[SEG_ES].attr & SEG_ATTR_NULL);
    assert_int_equal(v->code_mode, CODE_32);
    struct insn in = insn_mem(4, 1, 0);
    in.seg = SEG_ES;
    assert_int_equal(bench_run(b, op_les, &in), VECTOR_GP);
    assert_int_equal(v->fault.error, 0);
    assert_int_equal(bench_load(b, SEG_SS, 3), VECTOR_GP);
    assert_int_equal(v->fault.error, 0);
    assert_int_equal(bench_load(b, SEG_CS, CODE(3)), VECTOR_UD);
    assert_int_equal(bench_load(b, SEG_DS, GDT_ENTRIES * 8 | 3), VECTOR_GP);
    assert_int_equal(v->fault.error, GDT_ENTRIES * 8);
    assert_int_equal(bench_load(b, SEG_DS, 0x107), VECTOR_GP); /* beyond the LDT */
    assert_int_equal(v->fault.error, 0x104);
    put64(b, LDT_AT + 8, descriptor_make(0x70000, 0xff, 0xf2, 0));
    assert_int_equal(bench_load(b, SEG_DS, 0xf), NO_FAULT);
    assert_int_equal(v->seg[SEG_DS].base, 0x70000);
    assert_int_equal(b->ram[LDT_AT + 8 + 5], 0xf3);
}

static void null_stack_in_64_bit_mode(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_long(b, 0);
    assert_int_equal(bench_load(b, SEG_SS, 0), NO_FAULT);
    assert_int_equal(v->cpl, 0);
    assert_int_equal(bench_load(b, SEG_SS, 1), VECTOR_GP);
    bench_long(b, 3);
    assert_int_equal(bench_load(b, SEG_SS, 3), VECTOR_GP);
}

static int try_linear(struct bench *b, enum seg seg, uint64_t offset, unsigned size, bool write, gva_t *gva)
{
    jmp_buf unwind;
    b->v->unwind = &unwind;
    if (setjmp(unwind) != 0)
        return b->v->fault.vector;
    *gva = seg_linear(b->v, seg, offset, size, write);
    return NO_FAULT;
}

static void limits(void **state)
{
    static const struct {
        uint32_t limit;
        uint8_t access, flags;
        uint64_t offset;
        uint8_t size;
        bool write, ok;
    } rows[] = {
        {0xffff, 0xf3, 0, 0xfffc, 4, true, true},
        {0xffff, 0xf3, 0, 0xfffd, 4, true, false},
        {0xffff, 0xf1, 0, 0, 4, true, false},          /* read-only */
        {0xffff, 0xf1, 0, 0, 4, false, true},
        {0xffff, 0xf9, 0, 0, 1, false, false},         /* execute-only */
        {0xffff, 0xfb, 0, 0, 1, false, true},
        {0xffff, 0xfb, 0, 0, 1, true, false},
        {0xffff, 0x73, 0, 0, 1, false, false},         /* not present */
        {0xfff, 0xf7, 4, 0x1000, 4, true, true},       /* expand down, 32-bit */
        {0xfff, 0xf7, 4, 0xfff, 4, true, false},
        {0xfff, 0xf7, 4, 0xfffffffc, 4, true, true},
        {0xfff, 0xf7, 4, 0xfffffffd, 4, true, false},
        {0xfff, 0xf7, 0, 0xfffe, 2, true, true},       /* expand down, 16-bit */
        {0xfff, 0xf7, 0, 0xffff, 2, true, false},
        {0xfff, 0xf7, 0, 0x10000, 1, true, false},
        {0xfffff, 0xf3, 0xc, 0xfffffffc, 4, true, true},
        {0xfffff, 0xf3, 0xc, 0xfffffffe, 4, true, false},
    };
    struct bench *b = *state;
    bench_protected(b, 3);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t d = descriptor_make(0x30000000, rows[i].limit, rows[i].access, rows[i].flags);
        gva_t gva = 0;
        segment_from_descriptor(&b->v->seg[SEG_FS], SCRATCH, (uint32_t)d, (uint32_t)(d >> 32));
        segment_from_descriptor(&b->v->seg[SEG_SS], SCRATCH, (uint32_t)d, (uint32_t)(d >> 32));
        int expected = rows[i].ok ? NO_FAULT : VECTOR_GP;
        assert_int_equal(try_linear(b, SEG_FS, rows[i].offset, rows[i].size, rows[i].write, &gva), expected);
        if (rows[i].ok)
            assert_int_equal(gva, (uint32_t)(0x30000000 + rows[i].offset));
        expected = rows[i].ok ? NO_FAULT : VECTOR_SS;
        assert_int_equal(try_linear(b, SEG_SS, rows[i].offset, rows[i].size, rows[i].write, &gva), expected);
    }
}

static void bases_in_64_bit_mode(void **state)
{
    struct bench *b = *state;
    gva_t gva = 0;
    bench_long(b, 3);
    for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++) {
        b->v->seg[seg].base = 0x100000000;
        assert_int_equal(try_linear(b, seg, 0xffff800000000000, 8, true, &gva), NO_FAULT);
        assert_int_equal(gva, 0xffff800000000000 + (seg >= SEG_FS ? 0x100000000 : 0));
    }
}

static void real_mode_keeps_limits(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    gva_t gva = 0;
    v->seg[SEG_DS].limit = 0xffffffff;
    assert_int_equal(bench_load(b, SEG_DS, 0x1234), NO_FAULT);
    assert_int_equal(try_linear(b, SEG_DS, 0x10000000, 4, true, &gva), NO_FAULT);
    assert_int_equal(gva, 0x10012340);
    assert_int_equal(try_linear(b, SEG_ES, 0xffff, 2, false, &gva), VECTOR_GP);
    assert_int_equal(try_linear(b, SEG_CS, 0, 2, true, &gva), NO_FAULT);
}

/* ---- LAR, LSL, VERR, VERW ---- */

static bool has_zf(const struct bench *b)
{
    return b->v->status & STATUS_ZF;
}

static bool examine(struct bench *b, insn_op *op, uint16_t selector, uint64_t *result)
{
    struct insn in = insn_reg(4, RAX);
    in.op_kind[1] = OPERAND_REG;
    in.op_reg[1] = RCX * 8;
    b->v->regs[RAX] = 0x1122334455667788;
    b->v->regs[RCX] = selector;
    assert_int_equal(bench_run(b, op, &in), NO_FAULT);
    *result = b->v->regs[RAX];
    if (!has_zf(b))
        assert_int_equal(*result, 0x1122334455667788);
    return has_zf(b);
}

static bool verify(struct bench *b, insn_op *op, uint16_t selector)
{
    struct insn in = insn_reg(2, RCX);
    b->v->regs[RCX] = selector;
    assert_int_equal(bench_run(b, op, &in), NO_FAULT);
    return has_zf(b);
}

/* System types 0 to 15 that each instruction accepts, SDM vol. 2, tables 3-53 and 3-55. */
static const char lar_legacy[] = ".yyyyy...y.yy...";
static const char lsl_legacy[] = ".yyy.....y.y....";
static const char lar_long[] = "..y......y.yy...";
static const char lsl_long[] = "..y......y.y....";

static void examine_system_types(struct bench *b, const char *lar, const char *lsl)
{
    uint64_t result;
    for (unsigned type = 0; type < 16; type++) {
        gdt_put(b, SCRATCH, descriptor_make(0, 0x12345, 0x80 | type, 8));
        assert_int_equal(examine(b, op_lar, SCRATCH, &result), lar[type] == 'y');
        if (lar[type] == 'y')
            assert_int_equal(result, 0x818000u | type << 8);
        assert_int_equal(examine(b, op_lsl, SCRATCH, &result), lsl[type] == 'y');
        if (lsl[type] == 'y')
            assert_int_equal(result, 0x12345fff);
        assert_false(verify(b, op_verr, SCRATCH));
        assert_false(verify(b, op_verw, SCRATCH));
    }
}

static void examine_types(void **state)
{
    static const char readable[] = "yyyyyyyy..yy..yy", writable[] = "..yy..yy........";
    struct bench *b = *state;
    uint64_t result;
    bench_protected(b, 0);
    examine_system_types(b, lar_legacy, lsl_legacy);
    for (unsigned type = 0; type < 16; type++) {
        gdt_put(b, SCRATCH, descriptor_make(0, 0xfff, 0x70 | type, 4)); /* not present: never asked */
        assert_true(examine(b, op_lar, SCRATCH, &result));
        assert_int_equal(result, 0x407000u | type << 8);
        assert_true(examine(b, op_lsl, SCRATCH, &result));
        assert_int_equal(result, 0xfff);
        assert_int_equal(verify(b, op_verr, SCRATCH), readable[type] == 'y');
        assert_int_equal(verify(b, op_verw, SCRATCH), writable[type] == 'y');
    }
    bench_long(b, 0);
    examine_system_types(b, lar_long, lsl_long);
}

static void examine_privilege(void **state)
{
    struct bench *b = *state;
    uint64_t result;
    for (unsigned n = 0; n < 64; n++) {
        unsigned cpl = n & 3, rpl = n >> 2 & 3, dpl = n >> 4;
        bool visible = cpl <= dpl && rpl <= dpl;
        bench_protected(b, cpl);
        gdt_put(b, SCRATCH, descriptor_make(0, 0xfff, 0x92 | dpl << 5, 4));
        assert_int_equal(examine(b, op_lar, (uint16_t)(SCRATCH | rpl), &result), visible);
        assert_int_equal(verify(b, op_verw, (uint16_t)(SCRATCH | rpl)), visible);
        gdt_put(b, SCRATCH, descriptor_make(0, 0xfff, 0x9e | dpl << 5, 4)); /* conforming */
        assert_true(examine(b, op_lsl, (uint16_t)(SCRATCH | rpl), &result));
    }
    assert_false(examine(b, op_lar, 0, &result));
    assert_false(examine(b, op_lar, 0xfff8, &result));
}

static void arpl(void **state)
{
    struct bench *b = *state;
    struct insn in = insn_reg(2, RAX);
    in.op_kind[1] = OPERAND_REG;
    in.op_reg[1] = RDX * 8;
    bench_protected(b, 3);
    b->v->regs[RAX] = 0xffff1230;
    b->v->regs[RDX] = 0x33;
    assert_int_equal(bench_run(b, op_arpl, &in), NO_FAULT);
    assert_int_equal(b->v->regs[RAX], 0xffff1233);
    assert_true(has_zf(b));
    assert_int_equal(bench_run(b, op_arpl, &in), NO_FAULT);
    assert_false(has_zf(b));
    b->v->rflags_rest |= FLAG_VM;
    vcpu_mode_changed(b->v);
    assert_int_equal(bench_run(b, op_arpl, &in), VECTOR_UD);
}

/* ---- descriptor-table registers ---- */

static void gdt_and_idt(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_mem(4, 0, 0x40000);
    bench_protected(b, 0);
    put16(b, 0x40000, 0x1ff);
    put64(b, 0x40002, 0xffff8000fedc5678);
    assert_int_equal(bench_run(b, op_lidt, &in), NO_FAULT);
    assert_int_equal(v->idtr.base, 0xfedc5678);
    assert_int_equal(v->idtr.limit, 0x1ff);
    in.opsize = 2;
    assert_int_equal(bench_run(b, op_lidt, &in), NO_FAULT);
    assert_int_equal(v->idtr.base, 0xdc5678);
    in.disp = 0x40020;
    put64(b, 0x40020, ~0ull);
    assert_int_equal(bench_run(b, op_sidt, &in), NO_FAULT);
    assert_int_equal(get64(b, 0x40020), 0xffff00dc567801ff);
    assert_int_equal(b->exits[EXIT_DESCRIPTOR_TABLE], 3);
    in.disp = 0x40000;
    bench_long(b, 0);
    assert_int_equal(bench_run(b, op_lgdt, &in), NO_FAULT);
    assert_int_equal(v->gdtr.base, 0xffff8000fedc5678);
    put64(b, 0x40002, 0x8000fedc5678);
    assert_int_equal(bench_run(b, op_lgdt, &in), VECTOR_GP);
    assert_int_equal(v->gdtr.base, 0xffff8000fedc5678);
    v->gdtr.base = GDT_AT;
    bench_protected(b, 3);
    assert_int_equal(bench_run(b, op_lgdt, &in), VECTOR_GP);
    assert_int_equal(bench_run(b, op_sgdt, &in), NO_FAULT);
    v->cr4 |= CR4_UMIP;
    assert_int_equal(bench_run(b, op_sgdt, &in), VECTOR_GP);
    struct insn reg = insn_reg(4, RBX);
    assert_int_equal(bench_run(b, op_str, &reg), VECTOR_GP);
    assert_int_equal(bench_run(b, op_sldt, &reg), VECTOR_GP);
    v->cr4 = 0;
    v->regs[RBX] = ~0ull;
    assert_int_equal(bench_run(b, op_str, &reg), NO_FAULT);
    assert_int_equal(v->regs[RBX], TSS);
}

static int load_system(struct bench *b, insn_op *op, uint16_t selector)
{
    struct insn in = insn_reg(2, RBX);
    b->v->regs[RBX] = selector;
    return bench_run(b, op, &in);
}

static void ldtr_and_tr(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    assert_int_equal(load_system(b, op_lldt, LDT), VECTOR_UD); /* real mode */
    bench_protected(b, 3);
    assert_int_equal(load_system(b, op_ltr, TSS2), VECTOR_GP);
    assert_int_equal(v->fault.error, 0);
    bench_protected(b, 0);
    assert_int_equal(load_system(b, op_ltr, TSS2), NO_FAULT);
    assert_int_equal(gdt_access(b, TSS2), 0x8b);
    assert_int_equal(v->seg[SEG_TR].base, TSS2_AT);
    assert_int_equal(load_system(b, op_ltr, TSS2), VECTOR_GP); /* busy */
    assert_int_equal(v->fault.error, TSS2);
    assert_int_equal(load_system(b, op_ltr, TSS2 | 4), VECTOR_GP);
    assert_int_equal(load_system(b, op_ltr, 0), VECTOR_GP);
    gdt_put(b, SCRATCH, descriptor_make(0, 0x2b, 0x01, 0));
    assert_int_equal(load_system(b, op_ltr, SCRATCH), VECTOR_NP);
    assert_int_equal(load_system(b, op_lldt, TSS), VECTOR_GP);
    assert_int_equal(load_system(b, op_lldt, 2), NO_FAULT);
    assert_int_equal(bench_load(b, SEG_DS, 0xc), VECTOR_GP); /* no LDT any more */

    bench_long(b, 0);
    gdt_put(b, SCRATCH, descriptor_make(0x5000, 0x67, 0x89, 0));
    put64(b, GDT_AT + SCRATCH + 8, 0xffff8000);
    assert_int_equal(load_system(b, op_ltr, SCRATCH), NO_FAULT);
    assert_int_equal(v->seg[SEG_TR].base, 0xffff800000005000);
    gdt_put(b, SCRATCH, descriptor_make(0x5000, 0x67, 0x82, 0));
    put64(b, GDT_AT + SCRATCH + 8, 0x8000);
    assert_int_equal(load_system(b, op_lldt, SCRATCH), VECTOR_GP); /* not canonical */
    put64(b, GDT_AT + SCRATCH + 8, 0x92ull << 40);
    assert_int_equal(load_system(b, op_lldt, SCRATCH), VECTOR_GP); /* the upper half has a type */
    v->gdtr.limit = SCRATCH + 7;
    assert_int_equal(load_system(b, op_lldt, SCRATCH), VECTOR_GP); /* the upper half lies outside */
    v->gdtr.limit = GDT_ENTRIES * 8 - 1;
}

/* ---- the rest ---- */

static int try_ports(struct bench *b, uint16_t port, unsigned count)
{
    jmp_buf unwind;
    b->v->unwind = &unwind;
    if (setjmp(unwind) != 0)
        return b->v->fault.vector;
    io_permission_check(b->v, port, count);
    return NO_FAULT;
}

static void io_permission(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    put16(b, TSS_AT + 0x66, 0x68);
    memset(b->ram + TSS_AT + 0x68, 0xff, 0x2000);
    b->ram[TSS_AT + 0x68 + 0x3f8 / 8] = 0xf0; /* 3f8 to 3fb open */
    assert_int_equal(try_ports(b, 0x3f8, 4), NO_FAULT);
    assert_int_equal(try_ports(b, 0x3fa, 4), VECTOR_GP);
    assert_int_equal(try_ports(b, 0x3fc, 1), VECTOR_GP);
    v->seg[SEG_TR].limit = 0x68 + 0x3f8 / 8; /* the byte after it must exist as well */
    assert_int_equal(try_ports(b, 0x3f8, 1), VECTOR_GP);
    v->rflags_rest |= FLAG_IOPL;
    assert_int_equal(try_ports(b, 0x60, 4), NO_FAULT);
    v->rflags_rest |= FLAG_VM;
    assert_int_equal(try_ports(b, 0x60, 4), VECTOR_GP);
}

static void stack_segment_shadow(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    assert_int_equal(bench_load(b, SEG_SS, DATA(3)), NO_FAULT);
    assert_int_equal(v->shadow, SHADOW_MOV_SS);
    struct insn in = insn_plain(4);
    in.op_kind[0] = OPERAND_SEG;
    in.op_reg[0] = SEG_SS;
    v->shadow = 0;
    put32(b, STACK_AT(3), DATA(0));
    assert_int_equal(bench_run(b, op_pop_seg, &in), VECTOR_GP);
    assert_int_equal(v->regs[RSP], STACK_AT(3));
    assert_int_equal(v->shadow, 0);
    put32(b, STACK_AT(3), DATA(3));
    assert_int_equal(bench_run(b, op_pop_seg, &in), NO_FAULT);
    assert_int_equal(v->regs[RSP], STACK_AT(3) + 4);
    assert_int_equal(v->shadow, SHADOW_MOV_SS);
}

static void derived_state(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    assert_int_equal(v->code_mode, CODE_16);
    assert_int_equal(v->cpl, 0);
    bench_protected(b, 3);
    assert_int_equal(v->code_mode, CODE_32_FLAT);
    assert_int_equal(v->cpl, 3);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_USER]);
    gdt_put(b, SCRATCH, descriptor_make(0, 0xfffff, 0xf1, 0xc)); /* read-only: not flat */
    assert_int_equal(bench_load(b, SEG_DS, SCRATCH | 3), NO_FAULT);
    assert_int_equal(v->code_mode, CODE_32);
    v->cr0 |= CR0_AM;
    v->rflags_rest |= FLAG_AC;
    vcpu_mode_changed(v);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_NONE]);
    v->cr0 &= ~CR0_AM;
    bench_long(b, 0);
    assert_int_equal(v->code_mode, CODE_64);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_KERNEL_AC]);
    v->cr4 |= CR4_SMAP;
    vcpu_mode_changed(v);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_KERNEL]);
    v->dr[7] = 0x10001; /* a data breakpoint */
    vcpu_mode_changed(v);
    assert_ptr_equal(v->tlb, &v->tlbs[TLB_NONE]);
    assert_true(v->stepping);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)
    const struct CMUnitTest tests[] = {
        TEST(loads_by_type_and_privilege), TEST(loads_null_and_outside), TEST(null_stack_in_64_bit_mode),
        TEST(limits),        TEST(bases_in_64_bit_mode), TEST(real_mode_keeps_limits),
        TEST(examine_types), TEST(examine_privilege),    TEST(arpl),
        TEST(gdt_and_idt),   TEST(ldtr_and_tr),          TEST(io_permission),
        TEST(stack_segment_shadow), TEST(derived_state),
    };
    return cmocka_run_group_tests_name("segments", tests, NULL, NULL);
}
