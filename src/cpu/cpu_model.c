/* CPU models: from `--cpu` to the features of one processor.
 *
 * A model starts from a base (the host, an x86-64 level, or a processor of old), the options then switch features on
 * and off from left to right, each with what it needs or what needs it, and last everything that follows from the
 * features is computed: which bits of the control registers exist, how far CPUID goes, how large a state image is.
 *
 * A feature comes from one of two places. Most system features are C code in ring3 and do not depend on the host. The
 * features of instructions that are run on the host (x87 aside, which every host has: MMX, SSE to AVX2, AES, SHA, bit
 * manipulation) need a host that has them; host_features[] names these. A model that is asked for by name and needs
 * more than the host has is refused rather than quietly cut down: a guest that was installed for x86-64-v3 must not
 * find v2.
 *
 * `max` keeps the host's vendor, family and brand, because guests choose errata workarounds, topology leaves and tuning
 * by them. It leaves out:
 *   - MONITOR: a write to the monitored line cannot be noticed (misc.c), so HLT is the better idle instruction. It is
 *     there for the asking (`+monitor`).
 *   - AMD's features when the vendor is not AMD, and the reverse: software looks for them by vendor.
 *
 * Speculation. The models say that they are not affected by Meltdown, Retbleed and their kin, and that indirect
 * branches need no retpolines (Intel: ARCH_CAPABILITIES, SPEC_CTRL with IBRS_ALL; AMD: BTC_NO, SRSO_NO, AUTOIBRS).
 * Mitigations are instructions that steer the predictors of the processor that executes them; in translated code they
 * steer nothing, and kernels would pay for them at each system call and each return. Guest kernel and guest user code
 * share a host process; whoever must not trust one against the other runs two machines.
 *
 * Where the processor itself executes guest code all that is not true, and cpu_model_limit() puts what the host says in
 * its place.
 *
 * The 80386 and 80486 models come with the coprocessor. FPU cannot be switched off: without one, ESC instructions have
 * no defined effect that software could rely on.
 */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/vcpu.h"

static const struct feature_info {
    uint16_t feature;
    const char *name;
} feature_infos[] = {
#define X(id, word, bit, name) {CPU_##id, name},
    CPU_FEATURES(X)
#undef X
};

/* Names that other programs use for the same features. */
static const struct feature_info feature_aliases[] = {
    {CPU_SSE3, "sse3"},
    {CPU_ABM, "lzcnt"},
    {CPU_TSC_DEADLINE, "tsc_deadline"},
    {CPU_CONSTANT_TSC, "invtsc"},
    {CPU_SHA_NI, "sha"},
    {CPU_KVM_CLOCKSOURCE, "kvmclock"},
    {CPU_NX, "xd"},
    {CPU_PREFETCHW, "prefetchw"},
    {CPU_CLFLUSH, "clfsh"},
    {CPU_CX8, "cmpxchg8b"},
    {CPU_CX16, "cmpxchg16b"},
};

/* Features whose instructions are executed by the host's processor. */
static const uint16_t host_features[] = {
    CPU_MMX,    CPU_SSE,    CPU_SSE2,       CPU_SSE3,   CPU_PCLMULQDQ, CPU_SSSE3, CPU_FMA,  CPU_CX16,        CPU_SSE4_1,
    CPU_SSE4_2, CPU_POPCNT, CPU_AES,        CPU_AVX,    CPU_F16C,      CPU_BMI1,  CPU_AVX2, CPU_BMI2,        CPU_ADX,
    CPU_SHA_NI, CPU_VAES,   CPU_VPCLMULQDQ, CPU_MMXEXT, CPU_ABM,       CPU_SSE4A, CPU_FXSR, CPU_MISALIGNSSE,
};

/* Features that only AMD's processors have, and those that only Intel's have. */
static const uint16_t amd_features[] = {
    CPU_MMXEXT,     CPU_FXSR_OPT, CPU_SSE4A,        CPU_MISALIGNSSE,       CPU_TOPOEXT,  CPU_CLZERO,
    CPU_AMD_SSB_NO, CPU_BTC_NO,   CPU_LFENCE_RDTSC, CPU_NULL_SEL_CLR_BASE, CPU_AUTOIBRS, CPU_SRSO_NO,
    CPU_TSA_SQ_NO,  CPU_TSA_L1_NO,
};
static const uint16_t intel_features[] = {CPU_ARCH_CAPABILITIES, CPU_SPEC_CTRL};

