/* Message signalled interrupts of a PCI function: MSI and MSI-X.
 *
 * A device makes the capability while it builds its function, then asks msi_notify() or msix_notify() where it would drive a
 * pin. While the guest has the capability disabled these return false, and the device uses its pin; while it is enabled the
 * device leaves its pin alone. From the function's config_written and reset the device calls the functions of those names here.
 *
 * Ownership: struct msi lies in the device; struct msix is created and destroyed by it, destroyed after the PCI host.
 * Threads: under the device lock. Source: PCI Local Bus Specification 3.0, chapter 6.8.
 */
#ifndef RING3_DEVICE_PCI_MSI_H
#define RING3_DEVICE_PCI_MSI_H

#include "device/pci.h"

#define MSI_VECTORS_MAX 32u
#define MSIX_VECTORS_MAX 2048u

struct msi {
    struct pci_function *function;
    unsigned capability; /* offset */
    unsigned vectors_log2;
};

/* Adds the capability, with 64-bit addresses and a mask bit for each of `vectors` (a power of two up to 32). */
void msi_init(struct msi *msi, struct pci_function *function, unsigned vectors);
bool msi_enabled(const struct msi *msi);
/* Interrupt `vector`: sent, or pending while masked. If the guest gave the function fewer, they share. */
bool msi_notify(struct msi *msi, unsigned vector);
void msi_config_written(struct msi *msi, unsigned offset, unsigned size);
/* The registers are cleared by the host's reset; pending bits by this. */
void msi_reset(struct msi *msi);

struct msix;

/* Adds the capability and a memory range at base address `bar`, which holds the table and the pending bits of `vectors`
 * interrupts (up to 2048). NULL when out of memory. */
struct msix *msix_create(struct pci_function *function, unsigned bar, unsigned vectors);
void msix_destroy(struct msix *msix);
bool msix_enabled(const struct msix *msix);
/* Interrupt `vector`: sent, or pending while masked. */
bool msix_notify(struct msix *msix, unsigned vector);
void msix_config_written(struct msix *msix, unsigned offset, unsigned size);
void msix_reset(struct msix *msix);

#endif
