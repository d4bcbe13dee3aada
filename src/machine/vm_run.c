/* A machine's threads, resets and end.
 *
 * Clock "host": the owner's thread runs the event loop: it fires due guest timers under the device lock and sleeps until the
 * next one. Each vCPU has a thread that runs the engine; when its processor halts it waits on `wake` until something is
 * pending.
 *
 * Clock "instructions": one thread runs the vCPUs by turns of TURN_INSTRUCTIONS; when all are halted, time jumps to the next
 * timer.
 *
 * A reset waits until all vCPUs are outside of the engine and is then done by the first one's thread.
 */
#include "machine/vm_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/check.h"
#include "cpu/code_cache.h"
#include "cpu/crew.h"
#include "cpu/vcpu.h"
#include "engine/postmortem.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/pc.h"
#include "mmu/access.h"

/* How many instructions a repeatable run executes before it looks for outside events. */
#define SLICE_INSTRUCTIONS 1000000u
/* How many instructions one of several vCPUs executes in such a run before it is the next one's turn: few, since what waits for
 * another processor does so in a loop. */
#define TURN_INSTRUCTIONS 10000u
#define TURN_VARIATION 1024u
/* How long the lock is kept while time is skipped, and for how long it is then given away. */
#define LOCK_HELD_NS 5000000u
#define LOCK_LENT_NS 50000

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
        !vm_load_kernel(vm, &vm->error)) {
        error_prefix(&vm->error, "after a reset");
        vm->failed = true;
        vm_end(vm, VM_END_STOPPED, 0);
    }
}

/* A reset was asked for: the first vCPU's thread waits until all are outside, and does it; the others wait for that. */
static void take_reset(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    if (cpu == &vm->cpus[0]) {
        vm_wait_outside(vm);
        reset_now(vm);
        vm_wake_all(vm);
    } else {
        while (vm->reset_requested && !vm->ended)
            pthread_cond_wait(&cpu->wake, &vm->lock);
    }
}

/* ---- the vCPUs' threads ---- */

/* With the lock, on a vCPU's thread: until the machine may go on, or something has to be done first. */
static void wait_paused(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    while (vm->pauses > 0 && !vm->ended && !vm->reset_requested)
        pthread_cond_wait(&cpu->wake, &vm->lock);
}

/* Ends the run, but where firmware is there to start again. */
static void take_shutdown(struct vm *vm, const struct vcpu *v)
{
    if (pc_shutdown(vm->pc))
        return;
    if (pc_has_firmware(vm->pc) && !vm->config.no_reboot) {
        log_warn(vm->config.log, "processor %u shut down after a triple fault: reset", v->index);
        vm_reset(vm);
        return;
    }
    if (!vm->ended)
        vm->result.cpu = v->index;
    vm_end(vm, VM_END_TRIPLE_FAULT, 0);
}

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
    if (unlikely(v->hit.kind != HIT_NONE))
        vm_debug_hit(cpu);
    if (v->failed != NULL && !vm->failed) {
        error_set(&vm->error, "%s", v->failed);
        vm->failed = true;
        vm_end(vm, VM_END_STOPPED, 0);
    }
    if (atomic_load(&vm->stop_reason) != 0) {
        vm_end(vm, VM_END_STOPPED, atomic_load(&vm->stop_reason));
    } else if (v->activity == ACTIVITY_SHUTDOWN && !vm->reset_requested) {
        take_shutdown(vm, v);
    }
}

/* The same for one instruction, which a halted processor executes when it is woken. */
static void run_step(struct vm_cpu *cpu)
{
    struct vcpu *v = cpu->vcpu;
    uint64_t before = v->instructions;
    v->single = true;
    v->pending_held = v->activity == ACTIVITY_RUNNING ? cpu->vm->step_holds : 0;
    run_engine(cpu, before + 1);
    v->single = false;
    v->pending_held = 0;
    if (v->instructions != before)
        vm_debug_stepped(cpu);
}

/* Until a debugger, or the end, wants something else. */
static void wait_staying(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    while (cpu->action == VM_STAY && vm->pauses == 0 && !vm->ended && !vm->reset_requested)
        pthread_cond_wait(&cpu->wake, &vm->lock);
}

/* Lets the halted processor wait for an event. With the lock; returns when it can go on, or the run has ended. */
static void wait_halted(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    cpu->halted_since_ns = clock_monotonic_ns();
    while (!vm->ended && !vm->reset_requested && vm->pauses == 0 && !vcpu_runnable(cpu->vcpu))
        pthread_cond_wait(&cpu->wake, &vm->lock);
    vm_halted_account(cpu);
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
        else if (unlikely(cpu->action == VM_STAY))
            wait_staying(cpu);
        else if (!vcpu_runnable(cpu->vcpu))
            wait_halted(cpu);
        else if (unlikely(cpu->action == VM_STEP))
            run_step(cpu);
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
    vm->entered_ns = vm_exact_now_ns(vm);
    pthread_mutex_unlock(&vm->lock);
    nanosleep(&(struct timespec){.tv_nsec = LOCK_LENT_NS}, NULL);
    pthread_mutex_lock(&vm->lock);
    *held_since_ns = clock_monotonic_ns();
}

/* Turns differ in length, by a fixed sequence (xorshift: Marsaglia 2003): with equal ones a loop that lets a lock go for a moment
 * in each turn of its own may be interrupted at the same instruction for ever. */
static uint64_t turn_length(struct vm *vm)
{
    if (vm->cpu_count == 1)
        return SLICE_INSTRUCTIONS;
    uint32_t x = vm->turn_variation;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    vm->turn_variation = x;
    return TURN_INSTRUCTIONS - TURN_VARIATION / 2 + x % TURN_VARIATION;
}

/* Whose turn it is; NULL: all are halted. It does not end when the engine returns early, which engines do at different places. */
static struct vm_cpu *take_turn(struct vm *vm)
{
    const struct vcpu *v = vm->vcpus[vm->turn];
    if (vm_cpu_may_run(&vm->cpus[vm->turn]) && v->instructions < vm->turn_until)
        return &vm->cpus[vm->turn];
    for (unsigned n = 1; n <= vm->cpu_count; n++) {
        unsigned i = (vm->turn + n) % vm->cpu_count;
        if (!vm_cpu_may_run(&vm->cpus[i]))
            continue;
        vm->turn = i;
        vm->turn_until = vm->vcpus[i]->instructions + turn_length(vm);
        return &vm->cpus[i];
    }
    return NULL;
}

static bool any_runnable(const struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        if (vm_cpu_may_run(&vm->cpus[i]))
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
            vm->entered_ns = vm_exact_now_ns(vm);
            pthread_cond_wait(&vm->cpus[0].wake, &vm->lock);
        }
    }
    vm_halted_account(&vm->cpus[0]);
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
        vm->entered_ns = vm_exact_now_ns(vm);
        if (unlikely(cpu->action == VM_STEP))
            run_step(cpu);
        else
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
    vm_debug_tell(vm);
    int reason = atomic_load(&vm->stop_reason);
    if (reason != 0)
        vm_end(vm, VM_END_STOPPED, reason);
    if (vm->config.clock == CLOCK_HOST) {
        if (!vm->standing)
            timer_queue_run(&vm->queue);
        loop_set_deadline(vm->config.loop, vm_next_host_ns(vm));
    }
}

/* Asks the vCPUs where they are: those that are not halted say so before their next block. */
static void sample(void *opaque)
{
    struct vm *vm = opaque;
    vm_raise_all(vm, PENDING_SAMPLE);
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
            vm_end(vm, VM_END_STOPPED, 0);
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
