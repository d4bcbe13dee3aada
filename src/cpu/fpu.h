/* The guest's x87, MMX, SSE and AVX state at rest.
 *
 * While the interpreter runs, the state is here and a host-executed instruction loads what it needs. The vector
 * registers are kept whole (`ymm`); x87/MMX state is kept as the host's own 512-byte FXSAVE64 image (`x87`), whose SSE
 * part is not used. XSAVE/FXSAVE for the guest are assembled from both (cpu/xsave.c).
 *
 * Invariants of the x87 image: FCW has bit 6 set and no other reserved bit; FSW.ES and FSW.B say whether FSW has an
 * exception that FCW does not mask; its MXCSR field holds the monitor's own MXCSR, since FXRSTOR loads it.
 */
#ifndef RING3_CPU_FPU_H
#define RING3_CPU_FPU_H

#include "base/types.h"

struct vcpu;

struct fpu {
    _Alignas(64) uint8_t ymm[16][32];
    _Alignas(16) uint8_t x87[512];
    uint32_t mxcsr;
    uint16_t x87_cs, x87_ds; /* FCS/FDS, for the 32-bit image formats */
};

#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_DAZ (1u << 6)
#define MXCSR_MM (1u << 17) /* AMD: no alignment faults */
#define MXCSR_HOST 0x1f80u  /* the monitor's own, by the ABI */

#define X87_FCW_INIT 0x037fu
#define X87_FCW_VALID 0x1f3fu /* bits that can be written; bit 6 reads as one, the others as zero */
#define X87_FCW_ONE 0x0040u
#define X87_EXCEPTIONS 0x003fu /* IE DE ZE OE UE PE, and their masks in FCW */
#define X87_FSW_SF 0x0040u
#define X87_FSW_ES 0x0080u
#define X87_FSW_C1 0x0200u
#define X87_FSW_C 0x4700u /* C3 C2 C1 C0 */
#define X87_FSW_TOP 0x3800u
#define X87_FSW_TOP_SHIFT 11
#define X87_FSW_B 0x8000u

/* The FXSAVE64 image. */
struct x87_register {
    uint64_t mantissa;
    uint16_t exponent; /* and sign */
    uint16_t reserved[3];
};
struct x87_image {
    uint16_t fcw, fsw;
    uint8_t ftw; /* bit n: physical register n is not empty */
    uint8_t reserved;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    struct x87_register st[8]; /* by distance from TOP */
    uint8_t rest[352];
};
_Static_assert(sizeof(struct x87_register) == 16 && sizeof(struct x87_image) == 512, "the processor's layout");

static inline struct x87_image *fpu_x87(struct fpu *fpu)
{
    return (struct x87_image *)fpu->x87;
}

/* The state after RESET; INIT (`init`) leaves everything as it is. */
void fpu_reset(struct vcpu *v, bool init);

/* FNINIT: control, status and pointers; the registers keep their contents and become empty. */
void fpu_x87_init(struct vcpu *v);

/* Recomputes FSW.ES and FSW.B. */
void fpu_x87_summarize(struct vcpu *v);

/* XINUSE: which of x87 (bit 0), SSE (1) and AVX (2) are not in their initial state. MXCSR does not count. */
uint64_t fpu_xinuse(const struct vcpu *v);

/* The bits of MXCSR that the guest's processor has: MXCSR_MASK. */
uint32_t fpu_mxcsr_mask(const struct vcpu *v);

/* #UD and #NM of LDMXCSR, XSAVE and the like; `vex`: an AVX encoding. Shared by all vector instructions. */
void fpu_check_vector(struct vcpu *v, bool vex);

/* x87 exception summary, checked before every waiting x87 and every MMX instruction. With CR0.NE raises #MF. Without,
 * the error goes out through platform.ferr: true when the instruction is to go on (IGNNE#), false when it must wait for
 * the interrupt. */
bool fpu_error_check(struct vcpu *v);

/* After an instruction that may have cleared the exception summary: takes FERR# back. */
void fpu_error_cleared(struct vcpu *v);

#endif
