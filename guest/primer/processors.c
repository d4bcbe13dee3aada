/* Several processors: how they are found, started, kept apart and woken.
 *
 * Only in the build for a whole PC (-DWHOLE_PC); the other builds have one processor and take kernel.h's empty words.
 *
 * The firmware leaves a table of the processors and of the wires between devices and the I/O APIC, and a pointer to it that
 * begins with "_MP_" in one of three places. The first processor runs. The others wait until it sends them two messages
 * through its local APIC: INIT, and a page number at which to begin, in real mode, as if just switched on (startup.S).
 *
 * One lock is around the whole kernel. Whoever comes from user mode, or out of its idle loop, takes it, and gives it back on
 * the way out; whoever waits for something gives it on with the processor, as schedule() goes to another process, which is
 * somewhere inside the kernel as well. So each line of the kernel is written as if there were one processor, and is right
 * for the same reasons. Programs run side by side; the kernel does not. That is how systems of several processors began.
 *
 * Which processor am I? The task register names this one's TSS, and STR reads it. (Under a classical monitor this is one more
 * of those instructions that do not trap and yet tell the truth about the wrong machine.)
 *
 * Each processor has a clock of its own, the timer in its local APIC, which takes the processor away from a program; the
 * first one's counts the time as well. Who has nothing to do halts in a process of its own that is in no table, on the
 * kernel's page tables. When a process becomes ready, processors that halt are woken by a message: the interrupt does nothing
 * but happen.
 *
 * No page table is ever in use on two processors, since a process has one thread; so nobody has to be told when an entry of
 * one changes.
 *
 * Without an MP table this is the machine that the other builds know: one processor, the 8259 pair, the 8254.
 *
 * MultiProcessor Specification 1.4, chapters 3, 4 and appendix B; SDM vol. 3, chapter 11 (APIC); 82093AA data sheet. */
#include "kernel.h"
#include "privileged.h"

#ifdef WHOLE_PC
struct processor processors[PROCESSOR_MAX];
unsigned processor_count = 1;
static struct process idles[PROCESSOR_MAX];

/* ---- the kernel's lock ----
 *
 * Whoever finds it open has it; nobody takes a number. Fairer locks are worse where a processor is a thread of somebody
 * else's: all would wait for the one whose turn it is and who is not running. */

static struct {
    volatile uint32_t taken;
    struct processor *volatile owner;
} lock;

void kernel_lock(void)
{
    uint32_t was = 1;
    for (;;) {
        __asm__ volatile("xchgl %0, %1" : "+r"(was), "+m"(lock.taken)::"memory"); /* XCHG locks the bus by itself */
        if (was == 0)
            break;
        while (lock.taken)
            __asm__ volatile("pause");
    }
    lock.owner = processor_here();
}

void kernel_unlock(void)
{
    lock.owner = NULL;
    __asm__ volatile("" ::: "memory"); /* stores of one processor are seen by others in their order */
    lock.taken = 0;
}

/* False: this processor has it already, and was interrupted in the kernel. Only it itself can have written its name. */
bool kernel_enter(void)
{
    if (lock.owner == processor_here())
        return false;
    kernel_lock();
    return true;
}

/* ---- the MP table ---- */

#define EBDA_POINTER_GPA 0x40eul
#define BASE_MEMORY_END 0xa0000ul
#define BIOS_GPA 0xf0000ul
#define BIOS_SIZE 0x10000ul
#define KIB 1024ul

struct mp_floating {
    char signature[4]; /* "_MP_" */
    uint32_t table;
    uint8_t length, revision, checksum, features[5];
};
#define FEATURE1_DEFAULT 0u /* features[0]: a table is there */
#define FEATURE2_IMCR 0x80u /* features[1]: interrupts must be switched from the 8259 pair to the APICs */

struct mp_header {
    char signature[4]; /* "PCMP" */
    uint16_t length;
    uint8_t revision, checksum;
    char names[20];
    uint32_t oem_table;
    uint16_t oem_length, entry_count;
    uint32_t local_apic;
    uint32_t extended;
};

