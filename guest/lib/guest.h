/* The small library under the bare-metal test programs.
 *
 * A program is one flat ELF, started by the monitor in 32-bit protected mode without paging, or in long mode with an
 * identity map of 4 GiB (see src/boot/boot.h). lib_start() has made GDT, IDT and TSS by the time test_main() runs, at
 * privilege level 0 with interrupts off. Checks are lines of TAP on the debug console; the program ends by writing to
 * isa-debug-exit: 0 (process status 1) if all checks passed, 1 (status 3) if not.
 *
 * The one primitive is run(): it enters a snippet of code with a complete set of registers - at any privilege level, in
 * any mode that IRET can reach - and comes back at the first exception or interrupt with a complete record of it.
 * Snippets are made by CODE(); each ends with INT DONE, so that one that is expected to run through ends in vector
 * DONE.
 *
 *     CODE(load, "mov (%rdi), %al");
 *     struct trap t = run_kernel(load, .di = gva);
 *     ok_trap(&t, PF, PF_P | PF_U, load, "a load from ...");
 *
 * One processor, no concurrency: the library keeps its state in globals. */
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

typedef unsigned long word;

#ifdef __x86_64__
#define IS64 1
#define WORD_SIZE 8
#else
#define IS64 0
#define WORD_SIZE 4
#endif

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MiB 0x100000ul
#define PAGE 4096ul

enum vector {
    DE = 0,
    DB = 1,
    NMI = 2,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    MF = 16,
    AC = 17,
    MC = 18,
    XM = 19,
    DONE = VECTOR_DONE, /* what ends a snippet; reachable from every privilege level */
};

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

#define FL_CF 0x1ul
#define FL_1 0x2ul
#define FL_PF 0x4ul
#define FL_AF 0x10ul
#define FL_ZF 0x40ul
#define FL_SF 0x80ul
#define FL_TF 0x100ul
#define FL_IF 0x200ul
#define FL_DF 0x400ul
#define FL_OF 0x800ul
#define FL_IOPL 0x3000ul
#define FL_NT 0x4000ul
#define FL_RF 0x10000ul
#define FL_VM 0x20000ul
#define FL_AC 0x40000ul
#define FL_VIF 0x80000ul
#define FL_VIP 0x100000ul
#define FL_ID 0x200000ul

#define CR0_PE 0x1ul
#define CR0_MP 0x2ul
#define CR0_EM 0x4ul
#define CR0_TS 0x8ul
#define CR0_NE 0x20ul
#define CR0_WP 0x10000ul
#define CR0_AM 0x40000ul
#define CR0_NW 0x20000000ul
#define CR0_CD 0x40000000ul
#define CR0_PG 0x80000000ul
#define CR4_VME 0x1ul
#define CR4_PVI 0x2ul
#define CR4_TSD 0x4ul
#define CR4_DE 0x8ul
#define CR4_PSE 0x10ul
#define CR4_PAE 0x20ul
#define CR4_PGE 0x80ul
#define CR4_PCE 0x100ul
#define CR4_OSFXSR 0x200ul
#define CR4_OSXMMEXCPT 0x400ul
#define CR4_UMIP 0x800ul
#define CR4_FSGSBASE 0x10000ul
#define CR4_PCIDE 0x20000ul
#define CR4_OSXSAVE 0x40000ul
#define CR4_SMEP 0x100000ul
#define CR4_SMAP 0x200000ul

#define PTE_P 0x1ull
#define PTE_W 0x2ull
#define PTE_U 0x4ull
#define PTE_PWT 0x8ull
#define PTE_PCD 0x10ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX 0x8000000000000000ull

#define MSR_TSC 0x10u
#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_ADJUST 0x3bu
#define MSR_SYSENTER_CS 0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_PAT 0x277u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NXE 0x800u

/* ---- checks ---- */

