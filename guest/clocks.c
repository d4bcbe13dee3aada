/* Do the clocks agree? What CPUID and kvm-clock say of the TSC's frequency, and CPUID of the local APIC's timer, is measured
 * against the PM timer, which runs at 3.579545 MHz whatever the rest does. Then the TSC is moved, and what is told in its terms
 * must follow; and HLT lasts until the timer.
 *
 * Each measurement is taken again, up to TRIES times, if it is off: on a busy host the program may be stopped between the
 * reading of two clocks. With the argument `fixed-tsc` the TSC is not written (back ends that emulate processors may not let it
 * be moved).
 *
 * ACPI 4.8.2.1 (PM timer); SDM vol. 2, CPUID leaf 15h; Linux Documentation/virt/kvm/x86/{cpuid,msr}.rst. */
#include "guest.h"

#define PM_TIMER 0x608
#define PM_HZ 3579545ull
#define WINDOW (PM_HZ / 20) /* 50 ms */
#define TRIES 8
#define PER_MILLE 5

#define LAPIC 0xfee00000ul
enum { EOI = 0xb0, SVR = 0xf0, LVT_TIMER = 0x320, TIMER_INITIAL = 0x380, TIMER_CURRENT = 0x390, TIMER_DIVIDE = 0x3e0 };
#define DIVIDE_BY_1 0xbu
#define VECTOR 0x55
#define MSR_SYSTEM_TIME 0x4b564d01u

static struct {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad[2];
} __attribute__((aligned(32))) volatile pvclock;

CODE(sti_hlt, "sti; hlt; nop");

static uint32_t apic(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC + reg);
}

static void apic_set(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(LAPIC + reg) = value;
}

static uint32_t pm(void)
{
    return inl(PM_TIMER);
}

static uint64_t pvclock_ns(void)
{
    uint64_t delta = rdtsc() - pvclock.tsc_timestamp;
    delta = pvclock.tsc_shift >= 0 ? delta << pvclock.tsc_shift : delta >> -pvclock.tsc_shift;
    return pvclock.system_time + (uint64_t)((unsigned __int128)delta * pvclock.tsc_to_system_mul >> 32);
}

static uint64_t apic_count(void)
{
    return -(uint64_t)apic(TIMER_CURRENT);
}

/* Ticks of a clock that counts 32 bits at least in so many of the PM timer. */
static uint64_t measure(uint64_t (*clock)(void), uint64_t mask, uint32_t *pm_ticks)
{
    uint32_t first = pm();
    uint64_t begin = clock();
    while (pm() - first < WINDOW)
        ;
    uint32_t last = pm();
    *pm_ticks = last - first;
    return (clock() - begin) & mask;
}

static void check(uint64_t (*clock)(void), uint64_t mask, uint64_t hz, const char *what)
{
    uint64_t measured = 0;
    bool good = false;
    for (unsigned n = 0; n < TRIES && !good; n++) {
        uint32_t pm_ticks;
        uint64_t ticks = measure(clock, mask, &pm_ticks);
        measured = ticks * PM_HZ / pm_ticks;
        good = measured > hz - hz / 1000 * PER_MILLE && measured < hz + hz / 1000 * PER_MILLE;
    }
    ok(good, "%s", what);
    if (!good)
        note("%lu Hz measured, %lu expected", (word)measured, (word)hz);
}

static uint64_t tsc(void)
{
    return rdtsc();
}

static void test_frequencies(void)
{
    struct cpuid c = cpuid(0x40000000, 0);
    ok(c.eax >= 0x40000010, "the monitor tells frequencies");
    c = cpuid(0x40000010, 0);
    check(tsc, ~0ull, c.eax * 1000ull, "the TSC's frequency is what CPUID leaf 40000010h says");
    struct cpuid max = cpuid(0, 0);
    if (max.eax >= 0x15) {
        struct cpuid crystal = cpuid(0x15, 0);
        check(tsc, ~0ull, (uint64_t)crystal.ecx * crystal.ebx / crystal.eax, "... and leaf 15h");
    } else {
        skip("no leaf 15h");
    }
    apic_set(SVR, 0x1ff);
    apic_set(LVT_TIMER, 0x10000 | VECTOR);
    apic_set(TIMER_DIVIDE, DIVIDE_BY_1);
    apic_set(TIMER_INITIAL, ~0u);
    check(apic_count, 0xffffffff, c.ebx * 1000ull, "the local APIC's timer counts as fast as leaf 40000010h says");
}

static void test_pvclock(void)
{
    wrmsr(MSR_SYSTEM_TIME, (word)&pvclock | 1);
    ok(pvclock.version != 0 && !(pvclock.version & 1), "kvm-clock: a record");
    check(pvclock_ns, ~0ull, 1000000000, "kvm-clock counts nanoseconds");
}

static void test_monotone(void)
{
    uint64_t last = rdtsc(), backwards = 0;
    for (unsigned i = 0; i < 2000; i++) {
        if (i % 16 == 0)
            outb(0x80, 0); /* through the monitor */
        uint64_t now = rdtsc();
        backwards += now <= last;
        last = now;
    }
    ok_equal(backwards, 0, "the TSC always goes on");
}

static void test_moved(void)
{
    uint64_t adjust = rdmsr(MSR_TSC_ADJUST), before = pvclock_ns();
    wrmsr(MSR_TSC, 1ull << 50);
    uint64_t now = rdtsc();
    ok(now >= 1ull << 50 && now < (1ull << 50) + 1000000000, "the TSC goes on from what is written to it");
    ok(rdmsr(MSR_TSC_ADJUST) != adjust, "... and IA32_TSC_ADJUST tells");
    uint64_t after = pvclock_ns();
    ok(after - before < 1000000000, "... and kvm-clock does not notice");
    wrmsr(MSR_TSC_ADJUST, adjust);
    ok(rdtsc() < 1ull << 50, "IA32_TSC_ADJUST moves it back");
    ok_equal(rdmsr(MSR_TSC_ADJUST), adjust, "... and reads so");
    ok(pvclock_ns() - before < 1000000000, "... and kvm-clock does not notice");
}

static void test_deadline(void)
{
    struct cpuid c = cpuid(0x40000010, 0);
    uint64_t ticks = c.eax * 10ull; /* 10 ms */
    bool good = false;
    uint64_t late = 0;
    apic_set(LVT_TIMER, 0x40000 | VECTOR);
    for (unsigned n = 0; n < TRIES && !good; n++) {
        uint64_t deadline = rdtsc() + ticks;
        wrmsr(MSR_TSC_DEADLINE, deadline);
        struct trap t = run_kernel(sti_hlt);
        uint64_t now = rdtsc();
        late = now - deadline;
        apic_set(EOI, 0);
        good = t.vector == VECTOR && now >= deadline && late < ticks;
    }
    ok(good, "HLT lasts until the TSC deadline");
    if (!good)
        note("%ld ticks late", (long)late);
}

void test_main(void)
{
    test_frequencies();
    test_pvclock();
    test_monotone();
    test_deadline();
    if (strstr(guest_arguments, "fixed-tsc") == NULL)
        test_moved();
    else
        skip("the TSC cannot be moved here");
}
