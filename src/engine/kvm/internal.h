/* What the files of the engine `kvm` share.
 *
 * Where the state is. A processor's registers are either in struct vcpu ("here") or in the kernel ("there"). While
 * guest code runs they are there; every exit brings a copy of what exits need (general and segment registers, control
 * registers, events: kvm_run's synced registers) into struct vcpu, for reading only. kvm_take() brings everything here
 * and kvm_give() everything there; run() returns only with everything here. Each knows what the kernel had last, so
 * that only what differs is told.
 *
 * The MSRs are divided once for all: those in kvm_held_msrs[] live in the processor and move with the state; all
 * others, the local APIC's and the paravirtual ones included, come to cpu/msr.c by a filter and are always in struct
 * vcpu.
 *
 * Every vCPU has a virtual machine of the kernel's to itself, with slots over the same guest memory: nothing is shared,
 * and a vCPU comes and goes alone.
 *
 * Source: Linux Documentation/virt/kvm/api.rst. */
#ifndef RING3_ENGINE_KVM_INTERNAL_H
#define RING3_ENGINE_KVM_INTERNAL_H

#include <linux/kvm.h>

#include "cpu/cpuid.h"
#include "cpu/vcpu.h"
#include "engine/door.h"

/* The kernel's records end in arrays of any length, which is given to them by what stands behind them here. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Wgnu-variable-sized-type-not-at-end"
#endif

#define KVM_HELD_MAX 16u
#define KVM_SLOTS_MAX 512u
#define KVM_TSS_GPA                                                                                                    \
    0xfffbd000u /* three pages that older Intel processors need for real mode; nothing of the machine is there */
#define KVM_IDENTITY_GPA 0xfffbc000ull /* and one */

struct kvm_msr_set {
    struct kvm_msrs header;
    struct kvm_msr_entry entries[KVM_HELD_MAX];
};

/* A complete processor in the kernel's formats. */
struct kvm_state {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_xcrs xcrs;
    struct kvm_xsave xsave;
    struct kvm_msr_set msrs;
};

struct kvm_slot {
    gpa_t base;
    uint64_t size; /* 0: free */
    uint8_t *hva;
    bool rom;
    bool wanted; /* while slots are compared with the map */
};

struct kvm {
    int device, vm, cpu;
    int thread; /* that runs it */
    struct kvm_run *run;
    size_t run_size;
    bool there;      /* where the state is */
    bool incomplete; /* the last exit's instruction is completed when KVM_RUN is next called */
    bool fresh;      /* nothing has run since the state was given: what kvm_run says of interrupts is old */
    bool stale;      /* guest code has run: what the interpreter has decoded may be old */
    bool prepared;   /* CPUID and the TSC's frequency have been told */
    bool has_sregs2, has_tsc_offset;
    uint32_t held;                   /* bit n: kvm_held_msrs[n] exists there */
    struct kvm_state last;           /* what is there, as far as it was there when the state was last taken or given */
    unsigned last_known;             /* KVM_PART_* of `last` that are true */
    struct kvm_state now;            /* room for what an exit brings */
    bool intr_given, nmi_given;      /* to the kernel, and not yet seen to be delivered ... */
    struct exit intr_exit, nmi_exit; /* ... when they go through the door */
    uint64_t entered_rip;            /* where guest code was entered */
    uint64_t cr8;                    /* that was given */
    unsigned burst;                  /* instructions that the interpreter executes when the kernel gives up */
    uint64_t tsc_adjust;             /* the guest's IA32_TSC_ADJUST that the offset there was computed for */
    uint64_t generation;             /* of the memory map that the slots show */
    bool slots_known;
    unsigned slots_max;
    struct kvm_slot slots[KVM_SLOTS_MAX];
    struct kvm_guest_debug debug;    /* what the processor watches for a debugger */
    struct point debug_points[4];    /* ... by its debug registers */
    bool asked_for_data, watches_data; /* whether it does that for data */
    struct stats_kvm stats;
};

static inline struct kvm *kvm_of(const struct vcpu *v)
{
    return v->engine_opaque;
}

