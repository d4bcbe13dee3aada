/* The timeline writer. See trace.h for the format.
 *
 * A guest slice is what lies between two exits or changes of mode of a vCPU, so it is written when the second one
 * comes. After HLT or MWAIT the time up to the next exit is not the guest's: it is written as "halted" on the
 * monitor's track.
 *
 * Events are formatted into a buffer of 1 MiB under a mutex, which is written when it is full and once a second. When
 * the disk is full, or the file is otherwise refused, the timeline ends there, and trace_destroy() says why. */
#include "engine/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "host/clock.h"

#define BUFFER_SIZE (1024u * 1024u)
#define EVENT_MAX 1024u /* no event is longer */
#define END "\n]\n"
#define END_LENGTH 3u

enum track { TRACK_USER, TRACK_KERNEL, TRACK_MONITOR, TRACK_COUNT };

/* Where a vCPU's line of time has got to. */
struct lane {
    bool named, halted;
    bool entering; /* an event of user code is being delivered: what follows is the monitor's, until the mode changes */
    uint64_t end_ns; /* of the last exit */
};

struct trace {
    pthread_mutex_t mutex;
    enum trace_clock clock;
    uint64_t start_ns;
    int fd;
    int error; /* errno of the first refusal */
    bool seekable, full;
    uint64_t written; /* bytes in the file, without END */
    uint64_t flushed_ns;
    uint64_t limit;
    char *path;
    struct lane *lanes; /* by vCPU */
    unsigned lane_count;
    size_t length;
    char buffer[BUFFER_SIZE];
};

/* What the fields of an exit mean, by reason. */
static const struct exit_fields {
    const char *address;
    bool value, error, instant;
} exit_fields[EXIT_REASON_COUNT] = {
    [EXIT_IO_IN] = {.address = "port", .value = true},
    [EXIT_IO_OUT] = {.address = "port", .value = true},
    [EXIT_MMIO_READ] = {.address = "gpa", .value = true},
    [EXIT_MMIO_WRITE] = {.address = "gpa", .value = true},
    [EXIT_MSR_READ] = {.address = "msr", .value = true},
    [EXIT_MSR_WRITE] = {.address = "msr", .value = true},
    [EXIT_CR_READ] = {.address = "cr", .value = true},
    [EXIT_CR_WRITE] = {.address = "cr", .value = true},
    [EXIT_DR_ACCESS] = {.address = "dr", .value = true},
    [EXIT_EXCEPTION] = {.error = true, .instant = true},
    [EXIT_INTERRUPT] = {.instant = true},
    [EXIT_SOFT_INTERRUPT] = {.instant = true},
    [EXIT_NMI] = {.instant = true},
    [EXIT_TRIPLE_FAULT] = {.instant = true},
};

static bool trace_write(struct trace *trace, const char *bytes, size_t n, uint64_t offset)
{
    for (size_t done = 0; done < n;) {
        ssize_t put = trace->seekable ? pwrite(trace->fd, bytes + done, n - done, (off_t)(offset + done))
                                      : write(trace->fd, bytes + done, n - done);
        if (put >= 0) {
            done += (size_t)put;
        } else if (errno != EINTR) {
            trace->error = errno;
            return false;
        }
    }
    return true;
}

/* After a refusal: what was whole stays, and is closed. If even that is refused there is nothing left to try. */
static void trace_cut(struct trace *trace)
{
    int error = trace->error;
    if (trace->seekable && ftruncate(trace->fd, (off_t)trace->written) == 0)
        trace_write(trace, END, END_LENGTH, trace->written);
    trace->error = error;
}

/* The buffer has room for END. */
static void trace_flush(struct trace *trace)
{
    if (trace->error == 0 && trace->length > 0) {
        size_t n = trace->length;
        if (trace->seekable)
            memcpy(trace->buffer + n, END, END_LENGTH);
        if (trace_write(trace, trace->buffer, n + (trace->seekable ? END_LENGTH : 0), trace->written))
            trace->written += n;
        else
            trace_cut(trace);
    }
    trace->length = 0;
}

__attribute__((format(printf, 2, 3))) static void trace_append(struct trace *trace, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(trace->buffer + trace->length, BUFFER_SIZE - trace->length, format, args);
    va_end(args);
    check(n >= 0 && (size_t)n < BUFFER_SIZE - trace->length);
    trace->length += (size_t)n;
}

/* Begins an event: makes room for one whole event first. */
static void event_begin(struct trace *trace, const char *phase, unsigned vcpu, enum track track)
{
    if (trace->length > BUFFER_SIZE - EVENT_MAX)
        trace_flush(trace);
    trace_append(trace, ",\n{\"ph\":\"%s\",\"pid\":1,\"tid\":%u", phase, vcpu * TRACK_COUNT + track + 1);
}

static void append_time(struct trace *trace, const char *key, uint64_t ns)
{
    trace_append(trace, ",\"%s\":%" PRIu64 ".%03u", key, ns / 1000, (unsigned)(ns % 1000));
}

