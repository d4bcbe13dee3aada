/* A machine: creation, what its board asks for, its engine, its counters. See vm_internal.h for the other parts.
 *
 * Ends. A device that was asked for power-off, reset or exit notes it here and makes the engines return; their threads then
 * act (vm_run.c). vm_stop() only stores and wakes, so that a signal handler may call it.
 *
 * Lock order: the device lock is the first; see cpu/crew.h for those behind it.
 */
#include "machine/vm_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/crew.h"
#include "cpu/cpuid.h"
#include "cpu/vcpu.h"
#include "engine/hot.h"
#include "host/clock.h"
#include "host/loop.h"
#include "host/usage.h"
#include "machine/boot_state.h"
#include "machine/pc.h"
#include "memory/memory.h"
#include "mmu/access.h"

/* 2024-01-01 00:00:00 UTC: what the clock shows at the start of a repeatable run. */
#define REPEATABLE_EPOCH_S 1704067200ull

/* ---- all vCPUs ---- */

void vm_raise_all(struct vm *vm, uint32_t pending)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vcpu_raise(vm->cpus[i].vcpu, pending);
}

/* With the lock. */
void vm_wake_all(struct vm *vm)
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

/* ---- what the board asks for ---- */

void vm_end(struct vm *vm, enum vm_end how, int code)
{
    if (!vm->ended) {
        vm->ended = true;
        vm->result.end = how;
        vm->result.code = code;
    }
    vm_raise_all(vm, PENDING_STOP);
    vm_wake_all(vm);
    pthread_cond_broadcast(&vm->outside);
    loop_wake(vm->config.loop);
}

static void on_power_off(void *opaque)
{
    vm_end(opaque, VM_END_POWER_OFF, 0);
}

static void on_debug_exit(void *opaque, int status)
{
    vm_end(opaque, VM_END_DEBUG_EXIT, status);
}

static void on_panic(void *opaque)
{
    vm_end(opaque, VM_END_PANIC, 0);
}

static void on_reset(void *opaque)
{
    struct vm *vm = opaque;
    if (vm->config.no_reboot) {
        vm_end(vm, VM_END_RESET, 0);
        return;
    }
    vm->reset_requested = true;
    vm_raise_all(vm, PENDING_RESET);
    vm_wake_all(vm);
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
    vm_raise_all(opaque, PENDING_FLUSH);
}

/* ---- creation ---- */

/* Puts the kernel into memory and the processor where it starts. */
bool vm_load_kernel(struct vm *vm, struct error *err)
{
    if (vm->config.kernel == NULL)
        return true; /* firmware is where a reset processor starts */
    struct acpi_description acpi;
    pc_describe_acpi(vm->pc, &acpi);
    const struct boot_request request = {.kernel = vm->config.kernel,
                                         .initrd = vm->config.initrd,
                                         .append = vm->config.append,
                                         .kaslr = vm->config.kaslr,
                                         .vga_text = vm->config.vga,
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
    vm->memory = memory_create_with_device_ram(config->ram_size, pc_device_ram(config->vga), config->log, err);
    if (vm->memory == NULL)
        return false;
    if (!create_vcpus(vm, err) || !attach_all(vm, vm->engine, err))
        return false;
    bool host = config->clock == CLOCK_HOST;
    timer_queue_init(&vm->queue, host ? vm_host_now_ns : vm_instruction_now_ns, vm_earliest_changed, vm);
    const struct pc_config pc = {
        .memory = vm->memory,
        .queue = &vm->queue,
        .vcpus = vm->vcpus,
        .cpu_count = vm->cpu_count,
        .serial = config->serial,
        .debugcon = config->debugcon,
        .drives = config->drives,
        .drive_count = config->drive_count,
        .nics = config->nics,
        .nic_count = config->nic_count,
        .virtio_console = config->virtio_console,
        .virtio_rng = config->virtio_rng,
        .loop = config->loop,
        .repeatable = !host,
        .wall_base_ns = host ? clock_wall_ns() : REPEATABLE_EPOCH_S * NS_PER_S,
        .lock = &vm->lock,
        .accessor = &vm->accessor,
        .log = config->log,
        .vga = config->vga,
        .firmware = config->kernel == NULL,
        .firmware_path = config->firmware,
        .boot = config->boot,
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
    return vm->pc != NULL && vm_load_kernel(vm, err);
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
    vm->turn_variation = 1;
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
    vm_raise_all(vm, PENDING_STOP);
    loop_wake(vm->config.loop);
}

void vm_reset(struct vm *vm)
{
    on_reset(vm);
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
        vm_end(vm, VM_END_STOPPED, 0);
    }
    vm_resume(vm);
    return ok;
}

/* ---- counters ---- */

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
