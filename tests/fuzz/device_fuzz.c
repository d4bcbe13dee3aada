/* libFuzzer entry for the devices: no sequence of register accesses, at no time, may break a chip.
 *
 * The input is a sequence of steps of 8 bytes:
 *
 *     byte 0     what to do (enum step_kind, modulo)
 *     byte 1     on which target of the table below (modulo)
 *     byte 2     which of its ranges (bits 7..6, modulo) and the access size 1, 2, 4, 8 (bits 1..0)
 *     byte 3     offset low; for ranges above 256 bytes the step's byte 0, bits 7..3, gives the high bits
 *     bytes 4-7  value, little endian; the upper half of an 8-byte value repeats the lower
 *
 * Accesses obey the bus's contract (memory/memory.h): they never leave their range. Besides sanitizer reports, the
 * harness looks for timers that never let the clock go on.
 *
 * A device is added by one row in `targets`: how to make it, its ranges, and what can happen to it from outside
 * (`poke`: keys, input, an acknowledge, with the step's value). Its interrupt lines go to board_line(). `create` may
 * look at the devices of the rows above it in board->dev.
 *
 * Built with: clang -fsanitize=fuzzer,address,undefined device_fuzz.c, the device, memory and base libraries. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/irq.h"
#include "base/timer.h"
#include "base/types.h"
#include "device/i8042.h"
#include "device/i8254.h"
#include "device/i8259.h"
#include "device/mc146818.h"
#include "device/uart16550.h"
#include "host/chardev.h"
#include "memory/memory.h"

#include "device_fuzz_chipset.h"

#define STEPS_MAX 4096
#define TARGETS_MAX 24
#define RANGES_MAX 4
#define RUNS_MAX 64
#define CLOCK_MAX_NS (1ull << 62) /* 146 years */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum step_kind { STEP_READ, STEP_WRITE, STEP_ADVANCE, STEP_SLEEP, STEP_POKE, STEP_RESET, STEP_KINDS };

/* A chardev that takes and gives what the input says. */
struct peer {
    struct chardev dev;
    size_t room;
    size_t input;
};

struct board {
    uint64_t now_ns;
    struct timer_queue queue;
    struct peer peer;
    void *dev[TARGETS_MAX];
};

struct target {
    const char *name;
    void *(*create)(struct board *board);
    void (*destroy)(void *dev);
    void (*reset)(void *dev);                                     /* may be NULL */
    void (*poke)(struct board *board, void *dev, uint32_t value); /* may be NULL */
    struct {
        const struct io_ops *ops;
        unsigned length;
    } range[RANGES_MAX];
};

enum { TARGET_I8259 }; /* the row that others are wired to */

static uint64_t board_now(void *opaque)
{
    return ((struct board *)opaque)->now_ns;
}

/* ISA interrupt n. */
static struct irq_line board_line(struct board *board, unsigned n)
{
    return (struct irq_line){.set = i8259_set_irq, .opaque = board->dev[TARGET_I8259], .n = n};
}

static size_t peer_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct peer *peer = container_of(dev, struct peer, dev);
    size_t taken = n < peer->room ? n : peer->room;
    peer->room -= taken;
    return taken;
}

static void peer_feed(struct chardev *dev)
{
    struct peer *peer = container_of(dev, struct peer, dev);
    static const uint8_t bytes[64];
    while (peer->input != 0) {
        size_t n = chardev_can_receive(dev);
        n = n < peer->input ? n : peer->input;
        n = n < sizeof(bytes) ? n : sizeof(bytes);
        if (n == 0)
            return;
        peer->input -= n;
        chardev_receive(dev, bytes, n);
    }
}

static bool peer_connected(struct chardev *dev)
{
    return container_of(dev, struct peer, dev)->room != 0;
}

static const struct chardev_ops peer_ops = {
    .write = peer_write, .accept_input = peer_feed, .connected = peer_connected, .name = "fuzz"};

