/* Faults of the host in translated code.
 *
 * The signal handler only notes the circumstances and makes the thread leave translated code as at any exit; everything else
 * is done outside of it. What a fault can be:
 *
 *   poll          vcpu.poll is 0: somebody wants the monitor's attention; the state is that of the block's start
 *   return stack  calls are nested deeper than it has room: it is emptied, the call is done again
 *   miss          the shadow table has no entry, or none that permits writing: it is filled and the instruction done
 *                 again; or the guest has a page fault; or it is a device, a write to watched memory: run in C
 *   unaligned     the block is made anew without the assumption that it was aligned; this time the instruction runs in C
 *   arithmetic    #DE, #XM: the interpreter runs the instruction and finds the same
 *   other         a non-canonical address, an unaligned operand of an SSE instruction: the interpreter finds it, too
 *
 * An instruction that keeps running in C gets a form of its own (FORM_CALL, FORM_MISS), since a signal costs much more than a
 * call.
 *
 * Source: SDM vol. 3, 6.15; sigaction(2).
 */
#include <signal.h>
#include <ucontext.h>

#include "cpu/code_cache.h"
#include "cpu/decode.h"
#include "cpu/fast.h"
#include "engine/events.h"
#include "engine/translate/internal.h"
#include "host/signals.h"
#include "mmu/shadow.h"

#define TRAP_GP 13
#define TRAP_PF 14
#define ERROR_WRITE 2u
#define MISSES_MAX 16u /* before a site looks for misses by itself */
#define REPEATS_MAX 64u /* faults of one instruction before it is run in C anyhow */
#define REFUSED_MAX 2u /* before a site becomes a call */

/* The instruction whose code `host_rip` lies in; false in the block's entries. */
static bool insn_of_host(const struct translate *t, const struct block *block, uint64_t host_rip, unsigned *index)
{
    uint64_t at = host_rip - (uintptr_t)t->execute - block->code;
    const struct map *maps = &t->maps[block->map];
    unsigned low = 0, high = block->insns;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (maps[middle].host <= at)
            low = middle;
        else
            high = middle;
    }
    *index = low;
    return at >= maps[0].host;
}

/* Where the signal's context has a host register. */
static greg_t *context_register(greg_t *regs, unsigned host)
{
    static const uint8_t place[16] = {[HAX] = REG_RAX, [HCX] = REG_RCX, [HDX] = REG_RDX, [HBX] = REG_RBX,
                                      [HSP] = REG_RSP, [HBP] = REG_RBP, [HSI] = REG_RSI, [HDI] = REG_RDI,
                                      [H8] = REG_R8,   [H9] = REG_R9,   [H10] = REG_R10, [H11] = REG_R11,
                                      [H12] = REG_R12, [H13] = REG_R13, [H14] = REG_R14, [H15] = REG_R15};
    return &regs[place[host]];
}

/* The instruction of a loop's second version that `at` lies in: its number in the unrolled turns. */
static unsigned loop_insn_of_host(const struct translate *t, const struct block *block, uint64_t at)
{
    const struct map *maps = &t->maps[block->map + block->insns];
    unsigned n = 1, count = (unsigned)block->loop_insns * block->loop_copies;
    while (n < count && maps[n].host <= at)
        n++;
    return n - 1;
}

/* In the second version of a loop: makes registers and counts those of the instruction's start (lower_loop.c). Returns
 * whether the flags are in memory. */
static bool leave_loop(struct translate *t, const struct block *block, greg_t *regs)
{
    struct vcpu *v = t->v;
    uint64_t at = t->fault.rip - (uintptr_t)t->execute - block->code;
    t->fault.place = FAULT_IN_LOOP_HEAD;
    if (at < block->loop_saved)
        return false;
    bool turns = at >= block->loop_body;
    if (turns) {
        unsigned n = loop_insn_of_host(t, block, at);
        t->fault.place = FAULT_IN_LOOP;
        t->fault.loop_index = n % block->loop_insns;
        if (t->counted) /* C is what the head has taken and is not used */
            v->translated.left -= (uint64_t)*context_register(regs, block->borrowed[0]) + n;
    }
    for (unsigned i = 0; i < block->loop_borrowed; i++)
        *context_register(regs, block->borrowed[i]) = (greg_t)v->translated.loop_saved[i];
    return !turns;
}

