/* Hypercalls: see hypercall.h and docs/hypercalls.md.
 *
 * Number in RAX, arguments in RBX, RCX, RDX, RSI, result in RAX, only from CPL 0; the vendor's instruction and the
 * other one are the same here. Addresses are physical. Guest memory is reached by memory_read() and memory_write(), so an
 * address that is no RAM is an error and a page that holds code, or anything else that is watched, is treated as if the
 * guest had written.
 *
 * The interrupt flag in memory. RFLAGS.IF stays what it is; the record's `enabled` masks besides it, and only for
 * external interrupts. The monitor looks at it when it could deliver one, so a change costs the guest a store. An
 * interrupt that is held back stays pending, but `held` keeps the engines from asking again at each instruction; the
 * call INTERRUPTS clears it. HLT with an interrupt held back goes on waiting, as with RFLAGS.IF clear. If `enabled`
 * has become set without a call and something else makes the engine look, the interrupt is delivered: that is allowed,
 * the call then finds nothing to do.
 *
 * Page tables. MMU is a sequence of what the guest could do itself, without leaving it in between. A write of an entry is
 * a write to memory, no more: what is cached of it goes when the guest flushes, as on the processor.
 *
 * SDM vol. 3, 4.10.4 (what MOV CR3 and INVLPG invalidate); Linux Documentation/virt/kvm/x86/hypercalls.rst.
 */
#include "cpu/hypercall.h"

#include <string.h>

#include "cpu/ops.h"
#include "cpu/pvclock.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define KVM_HC_VAPIC_POLL_IRQ 1u
#define KVM_HC_CLOCK_PAIRING 9u
#define KVM_CLOCK_PAIRING_WALLCLOCK 0u
#define KVM_EOPNOTSUPP 95
#define CR3_NO_FLUSH (1ull << 63) /* with CR4.PCIDE */

_Static_assert(RING3_HC_COUNT <= 32, "a bit of EAX for each");

struct cpuid_result hypercall_cpuid(const struct vcpu *v, uint32_t leaf)
{
    struct cpuid_result r = {0};
    if (v->hypercall.hidden)
        return r;
    switch (leaf) {
    case RING3_CPUID_SIGNATURE:
        r.eax = RING3_CPUID_FEATURES;
        memcpy(&r.ebx, &RING3_SIGNATURE[0], 4);
        memcpy(&r.ecx, &RING3_SIGNATURE[4], 4);
        memcpy(&r.edx, &RING3_SIGNATURE[8], 4);
        break;
    case RING3_CPUID_FEATURES:
        r.eax = (1u << RING3_HC_COUNT) - 1;
        break;
    default:
        break;
    }
    return r;
}

void hypercall_reset(struct vcpu *v)
{
    v->hypercall.flags_used = false;
    v->hypercall.held = false;
}

/* ---- the interrupt flag ---- */

static bool flag_write(struct vcpu *v, size_t offset, uint32_t value)
{
    return v->hypercall.flags_used &&
           memory_write(v->memory, v->hypercall.flags_gpa + offset, &value, sizeof(value));
}

bool hypercall_holds_interrupt(struct vcpu *v)
{
    uint32_t enabled;
    v->hypercall.held = false;
    if (!v->hypercall.flags_used ||
        !memory_read(v->memory, v->hypercall.flags_gpa + offsetof(struct ring3_flags, enabled), &enabled,
                     sizeof(enabled)) ||
        enabled != 0)
        return false;
    v->hypercall.held = flag_write(v, offsetof(struct ring3_flags, waiting), 1);
    return v->hypercall.held; /* a record that cannot be written would be waited for in vain */
}

static int64_t flags_register(struct vcpu *v, uint64_t gpa)
{
    struct ring3_flags flags;
    if (gpa == RING3_FLAGS_NONE) {
        hypercall_reset(v);
        return 0;
    }
    if (gpa % sizeof(uint32_t) != 0)
        return -RING3_EINVAL;
    if (!memory_read(v->memory, gpa, &flags, sizeof(flags)) || memory_ram(v->memory, gpa, sizeof(flags)) == NULL)
        return -RING3_EFAULT;
    v->hypercall.held = false;
    v->hypercall.flags_gpa = gpa;
    v->hypercall.flags_used = true;
    return 0;
}

/* The engine looks at what is pending after each instruction that is carried out here: nothing more is to be done. */
static int64_t interrupts_take(struct vcpu *v)
{
    v->hypercall.held = false;
    flag_write(v, offsetof(struct ring3_flags, waiting), 0);
    return 0;
}

static int64_t idle(struct vcpu *v)
{
    interrupts_take(v);
    flag_write(v, offsetof(struct ring3_flags, enabled), 1);
    v->rflags_rest |= FLAG_IF;
    v->activity = ACTIVITY_HLT;
    return 0;
}

