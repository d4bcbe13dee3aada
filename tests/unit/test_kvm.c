/* The engine `kvm` on the host's /dev/kvm, against the interpreter: small programs from the same state must leave the same
 * state and the same exits. The programs are such that a back end which emulates guests can run them, too: code of level 0.
 * Where there is no usable /dev/kvm the reason is printed and the status is 77. */
#include "system_test.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/interpret/interpret.h"
#include "engine/kvm/internal.h"
#include "engine/kvm/kvm.h"
#include "host/clock.h"

#define END_PORT 0xf4u
#define MMIO_AT 0x300000u /* within RAM: hides it */
#define ROM_AT 0x310000u
#define DATA_AT 0x28000u
#define HANDLER_AT 0x38000u
#define RECORDS 512u

struct machine {
    struct system system; /* first */
    struct exit records[RECORDS];
    unsigned count;
    int vectors[8]; /* that intr_ack gives, in order */
    unsigned vector_count, vector_next;
    uint8_t device[16];
    uint8_t *rom;
};

/* ---- the machine ---- */

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, ((struct machine *)dev)->device + (offset & 8), size);
    return value + offset;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    memcpy(((struct machine *)dev)->device + (offset & 8), &value, size);
}

static const struct io_ops device_ops = {.read = device_read, .write = device_write, .name = "device"};

static void note_exit(struct vcpu *v, struct exit *exit)
{
    struct machine *m = v->exit_opaque;
    switch (exit->reason) {
    case EXIT_IO_IN:
        exit->value = (0x01020304u + 0x11u * m->count) & (exit->size == 4 ? ~0u : (1u << 8 * exit->size) - 1);
        break;
    case EXIT_MMIO_READ:
        exit->value = memory_mmio_read(m->system.bench.memory, exit->address, exit->size);
        break;
    case EXIT_MMIO_WRITE:
        memory_mmio_write(m->system.bench.memory, exit->address, exit->size, exit->value);
        break;
    case EXIT_IO_OUT:
        if (exit->address == END_PORT)
            vcpu_raise(v, PENDING_STOP);
        if (exit->address == 0x99) /* a device that asks for an interrupt */
            vcpu_raise(v, PENDING_INTR);
        if (exit->address == 0x98)
            vcpu_raise(v, PENDING_NMI);
        break;
    case EXIT_HLT:
    case EXIT_INTERRUPT:
    case EXIT_NMI:
    case EXIT_MSR_READ:
    case EXIT_MSR_WRITE:
    case EXIT_TRIPLE_FAULT:
        break;
    default:
        return; /* the hardware does not show it */
    }
    assert_true(m->count < RECORDS);
    m->records[m->count++] = *exit;
}

static int on_intr_ack(void *opaque)
{
    struct machine *m = opaque;
    int vector = m->vector_next < m->vector_count ? m->vectors[m->vector_next++] : -1;
    if (m->vector_next == m->vector_count)
        atomic_fetch_and(&m->system.bench.v->pending, ~PENDING_INTR);
    return vector;
}

static void on_code_written(void *opaque, gpa_t gpa, unsigned size)
{
    mmu_written(opaque, gpa, size);
}

static int setup(void **state)
{
    void *made;
    system_setup(&made);
    struct machine *m = test_calloc(1, sizeof *m);
    m->system = *(struct system *)made;
    test_free(made);
    struct bench *b = &m->system.bench;
    struct vcpu *v = b->v;
    struct error err = {""};
    v->model = &b->model; /* it has moved */
    system_model(&m->system, "max");
    if (!engine_kvm.limit(&b->model, &err))
        fail_msg("%s", err.message);
    v->model = &b->model;
    v->tsc_khz = b->model.tsc_khz;
    v->maxphyaddr = b->model.maxphyaddr;
    v->exit = note_exit;
    v->exit_opaque = m;
    v->platform.opaque = m;
    v->platform.intr_ack = on_intr_ack;
    m->rom = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
    memset(m->rom, 0x5a, PAGE_SIZE);
    memory_map_mmio(b->memory, MMIO_AT, PAGE_SIZE, &device_ops, m, NULL);
    memory_map_rom(b->memory, ROM_AT, PAGE_SIZE, m->rom, NULL);
    memory_set_watcher(b->memory, on_code_written, v);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    struct machine *m = *state;
    vcpu_destroy(m->system.bench.v);
    memory_destroy(m->system.bench.memory);
    free(m->rom);
    test_free(m);
    return 0;
}

