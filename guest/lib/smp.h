/* Several processors: starting them, giving them work, interrupts between them. See ../smp.c.
 *
 * Processor 0 is the one that runs test_main(). The others wait for jobs. They share GDT, IDT and page tables with it, have
 * a stack each, and may not run snippets: the library's record of traps is one. */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include "guest.h"

#define CPUS_MAX 8u
#define LAPIC 0xfee00000ul

/* What firmware says: their number, 0 if there is no table. `ids` gets a bit for each APIC ID. */
unsigned smp_count_madt(uint32_t *ids);
unsigned smp_count_mptable(uint32_t *ids);

/* Starts processors 1 to count - 1; returns how many answered. */
unsigned smp_start(unsigned count);
/* INIT, then a startup IPI: what was running there is forgotten. */
void smp_init(unsigned cpu);
void smp_startup(unsigned cpu);
/* Waits until `count` processors have come to wait for jobs since the program began; false: they do not. */
bool smp_wait_started(unsigned count);

extern unsigned smp_cpus;              /* that run */
extern volatile uint32_t smp_arrivals; /* at the job loop */
unsigned smp_self(void);

/* Runs `job(cpu)` on processors 0 to count - 1 at once, and returns when all have ended. */
typedef void job_fn(unsigned cpu);
void smp_run(unsigned count, job_fn *job);
/* On one other processor, without waiting; smp_join() waits. */
void smp_spawn(unsigned cpu, job_fn *job);
void smp_join(unsigned cpu);
/* A barrier for `count` processors, inside a job. */
void smp_meet(unsigned count);

/* Interrupts: `handler` runs on the processor that took one, with interrupts off; EOI is made for it (not for NMI and #BP).
 * It may change `regs`, which are those that the interrupted code goes on with. */
struct smp_regs {
#ifdef __x86_64__
    word r11, r10, r9, r8, di, si, dx, cx, ax, vector, ip, cs, flags;
#else
    word di, si, bp, sp_unused, bx, dx, cx, ax, vector, ip, cs, flags;
#endif
};
typedef void interrupt_fn(unsigned cpu, struct smp_regs *regs);
void smp_handle(unsigned vector, interrupt_fn *handler);

uint32_t apic(unsigned reg);
void apic_set(unsigned reg, uint32_t value);
#define APIC_ID 0x20
#define APIC_TPR 0x80
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_SVR 0xf0
#define APIC_ICR_LOW 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_DIVIDE 0x3e0
#define ICR_NMI 0x400u
#define ICR_INIT 0x500u
#define ICR_STARTUP 0x600u
#define ICR_LOWEST 0x100u
#define ICR_LOGICAL 0x800u
#define ICR_ASSERT 0x4000u
#define ICR_ALL 0x80000u
#define ICR_OTHERS 0xc0000u
void ipi(unsigned cpu, uint32_t low);

static inline void relax(void)
{
    ASM("pause" ::: "memory");
}

#endif
