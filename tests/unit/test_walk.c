/* The walk of guest page tables, in every format, against rules written down a second time.
 *
 * For each format one linear address is mapped through tables that the test builds. All combinations of the entries' W, U
 * and NX bits, of CR0.WP, CR4.SMEP, CR4.SMAP, RFLAGS.AC and of the kinds of access are tried: whether the access is
 * permitted, the error code, and which accessed and dirty bits change must be as SDM vol. 3, 4.6 to 4.8 says.
 */
#include "cpu_test.h"

#include "mmu/ranges.h"
#include "mmu/walk.h"

#include <stdlib.h>

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define NX (1ull << 63)

#define TABLES 0x100000u /* one page a level, the top one first */
#define TARGET 0x200000u /* where the 4-KiB formats map to; larger pages map 4 MiB or 1 GiB at 0 */

enum format { FORMAT_32, FORMAT_PSE, FORMAT_PAE, FORMAT_PAE_2M, FORMAT_4LEVEL, FORMAT_4LEVEL_2M, FORMAT_4LEVEL_1G, FORMATS };

static const struct {
    const char *name;
    unsigned levels;     /* entries that have W, U, A: all but the PDPTEs of PAE */
    unsigned entry_size;
    uint64_t page_size;
    gva_t gva;
} formats[FORMATS] = {
    [FORMAT_32] = {"32-bit", 2, 4, 4 * KiB, 0x00c03123},
    [FORMAT_PSE] = {"PSE", 1, 4, 4 * MiB, 0x00c03123},
    [FORMAT_PAE] = {"PAE", 2, 8, 4 * KiB, 0x40603123},
    [FORMAT_PAE_2M] = {"PAE 2M", 1, 8, 2 * MiB, 0x40603123},
    [FORMAT_4LEVEL] = {"4-level", 4, 8, 4 * KiB, 0xffffc08040603123},
    [FORMAT_4LEVEL_2M] = {"4-level 2M", 3, 8, 2 * MiB, 0x0000408040603123},
    [FORMAT_4LEVEL_1G] = {"4-level 1G", 2, 8, GiB, 0x0000408040003123},
};

struct setting {
    enum format format;
    uint64_t flags[4]; /* W, U, NX by level, the top one first */
    bool wp, smep, smap, ac, nxe;
    unsigned access;   /* ACCESS_* */
};

/* The address of the entry at `level` that maps the format's gva. */
static uint32_t entry_at(enum format format, unsigned level)
{
    gva_t gva = formats[format].gva;
    unsigned index;
    switch (format) {
    case FORMAT_32:
    case FORMAT_PSE: index = (unsigned)(gva >> (22 - 10 * level) & 0x3ff); break;
    case FORMAT_PAE:
    case FORMAT_PAE_2M: index = (unsigned)(gva >> (21 - 9 * level) & 0x1ff); break;
    default: index = (unsigned)(gva >> (39 - 9 * level) & 0x1ff); break;
    }
    return TABLES + level * PAGE_SIZE + index * formats[format].entry_size;
}

static uint64_t entry_get(struct bench *b, enum format format, unsigned level)
{
    uint32_t at = entry_at(format, level);
    return formats[format].entry_size == 8 ? get64(b, at) : get32(b, at);
}

static void entry_put(struct bench *b, enum format format, unsigned level, uint64_t value)
{
    uint32_t at = entry_at(format, level);
    if (formats[format].entry_size == 8)
        put64(b, at, value);
    else
        put32(b, at, (uint32_t)value);
}

static uint64_t leaf_base(enum format format)
{
    return formats[format].page_size == 4 * KiB ? TARGET : 0;
}

static void build(struct bench *b, const struct setting *s)
{
    struct vcpu *v = b->v;
    unsigned levels = formats[s->format].levels;
    for (unsigned level = 0; level < levels; level++) {
        bool leaf = level + 1 == levels;
        uint64_t to = leaf ? leaf_base(s->format) : TABLES + (level + 1) * PAGE_SIZE;
        bool large = leaf && formats[s->format].page_size > 4 * KiB;
        entry_put(b, s->format, level, to | s->flags[level] | P | (large ? PS : 0));
    }
    bool pae = s->format == FORMAT_PAE || s->format == FORMAT_PAE_2M, four = s->format >= FORMAT_4LEVEL;
    v->cr0 = CR0_PE | CR0_PG | (s->wp ? CR0_WP : 0);
    v->cr4 = (pae || four ? CR4_PAE : CR4_PSE) | (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0);
    v->efer = (s->nxe ? EFER_NXE : 0) | (four ? EFER_LME | EFER_LMA : 0);
    v->rflags_rest = FLAG_FIXED | (s->ac ? FLAG_AC : 0);
    v->cr3 = TABLES;
    v->pdpte[1] = TABLES | P; /* of the PAE addresses above */
}

