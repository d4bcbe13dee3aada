/* Times rows and prints them: the same static binary runs on the host and in guests.
 *
 *   bench [--ms N] [--bin DIR] [--tmp DIR] [--only ROW] [--compute]
 *
 * Output, one line a row:   ROW bits name group nanoseconds-per-operation what it is
 *
 * How a time is found. The number of rounds is doubled until they take a fifth of the budget (--ms, 300 by default);
 * this many rounds are then repeated until the budget is used up, and the fastest repetition counts: what a scheduler,
 * a timer interrupt or a neighbour adds is not what is asked for. A row whose single round exceeds the budget is
 * run once. Everything is pinned to one processor, so that a native pipe is compared with a guest's and not with two
 * processors talking.
 *
 * Under `ring3 run --clock instructions` guest time counts instructions, one a nanosecond, and the same program
 * prints instructions per operation. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

#define MS_DEFAULT 300
#define REPETITIONS 5
#define ROUNDS_MAX (UINT64_C(1) << 40)

volatile uint64_t bench_sink;
const char *bench_bin = "/bin", *bench_tmp = "/tmp";

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t row_time(const struct row *row, uint64_t rounds)
{
    uint64_t start = clock_ns();
    row->run(rounds);
    return clock_ns() - start;
}

/* Nanoseconds per operation. */
static double row_measure(const struct row *row, uint64_t budget_ns)
{
    uint64_t rounds = 1, ns = row_time(row, rounds), used = ns;
    while (ns < budget_ns / REPETITIONS && rounds < ROUNDS_MAX) {
        /* From far away in one leap, to the last factor of two by doubling. */
        uint64_t leap = ns > 0 ? budget_ns / REPETITIONS / ns / 2 : 1024;
        rounds *= leap > 2 ? (leap < 1024 ? leap : 1024) : 2;
        ns = row_time(row, rounds);
    }
    uint64_t best = ns;
    for (used = ns; used + ns <= budget_ns; used += ns) {
        ns = row_time(row, rounds);
        if (ns < best)
            best = ns;
    }
    return (double)best / (double)rounds / (double)row->operations;
}

static void rows_run(const struct row *rows, unsigned count, uint64_t budget_ns, const char *only)
{
    static const char *const groups[] = {[ROW_COMPUTE] = "compute", [ROW_KERNEL] = "kernel", [ROW_PROGRAM] = "program"};
    for (unsigned i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        if (only != NULL && strcmp(only, row->name) != 0)
            continue;
        if (row->setup != NULL && !row->setup()) {
            printf("SKIP %u %s\n", (unsigned)sizeof(void *) * 8, row->name);
            continue;
        }
        double ns = row_measure(row, budget_ns);
        if (row->teardown != NULL)
            row->teardown();
        printf("ROW %u %s %s %.4f %s\n", (unsigned)sizeof(void *) * 8, row->name, groups[row->group], ns, row->what);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    uint64_t budget_ns = MS_DEFAULT * UINT64_C(1000000);
    const char *only = NULL;
    bool compute_only = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--compute") == 0) {
            compute_only = true;
            continue;
        }
        if (strcmp(argv[i], "--ms") == 0 && value != NULL && strtoull(value, NULL, 10) > 0)
            budget_ns = strtoull(value, NULL, 10) * 1000000u;
        else if (strcmp(argv[i], "--bin") == 0 && value != NULL)
            bench_bin = value;
        else if (strcmp(argv[i], "--tmp") == 0 && value != NULL)
            bench_tmp = value;
        else if (strcmp(argv[i], "--only") == 0 && value != NULL)
            only = value;
        else {
            fprintf(stderr, "usage: bench [--ms N] [--bin DIR] [--tmp DIR] [--only ROW] [--compute]\n");
            return 2;
        }
        i++;
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    int here = sched_getcpu();
    CPU_SET(here >= 0 ? (unsigned)here : 0, &one);
    sched_setaffinity(0, sizeof one, &one);
    rows_run(compute_rows, compute_row_count, budget_ns, only);
    if (!compute_only)
        rows_run(system_rows, system_row_count, budget_ns, only);
    return 0;
}