enum mp_kind { MP_PROCESSOR, MP_BUS, MP_IO_APIC, MP_INTERRUPT, MP_LOCAL_INTERRUPT };
struct mp_entry {
    uint8_t kind;
    union {
        struct {
            uint8_t apic_id, version, flags;
        } processor; /* 20 bytes in all */
        struct {
            uint8_t id;
            char name[6];
        } bus;
        struct {
            uint8_t id, version, flags;
            uint32_t gpa;
        } __attribute__((packed)) io_apic;
        struct {
            uint8_t type, flags, flags_high, bus, irq, apic_id, pin;
        } interrupt;
    };
} __attribute__((packed));
#define PROCESSOR_ENTRY_SIZE 20u
#define ENTRY_SIZE 8u
#define PROCESSOR_ENABLED 1u
#define PROCESSOR_BOOT 2u
#define IO_APIC_ENABLED 1u
#define IRQS 16u

static word lapic_gpa, io_apic_gpa; /* 0: there is none */
static bool has_imcr;
static uint8_t pins[IRQS];

static bool sum_is_zero(const void *bytes, size_t n)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    return sum == 0;
}

static const struct mp_floating *floating_search(word gpa, word size)
{
    for (word at = gpa; at + sizeof(struct mp_floating) <= gpa + size; at += sizeof(struct mp_floating)) {
        const struct mp_floating *found = (const struct mp_floating *)at;
        if (memcmp(found->signature, "_MP_", 4) == 0 && sum_is_zero(found, sizeof(*found)))
            return found;
    }
    return NULL;
}

static void entry_take(const struct mp_entry *entry, int *isa)
{
    if (entry->kind == MP_PROCESSOR && (entry->processor.flags & PROCESSOR_ENABLED)) {
        if (entry->processor.flags & PROCESSOR_BOOT)
            processors[0].apic_id = entry->processor.apic_id;
        else if (processor_count < PROCESSOR_MAX)
            processors[processor_count++].apic_id = entry->processor.apic_id;
    } else if (entry->kind == MP_BUS && memcmp(entry->bus.name, "ISA", 3) == 0) {
        *isa = entry->bus.id;
    } else if (entry->kind == MP_IO_APIC && (entry->io_apic.flags & IO_APIC_ENABLED) && io_apic_gpa == 0) {
        io_apic_gpa = entry->io_apic.gpa;
    } else if (entry->kind == MP_INTERRUPT && entry->interrupt.type == 0 && entry->interrupt.bus == *isa &&
               entry->interrupt.irq < IRQS) {
        pins[entry->interrupt.irq] = entry->interrupt.pin;
    }
}

/* Before there is paging: the tables may lie in the first page, which will not be mapped. */
void processors_find(void)
{
    word pointer = EBDA_POINTER_GPA;
    __asm__("" : "+r"(pointer)); /* a place like others, whatever C thinks of low addresses */
    word ebda = (word) * (const volatile uint16_t *)pointer << 4;
    const struct mp_floating *found = NULL;
    if (ebda != 0 && ebda < BASE_MEMORY_END)
        found = floating_search(ebda, KIB);
    if (found == NULL)
        found = floating_search(BASE_MEMORY_END - KIB, KIB);
    if (found == NULL)
        found = floating_search(BIOS_GPA, BIOS_SIZE);
    if (found == NULL || found->features[0] != FEATURE1_DEFAULT || found->table == 0 || found->table > KERNEL_END - 65536)
        return;
    const struct mp_header *header = (const struct mp_header *)(word)found->table;
    if (memcmp(header->signature, "PCMP", 4) != 0 || !sum_is_zero(header, header->length))
        return;
    int isa = -1;
    for (unsigned i = 0; i < IRQS; i++)
        pins[i] = (uint8_t)i;
    const uint8_t *at = (const uint8_t *)(header + 1), *end = (const uint8_t *)header + header->length;
    for (unsigned i = 0; i < header->entry_count && at < end; i++) {
        const struct mp_entry *entry = (const struct mp_entry *)at;
        entry_take(entry, &isa);
        at += entry->kind == MP_PROCESSOR ? PROCESSOR_ENTRY_SIZE : ENTRY_SIZE;
    }
    lapic_gpa = header->local_apic;
    has_imcr = found->features[1] & FEATURE2_IMCR;
    if (io_apic_gpa == 0)
        lapic_gpa = 0;
    if (lapic_gpa == 0)
        processor_count = 1;
    else
        memcpy((void *)STARTUP_GPA, startup_begin, (size_t)(startup_end - startup_begin));
}

