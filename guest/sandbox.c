/* For the engine trap, which runs this code on the host's processor: what would reach the host if it were run as it is.
 * System calls of the host's by every instruction that makes them; far jumps to the host's code segments; instructions
 * that tell the truth about the host; jumps into the middle of instructions; code that reads itself. On every engine
 * the answers are those of the manual and of this machine's own tables.
 *
 *     --append escape     goes into 64-bit code, if the engine lets it (--patch off), and tries everything from there
 *
 * SDM vol. 2, the instructions; vol. 3, 5.8 and 6.12. */
#include "guest.h"

/* EAX: getpid, write, exit_group and others, as the host's 32- and 64-bit kernels number them. */
CODE(int80, "int $0x80");
CODE(int80_later, "nop; nop; int $0x80");
CODE(syscall32, "syscall");
CODE(sysenter32, "sysenter");
CODE(far_33, "ljmp $0x33, $0");
CODE(far_23, "ljmp $0x23, $0");
CODE(far_call_33, "lcall $0x33, $0");
CODE(ret_33, "push $0x33; push $0; lret");
CODE(iret_33, "pushf; push $0x33; push $0; iret");
CODE(read_selectors, "mov %cs, %eax; mov %ss, %ebx; mov %ds, %ecx; mov %es, %edx");
CODE(push_selectors, "push %cs; pop %eax; push %ss; pop %ebx; push %ds; pop %ecx; push %es; pop %edx");
CODE(read_flags, "pushf; pop %eax");
CODE(clear_if, "push $2; popf; pushf; pop %eax");
CODE(sgdt_at, "sgdt (%edi)");
CODE(sidt_at, "sidt (%edi)");
CODE(smsw_ax, "smsw %eax");
CODE(str_ax, "str %eax");
CODE(sldt_ax, "sldt %eax");
CODE(lar_33, "lar %eax, %ebx");
CODE(tsc, "rdtsc; mov %eax, %ebx; mov %edx, %ecx; rdtsc");
CODE(through_cs, "mov %cs:(%edi), %eax");
/* B8 9C 58 F4 90: MOV EAX; from its second byte on PUSHF, POP EAX, HLT. */
CODE(middle, "jmp 1f; .byte 0xb8; 1: .byte 0x9c, 0x58, 0xeb, 0x00");
CODE(middle_both, "mov $2, %ecx; .byte 0xb8; 1: .byte 0x9c, 0x58, 0x90, 0x90; loop 1b");
CODE(code_reads_itself, "call 1f; 1: pop %edi; pushf; popf; mov (%edi), %eax; mov 1(%edi), %ebx");
CODE(to_64, "ljmp $0x33, $1f\n"
            "1: .code64\n"
            "mov $39, %eax; syscall\n"
            "mov $1, %eax; mov $2, %edi; lea message_64(%rip), %rsi; mov $8, %edx; syscall\n"
            "movabs $0x7f0000000000, %rdi; movl $0, (%rdi)\n"
            "mov $231, %eax; mov $99, %edi; syscall\n"
            "hlt\n"
            "message_64: .ascii \"escaped\\n\"\n"
            ".code32");

static uint8_t area[64];

static void test_calls(void)
{
    static const uint32_t numbers[] = {1, 4, 20, 39, 60, 231, 252, 0xffffffff};
    for (unsigned i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct trap t = run_user(int80, .ax = numbers[i], .bx = 1);
        ok_trap(&t, GP, 0x80 * 8 + 2, int80, "INT 80h with %u: #GP, as the IDT says", numbers[i]);
        ok_equal(t.regs.ax, numbers[i], "... EAX is as it was");
    }
    struct trap t = run_user(int80_later, .ax = 20);
    ok_trap(&t, GP, 0x80 * 8 + 2, int80_later + 2, "INT 80h behind others");
    t = run_kernel(int80, .ax = 20);
    ok(t.vector != DONE, "INT 80h at level 0 does not go on");
    t = run_user(syscall32, .ax = 20);
    ok(t.vector == UD && t.regs.ip == (word)syscall32, "SYSCALL without EFER.SCE: #UD");
    t = run_user(sysenter32, .ax = 20, .bp = (word)area);
    ok(t.vector == GP && t.regs.ip == (word)sysenter32, "SYSENTER without a target: #GP");
}