/* Features that steer how the processor speculates: of no use where it is not the processor that executes the guest. */
static const uint16_t steering_features[] = {
    CPU_MD_CLEAR,  CPU_STIBP,     CPU_FLUSH_L1D, CPU_SSBD,         CPU_AMD_IBPB, CPU_AMD_IBRS,    CPU_AMD_STIBP,  CPU_AMD_STIBP_ALWAYS,
    CPU_AMD_SSBD,  CPU_VIRT_SSBD, CPU_AMD_PSFD,  CPU_AMD_IBPB_RET, CPU_SBPB,     CPU_IBPB_BRTYPE, CPU_VERW_CLEAR,
};
/* Features that tell how it speculates: that a mitigation is not needed. */
static const uint16_t telling_features[] = {
    CPU_ARCH_CAPABILITIES, CPU_SPEC_CTRL, CPU_AMD_SSB_NO, CPU_BTC_NO, CPU_AUTOIBRS, CPU_SRSO_NO, CPU_TSA_SQ_NO, CPU_TSA_L1_NO,
};

/* RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO,
 * PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO */
#define ARCH_CAPABILITIES                                                                                              \
    (0x3ull | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 7ull << 13 | 1ull << 20 | 1ull << 24 |       \
     1ull << 26 | 1ull << 27 | 1ull << 62)

/* {feature, what it needs} */
static const uint16_t dependencies[][2] = {
    {CPU_VME, CPU_FPU},
    {CPU_MCA, CPU_MCE},
    {CPU_MCA, CPU_MSR},
    {CPU_SEP, CPU_MSR},
    {CPU_MTRR, CPU_MSR},
    {CPU_PAT, CPU_MSR},
    {CPU_APIC, CPU_CX8},
    {CPU_MMX, CPU_FPU},
    {CPU_FXSR, CPU_FPU},
    {CPU_SSE, CPU_FXSR},
    {CPU_SSE, CPU_MMX},
    {CPU_SSE2, CPU_SSE},
    {CPU_SSE2, CPU_CLFLUSH},
    {CPU_SSE3, CPU_SSE2},
    {CPU_SSSE3, CPU_SSE3},
    {CPU_SSE4_1, CPU_SSSE3},
    {CPU_SSE4_2, CPU_SSE4_1},
    {CPU_SSE4A, CPU_SSE3},
    {CPU_MISALIGNSSE, CPU_SSE2},
    {CPU_PCLMULQDQ, CPU_SSE2},
    {CPU_AES, CPU_SSE2},
    {CPU_SHA_NI, CPU_SSE2},
    {CPU_MMXEXT, CPU_MMX},
    {CPU_XSAVE, CPU_FXSR},
    {CPU_XSAVE, CPU_SSE},
    {CPU_XSAVEOPT, CPU_XSAVE},
    {CPU_XSAVEC, CPU_XSAVE},
    {CPU_XGETBV1, CPU_XSAVE},
    {CPU_XSAVES, CPU_XSAVEC},
    {CPU_XSAVES, CPU_MSR},
    {CPU_FXSR_OPT, CPU_FXSR},
    {CPU_AVX, CPU_XSAVE},
    {CPU_AVX, CPU_SSE4_2},
    {CPU_FMA, CPU_AVX},
    {CPU_F16C, CPU_AVX},
    {CPU_AVX2, CPU_AVX},
    {CPU_VAES, CPU_AVX},
    {CPU_VAES, CPU_AES},
    {CPU_VPCLMULQDQ, CPU_AVX},
    {CPU_VPCLMULQDQ, CPU_PCLMULQDQ},
    {CPU_SYSCALL, CPU_MSR},
    {CPU_NX, CPU_PAE},
    {CPU_NX, CPU_MSR},
    {CPU_LM, CPU_PAE},
    {CPU_LM, CPU_SYSCALL},
    {CPU_LM, CPU_SSE2},
    {CPU_LM, CPU_CMOV},
    {CPU_LM, CPU_CX8},
    {CPU_LM, CPU_PGE},
    {CPU_LM, CPU_TSC},
    {CPU_LAHF_LM, CPU_LM},
    {CPU_CX16, CPU_LM},
    {CPU_PDPE1GB, CPU_LM},
    {CPU_PCID, CPU_LM},
    {CPU_FSGSBASE, CPU_LM},
    {CPU_PSE36, CPU_PSE},
    {CPU_X2APIC, CPU_APIC},
    {CPU_X2APIC, CPU_MSR},
    {CPU_TSC_DEADLINE, CPU_APIC},
    {CPU_TSC_DEADLINE, CPU_MSR},
    {CPU_TSC_DEADLINE, CPU_TSC},
    {CPU_TSC_ADJUST, CPU_TSC},
    {CPU_TSC_ADJUST, CPU_MSR},
    {CPU_RDTSCP, CPU_TSC},
    {CPU_RDTSCP, CPU_MSR},
    {CPU_RDPID, CPU_MSR},
    {CPU_CONSTANT_TSC, CPU_TSC},
    {CPU_CLFLUSHOPT, CPU_CLFLUSH},
    {CPU_CLWB, CPU_CLFLUSH},
    {CPU_ARCH_CAPABILITIES, CPU_MSR},
    {CPU_SPEC_CTRL, CPU_MSR},
    {CPU_AUTOIBRS, CPU_LM},
    {CPU_KVM_CLOCKSOURCE, CPU_HYPERVISOR},
    {CPU_KVM_CLOCKSOURCE, CPU_TSC},
    {CPU_KVM_CLOCKSOURCE, CPU_MSR},
    {CPU_KVM_CLOCKSOURCE2, CPU_HYPERVISOR},
    {CPU_KVM_CLOCKSOURCE2, CPU_TSC},
    {CPU_KVM_CLOCKSOURCE2, CPU_MSR},
    {CPU_KVM_CLOCK_STABLE, CPU_KVM_CLOCKSOURCE2},
    {CPU_KVM_NOP_IO_DELAY, CPU_HYPERVISOR},
    {CPU_KVM_PV_EOI, CPU_HYPERVISOR},
    {CPU_KVM_PV_EOI, CPU_APIC},
    {CPU_KVM_PV_EOI, CPU_MSR},
};

