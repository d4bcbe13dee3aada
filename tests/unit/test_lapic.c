/* Local APIC and I/O APIC, by register accesses and messages. */
#include "device_test.h"

#include <stdlib.h>

#include "device/apic_bus.h"
#include "device/ioapic.h"
#include "device/lapic.h"

#define CPUS 3u
#define PV_EOI_GPA 0x2000u

enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, APR = 0x90, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0 };
enum { ISR = 0x100, TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR_HIGH = 0x310, LVT_TIMER = 0x320 };
enum { LVT_LINT0 = 0x350, LVT_LINT1 = 0x360, LVT_ERROR = 0x370, TMICT = 0x380, TMCCT = 0x390, TDCR = 0x3e0 };

struct cpu {
    bool intr;
    unsigned nmis, smis, inits, sipis, base_changes;
    uint8_t sipi_vector;
    uint64_t tsc_behind_ns;
};

struct apic_bench {
    struct bench bench;
    struct memory *memory;
    struct apic_bus *bus;
    struct lapic *lapic[CPUS];
    struct ioapic *ioapic;
    struct cpu cpu[CPUS];
};

static void cpu_intr(void *opaque, bool pending)
{
    struct cpu *cpu = opaque;
    assert_int_not_equal(cpu->intr, pending);
    cpu->intr = pending;
}

static void cpu_nmi(void *opaque)
{
    ((struct cpu *)opaque)->nmis++;
}

static void cpu_smi(void *opaque)
{
    ((struct cpu *)opaque)->smis++;
}

static void cpu_init(void *opaque)
{
    ((struct cpu *)opaque)->inits++;
}

static void cpu_sipi(void *opaque, uint8_t vector)
{
    ((struct cpu *)opaque)->sipis++;
    ((struct cpu *)opaque)->sipi_vector = vector;
}

static void cpu_base_changed(void *opaque, uint64_t base)
{
    ((struct cpu *)opaque)->base_changes++;
}

static uint64_t cpu_tsc_to_ns(void *opaque, uint64_t tsc)
{
    return tsc + ((struct cpu *)opaque)->tsc_behind_ns;
}

static const struct lapic_cpu_ops cpu_ops = {.intr = cpu_intr,
                                             .nmi = cpu_nmi,
                                             .smi = cpu_smi,
                                             .init = cpu_init,
                                             .sipi = cpu_sipi,
                                             .base_changed = cpu_base_changed,
                                             .tsc_to_ns = cpu_tsc_to_ns};

static int setup(void **state)
{
    struct apic_bench *b = calloc(1, sizeof *b);
    bench_init(&b->bench);
    b->memory = memory_create(64 * KiB, NULL, NULL);
    b->bus = apic_bus_create();
    for (unsigned i = 0; i < CPUS; i++) {
        struct lapic_config config = {.id = i, .bsp = i == 0, .phys_bits = 39, .ops = &cpu_ops, .opaque = &b->cpu[i]};
        b->lapic[i] = lapic_create(b->bus, &b->bench.queue, b->memory, &config);
    }
    b->ioapic = ioapic_create(b->bus, 5);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct apic_bench *b = *state;
    ioapic_destroy(b->ioapic);
    for (unsigned i = 0; i < CPUS; i++)
        lapic_destroy(b->lapic[i]);
    apic_bus_destroy(b->bus);
    memory_destroy(b->memory);
    free(b);
    return 0;
}

static uint32_t get(struct apic_bench *b, unsigned cpu, unsigned offset)
{
    return (uint32_t)bench_read(&lapic_mmio_ops, b->lapic[cpu], offset, 4);
}

static void put(struct apic_bench *b, unsigned cpu, unsigned offset, uint32_t value)
{
    bench_write(&lapic_mmio_ops, b->lapic[cpu], offset, 4, value);
}

static void enable_all(struct apic_bench *b)
{
    for (unsigned i = 0; i < CPUS; i++)
        put(b, i, SVR, 0x1ff);
}

static void fixed(struct apic_bench *b, uint32_t dest, uint8_t vector)
{
    apic_bus_deliver(b->bus, &(struct apic_message){.dest = dest, .vector = vector, .asserted = true});
}

