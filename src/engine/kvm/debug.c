/* A debugger's points (cpu/points.h) in the processor's debug registers.
 *
 * While KVM_SET_GUEST_DEBUG has given the debug registers to us, the guest's have no effect. So when it has set any of its
 * own, when there are more points than four aligned pieces, or when reads alone are to be watched, which the registers
 * cannot tell from writes, the interpreter executes the guest as long as the points are there. So it does with any data
 * point where the kernel emulates guests itself: such a back end stops before instructions, and knows nothing of data. The guest's registers
 * are looked at whenever the state is here; a guest that begins to use them in guest mode gets its breakpoints from the next
 * pause on.
 *
 * Source: SDM vol. 3, 17.2; Documentation/virt/kvm/api.rst, 4.87. */
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/internal.h"

#define REGISTERS 4u
#define DR7_FIXED 0x400u
#define DR7_GE (1u << 9)
#define DR7_ENABLED 0xffu

struct registers {
    struct kvm_guest_debug debug;
    struct point points[REGISTERS];
    unsigned used;
};

static bool add(struct registers *r, const struct point *point, gva_t gva, unsigned size)
{
    static const uint8_t length[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
    if (r->used == REGISTERS)
        return false;
    unsigned n = r->used++, type = point->kind == POINT_EXECUTE ? 0 : point->kind == POINT_WRITE ? 1 : 3;
    r->points[n] = *point;
    r->debug.arch.debugreg[n] = gva;
    r->debug.arch.debugreg[7] |= 2ull << 2 * n | (uint64_t)(type | length[size] << 2) << (16 + 4 * n);
    return true;
}

/* A data point in aligned pieces. */
static bool add_data(struct kvm *k, struct registers *r, const struct point *point)
{
    if (!k->asked_for_data) {
        k->asked_for_data = true;
        k->watches_data = kvm_is_fast(NULL);
    }
    if (point->kind == POINT_READ || !k->watches_data)
        return false;
    for (uint64_t done = 0; done < point->size;) {
        gva_t gva = point->gva + done;
        unsigned size = 8;
        while (size > 1 && ((gva & (size - 1)) != 0 || size > point->size - done))
            size /= 2;
        if (!add(r, point, gva, size))
            return false;
        done += size;
    }
    return true;
}

bool kvm_debug_update(struct kvm *k, const struct vcpu *v)
{
    struct registers r = {.used = 0};
    if (v->points != NULL) {
        r.debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        r.debug.arch.debugreg[7] = DR7_FIXED | DR7_GE;
        if (v->dr[7] & DR7_ENABLED)
            return false;
        for (unsigned i = 0; i < v->points->execute_count; i++)
            if (!add(&r, &v->points->execute[i], v->points->execute[i].gva, 1))
                return false;
        for (unsigned i = 0; i < v->points->data_count; i++)
            if (!add_data(k, &r, &v->points->data[i]))
                return false;
    }
    if (memcmp(&r.debug, &k->debug, sizeof r.debug) == 0)
        return true;
    if (ioctl(k->cpu, KVM_SET_GUEST_DEBUG, &r.debug) != 0)
        return false;
    k->debug = r.debug;
    memcpy(k->debug_points, r.points, sizeof r.points);
    return true;
}

void kvm_debug_exit(struct kvm *k, struct vcpu *v)
{
    const struct kvm_debug_exit_arch *arch = &k->run->debug.arch;
    for (unsigned n = 0; n < REGISTERS; n++) {
        if (!(arch->dr6 >> n & 1) || !(k->debug.arch.debugreg[7] >> 2 * n & 3))
            continue;
        enum point_hit_kind kind = k->debug_points[n].kind == POINT_EXECUTE ? HIT_EXECUTE : HIT_DATA;
        v->hit = (struct point_hit){.kind = kind, .point = k->debug_points[n]};
    }
    if (v->hit.kind != HIT_NONE)
        vcpu_raise(v, PENDING_STOP);
}
