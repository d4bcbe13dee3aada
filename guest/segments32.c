/* Segmentation in 32-bit protected mode: limits of every kind, types, null and absent segments, privilege, accessed
 * bits, the LDT; LAR, LSL, VERR, VERW, ARPL; the tables' own instructions; the I/O map.
 *
 * SDM vol. 3, chapters 3 and 5; vol. 2, the instructions. */
#include "guest.h"

CODE(load_ds, "mov %ax, %ds");
CODE(load_es, "mov %ax, %es");
CODE(load_fs, "mov %ax, %fs");
CODE(load_ss, "mov %ax, %ss; mov $0x10, %eax; mov %ax, %ss");
CODE(pop_ds, "pop %ds");
CODE(lds, "lds (%edi), %eax");
CODE(read1, "mov %fs:(%edi), %al");
CODE(read2, "mov %fs:(%edi), %ax");
CODE(read4, "mov %fs:(%edi), %eax");
CODE(write1, "mov %al, %fs:(%edi)");
CODE(execute, "ljmp *(%edi)");
CODE(nothing, "nop");
CODE(read_cs, "mov %cs:(%edi), %al");
CODE(lar, "lar %eax, %ebx");
CODE(lsl, "lsl %eax, %ebx");
CODE(verr, "verr %ax");
CODE(verw, "verw %ax");
CODE(arpl, "arpl %ax, %bx");
CODE(lldt, "lldt %ax");
CODE(ltr, "ltr %ax");
CODE(sldt, "sldt %eax");
CODE(str, "str %eax");
CODE(sgdt, "sgdt (%edi)");
CODE(sidt, "sidt (%edi)");
CODE(smsw, "smsw %eax");
CODE(lgdt, "lgdt (%edi)");
CODE(far_ret, "lret");
CODE(mov_ss_pop, "mov %ax, %ss; mov $0x10, %eax; mov %ax, %ss");
CODE(push_small, "push %eax; push %eax");
CODE(in_al, "in %dx, %al");
CODE(in_eax, "in %dx, %eax");
CODE(misaligned, "mov 1(%edi), %eax");

/* ECX elements: from DS:0 up to ES:0 up, by way of the stack; EBX their sum; the last instruction that may fault is the
 * store. */
CODE(copy_loop, "1: mov (%esi), %eax; push %eax; lea (%ebx,%eax), %ebx; incl (%esi); pop %edx; cmp %eax, %edx; jne 2f\n"
                "mov %edx, %es:(%edi); add $4, %esi; add $4, %edi; dec %ecx; jnz 1b; 2: nop");
extern const char copy_loop_store[];
__asm__(".set copy_loop_store, copy_loop + 13");

static uint8_t area[0x30000] __attribute__((aligned(4096)));

static struct trap load_with(const char *code, uint16_t selector)
{
    return run_kernel(code, .ax = selector);
}

