/* Re-encoding (reencode.h): what Zydis has taken apart is put together again with other register numbers.
 *
 * Zydis says for every operand which field of the encoding names it: ModRM.reg, ModRM.rm, VEX.vvvv, the low bits of
 * the opcode, the upper half of an immediate, or none at all. `struct form` holds the instruction by field. Filling it
 * in is one pass over the operands, each translated where it stands; writing it out decides what the numbers need: REX
 * or not, two or three bytes of VEX, SIB, the size of the displacement. Nothing here knows single instructions, except
 *
 *   - those whose encoding means something else in 64-bit mode, or nothing (32-bit code)
 *   - those whose short forms cannot name another register (moffs, XCHG with rAX)
 *   - bit strings, which reach beyond their memory operand
 *   - hints, which are no more than a NOP
 *
 * High-byte registers: numbers 4 to 7 name AH, CH, DH and BH without REX, and SPL to DIL with any REX. So an
 * instruction may want a REX prefix (a register from R8 on, W, one of SPL to DIL), or want none (AH to BH), and one
 * that wants both has no encoding.
 *
 * VEX.W: outside 64-bit mode W does not make a general operand 64 bits wide, so it is dropped where a general register
 * or its stand-in in memory takes part, and kept where it selects the operation.
 *
 * Sources: SDM vol. 2, chapter 2, and appendix A for the opcodes that are invalid in 64-bit mode; SDM vol. 2 on shifts
 * and rotates for the count that leaves flags alone.
 */
#include "engine/translate/reencode.h"

#include <string.h>

#include "cpu/host_exec.h"

#define M(name) ZYDIS_MNEMONIC_##name

/* The instruction by fields; registers are host numbers, 0 to 15. */
struct form {
    const ZydisDecodedInstruction *z;
    const struct reencode_map *map;
    uint8_t opcode;
    uint8_t opcode_map;
    bool w;
    bool has_modrm, memory;
    uint8_t reg, rm, vvvv;
    uint8_t opcode_reg;
    bool in_opcode;   /* opcode_reg counts */
    uint8_t is4;
    bool in_is4;
    bool rex, no_rex; /* a byte register wants REX even if it is empty, or none */
    bool accumulator_named; /* rAX, implicit in the guest's encoding, becomes ModRM.reg */
    bool implicit_rcx;      /* relies on rcx_ready */
    bool rcx_taken;         /* host RCX holds something else than guest RCX */
};

/* ---- which instructions ---- */

static bool is_legacy(const ZydisDecodedInstruction *z)
{
    return z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
}

static bool is_one_byte(const ZydisDecodedInstruction *z)
{
    return is_legacy(z) && z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

static bool is_hint(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case M(NOP): case M(PREFETCH): case M(PREFETCHW): case M(PREFETCHNTA): case M(PREFETCHWT1): case M(PREFETCHT0):
    case M(PREFETCHT1): case M(PREFETCHT2): case M(CLDEMOTE): return true;
    default: return false;
    }
}

/* REX.B makes 90h an XCHG whatever stands before it; Zydis says PAUSE and lists no operands. */
static bool is_hidden_xchg(const ZydisDecodedInstruction *z)
{
    return z->mnemonic == M(PAUSE) && z->raw.rex.B;
}

static bool is_moffs(const ZydisDecodedInstruction *z)
{
    return is_one_byte(z) && z->opcode >= 0xa0 && z->opcode <= 0xa3;
}

static bool is_short_xchg(const ZydisDecodedInstruction *z)
{
    return z->mnemonic == M(XCHG) && is_one_byte(z) && z->opcode >= 0x90 && z->opcode <= 0x97;
}

/* With the bit number in a register it counts from the operand's address on, in both directions. */
static bool is_bit_string(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case M(BT): case M(BTS): case M(BTR): case M(BTC): return z->opcode != 0xba && z->raw.modrm.mod != 3;
    default: return false;
    }
}