/* ---- one program, twice ---- */

struct program {
    const char *code;
    size_t size;
    bool wide;              /* 64-bit mode; else flat 32-bit */
    bool real;
    void (*prepare)(struct machine *m);
    const int *vectors;     /* ended by 0 */
    bool segments_may_differ; /* in what loading does not define */
};
#define PROGRAM(bytes, ...) {.code = bytes, .size = sizeof(bytes) - 1, ##__VA_ARGS__}

static void start(struct machine *m, const struct program *p)
{
    struct bench *b = &m->system.bench;
    struct vcpu *v = b->v;
    memset(b->ram, 0, 3 * MiB);
    memset(m->device, 0x21, sizeof m->device);
    m->count = m->vector_count = m->vector_next = 0;
    for (const int *vector = p->vectors; vector != NULL && *vector != 0; vector++)
        m->vectors[m->vector_count++] = *vector;
    atomic_store(&v->pending, 0);
    vcpu_reset(v, false);
    bench_tables(b);
    v->gdtr = (struct table_register){.base = GDT_AT, .limit = GDT_ENTRIES * 8 - 1};
    v->idtr = (struct table_register){.base = IDT_AT, .limit = 0xfff};
    if (p->wide)
        bench_long(b, 0);
    else if (!p->real)
        bench_protected(b, 0);
    if (p->real) {
        segment_load_real(v, SEG_CS, CODE_AT >> 4);
        segment_load_real(v, SEG_DS, DATA_AT >> 4);
        v->rip = 0;
        v->regs[RSP] = 0x1000;
        vcpu_mode_changed(v);
    }
    /* handlers: out to a port of the vector's number, and back */
    for (unsigned vector = 0; vector < 64; vector++) {
        uint32_t at = HANDLER_AT + 16 * vector;
        uint8_t *code = b->ram + at;
        unsigned i = 0;
        code[i++] = 0xe6;
        code[i++] = (uint8_t)vector;
        if (vector == VECTOR_GP || vector == VECTOR_PF) { /* drop the error code, skip the instruction: all have two bytes */
            memcpy(code + i, p->wide ? "\x48\x83\xc4\x08\x48\x83\x04\x24\x02" : "\x90\x83\xc4\x04\x90\x83\x04\x24\x02", 9);
            i += 9;
        }
        memcpy(code + i, p->wide ? "\x48\xcf" : "\xcf\x90", 2);
        if (p->wide)
            idt_put64(b, vector, gate_make(0xe, 0, CODE64(0), at, 0), 0);
        else
            idt_put(b, vector, gate_make(0xe, 0, CODE(0), at, 0));
    }
    memcpy(b->ram + CODE_AT, p->code, p->size);
    memcpy(b->ram + CODE_AT + p->size, "\xe6\xf4\xeb\xfe", 4); /* out %al, $0xf4; jmp . */
    if (p->prepare != NULL)
        p->prepare(m);
    mmu_flush(v);
}

static void run_on(struct machine *m, const struct engine *engine, const struct program *p)
{
    struct vcpu *v = m->system.bench.v;
    struct error err = {""};
    start(m, p);
    if (!engine->attach(v, &err))
        fail_msg("%s: %s", engine->name, err.message);
    engine->run(v, UINT64_MAX);
    engine->detach(v);
    assert_null(v->failed);
}

