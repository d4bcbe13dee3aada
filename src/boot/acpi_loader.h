/* The ACPI tables as firmware places them: blobs with pointers relative to their own starts, and a script of what to do with
 * them. The board hands the three over as files of its firmware configuration device.
 *
 * Source: QEMU, docs/specs and the published struct BiosLinkerLoaderEntry; ACPI 6.3 for the tables. */
#ifndef RING3_BOOT_ACPI_LOADER_H
#define RING3_BOOT_ACPI_LOADER_H

#include "boot/acpi.h"

#define ACPI_LOADER_TABLES "etc/acpi/tables"
#define ACPI_LOADER_RSDP "etc/acpi/rsdp"
#define ACPI_LOADER_SCRIPT "etc/table-loader"

struct acpi_loader {
    uint8_t *tables; /* owned, as `script` is: acpi_loader_fini() */
    size_t tables_size;
    uint8_t rsdp[ACPI_RSDP_SIZE];
    uint8_t *script;
    size_t script_size;
};

/* False with a message when the description is impossible; `out` then holds nothing. */
bool acpi_loader_build(const struct acpi_description *description, struct acpi_loader *out, struct error *err);
void acpi_loader_fini(struct acpi_loader *loader);

#endif