/* One-byte opcodes that 64-bit mode does not have, or has for something else. */
static bool is_legacy_mode_only(uint8_t opcode)
{
    switch (opcode) {
    case 0x06: case 0x07: case 0x0e: case 0x16: case 0x17: case 0x1e: case 0x1f: /* PUSH, POP of segments */
    case 0x27: case 0x2f: case 0x37: case 0x3f:                                  /* DAA, DAS, AAA, AAS */
    case 0x60: case 0x61: case 0x62: case 0x63:                                  /* PUSHA, POPA, BOUND, ARPL */
    case 0x9a: case 0xea:                                                        /* far CALL, JMP */
    case 0xc4: case 0xc5: case 0xce:                                             /* LES, LDS, INTO */
    case 0xd4: case 0xd5: case 0xd6: return true;                                /* AAM, AAD, SALC */
    default: return false;
    }
}

/* W of a VEX instruction of 32-bit code: ignored where it would make a general operand wider. The general register is
 * an operand, or these have memory in its stead, or have it implicitly. */
static bool is_w_ignored(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands)
{
    switch (z->mnemonic) {
    case M(VMOVD): case M(VPINSRD): case M(VPEXTRD): case M(VCVTSI2SS): case M(VCVTSI2SD): case M(VPCMPESTRI):
    case M(VPCMPESTRM): return true;
    default: break;
    }
    for (unsigned i = 0; i < z->operand_count; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_GPR32)
            return true;
    return false;
}

/* ---- registers ---- */

static bool is_gpr(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return true;
    default: return false;
    }
}

static bool is_high_byte(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

/* The number of the register that contains a general register. */
static unsigned gpr_number(ZydisRegister reg)
{
    if (is_high_byte(reg))
        return (unsigned)(reg - ZYDIS_REGISTER_AH);
    if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
        return (unsigned)(reg - ZYDIS_REGISTER_SPL) + 4;
    return (unsigned)ZydisRegisterGetId(reg);
}

/* What an explicit general register becomes in its field. */
static bool map_gpr(struct form *f, ZydisRegister reg, uint8_t *field)
{
    unsigned guest = gpr_number(reg), host = f->map->gpr[guest];
    if (host >= 16)
        return false;
    if (is_high_byte(reg)) {
        if (host >= 4)
            return false;
        f->no_rex = true;
    } else if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR8 && host >= 4) {
        f->rex = true; /* from R8 on it is there anyway */
    }
    if (host == 1 && guest != 1)
        f->rcx_taken = true;
    *field = (uint8_t)(is_high_byte(reg) ? host + 4 : host);
    return true;
}

static bool map_implicit_gpr(struct form *f, const ZydisDecodedOperand *o)
{
    unsigned guest = gpr_number(o->reg.value);
    if (f->accumulator_named && guest == 0)
        return map_gpr(f, o->reg.value, &f->reg);
    if (f->map->gpr[guest] == guest)
        return true;
    if (guest == 1 && f->map->rcx_ready && !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)) {
        f->implicit_rcx = true;
        return true;
    }
    return false;
}

/* ---- operands ---- */

static bool form_register(struct form *f, const ZydisDecodedOperand *o)
{
    ZydisRegister reg = o->reg.value;
    uint8_t number = 0;
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8: case ZYDIS_REGCLASS_GPR16: case ZYDIS_REGCLASS_GPR32: case ZYDIS_REGCLASS_GPR64:
        if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE)
            return map_implicit_gpr(f, o);
        if (!map_gpr(f, reg, &number))
            return false;
        break;
    case ZYDIS_REGCLASS_X87: case ZYDIS_REGCLASS_MMX: case ZYDIS_REGCLASS_XMM: case ZYDIS_REGCLASS_YMM:
        number = (uint8_t)ZydisRegisterGetId(reg);
        break;
    case ZYDIS_REGCLASS_FLAGS:
    case ZYDIS_REGCLASS_INVALID: /* MXCSR, the x87 control registers */
        return o->encoding == ZYDIS_OPERAND_ENCODING_NONE;
    default: return false; /* RIP, segments, control, debug, tables, AVX-512 */
    }
    if (number >= 16)
        return false;
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_NONE: return true; /* XMM0 of BLENDVPS, ST(0) */
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: f->reg = number; return true;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM: f->rm = number; return true;
    case ZYDIS_OPERAND_ENCODING_NDSNDD: f->vvvv = number; return true;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        f->opcode_reg = number;
        f->in_opcode = true;
        return true;
    case ZYDIS_OPERAND_ENCODING_IS4:
        f->is4 = number;
        f->in_is4 = true;
        return true;
    default: return false;
    }
}

