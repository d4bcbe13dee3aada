/* libFuzzer entry for decoding and the interpreter: whatever a guest executes, in whatever mode and with whatever tables, it
 * cannot break ring3.
 *
 * The input is a header, then bytes that are laid out as code, stack, data and -- in some modes -- as part of the tables:
 *
 *     byte 0       how the processor stands (enum start, modulo), bit 7: CPL 3 where there is a choice
 *     byte 1       bits for CR0, CR4 and EFER beside those that the mode needs
 *     bytes 2-3    bit mask of GDT, IDT and page-table entries that the input overwrites
 *     bytes 4-67   eight registers
 *     byte 68      flags, what is pending, whether the code begins at a page's end
 *     the rest     code at CODE, then repeated through the data page
 *
 * Below the last 64 KiB of RAM lie a page of ROM, with the code in it too, and a page of a device that remembers.
 *
 * A run is bounded by instructions and by exits through the door, so an endless loop of faults ends too.
 *
 * Each input is run twice: as the engine runs it, and one instruction at a time with nothing remembered about code. Both
 * must end in the same state, so whatever the guest does to its code is noticed at once. Not if the guest has changed its
 * page tables, since what the processor remembers of them is allowed to show, and not with single-stepping, which the second
 * way does not know. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/code_cache.h"
#include "cpu/cpuid.h"
#include "cpu/segment.h"
#include "engine/interpret/interpret.h"
#include "memory/memory.h"
#include "mmu/access.h"

#ifndef FUZZ_ENGINE /* translate_fuzz.c has another one */
#define FUZZ_ENGINE engine_interpret
#endif

#define RAM_SIZE (2 * MiB)
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS 0x3000u
#define DATA 0x4000u
#define CODE 0x7c00u
#define TABLES 0x10000u /* PML4 or page directory, then what it needs */
#define TABLES_SIZE 0x5000u
#define ROM 0x1e0000u
#define DEVICE 0x1e1000u
#define HEADER 69u
#define INSTRUCTIONS_MAX 400u
#define EXITS_MAX 200u
#define OTHERS_MAX 20000u

enum start { START_REAL, START_16, START_32, START_32_PAGING, START_PAE, START_V86, START_64, START_COMPAT, START_COUNT };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    struct vcpu *v;
    struct memory *memory;
    uint8_t *ram;
    uint8_t rom[PAGE_SIZE], device[PAGE_SIZE];
    unsigned exits, others;
    bool stopped;
    uint64_t time_ns;
    struct vcpu *first; /* how the first run ended */
    uint8_t *first_ram, first_device[PAGE_SIZE];
    uint8_t tables[TABLES_SIZE]; /* at the start */
    bool paging_changed;
};

static uint64_t platform_now(void *opaque)
{
    struct fuzz *f = opaque;
    return f->time_ns += 1000;
}

static uint64_t platform_zero(void *opaque)
{
    return 0;
}

static int platform_ack(void *opaque)
{
    return 0x20;
}

static void platform_cr8(void *opaque, uint64_t cr8)
{
}

static bool platform_msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    *value = 0;
    return msr != 0x6e0;
}

static bool platform_msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    return value != 0;
}

static void fuzz_exit(struct vcpu *v, struct exit *exit)
{
    struct fuzz *f = v->exit_opaque;

    if (exit->reason == EXIT_CR_WRITE || exit->reason == EXIT_TLB_FLUSH || exit->reason == EXIT_TASK_SWITCH)
        f->paging_changed = true;
    /* Others come from straight-line code, which does not stop at once, and EXIT_CODE_WRITE tells what is remembered. */
    bool counts = exit->reason != EXIT_MMIO_READ && exit->reason != EXIT_MMIO_WRITE && exit->reason != EXIT_CODE_WRITE &&
                  exit->reason != EXIT_PAUSE;
    if (counts && ++f->exits == EXITS_MAX) {
        f->stopped = true;
        vcpu_raise(v, PENDING_STOP);
    }
    if (!counts && ++f->others == OTHERS_MAX) /* a long string instruction */
        vcpu_raise(v, PENDING_STOP);
    switch (exit->reason) {
    case EXIT_IO_IN: exit->value = memory_port_read(f->memory, (uint16_t)exit->address, exit->size); break;
    case EXIT_IO_OUT: memory_port_write(f->memory, (uint16_t)exit->address, exit->size, (uint32_t)exit->value); break;
    case EXIT_MMIO_READ: exit->value = memory_mmio_read(f->memory, exit->address, exit->size); break;
    case EXIT_MMIO_WRITE: memory_mmio_write(f->memory, exit->address, exit->size, exit->value); break;
    default: break;
    }
}

