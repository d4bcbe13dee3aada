/* ACPI tables: lengths and checksums, the chain from the RSDP, the FADT's and MADT's contents, the AML assembler's
 * encodings, and, where iasl is installed, that the DSDT disassembles and compiles again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/types.h"
#include "boot/acpi.h"
#include "boot/aml.h"

#define TABLES 0xe0000
#define FACS 0xef000

static const struct acpi_description pc = {
    .cpu_count = 4,
    .local_apic_gpa = 0xfee00000,
    .io_apic_id = 4,
    .io_apic_gpa = 0xfec00000,
    .has_pic = true,
    .overrides = {{0, 2, ACPI_INTI_BUS}, {9, 9, ACPI_INTI_HIGH | ACPI_INTI_LEVEL}},
    .override_count = 2,
    .sci_irq = 9,
    .pm1a_event = 0x600,
    .pm1a_control = 0x604,
    .pm_timer = 0x608,
    .gpe0 = 0x620,
    .gpe0_size = 4,
    .has_power_button = true,
    .reset_port = 0xcf9,
    .reset_value = 6,
    .pci_memory = {0xc0000000, 0x3ec00000},
    .pci_memory64 = {0x100000000000, 0x1000000000},
    .pci_swizzle = 3,
    .pci_pic_irq = {10, 11, 10, 11},
    .pci_gsi = {16, 17, 18, 19},
    .isa_bridge_slot = 1,
    .has_vga = true,
    .com1_port = 0x3f8,
    .com1_irq = 4,
    .has_rtc = true,
    .has_i8042 = true,
    .pvpanic_port = 0x505,
};

static uint64_t get(const uint8_t *bytes, size_t offset, unsigned width)
{
    uint64_t value = 0;
    memcpy(&value, bytes + offset, width);
    return value;
}

static uint8_t sum(const uint8_t *bytes, size_t size)
{
    uint8_t total = 0;
    while (size-- > 0)
        total = (uint8_t)(total + *bytes++);
    return total;
}

static const uint8_t *table_at(const struct acpi_tables *tables, uint64_t gpa, const char *signature)
{
    assert_in_range(gpa, TABLES, TABLES + tables->tables_size - 36);
    const uint8_t *table = tables->tables + (gpa - TABLES);
    assert_memory_equal(table, signature, 4);
    assert_true(get(table, 4, 4) <= tables->tables_size - (gpa - TABLES));
    assert_int_equal(sum(table, get(table, 4, 4)), 0);
    return table;
}

static void test_chain(void **state)
{
    struct acpi_tables tables;
    assert_true(acpi_build(&pc, TABLES, 0xf000, FACS, &tables, NULL));
    assert_memory_equal(tables.rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(tables.rsdp, 20), 0);
    assert_int_equal(sum(tables.rsdp, 36), 0);
    assert_int_equal(tables.rsdp[15], 2);
    const uint8_t *rsdt = table_at(&tables, get(tables.rsdp, 16, 4), "RSDT");
    const uint8_t *xsdt = table_at(&tables, get(tables.rsdp, 24, 8), "XSDT");
    assert_int_equal(get(rsdt, 4, 4), 36 + 2 * 4);
    assert_int_equal(get(xsdt, 4, 4), 36 + 2 * 8);
    assert_int_equal(get(rsdt, 36, 4), get(xsdt, 36, 8));
    assert_int_equal(get(rsdt, 40, 4), get(xsdt, 44, 8));

    const uint8_t *fadt = table_at(&tables, get(xsdt, 36, 8), "FACP");
    assert_int_equal(get(fadt, 4, 4), 276);
    assert_int_equal(get(fadt, 36, 4), FACS);
    assert_int_equal(get(fadt, 40, 4), get(fadt, 140, 8)); /* DSDT and X_DSDT */
    table_at(&tables, get(fadt, 40, 4), "DSDT");
    assert_int_equal(get(fadt, 46, 2), 9);
    assert_int_equal(get(fadt, 56, 4), 0x600);
    assert_int_equal(get(fadt, 64, 4), 0x604);
    assert_int_equal(get(fadt, 76, 4), 0x608);
    assert_int_equal(get(fadt, 109, 2), 3);
    assert_int_equal(get(fadt, 112, 4) & 1 << 10, 1 << 10); /* RESET_REG_SUP */
    assert_int_equal(get(fadt, 120, 8), 0xcf9);
    assert_int_equal(fadt[128], 6);
    assert_int_equal(get(fadt, 152, 8), 0x600); /* X_PM1a_EVT_BLK */
    assert_memory_equal(tables.facs, "FACS", 4);
    assert_int_equal(get(tables.facs, 4, 4), 64);
    acpi_tables_fini(&tables);
}

