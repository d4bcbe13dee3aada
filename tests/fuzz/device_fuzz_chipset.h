/* Two targets of device_fuzz.c that are several chips on one bus: the APICs (two local ones, an I/O APIC), and PCI
 * (host bridge, ISA bridge, power management, a card with every kind of range, in an address space of its own). */
#ifndef RING3_TESTS_FUZZ_DEVICE_FUZZ_CHIPSET_H
#define RING3_TESTS_FUZZ_DEVICE_FUZZ_CHIPSET_H

#include <stdlib.h>

#include "base/irq.h"
#include "base/timer.h"
#include "device/apic_bus.h"
#include "device/i440fx.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/pci.h"
#include "device/piix3.h"
#include "device/piix4_pm.h"
#include "memory/memory.h"

#define FUZZ_LAPICS 2u

struct fuzz_apics {
    struct memory *memory;
    struct apic_bus *bus;
    struct lapic *lapic[FUZZ_LAPICS];
    struct ioapic *ioapic;
    bool intr[FUZZ_LAPICS];
};

static void fuzz_intr(void *opaque, bool pending)
{
    bool *intr = opaque;
    if (*intr == pending)
        abort(); /* the contract: called when it turned */
    *intr = pending;
}

static void fuzz_event(void *opaque)
{
}

static void fuzz_sipi(void *opaque, uint8_t vector)
{
}

static void fuzz_base_changed(void *opaque, uint64_t apic_base)
{
}

static uint64_t fuzz_tsc_to_ns(void *opaque, uint64_t tsc)
{
    return tsc;
}

static void *fuzz_apics_create(struct timer_queue *queue)
{
    static const struct lapic_cpu_ops ops = {.intr = fuzz_intr,
                                             .nmi = fuzz_event,
                                             .smi = fuzz_event,
                                             .init = fuzz_event,
                                             .sipi = fuzz_sipi,
                                             .base_changed = fuzz_base_changed,
                                             .tsc_to_ns = fuzz_tsc_to_ns};
    struct fuzz_apics *apics = calloc(1, sizeof *apics);
    apics->memory = memory_create(64 * KiB, NULL, NULL);
    apics->bus = apic_bus_create();
    for (unsigned i = 0; i < FUZZ_LAPICS; i++) {
        struct lapic_config config = {.id = i, .bsp = i == 0, .phys_bits = 40, .ops = &ops, .opaque = &apics->intr[i]};
        apics->lapic[i] = lapic_create(apics->bus, queue, apics->memory, &config);
    }
    apics->ioapic = ioapic_create(apics->bus, 1);
    return apics;
}

static void fuzz_apics_destroy(void *dev)
{
    struct fuzz_apics *apics = dev;
    ioapic_destroy(apics->ioapic);
    for (unsigned i = 0; i < FUZZ_LAPICS; i++)
        lapic_destroy(apics->lapic[i]);
    apic_bus_destroy(apics->bus);
    memory_destroy(apics->memory);
    free(apics);
}

static void fuzz_apics_reset(void *dev)
{
    struct fuzz_apics *apics = dev;
    for (unsigned i = 0; i < FUZZ_LAPICS; i++)
        lapic_reset(apics->lapic[i]);
    ioapic_reset(apics->ioapic);
}

/* Bits 31..28 say what, bit 27 to which local APIC. */
static void fuzz_apics_poke(void *dev, uint32_t value)
{
    struct fuzz_apics *apics = dev;
    struct lapic *lapic = apics->lapic[value >> 27 & 1];
    uint64_t result;
    uint8_t byte = value & 1;
    switch (value >> 28) {
    case 0:
        (void)lapic_msr_read(lapic, MSR_X2APIC_FIRST + (value >> 16 & 0xff), &result);
        break;
    case 1:
        (void)lapic_msr_write(lapic, MSR_X2APIC_FIRST + (value >> 16 & 0xff), value & 0xffff);
        break;
    case 2:
        (void)lapic_msr_write(lapic, MSR_IA32_APIC_BASE, LAPIC_DEFAULT_BASE | (value & 0xf00));
        break;
    case 3:
        (void)lapic_msr_write(lapic, MSR_IA32_TSC_DEADLINE, value & 0xffffff);
        break;
    case 4:
        (void)lapic_ack(lapic);
        break;
    case 5:
        (void)lapic_has_interrupt(lapic);
        lapic_extint_ack(lapic);
        break;
    case 6:
        lapic_set_lint(lapic, value & 1, value & 2);
        break;
    case 7:
        (void)lapic_set_pv_eoi(lapic, value & 0x1fffc, value & 1);
        break;
    case 8: /* the guest takes the offer, or plays with it */
        (void)memory_write(apics->memory, value & 0xfffc, &byte, 1);
        break;
    case 9:
        (void)apic_bus_msi(apics->bus, 0xfee00000 | (value >> 8 & 0xff00c), value & 0xc7ff);
        break;
    case 10:
        lapic_set_virtual_wire(lapic);
        break;
    case 11:
        lapic_raise(lapic, value & 1 ? LAPIC_THERMAL : LAPIC_PERFORMANCE);
        break;
    case 12:
        lapic_cr8_write(lapic, value);
        lapic_tsc_changed(lapic);
        break;
    default:
        ioapic_set_irq(apics->ioapic, value & 31, value & 0x20);
        break;
    }
}

