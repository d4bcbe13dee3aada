/* The x87 and SSE as an operating system sees them: which instruction raises #NM or #UD under which bits of CR0, CR4
 * and XCR0; #MF, interrupt 13 and #XM; the images of FNSTENV, FNSAVE, FXSAVE and XSAVE; alignment.
 *
 * What the instructions compute is tested against the host's processor elsewhere. SDM vol. 1, chapters 8, 10, 13; vol.
 * 3, 2.5 and chapter 13. */
#include "guest.h"

#define CR0_BITS (CR0_MP | CR0_EM | CR0_TS | CR0_NE)
#define LABEL(name) #name ": .globl " #name "\n\t"
extern const char mf_wait[], fip_here[];

CODE(x87, "fnclex");
CODE(wait_code, "fwait");
CODE(mmx, "pxor %mm0, %mm0");
CODE(sse, "xorps %xmm0, %xmm0");
CODE(sse2, "pxor %xmm0, %xmm0");
CODE(fxsave, "fxsave (%edi)");
CODE(fxrstor, "fxrstor (%edi)");
CODE(ldmxcsr, "ldmxcsr (%edi)");
CODE(sfence, "sfence");
CODE(prefetch, "prefetcht0 (%edi)");
CODE(movnti, "movnti %eax, (%edi)");
CODE(xsave, "xsave (%edi)");
CODE(xrstor, "xrstor (%edi)");
CODE(xgetbv, "xgetbv");
CODE(xsetbv, "xsetbv");
CODE(avx, "vxorps %ymm0, %ymm0, %ymm0");
CODE(movaps, "movaps (%edi), %xmm0");
CODE(movups, "movups (%edi), %xmm0");
CODE(paddd, "paddd (%edi), %xmm0");
CODE(fldl, "fldl (%edi)");
CODE(fninit, "fninit; fnclex");
CODE(divide_by_zero, "fninit; fldcw (%edi); fld1; fldz; fdivrp\n nop; " LABEL(mf_wait) "fwait");
CODE(divide_no_wait, "fninit; fldcw (%edi); fld1; fldz; fdivrp; fnstsw %ax; fnclex; fwait");
CODE(fld1_code, "fld1");
CODE(sse_divide, "ldmxcsr (%edi); xorps %xmm0, %xmm0; pcmpeqd %xmm1, %xmm1; psrld $25, %xmm1; pslld $23, %xmm1\n"
                 ".globl sse_div_here; sse_div_here: divps %xmm0, %xmm1");
extern const char sse_div_here[];
CODE(env32, "fninit; " LABEL(fip_here) "fld1; fnstenv (%edi)");
CODE(env16, "fninit; fld1; data16 fnstenv (%edi)");
CODE(save32, "fninit; fldpi; fnsave (%edi); fnstcw 120(%edi); fnstsw 122(%edi)");
CODE(save16, "fninit; fldpi; data16 fnsave (%edi)");
CODE(image, "fninit; fldpi; fld1; xorps %xmm0, %xmm0; pcmpeqd %xmm1, %xmm1; fxsave (%edi)");

static uint8_t area[4096] __attribute__((aligned(4096)));

static void bits(word cr0, word cr4)
{
    cr0_set((cr0_get() & ~CR0_BITS) | cr0 | CR0_NE);
    cr4_set((cr4_get() & ~(CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE)) | cr4);
}

