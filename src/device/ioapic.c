/* I/O APIC. See ioapic.h.
 *
 * Model. A redirection entry a pin. An edge-triggered pin sends its message when it becomes asserted; if it is masked
 * then, the edge is lost, as the datasheet says. A level-triggered pin sends while it is asserted, not masked, and the
 * last message has been ended: `remote IRR` is set when a local APIC takes the message and cleared by the EOI of that
 * vector (a broadcast, or a write to the EOI register), upon which a pin that is still asserted sends again.
 *
 * SMI, NMI and INIT are edges whatever the trigger mode says. An ExtINT pin carries the 8259's INTR: not a message but
 * a wire, whose level is shown to the processors that the entry names while the entry is not masked.
 *
 * Turning an entry to edge-triggered clears its remote IRR: the way in which operating systems end a level interrupt
 * on chips without an EOI register.
 *
 * Pins are logically asserted or not; the polarity bit is remembered without effect, since a board whose firmware
 * tables and wires agree never shows the difference.
 *
 * Not emulated: delivery status (always idle), the arbitration bus (its ID register follows the ID).
 */
#include "device/ioapic.h"

#include <stdlib.h>

#define IOREGSEL 0x00
#define IOWIN 0x10
#define IOEOI 0x40

#define IOAPICID 0x00
#define IOAPICVER 0x01
#define IOAPICARB 0x02
#define IOREDTBL 0x10

#define RTE_VECTOR 0xffull
#define RTE_DELIVERY_SHIFT 8
#define RTE_LOGICAL 0x800ull
#define RTE_STATUS 0x1000ull
#define RTE_POLARITY 0x2000ull
#define RTE_REMOTE_IRR 0x4000ull
#define RTE_LEVEL 0x8000ull
#define RTE_MASKED 0x10000ull
#define RTE_DEST_SHIFT 56
#define RTE_WRITABLE (0xff0000000001ffffull & ~(RTE_STATUS | RTE_REMOTE_IRR))

struct ioapic_state {
    uint8_t id;
    uint8_t select;
    uint32_t asserted; /* pins, a bit each */
    uint64_t redirection[IOAPIC_PINS];
};

struct ioapic {
    struct apic_bus *bus;
    uint8_t initial_id;
    struct ioapic_state state;
};

static enum apic_delivery entry_delivery(uint64_t entry)
{
    return (enum apic_delivery)(entry >> RTE_DELIVERY_SHIFT & 7);
}

static bool entry_level(uint64_t entry)
{
    enum apic_delivery delivery = entry_delivery(entry);
    return entry & RTE_LEVEL && (delivery == APIC_FIXED || delivery == APIC_LOWEST_PRIORITY);
}

static uint32_t entry_dest(uint64_t entry)
{
    uint32_t dest = (uint32_t)(entry >> RTE_DEST_SHIFT);
    return dest == 0xff ? APIC_DEST_BROADCAST : dest;
}

static bool pin_asserted(const struct ioapic *ioapic, unsigned n)
{
    return ioapic->state.asserted >> n & 1;
}

/* Whether the pin shows an ExtINT wire's high level to the bus. */
static bool extint_shown(const struct ioapic *ioapic, unsigned n)
{
    uint64_t entry = ioapic->state.redirection[n];
    return entry_delivery(entry) == APIC_EXTINT && !(entry & RTE_MASKED) && pin_asserted(ioapic, n);
}

static void extint_set(struct ioapic *ioapic, uint64_t entry, bool level)
{
    apic_bus_set_extint(ioapic->bus, entry_dest(entry), entry & RTE_LOGICAL, level);
}

static bool message_send(struct ioapic *ioapic, uint64_t entry)
{
    return apic_bus_deliver(ioapic->bus, &(struct apic_message){
                                             .dest = entry_dest(entry),
                                             .logical = entry & RTE_LOGICAL,
                                             .delivery = entry_delivery(entry),
                                             .vector = entry & RTE_VECTOR,
                                             .level_triggered = entry_level(entry),
                                             .asserted = true,
                                         });
}

/* Sends what a level-triggered pin has to say now. */
static void level_service(struct ioapic *ioapic, unsigned n)
{
    uint64_t *entry = &ioapic->state.redirection[n];
    if (!entry_level(*entry) || *entry & (RTE_MASKED | RTE_REMOTE_IRR) || !pin_asserted(ioapic, n))
        return;
    if (message_send(ioapic, *entry))
        *entry |= RTE_REMOTE_IRR;
}

void ioapic_set_irq(void *opaque, unsigned n, bool level)
{
    struct ioapic *ioapic = opaque;
    if (n >= IOAPIC_PINS || level == pin_asserted(ioapic, n))
        return;
    ioapic->state.asserted ^= 1u << n;
    uint64_t entry = ioapic->state.redirection[n];
    if (entry & RTE_MASKED)
        return;
    if (entry_delivery(entry) == APIC_EXTINT)
        extint_set(ioapic, entry, level);
    else if (entry_level(entry))
        level_service(ioapic, n);
    else if (level)
        message_send(ioapic, entry);
}

