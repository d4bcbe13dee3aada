/* A machine's life: creation, its threads, its clock, its end.
 *
 * Clock "host": guest time is the host's monotonic time since creation. The owner's thread runs the event loop: it fires
 * due guest timers under the device lock and sleeps until the next one. Each vCPU has a thread that runs the engine; when its
 * processor halts it waits on `wake` until something is pending.
 *
 * Clock "instructions": guest time is INSTRUCTION_NS for each instruction executed by any vCPU, plus what was skipped while all
 * were halted: then time jumps to the next timer. One thread runs the vCPUs by turns of TURN_INSTRUCTIONS, and it alone fires
 * timers, at instruction counts that are the same in every run. What comes from outside (keystrokes on the console) is the one
 * thing that cannot repeat; it happens at the guest time at which the engine was last entered, because the count belongs to that
 * thread.
 *
 * Ends. A device that was asked for power-off, reset or exit notes it here and makes the engines return; their threads then
 * act. A reset waits until all vCPUs are outside of the engine and is then done by the first one's thread. vm_stop() only stores
 * and wakes, so that a signal handler may call it.
 *
 * Lock order: the device lock is the first; see cpu/crew.h for those behind it.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/crew.h"
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
/* How many instructions one of several vCPUs executes in such a run before it is the next one's turn: few, since what waits for
 * another processor does so in a loop. */
#define TURN_INSTRUCTIONS 10000u
/* How long the lock is kept while time is skipped, and for how long it is then given away. */
#define LOCK_HELD_NS 5000000u
#define LOCK_LENT_NS 50000

struct vm_cpu {
    struct vm *vm;
    struct vcpu *vcpu;
    struct door door;
    bool attached;
    pthread_t thread;
    bool running;        /* `thread` runs, and executes or waits */
    pthread_cond_t wake; /* it waits here while halted */
    uint64_t halted_since_ns; /* host time, while it does; 0: it does not */
};

struct vm {
    struct machine_config config;
    struct memory *memory;
    struct cpu_model *model;
    struct pc *pc;
    const struct engine *engine;
    unsigned cpu_count;
    struct vcpu *vcpus[MACHINE_CPUS_MAX]; /* those of `cpus` */
    struct vm_cpu cpus[MACHINE_CPUS_MAX];
    struct crew *crew;   /* NULL: one vCPU */
    bool by_turns;       /* clock "instructions": the first one's thread runs all */
    unsigned turn;       /* ... whose turn it is */
    uint64_t turn_until; /* ... until it has executed so many instructions, or is halted */

    pthread_mutex_t lock;
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
    uint64_t halted_ns;  /* of all vCPUs */
    unsigned accessor;   /* the vCPU that accesses a device */
    unsigned inside;     /* vCPUs in the engine */
    unsigned pauses;     /* vm_pause() without vm_resume() */
    uint64_t paused_ns;  /* host time at which guest time stopped, while it stands still */
    bool standing;       /* ... which it does */
    pthread_cond_t outside; /* who waits for vCPUs to leave the engine */
    struct hot *hot;     /* where all vCPUs were, as of the last vm_stats(); NULL: nobody asks */
    struct stats past;   /* what engines that are not attached any more have counted */
    uint64_t entered_ns; /* clock "instructions": guest time when it last let go of the lock */

    _Atomic int stop_reason; /* enum vm_stop_reason, 0: none */
};

/* ---- all vCPUs ---- */

static void raise_all(struct vm *vm, uint32_t pending)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vcpu_raise(vm->cpus[i].vcpu, pending);
}

/* With the lock. */
static void wake_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        pthread_cond_broadcast(&vm->cpus[i].wake);
}

static void wake(struct vm *vm, unsigned cpu)
{
    pthread_cond_broadcast(&vm->cpus[vm->by_turns ? 0 : cpu].wake);
}

