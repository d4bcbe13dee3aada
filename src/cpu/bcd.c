/* Decimal adjustment, BOUND, SALC, LAHF/SAHF and single-flag instructions. The decimal ones do not exist in 64-bit mode, so the
 * host cannot compute them here; their flags follow the operation sections of the SDM (vol. 2), and where those leave flags
 * undefined, what processors do: SF, ZF and PF by the result, OF cleared. */
#include "cpu/fast.h"

pick_fn pick_lahf, pick_sahf, pick_clc, pick_stc, pick_cmc, pick_cld, pick_std, pick_salc, pick_aaa, pick_aas, pick_aam,
    pick_aad, pick_daa, pick_das, pick_bound;

#define AL(v) REG(v, RAX * 8, uint8_t)
#define AH(v) REG(v, RAX * 8 + 1, uint8_t)
#define AX(v) REG(v, RAX * 8, uint16_t)

static void set_flags(struct vcpu *v, bool cf, bool af, uint8_t result)
{
    unsigned parity = !(__builtin_popcount(result) & 1);
    v->status = (uint16_t)((cf ? STATUS_CF : 0) | (af ? STATUS_AF : 0) | (parity ? STATUS_PF : 0) |
                           (result == 0 ? STATUS_ZF : 0) | (result & 0x80 ? STATUS_SF : 0));
}

static void adjust_ascii(struct vcpu *v, int direction)
{
    bool adjust = (AL(v) & 0xf) > 9 || (v->status & STATUS_AF);
    if (adjust)
        AX(v) = (uint16_t)(AX(v) + direction * 0x106);
    AL(v) &= 0xf;
    set_flags(v, adjust, adjust, AL(v));
}

static void adjust_decimal(struct vcpu *v, int direction)
{
    uint8_t old = AL(v);
    bool carry = v->status & STATUS_CF, af = (old & 0xf) > 9 || (v->status & STATUS_AF);
    int al = old;
    if (af)
        al += direction * 6;
    bool borrow = direction < 0 && af && old < 6; /* DAS: the first step may borrow */
    bool high = old > 0x99 || carry;
    if (high)
        al += direction * 0x60;
    AL(v) = (uint8_t)al;
    set_flags(v, high || borrow, af, AL(v));
}

static void divide_ascii(struct vcpu *v, const struct insn *in)
{
    uint8_t base = (uint8_t)in->imm, al = AL(v);
    if (base == 0)
        fault_de(v);
    AX(v) = (uint16_t)((al / base) << 8 | al % base);
    set_flags(v, false, false, AL(v));
}

/* AAD adds like an 8-bit ADD; processors leave that addition's flags. */
static void multiply_ascii(struct vcpu *v, const struct insn *in)
{
    uint8_t product = (uint8_t)(AH(v) * (uint8_t)in->imm), al = AL(v);
    uint32_t st;
    __asm__("addb %[p], %[al]\n\t" TAKE_FLAGS : [al] "+&q"(al), "=&a"(st) : [p] "q"(product) : "cc");
    AX(v) = al;
    v->status = (uint16_t)st;
}

DEFINE_ONLY_FORM(aaa, adjust_ascii(v, 1))
DEFINE_ONLY_FORM(aas, adjust_ascii(v, -1))
DEFINE_ONLY_FORM(daa, adjust_decimal(v, 1))
DEFINE_ONLY_FORM(das, adjust_decimal(v, -1))
DEFINE_ONLY_FORM(aam, divide_ascii(v, in))
DEFINE_ONLY_FORM(aad, multiply_ascii(v, in))
DEFINE_ONLY_FORM(salc, AL(v) = v->status & STATUS_CF ? 0xff : 0)

DEFINE_ONLY_FORM(lahf, AH(v) = (uint8_t)((v->status >> 8 & 0xd5) | FLAG_FIXED))
DEFINE_ONLY_FORM(sahf, v->status = (uint16_t)((AH(v) & 0xd5) << 8 | (v->status & STATUS_OF)))
DEFINE_ONLY_FORM(clc, v->status = (uint16_t)(v->status & ~STATUS_CF))
DEFINE_ONLY_FORM(stc, v->status |= STATUS_CF)
DEFINE_ONLY_FORM(cmc, v->status ^= STATUS_CF)
DEFINE_ONLY_FORM(cld, v->rflags_rest &= ~FLAG_DF)
DEFINE_ONLY_FORM(std, v->rflags_rest |= FLAG_DF)

static void bound(struct vcpu *v, const struct insn *in)
{
    gva_t gva = ea_linear(v, in, 2u * in->opsize, false);
    int64_t index, lower, upper;
    if (in->opsize == 2) {
        index = REG(v, in->op_reg[0], int16_t);
        lower = (int16_t)mem_read16(v, gva);
        upper = (int16_t)mem_read16(v, (uint32_t)(gva + 2));
    } else {
        index = REG(v, in->op_reg[0], int32_t);
        lower = (int32_t)mem_read32(v, gva);
        upper = (int32_t)mem_read32(v, (uint32_t)(gva + 4));
    }
    if (index < lower || index > upper)
        fault_plain(v, VECTOR_BR);
}
DEFINE_ONLY_FORM(bound, bound(v, in))
