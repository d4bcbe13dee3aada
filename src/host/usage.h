/* What the process itself uses of the host, for statistics. Any thread. */
#ifndef RING3_HOST_USAGE_H
#define RING3_HOST_USAGE_H

#include <stdint.h>

/* Resident memory but that of memory files, which is where guest RAM and generated code are: heap, stacks, tables,
 * program and libraries. 0 if the host does not say. */
uint64_t usage_private_bytes(void);

#endif
