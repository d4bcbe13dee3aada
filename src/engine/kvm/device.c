/* What the host has: the device, the processor on offer, and whether it runs guests at its own speed.
 *
 * An offer. Features of instructions and modes must be offered by the kernel (KVM_GET_SUPPORTED_CPUID); what ring3 does
 * itself for a guest (the local APIC and its timer, MTRRs and machine-check registers, kvm-clock and PV EOI, the cache
 * and topology leaves) is always there. How the processor speculates is as the kernel says.
 *
 * The self-test. Some hosts have a /dev/kvm that does not execute guests but interprets them, a thousand times slower;
 * an engine chosen by itself must not be that. A loop of a few thousand instructions, which read and write memory, is
 * run in real mode and then, after a change of CR0, in protected mode; the best of a few runs counts, in processor time
 * of this thread, so that a busy host does not matter. Processors take below one nanosecond for each instruction, and
 * some microseconds for the first faults of a new virtual machine; emulators take above a thousand. SELFTEST_LIMIT_NS
 * lies between.
 *
 * Source: Documentation/virt/kvm/api.rst; cpuid.rst. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine/kvm/internal.h"
#include "host/clock.h"

#define DEVICE "/dev/kvm"
#define CPUID_ENTRIES 256u
#define B(feature) (1u << (CPU_##feature % 32))

static bool has_capabilities(int device, struct error *err)
{
    static const struct {
        int capability;
        const char *name;
    } needed[] = {
        {KVM_CAP_USER_MEMORY, "memory slots"},
        {KVM_CAP_READONLY_MEM, "read-only memory"},
        {KVM_CAP_SET_TSS_ADDR, "KVM_SET_TSS_ADDR"},
        {KVM_CAP_EXT_CPUID, "CPUID tables"},
        {KVM_CAP_USER_NMI, "KVM_NMI"},
        {KVM_CAP_VCPU_EVENTS, "events"},
        {KVM_CAP_DEBUGREGS, "debug registers"},
        {KVM_CAP_XSAVE, "XSAVE images"},
        {KVM_CAP_XCRS, "XCR0"},
        {KVM_CAP_GET_TSC_KHZ, "the TSC's frequency"},
        {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
        {KVM_CAP_SYNC_REGS, "synchronised registers"},
        {KVM_CAP_X86_USER_SPACE_MSR, "MSRs in user space"},
        {KVM_CAP_X86_MSR_FILTER, "MSR filters"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(needed); i++)
        if (ioctl(device, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
            return error_set(err, DEVICE " does not have %s; Linux 5.10 or later has", needed[i].name);
    return true;
}

int kvm_open(struct error *err)
{
    int device = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (device < 0) {
        if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
            error_set(err, "there is no " DEVICE ": the host's kernel has no KVM, or its processor no virtualization");
        else if (errno == EACCES || errno == EPERM)
            error_set(err, "no permission to open " DEVICE "; being in its group (often: kvm) gives it");
        else
            error_set(err, "cannot open " DEVICE ": %s", strerror(errno));
        return -1;
    }
    int version = ioctl(device, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        error_set(err, DEVICE " speaks version %d of its interface, ring3 version %d", version, KVM_API_VERSION);
    else if (has_capabilities(device, err))
        return device;
    close(device);
    return -1;
}

/* ---- the offer ---- */

static struct kvm_cpuid2 *supported_cpuid(int device, struct error *err)
{
    struct kvm_cpuid2 *table = calloc(1, sizeof *table + CPUID_ENTRIES * sizeof table->entries[0]);
    if (table == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    table->nent = CPUID_ENTRIES;
    if (ioctl(device, KVM_GET_SUPPORTED_CPUID, table) != 0) {
        error_set(err, DEVICE " does not say what guests may have: %s", strerror(errno));
        free(table);
        return NULL;
    }
    return table;
}

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *table, uint32_t function, uint32_t index)
{
    static const struct kvm_cpuid_entry2 none;
    for (unsigned i = 0; i < table->nent; i++)
        if (table->entries[i].function == function && table->entries[i].index == index)
            return &table->entries[i];
    return &none;
}

/* IA32_ARCH_CAPABILITIES as guests may see it; 0 where there is none. */
static uint64_t arch_capabilities(int device)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } one = {.header.nmsrs = 1, .entry.index = 0x10a};
    return ioctl(device, KVM_GET_MSRS, &one) == 1 ? one.entry.data : 0;
}

