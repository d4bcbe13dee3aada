/* Interrupts: 8259s, PIT and RTC; shadows of STI and MOV SS; HLT; NMI and its blocking; the local APIC's timer,
 * priorities and messages; I/O APIC, edge and level; x2APIC; the paravirtual EOI.
 *
 * Guest time may be of any speed: nothing here measures, everything waits for what must come. SDM vol. 3, chapters 6
 * and 10; 8259A, 82093AA. */
#include "guest.h"

#define LAPIC 0xfee00000ul
#define IOAPIC 0xfec00000ul
enum {
    LAPIC_ID = 0x20,
    LAPIC_VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR_LOW = 0x300,
    ICR_HIGH = 0x310,
    LVT_TIMER = 0x320,
    LVT_LINT0 = 0x350,
    LVT_LINT1 = 0x360,
    TIMER_INITIAL = 0x380,
    TIMER_CURRENT = 0x390,
    TIMER_DIVIDE = 0x3e0
};
#define APIC_BASE_ENABLE 0x800ull
#define APIC_BASE_X2 0x400ull
#define LVT_MASKED 0x10000u
#define ICR_NMI 0x400u
#define ICR_ASSERT 0x4000u
#define ICR_SELF 0x40000u
#define MSR_X2APIC 0x800u
#define MSR_PV_EOI 0x4b564d04u

#define LABEL(name) #name ": .globl " #name "\n\t"
extern const char sti_first[], sti_second[], ss_third[], after_popf[], iret_to[], after_hlt[], after_sti_hlt[],
    spin_here[];
CODE(spin, "sti\n1: .globl spin_here; spin_here: jmp 1b");
CODE(sti_nop, "sti\n" LABEL(sti_first) "nop\n" LABEL(sti_second) "nop");
CODE(sti_cli, "sti; cli; nop");
CODE(sti_sti, "sti; sti; nop; nop");
CODE(sti_ss, "sti; mov %edx, %ss; nop\n" LABEL(ss_third) "nop");
CODE(popf_if, "popfq\n" LABEL(after_popf) "nop");
CODE(iret_if, "iretq\n" LABEL(iret_to) "nop");
CODE(hlt_code, "hlt\n" LABEL(after_hlt) "nop");
CODE(sti_hlt, "sti; hlt\n" LABEL(after_sti_hlt) "nop");
CODE(nothing, "nop; nop");
CODE(set_cr8, "mov %rax, %cr8");
CODE(get_msr, "rdmsr");
CODE(set_msr, "wrmsr");

static uint32_t apic(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC + reg);
}

static void apic_set(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(LAPIC + reg) = value;
}

static bool apic_bit(unsigned bank, unsigned vector)
{
    return apic(bank + 16 * (vector / 32)) >> vector % 32 & 1;
}

static uint32_t ioapic(unsigned reg)
{
    *(volatile uint32_t *)IOAPIC = reg;
    return *(volatile uint32_t *)(IOAPIC + 16);
}

static void ioapic_set(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)IOAPIC = reg;
    *(volatile uint32_t *)(IOAPIC + 16) = value;
}

static void self_ipi(unsigned vector)
{
    apic_set(ICR_LOW, ICR_SELF | ICR_ASSERT | vector);
}

static void pic_init(uint8_t mask_master, uint8_t mask_slave)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } script[] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1}, {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 1}};
    for (unsigned i = 0; i < ARRAY_LEN(script); i++)
        outb(script[i].port, script[i].value);
    outb(0x21, mask_master);
    outb(0xa1, mask_slave);
}

static uint8_t pic_irr(uint16_t port)
{
    outb(port, 0x0a);
    return inb(port);
}

static uint8_t pic_isr(uint16_t port)
{
    outb(port, 0x0b);
    return inb(port);
}

/* One interrupt 0 soon, which stays requested. */
static void pit_one_shot_of(unsigned ticks)
{
    outb(0x43, 0x30); /* channel 0, mode 0 */
    outb(0x40, ticks & 0xff);
    outb(0x40, ticks >> 8);
}

static void pit_one_shot(void)
{
    pit_one_shot_of(100);
}

