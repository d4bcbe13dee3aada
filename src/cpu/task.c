/* Hardware task switches.
 *
 * Order, as in SDM vol. 3, 7.3: the new TSS is found and checked, all memory that will be written is probed, and the
 * new TSS is read: faults up to here belong to the old task and leave it untouched. Then the old task's state is
 * saved, busy bits and the back link are set, TR, CR3 and the general registers become the new task's; from here on
 * faults are raised in the new task. Segment registers first get their selectors with empty hidden parts, then LDTR,
 * CS, SS and the data segments are checked and loaded one by one (table 7-1), so that a faulting one is left unusable.
 *
 * A 16-bit TSS has no upper halves, no FS, GS, CR3, T bit or I/O map: the upper halves become zero, FS and GS null.
 *
 * SDM vol. 3, chapter 7; SDM vol. 2, CALL, JMP, IRET; APM vol. 2, chapter 12.
 */
#include "cpu/cpuid.h"
#include "cpu/descriptor.h"
#include "mmu/access.h"

#define DR6_BT (1ull << 15)
#define DR7_LOCAL 0x155ull /* L0 to L3, LE */

#define TSS32_MIN 0x67u
#define TSS16_MIN 0x2bu

/* FLAGS that a TSS can load. */
#define FLAGS_TSS                                                                                                      \
    (FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF |       \
     FLAG_VIP | FLAG_ID)

/* A task's registers as its TSS holds them. */
struct task_state {
    uint32_t cr3, rip, flags;
    uint32_t regs[8];
    uint16_t selectors[6];
    uint16_t ldtr;
    bool trap;
};

/* Where things are in a TSS of either format. */
struct tss_layout {
    unsigned minimum; /* limit */
    unsigned size;    /* of a register */
    unsigned rip;     /* then flags and the general registers follow */
    unsigned selectors;
    unsigned selector_count;
    unsigned ldtr;
};

static const struct tss_layout tss16_layout = {TSS16_MIN, 2, 0x0e, 0x22, 4, 0x2a};
static const struct tss_layout tss32_layout = {TSS32_MIN, 4, 0x20, 0x48, 6, 0x60};

static const struct tss_layout *layout_of(const struct segment *tss)
{
    return (tss->attr & SEG_ATTR_TYPE) >= TYPE_TSS32 ? &tss32_layout : &tss16_layout;
}

static uint64_t tss_get(struct vcpu *v, const struct segment *tss, unsigned offset, unsigned size)
{
    return access_read(v, gva_system(v, tss->base + offset), size, ACCESS_IMPLICIT);
}

static void tss_put(struct vcpu *v, const struct segment *tss, unsigned offset, unsigned size, uint64_t value)
{
    access_write(v, gva_system(v, tss->base + offset), size, value, ACCESS_IMPLICIT);
}

/* Finds the new TSS. JMP, CALL and events need an available one (#GP), IRET a busy one (#TS). */
static void new_tss_read(struct vcpu *v, const struct task_switch *t, struct descriptor *d, struct segment *tss)
{
    bool back = t->cause == TASK_IRET;
    enum vector vector = back ? VECTOR_TS : VECTOR_GP;
    if (t->selector & 4)
        fault_selector(v, vector, t->selector);
    descriptor_read(v, t->selector, vector, d);
    unsigned type = descriptor_type(d) & ~TYPE_BUSY;
    bool busy = descriptor_type(d) & TYPE_BUSY;
    if (!descriptor_is_system(d) || (type != TYPE_TSS16 && type != TYPE_TSS32) || busy != back)
        fault_selector(v, vector, t->selector);
    if (!descriptor_is_present(d))
        fault_selector(v, VECTOR_NP, t->selector);
    segment_from_descriptor(tss, t->selector, d->low, d->high);
    tss->attr |= TYPE_BUSY;
    if (tss->limit < layout_of(tss)->minimum)
        fault_selector(v, VECTOR_TS, t->selector);
}

