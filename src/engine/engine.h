/* What an engine is: something that makes a vCPU go until there is a reason to stop.
 *
 * engine.c is the only file that knows which engines exist; `auto` chooses the first that is usable here.
 */
#ifndef RING3_ENGINE_ENGINE_H
#define RING3_ENGINE_ENGINE_H

#include "base/error.h"
#include "cpu/vcpu.h"

struct stats;

/* Host code that an engine has made for a run of guest instructions; the pointers hold until the engine runs again.
 * insns[i].host is where the code of an instruction begins, from `host`; what lies before the first is the way in, what
 * lies behind the last the ways out. */
#define ENGINE_CODE_INSNS 64u
struct engine_code {
    const uint8_t *host;
    uint64_t host_rip; /* where it is executed */
    uint32_t host_size;
    gva_t gva;         /* of the first instruction */
    unsigned insn_count;
    struct {
        gva_t gva;
        uint16_t host;
        uint8_t length;
    } insns[ENGINE_CODE_INSNS];
};

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
    /* The host code that holds the instruction at `gva`, which lies at `gpa`, of user or kernel code. While attached and
     * not running. False: there is none. NULL: the engine makes none. */
    bool (*code)(const struct vcpu *v, gpa_t gpa, gva_t gva, bool user, struct engine_code *code);
};

/* The engines in order of preference. */
extern const struct engine *const engines[];
extern const unsigned engine_count;

/* By name, or the best usable one for "auto". NULL with a message that lists the names. */
const struct engine *engine_find(const char *name, struct error *err);

#endif
