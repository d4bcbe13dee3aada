/* Makes cases: code, and a state in which it does something.
 *
 * Random registers alone would make nearly every memory operand fault and every branch leave. So each instruction is looked at
 * as the decoder sees it, and state, displacement, immediates and memory are bent until, most of the time, memory
 * operands hit the arena (aligned, unaligned, over a page's end, in the read-only page), branches land on an INT3, REP
 * counts are small, CMPXCHG sometimes matches, and so on. The rest of the time nothing is bent.
 *
 * A case never branches into its own bytes, so that it ends; but for programs, which program.c makes.
 */
#include "maker.h"
#include "values.h"

static uint64_t mode_mask(const struct maker *m)
{
    return m->mode == ISA_64 ? UINT64_MAX : UINT32_MAX;
}

/* ---- where things are ---- */
/* An arena address that `size` bytes are to be accessed at. */
uint64_t arena_choose(struct maker *m, unsigned size)
{
    struct rng *rng = &m->rng;
    unsigned align = size > 0 && (size & (size - 1)) == 0 ? size : 8;
    uint64_t offset;

    switch (rng_below(rng, 20)) {
    case 0: offset = 0x1000 - 1 - rng_below(rng, size + 1); break; /* over a page's end */
    case 1: offset = 0x2000 - 1 - rng_below(rng, size + 1); break; /* into the read-only page */
    case 2: offset = 0x2000 + rng_below(rng, 0x1000); break;
    case 3: offset = rng_one_in(rng, 3) ? 0x3000 - 1 - rng_below(rng, size + 1) : rng_below(rng, 0x1f00); break;
    case 4:
    case 5:
    case 6: offset = rng_below(rng, 0x1f00); break;
    default: offset = rng_below(rng, 0x1f00) & ~(uint64_t)(align - 1); break;
    }
    return (m->mode == ISA_64 && rng_one_in(rng, 3) ? ALIAS : ARENA) + offset;
}

/* Offset in CODE of an INT3 that is not within the case. */
static uint32_t landing_choose(struct maker *m)
{
    for (;;) {
        uint32_t offset = 0x40 + rng_below(&m->rng, CODE_SIZE - 0x80);
        if (offset + 32 < m->c->code_offset || offset > m->c->code_offset + CODE_MAX)
            return offset;
    }
}

/* `bytes` for the arena at linear address `at`. */
static void patch_add(struct maker *m, uint64_t at, const void *bytes, unsigned size)
{
    struct isa_case *c = m->c;
    uint64_t offset = at - (at >= ALIAS ? ALIAS : ARENA);

    if (offset >= ARENA_SIZE || c->patch_count == ISA_PATCHES || size > sizeof(c->patch[0].bytes))
        return;
    c->patch[c->patch_count].offset = (uint16_t)offset;
    c->patch[c->patch_count].size = (uint8_t)size;
    memcpy(c->patch[c->patch_count].bytes, bytes, size);
    c->patch_count++;
}

enum isa_seg seg_of(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES: return ISA_ES;
    case ZYDIS_REGISTER_CS: return ISA_CS;
    case ZYDIS_REGISTER_SS: return ISA_SS;
    case ZYDIS_REGISTER_FS: return ISA_FS;
    case ZYDIS_REGISTER_GS: return ISA_GS;
    default: return ISA_DS;
    }
}

int gpr_of(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return ZydisRegisterGetId(reg);
    case ZYDIS_REGCLASS_GPR8:
        return ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
    default: return -1;
    }
}

/* Sets the low `width` bits of a register; the rest sometimes becomes junk. */
static bool gpr_bend(struct maker *m, int reg, uint64_t value, unsigned width)
{
    uint64_t mask = width >= 64 ? UINT64_MAX : (1ull << width) - 1;
    uint64_t old = m->c->state.gpr[reg];

    if (m->fixed >> reg & 1)
        return ((old ^ value) & mask) == 0;
    if (rng_below(&m->rng, 2))
        old = 0;
    m->c->state.gpr[reg] = ((value & mask) | (old & ~mask)) & mode_mask(m);
    return true;
}

