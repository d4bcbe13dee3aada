/* What assembly and C share. */
#ifndef PRIMER_LAYOUT_H
#define PRIMER_LAYOUT_H

/* The GDT (gdt.c). User selectors carry the privilege level 3 in their low bits. */
#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_UCODE 0x1b
#define SEL_UDATA 0x23
#define SEL_TSS 0x28 /* and one more for each further processor; two entries in the 64-bit build */
#define SEL_TSS_STEP 0x10

#define VECTOR_IRQ 0x20     /* 16 of them: where the interrupt controllers are told to begin */
#define VECTOR_TIMER 0x30   /* of a processor's local APIC; these three only in the build for a whole PC */
#define VECTOR_WAKE 0x31
#define VECTOR_SYSCALL 0x80
#define VECTOR_SPURIOUS 0xff
#define VECTOR_STUB_SIZE 16

/* Memory (paging.c). Below KERNEL_END a virtual address is the physical one, and only the kernel may use it. Nothing is
 * mapped below KERNEL_BASE, so that a null pointer faults. A program has the 4 MiB above. */
#define KERNEL_BASE 0x00010000
#define KERNEL_END 0x01000000
#define USER_BASE 0x01000000
#define USER_TOP 0x01400000
#define STARTUP_GPA 0x8000 /* where other processors begin (startup.S) */

#ifdef __x86_64__
#define FRAME_VECTOR (15 * 8)
#define FRAME_CS (18 * 8)
#else
#define FRAME_VECTOR (8 * 4)
#define FRAME_CS (11 * 4)
#endif

#endif
