/* MC146818 real-time clock and CMOS RAM.
 *
 * Model. Nothing ticks: the second now is `base_s` plus the whole seconds since `phase_ns` on the guest's clock, and
 * the time registers are made from it when they are read. While the clock stands still (SET in register B, or the
 * divider held in reset by register A) the time registers are plain bytes in `ram`, and when it starts again they
 * become the new base. So a guest that sets the clock moves its own offset and nothing else.
 *
 * The flags of register C are brought up to date (sync) whenever anybody looks: each of PF, AF and UF is set if its
 * event lies between the last sync and now. A timer is armed only for the next event that would raise the interrupt
 * line; while the line is up nothing can change it, so it sleeps until register C is read. That is how the chip
 * behaves, and it bounds the work a guest can cause.
 *
 * Late hosts. Periodic interrupts that passed while the host slept are owed, for at most half a second's worth, and
 * each read of register C brings the next after half a period: guests keep time by counting them.
 *
 * The update cycle ends on the second; UIP is up for the 244 + 1984 microseconds before it.
 *
 * Not emulated: daylight saving (DSE is a plain bit), the SQW pin, other crystals than 32.768 kHz (every divider
 * setting but reset runs). Changing DM or 24/12 while the clock runs converts the time registers, where the chip would
 * want them initialised. The NMI mask, bit 7 of port 70h, has nothing to mask; port 70h reads back what was written,
 * which the PIIX allows through an alias only.
 *
 * MC146818A data sheet: "Time, Calendar and Alarm Locations", "Interrupts", "Divider Stages", "Update Cycle". */
#include "device/mc146818.h"

#include <stdlib.h>

#include "base/check.h"
#include "device/io_bytes.h"

#define RAM_SIZE 256
#define TICKS_PER_S 32768
#define UPDATE_CYCLE_NS 2228000
#define HALF_SECOND_NS 500000000
#define SECONDS_PER_DAY 86400

enum {
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_DAY_OF_WEEK,
    RTC_DAY,
    RTC_MONTH,
    RTC_YEAR,
    RTC_A,
    RTC_B,
    RTC_C,
    RTC_D,
    RTC_CENTURY = 0x32,
};

enum {
    A_UIP = 0x80,
    A_DV_RESET = 0x60, /* both bits */
    A_RS = 0x0f,
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_SQWE = 0x08,
    B_DM = 0x04, /* 1: binary */
    B_24 = 0x02,
    C_IRQF = 0x80,
    C_PF = 0x40,
    C_AF = 0x20,
    C_UF = 0x10,
    D_VRT = 0x80,
    HOUR_PM = 0x80,
    ALARM_ANY = 0xc0,
};

struct mc146818_state {
    uint8_t ram[RAM_SIZE]; /* the time bytes are valid while the clock stands still, registers A and B always */
    uint8_t index[2];
    uint8_t flags; /* PF, AF, UF */
    bool line;
    int64_t base_s;        /* the second that began at phase_ns */
    int64_t phase_ns;      /* may lie before the machine was created */
    uint8_t weekday_shift; /* the guest's day of week less the calendar's */
    uint64_t synced_ns;    /* flags are right up to here */
    uint32_t owed;         /* periodic interrupts that the host slept over */
    uint64_t owed_due_ns;  /* when the next of them is delivered; TIMER_NEVER: not before register C is read */
};

struct mc146818 {
    struct timer_queue *queue;
    struct irq_line irq;
    struct timer timer;
    struct mc146818_state regs;
};

