/* 8042 keyboard controller.
 *
 * Model. One output buffer (OBF) between the guest and three sources: the controller's own answers, the keyboard and
 * the mouse. An answer of the controller is there at once. A byte of a device takes TRANSFER_NS on its wire, and starts
 * when the buffer is free and the device's clock is not inhibited; while it travels, the timer runs. The pause is
 * short, but it is there: a handler that reads port 60h twice must get the same byte twice, and each byte must be a new
 * edge of its interrupt. Commands are carried out in the write, so IBF is never seen set.
 *
 * Translation to scan code set 1 (XLAT in the command byte) happens between the keyboard and the buffer; the F0 of a
 * break becomes the following code's top bit.
 *
 * Invariants. keyboard IRQ = OBF and not AUX_OBF and INT1; mouse IRQ = OBF and AUX_OBF and INT2.
 *
 * Not emulated: the password (none is installed; A5 reads and forgets one), the keylock, the diagnostic dump, the port
 * pins that no PC wires.
 *
 * IBM PS/2 Hardware Interface Technical Reference: "Controller Command Byte", "Controller Commands", "Output Port". */
#include "device/i8042.h"

#include <stdlib.h>

#include "base/check.h"

#define TRANSFER_NS 200000
#define RAM_SIZE 32

enum {
    STATUS_OBF = 0x01,
    STATUS_SYS = 0x04,
    STATUS_A2 = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX_OBF = 0x20,
};

/* The command byte, RAM byte 0. */
enum {
    CB_INT1 = 0x01,
    CB_INT2 = 0x02,
    CB_SYS = 0x04,
    CB_DISABLE1 = 0x10,
    CB_DISABLE2 = 0x20,
    CB_XLAT = 0x40,
    CB_WRITABLE = 0x7f,
};

enum {
    OUT_RESET_N = 0x01,
    OUT_A20 = 0x02,
    OUT_IRQ1 = 0x10,
    OUT_IRQ12 = 0x20,
    OUT_IDLE = 0xc0, /* the keyboard's clock and data lines */
    OUT_LATCHED = 0x0f,
};

enum {
    CMD_READ_RAM = 0x20,  /* .. 3f */
    CMD_WRITE_RAM = 0x60, /* .. 7f */
    CMD_TEST_PASSWORD = 0xa4,
    CMD_LOAD_PASSWORD = 0xa5,
    CMD_DISABLE_AUX = 0xa7,
    CMD_ENABLE_AUX = 0xa8,
    CMD_TEST_AUX = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_TEST_KEYBOARD = 0xab,
    CMD_DISABLE_KEYBOARD = 0xad,
    CMD_ENABLE_KEYBOARD = 0xae,
    CMD_READ_INPUT = 0xc0,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_ECHO_KEYBOARD = 0xd2,
    CMD_ECHO_AUX = 0xd3,
    CMD_WRITE_AUX = 0xd4,
    CMD_DISABLE_A20 = 0xdd,
    CMD_ENABLE_A20 = 0xdf,
    CMD_READ_TEST = 0xe0,
    CMD_PULSE = 0xf0, /* .. ff: bits 3..0 low pulse the output port's */
};

enum { NO_PASSWORD = 0xf1, SELF_TEST_OK = 0x55, INTERFACE_OK = 0x00, INPUT_PORT = 0xa0 };

struct i8042_state {
    uint8_t ram[RAM_SIZE]; /* byte 0 is the command byte */
    uint8_t status;        /* OBF, SYS, A2, AUX_OBF */
    uint8_t data;          /* the output buffer */
    uint8_t answer;        /* the controller's, waiting for the buffer */
    bool answer_waits;
    bool answer_aux;
    uint8_t command;   /* waits for its byte at port 60h; 0: none */
    uint8_t output;    /* the output port's latch: OUT_RESET_N, OUT_A20, bits 2 and 3 */
    bool break_prefix; /* translation has seen F0 */
    bool keyboard_ready;
    bool mouse_ready;
    bool line[2]; /* levels last driven: keyboard, mouse */
};

