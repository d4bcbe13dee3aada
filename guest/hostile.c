/* Junk: random bytes executed at every level and in every mode that can be reached, with random registers, segments,
 * page tables, control registers, debug registers and ports. It ends with a debug exit after a number of rounds, or in
 * any other way that a machine can end; the monitor itself must neither crash nor hang.
 *
 *     --append "seed=N rounds=N wild=N": with `wild`, one round in N also breaks the tables that keep this program
 * alive
 *
 * Loops and halts are left by an NMI that the PIT sends every millisecond through the I/O APIC. The same seed makes the
 * same run under --clock instructions. */
#include "guest.h"

#define AREA 0x8000000000ul
#define CODE_BYTES 64u
#define IOAPIC 0xfec00000ul

static uint64_t random_state;

static uint64_t random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1dull;
}

static bool one_in(unsigned n)
{
    return random64() % n == 0;
}

static uint64_t argument(const char *name, uint64_t otherwise)
{
    const char *at = strstr(guest_arguments, name);
    if (at == NULL)
        return otherwise;
    uint64_t value = 0;
    for (at += strlen(name); *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

static uint8_t *arena; /* random data, code; for all levels, at AREA and USER_WINDOW, too */
#define ARENA_BYTES (64 * PAGE)

/* A value that means something more often than not. */
static word interesting(void)
{
    static const word some[] = {0,          1,          0x7f,           0x80,           0xff,
                                0xfff,      0x1000,     0xffff,         0x10000,        0x7fffffff,
                                0x80000000, 0xffffffff, 0x7fffffffffff, 0x800000000000, 0xffff800000000000,
                                ~0ul,       0xfee00000, 0xfec00000,     AREA,           0xc0000080,
                                0x10,       0x277,      0x1b,           0x6e0,          0x80b,
                                0x4b564d01, 0xcf8,      0x3f8,          0x70,           0x60};
    switch (random64() % 6) {
    case 0:
        return random64();
    case 1:
        return some[random64() % ARRAY_LEN(some)] + random64() % 3 - 1;
    case 2:
        return (word)arena + random64() % ARENA_BYTES;
    case 3:
        return USER(arena) + random64() % ARENA_BYTES;
    case 4:
        return AREA + random64() % (64 * PAGE);
    default:
        return random64() & 0xffff;
    }
}

/* Bytes that decode to system instructions more often than chance would have it. */
static void junk(uint8_t *at)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x64, 0x65, 0x48, 0x41, 0x4f};
    static const uint8_t one[] = {0xcf, 0xca, 0xcb, 0xcc, 0xce, 0xf1, 0xfa, 0xfb, 0xf4, 0x8e, 0x8c, 0xff,
                                  0x9a, 0xea, 0x6c, 0x6e, 0xa4, 0xa5, 0xaa, 0xec, 0xee, 0xd9, 0xdb, 0xdd,
                                  0xdf, 0x9b, 0x9c, 0x9d, 0xc8, 0xc9, 0x62, 0x63, 0xc4, 0xc5, 0x8f, 0x0f};
    static const uint8_t two[] = {0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x20, 0x21, 0x22,
                                  0x23, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0xa2, 0xae, 0xb1, 0xc7, 0x38,
                                  0x3a, 0x6f, 0x7f, 0xb2, 0xb4, 0xb5, 0x0b, 0x0d, 0x18, 0x1f, 0x77};
    for (unsigned n = 0; n < CODE_BYTES;) {
        at[n++] = (uint8_t)random64();
        if (one_in(2)) {
            if (one_in(3) && n < CODE_BYTES)
                at[n++] = prefixes[random64() % sizeof prefixes];
            if (n + 3 < CODE_BYTES) {
                if (one_in(2)) {
                    at[n++] = 0x0f;
                    at[n++] = two[random64() % sizeof two];
                } else {
                    at[n++] = one[random64() % sizeof one];
                }
                at[n++] = (uint8_t)random64();
            }
        }
    }
}