static bool form_memory(struct form *f, const ZydisDecodedOperand *o)
{
    const struct reencode_map *map = f->map;
    if (o->mem.type != ZYDIS_MEMOP_TYPE_MEM || f->memory ||
        !(o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM || is_moffs(f->z)))
        return false;
    if (map->base >= 16 || (map->index != REENCODE_NO_REG && (map->index >= 16 || map->index == 4)))
        return false;
    if (map->base == 1 || map->index == 1)
        f->rcx_taken = true;
    f->memory = true;
    return true;
}

static bool form_operands(struct form *f, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < f->z->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        switch (o->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (!form_register(f, o))
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (!form_memory(f, o))
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (o->imm.is_relative)
                return false;
            break;
        default: return false; /* a far pointer */
        }
    }
    return !(f->implicit_rcx && f->rcx_taken);
}

/* ---- forms ---- */

/* XCHG r, rAX: which of both forms. 90h with rAX in the opcode would be a NOP. */
static void form_short_xchg(struct form *f)
{
    const ZydisDecodedInstruction *z = f->z;
    bool b = (z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.B;
    unsigned guest = (z->opcode & 7u) | (unsigned)b << 3;
    f->accumulator_named = f->map->gpr[0] != 0 || f->map->gpr[guest] != guest;
}

/* What changes because the encoding is another, after the operands are known. */
static void form_rewrite(struct form *f)
{
    const ZydisDecodedInstruction *z = f->z;
    if (is_moffs(z)) {
        static const uint8_t modrm_form[] = {0x8a, 0x8b, 0x88, 0x89};
        f->opcode = modrm_form[z->opcode - 0xa0];
        f->has_modrm = true;
    } else if (f->accumulator_named) {
        f->opcode = 0x87;
        f->has_modrm = true;
        f->rm = f->opcode_reg;
        f->in_opcode = false;
    } else if (z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && is_one_byte(z) && (z->opcode & 0xf0) == 0x40) {
        f->opcode = 0xff;
        f->has_modrm = true;
        f->reg = z->opcode >> 3 & 1;
        f->rm = f->opcode_reg;
        f->in_opcode = false;
    } else if (z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && is_one_byte(z) && z->opcode == 0x82) {
        f->opcode = 0x80;
    }
}

/* The instruction by fields; false if it has no encoding. */
static bool form_make(struct form *f, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands,
                      const struct reencode_map *map)
{
    bool long_mode = z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
    bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    *f = (struct form){.z = z, .map = map, .opcode = z->opcode, .opcode_map = (uint8_t)z->opcode_map};

    if (!(vex || is_legacy(z)) || z->opcode_map > ZYDIS_OPCODE_MAP_0F3A ||
        z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        return false;
    if (z->mnemonic == M(LEA) || z->mnemonic == M(CLZERO) || is_bit_string(z) || is_hidden_xchg(z) ||
        (!long_mode && is_one_byte(z) && is_legacy_mode_only(z->opcode)))
        return false;

    f->has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    if (f->has_modrm) { /* opcode extensions */
        f->reg = z->raw.modrm.reg;
        f->rm = z->raw.modrm.rm;
    }
    if (vex)
        f->w = z->raw.vex.W && (long_mode || !is_w_ignored(z, operands));
    else
        f->w = (z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.W;
    if (is_moffs(z))
        f->accumulator_named = true;
    else if (is_short_xchg(z))
        form_short_xchg(f);

    if (!form_operands(f, operands))
        return false;
    if ((z->attributes & ZYDIS_ATTRIB_HAS_MODRM) && z->raw.modrm.mod != 3 && !f->memory)
        return false;
    form_rewrite(f);
    return true;
}

/* ---- writing ---- */

/* The bits that extend ModRM.reg, SIB.index, and ModRM.rm or SIB.base, as in REX. */
static unsigned form_rxb(const struct form *f)
{
    unsigned r = f->reg >= 8, x = 0, b;
    if (f->memory) {
        x = f->map->index != REENCODE_NO_REG && f->map->index >= 8;
        b = f->map->base >= 8;
    } else {
        b = (f->in_opcode ? f->opcode_reg : f->rm) >= 8;
    }
    return r << 2 | x << 1 | b;
}

static uint8_t *write_legacy(const struct form *f, uint8_t *p)
{
    const ZydisDecodedInstruction *z = f->z;
    unsigned rex = (unsigned)f->w << 3 | form_rxb(f);
    uint8_t repeat = 0;
    bool operand_size = false;

    for (unsigned i = 0; i < z->raw.prefix_count; i++) {
        uint8_t value = z->raw.prefixes[i].value;
        if (value == 0x66 && z->raw.prefixes[i].type != ZYDIS_PREFIX_TYPE_IGNORED)
            operand_size = true;
        else if ((value == 0xf2 || value == 0xf3) && z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            repeat = value;
    }
    if (f->no_rex && (f->rex || rex != 0))
        return NULL;
    if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        *p++ = 0xf0;
    if (operand_size)
        *p++ = 0x66;
    if (repeat != 0)
        *p++ = repeat;
    if (f->rex || rex != 0)
        *p++ = (uint8_t)(0x40 | rex);
    if (f->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        *p++ = 0x0f;
    if (f->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        *p++ = 0x38;
    if (f->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        *p++ = 0x3a;
    return p;
}

static uint8_t *write_vex(const struct form *f, uint8_t *p)
{
    const ZydisDecodedInstruction *z = f->z;
    unsigned rxb = ~form_rxb(f) & 7;
    uint8_t last = (uint8_t)((~f->vvvv & 15) << 3 | z->raw.vex.L << 2 | z->raw.vex.pp);
    if ((rxb & 3) == 3 && !f->w && z->raw.vex.m_mmmm == 1) {
        *p++ = 0xc5;
        *p++ = (uint8_t)((rxb >> 2) << 7 | last);
    } else {
        *p++ = 0xc4;
        *p++ = (uint8_t)(rxb << 5 | z->raw.vex.m_mmmm);
        *p++ = (uint8_t)(f->w << 7 | last);
    }
    return p;
}

/* ModRM, SIB and displacement. */
static uint8_t *write_modrm(const struct form *f, uint8_t *p)
{
    const struct reencode_map *map = f->map;
    unsigned reg = (f->reg & 7u) << 3;
    if (!f->memory) {
        *p++ = (uint8_t)(0xc0 | reg | (f->rm & 7u));
        return p;
    }
    /* RBP and R13 with mod = 0 mean a displacement without a base; RSP and R12 as rm mean SIB. */
    unsigned mod = map->disp == 0 && (map->base & 7) != 5 ? 0 : map->disp == (int8_t)map->disp ? 1 : 2;
    if (map->index != REENCODE_NO_REG || (map->base & 7) == 4) {
        unsigned index = map->index != REENCODE_NO_REG ? map->index & 7u : 4;
        *p++ = (uint8_t)(mod << 6 | reg | 4);
        *p++ = (uint8_t)(map->scale << 6 | index << 3 | (map->base & 7u));
    } else {
        *p++ = (uint8_t)(mod << 6 | reg | (map->base & 7u));
    }
    unsigned size = mod == 0 ? 0 : mod == 1 ? 1 : 4;
    memcpy(p, &map->disp, size);
    return p + size;
}

unsigned reencode(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands, const uint8_t *bytes,
                  const struct reencode_map *map, uint8_t *out)
{
    struct form f;
    if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && insn->machine_mode != ZYDIS_MACHINE_MODE_LEGACY_32)
        return 0;
    if (is_hint(insn->mnemonic)) {
        out[0] = 0x90;
        return 1;
    }
    if (!form_make(&f, insn, operands, map))
        return 0;
    uint8_t *p = is_legacy(insn) ? write_legacy(&f, out) : write_vex(&f, out);
    if (p == NULL)
        return 0;
    *p++ = f.in_opcode ? (uint8_t)((f.opcode & 0xf8) | (f.opcode_reg & 7)) : f.opcode;
    if (f.has_modrm)
        p = write_modrm(&f, p);
    for (unsigned i = 0; i < 2; i++) {
        unsigned size = insn->raw.imm[i].size / 8u;
        memcpy(p, bytes + insn->raw.imm[i].offset, size);
        p += size;
    }
    if (f.in_is4)
        p[-1] = (uint8_t)((p[-1] & 15) | f.is4 << 4);
    return (unsigned)(p - out);
}

bool reencode_reads_rcx(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    bool reads = false;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || o->encoding != ZYDIS_OPERAND_ENCODING_NONE ||
            !is_gpr(o->reg.value) || gpr_number(o->reg.value) != 1)
            continue;
        if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            return false;
        reads = true;
    }
    return reads;
}

/* ---- what an instruction uses ---- */

static void use_register(struct insn_use *use, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
    ZydisRegister reg = o->reg.value;
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_X87: use->x87 = true; return;
    case ZYDIS_REGCLASS_MMX: use->mmx = true; return;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM: use->vector = true; return;
    default: break;
    }
    if (reg == ZYDIS_REGISTER_MXCSR)
        use->vector = true;
    if (!is_gpr(reg))
        return;
    uint16_t bit = (uint16_t)(1u << gpr_number(reg));
    bool named = o->encoding != ZYDIS_OPERAND_ENCODING_NONE || is_moffs(z) || is_short_xchg(z);
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        use->gpr_read |= bit;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
        use->gpr_written |= bit;
        /* BSF and BSR leave their destination alone if there is no bit. */
        if (o->size < 32 || (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) || z->mnemonic == M(BSF) ||
            z->mnemonic == M(BSR))
            use->gpr_read |= bit;
    }
    if (named)
        use->gpr_explicit |= bit;
    if (named && is_high_byte(reg))
        use->gpr_high |= bit;
}

static void use_memory(struct insn_use *use, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
    if (o->mem.type != ZYDIS_MEMOP_TYPE_MEM && o->mem.type != ZYDIS_MEMOP_TYPE_VSIB)
        return;
    use->memory = true;
    use->memory_read |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    use->memory_written |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    use->memory_size = (uint8_t)(o->size / 8 <= UINT8_MAX ? o->size / 8 : 0);
    if (o->encoding != ZYDIS_OPERAND_ENCODING_NONE)
        return;
    /* The address is implicit, too, and its registers are the operation's; strings move on. */
    uint16_t address = 0;
    if (is_gpr(o->mem.base))
        address |= (uint16_t)(1u << gpr_number(o->mem.base));
    if (is_gpr(o->mem.index))
        address |= (uint16_t)(1u << gpr_number(o->mem.index));
    use->gpr_read |= address;
    if (z->meta.category == ZYDIS_CATEGORY_STRINGOP || z->meta.category == ZYDIS_CATEGORY_IOSTRINGOP)
        use->gpr_written |= address;
}

static uint8_t status_flags(ZydisAccessedFlagsMask mask)
{
    return (uint8_t)((mask & (INSN_USE_FLAGS & ~INSN_USE_OF)) | (mask & ZYDIS_CPUFLAG_OF ? INSN_USE_OF : 0));
}

/* What Zydis' tables leave out. */
static uint8_t flags_left_out(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case M(VPTEST): case M(VTESTPS): case M(VTESTPD): return INSN_USE_FLAGS; /* the other four are cleared */
    default: return 0;
    }
}

static uint8_t flags_undefined(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case M(BLSR): case M(BLSMSK): case M(BZHI): return INSN_USE_PF | INSN_USE_AF;
    case M(LZCNT): case M(TZCNT): return INSN_USE_FLAGS; /* but CF and ZF */
    default: return 0;
    }
}

