/* Shadow page tables.
 *
 * What an entry permits is looked at as translated code does: the sum of an address and its entry must lie in the
 * right view of RAM, or in the guard page, or the entry must not be readable at all. The rules of permission are those
 * of SDM vol. 3, 4.6, the rules of invalidation those of 4.10.4; both are written down here once more. The last test
 * makes thousands of random changes to page tables, invalidations and accesses, under every policy and in every
 * format: an entry may only permit what the tables have said since the last time that the architecture demands a new
 * look.
 */
#include <sys/uio.h>
#include <unistd.h>

#include "cpu_test.h"

#include "mmu/shadow.h"
#include "mmu/walk.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull

#define ROOT(n) (0x100000u + 0x1000u * (n))
#define TABLE(n) (0x110000u + 0x1000u * (n))
#define FRAME(n) (0x200000u + 0x1000u * (n))
#define MASK36 0xfffffffffull

static void watched_written(void *opaque, gpa_t gpa, unsigned size)
{
    mmu_written(opaque, gpa, size);
}

static int setup(void **state)
{
    if (bench_setup(state) != 0)
        return -1;
    struct bench *b = *state;
    memory_set_watcher(b->memory, watched_written, b->v);
    return 0;
}

static int teardown(void **state)
{
    shadow_destroy(((struct bench *)*state)->v);
    return bench_teardown(state);
}

/* ---- looking at entries as translated code does ---- */

enum outcome { MISS, READ_ONLY, READ_WRITE };

static bool entry_read(const uint64_t *at, uint64_t *entry)
{
    struct iovec local = {.iov_base = entry, .iov_len = 8}, remote = {.iov_base = (void *)at, .iov_len = 8};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 8;
}

/* Where an access to `gva` ends: `*gpa` is set unless it misses. */
static enum outcome look(struct bench *b, enum tlb_kind kind, bool wide, gva_t gva, gpa_t *gpa)
{
    const uint64_t *table = (const uint64_t *)(uintptr_t)shadow_table(b->v, kind, wide);
    uint64_t entry;
    if (!entry_read(&table[wide ? gva >> 12 & MASK36 : gva >> 12], &entry))
        return MISS;
    uint64_t sum = gva + entry, size = memory_ram_size(b->memory);
    uint64_t write = (uint64_t)(uintptr_t)memory_ram_base(b->memory);
    uint64_t read = (uint64_t)(uintptr_t)memory_ram_view_read_only(b->memory);
    if (sum - write < size || sum - read < size) {
        assert_int_equal(entry & 0xfff, 0);
        *gpa = sum - write < size ? sum - write : sum - read;
        assert_int_equal(shadow_is_read_only_view(b->v, sum), sum - read < size);
        return sum - write < size ? READ_WRITE : READ_ONLY;
    }
    assert_int_equal(entry & 0xfff, 1);
    assert_true(shadow_owns(b->v, sum) && shadow_owns(b->v, sum + 64 + 4095));
    assert_int_equal((sum - 1) & 0xfff, gva & 0xfff);
    return MISS;
}

static bool goes_to(struct bench *b, enum tlb_kind kind, bool wide, gva_t gva, gpa_t expected, enum outcome how)
{
    gpa_t gpa = 0;
    enum outcome outcome = look(b, kind, wide, gva, &gpa);
    return outcome == how && (how == MISS || gpa == expected);
}

/* ---- accesses ---- */

static void become(struct bench *b, enum tlb_kind kind)
{
    struct vcpu *v = b->v;
    v->cpl = kind == TLB_USER ? 3 : 0;
    v->rflags_rest = FLAG_FIXED | (kind == TLB_KERNEL_AC && (v->cr4 & CR4_SMAP) ? FLAG_AC : 0);
    v->tlb = &v->tlbs[kind];
}

enum result { FAULTED, DENIED, PERMITTED };

static enum result fault(struct bench *b, gva_t gva, bool write)
{
    jmp_buf unwind;
    b->v->unwind = &unwind;
    if (setjmp(unwind) != 0) {
        b->v->unwind = NULL;
        return FAULTED;
    }
    bool ok = shadow_fault(b->v, gva, write);
    b->v->unwind = NULL;
    return ok ? PERMITTED : DENIED;
}

static void table_put(struct bench *b, gpa_t at, uint64_t value, unsigned size)
{
    assert_true(memory_write(b->memory, at, &value, size)); /* tells who watches, as the processor's stores do */
}

/* 64-bit mode: PML4 at ROOT(n) -> TABLE(4n), TABLE(4n + 1), leaves for 2 MiB from 0 on in TABLE(4n + 2). */
static void long_mode(struct bench *b, enum shadow_policy policy, uint64_t cr4)
{
    struct vcpu *v = b->v;
    bench_long(b, 0);
    for (unsigned n = 0; n < 4; n++) {
        put64(b, ROOT(n), TABLE(4 * n) | P | W | U);
        put64(b, ROOT(n) + 8 * 256, TABLE(4 * n) | P | W | U); /* and in the upper half */
        put64(b, TABLE(4 * n), TABLE(4 * n + 1) | P | W | U);
        put64(b, TABLE(4 * n + 1), TABLE(4 * n + 2) | P | W | U);
    }
    v->cr3 = ROOT(0);
    v->cr4 = CR4_PAE | cr4;
    v->cr0 |= CR0_WP;
    struct error err;
    assert_true(shadow_create(v, policy, &err));
    mmu_flush(v);
    vcpu_mode_changed(v);
}

static void leaf_put(struct bench *b, unsigned space, unsigned page, uint64_t entry)
{
    table_put(b, TABLE(4 * space + 2) + 8 * page, entry, 8);
}

static gva_t gva_of(unsigned page)
{
    return (gva_t)page << 12;
}

/* ---- single things ---- */