/* The watchdog's NMI is for snippets only; so is #DB, which a snippet may have left enabled. */
extern const char nmi_entry[], debug_entry[];
__asm__(".text\nnmi_entry: cmpl $0, run_active; jne trap_stubs + 32; iretq\n"
        "debug_entry: cmpl $0, run_active; jne trap_stubs + 16; andl $~0x100, 16(%rsp); iretq\n");

/* What this program needs to stay in charge. */
static void repair(void)
{
    cr0_set((cr0_get() | CR0_NE) & ~(CR0_WP | CR0_TS | CR0_EM | CR0_AM));
    dr7_set(0x400);
    wrmsr(0xc0000080, EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE);
    for (unsigned vector = 0; vector < 256; vector++)
        if (vector != NMI && vector != DB)
            idt_default(vector);
    idt_set(DB, &(struct gate_spec){.offset = (word)debug_entry, .selector = SEL_KCODE, .type = 0xe, .ist = 3});
    idt_set(NMI, &(struct gate_spec){.offset = (word)nmi_entry, .selector = SEL_KCODE, .type = 0xe, .ist = 2});
    idt_set(DF,
            &(struct gate_spec){.offset = (word)trap_stubs + 16 * DF, .selector = SEL_KCODE, .type = 0xe, .ist = 1});
    for (unsigned vector = 10; vector <= 17; vector++)
        idt_set(vector, &(struct gate_spec){
                            .offset = (word)trap_stubs + 16 * vector, .selector = SEL_KCODE, .type = 0xe, .ist = 3});
    gdt_load();
    idt_load(IDT_LIMIT);
    tss_set_sp0((word)trap_stack_top);
}

static void randomize_tables(void)
{
    static const unsigned flags[] = {0xa, 0xc, 0x4, 0x0, 0x2, 0xf};
    for (unsigned n = 0; n < 16; n++)
        gdt_put(n, one_in(2) ? random64()
                             : descriptor(one_in(2) ? 0 : random64() & 0xffffffff, (uint32_t)random64() & 0xfffff,
                                          (unsigned)random64() & 0xff, flags[random64() % ARRAY_LEN(flags)]));
    for (unsigned n = 0; n < 8; n++) {
        unsigned vector = 0x20 + (unsigned)(random64() % 0x60);
        idt[2 * vector] = random64();
        idt[2 * vector + 1] = one_in(2) ? 0 : random64();
    }
    for (unsigned n = 0; n < 16; n++) {
        unsigned level = 1 + (unsigned)(random64() % 3);
        uint64_t entry = ((word)arena + (random64() % 64) * PAGE) | (random64() & 0x1ff);
        if (one_in(8))
            entry |= random64() & 0xfff0000000000000;
        *pte(AREA + (random64() % 64) * PAGE, 1) = entry;
        if (level > 1 && one_in(6))
            *pte(AREA + (word)level * 2 * MiB, 2) = entry;
    }
    word flush = cr3_get();
    cr3_set(flush);
    static const uint64_t cr4_bits[] = {CR4_DE,   CR4_PGE,      CR4_OSFXSR, CR4_OSXMMEXCPT,
                                        CR4_UMIP, CR4_FSGSBASE, CR4_TSD,    CR4_PCE};
    word cr4 = CR4_PAE;
    for (unsigned i = 0; i < ARRAY_LEN(cr4_bits); i++)
        if (one_in(2))
            cr4 |= cr4_bits[i];
    if (cpu_has_1_ecx(F1_XSAVE) && one_in(2))
        cr4 |= CR4_OSXSAVE;
    struct cpuid seven = cpuid(7, 0);
    if (!(seven.ecx >> 2 & 1))
        cr4 &= ~CR4_UMIP;
    if (!(seven.ebx & 1))
        cr4 &= ~CR4_FSGSBASE;
    cr4_set(cr4);
    if (one_in(3)) {
        dr0_set(interesting());
        dr1_set((word)arena + random64() % ARENA_BYTES);
    }
}

static uint16_t selector(unsigned level)
{
    static const uint16_t some[] = {0, SEL_KDATA, SEL_UDATA, SEL_KDATA16, SEL_TSS};
    return (uint16_t)((one_in(2) ? some[random64() % ARRAY_LEN(some)] : SEL_FREE + 8 * (random64() % 16)) | level);
}

