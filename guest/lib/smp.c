/* See smp.h. MultiProcessor Specification 1.4, appendix B.4 (starting application processors); SDM vol. 3, 8.4. */
#include "smp.h"

#define STACK_SIZE 16384u
#define START_PAGE 0x20000ul
#define START_VECTOR (START_PAGE >> 12)
#define START_DATA 0x800ul /* behind the code */
#define X2APIC_ENABLED 0x400u

/* ---- the local APIC ---- */

static bool x2apic(void)
{
    return rdmsr(MSR_APIC_BASE) & X2APIC_ENABLED;
}

uint32_t apic(unsigned reg)
{
    return x2apic() ? (uint32_t)rdmsr(0x800 + reg / 16) : *(volatile uint32_t *)(LAPIC + reg);
}

void apic_set(unsigned reg, uint32_t value)
{
    if (x2apic())
        wrmsr(0x800 + reg / 16, value);
    else
        *(volatile uint32_t *)(LAPIC + reg) = value;
}

unsigned smp_self(void)
{
    return x2apic() ? apic(APIC_ID) : apic(APIC_ID) >> 24;
}

void ipi(unsigned cpu, uint32_t low)
{
    if (x2apic()) {
        wrmsr(0x830, (uint64_t)cpu << 32 | low | ICR_ASSERT);
        return;
    }
    word flags = flags_get();
    ASM("cli");
    apic_set(APIC_ICR_HIGH, cpu << 24);
    apic_set(APIC_ICR_LOW, low | ICR_ASSERT);
    if (flags & FL_IF)
        ASM("sti");
}

/* ---- what firmware says ---- */

static const uint8_t *find(word from, word to, const char *signature, size_t size)
{
    for (word at = from; at < to; at += 16)
        if (memcmp((const void *)at, signature, size) == 0)
            return (const uint8_t *)at;
    return NULL;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return value;
}

static bool sums_to_0(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + p[i]);
    return sum == 0;
}

unsigned smp_count_madt(uint32_t *ids)
{
    const uint8_t *rsdp = find(0xe0000, 0x100000, "RSD PTR ", 8);
    unsigned count = 0;
    *ids = 0;
    if (rsdp == NULL)
        return 0;
    const uint8_t *rsdt = (const uint8_t *)(word)get32(rsdp + 16);
    for (uint32_t at = 36; at < get32(rsdt + 4); at += 4) {
        const uint8_t *table = (const uint8_t *)(word)get32(rsdt + at);
        if (memcmp(table, "APIC", 4) != 0 || !sums_to_0(table, get32(table + 4)))
            continue;
        for (uint32_t entry = 44; entry < get32(table + 4); entry += table[entry + 1])
            if (table[entry] == 0 && (table[entry + 4] & 1)) { /* a local APIC that is enabled */
                *ids |= 1u << table[entry + 3];
                count++;
            }
    }
    return count;
}

unsigned smp_count_mptable(uint32_t *ids)
{
    const uint8_t *floating = find(0xf0000, 0x100000, "_MP_", 4);
    unsigned count = 0;
    *ids = 0;
    if (floating == NULL || !sums_to_0(floating, 16))
        return 0;
    const uint8_t *table = (const uint8_t *)(word)get32(floating + 4);
    unsigned length = table[4] | table[5] << 8;
    if (memcmp(table, "PCMP", 4) != 0 || !sums_to_0(table, length))
        return 0;
    for (unsigned at = 44; at < length && table[at] == 0; at += 20)
        if (table[at + 3] & 1) {
            *ids |= 1u << table[at + 1];
            count++;
        }
    return count;
}

/* ---- starting ---- */

unsigned smp_cpus = 1;
volatile uint32_t smp_arrivals;
uint8_t smp_stacks[CPUS_MAX][STACK_SIZE] __attribute__((aligned(16)));

/* In real mode at START_PAGE. Through 32-bit protected mode with the program's GDT; 64-bit programs go on to long mode with
 * the first processor's tables. Data from START_DATA on: GDT pointer, CR3, CR4, CR0. */
extern const uint8_t start_code[], start_code_end[];
__asm__(".pushsection .snippets,\"ax\"\n"
        ".code16\n"
        "start_code:\n\t"
        "cli\n\t"
        "mov %cs, %ax\n\t"
        "mov %ax, %ds\n\t"
        "lgdtl 0x800\n\t"
        "mov %cr0, %eax\n\t"
        "or $1, %eax\n\t"
        "mov %eax, %cr0\n\t"
        "ljmpl $0x38, $(0x20000 + start_32 - start_code)\n" /* SEL_KCODE32 */
        ".code32\n"
        "start_32:\n\t"
        "mov $0x10, %eax\n\t" /* SEL_KDATA */
        "mov %eax, %ds\n\t"
        "mov %eax, %es\n\t"
        "mov %eax, %ss\n\t"
#ifdef __x86_64__
        "mov 0x20814, %eax\n\t"
        "mov %eax, %cr4\n\t"
        "mov 0x20810, %eax\n\t"
        "mov %eax, %cr3\n\t"
        "mov $0xc0000080, %ecx\n\t"
        "mov 0x2081c, %eax\n\t"
        "xor %edx, %edx\n\t"
        "wrmsr\n\t"
        "mov 0x20818, %eax\n\t"
        "mov %eax, %cr0\n\t"
        "ljmp $0x08, $(0x20000 + start_64 - start_code)\n" /* SEL_KCODE */
        ".code64\n"
        "start_64:\n\t"
#endif
        "mov $1, %eax\n\t" /* the APIC's ID by CPUID: its page may not be looked at before the stack is there */
        "cpuid\n\t"
        "shr $24, %ebx\n\t"
        "inc %ebx\n\t"
        "imul $16384, %ebx, %ebx\n\t"
#ifdef __x86_64__
        "lea smp_stacks(%rbx), %rsp\n\t"
        "movabs $smp_arrive, %rax\n\t"
        "call *%rax\n"
#else
        "lea smp_stacks(%ebx), %esp\n\t"
        "mov $smp_arrive, %eax\n\t"
        "call *%eax\n"
#endif
        "start_code_end:\n" CODE_NATIVE "\n.popsection");

