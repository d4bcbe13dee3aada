/* Decoding.
 *
 * Zydis knows encodings, prefixes (legal and illegal), LOCK rules, operand and address sizes and the 15-byte limit. What is
 * decided here: which operands the C functions see and how (insn.h), whether an effective address is plain, and which
 * function runs. An instruction that the guest's processor does not have (isa_set.c) is undefined.
 *
 * 16-bit code decodes alike in real, virtual-8086 and protected mode; the functions whose instructions exist only in
 * protected mode check for it.
 */
#include "cpu/decode.h"

#include <stdlib.h>

#include "base/check.h"
#include "cpu/cpuid.h"
#include "cpu/fast.h"
#include "cpu/host_exec.h"
#include "cpu/isa_set.h"
#include "cpu/ops.h"

const struct insn_row_info insn_rows[ROW_COUNT] = {
#define FAST HOW_FAST
#define SLOW HOW_SLOW
#define HOST HOW_HOST
#define INSN(mnemonic, how, meaning, lowering) {ZYDIS_MNEMONIC_##mnemonic, #mnemonic, how, LOWER_##lowering},
#include "cpu/insn.def"
#undef INSN
#undef FAST
#undef SLOW
#undef HOST
};

/* The pickers and operations, by row. */
#define FAST(meaning) pick_fn pick_##meaning;
#define SLOW(meaning)
#define HOST(meaning)
#define INSN(mnemonic, how, meaning, lowering) how(meaning)
#include "cpu/insn.def"
#undef INSN
#undef FAST
#undef SLOW
#undef HOST

static const struct row_code {
    pick_fn *pick;
    insn_op *op;
} row_code[ROW_COUNT] = {
#define FAST(meaning) {.pick = pick_##meaning},
#define SLOW(meaning) {.op = op_##meaning},
#define HOST(meaning) {.op = NULL},
#define INSN(mnemonic, how, meaning, lowering) how(meaning)
#include "cpu/insn.def"
#undef INSN
#undef FAST
#undef SLOW
#undef HOST
};

