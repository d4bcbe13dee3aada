/* What an engine is: something that makes a vCPU go until there is a reason to stop.
 *
 * engine.c is the only file that knows which engines exist; `auto` chooses the first that is usable and preferred here and
 * can do what is needed.
 */
#ifndef RING3_ENGINE_ENGINE_H
#define RING3_ENGINE_ENGINE_H

#include "base/error.h"
#include "cpu/vcpu.h"

struct stats;
struct cpu_model;

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

/* Engine trap: who executes the guest's kernel. */
enum trap_kernel { TRAP_KERNEL_DIRECT, TRAP_KERNEL_TRANSLATE, TRAP_KERNEL_INTERPRET };

struct engine {
    const char *name;
    const char *summary;                      /* one line for --help and `ring3 engines` */
    bool verifies;                            /* honours vcpu.verify_every */
    bool several;                             /* vCPUs may run side by side: keeps to cpu/crew.h */
    bool uncounted;                           /* cannot run fast to an exact count of instructions */
    bool (*usable)(struct error *why_not);    /* on this host */
    bool (*preferred)(struct error *why_not); /* worth being chosen by itself, where usable; NULL: yes */
    /* Takes from a model, before a vCPU is made with it, what guests of this engine cannot have here; false if somebody has
     * asked for that. NULL: it takes any model. */
    bool (*limit)(struct cpu_model *model, struct error *err);
    bool (*attach)(struct vcpu *v, struct error *err); /* allocate what the engine needs for this vCPU */
    void (*detach)(struct vcpu *v);
    /* Runs until PENDING_STOP or PENDING_RESET is set, or the vCPU leaves ACTIVITY_RUNNING (halt, shutdown) with nothing
     * pending that wakes it, or `v->instructions` reaches `until` (an exact count, UINT64_MAX for none). Then the whole
     * state is in `v`. Called on the vCPU's thread. If the host does not let the guest go on, says why in v->failed. */
    void (*run)(struct vcpu *v, uint64_t until);
    /* Fills in the engine's own part of `stats`; while attached and not running. NULL: it has none. */
    void (*stats)(const struct vcpu *v, struct stats *stats);
    /* The host code that holds the instruction at `gva`, which lies at `gpa`, of user or kernel code. While attached and
     * not running. False: there is none. NULL: the engine makes none. */
    bool (*code)(const struct vcpu *v, gpa_t gpa, gva_t gva, bool user, struct engine_code *code);
    /* Whether what stands for the guest's page tables has this page now, for code of this privilege; also while attached
     * and not running. NULL: the software TLB or the shadow page tables of mmu/ do. */
    bool (*shadow_has)(const struct vcpu *v, gva_t gva, bool user, bool write);
    const char *shadow_name; /* what that is called; NULL: as it is in mmu/ */
    bool nested;             /* nothing stands for them: the processor walks the guest's own tables */
};

/* The engines in order of preference. */
extern const struct engine *const engines[];
extern const unsigned engine_count;

/* What a machine may need of its engine. */
#define ENGINE_COUNTS 1u   /* exact counts: --clock instructions */
#define ENGINE_VERIFIES 2u /* --verify */
#define ENGINE_SEVERAL 4u  /* --cpus above 1 */

/* By name, or the best one for "auto". NULL with a message: which names there are, why it cannot run here, what it lacks. */
const struct engine *engine_find(const char *name, unsigned needs, struct error *err);

#endif
