/* Far transfers, gates, returns, events and system calls. */
#include "cpu_test.h"

#define HANDLER 0x11000u
#define RETURN_RIP (CODE_AT + 2) /* behind the 2-byte instruction that bench_run() pretends */

static void check_mode(const struct vcpu *v, unsigned cpl, uint16_t cs, uint64_t rip)
{
    assert_int_equal(v->cpl, cpl);
    assert_int_equal(v->seg[SEG_CS].selector, cs);
    assert_int_equal(v->rip, rip);
}

/* ---- direct ---- */

static void jump_direct(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_far(4, CODE(3), HANDLER);
    bench_protected(b, 3);
    assert_int_equal(bench_run(b, op_jmp_far, &in), NO_FAULT);
    check_mode(v, 3, CODE(3), HANDLER);
    in.imm2 = CODE(0);
    assert_int_equal(bench_run(b, op_jmp_far, &in), VECTOR_GP);
    assert_int_equal(v->fault.error, CODE(0));
    in.imm2 = 0;
    assert_int_equal(bench_run(b, op_jmp_far, &in), VECTOR_GP);
    assert_int_equal(v->fault.error, 0);
    in.imm2 = DATA(3);
    assert_int_equal(bench_run(b, op_jmp_far, &in), VECTOR_GP);
    in.imm2 = SCRATCH;
    gdt_put(b, SCRATCH, descriptor_make(0, 0xfff, 0x9e, 4)); /* conforming, DPL 0 */
    assert_int_equal(bench_run(b, op_jmp_far, &in), VECTOR_GP);
    assert_int_equal(v->fault.error, 0); /* beyond the limit */
    in.imm = 0xffe;
    assert_int_equal(bench_run(b, op_jmp_far, &in), NO_FAULT);
    check_mode(v, 3, SCRATCH | 3, 0xffe);
    gdt_put(b, SCRATCH, descriptor_make(0, 0xfff, 0x7a, 4));
    assert_int_equal(bench_run(b, op_jmp_far, &in), VECTOR_NP);
    assert_int_equal(v->fault.error, SCRATCH);
}

static void call_and_return_direct(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, CODE(0), HANDLER), ret = insn_imm(4, 8);
    bench_protected(b, 0);
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    check_mode(v, 0, CODE(0), HANDLER);
    assert_int_equal(v->regs[RSP], STACK_AT(0) - 8);
    assert_int_equal(get32(b, STACK_AT(0) - 4), CODE(0));
    assert_int_equal(get32(b, STACK_AT(0) - 8), RETURN_RIP);
    assert_int_equal(bench_run(b, op_ret_far, &ret), NO_FAULT);
    check_mode(v, 0, CODE(0), RETURN_RIP);
    assert_int_equal(v->regs[RSP], STACK_AT(0) + 8);
    v->seg[SEG_SS].limit = 0x100;
    v->seg[SEG_SS].attr &= ~SEG_ATTR_G;
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_SS);
    assert_int_equal(v->seg[SEG_CS].selector, CODE(0));
}

static void real_mode_transfers(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn jump = insn_far(2, 0x1000, 0x10), call = insn_far(2, 0x1100, 0x20), ret = insn_plain(2);
    assert_int_equal(bench_run(b, op_jmp_far, &jump), NO_FAULT);
    assert_int_equal(v->seg[SEG_CS].base, 0x10000);
    v->regs[RSP] = 0x7c00;
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    assert_int_equal(get32(b, 0x7bfc), 0x10000012);
    assert_int_equal(v->regs[RSP], 0x7bfc);
    assert_int_equal(bench_run(b, op_ret_far, &ret), NO_FAULT);
    assert_int_equal(v->rip, 0x12);
    v->idtr.base = 0;
    put32(b, 0x21 * 4, 0x20000034);
    rflags_set(v, FLAG_IF | FLAG_TF | FLAG_CF);
    struct insn interrupt = insn_imm(2, 0x21), iret = insn_plain(2);
    assert_int_equal(bench_run(b, op_int, &interrupt), NO_FAULT);
    assert_int_equal(v->seg[SEG_CS].selector, 0x2000);
    assert_int_equal(v->rip, 0x34);
    assert_int_equal(rflags_get(v), FLAG_CF | FLAG_FIXED);
    assert_int_equal(get16(b, 0x7bfe), FLAG_IF | FLAG_TF | FLAG_CF | FLAG_FIXED);
    v->nmi_blocked = true;
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    assert_int_equal(v->rip, 0x14);
    assert_int_equal(rflags_get(v), FLAG_IF | FLAG_TF | FLAG_CF | FLAG_FIXED);
    assert_false(v->nmi_blocked);
    v->idtr.limit = 0x21 * 4 + 2;
    assert_int_equal(bench_run(b, op_int, &interrupt), VECTOR_GP);
}