/* The pages of the local APICs and of the I/O APIC behind one range: the `dev` of the bus is the target. */
static uint64_t fuzz_apics_read(void *dev, uint64_t offset, unsigned size)
{
    struct fuzz_apics *apics = dev;
    if (offset < 4096)
        return lapic_mmio_ops.read(apics->lapic[0], offset, size);
    return ioapic_mmio_ops.read(apics->ioapic, offset - 4096, size);
}

static void fuzz_apics_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fuzz_apics *apics = dev;
    if (offset < 4096)
        lapic_mmio_ops.write(apics->lapic[offset >> 1 & 1], offset & ~15ull, 4, value);
    else
        ioapic_mmio_ops.write(apics->ioapic, offset & 0x50, 4, value);
}

static const struct io_ops fuzz_apics_ops = {.read = fuzz_apics_read, .write = fuzz_apics_write, .name = "APICs"};

struct fuzz_pci {
    struct memory *memory;
    struct pci_host *host;
    struct i440fx *i440fx;
    struct piix3 *piix3;
    struct piix4_pm *pm;
    struct pci_function *card;
};

static const struct io_ops fuzz_card_ops = {.name = "card"};

static void *fuzz_pci_create(struct timer_queue *queue)
{
    static const struct pci_function_desc card = {.vendor_id = 0x1af4, .device_id = 0x1041, .interrupt_pin = 1};
    struct fuzz_pci *pci = calloc(1, sizeof *pci);
    pci->memory = memory_create(1 * MiB, NULL, NULL);
    pci->host = pci_host_create(pci->memory);
    pci->i440fx = i440fx_create(pci->host, NULL, NULL, NULL);
    pci->piix3 = piix3_create(pci->host, 1, &(struct piix3_config){.reset = NULL}, NULL);
    struct irq_line pirq[4];
    for (unsigned i = 0; i < 4; i++)
        pirq[i] = (struct irq_line){.set = piix3_set_pirq, .opaque = pci->piix3, .n = i};
    pci_host_wire(pci->host, pirq);
    struct piix4_pm_config config = {.default_base = 0x600};
    pci->pm = piix4_pm_create(pci->host, pci->memory, 1, queue, &config, NULL);
    pci->card = pci_add_function(pci->host, 3, 0, &card, pci, NULL);
    pci_set_bar(pci->card, 0, PCI_BAR_IO, false, 64, &fuzz_card_ops, pci);
    pci_set_bar(pci->card, 1, PCI_BAR_MEMORY, false, 4096, &fuzz_card_ops, pci);
    pci_set_bar(pci->card, 2, PCI_BAR_MEMORY64, true, 16384, &fuzz_card_ops, pci);
    pci_add_capability(pci->card, 9, 16);
    memory_map_ports(pci->memory, 0xb2, 2, &piix4_apm_ops, pci->pm, NULL);
    memory_map_ports(pci->memory, 0xcf8, 4, &pci_address_ops, pci->host, NULL);
    memory_map_ports(pci->memory, 0xcf9, 1, &piix3_reset_ops, pci->piix3, NULL);
    memory_map_ports(pci->memory, 0xcfc, 4, &pci_data_ops, pci->host, NULL);
    return pci;
}

static void fuzz_pci_destroy(void *dev)
{
    struct fuzz_pci *pci = dev;
    piix4_pm_destroy(pci->pm);
    piix3_destroy(pci->piix3);
    i440fx_destroy(pci->i440fx);
    pci_host_destroy(pci->host);
    memory_destroy(pci->memory);
    free(pci);
}

static void fuzz_pci_reset(void *dev)
{
    pci_host_reset(((struct fuzz_pci *)dev)->host);
}

/* Bit 31: a wire. Bit 30: a power management event. Else an address for CF8h, well formed. */
static void fuzz_pci_poke(void *dev, uint32_t value)
{
    struct fuzz_pci *pci = dev;
    static const uint8_t slots[4] = {0, 1, 3, 4};
    if (value >> 31)
        pci_irq(pci->card, value & 1);
    else if (value >> 30 & 1)
        value & 1 ? piix4_pm_gpe(pci->pm, value >> 1 & 15) : (void)piix4_pm_power_button(pci->pm);
    else
        memory_port_write(pci->memory, 0xcf8, 4, 0x80000000u | (uint32_t)slots[value & 3] << 11 | (value & 0x3fc));
}

/* The ports of this board one after the other: CF8h..CFFh, B2h and B3h, then those of power management. */
#define FUZZ_PCI_PORTS (16 + PIIX4_PM_SIZE)

static uint16_t fuzz_pci_port(uint64_t offset)
{
    return (uint16_t)(offset < 8 ? 0xcf8 + offset : offset < 16 ? 0xb2 + offset % 2 : 0x600 + offset - 16);
}

static uint64_t fuzz_pci_read(void *dev, uint64_t offset, unsigned size)
{
    return memory_port_read(((struct fuzz_pci *)dev)->memory, fuzz_pci_port(offset), size > 4 ? 4 : size);
}

static void fuzz_pci_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    memory_port_write(((struct fuzz_pci *)dev)->memory, fuzz_pci_port(offset), size > 4 ? 4 : size, (uint32_t)value);
}

static const struct io_ops fuzz_pci_ops = {.read = fuzz_pci_read, .write = fuzz_pci_write, .name = "PCI"};

#endif
