/* Events through the IDT of 32-bit protected mode: interrupt, trap and task gates of both sizes, call gates with stack
 * switches, privilege and presence checks, the software interrupts, nested faults.
 *
 * SDM vol. 3, chapters 5.8 and 6; vol. 2, CALL, RET, INT n, IRET, BOUND. */
#include "guest.h"

CODE(int_80, "int $0x80");
CODE(int3, "int3");
CODE(int_3, "int $3");
CODE(into, "into");
CODE(icebp, ".byte 0xf1");
CODE(bound, "bound %eax, (%edi)");
CODE(bound16, "boundw %ax, (%edi)");
CODE(divide, "div %cl");
CODE(ud2, "ud2");
CODE(nothing, "nop");
CODE(cli, "cli");
CODE(hlt, "hlt");
CODE(far_call, "lcall *(%edi)");
CODE(far_jump, "ljmp *(%edi)");
CODE(far_call_return, "lcall *(%edi); mov $0x1234, %edx");
CODE(far_return, "lret");
CODE(iret, "iret");
CODE(popf_code, "popf");
CODE(load_gp, "mov %ds:(%edi), %al");
CODE(call_gate_target, "mov 8(%esp), %eax; mov 12(%esp), %ecx; mov %cs, %ebx; mov %ss, %edx");
CODE(call_gate_return, "mov 8(%esp), %eax; mov 12(%esp), %ecx; lret $8");
CODE(call_gate_return16, "movzwl 4(%esp), %eax; movzwl 6(%esp), %ecx; lretw $4");

static char ring1_stack[4096] __attribute__((aligned(16)));
static uint8_t df_tss[104];

static void gate(unsigned vector, unsigned type, unsigned dpl)
{
    idt_set(vector, &(struct gate_spec){.offset = (word)trap_stubs + 16 * vector,
                                        .selector = SEL_KCODE,
                                        .type = (uint8_t)type,
                                        .dpl = (uint8_t)dpl});
}

static void test_software_interrupts(void)
{
    gate(0x80, 0xe, 0);
    struct trap t = run_kernel(int_80);
    ok_trap(&t, 0x80, NO_ERROR, int_80_end, "INT n through an interrupt gate: saved EIP is behind it");
    ok(!(t.regs.flags & FL_RF), "... without RF");
    t = run_kernel(int_80, .flags = FL_1 | FL_IF | FL_NT | FL_DF | FL_ZF);
    ok_equal(t.regs.flags, FL_1 | FL_IF | FL_NT | FL_DF | FL_ZF, "... saves all flags");
    ok_equal(t.handler_flags & (FL_IF | FL_TF | FL_NT | FL_DF | FL_IOPL), FL_DF, "... clears IF and NT, not DF");
    ok_equal(t.regs.sp - t.frame, 12, "... three words on the same stack");
    gate(0x80, 0xf, 0);
    t = run_kernel(int_80, .flags = FL_1 | FL_IF);
    ok(t.handler_flags & FL_IF, "a trap gate leaves IF");
    t = run_user(int_80);
    ok_trap(&t, GP, 0x80 * 8 + 2, int_80, "INT n at level 3 through a gate of DPL 0: #GP(vector, IDT)");
    gate(0x80, 0xf, 3);
    t = run_user(int_80, .flags = FL_1 | FL_IF | FL_IOPL);
    ok_trap(&t, 0x80, NO_ERROR, int_80_end, "... of DPL 3");
    ok_equal(t.frame, (word)trap_stack_top - 20, "... five words on the stack of level 0");
    ok_equal(t.handler_ss, SEL_KDATA, "... with SS0");
    ok(t.regs.ss == (SEL_UDATA | 3) && t.regs.sp == (word)user_stack_top, "... SS:ESP saved");
    ok_equal(t.handler_flags & FL_IOPL, FL_IOPL, "... IOPL stays");
    idt_set(0x80,
            &(struct gate_spec){
                .offset = (word)trap_stubs + 16 * 0x80, .selector = SEL_KCODE, .type = 0xe, .dpl = 3, .absent = true});
    t = run_kernel(int_80);
    ok_trap(&t, NP, 0x80 * 8 + 2, int_80, "a gate that is not present: #NP(vector, IDT)");
    idt_load(0x80 * 8 + 6);
    t = run_kernel(int_80);
    ok_trap(&t, GP, 0x80 * 8 + 2, int_80, "a gate beyond the limit by one byte: #GP(vector, IDT)");
    idt_load(IDT_LIMIT);
    for (unsigned type = 0; type < 16; type++) {
        if ((type >= 5 && type <= 7) || type == 0xe || type == 0xf)
            continue;
        gate(0x80, type, 3);
        t = run_kernel(int_80);
        ok_trap(&t, GP, 0x80 * 8 + 2, int_80, "type %u in the IDT: #GP(vector, IDT)", type);
    }
    gate(0x80, 0xe, 3);
    t = run_kernel(int3);
    ok_trap(&t, BP, NO_ERROR, int3_end, "INT3");
    t = run_user(int3);
    ok_trap(&t, BP, NO_ERROR, int3_end, "INT3 at level 3");
    gate(BP, 0xe, 0);
    t = run_user(int3);
    ok_trap(&t, GP, BP * 8 + 2, int3, "INT3 at level 3, DPL 0");
    t = run_user(int_3);
    ok_trap(&t, GP, BP * 8 + 2, int_3, "INT 3 at level 3, DPL 0");
    gate(BP, 0xe, 3);
    t = run_kernel(into);
    ok_done(&t, into_end, "INTO without OF");
    t = run_user(into, .flags = FL_1 | FL_OF);
    ok_trap(&t, OF, NO_ERROR, into_end, "INTO with OF");
    gate(OF, 0xe, 0);
    t = run_user(into, .flags = FL_1 | FL_OF);
    ok_trap(&t, GP, OF * 8 + 2, into, "INTO at level 3, DPL 0");
    gate(OF, 0xe, 3);
    t = run_user(icebp);
    ok_trap(&t, DB, NO_ERROR, icebp_end, "ICEBP at level 3 needs no DPL");
}

