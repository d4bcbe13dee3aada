/* The ACPI tables; see acpi.h. dsdt.c assembles the DSDT's terms.
 *
 * All tables but FACS and RSDP lie in one blob, in this order: DSDT, FADT, MADT, HPET if there is one, RSDT, XSDT, each on a
 * 64-byte boundary. Both root tables list the same ones, from the FADT to the HPET, for guests of either persuasion. Every
 * address is below 4 GiB, so the FADT's 32-bit fields and their X_ twins agree.
 *
 * The FADT is revision 6 (ACPI 6.3), 276 bytes. Fixed hardware is in I/O space. Not provided: PM1b, PM2, GPE1,
 * processor C2/C3 (latencies above their limits say so), S4BIOS, hardware-reduced mode.
 *
 * Source: ACPI 6.3: 5.2.5 RSDP, 5.2.7 RSDT, 5.2.8 XSDT, 5.2.9 FADT, 5.2.10 FACS, 5.2.12 MADT. */
#include "boot/acpi.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "boot/aml.h"
#include "boot/dsdt.h"

#define PACKED __attribute__((packed))
#define TABLE_ALIGN 64
#define HPET_BLOCK_ID 0x8086a201u /* revision 1, three comparators, 64 bits, legacy replacement route */
#define HPET_MIN_TICK 1000u       /* ticks between interrupts of a periodic comparator, of 10 ns */
#define HIGHEST_X2APIC_FREE_ID 255 /* 0xff is the xAPIC's broadcast id */

struct PACKED acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
};
static_assert(sizeof(struct acpi_header) == 36, "ACPI 6.3 table 5-28");

struct PACKED acpi_gas {
    uint8_t space; /* 1: system I/O */
    uint8_t bit_width;
    uint8_t bit_offset;
    uint8_t access; /* 1: byte, 2: word, 3: doubleword */
    uint64_t address;
};

struct PACKED acpi_fadt {
    struct acpi_header header;
    uint32_t facs;
    uint32_t dsdt;
    uint8_t reserved0;
    uint8_t preferred_pm_profile;
    uint16_t sci_interrupt;
    uint32_t smi_command;
    uint8_t acpi_enable;
    uint8_t acpi_disable;
    uint8_t s4bios_request;
    uint8_t pstate_control;
    uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
    uint8_t pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length;
    uint8_t gpe0_length, gpe1_length, gpe1_base, cst_control;
    uint16_t c2_latency, c3_latency, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    uint16_t boot_flags;
    uint8_t reserved1;
    uint32_t flags;
    struct acpi_gas reset_register;
    uint8_t reset_value;
    uint16_t arm_boot_flags;
    uint8_t minor_version;
    uint64_t x_facs;
    uint64_t x_dsdt;
    struct acpi_gas x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control, x_pm_timer, x_gpe0,
        x_gpe1;
    struct acpi_gas sleep_control, sleep_status;
    uint64_t hypervisor_id;
};
static_assert(sizeof(struct acpi_fadt) == 276, "ACPI 6.3 table 5-33");
static_assert(offsetof(struct acpi_fadt, boot_flags) == 109, "ACPI 6.3 table 5-33");
static_assert(offsetof(struct acpi_fadt, reset_register) == 116, "ACPI 6.3 table 5-33");
static_assert(offsetof(struct acpi_fadt, x_facs) == 132, "ACPI 6.3 table 5-33");

enum fadt_flag {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_PWR_BUTTON_ABSENT = 1 << 4, /* as fixed hardware */
    FADT_SLP_BUTTON_ABSENT = 1 << 5,
    FADT_FIX_RTC = 1 << 6, /* RTC wake status is not in fixed registers */
    FADT_TMR_VAL_EXT = 1 << 8,
    FADT_RESET_REG_SUP = 1 << 10,
};

enum fadt_boot_flag {
    FADT_LEGACY_DEVICES = 1 << 0,
    FADT_8042 = 1 << 1,
    FADT_VGA_NOT_PRESENT = 1 << 2,
    FADT_CMOS_RTC_NOT_PRESENT = 1 << 5,
};

struct PACKED acpi_rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum;
    uint8_t reserved[3];
};
static_assert(sizeof(struct acpi_rsdp) == ACPI_RSDP_SIZE, "ACPI 6.3 table 5-27");