static struct regs randomize_regs(uint8_t *code)
{
    bool user = !one_in(4);
    struct regs r = user ? REGS_USER(code) : REGS_KERNEL(code);
    word *gpr = &r.ax;
    for (unsigned i = 0; i < 16; i++)
        if (i != 4)
            gpr[i] = interesting();
    if (one_in(4))
        r.sp = interesting();
    if (!user && one_in(3)) {
        r.cs = one_in(2) ? SEL_KCODE32 : SEL_KCODE16;
        if (r.cs == SEL_KCODE16) {
            r.ip = 0x50000 + ((word)code & 0xfff); /* beyond its limit: it faults, or wraps */
            r.ip &= 0xffff;
        }
    }
    if (one_in(4))
        r.ds = selector(user ? 3 : 0);
    if (one_in(4))
        r.es = selector(user ? 3 : 0);
    r.flags = FL_1 | (random64() & (FL_CF | FL_ZF | FL_DF | FL_OF | FL_AC | FL_ID));
    if (one_in(8))
        r.flags |= FL_TF;
    if (one_in(8))
        r.flags |= FL_RF;
    if (one_in(3))
        r.flags |= FL_IF;
    if (one_in(4))
        r.flags |= FL_IOPL;
    return r;
}

static void watchdog_init(void)
{
    *(volatile uint32_t *)0xfee000f0 = 0x1ff;
    *(volatile uint32_t *)IOAPIC = 0x10 + 2 * 2 + 1;
    *(volatile uint32_t *)(IOAPIC + 16) = *(volatile uint32_t *)0xfee00020;
    *(volatile uint32_t *)IOAPIC = 0x10 + 2 * 2;
    *(volatile uint32_t *)(IOAPIC + 16) = 0x400; /* NMI, edge */
    outb(0x43, 0x34);
    outb(0x40, 1193 & 0xff);
    outb(0x40, 1193 >> 8);
}

/* Breaks what keeps the program alive. */
static void go_wild(void)
{
    switch (random64() % 5) {
    case 0:
        memset(idt, (int)random64(), 0x200);
        break;
    case 1:
        gdt[random64() % 12] = random64();
        break;
    case 2:
        *(uint64_t *)(cr3_get() & ~0xffful) = random64();
        break;
    case 3:
        tss_set_sp0(random64());
        break;
    default:
        idt_load(random64() & 0xfff);
        break;
    }
}

void test_main(void)
{
    random_state = argument("seed=", 1) * 0x9e3779b97f4a7c15ull + 1;
    uint64_t rounds = argument("rounds=", 1000), wild = argument("wild=", 0);
    arena = page_alloc(64);
    for (word i = 0; i < ARENA_BYTES; i += 8)
        *(uint64_t *)(arena + i) = random64();
    for (unsigned n = 1; n <= 3; n++) {
        word top = (word)page_alloc(2) + 2 * PAGE;
        memcpy(tss + 0x24 + 8 * (n - 1), &top, sizeof top);
    }
    repair();
    watchdog_init();
    for (uint64_t n = 0; n < rounds; n++) {
        repair();
        if (one_in(4))
            randomize_tables();
        uint8_t *code = arena + random64() % (ARENA_BYTES - CODE_BYTES);
        junk(code);
        struct regs r = randomize_regs(code);
        if (wild != 0 && one_in((unsigned)wild))
            go_wild();
        struct trap t = run(&r);
        /* Goes on a little behind some of the faults. */
        for (unsigned k = 0; k < 4 && t.vector != NMI && t.vector != DF; k++) {
            t.regs.ip += 1 + random64() % 3;
            t.regs.flags &= ~FL_VM;
            t.regs.fs = t.regs.gs = 0;
            bool in_junk = t.regs.ip - (word)arena < ARENA_BYTES || t.regs.ip - USER(arena) < ARENA_BYTES;
            if (!in_junk || ((t.regs.cs & 3) == 0 && t.regs.cs != SEL_KCODE))
                break;
            t = run(&t.regs);
        }
    }
    ok(true, "%u rounds", (unsigned)rounds);
}
