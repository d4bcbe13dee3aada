/* The keyboard: scan codes from the 8042.
 *
 * A keyboard knows keys, not characters: it sends a number when a key goes down, and the number with bit 7 set when it
 * comes up. Which character that is, and what shift means, is up to the system. The controller translates into the codes
 * of the first PC ("set 1"). Keys that are no characters on their own, and those that announce themselves by E0, are
 * left alone, but for the control key and Enter of the number block.
 *
 * IBM PS/2 Technical Reference, keyboard and auxiliary device controller. */
#include "kernel.h"

#define KBD_DATA 0x60u
#define KBD_STATUS 0x64u
#define STATUS_OUTPUT_FULL 0x01u
#define STATUS_INPUT_FULL 0x02u
#define STATUS_MOUSE 0x20u
#define CMD_READ_CONFIG 0x20u
#define CMD_WRITE_CONFIG 0x60u
#define CONFIG_INTERRUPT 0x01u
#define CONFIG_DISABLED 0x10u
#define CONFIG_TRANSLATE 0x40u
#define TRIES 100000u

#define KEY_UP 0x80u
#define KEY_CTRL 0x1du
#define KEY_SHIFT_LEFT 0x2au
#define KEY_SHIFT_RIGHT 0x36u

static const char plain[] = "\0\0331234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 ";
static const char shifted[] = "\0\033!@#$%^&*()_+\b\tQWERTYUIOP{}\n\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 ";

static bool shift, ctrl;

static bool status_wait(uint8_t bit, uint8_t wanted)
{
    for (unsigned i = 0; i < TRIES; i++)
        if ((in8(KBD_STATUS) & bit) == wanted)
            return true;
    return false; /* there is no controller: the serial line will do */
}

static bool config_read(uint8_t *config)
{
    while (in8(KBD_STATUS) != 0xff && (in8(KBD_STATUS) & STATUS_OUTPUT_FULL))
        in8(KBD_DATA); /* typed before we were here */
    if (!status_wait(STATUS_INPUT_FULL, 0))
        return false;
    out8(KBD_STATUS, CMD_READ_CONFIG);
    if (!status_wait(STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL))
        return false;
    *config = in8(KBD_DATA);
    return true;
}

void keyboard_init(void)
{
    uint8_t config;
    if (!config_read(&config) || !status_wait(STATUS_INPUT_FULL, 0))
        return;
    out8(KBD_STATUS, CMD_WRITE_CONFIG);
    if (!status_wait(STATUS_INPUT_FULL, 0))
        return;
    out8(KBD_DATA, (uint8_t)((config | CONFIG_INTERRUPT | CONFIG_TRANSLATE) & ~CONFIG_DISABLED));
    interrupt_enable(IRQ_KEYBOARD);
}

static void key(uint8_t code)
{
    bool down = !(code & KEY_UP);
    code &= (uint8_t)~KEY_UP;
    if (code == KEY_SHIFT_LEFT || code == KEY_SHIFT_RIGHT)
        shift = down;
    else if (code == KEY_CTRL)
        ctrl = down;
    else if (down && code < sizeof(plain)) {
        char c = (shift ? shifted : plain)[code];
        if (ctrl && c >= 'a' && c <= 'z')
            c = (char)(c - 'a' + 1);
        if (c != 0)
            console_input(c);
    }
}

void keyboard_interrupt(void)
{
    uint8_t status = in8(KBD_STATUS);
    if (!(status & STATUS_OUTPUT_FULL))
        return;
    uint8_t code = in8(KBD_DATA);
    if (!(status & STATUS_MOUSE))
        key(code);
}
