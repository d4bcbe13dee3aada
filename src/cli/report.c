/* `ring3 report`: one page for the browser from a timeline of `ring3 run --trace`.
 *
 * The timeline is read a line at a time, which is an event at a time as engine/trace.c writes it, so its size does not
 * matter. A page cannot hold millions of slices, nor a screen show them: time is cut into BUCKETS pieces, and what is
 * shorter than a piece and begins in the same one, on the same track, becomes one slice that knows how many it stands
 * for. So no more than about 2 * BUCKETS slices are left of each track. The counts in the tables are of all.
 *
 * The page (report.html) holds its own style and script, gets the data as JSON within itself, and may load nothing: its
 * content security policy says so. Whatever a guest has put into the data stays text: in the JSON every '<' is written
 * as an escape, and the script only ever sets text, never markup. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/types.h"
#include "cli/commands.h"
#include "cli/embed.h"
#include "cli/status.h"

#define BUCKETS 12000.0
#define TRACKS_MAX 768u /* 3 for each processor */
#define NUMBER_MAX 1e15 /* of what a file may claim: 30 years in us */
#define PLACE "/*DATA*/"

/* The slice that is being collected for a track. */
struct pending {
    bool present;
    int64_t bucket;
    double ts, end, busy;
    unsigned count;
    json_int_t name, detail;
};

struct page {
    const char *path;
    json_t *names, *name_index; /* text by number, number by text */
    json_t *details, *detail_index;
    json_t *tracks, *slices, *instants, *totals, *report;
    struct pending pending[TRACKS_MAX], marks[TRACKS_MAX];
    double first, last, quantum;
    uint64_t events;
};

/* ---- reading ---- */

