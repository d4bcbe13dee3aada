/* The PCI bus and its chipset functions (440FX, PIIX3, PIIX4 PM), through the ports that a PC has. */
#include "device_test.h"

#include "device/i440fx.h"
#include "device/irq_or.h"
#include "device/pci.h"
#include "device/piix3.h"
#include "device/piix4_pm.h"

#define CF8 0xcf8
#define CFC 0xcfc
#define PM_BASE 0x600

enum { LINE_ISA0 = 0, LINE_SCI = 16, LINE_OR = 17 };

struct pci_bench {
    struct bench bench;
    struct memory *memory;
    struct pci_host *host;
    struct i440fx *i440fx;
    struct piix3 *piix3;
    struct piix4_pm *pm;
    struct pci_function *nic;
    uint64_t nic_value; /* what was written to its ranges last */
    unsigned resets, hard_resets, power_offs, pam_calls;
    gpa_t pam_base;
    bool pam_read, pam_write, smram_open;
};

static uint64_t nic_read(void *dev, uint64_t offset, unsigned size)
{
    return 0x5a5a5a5a00000000 | 0xa0 | offset;
}

static void nic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    ((struct pci_bench *)dev)->nic_value = value;
}

static const struct io_ops nic_ops = {.read = nic_read, .write = nic_write, .name = "test card"};

static void pam(void *opaque, gpa_t base, uint64_t size, bool read_ram, bool write_ram)
{
    struct pci_bench *b = opaque;
    b->pam_calls++;
    b->pam_base = base;
    b->pam_read = read_ram;
    b->pam_write = write_ram;
}

static void smram(void *opaque, bool enabled, bool open, bool closed)
{
    ((struct pci_bench *)opaque)->smram_open = enabled && open;
}

static void reset(void *opaque, bool hard)
{
    ((struct pci_bench *)opaque)->resets++;
    ((struct pci_bench *)opaque)->hard_resets += hard;
}

static void power_off(void *opaque)
{
    ((struct pci_bench *)opaque)->power_offs++;
}

static int setup(void **state)
{
    static const struct i440fx_ops bridge_ops = {.pam = pam, .smram = smram};
    static const struct pci_function_desc nic = {.vendor_id = 0x1af4,
                                                 .device_id = 0x1041,
                                                 .class_code = 0x020000,
                                                 .subsystem_vendor_id = 0x1af4,
                                                 .subsystem_id = 1,
                                                 .interrupt_pin = 1};
    struct pci_bench *b = test_calloc(1, sizeof *b);
    bench_init(&b->bench);
    b->memory = memory_create(1 * MiB, NULL, NULL);
    b->host = pci_host_create(b->memory);
    b->i440fx = i440fx_create(b->host, &bridge_ops, b, NULL);
    struct piix3_config piix3 = {.reset = reset, .opaque = b};
    for (unsigned i = 0; i < 16; i++)
        piix3.isa[i] = bench_line(&b->bench, LINE_ISA0 + i);
    b->piix3 = piix3_create(b->host, 1, &piix3, NULL);
    struct irq_line pirq[4];
    for (unsigned i = 0; i < 4; i++)
        pirq[i] = (struct irq_line){.set = piix3_set_pirq, .opaque = b->piix3, .n = i};
    pci_host_wire(b->host, pirq);
    struct piix4_pm_config pm = {
        .default_base = PM_BASE, .sci = bench_line(&b->bench, LINE_SCI), .power_off = power_off, .opaque = b};
    b->pm = piix4_pm_create(b->host, b->memory, 1, &b->bench.queue, &pm, NULL);
    b->nic = pci_add_function(b->host, 3, 0, &nic, b, NULL);
    pci_set_bar(b->nic, 0, PCI_BAR_IO, false, 32, &nic_ops, b);
    pci_set_bar(b->nic, 1, PCI_BAR_MEMORY, false, 4096, &nic_ops, b);
    pci_set_bar(b->nic, 2, PCI_BAR_MEMORY64, true, 16384, &nic_ops, b);
    memory_map_ports(b->memory, CF8, 4, &pci_address_ops, b->host, NULL);
    memory_map_ports(b->memory, CFC, 4, &pci_data_ops, b->host, NULL);
    memory_map_ports(b->memory, 0xcf9, 1, &piix3_reset_ops, b->piix3, NULL);
    memory_map_ports(b->memory, 0xb2, 2, &piix4_apm_ops, b->pm, NULL);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct pci_bench *b = *state;
    pci_host_destroy(b->host);
    i440fx_destroy(b->i440fx);
    piix3_destroy(b->piix3);
    piix4_pm_destroy(b->pm);
    memory_destroy(b->memory);
    test_free(b);
    return 0;
}

