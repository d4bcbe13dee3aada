/* Where a program begins, and its way into the kernel. The command line is in EBX (exec.c). */
.text
.globl _start
_start:
#ifdef __x86_64__
    mov %rbx, %rdi
    call user_start

/* long system_call(long number, long a, long b, long c) */
.globl system_call
system_call:
    push %rbx
    mov %rdi, %rax
    mov %rsi, %rbx
    xchg %rdx, %rcx /* b was in RDX, c in RCX */
    int $0x80
    pop %rbx
    ret
#else
    push %ebx
    call user_start

.globl system_call
system_call:
    push %ebx
    mov 8(%esp), %eax
    mov 12(%esp), %ebx
    mov 16(%esp), %ecx
    mov 20(%esp), %edx
    int $0x80
    pop %ebx
    ret
#endif
.section .note.GNU-stack, "", @progbits
