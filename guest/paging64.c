/* Paging in long mode: every kind of page fault with its error code, CR2 and saved RIP; accessed and dirty bits; page
 * sizes; protection by CR0.WP, SMEP, SMAP and NX; PCIDs; and when changes of the tables must be seen.
 *
 * Only what the manuals promise is checked: never that a stale translation is still used. SDM vol. 3, chapter 4. */
#include "guest.h"

#define AREA 0x8000000000ul /* a top-level slot of our own */
#define NON_CANONICAL 0x800000000000ul

CODE(load, "mov (%rdi), %al");
CODE(load8, "mov (%rdi), %rax");
CODE(store, "mov %al, (%rdi)");
CODE(store8, "mov %rax, (%rdi)");
CODE(add8, "add %rax, (%rdi)");
CODE(exchange, "xchg %rax, (%rdi)");
CODE(cmpxchg, "lock cmpxchg %rdx, (%rdi)");
CODE(cmpxchg16b, "lock cmpxchg16b (%rdi)");
CODE(test_store, "test %al, (%rdi)");
CODE(jump, "jmp *%rdi");
CODE(call_there, "call *%rdi");
CODE(push8, "push %rax");
CODE(pop_there, "pop (%rdi)");
CODE(enter_frame, "enter $32, $0");
CODE(load_bp, "mov (%rbp), %al");
CODE(rep_movsb, "rep movsb");
CODE(rep_movsq, "rep movsq");
CODE(rep_stosb, "rep stosb");
CODE(set_cr0, "mov %rax, %cr0");
CODE(set_cr3, "mov %rax, %cr3");
CODE(set_cr4, "mov %rax, %cr4");
CODE(set_msr, "wrmsr");
CODE(load_ds, "mov %eax, %ds");
CODE(invpcid, "invpcid (%rdi), %rax");
CODE(user_page_code, "nop");

static uint8_t *page; /* what AREA shows */

static void flush(void)
{
    cr3_set(cr3_get());
}

/* AREA + offset shows `page`, with `bits` in the entry of `level`, everything in the others. */
static uint64_t *map_with(word gva, unsigned level, uint64_t set, uint64_t clear)
{
    const uint64_t open = PTE_P | PTE_W | PTE_U;
    for (unsigned l = 4; l > 1; l--) {
        uint64_t *entry = pte(gva, l);
        *entry = (*entry & 0x3fff000) | open; /* repairs what the last test has put in */
        if (!(*entry & 0x3fff000))
            *entry |= (word)page_alloc(1);
    }
    *pte(gva, 1) = (word)page | open;
    uint64_t *entry = pte(gva, level);
    *entry = (*entry & ~clear) | set;
    flush();
    return entry;
}

static void test_not_present(void)
{
    for (unsigned level = 4; level >= 1; level--) {
        map_with(AREA, level, 0, PTE_P);
        struct trap t = run_kernel(load, .di = AREA + 0x123);
        ok_pf(&t, 0, AREA + 0x123, load, "level %u not present: load", level);
        t = run_kernel(store, .di = AREA + 0x123);
        ok_pf(&t, PF_W, AREA + 0x123, store, "level %u not present: store", level);
        t = run_user(load, .di = AREA + 0x123);
        ok_pf(&t, PF_U, AREA + 0x123, (void *)USER(load), "level %u not present: user load", level);
        t = run_user(store, .di = AREA + 0x123);
        ok_pf(&t, PF_U | PF_W, AREA + 0x123, (void *)USER(store), "level %u not present: user store", level);
        t = run_kernel(jump, .di = AREA + 0x123);
        ok_pf(&t, 0, AREA + 0x123, (void *)(AREA + 0x123), "level %u not present: fetch, NXE and SMEP off", level);
    }
    /* An absent entry may have anything in its other bits. */
    map_with(AREA, 1, ~1ull, PTE_P);
    struct trap t = run_kernel(load, .di = AREA);
    ok_pf(&t, 0, AREA, load, "not present wins over reserved bits");
    ok((t.regs.flags & FL_RF) != 0, "a fault's saved flags have RF");
    ok((t.handler_flags & (FL_RF | FL_TF | FL_IF | FL_NT)) == 0, "the handler runs without RF");
}

static void test_user_bit(void)
{
    for (unsigned level = 4; level >= 1; level--) {
        map_with(AREA, level, 0, PTE_U);
        struct trap t = run_user(load, .di = AREA);
        ok_pf(&t, PF_P | PF_U, AREA, (void *)USER(load), "level %u supervisor: user load", level);
        t = run_user(store, .di = AREA);
        ok_pf(&t, PF_P | PF_U | PF_W, AREA, (void *)USER(store), "level %u supervisor: user store", level);
        t = run_user(jump, .di = AREA);
        ok_pf(&t, PF_P | PF_U, AREA, (void *)AREA, "level %u supervisor: user fetch", level);
        t = run_kernel(load, .di = AREA);
        ok_done(&t, load_end, "level %u supervisor: kernel load", level);
    }
}

