/* Data movement: MOV and its relatives, exchange, the stack, sign extension. */
#include "cpu/fast.h"
#include "cpu/ops.h"

pick_fn pick_mov, pick_movzx, pick_movsx, pick_movsxd, pick_lea, pick_xchg, pick_movbe, pick_bswap, pick_push, pick_pop,
    pick_pusha, pick_popa, pick_enter, pick_leave, pick_cbw, pick_cwde, pick_cdqe, pick_cwd, pick_cdq, pick_cqo,
    pick_movnti, pick_xlat, pick_clflush, pick_clzero;

#define MOV_FORMS(bits, T, ...)                                                                                        \
    static const struct insn *mov##bits##_rr(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        REG_SET(v, in->op_reg[0], T, REG(v, in->op_reg[1], T));                                                        \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *mov##bits##_ri(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        REG_SET(v, in->op_reg[0], T, in->imm);                                                                         \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *mov##bits##_rm(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        T value = MEM_READ(v, ea_linear(v, in, sizeof(T), false), T);                                                  \
        REG_SET(v, in->op_reg[0], T, value);                                                                           \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *mov##bits##_mr(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        MEM_WRITE(v, ea_linear(v, in, sizeof(T), true), T, REG(v, in->op_reg[1], T));                                  \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *mov##bits##_mi(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        MEM_WRITE(v, ea_linear(v, in, sizeof(T), true), T, (T)in->imm);                                                \
        NEXT(v, in);                                                                                                 \
    }
FOR_ALL_SIZES(MOV_FORMS, )

/* MOV r/m, Sreg: a register gets the selector zero-extended to the operand size, memory gets 16 bits. */
static const struct insn *mov_from_seg(struct vcpu *v, const struct insn *in)
{
    uint16_t selector = v->seg[in->op_reg[1]].selector;
    if (in->op_kind[0] == OPERAND_MEM)
        mem_write16(v, ea_linear(v, in, 2, true), selector);
    else
        reg_write(v, in->op_reg[0], in->opsize, selector);
    NEXT(v, in);
}

static insn_fn *pick_op(const struct pick *p, insn_op *op, insn_fn *runner)
{
    p->in->op = op;
    return runner;
}

insn_fn *pick_mov(const struct pick *p)
{
    switch (p->in->op_kind[0]) {
    case OPERAND_SEG: return pick_op(p, op_mov_to_seg, run_slow);
    case OPERAND_CR: return pick_op(p, op_mov_to_cr, run_slow);
    case OPERAND_DR: return pick_op(p, op_mov_to_dr, run_slow);
    }
    switch (p->in->op_kind[1]) {
    case OPERAND_SEG: return mov_from_seg;
    case OPERAND_CR: return pick_op(p, op_mov_from_cr, run_slow_continue);
    case OPERAND_DR: return pick_op(p, op_mov_from_dr, run_slow_continue);
    }
    if (is_mem(p, 0))
        return is_imm(p, 1) ? PICK_SIZE(p, mov, mi) : PICK_SIZE(p, mov, mr);
    return is_imm(p, 1) ? PICK_SIZE(p, mov, ri) : is_mem(p, 1) ? PICK_SIZE(p, mov, rm) : PICK_SIZE(p, mov, rr);
}

/* ---- extensions: to every size, from byte, word and doubleword ---- */

