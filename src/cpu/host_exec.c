/* Running stubs of vector and MMX instructions: what must be true before, where the memory operand is, what may fault.
 *
 * The order is the manual's: #UD and #NM for the unit, #MF for pending x87 errors (MMX), the segment checks of the
 * effective address, alignment, page faults, and only then the instruction. A load or store of plain RAM within a page
 * goes straight to the RAM; anything else (page crossing, devices, watched pages) goes through a bounce buffer with the
 * guest address' offset within 64 bytes. A store is probed before the stub runs, so that it cannot fault after it.
 *
 * Gathers and masked moves touch only the elements whose mask bit is set. A gather commits element by element, as the
 * processor does when it faults in the middle: destination and mask then say what remains to be done.
 *
 * Sources: SDM vol. 2, 2.4 to 2.9 (exception types), SDM vol. 3, chapter 13; APM vol. 2, chapter 11.
 */
#include "cpu/host_stub.h"

#include <signal.h>
#include <string.h>


/* ---- faults ---- */

void host_stub_fault(struct vcpu *v, uint32_t result)
{
    switch (result & ~STUB_FAULT) {
    case SIGFPE: fault_plain(v, v->cr4 & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD);
    case SIGILL: fault_ud(v);
    default: fault_gp(v, 0); /* SIGSEGV: alignment that C did not know of; SIGBUS: the host is out of memory */
    }
}

void fpu_check_vector(struct vcpu *v, bool vex)
{
    if (vex) {
        if (!vcpu_protected(v) || !(v->cr4 & CR4_OSXSAVE) || (~v->xcr0 & 6))
            fault_ud(v);
    } else if ((v->cr0 & CR0_EM) || !(v->cr4 & CR4_OSFXSR)) {
        fault_ud(v);
    }
    if (v->cr0 & CR0_TS)
        fault_nm(v);
}

static inline void check_sse(struct vcpu *v)
{
    if (unlikely((v->cr0 & (CR0_EM | CR0_TS)) | (~v->cr4 & CR4_OSFXSR)))
        fpu_check_vector(v, false);
}

static inline void check_avx(struct vcpu *v)
{
    if (unlikely((v->cr0 & CR0_TS) | (~v->cr0 & CR0_PE) | (v->rflags_rest & FLAG_VM) | (~v->cr4 & CR4_OSXSAVE) |
                 (~v->xcr0 & 6)))
        fpu_check_vector(v, true);
}

static inline void run(struct vcpu *v, const struct host_stub *stub, void *memory)
{
    uint32_t result = stub->code(memory, v);
    if (unlikely(result & STUB_FAULT))
        host_stub_fault(v, result);
}

/* ---- the memory operand ---- */

/* Where a copy of the operand goes: aligned as the guest has it, unless MXCSR.MM waives alignment. */
static uint8_t *bounce(struct vcpu *v, const struct insn *in, gva_t gva)
{
    const struct host_stub *stub = in->stub;
    if (!(gva & stub->align))
        return v->host_exec->bounce + (gva & 63);
    if (stub->align_strict || !(v->fpu.mxcsr & MXCSR_MM))
        fault_gp(v, 0);
    return v->host_exec->bounce;
}

/* The 80-bit format is aligned at 8 bytes; access.c checks the powers of two. */
static void check_alignment_80(struct vcpu *v, gva_t gva, unsigned size)
{
    if (size == 10 && (gva & 7) && v->cpl == 3 && (v->cr0 & CR0_AM) && (v->rflags_rest & FLAG_AC))
        fault_ac(v);
}

void *host_load_slow(struct vcpu *v, const struct insn *in, gva_t gva)
{
    uint8_t *copy = bounce(v, in, gva);
    check_alignment_80(v, gva, in->stub->memsize);
    access_read_bytes(v, gva, copy, in->stub->memsize, access_flags(v, in));
    return copy;
}

void host_store_slow(struct vcpu *v, const struct insn *in, struct host_store *store)
{
    store->memory = bounce(v, in, store->gva);
    store->bounced = true;
    check_alignment_80(v, store->gva, in->stub->memsize);
    access_probe(v, store->gva, in->stub->memsize, access_flags(v, in) | ACCESS_WRITE);
}

/* The write may be to code, even to this page: the record's contents are not looked at afterwards. */
const struct insn *host_store_end(struct vcpu *v, const struct insn *in, const struct host_store *store)
{
    uint64_t next = insn_rip(v, in, in->len);
    access_write_bytes(v, store->gva, store->memory, in->stub->memsize, access_flags(v, in));
    return leave_to(v, in, next);
}

/* ---- SSE and AVX ---- */

const struct insn *host_execute(struct vcpu *v, const struct insn *in)
{
    return in->stub->fn(v, in);
}

