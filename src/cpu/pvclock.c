/* The paravirtual clock, KVM's interface of version 2.
 *
 * The guest names a place in its memory by MSR_KVM_SYSTEM_TIME. There it finds, for one moment, the TSC and the guest
 * time in ns, and how to scale TSC ticks since then:
 *
 *     time = system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul / 2^32
 *
 * The TSC runs at 1 GHz on the very clock that is guest time, so the scale is exactly 1 (2^31 / 2^32, shifted left by
 * one) and one record is right until the guest moves its TSC. That is also why the TSC is stable
 * (PVCLOCK_TSC_STABLE_BIT): all vCPUs compute the same time. An engine under which the host's processor counts the TSC
 * may give it another frequency (model.tsc_khz); it stays as constant as the host's.
 *
 * Readers on other vCPUs look at `version`: odd means that the record is being written, changed means read again.
 * MSR_KVM_WALL_CLOCK is a command: each write makes one record of the wall clock at guest time 0, of the same protocol.
 *
 * The address is the guest's; a record that does not lie in RAM is not written, as KVM does it.
 */
#include "cpu/pvclock.h"

#include <stdatomic.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "memory/memory.h"

struct pvclock_vcpu_time_info {
    uint32_t version;
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};
_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "read by the guest");

struct pvclock_wall_clock {
    uint32_t version;
    uint32_t sec;
    uint32_t nsec;
};
_Static_assert(sizeof(struct pvclock_wall_clock) == 12, "read by the guest");

struct kvm_clock_pairing {
    int64_t sec;
    int64_t nsec;
    uint64_t tsc;
    uint32_t flags;
    uint32_t pad[9];
};
_Static_assert(sizeof(struct kvm_clock_pairing) == 64, "read by the guest");

#define PVCLOCK_TSC_STABLE_BIT 1u

/* ns for each tick as a binary fraction, shifted so that its highest bit is set. */
static void scale_fill(struct pvclock_vcpu_time_info *info, uint32_t tsc_khz)
{
    unsigned __int128 fraction = ((unsigned __int128)1000000 << 64) / tsc_khz; /* of 2^64 */
    int shift = 32;
    while (fraction >> 64 != 0) {
        fraction >>= 1;
        shift++;
    }
    while (!(fraction >> 63)) {
        fraction <<= 1;
        shift--;
    }
    info->tsc_to_system_mul = (uint32_t)(fraction >> 32);
    info->tsc_shift = (int8_t)(shift - 32);
}

/* Writes a record that begins with its version, by the protocol. `record` holds a version field to be filled in. */
static void record_write(struct vcpu *v, gpa_t gpa, void *record, uint64_t size)
{
    uint32_t version;
    if (!memory_read(v->memory, gpa, &version, sizeof(version)))
        return;
    version |= 1; /* the guest may have left it odd */
    if (!memory_write(v->memory, gpa, &version, sizeof(version)))
        return;
    atomic_thread_fence(memory_order_release);
    memory_write(v->memory, gpa + sizeof(version), (char *)record + sizeof(version), size - sizeof(version));
    atomic_thread_fence(memory_order_release);
    version++;
    memory_write(v->memory, gpa, &version, sizeof(version));
}

void pvclock_update(struct vcpu *v)
{
    if (!(v->msr.kvm_system_time & PVCLOCK_ENABLE))
        return;
    uint64_t now_ns = v->platform.now_ns(v->platform.opaque);
    struct pvclock_vcpu_time_info info = {
        .tsc_timestamp = vcpu_tsc_at(v, now_ns),
        .system_time = now_ns,
        .flags = cpu_has(v, CPU_KVM_CLOCK_STABLE) ? PVCLOCK_TSC_STABLE_BIT : 0,
    };
    scale_fill(&info, v->tsc_khz);
    record_write(v, v->msr.kvm_system_time & ~PVCLOCK_ENABLE, &info, sizeof(info));
}

void pvclock_write_wall_clock(struct vcpu *v, gpa_t gpa)
{
    uint64_t wall_ns = v->platform.wall_base_ns(v->platform.opaque);
    struct pvclock_wall_clock clock = {
        .sec = (uint32_t)(wall_ns / NS_PER_S),
        .nsec = (uint32_t)(wall_ns % NS_PER_S),
    };
    record_write(v, gpa, &clock, sizeof(clock));
}

bool pvclock_write_pairing(struct vcpu *v, gpa_t gpa)
{
    uint64_t now_ns = v->platform.now_ns(v->platform.opaque);
    uint64_t wall_ns = v->platform.wall_base_ns(v->platform.opaque) + now_ns;
    struct kvm_clock_pairing pairing = {
        .sec = (int64_t)(wall_ns / NS_PER_S),
        .nsec = (int64_t)(wall_ns % NS_PER_S),
        .tsc = vcpu_tsc_at(v, now_ns),
    };
    return memory_write(v->memory, gpa, &pairing, sizeof(pairing));
}
