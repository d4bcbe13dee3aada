/* What is left of segmentation in 64-bit mode: FS and GS bases by MSR, instruction and selector, SWAPGS, null and wrong
 * selectors, LLDT and LTR with 16-byte descriptors, SGDT and SIDT, the I/O map.
 *
 * SDM vol. 3, 3.2.4, 3.4.4, 7.2.3; vol. 2, the instructions. */
#include "guest.h"

CODE(read_fs, "mov %fs:(%rdi), %al");
CODE(read_gs, "mov %gs:(%rdi), %al");
CODE(read_fs32, "addr32 mov %fs:(%edi), %al");
CODE(swapgs, "swapgs");
CODE(swapgs_read, "swapgs; mov %gs:(%rdi), %al; swapgs");
CODE(rdfsbase, "rdfsbase %rax");
CODE(rdgsbase, "rdgsbase %rax");
CODE(rdfsbase32, "rdfsbase %eax");
CODE(wrfsbase, "wrfsbase %rax; rdfsbase %rbx");
CODE(wrfsbase32, "wrfsbase %eax; rdfsbase %rbx");
CODE(wrgsbase, "wrgsbase %rax; rdgsbase %rbx");
CODE(load_fs, "mov %eax, %fs");
CODE(load_gs, "mov %eax, %gs");
CODE(load_ds, "mov %eax, %ds");
CODE(load_ss, "mov %eax, %ss; mov $0x10, %eax; mov %eax, %ss");
CODE(pop_fs, "pop %fs");
CODE(push_fs, "push %fs");
CODE(push_ds, ".byte 0x1e");
CODE(lds, ".byte 0xc5, 0x07");
CODE(lldt, "lldt %ax");
CODE(ltr, "ltr %ax");
CODE(lgdt, "lgdt (%rdi)");
CODE(sgdt, "sgdt (%rdi)");
CODE(sidt, "sidt (%rdi)");
CODE(lar, "lar %eax, %ebx");
CODE(lsl, "lsl %eax, %ebx");
CODE(in_al, "in %dx, %al");
CODE(set_msr, "wrmsr");
CODE(misaligned, "mov 1(%rdi), %eax");
CODE(read_ss_prefix, ".byte 0x36; mov (%rdi), %al");

static uint8_t data[64] __attribute__((aligned(64)));

static void test_bases(void)
{
    data[5] = 0x55;
    data[6] = 0x66;
    wrmsr(MSR_FS_BASE, (word)data);
    wrmsr(MSR_GS_BASE, (word)data + 1);
    struct trap t = run_kernel(read_fs, .di = 5);
    ok_equal(t.regs.ax & 0xff, 0x55, "FS base by MSR");
    t = run_kernel(read_gs, .di = 5);
    ok_equal(t.regs.ax & 0xff, 0x66, "GS base by MSR");
    t = run_kernel(read_fs, .di = -(word)data);
    ok(t.vector == DONE, "base and offset wrap");
    wrmsr(MSR_FS_BASE, 0xffffffff00000000);
    t = run_kernel(read_fs32, .di = 0x100000);
    ok(t.vector == PF && t.cr2 == 0xffffffff00100000, "a 32-bit address size truncates the offset, not the sum");
    t = run_kernel(set_msr, .cx = MSR_FS_BASE, .ax = 0, .dx = 0x8000);
    ok_trap(&t, GP, 0, set_msr, "a non-canonical FS base: #GP(0)");
    t = run_kernel(set_msr, .cx = MSR_KERNEL_GS_BASE, .ax = 0, .dx = 0x8000);
    ok_trap(&t, GP, 0, set_msr, "a non-canonical KERNEL_GS_BASE: #GP(0)");
    wrmsr(MSR_FS_BASE, 0x7ffffffffff0);
    t = run_kernel(read_fs, .di = 0x10);
    ok_trap(&t, GP, 0, read_fs, "base + offset not canonical: #GP(0)");
    wrmsr(MSR_KERNEL_GS_BASE, (word)data + 2);
    data[7] = 0x77;
    t = run_kernel(swapgs_read, .di = 5);
    ok_equal(t.regs.ax & 0xff, 0x77, "SWAPGS");
    ok(rdmsr(MSR_GS_BASE) == (word)data + 1 && rdmsr(MSR_KERNEL_GS_BASE) == (word)data + 2, "... twice is nothing");
    t = run_user(swapgs);
    ok_trap(&t, GP, 0, (void *)USER(swapgs), "SWAPGS at level 3: #GP(0)");
    /* Loading a selector replaces the base by 32 bits from the table. */
    wrmsr(MSR_FS_BASE, 0x123456789abc);
    uint16_t s = gdt_put(0, descriptor(0x87654321, 0xfff, 0xf2, 4));
    t = run_kernel(load_fs, .ax = s);
    ok(t.vector == DONE && rdmsr(MSR_FS_BASE) == 0x87654321, "MOV FS loads a 32-bit base");
    wrmsr(MSR_FS_BASE, 0x123456789abc);
    t = run_kernel(load_fs, .ax = 3);
    ok(t.vector == DONE && rdmsr(MSR_FS_BASE) == 0, "a null selector clears it");
    ASM("mov %0, %%fs; mov %0, %%gs" ::"r"(0));
}