static void test_limits(void)
{
    gdt_put(0, descriptor((word)area, 0xff, 0x92, 4)); /* 256 bytes */
    struct trap t = run_kernel(read1, .fs = SEL_FREE, .di = 0xff);
    ok_done(&t, read1_end, "the last byte of a segment");
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0x100);
    ok_trap(&t, GP, 0, read1, "the byte behind it: #GP(0)");
    t = run_kernel(read2, .fs = SEL_FREE, .di = 0xff);
    ok_trap(&t, GP, 0, read2, "a word that sticks out: #GP(0)");
    t = run_kernel(read4, .fs = SEL_FREE, .di = 0xfc);
    ok_done(&t, read4_end, "a doubleword at the end");
    t = run_kernel(read4, .fs = SEL_FREE, .di = 0xfffffffe);
    ok_trap(&t, GP, 0, read4, "an offset that wraps: #GP(0)");
    gdt_put(0, descriptor((word)area, 0x1, 0x92, 0xc)); /* 2 pages */
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0x1fff);
    ok_done(&t, read1_end, "G: the limit's low 12 bits are ones");
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0x2000);
    ok_trap(&t, GP, 0, read1, "... and no more");
    /* Expand-down: valid from limit + 1. */
    gdt_put(0, descriptor((word)area, 0xff, 0x96, 0)); /* 16-bit */
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0xff);
    ok_trap(&t, GP, 0, read1, "expand-down: within the limit: #GP(0)");
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0x100);
    ok_done(&t, read1_end, "expand-down: above the limit");
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0xffff);
    ok_done(&t, read1_end, "expand-down, 16 bits: to FFFFh");
    t = run_kernel(read2, .fs = SEL_FREE, .di = 0xffff);
    ok_trap(&t, GP, 0, read2, "expand-down, 16 bits: not beyond");
    gdt_put(0, descriptor((word)area, 0xff, 0x96, 4)); /* 32-bit */
    t = run_kernel(read2, .fs = SEL_FREE, .di = 0xffff);
    ok_done(&t, read2_end, "expand-down, 32 bits: beyond FFFFh");
    t = run_kernel(write1, .fs = SEL_FREE, .di = 0x20);
    ok_trap(&t, GP, 0, write1, "expand-down: a store within the limit: #GP(0)");
    gdt_put(0, descriptor((word)area, 0, 0x92, 4));
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0);
    ok_done(&t, read1_end, "limit 0 is one byte");
    t = run_kernel(read2, .fs = SEL_FREE, .di = 0);
    ok_trap(&t, GP, 0, read2, "... and not two");
    gdt_put(0, descriptor((word)area, 0xfffff, 0x92, 0xc));
    area[0] = 0x5a;
    t = run_kernel(read1, .fs = SEL_FREE, .di = 0);
    ok_equal(t.regs.ax & 0xff, 0x5a, "a base");
    t = run_kernel(read1, .fs = SEL_FREE, .di = (word)area - (word)area * 2 + (word)area);
    ok_equal(t.regs.ax & 0xff, 0x5a, "... linear addresses wrap");
}

