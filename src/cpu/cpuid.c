/* CPUID: the leaves, computed from the model and the few bits that follow the processor's state.
 *
 * Which leaves there are
 *   Intel beyond the highest basic leaf: the data of the highest basic leaf. AMD: zeros. 386 and early 486: none.
 *   Hypervisor leaves 0x40000000 to 0x40000010 carry KVM's signature, so that guests use their KVM drivers;
 *   those from 0x40000100 name ring3's own hypercalls.
 *
 * What changes while the processor runs (SDM vol. 2, CPUID; APM vol. 3, appendix E)
 *   OSXSAVE follows CR4, APIC the enable bit of IA32_APIC_BASE, MONITOR and the highest leaf IA32_MISC_ENABLE (Intel),
 * NX the XD disable bit there, SYSCALL on Intel is shown in 64-bit mode only, and leaf 0xD gives sizes for the current
 * XCR0.
 *
 * The machine that is described: one socket of model.cpus cores of one thread each, APIC IDs counted from 0. Models older than
 * 64 bits are from before there were cores: there each processor has a socket of its own, which is that HTT is clear, and
 * firmware then has them all in its MP table (of those of one socket it lists the first). Caches are
 * the same everywhere (cache_levels[]), because guests tune copying by them and a snapshot may continue on another
 * host.
 *
 * Time: the local APIC's timer runs at 1 GHz, and so does the TSC unless an engine can give it another frequency only
 * (model.tsc_khz). Leaf 0x15 calls 1 GHz the crystal, which is what Linux takes as the APIC timer's input, and gives the
 * TSC's ratio to it; leaves 0x16 and 0x40000010 repeat both.
 *
 * Not described: performance counters (leaf 0xA is zero), MSR-based thermal and frequency control, SGX, memory
 * encryption: ring3 has none.
 */
#include "cpu/cpuid.h"

#include <string.h>

#include "cpu/hypercall.h"
#include "cpu/msr.h"
#include "cpu/vcpu.h"

#define IA32_APIC_BASE 0x1bu
#define APIC_BASE_ENABLE (1ull << 11)

#define BIT_HTT (1u << 28)       /* 1.EDX */
#define BIT_OSXSAVE (1u << 27)   /* 1.ECX */
#define BIT_CMP_LEGACY (1u << 1) /* 0x80000001.ECX */
#define FEATURE_BIT(feature) (1u << (CPU_##feature % 32))

/* Bits of 1.EDX that AMD repeats in 0x80000001.EDX. */
#define AMD_REPEATED 0x0183f3ffu

enum cache_type { CACHE_DATA = 1, CACHE_CODE, CACHE_UNIFIED };
static const struct cache_level {
    uint8_t type, level;
    uint8_t ways, amd_ways; /* AMD's encoding in leaf 0x80000006 */
    uint32_t size;
    bool shared; /* by all cores */
} cache_levels[] = {
    {CACHE_DATA, 1, 8, 0, 32 * 1024, false},
    {CACHE_CODE, 1, 8, 0, 32 * 1024, false},
    {CACHE_UNIFIED, 2, 8, 6, 512 * 1024, false},
    {CACHE_UNIFIED, 3, 16, 8, 16 * 1024 * 1024, true},
};
#define CACHE_LINE 64u

/* Width of the core number within an APIC ID. */
static unsigned core_bits(const struct cpu_model *model)
{
    unsigned bits = 0;
    while (1u << bits < model->cpus)
        bits++;
    return bits;
}

static bool apic_enabled(const struct vcpu *v)
{
    uint64_t base;
    if (v->model->family < 6 || v->platform.apic_msr_read == NULL) /* no IA32_APIC_BASE: always on */
        return true;
    return !v->platform.apic_msr_read(v->platform.opaque, IA32_APIC_BASE, &base) || (base & APIC_BASE_ENABLE);
}

static uint32_t misc_enabled(const struct vcpu *v, uint64_t bit)
{
    return !v->model->amd && v->model->family >= 6 && (v->msr.misc_enable & bit);
}

static uint32_t max_level(const struct vcpu *v)
{
    return v->model->level > 2 && misc_enabled(v, MISC_ENABLE_LIMIT_CPUID) ? 2 : v->model->level;
}

