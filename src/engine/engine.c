#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "engine/interpret/interpret.h"
#include "engine/kvm/kvm.h"
#include "engine/translate/translate.h"
#include "engine/trap/trap.h"

const struct engine *const engines[] = {&engine_kvm, &engine_translate, &engine_interpret, &engine_trap};
const unsigned engine_count = sizeof engines / sizeof engines[0];

static bool meets(const struct engine *engine, unsigned needs, struct error *err)
{
    if ((needs & ENGINE_COUNTS) && engine->uncounted)
        return error_set(err, "--clock instructions needs exact counts, which engine %s cannot give: use --engine translate",
                         engine->name);
    if ((needs & ENGINE_VERIFIES) && !engine->verifies)
        return error_set(err, "--verify compares translated code: use --engine translate");
    if ((needs & ENGINE_SEVERAL) && !engine->several)
        return error_set(err, "engine %s runs one processor: use --cpus 1, or --engine auto", engine->name);
    return true;
}

static const struct engine *engine_choose(unsigned needs, struct error *err)
{
    struct error why_not = {""};
    for (unsigned i = 0; i < engine_count; i++) {
        const struct engine *engine = engines[i];
        if (meets(engine, needs, &why_not) && engine->usable(&why_not) &&
            (engine->preferred == NULL || engine->preferred(&why_not)))
            return engine;
    }
    error_set(err, "no engine can run here: %s", why_not.message);
    return NULL;
}

const struct engine *engine_find(const char *name, unsigned needs, struct error *err)
{
    if (name == NULL || strcmp(name, "auto") == 0)
        return engine_choose(needs, err);
    char names[256] = "auto";
    struct error why_not = {""};
    for (unsigned i = 0; i < engine_count; i++) {
        const struct engine *engine = engines[i];
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", engine->name);
        if (strcmp(name, engine->name) != 0)
            continue;
        if (!meets(engine, needs, err))
            return NULL;
        if (engine->usable(&why_not))
            return engine;
        error_set(err, "engine %s cannot run here: %s", name, why_not.message);
        return NULL;
    }
    error_set(err, "there is no engine %s; choose one of %s", name, names);
    return NULL;
}
