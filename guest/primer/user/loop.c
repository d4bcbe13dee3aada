/* A tight loop without a system call: what runs at full speed under every kind of monitor. loop [millions of turns] */
#include "lib.h"

int main(int argc, char **argv)
{
    unsigned millions = number_parse(argv[1], 100);
    unsigned x = 1;
    unsigned long start = time();
    for (unsigned m = 0; m < millions; m++)
        for (unsigned i = 0; i < 1000000; i++)
            __asm__ volatile("imul $1664525, %0; add $1013904223, %0" : "+r"(x)::"cc");
    printf("loop: %u million turns, %lu ms, sum %x\n", millions, time() - start, x);
    return 0;
}
