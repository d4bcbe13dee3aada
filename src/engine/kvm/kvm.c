/* The hardware engine's loop.
 *
 * Guest code runs in KVM_RUN until the hardware exits, or SIGURG comes because something is pending (vcpu_raise()).
 * That signal is blocked in this thread but for the time in KVM_RUN (KVM_SET_SIGNAL_MASK), so it is never lost between
 * a look at `pending` and the entry: then it waits, and KVM_RUN returns at once. No handler is needed, and none is
 * installed.
 *
 * Interrupts. The interrupt controllers are the machine's own (decision 018). When one asks and the processor can take
 * it, its vector is fetched and given; when it cannot, the kernel is asked to exit as soon as it can. Everything else
 * that may be pending is rare, and is done with the state here, by the code that all engines share (engine/events.c).
 *
 * What the hardware does not do, the interpreter does, with the state here:
 *   - instructions that the kernel gives up on. It begins with one; each time the kernel gives up again without having
 * got anywhere, the stretch doubles, so that a back end which cannot execute a whole mode costs little more than the
 *     interpreter alone;
 *   - everything while A20 masks addresses, which no processor has any more;
 *   - debug traps that wait for the end of an instruction, and what a debugger watches beyond four debug registers;
 *   - runs to an exact count, which the hardware cannot stop at: a debugger's single steps.
 *
 * Not used: the kernel's interrupt controllers and clocks, its paravirtual features (all of them are ours, through the
 * MSR filter), coalesced writes (the order of accesses, and their count, would not be kept).
 *
 * Source: Documentation/virt/kvm/api.rst. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "cpu/code_cache.h"
#include "engine/events.h"
#include "engine/interpret/interpret.h"
#include "engine/kvm/internal.h"
#include "memory/memory.h"

#define KERNEL_SIGNAL_SET_SIZE 8u
#define BURST_MAX 65536u

/* ---- attaching ---- */

static bool usable(struct error *why_not)
{
    int device = kvm_open(why_not);
    if (device >= 0)
        close(device);
    return device >= 0;
}

static void kvm_destroy(struct kvm *k)
{
    if (k->run != NULL)
        munmap(k->run, k->run_size);
    const int fds[] = {k->cpu, k->vm, k->device};
    for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(k);
}

static void detach(struct vcpu *v)
{
    struct kvm *k = kvm_of(v);
    if (k != NULL)
        kvm_destroy(k);
    v->engine_opaque = NULL;
    v->hypercall.hidden = false;
    engine_interpret.detach(v);
}

static bool host_refuses(struct error *err, const char *what)
{
    return error_set(err, "/dev/kvm: %s: %s", what, strerror(errno));
}

/* Which of the MSRs that the kernel may keep it has here. */
static uint32_t held_msrs(const struct kvm *k)
{
    uint32_t held = 0;
    for (unsigned n = 0; n < kvm_held_count; n++) {
        struct {
            struct kvm_msrs header;
            struct kvm_msr_entry entry;
        } one = {.header.nmsrs = 1, .entry.index = kvm_held_msrs[n].number};
        if (ioctl(k->cpu, KVM_GET_MSRS, &one) == 1 && ioctl(k->cpu, KVM_SET_MSRS, &one) == 1)
            held |= 1u << n;
    }
    return held;
}

