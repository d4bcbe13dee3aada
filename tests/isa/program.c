/* Programs: up to about forty instructions with loops, branches, calls and a stack.
 *
 * What single instructions do not show is what happens between them: flags that are made here and used far away, a fault
 * in the middle of a block or of a loop's third round, a return address in memory that is overwritten, a block that
 * spans two pages. A program is a list of items, each an instruction, with branches that name items. It ends at an INT3
 * or at the first fault, whichever comes first.
 *
 * So that most of a program runs, some registers are set aside: pointers into the arena and small indices, which nothing
 * writes and which most memory operands use, so that their addresses are known while the program is made; and loop
 * counters. Operands with other registers get MOVs before them. Programs end because every backward branch
 * belongs to a counted loop; one that overwrites its return addresses may go elsewhere, and is stopped.
 *
 * Flags that the manual leaves undefined must not be used: flow_find() follows them along all paths, and an item
 * that would read one is taken out. The same analysis says which flags can be compared at the end.
 *
 * A program can be made again with some of its items left out; that is how a failing one is made small.
 */
#include "maker.h"
#include "values.h"

#define WANT_MAX 40u
#define DEPTH_MAX 3u
#define SUBS_MAX 2u
#define STATUS_FLAGS 0x8d5u

enum item_kind { ITEM_PLAIN, ITEM_RELATIVE /* the field is the distance to the target */, ITEM_ADDRESS /* ... its address */ };

struct item {
    uint8_t bytes[16];
    uint8_t length;
    uint8_t kind;
    uint8_t field, field_size; /* RELATIVE, ADDRESS, or a displacement from RIP; size 0: none */
    bool dead;
    uint16_t target;       /* item */
    uint64_t rip_operand;  /* PLAIN with a field: linear address that is meant */
};

struct builder {
    struct maker *m;
    struct item items[PROGRAM_ITEMS];
    unsigned count;
    unsigned instructions, want;
    uint32_t reserved;        /* registers that nothing writes */
    uint32_t known;           /* those of them with a value that is known */
    uint32_t counters;        /* loop counters not in use */
    unsigned depth;
    uint16_t calls[8];        /* items that call, and which subroutine; for `target` */
    uint8_t calls_sub[8];
    unsigned call_count;
};

static struct rng *rng_of(struct builder *b)
{
    return &b->m->rng;
}

static bool is_64(const struct builder *b)
{
    return b->m->mode == ISA_64;
}

/* ---- items ---- */
static bool has_room(const struct builder *b)
{
    return b->count + 24 < PROGRAM_ITEMS;
}

static void flags_follow(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *operands);

static struct item *item_append(struct builder *b, const uint8_t *bytes, unsigned length)
{
    struct item *item = &b->items[b->count++];
    ZydisDecodedInstruction in;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    memset(item, 0, sizeof(*item));
    memcpy(item->bytes, bytes, length);
    item->length = (uint8_t)length;
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(isa_decoder(b->m->mode), item->bytes, 15, &in, operands)))
        flags_follow(b->m, &in, operands);
    return item;
}

/* MOV reg, value; sometimes as an address of the item `target`, which is to be known later. */
static struct item *item_move(struct builder *b, unsigned reg, uint64_t value)
{
    uint8_t bytes[10];
    unsigned n = 0;
    bool wide = is_64(b) && value >> 32 != 0;

    if (is_64(b) && (wide || reg >= 8))
        bytes[n++] = (uint8_t)(0x40 | (wide ? 8 : 0) | reg >> 3);
    bytes[n++] = (uint8_t)(0xb8 | (reg & 7));
    memcpy(bytes + n, &value, wide ? 8 : 4);
    struct item *item = item_append(b, bytes, n + (wide ? 8 : 4));
    item->field = (uint8_t)n;
    return item;
}

/* An instruction of one opcode with a register in ModRM.rm. */
static struct item *item_group(struct builder *b, uint8_t opcode, unsigned extension, unsigned reg, bool wide)
{
    uint8_t bytes[4];
    unsigned n = 0;

    if (is_64(b) && (wide || reg >= 8))
        bytes[n++] = (uint8_t)(0x40 | (wide ? 8 : 0) | reg >> 3);
    bytes[n++] = opcode;
    bytes[n++] = (uint8_t)(0xc0 | extension << 3 | (reg & 7));
    return item_append(b, bytes, n);
}

