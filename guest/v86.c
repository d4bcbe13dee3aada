/* Virtual-8086 mode: the way in and out, what is trapped and what is not, I/O permission, limits; the extensions of
 * CR4.VME with the interrupt redirection map and VIF; CR4.PVI.
 *
 * SDM vol. 3, chapter 20. */
#include "guest.h"

#define SEG_STACK 0x2000u
#define SEG_DATA 0x3000u

CODE16(nop16, "nop");
CODE16(walk,
       "mov %ds:(0), %al; mov %ss:(2), %ah; mov %es:(4), %bl; mov %fs:(6), %bh; mov %gs:(8), %cl; push %ds; pop %es;"
       "mov $0x3100, %dx; mov %dx, %ds; mov (0), %ch");
CODE16(cli16, "cli");
CODE16(sti16, "sti");
CODE16(pushf16, "pushf; pop %ax");
CODE16(pushfd16, "pushfl");
CODE16(popf16, "popf");
CODE16(popfd16, "popfl");
CODE16(iret16, "iret");
CODE16(iretd16, "iretl");
CODE16(int_21, "int $0x21");
CODE16(int3_16, "int3");
CODE16(into16, "into");
CODE16(icebp16, ".byte 0xf1");
CODE16(hlt16, "hlt");
CODE16(clts16, "clts");
CODE16(lgdt16, "lgdt (0)");
CODE16(lidt16, "lidt (0)");
CODE16(lmsw16, "lmsw %ax");
CODE16(mov_cr, "mov %cr0, %eax");
CODE16(mov_dr, "mov %dr7, %eax");
CODE16(wbinvd16, "wbinvd");
CODE16(invlpg16, "invlpg (0)");
CODE16(rdmsr16, "rdmsr");
CODE16(sldt16, "sldt %ax");
CODE16(str16, "str %ax");
CODE16(lldt16, "lldt %ax");
CODE16(ltr16, "ltr %ax");
CODE16(lar16, "lar %ax, %bx");
CODE16(lsl16, "lsl %ax, %bx");
CODE16(verr16, "verr %ax");
CODE16(verw16, "verw %ax");
CODE16(arpl16, "arpl %ax, %bx");
CODE16(smsw16, "smsw %ax");
CODE16(sgdt16, "sgdt (0x20)");
CODE16(rdtsc16, "rdtsc");
CODE16(in_al, "in %dx, %al");
CODE16(in_ax, "in %dx, %ax");
CODE16(in_eax, "in %dx, %eax");
CODE16(out_al, "out %al, %dx");
CODE16(insb16, "insb");
CODE16(outsb16, "outsb");
CODE16(load_edi, "addr32 mov (%edi), %al");
CODE16(load_di_word, "mov (%di), %ax");
CODE16(load_bp_word, "mov (%bp), %ax");
CODE16(push16, "push %ax");
CODE16(far_call, "lcall $0x3000, $0x100");
CODE16(far_call_end_of_segment, "ljmp $0x3000, $0xffff");
CODE16(jump_high, "data32 ljmp *(0x40)");
CODE16(divide16, "div %cl");
CODE16(mov_cs, ".byte 0x8e, 0xc8");
CODE(cli32, "cli");
CODE(sti32, "sti");
CODE(pushf32, "pushf; pop %eax");
CODE(jump_task, "ljmp *(%edi)");

static uint8_t *at(word address)
{
    ASM("" : "+r"(address));
    return (uint8_t *)address;
}

static struct trap run_v86(const char *code, word flags, word ax, word dx)
{
    return run(&(struct regs){.ip = LOW_OFFSET(code),
                              .cs = LOW_SEGMENT,
                              .flags = FL_1 | FL_VM | flags,
                              .ss = SEG_STACK,
                              .sp = 0x1000,
                              .ds = SEG_DATA,
                              .es = SEG_DATA,
                              .fs = SEG_DATA,
                              .gs = SEG_DATA,
                              .ax = ax,
                              .dx = dx,
                              .di = 0x40,
                              .si = 0x40});
}

#define IOPL0 0
#define IP(code) ((const void *)LOW_OFFSET(code))

