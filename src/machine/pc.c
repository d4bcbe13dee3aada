/* The board. A plain PC of the late nineties, as far as kernels that are started directly look at it:
 *
 *   processors   local APICs at FEE00000h
 *   north        82441FX host bridge (PCI 0:0.0), configuration mechanism 1 at CF8h/CFCh
 *   south        PIIX3 ISA bridge (0:1.0) and IDE (0:1.1), PIIX4 power management (0:1.3) at ports 600h-63Fh
 *   HPET         FED00000h
 *   legacy       DMA and diskettes (pc_legacy.c), 8259A pair, 8254, port 61h, MC146818, 8042, 16550A (COM1), port 92h, RCR CF9h, APM B2h
 *   I/O APIC     FEC00000h, pins 0..23; ISA interrupt n at pin n, but 0 at pin 2
 *   monitor      isa-debug-exit F4h, debug console 402h, pvpanic 505h
 *
 * Interrupts. Each ISA interrupt is a wire (irq_or) that a legacy chip, a routed PIRQ, or both pull; it goes to the 8259s and to
 * the I/O APIC alike, and the guest listens to one of them. The 8259's output is LINT0 of the local APICs. SCI is
 * interrupt 9, level. PIRQs are routed by the PIIX3 to 10 and 11, as the tables say.
 */
#include "machine/pc_internal.h"

#include <stdlib.h>

#include "base/check.h"
#include "cpu/cpuid.h"
#include "host/chardev.h"

/* ---- interrupt wiring ---- */

static void isa_irq(void *opaque, unsigned n, bool level)
{
    struct pc *pc = opaque;
    i8259_set_irq(pc->pic, n, level);
    ioapic_set_irq(pc->ioapic, n == IRQ_TIMER ? 2 : n, level);
}

static void pic_output(void *opaque, unsigned n, bool level)
{
    (void)n;
    struct pc *pc = opaque;
    for (unsigned i = 0; i < pc->cpu_count; i++)
        lapic_set_lint(pc->cpus[i].lapic, 0, level);
}

static void a20_changed(struct pc *pc)
{
    uint64_t mask = pc->a20_kbc || pc->a20_port92 ? ~0ull : ~(1ull << 20);
    for (unsigned i = 0; i < pc->cpu_count; i++) {
        struct vcpu *v = pc->cpus[i].vcpu;
        if (v->a20_mask == mask)
            continue;
        __atomic_store_n(&v->a20_mask, mask, __ATOMIC_RELAXED); /* while it may be running */
        pc->config.ops.cpu_raise(pc->config.ops.opaque, i, PENDING_FLUSH);
    }
}

static void a20_from_kbc(void *opaque, unsigned n, bool level)
{
    (void)n;
    struct pc *pc = opaque;
    pc->a20_kbc = level;
    a20_changed(pc);
}

static void a20_from_port92(void *opaque, unsigned n, bool level)
{
    (void)n;
    struct pc *pc = opaque;
    pc->a20_port92 = level;
    a20_changed(pc);
}

/* ---- requests ---- */

void pc_request_reset(struct pc *pc)
{
    pc->config.ops.reset(pc->config.ops.opaque);
}

static void reset_from_kbc(void *opaque, unsigned n, bool level)
{
    (void)n;
    if (level)
        pc_request_soft_reset(opaque);
}

static void reset_from_port92(void *opaque)
{
    pc_request_soft_reset(opaque);
}

static void reset_from_rcr(void *opaque, bool hard)
{
    (hard ? pc_request_reset : pc_request_soft_reset)(opaque);
}

static void request_power_off(void *opaque)
{
    struct pc *pc = opaque;
    pc->config.ops.power_off(pc->config.ops.opaque);
}

static void debug_exit(void *opaque, int status)
{
    struct pc *pc = opaque;
    pc->config.ops.debug_exit(pc->config.ops.opaque, status);
}

static void panic_event(void *opaque, unsigned events)
{
    struct pc *pc = opaque;
    if (events & PVPANIC_PANICKED)
        pc->config.ops.panic(pc->config.ops.opaque);
}

static void debugcon_byte(void *opaque, uint8_t byte)
{
    struct pc *pc = opaque;
    chardev_write(pc->config.debugcon, &byte, 1);
}

/* ---- creation ---- */

