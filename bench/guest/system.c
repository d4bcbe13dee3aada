/* Rows that are mostly the kernel's work, and whole programs. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define PATH_SIZE 512
#define TEXT_SIZE (4u << 20)

static __attribute__((noreturn)) void bench_die(const char *what)
{
    perror(what);
    exit(1);
}

static void child_wait(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        bench_die("child");
}

/* --- system calls, processes --- */

static void getppid_run(uint64_t n)
{
    while (n-- > 0)
        syscall(SYS_getppid);
}

static void fork_run(uint64_t n)
{
    while (n-- > 0) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        child_wait(child);
    }
}

/* Runs a program of bench_bin with its output dropped. */
static void program_run(char *const argv[], const char *program)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", bench_bin, program);
    pid_t child = vfork();
    if (child == 0) {
        execv(path, argv);
        _exit(127);
    }
    child_wait(child);
}

static bool program_exists(const char *program)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", bench_bin, program);
    return access(path, X_OK) == 0;
}

static bool exec_setup(void)
{
    return program_exists("true");
}

static void exec_run(uint64_t n)
{
    while (n-- > 0)
        program_run((char *[]){"true", NULL}, "true");
}

/* --- memory --- */

#define FAULT_PAGES 256
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

/* --- pipe --- */

static int pipe_out = -1, pipe_in = -1;
static pid_t pipe_child;

static bool pipe_setup(void)
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
    return true;
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

/* --- programs --- */

static char shell_script[PATH_SIZE + 64], text_path[PATH_SIZE];

static bool shell_setup(void)
{
    snprintf(shell_script, sizeof shell_script,
             "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do %s/true; done", bench_bin);
    return program_exists("busybox") && program_exists("true");
}

static void shell_run(uint64_t n)
{
    while (n-- > 0)
        program_run((char *[]){"sh", "-c", shell_script, NULL}, "busybox");
}

/* 4 MiB of words, which compress as text does. */
static bool text_setup(void)
{
    static const char *const words[] = {"page",  "table", "shadow", "trap",  "guest", "monitor", "ring",   "the",
                                        "of",    "and",   "a",      "to",    "fault", "vector",  "port",   "timer",
                                        "block", "cache", "is",     "in",    "level", "gate",    "system", "call",
                                        "by",    "for",   "fetch",  "write", "read",  "limit",   "base",   "entry"};
    if (!program_exists("busybox"))
        return false;
    char *text = malloc(TEXT_SIZE + 32);
    if (text == NULL)
        bench_die("malloc");
    uint64_t seed = 5;
    for (size_t at = 0; at < TEXT_SIZE;) {
        uint64_t r = random_next(&seed);
        at +=
            (size_t)sprintf(text + at, r % 8 == 0 ? "%s-%x\n" : "%s ", words[r >> 8 & 31], (unsigned)(r >> 16 & 0xfff));
    }
    snprintf(text_path, sizeof text_path, "%s/bench.XXXXXX", bench_tmp);
    int fd = mkstemp(text_path);
    if (fd < 0 || write(fd, text, TEXT_SIZE) != TEXT_SIZE)
        bench_die(text_path);
    close(fd);
    free(text);
    return true;
}

static bool text_half_setup(void)
{
    return text_setup() && truncate(text_path, TEXT_SIZE / 2) == 0;
}

static void text_teardown(void)
{
    unlink(text_path);
}

/* A busybox applet over the text, its output dropped. */
static void filter_run(char *const argv[])
{
    int saved = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY);
    if (saved < 0 || null < 0)
        bench_die("/dev/null");
    fflush(stdout);
    dup2(null, STDOUT_FILENO);
    program_run(argv, "busybox");
    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(null);
}

static void sha256_run(uint64_t n)
{
    while (n-- > 0)
        filter_run((char *[]){"sha256sum", text_path, NULL});
}

static void gzip_run(uint64_t n)
{
    while (n-- > 0)
        filter_run((char *[]){"gzip", "-c", text_path, NULL});
}

const struct row system_rows[] = {
    {"getppid", "getppid", ROW_KERNEL, 1, NULL, getppid_run, NULL},
    {"fork", "fork, exit, wait", ROW_KERNEL, 1, NULL, fork_run, NULL},
    {"exec", "vfork, exec of /bin/true, wait", ROW_KERNEL, 1, exec_setup, exec_run, NULL},
    {"fault", "anonymous page touched", ROW_KERNEL, FAULT_PAGES, NULL, fault_run, NULL},
    {"pipe", "pipe there and back, two processes", ROW_KERNEL, 1, pipe_setup, pipe_run, pipe_teardown},
    {"shell", "sh: 20 x /bin/true", ROW_PROGRAM, 1, shell_setup, shell_run, NULL},
    {"sha256", "sha256sum of 4 MiB", ROW_PROGRAM, 1, text_setup, sha256_run, text_teardown},
    {"gzip", "gzip of 2 MiB", ROW_PROGRAM, 1, text_half_setup, gzip_run, text_teardown},
};
const unsigned system_row_count = ARRAY_LEN(system_rows);