static void *create_i8259(struct board *board)
{
    return i8259_create((struct irq_line){0});
}

static void poke_i8259(struct board *board, void *dev, uint32_t value)
{
    if (value & 0x80)
        i8259_ack(dev);
    else
        i8259_set_irq(dev, value & 15, value & 0x10);
}

static void *create_i8254(struct board *board)
{
    return i8254_create(&board->queue, board_line(board, 0));
}

static void *create_mc146818(struct board *board)
{
    return mc146818_create(&board->queue, board_line(board, 8), 1700000000);
}

static void *create_uart16550(struct board *board)
{
    return uart16550_create(&board->queue, board_line(board, 4), &board->peer.dev);
}

static void poke_uart16550(struct board *board, void *dev, uint32_t value)
{
    struct peer *peer = &board->peer;
    if (value & 0x100) {
        chardev_receive_break(&peer->dev);
    } else if (value & 0x200) {
        bool was_full = peer->room == 0;
        peer->room = value & 0xff;
        chardev_notify_carrier(&peer->dev, peer->room != 0);
        if (was_full && peer->room != 0)
            chardev_notify_writable(&peer->dev);
    } else {
        peer->input += value & 0xff;
        peer_feed(&peer->dev);
    }
}

static void *create_i8042(struct board *board)
{
    const struct i8042_lines lines = {.keyboard = board_line(board, 1), .mouse = board_line(board, 12)};
    return i8042_create(&board->queue, &lines);
}

static void poke_i8042(struct board *board, void *dev, uint32_t value)
{
    if (value & 0x80000000)
        i8042_mouse(dev, (int8_t)value, (int8_t)(value >> 8), (int8_t)(value >> 16), value >> 24 & 31);
    else
        i8042_key(dev, value & 0xffff, value & 0x10000);
}

static void *create_apics(struct board *board)
{
    return fuzz_apics_create(&board->queue);
}

static void poke_apics(struct board *board, void *dev, uint32_t value)
{
    fuzz_apics_poke(dev, value);
}

static void *create_pci(struct board *board)
{
    return fuzz_pci_create(&board->queue);
}

static void poke_pci(struct board *board, void *dev, uint32_t value)
{
    fuzz_pci_poke(dev, value);
}

static void destroy_i8259(void *dev)
{
    i8259_destroy(dev);
}

static void destroy_i8254(void *dev)
{
    i8254_destroy(dev);
}

static void destroy_mc146818(void *dev)
{
    mc146818_destroy(dev);
}

static void destroy_uart16550(void *dev)
{
    uart16550_destroy(dev);
}

static void destroy_i8042(void *dev)
{
    i8042_destroy(dev);
}

static void reset_i8259(void *dev)
{
    i8259_reset(dev);
}

static void reset_i8254(void *dev)
{
    i8254_reset(dev);
}

static void reset_mc146818(void *dev)
{
    mc146818_reset(dev);
}

static void reset_uart16550(void *dev)
{
    uart16550_reset(dev);
}

static void reset_i8042(void *dev)
{
    i8042_reset(dev);
}

static const struct target targets[] = {
    {"8259A",
     create_i8259,
     destroy_i8259,
     reset_i8259,
     poke_i8259,
     {{&i8259_master_ops, 2}, {&i8259_slave_ops, 2}, {&i8259_elcr_ops, 2}}},
    {"8254", create_i8254, destroy_i8254, reset_i8254, NULL, {{&i8254_ops, 4}, {&i8254_port61_ops, 1}}},
    {"MC146818", create_mc146818, destroy_mc146818, reset_mc146818, NULL, {{&mc146818_ops, 4}}},
    {"16550A", create_uart16550, destroy_uart16550, reset_uart16550, poke_uart16550, {{&uart16550_ops, 8}}},
    {"8042", create_i8042, destroy_i8042, reset_i8042, poke_i8042, {{&i8042_data_ops, 1}, {&i8042_command_ops, 1}}},
    {"APICs", create_apics, fuzz_apics_destroy, fuzz_apics_reset, poke_apics, {{&fuzz_apics_ops, 8192}}},
    {"PCI", create_pci, fuzz_pci_destroy, fuzz_pci_reset, poke_pci, {{&fuzz_pci_ops, FUZZ_PCI_PORTS}}},
};

