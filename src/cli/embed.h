/* Files that are part of the program: written into C by scripts/embed.sh when it is built. */
#ifndef RING3_CLI_EMBED_H
#define RING3_CLI_EMBED_H

#include <stddef.h>
#include <stdint.h>

/* guest/primer's 32-bit kernel, with its symbols. */
extern const uint8_t embed_primer[];
extern const size_t embed_primer_size;

/* The page of `ring3 report`, with a place for the data: report.html. */
extern const uint8_t embed_report[];
extern const size_t embed_report_size;

#endif
