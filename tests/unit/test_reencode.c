/* Re-encoding: every opcode of every map, with prefixes, ModRM bytes and register maps, re-encoded and decoded again.
 *
 * Oracles: the decoder, which must find the same instruction with the mapped registers and the given memory operand;
 * the contract's list of reasons, which must hold exactly when there is no encoding; and a few encodings and summaries
 * written by hand from the manual.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/decode.h"
#include "engine/translate/reencode.h"

#define M(name) ZYDIS_MNEMONIC_##name
#define NO_REG REENCODE_NO_REG

struct sample {
    uint8_t bytes[16];
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
};

struct bench {
    ZydisDecoder guest, host;
    uint64_t random;
    uint64_t decoded, reencoded, refused;
};

static void bench_init(struct bench *b, ZydisMachineMode mode)
{
    ZydisStackWidth width = mode == ZYDIS_MACHINE_MODE_LONG_64     ? ZYDIS_STACK_WIDTH_64
                            : mode == ZYDIS_MACHINE_MODE_LEGACY_32 ? ZYDIS_STACK_WIDTH_32
                                                                   : ZYDIS_STACK_WIDTH_16;
    *b = (struct bench){.random = 0x9e3779b97f4a7c15};
    assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&b->guest, mode, width)));
    assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&b->host, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
}

static uint32_t next(struct bench *b)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return (uint32_t)(b->random >> 16);
}

static bool decode(const ZydisDecoder *decoder, struct sample *d)
{
    memset(d->o, 0, sizeof d->o);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, d->bytes, 15, &d->z, d->o));
}

/* ---- maps ---- */

static void map_memory(struct bench *b, struct reencode_map *map)
{
    static const int32_t disps[] = {0, 0, 1, -1, 127, -128, 128, -129, 0x12345678, INT32_MIN};
    map->base = next(b) % 16;
    map->index = next(b) % 3 == 0 ? NO_REG : (uint8_t)(next(b) % 16);
    if (map->index == RSP)
        map->index = NO_REG;
    map->disp = disps[next(b) % ARRAY_LEN(disps)];
    map->rcx_ready = next(b) % 2;
}

static void map_make(struct bench *b, unsigned kind, struct reencode_map *map)
{
    for (unsigned i = 0; i < 16; i++)
        map->gpr[i] = (uint8_t)i;
    map_memory(b, map);
    if (kind == 1) { /* most in their place, some in scratch registers, some nowhere */
        map->gpr[RCX] = R10;
        map->gpr[RSP] = R14;
        map->gpr[R10] = next(b) % 2 ? RCX : NO_REG;
        map->gpr[R11] = R11;
        map->gpr[R14] = next(b) % 2 ? RCX : NO_REG;
        map->gpr[R15] = next(b) % 2 ? R11 : RCX;
    } else if (kind == 2) { /* anything */
        for (unsigned i = 15; i > 0; i--) {
            unsigned j = next(b) % (i + 1);
            uint8_t other = map->gpr[j];
            map->gpr[j] = map->gpr[i];
            map->gpr[i] = other;
        }
    }
}

/* ---- what the contract says ---- */

static unsigned gpr_width(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8: return 8;
    case ZYDIS_REGCLASS_GPR16: return 16;
    case ZYDIS_REGCLASS_GPR32: return 32;
    case ZYDIS_REGCLASS_GPR64: return 64;
    default: return 0;
    }
}

static bool is_high(ZydisRegister reg)
{
    return reg == ZYDIS_REGISTER_AH || reg == ZYDIS_REGISTER_CH || reg == ZYDIS_REGISTER_DH || reg == ZYDIS_REGISTER_BH;
}

static unsigned container(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return (unsigned)(whole - ZYDIS_REGISTER_RAX);
}

static ZydisRegister gpr_named(unsigned number, unsigned width, bool high)
{
    static const ZydisRegister bytes[16] = {
        ZYDIS_REGISTER_AL,  ZYDIS_REGISTER_CL,  ZYDIS_REGISTER_DL,   ZYDIS_REGISTER_BL,
        ZYDIS_REGISTER_SPL, ZYDIS_REGISTER_BPL, ZYDIS_REGISTER_SIL,  ZYDIS_REGISTER_DIL,
        ZYDIS_REGISTER_R8B, ZYDIS_REGISTER_R9B, ZYDIS_REGISTER_R10B, ZYDIS_REGISTER_R11B,
        ZYDIS_REGISTER_R12B, ZYDIS_REGISTER_R13B, ZYDIS_REGISTER_R14B, ZYDIS_REGISTER_R15B};
    static const ZydisRegister highs[4] = {ZYDIS_REGISTER_AH, ZYDIS_REGISTER_CH, ZYDIS_REGISTER_DH, ZYDIS_REGISTER_BH};
    ZydisRegister first = width == 16 ? ZYDIS_REGISTER_AX : width == 32 ? ZYDIS_REGISTER_EAX : ZYDIS_REGISTER_RAX;
    return high ? highs[number] : width == 8 ? bytes[number] : (ZydisRegister)(first + number);
}

static bool is_hint(const ZydisDecodedInstruction *z)
{
    const char *name = ZydisMnemonicGetString(z->mnemonic);
    return strcmp(name, "nop") == 0 || strncmp(name, "prefetch", 8) == 0 || strcmp(name, "cldemote") == 0;
}