static void assert_exits(const struct machine *a, const struct machine *b)
{
    for (unsigned i = 0; i < a->count && i < b->count; i++) {
        const struct exit *x = &a->records[i], *y = &b->records[i];
        /* when the kernel says that there was a write the instruction may be completed */
        if (x->reason != y->reason || x->mode != y->mode || y->rip - x->rip > 15 || x->address != y->address || x->size != y->size ||
            x->value != y->value || x->vector != y->vector)
            fail_msg("exit %u: %s %s at %llx, %llx = %llx (%u), vector %u; expected %s %s at %llx, %llx = %llx (%u), vector %u", i,
                     exit_reason_name(y->reason), exit_mode_name(y->mode), (unsigned long long)y->rip,
                     (unsigned long long)y->address, (unsigned long long)y->value, y->size, y->vector,
                     exit_reason_name(x->reason), exit_mode_name(x->mode), (unsigned long long)x->rip,
                     (unsigned long long)x->address, (unsigned long long)x->value, x->size, x->vector);
    }
    assert_int_equal(a->count, b->count);
}

static void assert_state(const struct vcpu *a, const struct vcpu *b, const struct program *p)
{
    for (unsigned n = 0; n < 16; n++)
        if (a->regs[n] != b->regs[n])
            fail_msg("register %u: %llx, expected %llx", n, (unsigned long long)b->regs[n], (unsigned long long)a->regs[n]);
    assert_int_equal(a->rip, b->rip);
    assert_int_equal(rflags_get(a) & ~FLAG_AF, rflags_get(b) & ~FLAG_AF);
    for (unsigned seg = 0; seg < SEG_COUNT; seg++) {
        assert_int_equal(a->seg[seg].selector, b->seg[seg].selector);
        assert_int_equal(a->seg[seg].base, b->seg[seg].base);
        if (p->segments_may_differ)
            continue;
        assert_int_equal(a->seg[seg].attr, b->seg[seg].attr);
        assert_int_equal(a->seg[seg].limit, b->seg[seg].limit);
    }
    assert_memory_equal(&a->gdtr, &b->gdtr, sizeof a->gdtr);
    assert_int_equal(a->cr0, b->cr0);
    assert_int_equal(a->cr2, b->cr2);
    assert_int_equal(a->cr3, b->cr3);
    assert_int_equal(a->cr4, b->cr4);
    assert_int_equal(a->efer, b->efer);
    assert_int_equal(a->xcr0, b->xcr0);
    assert_memory_equal(a->dr, b->dr, sizeof a->dr);
    assert_memory_equal(&a->msr, &b->msr, sizeof a->msr);
    assert_memory_equal(a->fpu.ymm, b->fpu.ymm, sizeof a->fpu.ymm);
    /* Not FOP, FIP and FDP: AMD's processors without XSaveErPtr lose them when the host switches threads. */
    assert_memory_equal(a->fpu.x87, b->fpu.x87, 6);
    assert_memory_equal(a->fpu.x87 + 24, b->fpu.x87 + 24, 160 - 24);
    assert_int_equal(a->fpu.mxcsr, b->fpu.mxcsr);
    assert_int_equal(a->shadow, b->shadow);
    assert_int_equal(a->nmi_blocked, b->nmi_blocked);
    assert_int_equal(a->activity, b->activity);
}

/* The interpreter is right. */
static void both(void **state, const struct program *p)
{
    struct machine *m = *state, *judge = test_calloc(1, sizeof *judge);
    struct vcpu *v = m->system.bench.v, *expected = test_malloc(sizeof *expected);
    uint8_t *ram = test_malloc(3 * MiB);
    run_on(m, &engine_interpret, p);
    *judge = *m;
    memcpy(expected, v, sizeof *expected);
    memcpy(ram, m->system.bench.ram, 3 * MiB);
    run_on(m, &engine_kvm, p);
    assert_exits(judge, m);
    assert_state(expected, v, p);
    assert_memory_equal(ram, m->system.bench.ram, 3 * MiB);
    assert_true(m->count > 0);
    test_free(ram);
    test_free(expected);
    test_free(judge);
}

/* ---- ports ---- */

