/* The local APIC's registers, as software sees them.
 *
 * Model. One table says of each register whether it can be read and written in xAPIC mode (by memory access at number
 * * 16) and in x2APIC mode (by MSR 800h + number), and which bits of it are reserved in x2APIC mode. Both ways end in
 * register_read() and register_write(), which are never asked for what the table forbids. xAPIC mode answers an access
 * to a register that does not exist with an error in ESR and zero; x2APIC mode with #GP.
 *
 * The page is decoded in xAPIC mode only; otherwise it reads as ones. Registers are accessed as aligned double words;
 * narrower or unaligned reads see the bytes that are there (none beyond the first four of sixteen), such writes are
 * dropped: the manual leaves both undefined.
 *
 * IA32_APIC_BASE: disabled (EN 0, EXTD 0), xAPIC (1, 0), x2APIC (1, 1). From disabled only to xAPIC, from x2APIC only
 * to disabled; (0, 1) never.
 *
 * Source: SDM volume 3, "Local APIC Register Address Map", "Extended XAPIC (x2APIC)".
 */
#include "device/lapic_internal.h"

enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_INITIAL_COUNT = 0x38,
    REG_CURRENT_COUNT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
    REG_COUNT = 0x40,
};

#define VERSION_MAX_LVT (LVT_COUNT - 1u)
#define VERSION_EOI_SUPPRESS 0x1000000u

#define SVR_WRITABLE (0xffu | SVR_ENABLE | SVR_FOCUS_DISABLE | SVR_EOI_SUPPRESS)
#define DIVIDE_WRITABLE 0xbu

#define ICR_VECTOR 0xffu
#define ICR_LOGICAL 0x800u
#define ICR_STATUS 0x1000u
#define ICR_ASSERT 0x4000u
#define ICR_LEVEL 0x8000u
#define ICR_WRITABLE 0xccfffu
#define ICR_SHORTHAND_SHIFT 18

/* What may be done. */
#define XR 1u
#define XW 2u
#define X2R 4u
#define X2W 8u

struct reg {
    uint8_t access;
    uint32_t reserved; /* x2APIC mode: bits whose setting is #GP */
};

#define LVT_FIXED_BITS (LVT_VECTOR | LVT_MASKED)
#define LVT_SOURCE_BITS (LVT_FIXED_BITS | LVT_DELIVERY)
#define LVT_PIN_BITS (LVT_SOURCE_BITS | LVT_POLARITY | LVT_LEVEL)

static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = LVT_FIXED_BITS | LVT_TIMER_MODE,
    [LVT_THERMAL] = LVT_SOURCE_BITS,
    [LVT_PERFORMANCE] = LVT_SOURCE_BITS,
    [LVT_LINT0] = LVT_PIN_BITS,
    [LVT_LINT1] = LVT_PIN_BITS,
    [LVT_ERROR] = LVT_FIXED_BITS,
};

/* Delivery status and remote IRR are read-only, not reserved. */
#define LVT_ROW(writable)                                                                                              \
    {                                                                                                                  \
        XR | XW | X2R | X2W, ~((writable) | LVT_STATUS)                                                                \
    }

