/* What the three files of the local APIC share: lapic.c (interrupts), lapic_registers.c (what software reads and
 * writes) and lapic_timer.c. Nobody else includes it. */
#ifndef RING3_DEVICE_LAPIC_INTERNAL_H
#define RING3_DEVICE_LAPIC_INTERNAL_H

#include "device/lapic.h"

#define VECTORS_PER_WORD 32u
#define VECTOR_WORDS 8u
#define VECTOR_FIRST_LEGAL 16u

#define SVR_ENABLE 0x100u
#define SVR_FOCUS_DISABLE 0x200u
#define SVR_EOI_SUPPRESS 0x1000u

/* Local vector table, in the order of its registers. */
enum { LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
#define LVT_VECTOR 0xffu
#define LVT_DELIVERY 0x700u
#define LVT_DELIVERY_SHIFT 8
#define LVT_STATUS 0x1000u
#define LVT_POLARITY 0x2000u
#define LVT_REMOTE_IRR 0x4000u
#define LVT_LEVEL 0x8000u
#define LVT_MASKED 0x10000u
#define LVT_TIMER_MODE 0x60000u
#define LVT_TIMER_ONE_SHOT 0u
#define LVT_TIMER_PERIODIC 0x20000u
#define LVT_TIMER_TSC_DEADLINE 0x40000u

#define ESR_SEND_ILLEGAL_VECTOR 0x20u
#define ESR_RECEIVE_ILLEGAL_VECTOR 0x40u
#define ESR_ILLEGAL_REGISTER 0x80u

struct lapic_state {
    uint64_t base;     /* IA32_APIC_BASE */
    uint32_t xapic_id; /* as in the register: bits 31:24 */
    uint32_t ldr, dfr; /* xAPIC mode; x2APIC derives its own */
    uint32_t tpr, svr;
    uint32_t esr, esr_pending; /* as last latched by a write; since then */
    uint32_t icr_low, icr_high;
    uint32_t lvt[LVT_COUNT];
    uint32_t isr[VECTOR_WORDS], tmr[VECTOR_WORDS], irr[VECTOR_WORDS];
    bool lint[2];
    bool extint_wire;    /* the level of a wire through an I/O APIC */
    bool extint_message; /* an ExtINT message that has not been answered */
    bool intr;           /* what the processor was told last */

    uint32_t timer_initial, timer_divide;
    uint64_t timer_expiry_ns; /* when the count reaches zero next; TIMER_NEVER while it stands still */
    uint64_t tsc_deadline;

    gpa_t pv_eoi_gpa;
    bool pv_eoi_enabled;
    bool pv_eoi_offered; /* the guest's bit was set for the interrupt in service with the highest priority */
};

struct lapic {
    struct apic_bus *bus;
    struct memory *memory;
    struct lapic_config config;
    struct timer timer;
    struct lapic_state state;
};

enum lapic_mode { LAPIC_DISABLED, LAPIC_INVALID, LAPIC_XAPIC, LAPIC_X2APIC }; /* EN and EXTD as a number */

static inline enum lapic_mode lapic_mode_of(uint64_t base)
{
    return (enum lapic_mode)(base >> 10 & 3);
}

static inline enum lapic_mode lapic_mode(const struct lapic *lapic)
{
    return lapic_mode_of(lapic->state.base);
}

/* lapic.c */
void lapic_update(struct lapic *lapic); /* after anything that may change what is pending: tells the processor */
void lapic_error(struct lapic *lapic, uint32_t esr_bit);
void lapic_lvt_deliver(struct lapic *lapic, unsigned entry);
void lapic_lint_update(struct lapic *lapic, unsigned pin, bool rises);
void lapic_registers_reset(struct lapic *lapic);
void lapic_eoi(struct lapic *lapic);
void lapic_pv_eoi_sync(struct lapic *lapic);
unsigned lapic_processor_priority(const struct lapic *lapic);

/* lapic_registers.c */
uint32_t lapic_x2apic_ldr(uint32_t id);

/* lapic_timer.c */
void lapic_timer_fired(void *opaque);
uint32_t lapic_timer_count(const struct lapic *lapic);
void lapic_timer_set_initial(struct lapic *lapic, uint32_t initial);
void lapic_timer_set_divide(struct lapic *lapic, uint32_t divide);
void lapic_timer_mode_changed(struct lapic *lapic);
void lapic_timer_set_tsc_deadline(struct lapic *lapic, uint64_t tsc);

#endif
