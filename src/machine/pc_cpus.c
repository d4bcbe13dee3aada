/* Between the processors and their local APICs: what an APIC tells its processor, what a processor asks its platform, and
 * the page where the guest sees the APIC. */
#include "machine/pc_internal.h"

#include "cpu/cpuid.h"
#include "host/chardev.h"

#define MSR_KVM_PV_EOI_EN 0x4b564d04u
#define PV_EOI_ENABLED 1ull

/* ---- outward ---- */

static void cpu_intr(void *opaque, bool pending)
{
    struct pc_cpu *cpu = opaque;
    const struct pc_ops *ops = &cpu->pc->config.ops;
    (pending ? ops->cpu_raise : ops->cpu_lower)(ops->opaque, cpu->index, PENDING_INTR);
}

static void cpu_raise(struct pc_cpu *cpu, uint32_t pending)
{
    const struct pc_ops *ops = &cpu->pc->config.ops;
    ops->cpu_raise(ops->opaque, cpu->index, pending);
}

static void cpu_nmi(void *opaque)
{
    cpu_raise(opaque, PENDING_NMI);
}

static void cpu_smi(void *opaque)
{
    cpu_raise(opaque, PENDING_SMI);
}

/* INIT takes the boot processor to the firmware. Without one, that is a reset of the machine. */
static void cpu_init(void *opaque)
{
    struct pc_cpu *cpu = opaque;
    const struct pc_ops *ops = &cpu->pc->config.ops;
    if (cpu->index == 0 && cpu->pc->firmware == NULL) {
        pc_request_reset(cpu->pc);
        return;
    }
    if (cpu->index == 0)
        lapic_set_virtual_wire(cpu->lapic);
    ops->cpu_lower(ops->opaque, cpu->index, PENDING_SIPI); /* one that has not been taken is forgotten */
    cpu_raise(cpu, PENDING_INIT);
}

static void cpu_sipi(void *opaque, uint8_t vector)
{
    struct pc_cpu *cpu = opaque;
    cpu->vcpu->sipi_vector = vector;
    cpu_raise(cpu, PENDING_SIPI);
}

/* The local APICs' pages: all at one address, unless the guest moves them. Each processor maps its own, the newest is hit,
 * and who makes the access decides whose it is. */
static struct pc_cpu *accessed(struct pc_cpu *hit)
{
    struct pc_cpu *cpu = &hit->pc->cpus[*hit->pc->config.accessor];
    return cpu->mapped && cpu->mapped_base == hit->mapped_base ? cpu : NULL;
}

static uint64_t lapic_page_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pc_cpu *cpu = accessed(opaque);
    return cpu != NULL ? lapic_mmio_ops.read(cpu->lapic, offset, size) : UINT64_MAX;
}

static void lapic_page_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct pc_cpu *cpu = accessed(opaque);
    if (cpu != NULL)
        lapic_mmio_ops.write(cpu->lapic, offset, size, value);
}

static const struct io_ops lapic_page_ops = {
    .read = lapic_page_read, .write = lapic_page_write, .name = "local APIC"};

static void cpu_base_changed(void *opaque, uint64_t apic_base)
{
    struct pc_cpu *cpu = opaque;
    struct memory *memory = cpu->pc->config.memory;
    gpa_t base = apic_base & ~(uint64_t)(LAPIC_PAGE_SIZE - 1) & ((1ull << cpu->vcpu->maxphyaddr) - 1);
    bool visible = (apic_base & APIC_BASE_EN) && !(apic_base & APIC_BASE_EXTD);
    if (cpu->mapped)
        memory_unmap_device(memory, cpu->mapped_base, cpu);
    cpu->mapped_base = base;
    cpu->mapped = visible && memory_map_mmio(memory, base, LAPIC_PAGE_SIZE, &lapic_page_ops, cpu, NULL);
    cpu_raise(cpu, PENDING_FLUSH);
}

/* The processor has converted IA32_TSC_DEADLINE already (cpu/msr.c): it knows the guest's TSC. */
static uint64_t cpu_tsc_to_ns(void *opaque, uint64_t tsc)
{
    (void)opaque;
    return tsc;
}

static const struct lapic_cpu_ops cpu_ops = {
    .intr = cpu_intr,
    .nmi = cpu_nmi,
    .smi = cpu_smi,
    .init = cpu_init,
    .sipi = cpu_sipi,
    .base_changed = cpu_base_changed,
    .tsc_to_ns = cpu_tsc_to_ns,
};

/* ---- and inward: what the processor asks; on its thread, without the lock ---- */

static void lock(struct pc_cpu *cpu)
{
    pthread_mutex_lock(cpu->pc->config.lock);
}

static void unlock(struct pc_cpu *cpu)
{
    pthread_mutex_unlock(cpu->pc->config.lock);
}