struct PACKED acpi_facs {
    char signature[4];
    uint32_t length;
    uint32_t hardware_signature;
    uint32_t waking_vector;
    uint32_t global_lock;
    uint32_t flags;
    uint64_t x_waking_vector;
    uint8_t version;
    uint8_t reserved[31];
};
static_assert(sizeof(struct acpi_facs) == ACPI_FACS_SIZE, "ACPI 6.3 table 5-39");

static uint8_t checksum(const void *bytes, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    return (uint8_t)-sum;
}

static struct acpi_header table_header(const char signature[static 4], uint8_t revision)
{
    struct acpi_header header = {
        .revision = revision,
        .oem_id = {'R', 'I', 'N', 'G', '3', ' '},
        .oem_table_id = {'R', 'I', 'N', 'G', '3', ' ', 'P', 'C'},
        .oem_revision = 1,
        .creator_id = {'R', 'N', 'G', '3'},
        .creator_revision = 1,
    };
    memcpy(header.signature, signature, sizeof header.signature);
    return header;
}

/* Aligns the blob for the next table and returns where that starts. */
static size_t table_begin(struct aml *blob)
{
    while (!blob->failed && blob->size % TABLE_ALIGN != 0)
        aml_u8(blob, 0);
    return blob->size;
}

/* Length and checksum of the table that began at `start` and ends where the blob ends. */
static void table_end(struct aml *blob, size_t start)
{
    if (blob->failed)
        return;
    struct acpi_header *header = (struct acpi_header *)(blob->bytes + start);
    header->length = (uint32_t)(blob->size - start);
    header->checksum = 0;
    header->checksum = checksum(header, header->length);
}

static size_t dsdt_table(struct aml *blob, const struct acpi_description *description)
{
    size_t start = table_begin(blob);
    struct acpi_header header = table_header("DSDT", 2); /* 2: integers are 64 bits wide */
    aml_bytes(blob, &header, sizeof header);
    dsdt_build(blob, description);
    table_end(blob, start);
    return start;
}

/* Register block at an I/O port; a port of 0 gives the all-zero "not supported". */
static struct acpi_gas io_block(uint16_t port, unsigned bytes, unsigned access)
{
    if (port == 0)
        return (struct acpi_gas){0};
    return (struct acpi_gas){.space = 1, .bit_width = (uint8_t)(bytes * 8), .access = (uint8_t)access, .address = port};
}

static uint32_t fadt_flags(const struct acpi_description *description)
{
    uint32_t flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON_ABSENT | FADT_FIX_RTC;
    flags |= description->has_power_button ? 0 : FADT_PWR_BUTTON_ABSENT;
    flags |= description->pm_timer_32bit ? FADT_TMR_VAL_EXT : 0;
    flags |= description->reset_port != 0 ? FADT_RESET_REG_SUP : 0;
    return flags;
}

static uint16_t fadt_boot_flags(const struct acpi_description *description)
{
    uint16_t flags = FADT_LEGACY_DEVICES;
    flags |= description->has_i8042 ? FADT_8042 : 0;
    flags |= description->has_vga ? 0 : FADT_VGA_NOT_PRESENT;
    flags |= description->has_rtc ? 0 : FADT_CMOS_RTC_NOT_PRESENT;
    return flags;
}

static size_t fadt_table(struct aml *blob, const struct acpi_description *d, uint32_t dsdt, uint32_t facs)
{
    struct acpi_fadt fadt = {
        .header = table_header("FACP", 6),
        .facs = facs, /* and not x_facs: only one of the two may be set */
        .dsdt = dsdt,
        .preferred_pm_profile = 0, /* unspecified */
        .sci_interrupt = d->sci_irq,
        .smi_command = d->smi_command,
        .acpi_enable = d->acpi_enable,
        .acpi_disable = d->acpi_disable,
        .pm1a_event = d->pm1a_event,
        .pm1a_control = d->pm1a_control,
        .pm_timer = d->pm_timer,
        .gpe0 = d->gpe0,
        .pm1_event_length = 4,
        .pm1_control_length = 2,
        .pm_timer_length = 4,
        .gpe0_length = d->gpe0 != 0 ? d->gpe0_size : 0,
        .c2_latency = 101,  /* above 100 us: no C2 */
        .c3_latency = 1001, /* above 1000 us: no C3 */
        .century = d->has_rtc ? 0x32 : 0,
        .boot_flags = fadt_boot_flags(d),
        .flags = fadt_flags(d),
        .reset_register = io_block(d->reset_port, 1, 1),
        .reset_value = d->reset_value,
        .minor_version = 3,
        .x_dsdt = dsdt,
        .x_pm1a_event = io_block(d->pm1a_event, 4, 2),
        .x_pm1a_control = io_block(d->pm1a_control, 2, 2),
        .x_pm_timer = io_block(d->pm_timer, 4, 3),
        .x_gpe0 = io_block(d->gpe0, d->gpe0_size, 1),
    };
    size_t start = table_begin(blob);
    aml_bytes(blob, &fadt, sizeof fadt);
    table_end(blob, start);
    return start;
}