/* Names of devices are ours, but a quote in one must not spoil the file. At most 64 characters. */
static void append_text(struct trace *trace, const char *key, const char *text)
{
    char clean[65];
    size_t n = 0;
    for (; *text != 0 && n < sizeof clean - 1; text++)
        clean[n++] = *text == '"' || *text == '\\' || (unsigned char)*text < ' ' ? '_' : *text;
    clean[n] = 0;
    trace_append(trace, "\"%s\":\"%s\"", key, clean);
}

struct trace *trace_create(const char *path, enum trace_clock clock, uint64_t limit, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (fd < 0) {
        error_set(err, "%s: the timeline cannot be written: %s", path, strerror(errno));
        return NULL;
    }
    struct trace *trace = malloc(sizeof *trace);
    check(trace != NULL);
    memset(trace, 0, offsetof(struct trace, buffer));
    pthread_mutex_init(&trace->mutex, NULL);
    trace->clock = clock;
    trace->start_ns = clock_monotonic_ns();
    trace->fd = fd;
    trace->seekable = lseek(fd, 0, SEEK_CUR) == 0;
    trace->limit = limit;
    trace->path = strdup(path);
    check(trace->path != NULL);
    trace_append(trace, "[\n{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"ring3\"}}");
    trace_flush(trace);
    return trace;
}

bool trace_destroy(struct trace *trace, struct error *err)
{
    if (trace == NULL)
        return true;
    trace_flush(trace);
    if (!trace->seekable && trace->error == 0)
        trace_write(trace, END, END_LENGTH, 0);
    if (close(trace->fd) != 0 && trace->error == 0)
        trace->error = errno;
    bool ok = trace->error == 0;
    if (!ok)
        error_set(err, "%s: the timeline is incomplete: %s", trace->path, strerror(trace->error));
    pthread_mutex_destroy(&trace->mutex);
    free(trace->lanes);
    free(trace->path);
    free(trace);
    return ok;
}

bool trace_is_full(const struct trace *trace)
{
    return trace->full;
}

uint64_t trace_now_ns(const struct trace *trace, const struct vcpu *v)
{
    if (trace->clock == TRACE_CLOCK_GUEST && v->platform.now_ns != NULL)
        return v->platform.now_ns(v->platform.opaque);
    return clock_monotonic_ns() - trace->start_ns;
}

/* The lane of a processor. The first one runs from the beginning; the others wait to be started, of which nobody hears. */
static struct lane *trace_lane(struct trace *trace, unsigned vcpu, uint64_t now_ns)
{
    if (vcpu >= trace->lane_count) {
        trace->lanes = realloc(trace->lanes, (vcpu + 1) * sizeof *trace->lanes);
        check(trace->lanes != NULL);
        memset(trace->lanes + trace->lane_count, 0, (vcpu + 1 - trace->lane_count) * sizeof *trace->lanes);
        trace->lane_count = vcpu + 1;
    }
    struct lane *lane = &trace->lanes[vcpu];
    if (!lane->named) {
        static const char *const names[TRACK_COUNT] = {"guest user", "guest kernel", "monitor"};
        for (enum track track = 0; track < TRACK_COUNT; track++) {
            event_begin(trace, "M", vcpu, track);
            trace_append(trace, ",\"name\":\"thread_name\",\"args\":{\"name\":\"vCPU %u %s\"}}", vcpu, names[track]);
            event_begin(trace, "M", vcpu, track);
            trace_append(trace, ",\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":%u}}",
                         vcpu * TRACK_COUNT + track);
        }
        lane->named = true;
        lane->end_ns = vcpu == 0 ? 0 : now_ns;
    }
    return lane;
}

static enum track mode_track(enum exit_mode mode)
{
    return mode == EXIT_MODE_USER || mode == EXIT_MODE_V86 ? TRACK_USER : TRACK_KERNEL;
}

static void append_slice(struct trace *trace, unsigned vcpu, enum track track, uint64_t begin_ns, uint64_t end_ns)
{
    event_begin(trace, "X", vcpu, track);
    append_time(trace, "ts", begin_ns);
    append_time(trace, "dur", end_ns > begin_ns ? end_ns - begin_ns : 0);
}

