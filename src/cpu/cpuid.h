/* CPU models: what CPUID offers, and so which instructions exist.
 *
 * A model is the host's processor cut down to what ring3 has and what `--cpu` asks for. Everything that must know
 * whether the guest's processor has a feature asks cpu_has(); nothing asks the host.
 *
 * `--cpu` syntax, as QEMU users know it: MODEL[,+feature|-feature|feature=on|off]..., MODEL one of `max` (the default:
 * all that the host and ring3 have), `x86-64-v1`, `x86-64-v2`, `x86-64-v3`, `pentium`, `pentium3`, `486`, `386`;
 * feature names as in /proc/cpuinfo.
 *
 * Features that say "not vulnerable" to speculation attacks (arch_capabilities, btc_no, srso_no, amd_ssb_no) and those that
 * make retpolines needless (spec_ctrl with IBRS_ALL, autoibrs) are true of code that is translated: see cpu_model.c. An
 * engine that runs guest code on the processor itself takes them from the host instead: cpu_model_limit().
 */
#ifndef RING3_CPU_CPUID_H
#define RING3_CPU_CPUID_H

#include <stdio.h>

#include "base/error.h"
#include "base/types.h"

struct vcpu;

enum cpuid_word {
    CPUID_1_EDX,
    CPUID_1_ECX,
    CPUID_7_EBX,
    CPUID_7_ECX,
    CPUID_7_EDX,
    CPUID_7_1_EAX,
    CPUID_D_1_EAX,
    CPUID_8000_0001_EDX,
    CPUID_8000_0001_ECX,
    CPUID_8000_0007_EDX,
    CPUID_8000_0008_EBX,
    CPUID_8000_0021_EAX,
    CPUID_8000_0021_ECX,
    CPUID_KVM_EAX, /* 0x40000001 */
    CPUID_WORD_COUNT
};

/* X(identifier, word, bit, "name in /proc/cpuinfo") for every feature that ring3 can offer: see cpuid.c for which of
 * them need the host to have them. */
