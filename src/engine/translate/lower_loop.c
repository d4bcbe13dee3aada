/* Loops: a block that branches back to its own start is emitted a second time, with host pointers in registers.
 *
 * Most loops walk through memory in small steps: a[i], *p++. Their addresses change by a constant with each turn, so one look
 * at the shadow table serves until the next page. The second version of such a block is
 *
 *     head:   poll; flags and some registers saved; for each *group* of accesses: do they all stay in one page, for how many
 *             turns, what is the page's entry? From these the group's *anchor* and the number of turns C
 *     body:   the turns, some of them unrolled; an access is [anchor + register * scale + displacement]
 *     tail:   the ways out, each of which puts back what was saved
 *
 * The block's own branch back leads to the head. When the head finds that not one turn is possible it goes to the block as it
 * was, which does one turn (and fills the table, learns from faults ...), whose branch leads to the head again.
 *
 * A group is what has the same base, index and scale. At most one of the two registers steps; the other does not change in
 * the loop, nor do both of an address that stays. What fits into no group is accessed as everywhere else.
 *
 * Registers. Anchors and C are in host registers whose guest registers the loop does not use; these are *borrowed*: their
 * values are in translated.loop_saved meanwhile. S and T stay scratch.
 *
 * Invariants.
 * - An anchor is as good as the entry it was made from, which only the monitor changes. So whoever leaves the loop for the
 *   monitor (poll, fault) never comes back into its middle: a fault ends with the state of the instruction's start in struct
 *   vcpu, and the interpreter does the instruction.
 * - Ways out into the block as it was lead to the instruction that decides (a conditional branch, done again with the same
 *   flags). The block knows nothing of alignment behind a branch to its own start, since the loop does not check any.
 * - Turns are few enough that the monitor need not wait for the next head.
 * - Counting: the head takes what C turns need off translated.left at once, ways out give back. C is negative and
 *   rises to 0, in instructions where they are counted, else in unrolled turns.
 *
 * Short loops lose by the head. So each loop has a credit: a head costs some, each turn gives some. When it is used up the block
 * is made anew without (FORM_NO_LOOP).
 *
 * Not done: loops of several blocks; string instructions, stack instructions and calls of C in the loop; segments with a base.
 */
#include "engine/translate/lower.h"

#include "base/check.h"
#include "cpu/watch.h"

#define LOOP_INSNS_MAX 24u
#define LOOP_COPIES_MAX 4u
#define LOOP_JUMPS_MAX 32u /* at most so many instructions after unrolling */
#define LOOP_INSTRUCTIONS_MAX 8192u /* between two heads */
#define LOOP_TURNS_MAX 1024u
#define LOOP_HEAD_TURNS 12 /* that a head costs about as much as they bring */
#define LOOP_CREDIT_MIN (-2048)
#define LOOP_CREDIT_MAX 2048
#define STRIDE_MAX 64
#define SPAN_MAX 1024
#define LOOP_BYTES_MAX 8192u
#define LOOP_ROOM (LOOP_COPIES_MAX * 2048u + LOOP_BYTES_MAX)

/* What a guest register does in one turn. */
struct step {
    bool wild;   /* anything */
    bool steps;  /* changes by `by` */
    bool wraps;  /* ... modulo 2^32, the upper half being 0 */
    int64_t by;
    int64_t low, high; /* where it gets to during the turn, from where it begins; 0 is between them */
};

struct group {
    unsigned base, index; /* guest registers; GPR_COUNT: none */
    unsigned scale;
    bool constant;        /* neither: `low` is the linear address */
    int64_t low, high;    /* of the displacements, as seen from the registers at the start of a turn; exclusive */
    int64_t stride;
    unsigned stepping, shift; /* the register of the two that steps, GPR_COUNT: none, and its scale */
    unsigned uses;
    unsigned anchor;      /* host register */
};

struct loop_insn {
    struct insn in;
    struct decoded decoded;
    struct insn_use use;
    uint8_t bytes[15];
    uint64_t rip, next;
    uint8_t form;
    struct group *group; /* of its memory operand; NULL: none */
};

struct loop_jump {
    uint8_t *at;
    unsigned copy, index;
};

