/* The command that sets two engines against each other: see diff.h.
 *
 *   --engine NAME     the engine to be tested (default interpret)
 *   --against NAME    the judge (default interpret)
 *   --cases N         how many (default 100000)
 *   --seed S          default 1
 *   --case N          only this case, and report it in any case
 *   --first N         begin with this case: for a difference that comes of what was run before
 *   --time S          stop after S seconds
 *   --forever         new seeds until stopped or a difference is found
 *   --loose           do not compare instruction counts, and let guest time stand still
 *   --verbose         print the number of each case before it runs: for one that does not come back
 *
 * Exit status: 0 all the same, 1 differences, 2 could not run, 77 the engine cannot run here.
 */
#include <getopt.h>
#include <stdlib.h>
#include <time.h>

#include "diff.h"

#define REPORTS_MAX 4u

struct options {
    const struct engine *engine, *against;
    uint64_t cases, seed, number, first;
    double seconds;
    bool one, forever, loose, verbose;
};

struct session {
    struct options options;
    struct encodings encodings;
    struct world *engine, *against;
    struct diff_case c;
    uint64_t run, halted, shut_down, endless, unjudged, different;
    unsigned reports;
    double started;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

enum verdict { SAME, UNJUDGED, DIFFERENT };

static enum verdict case_run(struct session *s, const struct diff_case *c, uint64_t dropped, enum diff_end *end)
{
    enum diff_end a = world_run(s->engine, c, dropped), b = world_run(s->against, c, dropped);

    *end = b;
    if (world_tables_changed(s->engine, c) || world_tables_changed(s->against, c))
        return UNJUDGED;
    if (a == DIFF_ENDLESS && b == DIFF_ENDLESS &&
        world_vcpu(s->engine)->instructions != world_vcpu(s->against)->instructions)
        return UNJUDGED;
    return a == b && world_compare(s->engine, s->against, NULL) ? SAME : DIFFERENT;
}

static void code_print(const struct session *s, uint64_t dropped)
{
    const struct diff_case *c = &s->c;
    ZydisFormatter formatter;

    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned i = 0; i < c->pieces; i++) {
        const uint8_t *bytes = c->piece[i].bytes;
        unsigned at = 0, length = c->piece[i].length;
        if (dropped >> i & 1)
            continue;
        while (at < length) {
            ZydisDecodedInstruction in;
            ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
            char text[128] = "(not an instruction)";
            unsigned n = length - at, rip = CODE_AT + c->code_offset + c->piece[i].offset + at;
            if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(isa_decoder(diff_mode(c->start)), bytes + at, n, &in, operands))) {
                n = in.length;
                ZydisFormatterFormatInstruction(&formatter, &in, operands, in.operand_count_visible, text, sizeof(text),
                                                rip, NULL);
            }
            printf("    %05x ", rip);
            for (unsigned k = 0; k < n; k++)
                printf(" %02x", bytes[at + k]);
            printf("   %s\n", text);
            at += n;
        }
    }
}

static void report(struct session *s, uint64_t dropped)
{
    static const char *const starts[] = {START_NAMES};
    static const char *const ends[] = {"halted", "shut down", "did not end"};
    const struct diff_case *c = &s->c;
    enum diff_end a = world_run(s->engine, c, dropped), b = world_run(s->against, c, dropped);

    printf("case %llu: %s, %s%s\n", (unsigned long long)c->number, starts[c->start], c->user ? "user" : "supervisor",
           c->pending_interrupt ? ", an interrupt pending" : "");
    printf("  cr0 %llx cr4 %llx efer %llx rflags %x dr0 %llx dr7 %llx\n", (unsigned long long)c->cr0,
           (unsigned long long)c->cr4, (unsigned long long)c->efer, c->rflags, (unsigned long long)c->dr[0],
           (unsigned long long)c->dr[7]);
    for (unsigned i = 0; i < 16; i++)
        printf("  r%-2u %016llx%s", i, (unsigned long long)c->regs[i], i % 4 == 3 ? "\n" : "");
    code_print(s, dropped);
    printf("  %s %s after %llu instructions, %s %s after %llu\n", s->options.engine->name, ends[a],
           (unsigned long long)world_vcpu(s->engine)->instructions, s->options.against->name, ends[b],
           (unsigned long long)world_vcpu(s->against)->instructions);
    world_compare(s->engine, s->against, stdout);
    printf("  again: diff_test --engine %s --against %s --seed %llu --case %llu\n\n", s->options.engine->name,
           s->options.against->name, (unsigned long long)c->seed, (unsigned long long)c->number);
    fflush(stdout);
}

/* Leaves out pieces while a difference remains. */
static uint64_t minimise(struct session *s)
{
    uint64_t dropped = 0;
    enum diff_end end;
    bool again;

    if (case_run(s, &s->c, 0, &end) != DIFFERENT) {
        printf("case %llu: different only behind the cases before it\n", (unsigned long long)s->c.number);
        return 0;
    }
    do {
        again = false;
        for (unsigned i = 0; i < s->c.pieces; i++) {
            uint64_t bit = 1ull << i;
            if ((dropped & bit) || case_run(s, &s->c, dropped | bit, &end) != DIFFERENT)
                continue;
            dropped |= bit;
            again = true;
        }
    } while (again);
    return dropped;
}

