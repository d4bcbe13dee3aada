/* The machine around the vCPU of a case: see diff.h. */
#include <stdlib.h>

#include "cpu/cpuid.h"
#include "diff.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define INSTRUCTIONS_MAX 3000u
#define EXITS_MAX 4000u
#define INTERRUPT_VECTOR 0x20
#define ACCESSED_DIRTY 0x60u
#define HOST_MXCSR 0x1f80u

struct world {
    const struct engine *engine;
    struct vcpu *v;
    struct memory *memory;
    struct cpu_model *model;
    uint8_t *ram;
    uint8_t rom[PAGE_SIZE], device[PAGE_SIZE];
    uint64_t hash; /* of what went through the door */
    unsigned exits, randoms;
    bool stopped; /* by EXITS_MAX */
    bool loose;   /* guest time does not depend on the instruction count */
    bool mxcsr_lost;
    bool rom_used;
};

enum isa_mode diff_mode(enum start start)
{
    return start == START_64                                                       ? ISA_64
           : start == START_REAL || start == START_16 || start == START_V86 ? ISA_16
                                                                            : ISA_32;
}

bool diff_is_wide(enum start start)
{
    return start == START_64 || start == START_COMPAT;
}

bool diff_has_paging(enum start start)
{
    return start >= START_32_PAGING;
}

/* ---- the platform ---- */
static uint64_t hash_step(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * 0x9e3779b97f4a7c15ull ^ hash >> 29;
}

static uint64_t platform_now(void *opaque)
{
    const struct world *w = opaque;
    return w->loose ? 0 : w->v->instructions;
}

static uint64_t platform_random(void *opaque)
{
    struct world *w = opaque;
    return hash_step(0x123456789abcdefull, ++w->randoms);
}

static uint64_t platform_zero(void *opaque)
{
    return 0;
}

static int platform_ack(void *opaque)
{
    struct world *w = opaque;
    atomic_fetch_and(&w->v->pending, ~PENDING_INTR);
    return INTERRUPT_VECTOR;
}

static void platform_cr8(void *opaque, uint64_t cr8)
{
    struct world *w = opaque;
    w->hash = hash_step(w->hash, cr8);
}

static bool platform_msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    *value = 0;
    return msr != 0x6e0;
}

static bool platform_msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    struct world *w = opaque;
    w->hash = hash_step(w->hash, msr ^ value);
    return value != 0;
}

/* What the machine and the guest must agree on; other reasons only count things. */
static void world_exit(struct vcpu *v, struct exit *exit)
{
    struct world *w = v->exit_opaque;

    switch (exit->reason) {
    case EXIT_IO_IN: exit->value = hash_step(exit->address, exit->size) & 0xffffffff; break;
    case EXIT_IO_OUT: break;
    case EXIT_MMIO_READ: exit->value = memory_mmio_read(w->memory, exit->address, exit->size); break;
    case EXIT_MMIO_WRITE: memory_mmio_write(w->memory, exit->address, exit->size, exit->value); break;
    default: return;
    }
    w->hash = hash_step(w->hash, exit->reason ^ exit->address << 8 ^ exit->value << 20 ^ (uint64_t)exit->size << 4);
    if (++w->exits == EXITS_MAX) {
        w->stopped = true;
        vcpu_raise(v, PENDING_STOP);
    }
}

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, ((struct world *)dev)->device + offset, size);
    return value;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    memcpy(((struct world *)dev)->device + offset, &value, size);
}

static const struct io_ops device_ops = {.read = device_read, .write = device_write, .name = "diff"};

static void code_written(void *opaque, gpa_t gpa, unsigned size)
{
    mmu_written(opaque, gpa, size);
}

struct world *world_create(const struct engine *engine, bool loose)
{
    struct world *w = calloc(1, sizeof(*w));
    struct error err = {""};

    if (w == NULL)
        return NULL;
    w->engine = engine;
    w->loose = loose;
    w->memory = memory_create(RAM_SIZE, NULL, &err);
    w->model = cpu_model_create(NULL, &err);
    w->v = w->memory != NULL && w->model != NULL ? vcpu_create(w->memory, w->model, 0, NULL, &err) : NULL;
    if (w->v == NULL || !engine->attach(w->v, &err) ||
        !memory_map_rom(w->memory, ROM_AT, PAGE_SIZE, w->rom, &err) ||
        !memory_map_mmio(w->memory, DEVICE_AT, PAGE_SIZE, &device_ops, w, &err)) {
        fprintf(stderr, "diff_test: %s\n", err.message);
        exit(2);
    }
    w->v->platform = (struct vcpu_platform){
        .intr_ack = platform_ack, .cr8_read = platform_zero, .cr8_write = platform_cr8,
        .apic_msr_read = platform_msr_read, .apic_msr_write = platform_msr_write, .now_ns = platform_now,
        .wall_base_ns = platform_zero, .random = platform_random, .opaque = w};
    w->v->exit = world_exit;
    w->v->exit_opaque = w;
    w->v->translate_heat = 0;
    w->ram = memory_ram_base(w->memory);
    memory_set_watcher(w->memory, code_written, w->v);
    return w;
}