static void vendor_put(const char *vendor, uint32_t *ebx, uint32_t *edx, uint32_t *ecx)
{
    memcpy(ebx, vendor, 4);
    memcpy(edx, vendor + 4, 4);
    memcpy(ecx, vendor + 8, 4);
}

static struct cpuid_result leaf_0(const struct vcpu *v)
{
    struct cpuid_result r = {.eax = max_level(v)};
    vendor_put(v->model->vendor, &r.ebx, &r.edx, &r.ecx);
    return r;
}

static struct cpuid_result leaf_1(const struct vcpu *v)
{
    const struct cpu_model *m = v->model;
    struct cpuid_result r = {
        .eax = m->signature,
        .ebx = v->apic_id << 24,
        .ecx = m->word[CPUID_1_ECX],
        .edx = m->word[CPUID_1_EDX],
    };
    if (model_has(m, CPU_CLFLUSH))
        r.ebx |= CACHE_LINE / 8 << 8;
    if (m->cpus > 1 && model_has(m, CPU_LM)) {
        r.edx |= BIT_HTT;
        r.ebx |= (m->cpus > 255 ? 255 : m->cpus) << 16;
    }
    if (model_has(m, CPU_APIC) && !apic_enabled(v))
        r.edx &= ~FEATURE_BIT(APIC);
    if (v->cr4 & CR4_OSXSAVE)
        r.ecx |= BIT_OSXSAVE;
    if (!m->amd && !(v->msr.misc_enable & MISC_ENABLE_MONITOR))
        r.ecx &= ~FEATURE_BIT(MONITOR);
    return r;
}

/* Cache and TLB descriptors: Intel only. */
static struct cpuid_result leaf_2(const struct cpu_model *m)
{
    if (m->amd)
        return (struct cpuid_result){0};
    if (!model_has(m, CPU_LM)) /* 32+4-entry TLBs, 16 KiB L1 caches, 512 KiB L2 */
        return (struct cpuid_result){.eax = 0x03020101, .edx = 0x0c040843};
    /* 0xff: the caches are in leaf 4 */
    return (struct cpuid_result){.eax = 0x76036301, .ebx = 0x00f0b5ff, .edx = 0x00c30000};
}

/* Intel's leaf 4 and AMD's 0x8000001D: one cache a subleaf. */
static struct cpuid_result cache_leaf(const struct cpu_model *m, uint32_t subleaf, bool intel)
{
    if (subleaf >= ARRAY_LEN(cache_levels))
        return (struct cpuid_result){0};
    const struct cache_level *c = &cache_levels[subleaf];
    uint32_t sharing = c->shared ? (intel ? 1u << core_bits(m) : m->cpus) - 1 : 0;
    uint32_t cores = (1u << core_bits(m)) - 1;
    struct cpuid_result r = {
        .eax = c->type | (uint32_t)c->level << 5 | 1u << 8 | (sharing & 0xfff) << 14,
        .ebx = (CACHE_LINE - 1) | (c->ways - 1u) << 22,
        .ecx = c->size / (c->ways * CACHE_LINE) - 1,
    };
    if (intel)
        r.eax |= (cores > 63 ? 63 : cores) << 26;
    return r;
}

static struct cpuid_result leaf_7(const struct cpu_model *m, uint32_t subleaf)
{
    switch (subleaf) {
    case 0:
        return (struct cpuid_result){
            .eax = m->word[CPUID_7_1_EAX] != 0,
            .ebx = m->word[CPUID_7_EBX],
            .ecx = m->word[CPUID_7_ECX],
            .edx = m->word[CPUID_7_EDX],
        };
    case 1:
        return (struct cpuid_result){.eax = m->word[CPUID_7_1_EAX]};
    default:
        return (struct cpuid_result){0};
    }
}

/* Extended topology: threads, then cores. */
static struct cpuid_result leaf_b(const struct vcpu *v, uint32_t subleaf)
{
    const struct cpu_model *m = v->model;
    if (!model_has(m, CPU_APIC))
        return (struct cpuid_result){0};
    struct cpuid_result r = {.ecx = subleaf & 0xff, .edx = v->apic_id};
    if (subleaf == 0) {
        r.ebx = 1;
        r.ecx |= 1u << 8;
    } else if (subleaf == 1) {
        r.eax = core_bits(m);
        r.ebx = m->cpus;
        r.ecx |= 2u << 8;
    }
    return r;
}

