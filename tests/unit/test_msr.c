/* Model-specific registers and the paravirtual clock: src/cpu/msr.c, pvclock.c. */
#include "system_test.h"

#define PVCLOCK_AT 0x100000u

static int wrmsr(struct bench *b, uint32_t msr, uint64_t value)
{
    struct insn in = insn_plain(4);
    b->v->regs[RCX] = 0xdead00000000 | msr; /* the upper half is ignored */
    b->v->regs[RAX] = 0xffffffff00000000 | (uint32_t)value;
    b->v->regs[RDX] = 0xffffffff00000000 | value >> 32;
    return bench_run(b, op_wrmsr, &in);
}

static int rdmsr(struct bench *b, uint32_t msr, uint64_t *value)
{
    struct insn in = insn_plain(4);
    b->v->regs[RCX] = msr;
    b->v->regs[RAX] = b->v->regs[RDX] = ~0ull;
    int fault = bench_run(b, op_rdmsr, &in);
    if (fault == NO_FAULT) {
        assert_true(b->v->regs[RAX] <= UINT32_MAX && b->v->regs[RDX] <= UINT32_MAX);
        *value = b->v->regs[RDX] << 32 | b->v->regs[RAX];
    }
    return fault;
}

static uint64_t get(struct bench *b, uint32_t msr)
{
    uint64_t value = 0;
    if (rdmsr(b, msr, &value) != NO_FAULT)
        fail_msg("RDMSR 0x%x", msr);
    return value;
}

static void kept(struct bench *b, uint32_t msr, uint64_t value)
{
    if (wrmsr(b, msr, value) != NO_FAULT)
        fail_msg("WRMSR 0x%x = 0x%llx", msr, (unsigned long long)value);
    assert_int_equal(get(b, msr), value);
}

static void refused(struct bench *b, uint32_t msr, uint64_t value)
{
    uint64_t before = 0, after = 0;
    int there = rdmsr(b, msr, &before);
    if (wrmsr(b, msr, value) != VECTOR_GP)
        fail_msg("WRMSR 0x%x = 0x%llx is accepted", msr, (unsigned long long)value);
    assert_int_equal(rdmsr(b, msr, &after), there);
    assert_int_equal(before, after);
}

static void test_round_trips(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    kept(b, 0xc0000081, 0x0123456789abcdef);
    static const uint32_t canonical[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102, 0x175, 0x176};
    for (size_t i = 0; i < ARRAY_LEN(canonical); i++) {
        kept(b, canonical[i], 0xffff800000001000 + i);
        kept(b, canonical[i], 0x00007fffffffffff);
        refused(b, canonical[i], 0x0000800000000000);
        refused(b, canonical[i], 1ull << 63);
    }
    assert_int_equal(b->v->seg[SEG_FS].base, 0x00007fffffffffff);
    kept(b, 0xc0000103, 0xffffffff);
    refused(b, 0xc0000103, 1ull << 32); /* Intel */
    kept(b, 0x277, 0x0706050401000006);
    refused(b, 0x277, 2);
    refused(b, 0x277, 8ull << 56);
    assert_int_equal(wrmsr(b, 0xc0000084, 0xffffffff00000700), NO_FAULT);
    assert_int_equal(get(b, 0xc0000084), 0x700);
}

static void test_unknown(void **state)
{
    struct bench *b = *state;
    uint64_t value;
    bench_protected(b, 0);
    static const uint32_t none[] = {2, 0x480, 0xd90, 0x4b564d02, 0xc0000104, 0xc0010015, 0xc0010114, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(none); i++) {
        assert_int_equal(rdmsr(b, none[i], &value), VECTOR_GP);
        assert_int_equal(wrmsr(b, none[i], 0), VECTOR_GP);
    }
    assert_int_equal(wrmsr(b, 0xfe, 0), VECTOR_GP); /* read-only */
    bench_protected(b, 3);
    assert_int_equal(rdmsr(b, 0x10, &value), VECTOR_GP);
    assert_int_equal(wrmsr(b, 0x10, 0), VECTOR_GP);
    /* any number on any model: never more than a #GP */
    static const char *const specs[] = {"max", "pentium", "pentium3", "486", "x86-64-v1"};
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        system_model(*state, specs[i]);
        b->v->log = NULL;
        for (uint32_t base = 0; base <= 3; base++) {
            static const uint32_t bases[] = {0, 0x4b564d00, 0xc0000000, 0xc0010000};
            for (uint32_t n = 0; n < 0x2000; n++)
                if (msr_read(b->v, bases[base] + n, &value))
                    msr_write(b->v, bases[base] + n, value);
        }
    }
}