/* Counts the MADT's entries by type and checks that they tile it. */
static void madt_count(const struct acpi_tables *tables, unsigned counts[16])
{
    const uint8_t *xsdt = table_at(tables, get(tables->rsdp, 24, 8), "XSDT");
    const uint8_t *madt = table_at(tables, get(xsdt, 44, 8), "APIC");
    uint64_t size = get(madt, 4, 4), at = 44;
    assert_int_equal(get(madt, 36, 4), 0xfee00000);
    memset(counts, 0, 16 * sizeof counts[0]);
    while (at < size) {
        assert_true(madt[at] < 16);
        assert_true(madt[at + 1] >= 2 && madt[at + 1] <= size - at);
        counts[madt[at]]++;
        at += madt[at + 1];
    }
    assert_int_equal(at, size);
}

static void test_madt(void **state)
{
    struct acpi_tables tables;
    unsigned counts[16];
    assert_true(acpi_build(&pc, TABLES, 0xf000, FACS, &tables, NULL));
    madt_count(&tables, counts);
    assert_int_equal(counts[0], 4);
    assert_int_equal(counts[1], 1);
    assert_int_equal(counts[2], 2);
    assert_int_equal(counts[4], 1);
    acpi_tables_fini(&tables);

    struct acpi_description many = pc;
    many.cpu_count = 300;
    assert_true(acpi_build(&many, TABLES, 0xf000, FACS, &tables, NULL));
    madt_count(&tables, counts);
    assert_int_equal(counts[0], 255);
    assert_int_equal(counts[9], 45);
    assert_int_equal(counts[10], 1);
    acpi_tables_fini(&tables);
}

static void test_limits(void **state)
{
    struct acpi_tables tables;
    struct error err;
    struct acpi_description most = pc;
    most.cpu_count = ACPI_CPU_MAX;
    assert_true(acpi_build(&most, TABLES, 0xf000, FACS, &tables, NULL));
    acpi_tables_fini(&tables);
    assert_false(acpi_build(&most, TABLES, 0x1000, FACS, &tables, &err));
    assert_non_null(strstr(err.message, "fewer processors"));
    most.cpu_count = 0;
    assert_false(acpi_build(&most, TABLES, 0xf000, FACS, &tables, &err));
    most.cpu_count = ACPI_CPU_MAX + 1;
    assert_false(acpi_build(&most, TABLES, 0xf000, FACS, &tables, &err));
    struct acpi_description wrong = pc;
    wrong.pci_memory.size = 4 * GiB;
    assert_false(acpi_build(&wrong, TABLES, 0xf000, FACS, &tables, &err));
}

static void test_aml_integers(void **state)
{
    struct aml aml;
    aml_init(&aml);
    aml_integer(&aml, 0);
    aml_integer(&aml, 1);
    aml_integer(&aml, 0xfe);
    aml_integer(&aml, 0x1234);
    aml_integer(&aml, 0x12345678);
    aml_integer(&aml, 0x123456789a);
    aml_eisa_id(&aml, "PNP0A03");
    const uint8_t expected[] = {0,    1,    0x0a, 0xfe, 0x0b, 0x34, 0x12, 0x0c, 0x78, 0x56, 0x34, 0x12, 0x0e,
                                0x9a, 0x78, 0x56, 0x34, 0x12, 0,    0,    0,    0x0c, 0x41, 0xd0, 0x0a, 0x03};
    assert_int_equal(aml.size, sizeof expected);
    assert_memory_equal(aml.bytes, expected, sizeof expected);
    aml_fini(&aml);
}

