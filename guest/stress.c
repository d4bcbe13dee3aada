/* Stress: everything at once that makes it hard to keep translations, decoded code and shadow tables right.
 *
 *     --append "seed=N steps=N interval=N strict=1"
 *
 * From a seed it makes code, and then in random order: runs it at both levels and in all code sizes, through several
 * mappings of the same memory, with random registers; changes it where it is and through other mappings, from within and
 * from without; exchanges pages of code, takes permissions away and gives them back when they are missed; runs it over the
 * end of a page whose neighbour is not there; steps through it with TF; copies the address space and its pages on
 * write; switches levels by INT, SYSCALL, SYSENTER and IRET; interrupts it at any time; and so on: see operations[].
 *
 * Registers, flags, faults, page contents and page-table bits are added to a sum, which is printed now and then:
 *
 *     STRESS step N sum H
 *
 * Every engine must print the same lines under --clock instructions. Not in the sum: AF and flags that are undefined, the
 * time, and -- unless strict=1 -- where timer interrupts happen, which no manual says. Nothing here relies on a processor
 * that remembers translations after they have changed, or that forgets them early. */
#include "stress.h"

#define APIC 0xfee00000ul
#define TIMER_VECTOR 0x50
#define RESUMES_MAX 300u

static bool strict;
static bool copy_on_write; /* a write fault in VIEW_USER makes a copy */
static unsigned pool_next;
static uint64_t interrupts, mended, ends[256];

/* ---- running ---- */

static void apic_set(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(APIC + reg) = value;
}

static void timer_start(uint32_t ticks)
{
    apic_set(0x380, ticks);
}

/* The memory behind what a view says of a page now. */
static uint8_t *frame_of(word gva)
{
    return (uint8_t *)(word)(entry_get(gva) & 0xffffffffff000ull);
}

static bool fix_copy(word gva)
{
    uint64_t entry = entry_get(gva);
    if ((entry & PTE_W) || pool_next == POOL_PAGES)
        return false;
    uint8_t *copy = block + (POOL_FIRST + pool_next++) * PAGE;
    memcpy(copy, frame_of(gva), PAGE);
    entry_set(gva, (word)copy | (entry & 0xfff) | PTE_W);
    invlpg(gva);
    return true;
}

/* Gives the page that was missed all that its view permits. False if that is not what was wrong. */
static bool fix_mapping(struct trap *t)
{
    word gva = t->cr2 & ~(PAGE - 1), offset = gva - AREA;
    bool kernel = (t->regs.cs & 3) == 0;
    if (gva >= LARGE && gva < LARGE + 2 * MiB) {
        uint64_t before = large_get(gva);
        large_set(gva, PTE_P | PTE_W | PTE_U);
        invlpg(gva);
        if ((before & 7) == 7 && kernel) {
            cr4_set(cr4_get() & ~(CR4_SMEP | CR4_SMAP));
            return true;
        }
        return (before & 7) != 7;
    }
    unsigned view = offset / VIEW_SIZE, page = offset % VIEW_SIZE / PAGE;
    if (offset >= VIEWS * VIEW_SIZE || page >= PAGES)
        return false;
    if (copy_on_write && view == VIEW_USER && (t->error & PF_W) && (t->error & PF_P))
        return fix_copy(gva);
    uint64_t entry = entry_get(gva), missing = PTE_P | (t->error & PF_W ? PTE_W : 0) | (kernel ? 0 : PTE_U);
    if ((entry & missing) == missing && !(entry & PTE_NX) && kernel && (entry & PTE_U)) {
        /* SMEP or SMAP: once by AC, then for good. */
        if (!(t->error & PF_I) && !(t->regs.flags & FL_AC))
            t->regs.flags |= FL_AC;
        else
            cr4_set(cr4_get() & ~(CR4_SMEP | CR4_SMAP));
        return true;
    }
    entry_set(gva, ((entry | missing) & ~PTE_NX));
    mapping_flush(gva);
    return true;
}