static uint32_t in(struct pci_bench *b, uint16_t port, unsigned size)
{
    return memory_port_read(b->memory, port, size);
}

static void out(struct pci_bench *b, uint16_t port, unsigned size, uint32_t value)
{
    memory_port_write(b->memory, port, size, value);
}

static uint32_t config_get(struct pci_bench *b, unsigned slot, unsigned function, unsigned offset, unsigned size)
{
    out(b, CF8, 4, 0x80000000 | slot << 11 | function << 8 | (offset & 0xfc));
    return in(b, (uint16_t)(CFC + (offset & 3)), size);
}

static void config_put(struct pci_bench *b, unsigned slot, unsigned function, unsigned offset, unsigned size,
                       uint32_t value)
{
    out(b, CF8, 4, 0x80000000 | slot << 11 | function << 8 | (offset & 0xfc));
    out(b, (uint16_t)(CFC + (offset & 3)), size, value);
}

static void test_mechanism(void **state)
{
    struct pci_bench *b = *state;
    out(b, CF8, 4, 0xffffffff);
    assert_int_equal(in(b, CF8, 4), 0x80fffffc);
    out(b, CF8, 1, 0);
    out(b, CF8 + 3, 1, 1);
    assert_int_equal(in(b, CF8, 4), 0x80fffffc);
    assert_int_equal(in(b, CF8, 1), 0xff);
    assert_int_equal(config_get(b, 0, 0, 0, 4), 0x12378086);
    assert_int_equal(config_get(b, 0, 0, 2, 2), 0x1237);
    assert_int_equal(config_get(b, 0, 0, 3, 1), 0x12);
    assert_int_equal(config_get(b, 1, 0, 0, 4), 0x70008086);
    assert_int_equal(config_get(b, 1, 0, 14, 1), 0x80);
    assert_int_equal(config_get(b, 1, 3, 0, 4), 0x71138086);
    assert_int_equal(config_get(b, 1, 3, 8, 4), 0x06800003);
    assert_int_equal(config_get(b, 3, 0, 8, 4), 0x02000000);
    assert_int_equal(config_get(b, 3, 0, 14, 1), 0);
    assert_int_equal(config_get(b, 5, 0, 0, 4), 0xffffffff);
    assert_int_equal(config_get(b, 3, 1, 0, 2), 0xffff);
    config_put(b, 5, 0, 4, 4, 7);
    config_put(b, 3, 0, 0, 4, 0); /* read-only */
    assert_int_equal(config_get(b, 3, 0, 0, 4), 0x10411af4);
    out(b, CF8, 4, 0x80010000 | 3 << 11); /* bus 1 */
    assert_int_equal(in(b, CFC, 4), 0xffffffff);
    out(b, CF8, 4, 3 << 11); /* not enabled */
    assert_int_equal(in(b, CFC, 4), 0xffffffff);
    assert_int_equal(in(b, CFC + 2, 4), 0xffffffff);
    assert_int_equal(pci_free_slot(b->host, 0), 2);
    assert_null(pci_add_function(b->host, 3, 0, &(struct pci_function_desc){0}, b, NULL));
    assert_null(pci_add_function(b->host, 32, 0, &(struct pci_function_desc){0}, b, NULL));
}