/* ---- call gates ---- */

static void call_gate_with_parameters(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, GATE | 3, 0xdeadbeef), ret = insn_imm(4, 8);
    bench_protected(b, 3);
    gdt_put(b, GATE, gate_make(12, 3, CODE(0), HANDLER, 2));
    put32(b, STACK_AT(3), 0x11111111);
    put32(b, STACK_AT(3) + 4, 0x22222222);
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    check_mode(v, 0, CODE(0), HANDLER);
    assert_int_equal(v->seg[SEG_SS].selector, DATA(0));
    const uint32_t frame[] = {RETURN_RIP, CODE(3), 0x11111111, 0x22222222, STACK_AT(3), DATA(3)};
    assert_int_equal(v->regs[RSP], STACK_AT(0) - sizeof frame);
    assert_memory_equal(b->ram + v->regs[RSP], frame, sizeof frame);

    bench_segment(b, SEG_DS, DATA(0)); /* must not survive the return */
    assert_int_equal(bench_run(b, op_ret_far, &ret), NO_FAULT);
    check_mode(v, 3, CODE(3), RETURN_RIP);
    assert_int_equal(v->seg[SEG_SS].selector, DATA(3));
    assert_int_equal(v->regs[RSP], STACK_AT(3) + 8);
    assert_int_equal(v->seg[SEG_DS].selector, 0);
    assert_true(v->seg[SEG_DS].attr & SEG_ATTR_NULL);
    assert_int_equal(v->seg[SEG_ES].selector, DATA(3));
}

static void call_gate_16(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(2, GATE | 3, 0);
    bench_protected(b, 3);
    gdt_put(b, GATE, gate_make(4, 3, SCRATCH, 0xffff1234, 1));
    gdt_put(b, SCRATCH, descriptor_make(0, 0xffff, 0xba, 0)); /* DPL 1, 16-bit */
    put16(b, STACK_AT(3), 0xaaaa);
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    check_mode(v, 1, SCRATCH | 1, 0x1234);
    assert_int_equal(v->code_mode, CODE_16);
    const uint16_t frame[] = {RETURN_RIP & 0xffff, CODE(3), 0xaaaa, STACK_AT(3) & 0xffff, DATA(3)};
    assert_int_equal(v->regs[RSP], STACK_AT(1) - sizeof frame);
    assert_memory_equal(b->ram + v->regs[RSP], frame, sizeof frame);
}

static void call_gate_faults(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_far(4, GATE | 3, 0);
    bench_protected(b, 3);
    gdt_put(b, GATE, gate_make(12, 2, CODE(0), HANDLER, 0));
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_GP);
    assert_int_equal(v->fault.error, GATE);
    gdt_put(b, GATE, gate_make(12, 3, CODE(0), HANDLER, 0) & ~(0x80ull << 40));
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_NP);
    gdt_put(b, GATE, gate_make(12, 3, DATA(0), HANDLER, 0));
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_GP);
    assert_int_equal(v->fault.error, DATA(0) & 0xfffc);
    gdt_put(b, GATE, gate_make(12, 3, CODE(0), HANDLER, 0));
    assert_int_equal(bench_run(b, op_jmp_far, &call), VECTOR_GP); /* JMP cannot gain privilege */
    put32(b, TSS_AT + 8, DATA(1));
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_TS);
    assert_int_equal(v->fault.error, DATA(1) & 0xfffc);
    v->seg[SEG_TR].limit = 8;
    assert_int_equal(bench_run(b, op_call_far, &call), VECTOR_TS);
    assert_int_equal(v->fault.error, TSS);
    check_mode(v, 3, CODE(3), CODE_AT);
    assert_int_equal(v->regs[RSP], STACK_AT(3));
}

