/* The beginning: what the loader has said, every part of the kernel in turn, and the first program.
 *
 * The loader's records may lie anywhere, in pages that the kernel is about to use, and below what it will map. So what is
 * wanted of them - the command line and the size of memory - is taken out before anything else. */
#include "kernel.h"
#include "privileged.h"

#define MULTIBOOT_LOADER_MAGIC 0x2badb002u
#define MULTIBOOT_HAS_MEMORY 0x1u
#define MULTIBOOT_HAS_COMMAND 0x4u
struct multiboot_info {
    uint32_t flags, kib_below, kib_above, boot_device, command;
};

#define HVM_START_MAGIC 0x336ec578u
struct hvm_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command, rsdp, ranges;
    uint32_t range_count, reserved;
};
#define HVM_RANGE_RAM 1u
struct hvm_range {
    uint64_t base, size;
    uint32_t type, reserved;
};

#define MEMORY_DEFAULT 0x400000ul /* if nobody says how much there is */
#define ABOVE 0x100000ul

static char command_line[256] = "";

/* Returns where the RAM ends in which the kernel lies. */
static word loader_ask(uint32_t magic, word info)
{
    word end = MEMORY_DEFAULT;
    const struct hvm_start_info *start = (const struct hvm_start_info *)info;
    const struct multiboot_info *multiboot = (const struct multiboot_info *)info;
    if (magic == MULTIBOOT_LOADER_MAGIC) {
        if (multiboot->flags & MULTIBOOT_HAS_COMMAND)
            name_copy(command_line, (const char *)(word)multiboot->command, sizeof(command_line));
        if (multiboot->flags & MULTIBOOT_HAS_MEMORY)
            end = multiboot->kib_above > KERNEL_END / 1024 ? KERNEL_END : ABOVE + multiboot->kib_above * 1024ul;
    } else if (start->magic == HVM_START_MAGIC) {
        if (start->command != 0)
            name_copy(command_line, (const char *)(word)start->command, sizeof(command_line));
        const struct hvm_range *ranges = (const struct hvm_range *)(word)start->ranges;
        for (unsigned i = 0; start->version > 0 && i < start->range_count; i++)
            if (ranges[i].type == HVM_RANGE_RAM && ranges[i].base <= ABOVE &&
                ranges[i].base + ranges[i].size > ABOVE)
                end = ranges[i].base + ranges[i].size > KERNEL_END ? KERNEL_END
                                                                   : (word)(ranges[i].base + ranges[i].size);
    }
    return end;
}

/* run=NAME,WORD,... on the command line becomes "NAME WORD ..."; without it, the shell. */
static const char *first_command(void)
{
    static char command[COMMAND_SIZE];
    const char *at = command_line;
    while (*at != 0 && memcmp(at, "run=", 4) != 0)
        at++;
    if (*at == 0)
        return "sh";
    at += 4;
    unsigned n = 0;
    for (; n < sizeof(command) - 1 && *at != 0 && *at != ' '; at++)
        command[n++] = *at == ',' ? ' ' : *at;
    command[n] = 0;
    return command;
}

/* Called by boot.S. */
void main(word magic, word info)
{
    word end = loader_ask((uint32_t)magic, info);
#ifdef WHOLE_PC
    processors_find();
#endif
    gdt_init(0);
#ifdef WHOLE_PC
    kernel_lock();
#endif
    trap_init();
    interrupt_init();
    serial_init();
    privileged_init();
    console_init();
    memory_init(end);
    paging_init();
    keyboard_init();
    timer_init();
#ifdef WHOLE_PC
    processors_start();
    if (!disk_init() || !volume_mount())
        panic("there is no volume on the first IDE disk");
    print("primer, %d-bit, %u processor%s, %u KiB of disk: %u pages free\n", BITS, processor_count,
          processor_count == 1 ? "" : "s", disk_sectors() / 2, pages_free());
#else
    print("primer, %d-bit%s: %u pages free\n", BITS, SYSCALL_KEEPS_IF ? ", paravirtual" : "", pages_free());
#endif
    process_start(first_command());
}
