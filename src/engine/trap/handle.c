/* The life of a trap.
 *
 * The registers go into the sandbox, it runs, it stops, the registers come back, and struct vcpu is the truth again.
 * Then, by what stopped it:
 *
 *   #GP, a patch, #UD, INT, ...   the instruction is one that the monitor carries out: the interpreter's C function for
 * it does what the processor would have done with the privilege that the guest pretends to have page fault, of code the
 * page is looked at, patched, mapped page fault, of data           the three kinds: missing in the shadow       the
 * guest's tables permit it: it is mapped, and the instruction done again forbidden by the guest      the C function
 * finds the same, and the guest gets its page fault ("reflected") a device, a watched page    the C function carries
 * out the access, whatever the instruction is ("emulated")
 *
 * ptrace does not say whether an access was a write. So what is missing is mapped as for a read, which is writable if
 * the guest's D bit is set; if it faults again nothing more can be mapped, and the C function does the write, which
 * sets D.
 *
 * Segments. Guest code runs with flat selectors of the host's, whatever it believes its selectors to be: reading and
 * loading segment registers is patched. CS alone begins elsewhere (code.c). FS and GS may have a base; a data segment
 * with a limit, or read-only, becomes a null selector, so that using it traps and the C function looks at the limit. CS
 * and SS must be flat for the guest.
 *
 * EFLAGS. The arithmetic flags and DF are the processor's. All others are pretended: whatever reads or writes them is
 * patched or traps.
 */
#include <signal.h>
#include <string.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "engine/events.h"
#include "engine/trap/internal.h"

#define HOST_CS32 0x23u
#define HOST_CS64 0x33u
#define HOST_DS 0x2bu
#define FLAGS_NATIVE (FLAGS_STATUS | FLAG_DF)
#define SEGV_BY_KERNEL 0x80 /* SI_KERNEL: not a page fault */
#define LOST_MAX 3u
#define BASE_END 0x7ffffffff000ull /* the host takes no bases beyond it */

/* ---- what can run directly ---- */

#define DATA_MASK (SEG_ATTR_NULL | SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_CODE | SEG_ATTR_EC | SEG_ATTR_RW)
#define DATA_PLAIN (SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_RW)

/* Reaches everywhere, for reading and writing, so that only its base matters. */
static bool data_is_plain(const struct segment *s)
{
    return s->limit == UINT32_MAX && (s->attr & DATA_MASK) == DATA_PLAIN;
}

static bool code_is_flat(const struct segment *s)
{
    return s->base == 0 && s->limit == UINT32_MAX && (s->attr & SEG_ATTR_DB) && (s->attr & SEG_ATTR_RW); /* readable */
}

bool direct_possible(const struct trap *t)
{
    const struct vcpu *v = t->v;
    if (v->tlb == &v->tlbs[TLB_NONE] || !vcpu_protected(v) || (v->cpl != 3 && !t->direct_kernel))
        return false;
    if (v->code_mode == CODE_64) /* the kernel's half of the addresses is the host's kernel's own */
        return v->cpl == 3 && v->seg[SEG_FS].base < BASE_END && v->seg[SEG_GS].base < BASE_END;
    const struct segment *ss = &v->seg[SEG_SS];
    return v->code_mode != CODE_16 && code_is_flat(&v->seg[SEG_CS]) && data_is_plain(ss) && ss->base == 0 &&
           (ss->attr & SEG_ATTR_DB);
}

/* ---- registers ---- */

static void registers_give(const struct vcpu *v, struct sandbox_regs *r)
{
    bool wide = v->code_mode == CODE_64;
    const uint64_t *g = v->regs;
    *r = (struct sandbox_regs){.rax = g[RAX],
                               .rcx = g[RCX],
                               .rdx = g[RDX],
                               .rbx = g[RBX],
                               .rsp = g[RSP],
                               .rbp = g[RBP],
                               .rsi = g[RSI],
                               .rdi = g[RDI],
                               .rip = v->rip,
                               .cs = wide ? HOST_CS64 : HOST_CS32,
                               .ss = HOST_DS,
                               .eflags = (rflags_get(v) & FLAGS_NATIVE) | FLAG_IF | FLAG_FIXED,
                               .fs_base = v->seg[SEG_FS].base,
                               .gs_base = v->seg[SEG_GS].base};
    if (wide) {
        r->r8 = g[R8], r->r9 = g[R9], r->r10 = g[R10], r->r11 = g[R11];
        r->r12 = g[R12], r->r13 = g[R13], r->r14 = g[R14], r->r15 = g[R15];
        return;
    }
    r->ds = data_is_plain(&v->seg[SEG_DS]) && v->seg[SEG_DS].base == 0 ? HOST_DS : 0;
    r->es = data_is_plain(&v->seg[SEG_ES]) && v->seg[SEG_ES].base == 0 ? HOST_DS : 0;
    r->fs = data_is_plain(&v->seg[SEG_FS]) ? HOST_DS : 0;
    r->gs = data_is_plain(&v->seg[SEG_GS]) ? HOST_DS : 0;
}

