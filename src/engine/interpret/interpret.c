/* The interpreter's loop.
 *
 * Straight-line code: the record's function returns the next record; NULL means that control has left (a taken branch
 * out of the page, a slow instruction, the end of the run) and `rip` is up to date. Between runs the engine looks for
 * interrupts, for the clock, and whether something asks for instruction-by-instruction care (engine/events.h).
 *
 * The count to stop at is met exactly: runs end where one more might go beyond it, and the rest is done in single
 * instructions.
 *
 * A fault unwinds to the setjmp here and is delivered; that counts like an instruction.
 */
#include "engine/interpret/interpret.h"

#include "cpu/code_cache.h"
#include "cpu/fast.h"
#include "cpu/host_exec.h"
#include "engine/events.h"

static bool attach(struct vcpu *v, struct error *err)
{
    v->code = code_cache_create(err);
    if (v->code == NULL)
        return false;
    if (v->host_exec == NULL)
        v->host_exec = host_exec_create(err);
    return v->host_exec != NULL;
}

static void detach(struct vcpu *v)
{
    if (v->code != NULL && v->host_exec != NULL)
        code_cache_reset(v); /* nothing stays watched, and nothing points to what goes */
    v->in = v->link = NULL;
    code_cache_destroy(v->code);
    v->code = NULL;
    host_exec_destroy(v->host_exec);
    v->host_exec = NULL;
}

static bool usable(struct error *why_not)
{
    (void)why_not;
    return true;
}

/* ---- running ---- */

static inline void run_straight(struct vcpu *v, const struct insn *in)
{
    v->run_start = in;
    do {
        v->in = in;
        in = in->fn(v, in);
    } while (in != NULL);
}

/* After the target of a direct branch has been looked up: remember it in the branch. */
static inline void link_branch(struct vcpu *v, const struct insn *target)
{
    const struct insn *branch = v->link;
    if (branch == NULL)
        return;
    v->link = NULL;
    if (target->off == branch->imm && target->mode == branch->mode && v->in == branch)
        code_link(v, branch, target);
}

static void run(struct vcpu *v, uint64_t until)
{
    jmp_buf unwind;
    v->unwind = &unwind;
    if (setjmp(unwind) != 0) {
        events_unwind(v);
        events_deliver_fault(v);
    }
    v->link = NULL;
    while (v->instructions < until) {
        /* Pairs with vcpu_raise(), which sets `pending` first: either this overwrites its 0, and then `pending` is seen
         * below, or its 0 comes later and ends the run. */
        bool last = until - v->instructions <= EVENTS_RUN_MAX;
        __atomic_store_n(&v->instructions_stop, last ? until : until - EVENTS_RUN_MAX, __ATOMIC_SEQ_CST);
        if (unlikely(events_must_take_pending(v) || v->activity != ACTIVITY_RUNNING)) {
            v->link = NULL;
            if (!events_take_pending(v))
                break;
        }
        if (unlikely(events_need_care(v))) {
            events_step_with_care(v);
            continue;
        }
        if (unlikely(last)) {
            events_run_single(v, code_lookup_single(v));
            continue;
        }
        do {
            const struct insn *in = code_lookup(v);
            link_branch(v, in);
            run_straight(v, in);
        } while (!must_leave(v) && !events_must_take_pending(v) && !events_need_care(v) && v->activity == ACTIVITY_RUNNING);
    }
    v->unwind = NULL;
}

bool interpret_step(struct vcpu *v, struct fault *fault)
{
    jmp_buf unwind;
    v->unwind = &unwind;
    if (setjmp(unwind) != 0) {
        events_unwind(v);
        v->unwind = NULL;
        *fault = v->fault;
        return false;
    }
    events_run_single(v, code_lookup_single(v));
    v->unwind = NULL;
    return true;
}

const struct engine engine_interpret = {
    .name = "interpret",
    .summary = "one instruction at a time in C: the reference, runs everywhere",
    .several = true,
    .usable = usable,
    .attach = attach,
    .detach = detach,
    .run = run,
};
