/* Generating stubs: the guest's instruction, re-encoded for the host, between the loads and stores of what it uses.
 *
 * In a stub RDI points to the memory operand, RSI to the vCPU, and RAX is the instruction's general register, if it has
 * one: no HOST instruction names two. Vector and MMX registers keep their numbers. So re-encoding is: legacy
 * prefixes that are not part of the opcode go (segments and address sizes mean nothing here), REX or VEX is built
 * anew, ModRM becomes [RDI] or names RAX. [RDI] is also what MASKMOVDQU uses without saying so.
 *
 * A stub of a vector instruction:
 *
 *     mov rax, [rsi + gpr]             if a general register takes part
 *     movups xmmN, [rsi + ymmN]        every vector register that takes part; vmovups ymmN for VEX
 *     ldmxcsr [rsi + mxcsr]            if MXCSR matters
 *     <the instruction>
 *     lahf; seto al; mov [rsi + status], ax    if it sets flags
 *     stmxcsr [rsi + mxcsr]; ldmxcsr <the monitor's>
 *     movups [rsi + ymmN], xmmN        registers written: a legacy instruction leaves the upper half alone, a VEX
 *                                      instruction has cleared it
 *     mov [rsi + gpr], rax
 *     vzeroupper; xor eax, eax; ret
 *
 * MMX stubs do the same with the mantissas of the x87 image and end with EMMS. x87 stubs come in two kinds. A heavy one
 * loads the whole image with FXRSTOR and saves it with FXSAVE: always right, about 220 cycles. A light one loads only
 * the one or two stack registers that the instruction names: about a fifth of that, and right when neither an unmasked
 * exception nor a stack fault occurs, which host_x87.c sees to. Both leave the host's x87 stack empty and its control
 * word as the ABI wants it; sticky exception flags stay behind in the host's status word, see host_x87.c.
 *
 * If the host faults within a stub, the signal handler continues at a common recovery code with nothing stored but
 * MXCSR, whose flags an unmasked exception sets: then the stub returns the signal's number.
 *
 * W^X: the memory is a memfd mapped twice; stubs are written, with their descriptions in front, through one view
 * and executed through the other.
 *
 * Sources: SDM vol. 2, chapter 2 (encodings); SDM vol. 1, chapters 8 to 14; APM vol. 1.
 */
#include "cpu/host_stub.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "host/signals.h"

#define BUFFER_SIZE (16 * MiB)
#define BUFFER_RESERVE (3 * MiB) /* full when less is left: room for 4096 more */
#define STUB_MAX 640u            /* bytes of one stub, description included */

/* Offsets within the memory's first page. */
#define CONST_MXCSR 0u
#define CONST_FCW 4u
#define CODE_RECOVER_MXCSR 64u

/* ---- emitting ---- */

struct emitter {
    uint8_t *p;
    uint8_t *constants; /* where they are as seen from `p` */
};

static void emit(struct emitter *e, const void *bytes, size_t n)
{
    memcpy(e->p, bytes, n);
    e->p += n;
}
#define EMIT(e, ...) emit((e), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void emit32(struct emitter *e, uint32_t value)
{
    emit(e, &value, 4);
}

/* ModRM and displacement for [rsi + offset]. */
static void emit_state(struct emitter *e, unsigned reg, size_t offset)
{
    EMIT(e, (uint8_t)(0x86 | (reg & 7) << 3));
    emit32(e, (uint32_t)offset);
}

/* ModRM and displacement for a constant, RIP-relative; nothing may follow the displacement. */
static void emit_constant(struct emitter *e, unsigned reg, unsigned offset)
{
    EMIT(e, (uint8_t)(0x05 | (reg & 7) << 3));
    emit32(e, (uint32_t)(e->constants + offset - (e->p + 4)));
}

static void emit_gpr(struct emitter *e, bool store, unsigned host, unsigned guest)
{
    EMIT(e, 0x48, store ? 0x89 : 0x8b);
    emit_state(e, host, offsetof(struct vcpu, regs) + 8 * guest);
}

