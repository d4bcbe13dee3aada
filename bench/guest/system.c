/* Rows that are mostly the kernel's work. */
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define PATH_SIZE 512

static void child_wait(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        bench_die("child");
}

/* --- system calls, signals --- */

static void getppid_run(uint64_t n)
{
    while (n-- > 0)
        syscall(SYS_getppid);
}

static volatile uint64_t signal_count;

static void signal_handle(int number)
{
    (void)number;
    signal_count++;
}

static const char *signal_setup(void)
{
    struct sigaction action = {.sa_handler = signal_handle};
    if (sigaction(SIGUSR1, &action, NULL) != 0)
        bench_die("sigaction");
    return NULL;
}

static void signal_run(uint64_t n)
{
    uint64_t before = signal_count, rounds = n;
    pid_t self = getpid();
    while (n-- > 0)
        kill(self, SIGUSR1);
    if (signal_count - before != rounds)
        bench_die("signals were lost");
}

/* --- processes --- */

static void fork_run(uint64_t n)
{
    while (n-- > 0) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        child_wait(child);
    }
}

static char true_path[PATH_SIZE];

static const char *exec_setup(void)
{
    snprintf(true_path, sizeof true_path, "%s/true", bench_bin);
    return access(true_path, X_OK) == 0 ? NULL : "no /bin/true";
}

static void exec_run(uint64_t n)
{
    while (n-- > 0) {
        pid_t child = vfork();
        if (child == 0) {
            execve(true_path, (char *[]){(char *)"true", NULL}, (char *[]){NULL});
            _exit(127);
        }
        child_wait(child);
    }
}

/* --- memory --- */

#define FAULT_PAGES 256
#define MAP_PAGES 16
#define PAGE 4096

static void fault_run(uint64_t n)
{
    while (n-- > 0) {
        char *pages = mmap(NULL, FAULT_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED)
            bench_die("mmap");
        madvise(pages, FAULT_PAGES * PAGE, MADV_NOHUGEPAGE);
        for (unsigned i = 0; i < FAULT_PAGES; i++)
            ((volatile char *)pages)[i * PAGE] = 1;
        munmap(pages, FAULT_PAGES * PAGE);
    }
}

static void mmap_run(uint64_t n)
{
    while (n-- > 0) {
        char *pages = mmap(NULL, MAP_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED)
            bench_die("mmap");
        munmap(pages, MAP_PAGES * PAGE);
    }
}

/* --- pipe --- */

static int pipe_out = -1, pipe_in = -1;
static pid_t pipe_child;

static const char *pipe_setup(void)
{
    int there[2], back[2];
    char byte;
    if (pipe(there) != 0 || pipe(back) != 0)
        bench_die("pipe");
    pipe_child = fork();
    if (pipe_child < 0)
        bench_die("fork");
    if (pipe_child == 0) {
        close(there[1]);
        close(back[0]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            ;
        _exit(0);
    }
    close(there[0]);
    close(back[1]);
    pipe_out = there[1];
    pipe_in = back[0];
    return NULL;
}

static void pipe_run(uint64_t n)
{
    char byte = 0;
    while (n-- > 0) {
        if (write(pipe_out, &byte, 1) != 1 || read(pipe_in, &byte, 1) != 1)
            bench_die("pipe");
    }
}

static void pipe_teardown(void)
{
    close(pipe_out);
    close(pipe_in);
    child_wait(pipe_child);
}

static const struct row rows[] = {
    {"getppid", "getppid", ROW_SYSTEM, 1, NULL, getppid_run, NULL},
    {"signal", "signal to itself, handled", ROW_SYSTEM, 1, signal_setup, signal_run, NULL},
    {"fork", "fork, exit, wait", ROW_SYSTEM, 1, NULL, fork_run, NULL},
    {"exec", "vfork, exec of /bin/true, wait", ROW_SYSTEM, 1, exec_setup, exec_run, NULL},
    {"fault", "anonymous page touched", ROW_SYSTEM, FAULT_PAGES, NULL, fault_run, NULL},
    {"mmap", "mmap, munmap of 64 KiB", ROW_SYSTEM, 1, NULL, mmap_run, NULL},
    {"pipe", "pipe there and back, two processes", ROW_SYSTEM, 1, pipe_setup, pipe_run, pipe_teardown},
};
const struct rows system_rows = {rows, ARRAY_LEN(rows)};
