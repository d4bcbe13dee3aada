/* Writing host instructions. A small assembler: the forms that translation emits by itself; guest instructions come
 * from reencode.c.
 *
 * Bytes go through the writable view of the code cache; `p` is that view. All instructions are position-independent but
 * relative jumps, whose targets lie in the cache too, so that distances are the same in both views.
 *
 * Source: SDM vol. 2, chapter 2 and the instructions' pages.
 */
#ifndef RING3_TRANSLATE_EMIT_H
#define RING3_TRANSLATE_EMIT_H

#include <string.h>

#include "base/types.h"

struct emit {
    uint8_t *p;
    uint8_t *end; /* emitting past it is not allowed: the caller leaves room */
};

/* Host registers, in encoding order. */
enum host { HAX, HCX, HDX, HBX, HSP, HBP, HSI, HDI, H8, H9, H10, H11, H12, H13, H14, H15, H_NONE = 0xff };

struct emit_mem {
    uint8_t base, index; /* enum host; H_NONE: none. Index is never HSP. */
    uint8_t scale;       /* shift count */
    bool gs;
    int32_t disp;
};

#define MEM(b, d) ((struct emit_mem){.base = (b), .index = H_NONE, .disp = (int32_t)(d)})
#define MEM_INDEX(b, i, s, d) ((struct emit_mem){.base = (b), .index = (i), .scale = (s), .disp = (int32_t)(d)})

/* What an instruction needs beside its opcode. */
#define E_W 1u  /* REX.W */
#define E_66 2u /* operand size prefix */
#define E_BYTE 4u /* byte registers: REX even if empty, so that 4 to 7 are SPL to DIL */

static inline void emit8(struct emit *e, unsigned byte)
{
    *e->p++ = (uint8_t)byte;
}

static inline void emit32(struct emit *e, uint32_t value)
{
    memcpy(e->p, &value, 4);
    e->p += 4;
}

static inline void emit64(struct emit *e, uint64_t value)
{
    memcpy(e->p, &value, 8);
    e->p += 8;
}

static inline void emit_opcode(struct emit *e, unsigned opcode)
{
    if (opcode > 0xffff)
        emit8(e, opcode >> 16);
    if (opcode > 0xff)
        emit8(e, opcode >> 8);
    emit8(e, opcode);
}

static inline void emit_modrm_mem(struct emit *e, unsigned reg, struct emit_mem m)
{
    reg &= 7;
    if (m.base == H_NONE) {
        emit8(e, reg << 3 | 4);
        emit8(e, (unsigned)m.scale << 6 | (m.index == H_NONE ? 4u : m.index & 7u) << 3 | 5);
        emit32(e, (uint32_t)m.disp);
        return;
    }
    unsigned base = m.base & 7u;
    unsigned mod = m.disp == 0 && base != 5 ? 0 : m.disp == (int8_t)m.disp ? 1 : 2;
    if (m.index != H_NONE || base == 4) {
        emit8(e, mod << 6 | reg << 3 | 4);
        emit8(e, (unsigned)m.scale << 6 | (m.index == H_NONE ? 4u : m.index & 7u) << 3 | base);
    } else {
        emit8(e, mod << 6 | reg << 3 | base);
    }
    if (mod == 1)
        emit8(e, (uint8_t)m.disp);
    else if (mod == 2)
        emit32(e, (uint32_t)m.disp);
}

/* opcode reg, [mem] */
static inline void emit_rm(struct emit *e, unsigned how, unsigned opcode, unsigned reg, struct emit_mem m)
{
    if (m.gs)
        emit8(e, 0x65);
    if (how & E_66)
        emit8(e, 0x66);
    unsigned rex = (how & E_W ? 8u : 0) | (reg >> 3 & 1) << 2 | (m.index != H_NONE ? m.index >> 3 & 1u : 0) << 1 |
                   (m.base != H_NONE ? m.base >> 3 & 1u : 0);
    if (rex != 0 || ((how & E_BYTE) && reg >= 4))
        emit8(e, 0x40 | rex);
    emit_opcode(e, opcode);
    emit_modrm_mem(e, reg, m);
}