/* The frequency that guests must take because this host cannot scale; 0 if it can. */
static bool fixed_tsc_khz(int device, uint32_t *khz, struct error *err)
{
    *khz = 0;
    if (ioctl(device, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0)
        return true;
    int vm = ioctl(device, KVM_CREATE_VM, 0), cpu = vm >= 0 ? ioctl(vm, KVM_CREATE_VCPU, 0) : -1;
    int found = cpu >= 0 ? ioctl(cpu, KVM_GET_TSC_KHZ, 0) : -1;
    if (found <= 0)
        error_set(err, DEVICE " does not say how fast the TSC runs: %s", strerror(errno));
    if (cpu >= 0)
        close(cpu);
    if (vm >= 0)
        close(vm);
    *khz = found > 0 ? (uint32_t)found : 0;
    return found > 0;
}

bool kvm_offer(int device, struct cpu_offer *offer, struct error *err)
{
    struct kvm_cpuid2 *table = supported_cpuid(device, err);
    if (table == NULL)
        return false;
    const struct kvm_cpuid_entry2 *one = leaf(table, 1, 0), *seven = leaf(table, 7, 0);
    const struct kvm_cpuid_entry2 *ext = leaf(table, 0x80000001, 0), *ext21 = leaf(table, 0x80000021, 0);
    *offer = (struct cpu_offer){.who = DEVICE, .arch_capabilities = arch_capabilities(device)};
    uint32_t *word = offer->word;
    word[CPUID_1_EDX] = one->edx | B(MCE) | B(MCA) | B(APIC) | B(MTRR) | B(SS);
    word[CPUID_1_ECX] = one->ecx | B(X2APIC) | B(TSC_DEADLINE) | B(HYPERVISOR);
    word[CPUID_7_EBX] = seven->ebx | B(TSC_ADJUST);
    word[CPUID_7_ECX] = seven->ecx;
    word[CPUID_7_EDX] = seven->edx & ~(offer->arch_capabilities == 0 ? B(ARCH_CAPABILITIES) : 0);
    word[CPUID_7_1_EAX] = leaf(table, 7, 1)->eax;
    word[CPUID_D_1_EAX] = leaf(table, 0xd, 1)->eax;
    word[CPUID_8000_0001_EDX] = ext->edx;
    word[CPUID_8000_0001_ECX] = ext->ecx | B(TOPOEXT);
    word[CPUID_8000_0007_EDX] = B(CONSTANT_TSC);
    word[CPUID_8000_0008_EBX] = leaf(table, 0x80000008, 0)->ebx;
    word[CPUID_8000_0021_EAX] = ext21->eax;
    word[CPUID_8000_0021_ECX] = ext21->ecx;
    word[CPUID_KVM_EAX] = UINT32_MAX;
    unsigned bits = leaf(table, 0x80000008, 0)->eax & 0xff;
    offer->maxphyaddr = (uint8_t)(bits != 0 ? bits : 36);
    free(table);
    return fixed_tsc_khz(device, &offer->tsc_khz, err);
}

bool kvm_limit(struct cpu_model *model, struct error *err)
{
    struct cpu_offer offer;
    int device = kvm_open(err);
    bool ok = device >= 0 && kvm_offer(device, &offer, err) && cpu_model_limit(model, &offer, err);
    if (device >= 0)
        close(device);
    return ok;
}

/* ---- the table ---- */

static void table_add(struct kvm_cpuid2 *table, const struct vcpu *v, uint32_t function, uint32_t index, bool indexed)
{
    if (table->nent == CPUID_ENTRIES)
        return;
    struct cpuid_result r = cpuid_query(v, function, index);
    if (function == 0x80000001 && model_has(v->model, CPU_SYSCALL))
        r.edx |= B(SYSCALL); /* Intel's shows it in 64-bit mode only; the kernel keeps one table */
    table->entries[table->nent++] = (struct kvm_cpuid_entry2){
        .function = function,
        .index = index,
        .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
        .eax = r.eax,
        .ebx = r.ebx,
        .ecx = r.ecx,
        .edx = r.edx,
    };
}

/* How many subleaves a leaf has; 0: the index does not matter. */
static unsigned subleaves(uint32_t function)
{
    switch (function) {
    case 4:
    case 0x8000001d:
        return 5;
    case 7:
        return 2;
    case 0xb:
    case 0xd:
        return 3;
    default:
        return 0;
    }
}

static void range_add(struct kvm_cpuid2 *table, const struct vcpu *v, uint32_t first, uint32_t last)
{
    for (uint32_t function = first; function <= last; function++) {
        unsigned n = subleaves(function);
        for (unsigned index = 0; index < n; index++)
            table_add(table, v, function, index, true);
        if (n == 0)
            table_add(table, v, function, 0, false);
    }
}

struct kvm_cpuid2 *kvm_cpuid_table(const struct vcpu *v)
{
    struct kvm_cpuid2 *table = calloc(1, sizeof *table + CPUID_ENTRIES * sizeof table->entries[0]);
    if (table == NULL || !v->model->has_cpuid)
        return table;
    range_add(table, v, 0, v->model->level);
    if (model_has(v->model, CPU_HYPERVISOR)) {
        range_add(table, v, 0x40000000, 0x40000001);
        range_add(table, v, 0x40000010, 0x40000010);
    }
    if (v->model->ext_level != 0)
        range_add(table, v, 0x80000000, v->model->ext_level);
    return table;
}

/* ---- the self-test ---- */

#define SELFTEST_MEMORY 0x10000u
#define SELFTEST_LOOPS 1000u
#define SELFTEST_INSTRUCTIONS (2 * 4 * SELFTEST_LOOPS)
#define SELFTEST_RUNS 5u
#define SELFTEST_LIMIT_NS 50u
#define SELFTEST_HOPELESS_NS 400u /* no accident any more: not tried again */
#define SELFTEST_CODE 0x1000u

/* add [bx], ax; add ax, [bx+8]; dec cx; jnz - in real mode; then CR0.PE and the same with 32-bit operands; hlt. */
static const uint8_t selftest_code[] = {
    0x01,
    0x07,
    0x03,
    0x47,
    0x08,
    0x49,
    0x75,
    0xf8, /* 16-bit loop */
    0x0f,
    0x20,
    0xc0,
    0x0c,
    0x01,
    0x0f,
    0x22,
    0xc0, /* CR0.PE = 1 */
    0xb9,
    SELFTEST_LOOPS & 0xff,
    SELFTEST_LOOPS >> 8, /* mov cx, loops */
    0x66,
    0x01,
    0x07,
    0x66,
    0x03,
    0x47,
    0x08,
    0x49,
    0x75,
    0xf6,
    0xf4, /* once more, hlt */
};

static bool selftest_start(int cpu)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {
        .rip = SELFTEST_CODE, .rflags = FLAG_FIXED, .rbx = 0x2000, .rcx = SELFTEST_LOOPS, .rsp = 0x8000};
    if (ioctl(cpu, KVM_GET_SREGS, &sregs) != 0)
        return false;
    sregs.cr0 &= ~CR0_PE;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    return ioctl(cpu, KVM_SET_SREGS, &sregs) == 0 && ioctl(cpu, KVM_SET_REGS, &regs) == 0;
}