static struct item *item_branch(struct builder *b, const uint8_t *opcode, unsigned length, unsigned field_size, unsigned target)
{
    uint8_t bytes[8] = {0};

    memcpy(bytes, opcode, length);
    struct item *item = item_append(b, bytes, length + field_size);
    item->kind = ITEM_RELATIVE;
    item->field = (uint8_t)length;
    item->field_size = (uint8_t)field_size;
    item->target = (uint16_t)target;
    return item;
}

/* A register to put something into. */
static unsigned free_register(struct builder *b)
{
    for (;;) {
        unsigned reg = rng_below(rng_of(b), is_64(b) ? 16 : 8);
        if (reg != 4 && !(b->reserved >> reg & 1))
            return reg;
    }
}

/* ---- instructions as they come ---- */
static bool writes_reserved(struct builder *b, const struct draft *d)
{
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        int reg = gpr_of(op->reg.value);
        if (reg >= 0 && (b->reserved >> reg & 1))
            return true;
        /* RSP by anything but the stack's own instructions: then the next push faults, or finds another stack. */
        bool stack = d->in.meta.category == ZYDIS_CATEGORY_PUSH || d->in.meta.category == ZYDIS_CATEGORY_POP;
        if (reg == 4 && !stack && !rng_one_in(rng_of(b), 40))
            return true;
    }
    return false;
}

