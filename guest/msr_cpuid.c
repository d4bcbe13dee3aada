/* CPUID, MSRs, time and randomness: what must hold on any processor, what follows the control registers, and what is
 * #GP.
 *
 * SDM vol. 2, CPUID, RDMSR, WRMSR, RDTSC, RDPMC; vol. 3, 11.11, 11.12, 17.17; vol. 4; KVM's paravirtual clock: Linux
 * Documentation/virt/kvm/x86/msr.rst. */
#include "guest.h"

CODE(get_msr, "rdmsr");
CODE(set_msr, "wrmsr");
CODE(rdtsc_code, "rdtsc");
CODE(rdtscp_code, "rdtscp");
CODE(rdpid_code, "rdpid %rax");
CODE(rdpmc_code, "rdpmc");
CODE(rdrand_code, "rdrand %rax; setc %cl");
CODE(rdseed_code, "rdseed %rax; setc %cl");
CODE(set_cr4, "mov %rax, %cr4");
CODE(set_cr0, "mov %rax, %cr0");
CODE(cpuid_code, "cpuid");
CODE(hlt_code, "hlt");
CODE(invd_code, "invd");
CODE(wbinvd_code, "wbinvd");
CODE(vmcall, "vmcall");
CODE(vmmcall, "vmmcall");
CODE(rsm_code, "rsm");
CODE(stac_code, "stac");
CODE(monitor_code, "monitor");

#define MSR_KVM_WALL_CLOCK 0x4b564d00u
#define MSR_KVM_SYSTEM_TIME 0x4b564d01u
#define MSR_TSC_AUX 0xc0000103u
#define MSR_MTRR_CAP 0xfeu
#define MSR_MTRR_DEF_TYPE 0x2ffu

static bool has_rdtscp(void)
{
    return cpuid(0x80000001, 0).edx >> 27 & 1;
}

static void test_cpuid(void)
{
    struct cpuid zero = cpuid(0, 0), one = cpuid(1, 0), extended = cpuid(0x80000000, 0);
    ok(zero.eax >= 1 && zero.eax < 0x100, "highest basic leaf: %x", zero.eax);
    ok(extended.eax >= 0x80000008 && extended.eax < 0x80000100, "highest extended leaf: %x", extended.eax);
    char vendor[13] = "";
    memcpy(vendor, &zero.ebx, 4);
    memcpy(vendor + 4, &zero.edx, 4);
    memcpy(vendor + 8, &zero.ecx, 4);
    ok(strlen(vendor) == 12, "vendor: %s", vendor);
    struct cpuid beyond = cpuid(zero.eax + 1, 0), last = cpuid(zero.eax, 0);
    if (cpu_is_amd())
        ok((beyond.eax | beyond.ebx | beyond.ecx | beyond.edx) == 0, "a leaf beyond: zeros");
    else
        ok(beyond.eax == last.eax && beyond.ebx == last.ebx, "a leaf beyond: the last one's");
    ok((one.edx & 0x1) && (one.edx & 1 << 4) && (one.edx & 1 << 5) && (one.edx & 1 << 8), "FPU, TSC, MSR, CX8");
    ok_equal(one.ebx >> 24, *(volatile uint32_t *)0xfee00020 >> 24, "the APIC ID is the local APIC's");
    ok(cpuid(0x80000001, 0).edx >> 29 & 1, "LM");
    uint32_t sizes = cpuid(0x80000008, 0).eax;
    ok((sizes & 0xff) >= 36 && (sizes & 0xff) <= 52 && (sizes >> 8 & 0xff) == 48, "address sizes");
    struct trap t = run_kernel(cpuid_code, .ax = 0xffffffff00000000, .cx = ~0ul, .dx = ~0ul, .bx = ~0ul);
    ok(t.regs.ax == zero.eax && t.regs.bx == zero.ebx && t.regs.cx == zero.ecx && t.regs.dx == zero.edx,
       "CPUID clears the upper halves");
    t = run_user(cpuid_code);
    ok(t.vector == DONE, "CPUID at level 3");
    struct cpuid hypervisor = cpuid(0x40000000, 0);
    ok((one.ecx >> 31) && hypervisor.ebx == 0x4b4d564b && hypervisor.eax >= 0x40000001, "the hypervisor's leaves");
    /* Features that are not there cannot be enabled. */
    static const struct {
        word bit;
        unsigned leaf, reg, feature;
        const char *name;
    } enables[] = {{CR4_SMEP, 7, 1, 7, "SMEP"},   {CR4_SMAP, 7, 1, 20, "SMAP"},   {CR4_FSGSBASE, 7, 1, 0, "FSGSBASE"},
                   {CR4_UMIP, 7, 2, 2, "UMIP"},   {CR4_PCIDE, 1, 2, 17, "PCIDE"}, {CR4_OSXSAVE, 1, 2, 26, "OSXSAVE"},
                   {CR4_VME, 1, 3, 1, "VME"},     {CR4_PGE, 1, 3, 13, "PGE"},     {1ul << 22, 7, 2, 3, "PKE"},
                   {1ul << 12, 7, 2, 16, "LA57"}, {1ul << 13, 1, 2, 5, "VMXE"},   {1ul << 23, 7, 2, 7, "CET"}};
    for (unsigned i = 0; i < ARRAY_LEN(enables); i++) {
        struct cpuid leaf = enables[i].leaf <= zero.eax ? cpuid(enables[i].leaf, 0) : (struct cpuid){0};
        uint32_t regs[] = {leaf.eax, leaf.ebx, leaf.ecx, leaf.edx};
        bool has = regs[enables[i].reg] >> enables[i].feature & 1;
        word cr4 = cr4_get();
        t = run_kernel(set_cr4, .ax = cr4 | enables[i].bit);
        bool set = t.vector == DONE;
        cr4_set(cr4);
        ok(set == has && (set || (t.vector == GP && t.error == 0)), "CR4.%s can be set if CPUID has it: %s",
           enables[i].name, has ? "yes" : "no");
    }
}

