/* --verify: translated code against the interpreter, block by block, from the same state.
 *
 * Before a block is entered the interpreter executes as many instructions as the block has, and remembers the registers
 * after each; what it writes to memory is noted and undone. It rehearses: at whatever could not be undone, or is not the same
 * twice (a fault, a device, a write to watched memory, a system instruction), it stops. Then the translated block runs, with
 * instructions counted, so that it stops by itself after as many; links, jump caches and the return stack work as always.
 * However many it has executed, registers and the memory that the interpreter has written must be the same.
 *
 * While verifying, instructions that are calls of C functions are not part of blocks: they are the interpreter's own code.
 *
 * Undefined flags are what the host's processor makes of them in both cases; the interpreter runs the same instructions.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "cpu/code_cache.h"
#include "cpu/decode.h"
#include "cpu/fast.h"
#include "engine/events.h"
#include "engine/translate/internal.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define WRITES_MAX 8192u
#define X87_USED 160u /* of the image: control words and registers */

/* What an instruction may change. */
struct snapshot {
    uint64_t regs[16], rip;
    uint16_t status;
    uint32_t rflags_rest;
    uint8_t ymm[16][32];
    uint32_t mxcsr;
    uint8_t x87[X87_USED];
};

struct write {
    uint8_t *hva;
    uint8_t size, step;
    uint8_t before[32], after[32];
};

struct verify {
    struct snapshot steps[BLOCK_INSNS_MAX + 1]; /* [n]: after n instructions */
    unsigned rehearsed;  /* so many of them */
    bool active;
    unsigned step;       /* being rehearsed */
    struct write writes[WRITES_MAX];
    unsigned write_count;
    jmp_buf stop;
    uint64_t instructions, until; /* to be put back */
    uint64_t verified, blocks;
    unsigned countdown;
    struct insn single[2];
};

bool verify_create(struct translate *t, struct error *err)
{
    t->verify = calloc(1, sizeof *t->verify);
    return t->verify != NULL || error_set(err, "out of memory");
}

void verify_destroy(struct translate *t)
{
    free(t->verify);
    t->verify = NULL;
}

static void take(const struct vcpu *v, struct snapshot *s)
{
    memcpy(s->regs, v->regs, sizeof s->regs);
    s->rip = v->rip;
    s->status = v->status & (STATUS_OF | STATUS_CF | STATUS_PF | STATUS_AF | STATUS_ZF | STATUS_SF);
    s->rflags_rest = v->rflags_rest;
    memcpy(s->ymm, v->fpu.ymm, sizeof s->ymm);
    s->mxcsr = v->fpu.mxcsr;
    memcpy(s->x87, v->fpu.x87, sizeof s->x87);
}

static void put_back(struct vcpu *v, const struct snapshot *s)
{
    memcpy(v->regs, s->regs, sizeof s->regs);
    v->rip = s->rip;
    v->status = s->status;
    v->rflags_rest = s->rflags_rest;
    memcpy(v->fpu.ymm, s->ymm, sizeof s->ymm);
    v->fpu.mxcsr = s->mxcsr;
    memcpy(v->fpu.x87, s->x87, sizeof s->x87);
}

/* ---- the rehearsal ---- */

static void on_effect(struct vcpu *v, uint8_t *hva, unsigned size)
{
    struct verify *verify = translate_of(v)->verify;
    if (hva == NULL || size > sizeof verify->writes[0].before || verify->write_count == WRITES_MAX)
        longjmp(verify->stop, 1);
    struct write *w = &verify->writes[verify->write_count++];
    *w = (struct write){.hva = hva, .size = (uint8_t)size, .step = (uint8_t)verify->step};
    memcpy(w->before, hva, size);
}

/* The same twice, and with no effect but on registers and RAM. */
static bool is_repeatable(const struct insn *in)
{
    if (in->row == ROW_NONE || in->row == ROW_PAUSE)
        return false;
    if (in->flags & (INSN_REP | INSN_REPNE))
        return false;
    return insn_rows[in->row].how != HOW_SLOW && in->fn != run_slow && in->fn != run_slow_continue;
}

static void note_after(struct verify *verify)
{
    for (unsigned i = verify->write_count; i-- > 0 && verify->writes[i].step == verify->step;)
        memcpy(verify->writes[i].after, verify->writes[i].hva, verify->writes[i].size);
}

