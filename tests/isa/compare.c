/* Judges the two results of a case.
 *
 * Equal means: vector, error code, CR2, every register, and every byte of the arena. Not compared are
 *   - flags that the manual calls undefined: the decoder knows them for each instruction; flags_undefined() narrows that
 *     down for shifts, where it depends on the count;
 *   - destinations that the manual calls undefined: result_undefined();
 *   - RFLAGS.RF, which the processor sets in the image it pushes for a fault, and IF and IOPL, which are the host's;
 *   - the x87 instruction and data pointers and the last opcode: AMD's processors restore them only with an unmasked
 *     exception pending, so the host forgets them (APM vol. 2, 11.4.4.3); images of them in memory likewise;
 *   - PF_P for addresses that are not a user's: Linux always reports it set, so as not to give away what is mapped.
 *
 * Where processors themselves differ, the case is excused, by name: see excuses[].
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
    uint8_t bytes[16];

    memset(bytes, 0xcc, sizeof(bytes));
    if (offset < c->length)
        memcpy(bytes, c->code + offset, c->length - offset < 15u ? c->length - offset : 15u);
    d->valid = offset < c->length &&
               ZYAN_SUCCESS(ZydisDecoderDecodeFull(isa_decoder(c->mode), bytes, 15, &d->in, d->operands));
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

bool isa_may_keep_flags(const ZydisDecodedInstruction *in)
{
    return is_shift(in->mnemonic) || is_rotate(in->mnemonic) || is_double_shift(in->mnemonic) ||
           (in->attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
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

    if (c->row == ROW_PROGRAM)
        return isa_program_undefined(c, rip);
    while (c->state.rip + offset != rip && decode_at(c, offset, &d)) {
        const ZydisAccessedFlags *flags = d.in.cpu_flags;
        if (flags != NULL && (offset == 0 || !isa_may_keep_flags(&d.in)))
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
        uint64_t differ = a->gpr[i] ^ b->gpr[i];
        /* After a far transfer out of 64-bit mode the upper halves are undefined (SDM vol. 1, 3.4.1.1). */
        if (i < 8 && a->seg[ISA_CS] != SEL_USER_CS)
            differ = (uint32_t)differ;
        /* Linux' espfix leaves something of its own there for 16-bit stacks. */
        if (i == 4 && c->mode != ISA_64)
            differ = (uint32_t)differ;
        if (differ == 0)
            continue;
        if (d->valid && c->count == 1 && result_undefined(c, d) && d->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (unsigned)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
                                                                         d->operands[0].reg.value)) == i)
            continue;
        return false;
    }
    return true;
}

/* The RPL of a null selector is lost when the kernel returns to user mode (SDM vol. 2, IRET). */
static bool segs_equal(const struct isa_state *a, const struct isa_state *b)
{
    for (unsigned i = 0; i < ISA_SEG_COUNT; i++) {
        if (a->seg[i] != b->seg[i] && (a->seg[i] > 3 || b->seg[i] > 3))
            return false;
    }
    return true;
}

static bool vectors_equal(const struct isa_result *a, const struct isa_result *b)
{
    uint32_t differ = a->error ^ b->error;

    if (a->vector != b->vector || a->cr2 != b->cr2)
        return false;
    if (a->vector == 14 && a->cr2 >= 0x7ffffffff000)
        differ &= ~1u;
    return differ == 0;
}

/* ---- what two correct processors may do differently ---- */
struct excuse_context {
    const struct isa_case *c;
    const struct decoded *d; /* the instruction that faulted, or the first */
    const struct isa_result *native, *ring3;
};

static bool is_fault(const struct isa_result *r)
{
    return r->vector < 32;
}

/* #SS, #GP, #PF, #AC: of several that apply, processors check for them in their own order. */
static bool is_memory_fault(const struct isa_result *r)
{
    return r->vector == 12 || r->vector == 13 || r->vector == 14 || r->vector == 17;
}

static bool excuse_branch(const struct excuse_context *x)
{
    uint64_t rip = x->native->state.rip;
    return x->native->vector == 13 && x->ring3->vector == 13 && (uint64_t)((int64_t)(rip << 16) >> 16) != rip;
}

static bool excuse_no_row(const struct excuse_context *x)
{
    return x->d->valid && isa_row_of(x->d->in.mnemonic) < 0 && x->ring3->vector == 6;
}