static void gp_on_write(uint32_t msr, uint64_t value, const char *what)
{
    struct trap t = run_kernel(set_msr, .cx = msr, .ax = (uint32_t)value, .dx = value >> 32);
    ok_trap(&t, GP, 0, set_msr, "%s: #GP(0)", what);
}

static void test_msrs(void)
{
    struct trap t = run_kernel(get_msr, .cx = 0x12345678);
    ok_trap(&t, GP, 0, get_msr, "RDMSR of what does not exist: #GP(0)");
    gp_on_write(0x12345678, 0, "WRMSR of what does not exist");
    t = run_user(get_msr, .cx = MSR_TSC);
    ok_trap(&t, GP, 0, (void *)USER(get_msr), "RDMSR at level 3: #GP(0)");
    t = run_user(set_msr, .cx = MSR_TSC);
    ok_trap(&t, GP, 0, (void *)USER(set_msr), "WRMSR at level 3: #GP(0)");
    t = run_kernel(get_msr, .cx = 0xffffffff00000000 | MSR_EFER, .ax = ~0ul, .dx = ~0ul);
    ok(t.vector == DONE && t.regs.ax == (uint32_t)rdmsr(MSR_EFER) && t.regs.dx == 0, "RDMSR clears the upper halves");
    ok_equal(rdmsr(MSR_PAT), 0x0007040600070406, "PAT after a reset");
    gp_on_write(MSR_PAT, 0x0007040600070402, "PAT with type 2");
    gp_on_write(MSR_PAT, 0x0307040600070406, "PAT with type 3");
    gp_on_write(MSR_PAT, 0x0807040600070406, "PAT with type 8");
    wrmsr(MSR_PAT, 0x0606060606010500);
    ok_equal(rdmsr(MSR_PAT), 0x0606060606010500, "PAT");
    wrmsr(MSR_PAT, 0x0007040600070406);
    gp_on_write(MSR_EFER, rdmsr(MSR_EFER) | 1ull << 33, "EFER with a reserved bit");
    gp_on_write(MSR_MTRR_CAP, 0, "IA32_MTRRCAP");
    gp_on_write(MSR_MTRR_DEF_TYPE, 2, "IA32_MTRR_DEF_TYPE with type 2");
    uint64_t type = rdmsr(MSR_MTRR_DEF_TYPE);
    wrmsr(MSR_MTRR_DEF_TYPE, 0xc06);
    ok_equal(rdmsr(MSR_MTRR_DEF_TYPE), 0xc06, "IA32_MTRR_DEF_TYPE");
    wrmsr(MSR_MTRR_DEF_TYPE, type);
    wrmsr(0x200, 0x80000006);
    ok_equal(rdmsr(0x200), 0x80000006, "IA32_MTRR_PHYSBASE0");
    wrmsr(0x200, 0);
    gp_on_write(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1, "IA32_APIC_BASE with a reserved bit");
    if (has_rdtscp()) {
        wrmsr(MSR_TSC_AUX, 0x1234567);
        t = run_user(rdtscp_code);
        ok(t.vector == DONE && t.regs.cx == 0x1234567, "RDTSCP gives TSC_AUX");
        if (cpuid(0, 0).eax >= 7 && (cpuid(7, 0).ecx >> 22 & 1)) {
            t = run_user(rdpid_code, .ax = ~0ul);
            ok_equal(t.regs.ax, 0x1234567, "RDPID gives TSC_AUX");
        }
        t = run_kernel(set_msr, .cx = MSR_TSC_AUX, .dx = 1);
        ok(t.vector == GP || cpu_is_amd(), "TSC_AUX has 32 bits");
    }
    t = run_kernel(rsm_code);
    ok_trap(&t, UD, NO_ERROR, rsm_code, "RSM outside of SMM: #UD");
    t = run_kernel(wbinvd_code);
    ok_done(&t, wbinvd_code_end, "WBINVD");
    t = run_kernel(invd_code);
    ok_done(&t, invd_code_end, "INVD");
    t = run_user(invd_code);
    ok_trap(&t, GP, 0, (void *)USER(invd_code), "INVD at level 3: #GP(0)");
    if (cpu_has_7_ebx(F7_SMAP)) {
        t = run_kernel(stac_code);
        ok(t.vector == DONE && (t.regs.flags & FL_AC), "STAC");
        t = run_user(stac_code);
        ok_trap(&t, UD, NO_ERROR, (void *)USER(stac_code), "STAC at level 3: #UD");
    }
    t = run_user(monitor_code);
    ok_trap(&t, UD, NO_ERROR, (void *)USER(monitor_code), "MONITOR at level 3: #UD");
}

