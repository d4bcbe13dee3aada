/* See acpi_loader.h.
 *
 * The tables are those of acpi_build(), for addresses that count from the start of the blob; the FACS is its first 64 bytes. So
 * every pointer has the offset that the loader's commands add an address to. Which fields are pointers follows from the tables'
 * signatures. Checksums are right before the pointers change and are made again by command, tables before those that point
 * to them or after: they do not depend on each other. */
#include "boot/acpi_loader.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define TABLES_MAX (128 * KiB)
#define TABLE_ALIGN 64u
#define RSDP_ALIGN 16u
#define HEADER_SIZE 36u
#define HEADER_LENGTH 4u
#define HEADER_CHECKSUM 9u
#define FADT_FACS 36u
#define FADT_DSDT 40u
#define FADT_X_DSDT 140u
#define RSDP_CHECKSUM 8u
#define RSDP_V1_SIZE 20u
#define RSDP_RSDT 16u
#define RSDP_XSDT 24u
#define RSDP_EXTENDED_CHECKSUM 32u

enum command { COMMAND_ALLOCATE = 1, COMMAND_ADD_POINTER = 2, COMMAND_ADD_CHECKSUM = 3 };
enum zone { ZONE_HIGH = 1, ZONE_FSEG = 2 };

#define NAME_SIZE 56u

struct __attribute__((packed)) entry {
    uint32_t command;
    union {
        struct __attribute__((packed)) {
            char file[NAME_SIZE];
            uint32_t align;
            uint8_t zone;
        } allocate;
        struct __attribute__((packed)) {
            char file[NAME_SIZE], points_to[NAME_SIZE];
            uint32_t offset;
            uint8_t size;
        } pointer;
        struct __attribute__((packed)) {
            char file[NAME_SIZE];
            uint32_t offset, start, length;
        } checksum;
        uint8_t room[124];
    };
};
_Static_assert(sizeof(struct entry) == 128, "struct BiosLinkerLoaderEntry");

struct script {
    struct entry *entries;
    unsigned count, room;
    bool failed;
};

static void name_set(char field[NAME_SIZE], const char *name)
{
    memcpy(field, name, strlen(name) + 1);
}

static struct entry *entry_add(struct script *script, enum command command)
{
    if (script->count == script->room) {
        unsigned room = script->room * 2 + 16;
        struct entry *entries = realloc(script->entries, room * sizeof *entries);
        if (entries == NULL) {
            script->failed = true;
            return NULL;
        }
        script->entries = entries;
        script->room = room;
    }
    struct entry *entry = &script->entries[script->count++];
    memset(entry, 0, sizeof *entry);
    entry->command = command;
    return entry;
}

static void allocate(struct script *script, const char *file, uint32_t align, enum zone zone)
{
    struct entry *entry = entry_add(script, COMMAND_ALLOCATE);
    if (entry == NULL)
        return;
    name_set(entry->allocate.file, file);
    entry->allocate.align = align;
    entry->allocate.zone = (uint8_t)zone;
}

/* All pointers lead into the tables. */
static void add_pointer(struct script *script, const char *file, size_t offset, unsigned size)
{
    struct entry *entry = entry_add(script, COMMAND_ADD_POINTER);
    if (entry == NULL)
        return;
    name_set(entry->pointer.file, file);
    name_set(entry->pointer.points_to, ACPI_LOADER_TABLES);
    entry->pointer.offset = (uint32_t)offset;
    entry->pointer.size = (uint8_t)size;
}

static void add_checksum(struct script *script, const char *file, size_t offset, size_t start, size_t length)
{
    struct entry *entry = entry_add(script, COMMAND_ADD_CHECKSUM);
    if (entry == NULL)
        return;
    name_set(entry->checksum.file, file);
    entry->checksum.offset = (uint32_t)offset;
    entry->checksum.start = (uint32_t)start;
    entry->checksum.length = (uint32_t)length;
}

/* One table, at `at` in the blob. Returns its length. */
static size_t table_commands(struct script *script, const uint8_t *blob, size_t at)
{
    uint32_t length;
    memcpy(&length, blob + at + HEADER_LENGTH, sizeof length);
    const char *signature = (const char *)blob + at;
    if (memcmp(signature, "FACP", 4) == 0) {
        add_pointer(script, ACPI_LOADER_TABLES, at + FADT_FACS, 4);
        add_pointer(script, ACPI_LOADER_TABLES, at + FADT_DSDT, 4);
        add_pointer(script, ACPI_LOADER_TABLES, at + FADT_X_DSDT, 8);
    }
    unsigned entry_size = memcmp(signature, "RSDT", 4) == 0 ? 4 : memcmp(signature, "XSDT", 4) == 0 ? 8 : 0;
    for (size_t entry = HEADER_SIZE; entry_size != 0 && entry < length; entry += entry_size)
        add_pointer(script, ACPI_LOADER_TABLES, at + entry, entry_size);
    add_checksum(script, ACPI_LOADER_TABLES, at + HEADER_CHECKSUM, at, length);
    return length;
}

static void script_write(struct script *script, const struct acpi_loader *loader)
{
    allocate(script, ACPI_LOADER_TABLES, TABLE_ALIGN, ZONE_HIGH);
    allocate(script, ACPI_LOADER_RSDP, RSDP_ALIGN, ZONE_FSEG);
    for (size_t at = ACPI_FACS_SIZE; at < loader->tables_size;) {
        check(at + HEADER_SIZE <= loader->tables_size);
        at += table_commands(script, loader->tables, at);
        at = (at + TABLE_ALIGN - 1) & ~(size_t)(TABLE_ALIGN - 1);
    }
    add_pointer(script, ACPI_LOADER_RSDP, RSDP_RSDT, 4);
    add_pointer(script, ACPI_LOADER_RSDP, RSDP_XSDT, 8);
    add_checksum(script, ACPI_LOADER_RSDP, RSDP_CHECKSUM, 0, RSDP_V1_SIZE);
    add_checksum(script, ACPI_LOADER_RSDP, RSDP_EXTENDED_CHECKSUM, 0, ACPI_RSDP_SIZE);
}

bool acpi_loader_build(const struct acpi_description *description, struct acpi_loader *out, struct error *err)
{
    struct acpi_tables tables;
    memset(out, 0, sizeof *out);
    if (!acpi_build(description, ACPI_FACS_SIZE, TABLES_MAX, 0, &tables, err))
        return false;
    struct script script = {0};
    out->tables_size = ACPI_FACS_SIZE + tables.tables_size;
    out->tables = malloc(out->tables_size);
    if (out->tables != NULL) {
        memcpy(out->tables, tables.facs, ACPI_FACS_SIZE);
        memcpy(out->tables + ACPI_FACS_SIZE, tables.tables, tables.tables_size);
        memcpy(out->rsdp, tables.rsdp, sizeof out->rsdp);
        script_write(&script, out);
    }
    acpi_tables_fini(&tables);
    out->script = (uint8_t *)script.entries;
    out->script_size = script.count * sizeof *script.entries;
    if (out->tables != NULL && !script.failed)
        return true;
    acpi_loader_fini(out);
    return error_set(err, "out of memory");
}

void acpi_loader_fini(struct acpi_loader *loader)
{
    free(loader->tables);
    free(loader->script);
    memset(loader, 0, sizeof *loader);
}