static void test_efer(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    bench_protected(b, 0);
    kept(b, 0xc0000080, EFER_SCE | EFER_LME | EFER_NXE);
    refused(b, 0xc0000080, EFER_SCE | EFER_FFXSR); /* Intel */
    refused(b, 0xc0000080, 1u << 1);
    refused(b, 0xc0000080, 1u << 12);
    assert_int_equal(wrmsr(b, 0xc0000080, EFER_LMA), NO_FAULT);
    assert_int_equal(v->efer, 0);
    bench_long(b, 0);
    refused(b, 0xc0000080, EFER_SCE);
    assert_int_equal(wrmsr(b, 0xc0000080, EFER_LME | EFER_NXE), NO_FAULT); /* LMA is kept */
    assert_int_equal(v->efer, EFER_LME | EFER_LMA | EFER_NXE);
    system_model(*state, "pentium3");
    uint64_t value;
    assert_int_equal(rdmsr(b, 0xc0000080, &value), VECTOR_GP);
}

static void test_mtrrs(void **state)
{
    struct bench *b = *state;
    assert_int_equal(get(b, 0xfe), 0x508);
    kept(b, 0x2ff, 0xc06);
    refused(b, 0x2ff, 0xc02);
    refused(b, 0x2ff, 0x1000);
    kept(b, 0x200, 0xc0000006);
    kept(b, 0x201, 0xffc0000800);
    kept(b, 0x20f, 0);
    refused(b, 0x200, 0x2);
    refused(b, 0x200, 0x106);
    refused(b, 0x201, 0x1);
    refused(b, 0x201, 1ull << 40);
    refused(b, 0x210, 0);
    static const uint32_t fixed[] = {0x250, 0x258, 0x259, 0x268, 0x26f};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        kept(b, fixed[i], 0x0605040100060600 | (i & 1));
        refused(b, fixed[i], 0x0600000000000002);
        refused(b, fixed[i], 0x1e);
    }
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        assert_int_equal(get(b, fixed[i]), 0x0605040100060600 | (i & 1));
}

static void test_machine_check(void **state)
{
    struct bench *b = *state;
    assert_int_equal(get(b, 0x179), 0x108);
    assert_int_equal(get(b, 0x17b), ~0ull);
    kept(b, 0x17a, 5);
    refused(b, 0x17a, 8);
    kept(b, 0x400, ~0ull);
    refused(b, 0x401, 1);
    kept(b, 0x401, 0);
    kept(b, 0x41c, 3);
    refused(b, 0x420, 0);
}

static void test_amd(void **state)
{
    struct bench *b = *state;
    b->model.amd = true;
    msr_reset(b->v, false);
    assert_true(get(b, 0xc0010015) & 1u << 24);
    assert_int_equal(wrmsr(b, 0xc0010015, 1u << 18), NO_FAULT);
    assert_int_equal(get(b, 0xc0010015), 1u << 18 | 1u << 24);
    kept(b, 0x401, 1ull << 63); /* McStatusWrEn */
    assert_int_equal(get(b, 0xc0011029), 2);
    kept(b, 0xc001001a, 0xc0000000);
    refused(b, 0x250, 0x1e);
    kept(b, 0xc0010010, 1u << 19);
    kept(b, 0x250, 0x1e);
    assert_int_equal(wrmsr(b, 0xc0000103, 0x500000001), NO_FAULT);
    assert_int_equal(get(b, 0xc0000103), 1);
    refused(b, 0x1a0, 0);
    assert_int_equal(get(b, 0xc0010004), 0);
}

