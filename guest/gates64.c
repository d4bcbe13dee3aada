/* Events and gates in long mode: interrupt and trap gates, IST, the alignment of the stack, 64-bit call gates, IRET,
 * far transfers between 64-bit and compatibility mode, nested faults.
 *
 * SDM vol. 3, 5.8.3.1 and 6.14; vol. 2, IRET, CALL, RET. */
#include "guest.h"

CODE(int_80, "int $0x80");
CODE(int3, "int3");
CODE(into, ".byte 0xce");
CODE(bound, ".byte 0x62, 0x07, 0, 0, 0, 0, 0, 0");
CODE(lcall_direct, ".byte 0x9a, 0, 0, 0, 0, 8, 0");
CODE(ud2, "ud2");
CODE(divide, "div %cl");
CODE(nothing, "nop");
CODE(iretq, "iretq");
CODE(iretd, "iretl");
CODE(far_return, "lretq");
CODE(far_call, "rex.w lcall *(%rdi)");
CODE(far_call_32, "lcall *(%rdi)");
CODE(far_jump, "rex.w ljmp *(%rdi)");
CODE(target, "mov %ss, %eax; mov %cs, %ebx");
CODE(load, "mov (%rdi), %al");
CODE32(compat, "mov $0x80000001, %eax; inc %eax");
CODE32(compat_int, "int $0x80");
CODE32(compat_load, "movb (%edi), %al");
CODE32(compat_into, "into");
CODE32(compat_far, "lcall *(%edi)");
CODE32(compat_high, "mov $0xffffffff, %edi; mov (%edi), %al");

static void gate(unsigned vector, unsigned type, unsigned dpl, unsigned ist)
{
    idt_set(vector, &(struct gate_spec){.offset = (word)trap_stubs + 16 * vector,
                                        .selector = SEL_KCODE,
                                        .type = (uint8_t)type,
                                        .dpl = (uint8_t)dpl,
                                        .ist = (uint8_t)ist});
}

static void ist_set(unsigned n, word sp)
{
    memcpy(tss + 0x24 + 8 * (n - 1), &sp, sizeof sp);
}

static void test_interrupts(void)
{
    gate(0x80, 0xe, 3, 0);
    struct trap t = run_kernel(int_80, .flags = FL_1 | FL_IF | FL_NT | FL_DF | FL_AC);
    ok_trap(&t, 0x80, NO_ERROR, int_80_end, "INT n at level 0");
    ok_equal(t.regs.flags, FL_1 | FL_IF | FL_NT | FL_DF | FL_AC, "... saves the flags");
    ok_equal(t.handler_flags & (FL_IF | FL_NT | FL_DF | FL_AC), FL_DF | FL_AC, "... clears IF and NT");
    ok(t.regs.ss == SEL_KDATA && t.regs.sp == (word)kernel_stack_top, "... saves SS:RSP, too");
    ok_equal(t.handler_ss, SEL_KDATA, "... SS stays");
    for (unsigned i = 1; i < 16; i += 5) {
        t = run_kernel(int_80, .sp = (word)kernel_stack_top - i);
        ok(t.vector == 0x80 && t.regs.sp == (word)kernel_stack_top - i && ((t.frame + 40) & 15) == 0 &&
               t.frame + 40 <= t.regs.sp && t.frame + 56 > t.regs.sp,
           "RSP is aligned down to 16 before the frame, from -%u", i);
    }
    t = run_kernel(int_80, .ss = 0);
    ok(t.vector == 0x80 && t.regs.ss == 0 && t.handler_ss == 0, "a null SS at level 0 is legal and stays");
    t = run_user(int_80);
    ok_trap(&t, 0x80, NO_ERROR, (void *)USER(int_80_end), "INT n at level 3");
    ok(t.handler_ss == 0, "a change of level loads SS with null");
    ok(t.regs.ss == (SEL_UDATA | 3) && t.regs.sp == USER(user_stack_top), "... SS:RSP are saved");
    ok_equal(t.frame, (word)trap_stack_top - 40, "... on the stack of the TSS");
    tss_set_sp0((word)trap_stack_top - 9);
    t = run_user(int_80);
    ok_equal(t.frame, (word)trap_stack_top - 16 - 40, "a misaligned RSP0 is aligned, too");
    tss_set_sp0((word)trap_stack_top);
    gate(0x80, 0xf, 3, 0);
    t = run_user(int_80, .flags = FL_1 | FL_IF);
    ok(t.handler_flags & FL_IF, "a trap gate leaves IF");
    gate(0x80, 0xe, 2, 0);
    t = run_user(int_80);
    ok_trap(&t, GP, 0x80 * 8 + 2, (void *)USER(int_80), "DPL 2 from level 3: #GP(vector, IDT)");
    for (unsigned type = 0; type < 16; type++) {
        if (type == 0xe || type == 0xf)
            continue;
        gate(0x80, type, 3, 0);
        t = run_kernel(int_80);
        ok_trap(&t, GP, 0x80 * 8 + 2, int_80, "type %u in a 64-bit IDT: #GP(vector, IDT)", type);
    }
    gate(0x80, 0xe, 3, 0);
    idt_load(0x80 * 16 + 14);
    t = run_kernel(int_80);
    ok_trap(&t, GP, 0x80 * 8 + 2, int_80, "an entry beyond the limit by one byte");
    idt_load(IDT_LIMIT);
    t = run_kernel(into);
    ok_trap(&t, UD, NO_ERROR, into, "INTO is #UD in 64-bit mode");
    if (cpuid(0, 0).eax < 7 || !(cpuid(7, 0).ebx >> 16 & 1)) {
        t = run_kernel(bound, .di = (word)kernel_stack_top - 64);
        ok_trap(&t, UD, NO_ERROR, bound, "BOUND is #UD in 64-bit mode");
    }
    t = run_kernel(lcall_direct);
    ok_trap(&t, UD, NO_ERROR, lcall_direct, "a direct far CALL is #UD in 64-bit mode");
    t = run_user(int3);
    ok_trap(&t, BP, NO_ERROR, (void *)USER(int3_end), "INT3 at level 3");
}

