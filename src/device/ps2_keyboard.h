/* An enhanced (101/102 key) PS/2 keyboard. Threads: every call under the device lock. Source: IBM PS/2 Hardware
 * Interface Technical Reference, "Keyboard (101- and 102-Key)". */
#ifndef RING3_DEVICE_PS2_KEYBOARD_H
#define RING3_DEVICE_PS2_KEYBOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/irq.h"
#include "base/timer.h"

struct ps2_keyboard;

/* A key's name is its make code in scan code set 1: 01h..7fh, or e0xxh for the keys that send an E0 first. Pause has
 * the name e11dh, Print Screen e037h. */
#define PS2_KEY_PAUSE 0xe11du
#define PS2_KEY_PRINT_SCREEN 0xe037u

/* `ready` follows "has a byte to send". `queue` must outlive the keyboard. */
struct ps2_keyboard *ps2_keyboard_create(struct timer_queue *queue, struct irq_line ready);
void ps2_keyboard_destroy(struct ps2_keyboard *keyboard);
void ps2_keyboard_reset(struct ps2_keyboard *keyboard);

/* A key goes down or up. Unknown names are ignored, and so is a repeated "down": the keyboard itself repeats. */
void ps2_keyboard_key(struct ps2_keyboard *keyboard, unsigned key, bool down);

/* Whether codes of keys wait to be sent: whoever types faster than the guest reads loses what does not fit. */
bool ps2_keyboard_is_behind(const struct ps2_keyboard *keyboard);

/* The wire. write: a byte from the host. take: the next byte for it, false when there is none. */
void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t value);
bool ps2_keyboard_take(struct ps2_keyboard *keyboard, uint8_t *byte);

/* Bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock. */
uint8_t ps2_keyboard_leds(const struct ps2_keyboard *keyboard);

/* The controller's table from set 2 to set 1, for i8042.c and for the keyboard's own inverse of it. */
uint8_t ps2_set1_of_set2(uint8_t code);

#endif
