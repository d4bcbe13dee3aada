/* Hardware task switches. */
#include "cpu_test.h"

#define NEW_RIP 0x12000u
#define NEW_STACK 0x60000u

/* A 32-bit TSS at `at` that starts `cs`:NEW_RIP. */
static void tss32_make(struct bench *b, uint32_t at, uint16_t cs, uint16_t data, uint32_t flags)
{
    memset(b->ram + at, 0, 0x68);
    put32(b, at + 0x20, NEW_RIP);
    put32(b, at + 0x24, flags);
    for (unsigned i = 0; i < 8; i++)
        put32(b, at + 0x28 + 4 * i, 0x1000001 * i);
    put32(b, at + 0x38, NEW_STACK);
    for (unsigned i = 0; i < 6; i++)
        put32(b, at + 0x48 + 4 * i, i == SEG_CS ? cs : data);
    put32(b, at + 0x60, LDT);
}

static void tss16_make(struct bench *b, uint32_t at, uint16_t cs, uint16_t data)
{
    memset(b->ram + at, 0, 0x2c);
    put16(b, at + 0x0e, 0x2222);
    put16(b, at + 0x10, FLAG_IF | FLAG_FIXED);
    for (unsigned i = 0; i < 8; i++)
        put16(b, at + 0x12 + 2 * i, (uint16_t)(0x101 * i));
    put16(b, at + 0x1a, 0x8000);
    for (unsigned i = 0; i < 4; i++)
        put16(b, at + 0x22 + 2 * i, i == SEG_CS ? cs : data);
}

static void check_task(const struct vcpu *v, uint16_t tr, uint16_t cs, uint32_t rip)
{
    assert_int_equal(v->seg[SEG_TR].selector, tr);
    assert_int_equal(v->seg[SEG_CS].selector, cs);
    assert_int_equal(v->rip, rip);
}

static void call_and_return_32(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, TSS2, 0), iret = insn_plain(4);
    bench_protected(b, 0);
    tss32_make(b, TSS2_AT, CODE(3), DATA(3), FLAG_IF | FLAG_FIXED);
    v->regs[RBX] = 0xabcdef01;
    v->dr[7] = 0x755;
    rflags_set(v, FLAG_CF);
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    check_task(v, TSS2, CODE(3), NEW_RIP);
    assert_int_equal(v->cpl, 3);
    assert_int_equal(v->regs[RSP], NEW_STACK);
    assert_int_equal(v->regs[RDI], 0x7000007);
    assert_int_equal(v->seg[SEG_GS].selector, DATA(3));
    assert_int_equal(v->seg[SEG_LDTR].base, LDT_AT);
    assert_int_equal(rflags_get(v), FLAG_NT | FLAG_IF | FLAG_FIXED);
    assert_true(v->cr0 & CR0_TS);
    assert_int_equal(v->dr[7], 0x600);
    assert_int_equal(get16(b, TSS2_AT), TSS); /* back link */
    assert_int_equal(gdt_access(b, TSS), 0x8b);
    assert_int_equal(gdt_access(b, TSS2), 0x8b);
    assert_int_equal(get32(b, TSS_AT + 0x20), CODE_AT + 2);
    assert_int_equal(get32(b, TSS_AT + 0x24), FLAG_CF | FLAG_FIXED);
    assert_int_equal(get32(b, TSS_AT + 0x34), 0xabcdef01);
    assert_int_equal(get32(b, TSS_AT + 0x38), STACK_AT(0));
    assert_int_equal(get16(b, TSS_AT + 0x4c), CODE(0));
    assert_int_equal(b->exits[EXIT_TASK_SWITCH], 1);

    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    check_task(v, TSS, CODE(0), CODE_AT + 2);
    assert_int_equal(v->cpl, 0);
    assert_int_equal(v->regs[RBX], 0xabcdef01);
    assert_int_equal(rflags_get(v), FLAG_CF | FLAG_FIXED);
    assert_int_equal(gdt_access(b, TSS2), 0x89);
    assert_int_equal(get32(b, TSS2_AT + 0x24), FLAG_IF | FLAG_FIXED); /* NT saved clear */
}

static void call_and_return_16(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, TSS2, 0), iret = insn_plain(2);
    bench_protected(b, 0);
    gdt_put(b, TSS2, descriptor_make(TSS2_AT, 0x2b, 0x81, 0));
    gdt_put(b, SCRATCH, descriptor_make(0x10000, 0xffff, 0x9a, 0));
    gdt_put(b, SCRATCH2, descriptor_make(0x60000, 0xffff, 0x92, 0));
    tss16_make(b, TSS2_AT, SCRATCH, SCRATCH2);
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    check_task(v, TSS2, SCRATCH, 0x2222);
    assert_int_equal(v->code_mode, CODE_16);
    assert_int_equal(v->regs[RSI], 0x606);
    assert_true(v->seg[SEG_FS].attr & SEG_ATTR_NULL);
    assert_int_equal(gdt_access(b, TSS2), 0x83);
    v->regs[RSI] = 0x12345678;
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    check_task(v, TSS, CODE(0), CODE_AT + 2);
    assert_int_equal(get16(b, TSS2_AT + 0x0e), 0x2224);
    assert_int_equal(get16(b, TSS2_AT + 0x1e), 0x5678);
    assert_int_equal(get16(b, TSS2_AT + 0x24), SCRATCH);
}

