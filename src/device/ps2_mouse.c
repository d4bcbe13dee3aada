/* PS/2 mouse.
 *
 * Model. Movement accumulates in counters; a packet takes out of them what it can say, and the rest stays for the next.
 * In stream mode a packet is made when something changed, the last one has left, and a sample period has passed since;
 * in remote mode the host asks (EB). A command from the host throws away the packet in flight, as the interface does.
 *
 * The wheel appears after the host's knock, three sample rates in a row: 200, 100, 80 makes ID 3 (a fourth byte with
 * the wheel), 200, 200, 80 makes ID 4 (wheel in four bits, and two more buttons).
 *
 * Not emulated: the resolution does not scale the counts, since the host's pointer has no millimetres; the overflow
 * bits stay clear, since nothing overflows.
 *
 * IBM PS/2 Hardware Interface Technical Reference, Auxiliary Device: "Commands", "Data Report". */
#include "device/ps2_mouse.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/types.h"
#include "device/ps2.h"

enum {
    MOUSE_SCALE_1_1 = 0xe6,
    MOUSE_SCALE_2_1 = 0xe7,
    MOUSE_RESOLUTION = 0xe8,
    MOUSE_STATUS = 0xe9,
    MOUSE_STREAM = 0xea,
    MOUSE_READ_DATA = 0xeb,
    MOUSE_RESET_WRAP = 0xec,
    MOUSE_WRAP = 0xee,
    MOUSE_REMOTE = 0xf0,
    MOUSE_READ_ID = 0xf2,
    MOUSE_SAMPLE_RATE = 0xf3,
    MOUSE_ENABLE = 0xf4,
    MOUSE_DISABLE = 0xf5,
    MOUSE_SET_DEFAULT = 0xf6,
    MOUSE_RESEND = 0xfe,
    MOUSE_RESET = 0xff,
};

enum { ID_STANDARD = 0, ID_WHEEL = 3, ID_EXPLORER = 4 };

#define ACCUMULATED_MAX (1 << 20)

struct ps2_mouse_state {
    struct ps2_queue replies;
    struct ps2_queue events;
    uint8_t last_sent;
    uint8_t command; /* waits for its parameter; 0: none */
    bool enabled;
    bool remote;
    bool wrap;
    bool scale_2_1;
    uint8_t resolution;
    uint8_t sample_rate;
    uint8_t id;
    uint8_t rates[2]; /* the two sample rates before the last: the knock */
    uint8_t buttons;
    uint8_t reported; /* the buttons that the host knows of */
    int32_t dx, dy, dz;
    uint64_t next_sample_ns; /* no packet before */
};

struct ps2_mouse {
    struct timer_queue *queue;
    struct irq_line ready;
    struct timer sample;
    struct ps2_mouse_state regs;
};

static void update(struct ps2_mouse *mouse)
{
    irq_set(&mouse->ready, mouse->regs.replies.count != 0 || mouse->regs.events.count != 0);
}

static int clamp(int value, int least, int most)
{
    return value < least ? least : value > most ? most : value;
}

/* 2:1 scaling is this curve, not a factor. */
static int scaled(int counts)
{
    static const uint8_t small[6] = {0, 1, 1, 3, 6, 9};
    int size = abs(counts);
    int curved = size < 6 ? small[size] : 2 * size;
    return counts < 0 ? -curved : curved;
}

/* Takes a packet out of the counters and puts it into `to`. */
static void make_packet(struct ps2_mouse_state *s, struct ps2_queue *to, bool streaming)
{
    bool scale = s->scale_2_1 && streaming;
    int most = scale ? 127 : 255;
    int dx = clamp(s->dx, -most, most);
    int dy = clamp(s->dy, -most, most);
    s->dx -= dx;
    s->dy -= dy;
    if (scale) {
        dx = scaled(dx);
        dy = scaled(dy);
    }
    ps2_queue_put(to, 0x08 | (s->buttons & 7) | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0));
    ps2_queue_put(to, (uint8_t)dx);
    ps2_queue_put(to, (uint8_t)dy);
    if (s->id == ID_STANDARD) {
        s->dz = 0;
    } else {
        int dz = clamp(s->dz, -8, 7);
        s->dz -= dz;
        uint8_t side_buttons = (uint8_t)(s->buttons << 1 & 0x30);
        ps2_queue_put(to, s->id == ID_WHEEL ? (uint8_t)dz : side_buttons | (dz & 15));
    }
    s->reported = s->buttons;
}