static void test_fsgsbase(void)
{
    struct trap t = run_user(rdfsbase);
    ok_trap(&t, UD, NO_ERROR, (void *)USER(rdfsbase), "RDFSBASE without CR4.FSGSBASE: #UD");
    if (!cpu_has_7_ebx(F7_FSGSBASE)) {
        skip("no FSGSBASE");
        return;
    }
    cr4_set(cr4_get() | CR4_FSGSBASE);
    wrmsr(MSR_FS_BASE, 0x123456789abc);
    wrmsr(MSR_GS_BASE, 0xffff8000deadbeef);
    t = run_user(rdfsbase);
    ok_equal(t.regs.ax, 0x123456789abc, "RDFSBASE at level 3");
    t = run_user(rdgsbase);
    ok_equal(t.regs.ax, 0xffff8000deadbeef, "RDGSBASE");
    t = run_user(rdfsbase32, .ax = ~0ul);
    ok_equal(t.regs.ax, 0x56789abc, "RDFSBASE, 32 bits");
    t = run_user(wrfsbase, .ax = 0x7fffffffffff);
    ok_equal(t.regs.bx, 0x7fffffffffff, "WRFSBASE");
    t = run_user(wrfsbase32, .ax = 0x112233445566);
    ok_equal(t.regs.bx, 0x33445566, "WRFSBASE, 32 bits, clears the rest");
    t = run_user(wrfsbase, .ax = 0x800000000000);
    ok_trap(&t, GP, 0, (void *)USER(wrfsbase), "WRFSBASE, not canonical: #GP(0)");
    t = run_user(wrgsbase, .ax = 0x1234);
    ok(t.regs.bx == 0x1234 && rdmsr(MSR_GS_BASE) == 0x1234, "WRGSBASE");
    cr4_set(cr4_get() & ~CR4_FSGSBASE);
}

static void test_selectors(void)
{
    gdt_put(0, descriptor(0, 0xfffff, 0x12, 0xc));
    struct trap t = run_kernel(load_ds, .ax = SEL_FREE);
    ok_trap(&t, NP, SEL_FREE, load_ds, "selectors are still checked: #NP(selector)");
    t = run_kernel(load_ds, .ax = GDT_ENTRIES * 8);
    ok_trap(&t, GP, GDT_ENTRIES * 8, load_ds, "... #GP(selector)");
    t = run_kernel(load_gs, .ax = SEL_TSS);
    ok_trap(&t, GP, SEL_TSS, load_gs, "... GS");
    t = run_kernel(load_ss, .ax = 0);
    ok_done(&t, load_ss_end, "SS may be null at level 0");
    t = run_kernel(load_ss, .ax = 3);
    ok_trap(&t, GP, 0, load_ss, "... with RPL 0 only: #GP(0)");
    t = run_user(load_ss, .ax = 3);
    ok_trap(&t, GP, 0, (void *)USER(load_ss), "... and not at level 3: #GP(0)");
    t = run_kernel(load_ss, .ax = SEL_KCODE);
    ok_trap(&t, GP, SEL_KCODE, load_ss, "SS from code: #GP(selector)");
    word *stack = STACK(SEL_UDATA | 3, 0);
    t = run_kernel(pop_fs, .sp = (word)stack);
    ok(t.vector == DONE && t.regs.sp == (word)stack + 8 && t.regs.fs == (SEL_UDATA | 3), "POP FS takes eight bytes");
    t = run_kernel(push_fs, .fs = SEL_UDATA | 3);
    ok_equal(*(word *)t.regs.sp, SEL_UDATA | 3, "PUSH FS");
    ASM("mov %0, %%fs" ::"r"(0));
    t = run_kernel(push_ds);
    ok_trap(&t, UD, NO_ERROR, push_ds, "PUSH DS is #UD");
    data[0] = 0x42;
    gdt_put(0, descriptor(0x1000, 0, 0x92, 0));
    t = run_kernel(read_ss_prefix, .di = (word)data, .ds = SEL_FREE);
    ok_equal(t.regs.ax & 0xff, 0x42, "DS and an SS prefix have no base and no limit");
}

