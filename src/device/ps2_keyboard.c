/* PS/2 keyboard.
 *
 * Model. A key is an index: bits 6..0 its make code in set 1, bit 7 set for the keys behind E0. `down` remembers which
 * are held; what a press or a release sends depends on the scan code set in force. Set 1 is the index itself; set 2 is
 * the inverse of the controller's translation table, so that a key always means the same whichever of the two
 * translates; set 3 has its own table and a type for each of its codes (typematic, make/break, make only).
 *
 * The key pressed last repeats, after the typematic delay and at the typematic rate, until it is released or another is
 * pressed: that is the keyboard's work, so repeats that come from the host are ignored.
 *
 * The queue keeps 16 bytes. A sequence that does not fit is dropped whole and leaves one overrun code behind.
 *
 * Not emulated: the shift sequences around the grey keys under Num Lock or Shift (set 1 and 2), which drivers skip; the
 * length of the power-on test, whose AA is ready with the acknowledge.
 *
 * IBM PS/2 Hardware Interface Technical Reference, Keyboards: "Commands from the System", "Scan Codes". */
#include "device/ps2_keyboard.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/types.h"
#include "device/ps2.h"

enum {
    KEYS = 256,
    EXTENDED = 0x80,
    KEY_LCTRL = 0x1d,
    KEY_LSHIFT = 0x2a,
    KEY_RSHIFT = 0x36,
    KEY_LALT = 0x38,
    KEY_PRINT_SCREEN = EXTENDED | 0x37,
    KEY_RCTRL = EXTENDED | 0x1d,
    KEY_RALT = EXTENDED | 0x38,
    KEY_PAUSE = 0, /* an index no other key has */
};

enum {
    KBD_SET_LEDS = 0xed,
    KBD_ECHO = 0xee,
    KBD_SCAN_SET = 0xf0,
    KBD_READ_ID = 0xf2,
    KBD_TYPEMATIC = 0xf3,
    KBD_ENABLE = 0xf4,
    KBD_DEFAULT_DISABLE = 0xf5,
    KBD_SET_DEFAULT = 0xf6,
    KBD_ALL_TYPEMATIC = 0xf7,
    KBD_ALL_MAKE_BREAK = 0xf8,
    KBD_ALL_MAKE = 0xf9,
    KBD_ALL_BOTH = 0xfa,
    KBD_KEY_TYPEMATIC = 0xfb,
    KBD_KEY_MAKE_BREAK = 0xfc,
    KBD_KEY_MAKE = 0xfd,
    KBD_RESEND = 0xfe,
    KBD_RESET = 0xff,
};

enum key_type { TYPE_REPEATS = 1, TYPE_BREAKS = 2 };

#define TYPEMATIC_DEFAULT 0x2b /* 10.9 a second after 500 ms */

struct ps2_keyboard_state {
    struct ps2_queue replies;
    struct ps2_queue events;
    bool overrun; /* the overrun code is the last byte of `events` */
    uint8_t last_sent;
    uint8_t command; /* waits for its parameter; 0: none */
    bool scanning;
    uint8_t set;
    uint8_t leds;
    uint8_t typematic;
    uint8_t repeating; /* index of the key that repeats while the timer is armed */
    uint8_t type[256]; /* set 3: enum key_type bits by scan code */
    uint8_t down[KEYS / 8];
};

struct ps2_keyboard {
    struct timer_queue *queue;
    struct irq_line ready;
    struct timer repeat;
    struct ps2_keyboard_state regs;
};

/* Set 2 to set 1, as the 8042 of the PC translates. Codes from 80h on are their own, but for 83h and 84h. */
static const uint8_t set2_to_set1[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, /* 00 */
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, /* 10 */
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, /* 20 */
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, /* 30 */
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, /* 40 */
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, /* 50 */
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, /* 60 */
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, /* 70 */
};

