/* Times rows and prints them: the same static binary runs on the host and in guests.
 *
 *   bench [--ms N] [--label L] [--only PATTERNS] [--group G] [--bin DIR] [--programs DIR] [--data DIR] [--tmp DIR]
 *   bench --list [--label L] [--only PATTERNS] [--group G]
 *   bench --text FILE KIB
 *
 * Output, one line a row, L being 64 or 32 if nothing else is said:
 *
 *   ROW L NAME NANOSECONDS SUM      time of an operation; SUM: what the first round computed
 *   SKIP L NAME REASON...           what the row needs is not here
 *   FAIL L NAME REASON...           the row did not come to its end
 *   PLAN L NAME GROUP WHAT...       --list: a row that there is
 *
 * PATTERNS is a list with commas of shell patterns for NAME or L.NAME. --text writes KIB KiB of words, which compress
 * as text does.
 *
 * How a time is found. The number of rounds is doubled until they take a fifth of the budget (--ms, 200 by default);
 * this many rounds are then repeated until the budget is used up, and the fastest repetition counts: what a scheduler,
 * a timer interrupt or a neighbour adds is not what is asked for. A row whose single round exceeds the budget is
 * run once. Everything is pinned to one processor, so that a native pipe is compared with a guest's and not with two
 * processors talking. A row runs in its own process: when it dies, the others are still measured.
 *
 * Under `ring3 run --clock instructions` guest time counts instructions, and the same program prints them. */
#include <errno.h>
#include <fnmatch.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define MS_DEFAULT 200
#define REPETITIONS 5
#define ROUNDS_MAX (UINT64_C(1) << 40)
#define PATTERN_MAX 128

volatile uint64_t bench_sink;
bool bench_checking;
const char *bench_bin = "/bin", *bench_programs = "/programs", *bench_data = "/data", *bench_tmp = "/tmp";

static const struct rows *const tables[] = {&compute_rows, &string_rows, &vector_rows, &system_rows, &program_rows};
static const char *const group_names[] = {
    [ROW_COMPUTE] = "compute", [ROW_SYSTEM] = "system", [ROW_PROGRAM] = "program"};

struct options {
    uint64_t budget_ns;
    const char *only, *label, *group;
};

void bench_die(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    _exit(1);
}

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

/* Nanoseconds per operation; what the first round computed in *sum. */
static double row_measure(const struct row *row, uint64_t budget_ns, uint64_t *sum)
{
    bench_sink = 0;
    bench_checking = true;
    uint64_t rounds = 1, ns = row_time(row, rounds), used;
    bench_checking = false;
    *sum = bench_sink;
    if (ns < budget_ns)
        ns = row_time(row, rounds);
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

static void row_child(const struct row *row, const struct options *options)
{
    const char *reason = row->setup != NULL ? row->setup() : NULL;
    if (reason != NULL) {
        printf("SKIP %s %s %s\n", options->label, row->name, reason);
    } else {
        uint64_t sum;
        double ns = row_measure(row, options->budget_ns, &sum);
        if (row->teardown != NULL)
            row->teardown();
        printf("ROW %s %s %.4f %llx\n", options->label, row->name, ns, (unsigned long long)sum);
    }
    fflush(stdout);
    _exit(0);
}

static void row_run(const struct row *row, const struct options *options)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        row_child(row, options);
    if (child < 0 || waitpid(child, &status, 0) != child)
        printf("FAIL %s %s fork: %s\n", options->label, row->name, strerror(errno));
    else if (WIFSIGNALED(status))
        printf("FAIL %s %s signal %d\n", options->label, row->name, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        printf("FAIL %s %s exit status %d\n", options->label, row->name, WEXITSTATUS(status));
    fflush(stdout);
}

static bool row_wanted(const struct row *row, const struct options *options)
{
    if (options->group != NULL && strcmp(options->group, group_names[row->group]) != 0)
        return false;
    if (options->only == NULL)
        return true;
    char pattern[PATTERN_MAX], name[PATTERN_MAX];
    snprintf(name, sizeof name, "%s.%s", options->label, row->name);
    for (const char *at = options->only;;) {
        size_t length = strcspn(at, ",");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, at);
        if (fnmatch(pattern, name, 0) == 0 || fnmatch(pattern, row->name, 0) == 0)
            return true;
        if (at[length] == '\0')
            return false;
        at += length + 1;
    }
}

static void rows_walk(const struct options *options, bool list)
{
    for (unsigned t = 0; t < ARRAY_LEN(tables); t++) {
        for (unsigned i = 0; i < tables[t]->count; i++) {
            const struct row *row = &tables[t]->rows[i];
            if (!row_wanted(row, options))
                continue;
            if (list)
                printf("PLAN %s %s %s %s\n", options->label, row->name, group_names[row->group], row->what);
            else
                row_run(row, options);
        }
    }
}

static int text_write(const char *path, uint64_t size)
{
    static const char *const words[] = {"page",  "table", "shadow", "trap",  "guest", "monitor", "ring",   "the",
                                        "of",    "and",   "a",      "to",    "fault", "vector",  "port",   "timer",
                                        "block", "cache", "is",     "in",    "level", "gate",    "system", "call",
                                        "by",    "for",   "fetch",  "write", "read",  "limit",   "base",   "entry"};
    FILE *file = fopen(path, "we");
    if (file == NULL)
        bench_die(path);
    uint64_t seed = 5, at = 0;
    while (at < size) {
        uint64_t r = random_next(&seed);
        const char *word = words[r >> 8 & 31];
        at += (uint64_t)(r % 8 == 0 ? fprintf(file, "%s-%x\n", word, (unsigned)(r >> 16 & 0xfff))
                                    : fprintf(file, "%s ", word));
    }
    if (fclose(file) != 0 || truncate(path, (off_t)size) != 0)
        bench_die(path);
    return 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: bench [--list] [--ms N] [--label L] [--only PATTERNS] [--group G] [--bin DIR]"
                    " [--programs DIR] [--data DIR] [--tmp DIR]\n       bench --text FILE KIB\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct options options = {MS_DEFAULT * UINT64_C(1000000), NULL, sizeof(void *) == 8 ? "64" : "32", NULL};
    const struct {
        const char *name, **value;
    } words[] = {{"--only", &options.only},      {"--label", &options.label}, {"--group", &options.group},
                 {"--bin", &bench_bin},          {"--data", &bench_data},     {"--tmp", &bench_tmp},
                 {"--programs", &bench_programs}};
    bool list = false;
    if (argc == 4 && strcmp(argv[1], "--text") == 0)
        return text_write(argv[2], strtoull(argv[3], NULL, 10) * 1024);
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--list") == 0) {
            list = true;
            continue;
        }
        if (value == NULL)
            return usage();
        bool known = strcmp(argv[i], "--ms") == 0 && strtoull(value, NULL, 10) > 0;
        if (known)
            options.budget_ns = strtoull(value, NULL, 10) * 1000000u;
        for (unsigned w = 0; w < ARRAY_LEN(words) && !known; w++) {
            known = strcmp(argv[i], words[w].name) == 0;
            if (known)
                *words[w].value = value;
        }
        if (!known)
            return usage();
        i++;
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    int here = sched_getcpu();
    CPU_SET(here >= 0 ? (unsigned)here : 0, &one);
    sched_setaffinity(0, sizeof one, &one);
    rows_walk(&options, list);
    return 0;
}
