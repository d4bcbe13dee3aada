/* The local APIC's timer.
 *
 * Model. The count is never stored: `timer_expiry_ns` is the guest time at which it reaches zero, and the current
 * count is the rest of the way in units of the divided clock, computed when software reads it. Software that changes
 * the divider keeps the count. One-shot: at expiry it stands still. Periodic: the next expiry is one period further;
 * expiries that were missed because nobody ran the timers are dropped, which is all that IRR could say of them anyway.
 *
 * A periodic timer faster than MIN_INTERVAL_NS raises interrupts only so often, or a guest could keep the host busy
 * with nothing else. The current count follows the true period.
 *
 * TSC deadline: the deadline is given in TSC ticks, which only the processor can convert; 0 disarms, and so it reads
 * after it has passed. Changing between this mode and the others disarms.
 *
 * Source: SDM volume 3, "APIC Timer".
 */
#include "device/lapic_internal.h"

#define MIN_INTERVAL_NS 10000u

static uint32_t timer_mode(const struct lapic *lapic)
{
    return lapic->state.lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

static bool timer_counts(const struct lapic *lapic)
{
    return timer_mode(lapic) == LVT_TIMER_ONE_SHOT || timer_mode(lapic) == LVT_TIMER_PERIODIC;
}

static uint64_t tick_ns(const struct lapic *lapic)
{
    uint32_t code = (lapic->state.timer_divide & 3) | (lapic->state.timer_divide >> 1 & 4);
    return code == 7 ? 1 : 2u << code;
}

static uint64_t period_ns(const struct lapic *lapic)
{
    return lapic->state.timer_initial * tick_ns(lapic);
}

uint32_t lapic_timer_count(const struct lapic *lapic)
{
    uint64_t expiry_ns = lapic->state.timer_expiry_ns, now_ns = timer_now_ns(lapic->timer.queue);
    if (expiry_ns == TIMER_NEVER || !timer_counts(lapic))
        return 0;
    uint64_t rest_ns = 0;
    if (now_ns < expiry_ns)
        rest_ns = expiry_ns - now_ns;
    else if (timer_mode(lapic) == LVT_TIMER_PERIODIC)
        rest_ns = period_ns(lapic) - (now_ns - expiry_ns) % period_ns(lapic);
    return (uint32_t)((rest_ns + tick_ns(lapic) - 1) / tick_ns(lapic));
}

void lapic_timer_fired(void *opaque)
{
    struct lapic *lapic = opaque;
    struct lapic_state *state = &lapic->state;
    uint64_t now_ns = timer_now_ns(lapic->timer.queue);
    if (timer_mode(lapic) == LVT_TIMER_PERIODIC && state->timer_expiry_ns != TIMER_NEVER) {
        uint64_t period = period_ns(lapic);
        if (now_ns >= state->timer_expiry_ns)
            state->timer_expiry_ns += period * ((now_ns - state->timer_expiry_ns) / period + 1);
        uint64_t soonest_ns = now_ns + MIN_INTERVAL_NS;
        timer_arm(&lapic->timer, period < MIN_INTERVAL_NS && state->timer_expiry_ns < soonest_ns
                                     ? soonest_ns
                                     : state->timer_expiry_ns);
    } else {
        state->timer_expiry_ns = TIMER_NEVER;
        state->tsc_deadline = 0;
    }
    lapic_lvt_deliver(lapic, LVT_TIMER);
}

void lapic_timer_set_initial(struct lapic *lapic, uint32_t initial)
{
    if (!timer_counts(lapic))
        return;
    lapic->state.timer_initial = initial;
    lapic->state.timer_expiry_ns = initial == 0 ? TIMER_NEVER : timer_now_ns(lapic->timer.queue) + period_ns(lapic);
    timer_arm(&lapic->timer, lapic->state.timer_expiry_ns);
}

void lapic_timer_set_divide(struct lapic *lapic, uint32_t divide)
{
    uint64_t count = lapic_timer_count(lapic);
    lapic->state.timer_divide = divide;
    if (lapic->state.timer_expiry_ns == TIMER_NEVER)
        return;
    lapic->state.timer_expiry_ns = timer_now_ns(lapic->timer.queue) + count * tick_ns(lapic);
    timer_arm(&lapic->timer, lapic->state.timer_expiry_ns);
}

void lapic_timer_mode_changed(struct lapic *lapic)
{
    if (timer_counts(lapic) && lapic->state.tsc_deadline == 0)
        return; /* between one-shot and periodic: the count goes on */
    lapic->state.timer_expiry_ns = TIMER_NEVER;
    lapic->state.timer_initial = 0;
    lapic->state.tsc_deadline = 0;
    timer_disarm(&lapic->timer);
}

void lapic_timer_set_tsc_deadline(struct lapic *lapic, uint64_t tsc)
{
    if (timer_mode(lapic) != LVT_TIMER_TSC_DEADLINE)
        return;
    lapic->state.tsc_deadline = tsc;
    uint64_t deadline_ns = tsc == 0 ? TIMER_NEVER : lapic->config.ops->tsc_to_ns(lapic->config.opaque, tsc);
    timer_disarm(&lapic->timer);
    if (deadline_ns <= timer_now_ns(lapic->timer.queue))
        lapic_timer_fired(lapic);
    else
        timer_arm(&lapic->timer, deadline_ns);
}

void lapic_tsc_changed(struct lapic *lapic)
{
    if (lapic->state.tsc_deadline != 0)
        lapic_timer_set_tsc_deadline(lapic, lapic->state.tsc_deadline);
}