/* The vCPU that the calling thread runs; NULL: it is another thread, or none runs. */
static struct vcpu *own_vcpu(const struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm->cpus[i].running && pthread_equal(vm->cpus[i].thread, pthread_self()))
            return vm->cpus[vm->by_turns ? vm->turn : i].vcpu;
    return NULL;
}

/* ---- clocks ---- */

static uint64_t host_now_ns(void *opaque)
{
    struct vm *vm = opaque;
    return (vm->standing ? vm->paused_ns : clock_monotonic_ns()) - vm->start_ns;
}

/* On the thread that runs the vCPUs, or while there is none. */
static uint64_t exact_now_ns(const struct vm *vm)
{
    const struct vcpu *v = vm->cpus[vm->turn].vcpu;
    uint64_t count = v->run_start != NULL ? (uint64_t)(v->in - v->run_start) : 0; /* a device is accessed amid a run */
    for (unsigned i = 0; i < vm->cpu_count; i++)
        count += vm->cpus[i].vcpu->instructions;
    return count * INSTRUCTION_NS + vm->skipped_ns;
}

static uint64_t instruction_now_ns(void *opaque)
{
    struct vm *vm = opaque;
    bool elsewhere = vm->cpus[0].running && !vm->standing && !pthread_equal(vm->cpus[0].thread, pthread_self());
    return elsewhere ? vm->entered_ns : exact_now_ns(vm);
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
        vcpu_raise(vm->cpus[vm->turn].vcpu, PENDING_STOP); /* the engine's target has changed */
        wake_all(vm); /* or, by input from outside, the time to which halted ones may skip */
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
    raise_all(vm, PENDING_STOP);
    wake_all(vm);
    pthread_cond_broadcast(&vm->outside);
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
    raise_all(vm, PENDING_RESET);
    wake_all(vm);
}

static void on_cpu_raise(void *opaque, unsigned cpu, uint32_t pending)
{
    struct vm *vm = opaque;
    vcpu_raise(vm->cpus[cpu].vcpu, pending);
    wake(vm, cpu);
}

static void on_cpu_lower(void *opaque, unsigned cpu, uint32_t pending)
{
    struct vm *vm = opaque;
    atomic_fetch_and(&vm->cpus[cpu].vcpu->pending, ~pending);
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
    struct vcpu *own = own_vcpu(vm);
    if (vm->crew != NULL)
        crew_written(vm->crew, own, gpa, size);
    else if (vm->cpus[0].running && own == NULL)
        code_cache_note_written(vm->cpus[0].vcpu, gpa >> PAGE_SHIFT);
    else
        mmu_written(vm->cpus[0].vcpu, gpa, size);
}

/* What everybody has cached of the memory map is old. */
static void on_map_changed(void *opaque)
{
    raise_all(opaque, PENDING_FLUSH);
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
    boot_state_apply(&state, vm->cpus[0].vcpu); /* the others wait for a startup IPI */
    return true;
}

static bool watch_vcpu(struct vm *vm, struct door *door, struct vcpu *v, struct error *err)
{
    const struct stats *wanted = vm->config.stats;
    door->stats.timed = wanted != NULL;
    door->stats.sensitive_counted = wanted != NULL && wanted->sensitive_counted;
    door->stats.symbols = wanted != NULL ? wanted->symbols : NULL;
    if (wanted != NULL && wanted->hot != NULL) {
        door->stats.hot = hot_create();
        if (door->stats.hot == NULL)
            return error_set(err, "no memory to count where the guest is");
    }
    door_open(door, v);
    return true;
}