/* clang-format off */
/* Set 3 by key index; 0: the key sends nothing there. */
static const uint8_t set3[KEYS] = {
    [0x01] = 0x08, [0x02] = 0x16, [0x03] = 0x1e, [0x04] = 0x26, [0x05] = 0x25, [0x06] = 0x2e, [0x07] = 0x36,
    [0x08] = 0x3d, [0x09] = 0x3e, [0x0a] = 0x46, [0x0b] = 0x45, [0x0c] = 0x4e, [0x0d] = 0x55, [0x0e] = 0x66,
    [0x0f] = 0x0d, [0x10] = 0x15, [0x11] = 0x1d, [0x12] = 0x24, [0x13] = 0x2d, [0x14] = 0x2c, [0x15] = 0x35,
    [0x16] = 0x3c, [0x17] = 0x43, [0x18] = 0x44, [0x19] = 0x4d, [0x1a] = 0x54, [0x1b] = 0x5b, [0x1c] = 0x5a,
    [0x1d] = 0x11, [0x1e] = 0x1c, [0x1f] = 0x1b, [0x20] = 0x23, [0x21] = 0x2b, [0x22] = 0x34, [0x23] = 0x33,
    [0x24] = 0x3b, [0x25] = 0x42, [0x26] = 0x4b, [0x27] = 0x4c, [0x28] = 0x52, [0x29] = 0x0e, [0x2a] = 0x12,
    [0x2b] = 0x5c, [0x2c] = 0x1a, [0x2d] = 0x22, [0x2e] = 0x21, [0x2f] = 0x2a, [0x30] = 0x32, [0x31] = 0x31,
    [0x32] = 0x3a, [0x33] = 0x41, [0x34] = 0x49, [0x35] = 0x4a, [0x36] = 0x59, [0x37] = 0x7e, [0x38] = 0x19,
    [0x39] = 0x29, [0x3a] = 0x14, [0x3b] = 0x07, [0x3c] = 0x0f, [0x3d] = 0x17, [0x3e] = 0x1f, [0x3f] = 0x27,
    [0x40] = 0x2f, [0x41] = 0x37, [0x42] = 0x3f, [0x43] = 0x47, [0x44] = 0x4f, [0x45] = 0x76, [0x46] = 0x5f,
    [0x47] = 0x6c, [0x48] = 0x75, [0x49] = 0x7d, [0x4a] = 0x84, [0x4b] = 0x6b, [0x4c] = 0x73, [0x4d] = 0x74,
    [0x4e] = 0x7c, [0x4f] = 0x69, [0x50] = 0x72, [0x51] = 0x7a, [0x52] = 0x70, [0x53] = 0x71, [0x54] = 0x57,
    [0x56] = 0x13, [0x57] = 0x56, [0x58] = 0x5e,
    [EXTENDED | 0x1c] = 0x79, [KEY_RCTRL] = 0x58,       [EXTENDED | 0x35] = 0x77, [KEY_PRINT_SCREEN] = 0x57,
    [KEY_RALT] = 0x39,        [EXTENDED | 0x47] = 0x6e, [EXTENDED | 0x48] = 0x63, [EXTENDED | 0x49] = 0x6f,
    [EXTENDED | 0x4b] = 0x61, [EXTENDED | 0x4d] = 0x6a, [EXTENDED | 0x4f] = 0x65, [EXTENDED | 0x50] = 0x60,
    [EXTENDED | 0x51] = 0x6d, [EXTENDED | 0x52] = 0x67, [EXTENDED | 0x53] = 0x64, [EXTENDED | 0x5b] = 0x8b,
    [EXTENDED | 0x5c] = 0x8c, [EXTENDED | 0x5d] = 0x8d, [KEY_PAUSE] = 0x62,
};
/* clang-format on */

/* Set 3 codes that are not plainly typematic after a reset. */
static const uint8_t make_break_codes[] = {0x11, 0x12, 0x14, 0x19, 0x59};
static const uint8_t make_only_codes[] = {
    0x07, 0x08, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x39, 0x3f, 0x47, 0x4f, 0x56, 0x57,
    0x58, 0x5e, 0x5f, 0x62, 0x65, 0x67, 0x69, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f, 0x70, 0x71,
    0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x79, 0x7a, 0x7d, 0x7e, 0x84, 0x8b, 0x8c, 0x8d,
};

