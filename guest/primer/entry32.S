/* Into the kernel and out of it, 32-bit.
 *
 * When something happens - a system call, a fault, an interrupt of a device - the processor looks up the gate in the IDT,
 * changes to the kernel's stack if it was in user mode, pushes where it was (SS, ESP, EFLAGS, CS, EIP; for some faults
 * an error code) and jumps to the gate's stub here. The stub completes what becomes a struct frame and calls trap().
 * The way back is the one privileged instruction that undoes it all at once: IRET.
 *
 * A monitor has to do by hand what the processor does, so each privileged instruction on this path is a trap under
 * trap-and-emulate, and each of the kind that does not even trap has to be found and patched. That is why the path of
 * a system call has none but IRET: interrupts are off because the gate is an interrupt gate, not by CLI; DS and ES hold
 * a selector that is good for both levels, so they are neither saved nor loaded.
 *
 * A user program may load DS or ES with something else, or nothing. The kernel then faults at its first use of memory.
 * Exceptions therefore look at DS and ES, and when the kernel itself was interrupted put them right and try again.
 *
 * In the paravirtual build the gate of system calls leaves RFLAGS.IF alone, and what closes interrupts is a store: see
 * privileged.h.
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
    push $0 /* in place of an error code */
    .endif
    .if vector < VECTOR_IRQ
    push $vector
    jmp exception_entry
    .elseif vector == VECTOR_SYSCALL
    push $vector
    jmp syscall_entry
    .else
    push $vector
    jmp trap_entry
    .endif
    vector = vector + 1
.endr

exception_entry:
    pusha
    mov %ds, %eax
    mov %es, %ecx
    cmp $SEL_UDATA, %ax
    jne 1f
    cmp $SEL_UDATA, %cx
    je trap_call
1:  mov $SEL_UDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    testb $3, FRAME_CS(%esp)
    jnz trap_call
    popa /* the kernel was to work with the user's segments: once more, with its own */
    add $8, %esp
    iret

syscall_entry:
#ifdef PARAVIRTUAL
    movl $0, flags_shared
#endif
trap_entry:
    pusha
trap_call:
    cld
    push %esp
    call trap
    add $4, %esp
.globl trap_return
trap_return:
#ifdef PARAVIRTUAL
    testb $3, FRAME_CS(%esp)
    jz 1f
    call interrupts_on
1:
#endif
    popa
    add $8, %esp
.globl trap_iret
trap_iret:
    iret

#ifdef WHOLE_PC
/* Where a new process begins: with the kernel's lock, like everybody whom schedule() has gone to. */
.globl process_begin
process_begin:
    call kernel_unlock
    jmp trap_return
#endif

/* void context_switch(word *save, word load) */
.globl context_switch
context_switch:
    mov 4(%esp), %eax
    mov 8(%esp), %edx
    push %ebp
    push %ebx
    push %esi
    push %edi
    mov %esp, (%eax)
    mov %edx, %esp
    pop %edi
    pop %esi
    pop %ebx
    pop %ebp
    ret
.section .note.GNU-stack, "", @progbits
