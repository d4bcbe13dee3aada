/* What happens between two instructions, the same for every engine that runs them in this process: interrupts and other
 * pending events, delivery of faults, and single instructions that need care (single-step, breakpoints, interrupt
 * shadows).
 *
 * Order of events between two instructions, SDM vol. 3, table 6-2: traps of the previous instruction, then NMI, then
 * INTR, then instruction breakpoints of the next.
 *
 * All on the vCPU's thread. Functions that may raise a fault do so through v->unwind.
 */
#ifndef RING3_ENGINE_EVENTS_H
#define RING3_ENGINE_EVENTS_H

#include "cpu/insn.h"
#include "cpu/points.h"
#include "cpu/vcpu.h"

/* After a fault has unwound to the engine: makes the state that of the faulting instruction's start and delivers it, which
 * counts like an instruction. */
void events_unwind(struct vcpu *v);
void events_deliver_fault(struct vcpu *v);

/* Takes everything in `pending`, in order of priority. False: return from the engine's run(). */
bool events_take_pending(struct vcpu *v);

/* Something is pending that can be taken now. With interrupts off, or held back by a paravirtual guest's flag, INTR waits
 * without costing anything. */
static inline bool events_must_take_pending(const struct vcpu *v)
{
    uint32_t pending = atomic_load(&v->pending);
    return unlikely(pending != 0) &&
           (pending & ~((v->rflags_rest & FLAG_IF) && !v->hypercall.held ? 0 : PENDING_INTR) & ~v->pending_held) != 0;
}

/* The next instruction has to go through events_step_with_care(). */
static inline bool events_need_care(const struct vcpu *v)
{
    return v->stepping || v->shadow != 0 || (v->rflags_rest & FLAG_RF) || v->dr6_pending != 0 ||
           (unlikely(v->points != NULL) && points_here(v));
}

/* One instruction with all debugging facilities. RF, cleared here before the instruction, is in any case set in the flags
 * that a fault pushes. */
void events_step_with_care(struct vcpu *v);

/* Straight-line code of the interpreter is at most this long; closer to a count to stop at, single instructions are run. */
#define EVENTS_RUN_MAX 80u

/* Runs one record and what ends its run: a record of code_lookup_single(). */
void events_run_single(struct vcpu *v, const struct insn *in);

#endif