static void state_read(struct vcpu *v, const struct segment *tss, struct task_state *s)
{
    const struct tss_layout *l = layout_of(tss);
    *s = (struct task_state){0};
    s->rip = (uint32_t)tss_get(v, tss, l->rip, l->size);
    s->flags = (uint32_t)tss_get(v, tss, l->rip + l->size, l->size);
    for (unsigned i = 0; i < 8; i++)
        s->regs[i] = (uint32_t)tss_get(v, tss, l->rip + (2 + i) * l->size, l->size);
    for (unsigned i = 0; i < l->selector_count; i++)
        s->selectors[i] = (uint16_t)tss_get(v, tss, l->selectors + i * l->size, 2);
    s->ldtr = (uint16_t)tss_get(v, tss, l->ldtr, 2);
    if (l == &tss32_layout) {
        s->cr3 = (uint32_t)tss_get(v, tss, 0x1c, 4);
        s->trap = tss_get(v, tss, 0x64, 2) & 1;
    }
}

/* The part of the old TSS that is written: from IP to the last selector. */
static void old_tss_check(struct vcpu *v, const struct segment *tss)
{
    const struct tss_layout *l = layout_of(tss);
    if ((tss->attr & SEG_ATTR_NULL) || tss->limit < l->minimum)
        fault_selector(v, VECTOR_TS, tss->selector);
    unsigned end = l->selectors + l->selector_count * l->size;
    access_probe(v, gva_system(v, tss->base + l->rip), end - l->rip, ACCESS_IMPLICIT | ACCESS_WRITE);
}

static void state_write(struct vcpu *v, const struct segment *tss, const struct task_switch *t)
{
    const struct tss_layout *l = layout_of(tss);
    tss_put(v, tss, l->rip, l->size, t->rip);
    tss_put(v, tss, l->rip + l->size, l->size, t->flags);
    for (unsigned i = 0; i < 8; i++)
        tss_put(v, tss, l->rip + (2 + i) * l->size, l->size, v->regs[i]);
    for (unsigned i = 0; i < l->selector_count; i++)
        tss_put(v, tss, l->selectors + i * l->size, 2, v->seg[i].selector);
}

/* ---- in the new task ---- */

static void ldtr_load(struct vcpu *v, uint16_t selector)
{
    struct descriptor d;
    if (selector_is_null(selector))
        return;
    if (selector & 4)
        fault_selector(v, VECTOR_TS, selector);
    descriptor_read(v, selector, VECTOR_TS, &d);
    if (!descriptor_is_system(&d) || descriptor_type(&d) != TYPE_LDT || !descriptor_is_present(&d))
        fault_selector(v, VECTOR_TS, selector);
    segment_from_descriptor(&v->seg[SEG_LDTR], selector, d.low, d.high);
}

static void task_cs_load(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    unsigned rpl = selector & 3;
    descriptor_read(v, selector, VECTOR_TS, d);
    unsigned dpl = descriptor_dpl(d);
    if (!descriptor_is_code(d) || (descriptor_is_conforming(d) ? dpl > rpl : dpl != rpl))
        fault_selector(v, VECTOR_TS, selector);
    if (!descriptor_is_present(d))
        fault_selector(v, VECTOR_NP, selector);
    descriptor_set_accessed(v, selector, d);
    code_load(v, selector, rpl, d);
}

static void task_ss_load(struct vcpu *v, uint16_t selector, unsigned cpl)
{
    struct descriptor d;
    descriptor_read(v, selector, VECTOR_TS, &d);
    if (!descriptor_is_writable(&d) || (selector & 3u) != cpl || descriptor_dpl(&d) != cpl)
        fault_selector(v, VECTOR_TS, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_SS, selector);
    descriptor_set_accessed(v, selector, &d);
    segment_from_descriptor(&v->seg[SEG_SS], selector, d.low, d.high);
}

static void task_data_load(struct vcpu *v, enum seg seg, uint16_t selector, unsigned cpl)
{
    struct descriptor d;
    if (selector_is_null(selector))
        return;
    descriptor_read(v, selector, VECTOR_TS, &d);
    if (descriptor_is_system(&d) || (descriptor_is_code(&d) && !(d.high & SEG_ATTR_RW << 8)))
        fault_selector(v, VECTOR_TS, selector);
    unsigned dpl = descriptor_dpl(&d);
    if (!descriptor_is_conforming(&d) && (cpl > dpl || (selector & 3u) > dpl))
        fault_selector(v, VECTOR_TS, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_NP, selector);
    descriptor_set_accessed(v, selector, &d);
    segment_from_descriptor(&v->seg[seg], selector, d.low, d.high);
}