static bool is_gather(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ: return true;
    default: return false;
    }
}

static bool is_image(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV: return true;
    default: return false;
    }
}

static bool has_wide_operand(const struct decoded *d)
{
    bool wide = false;
    for (unsigned i = 0; d->valid && i < d->in.operand_count; i++)
        wide |= d->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && d->operands[i].size >= 128;
    return wide;
}

static bool loads_far_pointer(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_LDS || mnemonic == ZYDIS_MNEMONIC_LES || mnemonic == ZYDIS_MNEMONIC_LFS ||
           mnemonic == ZYDIS_MNEMONIC_LGS || mnemonic == ZYDIS_MNEMONIC_LSS || mnemonic == ZYDIS_MNEMONIC_JMP ||
           mnemonic == ZYDIS_MNEMONIC_CALL;
}

static bool excuse_alignment(const struct excuse_context *x)
{
    bool one = x->native->vector == 17 || x->ring3->vector == 17;
    if (!(x->c->state.rflags & 0x40000) || !one)
        return false;
    if (is_memory_fault(x->native) && is_memory_fault(x->ring3) && x->native->state.rip == x->ring3->state.rip)
        return true;
    return x->d->valid && (is_gather(x->d->in.mnemonic) || is_image(x->d->in.mnemonic) || has_wide_operand(x->d) ||
                           loads_far_pointer(x->d->in.mnemonic));
}

static bool excuse_aligned_operand(const struct excuse_context *x)
{
    return x->d->valid && (has_wide_operand(x->d) || is_image(x->d->in.mnemonic)) &&
           x->native->vector + x->ring3->vector == 12 + 13;
}

static bool excuse_wrap(const struct excuse_context *x)
{
    uint64_t cr2 = x->native->vector == 14 ? x->native->cr2 : x->ring3->cr2;
    if (x->d->valid && is_image(x->d->in.mnemonic))
        cr2 = 0; /* wherever its segment ends */
    uint64_t at_end = cr2 & 0x0fffffff; /* the segments' bases are multiples of 256 MiB */
    return x->c->mode != ISA_64 && is_memory_fault(x->native) && is_memory_fault(x->ring3) &&
           (x->native->vector == 14) != (x->ring3->vector == 14) && (at_end >= 0x0ffffc00 || at_end < 0x400);
}

static bool excuse_partial(const struct excuse_context *x)
{
    switch (x->d->valid ? x->d->in.mnemonic : ZYDIS_MNEMONIC_INVALID) {
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ: return is_memory_fault(x->native) && is_memory_fault(x->ring3);
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
        /* A far call to another mode pushes as the old or as the new one does. */
        return is_fault(x->native) &&
               (is_fault(x->ring3) || x->d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR);
    default: return false;
    }
}

static bool excuse_image(const struct excuse_context *x)
{
    uint64_t apart = x->native->cr2 - x->ring3->cr2;
    return x->d->valid && is_image(x->d->in.mnemonic) && is_memory_fault(x->native) && is_memory_fault(x->ring3) &&
           (x->native->vector != x->ring3->vector || apart < 512 || -apart < 512);
}

static bool excuse_mask_move(const struct excuse_context *x)
{
    uint32_t apart = (uint32_t)(x->native->cr2 - x->ring3->cr2);
    switch (x->d->valid ? x->d->in.mnemonic : ZYDIS_MNEMONIC_INVALID) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: break;
    default: return false;
    }
    if (is_memory_fault(x->native) && x->ring3->state.rip != x->native->state.rip)
        return true; /* nothing was selected of what cannot be written */
    return is_memory_fault(x->native) && is_memory_fault(x->ring3) &&
           (x->native->vector != x->ring3->vector || x->c->mode != ISA_64 || apart < 16 || -apart < 16);
}

static bool excuse_gather(const struct excuse_context *x)
{
    return x->d->valid && is_gather(x->d->in.mnemonic) && is_memory_fault(x->native) &&
           vectors_equal(x->native, x->ring3);
}

static bool excuse_undefined_opcode(const struct excuse_context *x)
{
    return x->d->valid && x->native->vector == 6 && x->ring3->vector == 14 &&
           (x->d->in.mnemonic == ZYDIS_MNEMONIC_UD0 || x->d->in.mnemonic == ZYDIS_MNEMONIC_UD1);
}