static void test_way_in(void)
{
    at(0x30000)[0] = 0x11;
    at(0x20000)[2] = 0x22;
    at(0x34000)[4] = 0x33;
    at(0x35000)[6] = 0x44;
    at(0x36000)[8] = 0x55;
    at(0x31000)[0] = 0x66;
    struct trap t = run(&(struct regs){.ip = LOW_OFFSET(walk),
                                       .cs = LOW_SEGMENT,
                                       .flags = FL_1 | FL_VM | FL_IOPL,
                                       .ss = SEG_STACK,
                                       .sp = 0x1000,
                                       .ds = 0x3000,
                                       .es = 0x3400,
                                       .fs = 0x3500,
                                       .gs = 0x3600,
                                       .bp = 0xdead0001});
    ok_trap(&t, DONE, NO_ERROR, (const char *)LOW_OFFSET(walk_end) + 2, "IRET to v86 mode and INT n back");
    ok(t.regs.ax == 0x2211 && t.regs.bx == 0x4433 && t.regs.cx == 0x6655, "segments are selectors times 16");
    ok(t.regs.cs == LOW_SEGMENT && t.regs.ss == SEG_STACK && t.regs.sp == 0x1000 && t.regs.ds == 0x3100 &&
           t.regs.es == 0x3000 && t.regs.fs == 0x3500 && t.regs.gs == 0x3600,
       "all segments are saved");
    ok_equal(t.regs.flags, FL_1 | FL_VM | FL_IOPL, "... and the flags with VM and IOPL");
    ok_equal(t.frame, (word)trap_stack_top - 36, "... nine words on the stack of level 0");
    extern struct trap trap_now;
    ok(trap_now.handler_cs == SEL_KCODE && (trap_now.handler_flags & (FL_VM | FL_IOPL)) == FL_IOPL,
       "the handler runs without VM");
    ok_equal(t.regs.bp, 0xdead0001, "upper halves of registers survive");
}

