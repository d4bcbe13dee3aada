/* What an engine is: something that makes a vCPU go until there is a reason to stop.
 *
 * engine.c is the only file that knows which engines exist; `auto` chooses the first that is usable here.
 */
#ifndef RING3_ENGINE_ENGINE_H
#define RING3_ENGINE_ENGINE_H

#include "base/error.h"
#include "cpu/vcpu.h"

struct stats;

struct engine {
    const char *name;
    const char *summary;                      /* one line for --help and `ring3 engines` */
    bool verifies;                            /* honours vcpu.verify_every */
    bool several;                             /* vCPUs may run side by side: keeps to cpu/crew.h */
    bool (*usable)(struct error *why_not);    /* on this host */
    bool (*attach)(struct vcpu *v, struct error *err); /* allocate what the engine needs for this vCPU */
    void (*detach)(struct vcpu *v);
    /* Runs until PENDING_STOP or PENDING_RESET is set, or the vCPU leaves ACTIVITY_RUNNING (halt, shutdown) with nothing
     * pending that wakes it, or `v->instructions` reaches `until` (an exact count, UINT64_MAX for none). Called
     * on the vCPU's thread. */
    void (*run)(struct vcpu *v, uint64_t until);
    /* Fills in the engine's own part of `stats`; while attached and not running. NULL: it has none. */
    void (*stats)(const struct vcpu *v, struct stats *stats);
};

/* The engines in order of preference. */
extern const struct engine *const engines[];
extern const unsigned engine_count;

/* By name, or the best usable one for "auto". NULL with a message that lists the names. */
const struct engine *engine_find(const char *name, struct error *err);

#endif