static void test_write_bit(void)
{
    for (unsigned level = 4; level >= 1; level--) {
        map_with(AREA, level, 0, PTE_W);
        cr0_set(cr0_get() & ~CR0_WP);
        struct trap t = run_kernel(store, .di = AREA + 8, .ax = level);
        ok_done(&t, store_end, "level %u read-only, WP clear: kernel store", level);
        ok_equal(page[8], level, "level %u: ... has stored", level);
        t = run_user(store, .di = AREA);
        ok_pf(&t, PF_P | PF_U | PF_W, AREA, (void *)USER(store), "level %u read-only, WP clear: user store", level);
        cr0_set(cr0_get() | CR0_WP);
        t = run_kernel(store, .di = AREA);
        ok_pf(&t, PF_P | PF_W, AREA, store, "level %u read-only, WP set: kernel store", level);
        t = run_user(store, .di = AREA);
        ok_pf(&t, PF_P | PF_U | PF_W, AREA, (void *)USER(store), "level %u read-only, WP set: user store", level);
        t = run_user(load, .di = AREA);
        ok_done(&t, load_end, "level %u read-only: user load", level);
    }
    struct {
        const char *name, *code;
    } forms[] = {{"ADD", add8}, {"XCHG", exchange}, {"CMPXCHG that fails", cmpxchg}, {"CMPXCHG16B", cmpxchg16b}};
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        struct trap t = run_kernel(forms[i].code, .di = AREA, .ax = 0x5555);
        ok_pf(&t, PF_P | PF_W, AREA, forms[i].code, "%s to a read-only page is a write", forms[i].name);
        ok_equal(t.regs.ax, 0x5555, "%s: RAX is unchanged", forms[i].name);
    }
    struct trap t = run_kernel(test_store, .di = AREA);
    ok_done(&t, test_store_end, "TEST to a read-only page is a read");
    map_with(AREA, 1, 0, PTE_P);
    t = run_kernel(add8, .di = AREA);
    ok_pf(&t, PF_W, AREA, add8, "ADD to a missing page is a write");
}

static void test_nx(void)
{
    uint64_t efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer & ~(uint64_t)EFER_NXE);
    for (unsigned level = 4; level >= 1; level--) {
        map_with(AREA, level, PTE_NX, 0);
        struct trap t = run_kernel(load, .di = AREA);
        ok_pf(&t, PF_P | PF_RSVD, AREA, load, "level %u: bit 63 is reserved without NXE", level);
    }
    wrmsr(MSR_EFER, efer | EFER_NXE);
    page[0x40] = 0xcd; /* INT DONE */
    page[0x41] = DONE;
    for (unsigned level = 4; level >= 1; level--) {
        map_with(AREA, level, PTE_NX, 0);
        struct trap t = run_kernel(load, .di = AREA);
        ok_done(&t, load_end, "level %u no-execute: load", level);
        t = run_kernel(jump, .di = AREA + 0x40);
        ok_pf(&t, PF_P | PF_I, AREA + 0x40, (void *)(AREA + 0x40), "level %u no-execute: fetch", level);
        t = run_user(jump, .di = AREA + 0x40);
        ok_pf(&t, PF_P | PF_I | PF_U, AREA + 0x40, (void *)(AREA + 0x40), "level %u no-execute: user fetch", level);
    }
    map_with(AREA, 1, 0, PTE_P);
    struct trap t = run_kernel(jump, .di = AREA + 0x40);
    ok_pf(&t, PF_I, AREA + 0x40, (void *)(AREA + 0x40), "with NXE a fetch from a missing page has I");
    t = run_kernel(call_there, .di = AREA + 0x40);
    ok_pf(&t, PF_I, AREA + 0x40, (void *)(AREA + 0x40), "CALL to a missing page faults at the target");
    ok_equal(t.regs.sp, (word)kernel_stack_top - 8, "... with the return address pushed");
    ok_equal(*(word *)t.regs.sp, (word)call_there_end, "... and right");
    map_with(AREA, 1, 0, 0);
    t = run_kernel(jump, .di = AREA + 0x40);
    ok(t.vector == DONE && t.regs.ip == AREA + 0x42, "a page without NX can be executed");
}

static void test_reserved(void)
{
    unsigned bits = cpuid(0x80000008, 0).eax & 0xff;
    for (unsigned level = 4; level >= 1; level--) {
        if (bits < 52) {
            map_with(AREA, level, 1ull << bits, 0);
            struct trap t = run_kernel(load, .di = AREA);
            ok_pf(&t, PF_P | PF_RSVD, AREA, load, "level %u: address bit %u is reserved", level, bits);
            map_with(AREA, level, 1ull << 51, 0);
            t = run_user(store, .di = AREA);
            ok_pf(&t, PF_P | PF_RSVD | PF_W | PF_U, AREA, (void *)USER(store), "level %u: bit 51 is reserved", level);
        }
        map_with(AREA, level, 0x7full << 52 | 7ull << 9, 0);
        struct trap t = run_kernel(load, .di = AREA);
        ok_done(&t, load_end, "level %u: bits 9-11 and 52-58 are free", level);
    }
    map_with(AREA, 4, PTE_PS, 0);
    struct trap t = run_kernel(load, .di = AREA);
    ok_pf(&t, PF_P | PF_RSVD, AREA, load, "PS in the top level is reserved");
    t = run_kernel(jump, .di = AREA);
    ok_pf(&t, PF_P | PF_RSVD | PF_I, AREA, (void *)AREA, "... also for fetches");
    map_with(AREA, 4, 0, PTE_PS);
    for (unsigned bit = 13; bit <= 20; bit += 7) {
        *pte(AREA, 2) = 1ull << bit | PTE_P | PTE_W | PTE_U | PTE_PS;
        flush();
        t = run_kernel(load, .di = AREA);
        ok_pf(&t, PF_P | PF_RSVD, AREA, load, "2 MiB page: bit %u is reserved", bit);
    }
    *pte(AREA, 2) = 0;
    uint64_t saved = *pte(AREA, 3);
    bool huge = cpuid(0x80000001, 0).edx >> 26 & 1;
    for (unsigned bit = 13; bit <= 29; bit += 16) {
        *pte(AREA, 3) = (huge ? 1ull << bit : 0) | PTE_P | PTE_W | PTE_U | PTE_PS;
        flush();
        t = run_kernel(load, .di = AREA);
        ok_pf(&t, PF_P | PF_RSVD, AREA, load, "1 GiB page: bit %u is reserved", bit);
    }
    *pte(AREA, 3) = saved;
    flush();
}