static bool changed(const struct ps2_mouse_state *s)
{
    uint8_t visible = s->id == ID_EXPLORER ? 0x1f : 0x07;
    return s->dx != 0 || s->dy != 0 || (s->dz != 0 && s->id != ID_STANDARD) || ((s->buttons ^ s->reported) & visible);
}

/* Makes the next packet of the stream, or arms the timer for when it may be made. */
static void stream(struct ps2_mouse *mouse)
{
    struct ps2_mouse_state *s = &mouse->regs;
    if (!s->enabled || s->remote || s->wrap || s->events.count != 0 || s->command != 0 || !changed(s))
        return;
    uint64_t now_ns = timer_now_ns(mouse->queue);
    if (now_ns < s->next_sample_ns) {
        timer_arm(&mouse->sample, s->next_sample_ns);
        return;
    }
    make_packet(s, &s->events, true);
    s->next_sample_ns = now_ns + NS_PER_S / s->sample_rate;
}

static void sample_fired(void *opaque)
{
    stream(opaque);
    update(opaque);
}

/* Adds within bounds: a host that is never read must not overflow the counter. */
static int32_t accumulate(int32_t total, int more)
{
    return clamp(total + clamp(more, -ACCUMULATED_MAX, ACCUMULATED_MAX), -ACCUMULATED_MAX, ACCUMULATED_MAX);
}

void ps2_mouse_move(struct ps2_mouse *mouse, int dx, int dy, int dz, unsigned buttons)
{
    struct ps2_mouse_state *s = &mouse->regs;
    s->buttons = buttons & 0x1f;
    if (s->enabled || s->remote) {
        s->dx = accumulate(s->dx, dx);
        s->dy = accumulate(s->dy, dy);
        s->dz = accumulate(s->dz, dz);
    }
    stream(mouse);
    update(mouse);
}

static void reply(struct ps2_mouse *mouse, uint8_t byte)
{
    ps2_queue_put(&mouse->regs.replies, byte);
}

static void clear_counters(struct ps2_mouse_state *s)
{
    s->dx = 0;
    s->dy = 0;
    s->dz = 0;
}

static void set_default(struct ps2_mouse *mouse)
{
    struct ps2_mouse_state *s = &mouse->regs;
    s->sample_rate = 100;
    s->resolution = 2;
    s->scale_2_1 = false;
    s->enabled = false;
    s->remote = false;
    s->next_sample_ns = 0;
    clear_counters(s);
    timer_disarm(&mouse->sample);
}

static void power_on(struct ps2_mouse *mouse)
{
    struct ps2_mouse_state *s = &mouse->regs;
    set_default(mouse);
    ps2_queue_clear(&s->events);
    s->wrap = false;
    s->id = ID_STANDARD;
    s->rates[0] = 0;
    s->rates[1] = 0;
    s->reported = s->buttons;
}

static void set_sample_rate(struct ps2_mouse_state *s, uint8_t rate)
{
    if (s->rates[0] == 200 && rate == 80 && s->rates[1] == 100)
        s->id = ID_WHEEL;
    else if (s->rates[0] == 200 && rate == 80 && s->rates[1] == 200)
        s->id = ID_EXPLORER;
    s->rates[0] = s->rates[1];
    s->rates[1] = rate;
    s->sample_rate = rate != 0 ? rate : 100;
}

static void reply_status(struct ps2_mouse *mouse)
{
    struct ps2_mouse_state *s = &mouse->regs;
    uint8_t buttons = (s->buttons & PS2_BUTTON_LEFT ? 4 : 0) | (s->buttons & PS2_BUTTON_MIDDLE ? 2 : 0) |
                      (s->buttons & PS2_BUTTON_RIGHT ? 1 : 0);
    reply(mouse, PS2_ACK);
    reply(mouse, buttons | (s->remote ? 0x40 : 0) | (s->enabled ? 0x20 : 0) | (s->scale_2_1 ? 0x10 : 0));
    reply(mouse, s->resolution);
    reply(mouse, s->sample_rate);
}