static bool is_one_byte(const ZydisDecodedInstruction *z)
{
    return z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

/* The encodings in which rAX becomes an operand like others. */
static bool names_accumulator(const struct sample *d, const struct reencode_map *map)
{
    if (!is_one_byte(&d->z))
        return false;
    if (d->z.mnemonic == M(XCHG) && (d->z.opcode & 0xf8) == 0x90)
        return map->gpr[RAX] != RAX || map->gpr[container(d->o[0].reg.value)] != container(d->o[0].reg.value);
    return d->z.mnemonic == M(MOV) && (d->z.opcode & 0xfc) == 0xa0;
}

/* Exists as one byte in 32-bit code, not in 64-bit code (SDM vol. 2, table A-2, superscript i64). */
static bool is_i64(const struct sample *d)
{
    switch (d->z.mnemonic) {
    case M(DAA): case M(DAS): case M(AAA): case M(AAS): case M(AAM): case M(AAD): case M(SALC): case M(BOUND):
    case M(ARPL): case M(LES): case M(LDS): case M(INTO): case M(PUSHA): case M(PUSHAD): case M(POPA):
    case M(POPAD): return true;
    default: return false;
    }
}

struct reasons {
    bool other;           /* one that lies in the instruction or its registers */
    bool rex, no_rex;
    bool rcx_used, rcx_taken;
};

static void reason_gpr(struct reasons *r, const ZydisDecodedOperand *o, bool named, const struct reencode_map *map)
{
    unsigned guest = container(o->reg.value), host = map->gpr[guest], width = gpr_width(o->reg.value);
    if (!named) {
        if (host == guest)
            return;
        if (guest == RCX && map->rcx_ready && !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            r->rcx_used = true;
        else
            r->other = true;
        return;
    }
    r->rcx_taken |= host == RCX && guest != RCX;
    if (host == NO_REG || (is_high(o->reg.value) && host > RBX))
        r->other = true;
    r->no_rex |= is_high(o->reg.value);
    r->rex |= host >= R8 || (width == 8 && !is_high(o->reg.value) && host >= RSP);
}

static void reason_operand(struct reasons *r, const struct sample *d, const ZydisDecodedOperand *o,
                           const struct reencode_map *map)
{
    if (o->type == ZYDIS_OPERAND_TYPE_POINTER || (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative))
        r->other = true;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        bool named = o->encoding != ZYDIS_OPERAND_ENCODING_NONE && o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG;
        if (!named || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
            r->other = true;
        r->rex |= map->base >= R8 || (map->index != NO_REG && map->index >= R8);
        r->rcx_taken |= map->base == RCX || map->index == RCX;
    }
    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return;
    if (gpr_width(o->reg.value) != 0) {
        reason_gpr(r, o, o->encoding != ZYDIS_OPERAND_ENCODING_NONE || names_accumulator(d, map), map);
        return;
    }
    switch (ZydisRegisterGetClass(o->reg.value)) {
    case ZYDIS_REGCLASS_SEGMENT: case ZYDIS_REGCLASS_CONTROL: case ZYDIS_REGCLASS_DEBUG: case ZYDIS_REGCLASS_TEST:
    case ZYDIS_REGCLASS_TABLE: case ZYDIS_REGCLASS_IP: case ZYDIS_REGCLASS_BOUND: case ZYDIS_REGCLASS_MASK:
    case ZYDIS_REGCLASS_ZMM: case ZYDIS_REGCLASS_TMM: r->other = true; break;
    case ZYDIS_REGCLASS_XMM: case ZYDIS_REGCLASS_YMM:
        r->rex |= o->encoding != ZYDIS_OPERAND_ENCODING_NONE && ZydisRegisterGetId(o->reg.value) >= 8;
        break;
    default: break;
    }
}

static bool has_reason(const struct sample *d, const struct reencode_map *map)
{
    const ZydisDecodedInstruction *z = &d->z;
    struct reasons r = {.other = false};
    bool legacy = z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY, memory = false;
    if (z->machine_mode == ZYDIS_MACHINE_MODE_LEGACY_16)
        return true;
    if (is_hint(z))
        return false;
    if ((!legacy && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) || z->mnemonic == M(LEA) ||
        z->mnemonic == M(CLZERO) ||
        z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || is_i64(d) || (z->mnemonic == M(PAUSE) && z->raw.rex.B))
        return true;
    for (unsigned i = 0; i < z->operand_count; i++) {
        reason_operand(&r, d, &d->o[i], map);
        memory |= d->o[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
    }
    bool bit_string = (z->mnemonic == M(BT) || z->mnemonic == M(BTS) || z->mnemonic == M(BTR) ||
                       z->mnemonic == M(BTC)) &&
                      memory && d->o[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    r.rex |= legacy && (z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.W;
    return r.other || bit_string || (legacy && r.rex && r.no_rex) || (r.rcx_used && r.rcx_taken);
}

/* ---- comparing ---- */

static const char *difference; /* what compare() has found */
#define SAME(what)                                                                                                     \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            difference = #what;                                                                                        \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

static bool compare_register(const ZydisDecodedOperand *o, const ZydisDecodedOperand *n, const struct sample *d,
                             const struct reencode_map *map)
{
    ZydisRegister reg = o->reg.value;
    unsigned width = gpr_width(reg);
    bool named = o->encoding != ZYDIS_OPERAND_ENCODING_NONE || names_accumulator(d, map);
    if (width != 0 && named)
        SAME(n->reg.value == gpr_named(map->gpr[container(reg)], width, is_high(reg)));
    else
        SAME(n->reg.value == reg);
    return true;
}

static bool compare_memory(const ZydisDecodedOperand *n, const struct reencode_map *map)
{
    bool stack = map->base == RSP || map->base == RBP;
    SAME(n->mem.type == ZYDIS_MEMOP_TYPE_MEM);
    SAME(n->mem.base == (ZydisRegister)(ZYDIS_REGISTER_RAX + map->base));
    if (map->index == NO_REG) {
        SAME(n->mem.index == ZYDIS_REGISTER_NONE);
    } else {
        SAME(n->mem.index == (ZydisRegister)(ZYDIS_REGISTER_RAX + map->index));
        SAME(n->mem.scale == 1);
    }
    SAME((n->mem.disp.has_displacement ? n->mem.disp.value : 0) == map->disp);
    SAME(n->mem.segment == (stack ? ZYDIS_REGISTER_SS : ZYDIS_REGISTER_DS));
    return true;
}

static bool compare_operand(const ZydisDecodedOperand *o, const ZydisDecodedOperand *n, const struct sample *d,
                            const struct reencode_map *map)
{
    uint64_t mask = o->size >= 64 ? ~0ull : (1ull << o->size) - 1;
    SAME(n->type == o->type);
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_width(o->reg.value) == 0 &&
        ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_FLAGS)
        return true; /* EFLAGS, RFLAGS */
    if (o->size == 0 && o->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_width(o->reg.value) == 64 &&
        d->z.machine_mode == ZYDIS_MACHINE_MODE_LEGACY_32) { /* VPCMPESTRI, W means nothing: RAX, says Zydis */
        SAME(n->size == 32 && container(n->reg.value) == container(o->reg.value));
        return true;
    }
    SAME(n->size == o->size);
    SAME(n->actions == o->actions);
    SAME(n->element_size == o->element_size && n->element_count == o->element_count);
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: return compare_register(o, n, d, map);
    case ZYDIS_OPERAND_TYPE_MEMORY: return compare_memory(n, map);
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: SAME((n->imm.value.u & mask) == (o->imm.value.u & mask)); return true;
    default: return true;
    }
}

static bool compare(const struct sample *d, const struct sample *n, const struct reencode_map *map)
{
    const uint64_t prefixes = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE |
                              ZYDIS_ATTRIB_HAS_BND | ZYDIS_ATTRIB_HAS_XACQUIRE | ZYDIS_ATTRIB_HAS_XRELEASE |
                              ZYDIS_ATTRIB_HAS_NOTRACK | ZYDIS_ATTRIB_HAS_SEGMENT | ZYDIS_ATTRIB_HAS_ADDRESSSIZE;
    SAME(n->z.mnemonic == d->z.mnemonic);
    SAME(n->z.encoding == d->z.encoding);
    SAME((n->z.attributes & ZYDIS_ATTRIB_HAS_LOCK) == (d->z.attributes & ZYDIS_ATTRIB_HAS_LOCK));
    SAME((n->z.attributes & prefixes) == 0);
    SAME(d->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX || n->z.operand_width == d->z.operand_width);
    SAME(n->z.avx.vector_length == d->z.avx.vector_length);
    SAME(n->z.meta.exception_class == d->z.meta.exception_class);
    SAME((n->z.cpu_flags == NULL) == (d->z.cpu_flags == NULL));
    SAME(n->z.cpu_flags == NULL || memcmp(n->z.cpu_flags, d->z.cpu_flags, sizeof *n->z.cpu_flags) == 0);
    SAME(n->z.operand_count_visible == d->z.operand_count_visible);
    SAME(n->z.operand_count == d->z.operand_count);
    for (unsigned i = 0; i < d->z.operand_count; i++)
        if (!compare_operand(&d->o[i], &n->o[i], d, map))
            return false;
    return true;
}

static void complain(const struct sample *d, const struct sample *n, unsigned length, const struct reencode_map *map)
{
    print_error("%s:", ZydisMnemonicGetString(d->z.mnemonic));
    for (unsigned i = 0; i < d->z.length; i++)
        print_error(" %02x", d->bytes[i]);
    print_error(" ->");
    for (unsigned i = 0; i < length; i++)
        print_error(" %02x", n->bytes[i]);
    print_error("\n  base %u index %u disp %d rcx_ready %d gpr", map->base, map->index, map->disp, map->rcx_ready);
    for (unsigned i = 0; i < 16; i++)
        print_error(" %u", map->gpr[i]);
    fail_msg("%s", difference);
}

/* ---- summaries: what holds for every instruction ---- */

static void check_use(struct bench *b, const struct sample *d)
{
    struct insn_use use;
    struct reencode_map map;
    uint16_t named = 0, read = 0, written = 0, high = 0, address = 0;
    insn_use_of(&d->z, d->o, &use);
    assert_int_equal(use.flags_read & ~INSN_USE_FLAGS, 0);
    assert_int_equal(use.flags_written & ~INSN_USE_FLAGS, 0);
    assert_true(!use.all_flags_written || use.flags_written == INSN_USE_FLAGS);
    assert_true(!use.aligned || use.memory);
    assert_true(use.memory || !(use.memory_read || use.memory_written));
    assert_true(!use.avx || use.vector);
    if (is_hint(&d->z) || (d->z.mnemonic == M(PAUSE) && d->z.raw.rex.B))
        return;
    map_make(b, 2, &map);
    map.gpr[RAX] = NO_REG;
    for (unsigned i = 0; i < d->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &d->o[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->encoding == ZYDIS_OPERAND_ENCODING_NONE) {
            address |= gpr_width(o->mem.base) != 0 ? 1u << container(o->mem.base) : 0;
            address |= gpr_width(o->mem.index) != 0 ? 1u << container(o->mem.index) : 0;
        }
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || gpr_width(o->reg.value) == 0)
            continue;
        unsigned bit = 1u << container(o->reg.value);
        bool explicit = o->encoding != ZYDIS_OPERAND_ENCODING_NONE || names_accumulator(d, &map);
        read |= o->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? bit : 0;
        written |= o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? bit : 0;
        named |= explicit ? bit : 0;
        high |= explicit && is_high(o->reg.value) ? bit : 0;
    }
    assert_int_equal(use.gpr_explicit, named);
    assert_int_equal(use.gpr_high, high);
    assert_int_equal(use.gpr_written & ~address, written & ~address);
    assert_int_equal(use.gpr_read & (read | address), read | address);
    assert_int_equal(use.gpr_read & ~(read | written | address), 0);
}

/* ---- every opcode ---- */

static void check_one(struct bench *b, struct sample *d)
{
    b->decoded++;
    check_use(b, d);
    if (insn_rows[insn_row_of(d->z.mnemonic)].how == HOW_SLOW)
        return; /* system instructions: nobody asks */
    for (unsigned kind = 0; kind < 3; kind++) {
        struct reencode_map map;
        struct sample n = {.bytes = {0}};
        uint8_t out[REENCODE_MAX + 8];
        map_make(b, kind, &map);
        memset(out, 0xcc, sizeof out);
        unsigned length = reencode(&d->z, d->o, d->bytes, &map, out);
        assert_in_range(length, 0, 15);
        memcpy(n.bytes, out, length);
        difference = "there is an encoding exactly if there is no reason against it";
        if ((length == 0) != has_reason(d, &map))
            complain(d, &n, length, &map);
        if (length == 0) {
            b->refused++;
            continue;
        }
        b->reencoded++;
        difference = "it decodes";
        if (!decode(&b->host, &n) || n.z.length != length)
            complain(d, &n, length, &map);
        if (is_hint(&d->z)) {
            assert_int_equal(n.z.mnemonic, M(NOP));
            continue;
        }
        if (!compare(d, &n, &map))
            complain(d, &n, length, &map);
    }
}

struct pattern {
    bool vex;
    uint8_t map, opcode, prefix, wl;
};

/* Prefixes that change nothing that counts, or nothing at all. */
static unsigned emit_noise(struct bench *b, uint8_t *p)
{
    static const uint8_t noise[] = {0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x67, 0xf2, 0xf3, 0x66, 0xf0};
    unsigned n = 0;
    while (n < 2 && next(b) % 3 == 0)
        p[n++] = noise[next(b) % ARRAY_LEN(noise)];
    return n;
}

static void pattern_emit(struct bench *b, const struct pattern *p, uint8_t modrm, uint8_t bytes[16])
{
    unsigned n = 0;
    bool long_mode = b->guest.machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
    for (unsigned i = 0; i < 16; i++)
        bytes[i] = (uint8_t)next(b);
    if (!p->vex)
        n += emit_noise(b, bytes);
    if (p->vex) {
        /* R, X, B and vvvv; those without a third operand want all ones. */
        unsigned rxb = long_mode ? next(b) & 7 : 7;
        unsigned vvvv = next(b) % 2 ? 15 : next(b) & 15;
        if (p->map == 1 && !(p->wl & 1) && next(b) % 2 == 0) {
            bytes[n++] = 0xc5;
            bytes[n++] = (uint8_t)((rxb & 4) << 5 | vvvv << 3 | (p->wl >> 1) << 2 | p->prefix);
        } else {
            bytes[n++] = 0xc4;
            bytes[n++] = (uint8_t)(rxb << 5 | p->map);
            bytes[n++] = (uint8_t)((p->wl & 1) << 7 | vvvv << 3 | (p->wl >> 1) << 2 | p->prefix);
        }
    } else {
        static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
        if (p->prefix != 0)
            bytes[n++] = prefixes[p->prefix];
        if (long_mode && (p->wl & 1 || next(b) % 2))
            bytes[n++] = (uint8_t)(0x40 | (p->wl & 1) << 3 | (next(b) & 7));
        if (p->map > 0)
            bytes[n++] = 0x0f;
        if (p->map > 1)
            bytes[n++] = p->map == 2 ? 0x38 : 0x3a;
    }
    bytes[n++] = p->opcode;
    bytes[n++] = modrm;
}

/* Some ModRM bytes for each value of reg: all registers; memory with and without SIB, displacement, base. */
static const uint8_t modrm_rest[] = {0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7,
                                     0x00, 0x04, 0x05, 0x43, 0x44, 0x86, 0x84};

static void check_pattern(struct bench *b, const struct pattern *p)
{
    for (unsigned i = 0; i < 8 * ARRAY_LEN(modrm_rest); i++) {
        struct sample d;
        pattern_emit(b, p, (uint8_t)(modrm_rest[i / 8] | (i & 7) << 3), d.bytes);
        if (!decode(&b->guest, &d) || insn_row_of(d.z.mnemonic) == ROW_NONE)
            continue;
        check_one(b, &d);
        if (i == 15 && !(d.z.attributes & ZYDIS_ATTRIB_HAS_MODRM))
            return;
    }
}

static void check_all(ZydisMachineMode mode, bool vex)
{
    struct bench b;
    unsigned wls = vex ? 4 : mode == ZYDIS_MACHINE_MODE_LONG_64 ? 2 : 1;
    bench_init(&b, mode);
    for (unsigned map = vex; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned i = 0; i < 4 * wls; i++)
                check_pattern(&b, &(struct pattern){.vex = vex,
                                                    .map = (uint8_t)map,
                                                    .opcode = (uint8_t)opcode,
                                                    .prefix = i % 4,
                                                    .wl = (uint8_t)(i / 4)});
    print_message("%llu instructions, %llu re-encoded, %llu not\n", (unsigned long long)b.decoded,
                  (unsigned long long)b.reencoded, (unsigned long long)b.refused);
    assert_true(b.decoded > 10000 && b.reencoded > b.decoded / 2);
}

static void test_legacy_64(void **state)
{
    check_all(ZYDIS_MACHINE_MODE_LONG_64, false);
}

static void test_legacy_32(void **state)
{
    check_all(ZYDIS_MACHINE_MODE_LEGACY_32, false);
}

static void test_vex_64(void **state)
{
    check_all(ZYDIS_MACHINE_MODE_LONG_64, true);
}

static void test_vex_32(void **state)
{
    check_all(ZYDIS_MACHINE_MODE_LEGACY_32, true);
}

/* Whatever decodes, in every mode: no encoding that breaks the contract, and none for 16-bit code. */
static void test_random_bytes(void **state)
{
    static const ZydisMachineMode modes[] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_MACHINE_MODE_LEGACY_32,
                                             ZYDIS_MACHINE_MODE_LEGACY_16};
    for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
        struct bench b;
        bench_init(&b, modes[m]);
        for (unsigned i = 0; i < 300000; i++) {
            struct sample d;
            for (unsigned n = 0; n < 16; n++)
                d.bytes[n] = (uint8_t)next(&b);
            if (!decode(&b.guest, &d))
                continue;
            if (insn_row_of(d.z.mnemonic) != ROW_NONE) {
                check_one(&b, &d);
                continue;
            }
            struct reencode_map map;
            struct insn_use use;
            uint8_t out[REENCODE_MAX];
            map_make(&b, i % 3, &map);
            insn_use_of(&d.z, d.o, &use);
            assert_in_range(reencode(&d.z, d.o, d.bytes, &map, out), 0, 15);
        }
        assert_true(modes[m] == ZYDIS_MACHINE_MODE_LEGACY_16 ? b.reencoded == 0 : b.reencoded > 0);
    }
}

