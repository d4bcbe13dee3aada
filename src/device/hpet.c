/* The HPET. See hpet.h.
 *
 * Model. The main counter counts ticks of TICK_NS while it is enabled; it is computed when it is looked at. A comparator matches
 * when the counter equals it, in 64 bits or in the lower 32; a match makes an edge, or sets the status bit of a level. A
 * periodic comparator then moves on by its period; the multiples that have gone by while nobody looked are made up for at
 * once. A host timer is armed for the next match of each comparator that would be noticed.
 *
 * A guest may ask for periods shorter than the host can keep: a comparator interrupts at most every PERIOD_MIN_NS of guest time,
 * and matches in between are lost, as they are to a guest that does not keep up.
 *
 * In the legacy replacement route comparators 0 and 1 drive the ISA interrupts 0 and 8, whatever their own routes are.
 *
 * Registers are accessed as 32 or 64 bits; other writes are ignored. Not emulated: interrupts by message (FSB), which the
 * capabilities deny. */
#include "device/hpet.h"

#include <stdlib.h>
#include <string.h>

#define TICK_NS 10u
#define TICK_FS (TICK_NS * 1000000ull)
#define PERIOD_MIN_NS 10000u
#define ROUTE_FIRST 16u

#define REG_CAPABILITIES 0x000u
#define REG_CONFIG 0x010u
#define REG_STATUS 0x020u
#define REG_COUNTER 0x0f0u
#define REG_TIMERS 0x100u
#define TIMER_STRIDE 0x20u
#define TIMER_CONFIG 0x00u
#define TIMER_COMPARATOR 0x08u

#define CONFIG_ENABLE 0x1u
#define CONFIG_LEGACY 0x2u

#define TN_LEVEL 0x0002u
#define TN_INTERRUPT 0x0004u
#define TN_PERIODIC 0x0008u
#define TN_PERIODIC_CAP 0x0010u
#define TN_SIZE_CAP 0x0020u
#define TN_SET_VALUE 0x0040u
#define TN_32BIT 0x0100u
#define TN_ROUTE 0x3e00u
#define TN_WRITABLE (TN_LEVEL | TN_INTERRUPT | TN_PERIODIC | TN_SET_VALUE | TN_32BIT | TN_ROUTE)

struct comparator {
    struct hpet *hpet;
    unsigned n;
    struct timer timer;
    uint32_t config;
    uint64_t value, period;
    bool driven;  /* the level that its interrupt input has */
    unsigned route; /* ... and which that is */
};

struct hpet {
    struct timer_queue *queue;
    struct hpet_lines lines;
    uint64_t config, status;
    uint64_t counter;  /* while it is halted */
    uint64_t start_ns; /* guest time at which it would have been 0, while it counts; wraps */
    struct comparator comparator[HPET_TIMERS];
};

/* ---- the counter ---- */

static uint64_t counter_read(const struct hpet *hpet)
{
    if (!(hpet->config & CONFIG_ENABLE))
        return hpet->counter;
    return hpet->counter + (timer_now_ns(hpet->queue) - hpet->start_ns) / TICK_NS;
}

static bool is_32bit(const struct comparator *c)
{
    return c->config & TN_32BIT;
}

static bool is_periodic(const struct comparator *c)
{
    return c->config & TN_PERIODIC && c->period != 0;
}

/* How many ticks from `from` to `to`, forwards. */
static uint64_t ticks_between(const struct comparator *c, uint64_t from, uint64_t to)
{
    return is_32bit(c) ? (uint32_t)(to - from) : to - from;
}

/* ---- interrupts ---- */

enum { ROUTE_TIMER, ROUTE_RTC, ROUTE_NONE };

/* Where a comparator's interrupts go now: one of the above, or an input of the I/O APIC. */
static unsigned route_now(const struct comparator *c)
{
    if (c->hpet->config & CONFIG_LEGACY && c->n < 2)
        return c->n == 0 ? ROUTE_TIMER : ROUTE_RTC;
    unsigned input = (c->config & TN_ROUTE) >> 9;
    return input >= ROUTE_FIRST && HPET_ROUTES >> input & 1 ? input : ROUTE_NONE;
}

static void route_set(const struct hpet *hpet, unsigned route, bool level)
{
    const struct hpet_lines *lines = &hpet->lines;
    if (route == ROUTE_TIMER)
        irq_set(&lines->timer, level);
    else if (route == ROUTE_RTC)
        irq_set(&lines->rtc, level);
    else if (route != ROUTE_NONE && lines->io_apic.set != NULL)
        lines->io_apic.set(lines->io_apic.opaque, route, level);
}

