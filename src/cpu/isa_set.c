/* Which instructions the guest's processor has.
 *
 * Zydis decodes every x86 instruction there is and names the ISA set it belongs to. One row a set says what a processor
 * needs to have it. Sets of instructions that ring3 never offers (AVX-512, virtualisation, TSX, 3DNow! ...) are NEVER: they
 * raise #UD, as on a processor without them. Sets that mix instructions of different processors are asked by mnemonic.
 *
 * The space of multi-byte NOPs (0F 18 to 0F 1F) executes as NOP on every processor since the Pentium Pro; ENDBR, CLDEMOTE
 * and the bound moves live in it and are NOPs where their extension is absent.
 *
 * VMCALL and VMMCALL are hypercalls when CPUID shows a hypervisor, whatever the vendor.
 *
 * Sources: SDM vol. 2, "CPUID feature flag" columns; APM vol. 3, appendix D; Intel's processor manuals of the time for
 * what the 80486, Pentium and Pentium Pro added (summed up in SDM vol. 3, chapter 23).
 */
#include "cpu/isa_set.h"

/* clang-format off */
/* X(Zydis' name, rule) */
#define ISA_SETS(X)                                                                                                    \
    X(INVALID, NEVER)                                                                                                  \
    X(ADOX_ADCX, FEATURE(ADX))                                                                                         \
    X(AES, FEATURE(AES))                                                                                               \
    X(AMD, ASK(has_amd_legacy))                                                                                        \
    X(AMD3DNOW, NEVER)                                                                                                 \
    X(AMD_INVLPGB, NEVER)                                                                                              \
    X(AMX_BF16, NEVER)                                                                                                 \
    X(AMX_INT8, NEVER)                                                                                                 \
    X(AMX_TILE, NEVER)                                                                                                 \
    X(AVX, ASK(has_avx))                                                                                               \
    X(AVX2, FEATURE(AVX2))                                                                                             \
    X(AVX2GATHER, FEATURE(AVX2))                                                                                       \
    X(AVX512BW_128, NEVER)                                                                                             \
    X(AVX512BW_128N, NEVER)                                                                                            \
    X(AVX512BW_256, NEVER)                                                                                             \
    X(AVX512BW_512, NEVER)                                                                                             \
    X(AVX512BW_KOP, NEVER)                                                                                             \
    X(AVX512CD_128, NEVER)                                                                                             \
    X(AVX512CD_256, NEVER)                                                                                             \
    X(AVX512CD_512, NEVER)                                                                                             \
    X(AVX512DQ_128, NEVER)                                                                                             \
    X(AVX512DQ_128N, NEVER)                                                                                            \
    X(AVX512DQ_256, NEVER)                                                                                             \
    X(AVX512DQ_512, NEVER)                                                                                             \
    X(AVX512DQ_KOP, NEVER)                                                                                             \
    X(AVX512DQ_SCALAR, NEVER)                                                                                          \
    X(AVX512ER_512, NEVER)                                                                                             \
    X(AVX512ER_SCALAR, NEVER)                                                                                          \
    X(AVX512F_128, NEVER)                                                                                              \
    X(AVX512F_128N, NEVER)                                                                                             \
    X(AVX512F_256, NEVER)                                                                                              \
    X(AVX512F_512, NEVER)                                                                                              \
    X(AVX512F_KOP, NEVER)                                                                                              \
    X(AVX512F_SCALAR, NEVER)                                                                                           \
    X(AVX512PF_512, NEVER)                                                                                             \
    X(AVX512_4FMAPS_512, NEVER)                                                                                        \
    X(AVX512_4FMAPS_SCALAR, NEVER)                                                                                     \
    X(AVX512_4VNNIW_512, NEVER)                                                                                        \
    X(AVX512_BF16_128, NEVER)                                                                                          \
    X(AVX512_BF16_256, NEVER)                                                                                          \
    X(AVX512_BF16_512, NEVER)                                                                                          \
    X(AVX512_BITALG_128, NEVER)                                                                                        \
    X(AVX512_BITALG_256, NEVER)                                                                                        \
    X(AVX512_BITALG_512, NEVER)                                                                                        \
    X(AVX512_FP16_128, NEVER)                                                                                          \
    X(AVX512_FP16_128N, NEVER)                                                                                         \
    X(AVX512_FP16_256, NEVER)                                                                                          \
    X(AVX512_FP16_512, NEVER)                                                                                          \
    X(AVX512_FP16_SCALAR, NEVER)                                                                                       \
    X(AVX512_GFNI_128, NEVER)                                                                                          \
    X(AVX512_GFNI_256, NEVER)                                                                                          \
    X(AVX512_GFNI_512, NEVER)                                                                                          \
    X(AVX512_IFMA_128, NEVER)                                                                                          \
    X(AVX512_IFMA_256, NEVER)                                                                                          \
    X(AVX512_IFMA_512, NEVER)                                                                                          \
    X(AVX512_VAES_128, NEVER)                                                                                          \
    X(AVX512_VAES_256, NEVER)                                                                                          \
    X(AVX512_VAES_512, NEVER)                                                                                          \
    X(AVX512_VBMI2_128, NEVER)                                                                                         \
    X(AVX512_VBMI2_256, NEVER)                                                                                         \
    X(AVX512_VBMI2_512, NEVER)                                                                                         \
    X(AVX512_VBMI_128, NEVER)                                                                                          \
    X(AVX512_VBMI_256, NEVER)                                                                                          \
    X(AVX512_VBMI_512, NEVER)                                                                                          \
    X(AVX512_VNNI_128, NEVER)                                                                                          \
    X(AVX512_VNNI_256, NEVER)                                                                                          \
    X(AVX512_VNNI_512, NEVER)                                                                                          \
    X(AVX512_VP2INTERSECT_128, NEVER)                                                                                  \
    X(AVX512_VP2INTERSECT_256, NEVER)                                                                                  \
    X(AVX512_VP2INTERSECT_512, NEVER)                                                                                  \
    X(AVX512_VPCLMULQDQ_128, NEVER)                                                                                    \
    X(AVX512_VPCLMULQDQ_256, NEVER)                                                                                    \
    X(AVX512_VPCLMULQDQ_512, NEVER)                                                                                    \
    X(AVX512_VPOPCNTDQ_128, NEVER)                                                                                     \
    X(AVX512_VPOPCNTDQ_256, NEVER)                                                                                     \
    X(AVX512_VPOPCNTDQ_512, NEVER)                                                                                     \
    X(AVXAES, ASK(has_avx_aes))                                                                                        \
    X(AVX_GFNI, NEVER)                                                                                                 \
    X(AVX_VNNI, NEVER)                                                                                                 \
    X(BMI1, FEATURE(BMI1))                                                                                             \
    X(BMI2, FEATURE(BMI2))                                                                                             \
    X(CET, NEVER)                                                                                                      \
    X(CLDEMOTE, ASK(has_p6))                                                                                           \
    X(CLFLUSHOPT, FEATURE(CLFLUSHOPT))                                                                                 \
    X(CLFSH, FEATURE(CLFLUSH))                                                                                         \
    X(CLWB, FEATURE(CLWB))                                                                                             \
    X(CLZERO, FEATURE(CLZERO))                                                                                         \
    X(CMOV, FEATURE(CMOV))                                                                                             \
    X(CMPXCHG16B, FEATURE(CX16))                                                                                       \
    X(ENQCMD, NEVER)                                                                                                   \
    X(F16C, FEATURE(F16C))                                                                                             \
    X(FAT_NOP, ASK(has_p6))                                                                                            \
    X(FCMOV, FEATURE(CMOV))                                                                                            \
    X(FMA, FEATURE(FMA))                                                                                               \
    X(FMA4, NEVER)                                                                                                     \
    X(FXSAVE, FEATURE(FXSR))                                                                                           \
    X(FXSAVE64, FEATURE(FXSR))                                                                                         \
    X(GFNI, NEVER)                                                                                                     \
    X(HRESET, NEVER)                                                                                                   \
    X(I186, ALWAYS)                                                                                                    \
    X(I286PROTECTED, ALWAYS)                                                                                           \
    X(I286REAL, ALWAYS)                                                                                                \
    X(I386, ALWAYS)                                                                                                    \
    X(I486, ASK(has_i486))                                                                                             \
    X(I486REAL, ASK(has_i486))                                                                                         \
    X(I86, ALWAYS)                                                                                                     \
    X(INVPCID, FEATURE(INVPCID))                                                                                       \
    X(KEYLOCKER, NEVER)                                                                                                \
    X(KEYLOCKER_WIDE, NEVER)                                                                                           \
    X(KNCE, NEVER)                                                                                                     \
    X(KNCJKBR, NEVER)                                                                                                  \
    X(KNCSTREAM, NEVER)                                                                                                \
    X(KNCV, NEVER)                                                                                                     \
    X(KNC_MISC, NEVER)                                                                                                 \
    X(KNC_PF_HINT, NEVER)                                                                                              \
    X(LAHF, ASK(has_lahf))                                                                                             \
    X(LONGMODE, ASK(has_long_mode))                                                                                    \
    X(LWP, NEVER)                                                                                                      \
    X(LZCNT, FEATURE(ABM))                                                                                             \
    X(MCOMMIT, NEVER)                                                                                                  \
    X(MONITOR, FEATURE(MONITOR))                                                                                       \
    X(MONITORX, NEVER)                                                                                                 \
    X(MOVBE, FEATURE(MOVBE))                                                                                           \
    X(MOVDIR, NEVER)                                                                                                   \
    X(MPX, NEVER)                                                                                                      \
    X(PADLOCK_ACE, NEVER)                                                                                              \
    X(PADLOCK_PHE, NEVER)                                                                                              \
    X(PADLOCK_PMM, NEVER)                                                                                              \
    X(PADLOCK_RNG, NEVER)                                                                                              \
    X(PAUSE, ALWAYS)                                                                                                   \
    X(PCLMULQDQ, FEATURE(PCLMULQDQ))                                                                                   \
    X(PCONFIG, NEVER)                                                                                                  \
    X(PENTIUMMMX, ASK(has_mmx))                                                                                        \
    X(PENTIUMREAL, ASK(has_pentium))                                                                                   \
    X(PKU, NEVER)                                                                                                      \
    X(POPCNT, FEATURE(POPCNT))                                                                                         \
    X(PPRO, ASK(has_ppro))                                                                                             \
    X(PREFETCHWT1, ASK(has_prefetchw))                                                                                 \
    X(PREFETCH_NOP, ASK(has_prefetchw))                                                                                \
    X(PT, NEVER)                                                                                                       \
    X(RDPID, FEATURE(RDPID))                                                                                           \
    X(RDPMC, ASK(has_rdpmc))                                                                                           \
    X(RDPRU, NEVER)                                                                                                    \
    X(RDRAND, FEATURE(RDRAND))                                                                                         \
    X(RDSEED, FEATURE(RDSEED))                                                                                         \
    X(RDTSCP, FEATURE(RDTSCP))                                                                                         \
    X(RDWRFSGS, FEATURE(FSGSBASE))                                                                                     \
    X(RTM, NEVER)                                                                                                      \
    X(SERIALIZE, NEVER)                                                                                                \
    X(SGX, NEVER)                                                                                                      \
    X(SGX_ENCLV, NEVER)                                                                                                \
    X(SHA, FEATURE(SHA_NI))                                                                                            \
    X(SMAP, FEATURE(SMAP))                                                                                             \
    X(SMX, NEVER)                                                                                                      \
    X(SNP, NEVER)                                                                                                      \
    X(SSE, ASK(has_sse))                                                                                               \
    X(SSE2, FEATURE(SSE2))                                                                                             \
    X(SSE2MMX, FEATURE(SSE2))                                                                                          \
    X(SSE3, FEATURE(SSE3))                                                                                             \
    X(SSE3X87, FEATURE(SSE3))                                                                                          \
    X(SSE4, FEATURE(SSE4_1))                                                                                           \
    X(SSE42, FEATURE(SSE4_2))                                                                                          \
    X(SSE4A, FEATURE(SSE4A))                                                                                           \
    X(SSEMXCSR, FEATURE(SSE))                                                                                          \
    X(SSE_PREFETCH, ASK(has_sse_prefetch))                                                                             \
    X(SSSE3, FEATURE(SSSE3))                                                                                           \
    X(SSSE3MMX, FEATURE(SSSE3))                                                                                        \
    X(SVM, ASK(has_hypercall))                                                                                         \
    X(TBM, NEVER)                                                                                                      \
    X(TDX, NEVER)                                                                                                      \
    X(TSX_LDTRK, NEVER)                                                                                                \
    X(UINTR, NEVER)                                                                                                    \
    X(VAES, FEATURE(VAES))                                                                                             \
    X(VMFUNC, NEVER)                                                                                                   \
    X(VPCLMULQDQ, FEATURE(VPCLMULQDQ))                                                                                 \
    X(VTX, ASK(has_hypercall))                                                                                         \
    X(WAITPKG, NEVER)                                                                                                  \
    X(X87, FEATURE(FPU))                                                                                               \
    X(XOP, NEVER)                                                                                                      \
    X(XSAVE, FEATURE(XSAVE))                                                                                           \
    X(XSAVEC, FEATURE(XSAVEC))                                                                                         \
    X(XSAVEOPT, FEATURE(XSAVEOPT))                                                                                     \
    X(XSAVES, FEATURE(XSAVES))
