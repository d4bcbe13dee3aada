/* The guest's x87, SSE and AVX state while code runs directly: in the registers of one sandbox, or in struct vcpu.
 *
 * It is moved only when somebody else needs it: an instruction of that kind that is interpreted, another space in which
 * code may use it, the engine that runs the kernel. Kernel spaces never have it: there such instructions are patched,
 * since a kernel uses few, and its entry and exit would otherwise have to move some 800 bytes through the host's kernel
 * each time.
 *
 * The area is the processor's own, in standard format (SDM vol. 1, 13.4). What AMD processors do not store (FIP, FDP
 * without a pending exception) is 0 for the guest, as it is there. */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "engine/trap/internal.h"

#define XSTATE_MAX 16384u
#define XSTATE_XMM 160u
#define XSTATE_HEADER 512u
#define XSTATE_CPUID_LEAF 0xdu
#define LEGACY_BYTES 512u

bool vector_create(struct trap *t, struct error *err)
{
    unsigned a, b, c, d;
    t->xstate = aligned_alloc(64, XSTATE_MAX);
    if (t->xstate == NULL)
        return error_set(err, "out of memory");
    memset(t->xstate, 0, XSTATE_MAX);
    if (__builtin_cpu_supports("avx") && __get_cpuid_count(XSTATE_CPUID_LEAF, 2, &a, &b, &c, &d))
        t->ymm_offset = b;
    return true;
}

void vector_destroy(struct trap *t)
{
    free(t->xstate);
}

void vector_fetch(struct trap *t)
{
    struct fpu *fpu = &t->v->fpu;
    if (t->vector_owner == NULL)
        return;
    size_t size = XSTATE_MAX;
    bool ok = sandbox_xstate_get(t->vector_owner->box, t->xstate, &size);
    t->vector_owner = NULL;
    if (!ok || size < XSTATE_HEADER + 64) {
        registers_lost(t);
        return;
    }
    t->xstate_size = size;
    struct x87_image *x87 = fpu_x87(fpu);
    memcpy(fpu->x87, t->xstate, LEGACY_BYTES);
    fpu->mxcsr = x87->mxcsr;
    x87->mxcsr = MXCSR_HOST;
    for (unsigned i = 0; i < ARRAY_LEN(fpu->ymm); i++) {
        memcpy(fpu->ymm[i], t->xstate + XSTATE_XMM + 16 * i, 16);
        if (t->ymm_offset != 0 && t->ymm_offset + 16 * (i + 1) <= size)
            memcpy(fpu->ymm[i] + 16, t->xstate + t->ymm_offset + 16 * i, 16);
    }
    fpu->x87_cs = t->v->seg[SEG_CS].selector;
    fpu->x87_ds = t->v->seg[SEG_DS].selector;
}

void vector_give(struct trap *t, struct space *s)
{
    struct fpu *fpu = &t->v->fpu;
    if (t->vector_owner == s)
        return;
    vector_fetch(t);
    if (t->xstate_size == 0) { /* the first time: how large the host's is */
        t->xstate_size = XSTATE_MAX;
        if (!sandbox_xstate_get(s->box, t->xstate, &t->xstate_size))
            return;
    }
    memcpy(t->xstate, fpu->x87, LEGACY_BYTES);
    struct x87_image *x87 = (struct x87_image *)t->xstate;
    x87->mxcsr = fpu->mxcsr;
    uint64_t present = XCR0_X87 | XCR0_SSE | (t->ymm_offset != 0 ? XCR0_AVX : 0);
    memcpy(t->xstate + XSTATE_HEADER, &present, sizeof present);
    for (unsigned i = 0; i < ARRAY_LEN(fpu->ymm); i++) {
        memcpy(t->xstate + XSTATE_XMM + 16 * i, fpu->ymm[i], 16);
        if (t->ymm_offset != 0 && t->ymm_offset + 16 * (i + 1) <= t->xstate_size)
            memcpy(t->xstate + t->ymm_offset + 16 * i, fpu->ymm[i] + 16, 16);
    }
    if (sandbox_xstate_set(s->box, t->xstate, t->xstate_size))
        t->vector_owner = s;
}

bool vector_is_used_by(const struct insn *in)
{
    if (in->row >= ROW_COUNT)
        return false;
    if (insn_rows[in->row].how == HOW_HOST)
        return true;
    switch (in->row) {
    case ROW_FXSAVE:
    case ROW_FXSAVE64:
    case ROW_FXRSTOR:
    case ROW_FXRSTOR64:
    case ROW_XSAVE:
    case ROW_XSAVE64:
    case ROW_XSAVEC:
    case ROW_XSAVEC64:
    case ROW_XSAVEOPT:
    case ROW_XSAVEOPT64:
    case ROW_XSAVES:
    case ROW_XSAVES64:
    case ROW_XRSTOR:
    case ROW_XRSTOR64:
    case ROW_XRSTORS:
    case ROW_XRSTORS64:
    case ROW_LDMXCSR:
    case ROW_STMXCSR:
    case ROW_VLDMXCSR:
    case ROW_VSTMXCSR:
    case ROW_FNSAVE:
    case ROW_FRSTOR:
    case ROW_FNSTENV:
    case ROW_FLDENV:
    case ROW_XGETBV:
        return true;
    default:
        return false;
    }
}
