/* Conversions between struct vcpu and the kernel's formats: what goes out comes back, and lies where the kernel's headers
 * (and the XSAVE area's layout, SDM vol. 1, 13.4) say. Nothing here needs /dev/kvm. */
#include "system_test.h"

#include "cpu/descriptor.h"
#include "engine/kvm/internal.h"

#define ALL_HELD UINT32_MAX

static uint64_t chance(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* Everything that has no rules of its own. */
static void fill(struct vcpu *v, uint64_t seed)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    bool wide = v->code_mode == CODE_64;
    for (unsigned n = 0; n < 16; n++)
        v->regs[n] = wide ? chance(&seed) : n < 8 ? (uint32_t)chance(&seed) : chance(&seed);
    v->rip = v->next_rip = wide ? chance(&seed) >> 17 : (uint32_t)chance(&seed);
    rflags_set(v, rflags_get(v) | (chance(&seed) & (FLAGS_STATUS | FLAG_IF | FLAG_DF)));
    v->cr2 = chance(&seed);
    for (unsigned n = 0; n < 4; n++)
        v->dr[n] = chance(&seed);
    v->dr[6] = 0xffff0ff0 | (chance(&seed) & 0xe00f);
    v->dr[7] = 0x400;
    v->gdtr.base = chance(&seed);
    v->idtr.limit = (uint16_t)chance(&seed);
    v->shadow = (uint32_t)(chance(&seed) % 3);
    v->nmi_blocked = chance(&seed) & 1;
    v->xcr0 = 3;
    for (unsigned n = 0; n < kvm_held_count; n++) {
        uint64_t value = chance(&seed);
        memcpy((char *)v + kvm_held_msrs[n].field, &value, sizeof value);
    }
    x87->fcw = (uint16_t)(0x40 | (chance(&seed) & 0xf3f));
    x87->fsw = (uint16_t)(chance(&seed) & 0x7f00);
    x87->ftw = (uint8_t)chance(&seed);
    x87->fop = chance(&seed) & 0x7ff;
    x87->fip = chance(&seed);
    x87->fdp = chance(&seed);
    for (unsigned n = 0; n < 8; n++)
        x87->st[n] = (struct x87_register){.mantissa = chance(&seed), .exponent = (uint16_t)chance(&seed)};
    v->fpu.mxcsr = (uint32_t)chance(&seed) & 0xffff;
    for (unsigned n = 0; n < 16; n++)
        for (unsigned i = 0; i < 32; i += 8) {
            uint64_t value = i < 16 || (v->model->xcr0_mask & XCR0_AVX) ? chance(&seed) : 0;
            memcpy(v->fpu.ymm[n] + i, &value, 8);
        }
}

/* What fill() and the modes set. */
static void assert_same(const struct vcpu *a, const struct vcpu *b)
{
    assert_memory_equal(a->regs, b->regs, 16 * 8);
    assert_int_equal(a->rip, b->rip);
    assert_int_equal(rflags_get(a), rflags_get(b));
    for (unsigned seg = 0; seg < SEG_COUNT; seg++) {
        assert_int_equal(a->seg[seg].selector, b->seg[seg].selector);
        assert_int_equal(a->seg[seg].base, b->seg[seg].base);
        assert_int_equal(a->seg[seg].attr, b->seg[seg].attr);
        assert_int_equal(a->seg[seg].limit, b->seg[seg].limit);
    }
    assert_int_equal(a->gdtr.base, b->gdtr.base);
    assert_int_equal(a->gdtr.limit, b->gdtr.limit);
    assert_int_equal(a->idtr.base, b->idtr.base);
    assert_int_equal(a->idtr.limit, b->idtr.limit);
    const uint64_t of_a[] = {a->cr0, a->cr2, a->cr3, a->cr4, a->efer, a->xcr0}, of_b[] = {b->cr0, b->cr2, b->cr3, b->cr4, b->efer, b->xcr0};
    assert_memory_equal(of_a, of_b, sizeof of_a);
    assert_memory_equal(a->dr, b->dr, sizeof a->dr);
    assert_memory_equal(&a->msr, &b->msr, sizeof a->msr);
    assert_memory_equal(a->fpu.ymm, b->fpu.ymm, sizeof a->fpu.ymm);
    assert_memory_equal(a->fpu.x87, b->fpu.x87, 160);
    assert_int_equal(a->fpu.mxcsr, b->fpu.mxcsr);
    assert_memory_equal(a->pdpte, b->pdpte, sizeof a->pdpte);
    assert_int_equal(a->shadow, b->shadow);
    assert_int_equal(a->nmi_blocked, b->nmi_blocked);
    assert_int_equal(a->cpl, b->cpl);
    assert_int_equal(a->code_mode, b->code_mode);
}