static void test_faults(void)
{
    static int32_t bounds[2] = {-5, 10};
    struct trap t = run_user(bound, .di = (word)bounds, .ax = (word)-5);
    ok_done(&t, bound_end, "BOUND: at the lower bound");
    t = run_user(bound, .di = (word)bounds, .ax = 11);
    ok_trap(&t, BR, NO_ERROR, bound, "BOUND: above");
    t = run_user(bound, .di = (word)bounds, .ax = (word)-6);
    ok_trap(&t, BR, NO_ERROR, bound, "BOUND: below");
    static int16_t bounds16[2] = {-5, 10};
    t = run_user(bound16, .di = (word)bounds16, .ax = 0x7000a);
    ok_done(&t, bound16_end, "BOUND, 16 bits: at the upper bound");
    t = run_user(bound16, .di = (word)bounds16, .ax = 0x8000);
    ok_trap(&t, BR, NO_ERROR, bound16, "BOUND, 16 bits: below");
    t = run_user(divide, .ax = 5);
    ok_trap(&t, DE, NO_ERROR, divide, "DIV by 0");
    ok(t.regs.flags & FL_RF, "... with RF");
    t = run_user(ud2);
    ok_trap(&t, UD, NO_ERROR, ud2, "UD2");
    t = run_user(cli);
    ok_trap(&t, GP, 0, cli, "CLI at level 3, IOPL 0");
    t = run_user(cli, .flags = FL_1 | FL_IOPL | FL_IF);
    ok(t.vector == DONE && !(t.regs.flags & FL_IF), "CLI at level 3, IOPL 3");
    t = run_user(hlt, .flags = FL_1 | FL_IOPL);
    ok_trap(&t, GP, 0, hlt, "HLT at level 3");
    word *stack = STACK(FL_1 | FL_IF | FL_IOPL | FL_NT | FL_ID);
    t = run_user(popf_code, .sp = (word)stack);
    ok_equal(t.regs.flags, FL_1 | FL_NT | FL_ID, "POPF at level 3: IF and IOPL stay");
    t = run_user(popf_code, .sp = (word)stack, .flags = FL_1 | FL_IOPL);
    ok_equal(t.regs.flags, FL_1 | FL_NT | FL_ID | FL_IOPL | FL_IF, "POPF at level 3, IOPL 3: IF changes");
}