static void test_tsc(void)
{
    bool rises = true;
    uint64_t last = rdtsc();
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t now = rdtsc();
        rises = rises && now >= last;
        last = now;
    }
    ok(rises, "the TSC never goes back");
    struct trap t = run_kernel(rdtsc_code, .ax = ~0ul, .dx = ~0ul);
    ok(t.regs.ax <= 0xffffffff && t.regs.dx <= 0xffffffff, "RDTSC clears the upper halves");
    cr4_set(cr4_get() | CR4_TSD);
    t = run_user(rdtsc_code);
    ok_trap(&t, GP, 0, (void *)USER(rdtsc_code), "RDTSC at level 3 with TSD: #GP(0)");
    t = run_kernel(rdtsc_code);
    ok_done(&t, rdtsc_code_end, "... not at level 0");
    cr4_set(cr4_get() & ~CR4_TSD);
    t = run_user(rdtsc_code);
    ok(t.vector == DONE, "RDTSC at level 3");
    uint64_t before = rdtsc();
    wrmsr(MSR_TSC, before + 0x100000000000);
    uint64_t after = rdtsc();
    ok(after - before >= 0x100000000000 && after - before < 0x110000000000, "writing the TSC moves it");
    ok(rdmsr(MSR_TSC) >= after, "... and its MSR");
    if (cpu_has_7_ebx(F7_TSC_ADJUST)) {
        uint64_t adjust = rdmsr(MSR_TSC_ADJUST);
        ok(adjust > 0x0fffff000000 && adjust <= 0x100000000000, "... and TSC_ADJUST by the same");
        wrmsr(MSR_TSC_ADJUST, 0);
        ok(rdtsc() < 0x100000000000, "TSC_ADJUST moves the TSC back");
        wrmsr(MSR_TSC_ADJUST, 0x50000000);
        ok_equal(rdmsr(MSR_TSC_ADJUST), 0x50000000, "TSC_ADJUST");
        wrmsr(MSR_TSC_ADJUST, 0);
    }
    t = run_user(rdpmc_code);
    ok_trap(&t, GP, 0, (void *)USER(rdpmc_code), "RDPMC at level 3 without PCE: #GP(0)");
    t = run_kernel(rdpmc_code, .cx = 0x7777);
    ok_trap(&t, GP, 0, rdpmc_code, "RDPMC of a counter that does not exist: #GP(0)");
}