/* Runs until it ends, mending what it faults on. The last trap. */
static struct trap execute(struct regs r)
{
    struct trap t = run(&r);
    for (unsigned n = 0; n < RESUMES_MAX; n++) {
        if (t.vector == TIMER_VECTOR) {
            interrupts++;
            apic_set(0xb0, 0);
            if (strict)
                sum_trap(&t, FLAGS_SUMMED & ~FLAGS_ARITHMETIC);
            t = run(&t.regs);
            n--;
            continue;
        }
        sum_trap(&t, t.vector == DB ? FLAGS_SUMMED & ~FLAGS_ARITHMETIC : FLAGS_SUMMED);
        if (t.vector == DB) {
            dr6_set(0xffff0ff0);
            if (one_in(40))
                t.regs.flags &= ~FL_TF;
        } else if (t.vector != PF || !fix_mapping(&t)) {
            break;
        }
        mended++;
        t = run(&t.regs);
    }
    ends[t.vector & 255]++;
    if (t.vector != DONE)
        sum_trap(&t, FLAGS_SUMMED);
    return t;
}

static bool large_usable(void)
{
    return (large_get(LARGE) & PTE_P) != 0;
}

/* Registers to run the slot with, at the level, through a view that the level can use. */
static struct regs registers(bool user, unsigned page, unsigned slot)
{
    enum view view = user ? (one_in(4) ? VIEW_READ : VIEW_USER) : VIEW_KERNEL;
    word base = view_gva(view, 0), data = view_gva(user || one_in(3) ? VIEW_USER : VIEW_KERNEL, CODE_PAGES);
    if (one_in(6) && large_usable())
        base = LARGE;
    if (one_in(8))
        data = LARGE + CODE_PAGES * PAGE;
    if (one_in(8) && tables_have_huge() && user)
        base = HUGE + (word)block;
    struct regs r = user ? REGS_USER(0) : REGS_KERNEL(0);
    word *gpr = &r.ax;
    for (unsigned i = 0; i < REGS_IP / WORD_SIZE; i++)
        if (i != 4)
            gpr[i] = one_in(3) ? below(300) : (word)random64();
    r.di = data;
    r.si = data;
    r.ip = base + page * PAGE + slot_offset(slot);
    if (user)
        r.sp = view_gva(VIEW_USER, STACK_PAGE) + (one_in(3) ? 4 + below(16) : 0x800);
    r.flags = FL_1 | (random64() & FLAGS_ARITHMETIC) | (one_in(8) ? FL_AC : 0) | (one_in(4) ? FL_ID : 0);
    return r;
}

static unsigned any_page(void)
{
    return below(CODE_PAGES);
}

static unsigned any_slot_for(unsigned *page)
{
    *page = any_page();
    if (one_in(5)) {
        *page = below(CODE_PAGES - 1);
        return SLOT_ACROSS;
    }
    return SLOT_FIRST + below(SLOT_LAST);
}

/* ---- what is done ---- */

static void op_run(void)
{
    unsigned page, slot = any_slot_for(&page);
    execute(registers(one_in(2), page, slot));
}

static void op_make(void)
{
    unsigned page, slot = any_slot_for(&page);
    code_make(page, slot);
    execute(registers(one_in(2), page, slot));
}

/* Changed from outside: where it is, or through a view; and run before and after. */
static void op_patch(void)
{
    unsigned page, slot = any_slot_for(&page);
    struct regs r = registers(one_in(2), page, slot);
    execute(r);
    for (unsigned i = 0; i < 3; i++) {
        mapping_reset(VIEW_KERNEL, page);
        invlpg(view_gva(VIEW_KERNEL, page));
        code_patch(page, slot, one_in(2) ? NULL : (uint8_t *)view_gva(VIEW_KERNEL, page));
        cpuid(0, 0);
        execute(r);
    }
}

/* Pages of code change places in the views that only run it. */
static void op_exchange(void)
{
    enum view view = one_in(2) ? VIEW_KERNEL : VIEW_READ;
    unsigned a = any_page(), b = any_page();
    uint64_t x = entry_get(view_gva(view, a)), y = entry_get(view_gva(view, b));
    entry_set(view_gva(view, a), y);
    entry_set(view_gva(view, b), x);
    invlpg(view_gva(view, a));
    invlpg(view_gva(view, b));
    execute(registers(view == VIEW_READ, one_in(2) ? a : b, SLOT_FIRST + below(SLOT_LAST)));
}

