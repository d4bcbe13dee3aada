/* The modes and the ways between them: real mode with its limits and vectors, "unreal" mode, 16- and 32-bit protected
 * mode, PAE, long and compatibility mode, and back; the A20 gate.
 *
 * A snippet of 16-bit code is run in real mode by run_real(), which comes back at the first interrupt or exception:
 * each entry of the interrupt vector table leads to real_catch, which stores the registers and returns to protected
 * mode.
 *
 * SDM vol. 3, 9.8, 9.9, chapter 20.1. */
#include "guest.h"

#define SEL_CODE16 (SEL_FREE + 0)    /* base 10000h */
#define SEL_DATA16 (SEL_FREE + 8)    /* base 0, 64 KiB */
#define SEL_DATA_BIG (SEL_FREE + 16) /* base 0, 4 GiB, 16-bit */
#define SEL_CODE64 (SEL_FREE + 24)

struct real {
    uint32_t ax, cx, dx, bx, si, di, bp, sp; /* in: to start with; out: when caught */
    uint16_t ds, es;
    uint16_t vector, ip, cs, flags;
    uint16_t data_selector; /* loaded into DS and ES on the way, for its limit */
    uint16_t code;
};
extern struct real real_now; /* below 64 KiB of LOW_SEGMENT */
void real_enter(void);

__asm__(".pushsection .low,\"awx\"\nlow_start: .popsection\n"); /* LOW_SEGMENT:0 */
__asm__(
    ".text\n"
    ".globl real_enter\n"
    "real_enter: pushf; pusha; mov %esp, real_esp; sidt real_idt_saved; lidt real_idt\n"
    "ljmp $0x80, $(1f - low_start)\n"
    ".pushsection .low,\"awx\"\n.code16\n"
    "1: mov $0x88, %ax; mov %ax, %ss; mov %ax, %fs; mov %ax, %gs\n"
    "mov $0x88, %ax; mov %ax, %ds; mov %cs:(real_now - low_start + 44), %ax; mov %ax, %ds; mov %ax, %es\n"
    "mov %cr0, %eax; and $~1, %al; mov %eax, %cr0\n"
    "ljmp $0x1000, $(2f - low_start)\n"
    "2: mov $0x2000, %ax; mov %ax, %ss; mov $0x1000, %ax; mov %ax, %ds; xor %ax, %ax; mov %ax, %fs; mov %ax, %gs\n"
    "mov (real_now - low_start + 28), %esp; mov (real_now - low_start + 4), %ecx; mov (real_now - low_start + 8), "
    "%edx\n"
    "mov (real_now - low_start + 12), %ebx; mov (real_now - low_start + 16), %esi; mov (real_now - low_start + 20), "
    "%edi\n"
    "mov (real_now - low_start + 24), %ebp; mov (real_now - low_start + 34), %es; mov (real_now - low_start), %eax\n"
    "mov (real_now - low_start + 32), %ds\n"
    "jmp *%cs:(real_now - low_start + 46)\n"
    /* caught: the stub has stored the vector */
    "real_catch: mov %ds, %cs:(real_now - low_start + 32); push %cs; pop %ds\n"
    "mov %eax, (real_now - low_start); mov %ecx, (real_now - low_start + 4); mov %edx, (real_now - low_start + 8)\n"
    "mov %ebx, (real_now - low_start + 12); mov %esi, (real_now - low_start + 16); mov %edi, (real_now - low_start + "
    "20)\n"
    "mov %ebp, (real_now - low_start + 24); mov %es, (real_now - low_start + 34)\n"
    "pop %ax; mov %ax, (real_now - low_start + 38); pop %ax; mov %ax, (real_now - low_start + 40); pop %ax\n"
    "mov %ax, (real_now - low_start + 42); mov %esp, (real_now - low_start + 28)\n"
    "cli; mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
    "ljmpl $8, $3f\n"
    ".balign 16\nreal_stubs:\nvector = 0\n.rept 256\n.balign 16\nmovw $vector, %cs:(real_now - low_start + 36); jmp "
    "real_catch\n"
    "vector = vector + 1\n.endr\n"
    ".balign 16\n.globl real_now\nreal_now: .skip 64\n"
    ".globl real_idt\nreal_idt: .word 0x3ff; .long 0\n"
    ".code32\n.popsection\n"
    "3: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss; xor %eax, %eax; mov %eax, %fs; mov %eax, %gs\n"
    "mov real_esp, %esp; lidt real_idt_saved; popa; popf; ret\n"
    ".globl real_stubs\n"
    ".lcomm real_esp, 4\n.lcomm real_idt_saved, 8\n");