static void test_types(void)
{
    gdt_put(0, descriptor((word)area, 0xfffff, 0x90, 0xc));
    struct trap t = run_kernel(write1, .fs = SEL_FREE);
    ok_trap(&t, GP, 0, write1, "a store to a read-only segment: #GP(0)");
    gdt_put(0, descriptor((word)area, 0xfffff, 0x9a, 0xc));
    t = run_kernel(read1, .fs = SEL_FREE);
    ok_done(&t, read1_end, "a load from readable code");
    t = run_kernel(write1, .fs = SEL_FREE);
    ok_trap(&t, GP, 0, write1, "a store to code: #GP(0)");
    gdt_put(0, descriptor(0, 0xfffff, 0x98, 0xc));
    t = run_kernel(read_cs, .cs = SEL_FREE, .di = (word)area);
    ok_trap(&t, GP, 0, read_cs, "a load from execute-only CS: #GP(0)");
    struct {
        uint64_t value;
        word vector;
        bool error; /* the selector, else 0 */
        const char *what;
    } bad[] = {
        {descriptor(0, 0xfffff, 0x98, 0xc), GP, true, "execute-only code"},
        {descriptor(0, 0xfffff, 0x12, 0xc), NP, true, "a segment that is not present"},
        {descriptor(0, 0x67, 0x89, 0), GP, true, "a TSS"},
        {descriptor(0, 0x67, 0x82, 0), GP, true, "an LDT"},
        {0, GP, true, "an empty descriptor"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        gdt_put(0, bad[i].value);
        t = load_with(load_ds, SEL_FREE);
        ok_trap(&t, bad[i].vector, SEL_FREE, load_ds, "DS from %s", bad[i].what);
        ok_equal(t.regs.ds, SEL_KDATA, "... DS is unchanged");
    }
    t = load_with(load_ds, GDT_ENTRIES * 8);
    ok_trap(&t, GP, GDT_ENTRIES * 8, load_ds, "DS from beyond the GDT: #GP(selector)");
    t = load_with(load_ds, SEL_KDATA | 4);
    ok_trap(&t, GP, SEL_KDATA | 4, load_ds, "DS from a missing LDT: #GP(selector)");
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        t = load_with(load_fs, (uint16_t)rpl);
        ok(t.vector == DONE && t.regs.fs == rpl, "FS may be null, RPL %u", rpl);
    }
    t = run_kernel(read1, .fs = 0);
    ok_trap(&t, GP, 0, read1, "a load through a null selector: #GP(0)");
    t = load_with(load_ss, 0);
    ok_trap(&t, GP, 0, load_ss, "SS must not be null: #GP(0)");
    gdt_put(0, descriptor(0, 0xfffff, 0x12, 0xc));
    t = load_with(load_ss, SEL_FREE);
    ok_trap(&t, SS, SEL_FREE, load_ss, "SS not present: #SS(selector)");
    gdt_put(0, descriptor(0, 0xfffff, 0x90, 0xc));
    t = load_with(load_ss, SEL_FREE);
    ok_trap(&t, GP, SEL_FREE, load_ss, "SS read-only: #GP(selector)");
    t = load_with(load_ss, SEL_KDATA | 3);
    ok_trap(&t, GP, SEL_KDATA, load_ss, "SS with RPL 3 at level 0: #GP(selector)");
    t = load_with(load_ss, SEL_UDATA);
    ok_trap(&t, GP, SEL_UDATA, load_ss, "SS of DPL 3 at level 0: #GP(selector)");
    t = run_user(load_ds, .ax = SEL_KDATA);
    ok_trap(&t, GP, SEL_KDATA, load_ds, "DS of DPL 0 at level 3: #GP(selector)");
    t = load_with(load_ds, SEL_KDATA | 3);
    ok_trap(&t, GP, SEL_KDATA, load_ds, "DS of DPL 0 with RPL 3: #GP(selector)");
    gdt_put(0, descriptor(0, 0xfffff, 0x9e, 0xc));
    t = run_user(load_ds, .ax = SEL_FREE | 3);
    ok_done(&t, load_ds_end, "DS from readable conforming code needs no privilege");
    static struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } far = {0x1234, SEL_UDATA};
    t = run_kernel(lds, .di = (word)&far);
    ok(t.vector == DONE && t.regs.ds == SEL_UDATA && t.regs.ax == 0x1234, "LDS");
    far.selector = GDT_ENTRIES * 8;
    t = run_kernel(lds, .di = (word)&far, .ax = 7);
    ok_trap(&t, GP, GDT_ENTRIES * 8, lds, "LDS of a wrong selector");
    ok_equal(t.regs.ax, 7, "... leaves the register alone");
    word *stack = STACK(GDT_ENTRIES * 8, 0);
    t = run_kernel(pop_ds, .sp = (word)stack);
    ok_trap(&t, GP, GDT_ENTRIES * 8, pop_ds, "POP DS of a wrong selector");
    ok_equal(t.regs.sp, (word)stack, "... leaves ESP alone");
}

static void test_accessed(void)
{
    gdt_put(0, descriptor(0, 0xfffff, 0x92, 0xc));
    load_with(load_fs, SEL_FREE);
    ok_equal(gdt[SEL_FREE / 8] >> 40 & 0xff, 0x93, "loading a segment sets its accessed bit");
    gdt_put(0, descriptor(0, 0xfffff, 0x9a, 0xc));
    run_kernel(nothing, .cs = SEL_FREE);
    ok_equal(gdt[SEL_FREE / 8] >> 40 & 0xff, 0x9b, "entering code sets its accessed bit");
    gdt_put(0, descriptor(0, 0xfffff, 0x92, 0xc));
    run_kernel(lar, .ax = SEL_FREE);
    run_kernel(verr, .ax = SEL_FREE);
    ok_equal(gdt[SEL_FREE / 8] >> 40 & 0xff, 0x92, "LAR and VERR do not");
    gdt_put(0, descriptor(0, 0xfffff, 0x12, 0xc));
    load_with(load_fs, SEL_FREE);
    ok_equal(gdt[SEL_FREE / 8] >> 40 & 0xff, 0x12, "nor does a load that faults");
}