static const struct reg regs[REG_COUNT] = {
    [REG_ID] = {XR | XW | X2R, 0},
    [REG_VERSION] = {XR | X2R, 0},
    [REG_TPR] = {XR | XW | X2R | X2W, ~0xffu},
    [REG_APR] = {XR, 0},
    [REG_PPR] = {XR | X2R, 0},
    [REG_EOI] = {XR | XW | X2W, ~0u},
    [REG_RRD] = {XR, 0},
    [REG_LDR] = {XR | XW | X2R, 0},
    [REG_DFR] = {XR | XW, 0},
    [REG_SVR] = {XR | XW | X2R | X2W, ~SVR_WRITABLE},
    [REG_ISR... REG_ISR + 7] = {XR | X2R, 0},
    [REG_TMR... REG_TMR + 7] = {XR | X2R, 0},
    [REG_IRR... REG_IRR + 7] = {XR | X2R, 0},
    [REG_ESR] = {XR | XW | X2R | X2W, ~0u},
    [REG_ICR] = {XR | XW | X2R | X2W, ~(ICR_WRITABLE | ICR_STATUS)},
    [REG_ICR_HIGH] = {XR | XW, 0},
    [REG_LVT + LVT_TIMER] = LVT_ROW(LVT_FIXED_BITS | LVT_TIMER_MODE),
    [REG_LVT + LVT_THERMAL] = LVT_ROW(LVT_SOURCE_BITS),
    [REG_LVT + LVT_PERFORMANCE] = LVT_ROW(LVT_SOURCE_BITS),
    [REG_LVT + LVT_LINT0] = LVT_ROW(LVT_PIN_BITS | LVT_REMOTE_IRR),
    [REG_LVT + LVT_LINT1] = LVT_ROW(LVT_PIN_BITS | LVT_REMOTE_IRR),
    [REG_LVT + LVT_ERROR] = LVT_ROW(LVT_FIXED_BITS),
    [REG_INITIAL_COUNT] = {XR | XW | X2R | X2W, 0},
    [REG_CURRENT_COUNT] = {XR | X2R, 0},
    [REG_DIVIDE] = {XR | XW | X2R | X2W, ~DIVIDE_WRITABLE},
    [REG_SELF_IPI] = {X2W, ~0xffu},
};

uint32_t lapic_x2apic_ldr(uint32_t id)
{
    return (id >> 4) << 16 | 1u << (id & 0xf);
}

static uint32_t register_read(struct lapic *lapic, unsigned number)
{
    const struct lapic_state *state = &lapic->state;
    bool x2apic = lapic_mode(lapic) == LAPIC_X2APIC;
    switch (number) {
    case REG_ID:
        return x2apic ? lapic->config.id : state->xapic_id;
    case REG_VERSION:
        return LAPIC_VERSION | VERSION_MAX_LVT << 16 | VERSION_EOI_SUPPRESS;
    case REG_TPR:
        return state->tpr;
    case REG_APR:
        return lapic_arbitration_priority(lapic);
    case REG_PPR:
        return lapic_processor_priority(lapic);
    case REG_LDR:
        return x2apic ? lapic_x2apic_ldr(lapic->config.id) : state->ldr;
    case REG_DFR:
        return state->dfr;
    case REG_SVR:
        return state->svr;
    case REG_ISR ... REG_ISR + 7:
        return state->isr[number - REG_ISR];
    case REG_TMR ... REG_TMR + 7:
        return state->tmr[number - REG_TMR];
    case REG_IRR ... REG_IRR + 7:
        return state->irr[number - REG_IRR];
    case REG_ESR:
        return state->esr;
    case REG_ICR:
        return state->icr_low;
    case REG_ICR_HIGH:
        return state->icr_high;
    case REG_LVT ... REG_LVT + LVT_COUNT - 1:
        return state->lvt[number - REG_LVT];
    case REG_INITIAL_COUNT:
        return state->timer_initial;
    case REG_CURRENT_COUNT:
        return lapic_timer_count(lapic);
    case REG_DIVIDE:
        return state->timer_divide;
    default: /* EOI, remote read */
        return 0;
    }
}

