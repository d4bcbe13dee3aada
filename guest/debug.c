/* Debug exceptions: single-step in all its corners, breakpoint registers on execution, data and ports, DR6, DR7, GD,
 * RF, the aliases DR4 and DR5, ICEBP.
 *
 * SDM vol. 3, chapter 17.1 to 17.3; vol. 2, the instructions named. */
#include "guest.h"

#define DR6_FIXED 0xffff0ff0ul
#define DR6_BD 0x2000ul
#define DR6_BS 0x4000ul
#define DR7_FIXED 0x400ul
#define DR7_GD 0x2000ul
/* Breakpoint n: enabled globally, type (0 execute, 1 write, 2 port, 3 access), length code (0 1, 1 2, 3 4, 2 8 bytes).
 */
#define DR7_BP(n, type, length) (2ul << 2 * (n) | (word)(type) << (16 + 4 * (n)) | (word)(length) << (18 + 4 * (n)))
#define LEN1 0
#define LEN2 1
#define LEN4 3
#define LEN8 2

#define LABEL(name) #name ": .globl " #name "\n\t"
extern const char two_second[], popf_2[], popf_3[], ss_2[], ss_3[], sti_2[], hlt_2[], iret_target[], iret_target_2[],
    clear_2[], int_2[], bp_2[], bp_3[], dr_2[], data_2[], data_3[], sysc_2[], ss_data_2[], ss_data_3[], io_2[],
    sti_loop[], pushf_2[], cpuid_2[], branch_to[], pop_ss_2[];

CODE(two, "inc %rax\n" LABEL(two_second) "inc %rax");
CODE(rep, "rep movsb");
CODE(repe_scan, "repe scasb");
CODE(popf_set, "popfq\n" LABEL(popf_2) "inc %rax\n" LABEL(popf_3) "inc %rax");
CODE(popf_clear, "popfq\n" LABEL(clear_2) "inc %rax");
CODE(load_ss, "mov %edx, %ss\n" LABEL(ss_2) "inc %rax\n" LABEL(ss_3) "inc %rax");
CODE(sti, "sti\n" LABEL(sti_2) "inc %rax");
CODE(iret, "iretq\n" LABEL(iret_target) "inc %rax\n" LABEL(iret_target_2) "inc %rax");
CODE(int_80, "int $0x80\n" LABEL(int_2) "nop");
CODE(pushf_code, "pushfq\n" LABEL(pushf_2) "pop %rax");
CODE(cpuid_code, "cpuid\n" LABEL(cpuid_2) "nop");
CODE(branch, "jmp branch_to; nop; nop\n" LABEL(branch_to) "nop");
CODE(breakpoints, "inc %rax\n" LABEL(bp_2) "inc %rax\n" LABEL(bp_3) "inc %rax");
CODE(read_dr7, "mov %dr7, %rax\n" LABEL(dr_2) "nop");
CODE(read_dr4, "mov %dr4, %rax");
CODE(read_dr5, "mov %dr5, %rax");
CODE(write_dr6, "mov %rax, %dr6");
CODE(write_dr7, "mov %rax, %dr7");
CODE(store1, "movb %al, (%rdi)\n" LABEL(data_2) "nop");
CODE(store8, "mov %rax, (%rdi)\n" LABEL(data_3) "nop");
CODE(load1, "movb (%rdi), %al");
CODE(load8, "mov (%rdi), %rax");
CODE(add1, "addb $1, (%rdi)");
CODE(push_rax, "push %rax");
CODE(load_ss_data, "mov (%rdi), %ss\n" LABEL(ss_data_2) "inc %rax\n" LABEL(ss_data_3) "nop");
CODE(stosb, "rep stosb");
CODE(out_dx, "out %al, %dx\n" LABEL(io_2) "nop");
CODE(outsb_dx, "outsb");
CODE(in_ax, "in %dx, %ax");
CODE(icebp, ".byte 0xf1");
CODE(ud2, "ud2");
CODE(divide, "div %cl");
CODE(syscall, "syscall\n" LABEL(sysc_2) "nop");
CODE(syscall_target, "nop; nop");
CODE(hlt, "hlt\n" LABEL(hlt_2) "nop");
CODE(load_page, "mov (%rdi), %al");
CODE(loop_code, "1: dec %rcx; jnz 1b");

