/* Paging outside of long mode: two levels with 4 KiB and 4 MiB pages, PSE-36, PAE with its four registers of directory
 * pointers, and the ways between them.
 *
 * SDM vol. 3, 4.3 and 4.4. */
#include "guest.h"

#define AREA 0x40000000ul

CODE(load, "mov (%edi), %al");
CODE(load4, "mov (%edi), %eax");
CODE(store, "mov %al, (%edi)");
CODE(add4, "add %eax, (%edi)");
CODE(jump, "jmp *%edi");
CODE(set_cr0, "mov %eax, %cr0");
CODE(set_cr3, "mov %eax, %cr3");
CODE(set_cr4, "mov %eax, %cr4");
CODE(rep_movsd, "rep movsl");
CODE(push_code, "push %eax");

static uint8_t *page;
static uint32_t *directory, *table;
static uint64_t *pointers, *pae_directory[4], *pae_table;

static void flush(void)
{
    cr3_set(cr3_get());
}

static void paging_on(word cr3, word cr4)
{
    cr0_set(cr0_get() & ~CR0_PG);
    cr4_set((cr4_get() & ~(CR4_PSE | CR4_PAE | CR4_PGE)) | cr4);
    cr3_set(cr3);
    cr0_set(cr0_get() | CR0_PG);
}

static void paging_off(void)
{
    cr0_set(cr0_get() & ~(CR0_PG | CR0_WP));
}

/* ---- two levels ---- */

static void two_levels_init(void)
{
    directory = page_alloc(1);
    table = page_alloc(1);
    for (uint32_t i = 0; i < 16; i++)
        directory[i] = i << 22 | 0x87;
    directory[AREA >> 22] = (word)table | 7;
}

/* `page` at AREA, with bits set and cleared in the entry of `level`. */
static void map2(unsigned level, uint32_t set, uint32_t clear)
{
    directory[AREA >> 22] = (word)table | 7;
    table[0] = (word)page | 7;
    uint32_t *entry = level == 2 ? &directory[AREA >> 22] : &table[0];
    *entry = (*entry & ~clear) | set;
    flush();
}

