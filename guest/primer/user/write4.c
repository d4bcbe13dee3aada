/* The lecture's first exercise: four characters to the memory-mapped screen.
 *
 * "guest OS running user program makes write system call to write 4 characters to screen; write system call
 * implementation does write by writing character at a time to memory mapped I/O address. How many exceptions occur on
 * the real hardware?" Between the marks: the system call, four stores to the device, the return. Six.
 *
 * Once without marks first, so that everything has been touched; and a sleep, so that the next tick of the timer is
 * far. */
#include "lib.h"

int main(int argc, char **argv)
{
    write(SCREEN, "once", 4);
    sleep(1);
    mark('[');
    long n = write(SCREEN, "four", 4);
    mark(']');
    return n != 4;
}
