/* The reference engine: one instruction at a time in C, complete and exact, the oracle of the others. */
#ifndef RING3_ENGINE_INTERPRET_INTERPRET_H
#define RING3_ENGINE_INTERPRET_INTERPRET_H

#include "engine/engine.h"

extern const struct engine engine_interpret;

/* Executes exactly one instruction (one iteration of a repeated one), without looking at interrupts. False if it raised a
 * fault: *fault describes it, nothing was delivered, the state is as before the instruction. */
bool interpret_step(struct vcpu *v, struct fault *fault);

#endif
