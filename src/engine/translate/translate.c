/* The translating engine's loop: translated code where there is some, else the interpreter.
 *
 * Translated code runs until an exit. Most exits are the way to a block that does not exist yet or is not linked yet; the loop
 * finds or makes it, links the exit, and enters it. What is not warm, not translatable (16-bit code, code segments that do
 * not begin at 0, a stack pointer that is not aligned, alignment checking) or needs care (engine/events.h) is interpreted.
 *
 * Counting. When run() gets a count to stop at, blocks are made that count their instructions when they are entered and leave
 * when there are not enough left; the last ones are interpreted. So the stop is exact, and a run repeatable.
 */
#include "engine/interpret/interpret.h"

#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/fast.h"
#include "cpu/host_exec.h"
#include "engine/door.h"
#include "engine/events.h"
#include "engine/translate/internal.h"
#include "host/clock.h"
#include "host/signals.h"
#include "mmu/shadow.h"

#define HWCAP2_FSGSBASE_BIT 2u

static bool usable(struct error *why_not)
{
    unsigned a, b = 0, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_BMI2))
        return error_set(why_not, "this processor has no BMI2 instructions (PEXT, SHLX, RORX)");
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT))
        return error_set(why_not, "the host's kernel does not let programs write the GS base (FSGSBASE: Linux 5.9 or later)");
    return shadow_usable(why_not);
}

/* ---- attaching ---- */