static void call_gate_64(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn call = insn_mem(4, 0, 0x40000), ret = insn_plain(8);
    bench_long(b, 3);
    gdt_put(b, GATE, gate_make(12, 3, CODE64(0), HANDLER, 0));
    put64(b, GDT_AT + GATE + 8, 0xffff8000);
    put32(b, 0x40000, 0);
    put16(b, 0x40004, GATE | 3);
    assert_int_equal(bench_run(b, op_call_far, &call), NO_FAULT);
    check_mode(v, 0, CODE64(0), 0xffff800000000000 | HANDLER);
    assert_int_equal(v->seg[SEG_SS].selector, 0);
    const uint64_t frame[] = {RETURN_RIP, CODE64(3), STACK_AT(3), DATA(3)};
    assert_int_equal(v->regs[RSP], STACK_AT(0) - sizeof frame);
    assert_memory_equal(b->ram + v->regs[RSP], frame, sizeof frame);
    assert_int_equal(bench_run(b, op_ret_far, &ret), NO_FAULT);
    check_mode(v, 3, CODE64(3), RETURN_RIP);
    assert_int_equal(v->regs[RSP], STACK_AT(3));
}

/* ---- IRET ---- */

static void push32(struct bench *b, unsigned count, ...)
{
    va_list list;
    va_start(list, count);
    for (unsigned i = 0; i < count; i++)
        put32(b, (uint32_t)b->v->regs[RSP] + i * 4, va_arg(list, uint32_t));
    va_end(list);
}

static void iret_between_levels(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn iret = insn_plain(4);
    bench_protected(b, 0);
    push32(b, 5, HANDLER, CODE(3), 0x3202u | FLAG_RF, 0x30000u, DATA(3));
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    check_mode(v, 3, CODE(3), HANDLER);
    assert_int_equal(v->regs[RSP], 0x30000);
    assert_int_equal(rflags_get(v), 0x3202 | FLAG_RF);
    assert_int_equal(v->seg[SEG_DS].selector, 0);

    bench_protected(b, 3); /* IOPL 0: neither IF nor IOPL can be changed */
    push32(b, 3, HANDLER, CODE(3), 0x3ed7u);
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    assert_int_equal(rflags_get(v), 0xcd7);
    push32(b, 3, HANDLER, CODE(0), 2u);
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_GP); /* inwards */
    assert_int_equal(v->fault.error, CODE(0));

    bench_protected(b, 0);
    push32(b, 5, HANDLER, CODE(3), 2u, 0x30000u, DATA(0));
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_GP);
    assert_int_equal(v->fault.error, DATA(0));
    push32(b, 5, HANDLER, CODE(3), 2u, 0x30000u, 0u);
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_GP);
    assert_int_equal(v->fault.error, 0);
}

static void iret_to_a_16_bit_stack(void **state)
{
    struct bench *b = *state;
    struct insn iret = insn_plain(4);
    bench_protected(b, 0);
    b->v->regs[RSP] = 0x20100;
    gdt_put(b, SCRATCH, descriptor_make(0x30000, 0xffff, 0xf2, 0));
    push32(b, 5, HANDLER, CODE(3), 2u, 0x55558000u, SCRATCH | 3);
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    assert_int_equal(b->v->regs[RSP], 0x28000); /* the upper half stays the kernel's */
}

