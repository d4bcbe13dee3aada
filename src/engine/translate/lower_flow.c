/* Branches, calls, returns, and the stack.
 *
 * Direct branches are host jumps that are linked to the target's block once there is one. An indirect branch looks its target
 * up in the jump cache of its mode: T = tag of the place that the target's low 16 bits name, plus the target; zero means
 * that it is the one. All without touching flags.
 *
 * A call is a host call, with the guest's return address beside the host's on the shadow return stack; a return compares what
 * it finds on the guest's stack with that, and returns on the host if they agree: then the host predicts it. If not, it is an
 * indirect branch.
 *
 *     [rsp]      where the host goes on: the landing behind the call
 *     [rsp - 8]  the guest's return address; written first, so that it finds the end of the stack
 *
 * Nothing of the guest's is changed before the last thing that can fault or fail; whatever fails leaves the block
 * at the instruction's start and the interpreter does it.
 */
#include "engine/translate/lower.h"

#include "base/check.h"

/* ---- targets ---- */

/* False where a branch may have to fault. */
static bool target_possible(const struct lower *l, uint64_t rip)
{
    return l->narrow || gva_canonical(rip);
}

static uint64_t direct_target(const struct lower *l)
{
    uint64_t rip = (l->rip & ~PAGE_OFFSET_MASK) + l->in.imm;
    return l->narrow ? (uint32_t)rip : rip;
}

static void tables(const struct lower *l, struct emit_mem *tags, struct emit_mem *hosts)
{
    unsigned n = l->piece->key & KEY_TABLE;
    intptr_t state = (intptr_t)l->v + STATE_BIAS;
    *tags = MEM_INDEX(STATE, T, 3, (intptr_t)l->t->jumps[n].tags - state);
    *hosts = MEM_INDEX(STATE, T, 3, (intptr_t)l->t->jumps[n].hosts - state);
}

/* S is the target. Falls through with T = its place in the jump cache if it is there; else leaves for the interpreter. */
static void look_up(struct lower *l)
{
    struct emit *e = &l->e;
    struct emit_mem tags, hosts;
    tables(l, &tags, &hosts);
    emit_rr(e, 0, 0x0fb7, T, S); /* movzx ecx, r11w */
    emit_load(e, T, tags);
    emit_lea(e, T, MEM_INDEX(T, S, 0, 0));
    uint8_t *hit = emit_jrcxz(e);
    lower_exit_jump(l, lower_exit(l, EXIT_INTERPRET, l->rip, l->index));
    emit_short_here(e, hit);
}

/* jmp or call (extension 4, 2) to what look_up() has found. */
static void go(struct lower *l, unsigned extension)
{
    struct emit *e = &l->e;
    struct emit_mem tags, hosts;
    tables(l, &tags, &hosts);
    emit_rr(e, 0, 0x0fb7, T, S);
    emit_rm(e, 0, 0xff, extension, hosts);
}

/* Puts the target of an indirect branch into S. */
static bool indirect_target(struct lower *l)
{
    struct emit *e = &l->e;
    const ZydisDecodedOperand *op = &l->decoded.operands[0];
    if (l->in.opsize != natural_size(l))
        return false;
    if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        unsigned reg = lower_register(l, l->in.op_reg[0] / 8, S);
        if (reg != S)
            emit_mov_rr(e, S, reg);
        return true;
    }
    if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || !lower_memory_possible(l, op, natural_size(l), false) ||
        (l->form & (FORM_UNALIGNED | FORM_MISS)))
        return false;
    unsigned reg = lower_address(l, op, natural_size(l), false);
    if (l->narrow)
        emit_load32(e, S, MEM_INDEX(reg, T, 0, 0));
    else
        emit_load(e, S, MEM_INDEX(reg, T, 0, 0));
    return true;
}

/* ---- calls and returns ---- */

static void move_rsp(struct lower *l, int32_t by)
{
    if (l->narrow)
        emit_lea32(&l->e, H_GUEST_RSP, MEM(H_GUEST_RSP, by));
    else
        emit_lea(&l->e, H_GUEST_RSP, MEM(H_GUEST_RSP, by));
}

