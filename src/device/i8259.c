/* 8259A programmable interrupt controllers, the PC's master and slave.
 *
 * Model. A chip is a priority resolver over three registers: IRR (who asks), ISR (who is being served), IMR (who
 * may not). IRR is not stored: it is the latched rising edges of the edge-triggered inputs, the present level of the
 * level-triggered ones (ELCR), and on the master's IR2 the slave's INT output itself. So the cascade needs no
 * signalling between the chips, and a request that the slave takes back is never seen by the master.
 *
 * Invariants. `edges` holds only edge-triggered inputs. INT is recomputed after everything that could change it, and
 * the line is driven only when it changed.
 *
 * Where this leaves the data sheet, and why:
 *  - An edge, once latched, stays a request although the input falls before the acknowledge; on silicon that
 *    becomes the spurious IR7. A host that is late delivers a pulse's both edges at once, and the guest would lose a
 *    timer tick that the real machine would have served.
 *  - ICW1's LTIM is ignored, as on the PIIX3, where ELCR decides for each input.
 *  - The MCS-80 mode is what a PC would make of it: the vector is the second byte that the chip puts on the bus.
 *  - ICW4's buffered mode has no meaning without a bus.
 *
 * Intel 8259A data sheet: "Programming the 8259A", "Fully Nested Mode", "End of Interrupt", "Automatic Rotation",
 * "Special Mask Mode", "Poll Command", "The Special Fully Nested Mode". */
#include "device/i8259.h"

#include <stdlib.h>

#include "base/check.h"
#include "device/io_bytes.h"

enum { MASTER, SLAVE };

#define CASCADE_INPUT 2u
#define SPURIOUS_INPUT 7u

enum {
    ICW1_IC4 = 0x01,
    ICW1_SNGL = 0x02,
    ICW1_ADI = 0x04,
    ICW1_SELECT = 0x10,
    ICW4_UPM = 0x01,
    ICW4_AEOI = 0x02,
    ICW4_SFNM = 0x10,
    OCW3_RIS = 0x01,
    OCW3_RR = 0x02,
    OCW3_P = 0x04,
    OCW3_SELECT = 0x08,
    OCW3_SMM = 0x20,
    OCW3_ESMM = 0x40,
    POLL_I = 0x80,
};

/* OCW2 bits 7..5: R, SL, EOI. */
enum {
    OCW2_CLEAR_ROTATE_AEOI,
    OCW2_EOI,
    OCW2_NOP,
    OCW2_SPECIFIC_EOI,
    OCW2_SET_ROTATE_AEOI,
    OCW2_ROTATE_EOI,
    OCW2_SET_PRIORITY,
    OCW2_ROTATE_SPECIFIC_EOI,
};

enum icw_step { ICW_DONE, ICW_WAIT_2, ICW_WAIT_3, ICW_WAIT_4 };

struct chip {
    uint8_t lines; /* present levels of the inputs */
    uint8_t edges; /* rising edges not yet acknowledged */
    uint8_t isr;
    uint8_t imr;
    uint8_t elcr; /* 1: level triggered */
    uint8_t icw1, icw2, icw3, icw4;
    uint8_t step;   /* enum icw_step */
    uint8_t lowest; /* the input of lowest priority; the one above it has the highest */
    bool rotate_aeoi;
    bool special_mask;
    bool read_isr;
    bool poll;
};

struct i8259_state {
    struct chip chip[2];
    bool intr;
};

struct i8259 {
    struct irq_line intr;
    struct i8259_state regs;
};

static const uint8_t elcr_writable[2] = {0xf8, 0xde};

static bool chip_int(const struct i8259_state *s, unsigned which);

static uint8_t chip_irr(const struct i8259_state *s, unsigned which)
{
    const struct chip *chip = &s->chip[which];
    uint8_t irr = chip->edges | (chip->lines & chip->elcr);
    if (which == MASTER && chip_int(s, SLAVE))
        irr |= 1u << CASCADE_INPUT;
    return irr;
}