static void test_faults(void)
{
    for (unsigned level = 2; level >= 1; level--) {
        map2(level, 0, PTE_P);
        struct trap t = run_kernel(load, .di = AREA + 0x123);
        ok_pf(&t, 0, AREA + 0x123, load, "level %u not present: load", level);
        t = run_user(store, .di = AREA + 0x123);
        ok_pf(&t, PF_U | PF_W, AREA + 0x123, store, "level %u not present: user store", level);
        t = run_kernel(jump, .di = AREA + 0x123);
        ok_pf(&t, 0, AREA + 0x123, (void *)(AREA + 0x123), "level %u not present: a fetch has no I", level);
        map2(level, 0, PTE_U);
        t = run_user(load, .di = AREA);
        ok_pf(&t, PF_P | PF_U, AREA, load, "level %u supervisor: user load", level);
        t = run_kernel(load, .di = AREA);
        ok_done(&t, load_end, "level %u supervisor: kernel load", level);
        map2(level, 0, PTE_W);
        t = run_user(store, .di = AREA);
        ok_pf(&t, PF_P | PF_U | PF_W, AREA, store, "level %u read-only: user store", level);
        t = run_kernel(store, .di = AREA);
        ok_done(&t, store_end, "level %u read-only, WP clear: kernel store", level);
        cr0_set(cr0_get() | CR0_WP);
        t = run_kernel(store, .di = AREA);
        ok_pf(&t, PF_P | PF_W, AREA, store, "level %u read-only, WP set: kernel store", level);
        cr0_set(cr0_get() & ~CR0_WP);
        t = run_kernel(store, .di = AREA);
        ok_done(&t, store_end, "level %u read-only, WP clear again", level);
    }
    map2(1, 0, 0);
    directory[AREA >> 22] &= ~(uint32_t)PTE_A;
    run_kernel(load, .di = AREA);
    ok(table[0] == ((word)page | 0x27) && (directory[AREA >> 22] & 0x60) == PTE_A, "a load sets both A");
    run_kernel(store, .di = AREA);
    ok(table[0] == ((word)page | 0x67) && (directory[AREA >> 22] & 0x60) == PTE_A, "a store sets D in the last level");
    directory[(AREA >> 22) + 1] = 0;
    table[1023] = (word)page | 7;
    flush();
    struct trap t = run_kernel(add4, .di = AREA + 0x3ffffe, .ax = 1);
    ok_pf(&t, PF_W, AREA + 0x400000, add4, "ADD across two tables, second missing");
    static uint32_t source[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    t = run_kernel(rep_movsd, .si = (word)source, .di = AREA + 0x400000 - 8, .cx = 8);
    ok_pf(&t, PF_W, AREA + 0x400000, rep_movsd, "REP MOVSD into a missing table");
    ok(t.regs.cx == 6 && t.regs.si == (word)(source + 2) && t.regs.di == AREA + 0x400000, "... ECX, ESI, EDI");
    t = run_user(push_code, .sp = AREA + 0x400000 + 2);
    ok_pf(&t, PF_U | PF_W, AREA + 0x400000, push_code, "PUSH across two pages");
    ok_equal(t.regs.sp, AREA + 0x400002, "... leaves ESP");
}

static void test_large(void)
{
    *(uint8_t *)0x1812345 = 0x42;
    directory[AREA >> 22] = 0x1800087;
    flush();
    struct trap t = run_kernel(load, .di = AREA + 0x12345);
    ok_equal(t.regs.ax & 0xff, 0x42, "a 4 MiB page");
    ok_equal(directory[AREA >> 22] & 0x60, PTE_A, "... A");
    run_kernel(store, .di = AREA + 0x3fffff, .ax = 0x43);
    ok_equal(directory[AREA >> 22] & 0x60, PTE_A | PTE_D, "... D");
    ok_equal(*(uint8_t *)0x1bfffff, 0x43, "... its last byte");
    t = run_user(store, .di = AREA);
    ok_done(&t, store_end, "... for users");
    directory[AREA >> 22] = 0x1800083;
    invlpg(AREA + 0x200000);
    t = run_user(store, .di = AREA);
    ok_pf(&t, PF_P | PF_U | PF_W, AREA, store, "... not for users, after INVLPG in its middle");
    if (cpuid(1, 0).edx >> 17 & 1) {
        directory[AREA >> 22] = 0x1800087 | 1u << 21;
        flush();
        t = run_kernel(load, .di = AREA);
        ok_pf(&t, PF_P | PF_RSVD, AREA, load, "PSE-36: bit 21 is reserved");
        directory[AREA >> 22] = 0x1800087 | 1u << 12;
        flush();
        t = run_kernel(load, .di = AREA + 0x12345);
        ok_equal(t.regs.ax & 0xff, 0x42, "bit 12 is PAT");
        unsigned bits = cpuid(0x80000000, 0).eax >= 0x80000008 ? cpuid(0x80000008, 0).eax & 0xff : 36;
        if (bits < 40) {
            directory[AREA >> 22] = 0x1800087 | 1u << (13 + bits - 32);
            flush();
            t = run_kernel(load, .di = AREA);
            ok_pf(&t, PF_P | PF_RSVD, AREA, load, "an address beyond %u bits is reserved", bits);
        }
        /* 4 GiB: nothing lives there with little memory; what is read is all ones. */
        directory[AREA >> 22] = 0x87 | 1u << 13;
        flush();
        t = run_kernel(load, .di = AREA + 0x12345);
        ok(t.vector == DONE && (t.regs.ax & 0xff) == 0xff, "PSE-36: a page at 4 GiB");
    }
    /* Without CR4.PSE the bit means nothing: the entry names a table. */
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t *identity = page_alloc(1);
        for (uint32_t k = 0; k < 1024; k++)
            identity[k] = i << 22 | k << 12 | 7;
        directory[i] = (word)identity | 7;
    }
    directory[AREA >> 22] = (word)table | 0x87;
    table[0] = (word)page | 7;
    page[5] = 0x66;
    paging_on((word)directory, 0);
    t = run_kernel(load, .di = AREA + 5);
    ok_equal(t.regs.ax & 0xff, 0x66, "without CR4.PSE bit 7 of a directory entry is ignored");
}

/* ---- PAE ---- */