#define B(feature) (1u << (CPU_##feature % 32))

#define EDX_486 (B(FPU) | B(VME) | B(PSE))
#define EDX_PENTIUM (EDX_486 | B(DE) | B(TSC) | B(MSR) | B(MCE) | B(CX8) | B(APIC))
#define EDX_PENTIUM3                                                                                                   \
    (EDX_PENTIUM | B(PAE) | B(SEP) | B(MTRR) | B(PGE) | B(MCA) | B(CMOV) | B(PAT) | B(PSE36) | B(MMX) | B(FXSR) |      \
     B(SSE))
#define EDX_V1 (EDX_PENTIUM3 | B(CLFLUSH) | B(SSE2) | B(SS))
#define ECX_V1 (B(X2APIC) | B(TSC_DEADLINE) | B(HYPERVISOR))
#define ECX_V2 (ECX_V1 | B(SSE3) | B(SSSE3) | B(CX16) | B(SSE4_1) | B(SSE4_2) | B(POPCNT) | B(PCID))
#define ECX_V3 (ECX_V2 | B(FMA) | B(MOVBE) | B(XSAVE) | B(AVX) | B(F16C) | B(RDRAND) | B(AES) | B(PCLMULQDQ))
#define EXT_EDX_V1 (B(SYSCALL) | B(NX) | B(RDTSCP) | B(LM))
#define KVM_EAX (B(KVM_CLOCKSOURCE) | B(KVM_NOP_IO_DELAY) | B(KVM_CLOCKSOURCE2) | B(KVM_PV_EOI) | B(KVM_CLOCK_STABLE))

