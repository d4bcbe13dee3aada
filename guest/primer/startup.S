/* Where processors other than the first begin: in real mode, at the start of a page below 1 MiB.
 *
 * The page is a copy (processors.c) of what stands between startup_begin and startup_end, so that part may name its own
 * places only by their distance from the beginning. It goes to protected mode, and so to where the kernel lies. From there it
 * is the way of boot.S again: segments, and in the 64-bit build the first page tables of boot.S, by which the kernel is mapped
 * to itself until processor_main() loads the real ones. Only in the build for a whole PC. */
#include "layout.h"

#ifdef WHOLE_PC
#define HERE(label) (label - startup_begin + STARTUP_GPA)
#define CODE32 0x08
#define DATA32 0x10
#define CR0_PE 0x11 /* and ET; without CD and NW, which INIT sets */

.section .rodata
.code16
.globl startup_begin, startup_end
startup_begin:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    lgdtl HERE(startup_gdt_pointer)
    mov $CR0_PE, %eax
    mov %eax, %cr0
    ljmpl $CODE32, $startup
.balign 8
startup_gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
startup_gdt_pointer:
    .word 3 * 8 - 1
    .long HERE(startup_gdt)
startup_end:

.text
.code32
startup:
    mov $DATA32, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov startup_stack, %esp
#ifndef __x86_64__
    lgdt gdt_pointer
    ljmp $SEL_KCODE, $1f
1:
#else
#define CR0_PG_PE 0x80000011
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
    mov $CR4_PAE, %eax
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov $CR0_PG_PE, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $SEL_KCODE, $1f
.code64
1:
#endif
    mov $SEL_KDATA, %ecx
    mov %ecx, %ss
    mov $SEL_UDATA, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    xor %ecx, %ecx
    mov %ecx, %fs
    mov %ecx, %gs
    xor %ebp, %ebp
    call processor_main
2:  hlt
    jmp 2b
#endif
.section .note.GNU-stack, "", @progbits