static void test_poison(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, 0);
    static const gva_t gvas[] = {0, 0x1fffff, 0x7fffffffffff, 0xffff800000000000, 0xffffffffffffffff,
                                 0xffff800000001fff};
    leaf_put(b, 0, 0x10, FRAME(1) | P | W | U | A | D);
    for (unsigned kind = 0; kind < TLB_NONE; kind++)
        for (unsigned i = 0; i < ARRAY_LEN(gvas); i++)
            assert_true(goes_to(b, kind, true, gvas[i], 0, MISS));
    become(b, TLB_USER);
    assert_int_equal(fault(b, gva_of(0x10), true), PERMITTED);
    assert_int_equal(fault(b, gva_of(0x10) | 0xffff800000000000, true), PERMITTED);
    assert_true(goes_to(b, TLB_USER, true, gva_of(0x10) + 0xfff, FRAME(1) + 0xfff, READ_WRITE));
    assert_true(goes_to(b, TLB_USER, true, 0xffff800000010123, FRAME(1) + 0x123, READ_WRITE));
    /* Neighbours in the same island, which is readable now. */
    for (unsigned page = 0; page < 512; page++) {
        assert_true(goes_to(b, TLB_USER, true, gva_of(page) + 5, FRAME(1) + 5, page == 0x10 ? READ_WRITE : MISS));
        gva_t upper = 0xffff800000000000 + gva_of(page);
        assert_true(goes_to(b, TLB_USER, true, upper, FRAME(1), page == 0x10 ? READ_WRITE : MISS));
    }
    /* Whatever a non-canonical address finds, its sum is not canonical either. */
    const uint64_t *table = (const uint64_t *)(uintptr_t)shadow_table(b->v, TLB_USER, true);
    for (unsigned high = 0; high < 0x10000; high++)
        for (unsigned page = 0xf; page <= 0x10; page++) {
            gva_t gva = (gva_t)high << 48 | gva_of(page), upper = gva | 0x800000000000;
            assert_int_equal(gva_canonical(gva + table[gva >> 12 & MASK36]), gva_canonical(gva));
            assert_int_equal(gva_canonical(upper + table[upper >> 12 & MASK36]), gva_canonical(upper));
        }
    assert_int_equal(shadow_fault(b->v, 0x8000000000000000, false), false);
    become(b, TLB_NONE);
    assert_int_equal(shadow_base(b->v), 0);
    assert_int_equal(fault(b, gva_of(0x10), false), DENIED);
}

/* 32-bit tables have 2^23 entries, of which the first 2^20 are ever filled. */
static void test_narrow(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    struct error err;
    assert_true(shadow_create(b->v, SHADOW_ONDEMAND, &err));
    become(b, TLB_KERNEL_AC); /* no paging: linear addresses are physical */
    assert_int_equal(fault(b, 0x201234, true), PERMITTED);
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x201234, 0x201234, READ_WRITE));
    assert_true(goes_to(b, TLB_USER, false, 0x201234, 0x201234, MISS)); /* until somebody asks; then in both */
    become(b, TLB_USER);
    assert_int_equal(fault(b, 0x203000, true), PERMITTED);
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x203123, 0x203123, READ_WRITE));
    become(b, TLB_KERNEL_AC);
    assert_true(goes_to(b, TLB_KERNEL_AC, true, 0x201234, 0, MISS)); /* until 64-bit code asks */
    assert_int_equal(fault(b, 0xfffff000, true), DENIED);            /* nothing is there */
    for (gva_t gva = 0x100000000; gva < 0x800000000; gva += 0x10000000)
        assert_true(goes_to(b, TLB_KERNEL_AC, false, gva + 0x201000, 0, MISS));
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x7fffff000, 0, MISS));
    /* The neighbours came with it. */
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x202000, 0x202000, READ_WRITE));
    assert_true(shadow_counters(b->v)->prefills > 0);
}

static void try_permissions(struct bench *b, uint64_t leaf, bool wp, bool smap)
{
    struct vcpu *v = b->v;
    v->cr4 = CR4_PAE | (smap ? CR4_SMAP : 0);
    v->cr0 = (v->cr0 & ~CR0_WP) | (wp ? CR0_WP : 0);
    mmu_flush(v);
    for (unsigned kind = smap ? TLB_KERNEL : TLB_KERNEL_AC; kind <= TLB_USER; kind++) { /* all have an island then */
        leaf_put(b, 0, 9, FRAME(9) | P | (kind == TLB_USER ? U : 0));
        become(b, kind);
        mmu_flush_page(v, gva_of(9));
        assert_int_equal(fault(b, gva_of(9), false), PERMITTED);
    }
    leaf_put(b, 0, 7, FRAME(3) | leaf);
    mmu_flush_page(v, gva_of(7));
    become(b, leaf & U ? TLB_USER : TLB_KERNEL_AC);
    assert_int_equal(fault(b, gva_of(7), false), PERMITTED);
    bool user = leaf & U, writable = leaf & W, dirty = leaf & D;
    enum outcome supervisor = dirty && (writable || !wp) ? READ_WRITE : READ_ONLY;
    enum outcome by_user = !user ? MISS : dirty && writable ? READ_WRITE : READ_ONLY;
    assert_true(goes_to(b, TLB_USER, true, gva_of(7), FRAME(3), by_user));
    assert_true(goes_to(b, TLB_KERNEL_AC, true, gva_of(7), FRAME(3), supervisor));
    if (smap)
        assert_true(goes_to(b, TLB_KERNEL, true, gva_of(7), FRAME(3), user ? MISS : supervisor));
    assert_true(get64(b, TABLE(2) + 8 * 7) & A);
    assert_int_equal(!!(get64(b, TABLE(2) + 8 * 7) & D), dirty);
    for (unsigned kind = smap ? TLB_KERNEL : TLB_KERNEL_AC; kind <= TLB_USER; kind++) { /* now each kind writes */
        bool visible = kind == TLB_USER ? user : kind == TLB_KERNEL ? !user : true;
        bool permitted = visible && (writable || (kind != TLB_USER && !wp));
        become(b, kind);
        assert_int_equal(fault(b, gva_of(7), true), permitted ? PERMITTED : FAULTED);
        if (permitted)
            assert_true(goes_to(b, kind, true, gva_of(7), FRAME(3), READ_WRITE));
        else
            assert_false(goes_to(b, kind, true, gva_of(7), FRAME(3), READ_WRITE));
        dirty |= permitted;
        assert_int_equal(!!(get64(b, TABLE(2) + 8 * 7) & D), dirty);
    }
}

static void test_permissions(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_ONDEMAND, 0);
    for (unsigned n = 0; n < 64; n++)
        try_permissions(b, P | (n & 1 ? W : 0) | (n & 2 ? U : 0) | (n & 4 ? D : 0) | (n & 8 ? A : 0), n & 16, n & 32);
}

/* Entries above the leaf count too; and what is not RAM is never entered. */
static void test_other_backing(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_ONDEMAND, 0);
    become(b, TLB_KERNEL_AC);
    leaf_put(b, 0, 1, 0xe0000000 | P | W | D);
    assert_int_equal(fault(b, gva_of(1), false), DENIED);
    static uint8_t rom[4096] __attribute__((aligned(4096)));
    struct error err;
    assert_true(memory_map_rom(b->memory, FRAME(5), 4096, rom, &err));
    leaf_put(b, 0, 2, FRAME(5) | P | W | D);
    assert_int_equal(fault(b, gva_of(2), false), DENIED);
    assert_true(goes_to(b, TLB_KERNEL_AC, true, gva_of(2), 0, MISS));
    /* A change of the memory map takes everything. */
    memory_unmap(b->memory, FRAME(5));
    assert_int_equal(fault(b, gva_of(2), true), PERMITTED);
    assert_true(goes_to(b, TLB_KERNEL_AC, true, gva_of(2), FRAME(5), READ_WRITE));
    assert_true(memory_map_rom(b->memory, FRAME(5), 4096, rom, &err));
    leaf_put(b, 0, 3, FRAME(6) | P);
    assert_int_equal(fault(b, gva_of(3), false), PERMITTED);
    assert_true(goes_to(b, TLB_KERNEL_AC, true, gva_of(2), 0, MISS));
    table_put(b, TABLE(1), TABLE(2) | P | U, 8); /* not writable from the page directory on */
    leaf_put(b, 0, 4, FRAME(7) | P | W | U | D);
    become(b, TLB_USER);
    assert_int_equal(fault(b, gva_of(4), true), FAULTED);
    assert_int_equal(fault(b, gva_of(4), false), PERMITTED);
    assert_true(goes_to(b, TLB_USER, true, gva_of(4), FRAME(7), READ_ONLY));
}

