/* Near jumps, calls, returns, and how control leaves straight-line code.
 *
 * A direct branch to a place in its own page remembers the target's record, so that loops run without a lookup; the
 * engine fills in->target in after it has looked the target up once (vcpu.link). Every taken branch asks
 * must_leave(): that is where interrupts, the clock and the end of a time slice are noticed.
 */
#include "cpu/crew.h"
#include "cpu/fast.h"
#include "cpu/ops.h"
#include "cpu/watch.h"

pick_fn pick_jcc, pick_jmp, pick_call, pick_ret, pick_loop, pick_jcxz, pick_setcc, pick_cmovcc, pick_pause, pick_nop,
    pick_fence, pick_prefetch, pick_ud;

const struct insn *run_slow(struct vcpu *v, const struct insn *in)
{
    rip_sync(v, in);
    v->next_rip = rip_cut(in, v->rip + in->len);
    bool watched = watch_begin(v, in);
    in->op(v, in);
    v->instructions++;
    v->rip = v->next_rip;
    if (unlikely(watched))
        watch_end(v, in);
    return NULL;
}

const struct insn *run_slow_continue(struct vcpu *v, const struct insn *in)
{
    rip_sync(v, in);
    uint64_t sequential = v->next_rip = rip_cut(in, v->rip + in->len);
    bool watched = watch_begin(v, in);
    in->op(v, in);
    v->instructions++;
    v->rip = v->next_rip;
    if (unlikely(watched))
        watch_end(v, in);
    if (v->next_rip != sequential || v->code_mode != in->mode || v->shadow != 0 || v->stepping || must_leave(v))
        return NULL;
    v->run_start = in + 1;
    NEXT(v, in);
}

void branch_check(struct vcpu *v, const struct insn *in, uint64_t rip)
{
    if (in->mode == CODE_64 ? !gva_canonical(rip) : in->mode != CODE_32_FLAT && rip > v->seg[SEG_CS].limit)
        fault_gp(v, 0);
}