static void registers_take(struct vcpu *v, const struct sandbox_regs *r)
{
    uint64_t mask = v->code_mode == CODE_64 ? UINT64_MAX : UINT32_MAX, *g = v->regs;
    g[RAX] = r->rax & mask, g[RCX] = r->rcx & mask, g[RDX] = r->rdx & mask, g[RBX] = r->rbx & mask;
    g[RSP] = r->rsp & mask, g[RBP] = r->rbp & mask, g[RSI] = r->rsi & mask, g[RDI] = r->rdi & mask;
    if (v->code_mode == CODE_64) {
        g[R8] = r->r8, g[R9] = r->r9, g[R10] = r->r10, g[R11] = r->r11;
        g[R12] = r->r12, g[R13] = r->r13, g[R14] = r->r14, g[R15] = r->r15;
    }
    v->rip = v->next_rip = r->rip & mask;
    v->run_start = NULL;
    rflags_set(v, (rflags_get(v) & ~FLAGS_NATIVE) | ((uint32_t)r->eflags & FLAGS_NATIVE));
}

/* ---- carrying out ---- */

/* The instruction at RIP, in C. Its faults go to the engine's loop. */
static void carry_out(struct trap *t)
{
    struct vcpu *v = t->v;
    if (unlikely(v->points != NULL) && points_here(v))
        return; /* control has just come to a page that is not mapped because a debugger wants to stop in it */
    const struct insn *in = code_lookup_single(v);
    if (t->vector_owner != NULL && vector_is_used_by(in))
        vector_fetch(t);
    events_run_single(v, in);
}

/* Code of a 32-bit guest has made itself 64-bit code, by a far jump that was not found. A processor would have refused
 * it. */
static void stray(struct trap *t)
{
    struct vcpu *v = t->v;
    t->count.stray++;
    v->rip = v->next_rip = (uint32_t)v->rip;
    log_warn(v->log, "trap: code at %#lx has left the mode that it was in; it gets a general protection fault",
             (unsigned long)v->rip);
    fault_gp(v, HOST_CS64 & ~3u);
}

static bool page_is_executable(struct trap *t, const struct space *s, gva_t gva)
{
    return page_find_code(t, s, gva) != NULL;
}

static void data_fault(struct trap *t, struct space *s, gva_t gva)
{
    if (space_fill(t, s, gva)) {
        t->count.fill++;
        return;
    }
    t->emulating = true; /* if it does not come back from this, the fault is the guest's */
    carry_out(t);
    t->emulating = false;
    t->count.emulate++;
    if (t->space == s && direct_possible(t) && space_current(t) == s)
        space_fill(t, s, gva); /* D is set now, perhaps */
}

static void page_fault(struct trap *t, struct space *s, gva_t gva)
{
    struct vcpu *v = t->v;
    gva_t next = (v->rip | PAGE_OFFSET_MASK) + 1; /* an instruction may begin in one page and end in the next */
    bool spans = gva >> PAGE_SHIFT == space_code_page(s, next) && next - v->rip < INSN_MAX_BYTES;
    if (!page_is_executable(t, s, v->rip)) {
        t->count.fetch++;
        if (!space_fill_code(t, s, v->rip, true))
            carry_out(t);
    } else if (spans && !page_is_executable(t, s, next)) {
        t->count.fetch++;
        if (!space_fill_code(t, s, next, false) || !page_is_executable(t, s, v->rip))
            carry_out(t);
    } else {
        data_fault(t, s, gva);
    }
}

static void protection_fault(struct trap *t, struct space *s)
{
    gva_t rip = t->v->rip;
    const struct page *page = page_find_code(t, s, rip);
    if (page != NULL && !code_is_known(t, s, rip, page->frame)) {
        t->count.fetch++; /* it is looked at before it runs again */
        return;
    }
    if (page != NULL && code_is_patched(t, s, rip, page->frame))
        t->count.patched++;
    else
        t->count.privileged++;
    carry_out(t);
}

/* Bytes of the guest's at RIP - n. */
static bool bytes_before(struct trap *t, unsigned n, uint8_t bytes[2])
{
    gpa_t gpa;
    gva_t gva = t->v->rip - n;
    for (unsigned i = 0; i < n; i++)
        if (!mmu_peek(t->v, t->v->code_mode == CODE_64 ? gva + i : (uint32_t)(gva + i), &gpa) ||
            !memory_read(t->v->memory, gpa, &bytes[i], 1))
            return false;
    return true;
}

static void rip_back(struct vcpu *v, unsigned n)
{
    v->rip = v->code_mode == CODE_64 ? v->rip - n : (uint32_t)(v->rip - n);
    v->next_rip = v->rip;
}