static void round_trip(struct bench *b)
{
    static struct kvm_state state;
    struct vcpu *v = b->v, *other = vcpu_create(b->memory, &b->model, 0, NULL, NULL);
    assert_non_null(other);
    memset(other->regs, 0xaa, 16 * 8);
    memset(&other->fpu, 0xaa, sizeof other->fpu);
    for (uint64_t seed = 1; seed < 50; seed++) {
        fill(v, seed);
        memset(&state, 0x55, sizeof state);
        kvm_state_from_vcpu(v, ALL_HELD, &state);
        other->msr = v->msr; /* what is not held stays where it is */
        for (unsigned n = 0; n < kvm_held_count; n++)
            memset((char *)other + kvm_held_msrs[n].field, 0, 8);
        kvm_state_to_vcpu(other, KVM_PART_ALL, &state);
        assert_same(v, other);
    }
    vcpu_destroy(other);
}

static void test_real(void **state)
{
    struct bench *b = *state;
    vcpu_reset(b->v, false);
    round_trip(b);
    segment_load_real(b->v, SEG_DS, 0x1234);
    b->v->seg[SEG_ES].limit = 0xffffffff; /* unreal */
    b->v->seg[SEG_ES].attr |= SEG_ATTR_G;
    round_trip(b);
}

static void test_protected(void **state)
{
    struct bench *b = *state;
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        bench_protected(b, cpl);
        segment_set_null(&b->v->seg[SEG_FS], 3, 0);
        segment_set_null(&b->v->seg[SEG_LDTR], 0, 0);
        vcpu_mode_changed(b->v);
        assert_int_equal(b->v->cpl, cpl);
        round_trip(b);
    }
}

static void test_pae(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    b->v->cr0 |= CR0_PG;
    b->v->cr4 |= CR4_PAE;
    for (unsigned n = 0; n < 4; n++)
        b->v->pdpte[n] = 0x5000 * n + 1;
    vcpu_mode_changed(b->v);
    round_trip(b);
    static struct kvm_state s;
    kvm_state_from_vcpu(b->v, 0, &s);
    assert_int_equal(s.sregs.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
    assert_int_equal(s.sregs.pdptrs[3], 0xf001);
    assert_int_equal(s.msrs.header.nmsrs, 0);
}

static void test_long(void **state)
{
    struct bench *b = *state;
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        bench_long(b, cpl);
        segment_set_null(&b->v->seg[SEG_SS], (uint16_t)cpl, cpl); /* in 64-bit mode SS may be null; CPL stays */
        b->v->seg[SEG_GS].base = 0xffff888012345678;
        vcpu_mode_changed(b->v);
        assert_int_equal(b->v->cpl, cpl);
        round_trip(b);
    }
}

/* Hidden parts in virtual-8086 mode have one form, whatever they came from (SDM vol. 3, 26.3.1.2). */
static void test_v86(void **state)
{
    struct bench *b = *state;
    static struct kvm_state s;
    bench_protected(b, 3);
    rflags_set(b->v, FLAG_VM | FLAG_IOPL);
    for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
        segment_load_real(b->v, seg, (uint16_t)(0x1111 * seg));
    round_trip(b);
    kvm_state_from_vcpu(b->v, ALL_HELD, &s);
    const struct kvm_segment *gs = &s.sregs.gs;
    assert_int_equal(gs->base, gs->selector << 4);
    assert_int_equal(gs->limit, 0xffff);
    assert_int_equal(gs->type | gs->s << 4 | gs->dpl << 5 | gs->present << 7, 0xf3);
    assert_int_equal(gs->l | gs->db | gs->g | gs->avl | gs->unusable, 0);
}