static void write_command(struct ps2_mouse *mouse, uint8_t value)
{
    struct ps2_mouse_state *s = &mouse->regs;
    switch (value) {
    case MOUSE_STATUS:
        reply_status(mouse);
        return;
    case MOUSE_READ_DATA:
        reply(mouse, PS2_ACK);
        make_packet(s, &s->replies, false);
        return;
    case MOUSE_READ_ID:
        reply(mouse, PS2_ACK);
        reply(mouse, s->id);
        return;
    case MOUSE_RESEND:
        reply(mouse, s->last_sent);
        return;
    case MOUSE_RESET:
        power_on(mouse);
        reply(mouse, PS2_ACK);
        reply(mouse, PS2_BAT_OK);
        reply(mouse, ID_STANDARD);
        return;
    case MOUSE_SCALE_1_1:
    case MOUSE_SCALE_2_1:
        s->scale_2_1 = value == MOUSE_SCALE_2_1;
        break;
    case MOUSE_RESOLUTION:
    case MOUSE_SAMPLE_RATE:
        s->command = value;
        break;
    case MOUSE_STREAM:
    case MOUSE_REMOTE:
        s->remote = value == MOUSE_REMOTE;
        clear_counters(s);
        break;
    case MOUSE_WRAP:
        s->wrap = true;
        break;
    case MOUSE_RESET_WRAP:
        break; /* outside wrap mode: nothing to leave */
    case MOUSE_ENABLE:
    case MOUSE_DISABLE:
        s->enabled = value == MOUSE_ENABLE;
        clear_counters(s);
        break;
    case MOUSE_SET_DEFAULT:
        set_default(mouse);
        break;
    default:
        reply(mouse, PS2_RESEND);
        return;
    }
    reply(mouse, PS2_ACK);
}

void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t value)
{
    struct ps2_mouse_state *s = &mouse->regs;
    uint8_t command = s->command;
    ps2_queue_clear(&s->replies);
    ps2_queue_clear(&s->events);
    s->command = 0;
    if (s->wrap && value != MOUSE_RESET && value != MOUSE_RESET_WRAP) {
        reply(mouse, value);
    } else if (s->wrap && value == MOUSE_RESET_WRAP) {
        s->wrap = false;
        reply(mouse, PS2_ACK);
    } else if (command == MOUSE_RESOLUTION && value < MOUSE_SCALE_1_1) {
        s->resolution = value & 3;
        reply(mouse, PS2_ACK);
    } else if (command == MOUSE_SAMPLE_RATE && value < MOUSE_SCALE_1_1) {
        set_sample_rate(s, value);
        reply(mouse, PS2_ACK);
    } else {
        write_command(mouse, value);
    }
    stream(mouse);
    update(mouse);
}

bool ps2_mouse_take(struct ps2_mouse *mouse, uint8_t *byte)
{
    struct ps2_mouse_state *s = &mouse->regs;
    bool taken = ps2_queue_take(&s->replies, byte) || ps2_queue_take(&s->events, byte);
    if (taken)
        s->last_sent = *byte;
    stream(mouse);
    update(mouse);
    return taken;
}

struct ps2_mouse *ps2_mouse_create(struct timer_queue *queue, struct irq_line ready)
{
    struct ps2_mouse *mouse = calloc(1, sizeof(*mouse));
    check(mouse != NULL);
    mouse->queue = queue;
    mouse->ready = ready;
    timer_init(&mouse->sample, queue, sample_fired, mouse);
    ps2_mouse_reset(mouse);
    return mouse;
}

void ps2_mouse_destroy(struct ps2_mouse *mouse)
{
    if (mouse == NULL)
        return;
    timer_disarm(&mouse->sample);
    free(mouse);
}

void ps2_mouse_reset(struct ps2_mouse *mouse)
{
    struct ps2_mouse_state *s = &mouse->regs;
    power_on(mouse);
    ps2_queue_clear(&s->replies);
    s->command = 0;
    update(mouse);
}
