/* `ring3 top`: what a running machine does now, refreshed each second, as top(1) does for processes.
 *
 * The source is the monitor's `stats json`: two samples make the rates between them. The first screen shows the average
 * since the machine's start. On a terminal q, Ctrl-C and Ctrl-D quit, space refreshes at once; else, and with -b, each
 * screen is plain text behind the former. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/check.h"
#include "base/types.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/status.h"

#define ROWS_MAX 64u
#define PLACES_SHOWN 8u
#define TOP_INTERVAL_NS NS_PER_S

struct top {
    const char *where;
    bool batch;
    unsigned long count;  /* screens; 0: no end */
    uint64_t interval_ns;
    struct client *client;
    json_t *before, *now;
    unsigned lines, columns; /* of the terminal; 0: no limit */
};

/* ---- numbers of the samples ---- */

static const json_t *at(const json_t *sample, const char *group, const char *name, const char *part)
{
    const json_t *value = json_object_get(sample, "stats");
    if (group != NULL)
        value = json_object_get(value, group);
    value = json_object_get(value, name);
    return part != NULL ? json_object_get(value, part) : value;
}

static double number(const json_t *sample, const char *group, const char *name, const char *part)
{
    const json_t *value = at(sample, group, name, part);
    return json_is_number(value) ? json_number_value(value) : 0;
}

static double delta(const struct top *t, const char *group, const char *name, const char *part)
{
    double change = number(t->now, group, name, part) - number(t->before, group, name, part);
    return change > 0 ? change : 0;
}

/* Host time between the samples, while the machine was not paused. */
static double seconds(const struct top *t)
{
    return delta(t, NULL, "wall_ns", NULL) / 1e9;
}

static double rate(const struct top *t, const char *group, const char *name, const char *part)
{
    double s = seconds(t);
    return s > 0 ? delta(t, group, name, part) / s : 0;
}

static double own_delta(const struct top *t, const char *name)
{
    return json_number_value(json_object_get(t->now, name)) - json_number_value(json_object_get(t->before, name));
}

/* ---- the screen ---- */

static void show_head(const struct top *t, FILE *out)
{
    double s = seconds(t), share = s > 0 ? 100 / (s * 1e9) : 0, threads = number(t->now, NULL, "threads", NULL);
    double all = threads > 1 ? threads : 1; /* vCPUs' threads: each halts for itself */
    const char *engine = json_string_value(json_object_get(t->now, "engine"));
    fprintf(out, "ring3 top - %s, engine %s, %.0f cpu, %s, up %.1f s, guest time %.1f s\n", t->where, engine != NULL ? engine : "?",
            json_number_value(json_object_get(t->now, "cpus")),
            json_is_true(json_object_get(t->now, "paused")) ? "paused" : "running", number(t->now, NULL, "wall_ns", NULL) / 1e9,
            number(t->now, NULL, "guest_ns", NULL) / 1e9);
    fprintf(out, "time:   %5.1f%% halted, %5.1f%% process, %5.1f%% host kernel", delta(t, NULL, "halted_ns", NULL) * share / all,
            own_delta(t, "user_ns") * share, own_delta(t, "system_ns") * share);
    if (at(t->now, "translate", "translate_ns", NULL) != NULL)
        fprintf(out, ", %5.1f%% translating", delta(t, "translate", "translate_ns", NULL) * share);
    double busy = delta(t, NULL, "wall_ns", NULL) * all - delta(t, NULL, "halted_ns", NULL);
    if (json_is_number(at(t->now, NULL, "instructions", NULL)))
        fprintf(out, "; %.1f MIPS", busy > 0 ? delta(t, NULL, "instructions", NULL) / busy * 1e3 : 0);
    fprintf(out, "\nmemory: %.1f MiB of the monitor, %.1f MiB translated code, %.1f MiB shadow page tables\n",
            number(t->now, NULL, "monitor_bytes", NULL) / (double)MiB, number(t->now, "translate", "cache_bytes", NULL) / (double)MiB,
            number(t->now, "shadow", "bytes", NULL) / (double)MiB);
}

struct row {
    const char *name;
    double total;
};

static int compare_rows(const void *a, const void *b)
{
    const struct row *left = a, *right = b;
    if (left->total != right->total)
        return left->total > right->total ? -1 : 1;
    return strcmp(left->name, right->name);
}

