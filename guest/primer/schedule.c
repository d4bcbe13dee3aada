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
 * When nobody can run, the processor waits for an interrupt, still in the context of whoever came last. */
#include "kernel.h"
#include "privileged.h"

bool schedule_wanted;

/* The next one after the current that can run; the current one if it is the only one. */
static struct process *process_next(void)
{
    unsigned at = (unsigned)(current - processes);
    for (unsigned i = 1; i <= PROCESS_MAX; i++) {
        struct process *p = &processes[(at + i) % PROCESS_MAX];
        if (p->state == PROCESS_READY)
            return p;
    }
    return NULL;
}

void schedule(void)
{
    word flags = interrupts_save();
    struct process *next;
    while ((next = process_next()) == NULL)
        interrupts_idle();
    schedule_wanted = false;
    if (next != current) {
        struct process *last = current;
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
        }
}
