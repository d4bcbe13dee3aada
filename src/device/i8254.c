/* 8254 programmable interval timer.
 *
 * Model. Time is counted in CLK ticks of 105/88 MHz since the machine was created, an exact fraction of nanoseconds.
 * Nothing runs: a counter remembers the tick at which its counting element was loaded (`origin`) and with what (`n`),
 * and count and OUT are functions of the ticks elapsed since. A count that waits for the end of a period (modes 2 and
 * 3) is applied at `boundary` by sync(), which every look at the counter goes through. A low gate keeps the elapsed
 * ticks in `held` (modes 0 and 4) or the count in `frozen` (modes 2 and 3).
 *
 * Only counter 0 has a timer, for the rising edges of its OUT. The line goes down again together with the next rising
 * edge or a register write: its reader is edge triggered, and half the events are enough.
 *
 * Late hosts. Each run of the timer queue delivers at most one edge. Periodic edges that the host slept over stay due
 * for OWED_MAX_TICKS and are delivered at twice the programmed rate, so that a guest that counts ticks keeps the time;
 * older ones are dropped. Edges closer together than EDGE_MIN_TICKS merge: no guest could serve them.
 *
 * Invariants. n is 1..65536 (BCD: 1..16665, since digits above 9 count as they stand). Ticks are signed: an origin may
 * lie before the machine's creation.
 *
 * Not emulated: sound. A count of 1 in modes 2 and 3, which the data sheet forbids, leaves OUT high. Reading port 43h
 * gives ones. The first tick after a write loads the count, as on silicon; the sub-tick phase is that of the clock.
 *
 * Intel 82C54 data sheet: "Control Word Format", "Read Operations", "Mode Definitions"; PIIX3: NMISC (61h). */
#include "device/i8254.h"

#include <stdlib.h>

#include "base/check.h"
#include "device/io_bytes.h"

#define COUNTERS 3
#define EDGE_MIN_TICKS 12            /* 10 microseconds */
#define OWED_MAX_TICKS (1193182 / 2) /* half a second */
#define REFRESH_TOGGLE_NS 15085

enum { RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH };

enum {
    CONTROL_BCD = 0x01,
    READBACK_NO_STATUS = 0x10,
    READBACK_NO_COUNT = 0x20,
    STATUS_NULL = 0x40,
    STATUS_OUT = 0x80,
    PORT61_GATE2 = 0x01,
    PORT61_WRITABLE = 0x0f, /* gate, speaker data, PERR# and IOCHK# enables */
    PORT61_REFRESH = 0x10,
    PORT61_OUT2 = 0x20,
};

enum pit_mode {
    TERMINAL_COUNT,
    ONE_SHOT,
    RATE_GENERATOR,
    SQUARE_WAVE,
    SOFTWARE_STROBE,
    HARDWARE_STROBE,
};

struct counter {
    uint8_t control; /* bits 5..0 as written */
    uint8_t mode;    /* enum pit_mode */
    bool gate;

    bool cr_written; /* a count was written since the control word */
    bool cr_pending; /* ... and waits for `boundary` or a trigger */
    bool write_high; /* RW_BOTH: the second byte comes next */
    uint8_t cr_low;
    int32_t cr;

    bool loaded;     /* origin and n are valid */
    bool held_valid; /* the gate is low: `held` ticks had elapsed */
    bool low_before; /* mode 1: OUT is low until origin too (a retrigger) */
    int32_t n;
    int64_t origin;
    int64_t held;
    int64_t boundary;
    int32_t frozen; /* the count shown while none is loaded */

    bool read_high;  /* RW_BOTH: an unlatched read gives the high byte next */
    uint8_t latched; /* bytes of `latch` still to be read, low one first when 2 */
    uint16_t latch;
    bool status_latched;
    uint8_t status;
};

struct i8254_state {
    struct counter counter[COUNTERS];
    uint8_t port61;
    bool line;         /* the level last driven */
    int64_t last_rise; /* tick of the last rising edge of OUT0 that was delivered */
    int64_t last_fire; /* tick at which that happened */
};

struct i8254 {
    struct timer_queue *queue;
    struct irq_line out0;
    struct timer timer;
    struct i8254_state regs;
};

static int64_t now_tick(const struct i8254 *pit)
{
    return (int64_t)((unsigned __int128)timer_now_ns(pit->queue) * 105 / 88000);
}

/* The first nanosecond of a tick. */
static uint64_t tick_ns(int64_t tick)
{
    return tick <= 0 ? 0 : (uint64_t)(((unsigned __int128)tick * 88000 + 104) / 105);
}

static bool periodic(const struct counter *c)
{
    return c->mode == RATE_GENERATOR || c->mode == SQUARE_WAVE;
}

static bool triggered(const struct counter *c)
{
    return c->mode == ONE_SHOT || c->mode == HARDWARE_STROBE;
}

