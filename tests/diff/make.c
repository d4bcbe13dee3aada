/* Makes the machines of diff_test: tables, handlers, registers, and code.
 *
 * Code is made of pieces. Half are instructions as they come, from everything that decodes in the mode; the others are
 * small idioms in which things happen that chance would not find: loops, stores into code that is about to run, page
 * table entries changed and invalidated, far transfers between modes, changes of control registers, system calls,
 * returns. Handlers of exceptions either halt, or go on some bytes behind the instruction that faulted -- which may be in
 * the middle of the next -- until a counter runs out.
 */
#include "cpu/vcpu.h"
#include "diff.h"
#include "isa/draft.h"
#include "isa/values.h"

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_PS 0x80u

struct making {
    struct rng rng;
    const struct encodings *encodings;
    struct diff_case *c;
    enum isa_mode mode;
    uint8_t *bytes; /* of the piece being made */
    unsigned n;
    bool entries; /* page-table entries are changed: then nothing may come between that and the INVLPG */
};

static unsigned below(struct making *m, unsigned n)
{
    return rng_below(&m->rng, n);
}

static bool one_in(struct making *m, unsigned n)
{
    return rng_one_in(&m->rng, n);
}

static void put(struct diff_case *c, unsigned at, uint64_t value, unsigned size)
{
    memcpy(c->image + at, &value, size);
}

/* ---- tables ---- */
static const uint64_t gdt[] = {
    0,
    0x00cf9b000000ffffull, /* 08: 32-bit code */
    0x00cf93000000ffffull, /* 10: data */
    0x00af9b000000ffffull, /* 18: 64-bit code */
    0x00cffb000000ffffull, /* 20: 32-bit code, user */
    0x00cff3000000ffffull, /* 28: data, user */
    0x00affb000000ffffull, /* 30: 64-bit code, user */
    0x000f9b000000ffffull, /* 38: 16-bit code */
    0x00008b0030000067ull, /* 40: TSS */
    0x000093000000ffffull, /* 48: 16-bit data; upper half of the TSS if that is 64-bit: see below */
    0x0000820010000fffull, /* 50: LDT: the GDT again */
    0,
    0x0000ec0000188000ull, /* 60: call gate to the code */
    0,
    0x00409300a0000fffull, /* 70: data with a base and a small limit */
    0x00409b008000ffffull, /* 78: 32-bit code with a base */
};

static void page_tables_make(struct making *m)
{
    struct diff_case *c = m->c;
    bool wide = diff_is_wide(c->start), small = !wide && c->start != START_PAE;
    unsigned leaf = TABLES + (small ? 0x4000 : 0x3000), size = small ? 4 : 8;
    bool user = c->user || c->start == START_V86, kernel_sees_user = one_in(m, 4);

    if (wide) {
        put(c, TABLES, (TABLES + 0x1000) | 7, 8);
        put(c, TABLES + 0xff8, (TABLES + 0x1000) | 7, 8);
        put(c, TABLES + 0x1000, (TABLES + 0x2000) | 7, 8);
        put(c, TABLES + 0x2000, (TABLES + 0x3000) | 7, 8);
    } else if (c->start == START_PAE) {
        put(c, TABLES, (TABLES + 0x2000) | 1, 8);
        put(c, TABLES + 0x2000, (TABLES + 0x3000) | 7, 8);
    } else {
        put(c, TABLES, (TABLES + 0x4000) | 7, 4);
    }
    for (unsigned page = 0; page < 4 * ALIAS_PAGES; page++) {
        unsigned frame = page % ALIAS_PAGES, at = frame * PAGE_SIZE, flags = PTE_P | PTE_W | PTE_U;
        bool open = at >= CODE_AT && at < DATA_AT + DATA_SIZE;
        if (page < ALIAS_PAGES && (!open || (!user && !kernel_sees_user)) && at != ROM_AT && at != DEVICE_AT)
            flags &= ~PTE_U;
        if (page / ALIAS_PAGES == 2)
            flags &= ~PTE_U;
        if (page / ALIAS_PAGES == 3)
            flags &= ~PTE_W;
        if (page >= ALIAS_PAGES && at >= TABLES && at < TABLES + TABLES_SIZE)
            flags = 0;
        if (one_in(m, 3))
            flags |= 0x60;
        if (one_in(m, 8))
            flags |= 0x100;
        put(c, leaf + size * page, (uint64_t)frame * PAGE_SIZE | flags, size);
    }
    if (!small && (c->efer & EFER_NXE) && !one_in(m, 3))
        put(c, leaf + size * (DATA_AT / PAGE_SIZE) + 4, 0x80000000u, 4);
}

