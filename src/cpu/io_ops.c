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
 * Elements that lie in one page, upwards, go through the door together where nothing can come between them: no debug
 * register is in use, no segment ends there, the page is memory, the code may use all ports. The device says how many
 * it takes; the rest is done in the next round.
 *
 * I/O breakpoints (CR4.DE, DR7.R/W = 10b) are traps after the access.
 *
 * SDM vol. 1, chapter 19; vol. 2, IN, OUT, INS, OUTS, REP; vol. 3, 17.2.4.
 */
#include <string.h>

#include "cpu/ops.h"
#include "cpu/segment.h"
#include "memory/memory.h"
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

/* ---- several elements at once ---- */

struct string {
    gva_t gva;
    unsigned count; /* elements; less than two: one by one */
    unsigned flags; /* of the memory access */
};

/* What of the `left` elements at `offset` can go at once. Raises what the first element raises. */
static struct string string_find(struct vcpu *v, const struct insn *in, enum seg seg, uint64_t offset, uint64_t left,
                                 bool write)
{
    unsigned size = port_size(in);
    struct string string = {.flags = access_current(v) | (seg == SEG_SS ? ACCESS_STACK : 0)};
    bool checked = (v->cr0 & CR0_PE) && (v->cpl == 3 || v->cpl > vcpu_iopl(v)); /* ports, or alignment */
    bool watched = (v->dr[7] & 0xff) != 0 || v->stepping || v->rehearsal != NULL;
    if (left < 2 || checked || watched || v->rflags_rest & FLAG_DF)
        return string;
    string.gva = seg_linear(v, seg, offset, size, write);
    access_probe(v, string.gva, size, string.flags | (write ? ACCESS_WRITE : 0));
    gpa_t gpa = mmu_translate(v, string.gva, string.flags | (write ? ACCESS_WRITE : 0));
    enum page_kind kind = memory_page(v->memory, gpa).kind;
    if (kind != PAGE_RAM && (write || kind != PAGE_ROM))
        return string; /* a device wants to see elements */
    uint64_t count = (PAGE_SIZE - (string.gva & PAGE_OFFSET_MASK)) / size;
    uint64_t wrap = in->addrsize == 2 ? 0x10000 : 0x100000000ull; /* nobody gets there with 64 bits */
    if (in->addrsize != 8 && count > (wrap - offset) / size)
        count = (wrap - offset) / size;
    if (count > left)
        count = left;
    if (count >= 2 && seg_holds(v, seg, offset, (unsigned)count * size))
        string.count = (unsigned)count;
    return string;
}

/* These two return how many elements they did; 0: one by one. */
static unsigned ins_string(struct vcpu *v, const struct insn *in, uint64_t left)
{
    uint8_t bytes[PAGE_SIZE];
    uint16_t port = (uint16_t)v->regs[RDX];
    unsigned size = port_size(in);
    struct string string = string_find(v, in, SEG_ES, reg_read(v, RDI * 8, in->addrsize), left, true);
    if (string.count < 2)
        return 0;
    struct exit exit = {.reason = EXIT_IO_IN, .address = port, .size = (uint8_t)size, .string = bytes, .count = string.count};
    vcpu_exit(v, &exit);
    if (exit.done == 0) {
        memcpy(bytes, &exit.value, size);
        exit.done = 1;
    }
    access_write_bytes(v, string.gva, bytes, exit.done * size, string.flags);
    reg_write(v, RDI * 8, in->addrsize, v->regs[RDI] + (uint64_t)exit.done * size);
    return exit.done;
}

static unsigned outs_string(struct vcpu *v, const struct insn *in, uint64_t left)
{
    uint8_t bytes[PAGE_SIZE];
    uint16_t port = (uint16_t)v->regs[RDX];
    unsigned size = port_size(in);
    struct string string = string_find(v, in, in->seg, reg_read(v, RSI * 8, in->addrsize), left, false);
    if (string.count < 2)
        return 0;
    access_read_bytes(v, string.gva, bytes, string.count * size, string.flags);
    struct exit exit = {.reason = EXIT_IO_OUT, .address = port, .size = (uint8_t)size, .string = bytes, .count = string.count};
    memcpy(&exit.value, bytes, size);
    vcpu_exit(v, &exit);
    if (exit.done == 0)
        exit.done = 1;
    reg_write(v, RSI * 8, in->addrsize, v->regs[RSI] + (uint64_t)exit.done * size);
    return exit.done;
}

static void repeat(struct vcpu *v, const struct insn *in, void (*element)(struct vcpu *, const struct insn *),
                   unsigned (*string)(struct vcpu *, const struct insn *, uint64_t left))
{
    if (!(in->flags & (INSN_REP | INSN_REPNE))) {
        element(v, in);
        return;
    }
    for (unsigned n = 0; n < REP_BATCH; n++) {
        uint64_t left = reg_read(v, RCX * 8, in->addrsize);
        if (left == 0)
            return;
        uint64_t done = string != NULL ? string(v, in, left) : 0;
        if (done < 2)
            string = NULL; /* this device takes them one by one */
        if (done == 0) {
            element(v, in);
            done = 1;
        }
        reg_write(v, RCX * 8, in->addrsize, left - done);
        if (left == done)
            return;
        if (must_pause(v))
            break;
    }
    v->next_rip = v->rip;
}

void op_ins(struct vcpu *v, const struct insn *in)
{
    repeat(v, in, ins_element, ins_string);
}

void op_outs(struct vcpu *v, const struct insn *in)
{
    repeat(v, in, outs_element, outs_string);
}
