/* What a paravirtual guest and ring3 agree on: the numbers and layouts of docs/hypercalls.md, and nothing else.
 *
 * Included by the monitor (cpu/hypercall.c) and by guests (guest/primer), so it needs nothing but <stdint.h>. All
 * layouts are the same for 32- and 64-bit guests.
 */
#ifndef RING3_CPU_HYPERCALL_ABI_H
#define RING3_CPU_HYPERCALL_ABI_H

#include <stdint.h>

/* CPUID: the signature in EBX, ECX, EDX of the first leaf; in EAX of the second the calls that there are, one bit for
 * each: bit (number - RING3_HC_BASE). */
#define RING3_CPUID_SIGNATURE 0x40000100u
#define RING3_CPUID_FEATURES 0x40000101u
#define RING3_SIGNATURE "ring3ring3ri"

#define RING3_HC_BASE 0x52330000u /* "R3" */
#define RING3_HC_FLAGS (RING3_HC_BASE + 0)     /* gpa of a struct ring3_flags, or RING3_FLAGS_NONE */
#define RING3_HC_INTERRUPTS (RING3_HC_BASE + 1) /* I have set `enabled`: deliver what waits */
#define RING3_HC_IDLE (RING3_HC_BASE + 2)      /* open interrupts, and wait for one */
#define RING3_HC_MMU (RING3_HC_BASE + 3)       /* gpa of struct ring3_mmu_op[], how many */
#define RING3_HC_CONSOLE (RING3_HC_BASE + 4)   /* gpa of bytes, how many */
#define RING3_HC_COUNT 5

/* Results below zero. */
#define RING3_EPERM 1     /* not at CPL 0 */
#define RING3_EFAULT 14   /* an address that is not RAM */
#define RING3_EINVAL 22   /* a number that is too large, an operation that is none */
#define RING3_ENOSYS 1000 /* no such call */

/* The interrupt flag in memory; 4-byte aligned, within a page. */
#define RING3_FLAGS_NONE 0xffffffffu
struct ring3_flags {
    uint32_t enabled; /* written by the guest: 0 holds external interrupts back, whatever RFLAGS.IF */
    uint32_t waiting; /* set to 1 by the monitor when it holds one back; cleared by RING3_HC_INTERRUPTS and _IDLE */
};

#define RING3_MMU_WRITE 0u      /* `where`: gpa of an entry of a page table, `value`: what to write there */
#define RING3_MMU_FLUSH 1u      /* all translations that are not global */
#define RING3_MMU_FLUSH_PAGE 2u /* `where`: a linear address */
#define RING3_MMU_SWITCH 3u     /* `value`: for CR3 */
#define RING3_MMU_MAX 512u      /* operations in a call */
struct ring3_mmu_op {
    uint32_t kind;
    uint32_t reserved; /* 0 */
    uint64_t where;
    uint64_t value;
};
_Static_assert(sizeof(struct ring3_mmu_op) == 24, "read by the monitor");

#define RING3_CONSOLE_MAX 4096u /* bytes in a call */

#endif