static void emit_vector(struct emitter *e, bool vex, bool store, unsigned n)
{
    if (vex)
        EMIT(e, 0xc5, n < 8 ? 0xfc : 0x7c);
    else if (n >= 8)
        EMIT(e, 0x44);
    if (!vex)
        EMIT(e, 0x0f);
    EMIT(e, store ? 0x11 : 0x10);
    emit_state(e, n, offsetof(struct vcpu, fpu.ymm) + 32 * n);
}

static void emit_mmx(struct emitter *e, bool store, unsigned n)
{
    size_t slot = offsetof(struct vcpu, fpu.x87) + offsetof(struct x87_image, st) + 16 * n;
    EMIT(e, 0x0f, store ? 0x7f : 0x6f);
    emit_state(e, n, slot);
    if (store) {
        EMIT(e, 0x66, 0xc7); /* mov word [exponent], 0xffff */
        emit_state(e, 0, slot + offsetof(struct x87_register, exponent));
        EMIT(e, 0xff, 0xff);
    }
}

/* ldmxcsr (2), stmxcsr (3) of the guest's. */
static void emit_mxcsr(struct emitter *e, unsigned extension)
{
    EMIT(e, 0x0f, 0xae);
    emit_state(e, extension, offsetof(struct vcpu, fpu.mxcsr));
}

static void emit_host_mxcsr(struct emitter *e)
{
    EMIT(e, 0x0f, 0xae);
    emit_constant(e, 2, CONST_MXCSR);
}

static void emit_host_fcw(struct emitter *e)
{
    EMIT(e, 0xd9);
    emit_constant(e, 5, CONST_FCW);
}

static void emit_give_flags(struct emitter *e)
{
    EMIT(e, 0x0f, 0xb7); /* movzx eax, word [status] */
    emit_state(e, 0, offsetof(struct vcpu, status));
    EMIT(e, 0x04, 0x7f, 0x9e); /* add al, 0x7f; sahf */
}