static void test_watch(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, CR4_PCIDE | CR4_PGE);
    become(b, TLB_USER);
    leaf_put(b, 0, 1, FRAME(1) | P | W | U | D | A);
    leaf_put(b, 0, 2, FRAME(1) | P | W | U | D | A | G);
    assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
    become(b, TLB_KERNEL_AC);
    assert_int_equal(fault(b, gva_of(2), true), PERMITTED);
    memory_watch(b->memory, FRAME(1) >> 12, PAGE_CODE);
    mmu_stop_plain_writes(b->v, FRAME(1));
    assert_true(goes_to(b, TLB_USER, true, gva_of(1), FRAME(1), READ_ONLY));
    assert_true(goes_to(b, TLB_KERNEL_AC, true, gva_of(2), FRAME(1), READ_ONLY));
    become(b, TLB_USER);
    assert_int_equal(fault(b, gva_of(1), true), DENIED);
    memory_unwatch(b->memory, FRAME(1) >> 12, PAGE_CODE);
    assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
    /* Watched while its address space is away. */
    mmu_switch(b->v, ROOT(1) | 1, false);
    memory_watch(b->memory, FRAME(1) >> 12, PAGE_CODE);
    mmu_stop_plain_writes(b->v, FRAME(1));
    mmu_switch(b->v, ROOT(0), true);
    assert_true(goes_to(b, TLB_USER, true, gva_of(1), FRAME(1), READ_ONLY));
    memory_unwatch(b->memory, FRAME(1) >> 12, PAGE_CODE);
}

/* ---- address spaces ---- */

/* Spaces 0 to 2 map page 1 to frames of their own, page 2 globally. */
static void fill_spaces(struct bench *b, uint64_t tag)
{
    become(b, TLB_USER);
    for (unsigned n = 0; n < 3; n++) {
        leaf_put(b, n, 1, FRAME(n) | P | W | U | A | D);
        leaf_put(b, n, 2, FRAME(9) | P | W | U | A | D | G);
    }
    for (unsigned n = 0; n < 3; n++) {
        mmu_switch(b->v, ROOT(n) | n * tag, false);
        assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
        assert_true(goes_to(b, TLB_USER, true, gva_of(1), FRAME(n), READ_WRITE));
        assert_int_equal(fault(b, gva_of(2), true), PERMITTED);
    }
}

#define IS(page, frame) assert_true(goes_to(b, TLB_USER, true, gva_of(page), FRAME(frame), READ_WRITE))
#define ABSENT(page) assert_true(goes_to(b, TLB_USER, true, gva_of(page), 0, MISS))

static void test_ondemand(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_ONDEMAND, CR4_PGE);
    fill_spaces(b, 0);
    mmu_switch(b->v, ROOT(2), false); /* the same value */
    ABSENT(1);
    IS(2, 9);
    assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
    IS(1, 2);
    mmu_flush_page(b->v, gva_of(2));
    ABSENT(2);
    IS(1, 2);
    mmu_flush_non_global(b->v);
    ABSENT(1);
    assert_int_equal(fault(b, gva_of(2), true), PERMITTED);
    mmu_flush(b->v);
    ABSENT(2);
    b->v->cr4 &= ~CR4_PGE; /* G does not count */
    mmu_flush(b->v);
    assert_int_equal(fault(b, gva_of(2), true), PERMITTED);
    mmu_switch(b->v, ROOT(1), false);
    ABSENT(2);
}

static void test_tagged(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, CR4_PGE | CR4_PCIDE);
    fill_spaces(b, 1);
    for (unsigned n = 0; n < 6; n++) { /* kept, each one's own */
        mmu_switch(b->v, ROOT(n % 3) | n % 3, true);
        IS(1, n % 3);
        IS(2, 9);
    }
    mmu_switch(b->v, ROOT(0) | 0, false); /* without bit 63: gone, but for the others */
    ABSENT(1);
    IS(2, 9);
    mmu_switch(b->v, ROOT(1) | 1, true);
    IS(1, 1);
    mmu_switch(b->v, ROOT(1) | 1, true); /* nothing happens */
    IS(1, 1);
    mmu_flush_pcid(b->v, 2, gva_of(7), true); /* another page of PCID 2 */
    mmu_switch(b->v, ROOT(2) | 2, true);
    IS(1, 2);
    mmu_switch(b->v, ROOT(1) | 1, true);
    mmu_flush_pcid(b->v, 2, gva_of(1), true);
    IS(1, 1);
    mmu_switch(b->v, ROOT(2) | 2, true);
    ABSENT(1);
    mmu_flush_pcid(b->v, 1, 0, false);
    mmu_switch(b->v, ROOT(1) | 1, true);
    ABSENT(1);
    IS(2, 9);
    fill_spaces(b, 1);
    mmu_flush_pcid(b->v, 2, gva_of(1), true); /* the current one */
    ABSENT(1);
    IS(2, 9);
    fill_spaces(b, 1);
    mmu_flush_page(b->v, gva_of(1)); /* INVLPG: here only */
    ABSENT(1);
    mmu_flush_page(b->v, gva_of(2)); /* global: everywhere */
    mmu_switch(b->v, ROOT(1) | 1, true);
    IS(1, 1);
    ABSENT(2);
    fill_spaces(b, 1);
    mmu_flush_non_global(b->v);
    IS(2, 9);
    ABSENT(1);
    mmu_switch(b->v, ROOT(0), true);
    ABSENT(1);
    fill_spaces(b, 1);
    mmu_flush(b->v);
    ABSENT(2);
    for (unsigned n = 0; n < 3; n++) {
        mmu_switch(b->v, ROOT(n) | n, true);
        ABSENT(1);
    }
}

/* A page that is global now and was not, and the other way round, is in one log only. */
static void test_global_changes(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, CR4_PGE | CR4_PCIDE);
    become(b, TLB_USER);
    for (unsigned round = 0; round < 2; round++) {
        leaf_put(b, 0, 1, FRAME(1) | P | U | W | D | (round == 0 ? G : 0));
        assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
        leaf_put(b, 0, 1, FRAME(2) | P | U | W | D | (round == 1 ? G : 0));
        assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
        mmu_switch(b->v, ROOT(1) | 1, false);
        if (round == 0)
            ABSENT(1);
        else
            IS(1, 2);
        mmu_flush_page(b->v, gva_of(1));
        mmu_switch(b->v, ROOT(0), true);
        if (round == 0)
            IS(1, 2);
        else
            ABSENT(1); /* no copy in a log has survived */
        mmu_flush(b->v);
    }
}

