/* Hypercalls: src/cpu/hypercall.c, by docs/hypercalls.md; and how engines deliver what the guest's flag lets through. */
#include "system_test.h"

#include "cpu/cpuid.h"
#include "cpu/hypercall.h"
#include "engine/events.h"

#define RECORD 0x100000u
#define OPS 0x101000u
#define TABLE 0x103000u
#define PD_AT (PML4_AT + 0x2000) /* pages of 2 MiB */
#define BEYOND 0xf0000000000ull

static int64_t call(struct bench *b, uint64_t number, uint64_t a0, uint64_t a1)
{
    struct insn in = insn_plain(4);
    b->v->regs[RAX] = number;
    b->v->regs[RBX] = a0;
    b->v->regs[RCX] = a1;
    assert_int_equal(bench_run(b, op_hypercall, &in), NO_FAULT);
    assert_int_equal(b->v->regs[RBX], a0);
    return b->v->code_mode == CODE_64 ? (int64_t)b->v->regs[RAX] : (int32_t)b->v->regs[RAX];
}

static int acknowledged;

static int ack(void *opaque)
{
    return ++acknowledged, 0x40;
}

/* A processor whose INTR pin is up, with a gate for vector 40h that goes nowhere worth following. */
static void pin_up(struct bench *b)
{
    acknowledged = 0;
    b->v->platform.intr_ack = ack;
    atomic_fetch_or(&b->v->pending, PENDING_INTR);
}

static bool delivers(struct bench *b)
{
    int before = acknowledged;
    jmp_buf unwind; /* there is no IDT: what the delivery ends in does not matter */
    b->v->unwind = &unwind;
    if (setjmp(unwind) == 0)
        events_take_pending(b->v);
    b->v->unwind = NULL;
    return acknowledged > before;
}

static void test_cpuid(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    struct cpuid_result r = cpuid_query(b->v, RING3_CPUID_SIGNATURE, 0);
    assert_int_equal(r.eax, RING3_CPUID_FEATURES);
    assert_memory_equal(&r.ebx, "ring", 4);
    assert_memory_equal(&r.ecx, "3rin", 4);
    assert_memory_equal(&r.edx, "g3ri", 4);
    assert_int_equal(cpuid_query(b->v, RING3_CPUID_FEATURES, 0).eax, 0x1f);
    assert_int_equal(cpuid_query(b->v, 0x40000102, 0).eax, 0);
    b->v->hypercall.hidden = true; /* the engine does not get them */
    assert_int_equal(cpuid_query(b->v, RING3_CPUID_SIGNATURE, 0).ebx, 0);
    assert_int_equal(call(b, RING3_HC_INTERRUPTS, 0, 0), -RING3_ENOSYS);
    assert_int_equal(call(b, 1, 0, 0), 0); /* KVM's are there */
}

static void test_who_may(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 3);
    for (uint32_t i = 0; i < RING3_HC_COUNT; i++)
        assert_int_equal(call(b, RING3_HC_BASE + i, RECORD, 0), -RING3_EPERM);
    bench_long(b, 0);
    assert_int_equal(call(b, RING3_HC_BASE + RING3_HC_COUNT, 0, 0), -RING3_ENOSYS);
    assert_int_equal(call(b, RING3_HC_BASE - 1, 0, 0), -RING3_ENOSYS);
    assert_int_equal(call(b, RING3_HC_BASE | 1ull << 32, 0, 0), -RING3_ENOSYS);
}

static void test_flag_masks(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    assert_int_equal(call(b, RING3_HC_FLAGS, RECORD, 0), 0);
    put64(b, RECORD, 0); /* enabled = waiting = 0 */
    pin_up(b);

    b->v->rflags_rest &= ~FLAG_IF;
    assert_false(events_must_take_pending(b->v));
    b->v->rflags_rest |= FLAG_IF;
    assert_true(events_must_take_pending(b->v));
    assert_false(delivers(b));
    assert_int_equal(get64(b, RECORD), 1ull << 32); /* waiting */
    assert_true(atomic_load(&b->v->pending) & PENDING_INTR);
    assert_false(events_must_take_pending(b->v)); /* and is not asked for again */

    put64(b, RECORD, 1ull << 32 | 1);
    assert_int_equal(call(b, RING3_HC_INTERRUPTS, 0, 0), 0);
    assert_int_equal(get64(b, RECORD), 1);
    assert_true(events_must_take_pending(b->v));
    assert_true(delivers(b));
}