static bool excuse_no_iteration(const struct excuse_context *x)
{
    uint64_t count = x->c->state.gpr[1];
    if (!x->d->valid || x->native->vector != 13 || x->ring3->state.rip == x->native->state.rip)
        return false;
    if (x->d->in.address_width < 64)
        count &= (1ull << x->d->in.address_width) - 1;
    switch (x->d->in.mnemonic) {
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD: return x->c->count == 1 ? count == 0 : true;
    default: return false;
    }
}

static bool excuse_too_long(const struct excuse_context *x)
{
    return !x->d->valid && x->c->length >= 15 && (x->native->vector == 6 || x->ring3->vector == 6) &&
           is_fault(x->native) && is_fault(x->ring3);
}

static bool excuse_prefetch(const struct excuse_context *x)
{
    return x->d->valid && x->d->in.mnemonic == ZYDIS_MNEMONIC_NOP && x->d->in.opcode == 0x0d &&
           (x->native->vector == 6 || x->ring3->vector == 6);
}

static bool excuse_sha(const struct excuse_context *x)
{
    return x->d->valid && x->d->in.meta.isa_set == ZYDIS_ISA_SET_SHA &&
           ((is_memory_fault(x->ring3) && x->ring3->vector == 13) || x->native->vector == 13);
}

static bool excuse_null_base(const struct excuse_context *x)
{
    const struct isa_state *a = &x->native->state, *b = &x->ring3->state;
    bool fs = a->fs_base != b->fs_base, gs = a->gs_base != b->gs_base;
    return x->native->vector == x->ring3->vector && x->c->mode == ISA_64 && (fs || gs) &&
           (!fs || (a->seg[ISA_FS] <= 3 && (a->fs_base == 0 || b->fs_base == 0))) &&
           (!gs || (a->seg[ISA_GS] <= 3 && (a->gs_base == 0 || b->gs_base == 0)));
}

/* INT1 is among what is left of a damaged instruction. */
static bool excuse_debug(const struct excuse_context *x)
{
    return x->c->row == ROW_BYTES && x->native->vector == 1;
}

static bool excuse_endless(const struct excuse_context *x)
{
    return x->native->vector == ISA_HANG && x->ring3->vector == ISA_HANG;
}

/* Seen with a far call from 32-bit code with ESP = 0: the native run does not end. Why is not known. */
static bool excuse_far_wrap(const struct excuse_context *x)
{
    return x->d->valid && x->d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR && x->c->mode != ISA_64 &&
           x->native->vector == ISA_HANG && is_memory_fault(x->ring3);
}

/* LOCK with VERR or VERW is #UD in the manuals; the AMD host of these tests went on. */
static bool excuse_lock_verify(const struct excuse_context *x)
{
    if (x->d->valid || x->ring3->vector != 6 || x->native->vector == 6 || x->c->row != ROW_BYTES)
        return false;
    for (unsigned i = 1; i + 2 < x->c->length; i++)
        if (x->c->code[i] == 0x0f && x->c->code[i + 1] == 0x00 && (x->c->code[i + 2] >> 3 & 6) == 4)
            return memchr(x->c->code, 0xf0, i) != NULL;
    return false;
}

static bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/* An offset that is not canonical, but becomes so when the base of FS or GS is added: some processors look at the
 * offset, too. */
static bool excuse_based_offset(const struct excuse_context *x)
{
    bool fs = x->d->valid && (x->d->in.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS);
    bool gs = x->d->valid && (x->d->in.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS);
    if (x->c->mode != ISA_64 || !(fs || gs) || x->native->vector != 13 || x->ring3->vector == 13)
        return false;
    if (x->ring3->vector == 14)
        return !is_canonical(x->ring3->cr2 - (fs ? x->c->state.fs_base : x->c->state.gs_base));
    return x->d->in.meta.category == ZYDIS_CATEGORY_STRINGOP && !is_canonical(x->c->state.gpr[6]);
}

/* VEX.W = 0 where the manuals want 1, outside 64-bit mode: the AMD host of these tests went on. */
static bool excuse_vex_w(const struct excuse_context *x)
{
    return x->c->mode != ISA_64 && !x->d->valid && x->ring3->vector == 6 && x->native->vector != 6 &&
           x->c->row == ROW_BYTES && memchr(x->c->code, 0xc4, x->c->length) != NULL;
}