static void one_case(struct session *s, uint64_t seed, uint64_t number)
{
    enum diff_end end;

    diff_make(&s->encodings, seed, number, &s->c);
    if (s->options.verbose)
        fprintf(stderr, "%llu\n", (unsigned long long)number);
    enum verdict verdict = case_run(s, &s->c, 0, &end);
    s->run++;
    s->halted += end == DIFF_HALTED;
    s->shut_down += end == DIFF_SHUTDOWN;
    s->endless += end == DIFF_ENDLESS;
    s->unjudged += verdict == UNJUDGED;
    s->different += verdict == DIFFERENT;
    if (verdict == DIFFERENT && s->reports++ < REPORTS_MAX) {
        printf("as first met:\n"); /* what an engine has learnt may change what it does the next time */
        world_compare(s->engine, s->against, stdout);
        report(s, minimise(s));
    }
    if (verdict != DIFFERENT && s->options.one)
        report(s, 0);
}

static bool time_over(const struct session *s)
{
    return s->options.seconds > 0 && now_s() - s->started > s->options.seconds;
}

static void summary_print(const struct session *s, uint64_t seed)
{
    double seconds = now_s() - s->started;

    printf("%s against %s, seed %llu: %llu cases in %.1f s (%.0f a second): %llu halted, %llu shut down, %llu did not end; "
           "%llu not judged, %llu different\n",
           s->options.engine->name, s->options.against->name, (unsigned long long)seed, (unsigned long long)s->run, seconds,
           (double)s->run / seconds, (unsigned long long)s->halted, (unsigned long long)s->shut_down,
           (unsigned long long)s->endless, (unsigned long long)s->unjudged, (unsigned long long)s->different);
    fflush(stdout);
}

/* NULL after a message; `status` says which. */
static const struct engine *engine_named(const char *name, int *status)
{
    struct error err = {""};
    const struct engine *engine = engine_find(name, ENGINE_COUNTS, &err);

    for (unsigned i = 0; engine == NULL && i < engine_count; i++)
        *status = strcmp(engines[i]->name, name) == 0 ? 77 : *status;
    if (engine == NULL)
        fprintf(stderr, "diff_test: %s\n", err.message);
    return engine;
}

static bool options_parse(struct options *o, int argc, char **argv, int *status)
{
    static const struct option longs[] = {
        {"engine", required_argument, NULL, 'e'}, {"against", required_argument, NULL, 'a'},
        {"cases", required_argument, NULL, 'n'},  {"seed", required_argument, NULL, 's'},
        {"case", required_argument, NULL, 'c'},   {"time", required_argument, NULL, 't'},
        {"forever", no_argument, NULL, 'f'},      {"loose", no_argument, NULL, 'l'},
        {"verbose", no_argument, NULL, 'v'},      {"first", required_argument, NULL, 'i'},
        {0}};
    const char *engine = "interpret", *against = "interpret";
    int opt;

    *o = (struct options){.cases = 100000, .seed = 1};
    *status = 2;
    while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (opt) {
        case 'e': engine = optarg; break;
        case 'a': against = optarg; break;
        case 'n': o->cases = strtoull(optarg, NULL, 0); break;
        case 's': o->seed = strtoull(optarg, NULL, 0); break;
        case 'c': o->number = strtoull(optarg, NULL, 0); o->one = true; break;
        case 't': o->seconds = strtod(optarg, NULL); break;
        case 'f': o->forever = true; break;
        case 'i': o->first = strtoull(optarg, NULL, 0); break;
        case 'l': o->loose = true; break;
        case 'v': o->verbose = true; break;
        default:
            fputs("usage: diff_test [--engine NAME] [--against NAME] [--cases N] [--seed S [--case N]] [--time S] "
                  "[--forever] [--loose] [--verbose]\n", stderr);
            return false;
        }
    }
    o->engine = engine_named(engine, status);
    o->against = engine_named(against, status);
    return o->engine != NULL && o->against != NULL;
}

int main(int argc, char **argv)
{
    static struct session s;
    int status;

    if (!options_parse(&s.options, argc, argv, &status))
        return status;
    setvbuf(stdout, NULL, _IOLBF, 0);
    s.engine = world_create(s.options.engine, s.options.loose);
    s.against = world_create(s.options.against, s.options.loose);
    encodings_find(&s.encodings);
    s.started = now_s();
    if (s.options.one) {
        one_case(&s, s.options.seed, s.options.number);
        summary_print(&s, s.options.seed);
    }
    for (uint64_t seed = s.options.forever ? (uint64_t)time(NULL) : s.options.seed; !s.options.one; seed++) {
        for (uint64_t number = s.options.first; number < s.options.first + s.options.cases && !time_over(&s); number++)
            one_case(&s, seed, number);
        summary_print(&s, seed);
        if (!s.options.forever || s.different != 0 || time_over(&s))
            break;
    }
    encodings_free(&s.encodings);
    world_destroy(s.engine);
    world_destroy(s.against);
    return s.different != 0;
}
