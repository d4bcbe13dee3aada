/* The door: the one function through which guest code reaches the monitor, whatever the engine.
 *
 * It counts first, by reason and mode, then carries out what has an effect outside the processor (ports and device
 * memory, under the device lock), then writes the timeline. The counters belong to the door, which belongs to one
 * vCPU, so counting costs an increment. When nobody asked for times, a timeline or to look on, the cost of all that is
 * one test.
 *
 * What is watched (cpu/watch.h) comes here too: the door passes it on to the counters, the timeline and the observer.
 * */
#include "engine/door.h"

#include "base/check.h"
#include "engine/hot.h"
#include "engine/trace.h"
#include "host/clock.h"
#include "memory/memory.h"

/* Several elements of a string at one go, unless somebody wants to see each. */
static bool string_access(struct door *door, struct exit *exit)
{
    if (exit->string == NULL || door->trace != NULL || door->observer != NULL)
        return false;
    uint16_t port = (uint16_t)exit->address;
    exit->done = exit->reason == EXIT_IO_IN
                     ? memory_port_read_string(door->memory, port, exit->size, exit->string, exit->count)
                     : memory_port_write_string(door->memory, port, exit->size, exit->string, exit->count);
    return true;
}

static void device_access(struct door *door, struct exit *exit)
{
    struct memory *memory = door->memory;
    if (string_access(door, exit))
        return;
    switch (exit->reason) {
    case EXIT_IO_IN:
        exit->value = memory_port_read(memory, (uint16_t)exit->address, exit->size);
        break;
    case EXIT_IO_OUT:
        memory_port_write(memory, (uint16_t)exit->address, exit->size, (uint32_t)exit->value);
        break;
    case EXIT_MMIO_READ:
        exit->value = memory_mmio_read(memory, exit->address, exit->size);
        break;
    default:
        memory_mmio_write(memory, exit->address, exit->size, exit->value);
        break;
    }
}

/* Under the lock. Returns the name of the device for the timeline. */
static const char *device_exit(struct door *door, const struct vcpu *v, struct exit *exit, bool is_port)
{
    const char *name = NULL;
    if (is_port)
        door->stats.ports[(exit->address & 0xffff) / 8]++;
    if (door->lock != NULL)
        pthread_mutex_lock(door->lock);
    if (door->accessor != NULL)
        *door->accessor = v->index;
    if (door->trace != NULL || door->observer != NULL)
        name = is_port ? memory_port_name(door->memory, (uint16_t)exit->address)
                       : memory_mmio_name(door->memory, exit->address);
    device_access(door, exit);
    if (door->lock != NULL)
        pthread_mutex_unlock(door->lock);
    return name;
}

static const char *carry_out(struct door *door, const struct vcpu *v, struct exit *exit)
{
    switch (exit->reason) {
    case EXIT_IO_IN:
    case EXIT_IO_OUT:
        return device_exit(door, v, exit, true);
    case EXIT_MMIO_READ:
    case EXIT_MMIO_WRITE:
        return device_exit(door, v, exit, false);
    case EXIT_EXCEPTION:
        door->stats.exceptions[exit->vector & 31]++;
        return NULL;
    case EXIT_INTERRUPT:
        door->stats.interrupts[exit->vector]++;
        return NULL;
    default: /* carried out by the engine itself: only counted */
        return NULL;
    }
}

/* With all that somebody has asked for. */
static void carry_out_watched(struct door *door, struct vcpu *v, struct exit *exit)
{
    uint64_t begin_ns = clock_monotonic_ns();
    uint64_t trace_begin_ns = door->trace != NULL ? trace_now_ns(door->trace, v) : 0;
    const char *device = carry_out(door, v, exit);
    uint64_t ns = clock_monotonic_ns() - begin_ns;
    door->stats.exit_ns[exit->reason][exit->mode] += ns;
    if (door->stats.hot != NULL)
        hot_exit(door->stats.hot, v, exit, ns);
    if (door->trace != NULL)
        trace_exit(door->trace, v, exit, device, trace_begin_ns, trace_now_ns(door->trace, v));
    if (door->observer != NULL && door->observer->exit != NULL)
        door->observer->exit(door->observer->watch.opaque, v, exit, device);
}

void door_exit(struct vcpu *v, struct exit *exit)
{
    struct door *door = v->exit_opaque;
    check((unsigned)exit->reason < EXIT_REASON_COUNT && (unsigned)exit->mode < EXIT_MODE_COUNT);
    door->stats.exits[exit->reason][exit->mode]++;
    if (unlikely(v->watch != NULL))
        carry_out_watched(door, v, exit);
    else
        carry_out(door, v, exit);
    if (v->memory_generation != memory_generation(door->memory))
        vcpu_raise(v, PENDING_FLUSH); /* the guest has moved a base address: what was cached of the map is old */
}

/* ---- what is watched beside the exits ---- */

static void watched_mode(void *opaque, struct vcpu *v, unsigned cpl_before)
{
    struct door *door = opaque;
    if (v->cpl == 3)
        door->stats.to_user++;
    else if (cpl_before == 3)
        door->stats.to_kernel++;
    if (door->trace != NULL && (v->cpl == 3) != (cpl_before == 3))
        trace_mode(door->trace, v, cpl_before == 3);
    if (door->observer != NULL && door->observer->watch.mode != NULL)
        door->observer->watch.mode(door->observer->watch.opaque, v, cpl_before);
}

