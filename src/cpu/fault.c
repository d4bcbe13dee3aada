/* Raising guest faults, and their names.
 *
 * A fault is data until it is raised; raising fills vcpu.fault and unwinds to whoever set vcpu.unwind: the engine's run
 * function, or event_deliver() for faults that happen while an event is being delivered. Nothing here changes the
 * guest's state.
 *
 * SDM vol. 3, 6.3.1 (table 6-1) and 6.13.
 */
#include "cpu/fault.h"

#include "base/check.h"
#include "cpu/vcpu.h"

_Noreturn void fault_raise(struct vcpu *v, const struct fault *fault)
{
    if (fault != &v->fault)
        v->fault = *fault;
    check(v->unwind != NULL);
    longjmp(*v->unwind, 1);
}

static _Noreturn void fault_with_error(struct vcpu *v, enum vector vector, uint32_t error)
{
    fault_raise(v, &(struct fault){.vector = (uint8_t)vector, .has_error = true, .error = error});
}

_Noreturn void fault_plain(struct vcpu *v, enum vector vector)
{
    fault_raise(v, &(struct fault){.vector = (uint8_t)vector});
}

_Noreturn void fault_ud(struct vcpu *v)
{
    fault_plain(v, VECTOR_UD);
}

_Noreturn void fault_nm(struct vcpu *v)
{
    fault_plain(v, VECTOR_NM);
}

_Noreturn void fault_de(struct vcpu *v)
{
    fault_plain(v, VECTOR_DE);
}

_Noreturn void fault_gp(struct vcpu *v, uint32_t error)
{
    fault_with_error(v, VECTOR_GP, error);
}

_Noreturn void fault_ss(struct vcpu *v, uint32_t error)
{
    fault_with_error(v, VECTOR_SS, error);
}

_Noreturn void fault_ts(struct vcpu *v, uint32_t error)
{
    fault_with_error(v, VECTOR_TS, error);
}

_Noreturn void fault_np(struct vcpu *v, uint32_t error)
{
    fault_with_error(v, VECTOR_NP, error);
}

_Noreturn void fault_ac(struct vcpu *v)
{
    fault_with_error(v, VECTOR_AC, 0);
}

_Noreturn void fault_pf(struct vcpu *v, gva_t address, uint32_t error)
{
    fault_raise(v, &(struct fault){.vector = VECTOR_PF, .has_error = true, .error = error, .address = address});
}

#define VECTOR_10(n)                                                                                                   \
    "vector " #n "0", "vector " #n "1", "vector " #n "2", "vector " #n "3", "vector " #n "4", "vector " #n "5",        \
        "vector " #n "6", "vector " #n "7", "vector " #n "8", "vector " #n "9"

const char *vector_name(unsigned vector)
{
    static const char *const names[260] = {
        VECTOR_10(),   VECTOR_10(1),  VECTOR_10(2),  VECTOR_10(3),  VECTOR_10(4),  VECTOR_10(5),  VECTOR_10(6),
        VECTOR_10(7),  VECTOR_10(8),  VECTOR_10(9),  VECTOR_10(10), VECTOR_10(11), VECTOR_10(12), VECTOR_10(13),
        VECTOR_10(14), VECTOR_10(15), VECTOR_10(16), VECTOR_10(17), VECTOR_10(18), VECTOR_10(19), VECTOR_10(20),
        VECTOR_10(21), VECTOR_10(22), VECTOR_10(23), VECTOR_10(24), VECTOR_10(25),
    };
    static const char *const exceptions[22] = {
        [VECTOR_DE] = "#DE", [VECTOR_DB] = "#DB", [VECTOR_NMI] = "NMI", [VECTOR_BP] = "#BP", [VECTOR_OF] = "#OF",
        [VECTOR_BR] = "#BR", [VECTOR_UD] = "#UD", [VECTOR_NM] = "#NM",  [VECTOR_DF] = "#DF", [VECTOR_TS] = "#TS",
        [VECTOR_NP] = "#NP", [VECTOR_SS] = "#SS", [VECTOR_GP] = "#GP",  [VECTOR_PF] = "#PF", [VECTOR_MF] = "#MF",
        [VECTOR_AC] = "#AC", [VECTOR_MC] = "#MC", [VECTOR_XM] = "#XM",
    };
    if (vector < ARRAY_LEN(exceptions) && exceptions[vector] != NULL)
        return exceptions[vector];
    return vector < 256 ? names[vector] : "vector ?";
}

bool vector_has_error(unsigned vector)
{
    switch (vector) {
    case VECTOR_DF:
    case VECTOR_TS:
    case VECTOR_NP:
    case VECTOR_SS:
    case VECTOR_GP:
    case VECTOR_PF:
    case VECTOR_AC: return true;
    default: return false;
    }
}
