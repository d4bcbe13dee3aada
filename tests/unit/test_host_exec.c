/* Instructions run on the host against the host itself.
 *
 * Every encoding that Zydis knows and insn.def gives to the host is tried: opcode maps, mandatory prefixes, REX.W,
 * VEX.W and VEX.L, all values of ModRM.reg, register and memory forms, with random registers and random state (values
 * that matter to floating point among them). The same bytes are executed by a stub on a guest in 64-bit mode and by a
 * trampoline that loads the whole state into the host's registers; memory operands have the same address in both
 * worlds. Compared are vector registers, x87 state, general registers, flags, MXCSR, memory and the fault.
 *
 * The seed is fixed; RING3_TEST_SEED and RING3_TEST_ROUNDS in the environment change what is tried.
 */
#include "cpu_test.h"

#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

#include "cpu/decode.h"
#include "cpu/fast.h"
#include "cpu/host_exec.h"
#include "host/signals.h"

#define TABLE_AT 0xc000u          /* page table of the second 2 MiB */
#define DATA_AT 0x200000u         /* three pages, then nothing; the same address in guest and host */
#define DATA_PAGES 3u
#define DATA_SIZE (DATA_PAGES * PAGE_SIZE)
#define FLAGS_USED (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/* ---- random state ---- */

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1d;
}

static unsigned below(unsigned n)
{
    return (unsigned)(rnd() >> 33) % n;
}

static uint32_t rnd_float(void)
{
    static const uint32_t special[] = {
        0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
        0x7fa00000, 0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0x5f000000,
    };
    return below(2) ? special[below(ARRAY_LEN(special))] : 0x3f000000 + (uint32_t)(rnd() & 0x81ffffff);
}

static uint64_t rnd_double(void)
{
    static const uint64_t special[] = {
        0,
        1ull << 63,
        0x3ff0000000000000,
        0xbff0000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0x7ff4000000000000,
        1,
        0x800fffffffffffff,
        0x7fefffffffffffff,
        0x41e0000000000000,
        0x43e0000000000000,
        0x36a0000000000000,
    };
    return below(2) ? special[below(ARRAY_LEN(special))] : 0x3fe0000000000000 + (rnd() & 0x801fffffffffffff);
}

static void rnd_vector(uint8_t *out, unsigned n)
{
    unsigned kind = below(4);
    for (unsigned i = 0; i + 8 <= n; i += 8) {
        uint64_t value = rnd();
        if (kind == 1)
            value = rnd_float() | (uint64_t)rnd_float() << 32;
        else if (kind == 2)
            value = rnd_double();
        else if (kind == 3)
            value = below(3) ? value & 0x0f0f0f0f0f0f0f0f : 0;
        memcpy(out + i, &value, 8);
    }
}

static struct x87_register rnd_x87(void)
{
    struct x87_register r = {.mantissa = rnd() | 1ull << 63, .exponent = (uint16_t)(0x3ff0 + below(32))};
    switch (below(10)) {
    case 0: r = (struct x87_register){0}; break;
    case 1: r = (struct x87_register){.mantissa = 1ull << 63, .exponent = 0x7fff}; break;
    case 2: r.exponent = 0x7fff; break;
    case 3: r = (struct x87_register){.mantissa = rnd() >> below(60)}; break; /* denormal */
    case 4: r.mantissa &= ~(1ull << 63); break;                               /* unnormal */
    case 5: r = (struct x87_register){.mantissa = 1ull << 63, .exponent = 0x3fff}; break;
    case 6: r.exponent = (uint16_t)below(0x7fff); break;
    default: break;
    }
    r.exponent |= (uint16_t)(below(2) << 15);
    return r;
}

struct state {
    _Alignas(64) uint8_t ymm[16][32];
    struct x87_image x87;
    uint64_t gpr[16];
    uint64_t flags;
    uint32_t mxcsr;
    uint32_t fault; /* signal number */
    uint64_t recover, host_rsp;
    uint32_t mxcsr_host;
};

static void state_random(struct state *s)
{
    memset(s, 0, sizeof *s);
    for (unsigned n = 0; n < 16; n++) {
        rnd_vector(s->ymm[n], 16);
        rnd_vector(s->ymm[n] + 16, 16);
        s->gpr[n] = below(2) ? rnd() : rnd() & 0xff;
    }
    s->x87.fcw = (uint16_t)(X87_FCW_ONE | X87_EXCEPTIONS | below(4) << 8 | below(4) << 10);
    if (below(4) == 0)
        s->x87.fcw &= (uint16_t) ~below(64);
    s->x87.fsw = (uint16_t)(rnd() & (X87_FSW_C | X87_FSW_TOP | X87_EXCEPTIONS | X87_FSW_SF));
    s->x87.fsw &= (uint16_t) ~(~s->x87.fcw & X87_EXCEPTIONS); /* nothing pending */
    s->x87.ftw = below(3) ? 0x7f : (uint8_t)rnd();
    s->x87.ftw = (uint8_t)((s->x87.ftw | s->x87.ftw << 8) >> (8 - (s->x87.fsw >> X87_FSW_TOP_SHIFT & 7)));
    s->x87.mxcsr = MXCSR_HOST;
    for (unsigned i = 0; i < 8; i++)
        s->x87.st[i] = rnd_x87();
    s->flags = FLAG_FIXED | (rnd() & FLAGS_USED);
    s->mxcsr = MXCSR_DEFAULT | (uint32_t)(rnd() & 0xe07f); /* rounding, FTZ, DAZ, flags */
    if (below(8) == 0)
        s->mxcsr &= ~(below(64) << 7);
}

/* ---- the host's own execution ---- */

struct native {
    uint8_t *code;
    struct state *state; /* R15 while guest code runs */
};

static bool native_fault(void *opaque, int signal, siginfo_t *info, ucontext_t *context)
{
    struct native *native = opaque;
    native->state->fault = (uint32_t)signal;
    context->uc_mcontext.gregs[REG_RIP] = (greg_t)native->state->recover;
    return true;
}

static uint8_t *code_at;

static void code_bytes(const void *bytes, size_t n)
{
    memcpy(code_at, bytes, n);
    code_at += n;
}
#define CODE_BYTES(...) code_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void code_state(unsigned reg, size_t offset) /* ModRM for [r15 + offset] */
{
    uint32_t disp = (uint32_t)offset;
    CODE_BYTES((uint8_t)(0x87 | (reg & 7) << 3));
    code_bytes(&disp, 4);
}

static void code_gprs(bool store)
{
    for (unsigned n = 0; n < 14; n++) {
        if (n == RSP)
            continue;
        CODE_BYTES((uint8_t)(0x49 | (n >= 8) << 2), store ? 0x89 : 0x8b);
        code_state(n, offsetof(struct state, gpr) + 8 * n);
    }
}