/* For each instruction the vector under every combination of EM, TS and MP; DONE if it runs. */
static void test_matrix(void)
{
    static const struct {
        const char *code, *name;
        /* EM alone, TS alone, both */
        word em, ts, both, no_osfxsr;
    } forms[] = {
        {x87, "x87", NM, NM, NM, DONE},
        {mmx, "MMX", UD, NM, UD, DONE},
        {sse, "SSE", UD, NM, UD, UD},
        {sse2, "SSE2", UD, NM, UD, UD},
        {fxsave, "FXSAVE", NM, NM, NM, DONE},
        {fxrstor, "FXRSTOR", NM, NM, NM, DONE},
        {ldmxcsr, "LDMXCSR", UD, NM, UD, UD},
        {sfence, "SFENCE", DONE, DONE, DONE, DONE},
        {movnti, "MOVNTI", DONE, DONE, DONE, DONE},
        {prefetch, "PREFETCH", DONE, DONE, DONE, DONE},
    };
    bits(0, CR4_OSFXSR);
    run_kernel(fninit);
    run_kernel(fxsave, .di = (word)area);
    *(uint32_t *)(area + 512) = 0x1f80;
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        word di = forms[i].code == ldmxcsr || forms[i].code == movnti ? (word)area + 512 : (word)area;
        word ax = 0x1f80, got[4];
        static const word cr0[] = {CR0_EM, CR0_TS, CR0_EM | CR0_TS, 0};
        for (unsigned k = 0; k < 4; k++) {
            bits(cr0[k], k == 3 ? 0 : CR4_OSFXSR);
            got[k] = run_kernel(forms[i].code, .di = di, .ax = ax).vector;
        }
        bool passed =
            got[0] == forms[i].em && got[1] == forms[i].ts && got[2] == forms[i].both && got[3] == forms[i].no_osfxsr;
        if (!ok(passed, "%s with EM, TS, both, and without OSFXSR", forms[i].name))
            note("vectors %lu %lu %lu %lu", got[0], got[1], got[2], got[3]);
    }
    bool all = true;
    for (unsigned k = 0; k < 8; k++) {
        bits((k & 1 ? CR0_MP : 0) | (k & 2 ? CR0_TS : 0) | (k & 4 ? CR0_EM : 0), CR4_OSFXSR);
        struct trap t = run_kernel(wait_code);
        all = all && t.vector == ((k & 3) == 3 ? NM : DONE);
    }
    ok(all, "WAIT is #NM with MP and TS together, only");
    bits(CR0_TS, CR4_OSFXSR);
    struct trap t = run_user(x87);
    ok_trap(&t, NM, NO_ERROR, x87, "#NM has no error code and is a fault");
    ASM("clts");
    ok(!(cr0_get() & CR0_TS), "CLTS");
}

static void test_xsave(void)
{
    bits(0, CR4_OSFXSR);
    if (!cpu_has_1_ecx(F1_XSAVE)) {
        skip("no XSAVE");
        return;
    }
    struct trap t = run_kernel(xsave, .di = (word)area);
    ok_trap(&t, UD, NO_ERROR, xsave, "XSAVE without OSXSAVE: #UD");
    t = run_kernel(xgetbv);
    ok_trap(&t, UD, NO_ERROR, xgetbv, "XGETBV without OSXSAVE: #UD");
    t = run_kernel(xsetbv, .ax = 1);
    ok_trap(&t, UD, NO_ERROR, xsetbv, "XSETBV without OSXSAVE: #UD");
    bits(0, CR4_OSFXSR | CR4_OSXSAVE);
    t = run_kernel(xgetbv);
    ok(t.vector == DONE && t.regs.ax == 1 && t.regs.dx == 0, "XCR0 starts as 1");
    t = run_user(xgetbv);
    ok_done(&t, xgetbv_end, "XGETBV at level 3");
    t = run_user(xsetbv, .ax = 3);
    ok_trap(&t, GP, 0, xsetbv, "XSETBV at level 3: #GP(0)");
    static const struct {
        uint32_t index, low, high;
        const char *what;
    } bad[] = {{0, 2, 0, "without x87"}, {0, 5, 0, "AVX without SSE"}, {1, 1, 0, "XCR1"}, {0, 1, 0x40000000, "bit 62"}};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        t = run_kernel(xsetbv, .cx = bad[i].index, .ax = bad[i].low, .dx = bad[i].high);
        ok_trap(&t, GP, 0, xsetbv, "XSETBV %s: #GP(0)", bad[i].what);
    }
    t = run_kernel(xgetbv, .cx = 5);
    ok_trap(&t, GP, 0, xgetbv, "XGETBV of XCR5: #GP(0)");
    bool has_avx = cpu_has_1_ecx(28);
    if (has_avx) {
        t = run_kernel(avx);
        ok_trap(&t, UD, NO_ERROR, avx, "AVX that XCR0 does not allow: #UD");
        uint32_t before = cpuid(0xd, 0).ebx;
        run_kernel(xsetbv, .ax = 7);
        t = run_kernel(avx);
        ok_done(&t, avx_end, "AVX");
        ok(before == 576 && cpuid(0xd, 0).ebx == 832, "CPUID.D:EBX follows XCR0");
        bits(CR0_TS, CR4_OSFXSR | CR4_OSXSAVE);
        t = run_kernel(avx);
        ok_trap(&t, NM, NO_ERROR, avx, "AVX with TS: #NM");
        bits(CR0_EM, CR4_OSFXSR | CR4_OSXSAVE);
        t = run_kernel(avx);
        ok_done(&t, avx_end, "AVX does not look at EM");
        bits(0, CR4_OSFXSR);
        t = run_kernel(avx);
        ok_trap(&t, UD, NO_ERROR, avx, "AVX without OSXSAVE: #UD");
    } else {
        skip("no AVX");
    }
    bits(CR0_TS, CR4_OSFXSR | CR4_OSXSAVE);
    t = run_kernel(xsave, .di = (word)area, .ax = 7);
    ok_trap(&t, NM, NO_ERROR, xsave, "XSAVE with TS: #NM");
    bits(0, CR4_OSFXSR | CR4_OSXSAVE);
    memset(area, 0, 1024);
    t = run_kernel(xsave, .di = (word)area, .ax = 7);
    ok_done(&t, xsave_end, "XSAVE");
    t = run_kernel(xsave, .di = (word)area + 32, .ax = 7);
    ok_trap(&t, GP, 0, xsave, "XSAVE, not on 64 bytes: #GP(0)");
    area[512] |= 0x80;
    t = run_kernel(xrstor, .di = (word)area, .ax = 7);
    ok_trap(&t, GP, 0, xrstor, "XRSTOR of a component that XCR0 lacks: #GP(0)");
    area[512] = 3;
    area[520] = 1;
    t = run_kernel(xrstor, .di = (word)area, .ax = 7);
    ok_trap(&t, GP, 0, xrstor, "XRSTOR with a reserved header: #GP(0)");
    area[520] = 0;
    *(uint32_t *)(area + 24) = 0x10000;
    t = run_kernel(xrstor, .di = (word)area, .ax = 3);
    ok_trap(&t, GP, 0, xrstor, "XRSTOR of reserved bits of MXCSR: #GP(0)");
    *(uint32_t *)(area + 24) = 0x1f80;
    t = run_kernel(xrstor, .di = (word)area, .ax = 3);
    ok_done(&t, xrstor_end, "XRSTOR");
    ok(cpuid(1, 0).ecx >> 27 & 1, "CPUID shows OSXSAVE");
    bits(0, CR4_OSFXSR);
    ok(!(cpuid(1, 0).ecx >> 27 & 1), "... and not without it");
}