/* The rules of SDM 4.6.1, one sentence each. */
static bool allowed(const struct setting *s)
{
    bool user_page = true, writable = true, no_execute = false;
    for (unsigned level = 0; level < formats[s->format].levels; level++) {
        user_page = user_page && (s->flags[level] & U);
        writable = writable && (s->flags[level] & W);
        no_execute = no_execute || (s->flags[level] & NX);
    }
    bool write = s->access & ACCESS_WRITE, fetch = s->access & ACCESS_FETCH;
    if (fetch && no_execute && s->nxe)
        return false;
    if (s->access & ACCESS_USER) { /* user-mode accesses: only to user pages, writes only if all entries say so */
        if (!user_page)
            return false;
        return write ? writable : true;
    }
    if (user_page) { /* supervisor-mode accesses to user pages */
        if (fetch)
            return !s->smep;
        bool explicit_with_ac = s->ac && !(s->access & ACCESS_IMPLICIT);
        if (s->smap && !explicit_with_ac)
            return false;
    }
    return write && s->wp ? writable : true;
}

static uint32_t expected_error(const struct setting *s)
{
    uint32_t error = PF_P;
    error |= s->access & ACCESS_WRITE ? PF_W : 0;
    error |= s->access & ACCESS_USER ? PF_U : 0;
    bool pae = s->format >= FORMAT_PAE;
    if ((s->access & ACCESS_FETCH) && ((pae && s->nxe) || s->smep))
        error |= PF_I;
    return error;
}

static void try_one(struct bench *b, const struct setting *s)
{
    build(b, s);
    unsigned levels = formats[s->format].levels;
    gva_t gva = formats[s->format].gva;
    struct walk walk;
    uint32_t error = 0;
    bool ok = walk_page_tables(b->v, gva, s->access, false, &walk, &error);
    if (ok != allowed(s) || (!ok && error != expected_error(s)))
        fail_msg("%s: flags %llx %llx %llx %llx wp %d smep %d smap %d ac %d nxe %d access %x: %s, error %x, not %x",
                 formats[s->format].name, (unsigned long long)s->flags[0], (unsigned long long)s->flags[1],
                 (unsigned long long)s->flags[2], (unsigned long long)s->flags[3], s->wp, s->smep, s->smap, s->ac, s->nxe,
                 s->access, ok ? "permitted" : "refused", error, expected_error(s));
    for (unsigned level = 0; level < levels; level++) {
        uint64_t leaf_bits = level + 1 == levels && (s->access & ACCESS_WRITE) ? A | D : A;
        assert_int_equal(entry_get(b, s->format, level) & (A | D), ok ? leaf_bits : 0);
    }
    if (ok) {
        assert_int_equal(walk.gpa, leaf_base(s->format) + (gva & (formats[s->format].page_size - 1)));
        assert_int_equal(walk.size, formats[s->format].page_size);
    }
}

static void every_access(struct bench *b, struct setting *s)
{
    static const unsigned accesses[] = {0, ACCESS_WRITE, ACCESS_FETCH, ACCESS_USER, ACCESS_USER | ACCESS_WRITE,
                                        ACCESS_USER | ACCESS_FETCH, ACCESS_IMPLICIT, ACCESS_IMPLICIT | ACCESS_WRITE};
    for (unsigned control = 0; control < 32; control++) {
        s->wp = control & 1;
        s->smep = control & 2;
        s->smap = control & 4;
        s->ac = control & 8;
        s->nxe = control & 16;
        bool reserved = false; /* NX without EFER.NXE is a reserved bit: another test */
        for (unsigned level = 0; level < 4; level++)
            reserved |= (s->flags[level] & NX) && !s->nxe;
        for (unsigned i = 0; !reserved && i < ARRAY_LEN(accesses); i++) {
            s->access = accesses[i];
            try_one(b, s);
        }
    }
}

static void test_permissions(void **state)
{
    struct bench *b = *state;
    for (unsigned format = 0; format < FORMATS; format++) {
        unsigned levels = formats[format].levels, bits = formats[format].entry_size == 8 ? 3 : 2;
        for (unsigned combination = 0; combination < 1u << (bits * levels); combination++) {
            struct setting s = {.format = format};
            for (unsigned level = 0; level < levels; level++) {
                unsigned flags = combination >> (bits * level);
                s.flags[level] = (flags & 1 ? W : 0) | (flags & 2 ? U : 0) | (bits == 3 && (flags & 4) ? NX : 0);
            }
            every_access(b, &s);
        }
    }
}