static void code_vectors(bool store)
{
    for (unsigned n = 0; n < 16; n++) {
        CODE_BYTES(0xc4, n < 8 ? 0xc1 : 0x41, 0x7c, store ? 0x11 : 0x10); /* vmovups */
        code_state(n, offsetof(struct state, ymm) + 32 * n);
    }
}

/* Runs `bytes` with the registers of native->state, which receives the result. */
static void native_run(struct native *native, const uint8_t *bytes, unsigned length)
{
    struct state *s = native->state;
    uint64_t at = (uint64_t)(uintptr_t)s;
    code_at = native->code;
    CODE_BYTES(0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); /* push rbx, rbp, r12-r15 */
    CODE_BYTES(0x49, 0xbf);                                                  /* mov r15, state */
    code_bytes(&at, 8);
    CODE_BYTES(0x49, 0x0f, 0xae);
    code_state(1, offsetof(struct state, x87)); /* fxrstor64 */
    code_vectors(false);
    CODE_BYTES(0x41, 0x0f, 0xae);
    code_state(2, offsetof(struct state, mxcsr));
    CODE_BYTES(0x41, 0xff);
    code_state(6, offsetof(struct state, flags)); /* push */
    CODE_BYTES(0x9d);
    code_gprs(false);
    code_bytes(bytes, length);
    s->recover = (uint64_t)(uintptr_t)code_at;
    code_gprs(true);
    CODE_BYTES(0x9c, 0x41, 0x8f); /* pushf; pop */
    code_state(0, offsetof(struct state, flags));
    CODE_BYTES(0x41, 0x0f, 0xae);
    code_state(3, offsetof(struct state, mxcsr));
    CODE_BYTES(0x41, 0x0f, 0xae);
    code_state(2, offsetof(struct state, mxcsr_host));
    code_vectors(true);
    CODE_BYTES(0x49, 0x0f, 0xae);
    code_state(0, offsetof(struct state, x87)); /* fxsave64 */
    CODE_BYTES(0xdb, 0xe3, 0xc5, 0xf8, 0x77);   /* fninit; vzeroupper */
    CODE_BYTES(0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3);
    s->fault = 0;
    s->mxcsr_host = MXCSR_HOST;
    ((void (*)(void))(void *)native->code)();
}

/* ---- the guest's ---- */

struct fixture {
    struct bench *b;
    struct native native;
    uint8_t *host_data; /* at DATA_AT */
    ZydisDecoder decoder;
    enum code_mode mode; /* of the guest: CODE_64 or CODE_32_FLAT */
    unsigned tried, failed, faults;
};

static uint8_t *guest_data(struct fixture *f)
{
    return f->b->ram + DATA_AT;
}

static int guest_run(struct fixture *f, const uint8_t *bytes, struct insn *in)
{
    struct vcpu *v = f->b->v;
    jmp_buf unwind;
    v->unwind = &unwind;
    v->regs[GPR_PAGE] = CODE_AT;
    v->in = v->run_start = in;
    if (setjmp(unwind) != 0)
        return v->fault.vector;
    in[0].fn(v, in);
    (void)bytes;
    return NO_FAULT;
}

static void state_to_guest(struct vcpu *v, const struct state *s)
{
    memcpy(v->fpu.ymm, s->ymm, sizeof s->ymm);
    memcpy(v->fpu.x87, &s->x87, sizeof s->x87);
    v->fpu.mxcsr = s->mxcsr;
    memcpy(v->regs, s->gpr, sizeof s->gpr);
    rflags_set(v, (uint32_t)s->flags);
}

static void state_from_guest(const struct vcpu *v, struct state *s)
{
    memcpy(s->ymm, v->fpu.ymm, sizeof s->ymm);
    memcpy(&s->x87, v->fpu.x87, sizeof s->x87);
    s->mxcsr = v->fpu.mxcsr;
    memcpy(s->gpr, v->regs, sizeof s->gpr);
    s->flags = rflags_get(v);
}

static const char *state_difference(const struct state *a, const struct state *b)
{
    for (unsigned n = 0; n < 16; n++) {
        if (memcmp(a->ymm[n], b->ymm[n], 32) != 0)
            return "vector register";
        if (n != RSP && n < 14 && a->gpr[n] != b->gpr[n])
            return "general register";
    }
    if ((a->flags ^ b->flags) & FLAGS_USED)
        return "flags";
    if (a->mxcsr != b->mxcsr)
        return "MXCSR";
    if (a->x87.fcw != b->x87.fcw)
        return "FCW";
    if (a->x87.fsw != b->x87.fsw)
        return "FSW";
    if (a->x87.ftw != b->x87.ftw)
        return "FTW";
    for (unsigned i = 0; i < 8; i++)
        if (a->x87.st[i].mantissa != b->x87.st[i].mantissa || a->x87.st[i].exponent != b->x87.st[i].exponent)
            return "x87 register";
    return NULL;
}

static int vector_of_signal(uint32_t signal, bool page_fault)
{
    switch (signal) {
    case 0: return NO_FAULT;
    case SIGFPE: return VECTOR_XM;
    case SIGILL: return VECTOR_UD;
    default: return page_fault ? VECTOR_PF : VECTOR_GP;
    }
}

static void report(struct fixture *f, const char *what, const ZydisDecodedInstruction *z, const uint8_t *bytes,
                   const struct state *before, const struct state *guest, const struct state *host)
{
    f->failed++;
    if (f->failed > 25)
        return;
    fprintf(stderr, "%s:", ZydisMnemonicGetString(z->mnemonic));
    for (unsigned i = 0; i < z->length; i++)
        fprintf(stderr, " %02x", bytes[i]);
    fprintf(stderr, ": %s differs; FCW %04x FSW %04x FTW %02x MXCSR %04x -> guest FSW %04x FTW %02x MXCSR %04x flags "
            "%03x host %04x %02x %04x %03x signal %u\n", what, before->x87.fcw, before->x87.fsw, before->x87.ftw,
            before->mxcsr, guest->x87.fsw, guest->x87.ftw, guest->mxcsr, (unsigned)(guest->flags & FLAGS_USED),
            host->x87.fsw, host->x87.ftw, host->mxcsr, (unsigned)(host->flags & FLAGS_USED), host->fault);
    for (unsigned n = 0; n < 16; n++)
        if (n != RSP && n < 14 && guest->gpr[n] != host->gpr[n])
            fprintf(stderr, "    GPR %u guest %lx host %lx\n", n, guest->gpr[n], host->gpr[n]);
}

