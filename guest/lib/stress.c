/* Numbers, page tables and code for the stress program.
 *
 * Code lies in slots of 256 bytes. Slots at the same offset in different pages begin and end alike, and what stores into
 * code may change -- immediate operands -- lies at the same offsets, so that pages of code can be exchanged for
 * each other and written to at any time, and all that is run still ends. The sequence that crosses a page's end consists
 * of instructions of five bytes at fixed places for the same reason.
 *
 * Flags that the manual calls undefined are followed by a comparison before anything could see them. */
#include "stress.h"

uint64_t sum = 0xcbf29ce484222325ull;
uint8_t *block;
static uint64_t random_state = 1;

/* ---- numbers ---- */

void random_seed(uint64_t seed)
{
    random_state = seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
}

uint64_t random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1dull;
}

unsigned below(unsigned n)
{
    return (unsigned)((random64() >> 32) * n >> 32);
}

bool one_in(unsigned n)
{
    return below(n) == 0;
}

uint64_t argument(const char *name, uint64_t otherwise)
{
    const char *at = strstr(guest_arguments, name);
    if (at == NULL)
        return otherwise;
    uint64_t value = 0;
    for (at += strlen(name); *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

void sum_add(uint64_t value)
{
    sum = (sum ^ value) * 0x9e3779b97f4a7c15ull;
    sum ^= sum >> 29;
}

void sum_bytes(const void *bytes, size_t size)
{
    const word *p = bytes;
    word s = 0;
    for (size_t i = 0; i < size / sizeof(word); i++)
        s = (s << 7 | s >> (WORD_SIZE * 8 - 7)) + p[i];
    sum_add(s);
}

void sum_trap(const struct trap *t, word flags)
{
    const word *registers = &t->regs.ax;
    for (unsigned i = 0; i < REGS_IP / WORD_SIZE; i++)
        sum_add(registers[i]);
    sum_add(t->regs.ip);
    sum_add(t->regs.flags & flags);
    sum_add(t->regs.cs << 16 | (t->regs.ss & 0xffff));
    sum_add((uint64_t)t->vector << 32 | (t->has_error ? t->error : 0));
    if (t->vector == PF)
        sum_add(t->cr2);
    if (t->vector == DB)
        sum_add(t->dr6);
}

/* ---- tables ---- */

static bool pae = true;

static unsigned levels(void)
{
    return IS64 ? 4 : pae ? 3 : 2;
}

static uint64_t *entry8(word gva, unsigned level)
{
    uint64_t *table = (uint64_t *)(cr3_get() & (IS64 ? ~0xffful : ~31ul));
    for (unsigned l = levels();; l--) {
        unsigned bits = 12 + 9 * (l - 1);
        uint64_t *entry = &table[(uint64_t)gva >> bits & (l == 3 && !IS64 ? 3 : 511)];
        if (l == level)
            return entry;
        if (!(*entry & PTE_P))
            *entry = (word)page_alloc(1) | PTE_P | (l == 3 && !IS64 ? 0 : PTE_W | PTE_U);
        table = (uint64_t *)(word)(*entry & 0xffffffffff000ull);
    }
}

static uint32_t *entry4(word gva, unsigned level)
{
    uint32_t *directory = (uint32_t *)(cr3_get() & ~0xffful);
    uint32_t *entry = &directory[gva >> 22];
    if (level == 2)
        return entry;
    if (!(*entry & PTE_P))
        *entry = (word)page_alloc(1) | PTE_P | PTE_W | PTE_U;
    return (uint32_t *)(word)(*entry & ~0xfffu) + (gva >> 12 & 1023);
}

static uint64_t level_get(word gva, unsigned level)
{
    return IS64 || pae ? *entry8(gva, level) : *entry4(gva, level);
}

static void level_set(word gva, unsigned level, uint64_t entry)
{
    if (IS64 || pae)
        *entry8(gva, level) = entry;
    else
        *entry4(gva, level) = (uint32_t)entry;
}

uint64_t entry_get(word gva)
{
    return level_get(gva, 1);
}

void entry_set(word gva, uint64_t entry)
{
    level_set(gva, 1, entry);
}

void large_set(word gva, uint64_t entry)
{
    level_set(gva, 2, (word)block | PTE_PS | entry);
}

uint64_t large_get(word gva)
{
    return level_get(gva, 2);
}

bool tables_have_nx(void)
{
    return (IS64 || pae) && (cpuid(0x80000001, 0).edx >> 20 & 1);
}

bool tables_have_huge(void)
{
    return IS64 && (cpuid(0x80000001, 0).edx >> 26 & 1);
}

void mapping_reset(unsigned view, unsigned page)
{
    uint64_t bits = PTE_P | (view == VIEW_READ ? 0 : PTE_W) | (view == VIEW_KERNEL ? 0 : PTE_U);
    entry_set(view_gva(view, page), ((word)block + page * PAGE) | bits);
}

void mapping_flush(word gva)
{
    switch (below(IS64 ? 4 : 3)) {
    case 0:
    case 1:
        invlpg(gva);
        break;
    case 2: /* all, global ones too */
        if (cr4_get() & CR4_PGE) {
            cr4_set(cr4_get() & ~CR4_PGE);
            cr4_set(cr4_get() | CR4_PGE);
        } else {
            cr3_set(cr3_get());
        }
        break;
    default:
        if (entry_get(gva) & PTE_G)
            invlpg(gva);
        else
            cr3_set(cr3_get());
        break;
    }
}

/* All of memory and the local APIC for the supervisor, by large pages; then the views. */
void tables_setup(bool with_pae)
{
    pae = with_pae;
    block = page_alloc_aligned(4 * MiB, 4 * MiB);
    if (!IS64) {
        word top = (word)page_alloc(1);
        cr3_set(top); /* paging is off: entry8() and entry4() look there */
        if (pae)
            for (uint32_t at = 0;; at += 0x40000000) {
                *entry8(at, 3) = (word)page_alloc(1) | PTE_P;
                if (at == 0xc0000000)
                    break;
            }
        word step = pae ? 2 * MiB : 4 * MiB;
        for (word at = 0; at < 64 * MiB; at += step)
            level_set(at, 2, at | PTE_P | PTE_W | PTE_PS);
        level_set(0xfee00000, 2, (0xfee00000 & ~(step - 1)) | PTE_P | PTE_W | PTE_PCD | PTE_PS);
        cr4_set((cr4_get() & ~(CR4_PAE | CR4_PSE)) | (pae ? CR4_PAE : CR4_PSE));
        cr3_set(top);
        cr0_set(cr0_get() | CR0_PG | CR0_WP);
    } else {
        *entry8(AREA, 4) |= PTE_U;
        *entry8(AREA, 3) = 0; /* instead of the identity map there */
        if (tables_have_huge())
            *entry8(HUGE, 3) = 0 | PTE_P | PTE_W | PTE_U | PTE_PS;
        cr3_set(cr3_get());
        cr0_set(cr0_get() | CR0_WP);
    }
    if (tables_have_nx())
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    for (unsigned view = 0; view < VIEWS; view++)
        for (unsigned page = 0; page < PAGES; page++)
            mapping_reset(view, page);
    large_set(LARGE, PTE_P | PTE_W | PTE_U);
    cr3_set(cr3_get());
}

word space_clone(void)
{
    static word copies[4];
    word old = cr3_get(), top = 0;
    word table = old & (IS64 || !pae ? ~0xffful : ~31ul);
    word previous_entry = 0;
    for (unsigned l = levels(), n = 0; l >= 1; l--, n++) {
        if (copies[n] == 0)
            copies[n] = (word)page_alloc(1);
        memcpy((void *)copies[n], (void *)table, PAGE);
        if (n == 0)
            top = copies[n];
        else if (IS64 || pae)
            *(uint64_t *)previous_entry = copies[n] | (*(uint64_t *)previous_entry & 0xfff);
        else
            *(uint32_t *)previous_entry = copies[n] | (*(uint32_t *)previous_entry & 0xfff);
        if (IS64 || pae) {
            unsigned index = (unsigned)((uint64_t)AREA >> (12 + 9 * (l - 1))) & (l == 3 && !IS64 ? 3 : 511);
            previous_entry = copies[n] + 8 * index;
            table = (word)(*(uint64_t *)previous_entry & 0xffffffffff000ull);
        } else {
            previous_entry = copies[n] + 4 * (AREA >> (l == 2 ? 22 : 12) & 1023);
            table = *(uint32_t *)previous_entry & ~0xfffu;
        }
    }
    return top;
}

/* ---- code ---- */

struct emitter {
    uint8_t bytes[SLOT_SIZE + 64];
    unsigned n;
    word at; /* where it will run, through VIEW_USER */
    unsigned page, slot;
    bool in_loop;
};

static unsigned across_first; /* offset in a page of the sequence that crosses its end */

static void byte(struct emitter *e, unsigned value)
{
    e->bytes[e->n++] = (uint8_t)value;
}

static void bytes(struct emitter *e, uint32_t value, unsigned size)
{
    memcpy(e->bytes + e->n, &value, size);
    e->n += size;
}

/* A register that may be written. */
static unsigned reg(const struct emitter *e)
{
    static const uint8_t some[] = {0, 2, 3, 5, 1, 8, 9, 10, 11, 12, 13, 14, 15};
    unsigned r;
    do
        r = some[below(IS64 && e->slot < SLOT_NARROW ? 13 : 5)];
    while (r == 1 && e->in_loop);
    return r;
}

/* A REX prefix for the two fields of ModRM; in 32-bit programs there is none, and registers are below 8. */
static void rex(struct emitter *e, unsigned r, unsigned b, bool wide)
{
    if (IS64 && (wide || r >= 8 || b >= 8))
        byte(e, 0x40 | (wide ? 8 : 0) | (r >> 3) << 2 | b >> 3);
}

static void op_rr(struct emitter *e, unsigned opcode, unsigned r, unsigned rm)
{
    rex(e, r, rm, one_in(2));
    byte(e, opcode);
    byte(e, 0xc0 | (r & 7) << 3 | (rm & 7));
}

/* Where in the data window: often at the end of a page. */
static uint32_t data_offset(void)
{
    if (one_in(4))
        return (1 + below(6)) * PAGE - 1 - below(10);
    return below(0x7000);
}

static void op_rm(struct emitter *e, unsigned opcode, unsigned r)
{
    rex(e, r, 7, one_in(2));
    byte(e, opcode);
    byte(e, 0x87 | (r & 7) << 3); /* [EDI + disp32] */
    bytes(e, data_offset(), 4);
}

static void absolute(struct emitter *e, unsigned extension, word gva)
{
    byte(e, 0x04 | extension << 3); /* [disp32] by a SIB byte: the same in all modes */
    byte(e, 0x25);
    bytes(e, (uint32_t)gva, 4);
}

static void compare(struct emitter *e)
{
    op_rr(e, 0x39, reg(e), reg(e));
}

/* Address of an immediate operand that may be changed. */
static word patch_gva(enum view view, unsigned page, unsigned slot)
{
    return view_gva(view, page) + slot_offset(slot) + 1;
}

static unsigned any_slot(void)
{
    return one_in(6) ? SLOT_ACROSS : SLOT_FIRST + below(SLOT_PORTABLE - SLOT_FIRST);
}

static void emit_one(struct emitter *e);

static void emit_store_code(struct emitter *e)
{
    switch (below(4)) {
    case 0: /* the next instruction but one, then a jump */
        byte(e, 0xc6);
        absolute(e, 0, e->at + e->n + 7 + 2 + 1);
        byte(e, below(256));
        bytes(e, 0x00eb, 2);
        byte(e, 0xb2); /* MOV DL, imm8 */
        byte(e, 0);
        break;
    case 1: /* this slot's own beginning */
        byte(e, 0x83);
        absolute(e, 0, patch_gva(VIEW_USER, e->page, e->slot));
        byte(e, below(128));
        break;
    default: {
        unsigned page = below(CODE_PAGES - 1);
        word to = patch_gva(one_in(4) ? VIEW_OTHER : VIEW_USER, page, any_slot());
        byte(e, one_in(2) ? 0xc7 : 0x81);
        absolute(e, 0, to);
        bytes(e, (uint32_t)random64(), 4);
        break;
    }
    }
}

static void emit_string(struct emitter *e)
{
    bool moves = one_in(2), bytes_only = one_in(2);
    byte(e, 0x57);
    byte(e, 0x56);
    byte(e, 0x51);
    rex(e, 0, 0, true);
    byte(e, 0x8d); /* LEA EDI, [EDI + disp32] */
    byte(e, 0xbf);
    bytes(e, data_offset(), 4);
    rex(e, 0, 0, true);
    byte(e, 0x8d);
    byte(e, 0xb6);
    bytes(e, data_offset() & 0x3fff, 4);
    byte(e, 0xb9);
    bytes(e, one_in(6) ? 0x300 : below(40), 4);
    byte(e, 0xf3);
    byte(e, (moves ? 0xa4 : 0xaa) + !bytes_only);
    byte(e, 0x59);
    byte(e, 0x5e);
    byte(e, 0x5f);
}

static void emit_locked(struct emitter *e)
{
    unsigned r = reg(e);
    byte(e, 0xf0);
    switch (below(3)) {
    case 0:
        op_rm(e, 0x01, r);
        break;
    case 1:
        rex(e, r, 7, false);
        byte(e, 0x0f);
        byte(e, one_in(2) ? 0xc1 : 0xb1); /* XADD, CMPXCHG */
        byte(e, 0x87 | (r & 7) << 3);
        bytes(e, data_offset(), 4);
        break;
    default:
        byte(e, 0x0f); /* BTC dword, imm */
        byte(e, 0xba);
        byte(e, 0xbf);
        bytes(e, data_offset(), 4);
        byte(e, below(32));
        byte(e, 0x39); /* what it leaves of the other flags is undefined */
        byte(e, 0xd0);
        break;
    }
}

static void emit_branch(struct emitter *e)
{
    byte(e, 0x70 | below(16));
    byte(e, 0);
    unsigned from = e->n;
    emit_one(e);
    e->bytes[from - 1] = (uint8_t)(e->n - from);
}

static void emit_loop(struct emitter *e)
{
    if (e->in_loop || e->n > 120) {
        compare(e);
        return;
    }
    byte(e, 0xb9);
    bytes(e, 2 + below(12), 4);
    unsigned head = e->n;
    e->in_loop = true;
    for (unsigned i = 1 + below(3); i > 0 && e->n < head + 60; i--)
        emit_one(e);
    e->in_loop = false;
    byte(e, 0xff); /* DEC ECX; JNZ */
    byte(e, 0xc9);
    byte(e, 0x75);
    byte(e, head - e->n - 1);
}

/* A leaf in the same page, or any by its address: where a page lies among others may change. */
static void emit_call(struct emitter *e)
{
    if (one_in(3)) {
        byte(e, 0xba); /* MOV EDX, address; CALL EDX */
        bytes(e, (uint32_t)view_gva(VIEW_USER, below(CODE_PAGES)) + slot_offset(SLOT_LEAF), 4);
        bytes(e, 0xd2ff, 2);
    } else {
        byte(e, 0xe8);
        bytes(e, slot_offset(SLOT_LEAF) - (e->slot * SLOT_SIZE + e->n + 4), 4);
    }
}

static void emit_one(struct emitter *e)
{
    unsigned r = reg(e), s = reg(e);
    switch (below(24)) {
    case 0:
    case 1:
    case 2: op_rr(e, below(8) * 8 + 1 + 2 * below(2), r, s); break;
    case 3:
        rex(e, 0, r, one_in(2));
        byte(e, 0x81);
        byte(e, 0xc0 | below(8) << 3 | (r & 7));
        bytes(e, (uint32_t)random64(), 4);
        break;
    case 4:
        rex(e, 0, r, false);
        byte(e, 0xb8 | (r & 7));
        bytes(e, (uint32_t)random64(), 4);
        break;
    case 5: op_rm(e, below(8) * 8 + 3, r); break;
    case 6: op_rm(e, below(8) * 8 + 1, r); break;
    case 7: op_rm(e, 0x8b, r); break;
    case 8: op_rm(e, 0x89, r); break;
    case 9: /* shift or rotate */
        rex(e, 0, r, one_in(2));
        byte(e, 0xc1);
        byte(e, 0xc0 | below(8) << 3 | (r & 7));
        byte(e, below(32));
        compare(e);
        break;
    case 10:
        rex(e, r, s, one_in(2));
        byte(e, 0x0f); /* IMUL */
        byte(e, 0xaf);
        byte(e, 0xc0 | (r & 7) << 3 | (s & 7));
        compare(e);
        break;
    case 11:
        rex(e, r, s, one_in(2));
        byte(e, 0x0f);
        byte(e, 0x40 | below(16)); /* CMOVcc */
        byte(e, 0xc0 | (r & 7) << 3 | (s & 7));
        break;
    case 12: /* SETcc [EDI + disp32] */
        byte(e, 0x0f);
        byte(e, 0x90 | below(16));
        byte(e, 0x87);
        bytes(e, data_offset(), 4);
        break;
    case 13:
    case 14: emit_branch(e); break;
    case 15: /* PUSH, POP */
        byte(e, 0x50 | (r & 7 & ~4u));
        byte(e, 0x58 | (e->in_loop ? 0 : s & 3));
        break;
    case 16:
    case 17: emit_call(e); break;
    case 18: emit_locked(e); break;
    case 19: emit_string(e); break;
    case 20: emit_loop(e); break;
    case 21: /* PUSHF; AND; POP */
        byte(e, 0x9c);
        byte(e, 0x81);
        byte(e, 0x24);
        byte(e, 0x24);
        bytes(e, FLAGS_ARITHMETIC, 4);
        byte(e, 0x58 | (e->in_loop ? 0 : s & 3));
        break;
    default: emit_store_code(e); break;
    }
}

/* ---- loops that walk through the data window ---- */

#define WALK_BYTES 0x2000u /* that a register may be moved in all */
#define WALK_FROM 0x3000u
#define WALK_INDEX_TURNS 400u

/* ModRM and what follows: [EDI or ESI + disp], perhaps with EBX as index. */
static void walk_operand(struct emitter *e, unsigned r)
{
    unsigned base = 6 + below(2), size = one_in(4) ? 4 : 1;
    int32_t disp = (int32_t)below(128) - 64;
    bool index = one_in(3);
    byte(e, (size == 4 ? 0x80 : 0x40) | (r & 7) << 3 | (index ? 4 : base));
    if (index)
        byte(e, below(4) << 6 | 3 << 3 | base);
    bytes(e, (uint32_t)disp, size);
}

/* `outs`: where jumps out of the loop have their distance. */
static void walk_access(struct emitter *e, unsigned *outs, unsigned *out_count)
{
    static const uint8_t some[] = {0, 2, 5, 8, 10, 12, 15};
    unsigned r = some[below(IS64 && e->slot < SLOT_NARROW ? 7 : 3)];
    bool wide = e->slot < SLOT_NARROW && one_in(3);
    switch (below(7)) {
    case 0: rex(e, r, 0, wide), byte(e, 0x8b), walk_operand(e, r); break;
    case 1: rex(e, r, 0, wide), byte(e, 0x89), walk_operand(e, r); break;
    case 2: rex(e, r, 0, wide), byte(e, below(2) * 0x28 + 0x03), walk_operand(e, r); break;
    case 3: rex(e, r, 0, wide), byte(e, 0x01), walk_operand(e, r); break;
    case 4: rex(e, r, 0, wide), byte(e, 0x0f), byte(e, 0xb6 + below(2)), walk_operand(e, r); break;
    case 5: /* MOV byte [mem], DL */
        byte(e, 0x88), walk_operand(e, 2);
        break;
    default:
        byte(e, 0x80), walk_operand(e, 7), byte(e, below(256)); /* CMP byte [mem], imm8 */
        if (*out_count < 4 && one_in(2)) {
            byte(e, 0x0f), byte(e, 0x84), bytes(e, 0, 4);
            outs[(*out_count)++] = e->n;
        }
        break;
    }
}

static void walk_step(struct emitter *e, unsigned r, unsigned by)
{
    bool wide = e->slot < SLOT_NARROW && !one_in(4), down = one_in(3);
    rex(e, 0, 0, wide);
    switch (by == 1 ? below(4) : below(3)) {
    case 0: byte(e, 0x83), byte(e, (down ? 0xe8 : 0xc0) | r), byte(e, by); break;                /* SUB, ADD */
    case 1: byte(e, 0x8d), byte(e, 0x40 | r << 3 | r), byte(e, down ? 0 - by : by); break;       /* LEA */
    case 2: byte(e, 0x83), byte(e, (down ? 0xc0 : 0xe8) | r), byte(e, 0 - by); break;
    default: byte(e, 0xff), byte(e, (down ? 0xc8 : 0xc0) | r); break;                            /* DEC, INC */
    }
}

void code_walk(unsigned page, unsigned slot)
{
    static const uint8_t strides[] = {1, 2, 3, 4, 8, 12, 16, 24, 32, 64, 100};
    static struct emitter e;
    unsigned outs[4], out_count = 0, by[2] = {0}, largest = 1;
    e = (struct emitter){.page = page, .slot = slot};
    for (unsigned i = 0; i < 2; i++) {
        by[i] = one_in(4) ? 0 : strides[below(sizeof strides)];
        largest = by[i] > largest ? by[i] : largest;
    }
    bool index = one_in(2);
    unsigned turns = 1 + below(WALK_BYTES / largest < 1500 ? WALK_BYTES / largest : 1500);
    if (index && turns > WALK_INDEX_TURNS)
        turns = WALK_INDEX_TURNS;
    byte(&e, 0xb8), bytes(&e, (uint32_t)random64(), 4); /* as every slot begins */
    byte(&e, 0xb9), bytes(&e, turns, 4);
    byte(&e, 0xbb), bytes(&e, below(32), 4);
    for (unsigned r = 6; r <= 7; r++) {
        byte(&e, 0x81), byte(&e, 0xc0 | r); /* ADD ESI or EDI, imm32 */
        bytes(&e, WALK_FROM + below(0x1000), 4);
    }
    unsigned head = e.n;
    for (unsigned i = 1 + below(4); i > 0; i--) {
        walk_access(&e, outs, &out_count);
        if (one_in(4))
            op_rr(&e, below(8) * 8 + 1, 2, one_in(2) ? 0 : 5);
        for (unsigned k = 0; k < 2; k++)
            if (by[k] != 0 && (i == 1 || one_in(4))) {
                walk_step(&e, 6 + k, by[k]);
                by[k] = 0;
            }
    }
    if (index)
        walk_step(&e, 3, 1);
    if (one_in(2))
        byte(&e, 0x83), byte(&e, 0xe9), byte(&e, 1); /* SUB ECX, 1 */
    else
        byte(&e, 0xff), byte(&e, 0xc9);
    byte(&e, 0x0f), byte(&e, 0x85), bytes(&e, head - e.n - 4, 4);
    for (unsigned i = 0; i < out_count; i++) {
        uint32_t distance = e.n - outs[i];
        memcpy(e.bytes + outs[i] - 4, &distance, 4);
    }
    byte(&e, 0x03), walk_operand(&e, 2); /* behind the loop nothing is known of alignment */
    byte(&e, 0xcd), byte(&e, DONE);
    memcpy(block + page * PAGE + slot * SLOT_SIZE, e.bytes, e.n);
}

/* Instructions with registers alone and bytes as immediates: each is as long in 16-bit code as in 32-bit code. */
static void emit_portable(struct emitter *e)
{
    static const uint8_t some[] = {0, 2, 3, 5, 1}; /* the last not where a caller's loop may count with it */
    unsigned count = e->slot == SLOT_LEAF ? 4 : 5, r = some[below(count)], s = some[below(count)];
    switch (below(6)) {
    case 0:
    case 1:
        byte(e, below(8) * 8 + 1 + 2 * below(2));
        byte(e, 0xc0 | r << 3 | s);
        break;
    case 2:
        byte(e, 0x83);
        byte(e, 0xc0 | below(8) << 3 | r);
        byte(e, below(256));
        break;
    case 3:
        byte(e, 0x0f);
        byte(e, 0xb6 + below(2) * 8); /* MOVZX, MOVSX */
        byte(e, 0xc0 | r << 3 | (s == 5 ? 0 : s));
        break;
    case 4:
        byte(e, 0x70 | below(16));
        byte(e, 3);
        byte(e, 0x83);
        byte(e, 0xc0 | r);
        byte(e, below(256));
        break;
    default:
        byte(e, 0x50 | r);
        byte(e, 0x58 | s);
        break;
    }
}

unsigned slot_offset(unsigned slot)
{
    return slot == SLOT_ACROSS ? across_first : slot * SLOT_SIZE;
}

/* MOV r, imm32; ADD, SUB, XOR EAX, imm32. What lies in the next page is a page's beginning, whichever comes before it. */
static void across_make(unsigned page)
{
    static const uint8_t opcodes[] = {0xb8, 0xba, 0xbb, 0xbd, 0x05, 0x2d, 0x35};
    uint8_t code[20 * 5 + 2];
    for (unsigned i = 0; i < 20; i++) {
        uint32_t value = (uint32_t)random64();
        code[5 * i] = opcodes[below(sizeof opcodes)];
        memcpy(code + 5 * i + 1, &value, 4);
    }
    code[100] = 0xcd;
    code[101] = DONE;
    unsigned head = PAGE - across_first;
    memcpy(block + page * PAGE + across_first, code, head);
    memcpy(block + (page + 1) % CODE_PAGES * PAGE, code + head, sizeof code - head);
}

void code_make(unsigned page, unsigned slot)
{
    static struct emitter e;
    if (slot == SLOT_ACROSS) {
        across_make(page);
        return;
    }
    e.n = 0;
    e.in_loop = false;
    e.page = page;
    e.slot = slot;
    e.at = view_gva(VIEW_USER, page) + slot * SLOT_SIZE;
    bool portable = slot == SLOT_PORTABLE || slot == SLOT_PORTABLE + 1;
    if (portable) {
        byte(&e, 0xb0); /* MOV AL, imm8: what is patched of it is one byte; then three bytes that may be anything */
        byte(&e, 0);
        bytes(&e, 0x03eb, 2);
        bytes(&e, 0, 3);
    } else {
        byte(&e, 0xb8);
        bytes(&e, (uint32_t)random64(), 4);
    }
    unsigned limit = slot == SLOT_LEAF ? 30 : 60 + below(120);
    while (e.n < limit) {
        if (portable || slot == SLOT_LEAF)
            emit_portable(&e);
        else
            emit_one(&e);
    }
    if (slot == SLOT_LEAF) {
        byte(&e, 0xc3);
    } else {
        byte(&e, 0xcd);
        byte(&e, DONE);
    }
    memcpy(block + page * PAGE + slot * SLOT_SIZE, e.bytes, e.n);
}

void code_make_all(void)
{
    across_first = PAGE - 56 + below(5);
    for (unsigned page = 0; page < CODE_PAGES; page++) {
        for (unsigned slot = SLOT_FIRST; slot <= SLOT_LEAF; slot++)
            code_make(page, slot);
        code_make(page, SLOT_ACROSS);
    }
}

void code_patch(unsigned page, unsigned slot, uint8_t *base)
{
    uint8_t *at = (base != NULL ? base : block + page * PAGE) + slot_offset(slot) + 1;
    uint32_t value = (uint32_t)random64();
    bool narrow = slot == SLOT_PORTABLE || slot == SLOT_PORTABLE + 1;
    if (narrow)
        *(volatile uint8_t *)at = (uint8_t)value;
    else
        *(volatile uint32_t *)at = value;
}

void code_copy(unsigned page, unsigned slot, const char *from, const char *end)
{
    memcpy(block + page * PAGE + slot * SLOT_SIZE, from, (size_t)(end - from) + 2);
}
