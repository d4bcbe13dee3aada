/* Random values that are likely to matter: edges of integer ranges, and of every floating-point format. */
#include "values.h"

static uint64_t integer_edge(struct rng *rng)
{
    static const uint8_t widths[] = {8, 16, 32, 64};
    unsigned width = widths[rng_below(rng, 4)];
    uint64_t ones = width == 64 ? UINT64_MAX : (1ull << width) - 1;

    switch (rng_below(rng, 8)) {
    case 0: return 0;
    case 1: return ones;
    case 2: return ones >> 1;
    case 3: return (ones >> 1) + 1;
    case 4: return -(uint64_t)(1 + rng_below(rng, 8));
    case 5: return 1ull << rng_below(rng, 64);
    case 6: return (1ull << rng_below(rng, 64)) - 1;
    default: return -((ones >> 1) + 1);
    }
}

uint64_t value_integer(struct rng *rng)
{
    switch (rng_below(rng, 8)) {
    case 0:
    case 1: return rng_next(rng);
    case 2: return (uint32_t)rng_next(rng);
    case 3: return rng_below(rng, 256);
    case 4: return rng_below(rng, 8);
    case 5: return rng_next(rng) >> rng_below(rng, 64);
    default: return integer_edge(rng);
    }
}

/* IEEE 754 in `exponent` and `fraction` bits. */
static uint64_t value_float(struct rng *rng, unsigned exponent_bits, unsigned fraction_bits)
{
    uint64_t fraction_max = (1ull << fraction_bits) - 1;
    uint64_t exponent_max = (1ull << exponent_bits) - 1;
    uint64_t bias = exponent_max >> 1;
    uint64_t sign = (rng_next(rng) & 1) << (exponent_bits + fraction_bits);
    uint64_t fraction = rng_next(rng) & fraction_max;
    uint64_t exponent;

    switch (rng_below(rng, 12)) {
    case 0: return sign;                                                         /* zero */
    case 1: return sign | exponent_max << fraction_bits;                         /* infinity */
    case 2: return sign | exponent_max << fraction_bits | 1ull << (fraction_bits - 1) | fraction; /* quiet NaN */
    case 3: return sign | exponent_max << fraction_bits | (fraction >> 1) | 1;   /* signalling NaN */
    case 4: return sign | fraction;                                              /* denormal */
    case 5: return sign | (exponent_max - 1) << fraction_bits | fraction_max;    /* largest */
    case 6: return sign | 1ull << fraction_bits | (fraction & 1);                /* smallest normal */
    case 7: exponent = bias; fraction = 0; break;                                /* one */
    case 8: exponent = bias + rng_below(rng, (unsigned)fraction_bits + 12); break; /* about integers */
    case 9: exponent = rng_next(rng) & exponent_max; break;
    default:
        exponent = bias - 4 + rng_below(rng, 10);
        fraction &= ~(fraction_max >> rng_below(rng, fraction_bits));
        break;
    }
    return sign | (exponent & exponent_max) << fraction_bits | fraction;
}

void value_f80(struct rng *rng, uint8_t bytes[10])
{
    uint64_t significand = rng_next(rng) | 1ull << 63;
    unsigned sign = rng_below(rng, 2) << 15;
    unsigned exponent = 16383 + rng_below(rng, 80) - 8;

    switch (rng_below(rng, 14)) {
    case 0: exponent = 0; significand = 0; break;
    case 1: exponent = 0x7fff; significand = 1ull << 63; break;
    case 2: exponent = 0x7fff; significand |= 3ull << 62; break;
    case 3: exponent = 0x7fff; significand &= ~(1ull << 62); significand |= 1; break;
    case 4: exponent = 0; significand &= ~(1ull << 63); break;                 /* denormal */
    case 5: exponent = 0; break;                                               /* pseudo-denormal */
    case 6: significand &= ~(1ull << 63); break;                               /* unnormal */
    case 7: exponent = 0x7fff; significand &= ~(1ull << 63); break;            /* pseudo-infinity, pseudo-NaN */
    case 8: exponent = 16383; significand = 1ull << 63; break;
    case 9: exponent = rng_below(rng, 0x8000); break;
    case 10: exponent = 0x7ffe; significand = UINT64_MAX; break;
    case 11: exponent = 16383 + rng_below(rng, 4); significand = (rng_next(rng) & 0xff) << 56 | 1ull << 63; break;
    case 12: exponent = 0x7fff; sign |= 0; break;                              /* as MMX leaves it */
    default: break;
    }
    memcpy(bytes, &significand, 8);
    bytes[8] = (uint8_t)exponent;
    bytes[9] = (uint8_t)((sign | exponent) >> 8);
}