/* Ticks of a square wave's high half. */
static int32_t high_half(int32_t n)
{
    return (n + 1) / 2;
}

/* Applies a count that waited for the end of a period (mode 2) or of a half (mode 3). */
static void sync_counter(struct i8254 *pit, unsigned which, int64_t tick)
{
    struct counter *c = &pit->regs.counter[which];
    if (!c->cr_pending || !c->loaded || !periodic(c) || tick < c->boundary)
        return;
    bool after_high = c->mode == SQUARE_WAVE && c->n > 1 && (c->boundary - c->origin) % c->n != 0;
    c->n = c->cr;
    c->origin = after_high ? c->boundary - high_half(c->n) : c->boundary;
    c->cr_pending = false;
    if (which == 0 && after_high && pit->regs.last_rise < c->origin)
        pit->regs.last_rise = c->origin; /* no edge there: OUT was high already */
}

static int64_t elapsed(const struct counter *c, int64_t tick)
{
    return c->held_valid ? c->held : tick - c->origin;
}

static bool counter_out(const struct counter *c, int64_t tick)
{
    if (!c->loaded)
        return c->mode != TERMINAL_COUNT;
    int64_t e = elapsed(c, tick);
    switch (c->mode) {
    case TERMINAL_COUNT:
        return e >= c->n;
    case ONE_SHOT:
        return e < 0 ? !c->low_before : e >= c->n;
    case RATE_GENERATOR:
        return e < 0 || c->n == 1 || e % c->n != c->n - 1;
    case SQUARE_WAVE:
        return e < 0 || e % c->n < high_half(c->n);
    default:
        return e != c->n;
    }
}

static uint16_t to_digits(const struct counter *c, int64_t count)
{
    if (!(c->control & CONTROL_BCD))
        return (uint16_t)count;
    unsigned v = (unsigned)(count % 10000);
    return (uint16_t)(v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

/* The counting element's value, 0..65536 (or 16665). */
static int64_t counting_element(const struct counter *c, int64_t tick)
{
    int64_t e = elapsed(c, tick);
    if (!c->loaded || e < 0)
        return c->frozen;
    if (c->mode == RATE_GENERATOR)
        return c->n - e % c->n;
    if (c->mode == SQUARE_WAVE) {
        int64_t phase = e % c->n;
        int64_t in_half = phase < high_half(c->n) ? phase : phase - high_half(c->n);
        return (c->n & ~1) - 2 * in_half;
    }
    int64_t modulus = c->control & CONTROL_BCD ? 10000 : 65536;
    int64_t rest = (c->n - e) % modulus;
    return rest < 0 ? rest + modulus : rest;
}

static void freeze(struct counter *c, int64_t tick)
{
    c->frozen = (int32_t)counting_element(c, tick);
    c->loaded = false;
    c->held_valid = false;
}

/* The next CLK moves CR into the counting element. */
static void load(struct counter *c, int64_t tick)
{
    bool was_low = c->mode == ONE_SHOT && c->loaded && !counter_out(c, tick);
    c->frozen = (int32_t)counting_element(c, tick);
    c->n = c->cr;
    c->origin = tick + 1;
    c->loaded = true;
    c->held = 0;
    c->low_before = was_low;
    c->cr_pending = false;
    c->held_valid = !c->gate && (c->mode == TERMINAL_COUNT || c->mode == SOFTWARE_STROBE);
}

static void count_written(struct counter *c, int32_t raw, int64_t tick)
{
    int32_t count = raw;
    if (c->control & CONTROL_BCD)
        count = (raw >> 12) * 1000 + (raw >> 8 & 15) * 100 + (raw >> 4 & 15) * 10 + (raw & 15);
    if (count == 0)
        count = c->control & CONTROL_BCD ? 10000 : 65536;
    c->cr = count;
    c->cr_written = true;

    if (triggered(c)) {
        c->cr_pending = true;
    } else if (!periodic(c)) {
        load(c, tick);
    } else if (!c->gate) {
        c->frozen = count; /* loaded, and loaded again by the gate's rise */
        c->loaded = false;
    } else if (!c->loaded || tick < c->origin) {
        load(c, tick);
    } else if (!c->cr_pending) {
        int64_t phase = (tick - c->origin) % c->n;
        int64_t left = c->n - phase;
        if (c->mode == SQUARE_WAVE && phase < high_half(c->n))
            left = high_half(c->n) - phase;
        c->boundary = tick + left;
        c->cr_pending = true;
    }
}

static void write_count(struct counter *c, uint8_t value, int64_t tick)
{
    switch (c->control >> 4 & 3) {
    case RW_LOW:
        count_written(c, value, tick);
        break;
    case RW_HIGH:
        count_written(c, value << 8, tick);
        break;
    case RW_BOTH:
        if (c->write_high) {
            c->write_high = false;
            count_written(c, value << 8 | c->cr_low, tick);
        } else {
            c->cr_low = value;
            c->write_high = true;
            if (c->mode == TERMINAL_COUNT)
                freeze(c, tick); /* counting stops and OUT goes low until the second byte */
        }
        break;
    default:
        break; /* no control word was ever written */
    }
}

static void set_gate(struct counter *c, bool gate, int64_t tick)
{
    if (gate == c->gate)
        return;
    c->gate = gate;
    if (triggered(c)) {
        if (gate && c->cr_written)
            load(c, tick);
    } else if (periodic(c)) {
        if (!gate)
            freeze(c, tick);
        else if (c->cr_written)
            load(c, tick);
    } else if (c->loaded && gate) {
        c->origin = tick - c->held;
        c->held_valid = false;
    } else if (c->loaded) {
        c->held = tick < c->origin ? 0 : tick - c->origin;
        c->held_valid = true;
    }
}

static void latch_count(struct counter *c, int64_t tick)
{
    if (c->latched != 0)
        return;
    unsigned rw = c->control >> 4 & 3;
    c->latch = to_digits(c, counting_element(c, tick));
    c->latched = rw == RW_BOTH ? 2 : 1;
    if (rw == RW_HIGH)
        c->latch >>= 8;
}

static void latch_status(struct counter *c, int64_t tick)
{
    if (c->status_latched)
        return;
    bool null_count = c->cr_pending || !c->cr_written || (c->loaded && !c->held_valid && tick < c->origin);
    c->status = c->control | (null_count ? STATUS_NULL : 0) | (counter_out(c, tick) ? STATUS_OUT : 0);
    c->status_latched = true;
}

static void write_control(struct counter *c, uint8_t value, int64_t tick)
{
    freeze(c, tick);
    c->control = value & 0x3f;
    c->mode = value >> 1 & 7;
    if (c->mode > HARDWARE_STROBE)
        c->mode &= 3; /* 6 and 7 are 2 and 3 */
    c->cr_written = false;
    c->cr_pending = false;
    c->write_high = false;
    c->read_high = false;
    c->latched = 0;
    c->status_latched = false;
}

static uint8_t read_count(struct counter *c, int64_t tick)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latched != 0) {
        uint8_t byte = (uint8_t)c->latch;
        c->latch >>= 8;
        c->latched--;
        return byte;
    }
    uint16_t count = to_digits(c, counting_element(c, tick));
    unsigned rw = c->control >> 4 & 3;
    bool high = rw == RW_HIGH || (rw == RW_BOTH && c->read_high);
    if (rw == RW_BOTH)
        c->read_high = !c->read_high;
    return (uint8_t)(high ? count >> 8 : count);
}