/* Outside 64-bit mode VEX.W does not make a general operand wide; in the trampoline, which is 64-bit code, it would. */
static void take_w_out(uint8_t *bytes, const ZydisDecodedInstruction *z)
{
    static const ZydisMnemonic general[] = {
        ZYDIS_MNEMONIC_VMOVD,      ZYDIS_MNEMONIC_VPINSRD,    ZYDIS_MNEMONIC_VPEXTRD,    ZYDIS_MNEMONIC_VCVTSI2SS,
        ZYDIS_MNEMONIC_VCVTSI2SD,  ZYDIS_MNEMONIC_VCVTSS2SI,  ZYDIS_MNEMONIC_VCVTSD2SI,  ZYDIS_MNEMONIC_VCVTTSS2SI,
        ZYDIS_MNEMONIC_VCVTTSD2SI,
    };
    for (unsigned i = 0; i < ARRAY_LEN(general); i++)
        if (z->mnemonic == general[i])
            bytes[2] &= 0x7f;
}

/* One instruction, already decoded, from state `before`, in both worlds. */
static void compare(struct fixture *f, const ZydisDecodedInstruction *z, const uint8_t *bytes,
                    const struct state *before, bool gather)
{
    struct vcpu *v = f->b->v;
    struct insn in[2];
    assert_int_equal(decode_insn(v, f->mode, bytes, 15, 0, &in[0]), DECODE_OK);
    if (in[0].row == ROW_NONE)
        return; /* this host's processor has no such instruction */
    if (f->mode != CODE_64 && (z->mnemonic == ZYDIS_MNEMONIC_VZEROALL || z->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER))
        return; /* the trampoline is 64-bit code and has more to clear */
    memcpy(guest_data(f), f->host_data, DATA_SIZE);
    *f->native.state = *before;
    uint8_t native_bytes[15];
    memcpy(native_bytes, bytes, sizeof native_bytes);
    if (f->mode != CODE_64)
        take_w_out(native_bytes, z);
    native_run(&f->native, native_bytes, z->length);
    struct state guest = *before;
    state_to_guest(v, before);
    int vector = guest_run(f, bytes, in);
    state_from_guest(v, &guest);
    guest.fault = 0;
    f->tried++;
    f->faults += vector != NO_FAULT;
    const char *difference = NULL;
    if (vector != vector_of_signal(f->native.state->fault, vector == VECTOR_PF))
        difference = "fault";
    else if (gather && vector != NO_FAULT)
        return; /* how much is done before a fault is up to the processor */
    else
        difference = state_difference(&guest, f->native.state);
    if (difference == NULL && memcmp(guest_data(f), f->host_data, DATA_SIZE) != 0)
        difference = "memory";
    if (difference != NULL)
        report(f, difference, z, bytes, before, &guest, f->native.state);
}

/* ---- choosing operands ---- */

/* An address for the memory operand: mostly aligned, some not, some across pages, some not mapped. */
static uint64_t rnd_address(void)
{
    switch (below(8)) {
    case 0: return DATA_AT + below(DATA_SIZE - 64);
    case 1: return DATA_AT + PAGE_SIZE - below(40);
    case 2: return DATA_AT + DATA_SIZE - below(40);
    case 3: return DATA_AT + PAGE_SIZE * below(DATA_PAGES) + (below(4) ? 0 : 8);
    default: return DATA_AT + below(DATA_SIZE / 64) * 64;
    }
}

/* Registers that the trampoline keeps for itself are not operands. */
static bool operands_usable(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < z->operand_count; i++) {
        ZydisRegisterClass class = ZydisRegisterGetClass(operands[i].reg.value);
        if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER || class < ZYDIS_REGCLASS_GPR8 ||
            class > ZYDIS_REGCLASS_GPR64)
            continue;
        int id = ZydisRegisterGetId(operands[i].reg.value);
        if (id == RSP || id == 14 || id == 15)
            return false;
    }
    return true;
}

/* MASKMOVQ and MASKMOVDQU may fault on bytes that the mask excludes, or not: it depends on the processor. */
static bool is_maskmov(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_MASKMOVQ || m == ZYDIS_MNEMONIC_MASKMOVDQU || m == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

static bool runs_on_host(const ZydisDecodedInstruction *z)
{
    if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    if (z->mnemonic == ZYDIS_MNEMONIC_MOVSD || z->mnemonic == ZYDIS_MNEMONIC_CMPSD)
        return z->meta.isa_set == ZYDIS_ISA_SET_SSE2;
    enum insn_row row = insn_row_of(z->mnemonic);
    return row != ROW_NONE && insn_rows[row].how == HOW_HOST;
}

static void try_bytes(struct fixture *f, const uint8_t *bytes, unsigned rounds)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->decoder, bytes, 15, &z, operands)) || !runs_on_host(&z) ||
        !operands_usable(&z, operands))
        return;
    const ZydisDecodedOperand *memory = NULL;
    for (unsigned i = 0; i < z.operand_count; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            memory = &operands[i];
    for (unsigned round = 0; round < rounds; round++) {
        struct state s;
        state_random(&s);
        for (unsigned n = 0; n < 16 && f->mode != CODE_64; n++)
            s.gpr[n] = (uint32_t)s.gpr[n];
        rnd_vector(f->host_data + below(DATA_SIZE / 64) * 64, 64);
        bool gather = memory != NULL && memory->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
        if (memory != NULL) {
            uint64_t address = rnd_address();
            if (is_maskmov(z.mnemonic) && address > DATA_AT + DATA_SIZE - 16)
                continue;
            s.gpr[ZydisRegisterGetId(memory->mem.base)] = address;
            if (address >= DATA_AT && address < DATA_AT + DATA_SIZE - 32) /* an operand of interest */
                rnd_vector(f->host_data + (address - DATA_AT), 32);
            uint8_t *index = s.ymm[ZydisRegisterGetId(memory->mem.index) & 15];
            bool wide = strchr(ZydisMnemonicGetString(z.mnemonic), 'q') != NULL &&
                        strstr(ZydisMnemonicGetString(z.mnemonic), "gatherq") != NULL;
            for (unsigned i = 0; gather && i < 32; i += wide ? 8 : 4) {
                int64_t value = below(16) ? (int64_t)below(256) : (int64_t)below(1 << 16);
                memcpy(index + i, &value, wide ? 8 : 4);
            }
        }
        compare(f, &z, bytes, &s, gather);
    }
}

static unsigned rounds_wanted(void)
{
    const char *rounds = getenv("RING3_TEST_ROUNDS");
    return rounds != NULL ? (unsigned)atoi(rounds) : 1;
}

/* ModRM for form `form` of 16: eight values of reg, register or [rbx] (or [rbx + index] with a SIB byte). */
static unsigned put_modrm(uint8_t *bytes, unsigned form, bool vsib)
{
    unsigned reg = form & 7;
    if (form & 8) {
        bytes[0] = (uint8_t)(0xc0 | reg << 3 | below(8));
        return 1;
    }
    if (!vsib) {
        bytes[0] = (uint8_t)(reg << 3 | 3);
        return 1;
    }
    bytes[0] = (uint8_t)(reg << 3 | 4);
    bytes[1] = (uint8_t)(below(4) << 6 | below(8) << 3 | 3);
    return 2;
}