static void test_reset_values(void **state)
{
    struct apic_bench *b = *state;
    assert_int_equal(get(b, 1, ID), 1u << 24);
    assert_int_equal(get(b, 0, VERSION), 0x01050014);
    assert_int_equal(get(b, 0, SVR), 0xff);
    assert_int_equal(get(b, 0, DFR), 0xffffffff);
    for (unsigned lvt = LVT_TIMER; lvt <= LVT_ERROR; lvt += 0x10)
        assert_int_equal(get(b, 0, lvt), 0x10000);
    put(b, 0, LVT_TIMER, 0x30); /* cannot be unmasked while disabled by software */
    assert_int_equal(get(b, 0, LVT_TIMER), 0x10030);
    fixed(b, 0, 0x50);
    assert_int_equal(lapic_ack(b->lapic[0]), -1);
    uint64_t base;
    assert_true(lapic_msr_read(b->lapic[0], MSR_IA32_APIC_BASE, &base));
    assert_int_equal(base, 0xfee00900);
}

static void test_priorities(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    fixed(b, 0, 0x35);
    assert_true(b->cpu[0].intr);
    assert_int_equal(get(b, 0, IRR + 0x10), 1u << 21);
    fixed(b, 0, 0x41);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x41);
    assert_int_equal(get(b, 0, PPR), 0x40);
    assert_false(lapic_has_interrupt(b->lapic[0]));
    fixed(b, 0, 0x4f); /* the same class waits */
    assert_false(b->cpu[0].intr);
    fixed(b, 0, 0x51);
    assert_true(b->cpu[0].intr);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x51);
    put(b, 0, EOI, 0);
    assert_int_equal(get(b, 0, PPR), 0x40);
    put(b, 0, EOI, 0);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x4f);
    put(b, 0, EOI, 0);
    lapic_cr8_write(b->lapic[0], 3);
    assert_int_equal(get(b, 0, TPR), 0x30);
    assert_int_equal(lapic_ack(b->lapic[0]), -1);
    put(b, 0, TPR, 0x2f);
    assert_int_equal(lapic_cr8_read(b->lapic[0]), 2);
    assert_int_equal(get(b, 0, PPR), 0x2f);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x35);
    put(b, 0, EOI, 0);
    put(b, 0, EOI, 0); /* one too many */
    assert_int_equal(lapic_ack(b->lapic[0]), -1);
}

static void test_destinations(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    put(b, 0, ICR_HIGH, 2u << 24);
    put(b, 0, ICR, 0x4060);
    assert_int_equal(lapic_ack(b->lapic[2]), 0x60);
    assert_false(b->cpu[0].intr || b->cpu[1].intr);
    put(b, 0, ICR, 0x40000 | 0x61); /* self */
    assert_int_equal(lapic_ack(b->lapic[0]), 0x61);
    put(b, 0, ICR, 0xc0000 | 0x71); /* others */
    assert_false(b->cpu[0].intr);
    assert_int_equal(lapic_ack(b->lapic[1]), 0x71);
    assert_int_equal(lapic_ack(b->lapic[2]), 0x71);
    put(b, 0, ICR, 0x80000 | 0x81); /* all */
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(lapic_ack(b->lapic[i]), 0x81);
    put(b, 0, ICR_HIGH, 0xff000000);
    put(b, 0, ICR, 0x91);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(lapic_ack(b->lapic[i]), 0x91);
    /* Flat logical. */
    for (unsigned i = 0; i < CPUS; i++)
        put(b, i, LDR, 1u << (24 + i));
    put(b, 0, ICR_HIGH, 6u << 24);
    put(b, 0, ICR, 0x8a1);
    assert_int_equal(lapic_ack(b->lapic[0]), -1);
    assert_int_equal(lapic_ack(b->lapic[1]), 0xa1);
    assert_int_equal(lapic_ack(b->lapic[2]), 0xa1);
    /* Clusters: 0 and 1 in cluster 1, 2 in cluster 2. */
    for (unsigned i = 0; i < CPUS; i++)
        put(b, i, DFR, 0x0fffffff);
    put(b, 0, LDR, 0x11u << 24);
    put(b, 1, LDR, 0x12u << 24);
    put(b, 2, LDR, 0x21u << 24);
    put(b, 0, ICR_HIGH, 0x12u << 24);
    put(b, 0, ICR, 0x8b1);
    assert_int_equal(lapic_ack(b->lapic[0]), -1);
    assert_int_equal(lapic_ack(b->lapic[1]), 0xb1);
    put(b, 0, ICR_HIGH, 0xf1u << 24);
    put(b, 0, ICR, 0x8c1);
    assert_int_equal(lapic_ack(b->lapic[0]), 0xc1);
    assert_int_equal(lapic_ack(b->lapic[1]), -1);
    assert_int_equal(lapic_ack(b->lapic[2]), 0xc1);
}