static void test_sensitive(void)
{
    struct {
        const char *code, *end, *name;
        word vector;
        bool iopl_sensitive;
    } forms[] = {
#define F(name, text, vector, sensitive) {name, name##_end, text, vector, sensitive}
        F(cli16, "CLI", GP, true),
        F(sti16, "STI", GP, true),
        F(pushf16, "PUSHF", GP, true),
        F(pushfd16, "PUSHFD", GP, true),
        F(popf16, "POPF", GP, true),
        F(popfd16, "POPFD", GP, true),
        F(int_21, "INT n", GP, true),
        F(iret16, "IRET", GP, true),
        F(hlt16, "HLT", GP, false),
        F(clts16, "CLTS", GP, false),
        F(lgdt16, "LGDT", GP, false),
        F(lidt16, "LIDT", GP, false),
        F(lmsw16, "LMSW", GP, false),
        F(mov_cr, "MOV from CR0", GP, false),
        F(mov_dr, "MOV from DR7", GP, false),
        F(wbinvd16, "WBINVD", GP, false),
        F(invlpg16, "INVLPG", GP, false),
        F(rdmsr16, "RDMSR", GP, false),
        F(sldt16, "SLDT", UD, false),
        F(str16, "STR", UD, false),
        F(lldt16, "LLDT", UD, false),
        F(ltr16, "LTR", UD, false),
        F(lar16, "LAR", UD, false),
        F(lsl16, "LSL", UD, false),
        F(verr16, "VERR", UD, false),
        F(verw16, "VERW", UD, false),
        F(arpl16, "ARPL", UD, false),
        F(mov_cs, "MOV to CS", UD, false),
    };
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        word error = forms[i].vector == GP ? 0 : NO_ERROR;
        struct trap t = run_v86(forms[i].code, IOPL0, 0, 0);
        ok_trap(&t, forms[i].vector, error, IP(forms[i].code), "%s, IOPL 0", forms[i].name);
        if (!forms[i].iopl_sensitive) {
            t = run_v86(forms[i].code, FL_IOPL, 0, 0);
            ok_trap(&t, forms[i].vector, error, IP(forms[i].code), "%s, IOPL 3", forms[i].name);
        }
    }
    struct trap t = run_v86(cli16, FL_IOPL | FL_IF, 0, 0);
    ok(t.vector == DONE && !(t.regs.flags & FL_IF), "CLI, IOPL 3");
    t = run_v86(sti16, FL_IOPL, 0, 0);
    ok(t.vector == DONE && (t.regs.flags & FL_IF), "STI, IOPL 3");
    t = run_v86(pushf16, FL_IOPL | FL_CF, 0, 0);
    ok_equal(t.regs.ax, FL_1 | FL_IOPL | FL_CF, "PUSHF, IOPL 3");
    *(uint32_t *)at(0x21000) = FL_1 | FL_IF | FL_ZF;
    t = run_v86(popf16, FL_IOPL, 0, 0);
    ok(t.vector == DONE && t.regs.flags == (FL_1 | FL_VM | FL_IOPL | FL_IF | FL_ZF),
       "POPF, IOPL 3, cannot change IOPL");
    *(uint32_t *)at(0x21000) = FL_1 | FL_ID | FL_AC | FL_VIF | FL_VIP;
    t = run_v86(popfd16, FL_IOPL, 0, 0);
    ok(t.vector == DONE && t.regs.flags == (FL_1 | FL_VM | FL_IOPL | FL_ID | FL_AC), "POPFD, IOPL 3, nor VM, VIF, VIP");
    uint16_t frame[] = {(uint16_t)LOW_OFFSET(nop16), LOW_SEGMENT, FL_1 | FL_IF};
    memcpy(at(0x21000), frame, sizeof frame);
    t = run_v86(iret16, FL_IOPL, 0, 0);
    ok(t.vector == DONE && t.regs.ip == LOW_OFFSET(nop16_end) + 2 && t.regs.sp == 0x1006 &&
           t.regs.flags == (FL_1 | FL_VM | FL_IOPL | FL_IF),
       "IRET, IOPL 3");
    uint32_t frame32[] = {(uint32_t)LOW_OFFSET(nop16), LOW_SEGMENT, FL_1 | FL_ID};
    memcpy(at(0x21000), frame32, sizeof frame32);
    t = run_v86(iretd16, FL_IOPL, 0, 0);
    ok(t.vector == DONE && t.regs.flags == (FL_1 | FL_VM | FL_IOPL | FL_ID), "IRETD, IOPL 3, stays in v86 mode");
    idt_set(0x21,
            &(struct gate_spec){.offset = (word)trap_stubs + 16 * 0x21, .selector = SEL_KCODE, .type = 0xe, .dpl = 3});
    t = run_v86(int_21, FL_IOPL, 0, 0);
    ok_trap(&t, 0x21, NO_ERROR, IP(int_21_end), "INT n, IOPL 3");
    idt_default(0x21);
    t = run_v86(int_21, FL_IOPL, 0, 0);
    ok_trap(&t, GP, 0x21 * 8 + 2, IP(int_21), "INT n, IOPL 3, gate of DPL 0: #GP(vector, IDT)");
    t = run_v86(int3_16, IOPL0, 0, 0);
    ok_trap(&t, BP, NO_ERROR, IP(int3_16_end), "INT3 does not look at IOPL");
    t = run_v86(into16, FL_OF, 0, 0);
    ok_trap(&t, OF, NO_ERROR, IP(into16_end), "nor does INTO");
    t = run_v86(icebp16, IOPL0, 0, 0);
    ok_trap(&t, DB, NO_ERROR, IP(icebp16_end), "nor does ICEBP");
    t = run_v86(divide16, IOPL0, 0, 0);
    ok_trap(&t, DE, NO_ERROR, IP(divide16), "#DE from v86 mode");
    t = run_v86(smsw16, FL_IOPL, 0, 0);
    ok(t.vector == DONE && t.regs.ax == (cr0_get() & 0xffff), "SMSW is not trapped");
    t = run_v86(sgdt16, FL_IOPL, 0, 0);
    ok(t.vector == DONE && *(uint32_t *)at(0x30022) == (word)gdt, "SGDT is not trapped");
    if (cpu_has_7_ebx(0) || cpuid(0, 0).eax >= 7) {
        if (cpuid(7, 0).ecx >> 2 & 1) {
            cr4_set(cr4_get() | CR4_UMIP);
            t = run_v86(sgdt16, FL_IOPL, 0, 0);
            ok_trap(&t, GP, 0, IP(sgdt16), "SGDT with CR4.UMIP");
            t = run_v86(smsw16, FL_IOPL, 0, 0);
            ok_trap(&t, GP, 0, IP(smsw16), "SMSW with CR4.UMIP");
            t = run_v86(str16, FL_IOPL, 0, 0);
            ok_trap(&t, UD, NO_ERROR, IP(str16), "STR is #UD even then");
            cr4_set(cr4_get() & ~CR4_UMIP);
        }
    }
    cr4_set(cr4_get() | CR4_TSD);
    t = run_v86(rdtsc16, FL_IOPL, 0, 0);
    ok_trap(&t, GP, 0, IP(rdtsc16), "RDTSC with CR4.TSD");
    cr4_set(cr4_get() & ~CR4_TSD);
}