/* ---- by hand ---- */

#define BYTES(...) {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__})

/* Guest RCX in R10, RSP in R14, RBX in R12; memory is [r11 + rcx]. */
static const struct {
    unsigned mode;
    uint8_t guest[15];
    unsigned guest_length;
    uint8_t host[15];
    unsigned host_length; /* 0: none */
} known[] = {
    {64, BYTES(0x01, 0xc8), BYTES(0x44, 0x01, 0xd0)},                               /* add eax, ecx */
    {32, BYTES(0x01, 0xc8), BYTES(0x44, 0x01, 0xd0)},
    {32, BYTES(0x66, 0x01, 0xc8), BYTES(0x66, 0x44, 0x01, 0xd0)},                   /* add ax, cx */
    {32, BYTES(0x00, 0xc8), BYTES(0x44, 0x00, 0xd0)},                               /* add al, cl */
    {32, BYTES(0x88, 0xe0), BYTES(0x88, 0xe0)},                                     /* mov al, ah */
    {32, BYTES(0x88, 0xe1), {0}, 0},                                                /* mov cl, ah: r10b wants REX */
    {32, BYTES(0x88, 0xf8), {0}, 0},                                                /* mov al, bh: in r12 */
    {64, BYTES(0x40, 0x88, 0xf0), BYTES(0x40, 0x88, 0xf0)},                         /* mov al, sil */
    {64, BYTES(0x40, 0x88, 0xe0), BYTES(0x44, 0x88, 0xf0)},                         /* mov al, spl */
    {32, BYTES(0x8b, 0x44, 0x24, 0x08), BYTES(0x41, 0x8b, 0x04, 0x0b)},             /* mov eax, [esp + 8] */
    {32, BYTES(0x64, 0x8b, 0x0d, 1, 2, 3, 4), BYTES(0x45, 0x8b, 0x14, 0x0b)},       /* mov ecx, fs:[x] */
    {64, BYTES(0x48, 0x89, 0x1d, 1, 2, 3, 4), BYTES(0x4d, 0x89, 0x24, 0x0b)},       /* mov [rip + x], rbx */
    {32, BYTES(0xa1, 1, 2, 3, 4), BYTES(0x41, 0x8b, 0x04, 0x0b)},                   /* mov eax, [x] */
    {32, BYTES(0xa2, 1, 2, 3, 4), BYTES(0x41, 0x88, 0x04, 0x0b)},                   /* mov [x], al */
    {32, BYTES(0x41), BYTES(0x41, 0xff, 0xc2)},                                     /* inc ecx */
    {32, BYTES(0x4f), BYTES(0xff, 0xcf)},                                           /* dec edi */
    {32, BYTES(0x92), BYTES(0x92)},                                                 /* xchg edx, eax */
    {32, BYTES(0x91), BYTES(0x41, 0x87, 0xc2)},                                     /* xchg ecx, eax */
    {64, BYTES(0x49, 0x90), BYTES(0x49, 0x90)},                                     /* xchg r8, rax */
    {32, BYTES(0x90), BYTES(0x90)},
    {64, BYTES(0x66, 0x0f, 0x1f, 0x44, 0, 0), BYTES(0x90)},                         /* nop word [...] */
    {64, BYTES(0x0f, 0x18, 0x08), BYTES(0x90)},                                     /* prefetcht0 [rax] */
    {64, BYTES(0xf3, 0x90), BYTES(0xf3, 0x90)},                                     /* pause */
    {64, BYTES(0x48, 0xb9, 1, 2, 3, 4, 5, 6, 7, 8), BYTES(0x49, 0xba, 1, 2, 3, 4, 5, 6, 7, 8)}, /* mov rcx, x */
    {32, BYTES(0x0f, 0xc9), BYTES(0x41, 0x0f, 0xca)},                               /* bswap ecx */
    {64, BYTES(0xf0, 0x48, 0x0f, 0xb1, 0x0f), BYTES(0xf0, 0x4d, 0x0f, 0xb1, 0x14, 0x0b)}, /* lock cmpxchg [rdi], rcx */
    {64, BYTES(0xf3, 0x0f, 0xb8, 0xc1), BYTES(0xf3, 0x41, 0x0f, 0xb8, 0xc2)},       /* popcnt eax, ecx */
    {64, BYTES(0xf3, 0x01, 0xc0), BYTES(0x01, 0xc0)},                               /* add eax, eax; F3 means nothing */
    {32, BYTES(0x82, 0xc1, 0x05), BYTES(0x41, 0x80, 0xc2, 0x05)},                   /* add cl, 5 by group 82h */
    {32, BYTES(0x66, 0x0f, 0x6e, 0xc1), BYTES(0x66, 0x41, 0x0f, 0x6e, 0xc2)},       /* movd xmm0, ecx */
    {32, BYTES(0x0f, 0x28, 0x07), BYTES(0x41, 0x0f, 0x28, 0x04, 0x0b)},             /* movaps xmm0, [edi] */
    {32, BYTES(0xc5, 0xf8, 0x28, 0x07), BYTES(0xc4, 0xc1, 0x78, 0x28, 0x04, 0x0b)}, /* vmovaps xmm0, [edi] */
    {64, BYTES(0xc5, 0x78, 0x28, 0xc1), BYTES(0xc5, 0x78, 0x28, 0xc1)},             /* vmovaps xmm8, xmm1 */
    {64, BYTES(0xc4, 0xe1, 0x78, 0x28, 0xc1), BYTES(0xc5, 0xf8, 0x28, 0xc1)},       /* vmovaps xmm0, xmm1 */
    {64, BYTES(0xc4, 0xe2, 0x70, 0xf2, 0xc3), BYTES(0xc4, 0xc2, 0x28, 0xf2, 0xc4)}, /* andn eax, ecx, ebx */
    {32, BYTES(0xc4, 0xe1, 0xf9, 0x6e, 0xc0), BYTES(0xc5, 0xf9, 0x6e, 0xc0)},       /* vmovd xmm0, eax; W ignored */
    {64, BYTES(0xf7, 0xe1), BYTES(0x41, 0xf7, 0xe2)},                               /* mul ecx */
    {64, BYTES(0xd3, 0xe0), {0}, 0},                                                /* shl eax, cl: see rcx_ready */
    {64, BYTES(0x0f, 0x20, 0xc0), {0}, 0},                                          /* mov rax, cr0 */
    {64, BYTES(0x8e, 0xd8), {0}, 0},                                                /* mov ds, eax */
    {64, BYTES(0x0f, 0xa3, 0x07), {0}, 0},                                          /* bt [rdi], eax */
    {64, BYTES(0x0f, 0xba, 0x27, 0x05), BYTES(0x41, 0x0f, 0xba, 0x24, 0x0b, 0x05)}, /* bt dword [rdi], 5 */
    {64, BYTES(0xa4), {0}, 0},                                                      /* movsb */
    {64, BYTES(0x50), {0}, 0},                                                      /* push rax */
    {64, BYTES(0x8d, 0x00), {0}, 0},                                                /* lea eax, [rax] */
    {64, BYTES(0xeb, 0x00), {0}, 0},                                                /* jmp */
    {32, BYTES(0xd4, 0x0a), {0}, 0},                                                /* aam */
};