static const struct named_model {
    const char *name, *help, *brand;
    uint32_t signature;
    bool cpuid;
    uint8_t maxphyaddr;
    uint32_t level, ext_level;
    uint32_t word[CPUID_WORD_COUNT];
} named_models[] = {
    {.name = "max", .help = "all that the host and ring3 have (default)"},
    {.name = "x86-64-v1",
     .help = "the first 64-bit processors: SSE2",
     .brand = "ring3 x86-64-v1",
     .signature = 0x006fb,
     .cpuid = true,
     .maxphyaddr = 40,
     .level = 0x16,
     .ext_level = 0x80000008,
     .word = {[CPUID_1_EDX] = EDX_V1,
              [CPUID_1_ECX] = ECX_V1,
              [CPUID_7_EBX] = B(TSC_ADJUST),
              [CPUID_7_EDX] = B(SPEC_CTRL) | B(ARCH_CAPABILITIES),
              [CPUID_8000_0001_EDX] = EXT_EDX_V1,
              [CPUID_8000_0007_EDX] = B(CONSTANT_TSC),
              [CPUID_KVM_EAX] = KVM_EAX}},
    {.name = "x86-64-v2",
     .help = "about 2008: SSE4.2, POPCNT, CMPXCHG16B",
     .brand = "ring3 x86-64-v2",
     .signature = 0x106a5,
     .cpuid = true,
     .maxphyaddr = 40,
     .level = 0x16,
     .ext_level = 0x80000008,
     .word = {[CPUID_1_EDX] = EDX_V1,
              [CPUID_1_ECX] = ECX_V2,
              [CPUID_7_EBX] = B(TSC_ADJUST),
              [CPUID_7_EDX] = B(SPEC_CTRL) | B(ARCH_CAPABILITIES),
              [CPUID_8000_0001_EDX] = EXT_EDX_V1 | B(PDPE1GB),
              [CPUID_8000_0001_ECX] = B(LAHF_LM),
              [CPUID_8000_0007_EDX] = B(CONSTANT_TSC),
              [CPUID_KVM_EAX] = KVM_EAX}},
    {.name = "x86-64-v3",
     .help = "about 2013: AVX2, BMI, FMA, MOVBE",
     .brand = "ring3 x86-64-v3",
     .signature = 0x306c3,
     .cpuid = true,
     .maxphyaddr = 40,
     .level = 0x16,
     .ext_level = 0x80000008,
     .word = {[CPUID_1_EDX] = EDX_V1,
              [CPUID_1_ECX] = ECX_V3,
              [CPUID_7_EBX] =
                  B(TSC_ADJUST) | B(FSGSBASE) | B(BMI1) | B(AVX2) | B(SMEP) | B(BMI2) | B(ERMS) | B(INVPCID),
              [CPUID_7_EDX] = B(SPEC_CTRL) | B(ARCH_CAPABILITIES),
              [CPUID_D_1_EAX] = B(XSAVEOPT),
              [CPUID_8000_0001_EDX] = EXT_EDX_V1 | B(PDPE1GB),
              [CPUID_8000_0001_ECX] = B(LAHF_LM) | B(ABM),
              [CPUID_8000_0007_EDX] = B(CONSTANT_TSC),
              [CPUID_KVM_EAX] = KVM_EAX}},
    {.name = "pentium3",
     .help = "Intel Pentium III (family 6, model 8)",
     .signature = 0x00686,
     .cpuid = true,
     .maxphyaddr = 36,
     .level = 2,
     .word = {[CPUID_1_EDX] = EDX_PENTIUM3}},
    {.name = "pentium",
     .help = "Intel Pentium without MMX (family 5, model 2)",
     .signature = 0x0052c,
     .cpuid = true,
     .maxphyaddr = 32,
     .level = 1,
     .word = {[CPUID_1_EDX] = EDX_PENTIUM}},
    {.name = "486",
     .help = "Intel DX4 (family 4, model 8)",
     .signature = 0x00480,
     .cpuid = true,
     .maxphyaddr = 32,
     .level = 1,
     .word = {[CPUID_1_EDX] = EDX_486}},
    {.name = "386",
     .help = "Intel 80386 DX with an 80387; no CPUID",
     .signature = 0x00303,
     .maxphyaddr = 32,
     .word = {[CPUID_1_EDX] = B(FPU)}},
};

static void feature_put(struct cpu_model *model, unsigned feature, bool on)
{
    uint32_t bit = 1u << (feature % 32);
    model->word[feature / 32] = on ? model->word[feature / 32] | bit : model->word[feature / 32] & ~bit;
}

static bool listed(const uint16_t *list, size_t n, unsigned feature)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == feature)
            return true;
    return false;
}

/* Turns a feature on with what it needs, or off with what needs it. The dependencies have no cycle. */
static void feature_switch(struct cpu_model *model, unsigned feature, bool on)
{
    feature_put(model, feature, on);
    for (size_t i = 0; i < ARRAY_LEN(dependencies); i++) {
        unsigned from = dependencies[i][on ? 0 : 1], to = dependencies[i][on ? 1 : 0];
        if (from == feature && model_has(model, to) != on)
            feature_switch(model, to, on);
    }
}

