#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

#define LOG_BUDGET_LINES 10000

void log_init(struct log *log, enum log_level level, void (*sink)(void *, const char *), void *opaque)
{
    *log = (struct log){.level = level, .budget = LOG_BUDGET_LINES, .sink = sink, .opaque = opaque};
}

static void emit(struct log *log, const char *line)
{
    if (log->sink != NULL)
        log->sink(log->opaque, line);
    else
        fprintf(stderr, "ring3: %s\n", line);
}

void log_write(struct log *log, enum log_level level, const char *format, ...)
{
    if (log == NULL || level > log->level)
        return;
    uint64_t left = __atomic_load_n(&log->budget, __ATOMIC_RELAXED);
    if (left == 0)
        return;
    __atomic_store_n(&log->budget, left - 1, __ATOMIC_RELAXED);
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    emit(log, line);
    if (left == 1)
        emit(log, "log: too many lines; the rest is not shown");
}
