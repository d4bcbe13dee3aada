/* Judges the two results of a case.
 *
 * Equal means: vector, error code, CR2, every register, and every byte of the arena. Not compared are
 *   - flags that the manual calls undefined: the decoder knows them for each instruction; flags_undefined() narrows that
 *     down for shifts, where it depends on the count;
 *   - destinations that the manual calls undefined: result_undefined();
 *   - RFLAGS.RF, which the processor sets in the image it pushes for a fault, and IF and IOPL, which are the host's;
 *   - the x87 instruction and data pointers and the last opcode: AMD's processors restore them only with an unmasked
 *     exception pending, so the host forgets them (APM vol. 2, 11.4.4.3); images of them in memory likewise;
 *   - PF_P for addresses in the kernel's half: Linux always reports it set, so as not to give away what is mapped.
 *
 * Where processors themselves differ, the case is excused, by name: excuse_of().
 */
#include "isa.h"

#define FLAGS_COMPARED 0x00244dd5u /* CF PF AF ZF SF TF DF OF NT AC ID */
#define STATUS_FLAGS 0x8d5u

struct decoded {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    bool valid;
};

static bool decode_at(const struct isa_case *c, unsigned offset, struct decoded *d)
{
    uint8_t bytes[16 + CODE_MAX];

    memset(bytes, 0xcc, sizeof(bytes));
    memcpy(bytes, c->code, c->length);
    d->valid = offset < c->length && ZYAN_SUCCESS(ZydisDecoderDecodeFull(isa_decoder(c->mode), bytes + offset, 15, &d->in,
                                                                         d->operands));
    return d->valid;
}

static bool is_shift(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_SHL || mnemonic == ZYDIS_MNEMONIC_SHR || mnemonic == ZYDIS_MNEMONIC_SAR;
}

static bool is_rotate(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_ROL || mnemonic == ZYDIS_MNEMONIC_ROR || mnemonic == ZYDIS_MNEMONIC_RCL ||
           mnemonic == ZYDIS_MNEMONIC_RCR;
}

static bool is_double_shift(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_SHLD || mnemonic == ZYDIS_MNEMONIC_SHRD;
}

/* Masked count of a shift or rotate that is the case's first instruction. */
static unsigned shift_count(const struct isa_case *c, const struct decoded *d)
{
    const ZydisDecodedOperand *op = &d->operands[is_double_shift(d->in.mnemonic) ? 2 : 1];
    uint64_t count = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? op->imm.value.u : c->state.gpr[1];
    return (unsigned)count & (d->in.operand_width == 64 ? 63 : 31);
}

/* SDM vol. 2: SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD, under "Flags Affected". */
static unsigned flags_undefined(const struct isa_case *c, const struct decoded *d, bool first)
{
    ZydisMnemonic mnemonic = d->in.mnemonic;
    unsigned undefined = d->in.cpu_flags != NULL ? d->in.cpu_flags->undefined : 0;

    if (!first || !(is_shift(mnemonic) || is_rotate(mnemonic) || is_double_shift(mnemonic)))
        return is_rotate(mnemonic) ? undefined | 0x800 : is_shift(mnemonic) ? undefined | 0x811 : undefined;
    unsigned count = shift_count(c, d);
    unsigned size = d->in.operand_width;
    if (count == 0)
        return 0;
    if (is_rotate(mnemonic))
        return count == 1 ? 0 : 0x800;
    undefined = 0x10 | (count == 1 ? 0 : 0x800);
    if (is_double_shift(mnemonic))
        return count > size ? STATUS_FLAGS : undefined;
    return undefined | (count >= size && mnemonic != ZYDIS_MNEMONIC_SAR ? 1 : 0);
}

/* The flags that are undefined when execution has come to `rip`. */
static unsigned flags_undefined_at(const struct isa_case *c, uint64_t rip)
{
    unsigned undefined = 0, offset = 0;
    struct decoded d;

    while (c->state.rip + offset != rip && decode_at(c, offset, &d)) {
        const ZydisAccessedFlags *flags = d.in.cpu_flags;
        if (flags != NULL)
            undefined &= ~(unsigned)(flags->modified | flags->set_0 | flags->set_1);
        undefined |= flags_undefined(c, &d, offset == 0);
        offset += d.in.length;
    }
    return undefined;
}