static void test_ports(void **state)
{
    /* all sizes, immediate and DX; then REP OUTSB and REP INSW of 9 elements */
    static const struct program narrow = PROGRAM("\xb8\x44\x33\x22\x11\xe6\x10\x66\xe7\x12\xe7\x14\xba\x34\x12\x00\x00\xee\x66\xef\xef"
                                                 "\xe4\x20\x89\xc3\x66\xe5\x22\x89\xc1\xe5\x24\x89\xc6\xec\x66\xed"
                                                 "\xbe\x00\x80\x02\x00\xb9\x09\x00\x00\x00\xfc\xf3\x6e"
                                                 "\xbf\x00\x90\x02\x00\xb9\x09\x00\x00\x00\xf3\x66\x6d");
    static const struct program wide = PROGRAM("\xb8\x44\x33\x22\x11\xe6\x10\xe7\x14\xba\x34\x12\x00\x00\xef\xe5\x24\x48\x89\xc6",
                                               .wide = true);
    both(state, &narrow);
    struct machine *m = *state;
    assert_int_equal(m->records[m->count - 1].address, END_PORT);
    assert_true(m->count > 28);
    both(state, &wide);
}

/* ---- device memory and ROM ---- */

static void test_mmio(void **state)
{
    /* sizes 1, 2, 4; read-modify-write; REP MOVSD from RAM; ROM read, and a write that is swallowed */
    static const struct program p =
        PROGRAM("\xbb\x00\x00\x30\x00\xb8\x44\x33\x22\x11\x88\x03\x66\x89\x43\x08\x89\x03\x8a\x0b\x66\x8b\x4b\x08\x8b\x13"
                "\x01\x43\x08\xff\x03"
                "\xbe\x00\x80\x02\x00\xbf\x00\x00\x30\x00\xb9\x03\x00\x00\x00\xfc\xf3\xa5"
                "\x8b\x2d\x10\x00\x31\x00\xc7\x05\x10\x00\x31\x00\x01\x02\x03\x04\x8b\x2d\x10\x00\x31\x00");
    static const struct program wide = PROGRAM("\xbb\x00\x00\x30\x00\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11\x48\x89\x03\x48\x8b\x4b\x08",
                                               .wide = true);
    both(state, &p);
    struct machine *m = *state;
    assert_int_equal(m->system.bench.v->regs[RBP], 0x5a5a5a5a);
    both(state, &wide);
    assert_int_equal(m->records[0].size, 8);
}

/* ---- MSRs ---- */

static void test_msrs(void **state)
{
    /* LSTAR is the processor's; IA32_MISC_ENABLE or HWCR, MTRRs are ours; 0xdead is nobody's: #GP, skipped by the handler */
    static const struct program p =
        PROGRAM("\xb9\x82\x00\x00\xc0\xb8\x00\x10\x00\x00\xba\x00\x80\xff\xff\x0f\x30\x0f\x32\x89\xc3"
                "\xb9\xff\x02\x00\x00\x0f\x32\x89\xc6\xb8\x06\x08\x00\x00\x31\xd2\x0f\x30\x0f\x32\x89\xc5"
                "\xb9\xad\xde\x00\x00\x0f\x32\x0f\x30"
                "\xb9\xe0\x06\x00\x00\xb8\x00\x00\x00\x00\x31\xd2\x0f\x30"
                "\xb9\x1b\x00\x00\x00\x0f\x32",
                .wide = true);
    struct machine *m = *state;
    run_on(m, &engine_interpret, &p);
    uint64_t lstar = m->system.bench.v->msr.lstar, rbx = m->system.bench.v->regs[RBX], rbp = m->system.bench.v->regs[RBP];
    uint64_t rax = m->system.bench.v->regs[RAX];
    unsigned faults = 0;
    run_on(m, &engine_kvm, &p);
    assert_int_equal(m->system.bench.v->msr.lstar, lstar);
    assert_int_equal(lstar, 0xffff800000001000);
    assert_int_equal(m->system.bench.v->regs[RBX], rbx);
    assert_int_equal(m->system.bench.v->regs[RBP], rbp);
    assert_int_equal(m->system.bench.v->regs[RAX], rax);
    assert_int_equal(m->system.bench.v->msr.mtrr_def_type, 0x806);
    for (unsigned i = 0; i < m->count; i++)
        faults += m->records[i].reason == EXIT_IO_OUT && m->records[i].address == VECTOR_GP;
    assert_int_equal(faults, 2);
    /* those that come to us are counted, with number and value */
    unsigned ours = 0;
    for (unsigned i = 0; i < m->count; i++)
        ours += m->records[i].reason == EXIT_MSR_WRITE && m->records[i].address == 0x2ff && m->records[i].value == 0x806;
    assert_int_equal(ours, 1);
}