static bool create_vcpus(struct vm *vm, struct error *err)
{
    const struct machine_config *config = &vm->config;
    vm->model->cpus = vm->cpu_count;
    if (config->stats != NULL && config->stats->hot != NULL && (vm->hot = hot_create()) == NULL)
        return error_set(err, "out of memory");
    if (vm->cpu_count > 1 && (vm->crew = crew_create(vm->memory, err)) == NULL)
        return false;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        struct vcpu *v = cpu->vcpu = vcpu_create(vm->memory, vm->model, i, config->log, err);
        if (v == NULL)
            return false;
        vm->vcpus[i] = v;
        if (vm->crew != NULL)
            crew_join(vm->crew, v);
        cpu->door = (struct door){.memory = vm->memory,
                                  .lock = &vm->lock,
                                  .trace = config->trace,
                                  .observer = config->observer,
                                  .accessor = &vm->accessor};
        if (!watch_vcpu(vm, &cpu->door, v, err))
            return false;
        v->shadow_policy = config->shadow;
        v->trap_kernel = config->trap_kernel;
        v->trap_no_patch = config->trap_no_patch;
        v->translate_heat = config->heat;
        v->verify_every = config->verify;
    }
    memory_set_watcher(vm->memory, on_watched_written, vm);
    memory_set_map_watcher(vm->memory, on_map_changed, vm);
    return true;
}

/* False if one of the vCPUs cannot be attached; then none is. */
static bool attach_all(struct vm *vm, const struct engine *engine, struct error *err);

static unsigned engine_needs(const struct vm *vm)
{
    return (vm->config.clock == CLOCK_INSTRUCTIONS ? ENGINE_COUNTS : 0) | (vm->config.verify != 0 ? ENGINE_VERIFIES : 0) |
           (vm->cpu_count > 1 ? ENGINE_SEVERAL : 0);
}

static bool create_parts(struct vm *vm, struct error *err)
{
    const struct machine_config *config = &vm->config;
    vm->engine = engine_find(config->engine, engine_needs(vm), err);
    if (vm->engine == NULL)
        return false;
    if (config->verify != 0 && vm->cpu_count > 1 && !vm->by_turns)
        return error_set(err, "--verify cannot compare while other processors run: use --clock instructions, or --cpus 1");
    vm->model = cpu_model_create(config->cpu, err);
    if (vm->model == NULL || (vm->engine->limit != NULL && !vm->engine->limit(vm->model, err)))
        return false;
    vm->memory = memory_create(config->ram_size, config->log, err);
    if (vm->memory == NULL)
        return false;
    if (!create_vcpus(vm, err) || !attach_all(vm, vm->engine, err))
        return false;
    bool host = config->clock == CLOCK_HOST;
    timer_queue_init(&vm->queue, host ? host_now_ns : instruction_now_ns, earliest_changed, vm);
    const struct pc_config pc = {
        .memory = vm->memory,
        .queue = &vm->queue,
        .vcpus = vm->vcpus,
        .cpu_count = vm->cpu_count,
        .serial = config->serial,
        .debugcon = config->debugcon,
        .wall_base_ns = host ? clock_wall_ns() : REPEATABLE_EPOCH_S * NS_PER_S,
        .lock = &vm->lock,
        .accessor = &vm->accessor,
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
    vm->cpu_count = config->cpus != 0 ? config->cpus : 1;
    check(vm->cpu_count <= MACHINE_CPUS_MAX);
    vm->by_turns = config->clock == CLOCK_INSTRUCTIONS;
    pthread_mutex_init(&vm->lock, NULL);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->cpus[i].vm = vm;
        pthread_cond_init(&vm->cpus[i].wake, NULL);
    }
    pthread_cond_init(&vm->outside, NULL);
    vm->start_ns = clock_monotonic_ns();
    if (!create_parts(vm, err)) {
        vm_destroy(vm);
        return NULL;
    }
    return vm;
}

static void detach_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (vm->cpus[i].attached)
            vm->engine->detach(vm->vcpus[i]);
        vm->cpus[i].attached = false;
    }
}

void vm_destroy(struct vm *vm)
{
    if (vm == NULL)
        return;
    pc_destroy(vm->pc);
    detach_all(vm);
    crew_destroy(vm->crew);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vcpu_destroy(vm->vcpus[i]);
        hot_destroy(vm->cpus[i].door.stats.hot);
        pthread_cond_destroy(&vm->cpus[i].wake);
    }
    hot_destroy(vm->hot);
    memory_destroy(vm->memory);
    free(vm->model);
    pthread_cond_destroy(&vm->outside);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

