#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

/* The only thread-local state of ring3: which machine to describe when this thread finds a bug. */
static _Thread_local void (*context_print)(void *);
static _Thread_local void *context_opaque;

void check_set_context(void (*print)(void *opaque), void *opaque)
{
    context_print = print;
    context_opaque = opaque;
}

_Noreturn void check_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "ring3: internal error: %s does not hold at %s:%d\n", condition, file, line);
    void (*print)(void *) = context_print;
    context_print = NULL; /* a bug in the printer must not come back here */
    if (print != NULL)
        print(context_opaque);
    abort();
}