static void test_code(void)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } far = {0, SEL_FREE};
    gdt_put(0, descriptor((word)nothing, 0, 0x9a, 4)); /* one NOP */
    struct trap t = run_kernel(execute, .di = (word)&far);
    ok_trap(&t, GP, 0, (void *)1, "execution past the limit: #GP(0) there");
    ok_equal(t.regs.cs, SEL_FREE, "... in that segment");
    far.offset = 1;
    t = run_kernel(execute, .di = (word)&far);
    ok_trap(&t, GP, 0, execute, "a far JMP beyond the limit: #GP(0) at the JMP");
    far.offset = (word)nothing;
    static const struct {
        unsigned access;
        word vector;
        bool user;
        const char *what;
    } codes[] = {
        {0x1a, NP, false, "not present"},
        {0x92, GP, false, "data"},
        {0xfa, GP, false, "of DPL 3 at level 0"},
        {0x9a, GP, true, "of DPL 0 at level 3"},
        {0xfe, GP, false, "conforming, of DPL 3, at level 0"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        gdt_put(0, descriptor(0, 0xfffff, codes[i].access, 0xc));
        t = codes[i].user ? run_user(execute, .di = (word)&far) : run_kernel(execute, .di = (word)&far);
        ok_trap(&t, codes[i].vector, SEL_FREE, execute, "a far JMP to code %s: (selector)", codes[i].what);
    }
    gdt_put(0, descriptor(0, 0xfffff, 0x9e, 0xc));
    t = run_user(execute, .di = (word)&far);
    ok(t.vector == DONE && t.regs.cs == (SEL_FREE | 3), "a far JMP to conforming code of DPL 0 at level 3 stays there");
    far.selector = 0;
    t = run_kernel(execute, .di = (word)&far);
    ok_trap(&t, GP, 0, execute, "a far JMP to null: #GP(0)");
    /* 16-bit stack: only SP moves. */
    gdt_put(1, descriptor(0, 0xffff, 0x92, 0));
    t = run_kernel(push_small, .ss = SEL_FREE + 8, .sp = 0x9002);
    ok(t.vector == DONE && t.regs.sp == 0x8ffa, "a 16-bit stack segment");
}

static void test_ldt(void)
{
    static uint64_t ldt[4];
    ldt[2] = descriptor((word)area, 0xfff, 0x92, 4);
    gdt_put(0, descriptor((word)ldt, sizeof ldt - 1, 0x82, 0));
    struct trap t = load_with(lldt, SEL_FREE);
    ok_done(&t, lldt_end, "LLDT");
    t = run_kernel(sldt);
    ok_equal(t.regs.ax, SEL_FREE, "SLDT");
    area[3] = 0x99;
    t = run_kernel(read1, .fs = 0x14, .di = 3);
    ok_equal(t.regs.ax & 0xff, 0x99, "a segment of the LDT");
    t = load_with(load_fs, 0x24);
    ok_trap(&t, GP, 0x24, load_fs, "beyond the LDT: #GP(selector)");
    t = load_with(load_fs, 4);
    ok_trap(&t, GP, 4, load_fs, "entry 0 of the LDT is not null: #GP(selector)");
    t = load_with(lldt, SEL_KDATA);
    ok_trap(&t, GP, SEL_KDATA, lldt, "LLDT of data: #GP(selector)");
    gdt_put(1, descriptor((word)ldt, sizeof ldt - 1, 0x02, 0));
    t = load_with(lldt, SEL_FREE + 8);
    ok_trap(&t, NP, SEL_FREE + 8, lldt, "LLDT not present: #NP(selector)");
    t = load_with(lldt, SEL_FREE | 4);
    ok_trap(&t, GP, SEL_FREE | 4, lldt, "LLDT of an entry of the LDT: #GP(selector)");
    t = load_with(lldt, 0);
    ok_done(&t, lldt_end, "LLDT of null");
    t = load_with(load_fs, 0x14);
    ok_trap(&t, GP, 0x14, load_fs, "... leaves no LDT");
    t = run_user(lldt);
    ok_trap(&t, GP, 0, lldt, "LLDT at level 3: #GP(0)");
    t = run_user(ltr);
    ok_trap(&t, GP, 0, ltr, "LTR at level 3: #GP(0)");
    gdt_put(1, descriptor((word)tss, 0x67, 0x09, 0));
    t = load_with(ltr, SEL_FREE + 8);
    ok_trap(&t, NP, SEL_FREE + 8, ltr, "LTR not present: #NP(selector)");
    t = run_user(str);
    ok(t.vector == DONE && t.regs.ax == SEL_TSS, "STR at level 3");
}