static void ok_debug(const struct trap *t, word bits, const void *ip, const char *what)
{
    bool passed = t->vector == DB && !t->has_error && t->regs.ip == (word)ip && (t->dr6 & 0xe00f) == bits;
    if (!ok(passed, "%s", what)) {
        trap_print(t);
        note("expected DR6 bits %lx at %lx", bits, (word)ip);
    }
}

static void clear(void)
{
    dr7_set(DR7_FIXED);
    dr6_set(DR6_FIXED);
}

static void test_single_step(void)
{
    clear();
    struct trap t = run_kernel(two, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, two_second, "TF: a trap after one instruction, with BS");
    ok(t.regs.ax == 1 && (t.regs.flags & FL_TF) && !(t.regs.flags & FL_RF) && !(t.handler_flags & FL_TF),
       "... TF is saved, and clear in the handler");
    ok_equal(t.dr6, DR6_FIXED | DR6_BS, "... all of DR6");
    t = run(&t.regs);
    ok_debug(&t, DR6_BS, two_end, "... and after the next");
    t = run(&t.regs);
    ok(t.vector == DONE && (t.regs.flags & FL_TF), "INT n is not trapped: its saved flags have TF");
    clear();
    t = run_user(two, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, (void *)USER(two_second), "TF at level 3");
    t = run_kernel(branch, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, branch_to, "TF over a branch");
    static char from[8] = "abcdefg", to[8];
    t = run_kernel(rep, .flags = FL_1 | FL_TF, .si = (word)from, .di = (word)to, .cx = 3);
    ok_debug(&t, DR6_BS, rep, "TF over REP MOVSB: after one iteration, at the same instruction");
    ok(t.regs.cx == 2 && t.regs.si == (word)from + 1 && to[0] == 'a' && to[1] == 0, "... one iteration");
    t = run(&t.regs);
    t = run(&t.regs);
    ok_debug(&t, DR6_BS, rep_end, "... behind it after the last one");
    ok(t.regs.cx == 0 && to[2] == 'c', "... three iterations");
    t = run_kernel(rep, .flags = FL_1 | FL_TF, .cx = 0);
    ok_debug(&t, DR6_BS, rep_end, "REP with RCX 0 is one step");
    t = run_kernel(repe_scan, .flags = FL_1 | FL_TF, .cx = 5, .di = (word)from, .ax = 'x');
    ok_debug(&t, DR6_BS, repe_scan_end, "REPE SCASB that ends by ZF is one step");
    word *stack = STACK(FL_1 | FL_TF, 0);
    t = run_kernel(popf_set, .sp = (word)stack);
    ok_debug(&t, DR6_BS, popf_3, "POPF that sets TF: the trap is after the next instruction");
    clear();
    word *stack2 = STACK(FL_1, 0);
    t = run_kernel(popf_clear, .sp = (word)stack2, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, clear_2, "POPF that clears TF is still trapped");
    ok(!(t.regs.flags & FL_TF), "... with TF clear in the saved flags");
    t = run_kernel(pushf_code, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, pushf_2, "PUSHF");
    ok(*(word *)t.regs.sp & FL_TF, "... pushes TF");
    word *frame = STACK((word)iret_target, SEL_KCODE, FL_1 | FL_TF, (word)kernel_stack_top, SEL_KDATA);
    t = run_kernel(iret, .sp = (word)frame);
    ok_debug(&t, DR6_BS, iret_target_2, "IRET that sets TF: the trap is after the next instruction");
    t = run_kernel(load_ss, .dx = SEL_KDATA, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, ss_3, "MOV SS holds the trap back over the next instruction");
    t = run_kernel(sti, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, sti_2, "STI does not");
    t = run_kernel(cpuid_code, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, cpuid_2, "CPUID");
    clear();
    t = run_kernel(ud2, .flags = FL_1 | FL_TF);
    ok_trap(&t, UD, NO_ERROR, ud2, "an instruction that faults is not trapped");
    ok((t.regs.flags & (FL_TF | FL_RF)) == (FL_TF | FL_RF) && dr6_get() == DR6_FIXED, "... TF and RF are saved");
    idt_set(0x80,
            &(struct gate_spec){.offset = (word)trap_stubs + 16 * 0x80, .selector = SEL_KCODE, .type = 0xf, .dpl = 3});
    t = run_user(int_80, .flags = FL_1 | FL_TF);
    ok(t.vector == 0x80 && (t.regs.flags & FL_TF), "INT n through a trap gate is not trapped either");
    t = run_kernel(loop_code, .cx = 3, .flags = FL_1 | FL_TF);
    unsigned steps = 1;
    while (t.vector == DB && steps < 20) {
        t = run(&t.regs);
        steps++;
    }
    ok(t.vector == DONE && steps == 7, "a loop of six instructions is six steps");
}