static void test_aml_paths(void **state)
{
    struct aml aml;
    aml_init(&aml);
    aml_path(&aml, "\\_SB");
    aml_path(&aml, "A.B");
    aml_path(&aml, "A.B.CDEF");
    const uint8_t expected[] = "\\_SB_\x2e"
                               "A___B___\x2f\x03"
                               "A___B___CDEF";
    assert_int_equal(aml.size, sizeof expected - 1);
    assert_memory_equal(aml.bytes, expected, sizeof expected - 1);
    aml_fini(&aml);
}

/* Lengths around the limits of one, two and three bytes; the length counts itself. */
static void test_aml_lengths(void **state)
{
    static const struct {
        unsigned body;
        uint8_t length[4];
        unsigned size;
    } cases[] = {
        {62, {0x3f}, 1},
        {63, {0x41, 0x04}, 2},
        {4093, {0x4f, 0xff}, 2},
        {4094, {0x81, 0x00, 0x01}, 3},
        {70000, {0x83, 0x17, 0x11}, 3},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct aml aml;
        aml_init(&aml);
        size_t mark = aml_if_begin(&aml);
        for (unsigned n = 0; n < cases[i].body; n++)
            aml_u8(&aml, 0xa5);
        aml_end(&aml, mark);
        assert_int_equal(aml.size, 1 + cases[i].size + cases[i].body);
        assert_memory_equal(aml.bytes + 1, cases[i].length, cases[i].size);
        assert_int_equal(aml.bytes[1 + cases[i].size], 0xa5);
        aml_fini(&aml);
    }
}

static bool disassembly_has(const char *text, const char *needle)
{
    if (strstr(text, needle) != NULL)
        return true;
    print_error("the disassembly lacks: %s\n", needle);
    return false;
}

static void test_iasl(void **state)
{
    if (system("iasl -v >/dev/null 2>&1") != 0)
        skip();
    struct acpi_tables tables;
    assert_true(acpi_build(&pc, TABLES, 0xf000, FACS, &tables, NULL));
    char directory[] = "/tmp/ring3-acpi-XXXXXX", path[64], command[256];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/dsdt.aml", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(tables.tables, get(tables.tables, 4, 4), 1, file), 1); /* the DSDT is the first */
    fclose(file);
    acpi_tables_fini(&tables);
    /* -d disassembles; the second run compiles the result and fails on errors. */
    snprintf(command, sizeof command, "cd %s && iasl -d dsdt.aml >log 2>&1 && iasl -p again dsdt.dsl >>log 2>&1",
             directory);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/dsdt.dsl", directory);
    file = fopen(path, "r");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    assert_true(disassembly_has(text, "Name (\\_S5, Package (0x04)"));
    assert_true(disassembly_has(text, "Method (\\_PIC, 1, NotSerialized)"));
    assert_true(disassembly_has(text, "EisaId (\"PNP0A03\")"));
    assert_true(disassembly_has(text, "EisaId (\"PNP0501\")"));
    assert_true(disassembly_has(text, "EisaId (\"PNP0B00\")"));
    assert_true(disassembly_has(text, "EisaId (\"PNP0303\")"));
    assert_true(disassembly_has(text, "EisaId (\"PNP0F13\")"));
    assert_true(disassembly_has(text, "Name (_HID, \"QEMU0001\")"));
    assert_true(disassembly_has(text, "OperationRegion (PORT, SystemIO, 0x0505, One)"));
    assert_true(disassembly_has(text, "Return (PRTA)"));
    assert_true(disassembly_has(text, "0x001FFFFF"));
    free(text);
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain),        cmocka_unit_test(test_madt),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_aml_integers), cmocka_unit_test(test_aml_paths), cmocka_unit_test(test_aml_lengths),
        cmocka_unit_test(test_iasl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
