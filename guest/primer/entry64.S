/* Into the kernel and out of it, 64-bit. entry32.S tells the story; here are the differences.
 *
 * The processor always pushes SS and RSP, and aligns the stack to 16 bytes before it does. There is no PUSHA. Segments
 * other than FS and GS have no base and no limit, so there is nothing to put right. System calls come through INT as
 * well: SYSCALL is quicker, but leaves the change of stacks to the kernel, and this kernel wants to be one kernel.
 */
#include "layout.h"

.text
.balign VECTOR_STUB_SIZE
.globl vector_stubs
vector_stubs:
vector = 0
.rept 256
    .balign VECTOR_STUB_SIZE
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    push $0
    .endif
    push $vector
    .if vector == VECTOR_SYSCALL
    jmp syscall_entry
    .else
    jmp trap_entry
    .endif
    vector = vector + 1
.endr

syscall_entry:
#ifdef PARAVIRTUAL
    movl $0, flags_shared
#endif
trap_entry:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    call trap
.globl trap_return
trap_return:
#ifdef PARAVIRTUAL
    testb $3, FRAME_CS(%rsp)
    jz 1f
    call interrupts_on
1:
#endif
    pop %r15
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
    add $16, %rsp
.globl trap_iret
trap_iret:
    iretq

#ifdef WHOLE_PC
.globl process_begin
process_begin:
    call kernel_unlock
    jmp trap_return
#endif

/* void context_switch(word *save, word load) */
.globl context_switch
context_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.section .note.GNU-stack, "", @progbits