#define UNIT_FUNCTIONS(unit)                                                                                           \
    const struct insn *host_##unit##_register(struct vcpu *v, const struct insn *in)                                   \
    {                                                                                                                  \
        check_##unit(v);                                                                                               \
        run(v, in->stub, NULL);                                                                                        \
        return in + 1;                                                                                                 \
    }                                                                                                                  \
    const struct insn *host_##unit##_load(struct vcpu *v, const struct insn *in)                                       \
    {                                                                                                                  \
        check_##unit(v);                                                                                               \
        run(v, in->stub, host_load(v, in, in->stub));                                                                  \
        return in + 1;                                                                                                 \
    }                                                                                                                  \
    const struct insn *host_##unit##_store(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        check_##unit(v);                                                                                               \
        struct host_store store = host_store_begin(v, in, in->stub);                                                   \
        run(v, in->stub, store.memory);                                                                                \
        if (unlikely(store.bounced))                                                                                   \
            return host_store_end(v, in, &store);                                                                      \
        return in + 1;                                                                                                 \
    }
UNIT_FUNCTIONS(sse)
UNIT_FUNCTIONS(avx)

/* VEX.128 clears the upper halves; outside 64-bit mode there are eight registers. */
static const struct insn *zero_registers(struct vcpu *v, const struct insn *in, unsigned from)
{
    check_avx(v);
    for (unsigned n = 0; n < (in->mode == CODE_64 ? 16 : 8); n++)
        memset(v->fpu.ymm[n] + from, 0, 32 - from);
    return in + 1;
}

const struct insn *host_vzeroupper(struct vcpu *v, const struct insn *in)
{
    return zero_registers(v, in, 16);
}

const struct insn *host_vzeroall(struct vcpu *v, const struct insn *in)
{
    return zero_registers(v, in, 0);
}

/* ---- masked moves ---- */

/* Bit i: element i of `mask` has its top bit set. */
static uint32_t mask_bits(const uint8_t *mask, const struct host_stub *stub)
{
    uint32_t bits = 0;
    for (unsigned i = 0; i < stub->count; i++)
        bits |= (uint32_t)(mask[(i + 1) * stub->element - 1] >> 7) << i;
    return bits;
}

/* Linear address of element i of the memory operand. */
static gva_t element_linear(struct vcpu *v, const struct insn *in, uint64_t offset, unsigned size, bool write)
{
    uint64_t cut = in->addrsize == 8 ? offset : in->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
    return seg_linear(v, in->seg, cut, size, write);
}

const struct insn *host_avx_masked_load(struct vcpu *v, const struct insn *in)
{
    const struct host_stub *stub = in->stub;
    check_avx(v);
    uint32_t bits = mask_bits(v->fpu.ymm[stub->mask_reg], stub);
    uint64_t offset = ea_offset(v, in);
    uint8_t *copy = v->host_exec->bounce;
    memset(copy, 0, 32);
    for (unsigned i = 0; i < stub->count; i++)
        if (bits >> i & 1)
            access_read_bytes(v, element_linear(v, in, offset + i * stub->element, stub->element, false),
                              copy + i * stub->element, stub->element, access_flags(v, in));
    run(v, stub, copy);
    return in + 1;
}

static void run_mmx(struct vcpu *v, const struct host_stub *stub, void *memory);

/* Runs the stub on the bounce buffer, then writes the elements with a mask bit. All of them are probed first. */
static const struct insn *masked_store(struct vcpu *v, const struct insn *in, uint64_t offset, uint32_t bits, bool mmx)
{
    const struct host_stub *stub = in->stub;
    unsigned flags = access_flags(v, in), element = stub->element, count = stub->count;
    gva_t gva[32];
    uint8_t *copy = v->host_exec->bounce;
    for (unsigned i = 0; i < count; i++) {
        if (!(bits >> i & 1))
            continue;
        gva[i] = element_linear(v, in, offset + i * element, element, true);
        access_probe(v, gva[i], element, flags | ACCESS_WRITE);
    }
    if (mmx)
        run_mmx(v, stub, copy);
    else
        run(v, stub, copy);
    uint64_t next = insn_rip(v, in, in->len);
    for (unsigned i = 0; i < count; i++)
        if (bits >> i & 1)
            access_write_bytes(v, gva[i], copy + i * element, element, flags);
    return leave_to(v, in, next);
}

const struct insn *host_avx_masked_store(struct vcpu *v, const struct insn *in)
{
    const struct host_stub *stub = in->stub;
    check_avx(v);
    uint64_t offset = ea_offset(v, in);
    const struct tlb_entry *e = tlb_entry(v, offset);
    if (in->mode == CODE_64 && !(in->flags & INSN_EA_GENERAL) && tlb_hit(e->write_tag, offset, stub->memsize)) {
        run(v, stub, (void *)(offset + (uint64_t)e->addend));
        return in + 1;
    }
    return masked_store(v, in, offset, mask_bits(v->fpu.ymm[stub->mask_reg], stub), false);
}

/* MASKMOVDQU and MASKMOVQ store at RDI, which their encoding does not name. */
const struct insn *host_sse_maskmov(struct vcpu *v, const struct insn *in)
{
    check_sse(v);
    return masked_store(v, in, v->regs[RDI], mask_bits(v->fpu.ymm[in->stub->mask_reg], in->stub), false);
}

