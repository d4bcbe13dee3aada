/* The one door: every engine hands over to the monitor through one record, the lecture's VMEXIT.
 *
 * Code that needs something from outside the processor (a port, a device page, an idle wait), or that
 * does something worth counting (an exception delivered, a control register loaded), fills a struct exit
 * and calls vcpu_exit(). The door (engine/exit.c) counts it by reason and mode, traces it and carries out what
 * has an effect outside (ports and device memory). Values read come back in `value`.
 */
#ifndef RING3_CPU_EXIT_H
#define RING3_CPU_EXIT_H

#include "base/types.h"

/* X(identifier, "name in counters", has an effect the door carries out) */
#define EXIT_REASONS(X)                                                                                                \
    X(IO_IN, "io-in")                                                                                                  \
    X(IO_OUT, "io-out")                                                                                                \
    X(MMIO_READ, "mmio-read")                                                                                          \
    X(MMIO_WRITE, "mmio-write")                                                                                        \
    X(HLT, "hlt")                                                                                                      \
    X(MWAIT, "mwait")                                                                                                  \
    X(PAUSE, "pause")                                                                                                  \
    X(CPUID, "cpuid")                                                                                                  \
    X(MSR_READ, "msr-read")                                                                                            \
    X(MSR_WRITE, "msr-write")                                                                                          \
    X(CR_READ, "cr-read")                                                                                              \
    X(CR_WRITE, "cr-write")                                                                                            \
    X(DR_ACCESS, "dr-access")                                                                                          \
    X(DESCRIPTOR_TABLE, "descriptor-table")                                                                            \
    X(TLB_FLUSH, "tlb-flush")                                                                                          \
    X(HYPERCALL, "hypercall")                                                                                          \
    X(EXCEPTION, "exception")                                                                                          \
    X(INTERRUPT, "interrupt")                                                                                          \
    X(SOFT_INTERRUPT, "soft-interrupt")                                                                                \
    X(NMI, "nmi")                                                                                                      \
    X(TASK_SWITCH, "task-switch")                                                                                      \
    X(CODE_WRITE, "code-write")                                                                                        \
    X(TRIPLE_FAULT, "triple-fault")

enum exit_reason {
#define X(id, name) EXIT_##id,
    EXIT_REASONS(X)
#undef X
        EXIT_REASON_COUNT
};

/* Mode the guest was in (or pretended to be in). */
enum exit_mode { EXIT_MODE_REAL, EXIT_MODE_V86, EXIT_MODE_KERNEL, EXIT_MODE_USER, EXIT_MODE_COUNT };

struct exit {
    enum exit_reason reason;
    enum exit_mode mode;  /* filled in by vcpu_exit() */
    uint64_t rip;         /* filled in by vcpu_exit() */
    uint64_t address;     /* port, gpa, MSR number, CR number, CR2 of a page fault */
    uint64_t value;       /* written; or filled in by the door for reads */
    uint32_t error;       /* exceptions: error code */
    uint8_t size;         /* bytes: ports and device memory */
    uint8_t *string;      /* ports, REP INS and REP OUTS: up to `count` elements at one go; NULL: one, in `value` */
    uint32_t count;
    uint32_t done;        /* ... filled in by the door: how many; 0: it made one access, with `value` */
    uint8_t vector;       /* exceptions and interrupts */
};

const char *exit_reason_name(enum exit_reason reason);
const char *exit_mode_name(enum exit_mode mode);

#endif
