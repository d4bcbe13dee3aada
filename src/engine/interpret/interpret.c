/* The interpreter's loop.
 *
 * Straight-line code: the record's function returns the next record; NULL means that control has left (a taken branch
 * out of the page, a slow instruction, the end of the run) and `rip` is up to date. Between runs the engine looks for
 * interrupts, for the clock, and whether something asks for instruction-by-instruction care (single-step, breakpoints,
 * interrupt shadows): then runs are one instruction long.
 *
 * A fault unwinds to the setjmp here and is delivered; that counts like an instruction.
 *
 * Order of events between two instructions, SDM vol. 3, table 6-2: traps of the previous instruction, then NMI, then
 * INTR, then instruction breakpoints of the next.
 */
#include "engine/interpret/interpret.h"

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/decode.h"
#include "cpu/fast.h"
#include "cpu/host_exec.h"
#include "cpu/msr.h"
#include "cpu/segment.h"
#include "memory/memory.h"

#define DR6_BS (1u << 14)

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

/* ---- faults and events ---- */

/* After a fault has unwound: makes the state that of the faulting instruction's start. */
static void unwind_state(struct vcpu *v)
{
    if (v->run_start != NULL)
        rip_sync(v, v->in);
    v->rmw.active = false;
    if (v->rsp_restore_armed) {
        v->rsp_restore_armed = false;
        v->regs[RSP] = v->rsp_restore;
    }
}

static void deliver_fault(struct vcpu *v)
{
    struct fault fault = v->fault;
    v->instructions++; /* so that guest time goes on, when it is counted in instructions, while a guest only faults */
    v->shadow = 0;
    v->dr6_pending = 0;
    event_deliver(v, EVENT_EXCEPTION, &fault);
}

static void deliver_debug(struct vcpu *v, uint64_t dr6, bool trap)
{
    struct fault fault = {.vector = VECTOR_DB, .dr6 = dr6, .trap = trap};
    event_deliver(v, EVENT_EXCEPTION, &fault);
}

/* DR7 bits that a debugger has enabled for instruction fetch at this address. */
static uint64_t instruction_breakpoints(const struct vcpu *v)
{
    uint64_t hit = 0, dr7 = v->dr[7];
    uint64_t gva = v->code_mode == CODE_64 ? v->rip : (uint32_t)(v->rip + v->seg[SEG_CS].base);
    for (unsigned i = 0; i < 4; i++)
        if ((dr7 >> (2 * i) & 3) && (dr7 >> (16 + 4 * i) & 3) == 0 && v->dr[i] == gva)
            hit |= 1u << i;
    return hit;
}

static bool interrupts_enabled(const struct vcpu *v)
{
    return (v->rflags_rest & FLAG_IF) && v->shadow == 0;
}

static void clear_pending(struct vcpu *v, uint32_t bits)
{
    atomic_fetch_and(&v->pending, ~bits);
}

static void take_init(struct vcpu *v)
{
    clear_pending(v, PENDING_INIT | PENDING_SIPI);
    vcpu_reset(v, true);
    if (v->index != 0)
        v->activity = ACTIVITY_WAIT_SIPI;
}

static void take_sipi(struct vcpu *v)
{
    clear_pending(v, PENDING_SIPI);
    if (v->activity != ACTIVITY_WAIT_SIPI)
        return;
    segment_load_real(v, SEG_CS, (uint16_t)(v->sipi_vector << 8));
    v->rip = 0;
    v->activity = ACTIVITY_RUNNING;
    vcpu_mode_changed(v);
}

