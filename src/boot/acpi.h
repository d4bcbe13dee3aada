/* The ACPI tables of the machine: RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET, DSDT, built from a description.
 *
 * The description says what the board has and where; it knows no device code. acpi_build() makes a memory
 * image for fixed guest-physical addresses.
 *
 * Source: ACPI 6.3, chapters 5 (tables), 6 (configuration objects), 19 and 20 (ASL, AML). */
#ifndef RING3_BOOT_ACPI_H
#define RING3_BOOT_ACPI_H

#include "base/error.h"
#include "base/types.h"

#define ACPI_CPU_MAX 1024
#define ACPI_OVERRIDE_MAX 16
#define ACPI_PCI_PINS 4

/* MPS INTI flags (ACPI 6.3 table 5-50). */
enum acpi_inti {
    ACPI_INTI_BUS = 0, /* as the bus has it: ISA is edge, active high */
    ACPI_INTI_HIGH = 1,
    ACPI_INTI_LOW = 3,
    ACPI_INTI_EDGE = 1 << 2,
    ACPI_INTI_LEVEL = 3 << 2,
};

/* An ISA interrupt that does not arrive edge/high at the I/O APIC input of its own number. */
struct acpi_override {
    uint8_t isa_irq;
    uint32_t gsi;
    uint16_t flags; /* enum acpi_inti */
};

struct acpi_window {
    uint64_t base;
    uint64_t size; /* 0: absent */
};

struct acpi_description {
    /* Processors: APIC ids 0 .. cpu_count - 1, 1..ACPI_CPU_MAX of them. Ids from 255 up are described as x2APICs. */
    unsigned cpu_count;
    uint32_t local_apic_gpa;
    uint32_t cpu_signature, cpu_features; /* CPUID leaf 1, EAX and EDX; for the MP table */

    uint8_t io_apic_id;   /* not a processor's: in an MP table they are of one kind */
    uint32_t io_apic_gpa; /* its inputs are GSI 0 and up */
    bool has_pic;         /* a pair of 8259s is wired in parallel (MADT PCAT_COMPAT) */
    struct acpi_override overrides[ACPI_OVERRIDE_MAX];
    unsigned override_count;

    /* Power management: the fixed hardware of the FADT. Ports 0 mean "absent" except for pm1a_*, pm_timer, which
     * every machine has. */
    uint8_t sci_irq;       /* ISA number; add an override when it is level/high, as the PIIX4's is */
    uint16_t pm1a_event;   /* 4 bytes */
    uint16_t pm1a_control; /* 2 bytes */
    uint16_t pm_timer;     /* 4 bytes */
    bool pm_timer_32bit;   /* else 24 bits count */
    uint16_t gpe0;         /* status and enable registers */
    uint8_t gpe0_size;     /* bytes of both; even */
    uint16_t smi_command;  /* 0: ACPI mode is always on */
    uint8_t acpi_enable;   /* values for smi_command */
    uint8_t acpi_disable;
    bool has_power_button; /* PWRBTN_STS and PWRBTN_EN work */
    uint8_t s5_type;       /* SLP_TYP that powers off, 0..7 */
    uint16_t reset_port;   /* 0xcf9; 0: absent */
    uint8_t reset_value;

    /* The PCI root bridge. */
    struct acpi_window pci_memory; /* below 4 GiB */
    struct acpi_window pci_memory64;
    /* INTx of device d, pin p (INTA = 0) is line (d + p + pci_swizzle) & 3, which is ISA IRQ pci_pic_irq[line] with
     * the PICs and GSI pci_gsi[line] with the I/O APIC. */
    uint8_t pci_swizzle;
    uint8_t pci_pic_irq[ACPI_PCI_PINS];
    uint32_t pci_gsi[ACPI_PCI_PINS];
    uint8_t isa_bridge_slot; /* device number of the PCI-to-ISA bridge on bus 0; 0: none, ISA devices hang off PCI0 */
    bool has_vga;            /* 0xa0000..0xbffff and ports 0x3b0.. belong to a PCI device */

    /* ISA devices. Ports 0 mean "absent". */
    uint16_t com1_port;
    uint8_t com1_irq;
    bool has_rtc;   /* 0x70, IRQ 8 */
    bool has_i8042; /* keyboard IRQ 1, mouse IRQ 12 */
    uint16_t pvpanic_port;
    uint16_t fdc_port; /* 3F0h: with its interrupt 6 and DMA channel 2 */
    uint32_t hpet_gpa; /* 0: absent */
};

#define ACPI_RSDP_SIZE 36
#define ACPI_FACS_SIZE 64

/* `tables` is for guest-physical address `tables_gpa`, `facs` for `facs_gpa` (64-byte aligned); the RSDP goes wherever
 * the guest looks for it. */
struct acpi_tables {
    uint8_t *tables; /* owned: acpi_tables_fini() */
    size_t tables_size;
    uint8_t facs[ACPI_FACS_SIZE];
    uint8_t rsdp[ACPI_RSDP_SIZE];
};

/* False with a message when the description is impossible or the tables exceed `tables_limit` bytes; `out` then holds
 * nothing. Both addresses lie below 4 GiB. */
bool acpi_build(const struct acpi_description *description, gpa_t tables_gpa, size_t tables_limit, gpa_t facs_gpa,
                struct acpi_tables *out, struct error *err);
void acpi_tables_fini(struct acpi_tables *tables);

#endif