static void test_many_spaces(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, CR4_PCIDE);
    become(b, TLB_USER);
    leaf_put(b, 0, 1, FRAME(1) | P | W | U | A | D);
    for (unsigned n = 0; n < 200; n++) {
        mmu_switch(b->v, ROOT(0) | n, false);
        ABSENT(1);
        assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
    }
    mmu_switch(b->v, ROOT(0) | 150, true); /* among the most recent ones */
    IS(1, 1);
    mmu_switch(b->v, ROOT(0) | 10, true); /* forgotten long ago */
    ABSENT(1);
}

static void test_large_pages(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, CR4_PCIDE);
    become(b, TLB_KERNEL_AC);
    put64(b, TABLE(1) + 8, 0x200000 | P | W | PS | A | D); /* 2 MiB at 2 MiB */
    put64(b, TABLE(0) + 8, P | W | PS | A | D);            /* 1 GiB at 1 GiB */
    for (unsigned size = 0; size < 2; size++) {
        gva_t base = size == 0 ? 0x200000 : GiB;
        mmu_switch(b->v, ROOT(0), false);
        gpa_t to = size == 0 ? 0x200000 : 0;
        for (unsigned i = 0; i < 512; i += 37)
            assert_int_equal(fault(b, base + 0x1000 * i, true), PERMITTED);
        assert_true(goes_to(b, TLB_KERNEL_AC, true, base + 0x1000 * 37, to + 0x1000 * 37, READ_WRITE));
        /* A neighbour. */
        assert_true(goes_to(b, TLB_KERNEL_AC, true, base + 0x1000 * 38, to + 0x1000 * 38, READ_WRITE));
        mmu_switch(b->v, ROOT(1) | 1, true);
        assert_true(goes_to(b, TLB_KERNEL_AC, true, base, 0, MISS));
        mmu_flush_pcid(b->v, 0, base + 0x5000, true);
        mmu_switch(b->v, ROOT(0), true);
        assert_true(goes_to(b, TLB_KERNEL_AC, true, base + 0x1000 * 37, 0, MISS)); /* all pieces */
        assert_int_equal(fault(b, base + 0x1000 * 37, true), PERMITTED);
        mmu_flush_page(b->v, base + (size == 0 ? 0x1ff123 : 0x3fe00123));
        assert_true(goes_to(b, TLB_KERNEL_AC, true, base + 0x1000 * 37, 0, MISS));
    }
    /* INVLPG beside it leaves it. */
    assert_int_equal(fault(b, 0x200000, true), PERMITTED);
    mmu_flush_page(b->v, 0x1ff000);
    mmu_flush_page(b->v, 0x400000);
    assert_true(goes_to(b, TLB_KERNEL_AC, true, 0x200000, 0x200000, READ_WRITE));
}

static void test_large_page_4m(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    struct vcpu *v = b->v;
    struct error err;
    assert_true(shadow_create(v, SHADOW_PROACTIVE, &err));
    put32(b, ROOT(0) + 4 * 2, P | W | PS | A | D);
    v->cr3 = ROOT(0);
    v->cr4 = CR4_PSE;
    v->cr0 |= CR0_PG | CR0_WP;
    mmu_flush(v);
    become(b, TLB_KERNEL_AC);
    assert_int_equal(fault(b, 0x800000 + FRAME(1), true), PERMITTED);
    assert_int_equal(fault(b, 0x800000 + 0x10000, true), PERMITTED);
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x800000 + FRAME(1), FRAME(1), READ_WRITE));
    mmu_flush_page(v, 0xbff000);
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x800000 + FRAME(1), 0, MISS));
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x800000 + 0x10000, 0, MISS));
    assert_int_equal(fault(b, 0x800000 + FRAME(1), true), PERMITTED);
    mmu_switch(v, ROOT(0), false); /* read again */
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x800000 + FRAME(1), FRAME(1), READ_WRITE));
    put32(b, ROOT(0) + 4 * 2, P | PS | A | D);
    mmu_switch(v, ROOT(0), false);
    assert_true(goes_to(b, TLB_KERNEL_AC, false, 0x800000 + FRAME(1), FRAME(1), READ_ONLY));
}

/* What is read before anything is mapped there becomes poison; far more of it than may exist changes nothing. */
static void test_touch(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_ONDEMAND, 0);
    become(b, TLB_KERNEL_AC);
    leaf_put(b, 0, 1, FRAME(1) | P | W | D);
    assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
    const uint64_t *table = (const uint64_t *)(uintptr_t)shadow_base(b->v);
    for (uint64_t i = 1; i < 5000; i++) {
        gva_t gva = (gva_t)((int64_t)(i * 0x123456789000 << 16) >> 16);
        const uint64_t *at = &table[gva >> 12 & MASK36];
        assert_true(shadow_is_table(b->v, (uintptr_t)at));
        assert_true(shadow_touch(b->v, gva));
        assert_true(shadow_owns(b->v, gva + *at) && !shadow_is_table(b->v, gva + *at));
        assert_true(goes_to(b, TLB_KERNEL_AC, true, gva, 0, MISS));
    }
    assert_int_equal(shadow_counters(b->v)->evictions, 0);
    assert_true(goes_to(b, TLB_KERNEL_AC, true, gva_of(1), FRAME(1), READ_WRITE));
    assert_false(shadow_touch(b->v, 0x8000000000000000));
}

/* More than the tables may hold: everything goes, and it goes on. */
static void test_eviction(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, CR4_PCIDE);
    become(b, TLB_KERNEL_AC);
    put64(b, ROOT(0) + 8 * 255, ROOT(0) | P | W | U); /* itself, four levels deep: much to map with few pages */
    for (unsigned i = 0; i < 512; i++)
        put64(b, TABLE(0) + 8 * i, (uint64_t)i << 30 | P | W | PS | A | D);
    for (unsigned i = 1; i < 512; i++)
        put64(b, ROOT(0) + 8 * i, TABLE(0) | P | W | U);
    for (uint64_t i = 0; i < 3000; i++) {
        gva_t gva = i % 255 << 39 | (i / 255) << 21;
        enum result result = fault(b, gva, true);
        assert_int_equal(result, (i / 255) << 21 >= 4 * MiB ? DENIED : PERMITTED);
        if (result == PERMITTED)
            assert_true(goes_to(b, TLB_KERNEL_AC, true, gva, (i / 255) << 21, READ_WRITE));
    }
    for (uint64_t i = 0; i < 5000; i++) { /* many islands: each access in a place of its own */
        gva_t gva = (i % 255 << 39 | (i / 255) << 30) + (i % 2 << 21);
        enum result result = fault(b, gva, true);
        if (result == PERMITTED)
            assert_true(goes_to(b, TLB_KERNEL_AC, true, gva, i % 2 << 21, READ_WRITE));
    }
    put64(b, TABLE(0) + 8 * 1, P | W | PS | A | D); /* the first GiB at many places */
    for (unsigned i = 0; i < 512; i++)
        put64(b, TABLE(0) + 8 * i, P | W | PS | A | D);
    mmu_flush(b->v);
    for (uint64_t i = 0; i < 5000; i++) {
        gva_t gva = i % 255 << 39 | (i / 255) << 30;
        assert_int_equal(fault(b, gva, true), PERMITTED);
        assert_true(goes_to(b, TLB_KERNEL_AC, true, gva, 0, READ_WRITE));
    }
    assert_true(shadow_counters(b->v)->evictions >= 1);
    /* Islands that are empty are given back before anything is evicted. */
    uint64_t evictions = shadow_counters(b->v)->evictions;
    for (uint64_t i = 0; i < 5000; i++) {
        gva_t gva = i % 255 << 39 | (i / 255) << 30;
        mmu_switch(b->v, ROOT(0), false);
        assert_int_equal(fault(b, gva, true), PERMITTED);
    }
    assert_int_equal(shadow_counters(b->v)->evictions, evictions);
}

