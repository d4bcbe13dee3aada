/* Which byte patterns exist for each row of insn.def.
 *
 * The decoder is asked about every opcode of every map with every mandatory prefix, W, L and ModRM byte. That covers all
 * encodings of an instruction, also those that no assembler emits (both directions of ADD r, r; group 82; the multi-byte
 * NOPs), needs no table of our own, and takes a second.
 */
#include <stdlib.h>

#include "isa.h"

struct harvest {
    struct encoding *list;
    unsigned count, capacity;
    const ZydisDecoder *decoder;
    enum isa_mode mode;
};

/* The pattern's first bytes; the rest is zeros, enough for any displacement and immediate. */
static unsigned pattern_emit(const struct encoding *e, enum isa_mode mode, uint8_t modrm, uint8_t bytes[16])
{
    unsigned n = 0;

    memset(bytes, 0, 16);
    if (e->vex) {
        /* vvvv = 1111 is what an instruction without a third operand wants, and the others take it. */
        static const uint8_t pp[] = {[0] = 0, [0x66] = 1, [0xf3] = 2, [0xf2] = 3};
        bytes[n++] = 0xc4;
        bytes[n++] = (uint8_t)(0xe0 | e->map);
        bytes[n++] = (uint8_t)(e->w << 7 | 0x78 | e->l << 2 | pp[e->prefix]);
    } else {
        if (e->prefix != 0)
            bytes[n++] = e->prefix;
        if (e->w && mode == ISA_64)
            bytes[n++] = 0x48;
        if (e->map != 0)
            bytes[n++] = 0x0f;
        if (e->map >= 2)
            bytes[n++] = e->map == 2 ? 0x38 : 0x3a;
    }
    bytes[n++] = e->opcode;
    bytes[n++] = modrm;
    /* If that means a SIB byte: with an index, which differs from the mask and some destinations, as gathers want. */
    if (e->vex)
        bytes[n++] = 0x08;
    return n;
}

/* False if the instruction is the same without its prefix. */
static bool prefix_matters(const struct harvest *h, const struct encoding *e, uint8_t modrm,
                           const ZydisDecodedInstruction *in)
{
    struct encoding plain = *e;
    ZydisDecodedInstruction other;
    uint8_t bytes[16];

    for (unsigned i = 0; i < in->raw.prefix_count; i++) {
        if (in->raw.prefixes[i].value == e->prefix && in->raw.prefixes[i].type != ZYDIS_PREFIX_TYPE_IGNORED)
            return true;
    }
    plain.prefix = 0;
    pattern_emit(&plain, h->mode, modrm, bytes);
    return !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(h->decoder, NULL, bytes, 15, &other)) ||
           other.mnemonic != in->mnemonic;
}

static void harvest_add(struct harvest *h, const struct encoding *e, unsigned since, int row, bool has_modrm, unsigned modrm)
{
    for (unsigned i = since; i < h->count; i++) {
        if (h->list[i].row == row) {
            h->list[i].modrm[modrm / 64] |= 1ull << modrm % 64;
            return;
        }
    }
    if (h->count == h->capacity) {
        h->capacity = h->capacity ? 2 * h->capacity : 4096;
        h->list = realloc(h->list, h->capacity * sizeof(*h->list));
        if (h->list == NULL)
            abort();
    }
    struct encoding *new = &h->list[h->count++];
    *new = *e;
    new->row = (uint16_t)row;
    new->has_modrm = has_modrm;
    new->modrm[modrm / 64] |= 1ull << modrm % 64;
}

/* All ModRM bytes of one opcode with one set of prefixes. */
static void harvest_opcode(struct harvest *h, const struct encoding *e)
{
    unsigned since = h->count;

    for (unsigned modrm = 0; modrm < 256; modrm++) {
        ZydisDecodedInstruction in;
        uint8_t bytes[16];

        pattern_emit(e, h->mode, (uint8_t)modrm, bytes);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(h->decoder, NULL, bytes, 15, &in)))
            continue;
        /* Prefix bytes and opcodes of other lengths also pass here; they are found in their own right. */
        if (in.opcode != e->opcode || (unsigned)in.opcode_map != e->map ||
            (in.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) != (e->vex != 0))
            return;
        if (e->prefix != 0 && !e->vex && !prefix_matters(h, e, (uint8_t)modrm, &in))
            continue;
        int row = isa_row_of(in.mnemonic);
        bool has_modrm = (in.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
        if (row >= 0)
            harvest_add(h, e, since, row, has_modrm, has_modrm ? modrm : 0);
        if (!has_modrm)
            return;
    }
}

static void harvest_mode(struct harvest *h)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3};
    struct encoding e;

    for (unsigned map = 0; map < 4; map++) {
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            for (unsigned p = 0; p < 4; p++) {
                for (unsigned w = 0; w < (h->mode == ISA_64 ? 2u : 1u); w++) {
                    e = (struct encoding){.map = (uint8_t)map, .opcode = (uint8_t)opcode, .prefix = prefixes[p],
                                          .w = (uint8_t)w};
                    harvest_opcode(h, &e);
                }
                for (unsigned wl = 0; wl < 4 && map > 0; wl++) {
                    e = (struct encoding){.vex = 1, .map = (uint8_t)map, .opcode = (uint8_t)opcode,
                                          .prefix = prefixes[p], .w = wl & 1, .l = (uint8_t)(wl >> 1)};
                    harvest_opcode(h, &e);
                }
            }
        }
    }
}

static int encoding_order(const void *a, const void *b)
{
    const struct encoding *x = a, *y = b;
    if (x->row != y->row)
        return x->row < y->row ? -1 : 1;
    return memcmp(x, y, sizeof(*x));
}

void encodings_find(struct encodings *e)
{
    for (unsigned mode = 0; mode < ISA_MODE_COUNT; mode++) {
        struct harvest h = {.decoder = isa_decoder(mode), .mode = mode};
        harvest_mode(&h);
        if (h.count > 0)
            qsort(h.list, h.count, sizeof(*h.list), encoding_order);
        e->list[mode] = h.list;
        e->count[mode] = h.count;
        for (unsigned row = 0, i = 0; row <= ISA_ROW_COUNT; row++) {
            while (i < h.count && h.list[i].row < row)
                i++;
            e->first[mode][row] = i;
        }
    }
}

void encodings_free(struct encodings *e)
{
    for (unsigned mode = 0; mode < ISA_MODE_COUNT; mode++)
        free(e->list[mode]);
}
