/* `ring3 engines`: the ways to execute guest code, in order of preference, and whether each works on this host. */
#include "engine/engine.h"

#include <stdio.h>

#include "cli/commands.h"
#include "cli/status.h"

int command_engines(int argc, char **argv)
{
    if (argc > 0) {
        struct error err;
        error_set(&err, "engines: '%.200s' is one word too many", argv[0]);
        return cli_fail(STATUS_USAGE, &err);
    }
    bool chosen = false;
    for (unsigned i = 0; i < engine_count; i++) {
        const struct engine *engine = engines[i];
        struct error why_not = {.message = ""};
        bool usable = engine->usable(&why_not);
        bool preferred = usable && (engine->preferred == NULL || engine->preferred(&why_not));
        printf("%-12s %s\n", engine->name, engine->summary);
        if (!usable)
            printf("%-12s not usable here: %s\n", "", why_not.message);
        else if (!preferred)
            printf("%-12s usable, but not what --engine auto takes: %s\n", "", why_not.message);
        else
            printf("%-12s usable%s\n", "", chosen ? "" : "; what --engine auto takes");
        chosen |= preferred;
    }
    return STATUS_OK;
}
