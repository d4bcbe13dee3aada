/* Intel 82371AB (PIIX4) function 3. See piix4_pm.h.
 *
 * Model. 64 bytes of registers behind ports that PMBA (40h) places while PMREGMISC (80h) bit 0 is set. Like PCI
 * configuration space they are bytes with two masks: bits that can be written, and bits that a written one clears.
 * What follows from them is recomputed after each access:
 *
 *     SCI = SCI_EN and (PMSTS & PMEN, or GPSTS & GPEN)
 *
 * The PM timer is the guest's time in units of 1/3579545 s, computed when it is read. TMROF_STS becomes set whenever
 * the highest bit of the timer toggles: `toggle` is the tick at which that happens next. A host timer is armed for it
 * only while the SCI would follow; otherwise the bit is caught up with when the guest looks.
 *
 * Sleeping: SUS_TYP 0 (soft off) powers the machine off. The other states are not entered; RSM_STS is set at once, as
 * if the machine had been woken up in the same instant, so that nobody waits for it in vain.
 *
 * Not emulated: the SMBus controller (its host configuration reads as disabled), device monitors and traps, burst and
 * clock control (remembered without effect), general purpose inputs (read as zero), GBL_RLS and BIOS_RLS.
 */
#include "device/piix4_pm.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

/* Configuration space. */
#define PMBA 0x40
#define PMBA_BASE 0xffc0u
#define CNTA 0x44
#define DEVACTB 0x58
#define DEVACTB_APMC_EN 0x02000000u
#define DEVRESJ_END 0x7f
#define PMREGMISC 0x80
#define PMREGMISC_PMIOSE 0x01
#define SMBBA 0x90

/* Port space. */
#define PMSTS 0x00
#define PMSTS_TMROF 0x0001
#define PMSTS_PWRBTN 0x0100
#define PMSTS_RSM 0x8000
#define PMEN 0x02
#define PMCNTRL 0x04
#define PMCNTRL_SCI_EN 0x0001
#define PMCNTRL_SUS_EN_BYTE1 0x20
#define PMTMR 0x08
#define GPSTS 0x0c
#define GPEN 0x0e
#define PM_EVENTS 0x0521u /* those of PMSTS that PMEN can enable */

#define NOT_MAPPED 0u

struct piix4_pm_state {
    uint8_t reg[PIIX4_PM_SIZE];
    uint8_t apmc, apms;
    uint64_t toggle; /* tick */
};

struct piix4_pm {
    struct pci_function *function;
    struct memory *memory;
    struct piix4_pm_config config;
    struct timer timer;
    uint16_t mapped_at;
    struct piix4_pm_state state;
};

struct masks {
    uint8_t writable, clearable;
};

static const struct masks masks[PIIX4_PM_SIZE] = {
    [PMSTS] = {0, 0x31},   [PMSTS + 1] = {0, 0x8d},   [PMEN] = {0x21, 0},  [PMEN + 1] = {0x05, 0},
    [PMCNTRL] = {0x03, 0}, [PMCNTRL + 1] = {0x1c, 0}, [GPSTS] = {0, 0xff}, [GPSTS + 1] = {0, 0xff},
    [GPEN] = {0xff, 0},    [GPEN + 1] = {0xff, 0},    [0x10] = {0x1e, 0},  [0x11] = {0x3e, 0}, /* PCNTRL */
    [0x12] = {0x03, 0},    [0x20] = {0xff, 0},        [0x21] = {0x0f, 0},                      /* GLBEN */
    [0x28] = {0xfc, 0},    [0x29] = {0xff, 0},        [0x2a] = {0xff, 0},  [0x2b] = {0x07, 0}, /* GLBCTL */
    [0x2c] = {0xff, 0},    [0x2d] = {0xff, 0},        [0x2e] = {0xff, 0},  [0x2f] = {0xff, 0}, /* DEVCTL */
    [0x34] = {0xff, 0},    [0x35] = {0xff, 0},        [0x36] = {0xff, 0},  [0x37] = {0x7f, 0}, /* GPOREG */
};

static unsigned get16(const struct piix4_pm *pm, unsigned offset)
{
    return pm->state.reg[offset] | (unsigned)pm->state.reg[offset + 1] << 8;
}

static uint64_t ticks_now(const struct piix4_pm *pm)
{
    uint64_t now_ns = timer_now_ns(pm->timer.queue);
    return now_ns / NS_PER_S * PIIX4_PM_TIMER_HZ + now_ns % NS_PER_S * PIIX4_PM_TIMER_HZ / NS_PER_S;
}