static void test_flag_and_halt(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    assert_int_equal(call(b, RING3_HC_FLAGS, RECORD, 0), 0);
    put64(b, RECORD, 0);
    b->v->rflags_rest |= FLAG_IF;
    pin_up(b);
    assert_false(delivers(b));
    b->v->activity = ACTIVITY_HLT; /* HLT with interrupts held back waits */
    assert_false(vcpu_runnable(b->v));
    b->v->activity = ACTIVITY_RUNNING;

    b->v->rflags_rest &= ~FLAG_IF;
    assert_int_equal(call(b, RING3_HC_IDLE, 0, 0), 0);
    assert_int_equal(get64(b, RECORD), 1); /* enabled, nothing waits */
    assert_true(b->v->rflags_rest & FLAG_IF);
    assert_int_equal(b->v->activity, ACTIVITY_HLT);
    assert_true(vcpu_runnable(b->v));
    assert_true(delivers(b));
}

static void test_flag_forgotten(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    put64(b, RECORD, 0);
    b->v->rflags_rest |= FLAG_IF;
    assert_int_equal(call(b, RING3_HC_FLAGS, RECORD, 0), 0);
    pin_up(b);
    assert_false(delivers(b));
    assert_int_equal(call(b, RING3_HC_FLAGS, RING3_FLAGS_NONE, 0), 0);
    assert_true(events_must_take_pending(b->v));
    assert_true(delivers(b));

    bench_long(b, 0);
    assert_int_equal(call(b, RING3_HC_FLAGS, RECORD, 0), 0);
    vcpu_reset(b->v, true);
    b->v->rflags_rest |= FLAG_IF;
    pin_up(b);
    assert_true(delivers(b));
}

static void test_flag_addresses(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    uint64_t end = memory_ram_size(b->v->memory);
    assert_int_equal(call(b, RING3_HC_FLAGS, RECORD + 2, 0), -RING3_EINVAL);
    assert_int_equal(call(b, RING3_HC_FLAGS, BEYOND, 0), -RING3_EFAULT);
    assert_int_equal(call(b, RING3_HC_FLAGS, end - 4, 0), -RING3_EFAULT);
    assert_int_equal(call(b, RING3_HC_FLAGS, ~7ull, 0), -RING3_EFAULT);
    assert_int_equal(call(b, RING3_HC_FLAGS, end - 8, 0), 0);
}

static void op_put(struct bench *b, unsigned n, uint32_t kind, uint64_t where, uint64_t value)
{
    put64(b, OPS + n * 24, kind);
    put64(b, OPS + n * 24 + 8, where);
    put64(b, OPS + n * 24 + 16, value);
}

static void test_mmu_writes(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    op_put(b, 0, RING3_MMU_WRITE, TABLE, 0x1122334455667788);
    op_put(b, 1, RING3_MMU_WRITE, TABLE + 8, 0x99);
    op_put(b, 2, RING3_MMU_FLUSH, 0, 0);
    op_put(b, 3, RING3_MMU_FLUSH_PAGE, 0x5000, 0);
    op_put(b, 4, RING3_MMU_FLUSH_PAGE, 1ull << 63, 0); /* no address: nothing */
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 5), 5);
    assert_int_equal(get64(b, TABLE), 0x1122334455667788);
    assert_int_equal(get64(b, TABLE + 8), 0x99);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 0), 0);

    bench_protected(b, 0); /* entries of four bytes */
    b->v->cr4 &= ~CR4_PAE;
    put64(b, TABLE, ~0ull);
    op_put(b, 0, RING3_MMU_WRITE, TABLE + 4, 0x12345678);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 1), 1);
    assert_int_equal(get64(b, TABLE), 0x12345678ffffffff);
    op_put(b, 0, RING3_MMU_WRITE, TABLE + 4, 1ull << 32);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 1), -RING3_EINVAL);
}

/* An entry that the processor has cached is used until it is flushed, and not after. */
static void test_mmu_flush(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    put64(b, 0x110000, 0xabcdef);
    assert_int_equal(mem_read64(b->v, 0x310000), 0); /* cached now */
    op_put(b, 0, RING3_MMU_WRITE, PD_AT + 8, get64(b, PD_AT + 8) & 0xfff); /* the second 2 MiB are the first */
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 1), 1);
    assert_int_equal(mem_read64(b->v, 0x310000), 0);
    op_put(b, 0, RING3_MMU_FLUSH_PAGE, 0x310000, 0);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 1), 1);
    assert_int_equal(mem_read64(b->v, 0x310000), 0xabcdef);
}