static void test_neighbours(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_ONDEMAND, 0);
    become(b, TLB_USER);
    for (unsigned page = 0; page < 40; page++)
        leaf_put(b, 0, page, FRAME(page) | P | W | U | (page % 2 ? A : 0) | (page % 4 == 3 ? D : 0));
    assert_int_equal(fault(b, gva_of(20), false), PERMITTED);
    for (unsigned page = 12; page <= 28; page++) {
        enum outcome expected = page == 20 ? READ_ONLY : page % 2 == 0 ? MISS : page % 4 == 3 ? READ_WRITE : READ_ONLY;
        assert_true(goes_to(b, TLB_USER, true, gva_of(page), FRAME(page), expected));
        if (page != 20)
            assert_int_equal(get64(b, TABLE(2) + 8 * page) & (A | D), (page % 2 ? A : 0) | (page % 4 == 3 ? D : 0));
    }
    assert_int_equal(fault(b, gva_of(0), false), PERMITTED); /* at the edge of a table */
    assert_int_equal(fault(b, gva_of(21), true), PERMITTED); /* clean so far */
    assert_true(get64(b, TABLE(2) + 8 * 21) & D);
    assert_true(goes_to(b, TLB_USER, true, gva_of(21), FRAME(21), READ_WRITE));
}

/* ---- fetch slots ---- */

static void fetch(struct bench *b, gva_t gva, uint64_t identity)
{
    struct walk walk;
    struct page_backing page;
    mmu_translate_walk(b->v, gva, ACCESS_FETCH | access_current(b->v), &walk, &page);
    shadow_fetch_set(b->v, gva, identity, &walk);
}

static void test_fetch_slots(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_TAGGED, CR4_PCIDE | CR4_PGE);
    become(b, TLB_USER);
    uint64_t *slots = shadow_fetch_slots(b->v);
    for (unsigned n = 0; n < 2; n++) {
        leaf_put(b, n, 1, FRAME(1) | P | U);
        leaf_put(b, n, 2, FRAME(1) | P | U | G);
    }
    put64(b, TABLE(1) + 8, 0x200000 | P | U | PS);
    fetch(b, gva_of(1), 11);
    fetch(b, gva_of(2), 12);
    fetch(b, 0x205000, 13);
    assert_int_equal(slots[1], 11);
    mmu_switch(b->v, ROOT(1) | 1, false);
    assert_int_equal(slots[1], 0);
    assert_int_equal(slots[2], 12);
    assert_int_equal(slots[0x205], 0);
    fetch(b, gva_of(1), 21);
    mmu_switch(b->v, ROOT(0), true);
    assert_int_equal(slots[1], 11);
    assert_int_equal(slots[0x205], 13);
    mmu_flush_page(b->v, gva_of(0x1001)); /* the same slot, another page */
    assert_int_equal(slots[1], 11);
    mmu_flush_page(b->v, 0x3ff000); /* the large page */
    assert_int_equal(slots[0x205], 0);
    assert_int_equal(slots[1], 11);
    mmu_flush_page(b->v, gva_of(1));
    assert_int_equal(slots[1], 0);
    mmu_flush_pcid(b->v, 1, gva_of(1), true);
    mmu_switch(b->v, ROOT(1) | 1, true);
    assert_int_equal(slots[1], 0);
    assert_int_equal(slots[2], 12);
    mmu_flush_page(b->v, gva_of(2));
    assert_int_equal(slots[2], 0);
    fetch(b, gva_of(2), 14);
    mmu_flush_non_global(b->v);
    assert_int_equal(slots[2], 14);
    mmu_flush(b->v);
    assert_int_equal(slots[2], 0);
}

/* ---- proactive ---- */

static void test_proactive(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_PROACTIVE, CR4_PGE);
    fill_spaces(b, 0);
    for (unsigned n = 0; n < 6; n++) {
        mmu_switch(b->v, ROOT(n % 3), false);
        IS(1, n % 3);
        IS(2, 9);
    }
    leaf_put(b, 2, 1, FRAME(5) | P | W | U | A | D); /* seen with the next flush, at the latest */
    leaf_put(b, 1, 1, FRAME(7) | P | U | A | D);
    mmu_switch(b->v, ROOT(2), false);
    IS(1, 5);
    mmu_switch(b->v, ROOT(1), false);
    assert_true(goes_to(b, TLB_USER, true, gva_of(1), FRAME(7), READ_ONLY));
    /* What a processor would not enter of itself, or has no log any more, does not come back. */
    static const uint64_t gone[] = {0, FRAME(3) | P | W | U | D, FRAME(3) | P | A | D, FRAME(3) | P | U | A | G,
                                    0xe0000000 | P | W | U | A | D, FRAME(3) | P | U | A | 1ull << 51};
    for (unsigned i = 0; i < ARRAY_LEN(gone); i++) {
        leaf_put(b, 1, 1, FRAME(4) | P | W | U | A | D);
        mmu_switch(b->v, ROOT(1), false);
        assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
        leaf_put(b, 1, 1, gone[i]);
        mmu_switch(b->v, ROOT(i % 3), false);
        mmu_switch(b->v, ROOT(1), false);
        ABSENT(1);
        assert_int_equal(get64(b, TABLE(6) + 8), gone[i]); /* no A or D bit is set by this */
    }
    /* Upper tables: another one, and one whose A bit is clear. */
    mmu_switch(b->v, ROOT(0), false);
    IS(1, 0);
    put64(b, TABLE(12), TABLE(13) | P | W | U | A);
    put64(b, TABLE(13), TABLE(14) | P | W | U | A);
    put64(b, TABLE(14) + 8, FRAME(8) | P | W | U | A | D);
    table_put(b, ROOT(0), TABLE(12) | P | W | U | A, 8);
    mmu_switch(b->v, ROOT(0), false);
    IS(1, 8);
    put64(b, TABLE(12), TABLE(13) | P | W | U);
    mmu_switch(b->v, ROOT(0), false);
    ABSENT(1);
    assert_int_equal(get64(b, TABLE(12)), TABLE(13) | P | W | U);
    assert_int_equal(fault(b, gva_of(1), true), PERMITTED);
    mmu_flush_page(b->v, gva_of(1));
    mmu_switch(b->v, ROOT(0), false);
    ABSENT(1);
}