/* The members of a group that happened, most frequent first; `part` as for rate(). */
static size_t rows_of(const struct top *t, const char *group, const char *part, struct row rows[ROWS_MAX])
{
    const json_t *object = at(t->now, NULL, group, NULL);
    const char *name;
    json_t *value;
    size_t n = 0;
    json_object_foreach((json_t *)object, name, value) {
        double total = rate(t, group, name, part);
        if (total > 0 && n < ROWS_MAX)
            rows[n++] = (struct row){.name = name, .total = total};
    }
    qsort(rows, n, sizeof rows[0], compare_rows);
    return n;
}

static void show_exits(const struct top *t, FILE *out)
{
    static const char *const modes[] = {"real", "v86", "kernel", "user"};
    struct row rows[ROWS_MAX];
    size_t n = rows_of(t, "exits", "total", rows);
    fprintf(out, "\n%-18s %12s %12s %12s %12s %12s\n", "EXITS/s", "ALL", "REAL", "V86", "KERNEL", "USER");
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "%-18s %12.0f", rows[i].name, rows[i].total);
        for (size_t mode = 0; mode < ARRAY_LEN(modes); mode++)
            fprintf(out, " %12.0f", rate(t, "exits", rows[i].name, modes[mode]));
        fputc('\n', out);
    }
}

/* Three in a line. */
static void show_rates(const struct top *t, const char *title, const char *group, const char *const names[], FILE *out)
{
    if (!json_is_object(at(t->now, NULL, group, NULL)))
        return;
    fprintf(out, "\n%s\n", title);
    for (size_t i = 0; names[i] != NULL; i++)
        fprintf(out, "%-18s %10.0f%s", names[i], rate(t, group, names[i], NULL), i % 3 == 2 || names[i + 1] == NULL ? "\n" : "   ");
}

static void show_vectors(const struct top *t, FILE *out)
{
    struct row exceptions[ROWS_MAX], interrupts[ROWS_MAX];
    size_t n = rows_of(t, "exceptions", NULL, exceptions), m = rows_of(t, "interrupts", NULL, interrupts);
    if (n + m == 0)
        return;
    fprintf(out, "\n%-18s %10s   %-18s %10s\n", "EXCEPTIONS/s", "", "INTERRUPTS/s", "");
    for (size_t i = 0; i < (n > m ? n : m) && i < 8; i++) {
        if (i < n)
            fprintf(out, "%-18s %10.0f   ", exceptions[i].name, exceptions[i].total);
        else
            fprintf(out, "%-29s   ", "");
        if (i < m)
            fprintf(out, "vector %-11s %10.0f", interrupts[i].name, interrupts[i].total);
        fputc('\n', out);
    }
}

/* Where the guest was found, since the start: it is asked a hundred times a second (machine/vm.c). */
static void show_places(const struct top *t, FILE *out)
{
    const json_t *places = at(t->now, NULL, "top_samples", NULL);
    size_t n = json_array_size(places);
    if (n == 0)
        return;
    fprintf(out, "\n%-18s %-18s %10s\n", "HOTTEST, SO FAR", "", "SAMPLES");
    for (size_t i = 0; i < n && i < PLACES_SHOWN; i++) {
        const json_t *place = json_array_get(places, i);
        const char *name = json_string_value(json_object_get(place, "symbol")), *rip = json_string_value(json_object_get(place, "rip"));
        fprintf(out, "%-18s %-18s %10.0f\n", rip != NULL ? rip : "", name != NULL ? name : "",
                json_number_value(json_object_get(place, "count")));
    }
}

static void show_screen(const struct top *t, FILE *out)
{
    static const char *const translate[] = {"enters", "helper_calls", "links", "blocks", "invalidations", "flushes", NULL};
    static const char *const shadow[] = {"fills", "prefills", "flushes", "page_flushes", "switches", "switches_kept", NULL};
    show_head(t, out);
    show_exits(t, out);
    show_vectors(t, out);
    show_rates(t, "TRANSLATION/s", "translate", translate, out);
    show_rates(t, "SHADOW PAGE TABLES/s", "shadow", shadow, out);
    show_places(t, out);
}

