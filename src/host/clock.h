/* The host's clocks. Nothing in ring3 asks the host for the time in another way; devices never ask it at all
 * (base/timer.h). Any thread, async-signal-safe. */
#ifndef RING3_HOST_CLOCK_H
#define RING3_HOST_CLOCK_H

#include <stdint.h>

uint64_t clock_monotonic_ns(void); /* since an arbitrary moment; never goes back, not counting suspension of the host */
uint64_t clock_wall_ns(void);      /* since 1970-01-01 UTC; may jump */

#endif