uint8_t ps2_set1_of_set2(uint8_t code)
{
    if (code < 0x80)
        return set2_to_set1[code];
    return code == 0x83 ? 0x41 : code == 0x84 ? 0x54 : code;
}

/* The set 2 code that translates to `code`; F7 and SysRq have theirs above 7fh. */
static uint8_t set2_of_set1(uint8_t code)
{
    if (code == 0x41)
        return 0x83;
    if (code == 0x54)
        return 0x84;
    for (unsigned i = 0; i < ARRAY_LEN(set2_to_set1); i++) {
        if (set2_to_set1[i] == code)
            return (uint8_t)i;
    }
    return 0;
}

static bool held(const struct ps2_keyboard_state *s, unsigned key)
{
    return s->down[key / 8] & 1u << key % 8;
}

static void update(struct ps2_keyboard *keyboard)
{
    irq_set(&keyboard->ready, keyboard->regs.replies.count != 0 || keyboard->regs.events.count != 0);
}

/* Queues a whole sequence, or the overrun code. One place is kept free for it. */
static void send(struct ps2_keyboard *keyboard, const uint8_t *bytes, unsigned n)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    if (s->overrun)
        return;
    if (n + 1 > ps2_queue_room(&s->events)) {
        ps2_queue_put(&s->events, s->set == 1 ? 0xff : 0x00);
        s->overrun = true;
        return;
    }
    for (unsigned i = 0; i < n; i++)
        ps2_queue_put(&s->events, bytes[i]);
}

/* A sequence under construction, in the terms of sets 1 and 2. */
struct sequence {
    uint8_t bytes[10];
    unsigned n;
};

static void add_code(const struct ps2_keyboard_state *s, struct sequence *to, bool extended, uint8_t set1, bool down)
{
    if (extended)
        to->bytes[to->n++] = 0xe0;
    if (s->set == 1) {
        to->bytes[to->n++] = set1 | (down ? 0 : 0x80);
        return;
    }
    if (!down)
        to->bytes[to->n++] = 0xf0;
    to->bytes[to->n++] = set2_of_set1(set1);
}

/* Pause has no break; with Ctrl it is Break, another key. Either way it sends down and up at once. */
static void add_pause(const struct ps2_keyboard_state *s, struct sequence *to)
{
    if (held(s, KEY_LCTRL) || held(s, KEY_RCTRL)) {
        add_code(s, to, true, 0x46, true);
        add_code(s, to, true, 0x46, false);
        return;
    }
    for (unsigned down = 2; down-- > 0;) {
        to->bytes[to->n++] = 0xe1;
        add_code(s, to, false, 0x1d, down);
        add_code(s, to, false, 0x45, down);
    }
}

/* Print Screen is SysRq with Alt, and behind a shift of its own unless one is held. */
static void add_print_screen(const struct ps2_keyboard_state *s, struct sequence *to, bool down)
{
    if (held(s, KEY_LALT) || held(s, KEY_RALT)) {
        add_code(s, to, false, 0x54, down);
        return;
    }
    bool shifted = held(s, KEY_LSHIFT) || held(s, KEY_RSHIFT) || held(s, KEY_LCTRL) || held(s, KEY_RCTRL);
    if (down && !shifted)
        add_code(s, to, true, 0x2a, true);
    add_code(s, to, true, 0x37, down);
    if (!down && !shifted)
        add_code(s, to, true, 0x2a, false);
}

/* Sends what the key sends now. */
static void send_key(struct ps2_keyboard *keyboard, unsigned key, bool down)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    struct sequence to = {.n = 0};
    if (!s->scanning)
        return;
    if (s->set == 3) {
        if (set3[key] == 0 || (!down && !(s->type[set3[key]] & TYPE_BREAKS)))
            return;
        if (!down)
            to.bytes[to.n++] = 0xf0;
        to.bytes[to.n++] = set3[key];
    } else if (key == KEY_PAUSE) {
        if (down)
            add_pause(s, &to);
    } else if (key == KEY_PRINT_SCREEN) {
        add_print_screen(s, &to, down);
    } else {
        add_code(s, &to, key & EXTENDED, key & 0x7f, down);
    }
    if (to.n != 0)
        send(keyboard, to.bytes, to.n);
}