static uint32_t xsave_bytes(uint64_t components)
{
    return components & XCR0_AVX ? 512 + 64 + 256 : 512 + 64;
}

static struct cpuid_result leaf_d(const struct vcpu *v, uint32_t subleaf)
{
    const struct cpu_model *m = v->model;
    if (!model_has(m, CPU_XSAVE))
        return (struct cpuid_result){0};
    switch (subleaf) {
    case 0:
        return (struct cpuid_result){.eax = (uint32_t)m->xcr0_mask, .ebx = xsave_bytes(v->xcr0), .ecx = m->xsave_size};
    case 1:
        return (struct cpuid_result){
            .eax = m->word[CPUID_D_1_EAX],
            .ebx = model_has(m, CPU_XSAVEC) ? xsave_bytes(v->xcr0 | v->msr.xss) : 0,
        };
    case 2: /* AVX: 256 bytes at 576 */
        return (struct cpuid_result){.eax = model_has(m, CPU_AVX) ? 256 : 0, .ebx = model_has(m, CPU_AVX) ? 576 : 0};
    default:
        return (struct cpuid_result){0};
    }
}

/* The TSC as a fraction of the crystal, and the crystal. */
static struct cpuid_result leaf_15(const struct cpu_model *m)
{
    uint32_t crystal_khz = TSC_FREQUENCY_HZ / 1000, ratio = m->tsc_khz / crystal_khz;
    if (m->tsc_khz % crystal_khz == 0)
        return (struct cpuid_result){.eax = 1, .ebx = ratio, .ecx = (uint32_t)TSC_FREQUENCY_HZ};
    return (struct cpuid_result){.eax = crystal_khz, .ebx = m->tsc_khz, .ecx = (uint32_t)TSC_FREQUENCY_HZ};
}

static struct cpuid_result basic_leaf(const struct vcpu *v, uint32_t leaf, uint32_t subleaf)
{
    const struct cpu_model *m = v->model;
    switch (leaf) {
    case 0:
        return leaf_0(v);
    case 1:
        return leaf_1(v);
    case 2:
        return leaf_2(m);
    case 4:
        return m->amd || !model_has(m, CPU_LM) ? (struct cpuid_result){0} : cache_leaf(m, subleaf, true);
    case 5:
        if (!model_has(m, CPU_MONITOR))
            return (struct cpuid_result){0};
        /* line sizes; extensions listed, interrupts break MWAIT though IF = 0; one C1 substate */
        return (struct cpuid_result){.eax = CACHE_LINE, .ebx = CACHE_LINE, .ecx = 3, .edx = 0x10};
    case 6:
        return (struct cpuid_result){.eax = model_has(m, CPU_APIC) ? 1u << 2 /* ARAT */ : 0};
    case 7:
        return leaf_7(m, subleaf);
    case 0xb:
        return leaf_b(v, subleaf);
    case 0xd:
        return leaf_d(v, subleaf);
    case 0x15:
        return leaf_15(m);
    case 0x16:
        return (struct cpuid_result){
            .eax = m->tsc_khz / 1000, .ebx = m->tsc_khz / 1000, .ecx = 100 /* bus MHz */};
    default:
        return (struct cpuid_result){0};
    }
}

static struct cpuid_result hypervisor_leaf(const struct vcpu *v, uint32_t leaf)
{
    struct cpuid_result r = {0};
    switch (leaf) {
    case 0x40000000:
        r.eax = 0x40000010;
        vendor_put("KVMKVMKVM\0\0", &r.ebx, &r.ecx, &r.edx); /* here the order is EBX, ECX, EDX */
        break;
    case 0x40000001:
        r.eax = v->model->word[CPUID_KVM_EAX];
        break;
    case 0x40000010:
        r.eax = v->model->tsc_khz; /* kHz of the TSC and of the APIC timer */
        r.ebx = TSC_FREQUENCY_HZ / 1000;
        break;
    }
    return r;
}

static struct cpuid_result leaf_ext_1(const struct vcpu *v)
{
    const struct cpu_model *m = v->model;
    struct cpuid_result r = {.ecx = m->word[CPUID_8000_0001_ECX], .edx = m->word[CPUID_8000_0001_EDX]};
    if (m->amd) {
        r.eax = m->signature;
        r.edx |= leaf_1(v).edx & AMD_REPEATED;
        if (m->cpus > 1)
            r.ecx |= BIT_CMP_LEGACY;
    } else {
        if (v->code_mode != CODE_64)
            r.edx &= ~FEATURE_BIT(SYSCALL);
        if (misc_enabled(v, MISC_ENABLE_XD_DISABLE))
            r.edx &= ~FEATURE_BIT(NX);
    }
    return r;
}