static void test_not_present(void **state)
{
    struct bench *b = *state;
    for (unsigned format = 0; format < FORMATS; format++) {
        for (unsigned missing = 0; missing < formats[format].levels; missing++) {
            struct setting s = {.format = format, .flags = {W | U, W | U, W | U, W | U}, .nxe = true};
            build(b, &s);
            entry_put(b, format, missing, entry_get(b, format, missing) & ~P);
            struct walk walk;
            uint32_t error;
            assert_false(walk_page_tables(b->v, formats[format].gva, ACCESS_USER | ACCESS_WRITE, false, &walk, &error));
            assert_int_equal(error, PF_W | PF_U);
            for (unsigned level = 0; level < formats[format].levels; level++)
                assert_int_equal(entry_get(b, format, level) & (A | D), 0);
        }
    }
}

/* Bits that must be zero, by format and level; 40 physical address bits, no NX unless EFER.NXE. */
static void test_reserved(void **state)
{
    struct bench *b = *state;
    static const struct {
        enum format format;
        unsigned level;
        uint64_t bit;
        bool nxe, reserved;
    } cases[] = {
        {FORMAT_PSE, 0, 1ull << 21, false, true},
        {FORMAT_PSE, 0, 1ull << 12, false, false}, /* PAT */
        {FORMAT_PAE, 0, NX, false, true},
        {FORMAT_PAE, 0, NX, true, false},
        {FORMAT_PAE, 1, 1ull << 40, true, true},
        {FORMAT_PAE, 1, 1ull << 52, true, true},
        {FORMAT_PAE_2M, 0, 1ull << 13, true, true},
        {FORMAT_PAE_2M, 0, 1ull << 20, true, true},
        {FORMAT_PAE_2M, 0, 1ull << 12, true, false},
        {FORMAT_4LEVEL, 0, PS, true, true},
        {FORMAT_4LEVEL, 0, 1ull << 51, true, true},
        {FORMAT_4LEVEL, 1, 1ull << 40, true, true},
        {FORMAT_4LEVEL, 3, 1ull << 52, true, false}, /* ignored */
        {FORMAT_4LEVEL, 3, NX, false, true},
        {FORMAT_4LEVEL_2M, 2, 1ull << 13, true, true},
        {FORMAT_4LEVEL_1G, 1, 1ull << 29, true, true},
        {FORMAT_4LEVEL_1G, 1, 1ull << 12, true, false},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        enum format format = cases[i].format;
        struct setting s = {.format = format, .flags = {W | U, W | U, W | U, W | U}, .nxe = cases[i].nxe};
        build(b, &s);
        entry_put(b, format, cases[i].level, entry_get(b, format, cases[i].level) | cases[i].bit);
        struct walk walk;
        uint32_t error = 0;
        bool ok = walk_page_tables(b->v, formats[format].gva, 0, false, &walk, &error);
        assert_int_equal(ok, !cases[i].reserved);
        if (!ok)
            assert_int_equal(error, PF_P | PF_RSVD);
    }
}

/* PSE-36: bits 20:13 of a 4-MiB entry are bits 39:32 of the address. */
static void test_pse36(void **state)
{
    struct bench *b = *state;
    struct setting s = {.format = FORMAT_PSE, .flags = {W}};
    build(b, &s);
    entry_put(b, FORMAT_PSE, 0, 0x00800000 | 0xa5 << 13 | PS | W | P);
    struct walk walk;
    uint32_t error;
    assert_true(walk_page_tables(b->v, formats[FORMAT_PSE].gva, 0, false, &walk, &error));
    assert_int_equal(walk.gpa, 0xa500800000 + (formats[FORMAT_PSE].gva & (4 * MiB - 1)));
}

static void test_pdptes(void **state)
{
    struct bench *b = *state;
    for (unsigned i = 0; i < 4; i++)
        put64(b, TABLES + 0x20 + i * 8, (TABLES + i * PAGE_SIZE) | (i & 1));
    assert_true(mmu_load_pdptes(b->v, TABLES + 0x20));
    assert_int_equal(b->v->pdpte[3], TABLES + 3 * PAGE_SIZE + 1);
    static const uint64_t reserved[] = {W, U, A, D, PS, 0x100, 1ull << 40, NX};
    for (unsigned i = 0; i < ARRAY_LEN(reserved); i++) {
        put64(b, TABLES + 0x28, TABLES | P | reserved[i]);
        assert_false(mmu_load_pdptes(b->v, TABLES + 0x20));
        put64(b, TABLES + 0x28, TABLES | reserved[i]); /* not present: nothing is looked at */
        assert_true(mmu_load_pdptes(b->v, TABLES + 0x20));
    }
}

