/* fork(), wait() and the pages that are shared until they are written. */
#include "lib.h"

static volatile int shared = 1;
static char large[3 * 4096] = {1};

static void check(bool passed, const char *what)
{
    printf("%s - %s\n", passed ? "ok" : "not ok", what);
    if (!passed)
        exit(1);
}

static void test_memory(void)
{
    int status = -1, pid = fork();
    if (pid == 0) {
        bool same = shared == 1 && large[0] == 1;
        shared = 2;
        for (unsigned i = 0; i < sizeof(large); i++)
            large[i] = 7;
        exit(same && shared == 2 ? 3 : 4);
    }
    check(pid > 0, "fork gives the child's number");
    check(wait(&status, 0) == pid && status == 3, "the child sees the parent's memory, and its status arrives");
    check(shared == 1 && large[0] == 1 && large[sizeof(large) - 1] == 0, "what the child wrote is its own");
    shared = 5;
    check(shared == 5, "and the parent can still write");
}

/* The kernel writes into a page that is shared: read() into it. */
static void test_kernel_write(void)
{
    int status = -1, file = open("poem");
    int pid = fork();
    if (pid == 0)
        exit(read(file, large, 4) == 4 && large[0] == 'F' ? 0 : 1);
    wait(&status, 0);
    check(status == 0 && large[0] == 1, "a system call writes into a copy, too");
    check(read(file, large + 4096, 4) == 4 && large[4096] == 'F', "an open file is the child's own");
    close(file);
}

static void test_generations(unsigned depth)
{
    int status = -1, pid = fork();
    if (pid == 0) {
        if (depth > 1)
            test_generations(depth - 1);
        exit(depth == 1 ? 11 : 0);
    }
    wait(&status, 0);
    if (depth == 1 && status != 11)
        exit(1);
    if (depth > 1 && status != 0)
        exit(1);
}

static void test_many(void)
{
    unsigned made = 0, ended = 0;
    int status;
    while (made < 100) { /* more than there is room for */
        int pid = fork();
        if (pid == 0) {
            sleep(30);
            exit(0);
        }
        if (pid < 0)
            break;
        made++;
    }
    check(made >= 16 && made < 100, "fork fails when the table of processes is full");
    while (wait(&status, 0) > 0)
        ended++;
    check(ended == made, "all of them come to an end");
    check(wait(&status, 0) == -1, "without children there is nothing to wait for");
}

static void test_kill(void)
{
    int status = -1, pid = fork();
    if (pid == 0)
        for (;;)
            ;
    sleep(20);
    check(kill(pid) == 0 && wait(&status, 0) == pid && status == STATUS_KILLED, "a program that spins can be ended");
    pid = fork();
    if (pid == 0)
        sleep(1000000);
    sleep(20);
    check(kill(pid) == 0 && wait(&status, 0) == pid && status == STATUS_KILLED, "and one that sleeps");
    check(kill(12345) == -1, "but not one that is not there");
}

static void test_bad_pointers(void)
{
    int here;
    check(write(STDOUT, (const void *)0x100000, 4) == -1, "the kernel's memory cannot be written out");
    check(read(STDIN, (void *)0x100000, 4) == -1, "nor read into");
    check(write(STDOUT, (const void *)-4l, 8) == -1, "nor can what is not there");
    check(wait((int *)16, 0) == -1 && exec((const char *)16) == -1, "the same for other calls");
    check(read(77, &here, 4) == -1 && open("nothing") == -1 && exec("nothing") == -1, "what does not exist is not found");
    check(system_call(4711, 0, 0, 0) == -1, "there is no such call");
}

int main(int argc, char **argv)
{
    test_memory();
    test_kernel_write();
    test_generations(8);
    printf("ok - eight generations\n");
    test_many();
    test_kill();
    test_bad_pointers();
    printf("forktest: passed\n");
    return 0;
}