static const struct {
    bool (*applies)(const struct excuse_context *x);
    const char *why;
} excuses[] = {
    {excuse_branch, "a branch to a non-canonical address faults at its target on AMD, before it on Intel (APM 2, 8.2.14)"},
    {excuse_no_row, "an instruction that ring3's processors do not have"},
    {excuse_alignment, "#AC: order among faults, and whether gathers and x87 images are checked (SDM 3, 6.15)"},
    {excuse_aligned_operand, "misaligned and outside the stack segment: either fault may be reported (SDM 3, table 6-2)"},
    {excuse_wrap, "an operand over the 4-GiB end of a flat segment (SDM 3, 5.3)"},
    {excuse_partial, "several accesses: their order, and what is done before the one that faults (SDM 1, 4.9)"},
    {excuse_image, "a state image: which of its bytes faults first"},
    {excuse_mask_move, "a masked move: which byte faults first, and whether one that moves nothing faults (SDM 2, MASKMOVDQU)"},
    {excuse_gather, "a gather that faults: how far it came (SDM 2, VGATHERDPS)"},
    {excuse_undefined_opcode, "UD0, UD1: whether a ModRM byte is fetched (SDM 2, UD)"},
    {excuse_no_iteration, "REP INS and OUTS with a count of 0: whether the port is checked"},
    {excuse_too_long, "an instruction that is invalid in more than one way"},
    {excuse_prefetch, "0F 0D with a register: NOP on Intel, #UD on AMD (APM 3, PREFETCH)"},
    {excuse_sha, "SHA instructions: AMD's processors do not check the alignment of their operand"},
    {excuse_debug, "INT1 cannot be delivered without an IDT"},
    {excuse_endless, "neither ends: they are stopped at different times"},
    {excuse_far_wrap, "a far transfer out of legacy code that the native run does not come back from: unexplained"},
    {excuse_lock_verify, "LOCK before VERR or VERW: not refused by an AMD host (SDM 2, LOCK: #UD)"},
    {excuse_based_offset, "a non-canonical offset that the base of FS or GS makes canonical: #GP on an AMD host, not explained by the manuals"},
    {excuse_vex_w, "VEX.W = 0 outside 64-bit mode, where the instruction demands 1 (SDM 2, VPERMQ)"},
    {excuse_null_base, "a null selector in FS or GS: AMD's processors may keep the base (APM 2, 4.5.3)"},
};

/* RIP of the instruction over which they part. */
static uint64_t first_fault(const struct isa_result *native, const struct isa_result *ring3)
{
    if (is_fault(native) && is_fault(ring3))
        return native->state.rip < ring3->state.rip ? native->state.rip : ring3->state.rip;
    return (is_fault(native) ? native : ring3)->state.rip;
}

static const char *excuse_at(const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3,
                             uint64_t rip)
{
    struct decoded d;
    uint64_t at = rip - c->state.rip;
    struct excuse_context x = {c, &d, native, ring3};

    if (!(is_fault(native) || is_fault(ring3)) || at >= c->length)
        at = 0;
    decode_at(c, (unsigned)at, &d);
    for (unsigned i = 0; i < ARRAY_LEN(excuses); i++) {
        if (excuses[i].applies(&x))
            return excuses[i].why;
    }
    return NULL;
}

const char *isa_excuse(const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3)
{
    if (c->row != ROW_PROGRAM || !(is_fault(native) || is_fault(ring3)))
        return excuse_at(c, native, ring3, first_fault(native, ring3));
    /* In a program either may be the earlier one. */
    const char *why = is_fault(native) ? excuse_at(c, native, ring3, native->state.rip) : NULL;
    return why == NULL && is_fault(ring3) ? excuse_at(c, native, ring3, ring3->state.rip) : why;
}

enum isa_verdict isa_compare(const struct isa_case *c, const struct isa_result *native, const struct isa_result *ring3)
{
    const struct isa_state *a = &native->state, *b = &ring3->state;
    struct decoded d;
    bool equal;

