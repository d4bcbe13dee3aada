/* Running x87 stubs, and the x87 instructions that only move control state.
 *
 * Between instructions the x87 state is the image v->fpu.x87 (fpu.h), registers ordered by distance from TOP. A heavy
 * stub loads and saves all of it. A light stub (host_stub.c) computes with the one or two registers it names; what
 * remains of the instruction's effect is done here: moving the registers when TOP moves, tags, the condition codes and
 * exception flags that the host's status word shows. It is taken when the registers it reads are not empty and the one
 * it pushes to is, so that there is no stack fault. It always runs with every exception masked. If the guest has some
 * unmasked and one of these occurs, the state from before is put back and the heavy stub repeats the instruction.
 * Heavy from the start are then stores, whose effect cannot be put back, and everything when underflow is unmasked: it
 * is detected differently then (tiny is enough, it need not be inexact; SDM vol. 1, 4.9.1.5).
 *
 * Exception flags are sticky and clearing them costs more than the computation. So they are left in the host's status
 * word: the guest's new flags are its old ones and the host's, which is right if the host had no flag before that the
 * guest does not have. If it had, FNCLEX comes first. What the host's status word contains belongs to the thread, like
 * the register itself; hence the thread-local variable, an upper bound of it.
 *
 * FIP, FDP, FOP, FCS and FDS are those of the guest: kept here for every non-control instruction, as processors do that
 * save them whether an exception is pending or not.
 *
 * A store with an unmasked exception other than the precision exception stores nothing; the status word tells so when
 * the operand went through the bounce buffer.
 *
 * Sources: SDM vol. 1, chapter 8; SDM vol. 2, each instruction; APM vol. 1, chapter 6.
 */
#include "cpu/host_stub.h"

#include <string.h>

#define X87_UNDERFLOW (1u << 4)
#define X87_PRECISION (1u << 5)

/* Exception flags (and SF) that may be set in this thread's x87 status word. */
static _Thread_local uint8_t host_flags;

/* ---- pending errors ---- */

bool fpu_error_check(struct vcpu *v)
{
    if (!(fpu_x87(&v->fpu)->fsw & X87_FSW_ES))
        return true;
    if (v->cr0 & CR0_NE)
        fault_plain(v, VECTOR_MF);
    return v->platform.ferr == NULL || v->platform.ferr(v->platform.opaque, true);
}

void fpu_error_cleared(struct vcpu *v)
{
    if (!(v->cr0 & CR0_NE) && v->platform.ferr != NULL && !(fpu_x87(&v->fpu)->fsw & X87_FSW_ES))
        v->platform.ferr(v->platform.opaque, false);
}

void fpu_x87_summarize(struct vcpu *v)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    x87->fsw &= (uint16_t) ~(X87_FSW_ES | X87_FSW_B);
    if (x87->fsw & ~x87->fcw & X87_EXCEPTIONS)
        x87->fsw |= X87_FSW_ES | X87_FSW_B;
}

/* #NM of everything but FWAIT. */
static inline void check_available(struct vcpu *v)
{
    if (unlikely(v->cr0 & (CR0_EM | CR0_TS)))
        fault_nm(v);
}

/* False: the instruction has to wait for the interrupt that FERR# raises. */
static inline bool check_waiting(struct vcpu *v)
{
    check_available(v);
    return likely(!(fpu_x87(&v->fpu)->fsw & X87_FSW_ES)) || fpu_error_check(v);
}

static const struct insn *wait_for_ferr(struct vcpu *v, const struct insn *in)
{
    return leave_to(v, in, insn_rip(v, in, 0));
}

/* ---- light ---- */

static inline void move_register(struct x87_register *to, const struct x87_register *from)
{
    to->mantissa = from->mantissa; /* in pieces of the sizes that FSTP stores, so that the loads need not wait */
    to->exponent = from->exponent;
}

/* ST(i) becomes ST(i + 1); ST(7) comes round to ST(0). */
static void registers_down(struct x87_image *x87)
{
    struct x87_register last = x87->st[7];
#pragma GCC unroll 7
    for (unsigned i = 7; i > 0; i--)
        move_register(&x87->st[i], &x87->st[i - 1]);
    move_register(&x87->st[0], &last);
}