static void test_bars(void **state)
{
    struct pci_bench *b = *state;
    config_put(b, 3, 0, 4, 2, 7); /* enabled before they are set: nothing mapped */
    for (unsigned i = 0; i < 6; i++)
        config_put(b, 3, 0, 0x10 + 4 * i, 4, 0xffffffff);
    assert_int_equal(config_get(b, 3, 0, 0x10, 4), 0xffffffe1);
    assert_int_equal(config_get(b, 3, 0, 0x14, 4), 0xfffff000);
    assert_int_equal(config_get(b, 3, 0, 0x18, 4), 0xffffc00c);
    assert_int_equal(config_get(b, 3, 0, 0x1c, 4), 0xffffffff);
    assert_int_equal(config_get(b, 3, 0, 0x20, 4), 0);
    assert_null(memory_mmio_name(b->memory, 0xfffff000));
    assert_null(memory_port_name(b->memory, 0xffe0));
    config_put(b, 3, 0, 0x10, 4, 0xc000);
    config_put(b, 3, 0, 0x14, 4, 0xfeb00000);
    config_put(b, 3, 0, 0x18, 4, 0x00004000);
    config_put(b, 3, 0, 0x1c, 4, 0x8);
    assert_int_equal(in(b, 0xc005, 1), 0xa5);
    assert_int_equal(memory_mmio_read(b->memory, 0xfeb00010, 1), 0xb0);
    assert_int_equal(memory_mmio_read(b->memory, 0x800004004, 8), 0x5a5a5a5a000000a4);
    out(b, 0xc01c, 4, 0x1234);
    assert_int_equal(b->nic_value, 0x1234);
    config_put(b, 3, 0, 0x14, 4, 0xfeb10000); /* moves */
    assert_int_equal(memory_mmio_read(b->memory, 0xfeb00010, 1), 0xff);
    assert_int_equal(memory_mmio_read(b->memory, 0xfeb10010, 1), 0xb0);
    config_put(b, 3, 0, 4, 2, 1); /* I/O only */
    assert_int_equal(memory_mmio_read(b->memory, 0xfeb10010, 1), 0xff);
    assert_int_equal(in(b, 0xc005, 1), 0xa5);
    config_put(b, 3, 0, 0x10, 4, 0x1c000); /* beyond the ports */
    assert_int_equal(in(b, 0xc005, 1), 0xff);
    config_put(b, 3, 0, 0x10, 4, 0xce0); /* over the configuration ports, and away again */
    assert_int_equal(in(b, 0xcf8, 1), 0xb8);
    pci_host_write(b->host, 3, 0, 0x10, 4, 0xc000);
    assert_int_equal(config_get(b, 3, 0, 0, 2), 0x1af4);
    pci_host_reset(b->host);
    assert_int_equal(in(b, 0xc005, 1), 0xff);
    assert_int_equal(config_get(b, 3, 0, 0x10, 4), 1);
    assert_int_equal(config_get(b, 3, 0, 4, 2), 0);
}

/* The expansion ROM: sized with the enable bit clear or set, seen while it and memory space are enabled, above others that lie at
 * the same place, and gone with a reset. */
static void test_rom(void **state)
{
    struct pci_bench *b = *state;
    uint8_t image[5000];
    for (unsigned i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)(i * 7);
    assert_int_equal(config_get(b, 3, 0, PCI_EXPANSION_ROM, 4), 0);
    config_put(b, 3, 0, PCI_EXPANSION_ROM, 4, 0xffffffff); /* there is none yet */
    assert_int_equal(config_get(b, 3, 0, PCI_EXPANSION_ROM, 4), 0);
    struct error err;
    assert_false(pci_set_rom(b->nic, image, 0, &err));
    assert_false(pci_set_rom(b->nic, image, PCI_ROM_MAX + 1, &err));
    assert_true(pci_set_rom(b->nic, image, sizeof image, &err));
    config_put(b, 3, 0, PCI_EXPANSION_ROM, 4, 0xfffff800);
    assert_int_equal(config_get(b, 3, 0, PCI_EXPANSION_ROM, 4), 0xffffe000); /* 8 KiB */
    config_put(b, 3, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    config_put(b, 3, 0, PCI_EXPANSION_ROM, 4, 0xfffff801); /* an address that reaches to the end is none */
    assert_int_equal(memory_mmio_read(b->memory, 0xffffe001, 1), 0xff);
    config_put(b, 3, 0, PCI_EXPANSION_ROM, 4, 0xe0000000);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000001, 1), 0xff);
    config_put(b, 3, 0, PCI_EXPANSION_ROM, 4, 0xe0000001);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000001, 1), 7);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000000 + 4999, 1), image[4999]);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000000 + 5000, 1), 0xff);
    memory_mmio_write(b->memory, 0xe0000001, 1, 1);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000001, 1), 7);

    static uint8_t other[8192] __attribute__((aligned(4096)));
    memory_map_rom(b->memory, 0xe0000000, sizeof other, other, NULL);
    config_put(b, 3, 0, PCI_COMMAND, 2, 0);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000001, 1), 0); /* only its own is gone */
    memory_unmap_device(b->memory, 0xe0000000, other);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000001, 1), 0xff);
    config_put(b, 3, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000001, 1), 7);
    pci_host_reset(b->host);
    assert_int_equal(memory_mmio_read(b->memory, 0xe0000001, 1), 0xff);
    assert_int_equal(config_get(b, 3, 0, PCI_EXPANSION_ROM, 4), 0);
}