#define EXTEND(bits, T, fn, from, F)                                                                                   \
    static const struct insn *fn##bits##_r##from(struct vcpu *v, const struct insn *in)                                \
    {                                                                                                                  \
        REG_SET(v, in->op_reg[0], T, (T)REG(v, in->op_reg[1], F));                                                     \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *fn##bits##_m##from(struct vcpu *v, const struct insn *in)                                \
    {                                                                                                                  \
        T value = (T)(F)MEM_READ(v, ea_linear(v, in, sizeof(F), false), F);                                            \
        REG_SET(v, in->op_reg[0], T, value);                                                                           \
        NEXT(v, in);                                                                                                 \
    }
FOR_WORD_SIZES(EXTEND, movzx, 8, uint8_t)
FOR_WORD_SIZES(EXTEND, movzx, 16, uint16_t)
FOR_WORD_SIZES(EXTEND, movsx, 8, int8_t)
FOR_WORD_SIZES(EXTEND, movsx, 16, int16_t)
FOR_WORD_SIZES(EXTEND, movsx, 32, int32_t)

insn_fn *pick_movzx(const struct pick *p)
{
    if (p->operands[1].size == 8)
        return is_mem(p, 1) ? PICK_WORD(p, movzx, m8) : PICK_WORD(p, movzx, r8);
    return is_mem(p, 1) ? PICK_WORD(p, movzx, m16) : PICK_WORD(p, movzx, r16);
}

insn_fn *pick_movsx(const struct pick *p)
{
    if (p->operands[1].size == 8)
        return is_mem(p, 1) ? PICK_WORD(p, movsx, m8) : PICK_WORD(p, movsx, r8);
    return is_mem(p, 1) ? PICK_WORD(p, movsx, m16) : PICK_WORD(p, movsx, r16);
}

insn_fn *pick_movsxd(const struct pick *p)
{
    if (p->operands[1].size == 16)
        return is_mem(p, 1) ? PICK_WORD(p, movsx, m16) : PICK_WORD(p, movsx, r16);
    return is_mem(p, 1) ? PICK_WORD(p, movsx, m32) : PICK_WORD(p, movsx, r32);
}

#define LEA_FORM(bits, T, ...)                                                                                         \
    static const struct insn *lea##bits##_rm(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        REG_SET(v, in->op_reg[0], T, ea_offset(v, in));                                                                \
        NEXT(v, in);                                                                                                 \
    }
FOR_WORD_SIZES(LEA_FORM, )

insn_fn *pick_lea(const struct pick *p)
{
    return PICK_WORD(p, lea, rm);
}

/* ---- exchange: always locked with memory ---- */

