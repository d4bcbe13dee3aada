/* What things cost: system calls, switches, fork, exec, page faults, output. bench [rounds, default 200]
 *
 * Each line is the mean over many rounds, in microseconds; the clock ticks every 10 ms, so few rounds say little. */
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

static void screen_round(void)
{
    write(SCREEN, "0123456789abcdef\b\b\b\b\b\b\b\b\b\b\b\b\b\b\b\b", 32);
}

static void measure(const char *what, void (*round)(void), unsigned rounds)
{
    unsigned long start = time();
    for (unsigned i = 0; i < rounds; i++)
        round();
    unsigned long us = (time() - start) * 1000;
    printf("%-28s %6lu.%02lu us\n", what, us / rounds, us * 100 / rounds % 100);
}

int main(int argc, char **argv)
{
    if (argv[1] != NULL && strcmp(argv[1], "nothing") == 0)
        return 0;
    unsigned rounds = number_parse(argv[1], 200);
    for (unsigned i = 0; i < 64; i++)
        pages[i][0] = 1;
    measure("system call", call_round, rounds * 10);
    int pid = fork();
    if (pid == 0)
        for (;;)
            yield();
    measure("two switches", switch_round, rounds * 10);
    int status;
    kill(pid);
    wait(&status, 0);
    measure("fork, exit, wait", fork_round, rounds);
    measure("the same and exec", exec_round, rounds);
    measure("fork, 64 pages written", copy_round, rounds);
    measure("16 characters on the screen", screen_round, rounds);
    return 0;
}