/* SDM, "Issuing Interprocessor Interrupts". */
static void ipi_send(struct lapic *lapic)
{
    enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };
    uint32_t low = lapic->state.icr_low, high = lapic->state.icr_high;
    struct apic_message message = {
        .dest = high,
        .logical = low & ICR_LOGICAL,
        .delivery = low >> 8 & 7,
        .vector = low & ICR_VECTOR,
        .asserted = true,
    };
    if (lapic_mode(lapic) == LAPIC_XAPIC)
        message.dest = high >> 24 == 0xff ? APIC_DEST_BROADCAST : high >> 24;
    if (message.delivery == APIC_INIT && (low & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL)
        message.asserted = false;
    if (message.delivery == APIC_EXTINT || message.delivery == APIC_REMOTE_READ)
        return; /* reserved here */
    if ((message.delivery == APIC_FIXED || message.delivery == APIC_LOWEST_PRIORITY) &&
        message.vector < VECTOR_FIRST_LEGAL)
        lapic_error(lapic, ESR_SEND_ILLEGAL_VECTOR);
    switch (low >> ICR_SHORTHAND_SHIFT & 3) {
    case SHORTHAND_NONE:
        apic_bus_deliver(lapic->bus, &message);
        break;
    case SHORTHAND_SELF:
        lapic_accept(lapic, &message);
        break;
    case SHORTHAND_ALL:
        apic_bus_broadcast(lapic->bus, &message, NULL);
        break;
    case SHORTHAND_OTHERS:
        apic_bus_broadcast(lapic->bus, &message, lapic);
        break;
    }
}

static void self_ipi(struct lapic *lapic, uint8_t vector)
{
    if (vector < VECTOR_FIRST_LEGAL)
        lapic_error(lapic, ESR_SEND_ILLEGAL_VECTOR);
    lapic_accept(lapic, &(struct apic_message){.delivery = APIC_FIXED, .vector = vector, .asserted = true});
}

static void lvt_write(struct lapic *lapic, unsigned entry, uint32_t value)
{
    uint32_t *lvt = &lapic->state.lvt[entry], old = *lvt;
    *lvt = value & lvt_writable[entry];
    if (!(lapic->state.svr & SVR_ENABLE))
        *lvt |= LVT_MASKED;
    if (entry == LVT_TIMER && (old ^ *lvt) & LVT_TIMER_MODE)
        lapic_timer_mode_changed(lapic);
    if (entry == LVT_LINT0 || entry == LVT_LINT1) {
        if (*lvt & LVT_LEVEL)
            *lvt |= old & LVT_REMOTE_IRR;
        lapic_lint_update(lapic, entry - LVT_LINT0, false);
    }
}

static void svr_write(struct lapic *lapic, uint32_t value)
{
    lapic->state.svr = value & SVR_WRITABLE;
    if (value & SVR_ENABLE)
        return;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        lapic->state.lvt[i] |= LVT_MASKED;
}

static void register_write(struct lapic *lapic, unsigned number, uint32_t value)
{
    struct lapic_state *state = &lapic->state;
    switch (number) {
    case REG_ID:
        state->xapic_id = value & 0xff000000;
        break;
    case REG_TPR:
        state->tpr = value & 0xff;
        break;
    case REG_EOI:
        lapic_eoi(lapic);
        break;
    case REG_LDR:
        state->ldr = value & 0xff000000;
        break;
    case REG_DFR:
        state->dfr = value | 0x0fffffff;
        break;
    case REG_SVR:
        svr_write(lapic, value);
        break;
    case REG_ESR: /* a write shows what has gathered since the last one */
        state->esr = state->esr_pending;
        state->esr_pending = 0;
        break;
    case REG_ICR:
        state->icr_low = value & ICR_WRITABLE;
        ipi_send(lapic);
        break;
    case REG_ICR_HIGH:
        state->icr_high = value & 0xff000000;
        break;
    case REG_LVT ... REG_LVT + LVT_COUNT - 1:
        lvt_write(lapic, number - REG_LVT, value);
        break;
    case REG_INITIAL_COUNT:
        lapic_timer_set_initial(lapic, value);
        break;
    case REG_DIVIDE:
        lapic_timer_set_divide(lapic, value & DIVIDE_WRITABLE);
        break;
    case REG_SELF_IPI:
        self_ipi(lapic, (uint8_t)value);
        break;
    }
    lapic_update(lapic);
}

/* Register numbers beyond the table exist as little as its empty rows. */
static unsigned register_access(unsigned number)
{
    return number < REG_COUNT ? regs[number].access : 0;
}