/* Instructions that fault, or after which others do, as a rule: few of them. */
static bool ends_most_programs(const struct draft *d)
{
    switch (d->in.meta.category) {
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSTEM: return true;
    default: break;
    }
    switch (d->in.mnemonic) {
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: return true;
    default: return (d->in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != 0;
    }
}

/* How the operand must be aligned, or 1. */
static unsigned alignment_of(const struct draft *d, const ZydisDecodedOperand *op)
{
    const char *name = ZydisMnemonicGetString(d->in.mnemonic);

    if (op->size < 128)
        return 1;
    if (d->in.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return strncmp(name, "vmovap", 6) == 0 || strncmp(name, "vmovdqa", 7) == 0 || strncmp(name, "vmovnt", 6) == 0
                   ? op->size / 8
                   : 1;
    return strncmp(name, "movup", 5) == 0 || strcmp(name, "movdqu") == 0 || strcmp(name, "lddqu") == 0 ? 1 : 16;
}

static bool is_reachable(struct builder *b, const struct draft *d, const ZydisDecodedOperand *op, uint64_t linear)
{
    bool writes = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    uint64_t offset = linear - (linear >= ALIAS ? ALIAS : ARENA), end = ARENA_SIZE + (writes ? 0 : PAGE_SIZE);

    if (rng_one_in(rng_of(b), 60))
        return true;
    return offset < end && offset + op->size / 8 <= end && linear % alignment_of(d, op) == 0;
}

static bool segment_usable(struct builder *b, enum isa_seg seg)
{
    uint16_t selector = b->m->c->state.seg[seg];
    return is_64(b) || selector == SEL_USER_DS || selector == LDT_DATA32 || rng_one_in(rng_of(b), 40);
}

static bool register_known(const struct builder *b, int reg, uint64_t *value)
{
    if (reg < 0) {
        *value = 0;
        return true;
    }
    *value = b->m->c->state.gpr[reg];
    return b->known >> reg & 1;
}

/* Puts `value` into `reg` before the instruction; false if that must not be. */
static bool register_prepare(struct builder *b, int reg, uint64_t value)
{
    if (reg < 0 || reg == 4 || (b->reserved >> reg & 1))
        return false;
    item_move(b, (unsigned)reg, is_64(b) ? value : (uint32_t)value);
    return true;
}

/* Finds an address for an explicit memory operand, and makes it so: by the displacement, or by MOVs before. */
static bool operand_place(struct builder *b, struct draft *d, const ZydisDecodedOperand *op, uint64_t *rip_operand)
{
    struct maker *m = b->m;
    int base = gpr_of(op->mem.base), index = gpr_of(op->mem.index);
    bool rip = op->mem.base == ZYDIS_REGISTER_RIP;
    enum isa_seg seg = seg_of(op->mem.segment);
    uint64_t seg_base = isa_seg_base(&m->c->state, m->mode, seg), base_value, index_value;
    uint64_t linear = arena_choose(m, op->size / 8);
    bool wide_disp = d->in.raw.disp.size == 32;

    if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB || d->in.address_width == 16 || op->mem.base == ZYDIS_REGISTER_EIP ||
        !segment_usable(b, seg))
        return false;
    if (d->in.address_width == 32 || (b->m->c->state.seg[seg] & 4))
        linear = ARENA + (linear & 0x3fff);
    if (!is_reachable(b, d, op, linear))
        linear &= ~31ull;
    if (rip) {
        *rip_operand = linear >= ALIAS ? linear - ALIAS + ARENA : linear;
        return seg_base == 0;
    }
    if (base == 4) /* the stack, roughly */
        return index < 0 && seg_base == 0 && !wide_disp;
    bool base_known = register_known(b, base, &base_value), index_known = register_known(b, index, &index_value);
    if (!index_known) {
        index_value = rng_below(rng_of(b), 64);
        if (index == base || !register_prepare(b, index, index_value))
            return false;
    }
    uint64_t scaled = index_value * (index < 0 ? 0 : op->mem.scale);
    if (!base_known) {
        uint64_t need = linear - seg_base - scaled - (uint64_t)op->mem.disp.value;
        return register_prepare(b, base, d->in.address_width == 32 ? (uint32_t)need : need);
    }
    if (wide_disp) {
        uint64_t need = linear - seg_base - scaled - base_value;
        if (d->in.address_width == 64 && (int64_t)need != (int32_t)need)
            return false;
        memcpy(d->bytes + d->in.raw.disp.offset, &need, 4);
        return true;
    }
    uint64_t offset = base_value + scaled + (uint64_t)op->mem.disp.value;
    if (d->in.address_width == 32)
        offset = (uint32_t)offset;
    return is_reachable(b, d, op, offset + seg_base);
}

/* Operands of string instructions and XLAT: their registers point somewhere, and counts are small. */
static bool implicit_place(struct builder *b, const struct draft *d)
{
    bool repeated = (d->in.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;

    if (d->in.address_width == 16)
        return false;
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            continue;
        int base = gpr_of(op->mem.base);
        enum isa_seg seg = seg_of(op->mem.segment);
        if (base == 4 || base < 0)
            continue;
        uint64_t linear = arena_choose(b->m, op->size / 8);
        if (d->in.address_width == 32 || !is_64(b))
            linear = ARENA + (linear & 0x1fff);
        if (!segment_usable(b, seg) ||
            !register_prepare(b, base, linear - isa_seg_base(&b->m->c->state, b->m->mode, seg)))
            return false;
    }
    if (repeated && d->in.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return register_prepare(b, 1, rng_below(rng_of(b), rng_one_in(rng_of(b), 8) ? 600 : 24));
    return true;
}

/* Rows that programs are made of, mostly. */
static unsigned row_choose(struct builder *b)
{
    static const uint16_t common[] = {
        ROW_MOV, ROW_MOV, ROW_MOV, ROW_ADD, ROW_SUB, ROW_CMP, ROW_TEST, ROW_AND, ROW_OR, ROW_XOR, ROW_INC, ROW_DEC,
        ROW_LEA, ROW_SHL, ROW_SHR, ROW_SAR, ROW_ROL, ROW_ROR, ROW_RCL, ROW_RCR, ROW_ADC, ROW_SBB, ROW_IMUL, ROW_MUL,
        ROW_NEG, ROW_NOT, ROW_XCHG, ROW_XADD, ROW_CMPXCHG, ROW_CMOVZ, ROW_CMOVB, ROW_CMOVLE, ROW_CMOVNP, ROW_SETZ,
        ROW_SETNB, ROW_SETL, ROW_BT, ROW_BTS, ROW_BTR, ROW_BTC, ROW_MOVZX, ROW_MOVSX, ROW_PUSH, ROW_POP, ROW_MOVSB,
        ROW_MOVSD, ROW_STOSB, ROW_STOSD, ROW_LODSB, ROW_SCASB, ROW_CMPSB, ROW_CLC, ROW_STC, ROW_CMC, ROW_CLD, ROW_STD,
        ROW_LAHF, ROW_SAHF, ROW_CDQ, ROW_CWDE, ROW_XLAT, ROW_DIV, ROW_MOVSXD, ROW_MOVUPS, ROW_MOVDQU, ROW_MOVAPS,
        ROW_MOVD, ROW_MOVQ, ROW_PXOR, ROW_PADDD, ROW_ADDSD, ROW_COMISD, ROW_FLD, ROW_FSTP, ROW_FADD, ROW_PUSHF,
        ROW_PUSHFQ, ROW_BSWAP, ROW_TZCNT, ROW_POPCNT};
    return rng_below(rng_of(b), 5) ? common[rng_below(rng_of(b), ARRAY_LEN(common))] : rng_below(rng_of(b), ROW_SEQUENCE);
}

static bool draft_place(struct builder *b, struct draft *d, uint64_t *rip_operand)
{
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
            !operand_place(b, d, op, rip_operand))
            return false;
    }
    /* A bit offset in a register reaches far. */
    bool bits = d->in.mnemonic == ZYDIS_MNEMONIC_BT || d->in.mnemonic == ZYDIS_MNEMONIC_BTS ||
                d->in.mnemonic == ZYDIS_MNEMONIC_BTR || d->in.mnemonic == ZYDIS_MNEMONIC_BTC;
    if (bits && d->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY && d->operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
        int reg = gpr_of(d->operands[1].reg.value);
        if (reg == gpr_of(d->operands[0].mem.base) || reg == gpr_of(d->operands[0].mem.index) ||
            !register_prepare(b, reg, (uint64_t)(int64_t)((int)rng_below(rng_of(b), 512) - 256)))
            return false;
    }
    return implicit_place(b, d);
}

