/* Guest faults: the third error channel, where a fault is data.
 *
 * Code that acts for the guest raises a fault by filling `vcpu->fault` and unwinding to the engine with a
 * long jump (`vcpu->unwind`). So accessors return values, not status codes, and every instruction obeys one
 * rule: **nothing architectural is changed before the last thing that can fault** (or it is put right).
 * `vcpu->rip` is the faulting instruction when the engine delivers the fault.
 *
 * Vector numbers and error codes: SDM vol. 3, chapter 6.
 */
#ifndef RING3_CPU_FAULT_H
#define RING3_CPU_FAULT_H

#include "base/types.h"

struct vcpu;

enum vector {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_NMI = 2,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_BR = 5,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_MF = 16,
    VECTOR_AC = 17,
    VECTOR_MC = 18,
    VECTOR_XM = 19,
};

/* Page-fault error code, SDM vol. 3, 4.7. */
#define PF_P (1u << 0)
#define PF_W (1u << 1)
#define PF_U (1u << 2)
#define PF_RSVD (1u << 3)
#define PF_I (1u << 4)

/* Selector error code, SDM vol. 3, 6.13. */
#define ERROR_EXT (1u << 0)
#define ERROR_IDT (1u << 1)
#define ERROR_TI (1u << 2)

struct fault {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t address; /* #PF: goes to CR2 */
    uint64_t dr6;     /* #DB: bits to be set in DR6 */
    bool trap;        /* #DB delivered after the instruction: RF is not set in the pushed flags */
};

_Noreturn void fault_raise(struct vcpu *v, const struct fault *fault);

_Noreturn void fault_ud(struct vcpu *v);
_Noreturn void fault_nm(struct vcpu *v);
_Noreturn void fault_de(struct vcpu *v);
_Noreturn void fault_gp(struct vcpu *v, uint32_t error);
_Noreturn void fault_ss(struct vcpu *v, uint32_t error);
_Noreturn void fault_ts(struct vcpu *v, uint32_t error);
_Noreturn void fault_np(struct vcpu *v, uint32_t error);
_Noreturn void fault_ac(struct vcpu *v);
_Noreturn void fault_pf(struct vcpu *v, gva_t address, uint32_t error);
_Noreturn void fault_plain(struct vcpu *v, enum vector vector); /* no error code */

/* Short name, "#GP"; for vectors that have none, "vector 32". */
const char *vector_name(unsigned vector);

/* True when the processor pushes an error code for this exception. */
bool vector_has_error(unsigned vector);

#endif