static void watched_sample(void *opaque, struct vcpu *v)
{
    struct door *door = opaque;
    if (door->stats.hot != NULL)
        hot_sample(door->stats.hot, v);
    if (door->observer != NULL && door->observer->watch.sample != NULL)
        door->observer->watch.sample(door->observer->watch.opaque, v);
}

static void watched_begin(void *opaque, struct vcpu *v, const struct insn *in)
{
    struct door *door = opaque;
    const struct observer *observer = door->observer;
    if (door->stats.sensitive_counted)
        door->stats.sensitive[in->row]++;
    if (observer != NULL && observer->watch.begin != NULL)
        observer->watch.begin(observer->watch.opaque, v, in);
}

static void watched_end(void *opaque, struct vcpu *v, const struct insn *in)
{
    const struct observer *observer = ((struct door *)opaque)->observer;
    observer->watch.end(observer->watch.opaque, v, in);
}

static void watched_delivered(void *opaque, struct vcpu *v)
{
    const struct observer *observer = ((struct door *)opaque)->observer;
    observer->watch.delivered(observer->watch.opaque, v);
}

void door_open(struct door *door, struct vcpu *v)
{
    const struct observer *observer = door->observer;
    v->exit = door_exit;
    v->exit_opaque = door;
    v->watch = NULL;
    bool sensitive = door->stats.sensitive_counted;
    if (!door->stats.timed && door->stats.hot == NULL && door->trace == NULL && observer == NULL && !sensitive)
        return;
    door->watch = (struct vcpu_watch){.mode = watched_mode, .sample = watched_sample, .opaque = door};
    if (sensitive || (observer != NULL && observer->watch.begin != NULL))
        door->watch.begin = watched_begin;
    if (observer != NULL && observer->watch.end != NULL)
        door->watch.end = watched_end;
    if (observer != NULL && observer->watch.delivered != NULL)
        door->watch.delivered = watched_delivered;
    v->watch = &door->watch;
}

static void add_counters(uint64_t *to, const uint64_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += from[i];
}

void stats_merge(struct stats *to, const struct stats *from)
{
    add_counters(&to->exits[0][0], &from->exits[0][0], EXIT_REASON_COUNT * EXIT_MODE_COUNT);
    add_counters(&to->exit_ns[0][0], &from->exit_ns[0][0], EXIT_REASON_COUNT * EXIT_MODE_COUNT);
    to->timed |= from->timed;
    if (to->symbols == NULL)
        to->symbols = from->symbols;
    to->to_kernel += from->to_kernel;
    to->to_user += from->to_user;
    to->sensitive_counted |= from->sensitive_counted;
    add_counters(to->sensitive, from->sensitive, ARRAY_LEN(to->sensitive));
    if (to->hot != NULL && from->hot != NULL)
        hot_merge(to->hot, from->hot);
    add_counters(to->exceptions, from->exceptions, ARRAY_LEN(to->exceptions));
    add_counters(to->interrupts, from->interrupts, ARRAY_LEN(to->interrupts));
    add_counters(to->ports, from->ports, ARRAY_LEN(to->ports));
    to->instructions += from->instructions;
    to->halted_ns += from->halted_ns;
    to->tlb_fills += from->tlb_fills;
    to->tlb_flushes += from->tlb_flushes;
    to->page_walks += from->page_walks;
    to->insns_decoded += from->insns_decoded;
    to->code_pages += from->code_pages;
    to->code_invalidations += from->code_invalidations;
    to->host_stubs += from->host_stubs;
    to->instructions_partial |= from->instructions_partial;
    to->translate.present |= from->translate.present;
    if (to->shadow.policy == NULL)
        to->shadow.policy = from->shadow.policy;
#define X(name) to->translate.name += from->translate.name;
    STATS_TRANSLATE(X)
#undef X
#define X(name) to->translate.faults.name += from->translate.faults.name;
    STATS_FAULTS(X)
#undef X
#define X(name) to->shadow.name += from->shadow.name;
    STATS_SHADOW(X)
#undef X
    to->kvm.present |= from->kvm.present;
#define X(name) to->kvm.name += from->kvm.name;
    STATS_KVM(X)
#undef X
    if (to->trap.policy == NULL)
        to->trap.policy = from->trap.policy;
#define X(name) to->trap.name += from->trap.name;
    STATS_TRAPS(X)
    STATS_TRAP_WORK(X)
#undef X
    add_counters(to->calls, from->calls, ARRAY_LEN(to->calls));
    /* vCPUs run side by side in one process, so these do not add up. */
    if (to->monitor_bytes < from->monitor_bytes)
        to->monitor_bytes = from->monitor_bytes;
    if (to->threads < from->threads)
        to->threads = from->threads;
    if (to->wall_ns < from->wall_ns)
        to->wall_ns = from->wall_ns;
    if (to->guest_ns < from->guest_ns)
        to->guest_ns = from->guest_ns;
}
