/* Making a block: which instructions it holds, how each is lowered, and what stands before and behind its code.
 *
 * COPY instructions are re-encoded with the guest's registers where they are held here and the memory operand at
 * [register + T]. A guest register that lives in memory is loaded into a scratch register for the one instruction and stored
 * after it. What is not COPY, or not in a form that this can do, is a call of the interpreter's function.
 *
 *     far:    T = fetch slot of the page; T -= identity; zero? else leave
 *     near:   vector and x87 registers there? where the block needs them; otherwise this entry is the body
 *     poll:   T = [vcpu.poll], which faults when the monitor wants something
 *     body:   enough instructions left (when they are counted)?
 *             the instructions
 *             the exits' stubs, the calls of slow ways
 */
#include "engine/translate/lower.h"

#include <time.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/crew.h"
#include "cpu/watch.h"
#include "memory/memory.h"
#include "mmu/access.h"
#include "mmu/shadow.h"

const uint8_t host_of[16] = {
    [RAX] = HAX, [RCX] = H10, [RDX] = HDX, [RBX] = HBX,     [RSP] = H14,     [RBP] = HBP, [RSI] = HSI, [RDI] = HDI,
    [R8] = H8,   [R9] = H9,   [R10] = SPILLED, [R11] = SPILLED, [R12] = H12, [R13] = H13, [R14] = SPILLED, [R15] = SPILLED,
};

static uint32_t cache_offset(const struct lower *l, const uint8_t *p)
{
    return (uint32_t)(p - l->t->write);
}

/* Control never comes to the instruction behind it. */
static bool ends_block(const struct insn *in)
{
    switch (in->row) {
    case ROW_NONE:
    case ROW_IRET: case ROW_IRETD: case ROW_IRETQ:
    case ROW_SYSCALL: case ROW_SYSRET: case ROW_SYSENTER: case ROW_SYSEXIT:
    case ROW_INT: case ROW_INT3: case ROW_INT1:
    case ROW_UD0: case ROW_UD1: case ROW_UD2:
    case ROW_HLT: case ROW_RSM:
    case ROW_JMP: case ROW_CALL: case ROW_RET: return true;
    default: return false;
    }
}

/* ---- exits and calls ---- */

uint32_t lower_exit(struct lower *l, enum exit_kind kind, uint64_t rip, unsigned executed)
{
    struct translate *t = l->t;
    uint32_t number = t->exit_count++;
    t->exits[number] = (struct exit_site){.kind = (uint8_t)kind,
                                          .rip = l->narrow ? (uint32_t)rip : rip,
                                          .executed = (uint16_t)executed,
                                          .block = block_number(t, l->block)};
    t->exits[number].backward = t->exits[number].rip <= l->rip;
    return number;
}

void lower_exit_linked(struct lower *l, uint32_t exit, uint8_t *at)
{
    l->t->exits[exit].jump = cache_offset(l, at);
}

static void stub_jump(struct lower *l, uint8_t *at, uint32_t exit)
{
    check(l->stub_count < STUBS_MAX);
    l->stubs[l->stub_count++] = (struct stub_jump){.at = at, .number = exit};
}

void lower_slow_way(struct lower *l, uint8_t *at)
{
    check(l->stub_count < STUBS_MAX);
    l->stubs[l->stub_count++] = (struct stub_jump){.at = at, .call = true, .status = l->status, .number = UINT32_MAX};
}

void lower_exit_jump(struct lower *l, uint32_t exit)
{
    stub_jump(l, emit_jmp(&l->e, NULL), exit);
}

void lower_exit_now(struct lower *l, uint32_t exit)
{
    l->t->exits[exit].stub = cache_offset(l, l->e.p);
    emit_mov_imm(&l->e, T, exit);
    emit_jmp(&l->e, l->t->write + l->t->at.exit[l->narrow]);
}

struct emit_mem lower_loop_credit(const struct lower *l)
{
    const int64_t *credit = &l->t->credits[block_number(l->t, l->block) % LOOP_CREDITS];
    return MEM(STATE, (intptr_t)credit - ((intptr_t)l->v + STATE_BIAS));
}

/* Of the rows that are calls, what touches control and debug registers is not simple. Data segment registers are, if the
 * code that goes on is still as it was translated: translate_call() looks. */