static void iret_64(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn iret = insn_plain(8);
    bench_long(b, 0);
    const uint64_t same[] = {HANDLER, CODE64(0), FLAG_IF, 0x21238, 0};
    memcpy(b->ram + STACK_AT(0), same, sizeof same);
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    check_mode(v, 0, CODE64(0), HANDLER);
    assert_int_equal(v->regs[RSP], 0x21238);
    assert_true(v->seg[SEG_SS].attr & SEG_ATTR_NULL);

    const uint64_t bad[] = {0x800000000000, CODE64(0), FLAG_IF, 0x21238, 0};
    memcpy(b->ram + v->regs[RSP], bad, sizeof bad);
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_GP);
    const uint64_t null_user[] = {HANDLER, CODE64(3), FLAG_IF, 0x21238, 3};
    memcpy(b->ram + v->regs[RSP], null_user, sizeof null_user);
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_GP);

    v->seg[SEG_FS] = (struct segment){.attr = SEG_ATTR_NULL, .base = 0x7fff12345000};
    v->regs[RBX] = ~0ull;
    const uint64_t compat[] = {HANDLER, CODE(3), FLAG_IF, 0xffff000000030000, DATA(3)};
    memcpy(b->ram + v->regs[RSP], compat, sizeof compat);
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    check_mode(v, 3, CODE(3), HANDLER);
    assert_int_equal(v->regs[RSP], 0x30000);
    assert_int_equal(v->regs[RBX], 0xffffffff);
    assert_int_equal(v->seg[SEG_FS].base, 0x7fff12345000);
    assert_int_equal(v->seg[SEG_DS].selector, 0);

    bench_long(b, 0);
    v->rflags_rest |= FLAG_NT;
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_GP);
}

/* ---- events ---- */

static void event(struct bench *b, enum event_kind kind, struct fault fault)
{
    event_deliver(b->v, kind, &fault);
}

static void interrupt_from_user_32(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    idt_put(b, 0x20, gate_make(14, 0, CODE(0), HANDLER, 0));
    rflags_set(v, FLAG_IF | FLAG_NT | FLAG_CF);
    event(b, EVENT_EXTERNAL, (struct fault){.vector = 0x20});
    check_mode(v, 0, CODE(0), HANDLER);
    const uint32_t frame[] = {CODE_AT, CODE(3), FLAG_IF | FLAG_NT | FLAG_CF | FLAG_FIXED, STACK_AT(3), DATA(3)};
    assert_int_equal(v->regs[RSP], STACK_AT(0) - sizeof frame);
    assert_memory_equal(b->ram + v->regs[RSP], frame, sizeof frame);
    assert_int_equal(rflags_get(v), FLAG_CF | FLAG_FIXED);
    assert_int_equal(b->exits[EXIT_INTERRUPT], 1);
    assert_int_equal(b->last_exit.mode, EXIT_MODE_USER);

    bench_protected(b, 3);
    idt_put(b, 14, gate_make(15, 0, CODE(0), HANDLER, 0)); /* a trap gate keeps IF */
    rflags_set(v, FLAG_IF);
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 14, .has_error = true, .error = 7, .address = 0x1234});
    assert_int_equal(v->cr2, 0x1234);
    assert_int_equal(get32(b, (uint32_t)v->regs[RSP]), 7);
    assert_int_equal(get32(b, (uint32_t)v->regs[RSP] + 12), FLAG_IF | FLAG_RF | FLAG_FIXED);
    assert_int_equal(rflags_get(v), FLAG_IF | FLAG_FIXED);
    assert_int_equal(v->regs[RSP], STACK_AT(0) - 24);
}

static void software_interrupts(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_imm(4, 0x80);
    bench_protected(b, 3);
    idt_put(b, 0x80, gate_make(15, 0, CODE(0), HANDLER, 0));
    assert_int_equal(bench_run(b, op_int, &in), VECTOR_GP);
    assert_int_equal(v->fault.error, 0x80 * 8 + 2);
    assert_int_equal(v->rip, CODE_AT);
    idt_put(b, 0x80, gate_make(15, 3, CODE(0), HANDLER, 0));
    assert_int_equal(bench_run(b, op_int, &in), NO_FAULT);
    check_mode(v, 0, CODE(0), HANDLER);
    assert_int_equal(get32(b, (uint32_t)v->regs[RSP]), RETURN_RIP);
    bench_protected(b, 3);
    idt_put(b, 4, gate_make(6, 3, CODE(3), HANDLER, 0)); /* 16-bit gate, same level */
    assert_int_equal(bench_run(b, op_into, &in), NO_FAULT);
    assert_int_equal(v->rip, RETURN_RIP);
    v->status |= STATUS_OF;
    assert_int_equal(bench_run(b, op_into, &in), NO_FAULT);
    check_mode(v, 3, CODE(3), HANDLER & 0xffff);
    assert_int_equal(v->regs[RSP], STACK_AT(3) - 6);
    bench_protected(b, 3);
    idt_put(b, 1, gate_make(14, 0, CODE(0), HANDLER, 0)); /* INT1 asks no DPL */
    assert_int_equal(bench_run(b, op_int1, &in), NO_FAULT);
    check_mode(v, 0, CODE(0), HANDLER);
    bench_protected(b, 3);
    assert_int_equal(bench_run(b, op_int3, &in), VECTOR_GP); /* empty entry */
    assert_int_equal(v->fault.error, 3 * 8 + 2);
}

