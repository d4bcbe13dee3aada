/* The board's parts as the files of pc*.c share them: struct pc, addresses, interrupt numbers. Nobody else includes this.
 *
 *   pc.c          chips, wires, ports, reset
 *   pc_disks.c    drives and their controllers
 *   pc_describe.c what is there, for the user; media
 *   pc_cpus.c     between processors and their local APICs
 *   pc_legacy.c   DMA, diskettes, HPET
 *   pc_firmware.c the firmware's ROM, shadow RAM, firmware configuration
 *   pc_video.c    the display adapter
 */
#ifndef RING3_MACHINE_PC_INTERNAL_H
#define RING3_MACHINE_PC_INTERNAL_H

#include "device/apic_bus.h"
#include "device/debugcon.h"
#include "device/debugexit.h"
#include "device/i440fx.h"
#include "device/i8042.h"
#include "device/i8254.h"
#include "device/i8259.h"
#include "device/ide.h"
#include "device/ioapic.h"
#include "device/irq_or.h"
#include "device/lapic.h"
#include "device/mc146818.h"
#include "device/pci.h"
#include "device/piix3.h"
#include "device/piix4_pm.h"
#include "device/port92.h"
#include "device/pvpanic.h"
#include "device/uart16550.h"
#include "device/virtio/virtio_blk.h"
#include "device/virtio/virtio_console.h"
#include "device/virtio/virtio_net.h"
#include "device/virtio/virtio_rng.h"
#include "machine/pc.h"

#define ISA_IRQS 16u

enum {
    IRQ_TIMER = 0,
    IRQ_KEYBOARD = 1,
    IRQ_COM1 = 4,
    IRQ_FDC = 6,
    IRQ_RTC = 8,
    IRQ_SCI = 9,
    IRQ_PCI_A = 10,
    IRQ_PCI_B = 11,
    IRQ_MOUSE = 12,
    IRQ_FPU = 13,
    IRQ_IDE0 = 14,
    IRQ_IDE1 = 15,
};

enum {
    PORT_DMA_LOW = 0x00,
    PORT_PIC_MASTER = 0x20,
    PORT_PIT = 0x40,
    PORT_KBC_DATA = 0x60,
    PORT_SYSTEM_B = 0x61,
    PORT_KBC_COMMAND = 0x64,
    PORT_RTC = 0x70,
    PORT_DMA_PAGE = 0x80,
    PORT_SYSTEM_A = 0x92,
    PORT_PIC_SLAVE = 0xa0,
    PORT_APM = 0xb2,
    PORT_DMA_HIGH = 0xc0,
    PORT_DEBUG_EXIT = 0xf4,
    PORT_IDE1 = 0x170,
    PORT_IDE0 = 0x1f0,
    PORT_IDE1_CONTROL = 0x376,
    PORT_IDE0_CONTROL = 0x3f6,
    PORT_FDC = 0x3f0,
    PORT_FDC_DIR = 0x3f7,
    PORT_COM1 = 0x3f8,
    PORT_DEBUGCON = 0x402,
    PORT_ELCR = 0x4d0,
    PORT_PVPANIC = 0x505,
    PORT_FW_CFG = 0x510,
    PORT_FW_CFG_DMA = 0x514,
    PORT_PM = 0x600,
    PORT_PCI_ADDRESS = 0xcf8,
    PORT_RCR = 0xcf9,
    PORT_PCI_DATA = 0xcfc,
    PORT_IDE_BUS_MASTER = 0xc000, /* unless firmware chooses */
};

#define IOAPIC_BASE 0xfec00000u
#define HPET_BASE 0xfed00000u
#define PIIX_SLOT 1u
#define PIIX3_PIRQ_ROUTE 0x60u
#define VIDEO_BASE 0xa0000u /* where a display adapter's memory would be seen */
#define VIDEO_SIZE 0x20000u
#define PCI_HOLE_BASE 0xc0000000u
#define PCI_HOLE_END 0xfec00000u
#define RCR_FULL_RESET 0x06u

/* Who pulls an ISA wire. */
enum { WIRE_LEGACY, WIRE_PIRQ, WIRE_SCI, WIRE_HPET };

struct pc_cpu {
    struct pc *pc;
    unsigned index;
    struct vcpu *vcpu;
    struct lapic *lapic;
    bool mapped;       /* the local APIC's page, ... */
    gpa_t mapped_base; /* ... here */
};

/* A drive, opened; `block` is NULL while there is no medium in it. */
struct pc_drive {
    const struct drive_config *config;
    struct block *block;
};