static void test_lowest_priority(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    put(b, 0, TPR, 0x50);
    put(b, 1, TPR, 0x20);
    put(b, 2, TPR, 0x50);
    struct apic_message message = {
        .dest = APIC_DEST_BROADCAST, .delivery = APIC_LOWEST_PRIORITY, .vector = 0x90, .asserted = true};
    assert_true(apic_bus_deliver(b->bus, &message));
    assert_int_equal(lapic_ack(b->lapic[1]), 0x90);
    assert_int_equal(lapic_ack(b->lapic[0]), -1);
    put(b, 1, EOI, 0);
    for (unsigned i = 0; i < CPUS; i++)
        put(b, i, TPR, 0);
    unsigned taken[CPUS] = {0};
    for (unsigned round = 0; round < 6; round++) { /* equals take turns */
        apic_bus_deliver(b->bus, &message);
        for (unsigned i = 0; i < CPUS; i++) {
            if (lapic_ack(b->lapic[i]) == 0x90) {
                taken[i]++;
                put(b, i, EOI, 0);
            }
        }
    }
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(taken[i], 2);
}

static void test_other_delivery_modes(void **state)
{
    struct apic_bench *b = *state;
    put(b, 0, ICR_HIGH, 1u << 24);
    put(b, 0, ICR, 0x4500);
    assert_int_equal(b->cpu[1].inits, 1);
    put(b, 0, ICR, 0x8500); /* level de-assert */
    assert_int_equal(b->cpu[1].inits, 1);
    put(b, 0, ICR, 0x4699);
    assert_int_equal(b->cpu[1].sipis, 1);
    assert_int_equal(b->cpu[1].sipi_vector, 0x99);
    put(b, 0, ICR, 0x4400);
    assert_int_equal(b->cpu[1].nmis, 1);
    put(b, 0, ICR, 0x4200);
    assert_int_equal(b->cpu[1].smis, 1);
    assert_true(apic_bus_msi(b->bus, 0xfee01000, 0x0400)); /* NMI by MSI */
    assert_int_equal(b->cpu[1].nmis, 2);
    assert_false(apic_bus_msi(b->bus, 0xfed01000, 0x0400));
    assert_int_equal(b->cpu[0].nmis + b->cpu[2].nmis, 0);
}

static void test_errors(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    put(b, 0, LVT_ERROR, 0xfe);
    put(b, 0, ICR, 0x40005); /* to self: send and receive */
    assert_int_equal(get(b, 0, ESR), 0);
    put(b, 0, ESR, 0);
    assert_int_equal(get(b, 0, ESR), 0x60);
    assert_int_equal(lapic_ack(b->lapic[0]), 0xfe);
    put(b, 0, EOI, 0);
    get(b, 0, 0x40);
    put(b, 0, ESR, 0);
    assert_int_equal(get(b, 0, ESR), 0x80);
    put(b, 0, LVT_ERROR, 0x03); /* an illegal vector for the error itself */
    get(b, 0, 0xff0);
    put(b, 0, ESR, 0);
    assert_int_equal(get(b, 0, ESR), 0xc0);
}

