/* What far RET and IRET share: checking what was popped, and loading it. */
#ifndef RING3_CPU_TRANSFER_H
#define RING3_CPU_TRANSFER_H

#include "cpu/descriptor.h"

struct far_return {
    uint16_t cs;
    uint64_t rip;
    struct descriptor code; /* of cs */
    bool new_stack;         /* to an outer level, or IRET in 64-bit mode */
    struct segment ss;
    uint64_t rsp;
};

/* Reads and checks the code segment to return to; raises #GP, #NP. */
void return_code_read(struct vcpu *v, uint16_t selector, struct descriptor *code);
/* Reads and checks the stack segment to return to at privilege `rpl`; raises #GP, #SS. */
void return_stack_read(struct vcpu *v, uint16_t selector, unsigned rpl, const struct descriptor *code,
                       struct segment *ss);
/* Loads CS, RIP and, with `new_stack`, SS and RSP; clears data segments that the new level may not have. */
void return_commit(struct vcpu *v, const struct far_return *r);

#endif
