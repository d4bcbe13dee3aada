/* Who runs: round robin, and how to wait.
 *
 * A process runs until its time is up (the timer sets schedule_wanted), until somebody wakes up (so that a key reaches
 * its reader at once), or until it has to wait for something. "Something" is any address that whoever makes it happen
 * knows as well: sleep_on(x) here, wake(x) there.
 *
 * A switch is three things: the page tables (the guest page-table switch of the lecture), the stack on which the next
 * entry from user mode begins, and the registers, which context_switch() leaves on one kernel stack and takes from
 * another. The process to run next was once in the middle of this same function. If it is the one that runs already,
 * nothing happens at all.
 *
 * When nobody can run, the processor waits for an interrupt, still in the context of whoever came last; in the build for a
 * whole PC, in a context of its own (processors.c), since whoever came last may run on another processor next. */
#include "kernel.h"
#include "privileged.h"

#ifndef WHOLE_PC
bool schedule_wanted;
#endif

/* The next one after the current that can run; the current one if it is the only one. */
static struct process *process_next(void)
{
#ifdef WHOLE_PC
    static unsigned last; /* whose turn it was */
    unsigned at = last;
    if (current != idle_here())
        last = at = (unsigned)(current - processes);
#else
    unsigned at = (unsigned)(current - processes);
#endif
    for (unsigned i = 1; i <= PROCESS_MAX; i++) {
        struct process *p = &processes[(at + i) % PROCESS_MAX];
#ifdef WHOLE_PC
        if (p->runs_on != NULL && p != current)
            continue; /* it has its processor */
#endif
        if (p->state == PROCESS_READY)
            return p;
    }
    return NULL;
}

/* Who runs next. With one processor it waits here until there is somebody; with several each has a process for waiting. */
static struct process *process_choose(void)
{
    struct process *next = process_next();
#ifdef WHOLE_PC
    return next != NULL ? next : idle_here();
#else
    while (next == NULL) {
        interrupts_idle();
        next = process_next();
    }
    return next;
#endif
}

void schedule(void)
{
    word flags = interrupts_save();
    struct process *next = process_choose();
    schedule_wanted = false;
    if (next != current) {
        struct process *last = current;
#ifdef WHOLE_PC
        last->runs_on = NULL;
        next->runs_on = processor_here();
#endif
        current = next;
        kernel_stack_set((word)next->kernel_stack + KERNEL_STACK_SIZE);
        entries_commit_switch(next->root);
        context_switch(&last->stack_pointer, next->stack_pointer);
    }
    interrupts_restore(flags);
}

/* With interrupts off, from where the condition was looked at until here: else it could come true in between, and
 * nobody would be waiting yet. */
void sleep_on(const void *what)
{
    current->waits_for = what;
    current->state = PROCESS_WAITING;
    schedule();
    current->waits_for = NULL;
}

void wake(const void *what)
{
    if (what == NULL)
        return;
    for (struct process *p = processes; p < processes + PROCESS_MAX; p++)
        if (p->state == PROCESS_WAITING && p->waits_for == what) {
            p->state = PROCESS_READY;
            schedule_wanted = true;
            processors_wake();
        }
}
