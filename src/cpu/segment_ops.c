/* Instructions that load, store and examine segment registers and descriptor-table registers.
 *
 * Selectors are read as 16 bits whatever the operand size; a selector written to a 32- or 64-bit register is
 * zero-extended, to memory always 16 bits. SGDT and SIDT store the whole base for every operand size, as processors
 * do; LGDT and LIDT load 24 bits of it with a 16-bit operand size.
 *
 * LAR's result is the descriptor's second dword masked with 00FFFF00h: processors return bits 19:16 of the limit too,
 * which the SDM calls undefined.
 *
 * Loads and stores of GDTR, IDTR, LDTR and TR go through the door, for counting only.
 *
 * SDM vol. 2, the instructions' pages; SDM vol. 3, 2.4, 5.10, 7.2.4; APM vol. 3.
 */
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/descriptor.h"
#include "cpu/ops.h"
#include "mmu/access.h"

static unsigned operand_access(const struct vcpu *v, const struct insn *in)
{
    return access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
}

static void count_table(struct vcpu *v, uint64_t value)
{
    struct exit exit = {.reason = EXIT_DESCRIPTOR_TABLE, .value = value};
    vcpu_exit(v, &exit);
}

static void require_protected(struct vcpu *v)
{
    if (!vcpu_protected(v))
        fault_ud(v);
}

static void require_cpl0(struct vcpu *v)
{
    if (v->cpl != 0)
        fault_gp(v, 0);
}

static void require_umip(struct vcpu *v)
{
    if ((v->cr4 & CR4_UMIP) && v->cpl != 0)
        fault_gp(v, 0);
}

/* ---- data segments ---- */

void op_mov_to_seg(struct vcpu *v, const struct insn *in)
{
    enum seg seg = in->op_reg[0];
    if (seg == SEG_CS || seg > SEG_GS)
        fault_ud(v);
    segment_load(v, seg, (uint16_t)operand_read(v, in, 1, 2));
    if (seg == SEG_SS)
        v->shadow = SHADOW_MOV_SS;
}

void op_pop_seg(struct vcpu *v, const struct insn *in)
{
    enum seg seg = in->op_reg[0];
    if (seg == SEG_CS || seg > SEG_GS)
        fault_ud(v);
    uint16_t selector = (uint16_t)stack_peek(v, 0, in->opsize);
    /* RSP moves by the old stack's size, and only if the load succeeds. */
    uint64_t before = v->regs[RSP];
    stack_pointer_set(v, stack_pointer(v) + in->opsize);
    uint64_t after = v->regs[RSP];
    v->regs[RSP] = before;
    segment_load(v, seg, selector);
    v->regs[RSP] = after;
    if (seg == SEG_SS)
        v->shadow = SHADOW_MOV_SS;
}

static void far_pointer_load(struct vcpu *v, const struct insn *in, enum seg seg)
{
    /* AMD processors have no 64-bit far pointers: REX.W still loads a 32-bit offset. */
    unsigned size = in->opsize == 8 && v->model->amd ? 4 : in->opsize;
    if (in->op_kind[1] != OPERAND_MEM)
        fault_ud(v);
    gva_t gva = ea_linear(v, in, size + 2, false);
    uint8_t bytes[10];
    access_read_bytes(v, gva, bytes, size + 2, operand_access(v, in));
    uint64_t offset = 0;
    uint16_t selector;
    memcpy(&offset, bytes, size);
    memcpy(&selector, bytes + size, 2);
    segment_load(v, seg, selector);
    reg_write(v, in->op_reg[0], in->opsize, offset);
}

void op_lds(struct vcpu *v, const struct insn *in)
{
    far_pointer_load(v, in, SEG_DS);
}

void op_les(struct vcpu *v, const struct insn *in)
{
    far_pointer_load(v, in, SEG_ES);
}

void op_lfs(struct vcpu *v, const struct insn *in)
{
    far_pointer_load(v, in, SEG_FS);
}

void op_lgs(struct vcpu *v, const struct insn *in)
{
    far_pointer_load(v, in, SEG_GS);
}

void op_lss(struct vcpu *v, const struct insn *in)
{
    far_pointer_load(v, in, SEG_SS);
}