static enum call_kind call_kind(const struct lower *l)
{
    const struct insn *in = &l->in;
    if (in->row == ROW_NONE || ends_block(in))
        return CALL_ANY;
    bool loads = in->op_kind[0] == OPERAND_SEG && in->row != ROW_PUSH;
    if (loads)
        return in->op_reg[0] == SEG_SS || (in->row != ROW_MOV && in->row != ROW_POP) ? CALL_ANY : CALL_SEGMENT;
    if (insn_rows[in->row].lowering == LOWER_STOP || insn_rows[in->row].lowering == LOWER_BRANCH)
        return CALL_ANY;
    for (unsigned i = 0; i < 3; i++)
        if (in->op_kind[i] == OPERAND_CR || in->op_kind[i] == OPERAND_DR)
            return CALL_ANY;
    return CALL_SIMPLE;
}

static uint32_t call_site(struct lower *l)
{
    struct translate *t = l->t;
    uint32_t number = t->site_count++;
    struct call_site *site = &t->sites[number];
    *site = (struct call_site){.block = block_number(t, l->block), .index = (uint16_t)l->index, .kind = (uint8_t)call_kind(l)};
    site->in[0] = l->in;
    if (site->in[0].row < ROW_COUNT && insn_rows[site->in[0].row].lowering == LOWER_BRANCH && site->in[0].fn != run_slow)
        site->in[0].target = NULL;
    site->in[1] = (struct insn){.fn = run_end, .off = (uint16_t)(l->in.off + l->in.len), .mode = l->in.mode};
    return number;
}

static void jump_trampoline(struct lower *l, uint32_t at)
{
    emit_jmp(&l->e, l->t->write + at);
}

void lower_call(struct lower *l)
{
    if (l->t->verify != NULL) { /* the interpreter does it, outside of blocks */
        l->refused = true;
        return;
    }
    uint32_t site = call_site(l);
    emit_mov_imm(&l->e, T, site);
    jump_trampoline(l, (l->status ? l->t->at.call_status : l->t->at.call)[l->narrow]);
    l->t->sites[site].resume = ends_block(&l->in) ? 0 : cache_offset(l, l->e.p);
    l->t->sites[site].status = l->status;
    l->status = false;
    memset(l->align, 0, sizeof l->align);
    l->writes = 0;
}

void lower_status_save(struct lower *l)
{
    if (l->status)
        return;
    struct emit *e = &l->e;
    emit_mov_rr(e, T, HAX);
    emit8(e, 0x9f); /* lahf; seto al */
    emit8(e, 0x0f), emit8(e, 0x90), emit8(e, 0xc0);
    emit_store16(e, STATE_OF(status), HAX);
    emit_mov_rr(e, HAX, T);
    l->status = true;
    l->map->flags |= MAP_STATUS;
}

void lower_status_restore(struct lower *l)
{
    if (!l->status)
        return;
    struct emit *e = &l->e;
    emit_mov_rr(e, T, HAX);
    emit_rm(e, 0, 0x0fb7, HAX, STATE_OF(status));
    emit8(e, 0x04), emit8(e, 0x7f); /* add al, 0x7f; sahf */
    emit8(e, 0x9e);
    emit_mov_rr(e, HAX, T);
    l->status = false;
}

void lower_rsp_check(struct lower *l)
{
    struct emit *e = &l->e;
    lower_status_restore(l);
    emit_pext(e, T, H_GUEST_RSP, l->narrow ? STATE_OF(translated.rsp_mask[1]) : STATE_OF(translated.rsp_mask[0]));
    uint8_t *aligned = emit_jrcxz(e);
    lower_exit_jump(l, lower_exit(l, EXIT_INTERPRET, l->next, l->index + 1));
    emit_short_here(e, aligned);
}

/* ---- COPY ---- */