_Static_assert(ARRAY_LEN(targets) <= TARGETS_MAX, "board->dev has room for every target");

/* Runs what is due now. Devices may arm a timer again in the past, but must come to rest. */
static void settle(struct board *board)
{
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        if (timer_queue_next(&board->queue) > board->now_ns)
            return;
        timer_queue_run(&board->queue);
    }
    abort(); /* a timer that never lets go of the present */
}

/* Moves the clock from deadline to deadline, as a host in time does, or at once, as a late one. */
static void advance(struct board *board, uint64_t ns, bool at_once)
{
    uint64_t target = board->now_ns + ns < CLOCK_MAX_NS ? board->now_ns + ns : CLOCK_MAX_NS;
    for (unsigned i = 0; !at_once && i < RUNS_MAX; i++) {
        uint64_t next = timer_queue_next(&board->queue);
        if (next > target)
            break;
        if (next > board->now_ns)
            board->now_ns = next;
        settle(board);
    }
    if (target > board->now_ns)
        board->now_ns = target;
    settle(board);
}

static void run_access(void *dev, const struct target *target, const uint8_t step[8], uint32_t value, bool write)
{
    unsigned ranges = 0;
    while (ranges < RANGES_MAX && target->range[ranges].ops != NULL)
        ranges++;
    if (ranges == 0)
        return;
    unsigned which = (step[2] >> 6) % ranges;
    const struct io_ops *ops = target->range[which].ops;
    unsigned length = target->range[which].length;
    unsigned size = 1u << (step[2] & 3);
    while (size > length)
        size /= 2;
    unsigned offset = (step[3] | (unsigned)(step[0] >> 3) << 8) % (length - size + 1);
    if (write && ops->write != NULL)
        ops->write(dev, offset, size, size == 8 ? (uint64_t)value << 32 | value : value & (~0ull >> (64 - 8 * size)));
    else if (!write && ops->read != NULL)
        (void)ops->read(dev, offset, size);
}

static void run_step(struct board *board, const uint8_t step[8])
{
    unsigned index = step[1] % ARRAY_LEN(targets);
    const struct target *target = &targets[index];
    void *dev = board->dev[index];
    uint32_t value = (uint32_t)step[4] | (uint32_t)step[5] << 8 | (uint32_t)step[6] << 16 | (uint32_t)step[7] << 24;
    switch ((step[0] & 7) % STEP_KINDS) {
    case STEP_READ:
        run_access(dev, target, step, value, false);
        break;
    case STEP_WRITE:
        run_access(dev, target, step, value, true);
        break;
    case STEP_ADVANCE:
        advance(board, (uint64_t)value << (step[2] & 15), false);
        break;
    case STEP_SLEEP:
        advance(board, (uint64_t)value << (step[2] & 31), true);
        break;
    case STEP_POKE:
        if (target->poke != NULL)
            target->poke(board, dev, value);
        break;
    default:
        if (target->reset != NULL)
            target->reset(dev);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct board board = {.peer = {.dev.ops = &peer_ops}};
    timer_queue_init(&board.queue, board_now, NULL, &board);
    for (unsigned i = 0; i < ARRAY_LEN(targets); i++)
        board.dev[i] = targets[i].create(&board);
    for (size_t i = 0; i < size / 8 && i < STEPS_MAX; i++) {
        run_step(&board, data + 8 * i);
        settle(&board);
    }
    for (unsigned i = ARRAY_LEN(targets); i-- > 0;)
        targets[i].destroy(board.dev[i]);
    return 0;
}