static void op_protect(void)
{
    for (unsigned i = 1 + below(4); i > 0; i--) {
        unsigned view = below(VIEWS), page = below(PAGES);
        word gva = view_gva(view, page);
        uint64_t entry = entry_get(gva);
        switch (below(6)) {
        case 0: entry &= ~PTE_P; break;
        case 1: entry &= ~PTE_W; break;
        case 2: entry &= view == VIEW_KERNEL ? ~PTE_W : ~PTE_U; break;
        case 3: entry |= tables_have_nx() ? PTE_NX : 0; break;
        case 4: entry ^= view == VIEW_KERNEL ? PTE_G : 0; break;
        default: entry &= ~(PTE_A | PTE_D); break;
        }
        entry_set(gva, entry);
        if ((entry & PTE_G) || view == VIEW_KERNEL)
            invlpg(gva);
        else
            mapping_flush(gva);
    }
    op_run();
}

/* The second half of a sequence, or of an instruction, is not there, or not executable, or the supervisor's. */
static void op_across(void)
{
    unsigned page = below(CODE_PAGES - 1);
    bool user = one_in(2);
    struct regs r = registers(user, page, SLOT_ACROSS);
    unsigned view = r.ip >= AREA && r.ip < AREA + VIEWS * VIEW_SIZE ? (unsigned)((r.ip - AREA) / VIEW_SIZE) : VIEWS;
    execute(r);
    if (view == VIEWS)
        return;
    word gva = view_gva(view, page + 1);
    entry_set(gva, one_in(2) || !tables_have_nx() ? entry_get(gva) & ~PTE_P : entry_get(gva) | PTE_NX);
    invlpg(gva);
    if (one_in(2))
        code_patch(page, SLOT_ACROSS, NULL);
    cpuid(0, 0);
    execute(r);
    execute(r);
}

static void op_step(void)
{
    unsigned page, slot = any_slot_for(&page);
    struct regs r = registers(one_in(2), page, slot);
    r.flags |= FL_TF;
    execute(r);
}

/* The same bytes in 64-bit, 32-bit and 16-bit code, and changed in between. */
static void op_sizes(void)
{
    unsigned page = any_page(), slot = SLOT_PORTABLE + below(2);
    bool user = one_in(2);
    for (unsigned i = 0; i < 4; i++) {
        struct regs r = registers(user, page, slot);
        unsigned size = below(3);
        if (size == 0) {
            word base = user ? view_gva(VIEW_USER, page) : view_gva(VIEW_KERNEL, page);
            r.cs = gdt_put(user, descriptor(base, 0xffff, user ? 0xfa : 0x9a, 0)) | (user ? 3 : 0);
            r.ip = slot * SLOT_SIZE;
        } else if (size == 1) {
            r.cs = user ? SEL_UCODE32 | 3 : SEL_KCODE32;
        }
        execute(r);
        if (one_in(2))
            code_patch(page, slot, NULL);
    }
    if (IS64) {
        struct regs r = registers(true, page, SLOT_NARROW + below(SLOT_PORTABLE - SLOT_NARROW));
        execute(r);
        r.cs = SEL_UCODE32 | 3;
        execute(r);
    }
}

static void op_control(void)
{
    switch (below(5)) {
    case 0: cr0_set(cr0_get() ^ CR0_WP); break;
    case 1: cr4_set(cr4_get() ^ (cpu_has_7_ebx(F7_SMEP) ? CR4_SMEP : 0)); break;
    case 2: cr4_set(cr4_get() ^ (cpu_has_7_ebx(F7_SMAP) ? CR4_SMAP : 0)); break;
    case 3: cr4_set(cr4_get() ^ (cpuid(1, 0).edx >> 13 & 1 ? CR4_PGE : 0)); break;
    default: cr3_set(cr3_get()); break;
    }
    op_run();
}

