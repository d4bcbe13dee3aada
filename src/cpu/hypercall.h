/* Hypercalls: what a guest may ask of the monitor by VMCALL or VMMCALL.
 *
 * KVM's own calls (hypercalls.rst) as far as they make sense here, and ring3's for paravirtual guests: see
 * docs/hypercalls.md and cpu/hypercall_abi.h. Everything a guest passes is checked; nothing here can fault.
 *
 * Threads: the vCPU's own.
 */
#ifndef RING3_CPU_HYPERCALL_H
#define RING3_CPU_HYPERCALL_H

#include "cpu/cpuid.h"
#include "cpu/hypercall_abi.h"
#include "cpu/vcpu.h"

/* Carries one out, RIP being behind the instruction already or about to be, and returns what belongs in RAX. For engines
 * to which the instruction comes in another way than op_hypercall(). May change RFLAGS.IF, CR3, `activity`, and what is
 * cached of the guest's tables. */
int64_t hypercall_run(struct vcpu *v, uint64_t number, uint64_t a0, uint64_t a1);

/* Asked when an external interrupt could be delivered, RFLAGS.IF being set: whether the guest's flag in memory holds it
 * back. If so it is told that one waits, and the pending interrupt is not looked at (`hypercall.held`) until it says that
 * it may come. */
bool hypercall_holds_interrupt(struct vcpu *v);

/* Leaves from RING3_CPUID_SIGNATURE to the end of that group of 256. */
struct cpuid_result hypercall_cpuid(const struct vcpu *v, uint32_t leaf);

/* RESET and INIT. */
void hypercall_reset(struct vcpu *v);

#endif
