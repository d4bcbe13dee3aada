/* The door's other side: counts, traces and carries out exits. See cpu/exit.h for the record.
 *
 * One struct door a vCPU, installed as vcpu.exit with vcpu.exit_opaque = the door. Ports and device memory are reached
 * under the machine's device lock. Counters are the vCPU's own: no atomics; they are merged into struct stats
 * when the vCPU stops.
 */
#ifndef RING3_ENGINE_DOOR_H
#define RING3_ENGINE_DOOR_H

#include <pthread.h>

#include "cpu/decode.h"
#include "cpu/exit.h"
#include "cpu/vcpu.h"
#include "cpu/watch.h"

struct trace;
struct hot;
struct symbols;

/* Somebody who wants to hear of everything, as it happens: on the vCPU's thread, without any lock. A NULL function is
 * not called. `exit` comes when the exit has been carried out; those for events that are being delivered come before
 * registers change. `device` is the name behind a port or device address, or NULL. The others are those of cpu/watch.h;
 * with `begin` set, translated code calls C for sensitive instructions. */
struct observer {
    void (*exit)(void *opaque, struct vcpu *v, const struct exit *exit, const char *device);
    struct vcpu_watch watch;
};

/* What an engine that translates has done; the names are the keys in JSON.
 *
 *   instructions      guest instructions translated (not: executed), and `guest_bytes` of them
 *   host_bytes        code made for them, of which `cache_bytes` are in the cache now
 *   enters            times the engine's loop went into translated code
 *   fault_ns          spent on faults of the host, when times are wanted
 *   helper_calls      instructions that translated code had C code carry out
 *   links             jumps from block to block that were connected
 *   loops             blocks that were emitted a second time, with host pointers in registers
 *   invalidations     writes that hit translated code; `flushes` forget all of it
 *   reforms           blocks made anew because one of their instructions kept faulting
 */
#define STATS_TRANSLATE(X)                                                                                             \
    X(blocks)                                                                                                          \
    X(instructions)                                                                                                    \
    X(guest_bytes)                                                                                                     \
    X(host_bytes)                                                                                                      \
    X(translate_ns)                                                                                                    \
    X(fault_ns)                                                                                                        \
    X(cache_bytes)                                                                                                     \
    X(flushes)                                                                                                         \
    X(invalidations)                                                                                                   \
    X(reforms)                                                                                                         \
    X(enters)                                                                                                          \
    X(helper_calls)                                                                                                    \
    X(links)                                                                                                           \
    X(loops)

/* Faults of the host in translated code: no shadow entry; a device, or a write to watched memory; an unaligned address;
 * somebody wanted the monitor; #DE and #XM; whatever else. */
#define STATS_FAULTS(X) X(miss) X(write) X(unaligned) X(poll) X(arithmetic) X(other)

/* See struct shadow_counters; `bytes`: memory in use for tables and logs. */
#define STATS_SHADOW(X)                                                                                                \
    X(fills)                                                                                                           \
    X(prefills)                                                                                                        \
    X(flushes)                                                                                                         \
    X(page_flushes)                                                                                                    \
    X(switches)                                                                                                        \
    X(switches_kept)                                                                                                   \
    X(entries_restored)                                                                                                \
    X(islands)                                                                                                         \
    X(evictions)                                                                                                       \
    X(entries_reread)                                                                                                  \
    X(bytes)

/* What the engine of the hardware has done.
 *
 *   runs         times guest mode was entered; `interrupted` of them ended by somebody's wish
 *   taken        times the whole state was brought back
 *   stretches    times the kernel gave up and the interpreter went on; `interpreted`: instructions that it executed
 *   refused      states that the kernel did not accept
 */
#define STATS_KVM(X)                                                                                                   \
    X(runs)                                                                                                            \
    X(interrupted)                                                                                                     \
    X(taken)                                                                                                           \
    X(stretches)                                                                                                       \
    X(interpreted)                                                                                                     \
    X(refused)

#define STATS_FIELD(name) uint64_t name;
struct stats_kvm {
    bool present; /* guest code runs in the hardware's guest mode */
    STATS_KVM(STATS_FIELD)
};
#undef STATS_FIELD

