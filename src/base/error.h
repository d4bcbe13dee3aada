/* Host and configuration errors: one of ring3's three error channels.
 *
 * A function that can fail for a reason outside ring3 (a file, an option, the host) returns false
 * (or NULL) and describes the failure in the `struct error` that its caller passed last. The message
 * says what was wrong, where, and what to do about it; the CLI prints it once, behind "ring3: ".
 * Nothing below src/cli prints errors or exits.
 *
 * The other two channels: a guest fault is data (cpu/fault.h), a bug of ours is an assertion (base/check.h).
 */
#ifndef RING3_BASE_ERROR_H
#define RING3_BASE_ERROR_H

#include <stdbool.h>

struct error {
    char message[1024];
};

/* Formats the message. Always returns false, so that `return error_set(err, ...)` reads well. `err` may be
 * NULL when the caller does not want the message. */
bool error_set(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before the message that is there. Always returns false. */
bool error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