/* clang-format on */

/* A set that a new Zydis adds must be decided here. */
#define X(set, rule) +1
_Static_assert(0 ISA_SETS(X) == ZYDIS_ISA_SET_MAX_VALUE + 1, "every ISA set is decided");
#undef X

struct rule {
    enum { RULE_NEVER, RULE_ALWAYS, RULE_FEATURE, RULE_ASK } kind;
    enum cpu_feature feature;
    bool (*ask)(const struct cpu_model *model, const ZydisDecodedInstruction *instruction);
};

static bool has_i486(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return instruction->mnemonic == ZYDIS_MNEMONIC_CPUID ? model->has_cpuid : model->family >= 4;
}

static bool has_p6(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model->family >= 6;
}

static bool has_pentium(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    switch (instruction->mnemonic) {
    case ZYDIS_MNEMONIC_CMPXCHG8B: return model_has(model, CPU_CX8);
    case ZYDIS_MNEMONIC_RDTSC: return model_has(model, CPU_TSC);
    default: return model_has(model, CPU_MSR); /* RDMSR, WRMSR */
    }
}

static bool has_ppro(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    switch (instruction->mnemonic) {
    case ZYDIS_MNEMONIC_FCOMI:
    case ZYDIS_MNEMONIC_FCOMIP:
    case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP: return model_has(model, CPU_CMOV) && model_has(model, CPU_FPU);
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT: return model_has(model, CPU_SEP);
    case ZYDIS_MNEMONIC_NOP: return model->family >= 6;
    default: return true; /* UD0, UD1, UD2 */
    }
}