static bool on_fault(void *opaque, int signal, siginfo_t *info, ucontext_t *context)
{
    struct translate *t = opaque;
    greg_t *regs = context->uc_mcontext.gregs;
    uint64_t rip = (uint64_t)regs[REG_RIP];
    const struct block *block = block_of_host(t, rip);
    if (block == NULL)
        return false;
    t->fault.rip = rip;
    t->fault.address = (uintptr_t)info->si_addr;
    t->fault.error = (uint32_t)regs[REG_ERR];
    t->fault.trap = (uint8_t)regs[REG_TRAPNO];
    t->fault.signal = (uint8_t)signal;
    t->fault.place = FAULT_IN_BLOCK;
    unsigned index;
    bool status;
    if (block->loop != 0 && rip - (uintptr_t)t->execute - block->code >= block->loop)
        status = leave_loop(t, block, regs);
    else
        status = insn_of_host(t, block, rip, &index) && (t->maps[block->map + index].flags & MAP_STATUS);
    unsigned narrow = t->key & KEY_NARROW ? 1 : 0;
    t->v->translated.exit = EXIT_FAULTED;
    regs[REG_RIP] = (greg_t)((uintptr_t)t->execute + (status ? t->at.leave_status : t->at.leave)[narrow]);
    return true;
}

bool fault_attach(struct translate *t, struct error *err)
{
    return host_signals_add(t->execute, CACHE_SIZE, on_fault, t, err);
}

void fault_detach(struct translate *t)
{
    if (t->execute != NULL)
        host_signals_remove(t->execute);
}

/* ---- what to do ---- */

static uint64_t host_register(const struct vcpu *v, unsigned host)
{
    switch (host) {
    case S: return v->translated.s;
    case H_GUEST_RCX: return v->regs[RCX];
    case H_GUEST_RSP: return v->regs[RSP];
    default: return v->regs[host];
    }
}

/* The linear address that was accessed. */
static uint64_t accessed(struct translate *t, const struct map *map, bool write)
{
    struct vcpu *v = t->v;
    if (map->address != H_NONE)
        return host_register(v, map->address);
    const struct insn *in = code_lookup_single(v);
    unsigned size = map->size;
    bool pushes = in->row == ROW_PUSH || in->row == ROW_CALL || in->row == ROW_PUSHF || in->row == ROW_PUSHFD ||
                  in->row == ROW_PUSHFQ;
    if (pushes && (write || in->op_kind[0] != OPERAND_MEM))
        return in->mode == CODE_64 ? v->regs[RSP] - size : (uint32_t)(v->regs[RSP] - size);
    return ea_linear(v, in, size, write);
}

static bool in_return_guard(const struct translate *t)
{
    for (unsigned i = 0; i < 2; i++)
        if (t->fault.address - ((uintptr_t)t->returns[i].low - PAGE_SIZE) < PAGE_SIZE)
            return true;
    return false;
}

static uint64_t run_in_c(struct translate *t, const struct block *block, unsigned index, bool may_go_on)
{
    struct vcpu *v = t->v;
    const struct insn *in = code_lookup_single(v);
    uint64_t next = rip_cut(in, v->rip + in->len);
    events_run_single(v, in);
    if (!may_go_on || index + 1 >= block->insns)
        return 0;
    return resume_at(t, block, next, block->code + t->maps[block->map + index + 1].host);
}

static void reform(struct translate *t, struct block *block, const struct map *map, uint8_t form)
{
    form_of(t, block->piece, map->off, true)->form |= form;
    t->counters.reforms++;
    block_kill(t, block);
}

/* Reading the table faulted. The place says for which page, of the two that an instruction may access; whether it is for a
 * write will be known when the access itself faults. */
static bool touch_table(struct translate *t)
{
    uint64_t page = (t->fault.address - t->v->translated.gs_base) / sizeof(uint64_t);
    if (t->key & KEY_NARROW)
        return page >> 20 == 0 && shadow_touch(t->v, page << PAGE_SHIFT);
    return page >> 36 == 0 && shadow_touch(t->v, (uint64_t)((int64_t)(page << (PAGE_SHIFT + 16)) >> 16));
}