extern const char real_stubs[];
extern struct __attribute__((packed)) {
    uint16_t limit;
    uint32_t base;
} real_idt;

static uint8_t *at(word address)
{
    ASM("" : "+r"(address));
    return (uint8_t *)address;
}

#define REAL(...) ((struct real){.sp = 0x1000, .ds = 0x3000, .es = 0x3000, .data_selector = SEL_DATA16, ##__VA_ARGS__})

static struct real run_real_with(const char *code, struct real in)
{
    in.code = (uint16_t)LOW_OFFSET(code);
    real_now = in;
    real_enter();
    return real_now;
}
#define run_real(code, ...) run_real_with(code, REAL(__VA_ARGS__))

static void ok_real(const struct real *r, word vector, const char *ip, const char *what)
{
    if (!ok(r->vector == vector && r->ip == LOW_OFFSET(ip) && r->cs == LOW_SEGMENT, "%s", what))
        note("vector %u at %x:%x flags %x sp %x ax %x", r->vector, r->cs, r->ip, r->flags, r->sp, r->ax);
}

CODE16(nop16, "nop");
CODE16(segments16, "mov (0), %al; mov %es:(2), %ah; push $0x3200; pop %fs; mov %fs:(4), %bl; mov %ss:(6), %bh");
CODE16(load_edi, "addr32 mov (%edi), %al");
CODE16(load_di, "mov (%di), %ax");
CODE16(load_bp, "mov (%bp), %ax");
CODE16(push_ax, "push %ax");
CODE16(int_21, "int $0x21");
CODE16(int_21_flags, "sti; stc; int $0x21");
CODE16(int3_16, "int3");
CODE16(into16, "mov $0x7f, %al; add $1, %al; into");
CODE16(bound16, "bound %ax, (0x40)");
CODE16(icebp16, ".byte 0xf1");
CODE16(ud2_16, "ud2");
CODE16(divide16, "div %cl");
CODE16(sldt16, "sldt %ax");
CODE16(str16, "str %ax");
CODE16(lldt16, "lldt %ax");
CODE16(ltr16, "ltr %ax");
CODE16(lar16, "lar %ax, %bx");
CODE16(verr16, "verr %ax");
CODE16(arpl16, "arpl %ax, %bx");
CODE16(sysenter16, "sysenter");
CODE16(syscall16, "syscall");
CODE16(iret16, "pushf; push %cs; push $nop16 - low_start; iret");
CODE16(iretd16, "pushl $0x40602; pushl $0x1000; pushl $nop16 - low_start; iretl");
CODE16(far_call, "lcall $0x3000, $0x100");
CODE16(far_end, "ljmp $0x3000, $0xffff");
CODE16(popf_all, "pushl $0x7446d7; popfl; pushfl; pop %eax; pushl $2; popfl");
CODE16(reload_ds, "mov $0x3100, %ax; mov %ax, %ds; addr32 mov (%edi), %al");
CODE16(store_edi, "addr32 movb $0x5a, (%edi)");
CODE16(lmsw_set, "mov $0x11, %ax; lmsw %ax; smsw %bx; mov $0x10, %ax; lmsw %ax; smsw %cx; "
                 "mov %cr0, %eax; and $~1, %al; mov %eax, %cr0; smsw %dx");
CODE16(a20_probe, /* bit 0 of BL: open with both gates off, 1: with port 92 on, 2: with the 8042's on */
       "xor %ebx, %ebx; mov $0xffff, %ax; mov %ax, %es; xor %ax, %ax; mov %ax, %ds\n"
       "mov %es:0x510, %dx\n" /* 100500h */
       "call a20_kbc_off; in $0x92, %al; and $0xfc, %al; out %al, $0x92; call a20_differs; adc %bl, %bl\n"
       "in $0x92, %al; or $2, %al; and $0xfe, %al; out %al, $0x92; call a20_differs; adc %bl, %bl\n"
       "in $0x92, %al; and $0xfc, %al; out %al, $0x92; call a20_kbc_on; call a20_differs; adc %bl, %bl\n"
       "in $0x92, %al; or $2, %al; and $0xfe, %al; out %al, $0x92");