static void test_targets(void)
{
    struct gate_spec spec = {.offset = (word)trap_stubs + 16 * 0x80, .type = 0xe, .dpl = 3};
    struct {
        uint64_t value;
        word vector;
        const char *what;
    } targets[] = {
        {descriptor(0, 0xfffff, 0x9a, 0xc), GP, "32-bit code"},
        {descriptor(0, 0xfffff, 0x9a, 0xe), GP, "code with L and D"},
        {descriptor(0, 0xfffff, 0x92, 0xa), GP, "data"},
        {descriptor(0, 0xfffff, 0x1a, 0xa), NP, "code that is not present"},
        {descriptor(0, 0xfffff, 0xfa, 0xa), GP, "code of level 3"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(targets); i++) {
        spec.selector = gdt_put(0, targets[i].value);
        idt_set(0x80, &spec);
        struct trap t = run_kernel(int_80);
        ok_trap(&t, targets[i].vector, spec.selector, int_80, "the handler is in %s: (selector)", targets[i].what);
    }
    spec.selector = 0;
    idt_set(0x80, &spec);
    struct trap t = run_kernel(int_80);
    ok_trap(&t, GP, 0, int_80, "the handler's selector is null");
    spec.selector = SEL_KCODE;
    spec.offset = 0x800000000000;
    idt_set(0x80, &spec);
    t = run_kernel(int_80);
    ok_trap(&t, GP, 0, int_80, "the handler's address is not canonical: #GP(0)");
    gate(0x80, 0xe, 3, 0);
    tss_set_sp0(0x900000000000);
    gate(SS, 0xe, 0, 1);
    t = run_user(int_80);
    tss_set_sp0((word)trap_stack_top);
    gate(SS, 0xe, 0, 0);
    ok_trap(&t, SS, 0, (void *)USER(int_80), "RSP0 is not canonical: #SS(0)");
}

static void test_ist(void)
{
    static char stacks[7][1024] __attribute__((aligned(16)));
    for (unsigned n = 1; n <= 7; n++) {
        ist_set(n, (word)stacks[n - 1] + 1024 - n); /* misaligned on purpose */
        gate(0x80, 0xe, 3, n);
        struct trap t = run_kernel(int_80);
        ok_equal(t.frame, (word)stacks[n - 1] + 1024 - 16 - 40, "IST %u at level 0", n);
        ok_equal(t.handler_ss, SEL_KDATA, "... SS stays");
        t = run_user(int_80);
        ok_equal(t.frame, (word)stacks[n - 1] + 1024 - 16 - 40, "IST %u at level 3", n);
        ok_equal(t.handler_ss, 0, "... SS is null");
    }
    gate(0x80, 0xe, 3, 0);
    ist_set(1, (word)stacks[0] + 1024);
}

static void test_nested(void)
{
    gate(DF, 0xe, 0, 1);
    struct trap t = run_kernel(divide, .sp = 0x900000000000);
    ok_trap(&t, DF, 0, divide, "#DE, then #SS: #DF on its IST");
    ok_equal(t.regs.sp, 0x900000000000, "... with the RSP of the first fault");
    idt_set(GP, &(struct gate_spec){.selector = SEL_KCODE, .type = 0xe, .absent = true});
    t = run_kernel(load, .di = 0x800000000000);
    ok_trap(&t, DF, 0, load, "#GP, then #NP: #DF");
    idt_default(GP);
    *pte(0x8000000000, 1) = 0;
    t = run_kernel(load, .di = 0x8000000123, .sp = 0x8000010000);
    ok_trap(&t, DF, 0, load, "#PF, then #PF: #DF");
    ok_equal(t.cr2, 0x8000010000 - 8, "... CR2 is of the second one");
    t = run_kernel(ud2, .sp = 0x8000010000);
    ok(t.vector == DF, "#UD, then #PF, then #PF: #DF");
    gate(PF, 0xe, 0, 1);
    t = run_kernel(ud2, .sp = 0x8000010000);
    ok_pf(&t, PF_W, 0x8000010000 - 8, ud2, "#UD, then #PF: #PF");
    t = run_kernel(int_80, .sp = 0x8000010000);
    ok_pf(&t, PF_W, 0x8000010000 - 8, int_80, "INT n to a missing stack: #PF at the instruction");
    gate(PF, 0xe, 0, 0);
    idt_set(UD, &(struct gate_spec){.selector = SEL_KCODE, .type = 0xe, .absent = true});
    t = run_kernel(ud2);
    ok_trap(&t, NP, UD * 8 + 3, ud2, "#UD, then #NP: #NP(vector, IDT, EXT)");
    idt_default(UD);
    idt_set(0x80, &(struct gate_spec){.selector = SEL_KCODE, .type = 0xe, .dpl = 3, .absent = true});
    t = run_kernel(int_80);
    ok_trap(&t, NP, 0x80 * 8 + 2, int_80, "INT n, then #NP: no EXT");
    gate(0x80, 0xe, 3, 0);
}

static void test_iret(void)
{
    word *frame = STACK(0);
    word good[] = {USER(nothing), SEL_UCODE | 3, FL_1 | FL_IF, USER(user_stack_top), SEL_UDATA | 3};
    memcpy(frame, good, sizeof good);
    struct trap t = run_kernel(iretq, .sp = (word)frame);
    ok(t.vector == DONE && t.regs.cs == (SEL_UCODE | 3) && t.regs.sp == USER(user_stack_top), "IRETQ to level 3");
    ok(t.regs.ds == 0 && t.regs.es == 0, "... clears data segments of DPL 0");
    struct {
        unsigned index;
        word value, vector, error;
        const char *what;
    } bad[] = {
        {0, 0x800000000000, GP, 0, "RIP not canonical"},
        {1, 0, GP, 0, "CS null"},
        {1, 3, GP, 0, "CS null with RPL 3"},
        {1, SEL_UDATA | 3, GP, SEL_UDATA, "CS is data"},
        {1, GDT_ENTRIES * 8 | 3, GP, GDT_ENTRIES * 8, "CS beyond the GDT"},
        {4, 3, GP, 0, "SS null for level 3"},
        {4, 0, GP, 0, "SS null for level 3"},
        {4, SEL_KDATA, GP, SEL_KDATA, "SS of level 0 for level 3"},
        {4, SEL_UCODE | 3, GP, SEL_UCODE, "SS is code"},
        {4, SEL_FREE | 3, SS, SEL_FREE, "SS not present"},
        {1, (SEL_FREE + 8) | 3, NP, SEL_FREE + 8, "CS not present"},
        {1, (SEL_FREE + 16) | 3, GP, SEL_FREE + 16, "CS with L and D"},
    };
    gdt_put(0, descriptor(0, 0xfffff, 0x72, 0xc));
    gdt_put(1, descriptor(0, 0xfffff, 0x7a, 0xa));
    gdt_put(2, descriptor(0, 0xfffff, 0xfa, 0xe));
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        memcpy(frame, good, sizeof good);
        frame[bad[i].index] = bad[i].value;
        t = run_kernel(iretq, .sp = (word)frame);
        bool at_target = cpu_is_amd() && i == 0; /* AMD processors find it out at the target */
        ok(t.vector == bad[i].vector && t.error == bad[i].error && (at_target || t.regs.ip == (word)iretq), "IRETQ: %s",
           bad[i].what);
    }
    word null_stack[] = {(word)target, SEL_KCODE, FL_1, (word)kernel_stack_top, 0};
    memcpy(frame, null_stack, sizeof null_stack);
    t = run_kernel(iretq, .sp = (word)frame);
    ok(t.vector == DONE && t.regs.ax == 0, "IRETQ to level 0 accepts a null SS");
    memcpy(frame, good, sizeof good);
    frame[2] = FL_1 | FL_NT;
    t = run_kernel(iretq, .sp = (word)frame, .flags = FL_1 | FL_NT);
    ok_trap(&t, GP, 0, iretq, "IRETQ with NT set: #GP(0)");
    uint32_t frame32[] = {(uint32_t)(word)nothing, SEL_KCODE, FL_1, (uint32_t)(word)kernel_stack_top - 32, SEL_KDATA};
    memcpy(frame, frame32, sizeof frame32);
    t = run_kernel(iretd, .sp = (word)frame);
    ok(t.vector == DONE && t.regs.sp == (word)kernel_stack_top - 32, "IRETD pops five doublewords in 64-bit mode");
    word vm[] = {USER(nothing), SEL_UCODE | 3, FL_1 | FL_VM | FL_IOPL, USER(user_stack_top), SEL_UDATA | 3};
    memcpy(frame, vm, sizeof vm);
    t = run_kernel(iretq, .sp = (word)frame);
    ok(t.vector == DONE && t.regs.flags == (FL_1 | FL_IOPL), "IRETQ does not load VM");
    word ret[] = {USER(nothing), SEL_UCODE | 3, USER(user_stack_top), SEL_UDATA | 3};
    memcpy(frame, ret, sizeof ret);
    t = run_kernel(far_return, .sp = (word)frame);
    ok(t.vector == DONE && t.regs.cs == (SEL_UCODE | 3), "RETF to level 3");
}

