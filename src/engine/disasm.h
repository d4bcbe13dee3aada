/* Guest code as text, for people who look on. Reads as a debugger does: nothing faults, nothing changes. */
#ifndef RING3_ENGINE_DISASM_H
#define RING3_ENGINE_DISASM_H

#include "cpu/vcpu.h"

#define DISASM_TEXT 128u

/* The instruction at the start of `bytes`, which lies at `rip` in code of this mode, in Intel's syntax. Returns its
 * length; 0, with "(bad)" as the text, if there is none. */
unsigned disasm_bytes(const uint8_t *bytes, unsigned available, uint64_t rip, enum code_mode mode,
                      char text[DISASM_TEXT]);

/* The instruction at CS:`rip` in the current address space. 0 with "(unreadable)" if it cannot be read. */
unsigned disasm_at(struct vcpu *v, uint64_t rip, char text[DISASM_TEXT]);

/* Copies what can be read at a linear address, up to `size`; returns how much. */
unsigned disasm_peek(struct vcpu *v, gva_t gva, void *buffer, unsigned size);

#endif