static void debug_exception(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    idt_put(b, 1, gate_make(14, 0, CODE(0), HANDLER, 0));
    v->dr[6] = 0xffff0ff1;
    v->dr[7] = 0x2400;
    rflags_set(v, FLAG_TF);
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 1, .dr6 = 1u << 14, .trap = true});
    assert_int_equal(v->dr[6], 0xffff4ff0);
    assert_int_equal(v->dr[7], 0x400);
    assert_int_equal(get32(b, STACK_AT(0) - 4), FLAG_TF | FLAG_FIXED);
    assert_false(v->stepping);
}

static void interrupt_64(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn iret = insn_plain(8);
    bench_long(b, 3);
    v->regs[RSP] = STACK_AT(3) - 3;
    put64(b, TSS_AT + 4, STACK_AT(0) - 8); /* gets aligned */
    idt_put64(b, 13, gate_make(14, 0, CODE64(0), HANDLER, 0), 0xffff8000);
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 13, .has_error = true, .error = 0x50});
    check_mode(v, 0, CODE64(0), 0xffff800000000000 | HANDLER);
    const uint64_t frame[] = {0x50, CODE_AT, CODE64(3), FLAG_RF | FLAG_FIXED, STACK_AT(3) - 3, DATA(3)};
    assert_int_equal(v->regs[RSP], STACK_AT(0) - 16 - sizeof frame);
    assert_memory_equal(b->ram + v->regs[RSP], frame, sizeof frame);
    assert_int_equal(v->seg[SEG_SS].selector, 0);

    put64(b, TSS_AT + 36, 0x60000); /* IST1, from CPL 0 */
    idt_put64(b, 2, gate_make(14, 0, CODE64(0), HANDLER, 1), 0);
    uint64_t rsp = v->regs[RSP];
    event(b, EVENT_NMI, (struct fault){0});
    assert_true(v->nmi_blocked);
    assert_int_equal(v->regs[RSP], 0x60000 - 40);
    assert_int_equal(get64(b, 0x60000 - 16), rsp);
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    assert_int_equal(v->regs[RSP], rsp);
    assert_false(v->nmi_blocked);
    v->regs[RSP] += 8;
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    check_mode(v, 3, CODE64(3), CODE_AT);
    assert_int_equal(v->regs[RSP], STACK_AT(3) - 3);
    assert_true(rflags_get(v) & FLAG_RF);

    idt_put64(b, 13, gate_make(14, 0, CODE(0), HANDLER, 0), 0); /* 32-bit handlers do not exist */
    idt_put64(b, 8, gate_make(14, 0, CODE64(0), 0x8888, 0), 0);
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 13, .has_error = true, .error = 0});
    check_mode(v, 0, CODE64(0), 0x8888);
    assert_int_equal(get64(b, (uint32_t)v->regs[RSP]), 0);
}

