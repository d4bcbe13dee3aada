/* Entry, and the way into and out of snippets, in 32-bit protected mode. */
#include "layout.h"

.section .text
.globl _start
_start:
    mov $lib_stack_top, %esp
    xor %ebp, %ebp
    push %ebp
    push %ebp
    push %ebp
    push %esi
    call lib_start
1:  hlt
    jmp 1b

/* void run_enter(const word *image, word ss): GS FS ES DS, PUSHA's eight, then what IRET pops. */
.globl run_enter
run_enter:
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushf
    mov 24(%esp), %eax
    mov 28(%esp), %ecx
    mov %esp, run_sp
    movl $1, run_active
    mov %cx, %ss
    mov %eax, %esp
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popa
.globl run_iret
run_iret:
    iret

.balign 16
.globl trap_stubs
trap_stubs:
vector = 0
.rept 256
    .balign 16
    push $vector
    jmp trap_common
vector = vector + 1
.endr

.globl trap_common
trap_common:
    push %eax
    push %ds
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    popl trap_now + REGS_IP + 16
    popl trap_now
    popl trap_now + TRAP_VECTOR
    mov %esp, trap_now + TRAP_FRAME
    mov %ecx, trap_now + 4
    mov %edx, trap_now + 8
    mov %ebx, trap_now + 12
    mov %ebp, trap_now + 20
    mov %esi, trap_now + 24
    mov %edi, trap_now + 28
    mov %es, %eax
    mov %eax, trap_now + REGS_IP + 20
    mov %fs, %eax
    mov %eax, trap_now + REGS_IP + 24
    mov %gs, %eax
    mov %eax, trap_now + REGS_IP + 28
    mov %cr2, %eax
    mov %eax, trap_now + TRAP_CR2
    pushf
    popl trap_now + TRAP_HANDLER_FLAGS
    mov %cs, %eax
    mov %eax, trap_now + TRAP_HANDLER_CS
    mov %ss, %eax
    mov %eax, trap_now + TRAP_HANDLER_SS
    mov $SEL_KDATA, %eax
    mov %eax, %es
    mov %eax, %ss
    cld
    cmpl $0, run_active
    je 1f
.globl run_leave
run_leave: /* with DS, ES and SS set up */
    movl $0, run_active
    mov run_sp, %esp
    popf
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret
1:  mov $lib_stack_top, %esp
    call trap_unexpected

.section .bss
.balign 16
.skip 16384
lib_stack_top:
.globl run_sp
run_sp:
    .long 0
.globl run_active
run_active:
    .long 0
.section .note.GNU-stack,"",@progbits