#define CPU_FEATURES(X)                                                                                                \
    X(FPU, CPUID_1_EDX, 0, "fpu")                                                                                      \
    X(VME, CPUID_1_EDX, 1, "vme")                                                                                      \
    X(DE, CPUID_1_EDX, 2, "de")                                                                                        \
    X(PSE, CPUID_1_EDX, 3, "pse")                                                                                      \
    X(TSC, CPUID_1_EDX, 4, "tsc")                                                                                      \
    X(MSR, CPUID_1_EDX, 5, "msr")                                                                                      \
    X(PAE, CPUID_1_EDX, 6, "pae")                                                                                      \
    X(MCE, CPUID_1_EDX, 7, "mce")                                                                                      \
    X(CX8, CPUID_1_EDX, 8, "cx8")                                                                                      \
    X(APIC, CPUID_1_EDX, 9, "apic")                                                                                    \
    X(SEP, CPUID_1_EDX, 11, "sep")                                                                                     \
    X(MTRR, CPUID_1_EDX, 12, "mtrr")                                                                                   \
    X(PGE, CPUID_1_EDX, 13, "pge")                                                                                     \
    X(MCA, CPUID_1_EDX, 14, "mca")                                                                                     \
    X(CMOV, CPUID_1_EDX, 15, "cmov")                                                                                   \
    X(PAT, CPUID_1_EDX, 16, "pat")                                                                                     \
    X(PSE36, CPUID_1_EDX, 17, "pse36")                                                                                 \
    X(CLFLUSH, CPUID_1_EDX, 19, "clflush")                                                                             \
    X(MMX, CPUID_1_EDX, 23, "mmx")                                                                                     \
    X(FXSR, CPUID_1_EDX, 24, "fxsr")                                                                                   \
    X(SSE, CPUID_1_EDX, 25, "sse")                                                                                     \
    X(SSE2, CPUID_1_EDX, 26, "sse2")                                                                                   \
    X(SS, CPUID_1_EDX, 27, "ss")                                                                                       \
    X(SSE3, CPUID_1_ECX, 0, "pni")                                                                                     \
    X(PCLMULQDQ, CPUID_1_ECX, 1, "pclmulqdq")                                                                          \
    X(MONITOR, CPUID_1_ECX, 3, "monitor")                                                                              \
    X(SSSE3, CPUID_1_ECX, 9, "ssse3")                                                                                  \
    X(FMA, CPUID_1_ECX, 12, "fma")                                                                                     \
    X(CX16, CPUID_1_ECX, 13, "cx16")                                                                                   \
    X(PCID, CPUID_1_ECX, 17, "pcid")                                                                                   \
    X(SSE4_1, CPUID_1_ECX, 19, "sse4_1")                                                                               \
    X(SSE4_2, CPUID_1_ECX, 20, "sse4_2")                                                                               \
    X(X2APIC, CPUID_1_ECX, 21, "x2apic")                                                                               \
    X(MOVBE, CPUID_1_ECX, 22, "movbe")                                                                                 \
    X(POPCNT, CPUID_1_ECX, 23, "popcnt")                                                                               \
    X(TSC_DEADLINE, CPUID_1_ECX, 24, "tsc_deadline_timer")                                                             \
    X(AES, CPUID_1_ECX, 25, "aes")                                                                                     \
    X(XSAVE, CPUID_1_ECX, 26, "xsave")                                                                                 \
    X(AVX, CPUID_1_ECX, 28, "avx")                                                                                     \
    X(F16C, CPUID_1_ECX, 29, "f16c")                                                                                   \
    X(RDRAND, CPUID_1_ECX, 30, "rdrand")                                                                               \
    X(HYPERVISOR, CPUID_1_ECX, 31, "hypervisor")                                                                       \
    X(FSGSBASE, CPUID_7_EBX, 0, "fsgsbase")                                                                            \
    X(TSC_ADJUST, CPUID_7_EBX, 1, "tsc_adjust")                                                                        \
    X(BMI1, CPUID_7_EBX, 3, "bmi1")                                                                                    \
    X(AVX2, CPUID_7_EBX, 5, "avx2")                                                                                    \
    X(SMEP, CPUID_7_EBX, 7, "smep")                                                                                    \
    X(BMI2, CPUID_7_EBX, 8, "bmi2")                                                                                    \
    X(ERMS, CPUID_7_EBX, 9, "erms")                                                                                    \
    X(INVPCID, CPUID_7_EBX, 10, "invpcid")                                                                             \
    X(RDSEED, CPUID_7_EBX, 18, "rdseed")                                                                               \
    X(ADX, CPUID_7_EBX, 19, "adx")                                                                                     \
    X(SMAP, CPUID_7_EBX, 20, "smap")                                                                                   \
    X(CLFLUSHOPT, CPUID_7_EBX, 23, "clflushopt")                                                                       \
    X(CLWB, CPUID_7_EBX, 24, "clwb")                                                                                   \
    X(SHA_NI, CPUID_7_EBX, 29, "sha_ni")                                                                               \
    X(UMIP, CPUID_7_ECX, 2, "umip")                                                                                    \
    X(VAES, CPUID_7_ECX, 9, "vaes")                                                                                    \
    X(VPCLMULQDQ, CPUID_7_ECX, 10, "vpclmulqdq")                                                                       \
    X(RDPID, CPUID_7_ECX, 22, "rdpid")                                                                                 \
    X(FSRM, CPUID_7_EDX, 4, "fsrm")                                                                                    \
    X(MD_CLEAR, CPUID_7_EDX, 10, "md_clear")                                                                           \
    X(SPEC_CTRL, CPUID_7_EDX, 26, "spec_ctrl")                                                                         \
    X(STIBP, CPUID_7_EDX, 27, "stibp")                                                                                 \
    X(FLUSH_L1D, CPUID_7_EDX, 28, "flush_l1d")                                                                         \
    X(ARCH_CAPABILITIES, CPUID_7_EDX, 29, "arch_capabilities")                                                         \
    X(SSBD, CPUID_7_EDX, 31, "ssbd")                                                                                   \
    X(XSAVEOPT, CPUID_D_1_EAX, 0, "xsaveopt")                                                                          \
    X(XSAVEC, CPUID_D_1_EAX, 1, "xsavec")                                                                              \
    X(XGETBV1, CPUID_D_1_EAX, 2, "xgetbv1")                                                                            \
    X(XSAVES, CPUID_D_1_EAX, 3, "xsaves")                                                                              \
    X(SYSCALL, CPUID_8000_0001_EDX, 11, "syscall")                                                                     \
    X(NX, CPUID_8000_0001_EDX, 20, "nx")                                                                               \
    X(MMXEXT, CPUID_8000_0001_EDX, 22, "mmxext")                                                                       \
    X(FXSR_OPT, CPUID_8000_0001_EDX, 25, "fxsr_opt")                                                                   \
    X(PDPE1GB, CPUID_8000_0001_EDX, 26, "pdpe1gb")                                                                     \
    X(RDTSCP, CPUID_8000_0001_EDX, 27, "rdtscp")                                                                       \
    X(LM, CPUID_8000_0001_EDX, 29, "lm")                                                                               \
    X(LAHF_LM, CPUID_8000_0001_ECX, 0, "lahf_lm")                                                                      \
    X(ABM, CPUID_8000_0001_ECX, 5, "abm")                                                                              \
    X(SSE4A, CPUID_8000_0001_ECX, 6, "sse4a")                                                                          \
    X(MISALIGNSSE, CPUID_8000_0001_ECX, 7, "misalignsse")                                                              \
    X(PREFETCHW, CPUID_8000_0001_ECX, 8, "3dnowprefetch")                                                              \
    X(TOPOEXT, CPUID_8000_0001_ECX, 22, "topoext")                                                                     \
    X(CONSTANT_TSC, CPUID_8000_0007_EDX, 8, "constant_tsc")                                                            \
    X(CLZERO, CPUID_8000_0008_EBX, 0, "clzero")                                                                        \
    X(WBNOINVD, CPUID_8000_0008_EBX, 9, "wbnoinvd")                                                                    \
    X(AMD_IBPB, CPUID_8000_0008_EBX, 12, "ibpb")                                                                       \
    X(AMD_IBRS, CPUID_8000_0008_EBX, 14, "ibrs")                                                                       \
    X(AMD_STIBP, CPUID_8000_0008_EBX, 15, "amd_stibp")                                                                 \
    X(AMD_STIBP_ALWAYS, CPUID_8000_0008_EBX, 17, "amd_stibp_always_on")                                                \
    X(AMD_SSBD, CPUID_8000_0008_EBX, 24, "amd_ssbd")                                                                   \
    X(VIRT_SSBD, CPUID_8000_0008_EBX, 25, "virt_ssbd")                                                                 \
    X(AMD_SSB_NO, CPUID_8000_0008_EBX, 26, "amd_ssb_no")                                                               \
    X(AMD_PSFD, CPUID_8000_0008_EBX, 28, "amd_psfd")                                                                   \
    X(BTC_NO, CPUID_8000_0008_EBX, 29, "btc_no")                                                                       \
    X(AMD_IBPB_RET, CPUID_8000_0008_EBX, 30, "ibpb_ret")                                                               \
    X(LFENCE_RDTSC, CPUID_8000_0021_EAX, 2, "lfence_rdtsc")                                                            \
    X(VERW_CLEAR, CPUID_8000_0021_EAX, 5, "verw_clear")                                                                \
    X(NULL_SEL_CLR_BASE, CPUID_8000_0021_EAX, 6, "null_sel_clr_base")                                                  \
    X(AUTOIBRS, CPUID_8000_0021_EAX, 8, "autoibrs")                                                                    \
    X(SBPB, CPUID_8000_0021_EAX, 27, "sbpb")                                                                           \
    X(IBPB_BRTYPE, CPUID_8000_0021_EAX, 28, "ibpb_brtype")                                                             \
    X(SRSO_NO, CPUID_8000_0021_EAX, 29, "srso_no")                                                                     \
    X(TSA_SQ_NO, CPUID_8000_0021_ECX, 1, "tsa_sq_no")                                                                  \
    X(TSA_L1_NO, CPUID_8000_0021_ECX, 2, "tsa_l1_no")                                                                  \
    X(KVM_CLOCKSOURCE, CPUID_KVM_EAX, 0, "kvm_clocksource")                                                            \
    X(KVM_NOP_IO_DELAY, CPUID_KVM_EAX, 1, "kvm_nop_io_delay")                                                          \
    X(KVM_CLOCKSOURCE2, CPUID_KVM_EAX, 3, "kvm_clocksource2")                                                          \
    X(KVM_PV_EOI, CPUID_KVM_EAX, 6, "kvm_pv_eoi")                                                                      \
    X(KVM_CLOCK_STABLE, CPUID_KVM_EAX, 24, "kvm_clocksource_stable_bit")