static void test_timer(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    put(b, 0, TDCR, 0xb); /* by 1 */
    put(b, 0, LVT_TIMER, 0x40);
    put(b, 0, TMICT, 1000000);
    bench_advance(&b->bench, 400000);
    assert_int_equal(get(b, 0, TMCCT), 600000);
    put(b, 0, TDCR, 0x3); /* by 16: the count stays */
    assert_int_equal(get(b, 0, TMCCT), 600000);
    bench_advance(&b->bench, 16 * 600000 - 1);
    assert_int_equal(get(b, 0, TMCCT), 1);
    assert_false(b->cpu[0].intr);
    bench_advance(&b->bench, 1);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x40);
    assert_int_equal(get(b, 0, TMCCT), 0);
    put(b, 0, EOI, 0);
    bench_advance(&b->bench, NS_PER_S);
    assert_false(b->cpu[0].intr);

    put(b, 0, TDCR, 0); /* by 2 */
    put(b, 0, LVT_TIMER, 0x20041);
    put(b, 0, TMICT, 50000);
    for (unsigned i = 0; i < 5; i++) {
        bench_advance(&b->bench, 100000);
        assert_int_equal(lapic_ack(b->lapic[0]), 0x41);
        put(b, 0, EOI, 0);
        assert_int_equal(get(b, 0, TMCCT), 50000);
    }
    bench_jump(&b->bench, 1030000); /* missed ones are gone, the phase is kept */
    assert_int_equal(get(b, 0, TMCCT), 35000);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x41);
    put(b, 0, EOI, 0);
    bench_advance(&b->bench, 69999);
    assert_false(b->cpu[0].intr);
    bench_advance(&b->bench, 1);
    assert_true(b->cpu[0].intr);
    put(b, 0, TMICT, 1); /* a storm: bounded */
    unsigned before = b->bench.earliest_changes;
    bench_advance(&b->bench, 1000000);
    assert_true(b->bench.earliest_changes - before < 200);
    put(b, 0, TMICT, 0);
    assert_int_equal(timer_queue_next(&b->bench.queue), TIMER_NEVER);
}

static void test_tsc_deadline(void **state)
{
    struct apic_bench *b = *state;
    struct lapic *lapic = b->lapic[0];
    uint64_t value;
    enable_all(b);
    assert_true(lapic_msr_write(lapic, MSR_IA32_TSC_DEADLINE, 500)); /* not in this mode */
    assert_true(lapic_msr_read(lapic, MSR_IA32_TSC_DEADLINE, &value) && value == 0);
    put(b, 0, LVT_TIMER, 0x40042);
    put(b, 0, TMICT, 5000);
    assert_int_equal(get(b, 0, TMICT), 0);
    lapic_msr_write(lapic, MSR_IA32_TSC_DEADLINE, 1000);
    bench_advance(&b->bench, 999);
    assert_true(lapic_msr_read(lapic, MSR_IA32_TSC_DEADLINE, &value) && value == 1000);
    b->cpu[0].tsc_behind_ns = 500; /* the guest sets its TSC back */
    lapic_tsc_changed(lapic);
    bench_advance(&b->bench, 500);
    assert_false(b->cpu[0].intr);
    bench_advance(&b->bench, 1);
    assert_int_equal(lapic_ack(lapic), 0x42);
    assert_true(lapic_msr_read(lapic, MSR_IA32_TSC_DEADLINE, &value) && value == 0);
    put(b, 0, EOI, 0);
    lapic_msr_write(lapic, MSR_IA32_TSC_DEADLINE, 3); /* past: at once */
    assert_int_equal(lapic_ack(lapic), 0x42);
    put(b, 0, EOI, 0);
    lapic_msr_write(lapic, MSR_IA32_TSC_DEADLINE, 100000);
    put(b, 0, LVT_TIMER, 0x42); /* another mode disarms */
    bench_advance(&b->bench, 200000);
    assert_false(b->cpu[0].intr);
}

static void test_base_states(void **state)
{
    struct lapic *lapic = ((struct apic_bench *)*state)->lapic[0];
    uint64_t value;
    assert_false(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00500)); /* EXTD without EN */
    assert_false(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00901)); /* reserved */
    assert_false(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 1ull << 39 | 0x900));
    assert_false(lapic_msr_read(lapic, 0x802, &value));
    assert_true(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00100)); /* off */
    assert_true(lapic_accepts_pic(lapic));
    assert_int_equal(bench_read(&lapic_mmio_ops, lapic, ID, 4), 0xffffffff);
    assert_false(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00d00)); /* off to x2APIC */
    assert_true(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00900));
    assert_true(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00d00));
    assert_false(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00900)); /* x2APIC to xAPIC */
    assert_true(lapic_msr_read(lapic, 0x802, &value));
    assert_true(lapic_msr_write(lapic, MSR_IA32_APIC_BASE, 0xfee00100));
    assert_int_equal(((struct apic_bench *)*state)->cpu[0].base_changes, 4);
}

