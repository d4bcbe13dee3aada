/* `ring3 run`: makes a machine from the options, runs it, says how it ended.
 *
 * Order. What the user may have got wrong comes first, before the terminal is touched; the terminal is raw from the
 * creation of the serial backend to its destruction. Reports about the guest (post-mortem, statistics) are made as text
 * while the machine still exists, and printed when guest output has been flushed and the terminal is as it was.
 *
 * Signals. From just before vm_run() SIGINT, SIGTERM, SIGHUP and SIGQUIT (those that were not ignored when we were
 * started) arrive through the event loop and stop the machine; after an orderly end we die of the same signal. A second
 * one kills at once. Before that they kill, and the terminal's guard puts the terminal back. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/symbols.h"
#include "cli/commands.h"
#include "cli/display.h"
#include "cli/options.h"
#include "cli/status.h"
#include "cpu/cpuid.h"
#include "engine/hot.h"
#include "engine/engine.h"
#include "engine/postmortem.h"
#include "engine/report.h"
#include "engine/stats.h"
#include "engine/trace.h"
#include "gdb/gdb.h"
#include "host/chardev_create.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/pc.h"
#include "host/net_create.h"
#include "monitor/monitor.h"

/* How often it is noted where the guest is: seldom when the counters are to measure, often when the hot code is
 * wanted. */
#define SAMPLE_STAT_NS 10000000u
#define SAMPLE_TRACE_NS 1000000u

/* One invocation of the command. */
struct run {
    struct run_options options;
    struct log log;
    struct loop *loop;
    struct chardev *serial, *debugcon, *virtio_console;
    struct nic_config nics[NICS_MAX];
    struct display *display; /* NULL: the screen is not shown */
    char *late;              /* lines of the log while it was */
    size_t late_size;
    FILE *late_log;
    struct monitor *monitor;
    struct chardev_listener *monitor_listener;
    struct gdb *gdb;
    struct chardev_listener *gdb_listener;
    struct stats *stats;
    FILE *stat_file;
    struct trace *trace;
    struct symbols *symbols;
    struct vm *vm;
    struct timer timeout;
    sigset_t signals;
    int signal_fd;
    struct loop_source *signal_source;
    int signal; /* that ended the run; 0: none */
    char *report;
    size_t report_size;
};

int cli_fail(int status, const struct error *err)
{
    fprintf(stderr, "ring3: %s\n", err->message);
    return status;
}

/* --- what stops the machine from outside --- */

static void run_quit(void *opaque)
{
    struct run *run = opaque;
    if (run->vm != NULL)
        vm_stop(run->vm, VM_STOP_QUIT);
}

static void run_timeout(void *opaque)
{
    struct run *run = opaque;
    vm_stop(run->vm, VM_STOP_TIMEOUT);
}

static void run_signal(void *opaque, unsigned events)
{
    struct run *run = opaque;
    struct signalfd_siginfo info;
    if (read(run->signal_fd, &info, sizeof info) != sizeof info)
        return;
    run->signal = (int)info.ssi_signo;
    loop_remove(run->signal_source);
    run->signal_source = NULL;
    pthread_sigmask(SIG_UNBLOCK, &run->signals, NULL); /* the next one kills */
    vm_stop(run->vm, VM_STOP_SIGNAL);
}

