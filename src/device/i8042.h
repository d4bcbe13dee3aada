/* The 8042 keyboard controller of the PC, with the keyboard and the mouse that hang on it.
 *
 * Threads: every call under the device lock. Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and
 * Auxiliary Device Controller". */
#ifndef RING3_DEVICE_I8042_H
#define RING3_DEVICE_I8042_H

#include <stdbool.h>
#include <stdint.h>

#include "base/irq.h"
#include "base/timer.h"
#include "device/ps2_keyboard.h"
#include "device/ps2_mouse.h"
#include "memory/memory.h"

struct i8042;

struct i8042_lines {
    struct irq_line keyboard; /* IRQ 1 of a PC: high while a byte from the keyboard or the controller waits */
    struct irq_line mouse;    /* IRQ 12 */
    struct irq_line a20;      /* high: A20 passes; driven when it changes, and by reset (high) */
    struct irq_line reset; /* pulsed high, then low, when the guest asks for a reset. The receiver notes it and resets
                              the machine later, never from within the call. */
};

struct i8042 *i8042_create(struct timer_queue *queue, const struct i8042_lines *lines);
void i8042_destroy(struct i8042 *kbc);
void i8042_reset(struct i8042 *kbc);

/* The user's hands. Keys are named as in ps2_keyboard.h, movement as in ps2_mouse.h. */
void i8042_key(struct i8042 *kbc, unsigned key, bool down);
void i8042_mouse(struct i8042 *kbc, int dx, int dy, int dz, unsigned buttons);

/* Whether the keyboard has more than the guest has read: ps2_keyboard_is_behind(). */
bool i8042_key_is_behind(const struct i8042 *kbc);

/* Bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock. */
uint8_t i8042_leds(const struct i8042 *kbc);

/* One byte each, 60h and 64h. Both take the struct i8042. */
extern const struct io_ops i8042_data_ops;
extern const struct io_ops i8042_command_ops;

#endif
