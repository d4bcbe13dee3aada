/* What the measuring program is made of: rows, each an operation that is repeated and timed. */
#ifndef RING3_BENCH_GUEST_BENCH_H
#define RING3_BENCH_GUEST_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

enum row_group {
    ROW_COMPUTE, /* user instructions only */
    ROW_SYSTEM,  /* mostly the kernel's instructions */
    ROW_PROGRAM, /* whole programs */
};

/* Each row runs in a process of its own. The first round, from a fresh setup, must leave the same bench_sink on every
 * machine: what it is there is compared with the host's. */
struct row {
    const char *name; /* one word, the key in every report */
    const char *what; /* the operation, for people */
    enum row_group group;
    uint64_t operations;        /* in one round: a time is reported per operation */
    const char *(*setup)(void); /* once before the first round, or NULL; returns why the row is skipped, or NULL */
    void (*run)(uint64_t n);    /* n rounds */
    void (*teardown)(void);     /* or NULL */
};

/* A table of rows: compute.c, strings.c, vector.c, system.c, programs.c. */
struct rows {
    const struct row *rows;
    unsigned count;
};
extern const struct rows compute_rows, string_rows, vector_rows, system_rows, program_rows;

/* Results go here, so that they are computed, and so that they can be compared. */
extern volatile uint64_t bench_sink;

/* Where the busybox of the rows is, and `true`; where the programs and libraries of Debian's packages are; where the
 * files are that they work on; where files may be made. Absolute, for the programs are started in the folder of data.
 */
extern const char *bench_bin, *bench_programs, *bench_data, *bench_tmp;

/* The first round is run for its result: output is kept and summed. */
extern bool bench_checking;

/* Ends the row as failed: `what`, and what errno says. */
__attribute__((noreturn)) void bench_die(const char *what);

/* A generator that is the same everywhere (xorshift64*, Vigna 2016). */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

#endif
