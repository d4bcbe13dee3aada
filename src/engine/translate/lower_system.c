/* System instructions that are frequent enough to be done within translated code: CLI, STI, PUSHF, POPF, SWAPGS, STAC, CLAC;
 * and PUSH of segment registers, CLD and STD, since DF is not among the flags that the host holds.
 *
 * The others only for kernel code (CPL 0), where they are always permitted; in user code they are calls of the interpreter's function,
 * which knows all conditions. The guest's interrupt flag and the other flags that are not arithmetic are bits of
 * vcpu.rflags_rest. A bit is set or cleared without touching the host's flags: the word is rotated until the bit is the top
 * one, doubled (which drops it and makes room at the bottom), increased or not, and rotated back.
 *
 * STI with something pending is a call, because an interrupt may have to be taken after the next instruction. Without, the
 * shadow of one instruction that STI casts cannot be seen: what becomes pending later is noticed at the next poll.
 *
 * Source: SDM vol. 2, the instructions' pages.
 */
#include "engine/translate/lower.h"
#include "mmu/shadow.h"

#define IF_BIT 9u
#define DF_BIT 10u
#define AC_BIT 18u

/* RORX of 32 bits by a constant that may be 0 modulo 32. */
static void rotate_right(struct emit *e, unsigned reg, unsigned count)
{
    emit_rorx32(e, reg, reg, count & 31);
}

static void set_flag(struct lower *l, unsigned bit, bool on)
{
    struct emit *e = &l->e;
    emit_load32(e, T, STATE_OF(rflags_rest));
    rotate_right(e, T, bit + 1);
    emit_lea32(e, T, MEM_INDEX(T, T, 0, on));
    rotate_right(e, T, 32 - bit);
    emit_store32(e, STATE_OF(rflags_rest), T);
}

static bool lower_sti(struct lower *l)
{
    struct emit *e = &l->e;
    emit_load32(e, T, STATE_OF(pending));
    uint8_t *none = emit_jrcxz(e);
    uint8_t *call = emit_jmp(e, NULL);
    emit_short_here(e, none);
    set_flag(l, IF_BIT, true);
    lower_slow_way(l, call);
    return true;
}

/* The flags go to memory, where they can be put together with the others. */
static bool lower_pushf(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->in.opsize != (l->narrow ? 4 : 8) || (l->form & FORM_CALL))
        return false;
    lower_status_save(l);
    emit_rm(e, 0, 0x0fb7, T, STATE_OF(status)); /* movzx ecx, word [status] */
    emit_mov_rr32(e, S, T);
    emit_rr(e, 0, 0xc1, 5, T), emit8(e, 8);     /* shr ecx, 8: SF ZF AF PF CF */
    emit_rr(e, 0, 0x81, 4, T), emit32(e, FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF);
    emit_rr(e, 0, 0x83, 4, S), emit8(e, 1);     /* and r11d, 1: OF */
    emit_rr(e, 0, 0xc1, 4, S), emit8(e, 11);
    emit_rr(e, 0, 0x09, S, T);                  /* or ecx, r11d */
    emit_load32(e, S, STATE_OF(rflags_rest));
    emit_rr(e, 0, 0x81, 4, S), emit32(e, ~(uint32_t)(FLAG_VM | FLAG_RF));
    emit_rr(e, 0, 0x09, S, T);
    emit_store(e, STATE_OF(translated.scratch), T);
    lower_push_scratch(l);
    l->writes = 0;
    return true;
}

/* What POPF may change here; anything but the arithmetic flags, IF and DF makes it a call. */
#define POPF_COMMON (FLAGS_STATUS | FLAG_IF | FLAG_DF)
#define POPF_RARE (FLAG_TF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID | FLAG_VM | FLAG_VIF | FLAG_VIP)

