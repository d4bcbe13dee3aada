/* Segments, descriptors, and every transfer of control that checks privilege.
 *
 * All functions raise guest faults through vcpu.unwind, before anything is changed unless the manual says otherwise
 * (task switches). Sources: SDM vol. 3, chapters 3, 5, 6, 7, 20; APM vol. 2, chapters 4 and 8.
 */
#ifndef RING3_CPU_SEGMENT_H
#define RING3_CPU_SEGMENT_H

#include "cpu/insn.h"

/* What an event that the processor delivers through the IDT is. */
enum event_kind {
    EVENT_EXTERNAL,       /* INTR */
    EVENT_NMI,
    EVENT_EXCEPTION,
    EVENT_SOFT_INT,       /* INT n */
    EVENT_SOFT_EXCEPTION, /* INT3, INTO */
    EVENT_PRIV_SOFT       /* INT1 */
};

/* Delivers through the IVT or the IDT (gates, task gates, IST, stack switch, v86, VME redirection). `v->rip` is what
 * gets pushed: the faulting instruction, or the next one for software interrupts and traps. If delivering faults, the
 * architecture's rules for contributory faults apply within (#DF, then shutdown with the door's EXIT_TRIPLE_FAULT and
 * activity = ACTIVITY_SHUTDOWN); so it never raises itself. CR2, DR6 are set from `fault`. For EVENT_EXTERNAL and
 * EVENT_SOFT_* only `fault.vector` matters. */
void event_deliver(struct vcpu *v, enum event_kind kind, const struct fault *fault);

/* Loads ES, SS, DS, FS or GS as MOV would (any mode). The caller sets the MOV SS shadow. */
void segment_load(struct vcpu *v, enum seg seg, uint16_t selector);

/* Sets a segment as real mode or v86 mode does (base = selector * 16 ...). */
void segment_load_real(struct vcpu *v, enum seg seg, uint16_t selector);

/* Reads the descriptor that `selector` names; raises vector (#GP, #TS, ...) with the selector if outside the table. */
struct descriptor {
    uint32_t low, high;
    uint32_t upper_base; /* system descriptors in long mode: bits 63:32 of the base */
};

/* Hidden part of a segment register from a descriptor. */
void segment_from_descriptor(struct segment *seg, uint16_t selector, uint32_t low, uint32_t high);

/* True if CPL 3 code may touch `count` ports from `port` on: IOPL or the TSS's I/O permission bitmap; raises #GP(0)
 * otherwise (also in v86 mode, where IOPL does not help). */
void io_permission_check(struct vcpu *v, uint16_t port, unsigned count);

/* Whether `size` bytes at `offset` lie within the segment's limit; always in 64-bit code. */
bool seg_holds(const struct vcpu *v, enum seg seg, uint64_t offset, unsigned size);

/* Builds linear addresses with full checks: declared in insn.h, defined in segment.c: seg_linear(), ea_general(). */

#endif
