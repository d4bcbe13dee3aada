/* A case in the making: what generate.c and program.c share. */
#ifndef RING3_TESTS_ISA_MAKER_H
#define RING3_TESTS_ISA_MAKER_H

#include "draft.h"

struct maker {
    struct rng rng;
    const struct encodings *encodings;
    struct isa_case *c;
    enum isa_mode mode;
    uint32_t fixed;     /* registers that hold something an instruction before relies on */
    unsigned undefined; /* CPU flags that are undefined by now */
    const struct item_set *dropped; /* of a program's items; or NULL */
    unsigned items;     /* of the program, dropped ones and all */
};

/* ---- generate.c ---- */
/* An arena address that `size` bytes are to be accessed at. */
uint64_t arena_choose(struct maker *m, unsigned size);
enum isa_seg seg_of(ZydisRegister reg);
/* Number of the general register that `reg` is, or is part of; else -1. */
int gpr_of(ZydisRegister reg);
bool draft_of_row(struct maker *m, unsigned row, struct draft *d);
void immediates_bend(struct maker *m, struct draft *d);
/* No branch, and nothing that reads what is undefined by now or that leaves something undefined but flags. */
bool sequence_permits(const struct maker *m, const struct draft *d);
/* `row` of (seed, number), without the items in `dropped`. */
bool isa_generate_without(const struct encodings *e, uint64_t seed, unsigned row, uint64_t number,
                          const struct item_set *dropped, struct isa_case *c, unsigned *items);

/* ---- program.c ---- */
bool make_program(struct maker *m);

#endif
