/* The serial port, with a chardev that the test fills and drains. */
#include "device_test.h"

#include "device/uart16550.h"

enum { IRQ };
enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

struct backend {
    struct chardev dev;
    uint8_t sent[64];
    size_t sent_n;
    size_t room;
    uint8_t input[64];
    size_t input_n;
    bool connected;
    bool brk;
    struct chardev_params params;
};

static size_t backend_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct backend *backend = container_of(dev, struct backend, dev);
    size_t taken = n < backend->room ? n : backend->room;
    memcpy(backend->sent + backend->sent_n, bytes, taken);
    backend->sent_n += taken;
    backend->room -= taken;
    return taken;
}

static void backend_feed(struct chardev *dev)
{
    struct backend *backend = container_of(dev, struct backend, dev);
    while (backend->input_n != 0) {
        size_t n = chardev_can_receive(dev);
        if (n == 0)
            return;
        n = n < backend->input_n ? n : backend->input_n;
        uint8_t chunk[64];
        memcpy(chunk, backend->input, n);
        memmove(backend->input, backend->input + n, backend->input_n -= n);
        chardev_receive(dev, chunk, n);
    }
}

static void backend_set_break(struct chardev *dev, bool on)
{
    container_of(dev, struct backend, dev)->brk = on;
}

static void backend_set_params(struct chardev *dev, const struct chardev_params *params)
{
    container_of(dev, struct backend, dev)->params = *params;
}

static bool backend_connected(struct chardev *dev)
{
    return container_of(dev, struct backend, dev)->connected;
}

static const struct chardev_ops backend_ops = {
    .write = backend_write,
    .accept_input = backend_feed,
    .set_break = backend_set_break,
    .set_params = backend_set_params,
    .connected = backend_connected,
    .name = "test",
};

struct fixture {
    struct bench bench;
    struct backend backend;
    struct uart16550 *uart;
};

static uint8_t in(struct fixture *f, unsigned reg)
{
    return (uint8_t)bench_read(&uart16550_ops, f->uart, reg, 1);
}

static void out(struct fixture *f, unsigned reg, uint8_t value)
{
    bench_write(&uart16550_ops, f->uart, reg, 1, value);
}

static void start(struct fixture *f)
{
    bench_init(&f->bench);
    f->backend = (struct backend){.dev.ops = &backend_ops, .room = 1000, .connected = true};
    f->uart = uart16550_create(&f->bench.queue, bench_line(&f->bench, IRQ), &f->backend.dev);
    out(f, LCR, 0x80);
    out(f, 0, 1); /* 115200 */
    out(f, 1, 0);
    out(f, LCR, 0x03);
    out(f, MCR, 0x0b);
}

static void input(struct fixture *f, const char *text)
{
    memcpy(f->backend.input + f->backend.input_n, text, strlen(text));
    f->backend.input_n += strlen(text);
    backend_feed(&f->backend.dev);
}

static void registers(void **state)
{
    struct fixture f;
    start(&f);
    assert_int_equal(in(&f, LSR), 0x60);
    assert_int_equal(in(&f, IIR), 0x01);
    assert_int_equal(in(&f, MSR), 0xb0);
    out(&f, SCR, 0xa5);
    assert_int_equal(in(&f, SCR), 0xa5);
    out(&f, IER, 0xff);
    assert_int_equal(in(&f, IER), 0x0f);
    out(&f, IER, 0);
    out(&f, MCR, 0xff);
    assert_int_equal(in(&f, MCR), 0x1f);
    out(&f, MCR, 0x0b);
    out(&f, LCR, 0x9f);
    bench_write(&uart16550_ops, f.uart, 0, 2, 0x000c);
    assert_int_equal(bench_read(&uart16550_ops, f.uart, 0, 2), 0x000c);
    assert_int_equal(f.backend.params.baud, 9600);
    assert_int_equal(f.backend.params.parity, 'E');
    assert_int_equal(f.backend.params.stop_bits, 2);
    out(&f, LCR, 0x43);
    assert_true(f.backend.brk);
    out(&f, IIR, 0xc1);
    assert_int_equal(in(&f, IIR), 0xc1);
    uart16550_reset(f.uart);
    assert_false(f.backend.brk);
    assert_int_equal(in(&f, IIR), 0x01);
    uart16550_destroy(f.uart);
}

