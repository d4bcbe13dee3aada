/* Counts, one number in a tenth of a second: something to see in the background. count [to] */
#include "lib.h"

int main(int argc, char **argv)
{
    unsigned to = number_parse(argv[1], 3);
    for (unsigned i = 1; i <= to; i++) {
        sleep(100);
        printf("%u\n", i);
    }
    return 0;
}
