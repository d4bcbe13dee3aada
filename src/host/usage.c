/* Memory use from /proc/self/status: proc(5), RssAnon and RssFile. Guest RAM is a memfd, which counts as RssShmem (and
 * twice where it is mapped twice). */
#include "host/usage.h"

#include <stdbool.h>
#include <stdio.h>

#include "base/types.h"

uint64_t usage_private_bytes(void)
{
    FILE *in = fopen("/proc/self/status", "re");
    if (in == NULL)
        return 0;
    char line[256];
    uint64_t sum_kib = 0;
    unsigned long long kib;
    while (fgets(line, sizeof line, in) != NULL)
        if (sscanf(line, "RssAnon: %llu", &kib) == 1 || sscanf(line, "RssFile: %llu", &kib) == 1)
            sum_kib += kib;
    fclose(in);
    return sum_kib * KiB;
}
