/* The 8237A pair. See i8237.h.
 *
 * Model. Each channel has base and current values of its address and count; the byte pointer, one a controller, says which half
 * of a 16-bit register is accessed next. A transfer takes place when a device asks for it; what the chip's modes (demand,
 * single, block) say about the bus in between cannot be seen. After a count of N, N + 1 transfers have been made: terminal
 * count sets a status bit, and either reloads the channel or masks it.
 *
 * The address of a byte channel is page:address, of a word channel page (without its lowest bit):address times two: they never
 * cross 64 KiB (128 KiB), but wrap around. The second controller's registers are two ports apart.
 *
 * The page registers are sixteen bytes of storage; eight of them belong to channels. Port 80h, where firmware shows its progress,
 * is one of those that do not.
 *
 * Not emulated: memory-to-memory transfers (the AT's wiring does not permit them), software requests (they are remembered), timing,
 * priorities, EISA's high page registers. */
#include "device/i8237.h"

#include <stdlib.h>
#include <string.h>

#define CHANNELS 4u
#define COMMAND_DISABLE 0x04u
#define MODE_TRANSFER 0x0cu
#define MODE_WRITE 0x04u /* to memory */
#define MODE_READ 0x08u
#define MODE_AUTO 0x10u
#define MODE_DOWN 0x20u
#define MODE_CASCADE 0xc0u

enum { REG_STATUS = 8, REG_REQUEST, REG_MASK_BIT, REG_MODE, REG_BYTE_POINTER, REG_MASTER_CLEAR, REG_CLEAR_MASK, REG_MASK };

struct channel {
    uint16_t base_address, base_count, address, count;
    uint8_t mode;
};

struct controller {
    struct channel channel[CHANNELS];
    uint8_t command, mask, request, terminal;
    bool high_byte; /* the byte pointer */
};

struct i8237 {
    struct memory *memory;
    struct controller controller[2];
    uint8_t page[16];
};

/* ---- registers ---- */

static void master_clear(struct controller *c)
{
    c->command = c->request = c->terminal = 0;
    c->mask = 0xf;
    c->high_byte = false;
}

static void half_write(struct controller *c, uint16_t *base, uint16_t *current, uint8_t value)
{
    unsigned shift = c->high_byte ? 8 : 0;
    *base = (uint16_t)((*base & ~(0xff << shift)) | value << shift);
    *current = *base;
    c->high_byte = !c->high_byte;
}

static void controller_write(struct controller *c, unsigned reg, uint8_t value)
{
    struct channel *channel = &c->channel[reg / 2 & 3];
    uint8_t bit = (uint8_t)(1u << (value & 3));
    if (reg < REG_STATUS && reg % 2 == 0)
        half_write(c, &channel->base_address, &channel->address, value);
    else if (reg < REG_STATUS)
        half_write(c, &channel->base_count, &channel->count, value);
    switch (reg) {
    case REG_STATUS: c->command = value; break;
    case REG_REQUEST: c->request = value & 4 ? c->request | bit : c->request & ~bit; break;
    case REG_MASK_BIT: c->mask = value & 4 ? c->mask | bit : c->mask & ~bit; break;
    case REG_MODE: c->channel[value & 3].mode = value & 0xfc; break;
    case REG_BYTE_POINTER: c->high_byte = false; break;
    case REG_MASTER_CLEAR: master_clear(c); break;
    case REG_CLEAR_MASK: c->mask = 0; break;
    case REG_MASK: c->mask = value & 0xf; break;
    }
}

static uint8_t controller_read(struct controller *c, unsigned reg)
{
    const struct channel *channel = &c->channel[reg / 2 & 3];
    if (reg < REG_STATUS) {
        uint16_t value = reg % 2 == 0 ? channel->address : channel->count;
        unsigned shift = c->high_byte ? 8 : 0;
        c->high_byte = !c->high_byte;
        return (uint8_t)(value >> shift);
    }
    uint8_t terminal = c->terminal;
    switch (reg) {
    case REG_STATUS: c->terminal = 0; return (uint8_t)(terminal | c->request << 4);
    case REG_MASTER_CLEAR: return 0; /* the temporary register */
    case REG_MASK: return 0xf0 | c->mask;
    default: return 0xff;
    }
}

static uint64_t low_read(void *dev, uint64_t offset, unsigned size)
{
    struct i8237 *dma = dev;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)controller_read(&dma->controller[0], (unsigned)offset + i) << (8 * i);
    return value;
}

