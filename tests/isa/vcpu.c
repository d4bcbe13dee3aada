/* ring3's side of the differential test: a vCPU that finds itself where the native child is.
 *
 * It runs in long mode at CPL 3 under page tables that map what the child has mapped and nothing else, with a GDT like
 * Linux' and the child's LDT. There are two ways to run a case:
 *
 *   stepped      by the interpreter, one instruction at a time, until the byte at CS:RIP is one of the INT3 around the case,
 *                or a fault comes back. No exception is ever delivered, so there is no IDT.
 *   by an engine with an IDT whose handlers are a HLT each, at CPL 0: the engine runs whole blocks of the case until INT3
 *                or a fault brings it there and it halts. The frame on the supervisor's stack is the result, as it is for a
 *                guest's kernel. A translator translates everything at first sight here.
 *
 * Guest physical memory (1 MiB): page tables from 0x1000, then the pages below, all but arena and code for the supervisor.
 */
#include <stdlib.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/cpuid.h"
#include "cpu/segment.h"
#include "engine/interpret/interpret.h"
#include "isa.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define RAM_SIZE (1 * MiB)
#define GPA_PML4 0x1000u
#define GPA_GDT 0x20000u
#define GPA_LDT 0x21000u
#define GPA_TSS 0x22000u
#define GPA_IDT 0x23000u
#define GPA_STACK 0x24000u
#define GPA_HANDLERS 0x25000u
#define HANDLER_SIZE 16u
#define HANDLER_HLT 0xf4
#define GPA_ARENA 0x40000u
#define GPA_CODE 0x50000u
#define SUPERVISOR 0xffff800000000000ull

/* A repeated string instruction is a step an iteration, and can go through all of the arena. */
#define STEPS_MAX 40000u

#define HOST_MXCSR 0x1f80u /* exceptions masked, as the ABI wants it */

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_NX (1ull << 63)

struct isa_vcpu {
    struct vcpu *v;
    const struct engine *engine; /* NULL: stepped */
    struct memory *memory;
    struct cpu_model *model;
    uint8_t *ram;
    gpa_t next_table;
    struct native_features features;
    unsigned dirty_offset, dirty_length; /* of the code memory, to become INT3 again */
};

/* ---- tables ---- */
static void page_map(struct isa_vcpu *t, gva_t gva, gpa_t gpa, uint64_t flags)
{
    gpa_t table = GPA_PML4;

    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint64_t *entry = (uint64_t *)(t->ram + table) + (gva >> shift & 511);
        if (!(*entry & PTE_P)) {
            *entry = t->next_table | PTE_P | PTE_W | PTE_U;
            t->next_table += PAGE_SIZE;
            check(t->next_table <= GPA_GDT);
        }
        table = *entry & ~PAGE_OFFSET_MASK;
    }
    ((uint64_t *)(t->ram + table))[gva >> 12 & 511] = gpa | flags | PTE_P;
}

static void range_map(struct isa_vcpu *t, gva_t gva, gpa_t gpa, unsigned size, uint64_t flags)
{
    for (unsigned offset = 0; offset < size; offset += PAGE_SIZE)
        page_map(t, gva + offset, gpa + offset, flags);
}

static uint64_t descriptor_make(uint64_t base, uint64_t limit, uint64_t type_and_flags)
{
    return (limit & 0xffff) | (base & 0xffffff) << 16 | (type_and_flags & 0xf0ff) << 40 | (limit >> 16 & 0xf) << 48 |
           (base >> 24 & 0xff) << 56;
}