/* ---- interrupts ---- */

static void test_interrupts(void **state)
{
    static const int vectors[] = {0x30, 0x31, 0};
    /* a device asks for one with IF clear; it comes behind STI, and another behind its handler's IRET. The writes to port 15h are
     * for back ends that look for interrupts only when there is an exit. */
    static const struct program p = PROGRAM("\xe6\x99\xe6\x11\x90\xfb\x90\xe6\x15\x90\xe6\x15\x90\xe6\x15\x90\xfa\xe6\x12",
                                            .vectors = vectors);
    struct machine *m = *state;
    for (unsigned engine = 0; engine < 2; engine++) {
        run_on(m, engine == 0 ? &engine_interpret : &engine_kvm, &p);
        static const unsigned order[] = {0x99, 0x11, 0x30, 0x31, 0x12, END_PORT};
        unsigned n = 0, interrupts = 0;
        for (unsigned i = 0; i < m->count; i++) {
            if (m->records[i].reason == EXIT_IO_OUT && m->records[i].address != 0x15)
                assert_int_equal(m->records[i].address, order[n++]);
            if (m->records[i].reason == EXIT_INTERRUPT)
                assert_int_equal(m->records[i].vector, 0x30 + interrupts++);
        }
        assert_int_equal(n, 6);
        assert_int_equal(interrupts, 2);
        assert_int_equal(rflags_get(m->system.bench.v) & FLAG_IF, 0);
    }
}

static void test_nmi(void **state)
{
    static const struct program p = PROGRAM("\xe6\x98\xb9\xe8\x03\x00\x00\xe2\xfe\xe6\x12");
    struct machine *m = *state;
    for (unsigned engine = 0; engine < 2; engine++) {
        run_on(m, engine == 0 ? &engine_interpret : &engine_kvm, &p);
        unsigned nmis = 0, handled = 0;
        for (unsigned i = 0; i < m->count; i++) {
            nmis += m->records[i].reason == EXIT_NMI;
            handled += m->records[i].reason == EXIT_IO_OUT && m->records[i].address == VECTOR_NMI;
        }
        assert_int_equal(nmis, 1);
        assert_int_equal(handled, 1);
        assert_false(m->system.bench.v->nmi_blocked); /* IRET has ended it */
    }
}

/* HLT ends the run when nothing wakes it; an interrupt later continues behind it. */
static void test_hlt(void **state)
{
    static const int vectors[] = {0x32, 0};
    static const struct program p = PROGRAM("\xfb\xf4\xe6\x13", .vectors = vectors);
    struct machine *m = *state;
    struct vcpu *v = m->system.bench.v;
    struct error err = {""};
    start(m, &p);
    assert_true(engine_kvm.attach(v, &err));
    engine_kvm.run(v, UINT64_MAX);
    assert_int_equal(v->activity, ACTIVITY_HLT);
    assert_int_equal(v->rip, CODE_AT + 2);
    assert_int_equal(m->records[m->count - 1].reason, EXIT_HLT);
    assert_false(vcpu_runnable(v));
    vcpu_raise(v, PENDING_INTR);
    engine_kvm.run(v, UINT64_MAX);
    engine_kvm.detach(v);
    assert_int_equal(v->activity, ACTIVITY_RUNNING);
    assert_int_equal(m->records[m->count - 1].address, END_PORT);
    assert_int_equal(m->records[m->count - 2].address, 0x13);
    assert_int_equal(v->rip, CODE_AT + p.size + 2);
}

/* ---- from outside ---- */

static void *raise_later(void *opaque)
{
    usleep(30000);
    vcpu_raise(opaque, PENDING_STOP);
    return NULL;
}

