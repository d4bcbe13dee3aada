/* A virtual processor's life: creation, RESET and INIT, the state derived from its registers, and the way out.
 *
 * Derived state. CPL is SS.DPL in protected mode (so conforming code and null stack segments need no special case), 0
 * in real mode, 3 in virtual-8086 mode. `code_mode` says how bytes at CS:RIP decode and whether segments have to be
 * looked at; `tlb` is the translation cache of the current access rights, or the one that stays empty while alignment
 * checks or data breakpoints make every access special.
 *
 * When 64-bit code is left for another mode the upper halves of RAX to RDI are cleared: the SDM leaves them undefined
 * (vol. 1, 3.4.1.1), and 32-bit code here relies on zeros. R8 to R15 are kept.
 *
 * SDM vol. 3, 9.1 (reset), 4.6 (access rights), 17.2.4 (debug registers).
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "cpu/cpuid.h"
#include "cpu/decode.h"
#include "cpu/descriptor.h"
#include "cpu/hypercall.h"
#include "cpu/insn.h"
#include "cpu/msr.h"
#include "cpu/watch.h"
#include "memory/memory.h"
#include "mmu/access.h"

/* Engines put what their code reaches by a displacement from the state within 2 GiB of it. So address space is left free on both
 * sides, which much guest memory would otherwise take. */
#define NEAR_ROOM (512 * MiB)

static size_t state_size(void)
{
    return (sizeof(struct vcpu) + PAGE_SIZE - 1) & ~(size_t)PAGE_OFFSET_MASK;
}

