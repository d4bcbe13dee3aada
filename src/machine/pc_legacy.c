/* What PCs have beside the rest: the DMA controllers and the diskette controller on their channel 2, and the HPET, which can take
 * the 8254's and the RTC's interrupts over. */
#include "machine/pc_internal.h"

#include "device/fdc.h"
#include "device/hpet.h"
#include "device/i8237.h"

#define DMA_FDC 2u
#define DMA_CASCADE_MODE 0xc0u
#define CMOS_DISKETTES 0x10u
#define CMOS_EQUIPMENT 0x14u
#define EQUIPMENT_DISKETTE 0x01u
#define EQUIPMENT_SECOND 0x40u

static void timer_drive(struct pc *pc)
{
    irq_or_set(&pc->wire[IRQ_TIMER], WIRE_LEGACY, pc->timer_level && !pc->hpet_legacy);
    irq_or_set(&pc->wire[IRQ_RTC], WIRE_LEGACY, pc->rtc_level && !pc->hpet_legacy);
}

static void timer_set(void *opaque, unsigned n, bool level)
{
    struct pc *pc = opaque;
    (void)n;
    pc->timer_level = level;
    timer_drive(pc);
}

static void rtc_set(void *opaque, unsigned n, bool level)
{
    struct pc *pc = opaque;
    (void)n;
    pc->rtc_level = level;
    timer_drive(pc);
}

struct irq_line pc_timer_wire(struct pc *pc)
{
    return (struct irq_line){.set = timer_set, .opaque = pc};
}

struct irq_line pc_rtc_wire(struct pc *pc)
{
    return (struct irq_line){.set = rtc_set, .opaque = pc};
}

static void hpet_legacy(void *opaque, bool on)
{
    struct pc *pc = opaque;
    pc->hpet_legacy = on;
    timer_drive(pc);
}

static bool create_hpet(struct pc *pc, struct error *err)
{
    const struct hpet_lines lines = {
        .timer = wire(pc, IRQ_TIMER, WIRE_HPET),
        .rtc = wire(pc, IRQ_RTC, WIRE_HPET),
        .io_apic = {.set = ioapic_set_irq, .opaque = pc->ioapic},
        .legacy = hpet_legacy,
        .opaque = pc,
    };
    pc->hpet = hpet_create(pc->config.queue, &lines);
    if (pc->hpet == NULL)
        return error_set(err, "out of memory");
    return memory_map_mmio(pc->config.memory, HPET_BASE, HPET_SIZE, &hpet_ops, pc->hpet, err);
}

static size_t fdc_dma(void *opaque, uint8_t *bytes, size_t n, bool to_memory, bool *terminal)
{
    struct pc *pc = opaque;
    return i8237_transfer(pc->dma, DMA_FDC, bytes, n, to_memory, terminal);
}

static bool create_fdc(struct pc *pc, struct error *err)
{
    struct fdc_config config = {
        .queue = pc->config.queue, .irq = wire(pc, IRQ_FDC, WIRE_LEGACY), .dma = fdc_dma, .opaque = pc};
    for (unsigned i = 0; i < FDC_DRIVES; i++) {
        const struct pc_drive *drive = pc_drive(pc, DRIVE_FLOPPY, i);
        if (drive == NULL)
            continue;
        config.drive[i].present = true;
        config.drive[i].block = drive->block;
        if (drive->config->boot_index >= 0) {
            char path[64];
            snprintf(path, sizeof path, "/pci@i0cf8/isa@1/fdc@%04x/floppy@%u", PORT_FDC, i);
            pc_add_boot_device(pc, (unsigned)drive->config->boot_index, path);
        }
    }
    pc->fdc = fdc_create(&config, err);
    return pc->fdc != NULL;
}

bool pc_create_legacy(struct pc *pc, struct error *err)
{
    struct memory *memory = pc->config.memory;
    pc->dma = i8237_create(memory);
    if (pc->dma == NULL)
        return error_set(err, "out of memory");
    return create_fdc(pc, err) && create_hpet(pc, err) &&
           memory_map_ports(memory, PORT_DMA_LOW, 16, &i8237_low_ops, pc->dma, err) &&
           memory_map_ports(memory, PORT_DMA_HIGH, 32, &i8237_high_ops, pc->dma, err) &&
           memory_map_ports(memory, PORT_DMA_PAGE, 16, &i8237_page_ops, pc->dma, err) &&
           memory_map_ports(memory, PORT_FDC, 6, &fdc_ops, pc->fdc, err) &&
           memory_map_ports(memory, PORT_FDC_DIR, 1, &fdc_dir_ops, pc->fdc, err);
}

void pc_reset_legacy(struct pc *pc)
{
    i8237_reset(pc->dma);
    fdc_reset(pc->fdc);
    hpet_reset(pc->hpet);
    if (pc->firmware == NULL) { /* which opens the cascade */
        memory_port_write(pc->config.memory, PORT_DMA_HIGH + 0x16, 1, DMA_CASCADE_MODE);
        memory_port_write(pc->config.memory, PORT_DMA_HIGH + 0x14, 1, 0);
    }
}

void pc_destroy_legacy(struct pc *pc)
{
    hpet_destroy(pc->hpet);
    fdc_destroy(pc->fdc);
    i8237_destroy(pc->dma);
}

void pc_set_cmos_diskettes(struct pc *pc)
{
    unsigned first = fdc_drive_type(pc->fdc, 0), second = fdc_drive_type(pc->fdc, 1);
    uint8_t equipment = mc146818_cmos(pc->rtc, CMOS_EQUIPMENT) & (uint8_t) ~(EQUIPMENT_DISKETTE | 0xc0);
    if (first != FDC_DRIVE_NONE || second != FDC_DRIVE_NONE)
        equipment |= EQUIPMENT_DISKETTE;
    if (first != FDC_DRIVE_NONE && second != FDC_DRIVE_NONE)
        equipment |= EQUIPMENT_SECOND;
    mc146818_set_cmos(pc->rtc, CMOS_DISKETTES, (uint8_t)(first << 4 | second));
    mc146818_set_cmos(pc->rtc, CMOS_EQUIPMENT, equipment);
}
