/* What assembly and C share: selectors, offsets in struct regs and struct trap. */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define VECTOR_DONE 0x81

/* The GDT. The order of the user segments is what SYSRET and SYSEXIT take for granted. */
#define SEL_KCODE 0x08 /* of the program's own width */
#define SEL_KDATA 0x10
#define SEL_UCODE32 0x18
#define SEL_UDATA 0x20
#define SEL_UCODE64 0x28
#define SEL_UDATA2 0x30
#define SEL_KCODE32 0x38
#define SEL_KCODE16 0x40
#define SEL_KDATA16 0x48
#define SEL_TSS 0x50  /* two entries */
#define SEL_FREE 0x80 /* for the tests: 48 entries */
#define GDT_ENTRIES 64

#ifdef __x86_64__
#define SEL_UCODE SEL_UCODE64
#define REGS_IP 128
#define REGS_WORDS 24
#define TRAP_VECTOR 192
#define TRAP_FRAME 200
#define TRAP_CR2 208
#define TRAP_HANDLER_FLAGS 216
#define TRAP_HANDLER_CS 224
#define TRAP_HANDLER_SS 232
#else
#define SEL_UCODE SEL_UCODE32
#define REGS_IP 32
#define TRAP_VECTOR 64
#define TRAP_FRAME 68
#define TRAP_CR2 72
#define TRAP_HANDLER_FLAGS 76
#define TRAP_HANDLER_CS 80
#define TRAP_HANDLER_SS 84
#endif

#endif
