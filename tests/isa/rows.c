/* Names and facts about rows, and the small things that all parts of the test share. */
#include <strings.h>

#include "isa.h"

static const struct {
    const char *name;
    ZydisMnemonic mnemonic;
} rows[] = {
#define INSN(mnemonic, how, meaning, lowering) {#mnemonic, ZYDIS_MNEMONIC_##mnemonic},
#include "cpu/insn.def"
#undef INSN
    {"SEQUENCE", ZYDIS_MNEMONIC_INVALID},
    {"BYTES", ZYDIS_MNEMONIC_INVALID},
    {"PROGRAM", ZYDIS_MNEMONIC_INVALID},
};

static const struct {
    uint16_t row;
    const char *where;
} elsewhere[] = {
#define ELSEWHERE(mnemonic, where) {ROW_##mnemonic, where},
#include "elsewhere.def"
#undef ELSEWHERE
};

const char *isa_row_name(unsigned row)
{
    return rows[row].name;
}

int isa_row_find(const char *name)
{
    for (unsigned i = 0; i < ISA_ROW_COUNT; i++) {
        if (strcasecmp(rows[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

ZydisMnemonic isa_row_mnemonic(unsigned row)
{
    return rows[row].mnemonic;
}

int isa_row_of(ZydisMnemonic mnemonic)
{
    static int16_t index[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    static bool filled;

    if (!filled) {
        for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
            index[i] = -1;
        for (unsigned i = 0; i < ROW_SEQUENCE; i++)
            index[rows[i].mnemonic] = (int16_t)i;
        filled = true;
    }
    return index[mnemonic];
}

const char *isa_row_elsewhere(unsigned row)
{
    for (unsigned i = 0; i < ARRAY_LEN(elsewhere); i++) {
        if (elsewhere[i].row == row)
            return elsewhere[i].where;
    }
    return NULL;
}

const uint8_t *isa_noise(void)
{
    static uint8_t noise[ARENA_SIZE + PAGE_SIZE];
    static bool filled;

    if (!filled) {
        struct rng rng = {.s = 1};
        for (unsigned i = 0; i < sizeof(noise); i += 8) {
            uint64_t x = rng_next(&rng);
            memcpy(noise + i, &x, 8);
        }
        filled = true;
    }
    return noise;
}

void isa_patch(const struct isa_case *c, uint8_t *arena)
{
    for (unsigned i = 0; i < c->patch_count; i++) {
        unsigned offset = c->patch[i].offset;
        unsigned size = c->patch[i].size;
        if (offset >= ARENA_SIZE)
            continue;
        if (size > ARENA_SIZE - offset)
            size = ARENA_SIZE - offset;
        memcpy(arena + offset, c->patch[i].bytes, size);
    }
}

uint64_t isa_seg_base(const struct isa_state *state, enum isa_mode mode, enum isa_seg seg)
{
    static const uint64_t base[] = {
#define X(index, name, linear, limit, contents, big, readonly) linear,
        ISA_LDT(X)
#undef X
    };
    uint16_t selector = state->seg[seg];

    if (mode == ISA_64)
        return seg == ISA_FS ? state->fs_base : seg == ISA_GS ? state->gs_base : 0;
    if ((selector & 4) && selector / 8 < ARRAY_LEN(base))
        return base[selector / 8];
    return 0;
}

const ZydisDecoder *isa_decoder(enum isa_mode mode)
{
    static ZydisDecoder decoders[ISA_MODE_COUNT];
    static bool filled;

    if (!filled) {
        ZydisDecoderInit(&decoders[ISA_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        ZydisDecoderInit(&decoders[ISA_32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
        ZydisDecoderInit(&decoders[ISA_16], ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
        for (unsigned m = 0; m < ISA_MODE_COUNT; m++) { /* no guest has these: NOPs, as on processors before them */
            ZydisDecoderEnableMode(&decoders[m], ZYDIS_DECODER_MODE_MPX, false);
            ZydisDecoderEnableMode(&decoders[m], ZYDIS_DECODER_MODE_CET, false);
        }
        filled = true;
    }
    return &decoders[mode];
}