static void test_tsc(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    s->now_ns = 5000;
    assert_int_equal(get(b, 0x10), 5000);
    kept(b, 0x10, 7000);
    assert_int_equal(get(b, 0x3b), 2000);
    kept(b, 0x3b, (uint64_t)-4000);
    assert_int_equal(get(b, 0x10), 1000);
    /* the APIC's deadline is guest time */
    kept(b, 0x6e0, 1500);
    assert_int_equal(s->deadline, 5500);
    kept(b, 0x10, 1300); /* 200 left of 500 */
    assert_int_equal(s->deadline, 5200);
    assert_int_equal(get(b, 0x6e0), 1500);
    assert_int_equal(wrmsr(b, 0x6e0, 1), NO_FAULT); /* in the past */
    assert_int_equal(s->deadline, 5000);
    assert_int_equal(wrmsr(b, 0x6e0, ~0ull), NO_FAULT);
    assert_true(s->deadline > 1ull << 63);
    kept(b, 0x6e0, 0);
    assert_int_equal(s->deadline, 0);
    assert_int_equal(get(b, 0x1b), 0xfee00900);
    vcpu_reset(b->v, true); /* INIT keeps the TSC */
    assert_int_equal(get(b, 0x10), 1300);
}

/* A TSC that the host's processor counts at its own frequency: everything that is told in its terms follows. */
static void test_tsc_frequency(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    b->model.tsc_khz = b->v->tsc_khz = 2445432;
    s->now_ns = 1000000000;
    b->v->tsc_drift = 7;
    assert_int_equal(get(b, 0x10), 2445432007);
    kept(b, 0x10, 5000000000);
    assert_int_equal(get(b, 0x3b), 5000000000 - 2445432007);
    assert_int_equal(wrmsr(b, 0x6e0, 5000000000 + 2445432), NO_FAULT); /* a millisecond from now */
    assert_in_range(s->deadline, 1001000000, 1001000001);
    assert_in_range(get(b, 0x6e0), 5000000000 + 2445432 - 3, 5000000000 + 2445432 + 3);
    assert_int_equal(wrmsr(b, 0x6e0, ~0ull), NO_FAULT);
    assert_true(s->deadline > 1ull << 62);
    assert_int_equal(get(b, 0xce) >> 8 & 0xff, 24);

    kept(b, 0x4b564d01, PVCLOCK_AT | 1);
    uint64_t then = get64(b, PVCLOCK_AT + 8);
    int shift = (int8_t)b->ram[PVCLOCK_AT + 28];
    assert_int_equal(then, 5000000000);
    for (uint64_t ms = 1; ms < 100000000; ms *= 7) { /* to 27 hours: within 1 in 10^9 */
        uint64_t ticks = 2445432 * ms, scaled = shift >= 0 ? ticks << shift : ticks >> -shift;
        uint64_t ns = (uint64_t)((unsigned __int128)scaled * get32(b, PVCLOCK_AT + 24) >> 32);
        assert_in_range(ns, ms * 1000000 - ms / 100 - 2, ms * 1000000 + ms / 100 + 2);
    }
}

/* What steers speculation is stored where a model has it, and is #GP where it has not. */
static void test_speculation(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    refused(b, 0x48, 4);
    assert_int_equal(wrmsr(b, 0x49, 0x80), VECTOR_GP);
    assert_int_equal(wrmsr(b, 0x10b, 1), VECTOR_GP);
    assert_int_equal(get(b, 0x10a), b->model.arch_capabilities);
    system_model(s, "x86-64-v1,-spec_ctrl,-arch_capabilities");
    assert_int_equal(wrmsr(b, 0x48, 0), VECTOR_GP);
    assert_int_equal(wrmsr(b, 0x49, 1), VECTOR_GP);
    system_model(s, "x86-64-v1,-spec_ctrl,+ibrs,+ibpb,+amd_ssbd,+sbpb,+amd_psfd,+virt_ssbd,+flush_l1d");
    kept(b, 0x48, 0x87);
    refused(b, 0x48, 0x8);
    assert_int_equal(wrmsr(b, 0x49, 0x81), NO_FAULT);
    assert_int_equal(wrmsr(b, 0x49, 2), VECTOR_GP);
    assert_int_equal(wrmsr(b, 0x10b, 1), NO_FAULT);
    assert_int_equal(wrmsr(b, 0x10b, 2), VECTOR_GP);
    kept(b, 0xc001011f, 4);
    refused(b, 0xc001011f, 1);
}