static void fuzz_code_written(void *opaque, gpa_t gpa, unsigned size)
{
    code_cache_written(((struct fuzz *)opaque)->v, gpa, size);
}

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, ((struct fuzz *)dev)->device + offset, size);
    return value;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    memcpy(((struct fuzz *)dev)->device + offset, &value, size);
}

static const struct io_ops device_ops = {.read = device_read, .write = device_write, .name = "fuzz"};

static struct fuzz *fuzz_create(void)
{
    static struct fuzz fuzz;
    struct error err;
    struct cpu_model *model;

    fuzz.memory = memory_create(RAM_SIZE, NULL, &err);
    model = cpu_model_create(NULL, &err);
    if (fuzz.memory == NULL || model == NULL)
        abort();
    fuzz.v = vcpu_create(fuzz.memory, model, 0, NULL, &err);
    if (fuzz.v == NULL || !FUZZ_ENGINE.attach(fuzz.v, &err))
        abort();
    fuzz.v->platform = (struct vcpu_platform){
        .intr_ack = platform_ack, .cr8_read = platform_zero, .cr8_write = platform_cr8,
        .apic_msr_read = platform_msr_read, .apic_msr_write = platform_msr_write, .now_ns = platform_now,
        .wall_base_ns = platform_zero, .random = platform_now, .opaque = &fuzz};
    fuzz.v->exit = fuzz_exit;
    fuzz.v->exit_opaque = &fuzz;
    fuzz.v->translate_heat = 0;
    fuzz.ram = memory_ram_base(fuzz.memory);
    memory_set_watcher(fuzz.memory, fuzz_code_written, &fuzz);
    fuzz.first = malloc(sizeof *fuzz.first);
    fuzz.first_ram = malloc(RAM_SIZE);
    if (fuzz.first == NULL || fuzz.first_ram == NULL ||
        !memory_map_rom(fuzz.memory, ROM, PAGE_SIZE, fuzz.rom, &err) ||
        !memory_map_mmio(fuzz.memory, DEVICE, PAGE_SIZE, &device_ops, &fuzz, &err))
        abort();
    return &fuzz;
}

static void put64(struct fuzz *f, unsigned at, uint64_t value)
{
    memcpy(f->ram + at, &value, 8);
}