/* Tick of the first rising edge of OUT0 after `after`, or INT64_MAX. */
static int64_t next_rise(const struct counter *c, int64_t after)
{
    if (!c->loaded || c->held_valid)
        return INT64_MAX;
    if (periodic(c)) {
        if (c->n == 1)
            return INT64_MAX;
        return after < c->origin ? c->origin : c->origin + ((after - c->origin) / c->n + 1) * c->n;
    }
    int64_t rise = c->origin + c->n + (c->mode == SOFTWARE_STROBE || c->mode == HARDWARE_STROBE);
    return rise > after ? rise : INT64_MAX;
}

static void arm(struct i8254 *pit, int64_t not_before)
{
    const struct counter *c = &pit->regs.counter[0];
    int64_t at = next_rise(c, pit->regs.last_rise);
    if (at < not_before)
        at = not_before;
    if (c->cr_pending && c->loaded && periodic(c) && c->boundary < at)
        at = c->boundary; /* the schedule after it is another one */
    timer_arm(&pit->timer, at == INT64_MAX ? TIMER_NEVER : tick_ns(at));
}

static void drive(struct i8254 *pit, bool level)
{
    if (level == pit->regs.line)
        return;
    pit->regs.line = level;
    irq_set(&pit->out0, level);
}

/* Passes one rising edge on and decides when the next is to be delivered. */
static void timer_fired(void *opaque)
{
    struct i8254 *pit = opaque;
    struct i8254_state *s = &pit->regs;
    struct counter *c = &s->counter[0];
    int64_t now = now_tick(pit);

    sync_counter(pit, 0, now);
    int64_t rise = next_rise(c, s->last_rise);
    if (rise > now) {
        arm(pit, 0);
        return;
    }
    drive(pit, false);
    drive(pit, true);
    s->last_rise = rise;
    s->last_fire = now;
    if (!periodic(c)) {
        arm(pit, 0);
        return;
    }
    int64_t oldest = c->n < EDGE_MIN_TICKS ? now : now - OWED_MAX_TICKS;
    if (s->last_rise < oldest)
        s->last_rise += (oldest - s->last_rise) / c->n * c->n;
    bool owed = next_rise(c, s->last_rise) <= now;
    int64_t spacing = owed ? c->n / 2 : 0;
    arm(pit, now + (spacing < EDGE_MIN_TICKS ? EDGE_MIN_TICKS : spacing));
}