static inline uint64_t branch_target(const struct vcpu *v, const struct insn *in)
{
    uint64_t rip = v->regs[GPR_PAGE] + in->imm;
    return in->opsize == 8 ? rip : in->opsize == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* Whether the target depends on nothing but its place within the page. Where the operand size cuts it, it also depends on
 * where the page is mapped, and the record may be run at several places. */
static inline bool is_linkable(const struct vcpu *v, const struct insn *in, uint64_t rip)
{
    unsigned natural = in->mode == CODE_64 ? 8 : in->mode == CODE_16 ? 2 : 4;
    return in->imm < PAGE_SIZE && in->opsize >= natural && rip == rip_cut(in, v->regs[GPR_PAGE] + in->imm);
}

/* A direct branch is taken. */
static inline const struct insn *take(struct vcpu *v, const struct insn *in)
{
    const struct insn *target = in->target;
    if (likely(target != NULL)) {
        v->instructions += (uint64_t)(in - v->run_start) + 1;
        v->run_start = target;
        if (likely(!must_leave(v)))
            return target;
        v->run_start = NULL;
        v->rip = rip_cut(in, v->regs[GPR_PAGE] + target->off);
        return NULL;
    }
    uint64_t rip = branch_target(v, in);
    branch_check(v, in, rip);
    if (is_linkable(v, in, rip))
        v->link = in;
    return leave_to(v, in, rip);
}

/* ---- conditions, in encoding order; each on `status` ---- */
#define COND_O(s) ((s) & STATUS_OF)
#define COND_NO(s) (!((s) & STATUS_OF))
#define COND_B(s) ((s) & STATUS_CF)
#define COND_NB(s) (!((s) & STATUS_CF))
#define COND_Z(s) ((s) & STATUS_ZF)
#define COND_NZ(s) (!((s) & STATUS_ZF))
#define COND_BE(s) ((s) & (STATUS_CF | STATUS_ZF))
#define COND_NBE(s) (!((s) & (STATUS_CF | STATUS_ZF)))
#define COND_S(s) ((s) & STATUS_SF)
#define COND_NS(s) (!((s) & STATUS_SF))
#define COND_P(s) ((s) & STATUS_PF)
#define COND_NP(s) (!((s) & STATUS_PF))
#define COND_L(s) (((s) >> 15 ^ (s)) & 1)
#define COND_NL(s) (!COND_L(s))
#define COND_LE(s) (((s) & STATUS_ZF) || COND_L(s))
#define COND_NLE(s) (!COND_LE(s))
#define FOR_ALL_CONDITIONS(X)                                                                                          \
    X(O) X(NO) X(B) X(NB) X(Z) X(NZ) X(BE) X(NBE) X(S) X(NS) X(P) X(NP) X(L) X(NL) X(LE) X(NLE)

#define CMOV_FORM(bits, T, cc)                                                                                         \
    static const struct insn *cmov##bits##_rr_##cc(struct vcpu *v, const struct insn *in)                              \
    {                                                                                                                  \
        T value = REG(v, COND_##cc((uint32_t)v->status) ? in->op_reg[1] : in->op_reg[0], T);                           \
        REG_SET(v, in->op_reg[0], T, value);                                                                           \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *cmov##bits##_rm_##cc(struct vcpu *v, const struct insn *in)                              \
    {                                                                                                                  \
        T value = MEM_READ(v, ea_linear(v, in, sizeof(T), false), T);                                                  \
        if (!COND_##cc((uint32_t)v->status))                                                                           \
            value = REG(v, in->op_reg[0], T);                                                                          \
        REG_SET(v, in->op_reg[0], T, value);                                                                           \
        NEXT(v, in);                                                                                                 \
    }
#define CONDITION_FUNCTIONS(cc)                                                                                        \
    static const struct insn *jcc_##cc(struct vcpu *v, const struct insn *in)                                          \
    {                                                                                                                  \
        return COND_##cc((uint32_t)v->status) ? take(v, in) : next_insn(v, in);                                                  \
    }                                                                                                                  \
    static const struct insn *setcc_r_##cc(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        REG(v, in->op_reg[0], uint8_t) = COND_##cc((uint32_t)v->status) ? 1 : 0;                                       \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *setcc_m_##cc(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        mem_write8(v, ea_linear(v, in, 1, true), COND_##cc((uint32_t)v->status) ? 1 : 0);                              \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    FOR_WORD_SIZES(CMOV_FORM, cc)
FOR_ALL_CONDITIONS(CONDITION_FUNCTIONS)

static unsigned condition_of(const struct pick *p)
{
    return p->z->opcode & 0xf;
}

#define TABLE_JCC(cc) jcc_##cc,
#define TABLE_SETCC(cc) {setcc_r_##cc, setcc_m_##cc},
#define TABLE_CMOV(cc)                                                                                                 \
    {{cmov16_rr_##cc, cmov16_rm_##cc}, {cmov32_rr_##cc, cmov32_rm_##cc}, {cmov64_rr_##cc, cmov64_rm_##cc}},

insn_fn *pick_jcc(const struct pick *p)
{
    static insn_fn *const table[16] = {FOR_ALL_CONDITIONS(TABLE_JCC)};
    return table[condition_of(p)];
}

insn_fn *pick_setcc(const struct pick *p)
{
    static insn_fn *const table[16][2] = {FOR_ALL_CONDITIONS(TABLE_SETCC)};
    return table[condition_of(p)][is_mem(p, 0)];
}

insn_fn *pick_cmovcc(const struct pick *p)
{
    static insn_fn *const table[16][3][2] = {FOR_ALL_CONDITIONS(TABLE_CMOV)};
    unsigned size = p->in->opsize == 2 ? 0 : p->in->opsize == 4 ? 1 : 2;
    return table[condition_of(p)][size][is_mem(p, 1)];
}

/* ---- unconditional ---- */

static const struct insn *jmp_direct(struct vcpu *v, const struct insn *in)
{
    return take(v, in);
}

static uint64_t indirect_target(struct vcpu *v, const struct insn *in)
{
    if (in->op_kind[0] == OPERAND_REG)
        return reg_read(v, in->op_reg[0], in->opsize);
    gva_t gva = ea_linear(v, in, in->opsize, false);
    return in->opsize == 8 ? mem_read64(v, gva) : in->opsize == 4 ? mem_read32(v, gva) : mem_read16(v, gva);
}

static const struct insn *jmp_indirect(struct vcpu *v, const struct insn *in)
{
    uint64_t rip = indirect_target(v, in);
    branch_check(v, in, rip);
    return leave_to(v, in, rip);
}

static const struct insn *call_direct(struct vcpu *v, const struct insn *in)
{
    if (in->target == NULL)
        branch_check(v, in, branch_target(v, in));
    push_value(v, in, in->opsize, rip_cut(in, v->regs[GPR_PAGE] + in->off + in->len));
    return take(v, in);
}

static const struct insn *call_indirect(struct vcpu *v, const struct insn *in)
{
    uint64_t rip = indirect_target(v, in);
    branch_check(v, in, rip);
    push_value(v, in, in->opsize, rip_cut(in, v->regs[GPR_PAGE] + in->off + in->len));
    return leave_to(v, in, rip);
}

static const struct insn *ret_near(struct vcpu *v, const struct insn *in)
{
    uint64_t rip = top_value(v, in, in->opsize);
    branch_check(v, in, rip);
    drop_values(v, in, in->opsize + (in->op_kind[0] == OPERAND_IMM ? (uint16_t)in->imm : 0u));
    return leave_to(v, in, rip);
}

static insn_fn *pick_far(const struct pick *p, insn_op *op)
{
    p->in->op = op;
    return run_slow;
}

static bool is_far(const struct pick *p)
{
    return p->z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

insn_fn *pick_jmp(const struct pick *p)
{
    if (is_far(p))
        return pick_far(p, op_jmp_far);
    return is_imm(p, 0) ? jmp_direct : jmp_indirect;
}

insn_fn *pick_call(const struct pick *p)
{
    if (is_far(p))
        return pick_far(p, op_call_far);
    return is_imm(p, 0) ? call_direct : call_indirect;
}

insn_fn *pick_ret(const struct pick *p)
{
    return is_far(p) ? pick_far(p, op_ret_far) : ret_near;
}

/* ---- loops on CX, by address size ---- */

static inline uint64_t count_register(const struct vcpu *v, const struct insn *in)
{
    return in->addrsize == 8 ? v->regs[RCX] : in->addrsize == 4 ? (uint32_t)v->regs[RCX] : (uint16_t)v->regs[RCX];
}

#define LOOP_FUNCTION(fn, condition)                                                                                   \
    static const struct insn *fn(struct vcpu *v, const struct insn *in)                                                \
    {                                                                                                                  \
        uint64_t count = count_register(v, in) - 1;                                                                    \
        count = in->addrsize == 8 ? count : in->addrsize == 4 ? (uint32_t)count : (uint16_t)count;                     \
        bool taken = count != 0 && (condition);                                                                        \
        if (taken && in->target == NULL)                                                                               \
            branch_check(v, in, branch_target(v, in));                                                                 \
        reg_write(v, RCX * 8, in->addrsize, count);                                                                    \
        return taken ? take(v, in) : next_insn(v, in);                                                                           \
    }
LOOP_FUNCTION(loop_plain, true)
LOOP_FUNCTION(loop_equal, v->status &STATUS_ZF)
LOOP_FUNCTION(loop_not_equal, !(v->status & STATUS_ZF))

insn_fn *pick_loop(const struct pick *p)
{
    switch (p->z->mnemonic) {
    case ZYDIS_MNEMONIC_LOOPE: return loop_equal;
    case ZYDIS_MNEMONIC_LOOPNE: return loop_not_equal;
    default: return loop_plain;
    }
}

static const struct insn *jcxz(struct vcpu *v, const struct insn *in)
{
    return count_register(v, in) == 0 ? take(v, in) : next_insn(v, in);
}

insn_fn *pick_jcxz(const struct pick *p)
{
    (void)p;
    return jcxz;
}

/* ---- nothing, or nearly ---- */

static const struct insn *nop(struct vcpu *v, const struct insn *in)
{
    (void)v;
    NEXT(v, in);
}

/* Everything the interpreter does is in order already; other host threads are ordered by a real fence. */
static const struct insn *fence(struct vcpu *v, const struct insn *in)
{
    (void)v;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    NEXT(v, in);
}

insn_fn *pick_nop(const struct pick *p)
{
    (void)p;
    return nop;
}

insn_fn *pick_prefetch(const struct pick *p)
{
    (void)p;
    return nop;
}

insn_fn *pick_fence(const struct pick *p)
{
    (void)p;
    return fence;
}

static const struct insn *pause(struct vcpu *v, const struct insn *in)
{
    crew_relax(v);
    NEXT(v, in);
}

insn_fn *pick_pause(const struct pick *p)
{
    (void)p;
    return pause;
}

insn_fn *pick_ud(const struct pick *p)
{
    (void)p;
    return NULL;
}