static bool create_chips(struct pc *pc, struct error *err)
{
    struct timer_queue *queue = pc->config.queue;
    pc->apic_bus = apic_bus_create();
    pc->ioapic = pc->apic_bus != NULL ? ioapic_create(pc->apic_bus, (uint8_t)pc->cpu_count) : NULL;
    pc->pci = pci_host_create(pc->config.memory);
    if (pc->ioapic == NULL || pc->pci == NULL || !pc_create_processors(pc, err))
        return error_set(err, "out of memory");
    pc->pic = i8259_create((struct irq_line){.set = pic_output, .opaque = pc});
    for (unsigned i = 0; i < ISA_IRQS; i++)
        pc->wire[i].out = (struct irq_line){.set = isa_irq, .opaque = pc, .n = i};
    pc->pit = i8254_create(queue, pc_timer_wire(pc));
    pc->rtc = mc146818_create(queue, pc_rtc_wire(pc), (int64_t)(pc->config.wall_base_ns / NS_PER_S));
    pc->com1 = uart16550_create(queue, wire(pc, IRQ_COM1, WIRE_LEGACY), pc->config.serial);
    const struct i8042_lines lines = {
        .keyboard = wire(pc, IRQ_KEYBOARD, WIRE_LEGACY),
        .mouse = wire(pc, IRQ_MOUSE, WIRE_LEGACY),
        .a20 = {.set = a20_from_kbc, .opaque = pc},
        .reset = {.set = reset_from_kbc, .opaque = pc},
    };
    pc->kbc = i8042_create(queue, &lines);
    pc->port92 = port92_create((struct irq_line){.set = a20_from_port92, .opaque = pc}, reset_from_port92, pc);
    pc->debugexit = debugexit_create(debug_exit, pc);
    pc->pvpanic = pvpanic_create(panic_event, pc);
    pc->debugcon = debugcon_create(&(struct debugcon_sink){.byte = debugcon_byte, .opaque = pc});
    return true;
}

/* A write by a PCI function: to the local APICs, or to memory as any other. */
static void pci_message(void *opaque, gpa_t gpa, uint32_t data)
{
    struct pc *pc = opaque;
    if (!apic_bus_msi(pc->apic_bus, gpa, data))
        memory_write(pc->config.memory, gpa, &data, sizeof data);
}

static bool create_bridges(struct pc *pc, struct error *err)
{
    pci_host_set_message_sink(pc->pci, pci_message, pc);
    pc->i440fx = i440fx_create(pc->pci, &pc_shadow_ops, pc, err);
    struct piix3_config config = {.reset = reset_from_rcr, .opaque = pc};
    for (unsigned i = 0; i < ISA_IRQS; i++)
        config.isa[i] = wire(pc, i, WIRE_PIRQ);
    if (pc->i440fx == NULL || (pc->piix3 = piix3_create(pc->pci, PIIX_SLOT, &config, err)) == NULL)
        return false;
    struct irq_line pirq[4];
    for (unsigned i = 0; i < 4; i++)
        pirq[i] = (struct irq_line){.set = piix3_set_pirq, .opaque = pc->piix3, .n = i};
    pci_host_wire(pc->pci, pirq);
    const struct piix4_pm_config pm = {.default_base = PORT_PM,
                                       .timer_32bit = true,
                                       .sci = wire(pc, IRQ_SCI, WIRE_SCI),
                                       .power_off = request_power_off,
                                       .opaque = pc};
    pc->pm = piix4_pm_create(pc->pci, pc->config.memory, PIIX_SLOT, pc->config.queue, &pm, err);
    return pc->pm != NULL;
}