static void map_known(struct reencode_map *map)
{
    *map = (struct reencode_map){.base = R11, .index = RCX};
    for (unsigned i = 0; i < 16; i++)
        map->gpr[i] = (uint8_t)i;
    map->gpr[RCX] = R10;
    map->gpr[RSP] = R14;
    map->gpr[RBX] = R12;
}

static void bench_decode(struct bench *b, unsigned mode, const uint8_t *bytes, unsigned length, struct sample *d)
{
    bench_init(b, mode == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32);
    memset(d->bytes, 0, sizeof d->bytes);
    memcpy(d->bytes, bytes, length);
    assert_true(decode(&b->guest, d));
    assert_int_equal(d->z.length, length);
}

static void test_known(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
        struct bench b;
        struct sample d, n;
        struct reencode_map map;
        bench_decode(&b, known[i].mode, known[i].guest, known[i].guest_length, &d);
        map_known(&map);
        unsigned length = reencode(&d.z, d.o, d.bytes, &map, n.bytes);
        difference = "the bytes are those of the manual";
        if (length != known[i].host_length || memcmp(n.bytes, known[i].host, length) != 0)
            complain(&d, &n, length, &map);
    }
}

/* The memory operand's forms: base, index, displacement and the bytes after 8Bh, mov eax, [...]. */
static void test_memory_operand(void **state)
{
    static const struct {
        uint8_t base, index;
        int32_t disp;
        uint8_t bytes[8];
        unsigned length;
    } forms[] = {
        {RAX, NO_REG, 0, BYTES(0x8b, 0x00)},
        {RBP, NO_REG, 0, BYTES(0x8b, 0x45, 0x00)},
        {R13, NO_REG, 0, BYTES(0x41, 0x8b, 0x45, 0x00)},
        {RSP, NO_REG, 0, BYTES(0x8b, 0x04, 0x24)},
        {R12, NO_REG, 4, BYTES(0x41, 0x8b, 0x44, 0x24, 0x04)},
        {RAX, NO_REG, -128, BYTES(0x8b, 0x40, 0x80)},
        {RAX, NO_REG, 128, BYTES(0x8b, 0x80, 0x80, 0, 0, 0)},
        {R11, RCX, 0, BYTES(0x41, 0x8b, 0x04, 0x0b)},
        {RCX, R12, 0, BYTES(0x42, 0x8b, 0x04, 0x21)},
        {R13, RAX, 0, BYTES(0x41, 0x8b, 0x44, 0x05, 0x00)},
        {RAX, RSP, 0, {0}, 0},
    };
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        struct bench b;
        struct sample d;
        uint8_t out[REENCODE_MAX];
        bench_decode(&b, 64, (const uint8_t[]){0x8b, 0x07}, 2, &d);
        struct reencode_map map = {.base = forms[i].base, .index = forms[i].index, .disp = forms[i].disp};
        assert_int_equal(reencode(&d.z, d.o, d.bytes, &map, out), forms[i].length);
        assert_memory_equal(out, forms[i].bytes, forms[i].length);
    }
}

