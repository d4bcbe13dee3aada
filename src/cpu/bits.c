/* Bit tests, scans and counts, BMI1/2, ADX, CRC32, and the compare-and-exchange family. */
#include "cpu/fast.h"

pick_fn pick_bt, pick_bts, pick_btr, pick_btc, pick_bsf, pick_bsr, pick_popcnt, pick_lzcnt, pick_tzcnt, pick_andn,
    pick_blsi, pick_blsr, pick_blsmsk, pick_bextr, pick_bzhi, pick_pdep, pick_pext, pick_rorx, pick_sarx, pick_shlx,
    pick_shrx, pick_adcx, pick_adox, pick_crc32, pick_xadd, pick_cmpxchg, pick_cmpxchg8b, pick_cmpxchg16b;

/* ---- BT, BTS, BTR, BTC: only CF changes (the others are undefined; processors leave them) ---- */

/* A register bit offset is signed and reaches beyond the operand in memory. */
static gva_t bit_operand(struct vcpu *v, const struct insn *in, int64_t bit, bool write)
{
    unsigned size = in->opsize;
    int64_t words = bit >> (size == 2 ? 4 : size == 4 ? 5 : 6);
    uint64_t offset = ea_offset(v, in) + (uint64_t)(words * (int64_t)size);
    offset = in->addrsize == 8 ? offset : in->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
    return seg_linear(v, in->seg, offset, size, write);
}

static inline void set_carry(struct vcpu *v, bool carry)
{
    v->status = (uint16_t)((v->status & ~STATUS_CF) | (carry ? STATUS_CF : 0));
}

#define BIT_FORMS(bits, T, fn, writes, next)                                                                           \
    static const struct insn *fn##bits##_r(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        T value = REG(v, in->op_reg[0], T);                                                                            \
        T bit = in->op_kind[1] == OPERAND_REG ? REG(v, in->op_reg[1], T) : (T)in->imm;                                 \
        T mask = (T)((T)1 << (bit & (bits - 1)));                                                                      \
        set_carry(v, value & mask);                                                                                    \
        if (writes)                                                                                                    \
            REG_SET(v, in->op_reg[0], T, (next));                                                                      \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *fn##bits##_m(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        int64_t bit = in->op_kind[1] == OPERAND_REG ? (int##bits##_t)REG(v, in->op_reg[1], T)                          \
                                                    : (int64_t)(in->imm & (bits - 1));                                 \
        gva_t gva = bit_operand(v, in, bit, writes);                                                                   \
        T mask = (T)((T)1 << ((uint64_t)bit & (bits - 1)));                                                            \
        if (!(writes)) {                                                                                               \
            set_carry(v, MEM_READ(v, gva, T) & mask);                                                                  \
            NEXT(v, in);                                                                                             \
        }                                                                                                              \
        T *p = rmw_begin(v, gva, sizeof(T));                                                                           \
        T value;                                                                                                       \
        if (in->flags & INSN_LOCK) {                                                                                   \
            value = __atomic_load_n(p, __ATOMIC_RELAXED);                                                              \
            while (!__atomic_compare_exchange_n(p, &value, (T)(next), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {    \
            }                                                                                                          \
        } else {                                                                                                       \
            value = *p;                                                                                                \
            *p = (T)(next);                                                                                            \
        }                                                                                                              \
        rmw_end(v);                                                                                                    \
        set_carry(v, value & mask);                                                                                    \
        NEXT(v, in);                                                                                                 \
    }
#define DEFINE_BIT(fn, writes, next)                                                                                   \
    FOR_WORD_SIZES(BIT_FORMS, fn, writes, next)                                                                        \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        return is_mem(p, 0) ? PICK_WORD(p, fn, m) : PICK_WORD(p, fn, r);                                               \
    }
DEFINE_BIT(bt, false, value)
DEFINE_BIT(bts, true, value | mask)
DEFINE_BIT(btr, true, value & ~mask)
DEFINE_BIT(btc, true, value ^ mask)

/* ---- one source, one destination; flags by the host ---- */

/* BSF and BSR leave the destination alone when the source is zero, whatever that means for its upper half on this host:
 * so the whole register goes in and comes out. */
