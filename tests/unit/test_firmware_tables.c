/* What firmware is handed of ACPI and SMBIOS: the loader's script is done here as firmware does it, and the tables must be right
 * afterwards, wherever they were put. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "boot/acpi_loader.h"
#include "boot/smbios.h"

#define TABLES_AT 0x7ff00040u
#define RSDP_AT 0xf5a30u

static const struct acpi_description description = {
    .cpu_count = 2,
    .local_apic_gpa = 0xfee00000,
    .io_apic_id = 2,
    .io_apic_gpa = 0xfec00000,
    .has_pic = true,
    .sci_irq = 9,
    .pm1a_event = 0x600,
    .pm1a_control = 0x604,
    .pm_timer = 0x608,
    .pci_memory = {.base = 0xc0000000, .size = 0x3ec00000},
    .isa_bridge_slot = 1,
    .com1_port = 0x3f8,
    .com1_irq = 4,
    .fdc_port = 0x3f0,
    .hpet_gpa = 0xfed00000,
};

struct entry {
    uint32_t command;
    char file[56];
    union {
        struct {
            uint32_t align;
            uint8_t zone;
        } allocate;
        struct __attribute__((packed)) {
            char source[56];
            uint32_t offset;
            uint8_t size;
        } pointer;
        struct {
            uint32_t offset, start, length;
        } checksum;
        uint8_t room[68];
    };
};
_Static_assert(sizeof(struct entry) == 128, "a loader's command");

struct files {
    uint8_t *bytes;
    size_t size;
    uint64_t at;
};

static uint8_t sum(const uint8_t *bytes, size_t n)
{
    uint8_t total = 0;
    for (size_t i = 0; i < n; i++)
        total = (uint8_t)(total + bytes[i]);
    return total;
}

static struct files *file_of(struct files files[2], const char *name)
{
    if (strcmp(name, ACPI_LOADER_TABLES) == 0)
        return &files[0];
    assert_string_equal(name, ACPI_LOADER_RSDP);
    return &files[1];
}

/* Returns how many pointers there were. */
static unsigned script_run(const struct acpi_loader *loader, struct files files[2])
{
    unsigned pointers = 0;
    for (size_t i = 0; i < loader->script_size / sizeof(struct entry); i++) {
        const struct entry *entry = (const struct entry *)loader->script + i;
        struct files *file = file_of(files, entry->file);
        uint64_t value = 0;
        switch (entry->command) {
        case 1:
            assert_int_equal(file->at % entry->allocate.align, 0);
            assert_in_range(entry->allocate.zone, 1, 2);
            break;
        case 2:
            assert_true(entry->pointer.offset + entry->pointer.size <= file->size);
            memcpy(&value, file->bytes + entry->pointer.offset, entry->pointer.size);
            assert_true(value < file_of(files, entry->pointer.source)->size);
            value += file_of(files, entry->pointer.source)->at;
            memcpy(file->bytes + entry->pointer.offset, &value, entry->pointer.size);
            pointers++;
            break;
        case 3:
            assert_true(entry->checksum.start + entry->checksum.length <= file->size);
            file->bytes[entry->checksum.offset] =
                (uint8_t)(file->bytes[entry->checksum.offset] - sum(file->bytes + entry->checksum.start, entry->checksum.length));
            break;
        default:
            fail();
        }
    }
    return pointers;
}

static uint8_t *at(const struct files *file, uint64_t gpa, const char *signature)
{
    assert_in_range(gpa, file->at, file->at + file->size - 36);
    assert_memory_equal(file->bytes + (gpa - file->at), signature, 4);
    return file->bytes + (gpa - file->at);
}