static void tables_make(struct isa_vcpu *t)
{
    uint64_t *gdt = (uint64_t *)(t->ram + GPA_GDT), *ldt = (uint64_t *)(t->ram + GPA_LDT);

    t->next_table = GPA_PML4 + PAGE_SIZE;
    range_map(t, ARENA, GPA_ARENA, ARENA_SIZE, PTE_U | PTE_W | PTE_NX);
    range_map(t, ARENA_RO, GPA_ARENA + ARENA_SIZE, PAGE_SIZE, PTE_U | PTE_NX);
    range_map(t, ALIAS, GPA_ARENA, ARENA_SIZE, PTE_U | PTE_W | PTE_NX);
    range_map(t, ALIAS + ARENA_SIZE, GPA_ARENA + ARENA_SIZE, PAGE_SIZE, PTE_U | PTE_NX);
    range_map(t, CODE, GPA_CODE, CODE_SIZE, PTE_U);
    range_map(t, SUPERVISOR + GPA_GDT, GPA_GDT, GPA_HANDLERS - GPA_GDT, PTE_W | PTE_NX);
    page_map(t, SUPERVISOR + GPA_HANDLERS, GPA_HANDLERS, 0);

    /* As in Linux: arch/x86/include/asm/segment.h. */
    gdt[1] = descriptor_make(0, 0xfffff, 0xc09b);
    gdt[2] = descriptor_make(0, 0xfffff, 0xa09b);
    gdt[3] = descriptor_make(0, 0xfffff, 0xc093);
    gdt[4] = descriptor_make(0, 0xfffff, 0xc0fb);
    gdt[5] = descriptor_make(0, 0xfffff, 0xc0f3);
    gdt[6] = descriptor_make(0, 0xfffff, 0xa0fb);
    gdt[8] = descriptor_make(SUPERVISOR + GPA_TSS, 0x206f, 0x008b);
    gdt[9] = (SUPERVISOR + GPA_TSS) >> 32;
    gdt[10] = descriptor_make(SUPERVISOR + GPA_LDT, ISA_LDT_COUNT * 8 - 1, 0x0082);
    gdt[11] = (SUPERVISOR + GPA_LDT) >> 32;
    gdt[15] = descriptor_make(0, 0, 0x40f5);
#define X(index, name, base, limit, contents, big, readonly)                                                           \
    ldt[index] = descriptor_make(base, limit,                                                                          \
                                 0xf1u | (contents) << 2 | (unsigned)!(readonly) << 1 | (unsigned)(big) << 14);
    ISA_LDT(X)
#undef X
    memcpy(t->ram + GPA_ARENA, isa_noise(), ARENA_SIZE + PAGE_SIZE);
    memset(t->ram + GPA_CODE, 0xcc, CODE_SIZE);
    memset(t->ram + GPA_TSS + 0x66, 0xff, 2); /* no I/O permission bitmap */
}

/* For an engine: a HLT for each vector, and a stack to come there. Gates are the user's as in Linux. */
static void handlers_make(struct isa_vcpu *t)
{
    uint64_t stack = SUPERVISOR + GPA_STACK + PAGE_SIZE;

    memset(t->ram + GPA_HANDLERS, HANDLER_HLT, PAGE_SIZE);
    memcpy(t->ram + GPA_TSS + 4, &stack, sizeof(stack));
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t handler = SUPERVISOR + GPA_HANDLERS + vector * HANDLER_SIZE;
        uint64_t dpl = vector == VECTOR_BP || vector == VECTOR_OF ? 3 : 0;
        uint64_t gate[2] = {(handler & 0xffff) | 0x10 << 16 | (0x8e00 | dpl << 13) << 32 | (handler >> 16 & 0xffff) << 48,
                            handler >> 32};
        memcpy(t->ram + GPA_IDT + vector * sizeof(gate), gate, sizeof(gate));
    }
    t->v->idtr = (struct table_register){.base = SUPERVISOR + GPA_IDT, .limit = PAGE_SIZE - 1};
}

/* ---- the vCPU ---- */
static uint64_t platform_zero(void *opaque)
{
    return 0;
}

static int platform_no_interrupt(void *opaque)
{
    return -1;
}

static void platform_cr8(void *opaque, uint64_t cr8)
{
}

static bool platform_no_msr(void *opaque, uint32_t msr, uint64_t *value)
{
    return false;
}

static bool platform_no_msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    return false;
}

