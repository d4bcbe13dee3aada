/* SYSCALL, SYSRET, SYSENTER and SYSEXIT from 64-bit and compatibility mode: segments, flags, canonical checks, who may
 * and when they exist. Where vendors differ both are known here.
 *
 * SDM vol. 2, the four instructions; APM vol. 3, the same. */
#include "guest.h"

CODE(syscall, "syscall");
CODE32(syscall32, "syscall");
CODE(target, "mov %cs, %ebx; mov %ss, %edx; pushfq; pop %rax");
CODE(cstar_target, "mov $0xc57a2, %eax; mov %cs, %ebx");
CODE(sysretq, "rex.w sysret");
CODE(sysretl, "sysretl");
CODE(sysenter, "sysenter");
CODE32(sysenter32, "sysenter");
CODE(sysenter_target, "mov %cs, %ebx; mov %ss, %edx; mov %rsp, %rdi");
CODE(sysexitq, "rex.w sysexit");
CODE(sysexitl, "sysexitl");
CODE(user_code, "mov %cs, %ebx; mov %ss, %ebp; nop");
CODE32(user_code32, "mov %cs, %ebx; mov %ss, %ebp; nop");
CODE(set_msr, "wrmsr");
/* The same bytes at both widths: calls that are never returned from, and returns to where those would have gone. */
CODE(calls, "1: call 2f; 2: pop %rax; dec %ecx; jnz 1b");
CODE(returns, "push %rdx; ret");

#define LOW_USER 0x30000000ul /* the program again, for users, below 4 GiB: what 32-bit code can reach */

static bool amd;

static void test_syscall(void)
{
    struct trap t = run_user(syscall);
    ok_trap(&t, UD, NO_ERROR, (void *)USER(syscall), "SYSCALL without EFER.SCE: #UD");
    t = run_kernel(sysretq);
    ok_trap(&t, UD, NO_ERROR, sysretq, "SYSRET without EFER.SCE: #UD");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)SEL_KCODE << 32 | (uint64_t)(SEL_UCODE32 | 3) << 48 | 0x12345678);
    wrmsr(MSR_LSTAR, (word)target);
    wrmsr(MSR_CSTAR, (word)cstar_target);
    wrmsr(MSR_SFMASK, FL_IF | FL_DF | FL_ZF);
    t = run_user(syscall, .flags = FL_1 | FL_IF | FL_DF | FL_CF | FL_ZF | FL_AC);
    ok_done(&t, target_end, "SYSCALL");
    ok_equal(t.regs.cx, USER(syscall_end), "... RCX is the next RIP");
    ok_equal(t.regs.r11, FL_1 | FL_IF | FL_DF | FL_CF | FL_ZF | FL_AC, "... R11 the flags");
    ok_equal(t.regs.ax, FL_1 | FL_CF | FL_AC, "... SFMASK's flags are clear");
    ok(t.regs.bx == SEL_KCODE && t.regs.dx == SEL_KDATA, "... CS and SS from STAR");
    ok_equal(t.regs.sp, USER(user_stack_top), "... RSP stays");
    t = run_kernel(syscall);
    ok_done(&t, target_end, "SYSCALL at level 0");
    wrmsr(MSR_STAR, (uint64_t)(SEL_KCODE | 3) << 32 | (uint64_t)(SEL_UCODE32 | 3) << 48);
    t = run_user(syscall);
    ok(t.vector == DONE && t.regs.bx == SEL_KCODE && (t.regs.dx & ~3ul) == SEL_KDATA, "STAR's RPL is ignored");
    wrmsr(MSR_STAR, (uint64_t)SEL_KCODE << 32 | (uint64_t)(SEL_UCODE32 | 3) << 48);
    t = run(&REGS_USER(syscall32, .ip = LOW_USER + (word)syscall32, .cs = SEL_UCODE32 | 3, .sp = LOW_USER + 0x200000));
    if (amd) {
        ok(t.vector == DONE && t.regs.ax == 0xc57a2 && t.regs.bx == SEL_KCODE &&
               t.regs.ip == (word)cstar_target_end + 2,
           "SYSCALL in compatibility mode goes to CSTAR");
        ok_equal(t.regs.cx, LOW_USER + (word)syscall32_end, "... RCX");
    } else {
        ok(t.vector == UD, "SYSCALL in compatibility mode: #UD");
    }
    t = run_kernel(set_msr, .cx = MSR_LSTAR, .ax = 0, .dx = 0x8000);
    ok_trap(&t, GP, 0, set_msr, "LSTAR must be canonical: #GP(0)");
}

