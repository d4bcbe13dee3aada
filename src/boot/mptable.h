/* The MP configuration table of the machine, for guests that know nothing of ACPI: processors, buses, the I/O APIC and what is
 * wired to its pins.
 *
 * Source: Intel, "MultiProcessor Specification", version 1.4, chapter 4. */
#ifndef RING3_BOOT_MPTABLE_H
#define RING3_BOOT_MPTABLE_H

#include "base/error.h"
#include "base/types.h"
#include "boot/acpi.h"

#define MPTABLE_CPUS_MAX 8u
#define MPTABLE_FLOATING_SIZE 16u
#define MPTABLE_MAX 2048u

/* The floating pointer is for a place where guests look for it, on a 16-byte boundary. */
struct mptable {
    uint8_t floating[MPTABLE_FLOATING_SIZE];
    uint8_t bytes[MPTABLE_MAX];
    size_t size;
};

/* What ACPI says of the board in this table's form; `table_gpa` is where `bytes` goes, below 4 GiB. False if there are more
 * processors than MPTABLE_CPUS_MAX: then there is no table. */
bool mptable_build(const struct acpi_description *description, gpa_t table_gpa, struct mptable *out);

#endif