static void add_plain(struct builder *b)
{
    for (unsigned attempt = 0; attempt < 24; attempt++) {
        unsigned row = row_choose(b), before = b->count, undefined = b->m->undefined;
        uint64_t rip_operand = 0;
        struct draft d;

        if (isa_row_elsewhere(row) != NULL || !draft_of_row(b->m, row, &d) || !sequence_permits(b->m, &d) ||
            writes_reserved(b, &d) || (ends_most_programs(&d) && !rng_one_in(rng_of(b), 60)))
            continue;
        immediates_bend(b->m, &d);
        if (!draft_place(b, &d, &rip_operand)) {
            b->count = before;
            b->m->undefined = undefined;
            continue;
        }
        struct item *item = item_append(b, d.bytes, d.length);
        if (rip_operand != 0) {
            item->field = d.in.raw.disp.offset;
            item->field_size = 4;
            item->rip_operand = rip_operand;
        }
        b->instructions++;
        return;
    }
}

/* ---- structure ---- */
static void add_block(struct builder *b, unsigned count);

/* A branch forward over a few instructions; of any form that there is. */
static void add_skip(struct builder *b)
{
    static const uint16_t tests[8] = {0x800, 0x001, 0x040, 0x041, 0x080, 0x004, 0x880, 0x8c0};
    struct rng *rng = rng_of(b);
    unsigned condition = rng_below(rng, 16), at, undefined = b->m->undefined;
    uint8_t opcode[2];

    if (rng_one_in(rng, 6)) { /* unconditional: JMP, JMP reg, PUSH and RET */
        unsigned form = rng_below(rng, 4);
        at = b->count;
        if (form < 2) {
            opcode[0] = 0xe9;
            item_branch(b, opcode, 1, 4, 0);
        } else if (form == 2) {
            unsigned reg = free_register(b);
            item_move(b, reg, 0)->kind = ITEM_ADDRESS;
            item_group(b, 0xff, 4, reg, false);
        } else {
            opcode[0] = 0x68;
            item_branch(b, opcode, 1, 4, 0)->kind = ITEM_ADDRESS;
            opcode[0] = 0xc3;
            item_append(b, opcode, 1);
        }
        b->items[at].field_size = 4;
    } else if (rng_one_in(rng, 10)) { /* JRCXZ, short: over one instruction */
        opcode[0] = 0xe3;
        at = b->count;
        item_branch(b, opcode, 1, 1, 0);
        add_plain(b);
        b->items[at].target = (uint16_t)b->count;
        b->m->undefined |= undefined;
        return;
    } else {
        if (tests[condition / 2] & undefined)
            return;
        bool brief = rng_below(rng, 2);
        opcode[0] = brief ? (uint8_t)(0x70 | condition) : 0x0f;
        opcode[1] = (uint8_t)(0x80 | condition);
        at = b->count;
        item_branch(b, opcode, brief ? 1 : 2, brief ? 1 : 4, 0);
        if (brief) {
            add_plain(b);
            b->items[at].target = (uint16_t)b->count;
            b->m->undefined |= undefined;
            b->instructions++;
            return;
        }
    }
    b->instructions++;
    add_block(b, 1 + rng_below(rng, 4));
    b->items[at].target = (uint16_t)b->count;
    b->m->undefined |= undefined;
}

