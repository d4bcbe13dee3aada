/* Hardware task switches: JMP, CALL, IRET, task gates and events; both formats of TSS; busy bits, back links, NT, TS,
 * the T flag; faults before, and in the new task.
 *
 * SDM vol. 3, chapter 7. */
#include "guest.h"

struct __attribute__((packed)) tss32 {
    uint16_t link, r0;
    uint32_t esp0;
    uint16_t ss0, r1;
    uint32_t esp1;
    uint16_t ss1, r2;
    uint32_t esp2;
    uint16_t ss2, r3;
    uint32_t cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint16_t es, r4, cs, r5, ss, r6, ds, r7, fs, r8, gs, r9, ldt, r10, trap, io;
};
struct __attribute__((packed)) tss16 {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};
_Static_assert(sizeof(struct tss32) == 104 && sizeof(struct tss16) == 44, "SDM figures 7-2 and 7-10");

CODE(call_task, "lcall *(%edi)");
CODE(jump_task, "ljmp *(%edi)");
CODE(call_task_return, "lcall *(%edi); mov $0x77, %edx");
CODE(int_80, "int $0x80");
CODE(int_80_return, "int $0x80; mov $0x66, %edx");
CODE(iret, "iret");
CODE(nothing, "nop; nop");
CODE(iret_loop, "1: iret; mov $0x55, %ebx; jmp 1b");
CODE(ud2, "ud2");
CODE(load_tr, "ltr %ax");

#define SEL_A SEL_FREE       /* 32-bit TSS */
#define SEL_B (SEL_FREE + 8) /* 16-bit TSS */
#define SEL_GATE (SEL_FREE + 16)
#define BUSY(selector) (gdt[(selector) / 8] >> 41 & 1)

static struct tss32 a __attribute__((aligned(128)));
static struct tss16 b __attribute__((aligned(128)));
static char stack_a[4096] __attribute__((aligned(16)));
static char *const top_a = stack_a + sizeof stack_a;
static struct __attribute__((packed)) {
    uint32_t offset;
    uint16_t selector;
} far_a = {0xdeadbeef, SEL_A}, far_b = {0, SEL_B}, far_gate = {0, SEL_GATE};

/* Both TSSs as they were made: task A at `code` with registers of its own. */
static void prepare(const char *code)
{
    a = (struct tss32){.eip = (word)code,
                       .eflags = FL_1 | FL_CF,
                       .eax = 0xa0a0a0a0,
                       .ecx = 0xc1,
                       .edx = 0xd2,
                       .ebx = 0xb3,
                       .esp = (word)top_a,
                       .ebp = 0xb5,
                       .esi = 0x56,
                       .edi = 0xd7,
                       .es = SEL_KDATA,
                       .cs = SEL_KCODE,
                       .ss = SEL_KDATA,
                       .ds = SEL_KDATA,
                       .fs = SEL_KDATA,
                       .io = 104,
                       .esp0 = (word)top_a - 1024,
                       .ss0 = SEL_KDATA};
    b = (struct tss16){.flags = FL_1,
                       .ax = 0x1111,
                       .sp = (uint16_t)(word)(top_a - 512),
                       .es = SEL_KDATA,
                       .ss = SEL_KDATA,
                       .ds = SEL_KDATA,
                       .bx = 0xbbbb};
    gdt_put(0, descriptor((word)&a, sizeof a - 1, 0x89, 0));
    gdt_put(1, descriptor((word)&b, sizeof b - 1, 0x81, 0));
    gdt_put(2, (uint64_t)SEL_A << 16 | 0xe5ull << 40); /* task gate of DPL 3 */
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    ASM("ltr %w0; clts" ::"r"(SEL_TSS));
    ASM("pushfl; andl $~0x4000, (%%esp); popfl" ::: "memory");
}

#define OWN ((struct tss32 *)tss)

