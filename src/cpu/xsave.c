/* Images of the x87, MMX, SSE and AVX state: FXSAVE, XSAVE and their relatives, FNSAVE and FNSTENV, MXCSR.
 *
 * The state lives in struct fpu; an image is assembled or taken apart here. Everything that can fault comes first: a
 * save probes what it is going to write, a restore reads all that it needs and checks it before it changes a register.
 *
 * XSAVE (SDM vol. 1, chapter 13). Components are x87 (0), SSE (1) and AVX (2). XINUSE is computed when asked for, by
 * comparing with the initial state. The init optimisation is applied by XSAVEOPT, XSAVEC and XSAVES; the modified
 * optimisation, which the architecture permits and never requires, is not.
 *
 * Deliberate choices where processors differ: FXSAVE stores FIP, FDP and FOP whether an exception is pending or not
 * (Intel's way); FXSAVE and FXRSTOR include XMM and MXCSR whether CR4.OSFXSR is set or not; the reserved upper halves
 * of the 32-bit environment's words are ones. FXRSTOR and FLDENV recompute FSW.ES and FSW.B, as the hosts do.
 *
 * Sources: SDM vol. 1, 8.1.10 (environment formats), 10.5, chapter 13; SDM vol. 2, each instruction; APM vol. 2, 3.1.7
 * (EFER.FFXSR).
 */
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/decode.h"
#include "cpu/ops.h"
#include "mmu/access.h"

#define EFER_FAST_FXSAVE (1ull << 14)

#define COMPONENT_X87 1ull
#define COMPONENT_SSE 2ull
#define COMPONENT_AVX 4ull

/* Offsets within an XSAVE area. */
#define AREA_MXCSR 24u
#define AREA_ST 32u
#define AREA_XMM 160u
#define AREA_LEGACY_SIZE 512u
#define AREA_HEADER 512u
#define AREA_AVX 576u
#define XCOMP_COMPACTED (1ull << 63)

struct xsave_header {
    uint64_t xstate_bv, xcomp_bv, reserved[6];
};

/* ---- the state itself ---- */

void fpu_reset(struct vcpu *v, bool init)
{
    if (init)
        return;
    memset(&v->fpu, 0, sizeof v->fpu);
    struct x87_image *x87 = fpu_x87(&v->fpu);
    x87->fcw = X87_FCW_ONE; /* SDM vol. 3, table 9-1: not what FNINIT sets */
    x87->ftw = 0xff;
    x87->mxcsr = MXCSR_HOST;
    v->fpu.mxcsr = MXCSR_DEFAULT;
}

uint32_t fpu_mxcsr_mask(const struct vcpu *v)
{
    uint32_t mask = cpu_has(v, CPU_SSE2) ? 0xffff : 0xffff & ~MXCSR_DAZ;
    return cpu_has(v, CPU_MISALIGNSSE) ? mask | MXCSR_MM : mask;
}

static bool all_zero(const void *bytes, size_t n)
{
    uint64_t any = 0, word;
    for (size_t i = 0; i < n; i += sizeof word) {
        memcpy(&word, (const uint8_t *)bytes + i, sizeof word);
        any |= word;
    }
    return any == 0;
}

uint64_t fpu_xinuse(const struct vcpu *v)
{
    const struct x87_image *x87 = (const struct x87_image *)v->fpu.x87;
    uint64_t xinuse = 0;
    if (x87->fcw != X87_FCW_INIT || x87->fsw != 0 || x87->ftw != 0 || x87->fop != 0 || x87->fip != 0 ||
        x87->fdp != 0 || !all_zero(x87->st, sizeof x87->st))
        xinuse |= COMPONENT_X87;
    uint64_t low = 0, high = 0;
    for (unsigned n = 0; n < 16; n++) {
        uint64_t word[4];
        memcpy(word, v->fpu.ymm[n], sizeof word);
        low |= word[0] | word[1];
        high |= word[2] | word[3];
    }
    return xinuse | (low ? COMPONENT_SSE : 0) | (high ? COMPONENT_AVX : 0);
}

static void mxcsr_check(struct vcpu *v, uint32_t mxcsr)
{
    if (mxcsr & ~fpu_mxcsr_mask(v))
        fault_gp(v, 0);
}

/* ---- memory ---- */

static unsigned flags_of(const struct vcpu *v, const struct insn *in)
{
    return access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
}

/* An image in guest memory. */
struct area {
    struct vcpu *v;
    const struct insn *in;
    gva_t gva;
    unsigned flags;
};

