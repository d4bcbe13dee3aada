/* System calls: what a program may ask for.
 *
 * A number selects a row; the arguments are in registers, and the frame on the stack has them all. Nothing that a program
 * passes is believed: a pointer is looked up in its page tables before it is used.
 *
 * Most calls run with interrupts off from beginning to end, which costs nothing, since the gate has seen to it. Those that
 * may take long (fork, exec) open interrupts, so that keys and ticks are not late. */
#include "kernel.h"
#include "privileged.h"

#define ERROR ((word)-1)

static struct open_file *file_at(word n)
{
    return n < FILE_MAX && current->files[n].file != NULL ? &current->files[n] : NULL;
}

static word sys_exit(struct frame *f)
{
    process_exit((int)f->bx & 0xff);
}

static word sys_fork(struct frame *f)
{
    return (word)(long)process_fork(f);
}

static word sys_read(struct frame *f)
{
    struct open_file *open = file_at(f->bx);
    return open != NULL && user_may_write(f->cx, f->dx) ? file_read(open, (char *)f->cx, f->dx) : ERROR;
}

static word sys_write(struct frame *f)
{
    struct open_file *open = file_at(f->bx);
    return open != NULL && user_may_read(f->cx, f->dx) ? file_write(open, (const char *)f->cx, f->dx) : ERROR;
}

static word file_open(const struct file *file)
{
    for (unsigned n = 0; n < FILE_MAX; n++)
        if (current->files[n].file == NULL) {
            current->files[n] = (struct open_file){.file = file};
            return n;
        }
    return ERROR;
}

static word sys_open(struct frame *f)
{
    char name[NAME_SIZE];
    if (!user_string(f->bx, name, sizeof(name)))
        return ERROR;
    const struct file *file = file_find(name);
    return file != NULL ? file_open(file) : ERROR;
}

#ifdef WHOLE_PC
static word sys_create(struct frame *f)
{
    char name[NAME_SIZE];
    if (!user_string(f->bx, name, sizeof(name)))
        return ERROR;
    const struct file *file = file_find(name);
    if (file != NULL && file->entry == NULL)
        return ERROR; /* not one of the disk's */
    file = volume_create(name);
    return file != NULL ? file_open(file) : ERROR;
}

static word sys_remove(struct frame *f)
{
    char name[NAME_SIZE];
    return user_string(f->bx, name, sizeof(name)) && volume_remove(name) ? 0 : ERROR;
}
#endif

static word sys_close(struct frame *f)
{
    struct open_file *open = file_at(f->bx);
    if (open == NULL)
        return ERROR;
#ifdef WHOLE_PC
    if (open->file->entry != NULL)
        volume_close(open->file->entry);
#endif
    open->file = NULL;
    return 0;
}

static word sys_wait(struct frame *f)
{
    int status = 0;
    if (!user_may_write(f->bx, sizeof(status)))
        return ERROR;
    int pid = process_wait(&status, !(f->cx & WAIT_NOT));
    if (pid > 0)
        memcpy((void *)f->bx, &status, sizeof(status));
    return (word)(long)pid;
}

static word sys_exec(struct frame *f)
{
    char command[COMMAND_SIZE];
    return user_string(f->bx, command, sizeof(command)) && exec(command, f) ? f->ax : ERROR;
}

static word sys_getpid(struct frame *f)
{
    return (word)current->pid;
}

static word sys_kill(struct frame *f)
{
    return (word)(long)process_kill((int)f->bx);
}

static word sys_sleep(struct frame *f)
{
    timer_sleep(f->bx);
    return 0;
}

static word sys_time(struct frame *f)
{
    return (word)(timer_now() * TICK_MS);
}

static word sys_yield(struct frame *f)
{
    schedule_wanted = true; /* on the way back: trap.c */
    return 0;
}

static const struct {
    word (*call)(struct frame *f);
    bool opens_interrupts;
} calls[] = {
    [SYS_EXIT] = {sys_exit, false},
    [SYS_FORK] = {sys_fork, true},
    [SYS_READ] = {sys_read, false},
    [SYS_WRITE] = {sys_write, false},
    [SYS_OPEN] = {sys_open, false},
    [SYS_CLOSE] = {sys_close, false},
    [SYS_WAIT] = {sys_wait, false},
    [SYS_EXEC] = {sys_exec, true},
    [SYS_GETPID] = {sys_getpid, false},
    [SYS_KILL] = {sys_kill, false},
    [SYS_SLEEP] = {sys_sleep, false},
    [SYS_TIME] = {sys_time, false},
    [SYS_YIELD] = {sys_yield, false},
#ifdef WHOLE_PC
    [SYS_CREATE] = {sys_create, false},
    [SYS_REMOVE] = {sys_remove, false},
#endif
};

void syscall(struct frame *f)
{
    word number = f->ax;
    if (number >= ARRAY_LEN(calls) || calls[number].call == NULL) {
        f->ax = ERROR;
        return;
    }
    if (!calls[number].opens_interrupts) {
        f->ax = calls[number].call(f);
        return;
    }
    interrupts_on();
    f->ax = calls[number].call(f);
    interrupts_off();
}
