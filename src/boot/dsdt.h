/* The DSDT's AML: what the tables of acpi.c cannot say about the machine. Internal to src/boot. */
#ifndef RING3_BOOT_DSDT_H
#define RING3_BOOT_DSDT_H

#include "boot/acpi.h"
#include "boot/aml.h"

/* Appends the definition block's terms (no table header). */
void dsdt_build(struct aml *aml, const struct acpi_description *description);

#endif