static void test_compat(void)
{
    word *frame = STACK(0);
    /* Compatibility mode sees only 4 GiB: identity pages for level 0. */
    word to[] = {(word)compat, SEL_KCODE32, FL_1, (word)kernel_stack_top, SEL_KDATA};
    memcpy(frame, to, sizeof to);
    struct trap t = run_kernel(iretq, .sp = (word)frame, .r12 = 0x1234567812345678);
    ok(t.vector == DONE && t.regs.ip == (word)compat_end + 2 && t.regs.ax == 0x80000002 && t.regs.cs == SEL_KCODE32,
       "IRETQ to compatibility mode");
    ok_equal(t.regs.r12, 0x1234567812345678, "... R12 survives it");
    t = run_kernel(compat_int, .cs = SEL_KCODE32);
    ok_trap(&t, 0x80, NO_ERROR, compat_int_end, "INT n in compatibility mode goes through the 64-bit IDT");
    ok(t.handler_cs == SEL_KCODE && t.regs.cs == SEL_KCODE32 && t.frame == (word)kernel_stack_top - 40,
       "... with a 64-bit frame");
    t = run_kernel(compat_into, .cs = SEL_KCODE32, .flags = FL_1 | FL_OF);
    ok_trap(&t, OF, NO_ERROR, compat_into_end, "INTO exists in compatibility mode");
    gdt_put(0, descriptor((word)kernel_stack_top, 15, 0x92, 4));
    t = run_kernel(compat_load, .cs = SEL_KCODE32, .ds = SEL_FREE, .di = 16);
    ok_trap(&t, GP, 0, compat_load, "limits count in compatibility mode");
    *(uint8_t *)(kernel_stack_top + 15) = 0x77;
    t = run_kernel(compat_load, .cs = SEL_KCODE32, .ds = SEL_FREE, .di = 15);
    ok_equal(t.regs.ax & 0xff, 0x77, "... and bases");
    t = run_kernel(load, .ds = SEL_FREE, .di = (word)kernel_stack_top + 15);
    ok_equal(t.regs.ax & 0xff, 0x77, "neither does in 64-bit mode");
    t = run_kernel(compat_load, .cs = SEL_KCODE32, .ds = 0, .di = 16);
    ok_trap(&t, GP, 0, compat_load, "a null DS in compatibility mode: #GP(0)");

    struct __attribute__((packed)) {
        uint64_t offset;
        uint16_t selector;
    } far64 = {(word)target, SEL_KCODE};
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } far32 = {(uint32_t)(word)target, SEL_KCODE};
    t = run_kernel(compat_far, .cs = SEL_KCODE32, .di = (word)&far32);
    ok(t.vector == DONE && t.regs.ip == (word)target_end + 2 && t.regs.bx == SEL_KCODE,
       "far CALL from compatibility to 64-bit mode");
    ok(((uint32_t *)t.regs.sp)[0] == (word)compat_far_end && ((uint32_t *)t.regs.sp)[1] == SEL_KCODE32,
       "... pushes doublewords");
    far32.offset = (uint32_t)(word)compat;
    far32.selector = SEL_KCODE32;
    t = run_kernel(far_call_32, .di = (word)&far32);
    ok(t.vector == DONE && t.regs.cs == SEL_KCODE32 && t.regs.sp == (word)kernel_stack_top - 8,
       "far CALL from 64-bit to compatibility mode, 32-bit operand");
    if (!cpu_is_amd()) {
        t = run_kernel(far_jump, .di = (word)&far64);
        ok_done(&t, target_end, "far JMP with a 64-bit offset");
        t = run_kernel(far_call, .di = (word)&far64);
        ok(t.vector == DONE && t.regs.sp == (word)kernel_stack_top - 16, "far CALL with a 64-bit offset");
        far64.offset = 0x800000000000;
        t = run_kernel(far_jump, .di = (word)&far64);
        ok_trap(&t, GP, 0, far_jump, "far JMP to a non-canonical address: #GP(0)");
    }
}