static void emit_take_flags(struct emitter *e)
{
    EMIT(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
    EMIT(e, 0x66, 0x89);             /* mov [status], ax */
    emit_state(e, 0, offsetof(struct vcpu, status));
}

static void emit_return_0(struct emitter *e)
{
    EMIT(e, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret */
}

/* ---- analysis ---- */

/* What Zydis' operands say. */
struct uses {
    const ZydisDecodedInstruction *z;
    const ZydisDecodedOperand *memory, *gpr;
    uint16_t vectors, vectors_written; /* bit n: XMMn or YMMn */
    uint8_t mmx, mmx_written;
    uint8_t reg, rm, vvvv; /* register numbers by field, as re-encoded */
    int is4;               /* -1: none */
    bool pcmpestr;         /* EAX and EDX are read */
    bool ecx_written;
};

static void use_register(struct uses *u, const ZydisDecodedOperand *o)
{
    unsigned id = (unsigned)ZydisRegisterGetId(o->reg.value);
    bool written = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    switch (ZydisRegisterGetClass(o->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        u->vectors |= (uint16_t)(1u << id);
        u->vectors_written |= (uint16_t)(written << id);
        break;
    case ZYDIS_REGCLASS_MMX:
        u->mmx |= (uint8_t)(1u << id);
        u->mmx_written |= (uint8_t)(written << id);
        break;
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        if (o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            u->gpr = o;
        else if (written)
            u->ecx_written = true;
        else
            u->pcmpestr = true;
        id = 0; /* RAX stands for it */
        break;
    default:
        return;
    }
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: u->reg = (uint8_t)id; break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM: u->rm = (uint8_t)id; break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD: u->vvvv = (uint8_t)id; break;
    case ZYDIS_OPERAND_ENCODING_IS4: u->is4 = (int)id; break;
    default: break;
    }
}

static void uses_find(struct uses *u, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands)
{
    *u = (struct uses){.z = z, .reg = z->raw.modrm.reg, .rm = z->raw.modrm.rm, .is4 = -1};
    for (unsigned i = 0; i < z->operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            u->memory = &operands[i];
        else if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
            use_register(u, &operands[i]);
    }
}

static bool mnemonic_in(ZydisMnemonic mnemonic, const uint16_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == mnemonic)
            return true;
    return false;
}
#define IN_LIST(mnemonic, ...)                                                                                         \
    mnemonic_in((mnemonic), (const uint16_t[]){__VA_ARGS__}, ARRAY_LEN(((const uint16_t[]){__VA_ARGS__})))
#define M(name) ZYDIS_MNEMONIC_##name

static bool is_x87(const ZydisDecodedInstruction *z)
{
    return z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

/* Legacy encodings convert between MMX and vector registers, Zydis has no exception class for them. */
static bool is_mmx_conversion(ZydisMnemonic m)
{
    return IN_LIST(m, M(CVTPI2PS), M(CVTPS2PI), M(CVTTPS2PI), M(CVTPD2PI), M(CVTTPD2PI), M(CVTPI2PD));
}

static bool uses_mxcsr(const ZydisDecodedInstruction *z)
{
    switch (z->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11: return true;
    default: return is_mmx_conversion(z->mnemonic);
    }
}

/* SDM vol. 2, 2.4: exception types 1, 2 and 4 want 16 bytes aligned in legacy encodings; type 1 in VEX encodings, too.
 * Not those that exist to load what is not aligned, nor the string comparisons. Whether SHA wants it depends on the
 * processor: there the stub's own fault decides. */
unsigned host_operand_alignment(const ZydisDecodedInstruction *z, unsigned size, bool *strict)
{
    *strict = false;
    switch (z->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_AVX1:
        *strict = true;
        return size;
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE4:
        return size == 16 && !IN_LIST(z->mnemonic, M(MOVUPS), M(MOVUPD), M(MOVDQU), M(LDDQU), M(PCMPESTRI),
                                      M(PCMPESTRM), M(PCMPISTRI), M(PCMPISTRM), M(MASKMOVDQU)) &&
                       z->meta.isa_set != ZYDIS_ISA_SET_SHA
                   ? 16
                   : 0;
    default: return size == 16 && IN_LIST(z->mnemonic, M(CVTPD2PI), M(CVTTPD2PI)) ? 16 : 0;
    }
}

static void find_alignment(struct host_stub *stub, const ZydisDecodedInstruction *z)
{
    unsigned alignment = host_operand_alignment(z, stub->memsize, &stub->align_strict);
    stub->align = alignment == 0 ? 0 : (uint8_t)(alignment - 1);
}

/* ---- re-encoding ---- */

static void encode_vex(struct emitter *e, const struct uses *u, unsigned reg, unsigned rm)
{
    const ZydisDecodedInstruction *z = u->z;
    /* Outside 64-bit mode W does not make a general operand 64 bits wide. */
    bool w = z->raw.vex.W;
    if (z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
        (u->gpr != NULL ||
         IN_LIST(z->mnemonic, M(VMOVD), M(VPINSRD), M(VPEXTRD), M(VCVTSI2SS), M(VCVTSI2SD), M(VPCMPESTRI),
                                   M(VPCMPESTRM))))
        w = false;
    EMIT(e, 0xc4, (uint8_t)((reg < 8) << 7 | 1 << 6 | (rm < 8) << 5 | z->raw.vex.m_mmmm),
         (uint8_t)(w << 7 | (~u->vvvv & 15) << 3 | z->raw.vex.L << 2 | z->raw.vex.pp), z->opcode);
}

static void encode_legacy(struct emitter *e, const struct uses *u, unsigned reg, unsigned rm)
{
    const ZydisDecodedInstruction *z = u->z;
    for (unsigned i = 0; i < z->raw.prefix_count; i++)
        if (z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            EMIT(e, z->raw.prefixes[i].value);
    unsigned rex = (unsigned)z->raw.rex.W << 3 | (reg >= 8) << 2 | (rm >= 8);
    if (rex != 0 && !is_x87(z))
        EMIT(e, (uint8_t)(0x40 | rex));
    if (z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        EMIT(e, 0x0f);
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        EMIT(e, 0x38);
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        EMIT(e, 0x3a);
    EMIT(e, z->opcode);
}

/* The host's form of the instruction into key->bytes. False for encodings that ring3 does not offer. */
static bool encode(struct stub_key *key, const struct uses *u, const uint8_t *bytes)
{
    const ZydisDecodedInstruction *z = u->z;
    struct emitter e = {.p = key->bytes};
    bool memory = u->memory != NULL && z->raw.modrm.mod != 3;
    unsigned reg = u->reg, rm = memory ? RDI : u->rm;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        encode_vex(&e, u, reg, rm);
    else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        encode_legacy(&e, u, reg, rm);
    else
        return false;
    if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        EMIT(&e, (uint8_t)((memory ? 0 : 3) << 6 | (reg & 7) << 3 | (rm & 7)));
    for (unsigned i = 0; i < 2; i++)
        if (z->raw.imm[i].size != 0)
            emit(&e, bytes + z->raw.imm[i].offset, z->raw.imm[i].size / 8);
    if (u->is4 >= 0)
        e.p[-1] = (uint8_t)((e.p[-1] & 15) | u->is4 << 4);
    key->length = (uint8_t)(e.p - key->bytes);
    return true;
}

/* ---- code ---- */

static void emit_vector_stub(struct emitter *e, const struct host_stub *stub, const struct uses *u)
{
    bool vex = stub->vex, mxcsr = uses_mxcsr(u->z);
    bool gpr_written = u->gpr != NULL && (u->gpr->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
    if (u->gpr != NULL)
        emit_gpr(e, false, RAX, stub->key.gpr);
    if (u->pcmpestr) {
        emit_gpr(e, false, RAX, RAX);
        emit_gpr(e, false, RDX, RDX);
    }
    for (unsigned n = 0; n < 16; n++)
        if (u->vectors >> n & 1)
            emit_vector(e, vex, false, n);
    for (unsigned n = 0; n < 8; n++)
        if (u->mmx >> n & 1)
            emit_mmx(e, false, n);
    if (mxcsr)
        emit_mxcsr(e, 2);
    emit(e, stub->key.bytes, stub->key.length);
    if (u->z->cpu_flags != NULL && (u->z->cpu_flags->modified & (ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_ZF)))
        emit_take_flags(e);
    if (mxcsr) {
        emit_mxcsr(e, 3);
        emit_host_mxcsr(e);
    }
    for (unsigned n = 0; n < 16; n++)
        if (u->vectors_written >> n & 1)
            emit_vector(e, vex, true, n);
    for (unsigned n = 0; n < 8; n++)
        if (u->mmx_written >> n & 1)
            emit_mmx(e, true, n);
    if (gpr_written)
        emit_gpr(e, true, RAX, stub->key.gpr);
    if (u->ecx_written)
        emit_gpr(e, true, RCX, RCX);
    if (u->mmx)
        EMIT(e, 0x0f, 0x77); /* emms */
    if (vex)
        EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
    emit_return_0(e);
}

static void emit_x87_heavy(struct emitter *e, const struct host_stub *stub, const struct uses *u)
{
    size_t image = offsetof(struct vcpu, fpu.x87);
    bool flags = u->z->cpu_flags != NULL && (u->z->cpu_flags->tested | u->z->cpu_flags->modified) != 0;
    EMIT(e, 0x48, 0x0f, 0xae); /* fxrstor64 */
    emit_state(e, 1, image);
    if (flags)
        emit_give_flags(e);
    emit(e, stub->key.bytes, stub->key.length);
    if (flags)
        emit_take_flags(e);
    EMIT(e, 0x48, 0x0f, 0xae); /* fxsave64 */
    emit_state(e, 0, image);
    EMIT(e, 0xf6); /* test byte [fsw], X87_FSW_ES */
    emit_state(e, 0, image + offsetof(struct x87_image, fsw));
    EMIT(e, X87_FSW_ES, 0x74, 0x02, 0xdb, 0xe2); /* jz 1f; fnclex; 1: */
    EMIT(e, 0x0f, 0x77);                         /* emms */
    emit_host_fcw(e);
    emit_return_0(e);
}

static void emit_st(struct emitter *e, bool store, unsigned i)
{
    EMIT(e, 0xdb); /* fld/fstp tbyte [slot] */
    emit_state(e, store ? 7 : 5, offsetof(struct vcpu, fpu.x87) + offsetof(struct x87_image, st) + 16 * i);
}

/* What a light stub does besides running the instruction. */
struct light {
    bool st0, sti;               /* loads ST(0), ST(i) */
    bool st0_written, sti_written;
    unsigned pops;               /* by the instruction itself */
    bool push;                   /* the instruction pushes a new ST(0) */
    bool copy_push;              /* FLD ST(i) */
    bool copy_store;             /* FST ST(i), FSTP ST(i): ST(0) is stored at ST(i), no instruction is run */
    bool flags;
    uint16_t cc;
};

/* `i`: the ST(i) that the instruction names, 0 if none. */
static void emit_x87_light(struct emitter *e, const struct host_stub *stub, const struct light *light, unsigned i)
{
    uint8_t insn[15];
    memcpy(insn, stub->key.bytes, stub->key.length);
    bool loads_sti = light->sti && i != 0;
    if (loads_sti && insn[1] >= 0xc0)
        insn[1] = (uint8_t)((insn[1] & ~7) | 1); /* it is the host's ST(1) */
    EMIT(e, 0xd9);                               /* fldcw */
    emit_state(e, 5, offsetof(struct vcpu, fpu.x87) + offsetof(struct x87_image, fcw));
    if (light->copy_push) {
        emit_st(e, false, i + 1); /* host_x87.c has made room: everything is one further down */
    } else {
        if (loads_sti)
            emit_st(e, false, i);
        if (light->st0 || (light->sti && i == 0))
            emit_st(e, false, 0);
        if (light->flags)
            emit_give_flags(e);
        if (!light->copy_store)
            emit(e, insn, stub->key.length);
        if (light->flags)
            emit_take_flags(e);
    }
    EMIT(e, 0xdf, 0xe0); /* fnstsw ax */
    /* The host's stack now: the new register if one was pushed; ST(0) and ST(i) unless popped. */
    if (light->push) {
        emit_st(e, true, 0);
    } else if (light->copy_store) {
        emit_st(e, true, i);
    } else {
        unsigned left = (unsigned)(light->st0 || (light->sti && i == 0)) + loads_sti;
        if (light->pops < left && light->pops == 0 && (light->st0 || i == 0)) {
            if (light->st0_written || (light->sti_written && i == 0))
                emit_st(e, true, 0);
            else
                EMIT(e, 0xdd, 0xd8); /* fstp st(0) */
        }
        if (loads_sti && light->pops < 2) {
            if (light->sti_written)
                emit_st(e, true, i);
            else
                EMIT(e, 0xdd, 0xd8);
        }
    }
    emit_host_fcw(e);
    EMIT(e, 0x0f, 0xb7, 0xc0, 0xc3); /* movzx eax, ax; ret */
}

/* How to run an x87 instruction the light way; false if that is not worth it. */
static bool find_light(struct light *l, const ZydisDecodedInstruction *z, unsigned i)
{
    bool memory = z->raw.modrm.mod != 3;
    *l = (struct light){.cc = X87_FSW_C1};
    switch (z->mnemonic) {
    case M(FADD): case M(FSUB): case M(FSUBR): case M(FMUL): case M(FDIV): case M(FDIVR):
        l->st0 = true;
        l->sti = !memory;
        l->st0_written = memory || z->opcode == 0xd8;
        l->sti_written = !l->st0_written;
        return true;
    case M(FIADD): case M(FISUB): case M(FISUBR): case M(FIMUL): case M(FIDIV): case M(FIDIVR):
    case M(FABS): case M(FCHS): case M(FSQRT): case M(FRNDINT): case M(F2XM1):
        l->st0 = l->st0_written = true;
        return true;
    case M(FADDP): case M(FSUBP): case M(FSUBRP): case M(FMULP): case M(FDIVP): case M(FDIVRP):
        l->st0 = l->sti = l->sti_written = true;
        l->pops = 1;
        return i != 0;
    case M(FLD):
        l->push = true;
        l->copy_push = l->sti = !memory;
        return i != 7;
    case M(FILD): case M(FLD1): case M(FLDZ): case M(FLDPI): case M(FLDL2E): case M(FLDL2T): case M(FLDLG2):
    case M(FLDLN2):
        l->push = true;
        return true;
    case M(FST):
    case M(FSTP):
        l->st0 = true;
        l->copy_store = l->sti_written = !memory;
        l->pops = z->mnemonic == M(FSTP);
        return true;
    case M(FIST):
        l->st0 = true;
        return true;
    case M(FISTP): case M(FISTTP):
        l->st0 = true;
        l->pops = 1;
        return true;
    case M(FCOM): case M(FUCOM): case M(FICOM): case M(FTST): case M(FXAM):
    case M(FCOMP): case M(FUCOMP): case M(FICOMP): case M(FCOMPP): case M(FUCOMPP):
        l->st0 = true;
        l->sti = !memory && z->mnemonic != M(FTST) && z->mnemonic != M(FXAM);
        l->cc = X87_FSW_C;
        l->pops = IN_LIST(z->mnemonic, M(FCOMPP), M(FUCOMPP))               ? 2
                  : IN_LIST(z->mnemonic, M(FCOMP), M(FUCOMP), M(FICOMP)) ? 1
                                                                           : 0;
        return true;
    case M(FCOMI): case M(FUCOMI): case M(FCOMIP): case M(FUCOMIP):
        l->st0 = l->sti = l->flags = true;
        l->cc = 0; /* C1 only tells stack faults apart */
        l->pops = IN_LIST(z->mnemonic, M(FCOMIP), M(FUCOMIP));
        return true;
    case M(FCMOVB): case M(FCMOVBE): case M(FCMOVE): case M(FCMOVU):
    case M(FCMOVNB): case M(FCMOVNBE): case M(FCMOVNE): case M(FCMOVNU):
        l->st0 = l->sti = l->flags = l->st0_written = true;
        l->cc = 0;
        return true;
    case M(FXCH):
        l->st0 = l->sti = l->st0_written = l->sti_written = true;
        return i != 0;
    default: return false;
    }
}

static void emit_x87(struct emitter *e, struct host_exec *he, struct host_stub *stub, const struct uses *u)
{
    unsigned i = u->z->raw.modrm.mod == 3 ? u->z->raw.modrm.rm : 0;
    struct light light;
    if (find_light(&light, u->z, i)) {
        stub->light = (stub_code *)(void *)(he->execute + (e->p - he->write));
        emit_x87_light(e, stub, &light, i);
        stub->cc = light.cc;
        stub->need = (uint8_t)(light.st0 | (light.sti && !light.copy_store) << i);
        stub->sets = (uint8_t)(light.sti_written << i);
        stub->grow = light.push ? 1 : (int8_t)-(int)light.pops;
        stub->code = (stub_code *)(void *)(he->execute + (e->p - he->write));
    }
    emit_x87_heavy(e, stub, u);
}

/* ---- choosing the function ---- */

static insn_fn *choose_control(const ZydisDecodedInstruction *z)
{
    bool memory = z->raw.modrm.mod != 3;
    switch (z->mnemonic) {
    case M(FWAIT): return host_fwait;
    case M(FNINIT): return host_fninit;
    case M(FNCLEX): return host_fnclex;
    case M(FLDCW): return host_fldcw;
    case M(FNSTCW): return host_fnstcw_memory;
    case M(FNSTSW): return memory ? host_fnstsw_memory : host_fnstsw_ax;
    case M(FENI8087_NOP): case M(FDISI8087_NOP): case M(FSETPM287_NOP): return host_x87_nop;
    case M(EMMS): return host_emms;
    case M(VZEROUPPER): return host_vzeroupper;
    case M(VZEROALL): return host_vzeroall;
    default: return NULL;
    }
}

static bool is_gather(ZydisMnemonic m)
{
    return IN_LIST(m, M(VGATHERDPD), M(VGATHERDPS), M(VGATHERQPD), M(VGATHERQPS), M(VPGATHERDD), M(VPGATHERDQ),
                   M(VPGATHERQD), M(VPGATHERQQ));
}

static bool is_masked_move(ZydisMnemonic m)
{
    return IN_LIST(m, M(VMASKMOVPS), M(VMASKMOVPD), M(VPMASKMOVD), M(VPMASKMOVQ));
}

static insn_fn *choose(const struct host_stub *stub, const struct uses *u)
{
    ZydisMnemonic m = u->z->mnemonic;
    if (IN_LIST(m, M(MASKMOVQ), M(MASKMOVDQU), M(VMASKMOVDQU)))
        return u->mmx ? host_mmx_maskmov : stub->vex ? host_avx_maskmov : host_sse_maskmov;
    if (is_gather(m))
        return host_gather;
    if (is_masked_move(m))
        return stub->stores ? host_avx_masked_store : host_avx_masked_load;
#define FORM(unit)                                                                                                     \
    (u->memory == NULL ? host_##unit##_register : stub->stores ? host_##unit##_store : host_##unit##_load)
    return is_x87(u->z) ? FORM(x87) : u->mmx ? FORM(mmx) : stub->vex ? FORM(avx) : FORM(sse);
#undef FORM
}

/* Masked moves and gathers: what is accessed element by element. */
static bool find_elements(struct host_stub *stub, const struct uses *u)
{
    const ZydisDecodedInstruction *z = u->z;
    ZydisMnemonic m = z->mnemonic;
    if (is_gather(m)) {
        ZydisRegisterClass index = ZydisRegisterGetClass(u->memory->mem.index);
        if (index != ZYDIS_REGCLASS_XMM && index != ZYDIS_REGCLASS_YMM)
            return false;
        unsigned bits = z->avx.vector_length;
        stub->dest_reg = u->reg;
        stub->mask_reg = u->vvvv;
        stub->index_reg = (uint8_t)ZydisRegisterGetId(u->memory->mem.index);
        stub->element = z->raw.vex.W ? 8 : 4;
        stub->index_element = IN_LIST(m, M(VGATHERDPD), M(VGATHERDPS), M(VPGATHERDD), M(VPGATHERDQ)) ? 4 : 8;
        unsigned widest = stub->element > stub->index_element ? stub->element : stub->index_element;
        stub->count = (uint8_t)(bits / 8 / widest);
        return stub->dest_reg != stub->mask_reg && stub->dest_reg != stub->index_reg &&
               stub->mask_reg != stub->index_reg;
    }
    if (is_masked_move(m)) {
        stub->mask_reg = u->vvvv;
        stub->element = IN_LIST(m, M(VMASKMOVPD), M(VPMASKMOVQ)) ? 8 : 4;
        stub->count = stub->memsize / stub->element;
    } else if (IN_LIST(m, M(MASKMOVQ), M(MASKMOVDQU), M(VMASKMOVDQU))) {
        stub->mask_reg = u->rm;
        stub->element = 1;
        stub->count = stub->memsize = u->mmx ? 8 : 16;
    }
    return true;
}

/* ---- making ---- */

static struct host_stub **bucket_of(struct host_exec *he, const struct stub_key *key)
{
    const uint8_t *bytes = (const uint8_t *)key;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sizeof *key; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return &he->bucket[(hash ^ hash >> 15) % STUB_BUCKETS];
}

struct host_stub *host_stub_make(struct vcpu *v, const ZydisDecodedInstruction *insn,
                                 const ZydisDecodedOperand *operands, const uint8_t *bytes)
{
    struct host_exec *he = v->host_exec;
    struct uses u;
    struct stub_key key;
    memset(&key, 0, sizeof key);
    uses_find(&u, insn, operands);
    if (!encode(&key, &u, bytes))
        return NULL;
    key.gpr = u.gpr != NULL ? (uint8_t)ZydisRegisterGetId(u.gpr->reg.value) : NO_GPR;
    if (is_gather(insn->mnemonic) && u.memory != NULL) {
        key.gpr = (uint8_t)(ZydisRegisterGetId(u.memory->mem.index) & 15);
        key.scale = u.memory->mem.scale;
    }
    struct host_stub **bucket = bucket_of(he, &key);
    for (struct host_stub *stub = *bucket; stub != NULL; stub = stub->next)
        if (memcmp(&stub->key, &key, sizeof key) == 0)
            return stub;

    check(he->used + STUB_MAX <= BUFFER_SIZE); /* whoever decodes asks host_exec_full() often enough */
    struct host_stub *stub = (struct host_stub *)(void *)(he->write + he->used);
    memset(stub, 0, sizeof *stub);
    stub->key = key;
    stub->vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    stub->xmm = u.vectors != 0;
    stub->fn = choose_control(insn);
    if (u.memory != NULL) {
        stub->memsize = (uint8_t)(u.memory->size / 8);
        stub->stores = u.memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    }
    struct emitter e = {.p = (uint8_t *)(stub + 1), .constants = he->write};
    stub->code = (stub_code *)(void *)(he->execute + (e.p - he->write));
    if (stub->fn == NULL) {
        if (!find_elements(stub, &u) || stub->memsize > 32)
            return NULL;
        find_alignment(stub, insn);
        stub->fn = choose(stub, &u);
        if (is_x87(insn))
            emit_x87(&e, he, stub, &u);
        else if (stub->fn != host_gather)
            emit_vector_stub(&e, stub, &u);
    }
    check((size_t)(e.p - (uint8_t *)stub) <= STUB_MAX);
    he->used = ((size_t)(e.p - he->write) + 63) & ~(size_t)63;
    stub->next = *bucket;
    *bucket = stub;
    v->count.host_stubs++;
    return stub;
}

insn_fn *host_stub_fn(const struct host_stub *stub)
{
    return stub->fn;
}

/* ---- the memory ---- */

/* In signal context: nothing of the guest's state has been stored yet. */
static bool on_host_fault(void *opaque, int signal, siginfo_t *info, ucontext_t *context)
{
    const struct host_exec *he = opaque;
    size_t recover = signal == SIGFPE ? he->recover_mxcsr : he->recover;
    context->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(he->execute + recover);
    context->uc_mcontext.gregs[REG_RAX] = (greg_t)(STUB_FAULT | (unsigned)signal);
    return true;
}

/* Does the host's x87 record FCS and FDS, or are they deprecated? */
static bool probe_selectors(void)
{
    uint32_t environment[7];
    __asm__ volatile("fninit\n\tfldz\n\tfnstenv %0\n\tfninit" : "=m"(environment));
    return (environment[4] & 0xffff) != 0;
}

static void emit_common(struct host_exec *he)
{
    uint32_t mxcsr = MXCSR_HOST;
    uint16_t fcw = X87_FCW_INIT;
    memcpy(he->write + CONST_MXCSR, &mxcsr, sizeof mxcsr);
    memcpy(he->write + CONST_FCW, &fcw, sizeof fcw);
    struct emitter e = {.p = he->write + CODE_RECOVER_MXCSR, .constants = he->write};
    he->recover_mxcsr = CODE_RECOVER_MXCSR;
    emit_mxcsr(&e, 3);
    he->recover = (size_t)(e.p - he->write);
    emit_host_mxcsr(&e);
    EMIT(&e, 0xdb, 0xe2, 0x0f, 0x77); /* fnclex; emms */
    emit_host_fcw(&e);
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_AVX) && (c & bit_OSXSAVE))
        EMIT(&e, 0xc5, 0xf8, 0x77); /* vzeroupper */
    EMIT(&e, 0xc3);
    he->used = he->used_base = ((size_t)(e.p - he->write) + 63) & ~(size_t)63;
}

struct host_exec *host_exec_create(struct error *err)
{
    struct host_exec *he = aligned_alloc(64, (sizeof *he + 63) & ~(size_t)63);
    if (he == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    memset(he, 0, sizeof *he);
    he->write = he->execute = MAP_FAILED;
    he->fd = memfd_create("ring3-stubs", MFD_CLOEXEC);
    if (he->fd >= 0 && ftruncate(he->fd, BUFFER_SIZE) == 0) {
        he->write = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, he->fd, 0);
        he->execute = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, he->fd, 0);
    }
    if (he->write == MAP_FAILED || he->execute == MAP_FAILED) {
        error_set(err, "cannot map memory for generated code: %s", strerror(errno));
        host_exec_destroy(he);
        return NULL;
    }
    he->keeps_selectors = probe_selectors();
    emit_common(he);
    if (!host_signals_add(he->execute, BUFFER_SIZE, on_host_fault, he, err)) {
        host_exec_destroy(he);
        return NULL;
    }
    return he;
}

void host_exec_destroy(struct host_exec *he)
{
    if (he == NULL)
        return;
    if (he->execute != MAP_FAILED) {
        host_signals_remove(he->execute);
        munmap(he->execute, BUFFER_SIZE);
    }
    if (he->write != MAP_FAILED)
        munmap(he->write, BUFFER_SIZE);
    if (he->fd >= 0)
        close(he->fd);
    free(he);
}

bool host_exec_full(const struct host_exec *he)
{
    return he->used > BUFFER_SIZE - BUFFER_RESERVE;
}

void host_exec_reset(struct host_exec *he)
{
    memset(he->bucket, 0, sizeof he->bucket);
    he->used = he->used_base;
}