static void exit_ignored(struct vcpu *v, struct exit *exit)
{
    exit->value = 0;
}

static void code_written(void *opaque, gpa_t gpa, unsigned size)
{
    mmu_written(opaque, gpa, size);
}

static void system_registers_set(struct isa_vcpu *t)
{
    struct vcpu *v = t->v;

    v->cr0 = CR0_PG | CR0_AM | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE;
    v->cr4 = CR4_PAE | CR4_PGE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (t->features.fsgsbase && cpu_has(v, CPU_FSGSBASE))
        v->cr4 |= CR4_FSGSBASE;
    if (cpu_has(v, CPU_UMIP))
        v->cr4 |= CR4_UMIP;
    v->xcr0 = XCR0_X87;
    if (cpu_has(v, CPU_XSAVE)) {
        v->cr4 |= CR4_OSXSAVE;
        v->xcr0 |= XCR0_SSE | (cpu_has(v, CPU_AVX) ? XCR0_AVX : 0);
    }
    v->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    v->cr3 = GPA_PML4;
    v->gdtr = (struct table_register){.base = SUPERVISOR + GPA_GDT, .limit = 127};
    v->idtr = (struct table_register){.base = 0, .limit = 0};
    v->seg[SEG_LDTR] = (struct segment){.selector = 0x50, .attr = SEG_ATTR_P | 2, .base = SUPERVISOR + GPA_LDT,
                                        .limit = ISA_LDT_COUNT * 8 - 1};
    if (!t->features.ldt)
        v->seg[SEG_LDTR] = (struct segment){.attr = SEG_ATTR_NULL};
    v->seg[SEG_TR] = (struct segment){.selector = 0x40, .attr = SEG_ATTR_P | 11, .base = SUPERVISOR + GPA_TSS,
                                      .limit = 0x67};
}

struct isa_vcpu *isa_vcpu_create(struct native_features features, const struct engine *engine)
{
    struct isa_vcpu *t = calloc(1, sizeof(*t));
    struct error err = {{0}};

    if (t == NULL)
        return NULL;
    t->features = features;
    t->engine = engine;
    t->memory = memory_create(RAM_SIZE, NULL, &err);
    t->model = t->memory != NULL ? cpu_model_create(NULL, &err) : NULL;
    t->v = t->model != NULL ? vcpu_create(t->memory, t->model, 0, NULL, &err) : NULL;
    if (t->v == NULL || !(engine != NULL ? engine : &engine_interpret)->attach(t->v, &err)) {
        fprintf(stderr, "isa_test: %s\n", err.message);
        exit(2);
    }
    t->v->platform = (struct vcpu_platform){
        .intr_ack = platform_no_interrupt,
        .cr8_read = platform_zero,
        .cr8_write = platform_cr8,
        .apic_msr_read = platform_no_msr,
        .apic_msr_write = platform_no_msr_write,
        .now_ns = platform_zero,
        .wall_base_ns = platform_zero,
        .random = platform_zero,
    };
    t->v->exit = exit_ignored;
    t->ram = memory_ram_base(t->memory);
    memory_set_watcher(t->memory, code_written, t->v);
    tables_make(t);
    system_registers_set(t);
    if (engine != NULL)
        handlers_make(t);
    t->v->translate_heat = 0;
    return t;
}

void isa_vcpu_destroy(struct isa_vcpu *t)
{
    (t->engine != NULL ? t->engine : &engine_interpret)->detach(t->v);
    vcpu_destroy(t->v);
    free(t->model);
    memory_destroy(t->memory);
    free(t);
}

static const uint8_t segs[ISA_SEG_COUNT] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};

static void segment_set(struct isa_vcpu *t, enum seg seg, uint16_t selector, uint64_t base64)
{
    struct segment *s = &t->v->seg[seg];
    uint32_t descriptor[2];

    if (selector <= 3) {
        *s = (struct segment){.selector = selector, .attr = SEG_ATTR_NULL, .base = base64};
        return;
    }
    memcpy(descriptor, t->ram + (selector & 4 ? GPA_LDT : GPA_GDT) + (selector & ~7u), 8);
    segment_from_descriptor(s, selector, descriptor[0], descriptor[1]);
}