/* ---- device.c: what the host has ---- */

/* Opens /dev/kvm and looks whether it has all that is needed; -1 with the reason. */
int kvm_open(struct error *err);
/* What a guest's processor may have here. */
bool kvm_offer(int device, struct cpu_offer *offer, struct error *err);
/* Whether guest code runs at the processor's speed; else the reason, with the measured time. */
bool kvm_is_fast(struct error *why_not);
bool kvm_limit(struct cpu_model *model, struct error *err);

/* Makes the CPUID table of `v`; freed with free(). */
struct kvm_cpuid2 *kvm_cpuid_table(const struct vcpu *v);

/* ---- state.c: conversions; nothing is asked of the kernel ---- */

#define KVM_PART_REGS 1u
#define KVM_PART_SREGS 2u
#define KVM_PART_EVENTS 4u
#define KVM_PART_DEBUG 8u
#define KVM_PART_XCRS 16u
#define KVM_PART_XSAVE 32u
#define KVM_PART_MSRS 64u
#define KVM_PART_ALL 127u
#define KVM_PART_SYNCED (KVM_PART_REGS | KVM_PART_SREGS | KVM_PART_EVENTS) /* what comes with each exit */

struct kvm_held_msr {
    uint32_t number;
    uint16_t field; /* offset in struct vcpu */
};
extern const struct kvm_held_msr kvm_held_msrs[];
extern const unsigned kvm_held_count;

/* The processor of `v` in the kernel's formats; `held` as in struct kvm. */
void kvm_state_from_vcpu(const struct vcpu *v, uint32_t held, struct kvm_state *state);
/* The parts named, into `v`; then vcpu_mode_changed() and, outside 64-bit code, zeros above 32 bits. Events that are
 * being delivered are not put into `v`: see kvm_take(). */
void kvm_state_to_vcpu(struct vcpu *v, unsigned parts, const struct kvm_state *state);
void kvm_sregs_from_sync(struct kvm_sregs2 *to, const struct kvm_sregs *from);

/* ---- move.c: between here and there ---- */

/* Makes everything be here. What was about to be delivered is delivered (v may shut down). False: the kernel refused to
 * tell; v->failed says so. */
bool kvm_take(struct kvm *k, struct vcpu *v);
/* Makes everything be there. False if the kernel does not accept such a state; it then remains here. */
bool kvm_give(struct kvm *k, struct vcpu *v);
/* After KVM_RUN: the synced registers, the task priority, and what has been delivered. */
void kvm_synced(struct kvm *k, struct vcpu *v);
/* The external interrupt `vector`, or an NMI: delivered by the processor when it next runs. */
void kvm_give_interrupt(struct kvm *k, struct vcpu *v, unsigned vector);
void kvm_give_nmi(struct kvm *k, struct vcpu *v);
/* The guest's TSC as the processor counts it: what it has gained becomes v->tsc_drift; and the other way round. */
void kvm_tsc_measure(struct kvm *k, struct vcpu *v);
void kvm_tsc_set(struct kvm *k, struct vcpu *v);

/* ---- slots.c ---- */

/* Makes the kernel's slots what the memory map says. What finds no slot is left out: it comes back as MMIO, which is
 * slow and right. */
void kvm_slots_update(struct kvm *k, struct vcpu *v);

/* ---- debug.c ---- */

/* Has the processor watch the debugger's points. False: they are too many for it, or the guest uses its debug registers
 * itself, and the interpreter has to. With the state here. */
bool kvm_debug_update(struct kvm *k, const struct vcpu *v);
/* The processor has stopped at one of them. */
void kvm_debug_exit(struct kvm *k, struct vcpu *v);

/* ---- exits.c ---- */

/* Carries out why KVM_RUN returned. False: the kernel cannot execute what comes next, somebody else must. */
bool kvm_exit_handle(struct kvm *k, struct vcpu *v);
/* The state is there, and so is an instruction that an exit has interrupted: finishes it. */
void kvm_complete(struct kvm *k, struct vcpu *v);

#endif