static void double_and_triple_faults(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    idt_put(b, 8, gate_make(14, 0, CODE(0), HANDLER, 0));
    idt_put(b, 11, gate_make(14, 0, CODE(0), 0x1111, 0));
    idt_put(b, 14, gate_make(14, 0, CODE(0), 0x1414, 0) & ~(0x80ull << 40));
    idt_put(b, 0x20, gate_make(14, 0, CODE(0), 0x2020, 0) & ~(0x80ull << 40));
    /* An interrupt whose gate is not present: #NP with the EXT bit. */
    event(b, EVENT_EXTERNAL, (struct fault){.vector = 0x20});
    check_mode(v, 0, CODE(0), 0x1111);
    assert_int_equal(get32(b, (uint32_t)v->regs[RSP]), 0x20 * 8 + 3);
    /* A page fault that meets #NP: #DF. */
    bench_protected(b, 3);
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 14, .has_error = true, .address = 0x99});
    check_mode(v, 0, CODE(0), HANDLER);
    assert_int_equal(get32(b, (uint32_t)v->regs[RSP]), 0);
    assert_int_equal(v->cr2, 0x99);
    /* A benign exception that meets #NP: #NP. */
    bench_protected(b, 3);
    idt_put(b, 6, gate_make(14, 0, CODE(0), HANDLER, 0) & ~(0x80ull << 40));
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 6});
    check_mode(v, 0, CODE(0), 0x1111);
    assert_int_equal(get32(b, (uint32_t)v->regs[RSP]), 6 * 8 + 3);
    /* Without a table: #GP, #DF, shutdown. */
    bench_protected(b, 3);
    v->idtr.limit = 0;
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 11, .has_error = true, .error = 0x18});
    assert_int_equal(v->activity, ACTIVITY_SHUTDOWN);
    assert_int_equal(b->exits[EXIT_TRIPLE_FAULT], 1);
    assert_int_equal(v->fault_chain_length, 3);
    assert_int_equal(v->fault_chain[0].vector, VECTOR_NP);
    assert_int_equal(v->fault_chain[1].vector, VECTOR_GP);
    assert_int_equal(v->fault_chain[1].error, 11 * 8 + 3);
    assert_int_equal(v->fault_chain[2].vector, VECTOR_GP);
    assert_int_equal(v->fault_chain[2].error, 8 * 8 + 3);
    assert_int_equal(v->shutdown_rip, CODE_AT);
    check_mode(v, 3, CODE(3), CODE_AT);
}

static void endless_benign_faults_end(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 3);
    idt_put(b, 17, gate_make(14, 0, CODE(3), HANDLER, 0));
    v->cr0 |= CR0_AM;
    v->rflags_rest |= FLAG_AC;
    v->regs[RSP] = STACK_AT(3) + 1;
    vcpu_mode_changed(v);
    event(b, EVENT_EXCEPTION, (struct fault){.vector = 17, .has_error = true});
    assert_int_equal(v->activity, ACTIVITY_SHUTDOWN);
}

/* ---- virtual-8086 mode ---- */

static void enter_v86(struct bench *b, uint32_t flags)
{
    struct insn iret = insn_plain(4);
    bench_protected(b, 0);
    b->v->regs[RSP] = 0x28000;
    push32(b, 9, 0x100u, 0x1000u, FLAG_VM | flags, 0x8000u, 0x2000u, 0x3001u, 0x3002u, 0x3003u, 0x3004u);
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
}

static void v86_and_back(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    enter_v86(b, FLAG_IF);
    check_mode(v, 3, 0x1000, 0x100);
    assert_true(vcpu_v86(v));
    assert_int_equal(v->seg[SEG_CS].base, 0x10000);
    assert_int_equal(v->seg[SEG_ES].selector, 0x3001);
    assert_int_equal(v->seg[SEG_GS].base, 0x30040);
    assert_int_equal(v->regs[RSP], 0x8000);
    idt_put(b, 0x20, gate_make(14, 0, CODE(0), HANDLER, 0));
    event(b, EVENT_EXTERNAL, (struct fault){.vector = 0x20});
    check_mode(v, 0, CODE(0), HANDLER);
    assert_false(vcpu_v86(v));
    const uint32_t frame[] = {0x100,  0x1000, FLAG_VM | FLAG_IF | FLAG_FIXED, 0x8000, 0x2000, 0x3001,
                              0x3002, 0x3003, 0x3004};
    assert_int_equal(v->regs[RSP], STACK_AT(0) - sizeof frame);
    assert_memory_equal(b->ram + v->regs[RSP], frame, sizeof frame);
    assert_true(v->seg[SEG_DS].attr & SEG_ATTR_NULL);
    enter_v86(b, 0);
    idt_put(b, 0x20, gate_make(14, 0, CODE(1), HANDLER, 0)); /* handlers must be at level 0 */
    idt_put(b, 13, gate_make(14, 0, CODE(0), 0x1313, 0));
    event(b, EVENT_EXTERNAL, (struct fault){.vector = 0x20});
    check_mode(v, 0, CODE(0), 0x1313);
    assert_int_equal(get32(b, (uint32_t)v->regs[RSP]), (CODE(1) & 0xfffc) | 1);
}