#define ENTRY_AD(gva, level) (*pte((gva), (level)) & (PTE_A | PTE_D))

static void test_accessed_dirty(void)
{
    map_with(AREA, 1, 0, 0);
    unsigned set = 0;
    for (unsigned level = 4; level >= 1; level--)
        set |= ENTRY_AD(AREA, level) != 0;
    ok(!set, "nothing has touched the page: no A, no D");
    run_kernel(load, .di = AREA);
    for (unsigned level = 4; level >= 1; level--)
        ok_equal(ENTRY_AD(AREA, level), PTE_A, "a load sets A and not D at level %u", level);
    run_kernel(store, .di = AREA);
    for (unsigned level = 4; level >= 2; level--)
        ok_equal(ENTRY_AD(AREA, level), PTE_A, "a store does not set D at level %u", level);
    ok_equal(ENTRY_AD(AREA, 1), PTE_A | PTE_D, "a store sets D in the last level");
    *pte(AREA, 1) &= ~(PTE_A | PTE_D);
    invlpg(AREA);
    run_kernel(store, .di = AREA);
    ok_equal(ENTRY_AD(AREA, 1), PTE_A | PTE_D, "a store that comes first sets A and D");
    *pte(AREA, 1) &= ~PTE_D;
    invlpg(AREA);
    run_kernel(load, .di = AREA);
    run_kernel(store, .di = AREA);
    ok_equal(ENTRY_AD(AREA, 1), PTE_A | PTE_D, "a store after a load sets D");
    map_with(AREA, 1, 0, PTE_W);
    run_kernel(load, .di = AREA);
    run_kernel(store, .di = AREA);
    ok(!(ENTRY_AD(AREA, 1) & PTE_D), "a store that faults does not set D");
    map_with(AREA, 1, 0, PTE_U);
    run_user(load, .di = AREA);
    run_user(store, .di = AREA);
    ok(!(ENTRY_AD(AREA, 1) & PTE_D), "a user store that faults does not set D");
    map_with(AREA, 1, 0, 0);
    page[0] = 0xcd;
    page[1] = DONE;
    run_kernel(jump, .di = AREA);
    ok_equal(ENTRY_AD(AREA, 1), PTE_A, "a fetch sets A");
    map_with(AREA, 1, 0, 0);
    run_kernel(cmpxchg, .di = AREA, .ax = ~*(word *)page, .dx = 1);
    ok_equal(ENTRY_AD(AREA, 1), PTE_A | PTE_D, "a locked CMPXCHG that fails sets D");
    map_with(AREA, 1, 0, 0);
    invlpg(AREA);
    ok_equal(ENTRY_AD(AREA, 1), 0, "INVLPG touches nothing");

    *pte(AREA, 2) = (word)page_alloc_aligned(2 * MiB, 2 * MiB) | PTE_P | PTE_W | PTE_U | PTE_PS;
    flush();
    run_kernel(load, .di = AREA + 0x12345);
    ok_equal(ENTRY_AD(AREA, 2), PTE_A, "2 MiB page: a load sets A");
    run_kernel(store, .di = AREA + 0x12345);
    ok_equal(ENTRY_AD(AREA, 2), PTE_A | PTE_D, "2 MiB page: a store sets D");
    *pte(AREA, 2) = 0;
    flush();
}

static void test_sizes(void)
{
    uint8_t *large = page_alloc_aligned(4 * MiB, 2 * MiB);
    *pte(AREA, 2) = (word)large | PTE_P | PTE_W | PTE_U | PTE_PS;
    *pte(AREA + 2 * MiB, 2) = ((word)large + 2 * MiB) | PTE_P | PTE_W | PTE_U | PTE_PS | 1 << 12; /* PAT bit */
    flush();
    static const uint32_t offsets[] = {0, 0xfff, 0x1000, 0x123456, 0x1fffff, 0x200000, 0x3ffff8};
    for (unsigned i = 0; i < ARRAY_LEN(offsets); i++) {
        large[offsets[i]] = (uint8_t)(0x10 + i);
        struct trap t = run_kernel(load, .di = AREA + offsets[i]);
        ok(t.vector == DONE && (t.regs.ax & 0xff) == 0x10 + i, "2 MiB pages: offset %#x", offsets[i]);
    }
    *(uint64_t *)(large + 2 * MiB - 4) = 0x1122334455667788;
    struct trap t = run_kernel(load8, .di = AREA + 2 * MiB - 4);
    ok_equal(t.regs.ax, 0x1122334455667788, "a load across two 2 MiB pages");
    *pte(AREA + 2 * MiB, 2) = 0;
    invlpg(AREA + 3 * MiB);
    t = run_kernel(load8, .di = AREA + 2 * MiB - 4);
    ok_pf(&t, 0, AREA + 2 * MiB, load8, "the second one is gone after INVLPG of any address in it");
    *pte(AREA, 2) = 0;
    flush();
    if (!(cpuid(0x80000001, 0).edx >> 26 & 1)) {
        skip("no 1 GiB pages");
        return;
    }
    uint64_t saved = *pte(AREA, 3);
    *pte(AREA, 3) = PTE_P | PTE_W | PTE_U | PTE_PS;
    flush();
    large[0x54321] = 0x99;
    t = run_kernel(load, .di = AREA + (word)large + 0x54321);
    ok_equal(t.regs.ax & 0xff, 0x99, "a 1 GiB page");
    ok_equal(ENTRY_AD(AREA, 3), PTE_A, "1 GiB page: a load sets A");
    t = run_kernel(store, .di = AREA + (word)large + 0x54322, .ax = 0x77);
    ok_equal(large[0x54322], 0x77, "1 GiB page: a store");
    ok_equal(ENTRY_AD(AREA, 3), PTE_A | PTE_D, "1 GiB page: a store sets D");
    *pte(AREA, 3) = saved;
    flush();
}