/* ---- APICs: seen at these addresses once there is paging, in the pages below the kernel that are otherwise empty ---- */

#define LAPIC_GVA 0xe000ul
#define IO_APIC_GVA 0xf000ul
#define LAPIC_ID 0x020u
#define LAPIC_EOI 0x0b0u
#define LAPIC_SPURIOUS 0x0f0u
#define LAPIC_ICR_LOW 0x300u
#define LAPIC_ICR_HIGH 0x310u
#define LAPIC_LVT_TIMER 0x320u
#define LAPIC_LVT_LINT0 0x350u
#define LAPIC_LVT_LINT1 0x360u
#define LAPIC_TIMER_INITIAL 0x380u
#define LAPIC_TIMER_CURRENT 0x390u
#define LAPIC_TIMER_DIVIDE 0x3e0u
#define SPURIOUS_ENABLE 0x100u
#define LVT_MASKED 0x10000u
#define LVT_PERIODIC 0x20000u
#define DIVIDE_16 0x3u
#define ICR_INIT_ASSERT 0x4500u
#define ICR_STARTUP 0x4600u
#define ICR_FIXED 0x4000u
#define ICR_PENDING 0x1000u
#define IO_APIC_INDEX 0x00u
#define IO_APIC_DATA 0x10u
#define IO_APIC_PIN_LOW(pin) (0x10u + 2 * (pin))
#define IO_APIC_PIN_HIGH(pin) (0x11u + 2 * (pin))
#define IMCR_INDEX 0x22u
#define IMCR_DATA 0x23u
#define IMCR_SELECT 0x70u
#define IMCR_APIC 0x01u

static uint32_t timer_count;

static uint32_t lapic_read(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC_GVA + reg);
}

static void lapic_write(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(LAPIC_GVA + reg) = value;
}

static void io_apic_write(uint8_t reg, uint32_t value)
{
    *(volatile uint32_t *)(IO_APIC_GVA + IO_APIC_INDEX) = reg;
    *(volatile uint32_t *)(IO_APIC_GVA + IO_APIC_DATA) = value;
}

static void message_send(const struct processor *to, uint32_t what)
{
    lapic_write(LAPIC_ICR_HIGH, (uint32_t)to->apic_id << 24);
    lapic_write(LAPIC_ICR_LOW, what);
    while (lapic_read(LAPIC_ICR_LOW) & ICR_PENDING)
        ;
}

/* The 8254's channel 2 counts once, beside the one that ticks. */
static void delay_us(unsigned us)
{
    enum { GATE = 0x61, CHANNEL2 = 0x42, COMMAND = 0x43, GATE_ON = 1, SPEAKER = 2, OUT = 0x20, ONCE = 0xb0 };
    unsigned count = (unsigned)((uint64_t)us * 1193182 / 1000000);
    out8(GATE, (uint8_t)((in8(GATE) & ~SPEAKER) | GATE_ON));
    out8(COMMAND, ONCE);
    out8(CHANNEL2, (uint8_t)count);
    out8(CHANNEL2, (uint8_t)(count >> 8));
    while (!(in8(GATE) & OUT))
        ;
}

bool apic_has(void)
{
    return lapic_gpa != 0;
}

/* For paging.c: where the registers are to be seen. */
word apic_gpa(word gva)
{
    return gva == LAPIC_GVA ? lapic_gpa : gva == IO_APIC_GVA ? io_apic_gpa : 0;
}

void apic_enable(enum irq irq)
{
    io_apic_write((uint8_t)IO_APIC_PIN_HIGH(pins[irq]), (uint32_t)processors[0].apic_id << 24);
    io_apic_write((uint8_t)IO_APIC_PIN_LOW(pins[irq]), VECTOR_IRQ + irq); /* fixed, edge, high */
}

void apic_eoi(void)
{
    lapic_write(LAPIC_EOI, 0);
}

