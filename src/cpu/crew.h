/* The processors of one machine, where they have to do with each other: who writes where somebody else has read code.
 *
 * Each vCPU has decoded and translated code, a TLB and shadow page tables of its own, all its own thread's. Guest RAM they
 * share, with the host's memory ordering and the host's atomics, which are the guest's. So what remains is code:
 *
 *   - A vCPU reads code only from pages that are *watched*: then nobody writes to them by a plain store (a TLB's write tag, a
 *     writable shadow entry), all writes come to page_write() and its like, which look at the page's flags after the store.
 *   - A vCPU that writes to a watched page tells the others that watch it, before its next instruction.
 *
 * Watching. By frame there is a byte of bits for who may have a plain way to write to it, set before the way is entered. To
 * watch, a vCPU sets the page's flag and then looks who has a bit there; who enters a way sets the bit and then looks at the
 * flag. With a full barrier between the two on both sides, one of them sees the other. Those whose bit is set are asked to give
 * it up, by PENDING_WRITES, and waited for, before the first byte is read. Few pages of code have been written by another
 * processor a moment ago, so this is rare.
 *
 * Waiting cannot lock up. A vCPU is *inside* while its engine runs it. Who is outside (halted, paused, waiting for others) has
 * given up everything: before it comes inside again it does what it was asked for. Who waits is outside while it waits, and so
 * nobody waits for it; it holds no lock. Who is inside gets to the end of an instruction or to a poll in bounded time: it may
 * wait for the device lock meanwhile, but nobody who holds that waits here.
 *
 * Writing. The others hear of it by code_cache_note_written() with PENDING_CODE: their records and blocks of that page die
 * when they take it, as a whole. Their interest ends at once, so the next write need not tell them again, and a halted
 * processor does not make the pages that it once ran slow for all: before it executes anything from there again it takes the
 * note, and then watches the page anew. When the writer's next instruction begins, every other vCPU has PENDING_CODE set. So whoever
 * sees anything that was stored later, and then executes a serializing instruction, executes the new code: more than SDM vol. 3,
 * 8.1.3 demands of cross-modifying code; all of its serializing instructions look at what is pending, and so do taken branches
 * to other pages and indirect ones.
 *
 * Writes beside the code, to lines of 64 bytes from which nobody has decoded, tell nobody.
 *
 * A machine with one vCPU has no crew (vcpu.crew is NULL), and these functions do what concerns the vCPU alone.
 *
 * Threads: join and destroy while nobody runs; crew_written() any thread; all others the vCPU's own. Lock order: behind the
 * device lock; nothing is locked behind these but a code cache's list of notes.
 */
#ifndef RING3_CPU_CREW_H
#define RING3_CPU_CREW_H

#include "cpu/vcpu.h"
#include "memory/memory.h"

#define CREW_MAX 8u /* a bit each in a byte; and as many as logical destinations of the flat model */

struct crew;

/* For a machine with this RAM. */
struct crew *crew_create(struct memory *memory, struct error *err);
void crew_destroy(struct crew *crew);
/* Sets v->crew. `v` stays a member until the end. */
void crew_join(struct crew *crew, struct vcpu *v);

/* Around the engine's run(). */
void crew_enter(struct vcpu *v);
void crew_leave(struct vcpu *v);
/* On PENDING_WRITES. */
void crew_take_requests(struct vcpu *v);

/* From here on every write to the page by anybody comes the slow way and is told to `v`. Returns when no plain way is left,
 * those of `v` included. Not while `v` is in the middle of an instruction's effects. */
void crew_watch(struct vcpu *v, uint64_t gpfn);
/* `v` has nothing left that came from the page. */
void crew_unwatch(struct vcpu *v, uint64_t gpfn);
/* Bytes of a watched page are about to be read as code. */
void crew_cover(struct vcpu *v, uint64_t gpfn, unsigned off, unsigned size);

/* Bytes of a watched page have been written, all in one page, by `writer`, on its thread; NULL: by a device. */
void crew_written(struct crew *crew, struct vcpu *writer, gpa_t gpa, unsigned size);

/* PAUSE: the guest waits for another processor, which may be waiting for this host processor. */
void crew_relax(struct vcpu *v);

void crew_note_writer(struct vcpu *v, const uint8_t *flags);

/* Whether a plain way to write to the page with these flags may be entered or used; to be asked just before. */
static inline bool crew_may_write(struct vcpu *v, const uint8_t *flags)
{
    if (__atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_WATCHED)
        return false;
    if (v->crew == NULL)
        return true;
    crew_note_writer(v, flags);
    return !(__atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_WATCHED);
}

#endif