static void test_changes(void)
{
    uint8_t *a = page_alloc(1), *b = page_alloc(1);
    a[0] = 0xaa;
    b[0] = 0xbb;
    page = a;
    map_with(AREA, 1, 0, 0);
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xaa, "first page");
    *pte(AREA, 1) = (word)b | PTE_P | PTE_W;
    invlpg(AREA + 0xfff);
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xbb, "INVLPG makes the second one visible");
    *pte(AREA, 1) = (word)a | PTE_P | PTE_W;
    flush();
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xaa, "MOV to CR3 makes the first one visible");
    *pte(AREA, 1) = (word)b | PTE_P | PTE_W | PTE_G;
    cr4_set(cr4_get() | CR4_PGE);
    flush();
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xbb, "a global page");
    *pte(AREA, 1) = (word)a | PTE_P | PTE_W | PTE_G;
    invlpg(AREA);
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xaa, "INVLPG also drops global pages");
    *pte(AREA, 1) = (word)b | PTE_P | PTE_W | PTE_G;
    cr4_set(cr4_get() & ~CR4_PGE);
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xbb, "clearing CR4.PGE drops global pages");
    cr4_set(cr4_get() | CR4_PGE);
    *pte(AREA, 1) = 0;
    invlpg(AREA);
    struct trap t = run_kernel(load, .di = AREA);
    ok_pf(&t, 0, AREA, load, "unmapped");
    *pte(AREA, 1) = (word)a | PTE_P;
    t = run_kernel(load, .di = AREA);
    ok_equal(t.regs.ax & 0xff, 0xaa, "a page that becomes present needs no INVLPG");
    t = run_kernel(store, .di = AREA);
    ok(t.vector == PF, "it is read-only");
    *pte(AREA, 1) |= PTE_W;
    t = run_kernel(store, .di = AREA, .ax = 1);
    ok(t.vector == DONE || t.vector == PF, "a page that becomes writable may fault once");
    t = run_kernel(store, .di = AREA, .ax = 2);
    ok_done(&t, store_end, "... and not twice");
    *pte(AREA, 1) |= PTE_U;
    invlpg(AREA);
    uint64_t *copy = page_alloc(1);
    memcpy(copy, (void *)cr3_get(), PAGE);
    word old = cr3_get();
    uint64_t *level3 = page_alloc(1);
    copy[AREA >> 39] = (word)level3 | PTE_P | PTE_W | PTE_U;
    cr3_set((word)copy);
    t = run_kernel(load, .di = AREA);
    ok_pf(&t, 0, AREA, load, "other tables, other contents");
    cr3_set(old);
    t = run_kernel(load, .di = AREA);
    ok_done(&t, load_end, "and back");
    /* A table reached through the mapping that it makes. */
    uint64_t *self = &((uint64_t *)old)[300];
    *self = old | PTE_P | PTE_W;
    word top = 0xffff000000000000ul | 300ul << 39 | 300ul << 30 | 300ul << 21 | 300ul << 12;
    t = run_kernel(load8, .di = top + 8 * 300);
    ok((t.regs.ax & ~(PTE_A | PTE_D)) == (old | PTE_P | PTE_W), "the tables map themselves");
    *self = 0;
    flush();
}

static void test_wrong_addresses(void)
{
    struct trap t = run_kernel(load, .di = NON_CANONICAL);
    ok_trap(&t, GP, 0, load, "non-canonical load: #GP(0)");
    *pte(NON_CANONICAL - PAGE, 1) = (word)page | PTE_P | PTE_W;
    t = run_kernel(load8, .di = NON_CANONICAL - 4);
    ok(t.vector == GP && t.error == 0, "a load that runs into the hole: #GP(0)");
    t = run_kernel(load_bp, .bp = NON_CANONICAL);
    ok_trap(&t, SS, 0, load_bp, "non-canonical RBP: #SS(0)");
    t = run_kernel(load, .di = 0xffff7ffffffffffful);
    ok_trap(&t, GP, 0, load, "below the upper half: #GP(0)");
    t = run_kernel(load, .di = 0xffff800000000000ul);
    ok_pf(&t, 0, 0xffff800000000000ul, load, "the upper half begins: #PF");
    t = run_kernel(jump, .di = NON_CANONICAL);
    ok(t.vector == GP && t.error == 0 && (t.regs.ip == (word)jump || (cpu_is_amd() && t.regs.ip == NON_CANONICAL)),
       "JMP to a non-canonical address: #GP(0)");
    t = run_kernel(call_there, .di = NON_CANONICAL);
    ok(t.vector == GP && t.error == 0 && (t.regs.ip == (word)call_there || cpu_is_amd()),
       "CALL to a non-canonical address: #GP(0)");
    t = run_user(push8, .sp = NON_CANONICAL + 8);
    ok_trap(&t, SS, 0, (void *)USER(push8), "PUSH to a non-canonical stack: #SS(0)");
    cr2_set(0x1234);
    t = run_kernel(load, .di = NON_CANONICAL);
    ok_equal(cr2_get(), 0x1234, "#GP leaves CR2 alone");
}

