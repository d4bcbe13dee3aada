/* Exits of the hardware: what KVM_RUN returned for, carried out through the door.
 *
 * The reasons are the door's own where the hardware shows something that the door knows: ports, device memory, HLT,
 * MSRs. What the hardware does by itself (exceptions, control registers, CPUID, flushes, system calls) is not seen and
 * not counted.
 *
 * Completion. When KVM_RUN returns for a port, device memory or an MSR, the instruction is not finished: the kernel
 * finishes it with what was put into kvm_run when KVM_RUN is called again. kvm_complete() makes that happen without
 * running anything else, so that the state can be taken. An access in several pieces exits once more for each; they are
 * handled on the way.
 *
 * MSRs. The filter (kvm.c) lets only those pass that the kernel keeps; RDMSR and WRMSR of all others arrive here and
 * mean what cpu/msr.c says. When the kernel refuses a value of one that it keeps, that is #GP.
 *
 * What the kernel cannot execute (an instruction it should emulate and does not know, a state that the processor does
 * not accept) goes back to the engine's loop, which has the interpreter do it. So does a shutdown: the interpreter
 * finds the three faults that led there, for the post-mortem. AMD's processors do not keep the state of a processor
 * that has shut down, and nothing is known then but the fact. */
#include "engine/kvm/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "cpu/msr.h"
#include "memory/memory.h"

#define RESET_RIP 0xfff0u

/* ---- ports ---- */

static void port_exit(struct kvm *k, struct vcpu *v)
{
    const struct kvm_run *run = k->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned size = run->io.size, done;
    for (uint32_t i = 0; i < run->io.count; i += done, data += done * size) {
        struct exit exit = {.address = run->io.port, .size = (uint8_t)size};
        if (run->io.count - i > 1) {
            exit.string = data;
            exit.count = run->io.count - i;
        }
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            exit.reason = EXIT_IO_OUT;
            memcpy(&exit.value, data, size);
            vcpu_exit(v, &exit);
        } else {
            exit.reason = EXIT_IO_IN;
            vcpu_exit(v, &exit);
            if (exit.done == 0)
                memcpy(data, &exit.value, size);
        }
        done = exit.done != 0 ? exit.done : 1;
    }
}

/* ---- device memory ---- */

/* Devices see accesses of 1, 2, 4 or 8 bytes; the kernel may cut one at a page's end into any sizes. */
static unsigned mmio_piece(gpa_t gpa, unsigned size)
{
    for (unsigned piece = 8; piece > 1; piece /= 2)
        if (size >= piece && (size == piece || (gpa & (piece - 1)) == 0))
            return piece;
    return 1;
}

/* ROM that is written to, or memory that has found no slot: no device, and nothing for the door. */
static bool memory_exit(struct kvm *k, struct vcpu *v, unsigned size)
{
    struct kvm_run *run = k->run;
    enum page_kind kind = memory_page(v->memory, run->mmio.phys_addr).kind;
    if (kind != PAGE_RAM && kind != PAGE_ROM)
        return false;
    return run->mmio.is_write ? memory_write(v->memory, run->mmio.phys_addr, run->mmio.data, size)
                              : memory_read(v->memory, run->mmio.phys_addr, run->mmio.data, size);
}

static void mmio_exit(struct kvm *k, struct vcpu *v)
{
    struct kvm_run *run = k->run;
    unsigned size = run->mmio.len <= sizeof run->mmio.data ? run->mmio.len : sizeof run->mmio.data;
    if (memory_exit(k, v, size))
        return;
    for (unsigned done = 0, piece; done < size; done += piece) {
        struct exit exit = {.address = run->mmio.phys_addr + done};
        piece = mmio_piece(exit.address, size - done);
        exit.size = (uint8_t)piece;
        if (run->mmio.is_write) {
            exit.reason = EXIT_MMIO_WRITE;
            memcpy(&exit.value, run->mmio.data + done, piece);
            vcpu_exit(v, &exit);
        } else {
            exit.reason = EXIT_MMIO_READ;
            vcpu_exit(v, &exit);
            memcpy(run->mmio.data + done, &exit.value, piece);
        }
    }
}

/* ---- MSRs ---- */

#define MSR_APIC_BASE 0x1bu

static bool is_held(const struct kvm *k, uint32_t msr)
{
    for (unsigned n = 0; n < kvm_held_count; n++)
        if (kvm_held_msrs[n].number == msr)
            return k->held >> n & 1;
    return false;
}

