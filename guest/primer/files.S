/* The programs, as the linker made them, in the kernel's read-only data. */
#define QUOTE_(x) #x
#define QUOTE(x) QUOTE_(x)
#ifdef __x86_64__
#define FILE_NAME(name) QUOTE(name.64)
#else
#define FILE_NAME(name) QUOTE(name.32)
#endif

#ifndef WHOLE_PC /* which has them on its disk */
.section .rodata
#define PROGRAM(name) \
    .globl program_##name, program_##name##_end; \
    .balign 16; \
    program_##name: .incbin FILE_NAME(name); \
    program_##name##_end:
#include "programs.def"
#endif
.section .note.GNU-stack, "", @progbits
