/* Entry, and the way into and out of snippets, in 64-bit mode. */
#include "layout.h"

.section .text
.globl _start
_start:
    mov $lib_stack_top, %esp
    xor %ebp, %ebp
    mov %rsi, %rdi
    call lib_start
1:  hlt
    jmp 1b

/* void run_enter(const word *image): DS ES FS GS, R15 ... R8, DI SI BP BX DX CX AX, then what IRETQ pops. FS and GS stay as
 * they are if 0. Returns when a trap has been recorded. */
.globl run_enter
run_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, run_sp
    movl $1, run_active
    mov %rdi, %rsp
    pop %rax
    mov %eax, %ds
    pop %rax
    mov %eax, %es
    pop %rax
    test %eax, %eax
    jz 1f
    mov %eax, %fs
1:  pop %rax
    test %eax, %eax
    jz 1f
    mov %eax, %gs
1:  pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
.globl run_iret
run_iret:
    iretq

.balign 16
.globl trap_stubs
trap_stubs:
vector = 0
.rept 256
    .balign 16
    pushq $vector
    jmp trap_common
vector = vector + 1
.endr

trap_common:
    mov %rax, trap_now
    pop %rax
    mov %rax, trap_now + TRAP_VECTOR
    mov %rsp, trap_now + TRAP_FRAME
    mov %rcx, trap_now + 8
    mov %rdx, trap_now + 16
    mov %rbx, trap_now + 24
    mov %rbp, trap_now + 40
    mov %rsi, trap_now + 48
    mov %rdi, trap_now + 56
    mov %r8, trap_now + 64
    mov %r9, trap_now + 72
    mov %r10, trap_now + 80
    mov %r11, trap_now + 88
    mov %r12, trap_now + 96
    mov %r13, trap_now + 104
    mov %r14, trap_now + 112
    mov %r15, trap_now + 120
    mov %ds, %eax
    mov %rax, trap_now + REGS_IP + 32
    mov %es, %eax
    mov %rax, trap_now + REGS_IP + 40
    mov %fs, %eax
    mov %rax, trap_now + REGS_IP + 48
    mov %gs, %eax
    mov %rax, trap_now + REGS_IP + 56
    mov %cr2, %rax
    mov %rax, trap_now + TRAP_CR2
    pushfq
    pop %rax
    mov %rax, trap_now + TRAP_HANDLER_FLAGS
    mov %cs, %eax
    mov %rax, trap_now + TRAP_HANDLER_CS
    mov %ss, %eax
    mov %rax, trap_now + TRAP_HANDLER_SS
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    cld
    cmpl $0, run_active
    je 1f
    movl $0, run_active
    mov run_sp, %rsp
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
1:  mov $lib_stack_top, %esp
    call trap_unexpected

.section .bss
.balign 16
.skip 16384
lib_stack_top:
.globl run_sp
run_sp:
    .quad 0
.globl run_active
run_active:
    .long 0
.section .note.GNU-stack,"",@progbits