static void test_exceptions(void)
{
    bits(0, CR4_OSFXSR | CR4_OSXMMEXCPT);
    *(uint16_t *)area = 0x37b; /* division by zero is not masked */
    struct trap t = run_kernel(divide_by_zero, .di = (word)area);
    ok_trap(&t, MF, NO_ERROR, mf_wait, "an x87 exception is raised by the next waiting instruction: #MF");
    t = run_kernel(fld1_code);
    ok_trap(&t, MF, NO_ERROR, fld1_code, "... and by each after it, until it is cleared");
    t = run_user(x87);
    ok(t.vector == DONE, "FNCLEX clears it");
    t = run_kernel(fld1_code);
    ok_done(&t, fld1_code_end, "nothing is left");
    t = run_kernel(divide_no_wait, .di = (word)area);
    ok(t.vector == DONE && (t.regs.ax & 0x84) == 0x84, "FNSTSW and FNCLEX do not wait");

    *(uint32_t *)area = 0x1f80 & ~0x200u; /* MXCSR: division by zero is not masked */
    t = run_kernel(sse_divide, .di = (word)area);
    ok_trap(&t, XM, NO_ERROR, sse_div_here, "an SSE exception: #XM at the instruction");
    bits(0, CR4_OSFXSR);
    t = run_kernel(sse_divide, .di = (word)area);
    ok_trap(&t, UD, NO_ERROR, sse_div_here, "... #UD without OSXMMEXCPT");
    *(uint32_t *)area = 0x10000;
    t = run_kernel(ldmxcsr, .di = (word)area);
    ok_trap(&t, GP, 0, ldmxcsr, "LDMXCSR of reserved bits: #GP(0)");
    *(uint32_t *)area = 0x1f80;
    run_kernel(ldmxcsr, .di = (word)area);
}

/* With CR0.NE clear the exception is interrupt 13, as on the first PCs with an 80287. */
static void test_interrupt_13(void)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } script[] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1}, {0x21, 0xfb},
                  {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 1}, {0xa1, 0xdf}};
    for (unsigned i = 0; i < ARRAY_LEN(script); i++)
        outb(script[i].port, script[i].value);
    bits(0, CR4_OSFXSR);
    cr0_set(cr0_get() & ~CR0_NE);
    *(uint16_t *)area = 0x37b;
    struct trap t = run_kernel(divide_by_zero, .di = (word)area, .flags = FL_1 | FL_IF);
    ok(t.vector == 0x2d, "NE clear: interrupt 13");
    ok(t.regs.ip == (word)mf_wait || t.regs.ip == (word)mf_wait - 1,
       "... no later than at the next waiting instruction");
    if (t.vector != 0x2d)
        trap_print(&t);
    outb(0xf0, 0);
    run_kernel(x87);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    t = run_kernel(fld1_code, .flags = FL_1 | FL_IF);
    ok_done(&t, fld1_code_end, "cleared, nothing is left");
    outb(0xa1, 0xff);
    cr0_set(cr0_get() | CR0_NE);
}

