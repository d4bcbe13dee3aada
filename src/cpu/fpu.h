/* The guest's x87, MMX, SSE and AVX state at rest.
 *
 * While the interpreter runs, the state is here and a host-executed instruction loads what it needs. The vector registers
 * are kept whole (`ymm`); x87/MMX state is kept as the host's own 512-byte FXSAVE64 image (`x87`), whose SSE part is not
 * used. XSAVE/FXSAVE for the guest are assembled from both (cpu/xsave.c).
 */
#ifndef RING3_CPU_FPU_H
#define RING3_CPU_FPU_H

#include "base/types.h"

struct fpu {
    _Alignas(64) uint8_t ymm[16][32];
    _Alignas(16) uint8_t x87[512];
    uint32_t mxcsr;
    uint16_t x87_cs, x87_ds; /* FCS/FDS, for the 32-bit image formats */
    uint64_t xinuse;         /* XINUSE: components not in their initial state */
};

#endif
