/* The processes that engine trap runs guest code in: what stops them, that the host's system calls are never made for
 * what runs there, and that the filter ends them should one be made after all. The code is 32-bit or 64-bit machine
 * code, put into the file that stands for guest RAM. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/trap/sandbox.h"

#define AT 0x10000000ull
#define ELSEWHERE 0x20000000ull
#define CS64 0x33
#define DS 0x2b

struct bench {
    int files[2];
    uint8_t *ram;
    struct sandboxes *family;
    struct sandbox *box;
};

static int setup(void **state)
{
    static struct bench bench;
    struct bench *b = &bench;
    struct error err = {""};
    *state = b;
    for (unsigned i = 0; i < 2; i++) {
        b->files[i] = memfd_create("test", MFD_CLOEXEC);
        if (b->files[i] < 0 || ftruncate(b->files[i], 0x10000) != 0)
            return -1;
    }
    b->ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED, b->files[SANDBOX_RAM], 0);
    b->family = sandboxes_create(b->files, &err);
    b->box = b->family != NULL ? sandbox_create(b->family, &err) : NULL;
    if (b->box == NULL)
        print_error("%s\n", err.message);
    return b->box == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;
    sandbox_destroy(b->box);
    sandboxes_destroy(b->family);
    munmap(b->ram, 0x10000);
    close(b->files[0]);
    close(b->files[1]);
    return 0;
}

static struct sandbox_regs regs_at(uint64_t rip, unsigned cs)
{
    return (struct sandbox_regs){.rip = rip,
                                 .cs = cs,
                                 .ss = DS,
                                 .ds = DS,
                                 .es = DS,
                                 .eflags = 0x202,
                                 .rax = 1,
                                 .rdi = 1,
                                 .rsi = AT,
                                 .rdx = 5,
                                 .rbx = 1,
                                 .rcx = AT};
}

static struct sandbox_stop run(struct bench *b, const void *code, size_t size, struct sandbox_regs *regs)
{
    memcpy(b->ram, code, size);
    sandbox_map(b->box, AT, PAGE_SIZE, SANDBOX_RAM, 0, PROT_READ | PROT_EXEC);
    assert_true(sandbox_commit(b->box));
    return sandbox_run(b->box, regs);
}

/* write(), getpid(), exit_group(), mmap(), ptrace() and a number that is none, in both ways to count them. */
static void system_calls_stop(void **state)
{
    struct bench *b = *state;
    static const struct {
        uint8_t code[2];
        unsigned cs;
    } ways[] = {{{0x0f, 0x05}, CS64}, {{0xcd, 0x80}, CS64}, {{0xcd, 0x80}, 0x23}};
    static const uint64_t numbers[] = {1, 4, 9, 20, 39, 56, 60, 101, 231, 252, 123456};
    for (unsigned w = 0; w < 3; w++) {
        for (unsigned i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
            struct sandbox_regs regs = regs_at(AT, ways[w].cs);
            regs.rax = numbers[i];
            struct sandbox_stop stop = run(b, ways[w].code, 2, &regs);
            assert_int_equal(stop.kind, SANDBOX_SYSCALL);
            assert_int_equal(regs.rip, AT + 2);
            assert_int_equal(regs.orig_rax, numbers[i]);
        }
    }
}

static void privileged_instructions_stop(void **state)
{
    struct bench *b = *state;
    static const uint8_t codes[][3] = {
        {0xf4}, {0xfa}, {0xfb}, {0xe4, 0x60}, {0xee}, {0x0f, 0x20, 0xc0}, {0x0f, 0x31}, {0x0f, 0x01, 0x13}};
    for (unsigned i = 0; i < sizeof codes / sizeof codes[0]; i++) { /* HLT, CLI, STI, IN, OUT, MOV CR0, RDTSC, LGDT */
        struct sandbox_regs regs = regs_at(AT, 0x23);
        struct sandbox_stop stop = run(b, codes[i], 3, &regs);
        assert_int_equal(stop.kind, SANDBOX_SIGNAL);
        assert_int_equal(stop.signal, SIGSEGV);
        assert_int_equal(regs.rip, AT);
    }
}

/* Nothing is there but what was mapped: neither the monitor's memory nor a stack, a vDSO, a C library. */
static void nothing_else_is_there(void **state)
{
    struct bench *b = *state;
    static const uint8_t load[] = {0x48, 0x8b, 0x07}; /* mov (%rdi), %rax */
    const uint64_t places[] = {0,
                               0x400000,
                               (uintptr_t)b,
                               (uintptr_t)b->ram,
                               (uintptr_t)&regs_at,
                               (uintptr_t)&printf,
                               (uintptr_t)places,
                               0x7ffff7fc1000ull,
                               0xffffffffff600000ull,
                               ELSEWHERE};
    for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct sandbox_regs regs = regs_at(AT, CS64);
        regs.rdi = places[i];
        struct sandbox_stop stop = run(b, load, sizeof load, &regs);
        assert_int_equal(stop.kind, SANDBOX_SIGNAL);
        assert_int_equal(stop.signal, SIGSEGV);
        assert_int_equal(regs.rip, AT);
    }
}

