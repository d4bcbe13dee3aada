/* The PCI bus of the machine: bus 0 behind configuration mechanism 1, its functions, and their four interrupt wires.
 *
 * A device makes itself a PCI function: pci_add_function(), then pci_set_bar(), pci_add_capability() and direct access
 * to its configuration bytes while it is being built. From then on the header lives in pci.c: sizing of base
 * addresses, mapping and unmapping as the guest moves them or flips the command register, status bits, INTx.
 *
 * Ownership: the host owns the functions (freed by pci_host_destroy()); `dev`, `desc->ops` and io_ops belong to the
 * device and outlive the host. Threads: everything under the device lock. Errors: only while building.
 *
 * Source: PCI Local Bus Specification 3.0, chapters 3.2.2.3 and 6.
 */
#ifndef RING3_DEVICE_PCI_H
#define RING3_DEVICE_PCI_H

#include "base/error.h"
#include "base/irq.h"
#include "base/types.h"
#include "memory/memory.h"

#define PCI_SLOTS 32u
#define PCI_FUNCTIONS 8u
#define PCI_BARS 6u
#define PCI_CONFIG_SIZE 256u

/* The header of type 0. */
#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_COMMAND_IO 0x0001
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_PARITY 0x0040
#define PCI_COMMAND_SERR 0x0100
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS 0x06
#define PCI_STATUS_INTERRUPT 0x0008
#define PCI_STATUS_CAPABILITIES 0x0010
#define PCI_STATUS_DEVSEL_MEDIUM 0x0200
#define PCI_REVISION 0x08
#define PCI_CLASS 0x09
#define PCI_CACHE_LINE 0x0c
#define PCI_LATENCY 0x0d
#define PCI_HEADER_TYPE 0x0e
#define PCI_HEADER_MULTIFUNCTION 0x80
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_EXPANSION_ROM 0x30
#define PCI_EXPANSION_ROM_ENABLE 0x00000001u
#define PCI_ROM_MAX (16 * MiB)
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d

struct pci_host;
struct pci_function;

/* What a function may want to know; each may be NULL. Offsets are into configuration space; an access never crosses a
 * double word. */
struct pci_function_ops {
    /* Before a read: true if the device answers itself with *value; false lets pci.c read the stored bytes. */
    bool (*config_read)(void *dev, unsigned offset, unsigned size, uint32_t *value);
    /* After the bytes were stored through the write mask and the header's effects are done. */
    void (*config_written)(void *dev, unsigned offset, unsigned size);
    /* On a bus reset, after all writable bits were cleared: sets registers that do not reset to zero, and the device.
     * */
    void (*reset)(void *dev);
};

struct pci_function_desc {
    uint16_t vendor_id;
    uint16_t device_id;
    uint8_t revision;
    uint32_t class_code; /* base class, subclass, interface: 0x060100 is an ISA bridge */
    uint16_t subsystem_vendor_id;
    uint16_t subsystem_id;
    uint8_t interrupt_pin;              /* 0 none, 1 INTA .. 4 INTD */
    const struct pci_function_ops *ops; /* may be NULL */
};

enum pci_bar_kind {
    PCI_BAR_IO,       /* power of two, 4 bytes to 32 KiB (the specification allows 256) */
    PCI_BAR_MEMORY,   /* power of two, whole pages */
    PCI_BAR_MEMORY64, /* likewise; takes `index` and `index` + 1 */
};

/* NULL when out of memory. */
struct pci_host *pci_host_create(struct memory *memory);
/* Solders the four interrupt wires of the chipset, PIRQA to PIRQD, active high here (piix3.h). Once, before use. */
void pci_host_wire(struct pci_host *host, const struct irq_line pirq[4]);
/* Where messages of functions go: once, before use. Without it they are lost. */
void pci_host_set_message_sink(struct pci_host *host, void (*message)(void *opaque, gpa_t gpa, uint32_t data),
                               void *opaque);
void pci_host_destroy(struct pci_host *host);
/* RST#: all functions, base addresses and command registers included. */
void pci_host_reset(struct pci_host *host);

/* Ports: configuration address (4 bytes at CF8h on a PC) and configuration data (4 bytes at CFCh); `dev` of both is the
 * host. */
extern const struct io_ops pci_address_ops;
extern const struct io_ops pci_data_ops;

/* Adds a function. NULL with a message when the place is taken. A slot with more than function 0 is marked
 * multi-function by itself. */
struct pci_function *pci_add_function(struct pci_host *host, unsigned slot, unsigned function,
                                      const struct pci_function_desc *desc, void *dev, struct error *err);

/* The lowest slot, from `first` on, without any function; PCI_SLOTS when all are taken. */
unsigned pci_free_slot(const struct pci_host *host, unsigned first);

void pci_set_bar(struct pci_function *function, unsigned index, enum pci_bar_kind kind, bool prefetchable,
                 uint64_t size, const struct io_ops *ops, void *dev);

/* A base address behind which lies device RAM: what `dev` took with memory_take_device_ram(), from `ram_offset` on. */
void pci_set_bar_ram(struct pci_function *function, unsigned index, enum pci_bar_kind kind, bool prefetchable, uint64_t size,
                     uint64_t ram_offset, void *dev);

/* The expansion ROM: a copy of `size` bytes, at most PCI_ROM_MAX, is seen where the guest places it, while it enables it. The
 * register's size is the next power of two, of at least a page; behind the bytes it reads as ones. Once for a function; false
 * with a message when it is too large or there is no memory. */
bool pci_set_rom(struct pci_function *function, const uint8_t *bytes, size_t size, struct error *err);

/* Appends a capability of `length` bytes in all (header included, zeroed, read-only) and returns its offset. */
unsigned pci_add_capability(struct pci_function *function, uint8_t id, unsigned length);

/* The bytes of configuration space, little endian, and which of their bits the guest may write. */
uint8_t *pci_config(struct pci_function *function);
uint8_t *pci_config_writable(struct pci_function *function);
/* Bits that a written one clears. */
uint8_t *pci_config_clearable(struct pci_function *function);

uint16_t pci_config_get16(const struct pci_function *function, unsigned offset);
uint32_t pci_config_get32(const struct pci_function *function, unsigned offset);
void pci_config_set16(struct pci_function *function, unsigned offset, uint16_t value);
void pci_config_set32(struct pci_function *function, unsigned offset, uint32_t value);

/* False while the guest has not allowed the function to do DMA (or to send MSIs). */
bool pci_bus_master(const struct pci_function *function);

/* A message signalled interrupt: a write of `data` that the function makes to guest-physical space (pci_msi.h). Lost while the
 * function is no bus master. */
void pci_send_message(const struct pci_function *function, gpa_t gpa, uint32_t data);

/* Drives the function's interrupt pin. The wire carries it unless the guest disabled INTx. */
void pci_irq(struct pci_function *function, bool level);

/* Which of PIRQA..D (0..3) pin 1..4 of a slot is soldered to: the rotation of 440FX boards, which firmware and ACPI
 * tables for them presuppose. */
unsigned pci_route_pin(unsigned slot, unsigned pin);

/* Configuration access from inside the monitor, as the guest would make it: for setting up a machine without
 * firmware. Absent functions read as ones. `size` 1, 2 or 4, naturally aligned. */
uint32_t pci_host_read(struct pci_host *host, unsigned slot, unsigned function, unsigned offset, unsigned size);
void pci_host_write(struct pci_host *host, unsigned slot, unsigned function, unsigned offset, unsigned size,
                    uint32_t value);

#endif
