/* 16550A universal asynchronous receiver/transmitter.
 *
 * Model. Two FIFOs of 16 between the guest and a chardev. With FIFOs disabled the same arrays hold one character. INTR
 * is a function of the registers (pending()), recomputed after every change.
 *
 * The transmitter is immediate: a character goes to the chardev in the instruction that wrote it, and THRE is up again
 * before the next one. Pacing to the programmed rate would slow a guest's console to 11 KB/s for nobody's benefit, and
 * every polling driver would pay for the wait in exits. The THRE interrupt still behaves as if the character had
 * taken time: writing THR clears it, and the emptied transmitter raises it again as a new edge, so that drivers that
 * wait for an interrupt per FIFO load get one. THRE stays down only while the chardev takes no more; the rest waits in
 * the transmit FIFO for its `writable`.
 *
 * The receiver is immediate too, up to the FIFO's depth; what does not fit stays in the host until the guest has
 * emptied the FIFO, so nothing is lost that a real line would have lost. Overruns come from loopback alone. The
 * character timeout uses the programmed rate: four character times without traffic on a FIFO that is not empty.
 *
 * Errors travel with their character: PE, FE and BI come up in LSR when it reaches the FIFO's top.
 *
 * MCR's loopback connects the transmitter to the receiver and the modem outputs to the modem inputs; it also takes OUT2
 * from the pin, which on a PC closes the interrupt gate.
 *
 * Not emulated: the DMA mode's pins (FCR bit 3 is accepted), parity and framing of real lines (the backend's business,
 * which gets the parameters).
 *
 * PC16550D data sheet, section 8 "Registers" and 8.x "FIFO Interrupt Mode Operation". */
#include "device/uart16550.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "device/io_bytes.h"

#define FIFO_SIZE 16
#define CLOCK_HZ 1843200ull
#define TIMEOUT_CHARS 4

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum {
    IER_ERBFI = 0x01,
    IER_ETBEI = 0x02,
    IER_ELSI = 0x04,
    IER_EDSSI = 0x08,
    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_DATA = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,
    FCR_ENABLE = 0x01,
    FCR_RESET_RX = 0x02,
    FCR_RESET_TX = 0x04,
    LCR_WLS = 0x03,
    LCR_STB = 0x04,
    LCR_PEN = 0x08,
    LCR_EPS = 0x10,
    LCR_STICK = 0x20,
    LCR_BREAK = 0x40,
    LCR_DLAB = 0x80,
    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    LSR_DR = 0x01,
    LSR_OE = 0x02,
    LSR_PE = 0x04,
    LSR_FE = 0x08,
    LSR_BI = 0x10,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERROR = 0x80,
    LSR_OF_CHARACTER = LSR_PE | LSR_FE | LSR_BI,
    MSR_DCTS = 0x01,
    MSR_DDSR = 0x02,
    MSR_TERI = 0x04,
    MSR_DDCD = 0x08,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

struct uart16550_state {
    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint8_t lsr_errors; /* OE, and the errors of the character on top */
    uint16_t divisor;
    uint8_t rx[FIFO_SIZE];
    uint8_t rx_errors[FIFO_SIZE];
    uint8_t rx_first, rx_count;
    uint8_t last_rx; /* what an empty receiver reads as */
    uint8_t tx[FIFO_SIZE];
    uint8_t tx_count;
    bool thre_interrupt; /* raised and not yet cleared, whether enabled or not */
    bool timeout;
    bool input_refused; /* the backend was told that there is no room */
    bool line;
};

struct uart16550 {
    struct timer_queue *queue;
    struct irq_line line;
    struct chardev *dev;
    struct timer timeout;
    struct uart16550_state regs;
};

static bool fifos(const struct uart16550_state *s)
{
    return s->fcr & FCR_ENABLE;
}

static unsigned depth(const struct uart16550_state *s)
{
    return fifos(s) ? FIFO_SIZE : 1;
}

static unsigned trigger_level(const struct uart16550_state *s)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return fifos(s) ? levels[s->fcr >> 6] : 1;
}

/* The identification of the interrupt of highest priority, IIR bits 3..0. */
static uint8_t pending(const struct uart16550_state *s)
{
    if ((s->ier & IER_ELSI) && s->lsr_errors != 0)
        return IIR_LINE;
    if ((s->ier & IER_ERBFI) && s->rx_count >= trigger_level(s))
        return IIR_DATA;
    if ((s->ier & IER_ERBFI) && s->timeout)
        return IIR_TIMEOUT;
    if ((s->ier & IER_ETBEI) && s->thre_interrupt)
        return IIR_THRE;
    if ((s->ier & IER_EDSSI) && (s->msr & (MSR_DCTS | MSR_DDSR | MSR_TERI | MSR_DDCD)))
        return IIR_MODEM;
    return IIR_NONE;
}