static void test_tables(void)
{
    static uint64_t ldt[4] __attribute__((aligned(64)));
    ldt[1] = descriptor(0x5555, 0xffff, 0x92, 0);
    gdt_put(0, descriptor((word)ldt, 31, 0x82, 0));
    gdt_put(1, 0);
    struct trap t = run_kernel(lldt, .ax = SEL_FREE);
    ok_done(&t, lldt_end, "LLDT of a 16-byte descriptor");
    t = run_kernel(load_fs, .ax = 0xc);
    ok(t.vector == DONE && rdmsr(MSR_FS_BASE) == 0x5555, "... its entries can be loaded");
    gdt_put(1, 0x10ull << 40); /* the type of the upper half */
    t = run_kernel(lldt, .ax = SEL_FREE);
    ok(t.vector == GP || cpu_is_amd(), "an upper half with a type: #GP(selector)");
    gdt_put(1, 0x8000);
    t = run_kernel(lldt, .ax = SEL_FREE);
    ok_trap(&t, GP, SEL_FREE, lldt, "an LDT at a non-canonical address: #GP(selector)");
    gdt_put(0, descriptor((word)tss, 0x67, 0x89, 0));
    gdt_put(1, 0);
    t = run_kernel(ltr, .ax = SEL_FREE);
    ok_done(&t, ltr_end, "LTR");
    ok_equal(gdt[SEL_FREE / 8] >> 40 & 0xff, 0x8b, "... makes it busy");
    t = run_kernel(ltr, .ax = SEL_FREE);
    ok_trap(&t, GP, SEL_FREE, ltr, "LTR of a busy TSS: #GP(selector)");
    gdt_put(0, descriptor((word)tss, 0x2b, 0x81, 0));
    t = run_kernel(ltr, .ax = SEL_FREE);
    ok_trap(&t, GP, SEL_FREE, ltr, "LTR of a 16-bit TSS: #GP(selector)");
    gdt_put(GDT_ENTRIES - 1 - SEL_FREE / 8, descriptor((word)tss, 0x67, 0x89, 0));
    t = run_kernel(ltr, .ax = GDT_ENTRIES * 8 - 8);
    ok_trap(&t, GP, GDT_ENTRIES * 8 - 8, ltr, "LTR whose upper half is beyond the GDT: #GP(selector)");
    gdt[GDT_ENTRIES - 1] = 0;
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    ASM("ltr %w0; lldt %w1" ::"r"(SEL_TSS), "r"(0));
    t = run_kernel(lar, .ax = SEL_TSS);
    ok(t.vector == DONE && (t.regs.flags & FL_ZF) && (t.regs.bx & 0xff00) == 0x8b00, "LAR of the TSS");
    t = run_kernel(lsl, .ax = SEL_TSS);
    ok(t.vector == DONE && (t.regs.flags & FL_ZF) && t.regs.bx == 0x67, "LSL of the TSS");
    gdt_put(0, descriptor(0, 0x67, 0x84, 0));
    t = run_kernel(lar, .ax = SEL_FREE);
    ok(t.vector == DONE && !(t.regs.flags & FL_ZF), "LAR of a 16-bit call gate finds nothing in long mode");
    static uint8_t buffer[16];
    t = run_user(sgdt, .di = USER(buffer));
    word base;
    memcpy(&base, buffer + 2, 8);
    ok(t.vector == DONE && base == (word)gdt && buffer[10] == 0, "SGDT stores ten bytes");
    t = run_user(sidt, .di = USER(buffer));
    memcpy(&base, buffer + 2, 8);
    ok(t.vector == DONE && base == (word)idt, "SIDT");
    base = 0x800000000000;
    memcpy(buffer + 2, &base, 8);
    t = run_kernel(lgdt, .di = (word)buffer);
    ok_trap(&t, GP, 0, lgdt, "LGDT of a non-canonical base: #GP(0)");
}

static void test_io_map(void)
{
    struct trap t = run_user(in_al, .dx = 0x505);
    ok_trap(&t, GP, 0, (void *)USER(in_al), "no I/O map: #GP(0)");
    gdt[SEL_TSS / 8] = descriptor((word)tss, 0x2067, 0x89, 0);
    memset(tss + 0x68, 0xff, sizeof tss - 0x68);
    tss[0x68 + 0x505 / 8] &= (uint8_t) ~(1u << (0x505 % 8));
    ASM("ltr %w0" ::"r"(SEL_TSS));
    t = run_user(in_al, .dx = 0x505);
    ok(t.vector == DONE && (t.regs.ax & 0xff) == 3, "IN with its bit clear");
    t = run_user(in_al, .dx = 0x506);
    ok_trap(&t, GP, 0, (void *)USER(in_al), "... with its bit set: #GP(0)");
    t = run_user(in_al, .dx = 0x506, .flags = FL_1 | FL_IOPL);
    ok_done(&t, in_al_end, "... with IOPL 3");
    cr0_set(cr0_get() | CR0_AM);
    t = run_user(misaligned, .di = USER(data), .flags = FL_1 | FL_AC);
    ok_trap(&t, AC, 0, (void *)USER(misaligned), "#AC(0) at level 3");
    cr0_set(cr0_get() & ~CR0_AM);
}

void test_main(void)
{
    test_bases();
    test_fsgsbase();
    test_selectors();
    test_tables();
    test_io_map();
}