/* The destination has no defined value: SHLD and SHRD by more than the operand's size, BSWAP of 16 bits (SDM vol. 2). */
static bool result_undefined(const struct isa_case *c, const struct decoded *d)
{
    if (is_double_shift(d->in.mnemonic))
        return shift_count(c, d) > d->in.operand_width;
    return d->in.mnemonic == ZYDIS_MNEMONIC_BSWAP && d->in.operand_width == 16;
}

/* Bytes of the image that hold x87 pointers and the last opcode, relative to its start. */
static unsigned pointer_bytes(const struct decoded *d, unsigned *first)
{
    switch (d->in.mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
        *first = d->in.operand_width == 16 ? 6 : 12;
        return d->in.operand_width == 16 ? 8 : 16;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        *first = 6;
        return 18;
    default:
        return 0;
    }
}

/* Start of the first memory operand in the arena, from the initial state; ARENA_SIZE if it is elsewhere. */
static unsigned operand_offset(const struct isa_case *c, const struct decoded *d)
{
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        ZydisRegisterContext context;
        memset(&context, 0, sizeof(context));
        for (unsigned r = 0; r < 16; r++) {
            context.values[ZYDIS_REGISTER_RAX + r] = c->state.gpr[r];
            context.values[ZYDIS_REGISTER_EAX + r] = (uint32_t)c->state.gpr[r];
            context.values[ZYDIS_REGISTER_AX + r] = (uint16_t)c->state.gpr[r];
        }
        uint64_t offset = 0;
        ZydisCalcAbsoluteAddressEx(&d->in, op, c->state.rip, &context, &offset);
        enum isa_seg seg = op->mem.segment == ZYDIS_REGISTER_ES   ? ISA_ES
                           : op->mem.segment == ZYDIS_REGISTER_CS ? ISA_CS
                           : op->mem.segment == ZYDIS_REGISTER_SS ? ISA_SS
                           : op->mem.segment == ZYDIS_REGISTER_FS ? ISA_FS
                           : op->mem.segment == ZYDIS_REGISTER_GS ? ISA_GS
                                                                  : ISA_DS;
        uint64_t linear = offset + isa_seg_base(&c->state, c->mode, seg);
        linear -= linear >= ALIAS ? ALIAS : ARENA;
        return linear < ARENA_SIZE ? (unsigned)linear : ARENA_SIZE;
    }
    return ARENA_SIZE;
}

static bool arenas_equal(const struct isa_case *c, const struct decoded *d, const struct isa_result *a,
                         const struct isa_result *b)
{
    if (memcmp(a->arena, b->arena, ARENA_SIZE) == 0)
        return true;
    unsigned first = 0, count = d->valid ? pointer_bytes(d, &first) : 0;
    if (count == 0)
        return d->valid && result_undefined(c, d) && d->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    unsigned from = operand_offset(c, d) + first, to = from + count;
    if (to > ARENA_SIZE)
        return false;
    return memcmp(a->arena, b->arena, from) == 0 && memcmp(a->arena + to, b->arena + to, ARENA_SIZE - to) == 0;
}

static bool gprs_equal(const struct isa_case *c, const struct decoded *d, const struct isa_state *a,
                       const struct isa_state *b)
{
    for (unsigned i = 0; i < 16; i++) {
        if (a->gpr[i] == b->gpr[i])
            continue;
        if (d->valid && c->count == 1 && result_undefined(c, d) && d->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (unsigned)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
                                                                         d->operands[0].reg.value)) == i)
            continue;
        return false;
    }
    return true;
}

static bool vectors_equal(const struct isa_result *a, const struct isa_result *b)
{
    uint32_t differ = a->error ^ b->error;

    if (a->vector != b->vector || a->cr2 != b->cr2)
        return false;
    if (a->vector == 14 && a->cr2 >> 63)
        differ &= ~1u;
    return differ == 0;
}