#define IO_MAP (tss + 0x88)

static void test_io(void)
{
    struct trap t = run_v86(in_al, FL_IOPL, 0, 0x402);
    ok_trap(&t, GP, 0, IP(in_al), "IN asks the I/O map even at IOPL 3");
    IO_MAP[0x402 / 8] &= (uint8_t) ~(1 << (0x402 % 8));
    t = run_v86(in_al, FL_IOPL, 0, 0x402);
    ok(t.vector == DONE && (t.regs.ax & 0xff) == 0xe9, "IN with its bit clear");
    t = run_v86(in_al, IOPL0, 0, 0x402);
    ok(t.vector == GP && t.regs.ip == LOW_OFFSET(in_al_end), "... at IOPL 0, too");
    t = run_v86(in_ax, FL_IOPL, 0, 0x402);
    ok_trap(&t, GP, 0, IP(in_ax), "a word needs two bits");
    IO_MAP[0x403 / 8] &= (uint8_t) ~(1 << (0x403 % 8));
    t = run_v86(in_ax, FL_IOPL, 0, 0x402);
    ok(t.vector == DONE, "... which are clear");
    t = run_v86(in_eax, FL_IOPL, 0, 0x402);
    ok_trap(&t, GP, 0, IP(in_eax), "a doubleword needs four");
    t = run_v86(out_al, FL_IOPL, 0, 0x401);
    ok_trap(&t, GP, 0, IP(out_al), "OUT to a neighbour");
    t = run_v86(insb16, FL_IOPL, 0, 0x402);
    ok(t.vector == DONE && at(0x30040)[0] == 0xe9 && t.regs.di == 0x41, "INSB");
    t = run_v86(outsb16, FL_IOPL, 0, 0x401);
    ok_trap(&t, GP, 0, IP(outsb16), "OUTSB to a neighbour");
    IO_MAP[0x402 / 8] = 0xff;
    t = run_v86(in_al, FL_IOPL, 0, 0xffff);
    ok_trap(&t, GP, 0, IP(in_al), "a port beyond the TSS's limit");
    uint16_t offset = 0xffff;
    memcpy(tss + 0x66, &offset, 2);
    t = run_v86(in_al, FL_IOPL, 0, 0x402);
    ok_trap(&t, GP, 0, IP(in_al), "no map at all");
    offset = 0x88;
    memcpy(tss + 0x66, &offset, 2);
}

static struct trap run_at(const char *code, word di, word sp)
{
    return run(&(struct regs){.ip = LOW_OFFSET(code),
                              .cs = LOW_SEGMENT,
                              .flags = FL_1 | FL_VM | FL_IOPL,
                              .ss = SEG_STACK,
                              .sp = sp,
                              .ds = SEG_DATA,
                              .es = SEG_DATA,
                              .di = di,
                              .bp = di});
}

