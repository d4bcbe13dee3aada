/* What it costs to keep the guest's arithmetic flags: the measurement behind decision 002.
 *
 *     gcc -O2 -o /tmp/flags docs/decisions/002-flags.c && /tmp/flags
 *
 * Three ways of keeping the flags of an ADD, each called as the interpreter calls an instruction: through a pointer in a
 * record, with the guest's registers in memory. Beside the bare ADD there are pairs in which every second record uses the
 * flags: JBE needs CF and ZF, ADC needs CF. The second operands are 0, so that no branch is taken and nothing has to be
 * predicted but the indirect calls. A run is 64 records; the figure is the least of 400 trials of 200 runs, in
 * cycles of the time-stamp counter for each record. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <x86intrin.h>

#define RECORDS 64
#define RUNS 200
#define TRIALS 400

struct cpu;
struct record {
    const struct record *(*fn)(struct cpu *cpu, const struct record *in);
    unsigned a, b;
};

enum lazy_op { LAZY_NONE, LAZY_ADD, LAZY_ADD_CARRY };

struct cpu {
    uint64_t regs[8];
    uint16_t status;                   /* as LAHF; SETO leave them in AX */
    uint64_t rflags;                   /* as PUSHFQ stores them */
    uint64_t lazy_a, lazy_b, lazy_sum; /* what the last instruction computed */
    unsigned lazy_op, lazy_size;
    const struct record *taken;
};

static const struct record *add_only(struct cpu *cpu, const struct record *in)
{
    cpu->regs[in->a] += cpu->regs[in->b];
    return in + 1;
}

static const struct record *add_lahf(struct cpu *cpu, const struct record *in)
{
    uint64_t a = cpu->regs[in->a];
    uint32_t status;
    __asm__("addq %[b], %[a]\n\tlahf\n\tseto %%al" : [a] "+&q"(a), "=&a"(status) : [b] "q"(cpu->regs[in->b]) : "cc");
    cpu->regs[in->a] = a;
    cpu->status = (uint16_t)status;
    return in + 1;
}

static const struct record *add_pushf(struct cpu *cpu, const struct record *in)
{
    uint64_t a = cpu->regs[in->a], rflags;
    __asm__("addq %[b], %[a]\n\tpushfq\n\tpopq %[f]"
            : [a] "+&q"(a), [f] "=&r"(rflags)
            : [b] "q"(cpu->regs[in->b])
            : "cc", "memory");
    cpu->regs[in->a] = a;
    cpu->rflags = rflags;
    return in + 1;
}

static const struct record *add_lazy(struct cpu *cpu, const struct record *in)
{
    uint64_t a = cpu->regs[in->a], b = cpu->regs[in->b];
    cpu->regs[in->a] = a + b;
    cpu->lazy_a = a;
    cpu->lazy_b = b;
    cpu->lazy_sum = a + b;
    cpu->lazy_op = LAZY_ADD;
    cpu->lazy_size = 8;
    return in + 1;
}

static bool lazy_carry(const struct cpu *cpu)
{
    switch (cpu->lazy_op) {
    case LAZY_ADD: return cpu->lazy_sum < cpu->lazy_a;
    case LAZY_ADD_CARRY: return cpu->lazy_sum <= cpu->lazy_a;
    default: return false;
    }
}

static const struct record *jbe_lahf(struct cpu *cpu, const struct record *in)
{
    if (cpu->status & 0x4100)
        return cpu->taken;
    return in + 1;
}

static const struct record *jbe_pushf(struct cpu *cpu, const struct record *in)
{
    if (cpu->rflags & 0x41)
        return cpu->taken;
    return in + 1;
}

static const struct record *jbe_lazy(struct cpu *cpu, const struct record *in)
{
    if (cpu->lazy_sum == 0 || lazy_carry(cpu))
        return cpu->taken;
    return in + 1;
}

static const struct record *adc_lahf(struct cpu *cpu, const struct record *in)
{
    uint64_t a = cpu->regs[in->a];
    uint32_t status;
    __asm__("btl $8, %k[s]\n\tadcq %[b], %[a]\n\tlahf\n\tseto %%al"
            : [a] "+&q"(a), "=&a"(status)
            : [b] "q"(cpu->regs[in->b]), [s] "r"((uint32_t)cpu->status)
            : "cc");
    cpu->regs[in->a] = a;
    cpu->status = (uint16_t)status;
    return in + 1;
}

static const struct record *adc_pushf(struct cpu *cpu, const struct record *in)
{
    uint64_t a = cpu->regs[in->a], rflags;
    __asm__("btl $0, %k[s]\n\tadcq %[b], %[a]\n\tpushfq\n\tpopq %[f]"
            : [a] "+&q"(a), [f] "=&r"(rflags)
            : [b] "q"(cpu->regs[in->b]), [s] "r"((uint32_t)cpu->rflags)
            : "cc", "memory");
    cpu->regs[in->a] = a;
    cpu->rflags = rflags;
    return in + 1;
}

static const struct record *adc_lazy(struct cpu *cpu, const struct record *in)
{
    bool carry = lazy_carry(cpu);
    uint64_t a = cpu->regs[in->a], b = cpu->regs[in->b];
    cpu->regs[in->a] = a + b + carry;
    cpu->lazy_a = a;
    cpu->lazy_b = b;
    cpu->lazy_sum = a + b + carry;
    cpu->lazy_op = carry ? LAZY_ADD_CARRY : LAZY_ADD;
    cpu->lazy_size = 8;
    return in + 1;
}

static const struct record *stop(struct cpu *cpu, const struct record *in)
{
    (void)cpu;
    (void)in;
    return NULL;
}

typedef const struct record *record_fn(struct cpu *cpu, const struct record *in);

static double cycles(record_fn *even, record_fn *odd)
{
    static struct record records[RECORDS + 1];
    struct cpu cpu = {.regs = {1, 2, 3, 5}};
    double least = 1e9;
    for (unsigned i = 0; i < RECORDS; i++)
        records[i] = (struct record){i % 2 ? odd : even, i / 2 % 4, 4 + i / 2 % 4};
    records[RECORDS].fn = stop;
    for (unsigned trial = 0; trial < TRIALS; trial++) {
        uint64_t begin = __rdtsc();
        for (unsigned run = 0; run < RUNS; run++)
            for (const struct record *in = records; in != NULL;)
                in = in->fn(&cpu, in);
        double mean = (double)(__rdtsc() - begin) / (RUNS * RECORDS);
        least = mean < least ? mean : least;
    }
    return least;
}

int main(void)
{
    printf("%-10s %12s %12s %12s\n", "cycles", "LAHF+SETO", "PUSHFQ+POP", "lazy");
    printf("%-10s %12.1f %12.1f %12.1f\n", "add", cycles(add_lahf, add_lahf), cycles(add_pushf, add_pushf),
           cycles(add_lazy, add_lazy));
    printf("%-10s %12.1f %12.1f %12.1f\n", "add, jbe", cycles(add_lahf, jbe_lahf), cycles(add_pushf, jbe_pushf),
           cycles(add_lazy, jbe_lazy));
    printf("%-10s %12.1f %12.1f %12.1f\n", "add, adc", cycles(add_lahf, adc_lahf), cycles(add_pushf, adc_pushf),
           cycles(add_lazy, adc_lazy));
    printf("an ADD that keeps no flags: %.1f\n", cycles(add_only, add_only));
}