/* One interrupt controller structure: its type, its length and its body. */
static void madt_entry(struct aml *blob, uint8_t type, const void *body, size_t size)
{
    aml_u8(blob, type);
    aml_u8(blob, (uint8_t)(size + 2));
    aml_bytes(blob, body, size);
}

static void madt_processor(struct aml *blob, uint32_t id)
{
    if (id < HIGHEST_X2APIC_FREE_ID) {
        struct PACKED {
            uint8_t processor_uid, apic_id;
            uint32_t flags;
        } local_apic = {(uint8_t)id, (uint8_t)id, 1 /* enabled */};
        madt_entry(blob, 0, &local_apic, sizeof local_apic);
    } else {
        struct PACKED {
            uint16_t reserved;
            uint32_t apic_id, flags, processor_uid;
        } local_x2apic = {0, id, 1, id};
        madt_entry(blob, 9, &local_x2apic, sizeof local_x2apic);
    }
}

static size_t madt_table(struct aml *blob, const struct acpi_description *description)
{
    size_t start = table_begin(blob);
    struct acpi_header header = table_header("APIC", 5);
    aml_bytes(blob, &header, sizeof header);
    aml_u32(blob, description->local_apic_gpa);
    aml_u32(blob, description->has_pic); /* PCAT_COMPAT */
    for (unsigned id = 0; id < description->cpu_count; id++)
        madt_processor(blob, id);
    struct PACKED {
        uint8_t id, reserved;
        uint32_t address, gsi_base;
    } io_apic = {description->io_apic_id, 0, description->io_apic_gpa, 0};
    madt_entry(blob, 1, &io_apic, sizeof io_apic);
    for (unsigned i = 0; i < description->override_count; i++) {
        const struct acpi_override *override = &description->overrides[i];
        struct PACKED {
            uint8_t bus, source;
            uint32_t gsi;
            uint16_t flags;
        } source_override = {0, override->isa_irq, override->gsi, override->flags};
        madt_entry(blob, 2, &source_override, sizeof source_override);
    }
    struct PACKED {
        uint8_t processor_uid;
        uint16_t flags;
        uint8_t lint;
    } nmi = {0xff, ACPI_INTI_BUS, 1}; /* LINT1 of every processor */
    madt_entry(blob, 4, &nmi, sizeof nmi);
    if (description->cpu_count > HIGHEST_X2APIC_FREE_ID) {
        struct PACKED {
            uint16_t flags;
            uint32_t processor_uid;
            uint8_t lint, reserved[3];
        } x2apic_nmi = {ACPI_INTI_BUS, UINT32_MAX, 1, {0}};
        madt_entry(blob, 10, &x2apic_nmi, sizeof x2apic_nmi);
    }
    table_end(blob, start);
    return start;
}

/* IA-PC HPET Specification 1.0a, 3.2.4. */
static size_t hpet_table(struct aml *blob, const struct acpi_description *description)
{
    size_t start = table_begin(blob);
    struct acpi_header header = table_header("HPET", 1);
    const struct acpi_gas memory = {.space = 0, .bit_width = 64, .address = description->hpet_gpa};
    aml_bytes(blob, &header, sizeof header);
    aml_u32(blob, HPET_BLOCK_ID);
    aml_bytes(blob, &memory, sizeof memory);
    aml_u8(blob, 0);  /* its number */
    aml_u16(blob, HPET_MIN_TICK);
    aml_u8(blob, 0);  /* nothing is said of the rest of its page */
    table_end(blob, start);
    return start;
}

/* RSDT (entries of 4 bytes) or XSDT (of 8). */
static size_t root_table(struct aml *blob, const char signature[static 4], size_t entry_size, const uint64_t *entries,
                         unsigned count)
{
    size_t start = table_begin(blob);
    struct acpi_header header = table_header(signature, 1);
    aml_bytes(blob, &header, sizeof header);
    for (unsigned i = 0; i < count; i++)
        aml_bytes(blob, &entries[i], entry_size);
    table_end(blob, start);
    return start;
}

