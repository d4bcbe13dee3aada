/* Escape: what a guest could try to reach memory that is not its own, or to confuse an engine about where it is.
 *
 *     --append "seed=N trace=1"
 *
 * Every address that the monitor's own memory could have, in user and kernel code, mapped and not; sums of base, index and
 * displacement that wrap; 32-bit addresses that wrap at 4 GiB; accesses over the end of RAM and into devices; stack
 * pointers that point nowhere; forged return addresses; jumps into instructions; code in devices, in page tables and in
 * what rewrites it; more blocks than any cache holds; page tables that are mapped by themselves, that lie in
 * device memory, that are code.
 *
 * Each group adds all outcomes -- vector, error code, CR2, registers -- to a sum and prints it:
 *
 *     ESCAPE group sum H
 *
 * Every engine must print the same, and still be alive at the end. */
#include "stress.h"

#define PLACE 0x8000000000ul  /* pages that are mapped and unmapped here */
#define LOW_USER 0x30000000ul /* the program for 32-bit users */
#define RAM_END (64 * MiB)
#define IOAPIC 0xfec00000ul
#define NOWHERE 0xfed80000ul /* no device */
#define FORGED 100000u
#define BLOCKS 100000u

static uint8_t *page; /* with a pattern */
static bool trace;

/* ---- outcomes ---- */

static struct trap outcome(struct regs r)
{
    struct trap t = run(&r);
    sum_trap(&t, FL_TF | FL_IF | FL_DF | FL_NT | FL_RF | FL_AC);
    if (trace)
        print("at %lx cs %lx di %lx si %lx sp %lx: vector %lu error %lx cr2 %lx ip %lx ax %lx sum %llx\n", r.ip, r.cs, r.di,
              r.si, r.sp, t.vector, t.error, t.vector == PF ? t.cr2 : 0, t.regs.ip, t.regs.ax, (unsigned long long)sum);
    return t;
}

static void group_end(const char *name)
{
    print("ESCAPE %s sum %llx\n", name, (unsigned long long)sum);
}

/* All exceptions on a stack of their own: RSP may be anything. */
static void stacks_setup(void)
{
    word top = (word)page_alloc(4) + 4 * PAGE;
    memcpy(tss + 0x24, &top, sizeof top);
    for (unsigned vector = 0; vector < 32; vector++)
        idt_set(vector, &(struct gate_spec){.offset = (word)trap_stubs + 16 * vector, .selector = SEL_KCODE, .type = 0xe,
                                            .dpl = vector == BP || vector == OF ? 3 : 0, .ist = 1});
    idt_set(DONE, &(struct gate_spec){.offset = (word)trap_stubs + 16 * DONE, .selector = SEL_KCODE, .type = 0xe, .dpl = 3,
                                      .ist = 1});
}

/* ---- addresses ---- */

CODE(load1, "mov (%rdi), %al");
CODE(load2, "mov (%rdi), %ax");
CODE(load4, "mov (%rdi), %eax");
CODE(load8, "mov (%rdi), %rax");
CODE(store1, "mov %al, (%rdi)");
CODE(store4, "mov %eax, (%rdi)");
CODE(store8, "mov %rax, (%rdi)");
CODE(add4, "add %eax, (%rdi)");
CODE(add8, "add %rax, (%rdi)");
CODE(indexed, "mov (%rdi,%rsi,8), %rax");
CODE(indexed_add, "add %rax, -1(%rdi,%rsi,4)");
CODE(r10_indexed, "mov %rdi, %r10; mov %rsi, %r11; mov 0x10(%r10,%r11,2), %rax");
CODE(r14_store, "mov %rdi, %r14; mov %rax, (%r14)");
CODE(absolute_fs, "mov %fs:(%rdi), %rax");
CODE(locked, "lock xadd %rax, (%rdi)");
CODE(exchange, "xchg %eax, (%rdi)");
CODE(compare16, "lock cmpxchg16b (%rdi)");
CODE(push_memory, "push (%rdi)");
CODE(pop_memory, "push %rax; pop (%rdi)");
CODE(jump, "jmp *%rdi");
CODE(jump_memory, "jmp *(%rdi)");
CODE(call, "call *%rdi");
CODE(move_bytes, "mov %rdi, %rsi; rep movsb");
CODE(store_string, "rep stosq");
CODE(scan, "repne scasb");
CODE(bit_far, "bts %rax, (%rdi)");
CODE(invalidate, "invlpg (%rdi)");
CODE(prefetch, "prefetcht0 (%rdi); nopw (%rdi); lea (%rdi,%rsi,8), %rax");