/* ---- GDTR and IDTR ---- */

static void table_load(struct vcpu *v, const struct insn *in, struct table_register *table)
{
    bool wide = v->code_mode == CODE_64;
    unsigned size = wide ? 10 : 6;
    uint8_t bytes[10];
    struct table_register new = {0};
    require_cpl0(v);
    access_read_bytes(v, ea_linear(v, in, size, false), bytes, size, operand_access(v, in));
    memcpy(&new.limit, bytes, 2);
    memcpy(&new.base, bytes + 2, size - 2);
    if (!wide && in->opsize == 2)
        new.base &= 0xffffff;
    if (wide && !gva_canonical(new.base))
        fault_gp(v, 0);
    count_table(v, new.base);
    *table = new;
}

static void table_store(struct vcpu *v, const struct insn *in, const struct table_register *table)
{
    unsigned size = v->code_mode == CODE_64 ? 10 : 6;
    uint8_t bytes[10];
    require_umip(v);
    memcpy(bytes, &table->limit, 2);
    memcpy(bytes + 2, &table->base, 8);
    access_write_bytes(v, ea_linear(v, in, size, true), bytes, size, operand_access(v, in));
    count_table(v, table->base);
}

void op_lgdt(struct vcpu *v, const struct insn *in)
{
    table_load(v, in, &v->gdtr);
}

void op_lidt(struct vcpu *v, const struct insn *in)
{
    table_load(v, in, &v->idtr);
}

void op_sgdt(struct vcpu *v, const struct insn *in)
{
    table_store(v, in, &v->gdtr);
}

void op_sidt(struct vcpu *v, const struct insn *in)
{
    table_store(v, in, &v->idtr);
}

/* ---- LDTR and TR ---- */

static void system_base_check(struct vcpu *v, uint16_t selector, const struct segment *s)
{
    if (vcpu_long_mode(v) && !gva_canonical(s->base))
        fault_selector(v, VECTOR_GP, selector);
}

void op_lldt(struct vcpu *v, const struct insn *in)
{
    struct descriptor d;
    struct segment ldtr;
    require_protected(v);
    require_cpl0(v);
    uint16_t selector = (uint16_t)operand_read(v, in, 0, 2);
    if (selector_is_null(selector)) {
        count_table(v, selector);
        segment_set_null(&v->seg[SEG_LDTR], selector, 0);
        return;
    }
    if (selector & 4)
        fault_selector(v, VECTOR_GP, selector);
    descriptor_read(v, selector, VECTOR_GP, &d);
    if (!descriptor_is_system(&d) || descriptor_type(&d) != TYPE_LDT)
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_NP, selector);
    descriptor_read_upper(v, selector, &d);
    segment_from_system(v, &ldtr, selector, &d);
    system_base_check(v, selector, &ldtr);
    count_table(v, selector);
    v->seg[SEG_LDTR] = ldtr;
}

void op_ltr(struct vcpu *v, const struct insn *in)
{
    struct descriptor d;
    struct segment tr;
    require_protected(v);
    require_cpl0(v);
    uint16_t selector = (uint16_t)operand_read(v, in, 0, 2);
    if (selector_is_null(selector))
        fault_gp(v, 0);
    if (selector & 4)
        fault_selector(v, VECTOR_GP, selector);
    descriptor_read(v, selector, VECTOR_GP, &d);
    unsigned type = descriptor_type(&d);
    if (!descriptor_is_system(&d) || !(type == TYPE_TSS32 || (type == TYPE_TSS16 && !vcpu_long_mode(v))))
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_NP, selector);
    descriptor_read_upper(v, selector, &d);
    segment_from_system(v, &tr, selector, &d);
    system_base_check(v, selector, &tr);
    descriptor_update(v, selector, TYPE_BUSY, 0);
    count_table(v, selector);
    tr.attr |= TYPE_BUSY;
    v->seg[SEG_TR] = tr;
}

static void selector_store(struct vcpu *v, const struct insn *in, uint16_t selector)
{
    require_protected(v);
    require_umip(v);
    operand_write(v, in, 0, in->op_kind[0] == OPERAND_MEM ? 2 : in->opsize, selector);
    count_table(v, selector);
}