bool ok(bool passed, const char *format, ...) __attribute__((format(printf, 2, 3)));
void note(const char *format, ...) __attribute__((format(printf, 1, 2))); /* a diagnostic line */
void skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* ok() with both values in the diagnostic. */
bool ok_equal(uint64_t got, uint64_t expected, const char *format, ...) __attribute__((format(printf, 3, 4)));
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_v(const char *format, va_list arguments);
_Noreturn void finish(void);
_Noreturn void bail_out(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What the program was told by --append; empty if nothing. */
extern const char *guest_arguments;

void test_main(void);

/* ---- code under test ---- */

struct regs {
    word ax, cx, dx, bx, sp, bp, si, di;
#ifdef __x86_64__
    word r8, r9, r10, r11, r12, r13, r14, r15;
#endif
    word ip, flags;
    word cs, ss, ds, es, fs, gs;
};

struct trap {
    struct regs regs; /* of the interrupted code, as the processor saved them */
    word vector;
    word frame; /* address of the last thing that the processor pushed */
    word cr2;
    word handler_flags, handler_cs, handler_ss;
    bool has_error;
    word error;
    word dr6;     /* with vector DB */
    word raw[12]; /* what lies at `frame` */
};
_Static_assert(offsetof(struct regs, ip) == REGS_IP, "layout.h");
_Static_assert(offsetof(struct trap, vector) == TRAP_VECTOR, "layout.h");
_Static_assert(offsetof(struct trap, handler_ss) == TRAP_HANDLER_SS, "layout.h");

/* A snippet: position-independent, ends with INT DONE unless it leaves otherwise. NAME is its first byte, NAME_end the
 * INT. */
#define CODE(name, text)                                                                                               \
    extern const char name[], name##_end[];                                                                            \
    __asm__(".pushsection .snippets,\"ax\"\n" #name ":\n\t" text "\n" #name "_end:\n\tint $0x81\n.popsection")
/* The same below 64 KiB offset of the segment LOW_SEGMENT, for real and v86 mode; 16-bit code. */
#define CODE16(name, text)                                                                                             \
    extern const char name[], name##_end[];                                                                            \
    __asm__(".pushsection .low,\"awx\"\n.code16\n" #name ":\n\t" text "\n" #name "_end:\n\tint $0x81\n" CODE_NATIVE    \
            "\n.popsection")
/* 32-bit code in a 64-bit program, for compatibility mode. */
#define CODE32(name, text)                                                                                             \
    extern const char name[], name##_end[];                                                                            \
    __asm__(".pushsection .snippets,\"ax\"\n.code32\n" #name ":\n\t" text "\n" #name                                   \
            "_end:\n\tint $0x81\n" CODE_NATIVE "\n.popsection")
#ifdef __x86_64__
#define CODE_NATIVE ".code64"
#else
#define CODE_NATIVE ".code32"
#endif
#define LOW_SEGMENT 0x1000u
#define LOW_OFFSET(name) ((word)(name)-LOW_SEGMENT * 16)

struct trap run(const struct regs *regs);

extern char kernel_stack_top[], user_stack_top[]; /* of snippets; 16-byte aligned */
extern char trap_stack_top[];                     /* SP0 of the TSS */

/* User code sees the program at another address in 64-bit programs: user pages over the same memory. */
#ifdef __x86_64__
#define USER_WINDOW 0x10000000000ul
#else
#define USER_WINDOW 0ul
#endif
#define USER(pointer) ((word)(pointer) + USER_WINDOW)

#define REGS_KERNEL(code, ...)                                                                                         \
    ((struct regs){.ip = (word)(code),                                                                                 \
                   .sp = (word)kernel_stack_top,                                                                       \
                   .flags = FL_1,                                                                                      \
                   .cs = SEL_KCODE,                                                                                    \
                   .ss = SEL_KDATA,                                                                                    \
                   .ds = SEL_KDATA,                                                                                    \
                   .es = SEL_KDATA,                                                                                    \
                   ##__VA_ARGS__})
#define REGS_USER(code, ...)                                                                                           \
    ((struct regs){.ip = USER(code),                                                                                   \
                   .sp = USER(user_stack_top),                                                                         \
                   .flags = FL_1,                                                                                      \
                   .cs = SEL_UCODE | 3,                                                                                \
                   .ss = SEL_UDATA | 3,                                                                                \
                   .ds = SEL_UDATA | 3,                                                                                \
                   .es = SEL_UDATA | 3,                                                                                \
                   ##__VA_ARGS__})
#define run_kernel(code, ...) run(&REGS_KERNEL(code, ##__VA_ARGS__))
#define run_user(code, ...) run(&REGS_USER(code, ##__VA_ARGS__))

/* Words for a snippet to pop: at a place with room for frames below. Valid until the next but one. */
word *stack_put(const word *words, unsigned count);
#define STACK(...) stack_put((const word[]){__VA_ARGS__}, sizeof((const word[]){__VA_ARGS__}) / sizeof(word))

#define NO_ERROR (~0ul)
/* Vector, error code (NO_ERROR: none was pushed) and the saved instruction pointer. */
bool ok_trap(const struct trap *t, word vector, word error, const void *ip, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
bool ok_pf(const struct trap *t, word error, word cr2, const void *ip, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* The snippet ran through. */
bool ok_done(const struct trap *t, const char *end, const char *format, ...) __attribute__((format(printf, 3, 4)));
void trap_print(const struct trap *t);

/* ---- tables ---- */

struct gate_spec {
    word offset;
    uint16_t selector;
    uint8_t type; /* 5 task, 6 int16, 7 trap16, e interrupt, f trap */
    uint8_t dpl;
    bool absent;
    uint8_t ist;
};

extern uint64_t gdt[];
extern uint64_t idt[];
extern uint8_t tss[8448];    /* the TSS, its interrupt redirection and I/O maps */
extern uint8_t trap_stubs[]; /* 16 bytes each */

void idt_set(unsigned vector, const struct gate_spec *spec);
void idt_default(unsigned vector);
void gdt_load(void);
void idt_load(word limit); /* of the IDT, at most IDT_LIMIT */
#define IDT_LIMIT (256u * (IS64 ? 16 : 8) - 1)

/* A descriptor from base, limit (in units of G), access byte and flags (G 8, D/B 4, L 2, AVL 1). */
uint64_t descriptor(word base, uint32_t limit, unsigned access, unsigned flags);
/* Puts one into the GDT at SEL_FREE + 8 n and returns the selector. */
uint16_t gdt_put(unsigned n, uint64_t value);
#define ACC_P 0x80u
#define ACC_DPL(n) ((unsigned)(n) << 5)
#define ACC_S 0x10u
#define ACC_DATA 0x92u
#define ACC_CODE 0x9au

void tss_set_sp0(word sp);

/* ---- memory ---- */

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
const char *strstr(const char *s, const char *word);

/* Zeroed pages that nobody else uses, from 16 MiB up; never freed. */
void *page_alloc(unsigned count);
void *page_alloc_aligned(word size, word alignment);

#ifdef __x86_64__
/* The entry that maps gva at `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB, 4) in the tables of CR3; tables on the way are
 * made, open for everything. */
uint64_t *pte(word gva, unsigned level);
#endif

/* ---- instructions ---- */

#define ASM __asm__ volatile

static inline void outb(uint16_t port, uint8_t value)
{
    ASM("outb %0, %1" ::"a"(value), "Nd"(port));
}
static inline void outw(uint16_t port, uint16_t value)
{
    ASM("outw %0, %1" ::"a"(value), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t value)
{
    ASM("outl %0, %1" ::"a"(value), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    ASM("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint16_t inw(uint16_t port)
{
    uint16_t v;
    ASM("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline uint32_t inl(uint16_t port)
{
    uint32_t v;
    ASM("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

#define CONTROL_REGISTER(name)                                                                                         \
    static inline word name##_get(void)                                                                                \
    {                                                                                                                  \
        word v;                                                                                                        \
        ASM("mov %%" #name ", %0" : "=r"(v));                                                                          \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void name##_set(word v)                                                                              \
    {                                                                                                                  \
        ASM("mov %0, %%" #name ::"r"(v) : "memory");                                                                   \
    }
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr2)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
CONTROL_REGISTER(dr0)
CONTROL_REGISTER(dr1)
CONTROL_REGISTER(dr2)
CONTROL_REGISTER(dr3)
CONTROL_REGISTER(dr6)
CONTROL_REGISTER(dr7)
#ifdef __x86_64__
CONTROL_REGISTER(cr8)
#endif

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;
    ASM("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    ASM("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    ASM("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void invlpg(word gva)
{
    ASM("invlpg (%0)" ::"r"(gva) : "memory");
}
static inline word flags_get(void)
{
    word v;
    ASM("pushf; pop %0" : "=r"(v));
    return v;
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    ASM("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}
/* Behaves as AMD's manual says where vendors differ. */
bool cpu_is_amd(void);
bool cpu_has_7_ebx(unsigned bit);
bool cpu_has_1_ecx(unsigned bit);
#define F7_FSGSBASE 0
#define F7_TSC_ADJUST 1
#define F7_SMEP 7
#define F7_INVPCID 10
#define F7_SMAP 20
#define F1_PCID 17
#define F1_X2APIC 21
#define F1_TSC_DEADLINE 24
#define F1_XSAVE 26

#endif