    decode_at(c, 0, &d);
    unsigned flags = (unsigned)(a->rflags ^ b->rflags) & FLAGS_COMPARED;
    if (flags & STATUS_FLAGS)
        flags &= ~flags_undefined_at(c, native->state.rip);
    equal = vectors_equal(native, ring3) && a->rip == b->rip && flags == 0 &&
            gprs_equal(c, &d, a, b) && segs_equal(a, b) && a->mxcsr == b->mxcsr &&
            a->fcw == b->fcw && a->fsw == b->fsw && a->ftw == b->ftw && memcmp(a->ymm, b->ymm, sizeof(a->ymm)) == 0;
    for (unsigned i = 0; i < 8; i++)
        equal = equal && memcmp(a->st[i], b->st[i], 10) == 0;
    if (c->mode == ISA_64 && a->seg[ISA_CS] == SEL_USER_CS)
        equal = equal && a->fs_base == b->fs_base && a->gs_base == b->gs_base;
    equal = equal && arenas_equal(c, &d, native, ring3);
    if (equal)
        return ISA_SAME;
    return isa_excuse(c, native, ring3) != NULL ? ISA_EXCUSED : ISA_DIFFERENT;
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

void isa_report_brief(FILE *out, const struct isa_case *c, const struct isa_result *native,
                      const struct isa_result *ring3)
{
    static const char *const gprs[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const unsigned modes[] = {64, 32, 16};
    const struct isa_state *a = &native->state, *b = &ring3->state;
    char buffer[2][32], text[128] = "(not an instruction)";
    ZydisFormatter formatter;
    struct decoded d;

    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (decode_at(c, 0, &d))
        ZydisFormatterFormatInstruction(&formatter, &d.in, d.operands, d.in.operand_count_visible, text, sizeof(text),
                                        c->state.rip, NULL);
    fprintf(out, "%s %llu (%u-bit) %s%s: host %s, ring3 %s;", isa_row_name(c->row), (unsigned long long)c->number,
            modes[c->mode], text, c->count > 1 ? " ..." : "", outcome_name(native->vector, buffer[0]),
            outcome_name(ring3->vector, buffer[1]));
    if (!vectors_equal(native, ring3))
        fprintf(out, " error %x:%x cr2 %llx:%llx", native->error, ring3->error, (unsigned long long)native->cr2,
                (unsigned long long)ring3->cr2);
    for (unsigned i = 0; i < 16; i++) {
        if (a->gpr[i] != b->gpr[i])
            fprintf(out, " %s %llx:%llx", gprs[i], (unsigned long long)a->gpr[i], (unsigned long long)b->gpr[i]);
    }
    if (a->rip != b->rip)
        fprintf(out, " rip %llx:%llx", (unsigned long long)a->rip, (unsigned long long)b->rip);
    unsigned flags = FLAGS_COMPARED & ~flags_undefined_at(c, a->rip);
    if ((a->rflags ^ b->rflags) & flags)
        fprintf(out, " flags %x:%x", (unsigned)a->rflags & flags, (unsigned)b->rflags & flags);
    if (!segs_equal(a, b))
        fprintf(out, " segments");
    if (a->fs_base != b->fs_base || a->gs_base != b->gs_base)
        fprintf(out, " bases %llx,%llx:%llx,%llx", (unsigned long long)a->fs_base, (unsigned long long)a->gs_base,
                (unsigned long long)b->fs_base, (unsigned long long)b->gs_base);
    if (a->mxcsr != b->mxcsr)
        fprintf(out, " mxcsr %x:%x", a->mxcsr, b->mxcsr);
    if (a->fcw != b->fcw || a->fsw != b->fsw || a->ftw != b->ftw)
        fprintf(out, " x87 %x,%x,%x:%x,%x,%x", a->fcw, a->fsw, a->ftw, b->fcw, b->fsw, b->ftw);
    if (memcmp(a->st, b->st, sizeof(a->st)) != 0)
        fprintf(out, " st");
    if (memcmp(a->ymm, b->ymm, sizeof(a->ymm)) != 0)
        fprintf(out, " ymm");
    for (unsigned i = 0; i < ARENA_SIZE; i++) {
        if (native->arena[i] != ring3->arena[i]) {
            fprintf(out, " memory from %x", i);
            break;
        }
    }
    fputc('\n', out);
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
    const char *excuse = isa_excuse(c, native, ring3);
    if (excuse != NULL)
        fprintf(out, "  if they differ, that is excused: %s\n", excuse);
    fprintf(out, "  again: isa_test --seed %llu --case %llu --row %s\n\n", (unsigned long long)c->seed,
            (unsigned long long)c->number, isa_row_name(c->row));
}
