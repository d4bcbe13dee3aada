/* A small assembler of AML, the byte code of ACPI's DSDT.
 *
 * It appends to a growing buffer. Everything that has a PkgLength is written between aml_*_begin(), which returns
 * a mark, and aml_end() with that mark: the length is then encoded in as few bytes as it takes and put in
 * front. Names are NameSegs of one to four characters (padded with '_') and paths of them, "\\_SB.PCI0".
 *
 * Running out of host memory makes the assembler `failed`: later calls do nothing, the user looks once, at the end.
 * Malformed names and unbalanced marks are our own bugs and are checked.
 *
 * Source: ACPI 6.3 chapter 20 (AML), 6.4 (resource data types). */
#ifndef RING3_BOOT_AML_H
#define RING3_BOOT_AML_H

#include "base/types.h"

struct aml {
    uint8_t *bytes;
    size_t size;
    size_t capacity;
    bool failed;
};

void aml_init(struct aml *aml);
void aml_fini(struct aml *aml);

/* Raw bytes, little-endian. */
void aml_bytes(struct aml *aml, const void *bytes, size_t size);
void aml_u8(struct aml *aml, uint8_t value);
void aml_u16(struct aml *aml, uint16_t value);
void aml_u32(struct aml *aml, uint32_t value);
void aml_u64(struct aml *aml, uint64_t value);

/* Terms without a length. */
void aml_path(struct aml *aml, const char *path);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *string);
void aml_eisa_id(struct aml *aml, const char *id); /* "PNP0A03" as a compressed id */
void aml_name(struct aml *aml, const char *path);  /* Name (path, <the term that follows>) */
void aml_name_integer(struct aml *aml, const char *path, uint64_t value);
void aml_return(struct aml *aml); /* Return (<the term that follows>) */
void aml_store(struct aml *aml);  /* Store (<source>, <target>) */
void aml_arg(struct aml *aml, unsigned n);
void aml_local(struct aml *aml, unsigned n);
void aml_region_io(struct aml *aml, const char *path, uint16_t port, uint16_t size);

/* Terms with a length. */
size_t aml_scope_begin(struct aml *aml, const char *path);
size_t aml_device_begin(struct aml *aml, const char *path);
size_t aml_method_begin(struct aml *aml, const char *path, unsigned args);
size_t aml_package_begin(struct aml *aml, uint8_t count);
size_t aml_if_begin(struct aml *aml);                        /* the predicate follows */
size_t aml_field_begin(struct aml *aml, const char *region); /* byte access, no lock, preserve */
void aml_field_unit(struct aml *aml, const char *name, unsigned bits);
void aml_processor(struct aml *aml, const char *path, uint8_t id);
void aml_end(struct aml *aml, size_t mark);

/* Resource templates: Buffer of descriptors; aml_resources_end() writes the end tag and the lengths. */
size_t aml_resources_begin(struct aml *aml);
void aml_resource_io(struct aml *aml, uint16_t port, uint8_t size);
void aml_resource_irq(struct aml *aml, unsigned irq);
void aml_resource_dma(struct aml *aml, unsigned channel); /* 8 bits wide, no bus master, compatible timing */
void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t size, bool writable);
void aml_resource_bus(struct aml *aml, uint16_t first, uint16_t last);
void aml_resource_window_io(struct aml *aml, uint16_t first, uint16_t last);
void aml_resource_window_memory(struct aml *aml, uint32_t first, uint32_t last, bool cacheable);
void aml_resource_window_memory64(struct aml *aml, uint64_t first, uint64_t last);
void aml_resources_end(struct aml *aml, size_t mark);

#endif