static void test_x2apic(void **state)
{
    struct apic_bench *b = *state;
    struct lapic *lapic = b->lapic[2];
    uint64_t value;
    for (unsigned i = 0; i < CPUS; i++)
        assert_true(lapic_msr_write(b->lapic[i], MSR_IA32_APIC_BASE, 0xfee00c00 | (i == 0 ? 0x100 : 0)));
    assert_true(lapic_msr_write(lapic, 0x80f, 0x1ff));
    assert_true(lapic_msr_read(lapic, 0x802, &value) && value == 2);
    assert_true(lapic_msr_read(lapic, 0x80d, &value) && value == 4);
    assert_false(lapic_msr_write(lapic, 0x80d, 4));
    assert_false(lapic_msr_write(lapic, 0x802, 4));
    assert_false(lapic_msr_read(lapic, 0x80e, &value)); /* DFR */
    assert_false(lapic_msr_read(lapic, 0x80b, &value)); /* EOI */
    assert_false(lapic_msr_write(lapic, 0x80b, 1));
    assert_false(lapic_msr_write(lapic, 0x808, 0x100));
    assert_false(lapic_msr_write(lapic, 0x828, 1));
    assert_false(lapic_msr_write(lapic, 0x832, 1ull << 32));
    assert_false(lapic_msr_write(lapic, 0x830, 1u << 13));
    assert_false(lapic_msr_read(lapic, 0x831, &value));
    assert_false(lapic_msr_read(lapic, 0x83f, &value));
    assert_false(lapic_msr_read(lapic, 0x8ff, &value));
    assert_true(lapic_msr_write(lapic, 0x83f, 0x55));
    assert_int_equal(lapic_ack(lapic), 0x55);
    assert_true(lapic_msr_read(lapic, 0x812, &value) && value == 1u << 21);
    assert_true(lapic_msr_write(lapic, 0x80b, 0));
    assert_true(lapic_msr_write(b->lapic[0], 0x830, 2ull << 32 | 0x66));
    assert_int_equal(lapic_ack(lapic), 0x66);
    assert_true(lapic_msr_write(b->lapic[0], 0x830, 4ull << 32 | 0x876)); /* logical: cluster 0, bit 2 */
    assert_int_equal(lapic_ack(lapic), 0x76);
    assert_true(lapic_msr_read(b->lapic[0], 0x830, &value) && value == (4ull << 32 | 0x876));
}

static void test_pins(void **state)
{
    struct apic_bench *b = *state;
    struct lapic *lapic = b->lapic[0];
    lapic_set_lint(lapic, 0, true);
    assert_false(b->cpu[0].intr); /* LINT0 is masked after reset */
    lapic_set_virtual_wire(lapic);
    assert_true(b->cpu[0].intr && lapic_extint_pending(lapic) && lapic_accepts_pic(lapic));
    assert_int_equal(lapic_ack(lapic), -1);
    lapic_set_lint(lapic, 0, false);
    assert_false(b->cpu[0].intr);
    lapic_set_lint(lapic, 1, true);
    lapic_set_lint(lapic, 1, true);
    assert_int_equal(b->cpu[0].nmis, 1);
    put(b, 0, LVT_LINT0, 0x8077); /* fixed, level */
    lapic_set_lint(lapic, 0, true);
    assert_int_equal(lapic_ack(lapic), 0x77);
    assert_int_equal(get(b, 0, LVT_LINT0), 0xc077);
    assert_false(b->cpu[0].intr);
    put(b, 0, EOI, 0); /* still high: again */
    assert_int_equal(lapic_ack(lapic), 0x77);
    lapic_set_lint(lapic, 0, false);
    put(b, 0, EOI, 0);
    assert_false(b->cpu[0].intr);
    assert_int_equal(get(b, 0, LVT_LINT0), 0x8077);
}

static uint8_t pv_bit(struct apic_bench *b)
{
    return *memory_ram(b->memory, PV_EOI_GPA, 1);
}

static void pv_clear(struct apic_bench *b)
{
    *memory_ram(b->memory, PV_EOI_GPA, 1) = 0;
}

