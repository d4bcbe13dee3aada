/* The board: an i440FX/PIIX PC with its chips, addresses and interrupt wiring.
 *
 * Only pc*.c know addresses, interrupt numbers and the list of devices. The board owns the chips; what they ask
 * of the machine as a whole comes out through struct pc_ops. Threads: everything under the device lock.
 */
#ifndef RING3_MACHINE_PC_H
#define RING3_MACHINE_PC_H

#include <pthread.h>
#include <stdio.h>

#include "base/error.h"
#include "base/screen.h"
#include "base/timer.h"
#include "boot/boot.h"
#include "cpu/vcpu.h"
#include "machine/drive.h"
#include "machine/boot_choice.h"
#include "machine/nic.h"
#include "memory/memory.h"

struct chardev;
struct loop;
struct pc;

/* Requests of the guest. They arrive in the middle of a port access: the callee notes them and acts when the instruction
 * is done. */
struct pc_ops {
    void (*power_off)(void *opaque);
    void (*reset)(void *opaque);
    void (*debug_exit)(void *opaque, int status);
    void (*panic)(void *opaque);
    /* A processor's pins and messages: PENDING_* bits to set or, for INTR, to clear. */
    void (*cpu_raise)(void *opaque, unsigned cpu, uint32_t pending);
    void (*cpu_lower)(void *opaque, unsigned cpu, uint32_t pending);
    uint64_t (*random)(void *opaque); /* for RDRAND and RDSEED; any thread */
    void *opaque;
};

struct pc_config {
    struct memory *memory;
    struct timer_queue *queue;
    struct vcpu *const *vcpus; /* their `platform` is filled in by pc_create() */
    unsigned cpu_count;
    struct chardev *serial, *debugcon; /* may be NULL */
    const struct drive_config *drives; /* with all that they point to, they outlive the board */
    unsigned drive_count;
    const struct nic_config *nics;     /* likewise */
    unsigned nic_count;                /* up to NICS_MAX */
    struct chardev *virtio_console;    /* NULL: there is none */
    bool virtio_rng;                   /* with an entropy device */
    struct loop *loop;                 /* where the host's events arrive */
    bool repeatable;                   /* nothing may depend on the host's speed: devices go by `queue` alone */
    uint64_t wall_base_ns;             /* wall clock at guest time 0, ns since 1970 */
    pthread_mutex_t *lock;             /* the device lock, taken by the processors' interrupt functions */
    const unsigned *accessor;          /* under the lock: which processor makes the access to a device (engine/door.h) */
    struct log *log;
    bool vga;                  /* with a display adapter */
    bool firmware;             /* the machine starts with firmware, not with a kernel */
    const char *firmware_path; /* ... of this file; NULL: the distribution's SeaBIOS */
    struct boot_choice boot;
    struct pc_ops ops;
};

/* How much device RAM the board's devices take: what its memory has to be created with. */
uint64_t pc_device_ram(bool vga);

struct pc *pc_create(const struct pc_config *config, struct error *err);
void pc_destroy(struct pc *pc);
/* All chips to their state after power-on; without firmware, then what that would have set up for a kernel. */
void pc_reset(struct pc *pc);
/* A processor has shut down after a third fault. True if the board has asked for its INIT, so that the guest goes on: software of
 * old comes back from protected mode that way. */
bool pc_shutdown(struct pc *pc);
/* Whether there is firmware, which a reset starts again. */
bool pc_has_firmware(const struct pc *pc);

/* The user's hands: the power button (false: the guest does not listen to it), a key of device/ps2_keyboard.h, and the
 * button of old that pulls LINT1 of every processor. */
bool pc_power_button(struct pc *pc);
void pc_key(struct pc *pc, unsigned key, bool down);
bool pc_key_is_behind(const struct pc *pc); /* the guest has not read all of the last keys yet */
void pc_nmi(struct pc *pc);

/* What the machine's screen shows (device/vga.h). False without an adapter or memory; pc_screen_text() also in graphics. */
bool pc_has_vga(const struct pc *pc);
bool pc_screen_render(const struct pc *pc, struct screen_picture *picture);
bool pc_screen_text(const struct pc *pc, struct screen_text *text);

/* A line for each drive: its name, what is in it. */
void pc_describe_drives(const struct pc *pc, FILE *out);
/* Puts an image into the CD-ROM drive of that name, or with NULL takes out what is in it; with `force` even if the guest
 * has locked the tray. False with a message, and nothing changed. */
bool pc_change_medium(struct pc *pc, const char *drive, const char *file, bool force, struct error *err);

/* The state of a chip, in words; `cpu` says whose local APIC. */
enum pc_part { PC_PIC, PC_IOAPIC, PC_LAPIC, PC_VGA };
void pc_describe(const struct pc *pc, enum pc_part part, unsigned cpu, FILE *out);

/* What is there: functions of the PCI bus; network cards. */
enum pc_devices { PC_DEVICES_PCI, PC_DEVICES_NETWORK };
void pc_describe_devices(struct pc *pc, enum pc_devices which, FILE *out);
/* What firmware boots from after the next reset: see boot_choice.h. */
bool pc_set_boot_order(struct pc *pc, const char *order, struct error *err);

/* What a kernel is told of the board. */
void pc_describe_acpi(const struct pc *pc, struct acpi_description *description);

#endif
