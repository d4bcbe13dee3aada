/* The interpreter's loop and the cache of decoded code: order of events between instructions, what is remembered about
 * code and when it must be forgotten. */
#include "system_test.h"

#include "cpu/code_cache.h"
#include "engine/interpret/interpret.h"

#define PD_AT 0x8000u    /* 32-bit page directory, then its first two tables */
#define PT_AT 0x9000u
#define PAGE_AT 0x30000u /* physical page with code */
#define HANDLER_AT 0x38000u
#define DR6_BT (1u << 15)
#define DR6_BS (1u << 14)

static void code_written(void *opaque, gpa_t gpa, unsigned size)
{
    code_cache_written(opaque, gpa, size);
}

static int interpret_setup(void **state)
{
    system_setup(state);
    struct system *s = *state;
    struct error err = {0};
    if (!engine_interpret.attach(s->bench.v, &err))
        fail_msg("%s", err.message);
    memory_set_watcher(s->bench.memory, code_written, s->bench.v);
    s->bench.v->idtr = (struct table_register){.base = IDT_AT, .limit = 0x7ff};
    return 0;
}

static int interpret_teardown(void **state)
{
    struct system *s = *state;
    engine_interpret.detach(s->bench.v);
    return system_teardown(state);
}

static void map32(struct bench *b, uint32_t gva, uint32_t gpa, uint32_t bits)
{
    put32(b, PT_AT + (gva >> 12 & 0x7ff) * 4, gpa | bits);
}

/* Flat 32-bit mode at CPL 0 with 4 KiB pages: 8 MiB, identity. */
static void paging_on(struct bench *b)
{
    for (unsigned i = 0; i < 2; i++)
        put32(b, PD_AT + i * 4, (PT_AT + i * 0x1000) | 7);
    for (uint32_t gva = 0; gva < 8 * MiB; gva += PAGE_SIZE)
        map32(b, gva, gva, 7);
    b->v->cr3 = PD_AT;
    b->v->cr0 |= CR0_PG;
    mmu_flush(b->v);
    vcpu_mode_changed(b->v);
}

/* Handlers that jump to themselves, at HANDLER_AT + 16 * vector. */
static void handlers(struct bench *b)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        idt_put(b, vector, gate_make(0xe, 3, CODE(0), HANDLER_AT + 16 * vector, 0));
        memcpy(b->ram + HANDLER_AT + 16 * vector, "\xeb\xfe", 2);
    }
}

static void run(struct bench *b, uint64_t instructions)
{
    engine_interpret.run(b->v, b->v->instructions + instructions);
}

static unsigned vector_reached(const struct bench *b)
{
    uint64_t rip = b->v->rip;
    return rip >= HANDLER_AT && rip < HANDLER_AT + 0x1000 ? (unsigned)(rip - HANDLER_AT) / 16 : 256;
}

#define CODE_PUT(b, at, bytes) memcpy((b)->ram + (at), bytes, sizeof(bytes) - 1)

/* A branch with 16-bit operands goes to the low 64 KiB, wherever the page is mapped that it was linked in. */
static void narrow_branch_of_an_alias(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    paging_on(b);
    handlers(b);
    map32(b, 0xa000, PAGE_AT, 7);
    map32(b, 0x10a000, PAGE_AT, 7);
    CODE_PUT(b, PAGE_AT, "\x90\x66\xeb\xfc"); /* 1: nop; data16 jmp 1b */
    b->v->rip = 0xa000;
    run(b, 100);
    assert_in_range(b->v->rip, 0xa000, 0xa003);
    b->v->rip = 0x10a000;
    run(b, 100);
    assert_in_range(b->v->rip, 0xa000, 0xa003);
}

/* The same for 16-bit code beyond 64 KiB. */
static void branch_of_16_bit_code_beyond_64k(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    paging_on(b);
    map32(b, 0xa000, PAGE_AT, 7);
    map32(b, 0x10a000, PAGE_AT, 7);
    CODE_PUT(b, PAGE_AT, "\x90\xeb\xfd");
    b->v->seg[SEG_CS].attr &= ~SEG_ATTR_DB;
    vcpu_mode_changed(b->v);
    b->v->rip = 0xa000;
    run(b, 100);
    assert_in_range(b->v->rip, 0xa000, 0xa002);
    b->v->rip = 0x10a000;
    run(b, 100);
    assert_in_range(b->v->rip, 0xa000, 0xa002);
}

