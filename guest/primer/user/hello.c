/* The first program. */
#include "lib.h"

int main(int argc, char **argv)
{
    printf("hello from process %d\n", getpid());
    return 0;
}
