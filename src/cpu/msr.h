/* Model-specific registers: RDMSR, WRMSR and the bits that other files need.
 *
 * Source: SDM vol. 4; APM vol. 2, appendix A; Linux Documentation/virt/kvm/x86/msr.rst for the paravirtual ones.
 */
#ifndef RING3_CPU_MSR_H
#define RING3_CPU_MSR_H

#include "cpu/vcpu.h"

/* IA32_MISC_ENABLE */
#define MISC_ENABLE_FAST_STRINGS (1ull << 0)
#define MISC_ENABLE_BTS_UNAVAILABLE (1ull << 11)
#define MISC_ENABLE_PEBS_UNAVAILABLE (1ull << 12)
#define MISC_ENABLE_MONITOR (1ull << 18)
#define MISC_ENABLE_LIMIT_CPUID (1ull << 22)
#define MISC_ENABLE_XD_DISABLE (1ull << 34)

#define EFER_AIBRSE (1ull << 21) /* AMD: automatic IBRS; no effect */

/* IA32_DEBUGCTL */
#define DEBUGCTL_LBR (1ull << 0)
#define DEBUGCTL_BTF (1ull << 1) /* TF traps on branches only */

/* Reads or writes an MSR as RDMSR and WRMSR at CPL 0 do; false where they raise #GP. Nothing is changed then. */
bool msr_read(struct vcpu *v, uint32_t msr, uint64_t *value);
bool msr_write(struct vcpu *v, uint32_t msr, uint64_t value);

/* Manual's name, "IA32_PAT", or NULL. */
const char *msr_name(const struct vcpu *v, uint32_t msr);

/* Values after RESET; with `init` those after INIT (SDM vol. 3, table 9-1: most are kept). EFER, FS and GS bases belong
 * to vcpu_reset(). */
void msr_reset(struct vcpu *v, bool init);

#endif
