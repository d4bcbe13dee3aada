/* Intel 82371SB (PIIX3) function 0. See piix3.h.
 *
 * Model. PIRQRCA..D (60h..63h) route each PIRQ wire to one ISA interrupt, or nowhere (bit 7). Several may share one:
 * an ISA wire is asserted while any PIRQ that is routed to it is. `driven` is what was last put on each wire; after
 * any change of inputs or routing the difference is put out, so that a routing change cannot leave a wire stuck.
 *
 * RCR: a 0 to 1 transition of RCPU starts a reset, hard or soft as SRST said in the same write.
 *
 * The PIIX3's other blocks (interrupt controllers, timer, DMA, NMI control, and the IDE and USB functions) are chips
 * of their own here. Their configuration registers are remembered, without effect.
 *
 * Not emulated: MBIRQ, programmable chip select, distributed DMA, clock and SMI control.
 */
#include "device/piix3.h"

#include <stdlib.h>

#define IORT 0x4c
#define XBCS 0x4e
#define PIRQRCA 0x60
#define TOM 0x69
#define MSTAT 0x6a
#define MBIRQ0 0x70
#define MBDMA0 0x76
#define PCSC 0x78
#define APICBASE 0x80
#define DLC 0x82
#define SMICNTL 0xa0
#define SMIEN 0xa2
#define SEE 0xa4
#define FTMR 0xa8
#define SMIREQ 0xaa
#define CTLTMR 0xac
#define CTHTMR 0xae

#define PIRQRC_DISABLE 0x80
#define PIRQ_ROUTABLE 0xdef8u /* IRQ 3-7, 9-12, 14, 15 */

#define RCR_SRST 0x02
#define RCR_RCPU 0x04

struct piix3_state {
    uint8_t pirq;    /* levels of PIRQA..D, a bit each */
    uint16_t driven; /* levels put on the ISA wires */
    uint8_t rcr;
};

struct piix3 {
    struct pci_function *function;
    struct piix3_config config;
    struct piix3_state state;
};

int piix3_route(const struct piix3 *piix3, unsigned n)
{
    uint8_t route = pci_config(piix3->function)[PIRQRCA + (n & 3)];
    unsigned irq = route & 0xf;
    return route & PIRQRC_DISABLE || !(PIRQ_ROUTABLE >> irq & 1) ? -1 : (int)irq;
}

static void irqs_update(struct piix3 *piix3)
{
    uint16_t wanted = 0;
    for (unsigned n = 0; n < 4; n++) {
        int irq = piix3_route(piix3, n);
        if (irq >= 0 && piix3->state.pirq >> n & 1)
            wanted |= (uint16_t)(1u << irq);
    }
    uint16_t changed = wanted ^ piix3->state.driven;
    piix3->state.driven = wanted;
    for (unsigned irq = 0; irq < 16; irq++)
        if (changed >> irq & 1)
            irq_set(&piix3->config.isa[irq], wanted >> irq & 1);
}

void piix3_set_pirq(void *opaque, unsigned n, bool level)
{
    struct piix3 *piix3 = opaque;
    uint8_t bit = (uint8_t)(1u << (n & 3));
    piix3->state.pirq = (uint8_t)(level ? piix3->state.pirq | bit : piix3->state.pirq & ~bit);
    irqs_update(piix3);
}

static void piix3_config_written(void *dev, unsigned offset, unsigned size)
{
    irqs_update(dev);
}

static void piix3_reset(void *dev)
{
    struct piix3 *piix3 = dev;
    uint8_t *config = pci_config(piix3->function);
    pci_config_set16(piix3->function, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    config[IORT] = 0x4d;
    config[XBCS] = 0x03;
    for (unsigned i = 0; i < 4; i++)
        config[PIRQRCA + i] = PIRQRC_DISABLE;
    config[TOM] = 0x02;
    config[MBIRQ0] = config[MBIRQ0 + 1] = PIRQRC_DISABLE;
    config[MBDMA0] = config[MBDMA0 + 1] = 0x0c;
    config[PCSC] = 0x02;
    config[SMICNTL] = 0x08;
    config[FTMR] = 0x0f;
    piix3->state.rcr = 0;
    irqs_update(piix3); /* the inputs stay: they are others' outputs */
}

static const struct pci_function_ops piix3_pci_ops = {.config_written = piix3_config_written, .reset = piix3_reset};

static uint64_t rcr_read(void *dev, uint64_t offset, unsigned size)
{
    const struct piix3 *piix3 = dev;
    return piix3->state.rcr;
}

static void rcr_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct piix3 *piix3 = dev;
    bool rises = value & RCR_RCPU && !(piix3->state.rcr & RCR_RCPU);
    piix3->state.rcr = (uint8_t)(value & (RCR_SRST | RCR_RCPU));
    if (!rises)
        return;
    piix3->state.rcr &= (uint8_t)~RCR_RCPU; /* the reset clears it, also one of the processor alone */
    if (piix3->config.reset != NULL)
        piix3->config.reset(piix3->config.opaque, value & RCR_SRST);
}

const struct io_ops piix3_reset_ops = {.read = rcr_read, .write = rcr_write, .name = "PIIX3 reset control"};

static void writable_init(uint8_t *writable)
{
    static const struct {
        uint8_t offset, mask;
    } rows[] = {
        {IORT, 0x7f},        {XBCS, 0xff},        {XBCS + 1, 0x01},   {PIRQRCA, 0x8f}, {PIRQRCA + 1, 0x8f},
        {PIRQRCA + 2, 0x8f}, {PIRQRCA + 3, 0x8f}, {TOM, 0xfe},        {MSTAT, 0x80},   {MBIRQ0, 0xef},
        {MBIRQ0 + 1, 0xef},  {MBDMA0, 0x8f},      {MBDMA0 + 1, 0x8f}, {PCSC, 0xff},    {PCSC + 1, 0xff},
        {APICBASE, 0x7f},    {DLC, 0x0f},         {SMICNTL, 0x1f},    {SMIEN, 0xff},   {SMIEN + 1, 0x01},
        {SEE, 0xff},         {SEE + 1, 0xff},     {SEE + 2, 0xff},    {SEE + 3, 0xa0}, {FTMR, 0xff},
        {SMIREQ, 0xff},      {SMIREQ + 1, 0x01},  {CTLTMR, 0xff},     {CTHTMR, 0xff},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        writable[rows[i].offset] = rows[i].mask;
    writable[PCI_COMMAND] = 0; /* hard-wired but for special cycles, which nobody sends */
    writable[PCI_COMMAND + 1] = PCI_COMMAND_SERR >> 8;
    writable[PCI_CACHE_LINE] = writable[PCI_LATENCY] = 0;
}

struct piix3 *piix3_create(struct pci_host *host, unsigned slot, const struct piix3_config *config, struct error *err)
{
    static const struct pci_function_desc desc = {
        .vendor_id = 0x8086, .device_id = 0x7000, .class_code = 0x060100, .ops = &piix3_pci_ops};
    struct piix3 *piix3 = calloc(1, sizeof *piix3);
    if (piix3 == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    piix3->config = *config;
    piix3->function = pci_add_function(host, slot, 0, &desc, piix3, err);
    if (piix3->function == NULL) {
        free(piix3);
        return NULL;
    }
    /* The chip has functions 1 to 3, whichever of them the board shows. */
    pci_config(piix3->function)[PCI_HEADER_TYPE] |= PCI_HEADER_MULTIFUNCTION;
    writable_init(pci_config_writable(piix3->function));
    piix3_reset(piix3);
    return piix3;
}

void piix3_destroy(struct piix3 *piix3)
{
    free(piix3);
}
