/* Always-on assertions: the channel for ring3's own bugs.
 *
 * `check(cond)` stays in every build. When it fails, the hook that the machine layer installed (which
 * prints guest pc, block and seed) runs, then the process aborts. Never use it on anything a guest, a file
 * or the host decides. */
#ifndef RING3_BASE_CHECK_H
#define RING3_BASE_CHECK_H

#define check(cond) (__builtin_expect(!!(cond), 1) ? (void)0 : check_failed(#cond, __FILE__, __LINE__))

_Noreturn void check_failed(const char *condition, const char *file, int line);

/* Thread-local context printed by a failing check, e.g. a function that prints the vCPU that this thread
 * runs. NULL clears it. */
void check_set_context(void (*print)(void *opaque), void *opaque);

#endif
