/* Memory operands: from the guest's addressing mode to [register + T] on the host.
 *
 * The linear address goes to S (or is in a register already). T becomes the entry of the shadow table for its page, and
 * the access itself adds both. Two things must not go wrong silently:
 *
 * - An access that crosses into the next page, which lies elsewhere on the host. An aligned access cannot. So the low bits of
 *   an address that is not known to be aligned become the top of the table's index, where they make the host fault unless
 *   they are zero: that part of the table is never mapped. An instruction that has faulted so is emitted anew with an explicit check whether it
 *   really crosses, and calls C only then. That check needs no flags either.
 * - A read that has side effects, or a write that somebody must notice: such pages have no entry, or one that is read-only.
 */
#include "engine/translate/lower.h"

unsigned lower_register(struct lower *l, unsigned guest, unsigned temp)
{
    if (host_of[guest] != SPILLED)
        return host_of[guest];
    emit_load(&l->e, temp, STATE_REG(guest));
    return temp;
}

bool lower_is_constant(const ZydisDecodedOperand *op)
{
    ZydisRegister base = op->mem.base;
    return op->mem.index == ZYDIS_REGISTER_NONE &&
           (base == ZYDIS_REGISTER_NONE || base == ZYDIS_REGISTER_RIP || base == ZYDIS_REGISTER_EIP);
}

/* The segment whose base and limit count for the operand; SEG_COUNT: none. */
static enum seg segment_of(const struct lower *l, const ZydisDecodedOperand *op)
{
    switch (op->mem.segment) {
    case ZYDIS_REGISTER_FS: return SEG_FS;
    case ZYDIS_REGISTER_GS: return SEG_GS;
    case ZYDIS_REGISTER_ES: return l->segments ? SEG_ES : SEG_COUNT;
    case ZYDIS_REGISTER_SS: return l->segments ? SEG_SS : SEG_COUNT;
    case ZYDIS_REGISTER_DS: return l->segments ? SEG_DS : SEG_COUNT;
    default: return SEG_COUNT;
    }
}

bool lower_has_segment_base(const struct lower *l, const ZydisDecodedOperand *op)
{
    return segment_of(l, op) != SEG_COUNT;
}

/* decode.c has put right what Zydis says of the displacement. */
uint64_t lower_constant_address(const struct lower *l, const ZydisDecodedOperand *op)
{
    uint64_t address = (uint64_t)l->in.disp;
    if (op->mem.base != ZYDIS_REGISTER_NONE)
        address = (l->rip & ~PAGE_OFFSET_MASK) + (uint64_t)l->in.disp;
    return l->decoded.z.address_width == 64 ? address : (uint32_t)address;
}

bool lower_memory_possible(const struct lower *l, const ZydisDecodedOperand *op, unsigned size, bool written)
{
    if (l->decoded.z.address_width == 16 || size == 0 || size > 32 || (size & (size - 1)) != 0 || (l->form & FORM_CALL))
        return false;
    if (l->narrow && op->mem.segment == ZYDIS_REGISTER_CS && (written || l->segments))
        return false;
    if (ZydisRegisterGetClass(op->mem.index) >= ZYDIS_REGCLASS_MMX && op->mem.index != ZYDIS_REGISTER_NONE)
        return false; /* gathers */
    if (lower_is_constant(op) && !lower_has_segment_base(l, op)) {
        uint64_t address = lower_constant_address(l, op);
        if ((address & PAGE_OFFSET_MASK) + size > PAGE_SIZE)
            return false;
    }
    return true;
}

unsigned lower_effective(struct lower *l, const ZydisDecodedOperand *op, unsigned dest)
{
    struct emit *e = &l->e;
    if (lower_is_constant(op)) {
        emit_mov_imm(e, dest, lower_constant_address(l, op));
        return dest;
    }
    bool wide = l->decoded.z.address_width == 64;
    int32_t disp = (int32_t)l->in.disp;
    unsigned base = H_NONE, index = H_NONE;
    /* A base that decode.c has dropped is Zydis' mistake. */
    if (op->mem.base != ZYDIS_REGISTER_NONE && l->in.base != GPR_ZERO)
        base = lower_register(l, l->in.base, dest);
    if (op->mem.index != ZYDIS_REGISTER_NONE)
        index = lower_register(l, l->in.index, T);
    if (base == H_NONE && index == H_NONE) {
        emit_mov_imm(e, dest, wide ? (uint64_t)(int64_t)disp : (uint32_t)disp);
        return dest;
    }
    if (index == H_NONE && disp == 0 && (wide || l->narrow))
        return base;
    struct emit_mem m = {.base = (uint8_t)base, .index = (uint8_t)index, .scale = l->in.scale, .disp = disp};
    if (wide)
        emit_lea(e, dest, m);
    else
        emit_lea32(e, dest, m);
    return dest;
}