void op_sldt(struct vcpu *v, const struct insn *in)
{
    selector_store(v, in, v->seg[SEG_LDTR].selector);
}

void op_str(struct vcpu *v, const struct insn *in)
{
    selector_store(v, in, v->seg[SEG_TR].selector);
}

/* ---- examination ---- */

static void set_zf(struct vcpu *v, bool zf)
{
    v->status = (uint16_t)((v->status & ~STATUS_ZF) | (zf ? STATUS_ZF : 0));
}

/* Whether CPL and RPL let this descriptor be seen; conforming code always is. */
static bool descriptor_visible(const struct vcpu *v, uint16_t selector, const struct descriptor *d)
{
    unsigned dpl = descriptor_dpl(d);
    return descriptor_is_conforming(d) || (v->cpl <= dpl && (selector & 3u) <= dpl);
}

#define TYPES(a) (1u << (a))
/* System descriptors that LAR and LSL accept. */
#define LSL_TYPES_LONG (TYPES(TYPE_LDT) | TYPES(TYPE_TSS32) | TYPES(TYPE_TSS32_BUSY))
#define LSL_TYPES (LSL_TYPES_LONG | TYPES(TYPE_TSS16) | TYPES(TYPE_TSS16_BUSY))
#define LAR_TYPES_LONG (LSL_TYPES_LONG | TYPES(TYPE_CALL32))
#define LAR_TYPES (LSL_TYPES | TYPES(TYPE_CALL16) | TYPES(TYPE_TASK_GATE) | TYPES(TYPE_CALL32))

/* Finds what LAR or LSL looks at; `types` are the system types it accepts. */
static bool examine(struct vcpu *v, uint16_t selector, unsigned types, struct descriptor *d)
{
    if (!descriptor_find(v, selector, d) || !descriptor_visible(v, selector, d))
        return false;
    return !descriptor_is_system(d) || (types >> descriptor_type(d) & 1);
}

void op_lar(struct vcpu *v, const struct insn *in)
{
    struct descriptor d;
    require_protected(v);
    uint16_t selector = (uint16_t)operand_read(v, in, 1, 2);
    bool ok = examine(v, selector, vcpu_long_mode(v) ? LAR_TYPES_LONG : LAR_TYPES, &d);
    if (ok)
        reg_write(v, in->op_reg[0], in->opsize, d.high & 0x00ffff00);
    set_zf(v, ok);
}

void op_lsl(struct vcpu *v, const struct insn *in)
{
    struct descriptor d;
    require_protected(v);
    uint16_t selector = (uint16_t)operand_read(v, in, 1, 2);
    bool ok = examine(v, selector, vcpu_long_mode(v) ? LSL_TYPES_LONG : LSL_TYPES, &d);
    if (ok) {
        struct segment s;
        segment_from_descriptor(&s, selector, d.low, d.high);
        reg_write(v, in->op_reg[0], in->opsize, s.limit);
    }
    set_zf(v, ok);
}

static void verify(struct vcpu *v, const struct insn *in, bool write)
{
    struct descriptor d;
    require_protected(v);
    uint16_t selector = (uint16_t)operand_read(v, in, 0, 2);
    bool ok = examine(v, selector, 0, &d);
    if (ok)
        ok = write ? descriptor_is_writable(&d) : !descriptor_is_code(&d) || (d.high & SEG_ATTR_RW << 8);
    set_zf(v, ok);
}

void op_verr(struct vcpu *v, const struct insn *in)
{
    verify(v, in, false);
}

void op_verw(struct vcpu *v, const struct insn *in)
{
    verify(v, in, true);
}

void op_arpl(struct vcpu *v, const struct insn *in)
{
    require_protected(v);
    uint16_t selector = (uint16_t)operand_read(v, in, 0, 2);
    unsigned rpl = operand_read(v, in, 1, 2) & 3;
    bool adjust = (selector & 3u) < rpl;
    if (adjust)
        operand_write(v, in, 0, 2, (selector & ~3u) | rpl);
    set_zf(v, adjust);
}
