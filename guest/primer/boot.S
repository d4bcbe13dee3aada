/* Power on: from the loader to main().
 *
 * A kernel is started by somebody who has put it into memory and knows where it begins. Three somebodies are served
 * here. Multiboot 1 (QEMU's -kernel, GRUB; 32-bit build only) is asked for by a header with a magic number within the
 * first 8 KiB; EAX tells us by another magic number that it was them. PVH (ring3, QEMU, Xen) is asked for by an ELF
 * note that names the entry; EBX points to a record with a magic number in it. Both enter in 32-bit protected mode with
 * flat segments, no paging, interrupts off.
 *
 * The first thing is to stand on our own feet: our own stack and our own GDT, since those of the loader may lie
 * anywhere. DS and ES get the *user's* data selector and keep it for ever: see gdt.c for why.
 *
 * The 64-bit build has some way to go: long mode needs paging, so a first set of tables maps 16 MiB to themselves with
 * large pages until paging.c makes the real ones. The order is the manual's (SDM vol. 3, 10.8.5): CR4.PAE, CR3,
 * EFER.LME, CR0.PG, and then a jump to a segment whose descriptor says 64 bits.
 */
#include "layout.h"

#ifndef __x86_64__
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_WANTS_MEMORY 2
.section .multiboot, "a"
.balign 4
    .long MULTIBOOT_MAGIC, MULTIBOOT_WANTS_MEMORY, -(MULTIBOOT_MAGIC + MULTIBOOT_WANTS_MEMORY)
#endif

#define XEN_ELFNOTE_PHYS32_ENTRY 18
.section .note.pvh, "a", @note
.balign 4
    .long 4, 2f - 1f, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
1:
#ifdef __x86_64__
    .quad start
#else
    .long start
#endif
2:

.text
.code32
.globl start
start:
    cli
    cld
    mov $boot_stack_top, %esp

#ifndef __x86_64__
    lgdt gdt_pointer
    ljmp $SEL_KCODE, $1f
1:  mov $SEL_KDATA, %ecx
    mov %ecx, %ss
    mov $SEL_UDATA, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    xor %ecx, %ecx
    mov %ecx, %fs
    mov %ecx, %gs
    xor %ebp, %ebp
    push %ebx
    push %eax
    call main
#else
#define CR0_PG_PE 0x80000001
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define PTE_P_W 0x3
#define PTE_P_W_PS 0x83
    mov %eax, %esi
    mov $boot_pd, %edi
    mov $PTE_P_W_PS, %eax
    mov $KERNEL_END >> 21, %ecx
1:  mov %eax, (%edi)
    add $1 << 21, %eax
    add $8, %edi
    loop 1b
    movl $boot_pd + PTE_P_W, boot_pdpt
    movl $boot_pdpt + PTE_P_W, boot_pml4

    mov $CR4_PAE, %eax
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov %cr0, %eax
    or $CR0_PG_PE, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $SEL_KCODE, $1f
.code64
1:  mov $SEL_KDATA, %ecx
    mov %ecx, %ss
    mov $SEL_UDATA, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    xor %ecx, %ecx
    mov %ecx, %fs
    mov %ecx, %gs
    xor %ebp, %ebp
    mov %esi, %edi
    mov %ebx, %esi
    call main
#endif
2:  hlt
    jmp 2b

.bss
.balign 4096
#ifdef __x86_64__
.globl boot_pml4
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4096
#endif
    .skip 4096
boot_stack_top:
.section .note.GNU-stack, "", @progbits
