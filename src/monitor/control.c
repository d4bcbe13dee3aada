/* Commands that steer the machine: stop, cont, quit, reset, the power button, NMI, the engine, the log. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/suggest.h"
#include "base/types.h"
#include "engine/engine.h"
#include "engine/stats.h"
#include "machine/machine.h"
#include "machine/pc.h"
#include "monitor/internal.h"

void call_stop(struct call *call)
{
    vm_hold(call->vm);
}

void call_cont(struct call *call)
{
    vm_go(call->vm);
}

void call_quit(struct call *call)
{
    vm_stop(call->vm, VM_STOP_QUIT);
}

void call_reset(struct call *call)
{
    vm_reset(call->vm);
}

void call_powerdown(struct call *call)
{
    if (!pc_power_button(vm_pc(call->vm)))
        fputs("the guest does not listen to the power button now\n", call->out);
}

void call_nmi(struct call *call)
{
    pc_nmi(vm_pc(call->vm));
}

/* [-f] DRIVE [FILE]: the medium of a drive; FILE is what follows, with its spaces. */
static void change_medium(struct call *call, bool with_file)
{
    bool force = call->argc > 0 && strcmp(call->argv[0], "-f") == 0;
    const char *drive = call->argc > force ? call->argv[force] : NULL, *file = call->rest;
    for (unsigned skip = 0; skip <= (unsigned)force; skip++) {
        file += strcspn(file, " \t");
        file += strspn(file, " \t");
    }
    struct error err;
    if (drive == NULL || (with_file && *file == 0))
        call_fail(call, "%s", with_file ? "which? change [-f] DRIVE FILE" : "which? eject [-f] DRIVE");
    else if (!pc_change_medium(vm_pc(call->vm), drive, with_file ? file : NULL, force, &err))
        call_fail(call, "%s", err.message);
}

void call_change(struct call *call)
{
    change_medium(call, true);
}

void call_eject(struct call *call)
{
    change_medium(call, false);
}

void call_boot_set(struct call *call)
{
    struct error err;
    if (call->argc != 1)
        call_fail(call, "which order, such as dc for CD-ROM, then disk?");
    else if (!pc_set_boot_order(vm_pc(call->vm), call->argv[0], &err))
        call_fail(call, "%s", err.message);
}

void call_cpu(struct call *call)
{
    uint64_t n;
    struct error err;
    if (call->argc == 0) {
        fprintf(call->out, "CPU #%u\n", call->monitor->cpu);
    } else if (!expression_evaluate(call->v, call->rest, &n, &err)) {
        call_fail(call, "%s", err.message);
    } else if (n >= vm_vcpu_count(call->vm)) {
        call_fail(call, "there are %u processors, the first is 0", vm_vcpu_count(call->vm));
    } else {
        call->monitor->cpu = (unsigned)n;
    }
}

void call_engine(struct call *call)
{
    struct error err;
    if (call->argc == 0)
        fprintf(call->out, "%s\n", vm_engine(call->vm));
    else if (!vm_set_engine(call->vm, call->argv[0], &err))
        call_fail(call, "%s", err.message);
}

void call_log(struct call *call)
{
    static const char *const levels[] = {"off", "warn", "info", "debug"};
    _Static_assert(LOG_OFF == 0 && LOG_WARN == 1 && LOG_INFO == 2 && LOG_DEBUG == 3, "numbers levels");
    struct log *log = call->monitor->config.log;
    char tail[80];
    if (log == NULL) {
        call_fail(call, "this machine has no log");
        return;
    }
    if (call->argc == 0) {
        fprintf(call->out, "%s\n", levels[log->level]);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(call->argv[0], levels[i]) == 0) {
            log->level = (enum log_level)i;
            return;
        }
    }
    call_fail(call, "'%.40s' is not one of off, warn, info, debug%s", call->argv[0],
              suggest_tail(call->argv[0], levels, ARRAY_LEN(levels), tail, sizeof tail));
}

/* ---- counters ---- */

static uint64_t time_ns(struct timeval time)
{
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_usec * 1000;
}

/* One object, made for `ring3 top`: the counters, and what they say nothing of. */
static void print_json(struct call *call, const struct stats *stats)
{
    struct rusage usage = {0};
    struct error err;
    getrusage(RUSAGE_SELF, &usage);
    fprintf(call->out,
            "{\"engine\": \"%s\", \"paused\": %s, \"cpus\": %u, \"user_ns\": %" PRIu64 ", \"system_ns\": %" PRIu64
            ", \"stats\": ",
            vm_engine(call->vm), vm_is_held(call->vm) ? "true" : "false", vm_vcpu_count(call->vm),
            time_ns(usage.ru_utime), time_ns(usage.ru_stime));
    if (!stats_print_json(stats, vm_vcpu(call->vm, 0)->memory, call->out, &err))
        call_fail(call, "%s", err.message);
    fputs("}\n", call->out);
}

void call_stats(struct call *call)
{
    if (call->argc == 1 && strcmp(call->argv[0], "json") != 0) {
        call_fail(call, "'%.40s' is not a form; stats, or stats json", call->argv[0]);
        return;
    }
    struct stats *stats = calloc(1, sizeof *stats);
    if (stats == NULL) {
        call_fail(call, "out of memory");
        return;
    }
    vm_stats(call->vm, stats);
    if (call->argc == 1)
        print_json(call, stats);
    else
        stats_print(stats, vm_vcpu(call->vm, 0)->memory, call->out);
    free(stats);
}