/* A table page that has become something else while its address space was away. */
static void test_recycled_table(void **state)
{
    struct bench *b = *state;
    long_mode(b, SHADOW_PROACTIVE, 0);
    fill_spaces(b, 0);
    memset(b->ram + TABLE(2), 0xab, PAGE_SIZE);
    mmu_switch(b->v, ROOT(0), false);
    ABSENT(1);
    mmu_switch(b->v, ROOT(1), false);
    IS(1, 1);
    /* Many pages, in large and small pieces and out of order. */
    for (unsigned page = 0; page < 512; page++)
        leaf_put(b, 1, page, FRAME(page % 32) | P | W | U | A | D);
    put64(b, TABLE(5) + 8, 0x200000 | P | W | U | A | D | PS);
    for (unsigned i = 0; i < 512; i++)
        assert_int_equal(fault(b, gva_of(i * 211 % 512), true), PERMITTED);
    for (unsigned i = 0; i < 512; i += 5)
        assert_int_equal(fault(b, 0x200000 + gva_of(i * 211 % 512), true), PERMITTED);
    for (unsigned page = 0; page < 512; page += 2)
        leaf_put(b, 1, page, page % 4 == 0 ? 0 : FRAME(page % 32 + 1) | P | U | A | D);
    put64(b, TABLE(5) + 8, P | W | U | A | D | PS);
    mmu_switch(b->v, ROOT(2), false);
    mmu_switch(b->v, ROOT(1), false);
    for (unsigned page = 0; page < 512; page++) {
        enum outcome expected = page % 4 == 0 ? MISS : page % 2 == 0 ? READ_ONLY : READ_WRITE;
        assert_true(goes_to(b, TLB_USER, true, gva_of(page), FRAME(page % 32 + !(page % 2)), expected));
    }
    for (unsigned i = 0; i < 512; i += 5)
        assert_true(goes_to(b, TLB_USER, true, 0x200000 + gva_of(i * 211 % 512), gva_of(i * 211 % 512), READ_WRITE));
    assert_true(shadow_counters(b->v)->entries_reread > 512);
}

/* PAE: the PDPTEs lie in the processor; when they have changed, what they lead to now comes back. */
static void test_pdptes(void **state)
{
    struct bench *b = *state;
    bench_protected(b, 0);
    struct vcpu *v = b->v;
    struct error err;
    assert_true(shadow_create(v, SHADOW_PROACTIVE, &err));
    for (unsigned n = 0; n < 2; n++) {
        put64(b, ROOT(n), TABLE(2 * n) | P);
        put64(b, TABLE(2 * n), TABLE(2 * n + 1) | P | W | U);
        put64(b, TABLE(2 * n + 1) + 8, FRAME(n) | P | W | U | A | D);
    }
    v->cr3 = ROOT(0);
    v->cr4 = CR4_PAE;
    v->cr0 |= CR0_PG | CR0_WP;
    assert_true(mmu_load_pdptes(v, v->cr3));
    mmu_flush(v);
    become(b, TLB_USER);
    assert_int_equal(fault(b, 0x1000, true), PERMITTED);
    for (unsigned n = 1; n < 5; n++) {
        mmu_load_pdptes(v, ROOT(n % 2));
        mmu_switch(v, ROOT(n % 2), false);
        assert_true(goes_to(b, TLB_USER, false, 0x1000, FRAME(n % 2), n == 1 ? MISS : READ_WRITE));
        assert_int_equal(fault(b, 0x1000, true), PERMITTED);
    }
    put64(b, ROOT(1), TABLE(0) | P); /* another page directory behind CR3's other value */
    mmu_load_pdptes(v, ROOT(1));
    mmu_switch(v, ROOT(1), false);
    assert_true(goes_to(b, TLB_USER, false, 0x1000, FRAME(0), READ_WRITE));
    put64(b, ROOT(1), TABLE(2) | P); /* and behind the present one */
    mmu_load_pdptes(v, ROOT(1));
    mmu_switch(v, ROOT(1), false);
    assert_true(goes_to(b, TLB_USER, false, 0x1000, FRAME(1), READ_WRITE));
    put64(b, ROOT(1), 0);
    mmu_load_pdptes(v, ROOT(1));
    mmu_switch(v, ROOT(1), false);
    assert_true(goes_to(b, TLB_USER, false, 0x1000, 0, MISS));
}

static void test_names(void **state)
{
    enum shadow_policy policy;
    for (unsigned i = 0; i < SHADOW_POLICY_COUNT; i++) {
        assert_true(shadow_policy_find(shadow_policy_name(i), &policy));
        assert_int_equal(policy, i);
    }
    assert_false(shadow_policy_find("eager", &policy));
}

/* ---- random changes against the rules ----
 *
 * Three address spaces; each has two tables of its own, for PAGES pages each, and one that all share. */

enum format { FORMAT_32, FORMAT_PAE, FORMAT_4LEVEL, FORMAT_4LEVEL_PCID, FORMATS };
#define RSPACES 3u
#define AREAS 3u
#define AREA_PAGES 8u
#define RPAGES (AREAS * AREA_PAGES)
#define STATES_MAX 64u

/* What the tables say about a page. */
struct view {
    bool present, writable, user, global, dirty;
    uint64_t gpa;
};

struct history {
    unsigned count;
    struct view states[STATES_MAX];
};

struct random_test {
    struct bench *b;
    enum format format;
    enum shadow_policy policy;
    uint64_t seed;
    unsigned current;
    struct history own[RSPACES][RPAGES]; /* since the last invalidation of this page in this address space */
    struct history global[RPAGES];       /* of global ones, by any address space */
    unsigned permitted, faulted, denied, kept;
};

static uint64_t dice(struct random_test *t, uint64_t sides)
{
    t->seed = t->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (t->seed >> 33) % sides;
}

static bool is_long(const struct random_test *t)
{
    return t->format >= FORMAT_4LEVEL;
}

static gva_t area_gva(const struct random_test *t, unsigned area)
{
    if (area == 2)
        return is_long(t) ? 0xffff800000000000 : 0xc0000000;
    return area == 0 ? 0x400000 : 0x800000;
}

static gva_t page_gva_of(const struct random_test *t, unsigned page)
{
    return area_gva(t, page / AREA_PAGES) + page % AREA_PAGES * 0x1000;
}

static unsigned entry_size(const struct random_test *t)
{
    return t->format == FORMAT_32 ? 4 : 8;
}

static gpa_t leaf_table(unsigned space, unsigned area)
{
    return area == 2 ? TABLE(30) : TABLE(2 * space + area);
}