static void tables_make(struct fuzz *f, enum start start, const uint8_t *data, size_t size)
{
    bool wide = start == START_64 || start == START_COMPAT;
    static const uint64_t gdt[] = {
        0,
        0x00cf9b000000ffffull, /* 08: 32-bit code */
        0x00cf93000000ffffull, /* 10: data */
        0x00af9b000000ffffull, /* 18: 64-bit code */
        0x00cffb000000ffffull, /* 20: 32-bit code, user */
        0x00cff3000000ffffull, /* 28: data, user */
        0x00affb000000ffffull, /* 30: 64-bit code, user */
        0x000f9b000000ffffull, /* 38: 16-bit code */
        0x0000890030000067ull, /* 40: TSS */
        0,
        0x0000820010000fffull, /* 50: LDT: the GDT again */
        0,
        0x0000ec0000087c00ull, /* 60: call gate */
        0,
        0x0000850000400000ull, /* 70: task gate */
        0,
    };
    memcpy(f->ram + GDT, gdt, sizeof(gdt));
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t gate = 0x0000ee0000000000ull | (uint64_t)(wide ? 0x18 : 0x08) << 16 | (CODE + vector);
        if (wide)
            put64(f, IDT + 16 * vector, gate);
        else
            put64(f, IDT + 8 * vector, gate);
    }
    if (start == START_REAL) /* the vectors point into the input */
        for (unsigned vector = 0; vector < 256; vector++)
            memcpy(f->ram + 4 * vector, data + (vector * 4) % (size - 3), 4);
    put64(f, TSS + 4, wide ? 0x9000 : 0x0000001000009000ull);
    f->ram[TSS + 0x66] = 0x68;

    /* 2 MiB by large pages, and by small pages of the first table for what lies low. */
    if (wide) {
        put64(f, TABLES, (TABLES + 0x1000) | 7);
        put64(f, TABLES + 0xff8, (TABLES + 0x1000) | 7);
        put64(f, TABLES + 0x1000, (TABLES + 0x2000) | 7);
        put64(f, TABLES + 0x2000, (TABLES + 0x3000) | 7);
        put64(f, TABLES + 0x2008, 0x87);
    } else if (start == START_PAE) {
        put64(f, TABLES, (TABLES + 0x2000) | 1);
        put64(f, TABLES + 0x2000, (TABLES + 0x3000) | 7);
        put64(f, TABLES + 0x2008, 0x87);
    } else {
        put64(f, TABLES, (uint64_t)0x87 << 32 | (TABLES + 0x4000) | 7);
    }
    for (unsigned page = 0; page < 512; page++)
        put64(f, TABLES + 0x3000 + 8 * page, page << 12 | 7);
    for (unsigned page = 0; page < 1024; page++) {
        uint32_t entry = page << 12 | 7;
        memcpy(f->ram + TABLES + 0x4000 + 4 * page, &entry, 4);
    }

    uint16_t damage = (uint16_t)(data[2] | data[3] << 8);
    for (unsigned i = 0; i < 16; i++) {
        static const unsigned at[16] = {GDT + 8,  GDT + 0x20, GDT + 0x28, GDT + 0x40, GDT + 0x60, GDT + 0x70,
                                        IDT + 48, IDT + 104,  IDT + 112,  TSS + 4,    TSS + 0x20, TABLES,
                                        TABLES + 0x1000, TABLES + 0x3020, TABLES + 0x4010, TABLES + 0x2008};
        if ((damage >> i & 1) && size >= HEADER + 8 * (i + 1))
            memcpy(f->ram + at[i], data + HEADER + 8 * i, 8);
    }
}

static void segment_set(struct vcpu *v, enum seg seg, uint16_t selector, uint32_t attr, uint64_t base, uint32_t limit)
{
    v->seg[seg] = (struct segment){.selector = selector, .attr = attr, .base = base, .limit = limit};
}

/* Puts the processor into the mode, at CODE. */
static void mode_set(struct vcpu *v, enum start start, bool user, uint8_t extra)
{
    static const uint64_t cr4_bits[8] = {CR4_VME, CR4_PSE, CR4_PGE, CR4_SMEP, CR4_SMAP, CR4_UMIP, CR4_DE, CR4_PVI};
    bool wide = start == START_64 || start == START_COMPAT;
    uint32_t dpl = user ? SEG_ATTR_DPL : 0;
    uint16_t rpl = user ? 3 : 0;

    v->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    v->rip = CODE;
    if (start == START_REAL) {
        for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
            segment_set(v, seg, 0, SEG_ATTR_P | SEG_ATTR_S | 3, 0, 0xffff);
        vcpu_mode_changed(v);
        return;
    }
    v->cr0 |= CR0_PE | CR0_ET;
    if (extra & 0x80)
        v->cr0 |= CR0_WP | CR0_AM | CR0_NE;
    v->gdtr = (struct table_register){.base = GDT, .limit = 127};
    v->idtr = (struct table_register){.base = IDT, .limit = 0xfff};
    segment_set(v, SEG_TR, 0x40, SEG_ATTR_P | 11, TSS, 0x67);
    segment_set(v, SEG_LDTR, 0x50, SEG_ATTR_P | 2, GDT, 0xfff);
    uint32_t data = SEG_ATTR_P | SEG_ATTR_S | 3 | dpl | SEG_ATTR_DB | SEG_ATTR_G;
    uint32_t code = SEG_ATTR_P | SEG_ATTR_S | 11 | dpl | SEG_ATTR_G | (start == START_64 ? SEG_ATTR_L : SEG_ATTR_DB);
    for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
        segment_set(v, seg, (user ? 0x28 : 0x10) | rpl, data, 0, 0xffffffff);
    segment_set(v, SEG_CS, (uint16_t)((start == START_64 ? user ? 0x30 : 0x18 : user ? 0x20 : 0x08) | rpl), code, 0, 0xffffffff);
    if (start == START_16) {
        segment_set(v, SEG_CS, 0x38, (code & ~(SEG_ATTR_DB | SEG_ATTR_G)), 0, 0xffff);
        segment_set(v, SEG_SS, 0x10, (data & ~(SEG_ATTR_DB | SEG_ATTR_G)), 0, 0xffff);
    }
    if (wide || start >= START_32_PAGING) {
        for (unsigned i = 0; i < 7; i++)
            v->cr4 |= extra >> i & 1 && (cr4_bits[i] != CR4_SMEP || cpu_has(v, CPU_SMEP)) ? cr4_bits[i] : 0;
        v->cr3 = TABLES;
        v->cr4 |= wide || start == START_PAE ? CR4_PAE : CR4_PSE;
        if (wide)
            v->efer |= EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
        v->cr0 |= CR0_PG;
        if (start == START_PAE)
            mmu_load_pdptes(v, v->cr3);
    }
    if (start == START_V86) {
        rflags_set(v, rflags_get(v) | FLAG_VM | (extra & 1 ? FLAG_IOPL : 0));
        for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
            segment_set(v, seg, 0, SEG_ATTR_P | SEG_ATTR_S | 3 | SEG_ATTR_DPL, 0, 0xffff);
    }
    vcpu_mode_changed(v);
}