static void add_segment_base(struct lower *l, const ZydisDecodedOperand *op, unsigned *reg)
{
    enum seg seg = segment_of(l, op);
    if (seg == SEG_COUNT)
        return;
    struct emit_mem limited = STATE_OF(translated.segment_limited[0]), base = STATE_OF(seg[0].base);
    limited.disp += (int32_t)(sizeof(uint64_t) * seg);
    base.disp += (int32_t)(sizeof(struct segment) * seg);
    if (l->narrow) { /* with a limit, or not writable, or null: in C */
        emit_load(&l->e, T, limited);
        uint8_t *plain = emit_jrcxz(&l->e);
        lower_slow_way(l, emit_jmp(&l->e, NULL));
        emit_short_here(&l->e, plain);
    }
    emit_load(&l->e, T, base);
    if (l->narrow)
        emit_lea32(&l->e, S, MEM_INDEX(*reg, T, 0, 0));
    else
        emit_lea(&l->e, S, MEM_INDEX(*reg, T, 0, 0));
    *reg = S;
}

#define ALIGNMENT_MAX 12u /* nobody asks for more */

static unsigned alignment_min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static unsigned alignment_of_number(uint64_t number)
{
    return number == 0 ? ALIGNMENT_MAX : alignment_min((unsigned)__builtin_ctzll(number), ALIGNMENT_MAX);
}

static unsigned alignment_of_register(const struct lower *l, unsigned guest)
{
    unsigned known = l->align[guest], natural = l->narrow ? 2 : 3;
    return guest == RSP && known < natural ? natural : known;
}

/* base + index * 2^scale + disp, as decode.c has put them; `skip` is taken to be aligned. */
static unsigned alignment_of_sum(const struct lower *l, const ZydisDecodedOperand *op, unsigned skip)
{
    unsigned known = alignment_of_number((uint64_t)l->in.disp);
    if (op->mem.base != ZYDIS_REGISTER_NONE && l->in.base != skip)
        known = l->in.base == GPR_ZERO ? 0 : alignment_min(known, alignment_of_register(l, l->in.base));
    if (op->mem.index != ZYDIS_REGISTER_NONE && l->in.index != skip)
        known = alignment_min(known, alignment_of_register(l, l->in.index) + l->in.scale);
    return known;
}

static unsigned alignment_of_address(const struct lower *l, const ZydisDecodedOperand *op)
{
    if (lower_has_segment_base(l, op))
        return 0;
    return lower_is_constant(op) ? alignment_of_number(lower_constant_address(l, op)) : alignment_of_sum(l, op, GPR_COUNT);
}

/* An access has shown that its address is aligned. If that depends on one register only, it is aligned, too. */
static void note_aligned(struct lower *l, const ZydisDecodedOperand *op, unsigned alignment)
{
    if (lower_is_constant(op) || lower_has_segment_base(l, op) || l->in.base == GPR_ZERO || l->in.base == l->in.index)
        return;
    if (op->mem.base != ZYDIS_REGISTER_NONE && alignment_of_sum(l, op, l->in.base) >= alignment) {
        if (l->align[l->in.base] < alignment)
            l->align[l->in.base] = (uint8_t)alignment;
    } else if (op->mem.index != ZYDIS_REGISTER_NONE && l->in.scale == 0 &&
               alignment_of_sum(l, op, l->in.index) >= alignment) {
        if (l->align[l->in.index] < alignment)
            l->align[l->in.index] = (uint8_t)alignment;
    }
}

/* What is known of the register that the instruction writes, from what was known before it; of 32 and 64 bits. */
static unsigned alignment_of_result(const struct lower *l)
{
    const struct insn *in = &l->in;
    unsigned dest = alignment_of_register(l, in->op_reg[0] / 8);
    if (in->row == ROW_LEA)
        return lower_is_constant(&l->decoded.operands[1]) ? alignment_of_number(lower_constant_address(l, &l->decoded.operands[1]))
                                       : alignment_of_sum(l, &l->decoded.operands[1], GPR_COUNT);
    unsigned other = 0;
    if (in->op_kind[1] == OPERAND_IMM)
        other = in->row == ROW_SHL ? (unsigned)in->imm & (in->opsize * 8 - 1u) : alignment_of_number(in->imm);
    else if (in->op_kind[1] == OPERAND_REG && in->row != ROW_SHL)
        other = alignment_of_register(l, in->op_reg[1] / 8);
    switch (in->row) {
    case ROW_MOV: return other;
    case ROW_ADD:
    case ROW_SUB: return alignment_min(dest, other);
    case ROW_AND: return dest > other ? dest : other;
    case ROW_SHL: return alignment_min(dest + other, ALIGNMENT_MAX);
    default: return 0;
    }
}