/* CF: what is at 500h is not what is at 100500h, also after writing. */
__asm__(".pushsection .low,\"awx\"\n.code16\n"
        "a20_differs: push %es:0x510; movw $0x1234, 0x500; movw $0x5678, %es:0x510; cmpw $0x5678, 0x500; clc\n"
        "je 1f; stc\n1: lahf; pop %es:0x510; sahf; ret\n"
        "a20_wait: in $0x64, %al; test $2, %al; jnz a20_wait; ret\n"
        "a20_kbc_off: mov $0xdd, %ah; jmp 2f\n"
        "a20_kbc_on: mov $0xdf, %ah\n"
        "2: call a20_wait; mov $0xd1, %al; out %al, $0x64; call a20_wait; mov %ah, %al; out %al, $0x60; jmp a20_wait\n"
        ".code32\n.popsection");

static void test_real(void)
{
    at(0x30000)[0] = 0x11;
    at(0x31000)[2] = 0x22;
    at(0x32000)[4] = 0x33;
    at(0x20000)[6] = 0x44;
    struct real r = run_real(segments16, .es = 0x3100);
    ok_real(&r, 0x81, segments16_end + 2, "real mode and back");
    ok((r.ax & 0xffff) == 0x2211 && (r.bx & 0xffff) == 0x4433, "segments are selectors times 16");
    ok_equal(r.sp & 0xffff, 0x1000, "INT pushes three words");
    r = run_real(nop16, .si = 0x12345678, .di = 0x9abcdef0);
    ok(r.si == 0x12345678 && r.di == 0x9abcdef0, "32-bit registers survive the ways");
    r = run_real(load_edi, .di = 0x10000);
    ok_real(&r, GP, load_edi, "offset 10000h: vector 13");
    r = run_real(load_edi, .di = 0xffff);
    ok_real(&r, 0x81, load_edi_end + 2, "offset FFFFh");
    r = run_real(load_di, .di = 0xffff);
    ok_real(&r, GP, load_di, "a word at FFFFh: vector 13");
    r = run_real(load_bp, .bp = 0xffff);
    ok_real(&r, SS, load_bp, "a word at SS:FFFFh: vector 12");
    at(0x3ffff)[0] = 0x90;
    r = run_real(far_end);
    ok(r.vector == GP && r.cs == 0x3000 && r.ip == 0, "execution past FFFFh: vector 13");
    at(0x30100)[0] = 0xcb;
    r = run_real(far_call);
    ok_real(&r, 0x81, far_call_end + 2, "far CALL and RET");
    r = run_real(push_ax, .sp = 0, .ax = 0x4242);
    ok(r.vector == 0x81 && (r.sp & 0xffff) == 0xfffe && *(uint16_t *)at(0x2fffe) == 0x4242, "PUSH with SP 0 wraps");

    r = run_real(int_21_flags);
    ok_real(&r, 0x21, int_21_flags_end, "INT 21h");
    ok((r.flags & (FL_IF | FL_CF)) == (FL_IF | FL_CF), "... pushes FLAGS as they were");
    r = run_real(int3_16);
    ok_real(&r, BP, int3_16_end, "INT3");
    r = run_real(into16);
    ok_real(&r, OF, into16_end, "INTO");
    *(uint16_t *)at(0x30040) = 5;
    *(uint16_t *)at(0x30042) = 9;
    r = run_real(bound16, .ax = 4);
    ok_real(&r, BR, bound16, "BOUND");
    r = run_real(icebp16);
    ok_real(&r, DB, icebp16_end, "ICEBP");
    r = run_real(ud2_16);
    ok_real(&r, UD, ud2_16, "UD2");
    r = run_real(divide16, .ax = 7);
    ok_real(&r, DE, divide16, "DIV by 0: IP of the DIV");
    struct {
        const char *code, *name;
    } undefined[] = {{sldt16, "SLDT"}, {str16, "STR"},   {lldt16, "LLDT"}, {ltr16, "LTR"},
                     {lar16, "LAR"},   {verr16, "VERR"}, {arpl16, "ARPL"}, {syscall16, "SYSCALL"}};
    for (unsigned i = 0; i < ARRAY_LEN(undefined); i++) {
        r = run_real(undefined[i].code);
        ok(r.vector == UD && r.ip == LOW_OFFSET(undefined[i].code), "%s is not for real mode: vector 6",
           undefined[i].name);
    }
    r = run_real(sysenter16);
    ok_real(&r, GP, sysenter16, "SYSENTER in real mode: vector 13");
    r = run_real(iret16);
    ok_real(&r, 0x81, nop16_end + 2, "IRET");
    r = run_real(iretd16);
    ok_real(&r, 0x81, nop16_end + 2, "IRETD");
    ok(r.flags & FL_IF, "... loads flags");
    r = run_real(popf_all);
    ok_equal(r.ax, 0x2446d7, "POPFD in real mode loads all but VM, RF, VIF and VIP");
    real_idt.limit = 0x21 * 4 + 2;
    r = run_real(int_21);
    ok_real(&r, GP, int_21, "a vector beyond the IDT's limit: vector 13");
    real_idt.limit = 0x3ff;
    memcpy(at(0x40000), at(0), 0x400);
    *(uint32_t *)at(0x40000 + 0x21 * 4) = LOW_SEGMENT << 16 | (uint32_t)(LOW_OFFSET(real_stubs) + 16 * 0x77);
    real_idt.base = 0x40000;
    r = run_real(int_21);
    ok(r.vector == 0x77, "LIDT moves the vector table");
    real_idt.base = 0;
    r = run_real(lmsw_set);
    ok((r.bx & 1) && (r.cx & 1) && !(r.dx & 1), "LMSW sets PE and cannot clear it");
}