static void v86_software_interrupts(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_imm(2, 0x21), iret = insn_plain(2);
    enter_v86(b, 0);
    assert_int_equal(bench_run(b, op_int, &in), VECTOR_GP); /* IOPL 0 */
    assert_int_equal(v->fault.error, 0);
    assert_int_equal(bench_run(b, op_iret, &iret), VECTOR_GP);
    /* CR4.VME: the map below the I/O map redirects. */
    v->cr4 |= CR4_VME;
    put16(b, TSS_AT + 0x66, 0x88);
    memset(b->ram + TSS_AT + 0x68, 0, 32);
    put32(b, 0x21 * 4, 0x40000055);
    v->rflags_rest |= FLAG_VIF;
    assert_int_equal(bench_run(b, op_int, &in), NO_FAULT);
    check_mode(v, 3, 0x4000, 0x55);
    assert_int_equal(get16(b, 0x20000 + 0x7ffe), FLAG_IOPL | FLAG_IF | FLAG_FIXED);
    assert_false(v->rflags_rest & FLAG_VIF);
    assert_int_equal(bench_run(b, op_iret, &iret), NO_FAULT);
    check_mode(v, 3, 0x1000, 0x102);
    assert_int_equal(rflags_get(v), FLAG_VM | FLAG_VIF | FLAG_FIXED);
    b->ram[TSS_AT + 0x68 + 0x21 / 8] = 1 << (0x21 % 8);
    assert_int_equal(bench_run(b, op_int, &in), VECTOR_GP);
    enter_v86(b, FLAG_IOPL);
    idt_put(b, 0x21, gate_make(14, 3, CODE(0), HANDLER, 0));
    assert_int_equal(bench_run(b, op_int, &in), NO_FAULT);
    check_mode(v, 0, CODE(0), HANDLER);
}

/* ---- system calls ---- */

static void syscall_and_sysret(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(8);
    bench_long(b, 3);
    v->msr.star = (uint64_t)CODE64(0) << 32 | (uint64_t)(CODE(3) & ~3u) << 48;
    v->msr.lstar = 0xffffffff81000000;
    v->msr.sfmask = FLAG_IF | FLAG_TF;
    rflags_set(v, FLAG_IF | FLAG_ZF | FLAG_RF);
    assert_int_equal(bench_run(b, op_syscall, &in), NO_FAULT);
    check_mode(v, 0, CODE64(0), 0xffffffff81000000);
    assert_int_equal(v->seg[SEG_SS].selector, CODE64(0) + 8);
    assert_int_equal(v->regs[RCX], RETURN_RIP);
    assert_int_equal(v->regs[R11], FLAG_IF | FLAG_ZF | FLAG_FIXED);
    assert_int_equal(rflags_get(v), FLAG_ZF | FLAG_FIXED);
    assert_int_equal(v->code_mode, CODE_64);
    v->regs[RCX] = 0x800000000000;
    assert_int_equal(bench_run(b, op_sysret, &in), VECTOR_GP);
    v->regs[RCX] = 0x401000;
    assert_int_equal(bench_run(b, op_sysret, &in), NO_FAULT);
    check_mode(v, 3, (CODE(3) & ~3u) + 16 + 3, 0x401000);
    assert_int_equal(v->seg[SEG_SS].selector, (CODE(3) & ~3u) + 8 + 3);
    assert_int_equal(rflags_get(v), FLAG_IF | FLAG_ZF | FLAG_FIXED);
    assert_int_equal(bench_run(b, op_sysret, &in), VECTOR_GP);
    bench_long(b, 0);
    in.opsize = 4;
    assert_int_equal(bench_run(b, op_sysret, &in), NO_FAULT);
    check_mode(v, 3, CODE(3), 0x401000);
    assert_int_equal(bench_run(b, op_syscall, &in), VECTOR_UD); /* Intel: 64-bit mode only */
    v->efer &= ~EFER_SCE;
    bench_long(b, 3);
    v->efer &= ~EFER_SCE;
    assert_int_equal(bench_run(b, op_syscall, &in), VECTOR_UD);
}