static void pit_pending(void)
{
    pit_one_shot();
    while (!(pic_irr(0x20) & 1))
        ;
}

static void ok_at(const struct trap *t, word vector, const char *ip, const char *what)
{
    ok_trap(t, vector, NO_ERROR, ip, "%s", what);
}

static void test_pic(void)
{
    pic_init(0xfe, 0xff);
    pit_pending();
    struct trap t = run_kernel(nothing);
    ok_done(&t, nothing_end, "an interrupt waits while IF is clear");
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x20, nothing, "IRET that sets IF: the interrupt comes at its target");
    ok((t.regs.flags & FL_IF) && !(t.handler_flags & FL_IF) && !(t.regs.flags & FL_RF), "... flags");
    ok_equal(pic_isr(0x20), 1, "... is in service");
    pit_pending();
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "the next one waits for EOI");
    outb(0x20, 0x20);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x20, nothing, "... and comes then");
    outb(0x20, 0x20);
    pit_pending();
    outb(0x21, 0xff);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "a masked one does not come");
    outb(0x21, 0xfe);
    t = run_user(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x20, (const char *)USER(nothing), "an interrupt of level 3");
    ok(t.frame == (word)trap_stack_top - 40, "... on the stack of level 0");
    outb(0x20, 0x20);

    outb(0x43, 0x34); /* mode 2: periodic */
    outb(0x40, 0xe8);
    outb(0x40, 3);
    unsigned ticks = 0;
    while (ticks < 5) {
        t = run_kernel(spin);
        if (t.vector != 0x20 || t.regs.ip != (word)spin_here)
            break;
        outb(0x20, 0x20);
        ticks++;
    }
    ok_equal(ticks, 5, "five ticks of the PIT");
    outb(0x43, 0x30);
    outb(0x21, 0xfb);
    outb(0xa1, 0xfe);
    outb(0x70, 0x0b); /* RTC: periodic interrupt */
    uint8_t b = inb(0x71);
    outb(0x70, 0x0b);
    outb(0x71, b | 0x40);
    outb(0x70, 0x0c);
    inb(0x71);
    t = run_kernel(spin);
    ok_at(&t, 0x28, spin_here, "the RTC's periodic interrupt through the second 8259");
    ok(pic_isr(0x20) == 4 && pic_isr(0xa0) == 1, "... both are in service");
    outb(0x70, 0x0c);
    uint8_t c = inb(0x71);
    if (c == 0) { /* the request was from before the first read of C */
        outb(0xa0, 0x20);
        outb(0x20, 0x20);
        run_kernel(spin);
        c = inb(0x71);
    }
    ok_equal(c & 0xc0, 0xc0, "... register C says so");
    outb(0x70, 0x0b);
    outb(0x71, b);
    outb(0x70, 0x0c);
    inb(0x71);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    pic_init(0xfe, 0xff);
}

static void test_shadows(void)
{
    pit_pending();
    struct trap t = run_kernel(sti_nop);
    ok_at(&t, 0x20, sti_second, "STI: the interrupt comes after the next instruction");
    outb(0x20, 0x20);
    pit_pending();
    t = run_kernel(sti_cli);
    ok_done(&t, sti_cli_end, "STI, CLI: it does not come");
    t = run_kernel(sti_sti);
    ok(t.vector == 0x20 && t.regs.ip == (word)sti_sti + 2, "STI with IF set has no shadow");
    outb(0x20, 0x20);
    pit_pending();
    t = run_kernel(sti_nop, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x20, sti_nop, "with IF set it comes at once");
    outb(0x20, 0x20);
    pit_pending();
    t = run_kernel(sti_ss, .dx = SEL_KDATA);
    ok(t.vector == 0x20 && (t.regs.ip == (word)ss_third || t.regs.ip == (word)ss_third - 1),
       "STI, MOV SS: not before the instruction behind MOV SS");
    ok_equal(t.regs.ip, (word)ss_third, "... and that one is covered");
    outb(0x20, 0x20);
    pit_pending();
    word *stack = STACK(FL_1 | FL_IF, 0);
    t = run_kernel(popf_if, .sp = (word)stack + 0);
    ok_at(&t, 0x20, after_popf, "POPF that sets IF: at once");
    outb(0x20, 0x20);
    pit_pending();
    word *frame = STACK((word)iret_to, SEL_KCODE, FL_1 | FL_IF, (word)kernel_stack_top, SEL_KDATA);
    t = run_kernel(iret_if, .sp = (word)frame);
    ok_at(&t, 0x20, iret_to, "IRET that sets IF: at once");
    outb(0x20, 0x20);
    pit_pending();
    t = run_kernel(sti_hlt);
    ok_at(&t, 0x20, after_sti_hlt, "STI, HLT with one pending: HLT ends at once");
    outb(0x20, 0x20);
    pit_one_shot();
    t = run_kernel(hlt_code, .flags = FL_1 | FL_IF);
    ok(t.vector == 0x20 && (t.regs.ip == (word)after_hlt || t.regs.ip == (word)hlt_code), "HLT waits for it");
    outb(0x20, 0x20);
    outb(0x21, 0xff);
}

