/* Local APIC: accepting, prioritising and delivering interrupts. See lapic.h.
 *
 * Model. An interrupt of fixed mode is a bit in IRR; lapic_ack() moves the highest one to ISR, EOI removes the highest
 * of ISR. TMR remembers which were level-triggered: their EOI is told to the I/O APIC. An interrupt gets through when
 * its class (bits 7:4 of the vector) exceeds that of the processor priority, the higher of TPR and the highest in
 * service.
 *
 * `intr` is a wire with one meaning, "look here": lapic_update() computes it from the state after every change and
 * calls the processor when it turned.
 *
 * PV EOI. The guest gives a byte of its memory. When lapic_ack() hands out an edge-triggered interrupt and nothing else
 * is pending, it sets bit 0 there: the EOI is *offered*. The guest ends its handler by clearing the bit, if it finds
 * it set, instead of writing EOI, which costs an exit. The invariant: while `pv_eoi_offered`, the state lags behind
 * the guest by at most one EOI, that of the highest vector in ISR. lapic_pv_eoi_sync() catches up. Bit clear: do that
 * EOI now. Bit set and an interrupt waits: withdraw the offer (clear the bit), so that the guest's EOI will come
 * through and let the waiting one in. It runs before everything that looks at ISR or changes it. An interrupt that
 * arrives meanwhile raises `intr` even if its priority is too low, because whether it is can be told only after a
 * sync, and a sync needs the processor to stand still; that is also why accepting a message never touches the bit.
 *
 * Choices where processors differ or the manual leaves them: no focus processor; ICR trigger mode counts for INIT only;
 * NMI, INIT and the like to "self" shorthands work; a remote read is ignored; CMCI's entry is absent (the version
 * register says six entries). INIT resets everything but the mode, the ID and the levels of wires. LINT polarity is
 * remembered only.
 *
 * Not emulated: bus arbitration IDs, checksum errors, delivery status (always idle), thermal and performance sources
 * (lapic_raise() is their entrance).
 */
#include "device/lapic_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static bool vector_test(const uint32_t *words, unsigned vector)
{
    return words[vector / VECTORS_PER_WORD] >> vector % VECTORS_PER_WORD & 1;
}

static void vector_set(uint32_t *words, unsigned vector)
{
    words[vector / VECTORS_PER_WORD] |= 1u << vector % VECTORS_PER_WORD;
}

static void vector_clear(uint32_t *words, unsigned vector)
{
    words[vector / VECTORS_PER_WORD] &= ~(1u << vector % VECTORS_PER_WORD);
}

/* -1 when there is none. */
static int vector_highest(const uint32_t *words)
{
    for (unsigned i = VECTOR_WORDS; i-- > 0;)
        if (words[i] != 0)
            return (int)(i * VECTORS_PER_WORD) + 31 - __builtin_clz(words[i]);
    return -1;
}

static unsigned vector_class(int vector)
{
    return vector < 0 ? 0 : (unsigned)vector & 0xf0;
}

uint64_t lapic_base(const struct lapic *lapic)
{
    return lapic->state.base;
}

uint32_t lapic_id(const struct lapic *lapic)
{
    return lapic->config.id;
}

/* SDM, "Task and Processor Priorities". */
unsigned lapic_processor_priority(const struct lapic *lapic)
{
    unsigned in_service = vector_class(vector_highest(lapic->state.isr));
    return (lapic->state.tpr & 0xf0) >= in_service ? lapic->state.tpr : in_service;
}

/* SDM, "Arbitration Priority Register". */
unsigned lapic_arbitration_priority(const struct lapic *lapic)
{
    unsigned tpr = lapic->state.tpr & 0xf0;
    unsigned in_service = vector_class(vector_highest(lapic->state.isr));
    unsigned requested = vector_class(vector_highest(lapic->state.irr));
    if (tpr >= requested && tpr > in_service)
        return lapic->state.tpr;
    return (tpr & in_service) > requested ? tpr & in_service : requested;
}

/* The vector that would be delivered now, or -1. */
static int deliverable(const struct lapic *lapic)
{
    int vector = vector_highest(lapic->state.irr);
    return vector_class(vector) > (lapic_processor_priority(lapic) & 0xf0) ? vector : -1;
}

bool lapic_accepts_pic(const struct lapic *lapic)
{
    uint32_t lvt = lapic->state.lvt[LVT_LINT0];
    if (lapic_mode(lapic) == LAPIC_DISABLED)
        return true;
    return !(lvt & LVT_MASKED) && (lvt & LVT_DELIVERY) >> LVT_DELIVERY_SHIFT == APIC_EXTINT;
}