/* Calls `each` with every event of the file. False with a message if it is not a timeline. */
static bool events_read(struct page *p, void (*each)(struct page *p, json_t *event), struct error *err)
{
    FILE *in = fopen(p->path, "re");
    if (in == NULL)
        return error_set(err, "report: %s: %s", p->path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    ssize_t length = getline(&line, &room, in);
    bool ok = length > 0 && line[0] == '[';
    p->events = 0;
    while (ok && (length = getline(&line, &room, in)) > 0) {
        size_t n = strcspn(line, "\n");
        while (n > 0 && (line[n - 1] == ',' || line[n - 1] == '\r'))
            n--;
        if (n == 0 || line[0] == ']')
            continue;
        json_t *event = json_loadb(line, n, 0, NULL);
        if (event == NULL)
            break; /* the last one of a pipe that was cut off */
        each(p, event);
        p->events++;
        json_decref(event);
    }
    ok = ok && p->events > 0 && !ferror(in);
    free(line);
    fclose(in);
    return ok || error_set(err, "report: %s: is not a timeline that ring3 run --trace has written", p->path);
}

static const char *text_of(json_t *event, const char *key)
{
    const char *text = json_string_value(json_object_get(event, key));
    return text != NULL ? text : "";
}

static double number_of(json_t *event, const char *key)
{
    double value = json_number_value(json_object_get(event, key));
    return value >= 0 ? value < NUMBER_MAX ? value : NUMBER_MAX : 0;
}

/* The number of a text in a list of different ones. */
static json_int_t intern(json_t *list, json_t *index, const char *text)
{
    json_t *known = json_object_get(index, text);
    if (known != NULL)
        return json_integer_value(known);
    json_int_t n = (json_int_t)json_array_size(list);
    json_t *string = json_string(text); /* NULL: it was cut within a character */
    json_array_append_new(list, string != NULL ? string : json_string("?"));
    json_object_set_new(index, text, json_integer(n));
    return n;
}

static unsigned track_of(json_t *event)
{
    double tid = number_of(event, "tid");
    return tid >= 1 && tid <= TRACKS_MAX ? (unsigned)tid - 1 : 0;
}

/* ---- first pass: from when to when, and whose tracks ---- */

static void event_survey(struct page *p, json_t *event)
{
    const char *phase = text_of(event, "ph");
    if (strcmp(phase, "M") == 0) {
        json_t *args = json_object_get(event, "args");
        if (strcmp(text_of(event, "name"), "thread_name") == 0) {
            while (json_array_size(p->tracks) <= track_of(event))
                json_array_append_new(p->tracks, json_string(""));
            json_array_set_new(p->tracks, track_of(event), json_string(text_of(args, "name")));
        } else if (strcmp(text_of(event, "name"), "ring3_report") == 0 && p->report == NULL) {
            p->report = json_incref(args);
        }
        return;
    }
    double ts = number_of(event, "ts"), end = ts + number_of(event, "dur");
    p->first = p->first < 0 || ts < p->first ? ts : p->first;
    p->last = end > p->last ? end : p->last;
}

/* ---- second pass: slices ---- */

/* "port 0x3f8, value 0x41, 16550A" */
static void detail_text(json_t *event, char *text, size_t size)
{
    const char *key;
    json_t *value;
    size_t used = 0;
    text[0] = 0;
    json_object_foreach(json_object_get(event, "args"), key, value)
    {
        char number[32];
        const char *word = json_string_value(value);
        if (word == NULL) {
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
            word = number;
        }
        int n = snprintf(text + used, size - used, "%s%s %.80s", used > 0 ? ", " : "", key, word);
        if (n < 0 || (size_t)n >= size - used)
            return;
        used += (size_t)n;
    }
}

static double rounded(double us)
{
    return (double)(int64_t)(us * 1000 + 0.5) / 1000;
}

static void pending_flush(struct pending *pending, unsigned track, json_t *list)
{
    if (!pending->present)
        return;
    json_t *slice = json_array();
    json_array_append_new(slice, json_integer(track));
    json_array_append_new(slice, json_real(rounded(pending->ts)));
    json_array_append_new(slice, json_real(rounded(pending->end - pending->ts)));
    json_array_append_new(slice, json_integer(pending->name));
    json_array_append_new(slice, json_integer(pending->detail));
    if (pending->count > 1) {
        json_array_append_new(slice, json_integer(pending->count));
        json_array_append_new(slice, json_real(rounded(pending->busy)));
    }
    json_array_append_new(list, slice);
    pending->present = false;
}

static void slice_add(struct page *p, struct pending *pending, unsigned track, json_t *list, json_t *event)
{
    char detail[512];
    double ts = number_of(event, "ts") - p->first, duration = number_of(event, "dur");
    int64_t bucket = (int64_t)(ts / p->quantum);
    if (pending->present && pending->bucket == bucket && duration < p->quantum) {
        pending->end = ts + duration;
        pending->busy += duration;
        pending->count++;
        return;
    }
    pending_flush(pending, track, list);
    detail_text(event, detail, sizeof detail);
    *pending = (struct pending){.present = true,
                                .bucket = duration < p->quantum ? bucket : -1,
                                .ts = ts,
                                .end = ts + duration,
                                .busy = duration,
                                .count = 1,
                                .name = intern(p->names, p->name_index, text_of(event, "name")),
                                .detail = intern(p->details, p->detail_index, detail)};
}

static void total_add(struct page *p, json_t *event)
{
    const char *name = text_of(event, "name");
    json_t *total = json_object_get(p->totals, name);
    if (total == NULL) {
        total = json_pack("[i, f]", 0, 0.0);
        json_object_set_new(p->totals, name, total);
    }
    json_array_set_new(total, 0, json_integer(json_integer_value(json_array_get(total, 0)) + 1));
    json_array_set_new(total, 1, json_real(json_real_value(json_array_get(total, 1)) + number_of(event, "dur")));
}

static void event_place(struct page *p, json_t *event)
{
    const char *phase = text_of(event, "ph");
    unsigned track = track_of(event);
    if (strcmp(phase, "X") == 0) {
        slice_add(p, &p->pending[track], track, p->slices, event);
        if (track % 3 == 2)
            total_add(p, event);
    } else if (strcmp(phase, "i") == 0) {
        slice_add(p, &p->marks[track], track, p->instants, event);
    }
}

static bool page_read(struct page *p, struct error *err)
{
    p->names = json_array(), p->name_index = json_object();
    p->details = json_array(), p->detail_index = json_object();
    p->tracks = json_array(), p->slices = json_array(), p->instants = json_array(), p->totals = json_object();
    p->first = -1;
    if (!events_read(p, event_survey, err))
        return false;
    p->first = p->first < 0 ? 0 : p->first;
    double span = p->last - p->first;
    p->quantum = span > 0 ? span / BUCKETS : 1;
    if (p->events < 60000)
        p->quantum = 1e-3; /* few enough to be shown one by one */
    if (!events_read(p, event_place, err))
        return false;
    for (unsigned track = 0; track < TRACKS_MAX; track++) {
        pending_flush(&p->pending[track], track, p->slices);
        pending_flush(&p->marks[track], track, p->instants);
    }
    return true;
}

static void page_free(struct page *p)
{
    json_t *all[] = {p->names,  p->name_index, p->details, p->detail_index, p->tracks,
                     p->slices, p->instants,   p->totals,  p->report};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        json_decref(all[i]);
    free(p);
}

/* ---- writing ---- */

static char *page_data(const struct page *p)
{
    const char *slash = strrchr(p->path, '/');
    json_t *root = json_object();
    json_t *name = json_string(slash != NULL ? slash + 1 : p->path);
    json_object_set_new(root, "trace", name != NULL ? name : json_string("(a name that is not UTF-8)"));
    json_object_set_new(root, "events", json_integer((json_int_t)p->events));
    json_object_set_new(root, "span_us", json_real(rounded(p->last - p->first)));
    json_object_set(root, "tracks", p->tracks);
    json_object_set(root, "names", p->names);
    json_object_set(root, "details", p->details);
    json_object_set(root, "slices", p->slices);
    json_object_set(root, "instants", p->instants);
    json_object_set(root, "totals", p->totals);
    if (p->report != NULL)
        json_object_set(root, "report", p->report);
    else
        json_object_set_new(root, "report", json_null());
    char *text = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
    json_decref(root);
    return text;
}

/* JSON within a page: '<' could end the element that holds it. It can only stand in strings. */
static void write_data(const char *text, FILE *out)
{
    for (; *text != 0; text++) {
        if (*text == '<')
            fputs("\\u003c", out);
        else
            fputc(*text, out);
    }
}

static bool page_write(const struct page *p, const char *output, struct error *err)
{
    const char *page = (const char *)embed_report;
    const char *place = memmem(page, embed_report_size, PLACE, strlen(PLACE));
    char *data = page_data(p);
    if (data == NULL || place == NULL) {
        free(data);
        return error_set(err, "report: out of memory");
    }
    FILE *out = fopen(output, "we");
    if (out == NULL) {
        error_set(err, "report: %s: %s", output, strerror(errno));
        free(data);
        return false;
    }
    const char *rest = place + strlen(PLACE);
    fwrite(page, 1, (size_t)(place - page), out);
    write_data(data, out);
    fwrite(rest, 1, (size_t)(page + embed_report_size - rest), out);
    free(data);
    bool ok = !ferror(out);
    if (fclose(out) != 0 || !ok)
        return error_set(err, "report: %s: %s", output, strerror(errno != 0 ? errno : EIO));
    return true;
}

/* ---- the command ---- */

static bool arguments_parse(int argc, char **argv, const char **trace, const char **output, bool *help,
                            struct error *err)
{
    for (int at = 0; at < argc; at++) {
        const char *word = argv[at];
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            *help = true;
        } else if (strcmp(word, "-o") == 0 || strcmp(word, "--output") == 0) {
            if (at + 1 == argc)
                return error_set(err, "report: %s needs a value: %s FILE", word, word);
            *output = argv[++at];
        } else if (strncmp(word, "--output=", 9) == 0) {
            *output = word + 9;
        } else if (word[0] == '-' && word[1] != 0) {
            return error_set(err, "report: unknown option '%.60s'; there is only -o FILE", word);
        } else if (*trace != NULL) {
            return error_set(err, "report: '%.200s' is one word too many", word);
        } else {
            *trace = word;
        }
    }
    if (*trace == NULL && !*help)
        return error_set(err, "report: name the file that ring3 run --trace has written");
    return true;
}

int command_report(int argc, char **argv)
{
    const char *trace = NULL, *output = NULL;
    char beside[4096];
    bool help = false;
    struct error err;
    if (!arguments_parse(argc, argv, &trace, &output, &help, &err))
        return cli_fail(STATUS_USAGE, &err);
    if (help)
        return command_help(1, (char *[]){"report", NULL});
    if (output == NULL) {
        const char *dot = strrchr(trace, '.');
        size_t length = dot != NULL && strchr(dot, '/') == NULL ? (size_t)(dot - trace) : strlen(trace);
        snprintf(beside, sizeof beside, "%.*s.html", (int)length, trace);
        output = beside;
    }
    struct page *p = calloc(1, sizeof *p);
    if (p == NULL) {
        error_set(&err, "report: out of memory");
        return cli_fail(STATUS_INTERNAL, &err);
    }
    p->path = trace;
    bool ok = page_read(p, &err) && page_write(p, output, &err);
    page_free(p);
    if (!ok)
        return cli_fail(STATUS_USAGE, &err);
    printf("%s\n", output);
    return STATUS_OK;
}
