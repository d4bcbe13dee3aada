/* The log: what a guest did that is worth knowing but is not an error of the user's.
 *
 * Off by default. Each struct log belongs to one machine; a message is one line. The number of lines is
 * bounded, so that a hostile guest cannot fill a disk. Thread-safe. */
#ifndef RING3_BASE_LOG_H
#define RING3_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_OFF, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct log {
    enum log_level level;
    uint64_t budget; /* lines left before the log falls silent; set by log_init */
    void (*sink)(void *opaque, const char *line);
    void *opaque;
};

/* Lines go to `sink` (without newline); NULL writes them to stderr behind "ring3: ". */
void log_init(struct log *log, enum log_level level, void (*sink)(void *, const char *), void *opaque);

/* Writes one line if `level` is enabled; LOG_OFF always is. `log` may be NULL (then nothing happens). */
void log_write(struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_warn(log, ...) log_write((log), LOG_WARN, __VA_ARGS__)
#define log_info(log, ...) log_write((log), LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...) log_write((log), LOG_DEBUG, __VA_ARGS__)

#endif
