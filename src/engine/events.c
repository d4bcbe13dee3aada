/* See events.h for the model. */
#include "engine/events.h"

#include "cpu/code_cache.h"
#include "cpu/crew.h"
#include "cpu/decode.h"
#include "cpu/fast.h"
#include "cpu/hypercall.h"
#include "cpu/msr.h"
#include "cpu/segment.h"
#include "cpu/watch.h"
#include "memory/memory.h"

#define DR6_BS (1u << 14)

/* ---- faults and events ---- */

/* After a fault has unwound: makes the state that of the faulting instruction's start. */
void events_unwind(struct vcpu *v)
{
    if (v->run_start != NULL)
        rip_sync(v, v->in);
    v->rmw.active = false;
    if (v->rsp_restore_armed) {
        v->rsp_restore_armed = false;
        v->regs[RSP] = v->rsp_restore;
    }
}

void events_deliver_fault(struct vcpu *v)
{
    struct fault fault = v->fault;
    v->hit.kind = HIT_NONE; /* the instruction has not made its access after all */
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
    clear_pending(v, PENDING_INIT | PENDING_NMI); /* a SIPI that is pending has come after it */
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

bool events_take_pending(struct vcpu *v)
{
    uint32_t pending = atomic_load_explicit(&v->pending, memory_order_acquire) & ~v->pending_held;
    if (pending & (PENDING_STOP | PENDING_RESET))
        return false;
    if (pending & PENDING_FLUSH) {
        clear_pending(v, PENDING_FLUSH);
        v->memory_generation = memory_generation(v->memory);
        mmu_flush(v);
        code_cache_reset(v);
    }
    if (pending & PENDING_WRITES) {
        clear_pending(v, PENDING_WRITES);
        crew_take_requests(v);
    }
    if (pending & PENDING_CODE) {
        clear_pending(v, PENDING_CODE);
        code_cache_take_written(v);
    }
    if (pending & PENDING_SAMPLE) {
        clear_pending(v, PENDING_SAMPLE);
        if (v->activity == ACTIVITY_RUNNING && v->watch != NULL && v->watch->sample != NULL)
            v->watch->sample(v->watch->opaque, v);
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
        return v->activity == ACTIVITY_RUNNING; /* a trap of the previous instruction comes first: events_step_with_care() */
    struct fault event = {0};
    if ((pending & PENDING_NMI) && !v->nmi_blocked && v->shadow == 0) {
        clear_pending(v, PENDING_NMI);
        v->nmi_blocked = true;
        event.vector = VECTOR_NMI;
        event_deliver(v, EVENT_NMI, &event);
    } else if ((pending & PENDING_INTR) && interrupts_enabled(v) && !hypercall_holds_interrupt(v)) {
        int vector = v->platform.intr_ack(v->platform.opaque);
        if (vector >= 0) {
            event.vector = (uint8_t)vector;
            event_deliver(v, EVENT_EXTERNAL, &event);
        }
    }
    return v->activity == ACTIVITY_RUNNING;
}

/* ---- one instruction ---- */

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

void events_run_single(struct vcpu *v, const struct insn *in)
{
    v->run_start = in;
    v->in = in;
    const struct insn *next = in->fn(v, in);
    if (next != NULL) { /* went on to the run_end behind it */
        v->in = next;
        next->fn(v, next);
    }
}

void events_step_with_care(struct vcpu *v)
{
    if (v->dr6_pending != 0 && v->shadow != SHADOW_MOV_SS) { /* of a task switch */
        uint64_t dr6 = v->dr6_pending;
        v->dr6_pending = 0;
        deliver_debug(v, dr6, true);
        return;
    }
    if (unlikely(v->points != NULL) && points_here(v)) {
        points_stop_here(v);
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
    events_run_single(v, in);
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
