/* See mptable.h.
 *
 * Two buses: 0 is PCI (its number there), 1 is ISA. Every ISA interrupt but the cascade arrives at a pin of the I/O APIC:
 * its own, unless ACPI has an override, whose polarity and trigger mode are given here too. For PCI all pins of all
 * possible devices on the bus are listed, since guests may be given devices anywhere. The 8259 pair arrives at LINT0 of every
 * local APIC, NMI at LINT1. The 8259 is not wired to the I/O APIC; the interrupt mode configuration register is absent: the
 * machine starts in virtual wire mode. */
#include "boot/mptable.h"

#include <string.h>

#define PACKED __attribute__((packed))
#define BUS_PCI 0u
#define BUS_ISA 1u
#define ISA_IRQS 16u
#define ISA_CASCADE 2u
#define PCI_DEVICES 32u
#define ALL_LAPICS 0xffu
#define LAPIC_VERSION 0x14u
#define IO_APIC_VERSION 0x20u
#define CPU_ENABLED 1u
#define CPU_BOOT 2u
#define IO_APIC_ENABLED 1u

enum entry_type { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IO_APIC, ENTRY_IO_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum interrupt_type { INTERRUPT_INT, INTERRUPT_NMI, INTERRUPT_SMI, INTERRUPT_EXTINT };

struct PACKED header {
    char signature[4];
    uint16_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[8];
    char product_id[12];
    uint32_t oem_table;
    uint16_t oem_table_size;
    uint16_t entry_count;
    uint32_t local_apic;
    uint16_t extended_length;
    uint8_t extended_checksum;
    uint8_t reserved;
};
_Static_assert(sizeof(struct header) == 44, "figure 4-3");

struct PACKED interrupt {
    uint8_t entry, type;
    uint16_t flags; /* polarity and trigger mode, as in the MADT */
    uint8_t bus, irq, apic, pin;
};
_Static_assert(sizeof(struct interrupt) == 8, "figures 4-7 and 4-8");

static uint8_t checksum(const void *bytes, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    return (uint8_t)-sum;
}

static void entry_add(struct mptable *table, const void *entry, size_t size)
{
    struct header *header = (struct header *)(void *)table->bytes;
    memcpy(table->bytes + table->size, entry, size);
    table->size += size;
    header->entry_count++;
}

static void processors_add(struct mptable *table, const struct acpi_description *description)
{
    for (unsigned i = 0; i < description->cpu_count; i++) {
        const struct PACKED {
            uint8_t entry, apic_id, apic_version, flags;
            uint32_t signature, features, reserved[2];
        } processor = {ENTRY_PROCESSOR, (uint8_t)i, LAPIC_VERSION, (uint8_t)(CPU_ENABLED | (i == 0 ? CPU_BOOT : 0)),
                       description->cpu_signature, description->cpu_features, {0, 0}};
        entry_add(table, &processor, sizeof processor);
    }
}

static void buses_add(struct mptable *table)
{
    const struct PACKED {
        uint8_t entry, id;
        char name[6];
    } buses[] = {{ENTRY_BUS, BUS_PCI, {'P', 'C', 'I', ' ', ' ', ' '}}, {ENTRY_BUS, BUS_ISA, {'I', 'S', 'A', ' ', ' ', ' '}}};
    for (unsigned i = 0; i < ARRAY_LEN(buses); i++)
        entry_add(table, &buses[i], sizeof buses[i]);
}

static void io_apic_add(struct mptable *table, const struct acpi_description *description)
{
    const struct PACKED {
        uint8_t entry, id, version, flags;
        uint32_t base;
    } io_apic = {ENTRY_IO_APIC, description->io_apic_id, IO_APIC_VERSION, IO_APIC_ENABLED, (uint32_t)description->io_apic_gpa};
    entry_add(table, &io_apic, sizeof io_apic);
}

static void isa_interrupts_add(struct mptable *table, const struct acpi_description *description)
{
    for (unsigned irq = 0; irq < ISA_IRQS; irq++) {
        struct interrupt interrupt = {.entry = ENTRY_IO_INTERRUPT, .type = INTERRUPT_INT, .bus = BUS_ISA,
                                      .irq = (uint8_t)irq, .apic = description->io_apic_id, .pin = (uint8_t)irq};
        for (unsigned i = 0; i < description->override_count; i++)
            if (description->overrides[i].isa_irq == irq) {
                interrupt.pin = (uint8_t)description->overrides[i].gsi;
                interrupt.flags = description->overrides[i].flags;
            }
        if (irq != ISA_CASCADE)
            entry_add(table, &interrupt, sizeof interrupt);
    }
}

static void pci_interrupts_add(struct mptable *table, const struct acpi_description *description)
{
    for (unsigned device = 0; device < PCI_DEVICES; device++)
        for (unsigned pin = 0; pin < ACPI_PCI_PINS; pin++) {
            unsigned line = (device + pin + description->pci_swizzle) % ACPI_PCI_PINS;
            const struct interrupt interrupt = {.entry = ENTRY_IO_INTERRUPT, .type = INTERRUPT_INT,
                                                .flags = ACPI_INTI_HIGH | ACPI_INTI_LEVEL, .bus = BUS_PCI,
                                                .irq = (uint8_t)(device << 2 | pin), .apic = description->io_apic_id,
                                                .pin = (uint8_t)description->pci_gsi[line]};
            entry_add(table, &interrupt, sizeof interrupt);
        }
}

static void local_interrupts_add(struct mptable *table)
{
    const struct interrupt interrupts[] = {
        {.entry = ENTRY_LOCAL_INTERRUPT, .type = INTERRUPT_EXTINT, .bus = BUS_ISA, .apic = ALL_LAPICS, .pin = 0},
        {.entry = ENTRY_LOCAL_INTERRUPT, .type = INTERRUPT_NMI, .bus = BUS_ISA, .apic = ALL_LAPICS, .pin = 1},
    };
    for (unsigned i = 0; i < ARRAY_LEN(interrupts); i++)
        entry_add(table, &interrupts[i], sizeof interrupts[i]);
}

bool mptable_build(const struct acpi_description *description, gpa_t table_gpa, struct mptable *out)
{
    if (description->cpu_count > MPTABLE_CPUS_MAX)
        return false;
    memset(out, 0, sizeof *out);
    struct header *header = (struct header *)(void *)out->bytes;
    *header = (struct header){.signature = {'P', 'C', 'M', 'P'},
                              .revision = 4,
                              .oem_id = {'R', 'I', 'N', 'G', '3', ' ', ' ', ' '},
                              .product_id = {'I', '4', '4', '0', 'F', 'X', ' ', ' ', ' ', ' ', ' ', ' '},
                              .local_apic = description->local_apic_gpa};
    out->size = sizeof *header;
    processors_add(out, description);
    buses_add(out);
    io_apic_add(out, description);
    isa_interrupts_add(out, description);
    pci_interrupts_add(out, description);
    local_interrupts_add(out);
    header->length = (uint16_t)out->size;
    header->checksum = checksum(out->bytes, out->size);
    struct PACKED {
        char signature[4];
        uint32_t table;
        uint8_t length, revision, checksum, features[5];
    } floating = {.signature = {'_', 'M', 'P', '_'}, .table = (uint32_t)table_gpa, .length = 1, .revision = 4};
    _Static_assert(sizeof floating == MPTABLE_FLOATING_SIZE, "figure 4-2");
    floating.checksum = checksum(&floating, sizeof floating);
    memcpy(out->floating, &floating, sizeof floating);
    return true;
}