struct loop {
    struct loop_insn insns[LOOP_INSNS_MAX];
    unsigned count;
    struct step steps[16];
    uint16_t used;        /* guest registers */
    struct group groups[BLOCK_BORROWED_MAX - 1];
    unsigned group_count;
    bool loose;           /* some accesses are in no group */
    uint8_t borrowed[BLOCK_BORROWED_MAX]; /* host registers; the first is C */
    unsigned borrowed_count;
    unsigned copies;
    int32_t unit;         /* what C counts of one unrolled turn */
    struct loop_jump jumps[LOOP_JUMPS_MAX];
    unsigned jump_count;
    uint8_t *fails[2 * BLOCK_BORROWED_MAX + 18];
    unsigned fail_count;
};

/* ---- what the loop is ---- */

static bool is_jcc(const struct insn *in)
{
    switch (in->row) {
    case ROW_JMP: case ROW_CALL: case ROW_RET:
    case ROW_LOOP: case ROW_LOOPE: case ROW_LOOPNE:
    case ROW_JCXZ: case ROW_JECXZ: case ROW_JRCXZ: return false;
    default: return insn_rows[in->row].lowering == LOWER_BRANCH;
    }
}

/* The exit of the block's last branch to its own start; NULL: none. */
static struct exit_site *back_edge(const struct lower *l)
{
    struct translate *t = l->t;
    uint64_t rip = l->piece->vpage << PAGE_SHIFT | l->block->off;
    struct exit_site *found = NULL;
    for (uint32_t i = 0; i < l->block->exit_count; i++) {
        struct exit_site *exit = &t->exits[l->block->exits + i];
        if (exit->kind == EXIT_DIRECT && !exit->landing && exit->jump != 0 && exit->executed != 0 &&
            exit->rip == (l->narrow ? (uint32_t)rip : rip) && (found == NULL || exit->executed > found->executed))
            found = exit;
    }
    return found;
}

static void insn_use_now(struct lower *l, const struct loop_insn *insn)
{
    l->in = insn->in;
    l->decoded = insn->decoded;
    l->use = insn->use;
    memcpy(l->bytes, insn->bytes, sizeof l->bytes);
    l->rip = insn->rip;
    l->next = insn->next;
    l->form = insn->form;
    l->group = NULL;
}