static void pae_init(void)
{
    pointers = page_alloc(1);
    for (unsigned i = 0; i < 4; i++) {
        pae_directory[i] = page_alloc(1);
        pointers[i] = (word)pae_directory[i] | 1;
    }
    for (uint32_t i = 0; i < 32; i++)
        pae_directory[0][i] = i << 21 | 0x87;
    pae_table = page_alloc(1);
}

static void map3(unsigned level, uint64_t set, uint64_t clear)
{
    pae_directory[1][0] = (word)pae_table | 7;
    pae_table[0] = (word)page | 7;
    uint64_t *entry = level == 2 ? &pae_directory[1][0] : &pae_table[0];
    *entry = (*entry & ~clear) | set;
    flush();
}

static void test_pae(void)
{
    paging_on((word)pointers, CR4_PAE);
    page[9] = 0x77;
    map3(1, 0, 0);
    struct trap t = run_user(load, .di = AREA + 9);
    ok(t.vector == DONE && (t.regs.ax & 0xff) == 0x77, "PAE: a 4 KiB page");
    for (unsigned level = 2; level >= 1; level--) {
        map3(level, 0, PTE_P);
        t = run_user(load, .di = AREA);
        ok_pf(&t, PF_U, AREA, load, "PAE level %u not present", level);
        map3(level, 0, PTE_W);
        t = run_user(store, .di = AREA);
        ok_pf(&t, PF_U | PF_W | PF_P, AREA, store, "PAE level %u read-only", level);
        map3(level, PTE_NX, 0);
        t = run_user(load, .di = AREA);
        ok_pf(&t, PF_U | PF_P | PF_RSVD, AREA, load, "PAE level %u: bit 63 is reserved without NXE", level);
        map3(level, 1ull << 52, 0);
        t = run_user(load, .di = AREA);
        ok_pf(&t, PF_U | PF_P | PF_RSVD, AREA, load, "PAE level %u: bit 52 is reserved", level);
        if (cpuid(0x80000001, 0).edx >> 20 & 1) {
            wrmsr(MSR_EFER, EFER_NXE);
            map3(level, PTE_NX, 0);
            t = run_user(load, .di = AREA);
            ok_done(&t, load_end, "PAE level %u: NX does not concern loads", level);
            t = run_user(jump, .di = AREA);
            ok_pf(&t, PF_U | PF_P | PF_I, AREA, (void *)AREA, "PAE level %u: NX", level);
            map3(level, 0, PTE_P);
            t = run_kernel(jump, .di = AREA);
            ok_pf(&t, PF_I, AREA, (void *)AREA, "PAE level %u: with NXE a fetch has I", level);
            wrmsr(MSR_EFER, 0);
        }
    }
    map3(1, 0, 0);
    run_kernel(load, .di = AREA);
    ok(pae_table[0] == ((word)page | 0x27) && pae_directory[1][0] & PTE_A, "PAE: a load sets A");
    run_kernel(store, .di = AREA);
    ok(pae_table[0] == ((word)page | 0x67), "PAE: a store sets D");
    ok_equal(pointers[1], (word)pae_directory[1] | 1, "PAE: the pointers have no A");
    pae_directory[1][0] = 0x1800087;
    flush();
    t = run_kernel(load, .di = AREA + 0x12345);
    ok_equal(t.regs.ax & 0xff, 0x42, "PAE: a 2 MiB page, without CR4.PSE");
    pae_directory[1][0] = 0x1800087 | 1u << 20;
    flush();
    t = run_kernel(load, .di = AREA);
    ok_pf(&t, PF_P | PF_RSVD, AREA, load, "PAE: bit 20 of a 2 MiB page is reserved");
    map3(1, 0, 0);
    t = run_kernel(load, .di = 0x80000000);
    ok_pf(&t, 0, 0x80000000, load, "PAE: an empty directory");
    t = run_kernel(load4, .di = 0x3ffffffe);
    ok_pf(&t, 0, 0x3ffffffe, load4, "PAE: across two directories, first missing");

    /* The pointers are loaded with CR3, and not looked at later. */
    pointers[1] = 0;
    t = run_kernel(load, .di = AREA + 9);
    ok_equal(t.regs.ax & 0xff, 0x77, "PAE: changing a pointer in memory does nothing");
    invlpg(AREA);
    t = run_kernel(load, .di = AREA + 9);
    ok(t.vector == DONE || cpu_is_amd(), "... nor does INVLPG");
    flush();
    t = run_kernel(load, .di = AREA + 9);
    ok_pf(&t, 0, AREA + 9, load, "... until CR3 is loaded");
    static const uint64_t reserved[] = {1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1ull << 52, PTE_NX};
    for (unsigned i = 0; i < ARRAY_LEN(reserved); i++) {
        pointers[1] = (word)pae_directory[1] | 1 | reserved[i];
        t = run_kernel(set_cr3, .ax = (word)pointers);
        ok_trap(&t, GP, 0, set_cr3, "PAE: pointer with %#llx: #GP(0)", (unsigned long long)reserved[i]);
    }
    t = run_kernel(load, .di = AREA + 9);
    ok_pf(&t, 0, AREA + 9, load, "... and CR3 and the pointers are as before");
    pointers[1] = ((word)pae_directory[1] | 0x1e6) & ~1ul;
    t = run_kernel(set_cr3, .ax = (word)pointers);
    ok_done(&t, set_cr3_end, "PAE: a pointer that is not present may hold anything");
    pointers[1] = (word)pae_directory[1] | 1 | 0xe18;
    t = run_kernel(set_cr3, .ax = (word)pointers);
    ok_done(&t, set_cr3_end, "PAE: PWT, PCD and bits 9 to 11 are free");
    uint64_t *odd = (uint64_t *)((word)page_alloc(1) + 0x7e0);
    memcpy(odd, pointers, 32);
    cr3_set((word)odd);
    t = run_kernel(load, .di = AREA + 9);
    ok_equal(t.regs.ax & 0xff, 0x77, "PAE: CR3 is a multiple of 32");
    cr3_set((word)pointers);
}

