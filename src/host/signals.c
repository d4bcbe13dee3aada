/* The process's handlers for faults in generated code: a table of ranges, searched by the interrupted RIP.
 *
 * Signal dispositions belong to the process, so the table does too: it is the one piece of file-scope state that
 * cannot hang off a machine. A slot is published by storing its `start` last and withdrawn by clearing it first,
 * so the handler, which may run on any thread at any time, reads the table without a lock.
 *
 * Source: sigaction(2), sigaltstack(2).
 */
#include "host/signals.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_COUNT 1024u
#define STACK_SIZE (64 * KiB)

struct slot {
    _Atomic uintptr_t start; /* 0: free */
    size_t size;
    host_fault_fn *fn;
    void *opaque;
};

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static struct {
    pthread_mutex_t lock; /* of everything but reading slots */
    bool installed;
    _Atomic unsigned used; /* slots ever used are below */
    struct slot slots[SLOT_COUNT];
    struct sigaction previous[ARRAY_LEN(fault_signals)];
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What would have happened without us. */
static void pass_on(int signal, siginfo_t *info, void *context)
{
    const struct sigaction *previous = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++)
        if (fault_signals[i] == signal)
            previous = &registry.previous[i];
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signal, info, context);
    } else if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
        previous->sa_handler(signal);
    } else {
        /* The default action takes place when the instruction faults again, or when a sent signal is sent again. */
        struct sigaction action = {.sa_handler = SIG_DFL};
        sigaction(signal, &action, NULL);
        if (info->si_code <= 0)
            raise(signal);
    }
}

static void on_fault(int signal, siginfo_t *info, void *opaque)
{
    ucontext_t *context = opaque;
    int saved_errno = errno;
    uintptr_t rip = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
    unsigned used = atomic_load_explicit(&registry.used, memory_order_acquire);
    bool handled = false;
    for (unsigned i = 0; i < used && !handled; i++) {
        struct slot *slot = &registry.slots[i];
        uintptr_t start = atomic_load_explicit(&slot->start, memory_order_acquire);
        if (start != 0 && rip - start < slot->size)
            handled = slot->fn(slot->opaque, signal, info, context);
    }
    if (!handled)
        pass_on(signal, info, context);
    errno = saved_errno;
}

static bool install(struct error *err)
{
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&action.sa_mask);
        if (sigaction(fault_signals[i], &action, &registry.previous[i]) != 0)
            return error_set(err, "cannot handle signal %d: %s", fault_signals[i], strerror(errno));
    }
    registry.installed = true;
    return true;
}

bool host_signals_add(const void *start, size_t size, host_fault_fn *fn, void *opaque, struct error *err)
{
    pthread_mutex_lock(&registry.lock);
    bool ok = registry.installed || install(err);
    unsigned n = 0;
    while (ok && n < SLOT_COUNT && atomic_load(&registry.slots[n].start) != 0)
        n++;
    if (ok && n == SLOT_COUNT)
        ok = error_set(err, "more than %u pieces of generated code in one process", SLOT_COUNT);
    if (ok) {
        struct slot *slot = &registry.slots[n];
        slot->size = size;
        slot->fn = fn;
        slot->opaque = opaque;
        atomic_store_explicit(&slot->start, (uintptr_t)start, memory_order_release);
        if (n >= atomic_load(&registry.used))
            atomic_store_explicit(&registry.used, n + 1, memory_order_release);
    }
    pthread_mutex_unlock(&registry.lock);
    return ok;
}

void host_signals_remove(const void *start)
{
    pthread_mutex_lock(&registry.lock);
    for (unsigned i = 0; i < SLOT_COUNT; i++)
        if (atomic_load(&registry.slots[i].start) == (uintptr_t)start)
            atomic_store_explicit(&registry.slots[i].start, 0, memory_order_release);
    pthread_mutex_unlock(&registry.lock);
}

void *host_signals_stack_create(struct error *err)
{
    void *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t ss = {.ss_sp = stack, .ss_size = STACK_SIZE};
    if (stack == MAP_FAILED || sigaltstack(&ss, NULL) != 0) {
        error_set(err, "cannot make a signal stack: %s", strerror(errno));
        if (stack != MAP_FAILED)
            munmap(stack, STACK_SIZE);
        return NULL;
    }
    return stack;
}

void host_signals_stack_destroy(void *stack)
{
    if (stack == NULL)
        return;
    stack_t ss = {.ss_flags = SS_DISABLE};
    sigaltstack(&ss, NULL);
    munmap(stack, STACK_SIZE);
}