/* S = RSP - size, T = entry of its page. */
static void push_address(struct lower *l)
{
    unsigned size = natural_size(l);
    if (l->narrow)
        emit_lea32(&l->e, S, MEM(H_GUEST_RSP, -4));
    else
        emit_lea(&l->e, S, MEM(H_GUEST_RSP, -8));
    lower_translate(l, S);
    l->map->size = (uint8_t)size;
}

/* Stores a constant at [S + T]; both are used. */
static void store_constant(struct lower *l, uint64_t value)
{
    struct emit *e = &l->e;
    bool fits = l->narrow || value == (uint64_t)(int64_t)(int32_t)value;
    if (fits) {
        emit_store_imm(e, !l->narrow, MEM_INDEX(S, T, 0, 0), (int32_t)value);
        return;
    }
    l->map->address = H_NONE;
    emit_lea(e, S, MEM_INDEX(S, T, 0, 0));
    emit_mov_imm(e, T, value);
    emit_store(e, MEM(S, 0), T);
}

/* Both stacks get the return address; neither pointer moves yet. */
static void push_return(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->next == (uint64_t)(int64_t)(int32_t)l->next) {
        emit_store_imm(e, true, MEM(HSP, -(int32_t)RETURN_FRAME - 8), (int32_t)l->next);
    } else {
        emit_mov_imm(e, T, l->next);
        emit_store(e, MEM(HSP, -(int32_t)RETURN_FRAME - 8), T);
    }
    push_address(l);
    store_constant(l, l->next);
}

/* Where the host comes back. */
static void landing(struct lower *l)
{
    emit_lea(&l->e, HSP, MEM(HSP, RETURN_FRAME - 8));
    uint32_t exit = lower_exit(l, EXIT_DIRECT, l->next, l->index + 1);
    l->t->exits[exit].landing = true;
    lower_exit_linked(l, exit, emit_jmp(&l->e, NULL));
    l->ended = true;
}

static bool lower_call_near(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->in.opsize != natural_size(l) || !target_possible(l, l->next))
        return false;
    if (l->in.op_kind[0] == OPERAND_IMM) {
        uint64_t target = direct_target(l);
        if (!target_possible(l, target))
            return false;
        lower_status_restore(l);
        push_return(l);
        move_rsp(l, -(int32_t)natural_size(l));
        emit_lea(e, HSP, MEM(HSP, -(int32_t)(RETURN_FRAME - 8)));
        emit8(e, 0xe8); /* call */
        emit32(e, 0);
        lower_exit_linked(l, lower_exit(l, EXIT_DIRECT, target, l->index + 1), e->p - 4);
        landing(l);
        return true;
    }
    lower_status_restore(l);
    if (!indirect_target(l))
        return false;
    emit_store(e, STATE_OF(translated.scratch), S);
    look_up(l); /* before anything is pushed: the target may be one that faults */
    push_return(l);
    l->map->address = H_NONE; /* two accesses: fault.c finds out which */
    emit_load(e, S, STATE_OF(translated.scratch));
    move_rsp(l, -(int32_t)natural_size(l));
    emit_lea(e, HSP, MEM(HSP, -(int32_t)(RETURN_FRAME - 8)));
    go(l, 2);
    landing(l);
    return true;
}

static bool lower_jmp(struct lower *l)
{
    if (l->in.op_kind[0] == OPERAND_IMM) {
        uint64_t target = direct_target(l);
        if (l->in.opsize < natural_size(l) || !target_possible(l, target))
            return false;
        lower_status_restore(l);
        lower_exit_linked(l, lower_exit(l, EXIT_DIRECT, target, l->index + 1), emit_jmp(&l->e, NULL));
        l->ended = true;
        return true;
    }
    lower_status_restore(l);
    if (!indirect_target(l))
        return false;
    look_up(l);
    go(l, 4);
    l->ended = true;
    return true;
}