static void test_limits(void)
{
    struct trap t = run_at(load_edi, 0x10000, 0x1000);
    ok_trap(&t, GP, 0, IP(load_edi), "offset 10000h: #GP(0)");
    t = run_at(load_di_word, 0xffff, 0x1000);
    ok_trap(&t, GP, 0, IP(load_di_word), "a word at FFFFh: #GP(0)");
    t = run_at(load_bp_word, 0xffff, 0x1000);
    ok_trap(&t, SS, 0, IP(load_bp_word), "a word at SS:FFFFh: #SS(0)");
    t = run_at(push16, 0, 1);
    ok_trap(&t, SS, 0, IP(push16), "PUSH with SP 1: #SS(0)");
    t = run_at(push16, 0, 0);
    ok(t.vector == DONE && t.regs.sp == 0xfffe, "PUSH with SP 0 wraps");
    *(uint32_t *)at(0x30040) = 0x10000;
    *(uint16_t *)at(0x30044) = SEG_DATA;
    t = run_at(jump_high, 0, 0x1000);
    ok_trap(&t, GP, 0, IP(jump_high), "a far JMP to EIP 10000h: #GP(0)");
    t = run(&(struct regs){.ip = 0x10000, .cs = LOW_SEGMENT, .flags = FL_1 | FL_VM, .ss = SEG_STACK, .sp = 0x1000});
    extern const char run_iret[];
    ok_trap(&t, GP, 0, run_iret, "IRET to EIP 10000h in v86 mode: #GP(0) at the IRET");
    at(0x3ffff)[0] = 0x90;
    t = run_at(far_call_end_of_segment, 0, 0x1000);
    ok(t.vector == GP && t.error == 0, "execution past FFFFh: #GP(0)");
    memcpy(at(0x30100), "\xcb", 1);
    t = run_at(far_call, 0, 0x1000);
    ok(t.vector == DONE && t.regs.sp == 0x1000 && t.regs.cs == LOW_SEGMENT && *(uint16_t *)at(0x20ffe) == LOW_SEGMENT &&
           *(uint16_t *)at(0x20ffc) == LOW_OFFSET(far_call_end),
       "far CALL and RET as on an 8086");
}

static void test_wrong_handlers(void)
{
    idt_set(UD, &(struct gate_spec){.offset = (word)trap_stubs + 16 * UD,
                                    .selector = gdt_put(0, descriptor(0, 0xfffff, 0xfa, 0xc)),
                                    .type = 0xe});
    struct trap t = run_v86(str16, IOPL0, 0, 0);
    ok_trap(&t, GP, SEL_FREE | 1, IP(str16), "a handler of level 3: #GP(selector, EXT)");
    gdt_put(0, descriptor(0, 0xfffff, 0x9e, 0xc));
    t = run_v86(str16, IOPL0, 0, 0);
    ok_trap(&t, GP, SEL_FREE | 1, IP(str16), "a conforming handler: #GP(selector, EXT)");
    gdt_put(0, descriptor(0, 0xfffff, 0xba, 0xc));
    t = run_v86(str16, IOPL0, 0, 0);
    ok_trap(&t, GP, SEL_FREE | 1, IP(str16), "a handler of level 1: #GP(selector, EXT)");
    idt_default(UD);
}

#define REDIRECTION (tss + 0x68)