/* ---- several address spaces ---- */

static void view_protect(void)
{
    for (unsigned page = 0; page < PAGES; page++)
        entry_set(view_gva(VIEW_USER, page), entry_get(view_gva(VIEW_USER, page)) & ~PTE_W);
}

static void view_sum(void)
{
    for (unsigned page = 0; page < PAGES; page++) {
        if (entry_get(view_gva(VIEW_USER, page)) & PTE_P)
            sum_bytes(frame_of(view_gva(VIEW_USER, page)), PAGE);
    }
}

static void run_in_user_view(void)
{
    unsigned page, slot = any_slot_for(&page);
    struct regs r = registers(true, page, slot);
    r.ip = view_gva(VIEW_USER, page) + slot_offset(slot);
    r.di = r.si = view_gva(VIEW_USER, CODE_PAGES);
    execute(r);
}

/* fork(): both run, in turn, and copy what they write to; then the parent gets its pages back. */
static void op_fork(void)
{
    bool pcid = IS64 && cpu_has_1_ecx(F1_PCID) && one_in(2);
    word global = cr4_get() & CR4_PGE, keep = 0;
    for (unsigned page = 0; page < PAGES; page++)
        mapping_reset(VIEW_USER, page);
    cr4_set(cr4_get() & ~CR4_PGE);
    cr3_set(cr3_get());
    view_protect();
    word parent = cr3_get(), child = space_clone();
    if (pcid) {
        cr4_set(cr4_get() | CR4_PCIDE);
        child |= 1 + below(3);
        keep = IS64 ? 1ul << (WORD_SIZE * 8 - 1) : 0;
    }
    copy_on_write = true;
    pool_next = 0;
    cr3_set(parent);
    cr3_set(child);
    for (unsigned i = 2 + below(4); i > 0; i--) {
        run_in_user_view();
        if (one_in(2)) {
            view_sum();
            cr3_set(parent | keep);
            run_in_user_view();
            view_sum();
            cr3_set(child | keep);
        }
    }
    copy_on_write = false;
    cr3_set(parent);
    if (pcid)
        cr4_set(cr4_get() & ~CR4_PCIDE);
    for (unsigned page = 0; page < PAGES; page++)
        mapping_reset(VIEW_USER, page);
    cr3_set(parent);
    cr4_set(cr4_get() | global);
    run_in_user_view();
}

/* ---- system calls ---- */

extern const char system_call_entry[], sysenter_entry[], software_entry[];
CODE(call_loop, "1: mov $7, %ecx; push %" X_AX "; int $0x82; add $3, %ebp; pop %" X_DX "; dec %edi; jnz 1b");
#ifdef __x86_64__
CODE(syscall_loop, "1: lea (%rax,%rbp), %rax; syscall; adc $5, %ebx; dec %edi; jnz 1b");
CODE(sysenter_loop, "1: mov %rsp, %rcx; lea 2f(%rip), %rdx; sysenter; 2: adc $5, %ebx; dec %edi; jnz 1b");
__asm__(".text\nsystem_call_entry: mov %rsp, %r10; mov $trap_stack_top - 4096, %esp; push %rcx; push %r11\n"
        "add %rcx, %rax; rol $3, %rax; pushfq; pop %r8; and $0x8c5, %r8; pop %r11; pop %rcx; mov %r10, %rsp\n"
        "testl $1, %ebp; jz 1f; or $1, %r11; 1: sysretq\n"
        "sysenter_entry: add %rdx, %rax; rol $5, %rax; rex.w sysexit\n"
        "software_entry: add %rcx, %rax; xorl $1, 16(%rsp); iretq\n");
#else
CODE(syscall_loop, "1: nop; dec %edi; jnz 1b");
CODE(sysenter_loop, "1: mov %esp, %ecx; call 3f; 3: pop %edx; add $(2f - 3b), %edx; sysenter; 2: adc $5, %ebx; dec %edi; jnz 1b");
__asm__(".text\nsystem_call_entry: ud2\n"
        "sysenter_entry: add %edx, %eax; rol $5, %eax; sysexit\n"
        "software_entry: add %ecx, %eax; xorl $1, 8(%esp); iret\n");