#define SCAN_COMPUTE(name, T)                                                                                          \
    uint32_t st = v->status;                                                                                           \
    uint64_t d = REG(v, in->op_reg[0], uint64_t);                                                                      \
    __asm__(GIVE_FLAGS name "\n\t" TAKE_FLAGS : [d] "+&r"(d), "+&a"(st) : [b] "r"(b) : "cc");                          \
    REG(v, in->op_reg[0], uint64_t) = d;                                                                               \
    v->status = (uint16_t)st;
#define SCAN_FORMS(bits, T, fn, name)                                                                                  \
    static const struct insn *fn##bits##_rr(struct vcpu *v, const struct insn *in)                                     \
    {                                                                                                                  \
        T b = REG(v, in->op_reg[1], T);                                                                                \
        SCAN_COMPUTE(name " %[b], %" MODIFIER_##bits "[d]", T)                                                         \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *fn##bits##_rm(struct vcpu *v, const struct insn *in)                                     \
    {                                                                                                                  \
        T b = MEM_READ(v, ea_linear(v, in, sizeof(T), false), T);                                                      \
        SCAN_COMPUTE(name " %[b], %" MODIFIER_##bits "[d]", T)                                                         \
        NEXT(v, in);                                                                                                 \
    }
#define MODIFIER_16 "w"
#define MODIFIER_32 "k"
#define MODIFIER_64 "q"
#define DEFINE_SCAN(fn, name)                                                                                          \
    FOR_WORD_SIZES(SCAN_FORMS, fn, name)                                                                               \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        return is_mem(p, 1) ? PICK_WORD(p, fn, rm) : PICK_WORD(p, fn, rr);                                             \
    }
DEFINE_SCAN(bsf, "bsf")
DEFINE_SCAN(bsr, "bsr")
DEFINE_SCAN(popcnt, "popcnt")
DEFINE_SCAN(lzcnt, "lzcnt")
DEFINE_SCAN(tzcnt, "tzcnt")

/* The same without a 16-bit form. ADCX and ADOX add into the destination with their own carry. */
#define DEFINE_SCAN_32_64(fn, name)                                                                                    \
    SCAN_FORMS(32, uint32_t, fn, name)                                                                                 \
    SCAN_FORMS(64, uint64_t, fn, name)                                                                                 \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        bool wide = p->in->opsize == 8;                                                                                \
        return is_mem(p, 1) ? (wide ? fn##64_rm : fn##32_rm) : (wide ? fn##64_rr : fn##32_rr);                         \
    }
DEFINE_SCAN_32_64(blsi, "blsi")
DEFINE_SCAN_32_64(blsr, "blsr")
DEFINE_SCAN_32_64(blsmsk, "blsmsk")
DEFINE_SCAN_32_64(adcx, "adcx")
DEFINE_SCAN_32_64(adox, "adox")

/* ---- three operands: dst, a, b; which of a and b may be memory differs ---- */

static uint64_t operand_at(struct vcpu *v, const struct insn *in, unsigned n)
{
    if (in->op_kind[n] == OPERAND_IMM)
        return in->imm;
    if (in->op_kind[n] == OPERAND_REG)
        return reg_read(v, in->op_reg[n], in->opsize);
    gva_t gva = ea_linear(v, in, in->opsize, false);
    return in->opsize == 8 ? mem_read64(v, gva) : mem_read32(v, gva);
}

/* `name` in AT&T order with a = operand 1, b = operand 2. */
#define THREE_FORM(bits, T, fn, text)                                                                                  \
    static const struct insn *fn##bits##_rrr(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        T a = (T)operand_at(v, in, 1), b = (T)operand_at(v, in, 2), d;                                                 \
        uint32_t st = v->status;                                                                                       \
        __asm__(GIVE_FLAGS text "\n\t" TAKE_FLAGS : [d] "=&r"(d), "+&a"(st) : [a] "r"(a), [b] "r"(b) : "cc");          \
        REG_SET(v, in->op_reg[0], T, d);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                 \
    }
#define DEFINE_THREE(fn, text)                                                                                         \
    THREE_FORM(32, uint32_t, fn, text)                                                                                 \
    THREE_FORM(64, uint64_t, fn, text)                                                                                 \
    insn_fn *pick_##fn(const struct pick *p)                                                                           \
    {                                                                                                                  \
        return p->in->opsize == 8 ? fn##64_rrr : fn##32_rrr;                                                           \
    }
DEFINE_THREE(andn, "andn %[b], %[a], %[d]")
DEFINE_THREE(bextr, "bextr %[b], %[a], %[d]")
DEFINE_THREE(bzhi, "bzhi %[b], %[a], %[d]")
DEFINE_THREE(pdep, "pdep %[b], %[a], %[d]")
DEFINE_THREE(pext, "pext %[b], %[a], %[d]")
DEFINE_THREE(sarx, "sarx %[b], %[a], %[d]")
DEFINE_THREE(shlx, "shlx %[b], %[a], %[d]")
DEFINE_THREE(shrx, "shrx %[b], %[a], %[d]")

static const struct insn *rorx(struct vcpu *v, const struct insn *in)
{
    uint64_t a = operand_at(v, in, 1);
    unsigned bits = 8 * in->opsize, n = in->imm & (bits - 1);
    if (n != 0)
        a = in->opsize == 8 ? a >> n | a << (64 - n) : (uint32_t)a >> n | (uint32_t)a << (32 - n);
    reg_write(v, in->op_reg[0], in->opsize, a);
    NEXT(v, in);
}

insn_fn *pick_rorx(const struct pick *p)
{
    (void)p;
    return rorx;
}

/* CRC32 r, r/m8..64: the source's size is its own. */
#define CRC_FORM(bits, T, D, suffix)                                                                                   \
    static const struct insn *crc32_##bits(struct vcpu *v, const struct insn *in)                                      \
    {                                                                                                                  \
        T b = in->op_kind[1] == OPERAND_MEM ? MEM_READ(v, ea_linear(v, in, sizeof(T), false), T)                       \
                                            : REG(v, in->op_reg[1], T);                                                \
        D d = REG(v, in->op_reg[0], D);                                                                                \
        __asm__("crc32" suffix " %[b], %[d]" : [d] "+r"(d) : [b] "q"(b));                                              \
        REG_SET(v, in->op_reg[0], uint32_t, d);                                                                        \
        NEXT(v, in);                                                                                                 \
    }
CRC_FORM(8, uint8_t, uint32_t, "b")
CRC_FORM(16, uint16_t, uint32_t, "w")
CRC_FORM(32, uint32_t, uint32_t, "l")
CRC_FORM(64, uint64_t, uint64_t, "q")

insn_fn *pick_crc32(const struct pick *p)
{
    switch (p->operands[1].size) {
    case 8: return crc32_8;
    case 16: return crc32_16;
    case 32: return crc32_32;
    default: return crc32_64;
    }
}

/* ---- exchange and add, compare and exchange ---- */

#define EXCHANGE_FORMS(bits, T, ...)                                                                                   \
    static const struct insn *xadd##bits##_r(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        T a = REG(v, in->op_reg[0], T), b = REG(v, in->op_reg[1], T);                                                  \
        uint32_t st;                                                                                                   \
        __asm__("xadd %[b], %[a]\n\t" TAKE_FLAGS : [a] "+&q"(a), [b] "+&q"(b), "=&a"(st) : : "cc");                    \
        REG_SET(v, in->op_reg[1], T, b);                                                                               \
        REG_SET(v, in->op_reg[0], T, a);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *xadd##bits##_m(struct vcpu *v, const struct insn *in)                                    \
    {                                                                                                                  \
        T *p = rmw_begin(v, ea_linear(v, in, sizeof(T), true), sizeof(T));                                             \
        T b = REG(v, in->op_reg[1], T);                                                                                \
        uint32_t st;                                                                                                   \
        __asm__("lock xadd %[b], %[m]\n\t" TAKE_FLAGS : [m] "+m"(*p), [b] "+&q"(b), "=&a"(st) : : "cc", "memory");     \
        REG_SET(v, in->op_reg[1], T, b);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        rmw_end(v);                                                                                                    \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *cmpxchg##bits##_r(struct vcpu *v, const struct insn *in)                                 \
    {                                                                                                                  \
        T acc = (T)v->regs[RAX], a = REG(v, in->op_reg[0], T), b = REG(v, in->op_reg[1], T), old = a;                  \
        uint32_t st;                                                                                                   \
        __asm__("cmp %[a], %[acc]\n\t" TAKE_FLAGS : "=&a"(st) : [acc] "q"(acc), [a] "q"(a) : "cc");                    \
        if (acc == old)                                                                                                \
            REG_SET(v, in->op_reg[0], T, b);                                                                           \
        else                                                                                                           \
            REG_SET(v, RAX * 8, T, old);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        NEXT(v, in);                                                                                                 \
    }                                                                                                                  \
    static const struct insn *cmpxchg##bits##_m(struct vcpu *v, const struct insn *in)                                 \
    {                                                                                                                  \
        T *p = rmw_begin(v, ea_linear(v, in, sizeof(T), true), sizeof(T));                                             \
        T acc = (T)v->regs[RAX], old = acc;                                                                            \
        bool same = __atomic_compare_exchange_n(p, &old, REG(v, in->op_reg[1], T), false, __ATOMIC_SEQ_CST,            \
                                                __ATOMIC_SEQ_CST);                                                     \
        uint32_t st;                                                                                                   \
        __asm__("cmp %[a], %[acc]\n\t" TAKE_FLAGS : "=&a"(st) : [acc] "q"(acc), [a] "q"(old) : "cc");                  \
        if (!same)                                                                                                     \
            REG_SET(v, RAX * 8, T, old);                                                                               \
        v->status = (uint16_t)st;                                                                                      \
        rmw_end(v);                                                                                                    \
        NEXT(v, in);                                                                                                 \
    }
FOR_ALL_SIZES(EXCHANGE_FORMS, )

insn_fn *pick_xadd(const struct pick *p)
{
    return is_mem(p, 0) ? PICK_SIZE(p, xadd, m) : PICK_SIZE(p, xadd, r);
}

insn_fn *pick_cmpxchg(const struct pick *p)
{
    return is_mem(p, 0) ? PICK_SIZE(p, cmpxchg, m) : PICK_SIZE(p, cmpxchg, r);
}

static void set_zero(struct vcpu *v, bool zero)
{
    v->status = (uint16_t)((v->status & ~STATUS_ZF) | (zero ? STATUS_ZF : 0));
}

static const struct insn *cmpxchg8b(struct vcpu *v, const struct insn *in)
{
    uint64_t *p = rmw_begin(v, ea_linear(v, in, 8, true), 8);
    uint64_t old = v->regs[RDX] << 32 | (uint32_t)v->regs[RAX];
    uint64_t new = v->regs[RCX] << 32 | (uint32_t)v->regs[RBX];
    bool same = __atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (!same) {
        v->regs[RAX] = (uint32_t)old;
        v->regs[RDX] = old >> 32;
    }
    set_zero(v, same);
    rmw_end(v);
    NEXT(v, in);
}

static const struct insn *cmpxchg16b(struct vcpu *v, const struct insn *in)
{
    gva_t gva = ea_linear(v, in, 16, true);
    if (gva & 15)
        fault_gp(v, 0);
    void *p = rmw_begin(v, gva, 16);
    uint64_t low = v->regs[RAX], high = v->regs[RDX];
    bool same;
    __asm__ volatile("lock cmpxchg16b %[m]"
                     : [m] "+m"(*(unsigned __int128 *)p), "+a"(low), "+d"(high), "=@ccz"(same)
                     : "b"(v->regs[RBX]), "c"(v->regs[RCX])
                     : "memory");
    if (!same) {
        v->regs[RAX] = low;
        v->regs[RDX] = high;
    }
    set_zero(v, same);
    rmw_end(v);
    NEXT(v, in);
}

insn_fn *pick_cmpxchg8b(const struct pick *p)
{
    (void)p;
    return cmpxchg8b;
}

insn_fn *pick_cmpxchg16b(const struct pick *p)
{
    (void)p;
    return cmpxchg16b;
}
