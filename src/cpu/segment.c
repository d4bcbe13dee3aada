/* Segment registers, descriptor tables and linear addresses.
 *
 * Model. A segment register is a selector and a hidden part that was copied from a descriptor when it was loaded;
 * every check on an access uses the hidden part only, so real mode ("unreal" limits included), virtual-8086 mode and
 * protected mode share one path. In 64-bit mode bases of ES, CS, SS and DS count as 0, no limit and no type is
 * checked.
 *
 * CPL is SS.DPL (vcpu_mode_changed()), so a null SS, legal in 64-bit mode below CPL 3, keeps a DPL in its hidden part.
 *
 * Loading. All checks precede all changes; setting the accessed bit in the table is the last thing that can fault.
 *
 * Where manuals leave room: a segment that reaches 4 GiB does not wrap, an access beyond the end faults (the SDM
 * allows both). Loading a null selector into FS or GS clears the base on every vendor (AMD processors before Zen 2
 * kept it). In real mode only base and selector change, as on every processor since the Pentium.
 *
 * SDM vol. 3, 3.4, 3.5, 5.2 to 5.8, 20.1; APM vol. 2, 4.5 to 4.8.
 */
#include "cpu/descriptor.h"

#include "memory/memory.h"
#include "mmu/access.h"

_Noreturn void fault_selector(struct vcpu *v, enum vector vector, uint16_t selector)
{
    fault_raise(v, &(struct fault){.vector = (uint8_t)vector, .has_error = true, .error = selector & 0xfffcu});
}

/* ---- linear addresses ---- */

/* Whether `size` bytes at `offset` lie within the limit. */
static bool segment_holds(const struct segment *s, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;
    bool expand_down = (s->attr & (SEG_ATTR_CODE | SEG_ATTR_EC)) == SEG_ATTR_EC;
    if (!expand_down)
        return last <= s->limit;
    return offset > s->limit && last <= (s->attr & SEG_ATTR_DB ? 0xffffffffu : 0xffffu);
}

/* Whether the type allows the access; real mode and v86 mode never ask. */
static bool segment_permits(const struct vcpu *v, const struct segment *s, bool write)
{
    if (!vcpu_protected(v))
        return true;
    if (!(s->attr & SEG_ATTR_P))
        return false;
    if (s->attr & SEG_ATTR_CODE)
        return !write && (s->attr & SEG_ATTR_RW);
    return !write || (s->attr & SEG_ATTR_RW);
}

bool seg_holds(const struct vcpu *v, enum seg seg, uint64_t offset, unsigned size)
{
    return v->code_mode == CODE_64 || segment_holds(&v->seg[seg], offset, size);
}

gva_t seg_linear(struct vcpu *v, enum seg seg, uint64_t offset, unsigned size, bool write)
{
    const struct segment *s = &v->seg[seg];
    if (v->code_mode == CODE_64)
        return seg == SEG_FS || seg == SEG_GS ? s->base + offset : offset;
    if ((s->attr & SEG_ATTR_NULL) || !segment_permits(v, s, write) || !segment_holds(s, offset, size)) {
        if (seg == SEG_SS)
            fault_ss(v, 0);
        fault_gp(v, 0);
    }
    return (uint32_t)(s->base + offset);
}

gva_t ea_general(struct vcpu *v, const struct insn *in, unsigned size, bool write)
{
    return seg_linear(v, in->seg, ea_offset(v, in), size, write);
}

/* ---- descriptor tables ---- */

/* Base and limit of the table that `selector` points into; false if there is none. */
static bool table_of(const struct vcpu *v, uint16_t selector, gva_t *base, uint32_t *limit)
{
    if (!(selector & 4)) {
        *base = v->gdtr.base;
        *limit = v->gdtr.limit;
        return true;
    }
    *base = v->seg[SEG_LDTR].base;
    *limit = v->seg[SEG_LDTR].limit;
    return !(v->seg[SEG_LDTR].attr & SEG_ATTR_NULL);
}

static bool table_read(struct vcpu *v, uint16_t selector, unsigned extra, uint32_t dwords[2])
{
    gva_t base;
    uint32_t limit;
    uint32_t offset = (selector & ~7u) + extra;
    if (!table_of(v, selector, &base, &limit) || offset + 7 > limit)
        return false;
    uint64_t value = access_read(v, gva_system(v, base + offset), 8, ACCESS_IMPLICIT);
    dwords[0] = (uint32_t)value;
    dwords[1] = (uint32_t)(value >> 32);
    return true;
}

