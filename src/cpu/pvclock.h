/* The paravirtual clock: guest time in a page of guest memory, computed from the TSC without an exit.
 *
 * Source: Linux Documentation/virt/kvm/x86/msr.rst and hypercalls.rst (the interface is KVM's).
 */
#ifndef RING3_CPU_PVCLOCK_H
#define RING3_CPU_PVCLOCK_H

#include "cpu/vcpu.h"

#define PVCLOCK_ENABLE 1ull /* MSR_KVM_SYSTEM_TIME */

/* Writes this vCPU's time page, if the guest enabled it: after MSR_KVM_SYSTEM_TIME is written, after the guest moves its
 * TSC, and after the machine moves guest time (restore). vCPU thread. A page outside RAM is ignored. */
void pvclock_update(struct vcpu *v);

/* Writes the wall clock at guest time 0 to `gpa` (MSR_KVM_WALL_CLOCK). */
void pvclock_write_wall_clock(struct vcpu *v, gpa_t gpa);

/* KVM_HC_CLOCK_PAIRING: writes wall clock and TSC of one moment to `gpa`; false if it is not RAM. */
bool pvclock_write_pairing(struct vcpu *v, gpa_t gpa);

#endif
