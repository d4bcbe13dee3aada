/* Several processors: found in the tables, started by INIT and startup IPIs; locked instructions on contended memory of all
 * kinds; the outcomes that the memory model forbids; code that another processor writes; TLB shootdown; interrupts, NMI and
 * INIT between processors.
 *
 * SDM vol. 3, 8.1 (locked operations, cross-modifying code), 8.2 (memory ordering), 8.4 (start-up), 4.10.5 (shootdown); MP
 * specification 1.4. Oracle: the manual; sums that only atomic operations can give. Arguments: cpus=N, how many there must be;
 * rounds=N, how much is done of everything; reset: only a reset while all run. */
#include "smp.h"

#ifdef __x86_64__
#define X_B "rbx"
#else
#define X_B "ebx"
#endif
#define VECTOR_A 0x41u
#define VECTOR_B 0x52u

static unsigned cpus;
static uint32_t rounds;

static uint64_t argument(const char *name, uint64_t otherwise)
{
    const char *at = strstr(guest_arguments, name);
    uint64_t value = 0;
    if (at == NULL)
        return otherwise;
    for (at += strlen(name); *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

/* ---- who is there ---- */

static volatile uint32_t ids[CPUS_MAX], base_msrs[CPUS_MAX], topology_ids[CPUS_MAX], started[CPUS_MAX];

static void job_identify(unsigned cpu)
{
    ids[cpu] = cpuid(1, 0).ebx >> 24;
    base_msrs[cpu] = (uint32_t)rdmsr(MSR_APIC_BASE);
    topology_ids[cpu] = cpuid(0, 0).eax >= 0xb ? cpuid(0xb, 0).edx : ids[cpu];
    started[cpu]++;
}

static void test_found(void)
{
    uint32_t madt_ids, mp_ids, all = (1u << cpus) - 1;
    ok_equal(smp_count_madt(&madt_ids), cpus, "the MADT lists the processors");
    ok_equal(smp_count_mptable(&mp_ids), cpus, "so does the MP table");
    ok(madt_ids == all && mp_ids == all, "with APIC IDs from 0 (%x, %x)", madt_ids, mp_ids);
    ok_equal(cpuid(1, 0).ebx >> 16 & 0xff, cpus, "CPUID leaf 1 knows how many");
    if (cpuid(0, 0).eax >= 0xb)
        ok_equal(cpuid(0xb, 1).ebx & 0xffff, cpus, "so does leaf 0Bh");
    else
        ok(true, "there is no leaf 0Bh");
    ok_equal(smp_arrivals, 0, "the others wait for a startup IPI");
    ok_equal(smp_start(cpus), cpus, "all answer");
    smp_run(cpus, job_identify);
    for (unsigned i = 0; i < cpus; i++) {
        ok(ids[i] == i && topology_ids[i] == i, "processor %u has its own APIC ID", i);
        ok_equal(base_msrs[i] >> 8 & 1, i == 0, "processor %u %s the bootstrap processor", i, i == 0 ? "is" : "is not");
    }
    for (unsigned i = 1; i < cpus; i++)
        smp_startup(i);
    smp_run(cpus, job_identify);
    ok_equal(smp_arrivals, cpus - 1, "a startup IPI to processors that run does nothing");
}

/* ---- locked instructions ---- */

enum { OP_INC, OP_XADD, OP_ADD, OP_SUB, OP_CMPXCHG, OP_CMPXCHG8B, OP_BTS, OP_XCHG, OP_NOT, OP_COUNT };
static const char *const op_names[] = {"INC", "XADD", "ADD", "SUB", "CMPXCHG", "CMPXCHG8B", "BTS", "XCHG", "NOT"};
static uint32_t *counter;   /* two words */
static uint64_t *wide;      /* eight bytes, for CMPXCHG8B */
static unsigned op;
static volatile uint32_t unlocked_counter;

static void bits_lock(void)
{
    uint8_t held;
    do {
        ASM("lock btsl $3, %0; setc %1" : "+m"(*counter), "=q"(held)::"memory");
        if (held)
            relax();
    } while (held);
}

static void exchange_lock(void)
{
    uint32_t value;
    do {
        value = 1;
        ASM("xchgl %0, %1" : "+r"(value), "+m"(*counter)::"memory");
        if (value != 0)
            relax();
    } while (value != 0);
}

static void add_wide(void)
{
    uint32_t low = (uint32_t)*wide, high = (uint32_t)(*wide >> 32);
    for (uint8_t done = 0; !done;) {
        uint64_t next = ((uint64_t)high << 32 | low) + 0x100000001ull;
        ASM("push %%" X_B "; mov %5, %%ebx; lock cmpxchg8b (%4); pop %%" X_B "; sete %0"
            : "=&q"(done), "+a"(low), "+d"(high)
            : "c"((uint32_t)(next >> 32)), "D"(wide), "S"((uint32_t)next)
            : "memory");
    }
}

static void job_count(unsigned cpu)
{
    (void)cpu;
    smp_meet(cpus);
    for (uint32_t n = 0; n < rounds; n++) {
        uint32_t value = 1;
        switch (op) {
        case OP_INC: ASM("lock incl %0" : "+m"(*counter)::"memory"); break;
        case OP_XADD: ASM("lock xaddl %0, %1" : "+r"(value), "+m"(*counter)::"memory"); break;
        case OP_ADD: ASM("lock addl $1, %0" : "+m"(*counter)::"memory"); break;
        case OP_SUB: ASM("lock subl $-1, %0" : "+m"(*counter)::"memory"); break;
        case OP_CMPXCHG:
            for (uint8_t done = 0; !done;) {
                uint32_t old = *(volatile uint32_t *)counter;
                ASM("lock cmpxchgl %3, %1; sete %0" : "=q"(done), "+m"(*counter), "+a"(old) : "r"(old + 1) : "memory");
            }
            break;
        case OP_CMPXCHG8B: add_wide(); break;
        case OP_BTS:
            bits_lock();
            unlocked_counter++;
            ASM("lock btrl $3, %0" : "+m"(*counter)::"memory");
            break;
        case OP_XCHG:
            exchange_lock();
            unlocked_counter++;
            ASM("movl $0, %0" : "=m"(*counter)::"memory");
            break;
        default: ASM("lock notl %0" : "+m"(*counter)::"memory"); break;
        }
    }
}

static void test_counters(void *at, const char *where)
{
    counter = at;
    wide = at;
    for (op = 0; op < OP_COUNT; op++) {
        uint32_t total = cpus * rounds;
        memset(at, 0, 8);
        unlocked_counter = 0;
        smp_run(cpus, job_count);
        switch (op) {
        case OP_CMPXCHG8B: ok_equal(*wide, total * 0x100000001ull, "%s: LOCK %s", where, op_names[op]); break;
        case OP_BTS:
        case OP_XCHG: ok_equal(unlocked_counter, total, "%s: a lock by %s", where, op_names[op]); break;
        case OP_NOT: ok_equal(*counter, total & 1 ? 0xffffffff : 0, "%s: LOCK %s", where, op_names[op]); break;
        default: ok_equal(*counter, total, "%s: LOCK %s", where, op_names[op]); break;
        }
    }
}

#ifdef __x86_64__
static unsigned __int128 *widest;

static void job_widest(unsigned cpu)
{
    (void)cpu;
    smp_meet(cpus);
    for (uint32_t n = 0; n < rounds; n++) {
        uint64_t low = 0, high = 0;
        for (uint8_t done = 0; !done;)
            ASM("lock cmpxchg16b %1; sete %0"
                : "=&q"(done), "+m"(*widest), "+a"(low), "+d"(high)
                : "b"(low + 1), "c"(high + 3)
                : "memory");
    }
}

static void test_widest(void)
{
    static unsigned __int128 value __attribute__((aligned(16)));
    widest = &value;
    value = 0;
    if (!cpu_has_1_ecx(13)) {
        ok(true, "there is no CMPXCHG16B");
        return;
    }
    smp_run(cpus, job_widest);
    ok((uint64_t)value == (uint64_t)cpus * rounds && (uint64_t)(value >> 64) == 3ull * cpus * rounds, "LOCK CMPXCHG16B");
}
#endif

/* A function on a page of its own, which is executed meanwhile, and so is watched. */
static const char job_code[] = {
    '\xb9', 0, 0, 0, 0,         /* mov ecx, count */
    '\xf0', '\xff', '\x02',     /* lock inc dword [edx or rdx] */
    '\xff', '\xc9',             /* dec ecx */
    '\x75', '\xf9',             /* jne to the lock */
    '\xc3',
};
static uint8_t *code_page;

static void call_code(const void *code, void *argument)
{
    ASM("call *%0" ::"r"(code), "d"(argument) : "ecx", "eax", "memory", "cc");
}

static void job_beside_code(unsigned cpu)
{
    (void)cpu;
    smp_meet(cpus);
    call_code(code_page + 64, code_page + 72 + 12); /* in the very line of the code */
}

static void test_beside_code(void)
{
    code_page = page_alloc(1);
    memcpy(code_page + 64, job_code, sizeof job_code);
    uint32_t count = rounds < 2000 ? rounds : 2000;
    memcpy(code_page + 65, &count, 4);
    smp_run(cpus, job_beside_code);
    ok_equal(*(uint32_t *)(void *)(code_page + 84), cpus * count, "LOCK INC beside the code that does it");
}

static void test_locked(void)
{
    uint8_t *pages = page_alloc(4);
    test_counters(pages + 64, "aligned");
    test_counters(pages + 128 - 2, "across lines");
    test_counters(pages + PAGE - 3, "across pages");
#ifdef __x86_64__
    /* Two pages side by side in linear memory that are not in physical memory, and the other way round. */
    word view = 0x20000000000ul;
    *pte(view, 1) = (word)(pages + 3 * PAGE) | PTE_P | PTE_W | PTE_U;
    *pte(view + PAGE, 1) = (word)(pages + PAGE) | PTE_P | PTE_W | PTE_U;
    test_counters((void *)(view + PAGE - 1), "across pages that lie apart");
    test_widest();
#endif
    test_beside_code();
}

/* ---- memory ordering ---- */

#define CELLS 512u
static volatile uint32_t cell_x[CELLS][16], cell_y[CELLS][16], seen[4][CELLS];
static unsigned litmus;
enum { LITMUS_SB_FENCED, LITMUS_SB, LITMUS_SB_LOCKED, LITMUS_MP, LITMUS_LB, LITMUS_IRIW, LITMUS_COUNT };

static uint32_t fetch(volatile uint32_t *at)
{
    uint32_t value;
    ASM("movl %1, %0" : "=r"(value) : "m"(*at) : "memory");
    return value;
}

static void put(volatile uint32_t *at)
{
    ASM("movl $1, %0" : "=m"(*at)::"memory");
}

static void job_litmus(unsigned cpu)
{
    smp_meet(litmus == LITMUS_IRIW ? 4 : 2);
    for (unsigned i = 0; i < CELLS; i++) {
        volatile uint32_t *x = &cell_x[i][0], *y = &cell_y[i][0], *mine = cpu == 0 ? x : y, *other = cpu == 0 ? y : x;
        switch (litmus) {
        case LITMUS_SB_FENCED:
            put(mine);
            ASM("mfence" ::: "memory");
            seen[cpu][i] = fetch(other);
            break;
        case LITMUS_SB:
            put(mine);
            seen[cpu][i] = fetch(other);
            break;
        case LITMUS_SB_LOCKED: {
            uint32_t one = 1;
            ASM("xchgl %0, %1" : "+r"(one), "+m"(*mine)::"memory");
            seen[cpu][i] = fetch(other);
            break;
        }
        case LITMUS_MP:
            if (cpu == 0) {
                put(x);
                put(y);
            } else {
                seen[0][i] = fetch(y);
                seen[1][i] = fetch(x);
            }
            break;
        case LITMUS_LB:
            seen[cpu][i] = fetch(other);
            put(mine);
            break;
        default: /* independent reads of independent writes */
            if (cpu < 2) {
                put(mine);
            } else {
                uint32_t first = fetch(cpu == 2 ? x : y), second = fetch(cpu == 2 ? y : x);
                seen[cpu][i] = first | second << 1;
            }
        }
    }
}

/* The outcome that must not be seen; and, for SB, the one that a processor's store buffer makes possible. */
static bool is_odd(unsigned i)
{
    switch (litmus) {
    case LITMUS_SB_FENCED:
    case LITMUS_SB_LOCKED:
    case LITMUS_SB: return seen[0][i] == 0 && seen[1][i] == 0;
    case LITMUS_MP: return seen[0][i] == 1 && seen[1][i] == 0;
    case LITMUS_LB: return seen[0][i] == 1 && seen[1][i] == 1;
    default: return seen[2][i] == 1 && seen[3][i] == 1; /* each has seen only what it read first */
    }
}

static void test_ordering(void)
{
    static const char *const names[] = {
        "stores with MFENCE are seen before later loads", "store buffers", "stores by XCHG are seen before later loads",
        "stores are seen in order", "loads are not passed by later stores", "stores are seen in one order by all"};
    for (litmus = 0; litmus < LITMUS_COUNT; litmus++) {
        uint32_t odd = 0;
        unsigned wanted = litmus == LITMUS_IRIW ? 4 : 2;
        if (wanted > cpus)
            continue;
        for (uint32_t round = 0; round < rounds / 64 + 4; round++) {
            memset((void *)cell_x, 0, sizeof cell_x);
            memset((void *)cell_y, 0, sizeof cell_y);
            smp_run(wanted, job_litmus);
            for (unsigned i = 0; i < CELLS; i++)
                odd += is_odd(i);
        }
        if (litmus == LITMUS_SB)
            note("loads passed earlier stores %s", odd != 0 ? "sometimes, as they may" : "never");
        else
            ok(odd == 0, "%s", names[litmus]);
    }
}

/* ---- code that another processor writes ---- */

static uint8_t *function; /* mov eax, n; ret */
static volatile uint32_t published, taken, wrong, stop;

static uint32_t call_function(const void *code)
{
    uint32_t value;
    ASM("call *%1" : "=a"(value) : "r"(code) : "memory", "cc");
    return value;
}

static void function_make(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

/* SDM 8.1.3: the writer stores the code, then a flag; the other waits for the flag, serializes, executes. */
static void job_cross_modify(unsigned cpu)
{
    for (uint32_t n = 1; n <= rounds; n++) {
        if (cpu == 0) {
            function_make(function, n);
            ASM("" ::: "memory");
            published = n;
            while (taken != n)
                relax();
        } else {
            while (published != n)
                relax();
            cpuid(0, 0);
            wrong += call_function(function) != n;
            taken = n;
        }
    }
}

/* A just-in-time compiler: code at a place that was never executed is published by a pointer. Every so often a place is used
 * again, by another function. */
static uint8_t *volatile published_code;

static void job_publish(unsigned cpu)
{
    for (uint32_t n = 1; n <= rounds; n++) {
        uint8_t *place = code_page + 16 * (n % 200);
        if (cpu == 0) {
            function_make(place, n);
            ASM("" ::: "memory");
            published_code = place;
            published = n;
            while (taken != n)
                relax();
        } else {
            while (published != n)
                relax();
            cpuid(0, 0);
            wrong += call_function(published_code) != n;
            taken = n;
        }
    }
}

/* An instruction is replaced while others execute it, as operating systems do: its first byte becomes INT3, all others
 * serialize, the rest is written, all serialize, the first byte is written, all serialize. */
static volatile uint32_t breakpoints, syncs, old_value, new_value, calls;

static void on_breakpoint(unsigned cpu, struct smp_regs *regs)
{
    (void)cpu;
    breakpoints++;
    regs->ax = 0xbadbad; /* as if another function had been called */
    regs->ip += 4;       /* behind the instruction */
}

static void on_sync(unsigned cpu, struct smp_regs *regs)
{
    (void)cpu, (void)regs;
    ASM("lock incl %0" : "+m"(syncs)); /* IRET serializes */
}

static void sync_others(void)
{
    syncs = 0;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        ipi(cpu, VECTOR_A);
    while (syncs != cpus - 1)
        relax();
}

static void job_execute(unsigned cpu)
{
    (void)cpu;
    ASM("sti");
    while (!stop) {
        uint32_t least = old_value, value = call_function(function), most = new_value; /* they only grow */
        if ((value < least || value > most) && value != 0xbadbad)
            ASM("lock incl %0" : "+m"(wrong));
        ASM("lock incl %0" : "+m"(calls));
    }
    ASM("cli");
}

static void test_poke(void)
{
    smp_handle(BP, on_breakpoint);
    smp_handle(VECTOR_A, on_sync);
    function = page_alloc(1);
    function_make(function, 1000);
    old_value = new_value = 1000;
    stop = wrong = breakpoints = calls = 0;
    uint32_t pokes = rounds / 20 + 1;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_spawn(cpu, job_execute);
    while (calls < 100)
        relax();
    for (uint32_t n = 1001; n < 1001 + pokes; n++) {
        new_value = n;
        function[0] = 0xcc;
        sync_others();
        memcpy(function + 1, &n, 4);
        sync_others();
        function[0] = 0xb8;
        sync_others();
        old_value = n; /* from here on nobody may see an older one */
    }
    stop = 1;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_join(cpu);
    ok_equal(wrong, 0, "an instruction replaced by way of INT3 is the old or the new one");
    note("%u replacements, %u breakpoints", pokes, breakpoints);
    idt_default(BP);
}

/* Data that is written beside code that others execute. */
static void job_mixed(unsigned cpu)
{
    if (cpu != 0) {
        job_execute(cpu);
        return;
    }
    for (uint32_t n = 0; n < rounds; n++)
        ((volatile uint32_t *)(void *)function)[64 + n % 256] = n;
    stop = 1;
}

static void test_code(void)
{
    function = page_alloc(1);
    published = taken = wrong = 0;
    smp_run(2, job_cross_modify);
    ok_equal(wrong, 0, "cross-modifying code with a serializing instruction");
    code_page = page_alloc(1);
    published = taken = wrong = 0;
    smp_run(2, job_publish);
    ok_equal(wrong, 0, "code that another processor has just made");
    test_poke();
    function_make(function, 5);
    old_value = new_value = 5;
    stop = wrong = 0;
    smp_run(cpus, job_mixed);
    ok_equal(wrong, 0, "data written beside code that others execute");
}

/* ---- TLB shootdown ---- */

#ifdef __x86_64__
#define SHOT 0x21000000000ul
static volatile uint32_t shot, last_seen[CPUS_MAX];

static void on_shootdown(unsigned cpu, struct smp_regs *regs)
{
    (void)cpu, (void)regs;
    invlpg(SHOT);
    ASM("lock incl %0" : "+m"(shot));
}

static void shoot(void)
{
    invlpg(SHOT);
    shot = 0;
    ipi(0, ICR_OTHERS | VECTOR_B);
    while (shot != cpus - 1)
        relax();
}

static void job_read(unsigned cpu)
{
    ASM("sti");
    while (!stop)
        last_seen[cpu] = *(volatile uint32_t *)SHOT;
    ASM("cli");
}

static void job_write(unsigned cpu)
{
    ASM("sti");
    while (!stop) {
        ((volatile uint32_t *)SHOT)[cpu]++;
        last_seen[cpu]++;
    }
    ASM("cli");
}

static void test_shootdown(void)
{
    uint32_t *pages[2] = {page_alloc(1), page_alloc(1)};
    volatile uint64_t *entry = pte(SHOT, 1);
    uint32_t stale = 0, lost = 0;
    pages[0][0] = 1;
    pages[1][0] = 2;
    smp_handle(VECTOR_B, on_shootdown);
    *entry = (word)pages[0] | PTE_P | PTE_W | PTE_U;
    stop = 0;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_spawn(cpu, job_read);
    for (uint32_t n = 0; n < rounds / 10 + 2; n++) {
        *entry = (word)pages[n & 1] | PTE_P | PTE_W | PTE_U;
        shoot();
        for (unsigned cpu = 1; cpu < cpus; cpu++)
            last_seen[cpu] = 0;
        for (unsigned cpu = 1; cpu < cpus; cpu++) {
            uint32_t value;
            while ((value = last_seen[cpu]) == 0)
                relax();
            /* The first may have been read before the shootdown and stored after it; what follows not. */
            last_seen[cpu] = 0;
            while ((value = last_seen[cpu]) == 0)
                relax();
            stale += value != (n & 1) + 1;
        }
    }
    *entry = (word)pages[0] | PTE_P | PTE_W | PTE_U;
    shoot();
    stop = 1;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_join(cpu);
    ok_equal(stale, 0, "after a shootdown nobody uses the old translation");

    stop = 0;
    memset(pages[0], 0, PAGE);
    for (unsigned cpu = 1; cpu < cpus; cpu++) {
        last_seen[cpu] = 0;
        smp_spawn(cpu, job_write);
    }
    for (uint32_t n = 0; n < rounds / 20 + 2; n++) {
        ASM("lock andq %1, %0" : "+m"(*entry) : "r"(~(uint64_t)PTE_D) : "memory");
        shoot();
        for (unsigned cpu = 1; cpu < cpus; cpu++)
            for (uint32_t count = last_seen[cpu]; last_seen[cpu] - count < 2;)
                relax();
        lost += !(*entry & PTE_D);
    }
    stop = 1;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_join(cpu);
    ok_equal(lost, 0, "a page whose D bit was cleared is dirty again after others have written");
    bool all = true;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        all = all && pages[0][cpu] == last_seen[cpu];
    ok(all, "and no write is lost");
}
#endif

/* ---- interrupts ---- */

static volatile uint32_t received[CPUS_MAX], nmis[CPUS_MAX], ticks[CPUS_MAX], balls, running;

static void on_vector(unsigned cpu, struct smp_regs *regs)
{
    (void)regs;
    ASM("lock incl %0" : "+m"(received[cpu]));
}

static void on_nmi(unsigned cpu, struct smp_regs *regs)
{
    (void)regs;
    nmis[cpu]++;
}

/* The ball comes by an interrupt, into HLT, and goes back the same way. */
static void on_ball(unsigned cpu, struct smp_regs *regs)
{
    (void)regs;
    balls++;
    if (balls < rounds)
        ipi(cpu ^ 1, VECTOR_B);
}

static void job_play(unsigned cpu)
{
    smp_meet(2);
    if (cpu == 0)
        ipi(1, VECTOR_B);
    while (balls < rounds) {
        ASM("cli");
        if (balls < rounds)
            ASM("sti; hlt");
        ASM("sti");
        /* The last ball wakes only one of the two. */
        if (balls >= rounds)
            ipi(cpu ^ 1, VECTOR_A);
    }
    ASM("cli");
}

static void job_halt(unsigned cpu)
{
    (void)cpu;
    ASM("lock incl %0" : "+m"(running));
    while (!stop)
        ASM("sti; hlt; cli" ::: "memory");
}

static void job_spin(unsigned cpu)
{
    (void)cpu;
    for (;;)
        ASM("lock incl %0" : "+m"(running)); /* with interrupts off */
}

static bool wait_for(volatile uint32_t *what, uint32_t value)
{
    for (unsigned n = 0; n < 1000000000u && *what != value; n++)
        relax();
    return *what == value;
}

static void set_logical(unsigned cpu)
{
    apic_set(APIC_LDR, 1u << (24 + cpu));
}

static void test_fixed(void)
{
    smp_handle(VECTOR_A, on_vector);
    stop = running = 0;
    smp_run(cpus, set_logical);
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_spawn(cpu, job_halt);
    wait_for(&running, cpus - 1);
    ipi(1, VECTOR_A);
    ok(wait_for(&received[1], 1), "a fixed interrupt to one processor, halted");
    ipi(0, ICR_OTHERS | VECTOR_A);
    bool all = wait_for(&received[1], 2);
    for (unsigned cpu = 2; cpu < cpus; cpu++)
        all = wait_for(&received[cpu], 1) && all;
    ok(all && received[0] == 0, "to all but itself");
    ipi(2, ICR_LOGICAL | VECTOR_A); /* bit 1: processor 1 */
    ok(wait_for(&received[1], 3), "to a logical destination");
    uint32_t before = 0, after = 0;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        before += received[cpu];
    ipi(0xfe, ICR_LOGICAL | ICR_LOWEST | VECTOR_A); /* one of the others */
    for (unsigned n = 0; n < 1000000000u && after != before + 1; n++) {
        after = 0;
        for (unsigned cpu = 1; cpu < cpus; cpu++)
            after += received[cpu];
    }
    ok_equal(after, before + 1, "lowest priority goes to one of several");
    smp_handle(NMI, on_nmi);
    ipi(1, ICR_NMI);
    ok(wait_for(&nmis[1], 1), "NMI to a halted processor");
    stop = 1;
    ipi(0, ICR_OTHERS | VECTOR_A);
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_join(cpu);
}

static void test_init(void)
{
    running = 0;
    smp_spawn(1, job_spin);
    while (running < 1000)
        relax();
    ipi(1, ICR_NMI);
    ok(wait_for(&nmis[1], 2), "NMI to one that runs with interrupts off");
    uint32_t arrivals = smp_arrivals;
    smp_init(1);
    /* It stops within bounded time: then its counter stays. */
    uint32_t last, same = 0;
    for (unsigned n = 0; n < 100000000u && same < 100000; n++) {
        last = running;
        relax();
        same = running == last ? same + 1 : 0;
    }
    ok(same >= 100000, "INIT stops a processor");
    smp_startup(1);
    ok(smp_wait_started(arrivals + 1), "a startup IPI starts it again");
    job_fn *job = job_identify;
    uint32_t before = started[1];
    smp_spawn(1, job);
    smp_join(1);
    ok_equal(started[1], before + 1, "and it works as before");
}

static void on_tick(unsigned cpu, struct smp_regs *regs)
{
    (void)regs;
    ticks[cpu]++;
}

static void job_tick(unsigned cpu)
{
    apic_set(APIC_TIMER_DIVIDE, 0xb);
    apic_set(APIC_LVT_TIMER, 0x20000 | VECTOR_B); /* periodic */
    apic_set(APIC_TIMER_INITIAL, 200000 + 10000 * cpu);
    while (ticks[cpu] < 5)
        ASM("sti; hlt; cli" ::: "memory");
    apic_set(APIC_TIMER_INITIAL, 0);
    apic_set(APIC_LVT_TIMER, 0x10000);
}

static volatile uint64_t stamp;
static volatile uint32_t turn, backwards;

static void job_clock(unsigned cpu)
{
    for (uint32_t n = 0; n < rounds; n++) {
        while ((turn & 1) != cpu)
            relax();
        uint64_t now = rdtsc();
        backwards += now < stamp;
        stamp = now;
        ASM("" ::: "memory");
        turn++;
    }
}

static void job_x2apic(unsigned cpu)
{
    (void)cpu;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x400);
}

static void test_x2apic(void)
{
    if (!cpu_has_1_ecx(F1_X2APIC)) {
        ok(true, "there is no x2APIC");
        return;
    }
    smp_run(cpus, job_x2apic);
    stop = running = 0;
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_spawn(cpu, job_halt);
    wait_for(&running, cpus - 1);
    uint32_t before = received[1];
    ipi(1, VECTOR_A);
    ok(smp_self() == 0 && wait_for(&received[1], before + 1), "interrupts by x2APIC");
    stop = 1;
    ipi(0, ICR_OTHERS | VECTOR_A);
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        smp_join(cpu);
}

static void test_interrupts(void)
{
    test_fixed();
    smp_handle(VECTOR_B, on_ball);
    balls = 0;
    smp_run(2, job_play);
    ok_equal(balls, rounds, "interrupts to and fro, into HLT");
    test_init();
    smp_handle(VECTOR_B, on_tick);
    smp_run(cpus, job_tick);
    bool all = true;
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        all = all && ticks[cpu] >= 5;
    ok(all, "every local APIC has its timer");
    smp_run(2, job_clock);
    ok_equal(backwards, 0, "time stamps do not go backwards from one processor to the other");
    test_x2apic();
}

/* The machine is reset while all processors run; memory is as it was, so the second time is known. */
static void test_reset(void)
{
    volatile uint32_t *mark = (volatile uint32_t *)0x3000000;
    if (*mark != 0x5e71e5e7) {
        *mark = 0x5e71e5e7;
        smp_start(cpus);
        running = 0;
        for (unsigned cpu = 1; cpu < cpus; cpu++)
            smp_spawn(cpu, job_spin);
        while (running < 1000)
            relax();
        outb(0xcf9, 6);
        for (;;)
            relax();
    }
    *mark = 0;
    ok_equal(smp_arrivals, 0, "after a reset the others wait for a startup IPI");
    ok_equal(smp_start(cpus), cpus, "and start again");
    smp_run(cpus, job_identify);
    ok_equal(started[cpus - 1], 1, "and work");
}

void test_main(void)
{
    cpus = (unsigned)argument("cpus=", 2);
    rounds = (uint32_t)argument("rounds=", 2000);
    if (cpus < 2 || cpus > CPUS_MAX)
        bail_out("cpus=%u", cpus);
    if (strstr(guest_arguments, "reset") != NULL) {
        test_reset();
        return;
    }
    test_found();
    test_locked();
    test_ordering();
    test_code();
#ifdef __x86_64__
    test_shootdown();
#endif
    test_interrupts();
}
