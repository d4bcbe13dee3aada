/* Moving a processor between struct vcpu and the kernel.
 *
 * Taking. An instruction that an exit has interrupted is completed first. Then everything is read, and what the
 * processor was about to deliver (an interrupt that has been acknowledged, an exception, an NMI) is delivered by the
 * monitor's own code: in struct vcpu there is no such thing as a half-delivered event. Software interrupts and
 * breakpoints are the exception: their instruction has not completed and delivers them again when it is executed.
 *
 * Giving. What is to be there is compared with what is there, and only the difference is told. If the kernel refuses a
 * part, the state stays here, and what is there does not matter any more.
 *
 * The TSC. The processor counts it; guest time comes from another clock of the host, and the two drift apart by some
 * parts per million. While the state is there the processor's count is the truth: whoever needs the guest's TSC has it
 * measured, and the difference becomes v->tsc_drift, which every other engine adds. Back there, the offset is set so
 * that the count goes on from where it was: it never goes back, and loses at most what the moving took. A back end that
 * does not let the count be moved (emulators, which show the host's) keeps it; everything told in its terms follows.
 *
 * Source: Documentation/virt/kvm/api.rst; devices/vcpu.rst (KVM_VCPU_TSC_OFFSET). */
#include "engine/kvm/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "cpu/pvclock.h"
#include "cpu/segment.h"
#include "mmu/access.h"

#define MSR_TSC 0x10u
#define DR6_TOLD 0xe00full /* BT, BS, BD, B3-B0 */

/* ---- the TSC ---- */

static bool tsc_read(const struct kvm *k, uint64_t *tsc)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } one = {.header.nmsrs = 1, .entry.index = MSR_TSC};
    bool ok = ioctl(k->cpu, KVM_GET_MSRS, &one) == 1;
    *tsc = one.entry.data;
    return ok;
}

static void tsc_write(const struct kvm *k, uint64_t tsc)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } one = {.header.nmsrs = 1, .entry = {.index = MSR_TSC, .data = tsc}};
    ioctl(k->cpu, KVM_SET_MSRS, &one);
}

void kvm_tsc_measure(struct kvm *k, struct vcpu *v)
{
    uint64_t tsc;
    if (k->there && tsc_read(k, &tsc))
        v->tsc_drift += tsc - vcpu_tsc(v);
}

/* Moves the processor's count by -ahead. */
static void tsc_move(const struct kvm *k, const struct vcpu *v, uint64_t ahead)
{
    uint64_t offset;
    struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    if (k->has_tsc_offset && ioctl(k->cpu, KVM_GET_DEVICE_ATTR, &attr) == 0) {
        offset -= ahead;
        ioctl(k->cpu, KVM_SET_DEVICE_ATTR, &attr);
    } else {
        /* Older kernels take a value near the present one for an attempt to synchronise processors, and ignore it. */
        tsc_write(k, vcpu_tsc(v) + (1ull << 50));
        tsc_write(k, vcpu_tsc(v));
    }
}

void kvm_tsc_set(struct kvm *k, struct vcpu *v)
{
    uint64_t there, here = vcpu_tsc(v), small = v->tsc_khz / 50; /* 20 microseconds */
    if (!tsc_read(k, &there))
        return;
    if (k->tsc_adjust == v->msr.tsc_adjust && there - here < small)
        return; /* it has gone on by itself: the difference is that one was read after the other */
    k->tsc_adjust = v->msr.tsc_adjust;
    tsc_move(k, v, there - here);
    here = vcpu_tsc(v);
    if (!tsc_read(k, &there) || there - here + v->tsc_khz < 2ull * v->tsc_khz)
        return;
    v->tsc_drift += there - here; /* it cannot be moved: then it is what it is, and kvm-clock must know */
    pvclock_update(v);
}

/* ---- taking ---- */

