/* Decoded code, by physical page.
 *
 * A code_page belongs to one physical page and one code mode. Each offset at which an instruction has been met names
 * its record; records of successive instructions lie one after the other, so straight-line code runs by `in + 1`. A
 * run ends with an instruction that never falls through, or with a record of run_end.
 *
 * The physical page is watched while anything decoded from it is alive. A write to a byte that an instruction was
 * decoded from discards the page: each of its records becomes run_again, so that even code that modifies what comes
 * right behind it finds the new bytes; the page is decoded anew when it is next executed. A write beside the code
 * changes nothing: data next to code is common, and costs no more than the slow path of the write. Records lie in an
 * arena that is only reclaimed as a whole (code_cache_reset), never while one of them is running.
 *
 * An instruction that spans two pages is never part of a run: it is kept apart with its bytes, which are compared at
 * each execution.
 *
 * Whoever keeps more that was derived from code (a translator) sets v->code_written, which hears of every write to a
 * watched page, and compares v->code_generation, which counts the resets: after one, nothing is watched any more. The
 * page stays watched while either of the two is interested.
 *
 * Per vCPU; its thread only, but code_cache_note_written(). The page is watched before its bytes are read, and whoever
 * writes looks afterwards whether the page is watched, so one of the two always notices. With several processors cpu/crew.h
 * says what more it takes.
 */
#ifndef RING3_CPU_CODE_CACHE_H
#define RING3_CPU_CODE_CACHE_H

#include "cpu/insn.h"

struct code_cache *code_cache_create(struct error *err);
void code_cache_destroy(struct code_cache *cache);

/* The record for the instruction at CS:rip, ready to run: sets v->regs[GPR_PAGE]. Raises the faults of fetching. */
const struct insn *code_lookup(struct vcpu *v);

/* The same, but a private copy followed by a run_end, for single-stepping. Direct branches forget their targets. */
const struct insn *code_lookup_single(struct vcpu *v);

/* Lets the direct branch `branch` remember the record of its target, which lies in the same page. */
void code_link(struct vcpu *v, const struct insn *branch, const struct insn *target);

/* Bytes of a watched physical page were written, all in one page: discards what was decoded from them. */
void code_cache_written(struct vcpu *v, gpa_t gpa, unsigned size);

/* Watches the page at `gpa` for code of the current mode, as decoding from it does. To be called before its bytes are
 * read. False if there is neither RAM nor ROM. May not reset. */
bool code_cache_watch(struct vcpu *v, gpa_t gpa);

/* The same from any other thread, for a whole page (another processor's store, a device's DMA): noted, and done when the
 * vCPU's thread takes PENDING_CODE. The guest sees its new code after a branch or a serializing instruction. */
void code_cache_note_written(struct vcpu *v, uint64_t gpfn);
/* Whoever else kept something from the page (see above) has dropped it: the watch ends if nothing here needs it. */
void code_cache_release(struct vcpu *v, uint64_t gpfn);
void code_cache_take_written(struct vcpu *v);

/* In the middle of an instruction: straight-line code is left behind it, as if the next one had been written. */
void code_cache_interrupt(struct vcpu *v);

/* Discards everything. Not while a record is running. */
void code_cache_reset(struct vcpu *v);

#endif