enum count { COUNT_NONE, COUNT_ZERO, COUNT_UNKNOWN, COUNT_NONZERO };

/* How far the instruction goes, of those that leave flags alone when they do nothing. */
static enum count use_count(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case M(ROL): case M(ROR): case M(RCL): case M(RCR): case M(SHL): case M(SHR): case M(SAR): case M(SHLD):
    case M(SHRD):
        if (z->raw.imm[0].size != 0)
            return z->raw.imm[0].value.u & (z->operand_width == 64 ? 63 : 31) ? COUNT_NONZERO : COUNT_ZERO;
        return is_one_byte(z) && (z->opcode & 0xfe) == 0xd0 ? COUNT_NONZERO : COUNT_UNKNOWN;
    default: break;
    }
    if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        return COUNT_UNKNOWN; /* with rCX = 0 nothing is compared */
    return COUNT_NONE;
}

static void use_flags(struct insn_use *use, const ZydisDecodedInstruction *z)
{
    const ZydisAccessedFlags *flags = z->cpu_flags;
    enum count count = use_count(z);
    if (flags == NULL || count == COUNT_ZERO)
        return;
    use->flags_read = status_flags(flags->tested);
    use->flags_written = status_flags(flags->modified | flags->set_0 | flags->set_1 | flags->undefined) |
                         flags_left_out(z->mnemonic) | flags_undefined(z->mnemonic);
    /* An undefined flag may be what it was before, but AF after AND, OR, XOR and TEST is 0 on every processor. */
    uint8_t certain = status_flags(flags->modified | flags->set_0 | flags->set_1) | flags_left_out(z->mnemonic);
    if (z->mnemonic == M(AND) || z->mnemonic == M(OR) || z->mnemonic == M(XOR) || z->mnemonic == M(TEST))
        certain |= INSN_USE_AF;
    if (count == COUNT_UNKNOWN)
        use->flags_read |= use->flags_written;
    else
        use->all_flags_written = certain == INSN_USE_FLAGS;
}