static void call_gate(unsigned n, word offset, unsigned selector, unsigned type, unsigned dpl)
{
    gdt_put(n, (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)(0x80 | dpl << 5 | type) << 40 |
                   (offset >> 16 & 0xffff) << 48);
    gdt_put(n + 1, offset >> 32);
}

static void test_call_gates(void)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } to = {0xdeadbeef, SEL_FREE | 3};
    call_gate(0, (word)target, SEL_KCODE, 0xc, 3);
    struct trap t = run_user(far_call_32, .di = USER(&to));
    ok_done(&t, target_end, "a 64-bit call gate from level 3");
    ok(t.regs.bx == SEL_KCODE && t.regs.ax == 0, "... SS is null");
    word *frame = (word *)trap_stack_top - 4;
    ok(frame[0] == USER(far_call_32_end) && frame[1] == (SEL_UCODE | 3) && frame[2] == USER(user_stack_top) &&
           frame[3] == (SEL_UDATA | 3) && t.regs.sp == (word)frame,
       "... RIP, CS, RSP, SS on the stack of the TSS, not aligned");
    call_gate(0, (word)compat, SEL_KCODE32, 0xc, 3);
    t = run_user(far_call_32, .di = USER(&to));
    ok_trap(&t, GP, SEL_KCODE32, (void *)USER(far_call_32), "a call gate to 32-bit code in long mode: #GP(selector)");
    call_gate(0, (word)target, SEL_KCODE, 4, 3);
    t = run_user(far_call_32, .di = USER(&to));
    ok_trap(&t, GP, SEL_FREE, (void *)USER(far_call_32), "a 16-bit call gate in long mode: #GP(gate)");
    call_gate(0, (word)target, SEL_KCODE, 0xc, 0);
    t = run_user(far_call_32, .di = USER(&to));
    ok_trap(&t, GP, SEL_FREE, (void *)USER(far_call_32), "a call gate of DPL 0 from level 3: #GP(gate)");
    call_gate(0, 0x800000000000, SEL_KCODE, 0xc, 3);
    t = run_user(far_call_32, .di = USER(&to));
    ok(t.vector == GP && t.error == 0, "a call gate to a non-canonical address: #GP(0)");
    call_gate(0, (word)target, SEL_KCODE, 0xc, 3);
    gdt_put(1, 0x0100ull << 32);
    t = run_user(far_call_32, .di = USER(&to));
    ok_trap(&t, GP, SEL_FREE, (void *)USER(far_call_32), "a call gate whose upper type is not 0: #GP(gate)");
    to.selector = SEL_TSS;
    t = run_kernel(far_call_32, .di = (word)&to);
    ok_trap(&t, GP, SEL_TSS, far_call_32, "CALL to a TSS in long mode: #GP(selector)");
}

void test_main(void)
{
    test_interrupts();
    test_ist();
    test_targets();
    test_nested();
    test_iret();
    test_compat();
    test_call_gates();
}