static void put_random(uint8_t *bytes, unsigned n)
{
    while (n < 15)
        bytes[n++] = (uint8_t)rnd();
}

/* ---- tests ---- */

static void finish(struct fixture *f, unsigned least)
{
    print_message("%u executions, %u of them faulted\n", f->tried, f->faults);
    assert_true(f->tried >= least);
    assert_int_equal(f->failed, 0);
}

static void test_legacy(struct fixture *f)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3};
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned n = 0; n < 4 * 2 * 256 * 16; n++) {
            unsigned form = n & 15, opcode = n >> 4 & 255, w = n >> 12 & 1, prefix = prefixes[n >> 13];
            uint8_t bytes[15], *p = bytes;
            if (map == 1 && (opcode == 0x38 || opcode == 0x3a))
                continue; /* the other maps */
            if (prefix != 0)
                *p++ = (uint8_t)prefix;
            unsigned rex = w << 3 | below(2) << 2 | (form & 8 ? below(2) : 0);
            if (rex != 0 && f->mode == CODE_64)
                *p++ = (uint8_t)(0x40 | rex);
            *p++ = 0x0f;
            if (map > 1)
                *p++ = map == 2 ? 0x38 : 0x3a;
            *p++ = (uint8_t)opcode;
            p += put_modrm(p, form, false);
            put_random(bytes, (unsigned)(p - bytes));
            try_bytes(f, bytes, 2 * rounds_wanted());
        }
    finish(f, 10000);
}

static void test_vex(struct fixture *f)
{
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned n = 0; n < 4 * 2 * 2 * 256 * 16; n++) {
            unsigned form = n & 15, opcode = n >> 4 & 255, pp = n >> 12 & 3, w = n >> 14 & 1, l = n >> 15;
            uint8_t bytes[15];
            bool vsib = map == 2 && opcode >= 0x90 && opcode <= 0x93;
            for (unsigned vvvv = 0; vvvv < 2; vvvv++) { /* some want it unused */
                bool low = f->mode != CODE_64;       /* there are eight registers */
                bytes[0] = 0xc4;
                bytes[1] = (uint8_t)((low | below(2)) << 7 | 1 << 6 | (form & 8 ? low | below(2) : 1u) << 5 | map);
                bytes[2] = (uint8_t)(w << 7 | (vvvv ? below(15) | low << 3 : 15u) << 3 | l << 2 | pp);
                bytes[3] = (uint8_t)opcode;
                put_random(bytes, 4 + put_modrm(bytes + 4, form, vsib));
                if (low)
                    for (unsigned i = 5; i < 7; i++)
                        bytes[i] &= 0x7f; /* a fourth register, too */
                try_bytes(f, bytes, rounds_wanted());
            }
        }
    finish(f, 10000);
}

static void test_x87(struct fixture *f)
{
    for (unsigned n = 0; n < 8 * 256; n++) {
        uint8_t bytes[15] = {(uint8_t)(0xd8 + (n >> 8)), (uint8_t)n};
        if (bytes[1] < 0xc0 && (bytes[1] & 0xc7) != 0x03)
            continue;
        put_random(bytes, 2);
        try_bytes(f, bytes, 60 * rounds_wanted());
    }
    finish(f, 10000);
}

/* Sequences: what one instruction leaves in the host's registers must not reach the next. */
static void test_x87_sequence(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    for (unsigned round = 0; round < 200; round++) {
        struct state s;
        state_random(&s);
        s.x87.fcw |= X87_EXCEPTIONS;
        state_to_guest(v, &s);
        uint8_t all[15 * 8];
        unsigned length = 0;
        struct insn in[9];
        *f->native.state = s;
        for (unsigned n = 0; n < 8; n++) {
            uint8_t bytes[15] = {(uint8_t)(0xd8 + below(8)), (uint8_t)(0xc0 + below(64))};
            ZydisDecodedInstruction z;
            ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
            if (below(8) == 0) { /* fnclex, MMX */
                bytes[0] = below(2) ? 0xdb : 0x0f;
                bytes[1] = bytes[0] == 0xdb ? 0xe2 : 0xfc;
                bytes[2] = (uint8_t)(0xc0 + below(64));
            }
            if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->decoder, bytes, 15, &z, operands)) || !runs_on_host(&z))
                continue;
            decode_insn(v, CODE_64, bytes, 15, 0, &in[0]);
            guest_run(f, bytes, in);
            memcpy(all + length, bytes, z.length);
            length += z.length;
        }
        native_run(&f->native, all, length);
        struct state guest = s;
        state_from_guest(v, &guest);
        const char *difference = state_difference(&guest, f->native.state);
        if (difference != NULL) {
            for (unsigned i = 0; i < length; i++)
                fprintf(stderr, "%02x ", all[i]);
            fail_msg("%s differs", difference);
        }
    }
}