/* `size` bytes are checked against the segment; `align` is a power of two. */
static struct area area_open(struct vcpu *v, const struct insn *in, unsigned size, unsigned align, bool write)
{
    struct area area = {.v = v, .in = in, .gva = ea_linear(v, in, size, write), .flags = flags_of(v, in)};
    if (area.gva & (align - 1))
        fault_gp(v, 0);
    return area;
}

static void area_probe(const struct area *area, unsigned offset, unsigned size)
{
    const struct tlb_entry *e = tlb_entry(area->v, area->gva + offset);
    if (!tlb_hit(e->write_tag, area->gva + offset, size))
        access_probe(area->v, area->gva + offset, size, area->flags | ACCESS_WRITE);
}

static void area_read(const struct area *area, unsigned offset, void *bytes, unsigned size)
{
    gva_t gva = area->gva + offset;
    const struct tlb_entry *e = tlb_entry(area->v, gva);
    if (tlb_hit(e->read_tag, gva, size))
        memcpy(bytes, (const void *)(gva + (uint64_t)e->addend), size);
    else
        access_read_bytes(area->v, gva, bytes, size, area->flags);
}

static void area_write(const struct area *area, unsigned offset, const void *bytes, unsigned size)
{
    gva_t gva = area->gva + offset;
    const struct tlb_entry *e = tlb_entry(area->v, gva);
    if (tlb_hit(e->write_tag, gva, size))
        memcpy((void *)(gva + (uint64_t)e->addend), bytes, size);
    else
        access_write_bytes(area->v, gva, bytes, size, area->flags);
}

/* ---- the legacy region: the FXSAVE image ---- */

/* FXSAVE64 and its like: 64-bit pointers instead of 32-bit ones with selectors. */
static bool wide_pointers(const struct insn *in)
{
    return in->mode == CODE_64 && in->opsize == 8;
}

static unsigned vector_count(const struct insn *in)
{
    return in->mode == CODE_64 ? 16 : 8;
}

/* The pointers of an image are kept in the format of the instruction: into `out`. */
static void pointers_out(struct vcpu *v, bool wide, struct x87_image *out)
{
    const struct x87_image *x87 = fpu_x87(&v->fpu);
    out->fip = x87->fip;
    out->fdp = x87->fdp;
    if (!wide) {
        out->fip = (uint32_t)x87->fip | (uint64_t)v->fpu.x87_cs << 32;
        out->fdp = (uint32_t)x87->fdp | (uint64_t)v->fpu.x87_ds << 32;
    }
}

/* The whole region with everything in it. */
static void legacy_out(struct vcpu *v, const struct insn *in, struct x87_image *out)
{
    memcpy(out, v->fpu.x87, AREA_XMM);
    memset((uint8_t *)out + AREA_XMM, 0, sizeof *out - AREA_XMM);
    pointers_out(v, wide_pointers(in), out);
    out->reserved = 0;
    out->mxcsr = v->fpu.mxcsr;
    out->mxcsr_mask = fpu_mxcsr_mask(v);
    for (unsigned n = 0; n < vector_count(in); n++)
        memcpy((uint8_t *)out + AREA_XMM + 16 * n, v->fpu.ymm[n], 16);
}

/* The x87 state from an image in the instruction's format. */
static void x87_in(struct vcpu *v, const struct insn *in, const struct x87_image *from)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    x87->fcw = (from->fcw & X87_FCW_VALID) | X87_FCW_ONE;
    x87->fsw = from->fsw;
    x87->ftw = from->ftw;
    x87->fop = from->fop & 0x7ff;
    x87->fip = from->fip;
    x87->fdp = from->fdp;
    v->fpu.x87_cs = v->fpu.x87_ds = 0;
    if (!wide_pointers(in)) {
        x87->fip = (uint32_t)from->fip;
        x87->fdp = (uint32_t)from->fdp;
        v->fpu.x87_cs = (uint16_t)(from->fip >> 32);
        v->fpu.x87_ds = (uint16_t)(from->fdp >> 32);
    }
    for (unsigned i = 0; i < 8; i++)
        x87->st[i] = (struct x87_register){from->st[i].mantissa, from->st[i].exponent, {0}};
    fpu_x87_summarize(v);
    fpu_error_cleared(v);
}

static void x87_initial(struct vcpu *v)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    fpu_x87_init(v);
    memset(x87->st, 0, sizeof x87->st);
    fpu_error_cleared(v);
}