bool descriptor_find(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    uint32_t dwords[2];
    if (selector_is_null(selector) || !table_read(v, selector, 0, dwords))
        return false;
    *d = (struct descriptor){.low = dwords[0], .high = dwords[1]};
    return true;
}

void descriptor_read(struct vcpu *v, uint16_t selector, enum vector vector, struct descriptor *d)
{
    if (!descriptor_find(v, selector, d))
        fault_selector(v, vector, selector);
}

void descriptor_read_upper(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    uint32_t dwords[2];
    if (!vcpu_long_mode(v))
        return;
    if (!table_read(v, selector, 8, dwords) || (dwords[1] & 0x1f00))
        fault_selector(v, VECTOR_GP, selector);
    d->upper_base = dwords[0];
}

gva_t descriptor_gva(struct vcpu *v, uint16_t selector)
{
    gva_t base;
    uint32_t limit;
    table_of(v, selector, &base, &limit);
    return gva_system(v, base + (selector & ~7u));
}

void descriptor_update(struct vcpu *v, uint16_t selector, uint8_t set, uint8_t clear)
{
    gva_t gva = gva_system(v, descriptor_gva(v, selector) + 5);
    gpa_t gpa = mmu_translate(v, gva, ACCESS_WRITE | ACCESS_IMPLICIT) & v->a20_mask;
    struct page_backing page = memory_page(v->memory, gpa);
    if (page.kind != PAGE_RAM) {
        uint64_t byte = access_read(v, gva, 1, ACCESS_IMPLICIT);
        access_write(v, gva, 1, (byte | set) & ~(uint64_t)clear, ACCESS_IMPLICIT);
        return;
    }
    uint8_t *byte = page.hva + (gpa & PAGE_OFFSET_MASK);
    if (set)
        __atomic_fetch_or(byte, set, __ATOMIC_SEQ_CST);
    if (clear)
        __atomic_fetch_and(byte, (uint8_t)~clear, __ATOMIC_SEQ_CST);
    if (*page.flags & PAGE_WATCHED)
        memory_notify_written(v->memory, gpa, 1);
}

void descriptor_set_accessed(struct vcpu *v, uint16_t selector, struct descriptor *d)
{
    if (d->high & SEG_ATTR_A << 8)
        return;
    descriptor_update(v, selector, SEG_ATTR_A, 0);
    d->high |= SEG_ATTR_A << 8;
}

/* ---- hidden parts ---- */

void segment_from_descriptor(struct segment *seg, uint16_t selector, uint32_t low, uint32_t high)
{
    uint32_t limit = (low & 0xffff) | (high & 0xf0000);
    uint32_t attr = high >> 8 & 0xf0ff;
    *seg = (struct segment){
        .selector = selector,
        .attr = attr,
        .limit = attr & SEG_ATTR_G ? limit << 12 | 0xfff : limit,
        .base = low >> 16 | (high & 0xff) << 16 | (high & 0xff000000u),
    };
}

void segment_from_system(struct vcpu *v, struct segment *seg, uint16_t selector, const struct descriptor *d)
{
    segment_from_descriptor(seg, selector, d->low, d->high);
    if (vcpu_long_mode(v))
        seg->base |= (uint64_t)d->upper_base << 32;
}

void segment_set_null(struct segment *seg, uint16_t selector, unsigned dpl)
{
    *seg = (struct segment){.selector = selector, .attr = SEG_ATTR_NULL | ATTR_DPL(dpl)};
}

void segment_set_v86(struct segment *seg, uint16_t selector)
{
    *seg = (struct segment){
        .selector = selector,
        .attr = ATTR_REAL | ATTR_DPL(3),
        .limit = 0xffff,
        .base = (uint64_t)selector << 4,
    };
}

void segment_set_flat(struct segment *seg, uint16_t selector, uint32_t attr)
{
    *seg = (struct segment){.selector = selector, .attr = attr, .limit = 0xffffffff};
}

/* ---- loading ---- */

void segment_load_real(struct vcpu *v, enum seg seg, uint16_t selector)
{
    struct segment *s = &v->seg[seg];
    if (vcpu_v86(v)) {
        segment_set_v86(s, selector);
    } else {
        if (s->attr & SEG_ATTR_NULL) {
            s->attr = ATTR_REAL;
            s->limit = 0xffff;
        }
        s->selector = selector;
        s->base = (uint64_t)selector << 4;
    }
    vcpu_mode_changed(v);
}