static void syscall_on_amd(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    b->model.amd = true;
    bench_protected(b, 3);
    v->efer = EFER_SCE;
    v->msr.star = (uint64_t)CODE(0) << 32 | (uint64_t)CODE(3) << 48 | 0x81000000;
    rflags_set(v, FLAG_IF | FLAG_DF);
    assert_int_equal(bench_run(b, op_syscall, &in), NO_FAULT);
    check_mode(v, 0, CODE(0), 0x81000000);
    assert_int_equal(rflags_get(v), FLAG_DF | FLAG_FIXED);
    assert_int_equal(v->regs[RCX], RETURN_RIP);
    uint32_t attr = v->seg[SEG_SS].attr;
    assert_int_equal(bench_run(b, op_sysret, &in), NO_FAULT);
    check_mode(v, 3, CODE(3), RETURN_RIP);
    assert_int_equal(v->seg[SEG_SS].attr, attr | 0x60);
    assert_int_equal(rflags_get(v), FLAG_DF | FLAG_IF | FLAG_FIXED);
    bench_long(b, 3);
    v->msr.sysenter_cs = CODE(0);
    assert_int_equal(bench_run(b, op_sysenter, &in), VECTOR_UD);
}

static void sysenter_and_sysexit(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct insn in = insn_plain(4);
    bench_protected(b, 3);
    assert_int_equal(bench_run(b, op_sysenter, &in), VECTOR_GP); /* no segment set up */
    v->msr.sysenter_cs = 0x40;
    v->msr.sysenter_esp = 0xffff800000070000;
    v->msr.sysenter_eip = 0xffff800000001234;
    rflags_set(v, FLAG_IF | FLAG_TF);
    assert_int_equal(bench_run(b, op_sysenter, &in), NO_FAULT);
    check_mode(v, 0, 0x40, 0x1234);
    assert_int_equal(v->regs[RSP], 0x70000);
    assert_int_equal(rflags_get(v), FLAG_TF | FLAG_FIXED);
    v->regs[RDX] = 0x401000;
    v->regs[RCX] = 0x30000;
    assert_int_equal(bench_run(b, op_sysexit, &in), NO_FAULT);
    check_mode(v, 3, 0x53, 0x401000);
    assert_int_equal(v->seg[SEG_SS].selector, 0x5b);
    assert_int_equal(bench_run(b, op_sysexit, &in), VECTOR_GP);
    bench_long(b, 3);
    assert_int_equal(bench_run(b, op_sysenter, &in), NO_FAULT);
    check_mode(v, 0, 0x40, 0xffff800000001234);
    assert_int_equal(v->code_mode, CODE_64);
    in.opsize = 8;
    assert_int_equal(bench_run(b, op_sysexit, &in), NO_FAULT);
    check_mode(v, 3, 0x63, 0x401000);
    assert_int_equal(v->code_mode, CODE_64);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)
    const struct CMUnitTest tests[] = {
        TEST(jump_direct),
        TEST(call_and_return_direct),
        TEST(real_mode_transfers),
        TEST(call_gate_with_parameters),
        TEST(call_gate_16),
        TEST(call_gate_faults),
        TEST(call_gate_64),
        TEST(iret_between_levels),
        TEST(iret_to_a_16_bit_stack),
        TEST(iret_64),
        TEST(interrupt_from_user_32),
        TEST(software_interrupts),
        TEST(debug_exception),
        TEST(interrupt_64),
        TEST(double_and_triple_faults),
        TEST(endless_benign_faults_end),
        TEST(v86_and_back),
        TEST(v86_software_interrupts),
        TEST(syscall_and_sysret),
        TEST(syscall_on_amd),
        TEST(sysenter_and_sysexit),
    };
    return cmocka_run_group_tests_name("transfers", tests, NULL, NULL);
}