static bool has_rdpmc(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model->family >= 6 || model_has(model, CPU_MMX);
}

/* SSE's additions to MMX, which AMD had before SSE. */
static bool has_mmx(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    switch (instruction->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MOVNTQ:
    case ZYDIS_MNEMONIC_PAVGB:
    case ZYDIS_MNEMONIC_PAVGW:
    case ZYDIS_MNEMONIC_PEXTRW:
    case ZYDIS_MNEMONIC_PINSRW:
    case ZYDIS_MNEMONIC_PMAXSW:
    case ZYDIS_MNEMONIC_PMAXUB:
    case ZYDIS_MNEMONIC_PMINSW:
    case ZYDIS_MNEMONIC_PMINUB:
    case ZYDIS_MNEMONIC_PMOVMSKB:
    case ZYDIS_MNEMONIC_PMULHUW:
    case ZYDIS_MNEMONIC_PSADBW:
    case ZYDIS_MNEMONIC_PSHUFW: return model_has(model, CPU_SSE) || model_has(model, CPU_MMXEXT);
    default: return model_has(model, CPU_MMX);
    }
}

static bool has_sse(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    if (instruction->mnemonic == ZYDIS_MNEMONIC_SFENCE || instruction->mnemonic == ZYDIS_MNEMONIC_PMOVMSKB)
        return has_mmx(model, &(ZydisDecodedInstruction){.mnemonic = ZYDIS_MNEMONIC_PMOVMSKB});
    return model_has(model, CPU_SSE);
}