static void test_jump(void)
{
    prepare(nothing);
    struct trap t = run_kernel(jump_task, .di = (word)&far_a, .ax = 0x1234, .si = 0x99, .flags = FL_1 | FL_ZF);
    ok_done(&t, nothing_end, "JMP to a TSS");
    ok(t.regs.ax == 0xa0a0a0a0 && t.regs.cx == 0xc1 && t.regs.di == 0xd7 && t.regs.bp == 0xb5 &&
           t.regs.fs == SEL_KDATA && t.regs.gs == 0 && t.regs.sp == (word)top_a && t.regs.flags == (FL_1 | FL_CF),
       "... loads all registers");
    ok(!BUSY(SEL_TSS) && BUSY(SEL_A), "... moves the busy bit");
    ok(OWN->eax == 0x1234 && OWN->esi == 0x99 && OWN->eip == (word)jump_task_end && OWN->eflags == (FL_1 | FL_ZF) &&
           OWN->esp == (word)kernel_stack_top && OWN->cs == SEL_KCODE && OWN->ds == SEL_KDATA,
       "... saves the old task's");
    ok(a.link == 0, "... no back link");
    ok(cr0_get() & CR0_TS, "... sets CR0.TS");
    uint16_t tr;
    ASM("str %0" : "=m"(tr));
    ok_equal(tr, SEL_A, "... TR");

    prepare(nothing);
    t = run_kernel(jump_task, .di = (word)&far_gate);
    ok_done(&t, nothing_end, "JMP to a task gate");
    prepare(nothing);
    gdt_put(0, descriptor((word)&a, sizeof a - 1, 0x89 | 0x60, 0));
    t = run_user(jump_task, .di = (word)&far_a);
    ok_done(&t, nothing_end, "JMP to a TSS of DPL 3 from level 3, into level 0");
    ok(OWN->cs == (SEL_UCODE | 3) && OWN->ss == (SEL_UDATA | 3) && OWN->esp == (word)user_stack_top,
       "... has saved level 3");
}

static void test_call(void)
{
    prepare(nothing);
    struct trap t = run_kernel(call_task, .di = (word)&far_a);
    ok_done(&t, nothing_end, "CALL to a TSS");
    ok(BUSY(SEL_TSS) && BUSY(SEL_A), "... both are busy");
    ok_equal(a.link, SEL_TSS, "... back link");
    ok_equal(t.regs.flags, FL_1 | FL_CF | FL_NT, "... sets NT");
    ok_equal(OWN->eflags, FL_1, "... the old task's flags have no NT");

    prepare(iret_loop);
    t = run_kernel(call_task_return, .di = (word)&far_a, .bx = 0x321);
    ok_done(&t, call_task_return_end, "IRET with NT returns to the caller");
    ok(t.regs.dx == 0x77 && t.regs.bx == 0x321 && t.regs.sp == (word)kernel_stack_top && !(t.regs.flags & FL_NT),
       "... with its registers, without NT");
    ok(BUSY(SEL_TSS) && !BUSY(SEL_A), "... the nested task is free");
    ok(a.eip == (word)iret_loop + 1 && !(a.eflags & FL_NT), "... its TSS continues behind the IRET, NT clear");
    t = run_kernel(call_task_return, .di = (word)&far_a);
    ok(t.vector == DONE && a.ebx == 0x55, "the task goes on where it was");
}

static void test_events(void)
{
    idt_set(0x80, &(struct gate_spec){.selector = SEL_A, .type = 5, .dpl = 3});
    prepare(iret_loop);
    struct trap t = run_kernel(int_80_return, .cx = 0x99);
    ok_done(&t, int_80_return_end, "INT n through a task gate, and IRET");
    ok(t.regs.dx == 0x66 && t.regs.cx == 0x99, "... registers are back");
    prepare(nothing);
    t = run_user(int_80);
    ok_done(&t, nothing_end, "INT n through a task gate from level 3");
    ok(OWN->eip == (word)int_80_end && OWN->cs == (SEL_UCODE | 3) && (t.regs.flags & FL_NT) && a.link == SEL_TSS,
       "... saves the caller");
    idt_set(0x80, &(struct gate_spec){.selector = SEL_A, .type = 5, .dpl = 0});
    prepare(nothing);
    t = run_user(int_80);
    ok_trap(&t, GP, 0x80 * 8 + 2, int_80, "... of DPL 0: #GP(vector, IDT)");
    idt_set(UD, &(struct gate_spec){.selector = SEL_A, .type = 5});
    prepare(nothing);
    t = run_user(ud2);
    ok(t.vector == DONE && OWN->eip == (word)ud2 && t.regs.sp == (word)top_a && (OWN->eflags & FL_RF),
       "#UD through a task gate: no error code, the faulting EIP, RF in the old TSS");
    idt_set(GP, &(struct gate_spec){.selector = SEL_A, .type = 5});
    prepare(nothing);
    t = run_user(load_tr, .ax = SEL_A);
    ok(t.vector == DONE && OWN->eip == (word)load_tr && t.regs.sp == (word)top_a - 4 && *(uint32_t *)t.regs.sp == 0,
       "#GP through a task gate pushes its error code");
    idt_default(GP);
    idt_default(UD);
    idt_set(0x80, &(struct gate_spec){.selector = SEL_A, .type = 5, .dpl = 3});
}

