/* Guest time, and pauses.
 *
 * Clock "host": guest time is the host's monotonic time since creation, without pauses. The event loop fires due timers.
 *
 * Clock "instructions": guest time is INSTRUCTION_NS for each instruction executed by any vCPU, plus what was skipped while
 * all were halted. The thread that runs the vCPUs alone fires timers, at instruction counts that are the same in every run.
 * What comes from outside (keystrokes on the console) is the one thing that cannot repeat; it happens at the guest time at
 * which the engine was last entered, because the count belongs to that thread.
 *
 * A pause takes all vCPUs out of the engine and stops guest time.
 */
#include "machine/vm_internal.h"

#include "base/check.h"
#include "host/clock.h"
#include "host/loop.h"

/* ---- clocks ---- */

uint64_t vm_host_now_ns(void *opaque)
{
    struct vm *vm = opaque;
    return (vm->standing ? vm->paused_ns : clock_monotonic_ns()) - vm->start_ns;
}

/* On the thread that runs the vCPUs, or while there is none. */
uint64_t vm_exact_now_ns(const struct vm *vm)
{
    const struct vcpu *v = vm->cpus[vm->turn].vcpu;
    uint64_t count = v->run_start != NULL ? (uint64_t)(v->in - v->run_start) : 0; /* a device is accessed amid a run */
    for (unsigned i = 0; i < vm->cpu_count; i++)
        count += vm->cpus[i].vcpu->instructions;
    return count * INSTRUCTION_NS + vm->skipped_ns;
}

uint64_t vm_instruction_now_ns(void *opaque)
{
    struct vm *vm = opaque;
    bool elsewhere = vm->cpus[0].running && !vm->standing && !pthread_equal(vm->cpus[0].thread, pthread_self());
    return elsewhere ? vm->entered_ns : vm_exact_now_ns(vm);
}

/* The host's time of the next guest timer. Guests may ask for times that the host's clock cannot even express. */
uint64_t vm_next_host_ns(const struct vm *vm)
{
    uint64_t next = timer_queue_next(&vm->queue);
    if (vm->standing)
        return TIMER_NEVER;
    return next < TIMER_NEVER - vm->start_ns ? vm->start_ns + next : TIMER_NEVER;
}

void vm_earliest_changed(void *opaque)
{
    struct vm *vm = opaque;
    if (vm->config.clock == CLOCK_INSTRUCTIONS) {
        vcpu_raise(vm->cpus[vm->turn].vcpu, PENDING_STOP); /* the engine's target has changed */
        vm_wake_all(vm); /* or, by input from outside, the time to which halted ones may skip */
    } else {
        loop_set_deadline(vm->config.loop, vm_next_host_ns(vm));
    }
}

/* ---- pauses ---- */

/* Pauses do not count: they are no time of the machine's. */
void vm_halted_account(struct vm_cpu *cpu)
{
    struct vm *vm = cpu->vm;
    uint64_t now_ns = vm->standing ? vm->paused_ns : clock_monotonic_ns();
    if (cpu->halted_since_ns == 0)
        return;
    vm->halted_ns += now_ns > cpu->halted_since_ns ? now_ns - cpu->halted_since_ns : 0;
    cpu->halted_since_ns = now_ns;
}

void vm_wait_outside(struct vm *vm)
{
    while (vm->inside > 0)
        pthread_cond_wait(&vm->outside, &vm->lock);
}

void vm_pause_begin(struct vm *vm)
{
    vm->pauses++;
    if (vm->standing)
        return;
    vm_raise_all(vm, PENDING_STOP);
    vm_wake_all(vm); /* halted processors of a repeatable run may be skipping time */
}

void vm_pause(struct vm *vm)
{
    vm_pause_begin(vm);
    vm_pause_complete(vm);
}

void vm_pause_complete(struct vm *vm)
{
    if (vm->standing)
        return;
    vm_wait_outside(vm);
    vm->paused_ns = clock_monotonic_ns();
    vm->standing = true;
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vm_halted_account(&vm->cpus[i]);
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
        loop_set_deadline(vm->config.loop, vm_next_host_ns(vm));
    vm_wake_all(vm);
}

bool vm_is_paused(const struct vm *vm)
{
    return vm->pauses > 0;
}
