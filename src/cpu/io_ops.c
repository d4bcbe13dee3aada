/* IN, OUT and their string forms.
 *
 * A port access needs permission where CPL > IOPL and in virtual-8086 mode: the bitmap in the TSS. Then it goes through
 * the door, which carries it out.
 *
 * REP INS and REP OUTS are restartable: each element is a whole instruction's worth (permission, memory, port, then RSI
 * or RDI and RCX), so a fault in the middle leaves registers that say how far it got. A run of elements is done at
 * once, and cut short for whatever has to be looked at between elements: events, single stepping, breakpoints. Then
 * `next_rip` is the instruction itself. INS makes sure that memory can be written before it reads the port, since
 * reading a port cannot be undone.
 *
 * I/O breakpoints (CR4.DE, DR7.R/W = 10b) are traps after the access.
 *
 * SDM vol. 1, chapter 19; vol. 2, IN, OUT, INS, OUTS, REP; vol. 3, 17.2.4.
 */
#include "cpu/ops.h"
#include "cpu/segment.h"
#include "mmu/access.h"

#define OPCODE_WIDE 0x01u /* E4-E7, EC-EF, 6C-6F: not a byte */
#define OPCODE_DX 0x08u   /* E4-E7, EC-EF: the port is in DX */
#define REP_BATCH 256u    /* elements between two looks at the clock */
#define DR7_IO 2u

/* Element size: 64-bit operands do not exist here, REX.W is ignored. */
static unsigned port_size(const struct insn *in)
{
    return !(in->opcode & OPCODE_WIDE) ? 1 : in->opsize == 2 ? 2 : 4;
}

static uint16_t port_number(const struct vcpu *v, const struct insn *in)
{
    return in->opcode & OPCODE_DX ? (uint16_t)v->regs[RDX] : (uint8_t)in->imm;
}

static void port_permission(struct vcpu *v, uint16_t port, unsigned size)
{
    if ((v->cr0 & CR0_PE) && (v->cpl > vcpu_iopl(v) || vcpu_v86(v)))
        io_permission_check(v, port, size);
}

static void port_breakpoints(struct vcpu *v, uint16_t port, unsigned size)
{
    static const uint8_t length[4] = {1, 2, 8, 4};
    uint64_t dr7 = v->dr[7];
    if (likely(!(dr7 & 0xff)) || !(v->cr4 & CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++) {
        if (!(dr7 >> 2 * i & 3) || (dr7 >> (16 + 4 * i) & 3) != DR7_IO)
            continue;
        unsigned n = length[dr7 >> (18 + 4 * i) & 3];
        uint64_t first = v->dr[i] & ~(uint64_t)(n - 1);
        if (port < first + n && first < (uint64_t)port + size)
            v->dr6_pending |= 1u << i;
    }
}

static uint64_t port_in(struct vcpu *v, uint16_t port, unsigned size)
{
    struct exit exit = {.reason = EXIT_IO_IN, .address = port, .size = (uint8_t)size};
    vcpu_exit(v, &exit);
    port_breakpoints(v, port, size);
    return exit.value;
}

static void port_out(struct vcpu *v, uint16_t port, unsigned size, uint64_t value)
{
    vcpu_exit(v, &(struct exit){.reason = EXIT_IO_OUT, .address = port, .size = (uint8_t)size, .value = value});
    port_breakpoints(v, port, size);
}

void op_in(struct vcpu *v, const struct insn *in)
{
    uint16_t port = port_number(v, in);
    unsigned size = port_size(in);
    port_permission(v, port, size);
    reg_write(v, RAX * 8, size, port_in(v, port, size));
}

void op_out(struct vcpu *v, const struct insn *in)
{
    uint16_t port = port_number(v, in);
    unsigned size = port_size(in);
    port_permission(v, port, size);
    port_out(v, port, size, reg_read(v, RAX * 8, size));
}

/* ---- string forms ---- */
static void index_advance(struct vcpu *v, const struct insn *in, enum gpr index, unsigned size)
{
    uint64_t step = v->rflags_rest & FLAG_DF ? -(uint64_t)size : size;
    reg_write(v, index * 8, in->addrsize, v->regs[index] + step);
}

static void ins_element(struct vcpu *v, const struct insn *in)
{
    uint16_t port = (uint16_t)v->regs[RDX];
    unsigned size = port_size(in);
    port_permission(v, port, size);
    gva_t gva = seg_linear(v, SEG_ES, reg_read(v, RDI * 8, in->addrsize), size, true);
    access_probe(v, gva, size, ACCESS_WRITE | access_current(v));
    uint64_t value = port_in(v, port, size);
    access_write(v, gva, size, value, access_current(v));
    index_advance(v, in, RDI, size);
}

static void outs_element(struct vcpu *v, const struct insn *in)
{
    uint16_t port = (uint16_t)v->regs[RDX];
    unsigned size = port_size(in), flags = access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
    port_permission(v, port, size);
    gva_t gva = seg_linear(v, in->seg, reg_read(v, RSI * 8, in->addrsize), size, false);
    port_out(v, port, size, access_read(v, gva, size, flags));
    index_advance(v, in, RSI, size);
}

static bool must_pause(const struct vcpu *v)
{
    uint32_t pending = atomic_load_explicit(&v->pending, memory_order_relaxed);
    if (!(v->rflags_rest & FLAG_IF))
        pending &= ~PENDING_INTR;
    return v->stepping || v->dr6_pending != 0 || pending != 0;
}

static void repeat(struct vcpu *v, const struct insn *in, void (*element)(struct vcpu *, const struct insn *))
{
    if (!(in->flags & (INSN_REP | INSN_REPNE))) {
        element(v, in);
        return;
    }
    for (unsigned n = 0; n < REP_BATCH; n++) {
        uint64_t left = reg_read(v, RCX * 8, in->addrsize);
        if (left == 0)
            return;
        element(v, in);
        reg_write(v, RCX * 8, in->addrsize, left - 1);
        if (left == 1)
            return;
        if (must_pause(v))
            break;
    }
    v->next_rip = v->rip;
}

void op_ins(struct vcpu *v, const struct insn *in)
{
    repeat(v, in, ins_element);
}

void op_outs(struct vcpu *v, const struct insn *in)
{
    repeat(v, in, outs_element);
}
