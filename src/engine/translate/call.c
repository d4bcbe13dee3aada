/* Instructions of translated code that run in C, and the way back into it.
 *
 * The registers are in struct vcpu meanwhile, as the interpreter has them. Translated code is resumed only if nothing has
 * happened that the engine's loop must look at: control goes where it was expected to, the mode is the same, the block has
 * not been written, nothing is pending, no mapping has changed.
 */
#include "cpu/fast.h"
#include "cpu/host_stub.h"
#include "engine/events.h"
#include "engine/translate/internal.h"
#include "mmu/shadow.h"

uint64_t mapping_epoch(const struct translate *t)
{
    const struct shadow_counters *c = shadow_counters(t->v);
    return c->flushes + c->page_flushes + c->switches;
}

/* A data segment that reaches everywhere, so that only its base matters. */
static bool segment_is_plain(const struct segment *s)
{
    const uint32_t mask = SEG_ATTR_NULL | SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_CODE | SEG_ATTR_EC | SEG_ATTR_RW;
    return s->limit == 0xffffffff && (s->attr & mask) == (SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_RW);
}

static void limits_update(struct vcpu *v)
{
    if (v->code_mode == CODE_64)
        return;
    v->translated.segment_limited[SEG_FS] = !segment_is_plain(&v->seg[SEG_FS]);
    v->translated.segment_limited[SEG_GS] = !segment_is_plain(&v->seg[SEG_GS]);
    if (v->flat)
        return;
    v->translated.segment_limited[SEG_ES] = !segment_is_plain(&v->seg[SEG_ES]);
    v->translated.segment_limited[SEG_SS] = !segment_is_plain(&v->seg[SEG_SS]);
    v->translated.segment_limited[SEG_DS] = !segment_is_plain(&v->seg[SEG_DS]);
}

void segments_update(struct translate *t)
{
    struct vcpu *v = t->v;
    limits_update(v);
    uint64_t base = shadow_base(v);
    if (base == v->translated.gs_base)
        return;
    v->translated.gs_base = base;
    __asm__ volatile("wrgsbase %0" : : "r"(base) : "memory");
}

static bool vectors_allowed(struct translate *t, bool avx)
{
    struct vcpu *v = t->v;
    bool sse = !(v->cr0 & (CR0_EM | CR0_TS)) && (v->cr4 & CR4_OSFXSR) && !(v->fpu.mxcsr & MXCSR_MM);
    bool wide = !(v->cr0 & CR0_TS) && (v->cr4 & CR4_OSXSAVE) && (v->xcr0 & 6) == 6 && t->have_avx;
    if (!sse || (avx && !wide))
        return false;
    v->translated.sse_missing = 0;
    v->translated.avx_missing = !wide;
    return true;
}

static void x87_begin(struct translate *t)
{
    struct vcpu *v = t->v;
    const struct x87_image *x87 = fpu_x87(&v->fpu);
    t->x87_loaded = true;
    t->x87_ip = x87->fip;
    t->x87_dp = x87->fdp;
    t->x87_op = x87->fop;
    v->translated.x87_missing = 0;
    v->translated.x87_last = v->translated.x87_data_site = 0;
}

void x87_complete(struct translate *t)
{
    struct vcpu *v = t->v;
    if (!t->x87_loaded)
        return;
    t->x87_loaded = false;
    struct x87_image *x87 = fpu_x87(&v->fpu);
    x87->fip = t->x87_ip;
    x87->fdp = t->x87_dp;
    x87->fop = t->x87_op;
    bool selectors = v->host_exec->keeps_selectors;
    if (v->translated.x87_last != 0) {
        const struct call_site *site = &t->sites[v->translated.x87_last - 1];
        const struct insn *in = &site->in[0];
        x87->fip = (block_rip(t, &t->blocks[site->block]) & ~PAGE_OFFSET_MASK) + in->off;
        x87->fop = (uint16_t)((in->opcode & 7) << 8 | in->modrm);
        v->fpu.x87_cs = selectors ? v->seg[SEG_CS].selector : 0;
    }
    if (v->translated.x87_data_site != 0) {
        const struct insn *in = &t->sites[v->translated.x87_data_site - 1].in[0];
        x87->fdp = v->translated.x87_data;
        v->fpu.x87_ds = selectors ? v->seg[in->seg].selector : 0;
    }
}

uint64_t resume_with_registers(struct translate *t, const struct block *block, uint64_t resume)
{
    struct vcpu *v = t->v;
    if (block->x87) {
        if (v->cr0 & (CR0_EM | CR0_TS))
            return 0;
        x87_begin(t);
        resume |= RESUME_X87;
        if (vectors_allowed(t, false)) /* or the next block that needs them would have all saved and loaded again */
            resume |= RESUME_VECTORS;
    }
    if (block->vector) {
        if (!vectors_allowed(t, block->avx)) {
            v->translated.x87_missing = 1;
            t->x87_loaded = false;
            return 0;
        }
        resume |= RESUME_VECTORS;
    }
    return resume;
}

void count_sync(struct translate *t, const struct block *block, unsigned index)
{
    if (t->counted)
        t->v->instructions = t->until - t->v->translated.left - (block->insns - index);
}

/* Lets vcpu_raise() stop translated code again. What is raised from here on is seen there; what was raised before, in
 * `pending`, which is to be looked at afterwards. */