static const char *const accesses[] = {load1, load2, load4, load8, store1, store4, store8, add4, add8, indexed, indexed_add,
                                       r10_indexed, r14_store, absolute_fs, locked, exchange, compare16, push_memory,
                                       pop_memory, jump, jump_memory, call, move_bytes, store_string, scan, bit_far,
                                       prefetch};

/* Addresses like those that a process on the host has, with all bits random that are random there. */
static word host_like(void)
{
    switch (below(6)) {
    case 0: return 0x7f0000000000 | (random64() & 0xfffffffff8);
    case 1: return 0x7ff000000000 | (random64() & 0xffffffff8);
    case 2: return 0x550000000000 | (random64() & 0xffffffffff8);
    case 3: return 0x7ffff7000000 | (random64() & 0xffffff8);
    case 4: return 0x10000000000 * (2 + below(125)) + (random64() & 0xfffff000);
    default: return 0xffffffffff600000 | (random64() & 0xff8);
    }
}

static word odd_address(void)
{
    word one = 1ul << (44 + below(20));
    switch (below(8)) {
    case 0: return one;
    case 1: return ~one;
    case 2: return one + (word)page;
    case 3: return 0x800000000000 - below(12);
    case 4: return 0xffff800000000000 - below(12);
    case 5: return random64();
    case 6: return -(word)below(16);
    default: return host_like();
    }
}

static struct regs access_regs(const char *snippet, word at, bool user)
{
    struct regs r = user ? REGS_USER(snippet) : REGS_KERNEL(snippet);
    r.di = at;
    r.ax = random64();
    r.bx = random64();
    r.dx = below(8);
    r.cx = 1 + below(40);
    return r;
}

static void test_addresses(void)
{
    for (unsigned i = 0; i < 3000; i++) {
        const char *snippet = accesses[below(ARRAY_LEN(accesses))];
        word at = odd_address();
        bool system = (at & 0xfff) == 0 && one_in(2);
        outcome(access_regs(snippet, at, system || one_in(2)));
    }
    group_end("addresses that the guest has not");
    for (unsigned i = 0; i < 300; i++) {
        word at = host_like() & ~0xffful;
        if (at >> 47 != 0)
            continue;
        *pte(at, 1) = (word)page | PTE_P | PTE_W | PTE_U;
        invlpg(at);
        outcome(access_regs(load8, at + 8 * below(500), one_in(2)));
        outcome(access_regs(accesses[below(ARRAY_LEN(accesses) - 8)], at + below(0xff0), one_in(2)));
        *pte(at, 1) = 0;
        invlpg(at);
        outcome(access_regs(load8, at + 8 * below(500), one_in(2)));
    }
    group_end("the same, mapped and unmapped");
    for (unsigned i = 0; i < 1500; i++) {
        struct regs r = access_regs(one_in(2) ? indexed : one_in(2) ? indexed_add : r10_indexed, 0, false);
        unsigned scale = r.ip == (word)indexed ? 8 : r.ip == (word)indexed_add ? 4 : 2;
        r.si = one_in(2) ? random64() : 1ul << below(64);
        r.di = (word)page + 0x100 + below(0x800) - r.si * scale;
        outcome(r);
        r.di += one_in(2) ? 1ul << below(64) : 0;
        outcome(r);
    }
    group_end("sums that wrap");
}

/* ---- 32-bit code ---- */

CODE32(narrow_load, "mov (%edi,%esi,4), %eax");
CODE32(narrow_store, "mov %eax, 0x7fffffff(%edi,%esi)");
CODE32(narrow_add, "add %eax, -2(%edi)");
CODE32(narrow_push, "mov %edi, %esp; push %eax; pop %edx");
CODE32(narrow_string, "rep movsb");
CODE32(narrow_call, "mov %edi, %esp; call 1f; 1: pop %edx");
CODE32(narrow_double, "lock cmpxchg8b (%edi)");