struct calendar {
    int64_t year; /* of the common era */
    int month, day, hour, minute, second;
};

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar, by counting years from March. */
static int64_t days_of_date(int64_t year, int month, int day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int from_march = month <= 2 ? month + 9 : month - 3;
    return 365 * y + y / 4 - y / 100 + y / 400 + (153 * from_march + 2) / 5 + day - 1 - 719468;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static struct calendar calendar_of(int64_t epoch_s)
{
    int64_t days = floor_div(epoch_s, SECONDS_PER_DAY);
    int of_day = (int)(epoch_s - days * SECONDS_PER_DAY);
    struct calendar t = {.hour = of_day / 3600, .minute = of_day / 60 % 60, .second = of_day % 60};
    t.year = 1970 + floor_div(days * 400, 146097);
    while (days_of_date(t.year, 1, 1) > days)
        t.year--;
    while (days_of_date(t.year + 1, 1, 1) <= days)
        t.year++;
    t.month = 12;
    while (days_of_date(t.year, t.month, 1) > days)
        t.month--;
    t.day = (int)(days - days_of_date(t.year, t.month, 1)) + 1;
    return t;
}

static bool running(const struct mc146818_state *s)
{
    return !(s->ram[RTC_B] & B_SET) && (s->ram[RTC_A] & A_DV_RESET) != A_DV_RESET;
}

static int64_t second_at(const struct mc146818_state *s, uint64_t now_ns)
{
    return s->base_s + floor_div((int64_t)now_ns - s->phase_ns, (int64_t)NS_PER_S);
}

static uint8_t encode(const struct mc146818_state *s, int value)
{
    return (uint8_t)(s->ram[RTC_B] & B_DM ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct mc146818_state *s, uint8_t byte)
{
    return s->ram[RTC_B] & B_DM ? byte : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t encode_hour(const struct mc146818_state *s, int hour)
{
    if (s->ram[RTC_B] & B_24)
        return encode(s, hour);
    int twelve = hour % 12 == 0 ? 12 : hour % 12;
    return encode(s, twelve) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct mc146818_state *s, uint8_t byte)
{
    if (s->ram[RTC_B] & B_24)
        return decode(s, byte);
    return decode(s, byte & ~HOUR_PM) % 12 + (byte & HOUR_PM ? 12 : 0);
}

static uint8_t to_bcd(int value)
{
    return (uint8_t)(value / 10 << 4 | value % 10);
}

/* Writes the time that the clock shows into the time bytes. */
static void store_time(struct mc146818_state *s, uint64_t now_ns)
{
    int64_t second = second_at(s, now_ns);
    struct calendar t = calendar_of(second);
    int64_t days = floor_div(second, SECONDS_PER_DAY);
    int64_t century = floor_div(t.year, 100);
    s->ram[RTC_SECONDS] = encode(s, t.second);
    s->ram[RTC_MINUTES] = encode(s, t.minute);
    s->ram[RTC_HOURS] = encode_hour(s, t.hour);
    s->ram[RTC_DAY_OF_WEEK] = encode(s, (int)(((days + 4 + s->weekday_shift) % 7 + 7) % 7) + 1);
    s->ram[RTC_DAY] = encode(s, t.day);
    s->ram[RTC_MONTH] = encode(s, t.month);
    s->ram[RTC_YEAR] = encode(s, (int)(t.year - century * 100));
    s->ram[RTC_CENTURY] = to_bcd((int)(century % 100 + 100) % 100);
}

/* The inverse: the time bytes become the second that begins at phase_ns. Bytes out of range overflow into the next
 * larger unit. */
static void load_time(struct mc146818_state *s, int64_t phase_ns)
{
    uint8_t century = s->ram[RTC_CENTURY];
    int64_t year = ((century >> 4) * 10 + (century & 15)) * 100 + decode(s, s->ram[RTC_YEAR]);
    int month = decode(s, s->ram[RTC_MONTH]) - 1;
    if (month < 0)
        month = 0;
    int64_t days = days_of_date(year + month / 12, month % 12 + 1, 1) + decode(s, s->ram[RTC_DAY]) - 1;
    int weekday = decode(s, s->ram[RTC_DAY_OF_WEEK]) - 1;
    s->base_s = days * SECONDS_PER_DAY + decode_hour(s, s->ram[RTC_HOURS]) * 3600ll +
                decode(s, s->ram[RTC_MINUTES]) * 60ll + decode(s, s->ram[RTC_SECONDS]);
    s->weekday_shift = (uint8_t)((((weekday - 4 - days) % 7) + 7) % 7);
    s->phase_ns = phase_ns;
}

/* Guest time at which second `second` begins. */
static uint64_t second_ns(const struct mc146818_state *s, int64_t second)
{
    int64_t at = s->phase_ns + (second - s->base_s) * (int64_t)NS_PER_S;
    return at < 0 ? 0 : (uint64_t)at;
}

/* Period of PF in ticks of 32.768 kHz, or 0. */
static unsigned period_ticks(const struct mc146818_state *s)
{
    unsigned rs = s->ram[RTC_A] & A_RS;
    if (rs == 0 || (s->ram[RTC_A] & A_DV_RESET) == A_DV_RESET)
        return 0;
    return 1u << (rs <= 2 ? rs + 6 : rs - 1);
}

/* Guest time of the first periodic event after `after_ns`. The divider's phase is the seconds'. */
static uint64_t next_periodic(const struct mc146818_state *s, uint64_t after_ns)
{
    unsigned period = period_ticks(s);
    if (period == 0)
        return TIMER_NEVER;
    /* Counted within the second, where the products stay small; the period divides it. */
    int64_t since = (int64_t)after_ns - s->phase_ns;
    int64_t second_start = s->phase_ns + floor_div(since, (int64_t)NS_PER_S) * (int64_t)NS_PER_S;
    int64_t in_second = (int64_t)after_ns - second_start;
    int64_t k = in_second * TICKS_PER_S / (int64_t)NS_PER_S / period;
    for (;; k++) {
        int64_t at = second_start + (k * period * (int64_t)NS_PER_S + TICKS_PER_S - 1) / TICKS_PER_S;
        if (at > (int64_t)after_ns)
            return (uint64_t)at;
    }
}

static bool alarm_field(const struct mc146818_state *s, unsigned index, int value)
{
    uint8_t byte = s->ram[index];
    if ((byte & ALARM_ANY) == ALARM_ANY)
        return true;
    return (index == RTC_HOURS_ALARM ? encode_hour(s, value) : encode(s, value)) == byte;
}

/* The first second after `second` that matches the alarm bytes, or INT64_MAX. Looks a day ahead, skipping whole hours
 * and minutes that do not match: at most 25 + 120 + 120 steps. */
static int64_t next_alarm(const struct mc146818_state *s, int64_t second)
{
    int64_t end = second + SECONDS_PER_DAY;
    for (int64_t at = second + 1; at <= end;) {
        int of_day = (int)(at - floor_div(at, SECONDS_PER_DAY) * SECONDS_PER_DAY);
        if (!alarm_field(s, RTC_HOURS_ALARM, of_day / 3600))
            at += 3600 - of_day % 3600;
        else if (!alarm_field(s, RTC_MINUTES_ALARM, of_day / 60 % 60))
            at += 60 - of_day % 60;
        else if (!alarm_field(s, RTC_SECONDS_ALARM, of_day % 60))
            at++;
        else
            return at;
    }
    return INT64_MAX;
}

/* Guest time of the first event of `flag` after `after_ns`, or TIMER_NEVER. */
static uint64_t next_event(const struct mc146818_state *s, uint8_t flag, uint64_t after_ns)
{
    if (flag == C_PF)
        return next_periodic(s, after_ns);
    if (!running(s))
        return TIMER_NEVER;
    int64_t second = second_at(s, after_ns);
    int64_t event = flag == C_UF ? second + 1 : next_alarm(s, second);
    return event == INT64_MAX ? TIMER_NEVER : second_ns(s, event);
}

static void update_line(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->regs;
    bool level = s->flags & s->ram[RTC_B] & (B_PIE | B_AIE | B_UIE); /* the bits correspond */
    if (level == s->line)
        return;
    s->line = level;
    irq_set(&rtc->irq, level);
}

static void sync(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->regs;
    uint64_t now_ns = timer_now_ns(rtc->queue);
    static const uint8_t events[] = {C_PF, C_AF, C_UF};
    for (unsigned i = 0; i < ARRAY_LEN(events); i++) {
        if (!(s->flags & events[i]) && next_event(s, events[i], s->synced_ns) <= now_ns)
            s->flags |= events[i];
    }
    if (s->owed_due_ns <= now_ns) {
        s->owed_due_ns = TIMER_NEVER;
        if (!(s->flags & C_PF) && s->owed != 0) {
            s->flags |= C_PF;
            s->owed--;
        }
    }
    s->synced_ns = now_ns;
    update_line(rtc);
}

/* Arms the timer for the next event that would raise the line. After sync(). */
static void arm(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->regs;
    uint64_t at = TIMER_NEVER;
    if (!s->line) {
        static const uint8_t events[] = {C_PF, C_AF, C_UF};
        for (unsigned i = 0; i < ARRAY_LEN(events); i++) {
            if (!(s->ram[RTC_B] & events[i]))
                continue;
            uint64_t event = next_event(s, events[i], s->synced_ns);
            if (event < at)
                at = event;
        }
        if (s->owed_due_ns < at)
            at = s->owed_due_ns;
    }
    timer_arm(&rtc->timer, at);
}

static uint64_t period_ns(const struct mc146818_state *s)
{
    return period_ticks(s) * NS_PER_S / TICKS_PER_S;
}

static void timer_fired(void *opaque)
{
    struct mc146818 *rtc = opaque;
    struct mc146818_state *s = &rtc->regs;
    uint64_t due = next_event(s, C_PF, s->synced_ns);
    uint64_t now_ns = timer_now_ns(rtc->queue);
    uint64_t period = period_ns(s);
    if ((s->ram[RTC_B] & B_PIE) && period != 0 && due <= now_ns) {
        uint64_t missed = s->owed + (now_ns - due) / period;
        uint64_t most = HALF_SECOND_NS / period;
        s->owed = (uint32_t)(missed < most ? missed : most);
    }
    sync(rtc);
    arm(rtc);
}

static void forget_owed(struct mc146818_state *s)
{
    s->owed = 0;
    s->owed_due_ns = TIMER_NEVER;
}

static uint8_t read_c(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->regs;
    uint8_t value = s->flags | (s->line ? C_IRQF : 0);
    s->flags = 0;
    if (s->owed != 0 && (value & C_PF))
        s->owed_due_ns = s->synced_ns + period_ns(s) / 2;
    update_line(rtc);
    return value;
}

static bool update_in_progress(const struct mc146818_state *s, uint64_t now_ns)
{
    if (!running(s))
        return false;
    return second_ns(s, second_at(s, now_ns) + 1) - now_ns <= UPDATE_CYCLE_NS;
}

static bool is_time(unsigned index)
{
    return index == RTC_CENTURY ||
           (index <= RTC_YEAR && index != RTC_SECONDS_ALARM && index != RTC_MINUTES_ALARM && index != RTC_HOURS_ALARM);
}

static uint8_t read_data(struct mc146818 *rtc, unsigned index)
{
    struct mc146818_state *s = &rtc->regs;
    uint8_t value;
    sync(rtc);
    switch (index) {
    case RTC_A:
        value = s->ram[RTC_A] | (update_in_progress(s, s->synced_ns) ? A_UIP : 0);
        break;
    case RTC_C:
        value = read_c(rtc);
        break;
    case RTC_D:
        value = D_VRT;
        break;
    default:
        if (is_time(index) && running(s))
            store_time(s, s->synced_ns);
        value = s->ram[index];
        break;
    }
    arm(rtc);
    return value;
}

/* Registers A and B: the clock may stop or start. */
static void write_control(struct mc146818_state *s, unsigned index, uint8_t value)
{
    bool was_running = running(s);
    bool was_reset = (s->ram[RTC_A] & A_DV_RESET) == A_DV_RESET;
    if (was_running)
        store_time(s, s->synced_ns);
    if (index == RTC_A) {
        if ((s->ram[RTC_A] ^ value) & (A_RS | A_DV_RESET))
            forget_owed(s);
        s->ram[RTC_A] = value & ~A_UIP;
    } else {
        if (value & B_SET)
            value &= ~B_UIE;
        if (!(value & B_PIE))
            forget_owed(s);
        s->ram[RTC_B] = value;
    }
    bool is_reset = (s->ram[RTC_A] & A_DV_RESET) == A_DV_RESET;
    int64_t now_ns = (int64_t)s->synced_ns;
    if (was_reset && !is_reset)
        s->phase_ns = now_ns - HALF_SECOND_NS; /* the first update comes half a second later */
    if (!was_running && running(s)) {
        /* The divider ran on under SET: the seconds keep their phase. */
        load_time(s, s->phase_ns + floor_div(now_ns - s->phase_ns, (int64_t)NS_PER_S) * (int64_t)NS_PER_S);
    }
}

static void write_data(struct mc146818 *rtc, unsigned index, uint8_t value)
{
    struct mc146818_state *s = &rtc->regs;
    sync(rtc);
    if (index == RTC_A || index == RTC_B) {
        write_control(s, index, value);
    } else if (index == RTC_C || index == RTC_D) {
        return;
    } else if (is_time(index) && running(s)) {
        store_time(s, s->synced_ns);
        s->ram[index] = value;
        load_time(s, (int64_t)second_ns(s, second_at(s, s->synced_ns)));
    } else {
        s->ram[index] = value;
    }
    update_line(rtc);
    arm(rtc);
}

static uint8_t read_byte(void *dev, unsigned offset)
{
    struct mc146818 *rtc = dev;
    unsigned bank = offset >> 1 & 1;
    if (!(offset & 1))
        return rtc->regs.index[bank];
    return read_data(rtc, (rtc->regs.index[bank] & 0x7f) | bank << 7);
}

static void write_byte(void *dev, unsigned offset, uint8_t value)
{
    struct mc146818 *rtc = dev;
    unsigned bank = offset >> 1 & 1;
    if (!(offset & 1))
        rtc->regs.index[bank] = value;
    else
        write_data(rtc, (rtc->regs.index[bank] & 0x7f) | bank << 7, value);
}

static uint64_t mc146818_read(void *dev, uint64_t offset, unsigned size)
{
    return io_read_bytes(dev, offset, size, read_byte);
}

static void mc146818_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    io_write_bytes(dev, offset, size, value, write_byte);
}

const struct io_ops mc146818_ops = {.read = mc146818_read, .write = mc146818_write, .name = "MC146818"};

void mc146818_set_cmos(struct mc146818 *rtc, unsigned index, uint8_t value)
{
    check(index > RTC_D && index < RAM_SIZE && index != RTC_CENTURY);
    rtc->regs.ram[index] = value;
}

uint8_t mc146818_cmos(const struct mc146818 *rtc, unsigned index)
{
    check(index > RTC_D && index < RAM_SIZE);
    return rtc->regs.ram[index];
}

int64_t mc146818_epoch_s(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->regs;
    if (running(s))
        return second_at(s, timer_now_ns(rtc->queue));
    struct mc146818_state stopped = *s;
    load_time(&stopped, s->phase_ns);
    return stopped.base_s;
}

struct mc146818 *mc146818_create(struct timer_queue *queue, struct irq_line irq, int64_t epoch_s)
{
    struct mc146818 *rtc = calloc(1, sizeof(*rtc));
    check(rtc != NULL);
    rtc->queue = queue;
    rtc->irq = irq;
    timer_init(&rtc->timer, queue, timer_fired, rtc);
    struct mc146818_state *s = &rtc->regs;
    s->synced_ns = timer_now_ns(queue);
    s->base_s = epoch_s;
    s->phase_ns = (int64_t)s->synced_ns;
    s->owed_due_ns = TIMER_NEVER;
    s->ram[RTC_A] = 0x26; /* 32.768 kHz, 1024 Hz: as the firmware leaves it */
    s->ram[RTC_B] = B_24;
    store_time(s, s->synced_ns);
    return rtc;
}

void mc146818_destroy(struct mc146818 *rtc)
{
    if (rtc == NULL)
        return;
    timer_disarm(&rtc->timer);
    free(rtc);
}

void mc146818_reset(struct mc146818 *rtc)
{
    sync(rtc);
    struct mc146818_state *s = &rtc->regs;
    s->ram[RTC_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    s->flags = 0;
    forget_owed(s);
    update_line(rtc);
    arm(rtc);
}
