/* A machine's life: creation, its threads, its clock, its end.
 *
 * Clock "host": guest time is the host's monotonic time since creation. The owner's thread runs the event loop: it fires
 * due guest timers under the device lock and sleeps until the next one. The vCPU's thread runs the engine; when the processor
 * halts it waits on `wake` until something is pending.
 *
 * Clock "instructions": guest time is INSTRUCTION_NS for each instruction executed, plus what was skipped while the
 * processor was halted: then time jumps to the next timer. Only the vCPU's thread fires timers, at instruction counts that
 * are the same in every run. What comes from outside (keystrokes on the console) is the one thing that cannot repeat; it
 * happens at the guest time at which the engine was last entered, because the count belongs to the vCPU's thread.
 *
 * Pauses. vm_pause() brings every vCPU's thread out of the engine and keeps it out; they nest, so that a look at a running
 * machine and a "stop" that the user wants do not know of each other. Guest time stands still meanwhile: with the host's
 * clock its start moves by the length of the pause, so that the guest sees no jump and no timer fires early. Only while
 * all are outside does guest time change its origin, and an engine its vCPUs. A reset asked for during a pause is done.
 *
 * Ends. A device that was asked for power-off, reset or exit notes it here and makes the engine return; the vCPU's
 * thread then acts. vm_stop() only stores and wakes, so that a signal handler may call it.
 *
 * Lock order: the device lock is the only lock.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/cpuid.h"
#include "cpu/vcpu.h"
#include "engine/door.h"
#include "engine/engine.h"
#include "engine/hot.h"
#include "engine/postmortem.h"
#include "host/clock.h"
#include "host/loop.h"
#include "host/usage.h"
#include "machine/boot_state.h"
#include "machine/machine.h"
#include "machine/pc.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define INSTRUCTION_NS 10u
/* 2024-01-01 00:00:00 UTC: what the clock shows at the start of a repeatable run. */
#define REPEATABLE_EPOCH_S 1704067200ull
/* How many instructions a repeatable run executes before it looks for outside events. */
#define SLICE_INSTRUCTIONS 1000000u
/* How long the lock is kept while time is skipped, and for how long it is then given away. */
#define LOCK_HELD_NS 5000000u
#define LOCK_LENT_NS 50000

struct vm {
    struct machine_config config;
    struct memory *memory;
    struct cpu_model *model;
    struct pc *pc;
    const struct engine *engine;
    struct vcpu *vcpu;
    struct door door;
    bool attached;

    pthread_mutex_t lock;
    pthread_cond_t wake; /* the vCPU's thread waits here while halted */
    pthread_t thread;
    struct timer_queue queue;
    struct timer sampler; /* of the loop; config.sample_ns */
    uint64_t start_ns;   /* host time of guest time 0, moved by pauses; changes only while no vCPU is in the engine */
    uint64_t skipped_ns; /* clock "instructions": time that passed without instructions */
    uint64_t random_state;

    /* Under the lock. */
    bool ended;
    bool reset_requested;
    struct vm_result result;
    struct error error;
    bool failed;
    uint64_t halted_ns;
    uint64_t halted_since_ns; /* host time, while it waits; 0: it does not */
    bool running;        /* `runner` is the vCPU's thread, and executes or waits */
    pthread_t runner;
    unsigned inside;     /* vCPUs in the engine */
    unsigned pauses;     /* vm_pause() without vm_resume() */
    uint64_t paused_ns;  /* host time at which guest time stopped, while it stands still */
    bool standing;       /* ... which it does */
    pthread_cond_t outside; /* the loop's thread waits here for vCPUs to leave the engine */
    struct stats past;   /* what engines that are not attached any more have counted */
    uint64_t entered_ns; /* clock "instructions": guest time when it last let go of the lock */

    _Atomic int stop_reason; /* enum vm_stop_reason, 0: none */
};

/* ---- clocks ---- */

static uint64_t host_now_ns(void *opaque)
{
    struct vm *vm = opaque;
    return (vm->standing ? vm->paused_ns : clock_monotonic_ns()) - vm->start_ns;
}