/* What a handler does: halt; or drop the error code, go on `skip` bytes behind, and halt when the counter is out. */
static void handler_make(struct making *m, unsigned vector, bool halts, unsigned skip)
{
    struct diff_case *c = m->c;
    uint8_t code[HANDLER_SIZE];
    unsigned n = 0;
    bool fault = vector < 32 && vector != 3 && vector != 4 && vector != 1;
#define EMIT(...)                                                                                                      \
    do {                                                                                                               \
        static const uint8_t bytes[] = {__VA_ARGS__};                                                                  \
        memcpy(code + n, bytes, sizeof(bytes));                                                                        \
        n += (unsigned)sizeof(bytes);                                                                                  \
    } while (0)

    memset(code, 0xf4, sizeof(code));
    if (!halts && c->start == START_REAL) {
        EMIT(0x55, 0x89, 0xe5, 0x83, 0x46, 0x02); /* PUSH BP; MOV BP, SP; ADD word [BP+2], skip */
        code[n++] = (uint8_t)(fault ? skip : 0);
        EMIT(0x5d, 0x2e, 0xff, 0x0e, COUNTER & 0xff, COUNTER >> 8, 0x75, 0x01, 0xf4, 0xcf);
    } else if (!halts) {
        bool wide = diff_is_wide(c->start);
        if (vector_has_error(vector)) {
            if (wide)
                EMIT(0x48, 0x83, 0xc4, 0x08); /* ADD RSP, 8 */
            else
                EMIT(0x83, 0xc4, 0x04);
        }
        EMIT(0x83, 0x04, 0x24); /* ADD dword [RSP], skip */
        code[n++] = (uint8_t)(fault ? skip : 0);
        if (wide)
            EMIT(0xff, 0x0c, 0x25, COUNTER & 0xff, COUNTER >> 8, 0, 0, 0x75, 0x01, 0xf4, 0x48, 0xcf);
        else
            EMIT(0x36, 0xff, 0x0d, COUNTER & 0xff, COUNTER >> 8, 0, 0, 0x75, 0x01, 0xf4, 0xcf);
    }
#undef EMIT
    memcpy(c->image + HANDLERS + vector * HANDLER_SIZE, code, sizeof(code));
}

static void tables_make(struct making *m)
{
    struct diff_case *c = m->c;
    bool wide = diff_is_wide(c->start), halts = one_in(m, 4);
    unsigned skip = below(m, 3) ? 2 + below(m, 3) : below(m, 7);

    memcpy(c->image + GDT, gdt, sizeof(gdt));
    if (wide) {
        put(c, GDT + 0x48, 0, 8);
        put(c, GDT + 0x60, 0x0000ec0000188000ull, 8);
    } else {
        put(c, GDT + 0x60, 0x0000ec0000088000ull, 8);
    }
    for (unsigned vector = 0; vector < 256; vector++) {
        unsigned handler = HANDLERS + vector * HANDLER_SIZE;
        uint64_t gate = 0x0000ee0000000000ull | (uint64_t)(wide ? 0x18 : 0x08) << 16 | handler;
        put(c, IDT + (wide ? 16 : 8) * vector, gate, 8);
        if (c->start == START_REAL)
            put(c, 4 * vector, handler, 4);
        handler_make(m, vector, halts, skip);
    }
    put(c, COUNTER, 1 + below(m, 24), 4);
    put(c, TSS + 4, wide ? STACKS + 0x2000 : 0x0000001000000000ull | (STACKS + 0x2000), 8);
    c->image[TSS + 0x66] = 0x68;
    if (diff_has_paging(c->start))
        page_tables_make(m);
}