static void test_narrow(void)
{
    static const char *const snippets[] = {narrow_load, narrow_store, narrow_add, narrow_push, narrow_string, narrow_call,
                                           narrow_double};
    *pte(0, 4) |= PTE_U;
    *pte(0, 3) |= PTE_U;
    *pte(0xc0000000, 3) |= PTE_U;
    for (word at = 0; at < 32 * MiB; at += 2 * MiB)
        *pte(LOW_USER + at, 2) = at | PTE_P | PTE_W | PTE_U | PTE_PS;
    word top = (word)page_alloc_aligned(2 * MiB, 2 * MiB);
    *pte(0xffe00000, 2) = top | PTE_P | PTE_W | PTE_U | PTE_PS; /* the last page below 4 GiB */
    *pte(0x100000000, 1) = (word)page | PTE_P | PTE_W | PTE_U;  /* and what lies behind it */
    cr3_set(cr3_get());
    for (unsigned i = 0; i < 1500; i++) {
        const char *snippet = snippets[below(ARRAY_LEN(snippets))];
        struct regs r = REGS_USER(0, .cs = SEL_UCODE32 | 3, .ip = LOW_USER + (word)snippet,
                                  .sp = LOW_USER + (word)user_stack_top);
        word to = LOW_USER + (word)page + below(0x800);
        r.ax = (uint32_t)random64();
        r.cx = below(40);
        r.si = one_in(3) ? below(64) : (uint32_t)random64();
        r.di = snippet == narrow_load    ? (uint32_t)(to - 4 * r.si)
               : snippet == narrow_store ? (uint32_t)(to - 0x7fffffff - r.si)
                                         : (uint32_t)to;
        if (one_in(3))
            r.di = (uint32_t)-(int)below(24);
        if (snippet == narrow_store) /* where it goes is known: users may write to this program there */
            r.si = (uint32_t)(to - 0x7fffffff - r.di);
        if (snippet == narrow_string)
            r.si = one_in(2) ? (uint32_t)-(int)below(24) : (uint32_t)to;
        outcome(r);
    }
    sum_bytes((void *)(top + 2 * MiB - PAGE), PAGE);
    *pte(0xffe00000, 2) = 0xffe00000 | PTE_P | PTE_W | PTE_PS;
    *pte(0x100000000, 1) = 0;
    cr3_set(cr3_get());
    group_end("32-bit addresses that wrap");
}

/* ---- the ends of things ---- */

static void test_ends(void)
{
    static const word frames[] = {RAM_END, NOWHERE, IOAPIC, 0xa0000, 0x7ffffff000, 0x4000000000, 0};
    for (unsigned i = 0; i < 400; i++) {
        const char *snippet = accesses[below(ARRAY_LEN(accesses) - 8)];
        outcome(access_regs(snippet, RAM_END - below(17), false));
    }
    sum_bytes((void *)(RAM_END - PAGE), PAGE);
    memset((void *)(RAM_END - PAGE), 0x90, PAGE);
    outcome(access_regs(jump, RAM_END - 64, false));
    group_end("the end of RAM");
    for (unsigned i = 0; i < 1500; i++) {
        word frame = frames[below(ARRAY_LEN(frames))];
        *pte(PLACE, 1) = (word)page | PTE_P | PTE_W | PTE_U;
        *pte(PLACE + PAGE, 1) = frame == 0 ? 0 : frame | PTE_P | PTE_W | PTE_U;
        *pte(PLACE + 2 * PAGE, 1) = (word)page | PTE_P | PTE_W | PTE_U;
        cr3_set(cr3_get());
        word at = PLACE + (one_in(2) ? 1 : 2) * PAGE - 1 - below(16);
        const char *snippet = accesses[below(ARRAY_LEN(accesses) - 8)];
        if (frame == IOAPIC && at >= PLACE + PAGE)
            snippet = load8; /* its registers do more */
        outcome(access_regs(snippet, at, one_in(2)));
    }
    sum_bytes(page, PAGE);
    group_end("over a page's end into another");
}

/* ---- the stack ---- */

CODE(s_push, "push %rax");
CODE(s_push2, "pushw %ax");
CODE(s_pop, "pop %rax");
CODE(s_call, "call 1f; 1: nop");
CODE(s_ret, "ret");
CODE(s_ret8, "ret $0x7ff8");
CODE(s_pushf, "pushf");
CODE(s_enter, "enter $16, $3");
CODE(s_leave, "mov %rsp, %rbp; leave");
CODE(s_iret, "iretq");
CODE(s_retf, "lretq");
CODE(s_pop_rsp, "pop %rsp");
CODE(s_push_rsp, "push %rsp; pop %rax");
CODE(s_int, "int $0x81");
CODE(s_xchg, "xchg %rsp, %rax; push %rax; xchg %rsp, %rax");