static void test_wrong_tss(void)
{
    prepare(nothing);
    gdt_put(0, descriptor((word)&a, sizeof a - 2, 0x89, 0));
    struct trap t = run_kernel(jump_task, .di = (word)&far_a);
    ok_trap(&t, TS, SEL_A, jump_task, "a TSS that is too short: #TS(TSS)");
    gdt_put(0, descriptor((word)&a, sizeof a - 1, 0x09, 0));
    t = run_kernel(jump_task, .di = (word)&far_a);
    ok_trap(&t, NP, SEL_A, jump_task, "a TSS that is not present: #NP(TSS)");
    gdt_put(0, descriptor((word)&a, sizeof a - 1, 0x8b, 0));
    t = run_kernel(jump_task, .di = (word)&far_a);
    ok_trap(&t, GP, SEL_A, jump_task, "a busy TSS: #GP(TSS)");
    t = run_kernel(call_task, .di = (word)&far_gate);
    ok_trap(&t, GP, SEL_A, call_task, "a busy TSS behind a task gate: #GP(TSS)");
    t = run_kernel(int_80);
    ok_trap(&t, GP, SEL_A, int_80, "a busy TSS behind a gate of the IDT: #GP(TSS)");
    prepare(nothing);
    t = run_user(jump_task, .di = (word)&far_a);
    ok_trap(&t, GP, SEL_A, jump_task, "a TSS of DPL 0 from level 3: #GP(TSS)");
    gdt_put(2, (uint64_t)SEL_A << 16 | 0x65ull << 40);
    t = run_kernel(jump_task, .di = (word)&far_gate);
    ok_trap(&t, NP, SEL_GATE, jump_task, "a task gate that is not present: #NP(gate)");
    gdt_put(2, (uint64_t)(SEL_A | 4) << 16 | 0xe5ull << 40);
    t = run_kernel(jump_task, .di = (word)&far_gate);
    ok_trap(&t, GP, SEL_A | 4, jump_task, "a task gate to the LDT: #GP(selector, TI)");
    gdt_put(2, (uint64_t)SEL_KDATA << 16 | 0xe5ull << 40);
    t = run_kernel(jump_task, .di = (word)&far_gate);
    ok_trap(&t, GP, SEL_KDATA, jump_task, "a task gate to data: #GP(selector)");
    prepare(nothing);
    OWN->link = SEL_A;
    t = run_kernel(iret, .flags = FL_1 | FL_NT);
    ok_trap(&t, TS, SEL_A, iret, "IRET to a task that is not busy: #TS(TSS)");
    OWN->link = 0;
    t = run_kernel(iret, .flags = FL_1 | FL_NT);
    ok_trap(&t, TS, 0, iret, "IRET to a null back link: #TS(0)");
    t = run_kernel(load_tr, .ax = SEL_TSS);
    ok_trap(&t, GP, SEL_TSS, load_tr, "LTR of a busy TSS: #GP(TSS)");
    t = run_kernel(load_tr, .ax = 0);
    ok_trap(&t, GP, 0, load_tr, "LTR of null: #GP(0)");
    t = run_kernel(load_tr, .ax = SEL_B);
    ok(t.vector == DONE && BUSY(SEL_B), "LTR of a 16-bit TSS sets its busy bit");
}

