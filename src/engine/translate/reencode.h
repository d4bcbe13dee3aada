/* Re-encoding one guest instruction for the host: the same operation with other registers and another memory operand.
 *
 * Guest code of 64- and 32-bit mode becomes 64-bit host code. Opcode, operand size, immediates, LOCK and mandatory
 * prefixes stay; REX or VEX and ModRM/SIB are built anew. Vector and MMX/x87 registers keep their numbers. Segment
 * and address-size prefixes go: the memory operand has become a host address.
 *
 * Source: SDM vol. 2, chapter 2.
 */
#ifndef RING3_TRANSLATE_REENCODE_H
#define RING3_TRANSLATE_REENCODE_H

#include <Zydis/Zydis.h>

#include "base/types.h"

#define REENCODE_NO_REG 0xff
#define REENCODE_MAX 32 /* bytes a result may have */

struct reencode_map {
    uint8_t gpr[16];    /* host register for each guest general register that the encoding names */
    /* What replaces the memory operand: [base + index*1 + disp], 64-bit addressing, no segment prefix. */
    uint8_t base, index; /* host registers; index may be REENCODE_NO_REG, and is never RSP */
    int32_t disp;
};

/* Writes the instruction to `out` and returns its length; 0 if it cannot be expressed: a high-byte register together with
 * something that needs REX, an implicit general register (AL of MUL, CL of a shift, RSI of MOVS ...) that `map` does not
 * leave in its place, a relative branch, a far pointer, a segment, control or debug register, moffs of other registers. A
 * moffs MOV becomes the ModRM form, INC and DEC of 32-bit code (40h to 4Fh) the FEh/FFh forms; XCHG with rAX (91h ...)
 * the 87h form when a register has moved; MOV/BSWAP/... with a register in the opcode byte keep their form. */
unsigned reencode(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands, const uint8_t *bytes,
                  const struct reencode_map *map, uint8_t *out);

#endif
