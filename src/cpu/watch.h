/* Looking on: what a curious monitor is told beyond the exits of the door.
 *
 * The door (exit.h) hears of what needs the monitor. A classical monitor would be trapped for more: each privileged
 * instruction, and each return to less privileged code. And x86 has instructions that such a monitor should be trapped
 * for and is not (insn_sensitivity()). Whoever wants to see these sets vcpu.watch before the engine is attached, and
 * leaves it until the engine has been detached.
 *
 * Any of the functions may be NULL. All are called on the vCPU's thread without any lock and must not raise faults.
 *
 * begin      before an instruction that is sensitive, with `v->rip` at it. While it is not NULL, translated code calls
 *              C for all of these: slower, but none is missed
 *   end        after it; not if it ended in a fault: then the exit EXIT_EXCEPTION follows for the same rip
 *   delivered  an exception or interrupt has been delivered (not by an instruction): rip and CPL are the handler's;
 *              or the processor has shut down instead
 *   mode       CPL has just changed (the rest of the state may be halfway)
 *   sample     PENDING_SAMPLE was raised and the vCPU is between two instructions, not halted
 *
 * Cost. Without a watch: a test at each slow instruction, change of mode and delivery, which are dear anyhow.
 */
#ifndef RING3_CPU_WATCH_H
#define RING3_CPU_WATCH_H

#include "cpu/insn.h"
#include "cpu/vcpu.h"

struct vcpu_watch {
    void (*begin)(void *opaque, struct vcpu *v, const struct insn *in);
    void (*end)(void *opaque, struct vcpu *v, const struct insn *in);
    void (*delivered)(void *opaque, struct vcpu *v);
    void (*mode)(void *opaque, struct vcpu *v, unsigned cpl_before);
    void (*sample)(void *opaque, struct vcpu *v);
    void *opaque;
};

/* What an instruction is to a monitor that runs the guest's kernel without privilege (Popek and Goldberg 1974). */
enum insn_sensitivity {
    INSN_INNOCENT,   /* nothing: runs as it is */
    INSN_PRIVILEGED, /* traps without privilege, and is emulated */
    INSN_GATE,       /* asks for a handler of the guest's: traps, and is reflected */
    INSN_SILENT,     /* depends on privilege or on state that the monitor keeps, and does not trap: must be patched */
};

/* By the decoded instruction, whatever the mode. IRET counts as privileged: for a kernel without privilege the return
 * to selectors of its own level faults. RDTSC and CPUID are silent, though a host may be told to trap them. */
enum insn_sensitivity insn_sensitivity(const struct insn *in);

/* Every sensitive instruction is wanted: those that would be done within translated code are to be called in C. */
static inline bool vcpu_watched_closely(const struct vcpu *v)
{
    return unlikely(v->watch != NULL) && v->watch->begin != NULL;
}

/* Around the operation of a slow instruction (flow.c); all sensitive ones are slow. */
static inline bool watch_begin(struct vcpu *v, const struct insn *in)
{
    if (likely(!vcpu_watched_closely(v)) || insn_sensitivity(in) == INSN_INNOCENT || v->rehearsal != NULL)
        return false;
    v->watch->begin(v->watch->opaque, v, in);
    return true;
}

static inline void watch_end(struct vcpu *v, const struct insn *in)
{
    if (v->watch->end != NULL)
        v->watch->end(v->watch->opaque, v, in);
}

#endif