static bool fetch(struct kvm *k, struct vcpu *v, struct kvm_state *state)
{
    bool pae = (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !(v->efer & EFER_LMA);
    struct kvm_sregs sregs;
    int failed = ioctl(k->cpu, KVM_GET_REGS, &state->regs) | ioctl(k->cpu, KVM_GET_VCPU_EVENTS, &state->events) |
                 ioctl(k->cpu, KVM_GET_DEBUGREGS, &state->debug) | ioctl(k->cpu, KVM_GET_XCRS, &state->xcrs) |
                 ioctl(k->cpu, KVM_GET_XSAVE, &state->xsave);
    if (pae && k->has_sregs2) {
        failed |= ioctl(k->cpu, KVM_GET_SREGS2, &state->sregs);
    } else {
        failed |= ioctl(k->cpu, KVM_GET_SREGS, &sregs);
        kvm_sregs_from_sync(&state->sregs, &sregs);
    }
    int got = ioctl(k->cpu, KVM_GET_MSRS, &state->msrs);
    if (failed || got != (int)state->msrs.header.nmsrs) {
        v->failed = "/dev/kvm does not give the processor's registers back any more; the host's kernel log may say why";
        return false;
    }
    return true;
}

/* What the processor was about to deliver. CR2 and DR6 are there already, or come as the exception's payload. */
static void settle(struct vcpu *v, const struct kvm_vcpu_events *events)
{
    struct fault fault = {.vector = events->exception.nr};
    if (events->nmi.pending)
        vcpu_raise(v, PENDING_NMI);
    if (events->exception.injected || events->exception.pending) {
        if (fault.vector == VECTOR_BP || fault.vector == VECTOR_OF)
            return;
        bool payload = events->exception.pending && events->exception_has_payload;
        fault.has_error = events->exception.has_error_code;
        fault.error = events->exception.error_code;
        fault.address = payload && fault.vector == VECTOR_PF ? events->exception_payload : v->cr2;
        fault.dr6 = payload && fault.vector == VECTOR_DB ? events->exception_payload & DR6_TOLD : v->dr[6] & DR6_TOLD;
        event_deliver(v, EVENT_EXCEPTION, &fault);
    } else if (events->nmi.injected) {
        event_deliver(v, EVENT_NMI, &fault);
    } else if (events->interrupt.injected && !events->interrupt.soft) {
        fault.vector = events->interrupt.nr;
        event_deliver(v, EVENT_EXTERNAL, &fault);
    }
}

bool kvm_take(struct kvm *k, struct vcpu *v)
{
    if (!k->there)
        return true;
    kvm_complete(k, v);
    struct kvm_state *state = &k->now;
    kvm_state_from_vcpu(v, k->held, &k->last); /* names the MSRs to be asked for */
    state->msrs = k->last.msrs;
    if (!fetch(k, v, state))
        return false;
    k->stats.taken++;
    kvm_state_to_vcpu(v, KVM_PART_ALL, state);
    kvm_tsc_measure(k, v);
    k->there = false;
    k->stale = true;
    mmu_flush(v);
    if (!(state->sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) && (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) &&
        !(v->efer & EFER_LMA))
        mmu_load_pdptes(v, v->cr3);
    kvm_state_from_vcpu(v, k->held, &k->last);
    const struct kvm_vcpu_events *e = &state->events;
    bool moving =
        e->exception.injected || e->exception.pending || e->interrupt.injected || e->nmi.injected || e->nmi.pending;
    k->last_known = moving ? KVM_PART_ALL & ~KVM_PART_EVENTS : KVM_PART_ALL;
    k->intr_given = k->nmi_given = false;
    settle(v, e);
    return true;
}

/* ---- giving ---- */

static bool tell(struct kvm *k, unsigned part, unsigned long request, void *now, const void *last, size_t size)
{
    if ((k->last_known & part) && memcmp(now, last, size) == 0)
        return true;
    k->last_known &= ~part;
    return ioctl(k->cpu, request, now) >= 0;
}

static bool tell_sregs(struct kvm *k, struct kvm_state *now)
{
    struct kvm_sregs old = {0};
    if (k->has_sregs2)
        return tell(k, KVM_PART_SREGS, KVM_SET_SREGS2, &now->sregs, &k->last.sregs, sizeof now->sregs);
    memcpy(&old, &now->sregs, offsetof(struct kvm_sregs2, flags));
    if ((k->last_known & KVM_PART_SREGS) && memcmp(&now->sregs, &k->last.sregs, sizeof now->sregs) == 0)
        return true;
    k->last_known &= ~KVM_PART_SREGS;
    return ioctl(k->cpu, KVM_SET_SREGS, &old) == 0;
}

static bool tell_msrs(struct kvm *k, struct kvm_state *now)
{
    if ((k->last_known & KVM_PART_MSRS) && memcmp(&now->msrs, &k->last.msrs, sizeof now->msrs) == 0)
        return true;
    k->last_known &= ~KVM_PART_MSRS;
    return ioctl(k->cpu, KVM_SET_MSRS, &now->msrs) == (int)now->msrs.header.nmsrs;
}

bool kvm_give(struct kvm *k, struct vcpu *v)
{
    struct kvm_state *now = &k->now, *last = &k->last;
    kvm_state_from_vcpu(v, k->held, now);
    bool ok = tell_sregs(k, now) && tell(k, KVM_PART_REGS, KVM_SET_REGS, &now->regs, &last->regs, sizeof now->regs) &&
              tell(k, KVM_PART_XCRS, KVM_SET_XCRS, &now->xcrs, &last->xcrs, sizeof now->xcrs) &&
              tell(k, KVM_PART_XSAVE, KVM_SET_XSAVE, &now->xsave, &last->xsave, sizeof now->xsave) &&
              tell_msrs(k, now) &&
              tell(k, KVM_PART_DEBUG, KVM_SET_DEBUGREGS, &now->debug, &last->debug, sizeof now->debug) &&
              tell(k, KVM_PART_EVENTS, KVM_SET_VCPU_EVENTS, &now->events, &last->events, sizeof now->events);
    if (!ok) {
        log_info(v->log, "kvm: the kernel does not accept the state at 0x%llx: %s", (unsigned long long)v->rip,
                 strerror(errno));
        k->stats.refused++;
        return false;
    }
    kvm_tsc_set(k, v);
    k->cr8 = k->run->cr8 = now->sregs.cr8;
    k->there = k->fresh = true;
    k->last_known = 0; /* from now on it changes */
    return true;
}

/* ---- events ---- */

/* The record of an event as the door wants it, made when it is given; counted when it has been delivered. */
static struct exit event_exit(const struct vcpu *v, enum exit_reason reason, unsigned vector)
{
    return (struct exit){.reason = reason, .mode = vcpu_exit_mode(v), .rip = v->rip, .vector = (uint8_t)vector};
}

void kvm_give_interrupt(struct kvm *k, struct vcpu *v, unsigned vector)
{
    struct kvm_interrupt interrupt = {.irq = vector};
    if (ioctl(k->cpu, KVM_INTERRUPT, &interrupt) == 0) {
        k->intr_given = true;
        k->intr_exit = event_exit(v, EXIT_INTERRUPT, vector);
        return;
    }
    /* The processor is busy with another event after all: then both are delivered here. */
    if (kvm_take(k, v) && v->activity == ACTIVITY_RUNNING)
        event_deliver(v, EVENT_EXTERNAL, &(struct fault){.vector = (uint8_t)vector});
}

void kvm_give_nmi(struct kvm *k, struct vcpu *v)
{
    if (ioctl(k->cpu, KVM_NMI) != 0)
        return;
    atomic_fetch_and(&v->pending, ~PENDING_NMI);
    k->nmi_given = true;
    k->nmi_exit = event_exit(v, EXIT_NMI, VECTOR_NMI);
}

void kvm_synced(struct kvm *k, struct vcpu *v)
{
    const struct kvm_sync_regs *sync = &k->run->s.regs;
    k->fresh = false;
    k->now.regs = sync->regs;
    k->now.events = sync->events;
    kvm_sregs_from_sync(&k->now.sregs, &sync->sregs);
    kvm_state_to_vcpu(v, KVM_PART_SYNCED, &k->now);
    if (k->run->cr8 != k->cr8) {
        k->cr8 = k->run->cr8;
        v->platform.cr8_write(v->platform.opaque, k->cr8);
    }
    if (k->intr_given && !sync->events.interrupt.injected) {
        k->intr_given = false;
        v->exit(v, &k->intr_exit);
    }
    if (k->nmi_given && !sync->events.nmi.injected && !sync->events.nmi.pending) {
        k->nmi_given = false;
        v->exit(v, &k->nmi_exit);
    }
}
