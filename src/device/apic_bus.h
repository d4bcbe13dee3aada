/* The bus between local APICs and I/O APICs: who gets an interrupt message.
 *
 * Holds all local APICs of a machine (they attach themselves at creation) and carries messages from I/O APICs, from
 * MSI-capable devices and from the ICR of a local APIC; and EOI broadcasts the other way.
 *
 * Threads: under the device lock, like every chip. Source: SDM volume 3, chapter "Advanced Programmable Interrupt
 * Controller" (10 or 11, by edition), sections on interrupt distribution and message signalled interrupts.
 */
#ifndef RING3_DEVICE_APIC_BUS_H
#define RING3_DEVICE_APIC_BUS_H

#include "base/types.h"

#define APIC_BUS_LAPICS 255u
#define APIC_DEST_BROADCAST 0xffffffffu /* in struct apic_message; senders with 8-bit fields widen FFh to it */

struct apic_bus;
struct lapic;

enum apic_delivery {
    APIC_FIXED = 0,
    APIC_LOWEST_PRIORITY = 1,
    APIC_SMI = 2,
    APIC_REMOTE_READ = 3, /* not on any processor since the P6 family: never delivered */
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_STARTUP = 6,
    APIC_EXTINT = 7,
};

struct apic_message {
    uint32_t dest;
    bool logical; /* destination mode */
    enum apic_delivery delivery;
    uint8_t vector;
    bool level_triggered;
    bool asserted; /* level: false only for INIT level de-assert, which does nothing today */
};

/* NULL when out of memory. */
struct apic_bus *apic_bus_create(void);
/* After the last local and I/O APIC. */
void apic_bus_destroy(struct apic_bus *bus);

/* Delivers to every local APIC that the destination names (one of them for lowest priority). True if any took it. */
bool apic_bus_deliver(struct apic_bus *bus, const struct apic_message *message);
/* Likewise to all but `self` (NULL: to all), whatever message->dest says: the ICR's shorthands. */
bool apic_bus_broadcast(struct apic_bus *bus, const struct apic_message *message, struct lapic *self);

/* An INTR wire that an 8259 drives through an I/O APIC pin in ExtINT mode: its level, to the processors named. */
void apic_bus_set_extint(struct apic_bus *bus, uint32_t dest, bool logical, bool level);

/* A memory write of a message signalled interrupt: `gpa` in FEExxxxxh, `data` as in the device's MSI registers. */
bool apic_bus_msi(struct apic_bus *bus, gpa_t gpa, uint32_t data);

/* Who hears EOI broadcasts: the I/O APIC. One listener a bus. */
void apic_bus_set_eoi_listener(struct apic_bus *bus, void (*eoi)(void *opaque, uint8_t vector), void *opaque);

/* For local APICs. attach is false when the bus is full. */
bool apic_bus_attach(struct apic_bus *bus, struct lapic *lapic);
void apic_bus_detach(struct apic_bus *bus, struct lapic *lapic);
void apic_bus_eoi(struct apic_bus *bus, uint8_t vector);

#endif
