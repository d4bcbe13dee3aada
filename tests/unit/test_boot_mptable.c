/* The MP configuration table against the MultiProcessor Specification 1.4, chapter 4: checksums, the order and the fields of
 * entries, and the rule that APIC IDs are unique. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "boot/mptable.h"

#define TABLE 0xf0050u

static const struct acpi_description board = {
    .cpu_count = 4,
    .local_apic_gpa = 0xfee00000,
    .cpu_signature = 0x000206a7,
    .cpu_features = 0x178bfbff,
    .io_apic_id = 4,
    .io_apic_gpa = 0xfec00000,
    .overrides = {{0, 2, ACPI_INTI_BUS}, {9, 9, ACPI_INTI_HIGH | ACPI_INTI_LEVEL}},
    .override_count = 2,
    .pci_swizzle = 3,
    .pci_gsi = {10, 11, 10, 11},
};

static uint8_t sum(const uint8_t *bytes, size_t size)
{
    uint8_t total = 0;
    for (size_t i = 0; i < size; i++)
        total = (uint8_t)(total + bytes[i]);
    return total;
}

static uint32_t get(const uint8_t *bytes, unsigned width)
{
    uint32_t value = 0;
    memcpy(&value, bytes, width);
    return value;
}

static void pointer_and_header(void **state)
{
    (void)state;
    struct mptable t;
    assert_true(mptable_build(&board, TABLE, &t));
    assert_memory_equal(t.floating, "_MP_", 4);
    assert_int_equal(get(t.floating + 4, 4), TABLE);
    assert_int_equal(t.floating[8], 1); /* of 16 bytes */
    assert_int_equal(t.floating[9], 4); /* version 1.4 */
    assert_int_equal(t.floating[11], 0); /* a table, no default configuration */
    assert_int_equal(sum(t.floating, sizeof t.floating), 0);
    assert_memory_equal(t.bytes, "PCMP", 4);
    assert_int_equal(get(t.bytes + 4, 2), t.size);
    assert_int_equal(t.bytes[6], 4);
    assert_int_equal(get(t.bytes + 36, 4), 0xfee00000);
    assert_int_equal(sum(t.bytes, t.size), 0);
}

static void entries(void **state)
{
    (void)state;
    struct mptable t;
    assert_true(mptable_build(&board, TABLE, &t));
    unsigned count = 0, of_type[5] = {0}, last = 0, pci_pins = 0;
    uint32_t apic_ids = 0;
    for (size_t at = 44; at < t.size; count++) {
        const uint8_t *e = t.bytes + at;
        assert_in_range(e[0], last, 4); /* in order of types */
        last = e[0];
        of_type[e[0]]++;
        switch (e[0]) {
        case 0:
            assert_int_equal(e[3], of_type[0] == 1 ? 3 : 1); /* enabled; the first is the boot processor */
            assert_int_equal(get(e + 4, 4), 0x000206a7);
            assert_int_equal(get(e + 8, 4), 0x178bfbff);
            assert_false(apic_ids & 1u << e[1]);
            apic_ids |= 1u << e[1];
            break;
        case 1: assert_memory_equal(e + 2, e[1] == 0 ? "PCI   " : "ISA   ", 6); break;
        case 2:
            assert_int_equal(get(e + 4, 4), 0xfec00000);
            assert_false(apic_ids & 1u << e[1]);
            break;
        case 3:
            assert_int_equal(e[1], 0);
            assert_int_equal(e[6], 4);
            if (e[4] == 0) {
                assert_int_equal(get(e + 2, 2), 0xd); /* high, level */
                assert_int_equal(e[7], ((e[5] >> 2) + (e[5] & 3) + 3) % 2 == 0 ? 10 : 11);
                pci_pins++;
            } else {
                assert_int_equal(e[7], e[5] == 0 ? 2 : e[5]);
                assert_int_equal(get(e + 2, 2), e[5] == 9 ? 0xd : 0);
            }
            break;
        default:
            assert_int_equal(e[1], e[7] == 0 ? 3 : 1); /* ExtINT at LINT0, NMI at LINT1 */
            assert_int_equal(e[6], 0xff);
        }
        at += e[0] == 0 ? 20 : 8;
    }
    assert_int_equal(get(t.bytes + 34, 2), count);
    assert_int_equal(of_type[0], 4);
    assert_int_equal(of_type[1], 2);
    assert_int_equal(of_type[2], 1);
    assert_int_equal(of_type[3], 15 + 32 * 4);
    assert_int_equal(pci_pins, 32 * 4);
    assert_int_equal(of_type[4], 2);
}

static void most_processors(void **state)
{
    (void)state;
    struct mptable t;
    struct acpi_description many = board;
    many.cpu_count = MPTABLE_CPUS_MAX;
    many.io_apic_id = MPTABLE_CPUS_MAX;
    assert_true(mptable_build(&many, TABLE, &t));
    assert_true(t.size <= MPTABLE_MAX);
    many.cpu_count++;
    assert_false(mptable_build(&many, TABLE, &t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pointer_and_header),
        cmocka_unit_test(entries),
        cmocka_unit_test(most_processors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