/* Gates whose code segments or stacks are wrong. */
static void test_gate_targets(void)
{
    struct gate_spec spec = {.offset = (word)trap_stubs + 16 * 0x80, .type = 0xe, .dpl = 3};
    struct {
        uint64_t descriptor;
        word vector;
        const char *what;
    } targets[] = {
        {descriptor(0, 0xfffff, 0x92, 0xc), GP, "a data segment"},
        {descriptor(0, 0xfffff, 0x1a, 0xc), NP, "code that is not present"},
        {descriptor(0, 0x67, 0x89, 0), GP, "a TSS"},
        {descriptor(0, 0xfffff, 0xfa, 0xc), GP, "code of level 3, from level 0"},
        {0, GP, "an empty descriptor"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(targets); i++) {
        spec.selector = gdt_put(0, targets[i].descriptor);
        idt_set(0x80, &spec);
        struct trap t = run_kernel(int_80);
        ok_trap(&t, targets[i].vector, spec.selector, int_80, "the handler is in %s: (selector)", targets[i].what);
    }
    spec.selector = 0;
    idt_set(0x80, &spec);
    struct trap t = run_kernel(int_80);
    ok_trap(&t, GP, 0, int_80, "the handler's selector is null: #GP(0)");
    spec.selector = GDT_ENTRIES * 8 | 4;
    idt_set(0x80, &spec);
    t = run_kernel(int_80);
    ok_trap(&t, GP, GDT_ENTRIES * 8 | 4, int_80, "the handler is in a missing LDT: #GP(selector, TI)");
    spec.selector = GDT_ENTRIES * 8;
    idt_set(0x80, &spec);
    t = run_kernel(int_80);
    ok_trap(&t, GP, GDT_ENTRIES * 8, int_80, "the handler's selector is beyond the GDT: #GP(selector)");
    spec.selector = gdt_put(0, descriptor(0, 0x1000, 0x9a, 0x4));
    idt_set(0x80, &spec);
    t = run_kernel(int_80);
    ok_trap(&t, GP, 0, int_80, "the handler's offset is beyond its limit: #GP(0)");
    /* A hardware exception adds EXT. */
    spec.selector = gdt_put(0, descriptor(0, 0xfffff, 0x1a, 0xc));
    idt_set(UD, &spec);
    t = run_kernel(ud2);
    ok_trap(&t, NP, spec.selector | 1, ud2, "#UD whose handler's code is not present: #NP(selector, EXT)");
    idt_set(UD, &(struct gate_spec){.offset = 0, .selector = SEL_KCODE, .type = 0xe, .absent = true});
    t = run_kernel(ud2);
    ok_trap(&t, NP, UD * 8 + 3, ud2, "#UD whose gate is not present: #NP(vector, IDT, EXT)");
    idt_set(UD, &(struct gate_spec){.offset = 0, .selector = SEL_KCODE, .type = 0xc});
    t = run_kernel(ud2);
    ok_trap(&t, GP, UD * 8 + 3, ud2, "#UD with a call gate in the IDT: #GP(vector, IDT, EXT)");
    idt_default(UD);
    /* Conforming code: no change of level, no change of stack. */
    idt_set(0x80, &(struct gate_spec){.offset = (word)trap_stubs + 16 * 0x80,
                                      .selector = gdt_put(0, descriptor(0, 0xfffff, 0x9e, 0xc)),
                                      .type = 0xe,
                                      .dpl = 3});
    t = run_kernel(int_80);
    ok(t.vector == 0x80 && t.handler_cs == SEL_FREE, "a conforming handler at level 0");
    gate(0x80, 0xe, 3);
}

static void test_stacks(void)
{
    struct {
        uint16_t ss;
        word vector, error;
        const char *what;
    } stacks[] = {
        {0, TS, 0, "null"},
        {SEL_KCODE, TS, SEL_KCODE, "a code segment"},
        {SEL_UDATA | 3, TS, SEL_UDATA, "of level 3"},
        {SEL_KDATA | 3, TS, SEL_KDATA, "with RPL 3"},
        {GDT_ENTRIES * 8, TS, GDT_ENTRIES * 8, "beyond the GDT"},
        {SEL_FREE, SS, SEL_FREE, "not present"},
        {SEL_FREE + 8, TS, SEL_FREE + 8, "read-only"},
    };
    gdt_put(0, descriptor(0, 0xfffff, 0x12, 0xc));
    gdt_put(1, descriptor(0, 0xfffff, 0x90, 0xc));
    for (unsigned i = 0; i < ARRAY_LEN(stacks); i++) {
        /* The fault would meet the same bad stack: it goes through a task gate, which does not use it. */
        uint16_t good = SEL_KDATA;
        memcpy(tss + 8, &stacks[i].ss, 2);
        static uint8_t ts_tss[104];
        memset(ts_tss, 0, sizeof ts_tss);
        word entry = (word)trap_stubs + 16 * stacks[i].vector, sp = (word)ring1_stack + sizeof ring1_stack, fl = FL_1;
        memcpy(ts_tss + 0x20, &entry, 4);
        memcpy(ts_tss + 0x24, &fl, 4);
        memcpy(ts_tss + 0x38, &sp, 4);
        static const uint16_t selectors[] = {SEL_KDATA, SEL_KCODE, SEL_KDATA, SEL_KDATA};
        for (unsigned j = 0; j < 4; j++)
            memcpy(ts_tss + 0x48 + 4 * j, &selectors[j], 2);
        gdt_put(4, descriptor((word)ts_tss, 103, 0x89, 0));
        gdt[SEL_TSS / 8] &= ~(2ull << 40);
        ASM("ltr %w0" ::"r"(SEL_TSS));
        idt_set((unsigned)stacks[i].vector, &(struct gate_spec){.selector = SEL_FREE + 32, .type = 5});
        struct trap t = run_user(int_80);
        uint32_t ip;
        memcpy(&ip, tss + 0x20, 4);
        idt_default((unsigned)stacks[i].vector);
        memcpy(tss + 8, &good, 2);
        uint32_t pushed = *(uint32_t *)(sp - 4);
        ok(t.vector == stacks[i].vector && pushed == stacks[i].error && ip == (word)int_80,
           "SS0 is %s: vector %lu, error %lx", stacks[i].what, t.vector, (word)pushed);
        gdt[SEL_TSS / 8] &= ~(2ull << 40);
        ASM("ltr %w0" ::"r"(SEL_TSS));
    }
    ASM("pushfl; andl $~0x4000, (%%esp); popfl" ::: "memory");
}

static void test_narrow_gates(void)
{
    /* A 16-bit gate pushes words and can only reach 64 KiB: a segment with a base leads to the stub. */
    extern const char narrow_entry[];
    idt_set(0x80,
            &(struct gate_spec){.offset = (word)narrow_entry & 0xffff,
                                .selector = gdt_put(0, descriptor((word)narrow_entry & ~0xfffful, 0xffff, 0x9a, 0x4)),
                                .type = 6,
                                .dpl = 3});
    struct trap t = run_kernel(int_80, .flags = FL_1 | FL_IF | FL_ID);
    ok(t.vector == 0x80 && t.regs.sp - t.frame == 6 && t.frame == (word)kernel_stack_top - 6,
       "a 16-bit interrupt gate pushes three 16-bit words");
    ok(t.regs.ip == ((word)int_80_end & 0xffff) && t.regs.cs == SEL_KCODE && t.regs.flags == (FL_1 | FL_IF),
       "... IP, CS, FLAGS");
    ok(!(t.handler_flags & FL_IF), "... clears IF");
    t = run_user(int_80);
    ok(t.frame == (word)trap_stack_top - 10 && t.regs.ss == (SEL_UDATA | 3) &&
           t.regs.sp == ((word)user_stack_top & 0xffff),
       "... and five from level 3");
    idt_set(0x80,
            &(struct gate_spec){.offset = (word)narrow_entry & 0xffff, .selector = SEL_FREE, .type = 7, .dpl = 3});
    t = run_kernel(int_80, .flags = FL_1 | FL_IF);
    ok(t.vector == 0x80 && (t.handler_flags & FL_IF), "a 16-bit trap gate leaves IF");
    gate(0x80, 0xe, 3);
}
/* Where 16-bit gates lead: 32-bit code again. */
__asm__(".text\n.globl narrow_entry\nnarrow_entry: push $0x80; ljmp $8, $trap_common\n");

/* ---- call gates ---- */

static uint64_t call_gate(word offset, unsigned selector, unsigned parameters, unsigned type, unsigned dpl)
{
    return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)parameters << 32 |
           (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)(offset >> 16) << 48;
}