static void xmm_in(struct vcpu *v, const struct insn *in, const struct x87_image *from)
{
    for (unsigned n = 0; n < vector_count(in); n++) {
        if (from != NULL)
            memcpy(v->fpu.ymm[n], (const uint8_t *)from + AREA_XMM + 16 * n, 16);
        else
            memset(v->fpu.ymm[n], 0, 16);
    }
}

/* ---- FXSAVE, FXRSTOR ---- */

/* All 512 bytes must be accessible, those that are not transferred too. Processors look at the last one first. */
static void area_probe_last(const struct area *area, unsigned write)
{
    const struct insn *in = area->in;
    uint64_t last = ea_offset(area->v, in) + AREA_LEGACY_SIZE - 1;
    last = in->addrsize == 8 ? last : in->addrsize == 4 ? (uint32_t)last : (uint16_t)last;
    access_probe(area->v, seg_linear(area->v, in->seg, last, 1, write != 0), 1, area->flags | write);
}

static void fxsave_check(struct vcpu *v)
{
    if (v->cr0 & (CR0_EM | CR0_TS))
        fault_nm(v);
}

/* EFER.FFXSR: the kernel's FXSAVE leaves the XMM registers out. */
static bool without_xmm(const struct vcpu *v, const struct insn *in)
{
    return (v->efer & EFER_FAST_FXSAVE) && in->mode == CODE_64 && v->cpl == 0;
}

void op_fxsave(struct vcpu *v, const struct insn *in)
{
    fxsave_check(v);
    struct area area = area_open(v, in, AREA_LEGACY_SIZE, 16, true);
    unsigned size = without_xmm(v, in) ? AREA_XMM : AREA_XMM + 16 * vector_count(in);
    struct x87_image image;
    legacy_out(v, in, &image);
    area_probe_last(&area, ACCESS_WRITE);
    area_probe(&area, 0, size);
    area_write(&area, 0, &image, size);
}

void op_fxrstor(struct vcpu *v, const struct insn *in)
{
    fxsave_check(v);
    struct area area = area_open(v, in, AREA_LEGACY_SIZE, 16, false);
    unsigned size = without_xmm(v, in) ? AREA_XMM : AREA_XMM + 16 * vector_count(in);
    area_probe_last(&area, 0);
    struct x87_image image;
    area_read(&area, 0, &image, size);
    mxcsr_check(v, image.mxcsr);
    x87_in(v, in, &image);
    v->fpu.mxcsr = image.mxcsr;
    if (!without_xmm(v, in))
        xmm_in(v, in, &image);
}

/* ---- XSAVE ---- */

/* #UD, #NM; for the supervisor forms #GP. */
static void xsave_check(struct vcpu *v, bool supervisor)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        fault_ud(v);
    if (v->cr0 & CR0_TS)
        fault_nm(v);
    if (supervisor && v->cpl != 0)
        fault_gp(v, 0);
}

static uint64_t requested_components(const struct vcpu *v, bool supervisor)
{
    uint64_t mask = (uint32_t)v->regs[RAX] | v->regs[RDX] << 32;
    return mask & (v->xcr0 | (supervisor ? v->msr.xss : 0));
}

static unsigned area_size(const struct insn *in, uint64_t components)
{
    return components & COMPONENT_AVX ? AREA_AVX + 16 * vector_count(in) : AREA_AVX;
}

/* Writes the components in `which`; MXCSR if `mxcsr`. Everything has been probed. */
static void components_out(const struct area *area, uint64_t which, bool mxcsr)
{
    struct vcpu *v = area->v;
    unsigned count = vector_count(area->in);
    struct x87_image image;
    legacy_out(v, area->in, &image);
    const uint8_t *bytes = (const uint8_t *)&image;
    if (which & COMPONENT_X87) {
        area_write(area, 0, bytes, AREA_MXCSR);
        area_write(area, AREA_ST, bytes + AREA_ST, AREA_XMM - AREA_ST);
    }
    if (mxcsr)
        area_write(area, AREA_MXCSR, bytes + AREA_MXCSR, 8);
    if (which & COMPONENT_SSE)
        area_write(area, AREA_XMM, bytes + AREA_XMM, 16 * count);
    if (which & COMPONENT_AVX) {
        uint8_t upper[16][16];
        for (unsigned n = 0; n < count; n++)
            memcpy(upper[n], v->fpu.ymm[n] + 16, 16);
        area_write(area, AREA_AVX, upper, 16 * count);
    }
}