const struct vcpu *vm_vcpu(const struct vm *vm, unsigned index)
{
    check(index < vm->cpu_count);
    return vm->vcpus[index];
}

unsigned vm_vcpu_count(const struct vm *vm)
{
    return vm->cpu_count;
}

struct pc *vm_pc(const struct vm *vm)
{
    return vm->pc;
}

/* ---- running ---- */

void vm_stop(struct vm *vm, enum vm_stop_reason reason)
{
    int none = 0;
    atomic_compare_exchange_strong(&vm->stop_reason, &none, (int)reason);
    raise_all(vm, PENDING_STOP);
    loop_wake(vm->config.loop);
}

void vm_reset(struct vm *vm)
{
    on_reset(vm);
}

/* ---- pauses ---- */

/* Pauses do not count: they are no time of the machine's. */
static void halted_account(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    uint64_t now_ns = vm->standing ? vm->paused_ns : clock_monotonic_ns();
    if (cpu->halted_since_ns == 0)
        return;
    vm->halted_ns += now_ns > cpu->halted_since_ns ? now_ns - cpu->halted_since_ns : 0;
    cpu->halted_since_ns = now_ns;
}

static void wait_outside(struct vm *vm)
{
    while (vm->inside > 0)
        pthread_cond_wait(&vm->outside, &vm->lock);
}

void vm_pause(struct vm *vm)
{
    vm->pauses++;
    if (vm->standing)
        return;
    raise_all(vm, PENDING_STOP);
    wake_all(vm); /* halted processors of a repeatable run may be skipping time */
    wait_outside(vm);
    vm->paused_ns = clock_monotonic_ns();
    vm->standing = true;
    for (unsigned i = 0; i < vm->cpu_count; i++)
        halted_account(&vm->cpus[i]);
}

void vm_resume(struct vm *vm)
{
    check(vm->pauses > 0);
    if (--vm->pauses > 0)
        return;
    vm->start_ns += clock_monotonic_ns() - vm->paused_ns;
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm->cpus[i].halted_since_ns != 0)
            vm->cpus[i].halted_since_ns = clock_monotonic_ns();
    vm->standing = false;
    if (vm->config.clock == CLOCK_HOST)
        loop_set_deadline(vm->config.loop, next_host_ns(vm));
    wake_all(vm);
}

bool vm_is_paused(const struct vm *vm)
{
    return vm->pauses > 0;
}

/* With the lock, on a vCPU's thread: until the machine may go on, or something has to be done first. */
static void wait_paused(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    while (vm->pauses > 0 && !vm->ended && !vm->reset_requested)
        pthread_cond_wait(&cpu->wake, &vm->lock);
}

/* ---- the engine ---- */

static bool attach_all(struct vm *vm, const struct engine *engine, struct error *err)
{
    vm->engine = engine;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->cpus[i].attached = engine->attach(vm->vcpus[i], err);
        if (!vm->cpus[i].attached) {
            detach_all(vm);
            return vm->cpu_count == 1 ? false : error_prefix(err, "processor %u of %u", i + 1, vm->cpu_count);
        }
    }
    return true;
}

const char *vm_engine(const struct vm *vm)
{
    return vm->engine->name;
}

/* What the engine has counted is kept beyond its end; what it holds now is not. */
static void engine_leave(struct vm *vm)
{
    if (vm->engine->stats != NULL) {
        struct stats *stats = malloc(sizeof *stats);
        check(stats != NULL);
        for (unsigned i = 0; i < vm->cpu_count; i++) {
            memset(stats, 0, sizeof *stats);
            vm->engine->stats(vm->vcpus[i], stats);
            stats->translate.cache_bytes = 0;
            stats->shadow.bytes = 0;
            stats_merge(&vm->past, stats);
        }
        free(stats);
    }
    detach_all(vm);
}