enum cpu_feature {
#define X(id, word, bit, name) CPU_##id = (word) * 32 + (bit),
    CPU_FEATURES(X)
#undef X
};

struct cpu_model {
    uint32_t word[CPUID_WORD_COUNT];
    uint32_t signature;   /* CPUID.1:EAX: family, model, stepping */
    char vendor[13];
    char brand[49];
    uint8_t maxphyaddr;   /* physical address bits */
    uint32_t xsave_size;  /* bytes of a standard-format area with all of XCR0's possible components; 0 without XSAVE */

    uint16_t family;      /* with the extended family added: 3 is an 80386 */
    bool amd;             /* behaves as AMD's manual says where the two differ (AMD, Hygon) */
    bool has_cpuid;       /* false: CPUID is #UD and RFLAGS.ID cannot be changed */
    uint32_t level;       /* highest basic leaf */
    uint32_t ext_level;   /* highest extended leaf, 0 if there are none */
    unsigned cpus;        /* processors in the one socket: the machine sets it; 1 after creation */

    /* What software can ever set. CR0: other bits are ignored; EFER: #GP; CR4: #GP, and #UD for
     * any access when zero; RFLAGS: IRET and POPF leave the other bits alone (VIF and VIP are in it with VME). */
    uint64_t cr0_mask, cr4_mask, efer_mask;
    uint32_t rflags_mask;
    uint64_t xcr0_mask;   /* components XSETBV accepts */

