/* A whole machine: created from a configuration, run to its end, destroyed.
 *
 * Threads
 *   vm_run() is called by the thread that owns the machine; it runs the event loop (timers, host file descriptors)
 *   and starts one thread a vCPU. Every device is touched under the device lock only. With the clock "instructions"
 *   one thread runs all vCPUs by turns, and fires timers at exact instruction counts, so that a run repeats.
 *   vm_stop() may be called from any thread and from signal handlers.
 */
#ifndef RING3_MACHINE_MACHINE_H
#define RING3_MACHINE_MACHINE_H

#include "base/error.h"
#include "base/log.h"
#include "base/types.h"
#include "cpu/points.h"
#include "machine/drive.h"
#include "machine/boot_choice.h"
#include "machine/nic.h"

struct vm;
struct vcpu;
struct chardev;
struct loop;
struct pc;
struct stats;
struct trace;
struct observer;

#define MACHINE_CPUS_MAX 8u

enum clock_kind { CLOCK_HOST, CLOCK_INSTRUCTIONS };

struct machine_config {
    const char *engine;       /* "auto", "interpret" ... */
    uint64_t ram_size;        /* bytes */
    const char *kernel;       /* path; NULL: firmware boots from what there is */
    const char *firmware;     /* its file; NULL: the distribution's SeaBIOS */
    struct boot_choice boot;  /* for firmware */
    const char *initrd;       /* path or NULL */
    const char *append;       /* kernel command line or NULL */
    const char *cpu;          /* model, see cpu/cpuid.h; NULL for the default */
    unsigned cpus;            /* how many, up to MACHINE_CPUS_MAX; 0: one */
    bool kaslr;               /* enter through the guest's own decompressor */
    bool vga;                 /* with a display adapter */
    bool no_reboot;           /* a guest reset ends the run */
    enum clock_kind clock;
    unsigned shadow;          /* enum shadow_policy, for engines that have shadow page tables */
    unsigned trap_kernel;     /* trap: enum trap_kernel */
    bool trap_no_patch;       /* trap: leave instructions that do not trap as they are */
    unsigned heat;            /* translate: how often a block is interpreted first */
    unsigned verify;          /* translate: every how many blocks are compared with the interpreter; 0: none */
    const struct drive_config *drives; /* owned by the caller, outlive the machine */
    unsigned drive_count;
    const struct nic_config *nics; /* likewise */
    unsigned nic_count;       /* up to NICS_MAX */
    struct chardev *virtio_console; /* NULL: there is none */
    bool virtio_rng;          /* with an entropy device */
    struct loop *loop;        /* host/loop.h: what the chardevs were created on, run by vm_run(); owned by the caller */
    struct chardev *serial;   /* COM1; owned by the caller, outlives the machine */
    struct chardev *debugcon; /* port 0x402; NULL: output is dropped */
    struct stats *stats;      /* counters filled in by the door; owned by the caller; NULL: none */
    struct trace *trace;      /* timeline; owned by the caller; NULL: none */
    const struct observer *observer; /* engine/door.h; owned by the caller; NULL: none */
    uint64_t sample_ns;       /* how often, in host time, is noted where the guest is, in stats->hot; 0: never */
    struct log *log;
};

/* How a run ended. */
enum vm_end {
    VM_END_POWER_OFF,
    VM_END_RESET,        /* guest reset under no_reboot */
    VM_END_DEBUG_EXIT,   /* isa-debug-exit; the code is in vm_result.code */
    VM_END_TRIPLE_FAULT, /* of the vCPU in vm_result.cpu */
    VM_END_PANIC,        /* pvpanic */
    VM_END_STOPPED,      /* vm_stop(): the reason is in vm_result.code */
};

enum vm_stop_reason { VM_STOP_QUIT = 1, VM_STOP_TIMEOUT, VM_STOP_SIGNAL };

struct vm_result {
    enum vm_end end;
    int code;
    unsigned cpu;           /* the vCPU that shut down */
    uint64_t instructions;  /* executed by all vCPUs; 0 if the engine does not count them */
    uint64_t guest_ns;      /* guest time at the end */
};

/* NULL with a message when the configuration, a file or the host does not permit it. */
struct vm *vm_create(const struct machine_config *config, struct error *err);
bool vm_run(struct vm *vm, struct vm_result *result, struct error *err);
void vm_destroy(struct vm *vm);
void vm_stop(struct vm *vm, enum vm_stop_reason reason);

/* After the end, for the post-mortem; or while paused. */
const struct vcpu *vm_vcpu(const struct vm *vm, unsigned index);

/* ---- a running machine, from outside ----
 *
 * All by the thread that runs vm_run(), in a callback of the loop, and so under the device lock; vm_pause() and
 * vm_set_engine() give the lock away for a moment. Also before vm_run(), when they have nothing to wait for. */

/* Resets the machine as the hardware reset line does. A paused machine is reset, and stays paused. */
void vm_reset(struct vm *vm);

/* Returns when no vCPU executes; then every register is in its place, and guest time stands still: for the guest
 * there is no pause. They nest: the machine goes on with the last vm_resume(). */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);
bool vm_is_paused(const struct vm *vm);

/* The engine's name, and another one for all vCPUs, which takes over the state exactly. False, with a message and the old
 * engine in its place, if it cannot run this machine here. */
const char *vm_engine(const struct vm *vm);
bool vm_set_engine(struct vm *vm, const char *name, struct error *err);

/* The user's stop: one for all who steer the machine. Whoever wants it to go on ends it. */
void vm_hold(struct vm *vm);
void vm_go(struct vm *vm);
bool vm_is_held(const struct vm *vm);

/* A debugger: at most one. It is told when the machine has been held, by itself or by anybody else, in the loop; it may then
 * look at and change processors, memory and points until it has the machine resumed. */
enum vm_held_by {
    VM_HELD_BY_USER,
    VM_HELD_BY_STEP,  /* of processor `cpu`: its one instruction is done */
    VM_HELD_BY_POINT, /* processor `cpu` has come to `point` */
};
struct vm_held {
    enum vm_held_by by;
    unsigned cpu;
    struct point point;
};
struct vm_debugger {
    void (*held)(void *opaque, const struct vm_held *held);
    void *opaque;
};
/* NULL: it leaves, and its points with it; a machine that is held stays so. */
void vm_debug_attach(struct vm *vm, const struct vm_debugger *debugger);
/* Where it wants to stop: what is changed here while the machine is held takes effect when it goes on. */
struct points *vm_debug_points(struct vm *vm);
struct vcpu *vm_debug_vcpu(struct vm *vm, unsigned index);
/* Ends the hold. Each processor goes on, executes one instruction (during which the PENDING_* bits `step_holds` have to
 * wait, unless it is halted), or stays as it is until the next time. Guest time passes. */
enum vm_action { VM_GO, VM_STEP, VM_STAY };
void vm_debug_resume(struct vm *vm, const enum vm_action actions[MACHINE_CPUS_MAX], uint32_t step_holds);

/* What is behind it: for the user's hands (machine/pc.h), and how many processors there are. */
struct pc *vm_pc(const struct vm *vm);
unsigned vm_vcpu_count(const struct vm *vm);

/* The counters so far, while paused or after the end: `stats` is filled in; what it points to is the machine's. */
void vm_stats(const struct vm *vm, struct stats *stats);

#endif