void world_destroy(struct world *w)
{
    w->engine->detach(w->v);
    vcpu_destroy(w->v);
    free(w->model);
    memory_destroy(w->memory);
    free(w);
}

struct vcpu *world_vcpu(struct world *w)
{
    return w->v;
}

/* ---- a case ---- */
static void segment_set(struct vcpu *v, enum seg seg, uint16_t selector, uint32_t attr, uint64_t base, uint32_t limit)
{
    v->seg[seg] = (struct segment){.selector = selector, .attr = attr, .base = base, .limit = limit};
}

static void segments_set(struct vcpu *v, const struct diff_case *c)
{
    uint32_t dpl = c->user ? SEG_ATTR_DPL : 0;
    uint16_t rpl = c->user ? 3 : 0;

    if (c->start == START_REAL || c->start == START_V86) {
        uint32_t attr = SEG_ATTR_P | SEG_ATTR_S | 3 | (c->start == START_V86 ? SEG_ATTR_DPL : 0);
        for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
            segment_set(v, seg, 0, attr, 0, 0xffff);
    }
    if (c->start == START_REAL)
        return;
    v->gdtr = (struct table_register){.base = GDT, .limit = 127};
    v->idtr = (struct table_register){.base = IDT, .limit = 0xfff};
    segment_set(v, SEG_TR, 0x40, SEG_ATTR_P | 11, TSS, 0x67);
    segment_set(v, SEG_LDTR, 0x50, SEG_ATTR_P | 2, GDT, 0xfff);
    if (c->start == START_V86)
        return;
    uint32_t data = SEG_ATTR_P | SEG_ATTR_S | 3 | dpl | SEG_ATTR_DB | SEG_ATTR_G;
    uint32_t code = SEG_ATTR_P | SEG_ATTR_S | 11 | dpl | SEG_ATTR_G | (c->start == START_64 ? SEG_ATTR_L : SEG_ATTR_DB);
    for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
        segment_set(v, seg, (c->user ? 0x28 : 0x10) | rpl, data, 0, 0xffffffff);
    segment_set(v, SEG_CS, (uint16_t)((c->start == START_64 ? c->user ? 0x30 : 0x18 : c->user ? 0x20 : 0x08) | rpl), code,
                0, 0xffffffff);
    if (c->start == START_16) {
        segment_set(v, SEG_CS, 0x38, code & ~(SEG_ATTR_DB | SEG_ATTR_G), 0, 0xffff);
        segment_set(v, SEG_SS, 0x48, data & ~(SEG_ATTR_DB | SEG_ATTR_G), 0, 0xffff);
    }
    if (c->start == START_64) {
        v->seg[SEG_FS].base = c->fs_base;
        v->seg[SEG_GS].base = c->gs_base;
    }
}

static void registers_set(struct vcpu *v, const struct diff_case *c)
{
    vcpu_reset(v, false);
    v->pending = 0;
    v->activity = ACTIVITY_RUNNING;
    v->instructions = 0;
    v->fault_chain_length = 0;
    v->shutdown_rip = 0;
    v->cr0 = c->cr0;
    v->cr3 = c->cr3;
    v->cr4 = c->cr4 | (v->model->cr4_mask & CR4_OSXSAVE);
    if (!cpu_has(v, CPU_SMEP))
        v->cr4 &= ~CR4_SMEP;
    if (!cpu_has(v, CPU_SMAP))
        v->cr4 &= ~CR4_SMAP;
    if (!cpu_has(v, CPU_UMIP))
        v->cr4 &= ~CR4_UMIP;
    if (!cpu_has(v, CPU_FSGSBASE))
        v->cr4 &= ~CR4_FSGSBASE;
    v->efer = c->efer;
    v->xcr0 = v->model->xcr0_mask;
    memcpy(v->dr, c->dr, sizeof(v->dr));
    rflags_set(v, c->rflags);
    segments_set(v, c);
    memcpy(v->regs, c->regs, sizeof(c->regs));
    v->rip = CODE_AT + c->code_offset;
    v->msr.star = 0x0018ull << 32 | 0x001bull << 48;
    v->msr.lstar = v->msr.cstar = v->msr.sysenter_eip = v->rip;
    v->msr.sysenter_cs = 0x08;
    v->msr.sysenter_esp = STACKS + 0x1000;
    v->msr.sfmask = c->regs[3] & 0x257fd7;
    v->msr.kernel_gs_base = DATA_AT + 0x800;
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned k = 0; k < 32; k++)
            v->fpu.ymm[i][k] = (uint8_t)(c->regs[(i + k / 8) & 15] >> k % 8 * 8);
    }
    mmu_flush(v);
    if (c->start == START_PAE)
        mmu_load_pdptes(v, v->cr3);
    vcpu_mode_changed(v);
}

