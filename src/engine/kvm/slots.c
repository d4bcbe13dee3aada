/* Guest memory in the kernel's slots.
 *
 * The memory map is a list of pieces (memory_next_piece()); each piece is a slot. When the map has changed the two
 * lists are compared: slots that are no piece any more go first, since slots may not overlap, then the new ones come.
 * Pieces that did not change keep their slots, and so what the kernel has mapped of them.
 *
 * Device ranges have no slot: an access there comes back as KVM_EXIT_MMIO. So does what finds no slot because there are
 * more pieces than slots; memory_mmio_read() knows RAM as well, and what cannot be executed there the interpreter does.
 */
#include "engine/kvm/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "memory/memory.h"

static bool slot_tell(struct kvm *k, unsigned n, uint64_t size)
{
    const struct kvm_slot *slot = &k->slots[n];
    struct kvm_userspace_memory_region region = {
        .slot = n,
        .flags = slot->rom && size != 0 ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = slot->base,
        .memory_size = size,
        .userspace_addr = (uintptr_t)slot->hva,
    };
    return ioctl(k->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

static struct kvm_slot *slot_find(struct kvm *k, const struct memory_piece *piece)
{
    for (unsigned n = 0; n < k->slots_max; n++) {
        struct kvm_slot *slot = &k->slots[n];
        if (slot->size == piece->size && slot->base == piece->base && slot->hva == piece->hva &&
            slot->rom == (piece->kind == PAGE_ROM))
            return slot;
    }
    return NULL;
}

static void slots_remove(struct kvm *k, struct vcpu *v)
{
    struct memory_piece piece;
    for (unsigned n = 0; n < k->slots_max; n++)
        k->slots[n].wanted = false;
    for (gpa_t from = 0; memory_next_piece(v->memory, from, &piece); from = piece.base + piece.size) {
        struct kvm_slot *slot = slot_find(k, &piece);
        if (slot != NULL)
            slot->wanted = true;
    }
    for (unsigned n = 0; n < k->slots_max; n++) {
        if (k->slots[n].size != 0 && !k->slots[n].wanted) {
            slot_tell(k, n, 0);
            k->slots[n].size = 0;
        }
    }
}

static void slot_add(struct kvm *k, struct vcpu *v, const struct memory_piece *piece)
{
    unsigned n = 0;
    while (n < k->slots_max && k->slots[n].size != 0)
        n++;
    if (n < k->slots_max) {
        k->slots[n] = (struct kvm_slot){.base = piece->base, .hva = piece->hva, .rom = piece->kind == PAGE_ROM};
        if (slot_tell(k, n, piece->size)) {
            k->slots[n].size = piece->size;
            return;
        }
    }
    log_warn(v->log, "kvm: no slot for the memory at 0x%llx (0x%llx bytes): %s; accesses to it are slow",
             (unsigned long long)piece->base, (unsigned long long)piece->size,
             n < k->slots_max ? strerror(errno) : "all are in use");
}

void kvm_slots_update(struct kvm *k, struct vcpu *v)
{
    struct memory_piece piece;
    uint64_t generation = memory_generation(v->memory);
    if (k->slots_known && k->generation == generation)
        return;
    slots_remove(k, v);
    for (gpa_t from = 0; memory_next_piece(v->memory, from, &piece); from = piece.base + piece.size)
        if (slot_find(k, &piece) == NULL)
            slot_add(k, v, &piece);
    k->generation = generation;
    k->slots_known = true;
}