/* ---- page tables ---- */

static bool paging_is_pae(const struct vcpu *v)
{
    return (v->cr0 & CR0_PG) && !vcpu_long_mode(v) && (v->cr4 & CR4_PAE);
}

static bool cr3_load(struct vcpu *v, uint64_t cr3)
{
    bool keep = false;
    if (v->cr4 & CR4_PCIDE) {
        keep = cr3 & CR3_NO_FLUSH;
        cr3 &= ~CR3_NO_FLUSH;
    }
    if (cr3 >> (vcpu_long_mode(v) ? v->maxphyaddr : 32))
        return false;
    if (paging_is_pae(v) && !mmu_load_pdptes(v, cr3))
        return false;
    mmu_switch(v, cr3, keep);
    return true;
}

static int64_t mmu_op_run(struct vcpu *v, const struct ring3_mmu_op *op)
{
    unsigned size = v->cr4 & CR4_PAE ? 8 : 4; /* whether paging is on or will be */
    if (op->reserved != 0)
        return -RING3_EINVAL;
    switch (op->kind) {
    case RING3_MMU_WRITE:
        if (op->where % size != 0 || (size == 4 && op->value >> 32))
            return -RING3_EINVAL;
        return memory_ram(v->memory, op->where, size) != NULL && memory_write(v->memory, op->where, &op->value, size)
                   ? 0
                   : -RING3_EFAULT;
    case RING3_MMU_FLUSH:
        mmu_flush_non_global(v);
        return 0;
    case RING3_MMU_FLUSH_PAGE: /* as INVLPG: one that is not canonical is none */
        if (vcpu_long_mode(v) ? gva_canonical(op->where) : op->where >> 32 == 0)
            mmu_flush_page(v, op->where);
        return 0;
    case RING3_MMU_SWITCH:
        return cr3_load(v, op->value) ? 0 : -RING3_EINVAL;
    default:
        return -RING3_EINVAL;
    }
}

static int64_t mmu_run(struct vcpu *v, gpa_t gpa, uint64_t count)
{
    if (count > RING3_MMU_MAX)
        return -RING3_EINVAL;
    for (uint64_t done = 0; done < count; done++) {
        struct ring3_mmu_op op; /* read one by one: an operation may write to what follows */
        int64_t result = memory_read(v->memory, gpa + done * sizeof(op), &op, sizeof(op)) ? mmu_op_run(v, &op)
                                                                                           : -RING3_EFAULT;
        if (result != 0)
            return done > 0 ? (int64_t)done : result;
    }
    return (int64_t)count;
}

/* ---- the console ---- */

static int64_t console_write(struct vcpu *v, gpa_t gpa, uint64_t size)
{
    uint8_t bytes[RING3_CONSOLE_MAX];
    if (size > sizeof(bytes))
        return -RING3_EINVAL;
    if (!memory_read(v->memory, gpa, bytes, size))
        return -RING3_EFAULT;
    if (v->platform.console_write == NULL)
        return (int64_t)size;
    return (int64_t)v->platform.console_write(v->platform.opaque, bytes, size);
}

/* ---- the door ---- */

int64_t hypercall_run(struct vcpu *v, uint64_t number, uint64_t a0, uint64_t a1)
{
    if (v->cpl != 0)
        return -RING3_EPERM;
    switch (number) {
    case KVM_HC_VAPIC_POLL_IRQ:
        return 0; /* leaving the guest was the purpose */
    case KVM_HC_CLOCK_PAIRING:
        if (a1 != KVM_CLOCK_PAIRING_WALLCLOCK)
            return -KVM_EOPNOTSUPP;
        return pvclock_write_pairing(v, a0) ? 0 : -RING3_EFAULT;
    default:
        break;
    }
    if (v->hypercall.hidden)
        return -RING3_ENOSYS;
    switch (number) {
    case RING3_HC_FLAGS:
        return flags_register(v, a0);
    case RING3_HC_INTERRUPTS:
        return interrupts_take(v);
    case RING3_HC_IDLE:
        return idle(v);
    case RING3_HC_MMU:
        return mmu_run(v, a0, a1);
    case RING3_HC_CONSOLE:
        return console_write(v, a0, a1);
    default:
        return -RING3_ENOSYS;
    }
}

void op_hypercall(struct vcpu *v, const struct insn *in)
{
    unsigned size = v->code_mode == CODE_64 ? 8 : 4;
    uint64_t number = reg_read(v, RAX * 8, size), a0 = reg_read(v, RBX * 8, size);
    vcpu_exit(v, &(struct exit){.reason = EXIT_HYPERCALL, .address = number, .value = a0});
    int64_t result = hypercall_run(v, number, a0, reg_read(v, RCX * 8, size));
    reg_write(v, RAX * 8, size, (uint64_t)result);
}
