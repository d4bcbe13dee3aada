/* One instruction: bytes for an encoding, with prefixes as they come, and damaged ones. */
#include "draft.h"

/* A ModRM byte out of the encoding's set; memory operands as often as registers, where both exist. */
static uint8_t modrm_choose(struct rng *rng, const struct encoding *e)
{
    bool memory = rng_below(rng, 2);
    uint8_t modrm = 0;

    for (unsigned attempt = 0; attempt < 4096; attempt++) {
        modrm = (uint8_t)rng_next(rng);
        if ((e->modrm[modrm / 64] >> modrm % 64 & 1) && (attempt > 64 || (modrm < 0xc0) == memory))
            return modrm;
    }
    return modrm;
}

static unsigned prefixes_choose(struct rng *rng, const struct encoding *e, enum isa_mode mode, bool fs_usable,
                                uint8_t prefixes[8])
{
    static const uint8_t segments[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x64, 0x65};
    unsigned n = 0;

    if (e->prefix != 0 && !e->vex)
        prefixes[n++] = e->prefix;
    if (rng_one_in(rng, 6)) {
        uint8_t segment = segments[rng_below(rng, 8)];
        if (segment != 0x64 || fs_usable)
            prefixes[n++] = segment;
    }
    if (rng_one_in(rng, mode == ISA_16 ? 3 : 10))
        prefixes[n++] = 0x67;
    if (!e->vex) {
        if (rng_one_in(rng, 12))
            prefixes[n++] = 0xf0;
        if (rng_one_in(rng, 12))
            prefixes[n++] = rng_below(rng, 2) ? 0xf2 : 0xf3;
        if (rng_one_in(rng, 24))
            prefixes[n++] = 0x66;
    }
    for (unsigned i = n; i > 1; i--) {
        unsigned j = rng_below(rng, i);
        uint8_t swap = prefixes[i - 1];
        prefixes[i - 1] = prefixes[j];
        prefixes[j] = swap;
    }
    return n;
}

static unsigned vex_emit(struct rng *rng, const struct encoding *e, enum isa_mode mode, bool plain, uint8_t *out)
{
    static const uint8_t pp[] = {[0] = 0, [0x66] = 1, [0xf3] = 2, [0xf2] = 3};
    uint8_t rxb = mode == ISA_64 ? (uint8_t)(rng_next(rng) & 0xe0) : 0xe0;
    uint8_t vvvv = plain ? 0x78 : (uint8_t)((rng_next(rng) & 0x78) | (mode == ISA_64 ? 0 : 0x40));
    uint8_t last = (uint8_t)(vvvv | e->l << 2 | pp[e->prefix]);

    if (e->map == 1 && !e->w && (rxb & 0x60) == 0x60 && rng_below(rng, 2)) {
        out[0] = 0xc5;
        out[1] = (uint8_t)((rxb & 0x80) | last);
        return 2;
    }
    out[0] = 0xc4;
    out[1] = (uint8_t)(rxb | e->map);
    out[2] = (uint8_t)(e->w << 7 | last);
    return 3;
}

static bool draft_decode(struct draft *d, enum isa_mode mode)
{
    d->valid = ZYAN_SUCCESS(ZydisDecoderDecodeFull(isa_decoder(mode), d->bytes, 15, &d->in, d->operands));
    d->length = d->valid ? d->in.length : 15;
    return d->valid;
}

bool draft_encode(struct rng *rng, const struct encoding *e, enum isa_mode mode, bool fs_usable, struct draft *d)
{
    for (unsigned attempt = 0; attempt < 12; attempt++) {
        uint8_t prefixes[8];
        unsigned n = 0, count = 0;

        /* When fancy combinations do not decode, try plainer ones. */
        if (attempt < 6)
            count = prefixes_choose(rng, e, mode, fs_usable, prefixes);
        else if (e->prefix != 0 && !e->vex)
            prefixes[count++] = e->prefix;
        memcpy(d->bytes, prefixes, count);
        n = count;
        if (e->vex) {
            n += vex_emit(rng, e, mode, attempt % 2, d->bytes + n);
        } else {
            if (mode == ISA_64 && (e->w || rng_below(rng, 2)))
                d->bytes[n++] = (uint8_t)(0x40 | e->w << 3 | rng_below(rng, 8));
            if (e->map != 0)
                d->bytes[n++] = 0x0f;
            if (e->map >= 2)
                d->bytes[n++] = e->map == 2 ? 0x38 : 0x3a;
        }
        d->bytes[n++] = e->opcode;
        if (e->has_modrm)
            d->bytes[n++] = modrm_choose(rng, e);
        while (n < sizeof(d->bytes))
            d->bytes[n++] = (uint8_t)rng_next(rng);
        if (draft_decode(d, mode) && isa_row_of(d->in.mnemonic) == e->row)
            return true;
    }
    return false;
}

static void byte_insert(struct draft *d, unsigned at, uint8_t byte)
{
    memmove(d->bytes + at + 1, d->bytes + at, sizeof(d->bytes) - at - 1);
    d->bytes[at] = byte;
}

void draft_damage(struct rng *rng, enum isa_mode mode, struct draft *d)
{
    static const uint8_t prefixes[] = {0xf0, 0xf2, 0xf3, 0x66, 0x67, 0x40, 0x48, 0x4f, 0x2e, 0x3e};

    switch (rng_below(rng, 8)) {
    case 0:
    case 1:
        for (unsigned i = 0; i < sizeof(d->bytes); i++)
            d->bytes[i] = (uint8_t)rng_next(rng);
        if (rng_below(rng, 2))
            d->bytes[0] = 0x0f;
        break;
    case 2:
        byte_insert(d, 0, 0xf0);
        break;
    case 3:
        byte_insert(d, rng_below(rng, 4), prefixes[rng_below(rng, ARRAY_LEN(prefixes))]);
        break;
    case 4:
        d->bytes[rng_below(rng, d->length)] = (uint8_t)rng_next(rng);
        break;
    case 5:
        d->bytes[rng_below(rng, d->length)] ^= (uint8_t)(1u << rng_below(rng, 8));
        break;
    case 6: /* up to and over 15 bytes */
        for (unsigned n = 15 - d->length + rng_below(rng, 3); n > 0; n--)
            byte_insert(d, 0, rng_below(rng, 2) ? 0x66 : 0x3e);
        break;
    default:
        byte_insert(d, rng_below(rng, d->length), (uint8_t)rng_next(rng));
        break;
    }
    draft_decode(d, mode);
}
