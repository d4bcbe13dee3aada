/* What things cost: system calls, switches, fork, exec, page faults, output. bench [rounds [name]]
 *
 * Each line is the mean over many rounds (200, unless it is said), in microseconds; the clock ticks every 10 ms, so few
 * rounds say little. With the name of a line, it alone is measured. Marks are around each: for who counts
 * from outside. */
#include "lib.h"

#define PAGE 4096
static volatile char pages[64][PAGE];

static void call_round(void)
{
    getpid();
}

static void switch_round(void)
{
    yield();
}

static void fork_round(void)
{
    int status, pid = fork();
    if (pid == 0)
        exit(0);
    wait(&status, 0);
}

static void exec_round(void)
{
    int status, pid = fork();
    if (pid == 0) {
        exec("bench nothing");
        exit(1);
    }
    wait(&status, 0);
}

/* fork, and 64 pages that the child writes: as many copies. */
static void copy_round(void)
{
    int status, pid = fork();
    if (pid == 0) {
        for (unsigned i = 0; i < 64; i++)
            pages[i][0]++;
        exit(0);
    }
    wait(&status, 0);
}

static void console_round(void)
{
    write(STDOUT, "0123456789abcde\r", 16);
}

static const struct measurement {
    const char *name, *what;
    void (*round)(void);
    unsigned times; /* rounds, for each that is asked for */
    bool with_other; /* another process yields all the time */
} measurements[] = {
    {"call", "system call", call_round, 10, false},
    {"switch", "two switches", switch_round, 10, true},
    {"fork", "fork, exit, wait", fork_round, 1, false},
    {"exec", "the same and exec", exec_round, 1, false},
    {"copy", "fork, 64 pages written", copy_round, 1, false},
    {"console", "16 characters, console", console_round, 1, false},
};

static void measure(const struct measurement *m, unsigned rounds)
{
    int status, other = m->with_other ? fork() : -1;
    if (other == 0)
        for (;;)
            yield();
    rounds *= m->times;
    unsigned long start = time();
    mark('[');
    for (unsigned i = 0; i < rounds; i++)
        m->round();
    mark(']');
    unsigned long us = (time() - start) * 1000;
    if (other > 0) {
        kill(other);
        wait(&status, 0);
    }
    if (rounds != 0)
        printf("%-24s %6lu.%02lu us\n", m->what, us / rounds, us * 100 / rounds % 100);
}

int main(int argc, char **argv)
{
    if (argv[1] != NULL && strcmp(argv[1], "nothing") == 0)
        return 0;
    unsigned rounds = number_parse(argv[1], 200);
    for (unsigned i = 0; i < 64; i++)
        pages[i][0] = 1;
    for (unsigned i = 0; i < sizeof(measurements) / sizeof(measurements[0]); i++)
        if (argc < 3 || strcmp(argv[2], measurements[i].name) == 0)
            measure(&measurements[i], rounds);
    return 0;
}