/* XSAVE and XSAVEOPT: the standard format. */
static void save_standard(struct vcpu *v, const struct insn *in, bool optimise)
{
    xsave_check(v, false);
    uint64_t rfbm = requested_components(v, false), xinuse = fpu_xinuse(v), xstate_bv;
    struct area area = area_open(v, in, area_size(in, rfbm), 64, true);
    area_probe(&area, 0, area_size(in, rfbm));
    area_read(&area, AREA_HEADER, &xstate_bv, sizeof xstate_bv);
    components_out(&area, optimise ? rfbm & xinuse : rfbm, rfbm & (COMPONENT_SSE | COMPONENT_AVX));
    xstate_bv = (xstate_bv & ~rfbm) | (xinuse & rfbm);
    area_write(&area, AREA_HEADER, &xstate_bv, sizeof xstate_bv);
}

/* XSAVEC and XSAVES: the compacted format. With three components compaction moves nothing: AVX follows the header. */
static void save_compacted(struct vcpu *v, const struct insn *in, bool supervisor)
{
    xsave_check(v, supervisor);
    uint64_t rfbm = requested_components(v, supervisor), xinuse = fpu_xinuse(v);
    if (v->fpu.mxcsr != MXCSR_DEFAULT)
        xinuse |= COMPONENT_SSE;
    uint64_t header[2] = {rfbm & xinuse, rfbm | XCOMP_COMPACTED};
    struct area area = area_open(v, in, area_size(in, header[0]), 64, true);
    area_probe(&area, 0, area_size(in, header[0]));
    components_out(&area, header[0], header[0] & COMPONENT_SSE);
    area_write(&area, AREA_HEADER, header, sizeof header);
}

void op_xsave(struct vcpu *v, const struct insn *in)
{
    save_standard(v, in, false);
}

void op_xsaveopt(struct vcpu *v, const struct insn *in)
{
    save_standard(v, in, true);
}

void op_xsavec(struct vcpu *v, const struct insn *in)
{
    save_compacted(v, in, false);
}

void op_xsaves(struct vcpu *v, const struct insn *in)
{
    save_compacted(v, in, true);
}

/* SDM vol. 1, 13.8.1 and 13.12: what makes a header unacceptable. */
static void header_check(struct vcpu *v, const struct xsave_header *header, bool supervisor)
{
    uint64_t enabled = v->xcr0 | (supervisor ? v->msr.xss : 0);
    uint64_t reserved = 0;
    for (unsigned i = 0; i < 6; i++)
        reserved |= header->reserved[i];
    bool ok;
    if (header->xcomp_bv & XCOMP_COMPACTED)
        ok = (supervisor || cpu_has(v, CPU_XSAVEC)) && !(header->xcomp_bv & ~XCOMP_COMPACTED & ~enabled) &&
             !(header->xstate_bv & ~header->xcomp_bv) && reserved == 0 && !(header->xstate_bv & XCOMP_COMPACTED);
    else
        ok = !supervisor && !(header->xstate_bv & ~enabled) && header->xcomp_bv == 0 && header->reserved[0] == 0;
    if (!ok)
        fault_gp(v, 0);
}

static void restore(struct vcpu *v, const struct insn *in, bool supervisor)
{
    xsave_check(v, supervisor);
    uint64_t rfbm = requested_components(v, supervisor);
    struct area area = area_open(v, in, area_size(in, rfbm), 64, false);
    struct {
        struct x87_image legacy;
        struct xsave_header header;
        uint8_t upper[16][16];
    } image;
    area_read(&area, 0, &image, AREA_AVX);
    header_check(v, &image.header, supervisor);
    bool compacted = image.header.xcomp_bv & XCOMP_COMPACTED;
    uint64_t present = rfbm & image.header.xstate_bv;
    if (present & COMPONENT_AVX)
        area_read(&area, AREA_AVX, image.upper, 16 * vector_count(in));
    /* The standard format loads MXCSR with SSE or AVX whatever XSTATE_BV says; compacted, it is part of SSE. */
    bool mxcsr = compacted ? present & COMPONENT_SSE : rfbm & (COMPONENT_SSE | COMPONENT_AVX);
    if (mxcsr)
        mxcsr_check(v, image.legacy.mxcsr);

    if (present & COMPONENT_X87)
        x87_in(v, in, &image.legacy);
    else if (rfbm & COMPONENT_X87)
        x87_initial(v);
    if (mxcsr)
        v->fpu.mxcsr = image.legacy.mxcsr;
    else if (compacted && (rfbm & COMPONENT_SSE))
        v->fpu.mxcsr = MXCSR_DEFAULT;
    if (rfbm & COMPONENT_SSE)
        xmm_in(v, in, present & COMPONENT_SSE ? &image.legacy : NULL);
    for (unsigned n = 0; (rfbm & COMPONENT_AVX) && n < vector_count(in); n++) {
        if (present & COMPONENT_AVX)
            memcpy(v->fpu.ymm[n] + 16, image.upper[n], 16);
        else
            memset(v->fpu.ymm[n] + 16, 0, 16);
    }
}