static void test_stacks(void)
{
    static const char *const snippets[] = {s_push, s_push2, s_pop, s_call, s_ret, s_ret8, s_pushf, s_enter, s_leave, s_iret,
                                           s_retf, s_pop_rsp, s_push_rsp, s_int, s_xchg};
    for (unsigned i = 0; i < 3000; i++) {
        const char *snippet = snippets[below(ARRAY_LEN(snippets))];
        bool user = one_in(2);
        struct regs r = user ? REGS_USER(snippet) : REGS_KERNEL(snippet);
        word usable = (user ? USER(page) : (word)page) + 0x400 + below(0x800);
        /* A kernel's return to what happens to lie there could find code somewhere. */
        bool returns = snippet == s_iret || snippet == s_retf || snippet == s_ret || snippet == s_ret8;
        switch (below(returns && !user ? 2 : 6)) {
        case 0: r.sp = odd_address(); break;
        case 1: r.sp = NOWHERE + below(64); break;
        case 2: r.sp = (user ? USER(page) : (word)page) + below(40) - 8; break;
        case 3: r.sp = RAM_END - below(24); break;
        default: r.sp = usable; break;
        }
        r.ax = random64();
        r.bp = one_in(2) ? r.sp : usable;
        outcome(r);
    }
    sum_bytes(page, PAGE);
    group_end("stack pointers");
}

CODE(forge, "1: lea 2f(%rip), %rax; test $1, %cl; jz 3f; lea 4f(%rip), %rax; 3: push %rax; ret\n"
            "2: add $3, %rbx; jmp 5f; 4: add $5, %rbx; 5: dec %ecx; jnz 1b");
CODE(unwind, "lea 9f(%rip), %rax; push %rax\n1: call 2f; 3: inc %rbx; ret\n2: dec %ecx; jnz 1b; ret\n9:");
CODE(unwind_forged, "lea 9f(%rip), %rax; push %rax; mov %ecx, %edx\n1: call 2f; ud2\n2: dec %ecx; jnz 1b\n"
                    "mov %rsp, %rdi; lea 4f(%rip), %rax; mov %edx, %ecx; rep stosq; ret\n"
                    "4: add $7, %rbx; ret\n9:");
CODE(never_returned, "mov %rsp, %rbp\n1: call 2f; 2: call 3f; 3: inc %rbx; mov %rbp, %rsp; dec %ecx; jnz 1b");
CODE(one_too_many, "lea 9f(%rip), %rax; mov %ecx, %edx\n1: push %rax; dec %ecx; jnz 1b\n2: call 3f; jmp 2b; 3: add $8, %rsp; dec %edx; ret\n9: inc %rbx; "
                   "test %edx, %edx; jle 8f; dec %edx; jz 8f; ret; 8: nop");

static void test_returns(void)
{
    word stack = (word)page_alloc(512) + 510 * PAGE;
    static const char *const snippets[] = {forge, unwind, unwind_forged, never_returned, one_too_many};
    for (unsigned i = 0; i < ARRAY_LEN(snippets); i++) {
        struct trap t = outcome(REGS_KERNEL(snippets[i], .sp = stack, .cx = FORGED, .bx = 0));
        ok_equal(t.vector, DONE, "returns: %u, %lu", i, t.regs.bx);
        outcome(REGS_USER(snippets[i], .sp = USER(stack), .cx = FORGED / 10, .bx = 0));
    }
    group_end("forged return addresses");
}

/* ---- code ---- */