static void test_pv_eoi(void **state)
{
    struct apic_bench *b = *state;
    struct lapic *lapic = b->lapic[0];
    enable_all(b);
    assert_false(lapic_set_pv_eoi(lapic, PV_EOI_GPA + 1, true));
    assert_false(lapic_set_pv_eoi(lapic, 0xfee00000, true));
    assert_true(lapic_set_pv_eoi(lapic, PV_EOI_GPA, true));
    /* The guest takes the offer. */
    fixed(b, 0, 0x40);
    assert_int_equal(lapic_ack(lapic), 0x40);
    assert_int_equal(pv_bit(b), 1);
    pv_clear(b);
    assert_int_equal(get(b, 0, ISR + 0x20), 0);
    /* Something of lower priority comes: the processor must look, the offer is withdrawn. */
    fixed(b, 0, 0x40);
    assert_int_equal(lapic_ack(lapic), 0x40);
    fixed(b, 0, 0x30);
    assert_true(b->cpu[0].intr);
    assert_int_equal(pv_bit(b), 1);
    assert_false(lapic_has_interrupt(lapic));
    assert_int_equal(pv_bit(b), 0);
    assert_false(b->cpu[0].intr);
    put(b, 0, EOI, 0);
    assert_int_equal(lapic_ack(lapic), 0x30);
    assert_int_equal(pv_bit(b), 1);
    /* The guest has ended it before the processor looks: delivered at once. */
    pv_clear(b);
    fixed(b, 0, 0x20);
    assert_true(lapic_has_interrupt(lapic));
    assert_int_equal(lapic_ack(lapic), 0x20);
    /* A nested interrupt takes the offer over; the outer one is ended by a real EOI. */
    fixed(b, 0, 0x50);
    assert_int_equal(lapic_ack(lapic), 0x50);
    assert_int_equal(pv_bit(b), 1);
    pv_clear(b);
    put(b, 0, EOI, 0);
    assert_int_equal(get(b, 0, ISR + 0x20), 0);
    assert_int_equal(get(b, 0, ISR + 0x10), 0);
    /* The guest writes EOI in spite of the offer: one EOI, not two. */
    fixed(b, 0, 0x20);
    lapic_ack(lapic);
    fixed(b, 0, 0x50);
    lapic_ack(lapic);
    put(b, 0, EOI, 0);
    assert_int_equal(pv_bit(b), 0);
    assert_int_equal(get(b, 0, ISR + 0x10), 1);
    put(b, 0, EOI, 0);
    /* Never for a level-triggered interrupt, nor with another one waiting. */
    apic_bus_deliver(b->bus, &(struct apic_message){.vector = 0x60, .level_triggered = true, .asserted = true});
    assert_int_equal(lapic_ack(lapic), 0x60);
    assert_int_equal(pv_bit(b), 0);
    put(b, 0, EOI, 0);
    fixed(b, 0, 0x60);
    fixed(b, 0, 0x61);
    assert_int_equal(lapic_ack(lapic), 0x61);
    assert_int_equal(pv_bit(b), 0);
    put(b, 0, EOI, 0);
    assert_int_equal(lapic_ack(lapic), 0x60);
    assert_int_equal(pv_bit(b), 1);
    assert_true(lapic_set_pv_eoi(lapic, 0, false));
    assert_int_equal(pv_bit(b), 0);
    put(b, 0, EOI, 0);
    assert_int_equal(lapic_ack(lapic), -1);
}

static uint32_t io_get(struct apic_bench *b, unsigned reg)
{
    bench_write(&ioapic_mmio_ops, b->ioapic, 0, 4, reg);
    return (uint32_t)bench_read(&ioapic_mmio_ops, b->ioapic, 0x10, 4);
}

static void io_put(struct apic_bench *b, unsigned reg, uint32_t value)
{
    bench_write(&ioapic_mmio_ops, b->ioapic, 0, 4, reg);
    bench_write(&ioapic_mmio_ops, b->ioapic, 0x10, 4, value);
}

static void test_ioapic_registers(void **state)
{
    struct apic_bench *b = *state;
    assert_int_equal(io_get(b, 0), 5u << 24);
    assert_int_equal(io_get(b, 1), 0x00170020);
    assert_int_equal(io_get(b, 2), 5u << 24);
    assert_int_equal(io_get(b, 0x10), 0x10000);
    io_put(b, 0x3e, 0xffffffff);
    io_put(b, 0x3f, 0xffffffff);
    assert_int_equal(io_get(b, 0x3e), 0x1afff);
    assert_int_equal(io_get(b, 0x3f), 0xff000000);
    assert_int_equal(io_get(b, 0x40), 0xffffffff);
    ioapic_set_irq(b->ioapic, 24, true);
    ioapic_set_irq(b->ioapic, 4000, true);
}