static bool zf(const struct trap *t)
{
    return t->vector == DONE && (t->regs.flags & FL_ZF);
}

static void test_inspection(void)
{
    gdt_put(0, descriptor(0x12345678, 0xabcde, 0x9b, 0xd));
    struct trap t = run_kernel(lar, .ax = SEL_FREE);
    ok(zf(&t) && (t.regs.bx & 0xf0ff00) == 0xd09b00, "LAR");
    t = run_kernel(lsl, .ax = SEL_FREE);
    ok(zf(&t) && t.regs.bx == 0xabcdefff, "LSL");
    gdt_put(0, descriptor(0, 0x12345, 0x92, 4));
    t = run_kernel(lsl, .ax = SEL_FREE);
    ok(zf(&t) && t.regs.bx == 0x12345, "LSL of bytes");
    static const struct {
        unsigned access;
        bool lar, lsl;
        const char *what;
    } systems[] = {
        {0x81, true, true, "a 16-bit TSS"},
        {0x82, true, true, "an LDT"},
        {0x83, true, true, "a busy 16-bit TSS"},
        {0x84, true, false, "a 16-bit call gate"},
        {0x85, true, false, "a task gate"},
        {0x86, false, false, "a 16-bit interrupt gate"},
        {0x89, true, true, "a TSS"},
        {0x8b, true, true, "a busy TSS"},
        {0x8c, true, false, "a call gate"},
        {0x8e, false, false, "an interrupt gate"},
        {0x8f, false, false, "a trap gate"},
        {0x80, false, false, "type 0"},
        {0x8a, false, false, "type 10"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(systems); i++) {
        gdt_put(0, descriptor(0, 0x67, systems[i].access, 0));
        struct trap a = run_kernel(lar, .ax = SEL_FREE), b = run_kernel(lsl, .ax = SEL_FREE);
        ok(zf(&a) == systems[i].lar && zf(&b) == systems[i].lsl, "LAR and LSL of %s", systems[i].what);
        a = run_kernel(verr, .ax = SEL_FREE, .flags = FL_1 | FL_ZF);
        b = run_kernel(verw, .ax = SEL_FREE, .flags = FL_1 | FL_ZF);
        ok(!zf(&a) && !zf(&b), "... neither VERR nor VERW");
    }
    static const struct {
        uint16_t selector;
        bool user, lar, verr, verw;
    } views[] = {
        {SEL_KDATA, false, true, true, true},          {SEL_KDATA, true, false, false, false},
        {SEL_KDATA | 3, false, false, false, false},   {SEL_UDATA | 3, true, true, true, true},
        {SEL_KCODE, false, true, true, false},         {0, false, false, false, false},
        {GDT_ENTRIES * 8, false, false, false, false}, {SEL_UDATA, false, true, true, true},
    };
    for (unsigned i = 0; i < ARRAY_LEN(views); i++) {
        uint16_t s = views[i].selector;
        struct trap a = views[i].user ? run_user(lar, .ax = s) : run_kernel(lar, .ax = s);
        struct trap b = views[i].user ? run_user(verr, .ax = s) : run_kernel(verr, .ax = s);
        struct trap c = views[i].user ? run_user(verw, .ax = s) : run_kernel(verw, .ax = s);
        ok(zf(&a) == views[i].lar && zf(&b) == views[i].verr && zf(&c) == views[i].verw,
           "LAR, VERR, VERW of %x at level %u", s, views[i].user ? 3 : 0);
    }
    gdt_put(0, descriptor(0, 0xfffff, 0x12, 0xc));
    t = run_kernel(verr, .ax = SEL_FREE);
    ok(zf(&t), "VERR does not look at P");
    gdt_put(0, descriptor(0, 0xfffff, 0x9e, 0xc));
    t = run_user(lar, .ax = SEL_FREE | 3);
    ok(zf(&t), "LAR of conforming code needs no privilege");
    t = run_user(arpl, .ax = 3, .bx = 0x10);
    ok(zf(&t) && t.regs.bx == 0x13, "ARPL raises RPL");
    t = run_user(arpl, .ax = 1, .bx = 0x12);
    ok(t.vector == DONE && !zf(&t) && t.regs.bx == 0x12, "ARPL leaves a higher RPL");
    static uint8_t buffer[8];
    t = run_user(sgdt, .di = (word)buffer);
    uint32_t base;
    uint16_t limit;
    memcpy(&base, buffer + 2, 4);
    memcpy(&limit, buffer, 2);
    ok(base == (word)gdt && limit == GDT_ENTRIES * 8 - 1, "SGDT at level 3");
    t = run_user(sidt, .di = (word)buffer);
    memcpy(&base, buffer + 2, 4);
    ok(base == (word)idt, "SIDT at level 3");
    t = run_user(smsw);
    ok_equal(t.regs.ax & 0xffff, cr0_get() & 0xffff, "SMSW at level 3");
    t = run_user(lgdt, .di = (word)buffer);
    ok_trap(&t, GP, 0, lgdt, "LGDT at level 3: #GP(0)");
    if (cpuid(0, 0).eax >= 7 && (cpuid(7, 0).ecx >> 2 & 1)) {
        static const char *const forms[] = {sgdt, sidt, sldt, str, smsw};
        cr4_set(cr4_get() | CR4_UMIP);
        for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
            t = run_user(forms[i], .di = (word)buffer);
            ok_trap(&t, GP, 0, forms[i], "CR4.UMIP: form %u at level 3: #GP(0)", i);
        }
        t = run_kernel(sgdt, .di = (word)buffer);
        ok_done(&t, sgdt_end, "CR4.UMIP: SGDT at level 0");
        cr4_set(cr4_get() & ~CR4_UMIP);
    }
}