#define XCHG_FORMS(bits, T, ...)                                                                                       \
    static const struct insn *xchg##bits##_rr(struct vcpu *v, const struct insn *in)                                   \
    {                                                                                                                  \
        T a = REG(v, in->op_reg[0], T), b = REG(v, in->op_reg[1], T);                                                  \
        REG_SET(v, in->op_reg[0], T, b);                                                                               \
        REG_SET(v, in->op_reg[1], T, a);                                                                               \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *xchg##bits##_mr(struct vcpu *v, const struct insn *in)                                   \
    {                                                                                                                  \
        T *p = rmw_begin(v, ea_linear(v, in, sizeof(T), true), sizeof(T));                                             \
        T old = __atomic_exchange_n(p, REG(v, in->op_reg[1], T), __ATOMIC_SEQ_CST);                                    \
        REG_SET(v, in->op_reg[1], T, old);                                                                             \
        rmw_end(v);                                                                                                    \
        NEXT(v, in);                                                                                                 \
    }
FOR_ALL_SIZES(XCHG_FORMS, )

insn_fn *pick_xchg(const struct pick *p)
{
    if (is_mem(p, 1)) { /* one order of operands */
        p->in->op_reg[1] = p->in->op_reg[0];
        p->in->op_kind[1] = OPERAND_REG;
        p->in->op_kind[0] = OPERAND_MEM;
    }
    return is_mem(p, 0) ? PICK_SIZE(p, xchg, mr) : PICK_SIZE(p, xchg, rr);
}

/* ---- byte order ---- */

#define SWAP16(x) __builtin_bswap16(x)
#define SWAP32(x) __builtin_bswap32(x)
#define SWAP64(x) __builtin_bswap64(x)
#define MOVBE_FORMS(bits, T, ...)                                                                                      \
    static const struct insn *movbe##bits##_rm(struct vcpu *v, const struct insn *in)                                  \
    {                                                                                                                  \
        T value = MEM_READ(v, ea_linear(v, in, sizeof(T), false), T);                                                  \
        REG_SET(v, in->op_reg[0], T, SWAP##bits(value));                                                               \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *movbe##bits##_mr(struct vcpu *v, const struct insn *in)                                  \
    {                                                                                                                  \
        MEM_WRITE(v, ea_linear(v, in, sizeof(T), true), T, SWAP##bits(REG(v, in->op_reg[1], T)));                      \
        NEXT(v, in);                                                                                                 \
    }
FOR_WORD_SIZES(MOVBE_FORMS, )

insn_fn *pick_movbe(const struct pick *p)
{
    return is_mem(p, 0) ? PICK_WORD(p, movbe, mr) : PICK_WORD(p, movbe, rm);
}

/* The 16-bit form is undefined; processors clear the register's low half. */
static const struct insn *bswap16_r(struct vcpu *v, const struct insn *in)
{
    REG(v, in->op_reg[0], uint16_t) = 0;
    NEXT(v, in);
}

#define BSWAP_FORM(bits, T)                                                                                            \
    static const struct insn *bswap##bits##_r(struct vcpu *v, const struct insn *in)                                   \
    {                                                                                                                  \
        REG_SET(v, in->op_reg[0], T, SWAP##bits(REG(v, in->op_reg[0], T)));                                            \
        NEXT(v, in);                                                                                                 \
    }
BSWAP_FORM(32, uint32_t)
BSWAP_FORM(64, uint64_t)

insn_fn *pick_bswap(const struct pick *p)
{
    return PICK_WORD(p, bswap, r);
}

/* ---- stack ---- */

static const struct insn *push_reg(struct vcpu *v, const struct insn *in)
{
    push_value(v, in, in->opsize, reg_read(v, in->op_reg[0], in->opsize));
    NEXT(v, in);
}

static const struct insn *push_imm(struct vcpu *v, const struct insn *in)
{
    push_value(v, in, in->opsize, in->imm);
    NEXT(v, in);
}

static const struct insn *push_seg(struct vcpu *v, const struct insn *in)
{
    push_value(v, in, in->opsize, v->seg[in->op_reg[0]].selector);
    NEXT(v, in);
}

static uint64_t mem_read_sized(struct vcpu *v, gva_t gva, unsigned size)
{
    return size == 8 ? mem_read64(v, gva) : size == 4 ? mem_read32(v, gva) : mem_read16(v, gva);
}

static void mem_write_sized(struct vcpu *v, gva_t gva, unsigned size, uint64_t value)
{
    if (size == 8)
        mem_write64(v, gva, value);
    else if (size == 4)
        mem_write32(v, gva, (uint32_t)value);
    else
        mem_write16(v, gva, (uint16_t)value);
}

static const struct insn *push_mem(struct vcpu *v, const struct insn *in)
{
    push_value(v, in, in->opsize, mem_read_sized(v, ea_linear(v, in, in->opsize, false), in->opsize));
    NEXT(v, in);
}

insn_fn *pick_push(const struct pick *p)
{
    switch (p->in->op_kind[0]) {
    case OPERAND_REG: return push_reg;
    case OPERAND_SEG: return push_seg;
    case OPERAND_IMM: return push_imm;
    default: return push_mem;
    }
}

static const struct insn *pop_reg(struct vcpu *v, const struct insn *in)
{
    uint64_t value = top_value(v, in, in->opsize);
    drop_values(v, in, in->opsize);
    reg_write(v, in->op_reg[0], in->opsize, value);
    NEXT(v, in);
}

/* POP m: the address is computed with RSP already moved; RSP is put back if the store faults. */
static const struct insn *pop_mem(struct vcpu *v, const struct insn *in)
{
    uint64_t value = top_value(v, in, in->opsize);
    uint64_t rsp = v->regs[RSP];
    drop_values(v, in, in->opsize);
    uint64_t moved = v->regs[RSP];
    v->rsp_restore = rsp;
    v->rsp_restore_armed = true; /* the engine restores RSP when the store unwinds */
    mem_write_sized(v, ea_linear(v, in, in->opsize, true), in->opsize, value);
    v->rsp_restore_armed = false;
    v->regs[RSP] = moved;
    NEXT(v, in);
}

insn_fn *pick_pop(const struct pick *p)
{
    switch (p->in->op_kind[0]) {
    case OPERAND_REG: return pop_reg;
    case OPERAND_SEG: return pick_op(p, op_pop_seg, run_slow);
    default: return pop_mem;
    }
}

/* PUSHA and POPA touch eight slots; all are checked first, so that a fault leaves nothing half done. */
static const struct insn *pusha(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize;
    uint64_t sp = stack_pointer(v), rsp = v->regs[RSP];
    uint64_t mask = v->stack_big ? UINT32_MAX : UINT16_MAX;
    gva_t slot[8];
    for (unsigned i = 0; i < 8; i++) {
        slot[i] = seg_linear(v, SEG_SS, (sp - (i + 1) * size) & mask, size, true);
        access_probe(v, slot[i], size, ACCESS_WRITE | ACCESS_STACK | access_current(v));
    }
    for (unsigned i = 0; i < 8; i++)
        access_write(v, slot[i], size, i == RSP ? rsp : v->regs[i], ACCESS_STACK | access_current(v));
    stack_pointer_set(v, sp - 8 * size);
    NEXT(v, in);
}

static const struct insn *popa(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize;
    uint64_t value[8];
    for (unsigned i = 0; i < 8; i++)
        value[i] = stack_peek(v, i * size, size);
    stack_pointer_set(v, stack_pointer(v) + 8 * size);
    for (unsigned i = 0; i < 8; i++)
        if (i != 3)
            reg_write(v, (7 - i) * 8, size, value[i]);
    NEXT(v, in);
}

insn_fn *pick_pusha(const struct pick *p)
{
    (void)p;
    return pusha;
}

insn_fn *pick_popa(const struct pick *p)
{
    (void)p;
    return popa;
}

/* ENTER: SDM vol. 2. All slots, and the final top of the stack, are probed before the first push; then each enclosing
 * frame's pointer is read when its turn comes, so that a display that overlaps the new frame is seen as it changes. */
static void op_enter(struct vcpu *v, const struct insn *in)
{
    unsigned size = in->opsize, level = in->imm2 & 31, slots = level > 0 ? level + 1 : 1;
    uint64_t mask = v->code_mode == CODE_64 ? UINT64_MAX : v->stack_big ? UINT32_MAX : UINT16_MAX;
    uint64_t sp = stack_pointer(v), frame = v->regs[RBP] & mask, alloc = (uint16_t)in->imm;
    unsigned flags = ACCESS_STACK | access_current(v);
    gva_t slot[33], outer[32];
    for (unsigned i = 1; i < level; i++) {
        outer[i] = seg_linear(v, SEG_SS, (frame - i * size) & mask, size, false);
        access_probe(v, outer[i], size, flags);
    }
    for (unsigned i = 0; i < slots; i++) {
        slot[i] = seg_linear(v, SEG_SS, (sp - (i + 1) * size) & mask, size, true);
        access_probe(v, slot[i], size, flags | ACCESS_WRITE);
    }
    uint64_t new_frame = (v->regs[RSP] & ~mask) | ((sp - size) & mask);
    uint64_t new_sp = (sp - slots * size - alloc) & mask;
    access_probe(v, seg_linear(v, SEG_SS, new_sp, size, true), size, flags | ACCESS_WRITE);
    access_write(v, slot[0], size, v->regs[RBP], flags);
    for (unsigned i = 1; i < level; i++)
        access_write(v, slot[i], size, access_read(v, outer[i], size, flags), flags);
    if (level > 0)
        access_write(v, slot[level], size, new_frame, flags);
    reg_write(v, RBP * 8, size, new_frame);
    stack_pointer_set(v, new_sp);
}

insn_fn *pick_enter(const struct pick *p)
{
    return pick_op(p, op_enter, run_slow_continue);
}

static const struct insn *leave_slow(struct vcpu *v, const struct insn *in)
{
    uint64_t mask = v->code_mode == CODE_64 ? UINT64_MAX : v->stack_big ? UINT32_MAX : UINT16_MAX;
    uint64_t frame = v->regs[RBP] & mask;
    gva_t gva = seg_linear(v, SEG_SS, frame, in->opsize, false);
    uint64_t value = access_read(v, gva, in->opsize, ACCESS_STACK | access_current(v));
    stack_pointer_set(v, frame + in->opsize);
    reg_write(v, RBP * 8, in->opsize, value);
    NEXT(v, in);
}

static const struct insn *leave64(struct vcpu *v, const struct insn *in)
{
    gva_t gva = v->regs[RBP];
    const struct tlb_entry *e = tlb_entry(v, gva);
    if (unlikely(!tlb_hit(e->read_tag, gva, 8)))
        return leave_slow(v, in);
    v->regs[RBP] = *(const uint64_t *)(gva + (uint64_t)e->addend);
    v->regs[RSP] = gva + 8;
    NEXT(v, in);
}

insn_fn *pick_leave(const struct pick *p)
{
    return p->in->mode == CODE_64 && p->in->opsize == 8 ? leave64 : leave_slow;
}

/* ---- sign extension within the accumulator ---- */

DEFINE_ONLY_FORM(cbw, REG(v, RAX * 8, uint16_t) = (uint16_t)(int8_t)v->regs[RAX])
DEFINE_ONLY_FORM(cwde, v->regs[RAX] = (uint32_t)(int16_t)v->regs[RAX])
DEFINE_ONLY_FORM(cdqe, v->regs[RAX] = (uint64_t)(int32_t)v->regs[RAX])
DEFINE_ONLY_FORM(cwd, REG(v, RDX * 8, uint16_t) = (uint16_t)((int16_t)v->regs[RAX] >> 15))
DEFINE_ONLY_FORM(cdq, v->regs[RDX] = (uint32_t)((int32_t)v->regs[RAX] >> 31))
DEFINE_ONLY_FORM(cqo, v->regs[RDX] = (uint64_t)((int64_t)v->regs[RAX] >> 63))

/* ---- odds and ends of memory ---- */

insn_fn *pick_movnti(const struct pick *p)
{
    return p->in->opsize == 8 ? mov64_mr : mov32_mr;
}

static const struct insn *xlat(struct vcpu *v, const struct insn *in)
{
    uint64_t offset = v->regs[RBX] + (uint8_t)v->regs[RAX];
    offset = in->addrsize == 8 ? offset : in->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
    uint8_t value = mem_read8(v, seg_linear(v, in->seg, offset, 1, false));
    REG(v, RAX * 8, uint8_t) = value;
    NEXT(v, in);
}

insn_fn *pick_xlat(const struct pick *p)
{
    (void)p;
    return xlat;
}

/* Cache line operations fault like a byte load. There is no cache to flush. */
static const struct insn *clflush(struct vcpu *v, const struct insn *in)
{
    mem_read8(v, ea_linear(v, in, 1, false));
    NEXT(v, in);
}

insn_fn *pick_clflush(const struct pick *p)
{
    (void)p;
    return clflush;
}

/* CLZERO (APM vol. 3): zeroes the cache line at rAX. */
static void op_clzero(struct vcpu *v, const struct insn *in)
{
    static const uint8_t zero[64];
    uint64_t offset = in->addrsize == 8 ? v->regs[RAX] : in->addrsize == 4 ? (uint32_t)v->regs[RAX]
                                                                          : (uint16_t)v->regs[RAX];
    gva_t gva = seg_linear(v, in->seg, offset, 1, true) & ~63ull;
    access_write_bytes(v, gva, zero, sizeof zero, access_current(v));
}

insn_fn *pick_clzero(const struct pick *p)
{
    return pick_op(p, op_clzero, run_slow_continue);
}