static struct {
    job_fn *volatile job;
    volatile uint32_t pad[15];
} slots[CPUS_MAX] __attribute__((aligned(64)));

static interrupt_fn *handlers[256];
void smp_arrive(void);

void smp_arrive(void)
{
    unsigned cpu = smp_self();
    idt_load(IDT_LIMIT);
    apic_set(APIC_TPR, 0);
    apic_set(APIC_SVR, 0x1ff);
    slots[cpu].job = NULL;
    ASM("lock incl %0" : "+m"(smp_arrivals));
    for (;;) {
        while (slots[cpu].job == NULL)
            relax();
        slots[cpu].job(cpu);
        ASM("" ::: "memory");
        slots[cpu].job = NULL;
    }
}

bool smp_wait_started(unsigned count)
{
    for (unsigned n = 0; n < 1000000000u && smp_arrivals < count; n++)
        relax();
    return smp_arrivals >= count;
}

void smp_init(unsigned cpu)
{
    ipi(cpu, ICR_INIT);
}

void smp_startup(unsigned cpu)
{
    ipi(cpu, ICR_STARTUP | START_VECTOR);
}

unsigned smp_start(unsigned count)
{
    struct {
        uint16_t limit;
        word base;
    } __attribute__((packed)) gdtr;
    uint8_t *data = (uint8_t *)(START_PAGE + START_DATA);
    memcpy((void *)START_PAGE, start_code, (size_t)(start_code_end - start_code));
    ASM("sgdt %0" : "=m"(gdtr));
    memcpy(data, &gdtr, sizeof gdtr);
    uint32_t values[4] = {(uint32_t)cr3_get(), (uint32_t)cr4_get(), (uint32_t)cr0_get(), 0};
    if (IS64)
        values[3] = (uint32_t)rdmsr(MSR_EFER) & ~EFER_LMA;
    memcpy(data + 16, values, sizeof values);
    ASM("" ::: "memory");
    apic_set(APIC_SVR, 0x1ff);
    for (unsigned cpu = 1; cpu < count; cpu++) {
        smp_init(cpu);
        smp_startup(cpu);
        smp_startup(cpu); /* as the specification says; one that runs already does not hear it */
    }
    smp_wait_started(count - 1);
    return smp_cpus = smp_arrivals + 1;
}

/* ---- work ---- */

void smp_spawn(unsigned cpu, job_fn *job)
{
    slots[cpu].job = job;
}

void smp_join(unsigned cpu)
{
    while (slots[cpu].job != NULL)
        relax();
}

void smp_run(unsigned count, job_fn *job)
{
    for (unsigned cpu = 1; cpu < count; cpu++)
        smp_spawn(cpu, job);
    job(0);
    for (unsigned cpu = 1; cpu < count; cpu++)
        smp_join(cpu);
}

void smp_meet(unsigned count)
{
    static volatile uint32_t arrived __attribute__((aligned(64))), generation __attribute__((aligned(64)));
    uint32_t mine = generation, before = 1;
    ASM("lock xaddl %0, %1" : "+r"(before), "+m"(arrived)::"memory");
    if (before + 1 == count) {
        arrived = 0;
        ASM("" ::: "memory");
        generation = mine + 1;
    } else {
        while (generation == mine)
            relax();
    }
}

/* ---- interrupts ---- */

void smp_dispatch(struct smp_regs *regs);
void smp_dispatch(struct smp_regs *regs)
{
    unsigned vector = (unsigned)regs->vector;
    handlers[vector](smp_self(), regs);
    if (vector >= 32)
        apic_set(APIC_EOI, 0);
}

extern const uint8_t smp_stubs[];
__asm__(".pushsection .text\n"
        ".balign 16\n"
        "smp_stubs:\n"
        "vector = 0\n"
        ".rept 256\n\t"
        ".balign 16\n\t"
        "push $vector\n\t"
        "jmp smp_common\n"
        "vector = vector + 1\n"
        ".endr\n"
        "smp_common:\n\t"
#ifdef __x86_64__
        "push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11\n\t"
        "cld\n\t"
        "mov %rsp, %rdi\n\t"
        "push %rbp\n\t"
        "mov %rsp, %rbp\n\t"
        "and $-16, %rsp\n\t"
        "call smp_dispatch\n\t"
        "mov %rbp, %rsp\n\t"
        "pop %rbp\n\t"
        "pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax\n\t"
        "add $8, %rsp\n\t"
        "iretq\n"
#else
        "pusha\n\t"
        "cld\n\t"
        "push %esp\n\t"
        "call smp_dispatch\n\t"
        "add $4, %esp\n\t"
        "popa\n\t"
        "add $4, %esp\n\t"
        "iret\n"
#endif
        ".popsection");

void smp_handle(unsigned vector, interrupt_fn *handler)
{
    handlers[vector] = handler;
    idt_set(vector, &(struct gate_spec){.offset = (word)smp_stubs + 16 * vector, .selector = SEL_KCODE, .type = 0xe});
}