static const char *feature_name(unsigned feature)
{
    for (size_t i = 0; i < ARRAY_LEN(feature_infos); i++)
        if (feature_infos[i].feature == feature)
            return feature_infos[i].name;
    return "?";
}

/* ---- the host ---- */
static struct cpuid_result host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_result r = {0};
    if ((uint32_t)__get_cpuid_max(leaf & 0x80000000u, NULL) >= leaf)
        __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

static uint64_t host_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Everything of CPU_FEATURES that programs can use on this host, as the CPUID words. */
static void host_words(uint32_t word[CPUID_WORD_COUNT])
{
    struct cpuid_result one = host_cpuid(1, 0), seven = host_cpuid(7, 0), ext = host_cpuid(0x80000001, 0);
    memset(word, 0, CPUID_WORD_COUNT * sizeof(*word));
    word[CPUID_1_EDX] = one.edx;
    word[CPUID_1_ECX] = one.ecx;
    word[CPUID_7_EBX] = seven.ebx;
    word[CPUID_7_ECX] = seven.ecx;
    word[CPUID_7_EDX] = seven.edx;
    word[CPUID_8000_0001_EDX] = ext.edx;
    word[CPUID_8000_0001_ECX] = ext.ecx;
    bool ymm = (one.ecx & 1u << 27) && (host_xcr0() & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX);
    if (!ymm) {
        word[CPUID_1_ECX] &= ~(B(AVX) | B(FMA) | B(F16C));
        word[CPUID_7_EBX] &= ~(B(AVX2) | B(BMI1) | B(BMI2)); /* VEX encodings fault too */
        word[CPUID_7_ECX] &= ~(B(VAES) | B(VPCLMULQDQ));
    }
}

static bool host_lacks(const uint32_t host[CPUID_WORD_COUNT], unsigned feature)
{
    return listed(host_features, ARRAY_LEN(host_features), feature) && !(host[feature / 32] >> (feature % 32) & 1);
}

static void host_identity(struct cpu_model *model)
{
    struct cpuid_result r = host_cpuid(0, 0);
    memcpy(model->vendor, &r.ebx, 4);
    memcpy(model->vendor + 4, &r.edx, 4);
    memcpy(model->vendor + 8, &r.ecx, 4);
    model->signature = host_cpuid(1, 0).eax;
    for (unsigned i = 0; i < 3; i++) {
        r = host_cpuid(0x80000002 + i, 0);
        memcpy(model->brand + 16 * i, &r, 16);
    }
    unsigned bits = host_cpuid(0x80000008, 0).eax & 0xff;
    model->maxphyaddr = (uint8_t)(bits > 46 ? 46 : bits < 40 ? 40 : bits);
}

static bool vendor_is_amd(const char *vendor)
{
    return strcmp(vendor, "AuthenticAMD") == 0 || strcmp(vendor, "HygonGenuine") == 0;
}

static void model_max(struct cpu_model *model, const uint32_t host[CPUID_WORD_COUNT])
{
    host_identity(model);
    bool amd = vendor_is_amd(model->vendor);
    for (size_t i = 0; i < ARRAY_LEN(feature_infos); i++)
        feature_put(model, feature_infos[i].feature, true);
    feature_switch(model, CPU_MONITOR, false);
    for (size_t i = 0; i < ARRAY_LEN(steering_features); i++)
        feature_switch(model, steering_features[i], false);
    const uint16_t *foreign = amd ? intel_features : amd_features;
    for (size_t i = 0; i < (amd ? ARRAY_LEN(intel_features) : ARRAY_LEN(amd_features)); i++)
        feature_switch(model, foreign[i], false);
    for (size_t i = 0; i < ARRAY_LEN(host_features); i++)
        if (host_lacks(host, host_features[i]))
            feature_switch(model, host_features[i], false);
    model->has_cpuid = true;
    model->level = amd ? 0xd : 0x16;
    model->ext_level = amd ? 0x80000021 : 0x80000008;
}