/* ---- memory operands ---- */
static void bytes_put(struct draft *d, unsigned offset, unsigned size, uint64_t value)
{
    memcpy(d->bytes + offset, &value, size);
}

static void vsib_bend(struct maker *m, const ZydisDecodedOperand *op)
{
    uint8_t *lanes = m->c->state.ymm[ZydisRegisterGetId(op->mem.index)];
    bool wide = rng_below(&m->rng, 2);
    for (unsigned i = 0; i < 32; i += wide ? 8 : 4) {
        int64_t x = (int64_t)rng_below(&m->rng, 64) - 16;
        memcpy(lanes + i, &x, wide ? 8 : 4);
    }
}

/* Makes the operand's effective address `linear`, as far as its form and what is fixed permit. */
static bool address_bend(struct maker *m, struct draft *d, const ZydisDecodedOperand *op, uint64_t linear)
{
    struct isa_state *s = &m->c->state;
    unsigned width = d->in.address_width;
    uint64_t offset = linear - isa_seg_base(s, m->mode, seg_of(op->mem.segment));
    uint64_t need = offset - (uint64_t)op->mem.disp.value;
    int base = gpr_of(op->mem.base), index = gpr_of(op->mem.index);

    if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        vsib_bend(m, op);
        index = -1;
    }
    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
        bytes_put(d, d->in.raw.disp.offset, 4, offset - (CODE + m->c->code_offset + m->c->length + d->in.length));
        return true;
    }
    if (base < 0 && index < 0) {
        if (d->in.raw.disp.size >= 16 && op->mem.type != ZYDIS_MEMOP_TYPE_VSIB)
            bytes_put(d, d->in.raw.disp.offset, d->in.raw.disp.size / 8, offset);
        return true;
    }
    if (index < 0)
        return gpr_bend(m, base, need, width);
    if (base < 0)
        return gpr_bend(m, index, need / op->mem.scale, width);
    if (base == index)
        return gpr_bend(m, base, need / (1u + op->mem.scale), width);
    if (!(m->fixed >> index & 1) && rng_below(&m->rng, 2))
        gpr_bend(m, index, rng_below(&m->rng, 64), width);
    need -= s->gpr[index] * op->mem.scale;
    return gpr_bend(m, base, need, width);
}

static void registers_fix(struct maker *m, const ZydisDecodedOperand *op)
{
    int base = gpr_of(op->mem.base), index = gpr_of(op->mem.index);
    if (base >= 0)
        m->fixed |= 1u << base;
    if (index >= 0)
        m->fixed |= 1u << index;
}

/* A selector: of every kind, good and bad. */
static uint16_t selector_choose(struct maker *m)
{
    static const uint16_t selectors[] = {0, 3, SEL_USER32_CS, SEL_USER_DS, SEL_USER_CS, LDT_DATA32, LDT_DATA16, LDT_DOWN,
                                         LDT_READ, LDT_CODE16, LDT_CODE32, 0x10, 0x18, 0x28, 0x0c, 0x50, 0x40, 0x63, 0x1f7};
    if (rng_one_in(&m->rng, 12)) {
        /* Not the entry that holds the number of the processor: its limit differs. */
        uint16_t any = (uint16_t)rng_next(&m->rng);
        return (any & ~7) == 0x78 ? 0 : any;
    }
    uint16_t selector = selectors[rng_below(&m->rng, ARRAY_LEN(selectors))];
    return m->encodings->features.ldt || !(selector & 4) ? selector : SEL_USER_DS;
}