static void test_intel(void **state)
{
    struct bench *b = *state;
    assert_int_equal(get(b, 0x3a), 1);
    refused(b, 0x3a, 5); /* locked */
    kept(b, 0x48, 1);
    refused(b, 0x48, 4);
    assert_int_equal(wrmsr(b, 0x49, 1), NO_FAULT);
    assert_int_equal(wrmsr(b, 0x49, 2), VECTOR_GP);
    assert_int_equal(wrmsr(b, 0x8b, 0), NO_FAULT);
    assert_int_equal(get(b, 0x8b), 1ull << 32);
    assert_int_equal(get(b, 0xce) >> 8 & 0xff, 10);
    uint64_t misc = get(b, 0x1a0);
    assert_int_equal(wrmsr(b, 0x1a0, misc & ~1ull), NO_FAULT);
    assert_int_equal(get(b, 0x1a0), misc & ~1ull);
    kept(b, 0x1d9, DEBUGCTL_BTF);
    refused(b, 0x1d9, 1u << 6);
    assert_true(get(b, 0x10a) & 1);
    vcpu_reset(b->v, true);
    assert_int_equal(get(b, 0x1d9), DEBUGCTL_BTF);
}

static void test_pvclock(void **state)
{
    struct bench *b = *state;
    struct system *s = *state;
    s->now_ns = 123456789;
    kept(b, 0x10, 1ull << 40);
    put32(b, PVCLOCK_AT, 7); /* the guest left it odd */
    kept(b, 0x4b564d01, PVCLOCK_AT | 1);
    assert_int_equal(get32(b, PVCLOCK_AT), 8);
    assert_int_equal(get64(b, PVCLOCK_AT + 8), 1ull << 40);
    assert_int_equal(get64(b, PVCLOCK_AT + 16), 123456789);
    assert_int_equal(get32(b, PVCLOCK_AT + 24), 0x80000000);
    assert_int_equal(b->ram[PVCLOCK_AT + 28], 1);
    assert_int_equal(b->ram[PVCLOCK_AT + 29], 1);
    kept(b, 0x10, 5); /* moves with the TSC */
    assert_int_equal(get32(b, PVCLOCK_AT), 10);
    assert_int_equal(get64(b, PVCLOCK_AT + 8), 5);
    s->now_ns += 1000;
    uint64_t tsc = get(b, 0x10);
    uint64_t time = get64(b, PVCLOCK_AT + 16) +
                    (uint64_t)((unsigned __int128)((tsc - get64(b, PVCLOCK_AT + 8)) << 1) * 0x80000000u >> 32);
    assert_int_equal(time, s->now_ns);
    kept(b, 0x4b564d01, PVCLOCK_AT); /* off */
    kept(b, 0x10, 9);
    assert_int_equal(get32(b, PVCLOCK_AT), 10);

    assert_int_equal(wrmsr(b, 0x4b564d00, PVCLOCK_AT + 0x100), NO_FAULT);
    assert_int_equal(get32(b, PVCLOCK_AT + 0x100), 2);
    assert_int_equal(get32(b, PVCLOCK_AT + 0x104), 1700000000);
    assert_int_equal(get32(b, PVCLOCK_AT + 0x108), 123456789);
    /* the old numbers, and addresses that are not RAM */
    kept(b, 0x12, PVCLOCK_AT | 1);
    assert_int_equal(get64(b, PVCLOCK_AT + 16), s->now_ns);
    static const uint64_t hostile[] = {~0ull, 4 * MiB - 8 + 1, 0xfee00001, 1ull << 63 | 1};
    for (size_t i = 0; i < ARRAY_LEN(hostile); i++) {
        kept(b, 0x4b564d01, hostile[i]);
        assert_int_equal(wrmsr(b, 0x4b564d00, hostile[i]), NO_FAULT);
    }
    kept(b, 0x4b564d04, 0x3001);
    assert_int_equal(s->pv_eoi, 0x3001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SYSTEM_TEST(test_round_trips), SYSTEM_TEST(test_unknown),       SYSTEM_TEST(test_efer),
        SYSTEM_TEST(test_mtrrs),       SYSTEM_TEST(test_machine_check), SYSTEM_TEST(test_amd),
        SYSTEM_TEST(test_tsc),         SYSTEM_TEST(test_intel),         SYSTEM_TEST(test_pvclock),
        SYSTEM_TEST(test_tsc_frequency), SYSTEM_TEST(test_speculation),
    };
    return cmocka_run_group_tests_name("msr", tests, NULL, NULL);
}