/* The first nanosecond at which ticks_now() is at least `tick`. */
static uint64_t tick_ns(uint64_t tick)
{
    return tick / PIIX4_PM_TIMER_HZ * NS_PER_S +
           (tick % PIIX4_PM_TIMER_HZ * NS_PER_S + PIIX4_PM_TIMER_HZ - 1) / PIIX4_PM_TIMER_HZ;
}

/* Brings TMROF_STS up to date, then the SCI, then the host timer. */
static void update(struct piix4_pm *pm)
{
    struct piix4_pm_state *state = &pm->state;
    uint64_t half = 1ull << (pm->config.timer_32bit ? 31 : 23), now = ticks_now(pm);
    if (now >= state->toggle) {
        state->reg[PMSTS] |= PMSTS_TMROF;
        state->toggle = (now / half + 1) * half;
    }
    bool enabled = get16(pm, PMCNTRL) & PMCNTRL_SCI_EN;
    unsigned events = get16(pm, PMSTS) & get16(pm, PMEN) & PM_EVENTS;
    irq_set(&pm->config.sci, enabled && (events != 0 || (get16(pm, GPSTS) & get16(pm, GPEN)) != 0));
    bool awaited = enabled && get16(pm, PMEN) & PMSTS_TMROF && !(get16(pm, PMSTS) & PMSTS_TMROF);
    uint64_t deadline_ns = awaited ? tick_ns(state->toggle) : TIMER_NEVER;
    if (deadline_ns != pm->timer.deadline_ns)
        timer_arm(&pm->timer, deadline_ns);
}

static void timer_fired(void *opaque)
{
    update(opaque);
}

bool piix4_pm_power_button(struct piix4_pm *pm)
{
    pm->state.reg[PMSTS + 1] |= PMSTS_PWRBTN >> 8;
    update(pm);
    return get16(pm, PMCNTRL) & PMCNTRL_SCI_EN && get16(pm, PMEN) & PMSTS_PWRBTN;
}

void piix4_pm_gpe(struct piix4_pm *pm, unsigned n)
{
    check(n < 16);
    pm->state.reg[GPSTS + n / 8] |= (uint8_t)(1u << n % 8);
    update(pm);
}

static uint32_t pm_read32(const struct piix4_pm *pm, unsigned offset)
{
    if (offset == PMTMR)
        return (uint32_t)(ticks_now(pm) & (pm->config.timer_32bit ? UINT32_MAX : 0xffffff));
    return get16(pm, offset) | (uint32_t)get16(pm, offset + 2) << 16;
}

static uint64_t pm_read(void *dev, uint64_t offset, unsigned size)
{
    struct piix4_pm *pm = dev;
    unsigned at = (unsigned)offset & ~3u, in = (unsigned)offset & 3;
    if (offset + size > PIIX4_PM_SIZE)
        return UINT64_MAX;
    update(pm);
    uint64_t value = pm_read32(pm, at);
    if (in + size > 4)
        value |= (uint64_t)pm_read32(pm, at + 4) << 32;
    return value >> (8 * in);
}

static void sleep_enter(struct piix4_pm *pm)
{
    unsigned type = get16(pm, PMCNTRL) >> 10 & 7;
    if (type != PIIX4_SLP_TYP_S5)
        pm->state.reg[PMSTS + 1] |= PMSTS_RSM >> 8;
    else if (pm->config.power_off != NULL)
        pm->config.power_off(pm->config.opaque);
}

static void pm_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct piix4_pm *pm = dev;
    if (offset + size > PIIX4_PM_SIZE)
        return;
    update(pm); /* an overflow before this write is not to be seen as one after it */
    bool sleep = false;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i;
        uint8_t byte = (uint8_t)(value >> (8 * i)), *reg = &pm->state.reg[at];
        *reg = (uint8_t)((*reg & ~masks[at].writable) | (byte & masks[at].writable));
        *reg &= (uint8_t) ~(byte & masks[at].clearable);
        sleep |= at == PMCNTRL + 1 && byte & PMCNTRL_SUS_EN_BYTE1;
    }
    if (sleep)
        sleep_enter(pm);
    update(pm);
}

static const struct io_ops pm_ops = {.read = pm_read, .write = pm_write, .name = "PIIX4 power management"};

static uint64_t apm_read(void *dev, uint64_t offset, unsigned size)
{
    const struct piix4_pm *pm = dev;
    unsigned both = pm->state.apmc | (unsigned)pm->state.apms << 8;
    return both >> (8 * (offset & 1));
}