static bool lower_ret(struct lower *l)
{
    struct emit *e = &l->e;
    uint32_t drop = l->in.op_kind[0] == OPERAND_IMM ? (uint32_t)(uint16_t)l->in.imm : 0;
    if (l->in.opsize != natural_size(l) || drop % natural_size(l) != 0 || (l->form & FORM_CALL))
        return false;
    lower_status_restore(l);
    int32_t by = (int32_t)(natural_size(l) + drop);
    lower_translate(l, H_GUEST_RSP);
    l->map->size = (uint8_t)natural_size(l);
    if (l->narrow)
        emit_load32(e, S, MEM_INDEX(H_GUEST_RSP, T, 0, 0));
    else
        emit_load(e, S, MEM_INDEX(H_GUEST_RSP, T, 0, 0));
    emit_load(e, T, MEM(HSP, -8));
    emit_not(e, T);
    emit_lea(e, T, MEM_INDEX(T, S, 0, 1));
    uint8_t *same = emit_jrcxz(e);
    uint8_t *other = emit_jmp(e, NULL);
    emit_short_here(e, same);
    move_rsp(l, by);
    emit8(e, 0xc3);
    emit_target(other, e->p);
    look_up(l);
    move_rsp(l, by);
    go(l, 4);
    l->ended = true;
    return true;
}

/* ---- conditional branches ---- */

static bool lower_jcc(struct lower *l)
{
    uint64_t target = direct_target(l);
    if (l->in.opsize < natural_size(l) || !target_possible(l, target))
        return false;
    lower_status_restore(l);
    uint32_t exit = lower_exit(l, EXIT_DIRECT, target, l->index + 1);
    lower_exit_linked(l, exit, emit_jcc(&l->e, l->in.opcode & 15, NULL));
    return true;
}

/* LOOP, JRCXZ: T becomes the count, and JRCXZ on the host decides. */
static bool lower_loop(struct lower *l)
{
    struct emit *e = &l->e;
    uint64_t target = direct_target(l);
    bool loop = l->in.row == ROW_LOOP;
    if (l->in.addrsize == 2 || l->in.opsize < natural_size(l) || !target_possible(l, target))
        return false;
    lower_status_restore(l);
    uint32_t exit = lower_exit(l, EXIT_DIRECT, target, l->index + 1);
    if (loop) {
        if (l->in.addrsize == 4)
            emit_lea32(e, H_GUEST_RCX, MEM(H_GUEST_RCX, -1));
        else
            emit_lea(e, H_GUEST_RCX, MEM(H_GUEST_RCX, -1));
    }
    if (l->in.addrsize == 4)
        emit_mov_rr32(e, T, H_GUEST_RCX);
    else
        emit_mov_rr(e, T, H_GUEST_RCX);
    uint8_t *zero = emit_jrcxz(e);
    uint8_t *over = NULL;
    if (!loop) {
        over = emit_jmp(e, NULL);
        emit_short_here(e, zero);
    }
    lower_exit_linked(l, exit, emit_jmp(e, NULL));
    if (loop)
        emit_short_here(e, zero);
    else
        emit_target(over, e->p);
    if (loop)
        l->writes |= 1u << RCX;
    return true;
}

bool lower_flow(struct lower *l)
{
    if (insn_rows[l->in.row].lowering != LOWER_BRANCH)
        return false;
    l->writes = 0;
    switch (l->in.row) {
    case ROW_JMP: return l->in.op_kind[0] != OPERAND_FAR && l->in.fn != run_slow && lower_jmp(l);
    case ROW_CALL: return l->in.op_kind[0] != OPERAND_FAR && l->in.fn != run_slow && !l->segments && lower_call_near(l);
    case ROW_RET: return l->in.fn != run_slow && !l->segments && lower_ret(l);
    case ROW_LOOP:
    case ROW_JCXZ:
    case ROW_JECXZ:
    case ROW_JRCXZ: return lower_loop(l);
    case ROW_LOOPE:
    case ROW_LOOPNE: return false;
    default: return lower_jcc(l);
    }
}

/* ---- PUSH, POP, LEAVE ---- */

void lower_push_scratch(struct lower *l)
{
    struct emit *e = &l->e;
    push_address(l);
    l->map->address = H_NONE;
    emit_lea(e, S, MEM_INDEX(S, T, 0, 0));
    emit_load(e, T, STATE_OF(translated.scratch));
    if (l->narrow)
        emit_store32(e, MEM(S, 0), T);
    else
        emit_store(e, MEM(S, 0), T);
    move_rsp(l, -(int32_t)natural_size(l));
}

