/* The least guest: says '!' on the serial port and ends by the debug exit port. An ELF with the PVH entry point, which both
 * ring3 and QEMU boot without a boot loader. */
.section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18 /* sizes of name and descriptor; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long _start

.text
.globl _start
_start:
    mov $0x3fb, %dx
    mov $3, %al /* LCR: 8 bits a character */
    out %al, %dx
    mov $0x3f8, %dx
    mov $'!', %al
    out %al, %dx
    mov $0x3fd, %dx
1:  in %dx, %al
    test $0x40, %al /* LSR: it has left */
    jz 1b
    xor %eax, %eax
    out %al, $0xf4
2:  hlt
    jmp 2b