static void test_sysret(void)
{
    struct trap t =
        run_kernel(sysretq, .cx = USER(user_code), .r11 = FL_1 | FL_IF | FL_CF | FL_IOPL | FL_RF | FL_VM | FL_ID);
    ok_done(&t, user_code_end, "SYSRET to 64-bit mode");
    ok(t.regs.bx == (SEL_UCODE64 | 3) && t.regs.bp == (SEL_UDATA | 3), "... CS and SS from STAR");
    ok_equal(t.regs.flags, FL_1 | FL_IF | FL_CF | FL_IOPL | FL_ID, "... flags from R11, without RF and VM");
    ok_equal(t.regs.sp, (word)kernel_stack_top, "... RSP stays");
    t = run_kernel(sysretl, .cx = LOW_USER + (word)user_code32, .r11 = FL_1);
    ok(t.vector == DONE && t.regs.ip == LOW_USER + (word)user_code32_end + 2 && t.regs.bx == (SEL_UCODE32 | 3) &&
           t.regs.bp == (SEL_UDATA | 3),
       "SYSRET to compatibility mode");
    t = run_kernel(sysretl, .cx = 0xffff000000000000 | (LOW_USER + (word)user_code32), .r11 = FL_1);
    ok_equal(t.regs.ip, LOW_USER + (word)user_code32_end + 2, "... with the low half of RCX");
    t = run_user(sysretq, .cx = USER(user_code));
    ok_trap(&t, GP, 0, (void *)USER(sysretq), "SYSRET at level 3: #GP(0)");
    t = run_kernel(sysretq, .cx = 0x800000000000, .r11 = FL_1);
    if (amd)
        ok(t.vector == GP && t.regs.ip == 0x800000000000 && t.regs.cs == (SEL_UCODE64 | 3),
           "SYSRET to a non-canonical address: #GP(0) there, at level 3");
    else
        ok_trap(&t, GP, 0, sysretq, "SYSRET to a non-canonical address: #GP(0) at level 0");
    t = run_kernel(sysretq, .cx = USER(user_code), .r11 = FL_1 | FL_TF);
    ok(t.vector == DB && t.regs.ip > USER(user_code), "SYSRET that sets TF: one instruction, then #DB");
    /* STAR's selector with RPL 0 makes RPL 3 all the same. */
    wrmsr(MSR_STAR, (uint64_t)SEL_KCODE << 32 | (uint64_t)SEL_UCODE32 << 48);
    t = run_kernel(sysretq, .cx = USER(user_code), .r11 = FL_1);
    ok(t.regs.bx == (SEL_UCODE64 | 3), "SYSRET forces RPL 3 of CS");
}

