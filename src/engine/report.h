/* What `ring3 report` shows beside the timeline, gathered when the run has ended, while the machine still exists. */
#ifndef RING3_ENGINE_REPORT_H
#define RING3_ENGINE_REPORT_H

#include "engine/engine.h"
#include "engine/stats.h"

/* A JSON object as text, for trace_report(); free() it. NULL when there is no memory. Members:
 *
 *   version     1
 *   engine      its name
 *   stats       as stats_print_json()
 * tables      "paging", "cr3", "truncated", "shadow" (what stands for them; null: nothing), "ranges": [[gva, size,
 * gpa, "rwxug", page size,
 *               [kernel, kernel writable, user, user writable] or null], ...]; numbers as hexadecimal text
 *   blocks      the places where the guest was found most often: "rip", "mode", "samples", "symbol", "guest": [[gva,
 *               bytes, text], ...], "host": [[index of the guest instruction or -1, bytes, text], ...] or null
 *
 * Everything that comes from the guest is text in JSON strings, of printable ASCII. */
char *report_collect(struct vcpu *v, const struct engine *engine, const struct stats *stats);

#endif