/* A guest that never leaves by itself is left when somebody wants it, with its state; again and again. */
static void test_kick(void **state)
{
    static const struct program p = PROGRAM("\x43\xeb\xfd"); /* inc %ebx; jmp back */
    struct machine *m = *state;
    struct vcpu *v = m->system.bench.v;
    struct error err = {""};
    start(m, &p);
    assert_true(engine_kvm.attach(v, &err));
    uint64_t before = 0;
    for (unsigned n = 0; n < 5; n++) {
        pthread_t thread;
        uint64_t begin = clock_monotonic_ns();
        atomic_store(&v->pending, 0);
        assert_int_equal(pthread_create(&thread, NULL, raise_later, v), 0);
        engine_kvm.run(v, UINT64_MAX);
        pthread_join(thread, NULL);
        assert_true(clock_monotonic_ns() - begin < 5 * NS_PER_S);
        assert_true(v->rip == CODE_AT || v->rip == CODE_AT + 1);
        assert_true(v->regs[RBX] > before);
        before = v->regs[RBX];
    }
    /* what has been raised before is seen at once */
    vcpu_raise(v, PENDING_STOP);
    engine_kvm.run(v, UINT64_MAX);
    assert_int_equal(v->regs[RBX], before);
    engine_kvm.detach(v);
    sigset_t pending;
    sigpending(&pending);
    assert_int_equal(sigismember(&pending, SIGURG), 0);
}

/* ---- the whole state ---- */

static void fill(struct machine *m)
{
    struct vcpu *v = m->system.bench.v;
    struct x87_image *x87 = fpu_x87(&v->fpu);
    for (unsigned n = 0; n < 16; n++)
        if (n != RSP)
            v->regs[n] = 0x1111111111111111ull * n;
    v->cr2 = 0x123456789;
    for (unsigned n = 0; n < 4; n++)
        v->dr[n] = 0x7000 + n;
    v->dr[6] = 0xffff0ff0 | 5;
    v->msr.star = 0x0023001000000000;
    v->msr.lstar = 0xffffffff81000000;
    v->msr.cstar = 0xffffffff82000000;
    v->msr.sfmask = 0x47700;
    v->msr.kernel_gs_base = 0xffff888000001000;
    v->msr.sysenter_cs = 0x10;
    v->msr.sysenter_esp = 0xffff888000002000;
    v->msr.sysenter_eip = 0xffffffff83000000;
    v->msr.tsc_aux = 0x77;
    v->msr.pat = 0x0407050600070106;
    v->seg[SEG_FS].base = 0x7f0000001000;
    v->seg[SEG_GS].base = 0xffff888000003000;
    for (unsigned n = 0; n < 16; n++)
        memset(v->fpu.ymm[n], (int)(0x10 + n), v->model->xcr0_mask & XCR0_AVX ? 32 : 16);
    v->fpu.mxcsr = 0x1fa5;
    x87->fcw = 0x27f;
    x87->fsw = 0x3800;
    x87->ftw = 0x81;
    x87->fop = 0x123;
    x87->fip = 0x1234567890;
    x87->fdp = 0x2345678901;
    for (unsigned n = 0; n < 8; n++)
        x87->st[n] = (struct x87_register){.mantissa = 0x8000000000000000 + n, .exponent = (uint16_t)(0x3fff + n)};
}

/* Through the kernel and back, with one instruction on the way. */
static void test_whole_state(void **state)
{
    static const struct program wide = PROGRAM("\x90", .wide = true, .prepare = fill);
    both(state, &wide);
    struct machine *m = *state;
    assert_int_equal(m->system.bench.v->msr.tsc_aux, 0x77);
    static const struct program real = PROGRAM("\xb8\x34\x12\x8e\xc0\xe6\x10", .real = true);
    both(state, &real);
    static const struct program narrow = PROGRAM("\xb8\x2b\x00\x00\x00\x8e\xe0\x31\xc0\x8e\xe8\xe6\x10");
    both(state, &narrow);
}