static uint64_t repeat_delay_ns(const struct ps2_keyboard_state *s)
{
    return ((s->typematic >> 5 & 3) + 1) * 250000000ull;
}

/* (8 + A) * 2^B / 240 seconds. */
static uint64_t repeat_period_ns(const struct ps2_keyboard_state *s)
{
    return ((8ull + (s->typematic & 7)) << (s->typematic >> 3 & 3)) * NS_PER_S / 240;
}

static bool repeats(const struct ps2_keyboard_state *s, unsigned key)
{
    if (!s->scanning || key == KEY_PAUSE)
        return false;
    return s->set != 3 || (s->type[set3[key]] & TYPE_REPEATS);
}

static void repeat_fired(void *opaque)
{
    struct ps2_keyboard *keyboard = opaque;
    struct ps2_keyboard_state *s = &keyboard->regs;
    if (!repeats(s, s->repeating))
        return;
    send_key(keyboard, s->repeating, true);
    timer_arm(&keyboard->repeat, timer_now_ns(keyboard->queue) + repeat_period_ns(s));
    update(keyboard);
}

/* The index of a key's name, or -1. */
static int key_index(unsigned key)
{
    if (key == PS2_KEY_PAUSE)
        return KEY_PAUSE;
    unsigned prefix = key >> 8;
    unsigned code = key & 0xff;
    if (code == 0 || code > 0x7f || (prefix != 0 && prefix != 0xe0) || set2_of_set1((uint8_t)code) == 0)
        return -1;
    return (int)(code | (prefix != 0 ? EXTENDED : 0));
}

void ps2_keyboard_key(struct ps2_keyboard *keyboard, unsigned name, bool down)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    int index = key_index(name);
    if (index < 0)
        return;
    unsigned key = (unsigned)index;
    if (held(s, key) == down)
        return;
    s->down[key / 8] ^= 1u << key % 8;
    send_key(keyboard, key, down);
    if (down || s->repeating == key)
        timer_disarm(&keyboard->repeat);
    if (down && repeats(s, key)) {
        s->repeating = (uint8_t)key;
        timer_arm(&keyboard->repeat, timer_now_ns(keyboard->queue) + repeat_delay_ns(s));
    }
    update(keyboard);
}

static void default_types(struct ps2_keyboard_state *s)
{
    memset(s->type, TYPE_REPEATS, sizeof(s->type));
    for (unsigned i = 0; i < ARRAY_LEN(make_break_codes); i++)
        s->type[make_break_codes[i]] = TYPE_BREAKS;
    for (unsigned i = 0; i < ARRAY_LEN(make_only_codes); i++)
        s->type[make_only_codes[i]] = 0;
}

static void set_default(struct ps2_keyboard *keyboard)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    ps2_queue_clear(&s->events);
    s->overrun = false;
    s->typematic = TYPEMATIC_DEFAULT;
    s->set = 2;
    default_types(s);
    timer_disarm(&keyboard->repeat);
}

static void reply(struct ps2_keyboard *keyboard, uint8_t byte)
{
    ps2_queue_put(&keyboard->regs.replies, byte);
}

static void set_all_types(struct ps2_keyboard *keyboard, uint8_t type)
{
    memset(keyboard->regs.type, type, sizeof(keyboard->regs.type));
    reply(keyboard, PS2_ACK);
}

static void write_parameter(struct ps2_keyboard *keyboard, uint8_t command, uint8_t value)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    reply(keyboard, PS2_ACK);
    switch (command) {
    case KBD_SET_LEDS:
        s->leds = value & 7;
        break;
    case KBD_TYPEMATIC:
        s->typematic = value & 0x7f;
        break;
    case KBD_SCAN_SET:
        if (value == 0)
            reply(keyboard, s->set);
        else if (value <= 3)
            s->set = value;
        break;
    default: /* the key type commands take codes until the next command */
        s->type[value] = command == KBD_KEY_TYPEMATIC ? TYPE_REPEATS : command == KBD_KEY_MAKE ? 0 : TYPE_BREAKS;
        s->command = command;
        break;
    }
}