static bool lower_popf(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->in.opsize != (l->narrow ? 4 : 8) || (l->form & FORM_CALL))
        return false;
    lower_status_save(l);
    lower_translate(l, H_GUEST_RSP);
    l->map->size = l->in.opsize;
    emit_load32(e, S, MEM_INDEX(H_GUEST_RSP, T, 0, 0));
    emit_load32(e, T, STATE_OF(rflags_rest));
    emit_rr(e, 0, 0x31, S, T); /* xor ecx, r11d */
    emit_rr(e, 0, 0xf7, 0, T), emit32(e, POPF_RARE);
    lower_slow_way(l, emit_jcc(e, 5, NULL));
    emit_rr(e, 0, 0xf7, 0, S), emit32(e, FLAG_IF); /* interrupts on: something may be waiting for that */
    uint8_t *off = emit_jcc(e, 4, NULL);
    emit_rm(e, 0, 0x83, 7, STATE_OF(pending)), emit8(e, 0);
    lower_slow_way(l, emit_jcc(e, 5, NULL));
    emit_target(off, e->p);
    emit_rr(e, 0, 0x81, 4, T), emit32(e, FLAG_IF | FLAG_DF); /* those that differ ... */
    emit_rm(e, 0, 0x31, T, STATE_OF(rflags_rest));           /* ... change */
    emit_rr(e, 0, 0x0fb6, T, S);                             /* movzx ecx, r11b */
    emit_rr(e, 0, 0xc1, 4, T), emit8(e, 8);
    emit_rr(e, 0, 0xc1, 5, S), emit8(e, 11);
    emit_rr(e, 0, 0x83, 4, S), emit8(e, 1);
    emit_rr(e, 0, 0x09, S, T);
    emit_rr(e, 0, 0x81, 4, T), emit32(e, STATUS_OF | STATUS_CF | STATUS_PF | STATUS_AF | STATUS_ZF | STATUS_SF);
    emit_store16(e, STATE_OF(status), T);
    emit_lea(e, H_GUEST_RSP, MEM(H_GUEST_RSP, l->in.opsize));
    l->writes = 0;
    return true;
}

static bool lower_push_segment(struct lower *l)
{
    if (l->in.op_kind[0] != OPERAND_SEG || l->in.opsize != (l->narrow ? 4 : 8) || (l->form & FORM_CALL))
        return false;
    struct emit_mem selector = STATE_OF(seg[0].selector);
    selector.disp += (int32_t)sizeof(struct segment) * l->in.op_reg[0];
    emit_rm(&l->e, 0, 0x0fb7, T, selector);
    emit_store(&l->e, STATE_OF(translated.scratch), T);
    lower_push_scratch(l);
    l->writes = 0;
    return true;
}

static bool lower_swapgs(struct lower *l)
{
    struct emit *e = &l->e;
    if (l->narrow)
        return false;
    emit_load(e, T, STATE_OF(seg[SEG_GS].base));
    emit_load(e, S, STATE_OF(msr.kernel_gs_base));
    emit_store(e, STATE_OF(seg[SEG_GS].base), S);
    emit_store(e, STATE_OF(msr.kernel_gs_base), T);
    return true;
}

/* Under SMAP, AC chooses the shadow table and the interpreter's TLB. */
static bool lower_ac(struct lower *l, bool on)
{
    struct emit *e = &l->e;
    if (!(l->piece->key & KEY_SMAP))
        return false;
    enum tlb_kind kind = on ? TLB_KERNEL_AC : TLB_KERNEL;
    set_flag(l, AC_BIT, on);
    emit_lea(e, T, STATE_OF(tlbs[kind]));
    emit_store(e, STATE_OF(tlb), T);
    emit_mov_imm(e, T, shadow_table(l->v, kind, !l->narrow));
    emit_store(e, STATE_OF(translated.gs_base), T);
    emit8(e, 0xf3), emit8(e, 0x48), emit8(e, 0x0f), emit8(e, 0xae), emit8(e, 0xd9); /* wrgsbase rcx */
    return true;
}

bool lower_system(struct lower *l)
{
    if (l->in.row == ROW_CLD || l->in.row == ROW_STD) { /* anybody may */
        set_flag(l, DF_BIT, l->in.row == ROW_STD);
        return true;
    }
    if (l->in.row == ROW_PUSH)
        return !l->segments && lower_push_segment(l);
    if ((l->piece->key & KEY_USER) || l->segments)
        return false;
    if (l->t->verify != NULL)
        return false; /* the rehearsal stops at system instructions */
    switch (l->in.row) {
    case ROW_CLI: set_flag(l, IF_BIT, false); return true;
    case ROW_STI: return lower_sti(l);
    case ROW_PUSHF:
    case ROW_PUSHFD:
    case ROW_PUSHFQ: return lower_pushf(l);
    case ROW_POPF:
    case ROW_POPFD:
    case ROW_POPFQ: return lower_popf(l);
    case ROW_SWAPGS: return lower_swapgs(l);
    case ROW_STAC: return lower_ac(l, true);
    case ROW_CLAC: return lower_ac(l, false);
    default: return false;
    }
}