/* What belongs to the x87 and vector units without naming a register of theirs. */
static void use_units(struct insn_use *use, const ZydisDecodedInstruction *z)
{
    if (is_one_byte(z) && ((z->opcode & 0xf8) == 0xd8 || z->opcode == 0x9b))
        use->x87 = true;
    switch (z->mnemonic) {
    case M(EMMS): case M(CVTPI2PS): case M(CVTPI2PD): use->mmx = true; break;
    case M(LDMXCSR): case M(STMXCSR): case M(VLDMXCSR): case M(VSTMXCSR): case M(VZEROALL): case M(VZEROUPPER):
    case M(CVTSS2SI): case M(CVTSD2SI): case M(CVTTSS2SI): case M(CVTTSD2SI): /* MXCSR, which Zydis does not name */
    case M(VCVTSS2SI): case M(VCVTSD2SI): case M(VCVTTSS2SI): case M(VCVTTSD2SI):
        use->vector = true;
        break;
    default: break;
    }
    use->avx = use->vector && z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
}

void insn_use_of(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands, struct insn_use *out)
{
    *out = (struct insn_use){.memory = false};
    if (is_hint(insn->mnemonic))
        return;
    if (is_hidden_xchg(insn)) {
        out->gpr_read = out->gpr_written = out->gpr_explicit = 1u << 0 | 1u << 8;
        return;
    }
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
            use_register(out, insn, &operands[i]);
        else if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            use_memory(out, insn, &operands[i]);
    }
    use_flags(out, insn);
    use_units(out, insn);
    if (out->memory && out->vector)
        out->aligned = host_operand_alignment(insn, out->memory_size, &out->aligned_strict) != 0;
    if (insn->mnemonic == M(CMPXCHG16B))
        out->aligned = out->aligned_strict = true;
}
