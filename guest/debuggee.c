/* Something for a debugger to work on: tests/gdb runs it under gdb, with breakpoints, watchpoints and single steps, and reads
 * what gdb says. What the guest itself can see must not change by that, which it checks here: its code reads as it was
 * written, its own debug registers work, the code that it changes is the code that runs.
 *
 * Arguments: wait, spin until the debugger sets go_on; cpus=N, how many processors there are; own=off: leave the guest's own debug registers alone, which /dev/kvm has
 * not where it emulates guests. */
#include "smp.h"

#ifdef __x86_64__
#define X_A "rax"
#define X_C "rcx"
#define X_S "rsi"
#define X_D "rdi"
#else
#define X_A "eax"
#define X_C "ecx"
#define X_S "esi"
#define X_D "edi"
#endif

volatile uint32_t watched, asked, poked, spins[CPUS_MAX];
volatile uint8_t from[64], to[64];
static volatile uint32_t debug_traps;
volatile bool go_on;

/* ---- breakpoints and watchpoints ---- */

__attribute__((noinline)) uint32_t called(uint32_t n)
{
    watched += n;
    return watched * 2;
}

__attribute__((noinline)) void asks(void)
{
    asked = watched; /* a load, then a store elsewhere */
}

static uint32_t code_sum(void)
{
    const volatile uint8_t *code = (const volatile uint8_t *)(word)called;
    uint32_t sum = 0;
    for (unsigned i = 0; i < 16; i++)
        sum = sum * 31 + code[i];
    return sum;
}

/* ---- steps ---- */

/* What a debugger steps through; the labels say where it has to come. */
void stepped(volatile uint8_t *destination, const volatile uint8_t *source);
__asm__(".globl stepped, step_rep, step_after_rep, step_sti, step_after_sti, step_ss, step_after_ss, step_end\n"
        "stepped:\n"
#ifndef __x86_64__
        "push %esi; push %edi\n\t"
        "mov 12(%esp), %edi; mov 16(%esp), %esi\n\t"
#endif
        "mov $64, %ecx\n"
        "step_rep: rep movsb\n"
        "step_after_rep: cli\n"
        "step_sti: sti\n"
        "step_after_sti: cli\n\t"
        "mov %ss, %eax\n"
        "step_ss: mov %eax, %ss\n"
        "step_after_ss: nop\n"
        "step_end:\n\t"
#ifndef __x86_64__
        "pop %edi; pop %esi\n\t"
#endif
        "ret\n");

/* ---- code that is changed ---- */

/* B8 imm32 C3: mov $1, %eax; ret */
static uint8_t patched[16] __attribute__((aligned(16))) = {0xb8, 1, 0, 0, 0, 0xc3};
void *const patched_at = patched;

static uint32_t call_patched(void)
{
    uint32_t value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(patched_at) : "memory", "cc", X_C, "edx");
    return value;
}

/* ---- the guest's own debug registers ---- */

static void on_debug(unsigned cpu, struct smp_regs *regs)
{
    (void)cpu;
    (void)regs;
    word dr6;
    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    debug_traps += dr6 & 1;
    __asm__ volatile("mov %0, %%dr6" : : "r"((word)0));
}

static void own_watchpoint(bool on)
{
    __asm__ volatile("mov %0, %%dr0" : : "r"((word)&watched));
    __asm__ volatile("mov %0, %%dr7" : : "r"(on ? (word)0xd0401 : (word)0x400)); /* writes of four bytes */
}

/* ---- processors ---- */

__attribute__((noinline)) void tick(unsigned cpu)
{
    spins[cpu]++;
}

static void job_spin(unsigned cpu)
{
    for (uint32_t i = 0; i < 2000000 && !go_on; i++)
        tick(cpu);
}

__attribute__((noinline)) void ready(void)
{
    __asm__ volatile("");
}

void test_main(void)
{
    unsigned cpus = strstr(guest_arguments, "cpus=2") != NULL ? 2 : 1;
    uint32_t sum = code_sum();
    while (strstr(guest_arguments, "wait") != NULL && !go_on)
        tick(0);
    spins[0] = 0;
    go_on = false;
    ready();
    for (uint32_t n = 1; n <= 10; n++)
        called(n);
    ok_equal(watched, 55, "ten calls have added up");
    ok_equal(code_sum(), sum, "code reads as it was written");
    asks();
    ok_equal(asked, poked != 0 ? poked : 55, "a load and a store");
    for (unsigned i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)(i * 3);
    stepped(to, from);
    bool same = true;
    for (unsigned i = 0; i < sizeof from; i++)
        same = same && to[i] == from[i];
    ok(same, "REP MOVSB has copied");

    ok_equal(call_patched(), 1, "code runs");
    patched[1] = 2;
    ok_equal(call_patched(), 2, "code that was changed behind its first byte");
    patched[0] = 0xb9; /* mov $2, %ecx */
    patched[0] = 0xb8;
    ok_equal(call_patched(), 2, "code whose first byte was changed to and fro");

    if (strstr(guest_arguments, "own=off") == NULL) {
        smp_handle(DB, on_debug);
        own_watchpoint(true);
        called(1);
        called(2);
        own_watchpoint(false);
        ok_equal(debug_traps, 2, "the guest's own watchpoint");
    }

    if (cpus > 1) {
        ok_equal(smp_start(cpus), cpus, "all processors answer");
        smp_run(cpus, job_spin);
        ok(spins[0] != 0 && spins[1] != 0, "both have run");
    }
}
