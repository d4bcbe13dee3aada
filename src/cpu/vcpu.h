/* One virtual processor: everything the architecture can see, and what the engines derive from it.
 *
 * Registers
 *   regs[0..15] are the GPRs in encoding order. regs[GPR_ZERO] is always 0 and regs[GPR_PAGE] is the RIP value of
 *   the first byte of the code page being run, so that an effective address is base + index*scale + disp without
 *   special cases (RIP-relative operands use GPR_PAGE). In 16- and 32-bit modes the upper halves are zero.
 *
 * Flags
 *   The six arithmetic flags live in `status`, in the layout in which LAHF; SETO leave them in AX (AH = SF ZF 0 AF 0 PF
 *   1 CF, AL = OF), because host instructions compute them. All others live in `rflags_rest`. rflags_get() and
 *   rflags_set() join and split them.
 *
 * RIP
 *   While straight-line code runs (run_start != NULL), `rip` is stale; the engine knows the instruction through
 *   `in`. It is materialised before any slow instruction and before a fault is delivered.
 *
 * Derived state (`cpl`, `code_mode`, `tlb`, ...) is recomputed by vcpu_mode_changed(), which must follow every
 * change of CR0, CR4, EFER, RFLAGS.VM/AC, CS, SS, DS, ES or DR7.
 *
 * Threads: a vCPU is touched by its own thread only, except `pending`, which anybody may set through vcpu_raise().
 *
 * Source: SDM vol. 3, chapters 2, 3, 5, 6, 17; APM vol. 2.
 */
#ifndef RING3_CPU_VCPU_H
#define RING3_CPU_VCPU_H

#include <setjmp.h>
#include <stdatomic.h>

#include "base/error.h"
#include "base/types.h"
#include "cpu/exit.h"
#include "cpu/fault.h"
#include "cpu/fpu.h"
#include "cpu/points.h"

struct memory;
struct insn;
struct code_cache;
struct crew;
struct shadow;
struct trap;
struct mmu_observer;
struct cpu_model;
struct log;

enum gpr {
    RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15,
    GPR_ZERO,
    GPR_PAGE,
    GPR_COUNT
};

enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* RFLAGS */
#define FLAG_CF (1u << 0)
#define FLAG_FIXED (1u << 1) /* always one */
#define FLAG_PF (1u << 2)
#define FLAG_AF (1u << 4)
#define FLAG_ZF (1u << 6)
#define FLAG_SF (1u << 7)
#define FLAG_TF (1u << 8)
#define FLAG_IF (1u << 9)
#define FLAG_DF (1u << 10)
#define FLAG_OF (1u << 11)
#define FLAG_IOPL (3u << 12)
#define FLAG_IOPL_SHIFT 12
#define FLAG_NT (1u << 14)
#define FLAG_RF (1u << 16)
#define FLAG_VM (1u << 17)
#define FLAG_AC (1u << 18)
#define FLAG_VIF (1u << 19)
#define FLAG_VIP (1u << 20)
#define FLAG_ID (1u << 21)
#define FLAGS_STATUS (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/* The arithmetic flags as `status` holds them. */
#define STATUS_OF 0x0001u
#define STATUS_CF 0x0100u
#define STATUS_PF 0x0400u
#define STATUS_AF 0x1000u
#define STATUS_ZF 0x4000u
#define STATUS_SF 0x8000u

/* CR0, CR4, EFER, XCR0 */
#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_AM (1ull << 18)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR3_PCID 0xfffull /* with CR4.PCIDE */
#define CR4_VME (1ull << 0)
#define CR4_PVI (1ull << 1)
#define CR4_TSD (1ull << 2)
#define CR4_DE (1ull << 3)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_MCE (1ull << 6)
#define CR4_PGE (1ull << 7)
#define CR4_PCE (1ull << 8)
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_UMIP (1ull << 11)
#define CR4_FSGSBASE (1ull << 16)
#define CR4_PCIDE (1ull << 17)
#define CR4_OSXSAVE (1ull << 18)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)
#define EFER_FFXSR (1ull << 14)
#define XCR0_X87 (1ull << 0)
#define XCR0_SSE (1ull << 1)
#define XCR0_AVX (1ull << 2)

