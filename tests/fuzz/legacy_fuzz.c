/* libFuzzer entry for what a PC has around its firmware: the firmware configuration device, the DMA controllers, the diskette
 * controller on a real (small) image, the HPET. No sequence of register accesses, at no time, with anything in memory, may break
 * one of them.
 *
 * The input is a sequence of steps of 8 bytes:
 *
 *     byte 0     what to do (enum step_kind, modulo)
 *     byte 1     on which range of the table below (modulo)
 *     byte 2     access size 1, 2, 4, 8 (bits 1..0); how far time goes (bits 4..0)
 *     byte 3     offset
 *     bytes 4-7  value, little endian; the upper half of an 8-byte value repeats the lower
 *
 * A diskette command needs nine accesses that fit each other, so a step can also give the FIFO three bytes at once. DMA
 * descriptors are found because a step can write memory. Besides sanitizer reports, the harness looks for timers that never let
 * the clock go on, and for interrupts of an HPET input that does not exist.
 *
 * Built with: clang -fsanitize=fuzzer,address,undefined */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/irq.h"
#include "base/timer.h"
#include "base/types.h"
#include "device/fdc.h"
#include "device/fw_cfg.h"
#include "device/hpet.h"
#include "device/i8237.h"
#include "host/block.h"
#include "memory/memory.h"

#define STEPS_MAX 2048
#define RUNS_MAX 64
#define CLOCK_MAX_NS (1ull << 62)
#define MEMORY_SIZE (256 * KiB)
#define IMAGE_SIZE (360 * KiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum step_kind { STEP_READ, STEP_WRITE, STEP_ADVANCE, STEP_MEMORY, STEP_FIFO, STEP_MEDIUM, STEP_RESET, STEP_KINDS };

struct board {
    uint64_t now_ns;
    struct timer_queue queue;
    struct memory *memory;
    struct fw_cfg *fw_cfg;
    struct i8237 *dma;
    struct fdc *fdc;
    struct hpet *hpet;
    struct block *block;
};

struct range {
    const struct io_ops *ops;
    unsigned length;
    size_t dev; /* offset in struct board */
};

static const struct range ranges[] = {
    {&fw_cfg_ops, 2, offsetof(struct board, fw_cfg)},   {&fw_cfg_dma_ops, 8, offsetof(struct board, fw_cfg)},
    {&i8237_low_ops, 16, offsetof(struct board, dma)},  {&i8237_high_ops, 32, offsetof(struct board, dma)},
    {&i8237_page_ops, 16, offsetof(struct board, dma)}, {&fdc_ops, 6, offsetof(struct board, fdc)},
    {&fdc_dir_ops, 1, offsetof(struct board, fdc)},     {&hpet_ops, 0x200, offsetof(struct board, hpet)},
};

static uint64_t board_now(void *opaque)
{
    return ((struct board *)opaque)->now_ns;
}

static void line_set(void *opaque, unsigned n, bool level)
{
}

static void io_apic_set(void *opaque, unsigned n, bool level)
{
    if (n >= 32 || !(HPET_ROUTES >> n & 1))
        abort();
}

static size_t board_dma(void *opaque, uint8_t *bytes, size_t n, bool to_memory, bool *terminal)
{
    struct board *board = opaque;
    return i8237_transfer(board->dma, 2, bytes, n, to_memory, terminal);
}

static void settle(struct board *board)
{
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        if (timer_queue_next(&board->queue) > board->now_ns)
            return;
        timer_queue_run(&board->queue);
    }
    abort(); /* a timer that never lets go of the present */
}

static void advance(struct board *board, uint64_t ns)
{
    uint64_t target = board->now_ns + ns < CLOCK_MAX_NS ? board->now_ns + ns : CLOCK_MAX_NS;
    for (unsigned i = 0; i < RUNS_MAX; i++) {
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

static void run_access(struct board *board, const uint8_t step[8], uint32_t value, bool write)
{
    const struct range *range = &ranges[step[1] % ARRAY_LEN(ranges)];
    void *dev = *(void **)((char *)board + range->dev);
    unsigned size = 1u << (step[2] & 3);
    while (size > range->length)
        size /= 2;
    unsigned offset = (step[3] | (unsigned)(step[2] & 0x20) << 3) % (range->length - size + 1);
    if (write)
        range->ops->write(dev, offset, size, size == 8 ? (uint64_t)value << 32 | value : value & (~0ull >> (64 - 8 * size)));
    else
        (void)range->ops->read(dev, offset, size);
}

static void run_step(struct board *board, const uint8_t step[8])
{
    uint32_t value;
    memcpy(&value, step + 4, sizeof value);
    switch (step[0] % STEP_KINDS) {
    case STEP_READ: run_access(board, step, value, false); break;
    case STEP_WRITE: run_access(board, step, value, true); break;
    case STEP_ADVANCE: advance(board, (uint64_t)value << (step[2] & 31)); break;
    case STEP_MEMORY: memory_write(board->memory, (uint64_t)step[3] * 16, &value, sizeof value); break;
    case STEP_FIFO:
        for (unsigned i = 0; i < 3; i++)
            fdc_ops.write(board->fdc, 5, 1, step[5 + i]);
        break;
    case STEP_MEDIUM: fdc_set_medium(board->fdc, value & 1, value & 2 ? board->block : NULL, NULL); break;
    case STEP_RESET:
        fw_cfg_reset(board->fw_cfg);
        i8237_reset(board->dma);
        fdc_reset(board->fdc);
        hpet_reset(board->hpet);
        break;
    }
}

/* One image for all inputs: what is in it makes no difference. */
static struct block *image_open(struct timer_queue *queue)
{
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("diskette", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, IMAGE_SIZE) != 0)
            abort();
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct block_options options = {.queue = queue, .raw = true};
    return block_open(path, &options, NULL);
}

static void board_create(struct board *board)
{
    timer_queue_init(&board->queue, board_now, NULL, board);
    board->memory = memory_create(MEMORY_SIZE, NULL, NULL);
    board->fw_cfg = fw_cfg_create(board->memory);
    fw_cfg_set_file(board->fw_cfg, "etc/file", "contents", 8, NULL);
    board->dma = i8237_create(board->memory);
    board->block = image_open(&board->queue);
    if (board->block == NULL)
        abort();
    const struct irq_line line = {.set = line_set};
    struct fdc_config fdc = {.queue = &board->queue, .irq = line, .dma = board_dma, .opaque = board};
    fdc.drive[0].present = fdc.drive[1].present = true;
    fdc.drive[0].block = board->block;
    board->fdc = fdc_create(&fdc, NULL);
    const struct hpet_lines hpet = {.timer = line, .rtc = line, .io_apic = {.set = io_apic_set}};
    board->hpet = hpet_create(&board->queue, &hpet);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct board board = {0};
    board_create(&board);
    for (size_t i = 0; i < size / 8 && i < STEPS_MAX; i++) {
        run_step(&board, data + 8 * i);
        settle(&board);
    }
    hpet_destroy(board.hpet);
    fdc_destroy(board.fdc);
    block_close(board.block);
    i8237_destroy(board.dma);
    fw_cfg_destroy(board.fw_cfg);
    memory_destroy(board.memory);
    return 0;
}