static void append_exit(struct trace *trace, const struct exit *exit, const char *device)
{
    const struct exit_fields *fields = &exit_fields[exit->reason];
    if (exit->reason == EXIT_EXCEPTION)
        trace_append(trace, ",\"name\":\"%s\"", vector_name(exit->vector));
    else if (exit->reason == EXIT_INTERRUPT || exit->reason == EXIT_SOFT_INTERRUPT)
        trace_append(trace, ",\"name\":\"%s %#x\"", exit_reason_name(exit->reason), exit->vector);
    else
        trace_append(trace, ",\"name\":\"%s\"", exit_reason_name(exit->reason));
    trace_append(trace, ",\"args\":{\"rip\":\"%#" PRIx64 "\"", exit->rip);
    if (fields->address != NULL)
        trace_append(trace, ",\"%s\":\"%#" PRIx64 "\"", fields->address, exit->address);
    if (exit->reason == EXIT_EXCEPTION && exit->vector == VECTOR_PF)
        trace_append(trace, ",\"cr2\":\"%#" PRIx64 "\"", exit->address);
    if (fields->value)
        trace_append(trace, ",\"value\":\"%#" PRIx64 "\"", exit->value);
    if (fields->error && vector_has_error(exit->vector))
        trace_append(trace, ",\"error\":\"%#x\"", exit->error);
    if (exit->size != 0)
        trace_append(trace, ",\"size\":%u", exit->size);
    if (device != NULL) {
        trace_append(trace, ",");
        append_text(trace, "device", device);
    }
    trace_append(trace, "}}");
}

/* With the mutex. False when nothing is to be written any more; at the limit, says so in the file once. */
static bool trace_is_open(struct trace *trace, unsigned vcpu, uint64_t now_ns)
{
    if (trace->error != 0 || trace->full)
        return false;
    if (trace->written + trace->length + 8 * EVENT_MAX <= trace->limit)
        return true;
    trace->full = true;
    event_begin(trace, "i", vcpu, TRACK_MONITOR);
    trace_append(trace, ",\"s\":\"p\",\"name\":\"the timeline ends here: --trace-size was reached\"");
    append_time(trace, "ts", now_ns);
    trace_append(trace, "}");
    return false;
}

static void append_guest(struct trace *trace, unsigned vcpu, struct lane *lane, enum track track, const char *name,
                         uint64_t end_ns)
{
    if (end_ns <= lane->end_ns)
        return;
    append_slice(trace, vcpu, track, lane->end_ns, end_ns);
    trace_append(trace, ",\"name\":\"%s\"}", name);
}

void trace_exit(struct trace *trace, const struct vcpu *v, const struct exit *exit, const char *device,
                uint64_t begin_ns, uint64_t end_ns)
{
    pthread_mutex_lock(&trace->mutex);
    if (trace_is_open(trace, v->index, begin_ns)) {
        struct lane *lane = trace_lane(trace, v->index, begin_ns);
        enum track track = mode_track(exit->mode);
        if (lane->halted)
            append_guest(trace, v->index, lane, TRACK_MONITOR, "halted", begin_ns);
        else
            append_guest(trace, v->index, lane, track, exit_mode_name(exit->mode), begin_ns);
        if (exit_fields[exit->reason].instant) {
            event_begin(trace, "i", v->index, track);
            trace_append(trace, ",\"s\":\"t\"");
            append_time(trace, "ts", begin_ns);
            append_exit(trace, exit, device);
        }
        append_slice(trace, v->index, TRACK_MONITOR, begin_ns, end_ns);
        append_exit(trace, exit, device);
        if (end_ns - trace->flushed_ns > NS_PER_S) {
            trace_flush(trace);
            trace->flushed_ns = end_ns;
        }
        lane->end_ns = end_ns;
        lane->halted = exit->reason == EXIT_HLT || exit->reason == EXIT_MWAIT;
        lane->entering = exit_fields[exit->reason].instant && track == TRACK_USER;
    }
    pthread_mutex_unlock(&trace->mutex);
}

void trace_mode(struct trace *trace, const struct vcpu *v, bool was_user)
{
    uint64_t now_ns = trace_now_ns(trace, v);
    pthread_mutex_lock(&trace->mutex);
    if (trace_is_open(trace, v->index, now_ns)) {
        struct lane *lane = trace_lane(trace, v->index, now_ns);
        bool entering = was_user && lane->entering;
        enum track track = entering ? TRACK_MONITOR : was_user ? TRACK_USER : TRACK_KERNEL;
        const char *name = entering ? "deliver" : exit_mode_name(was_user ? EXIT_MODE_USER : EXIT_MODE_KERNEL);
        append_guest(trace, v->index, lane, track, name, now_ns);
        lane->entering = false;
        if (now_ns > lane->end_ns)
            lane->end_ns = now_ns;
    }
    pthread_mutex_unlock(&trace->mutex);
}

void trace_report(struct trace *trace, const char *json)
{
    static const char begin[] = ",\n{\"ph\":\"M\",\"pid\":1,\"name\":\"ring3_report\",\"args\":";
    pthread_mutex_lock(&trace->mutex);
    trace_flush(trace);
    size_t length = strlen(json), size = sizeof begin - 1 + length + 1 + END_LENGTH;
    char *event = malloc(size + 1);
    check(event != NULL);
    snprintf(event, size + 1, "%s%s}%s", begin, json, END);
    size_t whole = size - END_LENGTH;
    if (trace->error == 0) {
        if (trace_write(trace, event, trace->seekable ? size : whole, trace->written))
            trace->written += whole;
        else
            trace_cut(trace);
    }
    free(event);
    pthread_mutex_unlock(&trace->mutex);
}