static void test_two_pages(void)
{
    page = page_alloc(2);
    map_with(AREA, 1, 0, 0);
    *pte(AREA + PAGE, 1) = 0;
    flush();
    memset(page, 0x11, 2 * PAGE);
    struct trap t = run_kernel(load8, .di = AREA + PAGE - 3);
    ok_pf(&t, 0, AREA + PAGE, load8, "a load across pages, second missing: CR2 is its start");
    t = run_kernel(store8, .di = AREA + PAGE - 3, .ax = ~0ul);
    ok_pf(&t, PF_W, AREA + PAGE, store8, "a store across pages, second missing");
    ok(page[PAGE - 1] == 0x11 && page[PAGE - 3] == 0x11, "... has written nothing");
    t = run_kernel(add8, .di = AREA + PAGE - 3, .ax = ~0ul);
    ok_pf(&t, PF_W, AREA + PAGE, add8, "ADD across pages, second missing");
    ok(page[PAGE - 3] == 0x11, "... has written nothing");
    *pte(AREA + PAGE, 1) = ((word)page + PAGE) | PTE_P | PTE_U;
    t = run_kernel(store8, .di = AREA + PAGE - 3, .ax = ~0ul);
    ok_pf(&t, PF_W | PF_P, AREA + PAGE, store8, "a store across pages, second read-only");
    ok(page[PAGE - 3] == 0x11 && !(*pte(AREA + PAGE, 1) & PTE_D), "... has written nothing");
    *pte(AREA + PAGE, 1) |= PTE_W;
    invlpg(AREA + PAGE);
    t = run_kernel(store8, .di = AREA + PAGE - 3, .ax = 0x8877665544332211);
    ok(t.vector == DONE && *(uint64_t *)(page + PAGE - 3) == 0x8877665544332211, "a store across pages");
    ok((*pte(AREA, 1) & PTE_D) && (*pte(AREA + PAGE, 1) & PTE_D), "... sets both D");
    t = run_kernel(add8, .di = AREA + PAGE - 3, .ax = 1);
    ok_equal(*(uint64_t *)(page + PAGE - 3), 0x8877665544332212, "ADD across pages");
    /* Whatever the upper half and the low bits are to each other. */
    static const uint64_t upper[] = {0x1ull << 63, 0x7ull << 61, 0x3ull << 61, 0x1ull << 61, 0x1ull << 48, 0xffffull << 48};
    bool all = true;
    for (unsigned i = 0; i < sizeof upper / sizeof upper[0]; i++)
        for (unsigned back = 1; back <= 8; back++) {
            t = run_kernel(store8, .di = upper[i] | (AREA + PAGE - back), .ax = ~0ul);
            all = all && t.vector == GP && t.error == 0;
        }
    ok(all, "stores to addresses that are not canonical, across pages or not: #GP(0)");
    *pte(AREA, 1) = 0;
    flush();
    t = run_kernel(load8, .di = AREA + PAGE - 3);
    ok_pf(&t, 0, AREA + PAGE - 3, load8, "first missing: CR2 is the access's start");

    t = run_kernel(push8, .sp = AREA + PAGE, .ax = 1);
    ok(t.vector == DF, "PUSH to a missing page at level 0: no stack for the handler: #DF");
    t = run_user(push8, .sp = AREA + PAGE + 4);
    ok_pf(&t, PF_W | PF_U, AREA + PAGE - 4, (void *)USER(push8), "PUSH across pages, first missing");
    ok_equal(t.regs.sp, AREA + PAGE + 4, "... leaves RSP alone");
    t = run_user(enter_frame, .sp = AREA + PAGE, .bp = 5);
    ok_pf(&t, PF_W | PF_U, AREA + PAGE - 8, (void *)USER(enter_frame), "ENTER to a missing page");
    ok(t.regs.sp == AREA + PAGE && t.regs.bp == 5, "... leaves RSP and RBP alone");
    t = run_user(pop_there, .di = AREA, .sp = AREA + PAGE + 64);
    ok_pf(&t, PF_W | PF_U, AREA, (void *)USER(pop_there), "POP to a missing page");
    ok_equal(t.regs.sp, AREA + PAGE + 64, "... leaves RSP alone");
}