static void test_images(void)
{
    bits(0, CR4_OSFXSR);
    memset(area, 0xee, 256);
    struct trap t = run_kernel(env32, .di = (word)area);
    const uint32_t *e = (const uint32_t *)area;
    ok(t.vector == DONE && (e[0] & 0xffff) == 0x37f && (e[1] & 0xffff) == 0x3800 && (e[2] & 0xffff) == 0x3fff,
       "FNSTENV, 32 bits: CW, SW, TW");
    ok_equal(e[3], (word)fip_here, "... FIP is the last instruction");
    ok((e[4] & 0xffff) == SEL_KCODE || (e[4] & 0xffff) == 0, "... FCS, or 0 on newer processors");
    ok(area[27] != 0xee && area[28] == 0xee, "... 28 bytes");
    memset(area, 0xee, 256);
    run_kernel(env16, .di = (word)area);
    const uint16_t *s = (const uint16_t *)area;
    ok(s[0] == 0x37f && s[1] == 0x3800 && s[2] == 0x3fff && area[13] != 0xee && area[14] == 0xee,
       "FNSTENV, 16 bits: 14 bytes");
    static const uint8_t pi[10] = {0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40};
    memset(area, 0xee, 256);
    run_kernel(save32, .di = (word)area);
    ok(memcmp(area + 28, pi, 10) == 0 && area[107] != 0xee && area[108] == 0xee,
       "FNSAVE, 32 bits: 108 bytes, ST(0) at 28");
    ok(*(uint16_t *)(area + 120) == 0x37f && *(uint16_t *)(area + 122) == 0, "... and initialises");
    memset(area, 0xee, 256);
    run_kernel(save16, .di = (word)area);
    ok(memcmp(area + 14, pi, 10) == 0 && area[93] != 0xee && area[94] == 0xee,
       "FNSAVE, 16 bits: 94 bytes, ST(0) at 14");
    memset(area, 0xee, 1024);
    run_kernel(image, .di = (word)area);
    ok(*(uint16_t *)area == 0x37f && *(uint16_t *)(area + 2) == 0x3000 && area[4] == 0xc0,
       "FXSAVE: CW, SW, abridged TW");
    ok(*(uint32_t *)(area + 24) == 0x1f80 && (*(uint32_t *)(area + 28) & 0xffbf) == 0xffbf, "... MXCSR and its mask");
    ok(memcmp(area + 48, pi, 10) == 0 && area[41] == 0x3f && area[40] == 0xff, "... ST(0), ST(1) at 32, 48");
    ok(*(uint64_t *)(area + 160) == 0 && *(uint64_t *)(area + 176) == ~0ull && *(uint64_t *)(area + 184) == ~0ull,
       "... XMM0, XMM1 at 160, 176");
    ok(area[288] == 0xee && area[511] == 0xee, "... in 32-bit mode not XMM8 and up, and not what software may use");
    ok(area[512] == 0xee, "... 512 bytes");
}

static void test_alignment(void)
{
    static const struct {
        const char *code, *name;
        bool faults;
    } forms[] = {{fxsave, "FXSAVE", true}, {fxrstor, "FXRSTOR", true}, {movaps, "MOVAPS", true},
                 {paddd, "PADDD", true},   {movups, "MOVUPS", false},  {fldl, "FLD m64", false}};
    run_kernel(fninit);
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        struct trap t = run_kernel(forms[i].code, .di = (word)area + 8 + (forms[i].faults ? 0 : 1));
        ok(t.vector == (forms[i].faults ? GP : DONE) && (!forms[i].faults || t.error == 0), "%s, misaligned",
           forms[i].name);
    }
    cr0_set(cr0_get() | CR0_AM);
    struct trap t = run_user(fldl, .di = (word)area + 4, .flags = FL_1 | FL_AC);
    ok_trap(&t, AC, 0, fldl, "FLD m64 at 4 with AC: #AC(0)");
    t = run_user(movaps, .di = (word)area + 8, .flags = FL_1 | FL_AC);
    ok(t.vector == GP || t.vector == AC, "MOVAPS with AC: #GP(0), or #AC");
    cr0_set(cr0_get() & ~CR0_AM);
}

void test_main(void)
{
    bits(0, 0);
    run_kernel(fninit);
    test_matrix();
    test_xsave();
    test_exceptions();
    test_interrupt_13();
    test_images();
    test_alignment();
}