/* ---- what follows from the features ---- */
static void levels_complete(struct cpu_model *model)
{
    uint32_t level = model->level, ext_level = model->ext_level;
    if (model->word[CPUID_7_EBX] | model->word[CPUID_7_ECX] | model->word[CPUID_7_EDX] | model->word[CPUID_7_1_EAX])
        level = level < 7 ? 7 : level;
    if (model_has(model, CPU_MONITOR))
        level = level < 5 ? 5 : level;
    if (model_has(model, CPU_X2APIC))
        level = level < 0xb ? 0xb : level;
    if (model_has(model, CPU_XSAVE))
        level = level < 0xd ? 0xd : level;
    if (model->word[CPUID_8000_0001_EDX] | model->word[CPUID_8000_0001_ECX])
        ext_level = ext_level < 0x80000004 ? 0x80000004 : ext_level;
    if ((model->word[CPUID_8000_0007_EDX] | model->word[CPUID_8000_0008_EBX]) || model_has(model, CPU_LM))
        ext_level = ext_level < 0x80000008 ? 0x80000008 : ext_level;
    if (model->word[CPUID_8000_0021_EAX])
        ext_level = ext_level < 0x80000021 ? 0x80000021 : ext_level;
    if (model_has(model, CPU_TOPOEXT))
        ext_level = ext_level < 0x8000001e ? 0x8000001e : ext_level;
    model->level = level;
    model->ext_level = ext_level;
}

static uint64_t cr4_bits(const struct cpu_model *model)
{
    static const struct {
        uint16_t feature;
        uint64_t bits;
    } rows[] = {
        {CPU_VME, CR4_VME | CR4_PVI}, {CPU_TSC, CR4_TSD},           {CPU_DE, CR4_DE},
        {CPU_PSE, CR4_PSE},           {CPU_PAE, CR4_PAE},           {CPU_MCE, CR4_MCE},
        {CPU_PGE, CR4_PGE},           {CPU_FXSR, CR4_OSFXSR},       {CPU_SSE, CR4_OSXMMEXCPT},
        {CPU_UMIP, CR4_UMIP},         {CPU_FSGSBASE, CR4_FSGSBASE}, {CPU_PCID, CR4_PCIDE},
        {CPU_XSAVE, CR4_OSXSAVE},     {CPU_SMEP, CR4_SMEP},         {CPU_SMAP, CR4_SMAP},
    };
    uint64_t bits = model->family >= 6 || model_has(model, CPU_MMX) ? CR4_PCE : 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (model_has(model, rows[i].feature))
            bits |= rows[i].bits;
    return bits;
}

static void model_complete(struct cpu_model *model)
{
    unsigned family = model->signature >> 8 & 0xf;
    model->family = (uint16_t)(family == 0xf ? family + (model->signature >> 20 & 0xff) : family);
    model->amd = vendor_is_amd(model->vendor);
    model->cpus = 1;
    model->tsc_khz = TSC_FREQUENCY_HZ / 1000;
    model->arch_capabilities = model_has(model, CPU_ARCH_CAPABILITIES) ? ARCH_CAPABILITIES : 0;
    if (model->has_cpuid)
        levels_complete(model);

    model->cr0_mask = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_PG;
    model->rflags_mask = FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM;
    if (model->family >= 4) {
        model->cr0_mask |= CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD;
        model->rflags_mask |= FLAG_AC;
    }
    if (model->has_cpuid)
        model->rflags_mask |= FLAG_ID;
    if (model_has(model, CPU_VME))
        model->rflags_mask |= FLAG_VIF | FLAG_VIP;
    model->cr4_mask = cr4_bits(model);
    if (model_has(model, CPU_SYSCALL))
        model->efer_mask |= EFER_SCE;
    if (model_has(model, CPU_LM))
        model->efer_mask |= EFER_LME | EFER_LMA;
    if (model_has(model, CPU_NX))
        model->efer_mask |= EFER_NXE;
    if (model_has(model, CPU_FXSR_OPT))
        model->efer_mask |= EFER_FFXSR;
    if (model_has(model, CPU_AUTOIBRS))
        model->efer_mask |= EFER_AIBRSE;
    if (model_has(model, CPU_XSAVE)) {
        model->xcr0_mask = XCR0_X87 | XCR0_SSE | (model_has(model, CPU_AVX) ? XCR0_AVX : 0);
        model->xsave_size = 512 + 64 + (model_has(model, CPU_AVX) ? 16 * 16 : 0);
    }
}

/* ---- options ---- */
/* Compares names as users write them: case, '-', '.' and '_' do not matter. */
static bool name_equal(const char *a, const char *b)
{
    for (;; a++, b++) {
        char x = *a == '-' || *a == '.' ? '_' : *a >= 'A' && *a <= 'Z' ? (char)(*a + 32) : *a;
        if (x != *b)
            return false;
        if (x == '\0')
            return true;
    }
}