/* The TSC, and what is told in its terms: IA32_TSC_ADJUST, the deadline, kvm-clock. */
static bool is_time(uint32_t msr)
{
    return msr == 0x10 || msr == 0x11 || msr == 0x12 || msr == 0x3b || msr == 0x6e0 || msr == 0x4b564d00 ||
           msr == 0x4b564d01;
}

static void msr_exit(struct kvm *k, struct vcpu *v, bool write)
{
    struct kvm_run *run = k->run;
    uint32_t msr = run->msr.index;
    uint64_t value = write ? run->msr.data : 0;
    bool ok = false;
    if (is_time(msr))
        kvm_tsc_measure(k, v);
    if (write) {
        vcpu_exit(v, &(struct exit){.reason = EXIT_MSR_WRITE, .address = msr, .value = value});
        ok = !is_held(k, msr) && msr_write(v, msr, value);
        if (ok && k->tsc_adjust != v->msr.tsc_adjust)
            kvm_tsc_set(k, v);
    } else {
        ok = !is_held(k, msr) && msr_read(v, msr, &value);
        vcpu_exit(v, &(struct exit){.reason = EXIT_MSR_READ, .address = msr, .value = value});
        run->msr.data = value;
    }
    run->msr.error = !ok;
    if (!ok)
        log_info(v->log, "%s 0x%x at 0x%llx: #GP", write ? "WRMSR" : "RDMSR", msr, (unsigned long long)v->rip);
    if (ok && write && msr == MSR_APIC_BASE) { /* CPUID's APIC bit follows what the kernel is told */
        struct kvm_sregs *sregs = &run->s.regs.sregs;
        if (v->platform.apic_msr_read(v->platform.opaque, msr, &value)) {
            sregs->apic_base = value & ~(1ull << 10);
            run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
        }
    }
}

/* ---- the rest ---- */

static void hlt_exit(struct vcpu *v)
{
    v->activity = ACTIVITY_HLT;
    vcpu_exit(v, &(struct exit){.reason = EXIT_HLT});
}

/* True if there is nothing to be found out: the processor has been reset already. */
static bool shutdown_exit(struct vcpu *v)
{
    if (v->rip != RESET_RIP || (v->cr0 & CR0_PE))
        return false;
    v->fault_chain_length = 0;
    v->shutdown_rip = v->rip;
    v->activity = ACTIVITY_SHUTDOWN;
    vcpu_exit(v, &(struct exit){.reason = EXIT_TRIPLE_FAULT, .vector = VECTOR_DF});
    return true;
}

bool kvm_exit_handle(struct kvm *k, struct vcpu *v)
{
    const struct kvm_run *run = k->run;
    k->incomplete = false;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        k->incomplete = true;
        port_exit(k, v);
        return true;
    case KVM_EXIT_MMIO:
        k->incomplete = true;
        mmio_exit(k, v);
        return true;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        k->incomplete = true;
        msr_exit(k, v, run->exit_reason == KVM_EXIT_X86_WRMSR);
        return true;
    case KVM_EXIT_HLT:
        hlt_exit(v);
        return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR:
        return true;
    case KVM_EXIT_DEBUG:
        kvm_debug_exit(k, v);
        return true;
    case KVM_EXIT_SHUTDOWN:
        return shutdown_exit(v);
    case KVM_EXIT_INTERNAL_ERROR:
        log_debug(v->log, "kvm: internal error %u at 0x%llx", run->internal.suberror, (unsigned long long)v->rip);
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        log_info(v->log, "kvm: the processor does not accept the state at 0x%llx: reason 0x%llx",
                 (unsigned long long)v->rip, (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        return false;
    default:
        log_info(v->log, "kvm: exit %u at 0x%llx", run->exit_reason, (unsigned long long)v->rip);
        return false;
    }
}

void kvm_complete(struct kvm *k, struct vcpu *v)
{
    while (k->incomplete) {
        k->incomplete = false;
        k->run->immediate_exit = 1;
        int result = ioctl(k->cpu, KVM_RUN, 0);
        bool again = result == 0;
        k->run->immediate_exit = 0;
        if (again) {
            kvm_synced(k, v);
            kvm_exit_handle(k, v); /* what nobody can execute is found again when it is next tried */
        }
    }
}
