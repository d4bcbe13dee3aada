/* The differential test's command: makes cases, has them run by both sides, and reports.
 *
 * While the child runs a batch natively, this process interprets the same batch.
 *
 *   --cases N       how many in all, spread evenly over the rows (default 200000)
 *   --seed S        default 1
 *   --row NAME      only this row of insn.def, or SEQUENCE, or BYTES
 *   --case N        only this case of that row
 *   --mode M        64, 32 (which includes 16) or both
 *   --time S        stop after S seconds
 *   --forever       new seeds until stopped
 *   --table         print the cases of every row
 *   --brief         a line for each of the differences instead of everything about the first few
 *   --engine NAME   have this engine run the cases, in blocks, instead of the interpreter's single steps
 *
 * Exit status: 0 all the same, 1 differences or rows without a test, 2 could not run, 77 not on this host.
 */
#include <getopt.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "isa.h"

#define REPORTS_MAX 12u
#define REPORTS_PER_ROW 2u

struct options {
    uint64_t cases, seed, number;
    double seconds;
    int row;
    bool one, forever, table, brief, only64, only32;
    const struct engine *engine;
};

struct tally {
    uint64_t run, faulted, excused, different;
};

struct session {
    struct options options;
    struct encodings encodings;
    struct native *native;
    struct isa_vcpu *vcpu;
    struct isa_case *cases; /* the batch being made; in the memory shared with the child */
    unsigned count;
    struct isa_result ring3[BATCH];
    struct tally rows[ISA_ROW_COUNT];
    struct tally total;
    unsigned reports;
    double started;
    struct isa_case failed[REPORTS_MAX]; /* programs of this batch, to be made small */
    unsigned failed_count;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void judge(struct session *s, const struct isa_case *c, const struct isa_result *native,
                  const struct isa_result *ring3)
{
    struct tally *row = &s->rows[c->row];
    enum isa_verdict verdict = isa_compare(c, native, ring3);

    row->run++;
    s->total.run++;
    if (native->vector != ISA_END) {
        row->faulted++;
        s->total.faulted++;
    }
    if (verdict == ISA_EXCUSED) {
        row->excused++;
        s->total.excused++;
    }
    if (verdict == ISA_DIFFERENT) {
        row->different++;
        s->total.different++;
    }
    bool small = verdict == ISA_DIFFERENT && c->row == ROW_PROGRAM && !s->options.brief;
    if (s->options.brief && verdict == ISA_DIFFERENT)
        isa_report_brief(stdout, c, native, ring3);
    else if (small && row->different <= REPORTS_PER_ROW && s->reports < REPORTS_MAX && s->failed_count < REPORTS_MAX)
        s->failed[s->failed_count++] = *c;
    else if (s->options.one || (verdict == ISA_DIFFERENT && row->different <= REPORTS_PER_ROW && s->reports < REPORTS_MAX)) {
        s->reports++;
        isa_report(stdout, c, native, ring3);
    }
}

/* Runs the one case that has been put into the batch. */
static enum isa_verdict run_alone(struct session *s, const struct isa_result **native)
{
    native_start(s->native, 1);
    isa_vcpu_run(s->vcpu, &s->cases[0], &s->ring3[0]);
    *native = native_wait(s->native);
    return isa_compare(&s->cases[0], *native, &s->ring3[0]);
}

/* Leaves out one instruction after the other while a difference remains, and reports what is left. */
static void minimise(struct session *s, const struct isa_case *whole)
{
    struct item_set dropped = {{0}};
    const struct isa_result *native;
    unsigned items = isa_program_without(&s->encodings, whole, &dropped, &s->cases[0]), tries = 0;
    bool again;

    if (run_alone(s, &native) != ISA_DIFFERENT) {
        printf("%s case %llu: different in its batch, but not alone\n", isa_row_name(whole->row),
               (unsigned long long)whole->number);
        return;
    }
    do {
        again = false;
        for (unsigned i = 0; i < items && tries < 600; i++) {
            if (dropped.bits[i / 64] >> i % 64 & 1)
                continue;
            dropped.bits[i / 64] |= 1ull << i % 64;
            tries++;
            if (isa_program_without(&s->encodings, whole, &dropped, &s->cases[0]) != 0 &&
                run_alone(s, &native) == ISA_DIFFERENT)
                again = true;
            else
                dropped.bits[i / 64] &= ~(1ull << i % 64);
        }
    } while (again);
    isa_program_without(&s->encodings, whole, &dropped, &s->cases[0]);
    run_alone(s, &native);
    printf("made as small as it goes, of %u instructions:\n", items);
    isa_report(stdout, &s->cases[0], native, &s->ring3[0]);
    s->reports++;
}

static void batch_run(struct session *s)
{
    if (s->count == 0)
        return;
    native_start(s->native, s->count);
    for (unsigned i = 0; i < s->count; i++)
        isa_vcpu_run(s->vcpu, &s->cases[i], &s->ring3[i]);
    const struct isa_result *results = native_wait(s->native);
    for (unsigned i = 0; i < s->count; i++)
        judge(s, &s->cases[i], &results[i], &s->ring3[i]);
    s->count = 0;
    for (unsigned i = 0; i < s->failed_count; i++)
        minimise(s, &s->failed[i]);
    s->failed_count = 0;
}

/* False if the case does not exist, or is not in the wanted mode. */
static bool case_add(struct session *s, uint64_t seed, unsigned row, uint64_t number)
{
    struct isa_case *c = &s->cases[s->count];

    if (!isa_generate(&s->encodings, seed, row, number, c))
        return false;
    if ((s->options.only64 && c->mode != ISA_64) || (s->options.only32 && c->mode == ISA_64))
        return false;
    if (++s->count == BATCH)
        batch_run(s);
    return true;
}

static bool time_over(const struct session *s)
{
    return s->options.seconds > 0 && now_s() - s->started > s->options.seconds;
}

/* SEQUENCE, BYTES and PROGRAM get more than a single row. */
static unsigned row_weight(unsigned row)
{
    return row < ROW_SEQUENCE ? 1 : 60;
}

static void seed_run(struct session *s, uint64_t seed)
{
    unsigned weights = 0;
    uint64_t target = s->total.run + s->options.cases;

    for (unsigned row = 0; row < ISA_ROW_COUNT; row++) {
        if (isa_row_elsewhere(row) == NULL && (s->options.row < 0 || s->options.row == (int)row))
            weights += row_weight(row);
    }
    if (weights == 0)
        return;
    uint64_t rounds = s->options.cases / weights + 1;
    for (uint64_t number = 0; number < rounds * 4 && s->total.run + s->count < target && !time_over(s); number++) {
        for (unsigned row = 0; row < ISA_ROW_COUNT; row++) {
            if (isa_row_elsewhere(row) != NULL || (s->options.row >= 0 && s->options.row != (int)row))
                continue;
            for (unsigned i = 0; i < row_weight(row); i++)
                case_add(s, seed, row, number * row_weight(row) + i);
        }
    }
    batch_run(s);
}

/* ---- what is said at the end ---- */
static unsigned rows_without_test(const struct session *s)
{
    unsigned missing = 0;

    for (unsigned row = 0; row < ISA_ROW_COUNT; row++) {
        if (s->rows[row].run == 0 && isa_row_elsewhere(row) == NULL) {
            if (missing++ < 40)
                printf("%s has no test: no case could be made, and tests/isa/elsewhere.def does not name one\n",
                       isa_row_name(row));
        }
    }
    return missing;
}

static void table_print(const struct session *s)
{
    unsigned column = 0;

    printf("cases a row (and how many of them faulted):\n");
    for (unsigned row = 0; row < ISA_ROW_COUNT; row++) {
        const struct tally *t = &s->rows[row];
        if (isa_row_elsewhere(row) != NULL)
            printf("  %-16s %-21s", isa_row_name(row), isa_row_elsewhere(row));
        else
            printf("  %-16s %9llu %9llu%s", isa_row_name(row), (unsigned long long)t->run,
                   (unsigned long long)t->faulted, t->different ? " !" : "  ");
        if (++column % 3 == 0)
            putchar('\n');
    }
    putchar('\n');
}

static void summary_print(const struct session *s)
{
    double seconds = now_s() - s->started;
    unsigned rows = 0, away = 0, failing = 0;

    for (unsigned row = 0; row < ISA_ROW_COUNT; row++) {
        rows += s->rows[row].run != 0;
        away += isa_row_elsewhere(row) != NULL;
        failing += s->rows[row].different != 0;
    }
    if (failing) {
        printf("rows with differences:");
        for (unsigned row = 0; row < ISA_ROW_COUNT; row++) {
            if (s->rows[row].different)
                printf(" %s (%llu of %llu)", isa_row_name(row), (unsigned long long)s->rows[row].different,
                       (unsigned long long)s->rows[row].run);
        }
        printf("\n");
    }
    printf("isa: %llu cases in %.1f s (%.0f a second), %u rows here and %u elsewhere; %llu faulted, %llu excused, "
           "%llu different\n",
           (unsigned long long)s->total.run, seconds, (double)s->total.run / seconds, rows, away,
           (unsigned long long)s->total.faulted, (unsigned long long)s->total.excused,
           (unsigned long long)s->total.different);
    fflush(stdout);
}

static void usage(FILE *out)
{
    fputs("usage: isa_test [--cases N] [--seed S] [--row NAME [--case N]] [--mode 64|32|both] [--time S] [--forever] "
          "[--table] [--brief] [--engine NAME]\n",
          out);
}

static bool options_parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"cases", required_argument, NULL, 'n'}, {"seed", required_argument, NULL, 's'},
        {"row", required_argument, NULL, 'r'},   {"case", required_argument, NULL, 'c'},
        {"mode", required_argument, NULL, 'm'},  {"time", required_argument, NULL, 't'},
        {"forever", no_argument, NULL, 'f'},     {"table", no_argument, NULL, 'T'},
        {"brief", no_argument, NULL, 'b'},       {"help", no_argument, NULL, 'h'},
        {"engine", required_argument, NULL, 'e'},
        {0}};
    int opt;

    *o = (struct options){.cases = 200000, .seed = 1, .row = -1};
    while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (opt) {
        case 'n': o->cases = strtoull(optarg, NULL, 0); break;
        case 's': o->seed = strtoull(optarg, NULL, 0); break;
        case 'c': o->number = strtoull(optarg, NULL, 0); o->one = true; break;
        case 't': o->seconds = strtod(optarg, NULL); break;
        case 'f': o->forever = true; break;
        case 'T': o->table = true; break;
        case 'b': o->brief = true; break;
        case 'e': {
            struct error err = {""};
            o->engine = engine_find(optarg, ENGINE_COUNTS, &err);
            if (o->engine == NULL) {
                fprintf(stderr, "isa_test: %s\n", err.message);
                return false;
            }
            break;
        }
        case 'r':
            o->row = isa_row_find(optarg);
            if (o->row < 0) {
                fprintf(stderr, "isa_test: there is no row %s in insn.def\n", optarg);
                return false;
            }
            break;
        case 'm':
            o->only64 = strcmp(optarg, "64") == 0;
            o->only32 = strcmp(optarg, "32") == 0;
            if (!o->only64 && !o->only32 && strcmp(optarg, "both") != 0)
                return false;
            break;
        case 'h': usage(stdout); exit(0);
        default: return false;
        }
    }
    return optind == argc && !(o->one && o->row < 0);
}

