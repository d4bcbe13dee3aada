/* Runs a guest while its engine is changed, again and again, at moments that chance decides.
 *
 *     switch_test --kernel FILE [--initrd FILE] [--append TEXT] [--memory MIB] [--clock instructions] [--timeout SECONDS]
 *                 [--engines A,B,...] [--every-us N] [--seed N] [--until TEXT] [--type TEXT] [--serial] [--cpu MODEL]
 *                 [--cpus N] [--any-back-end]
 *
 * The guest's debug console (with --serial: its serial port) goes to standard output, where a script compares it with
 * what a run on one engine prints. Without --engines all that are usable here take turns; the next one is chosen at
 * random, and it may be the same: then the machine is only paused. Time between two changes is random, up to twice N
 * microseconds. `--type` sends a line to the serial port when the guest has printed `--until`.
 *
 * At the end standard error gets one line: how often the engine was changed, and how long that took. Exit status: that of the guest's debug exit,
 * 0 for power-off and reset, 3 for anything else, 2 for bad arguments; 77 if fewer than two of the engines are usable. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "host/chardev.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/machine.h"
#include "mmu/shadow.h"

#define ENGINES_MAX 8u

struct console {
    struct chardev dev;
    struct mover *mover;
};

struct mover {
    struct vm *vm;
    struct timer timer, typist;
    const char *names[ENGINES_MAX];
    unsigned count;
    uint64_t every_ns, random;
    uint64_t changes, pauses, refusals;
    uint64_t change_ns, pause_ns, longest_ns; /* host time that they took; the longest change */
    bool failed, any_back_end;
    /* the serial line's script */
    const char *until, *type;
    size_t matched, typed;
    bool typing;
    struct console debugcon, serial;
};

static uint64_t random_next(struct mover *m)
{
    uint64_t z = m->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void arm(struct mover *m)
{
    timer_arm(&m->timer, clock_monotonic_ns() + random_next(m) % (2 * m->every_ns));
}

/* An engine that may say no to a processor model, or to what a guest is doing now; the machine then goes on as it was. */
static bool is_for_some(const char *name)
{
    return strcmp(name, "interpret") != 0 && strcmp(name, "translate") != 0;
}

static void move(void *opaque)
{
    struct mover *m = opaque;
    const char *name = m->names[random_next(m) % m->count];
    struct error err;
    uint64_t begin_ns = clock_monotonic_ns(), took_ns;
    if (strcmp(name, vm_engine(m->vm)) == 0) {
        vm_pause(m->vm);
        vm_resume(m->vm);
        m->pauses++;
        m->pause_ns += clock_monotonic_ns() - begin_ns;
    } else if (vm_set_engine(m->vm, name, &err)) {
        m->changes++;
        took_ns = clock_monotonic_ns() - begin_ns;
        m->change_ns += took_ns;
        m->longest_ns = took_ns > m->longest_ns ? took_ns : m->longest_ns;
    } else if (is_for_some(name)) {
        m->refusals++;
    } else {
        fprintf(stderr, "switch_test: %s\n", err.message);
        m->failed = true;
        vm_stop(m->vm, VM_STOP_QUIT);
    }
    arm(m);
}

static void give_up(void *opaque)
{
    struct mover *m = opaque;
    vm_stop(m->vm, VM_STOP_TIMEOUT);
}

/* ---- the consoles ---- */

static size_t console_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    fwrite(bytes, 1, n, stdout);
    return n;
}

static void type_on(struct mover *m)
{
    struct chardev *dev = &m->serial.dev;
    while (m->typing && m->type[m->typed] != 0 && chardev_can_receive(dev) > 0)
        chardev_receive(dev, (const uint8_t *)&m->type[m->typed++], 1);
}

static size_t serial_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct mover *m = container_of(dev, struct console, dev)->mover;
    fwrite(bytes, 1, n, stdout);
    for (size_t i = 0; i < n && m->until != NULL && !m->typing; i++) {
        m->matched = bytes[i] == (uint8_t)m->until[m->matched] ? m->matched + 1 : bytes[i] == (uint8_t)m->until[0];
        m->typing = m->until[m->matched] == 0;
    }
    return n;
}

static void serial_accept(struct chardev *dev)
{
    type_on(container_of(dev, struct console, dev)->mover);
}

static const struct chardev_ops console_ops = {.write = console_write, .name = "console"};
static const struct chardev_ops serial_ops = {.write = serial_write, .accept_input = serial_accept, .name = "serial"};

/* What is typed begins when the guest has printed its prompt; the loop looks now and then. */
static void type_later(void *opaque)
{
    struct mover *m = opaque;
    type_on(m);
    timer_arm(&m->typist, m->typist.deadline_ns + NS_PER_S / 10);
}

/* ---- arguments ---- */

struct arguments {
    struct machine_config config;
    const char *engines;
    uint64_t timeout_ns;
    bool serial;
};