static void apm_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct piix4_pm *pm = dev;
    uint8_t first = (uint8_t)value;
    if ((offset & 1) != 0 || size > 1) /* status before command: the command may look at it */
        pm->state.apms = offset & 1 ? first : (uint8_t)(value >> 8);
    if (offset & 1)
        return;
    pm->state.apmc = first;
    if (first == PIIX4_ACPI_ENABLE)
        pm->state.reg[PMCNTRL] |= PMCNTRL_SCI_EN;
    else if (first == PIIX4_ACPI_DISABLE)
        pm->state.reg[PMCNTRL] &= (uint8_t)~PMCNTRL_SCI_EN;
    update(pm);
    if (pm->config.smi != NULL && pci_config_get32(pm->function, DEVACTB) & DEVACTB_APMC_EN)
        pm->config.smi(pm->config.opaque, first);
}

const struct io_ops piix4_apm_ops = {.read = apm_read, .write = apm_write, .name = "APM control"};

static void ports_update(struct piix4_pm *pm)
{
    uint16_t wanted = pci_config_get16(pm->function, PMBA) & PMBA_BASE;
    if (!(pci_config(pm->function)[PMREGMISC] & PMREGMISC_PMIOSE))
        wanted = NOT_MAPPED;
    if (wanted == pm->mapped_at)
        return;
    if (pm->mapped_at != NOT_MAPPED)
        memory_unmap_device_ports(pm->memory, pm->mapped_at, PIIX4_PM_SIZE, pm);
    bool mapped = wanted != NOT_MAPPED && memory_map_ports(pm->memory, wanted, PIIX4_PM_SIZE, &pm_ops, pm, NULL);
    pm->mapped_at = mapped ? wanted : NOT_MAPPED;
}

static void pm_config_written(void *dev, unsigned offset, unsigned size)
{
    ports_update(dev);
}

static void pm_reset(void *dev)
{
    struct piix4_pm *pm = dev;
    uint64_t half = 1ull << (pm->config.timer_32bit ? 31 : 23);
    pm->state = (struct piix4_pm_state){.toggle = (ticks_now(pm) / half + 1) * half};
    pci_config_set32(pm->function, PMBA, pm->config.default_base | 1u);
    pci_config_set32(pm->function, SMBBA, 1);
    pci_config_set32(pm->function, DEVACTB, pm->config.smi == NULL ? DEVACTB_APMC_EN : 0);
    pci_config(pm->function)[PMREGMISC] = pm->config.default_base != 0 ? PMREGMISC_PMIOSE : 0;
    ports_update(pm);
    update(pm);
}

static const struct pci_function_ops pm_pci_ops = {.config_written = pm_config_written, .reset = pm_reset};

static void writable_init(uint8_t *writable)
{
    writable[PMBA] = PMBA_BASE & 0xff;
    writable[PMBA + 1] = PMBA_BASE >> 8;
    memset(&writable[CNTA], 0xff, DEVRESJ_END - CNTA + 1);
    writable[PMREGMISC] = PMREGMISC_PMIOSE;
    writable[SMBBA] = 0xf0;
    writable[SMBBA + 1] = 0xff;
    writable[PCI_CACHE_LINE] = 0;
}

struct piix4_pm *piix4_pm_create(struct pci_host *host, struct memory *memory, unsigned slot, struct timer_queue *queue,
                                 const struct piix4_pm_config *config, struct error *err)
{
    static const struct pci_function_desc desc = {.vendor_id = 0x8086,
                                                  .device_id = 0x7113,
                                                  .revision = 3,
                                                  .class_code = 0x068000,
                                                  .interrupt_pin = 1,
                                                  .ops = &pm_pci_ops};
    check((config->default_base & ~PMBA_BASE) == 0);
    struct piix4_pm *pm = calloc(1, sizeof *pm);
    if (pm == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    pm->memory = memory;
    pm->config = *config;
    timer_init(&pm->timer, queue, timer_fired, pm);
    pm->function = pci_add_function(host, slot, 3, &desc, pm, err);
    if (pm->function == NULL) {
        free(pm);
        return NULL;
    }
    writable_init(pci_config_writable(pm->function));
    pm_reset(pm);
    return pm;
}

void piix4_pm_destroy(struct piix4_pm *pm)
{
    if (pm == NULL)
        return;
    timer_disarm(&pm->timer);
    if (pm->mapped_at != NOT_MAPPED)
        memory_unmap_device_ports(pm->memory, pm->mapped_at, PIIX4_PM_SIZE, pm);
    free(pm);
}