static void test_capabilities(void **state)
{
    struct pci_bench *b = *state;
    unsigned first = pci_add_capability(b->nic, 9, 16), second = pci_add_capability(b->nic, 0x11, 12);
    assert_int_equal(config_get(b, 3, 0, 6, 2) & 0x10, 0x10);
    assert_int_equal(config_get(b, 3, 0, 0x34, 1), first);
    assert_int_equal(config_get(b, 3, 0, first, 2), 9 | second << 8);
    assert_int_equal(config_get(b, 3, 0, second, 2), 0x11);
}

static void test_interrupts(void **state)
{
    struct pci_bench *b = *state;
    struct bench_line *irq11 = &b->bench.line[LINE_ISA0 + 11], *irq10 = &b->bench.line[LINE_ISA0 + 10];
    unsigned wire = pci_route_pin(3, 1);
    assert_int_equal(wire, 2);
    pci_irq(b->nic, true); /* not routed yet */
    assert_int_equal(config_get(b, 3, 0, 6, 2) & 8, 8);
    assert_int_equal(piix3_route(b->piix3, wire), -1);
    config_put(b, 1, 0, 0x60 + wire, 1, 0x0b);
    assert_int_equal(piix3_route(b->piix3, wire), 11);
    assert_true(irq11->level);
    config_put(b, 1, 0, 0x60, 1, 0x0b); /* PIRQA shares it */
    piix3_set_pirq(b->piix3, 0, true);
    pci_irq(b->nic, false);
    assert_true(irq11->level);
    piix3_set_pirq(b->piix3, 0, false);
    assert_false(irq11->level);
    assert_int_equal(irq11->rises, 1);
    pci_irq(b->nic, true);
    config_put(b, 1, 0, 0x60 + wire, 1, 0x0a); /* rerouted while asserted */
    assert_true(irq10->level && !irq11->level);
    config_put(b, 1, 0, 0x60 + wire, 1, 0x0d); /* IRQ 13 cannot be routed to */
    assert_false(irq10->level || b->bench.line[LINE_ISA0 + 13].level);
    config_put(b, 1, 0, 0x60 + wire, 1, 0x0a);
    config_put(b, 3, 0, 4, 2, 0x400); /* INTx disabled */
    assert_false(irq10->level);
    assert_int_equal(config_get(b, 3, 0, 6, 2) & 8, 8);
    config_put(b, 3, 0, 4, 2, 0);
    assert_true(irq10->level);
    pci_host_reset(b->host);
    assert_false(irq10->level);
}

static void test_or(void **state)
{
    struct pci_bench *b = *state;
    struct irq_or wire = {.out = bench_line(&b->bench, LINE_OR)};
    irq_or_set(&wire, 0, true);
    irq_or_set(&wire, 5, true);
    irq_or_set(&wire, 0, false);
    assert_true(b->bench.line[LINE_OR].level);
    irq_or_set(&wire, 5, false);
    assert_false(b->bench.line[LINE_OR].level);
    assert_int_equal(b->bench.line[LINE_OR].sets, 2);
}

