/* The DSDT: processors, the PCI root bridge with its windows and interrupt routing, ISA devices, power off.
 *
 * In ASL, for a full description:
 *
 *   Name (\_S5, Package () { type, type, 0, 0 })
 *   Name (\PICM, 0)   Method (\_PIC, 1) { PICM = Arg0 }     0: PICs, 1: I/O APIC
 *   Scope (\_SB) {
 *     Processor (C000, 0, 0, 0) {} ...                       Device (ACPI0007) for ids from 255 up
 *     Device (PCI0) { _HID PNP0A03, _UID, _CRS, PRTP, PRTA, _PRT
 *       Device (HPET) { PNP0103 }
 *       Device (ISA) { _ADR slot << 16
 *         Device (COM1) PNP0501, (RTC) PNP0B00, (KBD) PNP0303, (MOU) PNP0F13, (FDC0) PNP0700,
 *         (PVPN) QEMU0001 } } }
 *
 * Interrupt routing has no link devices: each PCI line is wired to one ISA IRQ and one I/O APIC input, so a _PRT entry
 * names a global interrupt and the guest cannot program a router. Windows are fixed by the board. Not
 * described: sleep states other than S5, thermal zones, embedded controllers, hot plug.
 *
 * Source: ACPI 6.3, 5.8.1 (_PIC), 6.1.5 (_HID), 6.2.2 (_CRS), 6.2.13 (_PRT), 7.4.2 (_Sx). */
#include "boot/dsdt.h"

#include <stdio.h>

#define PCI_SLOTS 32

static void sleep_states(struct aml *aml, const struct acpi_description *description)
{
    aml_name(aml, "\\_S5");
    size_t package = aml_package_begin(aml, 4);
    aml_integer(aml, description->s5_type); /* PM1a_CNT.SLP_TYP */
    aml_integer(aml, description->s5_type); /* PM1b_CNT.SLP_TYP */
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_end(aml, package);
}

static void interrupt_model(struct aml *aml)
{
    aml_name_integer(aml, "\\PICM", 0);
    size_t method = aml_method_begin(aml, "\\_PIC", 1);
    aml_store(aml);
    aml_arg(aml, 0);
    aml_path(aml, "\\PICM");
    aml_end(aml, method);
}

static void processors(struct aml *aml, unsigned count)
{
    for (unsigned id = 0; id < count; id++) {
        char name[8];
        snprintf(name, sizeof name, "C%03X", id & 0xfff);
        if (id < 255) {
            aml_processor(aml, name, (uint8_t)id);
            continue;
        }
        size_t device = aml_device_begin(aml, name);
        aml_name(aml, "_HID");
        aml_string(aml, "ACPI0007");
        aml_name_integer(aml, "_UID", id);
        aml_end(aml, device);
    }
}

/* Name (name, Package (128) { Package (4) { slot << 16 | 0xffff, pin, 0, global interrupt } ... }) */
static void routing_table(struct aml *aml, const char *name, const struct acpi_description *description, bool apic)
{
    aml_name(aml, name);
    size_t table = aml_package_begin(aml, PCI_SLOTS * ACPI_PCI_PINS);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < ACPI_PCI_PINS; pin++) {
            unsigned line = (slot + pin + description->pci_swizzle) % ACPI_PCI_PINS;
            size_t entry = aml_package_begin(aml, 4);
            aml_integer(aml, (uint64_t)slot << 16 | 0xffff);
            aml_integer(aml, pin);
            aml_integer(aml, 0);
            aml_integer(aml, apic ? description->pci_gsi[line] : description->pci_pic_irq[line]);
            aml_end(aml, entry);
        }
    }
    aml_end(aml, table);
}

static void pci_routing(struct aml *aml, const struct acpi_description *description)
{
    routing_table(aml, "PRTP", description, false);
    routing_table(aml, "PRTA", description, true);
    size_t method = aml_method_begin(aml, "_PRT", 0);
    size_t branch = aml_if_begin(aml);
    aml_path(aml, "\\PICM");
    aml_return(aml);
    aml_path(aml, "PRTA");
    aml_end(aml, branch);
    aml_return(aml);
    aml_path(aml, "PRTP");
    aml_end(aml, method);
}

static void pci_windows(struct aml *aml, const struct acpi_description *description)
{
    aml_name(aml, "_CRS");
    size_t resources = aml_resources_begin(aml);
    aml_resource_bus(aml, 0, 255);
    aml_resource_io(aml, 0xcf8, 8); /* configuration mechanism #1: the bridge's own */
    aml_resource_window_io(aml, 0, 0xcf7);
    aml_resource_window_io(aml, 0xd00, 0xffff);
    if (description->has_vga)
        aml_resource_window_memory(aml, 0xa0000, 0xbffff, true);
    const struct acpi_window *window = &description->pci_memory;
    if (window->size != 0)
        aml_resource_window_memory(aml, (uint32_t)window->base, (uint32_t)(window->base + window->size - 1), false);
    window = &description->pci_memory64;
    if (window->size != 0)
        aml_resource_window_memory64(aml, window->base, window->base + window->size - 1);
    aml_resources_end(aml, resources);
}