/* ---- registers ---- */
static uint64_t address_choose(struct making *m)
{
    static const uint32_t bases[] = {DATA_AT, DATA_AT, DATA_AT, DATA_AT + 0xfc0, CODE_AT, ROM_AT + 0xf00, DEVICE_AT,
                                     DATA_AT + 0x40000, DATA_AT + 0x80000, CODE_AT + 0x40000, 0xfffc0, 0x3ffc0};
    uint64_t base = bases[below(m, ARRAY_LEN(bases))];
    if (m->mode == ISA_16)
        base = DATA_AT;
    return base + below(m, 0x80) * (one_in(m, 3) ? 1 : 8);
}

static void registers_make(struct making *m)
{
    static const uint64_t cr4_bits[] = {CR4_VME, CR4_PGE, CR4_SMEP, CR4_SMAP, CR4_UMIP, CR4_DE, CR4_PVI, CR4_FSGSBASE, CR4_TSD};
    struct diff_case *c = m->c;
    bool wide = diff_is_wide(c->start);

    for (unsigned i = 0; i < 16; i++) {
        c->regs[i] = below(m, 3) ? address_choose(m) : value_integer(&m->rng);
        if (c->start != START_64 && i < 8)
            c->regs[i] = (uint32_t)c->regs[i];
    }
    if (!one_in(m, 12))
        c->regs[RSP] = (c->user || c->start == START_V86 ? STACK_USER : STACKS + 0x1000) - below(m, 8) * (one_in(m, 6) ? 1 : 8);
    c->cr0 = CR0_ET | (c->start == START_REAL ? 0 : CR0_PE);
    if (below(m, 3))
        c->cr0 |= CR0_WP | CR0_NE | CR0_AM | CR0_MP;
    if (one_in(m, 16))
        c->cr0 |= one_in(m, 2) ? CR0_TS : CR0_EM;
    c->cr4 = one_in(m, 12) ? 0 : CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (diff_has_paging(c->start)) {
        for (unsigned i = 0; i < ARRAY_LEN(cr4_bits); i++)
            c->cr4 |= one_in(m, 3) ? cr4_bits[i] : 0;
        c->cr0 |= CR0_PG;
        c->cr3 = TABLES;
        c->cr4 |= wide || c->start == START_PAE ? CR4_PAE : CR4_PSE;
        if (one_in(m, 2) || wide)
            c->efer |= EFER_NXE;
        if (wide)
            c->efer |= EFER_LME | EFER_LMA | EFER_SCE;
    }
    c->rflags = FLAG_FIXED | ((uint32_t)rng_next(&m->rng) & FLAGS_STATUS);
    c->rflags |= (one_in(m, 4) ? FLAG_DF : 0) | (one_in(m, 3) ? FLAG_IF : 0) | (one_in(m, 10) ? FLAG_AC : 0) |
                 (one_in(m, 16) ? FLAG_TF : 0) | (one_in(m, 8) ? FLAG_NT : 0) | (one_in(m, 3) ? FLAG_IOPL : 0);
    if (c->start == START_V86)
        c->rflags |= FLAG_VM | (one_in(m, 2) ? FLAG_IOPL : 0);
    c->dr[6] = 0xffff0ff0;
    c->dr[7] = 0x400;
    if (one_in(m, 16)) {
        c->dr[0] = one_in(m, 2) ? CODE_AT + c->code_offset + below(m, 60) : address_choose(m);
        c->dr[7] |= 2 | below(m, 16) << 16;
    }
    m->entries = diff_has_paging(c->start) && m->mode != ISA_16 && !c->user && below(m, 2);
    if (m->entries) {
        c->rflags &= ~(FLAG_TF | FLAG_IF);
        c->dr[7] = 0x400;
    }
    c->fs_base = address_choose(m);
    c->gs_base = one_in(m, 3) ? 0xffff800000000000ull + DATA_AT : address_choose(m);
    c->pending_interrupt = one_in(m, 4);
    c->rom_too = one_in(m, 10);
}