/* On the vCPU's thread, or while there is none. */
static uint64_t exact_now_ns(const struct vm *vm)
{
    const struct vcpu *v = vm->vcpu;
    uint64_t uncounted = v->run_start != NULL ? (uint64_t)(v->in - v->run_start) : 0; /* a device is accessed amid a run */
    return (v->instructions + uncounted) * INSTRUCTION_NS + vm->skipped_ns;
}

static uint64_t instruction_now_ns(void *opaque)
{
    struct vm *vm = opaque;
    return vm->running && !vm->standing && !pthread_equal(vm->runner, pthread_self()) ? vm->entered_ns : exact_now_ns(vm);
}

/* The host's time of the next guest timer. Guests may ask for times that the host's clock cannot even express. */
static uint64_t next_host_ns(const struct vm *vm)
{
    uint64_t next = timer_queue_next(&vm->queue);
    if (vm->standing)
        return TIMER_NEVER;
    return next < TIMER_NEVER - vm->start_ns ? vm->start_ns + next : TIMER_NEVER;
}

static void earliest_changed(void *opaque)
{
    struct vm *vm = opaque;
    if (vm->config.clock == CLOCK_INSTRUCTIONS) {
        vcpu_raise(vm->vcpu, PENDING_STOP); /* the engine's target has changed */
        pthread_cond_broadcast(&vm->wake);  /* or, by input from outside, the time to which a halted one may skip */
    } else {
        loop_set_deadline(vm->config.loop, next_host_ns(vm));
    }
}

/* ---- what the board asks for ---- */

static void end(struct vm *vm, enum vm_end how, int code)
{
    if (!vm->ended) {
        vm->ended = true;
        vm->result.end = how;
        vm->result.code = code;
    }
    vcpu_raise(vm->vcpu, PENDING_STOP);
    pthread_cond_broadcast(&vm->wake);
    loop_wake(vm->config.loop);
}

static void on_power_off(void *opaque)
{
    end(opaque, VM_END_POWER_OFF, 0);
}

static void on_debug_exit(void *opaque, int status)
{
    end(opaque, VM_END_DEBUG_EXIT, status);
}

static void on_panic(void *opaque)
{
    end(opaque, VM_END_PANIC, 0);
}

static void on_reset(void *opaque)
{
    struct vm *vm = opaque;
    if (vm->config.no_reboot) {
        end(vm, VM_END_RESET, 0);
        return;
    }
    vm->reset_requested = true;
    vcpu_raise(vm->vcpu, PENDING_RESET);
}

static void on_cpu_raise(void *opaque, unsigned cpu, uint32_t pending)
{
    (void)cpu;
    struct vm *vm = opaque;
    vcpu_raise(vm->vcpu, pending);
    pthread_cond_broadcast(&vm->wake);
}

static void on_cpu_lower(void *opaque, unsigned cpu, uint32_t pending)
{
    (void)cpu;
    struct vm *vm = opaque;
    atomic_fetch_and(&vm->vcpu->pending, ~pending);
}

static uint64_t on_random(void *opaque)
{
    struct vm *vm = opaque;
    uint64_t value;
    if (vm->config.clock == CLOCK_HOST && getrandom(&value, sizeof value, 0) == (ssize_t)sizeof value)
        return value;
    /* splitmix64 (Steele, Lea, Flood 2014) */
    value = vm->random_state += 0x9e3779b97f4a7c15ull;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ value >> 27) * 0x94d049bb133111ebull;
    return value ^ value >> 31;
}

static void on_watched_written(void *opaque, gpa_t gpa, unsigned size)
{
    struct vm *vm = opaque;
    if (vm->running && !pthread_equal(vm->runner, pthread_self()))
        code_cache_note_written(vm->vcpu, gpa >> PAGE_SHIFT);
    else
        mmu_written(vm->vcpu, gpa, size);
}

/* ---- creation ---- */

/* Puts the kernel into memory and the processor where it starts. */
static bool load_kernel(struct vm *vm, struct error *err)
{
    struct acpi_description acpi;
    pc_describe_acpi(vm->pc, &acpi);
    const struct boot_request request = {.kernel = vm->config.kernel,
                                         .initrd = vm->config.initrd,
                                         .append = vm->config.append,
                                         .kaslr = vm->config.kaslr,
                                         .acpi = &acpi};
    struct boot_state state;
    if (!boot_load(vm->memory, &request, &state, err))
        return false;
    log_info(vm->config.log, "%s", state.description);
    boot_state_apply(&state, vm->vcpu);
    return true;
}