static void rsdp_build(uint8_t out[static ACPI_RSDP_SIZE], uint32_t rsdt, uint32_t xsdt)
{
    struct acpi_rsdp rsdp = {
        .signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
        .oem_id = {'R', 'I', 'N', 'G', '3', ' '},
        .revision = 2,
        .rsdt = rsdt,
        .length = sizeof rsdp,
        .xsdt = xsdt,
    };
    rsdp.checksum = checksum(&rsdp, 20);
    rsdp.extended_checksum = checksum(&rsdp, sizeof rsdp);
    memcpy(out, &rsdp, sizeof rsdp);
}

static bool description_valid(const struct acpi_description *description, gpa_t tables_gpa, size_t tables_limit,
                              gpa_t facs_gpa, struct error *err)
{
    if (description->cpu_count < 1 || description->cpu_count > ACPI_CPU_MAX)
        return error_set(err, "ACPI tables for %u processors are not possible (1 to %u)", description->cpu_count,
                         ACPI_CPU_MAX);
    if (description->override_count > ACPI_OVERRIDE_MAX)
        return error_set(err, "ACPI tables with %u interrupt overrides are not possible (at most %u)",
                         description->override_count, ACPI_OVERRIDE_MAX);
    if (description->s5_type > 7 || description->com1_irq > 15 || description->isa_bridge_slot >= 32)
        return error_set(err, "ACPI description: S5 type %u, COM1 IRQ %u or ISA bridge slot %u is out of range",
                         description->s5_type, description->com1_irq, description->isa_bridge_slot);
    const struct acpi_window *window = &description->pci_memory;
    if (window->size > 4 * GiB || window->base > 4 * GiB - window->size || (window->size > 0 && window->base == 0))
        return error_set(err, "ACPI description: the PCI memory window must lie within 4 GiB");
    if (description->pci_memory64.size > UINT64_MAX - description->pci_memory64.base)
        return error_set(err, "ACPI description: the 64-bit PCI memory window wraps");
    if (tables_limit > 4 * GiB || tables_gpa > 4 * GiB - tables_limit || facs_gpa > 4 * GiB - ACPI_FACS_SIZE ||
        tables_gpa % TABLE_ALIGN != 0 || facs_gpa % TABLE_ALIGN != 0)
        return error_set(err, "ACPI tables must lie below 4 GiB on 64-byte boundaries");
    return true;
}

bool acpi_build(const struct acpi_description *description, gpa_t tables_gpa, size_t tables_limit, gpa_t facs_gpa,
                struct acpi_tables *out, struct error *err)
{
    memset(out, 0, sizeof *out);
    if (!description_valid(description, tables_gpa, tables_limit, facs_gpa, err))
        return false;
    struct aml blob;
    aml_init(&blob);
    size_t dsdt = dsdt_table(&blob, description);
    size_t fadt = fadt_table(&blob, description, (uint32_t)(tables_gpa + dsdt), (uint32_t)facs_gpa);
    size_t madt = madt_table(&blob, description);
    uint64_t entries[3] = {tables_gpa + fadt, tables_gpa + madt};
    unsigned count = 2;
    if (description->hpet_gpa != 0)
        entries[count++] = tables_gpa + hpet_table(&blob, description);
    size_t rsdt = root_table(&blob, "RSDT", 4, entries, count);
    size_t xsdt = root_table(&blob, "XSDT", 8, entries, count);
    if (blob.failed || blob.size > tables_limit) {
        if (blob.failed)
            error_set(err, "out of memory");
        else
            error_set(err, "the ACPI tables of %zu bytes do not fit in %zu; give fewer processors", blob.size,
                      tables_limit);
        aml_fini(&blob);
        return false;
    }
    struct acpi_facs facs = {.signature = {'F', 'A', 'C', 'S'}, .length = sizeof facs, .version = 2};
    memcpy(out->facs, &facs, sizeof facs);
    rsdp_build(out->rsdp, (uint32_t)(tables_gpa + rsdt), (uint32_t)(tables_gpa + xsdt));
    out->tables = blob.bytes;
    out->tables_size = blob.size;
    return true;
}

void acpi_tables_fini(struct acpi_tables *tables)
{
    free(tables->tables);
    memset(tables, 0, sizeof *tables);
}
