/* The lecture's second exercise: a read() that has to wait.
 *
 * "guest program makes read() system call; guest OS switches to another program; guest OS gets interrupt from keyboard;
 * guest OS switches back to original program, returns from syscall. How many guest page table switches? How many
 * (real/shadow) page table switches?" The other program is `spinner`. Between the marks, if the key comes before the next
 * tick: two loads of CR3; and with one shadow table for pretend user and one for pretend kernel mode, six switches.
 *
 * Prints what came, and ends with the spinner. */
#include "lib.h"

int main(int argc, char **argv)
{
    char c = 0;
    int status, pid = fork();
    if (pid == 0) {
        exec("spinner");
        exit(1);
    }
    sleep(30); /* let it begin */
    mark('[');
    long n = read(STDIN, &c, 1);
    mark(']');
    kill(pid);
    wait(&status, 0);
    printf("readblock: %ld byte, '%c'\n", n, c);
    return n != 1;
}