struct __attribute__((packed)) time_page {
    uint32_t version, pad;
    uint64_t tsc, system_ns;
    uint32_t multiplier;
    int8_t shift;
    uint8_t flags, pad2[2];
};

static uint64_t page_time(volatile struct time_page *p)
{
    uint64_t delta = rdtsc() - p->tsc;
    delta = p->shift >= 0 ? delta << p->shift : delta >> -p->shift;
    return p->system_ns + (uint64_t)((unsigned __int128)delta * p->multiplier >> 32);
}

static void test_clock(void)
{
    if (cpuid(0x40000000, 0).ebx != 0x4b4d564b || !(cpuid(0x40000001, 0).eax >> 3 & 1)) {
        skip("no paravirtual clock");
        return;
    }
    static struct time_page page __attribute__((aligned(64)));
    static volatile uint32_t wall[3] __attribute__((aligned(4)));
    wrmsr(MSR_KVM_SYSTEM_TIME, (word)&page | 1);
    ok(page.version != 0 && !(page.version & 1) && page.multiplier != 0, "the clock's page is filled");
    uint64_t a = page_time(&page), a_tsc = rdtsc();
    while (rdtsc() - a_tsc < 2000000)
        ;
    uint64_t b = page_time(&page), b_tsc = rdtsc();
    uint64_t ns = (uint64_t)((unsigned __int128)(page.shift >= 0 ? (b_tsc - a_tsc) << page.shift
                                                                 : (b_tsc - a_tsc) >> -page.shift) *
                                 page.multiplier >>
                             32);
    ok(b > a && b - a >= ns / 2 && b - a <= ns * 2, "time goes on with the TSC");
    wrmsr(MSR_TSC, rdtsc() + 0x1000000000);
    uint64_t c = page_time(&page);
    ok(c >= b && c - b < 10000000000, "... and is not moved by writing the TSC");
    wrmsr(MSR_KVM_WALL_CLOCK, (word)wall);
    ok(!(wall[0] & 1) && wall[1] > 1700000000, "the wall clock at boot is after 2023");
    uint32_t version = page.version;
    wrmsr(MSR_KVM_SYSTEM_TIME, 0);
    wrmsr(MSR_TSC, rdtsc() + 1000);
    ok_equal(page.version, version, "switched off, the page is left alone");
}

static void test_others(void)
{
    if (cpu_has_1_ecx(30)) {
        struct trap a = run_user(rdrand_code), b = run_user(rdrand_code);
        ok(a.vector == DONE && (a.regs.cx & 1) && (b.regs.cx & 1) && a.regs.ax != b.regs.ax, "RDRAND");
    }
    if (cpu_has_7_ebx(18)) {
        struct trap a = run_user(rdseed_code), b = run_user(rdseed_code);
        ok((a.regs.cx & 1) && (b.regs.cx & 1) && a.regs.ax != b.regs.ax, "RDSEED");
    }
    struct trap t = run_kernel(vmcall, .ax = 9999);
    ok(t.vector == DONE && t.regs.ax == (word)-1000, "an unknown hypercall: -ENOSYS of KVM");
    t = run_kernel(vmmcall, .ax = 9999);
    ok(t.vector == DONE && t.regs.ax == (word)-1000, "... by the other vendor's instruction");
    t = run_user(vmcall, .ax = 9999);
    ok(t.vector == DONE && t.regs.ax == (word)-1, "a hypercall at level 3: -EPERM");
    t = run_user(hlt_code);
    ok_trap(&t, GP, 0, (void *)USER(hlt_code), "HLT at level 3: #GP(0)");
    t = run_user(set_cr0, .ax = cr0_get());
    ok_trap(&t, GP, 0, (void *)USER(set_cr0), "MOV to CR0 at level 3: #GP(0)");
}

void test_main(void)
{
    test_cpuid();
    test_msrs();
    test_tsc();
    test_clock();
    test_others();
}