static bool map_ports(struct pc *pc, struct error *err)
{
    const struct {
        uint16_t port;
        unsigned count;
        const struct io_ops *ops;
        void *dev;
    } map[] = {
        {PORT_PIC_MASTER, 2, &i8259_master_ops, pc->pic},
        {PORT_PIC_SLAVE, 2, &i8259_slave_ops, pc->pic},
        {PORT_ELCR, 2, &i8259_elcr_ops, pc->pic},
        {PORT_PIT, 4, &i8254_ops, pc->pit},
        {PORT_SYSTEM_B, 1, &i8254_port61_ops, pc->pit},
        {PORT_KBC_DATA, 1, &i8042_data_ops, pc->kbc},
        {PORT_KBC_COMMAND, 1, &i8042_command_ops, pc->kbc},
        {PORT_RTC, 4, &mc146818_ops, pc->rtc},
        {PORT_SYSTEM_A, 1, &port92_ops, pc->port92},
        {PORT_APM, 2, &piix4_apm_ops, pc->pm},
        {PORT_DEBUG_EXIT, DEBUGEXIT_SIZE, &debugexit_ops, pc->debugexit},
        {PORT_COM1, 8, &uart16550_ops, pc->com1},
        {PORT_DEBUGCON, 1, &debugcon_ops, pc->debugcon},
        {PORT_PVPANIC, 1, &pvpanic_ops, pc->pvpanic},
        {PORT_PCI_ADDRESS, 4, &pci_address_ops, pc->pci},
        {PORT_RCR, 1, &piix3_reset_ops, pc->piix3}, /* within the four above, for byte accesses */
        {PORT_PCI_DATA, 4, &pci_data_ops, pc->pci},
    };
    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (!memory_map_ports(pc->config.memory, map[i].port, map[i].count, map[i].ops, map[i].dev, err))
            return false;
    return memory_map_mmio(pc->config.memory, IOAPIC_BASE, IOAPIC_SIZE, &ioapic_mmio_ops, pc->ioapic, err);
}

static void set_cmos_memory(struct pc *pc)
{
    uint64_t size = memory_ram_size(pc->config.memory);
    uint64_t low = size < MEMORY_LOW_MAX ? size : MEMORY_LOW_MAX;
    uint64_t extended_kib = low > MiB ? (low - MiB) / KiB : 0;
    uint64_t above_16m = low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0;
    uint64_t high = (size - low) / (64 * KiB);
    if (extended_kib > 0xffff)
        extended_kib = 0xffff;
    const uint16_t base_kib = 640;
    const struct {
        uint8_t index, value;
    } bytes[] = {
        {0x14, 0x06}, /* equipment: coprocessor, mouse */
        {0x15, base_kib & 0xff}, {0x16, base_kib >> 8},
        {0x17, (uint8_t)extended_kib}, {0x18, (uint8_t)(extended_kib >> 8)},
        {0x30, (uint8_t)extended_kib}, {0x31, (uint8_t)(extended_kib >> 8)},
        {0x34, (uint8_t)above_16m}, {0x35, (uint8_t)(above_16m >> 8)},
        {0x5b, (uint8_t)high}, {0x5c, (uint8_t)(high >> 8)}, {0x5d, (uint8_t)(high >> 16)},
        {0x5f, (uint8_t)(pc->cpu_count - 1)},
    };
    for (unsigned i = 0; i < ARRAY_LEN(bytes); i++)
        mc146818_set_cmos(pc->rtc, bytes[i].index, bytes[i].value);
    pc_set_cmos_diskettes(pc);
}