static uint32_t get32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static uint64_t get64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static void test_acpi(void **state)
{
    struct acpi_loader loader;
    struct error err;
    assert_true(acpi_loader_build(&description, &loader, &err));
    struct files files[2] = {{loader.tables, loader.tables_size, TABLES_AT}, {loader.rsdp, sizeof loader.rsdp, RSDP_AT}};
    assert_int_equal(script_run(&loader, files), 3 + 3 + 3 + 2); /* FADT, RSDT, XSDT, RSDP */
    assert_int_equal(sum(loader.rsdp, 20), 0);
    assert_int_equal(sum(loader.rsdp, 36), 0);
    const uint8_t *rsdt = at(&files[0], get32(loader.rsdp + 16), "RSDT"), *xsdt = at(&files[0], get64(loader.rsdp + 24), "XSDT");
    static const char *const signatures[] = {"FACP", "APIC", "HPET"};
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *table = at(&files[0], get32(rsdt + 36 + 4 * i), signatures[i]);
        assert_ptr_equal(table, at(&files[0], get64(xsdt + 36 + 8 * i), signatures[i]));
        assert_int_equal(sum(table, get32(table + 4)), 0);
    }
    const uint8_t *fadt = at(&files[0], get32(rsdt + 36), "FACP"), *dsdt = at(&files[0], get32(fadt + 40), "DSDT");
    assert_int_equal(get32(fadt + 36), TABLES_AT);
    at(&files[0], get32(fadt + 36), "FACS");
    assert_int_equal(get64(fadt + 140), get32(fadt + 40));
    assert_int_equal(get64(fadt + 132), 0);
    assert_int_equal(sum(dsdt, get32(dsdt + 4)), 0);
    assert_int_equal(sum(rsdt, get32(rsdt + 4)), 0);
    assert_int_equal(sum(xsdt, get32(xsdt + 4)), 0);
    const uint8_t *hpet = at(&files[0], get32(rsdt + 44), "HPET");
    assert_int_equal(get32(hpet + 36), 0x8086a201);
    assert_int_equal(get64(hpet + 44), 0xfed00000);
    acpi_loader_fini(&loader);

    struct acpi_description none = description;
    none.cpu_count = 0;
    assert_false(acpi_loader_build(&none, &loader, &err));
    acpi_loader_fini(&loader);
}

static void test_smbios(void **state)
{
    const struct smbios_description machine = {.cpu_count = 3,
                                               .cpu_vendor = "GenuineVendor",
                                               .cpu_name = "A processor",
                                               .cpu_signature = 0x12345,
                                               .low_ram = 3 * GiB,
                                               .high_ram = 30 * GiB + 4096};
    struct smbios smbios;
    assert_true(smbios_build(&machine, &smbios, NULL));
    assert_int_equal(sum(smbios.anchor, SMBIOS_ANCHOR_SIZE), 0);
    assert_int_equal(sum(smbios.anchor + 16, 15), 0);
    assert_int_equal(smbios.anchor[22] | smbios.anchor[23] << 8, smbios.size);
    unsigned count = 0, processors = 0, devices = 0, mapped = 0;
    size_t largest = 0;
    uint64_t mib = 0;
    bool end = false;
    for (size_t i = 0; i < smbios.size;) { /* the formatted part, strings, two zeros */
        const uint8_t *structure = smbios.bytes + i;
        size_t strings = structure[1];
        assert_false(end);
        while (structure[strings] != 0 || structure[strings + 1] != 0)
            strings++;
        count++;
        processors += structure[0] == 4;
        devices += structure[0] == 17;
        mapped += structure[0] == 19;
        mib += structure[0] == 17 ? (structure[12] | (unsigned)structure[13] << 8) & 0x7fff : 0;
        end = structure[0] == 127;
        largest = strings + 2 > largest ? strings + 2 : largest;
        i += strings + 2;
        assert_true(i <= smbios.size);
    }
    assert_true(end);
    assert_int_equal(count, smbios.anchor[28]);
    assert_int_equal(largest, smbios.anchor[8] | smbios.anchor[9] << 8);
    assert_int_equal(processors, 3);
    assert_int_equal(devices, 3);
    assert_int_equal(mapped, 2);
    assert_int_equal(mib, 33 * 1024);
    smbios_fini(&smbios);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_acpi),
        cmocka_unit_test(test_smbios),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
