#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "engine/interpret/interpret.h"
#include "engine/translate/translate.h"

const struct engine *const engines[] = {&engine_translate, &engine_interpret};
const unsigned engine_count = sizeof engines / sizeof engines[0];

const struct engine *engine_find(const char *name, struct error *err)
{
    bool automatic = name == NULL || strcmp(name, "auto") == 0;
    char names[256] = "auto";
    struct error why_not = {""};
    for (unsigned i = 0; i < engine_count; i++) {
        const struct engine *engine = engines[i];
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", engine->name);
        if (!automatic && strcmp(name, engine->name) != 0)
            continue;
        if (engine->usable(&why_not))
            return engine;
        if (!automatic) {
            error_set(err, "engine %s cannot run here: %s", name, why_not.message);
            return NULL;
        }
    }
    if (automatic)
        error_set(err, "no engine can run here: %s", why_not.message);
    else
        error_set(err, "there is no engine %s; choose one of %s", name, names);
    return NULL;
}