static void stack_segment_load(struct vcpu *v, uint16_t selector)
{
    struct descriptor d;
    unsigned rpl = selector & 3;
    if (selector_is_null(selector)) {
        if (v->code_mode != CODE_64 || v->cpl == 3 || rpl != v->cpl)
            fault_gp(v, 0);
        segment_set_null(&v->seg[SEG_SS], selector, v->cpl);
        return;
    }
    descriptor_read(v, selector, VECTOR_GP, &d);
    if (rpl != v->cpl || !descriptor_is_writable(&d) || descriptor_dpl(&d) != v->cpl)
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_SS, selector);
    descriptor_set_accessed(v, selector, &d);
    segment_from_descriptor(&v->seg[SEG_SS], selector, d.low, d.high);
}

static void data_segment_load(struct vcpu *v, enum seg seg, uint16_t selector)
{
    struct descriptor d;
    if (selector_is_null(selector)) {
        segment_set_null(&v->seg[seg], selector, 0);
        return;
    }
    descriptor_read(v, selector, VECTOR_GP, &d);
    if (descriptor_is_system(&d) || (descriptor_is_code(&d) && !(d.high & SEG_ATTR_RW << 8)))
        fault_selector(v, VECTOR_GP, selector);
    unsigned dpl = descriptor_dpl(&d);
    if (!descriptor_is_conforming(&d) && ((selector & 3u) > dpl || v->cpl > dpl))
        fault_selector(v, VECTOR_GP, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_NP, selector);
    descriptor_set_accessed(v, selector, &d);
    segment_from_descriptor(&v->seg[seg], selector, d.low, d.high);
}

void segment_load(struct vcpu *v, enum seg seg, uint16_t selector)
{
    if (!vcpu_protected(v)) {
        segment_load_real(v, seg, selector);
        return;
    }
    if (seg == SEG_SS) {
        stack_segment_load(v, selector);
        vcpu_mode_changed(v);
        return;
    }
    struct segment before = v->seg[seg];
    data_segment_load(v, seg, selector);
    const struct segment *now = &v->seg[seg];
    bool same = now->base == before.base && now->limit == before.limit && now->attr == before.attr;
    if (seg != SEG_FS && seg != SEG_GS && !same)
        vcpu_mode_changed(v);
}

void code_check_offset(struct vcpu *v, const struct descriptor *code, uint64_t offset)
{
    if (descriptor_is_code64(v, code)) {
        if (!gva_canonical(offset))
            fault_gp(v, 0);
        return;
    }
    struct segment s;
    segment_from_descriptor(&s, 0, code->low, code->high);
    if (offset > s.limit)
        fault_gp(v, 0);
}

void code_load(struct vcpu *v, uint16_t selector, unsigned rpl, const struct descriptor *code)
{
    segment_from_descriptor(&v->seg[SEG_CS], (uint16_t)((selector & ~3u) | rpl), code->low, code->high);
}

/* ---- frames ---- */

static uint64_t stack_mask(const struct segment *ss, bool wide)
{
    return wide ? ~0ull : ss->attr & SEG_ATTR_DB ? 0xffffffffu : 0xffffu;
}

void frame_init_current(struct vcpu *v, struct frame *f, bool wide)
{
    f->ss = v->seg[SEG_SS];
    f->wide = wide || v->code_mode == CODE_64;
    f->mask = stack_mask(&f->ss, f->wide);
    f->sp = v->regs[RSP] & f->mask;
    f->error = 0;
    f->access = ACCESS_STACK | access_current(v);
}

/* Reads `size` bytes of the current TSS; #TS(TR) beyond its limit. */
static uint64_t tss_read(struct vcpu *v, unsigned offset, unsigned size)
{
    const struct segment *tr = &v->seg[SEG_TR];
    if ((tr->attr & SEG_ATTR_NULL) || offset + size - 1 > tr->limit)
        fault_selector(v, VECTOR_TS, tr->selector);
    return access_read(v, gva_system(v, tr->base + offset), size, ACCESS_IMPLICIT);
}