/* The count in host RCX while guest RCX, which may also be an operand, is elsewhere. */
static void test_rcx_ready(void **state)
{
    static const uint8_t shl_ecx_cl[] = {0xd3, 0xe1}, expected[] = {0x41, 0xd3, 0xe2}, shl_memory[] = {0xd3, 0x27},
                         cmpxchg8b[] = {0x0f, 0xc7, 0x0f}, div[] = {0xf7, 0xf1};
    struct bench b;
    struct sample d;
    struct reencode_map map;
    uint8_t out[REENCODE_MAX];

    bench_decode(&b, 64, shl_ecx_cl, sizeof shl_ecx_cl, &d);
    map_known(&map);
    assert_true(reencode_reads_rcx(&d.z, d.o));
    assert_int_equal(reencode(&d.z, d.o, d.bytes, &map, out), 0);
    map.rcx_ready = true;
    assert_int_equal(reencode(&d.z, d.o, d.bytes, &map, out), 3);
    assert_memory_equal(out, expected, 3);

    bench_decode(&b, 64, shl_memory, sizeof shl_memory, &d);
    assert_int_equal(reencode(&d.z, d.o, d.bytes, &map, out), 0); /* the index is in RCX */
    map.index = NO_REG;
    assert_int_equal(reencode(&d.z, d.o, d.bytes, &map, out), 3);

    bench_decode(&b, 64, cmpxchg8b, sizeof cmpxchg8b, &d);
    assert_true(reencode_reads_rcx(&d.z, d.o));
    assert_int_equal(reencode(&d.z, d.o, d.bytes, &map, out), 0); /* EBX has moved */
    map.gpr[RBX] = RBX;
    assert_int_equal(reencode(&d.z, d.o, d.bytes, &map, out), 4);

    bench_decode(&b, 64, div, sizeof div, &d);
    assert_false(reencode_reads_rcx(&d.z, d.o));
}