/* Everything in `pending`, in order of priority. False: return from run(). */
static bool take_pending(struct vcpu *v)
{
    uint32_t pending = atomic_load_explicit(&v->pending, memory_order_acquire);
    if (pending & (PENDING_STOP | PENDING_RESET))
        return false;
    if (pending & PENDING_FLUSH) {
        clear_pending(v, PENDING_FLUSH);
        v->memory_generation = memory_generation(v->memory);
        mmu_flush(v);
        code_cache_reset(v);
    }
    if (pending & PENDING_CODE) {
        clear_pending(v, PENDING_CODE);
        code_cache_take_written(v);
    }
    if (pending & PENDING_INIT)
        take_init(v);
    if (pending & PENDING_SIPI)
        take_sipi(v);
    clear_pending(v, PENDING_SMI); /* there is no system management mode: SMIs are handled by the machine */
    if (!vcpu_runnable(v))
        return false;
    if (v->activity == ACTIVITY_HLT) {
        v->activity = ACTIVITY_RUNNING;
        v->mwait_breaks = false;
    }
    if (v->dr6_pending != 0)
        return v->activity == ACTIVITY_RUNNING; /* a trap of the previous instruction comes first: step_with_care() */
    struct fault event = {0};
    if ((pending & PENDING_NMI) && !v->nmi_blocked && v->shadow == 0) {
        clear_pending(v, PENDING_NMI);
        v->nmi_blocked = true;
        event.vector = VECTOR_NMI;
        event_deliver(v, EVENT_NMI, &event);
    } else if ((pending & PENDING_INTR) && interrupts_enabled(v)) {
        int vector = v->platform.intr_ack(v->platform.opaque);
        if (vector >= 0) {
            event.vector = (uint8_t)vector;
            event_deliver(v, EVENT_EXTERNAL, &event);
        }
    }
    return v->activity == ACTIVITY_RUNNING;
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

/* Something is pending that can be taken now. With interrupts off, INTR waits without costing anything. */
static inline bool must_take_pending(const struct vcpu *v)
{
    uint32_t pending = atomic_load(&v->pending);
    return unlikely(pending != 0) && (pending & ~(v->rflags_rest & FLAG_IF ? 0 : PENDING_INTR)) != 0;
}

static bool needs_care(const struct vcpu *v)
{
    return v->stepping || v->shadow != 0 || (v->rflags_rest & FLAG_RF) || v->dr6_pending != 0;
}

/* Whether `in`, which was at `rip_before`, has transferred control: what TF traps after when DEBUGCTL.BTF is set. */
static bool has_branched(const struct vcpu *v, const struct insn *in, uint64_t rip_before)
{
    if (in->row == ROW_JMP || in->row == ROW_CALL || in->row == ROW_RET)
        return true;
    bool repeats = v->rip == rip_before && (in->flags & (INSN_REP | INSN_REPNE));
    return v->rip != rip_cut(in, rip_before + in->len) && !repeats;
}

/* INT n, INT3, INTO, INT1, SYSCALL and SYSENTER are not followed by a single-step trap if they clear TF (SDM vol. 3,
 * 17.3.1.4 and the SYSCALL page). */
static bool single_step_after(const struct vcpu *v, const struct insn *in, bool tf_before, uint64_t rip_before)
{
    if ((v->msr.debugctl & DEBUGCTL_BTF) && !has_branched(v, in, rip_before))
        return false;
    switch (in->row) {
    case ROW_INT:
    case ROW_INT3:
    case ROW_INTO:
    case ROW_INT1:
    case ROW_SYSCALL:
    case ROW_SYSENTER: return tf_before && (v->rflags_rest & FLAG_TF);
    default: return tf_before;
    }
}

/* Runs one record and what ends its run. */
static void run_single(struct vcpu *v, const struct insn *in)
{
    v->run_start = in;
    v->in = in;
    const struct insn *next = in->fn(v, in);
    if (next != NULL) { /* went on to the run_end behind it */
        v->in = next;
        next->fn(v, next);
    }
}

/* One instruction with all debugging facilities. Its fault, if any, unwinds to the caller's setjmp; RF, cleared here before
 * the instruction, is in any case set in the flags that a fault pushes. */
static void step_with_care(struct vcpu *v)
{
    if (v->dr6_pending != 0 && v->shadow != SHADOW_MOV_SS) { /* of a task switch */
        uint64_t dr6 = v->dr6_pending;
        v->dr6_pending = 0;
        deliver_debug(v, dr6, true);
        return;
    }
    uint64_t breakpoints = v->rflags_rest & FLAG_RF ? 0 : instruction_breakpoints(v);
    if (breakpoints != 0 && v->shadow != SHADOW_MOV_SS) {
        deliver_debug(v, breakpoints, false);
        return;
    }
    bool tf_before = v->rflags_rest & FLAG_TF;
    v->shadow = 0;
    const struct insn *in = code_lookup_single(v);
    uint64_t rip_before = v->rip;
    bool had_rf = v->rflags_rest & FLAG_RF;
    v->rflags_rest &= ~FLAG_RF;
    run_single(v, in);
    if (v->rip == rip_before && had_rf && (in->flags & (INSN_REP | INSN_REPNE)))
        v->rflags_rest |= FLAG_RF; /* between two iterations */
    if (v->activity == ACTIVITY_SHUTDOWN)
        return;
    uint64_t dr6 = v->dr6_pending | (single_step_after(v, in, tf_before, rip_before) ? DR6_BS : 0);
    if (dr6 != 0 && v->shadow != SHADOW_MOV_SS) {
        v->dr6_pending = 0;
        deliver_debug(v, dr6, true);
    }
}

static void run(struct vcpu *v, uint64_t until)
{
    jmp_buf unwind;
    v->unwind = &unwind;
    if (setjmp(unwind) != 0) {
        unwind_state(v);
        deliver_fault(v);
    }
    v->link = NULL;
    while (v->instructions < until) {
        /* Pairs with vcpu_raise(), which sets `pending` first: either this overwrites its 0, and then `pending` is seen
         * below, or its 0 comes later and ends the run. */
        __atomic_store_n(&v->instructions_stop, until, __ATOMIC_SEQ_CST);
        if (unlikely(must_take_pending(v) || v->activity != ACTIVITY_RUNNING)) {
            v->link = NULL;
            if (!take_pending(v))
                break;
        }
        if (unlikely(needs_care(v))) {
            step_with_care(v);
            continue;
        }
        do {
            const struct insn *in = code_lookup(v);
            link_branch(v, in);
            run_straight(v, in);
        } while (!must_leave(v) && !must_take_pending(v) && !needs_care(v) && v->activity == ACTIVITY_RUNNING);
    }
    v->unwind = NULL;
}

bool interpret_step(struct vcpu *v, struct fault *fault)
{
    jmp_buf unwind;
    v->unwind = &unwind;
    if (setjmp(unwind) != 0) {
        unwind_state(v);
        v->unwind = NULL;
        *fault = v->fault;
        return false;
    }
    run_single(v, code_lookup_single(v));
    v->unwind = NULL;
    return true;
}

const struct engine engine_interpret = {
    .name = "interpret",
    .summary = "one instruction at a time in C: the reference, runs everywhere",
    .usable = usable,
    .attach = attach,
    .detach = detach,
    .run = run,
};
