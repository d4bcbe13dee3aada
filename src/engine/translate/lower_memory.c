/* Memory operands: from the guest's addressing mode to [register + T] on the host.
 *
 * The linear address goes to S (or is in a register already). T becomes the entry of the shadow table for its page, and
 * the access itself adds both. Two things must not go wrong silently:
 *
 * - An access that crosses into the next page, which lies elsewhere on the host. An aligned access cannot. So the low bits of
 *   an address that is not known to be aligned become the top of the table's index, where they make the host fault unless
 *   they are zero: that part of the table is never mapped. An instruction that has faulted so is emitted anew with an explicit check whether it
 *   really crosses, and calls C only then. That check needs the flags, which are saved before.
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

static bool is_constant(const ZydisDecodedOperand *op)
{
    ZydisRegister base = op->mem.base;
    return op->mem.index == ZYDIS_REGISTER_NONE &&
           (base == ZYDIS_REGISTER_NONE || base == ZYDIS_REGISTER_RIP || base == ZYDIS_REGISTER_EIP);
}

static bool has_segment_base(const ZydisDecodedOperand *op)
{
    return op->mem.segment == ZYDIS_REGISTER_FS || op->mem.segment == ZYDIS_REGISTER_GS;
}

/* decode.c has put right what Zydis says of the displacement. */
static uint64_t constant_address(const struct lower *l, const ZydisDecodedOperand *op)
{
    uint64_t address = (uint64_t)l->in.disp;
    if (op->mem.base != ZYDIS_REGISTER_NONE)
        address = (l->rip & ~PAGE_OFFSET_MASK) + (uint64_t)l->in.disp;
    return l->z.address_width == 64 ? address : (uint32_t)address;
}

bool lower_memory_possible(const struct lower *l, const ZydisDecodedOperand *op, unsigned size, bool written)
{
    if (l->z.address_width == 16 || size == 0 || size > 32 || (size & (size - 1)) != 0 || (l->form & FORM_CALL))
        return false;
    if (l->narrow) {
        if (op->mem.segment == ZYDIS_REGISTER_CS && written)
            return false;
    }
    if (ZydisRegisterGetClass(op->mem.index) >= ZYDIS_REGCLASS_MMX && op->mem.index != ZYDIS_REGISTER_NONE)
        return false; /* gathers */
    if (is_constant(op) && !has_segment_base(op)) {
        uint64_t address = constant_address(l, op);
        if ((address & PAGE_OFFSET_MASK) + size > PAGE_SIZE)
            return false;
    }
    return true;
}

unsigned lower_effective(struct lower *l, const ZydisDecodedOperand *op, unsigned dest)
{
    struct emit *e = &l->e;
    if (is_constant(op)) {
        emit_mov_imm(e, dest, constant_address(l, op));
        return dest;
    }
    bool wide = l->z.address_width == 64;
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
    if (!has_segment_base(op))
        return;
    if (l->narrow) { /* with a limit, or not writable, or null: in C */
        emit_load(&l->e, T, op->mem.segment == ZYDIS_REGISTER_FS ? STATE_OF(translated.segment_limited[0])
                                                                  : STATE_OF(translated.segment_limited[1]));
        uint8_t *plain = emit_jrcxz(&l->e);
        lower_slow_way(l, emit_jmp(&l->e, NULL));
        emit_short_here(&l->e, plain);
    }
    if (op->mem.segment == ZYDIS_REGISTER_FS)
        emit_load(&l->e, T, STATE_OF(seg[SEG_FS].base));
    else
        emit_load(&l->e, T, STATE_OF(seg[SEG_GS].base));
    if (l->narrow)
        emit_lea32(&l->e, S, MEM_INDEX(*reg, T, 0, 0));
    else
        emit_lea(&l->e, S, MEM_INDEX(*reg, T, 0, 0));
    *reg = S;
}

/* Whether all of the address' alignment is in one register whose low bits are known, or can be checked. */
static unsigned aligning_register(const struct lower *l, const ZydisDecodedOperand *op, unsigned size)
{
    if (op->mem.base == ZYDIS_REGISTER_NONE || is_constant(op) || l->in.base == GPR_ZERO || has_segment_base(op))
        return H_NONE;
    if (l->in.disp & (size - 1))
        return H_NONE;
    if (op->mem.index != ZYDIS_REGISTER_NONE && ((1u << l->in.scale) & (size - 1)) != 0)
        return H_NONE;
    return l->in.base;
}

static bool is_aligned(const struct lower *l, const ZydisDecodedOperand *op, unsigned size)
{
    if (size == 1 || (is_constant(op) && !has_segment_base(op)))
        return true;
    unsigned guest = aligning_register(l, op, size);
    if (guest == H_NONE || size > 8)
        return false;
    if (guest == RSP)
        return size <= natural_size(l);
    return (size <= 4 ? l->aligned4 | l->aligned8 : l->aligned8) >> guest & 1;
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

static void note_aligned(struct lower *l, const ZydisDecodedOperand *op, unsigned size)
{
    unsigned guest = aligning_register(l, op, size);
    if (guest == H_NONE)
        return;
    if (size >= 4)
        l->aligned4 |= (uint16_t)(1u << guest);
    if (size >= 8)
        l->aligned8 |= (uint16_t)(1u << guest);
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

static void jump_slow(struct lower *l, unsigned condition)
{
    lower_slow_way(l, emit_jcc(&l->e, condition, NULL));
}

/* The explicit check: does it cross into the next page? */
static void check_crossing(struct lower *l, unsigned reg, unsigned size)
{
    struct emit *e = &l->e;
    emit_lea(e, T, MEM(reg, size - 1));
    emit_rr(e, E_W, 0x33, T, reg);  /* xor rcx, reg */
    emit_rr(e, 0, 0xf7, 0, T);      /* test ecx, 1000h */
    emit32(e, PAGE_SIZE);
    jump_slow(l, 5);
}

unsigned lower_address(struct lower *l, const ZydisDecodedOperand *op, unsigned size, bool checks_itself)
{
    struct emit *e = &l->e;
    bool aligned = checks_itself || is_aligned(l, op, size);
    bool explicit = !aligned && ((l->form & FORM_UNALIGNED) || size > 8);
    l->map->size = (uint8_t)size;
    if (explicit || (l->form & FORM_MISS))
        lower_status_save(l);
    unsigned reg = lower_effective(l, op, S);
    add_segment_base(l, op, &reg);
    if (explicit) {
        check_crossing(l, reg, size);
        lower_translate(l, reg);
    } else if (aligned) {
        lower_translate(l, reg);
    } else {
        l->map->flags |= MAP_ALIGN;
        note_aligned(l, op, size);
        if (l->narrow)
            translate_aligned_narrow(l, reg, size);
        else
            lower_translate_checked(l, reg, size);
    }
    if (l->form & FORM_MISS) {
        emit8(e, 0xf6), emit8(e, 0xc1), emit8(e, 1); /* test cl, 1 */
        jump_slow(l, 5);
    }
    return l->map->address;
}