/* ---- pieces ---- */
static void byte(struct making *m, unsigned value)
{
    m->bytes[m->n++] = (uint8_t)value;
}

static void bytes(struct making *m, uint64_t value, unsigned size)
{
    memcpy(m->bytes + m->n, &value, size);
    m->n += size;
}

static bool is_wide(const struct making *m)
{
    return m->mode == ISA_64;
}

static unsigned word_size(const struct making *m)
{
    return m->mode == ISA_16 ? 2 : 4;
}

/* An instruction of a random row, its displacement and branch distance brought into reach as a rule. */
static void piece_random(struct making *m)
{
    const struct encodings *e = m->encodings;
    struct draft d;

    for (unsigned attempt = 0; attempt < 12; attempt++) {
        const struct encoding *encoding = &e->list[m->mode][below(m, e->count[m->mode])];
        if (!draft_encode(&m->rng, encoding, m->mode, true, &d))
            continue;
        if (d.in.mnemonic == ZYDIS_MNEMONIC_HLT && !one_in(m, 4))
            continue;
        if (d.in.raw.disp.size >= 16 && below(m, 5)) {
            uint64_t to = d.in.raw.modrm.mod == 0 ? address_choose(m) : below(m, 0x100);
            if (d.operands[0].mem.base == ZYDIS_REGISTER_RIP || d.operands[1].mem.base == ZYDIS_REGISTER_RIP)
                to = DATA_AT - CODE_AT + below(m, 0x1000);
            memcpy(d.bytes + d.in.raw.disp.offset, &to, d.in.raw.disp.size / 8);
        }
        if (d.in.raw.imm[0].is_relative && below(m, 8)) {
            int64_t to = (int)below(m, 24) - (one_in(m, 4) ? 12 : 0);
            memcpy(d.bytes + d.in.raw.imm[0].offset, &to, d.in.raw.imm[0].size / 8);
        }
        memcpy(m->bytes, d.bytes, d.length);
        m->n = d.length;
        return;
    }
}

/* Rows that code is made of. */
static void piece_common(struct making *m)
{
    static const uint16_t rows[] = {ROW_MOV, ROW_ADD, ROW_SUB, ROW_CMP, ROW_AND, ROW_OR, ROW_XOR, ROW_ADC, ROW_INC, ROW_DEC,
                                    ROW_LEA, ROW_SHL, ROW_SAR, ROW_RCL, ROW_XCHG, ROW_CMPXCHG, ROW_XADD, ROW_PUSH, ROW_POP,
                                    ROW_MOVZX, ROW_SETZ, ROW_CMOVB, ROW_BTS, ROW_IMUL, ROW_MUL, ROW_NEG, ROW_TEST,
                                    ROW_JZ, ROW_JNB, ROW_JL, ROW_JMP, ROW_CALL, ROW_RET, ROW_MOVDQU, ROW_PADDD};
    const struct encodings *e = m->encodings;
    unsigned row = rows[below(m, ARRAY_LEN(rows))], first = e->first[m->mode][row];
    unsigned count = e->first[m->mode][row + 1] - first;
    struct draft d;

    if (count == 0 || !draft_encode(&m->rng, &e->list[m->mode][first + below(m, count)], m->mode, true, &d))
        return;
    if (d.in.raw.disp.size >= 16 && below(m, 5)) {
        uint64_t to = d.in.raw.modrm.mod == 0 ? address_choose(m) : below(m, 0x100);
        memcpy(d.bytes + d.in.raw.disp.offset, &to, d.in.raw.disp.size / 8);
    }
    if (d.in.raw.imm[0].is_relative) {
        int64_t to = (int)below(m, 24) - (one_in(m, 4) ? 12 : 0);
        memcpy(d.bytes + d.in.raw.imm[0].offset, &to, d.in.raw.imm[0].size / 8);
    }
    memcpy(m->bytes, d.bytes, d.length);
    m->n = d.length;
}