static void transmit_interrupt(void **state)
{
    struct fixture f;
    start(&f);
    struct bench_line *line = &f.bench.line[IRQ];
    out(&f, IER, 0x02); /* raised by enabling */
    assert_true(line->level);
    assert_int_equal(in(&f, IIR), 0x02);
    assert_false(line->level); /* cleared by the read */
    assert_int_equal(in(&f, IIR), 0x01);
    out(&f, RBR, 'a');
    assert_int_equal(f.backend.sent_n, 1);
    assert_int_equal(in(&f, LSR), 0x60);
    assert_int_equal(line->rises, 2);
    out(&f, RBR, 'b'); /* a new edge for each */
    assert_int_equal(line->rises, 3);
    out(&f, IER, 0x00);
    assert_false(line->level);
    out(&f, IER, 0x02);
    assert_true(line->level);
    uart16550_destroy(f.uart);
}

static void slow_backend(void **state)
{
    struct fixture f;
    start(&f);
    out(&f, IIR, 0x01);
    out(&f, IER, 0x02);
    in(&f, IIR);
    f.backend.room = 1;
    out(&f, RBR, '0');
    for (char c = '1'; c <= '9'; c++)
        out(&f, RBR, (uint8_t)c);
    assert_int_equal(f.backend.sent_n, 1);
    assert_int_equal(in(&f, LSR), 0x00);
    assert_false(f.bench.line[IRQ].level);
    f.backend.room = 100;
    chardev_notify_writable(&f.backend.dev);
    assert_memory_equal(f.backend.sent, "0123456789", 10);
    assert_int_equal(in(&f, LSR), 0x60);
    assert_true(f.bench.line[IRQ].level);
    f.backend.room = 0;
    out(&f, RBR, 'x');
    out(&f, IIR, 0x05); /* FIFO reset */
    assert_int_equal(in(&f, LSR), 0x60);
    chardev_notify_writable(&f.backend.dev);
    assert_int_equal(f.backend.sent_n, 10);
    uart16550_destroy(f.uart);
}

static void receive_without_fifo(void **state)
{
    struct fixture f;
    start(&f);
    out(&f, IER, 0x01);
    input(&f, "abc");
    assert_int_equal(f.backend.input_n, 2); /* held back in the host */
    assert_true(f.bench.line[IRQ].level);
    assert_int_equal(in(&f, IIR), 0x04);
    assert_int_equal(in(&f, LSR), 0x61);
    assert_int_equal(in(&f, RBR), 'a');
    assert_int_equal(in(&f, RBR), 'b');
    assert_int_equal(in(&f, RBR), 'c');
    assert_int_equal(in(&f, LSR), 0x60);
    assert_false(f.bench.line[IRQ].level);
    assert_int_equal(f.bench.line[IRQ].rises, 3);
    uart16550_destroy(f.uart);
}