/* Where to go in a code segment, and the segment. */
static uint64_t far_pointer(struct maker *m, uint16_t *selector)
{
    static const uint16_t code[] = {SEL_USER32_CS, SEL_USER_CS, LDT_CODE16, LDT_CODE32};
    *selector = rng_one_in(&m->rng, 4) ? selector_choose(m) : code[rng_below(&m->rng, 4)];
    if ((*selector & 4) && !m->encodings->features.ldt)
        *selector = SEL_USER32_CS;
    /* 64-bit code would use all of RSP, whose upper half Linux' espfix has changed if SS is in the LDT. */
    if (m->mode != ISA_64 && (m->c->state.seg[ISA_SS] & 4) && (*selector & ~7) == (SEL_USER_CS & ~7))
        *selector = SEL_USER32_CS;
    return landing_choose(m) + (*selector & 4 ? 0 : CODE);
}

/* What the memory at `linear` should hold for this instruction. */
static void contents_bend(struct maker *m, const struct draft *d, const ZydisDecodedOperand *op, uint64_t linear)
{
    struct isa_state *s = &m->c->state;
    uint64_t words[4] = {0};
    uint16_t selector;

    switch (d->in.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
        if (d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
            unsigned size = d->in.operand_width / 8;
            words[0] = far_pointer(m, &selector);
            words[1] = 0;
            uint8_t image[16];
            memcpy(image, words, 16);
            memset(image + size, 0, 8);
            memcpy(image + size, &selector, 2);
            patch_add(m, linear, image, 16);
        } else {
            words[0] = landing_choose(m) + CODE - isa_seg_base(s, m->mode, ISA_CS);
            patch_add(m, linear, words, 8);
        }
        return;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        words[0] = rng_next(&m->rng) & ~0x100ull; /* a single-step trap would hit the INT3 */
        patch_add(m, linear, words, 8);
        return;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
        selector = selector_choose(m);
        patch_add(m, linear + (d->in.operand_width == 16 ? 2 : d->in.operand_width == 32 ? 4 : 8), &selector, 2);
        return;
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        words[0] = s->gpr[0];
        words[1] = s->gpr[2];
        if (d->in.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B)
            words[0] = (uint32_t)s->gpr[0] | s->gpr[2] << 32;
        if (rng_below(&m->rng, 2))
            patch_add(m, linear, words, 16);
        return;
    default:
        break;
    }
    bool selector_operand = false;
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        if (d->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(d->operands[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
            selector_operand = true;
    }
    if (selector_operand || d->in.mnemonic == ZYDIS_MNEMONIC_LAR || d->in.mnemonic == ZYDIS_MNEMONIC_LSL ||
        d->in.mnemonic == ZYDIS_MNEMONIC_VERR || d->in.mnemonic == ZYDIS_MNEMONIC_VERW) {
        selector = selector_choose(m);
        patch_add(m, linear, &selector, 2);
    } else if (!rng_one_in(&m->rng, 4)) {
        uint8_t bytes[64];
        value_fill(&m->rng, bytes, sizeof(bytes));
        patch_add(m, linear, bytes, op->size >= 128 ? 64 : 32);
    }
}

static void memory_bend(struct maker *m, struct draft *d)
{
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        /* A wild address, sometimes. But a popped TF must not be. */
        bool wild = rng_one_in(&m->rng, 10) && d->in.mnemonic != ZYDIS_MNEMONIC_POPF &&
                    d->in.mnemonic != ZYDIS_MNEMONIC_POPFD && d->in.mnemonic != ZYDIS_MNEMONIC_POPFQ;
        uint64_t linear = arena_choose(m, op->size / 8);
        if (!wild && address_bend(m, d, op, linear))
            contents_bend(m, d, op, linear);
        registers_fix(m, op);
    }
}

/* ---- the rest of an instruction ---- */
void immediates_bend(struct maker *m, struct draft *d)
{
    uint32_t start = m->c->code_offset + m->c->length;
    uint16_t selector;

    for (unsigned i = 0; i < 2; i++) {
        unsigned size = d->in.raw.imm[i].size / 8;
        if (size == 0)
            continue;
        if (d->in.raw.imm[i].is_relative) {
            uint32_t from = start + d->in.length;
            int32_t to = (int32_t)landing_choose(m);
            if (size == 1) {
                /* Behind the case's memory, or before it. */
                to = (int32_t)from + 70 + (int32_t)rng_below(&m->rng, 57);
                if (rng_below(&m->rng, 2))
                    to = (int32_t)from - 64 - (int32_t)rng_below(&m->rng, 60);
            } else if (rng_one_in(&m->rng, 12)) {
                continue; /* anywhere */
            }
            bytes_put(d, d->in.raw.imm[i].offset, size, (uint64_t)(int64_t)(to - (int32_t)from));
        } else if (rng_below(&m->rng, 2)) {
            bytes_put(d, d->in.raw.imm[i].offset, size, value_integer(&m->rng));
        }
    }
    if (d->operands[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
        uint64_t to = far_pointer(m, &selector);
        bytes_put(d, d->in.raw.imm[0].offset, d->in.raw.imm[0].size / 8, to);
        bytes_put(d, d->in.raw.imm[1].offset, 2, selector);
    }
}

static void register_operands_bend(struct maker *m, const struct draft *d)
{
    struct isa_state *s = &m->c->state;
    int first = d->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_of(d->operands[0].reg.value) : -1;
    int second = d->operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_of(d->operands[1].reg.value) : -1;
    unsigned size = d->in.operand_width;

    switch (d->in.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
        if (first >= 0 && !rng_one_in(&m->rng, 8))
            gpr_bend(m, first, CODE + landing_choose(m) - isa_seg_base(s, m->mode, ISA_CS), 64);
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        if (second >= 0 && !rng_one_in(&m->rng, 4))
            gpr_bend(m, second, (uint64_t)(int64_t)((int)rng_below(&m->rng, 1024) - 512), size);
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        /* Quotients that fit. */
        if (!rng_one_in(&m->rng, 3)) {
            uint64_t high = value_integer(&m->rng) >> rng_below(&m->rng, 64);
            if (rng_below(&m->rng, 2))
                high = (uint64_t)-(int64_t)(rng_below(&m->rng, 2));
            gpr_bend(m, 2, high, size);
            if (size == 8)
                gpr_bend(m, 0, (s->gpr[0] & 0xff) | (high & 0xff) << 8, 16);
        }
        break;
    case ZYDIS_MNEMONIC_CMPXCHG:
        if (first >= 0 && rng_below(&m->rng, 2))
            gpr_bend(m, first, s->gpr[0], 64);
        break;
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
        if (second >= 0 && (d->in.mnemonic != ZYDIS_MNEMONIC_MOV ||
                            ZydisRegisterGetClass(d->operands[0].reg.value) == ZYDIS_REGCLASS_SEGMENT))
            gpr_bend(m, second, selector_choose(m), 16);
        break;
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        if (first >= 0)
            gpr_bend(m, first, selector_choose(m), 16);
        break;
    default:
        break;
    }
    if (first >= 0 && second >= 0 && first != second && rng_one_in(&m->rng, 12))
        gpr_bend(m, first, s->gpr[second], 64);
}

static void counts_bend(struct maker *m, const struct draft *d)
{
    if (d->in.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) {
        if (!rng_one_in(&m->rng, 8))
            gpr_bend(m, 1, rng_below(&m->rng, 40), d->in.address_width);
        m->fixed |= 1u << 1;
    } else if (rng_one_in(&m->rng, 3)) {
        gpr_bend(m, 1, rng_below(&m->rng, 70), 8); /* a shift count, a loop count */
    }
}

/* Appends the instruction to the case; the last bytes may lie behind the end of the code memory. */
static void code_append(struct maker *m, const struct draft *d)
{
    unsigned length = d->length;
    unsigned room = CODE_SIZE - m->c->code_offset - m->c->length;
    if (length > room)
        length = room;
    memcpy(m->c->code + m->c->length, d->bytes, length);
    m->c->length = (uint16_t)(m->c->length + length);
    m->c->count++;
}

static bool has_repeat_prefix(const struct draft *d)
{
    for (unsigned i = 0; i < d->in.raw.prefix_count; i++) {
        if (d->in.raw.prefixes[i].value == 0xf2 || d->in.raw.prefixes[i].value == 0xf3)
            return true;
    }
    return false;
}

/* True if running it natively shows nothing, or would leave the case. */
static bool draft_excluded(const struct maker *m, const struct draft *d)
{
    if (!d->valid)
        return false;
    int row = isa_row_of(d->in.mnemonic);
    if (row >= 0 && isa_row_elsewhere((unsigned)row) != NULL)
        return true;
    if (!m->encodings->features.fsgsbase && d->in.meta.isa_set == ZYDIS_ISA_SET_RDWRFSGS)
        return true;
    /* A 66 prefix on a near branch in 64-bit mode: Intel ignores it, AMD cuts RIP (SDM vol. 2, JMP; APM vol. 3, 1.2.7). */
    if (m->mode == ISA_64 && d->in.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
        (d->in.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE))
        return true;
    switch (d->in.mnemonic) {
    /* With a repeat prefix, which is reserved there, AMD's processors test ZF the other way round. */
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE: return d->in.raw.prefix_count > 0 && has_repeat_prefix(d);
    /* VEX.W outside 64-bit mode: ignored on Intel, #UD on AMD. */
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPINSRD: return m->mode != ISA_64 && d->in.raw.vex.W;
    /* Would wait, or leave for an enclave, a transaction or another protection key. */
    case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_MWAITX:
    case ZYDIS_MNEMONIC_UMWAIT:
    case ZYDIS_MNEMONIC_TPAUSE:
    case ZYDIS_MNEMONIC_ENCLU:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_WRPKRU: return true;
    default: return false;
    }
}

static void draft_bend(struct maker *m, struct draft *d)
{
    if (!d->valid)
        return;
    counts_bend(m, d);
    register_operands_bend(m, d);
    immediates_bend(m, d);
    memory_bend(m, d);
    if (d->in.raw.imm[0].size != 0 || d->in.raw.disp.size != 0)
        ZydisDecoderDecodeFull(isa_decoder(m->mode), d->bytes, 15, &d->in, d->operands);
}

bool draft_of_row(struct maker *m, unsigned row, struct draft *d)
{
    const struct encodings *e = m->encodings;
    unsigned first = e->first[m->mode][row], count = e->first[m->mode][row + 1] - first;

    if (count == 0)
        return false;
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        const struct encoding *encoding = &e->list[m->mode][first + rng_below(&m->rng, count)];
        if (draft_encode(&m->rng, encoding, m->mode, m->mode != ISA_64 || e->features.fsgsbase, d) &&
            !draft_excluded(m, d))
            return true;
    }
    return false;
}

/* ---- states ---- */
static void segments_choose(struct maker *m)
{
    static const uint16_t data[] = {LDT_DATA32, LDT_DATA16, LDT_DOWN, LDT_READ, 0, SEL_USER_DS};
    struct isa_state *s = &m->c->state;
    struct rng *rng = &m->rng;
    bool ldt = m->encodings->features.ldt;

    memset(s->seg, 0, sizeof(s->seg));
    s->seg[ISA_SS] = SEL_USER_DS;
    if (m->mode == ISA_64) {
        s->seg[ISA_CS] = SEL_USER_CS;
        if (m->encodings->features.fsgsbase) {
            s->fs_base = rng_one_in(rng, 4) ? 0 : ARENA + rng_below(rng, 0x2000);
            s->gs_base = rng_one_in(rng, 4) ? (uint64_t)-(int64_t)rng_below(rng, 0x10000) : ALIAS + rng_below(rng, 0x100);
        }
        return;
    }
    s->seg[ISA_CS] = SEL_USER32_CS;
    s->seg[ISA_DS] = s->seg[ISA_ES] = SEL_USER_DS;
    if (!ldt)
        return;
    if (m->mode == ISA_16)
        s->seg[ISA_CS] = LDT_CODE16;
    else if (rng_one_in(rng, 6))
        s->seg[ISA_CS] = LDT_CODE32;
    unsigned rarely = m->mode == ISA_16 ? 8 : 1;
    if (m->mode == ISA_16 || rng_one_in(rng, 4)) {
        s->seg[ISA_DS] = rng_below(rng, 8) < rarely ? data[rng_below(rng, 6)] : LDT_DATA16;
        s->seg[ISA_ES] = rng_below(rng, 8) < rarely ? data[rng_below(rng, 6)] : LDT_DATA16;
        s->seg[ISA_SS] = rng_one_in(rng, 4) ? LDT_DATA32 : rng_one_in(rng, 6) ? LDT_DOWN : LDT_DATA16;
    }
    if (m->mode == ISA_16 && rng_below(rng, 2)) {
        s->seg[ISA_DS] = LDT_DATA16;
        s->seg[ISA_ES] = LDT_DATA32;
    }
    s->seg[ISA_FS] = data[rng_below(rng, 6)];
    s->seg[ISA_GS] = data[rng_below(rng, 6)];
}

static void state_choose(struct maker *m)
{
    struct isa_state *s = &m->c->state;
    struct rng *rng = &m->rng;

    memset(s, 0, sizeof(*s));
    segments_choose(m);
    for (unsigned i = 0; i < 16; i++) {
        /* In 32-bit and 16-bit code the upper registers only have to stay what they are. */
        s->gpr[i] = value_integer(rng) & (i < 8 ? mode_mask(m) : UINT64_MAX);
        if (rng_one_in(rng, i == 4 || i == 5 ? 2 : 8))
            s->gpr[i] = arena_choose(m, 8) & (i < 8 ? mode_mask(m) : UINT64_MAX);
    }
    if (rng_one_in(rng, 8))
        s->gpr[rng_below(rng, 8)] = s->gpr[rng_below(rng, 8)];
    s->rflags = (rng_next(rng) & 0x8d5) | 0x202;
    if (rng_one_in(rng, 3))
        s->rflags |= 0x400; /* DF */
    if (rng_one_in(rng, 24))
        s->rflags |= 0x40000; /* AC: alignment checks */
    s->mxcsr = value_mxcsr(rng);
    value_x87(rng, s);
    for (unsigned i = 0; i < 16; i++) {
        value_fill(rng, s->ymm[i], 32);
        /* Without 64-bit mode there are eight. Keep the others out of it. */
        if (i >= 8 && m->mode != ISA_64)
            memset(s->ymm[i], 0x5a, 32);
    }
}

static void place_choose(struct maker *m, unsigned length)
{
    struct rng *rng = &m->rng;

    switch (rng_below(rng, 16)) {
    case 0: /* over a page's end */
        m->c->code_offset = (uint16_t)(0x1000 - rng_below(rng, length + 1));
        break;
    case 1: /* at the very end, or cut */
        m->c->code_offset = (uint16_t)(CODE_SIZE - 1 - rng_below(rng, length + 1));
        break;
    default:
        m->c->code_offset = (uint16_t)(0x100 + rng_below(rng, 0xe00));
        break;
    }
}

static void make_one(struct maker *m, struct draft *d)
{
    if (d->valid)
        place_choose(m, d->length);
    else
        m->c->code_offset = (uint16_t)(0x100 + rng_below(&m->rng, 0xe00));
    draft_bend(m, d);
    code_append(m, d);
}

/* ---- sequences ---- */
bool sequence_permits(const struct maker *m, const struct draft *d)
{
    unsigned reads = d->in.cpu_flags != NULL ? d->in.cpu_flags->tested : 0;

    if (!d->valid || d->in.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || (reads & m->undefined))
        return false;
    switch (d->in.mnemonic) {
    /* Results that are undefined in cases which only the processor knows, or change what later decoding relies on. */
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_BSWAP:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return false;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        return m->undefined == 0;
    default:
        break;
    }
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        if (d->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(d->operands[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
            return false;
    }
    return true;
}

/* Flags that are undefined after `d`; and registers that it wrote no longer hold what they were bent to. */
static void sequence_follow(struct maker *m, const struct draft *d)
{
    const ZydisAccessedFlags *flags = d->in.cpu_flags;

    if (flags != NULL) {
        if (!isa_may_keep_flags(&d->in))
            m->undefined &= ~(unsigned)(flags->modified | flags->set_0 | flags->set_1);
        m->undefined |= flags->undefined;
    }
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        int reg = gpr_of(op->reg.value);
        if (reg >= 0)
            m->fixed |= 1u << reg;
    }
}

static bool make_sequence(struct maker *m)
{
    unsigned want = 2 + rng_below(&m->rng, 5);

    m->c->code_offset = (uint16_t)(0x100 + rng_below(&m->rng, 0xe00));
    if (rng_one_in(&m->rng, 6))
        m->c->code_offset = (uint16_t)(0x1000 - rng_below(&m->rng, 30));
    for (unsigned attempt = 0; attempt < 60 && m->c->count < want; attempt++) {
        struct draft d;
        unsigned row = rng_below(&m->rng, ROW_SEQUENCE);
        if (isa_row_elsewhere(row) != NULL || !draft_of_row(m, row, &d) || !sequence_permits(m, &d) ||
            m->c->length + d.length > CODE_MAX - 4)
            continue;
        draft_bend(m, &d);
        if (!sequence_permits(m, &d))
            continue;
        code_append(m, &d);
        sequence_follow(m, &d);
    }
    return m->c->count > 0;
}

/* ---- valid instructions damaged, and random bytes ---- */
static bool make_bytes(struct maker *m)
{
    for (unsigned attempt = 0; attempt < 60; attempt++) {
        struct draft d;
        unsigned row = rng_below(&m->rng, ROW_SEQUENCE);
        if (isa_row_elsewhere(row) != NULL || !draft_of_row(m, row, &d))
            continue;
        draft_damage(&m->rng, m->mode, &d);
        if (d.bytes[0] == 0xcc || draft_excluded(m, &d))
            continue;
        make_one(m, &d);
        return true;
    }
    return false;
}

bool isa_generate_without(const struct encodings *e, uint64_t seed, unsigned row, uint64_t number,
                          const struct item_set *dropped, struct isa_case *c, unsigned *items)
{
    struct maker m = {.encodings = e, .c = c, .dropped = dropped};
    unsigned modes = e->features.ldt && row != ROW_PROGRAM ? 3 : 2;

    m.rng.s = seed * 0x9e3779b97f4a7c15ull ^ number * 0xd1342543de82ef95ull ^ ((uint64_t)row << 52);
    rng_next(&m.rng);
    /* 64-bit code half of the time, unless the row has none. */
    m.mode = rng_below(&m.rng, 2) ? ISA_64 : rng_below(&m.rng, modes);
    memset(c, 0, sizeof(*c));
    c->seed = seed;
    c->number = number;
    c->row = (uint16_t)row;
    for (unsigned attempt = 0; row < ROW_SEQUENCE && attempt < 3; attempt++) {
        if (e->first[m.mode][row + 1] > e->first[m.mode][row])
            break;
        m.mode = (m.mode + 1) % modes;
    }
    c->mode = (uint8_t)m.mode;
    state_choose(&m);

    bool made;
    if (row == ROW_SEQUENCE) {
        made = make_sequence(&m);
    } else if (row == ROW_BYTES) {
        made = make_bytes(&m);
    } else if (row == ROW_PROGRAM) {
        made = make_program(&m);
    } else {
        struct draft d;
        made = draft_of_row(&m, row, &d);
        if (made)
            make_one(&m, &d);
    }
    c->state.rip = CODE + c->code_offset - isa_seg_base(&c->state, m.mode, ISA_CS);
    *items = m.items;
    return made;
}

bool isa_generate(const struct encodings *e, uint64_t seed, unsigned row, uint64_t number, struct isa_case *c)
{
    unsigned items;
    return isa_generate_without(e, seed, row, number, NULL, c, &items);
}
