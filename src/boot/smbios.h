/* What the machine is, for inventories: SMBIOS structures.
 *
 * Source: DMTF DSP0134 (SMBIOS 2.8), chapters 5 and 7. */
#ifndef RING3_BOOT_SMBIOS_H
#define RING3_BOOT_SMBIOS_H

#include "base/error.h"
#include "base/types.h"

#define SMBIOS_ANCHOR_SIZE 31u

struct smbios_description {
    unsigned cpu_count;     /* a socket each */
    const char *cpu_vendor; /* "GenuineIntel" */
    const char *cpu_name;   /* the brand string */
    uint32_t cpu_signature, cpu_features; /* CPUID 1, EAX and EDX */
    uint64_t low_ram, high_ram;           /* bytes below and above 4 GiB */
};

/* The structures, and the entry point for them, whose table address is 0: who places the structures fills it in and makes the
 * checksums again. */
struct smbios {
    uint8_t *bytes; /* owned: smbios_fini() */
    size_t size;
    uint8_t anchor[SMBIOS_ANCHOR_SIZE];
};

/* False when out of memory. */
bool smbios_build(const struct smbios_description *description, struct smbios *out, struct error *err);
void smbios_fini(struct smbios *smbios);

#endif
