/* The console: screen and keyboard, and the serial line beside them as if it were the same.
 *
 * Output goes to both. Input comes from either and waits in a ring until somebody reads. A reader who finds nothing sleeps,
 * and the interrupt of the next key wakes it: the lecture's second exercise. What a line is, and what backspace means, is
 * not known here: the shell edits its lines itself. */
#include "kernel.h"
#include "privileged.h"

static char ring[256];
static unsigned head, tail; /* written at head, read at tail; they count on for ever */

/* The paravirtual build has the monitor's console instead of a screen. */
void console_init(void)
{
#ifndef PARAVIRTUAL
    screen_init();
#endif
}

bool console_full(void)
{
    return head - tail == sizeof(ring);
}

/* From an interrupt. */
bool console_input(char c)
{
    if (console_full())
        return false;
    ring[head++ % sizeof(ring)] = c;
    wake(ring);
    return true;
}

word console_read(char *bytes, word n)
{
    if (n == 0)
        return 0;
    while (head == tail) {
        if (current->killed)
            return (word)-1;
        sleep_on(ring);
    }
    word done = 0;
    while (done < n && head != tail)
        bytes[done++] = ring[tail++ % sizeof(ring)];
    serial_resume();
    return done;
}

word console_write(const char *bytes, word n)
{
#ifdef PARAVIRTUAL
    paravirtual_write(bytes, n);
#else
    for (word i = 0; i < n; i++) {
        screen_put(bytes[i]);
        serial_put(bytes[i]);
    }
    screen_show_cursor();
#endif
    return n;
}
