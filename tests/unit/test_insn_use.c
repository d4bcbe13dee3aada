/* What instructions use (insn_use_of), against the host's processor.
 *
 * Every form with register operands that the translator copies is run with random registers and flags. What has
 * changed must be said to be written; and when a register or flag is changed beforehand that is not said to be read,
 * nothing else may come out differently. A flag that the manual leaves undefined may come out as it likes.
 *
 * Not run: memory operands, RSP, x87 and MMX.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "cpu/decode.h"
#include "engine/translate/reencode.h"

struct state {
    uint64_t gpr[16];
    uint64_t flags;
};

struct bench {
    uint8_t *code; /* one page of it, and the states in the next */
    struct state *in, *out;
    uint64_t *rsp;
    uint64_t random;
    bool avx;
    unsigned forms, runs;
};

static sigjmp_buf recover;

static void on_signal(int signal)
{
    siglongjmp(recover, signal);
}

static uint64_t next(struct bench *b)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random;
}

/* ---- running ---- */

static uint8_t *emit_at(uint8_t *p, const uint8_t *bytes, size_t n, const void *target)
{
    memcpy(p, bytes, n);
    p += n;
    if (target != NULL) {
        int32_t distance = (int32_t)((const uint8_t *)target - (p + 4));
        memcpy(p, &distance, 4);
        p += 4;
    }
    return p;
}
#define EMIT(target, ...)                                                                                              \
    p = emit_at(p, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), (target))

/* Loads registers and flags, runs the instruction, stores them. MOV leaves flags alone. */
static void stub_make(struct bench *b, const uint8_t *bytes, unsigned length)
{
    uint8_t *p = b->code;
    EMIT(NULL, 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); /* push rbx, rbp, r12 to r15 */
    EMIT(b->rsp, 0x48, 0x89, 0x25);
    EMIT(&b->in->flags, 0xff, 0x35); /* push; popfq */
    EMIT(NULL, 0x9d);
    for (unsigned i = 0; i < 16; i++)
        if (i != RSP)
            EMIT(&b->in->gpr[i], i < 8 ? 0x48 : 0x4c, 0x8b, (uint8_t)(5 | (i & 7) << 3));
    p = emit_at(p, bytes, length, NULL);
    for (unsigned i = 0; i < 16; i++)
        EMIT(&b->out->gpr[i], i < 8 ? 0x48 : 0x4c, 0x89, (uint8_t)(5 | (i & 7) << 3));
    EMIT(b->rsp, 0x48, 0x8b, 0x25);
    EMIT(&b->out->flags, 0x9c, 0x8f, 0x05);                                                   /* pushfq; pop */
    EMIT(NULL, 0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3); /* cld; pop ...; ret */
}

/* False if it faults: an instruction that this host does not have, or a division. */
static bool stub_run(struct bench *b, const struct state *in, struct state *out)
{
    *b->in = *in;
    if (sigsetjmp(recover, 0) != 0)
        return false;
    if (b->avx)
        __asm__ volatile("vzeroall" ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                         "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    ((void (*)(void))(void *)b->code)();
    if (b->avx)
        __asm__ volatile("vzeroupper" ::: "memory");
    *out = *b->out;
    out->gpr[RSP] = in->gpr[RSP];
    b->runs++;
    return true;
}

/* ---- comparing ---- */

/* RFLAGS in the layout of struct insn_use. */
static uint8_t use_flags(uint64_t rflags)
{
    return (uint8_t)((rflags & (INSN_USE_FLAGS & ~INSN_USE_OF)) | (rflags & FLAG_OF ? INSN_USE_OF : 0));
}

static uint64_t rflags_of(uint8_t flags)
{
    return (flags & (INSN_USE_FLAGS & ~INSN_USE_OF)) | (flags & INSN_USE_OF ? FLAG_OF : 0) | FLAG_FIXED | FLAG_IF;
}

static uint8_t undefined_flags(const ZydisDecodedInstruction *z)
{
    uint8_t flags = z->cpu_flags != NULL ? use_flags(z->cpu_flags->undefined) : 0;
    if (z->mnemonic == ZYDIS_MNEMONIC_LZCNT || z->mnemonic == ZYDIS_MNEMONIC_TZCNT)
        flags |= INSN_USE_OF;
    return flags;
}

static void complain(const ZydisDecodedInstruction *z, const uint8_t *bytes, const char *what, unsigned which)
{
    print_error("%s:", ZydisMnemonicGetString(z->mnemonic));
    for (unsigned i = 0; i < z->length; i++)
        print_error(" %02x", bytes[i]);
    fail_msg(" %s %u", what, which);
}

static void check_written(const ZydisDecodedInstruction *z, const uint8_t *bytes, const struct insn_use *use,
                          const struct state *in, const struct state *out)
{
    for (unsigned i = 0; i < 16; i++)
        if (out->gpr[i] != in->gpr[i] && !(use->gpr_written >> i & 1))
            complain(z, bytes, "changes register", i);
    uint8_t changed = use_flags(out->flags ^ in->flags);
    if (changed & ~use->flags_written)
        complain(z, bytes, "changes flags", changed);
}

/* What comes out differently, but for what has been changed beforehand and is not written. */
static bool differs(const struct state *a, const struct state *b, uint16_t gpr_but, uint8_t flags_but)
{
    for (unsigned i = 0; i < 16; i++)
        if (a->gpr[i] != b->gpr[i] && !(gpr_but >> i & 1))
            return true;
    return (use_flags(a->flags ^ b->flags) & ~flags_but) != 0;
}

static void check_read(struct bench *b, const ZydisDecodedInstruction *z, const uint8_t *bytes,
                       const struct insn_use *use, const struct state *in, const struct state *out)
{
    uint8_t undefined = undefined_flags(z);
    struct state changed, result;
    for (unsigned i = 0; i < 16; i++) {
        if (i == RSP || (use->gpr_read >> i & 1))
            continue;
        changed = *in;
        changed.gpr[i] = next(b);
        if (stub_run(b, &changed, &result) && differs(out, &result, (uint16_t)(1u << i & ~use->gpr_written), undefined))
            complain(z, bytes, "reads register", i);
    }
    for (unsigned bit = 1; bit < 0x100; bit <<= 1) {
        if (!(bit & INSN_USE_FLAGS) || (use->flags_read & bit))
            continue;
        changed = *in;
        changed.flags = rflags_of((uint8_t)(use_flags(in->flags) ^ bit));
        if (stub_run(b, &changed, &result) &&
            differs(out, &result, 0, (uint8_t)(undefined | (bit & ~use->flags_written))))
            complain(z, bytes, "reads flag", bit);
    }
}

/* ---- every form ---- */

static bool is_runnable(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *operands,
                        const struct insn_use *use)
{
    enum insn_row row = insn_row_of(z->mnemonic);
    if (row == ROW_NONE || (row != ROW_MOV && insn_rows[row].lowering != LOWER_COPY))
        return false;
    for (unsigned i = 0; i < z->operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return false;
        if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(operands[i].reg.value)) {
        case ZYDIS_REGCLASS_SEGMENT: case ZYDIS_REGCLASS_CONTROL: case ZYDIS_REGCLASS_DEBUG: return false;
        default: break;
        }
    }
    return !use->x87 && !use->mmx && !((use->gpr_read | use->gpr_written) >> RSP & 1);
}