/* The fault happens in the new task: its EIP is saved, on its stack. */
static void test_new_task(void)
{
    struct {
        unsigned offset;
        uint16_t value;
        word vector, error;
        const char *what;
    } bad[] = {
        {offsetof(struct tss32, cs), SEL_KDATA, TS, SEL_KDATA, "CS is data"},
        {offsetof(struct tss32, cs), 0, TS, 0, "CS is null"},
        {offsetof(struct tss32, cs), SEL_UCODE, TS, SEL_UCODE, "CS: RPL is not DPL"},
        {offsetof(struct tss32, cs), SEL_FREE + 40, NP, SEL_FREE + 40, "CS is not present"},
        {offsetof(struct tss32, ss), SEL_KCODE, TS, SEL_KCODE, "SS is code"},
        {offsetof(struct tss32, ss), SEL_UDATA | 3, TS, SEL_UDATA, "SS is of level 3"},
        {offsetof(struct tss32, ss), SEL_FREE + 48, SS, SEL_FREE + 48, "SS is not present"},
        {offsetof(struct tss32, ds), SEL_FREE + 48, NP, SEL_FREE + 48, "DS is not present"},
        {offsetof(struct tss32, es), SEL_TSS, TS, SEL_TSS, "ES is a TSS"},
        {offsetof(struct tss32, gs), GDT_ENTRIES * 8, TS, GDT_ENTRIES * 8, "GS is beyond the GDT"},
        {offsetof(struct tss32, ldt), SEL_KDATA, TS, SEL_KDATA, "LDT is data"},
        {offsetof(struct tss32, ldt), SEL_FREE + 56, TS, SEL_FREE + 56, "LDT is not present"},
    };
    /* SS may not be usable when the handler starts: task gates with a third task. */
    static struct tss32 c;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        prepare(nothing);
        gdt_put(5, descriptor(0, 0xfffff, 0x1a, 0xc));
        gdt_put(6, descriptor(0, 0xfffff, 0x12, 0xc));
        gdt_put(7, descriptor(0, 0xff, 0x02, 0));
        gdt_put(8, descriptor((word)&c, sizeof c - 1, 0x89, 0));
        c = (struct tss32){.eip = (word)trap_stubs + 16 * bad[i].vector,
                           .eflags = FL_1,
                           .esp = (word)top_a - 2048,
                           .cs = SEL_KCODE,
                           .ss = SEL_KDATA,
                           .ds = SEL_KDATA,
                           .es = SEL_KDATA};
        memcpy((char *)&a + bad[i].offset, &bad[i].value, 2);
        idt_set((unsigned)bad[i].vector, &(struct gate_spec){.selector = SEL_FREE + 64, .type = 5});
        struct trap t = run_kernel(jump_task, .di = (word)&far_a);
        idt_default((unsigned)bad[i].vector);
        ok(t.vector == bad[i].vector && *(uint32_t *)(top_a - 2052) == bad[i].error && a.eip == (word)nothing &&
               c.link == SEL_A && OWN->eip == (word)jump_task_end,
           "%s in the new task: vector %lu, error %x, in the context of the new task", bad[i].what, t.vector,
           *(uint32_t *)(top_a - 2052));
        if (t.vector != bad[i].vector)
            trap_print(&t);
    }
    prepare(nothing);
    a.cs = SEL_UCODE | 3;
    a.ss = SEL_UDATA | 3;
    a.ds = a.es = SEL_UDATA | 3;
    a.fs = 0;
    struct trap t = run_kernel(jump_task, .di = (word)&far_a);
    ok(t.vector == DONE && t.regs.cs == (SEL_UCODE | 3) && t.regs.sp == (word)top_a && t.frame == a.esp0 - 20,
       "JMP to a task of level 3, whose interrupts use its own stack of level 0");
    prepare(nothing);
    a.fs = 0;
    a.eip = 0x12345;
    gdt_put(5, descriptor(0, 0xffff, 0x9a, 4));
    a.cs = SEL_FREE + 40;
    t = run_kernel(jump_task, .di = (word)&far_a);
    ok(t.vector == GP && t.error == 0 && t.regs.ip == 0x12345, "EIP beyond the new limit: #GP(0) at the new EIP");
}