static void test_sysenter(void)
{
    if (!(cpuid(1, 0).edx >> 11 & 1)) {
        skip("no SYSENTER");
        return;
    }
    wrmsr(MSR_SYSENTER_CS, 0);
    wrmsr(MSR_SYSENTER_EIP, (word)sysenter_target);
    wrmsr(MSR_SYSENTER_ESP, (word)kernel_stack_top - 128);
    struct trap t = run_user(sysenter);
    if (amd) {
        ok_trap(&t, UD, NO_ERROR, (void *)USER(sysenter), "SYSENTER in long mode: #UD");
        t = run_kernel(sysexitq);
        ok_trap(&t, UD, NO_ERROR, sysexitq, "SYSEXIT in long mode: #UD");
        return;
    }
    ok_trap(&t, GP, 0, (void *)USER(sysenter), "SYSENTER with a null SYSENTER_CS: #GP(0)");
    t = run_kernel(sysexitq);
    ok_trap(&t, GP, 0, sysexitq, "SYSEXIT with a null SYSENTER_CS: #GP(0)");
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE | 3);
    t = run_user(sysenter, .flags = FL_1 | FL_IF | FL_CF);
    ok_done(&t, sysenter_target_end, "SYSENTER");
    ok(t.regs.bx == SEL_KCODE && t.regs.dx == SEL_KDATA && t.regs.di == (word)kernel_stack_top - 128,
       "... CS, SS, RSP");
    ok_equal(t.regs.flags, FL_1 | FL_CF, "... clears IF");
    t = run(&REGS_USER(sysenter32, .ip = LOW_USER + (word)sysenter32, .cs = SEL_UCODE32 | 3));
    ok_done(&t, sysenter_target_end, "SYSENTER from compatibility mode enters 64-bit mode");
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
    t = run_kernel(sysexitq, .dx = USER(user_code), .cx = USER(user_stack_top));
    ok_done(&t, user_code_end, "SYSEXIT to 64-bit mode");
    ok(t.regs.bx == (SEL_UCODE64 | 3) && t.regs.bp == (SEL_UDATA2 | 3) && t.regs.sp == USER(user_stack_top),
       "... CS, SS, RSP");
    t = run_kernel(sysexitl, .dx = LOW_USER + (word)user_code32, .cx = LOW_USER + 0x200000);
    ok(t.vector == DONE && t.regs.bx == (SEL_UCODE32 | 3) && t.regs.sp == LOW_USER + 0x200000,
       "SYSEXIT to compatibility mode");
    t = run_kernel(sysexitq, .dx = 0x800000000000, .cx = USER(user_stack_top));
    ok_trap(&t, GP, 0, sysexitq, "SYSEXIT to a non-canonical RIP: #GP(0)");
    t = run_kernel(sysexitq, .dx = USER(user_code), .cx = 0x800000000000);
    ok_trap(&t, GP, 0, sysexitq, "SYSEXIT with a non-canonical RSP: #GP(0)");
    t = run_user(sysexitq, .dx = USER(user_code));
    ok_trap(&t, GP, 0, (void *)USER(sysexitq), "SYSEXIT at level 3: #GP(0)");
    t = run_kernel(set_msr, .cx = MSR_SYSENTER_EIP, .ax = 0, .dx = 0x8000);
    ok_trap(&t, GP, 0, set_msr, "SYSENTER_EIP must be canonical: #GP(0)");
}

/* What 64-bit code has called, 32-bit code may return to. */
static void test_call_of_another_width(void)
{
    struct regs wide = REGS_USER(calls, .ip = LOW_USER + (word)calls, .sp = LOW_USER + 0x200000);
    struct regs narrow = REGS_USER(returns, .ip = LOW_USER + (word)returns, .cs = SEL_UCODE32 | 3, .sp = LOW_USER + 0x200000,
                                   .dx = LOW_USER + (word)calls + 5, .r8 = ~8ul, .r9 = ~9ul, .r12 = ~12ul, .r13 = ~13ul);
    struct trap t;
    bool done = true, kept = true;
    for (unsigned i = 0; i < 40; i++) {
        wide.cx = 30;
        t = run(&wide);
        done = done && t.vector == DONE && t.regs.sp == LOW_USER + 0x200000;
        narrow.cx = 1 + i % 3;
        t = run(&narrow);
        done = done && t.vector == DONE && t.regs.sp == LOW_USER + 0x200004;
        kept = kept && t.regs.r8 == ~8ul && t.regs.r9 == ~9ul && t.regs.r12 == ~12ul && t.regs.r13 == ~13ul;
    }
    ok(done, "32-bit code returns to where 64-bit code has called from");
    ok(kept, "... R8, R9, R12 and R13 are as before");
}

void test_main(void)
{
    amd = cpu_is_amd();
    for (word at = 0; at < 64 * MiB; at += 2 * MiB)
        *pte(LOW_USER + at, 2) = at | PTE_P | PTE_W | PTE_U | PTE_PS;
    for (unsigned level = 4; level >= 3; level--)
        *pte(LOW_USER, level) |= PTE_U;
    cr3_set(cr3_get());
    test_syscall();
    test_sysret();
    test_sysenter();
    test_call_of_another_width();
}