enum diff_end world_run(struct world *w, const struct diff_case *c, uint64_t dropped)
{
    static uint8_t image[RAM_SIZE];
    struct vcpu *v = w->v;

    memcpy(image, c->image, RAM_SIZE);
    diff_place_code(c, dropped, image);
    for (unsigned at = 0; at < RAM_SIZE; at += PAGE_SIZE) {
        if (at != ROM_AT && at != DEVICE_AT && memcmp(w->ram + at, image + at, PAGE_SIZE) != 0)
            memory_write(w->memory, at, image + at, PAGE_SIZE);
    }
    /* ROM has the code of now and then a case, too; it is written by nobody, so what was decoded from it is forgotten
     * as a whole. */
    bool rom_differs = c->rom_too || w->rom_used;
    memset(w->rom, 0xf4, PAGE_SIZE);
    if (c->rom_too)
        memcpy(w->rom, image + CODE_AT, PAGE_SIZE);
    w->rom_used = c->rom_too;
    memset(w->device, 0x90, sizeof(w->device));
    registers_set(v, c);
    if (rom_differs)
        vcpu_raise(v, PENDING_FLUSH);
    w->hash = w->exits = w->randoms = 0;
    w->stopped = false;
    if (c->pending_interrupt)
        vcpu_raise(v, PENDING_INTR);
    w->engine->run(v, INSTRUCTIONS_MAX);
    w->mxcsr_lost = (__builtin_ia32_stmxcsr() & ~0x3fu) != HOST_MXCSR;
    if (w->mxcsr_lost)
        __builtin_ia32_ldmxcsr(HOST_MXCSR);
    return v->activity == ACTIVITY_HLT && !w->stopped ? DIFF_HALTED
           : v->activity == ACTIVITY_SHUTDOWN         ? DIFF_SHUTDOWN
                                                      : DIFF_ENDLESS;
}

/* ---- comparison ---- */

/* Entries for data pages under any of their names: the ones that cases change, and invalidate at once. */
static bool entry_invalidated(const struct diff_case *c, unsigned at)
{
    bool small = c->start == START_32_PAGING || c->start == START_V86;
    unsigned first = TABLES + (small ? 0x4000 : 0x3000);

    if (at < first || at >= first + (small ? 4 : 8) * 4 * ALIAS_PAGES)
        return false;
    unsigned page = (at - first) / (small ? 4 : 8) % ALIAS_PAGES;
    return page >= DATA_AT / PAGE_SIZE && page < (DATA_AT + DATA_SIZE) / PAGE_SIZE - 1;
}

bool world_tables_changed(const struct world *w, const struct diff_case *c)
{
    if (!(w->v->cr0 & CR0_PG))
        return false;
    if (w->v->cr3 != c->cr3)
        return true;
    for (unsigned at = TABLES; at < TABLES + TABLES_SIZE; at += 4) {
        uint32_t before, after;
        memcpy(&before, c->image + at, 4);
        memcpy(&after, w->ram + at, 4);
        if (((before ^ after) & ~ACCESSED_DIRTY) && !entry_invalidated(c, at))
            return true;
    }
    return false;
}

struct comparison {
    FILE *out;
    bool same;
};

static void differ(struct comparison *x, const char *what, uint64_t a, uint64_t b)
{
    x->same = false;
    if (x->out != NULL)
        fprintf(x->out, "    %-14s %016llx   %016llx\n", what, (unsigned long long)a, (unsigned long long)b);
}