/* MOV r, imm32 with harmless instructions of one byte in the operand: entered everywhere. */
static void test_middles(void)
{
    static const uint8_t harmless[] = {0x90, 0xf8, 0xf9, 0xf5, 0x98, 0x99, 0xfc};
    uint8_t *code = page_alloc(2);
    for (unsigned round = 0; round < 40; round++) {
        unsigned at = round % 3 ? PAGE - 60 : 100, n = at;
        for (unsigned i = 0; i < 20; i++) {
            code[n++] = (uint8_t)(0xb8 | (below(8) & ~4u));
            for (unsigned k = 0; k < 4; k++)
                code[n++] = harmless[below(sizeof harmless)];
        }
        code[n++] = 0xcd;
        code[n] = DONE;
        cpuid(0, 0);
        for (unsigned i = 0; i < 100; i++) {
            struct trap t = outcome(REGS_KERNEL(code + at + below(n - at)));
            sum_add(t.regs.flags & FL_CF);
        }
    }
    group_end("jumps into instructions");
}

static void test_devices(void)
{
    static const word places[] = {IOAPIC, NOWHERE, 0xfee00000, RAM_END, 0xffff0000, 0xfffffff0};
    uint8_t *scratch = page_alloc(2);
    for (unsigned i = 0; i < 200; i++) {
        word at = places[below(ARRAY_LEN(places))] + (one_in(2) ? 0 : 8 * below(4));
        struct regs r = REGS_KERNEL(at);
        r.ax = r.bx = r.cx = r.dx = r.si = r.di = (word)scratch + PAGE;
        outcome(r);
        *pte(PLACE, 1) = (word)page | PTE_P | PTE_W | PTE_U;
        *pte(PLACE + PAGE, 1) = (at & ~0xffful) | PTE_P | PTE_W | PTE_U;
        cr3_set(cr3_get());
        memset(page + PAGE - 16, 0x90, 15);
        page[PAGE - 1] = 0xb8; /* its operand lies in the device */
        r = REGS_KERNEL(PLACE + PAGE - 1 - below(8));
        r.ax = r.bx = r.cx = r.dx = r.si = r.di = (word)scratch + PAGE;
        outcome(r);
    }
    sum_bytes(scratch, 2 * PAGE);
    group_end("code in devices");
}

CODE(rewriting, "1: incb 2f+1; jmp 2f\n2: mov $0, %al; movzx %al, %eax; add %eax, %ebx; dec %ecx; jnz 1b");
CODE(rewriting_at_once, "1: addl $3, 2f+1\n2: mov $0, %eax; add %eax, %ebx; dec %ecx; jnz 1b");
CODE(rewriting_back, "1: add $0, %ebx; incb 1b+2; dec %ecx; jnz 1b");
CODE(swapping_branch, "1: xorb $1, 2f; 2: jz 3f; add $3, %ebx; 3: add $1, %ebx; dec %ecx; jnz 1b");

static void test_rewriting(void)
{
    static const char *const snippets[] = {rewriting, rewriting_at_once, rewriting_back, swapping_branch};
    for (unsigned i = 0; i < ARRAY_LEN(snippets); i++) {
        struct trap t = outcome(REGS_KERNEL(snippets[i], .cx = 20000, .bx = 0));
        ok_equal(t.vector, DONE, "rewriting: %u", i);
    }
    group_end("code that rewrites what comes next");
}

/* ADD EAX, imm32; JMP over a byte */
static void test_blocks(void)
{
    uint8_t *code = page_alloc((BLOCKS * 8 + 2 + PAGE) / PAGE + 1);
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint32_t value = (uint32_t)random64();
        code[8 * i] = 0x05;
        memcpy(code + 8 * i + 1, &value, 4);
        code[8 * i + 5] = 0xeb;
        code[8 * i + 6] = 0x01;
        code[8 * i + 7] = 0xcc;
    }
    code[8 * BLOCKS] = 0xcd;
    code[8 * BLOCKS + 1] = DONE;
    for (unsigned round = 0; round < 4; round++) {
        outcome(REGS_KERNEL(code, .ax = 0));
        outcome(REGS_KERNEL(code + 8 * (BLOCKS / 2), .ax = 0));
        for (unsigned i = 0; i < BLOCKS; i += 500)
            code[8 * i + 1]++;
        cpuid(0, 0);
    }
    group_end("more blocks than fit");
}

/* ---- page tables ---- */

CODE(table_code, "1: mov %rax, (%rdi); invlpg (%rsi); add (%rsi), %rbx; mov %rdx, (%rdi); invlpg (%rsi); add (%rsi), %rbx\n"
                 "incq (%rsi); xor $0x60, %rax; dec %ecx; jnz 1b");