/* ST(i) becomes ST(i - 1); ST(0) comes round to ST(7). */
static void registers_up(struct x87_image *x87)
{
    struct x87_register first = x87->st[0];
#pragma GCC unroll 7
    for (unsigned i = 0; i < 7; i++)
        move_register(&x87->st[i], &x87->st[i + 1]);
    move_register(&x87->st[7], &first);
}

static inline uint8_t rotate_right8(unsigned value, unsigned n)
{
    return (uint8_t)((value | value << 8) >> n);
}

static inline uint8_t rotate_left8(unsigned value, unsigned n)
{
    return (uint8_t)((value | value << 8) << n >> 8);
}

static bool light_possible(const struct x87_image *x87, const struct host_stub *stub)
{
    if (stub->light == NULL || (x87->fsw & X87_FSW_ES) || !(x87->fcw & X87_UNDERFLOW) ||
        (stub->stores && (~x87->fcw & X87_EXCEPTIONS)))
        return false;
    unsigned valid = rotate_right8(x87->ftw, (x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT);
    return (valid & (stub->need | (stub->grow > 0 ? 0x80u : 0))) == stub->need;
}

/* Returns 0, or what the stub returned when the host faulted; then nothing has changed. */
static uint32_t run_light(struct vcpu *v, struct x87_image *x87, const struct host_stub *stub, void *memory)
{
    unsigned fsw = x87->fsw, top = (fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT;
    if (unlikely(host_flags & ~fsw))
        __asm__ volatile("fnclex");
    if (stub->grow > 0)
        registers_down(x87);
    uint32_t result = stub->light(memory, v);
    if (unlikely(result & STUB_FAULT)) {
        if (stub->grow > 0)
            registers_up(x87);
        return result;
    }
    host_flags = result & (X87_EXCEPTIONS | X87_FSW_SF);
    fsw = (fsw & ~(uint32_t)(stub->cc | X87_FSW_TOP)) | (result & (stub->cc | X87_EXCEPTIONS));
    unsigned valid = x87->ftw | rotate_left8(stub->sets, top);
    if (stub->grow > 0) {
        top = (top - 1) & 7;
        valid |= 1u << top;
    }
    for (int pops = -stub->grow; pops > 0; pops--) {
        registers_up(x87);
        valid &= ~(1u << top);
        top = (top + 1) & 7;
    }
    x87->ftw = (uint8_t)valid;
    x87->fsw = (uint16_t)(fsw | top << X87_FSW_TOP_SHIFT);
    return 0;
}

/* With unmasked exceptions: false when one of them has occurred; then the state is what it was. */
static bool try_light(struct vcpu *v, struct x87_image *x87, const struct host_stub *stub, void *memory)
{
    struct x87_register st[8];
    for (unsigned i = 0; i < 8; i++)
        move_register(&st[i], &x87->st[i]);
    uint16_t fcw = x87->fcw, fsw = x87->fsw, status = v->status;
    uint8_t ftw = x87->ftw;
    x87->fcw = fcw | X87_EXCEPTIONS;
    uint32_t result = run_light(v, x87, stub, memory);
    x87->fcw = fcw;
    if (unlikely(result != 0))
        host_stub_fault(v, result);
    if (!(x87->fsw & ~fcw & X87_EXCEPTIONS))
        return true;
    for (unsigned i = 0; i < 8; i++)
        move_register(&x87->st[i], &st[i]);
    x87->fsw = fsw;
    x87->ftw = ftw;
    v->status = status;
    return false;
}

/* ---- computing instructions ---- */

/* Runs the stub; the memory operand is at `memory`, which for the guest is at effective address `ea`. */
static inline void run_x87(struct vcpu *v, const struct insn *in, void *memory)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    const struct host_stub *stub = in->stub;
    uint64_t fdp = x87->fdp;
    bool light = light_possible(x87, stub);
    if (likely(light) && unlikely(~x87->fcw & X87_EXCEPTIONS)) {
        light = try_light(v, x87, stub, memory);
    } else if (likely(light)) {
        uint32_t result = run_light(v, x87, stub, memory);
        if (unlikely(result != 0))
            host_stub_fault(v, result);
    }
    if (!light) {
        uint32_t result = stub->code(memory, v);
        if (unlikely(result & STUB_FAULT))
            host_stub_fault(v, result);
        host_flags = x87->fsw & X87_FSW_ES ? 0 : x87->fsw & (X87_EXCEPTIONS | X87_FSW_SF);
    }
    bool selectors = v->host_exec->keeps_selectors;
    x87->fip = insn_rip(v, in, 0);
    x87->fop = (uint16_t)((in->opcode & 7) << 8 | in->modrm);
    v->fpu.x87_cs = selectors ? v->seg[SEG_CS].selector : 0;
    if (memory != NULL) {
        fdp = ea_offset(v, in);
        v->fpu.x87_ds = selectors ? v->seg[in->seg].selector : 0;
    }
    x87->fdp = fdp;
}

const struct insn *host_x87_register(struct vcpu *v, const struct insn *in)
{
    if (!check_waiting(v))
        return wait_for_ferr(v, in);
    run_x87(v, in, NULL);
    return in + 1;
}

const struct insn *host_x87_load(struct vcpu *v, const struct insn *in)
{
    if (!check_waiting(v))
        return wait_for_ferr(v, in);
    run_x87(v, in, host_load(v, in, in->stub));
    return in + 1;
}

const struct insn *host_x87_store(struct vcpu *v, const struct insn *in)
{
    if (!check_waiting(v))
        return wait_for_ferr(v, in);
    struct host_store store = host_store_begin(v, in, in->stub);
    run_x87(v, in, store.memory);
    if (likely(!store.bounced))
        return in + 1;
    const struct x87_image *x87 = fpu_x87(&v->fpu);
    if (x87->fsw & ~x87->fcw & (X87_EXCEPTIONS & ~X87_PRECISION))
        return in + 1;
    return host_store_end(v, in, &store);
}

/* ---- control instructions: no operand is computed with, no pointer changes ---- */

/* 8087 and 287 control instructions that have become no-operations. */
const struct insn *host_x87_nop(struct vcpu *v, const struct insn *in)
{
    check_available(v);
    return in + 1;
}

const struct insn *host_fwait(struct vcpu *v, const struct insn *in)
{
    if ((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        fault_nm(v);
    if (!fpu_error_check(v))
        return wait_for_ferr(v, in);
    return in + 1;
}

void fpu_x87_init(struct vcpu *v)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    unsigned top = (x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT;
    for (; top > 0; top--)
        registers_down(x87); /* TOP becomes 0, the physical registers stay */
    x87->fcw = X87_FCW_INIT;
    x87->fsw = 0;
    x87->ftw = 0;
    x87->fop = 0;
    x87->fip = x87->fdp = 0;
    v->fpu.x87_cs = v->fpu.x87_ds = 0;
}

const struct insn *host_fninit(struct vcpu *v, const struct insn *in)
{
    check_available(v);
    fpu_x87_init(v);
    fpu_error_cleared(v);
    return in + 1;
}

const struct insn *host_fnclex(struct vcpu *v, const struct insn *in)
{
    check_available(v);
    fpu_x87(&v->fpu)->fsw &= (uint16_t) ~(X87_EXCEPTIONS | X87_FSW_SF | X87_FSW_ES | X87_FSW_B);
    fpu_error_cleared(v);
    return in + 1;
}

const struct insn *host_fldcw(struct vcpu *v, const struct insn *in)
{
    if (!check_waiting(v))
        return wait_for_ferr(v, in);
    uint16_t fcw = mem_read16(v, ea_linear(v, in, 2, false));
    fpu_x87(&v->fpu)->fcw = (fcw & X87_FCW_VALID) | X87_FCW_ONE;
    fpu_x87_summarize(v);
    return in + 1;
}

const struct insn *host_fnstcw_memory(struct vcpu *v, const struct insn *in)
{
    check_available(v);
    mem_write16(v, ea_linear(v, in, 2, true), fpu_x87(&v->fpu)->fcw);
    return in + 1;
}

const struct insn *host_fnstsw_memory(struct vcpu *v, const struct insn *in)
{
    check_available(v);
    mem_write16(v, ea_linear(v, in, 2, true), fpu_x87(&v->fpu)->fsw);
    return in + 1;
}

const struct insn *host_fnstsw_ax(struct vcpu *v, const struct insn *in)
{
    check_available(v);
    REG_SET(v, RAX * 8, uint16_t, fpu_x87(&v->fpu)->fsw);
    return in + 1;
}