static void send_nmi(void)
{
    apic_set(ICR_HIGH, apic(LAPIC_ID));
    apic_set(ICR_LOW, ICR_NMI | ICR_ASSERT);
}

CODE(nmi_hlt, "movl $0x4400, (%rdi); hlt; nop");
CODE(nmi_store, "movl $0x4400, (%rdi); nop; nop; nop");
CODE(nmi_twice, "movl $0x4400, (%rdi); movl $0x4400, (%rdi); nop; nop; nop");

static void test_nmi(void)
{
    apic_set(ICR_HIGH, apic(LAPIC_ID));
    struct trap t = run_kernel(nmi_store, .di = LAPIC + ICR_LOW);
    ok(t.vector == NMI && !t.has_error, "an NMI needs no IF");
    send_nmi();
    ok(true, "a second one is blocked: no IRET since the first");
    t = run_kernel(nothing);
    ok_at(&t, NMI, nothing, "IRET unblocks it");
    t = run_kernel(nothing);
    ok_done(&t, nothing_end, "there is only one");
    t = run_kernel(nmi_twice, .di = LAPIC + ICR_LOW);
    ok(t.vector == NMI, "another one");
    send_nmi();
    send_nmi();
    t = run_kernel(nothing);
    ok_at(&t, NMI, nothing, "two while blocked");
    t = run_kernel(nothing);
    ok_done(&t, nothing_end, "... are one");
    apic_set(ICR_HIGH, apic(LAPIC_ID));
    t = run_kernel(nmi_hlt, .di = LAPIC + ICR_LOW);
    ok(t.vector == NMI, "... also before HLT");
    run_kernel(nothing); /* unblocks */
}

static void test_lapic(void)
{
    apic_set(SVR, 0x1ff);
    ok_equal(apic(LAPIC_VERSION) & 0xf0, 0x10, "the local APIC is integrated");
    self_ipi(0x51);
    ok(apic_bit(IRR, 0x51) && !apic_bit(ISR, 0x51), "a self-IPI is requested");
    struct trap t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x51, nothing, "... delivered");
    ok(!apic_bit(IRR, 0x51) && apic_bit(ISR, 0x51) && !apic_bit(TMR, 0x51), "... in service, edge");
    ok_equal(apic(PPR), 0x50, "... PPR");
    self_ipi(0x5f);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "the same class waits");
    self_ipi(0x61);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x61, nothing, "a higher class does not");
    ok_equal(apic(PPR), 0x60, "... PPR");
    apic_set(EOI, 0);
    ok(!apic_bit(ISR, 0x61) && apic_bit(ISR, 0x51) && apic(PPR) == 0x50, "EOI ends the highest");
    apic_set(EOI, 0);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x5f, nothing, "the one that waited comes");
    apic_set(EOI, 0);

    apic_set(TPR, 0x5a);
    ok_equal(cr8_get(), 5, "CR8 is TPR[7:4]");
    self_ipi(0x52);
    self_ipi(0x5e);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "the task priority holds them back");
    ok_equal(apic(PPR), 0x5a, "... PPR is TPR");
    cr8_set(4);
    ok_equal(apic(TPR), 0x40, "MOV to CR8 sets TPR");
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x5e, nothing, "a lower CR8 lets the higher one come");
    apic_set(EOI, 0);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x52, nothing, "... then the lower one");
    apic_set(EOI, 0);
    cr8_set(0);
    t = run_kernel(set_cr8, .ax = 16);
    ok_trap(&t, GP, 0, set_cr8, "CR8 above 15: #GP(0)");
    t = run_user(set_cr8);
    ok_trap(&t, GP, 0, (void *)USER(set_cr8), "MOV to CR8 at level 3: #GP(0)");
    apic_set(ESR, 0);
    self_ipi(5);
    apic_set(ESR, 0);
    ok(apic(ESR) & 0x60, "an illegal vector is an error");
    apic_set(ESR, 0);
    apic_set(ESR, 0);
    ok_equal(apic(ESR), 0, "... until ESR is written");
    apic_set(LDR, 0x02000000);
    apic_set(DFR, 0xffffffff);
    apic_set(ICR_HIGH, 0x03000000);
    apic_set(ICR_LOW, 0x800 | ICR_ASSERT | 0x53);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x53, nothing, "a message to a logical destination");
    apic_set(EOI, 0);
    apic_set(SVR, 0x0ff);
    ok(apic(LVT_TIMER) & LVT_MASKED, "switching off by software masks the LVT");
    apic_set(SVR, 0x1ff);
}