static void frame_init_inner64(struct vcpu *v, struct frame *f, unsigned cpl, unsigned ist)
{
    f->sp = tss_read(v, ist != 0 ? 28 + 8 * ist : 4 + 8 * cpl, 8);
    f->wide = true;
    f->mask = ~0ull;
    f->error = 0;
    if (cpl == v->cpl)
        f->ss = v->seg[SEG_SS];
    else
        segment_set_null(&f->ss, (uint16_t)cpl, cpl);
}

void frame_init_inner(struct vcpu *v, struct frame *f, unsigned cpl, unsigned ist)
{
    struct descriptor d;
    uint16_t selector;
    f->access = ACCESS_STACK | (cpl == 3 ? ACCESS_USER : 0);
    if (vcpu_long_mode(v)) {
        frame_init_inner64(v, f, cpl, ist);
        return;
    }
    const struct segment *tr = &v->seg[SEG_TR];
    if ((tr->attr & SEG_ATTR_TYPE) >= TYPE_TSS32) {
        if (4 + 8 * cpl + 5 > tr->limit)
            fault_selector(v, VECTOR_TS, tr->selector);
        f->sp = tss_read(v, 4 + 8 * cpl, 4);
        selector = (uint16_t)tss_read(v, 8 + 8 * cpl, 2);
    } else {
        if (2 + 4 * cpl + 3 > tr->limit)
            fault_selector(v, VECTOR_TS, tr->selector);
        f->sp = tss_read(v, 2 + 4 * cpl, 2);
        selector = (uint16_t)tss_read(v, 4 + 4 * cpl, 2);
    }
    descriptor_read(v, selector, VECTOR_TS, &d);
    if ((selector & 3u) != cpl || descriptor_dpl(&d) != cpl || !descriptor_is_writable(&d))
        fault_selector(v, VECTOR_TS, selector);
    if (!descriptor_is_present(&d))
        fault_selector(v, VECTOR_SS, selector);
    descriptor_set_accessed(v, selector, &d);
    segment_from_descriptor(&f->ss, selector, d.low, d.high);
    f->wide = false;
    f->mask = stack_mask(&f->ss, false);
    f->sp &= f->mask;
    f->error = selector & 0xfffcu;
}

void frame_push(struct vcpu *v, struct frame *f, unsigned size, uint64_t value)
{
    uint64_t sp = (f->sp - size) & f->mask;
    gva_t gva = sp;
    if (!f->wide) {
        bool real = !vcpu_protected(v) && f->error == 0; /* the real-mode or v86 stack in use: its type is not asked */
        bool writable = real || (f->ss.attr & (SEG_ATTR_P | SEG_ATTR_CODE | SEG_ATTR_RW)) == (SEG_ATTR_P | SEG_ATTR_RW);
        if ((f->ss.attr & SEG_ATTR_NULL) || !writable || !segment_holds(&f->ss, sp, size))
            fault_ss(v, f->error);
        gva = (uint32_t)(f->ss.base + sp);
    }
    access_write(v, gva, size, value, f->access);
    f->sp = sp;
}

void frame_commit(struct vcpu *v, const struct frame *f)
{
    v->seg[SEG_SS] = f->ss;
    if (f->mask == 0xffff)
        v->regs[RSP] = (v->regs[RSP] & ~0xffffull) | f->sp;
    else
        v->regs[RSP] = f->sp;
}

/* ---- I/O permission ---- */

void io_permission_check(struct vcpu *v, uint16_t port, unsigned count)
{
    const struct segment *tr = &v->seg[SEG_TR];
    if (!(v->cr0 & CR0_PE) || (!vcpu_v86(v) && v->cpl <= vcpu_iopl(v)))
        return;
    /* A 16-bit TSS has no map. The map's two bytes must both lie within the limit, whatever the port. */
    if ((tr->attr & SEG_ATTR_NULL) || (tr->attr & SEG_ATTR_TYPE) < TYPE_TSS32 || tr->limit < 0x67)
        fault_gp(v, 0);
    uint32_t map = (uint32_t)access_read(v, gva_system(v, tr->base + 0x66), 2, ACCESS_IMPLICIT);
    uint32_t offset = map + port / 8;
    if (offset + 1 > tr->limit)
        fault_gp(v, 0);
    uint32_t bits = (uint32_t)access_read(v, gva_system(v, tr->base + offset), 2, ACCESS_IMPLICIT);
    if (bits >> port % 8 & ((1u << count) - 1))
        fault_gp(v, 0);
}