static void test_unreal(void)
{
    *at(0x234567) = 0x99;
    struct real r = run_real(load_edi, .di = 0x234567, .ds = 0, .data_selector = SEL_DATA_BIG);
    ok(r.vector == 0x81 && (r.ax & 0xff) == 0x99, "a 4 GiB limit from protected mode stays in real mode");
    *at(0x31000 + 0x123456) = 0x77;
    r = run_real(reload_ds, .di = 0x123456, .data_selector = SEL_DATA_BIG);
    ok(r.vector == 0x81 && (r.ax & 0xff) == 0x77, "loading the selector in real mode keeps the limit");
    r = run_real(store_edi, .di = 0x345678, .ds = 0, .data_selector = SEL_DATA_BIG);
    ok(r.vector == 0x81 && *at(0x345678) == 0x5a, "stores, too");
    r = run_real(load_edi, .di = 0x234567, .ds = 0);
    ok_real(&r, GP, load_edi, "64 KiB again");
}

static void test_a20(void)
{
    struct real r = run_real(a20_probe);
    ok_real(&r, 0x81, a20_probe_end + 2, "the A20 gate");
    ok(!(r.bx & 4), "both gates closed: 100500h is 500h");
    ok(r.bx & 2, "port 92h opens it");
    ok(r.bx & 1, "the keyboard controller opens it");
}

/* Long mode and back, in 32-bit code that runs where it lies; results in `long_results`. */
volatile uint32_t long_results[8];
void long_excursion(word tables);
__asm__(".text\n"
        "long_excursion: pusha; mov 36(%esp), %edi; mov $long_results, %esi\n"
        "mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4; mov %edi, %cr3\n"
        "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; rdmsr; mov %eax, 0(%esi)\n"
        "mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n" /* compatibility mode from here on */
        "rdmsr; mov %eax, 4(%esi)\n"
        "mov $0x7fffffff, %eax; .byte 0x40; mov %eax, 8(%esi)\n" /* INC EAX: 40h is not yet a REX prefix */
        "ljmp $0x98, $1f\n"
        ".code64\n1: mov $0x1122334455667788, %r9; mov %r9, 12(%rsi); mov $0x8000001234, %rax; movl $0x600d, (%rax)\n"
        "mov %esp, %esp; push $0x08; lea 2f(%rip), %rax; push %rax; lretq\n"
        ".code32\n2: mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0\n"
        "rdmsr; mov %eax, 20(%esi); and $~0x100, %eax; wrmsr\n"
        "mov %cr4, %eax; and $~0x20, %eax; mov %eax, %cr4; movl $1, 24(%esi); popa; ret\n");