static void test_far(void)
{
    struct trap t = run_user(far_33);
    ok_trap(&t, GP, 0x30, far_33, "a far jump to 33h, which is data here");
    t = run_user(far_23);
    ok_trap(&t, GP, 0x20, far_23, "... to 23h");
    t = run_user(far_call_33);
    ok_trap(&t, GP, 0x30, far_call_33, "a far call to 33h");
    t = run_user(ret_33);
    ok(t.vector == GP && t.error == 0x30, "a far return to 33h");
    t = run_user(iret_33);
    ok(t.vector == GP && t.error == 0x30, "IRET to 33h");
}

static void test_truth(void)
{
    for (unsigned user = 0; user < 2; user++) {
        struct trap t = user ? run_user(read_selectors) : run_kernel(read_selectors);
        word code = user ? SEL_UCODE32 | 3 : SEL_KCODE, data = user ? SEL_UDATA | 3 : SEL_KDATA;
        ok(t.regs.ax == code && t.regs.bx == data && t.regs.cx == data && t.regs.dx == data, "selectors, level %u",
           3 * user);
        t = user ? run_user(push_selectors) : run_kernel(push_selectors);
        ok((uint16_t)t.regs.ax == code && (uint16_t)t.regs.bx == data && (uint16_t)t.regs.cx == data, "... pushed");
        t = user ? run_user(read_flags, .flags = FL_1) : run_kernel(read_flags, .flags = FL_1);
        ok_equal(t.regs.ax & (FL_IF | FL_IOPL), 0, "PUSHF with IF clear");
        t = user ? run_user(sgdt_at, .di = (word)area) : run_kernel(sgdt_at, .di = (word)area);
        struct {
            uint16_t limit;
            uint32_t base;
        } __attribute__((packed)) own, seen;
        __asm__ volatile("sgdt %0" : "=m"(own));
        memcpy(&seen, area, sizeof seen);
        ok(seen.limit == own.limit && seen.base == own.base && own.limit == GDT_ENTRIES * 8 - 1, "SGDT, level %u",
           3 * user);
        t = user ? run_user(smsw_ax) : run_kernel(smsw_ax);
        ok_equal(t.regs.ax, cr0_get(), "SMSW");
        t = user ? run_user(str_ax) : run_kernel(str_ax);
        ok_equal(t.regs.ax, SEL_TSS, "STR");
        t = user ? run_user(sldt_ax) : run_kernel(sldt_ax);
        ok_equal(t.regs.ax, 0, "SLDT");
        t = user ? run_user(lar_33, .ax = 0x33) : run_kernel(lar_33, .ax = 0x33);
        ok((t.regs.flags & FL_ZF) && (t.regs.bx & 0x9b00) == 0x9300, "LAR of 33h says data");
        memcpy(area, "abcd", 4);
        t = user ? run_user(through_cs, .di = (word)area) : run_kernel(through_cs, .di = (word)area);
        ok_equal(t.regs.ax, 0x64636261, "data through CS");
    }
    struct trap t = run_kernel(clear_if, .flags = FL_1 | FL_IF);
    ok_equal(t.regs.ax & FL_IF, 0, "POPF at level 0 clears IF");
    t = run_user(tsc);
    uint64_t first = (uint64_t)t.regs.cx << 32 | t.regs.bx, second = (uint64_t)t.regs.dx << 32 | t.regs.ax;
    ok(second >= first && second - first < 1000000000ull, "RDTSC goes on");
}

static void test_middle(void)
{
    struct trap t = run_kernel(middle, .flags = FL_1);
    ok_equal(t.regs.ax & FL_IF, 0, "a jump into an instruction, onto PUSHF");
    t = run_kernel(middle_both, .flags = FL_1);
    ok(t.vector == DONE && !(t.regs.ax & FL_IF), "... one that has been executed as a whole before");
    t = run_kernel(code_reads_itself);
    ok(t.regs.ax == 0x8b9d9c5f && (t.regs.bx & 0xffffff) == 0x8b9d9c, "code reads its own bytes");
}

void test_main(void)
{
    if (guest_arguments[0] == 'e') {
        struct trap t = run_user(to_64);
        ok(t.vector != DONE, "escape: vector %u", (unsigned)t.vector);
        t = run_user(int80, .ax = 4, .bx = 1, .cx = (word) "escaped\n", .dx = 8);
        ok_trap(&t, GP, 0x80 * 8 + 2, int80, "INT 80h after that");
        return;
    }
    test_calls();
    test_far();
    test_truth();
    test_middle();
}