static void eoi(void *opaque, uint8_t vector)
{
    struct ioapic *ioapic = opaque;
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        uint64_t *entry = &ioapic->state.redirection[n];
        if ((*entry & RTE_VECTOR) != vector || !(*entry & RTE_REMOTE_IRR))
            continue;
        *entry &= ~RTE_REMOTE_IRR;
        level_service(ioapic, n);
    }
}

static void entry_write(struct ioapic *ioapic, unsigned n, bool high, uint32_t value)
{
    uint64_t *entry = &ioapic->state.redirection[n], old = *entry;
    bool shown = extint_shown(ioapic, n);
    uint64_t written = high ? (uint64_t)value << 32 | (uint32_t)old : (old & ~0xffffffffull) | value;
    *entry = (written & RTE_WRITABLE) | (old & RTE_REMOTE_IRR);
    if (!(*entry & RTE_LEVEL))
        *entry &= ~RTE_REMOTE_IRR;
    if (shown)
        extint_set(ioapic, old, false);
    if (extint_shown(ioapic, n))
        extint_set(ioapic, *entry, true);
    level_service(ioapic, n);
}

static uint32_t window_read(const struct ioapic *ioapic)
{
    const struct ioapic_state *state = &ioapic->state;
    unsigned at = state->select;
    if (at == IOAPICID || at == IOAPICARB)
        return (uint32_t)state->id << 24;
    if (at == IOAPICVER)
        return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
    if (at < IOREDTBL || at >= IOREDTBL + 2 * IOAPIC_PINS)
        return UINT32_MAX;
    return (uint32_t)(state->redirection[(at - IOREDTBL) / 2] >> (at & 1 ? 32 : 0));
}

static void window_write(struct ioapic *ioapic, uint32_t value)
{
    unsigned at = ioapic->state.select;
    if (at == IOAPICID)
        ioapic->state.id = value >> 24 & 0xf;
    else if (at >= IOREDTBL && at < IOREDTBL + 2 * IOAPIC_PINS)
        entry_write(ioapic, (at - IOREDTBL) / 2, at & 1, value);
}

/* The registers are double words; the parts of one can be read, and IOREGSEL and EOI are bytes in effect. */
static uint64_t ioapic_read(void *dev, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = dev;
    unsigned shift = 8 * (offset & 3);
    switch (offset & ~3ull) {
    case IOREGSEL:
        return (uint32_t)ioapic->state.select >> shift;
    case IOWIN:
        return window_read(ioapic) >> shift;
    case IOEOI: /* write-only */
        return 0;
    default:
        return UINT64_MAX;
    }
}

static void ioapic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *ioapic = dev;
    if (offset == IOREGSEL)
        ioapic->state.select = (uint8_t)value;
    else if (offset == IOWIN && size >= 4)
        window_write(ioapic, (uint32_t)value);
    else if (offset == IOEOI)
        eoi(ioapic, (uint8_t)value);
}

const struct io_ops ioapic_mmio_ops = {.read = ioapic_read, .write = ioapic_write, .name = "I/O APIC"};

void ioapic_reset(struct ioapic *ioapic)
{
    struct ioapic_state *state = &ioapic->state;
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        if (extint_shown(ioapic, n))
            extint_set(ioapic, state->redirection[n], false);
        state->redirection[n] = RTE_MASKED;
    }
    state->id = ioapic->initial_id;
    state->select = 0;
}

struct ioapic *ioapic_create(struct apic_bus *bus, uint8_t id)
{
    struct ioapic *ioapic = calloc(1, sizeof *ioapic);
    if (ioapic == NULL)
        return NULL;
    ioapic->bus = bus;
    ioapic->initial_id = id & 0xf;
    for (unsigned n = 0; n < IOAPIC_PINS; n++)
        ioapic->state.redirection[n] = RTE_MASKED;
    ioapic->state.id = ioapic->initial_id;
    apic_bus_set_eoi_listener(bus, eoi, ioapic);
    return ioapic;
}

void ioapic_destroy(struct ioapic *ioapic)
{
    if (ioapic == NULL)
        return;
    apic_bus_set_eoi_listener(ioapic->bus, NULL, NULL);
    free(ioapic);
}

void ioapic_describe(const struct ioapic *ioapic, FILE *out)
{
    static const char *const delivery[8] = {"fixed", "lowest", "smi", "reserved", "nmi", "init", "reserved", "extint"};
    fprintf(out, "id=%u select=%02x\n", ioapic->state.id, ioapic->state.select);
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        uint64_t entry = ioapic->state.redirection[n];
        fprintf(out, "pin %-2u %016llx vector=%02x %-8s %-8s dest=%02x %s%s%s%s%s\n", n, (unsigned long long)entry,
                (unsigned)(entry & RTE_VECTOR), delivery[entry_delivery(entry)], entry & RTE_LOGICAL ? "logical" : "physical",
                (unsigned)(entry >> RTE_DEST_SHIFT), entry & RTE_LEVEL ? "level" : "edge",
                entry & RTE_POLARITY ? " low" : "", entry & RTE_REMOTE_IRR ? " remote-irr" : "",
                entry & RTE_MASKED ? " masked" : "", pin_asserted(ioapic, n) ? " asserted" : "");
    }
}
