/* Between struct vcpu and the kernel's formats. Nothing here asks the kernel, so that each direction can be tested
 * against the other.
 *
 * Segments. Both sides keep the hidden part. The kernel says "unusable" where a null selector was loaded; of an
 * unusable segment only selector, base and DPL mean something (SS's DPL is the CPL). In virtual-8086 mode the processor
 * demands one form of all six, which is the one that they have by definition.
 *
 * x87. The image is FXSAVE64's on both sides. The kernel saves with 64-bit pointers, so FCS and FDS, which only
 * processors before 2013 have, are lost on the way there; guests see 0, as on newer ones.
 *
 * Interrupt shadow. AMD's processors do not tell STI's from MOV SS's; then it is taken for the latter, which holds off
 * more.
 *
 * The upper parts of what `v` does not have are the initial state: components beyond AVX, LDTR's and TR's of real mode.
 *
 * SDM vol. 3, 24.4.1 (guest register state), 26.3.1.2 (what VM entry checks of segments); vol. 1, 13.4 (XSAVE area). */
#include "engine/kvm/internal.h"

#include <stddef.h>
#include <string.h>

#define FIELD(member) offsetof(struct vcpu, member)
const struct kvm_held_msr kvm_held_msrs[] = {
    {0x48, FIELD(msr.spec_ctrl)},     {0x174, FIELD(msr.sysenter_cs)},
    {0x175, FIELD(msr.sysenter_esp)}, {0x176, FIELD(msr.sysenter_eip)},
    {0x1d9, FIELD(msr.debugctl)},     {0x277, FIELD(msr.pat)},
    {0xda0, FIELD(msr.xss)},          {0xc0000081, FIELD(msr.star)},
    {0xc0000082, FIELD(msr.lstar)},   {0xc0000083, FIELD(msr.cstar)},
    {0xc0000084, FIELD(msr.sfmask)},  {0xc0000102, FIELD(msr.kernel_gs_base)},
    {0xc0000103, FIELD(msr.tsc_aux)}, {0xc001011f, FIELD(msr.virt_spec_ctrl)},
};
const unsigned kvm_held_count = ARRAY_LEN(kvm_held_msrs);
_Static_assert(ARRAY_LEN(kvm_held_msrs) <= KVM_HELD_MAX, "each has its bit and its entry");

/* ---- general registers ---- */

static uint64_t *kernel_gpr(struct kvm_regs *regs, unsigned n)
{
    uint64_t *const order[16] = {
        (uint64_t *)&regs->rax, (uint64_t *)&regs->rcx, (uint64_t *)&regs->rdx, (uint64_t *)&regs->rbx,
        (uint64_t *)&regs->rsp, (uint64_t *)&regs->rbp, (uint64_t *)&regs->rsi, (uint64_t *)&regs->rdi,
        (uint64_t *)&regs->r8,  (uint64_t *)&regs->r9,  (uint64_t *)&regs->r10, (uint64_t *)&regs->r11,
        (uint64_t *)&regs->r12, (uint64_t *)&regs->r13, (uint64_t *)&regs->r14, (uint64_t *)&regs->r15,
    };
    return order[n];
}

static void regs_from(const struct vcpu *v, struct kvm_regs *regs)
{
    for (unsigned n = 0; n < 16; n++)
        *kernel_gpr(regs, n) = v->regs[n];
    regs->rip = v->rip;
    regs->rflags = rflags_get(v);
}

static void regs_to(struct vcpu *v, const struct kvm_regs *regs)
{
    struct kvm_regs copy = *regs;
    for (unsigned n = 0; n < 16; n++)
        v->regs[n] = *kernel_gpr(&copy, n);
    v->rip = v->next_rip = regs->rip;
    v->run_start = v->in = v->link = NULL;
    rflags_set(v, (uint32_t)regs->rflags);
}

/* ---- segments and control registers ---- */

#define TYPE_V86 3u /* data, writable, accessed */