static int platform_intr_ack(void *opaque)
{
    struct pc_cpu *cpu = opaque;
    lock(cpu);
    int vector = lapic_ack(cpu->lapic);
    if (vector < 0 && lapic_extint_pending(cpu->lapic)) {
        lapic_extint_ack(cpu->lapic);
        vector = i8259_ack(cpu->pc->pic);
    }
    unlock(cpu);
    return vector;
}

static uint64_t platform_cr8_read(void *opaque)
{
    struct pc_cpu *cpu = opaque;
    lock(cpu);
    uint64_t value = lapic_cr8_read(cpu->lapic);
    unlock(cpu);
    return value;
}

static void platform_cr8_write(void *opaque, uint64_t cr8)
{
    struct pc_cpu *cpu = opaque;
    lock(cpu);
    lapic_cr8_write(cpu->lapic, cr8);
    unlock(cpu);
}

static bool platform_apic_msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    struct pc_cpu *cpu = opaque;
    lock(cpu);
    bool ok = msr == MSR_KVM_PV_EOI_EN ? false : lapic_msr_read(cpu->lapic, msr, value);
    unlock(cpu);
    return ok;
}

static bool platform_apic_msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    struct pc_cpu *cpu = opaque;
    lock(cpu);
    bool ok = msr == MSR_KVM_PV_EOI_EN
                  ? lapic_set_pv_eoi(cpu->lapic, value & ~PV_EOI_ENABLED, value & PV_EOI_ENABLED)
                  : lapic_msr_write(cpu->lapic, msr, value);
    unlock(cpu);
    return ok;
}

/* FERR# of the first processor is interrupt 13. IGNNE# is asserted from the guest's write to port F0h until FERR# goes
 * away; this board ties it low: the interrupt's handler must clear the error itself, as all of them do. */
static bool platform_ferr(void *opaque, bool error)
{
    struct pc_cpu *cpu = opaque;
    lock(cpu);
    irq_or_set(&cpu->pc->wire[IRQ_FPU], WIRE_LEGACY, error);
    unlock(cpu);
    return false;
}

static uint64_t platform_now_ns(void *opaque)
{
    struct pc_cpu *cpu = opaque;
    return timer_now_ns(cpu->pc->config.queue);
}

static uint64_t platform_wall_base_ns(void *opaque)
{
    struct pc_cpu *cpu = opaque;
    return cpu->pc->config.wall_base_ns;
}

static uint64_t platform_random(void *opaque)
{
    struct pc_cpu *cpu = opaque;
    return cpu->pc->config.ops.random(cpu->pc->config.ops.opaque);
}

/* RING3_HC_CONSOLE: past the port's registers, to where it sends. */
static size_t platform_console_write(void *opaque, const uint8_t *bytes, size_t n)
{
    struct pc_cpu *cpu = opaque;
    lock(cpu);
    size_t taken = chardev_write(cpu->pc->config.serial, bytes, n);
    unlock(cpu);
    return taken;
}

/* ---- creation and reset ---- */

bool pc_create_processors(struct pc *pc, struct error *err)
{
    for (unsigned i = 0; i < pc->cpu_count; i++) {
        struct pc_cpu *cpu = &pc->cpus[i];
        struct vcpu *v = pc->config.vcpus[i];
        *cpu = (struct pc_cpu){.pc = pc, .index = i, .vcpu = v};
        struct lapic_config config = {
            .id = v->apic_id, .bsp = i == 0, .phys_bits = v->maxphyaddr, .ops = &cpu_ops, .opaque = cpu};
        cpu->lapic = lapic_create(pc->apic_bus, pc->config.queue, pc->config.memory, &config);
        if (cpu->lapic == NULL)
            return error_set(err, "no memory for the local APIC of processor %u", i);
        v->platform.intr_ack = platform_intr_ack;
        v->platform.cr8_read = platform_cr8_read;
        v->platform.cr8_write = platform_cr8_write;
        v->platform.apic_msr_read = platform_apic_msr_read;
        v->platform.apic_msr_write = platform_apic_msr_write;
        v->platform.ferr = platform_ferr;
        v->platform.now_ns = platform_now_ns;
        v->platform.wall_base_ns = platform_wall_base_ns;
        v->platform.random = platform_random;
        v->platform.console_write = platform_console_write;
        v->platform.opaque = cpu;
    }
    return true;
}

void pc_init_processors(struct pc *pc)
{
    const struct apic_message init = {.delivery = APIC_INIT, .asserted = true};
    for (unsigned i = 0; i < pc->cpu_count; i++)
        if (!lapic_accept(pc->cpus[i].lapic, &init))
            cpu_init(&pc->cpus[i]); /* its local APIC is disabled */
}

void pc_reset_processors(struct pc *pc)
{
    for (unsigned i = 0; i < pc->cpu_count; i++) {
        struct pc_cpu *cpu = &pc->cpus[i];
        lapic_reset(cpu->lapic);
        if (i == 0) /* the 8259's interrupts are the first one's */
            lapic_set_virtual_wire(cpu->lapic);
        cpu_base_changed(cpu, lapic_base(cpu->lapic));
    }
}