/* Memory and processor as the input says. */
static void prepare(struct fuzz *f, const uint8_t *data, size_t size)
{
    struct vcpu *v = f->v;
    enum start start = (data[0] & 0x7f) % START_COUNT;
    uint64_t registers[8];

    memset(f->ram, 0, RAM_SIZE);
    memset(f->device, 0, sizeof f->device);
    v->pending = 0;
    vcpu_reset(v, false);
    v->activity = ACTIVITY_RUNNING;
    v->instructions = 0;
    mmu_flush(v);
    code_cache_reset(v);
    v->fault_chain_length = 0;
    f->exits = f->others = 0;
    f->stopped = f->paging_changed = false;
    f->time_ns = 0;

    tables_make(f, start, data, size);
    for (unsigned at = DATA; at < DATA + 0x1000; at += 4)
        memcpy(f->ram + at, data + HEADER + (at / 4) % (size - HEADER - 3), 4);
    size_t code = size - HEADER < 0x4000 ? size - HEADER : 0x4000;
    memcpy(f->ram + CODE, data + HEADER, code);
    memset(f->rom, 0xf4, sizeof f->rom);
    memcpy(f->rom, data + HEADER, code < sizeof f->rom ? code : sizeof f->rom);

    memcpy(f->tables, f->ram + TABLES, TABLES_SIZE);
    mode_set(v, start, (data[0] & 0x80) && start != START_16 && start != START_REAL, data[1]);
    memcpy(registers, data + 4, sizeof(registers));
    for (unsigned i = 0; i < 8; i++) {
        /* Half of them point somewhere. */
        static const uint32_t bases[4] = {DATA, CODE, ROM - 0x8000, 0xfff0};
        uint64_t value = registers[i] & 1 ? registers[i] : bases[registers[i] >> 1 & 3] + (registers[i] >> 8 & 0xffff);
        v->regs[i] = v->code_mode == CODE_64 ? value : (uint32_t)value;
    }
    if (data[1] & 0x40)
        v->regs[RSP] = 0x9000;
    v->cr4 |= v->model->cr4_mask & CR4_OSXSAVE;
    v->xcr0 = v->model->xcr0_mask;
    uint8_t extra = data[68];
    uint32_t flags = (extra & 1 ? FLAG_AC : 0) | (extra & 2 ? FLAG_DF : 0) | (extra & 4 ? FLAG_IF : 0) |
                     ((extra & 0x18) == 0x18 ? FLAG_TF : 0);
    rflags_set(v, rflags_get(v) | flags);
    if ((extra & 0xc0) == 0xc0) {
        memmove(f->ram + 0x8ff8, f->ram + CODE, 64);
        v->rip = 0x8ff8 + (extra >> 3 & 7);
    }
    if ((extra & 0x60) == 0x40)
        vcpu_raise(v, extra & 8 ? PENDING_NMI : PENDING_INTR);
    vcpu_mode_changed(v);
}

/* Whether the guest has changed its page tables, beside accessed and dirty bits, or their use. */
static bool has_changed_paging(const struct fuzz *f)
{
    if (!(f->v->cr0 & CR0_PG))
        return false;
    for (unsigned at = 0; at < TABLES_SIZE; at += 4) {
        uint32_t before, after;
        memcpy(&before, f->tables + at, 4);
        memcpy(&after, f->ram + TABLES + at, 4);
        if ((before ^ after) & ~0x60u)
            return true;
    }
    return f->paging_changed;
}