static struct kvm_segment segment_from(const struct segment *s, bool v86)
{
    if (v86)
        return (struct kvm_segment){.selector = s->selector,
                                    .base = (uint64_t)s->selector << 4,
                                    .limit = 0xffff,
                                    .type = TYPE_V86,
                                    .s = 1,
                                    .present = 1,
                                    .dpl = 3};
    return (struct kvm_segment){
        .selector = s->selector,
        .base = s->base,
        .limit = s->limit,
        .type = s->attr & SEG_ATTR_TYPE,
        .s = (s->attr & SEG_ATTR_S) != 0,
        .dpl = (s->attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT,
        .present = (s->attr & SEG_ATTR_P) != 0,
        .avl = (s->attr & SEG_ATTR_AVL) != 0,
        .l = (s->attr & SEG_ATTR_L) != 0,
        .db = (s->attr & SEG_ATTR_DB) != 0,
        .g = (s->attr & SEG_ATTR_G) != 0,
        .unusable = (s->attr & SEG_ATTR_NULL) != 0,
    };
}

static struct segment segment_to(const struct kvm_segment *k)
{
    struct segment s = {.selector = k->selector, .base = k->base};
    s.attr = (uint32_t)k->dpl << SEG_ATTR_DPL_SHIFT;
    if (k->unusable) {
        s.attr |= SEG_ATTR_NULL;
        return s;
    }
    s.limit = k->limit;
    s.attr |= k->type | (k->s ? SEG_ATTR_S : 0) | (k->present ? SEG_ATTR_P : 0) | (k->avl ? SEG_ATTR_AVL : 0) |
              (k->l ? SEG_ATTR_L : 0) | (k->db ? SEG_ATTR_DB : 0) | (k->g ? SEG_ATTR_G : 0);
    return s;
}

static struct kvm_segment *kernel_segment(struct kvm_sregs2 *sregs, enum seg seg)
{
    struct kvm_segment *const order[SEG_COUNT] = {
        [SEG_ES] = &sregs->es, [SEG_CS] = &sregs->cs, [SEG_SS] = &sregs->ss,    [SEG_DS] = &sregs->ds,
        [SEG_FS] = &sregs->fs, [SEG_GS] = &sregs->gs, [SEG_LDTR] = &sregs->ldt, [SEG_TR] = &sregs->tr,
    };
    return order[seg];
}

#define APIC_BASE_MSR 0x1bu
#define APIC_BASE_EXTD (1ull << 10)

static bool pae_paging(const struct vcpu *v)
{
    return (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !(v->efer & EFER_LMA);
}

static void sregs_from(const struct vcpu *v, struct kvm_sregs2 *sregs)
{
    bool v86 = vcpu_v86(v);
    for (enum seg seg = 0; seg < SEG_COUNT; seg++)
        *kernel_segment(sregs, seg) = segment_from(&v->seg[seg], v86 && seg < SEG_LDTR);
    sregs->gdt = (struct kvm_dtable){.base = v->gdtr.base, .limit = v->gdtr.limit};
    sregs->idt = (struct kvm_dtable){.base = v->idtr.base, .limit = v->idtr.limit};
    sregs->cr0 = v->cr0;
    sregs->cr2 = v->cr2;
    sregs->cr3 = v->cr3;
    sregs->cr4 = v->cr4;
    sregs->efer = v->efer;
    sregs->cr8 = v->platform.cr8_read != NULL ? v->platform.cr8_read(v->platform.opaque) : 0;
    /* Only whether it is enabled matters there: CPUID shows it. Its registers are ours in both modes. */
    uint64_t apic_base = 0;
    if (v->platform.apic_msr_read != NULL)
        v->platform.apic_msr_read(v->platform.opaque, APIC_BASE_MSR, &apic_base);
    sregs->apic_base = apic_base & ~APIC_BASE_EXTD;
    sregs->flags = 0;
    memset(sregs->pdptrs, 0, sizeof sregs->pdptrs);
    if (pae_paging(v)) {
        sregs->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        memcpy(sregs->pdptrs, v->pdpte, sizeof sregs->pdptrs);
    }
}

static void sregs_to(struct vcpu *v, const struct kvm_sregs2 *sregs)
{
    struct kvm_sregs2 copy = *sregs;
    for (enum seg seg = 0; seg < SEG_COUNT; seg++)
        v->seg[seg] = segment_to(kernel_segment(&copy, seg));
    v->gdtr = (struct table_register){.base = sregs->gdt.base, .limit = sregs->gdt.limit};
    v->idtr = (struct table_register){.base = sregs->idt.base, .limit = sregs->idt.limit};
    v->cr0 = sregs->cr0;
    v->cr2 = sregs->cr2;
    v->cr3 = sregs->cr3;
    v->cr4 = sregs->cr4;
    v->efer = sregs->efer;
    if (sregs->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
        memcpy(v->pdpte, sregs->pdptrs, sizeof v->pdpte);
}

void kvm_sregs_from_sync(struct kvm_sregs2 *to, const struct kvm_sregs *from)
{
    _Static_assert(offsetof(struct kvm_sregs, apic_base) == offsetof(struct kvm_sregs2, apic_base), "they begin alike");
    memcpy(to, from, offsetof(struct kvm_sregs2, flags));
    to->flags = 0;
}

/* ---- events and debug registers ---- */

static void events_from(const struct vcpu *v, struct kvm_vcpu_events *events)
{
    *events = (struct kvm_vcpu_events){.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW};
    events->interrupt.shadow = v->shadow == SHADOW_STI      ? KVM_X86_SHADOW_INT_STI
                               : v->shadow == SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS
                                                            : 0;
    events->nmi.masked = v->nmi_blocked;
}

static void events_to(struct vcpu *v, const struct kvm_vcpu_events *events)
{
    uint8_t shadow = events->interrupt.shadow;
    v->shadow = shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : shadow & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : 0;
    v->nmi_blocked = events->nmi.masked;
}

static void debug_from(const struct vcpu *v, struct kvm_debugregs *debug)
{
    *debug = (struct kvm_debugregs){.dr6 = v->dr[6], .dr7 = v->dr[7]};
    for (unsigned n = 0; n < 4; n++)
        debug->db[n] = v->dr[n];
}

static void debug_to(struct vcpu *v, const struct kvm_debugregs *debug)
{
    for (unsigned n = 0; n < 4; n++)
        v->dr[n] = debug->db[n];
    v->dr[6] = debug->dr6;
    v->dr[7] = debug->dr7;
}

/* ---- x87, SSE, AVX ---- */

#define AREA_MXCSR 24u
#define AREA_ST 32u
#define AREA_XMM 160u
#define AREA_XSTATE_BV 512u
#define AREA_AVX 576u

static void xsave_from(const struct vcpu *v, struct kvm_xsave *xsave)
{
    uint8_t *area = (uint8_t *)xsave->region;
    uint64_t present = XCR0_X87 | XCR0_SSE | (v->model->xcr0_mask & XCR0_AVX);
    memset(xsave, 0, sizeof *xsave);
    memcpy(area, v->fpu.x87, AREA_XMM);
    memcpy(area + AREA_MXCSR, &v->fpu.mxcsr, sizeof v->fpu.mxcsr);
    memset(area + AREA_MXCSR + 4, 0, 4);
    memcpy(area + AREA_XSTATE_BV, &present, sizeof present);
    for (unsigned n = 0; n < 16; n++) {
        memcpy(area + AREA_XMM + 16 * n, v->fpu.ymm[n], 16);
        if (present & XCR0_AVX)
            memcpy(area + AREA_AVX + 16 * n, v->fpu.ymm[n] + 16, 16);
    }
}

static void xsave_to(struct vcpu *v, const struct kvm_xsave *xsave)
{
    const uint8_t *area = (const uint8_t *)xsave->region;
    struct x87_image *x87 = fpu_x87(&v->fpu);
    uint64_t present;
    memcpy(&present, area + AREA_XSTATE_BV, sizeof present);
    memset(x87, 0, sizeof *x87);
    x87->fcw = X87_FCW_INIT;
    if (present & XCR0_X87) {
        memcpy(x87, area, AREA_MXCSR);
        for (unsigned n = 0; n < 8; n++) /* without what lies between them */
            memcpy(&x87->st[n], area + AREA_ST + 16 * n, 10);
    }
    x87->reserved = 0;
    x87->mxcsr = MXCSR_HOST;
    v->fpu.x87_cs = v->fpu.x87_ds = 0;
    memcpy(&v->fpu.mxcsr, area + AREA_MXCSR, sizeof v->fpu.mxcsr);
    for (unsigned n = 0; n < 16; n++) {
        memset(v->fpu.ymm[n], 0, 32);
        if (present & XCR0_SSE)
            memcpy(v->fpu.ymm[n], area + AREA_XMM + 16 * n, 16);
        if (present & XCR0_AVX)
            memcpy(v->fpu.ymm[n] + 16, area + AREA_AVX + 16 * n, 16);
    }
}

/* ---- MSRs ---- */

static void msrs_from(const struct vcpu *v, uint32_t held, struct kvm_msr_set *set)
{
    *set = (struct kvm_msr_set){0};
    for (unsigned n = 0; n < kvm_held_count; n++) {
        if (!(held >> n & 1))
            continue;
        uint64_t value;
        memcpy(&value, (const char *)v + kvm_held_msrs[n].field, sizeof value);
        set->entries[set->header.nmsrs++] = (struct kvm_msr_entry){.index = kvm_held_msrs[n].number, .data = value};
    }
}

static void msrs_to(struct vcpu *v, const struct kvm_msr_set *set)
{
    for (unsigned i = 0; i < set->header.nmsrs; i++)
        for (unsigned n = 0; n < kvm_held_count; n++)
            if (kvm_held_msrs[n].number == set->entries[i].index) {
                uint64_t value = set->entries[i].data;
                memcpy((char *)v + kvm_held_msrs[n].field, &value, sizeof value);
            }
}

/* ---- all of it ---- */

void kvm_state_from_vcpu(const struct vcpu *v, uint32_t held, struct kvm_state *state)
{
    regs_from(v, &state->regs);
    sregs_from(v, &state->sregs);
    events_from(v, &state->events);
    debug_from(v, &state->debug);
    state->xcrs = (struct kvm_xcrs){.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = v->xcr0}}};
    xsave_from(v, &state->xsave);
    msrs_from(v, held, &state->msrs);
}

void kvm_state_to_vcpu(struct vcpu *v, unsigned parts, const struct kvm_state *state)
{
    if (parts & KVM_PART_REGS)
        regs_to(v, &state->regs);
    if (parts & KVM_PART_SREGS)
        sregs_to(v, &state->sregs);
    if (parts & KVM_PART_EVENTS)
        events_to(v, &state->events);
    if (parts & KVM_PART_DEBUG)
        debug_to(v, &state->debug);
    for (unsigned i = 0; (parts & KVM_PART_XCRS) && i < state->xcrs.nr_xcrs; i++)
        if (state->xcrs.xcrs[i].xcr == 0)
            v->xcr0 = state->xcrs.xcrs[i].value;
    if (parts & KVM_PART_XSAVE)
        xsave_to(v, &state->xsave);
    if (parts & KVM_PART_MSRS)
        msrs_to(v, &state->msrs);
    vcpu_mode_changed(v);
    if (v->code_mode != CODE_64) {
        for (unsigned n = RAX; n <= RDI; n++)
            v->regs[n] = (uint32_t)v->regs[n];
        v->rip = v->next_rip = (uint32_t)v->rip;
    }
}