/* After a write to counter 0: the line follows OUT, and what was owed under the old programming is forgotten. */
static void reschedule(struct i8254 *pit, int64_t tick)
{
    struct i8254_state *s = &pit->regs;
    const struct counter *c = &s->counter[0];
    drive(pit, counter_out(c, tick));
    s->last_rise = c->loaded && c->origin > tick ? c->origin : tick;
    int64_t earliest = s->last_fire + EDGE_MIN_TICKS;
    arm(pit, earliest > tick ? earliest : 0);
}

static void read_back(struct i8254 *pit, uint8_t value, int64_t tick)
{
    for (unsigned i = 0; i < COUNTERS; i++) {
        struct counter *c = &pit->regs.counter[i];
        if (!(value & 2u << i))
            continue;
        sync_counter(pit, i, tick);
        if (!(value & READBACK_NO_COUNT))
            latch_count(c, tick);
        if (!(value & READBACK_NO_STATUS))
            latch_status(c, tick);
    }
}

static void write_byte(void *dev, unsigned offset, uint8_t value)
{
    struct i8254 *pit = dev;
    int64_t tick = now_tick(pit);
    unsigned which = (offset & 3) < COUNTERS ? offset & 3 : value >> 6;
    if (which == 3) {
        read_back(pit, value, tick);
        return;
    }
    struct counter *c = &pit->regs.counter[which];
    if (which == 0 && timer_armed(&pit->timer) && pit->timer.deadline_ns <= timer_now_ns(pit->queue))
        timer_fired(pit); /* what is due under the old programming comes first */
    sync_counter(pit, which, tick);
    if ((offset & 3) < COUNTERS) {
        write_count(c, value, tick);
    } else if ((value >> 4 & 3) == RW_LATCH) {
        latch_count(c, tick);
        return;
    } else {
        write_control(c, value, tick);
    }
    if (which == 0)
        reschedule(pit, tick);
}

static uint8_t read_byte(void *dev, unsigned offset)
{
    struct i8254 *pit = dev;
    int64_t tick = now_tick(pit);
    if ((offset & 3) == COUNTERS)
        return 0xff;
    struct counter *c = &pit->regs.counter[offset & 3];
    sync_counter(pit, offset & 3, tick);
    return read_count(c, tick);
}

static uint64_t i8254_read(void *dev, uint64_t offset, unsigned size)
{
    return io_read_bytes(dev, offset, size, read_byte);
}

static void i8254_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    io_write_bytes(dev, offset, size, value, write_byte);
}

static uint64_t port61_read(void *dev, uint64_t offset, unsigned size)
{
    struct i8254 *pit = dev;
    struct counter *c = &pit->regs.counter[2];
    int64_t tick = now_tick(pit);
    sync_counter(pit, 2, tick);
    uint64_t value = pit->regs.port61;
    if (timer_now_ns(pit->queue) / REFRESH_TOGGLE_NS & 1)
        value |= PORT61_REFRESH;
    if (counter_out(c, tick))
        value |= PORT61_OUT2;
    return value;
}

static void port61_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8254 *pit = dev;
    struct counter *c = &pit->regs.counter[2];
    int64_t tick = now_tick(pit);
    pit->regs.port61 = value & PORT61_WRITABLE;
    sync_counter(pit, 2, tick);
    set_gate(c, value & PORT61_GATE2, tick);
}

const struct io_ops i8254_ops = {.read = i8254_read, .write = i8254_write, .name = "8254"};
const struct io_ops i8254_port61_ops = {.read = port61_read, .write = port61_write, .name = "port 61h"};

struct i8254 *i8254_create(struct timer_queue *queue, struct irq_line out0)
{
    struct i8254 *pit = calloc(1, sizeof(*pit));
    check(pit != NULL);
    pit->queue = queue;
    pit->out0 = out0;
    timer_init(&pit->timer, queue, timer_fired, pit);
    i8254_reset(pit);
    return pit;
}

void i8254_destroy(struct i8254 *pit)
{
    if (pit == NULL)
        return;
    timer_disarm(&pit->timer);
    free(pit);
}

/* The data sheet leaves the power-on state open; the counters stand still in mode 0 until they are programmed. */
void i8254_reset(struct i8254 *pit)
{
    struct i8254_state *s = &pit->regs;
    timer_disarm(&pit->timer);
    drive(pit, false);
    *s = (struct i8254_state){.last_fire = -EDGE_MIN_TICKS};
    for (unsigned i = 0; i < COUNTERS; i++)
        s->counter[i].gate = i != 2;
}
