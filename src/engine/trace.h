/* The timeline: what the guest ran, each exit, and what the monitor did, as a file for ui.perfetto.dev.
 *
 * One process "ring3"; three tracks a vCPU:
 *   guest user     slices in which code at CPL 3 (or virtual-8086) ran
 *   guest kernel   slices in which code at CPL 0-2 or in real mode ran
 *   monitor        a slice for each exit, with rip, port or address, value; "halted" while the vCPU waits
 * Exceptions and interrupts are instants on the track of the code that they interrupted.
 *
 * The file is in Chrome's JSON trace-event format, as an array. It is flushed in whole events each of which begins with
 * the comma that separates it from the one before; so what a killed run leaves lacks nothing but the closing bracket,
 * which the format allows to be missing.
 *
 * Threads: trace_exit() by any vCPU's thread. Format: "Trace Event Format" (Google, 2016), JSON Array Format. */
#ifndef RING3_ENGINE_TRACE_H
#define RING3_ENGINE_TRACE_H

#include "base/error.h"
#include "cpu/exit.h"
#include "cpu/vcpu.h"

struct trace;

/* Which time the events carry: the host's, from creation on; or the guest's, so that repeatable runs give equal files.
 */
enum trace_clock { TRACE_CLOCK_HOST, TRACE_CLOCK_GUEST };

/* Creates or truncates the file at `path`. NULL with a message if the host refuses. */
struct trace *trace_create(const char *path, enum trace_clock clock, struct error *err);

/* Completes the file and frees. False with a message if the file could not be written as a whole. NULL is allowed. */
bool trace_destroy(struct trace *trace, struct error *err);

uint64_t trace_now_ns(const struct trace *trace, const struct vcpu *v);

/* One exit that took from begin to end; `device` may be NULL. */
void trace_exit(struct trace *trace, const struct vcpu *v, const struct exit *exit, const char *device,
                uint64_t begin_ns, uint64_t end_ns);

#endif