static void test_vme(void)
{
    if (!(cpuid(1, 0).edx >> 1 & 1)) {
        skip("no VME");
        return;
    }
    *(uint32_t *)at(0x21 * 4) = LOW_SEGMENT << 16 | (uint32_t)LOW_OFFSET(nop16);
    *(uint32_t *)at(0x81 * 4) = 0xdead0000;
    struct trap t = run_v86(int_21, IOPL0, 0, 0);
    ok_trap(&t, GP, 0, IP(int_21), "without CR4.VME INT n traps");
    cr4_set(cr4_get() | CR4_VME);
    t = run_v86(int_21, IOPL0, 0, 0);
    ok_trap(&t, GP, 0, IP(int_21), "VME, the vector's bit set: INT n traps");
    REDIRECTION[0x21 / 8] &= (uint8_t) ~(1 << 0x21 % 8);
    t = run_v86(int_21, FL_VIF | FL_CF, 0, 0);
    ok(t.vector == GP && t.regs.ip == LOW_OFFSET(nop16_end), "bit clear: INT n goes through the program's own table");
    uint16_t *frame = (uint16_t *)at(0x20ffa);
    ok(t.regs.sp == 0xffa && frame[0] == LOW_OFFSET(int_21_end) && frame[1] == LOW_SEGMENT, "... pushes IP and CS");
    ok_equal(frame[2], FL_1 | FL_IOPL | FL_IF | FL_CF, "... and FLAGS with VIF as IF and IOPL 3");
    ok_equal(t.regs.flags & (FL_VIF | FL_IOPL | FL_VM | FL_RF), FL_VM | FL_RF, "... clears VIF");
    t = run_v86(int_21, FL_IOPL | FL_IF | FL_VIF, 0, 0);
    ok(t.vector == DONE && !(t.regs.flags & FL_IF) && (t.regs.flags & FL_VIF), "at IOPL 3 it clears IF, not VIF");
    ok_equal(*(uint16_t *)at(0x20ffe), FL_1 | FL_IOPL | FL_IF, "... and pushes IF itself");

    t = run_v86(cli16, FL_IF | FL_VIF, 0, 0);
    ok(t.vector == GP && t.regs.ip == LOW_OFFSET(cli16_end) && !(t.regs.flags & FL_VIF) && (t.regs.flags & FL_IF),
       "CLI clears VIF, not IF");
    t = run_v86(sti16, 0, 0, 0);
    ok(t.regs.ip == LOW_OFFSET(sti16_end) && (t.regs.flags & FL_VIF) && !(t.regs.flags & FL_IF),
       "STI sets VIF, not IF");
    t = run_v86(sti16, FL_VIP, 0, 0);
    ok_trap(&t, GP, 0, IP(sti16), "STI with VIP: #GP(0)");
    t = run_v86(cli16, FL_VIP | FL_VIF, 0, 0);
    ok(t.regs.ip == LOW_OFFSET(cli16_end), "CLI with VIP");
    t = run_v86(pushf16, FL_VIF, 0, 0);
    ok_equal(t.regs.ax, FL_1 | FL_IOPL | FL_IF, "PUSHF shows VIF as IF, and IOPL 3");
    t = run_v86(pushf16, FL_IF, 0, 0);
    ok_equal(t.regs.ax, FL_1 | FL_IOPL, "... and not IF");
    t = run_v86(pushfd16, FL_IF, 0, 0);
    ok_trap(&t, GP, 0, IP(pushfd16), "PUSHFD traps");
    *(uint32_t *)at(0x21000) = FL_1 | FL_IF | FL_ZF | FL_IOPL;
    t = run_v86(popf16, 0, 0, 0);
    ok(t.regs.ip == LOW_OFFSET(popf16_end) && (t.regs.flags & (FL_VIF | FL_IF | FL_IOPL | FL_ZF)) == (FL_VIF | FL_ZF),
       "POPF sets VIF, not IF, not IOPL");
    t = run_v86(popf16, FL_VIP, 0, 0);
    ok_trap(&t, GP, 0, IP(popf16), "POPF of IF with VIP: #GP(0)");
    *(uint32_t *)at(0x21000) = FL_1 | FL_TF;
    t = run_v86(popf16, 0, 0, 0);
    ok_trap(&t, GP, 0, IP(popf16), "POPF of TF: #GP(0)");
    t = run_v86(popfd16, 0, 0, 0);
    ok_trap(&t, GP, 0, IP(popfd16), "POPFD traps");
    uint16_t back[] = {(uint16_t)LOW_OFFSET(nop16), LOW_SEGMENT, FL_1 | FL_IF};
    memcpy(at(0x21000), back, sizeof back);
    t = run_v86(iret16, 0, 0, 0);
    ok(t.regs.ip == LOW_OFFSET(nop16_end) && (t.regs.flags & FL_VIF) && !(t.regs.flags & FL_IF) && t.regs.sp == 0x1006,
       "IRET sets VIF");
    t = run_v86(iret16, FL_VIP, 0, 0);
    ok_trap(&t, GP, 0, IP(iret16), "IRET of IF with VIP: #GP(0)");
    t = run_v86(iretd16, 0, 0, 0);
    ok_trap(&t, GP, 0, IP(iretd16), "IRETD traps");
    t = run_v86(int3_16, 0, 0, 0);
    ok_trap(&t, BP, NO_ERROR, IP(int3_16_end), "INT3 is never redirected");
    REDIRECTION[0x21 / 8] = 0xff;
    cr4_set(cr4_get() & ~CR4_VME);

    cr4_set(cr4_get() | CR4_PVI);
    t = run_user(cli32, .flags = FL_1 | FL_VIF | FL_IF);
    ok(t.vector == DONE && !(t.regs.flags & FL_VIF) && (t.regs.flags & FL_IF), "PVI: CLI at level 3 clears VIF");
    t = run_user(sti32);
    ok(t.vector == DONE && (t.regs.flags & FL_VIF) && !(t.regs.flags & FL_IF), "PVI: STI at level 3 sets VIF");
    t = run_user(sti32, .flags = FL_1 | FL_VIP);
    ok_trap(&t, GP, 0, sti32, "PVI: STI with VIP: #GP(0)");
    t = run_user(pushf32, .flags = FL_1 | FL_VIF);
    ok_equal(t.regs.ax & (FL_IF | FL_IOPL | FL_VIF), FL_VIF, "PVI: PUSHF is what it was");
    cr4_set(cr4_get() & ~CR4_PVI);
    t = run_user(cli32, .flags = FL_1 | FL_VIF);
    ok_trap(&t, GP, 0, cli32, "without PVI: CLI at level 3");
}