/* What two correct processors may do differently, or NULL. */
static const char *excuse_of(const struct isa_case *c, const struct decoded *d, const struct isa_result *native,
                             const struct isa_result *ring3)
{
    bool native_lost = (uint64_t)((int64_t)(native->state.rip << 16) >> 16) != native->state.rip;

    (void)c;
    if (native->vector == 13 && ring3->vector == 13 && native_lost)
        return "a branch to a non-canonical address faults at its target on AMD, at the branch on Intel (APM vol. 2, 8.2.14)";
    if (d->valid && isa_row_of(d->in.mnemonic) < 0 && ring3->vector == 6)
        return "an instruction that ring3's processor does not have";
    return NULL;
}

enum isa_verdict isa_compare(const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3)
{
    const struct isa_state *a = &native->state, *b = &ring3->state;
    struct decoded d;
    bool equal;

    decode_at(c, 0, &d);
    unsigned flags = FLAGS_COMPARED & ~flags_undefined_at(c, native->state.rip);
    equal = vectors_equal(native, ring3) && a->rip == b->rip && ((a->rflags ^ b->rflags) & flags) == 0 &&
            gprs_equal(c, &d, a, b) && memcmp(a->seg, b->seg, sizeof(a->seg)) == 0 && a->mxcsr == b->mxcsr &&
            a->fcw == b->fcw && a->fsw == b->fsw && a->ftw == b->ftw && memcmp(a->ymm, b->ymm, sizeof(a->ymm)) == 0;
    for (unsigned i = 0; i < 8; i++)
        equal = equal && memcmp(a->st[i], b->st[i], 10) == 0;
    if (c->mode == ISA_64 && a->seg[ISA_CS] == SEL_USER_CS)
        equal = equal && a->fs_base == b->fs_base && a->gs_base == b->gs_base;
    equal = equal && arenas_equal(c, &d, native, ring3);
    if (equal)
        return ISA_SAME;
    return excuse_of(c, &d, native, ring3) != NULL ? ISA_EXCUSED : ISA_DIFFERENT;
}

/* ---- reports ---- */
static const char *outcome_name(uint32_t vector, char buffer[32])
{
    static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",
                                        "#TS", "#NP", "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM"};
    if (vector < ARRAY_LEN(names))
        return names[vector];
    if (vector >= ISA_END && vector <= ISA_CRASH)
        return (const char *const[]){"ran to its end", "did not end", "killed the process"}[vector - ISA_END];
    snprintf(buffer, 32, "vector %u", vector);
    return buffer;
}

static void report_value(FILE *out, const char *name, uint64_t before, uint64_t native, uint64_t ring3)
{
    bool differ = native != ring3;
    fprintf(out, "    %-8s %016llx   %016llx   %016llx%s\n", name, (unsigned long long)before,
            (unsigned long long)native, (unsigned long long)ring3, differ ? "  <--" : "");
}

static void report_bytes(FILE *out, const char *name, unsigned index, const uint8_t *before, const uint8_t *native,
                         const uint8_t *ring3, unsigned size, bool always)
{
    const uint8_t *const rows[] = {before, native, ring3};
    static const char *const labels[] = {"before", "host", "ring3"};

    if (!always && memcmp(native, ring3, size) == 0 && memcmp(native, before, size) == 0)
        return;
    fprintf(out, "    %s%u%s\n", name, index, memcmp(native, ring3, size) ? "  <--" : "");
    for (unsigned r = 0; r < 3; r++) {
        fprintf(out, "      %-7s", labels[r]);
        for (unsigned i = size; i-- > 0;)
            fprintf(out, "%02x%s", rows[r][i], i % 8 == 0 && i > 0 ? "_" : "");
        fputc('\n', out);
    }
}

