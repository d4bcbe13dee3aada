/* The classical monitor: guest code, kernel and user alike, runs on the processor itself, without privilege, and the
 * monitor does what traps (Popek and Goldberg 1974). docs/trap.md tells the story. */
#ifndef RING3_ENGINE_TRAP_TRAP_H
#define RING3_ENGINE_TRAP_TRAP_H

#include "engine/engine.h"

/* What traps, in --stat:
 *
 *   resumes       times guest code was entered; each ends in one of the traps that follow
 *   privileged    instructions that trap without privilege, INT n among them
 *   patched       instructions that do not, and were patched
 *   syscall       INT 80h, SYSCALL: what would have entered the host's kernel
 *   breakpoint, undefined, arithmetic   #BP and #DB; #UD; #DE, #MF, #XM
 *   fetch         code that was not mapped
 *   fill          data that was not mapped, though the guest's tables have it
 *   reflect       an access that the guest's own tables do not permit
 *   emulate       an access to a device, or a write to a watched or clean page
 *   kick          somebody wanted the monitor
 *   stray         what no correct guest does: 64-bit code in a 32-bit space
 */
extern const struct engine engine_trap;

#endif