/* A processor that runs now here, now there, must not notice: 64 steps of a sum, each on the other engine. */
static void test_moves(void **state)
{
    static const struct program p = PROGRAM("\x01\xc3\x40\xe6\xf4\xeb\xf9", .wide = false); /* add eax, ebx; inc eax; out 0xf4; again */
    struct machine *m = *state;
    struct vcpu *v = m->system.bench.v;
    struct error err = {""};
    uint32_t sum = 0;
    start(m, &p);
    for (uint32_t n = 0; n < 64; n++) {
        const struct engine *engine = n % 2 == 0 ? &engine_kvm : &engine_interpret;
        atomic_store(&v->pending, 0);
        if (!engine->attach(v, &err))
            fail_msg("%s", err.message);
        engine->run(v, UINT64_MAX);
        engine->detach(v);
        sum += n;
        assert_int_equal(v->regs[RBX], sum);
        assert_int_equal(v->regs[RAX], n + 1);
        assert_int_equal(v->rip, CODE_AT + 5);
    }
}

/* The TSC never goes back, wherever it is counted: processors let it be moved, back ends that emulate may not. What the monitor
 * takes for the guest's TSC is what the guest has read a moment ago. */
static void test_tsc(void **state)
{
    static const struct program p = PROGRAM("\x0f\x31\x89\xc3\x89\xd6\xe6\xf4\xeb\xf6"); /* rdtsc; to ebx, esi; out 0xf4; again */
    struct machine *m = *state;
    struct vcpu *v = m->system.bench.v;
    struct error err = {""};
    bool movable = engine_kvm.preferred(NULL);
    uint64_t last = 0;
    start(m, &p);
    for (unsigned n = 0; n < 40; n++) {
        const struct engine *engine = n / 2 % 2 == 0 ? &engine_kvm : &engine_interpret;
        atomic_store(&v->pending, 0);
        m->system.now_ns = clock_monotonic_ns();
        if (!engine->attach(v, &err))
            fail_msg("%s", err.message);
        engine->run(v, UINT64_MAX);
        uint64_t tsc = v->regs[RBX] | v->regs[RSI] << 32;
        assert_in_range(vcpu_tsc(v) - tsc, 0, tsc_from_ns(v, NS_PER_S));
        engine->detach(v);
        if (movable)
            assert_true(tsc >= last);
        last = tsc;
        usleep(2000);
    }
}

/* What cannot be had is refused with words. */
static void test_refusals(void **state)
{
    struct machine *m = *state;
    struct vcpu *v = m->system.bench.v;
    struct error err = {""};
    start(m, &(struct program)PROGRAM("\x90"));
    m->system.bench.model.maxphyaddr = 63;
    assert_false(engine_kvm.attach(v, &err));
    assert_non_null(strstr(err.message, "physical address bits"));
    assert_null(v->engine_opaque);
    assert_null(v->code);
    assert_null(engine_find("kvm", ENGINE_COUNTS, &err));
    assert_non_null(strstr(err.message, "--clock instructions"));
    assert_non_null(engine_find("auto", ENGINE_COUNTS, &err));
}

/* A20 closed: no processor does that any more; the interpreter does. */
static void close_a20(struct machine *m)
{
    m->system.bench.v->a20_mask = ~(1ull << 20);
}

static void test_a20(void **state)
{
    static const struct program p = PROGRAM("\xc7\x05\x00\x80\x12\x00\x44\x33\x22\x11\x8b\x1d\x00\x80\x02\x00", .prepare = close_a20);
    both(state, &p);
    struct machine *m = *state;
    assert_int_equal(m->system.bench.v->regs[RBX], 0x11223344);
    m->system.bench.v->a20_mask = ~0ull;
}

#define KVM_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        KVM_TEST(test_ports), KVM_TEST(test_mmio),        KVM_TEST(test_msrs),  KVM_TEST(test_interrupts), KVM_TEST(test_nmi),
        KVM_TEST(test_hlt),   KVM_TEST(test_whole_state), KVM_TEST(test_kick),  KVM_TEST(test_moves),      KVM_TEST(test_tsc),
        KVM_TEST(test_a20),   KVM_TEST(test_refusals),
    };
    struct error why_not = {""};
    if (!engine_kvm.usable(&why_not)) {
        printf("SKIP: %s\n", why_not.message);
        return 77;
    }
    return cmocka_run_group_tests_name("kvm", tests, NULL, NULL);
}