/* Bits of CR0 and CR4 that also load the pointers. */
static void test_pointer_loads(void)
{
    pointers[1] |= 2;
    struct trap t = run_kernel(set_cr4, .ax = cr4_get() | CR4_PGE);
    ok_trap(&t, GP, 0, set_cr4, "a change of CR4.PGE loads the pointers, too: #GP(0)");
    t = run_kernel(set_cr0, .ax = cr0_get() | CR0_CD);
    ok_trap(&t, GP, 0, set_cr0, "so does a change of CR0.CD: #GP(0)");
    t = run_kernel(set_cr4, .ax = cr4_get() | CR4_DE);
    ok_done(&t, set_cr4_end, "a change of CR4.DE does not");
    cr4_set(cr4_get() & ~CR4_DE);
    pointers[1] &= ~2ull;
    paging_off();
    pointers[1] |= 2;
    t = run_kernel(set_cr0, .ax = cr0_get() | CR0_PG);
    ok_trap(&t, GP, 0, set_cr0, "CR0.PG with a wrong pointer: #GP(0)");
    ok(!(cr0_get() & CR0_PG), "... paging stays off");
    pointers[1] &= ~2ull;
}

static void test_switching(void)
{
    /* From two levels to PAE on the fly: CR4.PAE changes under paging. The same CR3 must do for both. */
    uint32_t *both = page_alloc(1);
    for (uint32_t i = 0; i < 16; i++)
        both[i] = i << 22 | 0x87;
    paging_on((word)both, CR4_PSE);
    struct trap t = run_kernel(load, .di = 0x1812345);
    ok_equal(t.regs.ax & 0xff, 0x42, "two levels again");
    ((uint64_t *)both)[12] = 0;
    cr3_set((word)both);
    paging_on((word)pointers, CR4_PAE);
    t = run_kernel(load, .di = AREA + 9);
    ok_equal(t.regs.ax & 0xff, 0x77, "PAE again");
    paging_off();
    t = run_kernel(load, .di = 0x1812345);
    ok_equal(t.regs.ax & 0xff, 0x42, "no paging");
    cr4_set(cr4_get() & ~CR4_PAE);
    t = run_kernel(set_cr4, .ax = cr4_get() | CR4_PCIDE);
    ok_trap(&t, GP, 0, set_cr4, "CR4.PCIDE outside of long mode: #GP(0)");
}

void test_main(void)
{
    page = page_alloc(1);
    two_levels_init();
    paging_on((word)directory, CR4_PSE);
    test_faults();
    test_large();
    paging_off();
    pae_init();
    test_pae();
    test_pointer_loads();
    test_switching();
}
