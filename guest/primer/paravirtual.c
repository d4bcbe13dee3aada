/* The kernel that knows its monitor: hypercalls instead of traps. Empty in the other build.
 *
 * See privileged.h for what is replaced and docs/hypercalls.md for the calls. Changes of page tables are collected and
 * handed over when they have to be in force; until then what the entries say in memory is old, so whoever needs to read
 * one that was just set commits first. */
#include "kernel.h"
#include "privileged.h"

#ifdef PARAVIRTUAL
volatile struct ring3_flags flags_shared __attribute__((aligned(8)));

static struct ring3_mmu_op queue[64];
static unsigned queue_length;

/* Whether there is a monitor that has these calls. Before anything else: without it nothing here works. */
void privileged_init(void)
{
    uint32_t regs[4], features[4];
    cpuid(RING3_CPUID_SIGNATURE, regs);
    cpuid(RING3_CPUID_FEATURES, features);
    if (memcmp(&regs[1], RING3_SIGNATURE, 12) != 0 ||
        (features[0] & ((1u << RING3_HC_COUNT) - 1)) != (1u << RING3_HC_COUNT) - 1) {
        static const char message[] = "primer: this is the paravirtual build, and there is no ring3 to call\n";
        for (const char *c = message; *c != 0; c++)
            serial_put(*c);
        power_off(1);
    }
    flags_shared.enabled = 0;
    hypercall(RING3_HC_FLAGS, (word)&flags_shared, 0);
}

void interrupts_on(void)
{
    flags_shared.enabled = 1;
    if (flags_shared.waiting)
        hypercall(RING3_HC_INTERRUPTS, 0, 0);
}

static void queue_add(uint32_t kind, word where, word value)
{
    queue[queue_length++] = (struct ring3_mmu_op){.kind = kind, .where = where, .value = value};
    if (queue_length == ARRAY_LEN(queue))
        entries_commit();
}

void entry_set(word *entry, word value)
{
    queue_add(RING3_MMU_WRITE, (word)entry, value);
}

void entries_commit(void)
{
    unsigned n = queue_length;
    queue_length = 0;
    if (n != 0 && hypercall(RING3_HC_MMU, (word)queue, n) != n)
        panic("the monitor refuses a change of page tables");
}

void entries_commit_page(word gva)
{
    queue_add(RING3_MMU_FLUSH_PAGE, gva, 0);
    entries_commit();
}

void entries_commit_all(void)
{
    queue_add(RING3_MMU_FLUSH, 0, 0);
    entries_commit();
}

void entries_commit_switch(word root)
{
    queue_add(RING3_MMU_SWITCH, 0, root);
    entries_commit();
}

/* A string by one call instead of two port accesses for each character. The bytes may be a program's, whose addresses
 * are not physical ones: they are copied first. */
void paravirtual_write(const char *bytes, word n)
{
    static char buffer[256];
    while (n > 0) {
        word some = n < sizeof(buffer) ? n : sizeof(buffer), done = 0;
        memcpy(buffer, bytes, some);
        while (done < some) {
            long taken = (long)hypercall(RING3_HC_CONSOLE, (word)buffer + done, some - done);
            if (taken < 0)
                return;
            done += (word)taken;
        }
        bytes += some;
        n -= some;
    }
}
#endif