/* SDM vol. 3, table 6-2: traps of the previous instruction come before breakpoints of the next, and before NMI and INTR. */
static void trap_before_breakpoint(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    handlers(b);
    CODE_PUT(b, CODE_AT, "\x90\x90\xeb\xfe");
    b->v->dr[0] = CODE_AT;
    b->v->dr[7] = 0x401;
    vcpu_mode_changed(b->v);
    b->v->dr6_pending = DR6_BT; /* a task switch to a TSS with T leaves this */
    run(b, 1);
    assert_int_equal(vector_reached(b), VECTOR_DB);
    assert_int_equal(b->v->dr[6] & 0xf00f, DR6_BT);
    assert_int_equal(b->v->regs[RSP], STACK_AT(0) - 12);
}

static void trap_before_nmi(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    handlers(b);
    CODE_PUT(b, CODE_AT, "\xeb\xfe");
    b->v->dr6_pending = DR6_BT;
    vcpu_raise(b->v, PENDING_NMI);
    run(b, 1);
    /* The NMI arrives before the debug handler's first instruction. */
    assert_int_equal(vector_reached(b), VECTOR_NMI);
    assert_int_equal(get32(b, (uint32_t)b->v->regs[RSP]), HANDLER_AT + 16 * VECTOR_DB);
}

/* The limit of CS is looked at before the page tables. */
static void fetch_beyond_limit_of_an_absent_page(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    paging_on(b);
    handlers(b);
    map32(b, 0x50000, 0, 0);
    b->v->seg[SEG_CS].limit = 0x4ffff;
    vcpu_mode_changed(b->v);
    b->v->rip = 0x50000;
    run(b, 1);
    assert_int_equal(vector_reached(b), VECTOR_GP);
}

/* An instruction near the limit was kept with its length; a shorter one in its place, with a lower limit, is no fault. */
static void shorter_instruction_at_the_limit(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    handlers(b);
    CODE_PUT(b, PAGE_AT + 0xff0, "\x0f\x1f\x00\xf4");
    b->v->seg[SEG_CS].limit = PAGE_AT + 0xff3;
    vcpu_mode_changed(b->v);
    b->v->rip = PAGE_AT + 0xff0;
    run(b, 1);
    assert_int_equal(b->v->rip, PAGE_AT + 0xff3);
    memory_write(b->memory, PAGE_AT + 0xff0, "\x90", 1);
    b->v->seg[SEG_CS].limit = PAGE_AT + 0xff0;
    b->v->rip = PAGE_AT + 0xff0;
    run(b, 1);
    assert_int_equal(b->v->rip, PAGE_AT + 0xff1);
}

/* What is undefined by its first byte is so at the end of the canonical addresses, too: no byte beyond is fetched. */
static void undefined_at_the_canonical_end(void **state)
{
    struct bench *b = *state;
    bench_long(b, 0);
    for (unsigned vector = 0; vector < 32; vector++) {
        idt_put64(b, vector, gate_make(0xe, 0, CODE64(0), HANDLER_AT + 16 * vector, 0), 0);
        memcpy(b->ram + HANDLER_AT + 16 * vector, "\xeb\xfe", 2);
    }
    put64(b, PML4_AT + 255 * 8, (PML4_AT + 0x1000) | 7);
    put64(b, PML4_AT + 256 * 8, (PML4_AT + 0x1000) | 7);
    put64(b, PML4_AT + 0x1000 + 511 * 8, (PML4_AT + 0x2000) | 7);
    put64(b, PML4_AT + 0x2000 + 511 * 8, 0x200000 | 0x87);
    b->ram[0x3fffff] = 0x06; /* PUSH ES */
    b->v->rip = 0x7fffffffffff;
    run(b, 1);
    assert_int_equal(vector_reached(b), VECTOR_UD);
}

/* IA32_DEBUGCTL.BTF: TF traps after branches only; delivering the trap clears BTF. */
static void single_step_on_branches(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    handlers(b);
    CODE_PUT(b, CODE_AT, "\x90\x90\x74\x00\x90\xeb\x02\x90\x90\xf4"); /* nop nop jz nop jmp */
    rflags_set(b->v, FLAG_TF);
    vcpu_mode_changed(b->v);
    assert_true(msr_write(b->v, 0x1d9, DEBUGCTL_BTF));
    run(b, 20);
    assert_int_equal(vector_reached(b), VECTOR_DB);
    assert_int_equal(get32(b, (uint32_t)b->v->regs[RSP]), CODE_AT + 9);
    assert_true(b->v->dr[6] & DR6_BS);
    uint64_t debugctl;
    assert_true(msr_read(b->v, 0x1d9, &debugctl));
    assert_int_equal(debugctl, 0);
}

