/* The processor: all that differs between the 32-bit and the 64-bit build, and the instructions that C has no words for.
 *
 * The kernel is written once. A `word` is a register; an address space is a tree of tables of PT_LEVELS levels; a
 * struct frame is what an interrupted program leaves on the kernel's stack. The rest of the C code takes these as they
 * come and does not ask for the width. In assembly the difference is larger: entry32.S and entry64.S.
 *
 * What needs privilege and happens often (the interrupt flag, page tables) is in privileged.h, because there is a second
 * way to do it for a kernel that knows its monitor.
 */
#ifndef PRIMER_ARCH_H
#define PRIMER_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

typedef unsigned long word;

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* What lies on the kernel's stack after an interrupt, lowest address first: general registers (entry32.S, entry64.S),
 * vector and error code (the stub), the rest by the processor. In 32-bit code `sp` and `ss` are there only if the
 * interrupted code was in user mode. */
struct frame {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
    word di, si, bp, sp_of_pusha, bx, dx, cx, ax;
#endif
    word vector, error;
    word ip, cs, flags, sp, ss;
};
_Static_assert(offsetof(struct frame, cs) == FRAME_CS, "layout.h");

static inline bool frame_is_user(const struct frame *f)
{
    return (f->cs & 3) == 3;
}

/* Page tables: SDM vol. 3, chapter 4. An entry is a word in both builds: 4 bytes of 32-bit paging, 8 of 4-level. */
#ifdef __x86_64__
#define BITS 64
#define PT_LEVELS 4u
#define PT_INDEX_BITS 9u
#else
#define BITS 32
#define PT_LEVELS 2u
#define PT_INDEX_BITS 10u
#endif
#define PAGE 4096ul
#define PAGE_SHIFT 12u
#define PTE_P 0x1ul
#define PTE_W 0x2ul
#define PTE_U 0x4ul
#define PTE_UNCACHED 0x10ul
#define PTE_COPY 0x200ul /* free for the system: shared by fork(), to be copied when it is written */
#define PTE_ADDRESS 0xfffff000ul

#define PF_P 0x1ul /* error code of a page fault: the page was there; the access was a write */
#define PF_W 0x2ul
#define CR0_EM 0x4ul
#define CR0_WP 0x10000ul
#define CR0_PG 0x80000000ul
#define FLAG_IF 0x200ul
#define FLAG_1 0x2ul /* always set */

enum vector { VECTOR_GP = 13, VECTOR_PF = 14 };

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline word cr0_read(void)
{
    word value;
    __asm__ volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}

static inline void cr0_write(word value)
{
    __asm__ volatile("mov %0, %%cr0" ::"r"(value) : "memory");
}

static inline word cr2_read(void)
{
    word value;
    __asm__ volatile("mov %%cr2, %0" : "=r"(value));
    return value;
}

static inline word cr3_read(void)
{
    word value;
    __asm__ volatile("mov %%cr3, %0" : "=r"(value));
    return value;
}

static inline void cr3_write(word value)
{
    __asm__ volatile("mov %0, %%cr3" ::"r"(value) : "memory");
}

static inline void cpuid(uint32_t leaf, uint32_t regs[4])
{
    __asm__ volatile("cpuid" : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3]) : "a"(leaf), "c"(0));
}

/* entry32.S, entry64.S */
extern const uint8_t vector_stubs[]; /* VECTOR_STUB_SIZE bytes for each vector */
#ifdef __x86_64__
#define SWITCH_REGISTERS 6u /* that context_switch() pushes */
#else
#define SWITCH_REGISTERS 4u
#endif
/* Pushes what a C function must preserve, stores the stack pointer to *save, continues on the stack `load`. */
void context_switch(word *save, word load);
/* Where a new process begins: a struct frame is on its stack. */
#ifdef WHOLE_PC
extern const char process_begin[];
#define PROCESS_BEGIN process_begin
#else
extern const char trap_return[];
#define PROCESS_BEGIN trap_return
#endif

#endif