static void test_timer(void)
{
    apic_set(TIMER_DIVIDE, 0xb); /* by 1 */
    apic_set(LVT_TIMER, 0x55);
    apic_set(TIMER_INITIAL, 20000);
    struct trap t = run_kernel(spin);
    ok_at(&t, 0x55, spin_here, "the timer, one-shot");
    apic_set(EOI, 0);
    ok_equal(apic(TIMER_CURRENT), 0, "... stays at 0");
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "... and quiet");
    apic_set(TIMER_INITIAL, 0xffffffff);
    uint32_t a = apic(TIMER_CURRENT), b;
    do
        b = apic(TIMER_CURRENT);
    while (b == a);
    ok(b < a, "it counts down");
    apic_set(LVT_TIMER, 0x20055); /* periodic */
    apic_set(TIMER_INITIAL, 50000);
    unsigned n = 0;
    for (; n < 5; n++) {
        t = run_kernel(spin);
        if (t.vector != 0x55)
            break;
        apic_set(EOI, 0);
    }
    ok_equal(n, 5, "the timer, periodic");
    apic_set(TIMER_INITIAL, 0);
    apic_set(LVT_TIMER, LVT_MASKED | 0x55);
    if (run_kernel(nothing, .flags = FL_1 | FL_IF).vector == 0x55) /* one tick more */
        apic_set(EOI, 0);
    apic_set(TIMER_INITIAL, 100);
    while (apic(TIMER_CURRENT) != 0)
        ;
    ok(!apic_bit(IRR, 0x55), "masked, it requests nothing");
    if (!cpu_has_1_ecx(F1_TSC_DEADLINE)) {
        skip("no TSC deadline");
        return;
    }
    apic_set(LVT_TIMER, 0x40055);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000);
    uint64_t deadline = rdmsr(MSR_TSC_DEADLINE);
    t = run_kernel(spin);
    ok_at(&t, 0x55, spin_here, "the timer, TSC deadline");
    ok(rdtsc() >= deadline, "... not early");
    ok_equal(rdmsr(MSR_TSC_DEADLINE), 0, "... and the MSR is 0 again");
    apic_set(EOI, 0);
    wrmsr(MSR_TSC_DEADLINE, 1);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x55, nothing, "a deadline in the past");
    apic_set(EOI, 0);
    apic_set(LVT_TIMER, 0x55);
    wrmsr(MSR_TSC_DEADLINE, 1);
    ok_equal(rdmsr(MSR_TSC_DEADLINE), 0, "in other modes the MSR does nothing");
    /* HLT until the timer: time passes while halted. */
    apic_set(LVT_TIMER, 0x55);
    apic_set(TIMER_INITIAL, 1000000);
    t = run_kernel(sti_hlt);
    ok_at(&t, 0x55, after_sti_hlt, "HLT until the timer");
    apic_set(EOI, 0);
    apic_set(LVT_TIMER, LVT_MASKED);
}