struct __attribute__((packed)) far_pointer {
    uint32_t offset;
    uint16_t selector;
};

static void test_call_gates(void)
{
    struct far_pointer to = {0xdeadbeef, SEL_FREE | 3};
    word *stack = (word *)user_stack_top - 8;
    stack[0] = 0x11;
    stack[1] = 0x22;
    gdt_put(0, call_gate((word)call_gate_target, SEL_KCODE, 2, 0xc, 3));
    struct trap t = run_user(far_call, .di = (word)&to, .sp = (word)stack);
    ok_done(&t, call_gate_target_end, "a call gate leads from level 3 to level 0");
    ok(t.regs.ax == 0x11 && t.regs.cx == 0x22, "... copies the parameters");
    ok(t.regs.bx == SEL_KCODE && t.regs.dx == SEL_KDATA, "... CS and SS of level 0");
    word *frame = (word *)trap_stack_top - 6;
    ok(frame[0] == (word)far_call_end && frame[1] == (SEL_UCODE | 3) && frame[4] == (word)stack &&
           frame[5] == (SEL_UDATA | 3),
       "... EIP, CS, parameters, ESP, SS on its stack");
    ok_equal(t.regs.sp, (word)frame, "... and ESP there");
    gdt_put(0, call_gate((word)call_gate_return, SEL_KCODE, 2, 0xc, 3));
    t = run_user(far_call_return, .di = (word)&to, .sp = (word)stack);
    ok_done(&t, far_call_return_end, "RET n comes back to level 3");
    ok(t.regs.dx == 0x1234 && t.regs.cs == (SEL_UCODE | 3) && t.regs.sp == (word)stack + 8 && t.regs.ax == 0x11,
       "... with the parameters taken from both stacks");
    /* A 16-bit gate copies words. The return address must fit into 16 bits; so only the way in is checked. */
    extern const char low_target[];
    *(uint32_t *)stack = 0x00440033;
    gdt_put(0, call_gate((word)low_target & 0xffff, gdt_put(1, descriptor(0x10000, 0xffff, 0x9a, 0x4)), 2, 4, 3));
    t = run_user(far_call, .di = (word)&to, .sp = (word)stack);
    uint16_t *narrow = (uint16_t *)trap_stack_top - 6;
    ok(narrow[0] == ((word)far_call_end & 0xffff) && narrow[1] == (SEL_UCODE | 3) && narrow[2] == 0x33 &&
           narrow[3] == 0x44 && narrow[4] == ((word)stack & 0xffff) && narrow[5] == (SEL_UDATA | 3),
       "a 16-bit call gate pushes and copies 16-bit words");

    gdt_put(0, call_gate((word)nothing, SEL_KCODE, 0, 0xc, 0));
    t = run_user(far_call, .di = (word)&to);
    ok_trap(&t, GP, SEL_FREE, far_call, "a gate of DPL 0 from level 3: #GP(gate)");
    t = run_kernel(far_call, .di = (word)&to);
    ok_trap(&t, GP, SEL_FREE, far_call, "... or with RPL 3: #GP(gate)");
    gdt_put(0, call_gate((word)nothing, SEL_KCODE, 0, 0xc, 3) & ~(0x80ull << 40));
    t = run_user(far_call, .di = (word)&to);
    ok_trap(&t, NP, SEL_FREE, far_call, "a gate that is not present: #NP(gate)");
    gdt_put(0, call_gate((word)nothing, 0, 0, 0xc, 3));
    t = run_user(far_call, .di = (word)&to);
    ok_trap(&t, GP, 0, far_call, "a gate with a null selector: #GP(0)");
    gdt_put(0, call_gate((word)nothing, SEL_KDATA, 0, 0xc, 3));
    t = run_user(far_call, .di = (word)&to);
    ok_trap(&t, GP, SEL_KDATA, far_call, "a gate to data: #GP(selector)");
    gdt_put(0, call_gate((word)nothing, SEL_KCODE, 0, 0xc, 3));
    t = run_user(far_jump, .di = (word)&to);
    ok_trap(&t, GP, SEL_KCODE, far_jump, "JMP through a gate to more privileged code: #GP(selector)");
    t = run_kernel(far_jump, .di = (word)&to);
    ok_done(&t, nothing_end, "JMP through a gate at the same level");
    gdt_put(0, call_gate((word)nothing, gdt_put(1, descriptor(0, 0xfffff, 0x9e, 0xc)), 0, 0xc, 3));
    t = run_user(far_jump, .di = (word)&to);
    ok(t.vector == DONE && t.regs.cs == ((SEL_FREE + 8) | 3), "JMP through a gate to conforming code keeps level 3");
    gdt_put(0, call_gate((word)nothing, SEL_KCODE, 0, 0xc, 3));
    tss_set_sp0((word)trap_stack_top);
    t = run_kernel(far_call, .di = (word)&to);
    ok_equal(t.regs.sp, (word)kernel_stack_top - 8, "CALL through a gate at the same level: same stack");

    /* Outward, a CALL is forbidden and a RET loads nulls where data is too privileged. */
    struct far_pointer out = {(word)nothing, SEL_UCODE | 3};
    t = run_kernel(far_call, .di = (word)&out);
    ok_trap(&t, GP, SEL_UCODE, far_call, "CALL to a less privileged segment: #GP(selector)");
    word *frame4 = STACK((word)nothing, SEL_UCODE | 3, (word)user_stack_top, SEL_UDATA | 3);
    t = run_kernel(far_return, .sp = (word)frame4, .ds = SEL_KDATA, .es = SEL_UDATA | 3);
    ok(t.vector == DONE && t.regs.cs == (SEL_UCODE | 3) && t.regs.sp == (word)user_stack_top, "RET to level 3");
    ok(t.regs.ds == 0 && t.regs.es == (SEL_UDATA | 3), "... clears DS of DPL 0, keeps ES of DPL 3");
    word *same = STACK((word)nothing, SEL_UCODE | 2, (word)user_stack_top, SEL_UDATA | 3);
    t = run_kernel(far_return, .sp = (word)same);
    ok_trap(&t, GP, SEL_UCODE, far_return, "RET with RPL that is not DPL: #GP(selector)");
    word *inward = STACK((word)nothing, SEL_KCODE, 0, 0);
    t = run_user(far_return, .sp = (word)inward);
    ok_trap(&t, GP, SEL_KCODE, far_return, "RET to a more privileged level: #GP(selector)");
}
__asm__(".pushsection .low,\"awx\"\nlow_target: int $0x81\n.popsection");