static void test_trap_bit(void)
{
    prepare(nothing);
    a.trap = 1;
    dr6_set(0xffff0ff0);
    struct trap t = run_kernel(jump_task, .di = (word)&far_a);
    ok_trap(&t, DB, NO_ERROR, nothing, "T in the new TSS: #DB before its first instruction");
    ok_equal(t.dr6 & 0xf00f, 0x8000, "... DR6.BT");
    prepare(nothing);
    dr7_set(0x355); /* L0-3 and LE, GE */
    t = run_kernel(jump_task, .di = (word)&far_a);
    ok_equal(dr7_get() & 0x3ff, 0x200, "a task switch clears the local enables in DR7");
    dr7_set(0x400);
}

static void test_tss16(void)
{
    /* IP is 16 bits: a code segment with a base. */
    prepare(nothing);
    b.cs = gdt_put(5, descriptor((word)nothing, 0xffff, 0x9a, 0x4));
    b.ip = 0;
    b.ss = gdt_put(6, descriptor((word)top_a & ~0xffff, 0xffff, 0x92, 0));
    struct trap t = run_kernel(call_task, .di = (word)&far_b, .ax = 0x12345678, .bx = ~0u);
    ok(t.vector == DONE && t.regs.ip == (word)(nothing_end - nothing) + 2, "CALL to a 16-bit TSS");
    ok(t.regs.ax == 0x1111 && t.regs.bx == 0xbbbb && t.regs.fs == 0, "... the upper halves are 0, FS and GS null");
    ok(b.link == SEL_TSS && (t.regs.flags & FL_NT) && BUSY(SEL_B) && BUSY(SEL_TSS), "... back link, NT, busy bits");
    ok(OWN->eax == 0x12345678, "... the old, 32-bit TSS has all of EAX");
    ASM("mov %0, %%fs; mov %0, %%gs" ::"r"(0));

    prepare(nothing);
    b.cs = SEL_FREE + 40;
    gdt[SEL_B / 8] = descriptor((word)&b, sizeof b - 2, 0x81, 0);
    t = run_kernel(call_task, .di = (word)&far_b);
    ok_trap(&t, TS, SEL_B, call_task, "a 16-bit TSS that is too short: #TS(TSS)");

    /* Away from a 16-bit TSS: only the low halves are saved. */
    prepare(nothing);
    ASM("ltr %w0" ::"r"(SEL_B));
    t = run_kernel(jump_task, .di = (word)&far_a, .ax = 0x12345678, .si = 0xabcdef01);
    ok(t.vector == DONE && b.ax == 0x5678 && b.si == 0xef01 && b.ip == (uint16_t)(word)jump_task_end && !BUSY(SEL_B),
       "JMP from a 16-bit to a 32-bit TSS");
}

static void test_paging(void)
{
    /* Each task has its own CR3. */
    uint32_t *first = page_alloc(1), *second = page_alloc(1);
    for (uint32_t i = 0; i < 16; i++)
        first[i] = second[i] = i << 22 | (uint32_t)(PTE_P | PTE_W | PTE_U | PTE_PS);
    first[100] = 6u << 22 | (uint32_t)(PTE_P | PTE_W | PTE_PS);
    second[100] = 7u << 22 | (uint32_t)(PTE_P | PTE_W | PTE_PS);
    *(uint32_t *)(6 << 22) = 0x44;
    *(uint32_t *)(7 << 22) = 0x55;
    prepare(nothing);
    cr4_set(cr4_get() | CR4_PSE);
    cr3_set((word)first);
    cr0_set(cr0_get() | CR0_PG);
    a.cr3 = (word)second;
    uint32_t before = *(volatile uint32_t *)(100u << 22);
    struct trap t = run_kernel(jump_task, .di = (word)&far_a);
    uint32_t after = *(volatile uint32_t *)(100u << 22);
    ok(t.vector == DONE && before == 0x44 && after == 0x55 && cr3_get() == (word)second, "a task switch loads CR3");
    ok_equal(OWN->cr3, 0, "... and does not save the old one");
    prepare(nothing);
    a.cr3 = (word)first;
    cr0_set(cr0_get() & ~CR0_PG);
    cr3_set((word)second);
    t = run_kernel(jump_task, .di = (word)&far_a);
    ok_equal(cr3_get(), (word)second, "without paging CR3 is not loaded");
}

void test_main(void)
{
    test_jump();
    test_call();
    test_events();
    test_wrong_tss();
    test_new_task();
    test_trap_bit();
    test_tss16();
    test_paging();
}