static void test_syscall(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)SEL_KCODE << 32 | (uint64_t)SEL_UCODE32 << 48);
    wrmsr(MSR_LSTAR, (word)syscall_target);
    wrmsr(MSR_SFMASK, FL_TF);
    clear();
    struct trap t = run_user(syscall, .flags = FL_1 | FL_TF);
    ok(t.vector == DONE && t.regs.ip == (word)syscall_target_end + 2 && (t.regs.r11 & FL_TF),
       "SYSCALL that masks TF is not trapped");
    wrmsr(MSR_SFMASK, 0);
    t = run_user(syscall, .flags = FL_1 | FL_TF);
    ok_debug(&t, DR6_BS, syscall_target, "SYSCALL that leaves TF is trapped at its target");
    ok(t.regs.cs == SEL_KCODE, "... at level 0");
}

static void test_execution(void)
{
    clear();
    dr0_set((word)bp_2);
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1));
    struct trap t = run_kernel(breakpoints);
    ok_debug(&t, 1, bp_2, "an instruction breakpoint is a fault before it");
    ok(t.regs.ax == 1 && !(t.regs.flags & FL_RF), "... saved without RF");
    t.regs.flags |= FL_RF;
    t = run(&t.regs);
    ok(t.vector == DONE && t.regs.ax == 3 && !(t.regs.flags & FL_RF), "RF lets it pass, once");
    dr3_set((word)bp_3);
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1) | DR7_BP(3, 0, LEN1));
    clear();
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1) | DR7_BP(3, 0, LEN1));
    t = run_kernel(breakpoints);
    t.regs.flags |= FL_RF;
    t = run(&t.regs);
    ok_debug(&t, 8, bp_3, "a second one, in DR3; B0 is gone");
    t = run_kernel(breakpoints, .ip = (word)bp_2, .flags = FL_1 | FL_RF);
    ok_debug(&t, 8, bp_3, "RF concerns only one instruction");
    dr7_set(DR7_FIXED | 1ul); /* L0 */
    t = run_kernel(breakpoints);
    ok_debug(&t, 1, bp_2, "enabled by L0");
    dr7_set(DR7_FIXED);
    t = run_kernel(breakpoints);
    ok_done(&t, breakpoints_end, "not enabled: nothing");
    dr0_set((word)ss_2);
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1));
    t = run_kernel(load_ss, .dx = SEL_KDATA);
    ok_done(&t, load_ss_end, "an instruction breakpoint right behind MOV SS does not fire");
    dr0_set((word)bp_2);
    clear();
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1));
    t = run_kernel(breakpoints, .flags = FL_1 | FL_TF);
    ok(t.vector == DB && t.regs.ip == (word)bp_2 && (t.dr6 & DR6_BS),
       "TF and a breakpoint on the next instruction: BS");
    if (!(t.dr6 & 1)) {
        t = run(&t.regs);
        ok(t.vector == DB && t.regs.ip == (word)bp_2 && (t.dr6 & 1), "... then the breakpoint");
    } else {
        ok(true, "... together with the breakpoint");
    }
    dr0_set((word)rep);
    static char from[8] = "abcdefg", to[8];
    clear();
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1));
    t = run_kernel(rep, .si = (word)from, .di = (word)to, .cx = 3, .flags = FL_1 | FL_RF);
    ok_done(&t, rep_end, "RF holds for all iterations of REP");
    clear();
    dr0_set(USER(bp_2));
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1));
    t = run_user(breakpoints);
    ok_debug(&t, 1, (void *)USER(bp_2), "an instruction breakpoint at level 3");
    dr0_set((word)ud2);
    clear();
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1));
    t = run_kernel(ud2);
    ok_debug(&t, 1, ud2, "the breakpoint comes before #UD");
}

static uint8_t data[64] __attribute__((aligned(64)));

static bool hits(const char *code, const uint8_t *address)
{
    dr6_set(DR6_FIXED);
    struct trap t = run_kernel(code, .di = (word)address, .ax = 0x0101010101010101);
    return t.vector == DB && (t.dr6 & 0xf) == 2;
}