/* The same in 32-bit code: eight registers, no REX. W of VEX means nothing where it would widen a general register. */
static void enter_32(struct fixture *f)
{
    bench_segment(f->b, SEG_CS, CODE(0));
    vcpu_mode_changed(f->b->v);
    f->mode = f->b->v->code_mode;
    assert_int_equal(f->mode, CODE_32_FLAT);
    ZydisDecoderInit(&f->decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
}

static void test_legacy_32(struct fixture *f)
{
    enter_32(f);
    test_legacy(f);
}

static void test_vex_32(struct fixture *f)
{
    enter_32(f);
    test_vex(f);
}

/* ---- images ---- */

/* The host (AMD) does not store FIP, FDP and FOP in FXSAVE images without a pending exception, and its trampoline's are
 * not the guest's: they are taken out before comparing. `offsets` are of 16-byte-or-less fields to be cleared. */
static void clear_field(uint8_t *image, unsigned offset, unsigned size)
{
    memset(image + offset, 0, size);
}

struct image_case {
    const char *name;
    uint8_t bytes[5];
    unsigned pointers[6]; /* offset and size, three times */
    bool load, xsave;
};

static const struct image_case image_cases[] = {
    {"fnsave", {0xdd, 0x33}, {12, 16}, false, false},
    {"fnsave16", {0x66, 0xdd, 0x33}, {6, 8}, false, false},
    {"fnstenv", {0xd9, 0x33}, {12, 16}, false, false},
    {"fnstenv16", {0x66, 0xd9, 0x33}, {6, 8}, false, false},
    {"frstor", {0xdd, 0x23}, {0}, true, false},
    {"frstor16", {0x66, 0xdd, 0x23}, {0}, true, false},
    {"fldenv", {0xd9, 0x23}, {0}, true, false},
    {"fldenv16", {0x66, 0xd9, 0x23}, {0}, true, false},
    {"fxsave", {0x0f, 0xae, 0x03}, {6, 18}, false, false},
    {"fxsave64", {0x48, 0x0f, 0xae, 0x03}, {6, 18}, false, false},
    {"fxrstor", {0x0f, 0xae, 0x0b}, {0}, true, false},
    {"fxrstor64", {0x48, 0x0f, 0xae, 0x0b}, {0}, true, false},
    {"xsave", {0x0f, 0xae, 0x23}, {6, 18}, false, true},
    {"xsave64", {0x48, 0x0f, 0xae, 0x23}, {6, 18}, false, true},
    {"xsaveopt", {0x0f, 0xae, 0x33}, {6, 18}, false, true},
    {"xsavec", {0x0f, 0xc7, 0x23}, {6, 18}, false, true},
    {"xrstor", {0x0f, 0xae, 0x2b}, {0}, true, true},
    {"xrstor64", {0x48, 0x0f, 0xae, 0x2b}, {0}, true, true},
    {"ldmxcsr", {0x0f, 0xae, 0x13}, {0}, true, false},
    {"stmxcsr", {0x0f, 0xae, 0x1b}, {0}, false, false},
};

/* Sometimes initial components, so that XINUSE matters. Not where the host saves: what it takes for initial after the
 * trampoline has loaded zeros is up to it. */
static void simplify_state(struct state *s)
{
    if (below(3) == 0)
        s->mxcsr = MXCSR_DEFAULT;
    if (below(3) == 0) {
        memset(&s->x87, 0, sizeof s->x87);
        s->x87.fcw = X87_FCW_INIT;
        s->x87.mxcsr = MXCSR_HOST;
    }
    for (unsigned n = 0; n < 16; n++) {
        if (n == 0 && below(2))
            continue;
        memset(s->ymm[n] + 16, 0, 16);
    }
    if (below(3) == 0)
        for (unsigned n = 0; n < 16; n++)
            memset(s->ymm[n], 0, 16);
}

/* An image that can be loaded, mostly. */
static void prepare_image(const struct image_case *c, uint8_t *image)
{
    uint16_t fcw = (uint16_t)(rnd() & (X87_FCW_VALID | X87_FCW_ONE)), fsw = (uint16_t)rnd();
    memcpy(image, &fcw, 2);
    memcpy(image + (strstr(c->name, "16") || c->bytes[0] == 0x0f || c->bytes[0] == 0x48 ? 2 : 4), &fsw, 2);
    uint32_t mxcsr = (uint32_t)rnd() & (below(8) ? 0xffff : 0x7ffff);
    if (c->bytes[0] == 0x0f || c->bytes[0] == 0x48)
        memcpy(image + (c->name[0] == 'l' ? 0 : 24), &mxcsr, 4);
    if (!c->xsave)
        return;
    uint64_t header[8] = {below(8), 0};
    if (below(3) == 0)
        header[1] = 1ull << 63 | header[0] | below(8);
    switch (below(12)) {
    case 0: header[0] |= 8; break; /* not in XCR0 of the guest */
    case 1: header[1] ^= 1ull << below(64); break;
    case 2: header[2 + below(1)] = rnd(); break;
    default: break;
    }
    memcpy(image + 512, header, sizeof header);
}

static void images_compare(struct fixture *f, const struct image_case *c)
{
    struct vcpu *v = f->b->v;
    struct state s;
    uint8_t bytes[15] = {0};
    memcpy(bytes, c->bytes, sizeof c->bytes);
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->decoder, bytes, 15, &z, operands)));
    state_random(&s);
    if (c->load)
        simplify_state(&s);
    s.gpr[RAX] = below(8);
    s.gpr[RDX] = 0;
    unsigned offset = c->bytes[0] == 0x0f || c->bytes[0] == 0x48 ? 64 * below(100) : below(6000);
    if (below(16) == 0)
        offset += 8;
    if (below(16) == 0)
        offset = DATA_SIZE - 64; /* runs into the page that is not there */
    s.gpr[RBX] = DATA_AT + offset;
    for (unsigned i = 0; i < DATA_SIZE; i += 8) {
        uint64_t value = rnd();
        memcpy(f->host_data + i, &value, 8);
    }
    prepare_image(c, f->host_data + (offset < DATA_SIZE - 1024 ? offset : 0));
    memcpy(guest_data(f), f->host_data, DATA_SIZE);
    struct insn in[2];
    assert_int_equal(decode_insn(v, CODE_64, bytes, 15, 0, &in[0]), DECODE_OK);
    *f->native.state = s;
    native_run(&f->native, bytes, z.length);
    struct state guest = s;
    state_to_guest(v, &s);
    int vector = guest_run(f, bytes, in);
    state_from_guest(v, &guest);
    f->tried++;
    f->faults += vector != NO_FAULT;
    for (unsigned i = 0; i < 6 && offset < DATA_SIZE - 1024; i += 2) {
        clear_field(guest_data(f) + offset, c->pointers[i], c->pointers[i + 1]);
        clear_field(f->host_data + offset, c->pointers[i], c->pointers[i + 1]);
    }
    const char *difference = state_difference(&guest, f->native.state);
    if (vector != vector_of_signal(f->native.state->fault, vector == VECTOR_PF))
        difference = "fault";
    else if (difference == NULL && vector == NO_FAULT && memcmp(guest_data(f), f->host_data, DATA_SIZE) != 0)
        difference = "memory";
    if (difference == NULL)
        return;
    report(f, difference, &z, bytes, &s, &guest, f->native.state);
    if (f->failed > 5)
        return;
    for (unsigned i = 0, shown = 0; i < DATA_SIZE && shown < 8; i++)
        if (guest_data(f)[i] != f->host_data[i])
            shown += (unsigned)(fprintf(stderr, "    +%u guest %02x host %02x\n", i - offset, guest_data(f)[i],
                                        f->host_data[i]) > 0);
}

static void test_images(struct fixture *f)
{
    for (unsigned round = 0; round < 200 * rounds_wanted(); round++)
        for (unsigned i = 0; i < ARRAY_LEN(image_cases); i++)
            images_compare(f, &image_cases[i]);
    finish(f, 1000);
}