#endif

static void op_system_calls(void)
{
    unsigned page = any_page(), slot = SLOT_FIRST + below(SLOT_NARROW - SLOT_FIRST);
    switch (below(3)) {
    case 0: code_copy(page, slot, call_loop, call_loop_end); break;
    case 1: code_copy(page, slot, syscall_loop, syscall_loop_end); break;
    default: code_copy(page, slot, sysenter_loop, sysenter_loop_end); break;
    }
    struct regs r = registers(true, page, slot);
    r.ip = view_gva(VIEW_USER, page) + slot_offset(slot); /* at an address that 32 bits reach, as SYSEXIT's may be */
    r.sp = view_gva(VIEW_USER, STACK_PAGE) + 0x800;
    r.di = 1 + below(40);
    if (one_in(4))
        r.flags |= FL_IF;
    execute(r);
    if (one_in(8)) {
        r.flags |= FL_TF;
        execute(r);
    }
    code_make(page, slot);
}

/* ---- time ---- */

CODE(count_loop, "1: add $3, %" X_DX "; inc %" X_BX "; xor %" X_BX ", %" X_AX "; dec %" X_CX "; jnz 1b");

static void op_timer(void)
{
    unsigned page, slot = any_slot_for(&page);
    timer_start(1 + below(20000));
    struct regs r = one_in(2) ? REGS_KERNEL(count_loop) : registers(true, page, slot);
    r.flags |= FL_IF;
    if (r.cs == SEL_KCODE) {
        r.cx = 1 + below(20000);
        r.ax = r.dx = r.bx = 0;
    }
    execute(r);
    for (unsigned i = below(5); i > 0; i--) {
        slot = any_slot_for(&page);
        r = registers(one_in(2), page, slot);
        r.flags |= FL_IF;
        execute(r);
    }
}

/* ---- strings over the borders of pages ---- */

CODE(rep_movsb, "rep movsb");
CODE(rep_movsl, "rep movsl");
CODE(rep_stosb, "rep stosb");
CODE(rep_stosl, "rep stosl");
CODE(repe_cmpsb, "repe cmpsb");
CODE(repne_scasb, "repne scasb");
CODE(rep_lodsl, "rep lodsl");

static void op_strings(void)
{
    static const char *const snippets[] = {rep_movsb, rep_movsl, rep_stosb, rep_stosl, repe_cmpsb, repne_scasb, rep_lodsl};
    word data = view_gva(VIEW_KERNEL, CODE_PAGES);
    struct regs r = REGS_KERNEL(snippets[below(ARRAY_LEN(snippets))]);
    for (unsigned i = below(3); i > 0; i--) {
        word gva = view_gva(VIEW_KERNEL, CODE_PAGES + below(DATA_PAGES));
        entry_set(gva, entry_get(gva) & ~(one_in(2) ? PTE_P : PTE_W));
        invlpg(gva);
    }
    bool down = one_in(3);
    r.flags |= (down ? FL_DF : 0) | (random64() & FLAGS_ARITHMETIC);
    r.di = data + below(4) * PAGE + PAGE - below(200);
    r.si = one_in(3) ? r.di + below(40) - 20 : data + below(4) * PAGE + PAGE - below(200);
    r.cx = one_in(4) ? below(0x400) : below(400);
    if (down) {
        r.di += 2 * PAGE;
        r.si += 2 * PAGE;
    }
    r.ax = random64() & 0xff;
    execute(r);
}

/* ---- stacks ---- */

CODE(recursion, "call 1f; jmp 9f\n1: inc %" X_AX "; dec %" X_CX "; jz 2f; call 1b; 2: add %" X_CX ", %" X_BX "; ret\n9:");
CODE(jump_out, "mov %" X_SP ", %" X_BP "\n1: mov %edi, %ecx\n2: call 3f\n3: inc %" X_AX "; dec %ecx; jnz 2b; mov %" X_BP ", %" X_SP "; "
               "dec %edx; jnz 1b");