static void test_io_map(void)
{
    uint8_t *map = tss + 0x88;
    struct trap t = run_user(in_al, .dx = 0x505);
    ok_trap(&t, GP, 0, in_al, "IN at level 3, bit set: #GP(0)");
    map[0x505 / 8] &= (uint8_t) ~(1u << (0x505 % 8));
    t = run_user(in_al, .dx = 0x505);
    ok(t.vector == DONE && (t.regs.ax & 0xff) == 3, "IN at level 3, bit clear");
    t = run_user(in_eax, .dx = 0x505);
    ok_trap(&t, GP, 0, in_eax, "a doubleword needs four bits");
    t = run_user(in_eax, .dx = 0x504, .flags = FL_1 | FL_IOPL);
    ok_done(&t, in_eax_end, "IOPL 3 needs none");
    map[0x505 / 8] = 0xff;
}

static void test_alignment(void)
{
    struct trap t = run_user(misaligned, .di = (word)area, .flags = FL_1 | FL_AC);
    ok_done(&t, misaligned_end, "AC without CR0.AM");
    cr0_set(cr0_get() | CR0_AM);
    t = run_user(misaligned, .di = (word)area, .flags = FL_1 | FL_AC);
    ok_trap(&t, AC, 0, misaligned, "a misaligned load with AC and AM at level 3: #AC(0)");
    t = run_user(misaligned, .di = (word)area + 3, .flags = FL_1 | FL_AC);
    ok_done(&t, misaligned_end, "an aligned one");
    t = run_user(misaligned, .di = (word)area);
    ok_done(&t, misaligned_end, "AM without AC");
    t = run_kernel(misaligned, .di = (word)area, .flags = FL_1 | FL_AC);
    ok_done(&t, misaligned_end, "level 0");
    cr0_set(cr0_get() & ~CR0_AM);
}