/* Zeroed. */
static struct vcpu *state_allocate(void)
{
    size_t size = state_size();
    uint8_t *room = mmap(NULL, size + 2 * NEAR_ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *state = room == MAP_FAILED ? NULL : room + NEAR_ROOM;
    if (state != NULL) {
        munmap(room, NEAR_ROOM);
        munmap(state + size, NEAR_ROOM);
    }
    int fixed = state != NULL ? MAP_FIXED : 0; /* without so much address space: anywhere */
    void *p = mmap(state, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

struct vcpu *vcpu_create(struct memory *memory, const struct cpu_model *model, unsigned index, struct log *log,
                         struct error *err)
{
    struct vcpu *v = state_allocate();
    if (v == NULL) {
        error_set(err, "no memory for processor %u: %zu bytes are needed", index, state_size());
        return NULL;
    }
    v->memory = memory;
    v->model = model;
    v->index = index;
    v->apic_id = index;
    v->log = log;
    v->maxphyaddr = model->maxphyaddr;
    v->tsc_khz = model->tsc_khz;
    v->a20_mask = ~0ull;
    v->translate_heat = TRANSLATE_HEAT_DEFAULT;
    v->tlb = &v->tlbs[TLB_KERNEL];
    mmu_init(v);
    vcpu_reset(v, false);
    return v;
}

void vcpu_destroy(struct vcpu *v)
{
    if (v == NULL)
        return;
    memory_window_destroy(v->rmw.window);
    decoders_destroy(v);
    munmap(v, state_size());
}

static void reset_segments(struct vcpu *v)
{
    for (unsigned seg = 0; seg < SEG_COUNT; seg++)
        v->seg[seg] = (struct segment){.attr = ATTR_REAL, .limit = 0xffff};
    v->seg[SEG_CS].selector = 0xf000;
    v->seg[SEG_CS].base = 0xffff0000;
    v->seg[SEG_CS].attr = SEG_ATTR_P | SEG_ATTR_S | 0xb;
    v->seg[SEG_LDTR].attr = SEG_ATTR_P | TYPE_LDT;
    v->seg[SEG_TR].attr = SEG_ATTR_P | TYPE_TSS32_BUSY;
    v->gdtr = v->idtr = (struct table_register){.limit = 0xffff};
}

void vcpu_reset(struct vcpu *v, bool init)
{
    memset(v->regs, 0, sizeof v->regs);
    v->regs[RDX] = v->model->signature;
    rflags_set(v, 0);
    v->rip = v->next_rip = 0xfff0;
    v->in = v->run_start = v->link = NULL;
    v->rsp_restore_armed = false;
    reset_segments(v);
    v->cr0 = init ? (v->cr0 & (CR0_CD | CR0_NW)) | CR0_ET : CR0_CD | CR0_NW | CR0_ET;
    v->cr2 = v->cr3 = v->cr4 = v->efer = 0;
    if (!init)
        v->xcr0 = XCR0_X87;
    memset(v->dr, 0, sizeof v->dr);
    v->dr[6] = 0xffff0ff0;
    v->dr[7] = 0x400;
    v->shadow = 0;
    v->nmi_blocked = false;
    v->dr6_pending = 0;
    v->activity = v->index == 0 ? ACTIVITY_RUNNING : ACTIVITY_WAIT_SIPI;
    v->monitor_armed = false;
    v->mwait_breaks = false;
    v->fault_chain_length = 0;
    hypercall_reset(v);
    v->rmw.active = false;
    memset(v->pdpte, 0, sizeof v->pdpte);
    fpu_reset(v, init);
    msr_reset(v, init);
    mmu_flush(v);
    vcpu_mode_changed(v);
}

/* ---- derived state ---- */

/* Base 0, limit 4 GiB, nothing that an access would have to be checked for. */
static bool segment_is_flat(const struct segment *s, uint32_t type_mask, uint32_t type)
{
    const uint32_t mask = SEG_ATTR_NULL | SEG_ATTR_P | SEG_ATTR_S | type_mask;
    return s->base == 0 && s->limit == 0xffffffff && (s->attr & mask) == (SEG_ATTR_P | SEG_ATTR_S | type);
}

static bool segments_are_flat(const struct vcpu *v)
{
    const uint32_t data_mask = SEG_ATTR_CODE | SEG_ATTR_EC | SEG_ATTR_RW;
    return segment_is_flat(&v->seg[SEG_CS], SEG_ATTR_CODE | SEG_ATTR_RW | SEG_ATTR_DB,
                           SEG_ATTR_CODE | SEG_ATTR_RW | SEG_ATTR_DB) &&
           segment_is_flat(&v->seg[SEG_SS], data_mask | SEG_ATTR_DB, SEG_ATTR_RW | SEG_ATTR_DB) &&
           segment_is_flat(&v->seg[SEG_DS], data_mask, SEG_ATTR_RW) &&
           segment_is_flat(&v->seg[SEG_ES], data_mask, SEG_ATTR_RW);
}

static enum code_mode code_mode_of(const struct vcpu *v)
{
    const struct segment *cs = &v->seg[SEG_CS];
    if (vcpu_long_mode(v) && (cs->attr & SEG_ATTR_L))
        return CODE_64;
    if (!(cs->attr & SEG_ATTR_DB))
        return CODE_16;
    return vcpu_protected(v) && segments_are_flat(v) ? CODE_32_FLAT : CODE_32;
}

static bool data_breakpoint_enabled(uint64_t dr7)
{
    if (!(dr7 & 0xff))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((dr7 >> 2 * i & 3) && (dr7 >> (16 + 4 * i) & 1)) /* write, or read and write */
            return true;
    return false;
}

static enum tlb_kind tlb_of(const struct vcpu *v)
{
    bool ac = v->rflags_rest & FLAG_AC;
    if (((v->cr0 & CR0_AM) && ac && v->cpl == 3) || data_breakpoint_enabled(v->dr[7]))
        return TLB_NONE;
    if (v->cpl == 3)
        return TLB_USER;
    return !(v->cr4 & CR4_SMAP) || ac ? TLB_KERNEL_AC : TLB_KERNEL;
}

void vcpu_mode_changed(struct vcpu *v)
{
    enum code_mode before = v->code_mode;
    unsigned cpl_before = v->cpl;
    if (!(v->cr0 & CR0_PE))
        v->cpl = 0;
    else if (vcpu_v86(v))
        v->cpl = 3;
    else
        v->cpl = (uint8_t)segment_dpl(&v->seg[SEG_SS]);
    v->code_mode = (uint8_t)code_mode_of(v);
    v->stack_big = v->code_mode == CODE_64 || (v->seg[SEG_SS].attr & SEG_ATTR_DB);
    v->flat = v->code_mode == CODE_64 || v->code_mode == CODE_32_FLAT;
    if (before == CODE_64 && v->code_mode != CODE_64)
        for (unsigned i = RAX; i <= RDI; i++)
            v->regs[i] = (uint32_t)v->regs[i];
    enum tlb_kind kind = tlb_of(v);
    v->tlb = &v->tlbs[kind];
    if (kind != TLB_NONE)
        v->tlb->used = true;
    v->stepping = (v->rflags_rest & FLAG_TF) || (v->dr[7] & 0xff);
    if (unlikely(v->watch != NULL) && v->cpl != cpl_before && v->watch->mode != NULL && v->rehearsal == NULL)
        v->watch->mode(v->watch->opaque, v, cpl_before);
}

/* ---- the outside ---- */

void vcpu_raise(struct vcpu *v, uint32_t pending)
{
    atomic_fetch_or(&v->pending, pending);
    __atomic_store_n(&v->instructions_stop, 0, __ATOMIC_SEQ_CST); /* second: see the engine's loop */
    __atomic_store_n(&v->poll, 0, __ATOMIC_SEQ_CST);
    int waker = atomic_load(&v->waker);
    if (unlikely(waker != 0))
        tgkill(getpid(), waker, SIGURG);
    void (*kick)(struct vcpu *) = __atomic_load_n(&v->kick, __ATOMIC_SEQ_CST);
    if (unlikely(kick != NULL))
        kick(v);
}

bool vcpu_runnable(const struct vcpu *v)
{
    uint32_t pending = atomic_load_explicit(&v->pending, memory_order_acquire);
    if (v->activity == ACTIVITY_RUNNING)
        return true;
    if (pending & (PENDING_STOP | PENDING_RESET))
        return true;
    if (v->activity == ACTIVITY_WAIT_SIPI)
        return pending & (PENDING_SIPI | PENDING_INIT);
    if (v->activity == ACTIVITY_SHUTDOWN)
        return pending & PENDING_INIT;
    if ((pending & PENDING_NMI) && !v->nmi_blocked)
        return true;
    if (pending & (PENDING_INIT | PENDING_SMI))
        return true;
    return (pending & PENDING_INTR) && !v->hypercall.held && ((v->rflags_rest & FLAG_IF) || v->mwait_breaks);
}

unsigned vcpu_exit_mode(const struct vcpu *v)
{
    if (!(v->cr0 & CR0_PE))
        return EXIT_MODE_REAL;
    if (vcpu_v86(v))
        return EXIT_MODE_V86;
    return v->cpl == 3 ? EXIT_MODE_USER : EXIT_MODE_KERNEL;
}

void vcpu_exit(struct vcpu *v, struct exit *exit)
{
    exit->mode = vcpu_exit_mode(v);
    exit->rip = v->rip;
    if (v->run_start != NULL) /* within straight-line code */
        exit->rip = v->code_mode == CODE_64 ? v->regs[GPR_PAGE] + v->in->off : (uint32_t)(v->regs[GPR_PAGE] + v->in->off);
    if (v->rehearsal != NULL)
        v->rehearsal(v, NULL, 0);
    if (v->exit != NULL)
        v->exit(v, exit);
    else if (exit->reason == EXIT_IO_IN || exit->reason == EXIT_MMIO_READ)
        exit->value = UINT64_MAX;
}

const char *exit_reason_name(enum exit_reason reason)
{
    static const char *const names[EXIT_REASON_COUNT] = {
#define X(id, name) [EXIT_##id] = name,
        EXIT_REASONS(X)
#undef X
    };
    check((unsigned)reason < EXIT_REASON_COUNT);
    return names[reason];
}

const char *exit_mode_name(enum exit_mode mode)
{
    static const char *const names[EXIT_MODE_COUNT] = {
        [EXIT_MODE_REAL] = "real",
        [EXIT_MODE_V86] = "v86",
        [EXIT_MODE_KERNEL] = "kernel",
        [EXIT_MODE_USER] = "user",
    };
    check((unsigned)mode < EXIT_MODE_COUNT);
    return names[mode];
}