static uint64_t thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* The best time of one run; 0 if the guest did not come to its HLT. */
static uint64_t selftest_run(int cpu, const struct kvm_run *run)
{
    uint64_t best = 0;
    for (unsigned n = 0; n < SELFTEST_RUNS; n++) {
        int result;
        if (!selftest_start(cpu))
            return 0;
        uint64_t begin = thread_ns();
        do
            result = ioctl(cpu, KVM_RUN, 0);
        while (result != 0 && errno == EINTR);
        uint64_t took = thread_ns() - begin;
        if (result != 0 || run->exit_reason != KVM_EXIT_HLT)
            return 0;
        best = best == 0 || took < best ? took + 1 : best;
        if (best < (uint64_t)SELFTEST_LIMIT_NS * SELFTEST_INSTRUCTIONS ||
            best > (uint64_t)SELFTEST_HOPELESS_NS * SELFTEST_INSTRUCTIONS)
            break;
    }
    return best;
}

static uint64_t selftest(int device, uint8_t *memory)
{
    uint64_t took = 0;
    int size = ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0), vm = ioctl(device, KVM_CREATE_VM, 0);
    struct kvm_userspace_memory_region region = {.memory_size = SELFTEST_MEMORY, .userspace_addr = (uintptr_t)memory};
    int cpu =
        vm >= 0 && ioctl(vm, KVM_SET_TSS_ADDR, KVM_TSS_GPA) == 0 && ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0
            ? ioctl(vm, KVM_CREATE_VCPU, 0)
            : -1;
    struct kvm_run *run = MAP_FAILED;
    if (cpu >= 0 && size > 0)
        run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    memcpy(memory + SELFTEST_CODE, selftest_code, sizeof selftest_code);
    if (run != MAP_FAILED) {
        took = selftest_run(cpu, run);
        munmap(run, (size_t)size);
    }
    if (cpu >= 0)
        close(cpu);
    if (vm >= 0)
        close(vm);
    return took;
}

bool kvm_is_fast(struct error *why_not)
{
    int device = kvm_open(why_not);
    if (device < 0)
        return false;
    uint8_t *memory = mmap(NULL, SELFTEST_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t took = memory != MAP_FAILED ? selftest(device, memory) : 0;
    if (memory != MAP_FAILED)
        munmap(memory, SELFTEST_MEMORY);
    close(device);
    if (took == 0)
        return error_set(why_not, DEVICE " cannot run a small test program");
    if (took >= (uint64_t)SELFTEST_LIMIT_NS * SELFTEST_INSTRUCTIONS)
        return error_set(why_not,
                         DEVICE " emulates guest code here: %.0f ns an instruction, where processors take less than 1",
                         (double)took / SELFTEST_INSTRUCTIONS);
    return true;
}
