/* Intel 82371AB (PIIX4), function 3: ACPI power management.
 *
 * Threads: under the device lock. Source: 82371AB datasheet (290562), chapters 7 and 11; ACPI specification 4.8. */
#ifndef RING3_DEVICE_PIIX4_PM_H
#define RING3_DEVICE_PIIX4_PM_H

#include "base/timer.h"
#include "device/pci.h"

#define PIIX4_PM_TIMER_HZ 3579545u
#define PIIX4_PM_SIZE 64u

/* Offsets of the ACPI blocks from the base, for the FADT. */
#define PIIX4_PM1A_EVT 0x00u /* 4 bytes */
#define PIIX4_PM1A_CNT 0x04u /* 2 bytes */
#define PIIX4_PM_TMR 0x08u   /* 4 bytes */
#define PIIX4_GPE0 0x0cu     /* 4 bytes: 16 status bits, 16 enable bits */

/* Written to SMI_CMD (APMC) by an operating system that takes ACPI over, or gives it back. */
#define PIIX4_ACPI_ENABLE 0xf1u
#define PIIX4_ACPI_DISABLE 0xf0u

/* SLP_TYP values, for the DSDT's \_Sx packages. */
#define PIIX4_SLP_TYP_S5 0u

struct piix4_pm;

struct piix4_pm_config {
    /* Where the ports are after a reset, enabled, as if firmware had put them there; a multiple of 64. 0: nowhere,
     * firmware sets PMBA and PMREGMISC. */
    uint16_t default_base;
    bool timer_32bit;    /* else the PM timer has 24 bits, as the chip's; the FADT must say the same */
    struct irq_line sci; /* level, active high here */
    /* The guest entered S5. Called from the port write: the callee remembers it. */
    void (*power_off)(void *opaque);
    /* The guest wrote `command` to APMC with APMC_EN set: a system management interrupt. NULL: no SMM on this machine;
     * then APMC_EN reads as set already, by which firmware sees that SMM has been dealt with. */
    void (*smi)(void *opaque, uint8_t command);
    void *opaque;
};

/* Adds `slot`.3. Must live as long as `host`. NULL with a message. */
struct piix4_pm *piix4_pm_create(struct pci_host *host, struct memory *memory, unsigned slot, struct timer_queue *queue,
                                 const struct piix4_pm_config *config, struct error *err);
void piix4_pm_destroy(struct piix4_pm *pm);

/* The user pressed the power button. True if the guest listens (ACPI mode, event enabled); it is latched anyway. */
bool piix4_pm_power_button(struct piix4_pm *pm);

/* General purpose event `n` (0 to 15) happened. The low twelve are the PIIX4's (0 thermal, 8 USB, 9 GPI, 10 ring, 11
 * lid) as far as it has them; the others are the board's to define in its DSDT. */
void piix4_pm_gpe(struct piix4_pm *pm, unsigned n);

/* APMC and APMS, two ports (B2h on a PC). `dev` is the struct piix4_pm. */
extern const struct io_ops piix4_apm_ops;

#endif