struct i8042 {
    struct timer_queue *queue;
    struct i8042_lines lines;
    struct timer transfer;
    struct ps2_keyboard *keyboard;
    struct ps2_mouse *mouse;
    struct i8042_state regs;
};

static void drive(bool *was, const struct irq_line *line, bool level)
{
    if (*was == level)
        return;
    *was = level;
    irq_set(line, level);
}

static void update_lines(struct i8042 *kbc)
{
    struct i8042_state *s = &kbc->regs;
    bool full = s->status & STATUS_OBF;
    bool aux = s->status & STATUS_AUX_OBF;
    drive(&s->line[0], &kbc->lines.keyboard, full && !aux && (s->ram[0] & CB_INT1));
    drive(&s->line[1], &kbc->lines.mouse, full && aux && (s->ram[0] & CB_INT2));
}

static bool keyboard_sends(const struct i8042_state *s)
{
    return s->keyboard_ready && !(s->ram[0] & CB_DISABLE1);
}

static bool mouse_sends(const struct i8042_state *s)
{
    return s->mouse_ready && !(s->ram[0] & CB_DISABLE2);
}

static void fill_buffer(struct i8042 *kbc, uint8_t byte, bool aux)
{
    struct i8042_state *s = &kbc->regs;
    s->data = byte;
    s->status = (s->status & ~STATUS_AUX_OBF) | STATUS_OBF | (aux ? STATUS_AUX_OBF : 0);
    update_lines(kbc);
}

/* Puts the controller's answer into a free buffer, or starts a transfer if a device has something for it. */
static void schedule(struct i8042 *kbc)
{
    struct i8042_state *s = &kbc->regs;
    if (!(s->status & STATUS_OBF) && s->answer_waits) {
        s->answer_waits = false;
        fill_buffer(kbc, s->answer, s->answer_aux);
    }
    if ((s->status & STATUS_OBF) || (!keyboard_sends(s) && !mouse_sends(s)))
        timer_disarm(&kbc->transfer);
    else if (!timer_armed(&kbc->transfer))
        timer_arm(&kbc->transfer, timer_now_ns(kbc->queue) + TRANSFER_NS);
}

/* Set 2 to set 1. Returns false for a prefix that is swallowed. */
static bool translate(struct i8042_state *s, uint8_t *byte)
{
    if (!(s->ram[0] & CB_XLAT)) {
        s->break_prefix = false;
        return true;
    }
    if (*byte == 0xf0) {
        s->break_prefix = true;
        return false;
    }
    *byte = ps2_set1_of_set2(*byte) | (s->break_prefix ? 0x80 : 0);
    s->break_prefix = false;
    return true;
}

static void transfer_done(void *opaque)
{
    struct i8042 *kbc = opaque;
    struct i8042_state *s = &kbc->regs;
    uint8_t byte;
    while (keyboard_sends(s) && ps2_keyboard_take(kbc->keyboard, &byte)) {
        if (translate(s, &byte)) {
            fill_buffer(kbc, byte, false);
            break;
        }
    }
    if (!(s->status & STATUS_OBF) && mouse_sends(s) && ps2_mouse_take(kbc->mouse, &byte))
        fill_buffer(kbc, byte, true);
    schedule(kbc);
}

/* `ready` of the two devices. */
static void set_ready(void *opaque, unsigned n, bool level)
{
    struct i8042 *kbc = opaque;
    bool *ready = n == 0 ? &kbc->regs.keyboard_ready : &kbc->regs.mouse_ready;
    if (*ready == level)
        return;
    *ready = level;
    schedule(kbc);
}

static void answer(struct i8042 *kbc, uint8_t byte, bool aux)
{
    struct i8042_state *s = &kbc->regs;
    s->answer = byte;
    s->answer_aux = aux;
    s->answer_waits = true;
    schedule(kbc);
}