static bool watch_vcpu(struct vm *vm, struct door *door, struct vcpu *v, struct error *err)
{
    const struct stats *wanted = vm->config.stats;
    door->stats.timed = wanted != NULL;
    door->stats.symbols = wanted != NULL ? wanted->symbols : NULL;
    if (wanted != NULL && wanted->hot != NULL) {
        door->stats.hot = hot_create();
        if (door->stats.hot == NULL)
            return error_set(err, "no memory to count where the guest is");
    }
    door_open(door, v);
    return true;
}

static bool create_parts(struct vm *vm, struct error *err)
{
    const struct machine_config *config = &vm->config;
    vm->engine = engine_find(config->engine, err);
    if (vm->engine == NULL)
        return false;
    if (config->verify != 0 && !vm->engine->verifies)
        return error_set(err, "--verify compares translated code: use --engine translate");
    vm->model = cpu_model_create(config->cpu, err);
    if (vm->model == NULL)
        return false;
    vm->memory = memory_create(config->ram_size, config->log, err);
    if (vm->memory == NULL)
        return false;
    vm->vcpu = vcpu_create(vm->memory, vm->model, 0, config->log, err);
    if (vm->vcpu == NULL)
        return false;
    memory_set_watcher(vm->memory, on_watched_written, vm);
    vm->door = (struct door){.memory = vm->memory, .lock = &vm->lock, .trace = config->trace, .observer = config->observer};
    if (!watch_vcpu(vm, &vm->door, vm->vcpu, err))
        return false;
    vm->vcpu->shadow_policy = config->shadow;
    vm->vcpu->translate_heat = config->heat;
    vm->vcpu->verify_every = config->verify;
    if (!vm->engine->attach(vm->vcpu, err))
        return false;
    vm->attached = true;
    bool host = config->clock == CLOCK_HOST;
    timer_queue_init(&vm->queue, host ? host_now_ns : instruction_now_ns, earliest_changed, vm);
    const struct pc_config pc = {
        .memory = vm->memory,
        .queue = &vm->queue,
        .vcpus = &vm->vcpu,
        .cpu_count = 1,
        .serial = config->serial,
        .debugcon = config->debugcon,
        .wall_base_ns = host ? clock_wall_ns() : REPEATABLE_EPOCH_S * NS_PER_S,
        .lock = &vm->lock,
        .log = config->log,
        .ops = {.power_off = on_power_off,
                .reset = on_reset,
                .debug_exit = on_debug_exit,
                .panic = on_panic,
                .cpu_raise = on_cpu_raise,
                .cpu_lower = on_cpu_lower,
                .random = on_random,
                .opaque = vm},
    };
    vm->pc = pc_create(&pc, err);
    return vm->pc != NULL && load_kernel(vm, err);
}

struct vm *vm_create(const struct machine_config *config, struct error *err)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (vm == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    vm->config = *config;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&vm->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&vm->outside, NULL);
    vm->start_ns = clock_monotonic_ns();
    if (!create_parts(vm, err)) {
        vm_destroy(vm);
        return NULL;
    }
    return vm;
}