/* A segment register with its hidden part. `attr` is the second descriptor dword shifted right by 8, limit bits taken
 * out (the layout VT-x calls "access rights"). */
#define SEG_ATTR_TYPE 0x000fu
#define SEG_ATTR_A 0x0001u    /* accessed */
#define SEG_ATTR_RW 0x0002u   /* writable data / readable code */
#define SEG_ATTR_EC 0x0004u   /* expand-down data / conforming code */
#define SEG_ATTR_CODE 0x0008u
#define SEG_ATTR_S 0x0010u    /* code or data, not system */
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_DPL 0x0060u
#define SEG_ATTR_P 0x0080u
#define SEG_ATTR_AVL 0x1000u
#define SEG_ATTR_L 0x2000u
#define SEG_ATTR_DB 0x4000u
#define SEG_ATTR_G 0x8000u
#define SEG_ATTR_NULL 0x10000u /* loaded with a null selector: any use faults (outside 64-bit mode) */
struct segment {
    uint16_t selector;
    uint32_t attr;
    uint32_t limit; /* in bytes, granularity applied */
    uint64_t base;
};

struct table_register {
    uint64_t base;
    uint16_t limit;
};

/* How the bytes at CS:RIP decode and what addressing costs. Part of the key of decoded code. */
enum code_mode {
    CODE_64,
    CODE_32_FLAT, /* ES, CS, SS, DS: base 0, limit 4 GiB, writable/readable: no checks needed; SS is 32-bit */
    CODE_32,
    CODE_16,
    CODE_MODE_COUNT
};

enum activity { ACTIVITY_RUNNING, ACTIVITY_HLT, ACTIVITY_SHUTDOWN, ACTIVITY_WAIT_SIPI };

/* Interrupt shadow: for one instruction after STI, MOV SS and POP SS. */
#define SHADOW_STI 1u
#define SHADOW_MOV_SS 2u

/* Reasons to leave straight-line execution, set from any thread by vcpu_raise(). */
#define PENDING_INTR (1u << 0)  /* INTR pin or local APIC has something: platform->intr_ack() */
#define PENDING_NMI (1u << 1)
#define PENDING_SMI (1u << 2)
#define PENDING_INIT (1u << 3)
#define PENDING_SIPI (1u << 4)  /* vector in sipi_vector */
#define PENDING_STOP (1u << 5)  /* return from the engine's run function */
#define PENDING_FLUSH (1u << 6) /* flush the TLB and the code cache view: memory was remapped, A20 changed */
#define PENDING_RESET (1u << 7) /* the machine resets */
#define PENDING_CODE (1u << 8)  /* another thread has written to code: code_cache_take_written() */
#define PENDING_SAMPLE (1u << 9) /* somebody wants to know where the guest is: watch->sample() */
#define PENDING_WRITES (1u << 10) /* another vCPU asks not to write to some page without notice: crew_take_requests() */

/* What the processor's pins and its local APIC are wired to. Called on the vCPU's thread without any lock; the callee
 * takes the machine's device lock. */
