/* The translating engine: guest code becomes host code, block by block, and runs at nearly its own speed.
 *
 * Cold code runs in the interpreter, which is also where every instruction goes that has no cheaper form and every
 * situation that is out of the ordinary. See internal.h for how translated code is made.
 */
#ifndef RING3_ENGINE_TRANSLATE_TRANSLATE_H
#define RING3_ENGINE_TRANSLATE_TRANSLATE_H

#include "cpu/decode.h"
#include "engine/engine.h"

extern const struct engine engine_translate;

struct translate_counters {
    uint64_t blocks, instructions, guest_bytes, host_bytes, translate_ns, flushes, invalidations, enters, helper_calls, links, loops;
    uint64_t reforms, interpreted_exits, fault_ns;
    uint64_t fault_miss, fault_write, fault_unaligned, fault_poll, fault_arithmetic, fault_other;
    uint64_t calls[ROW_COUNT + 1]; /* helper_calls by enum insn_row */
};

#endif