/* XSAVES and XRSTORS cannot be run by a user's program: there and back again. */
static void test_supervisor_images(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    for (unsigned round = 0; round < 200; round++) {
        struct state s, other, after;
        struct insn in[2];
        state_random(&s);
        simplify_state(&s);
        state_random(&other);
        s.gpr[RAX] = other.gpr[RAX] = 7;
        s.gpr[RDX] = other.gpr[RDX] = 0;
        s.gpr[RBX] = other.gpr[RBX] = DATA_AT + 0xe00; /* over a page's end */
        s.x87.fip = rnd();
        s.x87.fdp = rnd();
        s.x87.fop = (uint16_t)below(0x800);
        if (s.x87.fcw == X87_FCW_INIT && s.x87.ftw == 0)
            s.x87.fip = s.x87.fdp = s.x87.fop = 0;
        state_to_guest(v, &s);
        decode_insn(v, CODE_64, (const uint8_t[15]){0x48, 0x0f, 0xc7, 0x2b}, 15, 0, in); /* xsaves64 [rbx] */
        assert_int_equal(guest_run(f, NULL, in), NO_FAULT);
        assert_int_equal(get64(f->b, DATA_AT + 0xe00 + 520), 1ull << 63 | 7);
        memset(&other.x87, 0, sizeof other.x87);
        other.x87.fcw = X87_FCW_ONE;
        other.x87.mxcsr = MXCSR_HOST;
        state_to_guest(v, &other);
        decode_insn(v, CODE_64, (const uint8_t[15]){0x48, 0x0f, 0xc7, 0x1b}, 15, 0, in); /* xrstors64 [rbx] */
        assert_int_equal(guest_run(f, NULL, in), NO_FAULT);
        state_from_guest(v, &after);
        memcpy(after.gpr, s.gpr, sizeof s.gpr);
        after.flags = s.flags;
        assert_null(state_difference(&after, &s));
        assert_int_equal(after.x87.fip, s.x87.fip);
        assert_int_equal(after.x87.fdp, s.x87.fdp);
        assert_int_equal(after.x87.fop, s.x87.fop);
    }
    v->cpl = 3;
    struct insn in[2];
    decode_insn(v, CODE_64, (const uint8_t[15]){0x48, 0x0f, 0xc7, 0x1b}, 15, 0, in);
    assert_int_equal(guest_run(f, NULL, in), VECTOR_GP);
}

static void test_xinuse(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    fpu_reset(v, false);
    assert_int_equal(fpu_xinuse(v), 1); /* RESET is not what FNINIT leaves */
    fpu_x87_init(v);
    assert_int_equal(fpu_xinuse(v), 0);
    v->fpu.mxcsr = 0x1fa0;
    assert_int_equal(fpu_xinuse(v), 0);
    v->regs[RAX] = 7;
    v->regs[RDX] = 0;
    v->regs[RBX] = DATA_AT;
    struct insn in[2];
    decode_insn(v, CODE_64, (const uint8_t[15]){0x0f, 0xc7, 0x23}, 15, 0, in); /* xsavec [rbx] */
    memset(f->b->ram + DATA_AT, 0x55, 1024);
    assert_int_equal(guest_run(f, NULL, in), NO_FAULT);
    assert_int_equal(get64(f->b, DATA_AT + 512), 2); /* MXCSR is part of SSE here */
    assert_int_equal(get32(f->b, DATA_AT + 24), 0x1fa0);
    assert_int_equal(get32(f->b, DATA_AT + 160), 0);
    assert_int_equal(get32(f->b, DATA_AT + 0), 0x55555555);
    assert_int_equal(get32(f->b, DATA_AT + 576), 0x55555555);
    v->fpu.ymm[15][31] = 1;
    assert_int_equal(fpu_xinuse(v), 4);
    v->fpu.ymm[3][0] = 1;
    assert_int_equal(fpu_xinuse(v), 6);
}

/* The four environment formats, by the manual's figures 8-9 to 8-12. */
static void test_environment_formats(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    struct x87_image *x87 = fpu_x87(&v->fpu);
    /* 16 and 32 bits protected, 16 and 32 bits real */
    static const uint16_t expected[4][14] = {
        {0x037f, 0x0000, 0xffff, 0x5678, 0x0010, 0xcdef, 0x0018},
        {0x037f, 0xffff, 0x0000, 0xffff, 0xffff, 0xffff, 0x5678, 0x0234, 0x0010, 0x0123, 0xcdef, 0x0009, 0x0018,
         0xffff},
        {0x037f, 0x0000, 0xffff, 0x5778, 0x4123, 0xcf6f, 0x9000},
        {0x037f, 0xffff, 0x0000, 0xffff, 0xffff, 0xffff, 0x5778, 0xffff, 0x4123, 0x0023, 0xcf6f, 0xffff, 0x9000,
         0x0000},
    };
    for (unsigned format = 0; format < 4; format++) {
        bench_protected(f->b, 0);
        fpu_x87_init(v);
        x87->fip = 0x02345678;
        x87->fdp = 0x0009cdef;
        x87->fop = 0x123;
        v->fpu.x87_cs = 0x10;
        v->fpu.x87_ds = 0x18;
        if (format >= 2) {
            v->cr0 &= ~CR0_PE;
            vcpu_mode_changed(v);
        }
        v->regs[RBX] = 0x6000;
        memset(f->b->ram + 0x6000, 0, 64);
        struct insn in[2];
        uint8_t bytes[15] = {0xd9, 0x33};
        if (format % 2 == 0)
            memcpy(bytes, (const uint8_t[]){0x66, 0xd9, 0x33}, 3);
        decode_insn(v, CODE_32, bytes, 15, 0, in);
        assert_int_equal(guest_run(f, NULL, in), NO_FAULT);
        for (unsigned i = 0; i < (format % 2 ? 14 : 7); i++)
            if (get16(f->b, 0x6000 + 2 * i) != expected[format][i])
                fail_msg("format %u word %u: %04x, should be %04x", format, i, get16(f->b, 0x6000 + 2 * i),
                         expected[format][i]);
    }
}

/* ---- conditions before the instruction ---- */

static int run_bytes(struct fixture *f, const uint8_t *bytes, unsigned n)
{
    uint8_t padded[15] = {0};
    struct insn in[2];
    memcpy(padded, bytes, n);
    assert_int_equal(decode_insn(f->b->v, f->b->v->code_mode, padded, 15, 0, in), DECODE_OK);
    return guest_run(f, NULL, in);
}
#define RUN(...) run_bytes(f, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define ADDPS 0x0f, 0x58, 0xc1
#define VADDPS 0xc5, 0xf0, 0x58, 0xc1
#define PADDB 0x0f, 0xfc, 0xc1
#define CVTPI2PS 0x0f, 0x2a, 0xc1
#define FADD 0xd8, 0xc1
#define FWAIT 0x9b