struct pc {
    struct pc_config config;
    struct pc_drive drives[DRIVES_MAX];
    unsigned drive_count;
    struct irq_or wire[ISA_IRQS];
    struct i8259 *pic;
    struct i8254 *pit;
    struct mc146818 *rtc;
    struct uart16550 *com1;
    struct i8042 *kbc;
    struct port92 *port92;
    struct i8237 *dma;
    struct fdc *fdc;
    struct hpet *hpet;
    bool hpet_legacy;             /* it has the interrupts 0 and 8 to itself */
    bool timer_level, rtc_level;  /* what the 8254 and the RTC drive on theirs */
    struct debugexit *debugexit;
    struct pvpanic *pvpanic;
    struct debugcon *debugcon;
    struct apic_bus *apic_bus;
    struct ioapic *ioapic;
    struct pci_host *pci;
    struct i440fx *i440fx;
    struct piix3 *piix3;
    struct piix4_pm *pm;
    struct ide *ide;
    struct vga *vga;              /* NULL: no display adapter */
    struct pc_firmware *firmware; /* NULL: a kernel is started directly */
    struct virtio_blk *disks[DRIVES_MAX];
    struct virtio_net *nics[NICS_MAX];
    struct virtio_console *console;
    struct virtio_rng *rng;
    bool a20_kbc, a20_port92;
    unsigned cpu_count;
    uint32_t cpu_signature, cpu_features; /* CPUID 1 after a reset; asked for once, since it takes the lock */
    struct pc_cpu cpus[];
};

/* The wire of an ISA interrupt, for one of those that pull it. */
static inline struct irq_line wire(struct pc *pc, unsigned irq, unsigned source)
{
    return (struct irq_line){.set = irq_or_set, .opaque = &pc->wire[irq], .n = source};
}

/* The guest, or a chip for it, wants the machine reset. */
void pc_request_reset(struct pc *pc);
/* ... or only its processors; see pc_firmware.c. */
void pc_request_soft_reset(struct pc *pc);

/* pc_firmware.c. Each does nothing in a machine that starts a kernel directly. */
/* Before the bridges; the last one when all devices are there and have been reset. */
bool pc_create_firmware(struct pc *pc, struct error *err);
bool pc_finish_firmware(struct pc *pc, struct error *err);
void pc_reset_firmware(struct pc *pc);
void pc_destroy_firmware(struct pc *pc);
extern const struct i440fx_ops pc_shadow_ops; /* `opaque` is the struct pc */
/* Where firmware is to look for something to boot: the lowest index first, of equal ones the one added last. `path` is copied, a
 * device path as SeaBIOS writes them: /pci@i0cf8/ide@1,1/drive@0/disk@0, /pci@i0cf8/scsi@4/disk@0,0. */
void pc_add_boot_device(struct pc *pc, unsigned bootindex, const char *path);
/* Gives a function the expansion ROM of this name from the firmware's package: "vgabios-stdvga.bin". */
bool pc_set_rom(struct pc *pc, struct pci_function *function, const char *name, struct error *err);

/* pc_video.c. After the bridges; destroyed before the PCI bus. */
bool pc_create_video(struct pc *pc, struct error *err);
void pc_reset_video(struct pc *pc);
void pc_destroy_video(struct pc *pc);
void pc_describe_video(const struct pc *pc, FILE *out);

/* pc_disks.c. The images of all drives, opened before any chip is made and closed after all are gone. */
bool pc_open_drives(struct pc *pc, struct error *err);
void pc_close_drives(struct pc *pc);
/* NULL if there is none. */
const struct pc_drive *pc_drive(const struct pc *pc, enum drive_interface interface, unsigned index);
bool pc_create_ide(struct pc *pc, struct error *err);
/* What firmware does with it, for kernels that are started directly. */
void pc_setup_ide(struct pc *pc);
/* Only that both channels are decoded, which some firmware takes for granted. */
void pc_enable_ide(struct pc *pc);
/* Destroyed after the PCI bus. */
bool pc_create_virtio_disks(struct pc *pc, struct error *err);
void pc_destroy_virtio_disks(struct pc *pc);

/* pc_virtio.c. Unplugged first of all, without the device lock; destroyed after the PCI bus. */
bool pc_create_virtio(struct pc *pc, struct error *err);
void pc_unplug_virtio(struct pc *pc);
void pc_destroy_virtio(struct pc *pc);
/* What a virtio device is made with, in the next free slot. */
bool pc_virtio_bus(struct pc *pc, struct virtio_bus *bus, struct error *err);

/* pc_legacy.c. After the interrupt controllers and the firmware. */
bool pc_create_legacy(struct pc *pc, struct error *err);
void pc_reset_legacy(struct pc *pc);
void pc_destroy_legacy(struct pc *pc);
/* The wires of the 8254 and the RTC, which the HPET can cut. */
struct irq_line pc_timer_wire(struct pc *pc);
struct irq_line pc_rtc_wire(struct pc *pc);
/* CMOS tells of the drives what setup would have been told. */
void pc_set_cmos_diskettes(struct pc *pc);

/* pc_cpus.c */
bool pc_create_processors(struct pc *pc, struct error *err);
/* Local APICs to their state after power-on; the first one's in virtual wire mode. */
void pc_reset_processors(struct pc *pc);
/* The INIT# pin of all processors. */
void pc_init_processors(struct pc *pc);

#endif