bool lapic_extint_pending(const struct lapic *lapic)
{
    const struct lapic_state *state = &lapic->state;
    return (state->lint[0] && lapic_accepts_pic(lapic)) || state->extint_wire || state->extint_message;
}

void lapic_extint_ack(struct lapic *lapic)
{
    lapic->state.extint_message = false;
    lapic_update(lapic);
}

void lapic_set_extint(struct lapic *lapic, bool level)
{
    lapic->state.extint_wire = level;
    lapic_update(lapic);
}

void lapic_update(struct lapic *lapic)
{
    struct lapic_state *state = &lapic->state;
    bool lagging = state->pv_eoi_offered && vector_highest(state->irr) >= 0;
    bool intr = lagging || deliverable(lapic) >= 0 || lapic_extint_pending(lapic);
    if (intr == state->intr)
        return;
    state->intr = intr;
    lapic->config.ops->intr(lapic->config.opaque, intr);
}

void lapic_error(struct lapic *lapic, uint32_t esr_bit)
{
    bool news = !(lapic->state.esr_pending & esr_bit);
    lapic->state.esr_pending |= esr_bit;
    if (news) /* so that an illegal vector in the error entry itself comes to an end */
        lapic_lvt_deliver(lapic, LVT_ERROR);
}

static void fixed_accept(struct lapic *lapic, unsigned vector, bool level_triggered)
{
    if (vector < VECTOR_FIRST_LEGAL) {
        lapic_error(lapic, ESR_RECEIVE_ILLEGAL_VECTOR);
        return;
    }
    vector_set(lapic->state.irr, vector);
    (level_triggered ? vector_set : vector_clear)(lapic->state.tmr, vector);
    lapic_update(lapic);
}

/* Delivers through an entry of the local vector table. ExtINT is a level, not an event: see lapic_extint_pending(). */
void lapic_lvt_deliver(struct lapic *lapic, unsigned entry)
{
    const struct lapic_cpu_ops *ops = lapic->config.ops;
    uint32_t lvt = lapic->state.lvt[entry];
    if (lvt & LVT_MASKED)
        return;
    if (entry == LVT_PERFORMANCE)
        lapic->state.lvt[entry] |= LVT_MASKED;
    switch ((enum apic_delivery)((lvt & LVT_DELIVERY) >> LVT_DELIVERY_SHIFT)) {
    case APIC_FIXED:
        fixed_accept(lapic, lvt & LVT_VECTOR, (lvt & LVT_REMOTE_IRR) != 0);
        break;
    case APIC_SMI:
        ops->smi(lapic->config.opaque);
        break;
    case APIC_NMI:
        ops->nmi(lapic->config.opaque);
        break;
    case APIC_INIT:
        if (entry == LVT_LINT0 || entry == LVT_LINT1) {
            lapic_registers_reset(lapic);
            ops->init(lapic->config.opaque);
        }
        break;
    case APIC_LOWEST_PRIORITY:
    case APIC_REMOTE_READ:
    case APIC_STARTUP:
    case APIC_EXTINT:
        break;
    }
}

/* A pin changed, or the entry behind it. Only LINT0 in fixed mode can be level-triggered. */
void lapic_lint_update(struct lapic *lapic, unsigned pin, bool rises)
{
    unsigned entry = LVT_LINT0 + pin;
    uint32_t *lvt = &lapic->state.lvt[entry];
    if (lapic_mode(lapic) == LAPIC_DISABLED) {
        if (pin == 1 && rises) /* the pins are INTR and NMI of old */
            lapic->config.ops->nmi(lapic->config.opaque);
    } else if (pin == 0 && (*lvt & LVT_DELIVERY) >> LVT_DELIVERY_SHIFT == APIC_FIXED && *lvt & LVT_LEVEL) {
        if (lapic->state.lint[pin] && !(*lvt & (LVT_MASKED | LVT_REMOTE_IRR))) {
            *lvt |= LVT_REMOTE_IRR;
            lapic_lvt_deliver(lapic, entry);
        }
    } else if (rises) {
        lapic_lvt_deliver(lapic, entry);
    }
    lapic_update(lapic);
}

void lapic_set_lint(struct lapic *lapic, unsigned pin, bool asserted)
{
    check(pin < 2);
    bool rises = asserted && !lapic->state.lint[pin];
    lapic->state.lint[pin] = asserted;
    lapic_lint_update(lapic, pin, rises);
}