/* Row number plus one by mnemonic, 0 for none. */
static const uint16_t row_of[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define INSN(mnemonic, how, meaning, lowering) [ZYDIS_MNEMONIC_##mnemonic] = ROW_##mnemonic + 1,
#include "cpu/insn.def"
#undef INSN
};

enum insn_row insn_row_of(ZydisMnemonic mnemonic)
{
    return row_of[mnemonic] == 0 ? ROW_NONE : (enum insn_row)(row_of[mnemonic] - 1);
}

struct decoders {
    ZydisDecoder of[CODE_MODE_COUNT];
};

static struct decoders *decoders_create(const struct cpu_model *model)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[CODE_MODE_COUNT] = {
        [CODE_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
        [CODE_32_FLAT] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [CODE_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [CODE_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
    };
    struct decoders *decoders = calloc(1, sizeof *decoders);
    check(decoders != NULL);
    for (unsigned mode = 0; mode < CODE_MODE_COUNT; mode++) {
        check(ZYAN_SUCCESS(ZydisDecoderInit(&decoders->of[mode], modes[mode].machine, modes[mode].stack)));
        isa_set_decoder_init(model, &decoders->of[mode]);
    }
    return decoders;
}

const ZydisDecoder *decoder_of(struct vcpu *v, enum code_mode mode)
{
    if (unlikely(v->decoders == NULL))
        v->decoders = decoders_create(v->model);
    return &v->decoders->of[mode];
}

void decoders_destroy(struct vcpu *v)
{
    free(v->decoders);
    v->decoders = NULL;
}

/* ---- operands ---- */

/* Byte offset within vcpu.regs, or -1 if not a general register. */
static int gpr_offset(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    int id = ZydisRegisterGetId(reg);
    switch (class) {
    case ZYDIS_REGCLASS_GPR8:
        if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
            return (reg - ZYDIS_REGISTER_AH) * 8 + 1;
        if (reg >= ZYDIS_REGISTER_SPL)
            return (reg - ZYDIS_REGISTER_SPL + 4) * 8;
        return (reg - ZYDIS_REGISTER_AL) * 8;
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return id * 8;
    default: return -1;
    }
}

static enum seg seg_number(ZydisRegister reg)
{
    static const uint8_t order[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};
    return reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS ? order[reg - ZYDIS_REGISTER_ES] : SEG_DS;
}

static void decode_register(struct insn *in, unsigned n, ZydisRegister reg)
{
    int offset = gpr_offset(reg);
    if (offset >= 0) {
        in->op_kind[n] = OPERAND_REG;
        in->op_reg[n] = (uint8_t)offset;
        return;
    }
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_SEGMENT:
        in->op_kind[n] = OPERAND_SEG;
        in->op_reg[n] = seg_number(reg);
        break;
    case ZYDIS_REGCLASS_CONTROL:
        in->op_kind[n] = OPERAND_CR;
        in->op_reg[n] = (uint8_t)ZydisRegisterGetId(reg);
        break;
    case ZYDIS_REGCLASS_DEBUG:
        in->op_kind[n] = OPERAND_DR;
        in->op_reg[n] = (uint8_t)ZydisRegisterGetId(reg);
        break;
    default: in->op_kind[n] = OPERAND_OTHER;
    }
}

static uint8_t address_register(ZydisRegister reg)
{
    int offset = gpr_offset(reg);
    return offset < 0 ? GPR_ZERO : (uint8_t)(offset / 8);
}

static void decode_memory(struct insn *in, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    const ZydisDecodedOperandMem *mem = &op->mem;
    in->seg = seg_number(mem->segment);
    in->base = address_register(mem->base);
    in->index = address_register(mem->index);
    in->scale = mem->scale == 0 ? 0 : (uint8_t)__builtin_ctz(mem->scale);
    in->disp = mem->disp.has_displacement ? mem->disp.value : 0;
    in->memsize = op->size / 8 > 255 ? 0 : (uint8_t)(op->size / 8);
    if (mem->base == ZYDIS_REGISTER_RIP || mem->base == ZYDIS_REGISTER_EIP) {
        in->base = GPR_PAGE;
        in->disp += in->off + in->len;
    }
    /* MOD 0 with SIB base 5 means no base and a displacement, whatever REX.B says; Zydis 4.0 takes REX.B for R13D when
     * addresses are 32-bit. */
    if (z->address_width != 16 && z->raw.modrm.mod == 0 && z->raw.modrm.rm == 4 && z->raw.sib.base == 5) {
        in->base = GPR_ZERO;
        in->disp = z->raw.disp.value;
    }
    /* A moffs operand of 32-bit code is an unsigned offset; Zydis sign-extends displacements. */
    if (in->addrsize < 8 && in->base == GPR_ZERO && in->index == GPR_ZERO)
        in->disp = in->addrsize == 4 ? (int64_t)(uint32_t)in->disp : (int64_t)(uint16_t)in->disp;
}

static void classify_address(struct insn *in)
{
    /* A flat CS may be read but not written. */
    bool based = in->seg == SEG_FS || in->seg == SEG_GS || (in->seg == SEG_CS && in->mode != CODE_64);
    if (in->mode == CODE_64 && in->addrsize == 8 && !based)
        return;
    if (in->mode == CODE_32_FLAT && in->addrsize == 4 && !based)
        in->flags |= INSN_EA_32;
    else
        in->flags |= INSN_EA_GENERAL;
}

static void decode_immediate(struct insn *in, unsigned n, const ZydisDecodedOperand *op, unsigned immediates_before)
{
    in->op_kind[n] = OPERAND_IMM;
    if (op->imm.is_relative)
        in->imm = (uint64_t)(op->imm.value.s + in->off + in->len);
    else if (immediates_before == 0)
        in->imm = op->imm.value.u;
    else
        in->imm2 = (uint16_t)op->imm.value.u;
}

static void decode_operands(struct insn *in, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands)
{
    unsigned immediates = 0;
    for (unsigned n = 0; n < z->operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &operands[n];
        unsigned slot = n < 3 ? n : 2;
        switch (op->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (n < 3)
                decode_register(in, n, op->reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            in->op_kind[slot] = OPERAND_MEM;
            decode_memory(in, z, op);
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            in->op_kind[slot] = OPERAND_FAR;
            in->imm = op->ptr.offset;
            in->imm2 = op->ptr.segment;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            decode_immediate(in, slot, op, immediates++);
            break;
        default: break;
        }
    }
}

/* CLZERO has no memory operand that Zydis would know of. */
static uint8_t segment_override_raw(const ZydisDecodedInstruction *z, enum code_mode mode)
{
    uint8_t seg = SEG_DS;
    for (unsigned i = 0; i < z->raw.prefix_count; i++) {
        uint8_t named = SEG_COUNT;
        switch (z->raw.prefixes[i].value) {
        case 0x26: named = SEG_ES; break;
        case 0x2e: named = SEG_CS; break;
        case 0x36: named = SEG_SS; break;
        case 0x3e: named = SEG_DS; break;
        case 0x64: named = SEG_FS; break;
        case 0x65: named = SEG_GS; break;
        default: break;
        }
        if (named != SEG_COUNT && (mode != CODE_64 || named >= SEG_FS)) /* the others mean nothing in 64-bit code */
            seg = named;
    }
    return seg;
}

static uint8_t segment_override(const ZydisDecodedInstruction *z)
{
    if (z->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
        return SEG_ES;
    if (z->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
        return SEG_CS;
    if (z->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
        return SEG_SS;
    if (z->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        return SEG_FS;
    if (z->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
        return SEG_GS;
    return SEG_DS;
}

static uint8_t string_element_size(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_SCASB: case ZYDIS_MNEMONIC_CMPSB: case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_OUTSB: return 1;
    case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_SCASW: case ZYDIS_MNEMONIC_CMPSW: case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_OUTSW: return 2;
    case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_SCASD: case ZYDIS_MNEMONIC_CMPSD: case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSD: return 4;
    case ZYDIS_MNEMONIC_MOVSQ: case ZYDIS_MNEMONIC_STOSQ: case ZYDIS_MNEMONIC_LODSQ:
    case ZYDIS_MNEMONIC_SCASQ: case ZYDIS_MNEMONIC_CMPSQ: return 8;
    default: return 0;
    }
}

/* ---- putting it together ---- */

static void op_too_long(struct vcpu *v, const struct insn *in)
{
    (void)in;
    fault_gp(v, 0);
}

static void make_fault(struct insn *out, insn_op *op, unsigned len)
{
    out->fn = run_slow;
    out->op = op;
    out->row = ROW_NONE;
    out->len = (uint8_t)len;
}

static void choose_function(struct vcpu *v, struct insn *in, const ZydisDecodedInstruction *z,
                            const ZydisDecodedOperand *operands, const uint8_t *bytes)
{
    const struct insn_row_info *info = &insn_rows[in->row];
    const struct row_code *code = &row_code[in->row];
    if (info->how == HOW_SLOW) {
        in->op = code->op;
        in->fn = info->lowering == LOWER_STOP ? run_slow : run_slow_continue;
        return;
    }
    insn_fn *fn = pick_host;
    if (info->how == HOW_FAST)
        fn = code->pick(&(struct pick){.in = in, .z = z, .operands = operands});
    if (fn == pick_host) {
        in->stub = host_stub_make(v, z, operands, bytes);
        fn = in->stub == NULL ? NULL : host_stub_fn(in->stub);
    }
    if (fn == NULL)
        make_fault(in, op_ud, in->len);
    else
        in->fn = fn;
}

enum decode_result decode_insn(struct vcpu *v, enum code_mode mode, const uint8_t *bytes, unsigned available,
                               unsigned off, struct insn *out)
{
    struct decoded decoded;
    return decode_insn_whole(v, mode, bytes, available, off, out, &decoded);
}

enum decode_result decode_insn_whole(struct vcpu *v, enum code_mode mode, const uint8_t *bytes, unsigned available,
                                     unsigned off, struct insn *out, struct decoded *decoded)
{
    ZydisDecodedInstruction *z = &decoded->z;
    ZydisDecodedOperand *operands = decoded->operands;
    *out = (struct insn){.off = (uint16_t)off, .mode = (uint8_t)mode, .base = GPR_ZERO, .index = GPR_ZERO, .seg = SEG_DS};
    ZyanStatus status = ZydisDecoderDecodeFull(decoder_of(v, mode), bytes, available, z, operands);
    if (ZYAN_FAILED(status) && available < INSN_MAX_BYTES && status != ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return status == ZYDIS_STATUS_NO_MORE_DATA ? DECODE_SHORT : DECODE_UNDEFINED_SO_FAR;
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
        status = ZYDIS_STATUS_INSTRUCTION_TOO_LONG;
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
        make_fault(out, op_too_long, INSN_MAX_BYTES);
        return DECODE_OK;
    }
    enum insn_row row = ZYAN_SUCCESS(status) ? insn_row_of(z->mnemonic) : ROW_NONE;
    bool xchg_r8 = row == ROW_PAUSE && z->raw.rex.B; /* REX.B makes 90h an XCHG, whatever prefix stands before it */
    if (xchg_r8)
        row = ROW_XCHG;
    if (row == ROW_NONE || !isa_set_available(v->model, z->meta.isa_set, z)) {
        make_fault(out, op_ud, 1);
        return DECODE_OK;
    }
    v->count.insns_decoded++;
    out->row = (uint16_t)row;
    out->len = z->length;
    out->opcode = z->opcode;
    out->modrm = z->raw.modrm.offset != 0
                     ? (uint8_t)(z->raw.modrm.mod << 6 | z->raw.modrm.reg << 3 | z->raw.modrm.rm)
                     : 0;
    out->opsize = (uint8_t)(z->operand_width / 8);
    bool no_16_bit_form = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX || z->meta.isa_set == ZYDIS_ISA_SET_RDWRFSGS;
    if (no_16_bit_form && out->opsize == 2)
        out->opsize = 4;
    out->addrsize = (uint8_t)(z->address_width / 8);
    out->seg = row == ROW_CLZERO ? segment_override_raw(z, mode) : segment_override(z);
    if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        out->flags |= INSN_LOCK;
    if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        out->flags |= INSN_REP;
    if (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        out->flags |= INSN_REPNE;
    decode_operands(out, z, operands);
    if (xchg_r8) {
        out->opsize = z->raw.rex.W ? 8 : z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE ? 2 : 4;
        out->op_kind[0] = out->op_kind[1] = OPERAND_REG;
        out->op_reg[0] = R8 * 8;
        out->op_reg[1] = RAX * 8;
    }
    uint8_t element = string_element_size(z->mnemonic);
    if (element != 0)
        out->opsize = element;
    classify_address(out);
    choose_function(v, out, z, operands, bytes);
    return DECODE_OK;
}

bool insn_ends_run(const struct insn *in)
{
    if (in->row == ROW_NONE)
        return true;
    if (in->fn == run_slow)
        return true;
    switch (insn_rows[in->row].mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET: return true;
    default: return false;
    }
}

/* Only a mark among what pickers return. */
const struct insn *pick_host(struct vcpu *v, const struct insn *in)
{
    (void)v;
    (void)in;
    check(false);
}

const struct insn *run_end(struct vcpu *v, const struct insn *in)
{
    rip_sync(v, in);
    return NULL;
}

const struct insn *run_again(struct vcpu *v, const struct insn *in)
{
    rip_sync(v, in);
    return NULL;
}
