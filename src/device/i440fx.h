/* Intel 82441FX (PMC): host bridge, and with it the machine's PCI bus 0, slot 0.
 *
 * Threads: under the device lock. Source: 82441FX datasheet (290549), chapter 3. */
#ifndef RING3_DEVICE_I440FX_H
#define RING3_DEVICE_I440FX_H

#include "device/pci.h"

struct i440fx;

/* The board's side of the bridge. The bridge knows what the guest asked for; the board owns the memory map. Each may
 * be NULL. */
struct i440fx_ops {
    /* A segment of C0000h..FFFFFh (16 KiB; 64 KiB for F0000h) changed: reads and writes go to RAM, or to the PCI bus,
     * where the firmware's ROM is. Called for all 13 segments on a reset. */
    void (*pam)(void *opaque, gpa_t base, uint64_t size, bool read_ram, bool write_ram);
    /* SMRAM at A0000h: `enabled` at all, `open` outside system management mode too, `closed` to SMM data accesses. */
    void (*smram)(void *opaque, bool enabled, bool open, bool closed);
};

/* Adds 0:0.0. The bridge owns nothing of `host`, but must live as long. NULL with a message. */
struct i440fx *i440fx_create(struct pci_host *host, const struct i440fx_ops *ops, void *opaque, struct error *err);
void i440fx_destroy(struct i440fx *i440fx);

#endif