static void test_availability(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    fpu_x87_init(v);
    v->cr0 |= CR0_TS;
    assert_int_equal(RUN(ADDPS), VECTOR_NM);
    assert_int_equal(RUN(VADDPS), VECTOR_NM);
    assert_int_equal(RUN(PADDB), VECTOR_NM);
    assert_int_equal(RUN(FADD), VECTOR_NM);
    assert_int_equal(RUN(FWAIT), VECTOR_NM);
    v->cr0 &= ~CR0_MP;
    assert_int_equal(RUN(FWAIT), NO_FAULT);
    v->cr0 |= CR0_EM;
    assert_int_equal(RUN(ADDPS), VECTOR_UD);
    assert_int_equal(RUN(VADDPS), VECTOR_NM);
    assert_int_equal(RUN(PADDB), VECTOR_UD);
    assert_int_equal(RUN(FADD), VECTOR_NM);
    v->cr0 &= ~(CR0_EM | CR0_TS);
    v->cr4 &= ~CR4_OSFXSR;
    assert_int_equal(RUN(ADDPS), VECTOR_UD);
    assert_int_equal(RUN(PADDB), NO_FAULT);
    assert_int_equal(RUN(CVTPI2PS), VECTOR_UD);
    assert_int_equal(RUN(VADDPS), NO_FAULT);
    v->cr4 |= CR4_OSFXSR;
    v->xcr0 = XCR0_X87 | XCR0_SSE;
    assert_int_equal(RUN(VADDPS), VECTOR_UD);
    v->xcr0 |= XCR0_AVX;
    v->cr4 &= ~CR4_OSXSAVE;
    assert_int_equal(RUN(VADDPS), VECTOR_UD);
    v->cr4 |= CR4_OSXSAVE;
    v->fpu.mxcsr = 0; /* 0/0 unmasked */
    memset(v->fpu.ymm, 0, sizeof v->fpu.ymm);
    assert_int_equal(RUN(0x0f, 0x5e, 0xc1), VECTOR_XM);
    assert_int_equal(v->fpu.mxcsr, 1);
    v->cr4 &= ~CR4_OSXMMEXCPT;
    assert_int_equal(RUN(0x0f, 0x5e, 0xc1), VECTOR_UD);
}

static bool ferr_ignne;
static unsigned ferr_calls[2];

static bool ferr(void *opaque, bool error)
{
    ferr_calls[error]++;
    return ferr_ignne;
}

static void test_pending_error(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    struct x87_image *x87 = fpu_x87(&v->fpu);
    fpu_x87_init(v);
    x87->fcw &= (uint16_t)~1; /* #I unmasked */
    v->platform.ferr = ferr;
    v->regs[GPR_PAGE] = CODE_AT;
    assert_int_equal(RUN(FADD), NO_FAULT); /* both empty: stack fault */
    assert_true(x87->fsw & X87_FSW_ES);
    assert_int_equal(x87->fip, CODE_AT);
    assert_int_equal(x87->fop, 0x0c1);
    assert_int_equal(RUN(0xdf, 0xe0), NO_FAULT); /* fnstsw ax does not wait */
    assert_int_equal((uint16_t)v->regs[RAX], x87->fsw);
    assert_int_equal(RUN(FADD), VECTOR_MF);
    assert_int_equal(RUN(FWAIT), VECTOR_MF);
    assert_int_equal(RUN(PADDB), VECTOR_MF);
    v->cr0 &= ~CR0_NE;
    v->rip = 0;
    assert_int_equal(RUN(FADD), NO_FAULT);
    assert_int_equal(ferr_calls[true], 1);
    assert_int_equal(v->rip, CODE_AT); /* it waits */
    ferr_ignne = true;
    assert_int_equal(RUN(FWAIT), NO_FAULT);
    assert_int_equal(ferr_calls[true], 2);
    assert_int_equal(ferr_calls[false], 0);
    assert_int_equal(RUN(0xdb, 0xe2), NO_FAULT); /* fnclex */
    assert_int_equal(ferr_calls[false], 1);
    assert_int_equal(RUN(FWAIT), NO_FAULT);
    assert_int_equal(ferr_calls[true], 2);
}

/* A store whose exception is not masked stores nothing, also when it crosses a page and so goes through a copy. */
static void test_unmasked_store(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    struct x87_image *x87 = fpu_x87(&v->fpu);
    for (unsigned masked = 0; masked < 2; masked++) {
        fpu_x87_init(v);
        x87->ftw = 1;
        x87->st[0] = (struct x87_register){.mantissa = ~0ull, .exponent = 0x7ffe};
        x87->fcw = (uint16_t)(X87_FCW_INIT & ~(masked ? 0 : 8)); /* #O */
        v->regs[RBX] = DATA_AT + PAGE_SIZE - 3;
        put64(f->b, DATA_AT + PAGE_SIZE - 3, 0x1122334455667788);
        assert_int_equal(RUN(0xdd, 0x1b), NO_FAULT); /* fstp qword [rbx] */
        assert_int_equal(get64(f->b, DATA_AT + PAGE_SIZE - 3), masked ? 0x7ff0000000000000 : 0x1122334455667788);
        assert_int_equal(x87->ftw, masked ? 0 : 1);
    }
}

/* A gather that faults has done what it could, and goes on where it was. */
static void test_gather_restart(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    uint32_t *dest = (uint32_t *)(void *)v->fpu.ymm[1], *index = (uint32_t *)(void *)v->fpu.ymm[2];
    uint32_t *mask = (uint32_t *)(void *)v->fpu.ymm[3];
    for (unsigned i = 0; i < 8; i++) {
        dest[i] = 0xdead0000 + i;
        index[i] = i * 0x100;
        mask[i] = i == 1 ? 0x7fffffff : 0x80000000;
        put32(f->b, DATA_AT + i * 0x400, 0xcafe0000 + i);
    }
    index[5] = DATA_SIZE / 4;
    v->regs[RBX] = DATA_AT;
    assert_int_equal(RUN(0xc4, 0xe2, 0x65, 0x90, 0x0c, 0x93), VECTOR_PF); /* vpgatherdd ymm1, [rbx + ymm2*4], ymm3 */
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(dest[i], i == 1 || i >= 5 ? 0xdead0000 + i : 0xcafe0000 + i);
        assert_int_equal(mask[i], i >= 5 ? 0xffffffff : 0);
    }
    index[5] = 5 * 0x100;
    assert_int_equal(RUN(0xc4, 0xe2, 0x65, 0x90, 0x0c, 0x93), NO_FAULT);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(dest[i], i == 1 ? 0xdead0001 : 0xcafe0000 + i);
        assert_int_equal(mask[i], 0);
    }
}

/* Memory that is a device. */
struct device {
    uint8_t bytes[64];
    unsigned reads, writes;
};

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
    struct device *d = dev;
    uint64_t value = 0;
    d->reads++;
    memcpy(&value, d->bytes + (offset & 63), size);
    return value;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct device *d = dev;
    d->writes++;
    memcpy(d->bytes + (offset & 63), &value, size);
}

static void device_door(struct vcpu *v, struct exit *exit)
{
    if (exit->reason == EXIT_MMIO_READ)
        exit->value = memory_mmio_read(v->memory, exit->address, exit->size);
    else if (exit->reason == EXIT_MMIO_WRITE)
        memory_mmio_write(v->memory, exit->address, exit->size, exit->value);
}