static void rehearse(struct translate *t, unsigned count)
{
    struct vcpu *v = t->v;
    struct verify *verify = t->verify;
    for (verify->step = 0; verify->step < count; verify->step++) {
        take(v, &verify->steps[verify->step]);
        verify->rehearsed = verify->step;
        const struct insn *in = code_lookup_single(v);
        if (!is_repeatable(in) || in->mode != key_mode(t->key))
            return;
        events_run_single(v, in);
        note_after(verify);
    }
    take(v, &verify->steps[count]);
    verify->rehearsed = count;
}

void verify_begin(struct translate *t, const struct block *block)
{
    struct vcpu *v = t->v;
    struct verify *verify = t->verify;
    if (++verify->countdown < v->verify_every)
        return;
    verify->countdown = 0;
    jmp_buf *unwind = v->unwind;
    struct tlb *tlb = v->tlb;
    struct fault fault = v->fault;
    verify->write_count = 0;
    verify->instructions = v->instructions;
    v->rehearsal = on_effect;
    v->tlb = &v->tlbs[TLB_NONE];
    v->unwind = &verify->stop;
    if (setjmp(verify->stop) == 0)
        rehearse(t, block->insns);
    v->rehearsal = NULL;
    v->tlb = tlb;
    v->unwind = unwind;
    v->fault = fault;
    v->run_start = NULL;
    v->rmw.active = false;
    v->rsp_restore_armed = false;
    v->link = NULL;
    v->instructions = verify->instructions;
    for (unsigned i = verify->write_count; i-- > 0;)
        memcpy(verify->writes[i].hva, verify->writes[i].before, verify->writes[i].size);
    put_back(v, &verify->steps[0]);
    verify->until = t->until;
    uint64_t until = v->instructions + block->insns;
    t->until = until < t->until ? until : t->until;
    verify->active = true;
    verify->blocks++;
}

/* ---- the comparison ---- */

static void print_line(struct translate *t, const char *text)
{
    log_write(t->v->log, LOG_OFF, "%s", text);
}

static void report_snapshots(struct translate *t, const struct snapshot *want, const struct snapshot *got)
{
    static const char *const names[] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                        "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    char line[200];
    for (unsigned i = 0; i < 16; i++) {
        snprintf(line, sizeof line, "  %-4s interpreted %016" PRIx64 "  translated %016" PRIx64 "%s", names[i], want->regs[i],
                 got->regs[i], want->regs[i] != got->regs[i] ? "  <--" : "");
        print_line(t, line);
    }
    snprintf(line, sizeof line, "  RIP  interpreted %016" PRIx64 "  translated %016" PRIx64 "%s", want->rip, got->rip,
             want->rip != got->rip ? "  <--" : "");
    print_line(t, line);
    snprintf(line, sizeof line, "  status (LAHF, OF) interpreted %04x  translated %04x%s; other flags %x, %x", want->status,
             got->status, want->status != got->status ? "  <--" : "", want->rflags_rest, got->rflags_rest);
    print_line(t, line);
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(want->ymm[i], got->ymm[i], 32) != 0) {
            const uint64_t *w = (const uint64_t *)(const void *)want->ymm[i], *g = (const uint64_t *)(const void *)got->ymm[i];
            snprintf(line, sizeof line, "  YMM%u interpreted %016" PRIx64 "'%016" PRIx64 "'%016" PRIx64 "'%016" PRIx64
                     "  translated %016" PRIx64 "'%016" PRIx64 "'%016" PRIx64 "'%016" PRIx64,
                     i, w[3], w[2], w[1], w[0], g[3], g[2], g[1], g[0]);
            print_line(t, line);
        }
    snprintf(line, sizeof line, "  MXCSR interpreted %08x  translated %08x", want->mxcsr, got->mxcsr);
    print_line(t, line);
}

static void report_code(struct translate *t, unsigned count)
{
    struct vcpu *v = t->v;
    struct verify *verify = t->verify;
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    const ZydisDecoder *decoder = decoder_of(v, v->code_mode);
    for (unsigned i = 0; i <= count && i <= verify->rehearsed; i++) {
        uint8_t bytes[INSN_MAX_BYTES];
        uint64_t rip = verify->steps[i].rip;
        unsigned available = 0;
        gpa_t gpa;
        for (; available < sizeof bytes && mmu_peek(v, rip + available, &gpa); available++)
            if (!memory_read(v->memory, gpa, &bytes[available], 1))
                break;
        ZydisDecodedInstruction z;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        char text[128] = "?", line[220];
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, available, &z, ops)))
            ZydisFormatterFormatInstruction(&formatter, &z, ops, z.operand_count_visible, text, sizeof text, rip, NULL);
        snprintf(line, sizeof line, "  %s%016" PRIx64 "  %s", i == count ? "next " : "     ", rip, text);
        print_line(t, line);
    }
}