/* Makes the input agree with the status bit of a level-triggered comparator. */
static void level_update(struct comparator *c)
{
    struct hpet *hpet = c->hpet;
    bool wanted = c->config & TN_LEVEL && c->config & TN_INTERRUPT && hpet->status >> c->n & 1 && hpet->config & CONFIG_ENABLE;
    unsigned route = route_now(c);
    if (c->driven && (!wanted || route != c->route)) {
        route_set(hpet, c->route, false);
        c->driven = false;
    }
    if (wanted && !c->driven) {
        route_set(hpet, route, true);
        c->driven = true;
        c->route = route;
    }
}

static void match(struct comparator *c)
{
    if (c->config & TN_LEVEL) {
        c->hpet->status |= 1ull << c->n;
        level_update(c);
    } else if (c->config & TN_INTERRUPT) {
        unsigned route = route_now(c);
        route_set(c->hpet, route, true);
        route_set(c->hpet, route, false);
    }
}

/* ---- matches ---- */

/* A periodic comparator moves behind the counter. */
static void period_advance(struct comparator *c, uint64_t counter)
{
    /* Within half of the range behind the counter it has been passed; else it is still to come. */
    uint64_t behind = ticks_between(c, c->value, counter), half = is_32bit(c) ? 1ull << 31 : 1ull << 63;
    if (!is_periodic(c) || behind >= half)
        return;
    c->value += (behind / c->period + 1) * c->period;
    if (is_32bit(c))
        c->value = (uint32_t)c->value;
}

/* Arms for the next match; `matched`: the counter has just been there. */
static void arm(struct comparator *c, bool matched)
{
    struct hpet *hpet = c->hpet;
    if (!(hpet->config & CONFIG_ENABLE) || !(c->config & (TN_INTERRUPT | TN_LEVEL))) {
        timer_disarm(&c->timer);
        return;
    }
    uint64_t now_ns = timer_now_ns(hpet->queue), counter = counter_read(hpet);
    uint64_t ticks = ticks_between(c, counter, c->value);
    if (ticks == 0 && matched)
        ticks = is_32bit(c) ? 1ull << 32 : UINT64_MAX;
    /* The tick began up to TICK_NS ago. */
    uint64_t into_ns = (now_ns - hpet->start_ns) % TICK_NS;
    uint64_t most = (TIMER_NEVER - 1 - now_ns) / TICK_NS;
    uint64_t deadline_ns = ticks >= most ? TIMER_NEVER : now_ns + ticks * TICK_NS - (ticks != 0 ? into_ns : 0);
    if (matched && deadline_ns < now_ns + PERIOD_MIN_NS)
        deadline_ns = now_ns + PERIOD_MIN_NS;
    timer_arm(&c->timer, deadline_ns);
}

static void comparator_fired(void *opaque)
{
    struct comparator *c = opaque;
    match(c);
    period_advance(c, counter_read(c->hpet));
    arm(c, true);
}

/* After a change of programming. */
static void comparator_update(struct comparator *c)
{
    if (c->hpet->config & CONFIG_ENABLE && !timer_armed(&c->timer))
        period_advance(c, counter_read(c->hpet)); /* nobody has moved it meanwhile */
    level_update(c);
    arm(c, false);
}

/* ---- registers ---- */

static uint64_t comparator_read(struct comparator *c, unsigned reg)
{
    if (reg == TIMER_CONFIG)
        return (uint64_t)HPET_ROUTES << 32 | TN_PERIODIC_CAP | TN_SIZE_CAP | c->config;
    if (reg != TIMER_COMPARATOR)
        return 0;
    if (c->hpet->config & CONFIG_ENABLE && !timer_armed(&c->timer))
        period_advance(c, counter_read(c->hpet));
    return is_32bit(c) ? (uint32_t)c->value : c->value;
}

static uint64_t register_read(struct hpet *hpet, unsigned reg)
{
    switch (reg) {
    case REG_CAPABILITIES: return TICK_FS << 32 | HPET_BLOCK_ID;
    case REG_CONFIG: return hpet->config;
    case REG_STATUS: return hpet->status;
    case REG_COUNTER: return counter_read(hpet);
    }
    unsigned n = (reg - REG_TIMERS) / TIMER_STRIDE;
    return reg >= REG_TIMERS && n < HPET_TIMERS ? comparator_read(&hpet->comparator[n], reg & (TIMER_STRIDE - 1)) : 0;
}