static bool engine_enter(struct vm *vm, const struct engine *engine, struct error *err)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        mmu_flush(vm->vcpus[i]); /* what one engine has entered another may not expect */
    return attach_all(vm, engine, err);
}

bool vm_set_engine(struct vm *vm, const char *name, struct error *err)
{
    const struct engine *engine = engine_find(name, engine_needs(vm), err), *before = vm->engine;
    if (engine == NULL)
        return false;
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

/* ---- resets ---- */

/* The files are read anew for every reset. Opening a named pipe again would wait for somebody to write to it. */
static bool can_read_again(const char *path, struct error *err)
{
    struct stat st;
    if (path == NULL || stat(path, &st) != 0 || S_ISREG(st.st_mode))
        return true; /* or the reader says what is wrong */
    return error_set(err, "%s: is not a regular file and cannot be read again; use a file, or --no-reboot", path);
}

/* With the lock, while no vCPU is in the engine. */
static void reset_now(struct vm *vm)
{
    vm->reset_requested = false;
    pc_reset(vm->pc);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vcpu *v = vm->vcpus[i];
        atomic_store(&v->pending, 0);
        vcpu_reset(v, false);
        code_cache_reset(v);
        mmu_flush(v);
    }
    if (!can_read_again(vm->config.kernel, &vm->error) || !can_read_again(vm->config.initrd, &vm->error) ||
        !load_kernel(vm, &vm->error)) {
        error_prefix(&vm->error, "after a reset");
        vm->failed = true;
        end(vm, VM_END_STOPPED, 0);
    }
}

/* A reset was asked for: the first vCPU's thread waits until all are outside, and does it; the others wait for that. */
static void take_reset(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    if (cpu == &vm->cpus[0]) {
        wait_outside(vm);
        reset_now(vm);
        wake_all(vm);
    } else {
        while (vm->reset_requested && !vm->ended)
            pthread_cond_wait(&cpu->wake, &vm->lock);
    }
}

/* ---- the vCPUs' threads ---- */

/* With the lock, which is given away meanwhile. */
static void run_engine(struct vm_cpu *cpu, uint64_t until)
{
    struct vm *vm = cpu->vm;
    struct vcpu *v = cpu->vcpu;
    vm->inside++;
    pthread_mutex_unlock(&vm->lock);
    if (atomic_load(&vm->stop_reason) == 0) {
        crew_enter(v);
        vm->engine->run(v, until);
        crew_leave(v);
    }
    pthread_mutex_lock(&vm->lock);
    vm->inside--;
    pthread_cond_broadcast(&vm->outside);
    if (v->failed != NULL && !vm->failed) {
        error_set(&vm->error, "%s", v->failed);
        vm->failed = true;
        end(vm, VM_END_STOPPED, 0);
    }
    if (atomic_load(&vm->stop_reason) != 0) {
        end(vm, VM_END_STOPPED, atomic_load(&vm->stop_reason));
    } else if (v->activity == ACTIVITY_SHUTDOWN && !vm->reset_requested) {
        if (!vm->ended)
            vm->result.cpu = v->index;
        end(vm, VM_END_TRIPLE_FAULT, 0);
    }
}

/* Lets the halted processor wait for an event. With the lock; returns when it can go on, or the run has ended. */
static void wait_halted(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    cpu->halted_since_ns = clock_monotonic_ns();
    while (!vm->ended && !vm->reset_requested && vm->pauses == 0 && !vcpu_runnable(cpu->vcpu))
        pthread_cond_wait(&cpu->wake, &vm->lock);
    halted_account(cpu);
    cpu->halted_since_ns = 0;
}