/* INT 80h, SYSCALL, and, on hosts that have it in 32-bit code, SYSENTER, which forgets where it was. */
static void host_call(struct trap *t)
{
    uint8_t bytes[2];
    t->count.syscall++;
    if (!bytes_before(t, 2, bytes) ||
        !((bytes[0] == 0xcd && bytes[1] == 0x80) || (bytes[0] == 0x0f && bytes[1] == 0x05))) {
        t->count.stray++;
        fault_ud(t->v);
    }
    rip_back(t->v, 2);
    carry_out(t);
}

/* INT3 is a trap: RIP is behind it. (INT1 and INTO, too, but these are patched.) */
static void breakpoint(struct trap *t)
{
    uint8_t bytes[2];
    t->count.breakpoint++;
    if (bytes_before(t, 1, bytes) && (bytes[0] == 0xcc || bytes[0] == 0xf1))
        rip_back(t->v, 1);
    else if (bytes_before(t, 2, bytes) && bytes[0] == 0xcd && bytes[1] == 3)
        rip_back(t->v, 2);
    else
        return; /* TF, which some POPF that was not found has set: there is none for the guest */
    carry_out(t);
}

static void handle_signal(struct trap *t, struct space *s, const struct sandbox_stop *stop)
{
    switch (stop->signal) {
    case SIGSEGV:
        if (stop->code != SEGV_BY_KERNEL) {
            page_fault(t, s, stop->address);
        } else {
            protection_fault(t, s);
        }
        break;
    case SIGTRAP:
        breakpoint(t);
        break;
    case SIGSYS: /* the host's vsyscall page has answered: take it back */
        t->count.stray++;
        t->v->rip = t->v->next_rip = stop->address;
        t->v->regs[RSP] -= 8;
        carry_out(t);
        break;
    case SIGFPE:
        t->count.arithmetic++;
        carry_out(t);
        break;
    default: /* SIGILL, SIGBUS: #UD, #SS, #AC; the interpreter finds which */
        t->count.undefined++;
        carry_out(t);
    }
}

/* ---- a run ---- */

/* A sandbox was killed by the host while it had the guest's registers: they are lost. */
void registers_lost(struct trap *t)
{
    struct vcpu *v = t->v;
    log_warn(v->log, "trap: the host has ended a sandbox, and the guest's registers with it");
    struct exit exit = {.reason = EXIT_TRIPLE_FAULT, .vector = VECTOR_DF};
    v->shutdown_rip = v->rip;
    v->activity = ACTIVITY_SHUTDOWN;
    vcpu_exit(v, &exit);
}

/* Everything is mapped that was asked for, and the sandbox's registers are the guest's. */
static bool space_ready(struct trap *t, struct space *s)
{
    if (s->key.vectors != VECTORS_NONE)
        vector_give(t, s);
    if (sandbox_commit(s->box)) {
        t->lost = 0;
        return true;
    }
    if (++t->lost >= LOST_MAX) /* the host is short of memory, or kills what we make */
        space_lost(t, s);
    else
        space_empty(t, s);
    return false;
}

static bool code_is_ready(struct trap *t, struct space *s)
{
    gva_t rip = t->v->rip;
    const struct page *page = page_find_code(t, s, rip);
    if (page != NULL && code_is_known(t, s, rip, page->frame))
        return true;
    return space_fill_code(t, s, rip, true);
}

bool direct_run(struct trap *t)
{
    struct vcpu *v = t->v;
    struct space *s = space_current(t);
    if (s == NULL || !code_is_ready(t, s) || !space_ready(t, s))
        return false;
    if (v->activity != ACTIVITY_RUNNING) /* the vector state was lost on the way here */
        return true;
    if (t->last_run != s) {
        t->last_run = s;
        t->count.switches++;
    }
    struct sandbox_regs regs;
    registers_give(v, &regs);
    if (s->split)
        regs.cs = SANDBOX_CS32;
    uint64_t cs = regs.cs;
    sandboxes_run_begin(t->family, s->box);
    if (events_must_take_pending(v)) { /* after this it would have been a kick */
        sandboxes_run_end(t->family);
        return true;
    }
    t->count.resumes++;
    struct sandbox_stop stop = sandbox_run(s->box, &regs);
    sandboxes_run_end(t->family);
    if (stop.kind == SANDBOX_DEAD) {
        registers_lost(t);
        space_lost(t, s);
        return true;
    }
    if (stop.kind == SANDBOX_SYSCALL)
        regs.rax = regs.orig_rax;
    registers_take(v, &regs);
    if ((regs.cs & 0xffff) != cs)
        stray(t);
    switch (stop.kind) {
    case SANDBOX_SYSCALL:
        host_call(t);
        break;
    case SANDBOX_KICK:
        t->count.kick++;
        break;
    default:
        handle_signal(t, s, &stop);
    }
    return true;
}