struct vcpu_platform {
    int (*intr_ack)(void *opaque); /* INTA: the vector to deliver, or -1 if there is none after all */
    uint64_t (*cr8_read)(void *opaque);
    void (*cr8_write)(void *opaque, uint64_t cr8);
    /* Local APIC MSRs: IA32_APIC_BASE, the x2APIC range, IA32_TSC_DEADLINE, MSR_KVM_PV_EOI_EN. False means #GP. */
    bool (*apic_msr_read)(void *opaque, uint32_t msr, uint64_t *value);
    bool (*apic_msr_write)(void *opaque, uint32_t msr, uint64_t value);
    /* Guest time: ns since the machine was created; the TSC without the guest's adjustment runs at 1 GHz on it. */
    uint64_t (*now_ns)(void *opaque);
    /* Wall clock at guest time 0, ns since 1970. */
    uint64_t (*wall_base_ns)(void *opaque);
    /* 64 random bits (RDRAND, RDSEED): from the host, or repeatable when guest time is instructions. */
    uint64_t (*random)(void *opaque);
    /* RING3_HC_CONSOLE: how many of the bytes were taken. NULL: all are lost. */
    size_t (*console_write)(void *opaque, const uint8_t *bytes, size_t n);
    /* FERR#, with CR0.NE = 0: an x87 instruction has met a pending error (`error`: drives IRQ 13), or the error has
     * been cleared. Returns whether IGNNE# is asserted: the instruction then goes on, else it waits for the interrupt.
     * NULL: IGNNE# is always asserted. */
    bool (*ferr)(void *opaque, bool error);
    void *opaque;
};

#define TSC_FREQUENCY_HZ 1000000000ull /* unless the model says otherwise */

/* How often a block is executed by the interpreter before it is translated, unless somebody says otherwise. */
#define TRANSLATE_HEAT_DEFAULT 16u

/* TLB. Index by page number; a tag is the page's gva with the low bits clear, or TLB_NO_TAG. Filled by mmu/access.c. */
#define TLB_BITS 10
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_NO_TAG 1ull
#define TLB_WRITTEN_BITS 4096u
struct tlb_entry {
    uint64_t read_tag;
    uint64_t write_tag; /* set only where a write needs no notice: RAM, not watched, dirty in the guest's table */
    intptr_t addend;    /* host pointer minus gva */
    uint64_t gpa;       /* of the page */
};
enum tlb_kind { TLB_KERNEL, TLB_KERNEL_AC, TLB_USER, TLB_NONE /* never filled: every access is slow */, TLB_KIND_COUNT };
struct tlb {
    struct tlb_entry entries[TLB_SIZE];
    bool used;
};

/* Instruction side: gva page -> decoded page. */
#define ITLB_SIZE 512u
struct code_page;
struct itlb_entry {
    uint64_t tag; /* gva page | code_mode << 1 | user, so that a mode change needs no flush; ~0 when empty */
    struct code_page *page;
};

struct msr_state {
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, mtrr_def_type, mtrr_fixed[11], mtrr_variable[16];
    uint64_t tsc_adjust;     /* IA32_TSC_ADJUST */
    uint64_t debugctl, mcg_status, mc_bank[4 * 8];
    uint64_t kvm_wall_clock, kvm_system_time;
    uint64_t bios_sign_id, spec_ctrl, xss, feature_control, mcg_ctl;
    uint64_t syscfg, hwcr, top_mem[2], virt_spec_ctrl; /* AMD */
};

/* What translated code keeps in memory; engine/translate/ alone uses it. Addressed relative to a register that points into
 * struct vcpu, so it lies near the front. */
struct vcpu_translated {
    uint64_t monitor_rsp;         /* the monitor's stack while translated code runs */
    uint64_t return_rsp;          /* the shadow return stack while the monitor runs */
    uint64_t scratch;
    uint64_t aligned_mask[3];     /* for PEXT: bits 47:12 of an address that was rotated right by n + 1 bits, and the n + 1 highest */
    uint64_t low_mask[2];         /* the low bits of an address that is to be a multiple of 16, of 32 */
    uint64_t sign_mask;           /* bit 63 */
    uint64_t rsp_mask[2];         /* what is 0 in an aligned stack pointer: of 64-bit code, of 32-bit code */
    uint64_t left;                /* instructions that may still be executed, when they are counted */
    uint64_t gs_base;             /* the shadow table of the current mode */
    uint64_t s;                   /* host R11 at the last exit: an indirect target */
    uint64_t exit;                /* why translated code was left */
    uint64_t sse_missing, avx_missing; /* 0: the host's vector registers hold the guest's, and it may use them */
    uint64_t segment_limited[6];  /* 32-bit code, by enum seg: 0 if it reaches everywhere, so that only its base matters */
    uint64_t x87_missing;         /* the same of the x87 registers */
    uint64_t x87_last;            /* the last x87 instruction: its call site + 1; 0: none since the state was loaded */
    uint64_t x87_data;            /* the last memory operand of one: its linear address ... */
    uint64_t x87_data_site;       /* ... and the call site + 1 that it belongs to; 0: none */
    uint64_t loop_saved[7];       /* while a loop is in its second version: registers that it has borrowed */
};