/* MOV reg, imm of the mode's width. */
static void move_immediate(struct making *m, unsigned reg, uint64_t value)
{
    byte(m, 0xb8 | reg);
    bytes(m, value, word_size(m));
}

/* MOV ECX, n; and a loop over a few bytes of something. */
static void piece_loop(struct making *m)
{
    move_immediate(m, RCX, 1 + below(m, 40));
    unsigned head = m->n;
    for (unsigned i = 1 + below(m, 4); i > 0; i--) {
        byte(m, below(m, 8) * 8 + 1 + 2 * below(m, 2)); /* an ALU operation on registers */
        byte(m, 0xc0 | (below(m, 8) == 1 ? 2 : 3) << 3 | (below(m, 2) ? 0 : 6));
    }
    if (one_in(m, 2)) {
        byte(m, 0xe2);
    } else {
        byte(m, 0x83); /* SUB ECX, 1; JNZ */
        byte(m, 0xe9);
        byte(m, 1);
        byte(m, 0x75);
    }
    byte(m, head - m->n - 1);
}

/* A store into this code, some way ahead; sometimes a jump behind it, as the manual wants it. */
static void piece_smc(struct making *m, unsigned here)
{
    unsigned to = CODE_AT + m->c->code_offset + here + 8 + below(m, 64);

    if (m->entries) /* it might hit an INVLPG */
        return;
    if (m->mode == ISA_16) {
        byte(m, 0xc6); /* MOV byte [disp16], imm8 */
        byte(m, 0x06);
        bytes(m, to, 2);
    } else {
        if (one_in(m, 3))
            to += ALIAS_PAGES * PAGE_SIZE;
        byte(m, 0xc6);
        byte(m, is_wide(m) ? 0x04 : 0x05);
        if (is_wide(m))
            byte(m, 0x25);
        bytes(m, to, 4);
    }
    byte(m, one_in(m, 2) ? 0x90 : 0x40 + below(m, 0x40));
    if (one_in(m, 2))
        bytes(m, 0x00eb, 2); /* JMP $+2 */
}

/* Changes an entry for a data page, invalidates it, and uses it. What came between, an interrupt or a single-step trap, might
 * use what the processor remembers, or not. */
static void piece_entry(struct making *m)
{
    struct diff_case *c = m->c;
    bool small = c->start == START_32_PAGING || c->start == START_V86;
    unsigned page = DATA_AT / PAGE_SIZE + below(m, DATA_SIZE / PAGE_SIZE - 1) + ALIAS_PAGES * below(m, 4);
    unsigned entry = TABLES + (small ? 0x4000 + 4 * page : 0x3000 + 8 * page);
    static const uint8_t masks[] = {PTE_P, PTE_W, PTE_U, PTE_W | PTE_P, 0x20, 0x40, 0x60};

    if (!m->entries)
        return;
    byte(m, 0x80); /* XOR byte [entry], mask */
    byte(m, is_wide(m) ? 0x34 : 0x35);
    if (is_wide(m))
        byte(m, 0x25);
    bytes(m, entry, 4);
    byte(m, masks[below(m, ARRAY_LEN(masks))]);
    bytes(m, 0x010f, 2); /* INVLPG [page] */
    byte(m, is_wide(m) ? 0x3c : 0x3d);
    if (is_wide(m))
        byte(m, 0x25);
    bytes(m, page * PAGE_SIZE, 4);
    byte(m, one_in(m, 2) ? 0x8a : 0x88); /* MOV AL, [page+x], or the other way round */
    byte(m, is_wide(m) ? 0x04 : 0x05);
    if (is_wide(m))
        byte(m, 0x25);
    bytes(m, page * PAGE_SIZE + below(m, PAGE_SIZE), 4);
}