static _Noreturn void report(struct translate *t, unsigned count, const char *what)
{
    struct verify *verify = t->verify;
    char line[400];
    snprintf(line, sizeof line, "verify: %s after %u instructions of block %" PRIu64 " (instruction %" PRIu64 " of the run):", what,
             count, verify->blocks, verify->instructions);
    print_line(t, line);
    report_code(t, count);
    struct snapshot got;
    take(t->v, &got);
    report_snapshots(t, &verify->steps[count <= verify->rehearsed ? count : verify->rehearsed], &got);
    check(!"translated code does what the interpreter does");
    __builtin_unreachable();
}

/* Of the registers only the 80 bits that they have. */
static bool same_x87(const uint8_t *a, const uint8_t *b)
{
    if (memcmp(a, b, offsetof(struct x87_image, mxcsr)) != 0)
        return false;
    for (unsigned i = 0; i < 8; i++) {
        size_t at = offsetof(struct x87_image, st) + 16 * i;
        if (memcmp(a + at, b + at, 10) != 0)
            return false;
    }
    return true;
}

static bool same_state(const struct snapshot *a, const struct snapshot *b)
{
    return memcmp(a->regs, b->regs, sizeof a->regs) == 0 && a->rip == b->rip && a->status == b->status &&
           a->rflags_rest == b->rflags_rest && memcmp(a->ymm, b->ymm, sizeof a->ymm) == 0 && a->mxcsr == b->mxcsr && same_x87(a->x87, b->x87);
}

/* The last write below `count` to each place decides. */
static bool same_memory(const struct verify *verify, unsigned count, const struct write **differs)
{
    for (unsigned i = 0; i < verify->write_count; i++) {
        const struct write *w = &verify->writes[i];
        bool overwritten = false;
        for (unsigned j = i + 1; j < verify->write_count && !overwritten; j++) {
            const struct write *later = &verify->writes[j];
            overwritten = (w->step >= count || later->step < count) && later->hva < w->hva + w->size &&
                          w->hva < later->hva + later->size;
        }
        if (w->step >= count || overwritten)
            continue;
        if (memcmp(w->hva, w->after, w->size) != 0) {
            *differs = w;
            return false;
        }
    }
    return true;
}

static unsigned executed(const struct translate *t)
{
    return (unsigned)(t->v->instructions - t->verify->instructions);
}

bool verify_stops_here(const struct translate *t)
{
    return t->verify != NULL && t->verify->active && executed(t) == t->verify->rehearsed;
}

void verify_end(struct translate *t)
{
    struct verify *verify = t->verify;
    if (!verify->active)
        return;
    verify->active = false;
    unsigned count = executed(t);
    t->until = verify->until;
    if (count > verify->rehearsed)
        report(t, count, "translated code went on where the interpreter stopped");
    struct snapshot got;
    take(t->v, &got);
    if (!same_state(&verify->steps[count], &got))
        report(t, count, "registers differ");
    const struct write *differs = NULL;
    if (!same_memory(verify, count, &differs)) {
        uint64_t before = 0, after = 0, now = 0;
        size_t size = differs->size < 8 ? differs->size : 8;
        memcpy(&before, differs->before, size);
        memcpy(&after, differs->after, size);
        memcpy(&now, differs->hva, size);
        char line[240];
        snprintf(line, sizeof line,
                 "memory at offset %#tx of RAM, %u bytes, written by instruction %u, differs (before %#" PRIx64
                 ", interpreted %#" PRIx64 ", translated %#" PRIx64 ")",
                 differs->hva - memory_ram_base(t->v->memory), differs->size, differs->step, before, after, now);
        report(t, count, line);
    }
    verify->verified += count;
}

void verify_unwound(struct translate *t)
{
    struct verify *verify = t->verify;
    if (verify == NULL || !verify->active)
        return;
    events_unwind(t->v);
    if (executed(t) != verify->rehearsed)
        report(t, executed(t), "translated code raised a fault");
    verify_end(t);
}