static void test_device_memory(struct fixture *f)
{
    static const struct io_ops ops = {.read = device_read, .write = device_write, .name = "test"};
    struct vcpu *v = f->b->v;
    struct device d = {.reads = 0};
    memset(d.bytes, 0x11, sizeof d.bytes);
    v->exit = device_door;
    assert_true(memory_map_mmio(f->b->memory, 0xa0000, PAGE_SIZE, &ops, &d, NULL));
    v->regs[RBX] = 0xa0000;
    memset(v->fpu.ymm[0], 0x22, 32);
    memset(v->fpu.ymm[1], 0, 32);
    assert_int_equal(RUN(0x0f, 0x29, 0x03), NO_FAULT);                   /* movaps [rbx], xmm0 */
    assert_int_equal(RUN(0xc5, 0xfc, 0x10, 0x0b), NO_FAULT);             /* vmovups ymm1, [rbx] */
    assert_int_equal(d.writes, 2);
    assert_int_equal(d.reads, 4);
    assert_memory_equal(v->fpu.ymm[1], d.bytes, 32);
    assert_int_equal(d.bytes[15], 0x22);
    assert_int_equal(d.bytes[16], 0x11);
    v->regs[RBX] = 0xa0008;
    assert_int_equal(RUN(0x0f, 0x29, 0x03), VECTOR_GP);
    v->fpu.mxcsr |= MXCSR_MM; /* MOVAPS is aligned all the same, PADDB is not */
    assert_int_equal(RUN(0x0f, 0x29, 0x03), VECTOR_GP);
    if (f->b->model.word[CPUID_8000_0001_ECX] & 1u << 7)
        assert_int_equal(RUN(0x66, 0x0f, 0xfc, 0x03), NO_FAULT);
}

/* Filling the stub memory, emptying it, going on. */
static void test_full(struct fixture *f)
{
    struct vcpu *v = f->b->v;
    struct host_exec *he = v->host_exec;
    unsigned made = 0;
    for (unsigned n = 0; n < 1u << 20 && !host_exec_full(he); n++) {
        uint8_t bytes[15] = {0x66, 0x0f, 0x70, (uint8_t)(0xc0 | (n & 63)), (uint8_t)(n >> 6)}; /* pshufd */
        if (n >> 14)
            memcpy(bytes, (const uint8_t[]){0x66, 0x0f, 0x3a, 0x0f, (uint8_t)(0xc0 | (n & 63)), (uint8_t)(n >> 6)}, 6);
        struct insn in;
        if (n >> 15) { /* cmpps, vcmpps: more to make */
            memcpy(bytes, (const uint8_t[]){0xc4, 0xe1, (uint8_t)(0x70 ^ (n >> 14 & 15) << 3), 0xc2,
                                            (uint8_t)(0xc0 | (n & 63)), (uint8_t)(n >> 6 & 31)}, 6);
        }
        decode_insn(v, CODE_64, bytes, 15, 0, &in);
        made++;
    }
    assert_true(host_exec_full(he) || made == 1u << 20);
    host_exec_reset(he);
    assert_false(host_exec_full(he));
    memset(v->fpu.ymm[0], 1, 32);
    memset(v->fpu.ymm[1], 2, 32);
    assert_int_equal(RUN(0x66, 0x0f, 0xfc, 0xc1), NO_FAULT);
    assert_int_equal(v->fpu.ymm[0][15], 3);
}

/* ---- setup ---- */

/* cmocka puts its own handlers of SIGSEGV and the like in place before each test; ours are put back over them. */
static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction fault_actions[ARRAY_LEN(fault_signals)];

static void with_handlers(void **state, void (*test)(struct fixture *f))
{
    struct sigaction before[ARRAY_LEN(fault_signals)];
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++)
        sigaction(fault_signals[i], &fault_actions[i], &before[i]);
    test(*state);
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++)
        sigaction(fault_signals[i], &before[i], NULL);
}

static int setup(void **state)
{
    void *bench_state = NULL;
    bench_setup(&bench_state);
    struct fixture *f = test_calloc(1, sizeof *f);
    struct bench *b = f->b = bench_state;
    struct cpu_model *model = cpu_model_create("max", NULL);
    assert_non_null(model);
    b->model = *model;
    free(model);
    b->v->host_exec = host_exec_create(NULL);
    assert_non_null(b->v->host_exec);
    bench_long(b, 0);
    for (unsigned i = 0; i < 512; i++)
        put64(b, TABLE_AT + 8 * i, i < DATA_PAGES ? (DATA_AT + i * PAGE_SIZE) | 0x67 : 0);
    put64(b, PML4_AT + 0x2000 + 8, TABLE_AT | 7);
    b->v->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    b->v->cr0 |= CR0_NE | CR0_MP;
    b->v->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    mmu_flush(b->v);
    vcpu_mode_changed(b->v);
    ZydisDecoderInit(&f->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    f->host_data = mmap((void *)(uintptr_t)DATA_AT, DATA_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_ptr_equal(f->host_data, (void *)(uintptr_t)DATA_AT);
    f->native.code = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->native.code, MAP_FAILED);
    f->native.state = aligned_alloc(64, (sizeof *f->native.state + 63) & ~(size_t)63);
    assert_true(host_signals_add(f->native.code, PAGE_SIZE, native_fault, &f->native, NULL));
    const char *seed = getenv("RING3_TEST_SEED");
    random_state = seed != NULL ? strtoull(seed, NULL, 0) | 1 : 0x9e3779b97f4a7c15;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    host_signals_remove(f->native.code);
    munmap(f->native.code, PAGE_SIZE);
    munmap(f->host_data, DATA_SIZE);
    free(f->native.state);
    host_exec_destroy(f->b->v->host_exec);
    void *bench_state = f->b;
    bench_teardown(&bench_state);
    test_free(f);
    return 0;
}

#define TESTS(X)                                                                                                       \
    X(legacy) X(vex) X(x87) X(x87_sequence) X(legacy_32) X(vex_32) X(images) X(supervisor_images) X(xinuse)            \
    X(environment_formats) X(availability) X(pending_error) X(unmasked_store) X(gather_restart) X(device_memory)       \
    X(full)

#define X(name)                                                                                                        \
    static void run_##name(void **state)                                                                               \
    {                                                                                                                  \
        with_handlers(state, test_##name);                                                                             \
    }
TESTS(X)
#undef X

int main(void)
{
    if (!__builtin_cpu_supports("avx2"))
        return 77; /* the trampoline needs it: skipped */
    host_exec_destroy(host_exec_create(NULL)); /* installs the handlers */
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++)
        sigaction(fault_signals[i], NULL, &fault_actions[i]);
    const struct CMUnitTest tests[] = {
#define X(name) cmocka_unit_test_setup_teardown(run_##name, setup, teardown),
        TESTS(X)
#undef X
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