/* Distance from the highest priority, 0..7, of the best of `inputs`; 8 when there is none. */
static unsigned best_priority(const struct chip *chip, uint8_t inputs)
{
    for (unsigned priority = 0; priority < 8; priority++) {
        if (inputs & 1u << ((chip->lowest + 1 + priority) & 7))
            return priority;
    }
    return 8;
}

static unsigned input_at(const struct chip *chip, unsigned priority)
{
    return (chip->lowest + 1 + priority) & 7;
}

/* Returns the input to be served next, or -1. */
static int chip_request(const struct i8259_state *s, unsigned which)
{
    const struct chip *chip = &s->chip[which];
    unsigned wanted = best_priority(chip, chip_irr(s, which) & ~chip->imr);
    if (wanted == 8)
        return -1;
    unsigned served = best_priority(chip, chip->special_mask ? chip->isr & ~chip->imr : chip->isr);
    unsigned input = input_at(chip, wanted);
    bool same_slave_nests = (chip->icw4 & ICW4_SFNM) && which == MASTER && input == CASCADE_INPUT && wanted == served;
    return wanted < served || same_slave_nests ? (int)input : -1;
}

static bool chip_int(const struct i8259_state *s, unsigned which)
{
    return chip_request(s, which) >= 0;
}

static void update(struct i8259 *pic)
{
    bool intr = chip_int(&pic->regs, MASTER);
    if (intr == pic->regs.intr)
        return;
    pic->regs.intr = intr;
    irq_set(&pic->intr, intr);
}

/* The acknowledge as one chip sees it: ISR is set, the edge is used up, AEOI ends it at once. */
static void chip_accept(struct chip *chip, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);
    chip->edges &= ~bit;
    if (!(chip->icw4 & ICW4_AEOI))
        chip->isr |= bit;
    else if (chip->rotate_aeoi)
        chip->lowest = (uint8_t)input;
}

static uint8_t chip_vector(const struct chip *chip, unsigned input)
{
    if (chip->icw4 & ICW4_UPM)
        return (chip->icw2 & 0xf8) | input;
    return chip->icw1 & ICW1_ADI ? (chip->icw1 & 0xe0) | input << 2 : (chip->icw1 & 0xc0) | input << 3;
}

static uint8_t acknowledge(struct i8259_state *s)
{
    struct chip *master = &s->chip[MASTER];
    struct chip *slave = &s->chip[SLAVE];
    int input = chip_request(s, MASTER);
    if (input < 0)
        return chip_vector(master, SPURIOUS_INPUT);

    int slave_input = input == (int)CASCADE_INPUT ? chip_request(s, SLAVE) : -1;
    chip_accept(master, (unsigned)input);
    bool passed_on = slave_input >= 0 && !(master->icw1 & ICW1_SNGL) && (master->icw3 & 1u << CASCADE_INPUT);
    if (!passed_on)
        return chip_vector(master, (unsigned)input);
    if ((slave->icw3 & 7) != CASCADE_INPUT)
        return 0xff; /* no slave answers to this number: nobody drives the bus */
    chip_accept(slave, (unsigned)slave_input);
    return chip_vector(slave, (unsigned)slave_input);
}

uint8_t i8259_ack(struct i8259 *pic)
{
    uint8_t vector = acknowledge(&pic->regs);
    update(pic);
    return vector;
}

bool i8259_pending(const struct i8259 *pic)
{
    return pic->regs.intr;
}

void i8259_set_irq(void *opaque, unsigned n, bool level)
{
    struct i8259 *pic = opaque;
    check(n < 16);
    if (n == CASCADE_INPUT)
        return;
    struct chip *chip = &pic->regs.chip[n >> 3];
    uint8_t bit = (uint8_t)(1u << (n & 7));
    if (level && !(chip->lines & bit))
        chip->edges |= bit & ~chip->elcr;
    chip->lines = level ? chip->lines | bit : chip->lines & ~bit;
    update(pic);
}