struct pc *pc_create(const struct pc_config *config, struct error *err)
{
    struct pc *pc = calloc(1, sizeof *pc + config->cpu_count * sizeof pc->cpus[0]);
    if (pc == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    pc->config = *config;
    pc->cpu_count = config->cpu_count;
    if (!pc_open_drives(pc, err) || !create_chips(pc, err) || !pc_create_firmware(pc, err) || !pc_create_legacy(pc, err) ||
        !create_bridges(pc, err) || !pc_create_ide(pc, err) || !pc_create_video(pc, err) || !pc_create_virtio(pc, err) ||
        !pc_create_virtio_disks(pc, err) || !map_ports(pc, err)) {
        pc_destroy(pc);
        return NULL;
    }
    set_cmos_memory(pc); /* as setup leaves it, once: CMOS is on a battery */
    pc_reset(pc);
    pc->cpu_signature = cpuid_query(pc->cpus[0].vcpu, 1, 0).eax;
    pc->cpu_features = cpuid_query(pc->cpus[0].vcpu, 1, 0).edx;
    if (!pc_finish_firmware(pc, err)) {
        pc_destroy(pc);
        return NULL;
    }
    return pc;
}

void pc_destroy(struct pc *pc)
{
    if (pc == NULL)
        return;
    pc_unplug_virtio(pc);
    pc_destroy_video(pc);
    ide_destroy(pc->ide);
    if (pc->pm != NULL)
        piix4_pm_destroy(pc->pm);
    if (pc->piix3 != NULL)
        piix3_destroy(pc->piix3);
    if (pc->i440fx != NULL)
        i440fx_destroy(pc->i440fx);
    pc_destroy_legacy(pc);
    pc_destroy_firmware(pc);
    if (pc->pci != NULL)
        pci_host_destroy(pc->pci);
    pc_destroy_virtio(pc);
    pc_destroy_virtio_disks(pc);
    if (pc->debugcon != NULL) {
        debugcon_destroy(pc->debugcon);
        pvpanic_destroy(pc->pvpanic);
        debugexit_destroy(pc->debugexit);
        port92_destroy(pc->port92);
        i8042_destroy(pc->kbc);
        uart16550_destroy(pc->com1);
        mc146818_destroy(pc->rtc);
        i8254_destroy(pc->pit);
        i8259_destroy(pc->pic);
    }
    for (unsigned i = 0; i < pc->cpu_count; i++)
        if (pc->cpus[i].lapic != NULL)
            lapic_destroy(pc->cpus[i].lapic);
    if (pc->ioapic != NULL)
        ioapic_destroy(pc->ioapic);
    if (pc->apic_bus != NULL)
        apic_bus_destroy(pc->apic_bus);
    pc_close_drives(pc);
    free(pc);
}

/* ---- reset, and what firmware leaves behind ---- */

static void set_pci_routing(struct pc *pc)
{
    static const uint8_t route[4] = {IRQ_PCI_A, IRQ_PCI_A, IRQ_PCI_B, IRQ_PCI_B};
    for (unsigned i = 0; i < 4; i++)
        pci_host_write(pc->pci, PIIX_SLOT, 0, PIIX3_PIRQ_ROUTE + i, 1, route[i]);
    /* Each function is told its interrupt: where a kernel without ACPI looks. */
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned function = 0; function < PCI_FUNCTIONS; function++) {
            unsigned pin = pci_host_read(pc->pci, slot, function, PCI_INTERRUPT_PIN, 1);
            if (pin >= 1 && pin <= 4)
                pci_host_write(pc->pci, slot, function, PCI_INTERRUPT_LINE, 1, route[pci_route_pin(slot, pin)]);
        }
    }
    /* PCI interrupts and the SCI are level-triggered at the 8259s. */
    uint8_t level_slave = 1u << (IRQ_SCI - 8) | 1u << (IRQ_PCI_A - 8) | 1u << (IRQ_PCI_B - 8);
    memory_port_write(pc->config.memory, PORT_ELCR + 1, 1, level_slave);
}

/* The 8259s as a BIOS leaves them: vectors 8h and 70h, everything masked but the cascade. A kernel that comes with its own
 * tables programs them anew. */
static void set_pic(struct pc *pc)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } script[] = {
        {PORT_PIC_MASTER, 0x11}, {PORT_PIC_MASTER + 1, 0x08}, {PORT_PIC_MASTER + 1, 0x04},
        {PORT_PIC_MASTER + 1, 0x01}, {PORT_PIC_MASTER + 1, 0xfb},
        {PORT_PIC_SLAVE, 0x11}, {PORT_PIC_SLAVE + 1, 0x70}, {PORT_PIC_SLAVE + 1, 0x02},
        {PORT_PIC_SLAVE + 1, 0x01}, {PORT_PIC_SLAVE + 1, 0xff},
    };
    for (unsigned i = 0; i < ARRAY_LEN(script); i++)
        memory_port_write(pc->config.memory, script[i].port, 1, script[i].value);
}

void pc_reset(struct pc *pc)
{
    pci_host_reset(pc->pci);
    pc_reset_video(pc);
    i8259_reset(pc->pic);
    i8254_reset(pc->pit);
    mc146818_reset(pc->rtc);
    uart16550_reset(pc->com1);
    i8042_reset(pc->kbc);
    port92_reset(pc->port92);
    pc_reset_legacy(pc);
    ioapic_reset(pc->ioapic);
    pc_reset_processors(pc);
    pc->a20_kbc = pc->a20_port92 = true; /* a kernel started directly finds A20 open */
    a20_changed(pc);
    pc_reset_firmware(pc);
    if (pc->firmware != NULL)
        return; /* which does the rest */
    set_cmos_memory(pc);
    set_pci_routing(pc);
    pc_setup_ide(pc);
    set_pic(pc);
}

