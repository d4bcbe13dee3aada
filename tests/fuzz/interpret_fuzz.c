/* libFuzzer entry for decoding and the interpreter: whatever a guest executes, in whatever mode and with whatever tables, it
 * cannot break ring3.
 *
 * The input is a header, then bytes that are laid out as code, stack, data and -- in some modes -- as part of the tables:
 *
 *     byte 0       how the processor stands (enum start, modulo), bit 7: CPL 3 where there is a choice
 *     byte 1       bits for CR0, CR4 and EFER beside those that the mode needs
 *     bytes 2-3    bit mask of GDT, IDT and page-table entries that the input overwrites
 *     bytes 4-67   eight registers
 *     the rest     code at CODE, then repeated through the data page
 *
 * A run is bounded by instructions and by exits through the door, so an endless loop of faults ends too. */
#include <stdlib.h>
#include <string.h>

#include "cpu/code_cache.h"
#include "cpu/cpuid.h"
#include "engine/interpret/interpret.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define RAM_SIZE (2 * MiB)
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS 0x3000u
#define DATA 0x4000u
#define CODE 0x7c00u
#define TABLES 0x10000u /* PML4 or page directory, then what it needs */
#define HEADER 68u
#define INSTRUCTIONS_MAX 400u
#define EXITS_MAX 200u

enum start { START_REAL, START_16, START_32, START_32_PAGING, START_PAE, START_V86, START_64, START_COMPAT, START_COUNT };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    struct vcpu *v;
    struct memory *memory;
    uint8_t *ram;
    unsigned exits;
    uint64_t time_ns;
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

    if (++f->exits == EXITS_MAX)
        vcpu_raise(v, PENDING_STOP);
    switch (exit->reason) {
    case EXIT_IO_IN: exit->value = memory_port_read(f->memory, (uint16_t)exit->address, exit->size); break;
    case EXIT_IO_OUT: memory_port_write(f->memory, (uint16_t)exit->address, exit->size, (uint32_t)exit->value); break;
    case EXIT_MMIO_READ: exit->value = memory_mmio_read(f->memory, exit->address, exit->size); break;
    case EXIT_MMIO_WRITE: memory_mmio_write(f->memory, exit->address, exit->size, exit->value); break;
    default: break;
    }
}

static void fuzz_code_written(void *opaque, uint64_t gpfn)
{
    code_cache_written(((struct fuzz *)opaque)->v, gpfn);
}

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
    if (fuzz.v == NULL || !engine_interpret.attach(fuzz.v, &err))
        abort();
    fuzz.v->platform = (struct vcpu_platform){
        .intr_ack = platform_ack, .cr8_read = platform_zero, .cr8_write = platform_cr8,
        .apic_msr_read = platform_msr_read, .apic_msr_write = platform_msr_write, .now_ns = platform_now,
        .wall_base_ns = platform_zero, .random = platform_now, .opaque = &fuzz};
    fuzz.v->exit = fuzz_exit;
    fuzz.v->exit_opaque = &fuzz;
    fuzz.ram = memory_ram_base(fuzz.memory);
    memory_set_watcher(fuzz.memory, fuzz_code_written, &fuzz);
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz *f;
    uint64_t registers[8];

    if (f == NULL)
        f = fuzz_create();
    if (size < HEADER + 8)
        return -1;
    struct vcpu *v = f->v;
    enum start start = (data[0] & 0x7f) % START_COUNT;

    memset(f->ram, 0, RAM_SIZE);
    v->pending = 0;
    vcpu_reset(v, false);
    v->activity = ACTIVITY_RUNNING;
    mmu_flush(v);
    code_cache_reset(v);
    v->fault_chain_length = 0;
    f->exits = 0;

    tables_make(f, start, data, size);
    for (unsigned at = DATA; at < DATA + 0x1000; at += 4)
        memcpy(f->ram + at, data + HEADER + (at / 4) % (size - HEADER - 3), 4);
    size_t code = size - HEADER < 0x4000 ? size - HEADER : 0x4000;
    memcpy(f->ram + CODE, data + HEADER, code);

    mode_set(v, start, (data[0] & 0x80) && start != START_16 && start != START_REAL, data[1]);
    memcpy(registers, data + 4, sizeof(registers));
    for (unsigned i = 0; i < 8; i++) {
        /* Half of them point somewhere. */
        uint64_t value = registers[i] & 1 ? registers[i] : DATA + (registers[i] >> 8 & 0xffff);
        v->regs[i] = v->code_mode == CODE_64 ? value : (uint32_t)value;
    }
    if (data[1] & 0x40)
        v->regs[RSP] = 0x9000;
    engine_interpret.run(v, v->instructions + INSTRUCTIONS_MAX);
    return 0;
}