/* MSRs pass that the kernel keeps, and the bases and modes that are registers besides; all others come to us. */
static bool filter_msrs(const struct kvm *k, struct error *err)
{
    static const uint32_t others[] = {0x49 /* IA32_PRED_CMD */, 0x10b /* IA32_FLUSH_CMD */, 0xc0000080 /* IA32_EFER */,
                                      0xc0000100 /* FS base */, 0xc0000101 /* GS base */};
    uint8_t low[0x200 / 8] = {0}, xss[1] = {0}, high[0x110 / 8] = {0}, amd[0x120 / 8] = {0};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
    const struct kvm_msr_filter_range ranges[] = {
        {.base = 0, .nmsrs = sizeof low * 8, .bitmap = low},
        {.base = 0x200, .nmsrs = sizeof high * 8, .bitmap = high}, /* IA32_PAT */
        {.base = 0xda0, .nmsrs = sizeof xss * 8, .bitmap = xss},
        {.base = 0xc0010000, .nmsrs = sizeof amd * 8, .bitmap = amd},
        {.base = 0xc0000080, .nmsrs = 0x88, .bitmap = (uint8_t[0x88 / 8]){0}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(ranges); i++) {
        filter.ranges[i] = ranges[i];
        filter.ranges[i].flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    }
    for (unsigned n = 0; n < kvm_held_count + ARRAY_LEN(others); n++) {
        if (n < kvm_held_count && !(k->held >> n & 1))
            continue;
        uint32_t msr = n < kvm_held_count ? kvm_held_msrs[n].number : others[n - kvm_held_count];
        for (unsigned i = 0; i < ARRAY_LEN(ranges); i++) {
            uint32_t bit = msr - ranges[i].base;
            if (bit < ranges[i].nmsrs)
                ranges[i].bitmap[bit / 8] |= (uint8_t)(1u << bit % 8);
        }
    }
    struct kvm_enable_cap user = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args = {KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER},
    };
    if (ioctl(k->vm, KVM_ENABLE_CAP, &user) != 0 || ioctl(k->vm, KVM_X86_SET_MSR_FILTER, &filter) != 0)
        return host_refuses(err, "MSR filter");
    return true;
}

static int capability(const struct kvm *k, int which)
{
    return ioctl(k->vm, KVM_CHECK_EXTENSION, which);
}

static void enable(const struct kvm *k, uint32_t which)
{
    struct kvm_enable_cap cap = {.cap = which, .args = {1}};
    if (capability(k, (int)which) > 0)
        ioctl(k->vm, KVM_ENABLE_CAP, &cap);
}

