/* Fuzz target: any bytes as a kernel file. The first byte chooses options; the rest is the file. Covers the sniffing of
 * formats, bzImage headers, payload decompression, ELF headers, segments and notes, and placement in memory. */
#include <assert.h>
#include <stdlib.h>

#include "boot/boot.h"

#define RAM_SIZE (32 * MiB)

static const struct acpi_description acpi = {.cpu_count = 2, .pm1a_event = 0x600, .pm1a_control = 0x604};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const uint8_t ramdisk[3 * PAGE_SIZE + 1];
    if (size == 0)
        return 0;
    struct memory *memory = memory_create(RAM_SIZE, NULL, NULL);
    if (memory == NULL)
        return 0;
    struct boot_request request = {
        .append = bytes[0] & 1 ? "console=ttyS0 root=/dev/vda" : NULL,
        .kaslr = bytes[0] & 2,
        .vga_text = bytes[0] & 4,
        .acpi = bytes[0] & 8 ? &acpi : NULL,
    };
    const struct boot_file kernel = {"kernel", bytes + 1, size - 1};
    const struct boot_file initrd = {"initrd", ramdisk, sizeof ramdisk};
    struct boot_state state;
    struct error err = {0};
    if (boot_load_files(memory, &request, &kernel, bytes[0] & 16 ? &initrd : NULL, &state, &err))
        assert(state.description[0] != '\0' && memory_ram(memory, state.cs.base + state.rip, 1) != NULL);
    else
        assert(err.message[0] != '\0');
    memory_destroy(memory);
    return 0;
}