static void writes_fault_where_they_may_not(void **state)
{
    struct bench *b = *state;
    static const uint8_t store[] = {0xc6, 0x01, 0x77, 0xf4}; /* movb $0x77, (%ecx); hlt */
    struct sandbox_regs regs = regs_at(AT, 0x23);
    struct sandbox_stop stop = run(b, store, sizeof store, &regs);
    assert_int_equal(stop.address, AT);
    assert_int_equal(regs.rip, AT);
    sandbox_map(b->box, ELSEWHERE, PAGE_SIZE, SANDBOX_RAM, PAGE_SIZE, PROT_READ | PROT_WRITE);
    assert_true(sandbox_commit(b->box));
    regs = regs_at(AT, 0x23);
    regs.rcx = ELSEWHERE + 5;
    stop = sandbox_run(b->box, &regs);
    assert_int_equal(regs.rip, AT + 3);
    assert_int_equal(b->ram[PAGE_SIZE + 5], 0x77);
    sandbox_protect(b->box, ELSEWHERE, PAGE_SIZE, PROT_READ);
    assert_true(sandbox_commit(b->box));
    regs = regs_at(AT, 0x23);
    regs.rcx = ELSEWHERE + 5;
    stop = sandbox_run(b->box, &regs);
    assert_int_equal(regs.rip, AT);
    assert_int_equal(stop.address, ELSEWHERE + 5);
}

/* Code that is read at one address and executed at another. */
static void code_begins_elsewhere(void **state)
{
    struct bench *b = *state;
    static const uint8_t load[] = {0xa1, 0, 0, 0, 0x10, 0xf4}; /* mov AT, %eax; hlt */
    memcpy(b->ram, "data", 4);
    memcpy(b->ram + PAGE_SIZE, load, sizeof load);
    assert_true(sandbox_set_code_base(b->box, (uint32_t)(ELSEWHERE - AT)));
    sandbox_map(b->box, AT, PAGE_SIZE, SANDBOX_RAM, 0, PROT_READ);
    sandbox_map(b->box, ELSEWHERE, PAGE_SIZE, SANDBOX_RAM, PAGE_SIZE, PROT_READ | PROT_EXEC);
    assert_true(sandbox_commit(b->box));
    struct sandbox_regs regs = regs_at(AT, SANDBOX_CS32);
    sandbox_run(b->box, &regs);
    assert_int_equal(regs.rip, AT + 5);
    assert_memory_equal(&regs.rax, "data", 4);
}

/* The filter: were a system call carried out, nearly all would end the process. */
static void filter_ends_it(void **state)
{
    struct bench *b = *state;
    static const uint8_t halt[] = {0xf4};
    struct sandbox_regs regs = regs_at(AT, 0x23);
    run(b, halt, 1, &regs);
    sandbox_map(b->box, ELSEWHERE, PAGE_SIZE, SANDBOX_RAM, 0, PROT_READ | PROT_WRITE | PROT_EXEC);
    assert_false(sandbox_commit(b->box));
    assert_false(sandbox_commit(b->box)); /* it is gone */
}

static void *kick_soon(void *opaque)
{
    struct bench *b = opaque;
    usleep(20000);
    sandboxes_kick(b->family);
    return NULL;
}

static void kick_stops_a_loop(void **state)
{
    struct bench *b = *state;
    static const uint8_t loop[] = {0xeb, 0xfe};
    pthread_t thread;
    sandboxes_run_begin(b->family, b->box);
    assert_int_equal(pthread_create(&thread, NULL, kick_soon, b), 0);
    struct sandbox_regs regs = regs_at(AT, 0x23);
    struct sandbox_stop stop = run(b, loop, 2, &regs);
    pthread_join(thread, NULL);
    sandboxes_run_end(b->family);
    assert_int_equal(stop.kind, SANDBOX_KICK);
    assert_int_equal(regs.rip, AT);
}

/* The host's kernel answers calls to its vsyscall page, if it has one, by itself. */
static void vsyscalls_stop(void **state)
{
    struct bench *b = *state;
    static const uint8_t call[] = {0xff, 0xd0, 0xf4}; /* call *%rax; hlt */
    static const uint64_t entries[] = {0xffffffffff600000ull, 0xffffffffff600400ull, 0xffffffffff600800ull};
    sandbox_map(b->box, ELSEWHERE, PAGE_SIZE, SANDBOX_RAM, PAGE_SIZE, PROT_READ | PROT_WRITE);
    for (unsigned i = 0; i < 3; i++) {
        struct sandbox_regs regs = regs_at(AT, CS64);
        regs.rax = entries[i];
        regs.rdi = regs.rsi = ELSEWHERE;
        regs.rsp = ELSEWHERE + 0x800;
        struct sandbox_stop stop = run(b, call, sizeof call, &regs);
        assert_int_equal(stop.kind, SANDBOX_SIGNAL);
        assert_true(stop.signal == SIGSYS || stop.signal == SIGSEGV);
        if (stop.signal == SIGSYS) {
            assert_int_equal(stop.address, entries[i]);
            assert_int_equal(regs.rip, AT + 2);
            assert_int_equal(regs.rsp, ELSEWHERE + 0x800);
        } else {
            assert_int_equal(regs.rip, entries[i]);
        }
        assert_int_equal(*(uint64_t *)(b->ram + PAGE_SIZE), 0); /* no time of day */
    }
}

static void addresses_that_cannot_be_mapped(void **state)
{
    struct bench *b = *state;
    assert_false(sandboxes_can_map(b->family, 0x7ffffffff000ull));
    assert_false(sandboxes_can_map(b->family, 0xffff800000000000ull));
    assert_true(sandboxes_can_map(b->family, 0xfffff000ull));
    assert_true(sandboxes_can_map(b->family, 0x10000ull));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(system_calls_stop),
        TEST(privileged_instructions_stop),
        TEST(nothing_else_is_there),
        TEST(writes_fault_where_they_may_not),
        TEST(code_begins_elsewhere),
        TEST(filter_ends_it),
        TEST(kick_stops_a_loop),
        TEST(vsyscalls_stop),
        TEST(addresses_that_cannot_be_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