/* Where the entry that points to a leaf table, or maps a large page, is. */
static gpa_t directory_entry(const struct random_test *t, unsigned space, unsigned area)
{
    gva_t gva = area_gva(t, area);
    if (t->format == FORMAT_32)
        return ROOT(space) + (gva >> 22) * 4;
    gpa_t directory = area == 2 ? TABLE(31) : TABLE(10 + space);
    return directory + (gva >> 21 & 0x1ff) * 8;
}

static void build(struct random_test *t)
{
    struct bench *b = t->b;
    memset(b->ram + ROOT(0), 0, TABLE(64) - ROOT(0));
    for (unsigned n = 0; n < RSPACES; n++) {
        if (t->format == FORMAT_PAE) {
            put64(b, ROOT(n), TABLE(10 + n) | P);
            put64(b, ROOT(n) + 24, TABLE(31) | P);
        } else if (is_long(t)) {
            put64(b, ROOT(n), TABLE(20 + n) | P | W | U);
            put64(b, ROOT(n) + 8 * 256, TABLE(32) | P | W | U);
            put64(b, TABLE(20 + n), TABLE(10 + n) | P | W | U);
            put64(b, TABLE(32), TABLE(31) | P | W | U);
        }
        for (unsigned area = 0; area < AREAS; area++)
            table_put(b, directory_entry(t, n, area), leaf_table(n, area) | P | W | U, entry_size(t));
    }
}

static uint64_t entry_at(struct random_test *t, gpa_t at)
{
    return entry_size(t) == 4 ? get32(t->b, at) : get64(t->b, at);
}

static struct view view_of(struct random_test *t, unsigned space, unsigned page)
{
    unsigned area = page / AREA_PAGES;
    uint64_t above = entry_at(t, directory_entry(t, space, area)), leaf = above;
    gva_t gva = page_gva_of(t, page);
    uint64_t mask = t->format == FORMAT_32 ? 0x3fffff : 0x1fffff;
    if (!(above & P))
        return (struct view){.present = false};
    if (!(above & PS)) {
        leaf = entry_at(t, leaf_table(space, area) + page % AREA_PAGES * entry_size(t));
        mask = 0xfff;
    }
    return (struct view){.present = leaf & P,
                         .writable = above & leaf & W,
                         .user = above & leaf & U,
                         .global = leaf & G,
                         .dirty = leaf & D,
                         .gpa = ((leaf & 0xfffff000 & ~mask) | (gva & mask)) & ~0xfffull};
}

static void remember(struct history *history, const struct view *view)
{
    for (unsigned i = 0; i < history->count; i++)
        if (memcmp(&history->states[i], view, sizeof *view) == 0)
            return;
    assert_true(history->count < STATES_MAX);
    history->states[history->count++] = *view;
}

/* After every step. */
static void remember_all(struct random_test *t)
{
    for (unsigned page = 0; page < RPAGES; page++)
        for (unsigned space = 0; space < RSPACES; space++) {
            struct view view;
            memset(&view, 0, sizeof view);
            view = view_of(t, space, page);
            remember(&t->own[space][page], &view);
            if (view.present && view.global)
                remember(&t->global[page], &view);
        }
}

static bool explains(const struct history *history, gpa_t gpa, enum tlb_kind kind, bool write, bool smap)
{
    for (unsigned i = 0; i < history->count; i++) {
        const struct view *view = &history->states[i];
        bool visible = kind == TLB_USER ? view->user : kind == TLB_KERNEL ? !(view->user && smap) : true;
        if (view->present && view->gpa == gpa && visible && (!write || (view->writable && view->dirty)))
            return true;
    }
    return false;
}

static void verify(struct random_test *t)
{
    struct bench *b = t->b;
    for (unsigned page = 0; page < RPAGES; page++) {
        gva_t gva = page_gva_of(t, page);
        for (unsigned kind = 0; kind < TLB_NONE; kind++) {
            gpa_t gpa = 0;
            enum outcome outcome = look(b, kind, is_long(t), gva, &gpa);
            struct shadow_translation found;
            assert_int_equal(shadow_lookup(b->v, kind, gva + 5, false, &found), outcome != MISS);
            assert_int_equal(shadow_lookup(b->v, kind, gva + 5, true, &found), outcome == READ_WRITE);
            if (outcome == MISS)
                continue;
            assert_true(shadow_lookup(b->v, kind, gva + 5, false, &found));
            assert_true(found.gpa == gpa + 5 && found.page.hva == b->ram + gpa &&
                        found.writable == (outcome == READ_WRITE) && found.size >= PAGE_SIZE);
            bool write = outcome == READ_WRITE, smap = b->v->cr4 & CR4_SMAP;
            if (!explains(&t->own[t->current][page], gpa, kind, write, smap) &&
                !explains(&t->global[page], gpa, kind, write, smap))
                fail_msg("format %d policy %d: page %u kind %u leads to %#llx, write %d", t->format, t->policy, page,
                         kind, (unsigned long long)gpa, write);
            assert_false(write && (*memory_page(b->memory, gpa).flags & PAGE_WATCHED));
        }
        uint64_t identity = shadow_fetch_slots(b->v)[gva >> 12 & (SHADOW_FETCH_SLOTS - 1)];
        if (identity != 0) {
            assert_int_equal(identity >> 40, page + 1);
            gpa_t gpa = identity & 0xffffffffff;
            assert_true(explains(&t->own[t->current][page], gpa, TLB_KERNEL_AC, false, false) ||
                        explains(&t->global[page], gpa, TLB_KERNEL_AC, false, false));
        }
    }
}

static uint64_t random_bits(struct random_test *t)
{
    return (dice(t, 8) ? P : 0) | (dice(t, 3) ? W : 0) | (dice(t, 3) ? U : 0) | (dice(t, 2) ? A : 0) |
           (dice(t, 2) ? D : 0) | (dice(t, 4) ? 0 : G);
}

static void edit(struct random_test *t)
{
    unsigned space = dice(t, 4) ? t->current : (unsigned)dice(t, RSPACES), page = (unsigned)dice(t, RPAGES);
    unsigned area = page / AREA_PAGES;
    if (dice(t, 10) == 0) {
        uint64_t entry = leaf_table(space, area) | (random_bits(t) & ~G);
        if (dice(t, 4) == 0)
            entry = PS | random_bits(t) | (t->format == FORMAT_32 ? 0 : dice(t, 2) << 21);
        table_put(t->b, directory_entry(t, space, area), entry, entry_size(t));
        return;
    }
    for (unsigned n = dice(t, 12) ? 1 : AREA_PAGES; n > 0; n--) {
        unsigned slot = (page % AREA_PAGES + n) % AREA_PAGES;
        uint64_t entry = FRAME(dice(t, 16)) | random_bits(t);
        table_put(t->b, leaf_table(space, area) + slot * entry_size(t), entry, entry_size(t));
    }
}

static void renew_page(struct random_test *t, unsigned space, unsigned page)
{
    t->own[space][page].count = 0;
}