static void test_data(void)
{
    clear();
    dr1_set((word)data + 16);
    dr7_set(DR7_FIXED | DR7_BP(1, 1, LEN1));
    struct trap t = run_kernel(store1, .di = (word)data + 16, .ax = 0x42);
    ok_debug(&t, 2, data_2, "a write breakpoint is a trap behind the store");
    ok(data[16] == 0x42 && !(t.regs.flags & FL_RF), "... which has been done");
    ok(!hits(load1, data + 16), "a load does not hit it");
    ok(!hits(store1, data + 15) && !hits(store1, data + 17), "nor do its neighbours");
    ok(hits(store8, data + 16) && hits(store8, data + 9) && !hits(store8, data + 8) && !hits(store8, data + 17),
       "a store that touches it does");
    ok(hits(add1, data + 16), "so does ADD");
    dr7_set(DR7_FIXED | DR7_BP(1, 3, LEN1));
    ok(hits(load1, data + 16) && hits(store1, data + 16) && hits(load8, data + 10) && !hits(load8, data + 17),
       "an access breakpoint is hit by loads and stores");
    dr0_set((word)data + 16);
    static const struct {
        unsigned length, bytes;
    } lengths[] = {{LEN2, 2}, {LEN4, 4}, {LEN8, 8}};
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        dr7_set(DR7_FIXED | DR7_BP(1, 1, lengths[i].length));
        bool all = true;
        for (int k = -2; k < 12; k++)
            all = all && hits(store1, data + 16 + k) == (k >= 0 && k < (int)lengths[i].bytes);
        ok(all, "a write breakpoint of %u bytes", lengths[i].bytes);
        dr1_set((word)data + 16 + 1); /* the low bits are ignored */
        ok(hits(store1, data + 16), "... its address is aligned by the processor");
        dr1_set((word)data + 16);
    }
    dr7_set(DR7_FIXED | DR7_BP(1, 3, LEN1));
    dr1_set((word)load1);
    ok(!hits(load1, data), "fetching is no access");
    dr1_set((word)kernel_stack_top - 8);
    dr7_set(DR7_FIXED | DR7_BP(1, 1, LEN8));
    t = run_kernel(push_rax);
    ok_debug(&t, 2, push_rax_end, "PUSH hits a write breakpoint");
    dr1_set((word)data + 16);
    dr7_set(DR7_FIXED | DR7_BP(1, 1, LEN1));
    dr6_set(DR6_FIXED);
    t = run_kernel(stosb, .di = (word)data + 14, .cx = 10, .ax = 7);
    ok_debug(&t, 2, stosb, "REP STOSB: the trap is after the iteration");
    ok(t.regs.cx == 7 && t.regs.di == (word)data + 17, "... RCX and RDI");
    t = run(&t.regs);
    ok_done(&t, stosb_end, "... and goes on");
    dr7_set(DR7_FIXED);
    *(uint16_t *)(data + 16) = SEL_KDATA;
    dr7_set(DR7_FIXED | DR7_BP(1, 3, LEN2));
    dr6_set(DR6_FIXED);
    t = run_kernel(load_ss_data, .di = (word)data + 16);
    ok_debug(&t, 2, ss_data_3, "MOV SS from a watched word: the trap is after the next instruction");
    dr6_set(DR6_FIXED);
    t = run_kernel(store1, .di = (word)data + 16, .flags = FL_1 | FL_TF);
    ok_debug(&t, 2 | DR6_BS, data_2, "TF and a data breakpoint are one exception");
    t = run_user(store1, .di = USER(data) + 16);
    ok(t.vector == DONE, "the address is a linear one: an alias does not hit");
    dr1_set(USER(data) + 16);
    dr6_set(DR6_FIXED);
    t = run_user(store1, .di = USER(data) + 16);
    ok_debug(&t, 2, (void *)USER(data_2), "a data breakpoint at level 3");
    dr1_set(0x8000000000);
    *pte(0x8000000000, 1) = 0;
    t = run_kernel(load_page, .di = 0x8000000000);
    ok(t.vector == PF, "a load that faults does not hit");
}

#define PORT_PVPANIC 0x505 /* reads 3; not used by what prints */