static void *cpu_thread(void *opaque)
{
    struct vm_cpu *cpu = opaque;
    struct vm *vm = cpu->vm;
    check_set_context(postmortem_context, cpu->vcpu);
    pthread_mutex_lock(&vm->lock);
    while (!vm->ended) {
        atomic_fetch_and(&cpu->vcpu->pending, ~(uint32_t)(PENDING_STOP | PENDING_RESET));
        if (vm->reset_requested)
            take_reset(cpu);
        else if (vm->pauses > 0)
            wait_paused(cpu);
        else if (!vcpu_runnable(cpu->vcpu))
            wait_halted(cpu);
        else
            run_engine(cpu, UINT64_MAX);
    }
    pthread_mutex_unlock(&vm->lock);
    check_set_context(NULL, NULL);
    return NULL;
}

/* ---- one thread for all vCPUs, by turns ---- */

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

/* Whose turn it is; NULL: all are halted. It does not end when the engine returns early, which engines do at different places. */
static struct vm_cpu *take_turn(struct vm *vm)
{
    const struct vcpu *v = vm->vcpus[vm->turn];
    if (vcpu_runnable(v) && v->instructions < vm->turn_until)
        return &vm->cpus[vm->turn];
    for (unsigned n = 1; n <= vm->cpu_count; n++) {
        unsigned i = (vm->turn + n) % vm->cpu_count;
        if (!vcpu_runnable(vm->vcpus[i]))
            continue;
        vm->turn = i;
        vm->turn_until = vm->vcpus[i]->instructions + (vm->cpu_count == 1 ? SLICE_INSTRUCTIONS : TURN_INSTRUCTIONS);
        return &vm->cpus[i];
    }
    return NULL;
}

static bool any_runnable(const struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vcpu_runnable(vm->vcpus[i]))
            return true;
    return false;
}

/* All are halted: time jumps from timer to timer, which may fire for ever without waking anybody. */
static void skip_halted(struct vm *vm)
{
    uint64_t held_since = clock_monotonic_ns();
    vm->cpus[0].halted_since_ns = held_since;
    while (!vm->ended && !vm->reset_requested && vm->pauses == 0 && !any_runnable(vm)) {
        uint64_t next = timer_queue_next(&vm->queue);
        if (next != TIMER_NEVER) {
            uint64_t now = timer_now_ns(&vm->queue);
            vm->skipped_ns += next > now ? next - now : 0;
            timer_queue_run(&vm->queue);
            lend_lock(vm, &held_since);
        } else {
            vm->entered_ns = exact_now_ns(vm);
            pthread_cond_wait(&vm->cpus[0].wake, &vm->lock);
        }
    }
    halted_account(&vm->cpus[0]);
    vm->cpus[0].halted_since_ns = 0;
}

/* The count of the vCPU whose turn it is at which the next timer is due, or the turn ends. */
static uint64_t run_until(const struct vm *vm)
{
    uint64_t next = timer_queue_next(&vm->queue), now = timer_now_ns(&vm->queue);
    if (next == TIMER_NEVER)
        return vm->turn_until;
    uint64_t left = next > now ? (next - now + INSTRUCTION_NS - 1) / INSTRUCTION_NS : 1;
    uint64_t due = vm->vcpus[vm->turn]->instructions + left;
    return due < vm->turn_until ? due : vm->turn_until;
}

static void lower_all(struct vm *vm, uint32_t pending)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        atomic_fetch_and(&vm->vcpus[i]->pending, ~pending);
}

static void *turns_thread(void *opaque)
{
    struct vm *vm = opaque;
    pthread_mutex_lock(&vm->lock);
    while (!vm->ended) {
        lower_all(vm, PENDING_STOP | PENDING_RESET);
        if (vm->reset_requested)
            reset_now(vm);
        if (vm->pauses > 0) {
            wait_paused(&vm->cpus[0]);
            continue;
        }
        timer_queue_run(&vm->queue);
        lower_all(vm, PENDING_STOP); /* the target follows from what the timers say now */
        if (vm->ended || vm->reset_requested)
            continue;
        struct vm_cpu *cpu = take_turn(vm);
        if (cpu == NULL) {
            skip_halted(vm);
            continue;
        }
        check_set_context(postmortem_context, cpu->vcpu);
        vm->entered_ns = exact_now_ns(vm);
        run_engine(cpu, run_until(vm));
    }
    pthread_mutex_unlock(&vm->lock);
    check_set_context(NULL, NULL);
    return NULL;
}