static void renew_space(struct random_test *t, unsigned space)
{
    for (unsigned page = 0; page < RPAGES; page++)
        renew_page(t, space, page);
}

static void switch_space(struct random_test *t)
{
    struct vcpu *v = t->b->v;
    unsigned to = (unsigned)dice(t, RSPACES);
    bool pcid = t->format == FORMAT_4LEVEL_PCID, keep = pcid && dice(t, 3);
    if (t->format == FORMAT_PAE)
        assert_true(mmu_load_pdptes(v, ROOT(to)));
    mmu_switch(v, ROOT(to) | (pcid ? to + 1 : 0), keep);
    if (!keep)
        renew_space(t, to);
    t->current = to;
}

static void invalidate(struct random_test *t)
{
    struct vcpu *v = t->b->v;
    unsigned page = (unsigned)dice(t, RPAGES), space = (unsigned)dice(t, RSPACES);
    switch (dice(t, t->format == FORMAT_4LEVEL_PCID ? 12 : 7)) {
    default: /* INVLPG */
        mmu_flush_page(v, page_gva_of(t, page));
        renew_page(t, t->current, page);
        t->global[page].count = 0;
        break;
    case 5: /* CR4.PGE */
        mmu_flush(v);
        for (unsigned n = 0; n < RSPACES; n++)
            renew_space(t, n);
        for (unsigned n = 0; n < RPAGES; n++)
            t->global[n].count = 0;
        break;
    case 6:
        mmu_flush_non_global(v);
        for (unsigned n = 0; n < RSPACES; n++)
            renew_space(t, n);
        break;
    case 7:
    case 8: /* INVPCID 0 */
        mmu_flush_pcid(v, space + 1, page_gva_of(t, page), true);
        renew_page(t, space, page);
        break;
    case 9: /* INVPCID 1 */
        mmu_flush_pcid(v, space + 1, 0, false);
        renew_space(t, space);
        break;
    }
}

static void access_random(struct random_test *t)
{
    struct bench *b = t->b;
    unsigned page = (unsigned)dice(t, RPAGES);
    enum tlb_kind kind = (enum tlb_kind)dice(t, TLB_NONE);
    if (kind == TLB_KERNEL && !(b->v->cr4 & CR4_SMAP))
        kind = TLB_KERNEL_AC;
    become(b, kind);
    gva_t gva = page_gva_of(t, page);
    bool write = dice(t, 2);
    gpa_t gpa = 0;
    enum outcome before = look(b, kind, is_long(t), gva, &gpa);
    if (before == READ_WRITE || (before == READ_ONLY && !write)) {
        t->kept++;
        return;
    }
    struct view view = view_of(t, t->current, page);
    bool visible = view.present && (kind == TLB_USER ? view.user : !(kind == TLB_KERNEL && view.user));
    enum result result = fault(b, gva, write);
    t->permitted += result == PERMITTED;
    t->faulted += result == FAULTED;
    t->denied += result == DENIED;
    assert_int_equal(result == FAULTED, !visible || (write && !view.writable));
    if (result == PERMITTED)
        assert_true(goes_to(b, kind, is_long(t), gva, view.gpa, look(b, kind, is_long(t), gva, &gpa)));
    else if (result == DENIED)
        assert_true(write && (*memory_page(b->memory, view.gpa).flags & PAGE_WATCHED));
    if (result == PERMITTED && dice(t, 4) == 0) {
        struct walk walk;
        uint32_t error;
        assert_true(walk_page_tables(b->v, gva, 0, true, &walk, &error));
        shadow_fetch_set(b->v, gva, (uint64_t)(page + 1) << 40 | (walk.gpa & ~0xfffull), &walk);
    }
}

static void watch_random(struct random_test *t)
{
    struct bench *b = t->b;
    gpa_t gpa = FRAME(dice(t, 16));
    if (dice(t, 2)) {
        memory_watch(b->memory, gpa >> 12, PAGE_CODE);
        mmu_stop_plain_writes(b->v, gpa);
    } else {
        memory_unwatch(b->memory, gpa >> 12, PAGE_CODE);
    }
}

static void run_random(struct random_test *t, unsigned steps)
{
    for (unsigned step = 0; step < steps; step++) {
        switch (dice(t, 16)) {
        case 0:
        case 1:
        case 2: edit(t); break;
        case 3: switch_space(t); break;
        case 4:
        case 5: invalidate(t); break;
        case 6: watch_random(t); break;
        default: access_random(t); break;
        }
        if (step % 64 == 63) { /* histories are bounded */
            mmu_flush(t->b->v);
            for (unsigned n = 0; n < RSPACES; n++)
                renew_space(t, n);
            memset(t->global, 0, sizeof t->global);
        }
        remember_all(t);
        if (step % 8 == 7 || step % 64 >= 60) /* each look is a system call */
            verify(t);
    }
}

static void test_random(void **state)
{
    struct bench *b = *state;
    struct vcpu *v = b->v;
    struct random_test *t = test_calloc(1, sizeof *t);
    for (unsigned round = 0; round < FORMATS * SHADOW_POLICY_COUNT * 2; round++) {
        memset(t, 0, sizeof *t);
        t->b = b;
        t->format = round % FORMATS;
        t->policy = round / FORMATS % SHADOW_POLICY_COUNT;
        t->seed = 12345 + round;
        bool smap = round >= FORMATS * SHADOW_POLICY_COUNT;
        if (is_long(t))
            bench_long(b, 0);
        else
            bench_protected(b, 0);
        build(t);
        v->cr3 = ROOT(0) | (t->format == FORMAT_4LEVEL_PCID ? 1 : 0);
        v->cr4 = (t->format == FORMAT_32 ? CR4_PSE : CR4_PAE) | CR4_PGE | (smap ? CR4_SMAP : 0) |
                 (t->format == FORMAT_4LEVEL_PCID ? CR4_PCIDE : 0);
        v->cr0 |= CR0_PG | CR0_WP;
        assert_true(t->format != FORMAT_PAE || mmu_load_pdptes(v, v->cr3));
        struct error err;
        assert_true(shadow_create(v, t->policy, &err));
        mmu_flush(v);
        vcpu_mode_changed(v);
        remember_all(t);
        run_random(t, 2500);
        assert_true(t->permitted > 200 && t->faulted > 200 && t->kept > 100);
        shadow_destroy(v);
        for (unsigned n = 0; n < 16; n++)
            memory_unwatch(b->memory, FRAME(n) >> 12, PAGE_CODE);
    }
    test_free(t);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(names),          TEST(poison),      TEST(narrow),         TEST(permissions), TEST(other_backing),
        TEST(watch),          TEST(ondemand),    TEST(tagged),         TEST(global_changes), TEST(many_spaces),
        TEST(large_pages),    TEST(large_page_4m), TEST(eviction),     TEST(touch),
        TEST(neighbours),  TEST(fetch_slots),
        TEST(proactive),      TEST(recycled_table), TEST(pdptes),      TEST(random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
