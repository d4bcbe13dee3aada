/* Re-encoding one guest instruction for the host: the same operation with other registers and another memory operand.
 * And what an instruction uses, for whoever has to provide it.
 *
 * Guest code of 64- and 32-bit mode becomes 64-bit host code. Opcode, operand size, immediates, LOCK and mandatory
 * prefixes stay; REX or VEX and ModRM/SIB are built anew. Vector and MMX/x87 registers keep their numbers. Segment
 * and address-size prefixes go: the memory operand has become a host address. Hints go, too: XACQUIRE, XRELEASE, and a
 * prefetch becomes a NOP.
 *
 * Both functions are pure, for any thread. They trust that the caller has asked insn.def: an instruction that is not
 * COPY there (CPUID, SGDT, IN ...) may well have an encoding.
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
    uint8_t gpr[16]; /* host register for each guest general register that the encoding names; or REENCODE_NO_REG */
    /* What replaces the memory operand: [base + index*2^scale + disp], 64-bit addressing, no segment prefix. */
    uint8_t base, index; /* host registers; index may be REENCODE_NO_REG, and is never RSP */
    int32_t disp;
    uint8_t scale; /* of `index`: a shift count */
    /* The host's RCX holds a copy of guest RCX for this instruction: an implicit RCX that is only read (the CL of
     * shifts, ECX of CMPXCHG8B) may be elsewhere in `gpr`. Where that counts, nothing else may be in host RCX, neither
     * another register nor `base` nor `index`. */
    bool rcx_ready;
};

/* Writes the instruction to `out` and returns its length, at most 15; 0 if it cannot be expressed:
 *
 *   - a high-byte register whose container is not in host RAX, RCX, RDX or RBX, or together with what needs REX
 *   - an implicit general register (AL of MUL, RSI of MOVS ...) that `map` does not leave in its place, see `rcx_ready`
 *   - a register in the encoding for which `map` has none
 *   - a branch, a far pointer, a segment, control or debug register
 *   - LEA; memory that the encoding does not name (strings, PUSH, XLAT, MASKMOVQ, CLZERO); gathers; BT, BTS, BTR, BTC
 *     of a memory operand with the bit number in a register, which reach beyond the operand
 *   - instructions that 64-bit mode does not have (BOUND, DAA ...)
 *   - EVEX, XOP, 3DNow!; 16-bit code; XCHG r8, rAX with a meaningless F3 in front, which Zydis takes for PAUSE
 *
 * A moffs MOV becomes the ModRM form, INC and DEC of 32-bit code (40h to 4Fh) the FFh forms, group 82h group 80h; XCHG
 * with rAX (91h ...) the 87h form when a register has moved; MOV, BSWAP and others with a register in the opcode byte
 * keep their form. NOPs of any form and prefetches become 90h. */
unsigned reencode(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands, const uint8_t *bytes,
                  const struct reencode_map *map, uint8_t *out);

/* Whether the instruction has an implicit RCX that is only read: it wants `rcx_ready` unless guest RCX is in its
 * place. */
bool reencode_reads_rcx(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands);

/* The status flags as LAHF leaves them in AH, with OF in the bit that is always one. */
#define INSN_USE_CF 0x01u
#define INSN_USE_OF 0x02u
#define INSN_USE_PF 0x04u
#define INSN_USE_AF 0x10u
#define INSN_USE_ZF 0x40u
#define INSN_USE_SF 0x80u
#define INSN_USE_FLAGS 0xd7u

struct insn_use {
    /* Bit n: guest register n, of the operation itself, not of the address of a memory operand that the encoding names.
     * A register that is written in part, or perhaps, is also read. */
    uint16_t gpr_read, gpr_written;
    uint16_t gpr_explicit; /* named by the encoding outside the memory operand: reencode() asks `map` for them */
    uint16_t gpr_high;     /* AH, CH, DH or BH of register n is an explicit operand */
    bool memory;           /* accesses memory; false for LEA, NOP, prefetches */
    bool memory_read, memory_written; /* perhaps written is written */
    uint8_t memory_size;   /* bytes; 0 if more than 255 or variable */
    bool aligned;          /* the instruction itself faults unless the operand is aligned at its size ... */
    bool aligned_strict;   /* ... even while MXCSR.MM is set */
    bool vector, avx;      /* XMM, YMM or MXCSR; and VEX-encoded */
    bool x87, mmx;
    /* INSN_USE_*. Undefined flags count as written. Flags that are perhaps written, as by a shift whose count may be 0,
     * count as written and read: live before = (live after & ~written) | read. */
    uint8_t flags_read, flags_written;
    bool all_flags_written; /* all six, without a condition, and none of them undefined */
};

/* For a PAUSE that is really an XCHG (see above), what that uses. */
void insn_use_of(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands, struct insn_use *out);

#endif