/* REP STOSB over its own code, and over the next instruction, which then is the new one. */
static void code_written_by_string_instruction(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    handlers(b);
    for (unsigned round = 0; round < 2; round++) {
        CODE_PUT(b, CODE_AT, "\xf3\xaa\x0f\x0b\x0f\x0b\xf4"); /* rep stosb; ud2; ud2; hlt */
        memory_notify_written(b->memory, CODE_AT, 8);
        b->v->activity = ACTIVITY_RUNNING;
        b->v->regs[RAX] = 0x90;
        b->v->regs[RCX] = 4;
        b->v->regs[RDI] = CODE_AT + 2;
        b->v->rip = CODE_AT;
        run(b, 10);
        assert_int_equal(b->v->activity, ACTIVITY_HLT);
        assert_int_equal(b->v->rip, CODE_AT + 7);
    }
}

static bool never_interested(struct vcpu *v, gpa_t gpa, unsigned size)
{
    v->rmw.gpa[0] = gpa << 8 | size; /* any place that a test can read */
    return false;
}

/* Data on the page of the code that writes it: nothing is decoded anew. A write to a byte of an instruction discards. */
static void data_beside_code(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    handlers(b);
    uint8_t *flags = memory_page(b->memory, CODE_AT).flags;
    /* inc dword [CODE_AT + 0x800]; dec ecx; jnz -9; hlt */
    CODE_PUT(b, CODE_AT, "\xff\x05\x00\x08\x01\x00\x49\x75\xf7\xf4");
    b->v->regs[RCX] = 1000;
    b->v->code_written = never_interested;
    run(b, 4000);
    assert_int_equal(b->v->activity, ACTIVITY_HLT);
    assert_int_equal(get32(b, CODE_AT + 0x800), 1000);
    assert_int_equal(b->v->count.code_invalidations, 0);
    assert_int_equal(b->v->rmw.gpa[0], (CODE_AT + 0x800) << 8 | 4);
    assert_true(*flags & PAGE_CODE);
    uint8_t nop = 0x90;
    assert_true(memory_write(b->memory, CODE_AT + 0xa, &nop, 1)); /* right behind the last instruction */
    assert_int_equal(b->v->count.code_invalidations, 0);
    assert_true(memory_write(b->memory, CODE_AT + 9, &nop, 1));
    assert_int_equal(b->v->count.code_invalidations, 1);
    assert_false(*flags & PAGE_CODE);
    uint64_t generation = b->v->code_generation;
    code_cache_reset(b->v);
    assert_int_equal(b->v->code_generation, generation + 1);
    assert_true(code_cache_watch(b->v, CODE_AT));
    assert_true(*flags & PAGE_CODE);
    code_cache_reset(b->v);
    assert_false(*flags & PAGE_CODE);
    b->v->code_written = NULL;
}

/* Another thread has written: noted, and taken before the next run. More pages than can be noted are no matter. */
static void code_written_by_another_thread(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    for (unsigned pages = 1; pages < 400; pages += 398) {
        for (unsigned round = 0; round < 2; round++) {
            memcpy(b->ram + CODE_AT, round == 0 ? "\xb0\x01\xf4" : "\xb0\x02\xf4", 3); /* mov al, 1 or 2; hlt */
            for (unsigned i = 0; i < pages; i++)
                code_cache_note_written(b->v, (CODE_AT >> PAGE_SHIFT) + i);
            code_cache_note_written(b->v, CODE_AT >> PAGE_SHIFT);
            b->v->activity = ACTIVITY_RUNNING;
            b->v->rip = CODE_AT;
            run(b, 10);
            assert_int_equal(b->v->activity, ACTIVITY_HLT);
            assert_int_equal(b->v->regs[RAX] & 0xff, round + 1);
        }
    }
}

static gpa_t observed[400];
static unsigned observed_count;