static void lapic_init(void)
{
    lapic_write(LAPIC_SPURIOUS, SPURIOUS_ENABLE | VECTOR_SPURIOUS);
    lapic_write(LAPIC_LVT_LINT0, LVT_MASKED); /* the 8259 pair: not used any more */
    lapic_write(LAPIC_LVT_LINT1, LVT_MASKED);
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_16);
    if (timer_count == 0) { /* how quick it is: against a clock whose rate is known */
        lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
        lapic_write(LAPIC_TIMER_INITIAL, 0xffffffff);
        delay_us(TICK_MS * 1000);
        timer_count = 0xffffffff - lapic_read(LAPIC_TIMER_CURRENT);
    }
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | VECTOR_TIMER);
    lapic_write(LAPIC_TIMER_INITIAL, timer_count);
    lapic_write(LAPIC_EOI, 0);
}

/* Interrupts that are a processor's own; false: it is not one of them. */
bool processor_interrupt(word vector)
{
    if (vector == VECTOR_SPURIOUS)
        return true;
    if (vector != VECTOR_TIMER && vector != VECTOR_WAKE)
        return false;
    apic_eoi();
    if (vector == VECTOR_TIMER) {
        if (processor_here() == processors)
            timer_tick();
        schedule_wanted = true;
    }
    return true;
}

/* ---- starting and idling ---- */

struct process *idle_here(void)
{
    return &idles[processor_here() - processors];
}

/* The process of who has nothing to do. */
static void idle(void)
{
    for (;;) {
        schedule();
        kernel_unlock();
        interrupts_idle(); /* what wakes it takes the lock, and gives it back */
        kernel_lock();
    }
}

static void idle_make(struct process *p)
{
    p->root = kernel_root;
    p->state = PROCESS_READY;
    memcpy(p->name, "idle", 5);
    word *stack = (word *)(p->kernel_stack + KERNEL_STACK_SIZE);
    *--stack = 0; /* nobody called */
    *--stack = (word)idle;
    for (unsigned i = 0; i < SWITCH_REGISTERS; i++)
        *--stack = 0;
    p->stack_pointer = (word)stack;
}

/* A process has become ready: whoever halts, look. */
void processors_wake(void)
{
    for (struct processor *p = processors; p < processors + processor_count; p++)
        if (p != processor_here() && p->running && p->process == &idles[p - processors])
            message_send(p, ICR_FIXED | VECTOR_WAKE);
}

volatile unsigned startup_number; /* for startup.S: who is being started, and its stack */
word startup_stack;

/* Called by startup.S on the new processor, with flat segments and the kernel mapped to itself. */
void processor_main(void)
{
    unsigned number = startup_number;
    gdt_init(number);
    trap_load();
    paging_load();
    kernel_lock();
    struct processor *here = processor_here();
    here->process = &idles[number];
    lapic_init();
    here->running = true;
    word nowhere;
    context_switch(&nowhere, idles[number].stack_pointer);
}

/* After paging, with interrupts off; the caller has the lock. */
void processors_start(void)
{
    for (unsigned i = 0; i < processor_count; i++)
        idle_make(&idles[i]);
    processors[0].running = true;
    if (!apic_has())
        return;
    if (has_imcr) {
        out8(IMCR_INDEX, IMCR_SELECT);
        out8(IMCR_DATA, IMCR_APIC);
    }
    interrupt_take_over();
    lapic_init();
    unsigned found = processor_count;
    for (unsigned i = 1; i < found; i++) {
        struct processor *p = &processors[i];
        startup_number = i;
        startup_stack = (word)(idles[i].kernel_stack + KERNEL_STACK_SIZE / 2); /* below what idle_make() has left there */
        message_send(p, ICR_INIT_ASSERT);
        delay_us(10000);
        for (unsigned tries = 0; tries < 2 && !p->running; tries++) {
            message_send(p, ICR_STARTUP | STARTUP_GPA >> PAGE_SHIFT);
            kernel_unlock(); /* so that it can come in */
            for (unsigned waited = 0; waited < 100 && !p->running; waited++)
                delay_us(1000);
            kernel_lock();
        }
        if (!p->running)
            panic("processor %u (APIC %u) does not start", i, p->apic_id);
    }
}
#endif
