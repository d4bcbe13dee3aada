/* What the measuring program is made of: rows, each an operation that is repeated and timed. */
#ifndef RING3_BENCH_GUEST_BENCH_H
#define RING3_BENCH_GUEST_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

enum row_group {
    ROW_COMPUTE, /* user instructions only */
    ROW_KERNEL,  /* mostly the kernel's instructions */
    ROW_PROGRAM, /* whole programs of busybox */
};

struct row {
    const char *name; /* one word, the key in every report */
    const char *what; /* the operation, for people */
    enum row_group group;
    uint64_t operations;     /* in one round: a time is reported per operation */
    bool (*setup)(void);     /* once before the first round, or NULL; false: the row is skipped */
    void (*run)(uint64_t n); /* n rounds */
    void (*teardown)(void);  /* or NULL */
};

extern const struct row compute_rows[];
extern const unsigned compute_row_count;
extern const struct row system_rows[];
extern const unsigned system_row_count;

/* Results go here, so that they are computed. */
extern volatile uint64_t bench_sink;

/* Where the programs of the rows are (busybox, true), and where files may be made. */
extern const char *bench_bin, *bench_tmp;

/* A generator that is the same everywhere (xorshift64*, Vigna 2016). */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

#endif