static struct cpuid_result leaf_ext_8(const struct cpu_model *m)
{
    struct cpuid_result r = {
        .eax = m->maxphyaddr | (model_has(m, CPU_LM) ? 48u : 32u) << 8,
        .ebx = m->word[CPUID_8000_0008_EBX],
    };
    if (m->amd)
        r.ecx = (m->cpus - 1) | core_bits(m) << 12;
    return r;
}

static struct cpuid_result extended_leaf(const struct vcpu *v, uint32_t leaf, uint32_t subleaf)
{
    const struct cpu_model *m = v->model;
    struct cpuid_result r = {0};
    const struct cache_level *l1d = &cache_levels[0], *l1i = &cache_levels[1];
    const struct cache_level *l2 = &cache_levels[2], *l3 = &cache_levels[3];
    switch (leaf) {
    case 0x80000000:
        r.eax = m->ext_level;
        if (m->amd)
            vendor_put(m->vendor, &r.ebx, &r.edx, &r.ecx);
        return r;
    case 0x80000001:
        return leaf_ext_1(v);
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        memcpy(&r, m->brand + 16 * (leaf - 0x80000002), sizeof(r));
        return r;
    case 0x80000005: /* L1 caches and TLBs: 64 entries, fully associative */
        if (m->amd) {
            r.eax = r.ebx = 0xff40ff40;
            r.ecx = l1d->size / 1024 << 24 | (uint32_t)l1d->ways << 16 | 1u << 8 | CACHE_LINE;
            r.edx = l1i->size / 1024 << 24 | (uint32_t)l1i->ways << 16 | 1u << 8 | CACHE_LINE;
        }
        return r;
    case 0x80000006:
        r.ecx = l2->size / 1024 << 16 | (uint32_t)l2->amd_ways << 12 | CACHE_LINE;
        if (m->amd) { /* second-level TLBs of 1024 entries, L3 in units of 512 KiB */
            r.eax = 0x44004400;
            r.ebx = 0x44004400;
            r.ecx |= 1u << 8;
            r.edx = l3->size / (512 * 1024) << 18 | (uint32_t)l3->amd_ways << 12 | 1u << 8 | CACHE_LINE;
        }
        return r;
    case 0x80000007:
        r.edx = m->word[CPUID_8000_0007_EDX];
        return r;
    case 0x80000008:
        return leaf_ext_8(m);
    case 0x8000001a: /* 256-bit data paths, unaligned moves as fast as aligned ones */
        r.eax = model_has(m, CPU_AVX) ? 6 : 2;
        return r;
    case 0x8000001d:
        return model_has(m, CPU_TOPOEXT) ? cache_leaf(m, subleaf, false) : r;
    case 0x8000001e:
        if (model_has(m, CPU_TOPOEXT)) { /* one thread a core, one node */
            r.eax = v->apic_id;
            r.ebx = v->apic_id & 0xff;
        }
        return r;
    case 0x80000021:
        r.eax = m->word[CPUID_8000_0021_EAX];
        r.ecx = m->word[CPUID_8000_0021_ECX];
        return r;
    default:
        return r;
    }
}

struct cpuid_result cpuid_query(const struct vcpu *v, uint32_t leaf, uint32_t subleaf)
{
    const struct cpu_model *m = v->model;
    if (leaf <= max_level(v))
        return basic_leaf(v, leaf, subleaf);
    if (leaf >= 0x40000000 && leaf <= 0x400000ff && model_has(m, CPU_HYPERVISOR))
        return hypervisor_leaf(v, leaf);
    if (leaf >= RING3_CPUID_SIGNATURE && leaf <= (RING3_CPUID_SIGNATURE | 0xff) && model_has(m, CPU_HYPERVISOR))
        return hypercall_cpuid(v, leaf);
    if (leaf >= 0x80000000 && leaf <= m->ext_level)
        return extended_leaf(v, leaf, subleaf);
    return m->amd ? (struct cpuid_result){0} : basic_leaf(v, max_level(v), subleaf);
}