static void segments_load(struct vcpu *v, const struct task_state *s)
{
    static const uint8_t data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    struct descriptor code;
    unsigned cpl = s->selectors[SEG_CS] & 3;
    ldtr_load(v, s->ldtr);
    if (vcpu_v86(v)) {
        if (s->rip > 0xffff)
            fault_gp(v, 0);
        return;
    }
    task_cs_load(v, s->selectors[SEG_CS], &code);
    vcpu_mode_changed(v);
    task_ss_load(v, s->selectors[SEG_SS], cpl);
    vcpu_mode_changed(v);
    for (unsigned i = 0; i < ARRAY_LEN(data); i++)
        task_data_load(v, data[i], s->selectors[data[i]], cpl);
    vcpu_mode_changed(v);
    code_check_offset(v, &code, s->rip);
}

/* Makes everything but hidden parts of segments the new task's. */
static void state_load(struct vcpu *v, const struct task_state *s, uint32_t flags)
{
    unsigned cpl = s->selectors[SEG_CS] & 3;
    for (unsigned i = 0; i < 8; i++)
        v->regs[i] = s->regs[i];
    rflags_set(v, flags);
    v->rip = v->next_rip = s->rip;
    for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
        if (flags & FLAG_VM)
            segment_set_v86(&v->seg[seg], s->selectors[seg]);
        else
            segment_set_null(&v->seg[seg], s->selectors[seg], seg == SEG_SS ? cpl : 0);
    segment_set_null(&v->seg[SEG_LDTR], s->ldtr, 0);
    v->dr[7] &= ~DR7_LOCAL;
    v->cr0 |= CR0_TS;
    vcpu_mode_changed(v);
}

static void cr3_load(struct vcpu *v, const struct segment *tss, uint32_t cr3)
{
    if (!(v->cr0 & CR0_PG) || layout_of(tss) != &tss32_layout)
        return;
    if ((v->cr4 & CR4_PAE) && !mmu_load_pdptes(v, cr3))
        fault_gp(v, 0);
    mmu_switch(v, cr3, false);
}

static void error_push(struct vcpu *v, const struct segment *tss, uint32_t error)
{
    struct frame f;
    frame_init_current(v, &f, false);
    frame_push(v, &f, layout_of(tss)->size, error);
    frame_commit(v, &f);
}

void task_switch(struct vcpu *v, const struct task_switch *t)
{
    struct descriptor d;
    struct segment tss, old = v->seg[SEG_TR];
    struct task_state s;
    bool nested = t->cause == TASK_CALL || t->cause == TASK_EVENT;
    new_tss_read(v, t, &d, &tss);
    state_read(v, &tss, &s);
    old_tss_check(v, &old);
    access_probe(v, gva_system(v, tss.base), 2, ACCESS_IMPLICIT | (nested ? ACCESS_WRITE : 0));
    access_probe(v, gva_system(v, descriptor_gva(v, t->selector) + 4), 4, ACCESS_IMPLICIT | ACCESS_WRITE);
    if (!nested)
        access_probe(v, gva_system(v, descriptor_gva(v, old.selector) + 4), 4, ACCESS_IMPLICIT | ACCESS_WRITE);
    struct exit exit = {.reason = EXIT_TASK_SWITCH, .address = t->selector};
    vcpu_exit(v, &exit);

    state_write(v, &old, t);
    if (nested)
        tss_put(v, &tss, 0, 2, old.selector);
    else
        descriptor_update(v, old.selector, 0, TYPE_BUSY);
    if (t->cause != TASK_IRET)
        descriptor_update(v, t->selector, TYPE_BUSY, 0);
    v->seg[SEG_TR] = tss;
    uint32_t flags = s.flags & FLAGS_TSS & (v->model->rflags_mask | FLAGS_STATUS);
    state_load(v, &s, flags | (nested ? FLAG_NT : 0));
    if (s.trap)
        v->dr6_pending |= DR6_BT;
    cr3_load(v, &tss, s.cr3);
    segments_load(v, &s);
    if (t->has_error)
        error_push(v, &tss, t->error);
    vcpu_mode_changed(v);
}
