/* The instructions that may never run as they are on the host, checked when this file is compiled.
 *
 * An instruction is sensitive if what it does depends on, or changes, state that the monitor keeps for the guest: mode,
 * privilege, descriptor tables, hidden parts of segments, control flow, the interrupt flag, time, devices (Popek and
 * Goldberg 1974; for the x86: Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual
 * Machine Monitor", 2000). Those that do not even trap in user mode are the dangerous ones. insn.def may lower any of
 * them as BRANCH, CALL or STOP, never as COPY.
 *
 * MOV, PUSH and POP stand here for their segment, control and debug register forms.
 */
#include "cpu/decode.h"

enum row_lowering {
#define INSN(mnemonic, how, meaning, lowering) LOWERING_##mnemonic = LOWER_##lowering,
#include "cpu/insn.def"
#undef INSN
};

#define SENSITIVE(mnemonic)                                                                                            \
    _Static_assert(LOWERING_##mnemonic != (enum row_lowering)LOWER_COPY, #mnemonic " is sensitive and cannot be COPY");

/* reads or writes what it should not, without trapping in user mode */
SENSITIVE(SGDT) SENSITIVE(SIDT) SENSITIVE(SLDT) SENSITIVE(SMSW) SENSITIVE(STR)
SENSITIVE(PUSHF) SENSITIVE(PUSHFD) SENSITIVE(PUSHFQ) SENSITIVE(POPF) SENSITIVE(POPFD) SENSITIVE(POPFQ)
SENSITIVE(LAR) SENSITIVE(LSL) SENSITIVE(VERR) SENSITIVE(VERW) SENSITIVE(ARPL)
SENSITIVE(MOV) SENSITIVE(PUSH) SENSITIVE(POP) SENSITIVE(LDS) SENSITIVE(LES) SENSITIVE(LFS) SENSITIVE(LGS) SENSITIVE(LSS)
SENSITIVE(RDFSBASE) SENSITIVE(RDGSBASE) SENSITIVE(WRFSBASE) SENSITIVE(WRGSBASE)
SENSITIVE(CPUID) SENSITIVE(RDTSC) SENSITIVE(RDTSCP) SENSITIVE(RDPID) SENSITIVE(RDPMC) SENSITIVE(XGETBV)
SENSITIVE(RDRAND) SENSITIVE(RDSEED)
/* control flow: the address it leaves behind, or goes to, is the guest's */
SENSITIVE(JMP) SENSITIVE(CALL) SENSITIVE(RET) SENSITIVE(INT) SENSITIVE(INT3) SENSITIVE(INTO) SENSITIVE(INT1)
SENSITIVE(SYSCALL) SENSITIVE(SYSRET) SENSITIVE(SYSENTER) SENSITIVE(SYSEXIT)
SENSITIVE(IRET) SENSITIVE(IRETD) SENSITIVE(IRETQ) SENSITIVE(VMCALL) SENSITIVE(VMMCALL)
/* privileged */
SENSITIVE(CLI) SENSITIVE(STI) SENSITIVE(HLT) SENSITIVE(IN) SENSITIVE(OUT)
SENSITIVE(INSB) SENSITIVE(INSW) SENSITIVE(INSD) SENSITIVE(OUTSB) SENSITIVE(OUTSW) SENSITIVE(OUTSD)
SENSITIVE(LGDT) SENSITIVE(LIDT) SENSITIVE(LLDT) SENSITIVE(LTR) SENSITIVE(LMSW) SENSITIVE(CLTS)
SENSITIVE(INVLPG) SENSITIVE(INVPCID) SENSITIVE(INVD) SENSITIVE(WBINVD) SENSITIVE(RDMSR) SENSITIVE(WRMSR)
SENSITIVE(SWAPGS) SENSITIVE(CLAC) SENSITIVE(STAC) SENSITIVE(XSETBV) SENSITIVE(MONITOR) SENSITIVE(MWAIT) SENSITIVE(RSM)
/* state images: FIP and FDP, and XCR0, are the guest's */
SENSITIVE(XSAVE) SENSITIVE(XSAVE64) SENSITIVE(XSAVES) SENSITIVE(XSAVES64) SENSITIVE(XRSTORS) SENSITIVE(XRSTORS64)
SENSITIVE(XRSTOR) SENSITIVE(XRSTOR64) SENSITIVE(FXSAVE) SENSITIVE(FXSAVE64) SENSITIVE(FNSTENV) SENSITIVE(FNSAVE)