static void update(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    bool gate = (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    bool level = gate && pending(s) != IIR_NONE;
    if (level == s->line)
        return;
    s->line = level;
    irq_set(&uart->line, level);
}

static unsigned bits_of_character(const struct uart16550_state *s)
{
    return 1 + 5 + (s->lcr & LCR_WLS) + (s->lcr & LCR_PEN ? 1 : 0) + (s->lcr & LCR_STB ? 2 : 1);
}

/* Four character times from now, unless the FIFO is empty. */
static void restart_timeout(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    if (!fifos(s) || s->rx_count == 0) {
        timer_disarm(&uart->timeout);
        return;
    }
    uint64_t divisor = s->divisor != 0 ? s->divisor : 65536;
    uint64_t ns = TIMEOUT_CHARS * bits_of_character(s) * 16 * divisor * NS_PER_S / CLOCK_HZ;
    timer_arm(&uart->timeout, timer_now_ns(uart->queue) + ns);
}

static void timeout_fired(void *opaque)
{
    struct uart16550 *uart = opaque;
    uart->regs.timeout = true;
    update(uart);
}

/* The character on top shows its errors. */
static void reveal_errors(struct uart16550_state *s)
{
    if (s->rx_count == 0)
        return;
    s->lsr_errors |= s->rx_errors[s->rx_first];
    s->rx_errors[s->rx_first] = 0;
}

static void push_rx(struct uart16550 *uart, uint8_t byte, uint8_t errors)
{
    struct uart16550_state *s = &uart->regs;
    if (s->rx_count == depth(s)) {
        s->lsr_errors |= LSR_OE;
        if (fifos(s))
            return;      /* lost in the shift register */
        s->rx_count = 0; /* written over */
    }
    unsigned at = (s->rx_first + s->rx_count) % FIFO_SIZE;
    s->rx[at] = byte;
    s->rx_errors[at] = errors;
    s->rx_count++;
    reveal_errors(s);
    restart_timeout(uart);
}

static void clear_rx(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    s->rx_count = 0;
    s->timeout = false;
    memset(s->rx_errors, 0, sizeof(s->rx_errors));
    timer_disarm(&uart->timeout);
}

/* Lets the backend go on, once the guest has emptied what it held back for. */
static void resume_input(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    if (!s->input_refused || s->rx_count != 0 || (s->mcr & MCR_LOOP))
        return;
    s->input_refused = false;
    chardev_accept_input(uart->dev);
}

static uint8_t read_rbr(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    s->timeout = false;
    if (s->rx_count != 0) {
        s->last_rx = s->rx[s->rx_first];
        s->rx_first = (s->rx_first + 1) % FIFO_SIZE;
        s->rx_count--;
        reveal_errors(s);
    }
    uint8_t value = s->last_rx;
    restart_timeout(uart);
    update(uart);
    resume_input(uart);
    return value;
}

/* Moves what the transmitter holds to where it goes, and raises the THRE interrupt when it is empty. */
static void transmit(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    if (s->tx_count == 0)
        return;
    if (s->mcr & MCR_LOOP) {
        for (unsigned i = 0; i < s->tx_count; i++)
            push_rx(uart, s->tx[i], 0);
        s->tx_count = 0;
    } else {
        size_t taken = chardev_write(uart->dev, s->tx, s->tx_count);
        check(taken <= s->tx_count);
        memmove(s->tx, s->tx + taken, s->tx_count - taken);
        s->tx_count -= (uint8_t)taken;
    }
    if (s->tx_count == 0)
        s->thre_interrupt = true;
}

static void write_thr(struct uart16550 *uart, uint8_t value)
{
    struct uart16550_state *s = &uart->regs;
    s->thre_interrupt = false;
    update(uart); /* the line falls, so that the next rise is an edge */
    if (s->tx_count == depth(s))
        s->tx_count--; /* written over */
    static const uint8_t mask[4] = {0x1f, 0x3f, 0x7f, 0xff};
    s->tx[s->tx_count++] = value & mask[s->lcr & LCR_WLS];
    transmit(uart);
    update(uart);
}

static void write_ier(struct uart16550 *uart, uint8_t value)
{
    struct uart16550_state *s = &uart->regs;
    bool enabled = !(s->ier & IER_ETBEI) && (value & IER_ETBEI);
    s->ier = value & 0x0f;
    if (enabled && s->tx_count == 0)
        s->thre_interrupt = true;
    update(uart);
}

static uint8_t read_iir(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    uint8_t id = pending(s);
    if (id == IIR_THRE) {
        s->thre_interrupt = false;
        update(uart);
    }
    return id | (fifos(s) ? IIR_FIFOS : 0);
}

static void write_fcr(struct uart16550 *uart, uint8_t value)
{
    struct uart16550_state *s = &uart->regs;
    bool toggled = (s->fcr ^ value) & FCR_ENABLE;
    if (toggled || (value & (FCR_ENABLE | FCR_RESET_RX)) == (FCR_ENABLE | FCR_RESET_RX))
        clear_rx(uart);
    if ((toggled || (value & (FCR_ENABLE | FCR_RESET_TX)) == (FCR_ENABLE | FCR_RESET_TX)) && s->tx_count != 0) {
        s->tx_count = 0;
        s->thre_interrupt = true;
    }
    s->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
    update(uart);
    resume_input(uart);
}

static void tell_params(struct uart16550 *uart)
{
    const struct uart16550_state *s = &uart->regs;
    char parity = 'N';
    if (s->lcr & LCR_PEN) {
        bool even = s->lcr & LCR_EPS;
        parity = s->lcr & LCR_STICK ? (even ? 'S' : 'M') : (even ? 'E' : 'O');
    }
    struct chardev_params params = {
        .baud = (uint32_t)(CLOCK_HZ / 16 / (s->divisor != 0 ? s->divisor : 65536)),
        .data_bits = 5 + (s->lcr & LCR_WLS),
        .stop_bits = s->lcr & LCR_STB ? 2 : 1,
        .parity = parity,
    };
    chardev_set_params(uart->dev, &params);
}

static void write_lcr(struct uart16550 *uart, uint8_t value)
{
    struct uart16550_state *s = &uart->regs;
    uint8_t changed = s->lcr ^ value;
    s->lcr = value;
    if ((changed & LCR_BREAK) && (s->mcr & MCR_LOOP)) {
        if (value & LCR_BREAK)
            push_rx(uart, 0, LSR_BI);
        update(uart);
    } else if (changed & LCR_BREAK) {
        chardev_set_break(uart->dev, value & LCR_BREAK);
    }
    if (changed & ~(LCR_BREAK | LCR_DLAB))
        tell_params(uart);
}

/* The modem inputs, MSR bits 7..4. Without a line of its own to watch, the far end is always ready to receive. */
static uint8_t modem_inputs(const struct uart16550 *uart)
{
    uint8_t mcr = uart->regs.mcr;
    if (!(mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | (chardev_connected(uart->dev) ? MSR_DCD : 0);
    return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) | (mcr & MCR_OUT1 ? MSR_RI : 0) |
           (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_modem(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    uint8_t now = modem_inputs(uart);
    uint8_t changed = (s->msr ^ now) & 0xf0;
    uint8_t deltas = s->msr & 0x0f;
    deltas |= changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
    if ((changed & MSR_RI) && !(now & MSR_RI))
        deltas |= MSR_TERI;
    s->msr = now | deltas;
    update(uart);
}

static void write_mcr(struct uart16550 *uart, uint8_t value)
{
    struct uart16550_state *s = &uart->regs;
    bool left_loop = (s->mcr & MCR_LOOP) && !(value & MCR_LOOP);
    s->mcr = value & 0x1f;
    transmit(uart); /* what the chardev had not taken goes where the transmitter now leads */
    update_modem(uart);
    if (left_loop)
        resume_input(uart);
}

static uint8_t read_lsr(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    uint8_t value = s->lsr_errors;
    bool errors_behind = false;
    for (unsigned i = 0; i < s->rx_count; i++)
        errors_behind |= s->rx_errors[(s->rx_first + i) % FIFO_SIZE] != 0;
    if (fifos(s) && (errors_behind || (value & LSR_OF_CHARACTER)))
        value |= LSR_FIFO_ERROR;
    if (s->rx_count != 0)
        value |= LSR_DR;
    if (s->tx_count == 0)
        value |= LSR_THRE | LSR_TEMT;
    s->lsr_errors = 0;
    update(uart);
    return value;
}

static uint8_t read_msr(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    uint8_t value = s->msr;
    s->msr &= 0xf0;
    update(uart);
    return value;
}

static uint8_t read_byte(void *dev, unsigned offset)
{
    struct uart16550 *uart = dev;
    const struct uart16550_state *s = &uart->regs;
    bool dlab = s->lcr & LCR_DLAB;
    switch (offset & 7) {
    case REG_DATA:
        return dlab ? (uint8_t)s->divisor : read_rbr(uart);
    case REG_IER:
        return dlab ? (uint8_t)(s->divisor >> 8) : s->ier;
    case REG_IIR_FCR:
        return read_iir(uart);
    case REG_LCR:
        return s->lcr;
    case REG_MCR:
        return s->mcr;
    case REG_LSR:
        return read_lsr(uart);
    case REG_MSR:
        return read_msr(uart);
    default:
        return s->scr;
    }
}

static void write_byte(void *dev, unsigned offset, uint8_t value)
{
    struct uart16550 *uart = dev;
    struct uart16550_state *s = &uart->regs;
    offset &= 7;
    if ((s->lcr & LCR_DLAB) && offset <= REG_IER) {
        unsigned shift = offset == REG_DATA ? 0 : 8;
        s->divisor = (uint16_t)((s->divisor & ~(0xffu << shift)) | (unsigned)value << shift);
        tell_params(uart);
        return;
    }
    switch (offset) {
    case REG_DATA:
        write_thr(uart, value);
        break;
    case REG_IER:
        write_ier(uart, value);
        break;
    case REG_IIR_FCR:
        write_fcr(uart, value);
        break;
    case REG_LCR:
        write_lcr(uart, value);
        break;
    case REG_MCR:
        write_mcr(uart, value);
        break;
    case REG_SCR:
        s->scr = value;
        break;
    default:
        break; /* LSR and MSR: for factory tests only */
    }
}

static uint64_t uart16550_read(void *dev, uint64_t offset, unsigned size)
{
    return io_read_bytes(dev, offset, size, read_byte);
}

static void uart16550_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    io_write_bytes(dev, offset, size, value, write_byte);
}

const struct io_ops uart16550_ops = {.read = uart16550_read, .write = uart16550_write, .name = "16550A"};

static size_t can_receive(void *opaque)
{
    struct uart16550 *uart = opaque;
    struct uart16550_state *s = &uart->regs;
    size_t room = s->mcr & MCR_LOOP ? 0 : depth(s) - s->rx_count;
    s->input_refused = room == 0;
    return room;
}

static void receive(void *opaque, const uint8_t *bytes, size_t n)
{
    struct uart16550 *uart = opaque;
    for (size_t i = 0; i < n; i++)
        push_rx(uart, bytes[i], 0);
    /* A backend need not ask again before it holds back. */
    uart->regs.input_refused |= uart->regs.rx_count == depth(&uart->regs);
    update(uart);
}

static void receive_break(void *opaque)
{
    struct uart16550 *uart = opaque;
    if (uart->regs.mcr & MCR_LOOP)
        return;
    push_rx(uart, 0, LSR_BI);
    update(uart);
}

static void writable(void *opaque)
{
    struct uart16550 *uart = opaque;
    transmit(uart);
    update(uart);
}

static void carrier(void *opaque, bool present)
{
    update_modem(opaque);
}

struct uart16550 *uart16550_create(struct timer_queue *queue, struct irq_line line, struct chardev *dev)
{
    struct uart16550 *uart = calloc(1, sizeof(*uart));
    check(uart != NULL);
    uart->queue = queue;
    uart->line = line;
    uart->dev = dev;
    timer_init(&uart->timeout, queue, timeout_fired, uart);
    uart16550_reset(uart);
    chardev_connect(dev, &(struct chardev_frontend){
                             .can_receive = can_receive,
                             .receive = receive,
                             .receive_break = receive_break,
                             .writable = writable,
                             .carrier = carrier,
                             .opaque = uart,
                         });
    return uart;
}

void uart16550_destroy(struct uart16550 *uart)
{
    if (uart == NULL)
        return;
    chardev_disconnect(uart->dev);
    timer_disarm(&uart->timeout);
    free(uart);
}

/* MR. Unsent characters are lost, as on the chip; input that the backend holds back comes once the guest has room. */
void uart16550_reset(struct uart16550 *uart)
{
    struct uart16550_state *s = &uart->regs;
    bool was_break = s->lcr & LCR_BREAK;
    bool line = s->line;
    bool refused = s->input_refused;
    timer_disarm(&uart->timeout);
    *s = (struct uart16550_state){.divisor = 12, .line = line, .input_refused = refused};
    s->msr = modem_inputs(uart);
    if (was_break)
        chardev_set_break(uart->dev, false);
    update(uart);
    resume_input(uart);
}
