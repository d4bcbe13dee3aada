/* The timeline: what the guest ran, each exit, and what the monitor did, as a file for ui.perfetto.dev.
 *
 * One process "ring3"; three tracks a vCPU:
 *   guest user     slices in which code at CPL 3 (or virtual-8086) ran
 *   guest kernel   slices in which code at CPL 0-2 or in real mode ran
 *   monitor        a slice for each exit, with rip, port or address, value; "deliver" until user code that an event has
 *                  interrupted is in the kernel; "halted" while the vCPU waits
 * Exceptions and interrupts are instants on the track of the code that they interrupted.
 *
 * A track's slices do not overlap, and an instant lies at the end of the slice of the code that it interrupted.
 *
 * The file is in Chrome's JSON trace-event format, as an array, and complete JSON at any moment: it is written in
 * whole events, each time with the closing bracket behind them, which the next ones overwrite. So what a killed run
 * leaves lacks only the events of the last second. (Where one cannot go back, in a pipe, the bracket comes at the
 * end.) It is never longer than the limit: then an instant says that the timeline ends there.
 *
 * Threads: trace_exit() and trace_mode() by any vCPU's thread. Format: "Trace Event Format" (Google, 2016), JSON Array
 * Format. */
#ifndef RING3_ENGINE_TRACE_H
#define RING3_ENGINE_TRACE_H

#include "base/error.h"
#include "cpu/exit.h"
#include "cpu/vcpu.h"

struct trace;

/* Which time the events carry: the host's, from creation on; or the guest's, so that repeatable runs give equal files.
 */
enum trace_clock { TRACE_CLOCK_HOST, TRACE_CLOCK_GUEST };

#define TRACE_LIMIT_DEFAULT (512 * MiB)
#define TRACE_LIMIT_MIN (4 * KiB)

/* Creates or truncates the file at `path`, which may become `limit` bytes long. NULL with a message if the host
 * refuses.
 */
struct trace *trace_create(const char *path, enum trace_clock clock, uint64_t limit, struct error *err);

/* Whether the limit was reached. */
bool trace_is_full(const struct trace *trace);

/* Completes the file and frees. False with a message if the file could not be written as a whole. NULL is allowed. */
bool trace_destroy(struct trace *trace, struct error *err);

uint64_t trace_now_ns(const struct trace *trace, const struct vcpu *v);

/* One exit that took from begin to end; `device` may be NULL. */
void trace_exit(struct trace *trace, const struct vcpu *v, const struct exit *exit, const char *device,
                uint64_t begin_ns, uint64_t end_ns);

/* CPL has just changed from or to 3. */
void trace_mode(struct trace *trace, const struct vcpu *v, bool was_user);

/* What `ring3 report` shows beside the timeline: a JSON object, as one more event, which the limit does not count. At
 * the end, before trace_destroy(). */
void trace_report(struct trace *trace, const char *json);

#endif
