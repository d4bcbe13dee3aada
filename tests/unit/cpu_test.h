/* A processor on a bench, for tests that call the meaning of an instruction directly.
 *
 * RAM is 4 MiB, identity-mapped where paging is needed. The GDT has code and data segments for every privilege level,
 * and room for what a test describes itself. There is no decoder and no engine: bench_run() calls an insn_op as one
 * would and reports the fault that unwound.
 */
#ifndef RING3_TESTS_CPU_TEST_H
#define RING3_TESTS_CPU_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpuid.h"
#include "cpu/ops.h"
#include "cpu/segment.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define GDT_AT 0x1000u
#define IDT_AT 0x2000u
#define LDT_AT 0x3000u
#define TSS_AT 0x4000u  /* the current task's */
#define TSS2_AT 0x5000u /* another */
#define PML4_AT 0x8000u /* then PDPT, PD */
#define STACK_AT(cpl) (0x20000u + 0x10000u * (cpl))
#define CODE_AT 0x10000u

/* Selectors, RPL included. */
#define CODE(n) ((1 + (n)) * 8u | (n))
#define DATA(n) ((5 + (n)) * 8u | (n))
#define CODE64(n) ((9 + (n)) * 8u | (n))
#define LDT (13 * 8u)
#define TSS (16 * 8u)
#define TSS2 (18 * 8u)
#define GATE (20 * 8u)
#define SCRATCH (24 * 8u)
#define SCRATCH2 (26 * 8u)
#define GDT_ENTRIES 32

struct bench {
    struct memory *memory;
    uint8_t *ram;
    struct cpu_model model;
    struct vcpu *v;
    unsigned exits[EXIT_REASON_COUNT];
    struct exit last_exit;
};

/* What bench_run() returns when nothing was raised. */
#define NO_FAULT (-1)

static inline uint64_t descriptor_make(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static inline uint64_t gate_make(unsigned type, unsigned dpl, uint16_t selector, uint32_t offset, unsigned low_bits)
{
    return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)low_bits << 32 |
           (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)(offset >> 16) << 48;
}

static inline void put64(struct bench *b, uint32_t at, uint64_t value)
{
    memcpy(b->ram + at, &value, 8);
}

static inline void put32(struct bench *b, uint32_t at, uint32_t value)
{
    memcpy(b->ram + at, &value, 4);
}

static inline void put16(struct bench *b, uint32_t at, uint16_t value)
{
    memcpy(b->ram + at, &value, 2);
}

static inline uint64_t get64(struct bench *b, uint32_t at)
{
    uint64_t value;
    memcpy(&value, b->ram + at, 8);
    return value;
}

static inline uint32_t get32(struct bench *b, uint32_t at)
{
    return (uint32_t)get64(b, at);
}

static inline uint16_t get16(struct bench *b, uint32_t at)
{
    return (uint16_t)get64(b, at);
}

static inline void gdt_put(struct bench *b, uint16_t selector, uint64_t descriptor)
{
    put64(b, GDT_AT + (selector & ~7u), descriptor);
}

static inline uint8_t gdt_access(struct bench *b, uint16_t selector)
{
    return b->ram[GDT_AT + (selector & ~7u) + 5];
}

static inline void idt_put(struct bench *b, unsigned vector, uint64_t gate)
{
    put64(b, IDT_AT + vector * 8, gate);
}

static inline void idt_put64(struct bench *b, unsigned vector, uint64_t gate, uint32_t upper)
{
    put64(b, IDT_AT + vector * 16, gate);
    put64(b, IDT_AT + vector * 16 + 8, upper);
}

static inline void bench_exit(struct vcpu *v, struct exit *exit)
{
    struct bench *b = v->exit_opaque;
    b->exits[exit->reason]++;
    b->last_exit = *exit;
}

static inline void bench_tables(struct bench *b)
{
    for (unsigned n = 0; n < 4; n++) {
        gdt_put(b, CODE(n), descriptor_make(0, 0xfffff, 0x9a | n << 5, 0xc));
        gdt_put(b, DATA(n), descriptor_make(0, 0xfffff, 0x92 | n << 5, 0xc));
        gdt_put(b, CODE64(n), descriptor_make(0, 0xfffff, 0x9a | n << 5, 0xa));
    }
    gdt_put(b, LDT, descriptor_make(LDT_AT, 0xff, 0x82, 0));
    gdt_put(b, TSS, descriptor_make(TSS_AT, 0x2067, 0x89, 0));
    gdt_put(b, TSS2, descriptor_make(TSS2_AT, 0x67, 0x89, 0));
    put64(b, PML4_AT, (PML4_AT + 0x1000) | 7);
    put64(b, PML4_AT + 0x1000, (PML4_AT + 0x2000) | 7);
    for (unsigned i = 0; i < 512; i++)
        put64(b, PML4_AT + 0x2000 + i * 8, (uint64_t)i << 21 | 0x87);
}

static inline int bench_setup(void **state)
{
    struct bench *b = test_calloc(1, sizeof *b);
    b->memory = memory_create(4 * MiB, NULL, NULL);
    assert_non_null(b->memory);
    b->ram = memory_ram_base(b->memory);
    b->model.signature = 0x600;
    b->model.family = 6;
    b->model.maxphyaddr = 40;
    b->model.tsc_khz = TSC_FREQUENCY_HZ / 1000;
    b->model.has_cpuid = true;
    b->model.rflags_mask = 0x3f7fd5;
    memcpy(b->model.vendor, "GenuineIntel", 13);
    memset(b->model.word, 0xff, sizeof b->model.word);
    b->v = vcpu_create(b->memory, &b->model, 0, NULL, NULL);
    assert_non_null(b->v);
    b->v->exit = bench_exit;
    b->v->exit_opaque = b;
    b->v->a20_mask = ~0ull;
    bench_tables(b);
    b->v->gdtr = (struct table_register){.base = GDT_AT, .limit = GDT_ENTRIES * 8 - 1};
    b->v->idtr = (struct table_register){.base = IDT_AT, .limit = 0xfff};
    *state = b;
    return 0;
}

