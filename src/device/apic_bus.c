/* The interrupt message bus. See apic_bus.h.
 *
 * A message meets the local APICs in the order of their attachment. Each decides by itself whether it is named (its ID,
 * its logical destination in the model that it is set to). Lowest priority: among those that are named and can take
 * fixed interrupts, the one with the lowest arbitration priority; of equals, the next one after the last chosen, so
 * that idle processors take turns. No focus processor, as since the Pentium 4.
 */
#include "device/apic_bus.h"

#include <stdlib.h>

#include "device/lapic.h"

#define MSI_BASE 0xfee00000u
#define MSI_REDIRECTION_HINT 0x8u /* in the address */
#define MSI_LOGICAL 0x4u
#define MSI_LEVEL_TRIGGERED 0x8000u /* in the data */
#define MSI_ASSERTED 0x4000u

struct apic_bus_state {
    unsigned last_chosen; /* index of the last winner of a lowest priority arbitration */
};

struct apic_bus {
    unsigned count;
    struct lapic *lapic[APIC_BUS_LAPICS];
    void (*eoi)(void *opaque, uint8_t vector);
    void *eoi_opaque;
    struct apic_bus_state state;
};

struct apic_bus *apic_bus_create(void)
{
    return calloc(1, sizeof(struct apic_bus));
}

void apic_bus_destroy(struct apic_bus *bus)
{
    free(bus);
}

bool apic_bus_attach(struct apic_bus *bus, struct lapic *lapic)
{
    if (bus->count == APIC_BUS_LAPICS)
        return false;
    bus->lapic[bus->count++] = lapic;
    return true;
}

void apic_bus_detach(struct apic_bus *bus, struct lapic *lapic)
{
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->lapic[i] == lapic) {
            bus->lapic[i] = bus->lapic[--bus->count];
            bus->state.last_chosen = 0;
            return;
        }
    }
}

/* `named` by destination, or by a shorthand that leaves `except` out. */
struct recipients {
    const struct apic_message *message;
    bool by_destination;
    const struct lapic *except;
};

static bool is_recipient(const struct recipients *to, const struct lapic *lapic)
{
    if (!to->by_destination)
        return lapic != to->except;
    return lapic_is_named(lapic, to->message->dest, to->message->logical);
}

static bool deliver_lowest(struct apic_bus *bus, const struct recipients *to)
{
    struct lapic *winner = NULL;
    unsigned winner_index = 0, lowest = 0;
    for (unsigned i = 1; i <= bus->count; i++) {
        unsigned index = (bus->state.last_chosen + i) % bus->count;
        struct lapic *lapic = bus->lapic[index];
        if (!is_recipient(to, lapic) || !lapic_takes_fixed(lapic))
            continue;
        unsigned priority = lapic_arbitration_priority(lapic);
        if (winner == NULL || priority < lowest) {
            winner = lapic;
            winner_index = index;
            lowest = priority;
        }
    }
    if (winner == NULL)
        return false;
    bus->state.last_chosen = winner_index;
    return lapic_accept(winner, to->message);
}

static bool deliver(struct apic_bus *bus, const struct recipients *to)
{
    if (to->message->delivery == APIC_LOWEST_PRIORITY)
        return deliver_lowest(bus, to);
    bool accepted = false;
    for (unsigned i = 0; i < bus->count; i++)
        if (is_recipient(to, bus->lapic[i]))
            accepted |= lapic_accept(bus->lapic[i], to->message);
    return accepted;
}

bool apic_bus_deliver(struct apic_bus *bus, const struct apic_message *message)
{
    return deliver(bus, &(struct recipients){.message = message, .by_destination = true});
}

bool apic_bus_broadcast(struct apic_bus *bus, const struct apic_message *message, struct lapic *self)
{
    return deliver(bus, &(struct recipients){.message = message, .except = self});
}

void apic_bus_set_extint(struct apic_bus *bus, uint32_t dest, bool logical, bool level)
{
    for (unsigned i = 0; i < bus->count; i++)
        if (lapic_is_named(bus->lapic[i], dest, logical))
            lapic_set_extint(bus->lapic[i], level);
}

bool apic_bus_msi(struct apic_bus *bus, gpa_t gpa, uint32_t data)
{
    if ((gpa & ~0xfffffull) != MSI_BASE)
        return false;
    uint32_t dest = gpa >> 12 & 0xff;
    enum apic_delivery delivery = data >> 8 & 7;
    /* The redirection hint asks for one of several. The destination mode counts with and without it: the manual ties
     * it to the hint, chipsets and operating systems do not. */
    if (gpa & MSI_REDIRECTION_HINT && delivery == APIC_FIXED)
        delivery = APIC_LOWEST_PRIORITY;
    bool level_triggered = data & MSI_LEVEL_TRIGGERED;
    struct apic_message message = {
        .dest = dest == 0xff ? APIC_DEST_BROADCAST : dest,
        .logical = gpa & MSI_LOGICAL,
        .delivery = delivery,
        .vector = (uint8_t)data,
        .level_triggered = level_triggered,
        .asserted = !level_triggered || data & MSI_ASSERTED,
    };
    /* A level-triggered message that takes the level away is not an interrupt. */
    return message.asserted && apic_bus_deliver(bus, &message);
}

void apic_bus_set_eoi_listener(struct apic_bus *bus, void (*eoi)(void *opaque, uint8_t vector), void *opaque)
{
    bus->eoi = eoi;
    bus->eoi_opaque = opaque;
}

void apic_bus_eoi(struct apic_bus *bus, uint8_t vector)
{
    if (bus->eoi != NULL)
        bus->eoi(bus->eoi_opaque, vector);
}