static uint16_t registers_named(const struct lower *l, const ZydisDecodedOperand *memory)
{
    uint16_t named = l->use.gpr_read | l->use.gpr_written | l->use.gpr_explicit;
    for (unsigned i = 0; i < l->decoded.z.operand_count; i++)
        if (l->decoded.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            memory = &l->decoded.operands[i];
    if (memory != NULL && memory->mem.base != ZYDIS_REGISTER_NONE && l->in.base < 16)
        named |= (uint16_t)(1u << l->in.base);
    if (memory != NULL && memory->mem.index != ZYDIS_REGISTER_NONE && l->in.index < 16)
        named |= (uint16_t)(1u << l->in.index);
    return named;
}

/* By how much the instruction moves the one register it writes; false: not by a constant. */
static bool step_of(const struct lower *l, unsigned guest, int64_t *by)
{
    const struct insn *in = &l->in;
    if (in->op_kind[0] != OPERAND_REG || in->op_reg[0] != guest * 8 || in->opsize < 4)
        return false;
    switch (in->row) {
    case ROW_INC: *by = 1; break;
    case ROW_DEC: *by = -1; break;
    case ROW_ADD:
    case ROW_SUB:
        if (in->op_kind[1] != OPERAND_IMM)
            return false;
        *by = in->opsize == 4 ? (int32_t)in->imm : (int64_t)in->imm;
        if (in->row == ROW_SUB)
            *by = -*by;
        break;
    case ROW_LEA:
        if (l->decoded.operands[1].mem.index != ZYDIS_REGISTER_NONE || l->decoded.operands[1].mem.base == ZYDIS_REGISTER_NONE ||
            l->in.base != guest || l->decoded.z.address_width != (l->narrow ? 32 : 64))
            return false;
        *by = l->in.disp;
        break;
    default: return false;
    }
    return *by >= -STRIDE_MAX && *by <= STRIDE_MAX;
}

static void note_steps(struct lower *l, struct loop *loop)
{
    for (unsigned guest = 0; guest < 16; guest++) {
        struct step *step = &loop->steps[guest];
        int64_t by;
        if (!(l->use.gpr_written >> guest & 1))
            continue;
        if (!step_of(l, guest, &by)) {
            step->wild = true;
            continue;
        }
        step->steps = true;
        step->wraps |= l->in.opsize == 4;
        step->by += by;
        step->low = step->by < step->low ? step->by : step->low;
        step->high = step->by > step->high ? step->by : step->high;
    }
}

/* Whether the instruction may be in a loop; what lower_copy() refuses is found later. */
static bool insn_fits(const struct lower *l, bool last)
{
    const struct insn *in = &l->in;
    if (in->row == ROW_NONE || (vcpu_watched_closely(l->v) && insn_sensitivity(in) != INSN_INNOCENT) ||
        (l->use.gpr_written & (1u << RSP)) || (l->form & FORM_CALL))
        return false;
    switch (in->row) {
    case ROW_PUSH: case ROW_POP: case ROW_LEAVE: case ROW_PAUSE: return false;
    case ROW_JMP: return last;
    default: return true;
    }
}

/* Decodes the instructions up to the one that branches back. */
static bool loop_decode(struct lower *l, struct loop *loop, unsigned count)
{
    const struct map *maps = &l->t->maps[l->block->map];
    loop->count = count;
    for (unsigned i = 0; i < count; i++) {
        struct loop_insn *insn = &loop->insns[i];
        if ((maps[i].flags & MAP_STATUS) || !lower_fetch(l, maps[i].off))
            return false;
        const struct form *form = form_of(l->t, l->piece->id, maps[i].off, false);
        l->form = form != NULL ? form->form : 0;
        if (!insn_fits(l, i + 1 == count))
            return false;
        *insn = (struct loop_insn){
            .in = l->in, .decoded = l->decoded, .use = l->use, .rip = l->rip, .next = l->next, .form = l->form};
        memcpy(insn->bytes, l->bytes, sizeof l->bytes);
        loop->used |= registers_named(l, NULL);
        note_steps(l, loop);
    }
    return true;
}

/* ---- groups ---- */

static bool step_is_known(const struct loop *loop, unsigned guest)
{
    return guest == GPR_COUNT || !loop->steps[guest].wild;
}

static bool loop_steps(const struct loop *loop, unsigned guest)
{
    return guest != GPR_COUNT && loop->steps[guest].steps;
}

/* A register that may wrap is only looked at where it heads for. */
static bool step_is_plain(const struct step *step)
{
    return !step->wraps || (step->by > 0 ? step->low == 0 : step->by < 0 ? step->high == 0 : step->low == step->high);
}

/* The group that the current instruction's memory operand would be; false: none. */
static bool group_describe(const struct lower *l, const struct loop *loop, const ZydisDecodedOperand *op, struct group *group)
{
    if (l->decoded.z.address_width != (l->narrow ? 32 : 64) || !lower_memory_possible(l, op, l->use.memory_size, l->use.memory_written) ||
        lower_has_segment_base(l, op))
        return false;
    *group = (struct group){.base = GPR_COUNT, .index = GPR_COUNT, .stepping = GPR_COUNT, .low = l->in.disp, .uses = 1};
    if (lower_is_constant(op)) {
        group->constant = true;
        group->low = (int64_t)lower_constant_address(l, op);
        return true;
    }
    if (op->mem.base != ZYDIS_REGISTER_NONE && l->in.base != GPR_ZERO)
        group->base = l->in.base;
    if (op->mem.index != ZYDIS_REGISTER_NONE) {
        group->index = l->in.index;
        group->scale = l->in.scale;
    }
    bool base_steps = loop_steps(loop, group->base), index_steps = loop_steps(loop, group->index);
    if (!step_is_known(loop, group->base) || !step_is_known(loop, group->index) || (base_steps && index_steps))
        return false;
    if (base_steps || index_steps) {
        group->stepping = base_steps ? group->base : group->index;
        group->shift = base_steps ? 0 : group->scale;
        group->stride = loop->steps[group->stepping].by * (1 << group->shift);
        if (host_of[group->stepping] == SPILLED || !step_is_plain(&loop->steps[group->stepping]))
            return false;
    }
    return group->stride >= -STRIDE_MAX && group->stride <= STRIDE_MAX;
}

/* Enters an access in the group that it belongs to; NULL: there is no room. */
static struct group *group_enter(struct loop *loop, const struct group *wanted)
{
    for (unsigned i = 0; i < loop->group_count; i++) {
        struct group *group = &loop->groups[i];
        if (group->base != wanted->base || group->index != wanted->index || group->scale != wanted->scale ||
            group->constant != wanted->constant)
            continue;
        int64_t low = group->low < wanted->low ? group->low : wanted->low;
        int64_t high = group->high > wanted->high ? group->high : wanted->high;
        if (high - low > SPAN_MAX || (group->constant && ((low ^ (high - 1)) >> PAGE_SHIFT) != 0))
            continue;
        group->low = low;
        group->high = high;
        group->uses++;
        return group;
    }
    if (loop->group_count == ARRAY_LEN(loop->groups))
        return NULL;
    loop->groups[loop->group_count] = *wanted;
    return &loop->groups[loop->group_count++];
}

static void loop_group(struct lower *l, struct loop *loop)
{
    int64_t moved[16] = {0};
    for (unsigned i = 0; i < loop->count; i++) {
        insn_use_now(l, &loop->insns[i]);
        const ZydisDecodedOperand *op = l->use.memory ? lower_memory_operand(l) : NULL;
        struct group group;
        if (op != NULL && group_describe(l, loop, op, &group)) {
            if (group.stepping != GPR_COUNT)
                group.low += moved[group.stepping] * (1 << group.shift);
            group.high = group.low + l->use.memory_size;
            if (group.constant || (group.low >= INT32_MIN && group.high <= INT32_MAX))
                loop->insns[i].group = group_enter(loop, &group);
        }
        loop->loose |= op != NULL && loop->insns[i].group == NULL;
        for (unsigned guest = 0; guest < 16; guest++) {
            int64_t by;
            if ((l->use.gpr_written >> guest & 1) && step_of(l, guest, &by))
                moved[guest] += by;
        }
    }
}

/* ---- registers ---- */

/* Finds host registers for C and the anchors; groups for which there is none are dissolved. */
static bool loop_borrow(struct lower *l, struct loop *loop)
{
    static const uint8_t wide[][2] = {{RBX, HBX}, {RBP, HBP}, {R12, H12}, {R13, H13}, {R9, H9},   {R8, H8},
                                      {RSI, HSI}, {RDI, HDI}, {RDX, HDX}, {RCX, H10}};
    static const uint8_t narrow_free[] = {H9, H12, H13};
    unsigned wanted = loop->group_count + 1, count = 0;
    for (unsigned i = 0; l->narrow && !loop->loose && i < ARRAY_LEN(narrow_free) && count < wanted; i++)
        loop->borrowed[count++] = narrow_free[i];
    for (unsigned i = 0; i < ARRAY_LEN(wide) && count < wanted; i++) {
        bool exists = !l->narrow || wide[i][0] < 8;
        if (exists && !(loop->used >> wide[i][0] & 1))
            loop->borrowed[count++] = wide[i][1];
    }
    loop->borrowed_count = count;
    if (count < 2 || (count < wanted && l->narrow && !loop->loose))
        return false;
    unsigned kept = count - 1;
    for (unsigned i = 0; i < loop->count; i++)
        if (loop->insns[i].group >= &loop->groups[kept])
            loop->insns[i].group = NULL;
    loop->group_count = kept < loop->group_count ? kept : loop->group_count;
    for (unsigned i = 0; i < loop->group_count; i++)
        loop->groups[i].anchor = loop->borrowed[i + 1];
    return true;
}

static struct emit_mem saved(unsigned i)
{
    struct emit_mem m = STATE_OF(translated.loop_saved[0]);
    m.disp += (int32_t)(8 * i);
    return m;
}

static void restore_borrowed(struct lower *l, const struct loop *loop)
{
    for (unsigned i = 0; i < loop->borrowed_count; i++)
        emit_load(&l->e, loop->borrowed[i], saved(i));
}

/* ---- instructions that change flags: only while these are saved ---- */

enum { ALU_AND = 4, ALU_SUB = 5, ALU_CMP = 7, SHIFT_SHR = 5 };
enum { CC_B = 2, CC_E = 4, CC_NE = 5, CC_A = 7, CC_L = 12, CC_G = 15 };

static void emit_alu_imm(struct emit *e, bool wide, unsigned operation, unsigned reg, int32_t value)
{
    emit_rr(e, wide ? E_W : 0, 0x81, operation, reg);
    emit32(e, (uint32_t)value);
}

static void emit_shr(struct emit *e, unsigned reg, unsigned count)
{
    emit_rr(e, E_W, 0xc1, SHIFT_SHR, reg);
    emit8(e, count);
}

static void emit_imul_imm(struct emit *e, unsigned reg, int32_t factor)
{
    emit_rr(e, E_W, 0x69, reg, reg);
    emit32(e, (uint32_t)factor);
}

/* C = min(C, reg) */
static void emit_min(struct emit *e, unsigned c, unsigned reg)
{
    emit_rr(e, E_W, 0x39, reg, c);
    emit_rr(e, E_W, 0x0f40 | CC_A, c, reg);
}

/* reg /= by, rounded down or, where it is no power of 2, further down. */
static void emit_divide(struct emit *e, unsigned reg, uint64_t by)
{
    if ((by & (by - 1)) == 0) {
        emit_shr(e, reg, (unsigned)__builtin_ctzll(by));
    } else {
        emit_imul_imm(e, reg, (int32_t)(65536 / by));
        emit_shr(e, reg, 16);
    }
}

/* ---- head ---- */

static void fail_if(struct lower *l, struct loop *loop, unsigned condition)
{
    check(loop->fail_count < ARRAY_LEN(loop->fails));
    loop->fails[loop->fail_count++] = emit_jcc(&l->e, condition, NULL);
}

/* S = the linear address of the group's first byte. */
static void group_linear(struct lower *l, const struct group *group)
{
    struct emit *e = &l->e;
    if (group->constant) {
        emit_mov_imm(e, S, (uint64_t)group->low);
        return;
    }
    struct emit_mem m = {.base = H_NONE, .index = H_NONE, .scale = (uint8_t)group->scale, .disp = (int32_t)group->low};
    if (group->base != GPR_COUNT)
        m.base = (uint8_t)lower_register(l, group->base, S);
    if (group->index != GPR_COUNT)
        m.index = (uint8_t)lower_register(l, group->index, T);
    if (l->narrow)
        emit_lea32(e, S, m);
    else
        emit_lea(e, S, m);
}

/* How many turns until the group, which spans `span` bytes and begins at offset A of its page, leaves it. */
static void group_turns(struct lower *l, const struct loop *loop, const struct group *group, unsigned span)
{
    struct emit *e = &l->e;
    if (group->stride == 0)
        return;
    if (group->stride > 0) {
        emit_mov_imm(e, T, PAGE_SIZE - span);
        emit_rr(e, E_W, 0x29, group->anchor, T); /* sub */
    } else {
        emit_mov_rr(e, T, group->anchor);
    }
    emit_divide(e, T, (uint64_t)(group->stride > 0 ? group->stride : -group->stride));
    emit_lea(e, T, MEM(T, 1));
    emit_min(e, loop->borrowed[0], T);
}

static void group_head(struct lower *l, struct loop *loop, const struct group *group)
{
    struct emit *e = &l->e;
    unsigned span = (unsigned)(group->high - group->low), a = group->anchor;
    group_linear(l, group);
    emit_mov_rr32(e, a, S);
    emit_alu_imm(e, false, ALU_AND, a, PAGE_OFFSET_MASK);
    emit_alu_imm(e, false, ALU_CMP, a, (int32_t)(PAGE_SIZE - span));
    fail_if(l, loop, CC_A);
    group_turns(l, loop, group, span);
    if (l->narrow) {
        emit_mov_rr32(e, T, S);
        emit_shr(e, T, PAGE_SHIFT);
    } else {
        emit_rorx(e, T, S, 48);
        emit_shrx(e, T, T, STATE);
    }
    emit_load(e, T, (struct emit_mem){.base = H_NONE, .index = T, .scale = 3, .gs = true});
    emit8(e, 0xf6), emit8(e, 0xc1), emit8(e, 1); /* test cl, 1: no entry */
    fail_if(l, loop, CC_NE);
    emit_lea(e, a, MEM_INDEX(S, T, 0, 0));
    if (group->constant)
        return;
    if (group->stepping == GPR_COUNT) {
        emit_alu_imm(e, true, ALU_SUB, a, (int32_t)group->low);
        return;
    }
    unsigned host = host_of[group->stepping];
    if (group->shift == 0)
        emit_lea(e, T, MEM(host, group->low));
    else
        emit_lea(e, T, ((struct emit_mem){.base = H_NONE, .index = (uint8_t)host, .scale = (uint8_t)group->shift,
                                          .disp = (int32_t)group->low}));
    emit_rr(e, E_W, 0x29, T, a); /* sub */
}

/* A register of 32 bits that steps must not wrap: its address would not. */
static void wrap_head(struct lower *l, struct loop *loop, unsigned guest)
{
    struct emit *e = &l->e;
    const struct step *step = &loop->steps[guest];
    int64_t by = step->by, beyond = by > 0 ? step->high - by : by - step->low;
    if (by == 0)
        return;
    emit_mov_rr32(e, T, host_of[guest]);
    if (by > 0)
        emit_rr(e, 0, 0xf7, 2, T); /* not ecx: what is left above it */
    if (beyond != 0) {
        emit_alu_imm(e, true, ALU_SUB, T, (int32_t)beyond);
        fail_if(l, loop, CC_B);
    }
    emit_divide(e, T, (uint64_t)(by > 0 ? by : -by));
    emit_min(e, loop->borrowed[0], T);
}

static void credit_head(struct lower *l, struct loop *loop, uint8_t **cold)
{
    struct emit *e = &l->e;
    unsigned c = loop->borrowed[0];
    int32_t unit = loop->unit;
    emit_load(e, S, lower_loop_credit(l));
    emit_lea(e, S, MEM_INDEX(S, c, 0, -(LOOP_HEAD_TURNS * unit / (int32_t)loop->copies)));
    emit_alu_imm(e, true, ALU_CMP, S, LOOP_CREDIT_MIN * unit);
    *cold = emit_jcc(e, CC_L, NULL);
    emit_mov_imm(e, T, (uint64_t)(LOOP_CREDIT_MAX * (int64_t)unit));
    emit_rr(e, E_W, 0x39, T, S); /* cmp */
    emit_rr(e, E_W, 0x0f40 | CC_G, S, T);
    emit_store(e, lower_loop_credit(l), S);
}

/* C, from turns to what is left of them; nothing fails any more. */
static void count_head(struct lower *l, struct loop *loop)
{
    struct emit *e = &l->e;
    unsigned c = loop->borrowed[0];
    emit_rr(e, E_W, 0xf7, 3, c); /* neg */
    if (!l->t->counted)
        return;
    emit_load(e, T, STATE_OF(translated.left));
    emit_lea(e, T, MEM_INDEX(T, c, 0, 0));
    emit_store(e, STATE_OF(translated.left), T);
}

static void save_flags(struct emit *e)
{
    emit_mov_rr(e, T, HAX);
    emit8(e, 0x9f); /* lahf; seto al */
    emit8(e, 0x0f), emit8(e, 0x90), emit8(e, 0xc0);
    emit_store16(e, STATE_OF(status), HAX);
    emit_mov_rr(e, HAX, T);
}

static void give_flags(struct emit *e)
{
    emit_mov_rr(e, T, HAX);
    emit_rm(e, 0, 0x0fb7, HAX, STATE_OF(status));
    emit8(e, 0x04), emit8(e, 0x7f); /* add al, 0x7f; sahf */
    emit8(e, 0x9e);
    emit_mov_rr(e, HAX, T);
}

static uint16_t here(const struct lower *l)
{
    return (uint16_t)(l->e.p - l->start);
}

/* `cold`: the jump taken when the credit is used up. */
static void loop_head(struct lower *l, struct loop *loop, uint8_t **cold)
{
    struct emit *e = &l->e;
    struct block *block = l->block;
    unsigned c = loop->borrowed[0];
    block->loop = here(l);
    emit_load(e, T, STATE_OF(poll));
    emit_load32(e, T, MEM(T, 0));
    save_flags(e);
    for (unsigned i = 0; i < loop->borrowed_count; i++)
        emit_store(e, saved(i), loop->borrowed[i]);
    block->loop_saved = here(l);
    unsigned turns = LOOP_INSTRUCTIONS_MAX / loop->count;
    turns = turns < LOOP_TURNS_MAX ? turns : LOOP_TURNS_MAX;
    if (l->t->counted) { /* so many, and the block once more, must be left */
        emit_load(e, T, STATE_OF(translated.left));
        emit_alu_imm(e, true, ALU_CMP, T, (int32_t)(turns * loop->count + block->insns));
        fail_if(l, loop, CC_L);
    }
    emit_mov_imm(e, c, turns);
    for (unsigned guest = 0; guest < 16; guest++) {
        bool counts = false;
        for (unsigned i = 0; i < loop->group_count; i++)
            counts |= loop->groups[i].stepping == guest;
        if (counts && loop->steps[guest].wraps)
            wrap_head(l, loop, guest);
    }
    for (unsigned i = 0; i < loop->group_count; i++)
        group_head(l, loop, &loop->groups[i]);
    emit_shr(e, c, (unsigned)__builtin_ctz(loop->copies));
    emit_rr(e, E_W, 0x85, c, c); /* test */
    fail_if(l, loop, CC_E);
    if (loop->unit != 1)
        emit_imul_imm(e, c, loop->unit);
    credit_head(l, loop, cold);
    count_head(l, loop);
    give_flags(e);
    block->loop_body = here(l);
}

/* ---- body ---- */

static void jump_out(struct lower *l, struct loop *loop, unsigned condition, unsigned copy, unsigned index)
{
    check(loop->jump_count < ARRAY_LEN(loop->jumps));
    loop->jumps[loop->jump_count++] =
        (struct loop_jump){.at = emit_jcc(&l->e, condition, NULL), .copy = copy, .index = index};
}

static bool loop_insn_emit(struct lower *l, struct loop *loop, unsigned copy, unsigned i)
{
    struct loop_insn *insn = &loop->insns[i];
    struct translate *t = l->t;
    insn_use_now(l, insn);
    l->group = insn->group;
    l->index = i;
    l->map = &t->maps[t->map_count++];
    *l->map = (struct map){.host = here(l), .off = (uint16_t)(insn->rip & PAGE_OFFSET_MASK), .len = l->in.len, .address = H_NONE};
    if (is_jcc(&l->in)) {
        bool last = i + 1 == loop->count;
        jump_out(l, loop, (l->in.opcode & 15u) ^ (last ? 1u : 0), copy, i);
        return true;
    }
    if (l->in.row == ROW_JMP)
        return true;
    if (l->use.memory && l->group == NULL && (l->form & (FORM_UNALIGNED | FORM_MISS)))
        return false;
    unsigned stubs = l->stub_count;
    if (!lower_plain(l) || l->status || l->stub_count != stubs)
        return false;
    lower_note_result(l, l->use.gpr_written);
    return true;
}

bool lower_anchored(const struct lower *l, struct reencode_map *map)
{
    const struct group *group = l->group;
    if (group == NULL)
        return false;
    map->base = (uint8_t)group->anchor;
    map->index = group->stepping == GPR_COUNT ? REENCODE_NO_REG : host_of[group->stepping];
    map->scale = (uint8_t)group->shift;
    map->disp = (int32_t)(group->constant ? (int64_t)lower_constant_address(l, lower_memory_operand(l)) - group->low
                                          : l->in.disp);
    return true;
}

static bool loop_body(struct lower *l, struct loop *loop)
{
    struct emit *e = &l->e;
    uint8_t *top = e->p;
    for (unsigned copy = 0; copy < loop->copies; copy++) {
        memset(l->align, 0, sizeof l->align);
        for (unsigned i = 0; i < loop->count; i++)
            if (here(l) - l->block->loop > (int)LOOP_BYTES_MAX || !loop_insn_emit(l, loop, copy, i))
                return false;
    }
    unsigned c = loop->borrowed[0];
    emit_lea(e, c, MEM(c, loop->unit));
    emit_mov_rr(e, T, c);
    uint8_t *done = emit_jrcxz(e);
    emit_jmp(e, top);
    emit_short_here(e, done);
    l->block->loop_tail = here(l);
    restore_borrowed(l, loop);
    emit_jmp(e, l->start + l->block->loop);
    return true;
}

/* ---- tail ---- */

static void jump_tail(struct lower *l, const struct loop *loop, const struct loop_jump *jump)
{
    struct emit *e = &l->e;
    unsigned c = loop->borrowed[0];
    emit_target(jump->at, e->p);
    emit_load(e, T, lower_loop_credit(l));
    emit_lea(e, T, MEM_INDEX(T, c, 0, 0));
    emit_store(e, lower_loop_credit(l), T);
    if (l->t->counted) { /* left -= C + turns done of the unrolled ones + the block that is entered */
        emit_mov_rr(e, S, c);
        emit_not(e, S);
        emit_load(e, T, STATE_OF(translated.left));
        emit_lea(e, T, MEM_INDEX(T, S, 0, 1 - (int32_t)(jump->copy * loop->count) - (int32_t)l->block->insns));
        emit_store(e, STATE_OF(translated.left), T);
    }
    restore_borrowed(l, loop);
    emit_jmp(e, l->start + l->t->maps[l->block->map + jump->index].host);
}

/* The jump of the block's own branch back now leads to the head, and that of its exit stands behind it. */
static void loop_tail(struct lower *l, struct loop *loop, struct exit_site *back, uint8_t *cold)
{
    struct emit *e = &l->e;
    struct translate *t = l->t;
    for (unsigned i = 0; i < loop->jump_count; i++)
        jump_tail(l, loop, &loop->jumps[i]);
    for (unsigned i = 0; i < loop->fail_count; i++)
        emit_target(loop->fails[i], e->p);
    restore_borrowed(l, loop);
    give_flags(e);
    emit_target(t->write + back->jump, l->start + l->block->loop);
    lower_exit_linked(l, (uint32_t)(back - t->exits), emit_jmp(e, t->write + back->stub));
    emit_target(cold, e->p);
    restore_borrowed(l, loop);
    give_flags(e);
    lower_exit_now(l, lower_exit(l, EXIT_COLD_LOOP, back->rip, 0));
    l->block->exit_count++;
}

void lower_loop_again(struct lower *l)
{
    struct translate *t = l->t;
    struct block *block = l->block;
    const struct form *form = form_of(t, l->piece->id, block->off, false);
    struct exit_site *back = back_edge(l);
    if (back == NULL || back->executed > LOOP_INSNS_MAX || t->verify != NULL || l->second != NULL || l->segments ||
        (form != NULL && (form->form & FORM_NO_LOOP)) || (uint32_t)(l->e.p - l->start) + LOOP_ROOM > BLOCK_BYTES_MAX)
        return;
    struct loop loop = {.copies = back->executed <= 8 ? 4 : back->executed <= 16 ? 2 : 1};
    uint8_t *before = l->e.p;
    const unsigned index = l->index;
    const uint32_t maps = t->map_count, sites = t->site_count, exits = t->exit_count;
    unsigned stubs = l->stub_count;
    uint8_t *cold;
    bool done = false;
    l->index = 1; /* no instruction goes on in the next page */
    if (loop_decode(l, &loop, back->executed)) {
        loop_group(l, &loop);
        if (loop.group_count != 0 && loop_borrow(l, &loop)) {
            loop.unit = t->counted ? (int32_t)(loop.copies * loop.count) : 1;
            loop_head(l, &loop, &cold);
            done = loop_body(l, &loop);
        }
    }
    l->group = NULL;
    l->index = index;
    if (!done) {
        l->e.p = before;
        l->stub_count = stubs;
        t->map_count = maps;
        t->site_count = sites;
        check(t->exit_count == exits);
        block->loop = 0;
        return;
    }
    loop_tail(l, &loop, back, cold);
    block->loop_insns = (uint8_t)loop.count;
    block->loop_copies = (uint8_t)loop.copies;
    block->loop_borrowed = (uint8_t)loop.borrowed_count;
    memcpy(block->borrowed, loop.borrowed, sizeof block->borrowed);
    t->counters.loops++;
}