static int feature_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(feature_infos); i++)
        if (name_equal(name, feature_infos[i].name))
            return feature_infos[i].feature;
    for (size_t i = 0; i < ARRAY_LEN(feature_aliases); i++)
        if (name_equal(name, feature_aliases[i].name))
            return feature_aliases[i].feature;
    return -1;
}

static bool feature_unknown(const char *name, struct error *err)
{
    const char *names[ARRAY_LEN(feature_infos) + ARRAY_LEN(feature_aliases)];
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(feature_infos); i++)
        names[n++] = feature_infos[i].name;
    for (size_t i = 0; i < ARRAY_LEN(feature_aliases); i++)
        names[n++] = feature_aliases[i].name;
    char tail[128];
    return error_set(err, "--cpu: there is no CPU feature '%.64s'%s; --cpu help lists them", name,
                     suggest_tail(name, names, n, tail, sizeof(tail)));
}

/* "+name", "-name", "name=on", "name=off"; `text` is ours to cut. */
static bool option_apply(struct cpu_model *model, char *text, struct error *err)
{
    bool on = *text != '-';
    char *name = *text == '+' || *text == '-' ? text + 1 : text;
    char *equals = strchr(name, '=');
    if (equals != NULL) {
        *equals = '\0';
        const char *value = equals + 1;
        on = strcmp(value, "on") == 0;
        if (name != text || (!on && strcmp(value, "off") != 0))
            return error_set(err, "--cpu: '%.64s=%.64s': write %.64s=on, %.64s=off, +%.64s or -%.64s", text, value,
                             name, name, name, name);
    } else if (name == text) {
        return error_set(err, "--cpu: '%.64s': write +%.64s or -%.64s to switch a feature on or off", text, text, text);
    }
    int feature = feature_find(name);
    if (feature < 0)
        return feature_unknown(name, err);
    if (feature == CPU_FPU && !on)
        return error_set(err, "--cpu: fpu cannot be switched off");
    if (!model->has_cpuid)
        return error_set(err, "--cpu: the 386 has no optional features; choose a later model for %.64s", name);
    feature_switch(model, (unsigned)feature, on);
    uint32_t bit = 1u << (feature % 32);
    model->wanted[feature / 32] = on ? model->wanted[feature / 32] | bit : model->wanted[feature / 32] & ~bit;
    return true;
}

static const struct named_model *model_find(const char *name, struct error *err)
{
    const char *names[ARRAY_LEN(named_models) + 1];
    size_t n = 0;
    if (strcmp(name, "host") == 0)
        name = "max";
    for (size_t i = 0; i < ARRAY_LEN(named_models); i++) {
        if (strcmp(name, named_models[i].name) == 0)
            return &named_models[i];
        names[n++] = named_models[i].name;
    }
    char tail[128];
    error_set(err, "--cpu: there is no CPU model '%.64s'%s; --cpu help lists them", name,
              suggest_tail(name, names, n, tail, sizeof(tail)));
    return NULL;
}

static bool model_configure(struct cpu_model *model, char *spec, struct error *err)
{
    char *rest = spec;
    const char *name = strsep(&rest, ",");
    const struct named_model *named = model_find(name, err);
    if (named == NULL)
        return false;
    uint32_t host[CPUID_WORD_COUNT];
    host_words(host);
    if (named->signature == 0) {
        model_max(model, host);
    } else {
        strcpy(model->vendor, "GenuineIntel");
        if (named->brand != NULL)
            strcpy(model->brand, named->brand);
        model->signature = named->signature;
        model->has_cpuid = named->cpuid;
        model->maxphyaddr = named->maxphyaddr;
        model->level = named->level;
        model->ext_level = named->ext_level;
        memcpy(model->word, named->word, sizeof(model->word));
        memcpy(model->wanted, named->word, sizeof(model->wanted));
    }
    for (char *option; (option = strsep(&rest, ",")) != NULL;)
        if (*option != '\0' && !option_apply(model, option, err))
            return false;
    for (size_t i = 0; i < ARRAY_LEN(host_features); i++)
        if (model_has(model, host_features[i]) && host_lacks(host, host_features[i]))
            return error_set(err,
                             "--cpu: %.64s with these options needs %s, which this host's processor does not have; "
                             "use --cpu max or switch it off with -%s",
                             name, feature_name(host_features[i]), feature_name(host_features[i]));
    model_complete(model);
    return true;
}