static void test_ioapic(void)
{
    ok((ioapic(1) >> 16 & 0xff) == 23, "the I/O APIC has 24 pins");
    ok(ioapic(0x10 + 2 * 2) & 0x10000, "pins start masked");
    uint32_t id = apic(LAPIC_ID);
    ioapic_set(0x10 + 2 * 2 + 1, id);
    ioapic_set(0x10 + 2 * 2, 0x62);
    pit_one_shot();
    struct trap t = run_kernel(spin);
    ok_at(&t, 0x62, spin_here, "the PIT through pin 2");
    ok(!apic_bit(TMR, 0x62), "... edge");
    apic_set(EOI, 0);
    ioapic_set(0x10 + 2 * 2, 0x10000);

    /* COM1 at pin 4, level: "transmitter empty" holds the line until IIR is read. */
    ioapic_set(0x10 + 2 * 4 + 1, id);
    ioapic_set(0x10 + 2 * 4, 0x8064);
    outb(0x3fc, 0x08); /* OUT2 */
    outb(0x3f9, 0x02); /* THRE */
    t = run_kernel(spin);
    ok_at(&t, 0x64, spin_here, "COM1 through pin 4, level");
    ok(apic_bit(TMR, 0x64) && (ioapic(0x10 + 2 * 4) & 0x4000), "... TMR and Remote IRR are set");
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "... not again before EOI");
    apic_set(EOI, 0);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x64, nothing, "EOI while the line is high: again");
    ok_equal(inb(0x3fa) & 0xf, 2, "reading IIR lowers the line");
    apic_set(EOI, 0);
    ok(!(ioapic(0x10 + 2 * 4) & 0x4000), "EOI clears Remote IRR");
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "... and it does not come again");
    outb(0x3f9, 0);
    ioapic_set(0x10 + 2 * 4, 0x10000);
    /* Delivered as NMI. */
    ioapic_set(0x10 + 2 * 2, 0x400);
    pit_one_shot_of(60000); /* 50 ms: not before the snippet runs, however busy the host is */
    t = run_kernel(spin);
    ok(t.vector == NMI, "a pin that delivers NMI");
    ioapic_set(0x10 + 2 * 2, 0x10000);
    /* ExtINT: the 8259 behind pin 0 is not wired; LINT0 is. Masked there, nothing comes. */
    outb(0x21, 0xfe);
    apic_set(LVT_LINT0, 0x10700);
    pit_pending();
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_done(&t, nothing_end, "LINT0 masked: the 8259 is not heard");
    apic_set(LVT_LINT0, 0x700);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x20, nothing, "LINT0 open: it is");
    ok(!apic_bit(ISR, 0x20), "... past the local APIC's registers");
    outb(0x20, 0x20);
    outb(0x21, 0xff);
}

static void test_pv_eoi(void)
{
    struct cpuid id = cpuid(0x40000000, 0);
    if (id.ebx != 0x4b4d564b || !(cpuid(0x40000001, 0).eax >> 6 & 1)) {
        skip("no paravirtual EOI");
        return;
    }
    static volatile uint32_t flag __attribute__((aligned(4)));
    wrmsr(MSR_PV_EOI, (word)&flag | 1);
    self_ipi(0x71);
    struct trap t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x71, nothing, "an interrupt with the paravirtual EOI");
    ok_equal(flag, 1, "... may be ended in memory");
    uint32_t old = 1;
    ASM("btrl $0, %0" : "+m"(flag)::"memory");
    self_ipi(0x71);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x71, nothing, "... which is as good as EOI");
    apic_set(EOI, 0);
    ok(!apic_bit(ISR, 0x71) && old, "the real EOI works, too");
    wrmsr(MSR_PV_EOI, 0);
    flag = 0;
    self_ipi(0x71);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok(t.vector == 0x71 && flag == 0, "switched off, memory is left alone");
    apic_set(EOI, 0);
}