static void observe_written(struct vcpu *v, gpa_t gpa, unsigned size)
{
    assert_int_equal(size, PAGE_SIZE);
    if (observed_count < ARRAY_LEN(observed))
        observed[observed_count++] = gpa;
}

static void observe_nothing(struct vcpu *v)
{
}

/* The same for who keeps translations outside of this process, of code and of tables: it hears of each page, or of all that it
 * watches if there were too many to note. */
static void watched_page_written_by_another_thread(void **state)
{
    static const struct mmu_observer observer = {.written = observe_written, .flush = observe_nothing};
    struct bench *b = *state;
    bench_protected(b, 0);
    b->v->mmu_observer = &observer;
    for (unsigned pages = 1; pages < 400; pages += 398) {
        observed_count = 0;
        memory_watch(b->memory, 0x30, PAGE_DIRECT);
        memory_watch(b->memory, 0x50, PAGE_TABLE);
        for (unsigned i = 0; i < pages; i++)
            code_cache_note_written(b->v, 0x80 + i);
        code_cache_note_written(b->v, 0x30);
        code_cache_note_written(b->v, 0x50);
        code_cache_take_written(b->v);
        bool direct = false, table = false;
        for (unsigned i = 0; i < observed_count; i++) {
            direct |= observed[i] == 0x30000;
            table |= observed[i] == 0x50000;
        }
        assert_true(direct);
        assert_true(table);
    }
    b->v->mmu_observer = NULL;
}

/* ---- instructions of all kinds on a page of a device, and across its edge with RAM ---- */

#define DEVICE_AT 0x100000u

static uint8_t device[PAGE_SIZE];

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, device + offset, size);
    return value;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    memcpy(device + offset, &value, size);
}

static void device_exit(struct vcpu *v, struct exit *exit)
{
    struct bench *b = v->exit_opaque;
    if (exit->reason == EXIT_MMIO_READ)
        exit->value = memory_mmio_read(b->memory, exit->address, exit->size);
    else if (exit->reason == EXIT_MMIO_WRITE)
        memory_mmio_write(b->memory, exit->address, exit->size, exit->value);
    system_exit(v, exit);
}