static void add_loop(struct builder *b)
{
    struct rng *rng = rng_of(b);
    unsigned counter = 0;
    static const uint8_t jnz[2] = {0x0f, 0x85};

    if (b->counters == 0)
        return;
    do
        counter = rng_below(rng, 16);
    while (!(b->counters >> counter & 1));
    b->counters &= ~(1u << counter);
    item_move(b, counter, 1 + rng_below(rng, b->depth > 1 ? 4 : 8));
    unsigned head = b->count;
    add_block(b, 1 + rng_below(rng, 10));
    switch (rng_below(rng, 3)) {
    case 0:
        if (counter == 1) { /* LOOP, by way of a jump, since it is short */
            static const uint8_t loop[1] = {0xe2}, jmp[1] = {0xe9};
            unsigned at = b->count;
            item_branch(b, loop, 1, 1, at + 2);
            item_branch(b, jmp, 1, 4, at + 3);
            item_branch(b, jmp, 1, 4, head);
            break;
        }
        /* fall through */
    case 1:
        item_group(b, 0xff, 1, counter, is_64(b));
        item_branch(b, jnz, 2, 4, head);
        break;
    default: { /* SUB counter, 1 */
        uint8_t bytes[4] = {(uint8_t)(0x48 | counter >> 3), 0x83, (uint8_t)(0xe8 | (counter & 7)), 1};
        item_append(b, bytes + !is_64(b), is_64(b) ? 4 : 3);
        item_branch(b, jnz, 2, 4, head);
        break;
    }
    }
    b->instructions += 2;
    b->counters |= 1u << counter;
}

static void add_call(struct builder *b)
{
    static const uint8_t call[1] = {0xe8};
    struct rng *rng = rng_of(b);

    if (b->call_count == ARRAY_LEN(b->calls))
        return;
    b->calls_sub[b->call_count] = (uint8_t)rng_below(rng, SUBS_MAX);
    b->calls[b->call_count++] = (uint16_t)b->count;
    if (rng_one_in(rng, 3)) {
        unsigned reg = free_register(b);
        struct item *item = item_move(b, reg, 0);
        item->kind = ITEM_ADDRESS;
        item->field_size = 4;
        item_group(b, 0xff, 2, reg, false);
    } else {
        item_branch(b, call, 1, 4, 0);
    }
    b->m->undefined |= STATUS_FLAGS; /* until something sets them: the subroutine is not made yet */
    b->instructions++;
}

static void add_push_pop(struct builder *b)
{
    struct rng *rng = rng_of(b);
    unsigned from = rng_below(rng, is_64(b) ? 16 : 8), to = free_register(b);
    uint8_t bytes[2] = {0x41, (uint8_t)(0x50 | (from & 7))};

    item_append(b, bytes + (from < 8), from < 8 ? 1 : 2);
    b->instructions += 2;
    add_block(b, rng_below(rng, 4));
    bytes[1] = (uint8_t)(0x58 | (to & 7));
    item_append(b, bytes + (to < 8), to < 8 ? 1 : 2);
}

static void add_block(struct builder *b, unsigned count)
{
    b->depth++;
    for (unsigned i = 0; i < count && b->instructions < b->want && has_room(b); i++) {
        unsigned what = rng_below(rng_of(b), 100);
        if (b->depth >= DEPTH_MAX || what < 72)
            add_plain(b);
        else if (what < 84)
            add_skip(b);
        else if (what < 90)
            add_loop(b);
        else if (what < 95)
            add_call(b);
        else
            add_push_pop(b);
    }
    b->depth--;
}

