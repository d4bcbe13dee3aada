/* The local APIC of one processor: xAPIC page, x2APIC registers, timer, pins, PV EOI.
 *
 * What it does for its processor comes out through struct lapic_cpu_ops; what the processor asks goes through
 * lapic_has_interrupt(), lapic_ack(), the CR8 and MSR functions and the memory-mapped page. Messages travel on the
 * struct apic_bus.
 *
 * An interrupt's way in. `intr` goes true when the processor should look (it may find nothing). Before the next
 * instruction, with interrupts enabled, the processor's thread then does:
 *
 *     int vector = lapic_ack(lapic);
 *     if (vector < 0 && lapic_extint_pending(lapic)) {
 *         lapic_extint_ack(lapic);
 *         vector = i8259_ack(pic);
 *     }
 *
 * Threads: all under the device lock. Besides, the functions that the manual's processor calls (has_interrupt, ack,
 * cr8, MSRs, the page) are called by the thread that runs the processor, between two of its instructions: PV EOI shares
 * a bit with the guest, which changes it with plain instructions.
 *
 * Source: SDM volume 3, chapter "Advanced Programmable Interrupt Controller (APIC)"; for PV EOI, Linux's
 * Documentation/virt/kvm/x86/msr.rst.
 */
#ifndef RING3_DEVICE_LAPIC_H
#define RING3_DEVICE_LAPIC_H

#include <stdio.h>

#include "base/timer.h"
#include "base/types.h"
#include "device/apic_bus.h"
#include "memory/memory.h"

#define LAPIC_TIMER_HZ NS_PER_S /* before the divider: what CPUID leaf 15h and the KVM leaf 40000010h should say */
#define LAPIC_DEFAULT_BASE 0xfee00000u
#define LAPIC_PAGE_SIZE 4096u
#define LAPIC_VERSION 0x14u

/* IA32_APIC_BASE. */
#define APIC_BASE_BSP 0x100u
#define APIC_BASE_EXTD 0x400u
#define APIC_BASE_EN 0x800u

/* The MSRs that belong to the local APIC. */
#define MSR_IA32_APIC_BASE 0x1bu
#define MSR_IA32_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST 0x8ffu

struct lapic;

/* To the processor; none may be NULL. They are called in the middle of register accesses and deliveries, of other
 * processors' too: they note what happened and act when the processor gets to it. */
struct lapic_cpu_ops {
    void (*intr)(void *opaque, bool pending);
    void (*nmi)(void *opaque);
    void (*smi)(void *opaque);
    void (*init)(void *opaque); /* the local APIC has reset itself already */
    void (*sipi)(void *opaque, uint8_t vector);
    /* IA32_APIC_BASE changed (also at reset): where the page is, and CPUID's APIC bit. */
    void (*base_changed)(void *opaque, uint64_t apic_base);
    /* Guest time at which the TSC will read `tsc`; TIMER_NEVER if that is beyond all time. A `tsc` already past gives
     * any time not after now. */
    uint64_t (*tsc_to_ns)(void *opaque, uint64_t tsc);
};

struct lapic_config {
    uint32_t id; /* initial APIC ID; 8 bits of it in xAPIC mode */
    bool bsp;
    unsigned phys_bits; /* MAXPHYADDR */
    const struct lapic_cpu_ops *ops;
    void *opaque;
};

/* Attaches itself to the bus, in xAPIC mode after a reset, without calling `ops`. `memory` is for PV EOI. NULL when out
 * of memory or when the bus is full. */
struct lapic *lapic_create(struct apic_bus *bus, struct timer_queue *queue, struct memory *memory,
                           const struct lapic_config *config);
void lapic_destroy(struct lapic *lapic);
/* Power-up or RESET#. (INIT comes over the bus.) */
void lapic_reset(struct lapic *lapic);

/* Sets the state in which firmware hands over (MultiProcessor specification 3.6.2.2, virtual wire): enabled, LINT0 is
 * ExtINT, LINT1 is NMI. For a boot processor that starts a kernel without firmware. */
void lapic_set_virtual_wire(struct lapic *lapic);

/* The processor's interrupt interface. has_interrupt: one that the processor priority lets through. ack: its vector,
 * now in service; -1 when there is none. */
bool lapic_has_interrupt(struct lapic *lapic);
int lapic_ack(struct lapic *lapic);

/* External interrupts, whose vector the 8259 gives. accepts_pic: the 8259's INTR wire at LINT0 would interrupt the
 * processor. extint_pending: it does now, or an ExtINT message has come. ack: the processor turns to the 8259. */
bool lapic_accepts_pic(const struct lapic *lapic);
bool lapic_extint_pending(const struct lapic *lapic);
void lapic_extint_ack(struct lapic *lapic);

/* CR8 is bits 7:4 of the task priority. */
uint64_t lapic_cr8_read(struct lapic *lapic);
void lapic_cr8_write(struct lapic *lapic, uint64_t value);

/* False: #GP, nothing changed. Only for the MSRs above. */
bool lapic_msr_read(struct lapic *lapic, uint32_t msr, uint64_t *value);
bool lapic_msr_write(struct lapic *lapic, uint32_t msr, uint64_t value);
uint64_t lapic_base(const struct lapic *lapic);
uint32_t lapic_id(const struct lapic *lapic); /* the initial one */

/* The page, `dev` is the struct lapic. With several processors the board maps a dispatcher to the accessing one's. */
extern const struct io_ops lapic_mmio_ops;

/* The guest wrote its TSC (or TSC_ADJUST): an armed TSC deadline is another time now. */
void lapic_tsc_changed(struct lapic *lapic);

/* The pins LINT0 (8259's INTR) and LINT1 (NMI), asserted or not; local polarity bits do not turn that around. */
void lapic_set_lint(struct lapic *lapic, unsigned pin, bool asserted);

/* Interrupts made by the processor itself. */
enum lapic_event { LAPIC_THERMAL, LAPIC_PERFORMANCE };
void lapic_raise(struct lapic *lapic, enum lapic_event event);

/* MSR_KVM_PV_EOI_EN: `gpa` of the guest's 4-byte flag. False (for #GP) if it is not aligned or not in RAM. */
bool lapic_set_pv_eoi(struct lapic *lapic, gpa_t gpa, bool enabled);

/* The registers, for people. */
void lapic_describe(const struct lapic *lapic, FILE *out);

/* For the bus. */
bool lapic_is_named(const struct lapic *lapic, uint32_t dest, bool logical);
bool lapic_takes_fixed(const struct lapic *lapic);
unsigned lapic_arbitration_priority(const struct lapic *lapic);
bool lapic_accept(struct lapic *lapic, const struct apic_message *message);
void lapic_set_extint(struct lapic *lapic, bool level);

#endif
