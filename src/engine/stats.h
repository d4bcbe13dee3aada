/* The counters of a run, for people and for programs. */
#ifndef RING3_ENGINE_STATS_H
#define RING3_ENGINE_STATS_H

#include <jansson.h>
#include <stdio.h>

#include "base/error.h"
#include "engine/door.h"

/* A table: exits by reason and mode, most frequent first; exceptions, interrupts and ports; the summary. `memory`,
 * which names the devices behind the ports, may be NULL. */
void stats_print(const struct stats *stats, const struct memory *memory, FILE *out);

/* The same numbers as one JSON object; null is what is not counted. False with a message if they cannot be written. */
bool stats_print_json(const struct stats *stats, const struct memory *memory, FILE *out, struct error *err);

/* The object itself; the caller's. */
json_t *stats_json(const struct stats *stats, const struct memory *memory);

/* Millions of instructions a second while not halted; 0 when nothing ran or was counted. */
double stats_mips(const struct stats *stats);

#endif
