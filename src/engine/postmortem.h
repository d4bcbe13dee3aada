/* What a processor looked like, in words: after a triple fault, and when a check of ours fails. */
#ifndef RING3_ENGINE_POSTMORTEM_H
#define RING3_ENGINE_POSTMORTEM_H

#include <stdio.h>

#include "cpu/vcpu.h"

/* All registers, with the hidden parts of segments, and the bits of RFLAGS, CR0, CR4 and EFER by name. */
void postmortem_registers(const struct vcpu *v, FILE *out);

/* The instruction at CS:`rip` and the two behind it, from guest memory. */
void postmortem_code(const struct vcpu *v, uint64_t rip, FILE *out);

/* After ACTIVITY_SHUTDOWN: the faults that led there, why they could not be delivered, code and registers. */
void postmortem_triple_fault(const struct vcpu *v, FILE *out);

/* For check_set_context(), on the vCPU's thread: `vcpu` is its struct vcpu. Writes to stderr. */
void postmortem_context(void *vcpu);

#endif