static void test_fetch_two_pages(void)
{
    page = page_alloc(2);
    static const uint8_t instruction[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xcd, DONE}; /* MOV RAX, imm64 */
    memcpy(page + PAGE - 4, instruction, sizeof instruction);
    map_with(AREA, 1, 0, 0);
    *pte(AREA + PAGE, 1) = 0;
    flush();
    struct trap t = run_kernel(jump, .di = AREA + PAGE - 4);
    ok_pf(&t, PF_I, AREA + PAGE, (void *)(AREA + PAGE - 4), "an instruction whose second half is missing");
    *pte(AREA + PAGE, 1) = ((word)page + PAGE) | PTE_P | PTE_NX | PTE_U;
    t = run_user(jump, .di = AREA + PAGE - 4);
    ok_pf(&t, PF_I | PF_P | PF_U, AREA + PAGE, (void *)(AREA + PAGE - 4), "... cannot be executed");
    *pte(AREA + PAGE, 1) = ((word)page + PAGE) | PTE_P | PTE_U;
    flush();
    t = run_kernel(jump, .di = AREA + PAGE - 4);
    ok(t.vector == DONE && t.regs.ax == 0x0807060504030201, "... is there");
    page[PAGE] = 0x33;
    t = run_kernel(jump, .di = AREA + PAGE - 4);
    ok_equal(t.regs.ax, 0x0807060504330201, "... has been modified");
    *pte(AREA + PAGE, 1) = 0;
    flush();
    t = run_kernel(jump, .di = AREA + PAGE - 4);
    ok_pf(&t, PF_I, AREA + PAGE, (void *)(AREA + PAGE - 4), "... is gone again");
    /* A short instruction at the end needs nothing behind it. */
    page[PAGE - 2] = 0xcd;
    page[PAGE - 1] = DONE;
    t = run_kernel(jump, .di = AREA + PAGE - 2);
    ok(t.vector == DONE && t.regs.ip == AREA + PAGE, "an instruction that ends with the page");
    page[PAGE - 1] = 0x90;
    t = run_kernel(jump, .di = AREA + PAGE - 1);
    ok_pf(&t, PF_I, AREA + PAGE, (void *)(AREA + PAGE), "the one behind it faults");
    /* Fourteen prefixes and an instruction that is then too long fault in this order. */
    memset(page + PAGE - 15, 0x66, 15);
    t = run_kernel(jump, .di = AREA + PAGE - 15);
    ok_trap(&t, GP, 0, (void *)(AREA + PAGE - 15), "15 prefixes and nothing in the next page: #GP(0)");
    page[PAGE - 15] = 0x0f; /* UD2, then a missing page */
    page[PAGE - 1] = 0x0f;
    t = run_kernel(jump, .di = AREA + PAGE - 1);
    ok_pf(&t, PF_I, AREA + PAGE, (void *)(AREA + PAGE - 1), "an opcode whose second byte is missing");
}