static void set_command_byte(struct i8042 *kbc, uint8_t value)
{
    struct i8042_state *s = &kbc->regs;
    s->ram[0] = value & CB_WRITABLE;
    s->status = (s->status & ~STATUS_SYS) | (value & CB_SYS);
    update_lines(kbc);
    schedule(kbc);
}

static void set_output(struct i8042 *kbc, uint8_t value)
{
    struct i8042_state *s = &kbc->regs;
    uint8_t changed = s->output ^ value;
    s->output = value & OUT_LATCHED;
    if (changed & OUT_A20)
        irq_set(&kbc->lines.a20, value & OUT_A20);
    if (!(value & OUT_RESET_N)) {
        s->output |= OUT_RESET_N; /* the reset that follows lets it go */
        irq_set(&kbc->lines.reset, true);
        irq_set(&kbc->lines.reset, false);
    }
}

static uint8_t read_output(const struct i8042_state *s)
{
    bool full = s->status & STATUS_OBF;
    bool aux = s->status & STATUS_AUX_OBF;
    return s->output | OUT_IDLE | (full && !aux ? OUT_IRQ1 : 0) | (full && aux ? OUT_IRQ12 : 0);
}

static void write_command(struct i8042 *kbc, uint8_t value)
{
    struct i8042_state *s = &kbc->regs;
    s->command = 0;
    s->status |= STATUS_A2;
    if ((value & 0xe0) == CMD_READ_RAM) {
        answer(kbc, s->ram[value & 31], false);
        return;
    }
    if ((value & 0xe0) == CMD_WRITE_RAM) {
        s->command = value;
        return;
    }
    if (value >= CMD_PULSE) {
        if (!(value & OUT_RESET_N))
            set_output(kbc, s->output & ~OUT_RESET_N);
        return;
    }
    switch (value) {
    case CMD_TEST_PASSWORD:
        answer(kbc, NO_PASSWORD, false);
        break;
    case CMD_DISABLE_AUX:
        set_command_byte(kbc, s->ram[0] | CB_DISABLE2);
        break;
    case CMD_ENABLE_AUX:
        set_command_byte(kbc, s->ram[0] & ~CB_DISABLE2);
        break;
    case CMD_DISABLE_KEYBOARD:
        set_command_byte(kbc, s->ram[0] | CB_DISABLE1);
        break;
    case CMD_ENABLE_KEYBOARD:
        set_command_byte(kbc, s->ram[0] & ~CB_DISABLE1);
        break;
    case CMD_SELF_TEST:
        set_command_byte(kbc, s->ram[0] | CB_SYS);
        answer(kbc, SELF_TEST_OK, false);
        break;
    case CMD_TEST_AUX:
    case CMD_TEST_KEYBOARD:
        answer(kbc, INTERFACE_OK, false);
        break;
    case CMD_READ_INPUT:
        answer(kbc, INPUT_PORT, false);
        break;
    case CMD_READ_OUTPUT:
        answer(kbc, read_output(s), false);
        break;
    case CMD_READ_TEST:
        answer(kbc, 0x00, false);
        break;
    case CMD_DISABLE_A20:
    case CMD_ENABLE_A20:
        set_output(kbc, (s->output & ~OUT_A20) | (value == CMD_ENABLE_A20 ? OUT_A20 : 0));
        break;
    case CMD_LOAD_PASSWORD:
    case CMD_WRITE_OUTPUT:
    case CMD_ECHO_KEYBOARD:
    case CMD_ECHO_AUX:
    case CMD_WRITE_AUX:
        s->command = value;
        break;
    default:
        break;
    }
}

