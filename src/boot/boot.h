/* Putting a kernel into guest memory: the one door of src/boot.
 *
 * boot_load() reads the files that the user named, decides what they are, writes kernel, initial ramdisk, command
 * line, memory map, ACPI tables and the structures of the boot protocol into guest RAM, and says in a
 * struct boot_state how the first processor must start. It touches no processor and no device: the machine copies the
 * state into its vCPU.
 *
 * What it takes as a kernel, and how that is entered:
 *
 *   a Multiboot 2 or 1 header        by the Multiboot specifications; not looked for in bzImages
 *   bzImage                         payload decompressed here, its ELF entered by the Linux protocol;
 *                                   with `kaslr`, or when the payload cannot be handled: the guest's own decompressor
 *   ELF vmlinux                     Linux protocol: 64-bit or 32-bit, by the file's class
 *   ELF with a PHYS32_ENTRY note    PVH (struct hvm_start_info version 1), 32-bit
 *   other ELF32                     flat 32-bit protected mode at e_entry: EAX = EBX = 0, ESI = boot_params
 *   other ELF64                     long mode at e_entry, identity map of 4 GiB: RSI = boot_params
 *
 * Guest memory below 1 MiB as boot_load() leaves it (only what the entry kind needs is written):
 *
 *   0x00400  BIOS data area: serial port, EBDA segment, KiB of base memory  RAM
 *   0x00500  GDT, 6 entries                                                 RAM
 *   0x01000  identity page tables: PML4, PDPT, four page directories        RAM     64-bit entries
 *   0x07000  hvm_start_info, module list, memory map                        RAM     PVH
 *   0x08000  one page of stack, RSP = 0x9000                                RAM
 *   0x10000  Multiboot information, up to 64 KiB                            RAM     Multiboot
 *   0x90000  boot_params (the "zero page")                                  RAM     all but PVH and Multiboot
 *   0x91000  command line, to 0x9f000                                       RAM
 *   0x9fc00  extended BIOS data area, 1 KiB                                 reserved
 *   0xa0000  VGA window, expansion ROMs                                     hole
 *   0xe0000  ACPI: DSDT, FADT, MADT, RSDT, XSDT                             ACPI data
 *   0xef000  ACPI: FACS                                                     ACPI NVS
 *   0xf0000  ACPI: RSDP, at the start of the BIOS area that guests scan     reserved
 *   0xf0040  MP floating pointer, then the MP configuration table           reserved
 *   0xfffe0  code at F000:FFF0 that resets the machine; date, model byte    reserved
 *
 * All from 0x9000 to 0x8ffff and from 1 MiB up is free for kernels. boot_params lies at 0x90000 because kernels older
 * than protocol 2.02 look for their command line relative to that address.
 *
 * Threads: none of its own; called before the machine runs, or at its reset, with all vCPUs stopped.
 * Errors: host and configuration errors in `err`; guest memory may then hold parts of what was being loaded.
 *
 * Sources: Linux Documentation/arch/x86/boot.rst and zero-page.rst; Xen docs/misc/pvh.pandoc and
 * public/arch-x86/hvm/start_info.h; ACPI 6.3; System V ABI (gABI) chapters 4 and 5. */
#ifndef RING3_BOOT_BOOT_H
#define RING3_BOOT_BOOT_H

#include "base/error.h"
#include "base/types.h"
#include "boot/acpi.h"
#include "memory/memory.h"

/* E820 types as ACPI 6.3 table 15-374 numbers them. */
enum boot_range_type {
    BOOT_RANGE_NONE = 0, /* a hole: not in the map at all */
    BOOT_RANGE_RAM = 1,
    BOOT_RANGE_RESERVED = 2,
    BOOT_RANGE_ACPI = 3,
    BOOT_RANGE_NVS = 4,
    BOOT_RANGE_UNUSABLE = 5,
};

struct boot_range {
    gpa_t base;
    uint64_t size;
    enum boot_range_type type;
};

struct boot_request {
    const char *kernel; /* path; never NULL */
    const char *initrd; /* path or NULL; for Multiboot kernels "PATH ARGUMENTS,PATH ..." */
    const char *append; /* kernel command line or NULL */
    bool kaslr;         /* let the guest's own decompressor run, which may move the kernel */
    bool vga_text;      /* the machine shows VGA text mode 3 (80x25, 8x16 font) at entry: tell the kernel */
    /* The memory map, before what boot itself reserves; later ranges win over earlier ones. NULL: the RAM of `memory`
     * without 640 KiB..1 MiB. */
    const struct boot_range *ranges;
    size_t range_count;
    const struct acpi_description *acpi; /* NULL: no tables are written and acpi_rsdp_addr is 0 */
};

/* A file in memory: `name` is for messages. */
struct boot_file {
    const char *name;
    const uint8_t *bytes;
    uint64_t size;
};

enum boot_mode { BOOT_REAL16, BOOT_PROTECTED32, BOOT_LONG64 };

/* What a segment register holds: the selector and the descriptor's parts. `attributes` are bits 8..23 of the
 * descriptor's upper doubleword: type, S, DPL, P in bits 0..7, AVL, L, D/B, G in bits 12..15. `limit` is in bytes. */
struct boot_segment {
    uint16_t selector;
    uint16_t attributes;
    uint32_t limit;
    gva_t base;
};

/* The first processor at entry. General registers that are not named are 0; interrupts are off, A20 is open, the
 * IDT lies at 0 (idt_limit is 0, an empty one, but in real mode), LDTR is null. */
struct boot_state {
    enum boot_mode mode;
    bool is_64; /* mode == BOOT_LONG64 */
    uint64_t rip, rsp, rax, rbx, rdx, rsi;
    uint64_t rflags;
    uint64_t cr0, cr3, cr4, efer;
    gva_t gdt_base;
    uint16_t gdt_limit;
    uint16_t idt_limit;
    struct boot_segment cs;
    struct boot_segment ds; /* also ES, SS, FS, GS */
    struct boot_segment tr;
    char description[256]; /* one line: what was loaded, and how it is entered */
};

bool boot_load(struct memory *memory, const struct boot_request *request, struct boot_state *state, struct error *err);

/* The same on files that are in memory already; request->kernel and ->initrd are not looked at. `initrd` may be NULL.
 * The bytes are not kept. */
bool boot_load_files(struct memory *memory, const struct boot_request *request, const struct boot_file *kernel,
                     const struct boot_file *initrd, struct boot_state *state, struct error *err);

/* The state after power-on or INIT (SDM volume 3, table 9-1): real mode at F000:FFF0 with CS.base 0xFFFF0000, where
 * the machine must have mapped its firmware. Nothing is written to guest memory. */
void boot_state_reset(struct boot_state *state);

#endif
