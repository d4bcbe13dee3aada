/* Runs for ever and does nothing: the other program of readblock. */
#include "lib.h"

int main(int argc, char **argv)
{
    for (;;)
        __asm__ volatile("" ::: "memory");
}