/* ---- summaries by hand ---- */

#define CF INSN_USE_CF
#define OF INSN_USE_OF
#define PF INSN_USE_PF
#define AF INSN_USE_AF
#define ZF INSN_USE_ZF
#define SF INSN_USE_SF
#define ALL INSN_USE_FLAGS
#define R(n) (1u << R##n)

static const struct {
    unsigned mode;
    uint8_t bytes[15];
    unsigned length;
    struct insn_use use;
} uses[] = {
    /* add rax, rbx */
    {64, BYTES(0x48, 0x01, 0xd8),
     {.gpr_read = R(AX) | R(BX), .gpr_written = R(AX), .gpr_explicit = R(AX) | R(BX), .flags_written = ALL,
      .all_flags_written = true}},
    /* adc [rdi], ecx */
    {64, BYTES(0x11, 0x0f),
     {.gpr_read = R(CX), .gpr_explicit = R(CX), .memory = true, .memory_read = true, .memory_written = true,
      .memory_size = 4, .flags_read = CF, .flags_written = ALL, .all_flags_written = true}},
    /* mov cx, [rdi]: half a register */
    {64, BYTES(0x66, 0x8b, 0x0f),
     {.gpr_read = R(CX), .gpr_written = R(CX), .gpr_explicit = R(CX), .memory = true, .memory_read = true,
      .memory_size = 2}},
    /* mov ch, al */
    {32, BYTES(0x88, 0xc5),
     {.gpr_read = R(AX) | R(CX), .gpr_written = R(CX), .gpr_explicit = R(AX) | R(CX), .gpr_high = R(CX)}},
    /* mov eax, [x] by moffs */
    {32, BYTES(0xa1, 1, 2, 3, 4),
     {.gpr_written = R(AX), .gpr_explicit = R(AX), .memory = true, .memory_read = true, .memory_size = 4}},
    /* cmovz eax, ebx */
    {64, BYTES(0x0f, 0x44, 0xc3),
     {.gpr_read = R(AX) | R(BX), .gpr_written = R(AX), .gpr_explicit = R(AX) | R(BX), .flags_read = ZF}},
    /* setb [rdi] */
    {64, BYTES(0x0f, 0x92, 0x07), {.memory = true, .memory_written = true, .memory_size = 1, .flags_read = CF}},
    /* bsf eax, ebx */
    {64, BYTES(0x0f, 0xbc, 0xc3),
     {.gpr_read = R(AX) | R(BX), .gpr_written = R(AX), .gpr_explicit = R(AX) | R(BX), .flags_written = ALL}},
    /* inc edx leaves CF alone */
    {32, BYTES(0x42),
     {.gpr_read = R(DX), .gpr_written = R(DX), .gpr_explicit = R(DX), .flags_written = ALL & ~CF}},
    /* shl edx, 1; shl edx, 32; shl rdx, 32; shl edx, cl */
    {64, BYTES(0xd1, 0xe2),
     {.gpr_read = R(DX), .gpr_written = R(DX), .gpr_explicit = R(DX), .flags_written = ALL}},
    {64, BYTES(0xc1, 0xe2, 0x20), {.gpr_read = R(DX), .gpr_written = R(DX), .gpr_explicit = R(DX)}},
    {64, BYTES(0x48, 0xc1, 0xe2, 0x20),
     {.gpr_read = R(DX), .gpr_written = R(DX), .gpr_explicit = R(DX), .flags_written = ALL}},
    {64, BYTES(0xd3, 0xe2),
     {.gpr_read = R(CX) | R(DX), .gpr_written = R(DX), .gpr_explicit = R(DX), .flags_read = ALL, .flags_written = ALL}},
    /* rol dl, cl; rcr edx, 3 */
    {64, BYTES(0xd2, 0xc2),
     {.gpr_read = R(CX) | R(DX), .gpr_written = R(DX), .gpr_explicit = R(DX), .flags_read = CF | OF,
      .flags_written = CF | OF}},
    {64, BYTES(0xc1, 0xda, 0x03),
     {.gpr_read = R(DX), .gpr_written = R(DX), .gpr_explicit = R(DX), .flags_read = CF, .flags_written = CF | OF}},
    /* shld edx, eax, cl */
    {64, BYTES(0x0f, 0xa5, 0xc2),
     {.gpr_read = R(AX) | R(CX) | R(DX), .gpr_written = R(DX), .gpr_explicit = R(AX) | R(DX), .flags_read = ALL,
      .flags_written = ALL}},
    /* mul ebx; div bl */
    {64, BYTES(0xf7, 0xe3),
     {.gpr_read = R(AX) | R(BX), .gpr_written = R(AX) | R(DX), .gpr_explicit = R(BX), .flags_written = ALL}},
    {64, BYTES(0xf6, 0xf3),
     {.gpr_read = R(AX) | R(BX), .gpr_written = R(AX), .gpr_explicit = R(BX), .flags_written = ALL}},
    /* lahf; sahf; cmc */
    {64, BYTES(0x9f), {.gpr_read = R(AX), .gpr_written = R(AX), .flags_read = ALL & ~OF}},
    {64, BYTES(0x9e), {.gpr_read = R(AX), .flags_written = ALL & ~OF}},
    {64, BYTES(0xf5), {.flags_read = CF, .flags_written = CF}},
    /* cdq; cwd */
    {64, BYTES(0x99), {.gpr_read = R(AX), .gpr_written = R(DX)}},
    {64, BYTES(0x66, 0x99), {.gpr_read = R(AX) | R(DX), .gpr_written = R(DX)}},
    /* bt eax, 3: ZF is left alone */
    {64, BYTES(0x0f, 0xba, 0xe0, 0x03),
     {.gpr_read = R(AX), .gpr_explicit = R(AX), .flags_written = ALL & ~ZF}},
    /* cmpxchg16b [rdi] */
    {64, BYTES(0x48, 0x0f, 0xc7, 0x0f),
     {.gpr_read = R(AX) | R(BX) | R(CX) | R(DX), .gpr_written = R(AX) | R(DX), .memory = true, .memory_read = true,
      .memory_written = true, .memory_size = 16, .aligned = true, .aligned_strict = true, .flags_written = ZF}},
    /* xchg ecx, eax */
    {32, BYTES(0x91), {.gpr_read = R(AX) | R(CX), .gpr_written = R(AX) | R(CX), .gpr_explicit = R(AX) | R(CX)}},
    /* mulx rax, rbx, rcx */
    {64, BYTES(0xc4, 0xe2, 0xe3, 0xf6, 0xc1),
     {.gpr_read = R(CX) | R(DX), .gpr_written = R(AX) | R(BX), .gpr_explicit = R(AX) | R(BX) | R(CX)}},
    /* adox eax, ebx */
    {64, BYTES(0xf3, 0x0f, 0x38, 0xf6, 0xc3),
     {.gpr_read = R(AX) | R(BX), .gpr_written = R(AX), .gpr_explicit = R(AX) | R(BX), .flags_read = OF,
      .flags_written = OF}},
    /* lea eax, [rbx]; nop [rax]; prefetcht0 [rax] */
    {64, BYTES(0x8d, 0x03), {.gpr_written = R(AX), .gpr_explicit = R(AX)}},
    {64, BYTES(0x0f, 0x1f, 0x00), {.memory = false}},
    {64, BYTES(0x0f, 0x18, 0x08), {.memory = false}},
    /* repe cmpsb */
    {64, BYTES(0xf3, 0xa6),
     {.gpr_read = R(CX) | R(SI) | R(DI), .gpr_written = R(CX) | R(SI) | R(DI), .memory = true, .memory_read = true,
      .memory_size = 1, .flags_read = ALL, .flags_written = ALL}},
    /* movaps xmm0, [rdi]; movups; addps; addss; vaddps; vmovaps ymm0 */
    {64, BYTES(0x0f, 0x28, 0x07),
     {.memory = true, .memory_read = true, .memory_size = 16, .aligned = true, .aligned_strict = true, .vector = true}},
    {64, BYTES(0x0f, 0x10, 0x07), {.memory = true, .memory_read = true, .memory_size = 16, .vector = true}},
    {64, BYTES(0x0f, 0x58, 0x07),
     {.memory = true, .memory_read = true, .memory_size = 16, .aligned = true, .vector = true}},
    {64, BYTES(0xf3, 0x0f, 0x58, 0x07), {.memory = true, .memory_read = true, .memory_size = 4, .vector = true}},
    {64, BYTES(0xc5, 0xf8, 0x58, 0x07),
     {.memory = true, .memory_read = true, .memory_size = 16, .vector = true, .avx = true}},
    {64, BYTES(0xc5, 0xfc, 0x28, 0x07),
     {.memory = true, .memory_read = true, .memory_size = 32, .aligned = true, .aligned_strict = true, .vector = true,
      .avx = true}},
    /* vptest ymm0, ymm1; ucomisd xmm0, xmm1; vzeroupper */
    {64, BYTES(0xc4, 0xe2, 0x7d, 0x17, 0xc1),
     {.vector = true, .avx = true, .flags_written = ALL, .all_flags_written = true}},
    {64, BYTES(0x66, 0x0f, 0x2e, 0xc1), {.vector = true, .flags_written = ALL, .all_flags_written = true}},
    {64, BYTES(0xc5, 0xf8, 0x77), {.vector = true, .avx = true}},
    /* movd xmm0, ecx; pinsrw xmm0, ecx, 1; pmovmskb eax, xmm0 */
    {64, BYTES(0x66, 0x0f, 0x6e, 0xc1), {.gpr_read = R(CX), .gpr_explicit = R(CX), .vector = true}},
    {64, BYTES(0x66, 0x0f, 0xc4, 0xc1, 0x01), {.gpr_read = R(CX), .gpr_explicit = R(CX), .vector = true}},
    {64, BYTES(0x66, 0x0f, 0xd7, 0xc0), {.gpr_written = R(AX), .gpr_explicit = R(AX), .vector = true}},
    /* paddb mm0, mm1; emms; fadd st0, st1; fnstsw ax */
    {64, BYTES(0x0f, 0xfc, 0xc1), {.mmx = true}},
    {64, BYTES(0x0f, 0x77), {.mmx = true}},
    {64, BYTES(0xd8, 0xc1), {.x87 = true}},
    {64, BYTES(0xdf, 0xe0), {.gpr_read = R(AX), .gpr_written = R(AX), .x87 = true}},
};