/* Where the parts lie. */
static void test_layout(void **state)
{
    struct bench *b = *state;
    static struct kvm_state s;
    struct vcpu *v = b->v;
    bench_long(b, 0);
    fill(v, 7);
    v->shadow = SHADOW_MOV_SS;
    v->nmi_blocked = true;
    kvm_state_from_vcpu(v, ALL_HELD, &s);
    const uint8_t *area = (const uint8_t *)s.xsave.region;
    uint64_t present, value;
    memcpy(&present, area + 512, 8);
    assert_int_equal(present & 3, 3);
    assert_memory_equal(area + 160, v->fpu.ymm[0], 16);
    assert_memory_equal(area + 160 + 15 * 16, v->fpu.ymm[15], 16);
    assert_memory_equal(area + 24, &v->fpu.mxcsr, 4);
    assert_memory_equal(area + 8, &fpu_x87(&v->fpu)->fip, 8);
    assert_memory_equal(area + 32 + 16 * 7, &fpu_x87(&v->fpu)->st[7], 10);
    assert_int_equal(s.regs.rbx, v->regs[RBX]);
    assert_int_equal(s.regs.rsi, v->regs[RSI]);
    assert_int_equal(s.regs.r15, v->regs[R15]);
    assert_int_equal(s.sregs.cs.l, 1);
    assert_int_equal(s.sregs.cs.type, 0xb);
    assert_int_equal(s.sregs.cr8, 0);
    assert_int_equal(s.events.interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS);
    assert_int_equal(s.events.nmi.masked, 1);
    assert_int_equal(s.events.exception.injected | s.events.exception.pending | s.events.interrupt.injected, 0);
    assert_int_equal(s.xcrs.nr_xcrs, 1);
    bool found = false;
    for (unsigned i = 0; i < s.msrs.header.nmsrs; i++)
        if (s.msrs.entries[i].index == 0xc0000082) {
            value = s.msrs.entries[i].data;
            found = value == v->msr.lstar;
        }
    assert_true(found);
    /* components that are in their initial state need not be in the area */
    present = 0;
    memcpy((uint8_t *)s.xsave.region + 512, &present, 8);
    kvm_state_to_vcpu(v, KVM_PART_XSAVE, &s);
    assert_int_equal(fpu_x87(&v->fpu)->fcw, 0x37f);
    assert_int_equal(fpu_x87(&v->fpu)->ftw, 0);
    assert_int_equal(fpu_xinuse(v), 0);
    /* AMD's processors do not tell the shadows apart */
    s.events.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI;
    kvm_state_to_vcpu(v, KVM_PART_EVENTS, &s);
    assert_int_equal(v->shadow, SHADOW_MOV_SS);
}

/* Outside 64-bit code the upper halves are zeros here, whatever is there. */
static void test_upper_halves(void **state)
{
    struct bench *b = *state;
    static struct kvm_state s;
    bench_protected(b, 0);
    kvm_state_from_vcpu(b->v, ALL_HELD, &s);
    s.regs.rax = 0xdeadbeef00000001;
    s.regs.r8 = 0xdeadbeef00000002;
    s.regs.rip = 0x1234500001000;
    kvm_state_to_vcpu(b->v, KVM_PART_SYNCED, &s);
    assert_int_equal(b->v->regs[RAX], 1);
    assert_int_equal(b->v->regs[R8], 0xdeadbeef00000002);
    assert_int_equal(b->v->rip, 0x1000);
}

/* The table says what cpuid_query() says, and nothing of ring3's own hypercalls, which the kernel would swallow. */
static void test_cpuid_table(void **state)
{
    struct bench *b = *state;
    struct kvm_cpuid2 *table = kvm_cpuid_table(b->v);
    assert_non_null(table);
    assert_in_range(table->nent, 20, 100);
    for (unsigned i = 0; i < table->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &table->entries[i];
        struct cpuid_result r = cpuid_query(b->v, e->function, e->index);
        assert_int_equal(e->eax, r.eax);
        assert_int_equal(e->ebx, r.ebx);
        assert_int_equal(e->ecx, r.ecx);
        if (e->function != 0x80000001)
            assert_int_equal(e->edx, r.edx);
        else
            assert_int_equal(e->edx, r.edx | 1u << 11); /* SYSCALL, whatever mode it is asked in */
        assert_true(e->function < 0x40000100 || e->function >= 0x80000000);
    }
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SYSTEM_TEST(test_real),   SYSTEM_TEST(test_protected),    SYSTEM_TEST(test_pae),  SYSTEM_TEST(test_long),
        SYSTEM_TEST(test_v86),    SYSTEM_TEST(test_upper_halves), SYSTEM_TEST(test_layout),
        SYSTEM_TEST(test_cpuid_table),
    };
    return cmocka_run_group_tests_name("kvm_state", tests, NULL, NULL);
}