static bool parse(struct arguments *a, struct mover *m, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--any-back-end") == 0) {
            m->any_back_end = true;
            continue;
        }
        if (strcmp(name, "--serial") == 0) {
            a->serial = true;
            continue;
        }
        if (value == NULL)
            return false;
        i++;
        if (strcmp(name, "--kernel") == 0)
            a->config.kernel = value;
        else if (strcmp(name, "--initrd") == 0)
            a->config.initrd = value;
        else if (strcmp(name, "--append") == 0)
            a->config.append = value;
        else if (strcmp(name, "--cpu") == 0)
            a->config.cpu = value;
        else if (strcmp(name, "--cpus") == 0)
            a->config.cpus = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(name, "--memory") == 0)
            a->config.ram_size = strtoull(value, NULL, 10) * MiB;
        else if (strcmp(name, "--clock") == 0)
            a->config.clock = strcmp(value, "instructions") == 0 ? CLOCK_INSTRUCTIONS : CLOCK_HOST;
        else if (strcmp(name, "--timeout") == 0)
            a->timeout_ns = strtoull(value, NULL, 10) * NS_PER_S;
        else if (strcmp(name, "--engines") == 0)
            a->engines = value;
        else if (strcmp(name, "--every-us") == 0)
            m->every_ns = strtoull(value, NULL, 10) * 1000;
        else if (strcmp(name, "--seed") == 0)
            m->random = strtoull(value, NULL, 10);
        else if (strcmp(name, "--until") == 0)
            m->until = value;
        else if (strcmp(name, "--type") == 0)
            m->type = value;
        else
            return false;
    }
    return a->config.kernel != NULL && a->config.cpus <= MACHINE_CPUS_MAX && m->every_ns != 0 && (m->until == NULL) == (m->type == NULL);
}

/* All engines, or those that were named, as far as they work here, suit the machine, and are worth it: a /dev/kvm that
 * emulates knows too little of a processor to be compared with, but for guests that want little (--any-back-end). */
static void choose_engines(struct mover *m, const struct machine_config *config, const char *named)
{
    unsigned needs = (config->clock == CLOCK_INSTRUCTIONS ? ENGINE_COUNTS : 0) | (config->cpus > 1 ? ENGINE_SEVERAL : 0);
    for (unsigned i = 0; i < engine_count && m->count < ENGINES_MAX; i++) {
        struct error why_not;
        const char *name = engines[i]->name, *at = named != NULL ? strstr(named, name) : "";
        bool worth_it = m->any_back_end || engines[i]->preferred == NULL || engines[i]->preferred(&why_not);
        if (at != NULL && worth_it && engine_find(name, needs, &why_not) != NULL)
            m->names[m->count++] = name;
    }
}

static int status_of(const struct mover *m, const struct vm_result *result)
{
    if (m->failed)
        return 3;
    switch (result->end) {
    case VM_END_POWER_OFF:
    case VM_END_RESET: return 0;
    case VM_END_DEBUG_EXIT: return result->code & 0xff;
    default: fprintf(stderr, "switch_test: the run ended with %d, code %d\n", (int)result->end, result->code); return 3;
    }
}

static int run(struct arguments *a, struct mover *m, struct error *err)
{
    bool kvm = strcmp(m->names[0], "kvm") == 0; /* where the host cannot scale the TSC it has to be the first */
    a->config.engine = kvm ? "kvm" : m->names[random_next(m) % m->count];
    m->vm = vm_create(&a->config, err);
    if (m->vm == NULL)
        return 2;
    timer_init(&m->timer, loop_timers(a->config.loop), move, m);
    timer_init(&m->typist, loop_timers(a->config.loop), type_later, m);
    struct timer limit;
    timer_init(&limit, loop_timers(a->config.loop), give_up, m);
    timer_arm(&limit, clock_monotonic_ns() + a->timeout_ns);
    if (m->type != NULL)
        timer_arm(&m->typist, clock_monotonic_ns());
    arm(m);
    struct vm_result result;
    bool ran = vm_run(m->vm, &result, err);
    timer_disarm(&m->timer);
    timer_disarm(&m->typist);
    timer_disarm(&limit);
    int status = ran ? status_of(m, &result) : 3;
    vm_destroy(m->vm);
    return status;
}

int main(int argc, char **argv)
{
    static struct mover mover = {.every_ns = 2000000, .random = 1};
    struct mover *m = &mover;
    struct log log;
    log_init(&log, LOG_OFF, NULL, NULL);
    struct arguments a = {.config = {.ram_size = 64 * MiB, .no_reboot = true, .shadow = SHADOW_PROACTIVE,
                                     .heat = TRANSLATE_HEAT_DEFAULT, .log = &log},
                          .timeout_ns = 240 * NS_PER_S};
    if (!parse(&a, m, argc, argv)) {
        fprintf(stderr, "switch_test: bad arguments; see the top of switch_test.c\n");
        return 2;
    }
    choose_engines(m, &a.config, a.engines);
    if (m->count < 2) {
        fprintf(stderr, "switch_test: fewer than two of these engines can run here\n");
        return 77;
    }
    struct error err = {""};
    a.config.loop = loop_create(&err);
    if (a.config.loop == NULL)
        return 2;
    m->debugcon = (struct console){.dev = {.ops = &console_ops}, .mover = m};
    m->serial = (struct console){.dev = {.ops = &serial_ops}, .mover = m};
    a.config.debugcon = &m->debugcon.dev;
    if (a.serial)
        a.config.serial = &m->serial.dev;
    int status = run(&a, m, &err);
    loop_destroy(a.config.loop);
    fflush(stdout);
    if (err.message[0] != 0)
        fprintf(stderr, "switch_test: %s\n", err.message);
    fprintf(stderr, "switch_test: %llu changes of engine in %.3f ms each (longest %.3f), %llu pauses in %.3f ms each, %llu refusals\n",
            (unsigned long long)m->changes, (double)m->change_ns / 1e6 / (double)(m->changes != 0 ? m->changes : 1),
            (double)m->longest_ns / 1e6, (unsigned long long)m->pauses,
            (double)m->pause_ns / 1e6 / (double)(m->pauses != 0 ? m->pauses : 1), (unsigned long long)m->refusals);
    return status;
}
