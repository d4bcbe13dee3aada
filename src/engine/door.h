/* The door's other side: counts, traces and carries out exits. See cpu/exit.h for the record.
 *
 * One struct door a vCPU, installed as vcpu.exit with vcpu.exit_opaque = the door. Ports and device memory are reached
 * under the machine's device lock. Counters are the vCPU's own: no atomics; they are merged into struct stats
 * when the vCPU stops.
 */
#ifndef RING3_ENGINE_DOOR_H
#define RING3_ENGINE_DOOR_H

#include <pthread.h>

#include "cpu/exit.h"
#include "cpu/vcpu.h"

struct trace;

/* What --stat prints at the end of a run. */
struct stats {
    uint64_t exits[EXIT_REASON_COUNT][EXIT_MODE_COUNT];
    uint64_t exceptions[32];
    uint64_t interrupts[256];
    uint64_t ports[65536 / 8]; /* accesses by group of 8 ports; the names come from the memory map */
    uint64_t instructions;
    uint64_t wall_ns;          /* of vm_run() */
    uint64_t halted_ns;        /* of wall_ns, the vCPU waited in HLT */
    uint64_t guest_ns;
    uint64_t tlb_fills, tlb_flushes, page_walks, insns_decoded, code_pages, code_invalidations, host_stubs;
};

struct door {
    struct memory *memory;
    pthread_mutex_t *lock; /* the device lock; NULL in tests */
    struct trace *trace;   /* NULL: no timeline */
    struct stats stats;
};

/* The function for vcpu.exit. */
void door_exit(struct vcpu *v, struct exit *exit);

/* Adds `from` to `to`; of the times that pass for all vCPUs alike (wall_ns, guest_ns) the greater remains. */
void stats_merge(struct stats *to, const struct stats *from);

#endif