static void test_tables(void)
{
    uint8_t *other = page_alloc(1);
    word root = cr3_get() & ~0xffful;
    *(uint64_t *)other = 1000003;
    *(uint64_t *)page = 7;
    /* The root maps itself: entry 510 makes all tables appear as memory. */
    ((uint64_t *)root)[510] = root | PTE_P | PTE_W;
    *pte(PLACE, 1) = (word)page | PTE_P | PTE_W | PTE_U;
    cr3_set(root);
    word seen = 0xffff000000000000 | 510ul << 39 | (PLACE >> 12) << 3;
    for (unsigned i = 0; i < 400; i++) {
        word frame = one_in(2) ? (word)page : (word)other;
        *(volatile uint64_t *)seen = frame | PTE_P | PTE_W | (one_in(2) ? PTE_U : 0) | (one_in(4) ? PTE_A : 0);
        invlpg(PLACE);
        outcome(access_regs(one_in(2) ? load8 : add8, PLACE, one_in(2)));
        sum_add(*(volatile uint64_t *)seen);
    }
    group_end("tables that map themselves");
    /* The table is a page of code, too, which changes it. */
    uint8_t *table = (uint8_t *)((word)pte(PLACE, 1) & ~0xffful);
    memcpy(table + 0x800, table_code, (size_t)(table_code_end - table_code) + 2);
    struct regs r = REGS_KERNEL(table + 0x800, .di = (word)pte(PLACE, 1), .si = PLACE, .cx = 3000, .bx = 0);
    r.ax = (word)page | PTE_P | PTE_W;
    r.dx = (word)other | PTE_P | PTE_W;
    outcome(r);
    sum_add(*pte(PLACE, 1));
    for (unsigned i = 0; i < 300; i++) {
        /* b8 imm32 cd 81 90: an entry that is not present, and code. */
        uint32_t value = (uint32_t)random64();
        uint8_t *at = table + 0x200 + 8 * below(32);
        static const uint8_t code[8] = {0xb8, 0, 0, 0, 0, 0xcd, DONE, 0x90};
        memcpy(at, code, 8);
        memcpy(at + 1, &value, 4);
        outcome(REGS_KERNEL(at));
        outcome(access_regs(load4, PLACE + (word)(at - table) / 8 * PAGE, one_in(2)));
        memset(at, 0, 8);
    }
    group_end("tables that are code");
    for (unsigned i = 0; i < 600; i++) {
        *pte(PLACE, 1) &= ~(one_in(2) ? PTE_A | PTE_D : PTE_D);
        if (one_in(3))
            *pte(PLACE, 1) ^= PTE_U;
        invlpg(PLACE);
        outcome(access_regs(one_in(2) ? load8 : one_in(2) ? store8 : add4, PLACE + below(0xff0), one_in(2)));
        sum_add(*pte(PLACE, 1));
    }
    group_end("accessed and dirty bits");
    static const word frames[] = {NOWHERE, IOAPIC, RAM_END, 0xa0000, 0x7ffffff000, 0xffffffffff000, 0x8000000000000};
    word elsewhere = PLACE + 0x10000000000;
    for (unsigned i = 0; i < 300; i++) {
        unsigned level = 1 + below(4);
        uint64_t *entry = pte(elsewhere, level), before = *entry;
        *entry = frames[below(ARRAY_LEN(frames))] | PTE_P | PTE_W | PTE_U | (one_in(4) && level > 1 ? PTE_PS : 0);
        cr3_set(root);
        struct trap t = outcome(access_regs(one_in(2) ? load8 : one_in(2) ? store8 : jump, elsewhere + below(0xff0), one_in(2)));
        sum_add(t.cr2);
        *entry = before;
        cr3_set(root);
    }
    group_end("tables in devices and nowhere");
}

void test_main(void)
{
    random_seed(argument("seed=", 1));
    trace = argument("trace=", 0) != 0;
    page = page_alloc(2);
    for (unsigned i = 0; i < 2 * PAGE; i++)
        page[i] = (uint8_t)random64();
    cr4_set(cr4_get() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    cr0_set(cr0_get() | CR0_WP);
    stacks_setup();
    test_addresses();
    test_narrow();
    test_ends();
    test_stacks();
    test_returns();
    test_middles();
    test_devices();
    test_rewriting();
    test_blocks();
    test_tables();
    ok(true, "still there");
}
