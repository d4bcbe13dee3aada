/* What the files that make and run stubs share (host_stub.c, host_exec.c, host_x87.c). Not for anybody else. */
#ifndef RING3_CPU_HOST_STUB_H
#define RING3_CPU_HOST_STUB_H

#include "cpu/fast.h"
#include "cpu/host_exec.h"

/* Generated code. Arguments: host pointer to the memory operand (if there is one), the vCPU. Returns the host's x87
 * status word (light x87 stubs) or 0; with STUB_FAULT set, the host's signal number. */
typedef uint32_t stub_code(void *memory, struct vcpu *v);
#define STUB_FAULT 0x80000000u

/* What distinguishes stubs: the instruction as the host will run it, and the general register it uses (for gathers:
 * the index register). */
struct stub_key {
    uint8_t bytes[15];
    uint8_t length;
    uint8_t gpr;   /* NO_GPR: none */
    uint8_t scale; /* gathers */
};
#define NO_GPR 0xff

struct host_stub {
    insn_fn *fn;
    stub_code *code;
    struct host_stub *next; /* in its hash bucket */
    struct stub_key key;
    uint8_t memsize;      /* bytes of the memory operand */
    uint8_t align;        /* it must be aligned to this + 1; 0 if not */
    bool align_strict;    /* even with MXCSR.MM */
    bool vex;
    bool xmm;             /* has an XMM operand */
    bool stores;          /* the memory operand is written */

    /* masked moves and gathers */
    uint8_t mask_reg, dest_reg, index_reg;
    uint8_t element;       /* bytes of an element in memory and mask */
    uint8_t index_element; /* bytes of an index */
    uint8_t count;         /* elements */

    /* x87 */
    stub_code *light; /* the short way, NULL if there is none */
    uint8_t need;     /* light: ST(i) that must not be empty */
    uint8_t sets;     /* light: ST(i) that become not empty */
    int8_t grow;      /* light: +1 pushes, -1 and -2 pop */
    uint16_t cc;      /* light: condition codes that it defines */
};

#define STUB_BUCKETS 4096u

struct host_exec {
    int fd;
    uint8_t *write;   /* the writable view, where stubs are kept */
    uint8_t *execute; /* the executable view of the same memory */
    size_t used;      /* bytes of both */
    size_t used_base; /* after the part that is never reset */
    size_t recover, recover_mxcsr; /* offsets of the code where a stub goes on after a host fault */
    bool keeps_selectors; /* the host's x87 records FCS and FDS */
    struct host_stub *bucket[STUB_BUCKETS];
    _Alignas(64) uint8_t bounce[128]; /* stands for a memory operand that cannot be pointed at */
};

/* Functions that run stubs, chosen by host_stub.c. */
insn_fn host_sse_register, host_sse_load, host_sse_store;
insn_fn host_avx_register, host_avx_load, host_avx_store;
insn_fn host_avx_masked_load, host_avx_masked_store, host_gather, host_vzeroupper, host_vzeroall;
insn_fn host_sse_maskmov, host_avx_maskmov, host_mmx_maskmov;
insn_fn host_mmx_register, host_mmx_load, host_mmx_store, host_emms;
insn_fn host_x87_register, host_x87_load, host_x87_store;
insn_fn host_fwait, host_fninit, host_fnclex, host_fldcw, host_fnstcw_memory, host_fnstsw_memory, host_fnstsw_ax,
    host_x87_nop;

/* Raises the guest fault for what a stub returned. */
_Noreturn void host_stub_fault(struct vcpu *v, uint32_t result);

/* ---- the memory operand (host_exec.c) ---- */

static inline unsigned access_flags(const struct vcpu *v, const struct insn *in)
{
    return access_current(v) | (in->seg == SEG_SS ? ACCESS_STACK : 0);
}

/* Host pointer to the bytes, or to a copy of them. */
void *host_load_slow(struct vcpu *v, const struct insn *in, gva_t gva);

static inline void *host_load(struct vcpu *v, const struct insn *in, const struct host_stub *stub)
{
    gva_t gva = ea_linear(v, in, stub->memsize, false);
    const struct tlb_entry *e = tlb_entry(v, gva);
    if (likely(tlb_hit(e->read_tag, gva, stub->memsize) && !(gva & stub->align)))
        return (void *)(gva + (uint64_t)e->addend);
    return host_load_slow(v, in, gva);
}

/* A store: where to, after all its faults. `bounced`: host_store_end() is to follow. */
struct host_store {
    void *memory;
    gva_t gva;
    bool bounced;
};
void host_store_slow(struct vcpu *v, const struct insn *in, struct host_store *store);
/* Writes the copy back and ends the instruction. */
const struct insn *host_store_end(struct vcpu *v, const struct insn *in, const struct host_store *store);

static inline struct host_store host_store_begin(struct vcpu *v, const struct insn *in, const struct host_stub *stub)
{
    struct host_store store = {.gva = ea_linear(v, in, stub->memsize, true)};
    const struct tlb_entry *e = tlb_entry(v, store.gva);
    if (likely(tlb_hit(e->write_tag, store.gva, stub->memsize) && !(store.gva & stub->align)))
        store.memory = (void *)(store.gva + (uint64_t)e->addend);
    else
        host_store_slow(v, in, &store);
    return store;
}

/* RIP of the instruction, or of the one `bytes` further on. */
static inline uint64_t insn_rip(const struct vcpu *v, const struct insn *in, unsigned bytes)
{
    return rip_cut(in, v->regs[GPR_PAGE] + in->off + bytes);
}

#endif