static void test_iret(void)
{
    word *frame = STACK(0);
    word good[] = {(word)nothing, SEL_UCODE | 3, FL_1 | FL_IF, (word)user_stack_top, SEL_UDATA | 3};
    memcpy(frame, good, sizeof good);
    struct trap t = run_kernel(iret, .sp = (word)frame);
    ok(t.vector == DONE && t.regs.cs == (SEL_UCODE | 3) && (t.regs.flags & FL_IF) && t.regs.ds == 0, "IRET to level 3");
    struct {
        unsigned index;
        word value, vector, error;
        const char *what;
    } bad[] = {
        {1, 0, GP, 0, "CS null"},
        {1, SEL_UDATA | 3, GP, SEL_UDATA, "CS is data"},
        {1, SEL_UCODE | 1, GP, SEL_UCODE, "RPL is not DPL"},
        {1, GDT_ENTRIES * 8 | 3, GP, GDT_ENTRIES * 8, "CS beyond the GDT"},
        {4, 3, GP, 0, "SS null"},
        {4, SEL_KDATA, GP, SEL_KDATA, "SS of another RPL"},
        {4, SEL_UCODE | 3, GP, SEL_UCODE, "SS is code"},
        {4, (SEL_FREE + 40) | 3, SS, SEL_FREE + 40, "SS not present"},
        {1, (SEL_FREE + 48) | 3, NP, SEL_FREE + 48, "CS not present"},
        {1, (SEL_FREE + 56) | 3, GP, 0, "EIP beyond the limit"},
    };
    gdt_put(5, descriptor(0, 0xfffff, 0x72, 0xc));
    gdt_put(6, descriptor(0, 0xfffff, 0x7a, 0xc));
    gdt_put(7, descriptor(0, 0xffff, 0xfa, 0x4));
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        memcpy(frame, good, sizeof good);
        frame[bad[i].index] = bad[i].value;
        t = run_kernel(iret, .sp = (word)frame);
        ok_trap(&t, bad[i].vector, bad[i].error, iret, "IRET: %s", bad[i].what);
        ok_equal(t.regs.sp, (word)frame, "... ESP is unchanged");
    }
    word kernel[] = {(word)nothing, SEL_KCODE, FL_1 | FL_IF | FL_IOPL | FL_AC | FL_ID | FL_RF};
    memcpy(frame, kernel, sizeof kernel);
    t = run_kernel(iret, .sp = (word)frame);
    ok(t.vector == DONE && t.regs.flags == (FL_1 | FL_IF | FL_IOPL | FL_AC | FL_ID), "IRET at level 0 loads the flags");
    ok_equal(t.regs.sp, (word)(frame + 3), "... and takes three words");
    word user[] = {(word)nothing, SEL_UCODE | 3, FL_1 | FL_IF | FL_IOPL | FL_VM | FL_NT | FL_VIF | FL_VIP};
    memcpy(frame, user, sizeof user);
    t = run_user(iret, .sp = (word)frame);
    ok_equal(t.regs.flags, FL_1 | FL_NT, "IRET at level 3 leaves IF, IOPL, VM, VIF and VIP alone");
}