/* The subroutines that are called, behind the program's end. */
static void add_subroutines(struct builder *b)
{
    static const uint8_t end[1] = {0xcc}, ret[1] = {0xc3}, ret_8[3] = {0xc2, 8, 0};

    if (b->call_count == 0)
        return;
    unsigned calls = b->call_count;
    b->call_count = ARRAY_LEN(b->calls); /* no recursion */
    item_append(b, end, 1);
    for (unsigned sub = 0; sub < SUBS_MAX; sub++) {
        for (unsigned i = 0; i < calls; i++) {
            if (b->calls_sub[i] == sub)
                b->items[b->calls[i]].target = (uint16_t)b->count;
        }
        b->want = b->instructions + 6;
        b->counters = 0; /* they belong to the callers */
        b->m->undefined = STATUS_FLAGS;
        add_block(b, 1 + rng_below(rng_of(b), 6));
        if (rng_one_in(rng_of(b), 8))
            item_append(b, ret_8, 3);
        else
            item_append(b, ret, 1);
    }
}

/* ---- flags that are undefined ---- */
static bool is_shift_or_rotate(ZydisMnemonic mnemonic, bool *rotate)
{
    *rotate = mnemonic == ZYDIS_MNEMONIC_ROL || mnemonic == ZYDIS_MNEMONIC_ROR || mnemonic == ZYDIS_MNEMONIC_RCL ||
              mnemonic == ZYDIS_MNEMONIC_RCR;
    return *rotate || mnemonic == ZYDIS_MNEMONIC_SHL || mnemonic == ZYDIS_MNEMONIC_SHR ||
           mnemonic == ZYDIS_MNEMONIC_SAR;
}

