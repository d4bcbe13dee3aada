/* Code that changes: the next instruction, the one in execution, loops, branches, code across two pages; written by
 * every kind of store, through another mapping, remapped; decoded at two offsets or in two modes.
 *
 * A processor sees a store to the linear address that it fetches from at the next instruction (SDM vol. 3, 8.1.3
 * and 11.6); stores through another mapping are followed by CPUID here. Built for both widths. */
#include "guest.h"

typedef word (*function)(void);

/* The immediate at SITE + 1 of MOV imm8, AL is changed right before it is executed. */
CODE(next_byte, "movb $0x77, 1f + 1\n1: mov $0x11, %al");
CODE(next_word, "movl $0x9088b090, 1f\n1: mov $0x11, %al; nop; nop");
CODE(next_push, "mov $1f + 2, %eax; xchg %eax, %esp; push %bx; xchg %eax, %esp\n1: mov $0x11, %al; nop; nop");
CODE(next_xchg, "mov $0x66, %al; xchg %al, 1f + 1\n1: mov $0x11, %al");
CODE(next_add, "addb $3, 1f + 1\n1: mov $0x11, %al");
CODE(next_stos, "mov $1f + 1, %edi; mov $0x55, %al; stosb\n1: mov $0x11, %al");
CODE(next_rep,
     "mov $1f, %edi; mov $0x90, %al; mov $4, %ecx; rep stosb\n1: .byte 0xff, 0xc2, 0xff, 0xc2"); /* INC EDX, twice */
CODE(next_cmpxchg, "mov $0x11, %al; mov $0x33, %dl; lock cmpxchg %dl, 1f + 1\n1: mov $0x11, %al");
CODE(next_not_cmpxchg, "mov $0x12, %al; mov $0x33, %dl; lock cmpxchg %dl, 1f + 1\n1: mov $0x11, %al");
CODE(own_rep, "mov $1f - 2, %edi; mov $0x90, %al; mov $12, %ecx; rep stosb\n1: .byte 0xff, 0xc2, 0xff, 0xc2, 0xff, "
              "0xc2; nop; nop; nop; "
              "nop; nop; nop; nop");
CODE(counting_loop, "xor %ebx, %ebx; mov $10, %ecx\n1: incb 2f + 1\n2: mov $0, %al; movzbl %al, %eax; add %eax, %ebx; "
                    "dec %ecx; jnz 1b");
CODE(behind_loop, "xor %ebx, %ebx; mov $3, %ecx\n1: mov $1, %al; movzbl %al, %eax; add %eax, %ebx; addb $10, 1b + 1; "
                  "dec %ecx; jnz 1b; movb $1, 1b + 1");
CODE(branch_loop, "mov $4, %ecx; xor %ebx, %ebx\n1: jmp 2f\n2: .byte 0xff, 0xc3; jmp 4f\n3: add $16, %ebx\n4: xorb $4, "
                  "1b + 1; dec %ecx; "
                  "jnz 1b");
CODE(data_beside, "mov $2000, %ecx\n1: incl 2f; dec %ecx; jnz 1b; mov 2f, %eax; jmp 3f\n2: .long 0\n3: nop");
static void test_next(void)
{
    static const struct {
        const char *code, *end, *what;
        word al;
    } forms[] = {
        {next_byte, next_byte_end, "a byte store", 0x77},
        {next_word, next_word_end, "a doubleword store", 0x88},
        {next_push, next_push_end, "PUSH", 0x99},
        {next_xchg, next_xchg_end, "XCHG", 0x66},
        {next_add, next_add_end, "ADD", 0x14},
        {next_stos, next_stos_end, "STOSB", 0x55},
        {next_cmpxchg, next_cmpxchg_end, "CMPXCHG", 0x33},
        {next_not_cmpxchg, next_not_cmpxchg_end, "CMPXCHG that fails", 0x11},
    };
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        /* PUSH of 99B0h makes MOV 99h, AL of the next instruction. */
        struct trap t = run_kernel(forms[i].code, .bx = 0x99b0);
        ok(t.vector == DONE && (t.regs.ax & 0xff) == forms[i].al, "%s changes the next instruction", forms[i].what);
        if ((t.regs.ax & 0xff) != forms[i].al)
            trap_print(&t);
    }
    struct trap t = run_kernel(next_rep, .dx = 5);
    ok(t.vector == DONE && t.regs.dx == 5, "REP STOSB changes the next instructions");
    t = run_kernel(own_rep, .dx = 5);
    ok(t.vector == DONE && t.regs.dx == 5, "REP STOSB writes over itself and what comes behind");
}

