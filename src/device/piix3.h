/* Intel 82371SB (PIIX3), function 0: the PCI-to-ISA bridge, with PCI interrupt routing and reset control.
 *
 * Threads: under the device lock. Source: 82371SB datasheet (290550), chapters 2.2 and 2.5. */
#ifndef RING3_DEVICE_PIIX3_H
#define RING3_DEVICE_PIIX3_H

#include "device/pci.h"

struct piix3;

struct piix3_config {
    /* The ISA interrupt wires that PIRQs may be routed to; entries that the chip cannot route to are ignored. This
     * chip's part of a wire only: the board merges it with other sources (irq_or.h). */
    struct irq_line isa[16];
    /* The guest asked for a reset through RCR: `hard` resets the board, else only the processor. Called from the
     * port write: the callee remembers it and acts when the instruction is done. */
    void (*reset)(void *opaque, bool hard);
    void *opaque;
};

/* Adds `slot`.0. Must live as long as `host`. NULL with a message. */
struct piix3 *piix3_create(struct pci_host *host, unsigned slot, const struct piix3_config *config, struct error *err);
void piix3_destroy(struct piix3 *piix3);

/* A PIRQ input, n 0 (A) to 3 (D): the `set` of the lines given to pci_host_wire(). */
void piix3_set_pirq(void *opaque, unsigned n, bool level);

/* The ISA interrupt that PIRQ n goes to, or -1: for tables made without firmware. */
int piix3_route(const struct piix3 *piix3, unsigned n);

/* RCR, one port (CF9h on a PC). `dev` is the struct piix3. */
extern const struct io_ops piix3_reset_ops;

#endif