/* Without paging, and with A20 masked. */
static void test_no_paging(void **state)
{
    struct bench *b = *state;
    struct walk walk;
    uint32_t error;
    b->v->cr0 = CR0_PE;
    assert_true(walk_page_tables(b->v, 0x123456, ACCESS_WRITE, false, &walk, &error));
    assert_int_equal(walk.gpa, 0x123456);
    b->v->a20_mask = ~(1ull << 20);
    assert_true(walk_page_tables(b->v, 0x123456, ACCESS_WRITE, false, &walk, &error));
    assert_int_equal(walk.gpa, 0x023456);
}

/* A debugger's look changes nothing and minds no permission. */
static void test_peek(void **state)
{
    struct bench *b = *state;
    struct setting s = {.format = FORMAT_4LEVEL, .nxe = true};
    build(b, &s);
    gpa_t gpa;
    assert_true(mmu_peek(b->v, formats[FORMAT_4LEVEL].gva, &gpa));
    assert_int_equal(gpa, TARGET + 0x123);
    for (unsigned level = 0; level < 4; level++)
        assert_int_equal(entry_get(b, FORMAT_4LEVEL, level) & (A | D), 0);
    assert_false(mmu_peek(b->v, 0x0000800000000000, &gpa));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)

/* The list of what is mapped has the page with the rights that the walk finds, in every format, and each page once. */
static void test_ranges(void **state)
{
    struct bench *b = *state;
    struct ranges *ranges = malloc(sizeof *ranges);
    for (enum format format = 0; format < FORMATS; format++) {
        for (unsigned rights = 0; rights < 8; rights++) {
            uint64_t flags = (rights & 1 ? W : 0) | (rights & 2 ? U : 0) | (rights & 4 && format >= FORMAT_PAE ? NX : 0);
            struct setting s = {.format = format, .flags = {W | U, W | U, W | U, W | U}, .nxe = true};
            s.flags[formats[format].levels - 1] = flags;
            memset(b->ram + TABLES, 0, 4 * PAGE_SIZE);
            build(b, &s);
            memset(b->v->pdpte, 0, sizeof b->v->pdpte);
            b->v->pdpte[1] = TABLES | P;
            struct walk walk;
            uint32_t error;
            gva_t page = formats[format].gva & ~(formats[format].page_size - 1);
            assert_true(walk_page_tables(b->v, page, 0, true, &walk, &error));
            ranges_read(b->v, ranges_shadow_has, ranges);
            assert_int_equal(ranges->count, 1);
            assert_false(ranges->truncated);
            const struct range *r = &ranges->list[0];
            assert_int_equal(r->gva, page);
            assert_int_equal(r->size, formats[format].page_size);
            assert_int_equal(r->gpa, walk.gpa);
            assert_int_equal(r->user, walk.user);
            assert_int_equal(r->nx, walk.nx);
            assert_int_equal(r->writable, (rights & 1) != 0);
        }
    }
    free(ranges);
}

/* Tables that contain themselves map 2^48 bytes in a page: the list ends in time and says so. */
static void test_ranges_bounded(void **state)
{
    struct bench *b = *state;
    struct ranges *ranges = malloc(sizeof *ranges);
    struct setting s = {.format = FORMAT_4LEVEL, .flags = {W, W, W, W}};
    build(b, &s);
    for (unsigned i = 0; i < 512; i++)
        put64(b, TABLES + 8 * i, TABLES | P | (i & 1 ? W : 0));
    ranges_read(b->v, ranges_shadow_has, ranges);
    assert_true(ranges->truncated);
    assert_true(ranges->count > 0 && ranges->count <= RANGES_MAX);
    b->v->cr0 &= ~CR0_PG;
    ranges_read(b->v, ranges_shadow_has, ranges);
    assert_int_equal(ranges->count, 0);
    assert_string_equal(ranges->paging, "none");
    free(ranges);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_permissions), CASE(test_not_present), CASE(test_reserved),   CASE(test_pse36),
        CASE(test_pdptes),      CASE(test_no_paging),   CASE(test_peek),
        CASE(test_ranges),      CASE(test_ranges_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