    uint32_t wanted[CPUID_WORD_COUNT]; /* features that `--cpu` asks for by name: not to be left out quietly */
    uint64_t arch_capabilities;        /* IA32_ARCH_CAPABILITIES */
    uint32_t tsc_khz;                  /* the TSC's frequency; see vcpu_tsc() */
};

static inline bool model_has(const struct cpu_model *model, enum cpu_feature feature)
{
    return model->word[feature / 32] >> (feature % 32) & 1;
}

#define cpu_has(v, feature) model_has((v)->model, (feature))

/* Makes the model that `spec` describes (NULL: "max"); freed with free(). NULL with a message that suggests the nearest
 * name for a misspelt one, or says which feature the host lacks. Options apply from left to right: turning a feature on
 * turns on what it needs, turning it off turns off what needs it. */
struct cpu_model *cpu_model_create(const char *spec, struct error *err);
/* What a processor that executes guest code itself has to offer, and calls itself. */
struct cpu_offer {
    const char *who;                 /* "/dev/kvm" */
    uint32_t word[CPUID_WORD_COUNT]; /* features; those that need nothing of the processor included */
    uint64_t arch_capabilities;
    uint8_t maxphyaddr;
    uint32_t tsc_khz;                /* the only frequency that it can give the TSC; 0: any */
};

/* Cuts a model down to an offer, before a vCPU is made with it: what is not offered goes, and what describes how the processor
 * speculates becomes the offer's. False with a message that names a feature which `--cpu` asks for and is not offered. */
bool cpu_model_limit(struct cpu_model *model, const struct cpu_offer *offer, struct error *err);
/* Whether the processor on offer can take over a guest that has seen `model`; else a message that says what is missing. */
bool cpu_model_fits(const struct cpu_model *model, const struct cpu_offer *offer, struct error *err);

/* `--cpu help`: models and features, one a line, to `out`. */
void cpu_model_help(FILE *out);

/* CPUID as executed by `v` with EAX = leaf, ECX = subleaf. */
struct cpuid_result {
    uint32_t eax, ebx, ecx, edx;
};
struct cpuid_result cpuid_query(const struct vcpu *v, uint32_t leaf, uint32_t subleaf);

#endif