static void test_loops(void)
{
    struct trap t = run_kernel(counting_loop);
    ok_equal(t.regs.bx, 55, "a loop that changes its own immediate");
    t = run_kernel(counting_loop);
    ok_equal(t.regs.bx, 155, "... and goes on from there");
    t = run_kernel(behind_loop);
    ok_equal(t.regs.bx, 33, "a loop that changes what it has executed already");
    t = run_kernel(branch_loop);
    ok_equal(t.regs.bx, 34, "a loop that changes where its branch goes");
    t = run_kernel(data_beside);
    ok_equal(t.regs.ax, 2000, "data beside code");
}

/* MOV imm32, EAX; RET */
static void generate(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static void test_generated(void)
{
    uint8_t *page = page_alloc(2);
    bool all = true;
    for (uint32_t i = 0; i < 200; i++) {
        generate(page + 16 * (i % 7), i);
        all = all && ((function)(page + 16 * (i % 7)))() == i;
    }
    ok(all, "200 generated functions in one page");
    all = true;
    for (uint32_t i = 0; i < 50; i++) {
        generate(page + PAGE - 3, i * 0x01010101);
        all = all && ((function)(page + PAGE - 3))() == i * 0x01010101;
    }
    ok(all, "an instruction across two pages, written as a whole");
    generate(page + PAGE - 3, 0x11111111);
    ((function)(page + PAGE - 3))();
    page[PAGE] = 0x22;
    ok_equal(((function)(page + PAGE - 3))(), 0x11221111, "... its second half changed");
    page[PAGE - 1] = 0x33;
    ok_equal(((function)(page + PAGE - 3))(), 0x11223311, "... its first half changed");
    uint32_t two = 0x55667788;
    memcpy(page + PAGE - 2, &two, 4);
    *(volatile uint32_t *)(page + PAGE - 2) = two;
    ok_equal(((function)(page + PAGE - 3))(), 0x55667788, "... by one store across both pages");
    /* A short jump at the very end of a page, whose displacement is in the next. */
    memset(page, 0x90, 2 * PAGE);
    page[PAGE - 1] = 0xeb;
    page[PAGE] = 0x10;
    generate(page + PAGE + 1 + 0x10, 1);
    generate(page + PAGE + 1 + 0x20, 2);
    word first = ((function)(page + PAGE - 1))();
    page[PAGE] = 0x20;
    word second = ((function)(page + PAGE - 1))();
    ok(first == 1 && second == 2, "a branch across two pages, its displacement changed");
    /* Two decodings of the same bytes: MOV 00C3C340h?, EAX entered at its immediate. */
    static const uint8_t overlapping[] = {0xb8, 0xb0, 0x42, 0xc3, 0x00, 0xc3};
    memcpy(page, overlapping, sizeof overlapping);
    ok_equal(((function)page)() & 0xffffffff, 0x00c342b0, "bytes as one instruction");
    ok_equal(((function)(page + 1))() & 0xff, 0x42, "... and, one further, as two");
    page[2] = 0x43;
    ok(((function)page)() == 0x00c343b0 && (((function)(page + 1))() & 0xff) == 0x43, "... both see a store");
    /* Called, changed, called: direct calls between pages. */
    uint8_t *caller = page + PAGE + 0x100;
    int32_t displacement = (int32_t)(page - (caller + 5));
    caller[0] = 0xe8;
    memcpy(caller + 1, &displacement, 4);
    caller[5] = 0xc3;
    all = true;
    for (uint32_t i = 0; i < 20; i++) {
        generate(page, i);
        all = all && ((function)caller)() == i;
    }
    ok(all, "a callee that changes under a direct call");
    displacement += 64;
    generate(page + 64, 0x99);
    memcpy(caller + 1, &displacement, 4);
    ok_equal(((function)caller)(), 0x99, "a direct call whose target changes");
    /* Code copied over code by REP MOVSB. */
    static uint8_t source[64];
    generate(source, 0x777);
    uint8_t *to = page + 64, *from = source;
    word count = 6;
    ASM("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    ok_equal(((function)(page + 64))(), 0x777, "code copied by REP MOVSB");
}

#ifdef __x86_64__

#define AREA 0x8000000000ul

static void serialize(void)
{
    cpuid(0, 0);
}

static void test_mappings(void)
{
    uint8_t *a = page_alloc(1), *b = page_alloc(1);
    *pte(AREA, 1) = (word)a | PTE_P | PTE_W | PTE_U;
    *pte(AREA + PAGE, 1) = (word)a | PTE_P | PTE_W | PTE_U;
    function f = (function)AREA, g = (function)(AREA + PAGE);
    generate(a, 1);
    ok(f() == 1 && g() == 1, "one page at two addresses");
    generate((uint8_t *)AREA, 2);
    serialize();
    ok(f() == 2 && g() == 2 && ((function)a)() == 2, "a store through one is seen through all");
    generate(a, 3);
    serialize();
    ok(f() == 3 && g() == 3, "... also through the identity map");
    generate(b, 4);
    *pte(AREA, 1) = (word)b | PTE_P | PTE_W;
    invlpg(AREA);
    ok(f() == 4 && g() == 3, "another page at the address");
    generate(a, 5);
    serialize();
    ok(f() == 4 && g() == 5, "the first one is changed where it still is");
    *pte(AREA, 1) = (word)a | PTE_P | PTE_W;
    invlpg(AREA);
    ok_equal(f(), 5, "and comes back");
    bool all = true;
    for (uint32_t i = 0; i < 100; i++) {
        *pte(AREA, 1) = (word)(i & 1 ? a : b) | PTE_P | PTE_W;
        invlpg(AREA);
        all = all && f() == (i & 1 ? 5 : 4);
    }
    ok(all, "two pages in turn");
    /* An instruction across two mappings, of which the second is exchanged. */
    *pte(AREA + PAGE, 1) = (word)b | PTE_P | PTE_W;
    invlpg(AREA + PAGE);
    uint8_t bytes[6];
    generate(bytes, 0x44332211);
    memcpy(a + PAGE - 3, bytes, 3);
    memcpy(b, bytes + 3, 3);
    uint8_t *c = page_alloc(1);
    memcpy(c, bytes + 3, 3);
    c[0] = 0x99;
    function h = (function)(AREA + PAGE - 3);
    ok_equal(h(), 0x44332211, "an instruction across two mappings");
    *pte(AREA + PAGE, 1) = (word)c | PTE_P | PTE_W;
    invlpg(AREA + PAGE);
    ok_equal(h(), 0x44992211, "... the second one remapped");
    c[1] = 0x88;
    serialize();
    ok_equal(h(), 0x88992211, "... changed through the identity map");

    /* 40h FFh C0h: INC EAX twice in 32-bit code, once (behind a REX) in 64-bit code. */
    static const uint8_t both[] = {0x40, 0xff, 0xc0, 0xcd, DONE};
    memcpy(a + 0x100, both, sizeof both);
    struct trap t = run_kernel(a + 0x100);
    ok_equal(t.regs.ax, 1, "bytes as 64-bit code");
    t = run_kernel(a + 0x100, .cs = SEL_KCODE32);
    ok_equal(t.regs.ax, 2, "... the same as 32-bit code");
    t = run_kernel(a + 0x100);
    ok_equal(t.regs.ax, 1, "... and again as 64-bit code");
    a[0x100] = 0x90;
    t = run_kernel(a + 0x100, .cs = SEL_KCODE32);
    struct trap u = run_kernel(a + 0x100);
    ok(t.regs.ax == 1 && u.regs.ax == 1, "a store reaches both");

    /* Level 3 code changed at level 0. */
    *pte(AREA, 1) = (word)a | PTE_P | PTE_W | PTE_U;
    invlpg(AREA);
    all = true;
    for (uint8_t i = 0; i < 50; i++) {
        uint8_t code[] = {0xb0, i, 0xcd, DONE};
        memcpy(a + 0x200, code, sizeof code);
        t = run(&REGS_USER(AREA + 0x200 - USER_WINDOW));
        all = all && t.vector == DONE && (t.regs.ax & 0xff) == i;
    }
    ok(all, "code of level 3 that level 0 changes through another mapping");
}

#else

static void test_mappings(void)
{
    /* The same bytes as 32-bit and as 16-bit code. */
    static uint8_t both[] = {0xb8, 0x34, 0x12, 0xcd, DONE, 0xcd, DONE}; /* MOV imm16, AX; INT or MOV imm32, EAX; INT */
    uint16_t narrow = gdt_put(0, descriptor((word)both, 0xffff, 0x9a, 0));
    struct trap t = run_kernel(both);
    ok_equal(t.regs.ax, 0x81cd1234, "bytes as 32-bit code");
    t = run_kernel(0, .cs = narrow);
    ok_equal(t.regs.ax, 0x1234, "... the same as 16-bit code");
    both[1] = 0x35;
    t = run_kernel(0, .cs = narrow);
    struct trap u = run_kernel(both);
    ok(t.regs.ax == 0x1235 && u.regs.ax == 0x81cd1235, "a store reaches both");
    /* One linear address through two code segments, in reach of one and beyond the other's limit. */
    uint16_t shorter = gdt_put(1, descriptor((word)both, 4, 0x9a, 4));
    t = run_kernel(0, .cs = shorter);
    ok(t.vector == GP && t.regs.ip == 5, "an instruction beyond a shorter limit: #GP");
    ok_equal(t.regs.ax, 0x81cd1235, "... after the one within");
    t = run_kernel(both);
    ok_equal(t.vector, DONE, "... and through the flat segment again");
}

#endif

void test_main(void)
{
    test_next();
    test_loops();
    test_generated();
    test_mappings();
}