#define SAME(field)                                                                                                    \
    do {                                                                                                               \
        if (a->field != b->field)                                                                                      \
            differ(x, #field, (uint64_t)a->field, (uint64_t)b->field);                                                 \
    } while (0)

static void compare_registers(struct comparison *x, const struct vcpu *a, const struct vcpu *b)
{
    static const char *const gprs[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8",
                                       "r9",  "r10", "r11", "r12", "r13", "r14", "r15", "GPR_ZERO"};
    static const char *const segs[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};

    for (unsigned i = 0; i <= GPR_ZERO; i++) {
        if (a->regs[i] != b->regs[i])
            differ(x, gprs[i], a->regs[i], b->regs[i]);
    }
    SAME(rip);
    if (rflags_get(a) != rflags_get(b))
        differ(x, "rflags", rflags_get(a), rflags_get(b));
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        const struct segment *s = &a->seg[i], *t = &b->seg[i];
        if (s->selector != t->selector || s->attr != t->attr)
            differ(x, segs[i], (uint64_t)s->attr << 16 | s->selector, (uint64_t)t->attr << 16 | t->selector);
        if (s->base != t->base)
            differ(x, segs[i], s->base, t->base);
        if (s->limit != t->limit)
            differ(x, segs[i], s->limit, t->limit);
    }
}

static void compare_system(struct comparison *x, const struct vcpu *a, const struct vcpu *b)
{
    SAME(activity);
    SAME(cpl);
    SAME(code_mode);
    SAME(cr0);
    SAME(cr2);
    SAME(cr3);
    SAME(cr4);
    SAME(efer);
    SAME(xcr0);
    SAME(gdtr.base);
    SAME(gdtr.limit);
    SAME(idtr.base);
    SAME(idtr.limit);
    SAME(shadow);
    SAME(nmi_blocked);
    SAME(dr6_pending);
    SAME(fault_chain_length);
    for (unsigned i = 0; i < 8; i++)
        SAME(dr[i]);
    for (unsigned i = 0; i < 4; i++)
        SAME(pdpte[i]);
    for (unsigned i = 0; i < a->fault_chain_length && i < b->fault_chain_length; i++)
        SAME(fault_chain[i].vector);
    const uint64_t *m = (const uint64_t *)&a->msr, *n = (const uint64_t *)&b->msr;
    for (unsigned i = 0; i < sizeof(a->msr) / 8; i++) {
        if (m[i] != n[i])
            differ(x, "an MSR", m[i], n[i]);
    }
}

static void compare_fpu(struct comparison *x, const struct fpu *a, const struct fpu *b)
{
    SAME(mxcsr);
    for (unsigned i = 0; i < 16; i++) {
        if (memcmp(a->ymm[i], b->ymm[i], 32) != 0)
            differ(x, "a vector register", i, i);
    }
    /* Not the last opcode and pointers, which the host may or may not keep. */
    if (memcmp(a->x87, b->x87, 5) != 0 || memcmp(a->x87 + 32, b->x87 + 32, 128) != 0)
        differ(x, "x87", *(const uint32_t *)a->x87, *(const uint32_t *)b->x87);
}

bool world_compare(const struct world *wa, const struct world *wb, FILE *out)
{
    struct comparison comparison = {.out = out, .same = true}, *x = &comparison;
    const struct vcpu *a = wa->v, *b = wb->v;

    compare_registers(x, a, b);
    compare_system(x, a, b);
    compare_fpu(x, &a->fpu, &b->fpu);
    if (!wa->loose)
        SAME(instructions);
    if (wa->hash != wb->hash || wa->exits != wb->exits)
        differ(x, "the door", wa->exits, wb->exits);
    if (wa->mxcsr_lost != wb->mxcsr_lost)
        differ(x, "monitor's MXCSR", wa->mxcsr_lost, wb->mxcsr_lost);
    if (memcmp(wa->device, wb->device, PAGE_SIZE) != 0)
        differ(x, "device memory", 0, 0);
    unsigned lines = 0;
    for (unsigned at = 0; at < RAM_SIZE && lines < 12; at += 8) {
        if (at % PAGE_SIZE == 0 && memcmp(wa->ram + at, wb->ram + at, PAGE_SIZE) == 0) {
            at += PAGE_SIZE - 8;
            continue;
        }
        if (memcmp(wa->ram + at, wb->ram + at, 8) != 0) {
            char name[24];
            snprintf(name, sizeof(name), "ram %05x", at);
            differ(x, name, *(const uint64_t *)(wa->ram + at), *(const uint64_t *)(wb->ram + at));
            lines++;
        }
    }
    return comparison.same;
}