/* One instruction after the other, each looked up anew, until as many have run and as many exits been counted as in the
 * first run: an iteration of a repeated OUTS is an exit but no instruction. False: something happened that this does not
 * know. */
static bool run_slowly(struct fuzz *f, unsigned exits)
{
    struct vcpu *v = f->v;
    struct fault fault;

    v->instructions_stop = UINT64_MAX;
    while (v->instructions < f->first->instructions ||
           (f->exits < exits && v->instructions == f->first->instructions)) {
        if (v->activity != ACTIVITY_RUNNING || f->stopped)
            break;
        if ((v->rflags_rest & FLAG_TF) || (v->dr[7] & 0xff) || v->dr6_pending != 0 || v->pending != 0)
            return false;
        v->shadow = 0;
        v->rflags_rest &= ~FLAG_RF;
        gpa_t gpa;
        if (mmu_peek(v, v->code_mode == CODE_64 ? v->rip : (uint32_t)(v->seg[SEG_CS].base + v->rip), &gpa))
            code_cache_written(v, gpa & ~PAGE_OFFSET_MASK, PAGE_SIZE);
        if (!interpret_step(v, &fault)) {
            v->instructions++;
            v->shadow = 0;
            v->dr6_pending = 0;
            event_deliver(v, EVENT_EXCEPTION, &fault);
        }
    }
    return true;
}

static void different(const char *what, uint64_t first, uint64_t second)
{
    fprintf(stderr, "%s: %#llx when run, %#llx step by step\n", what, (unsigned long long)first,
            (unsigned long long)second);
    abort();
}

#define SAME(field)                                                                                                    \
    do {                                                                                                               \
        if (f->first->field != v->field)                                                                               \
            different(#field, (uint64_t)f->first->field, (uint64_t)v->field);                                          \
    } while (0)

static void compare(const struct fuzz *f)
{
    const struct vcpu *v = f->v;

    SAME(instructions);
    SAME(rip);
    SAME(cpl);
    SAME(code_mode);
    SAME(activity);
    SAME(cr0);
    SAME(cr2);
    SAME(cr3);
    SAME(cr4);
    SAME(efer);
    SAME(gdtr.base);
    SAME(idtr.base);
    if (rflags_get(f->first) != rflags_get(v))
        different("rflags", rflags_get(f->first), rflags_get(v));
    for (unsigned i = 0; i <= GPR_ZERO; i++)
        SAME(regs[i]);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        SAME(seg[i].selector);
        SAME(seg[i].attr);
        SAME(seg[i].base);
        SAME(seg[i].limit);
    }
    if (memcmp(&f->first->fpu, &v->fpu, sizeof v->fpu) != 0)
        different("x87 and vector state", 0, 0);
    bool same = memcmp(f->first_ram, f->ram, RAM_SIZE) == 0;
    for (unsigned at = 0; !same && at < RAM_SIZE; at++)
        if (f->first_ram[at] != f->ram[at])
            different("memory", (uint64_t)at << 8 | f->first_ram[at], f->ram[at]);
    if (memcmp(f->first_device, f->device, sizeof f->device) != 0)
        different("device", 0, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz *f;

    if (f == NULL)
        f = fuzz_create();
    if (size < HEADER + 8)
        return -1;
    struct vcpu *v = f->v;
    prepare(f, data, size);
    bool comparable = v->pending == 0;
    FUZZ_ENGINE.run(v, INSTRUCTIONS_MAX);
    if (v->regs[GPR_ZERO] != 0 || (v->code_mode != CODE_64 && (v->regs[RSP] >> 32 || v->rip >> 32)))
        abort();
    if (!comparable || f->others >= OTHERS_MAX || has_changed_paging(f) || (v->rflags_rest & FLAG_TF))
        return 0;
    memcpy(f->first, v, sizeof *v);
    memcpy(f->first_ram, f->ram, RAM_SIZE);
    memcpy(f->first_device, f->device, sizeof f->device);
    unsigned exits = f->exits;
    prepare(f, data, size);
    if (run_slowly(f, exits) && !has_changed_paging(f))
        compare(f);
    return 0;
}