static inline int bench_teardown(void **state)
{
    struct bench *b = *state;
    vcpu_destroy(b->v);
    memory_destroy(b->memory);
    test_free(b);
    return 0;
}

static inline void bench_segment(struct bench *b, enum seg seg, uint16_t selector)
{
    uint64_t d = get64(b, GDT_AT + (selector & ~7u));
    segment_from_descriptor(&b->v->seg[seg], selector, (uint32_t)d, (uint32_t)(d >> 32) | 0x100);
}

/* Flat 32-bit protected mode at `cpl`, with a 32-bit TSS, RSP = STACK_AT(cpl), RIP = CODE_AT. */
static inline void bench_protected(struct bench *b, unsigned cpl)
{
    struct vcpu *v = b->v;
    v->cr0 |= CR0_PE;
    v->cr0 &= ~(CR0_TS | CR0_PG | CR0_AM);
    v->efer = v->cr4 = 0;
    rflags_set(v, 0);
    bench_segment(b, SEG_CS, CODE(cpl));
    for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
        if (seg != SEG_CS)
            bench_segment(b, seg, DATA(cpl));
    bench_segment(b, SEG_LDTR, LDT);
    bench_segment(b, SEG_TR, TSS);
    v->seg[SEG_TR].attr = 0x8b;
    b->ram[GDT_AT + TSS + 5] = 0x8b;
    for (unsigned n = 0; n < 3; n++) {
        put32(b, TSS_AT + 4 + 8 * n, STACK_AT(n));
        put32(b, TSS_AT + 8 + 8 * n, DATA(n));
    }
    v->regs[RSP] = STACK_AT(cpl);
    v->rip = CODE_AT;
    v->activity = ACTIVITY_RUNNING;
    mmu_flush(v);
    vcpu_mode_changed(v);
}

/* 64-bit mode at `cpl`. */
static inline void bench_long(struct bench *b, unsigned cpl)
{
    struct vcpu *v = b->v;
    bench_protected(b, cpl);
    v->cr3 = PML4_AT;
    v->cr4 = CR4_PAE;
    v->efer = EFER_LME | EFER_LMA | EFER_SCE;
    v->cr0 |= CR0_PG;
    memset(b->ram + TSS_AT, 0, 0x68);
    for (unsigned n = 0; n < 3; n++)
        put64(b, TSS_AT + 4 + 8 * n, STACK_AT(n));
    bench_segment(b, SEG_CS, CODE64(cpl));
    mmu_flush(v);
    vcpu_mode_changed(v);
}

/* Runs `op` as an instruction of 2 bytes at v->rip. Returns the vector that was raised (v->fault has the rest), or
 * NO_FAULT with v->rip gone on. */
static inline int bench_run(struct bench *b, insn_op *op, const struct insn *in)
{
    struct vcpu *v = b->v;
    jmp_buf unwind;
    v->unwind = &unwind;
    v->next_rip = v->rip + 2;
    if (setjmp(unwind) != 0) {
        v->unwind = NULL;
        return v->fault.vector;
    }
    op(v, in);
    v->rip = v->next_rip;
    v->unwind = NULL;
    return NO_FAULT;
}

static inline struct insn insn_reg(unsigned opsize, unsigned reg)
{
    return (struct insn){.opsize = (uint8_t)opsize,
                         .addrsize = 4,
                         .op_kind = {OPERAND_REG},
                         .op_reg = {(uint8_t)(reg * 8)},
                         .base = GPR_ZERO,
                         .index = GPR_ZERO,
                         .seg = SEG_DS};
}

/* A memory operand at an absolute offset in DS, as operand `n`; operand 0 is EAX if `n` is 1. */
static inline struct insn insn_mem(unsigned opsize, unsigned n, uint32_t offset)
{
    struct insn in = insn_reg(opsize, RAX);
    in.op_kind[n] = OPERAND_MEM;
    in.disp = offset;
    in.flags = INSN_EA_GENERAL;
    return in;
}

static inline struct insn insn_far(unsigned opsize, uint16_t selector, uint32_t offset)
{
    struct insn in = insn_reg(opsize, RAX);
    in.op_kind[0] = OPERAND_FAR;
    in.imm = offset;
    in.imm2 = selector;
    return in;
}

static inline struct insn insn_imm(unsigned opsize, uint32_t imm)
{
    struct insn in = insn_reg(opsize, RAX);
    in.op_kind[0] = OPERAND_IMM;
    in.imm = imm;
    return in;
}

static inline struct insn insn_plain(unsigned opsize)
{
    struct insn in = insn_reg(opsize, RAX);
    in.op_kind[0] = OPERAND_NONE;
    return in;
}

/* segment_load() with its fault caught. */
static inline int bench_load(struct bench *b, enum seg seg, uint16_t selector)
{
    struct insn in = insn_reg(2, RCX);
    in.op_kind[0] = OPERAND_SEG;
    in.op_reg[0] = seg;
    in.op_kind[1] = OPERAND_REG;
    in.op_reg[1] = RCX * 8;
    b->v->regs[RCX] = selector;
    return bench_run(b, op_mov_to_seg, &in);
}

#endif