/* An instruction that faults again and again at once: what it needs for one access may cost it what it needs for another. */
static bool is_stuck(struct translate *t)
{
    const uint64_t rip = t->v->rip;
    t->fault.repeats = rip == t->fault.last_rip ? t->fault.repeats + 1 : 0;
    t->fault.last_rip = rip;
    return t->fault.repeats % REPEATS_MAX == REPEATS_MAX - 1;
}

static uint64_t handle_miss(struct translate *t, struct block *block, unsigned index, const struct map *map)
{
    struct vcpu *v = t->v;
    bool write = t->fault.trap == TRAP_PF && (t->fault.error & ERROR_WRITE);
    uint64_t gva = accessed(t, map, write);
    struct form *form = form_of(t, block->piece, map->off, true);
    if (shadow_is_table(v, t->fault.address))
        return touch_table(t) ? resume_at(t, block, v->rip, block->code + map->host) : run_in_c(t, block, index, true);
    if (shadow_fault(v, gva, write)) {
        t->counters.fault_miss++;
        /* Poison in a block that does not look for it, though the instruction is known for it: an older block. */
        bool poison = shadow_owns(v, t->fault.address) && map->size != 0;
        form->misses += form->misses < MISSES_MAX;
        if (poison && form->misses == MISSES_MAX)
            reform(t, block, map, FORM_MISS);
        return block->dead ? 0 : resume_at(t, block, v->rip, block->code + map->host);
    }
    t->counters.fault_write++;
    form->refused += form->refused < REFUSED_MAX;
    if (form->refused == REFUSED_MAX)
        reform(t, block, map, FORM_CALL);
    return run_in_c(t, block, index, true);
}

/* A fault in the second version of a loop: at its head it was the poll, or a part of the table that nobody has read yet; in
 * its turns whatever it was happens again, in the interpreter. */
static uint64_t handle_loop(struct translate *t, const struct block *block)
{
    struct vcpu *v = t->v;
    bool turns = t->fault.place == FAULT_IN_LOOP;
    const struct map *map = &t->maps[block->map + (turns ? t->fault.loop_index : 0)];
    v->rip = (block_rip(t, block) & ~PAGE_OFFSET_MASK) | map->off;
    v->run_start = NULL;
    if (t->counted)
        v->instructions = t->until - v->translated.left;
    t->counters.fault_poll += !turns;
    t->counters.fault_other += turns;
    t->interpret_one = turns;
    return 0;
}

uint64_t fault_handle(struct translate *t)
{
    struct vcpu *v = t->v;
    struct block *block = block_of_host(t, t->fault.rip);
    if (t->fault.place != FAULT_IN_BLOCK)
        return handle_loop(t, block);
    unsigned index;
    bool in_body = insn_of_host(t, block, t->fault.rip, &index);
    const struct map *map = &t->maps[block->map + index];
    v->rip = (block_rip(t, block) & ~PAGE_OFFSET_MASK) | map->off;
    v->run_start = NULL;
    if (!in_body) {
        t->counters.fault_poll++;
        if (t->counted)
            v->instructions = t->until - v->translated.left;
        return 0;
    }
    count_sync(t, block, index);
    bool unaligned = t->fault.signal == SIGSEGV && (map->flags & MAP_ALIGN) &&
                     (accessed(t, map, false) & (map->size - 1u)) != 0;
    if (t->fault.signal == SIGSEGV && t->fault.trap == TRAP_PF && in_return_guard(t) && !unaligned) {
        returns_reset(t);
        return resume_at(t, block, v->rip, block->code + map->host);
    }
    if (verify_stops_here(t)) {
        t->interpret_one = true;
        return 0;
    }
    if (unaligned) {
        t->counters.fault_unaligned++;
        reform(t, block, map, FORM_UNALIGNED);
        return run_in_c(t, block, index, false);
    }
    /* Alignment comes before translation; the host found the page first. */
    if ((map->flags & MAP_ALIGNED) && (accessed(t, map, false) & (map->size - 1u)) != 0)
        return run_in_c(t, block, index, true);
    if (t->fault.signal == SIGSEGV && t->fault.trap == TRAP_PF && !is_stuck(t))
        return handle_miss(t, block, index, map);
    if (t->fault.signal == SIGFPE)
        t->counters.fault_arithmetic++;
    else
        t->counters.fault_other++;
    return run_in_c(t, block, index, true);
}