CODE(overwritten, "1: call 2f; jmp 3f; add $7, %" X_BX "; jmp 3f\n2: add $5, %" X_AX "; testb $3, %cl; jnz 4f; addb $2, (%" X_SP
                  "); 4: ret\n3: inc %" X_BX "; dec %ecx; jnz 1b");
CODE(other_stack, "mov %" X_SP ", %" X_BP "\n1: call 2f; dec %ecx; jnz 1b; jmp 9f\n2: pop %" X_DX "; lea -256(%" X_BP "), %" X_SP
                  "; push %" X_DX "; push %" X_AX "; call 3f; ret\n3: inc %" X_AX "; ret $" X_WORD "\n9: mov %" X_BP ", %" X_SP);

static void op_stacks(void)
{
    struct regs r = REGS_KERNEL(recursion);
    switch (below(4)) {
    case 0: r.cx = 1 + below(900); break;
    case 1: r.ip = (word)jump_out; r.di = 1 + below(60); r.dx = 1 + below(20); break;
    case 2: r.ip = (word)overwritten; r.cx = 1 + below(300); break;
    default: r.ip = (word)other_stack; r.cx = 1 + below(5); break;
    }
    execute(r);
}

/* ---- large pages ---- */

static void op_large(void)
{
    uint64_t bits = PTE_P | PTE_W | PTE_U;
    switch (below(4)) {
    case 0: bits &= ~PTE_W; break;
    case 1: bits &= ~PTE_U; break;
    case 2: bits &= ~PTE_P; break;
    default: break;
    }
    large_set(LARGE, bits);
    if (one_in(2))
        invlpg(LARGE + below(2 * MiB));
    else
        cr3_set(cr3_get());
    unsigned page, slot = any_slot_for(&page);
    struct regs r = registers(one_in(2), page, slot);
    r.ip = LARGE + page * PAGE + slot_offset(slot);
    r.di = r.si = LARGE + CODE_PAGES * PAGE;
    execute(r);
    sum_add(large_get(LARGE) & (PTE_A | PTE_D | 7));
}

/* ---- unaligned and locked ---- */

CODE(locked, "lock addl %eax, (%" X_DI "); lock xaddl %edx, 1(%" X_DI "); lock cmpxchgl %ebx, -1(%" X_DI "); lock incw 2(%" X_DI
             "); xchg %edx, 3(%" X_DI "); lock btsl $5, (%" X_DI "); cmp %eax, %ebx; lock orb $1, (%" X_DI ")");

static void op_locked(void)
{
    struct regs r = REGS_KERNEL(locked, .ax = (word)random64(), .bx = (word)random64(), .dx = (word)random64());
    unsigned page = CODE_PAGES + 1 + below(DATA_PAGES - 1);
    r.di = view_gva(VIEW_KERNEL, page) - below(8);
    if (one_in(2)) {
        word gva = view_gva(VIEW_KERNEL, page);
        entry_set(gva, entry_get(gva) & ~(one_in(2) ? PTE_P : PTE_W | PTE_D));
        invlpg(gva);
    }
    execute(r);
}

/* ---- a loop that changes what it runs ---- */

CODE(changing, "1: addl $0x01010101, 2f+1\n2: mov $0x11111111, %eax; add %eax, %ebx; incb 3f+1; jmp 3f\n3: mov $0, %dl; add %edx, %ebp; "
               "dec %ecx; jnz 1b");

static void op_changing(void)
{
    execute(REGS_KERNEL(changing, .cx = 1 + below(60), .dx = 0, .bx = 0, .bp = 0));
}

/* ---- loops that walk through memory ---- */