void value_fill(struct rng *rng, uint8_t *bytes, unsigned size)
{
    unsigned kind = rng_below(rng, 10);

    for (unsigned i = 0; i < size;) {
        uint8_t lane[16];
        uint64_t x;
        unsigned n = 8;
        switch (kind) {
        case 0:
        case 1: x = rng_next(rng); break;
        case 2:
        case 3: x = value_float(rng, 8, 23); n = 4; break;
        case 4:
        case 5: x = value_float(rng, 11, 52); break;
        case 6: x = value_float(rng, 5, 10); n = 2; break;
        case 7: x = integer_edge(rng); n = 1u << rng_below(rng, 4); break;
        case 8: x = 0; n = 10; break;
        default: x = rng_below(rng, 4) == 0 ? rng_next(rng) : rng_below(rng, 128); n = 1u << rng_below(rng, 4); break;
        }
        if (kind == 8)
            value_f80(rng, lane);
        else
            memcpy(lane, &x, 8);
        if (n > size - i)
            n = size - i;
        memcpy(bytes + i, lane, n);
        i += n;
    }
}

uint32_t value_mxcsr(struct rng *rng)
{
    uint32_t mxcsr = 0x1f80;

    if (rng_one_in(rng, 2))
        mxcsr |= (uint32_t)rng_below(rng, 4) << 13;
    if (rng_one_in(rng, 4))
        mxcsr |= rng_below(rng, 64); /* sticky flags */
    if (rng_one_in(rng, 6))
        mxcsr |= 0x8000; /* FTZ */
    if (rng_one_in(rng, 6))
        mxcsr |= 0x0040; /* DAZ */
    if (rng_one_in(rng, 12))
        mxcsr &= ~((uint32_t)rng_below(rng, 64) << 7); /* unmasked */
    return mxcsr;
}

void value_x87(struct rng *rng, struct isa_state *s)
{
    s->fcw = 0x037f;
    if (rng_one_in(rng, 3))
        s->fcw = (uint16_t)(0x007f | rng_below(rng, 32) << 8);
    if (rng_one_in(rng, 12))
        s->fcw &= (uint16_t)~rng_below(rng, 64);
    s->fsw = 0;
    if (!rng_one_in(rng, 3))
        s->fsw = (uint16_t)(rng_next(rng) & 0x7f7f); /* C3, TOP, C2-C0, SF and sticky flags */
    if (rng_one_in(rng, 2))
        s->fsw &= 0x7f00;
    /* ES and B summarise unmasked exceptions. */
    if (s->fsw & ~s->fcw & 0x3f)
        s->fsw |= 0x8080;
    switch (rng_below(rng, 4)) {
    case 0: s->ftw = 0xff; break;
    case 1: s->ftw = 0; break;
    default: s->ftw = (uint8_t)(rng_next(rng) | rng_next(rng)); break;
    }
    for (unsigned i = 0; i < 8; i++) {
        memset(s->st[i], 0, 16);
        value_f80(rng, s->st[i]);
        if (rng_one_in(rng, 6)) {
            value_fill(rng, s->st[i], 8); /* an MMX register */
            s->st[i][8] = s->st[i][9] = 0xff;
        }
    }
}