static void test_x2apic(void)
{
    if (!cpu_has_1_ecx(F1_X2APIC)) {
        skip("no x2APIC");
        return;
    }
    uint64_t base = rdmsr(MSR_APIC_BASE);
    ok((base & ~0xfffull) == LAPIC && (base & 0x100) && (base & APIC_BASE_ENABLE),
       "IA32_APIC_BASE: where, and the first");
    struct trap t = run_kernel(get_msr, .cx = MSR_X2APIC + 2);
    ok_trap(&t, GP, 0, get_msr, "x2APIC registers in xAPIC mode: #GP(0)");
    uint64_t wrong = (base & ~APIC_BASE_ENABLE) | APIC_BASE_X2;
    t = run_kernel(set_msr, .cx = MSR_APIC_BASE, .ax = (uint32_t)wrong, .dx = wrong >> 32);
    ok_trap(&t, GP, 0, set_msr, "EXTD without EN: #GP(0)");
    wrmsr(MSR_APIC_BASE, base | APIC_BASE_X2);
    ok_equal(rdmsr(MSR_X2APIC + 2), cpuid(1, 0).ebx >> 24, "x2APIC: the ID");
    uint32_t x2id = (uint32_t)rdmsr(MSR_X2APIC + 2);
    ok_equal(rdmsr(MSR_X2APIC + 0xd), (x2id >> 4) << 16 | 1u << (x2id & 15), "... the logical ID follows from it");
    wrmsr(MSR_X2APIC + 0x3f, 0x73);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x73, nothing, "SELF IPI");
    wrmsr(MSR_X2APIC + 0xb, 0);
    wrmsr(MSR_X2APIC + 0x30, (uint64_t)x2id << 32 | ICR_ASSERT | 0x74);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x74, nothing, "ICR as one MSR");
    wrmsr(MSR_X2APIC + 0xb, 0);
    static const struct {
        uint32_t msr;
        uint64_t value;
        const char *what;
    } bad[] = {{0x802, 0, "the ID"},
               {0x80e, 0, "DFR, which is not there"},
               {0x831, 0, "ICR's upper half"},
               {0x80b, 1, "EOI with a value"},
               {0x83f, 0x100, "SELF IPI beyond a vector"},
               {0x808, 0x100, "TPR beyond 8 bits"},
               {0x832, 1ull << 32, "the LVT beyond 32 bits"}};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        t = run_kernel(set_msr, .cx = bad[i].msr, .ax = (uint32_t)bad[i].value, .dx = bad[i].value >> 32);
        ok_trap(&t, GP, 0, set_msr, "x2APIC: writing %s: #GP(0)", bad[i].what);
    }
    t = run_kernel(get_msr, .cx = 0x80b);
    ok_trap(&t, GP, 0, get_msr, "x2APIC: reading EOI: #GP(0)");
    t = run_kernel(set_msr, .cx = MSR_APIC_BASE, .ax = (uint32_t)base, .dx = base >> 32);
    ok_trap(&t, GP, 0, set_msr, "x2APIC cannot become xAPIC directly: #GP(0)");
    wrmsr(MSR_APIC_BASE, base & ~(APIC_BASE_ENABLE | APIC_BASE_X2));
    ok(!(cpuid(1, 0).edx >> 9 & 1), "switched off, CPUID has no APIC");
    wrmsr(MSR_APIC_BASE, base);
    ok(cpuid(1, 0).edx >> 9 & 1, "... and on again");
    apic_set(SVR, 0x1ff);
    self_ipi(0x75);
    t = run_kernel(nothing, .flags = FL_1 | FL_IF);
    ok_at(&t, 0x75, nothing, "back in xAPIC mode");
    apic_set(EOI, 0);
    /* Another address. */
    wrmsr(MSR_APIC_BASE, (base & 0xfff) | 0xfed80000);
    ok_equal(*(volatile uint32_t *)(0xfed80000 + SVR), 0x1ff, "the registers can be moved");
    wrmsr(MSR_APIC_BASE, base);
    ok_equal(apic(SVR), 0x1ff, "... and back");
}

void test_main(void)
{
    apic_set(SVR, 0x1ff);
    test_pic();
    test_shadows();
    test_nmi();
    test_lapic();
    test_timer();
    test_ioapic();
    test_pv_eoi();
    test_x2apic();
}