static bool cache_create(struct translate *t, struct error *err)
{
    t->fd = memfd_create("ring3-code", MFD_CLOEXEC);
    if (t->fd < 0 || ftruncate(t->fd, CACHE_SIZE) != 0)
        return error_set(err, "no memory for translated code: %m");
    t->write = mmap(NULL, CACHE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
    t->execute = mmap(NULL, CACHE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, t->fd, 0);
    if (t->write == MAP_FAILED || t->execute == MAP_FAILED) {
        t->write = t->write == MAP_FAILED ? NULL : t->write;
        t->execute = t->execute == MAP_FAILED ? NULL : t->execute;
        return error_set(err, "the host does not permit executable memory for translated code: %m");
    }
    trampolines_emit(t);
    return true;
}

static void translate_destroy(struct translate *t)
{
    fault_detach(t);
    verify_destroy(t);
    blocks_destroy(t);
    if (t->write != NULL)
        munmap(t->write, CACHE_SIZE);
    if (t->execute != NULL)
        munmap(t->execute, CACHE_SIZE);
    if (t->fd >= 0)
        close(t->fd);
    free(t);
}

static void detach(struct vcpu *v)
{
    struct translate *t = translate_of(v);
    if (t != NULL)
        translate_destroy(t);
    v->engine_opaque = NULL;
    v->code_written = NULL;
    shadow_destroy(v);
    engine_interpret.detach(v);
}

static bool attach(struct vcpu *v, struct error *err)
{
    if (!engine_interpret.attach(v, err))
        return false;
    struct translate *t = calloc(1, sizeof *t);
    check(t != NULL);
    t->v = v;
    t->fd = -1;
    t->entered = -1;
    t->have_avx = __builtin_cpu_supports("avx");
    v->engine_opaque = t;
    v->translated = (struct vcpu_translated){
        .aligned_mask = {0x80007ffffffff800ull, 0xc0003ffffffffc00ull, 0xe0001ffffffffe00ull},
        .low_mask = {15, 31}, .sign_mask = 1ull << 63, .rsp_mask = {7, 3}, .sse_missing = 1, .avx_missing = 1, .x87_missing = 1};
    v->poll = (uintptr_t)&v->poll;
    if (!shadow_create(v, v->shadow_policy, err) || !cache_create(t, err) || !blocks_create(t, err) ||
        !fault_attach(t, err) ||
        (v->verify_every != 0 && !verify_create(t, err))) {
        detach(v);
        return false;
    }
    t->fetch = shadow_fetch_slots(v);
    v->code_written = blocks_written;
    blocks_flush(t);
    return true;
}

/* ---- running ---- */

/* While translated code runs, RSP is not a stack that a signal handler could use: the thread's signals go elsewhere, and
 * those of faults have a stack of their own. */
static void signals_begin(struct translate *t)
{
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    pthread_sigmask(SIG_BLOCK, &set, &t->signals_before);
    const stack_t stack = {.ss_sp = t->signal_stack, .ss_size = SIGNAL_STACK_SIZE};
    check(sigaltstack(&stack, &t->stack_before) == 0);
}

static void signals_end(struct translate *t)
{
    check(sigaltstack(&t->stack_before, NULL) == 0);
    pthread_sigmask(SIG_SETMASK, &t->signals_before, NULL);
}

static void interpret_some(struct vcpu *v, uint64_t until)
{
    if (until - v->instructions <= EVENTS_RUN_MAX) {
        events_run_single(v, code_lookup_single(v));
        return;
    }
    const struct insn *in = code_lookup(v);
    v->run_start = in;
    do {
        v->in = in;
        in = in->fn(v, in);
    } while (in != NULL);
    v->link = NULL;
}

bool segments_translatable(const struct vcpu *v)
{
    if (likely(v->flat))
        return true;
    const struct segment *cs = &v->seg[SEG_CS];
    bool protected = (v->cr0 & CR0_PE) && !vcpu_v86(v);
    return v->code_mode == CODE_32 && protected && v->stack_big && cs->base == 0 && cs->limit == 0xffffffff;
}

bool translate_possible(const struct vcpu *v)
{
    return !(v->direct_user && v->cpl == 3) && segments_translatable(v) && v->tlb != &v->tlbs[TLB_NONE] &&
           (v->regs[RSP] & (v->code_mode == CODE_64 ? 7 : 3)) == 0;
}

void mode_update(struct translate *t)
{
    t->key = translate_key(t->v);
    unsigned table = t->key & KEY_TABLE;
    if (t->jumps[table].key != t->key) {
        t->jumps[table].key = t->key;
        jumps_reset(t, table);
        returns_reset(t);
    }
    returns_for_key(t);
    uint64_t epoch = mapping_epoch(t);
    if (epoch != t->epoch) {
        t->epoch = epoch;
        returns_reset(t);
    }
}

/* Connects the exit by which translated code was left with the block that follows. */
static void connect(struct translate *t, struct block *block)
{
    if (t->from_exit != 0)
        exit_link(t, &t->exits[t->from_exit - 1], block);
    if (t->from_jump)
        jumps_enter(t, t->v->rip, block);
    t->from_exit = 0;
    t->from_jump = false;
}

static void forget_origin(struct translate *t)
{
    t->from_exit = 0;
    t->from_jump = false;
}

/* The block's instruction ends in a piece that may be another one now. */
static void second_refresh(struct translate *t, const struct exit_site *exit)
{
    struct block *block = &t->blocks[exit->block];
    const struct piece *piece = piece_get(t, block->piece), *second = piece_following(t, piece);
    if (second != NULL && second->id == block->second)
        return;
    block_kill(t, block);
    t->interpret_one = true; /* which raises what there is to raise */
}

/* After translated code has left through an exit site. */
static void take_exit(struct translate *t, uint32_t number)
{
    struct vcpu *v = t->v;
    const struct exit_site *exit = &t->exits[number];
    v->rip = exit->rip;
    if (t->counted)
        v->instructions = t->until - v->translated.left;
    switch (exit->kind) {
    case EXIT_DIRECT:
        t->from_exit = number + 1;
        break;
    case EXIT_SECOND: /* if it is not known, the next attempt finds it in its place, or another block is made */
        second_refresh(t, exit);
        break;
    case EXIT_INTERPRET:
    case EXIT_COUNT:
        t->counters.interpreted_exits++;
        t->interpret_one = true;
        t->from_jump = exit->kind == EXIT_INTERPRET;
        break;
    case EXIT_COLD_LOOP: {
        struct block *block = &t->blocks[exit->block];
        form_of(t, block->piece, block->off, true)->form |= FORM_NO_LOOP;
        block_kill(t, block);
        break;
    }
    default: break;
    }
}

static void returns_save(struct translate *t)
{
    if (t->entered >= 0)
        t->returns[t->entered].rsp = t->v->translated.return_rsp;
    t->entered = -1;
}

static uint64_t handle_fault(struct translate *t)
{
    if (likely(t->v->watch == NULL))
        return fault_handle(t);
    uint64_t begin_ns = clock_monotonic_ns();
    uint64_t resume = fault_handle(t);
    t->counters.fault_ns += clock_monotonic_ns() - begin_ns;
    return resume;
}

/* Runs translated code from `resume` on, and puts right what it leaves for. */
static void run_translated(struct translate *t, uint64_t resume)
{
    struct vcpu *v = t->v;
    while (resume != 0) {
        t->counters.enters++;
        translated_enter(t, resume);
        x87_complete(t);
        resume = 0;
        switch ((uint32_t)v->translated.exit) {
        case EXIT_FAULTED: resume = handle_fault(t); break;
        case EXIT_RETURNED: break;
        case EXIT_UNDERFLOW:
            v->rip = v->translated.s;
            if (t->counted)
                v->instructions = t->until - v->translated.left;
            t->from_jump = true;
            break;
        default:
            returns_save(t);
            take_exit(t, (uint32_t)v->translated.exit);
        }
    }
    returns_save(t);
}

/* False: interpret. */
static bool run_block(struct translate *t)
{
    struct vcpu *v = t->v;
    if (!translate_possible(v))
        return false;
    mode_update(t);
    struct block *block = block_current(t);
    if (block == NULL)
        return false;
    uint64_t resume = (uintptr_t)t->execute + block->code + block->near;
    resume = resume_with_registers(t, block, resume);
    if (resume == 0)
        return false;
    connect(t, block);
    segments_update(t);
    if (t->verify != NULL)
        verify_begin(t, block);
    v->translated.left = t->until - v->instructions;
    t->entered = t->key & KEY_USER;
    v->translated.return_rsp = t->returns[t->entered].rsp;
    t->interpret_one = false;
    run_translated(t, resume);
    if (t->verify != NULL)
        verify_end(t);
    if (t->interpret_one && v->instructions < t->until)
        events_run_single(v, code_lookup_single(v));
    return true;
}

static void run(struct vcpu *v, uint64_t until)
{
    if (v->single) { /* a debugger's step: not worth forgetting all blocks for */
        engine_interpret.run(v, until);
        return;
    }
    struct translate *t = translate_of(v);
    bool counted = until != UINT64_MAX || t->verify != NULL;
    if (t->counted != counted) {
        t->counted = counted;
        blocks_flush(t);
    }
    v->instructions_partial |= !counted;
    t->until = until < INT64_MAX ? until : INT64_MAX; /* what is left of it has a sign */
    v->translated.gs_base = 1; /* another thread's, or another vCPU's: never a table */
    signals_begin(t);
    jmp_buf unwind;
    v->unwind = &unwind;
    if (setjmp(unwind) != 0) {
        t = translate_of(v);
        verify_unwound(t);
        returns_save(t);
        events_unwind(v);
        events_deliver_fault(v);
        forget_origin(t);
    }
    while (v->instructions < until) {
        /* Pairs with vcpu_raise(), see the interpreter. */
        __atomic_store_n(&v->instructions_stop, until, __ATOMIC_SEQ_CST);
        __atomic_store_n(&v->poll, (uintptr_t)&v->poll, __ATOMIC_SEQ_CST);
        if (unlikely(events_must_take_pending(v) || v->activity != ACTIVITY_RUNNING)) {
            forget_origin(t);
            if (!events_take_pending(v))
                break;
        }
        if (unlikely(v->direct_user && v->cpl == 3 && vcpu_protected(v) && v->activity == ACTIVITY_RUNNING)) {
            forget_origin(t);
            break;
        }
        if (unlikely(events_need_care(v))) {
            forget_origin(t);
            events_step_with_care(v);
        } else if (!run_block(t)) {
            forget_origin(t);
            interpret_some(v, until);
        }
    }
    v->unwind = NULL;
    signals_end(t);
}

static void stats(const struct vcpu *v, struct stats *stats)
{
    const struct translate *t = translate_of(v);
    const struct translate_counters *c = &t->counters;
    stats->translate = (struct stats_translate){
        .present = true,
        .blocks = c->blocks,
        .instructions = c->instructions,
        .guest_bytes = c->guest_bytes,
        .host_bytes = c->host_bytes,
        .translate_ns = c->translate_ns,
        .fault_ns = c->fault_ns,
        .cache_bytes = t->used,
        .flushes = c->flushes,
        .invalidations = c->invalidations,
        .reforms = c->reforms,
        .enters = c->enters,
        .helper_calls = c->helper_calls,
        .links = c->links,
        .loops = c->loops,
        .faults = {.miss = c->fault_miss,
                   .write = c->fault_write,
                   .unaligned = c->fault_unaligned,
                   .poll = c->fault_poll,
                   .arithmetic = c->fault_arithmetic,
                   .other = c->fault_other},
    };
    memcpy(stats->calls, c->calls, sizeof stats->calls);
    const struct shadow_counters *s = shadow_counters(v);
    stats->shadow = (struct stats_shadow){
        .policy = shadow_policy_name(v->shadow_policy),
        .fills = s->fills,
        .prefills = s->prefills,
        .flushes = s->flushes,
        .page_flushes = s->page_flushes,
        .switches = s->switches,
        .switches_kept = s->switches_kept,
        .entries_restored = s->entries_restored,
        .islands = s->islands,
        .evictions = s->evictions,
        .entries_reread = s->entries_reread,
        .bytes = shadow_bytes(v),
    };
}

const struct engine engine_translate = {
    .name = "translate",
    .summary = "binary translation: guest code becomes host code, block by block; needs BMI2 and Linux 5.9",
    .verifies = true,
    .several = true,
    .usable = usable,
    .attach = attach,
    .detach = detach,
    .run = run,
    .stats = stats,
    .code = translate_code,
};