/* ---- nested faults ---- */

static void df_task_init(void)
{
    word entry = (word)trap_stubs + 16 * DF, flags = FL_1, sp = (word)page_alloc(1) + PAGE;
    static const uint16_t selectors[] = {SEL_KDATA, SEL_KCODE, SEL_KDATA, SEL_KDATA};
    memset(df_tss, 0, sizeof df_tss);
    memcpy(df_tss + 0x20, &entry, 4);
    memcpy(df_tss + 0x24, &flags, 4);
    memcpy(df_tss + 0x38, &sp, 4);
    for (unsigned i = 0; i < 4; i++)
        memcpy(df_tss + 0x48 + 4 * i, &selectors[i], 2);
    gdt_put(3, descriptor((word)df_tss, 103, 0x89, 0));
    idt_set(DF, &(struct gate_spec){.selector = SEL_FREE + 24, .type = 5});
}

static void back_to_own_task(void)
{
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    ASM("ltr %w0; pushfl; andl $~0x4000, (%%esp); popfl" ::"r"(SEL_TSS) : "memory");
}

static void test_nested(void)
{
    struct {
        unsigned vector;
        const char *code;
        bool is_double;
        word second;
        const char *what;
    } nested[] = {
        {DE, divide, true, 0, "#DE, then #NP"},
        {GP, cli, true, 0, "#GP, then #NP"},
        {UD, ud2, false, NP, "#UD, then #NP"},
        {BR, bound, false, NP, "#BR, then #NP"},
    };
    static int32_t bounds[2] = {1, 0};
    for (unsigned i = 0; i < ARRAY_LEN(nested); i++) {
        df_task_init();
        idt_set(nested[i].vector, &(struct gate_spec){.selector = SEL_KCODE, .type = 0xe, .absent = true});
        struct trap t = run_user(nested[i].code, .di = (word)bounds, .sp = (word)user_stack_top - 16);
        idt_default(nested[i].vector);
        if (nested[i].is_double) {
            uint32_t ip, sp, cs;
            memcpy(&ip, tss + 0x20, 4);
            memcpy(&sp, tss + 0x38, 4);
            memcpy(&cs, tss + 0x4c, 2);
            ok(t.vector == DF && t.error == 0 && ip == (word)nested[i].code && sp == (word)user_stack_top - 16 &&
                   (cs & 0xffff) == (SEL_UCODE | 3),
               "%s: #DF, through a task gate that has saved the faulting state", nested[i].what);
            ok_equal(*(uint16_t *)df_tss, SEL_TSS, "... back link");
            ok((t.handler_flags & FL_NT) && (cr0_get() & CR0_TS), "... NT and TS");
            back_to_own_task();
            ASM("clts");
        } else {
            ok_trap(&t, nested[i].second, nested[i].vector * 8 + 3, nested[i].code, "%s: one after the other",
                    nested[i].what);
        }
    }
    idt_default(DF);
}

void test_main(void)
{
    test_software_interrupts();
    test_faults();
    test_gate_targets();
    test_narrow_gates();
    test_call_gates();
    test_iret();
    test_nested();
    test_stacks();
}