const ZydisDecodedOperand *lower_memory_operand(const struct lower *l)
{
    for (unsigned i = 0; i < l->decoded.z.operand_count_visible; i++)
        if (l->decoded.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &l->decoded.operands[i];
    return NULL;
}

/* Leaves an index in ECX without naming it. */
static bool writes_index(const struct lower *l)
{
    switch (l->in.row) {
    case ROW_PCMPISTRI: case ROW_PCMPESTRI: case ROW_VPCMPISTRI: case ROW_VPCMPESTRI: return true;
    default: return false;
    }
}

/* All that compute, and the control word's moves. */
static bool may_copy_x87(const struct lower *l)
{
    if (insn_rows[l->in.row].how != HOW_HOST || l->in.seg == SEG_FS || l->in.seg == SEG_GS ||
        (l->segments && l->use.memory)) /* FDP is the offset */
        return false;
    switch (l->in.row) {
    case ROW_FWAIT: case ROW_FNINIT: case ROW_FNCLEX: case ROW_FNOP:
    case ROW_FENI8087_NOP: case ROW_FDISI8087_NOP: case ROW_FSETPM287_NOP:
        return false;
    default: return true;
    }
}

/* FIP and FDP are those of the last instruction that computes. */
static void note_x87(struct lower *l, bool memory)
{
    struct emit *e = &l->e;
    l->block->x87 = true;
    if (l->in.row == ROW_FLDCW || l->in.row == ROW_FNSTCW || l->in.row == ROW_FNSTSW)
        return;
    uint32_t site = call_site(l);
    emit_store_imm(e, true, STATE_OF(translated.x87_last), (int32_t)site + 1);
    if (memory) {
        emit_store(e, STATE_OF(translated.x87_data), l->map->address);
        emit_store_imm(e, true, STATE_OF(translated.x87_data_site), (int32_t)site + 1);
    }
}

/* Instructions whose row says COPY, or would say so but for forms that share the mnemonic, which may not be copied. */
static bool may_copy(const struct lower *l)
{
    const struct insn_use *use = &l->use;
    if (use->mmx)
        return false;
    if (use->x87)
        return may_copy_x87(l);
    switch (l->in.row) {
    case ROW_MOV:
        for (unsigned i = 0; i < 2; i++)
            if (l->in.op_kind[i] == OPERAND_SEG || l->in.op_kind[i] == OPERAND_CR || l->in.op_kind[i] == OPERAND_DR)
                return false;
        return true;
    case ROW_PAUSE: /* see crew_relax() */
        return l->t->verify == NULL && l->v->crew == NULL;
    case ROW_CLD: /* DF is not in the host's flags */
    case ROW_STD:
    case ROW_LEAVE:
        return false;
    case ROW_VZEROUPPER: /* in 32-bit code YMM8 and above are not touched */
    case ROW_VZEROALL:
        return !l->narrow;
    case ROW_MOVSD: /* SSE and string instructions of the same name */
    case ROW_CMPSD:
        return use->vector;
    case ROW_BT: /* a register's bit number reaches beyond the operand */
    case ROW_BTS:
    case ROW_BTR:
    case ROW_BTC:
        return !use->memory || l->in.op_kind[1] == OPERAND_IMM;
    default: return insn_rows[l->in.row].lowering == LOWER_COPY || writes_index(l);
    }
}

/* The registers of one instruction: which guest registers are loaded to scratch registers for it. */
struct loan {
    uint8_t guest[2], host[2];
    unsigned count;
};

static bool lend(struct loan *loan, bool *s_free, bool *t_free, unsigned guest, bool must_be_rcx)
{
    if (loan->count == 2)
        return false;
    unsigned host;
    if (*t_free) {
        host = T;
        *t_free = false;
    } else if (*s_free && !must_be_rcx) {
        host = S;
        *s_free = false;
    } else {
        return false;
    }
    loan->guest[loan->count] = (uint8_t)guest;
    loan->host[loan->count++] = (uint8_t)host;
    return true;
}

/* RCX itself is needed: as a count in CL, or as CH. */
static bool needs_rcx(const struct lower *l)
{
    return reencode_reads_rcx(&l->decoded.z, l->decoded.operands) || (l->use.gpr_high & (1u << RCX));
}

static bool plan_loans(const struct lower *l, bool memory, struct loan *loan, struct reencode_map *map)
{
    bool t_free = true, s_free = !memory;
    for (unsigned i = 0; i < 16; i++)
        map->gpr[i] = host_of[i] == SPILLED ? (uint8_t)H_NONE : host_of[i];
    if (needs_rcx(l)) {
        if (!lend(loan, &s_free, &t_free, RCX, true))
            return false;
        if (l->use.gpr_high & (1u << RCX))
            map->gpr[RCX] = HCX;
        map->rcx_ready = true;
    }
    if (writes_index(l))
        map->gpr[RCX] = HCX;
    for (unsigned guest = R10; guest <= R15; guest++) {
        if (host_of[guest] != SPILLED || !(l->use.gpr_explicit & (1u << guest)))
            continue;
        if (!lend(loan, &s_free, &t_free, guest, false))
            return false;
        map->gpr[guest] = loan->host[loan->count - 1];
    }
    for (unsigned i = 0; i < 16; i++)
        if (map->gpr[i] == H_NONE)
            map->gpr[i] = HCX; /* not named */
    return true;
}

static void loans_begin(struct lower *l, const struct loan *loan)
{
    for (unsigned i = 0; i < loan->count; i++) {
        unsigned guest = loan->guest[i];
        if (guest == RCX)
            emit_mov_rr(&l->e, loan->host[i], H_GUEST_RCX);
        else if (l->use.gpr_read >> guest & 1)
            emit_load(&l->e, loan->host[i], STATE_REG(guest));
    }
}

static void loans_end(struct lower *l, const struct loan *loan)
{
    for (unsigned i = 0; i < loan->count; i++) {
        unsigned guest = loan->guest[i];
        if (!(l->use.gpr_written >> guest & 1))
            continue;
        if (guest != RCX)
            emit_store(&l->e, STATE_REG(guest), loan->host[i]);
        else if (l->use.gpr_high >> RCX & 1)
            emit_mov_rr(&l->e, H_GUEST_RCX, loan->host[i]);
    }
}

/* Flags are read, or some are kept: the check for misses must not touch them. */
static bool keeps_flags(const struct insn_use *use)
{
    return use->flags_read != 0 || (use->flags_written != 0 && !use->all_flags_written);
}

static bool lower_copy(struct lower *l)
{
    const ZydisDecodedOperand *memory = l->use.memory ? lower_memory_operand(l) : NULL;
    if (l->use.memory && memory == NULL)
        return false; /* a hidden operand */
    struct loan loan = {.count = 0};
    struct reencode_map map = {.base = REENCODE_NO_REG, .index = REENCODE_NO_REG};
    const bool anchored = lower_anchored(l, &map), translated = memory != NULL && !anchored;
    if (!plan_loans(l, translated, &loan, &map))
        return false;
    unsigned size = l->use.memory_size;
    if (translated) {
        if (!lower_memory_possible(l, memory, size, l->use.memory_written))
            return false;
        if (keeps_flags(&l->use) && (l->form & FORM_MISS))
            return false;
        map.base = H11, map.index = loan.count != 0 ? REENCODE_NO_REG : T;
    }
    uint8_t code[REENCODE_MAX];
    unsigned length = reencode(&l->decoded.z, l->decoded.operands, l->bytes, &map, code);
    if (length == 0 && translated && l->use.gpr_high != 0 && loan.count == 0) {
        map.base = HCX, map.index = REENCODE_NO_REG; /* [rcx] needs no REX */
        length = reencode(&l->decoded.z, l->decoded.operands, l->bytes, &map, code);
    }
    if (length == 0)
        return false;
    if (keeps_flags(&l->use))
        lower_status_restore(l);
    if (translated) {
        unsigned reg = lower_address(l, memory, size, l->use.aligned);
        if (l->use.aligned)
            l->map->flags |= MAP_ALIGNED;
        if (map.base == HCX) {
            emit_lea(&l->e, T, MEM_INDEX(reg, T, 0, 0));
        } else if (loan.count != 0) {
            emit_lea(&l->e, S, MEM_INDEX(reg, T, 0, 0));
        } else if (reg != S) {
            map.base = (uint8_t)reg;
            length = reencode(&l->decoded.z, l->decoded.operands, l->bytes, &map, code);
        }
    }
    if (length == 0) { /* only with S as base does it have a form */
        emit_mov_rr(&l->e, S, l->map->address);
        map.base = S;
        length = reencode(&l->decoded.z, l->decoded.operands, l->bytes, &map, code);
        check(length != 0);
    }
    if (translated && (map.base == HCX || loan.count != 0))
        l->map->address = H_NONE; /* it is gone when the access faults */
    loans_begin(l, &loan);
    memcpy(l->e.p, code, length);
    l->e.p += length;
    loans_end(l, &loan);
    if (writes_index(l))
        emit_mov_rr32(&l->e, H_GUEST_RCX, T);
    if (l->use.x87 && anchored)
        l->map->address = (uint8_t)lower_effective(l, memory, S);
    if (l->use.x87)
        note_x87(l, memory != NULL);
    if (l->use.all_flags_written)
        l->status = false;
    if (l->use.vector) {
        l->block->vector = true;
        l->block->avx |= l->use.avx;
    }
    return true;
}

static bool lower_lea(struct lower *l)
{
    const ZydisDecodedOperand *op = &l->decoded.operands[1];
    unsigned dest = gpr_number(l->decoded.operands[0].reg.value), width = l->in.opsize;
    if (width == 2 || l->decoded.z.address_width == 16)
        return false;
    struct emit *e = &l->e;
    unsigned to = host_of[dest] == SPILLED ? S : host_of[dest];
    unsigned base = op->mem.base == ZYDIS_REGISTER_NONE ? (unsigned)H_NONE : l->in.base;
    bool plain = base != H_NONE && l->in.base != GPR_ZERO && l->in.base < 16 && host_of[l->in.base] != SPILLED &&
                 (op->mem.index == ZYDIS_REGISTER_NONE || host_of[l->in.index] != SPILLED);
    unsigned reg;
    if (plain) {
        struct emit_mem m = {.base = host_of[l->in.base],
                             .index = op->mem.index == ZYDIS_REGISTER_NONE ? (uint8_t)H_NONE : host_of[l->in.index],
                             .scale = l->in.scale,
                             .disp = (int32_t)l->in.disp};
        if (width == 4 || l->decoded.z.address_width == 32)
            emit_lea32(e, to, m);
        else
            emit_lea(e, to, m);
        reg = to;
    } else {
        reg = lower_effective(l, op, S);
        if (width == 4)
            emit_mov_rr32(e, to, reg);
        else if (to != reg)
            emit_mov_rr(e, to, reg);
    }
    if (host_of[dest] == SPILLED)
        emit_store(e, STATE_REG(dest), to);
    return true;
}

/* MOV between registers one of which lives in memory is a load or a store. */
static bool lower_mov_spilled(struct lower *l)
{
    if (l->in.op_kind[0] != OPERAND_REG || l->in.op_kind[1] != OPERAND_REG || l->in.opsize < 4)
        return false;
    unsigned dest = l->in.op_reg[0] / 8, src = l->in.op_reg[1] / 8;
    if ((host_of[dest] == SPILLED) == (host_of[src] == SPILLED))
        return false;
    if (host_of[dest] != SPILLED) {
        if (l->in.opsize == 4)
            emit_load32(&l->e, host_of[dest], STATE_REG(src));
        else
            emit_load(&l->e, host_of[dest], STATE_REG(src));
    } else if (l->in.opsize == 8) {
        emit_store(&l->e, STATE_REG(dest), host_of[src]);
    } else {
        emit_mov_rr32(&l->e, T, host_of[src]);
        emit_store(&l->e, STATE_REG(dest), T);
    }
    return true;
}

/* ---- one instruction ---- */

static bool is_nothing(const struct insn *in)
{
    switch (in->row) {
    case ROW_NOP:
    case ROW_PREFETCH: case ROW_PREFETCHW: case ROW_PREFETCHNTA: case ROW_PREFETCHWT1:
    case ROW_PREFETCHT0: case ROW_PREFETCHT1: case ROW_PREFETCHT2:
    case ROW_CLDEMOTE: return true;
    default: return false;
    }
}

/* Keeps what is known of registers up to date, and RSP aligned. */
static void lower_results(struct lower *l)
{
    lower_note_result(l, l->use.gpr_written | l->writes);
    if ((l->writes & (1u << RSP)) && l->align[RSP] < (l->narrow ? 2 : 3))
        lower_rsp_check(l);
}

bool lower_plain(struct lower *l)
{
    if (is_nothing(&l->in))
        return true;
    if (l->in.row == ROW_LEA)
        return lower_lea(l);
    if (l->in.row == ROW_MOV && lower_mov_spilled(l))
        return true;
    return may_copy(l) && lower_copy(l);
}

/* A conditional branch back to the block's start: what has come this way may not have made sure of what the block has. */
static bool is_back_edge(const struct lower *l)
{
    uint64_t start = (l->rip & ~PAGE_OFFSET_MASK) | l->block->off;
    return l->in.row != ROW_NONE && insn_rows[l->in.row].lowering == LOWER_BRANCH &&
           l->in.op_kind[0] == OPERAND_IMM && (l->rip & ~PAGE_OFFSET_MASK) + l->in.imm == start;
}

static void lower_instruction(struct lower *l)
{
    l->writes = l->use.gpr_written;
    bool done = false;
    bool watched = vcpu_watched_closely(l->v) && insn_sensitivity(&l->in) != INSN_INNOCENT;
    if (l->in.row != ROW_NONE && !watched)
        done = lower_flow(l) || lower_stack(l) || lower_system(l) || lower_plain(l);
    if (!done)
        lower_call(l);
    else if (!l->ended)
        lower_results(l);
    if (is_back_edge(l))
        memset(l->align, 0, sizeof l->align);
    if (l->status)
        l->map->flags |= MAP_STATUS;
    if (ends_block(&l->in))
        l->ended = true;
}

/* Slow ways of the instruction just emitted come back behind it. */
static void finish_slow_ways(struct lower *l, unsigned first)
{
    uint32_t site = UINT32_MAX;
    for (unsigned i = first; i < l->stub_count; i++) {
        if (!l->stubs[i].call || l->stubs[i].number != UINT32_MAX)
            continue;
        if (site == UINT32_MAX) {
            site = call_site(l);
            l->t->sites[site].resume = cache_offset(l, l->e.p);
            l->t->sites[site].status = 1;
        }
        l->stubs[i].number = site;
    }
}

/* From now on writes to the page's bytes are noticed: before they are read. */
static const uint8_t *watch(struct lower *l, const struct piece *piece)
{
    if (piece->blocks == 0 && piece->spanning == 0)
        crew_watch(l->v, piece->gpfn);
    return memory_page(l->v->memory, piece->gpfn << PAGE_SHIFT).hva;
}

/* The bytes at `off`, with those of the next page if the instruction goes on there. */
static unsigned bytes_at(struct lower *l, unsigned off, bool spanning)
{
    unsigned available = PAGE_SIZE - off < INSN_MAX_BYTES ? PAGE_SIZE - off : INSN_MAX_BYTES;
    memset(l->bytes, 0, sizeof l->bytes);
    crew_cover(l->v, l->piece->gpfn, off, available);
    memcpy(l->bytes, l->page + off, available);
    if (!spanning || available == INSN_MAX_BYTES)
        return available;
    l->second = piece_following(l->t, l->piece);
    if (l->second == NULL)
        return available;
    const uint8_t *second = watch(l, l->second);
    crew_cover(l->v, l->second->gpfn, 0, INSN_MAX_BYTES - available);
    memcpy(l->bytes + available, second, INSN_MAX_BYTES - available);
    return INSN_MAX_BYTES;
}

/* Decodes the instruction at `off`; false if it cannot be part of a block: a debugger wants to stop there. One that spans
 * pages is a block of its own. */
bool lower_fetch(struct lower *l, unsigned off)
{
    enum code_mode mode = key_mode(l->piece->key);
    if (points_at(l->v->points, l->piece->vpage << PAGE_SHIFT | off))
        return false;
    unsigned available = bytes_at(l, off, false);
    if (decode_insn_whole(l->v, mode, l->bytes, available, off, &l->in, &l->decoded) != DECODE_OK) {
        if (l->index != 0)
            return false;
        available = bytes_at(l, off, true);
        if (l->second == NULL || decode_insn_whole(l->v, mode, l->bytes, available, off, &l->in, &l->decoded) != DECODE_OK ||
            l->in.row == ROW_NONE)
            return false;
    }
    l->rip = l->piece->vpage << PAGE_SHIFT | off;
    l->next = l->rip + l->in.len;
    if (l->narrow)
        l->next = (uint32_t)l->next;
    if (l->in.row == ROW_NONE)
        return true;
    insn_use_of(&l->decoded.z, l->decoded.operands, &l->use);
    if (insn_rows[l->in.row].how == HOW_HOST && !l->use.x87 && !l->use.mmx) {
        l->use.vector = true; /* MXCSR counts, even where no vector register is named */
        l->use.avx |= l->decoded.z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    }
    return true;
}

/* ---- before and behind ---- */

/* T = 0 if the address space has this piece of code at its place. */
static void emit_piece_check(struct lower *l, const struct piece *piece)
{
    struct translate *t = l->t;
    struct emit *e = &l->e;
    const uint64_t *slot = &t->fetch[piece->vpage % SHADOW_FETCH_SLOTS];
    int64_t distance = (int64_t)((uintptr_t)slot - ((uintptr_t)t->v + STATE_BIAS));
    if (distance == (int32_t)distance) {
        emit_load(e, T, MEM(STATE, distance));
    } else {
        emit_mov_imm(e, T, (uintptr_t)slot);
        emit_load(e, T, MEM(T, 0));
    }
    emit_lea(e, T, MEM(T, -(int32_t)piece->id));
}

/* The second half of the block's one instruction must be there as well. */
static void emit_second_check(struct lower *l)
{
    if (piece_implies(l->piece, l->second))
        return;
    emit_piece_check(l, l->second);
    uint8_t *same = emit_jrcxz(&l->e);
    lower_exit_jump(l, lower_exit(l, EXIT_SECOND, l->rip, 0));
    emit_short_here(&l->e, same);
}

static void emit_missing_check(struct lower *l, struct emit_mem missing)
{
    struct emit *e = &l->e;
    emit_load(e, T, missing);
    uint8_t *there = emit_jrcxz(e);
    lower_exit_jump(l, lower_exit(l, EXIT_CHECK, l->rip, 0));
    emit_short_here(e, there);
}

/* What depends on the whole block comes with a second pass: `needs` is the block as the first has left it. */
static void emit_entries(struct lower *l, const struct block *needs)
{
    struct emit *e = &l->e;
    l->rip = l->piece->vpage << PAGE_SHIFT | l->block->off;
    emit_piece_check(l, l->piece);
    uint8_t *same = emit_jrcxz(e);
    lower_exit_jump(l, lower_exit(l, EXIT_FAR_MISS, l->rip, 0));
    emit_short_here(e, same);
    l->block->near = (uint16_t)(e->p - l->start);
    if (needs->x87)
        emit_missing_check(l, STATE_OF(translated.x87_missing));
    if (needs->vector && needs->avx)
        emit_missing_check(l, STATE_OF(translated.avx_missing));
    else if (needs->vector)
        emit_missing_check(l, STATE_OF(translated.sse_missing));
    l->block->poll = (uint16_t)(e->p - l->start);
    emit_load(e, T, STATE_OF(poll));
    emit_load32(e, T, MEM(T, 0));
    l->block->body = (uint16_t)(e->p - l->start);
    if (l->block->near == l->block->poll)
        l->block->near = l->block->body;
}

static void emit_count(struct lower *l)
{
    struct emit *e = &l->e;
    emit_load(e, T, STATE_OF(translated.left));
    emit_lea(e, T, MEM(T, INT32_MIN)); /* a 32-bit displacement, to be filled in */
    l->count_at = e->p - 4;
    emit_store(e, STATE_OF(translated.left), T);
    emit_pext(e, T, T, STATE_OF(translated.sign_mask));
    uint8_t *enough = emit_jrcxz(e);
    lower_exit_jump(l, lower_exit(l, EXIT_COUNT, l->rip, 0));
    emit_short_here(e, enough);
}

/* Gives back what was counted for instructions that are not executed. */
static void emit_count_back(struct lower *l, unsigned count)
{
    struct emit *e = &l->e;
    if (l->count_at == NULL || count == 0)
        return;
    emit_load(e, T, STATE_OF(translated.left));
    emit_lea(e, T, MEM(T, count));
    emit_store(e, STATE_OF(translated.left), T);
}

static void emit_exit(struct lower *l, uint32_t number)
{
    struct translate *t = l->t;
    struct exit_site *exit = &t->exits[number];
    struct emit *e = &l->e;
    if (exit->kind == EXIT_DIRECT || exit->kind == EXIT_INTERPRET || exit->kind == EXIT_COUNT ||
        exit->kind == EXIT_SECOND) {
        uint8_t *entry = e->p;
        emit_count_back(l, l->block->insns - (exit->kind == EXIT_COUNT ? 0u : exit->executed));
        if (e->p != entry && exit->jump != 0) { /* the way through here is what is linked */
            emit_target(t->write + exit->jump, entry);
            lower_exit_linked(l, number, emit_jmp(e, NULL));
        }
        for (unsigned i = 0; i < l->stub_count; i++)
            if (!l->stubs[i].call && l->stubs[i].number == number)
                emit_target(l->stubs[i].at, entry);
    } else {
        for (unsigned i = 0; i < l->stub_count; i++)
            if (!l->stubs[i].call && l->stubs[i].number == number)
                emit_target(l->stubs[i].at, e->p);
    }
    exit->stub = cache_offset(l, e->p);
    if (exit->jump != 0)
        emit_target(t->write + exit->jump, e->p);
    emit_mov_imm(e, T, number);
    jump_trampoline(l, t->at.exit[l->narrow]);
}

static void emit_slow_calls(struct lower *l)
{
    for (unsigned i = 0; i < l->stub_count; i++) {
        if (!l->stubs[i].call)
            continue;
        emit_target(l->stubs[i].at, l->e.p);
        emit_mov_imm(&l->e, T, l->stubs[i].number);
        jump_trampoline(l, (l->stubs[i].status ? l->t->at.call_status : l->t->at.call)[l->narrow]);
    }
}

/* ---- the block ---- */

#define INSN_BYTES_MAX 192u /* host code of one instruction, without its stubs */
#define BODY_MAX 12288u

static void lower_body(struct lower *l, unsigned off, unsigned limit)
{
    struct translate *t = l->t;
    while (!l->ended && l->index < limit && off < PAGE_SIZE) {
        if ((uint32_t)(l->e.p - l->start) > BODY_MAX || !lower_fetch(l, off))
            break;
        if (l->second != NULL)
            emit_second_check(l);
        const struct form *form = form_of(t, l->piece->id, off, false);
        l->form = form != NULL ? form->form : 0;
        l->map = &t->maps[t->map_count++];
        *l->map = (struct map){.host = (uint16_t)(l->e.p - l->start),
                               .off = (uint16_t)off,
                               .len = l->in.len,
                               .address = H_NONE,
                               .flags = l->status ? MAP_STATUS : 0};
        unsigned first_stub = l->stub_count;
        uint8_t *before = l->e.p;
        bool status_before = l->status;
        lower_instruction(l);
        if (l->refused) {
            l->e.p = before;
            l->status = status_before;
            l->ended = false;
            l->stub_count = first_stub;
            t->map_count--;
            l->map--;
            return;
        }
        finish_slow_ways(l, first_stub);
        l->index++;
        off += l->in.len;
        if (l->second != NULL)
            break;
    }
}

struct mark {
    uint32_t map_count, exit_count, site_count;
};

static void begin(struct lower *l, const struct mark *mark, unsigned off)
{
    struct translate *t = l->t;
    t->map_count = mark->map_count;
    t->exit_count = mark->exit_count;
    t->site_count = mark->site_count;
    *l->block = (struct block){.code = t->used,
                               .off = (uint16_t)off,
                               .piece = l->piece->id,
                               .map = t->map_count,
                               .exits = t->exit_count};
    l->e = (struct emit){.p = l->start, .end = l->start + BLOCK_BYTES_MAX};
    l->index = l->stub_count = 0;
    l->second = NULL;
    l->status = l->ended = l->refused = false;
    memset(l->align, 0, sizeof l->align);
    l->count_at = NULL;
}

/* Whether the pass that made it from `needs` was the last one. */
static bool block_is_final(const struct block *block, const struct block *needs)
{
    return (!block->vector && !block->x87) || needs->vector || needs->x87;
}

static void translate_once(struct lower *l, const struct mark *mark, unsigned off, const struct block *needs)
{
    begin(l, mark, off);
    emit_entries(l, needs);
    if (l->t->counted)
        emit_count(l);
    lower_body(l, off, BLOCK_INSNS_MAX);
    if (l->index == 0)
        return;
    if (!l->ended) {
        lower_status_restore(l);
        uint64_t next = (l->piece->vpage << PAGE_SHIFT) + l->map->off + l->map->len;
        uint32_t exit = lower_exit(l, EXIT_DIRECT, next, l->index);
        lower_exit_linked(l, exit, emit_jmp(&l->e, NULL));
    }
    struct block *block = l->block;
    block->insns = (uint16_t)l->index;
    block->guest_bytes = (uint16_t)(l->map->off + l->map->len - off);
    block->exit_count = l->t->exit_count - block->exits;
    block->second = l->second != NULL ? l->second->id : 0;
    emit_slow_calls(l);
    for (uint32_t i = 0; i < block->exit_count; i++)
        emit_exit(l, block->exits + i);
    if (l->count_at != NULL) {
        int32_t minus = -(int32_t)block->insns;
        memcpy(l->count_at, &minus, 4);
    }
    if (block_is_final(block, needs))
        lower_loop_again(l);
    block->size = (uint32_t)(l->e.p - l->start);
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

struct block *block_translate(struct translate *t, struct piece *piece, unsigned off)
{
    uint64_t begin_ns = clock_ns();
    struct lower l = {.t = t, .v = t->v, .piece = piece, .narrow = (piece->key & KEY_NARROW) != 0,
                      .segments = (piece->key & KEY_SEGMENTS) != 0};
    l.block = &t->blocks[t->block_count];
    l.start = t->write + t->used;
    const struct mark mark = {t->map_count, t->exit_count, t->site_count};
    l.page = watch(&l, piece);
    struct block needs = {0};
    translate_once(&l, &mark, off, &needs);
    needs = *l.block;
    if (l.index != 0 && !block_is_final(&needs, &(struct block){0}))
        translate_once(&l, &mark, off, &needs);
    if (l.index == 0)
        return NULL;
    check(l.block->size <= BLOCK_BYTES_MAX);
    t->used = (t->used + l.block->size + 15) & ~15u;
    t->block_count++;
    block_enter(t, piece, l.block);
    t->counters.blocks++;
    t->counters.instructions += l.block->insns;
    t->counters.guest_bytes += l.block->guest_bytes;
    t->counters.host_bytes += l.block->size;
    t->counters.translate_ns += clock_ns() - begin_ns;
    return l.block;
}