static bool has_sse_prefetch(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model_has(model, CPU_SSE) || model_has(model, CPU_MMXEXT) || model_has(model, CPU_PREFETCHW);
}

/* 0F 0D: a prefetch with the feature, a NOP on all 64-bit processors. */
static bool has_prefetchw(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model_has(model, CPU_PREFETCHW) || model_has(model, CPU_LM);
}

static bool has_avx(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model_has(model, CPU_AVX) &&
           (instruction->mnemonic != ZYDIS_MNEMONIC_VPCLMULQDQ || model_has(model, CPU_PCLMULQDQ));
}

static bool has_avx_aes(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model_has(model, CPU_AVX) && model_has(model, CPU_AES);
}

static bool has_lahf(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return instruction->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 || model_has(model, CPU_LAHF_LM);
}

static bool has_long_mode(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model_has(model, CPU_LM);
}

/* SYSCALL and SYSRET outside 64-bit mode: Intel has none. */
static bool has_amd_legacy(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model->amd && model_has(model, CPU_SYSCALL);
}

static bool has_hypercall(const struct cpu_model *model, const ZydisDecodedInstruction *instruction)
{
    return model_has(model, CPU_HYPERVISOR) && (instruction->mnemonic == ZYDIS_MNEMONIC_VMCALL ||
                                                instruction->mnemonic == ZYDIS_MNEMONIC_VMMCALL);
}

