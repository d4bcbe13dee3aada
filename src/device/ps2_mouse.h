/* A PS/2 mouse with IntelliMouse (wheel) and IntelliMouse Explorer (five buttons) extensions. Threads: every call under
 * the device lock. Source: IBM PS/2 Hardware Interface Technical Reference, "Auxiliary Device"; Microsoft's
 * IntelliMouse notes. */
#ifndef RING3_DEVICE_PS2_MOUSE_H
#define RING3_DEVICE_PS2_MOUSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/irq.h"
#include "base/timer.h"

struct ps2_mouse;

enum ps2_button {
    PS2_BUTTON_LEFT = 0x01,
    PS2_BUTTON_RIGHT = 0x02,
    PS2_BUTTON_MIDDLE = 0x04,
    PS2_BUTTON_SIDE = 0x08,
    PS2_BUTTON_EXTRA = 0x10,
};

/* `ready` follows "has a byte to send". `queue` must outlive the mouse. */
struct ps2_mouse *ps2_mouse_create(struct timer_queue *queue, struct irq_line ready);
void ps2_mouse_destroy(struct ps2_mouse *mouse);
void ps2_mouse_reset(struct ps2_mouse *mouse);

/* The mouse was moved by dx to the right and dy away from the user, in counts; the wheel turned dz notches towards the
 * user; `buttons` (enum ps2_button bits) are down now. */
void ps2_mouse_move(struct ps2_mouse *mouse, int dx, int dy, int dz, unsigned buttons);

/* The wire, as in ps2_keyboard.h. */
void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t value);
bool ps2_mouse_take(struct ps2_mouse *mouse, uint8_t *byte);

#endif