static void op_walk(void)
{
    unsigned page = any_page(), slot = SLOT_FIRST + below(SLOT_PORTABLE - SLOT_FIRST);
    code_walk(page, slot);
    struct regs r = registers(one_in(2), page, slot);
    if (one_in(3)) {
        timer_start(1 + below(20000));
        r.flags |= FL_IF;
    }
    for (unsigned i = 2 + below(3); i > 0; i--) {
        if (one_in(2)) {
            word gva = view_gva(r.di >= view_gva(VIEW_KERNEL, 0) ? VIEW_KERNEL : VIEW_USER, CODE_PAGES + below(DATA_PAGES));
            entry_set(gva, entry_get(gva) & ~(one_in(3) ? PTE_P : one_in(2) ? PTE_W : PTE_A | PTE_D));
            mapping_flush(gva);
        }
        execute(r);
    }
    if (slot >= SLOT_NARROW && IS64) { /* as 32-bit code, too */
        r = registers(true, page, slot);
        r.cs = SEL_UCODE32 | 3;
        execute(r);
    }
    sum_bytes(block + CODE_PAGES * PAGE, DATA_PAGES * PAGE);
    code_make(page, slot);
}

static const struct {
    void (*run)(void);
    unsigned weight;
} operations[] = {
    {op_run, 10},     {op_make, 8},   {op_patch, 8},  {op_exchange, 6},     {op_protect, 10}, {op_across, 6},  {op_step, 4},
    {op_sizes, 5},    {op_control, 4}, {op_fork, 3},  {op_system_calls, 6}, {op_timer, 5},    {op_strings, 5}, {op_stacks, 4},
    {op_large, 4},    {op_locked, 4}, {op_changing, 2}, {op_walk, 8},
};

static void memory_sum(void)
{
    sum_bytes(block, PAGES * PAGE);
    for (unsigned view = 0; view < VIEWS; view++)
        for (unsigned page = 0; page < PAGES; page++)
            sum_add(entry_get(view_gva(view, page)));
}

static void setup(uint64_t seed)
{
    strict = argument("strict=", 0) != 0;
    random_seed(seed);
    tables_setup(IS64 || argument("pae=", seed & 1));
    code_make_all();
    for (unsigned i = 0; i < DATA_PAGES * PAGE / 8; i++)
        ((uint64_t *)(block + CODE_PAGES * PAGE))[i] = random64();
    apic_set(0xf0, 0x1ff);
    apic_set(0x3e0, 0xb);
    apic_set(0x320, TIMER_VECTOR);
    idt_set(0x82, &(struct gate_spec){.offset = (word)software_entry, .selector = SEL_KCODE, .type = 0xe, .dpl = 3});
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
    wrmsr(MSR_SYSENTER_ESP, (word)trap_stack_top - 2048);
    wrmsr(MSR_SYSENTER_EIP, (word)sysenter_entry);
    if (IS64) {
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
        wrmsr(MSR_STAR, (uint64_t)SEL_KCODE << 32 | (uint64_t)(SEL_UCODE32 | 3) << 48);
        wrmsr(MSR_LSTAR, (word)system_call_entry);
        wrmsr(MSR_SFMASK, FL_IF | FL_DF | FL_TF | FL_AC);
    }
}

void test_main(void)
{
    uint64_t seed = argument("seed=", 1);
    unsigned steps = (unsigned)argument("steps=", 2000), interval = (unsigned)argument("interval=", 50);
    bool trace = argument("trace=", 0) != 0;
    unsigned weights = 0;
    setup(seed);
    for (unsigned i = 0; i < ARRAY_LEN(operations); i++)
        weights += operations[i].weight;
    for (unsigned step = 1; step <= steps; step++) {
        unsigned which = 0, at = below(weights);
        while (at >= operations[which].weight)
            at -= operations[which++].weight;
        operations[which].run();
        if (trace || step % interval == 0) {
            memory_sum();
            print("STRESS step %u sum %llx%s", step, (unsigned long long)sum, trace ? "" : "\n");
            if (trace)
                print(" (%u)\n", which);
        }
    }
    memory_sum();
    print("STRESS end sum %llx\n", (unsigned long long)sum);
    ok(true, "%u steps", steps);
    note("%llu timer interrupts, %llu faults and steps gone on from", (unsigned long long)interrupts,
         (unsigned long long)mended);
    for (unsigned vector = 0; vector < 256; vector++)
        if (ends[vector] != 0)
            note("%llu ended with vector %u", (unsigned long long)ends[vector], vector);
}
