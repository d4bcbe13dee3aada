/* How late an interrupt comes: the local APIC's timer, one shot after the other, into code that never leaves by itself.
 *
 * Engines look for interrupts at places of their own choice; each case here is a way of going on for ever without meeting
 * such a place, if one was forgotten: a block that jumps to itself, rings of blocks in a page or over many, calls and
 * returns, indirect jumps, string instructions over megabytes, loads and stores. That each shot arrives is the test; how
 * late, in guest time (the TSC runs at 1 GHz), is printed. Bounds are generous, since the host may be busy. */
#include "guest.h"

#define APIC 0xfee00000ul
#define TIMER_VECTOR 0x50
#define SHOTS 40u
#define RING_PAGES 64u
#define BOUND_NS 1000000000u

CODE(one_block, "1: jmp 1b");
CODE(two_blocks, "1: jmp 2f; ud2; 2: dec %eax; jmp 1b");
CODE(conditional, "1: dec %eax; jnz 1b; jmp 1b");
CODE(recursion, "1: mov $200, %ecx; call 2f; jmp 1b\n2: dec %ecx; jz 3f; call 2b; 3: ret");
CODE(rep_stos, "1: mov %rbx, %rdi; mov $0x800000, %ecx; rep stosb; jmp 1b");
CODE(rep_movs, "1: mov %rbx, %rdi; lea 0x400000(%rbx), %rsi; mov $0x80000, %ecx; rep movsq; jmp 1b");
CODE(memory, "1: mov (%rsi), %rax; add %rax, (%rdi); add %rax, 8(%rdi); mov 16(%rdi), %rdx; push %rdx; pop 24(%rdi); jmp 1b");
CODE(unaligned, "1: mov 4093(%rdi), %rax; add %rax, 1(%rdi); lock xadd %rdx, 62(%rdi); jmp 1b");
CODE(flags_off_on, "1: cli; nop; sti; nop; jmp 1b");
CODE(moving_stack_segment, "1: mov %ss, %eax; mov %eax, %ss; nop; jmp 1b");
CODE(system_calls, "1: int $0x82; jmp 1b");
CODE(port, "1: in $0x61, %al; jmp 1b");
CODE(halted, "1: hlt; jmp 1b");

extern const char software_entry[];
__asm__(".text\nsoftware_entry: iretq\n");

static uint32_t apic(unsigned reg)
{
    return *(volatile uint32_t *)(APIC + reg);
}

static void apic_set(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(APIC + reg) = value;
}

/* Ticks of the APIC's timer in a millisecond. */
static uint32_t ticks_per_ms(void)
{
    apic_set(0x320, TIMER_VECTOR | 1u << 16);
    apic_set(0x380, 0xffffffff);
    uint64_t start = rdtsc();
    uint32_t first = apic(0x390);
    while (rdtsc() - start < 5000000)
        ;
    uint32_t last = apic(0x390);
    uint64_t ns = rdtsc() - start;
    apic_set(0x380, 0);
    apic_set(0x320, TIMER_VECTOR);
    return (uint32_t)((uint64_t)(first - last) * 1000000 / ns);
}

static void test_case(const char *name, struct regs regs, uint32_t per_ms)
{
    uint64_t worst = 0, total = 0;
    unsigned arrived = 0;
    regs.flags |= FL_IF;
    for (unsigned shot = 0; shot < SHOTS; shot++) {
        uint32_t after_us = 100 + shot * 37 % 900;
        uint64_t due = rdtsc() + after_us * 1000ull;
        apic_set(0x380, (uint32_t)((uint64_t)per_ms * after_us / 1000));
        struct trap t = run(&regs);
        uint64_t now = rdtsc(), late = now > due ? now - due : 0;
        apic_set(0xb0, 0);
        arrived += t.vector == TIMER_VECTOR;
        worst = late > worst ? late : worst;
        total += late;
    }
    ok(arrived == SHOTS && worst < BOUND_NS, "%s: every shot arrives", name);
    note("%s: %u us late at most, %u us on average", name, (unsigned)(worst / 1000), (unsigned)(total / SHOTS / 1000));
}

/* A ring of pages, each of which jumps to the next. */
static uint8_t *ring_make(bool indirect)
{
    uint8_t *ring = page_alloc(RING_PAGES);
    for (unsigned page = 0; page < RING_PAGES; page++) {
        uint8_t *at = ring + page * PAGE + page * 16;
        uint8_t *to = ring + (page + 1) % RING_PAGES * PAGE + (page + 1) % RING_PAGES * 16;
        if (indirect) {
            word target = (word)to;
            at[0] = 0x48; /* MOV RAX, to; JMP RAX */
            at[1] = 0xb8;
            memcpy(at + 2, &target, 8);
            at[10] = 0xff;
            at[11] = 0xe0;
        } else {
            int32_t distance = (int32_t)(to - (at + 5));
            at[0] = 0xe9;
            memcpy(at + 1, &distance, 4);
        }
    }
    return ring;
}

void test_main(void)
{
    uint8_t *data = page_alloc_aligned(12 * MiB, PAGE);
    apic_set(0xf0, 0x1ff);
    apic_set(0x3e0, 0xb);
    idt_set(0x82, &(struct gate_spec){.offset = (word)software_entry, .selector = SEL_KCODE, .type = 0xe, .dpl = 3});
    uint32_t per_ms = ticks_per_ms();
    ok(per_ms != 0, "the timer counts, %u ticks in a millisecond", per_ms);

    test_case("a block that jumps to itself", REGS_KERNEL(one_block), per_ms);
    test_case("the same in user mode", REGS_USER(one_block), per_ms);
    test_case("two blocks", REGS_KERNEL(two_blocks), per_ms);
    test_case("a conditional branch to itself", REGS_KERNEL(conditional), per_ms);
    test_case("a ring of 64 pages", REGS_KERNEL(ring_make(false)), per_ms);
    test_case("a ring of indirect jumps", REGS_KERNEL(ring_make(true)), per_ms);
    test_case("calls and returns", REGS_KERNEL(recursion), per_ms);
    test_case("calls and returns in user mode", REGS_USER(recursion), per_ms);
    test_case("REP STOSB over 8 MiB", REGS_KERNEL(rep_stos, .bx = (word)data), per_ms);
    test_case("REP MOVSQ over 4 MiB", REGS_KERNEL(rep_movs, .bx = (word)data), per_ms);
    test_case("loads and stores", REGS_KERNEL(memory, .si = (word)data, .di = (word)data), per_ms);
    test_case("unaligned and locked ones", REGS_KERNEL(unaligned, .di = (word)data), per_ms);
    test_case("CLI and STI", REGS_KERNEL(flags_off_on), per_ms);
    test_case("MOV SS", REGS_KERNEL(moving_stack_segment), per_ms);
    test_case("software interrupts", REGS_KERNEL(system_calls), per_ms);
    test_case("IN", REGS_KERNEL(port), per_ms);
    test_case("HLT", REGS_KERNEL(halted), per_ms);
}