static void state_load(struct isa_vcpu *t, const struct isa_case *c)
{
    const struct isa_state *s = &c->state;
    struct vcpu *v = t->v;

    memcpy(v->regs, s->gpr, sizeof(s->gpr));
    v->rip = s->rip;
    rflags_set(v, (uint32_t)s->rflags);
    for (unsigned i = 0; i < ISA_SEG_COUNT; i++)
        segment_set(t, segs[i], s->seg[i], i == ISA_FS ? s->fs_base : i == ISA_GS ? s->gs_base : 0);
    memcpy(v->fpu.ymm, s->ymm, sizeof(s->ymm));
    v->fpu.mxcsr = s->mxcsr;
    memset(v->fpu.x87, 0, sizeof(v->fpu.x87));
    memcpy(v->fpu.x87 + 24, &(uint32_t){HOST_MXCSR}, 4); /* of the image, which the host loads whole */
    memcpy(v->fpu.x87 + 0, &s->fcw, 2);
    memcpy(v->fpu.x87 + 2, &s->fsw, 2);
    v->fpu.x87[4] = s->ftw;
    memcpy(v->fpu.x87 + 32, s->st, sizeof(s->st));
    v->shadow = 0;
    v->dr6_pending = 0;
    v->activity = ACTIVITY_RUNNING;
    vcpu_mode_changed(v);
}

static void state_store(const struct vcpu *v, struct isa_state *s)
{
    memcpy(s->gpr, v->regs, sizeof(s->gpr));
    s->rip = v->rip;
    s->rflags = rflags_get(v);
    for (unsigned i = 0; i < ISA_SEG_COUNT; i++)
        s->seg[i] = v->seg[segs[i]].selector;
    s->fs_base = v->seg[SEG_FS].base;
    s->gs_base = v->seg[SEG_GS].base;
    memcpy(s->ymm, v->fpu.ymm, sizeof(s->ymm));
    s->mxcsr = v->fpu.mxcsr;
    memcpy(&s->fcw, v->fpu.x87 + 0, 2);
    memcpy(&s->fsw, v->fpu.x87 + 2, 2);
    s->ftw = v->fpu.x87[4];
    memcpy(s->st, v->fpu.x87 + 32, sizeof(s->st));
}

/* As a device would write it, so that what was decoded from it is forgotten. */
static void code_set(struct isa_vcpu *t, const struct isa_case *c)
{
    uint8_t int3[CODE_ROOM];

    memset(int3, 0xcc, sizeof(int3));
    memory_write(t->memory, GPA_CODE + t->dirty_offset, int3, t->dirty_length);
    memory_write(t->memory, GPA_CODE + c->code_offset, c->code, c->length);
    t->dirty_offset = c->code_offset;
    t->dirty_length = c->length;
}

/* At an INT3: one of those around the case, or one that is left of damaged code. */
static bool at_end(const struct isa_vcpu *t)
{
    const struct vcpu *v = t->v;
    uint64_t offset = v->rip + (v->code_mode == CODE_64 ? 0 : v->seg[SEG_CS].base) - CODE;
    return offset < CODE_SIZE && t->ram[GPA_CODE + offset] == 0xcc;
}

/* INT3 with prefixes, or INTO, in what is left of damaged code: there is no IDT to deliver them through. On the host they
 * are the traps that they are. */
static void software_interrupt_end(struct isa_vcpu *t, struct isa_result *r)
{
    uint8_t opcode = r->error == VECTOR_BP * 8 + ERROR_IDT ? 0xcc : 0xce;
    uint64_t offset = t->v->rip + (t->v->code_mode == CODE_64 ? 0 : t->v->seg[SEG_CS].base) - CODE;

    if (r->vector != VECTOR_GP || (r->error != VECTOR_BP * 8 + ERROR_IDT && r->error != VECTOR_OF * 8 + ERROR_IDT))
        return;
    for (unsigned i = 0; i < 15 && offset + i < CODE_SIZE; i++) {
        if (t->ram[GPA_CODE + offset + i] != opcode)
            continue;
        r->vector = opcode == 0xcc ? ISA_END : VECTOR_OF;
        r->error = 0;
        t->v->rip += i + (opcode == 0xcc ? 0 : 1);
        return;
    }
}