void lower_note_result(struct lower *l, uint16_t written)
{
    unsigned dest = GPR_COUNT, alignment = 0;
    if (l->in.row != ROW_NONE && l->in.op_kind[0] == OPERAND_REG && l->in.opsize >= 4 && !l->use.vector && !l->use.mmx) {
        dest = l->in.op_reg[0] / 8;
        if (dest < 16 && written == 1u << dest)
            alignment = alignment_of_result(l);
    }
    for (unsigned guest = 0; guest < 16; guest++)
        if (written >> guest & 1)
            l->align[guest] = guest == dest ? (uint8_t)alignment : 0;
}

void lower_translate(struct lower *l, unsigned reg)
{
    struct emit *e = &l->e;
    if (l->narrow) {
        emit_shrx32(e, T, reg, H8);
    } else { /* bits 47:12: rotated to the top, then down; cheaper than PEXT */
        emit_rorx(e, T, reg, 48);
        emit_shrx(e, T, T, STATE);
    }
    emit_load(e, T, (struct emit_mem){.base = H_NONE, .index = T, .scale = 3, .gs = true});
    l->map->address = (uint8_t)reg;
}

/* 64-bit code: the low bits go to the top of the index. Not of the address: a guest could choose an address that is not
 * canonical and becomes so by what is added to it. */
void lower_translate_checked(struct lower *l, unsigned reg, unsigned size)
{
    struct emit *e = &l->e;
    unsigned bits = size == 2 ? 1 : size == 4 ? 2 : 3;
    emit_rorx(e, T, reg, bits);
    emit_pext(e, T, T, STATE_OF(translated.aligned_mask[bits - 1]));
    emit_load(e, T, (struct emit_mem){.base = H_NONE, .index = T, .scale = 3, .gs = true});
    l->map->address = (uint8_t)reg;
}

/* 32-bit code: the low bits go to the top of the index. */
static void translate_aligned_narrow(struct lower *l, unsigned reg, unsigned size)
{
    struct emit *e = &l->e;
    emit_rorx32(e, T, reg, size == 2 ? 1 : size == 4 ? 2 : 3);
    emit_shrx32(e, T, T, size == 2 ? H12 : size == 4 ? H9 : H13);
    emit_load(e, T, (struct emit_mem){.base = H_NONE, .index = T, .scale = 3, .gs = true});
    l->map->address = (uint8_t)reg;
}

/* Does it cross into the next page? The offset in the page becomes the top of 32 bits; adding what the access is longer than
 * a byte then makes a carry. */
static void check_crossing(struct lower *l, unsigned reg, unsigned size)
{
    struct emit *e = &l->e;
    emit_rorx32(e, T, reg, PAGE_SHIFT);
    emit_lea(e, T, MEM(T, (int32_t)((size - 1) << (32 - PAGE_SHIFT))));
    emit_rorx(e, T, T, 32);
    emit_mov_rr32(e, T, T);
    uint8_t *within = emit_jrcxz(e);
    lower_slow_way(l, emit_jmp(e, NULL));
    emit_short_here(e, within);
}

/* 16 and 32 bytes: the low bits are the index into an array of one readable element, before a guard page. */
static void check_aligned(struct lower *l, unsigned reg, unsigned size)
{
    struct emit *e = &l->e;
    emit_pext(e, T, reg, size == 16 ? STATE_OF(translated.low_mask[0]) : STATE_OF(translated.low_mask[1]));
    emit_load32(e, T, MEM_INDEX(STATE, T, 3, (intptr_t)l->t->probe - ((intptr_t)l->v + STATE_BIAS)));
}

unsigned lower_address(struct lower *l, const ZydisDecodedOperand *op, unsigned size, bool checks_itself)
{
    struct emit *e = &l->e;
    unsigned alignment = (unsigned)__builtin_ctz(size);
    bool aligned = checks_itself || alignment_of_address(l, op) >= alignment;
    bool explicit = !aligned && (l->form & FORM_UNALIGNED);
    l->map->size = (uint8_t)size;
    if (l->form & FORM_MISS)
        lower_status_save(l);
    unsigned reg = lower_effective(l, op, S);
    add_segment_base(l, op, &reg);
    if (!aligned && !explicit) {
        l->map->flags |= MAP_ALIGN;
        note_aligned(l, op, alignment);
    }
    if (explicit)
        check_crossing(l, reg, size);
    else if (!aligned && size > 8)
        check_aligned(l, reg, size);
    if (explicit || aligned || size > 8)
        lower_translate(l, reg);
    else if (l->narrow)
        translate_aligned_narrow(l, reg, size);
    else
        lower_translate_checked(l, reg, size);
    if (l->form & FORM_MISS) {
        emit8(e, 0xf6), emit8(e, 0xc1), emit8(e, 1); /* test cl, 1 */
        lower_slow_way(l, emit_jcc(e, 5, NULL));
    }
    if (checks_itself && l->use.aligned_strict)
        note_aligned(l, op, alignment);
    return l->map->address;
}
