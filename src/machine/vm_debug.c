/* The user's stop, and what a debugger does with it.
 *
 * A hold is a pause that belongs to the user: the monitor's `stop`, a debugger's interrupt, a breakpoint. There is one; it
 * begins once and ends once, whoever asks.
 *
 * A vCPU that comes to a point begins the hold on its own thread: from then on no vCPU enters the engine, and those inside
 * are leaving it. The loop's thread completes the pause and tells the debugger, one event at a time. Others may have come to
 * points of their own meanwhile. Instructions are found again when the machine goes on, since they were not executed, so
 * they are forgotten; accesses that were made are not, and are told before anything else is executed.
 *
 * Points take effect when the machine goes on. While only single instructions are executed, instruction points do not
 * matter, and are not made known: a debugger that takes one away to step over it, and sets it again, costs no flush of what
 * has been decoded and translated.
 */
#include "machine/vm_internal.h"

#include "base/check.h"
#include "cpu/vcpu.h"
#include "host/loop.h"

bool vm_is_held(const struct vm *vm)
{
    return vm->held;
}

/* ---- holding ---- */

static void hold_begin(struct vm *vm)
{
    if (!vm->held) {
        vm->held = true;
        vm_pause_begin(vm);
    }
    vm->hold_untold = true;
    loop_wake(vm->config.loop);
}

void vm_debug_hit(struct vm_cpu *cpu)
{
    struct vcpu *v = cpu->vcpu;
    cpu->event = (struct vm_held){.by = VM_HELD_BY_POINT, .cpu = v->index, .point = v->hit.point};
    cpu->has_event = true;
    v->hit.kind = HIT_NONE;
    hold_begin(cpu->vm);
}

void vm_debug_stepped(struct vm_cpu *cpu)
{
    if (cpu->has_event)
        return;
    cpu->event = (struct vm_held){.by = VM_HELD_BY_STEP, .cpu = cpu->vcpu->index};
    cpu->has_event = true;
    hold_begin(cpu->vm);
}

static bool is_kept(const struct vm_cpu *cpu)
{
    return cpu->has_event && cpu->event.by == VM_HELD_BY_POINT && cpu->event.point.kind != POINT_EXECUTE;
}

/* What is told: an access before anything else, a point before the end of a step. */
static struct vm_cpu *choose(struct vm *vm)
{
    struct vm_cpu *chosen = NULL;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        if (is_kept(cpu))
            return cpu;
        if (cpu->has_event && (chosen == NULL || cpu->event.by == VM_HELD_BY_POINT))
            chosen = cpu;
    }
    return chosen;
}

void vm_debug_tell(struct vm *vm)
{
    if (!vm->hold_untold)
        return;
    vm->hold_untold = false;
    vm_pause_complete(vm);
    struct vm_held held = {.by = VM_HELD_BY_USER};
    struct vm_cpu *cpu = choose(vm);
    if (cpu != NULL) {
        held = cpu->event;
        cpu->has_event = false;
    }
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vm->cpus[i].has_event = is_kept(&vm->cpus[i]);
    if (vm->debugger != NULL)
        vm->debugger->held(vm->debugger->opaque, &held);
}

void vm_hold(struct vm *vm)
{
    if (vm->held && !vm->hold_untold)
        return;
    hold_begin(vm);
    vm_debug_tell(vm);
}

/* ---- going on ---- */

static void apply(struct vm *vm, bool any_goes)
{
    bool data = !points_same(&vm->points, &vm->applied, true), execute = !points_same(&vm->points, &vm->applied, false);
    if (!data && !(execute && any_goes))
        return;
    vm->applied = vm->points;
    for (unsigned i = 0; i < vm->cpu_count; i++)
        vm->vcpus[i]->points = points_is_empty(&vm->applied) ? NULL : &vm->applied;
    vm_raise_all(vm, PENDING_FLUSH);
}

static void release(struct vm *vm, bool any_goes)
{
    apply(vm, any_goes);
    vm->held = false;
    vm_resume(vm);
}

void vm_go(struct vm *vm)
{
    if (!vm->held)
        return;
    vm_debug_tell(vm);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->cpus[i].action = VM_GO;
        vm->cpus[i].has_event = false;
    }
    release(vm, true);
}

void vm_debug_resume(struct vm *vm, const enum vm_action actions[MACHINE_CPUS_MAX], uint32_t step_holds)
{
    check(vm->held);
    bool any_goes = false;
    if (vm->hold_untold || choose(vm) != NULL) { /* something has happened that was not told yet */
        vm->hold_untold = true;
        loop_wake(vm->config.loop);
        return;
    }
    vm->step_holds = step_holds;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->cpus[i].action = actions[i];
        any_goes |= actions[i] == VM_GO;
    }
    release(vm, any_goes);
}

bool vm_cpu_may_run(const struct vm_cpu *cpu)
{
    return cpu->action != VM_STAY && vcpu_runnable(cpu->vcpu);
}

/* ---- a debugger ---- */

void vm_debug_attach(struct vm *vm, const struct vm_debugger *debugger)
{
    check(vm->debugger == NULL || debugger == NULL);
    vm->debugger = debugger;
    if (debugger != NULL)
        return;
    points_clear(&vm->points);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->cpus[i].action = VM_GO;
        vm->cpus[i].has_event = false;
    }
    vm_pause(vm);
    apply(vm, true);
    vm_resume(vm);
}

struct points *vm_debug_points(struct vm *vm)
{
    return &vm->points;
}

struct vcpu *vm_debug_vcpu(struct vm *vm, unsigned index)
{
    check(index < vm->cpu_count);
    return vm->vcpus[index];
}
