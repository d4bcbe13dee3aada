/* The door: the one function through which guest code reaches the monitor, whatever the engine.
 *
 * It counts first, by reason and mode, then carries out what has an effect outside the processor (ports and device
 * memory, under the device lock), then writes the timeline. The counters belong to the door, which belongs to one vCPU,
 * so counting costs an increment. When nobody asked for a timeline the cost of it is one test. */
#include "engine/door.h"

#include "base/check.h"
#include "engine/trace.h"
#include "memory/memory.h"

static void device_access(struct door *door, struct exit *exit)
{
    struct memory *memory = door->memory;
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
static const char *device_exit(struct door *door, struct exit *exit, bool is_port)
{
    const char *name = NULL;
    if (is_port)
        door->stats.ports[(exit->address & 0xffff) / 8]++;
    if (door->lock != NULL)
        pthread_mutex_lock(door->lock);
    if (door->trace != NULL)
        name = is_port ? memory_port_name(door->memory, (uint16_t)exit->address)
                       : memory_mmio_name(door->memory, exit->address);
    device_access(door, exit);
    if (door->lock != NULL)
        pthread_mutex_unlock(door->lock);
    return name;
}

void door_exit(struct vcpu *v, struct exit *exit)
{
    struct door *door = v->exit_opaque;
    check((unsigned)exit->reason < EXIT_REASON_COUNT && (unsigned)exit->mode < EXIT_MODE_COUNT);
    door->stats.exits[exit->reason][exit->mode]++;
    uint64_t begin_ns = door->trace != NULL ? trace_now_ns(door->trace, v) : 0;
    const char *device = NULL;
    switch (exit->reason) {
    case EXIT_IO_IN:
    case EXIT_IO_OUT:
        device = device_exit(door, exit, true);
        break;
    case EXIT_MMIO_READ:
    case EXIT_MMIO_WRITE:
        device = device_exit(door, exit, false);
        break;
    case EXIT_EXCEPTION:
        door->stats.exceptions[exit->vector & 31]++;
        break;
    case EXIT_INTERRUPT:
        door->stats.interrupts[exit->vector]++;
        break;
    default: /* carried out by the engine itself: only counted */
        break;
    }
    if (v->memory_generation != memory_generation(door->memory))
        vcpu_raise(v, PENDING_FLUSH); /* the guest has moved a base address: what was cached of the map is old */
    if (door->trace != NULL)
        trace_exit(door->trace, v, exit, device, begin_ns, trace_now_ns(door->trace, v));
}

static void add_counters(uint64_t *to, const uint64_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += from[i];
}

void stats_merge(struct stats *to, const struct stats *from)
{
    add_counters(&to->exits[0][0], &from->exits[0][0], EXIT_REASON_COUNT * EXIT_MODE_COUNT);
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
    add_counters(to->calls, from->calls, ARRAY_LEN(to->calls));
    /* vCPUs run side by side in one process, so these do not add up. */
    if (to->monitor_bytes < from->monitor_bytes)
        to->monitor_bytes = from->monitor_bytes;
    if (to->wall_ns < from->wall_ns)
        to->wall_ns = from->wall_ns;
    if (to->guest_ns < from->guest_ns)
        to->guest_ns = from->guest_ns;
}