static void low_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8237 *dma = dev;
    for (unsigned i = 0; i < size; i++)
        controller_write(&dma->controller[0], (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
}

/* An odd port is the register of the even one before it. */
static uint64_t high_read(void *dev, uint64_t offset, unsigned size)
{
    struct i8237 *dma = dev;
    uint64_t value = UINT64_MAX << 8;
    return value | controller_read(&dma->controller[1], (unsigned)offset / 2);
}

static void high_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8237 *dma = dev;
    controller_write(&dma->controller[1], (unsigned)offset / 2, (uint8_t)value);
}

static uint64_t page_read(void *dev, uint64_t offset, unsigned size)
{
    const struct i8237 *dma = dev;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)dma->page[offset + i] << (8 * i);
    return value;
}

static void page_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8237 *dma = dev;
    for (unsigned i = 0; i < size; i++)
        dma->page[offset + i] = (uint8_t)(value >> (8 * i));
}

const struct io_ops i8237_low_ops = {.read = low_read, .write = low_write, .name = "8237 DMA controller 1"};
const struct io_ops i8237_high_ops = {.read = high_read, .write = high_write, .name = "8237 DMA controller 2"};
const struct io_ops i8237_page_ops = {.read = page_read, .write = page_write, .name = "DMA page registers"};

/* ---- transfers ---- */

static gpa_t unit_gpa(const struct i8237 *dma, unsigned n, const struct channel *channel)
{
    static const uint8_t page_of[8] = {0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa};
    gpa_t page = dma->page[page_of[n]];
    return n < 4 ? page << 16 | channel->address : (page & 0xfe) << 16 | (gpa_t)channel->address << 1;
}

/* One byte or word. */
static void unit_move(struct i8237 *dma, unsigned n, const struct channel *channel, uint8_t *bytes, bool to_memory)
{
    unsigned size = n < 4 ? 1 : 2;
    gpa_t gpa = unit_gpa(dma, n, channel);
    bool matches = (channel->mode & MODE_TRANSFER) == (to_memory ? MODE_WRITE : MODE_READ);
    if (to_memory && matches)
        memory_write(dma->memory, gpa, bytes, size);
    else if (!to_memory && (!matches || !memory_read(dma->memory, gpa, bytes, size)))
        memset(bytes, 0xff, size);
}

/* True at terminal count. */
static bool unit_count(struct controller *c, unsigned n)
{
    struct channel *channel = &c->channel[n];
    channel->address = (uint16_t)(channel->mode & MODE_DOWN ? channel->address - 1 : channel->address + 1);
    if (channel->count-- != 0)
        return false;
    c->terminal |= (uint8_t)(1u << n);
    c->request &= (uint8_t)~(1u << n);
    if (channel->mode & MODE_AUTO) {
        channel->address = channel->base_address;
        channel->count = channel->base_count;
    } else {
        c->mask |= (uint8_t)(1u << n);
    }
    return true;
}

size_t i8237_transfer(struct i8237 *dma, unsigned channel, uint8_t *bytes, size_t n, bool to_memory, bool *terminal)
{
    struct controller *c = &dma->controller[channel / CHANNELS & 1];
    unsigned at = channel % CHANNELS, unit = channel < 4 ? 1 : 2;
    const struct controller *upper = &dma->controller[1];
    bool cascaded = channel >= 4 || (!(upper->command & COMMAND_DISABLE) && !(upper->mask & 1));
    *terminal = false;
    if (!cascaded || c->command & COMMAND_DISABLE || c->mask >> at & 1 || (c->channel[at].mode & MODE_CASCADE) == MODE_CASCADE)
        return 0;
    size_t done = 0;
    while (done + unit <= n && !*terminal) {
        unit_move(dma, channel, &c->channel[at], bytes + done, to_memory);
        done += unit;
        *terminal = unit_count(c, at);
    }
    return done;
}

/* ---- life ---- */

void i8237_reset(struct i8237 *dma)
{
    for (unsigned i = 0; i < 2; i++)
        master_clear(&dma->controller[i]);
}

struct i8237 *i8237_create(struct memory *memory)
{
    struct i8237 *dma = calloc(1, sizeof *dma);
    if (dma == NULL)
        return NULL;
    dma->memory = memory;
    i8237_reset(dma);
    return dma;
}

void i8237_destroy(struct i8237 *dma)
{
    free(dma);
}