/* On a terminal: over what is there, cut to its size. */
static void put_screen(const struct top *t, const char *text)
{
    if (t->lines == 0) {
        fputs(text, stdout);
        fflush(stdout);
        return;
    }
    fputs("\033[H", stdout);
    unsigned line = 0;
    while (*text != 0 && line + 1 < t->lines) {
        size_t n = strcspn(text, "\n");
        printf("%.*s\033[K\n", (int)(n < t->columns ? n : t->columns), text);
        text += n + (text[n] == '\n');
        line++;
    }
    fputs("\033[J", stdout);
    fflush(stdout);
}

/* ---- samples ---- */

static bool sample(struct top *t, struct error *err)
{
    json_error_t why;
    const char *answer = client_ask(t->client, "stats json", err);
    if (answer == NULL)
        return false;
    json_t *value = json_loads(answer, 0, &why);
    if (value == NULL)
        return error_set(err, "top: the monitor's answer is not understood: %s", why.text);
    json_decref(t->before);
    t->before = t->now;
    t->now = value;
    return true;
}

static bool show(struct top *t, struct error *err)
{
    if (!sample(t, err))
        return false;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    check(out != NULL);
    show_screen(t, out);
    fclose(out);
    put_screen(t, text);
    free(text);
    return true;
}

/* Waits for the next screen. True: the user wants to quit. */
static bool wait_key(const struct top *t)
{
    struct pollfd key = {.fd = t->lines != 0 ? STDIN_FILENO : -1, .events = POLLIN};
    int ready = poll(&key, 1, (int)(t->interval_ns / 1000000));
    char c;
    if (ready <= 0)
        return false;
    return read(STDIN_FILENO, &c, 1) != 1 || c == 'q' || c == 'Q' || c == 3 || c == 4;
}

static int run(struct top *t)
{
    struct error err;
    for (unsigned long n = 0; t->count == 0 || n < t->count; n++) {
        if (n > 0 && wait_key(t))
            break;
        struct winsize size;
        if (t->lines != 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
            t->lines = size.ws_row;
            t->columns = size.ws_col;
        }
        if (t->lines == 0 && n > 0)
            puts("");
        if (!show(t, &err))
            return client_ended(t->client) ? STATUS_OK : cli_fail(STATUS_INTERNAL, &err);
    }
    return STATUS_OK;
}

static int run_on_terminal(struct top *t)
{
    struct termios before, raw;
    if (tcgetattr(STDIN_FILENO, &before) != 0)
        return run(t);
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | ISIG);
    t->lines = 24;
    t->columns = 80;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    fputs("\033[?1049h\033[?25l\033[H\033[2J", stdout); /* the other screen, no cursor */
    int status = run(t);
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
    return status;
}

/* ---- arguments ---- */

static bool parse(struct top *t, int argc, char **argv, struct error *err)
{
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "-b") == 0) {
            t->batch = true;
        } else if ((strcmp(word, "-n") == 0 || strcmp(word, "-d") == 0) && i + 1 < argc) {
            char *end;
            i++;
            if (word[1] == 'd' && !parse_seconds(argv[i], &t->interval_ns, err))
                return error_prefix(err, "top: -d");
            if (word[1] == 'n' && ((t->count = strtoul(argv[i], &end, 10)) == 0 || *end != 0 || argv[i][0] == '-'))
                return error_set(err, "top: -n: '%.40s' is not a number of screens", argv[i]);
        } else if (word[0] == '-' || t->where != NULL) {
            return error_set(err, "top: '%.40s' is not understood: ring3 top [-b] [-n SCREENS] [-d SECONDS] PATH|PID", word);
        } else {
            t->where = word;
        }
    }
    if (t->interval_ns < 10000000 || t->interval_ns > 86400 * NS_PER_S)
        return error_set(err, "top: -d: from 0.01 to 86400 seconds");
    if (t->where == NULL)
        return error_set(err, "top: name the socket that `ring3 run --monitor unix:PATH` made, or that run's process number");
    return true;
}

int command_top(int argc, char **argv)
{
    struct top t = {.interval_ns = TOP_INTERVAL_NS};
    struct error err;
    if (!parse(&t, argc, argv, &err))
        return cli_fail(STATUS_USAGE, &err);
    signal(SIGPIPE, SIG_IGN);
    t.client = client_connect(t.where, &err);
    if (t.client == NULL)
        return cli_fail(STATUS_USAGE, &err);
    int status = t.batch || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) ? run(&t) : run_on_terminal(&t);
    json_decref(t.before);
    json_decref(t.now);
    client_destroy(t.client);
    return status;
}