/* ---- the owner's thread ---- */

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

/* What one vCPU has done. */
static void cpu_stats(const struct vm *vm, unsigned cpu, struct stats *stats)
{
    const struct vcpu *v = vm->vcpus[cpu];
    *stats = vm->cpus[cpu].door.stats;
    stats->instructions = v->instructions;
    stats->tlb_fills = v->count.tlb_fills;
    stats->tlb_flushes = v->count.tlb_flushes;
    stats->page_walks = v->count.page_walks;
    stats->insns_decoded = v->count.insns_decoded;
    stats->code_pages = v->count.code_pages;
    stats->code_invalidations = v->count.code_invalidations;
    stats->host_stubs = v->count.host_stubs;
    stats->instructions_partial = v->instructions_partial;
    if (vm->cpus[cpu].attached && vm->engine->stats != NULL)
        vm->engine->stats(v, stats);
}

void vm_stats(const struct vm *vm, struct stats *stats)
{
    struct stats *one = malloc(sizeof *one);
    check(one != NULL);
    memset(stats, 0, sizeof *stats);
    stats->hot = vm->hot;
    if (vm->hot != NULL)
        memset(vm->hot, 0, sizeof *vm->hot);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        cpu_stats(vm, i, one);
        stats_merge(stats, one);
    }
    free(one);
    stats_merge(stats, &vm->past);
    stats->wall_ns = (vm->standing ? vm->paused_ns : clock_monotonic_ns()) - vm->start_ns;
    stats->halted_ns = vm->halted_ns;
    stats->threads = vm->by_turns ? 1 : vm->cpu_count;
    stats->guest_ns = timer_now_ns(&vm->queue);
    stats->monitor_bytes = usage_private_bytes();
}

/* Asks the vCPUs where they are: those that are not halted say so before their next block. */
static void sample(void *opaque)
{
    struct vm *vm = opaque;
    raise_all(vm, PENDING_SAMPLE);
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
    struct stats *stats = malloc(sizeof *stats);
    check(stats != NULL);
    vm_stats(vm, stats);
    if (vm->config.stats != NULL)
        stats_merge(vm->config.stats, stats);
    vm->result.instructions = stats->instructions_partial ? 0 : stats->instructions;
    vm->result.guest_ns = stats->guest_ns;
    free(stats);
}

/* With the lock, so that none of them begins before all are there. Returns how many threads there are. */
static unsigned start_threads(struct vm *vm, pthread_t threads[], struct error *err)
{
    unsigned wanted = vm->by_turns ? 1 : vm->cpu_count, count = 0;
    for (; count < wanted; count++) {
        struct vm_cpu *cpu = &vm->cpus[count];
        int code = vm->by_turns ? pthread_create(&cpu->thread, NULL, turns_thread, vm)
                                : pthread_create(&cpu->thread, NULL, cpu_thread, cpu);
        if (code != 0) {
            error_set(err, "cannot start the thread of processor %u: %s", count, strerror(code));
            vm->failed = true;
            vm->error = *err;
            end(vm, VM_END_STOPPED, 0);
            break;
        }
        threads[count] = cpu->thread;
        cpu->running = true;
    }
    return count;
}

bool vm_run(struct vm *vm, struct vm_result *result, struct error *err)
{
    pthread_t threads[MACHINE_CPUS_MAX];
    pthread_mutex_lock(&vm->lock);
    unsigned count = start_threads(vm, threads, err);
    sampler_start(vm);
    while (!vm->ended) {
        pthread_mutex_unlock(&vm->lock);
        run_loop_once(vm);
    }
    sampler_stop(vm);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        vm->cpus[i].running = false;
    }
    collect_statistics(vm);
    *result = vm->result;
    if (vm->failed && err != NULL)
        *err = vm->error;
    return !vm->failed;
}