static void check_form(struct bench *b, const ZydisDecoder *decoder, const uint8_t *bytes)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    struct insn_use use;
    struct state in, out;

    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, 15, &z, operands)))
        return;
    insn_use_of(&z, operands, &use);
    if (!is_runnable(&z, operands, &use))
        return;
    b->forms++;
    stub_make(b, bytes, z.length);
    for (unsigned i = 0; i < 16; i++)
        in.gpr[i] = next(b) & (next(b) % 3 != 0 ? ~0ull : 3); /* often nothing to count, find or divide */
    if (z.mnemonic == ZYDIS_MNEMONIC_DIV || z.mnemonic == ZYDIS_MNEMONIC_IDIV) {
        in.gpr[RAX] &= 0x7f;
        in.gpr[RDX] = 0;
    }
    in.flags = rflags_of((uint8_t)next(b) & INSN_USE_FLAGS);
    if (!stub_run(b, &in, &out))
        return;
    check_written(&z, bytes, &use, &in, &out);
    check_read(b, &z, bytes, &use, &in, &out);
}

static void check_opcode(struct bench *b, const ZydisDecoder *decoder, bool vex, unsigned map, uint8_t opcode)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
    for (unsigned i = 0; i < 4 * 4 * 64; i++) {
        unsigned prefix = i & 3, wl = i >> 2 & 3, n = 0;
        uint8_t bytes[16];
        for (unsigned j = 0; j < 16; j++)
            bytes[j] = (uint8_t)next(b);
        if (vex) {
            bytes[n++] = 0xc4;
            bytes[n++] = (uint8_t)(0xe0 | map);
            bytes[n++] = (uint8_t)((wl & 1) << 7 | (next(b) % 2 ? 15 : 11) << 3 | (wl >> 1) << 2 | prefix);
        } else {
            if (prefix != 0)
                bytes[n++] = prefixes[prefix];
            if (wl != 0)
                bytes[n++] = (uint8_t)(0x40 | (wl & 1) << 3 | (wl & 2 ? next(b) & 7 : 0));
            if (map > 0)
                bytes[n++] = 0x0f;
            if (map > 1)
                bytes[n++] = map == 2 ? 0x38 : 0x3a;
        }
        bytes[n++] = opcode;
        bytes[n++] = (uint8_t)(0xc0 | i >> 4);
        if (next(b) % 2)
            bytes[n] &= 0x23; /* counts of 0, 32 ... */
        check_form(b, decoder, bytes);
    }
}

static void test_host(void **state)
{
    struct bench b = {.random = 88172645463325252, .avx = __builtin_cpu_supports("avx")};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER}, before[2];
    ZydisDecoder decoder;

    b.code = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b.code == MAP_FAILED)
        skip(); /* not on this host */
    b.in = (struct state *)(void *)(b.code + PAGE_SIZE);
    b.out = b.in + 1;
    b.rsp = (uint64_t *)(void *)(b.in + 2);
    assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
    sigaction(SIGILL, &action, &before[0]);
    sigaction(SIGFPE, &action, &before[1]);
    for (unsigned vex = 0; vex < 2; vex++)
        for (unsigned map = vex; map < 4; map++)
            for (unsigned opcode = 0; opcode < 256; opcode++)
                check_opcode(&b, &decoder, vex, map, (uint8_t)opcode);
    sigaction(SIGILL, &before[0], NULL);
    sigaction(SIGFPE, &before[1], NULL);
    munmap(b.code, 2 * PAGE_SIZE);
    print_message("%u forms, %u runs\n", b.forms, b.runs);
    assert_true(b.forms > 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_host)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