static void test_rep(void)
{
    page = page_alloc(2);
    map_with(AREA, 1, 0, 0);
    *pte(AREA + PAGE, 1) = 0;
    flush();
    static uint8_t source[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    struct regs r = REGS_KERNEL(rep_movsb, .si = (word)source, .di = AREA + PAGE - 5, .cx = 20);
    struct trap t = run(&r);
    ok_pf(&t, PF_W, AREA + PAGE, rep_movsb, "REP MOVSB into a missing page");
    ok_equal(t.regs.cx, 15, "... RCX");
    ok_equal(t.regs.si, (word)source + 5, "... RSI");
    ok_equal(t.regs.di, AREA + PAGE, "... RDI");
    ok(page[PAGE - 1] == 5, "... has copied what came before");
    ok((t.regs.flags & FL_RF) != 0, "... RF");
    *pte(AREA + PAGE, 1) = ((word)page + PAGE) | PTE_P | PTE_W;
    t = run(&t.regs);
    ok(t.vector == DONE && t.regs.cx == 0 && t.regs.di == AREA + PAGE + 15 && page[PAGE + 14] == 20, "... goes on");
    *pte(AREA + PAGE, 1) = 0;
    flush();
    t = run_kernel(rep_movsb, .di = (word)source, .si = AREA + PAGE - 3, .cx = 10);
    ok_pf(&t, 0, AREA + PAGE, rep_movsb, "REP MOVSB from a missing page");
    ok(t.regs.cx == 7 && t.regs.di == (word)source + 3, "... RCX, RDI");
    t = run_kernel(rep_movsq, .si = (word)source, .di = AREA + PAGE - 12, .cx = 3);
    ok_pf(&t, PF_W, AREA + PAGE, rep_movsq, "REP MOVSQ, an element across");
    ok(t.regs.cx == 2 && t.regs.di == AREA + PAGE - 4, "... RCX, RDI");
    t = run_kernel(rep_stosb, .di = AREA + PAGE - 100, .cx = 1000, .ax = 0x5a);
    ok_pf(&t, PF_W, AREA + PAGE, rep_stosb, "REP STOSB into a missing page");
    ok(t.regs.cx == 900 && page[PAGE - 1] == 0x5a, "... RCX");
    *pte(AREA, 1) = 0;
    *pte(AREA + PAGE, 1) = ((word)page + PAGE) | PTE_P | PTE_W;
    flush();
    t = run_kernel(rep_stosb, .di = AREA + PAGE + 49, .cx = 100, .ax = 0x5b, .flags = FL_1 | FL_DF);
    ok_pf(&t, PF_W, AREA + PAGE - 1, rep_stosb, "REP STOSB downwards into a missing page");
    ok(t.regs.cx == 50 && t.regs.di == AREA + PAGE - 1 && page[PAGE] == 0x5b, "... RCX, RDI");
    t = run_kernel(rep_movsb, .si = NON_CANONICAL, .di = NON_CANONICAL, .cx = 0);
    ok_done(&t, rep_movsb_end, "REP with RCX 0 touches nothing");
}

static void test_smep_smap(void)
{
    page = page_alloc(1);
    memcpy(page, user_page_code, (size_t)(user_page_code_end - user_page_code) + 2);
    map_with(AREA, 1, 0, 0);
    if (cpu_has_7_ebx(F7_SMEP)) {
        cr4_set(cr4_get() | CR4_SMEP);
        struct trap t = run_kernel(jump, .di = AREA);
        ok_pf(&t, PF_P | PF_I, AREA, (void *)AREA, "SMEP: kernel fetch from a user page");
        t = run_kernel(load, .di = AREA);
        ok_done(&t, load_end, "SMEP: kernel load from a user page");
        t = run_user(jump, .di = AREA);
        ok(t.vector == DONE, "SMEP: user fetch from a user page");
        for (unsigned level = 4; level >= 1; level--) {
            map_with(AREA, level, 0, PTE_U);
            t = run_kernel(jump, .di = AREA);
            ok(t.vector == DONE, "SMEP: supervisor by level %u", level);
        }
        uint64_t efer = rdmsr(MSR_EFER);
        wrmsr(MSR_EFER, efer & ~(uint64_t)EFER_NXE);
        map_with(AREA, 1, 0, PTE_P);
        t = run_kernel(jump, .di = AREA);
        ok_pf(&t, PF_I, AREA, (void *)AREA, "SMEP without NXE: I is reported");
        wrmsr(MSR_EFER, efer);
        cr4_set(cr4_get() & ~CR4_SMEP);
    } else {
        skip("no SMEP");
    }
    map_with(AREA, 1, 0, 0);
    if (!cpu_has_7_ebx(F7_SMAP)) {
        skip("no SMAP");
        return;
    }
    cr4_set(cr4_get() | CR4_SMAP);
    struct trap t = run_kernel(load, .di = AREA);
    ok_pf(&t, PF_P, AREA, load, "SMAP: kernel load from a user page");
    t = run_kernel(store, .di = AREA);
    ok_pf(&t, PF_P | PF_W, AREA, store, "SMAP: kernel store to a user page");
    t = run_kernel(load, .di = AREA, .flags = FL_1 | FL_AC);
    ok_done(&t, load_end, "SMAP with AC: kernel load from a user page");
    t = run_kernel(store, .di = AREA + 64, .flags = FL_1 | FL_AC);
    ok_done(&t, store_end, "SMAP with AC: kernel store to a user page");
    t = run_kernel(load, .di = AREA);
    ok_pf(&t, PF_P, AREA, load, "SMAP: AC clear again");
    t = run_user(load, .di = AREA);
    ok_done(&t, load_end, "SMAP: user load");
    t = run_kernel(jump, .di = AREA);
    ok(t.vector == DONE, "SMAP: fetches are not concerned");
    t = run_kernel(rep_movsb, .si = AREA, .di = (word)kernel_stack_top - 4096, .cx = 4);
    ok_pf(&t, PF_P, AREA, rep_movsb, "SMAP: string instructions, too");
    /* A local descriptor table in a user page. */
    *(uint64_t *)page = gdt[SEL_KDATA / 8];
    gdt_put(0, descriptor(AREA & 0xffffffff, 0xfff, 0x82, 0));
    gdt_put(1, AREA >> 32);
    ASM("lldt %w0" ::"r"(SEL_FREE));
    t = run_kernel(load_ds, .ax = 4, .flags = FL_1 | FL_AC);
    ok_pf(&t, PF_P, AREA, load_ds, "SMAP: AC does not help implicit accesses");
    t = run_user(load_ds, .ax = 4, .flags = FL_1 | FL_AC);
    ok_pf(&t, PF_P, AREA, (void *)USER(load_ds), "SMAP: nor those made for user code");
    ASM("lldt %w0" ::"r"(0));
    cr4_set(cr4_get() & ~CR4_SMAP);
}

static void test_registers(void)
{
    struct trap t = run_kernel(set_cr0, .ax = cr0_get() & ~CR0_PG);
    ok_trap(&t, GP, 0, set_cr0, "paging cannot be left in 64-bit mode");
    t = run_kernel(set_cr0, .ax = cr0_get() & ~CR0_PE);
    ok_trap(&t, GP, 0, set_cr0, "CR0.PG without PE");
    t = run_kernel(set_cr0, .ax = (cr0_get() & ~CR0_CD) | CR0_NW);
    ok_trap(&t, GP, 0, set_cr0, "CR0.NW without CD");
    t = run_kernel(set_cr0, .ax = cr0_get() | 1ul << 32);
    ok_trap(&t, GP, 0, set_cr0, "CR0 bit 32");
    t = run_kernel(set_cr4, .ax = cr4_get() & ~CR4_PAE);
    ok_trap(&t, GP, 0, set_cr4, "CR4.PAE cannot be cleared in long mode");
    t = run_kernel(set_cr4, .ax = cr4_get() | 1ul << 31);
    ok_trap(&t, GP, 0, set_cr4, "CR4 bit 31");
    t = run_kernel(set_cr3, .ax = cr3_get() | 1ul << (cpuid(0x80000008, 0).eax & 0xff));
    ok_trap(&t, GP, 0, set_cr3, "CR3: an address bit that does not exist");
    t = run_kernel(set_cr3, .ax = cr3_get() | 1ul << 63);
    ok_trap(&t, GP, 0, set_cr3, "CR3 bit 63 without PCIDs");
    uint64_t efer = rdmsr(MSR_EFER) & ~(uint64_t)EFER_LME;
    t = run_kernel(set_msr, .cx = MSR_EFER, .ax = (uint32_t)efer, .dx = efer >> 32);
    ok_trap(&t, GP, 0, set_msr, "EFER.LME cannot change while paging is on");
    t = run_user(set_cr3, .ax = cr3_get());
    ok_trap(&t, GP, 0, (void *)USER(set_cr3), "MOV to CR3 at level 3");
}

static void test_pcid(void)
{
    if (!cpu_has_1_ecx(F1_PCID)) {
        skip("no PCIDs");
        return;
    }
    word base = cr3_get();
    cr3_set(base | 0x8);
    struct trap t = run_kernel(set_cr4, .ax = cr4_get() | CR4_PCIDE);
    ok_trap(&t, GP, 0, set_cr4, "CR4.PCIDE with CR3[11:0] not 0");
    cr3_set(base);
    cr4_set(cr4_get() | CR4_PCIDE);
    uint8_t *a = page_alloc(1), *b = page_alloc(1);
    *a = 0xaa;
    *b = 0xbb;
    page = a;
    map_with(AREA, 1, 0, 0);
    uint64_t *copy = page_alloc(1);
    memcpy(copy, (void *)base, PAGE);
    copy[AREA >> 39] = 0;
    cr3_set((word)copy | 2);
    *pte(AREA, 1) = (word)b | PTE_P | PTE_W;
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xbb, "PCID 2");
    cr3_set(base | 1ul << 63);
    ok_equal(cr3_get(), base, "bit 63 is not kept in CR3");
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xaa, "PCID 0, nothing flushed");
    cr3_set((word)copy | 2 | 1ul << 63);
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xbb, "PCID 2, nothing flushed");
    *pte(AREA, 1) = (word)a | PTE_P | PTE_W;
    cr3_set((word)copy | 2);
    ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xaa, "PCID 2, flushed");
    if (cpu_has_7_ebx(F7_INVPCID)) {
        uint64_t d[2] = {2, AREA};
        *pte(AREA, 1) = (word)b | PTE_P | PTE_W;
        t = run_kernel(invpcid, .ax = 0, .di = (word)d);
        ok_done(&t, invpcid_end, "INVPCID type 0");
        ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, 0xbb, "... flushes one page");
        for (word type = 1; type <= 3; type++) {
            uint8_t *now = type & 1 ? a : b;
            *pte(AREA, 1) = (word)now | PTE_P | PTE_W;
            t = run_kernel(invpcid, .ax = type, .di = (word)d);
            ok_done(&t, invpcid_end, "INVPCID type %lu", type);
            ok_equal(run_kernel(load, .di = AREA).regs.ax & 0xff, *now, "... flushes");
        }
        t = run_kernel(invpcid, .ax = 4, .di = (word)d);
        ok_trap(&t, GP, 0, invpcid, "INVPCID type 4");
        d[0] = 0x1002;
        t = run_kernel(invpcid, .ax = 1, .di = (word)d);
        ok_trap(&t, GP, 0, invpcid, "INVPCID: descriptor bit 12");
        d[0] = 2;
        d[1] = NON_CANONICAL;
        t = run_kernel(invpcid, .ax = 0, .di = (word)d);
        ok_trap(&t, GP, 0, invpcid, "INVPCID: non-canonical address");
        t = run_kernel(invpcid, .ax = 1, .di = (word)d);
        ok_done(&t, invpcid_end, "INVPCID type 1 does not look at the address");
        t = run_user(invpcid, .ax = 1, .di = USER(d));
        ok_trap(&t, GP, 0, (void *)USER(invpcid), "INVPCID at level 3");
        t = run_kernel(invpcid, .ax = 2, .di = AREA + PAGE);
        ok_pf(&t, 0, AREA + PAGE, invpcid, "INVPCID: descriptor in a missing page");
    } else {
        skip("no INVPCID");
    }
    cr3_set(base);
    cr4_set(cr4_get() & ~CR4_PCIDE);
    if (cpu_has_7_ebx(F7_INVPCID)) {
        uint64_t d[2] = {1, 0};
        t = run_kernel(invpcid, .ax = 1, .di = (word)d);
        ok_trap(&t, GP, 0, invpcid, "INVPCID of PCID 1 without CR4.PCIDE");
    }
}

/* The first #PF pushes onto the snippet's own stack: with that missing it is #DF, for which IST 1 helps. */
static void double_fault_init(void)
{
    word top = (word)page_alloc(2) + 2 * PAGE;
    memcpy(tss + 0x24, &top, sizeof top);
    idt_set(DF,
            &(struct gate_spec){.offset = (word)trap_stubs + 16 * DF, .selector = SEL_KCODE, .type = 0xe, .ist = 1});
}

void test_main(void)
{
    page = page_alloc(1);
    double_fault_init();
    test_not_present();
    test_user_bit();
    test_write_bit();
    test_nx();
    test_reserved();
    test_accessed_dirty();
    test_sizes();
    test_changes();
    test_wrong_addresses();
    test_two_pages();
    test_fetch_two_pages();
    test_rep();
    test_smep_smap();
    test_registers();
    test_pcid();
}