static void test_mmu_switch(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    uint64_t cr3 = b->v->cr3;
    op_put(b, 0, RING3_MMU_SWITCH, 0, cr3 | 0x18);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 1), 1);
    assert_int_equal(b->v->cr3, cr3 | 0x18);
    op_put(b, 0, RING3_MMU_SWITCH, 0, 1ull << 60);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 1), -RING3_EINVAL);
    assert_int_equal(b->v->cr3, cr3 | 0x18);
}

static void test_mmu_refused(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    uint64_t end = memory_ram_size(b->v->memory);
    op_put(b, 0, RING3_MMU_FLUSH, 0, 0);
    const struct {
        uint32_t kind;
        uint64_t where, value;
        int error;
    } bad[] = {
        {RING3_MMU_WRITE, TABLE + 4, 1, RING3_EINVAL}, /* not aligned */
        {RING3_MMU_WRITE, BEYOND, 1, RING3_EFAULT},
        {RING3_MMU_WRITE, end, 1, RING3_EFAULT},
        {RING3_MMU_WRITE, ~7ull, 1, RING3_EFAULT},
        {4, 0, 0, RING3_EINVAL},
        {0xffffffff, 0, 0, RING3_EINVAL},
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        op_put(b, 1, bad[i].kind, bad[i].where, bad[i].value);
        assert_int_equal(call(b, RING3_HC_MMU, OPS, 2), 1); /* the first was carried out */
        assert_int_equal(call(b, RING3_HC_MMU, OPS + 24, 1), -bad[i].error);
    }
    op_put(b, 0, RING3_MMU_FLUSH, 0, 0);
    put64(b, OPS, 1ull << 32 | RING3_MMU_FLUSH); /* reserved */
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 1), -RING3_EINVAL);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, RING3_MMU_MAX + 1), -RING3_EINVAL);
    assert_int_equal(call(b, RING3_HC_MMU, OPS, ~0ull), -RING3_EINVAL);
    assert_int_equal(call(b, RING3_HC_MMU, BEYOND, 1), -RING3_EFAULT);
    assert_int_equal(call(b, RING3_HC_MMU, end - 8, 1), -RING3_EFAULT);
    assert_int_equal(call(b, RING3_HC_MMU, ~0ull - 8, 1), -RING3_EFAULT);
}

/* An operation may write to the operations that follow. */
static void test_mmu_writes_itself(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    op_put(b, 0, RING3_MMU_WRITE, OPS + 24, RING3_MMU_WRITE);
    op_put(b, 1, 77, TABLE, 0x1234); /* becomes a write */
    assert_int_equal(call(b, RING3_HC_MMU, OPS, 2), 2);
    assert_int_equal(get64(b, TABLE), 0x1234);
}

static char said[64];
static size_t room;

static size_t take(void *opaque, const uint8_t *bytes, size_t n)
{
    n = n < room ? n : room;
    memcpy(said, bytes, n);
    return n;
}

static void test_console(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    put64(b, RECORD, 0x6f6c6c6568); /* "hello" */
    assert_int_equal(call(b, RING3_HC_CONSOLE, RECORD, 5), 5); /* nobody listens: all is lost */
    b->v->platform.console_write = take;
    room = 64;
    assert_int_equal(call(b, RING3_HC_CONSOLE, RECORD, 5), 5);
    assert_memory_equal(said, "hello", 5);
    room = 2;
    assert_int_equal(call(b, RING3_HC_CONSOLE, RECORD, 5), 2);
    assert_int_equal(call(b, RING3_HC_CONSOLE, RECORD, 0), 0);
    assert_int_equal(call(b, RING3_HC_CONSOLE, RECORD, RING3_CONSOLE_MAX + 1), -RING3_EINVAL);
    assert_int_equal(call(b, RING3_HC_CONSOLE, RECORD, ~0ull), -RING3_EINVAL);
    assert_int_equal(call(b, RING3_HC_CONSOLE, BEYOND, 1), -RING3_EFAULT);
    assert_int_equal(call(b, RING3_HC_CONSOLE, memory_ram_size(b->v->memory) - 2, 5), -RING3_EFAULT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SYSTEM_TEST(test_cpuid),
        SYSTEM_TEST(test_who_may),
        SYSTEM_TEST(test_flag_masks),
        SYSTEM_TEST(test_flag_and_halt),
        SYSTEM_TEST(test_flag_forgotten),
        SYSTEM_TEST(test_flag_addresses),
        SYSTEM_TEST(test_mmu_writes),
        SYSTEM_TEST(test_mmu_flush),
        SYSTEM_TEST(test_mmu_switch),
        SYSTEM_TEST(test_mmu_refused),
        SYSTEM_TEST(test_mmu_writes_itself),
        SYSTEM_TEST(test_console),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