struct vcpu {
    /* --- hot --- */
    uint64_t regs[GPR_COUNT];
    uint16_t status;
    uint32_t rflags_rest;    /* RFLAGS without the arithmetic flags; FLAG_FIXED set */
    uint64_t rip, next_rip;
    const struct insn *in;        /* instruction in execution */
    const struct insn *run_start; /* first instruction not yet counted in `instructions`; NULL: `rip` is up to date */
    const struct insn *link;      /* direct branch just taken within its page, whose target may be remembered */
    uint64_t instructions;        /* executed, or ended by a fault that was delivered, so far */
    uint64_t instructions_stop;   /* leave straight-line code at a branch when reached; 0 = at once */
    struct tlb *tlb;              /* the one for the current privilege */
    jmp_buf *unwind;              /* where a fault goes */
    uint8_t cpl;
    uint8_t code_mode;            /* enum code_mode */
    bool stack_big;               /* SS.B, or 64-bit mode */
    bool flat;                    /* see CODE_32_FLAT */
    bool stepping;                /* the engine must look after every instruction: TF or a debug register is on */
    bool rsp_restore_armed;       /* an instruction that moved RSP may still fault: the engine puts back ... */
    uint64_t rsp_restore;         /* ... this */
    _Atomic uint32_t pending;
    _Atomic int waker;       /* thread to be interrupted by SIGURG when something is raised; 0: none. See vcpu_raise() */
    uintptr_t poll;               /* translated code reads what this points to; 0, set by vcpu_raise(), stops it there */
    struct vcpu_translated translated;

    /* --- architecture --- */
    struct segment seg[SEG_COUNT];
    struct table_register gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t dr[8]; /* 0-3, 6, 7 */
    struct msr_state msr;
    struct fpu fpu;
    uint32_t shadow;         /* SHADOW_*: set by the instruction just executed */
    bool nmi_blocked;
    uint64_t dr6_pending;    /* debug traps (TF, data and I/O breakpoints) to deliver after this instruction */
    enum activity activity;
    uint8_t sipi_vector;
    unsigned index;          /* processor number */
    uint32_t apic_id;
    gva_t monitor_gva;       /* armed by MONITOR */
    bool monitor_armed;
    bool mwait_breaks;       /* halted by MWAIT with ECX bit 0: an interrupt wakes it even with IF clear */

    /* --- faults --- */
    struct fault fault;          /* the one being raised */
    struct fault fault_chain[3]; /* of a triple fault, in order */
    unsigned fault_chain_length;
    uint64_t shutdown_rip;

    /* --- a debugger (cpu/points.h) --- */
    const struct points *points; /* where it wants to stop; NULL: nowhere */
    struct point_hit hit;        /* where it has stopped: who runs the vCPU takes it when the engine has returned */
    bool single;                 /* exactly one instruction is being executed, points or not */
    uint32_t pending_held;       /* PENDING_* bits that wait until that is done */

