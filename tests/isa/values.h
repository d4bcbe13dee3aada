/* Random values for states and memory: see values.c. */
#ifndef RING3_TESTS_ISA_VALUES_H
#define RING3_TESTS_ISA_VALUES_H

#include "isa.h"

uint64_t value_integer(struct rng *rng);
/* `size` bytes of integers or of floating-point numbers of one of the formats. */
void value_fill(struct rng *rng, uint8_t *bytes, unsigned size);
void value_f80(struct rng *rng, uint8_t bytes[10]);
uint32_t value_mxcsr(struct rng *rng);
/* Control, status and tag words, and the eight registers. */
void value_x87(struct rng *rng, struct isa_state *s);

#endif