#define NEVER {.kind = RULE_NEVER}
#define ALWAYS {.kind = RULE_ALWAYS}
#define FEATURE(id) {.kind = RULE_FEATURE, .feature = CPU_##id}
#define ASK(function) {.kind = RULE_ASK, .ask = function}
static const struct rule rules[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
#define X(set, rule) [ZYDIS_ISA_SET_##set] = rule,
    ISA_SETS(X)
#undef X
};

bool isa_set_available(const struct cpu_model *model, ZydisISASet set, const ZydisDecodedInstruction *instruction)
{
    if ((unsigned)set >= ARRAY_LEN(rules))
        return false;
    const struct rule *rule = &rules[set];
    switch (rule->kind) {
    case RULE_ALWAYS: return true;
    case RULE_FEATURE: return model_has(model, rule->feature);
    case RULE_ASK: return rule->ask(model, instruction);
    case RULE_NEVER: break;
    }
    return false;
}

void isa_set_decoder_init(const struct cpu_model *model, ZydisDecoder *decoder)
{
    const struct {
        ZydisDecoderMode mode;
        bool on;
    } modes[] = {
        {ZYDIS_DECODER_MODE_AMD_BRANCHES, model->amd},
        {ZYDIS_DECODER_MODE_KNC, false},
        {ZYDIS_DECODER_MODE_MPX, false},
        {ZYDIS_DECODER_MODE_CET, false},
        {ZYDIS_DECODER_MODE_CLDEMOTE, false},
        {ZYDIS_DECODER_MODE_WBNOINVD, false}, /* decodes as WBINVD: the same here, nothing is cached */
        {ZYDIS_DECODER_MODE_LZCNT, model_has(model, CPU_ABM)},
        {ZYDIS_DECODER_MODE_TZCNT, model_has(model, CPU_BMI1)},
    };
    for (size_t i = 0; i < ARRAY_LEN(modes); i++)
        ZydisDecoderEnableMode(decoder, modes[i].mode, modes[i].on);
}