    /* --- surroundings --- */
    const struct cpu_model *model;
    struct memory *memory;
    struct log *log;
    struct vcpu_platform platform;
    void (*exit)(struct vcpu *v, struct exit *exit); /* the door: engine/exit.c */
    void *exit_opaque;
    const struct vcpu_watch *watch; /* cpu/watch.h; NULL: nobody looks on */
    void *engine_opaque;
    const char *failed;           /* the host does not let the guest go on: why; constant. See engine/engine.h */
    struct trap *trap;            /* engine/trap/; NULL: another engine */
    void (*kick)(struct vcpu *v); /* makes guest code that runs elsewhere stop soon; any thread, signal handlers; NULL: nothing to do */
    const struct mmu_observer *mmu_observer; /* mmu/access.h; NULL: nobody */
    bool direct_user;             /* a translating engine returns from run() when user code is next */
    unsigned trap_kernel;         /* enum trap_kernel, before attach() */
    bool trap_no_patch;           /* trap: leave instructions that do not trap as they are; before attach() */
    struct code_cache *code;
    struct crew *crew;            /* the machine's other processors; NULL: there are none */
    uint64_t code_generation;     /* goes up when decoded code is forgotten as a whole: nothing is watched then */
    /* Hears of every write to a page watched for code, before decoded code is looked at; all bytes in one page. Returns
     * whether the page must stay watched. NULL: nobody else cares. */
    bool (*code_written)(struct vcpu *v, gpa_t gpa, unsigned size);
    struct shadow *mmu_shadow;    /* mmu/shadow.h; NULL: the engine has none */
    struct decoders *decoders;    /* cpu/decode.c; NULL: none has been needed */
    struct host_exec *host_exec;  /* cpu/host_exec.c: instructions run on the host */
    uint64_t a20_mask;            /* ANDed to every physical address */
    struct {                      /* cpu/hypercall.h */
        gpa_t flags_gpa;          /* the interrupt flag in guest memory, if `flags_used` */
        bool flags_used;
        bool held;                /* an interrupt is pending that it holds back: PENDING_INTR is not looked at */
        bool hidden;              /* the engine does not get VMCALL: CPUID does not show ring3's calls */
    } hypercall;
    uint64_t memory_generation;   /* of the memory map that the TLBs were filled from */
    uint8_t maxphyaddr;
    uint32_t tsc_khz;             /* the model's */
    uint64_t tsc_drift;           /* added to the TSC: what it has gained on guest time while the host's processor counted it */
    bool instructions_partial;    /* the engine does not count translated instructions in `instructions` */
    unsigned translate_heat;      /* translate: executions of a block before it is translated; 0: at once */
    unsigned shadow_policy;       /* enum shadow_policy, before attach() */
    unsigned verify_every;        /* translate: every how many blocks are compared with the interpreter; 0: none; before attach() */
    /* While not NULL and v->tlb is TLB_NONE: called with each piece of RAM that is about to be written, and with NULL before
     * any effect that could not be undone (devices, exits, watched pages), which then must not return. */
    void (*rehearsal)(struct vcpu *v, uint8_t *hva, unsigned size);

    /* --- mmu --- */
    uint64_t pdpte[4]; /* PAE: loaded with CR3 */
    struct tlb tlbs[TLB_KIND_COUNT];
    uint64_t tlb_written[TLB_WRITTEN_BITS / 64]; /* by physical page, modulo: some write tag may lead to it */
    struct itlb_entry itlb[ITLB_SIZE];
    gva_t large_low, large_high; /* range of all large pages that have been entered, piece by piece, in the TLBs */
    struct {
        gpa_t gpa[2];     /* of its parts, in one page or in two */
        unsigned size[2];
        bool active;      /* something is to be done when the read-modify-write in progress ends */
        bool bounced;     /* ... it is on `bytes`: write them back */
        uint8_t *window;  /* two pages of address space, side by side; NULL: none yet */
        uint8_t *windowed[2]; /* the pages of RAM that are seen there */
        _Alignas(16) uint8_t bytes[16];
    } rmw;