static void write_icw1(struct chip *chip, uint8_t value)
{
    chip->icw1 = value;
    chip->edges = 0; /* the next interrupt needs a new rising edge */
    chip->isr = 0;
    chip->imr = 0;
    chip->lowest = 7;
    chip->special_mask = false;
    chip->read_isr = false;
    chip->poll = false;
    if (!(value & ICW1_IC4)) {
        chip->icw4 = 0;
        chip->rotate_aeoi = false;
    }
    chip->step = ICW_WAIT_2;
}

static void end_of_interrupt(struct chip *chip, unsigned input, bool rotate)
{
    chip->isr &= ~(1u << input);
    if (rotate)
        chip->lowest = (uint8_t)input;
}

static void write_ocw2(struct chip *chip, uint8_t value)
{
    unsigned input = value & 7;
    unsigned command = value >> 5;
    switch (command) {
    case OCW2_CLEAR_ROTATE_AEOI:
    case OCW2_SET_ROTATE_AEOI:
        chip->rotate_aeoi = command == OCW2_SET_ROTATE_AEOI;
        break;
    case OCW2_EOI:
    case OCW2_ROTATE_EOI: {
        /* In special mask mode a masked level is out of the resolver's sight. */
        unsigned served = best_priority(chip, chip->special_mask ? chip->isr & ~chip->imr : chip->isr);
        if (served < 8)
            end_of_interrupt(chip, input_at(chip, served), command == OCW2_ROTATE_EOI);
        break;
    }
    case OCW2_SPECIFIC_EOI:
    case OCW2_ROTATE_SPECIFIC_EOI:
        end_of_interrupt(chip, input, command == OCW2_ROTATE_SPECIFIC_EOI);
        break;
    case OCW2_SET_PRIORITY:
        chip->lowest = (uint8_t)input;
        break;
    default:
        break;
    }
}

static void write_ocw3(struct chip *chip, uint8_t value)
{
    chip->poll = value & OCW3_P;
    if ((value & OCW3_RR) && !chip->poll)
        chip->read_isr = value & OCW3_RIS;
    if (value & OCW3_ESMM)
        chip->special_mask = value & OCW3_SMM;
}

static void write_data(struct chip *chip, uint8_t value)
{
    switch (chip->step) {
    case ICW_WAIT_2:
        chip->icw2 = value;
        if (!(chip->icw1 & ICW1_SNGL))
            chip->step = ICW_WAIT_3;
        else
            chip->step = chip->icw1 & ICW1_IC4 ? ICW_WAIT_4 : ICW_DONE;
        break;
    case ICW_WAIT_3:
        chip->icw3 = value;
        chip->step = chip->icw1 & ICW1_IC4 ? ICW_WAIT_4 : ICW_DONE;
        break;
    case ICW_WAIT_4:
        chip->icw4 = value;
        chip->step = ICW_DONE;
        break;
    default:
        chip->imr = value;
        break;
    }
}

static void chip_write(struct i8259 *pic, unsigned which, unsigned offset, uint8_t value)
{
    struct chip *chip = &pic->regs.chip[which];
    if (offset & 1)
        write_data(chip, value);
    else if (value & ICW1_SELECT)
        write_icw1(chip, value);
    else if (value & OCW3_SELECT)
        write_ocw3(chip, value);
    else
        write_ocw2(chip, value);
    update(pic);
}

/* A read after the poll command is this chip's own acknowledge cycle; its partner does not take part. */
static uint8_t chip_poll(struct i8259 *pic, unsigned which)
{
    struct chip *chip = &pic->regs.chip[which];
    chip->poll = false;
    int input = chip_request(&pic->regs, which);
    if (input < 0)
        return 0;
    chip_accept(chip, (unsigned)input);
    update(pic);
    return POLL_I | (uint8_t)input;
}

static uint8_t chip_read(struct i8259 *pic, unsigned which, unsigned offset)
{
    struct chip *chip = &pic->regs.chip[which];
    if (chip->poll)
        return chip_poll(pic, which);
    if (offset & 1)
        return chip->imr;
    return chip->read_isr ? chip->isr : chip_irr(&pic->regs, which);
}