static void test_bridge(void **state)
{
    struct pci_bench *b = *state;
    assert_int_equal(b->pam_calls, 13);
    config_put(b, 0, 0, 0x59, 1, 0x10);
    assert_int_equal(b->pam_base, 0xf0000);
    assert_true(b->pam_read && !b->pam_write);
    config_put(b, 0, 0, 0x5f, 1, 0x20);
    assert_int_equal(b->pam_base, 0xec000);
    assert_true(!b->pam_read && b->pam_write);
    assert_int_equal(b->pam_calls, 16);
    config_put(b, 0, 0, 0x5c, 4, 0x33333333);
    assert_int_equal(b->pam_calls, 24);
    config_put(b, 0, 0, 0x72, 1, 0x48);
    assert_true(b->smram_open);
    assert_int_equal(config_get(b, 0, 0, 0x72, 1), 0x4a);
    config_put(b, 0, 0, 0x72, 1, 0x58); /* locked */
    assert_int_equal(config_get(b, 0, 0, 0x72, 1), 0x1a);
    config_put(b, 0, 0, 0x72, 1, 0x40);
    assert_int_equal(config_get(b, 0, 0, 0x72, 1), 0x1a);
    assert_false(b->smram_open);
    pci_host_reset(b->host);
    config_put(b, 0, 0, 0x72, 1, 0x48);
    assert_true(b->smram_open);
}

static void test_reset_control(void **state)
{
    struct pci_bench *b = *state;
    out(b, 0xcf9, 1, 2);
    assert_int_equal(b->resets, 0);
    out(b, 0xcf9, 1, 6);
    assert_int_equal(b->hard_resets, 1);
    out(b, 0xcf9, 1, 4);
    assert_int_equal(b->resets, 2);
    assert_int_equal(b->hard_resets, 1);
    out(b, CF8, 4, 0x80000600); /* a double word is the bridge's */
    assert_int_equal(b->resets, 2);
}

static void test_pm_timer(void **state)
{
    struct pci_bench *b = *state;
    struct bench_line *sci = &b->bench.line[LINE_SCI];
    bench_advance(&b->bench, NS_PER_S);
    assert_int_equal(in(b, PM_BASE + 8, 4), 3579545);
    bench_advance(&b->bench, 2 * NS_PER_S); /* bit 23 toggles at 2.34 s */
    assert_int_equal(in(b, PM_BASE, 2), 1);
    out(b, PM_BASE, 2, 1);
    assert_int_equal(in(b, PM_BASE, 2), 0);
    out(b, PM_BASE + 2, 2, 1);
    out(b, 0xb2, 1, PIIX4_ACPI_ENABLE);
    assert_int_equal(in(b, PM_BASE + 4, 2), 1);
    assert_false(sci->level);
    bench_advance(&b->bench, 2 * NS_PER_S); /* wraps at 4.69 s */
    assert_true(sci->level);
    assert_int_equal(in(b, PM_BASE + 8, 4), 5 * 3579545 & 0xffffff);
    out(b, PM_BASE, 2, 1);
    assert_false(sci->level);
    assert_int_equal(sci->rises, 1);
    bench_advance(&b->bench, 2 * NS_PER_S + NS_PER_S / 10);
    assert_true(sci->level);
    out(b, 0xb2, 1, PIIX4_ACPI_DISABLE);
    assert_false(sci->level);
    assert_int_equal(in(b, 0xb2, 1), PIIX4_ACPI_DISABLE);
    out(b, 0xb3, 1, 0x77);
    assert_int_equal(in(b, 0xb2, 2), 0x77f0);
}