static void test_ioapic_edge(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    ioapic_set_irq(b->ioapic, 4, true); /* masked: lost */
    io_put(b, 0x19, 1u << 24);
    io_put(b, 0x18, 0x44);
    assert_false(b->cpu[1].intr);
    ioapic_set_irq(b->ioapic, 4, false);
    ioapic_set_irq(b->ioapic, 4, true);
    ioapic_set_irq(b->ioapic, 4, true);
    assert_int_equal(lapic_ack(b->lapic[1]), 0x44);
    assert_false(b->cpu[1].intr);
    assert_int_equal(io_get(b, 0x18), 0x44);
}

static void test_ioapic_level(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    io_put(b, 0x10 + 2 * 10, 0xa055);
    ioapic_set_irq(b->ioapic, 10, true);
    assert_int_equal(io_get(b, 0x10 + 2 * 10), 0xe055);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x55);
    assert_int_equal(get(b, 0, TMR + 0x20), 1u << 21);
    put(b, 0, EOI, 0); /* still asserted: again */
    assert_int_equal(lapic_ack(b->lapic[0]), 0x55);
    ioapic_set_irq(b->ioapic, 10, false);
    put(b, 0, EOI, 0);
    assert_int_equal(io_get(b, 0x10 + 2 * 10), 0xa055);
    assert_false(b->cpu[0].intr);
    /* With broadcasts suppressed software ends it by the EOI register. */
    put(b, 0, SVR, 0x11ff);
    ioapic_set_irq(b->ioapic, 10, true);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x55);
    put(b, 0, EOI, 0);
    assert_false(b->cpu[0].intr);
    bench_write(&ioapic_mmio_ops, b->ioapic, 0x40, 4, 0x54);
    assert_false(b->cpu[0].intr);
    bench_write(&ioapic_mmio_ops, b->ioapic, 0x40, 4, 0x55);
    assert_int_equal(lapic_ack(b->lapic[0]), 0x55);
    /* Masked while in service, then by the edge trick. */
    io_put(b, 0x10 + 2 * 10, 0x12055);
    io_put(b, 0x10 + 2 * 10, 0x1a055);
    assert_int_equal(io_get(b, 0x10 + 2 * 10), 0x1a055);
    put(b, 0, EOI, 0);
    io_put(b, 0x10 + 2 * 10, 0xa055);
    assert_true(b->cpu[0].intr);
}

static void test_ioapic_extint(void **state)
{
    struct apic_bench *b = *state;
    io_put(b, 0x11, 1u << 24);
    io_put(b, 0x10, 0x700);
    ioapic_set_irq(b->ioapic, 0, true);
    assert_true(b->cpu[1].intr && lapic_extint_pending(b->lapic[1]));
    io_put(b, 0x11, 2u << 24); /* moves */
    assert_false(b->cpu[1].intr);
    assert_true(b->cpu[2].intr);
    io_put(b, 0x10, 0x10700);
    assert_false(b->cpu[2].intr);
    io_put(b, 0x10, 0x700);
    ioapic_set_irq(b->ioapic, 0, false);
    assert_false(b->cpu[2].intr);
    apic_bus_msi(b->bus, 0xfee00000, 0x700); /* as a message: until it is answered */
    assert_true(lapic_extint_pending(b->lapic[0]));
    lapic_extint_ack(b->lapic[0]);
    assert_false(b->cpu[0].intr);
}

static void test_init_and_reset(void **state)
{
    struct apic_bench *b = *state;
    enable_all(b);
    put(b, 1, LVT_TIMER, 0x20040);
    put(b, 1, TMICT, 1000);
    fixed(b, 1, 0x50);
    put(b, 0, ICR_HIGH, 1u << 24);
    put(b, 0, ICR, 0x4500);
    assert_false(b->cpu[1].intr);
    assert_int_equal(get(b, 1, SVR), 0xff);
    assert_int_equal(get(b, 1, ID), 1u << 24);
    assert_int_equal(timer_queue_next(&b->bench.queue), TIMER_NEVER);
    fixed(b, 0, 0x50);
    lapic_reset(b->lapic[0]);
    assert_false(b->cpu[0].intr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reset_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_priorities, setup, teardown),
        cmocka_unit_test_setup_teardown(test_destinations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lowest_priority, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_delivery_modes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tsc_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_base_states, setup, teardown),
        cmocka_unit_test_setup_teardown(test_x2apic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pv_eoi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ioapic_registers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ioapic_edge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ioapic_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ioapic_extint, setup, teardown),
        cmocka_unit_test_setup_teardown(test_init_and_reset, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