/* ---- the user ---- */

bool pc_power_button(struct pc *pc)
{
    return piix4_pm_power_button(pc->pm);
}

void pc_key(struct pc *pc, unsigned key, bool down)
{
    i8042_key(pc->kbc, key, down);
}

bool pc_key_is_behind(const struct pc *pc)
{
    return i8042_key_is_behind(pc->kbc);
}

void pc_nmi(struct pc *pc)
{
    for (unsigned i = 0; i < pc->cpu_count; i++) {
        lapic_set_lint(pc->cpus[i].lapic, 1, true);
        lapic_set_lint(pc->cpus[i].lapic, 1, false);
    }
}

void pc_describe(const struct pc *pc, enum pc_part part, unsigned cpu, FILE *out)
{
    check(cpu < pc->cpu_count);
    switch (part) {
    case PC_PIC: i8259_describe(pc->pic, out); break;
    case PC_IOAPIC: ioapic_describe(pc->ioapic, out); break;
    case PC_LAPIC: lapic_describe(pc->cpus[cpu].lapic, out); break;
    case PC_VGA: pc_describe_video(pc, out); break;
    }
}

void pc_describe_acpi(const struct pc *pc, struct acpi_description *description)
{
    *description = (struct acpi_description){
        .cpu_count = pc->cpu_count,
        .local_apic_gpa = LAPIC_DEFAULT_BASE,
        .cpu_signature = pc->cpu_signature,
        .cpu_features = pc->cpu_features,
        .io_apic_id = (uint8_t)pc->cpu_count,
        .io_apic_gpa = IOAPIC_BASE,
        .has_pic = true,
        .overrides =
            {
                {.isa_irq = IRQ_TIMER, .gsi = 2, .flags = ACPI_INTI_BUS},
                {.isa_irq = IRQ_SCI, .gsi = IRQ_SCI, .flags = ACPI_INTI_HIGH | ACPI_INTI_LEVEL},
                {.isa_irq = IRQ_PCI_A, .gsi = IRQ_PCI_A, .flags = ACPI_INTI_HIGH | ACPI_INTI_LEVEL},
                {.isa_irq = IRQ_PCI_B, .gsi = IRQ_PCI_B, .flags = ACPI_INTI_HIGH | ACPI_INTI_LEVEL},
            },
        .override_count = 4,
        .sci_irq = IRQ_SCI,
        .pm1a_event = PORT_PM + PIIX4_PM1A_EVT,
        .pm1a_control = PORT_PM + PIIX4_PM1A_CNT,
        .pm_timer = PORT_PM + PIIX4_PM_TMR,
        .pm_timer_32bit = true,
        .gpe0 = PORT_PM + PIIX4_GPE0,
        .gpe0_size = 4,
        .smi_command = PORT_APM,
        .acpi_enable = PIIX4_ACPI_ENABLE,
        .acpi_disable = PIIX4_ACPI_DISABLE,
        .has_power_button = true,
        .s5_type = PIIX4_SLP_TYP_S5,
        .reset_port = PORT_RCR,
        .reset_value = RCR_FULL_RESET,
        .pci_memory = {.base = PCI_HOLE_BASE, .size = PCI_HOLE_END - PCI_HOLE_BASE},
        .pci_pic_irq = {IRQ_PCI_A, IRQ_PCI_A, IRQ_PCI_B, IRQ_PCI_B},
        .pci_gsi = {IRQ_PCI_A, IRQ_PCI_A, IRQ_PCI_B, IRQ_PCI_B},
        .pci_swizzle = (uint8_t)pci_route_pin(0, 1), /* slot 0's INTA; the rest follows by rotation */
        .has_vga = pc_has_vga(pc),
        .isa_bridge_slot = PIIX_SLOT,
        .com1_port = PORT_COM1,
        .com1_irq = IRQ_COM1,
        .has_rtc = true,
        .has_i8042 = true,
        .pvpanic_port = PORT_PVPANIC,
        .hpet_gpa = HPET_BASE,
        .fdc_port = pc_drive(pc, DRIVE_FLOPPY, 0) != NULL || pc_drive(pc, DRIVE_FLOPPY, 1) != NULL ? PORT_FDC : 0,
    };
}