/* Reads a control register, changes a bit, writes it back. */
static void piece_control(struct making *m)
{
    static const uint8_t cr0_bits[] = {1, 2, 3, 5, 16, 16, 18}, cr4_bits[] = {0, 1, 2, 3, 7, 7, 9, 10, 11, 16, 20, 21};
    unsigned which = below(m, 4);

    if (m->c->user || m->c->start == START_V86)
        return;
    if (which == 0) { /* MOV EAX, CR3; MOV CR3, EAX */
        bytes(m, 0xd8200f, 3);
        bytes(m, 0xd8220f, 3);
        return;
    }
    unsigned modrm = which < 3 ? 0xc0 : 0xe0;
    bytes(m, 0x200f | modrm << 16, 3);
    if (m->mode == ISA_16)
        byte(m, 0x66);
    bytes(m, 0xf8ba0f, 3); /* BTC EAX, bit */
    byte(m, which < 3 ? cr0_bits[below(m, sizeof(cr0_bits))] : cr4_bits[below(m, sizeof(cr4_bits))]);
    bytes(m, 0x220f | modrm << 16, 3);
}

/* PUSH selector, PUSH where to go (close behind), RETF; or a segment register loaded. */
static void piece_segments(struct making *m, unsigned here)
{
    static const uint16_t selectors[] = {0x08, 0x18, 0x38, 0x23, 0x33, 0x10, 0x2b, 0x48, 0x70, 0x73, 0x78, 0, 0x60, 0x57, 0x14};
    unsigned selector = selectors[below(m, ARRAY_LEN(selectors))];

    if (one_in(m, 2)) {
        static const uint8_t registers[] = {SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS};
        move_immediate(m, RAX, selector);
        byte(m, 0x8e);
        byte(m, 0xc0 | (unsigned)registers[below(m, 5)] << 3);
        return;
    }
    unsigned after = here + (m->mode == ISA_16 ? 7 : 11);
    byte(m, 0x68);
    bytes(m, selector, word_size(m));
    byte(m, 0x68);
    bytes(m, CODE_AT + m->c->code_offset + after + below(m, 3), word_size(m));
    byte(m, 0xcb);
}

static void piece_flags(struct making *m)
{
    switch (below(m, 6)) {
    case 0: byte(m, 0xfa + (m->entries ? 0 : below(m, 2))); break; /* CLI, STI */
    case 1: /* PUSH imm; POPF */
        byte(m, 0x68);
        bytes(m, rng_next(&m->rng) & (m->entries ? 0x40cd5u : one_in(m, 6) ? 0xffffffff : 0x40edfu), word_size(m));
        byte(m, 0x9d);
        break;
    case 2: byte(m, 0x9c); break;
    case 3: bytes(m, one_in(m, 2) ? 0xcb010f : 0xca010f, 3); break; /* STAC, CLAC */
    case 4: byte(m, 0xcd); byte(m, 0x20 + below(m, 16)); break;
    default: bytes(m, 0x310f, 2); break; /* RDTSC */
    }
}

static void piece_string(struct making *m)
{
    static const uint8_t opcodes[] = {0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xae, 0xaf, 0xa6, 0x6c, 0x6f};
    move_immediate(m, RCX, one_in(m, 4) ? below(m, 0x1200) : below(m, 24));
    move_immediate(m, RDI, address_choose(m));
    byte(m, one_in(m, 4) ? 0xf2 : 0xf3);
    byte(m, opcodes[below(m, sizeof(opcodes))]);
}

static void piece_system_call(struct making *m)
{
    static const uint16_t calls[] = {0x050f, 0x340f, 0x070f, 0x350f};
    if (is_wide(m) && one_in(m, 2))
        byte(m, 0x48);
    bytes(m, calls[below(m, 4)], 2);
}