static void poll_arm(struct vcpu *v)
{
    if (unlikely(v->poll == 0))
        __atomic_store_n(&v->poll, (uintptr_t)&v->poll, __ATOMIC_SEQ_CST);
}

static bool rsp_is_aligned(const struct translate *t)
{
    return (t->v->regs[RSP] & (t->key & KEY_NARROW ? 3 : 7)) == 0;
}

static bool may_resume(struct translate *t, const struct block *block, uint64_t rip)
{
    struct vcpu *v = t->v;
    poll_arm(v);
    return v->rip == rip && !block->dead && v->activity == ACTIVITY_RUNNING && !events_need_care(v) &&
           !events_must_take_pending(v) && segments_translatable(v) && v->tlb != &v->tlbs[TLB_NONE] && translate_key(v) == t->key &&
           rsp_is_aligned(t) && t->epoch == mapping_epoch(t) && t->code_generation == v->code_generation &&
           v->memory_generation == memory_generation(v->memory);
}

uint64_t resume_at(struct translate *t, const struct block *block, uint64_t rip, uint32_t host)
{
    uint64_t resume = (uintptr_t)t->execute + host;
    if (!may_resume(t, block, rip))
        return 0;
    segments_update(t);
    return resume_with_registers(t, block, resume);
}

/* The block at CS:RIP. System calls and their returns go to the same place again and again: the call site remembers it, and
 * the fetch slot tells whether it is still there. */
static struct block *target_block(struct translate *t, struct call_site *site)
{
    uint64_t rip = t->v->rip;
    if (site->to != 0 && site->to_rip == rip && site->to_key == t->key && t->code_generation == t->v->code_generation) {
        struct block *block = &t->blocks[site->to - 1];
        if (!block->dead && (uint32_t)t->fetch[(rip >> PAGE_SHIFT) % SHADOW_FETCH_SLOTS] == block->piece)
            return block;
    }
    uint64_t flushes = t->counters.flushes;
    struct block *block = block_current(t);
    if (block != NULL && flushes == t->counters.flushes) { /* or the site is gone */
        site->to = block_number(t, block) + 1;
        site->to_rip = rip;
        site->to_key = t->key;
    }
    return block;
}

/* After an instruction in C that went somewhere else: straight on into the block there, as the engine's loop would do when
 * nothing is to be looked at. */
static uint64_t resume_elsewhere(struct translate *t, struct call_site *site)
{
    struct vcpu *v = t->v;
    uint8_t narrow = t->key & KEY_NARROW;
    poll_arm(v);
    if (t->verify != NULL || v->activity != ACTIVITY_RUNNING || events_need_care(v) || events_must_take_pending(v) ||
        !translate_possible(v) || v->memory_generation != memory_generation(v->memory))
        return 0;
    if (t->counted && v->instructions >= t->until)
        return 0;
    t->returns[t->entered].rsp = v->translated.return_rsp;
    uint8_t key = t->key;
    mode_update(t);
    struct block *block = (t->key & KEY_NARROW) == narrow ? target_block(t, site) : NULL;
    uint64_t resume = 0;
    if (block != NULL)
        resume = resume_with_registers(t, block, (uintptr_t)t->execute + block->code + block->near);
    if (resume == 0) {
        t->key = key;
        return 0;
    }
    segments_update(t);
    v->translated.left = t->until - v->instructions;
    t->entered = t->key & KEY_USER;
    v->translated.return_rsp = t->returns[t->entered].rsp;
    return resume;
}

/* Whether code goes on with segments of the kind that it has been translated for. */
static bool segments_kept(const struct translate *t)
{
    return t->key & KEY_SEGMENTS ? t->v->code_mode == CODE_32 && segments_translatable(t->v) : t->v->flat;
}

uint64_t translate_call(struct vcpu *v, uint64_t number)
{
    struct translate *t = translate_of(v);
    struct call_site *site = &t->sites[number];
    const struct block *block = &t->blocks[site->block];
    const struct insn *in = &site->in[0];
    x87_complete(t);
    t->counters.helper_calls++;
    t->counters.calls[in->row]++;
    count_sync(t, block, site->index);
    v->regs[GPR_PAGE] = block_rip(t, block) & ~PAGE_OFFSET_MASK;
    v->rip = v->regs[GPR_PAGE] + in->off;
    uint64_t next = rip_cut(in, v->rip + in->len);
    if (verify_stops_here(t)) {
        t->interpret_one = true;
        v->translated.exit = EXIT_RETURNED;
        return 0;
    }
    if (unlikely(v->instructions_stop != UINT64_MAX)) { /* as a poll, for long string instructions */
        __atomic_store_n(&v->instructions_stop, UINT64_MAX, __ATOMIC_SEQ_CST);
        if (events_must_take_pending(v))
            v->instructions_stop = 0;
    }
    events_run_single(v, in);
    if (site->kind != CALL_ANY && v->rip == next && v->poll != 0 && !block->dead && segments_kept(t) && rsp_is_aligned(t)) {
        if (site->kind == CALL_SEGMENT)
            limits_update(v);
        return resume_with_registers(t, block, (uintptr_t)t->execute + site->resume);
    }
    uint64_t resume = site->resume != 0 ? resume_at(t, block, next, site->resume) : 0;
    if (resume == 0 && v->rip != next)
        resume = resume_elsewhere(t, site);
    if (resume == 0)
        v->translated.exit = EXIT_RETURNED;
    return resume;
}