void op_xrstor(struct vcpu *v, const struct insn *in)
{
    restore(v, in, false);
}

void op_xrstors(struct vcpu *v, const struct insn *in)
{
    restore(v, in, true);
}

/* ---- MXCSR ---- */

void op_ldmxcsr(struct vcpu *v, const struct insn *in)
{
    fpu_check_vector(v, in->row == ROW_VLDMXCSR);
    uint32_t mxcsr = mem_read32(v, ea_linear(v, in, 4, false));
    mxcsr_check(v, mxcsr);
    v->fpu.mxcsr = mxcsr;
}

void op_stmxcsr(struct vcpu *v, const struct insn *in)
{
    fpu_check_vector(v, in->row == ROW_VSTMXCSR);
    mem_write32(v, ea_linear(v, in, 4, true), v->fpu.mxcsr);
}

/* ---- FNSTENV, FLDENV, FNSAVE, FRSTOR ---- */

/* The four formats. Real-address and virtual-8086 mode keep linear pointers, cut into odd pieces. */
static bool real_format(const struct vcpu *v)
{
    return !vcpu_protected(v);
}

static unsigned environment_size(const struct insn *in)
{
    return in->opsize == 2 ? 14 : 28;
}

/* Two bits a physical register: valid, zero, special, empty. */
static uint16_t tag_word(const struct x87_image *x87)
{
    unsigned top = (x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT, tags = 0;
    for (unsigned n = 0; n < 8; n++) {
        const struct x87_register *r = &x87->st[(n - top) & 7];
        unsigned exponent = r->exponent & 0x7fff, tag;
        if (!(x87->ftw >> n & 1))
            tag = 3;
        else if (exponent == 0 && r->mantissa == 0)
            tag = 1;
        else if (exponent == 0 || exponent == 0x7fff || !(r->mantissa >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= tag << 2 * n;
    }
    return (uint16_t)tags;
}

static void put(uint8_t *image, unsigned in_bytes, unsigned field, uint32_t value, bool ones)
{
    uint32_t wide = ones ? value | 0xffff0000 : value;
    memcpy(image + field * in_bytes, &wide, in_bytes);
}

static uint32_t get(const uint8_t *image, unsigned in_bytes, unsigned field)
{
    uint32_t value = 0;
    memcpy(&value, image + field * in_bytes, in_bytes);
    return value;
}

/* Fields of 2 or 4 bytes each: FCW, FSW, FTW, FIP, FCS and FOP, FDP, FDS. */
static void environment_out(struct vcpu *v, const struct insn *in, uint8_t *image)
{
    const struct x87_image *x87 = fpu_x87(&v->fpu);
    unsigned n = in->opsize == 2 ? 2 : 4;
    uint32_t fip = (uint32_t)x87->fip, fdp = (uint32_t)x87->fdp;
    put(image, n, 0, x87->fcw, true);
    put(image, n, 1, x87->fsw, true);
    put(image, n, 2, tag_word(x87), true);
    if (!real_format(v)) {
        put(image, n, 3, fip, false);
        put(image, n, 4, n == 4 ? v->fpu.x87_cs | (uint32_t)x87->fop << 16 : v->fpu.x87_cs, false);
        put(image, n, 5, fdp, false);
        put(image, n, 6, v->fpu.x87_ds, n == 4);
        return;
    }
    fip += (uint32_t)v->fpu.x87_cs << 4;
    fdp += (uint32_t)v->fpu.x87_ds << 4;
    uint32_t ip_high = n == 4 ? (fip >> 16) << 12 : (fip >> 16 & 15) << 12;
    uint32_t dp_high = n == 4 ? (fdp >> 16) << 12 : (fdp >> 16 & 15) << 12;
    put(image, n, 3, fip & 0xffff, n == 4);
    put(image, n, 4, ip_high | x87->fop, false);
    put(image, n, 5, fdp & 0xffff, n == 4);
    put(image, n, 6, dp_high, false);
}

/* Keeps the registers' places in the image: they are by distance from TOP, which changes. `st` as to be loaded. */
static void environment_in(struct vcpu *v, const struct insn *in, const uint8_t *image, const struct x87_register *st)
{
    struct x87_image *x87 = fpu_x87(&v->fpu);
    unsigned n = in->opsize == 2 ? 2 : 4;
    x87->fcw = (uint16_t)((get(image, n, 0) & X87_FCW_VALID) | X87_FCW_ONE);
    x87->fsw = (uint16_t)get(image, n, 1);
    uint32_t tags = get(image, n, 2);
    x87->ftw = 0;
    for (unsigned i = 0; i < 8; i++)
        x87->ftw |= (uint8_t)(((tags >> 2 * i & 3) != 3) << i);
    memcpy(x87->st, st, sizeof x87->st);
    uint32_t fip = get(image, n, 3), fcs = get(image, n, 4), fdp = get(image, n, 5), fds = get(image, n, 6);
    if (!real_format(v)) {
        v->fpu.x87_cs = (uint16_t)fcs;
        v->fpu.x87_ds = (uint16_t)fds;
        x87->fop = n == 4 ? fcs >> 16 & 0x7ff : 0;
    } else {
        v->fpu.x87_cs = v->fpu.x87_ds = 0;
        x87->fop = fcs & 0x7ff;
        fip = (fip & 0xffff) | (fcs >> 12 & 0xffff) << 16;
        fdp = (fdp & 0xffff) | (fds >> 12 & 0xffff) << 16;
    }
    x87->fip = fip;
    x87->fdp = fdp;
    fpu_x87_summarize(v);
    fpu_error_cleared(v);
}

static void x87_check(struct vcpu *v)
{
    if (v->cr0 & (CR0_EM | CR0_TS))
        fault_nm(v);
}

/* False: the instruction is to be tried again after the interrupt that FERR# raises. */
static bool x87_check_waiting(struct vcpu *v)
{
    x87_check(v);
    if (fpu_error_check(v))
        return true;
    v->next_rip = v->rip;
    return false;
}

void op_fnstenv(struct vcpu *v, const struct insn *in)
{
    x87_check(v);
    uint8_t image[28];
    unsigned size = environment_size(in);
    struct area area = area_open(v, in, size, 1, true);
    environment_out(v, in, image);
    area_probe(&area, 0, size);
    area_write(&area, 0, image, size);
    fpu_x87(&v->fpu)->fcw |= X87_EXCEPTIONS;
    fpu_x87_summarize(v);
    fpu_error_cleared(v);
}

void op_fldenv(struct vcpu *v, const struct insn *in)
{
    if (!x87_check_waiting(v))
        return;
    uint8_t image[28];
    unsigned size = environment_size(in);
    struct area area = area_open(v, in, size, 1, false);
    area_read(&area, 0, image, size);
    /* The physical registers keep their contents; their distance from TOP changes with TOP. */
    const struct x87_image *x87 = fpu_x87(&v->fpu);
    unsigned before = (x87->fsw & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT;
    unsigned after = (get(image, size / 7, 1) & X87_FSW_TOP) >> X87_FSW_TOP_SHIFT;
    struct x87_register st[8];
    for (unsigned i = 0; i < 8; i++)
        st[i] = x87->st[(after + i - before) & 7];
    environment_in(v, in, image, st);
}

void op_fnsave(struct vcpu *v, const struct insn *in)
{
    x87_check(v);
    uint8_t image[108];
    unsigned environment = environment_size(in), size = environment + 80;
    struct area area = area_open(v, in, size, 1, true);
    environment_out(v, in, image);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + environment + 10 * i, &fpu_x87(&v->fpu)->st[i], 10);
    area_probe(&area, 0, size);
    area_write(&area, 0, image, size);
    fpu_x87_init(v);
    fpu_error_cleared(v);
}

void op_frstor(struct vcpu *v, const struct insn *in)
{
    if (!x87_check_waiting(v))
        return;
    uint8_t image[108];
    unsigned environment = environment_size(in), size = environment + 80;
    struct area area = area_open(v, in, size, 1, false);
    area_read(&area, 0, image, size);
    struct x87_register st[8];
    memset(st, 0, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(&st[i], image + environment + 10 * i, 10);
    environment_in(v, in, image, st);
}
