/* Processes: a program that runs, with an address space, a stack in the kernel, and a place in a table.
 *
 * A process is made by fork() and only so (the first one by hand). The child is the parent but for its number and what
 * fork() returns to it. It begins life as if it had been switched away from just before the end of a system call: on its
 * kernel stack lies the frame that takes it to user mode, and below that what context_switch() expects.
 *
 * An end comes in two steps. process_exit() gives back all that is large at once. What stays is the entry in the table
 * with the status, until the parent asks for it by wait(). Who has no parent any more is not waited for. The end of
 * number 1 is the end of the machine. */
#include "kernel.h"
#include "privileged.h"

struct process processes[PROCESS_MAX];
#ifndef WHOLE_PC
struct process *current;
#endif
static int last_pid;

static struct process *process_find(int pid)
{
    for (struct process *p = processes; p < processes + PROCESS_MAX; p++)
        if (p->state != PROCESS_FREE && p->pid == pid)
            return p;
    return NULL;
}

/* An entry with a frame on its stack, ready to be filled in and not yet to run. */
static struct process *process_add(struct frame **frame)
{
    struct process *p = processes;
    while (p < processes + PROCESS_MAX && p->state != PROCESS_FREE)
        p++;
    if (p == processes + PROCESS_MAX)
        return NULL;
    memset(p, 0, offsetof(struct process, kernel_stack));
    p->pid = ++last_pid;
    word top = (word)p->kernel_stack + KERNEL_STACK_SIZE;
    *frame = (struct frame *)(top - sizeof(struct frame));
    word *stack = (word *)*frame;
    *--stack = (word)PROCESS_BEGIN;
    for (unsigned i = 0; i < SWITCH_REGISTERS; i++)
        *--stack = 0;
    p->stack_pointer = (word)stack;
    return p;
}

void process_start(const char *command)
{
    struct frame *f;
    current = process_add(&f);
    current->state = PROCESS_READY;
#ifdef WHOLE_PC
    current->runs_on = processor_here();
    current->root = kernel_root;
#endif
    word start = current->stack_pointer; /* a program from a disk is waited for, and what is here saved in its place */
    current->files[STDIN].file = current->files[STDOUT].file = file_find("console");
    current->files[SCREEN].file = file_find("screen");
    memset(f, 0, sizeof(*f));
    if (!exec(command, f)) {
        print("primer: there is no program '%s'\n", command);
        power_off(STATUS_KILLED - 1);
    }
    word nowhere;
    kernel_stack_set((word)current->kernel_stack + KERNEL_STACK_SIZE);
    context_switch(&nowhere, start);
}

int process_fork(const struct frame *f)
{
    struct frame *child_frame;
    struct process *child = process_add(&child_frame);
    if (child == NULL)
        return -1;
    child->root = space_copy(current->root);
    if (child->root == 0)
        return -1; /* the entry is still free */
    *child_frame = *f;
    child_frame->ax = 0;
    memcpy(child->name, current->name, NAME_SIZE);
    memcpy(child->files, current->files, sizeof(child->files));
    child->parent = current->pid;
    child->state = PROCESS_READY;
    processors_wake();
    return child->pid;
}

void process_exit(int status)
{
#ifdef WHOLE_PC
    for (unsigned i = 0; i < FILE_MAX; i++)
        if (current->files[i].file != NULL && current->files[i].file->entry != NULL)
            volume_close(current->files[i].file->entry);
#endif
    interrupts_off();
    if (current->pid == 1)
        power_off(status);
    word root = current->root;
    current->root = kernel_root;
    entries_commit_switch(kernel_root);
    space_destroy(root);
    for (struct process *p = processes; p < processes + PROCESS_MAX; p++) {
        if (p->parent != current->pid)
            continue;
        p->parent = 0;
        if (p->state == PROCESS_ENDED)
            p->state = PROCESS_FREE;
    }
    struct process *parent = current->parent != 0 ? process_find(current->parent) : NULL;
    current->status = status;
    current->state = parent != NULL ? PROCESS_ENDED : PROCESS_FREE; /* nobody uses the entry before we are gone */
    wake(parent);
    schedule();
    panic("a process that has ended runs");
}

int process_wait(int *status, bool wait)
{
    for (;;) {
        bool has_child = false;
        for (struct process *p = processes; p < processes + PROCESS_MAX; p++) {
            if (p->state == PROCESS_FREE || p->parent != current->pid)
                continue;
            has_child = true;
            if (p->state != PROCESS_ENDED)
                continue;
            *status = p->status;
            p->state = PROCESS_FREE;
            return p->pid;
        }
        if (!has_child || current->killed)
            return -1;
        if (!wait)
            return 0;
        sleep_on(current);
    }
}

int process_kill(int pid)
{
    struct process *p = process_find(pid);
    if (p == NULL || p->state == PROCESS_ENDED)
        return -1;
    p->killed = true; /* noticed on its way back to user mode: trap.c */
    if (p->state == PROCESS_WAITING) {
        p->state = PROCESS_READY;
        schedule_wanted = true;
        processors_wake();
    }
    return 0;
}