static uint8_t master_read_byte(void *dev, unsigned offset)
{
    return chip_read(dev, MASTER, offset);
}

static uint8_t slave_read_byte(void *dev, unsigned offset)
{
    return chip_read(dev, SLAVE, offset);
}

static void master_write_byte(void *dev, unsigned offset, uint8_t value)
{
    chip_write(dev, MASTER, offset, value);
}

static void slave_write_byte(void *dev, unsigned offset, uint8_t value)
{
    chip_write(dev, SLAVE, offset, value);
}

static uint8_t elcr_read_byte(void *dev, unsigned offset)
{
    return ((struct i8259 *)dev)->regs.chip[offset & 1].elcr;
}

static void elcr_write_byte(void *dev, unsigned offset, uint8_t value)
{
    struct i8259 *pic = dev;
    struct chip *chip = &pic->regs.chip[offset & 1];
    chip->elcr = value & elcr_writable[offset & 1];
    chip->edges &= ~chip->elcr;
    update(pic);
}

static uint64_t master_read(void *dev, uint64_t offset, unsigned size)
{
    return io_read_bytes(dev, offset, size, master_read_byte);
}

static void master_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    io_write_bytes(dev, offset, size, value, master_write_byte);
}

static uint64_t slave_read(void *dev, uint64_t offset, unsigned size)
{
    return io_read_bytes(dev, offset, size, slave_read_byte);
}

static void slave_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    io_write_bytes(dev, offset, size, value, slave_write_byte);
}

static uint64_t elcr_read(void *dev, uint64_t offset, unsigned size)
{
    return io_read_bytes(dev, offset, size, elcr_read_byte);
}

static void elcr_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    io_write_bytes(dev, offset, size, value, elcr_write_byte);
}

const struct io_ops i8259_master_ops = {.read = master_read, .write = master_write, .name = "8259A master"};
const struct io_ops i8259_slave_ops = {.read = slave_read, .write = slave_write, .name = "8259A slave"};
const struct io_ops i8259_elcr_ops = {.read = elcr_read, .write = elcr_write, .name = "ELCR"};

struct i8259 *i8259_create(struct irq_line intr)
{
    struct i8259 *pic = calloc(1, sizeof(*pic));
    check(pic != NULL);
    pic->intr = intr;
    i8259_reset(pic);
    return pic;
}

void i8259_destroy(struct i8259 *pic)
{
    free(pic);
}

void i8259_reset(struct i8259 *pic)
{
    for (unsigned which = 0; which < 2; which++) {
        struct chip *chip = &pic->regs.chip[which];
        *chip = (struct chip){
            .lines = chip->lines,
            .lowest = 7,
            .icw3 = which == MASTER ? 1u << CASCADE_INPUT : CASCADE_INPUT,
            .icw4 = ICW4_UPM,
        };
    }
    update(pic);
}

void i8259_describe(const struct i8259 *pic, FILE *out)
{
    static const char *const names[] = {[MASTER] = "master", [SLAVE] = "slave"};
    for (unsigned which = MASTER; which <= SLAVE; which++) {
        const struct chip *chip = &pic->regs.chip[which];
        fprintf(out, "%-6s irr=%02x imr=%02x isr=%02x elcr=%02x lines=%02x vectors=%02x-%02x highest=%u int=%d%s%s%s%s\n",
                names[which], chip_irr(&pic->regs, which), chip->imr, chip->isr, chip->elcr, chip->lines, chip->icw2 & 0xf8,
                chip->icw2 | 7, (chip->lowest + 1) & 7, chip_int(&pic->regs, which), chip->icw4 & ICW4_AEOI ? " auto-eoi" : "",
                chip->icw4 & ICW4_SFNM ? " fully-nested" : "", chip->special_mask ? " special-mask" : "",
                chip->step != ICW_DONE ? " being-initialised" : "");
    }
}