/* opcode reg, rm (both registers) */
static inline void emit_rr(struct emit *e, unsigned how, unsigned opcode, unsigned reg, unsigned rm)
{
    if (how & E_66)
        emit8(e, 0x66);
    unsigned rex = (how & E_W ? 8u : 0) | (reg >> 3 & 1) << 2 | (rm >> 3 & 1);
    if (rex != 0 || ((how & E_BYTE) && (reg >= 4 || rm >= 4)))
        emit8(e, 0x40 | rex);
    emit_opcode(e, opcode);
    emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* VEX-encoded general-register instructions: pp 0 none, 1 66, 2 F3, 3 F2; map 2 is 0F38, 3 is 0F3A. */
static inline void emit_vex(struct emit *e, bool w, unsigned pp, unsigned map, unsigned reg, unsigned index, unsigned base,
                            unsigned vvvv)
{
    emit8(e, 0xc4);
    emit8(e, (~reg >> 3 & 1) << 7 | (~index >> 3 & 1) << 6 | (~base >> 3 & 1) << 5 | map);
    emit8(e, (unsigned)w << 7 | (~vvvv & 15) << 3 | pp);
}

/* SHRX of 64 bits; the count's low six bits matter */
static inline void emit_shrx(struct emit *e, unsigned dest, unsigned src, unsigned count)
{
    emit_vex(e, true, 3, 2, dest, 0, src, count);
    emit8(e, 0xf7);
    emit8(e, 0xc0 | (dest & 7) << 3 | (src & 7));
}

/* SHRX of 32 bits */
static inline void emit_shrx32(struct emit *e, unsigned dest, unsigned src, unsigned count)
{
    emit_vex(e, false, 3, 2, dest, 0, src, count);
    emit8(e, 0xf7);
    emit8(e, 0xc0 | (dest & 7) << 3 | (src & 7));
}

/* RORX of 32 bits */
static inline void emit_rorx32(struct emit *e, unsigned dest, unsigned src, unsigned count)
{
    emit_vex(e, false, 3, 3, dest, 0, src, 0);
    emit8(e, 0xf0);
    emit8(e, 0xc0 | (dest & 7) << 3 | (src & 7));
    emit8(e, count);
}

/* RORX of 64 bits */
static inline void emit_rorx(struct emit *e, unsigned dest, unsigned src, unsigned count)
{
    emit_vex(e, true, 3, 3, dest, 0, src, 0);
    emit8(e, 0xf0);
    emit8(e, 0xc0 | (dest & 7) << 3 | (src & 7));
    emit8(e, count);
}

/* PEXT dest, src, [mask] */
static inline void emit_pext(struct emit *e, unsigned dest, unsigned src, struct emit_mem mask)
{
    emit_vex(e, true, 2, 2, dest, 0, mask.base, src);
    emit8(e, 0xf5);
    emit_modrm_mem(e, dest, mask);
}

static inline void emit_mov_rr(struct emit *e, unsigned dest, unsigned src)
{
    emit_rr(e, E_W, 0x89, src, dest);
}

static inline void emit_mov_rr32(struct emit *e, unsigned dest, unsigned src)
{
    emit_rr(e, 0, 0x89, src, dest);
}

static inline void emit_load(struct emit *e, unsigned reg, struct emit_mem m)
{
    emit_rm(e, E_W, 0x8b, reg, m);
}

static inline void emit_load32(struct emit *e, unsigned reg, struct emit_mem m)
{
    emit_rm(e, 0, 0x8b, reg, m);
}

static inline void emit_store(struct emit *e, struct emit_mem m, unsigned reg)
{
    emit_rm(e, E_W, 0x89, reg, m);
}

static inline void emit_store32(struct emit *e, struct emit_mem m, unsigned reg)
{
    emit_rm(e, 0, 0x89, reg, m);
}

static inline void emit_store16(struct emit *e, struct emit_mem m, unsigned reg)
{
    emit_rm(e, E_66, 0x89, reg, m);
}

static inline void emit_store_imm(struct emit *e, bool wide, struct emit_mem m, int32_t value)
{
    emit_rm(e, wide ? E_W : 0, 0xc7, 0, m);
    emit32(e, (uint32_t)value);
}

static inline void emit_lea(struct emit *e, unsigned reg, struct emit_mem m)
{
    emit_rm(e, E_W, 0x8d, reg, m);
}

static inline void emit_lea32(struct emit *e, unsigned reg, struct emit_mem m)
{
    emit_rm(e, 0, 0x8d, reg, m);
}

/* The shortest MOV of a constant; no flags. */
static inline void emit_mov_imm(struct emit *e, unsigned reg, uint64_t value)
{
    if (value == (uint32_t)value) {
        if (reg >= 8)
            emit8(e, 0x41);
        emit8(e, 0xb8 | (reg & 7));
        emit32(e, (uint32_t)value);
    } else if (value == (uint64_t)(int64_t)(int32_t)value) {
        emit_rr(e, E_W, 0xc7, 0, reg);
        emit32(e, (uint32_t)value);
    } else {
        emit8(e, 0x48 | reg >> 3);
        emit8(e, 0xb8 | (reg & 7));
        emit64(e, value);
    }
}

static inline void emit_not(struct emit *e, unsigned reg)
{
    emit_rr(e, E_W, 0xf7, 2, reg);
}

/* A relative jump with a 32-bit distance; returns where the distance stands. */
static inline uint8_t *emit_jmp(struct emit *e, const uint8_t *target)
{
    emit8(e, 0xe9);
    uint8_t *at = e->p;
    emit32(e, target == NULL ? 0 : (uint32_t)(target - (at + 4)));
    return at;
}

static inline uint8_t *emit_jcc(struct emit *e, unsigned condition, const uint8_t *target)
{
    emit8(e, 0x0f);
    emit8(e, 0x80 | condition);
    uint8_t *at = e->p;
    emit32(e, target == NULL ? 0 : (uint32_t)(target - (at + 4)));
    return at;
}

/* JRCXZ, short; returns where the distance stands. */
static inline uint8_t *emit_jrcxz(struct emit *e)
{
    emit8(e, 0xe3);
    emit8(e, 0);
    return e->p - 1;
}

static inline void emit_short_here(const struct emit *e, uint8_t *at)
{
    *at = (uint8_t)(e->p - (at + 1));
}

static inline void emit_target(uint8_t *at, const uint8_t *target)
{
    int32_t distance = (int32_t)(target - (at + 4));
    memcpy(at, &distance, 4);
}

#endif
