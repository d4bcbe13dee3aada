/* Going on, stepping, stopping, and what the client is told of a stop.
 *
 * All threads stop together and the client says for each how it goes on ("all-stop"). A thread of which nothing is said
 * stays as it is. */
#include "gdb/internal.h"

#define SIGNAL_INT 2u
#define SIGNAL_TRAP 5u

/* ---- what is said of a stop ---- */

static const char *watch_name(enum point_kind kind)
{
    return kind == POINT_WRITE ? "watch" : kind == POINT_READ ? "rwatch" : "awatch";
}

void resume_say_stop(struct gdb *gdb)
{
    const struct vm_held *held = &gdb->last;
    unsigned long long gva = held->point.gva;
    char reason[48] = "";
    if (held->by == VM_HELD_BY_POINT && held->point.kind == POINT_EXECUTE)
        snprintf(reason, sizeof reason, "%s:;", points_at(&gdb->soft, held->point.gva) ? "swbreak" : "hwbreak");
    else if (held->by == VM_HELD_BY_POINT)
        snprintf(reason, sizeof reason, "%s:%llx;", watch_name(held->point.kind), gva);
    packet_format(gdb, "T%02xthread:%x;%s", gdb->signal, gdb->thread + 1, reason);
}

void resume_held(void *opaque, const struct vm_held *held)
{
    struct gdb *gdb = opaque;
    gdb->last = *held;
    if (held->by != VM_HELD_BY_USER)
        gdb->thread = gdb->resume_thread = held->cpu;
    gdb->signal = held->by == VM_HELD_BY_USER ? SIGNAL_INT : SIGNAL_TRAP;
    if (!gdb->running)
        return; /* it believes so already */
    gdb->running = false;
    resume_say_stop(gdb);
}

void resume_interrupt(struct gdb *gdb)
{
    if (gdb->running)
        vm_hold(gdb->config.vm);
    if (!gdb->running)
        return;
    resume_held(gdb, &(struct vm_held){.by = VM_HELD_BY_USER}); /* somebody had stopped it already */
}

/* ---- going on ---- */

static bool go(struct gdb *gdb, const enum vm_action actions[MACHINE_CPUS_MAX])
{
    uint32_t holds = gdb->quiet_steps ? PENDING_INTR | PENDING_NMI : 0;
    gdb->running = true;
    gdb->found_held = false;
    if (vm_is_held(gdb->config.vm))
        vm_debug_resume(gdb->config.vm, actions, holds);
    return true;
}

/* One action of vCont at *body, such as "s:2"; sets it for those threads that have none yet. */
static bool take_action(struct gdb *gdb, const char **body, enum vm_action actions[], bool chosen[])
{
    const char *at = *body;
    unsigned count = vm_vcpu_count(gdb->config.vm);
    uint64_t thread = 0, signal;
    enum vm_action action = *at == 's' || *at == 'S' ? VM_STEP : VM_GO;
    bool with_signal = *at == 'C' || *at == 'S';
    if (*at != 'c' && *at != 's' && !with_signal)
        return false;
    at++;
    if (with_signal && !hex_number(&at, &signal)) /* there are no signals for a processor */
        return false;
    if (*at == ':') {
        at++;
        if (at[0] == '-' && at[1] == '1')
            at += 2;
        else if (!hex_number(&at, &thread) || thread > count)
            return false;
    }
    for (unsigned i = 0; i < count; i++) {
        if (chosen[i] || (thread != 0 && thread != i + 1))
            continue;
        chosen[i] = true;
        actions[i] = action;
    }
    *body = at;
    return true;
}

bool resume_vcont(struct gdb *gdb, const char *body)
{
    enum vm_action actions[MACHINE_CPUS_MAX];
    bool chosen[MACHINE_CPUS_MAX] = {false}, any = false;
    for (unsigned i = 0; i < MACHINE_CPUS_MAX; i++)
        actions[i] = VM_STAY;
    while (*body == ';') {
        body++;
        if (!take_action(gdb, &body, actions, chosen))
            return false;
    }
    for (unsigned i = 0; i < MACHINE_CPUS_MAX; i++)
        any |= chosen[i];
    return *body == 0 && any && go(gdb, actions);
}

/* c [addr], s [addr], C sig[;addr], S sig[;addr]: an address is where the thread goes on. */
bool resume_plain(struct gdb *gdb, const char *body)
{
    static const struct reg rip = {.kind = REG_RIP, .bytes = 8};
    enum vm_action actions[MACHINE_CPUS_MAX];
    bool step = *body == 's' || *body == 'S', with_signal = *body == 'C' || *body == 'S';
    uint64_t value;
    body++;
    if (with_signal && !hex_number(&body, &value))
        return false;
    if (with_signal && *body == ';')
        body++;
    if (*body != 0) {
        uint8_t bytes[REGISTER_BYTES_MAX] = {0};
        if (!hex_number(&body, &value) || *body != 0)
            return false;
        for (unsigned i = 0; i < 8; i++)
            bytes[i] = (uint8_t)(value >> 8 * i);
        if (!register_write(vm_debug_vcpu(gdb->config.vm, gdb->resume_thread), &rip, bytes))
            return false;
    }
    for (unsigned i = 0; i < MACHINE_CPUS_MAX; i++)
        actions[i] = step ? VM_STAY : VM_GO;
    if (step)
        actions[gdb->resume_thread] = VM_STEP;
    return go(gdb, actions);
}
