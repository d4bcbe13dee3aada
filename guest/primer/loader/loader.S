/* From the BIOS to the kernel.
 *
 * A BIOS fetches the first sector of a disk to 7C00h and jumps there, in real mode, with the disk's number in DL. 512 bytes
 * are just enough to fetch the other half of this file from the sectors behind it, to 7E00h. That one asks the BIOS for what
 * only the BIOS knows or can do: A20, the size of memory, the sectors of the volume (volume.h) and of the kernel's file. The
 * file goes to 4 MiB; the BIOS reads to below 1 MiB and moves it up (INT 15h, AH = 87h). Then it enters protected mode for
 * good, and kernel.c does the rest.
 *
 * Phoenix "Enhanced Disk Drive Specification" 3.0 (INT 13h, AH = 41h and 42h); IBM PS/2 BIOS Interface Technical Reference
 * (INT 10h, 15h). */
#include "loader.h"

#define STACK 0x7c00
#define PARTITION_TABLE 446
#define BOUNCE_SEGMENT (BOUNCE_GPA >> 4)

.text
.code16
.globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $STACK, %sp
    sti
    cld
    ljmp $0, $1f
1:  mov %dl, drive
    mov $0x41, %ah
    mov $0x55aa, %bx
    int $0x13
    mov $no_lba, %si
    jc fail
    mov $second, %ebx /* where to, as segment:offset */
    mov $1, %eax
    mov $SECOND_SECTORS, %cx
    call sectors_read
    jmp second

/* CX sectors from sector EAX to EBX, a far pointer. */
sectors_read:
    mov %eax, packet_sector
    mov %ebx, packet_to
    mov %cx, packet_count
    mov $0x42, %ah
    mov drive, %dl
    mov $packet, %si
    int $0x13
    mov $unreadable, %si
    jc fail
    ret

/* Says the words at SI on the screen, and stops. */
fail:
    lodsb
    test %al, %al
    jz 1f
    mov $0x0e, %ah
    mov $7, %bx
    int $0x10
    jmp fail
1:  hlt
    jmp 1b

no_lba:
    .asciz "primer: this BIOS reads no disks by sector number\r\n"
unreadable:
    .asciz "primer: the disk cannot be read\r\n"
drive:
    .byte 0
.balign 4
packet:
    .byte 16, 0
packet_count:
    .word 0
packet_to:
    .long 0
packet_sector:
    .quad 0
.org PARTITION_TABLE
    .skip 64
    .word 0xaa55

/* ---- the other half ---- */

second:
    mov $0x2401, %ax /* A20, by the BIOS and by port 92h */
    int $0x15
    in $0x92, %al
    test $2, %al
    jnz 1f
    or $2, %al
    and $0xfe, %al
    out %al, $0x92
1:
    /* KiB from 1 to 16 MiB in AX or CX, depending on the BIOS; what is above does not interest us */
    xor %cx, %cx
    mov $0xe801, %ax
    int $0x15
    jc 2f
    test %cx, %cx
    jz 3f
    mov %cx, %ax
    jmp 3f
2:  mov $0x88, %ah
    int $0x15
3:  movzwl %ax, %eax
    mov %eax, kib_above

    mov $VOLUME_GPA, %ebx
    mov $VOLUME_LABEL, %eax
    mov $VOLUME_SECTORS, %cx
    call sectors_read

    /* the directory's entry of the file "kernel" */
    mov $VOLUME_GPA + 512, %bx
    mov $VOLUME_FILES, %dx
4:  mov %bx, %si
    mov $kernel_name, %di
    mov $kernel_name_end - kernel_name, %cx
    repe cmpsb
    je 5f
    add $ENTRY_SIZE, %bx
    dec %dx
    jnz 4b
    mov $no_kernel, %si
    jmp fail
5:  mov ENTRY_START(%bx), %eax
    mov %eax, sector
    mov ENTRY_SIZE_BYTES(%bx), %eax
    mov %eax, kernel_size
    add $511, %eax
    shr $9, %eax
    mov %eax, left

    /* 32 KiB at a time, below and then up */
6:  mov left, %ecx
    jecxz 8f
    cmp $64, %ecx
    jbe 7f
    mov $64, %ecx
7:  mov $BOUNCE_SEGMENT << 16, %ebx
    mov sector, %eax
    push %cx
    call sectors_read
    pop %cx
    movzwl %cx, %ecx
    sub %ecx, left
    add %ecx, sector
    push %ecx
    shl $8, %cx /* words */
    mov $move_gdt, %si
    mov $0x87, %ah
    int $0x15
    pop %ecx
    mov $unmovable, %si
    jc fail
    shl $9, %ecx
    add move_to, %ecx
    and $0xffffff, %ecx
    mov %ecx, move_to
    movb $0x93, move_to + 3
    jmp 6b

8:  cli
    lgdtl gdt_pointer
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $9f
.code32
9:  mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $STACK, %esp
    push $VOLUME_GPA
    push kib_above
    push kernel_size
    call kernel_enter

/* void kernel_jump(uint32_t entry, uint32_t magic, const void *info) */
.globl kernel_jump
kernel_jump:
    mov 12(%esp), %ebx
    mov 8(%esp), %eax
    jmp *4(%esp)

kernel_name:
    .asciz "kernel"
kernel_name_end:
no_kernel:
    .asciz "primer: there is no file 'kernel' on this disk\r\n"
unmovable:
    .asciz "primer: this BIOS moves no memory\r\n"
.balign 8
kib_above:
    .long 0
kernel_size:
    .long 0
sector:
    .long 0
left:
    .long 0
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word 3 * 8 - 1
    .long gdt
.balign 8
/* For INT 15h, AH = 87h: from, to, and room for its own. */
move_gdt:
    .quad 0, 0
    .word 0xffff, BOUNCE_GPA & 0xffff
    .byte BOUNCE_GPA >> 16, 0x93
    .word 0
    .word 0xffff
move_to:
    .long KERNEL_FILE_GPA | 0x93 << 24
    .word 0
    .quad 0, 0
.section .note.GNU-stack, "", @progbits