static void report_code(FILE *out, const struct isa_case *c)
{
    static const char *const modes[] = {"64-bit", "32-bit", "16-bit"};
    ZydisFormatter formatter;
    struct decoded d;
    unsigned offset = 0;

    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    fprintf(out, "  code (%s, CS %04x):\n", modes[c->mode], c->state.seg[ISA_CS]);
    do {
        char text[128] = "(not an instruction)";
        unsigned length = c->length - offset;
        if (decode_at(c, offset, &d)) {
            length = d.in.length;
            ZydisFormatterFormatInstruction(&formatter, &d.in, d.operands, d.in.operand_count_visible, text, sizeof(text),
                                            c->state.rip + offset, NULL);
        }
        fprintf(out, "    %08llx ", (unsigned long long)(c->state.rip + offset));
        for (unsigned i = 0; i < length && offset + i < c->length; i++)
            fprintf(out, " %02x", c->code[offset + i]);
        fprintf(out, "   %s\n", text);
        offset += length;
    } while (offset < c->length);
}

static void report_arena(FILE *out, const struct isa_case *c, const struct isa_result *native,
                         const struct isa_result *ring3)
{
    static uint8_t before[ARENA_SIZE];
    unsigned lines = 0;

    memcpy(before, isa_noise(), ARENA_SIZE);
    isa_patch(c, before);
    for (unsigned i = 0; i < ARENA_SIZE; i += 16) {
        if (memcmp(native->arena + i, ring3->arena + i, 16) == 0 && memcmp(native->arena + i, before + i, 16) == 0)
            continue;
        if (++lines > 12) {
            fprintf(out, "    ...\n");
            return;
        }
        char name[32];
        snprintf(name, sizeof(name), "memory %08llx +", (unsigned long long)ARENA + i);
        report_bytes(out, name, 0, before + i, native->arena + i, ring3->arena + i, 16, true);
    }
}

void isa_report(FILE *out, const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3)
{
    static const char *const gprs[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg_names[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    const struct isa_state *s = &c->state, *a = &native->state, *b = &ring3->state;
    char buffer[2][32];
    struct decoded d;

    decode_at(c, 0, &d);
    fprintf(out, "%s case %llu:\n", isa_row_name(c->row), (unsigned long long)c->number);
    report_code(out, c);
    fprintf(out, "  outcome: host %s (error %x, cr2 %llx), ring3 %s (error %x, cr2 %llx)%s\n",
            outcome_name(native->vector, buffer[0]), native->error, (unsigned long long)native->cr2,
            outcome_name(ring3->vector, buffer[1]), ring3->error, (unsigned long long)ring3->cr2,
            vectors_equal(native, ring3) ? "" : "  <--");
    fprintf(out, "             before             host               ring3\n");
    for (unsigned i = 0; i < 16; i++)
        report_value(out, gprs[i], s->gpr[i], a->gpr[i], b->gpr[i]);
    report_value(out, "rip", s->rip, a->rip, b->rip);
    unsigned undefined = flags_undefined_at(c, a->rip);
    report_value(out, "rflags", s->rflags & FLAGS_COMPARED, a->rflags & FLAGS_COMPARED & ~undefined,
                 b->rflags & FLAGS_COMPARED & ~undefined);
    for (unsigned i = 0; i < ISA_SEG_COUNT; i++)
        report_value(out, seg_names[i], s->seg[i], a->seg[i], b->seg[i]);
    if (c->mode == ISA_64) {
        report_value(out, "fs.base", s->fs_base, a->fs_base, b->fs_base);
        report_value(out, "gs.base", s->gs_base, a->gs_base, b->gs_base);
    }
    report_value(out, "mxcsr", s->mxcsr, a->mxcsr, b->mxcsr);
    report_value(out, "fcw", s->fcw, a->fcw, b->fcw);
    report_value(out, "fsw", s->fsw, a->fsw, b->fsw);
    report_value(out, "ftw", s->ftw, a->ftw, b->ftw);
    for (unsigned i = 0; i < 8; i++)
        report_bytes(out, "st", i, s->st[i], a->st[i], b->st[i], 10, false);
    for (unsigned i = 0; i < 16; i++)
        report_bytes(out, "ymm", i, s->ymm[i], a->ymm[i], b->ymm[i], 32, false);
    report_arena(out, c, native, ring3);
    fprintf(out, "  again: isa_test --seed %llu --case %llu --row %s\n\n", (unsigned long long)c->seed,
            (unsigned long long)c->number, isa_row_name(c->row));
}