static void test_ports(void)
{
    clear();
    cr4_set(cr4_get() | CR4_DE);
    dr2_set(PORT_PVPANIC);
    dr7_set(DR7_FIXED | DR7_BP(2, 2, LEN1));
    struct trap t = run_kernel(out_dx, .dx = 0x80, .ax = 0);
    ok_done(&t, out_dx_end, "OUT to another port");
    t = run_kernel(in_ax, .dx = PORT_PVPANIC);
    ok_debug(&t, 4, in_ax_end, "IN from a watched port is a trap behind it");
    ok_equal(t.regs.ax & 0xff, 3, "... and has been done");
    dr6_set(DR6_FIXED);
    t = run_kernel(in_ax, .dx = PORT_PVPANIC - 1);
    ok_debug(&t, 4, in_ax_end, "... a word that touches it");
    dr2_set(0x80);
    dr6_set(DR6_FIXED);
    t = run_kernel(out_dx, .dx = 0x80);
    ok_debug(&t, 4, io_2, "OUT");
    dr6_set(DR6_FIXED);
    t = run_kernel(outsb_dx, .dx = 0x80, .si = (word)data);
    ok_debug(&t, 4, outsb_dx_end, "OUTSB");
    dr2_set((word)data);
    t = run_kernel(store1, .di = (word)data);
    ok_done(&t, store1_end, "memory at the same address is not a port");
    clear();
    cr4_set(cr4_get() & ~CR4_DE);
}

static void test_registers(void)
{
    clear();
    dr7_set(DR7_FIXED | DR7_GD);
    struct trap t = run_kernel(read_dr7);
    ok_debug(&t, DR6_BD, read_dr7, "GD: MOV from DR7 is a fault, with BD");
    ok_equal(dr7_get(), DR7_FIXED, "... GD is clear in the handler");
    ok(t.regs.flags & FL_RF, "... saved with RF");
    clear();
    dr7_set(DR7_FIXED | DR7_GD);
    t = run_user(read_dr7);
    ok_trap(&t, GP, 0, (void *)USER(read_dr7), "MOV from DR7 at level 3: #GP(0), also with GD");
    run_kernel(read_dr7); /* GD is on still: faults, which clears it */
    clear();
    t = run_kernel(read_dr4);
    ok(t.vector == DONE && t.regs.ax == DR6_FIXED, "DR4 is DR6 without CR4.DE");
    t = run_kernel(read_dr5);
    ok(t.vector == DONE && t.regs.ax == DR7_FIXED, "DR5 is DR7 without CR4.DE");
    cr4_set(cr4_get() | CR4_DE);
    t = run_kernel(read_dr4);
    ok_trap(&t, UD, NO_ERROR, read_dr4, "DR4 is #UD with CR4.DE");
    t = run_kernel(read_dr5);
    ok_trap(&t, UD, NO_ERROR, read_dr5, "DR5 is #UD with CR4.DE");
    cr4_set(cr4_get() & ~CR4_DE);
    t = run_kernel(write_dr6, .ax = 1ul << 32);
    ok_trap(&t, GP, 0, write_dr6, "DR6: the upper half must be 0");
    t = run_kernel(write_dr7, .ax = 1ul << 32);
    ok_trap(&t, GP, 0, write_dr7, "DR7: the upper half must be 0");
    dr6_set(0);
    ok_equal(dr6_get(), DR6_FIXED, "DR6: bits that are always 1");
    dr6_set(0xffffffff);
    ok_equal(dr6_get() & ~0x10800ul, 0xffffefff & ~0x10800ul, "DR6: bit 12 is always 0");
    dr7_set(0);
    ok_equal(dr7_get(), DR7_FIXED, "DR7: bit 10 is always 1");
    clear();
    t = run_kernel(icebp);
    ok_debug(&t, 0, icebp_end, "ICEBP is #DB without a bit in DR6");
    ok(!(t.regs.flags & FL_RF), "... a trap");
    dr6_set(DR6_FIXED | DR6_BS);
    dr0_set((word)bp_2);
    dr7_set(DR7_FIXED | DR7_BP(0, 0, LEN1));
    t = run_kernel(breakpoints);
    ok((t.dr6 & (DR6_BS | 1)) == (DR6_BS | 1), "BS stays until software clears it");
    clear();
    word *frame = STACK((word)ud2, SEL_KCODE, FL_1 | FL_RF, (word)kernel_stack_top, SEL_KDATA);
    t = run_kernel(iret, .sp = (word)frame);
    ok_trap(&t, UD, NO_ERROR, ud2, "IRET loads RF");
    word *stack = STACK(FL_1 | FL_RF, 0);
    t = run_kernel(popf_set, .sp = (word)stack);
    ok(t.vector == DONE && !(t.regs.flags & FL_RF), "POPF does not");
}

void test_main(void)
{
    test_single_step();
    test_syscall();
    test_execution();
    test_data();
    test_ports();
    test_registers();
}
