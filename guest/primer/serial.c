/* The serial port: a 16550A at COM1.
 *
 * Where there is no screen, and for whoever wants to read along or to type by a script. A character is sent when the
 * transmitter is empty, which has to be asked each time: two port accesses for a character, two traps.
 *
 * The port's queues stay off: to switch them on would empty them, and with them what was typed before we were here.
 *
 * What is received is taken in the interrupt. If nobody reads it and our buffer is full, it stays in the port, whose
 * other end then waits; so that the interrupt does not come again and again it is switched off until there is room.
 *
 * National Semiconductor PC16550D data sheet. */
#include "kernel.h"
#include "privileged.h"

#define COM1 0x3f8u
#define UART_DATA (COM1 + 0)
#define UART_DIVISOR_LOW (COM1 + 0) /* while LCR_DLAB is set */
#define UART_DIVISOR_HIGH (COM1 + 1)
#define UART_IER (COM1 + 1)
#define UART_LCR (COM1 + 3)
#define UART_MCR (COM1 + 4)
#define UART_LSR (COM1 + 5)
#define IER_RECEIVED 0x01u
#define LCR_8N1 0x03u
#define LCR_DLAB 0x80u
#define MCR_DTR_RTS_OUT2 0x0bu
#define LSR_DATA 0x01u
#define LSR_EMPTY 0x20u
#define TRIES 1000000u

static bool stopped;

void serial_init(void)
{
    out8(UART_IER, 0);
    out8(UART_LCR, LCR_DLAB);
    out8(UART_DIVISOR_LOW, 1); /* 115200 */
    out8(UART_DIVISOR_HIGH, 0);
    out8(UART_LCR, LCR_8N1);
    out8(UART_MCR, MCR_DTR_RTS_OUT2);
    out8(UART_IER, IER_RECEIVED);
    interrupt_enable(IRQ_SERIAL);
}

void serial_put(char c)
{
    if (c == '\n')
        serial_put('\r');
    for (unsigned i = 0; i < TRIES && !(in8(UART_LSR) & LSR_EMPTY); i++)
        ;
    out8(UART_DATA, (uint8_t)c);
}

void serial_interrupt(void)
{
    while (!console_full()) {
        if (!(in8(UART_LSR) & LSR_DATA))
            return;
        char c = (char)in8(UART_DATA);
        console_input(c == '\r' ? '\n' : c);
    }
    out8(UART_IER, 0);
    stopped = true;
}

/* There is room again. */
void serial_resume(void)
{
    if (!stopped)
        return;
    stopped = false;
    out8(UART_IER, IER_RECEIVED);
}