static bool lower_push(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->in.opsize != natural_size(l) || (l->form & FORM_CALL))
        return false;
    switch (l->in.op_kind[0]) {
    case OPERAND_IMM:
        push_address(l);
        store_constant(l, l->in.imm);
        break;
    case OPERAND_REG: {
        unsigned guest = l->in.op_reg[0] / 8;
        push_address(l);
        struct emit_mem at = MEM_INDEX(S, T, 0, 0);
        unsigned reg = host_of[guest];
        if (reg == SPILLED) {
            l->map->address = H_NONE;
            emit_lea(e, S, at);
            at = MEM(S, 0);
            emit_load(e, T, STATE_REG(guest));
            reg = T;
        }
        if (l->narrow)
            emit_store32(e, at, reg);
        else
            emit_store(e, at, reg);
        break;
    }
    case OPERAND_MEM: {
        if (!lower_memory_possible(l, &l->decoded.operands[0], natural_size(l), false))
            return false;
        unsigned from = lower_address(l, &l->decoded.operands[0], natural_size(l), false);
        if (l->narrow)
            emit_load32(e, T, MEM_INDEX(from, T, 0, 0));
        else
            emit_load(e, T, MEM_INDEX(from, T, 0, 0));
        emit_store(e, STATE_OF(translated.scratch), T);
        lower_push_scratch(l); /* two accesses */
        return true;
    }
    default: return false;
    }
    move_rsp(l, -(int32_t)natural_size(l));
    return true;
}

static bool lower_pop(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->in.opsize != natural_size(l) || l->in.op_kind[0] != OPERAND_REG || (l->form & FORM_CALL))
        return false;
    unsigned guest = l->in.op_reg[0] / 8, reg = host_of[guest] == SPILLED ? (unsigned)T : host_of[guest];
    lower_translate(l, H_GUEST_RSP);
    l->map->size = (uint8_t)natural_size(l);
    if (l->narrow)
        emit_load32(e, reg, MEM_INDEX(H_GUEST_RSP, T, 0, 0));
    else
        emit_load(e, reg, MEM_INDEX(H_GUEST_RSP, T, 0, 0));
    if (guest == RSP) {
        lower_rsp_check(l);
        return true;
    }
    if (host_of[guest] == SPILLED)
        emit_store(e, STATE_REG(guest), T);
    move_rsp(l, (int32_t)natural_size(l));
    return true;
}

static bool lower_leave(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->in.opsize != natural_size(l) || (l->form & (FORM_CALL | FORM_UNALIGNED)))
        return false;
    l->map->size = (uint8_t)natural_size(l);
    l->map->flags |= MAP_ALIGN;
    /* An address that is not aligned does not get past the load. */
    if (l->narrow) {
        emit_mov_rr32(e, S, HBP);
        emit_rorx32(e, T, S, 2);
        emit_shrx32(e, T, T, H9);
        emit_load(e, T, (struct emit_mem){.base = H_NONE, .index = T, .scale = 3, .gs = true});
        l->map->address = S;
        emit_load32(e, HBP, MEM_INDEX(S, T, 0, 0));
        emit_lea32(e, H_GUEST_RSP, MEM(S, 4));
    } else {
        emit_lea(e, S, MEM(HBP, 8));
        lower_translate_checked(l, HBP, 8);
        emit_load(e, HBP, MEM_INDEX(HBP, T, 0, 0));
        emit_mov_rr(e, H_GUEST_RSP, S);
    }
    return true;
}

bool lower_stack(struct lower *l)
{
    if (l->segments) /* SS may have any base and limit */
        return false;
    uint16_t others = l->writes & (uint16_t)~(1u << RSP);
    bool done;
    switch (l->in.row) {
    case ROW_PUSH: done = lower_push(l); break;
    case ROW_POP: done = lower_pop(l); break;
    case ROW_LEAVE: done = lower_leave(l); break;
    default: return false;
    }
    if (done)
        l->writes = others; /* RSP is aligned, or has been checked */
    return done;
}