static void piece_stack(struct making *m)
{
    unsigned reg = below(m, 8);
    switch (below(m, 4)) {
    case 0: /* CALL over nothing, POP */
        byte(m, 0xe8);
        bytes(m, 0, word_size(m));
        byte(m, 0x58 | (reg == RSP ? RAX : reg));
        break;
    case 1:
        byte(m, 0x50 | reg);
        byte(m, 0x58 | below(m, 8));
        break;
    case 2: /* SUB SP; later somebody returns */
        if (is_wide(m))
            byte(m, 0x48);
        byte(m, 0x83);
        byte(m, 0xec);
        byte(m, below(m, 32));
        break;
    default:
        byte(m, 0xc3);
        break;
    }
}

static void piece_make(struct making *m, unsigned here)
{
    m->n = 0;
    switch (below(m, 20)) {
    case 0: piece_loop(m); break;
    case 1: piece_smc(m, here); break;
    case 2: piece_entry(m); break;
    case 3: piece_control(m); break;
    case 4: piece_segments(m, here); break;
    case 5: piece_flags(m); break;
    case 6: piece_string(m); break;
    case 7: one_in(m, 3) ? piece_system_call(m) : piece_stack(m); break;
    case 8: piece_stack(m); break;
    case 9:
    case 10:
    case 11:
    case 12:
    case 13: piece_random(m); break;
    default: piece_common(m); break;
    }
}

/* Numbers of all kinds, the same in every case but for where they begin. */
static void data_make(struct making *m)
{
    static uint8_t pool[DATA_SIZE];
    static bool filled;
    unsigned first = below(m, DATA_SIZE / 8) * 8;

    for (unsigned i = 0; !filled && i < DATA_SIZE; i += 64) {
        struct rng rng = {.s = i};
        value_fill(&rng, pool + i, 64);
    }
    filled = true;
    memcpy(m->c->image + DATA_AT, pool + first, DATA_SIZE - first);
    memcpy(m->c->image + DATA_AT + DATA_SIZE - first, pool, first);
}

void diff_make(const struct encodings *e, uint64_t seed, uint64_t number, struct diff_case *c)
{
    struct making m = {.encodings = e, .c = c};
    unsigned at = 0, want;

    memset(c, 0, sizeof(*c));
    m.rng.s = seed * 0x9e3779b97f4a7c15ull ^ number * 0xd1342543de82ef95ull;
    rng_next(&m.rng);
    c->seed = seed;
    c->number = number;
    c->start = below(&m, 2) ? START_64 : (enum start)below(&m, START_COUNT);
    c->user = c->start != START_REAL && c->start != START_16 && c->start != START_V86 && below(&m, 2);
    m.mode = diff_mode(c->start);
    c->code_offset = (uint16_t)below(&m, 0x800);
    if (one_in(&m, 3))
        c->code_offset = (uint16_t)(0x1000 - below(&m, 120));
    registers_make(&m);
    tables_make(&m);
    data_make(&m);
    memset(c->image + CODE_AT, 0xf4, DATA_AT - CODE_AT);
    want = 2 + below(&m, PIECES - 2);
    while (c->pieces < want) {
        m.bytes = c->piece[c->pieces].bytes;
        piece_make(&m, at);
        if (m.n == 0)
            continue;
        c->piece[c->pieces].offset = (uint16_t)at;
        c->piece[c->pieces].length = (uint8_t)m.n;
        at += m.n;
        c->pieces++;
    }
}

void diff_place_code(const struct diff_case *c, uint64_t dropped, uint8_t *image)
{
    for (unsigned i = 0; i < c->pieces; i++) {
        uint8_t *to = image + CODE_AT + c->code_offset + c->piece[i].offset;
        if (dropped >> i & 1)
            memset(to, 0x90, c->piece[i].length);
        else
            memcpy(to, c->piece[i].bytes, c->piece[i].length);
    }
}