static void receive_fifo(void **state)
{
    struct fixture f;
    start(&f);
    out(&f, IIR, 0x81); /* trigger at 8 */
    out(&f, IER, 0x01);
    input(&f, "1234567");
    assert_false(f.bench.line[IRQ].level);
    input(&f, "8");
    assert_int_equal(in(&f, IIR), 0xc4);
    in(&f, RBR);
    assert_false(f.bench.line[IRQ].level);
    bench_advance(&f.bench, 347000); /* four characters of 10 bits at 115200 */
    assert_false(f.bench.line[IRQ].level);
    bench_advance(&f.bench, 1000);
    assert_int_equal(in(&f, IIR), 0xcc);
    assert_int_equal(in(&f, RBR), '2');
    assert_int_equal(in(&f, IIR), 0xc1);
    bench_advance(&f.bench, 400000); /* again, for the rest */
    assert_int_equal(in(&f, IIR), 0xcc);
    input(&f, "abcdefghijklmnopq");
    assert_int_equal(f.backend.input_n, 7); /* 10 fitted */
    for (unsigned i = 0; i < 16; i++)
        in(&f, RBR);
    assert_int_equal(f.backend.input_n, 0);
    assert_int_equal(in(&f, RBR), 'k');
    out(&f, IIR, 0x03); /* FIFO reset */
    assert_int_equal(in(&f, LSR), 0x60);
    uart16550_destroy(f.uart);
}

static void errors(void **state)
{
    struct fixture f;
    start(&f);
    out(&f, IIR, 0x01);
    out(&f, IER, 0x05);
    input(&f, "a");
    chardev_receive_break(&f.backend.dev);
    assert_int_equal(in(&f, LSR), 0xe1); /* an error in the FIFO, not on top */
    assert_int_equal(in(&f, IIR), 0xc4);
    in(&f, RBR);
    assert_int_equal(in(&f, IIR), 0xc6);
    assert_int_equal(in(&f, LSR), 0xf1);
    assert_int_equal(in(&f, LSR), 0x61);
    assert_int_equal(in(&f, RBR), 0x00);
    out(&f, MCR, 0x1b); /* loopback */
    for (unsigned i = 0; i < 17; i++)
        out(&f, RBR, (uint8_t)i);
    assert_int_equal(in(&f, LSR), 0x63);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(in(&f, RBR), i);
    assert_int_equal(in(&f, LSR), 0x60);
    out(&f, IIR, 0x00);
    out(&f, RBR, 1);
    out(&f, RBR, 2);
    assert_int_equal(in(&f, LSR), 0x63);
    assert_int_equal(in(&f, RBR), 2);
    out(&f, LCR, 0x43);
    assert_int_equal(in(&f, LSR), 0x71);
    assert_false(f.backend.brk);
    uart16550_destroy(f.uart);
}

static void modem(void **state)
{
    struct fixture f;
    start(&f);
    out(&f, IER, 0x08);
    f.backend.connected = false;
    chardev_notify_carrier(&f.backend.dev, false);
    assert_true(f.bench.line[IRQ].level);
    assert_int_equal(in(&f, IIR), 0x00);
    assert_int_equal(in(&f, MSR), 0x38);
    assert_false(f.bench.line[IRQ].level);
    out(&f, MCR, 0x1f);
    assert_int_equal(in(&f, IIR), 0x00); /* pending, but the gate is shut */
    assert_false(f.bench.line[IRQ].level);
    assert_int_equal(in(&f, MSR), 0xf8);
    out(&f, MCR, 0x10);
    assert_int_equal(in(&f, MSR), 0x0f);
    out(&f, MCR, 0x0b);
    assert_int_equal(in(&f, MSR), 0x33);
    out(&f, IER, 0x02);
    assert_true(f.bench.line[IRQ].level);
    out(&f, MCR, 0x03); /* OUT2 gates */
    assert_false(f.bench.line[IRQ].level);
    uart16550_destroy(f.uart);
    bench_init(&f.bench);
    f.uart = uart16550_create(&f.bench.queue, bench_line(&f.bench, IRQ), NULL);
    out(&f, RBR, 'x');
    assert_int_equal(in(&f, LSR), 0x60);
    uart16550_destroy(f.uart);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers),    cmocka_unit_test(transmit_interrupt),
        cmocka_unit_test(slow_backend), cmocka_unit_test(receive_without_fifo),
        cmocka_unit_test(receive_fifo), cmocka_unit_test(errors),
        cmocka_unit_test(modem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