static bool create_cpu(struct kvm *k, struct error *err)
{
    uint64_t identity = KVM_IDENTITY_GPA, offset;
    int size = ioctl(k->device, KVM_GET_VCPU_MMAP_SIZE, 0);
    k->vm = ioctl(k->device, KVM_CREATE_VM, 0);
    if (k->vm < 0 || size <= 0)
        return host_refuses(err, "cannot make a virtual machine");
    if (ioctl(k->vm, KVM_SET_TSS_ADDR, KVM_TSS_GPA) != 0)
        return host_refuses(err, "KVM_SET_TSS_ADDR");
    if (capability(k, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0)
        ioctl(k->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    enable(k, KVM_CAP_EXCEPTION_PAYLOAD);
    enable(k, KVM_CAP_EXIT_ON_EMULATION_FAILURE);
    k->cpu = ioctl(k->vm, KVM_CREATE_VCPU, 0);
    if (k->cpu < 0)
        return host_refuses(err, "cannot make a processor");
    void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, k->cpu, 0);
    if (run == MAP_FAILED)
        return host_refuses(err, "cannot map a processor's page");
    k->run = run;
    k->run_size = (size_t)size;
    unsigned synced = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    if ((capability(k, KVM_CAP_SYNC_REGS) & (int)synced) != (int)synced)
        return error_set(err, "/dev/kvm does not synchronise all registers; Linux 4.17 or later does");
    k->run->kvm_valid_regs = synced;
    k->has_sregs2 = capability(k, KVM_CAP_SREGS2) > 0;
    struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    k->has_tsc_offset = ioctl(k->cpu, KVM_HAS_DEVICE_ATTR, &attr) == 0;
    int slots = capability(k, KVM_CAP_NR_MEMSLOTS);
    k->slots_max = slots > 0 && slots < (int)KVM_SLOTS_MAX ? (unsigned)slots : KVM_SLOTS_MAX;
    return true;
}

/* In guest mode this thread's signals are what they are outside, and SIGURG. */
static void set_signal_mask(const struct kvm *k, const sigset_t *outside)
{
    struct {
        struct kvm_signal_mask header;
        uint8_t set[KERNEL_SIGNAL_SET_SIZE];
    } mask = {.header.len = KERNEL_SIGNAL_SET_SIZE};
    sigset_t inside = *outside;
    sigdelset(&inside, SIGURG);
    memcpy(mask.header.sigset, &inside, KERNEL_SIGNAL_SET_SIZE);
    ioctl(k->cpu, KVM_SET_SIGNAL_MASK, &mask);
}

static bool attach(struct vcpu *v, struct error *err)
{
    struct cpu_offer offer;
    if (v->hypercall.flags_used)
        return error_set(err, "the guest uses ring3's hypercalls, which do not get past the kernel's KVM: choose "
                              "another engine");
    if (!engine_interpret.attach(v, err))
        return false;
    v->hypercall.hidden = true; /* KVM answers VMCALL itself */
    struct kvm *k = calloc(1, sizeof *k);
    check(k != NULL);
    v->engine_opaque = k;
    k->vm = k->cpu = -1;
    k->burst = 1;
    k->device = kvm_open(err);
    bool ok = k->device >= 0 && kvm_offer(k->device, &offer, err) && cpu_model_fits(v->model, &offer, err) &&
              create_cpu(k, err);
    if (ok) {
        k->held = held_msrs(k);
        ok = filter_msrs(k, err);
    }
    if (!ok)
        detach(v);
    return ok;
}

/* What can be told only when the machine is complete: before the first entry. */
static bool prepare(struct kvm *k, struct vcpu *v)
{
    if (k->prepared)
        return true;
    struct kvm_cpuid2 *table = kvm_cpuid_table(v);
    bool ok = table != NULL && ioctl(k->cpu, KVM_SET_CPUID2, table) == 0;
    free(table);
    if (!ok) {
        v->failed = "/dev/kvm does not accept the processor model";
        return false;
    }
    if (ioctl(k->cpu, KVM_GET_TSC_KHZ, 0) != (int)v->tsc_khz && ioctl(k->cpu, KVM_SET_TSC_KHZ, v->tsc_khz) != 0) {
        v->failed = "/dev/kvm cannot give the TSC its frequency";
        return false;
    }
    k->prepared = true;
    return true;
}

/* ---- the interpreter's part ---- */

static bool must_interpret(const struct vcpu *v)
{
    return v->a20_mask != ~0ull || v->dr6_pending != 0;
}

/* At most `count` instructions, from here on. */
static void interpret(struct kvm *k, struct vcpu *v, uint64_t until)
{
    uint64_t before = v->instructions;
    if (k->stale) {
        code_cache_reset(v);
        k->stale = false;
    }
    engine_interpret.run(v, until);
    k->stats.interpreted += v->instructions - before;
}

/* The kernel has given up on what comes next. */
static void interpret_stretch(struct kvm *k, struct vcpu *v)
{
    k->stats.stretches++;
    interpret(k, v, v->instructions + k->burst);
    k->burst = k->burst < BURST_MAX ? 2 * k->burst : BURST_MAX;
}

/* ---- running ---- */

static void drain_signal(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    while (sigtimedwait(&set, NULL, &(struct timespec){0}) > 0)
        ;
}

/* What is pending besides interrupts, or a processor that does not run: needs the state here. */
static bool needs_state(const struct vcpu *v, uint32_t pending)
{
    return (pending & ~(PENDING_INTR | PENDING_NMI)) != 0 || v->activity != ACTIVITY_RUNNING;
}

/* Gives the processor what it can take now, and asks for a word when it can take more. The state is there. */
static void give_events(struct kvm *k, struct vcpu *v, uint32_t pending)
{
    if ((pending & PENDING_NMI) && !k->nmi_given)
        kvm_give_nmi(k, v);
    if (!k->there || !(pending & PENDING_INTR))
        return;
    if (!k->fresh && !k->intr_given && k->run->ready_for_interrupt_injection) {
        int vector = v->platform.intr_ack(v->platform.opaque);
        if (vector >= 0)
            kvm_give_interrupt(k, v, (unsigned)vector);
    }
}

/* One stay in guest mode. False: the kernel cannot go on. */
static bool enter(struct kvm *k, struct vcpu *v)
{
    uint32_t pending = atomic_load(&v->pending);
    uint64_t cr8 = v->platform.cr8_read(v->platform.opaque);
    k->run->cr8 = k->cr8 = cr8;
    k->run->request_interrupt_window = (pending & PENDING_INTR) != 0;
    k->entered_rip = v->rip;
    atomic_store(&v->waker, k->thread); /* then look once more: vcpu_raise() does it the other way round */
    int result = 0, error = 0;
    bool ran = atomic_load(&v->pending) == pending;
    if (ran) {
        result = ioctl(k->cpu, KVM_RUN, 0);
        error = errno;
    }
    atomic_store(&v->waker, 0);
    if (!ran)
        return true;
    k->stats.runs++;
    kvm_synced(k, v);
    if (result == 0) {
        bool ok = kvm_exit_handle(k, v);
        k->burst = ok ? 1 : k->burst;
        return ok;
    }
    k->incomplete = false; /* it begins with that */
    if (error == EINTR || error == EAGAIN) {
        k->stats.interrupted++;
        drain_signal();
        return true;
    }
    log_warn(v->log, "kvm: the kernel cannot run the guest at 0x%llx: %s", (unsigned long long)v->rip, strerror(error));
    return false;
}

/* With the state there; until it has to be here. */
static void run_there(struct kvm *k, struct vcpu *v)
{
    while (k->there) {
        uint32_t pending = atomic_load(&v->pending);
        if (v->activity == ACTIVITY_HLT && vcpu_runnable(v))
            v->activity = ACTIVITY_RUNNING;
        if (needs_state(v, pending) || k->generation != memory_generation(v->memory)) {
            kvm_take(k, v);
            return;
        }
        give_events(k, v, pending);
        if (!k->there)
            return;
        if (!enter(k, v)) {
            if (kvm_take(k, v) && v->activity == ACTIVITY_RUNNING)
                interpret_stretch(k, v);
            return;
        }
    }
}

static void run(struct vcpu *v, uint64_t until)
{
    struct kvm *k = kvm_of(v);
    sigset_t urgent, before;
    sigemptyset(&urgent);
    sigaddset(&urgent, SIGURG);
    pthread_sigmask(SIG_BLOCK, &urgent, &before);
    set_signal_mask(k, &before);
    k->thread = gettid();
    v->instructions_partial |= until == UINT64_MAX;
    while (v->failed == NULL && prepare(k, v) && v->instructions < until) {
        if ((atomic_load(&v->pending) != 0 || v->activity != ACTIVITY_RUNNING) && !events_take_pending(v))
            break;
        kvm_slots_update(k, v);
        if (until != UINT64_MAX)
            interpret(k, v, until);
        else if (must_interpret(v) || !kvm_debug_update(k, v))
            interpret(k, v, v->instructions + EVENTS_RUN_MAX);
        else if (!kvm_give(k, v))
            interpret_stretch(k, v);
        else
            run_there(k, v);
    }
    drain_signal();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void stats(const struct vcpu *v, struct stats *stats)
{
    stats->kvm = kvm_of(v)->stats;
    stats->kvm.present = true;
}

const struct engine engine_kvm = {
    .name = "kvm",
    .nested = true,
    .summary = "guest code runs in the processor's guest mode, through /dev/kvm",
    .uncounted = true,
    .usable = usable,
    .preferred = kvm_is_fast,
    .limit = kvm_limit,
    .attach = attach,
    .detach = detach,
    .run = run,
    .stats = stats,
};
