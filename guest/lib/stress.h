/* What the stress program is made of: numbers, tables, code. See ../stress.c. */
#ifndef GUEST_STRESS_H
#define GUEST_STRESS_H

#include "guest.h"

/* Names of registers, for snippets of both widths. */
#ifdef __x86_64__
#define X_AX "rax"
#define X_BX "rbx"
#define X_CX "rcx"
#define X_DX "rdx"
#define X_BP "rbp"
#define X_SP "rsp"
#define X_DI "rdi"
#define X_WORD "8"
#else
#define X_AX "eax"
#define X_BX "ebx"
#define X_CX "ecx"
#define X_DX "edx"
#define X_BP "ebp"
#define X_SP "esp"
#define X_DI "edi"
#define X_WORD "4"
#endif

/* ---- numbers and the sum ---- */
void random_seed(uint64_t seed);
uint64_t random64(void);
unsigned below(unsigned n);
bool one_in(unsigned n);
uint64_t argument(const char *name, uint64_t otherwise);

extern uint64_t sum;
void sum_add(uint64_t value);
void sum_bytes(const void *bytes, size_t size);
#define FLAGS_SUMMED (FL_CF | FL_PF | FL_ZF | FL_SF | FL_TF | FL_IF | FL_DF | FL_OF | FL_IOPL | FL_NT | FL_RF | FL_AC | FL_ID)
#define FLAGS_ARITHMETIC (FL_CF | FL_PF | FL_ZF | FL_SF | FL_OF)
void sum_trap(const struct trap *t, word flags);

/* ---- memory: one block of 4 MiB, its first pages seen through several views ---- */
#define AREA 0x50000000ul
#define VIEW_SIZE 0x100000ul
#define VIEWS 4u
enum view { VIEW_USER, VIEW_KERNEL, VIEW_READ, VIEW_OTHER };
#define LARGE 0x50400000ul /* the block through a large page */
#define HUGE 0x80000000ul  /* all memory through a page of 1 GiB, where there is one */
#define CODE_PAGES 8u
#define DATA_PAGES 8u
#define STACK_PAGE 17u /* and the one before */
#define PAGES 18u /* code, data, stack */
#define POOL_FIRST 20u
#define POOL_PAGES 48u
extern uint8_t *block;

static inline word view_gva(enum view view, unsigned page)
{
    return AREA + view * VIEW_SIZE + page * PAGE;
}

void tables_setup(bool pae);
uint64_t entry_get(word gva);
void entry_set(word gva, uint64_t entry);
void large_set(word gva, uint64_t entry); /* the entry of the level above; bits only, the frame is the block's */
uint64_t large_get(word gva);
bool tables_have_nx(void);
bool tables_have_huge(void);
/* Makes another address space, with tables of its own for VIEW_USER. */
word space_clone(void);
void mapping_reset(unsigned view, unsigned page);
/* Makes a change of a mapping known, in one of the ways that there are. */
void mapping_flush(word gva);

/* ---- code ---- */
#define SLOT_SIZE 256u
#define SLOT_FIRST 1u
#define SLOT_NARROW 8u   /* from here on without the registers and prefixes that only 64-bit code has */
#define SLOT_PORTABLE 11u /* and the next: means something in 16-bit code, too */
#define SLOT_LEAF 13u
#define SLOT_LAST 12u
#define SLOT_ACROSS 14u /* runs into the next page */
unsigned slot_offset(unsigned slot);
/* New code in a slot. */
void code_make(unsigned page, unsigned slot);
void code_make_all(void);
/* In a slot that is not one of the portable ones: a loop that walks through the data window. */
void code_walk(unsigned page, unsigned slot);
/* Changes an operand in a slot's code, through `view` or, with NULL, where it is. */
void code_patch(unsigned page, unsigned slot, uint8_t *base);
/* Copies a snippet to a slot, which ends with its INT. */
void code_copy(unsigned page, unsigned slot, const char *from, const char *end);

#endif