    /* --- counters, for --stat --- */
    struct {
        uint64_t tlb_fills, tlb_flushes, page_walks, insns_decoded, code_pages, code_invalidations, host_stubs;
    } count;
};

/* Creation: registers as after RESET (SDM vol. 3, table 9-1). The caller then fills `platform`, `exit`. */
struct vcpu *vcpu_create(struct memory *memory, const struct cpu_model *model, unsigned index, struct log *log,
                         struct error *err);
void vcpu_destroy(struct vcpu *v);
/* RESET, or INIT with `init` (keeps x87/SSE state, MTRRs, TSC; SDM table 9-1). */
void vcpu_reset(struct vcpu *v, bool init);

/* Recomputes all derived state. */
void vcpu_mode_changed(struct vcpu *v);

/* Any thread, signal handlers too: sets PENDING_* bits and makes the vCPU look soon. Waking a halted vCPU's thread is the
 * machine's task. An engine whose thread executes guest code in the host's kernel names that thread in `waker` meanwhile
 * (first `waker`, then a look at `pending`); there SIGURG is blocked but for that time. */
void vcpu_raise(struct vcpu *v, uint32_t pending);

/* Whether the engine has something to do: running, or something is pending that wakes the processor. Any thread. */
bool vcpu_runnable(const struct vcpu *v);

/* Goes through the door; fills in mode and rip. */
void vcpu_exit(struct vcpu *v, struct exit *exit);

/* The mode that an exit now would carry: enum exit_mode. */
unsigned vcpu_exit_mode(const struct vcpu *v);

static inline uint32_t rflags_get(const struct vcpu *v)
{
    uint32_t s = v->status;
    return v->rflags_rest | (s >> 8 & (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)) | (s & 1) << 11;
}

static inline void rflags_set(struct vcpu *v, uint32_t flags)
{
    v->status = (uint16_t)((flags & (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)) << 8 | (flags >> 11 & 1));
    v->rflags_rest = (flags & ~FLAGS_STATUS) | FLAG_FIXED;
}

static inline bool vcpu_long_mode(const struct vcpu *v)
{
    return (v->efer & EFER_LMA) != 0;
}

static inline bool vcpu_protected(const struct vcpu *v) /* and not virtual-8086 */
{
    return (v->cr0 & CR0_PE) && !(v->rflags_rest & FLAG_VM);
}

static inline bool vcpu_v86(const struct vcpu *v)
{
    return (v->rflags_rest & FLAG_VM) != 0;
}

static inline unsigned vcpu_iopl(const struct vcpu *v)
{
    return (v->rflags_rest & FLAG_IOPL) >> FLAG_IOPL_SHIFT;
}

/* 48-bit linear addresses (no LA57). */
static inline bool gva_canonical(gva_t gva)
{
    return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}

/* Guest time in ticks of the TSC, and back. */
static inline uint64_t tsc_from_ns(const struct vcpu *v, uint64_t ns)
{
    return v->tsc_khz == TSC_FREQUENCY_HZ / 1000 ? ns : (uint64_t)((unsigned __int128)ns * v->tsc_khz / 1000000);
}

static inline uint64_t tsc_to_ns(const struct vcpu *v, uint64_t ticks)
{
    if (v->tsc_khz == TSC_FREQUENCY_HZ / 1000)
        return ticks;
    unsigned __int128 ns = ((unsigned __int128)ticks * 1000000 + v->tsc_khz - 1) / v->tsc_khz;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* The TSC as RDTSC reads it, and as it read or will read at guest time `ns`. */
static inline uint64_t vcpu_tsc_at(const struct vcpu *v, uint64_t ns)
{
    return tsc_from_ns(v, ns) + v->msr.tsc_adjust + v->tsc_drift;
}

static inline uint64_t vcpu_tsc(const struct vcpu *v)
{
    return vcpu_tsc_at(v, v->platform.now_ns(v->platform.opaque));
}

#endif