void lapic_raise(struct lapic *lapic, enum lapic_event event)
{
    lapic_lvt_deliver(lapic, event == LAPIC_THERMAL ? LVT_THERMAL : LVT_PERFORMANCE);
}

bool lapic_takes_fixed(const struct lapic *lapic)
{
    return lapic_mode(lapic) != LAPIC_DISABLED && lapic->state.svr & SVR_ENABLE;
}

/* SDM, "Determining IPI Destination". */
bool lapic_is_named(const struct lapic *lapic, uint32_t dest, bool logical)
{
    const struct lapic_state *state = &lapic->state;
    enum lapic_mode mode = lapic_mode(lapic);
    if (mode == LAPIC_DISABLED)
        return false;
    if (dest == APIC_DEST_BROADCAST)
        return true;
    if (mode == LAPIC_X2APIC) {
        uint32_t ldr = lapic_x2apic_ldr(lapic->config.id);
        return logical ? dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff) != 0 : dest == lapic->config.id;
    }
    if (dest > 0xff)
        return false;
    if (!logical)
        return dest == state->xapic_id >> 24;
    uint32_t ldr = state->ldr >> 24;
    if (state->dfr >> 28 == 0xf) /* flat model */
        return (dest & ldr) != 0;
    return (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && (dest & ldr & 0xf) != 0; /* cluster model */
}

bool lapic_accept(struct lapic *lapic, const struct apic_message *message)
{
    const struct lapic_cpu_ops *ops = lapic->config.ops;
    void *opaque = lapic->config.opaque;
    if (lapic_mode(lapic) == LAPIC_DISABLED)
        return false;
    switch (message->delivery) {
    case APIC_FIXED:
    case APIC_LOWEST_PRIORITY:
        if (!lapic_takes_fixed(lapic))
            return false;
        fixed_accept(lapic, message->vector, message->level_triggered);
        return true;
    case APIC_SMI:
        ops->smi(opaque);
        return true;
    case APIC_NMI:
        ops->nmi(opaque);
        return true;
    case APIC_INIT:
        if (message->asserted) { /* the de-assert set arbitration IDs once */
            lapic_registers_reset(lapic);
            ops->init(opaque);
        }
        return true;
    case APIC_STARTUP:
        ops->sipi(opaque, message->vector);
        return true;
    case APIC_EXTINT:
        lapic->state.extint_message = true;
        lapic_update(lapic);
        return true;
    case APIC_REMOTE_READ:
        break;
    }
    return false;
}

/* EOI without looking at PV EOI first. */
static void eoi_do(struct lapic *lapic)
{
    struct lapic_state *state = &lapic->state;
    int vector = vector_highest(state->isr);
    if (vector < 0)
        return;
    vector_clear(state->isr, (unsigned)vector);
    if (vector_test(state->tmr, (unsigned)vector)) {
        uint32_t *lvt = &state->lvt[LVT_LINT0];
        if (*lvt & LVT_REMOTE_IRR && (*lvt & LVT_VECTOR) == (unsigned)vector) {
            *lvt &= ~LVT_REMOTE_IRR;
            lapic_lint_update(lapic, 0, false);
        }
        if (!(state->svr & SVR_EOI_SUPPRESS))
            apic_bus_eoi(lapic->bus, (uint8_t)vector);
    }
    lapic_update(lapic);
}

static bool pv_eoi_guest_bit(const struct lapic *lapic)
{
    uint8_t byte = 0;
    return memory_read(lapic->memory, lapic->state.pv_eoi_gpa, &byte, 1) && byte & 1;
}

static bool pv_eoi_write(struct lapic *lapic, uint8_t byte)
{
    return memory_write(lapic->memory, lapic->state.pv_eoi_gpa, &byte, 1);
}

static void pv_eoi_withdraw(struct lapic *lapic)
{
    lapic->state.pv_eoi_offered = false;
    pv_eoi_write(lapic, 0);
}

void lapic_pv_eoi_sync(struct lapic *lapic)
{
    if (!lapic->state.pv_eoi_offered)
        return;
    if (!pv_eoi_guest_bit(lapic)) {
        lapic->state.pv_eoi_offered = false;
        eoi_do(lapic);
    } else if (vector_highest(lapic->state.irr) >= 0) {
        pv_eoi_withdraw(lapic);
        lapic_update(lapic);
    }
}