static uint64_t mmio_read(void *dev, uint64_t offset, unsigned size)
{
    struct lapic *lapic = dev;
    unsigned number = (unsigned)offset >> 4, byte = (unsigned)offset & 0xf;
    if (lapic_mode(lapic) != LAPIC_XAPIC)
        return UINT64_MAX;
    lapic_pv_eoi_sync(lapic);
    if (!(register_access(number) & (XR | XW))) {
        lapic_error(lapic, ESR_ILLEGAL_REGISTER);
        return 0;
    }
    return byte < 4 ? register_read(lapic, number) >> (8 * byte) : 0;
}

static void mmio_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct lapic *lapic = dev;
    unsigned number = (unsigned)offset >> 4;
    if (lapic_mode(lapic) != LAPIC_XAPIC || size < 4 || offset & 0xf)
        return;
    lapic_pv_eoi_sync(lapic);
    if (!(register_access(number) & (XR | XW)))
        lapic_error(lapic, ESR_ILLEGAL_REGISTER);
    else if (register_access(number) & XW)
        register_write(lapic, number, (uint32_t)value);
}

const struct io_ops lapic_mmio_ops = {.read = mmio_read, .write = mmio_write, .name = "local APIC"};

static bool base_write(struct lapic *lapic, uint64_t value)
{
    uint64_t old = lapic->state.base;
    uint64_t address_bits = (1ull << lapic->config.phys_bits) - PAGE_SIZE;
    enum lapic_mode from = lapic_mode(lapic), to = lapic_mode_of(value);
    if (value & ~(address_bits | APIC_BASE_BSP | APIC_BASE_EN | APIC_BASE_EXTD))
        return false;
    if (to == LAPIC_INVALID || (from == LAPIC_DISABLED && to == LAPIC_X2APIC) ||
        (from == LAPIC_X2APIC && to == LAPIC_XAPIC))
        return false;
    lapic->state.base = value;
    if (from != to && to == LAPIC_DISABLED) {
        lapic->state.xapic_id = lapic->config.id << 24;
        lapic_registers_reset(lapic);
    } else if (from != to && to == LAPIC_X2APIC) {
        lapic->state.icr_high = 0;
    }
    if (old != value)
        lapic->config.ops->base_changed(lapic->config.opaque, value);
    lapic_update(lapic);
    return true;
}

bool lapic_msr_read(struct lapic *lapic, uint32_t msr, uint64_t *value)
{
    lapic_pv_eoi_sync(lapic);
    if (msr == MSR_IA32_APIC_BASE) {
        *value = lapic->state.base;
        return true;
    }
    if (msr == MSR_IA32_TSC_DEADLINE) {
        *value = lapic->state.tsc_deadline;
        return true;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || lapic_mode(lapic) != LAPIC_X2APIC)
        return false;
    unsigned number = msr - MSR_X2APIC_FIRST;
    if (!(register_access(number) & X2R))
        return false;
    *value = register_read(lapic, number);
    if (number == REG_ICR)
        *value |= (uint64_t)lapic->state.icr_high << 32;
    return true;
}

bool lapic_msr_write(struct lapic *lapic, uint32_t msr, uint64_t value)
{
    lapic_pv_eoi_sync(lapic);
    if (msr == MSR_IA32_APIC_BASE)
        return base_write(lapic, value);
    if (msr == MSR_IA32_TSC_DEADLINE) {
        lapic_timer_set_tsc_deadline(lapic, value);
        return true;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || lapic_mode(lapic) != LAPIC_X2APIC)
        return false;
    unsigned number = msr - MSR_X2APIC_FIRST;
    if (!(register_access(number) & X2W) || (uint32_t)value & regs[number].reserved)
        return false;
    if (number != REG_ICR && value >> 32 != 0)
        return false;
    if (number == REG_ICR)
        lapic->state.icr_high = (uint32_t)(value >> 32);
    register_write(lapic, number, (uint32_t)value);
    return true;
}