/* What is undefined after an instruction before which `undefined` was. */
static unsigned flags_after(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *operands, unsigned undefined)
{
    const ZydisAccessedFlags *flags = in->cpu_flags;
    unsigned size = in->operand_width, count;
    bool rotate;

    if (is_shift_or_rotate(in->mnemonic, &rotate)) {
        if (operands[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return undefined | (rotate ? 0x800 : 0x811);
        count = (unsigned)operands[1].imm.value.u & (size == 64 ? 63 : 31);
        if (count == 0)
            return undefined;
        if (rotate) /* by a multiple of its size, RCL and RCR go through CF all the same */
            return (undefined & ~0x801u) | (count == 1 ? 0 : 0x800);
        return 0x10 | (count == 1 ? 0 : 0x800) | (count >= size && in->mnemonic != ZYDIS_MNEMONIC_SAR ? 1 : 0);
    }
    if (flags == NULL)
        return undefined;
    if (!isa_may_keep_flags(in))
        undefined &= ~(unsigned)(flags->modified | flags->set_0 | flags->set_1);
    return undefined | flags->undefined;
}

static void flags_follow(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *operands)
{
    m->undefined = flags_after(in, operands, m->undefined);
}

struct node {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint16_t offset;
    unsigned undefined; /* before it */
    bool is_label;      /* an address of it is made */
    bool returns_here;
};

struct flow {
    struct node nodes[PROGRAM_ITEMS + 1]; /* the last is the end */
    unsigned count;
    uint64_t rip;
    bool changed;
};

static int node_at(const struct flow *f, uint64_t rip)
{
    for (unsigned i = 0; i <= f->count; i++) {
        if (f->rip + f->nodes[i].offset == rip)
            return (int)i;
    }
    return -1;
}

static void flow_to(struct flow *f, int node, unsigned undefined)
{
    if (node < 0 || (f->nodes[node].undefined | undefined) == f->nodes[node].undefined)
        return;
    f->nodes[node].undefined |= undefined;
    f->changed = true;
}

static void flow_step(struct flow *f, unsigned i)
{
    struct node *n = &f->nodes[i];
    unsigned after = flags_after(&n->in, n->operands, n->undefined);
    uint64_t next = f->rip + n->offset + n->in.length;
    bool relative = n->in.raw.imm[0].is_relative;
    bool call = n->in.mnemonic == ZYDIS_MNEMONIC_CALL, ret = n->in.mnemonic == ZYDIS_MNEMONIC_RET;
    bool jump = n->in.mnemonic == ZYDIS_MNEMONIC_JMP;

    if (relative)
        flow_to(f, node_at(f, next + (uint64_t)n->in.raw.imm[0].value.s), after);
    /* RET may be a jump, too: behind PUSH. */
    for (unsigned k = 0; k <= f->count; k++) {
        if ((f->nodes[k].is_label && !relative && (call || jump || ret)) || (f->nodes[k].returns_here && ret))
            flow_to(f, (int)k, after);
    }
    if (!call && !jump && !ret && n->in.mnemonic != ZYDIS_MNEMONIC_INT3)
        flow_to(f, (int)i + 1, after);
}

/* False if the code cannot be read from end to end. */
static bool flow_find(struct flow *f, const struct isa_case *c)
{
    unsigned offset = 0;

    f->count = 0;
    f->rip = c->state.rip;
    while (offset < c->length) {
        struct node *n = &f->nodes[f->count];
        if (f->count == PROGRAM_ITEMS || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(isa_decoder(c->mode), c->code + offset,
                                                                             c->length - offset, &n->in, n->operands)))
            return false;
        n->offset = (uint16_t)offset;
        n->undefined = 0;
        n->is_label = n->returns_here = false;
        offset += n->in.length;
        f->count++;
    }
    f->nodes[f->count] = (struct node){.offset = (uint16_t)offset};
    for (unsigned i = 0; i < f->count; i++) {
        const struct node *n = &f->nodes[i];
        if (n->in.mnemonic == ZYDIS_MNEMONIC_CALL)
            f->nodes[i + 1].returns_here = true;
        bool immediate = n->in.mnemonic == ZYDIS_MNEMONIC_MOV || n->in.mnemonic == ZYDIS_MNEMONIC_PUSH;
        int label = immediate && n->in.raw.imm[0].size >= 32 ? node_at(f, n->in.raw.imm[0].value.u) : -1;
        if (label >= 0)
            f->nodes[label].is_label = true;
    }
    do {
        f->changed = false;
        for (unsigned i = 0; i < f->count; i++)
            flow_step(f, i);
    } while (f->changed);
    return true;
}

unsigned isa_program_undefined(const struct isa_case *c, uint64_t rip)
{
    static struct flow f;
    int node = flow_find(&f, c) ? node_at(&f, rip) : -1;
    return node < 0 ? STATUS_FLAGS : f.nodes[node].undefined;
}

/* The first node that reads what is undefined; or -1. */
static int flow_reader(const struct flow *f)
{
    for (unsigned i = 0; i < f->count; i++) {
        const struct node *n = &f->nodes[i];
        unsigned tested = n->in.cpu_flags != NULL ? n->in.cpu_flags->tested : 0;
        if (n->in.mnemonic == ZYDIS_MNEMONIC_PUSHF || n->in.mnemonic == ZYDIS_MNEMONIC_PUSHFD ||
            n->in.mnemonic == ZYDIS_MNEMONIC_PUSHFQ || n->in.mnemonic == ZYDIS_MNEMONIC_LAHF)
            tested = STATUS_FLAGS;
        if (tested & n->undefined)
            return (int)i;
    }
    return -1;
}

/* ---- putting it together ---- */
static bool item_left_out(const struct builder *b, unsigned i)
{
    const struct item_set *dropped = b->m->dropped;
    return b->items[i].dead || (dropped != NULL && (dropped->bits[i / 64] >> i % 64 & 1));
}

static bool program_emit(struct builder *b, uint16_t at[PROGRAM_ITEMS + 1])
{
    struct isa_case *c = b->m->c;
    unsigned offset = 0;

    c->count = 0;
    for (unsigned i = 0; i < b->count; i++) {
        at[i] = (uint16_t)offset;
        if (!item_left_out(b, i))
            offset += b->items[i].length;
    }
    at[b->count] = (uint16_t)offset;
    if (offset == 0 || offset > CODE_ROOM)
        return false;
    for (unsigned i = 0; i < b->count; i++) {
        const struct item *item = &b->items[i];
        if (item_left_out(b, i))
            continue;
        uint64_t end = at[i] + item->length, rip = CODE + c->code_offset - isa_seg_base(&c->state, b->m->mode, ISA_CS);
        uint64_t value = item->kind == ITEM_RELATIVE  ? at[item->target] - end
                         : item->kind == ITEM_ADDRESS ? rip + at[item->target]
                                                      : item->rip_operand - (rip + end);
        if (item->field_size == 1 && (int64_t)value != (int8_t)value)
            return false;
        memcpy(c->code + at[i], item->bytes, item->length);
        memcpy(c->code + at[i] + item->field, &value, item->field_size);
        c->count++;
    }
    c->length = (uint16_t)offset;
    c->state.rip = CODE + c->code_offset - isa_seg_base(&c->state, b->m->mode, ISA_CS);
    return true;
}

/* Emits, and takes out what would read undefined flags. */
static bool program_finish(struct builder *b)
{
    static struct flow f;
    uint16_t at[PROGRAM_ITEMS + 1];

    for (unsigned round = 0; round < PROGRAM_ITEMS; round++) {
        if (!program_emit(b, at) || !flow_find(&f, b->m->c))
            return false;
        int reader = flow_reader(&f);
        if (reader < 0)
            return true;
        for (unsigned i = 0; i < b->count; i++) {
            if (!item_left_out(b, i) && at[i] == f.nodes[reader].offset)
                b->items[i].dead = true;
        }
    }
    return false;
}

static unsigned set_aside(struct builder *b)
{
    unsigned reg = free_register(b);
    b->reserved |= 1u << reg;
    return reg;
}

static void registers_choose(struct builder *b)
{
    struct isa_state *s = &b->m->c->state;
    struct rng *rng = rng_of(b);
    uint64_t mask = is_64(b) ? UINT64_MAX : UINT32_MAX;

    for (unsigned i = 0; i < (is_64(b) ? 4u : 2u); i++) {
        unsigned reg = set_aside(b);
        s->gpr[reg] = (arena_choose(b->m, 8) & ~(rng_one_in(rng, 3) ? 0ull : 31ull)) & mask;
        b->known |= 1u << reg;
        if (i == 0 && !is_64(b) && isa_seg_base(s, b->m->mode, ISA_DS) != 0)
            s->gpr[reg] &= 0x1fff;
    }
    if (is_64(b) || rng_below(rng, 2)) {
        unsigned reg = set_aside(b);
        s->gpr[reg] = rng_below(rng, 48);
        b->known |= 1u << reg;
    }
    for (unsigned i = 0; i < (is_64(b) ? 2u : 1u); i++)
        b->counters |= 1u << set_aside(b);
    /* The stack: in the middle, aligned as a rule; now and then close to the arena's ends. */
    uint64_t sp = ARENA + 0x600 + (rng_below(rng, 0x1400) & ~7u);
    if (rng_one_in(rng, 8))
        sp -= 1 + rng_below(rng, 7);
    if (rng_one_in(rng, 16))
        sp = ARENA + rng_below(rng, 2) * ARENA_SIZE + 8 * rng_below(rng, 4);
    if (is_64(b) && rng_one_in(rng, 4))
        sp += ALIAS - ARENA;
    s->gpr[4] = sp - isa_seg_base(s, b->m->mode, ISA_SS);
}

bool make_program(struct maker *m)
{
    static struct builder b;
    struct rng *rng = &m->rng;

    memset(&b, 0, sizeof(b));
    b.m = m;
    b.want = 2 + rng_below(rng, WANT_MAX - 1);
    if (m->mode == ISA_32 && rng_below(rng, 4)) {
        m->c->state.seg[ISA_CS] = SEL_USER32_CS;
        m->c->state.seg[ISA_SS] = m->c->state.seg[ISA_DS] = m->c->state.seg[ISA_ES] = SEL_USER_DS;
    }
    registers_choose(&b);
    add_block(&b, WANT_MAX);
    add_subroutines(&b);
    unsigned length = 0;
    for (unsigned i = 0; i < b.count; i++)
        length += b.items[i].length;
    m->items = b.count;
    m->c->code_offset = (uint16_t)(0x100 + rng_below(rng, 0xb00));
    if (rng_one_in(rng, 3) && length < 0xe00)
        m->c->code_offset = (uint16_t)(0x1000 - rng_below(rng, length + 1));
    return length <= CODE_ROOM && program_finish(&b);
}

unsigned isa_program_without(const struct encodings *e, const struct isa_case *whole, const struct item_set *dropped,
                             struct isa_case *c)
{
    unsigned items = 0;
    return isa_generate_without(e, whole->seed, whole->row, whole->number, dropped, c, &items) ? items : 0;
}