static void run_stepped(struct isa_vcpu *t, struct isa_result *r)
{
    struct fault fault = {0};
    unsigned steps = 0;

    while (!at_end(t)) {
        if (steps++ == STEPS_MAX) {
            r->vector = ISA_HANG;
            break;
        }
        if (!interpret_step(t->v, &fault)) {
            r->vector = fault.vector;
            r->error = fault.has_error ? fault.error : 0;
            r->cr2 = fault.vector == VECTOR_PF ? fault.address : 0;
            break;
        }
        if (t->v->activity != ACTIVITY_RUNNING) {
            r->vector = ISA_CRASH;
            break;
        }
    }
    software_interrupt_end(t, r);
    state_store(t->v, &r->state);
}

/* The engine has halted in a handler: what the processor pushed is the case's state. */
static void frame_parse(struct isa_vcpu *t, struct isa_result *r)
{
    uint64_t offset = t->v->rip - 1 - (SUPERVISOR + GPA_HANDLERS), sp = t->v->regs[RSP] - (SUPERVISOR + GPA_STACK);
    uint64_t frame[6];
    unsigned n = 0;

    r->vector = (uint32_t)(offset / HANDLER_SIZE);
    bool has_error = vector_has_error(r->vector);
    if (offset >= PAGE_SIZE || offset % HANDLER_SIZE != 0 || sp != PAGE_SIZE - (has_error ? 48 : 40)) {
        r->vector = ISA_CRASH;
        return;
    }
    memcpy(frame, t->ram + GPA_STACK + sp, has_error ? 48 : 40);
    if (has_error)
        r->error = (uint32_t)frame[n++];
    r->cr2 = r->vector == VECTOR_PF ? t->v->cr2 : 0;
    r->state.rip = frame[n];
    r->state.seg[ISA_CS] = (uint16_t)frame[n + 1];
    r->state.rflags = frame[n + 2];
    r->state.gpr[RSP] = frame[n + 3];
    r->state.seg[ISA_SS] = (uint16_t)frame[n + 4];
    if (r->vector == VECTOR_BP) {
        r->vector = ISA_END;
        r->state.rip--;
    }
}

static void run_engine(struct isa_vcpu *t, struct isa_result *r)
{
    struct vcpu *v = t->v;

    mmu_flush(v);
    v->fault_chain_length = 0;
    t->engine->run(v, v->instructions + 4 * STEPS_MAX);
    state_store(v, &r->state);
    if (v->activity == ACTIVITY_HLT)
        frame_parse(t, r);
    else
        r->vector = v->activity == ACTIVITY_RUNNING ? ISA_HANG : ISA_CRASH;
}

void isa_vcpu_run(struct isa_vcpu *t, const struct isa_case *c, struct isa_result *r)
{
    code_set(t, c);
    memcpy(t->ram + GPA_ARENA, isa_noise(), ARENA_SIZE);
    isa_patch(c, t->ram + GPA_ARENA);
    state_load(t, c);
    r->vector = ISA_END;
    r->error = 0;
    r->cr2 = 0;
    if (t->engine != NULL)
        run_engine(t, r);
    else
        run_stepped(t, r);
    /* Else the monitor's own arithmetic would trap. */
    if ((__builtin_ia32_stmxcsr() & ~0x3fu) != HOST_MXCSR) {
        __builtin_ia32_ldmxcsr(HOST_MXCSR);
        r->vector = ISA_CRASH;
    }
    memcpy(r->arena, t->ram + GPA_ARENA, ARENA_SIZE);
}