struct cpu_model *cpu_model_create(const char *spec, struct error *err)
{
    struct cpu_model *model = calloc(1, sizeof(*model));
    char *copy = strdup(spec == NULL || *spec == '\0' ? "max" : spec);
    bool ok = model != NULL && copy != NULL;
    if (!ok)
        error_set(err, "--cpu: out of memory");
    else
        ok = model_configure(model, copy, err);
    free(copy);
    if (!ok) {
        free(model);
        return NULL;
    }
    return model;
}

/* ---- a processor that executes the guest itself ---- */
static bool is_speculation(unsigned feature)
{
    return listed(steering_features, ARRAY_LEN(steering_features), feature) ||
           listed(telling_features, ARRAY_LEN(telling_features), feature);
}

static bool offered(const struct cpu_offer *offer, unsigned feature)
{
    return offer->word[feature / 32] >> (feature % 32) & 1;
}

bool cpu_model_limit(struct cpu_model *model, const struct cpu_offer *offer, struct error *err)
{
    for (size_t i = 0; i < ARRAY_LEN(feature_infos); i++) {
        unsigned feature = feature_infos[i].feature;
        if (is_speculation(feature)) {
            /* only where there is a leaf to tell it in */
            if (model->has_cpuid && model_has(model, CPU_LM))
                feature_put(model, feature, offered(offer, feature));
        } else if (model_has(model, feature) && !offered(offer, feature)) {
            if (model->wanted[feature / 32] >> (feature % 32) & 1)
                return error_set(err, "--cpu: %s does not offer %s; switch it off with -%s, or use --cpu max", offer->who,
                                 feature_name(feature), feature_name(feature));
            feature_switch(model, feature, false);
        }
    }
    uint64_t arch_capabilities = model_has(model, CPU_ARCH_CAPABILITIES) ? offer->arch_capabilities : 0;
    unsigned cpus = model->cpus;
    model_complete(model);
    model->cpus = cpus;
    model->arch_capabilities = arch_capabilities;
    if (model->maxphyaddr > offer->maxphyaddr)
        model->maxphyaddr = offer->maxphyaddr;
    if (offer->tsc_khz != 0)
        model->tsc_khz = offer->tsc_khz;
    return true;
}

bool cpu_model_fits(const struct cpu_model *model, const struct cpu_offer *offer, struct error *err)
{
    for (size_t i = 0; i < ARRAY_LEN(feature_infos); i++) {
        unsigned feature = feature_infos[i].feature;
        if (!model_has(model, feature) || offered(offer, feature))
            continue;
        return error_set(err, "the guest's processor has %s, which %s does not offer; start the machine with --cpu MODEL,-%s",
                         feature_name(feature), offer->who, feature_name(feature));
    }
    if (model->arch_capabilities & ~offer->arch_capabilities)
        return error_set(err, "the guest has been told that its processor is not affected by attacks that the host's is open to; "
                              "start the machine under this engine, or with --cpu MODEL,-arch_capabilities,-spec_ctrl");
    if (model->maxphyaddr > offer->maxphyaddr)
        return error_set(err, "the guest's processor has %u physical address bits, %s offers %u", model->maxphyaddr, offer->who,
                         offer->maxphyaddr);
    if (offer->tsc_khz != 0 && model->tsc_khz != offer->tsc_khz)
        return error_set(err, "%s cannot scale the TSC here: the guest's runs at %u kHz, the host's at %u; start the machine under "
                              "this engine", offer->who, model->tsc_khz, offer->tsc_khz);
    return true;
}

void cpu_model_help(FILE *out)
{
    fprintf(out, "CPU models:\n");
    for (size_t i = 0; i < ARRAY_LEN(named_models); i++)
        fprintf(out, "  %-10s  %s\n", named_models[i].name, named_models[i].help);
    fprintf(out, "\nFeatures, for +feature or -feature ('*': needs a host that has it too):\n");
    for (size_t i = 0; i < ARRAY_LEN(feature_infos); i++)
        fprintf(out, "  %s%s\n", feature_infos[i].name,
                listed(host_features, ARRAY_LEN(host_features), feature_infos[i].feature) ? " *" : "");
}