static void jump_leaves_no_way_back(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn jump = insn_far(4, GATE, 0);
    bench_protected(b, 0);
    gdt_put(b, GATE, gate_make(5, 0, TSS2, 0, 0));
    tss32_make(b, TSS2_AT, CODE(0), DATA(0), FLAG_FIXED);
    put16(b, TSS2_AT + 0x64, 1); /* T */
    assert_int_equal(bench_run(b, op_jmp_far, &jump), NO_FAULT);
    check_task(v, TSS2, CODE(0), NEW_RIP);
    assert_int_equal(gdt_access(b, TSS), 0x89);
    assert_false(v->rflags_rest & FLAG_NT);
    assert_int_equal(v->dr6_pending, 1 << 15);
    assert_int_equal(get16(b, TSS2_AT), 0);
    assert_int_equal(bench_run(b, op_jmp_far, &jump), VECTOR_GP); /* busy: oneself */
    assert_int_equal(v->fault.error, TSS2);
}

static void task_gate_with_error_code(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    idt_put(b, 8, gate_make(5, 0, TSS2, 0, 0));
    tss32_make(b, TSS2_AT, CODE(0), DATA(0), FLAG_FIXED);
    idt_put(b, 13, 0);
    event_deliver(v, EVENT_EXCEPTION, &(struct fault){.vector = 13, .has_error = true, .error = 5});
    check_task(v, TSS2, CODE(0), NEW_RIP);
    assert_int_equal(v->regs[RSP], NEW_STACK - 4);
    assert_int_equal(get32(b, NEW_STACK - 4), 0);
    assert_int_equal(get32(b, TSS_AT + 0x20), CODE_AT);
    assert_int_equal(get16(b, TSS_AT + 0x4c), CODE(3));
    assert_true(v->rflags_rest & FLAG_NT);
}

static void to_v86(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, TSS2, 0);
    bench_protected(b, 0);
    tss32_make(b, TSS2_AT, 0x1000, 0x3000, FLAG_VM | FLAG_IF | FLAG_FIXED);
    put32(b, TSS2_AT + 0x20, 0x123);
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    check_task(v, TSS2, 0x1000, 0x123);
    assert_true(vcpu_v86(v));
    assert_int_equal(v->cpl, 3);
    assert_int_equal(v->seg[SEG_DS].base, 0x30000);
}

static void faults_of_the_old_task(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, TSS2, 0), iret = insn_plain(4);
    bench_protected(b, 0);
    tss32_make(b, TSS2_AT, CODE(0), DATA(0), FLAG_FIXED);
    uint64_t before[GPR_COUNT];
    memcpy(before, v->regs, sizeof before);
    gdt_put(b, TSS2, descriptor_make(TSS2_AT, 0x66, 0x89, 0));
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_TS);
    assert_int_equal(v->fault.error, TSS2);
    gdt_put(b, TSS2, descriptor_make(TSS2_AT, 0x67, 0x09, 0));
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_NP);
    gdt_put(b, TSS2, descriptor_make(TSS2_AT, 0x67, 0x8b, 0));
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_GP);
    gdt_put(b, TSS2, descriptor_make(TSS2_AT, 0x67, 0x89, 0));
    v->rflags_rest |= FLAG_NT;
    put16(b, TSS_AT, TSS2); /* IRET needs a busy one */
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_TS);
    assert_int_equal(v->fault.error, TSS2);
    assert_memory_equal(before, v->regs, sizeof before);
    check_task(v, TSS, CODE(0), CODE_AT);
    assert_int_equal(b->exits[EXIT_TASK_SWITCH], 0);
}

static void faults_of_the_new_task(void **state)
{
    static const struct {
        uint16_t offset, selector;
        int vector;
    } rows[] = {
        {0x4c, DATA(0), VECTOR_TS},  {0x4c, CODE(0) | 3, VECTOR_TS}, {0x4c, 0, VECTOR_TS},   {0x4c, SCRATCH, VECTOR_NP},
        {0x50, CODE(0), VECTOR_TS},  {0x50, DATA(3), VECTOR_TS},     {0x50, 0, VECTOR_TS},   {0x50, SCRATCH2, VECTOR_SS},
        {0x54, TSS, VECTOR_TS},      {0x58, 0xfff8, VECTOR_TS},      {0x5c, SCRATCH2, VECTOR_NP},
        {0x60, DATA(0), VECTOR_TS},  {0x60, 0xc, VECTOR_TS},
    };
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, TSS2, 0);
    gdt_put(b, SCRATCH, descriptor_make(0, 0xfffff, 0x1a, 0xc));
    gdt_put(b, SCRATCH2, descriptor_make(0, 0xfffff, 0x12, 0xc));
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        bench_protected(b, 0);
        gdt_put(b, TSS2, descriptor_make(TSS2_AT, 0x67, 0x89, 0));
        tss32_make(b, TSS2_AT, CODE(0), DATA(0), FLAG_FIXED);
        put16(b, TSS2_AT + rows[i].offset, rows[i].selector);
        assert_int_equal(bench_run(b, op_call_far, &call), rows[i].vector);
        assert_int_equal(v->fault.error, rows[i].selector & 0xfffc);
        assert_int_equal(v->seg[SEG_TR].selector, TSS2);
        assert_int_equal(v->rip, NEW_RIP);
        assert_int_equal(get16(b, TSS2_AT), TSS);
    }
}

static void not_in_long_mode(void **state)
{
    struct bench *b = *state;
    struct insn call = insn_mem(4, 0, 0x40000);
    bench_long(b, 0);
    put32(b, 0x40000, 0);
    put16(b, 0x40004, TSS2);
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_GP);
    assert_int_equal(b->v->fault.error, TSS2);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)
    const struct CMUnitTest tests[] = {
        TEST(call_and_return_32),     TEST(call_and_return_16), TEST(jump_leaves_no_way_back),
        TEST(task_gate_with_error_code), TEST(to_v86),          TEST(faults_of_the_old_task),
        TEST(faults_of_the_new_task), TEST(not_in_long_mode),
    };
    return cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
}