static bool signals_catch(struct run *run, struct error *err)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    sigemptyset(&run->signals);
    for (size_t i = 0; i < ARRAY_LEN(ending); i++) {
        struct sigaction action;
        if (sigaction(ending[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaddset(&run->signals, ending[i]);
    }
    run->signal_fd = signalfd(-1, &run->signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (run->signal_fd < 0)
        return error_set(err, "signals cannot be received: %s", strerror(errno));
    pthread_sigmask(SIG_BLOCK, &run->signals, NULL);
    run->signal_source = loop_add(run->loop, run->signal_fd, LOOP_READ, run_signal, run);
    return true;
}

static void signals_release(struct run *run)
{
    loop_remove(run->signal_source);
    run->signal_source = NULL;
    if (run->signal_fd >= 0)
        close(run->signal_fd);
    run->signal_fd = -1;
    pthread_sigmask(SIG_UNBLOCK, &run->signals, NULL);
}

/* --- making it --- */

/* What is said while the screen has the terminal is shown there, and once more at the end. */
static void run_announce(void *opaque, const char *line)
{
    struct run *run = opaque;
    if (run->display != NULL) {
        display_say(run->display, line);
        fprintf(run->late_log, "%s\n", line);
        return;
    }
    puts(line);
    fflush(stdout);
}

static void run_warn(void *opaque, const char *line)
{
    struct run *run = opaque;
    if (run->display != NULL)
        display_say(run->display, line);
    fprintf(run->display != NULL && isatty(STDERR_FILENO) ? run->late_log : stderr, "ring3: %s\n", line);
}

static bool run_create_chardevs(struct run *run, struct error *err)
{
    struct chardev_env env = {
        .loop = run->loop,
        .label = "debugcon",
        .output_only = true,
        .quit = run_quit,
        .announce = run_announce,
        .warn = run_warn,
        .opaque = run,
    };
    run->debugcon = chardev_create(run->options.debugcon, &env, err);
    if (run->debugcon == NULL)
        return error_prefix(err, "--debugcon");
    env.label = "serial0";
    env.output_only = false;
    run->serial = chardev_create(run->options.serial, &env, err);
    if (run->serial == NULL)
        return error_prefix(err, "--serial");
    if (run->options.virtio_console == NULL)
        return true;
    env.label = "hvc0";
    if (strcmp(run->options.virtio_console, "stdio") == 0 && strcmp(run->options.serial, "stdio") == 0)
        return error_set(err, "--virtio-console: the serial port has the terminal: give it another place with --serial");
    run->virtio_console = chardev_create(run->options.virtio_console, &env, err);
    return run->virtio_console != NULL || error_prefix(err, "--virtio-console");
}

static bool run_create_nets(struct run *run, struct error *err)
{
    const struct nic_list *list = &run->options.nics;
    for (unsigned i = 0; i < list->count; i++) {
        run->nics[i].net = net_create(list->nic[i].spec, err);
        if (run->nics[i].net == NULL)
            return error_prefix(err, "--net");
        memcpy(run->nics[i].mac, list->nic[i].mac, sizeof run->nics[i].mac);
    }
    if (list->count != 0 && run->options.clock == CLOCK_INSTRUCTIONS)
        run_warn(run, "--net: frames come when the host brings them, so this run will not repeat with --clock instructions");
    return true;
}

/* What --stat and --trace ask for: counters, places, names for them. */
static bool run_create_counters(struct run *run, struct error *err)
{
    const struct run_options *o = &run->options;
    run->stats = calloc(1, sizeof *run->stats);
    struct hot *hot = hot_create();
    if (run->stats == NULL || hot == NULL) {
        hot_destroy(hot);
        return error_set(err, "out of memory");
    }
    run->stats->hot = hot;
    run->stats->sensitive_counted = o->sensitive;
    run->symbols = o->symbols != NULL ? symbols_read(o->symbols, err)
                   : o->kernel != NULL  ? symbols_read_elf(o->kernel)
                                        : NULL;
    if (run->symbols == NULL && o->symbols != NULL)
        return error_prefix(err, "--symbols");
    run->stats->symbols = run->symbols;
    return true;
}

/* The screen in the terminal, where a line of the log would be in the way: those wait for the end. */
static void run_log_late(void *opaque, const char *line)
{
    struct run *run = opaque;
    fprintf(run->late_log, "ring3: %s\n", line);
}

static bool run_create_display(struct run *run, struct error *err)
{
    if (run->options.display == DISPLAY_NONE)
        return true;
    const struct display_config config = {.loop = run->loop, .pc = vm_pc(run->vm), .quit = run_quit, .opaque = run};
    run->late_log = open_memstream(&run->late, &run->late_size);
    if (run->late_log == NULL)
        return error_set(err, "out of memory");
    run->display = display_create(&config, err);
    if (run->display == NULL)
        return error_prefix(err, "--display");
    if (isatty(STDERR_FILENO)) {
        run->log.sink = run_log_late;
        run->log.opaque = run;
    }
    return true;
}

/* A console of the monitor on the other side of the serial port's terminal, and where --monitor says. */
static bool run_create_monitor(struct run *run, struct error *err)
{
    const struct monitor_config config = {
        .vm = run->vm, .loop = run->loop, .log = &run->log, .version = "ring3 " RING3_VERSION};
    const struct run_options *o = &run->options;
    run->monitor = monitor_create(&config);
    struct chardev *second = chardev_second(run->serial);
    if (second != NULL)
        monitor_attach(run->monitor, second, true, false);
    if (run->display != NULL)
        monitor_attach(run->monitor, display_monitor(run->display), true, false);
    if (strcmp(o->monitor, "none") == 0)
        return true;
    if (strcmp(o->monitor, "stdio") == 0 && strcmp(o->serial, "stdio") == 0)
        return error_set(err, "--monitor: the serial port has the terminal: give it another place with --serial, or press Ctrl-A c");
    struct chardev_env env = {.loop = run->loop, .label = "monitor", .quit = run_quit, .announce = run_announce,
                              .warn = run_warn, .opaque = run};
    return chardev_create_each(o->monitor, &env, monitor_accept, run->monitor, &run->monitor_listener, err) ||
           error_prefix(err, "--monitor");
}

#define GDB_HERE "tcp:127.0.0.1:1234"

/* Where --gdb says; and what --stopped means. */
static bool run_create_gdb(struct run *run, struct error *err)
{
    const struct run_options *o = &run->options;
    const char *to = o->gdb_here && strcmp(o->gdb, "none") == 0 ? GDB_HERE : o->gdb;
    bool wanted = strcmp(to, "none") != 0;
    if (o->held && !wanted && strcmp(o->monitor, "none") == 0 && chardev_second(run->serial) == NULL)
        return error_set(err, "--stopped: nobody could let the machine begin: give --gdb or --monitor, too");
    if (o->held)
        vm_hold(run->vm);
    if (!wanted)
        return true;
    if (strcmp(to, "stdio") == 0 && (strcmp(o->serial, "stdio") == 0 || strcmp(o->monitor, "stdio") == 0))
        return error_set(err, "--gdb: standard input and output are used already: give --serial or --monitor another place");
    const struct gdb_config config = {
        .vm = run->vm, .loop = run->loop, .monitor = run->monitor, .arch = (enum gdb_arch)o->gdb_arch};
    struct chardev_env env = {.loop = run->loop, .label = "gdb", .quit = run_quit, .announce = run_announce,
                              .warn = run_warn, .opaque = run};
    run->gdb = gdb_create(&config);
    return chardev_create_each(to, &env, gdb_accept, run->gdb, &run->gdb_listener, err) || error_prefix(err, "--gdb");
}

/* An engine that was asked for by name although it would not have been chosen. */
static void run_warn_engine(struct run *run)
{
    for (unsigned i = 0; i < engine_count; i++) {
        const struct engine *engine = engines[i];
        struct error why_not = {""};
        char line[sizeof why_not.message + 32];
        if (run->options.engine == NULL || strcmp(engine->name, run->options.engine) != 0 || engine->preferred == NULL ||
            !engine->usable(NULL) || engine->preferred(&why_not))
            continue;
        snprintf(line, sizeof line, "engine %s: %s", engine->name, why_not.message);
        run_warn(run, line);
    }
}

static bool run_create(struct run *run, struct error *err)
{
    const struct run_options *o = &run->options;
    log_init(&run->log, o->log, NULL, NULL);
    run->loop = loop_create(err);
    if (run->loop == NULL)
        return false;
    if (o->stat != STAT_NONE) {
        run->stat_file = o->stat_file != NULL ? fopen(o->stat_file, "we") : NULL;
        if (o->stat_file != NULL && run->stat_file == NULL)
            return error_set(err, "--stat: %s: %s", o->stat_file, strerror(errno));
    }
    bool watched = strcmp(o->monitor, "none") != 0; /* ring3 top may come */
    if ((o->stat != STAT_NONE || o->trace != NULL || watched) && !run_create_counters(run, err))
        return false;
    if (o->trace != NULL) {
        enum trace_clock clock = o->clock == CLOCK_INSTRUCTIONS ? TRACE_CLOCK_GUEST : TRACE_CLOCK_HOST;
        run->trace = trace_create(o->trace, clock, o->trace_size, err);
        if (run->trace == NULL)
            return error_prefix(err, "--trace");
    }
    if (!run_create_chardevs(run, err) || !run_create_nets(run, err))
        return false;
    struct machine_config config = {
        .engine = o->engine,
        .ram_size = o->ram_size,
        .kernel = o->kernel,
        .firmware = o->firmware,
        .vga = o->vga == VGA_STD,
        .boot = o->boot,
        .initrd = o->initrd,
        .append = o->append,
        .cpu = o->cpu,
        .cpus = o->cpus,
        .kaslr = o->kaslr,
        .no_reboot = o->no_reboot,
        .clock = o->clock,
        .shadow = (unsigned)o->shadow,
        .trap_kernel = (unsigned)o->trap_kernel,
        .trap_no_patch = !o->patch,
        .heat = o->heat,
        .verify = o->verify,
        .drives = o->drives.drive,
        .drive_count = o->drives.count,
        .nics = run->nics,
        .nic_count = o->nics.count,
        .virtio_console = run->virtio_console,
        .virtio_rng = o->virtio_rng,
        .loop = run->loop,
        .serial = run->serial,
        .debugcon = run->debugcon,
        .stats = run->stats,
        .trace = run->trace,
        .sample_ns = run->trace != NULL ? SAMPLE_TRACE_NS : run->stats != NULL ? SAMPLE_STAT_NS : 0,
        .log = &run->log,
    };
    run_warn_engine(run);
    run->vm = vm_create(&config, err);
    return run->vm != NULL && run_create_display(run, err) && run_create_monitor(run, err) && run_create_gdb(run, err);
}

/* Everything that lives on the host goes back; what the guest still had to say is flushed. */
static bool run_destroy(struct run *run, int status, struct error *err)
{
    bool ok = true;
    chardev_listener_destroy(run->gdb_listener);
    gdb_destroy(run->gdb, status);
    chardev_listener_destroy(run->monitor_listener);
    monitor_destroy(run->monitor);
    display_destroy(run->display);
    run->display = NULL; /* what is said from now on needs not wait */
    vm_destroy(run->vm);
    chardev_destroy(run->serial);
    chardev_destroy(run->debugcon);
    chardev_destroy(run->virtio_console);
    for (unsigned i = 0; i < NICS_MAX; i++)
        net_destroy(run->nics[i].net);
    if (!trace_destroy(run->trace, err))
        ok = false;
    if (run->stat_file != NULL && fclose(run->stat_file) != 0 && ok)
        ok = error_set(err, "--stat: %s: %s", run->options.stat_file, strerror(errno));
    if (run->loop != NULL)
        signals_release(run);
    loop_destroy(run->loop);
    if (run->stats != NULL)
        hot_destroy(run->stats->hot);
    free(run->stats);
    symbols_destroy(run->symbols);
    drives_free(&run->options.drives);
    return ok;
}

/* --- how it ended --- */

static bool run_report_stats(struct run *run, FILE *report, struct error *err)
{
    const struct memory *memory = vm_vcpu(run->vm, 0)->memory;
    FILE *out = run->stat_file != NULL ? run->stat_file : report;
    if (run->options.stat == STAT_JSON)
        return stats_print_json(run->stats, memory, out, err);
    stats_print(run->stats, memory, out);
    return true;
}

static int stop_status(struct run *run, enum vm_stop_reason reason, FILE *report)
{
    if (reason != VM_STOP_TIMEOUT)
        return STATUS_OK;
    fprintf(report, "ring3: the guest was still running after %g s (--timeout)\n",
            (double)run->options.timeout_ns / 1e9);
    return STATUS_TIMEOUT;
}

static int end_status(struct run *run, const struct vm_result *result, FILE *report)
{
    switch (result->end) {
    case VM_END_POWER_OFF:
    case VM_END_RESET:
        return STATUS_OK;
    case VM_END_DEBUG_EXIT:
        return result->code & 0xff; /* the chip has made it odd */
    case VM_END_TRIPLE_FAULT:
        if (vm_vcpu_count(run->vm) == 1)
            fputs("ring3: the guest's processor shut down\n", report);
        else
            fprintf(report, "ring3: the guest's processor %u shut down\n", result->cpu);
        postmortem_triple_fault(vm_vcpu(run->vm, result->cpu), report);
        return STATUS_TRIPLE_FAULT;
    case VM_END_PANIC:
        fputs("ring3: the guest's kernel panicked\n", report);
        return STATUS_PANIC;
    case VM_END_STOPPED:
        return stop_status(run, (enum vm_stop_reason)result->code, report);
    }
    return STATUS_INTERNAL;
}

/* What `ring3 report` shows beside the timeline goes into its file. */
static void run_report_trace(struct run *run)
{
    struct vcpu *v = (struct vcpu *)vm_vcpu(run->vm, 0); /* nobody runs it any more; looking changes nothing of the guest */
    const struct engine *engine = engine_find(vm_engine(run->vm), 0, NULL);
    char *json = engine != NULL ? report_collect(v, engine, run->stats) : NULL;
    if (json != NULL)
        trace_report(run->trace, json);
    free(json);
}

/* Runs the machine and collects what is to be said about it. */
static int run_machine(struct run *run, struct error *err)
{
    if (!signals_catch(run, err))
        return STATUS_INTERNAL;
    timer_init(&run->timeout, loop_timers(run->loop), run_timeout, run);
    if (run->options.timeout_ns != 0)
        timer_arm(&run->timeout, clock_monotonic_ns() + run->options.timeout_ns);
    struct vm_result result;
    bool ran = vm_run(run->vm, &result, err);
    timer_disarm(&run->timeout);
    if (!ran)
        return STATUS_INTERNAL;
    FILE *report = open_memstream(&run->report, &run->report_size);
    if (report == NULL) {
        error_set(err, "out of memory");
        return STATUS_INTERNAL;
    }
    int status = end_status(run, &result, report);
    if (run->options.stat != STAT_NONE && !run_report_stats(run, report, err))
        status = STATUS_INTERNAL;
    if (run->trace != NULL)
        run_report_trace(run);
    if (run->trace != NULL && trace_is_full(run->trace))
        fprintf(report, "ring3: %s: the timeline ends early: it has reached --trace-size\n", run->options.trace);
    fclose(report);
    return status;
}

/* Ends as the signal would have ended us. */
static void die_of(int signal_number)
{
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static int run_all(struct run *run)
{
    struct error err, late;
    int status = STATUS_USAGE;
    bool failed = !run_create(run, &err);
    if (!failed) {
        status = run_machine(run, &err);
        failed = status == STATUS_INTERNAL;
    }
    bool tidy = run_destroy(run, status, &late);
    if (run->late_log != NULL) {
        fclose(run->late_log);
        fwrite(run->late, 1, run->late_size, stderr);
        free(run->late);
    }
    if (run->report != NULL)
        fwrite(run->report, 1, run->report_size, stderr);
    free(run->report);
    if (failed)
        cli_fail(status, &err);
    if (!tidy && !failed)
        status = cli_fail(STATUS_INTERNAL, &late);
    if (run->signal != 0)
        die_of(run->signal);
    return status;
}

int command_run(int argc, char **argv)
{
    struct run run = {.signal_fd = -1};
    struct error err;
    sigemptyset(&run.signals);
    if (!run_options_parse(&run.options, argc, argv, &err)) {
        drives_free(&run.options.drives);
        return cli_fail(STATUS_USAGE, &err);
    }
    if (run.options.help)
        return command_help(1, (char *[]){"run", NULL});
    if (option_asks_for_list(run.options.engine))
        return command_engines(0, NULL);
    if (option_asks_for_list(run.options.cpu)) {
        cpu_model_help(stdout);
        return STATUS_OK;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* `ulimit -f` holds for guest memory, too: an error with a message */
    return run_all(&run);
}