static void test_long(void)
{
    if (!(cpuid(0x80000001, 0).edx >> 29 & 1)) {
        skip("no long mode");
        return;
    }
    uint64_t *top = page_alloc(1), *level3 = page_alloc(1), *level2 = page_alloc(1), *high3 = page_alloc(1);
    top[0] = (word)level3 | 7;
    top[1] = (word)high3 | 7; /* 8000000000h shows the same memory */
    level3[0] = high3[0] = (word)level2 | 7;
    for (unsigned i = 0; i < 32; i++)
        level2[i] = i * 2 * MiB | 0x87;
    *(uint32_t *)at(0x1234) = 0;
    long_excursion((word)top);
    ok_equal(long_results[0] & 0x500, 0x100, "EFER.LME without paging: LMA is clear");
    ok_equal(long_results[1] & 0x500, 0x500, "CR0.PG makes it LMA");
    ok_equal(long_results[2], 0x80000000, "compatibility mode: 40h is INC");
    ok(long_results[3] == 0x55667788 && long_results[4] == 0x11223344, "64-bit mode");
    ok_equal(*(uint32_t *)at(0x1234), 0x600d, "... reaches beyond 4 GiB");
    ok_equal(long_results[5] & 0x500, 0x100, "leaving paging clears LMA");
    ok_equal(long_results[6], 1, "back in 32-bit mode");
}

CODE(set_cr0, "mov %eax, %cr0");
CODE(set_cr4, "mov %eax, %cr4");
CODE(write_msr, "wrmsr");
CODE(lmsw_code, "lmsw %ax; smsw %ecx");

static void test_rules(void)
{
    struct trap t = run_kernel(set_cr0, .ax = (cr0_get() & ~CR0_PE) | CR0_PG);
    ok_trap(&t, GP, 0, set_cr0, "PG without PE: #GP(0)");
    t = run_kernel(set_cr0, .ax = (cr0_get() & ~CR0_CD) | CR0_NW);
    ok_trap(&t, GP, 0, set_cr0, "NW without CD: #GP(0)");
    t = run_kernel(lmsw_code, .ax = (cr0_get() & 0xffff) ^ CR0_TS ^ 1);
    ok(t.vector == DONE && (t.regs.cx & CR0_TS) && (t.regs.cx & 1), "LMSW in protected mode");
    ASM("clts");
    t = run_user(lmsw_code);
    ok_trap(&t, GP, 0, lmsw_code, "LMSW at level 3: #GP(0)");
    if (!(cpuid(0x80000001, 0).edx >> 29 & 1))
        return;
    wrmsr(MSR_EFER, EFER_LME);
    cr3_set((word)page_alloc(1));
    t = run_kernel(set_cr0, .ax = cr0_get() | CR0_PG);
    ok_trap(&t, GP, 0, set_cr0, "PG with LME and without PAE: #GP(0)");
    t = run_kernel(write_msr, .cx = MSR_EFER, .ax = EFER_LME | 0x2000000);
    ok_trap(&t, GP, 0, write_msr, "a reserved bit of EFER: #GP(0)");
    t = run_kernel(write_msr, .cx = MSR_EFER, .ax = EFER_LME | EFER_LMA);
    ok(t.vector == GP || !(rdmsr(MSR_EFER) & EFER_LMA), "LMA cannot be set by software");
    wrmsr(MSR_EFER, 0);
    t = run_kernel(set_cr4, .ax = cr4_get() | 0x80000000);
    ok_trap(&t, GP, 0, set_cr4, "a reserved bit of CR4: #GP(0)");
}

void test_main(void)
{
    gdt_put(0, descriptor(0x10000, 0xffff, 0x9a, 0));
    gdt_put(1, descriptor(0, 0xffff, 0x92, 0));
    gdt_put(2, descriptor(0, 0xfffff, 0x92, 8));
    gdt_put(3, descriptor(0, 0xfffff, 0x9a, 0xa));
    for (unsigned vector = 0; vector < 256; vector++)
        *(uint32_t *)at(4 * vector) = LOW_SEGMENT << 16 | (uint32_t)(LOW_OFFSET(real_stubs) + 16 * vector);
    test_real();
    test_unreal();
    test_a20();
    test_long();
    test_rules();
}