const struct insn *host_avx_maskmov(struct vcpu *v, const struct insn *in)
{
    check_avx(v);
    return masked_store(v, in, v->regs[RDI], mask_bits(v->fpu.ymm[in->stub->mask_reg], in->stub), false);
}

/* ---- gathers ---- */

const struct insn *host_gather(struct vcpu *v, const struct insn *in)
{
    const struct host_stub *stub = in->stub;
    check_avx(v);
    uint8_t *dest = v->fpu.ymm[stub->dest_reg], *mask = v->fpu.ymm[stub->mask_reg];
    const uint8_t *indices = v->fpu.ymm[stub->index_reg];
    unsigned size = stub->element, bytes = stub->count * size;
    /* Every mask element becomes all ones or all zeros first: that is what a fault leaves. */
    for (unsigned i = 0; i < stub->count; i++)
        memset(mask + i * size, mask[(i + 1) * size - 1] & 0x80 ? 0xff : 0, size);
    for (unsigned i = 0; i < stub->count; i++) {
        if (mask[i * size] == 0)
            continue;
        int64_t index;
        if (stub->index_element == 4)
            index = ((const int32_t *)(const void *)indices)[i];
        else
            index = ((const int64_t *)(const void *)indices)[i];
        uint64_t offset = v->regs[in->base] + (uint64_t)in->disp + (uint64_t)index * stub->key.scale;
        uint8_t value[8];
        access_read_bytes(v, element_linear(v, in, offset, size, false), value, size, access_flags(v, in));
        memcpy(dest + i * size, value, size);
        memset(mask + i * size, 0, size);
    }
    memset(dest + bytes, 0, 32 - bytes);
    memset(mask, 0, 32);
    return in + 1;
}

/* ---- MMX ---- */

/* Turns the register file of the image so that MMn is at place n: the register distance from TOP becomes the number. */
static void turn(struct x87_image *x87, unsigned top)
{
    struct x87_register st[8];
    memcpy(st, x87->st, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        x87->st[(top + i) & 7] = st[i];
    x87->fsw &= (uint16_t)~X87_FSW_TOP;
}

static bool check_mmx(struct vcpu *v, const struct host_stub *stub)
{
    if (unlikely(v->cr0 & (CR0_EM | CR0_TS) || (stub->xmm && !(v->cr4 & CR4_OSFXSR)))) {
        if ((v->cr0 & CR0_EM) || (stub->xmm && !(v->cr4 & CR4_OSFXSR)))
            fault_ud(v);
        fault_nm(v);
    }
    return likely(!(fpu_x87(&v->fpu)->fsw & X87_FSW_ES)) || fpu_error_check(v);
}

/* Runs the stub as MMX instructions do: TOP is 0 and all registers valid afterwards, even if the instruction itself is
 * stopped by #XM. */
static void run_mmx(struct vcpu *v, const struct host_stub *stub, void *memory)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    unsigned top = (x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT;
    if (unlikely(top != 0))
        turn(x87, top);
    x87->ftw = 0xff;
    run(v, stub, memory);
}

/* The interrupt that FERR# asks for comes before this instruction is tried again. */
static const struct insn *wait_for_ferr(struct vcpu *v, const struct insn *in)
{
    return leave_to(v, in, insn_rip(v, in, 0));
}

const struct insn *host_mmx_register(struct vcpu *v, const struct insn *in)
{
    if (!check_mmx(v, in->stub))
        return wait_for_ferr(v, in);
    run_mmx(v, in->stub, NULL);
    return in + 1;
}

const struct insn *host_mmx_load(struct vcpu *v, const struct insn *in)
{
    if (!check_mmx(v, in->stub))
        return wait_for_ferr(v, in);
    run_mmx(v, in->stub, host_load(v, in, in->stub));
    return in + 1;
}

const struct insn *host_mmx_store(struct vcpu *v, const struct insn *in)
{
    if (!check_mmx(v, in->stub))
        return wait_for_ferr(v, in);
    struct host_store store = host_store_begin(v, in, in->stub);
    run_mmx(v, in->stub, store.memory);
    if (unlikely(store.bounced))
        return host_store_end(v, in, &store);
    return in + 1;
}

const struct insn *host_mmx_maskmov(struct vcpu *v, const struct insn *in)
{
    if (!check_mmx(v, in->stub))
        return wait_for_ferr(v, in);
    const struct x87_image *x87 = fpu_x87(&v->fpu);
    unsigned place = in->stub->mask_reg - ((x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT);
    uint32_t bits = mask_bits((const uint8_t *)&x87->st[place & 7], in->stub);
    return masked_store(v, in, v->regs[RDI], bits, true);
}

/* All registers become empty; their contents stay. */
const struct insn *host_emms(struct vcpu *v, const struct insn *in)
{
    if (!check_mmx(v, in->stub))
        return wait_for_ferr(v, in);
    struct x87_image *x87 = fpu_x87(&v->fpu);
    turn(x87, (x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT);
    x87->ftw = 0;
    return in + 1;
}