void lapic_eoi(struct lapic *lapic)
{
    lapic_pv_eoi_sync(lapic);
    if (lapic->state.pv_eoi_offered) /* the guest did not take the offer */
        pv_eoi_withdraw(lapic);
    eoi_do(lapic);
}

bool lapic_set_pv_eoi(struct lapic *lapic, gpa_t gpa, bool enabled)
{
    if (enabled && (gpa & 3 || memory_page(lapic->memory, gpa).kind != PAGE_RAM))
        return false;
    lapic_pv_eoi_sync(lapic);
    if (lapic->state.pv_eoi_offered)
        pv_eoi_withdraw(lapic);
    lapic->state.pv_eoi_gpa = enabled ? gpa : 0;
    lapic->state.pv_eoi_enabled = enabled;
    lapic_update(lapic);
    return true;
}

bool lapic_has_interrupt(struct lapic *lapic)
{
    lapic_pv_eoi_sync(lapic);
    return deliverable(lapic) >= 0;
}

int lapic_ack(struct lapic *lapic)
{
    struct lapic_state *state = &lapic->state;
    lapic_pv_eoi_sync(lapic);
    int vector = deliverable(lapic);
    if (vector < 0)
        return -1;
    vector_clear(state->irr, (unsigned)vector);
    vector_set(state->isr, (unsigned)vector);
    /* Never offered twice: with something pending the sync above has settled an older offer. */
    check(!state->pv_eoi_offered);
    if (state->pv_eoi_enabled && !vector_test(state->tmr, (unsigned)vector) && vector_highest(state->irr) < 0)
        state->pv_eoi_offered = pv_eoi_write(lapic, 1);
    lapic_update(lapic);
    return vector;
}

uint64_t lapic_cr8_read(struct lapic *lapic)
{
    return lapic->state.tpr >> 4;
}

void lapic_cr8_write(struct lapic *lapic, uint64_t value)
{
    lapic_pv_eoi_sync(lapic);
    lapic->state.tpr = (uint32_t)(value & 0xf) << 4;
    lapic_update(lapic);
}

/* What INIT resets, and what disabling forgets: all but IA32_APIC_BASE, the ID and the levels of wires. */
void lapic_registers_reset(struct lapic *lapic)
{
    struct lapic_state old = lapic->state;
    timer_disarm(&lapic->timer);
    lapic->state = (struct lapic_state){
        .base = old.base,
        .xapic_id = old.xapic_id,
        .lint = {old.lint[0], old.lint[1]},
        .extint_wire = old.extint_wire,
        .intr = old.intr,
        .dfr = 0xffffffff,
        .svr = 0xff,
        .timer_expiry_ns = TIMER_NEVER,
    };
    for (unsigned i = 0; i < LVT_COUNT; i++)
        lapic->state.lvt[i] = LVT_MASKED;
    lapic_update(lapic);
}

static void power_up(struct lapic *lapic)
{
    lapic->state.base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (lapic->config.bsp ? APIC_BASE_BSP : 0);
    lapic->state.xapic_id = lapic->config.id << 24;
    lapic_registers_reset(lapic);
}

void lapic_reset(struct lapic *lapic)
{
    power_up(lapic);
    lapic->config.ops->base_changed(lapic->config.opaque, lapic->state.base);
}

void lapic_set_virtual_wire(struct lapic *lapic)
{
    lapic->state.svr = SVR_ENABLE | 0x0f;
    lapic->state.lvt[LVT_LINT0] = APIC_EXTINT << LVT_DELIVERY_SHIFT;
    lapic->state.lvt[LVT_LINT1] = APIC_NMI << LVT_DELIVERY_SHIFT;
    lapic_update(lapic);
}

struct lapic *lapic_create(struct apic_bus *bus, struct timer_queue *queue, struct memory *memory,
                           const struct lapic_config *config)
{
    struct lapic *lapic = calloc(1, sizeof *lapic);
    if (lapic == NULL || !apic_bus_attach(bus, lapic)) {
        free(lapic);
        return NULL;
    }
    lapic->bus = bus;
    lapic->memory = memory;
    lapic->config = *config;
    timer_init(&lapic->timer, queue, lapic_timer_fired, lapic);
    power_up(lapic);
    return lapic;
}

void lapic_destroy(struct lapic *lapic)
{
    if (lapic == NULL)
        return;
    timer_disarm(&lapic->timer);
    apic_bus_detach(lapic->bus, lapic);
    free(lapic);
}
