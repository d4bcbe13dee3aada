/* The classical monitor's loop: what can run directly does, until it traps; what cannot is interpreted, or translated.
 *
 * Not direct: real mode, virtual-8086 mode and 16-bit code; segments that are not flat; single-stepping, breakpoints
 * and interrupt shadows (engine/events.h); pages that the host cannot map (below its lowest address, device memory and
 * ROM), and pages with a debugger's points (cpu/points.h); the kernels of 64-bit guests, whose addresses belong to the host's kernel; and, if the user says so, all
 * kernels: then guest kernels are translated, or interpreted, and guest programs run directly, as VMware's first
 * monitor did it.
 *
 * Instructions are not counted: the processor does not say how many it has executed. So there is no repeatable run, and
 * when run() is given a count to stop at it interprets.
 */
#include "engine/trap/trap.h"

#include <stdlib.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/fast.h"
#include "engine/door.h"
#include "engine/events.h"
#include "engine/interpret/interpret.h"
#include "engine/translate/translate.h"
#include "engine/trap/internal.h"
#include "memory/memory.h"

static bool usable(struct error *why_not)
{
    return sandbox_usable(why_not);
}

/* ---- attaching ---- */

static void detach(struct vcpu *v)
{
    struct trap *t = v->trap;
    v->kick = NULL;
    v->mmu_observer = NULL;
    if (t->pages != NULL && t->tables != NULL && t->frames != NULL && t->code_buckets != NULL)
        codes_clear(t);
    spaces_destroy(t);
    sandboxes_destroy(t->family);
    codes_destroy(t);
    vector_destroy(t);
    const struct engine *fallback = t->fallback;
    free(t);
    v->trap = NULL;
    v->direct_user = false;
    fallback->detach(v);
}

static void on_kick(struct vcpu *v)
{
    struct sandboxes *family = __atomic_load_n(&v->trap->family, __ATOMIC_SEQ_CST);
    if (family != NULL)
        sandboxes_kick(family);
}

static bool attach(struct vcpu *v, struct error *err)
{
    const struct engine *fallback = v->trap_kernel == TRAP_KERNEL_TRANSLATE ? &engine_translate : &engine_interpret;
    if (!fallback->usable(err) || !fallback->attach(v, err))
        return false;
    struct trap *t = calloc(1, sizeof *t);
    check(t != NULL);
    v->trap = t;
    t->v = v;
    t->fallback = fallback;
    t->direct_kernel = v->trap_kernel == TRAP_KERNEL_DIRECT;
    t->patch = !v->trap_no_patch;
    t->policy = v->shadow_policy;
    t->copies_fd = -1;
    t->free_code = NONE;
    t->ram_size = memory_backing_size(v->memory);
    t->page_flags = memory_page_flags(v->memory);
    if (!spaces_create(t, err) || !codes_create(t, err) || !vector_create(t, err)) {
        detach(v);
        return false;
    }
    v->mmu_observer = &trap_observer;
    v->kick = on_kick;
    return true;
}

/* Sandboxes belong to the thread that made them. */
static bool family_ready(struct trap *t)
{
    if (t->family != NULL && sandboxes_is_mine(t->family))
        return true;
    struct error err = {""};
    const int files[2] = {memory_fd(t->v->memory), t->copies_fd};
    vector_fetch(t);
    for (unsigned i = 0; i < SPACES_MAX; i++)
        if (t->spaces[i].used || t->spaces[i].box != NULL)
            space_lost(t, &t->spaces[i]);
    struct sandboxes *old = t->family;
    __atomic_store_n(&t->family, NULL, __ATOMIC_SEQ_CST);
    sandboxes_destroy(old);
    struct sandboxes *family = sandboxes_create(files, &err);
    if (family == NULL)
        log_warn(t->v->log, "trap: %s", err.message);
    __atomic_store_n(&t->family, family, __ATOMIC_SEQ_CST);
    return family != NULL;
}

/* ---- running ---- */

static void interpret_some(struct vcpu *v)
{
    const struct insn *in = code_lookup(v);
    v->run_start = in;
    do {
        v->in = in;
        in = in->fn(v, in);
    } while (in != NULL);
    v->link = NULL;
}

/* What is not to run directly. */
static void run_otherwise(struct trap *t)
{
    struct vcpu *v = t->v;
    vector_fetch(t);
    t->count.otherwise++;
    if (t->fallback == &engine_translate && !(v->cpl == 3 && vcpu_protected(v))) {
        v->direct_user = true; /* it comes back when user code is next */
        jmp_buf *unwind = v->unwind;
        t->fallback->run(v, UINT64_MAX);
        v->unwind = unwind;
        v->instructions_partial = true;
    } else {
        interpret_some(v);
    }
}

static void run_direct(struct vcpu *v)
{
    struct trap *t = v->trap;
    jmp_buf unwind;
    v->unwind = &unwind;
    if (setjmp(unwind) != 0) {
        t = v->trap;
        t->count.reflect += t->emulating;
        t->emulating = false;
        events_unwind(v);
        events_deliver_fault(v);
    }
    for (;;) {
        /* Pairs with vcpu_raise(), see the interpreter. */
        __atomic_store_n(&v->instructions_stop, UINT64_MAX, __ATOMIC_SEQ_CST);
        if (events_must_take_pending(v) || v->activity != ACTIVITY_RUNNING) {
            if (!events_take_pending(v))
                break;
        }
        if (events_need_care(v)) {
            vector_fetch(t);
            events_step_with_care(v);
        } else if (!direct_possible(t) || !direct_run(t)) {
            run_otherwise(t);
        }
    }
    v->unwind = NULL;
}

static void run(struct vcpu *v, uint64_t until)
{
    struct trap *t = v->trap;
    if (until != UINT64_MAX || !family_ready(t)) {
        vector_fetch(t);
        engine_interpret.run(v, until);
        return;
    }
    v->instructions_partial = true;
    run_direct(v);
    vector_fetch(t); /* whoever looks at the machine now finds everything in its place */
}

static void stats(const struct vcpu *v, struct stats *stats)
{
    const struct trap *t = v->trap;
    if (t->fallback->stats != NULL)
        t->fallback->stats(v, stats);
    stats->trap = t->count;
    stats->trap.policy = shadow_policy_name(t->policy);
    if (t->family == NULL)
        return;
    const struct sandbox_counters *c = sandboxes_counters(t->family);
    stats->trap.processes = c->processes;
    stats->trap.commits = c->commits;
    stats->trap.maps = c->maps;
    stats->trap.unmaps = c->unmaps;
    stats->trap.protects = c->protects;
}

const struct engine engine_trap = {
    .name = "trap",
    .summary = "the classical monitor: guest code runs directly, without privilege, and traps; needs ptrace",
    .uncounted = true,
    .usable = usable,
    .attach = attach,
    .detach = detach,
    .run = run,
    .stats = stats,
    .shadow_has = trap_shadow_has,
    .shadow_name = "sandboxes' mappings",
};