void vm_destroy(struct vm *vm)
{
    if (vm == NULL)
        return;
    pc_destroy(vm->pc);
    if (vm->attached)
        vm->engine->detach(vm->vcpu);
    vcpu_destroy(vm->vcpu);
    hot_destroy(vm->door.stats.hot);
    memory_destroy(vm->memory);
    free(vm->model);
    pthread_cond_destroy(&vm->outside);
    pthread_cond_destroy(&vm->wake);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

const struct vcpu *vm_vcpu(const struct vm *vm, unsigned index)
{
    check(index == 0);
    return vm->vcpu;
}

struct pc *vm_pc(const struct vm *vm)
{
    return vm->pc;
}

unsigned vm_vcpu_count(const struct vm *vm)
{
    (void)vm;
    return 1;
}

/* ---- running ---- */

void vm_stop(struct vm *vm, enum vm_stop_reason reason)
{
    int none = 0;
    atomic_compare_exchange_strong(&vm->stop_reason, &none, (int)reason);
    vcpu_raise(vm->vcpu, PENDING_STOP);
    loop_wake(vm->config.loop);
}

void vm_reset(struct vm *vm)
{
    on_reset(vm);
    pthread_cond_broadcast(&vm->wake);
}

/* ---- pauses ---- */

/* Pauses do not count: they are no time of the machine's. */
static void halted_account(struct vm *vm)
{
    uint64_t now_ns = vm->standing ? vm->paused_ns : clock_monotonic_ns();
    if (vm->halted_since_ns == 0)
        return;
    vm->halted_ns += now_ns > vm->halted_since_ns ? now_ns - vm->halted_since_ns : 0;
    vm->halted_since_ns = now_ns;
}

void vm_pause(struct vm *vm)
{
    vm->pauses++;
    if (vm->standing)
        return;
    vcpu_raise(vm->vcpu, PENDING_STOP);
    pthread_cond_broadcast(&vm->wake); /* a halted processor of a repeatable run may be skipping time */
    while (vm->inside > 0)
        pthread_cond_wait(&vm->outside, &vm->lock);
    vm->paused_ns = clock_monotonic_ns();
    vm->standing = true;
    halted_account(vm);
}

void vm_resume(struct vm *vm)
{
    check(vm->pauses > 0);
    if (--vm->pauses > 0)
        return;
    vm->start_ns += clock_monotonic_ns() - vm->paused_ns;
    if (vm->halted_since_ns != 0)
        vm->halted_since_ns = clock_monotonic_ns();
    vm->standing = false;
    if (vm->config.clock == CLOCK_HOST)
        loop_set_deadline(vm->config.loop, next_host_ns(vm));
    pthread_cond_broadcast(&vm->wake);
}

bool vm_is_paused(const struct vm *vm)
{
    return vm->pauses > 0;
}

/* With the lock, on the vCPU's thread: until the machine may go on, or something has to be done first. */
static void wait_paused(struct vm *vm)
{
    while (vm->pauses > 0 && !vm->ended && !vm->reset_requested)
        pthread_cond_wait(&vm->wake, &vm->lock);
}

/* ---- the engine ---- */

const char *vm_engine(const struct vm *vm)
{
    return vm->engine->name;
}

/* What the engine has counted is kept beyond its end; what it holds now is not. */
static void engine_leave(struct vm *vm)
{
    if (vm->engine->stats != NULL) {
        struct stats *stats = calloc(1, sizeof *stats);
        check(stats != NULL);
        vm->engine->stats(vm->vcpu, stats);
        stats->translate.cache_bytes = 0;
        stats->shadow.bytes = 0;
        stats_merge(&vm->past, stats);
        free(stats);
    }
    vm->engine->detach(vm->vcpu);
    vm->attached = false;
}

static bool engine_enter(struct vm *vm, const struct engine *engine, struct error *err)
{
    mmu_flush(vm->vcpu); /* what one engine has entered another may not expect */
    vm->attached = engine->attach(vm->vcpu, err);
    if (vm->attached)
        vm->engine = engine;
    return vm->attached;
}

bool vm_set_engine(struct vm *vm, const char *name, struct error *err)
{
    const struct engine *engine = engine_find(name, err), *before = vm->engine;
    if (engine == NULL)
        return false;
    if (vm->config.verify != 0 && !engine->verifies)
        return error_set(err, "engine %s cannot compare translated code, which --verify asks for", engine->name);
    if (engine == before || vm->ended)
        return true;
    vm_pause(vm);
    engine_leave(vm);
    bool ok = engine_enter(vm, engine, err);
    if (!ok && !engine_enter(vm, before, &vm->error)) {
        error_prefix(&vm->error, "going back to engine %s", before->name);
        vm->failed = true;
        end(vm, VM_END_STOPPED, 0);
    }
    vm_resume(vm);
    return ok;
}

/* The files are read anew for every reset. Opening a named pipe again would wait for somebody to write to it. */
static bool can_read_again(const char *path, struct error *err)
{
    struct stat st;
    if (path == NULL || stat(path, &st) != 0 || S_ISREG(st.st_mode))
        return true; /* or the reader says what is wrong */
    return error_set(err, "%s: is not a regular file and cannot be read again; use a file, or --no-reboot", path);
}

/* On the vCPU's thread, with the lock. */
static void reset_now(struct vm *vm)
{
    vm->reset_requested = false;
    pc_reset(vm->pc);
    atomic_store(&vm->vcpu->pending, 0);
    vcpu_reset(vm->vcpu, false);
    code_cache_reset(vm->vcpu);
    mmu_flush(vm->vcpu);
    if (!can_read_again(vm->config.kernel, &vm->error) || !can_read_again(vm->config.initrd, &vm->error) ||
        !load_kernel(vm, &vm->error)) {
        error_prefix(&vm->error, "after a reset");
        vm->failed = true;
        end(vm, VM_END_STOPPED, 0);
    }
}

/* Gives the loop's thread a chance, now and then: a lock that is taken again at once is given to nobody. */
static void lend_lock(struct vm *vm, uint64_t *held_since_ns)
{
    if (clock_monotonic_ns() - *held_since_ns < LOCK_HELD_NS)
        return;
    vm->entered_ns = exact_now_ns(vm);
    pthread_mutex_unlock(&vm->lock);
    nanosleep(&(struct timespec){.tv_nsec = LOCK_LENT_NS}, NULL);
    pthread_mutex_lock(&vm->lock);
    *held_since_ns = clock_monotonic_ns();
}

/* Lets the halted processor wait for an event. With the lock; returns when it can go on, or the run has ended. In a
 * repeatable run timers may fire for ever without waking it. */
static void wait_halted(struct vm *vm)
{
    uint64_t held_since = clock_monotonic_ns();
    vm->halted_since_ns = held_since;
    while (!vm->ended && !vm->reset_requested && vm->pauses == 0 && !vcpu_runnable(vm->vcpu)) {
        uint64_t next = timer_queue_next(&vm->queue);
        if (vm->config.clock == CLOCK_INSTRUCTIONS && next != TIMER_NEVER) {
            uint64_t now = timer_now_ns(&vm->queue);
            vm->skipped_ns += next > now ? next - now : 0;
            timer_queue_run(&vm->queue);
            lend_lock(vm, &held_since);
        } else {
            vm->entered_ns = exact_now_ns(vm);
            pthread_cond_wait(&vm->wake, &vm->lock);
        }
    }
    halted_account(vm);
    vm->halted_since_ns = 0;
}

/* Where the engine shall return by itself: for a repeatable run, at the instruction at which the next timer is due. */
static uint64_t run_until(struct vm *vm)
{
    if (vm->config.clock == CLOCK_HOST)
        return UINT64_MAX;
    timer_queue_run(&vm->queue);
    uint64_t next = timer_queue_next(&vm->queue), now = timer_now_ns(&vm->queue);
    uint64_t instructions = SLICE_INSTRUCTIONS;
    if (next != TIMER_NEVER) {
        uint64_t left = next > now ? (next - now + INSTRUCTION_NS - 1) / INSTRUCTION_NS : 1;
        instructions = left < instructions ? left : instructions;
    }
    return vm->vcpu->instructions + instructions;
}

static void *vcpu_thread(void *opaque)
{
    struct vm *vm = opaque;
    struct vcpu *v = vm->vcpu;
    check_set_context(postmortem_context, v);
    pthread_mutex_lock(&vm->lock);
    vm->runner = pthread_self();
    vm->running = true;
    while (!vm->ended) {
        atomic_fetch_and(&v->pending, ~(uint32_t)(PENDING_STOP | PENDING_RESET));
        if (vm->reset_requested)
            reset_now(vm);
        if (vm->pauses > 0) {
            wait_paused(vm);
            continue;
        }
        uint64_t until = run_until(vm);
        atomic_fetch_and(&v->pending, ~(uint32_t)PENDING_STOP);
        if (vm->ended)
            break;
        vm->entered_ns = exact_now_ns(vm);
        vm->inside++;
        pthread_mutex_unlock(&vm->lock);
        if (atomic_load(&vm->stop_reason) == 0)
            vm->engine->run(v, until);
        pthread_mutex_lock(&vm->lock);
        vm->inside--;
        pthread_cond_signal(&vm->outside);
        if (atomic_load(&vm->stop_reason) != 0)
            end(vm, VM_END_STOPPED, atomic_load(&vm->stop_reason));
        else if (v->activity == ACTIVITY_SHUTDOWN && !vm->reset_requested)
            end(vm, VM_END_TRIPLE_FAULT, 0);
        else if (!vcpu_runnable(v))
            wait_halted(vm);
    }
    vm->running = false;
    pthread_mutex_unlock(&vm->lock);
    check_set_context(NULL, NULL);
    return NULL;
}

/* One turn of the owner's thread. */
static void run_loop_once(struct vm *vm)
{
    loop_run_once(vm->config.loop, &vm->lock);
    pthread_mutex_lock(&vm->lock);
    int reason = atomic_load(&vm->stop_reason);
    if (reason != 0)
        end(vm, VM_END_STOPPED, reason);
    if (vm->config.clock == CLOCK_HOST) {
        if (!vm->standing)
            timer_queue_run(&vm->queue);
        loop_set_deadline(vm->config.loop, next_host_ns(vm));
    }
}

void vm_stats(const struct vm *vm, struct stats *stats)
{
    const struct vcpu *v = vm->vcpu;
    *stats = vm->door.stats;
    stats->instructions = v->instructions;
    stats->wall_ns = (vm->standing ? vm->paused_ns : clock_monotonic_ns()) - vm->start_ns;
    stats->halted_ns = vm->halted_ns;
    stats->guest_ns = timer_now_ns(&vm->queue);
    stats->tlb_fills = v->count.tlb_fills;
    stats->tlb_flushes = v->count.tlb_flushes;
    stats->page_walks = v->count.page_walks;
    stats->insns_decoded = v->count.insns_decoded;
    stats->code_pages = v->count.code_pages;
    stats->code_invalidations = v->count.code_invalidations;
    stats->host_stubs = v->count.host_stubs;
    stats->instructions_partial = v->instructions_partial;
    stats->monitor_bytes = usage_private_bytes();
    if (vm->attached && vm->engine->stats != NULL)
        vm->engine->stats(v, stats);
    stats_merge(stats, &vm->past);
}

/* Asks the vCPUs where they are: those that are not halted say so before their next block. */
static void sample(void *opaque)
{
    struct vm *vm = opaque;
    vcpu_raise(vm->vcpu, PENDING_SAMPLE);
    timer_arm(&vm->sampler, clock_monotonic_ns() + vm->config.sample_ns);
}

static void sampler_start(struct vm *vm)
{
    if (vm->config.sample_ns == 0)
        return;
    timer_init(&vm->sampler, loop_timers(vm->config.loop), sample, vm);
    timer_arm(&vm->sampler, clock_monotonic_ns() + vm->config.sample_ns);
}

static void sampler_stop(struct vm *vm)
{
    if (vm->config.sample_ns != 0)
        timer_disarm(&vm->sampler);
}

static void collect_statistics(struct vm *vm)
{
    struct stats *stats = calloc(1, sizeof *stats);
    check(stats != NULL);
    vm_stats(vm, stats);
    if (vm->config.stats != NULL)
        stats_merge(vm->config.stats, stats);
    vm->result.instructions = stats->instructions_partial ? 0 : stats->instructions;
    vm->result.guest_ns = stats->guest_ns;
    free(stats);
}

bool vm_run(struct vm *vm, struct vm_result *result, struct error *err)
{
    int code = pthread_create(&vm->thread, NULL, vcpu_thread, vm);
    if (code != 0)
        return error_set(err, "cannot start the processor's thread: %s", strerror(code));
    pthread_mutex_lock(&vm->lock);
    sampler_start(vm);
    while (!vm->ended) {
        pthread_mutex_unlock(&vm->lock);
        run_loop_once(vm);
    }
    sampler_stop(vm);
    pthread_mutex_unlock(&vm->lock);
    pthread_join(vm->thread, NULL);
    collect_statistics(vm);
    *result = vm->result;
    if (vm->failed && err != NULL)
        *err = vm->error;
    return !vm->failed;
}