static void run_forever(struct session *s)
{
    s->options.cases = 400000;
    for (uint64_t seed = (uint64_t)time(NULL); s->total.different == 0 && !time_over(s); seed++) {
        seed_run(s, seed);
        printf("seed %llu: ", (unsigned long long)seed);
        summary_print(s);
    }
}

int main(int argc, char **argv)
{
    static struct session s;
    unsigned missing = 0;

    if (!options_parse(&s.options, argc, argv)) {
        usage(stderr);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* what was found is seen, whatever comes after it */
    s.native = native_create();
    if (s.native == NULL)
        return 77;
    s.encodings.features = native_features(s.native);
    if (!s.encodings.features.ldt)
        printf("isa: modify_ldt() is not permitted here: no 16-bit code, no segments with bases\n");
    s.vcpu = isa_vcpu_create(s.encodings.features, s.options.engine);
    s.cases = native_cases(s.native);
    encodings_find(&s.encodings);
    s.started = now_s();

    if (s.options.one) {
        if (!case_add(&s, s.options.seed, (unsigned)s.options.row, s.options.number))
            printf("isa: there is no such case\n");
        batch_run(&s);
    } else if (s.options.forever) {
        run_forever(&s);
    } else {
        printf("isa: seed %llu\n", (unsigned long long)s.options.seed);
        seed_run(&s, s.options.seed);
    }
    if (s.options.table)
        table_print(&s);
    if (s.options.row < 0 && !s.options.one && !s.options.only64 && !s.options.only32)
        missing = rows_without_test(&s);
    summary_print(&s);
    encodings_free(&s.encodings);
    isa_vcpu_destroy(s.vcpu);
    native_destroy(s.native);
    return s.total.different != 0 || missing != 0;
}
