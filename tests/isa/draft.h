/* One instruction in the making: see draft.c. */
#ifndef RING3_TESTS_ISA_DRAFT_H
#define RING3_TESTS_ISA_DRAFT_H

#include "isa.h"

struct draft {
    uint8_t bytes[20]; /* only the first `length` count; at most 15 */
    unsigned length;
    bool valid; /* it decodes; else `in` and `operands` mean nothing */
    ZydisDecodedInstruction in;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

/* An instance of `e` with random prefixes and operands. `fs_usable`: FS overrides may be used. */
bool draft_encode(struct rng *rng, const struct encoding *e, enum isa_mode mode, bool fs_usable, struct draft *d);
/* Makes something else of it, that may or may not be an instruction. */
void draft_damage(struct rng *rng, enum isa_mode mode, struct draft *d);

#endif