static void test_pm_events(void **state)
{
    struct pci_bench *b = *state;
    struct bench_line *sci = &b->bench.line[LINE_SCI];
    assert_false(piix4_pm_power_button(b->pm));
    assert_int_equal(in(b, PM_BASE, 2), 0x100);
    out(b, PM_BASE + 2, 2, 0x100);
    assert_false(sci->level);
    out(b, 0xb2, 1, PIIX4_ACPI_ENABLE);
    assert_true(sci->level);
    out(b, PM_BASE + 1, 1, 1);
    assert_false(sci->level);
    assert_true(piix4_pm_power_button(b->pm));
    out(b, PM_BASE, 2, 0xffff);
    piix4_pm_gpe(b->pm, 9);
    assert_false(sci->level);
    out(b, PM_BASE + 0xe, 2, 0x200);
    assert_true(sci->level);
    assert_int_equal(in(b, PM_BASE + 0xc, 4), 0x02000200);
    out(b, PM_BASE + 0xc, 2, 0x200);
    assert_false(sci->level);
    out(b, PM_BASE + 4, 2, 0x2401); /* S1: woken at once */
    assert_int_equal(b->power_offs, 0);
    assert_int_equal(in(b, PM_BASE, 2), 0x8000);
    assert_int_equal(in(b, PM_BASE + 4, 2), 0x0401);
    out(b, PM_BASE + 4, 2, 0x2001);
    assert_int_equal(b->power_offs, 1);
}

static void test_pm_base(void **state)
{
    struct pci_bench *b = *state;
    assert_int_equal(config_get(b, 1, 3, 0x40, 4), PM_BASE | 1);
    assert_int_equal(config_get(b, 1, 3, 0x5b, 1), 2); /* nobody has to set SMM up */
    config_put(b, 1, 3, 0x40, 4, 0xb000);
    assert_int_equal(in(b, PM_BASE + 8, 4), 0xffffffff);
    assert_int_not_equal(in(b, 0xb008, 4), 0xffffffff);
    config_put(b, 1, 3, 0x80, 1, 0);
    assert_int_equal(in(b, 0xb008, 4), 0xffffffff);
    config_put(b, 1, 3, 0x80, 1, 1);
    config_put(b, 1, 3, 0x40, 4, 0xffc0);
    assert_int_not_equal(in(b, 0xffc8, 4), 0xffffffff);
    pci_host_reset(b->host);
    assert_int_not_equal(in(b, PM_BASE + 8, 4), 0xffffffff);
}

/* A base address behind which lies device RAM: memory where the guest puts it, gone when it does not decode. */
static void test_ram_bar(void **state)
{
    struct memory *memory = memory_create_with_device_ram(1 * MiB, 64 * KiB, NULL, NULL);
    struct pci_host *host = pci_host_create(memory);
    static const struct pci_function_desc desc = {.vendor_id = 0x1234, .device_id = 0x1111, .class_code = 0x030000};
    struct pci_function *function = pci_add_function(host, 2, 0, &desc, host, NULL);
    uint64_t offset;
    assert_true(memory_take_device_ram(memory, 64 * KiB, &offset, NULL));
    pci_set_bar_ram(function, 0, PCI_BAR_MEMORY, true, 64 * KiB, offset, host);
    pci_host_write(host, 2, 0, PCI_BAR0, 4, 0xffffffff);
    assert_int_equal(pci_host_read(host, 2, 0, PCI_BAR0, 4), 0xffff0008);
    pci_host_write(host, 2, 0, PCI_BAR0, 4, 0xd0000000);
    assert_int_equal(memory_page(memory, 0xd0000000).kind, PAGE_NONE);
    pci_host_write(host, 2, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(memory_page(memory, 0xd000f000).kind, PAGE_RAM);
    assert_ptr_equal(memory_page(memory, 0xd000f000).hva, memory_ram_base(memory) + offset + 0xf000);
    pci_host_write(host, 2, 0, PCI_BAR0, 4, 0xe0000000);
    assert_int_equal(memory_page(memory, 0xd0000000).kind, PAGE_NONE);
    assert_int_equal(memory_page(memory, 0xe0000000).kind, PAGE_RAM);
    pci_host_reset(host);
    assert_int_equal(memory_page(memory, 0xe0000000).kind, PAGE_NONE);
    pci_host_destroy(host);
    memory_destroy(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_mechanism, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bars, setup, teardown),
        cmocka_unit_test(test_ram_bar),
        cmocka_unit_test_setup_teardown(test_rom, setup, teardown),
        cmocka_unit_test_setup_teardown(test_capabilities, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_or, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bridge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset_control, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pm_timer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pm_events, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pm_base, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