static void write_command(struct ps2_keyboard *keyboard, uint8_t value)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    switch (value) {
    case KBD_SET_LEDS:
    case KBD_SCAN_SET:
    case KBD_TYPEMATIC:
    case KBD_KEY_TYPEMATIC:
    case KBD_KEY_MAKE_BREAK:
    case KBD_KEY_MAKE:
        s->command = value;
        reply(keyboard, PS2_ACK);
        break;
    case KBD_ECHO:
        reply(keyboard, KBD_ECHO);
        break;
    case KBD_READ_ID:
        reply(keyboard, PS2_ACK);
        reply(keyboard, 0xab);
        reply(keyboard, 0x83);
        break;
    case KBD_ENABLE:
        ps2_queue_clear(&s->events);
        s->overrun = false;
        s->scanning = true;
        reply(keyboard, PS2_ACK);
        break;
    case KBD_DEFAULT_DISABLE:
    case KBD_SET_DEFAULT:
        set_default(keyboard);
        s->scanning = value == KBD_SET_DEFAULT;
        reply(keyboard, PS2_ACK);
        break;
    case KBD_ALL_TYPEMATIC:
        set_all_types(keyboard, TYPE_REPEATS);
        break;
    case KBD_ALL_MAKE_BREAK:
        set_all_types(keyboard, TYPE_BREAKS);
        break;
    case KBD_ALL_MAKE:
        set_all_types(keyboard, 0);
        break;
    case KBD_ALL_BOTH:
        set_all_types(keyboard, TYPE_REPEATS | TYPE_BREAKS);
        break;
    case KBD_RESEND:
        reply(keyboard, s->last_sent);
        break;
    case KBD_RESET:
        set_default(keyboard);
        s->leds = 0;
        s->scanning = true;
        reply(keyboard, PS2_ACK);
        reply(keyboard, PS2_BAT_OK);
        break;
    default:
        reply(keyboard, PS2_RESEND);
        break;
    }
}

void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t value)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    uint8_t command = s->command;
    ps2_queue_clear(&s->replies);
    s->command = 0;
    /* A command where a parameter was due takes its place: no parameter is as large. */
    if (command != 0 && value < KBD_SET_LEDS)
        write_parameter(keyboard, command, value);
    else
        write_command(keyboard, value);
    update(keyboard);
}

bool ps2_keyboard_take(struct ps2_keyboard *keyboard, uint8_t *byte)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    bool taken = ps2_queue_take(&s->replies, byte) || ps2_queue_take(&s->events, byte);
    if (taken)
        s->last_sent = *byte;
    if (s->events.count == 0)
        s->overrun = false;
    update(keyboard);
    return taken;
}

bool ps2_keyboard_is_behind(const struct ps2_keyboard *keyboard)
{
    return keyboard->regs.events.count != 0;
}

uint8_t ps2_keyboard_leds(const struct ps2_keyboard *keyboard)
{
    return keyboard->regs.leds;
}

struct ps2_keyboard *ps2_keyboard_create(struct timer_queue *queue, struct irq_line ready)
{
    struct ps2_keyboard *keyboard = calloc(1, sizeof(*keyboard));
    check(keyboard != NULL);
    keyboard->queue = queue;
    keyboard->ready = ready;
    timer_init(&keyboard->repeat, queue, repeat_fired, keyboard);
    ps2_keyboard_reset(keyboard);
    return keyboard;
}

void ps2_keyboard_destroy(struct ps2_keyboard *keyboard)
{
    if (keyboard == NULL)
        return;
    timer_disarm(&keyboard->repeat);
    free(keyboard);
}

/* Power-on. The keys that are held stay held; the AA of the power-on test was read long before the guest starts. */
void ps2_keyboard_reset(struct ps2_keyboard *keyboard)
{
    struct ps2_keyboard_state *s = &keyboard->regs;
    set_default(keyboard);
    ps2_queue_clear(&s->replies);
    s->command = 0;
    s->leds = 0;
    s->scanning = true;
    update(keyboard);
}