static uint64_t hpet_read(void *dev, uint64_t offset, unsigned size)
{
    uint64_t value = register_read(dev, (unsigned)offset & ~7u);
    (void)size; /* what leaves the register is cut off: accesses are aligned, or get zeros */
    return value >> (8 * (offset & 7));
}

static void config_write(struct hpet *hpet, uint64_t value)
{
    uint64_t before = hpet->config, now_ns = timer_now_ns(hpet->queue);
    value &= CONFIG_ENABLE | CONFIG_LEGACY;
    if (before & CONFIG_ENABLE && !(value & CONFIG_ENABLE))
        hpet->counter = counter_read(hpet);
    if (value & CONFIG_ENABLE && !(before & CONFIG_ENABLE))
        hpet->start_ns = now_ns;
    hpet->config = value;
    if ((before ^ value) & CONFIG_LEGACY && hpet->lines.legacy != NULL)
        hpet->lines.legacy(hpet->lines.opaque, value & CONFIG_LEGACY);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        comparator_update(&hpet->comparator[i]);
}

static void status_write(struct hpet *hpet, uint64_t value)
{
    hpet->status &= ~value;
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        level_update(&hpet->comparator[i]);
}

static void comparator_value_write(struct comparator *c, uint64_t value, uint64_t mask)
{
    uint64_t merged = (c->value & ~mask) | (value & mask);
    if (!(c->config & TN_PERIODIC) || c->config & TN_SET_VALUE)
        c->value = is_32bit(c) ? (uint32_t)merged : merged;
    if (c->config & TN_PERIODIC) {
        c->period = (c->period & ~mask) | (value & mask);
        if (is_32bit(c))
            c->period = (uint32_t)c->period;
    }
    c->config &= ~TN_SET_VALUE;
    arm(c, false);
}

static void comparator_write(struct comparator *c, unsigned reg, uint64_t value, uint64_t mask)
{
    if (reg == TIMER_COMPARATOR) {
        comparator_value_write(c, value, mask);
        return;
    }
    if (reg != TIMER_CONFIG)
        return;
    mask &= TN_WRITABLE;
    c->config = (uint32_t)((c->config & ~mask) | (value & mask));
    if (is_32bit(c)) {
        c->value = (uint32_t)c->value;
        c->period = (uint32_t)c->period;
    }
    if (!(c->config & TN_LEVEL))
        c->hpet->status &= ~(1ull << c->n);
    comparator_update(c);
}

static void register_write(struct hpet *hpet, unsigned reg, uint64_t value, uint64_t mask)
{
    unsigned n = (reg - REG_TIMERS) / TIMER_STRIDE;
    switch (reg) {
    case REG_CONFIG: config_write(hpet, (hpet->config & ~mask) | (value & mask)); return;
    case REG_STATUS: status_write(hpet, value & mask); return;
    case REG_COUNTER:
        if (!(hpet->config & CONFIG_ENABLE))
            hpet->counter = (hpet->counter & ~mask) | (value & mask);
        return;
    }
    if (reg >= REG_TIMERS && n < HPET_TIMERS)
        comparator_write(&hpet->comparator[n], reg & (TIMER_STRIDE - 1), value, mask);
}

static void hpet_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    unsigned shift = 8 * (unsigned)(offset & 7);
    if (size < 4 || offset % size != 0)
        return;
    uint64_t mask = size == 8 ? UINT64_MAX : (uint64_t)UINT32_MAX << shift;
    register_write(dev, (unsigned)offset & ~7u, value << shift, mask);
}

const struct io_ops hpet_ops = {.read = hpet_read, .write = hpet_write, .name = "HPET"};

/* ---- life ---- */

void hpet_reset(struct hpet *hpet)
{
    config_write(hpet, 0);
    hpet->counter = 0;
    hpet->status = 0;
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct comparator *c = &hpet->comparator[i];
        timer_disarm(&c->timer);
        level_update(c);
        c->config = 0;
        c->value = UINT64_MAX;
        c->period = 0;
    }
}

struct hpet *hpet_create(struct timer_queue *queue, const struct hpet_lines *lines)
{
    struct hpet *hpet = calloc(1, sizeof *hpet);
    if (hpet == NULL)
        return NULL;
    hpet->queue = queue;
    hpet->lines = *lines;
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        hpet->comparator[i].hpet = hpet;
        hpet->comparator[i].n = i;
        timer_init(&hpet->comparator[i].timer, queue, comparator_fired, &hpet->comparator[i]);
    }
    hpet_reset(hpet);
    return hpet;
}

void hpet_destroy(struct hpet *hpet)
{
    if (hpet == NULL)
        return;
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        timer_disarm(&hpet->comparator[i].timer);
    free(hpet);
}
