/* Time: the 8254's channel 0 interrupts a hundred times a second.
 *
 * A tick is what takes the processor away from a program that would keep it for ever: the one interrupt that a system with
 * processes cannot do without. Everything about time is counted in ticks, so a sleep ends with the first tick after its
 * time.
 *
 * Intel 8254 data sheet. */
#include "kernel.h"
#include "privileged.h"

#define PIT_CHANNEL0 0x40u
#define PIT_COMMAND 0x43u
#define PIT_CHANNEL0_RATE 0x34u /* channel 0, low then high byte, mode 2 */
#define PIT_HZ 1193182u
#define TICK_HZ (1000u / TICK_MS)

static volatile uint64_t ticks;

void timer_init(void)
{
    unsigned count = (PIT_HZ + TICK_HZ / 2) / TICK_HZ;
    out8(PIT_COMMAND, PIT_CHANNEL0_RATE);
    out8(PIT_CHANNEL0, (uint8_t)count);
    out8(PIT_CHANNEL0, (uint8_t)(count >> 8));
    interrupt_enable(IRQ_TIMER);
}

void timer_tick(void)
{
    bool woken = false;
    ticks++;
    for (struct process *p = processes; p < processes + PROCESS_MAX; p++)
        if (p->state == PROCESS_WAITING && p->wakes_at != 0 && p->wakes_at <= ticks) {
            p->state = PROCESS_READY;
            woken = true;
        }
    schedule_wanted = true;
    if (woken)
        processors_wake();
}

uint64_t timer_now(void)
{
    return ticks;
}

/* At least `ms`: the tick that is under way does not count. */
void timer_sleep(uint64_t ms)
{
    current->wakes_at = ticks + ms / TICK_MS + (ms % TICK_MS != 0) + 1;
    while (ticks < current->wakes_at && !current->killed)
        sleep_on(&current->wakes_at);
    current->wakes_at = 0;
}