/* A byte at port 60h: a command's parameter, or for the keyboard. Sending to a device starts its clock again. */
static void write_data(struct i8042 *kbc, uint8_t value)
{
    struct i8042_state *s = &kbc->regs;
    uint8_t command = s->command;
    s->command = 0;
    s->status &= ~STATUS_A2;
    switch (command) {
    case 0:
        s->ram[0] &= ~CB_DISABLE1;
        s->break_prefix = false;
        ps2_keyboard_write(kbc->keyboard, value);
        schedule(kbc);
        break;
    case CMD_WRITE_AUX:
        s->ram[0] &= ~CB_DISABLE2;
        ps2_mouse_write(kbc->mouse, value);
        schedule(kbc);
        break;
    case CMD_WRITE_RAM:
        set_command_byte(kbc, value);
        break;
    case CMD_LOAD_PASSWORD:
        s->command = value != 0 ? CMD_LOAD_PASSWORD : 0; /* up to a zero byte */
        break;
    case CMD_WRITE_OUTPUT:
        set_output(kbc, value);
        break;
    case CMD_ECHO_KEYBOARD:
    case CMD_ECHO_AUX:
        answer(kbc, value, command == CMD_ECHO_AUX);
        break;
    default:
        s->ram[command & 31] = value;
        break;
    }
}

static uint64_t data_read(void *dev, uint64_t offset, unsigned size)
{
    struct i8042 *kbc = dev;
    struct i8042_state *s = &kbc->regs;
    uint8_t value = s->data;
    if (s->status & STATUS_OBF) {
        s->status &= ~(STATUS_OBF | STATUS_AUX_OBF);
        update_lines(kbc);
        schedule(kbc);
    }
    return value;
}

static void data_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    write_data(dev, (uint8_t)value);
}

static uint64_t command_read(void *dev, uint64_t offset, unsigned size)
{
    return ((struct i8042 *)dev)->regs.status | STATUS_UNLOCKED;
}

static void command_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    write_command(dev, (uint8_t)value);
}

const struct io_ops i8042_data_ops = {.read = data_read, .write = data_write, .name = "8042 data"};
const struct io_ops i8042_command_ops = {.read = command_read, .write = command_write, .name = "8042 command"};

void i8042_key(struct i8042 *kbc, unsigned key, bool down)
{
    ps2_keyboard_key(kbc->keyboard, key, down);
}

void i8042_mouse(struct i8042 *kbc, int dx, int dy, int dz, unsigned buttons)
{
    ps2_mouse_move(kbc->mouse, dx, dy, dz, buttons);
}

bool i8042_key_is_behind(const struct i8042 *kbc)
{
    return ps2_keyboard_is_behind(kbc->keyboard);
}

uint8_t i8042_leds(const struct i8042 *kbc)
{
    return ps2_keyboard_leds(kbc->keyboard);
}

/* The registers alone: the lines fall, nothing waits, both interfaces run, A20 passes. */
static void reset_controller(struct i8042 *kbc)
{
    struct i8042_state *s = &kbc->regs;
    timer_disarm(&kbc->transfer);
    drive(&s->line[0], &kbc->lines.keyboard, false);
    drive(&s->line[1], &kbc->lines.mouse, false);
    *s = (struct i8042_state){.output = OUT_LATCHED, .ram = {CB_INT1 | CB_XLAT}};
    irq_set(&kbc->lines.a20, true);
}

struct i8042 *i8042_create(struct timer_queue *queue, const struct i8042_lines *lines)
{
    struct i8042 *kbc = calloc(1, sizeof(*kbc));
    check(kbc != NULL);
    kbc->queue = queue;
    kbc->lines = *lines;
    timer_init(&kbc->transfer, queue, transfer_done, kbc);
    reset_controller(kbc);
    kbc->keyboard = ps2_keyboard_create(queue, (struct irq_line){.set = set_ready, .opaque = kbc, .n = 0});
    kbc->mouse = ps2_mouse_create(queue, (struct irq_line){.set = set_ready, .opaque = kbc, .n = 1});
    return kbc;
}

void i8042_destroy(struct i8042 *kbc)
{
    if (kbc == NULL)
        return;
    ps2_keyboard_destroy(kbc->keyboard);
    ps2_mouse_destroy(kbc->mouse);
    timer_disarm(&kbc->transfer);
    free(kbc);
}

void i8042_reset(struct i8042 *kbc)
{
    reset_controller(kbc);
    ps2_keyboard_reset(kbc->keyboard);
    ps2_mouse_reset(kbc->mouse);
}