/* What the engine trap has done; what traps is in engine/trap/trap.h.
 *
 *   otherwise    times code had to be interpreted or translated for want of a way to run it directly
 *   processes, spaces   sandboxes made, and shadow page tables made of them; `switches` from one to another
 *   cr3_loads    by the guest; `clears` of a whole space; `compared` pages with the guest's tables
 *   pages        mapped, in `maps` mappings; `unmaps`, `protects` and these were done in `commits` journeys
 *   tables       of the guest's that were watched; `table_writes` to them; `tables_recycled`: had become something else
 *   code_pages   looked at; `patches` made in `copies` of them; `code_writes`: written, and forgotten;
 *                `windows`: times code had to be mapped elsewhere, since data was wanted there
 */
#define STATS_TRAPS(X)                                                                                                 \
    X(resumes) X(privileged) X(patched) X(syscall) X(breakpoint) X(undefined) X(arithmetic) X(fetch) X(fill)           \
    X(reflect) X(emulate) X(kick) X(stray)
#define STATS_TRAP_WORK(X)                                                                                             \
    X(otherwise) X(processes) X(spaces) X(switches) X(cr3_loads) X(clears) X(compared) X(pages) X(maps) X(unmaps)      \
    X(protects) X(commits) X(tables) X(table_writes) X(tables_recycled) X(code_pages) X(patches) X(copies)             \
    X(code_writes) X(windows)

#define STATS_FIELD(name) uint64_t name;
struct stats_trap {
    const char *policy; /* constant; NULL: another engine */
    STATS_TRAPS(STATS_FIELD)
    STATS_TRAP_WORK(STATS_FIELD)
};

struct stats_translate {
    bool present; /* the engine translates */
    STATS_TRANSLATE(STATS_FIELD)
    struct {
        STATS_FAULTS(STATS_FIELD)
    } faults;
};

struct stats_shadow {
    const char *policy; /* constant; NULL: the engine has no shadow page tables */
    STATS_SHADOW(STATS_FIELD)
};
#undef STATS_FIELD

/* What --stat prints at the end of a run. */
struct stats {
    uint64_t exits[EXIT_REASON_COUNT][EXIT_MODE_COUNT];
    bool timed;                                            /* the next two are counted */
    uint64_t exit_ns[EXIT_REASON_COUNT][EXIT_MODE_COUNT];  /* spent in the door */
    uint64_t to_kernel, to_user;                           /* changes of pretend mode */
    struct hot *hot;                                       /* where; NULL: not counted. Owned by who made it */
    const struct symbols *symbols;                         /* names for it; may be NULL */
    uint64_t exceptions[32];
    uint64_t interrupts[256];
    uint64_t ports[65536 / 8]; /* accesses by group of 8 ports; the names come from the memory map */
    uint64_t instructions;
    bool instructions_partial; /* those of translated code are not in it */
    uint64_t wall_ns;          /* of vm_run() */
    uint64_t halted_ns;        /* of wall_ns, vCPUs waited in HLT: all together */
    unsigned threads;          /* that vCPUs ran on: what each did adds up to this many times wall_ns */
    uint64_t guest_ns;
    uint64_t tlb_fills, tlb_flushes, page_walks, insns_decoded, code_pages, code_invalidations, host_stubs;
    uint64_t monitor_bytes;    /* memory of the process but guest RAM and generated code; 0: unknown */
    struct stats_translate translate;
    struct stats_shadow shadow;
    struct stats_kvm kvm;
    struct stats_trap trap;
    bool sensitive_counted;        /* the next is counted: every sensitive instruction (cpu/watch.h) */
    uint64_t sensitive[ROW_COUNT]; /* executed or tried, by enum insn_row */
    uint64_t calls[ROW_COUNT + 1]; /* instructions of translated code that C code carried out, by enum insn_row */
};

struct door {
    struct memory *memory;
    pthread_mutex_t *lock; /* the device lock; NULL in tests */
    struct trace *trace;   /* NULL: no timeline */
    const struct observer *observer; /* NULL: none */
    struct vcpu_watch watch;         /* set by door_open() */
    unsigned *accessor;    /* set, under the lock, to the processor that makes an access; NULL: nobody asks */
    struct stats stats;
};

/* Before the engine is attached: makes `door` the vCPU's, and has it watch what `trace`, `observer`, `stats.timed`,
 * `stats.hot` and `stats.sensitive_counted`, which the caller has set, need. */
void door_open(struct door *door, struct vcpu *v);

/* The function for vcpu.exit. */
void door_exit(struct vcpu *v, struct exit *exit);

/* Adds `from` to `to`; of the times that pass for all vCPUs alike (wall_ns, guest_ns) the greater remains. */
void stats_merge(struct stats *to, const struct stats *from);

#endif