/* EDI and ESP are `at`, ESI is 6 less, ECX is 4. The 16 bytes around the edge are 10h, 11h ... before. */
static const struct device_case {
    const char *name;
    uint8_t code[16]; /* ends with HLT */
    uint32_t at;
    uint32_t eax;
    uint32_t eax_after;
    const char *after; /* the 16 bytes */
} device_cases[] = {
    {"push", "\x68\x44\x33\x22\x11\xf4", DEVICE_AT + 6, 0, 0,
     "\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x44\x33\x22\x11\x1e\x1f"},
    {"push across", "\x68\x44\x33\x22\x11\xf4", DEVICE_AT + 2, 0, 0,
     "\x10\x11\x12\x13\x14\x15\x44\x33\x22\x11\x1a\x1b\x1c\x1d\x1e\x1f"},
    {"pop", "\x58\xf4", DEVICE_AT + 1, 0, 0x1c1b1a19, NULL},
    {"pop across", "\x58\xf4", DEVICE_AT - 1, 0, 0x1a191817, NULL},
    {"call", "\xe8\x00\x00\x00\x00\xf4", DEVICE_AT + 4, 0, 0,
     "\x10\x11\x12\x13\x14\x15\x16\x17\x05\x00\x01\x00\x1c\x1d\x1e\x1f"},
    {"xchg across", "\x87\x07\xf4", DEVICE_AT - 3, 0xaabbccdd, 0x18171615,
     "\x10\x11\x12\x13\x14\xdd\xcc\xbb\xaa\x19\x1a\x1b\x1c\x1d\x1e\x1f"},
    {"cmpxchg", "\x0f\xb1\x3f\xf4", DEVICE_AT + 1, 0x1c1b1a19, 0x1c1b1a19,
     "\x10\x11\x12\x13\x14\x15\x16\x17\x18\x01\x00\x10\x00\x1d\x1e\x1f"},
    {"lock add across", "\xf0\x01\x07\xf4", DEVICE_AT - 2, 0x01010101, 0x01010101,
     "\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1a\x1b\x1c\x1d\x1e\x1f"},
    {"rep movsb across", "\xf3\xa4\xf4", DEVICE_AT - 2, 0, 0,
     "\x10\x11\x12\x13\x14\x15\x10\x11\x12\x13\x1a\x1b\x1c\x1d\x1e\x1f"},
    {"rep stosb across", "\xf3\xaa\xf4", DEVICE_AT - 2, 0x55, 0x55,
     "\x10\x11\x12\x13\x14\x15\x55\x55\x55\x55\x1a\x1b\x1c\x1d\x1e\x1f"},
    {"movups across", "\x0f\x10\x47\xf8\x0f\x57\xc0\x0f\x11\x47\xf8\xf4", DEVICE_AT + 2, 0, 0,
     "\x10\x11\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
    {"fstp across", "\xdb\xe3\xd9\xe8\xdd\x1f\xf4", DEVICE_AT - 4, 0, 0,
     "\x10\x11\x12\x13\x00\x00\x00\x00\x00\x00\xf0\x3f\x1c\x1d\x1e\x1f"},
    {"pop m32", "\x8f\x47\xfd\xf4", DEVICE_AT + 2, 0, 0,
     "\x10\x11\x12\x13\x14\x15\x16\x1a\x1b\x1c\x1d\x1b\x1c\x1d\x1e\x1f"},
    {"sgdt across", "\x0f\x01\x07\xf4", DEVICE_AT - 3, 0, 0,
     "\x10\x11\x12\x13\x14\xff\x00\x00\x10\x00\x00\x1b\x1c\x1d\x1e\x1f"},
};

static void device_pages(void **state)
{
    struct bench *b = *state;
    struct error err = {0};
    static const struct io_ops ops = {.read = device_read, .write = device_write, .name = "test"};
    assert_true(memory_map_mmio(b->memory, DEVICE_AT, PAGE_SIZE, &ops, device, &err));
    b->v->exit = device_exit;
    for (unsigned i = 0; i < ARRAY_LEN(device_cases); i++) {
        const struct device_case *c = &device_cases[i];
        bench_protected(b, 0);
        handlers(b);
        b->v->cr4 = CR4_OSFXSR;
        for (unsigned n = 0; n < 8; n++) {
            b->ram[DEVICE_AT - 8 + n] = (uint8_t)(0x10 + n);
            device[n] = (uint8_t)(0x18 + n);
        }
        memory_write(b->memory, CODE_AT, c->code, sizeof c->code);
        b->v->regs[RAX] = c->eax;
        b->v->regs[RCX] = 4;
        b->v->regs[RDI] = c->at;
        b->v->regs[RSP] = c->at;
        b->v->regs[RSI] = c->at - 6;
        run(b, 20);
        if (b->v->activity != ACTIVITY_HLT || b->v->regs[RAX] != c->eax_after)
            fail_msg("%s: EAX is %#llx", c->name, (unsigned long long)b->v->regs[RAX]);
        if (c->after != NULL && (memcmp(b->ram + DEVICE_AT - 8, c->after, 8) || memcmp(device, c->after + 8, 8)))
            fail_msg("%s: other bytes are stored", c->name);
    }
}

/* HLT with TF: the trap wakes the processor. */
static void trap_after_hlt(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    handlers(b);
    CODE_PUT(b, CODE_AT, "\xf4");
    rflags_set(b->v, FLAG_TF);
    vcpu_mode_changed(b->v);
    run(b, 2);
    assert_int_equal(b->v->activity, ACTIVITY_RUNNING);
    assert_int_equal(vector_reached(b), VECTOR_DB);
}

#define INTERPRET_TEST(name) cmocka_unit_test_setup_teardown(name, interpret_setup, interpret_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        INTERPRET_TEST(narrow_branch_of_an_alias),
        INTERPRET_TEST(branch_of_16_bit_code_beyond_64k),
        INTERPRET_TEST(trap_before_breakpoint),
        INTERPRET_TEST(trap_before_nmi),
        INTERPRET_TEST(fetch_beyond_limit_of_an_absent_page),
        INTERPRET_TEST(shorter_instruction_at_the_limit),
        INTERPRET_TEST(undefined_at_the_canonical_end),
        INTERPRET_TEST(single_step_on_branches),
        INTERPRET_TEST(code_written_by_string_instruction),
        INTERPRET_TEST(data_beside_code),
        INTERPRET_TEST(code_written_by_another_thread), INTERPRET_TEST(watched_page_written_by_another_thread),
        INTERPRET_TEST(device_pages),
        INTERPRET_TEST(trap_after_hlt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