/* Code that runs often, with data segments and a stack that begin somewhere and end somewhere. */
static void test_loops(void)
{
    uint32_t *from = (uint32_t *)(area + 0x1000), *to = (uint32_t *)(area + 0x8000);
    uint16_t source = gdt_put(0, descriptor((word)from, 0xfffff, 0xf2, 0xc)) | 3; /* with a base, 4 GiB long */
    uint16_t stack = gdt_put(2, descriptor((word)area, 0x2f, 0xf2, 0xc)) | 3;
    for (unsigned limit = 0; limit < 3; limit++) {
        unsigned bytes[] = {2000, 0x1000, 0x3ffc};
        uint16_t target = limit == 2 ? gdt_put(1, descriptor((word)to, 0xfffff, 0xf2, 0xc)) | 3
                                     : gdt_put(1, descriptor((word)to, bytes[limit] - 1, 0xf2, 4)) | 3;
        uint32_t sum = 0, fits = limit == 2 ? 1500 : bytes[limit] / 4;
        for (unsigned i = 0; i < 1500; i++)
            from[i] = i * 2654435761u;
        for (unsigned i = 0; i < fits + (limit != 2); i++)
            sum += i * 2654435761u;
        memset(to, 0, 6000);
        struct trap t = run_user(copy_loop, .ds = source, .es = target, .ss = stack, .sp = 0x20000, .si = 0, .di = 0,
                                   .bx = 0, .cx = 1500);
        if (limit == 2)
            ok_done(&t, copy_loop_end, "a loop over segments with bases");
        else
            ok_trap(&t, GP, 0, copy_loop_store, "the store beyond a limit of %u bytes: #GP(0)", bytes[limit]);
        ok(t.regs.di == 4 * fits && t.regs.si == 4 * fits && t.regs.bx == sum && t.regs.sp == 0x20000, "... at element %u",
           fits);
        bool copied = true;
        for (unsigned i = 0; i < 1500; i++)
            copied = copied && to[i] == (i < fits ? i * 2654435761u : 0) &&
                     from[i] == i * 2654435761u + (i < fits + (limit != 2) && i < 1500);
        ok(copied, "... what lies before it has been copied");
    }
    uint32_t small = 0x1000;
    stack = gdt_put(2, descriptor((word)area, small - 1, 0xf2, 4)) | 3;
    struct trap t = run_user(copy_loop, .ds = source, .es = SEL_UDATA | 3, .ss = stack, .sp = small + 4, .si = 0,
                               .di = (word)to, .cx = 100);
    ok(t.vector == SS && t.has_error && t.error == 0 && t.regs.cx == 100, "a push beyond the stack's limit: #SS(0)");
}

void test_main(void)
{
    test_limits();
    test_loops();
    test_types();
    test_accessed();
    test_code();
    test_ldt();
    test_inspection();
    test_io_map();
    test_alignment();
}