static void test_uses(void **state)
{
    for (unsigned i = 0; i < ARRAY_LEN(uses); i++) {
        struct bench b;
        struct sample d;
        struct insn_use use;
        const struct insn_use *e = &uses[i].use;
        bench_decode(&b, uses[i].mode, uses[i].bytes, uses[i].length, &d);
        insn_use_of(&d.z, d.o, &use);
#define FIELD(name)                                                                                                    \
    if (use.name != e->name)                                                                                           \
        fail_msg("%s (entry %u): " #name " is %x, not %x", ZydisMnemonicGetString(d.z.mnemonic), i, use.name, e->name)
        FIELD(gpr_read);
        FIELD(gpr_written);
        FIELD(gpr_explicit);
        FIELD(gpr_high);
        FIELD(memory);
        FIELD(memory_read);
        FIELD(memory_written);
        FIELD(memory_size);
        FIELD(aligned);
        FIELD(aligned_strict);
        FIELD(vector);
        FIELD(avx);
        FIELD(x87);
        FIELD(mmx);
        FIELD(flags_read);
        FIELD(flags_written);
        FIELD(all_flags_written);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),     cmocka_unit_test(test_memory_operand), cmocka_unit_test(test_rcx_ready),
        cmocka_unit_test(test_uses),      cmocka_unit_test(test_legacy_64),      cmocka_unit_test(test_legacy_32),
        cmocka_unit_test(test_vex_64),    cmocka_unit_test(test_vex_32),         cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