/* Device (name) { _HID id, _STA present ...; left open. */
static size_t isa_device_begin(struct aml *aml, const char *name, const char *id)
{
    size_t device = aml_device_begin(aml, name);
    aml_name(aml, "_HID");
    aml_eisa_id(aml, id);
    aml_name_integer(aml, "_STA", 0x0f);
    return device;
}

/* _CRS of up to two ports of `size` bytes (0: none) and an interrupt (-1: none). */
static void isa_resources(struct aml *aml, uint16_t port, uint8_t size, uint16_t port2, int irq)
{
    aml_name(aml, "_CRS");
    size_t resources = aml_resources_begin(aml);
    if (port != 0)
        aml_resource_io(aml, port, size);
    if (port2 != 0)
        aml_resource_io(aml, port2, size);
    if (irq >= 0)
        aml_resource_irq(aml, (unsigned)irq);
    aml_resources_end(aml, resources);
}

static void pvpanic(struct aml *aml, uint16_t port)
{
    size_t device = aml_device_begin(aml, "PVPN");
    aml_name(aml, "_HID");
    aml_string(aml, "QEMU0001");
    aml_name_integer(aml, "_STA", 0x0f);
    isa_resources(aml, port, 1, 0, -1);
    aml_region_io(aml, "PORT", port, 1);
    size_t field = aml_field_begin(aml, "PORT");
    aml_field_unit(aml, "EVNT", 8);
    aml_end(aml, field);
    size_t method = aml_method_begin(aml, "RDPT", 0); /* which events the device knows */
    aml_store(aml);
    aml_path(aml, "EVNT");
    aml_local(aml, 0);
    aml_return(aml);
    aml_local(aml, 0);
    aml_end(aml, method);
    method = aml_method_begin(aml, "WRPT", 1); /* report an event */
    aml_store(aml);
    aml_arg(aml, 0);
    aml_path(aml, "EVNT");
    aml_end(aml, method);
    aml_end(aml, device);
}

static void isa_devices(struct aml *aml, const struct acpi_description *description)
{
    size_t device;
    if (description->com1_port != 0) {
        device = isa_device_begin(aml, "COM1", "PNP0501");
        aml_name_integer(aml, "_UID", 1);
        isa_resources(aml, description->com1_port, 8, 0, description->com1_irq);
        aml_end(aml, device);
    }
    if (description->has_rtc) {
        device = isa_device_begin(aml, "RTC", "PNP0B00");
        isa_resources(aml, 0x70, 2, 0, 8);
        aml_end(aml, device);
    }
    if (description->has_i8042) {
        device = isa_device_begin(aml, "KBD", "PNP0303");
        isa_resources(aml, 0x60, 1, 0x64, 1);
        aml_end(aml, device);
        device = isa_device_begin(aml, "MOU", "PNP0F13");
        isa_resources(aml, 0, 0, 0, 12);
        aml_end(aml, device);
    }
    if (description->fdc_port != 0) {
        device = isa_device_begin(aml, "FDC0", "PNP0700");
        aml_name(aml, "_CRS");
        size_t resources = aml_resources_begin(aml);
        aml_resource_io(aml, (uint16_t)(description->fdc_port + 2), 4);
        aml_resource_io(aml, (uint16_t)(description->fdc_port + 7), 1);
        aml_resource_irq(aml, 6);
        aml_resource_dma(aml, 2);
        aml_resources_end(aml, resources);
        aml_end(aml, device);
    }
    if (description->pvpanic_port != 0)
        pvpanic(aml, description->pvpanic_port);
}

void dsdt_build(struct aml *aml, const struct acpi_description *description)
{
    sleep_states(aml, description);
    interrupt_model(aml);
    size_t system = aml_scope_begin(aml, "\\_SB");
    processors(aml, description->cpu_count);
    size_t root = aml_device_begin(aml, "PCI0");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name_integer(aml, "_UID", 0);
    pci_windows(aml, description);
    pci_routing(aml, description);
    if (description->hpet_gpa != 0) {
        size_t hpet = isa_device_begin(aml, "HPET", "PNP0103");
        aml_name(aml, "_CRS");
        size_t resources = aml_resources_begin(aml);
        aml_resource_memory(aml, description->hpet_gpa, 0x400, false);
        aml_resources_end(aml, resources);
        aml_end(aml, hpet);
    }
    if (description->isa_bridge_slot != 0) {
        size_t bridge = aml_device_begin(aml, "ISA");
        aml_name_integer(aml, "_ADR", (uint64_t)description->isa_bridge_slot << 16);
        isa_devices(aml, description);
        aml_end(aml, bridge);
    } else {
        isa_devices(aml, description);
    }
    aml_end(aml, root);
    aml_end(aml, system);
}
