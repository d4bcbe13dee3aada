/* Faults of the host inside code that an engine has generated.
 *
 * Generated code can raise SIGSEGV, SIGBUS, SIGFPE and SIGILL on purpose: the host's processor has found what the
 * guest's would have found. Whoever owns such code registers the range it lies in with a function that looks at
 * the interrupted context and makes it continue somewhere else (it rewrites RIP and other registers of the context).
 * A signal from anywhere else goes to the handler that was there before, or has the default effect.
 *
 * Threads: ranges are added and removed by any thread, under a lock; the signal handler takes none. A range must not
 * be removed while some thread may execute in it. The function runs on the faulting thread in signal context: it may
 * call nothing that is not async-signal-safe.
 */
#ifndef RING3_HOST_SIGNALS_H
#define RING3_HOST_SIGNALS_H

#include <signal.h>
#include <ucontext.h>

#include "base/error.h"
#include "base/types.h"

/* Returns true when it has put the context right; false when the fault is a bug after all. */
typedef bool host_fault_fn(void *opaque, int signal, siginfo_t *info, ucontext_t *context);

/* Registers `size` bytes of executable memory at `start`. Installs the process's handlers when it is the first. */
bool host_signals_add(const void *start, size_t size, host_fault_fn *fn, void *opaque, struct error *err);
void host_signals_remove(const void *start);

/* A signal stack for the calling thread, for engines whose code runs with RSP pointing elsewhere. The returned memory
 * is given back by the same thread with host_signals_stack_destroy(). NULL with a message on failure. */
void *host_signals_stack_create(struct error *err);
void host_signals_stack_destroy(void *stack);

#endif
