/* A machine's parts as the files of vm*.c share them. Nobody else includes this.
 *
 *   vm.c          creation, what the board asks for, the engine, counters
 *   vm_clock.c    guest time, and pauses, in which it stands still
 *   vm_debug.c    the user's stop, and debuggers
 *   vm_run.c      threads: vCPUs, their turns, the event loop; resets and the end
 *
 * Everything under the device lock unless a comment says otherwise.
 */
#ifndef RING3_MACHINE_VM_INTERNAL_H
#define RING3_MACHINE_VM_INTERNAL_H

#include <pthread.h>

#include "base/timer.h"
#include "engine/door.h"
#include "engine/engine.h"
#include "machine/machine.h"

/* How long an instruction takes when guest time is instructions. */
#define INSTRUCTION_NS 10u

struct vm_cpu {
    struct vm *vm;
    struct vcpu *vcpu;
    struct door door;
    bool attached;
    pthread_t thread;
    bool running;        /* `thread` runs, and executes or waits */
    pthread_cond_t wake; /* it waits here while halted */
    uint64_t halted_since_ns; /* host time, while it does; 0: it does not */
    enum vm_action action;    /* what a debugger wants of it */
    struct vm_held event;     /* ... and has to be told, if `has_event` */
    bool has_event;
};

struct vm {
    struct machine_config config;
    struct memory *memory;
    struct cpu_model *model;
    struct pc *pc;
    const struct engine *engine;
    unsigned cpu_count;
    struct vcpu *vcpus[MACHINE_CPUS_MAX]; /* those of `cpus` */
    struct vm_cpu cpus[MACHINE_CPUS_MAX];
    struct crew *crew;   /* NULL: one vCPU */
    bool by_turns;       /* clock "instructions": the first one's thread runs all */
    unsigned turn;       /* ... whose turn it is */
    uint64_t turn_until; /* ... until it has executed so many instructions, or is halted */
    uint32_t turn_variation; /* of the turns' lengths; not 0 */

    pthread_mutex_t lock;
    struct timer_queue queue;
    struct timer sampler; /* of the loop; config.sample_ns */
    uint64_t start_ns;   /* host time of guest time 0, moved by pauses; changes only while no vCPU is in the engine */
    uint64_t skipped_ns; /* clock "instructions": time that passed without instructions */
    uint64_t random_state;

    /* Under the lock. */
    bool ended;
    bool reset_requested;
    struct vm_result result;
    struct error error;
    bool failed;
    uint64_t halted_ns;  /* of all vCPUs */
    unsigned accessor;   /* the vCPU that accesses a device */
    unsigned inside;     /* vCPUs in the engine */
    unsigned pauses;     /* vm_pause() without vm_resume() */
    uint64_t paused_ns;  /* host time at which guest time stopped, while it stands still */
    bool standing;       /* ... which it does */
    bool held;           /* one of the pauses is the user's stop */
    bool hold_untold;    /* ... which the loop's thread has yet to complete, and the debugger to hear of */
    const struct vm_debugger *debugger;
    uint32_t step_holds;
    struct points points, applied; /* as the debugger wants them, and as vCPUs know them */
    pthread_cond_t outside; /* who waits for vCPUs to leave the engine */
    struct hot *hot;     /* where all vCPUs were, as of the last vm_stats(); NULL: nobody asks */
    struct stats past;   /* what engines that are not attached any more have counted */
    uint64_t entered_ns; /* clock "instructions": guest time when it last let go of the lock */

    _Atomic int stop_reason; /* enum vm_stop_reason, 0: none */
};

/* ---- vm.c ---- */
void vm_raise_all(struct vm *vm, uint32_t pending);
void vm_wake_all(struct vm *vm);
/* The run ends: the first reason counts. */
void vm_end(struct vm *vm, enum vm_end how, int code);
/* Puts the kernel into memory and the processor where it starts. */
bool vm_load_kernel(struct vm *vm, struct error *err);

/* ---- vm_clock.c ---- */
uint64_t vm_host_now_ns(void *vm);        /* for timer_queue_init(): the two clocks */
uint64_t vm_instruction_now_ns(void *vm);
/* The second one, on the thread that runs the vCPUs, or while there is none. */
uint64_t vm_exact_now_ns(const struct vm *vm);
/* The host's time of the next guest timer. Guests may ask for times that the host's clock cannot even express. */
uint64_t vm_next_host_ns(const struct vm *vm);
void vm_earliest_changed(void *vm);
/* The time that the processor has been halted up to now is counted. */
void vm_halted_account(struct vm_cpu *cpu);
/* vm_pause() in two parts: the first by any thread, the second by the loop's. */
void vm_pause_begin(struct vm *vm);
void vm_pause_complete(struct vm *vm);
/* Until no vCPU is in the engine; the lock is given away meanwhile. */
void vm_wait_outside(struct vm *vm);

/* ---- vm_debug.c ---- */
/* On the vCPU's thread: it has come to a point (v->hit), or has executed its one instruction. */
void vm_debug_hit(struct vm_cpu *cpu);
void vm_debug_stepped(struct vm_cpu *cpu);
/* On the loop's thread: completes a hold that a vCPU has begun. */
void vm_debug_tell(struct vm *vm);
/* It has something to execute, and may. */
bool vm_cpu_may_run(const struct vm_cpu *cpu);

#endif
