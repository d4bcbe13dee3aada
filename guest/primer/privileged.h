/* Two ways to do what needs privilege and happens often: on the machine, or by asking the monitor.
 *
 * The interrupt flag and the page tables are where a kernel meets the hardware all the time. On a machine of its own each
 * of these costs an instruction or two. Under trap-and-emulate each costs a trap; and two of them, PUSHF and POPF,
 * do not even trap in user mode but silently do the wrong thing. A kernel that knows its monitor can be changed in
 * this one place: that is paravirtualization, and why the lecture says that the changes are small.
 *
 *                              on the machine              paravirtual (docs/hypercalls.md)
 *     close, open interrupts   CLI, STI, PUSHF, POPF       a word that the monitor reads
 *     wait for an interrupt    STI; HLT                    one hypercall
 *     change page tables       stores, INVLPG, MOV CR3     one hypercall for many changes
 *
 * The paravirtual flag masks interrupts besides RFLAGS.IF. A system call comes through a gate that leaves IF set and
 * stores 0 into the flag as its first act (entry32.S), so that all of the kernel can open and close by stores. Whoever
 * opens has to look whether something has been held back meanwhile.
 */
#ifndef PRIMER_PRIVILEGED_H
#define PRIMER_PRIVILEGED_H

#include "arch.h"

#ifdef PARAVIRTUAL
#include "hypercall_abi.h"
#endif

#ifndef PARAVIRTUAL

#define SYSCALL_KEEPS_IF false

static inline void interrupts_on(void)
{
    __asm__ volatile("sti" ::: "memory");
}

static inline void interrupts_off(void)
{
    __asm__ volatile("cli" ::: "memory");
}

/* Closes interrupts; returns what to give to interrupts_restore(). */
static inline word interrupts_save(void)
{
    word flags;
    __asm__ volatile("pushf; pop %0; cli" : "=r"(flags)::"memory");
    return flags;
}

static inline void interrupts_restore(word flags)
{
    __asm__ volatile("push %0; popf" ::"r"(flags) : "memory", "cc");
}

/* With interrupts off: lets one in, and returns when it has been handled. STI takes effect one instruction late, so
 * none can come between it and HLT. */
static inline void interrupts_idle(void)
{
    __asm__ volatile("sti; hlt; cli" ::: "memory");
}

/* A change of an entry of a page table that may be in use takes effect at the next of the following. */
static inline void entry_set(word *entry, word value)
{
    *entry = value;
}

/* The entries are in memory; what the processor has cached of their old values may still be used. */
static inline void entries_commit(void)
{
}

/* They are in force, for this address / for all. */
static inline void entries_commit_page(word gva)
{
    __asm__ volatile("invlpg (%0)" ::"r"(gva) : "memory");
}

static inline void entries_commit_all(void)
{
    cr3_write(cr3_read());
}

static inline void entries_commit_switch(word root)
{
    cr3_write(root);
}

static inline void privileged_init(void)
{
}

#else

#define SYSCALL_KEEPS_IF true

extern volatile struct ring3_flags flags_shared; /* paravirtual.c */

static inline word hypercall(uint32_t number, word a, word b)
{
    word result;
    __asm__ volatile("vmcall" : "=a"(result) : "a"((word)number), "b"(a), "c"(b), "d"(0), "S"(0) : "memory");
    return result;
}

void interrupts_on(void);

static inline void interrupts_off(void)
{
    flags_shared.enabled = 0;
}

static inline word interrupts_save(void)
{
    word enabled = flags_shared.enabled;
    flags_shared.enabled = 0;
    return enabled;
}

static inline void interrupts_restore(word enabled)
{
    if (enabled)
        interrupts_on();
}

static inline void interrupts_idle(void)
{
    hypercall(RING3_HC_IDLE, 0, 0);
    interrupts_off();
}

void entry_set(word *entry, word value);
void entries_commit(void);
void entries_commit_page(word gva);
void entries_commit_all(void);
void entries_commit_switch(word root);
void paravirtual_write(const char *bytes, word n);
void privileged_init(void);

#endif
#endif