static void test_task(void)
{
    static uint32_t task[26];
    memset(task, 0, sizeof task);
    task[1] = (word)trap_stack_top;
    task[2] = SEL_KDATA;
    task[8] = (uint32_t)LOW_OFFSET(walk);
    task[9] = FL_1 | FL_VM | FL_IOPL;
    task[14] = 0x800;
    static const uint16_t segments[] = {0x3400, LOW_SEGMENT, SEG_STACK, 0x3000, 0x3500, 0x3600};
    for (unsigned i = 0; i < 6; i++)
        task[18 + i] = segments[i];
    task[25] = 0xffff0000;
    gdt_put(0, descriptor((word)task, 103, 0x89, 0));
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } far = {0, SEL_FREE};
    struct trap t = run_kernel(jump_task, .di = (word)&far);
    ok(t.vector == DONE && t.regs.ax == 0x2211 && t.regs.bx == 0x4433 && (t.regs.flags & FL_VM) && t.regs.sp == 0x800,
       "a task switch into v86 mode");
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    ASM("ltr %w0; clts" ::"r"(SEL_TSS));
}

static void test_paging(void)
{
    uint32_t *directory = page_alloc(1), *table = page_alloc(1);
    for (uint32_t i = 0; i < 1024; i++)
        table[i] = i << 12 | 7;
    for (uint32_t i = 1; i < 16; i++)
        directory[i] = i << 22 | 0x83;
    directory[0] = (word)table | 7;
    cr4_set(cr4_get() | CR4_PSE);
    cr3_set((word)directory);
    cr0_set(cr0_get() | CR0_PG);
    table[0x30] = 0;
    invlpg(0x30000);
    struct trap t = run_at(load_di_word, 0x10, 0x1000);
    ok_pf(&t, PF_U, 0x30010, IP(load_di_word), "#PF in v86 mode is a user's");
    table[0x30] = 0x30003;
    t = run_at(load_di_word, 0x10, 0x1000);
    ok_pf(&t, PF_U | PF_P, 0x30010, IP(load_di_word), "... also of a supervisor page");
    table[0x30] = 0x31007; /* as EMM386 does */
    invlpg(0x30000);
    t = run_at(load_di_word, 0, 0x1000);
    ok_equal(t.regs.ax & 0xff, 0x66, "mapped elsewhere");
    cr0_set(cr0_get() & ~CR0_PG);
}

void test_main(void)
{
    test_way_in();
    test_sensitive();
    test_io();
    test_limits();
    test_wrong_handlers();
    test_vme();
    test_task();
    test_paging();
}
