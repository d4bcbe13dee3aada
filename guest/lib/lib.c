/* Tables, and snippets in and out. See guest.h.
 *
 * A gate of the IDT leads to its vector's stub in trap_stubs, where the state at the time of the event is put into
 * trap_now; then run() goes on. With 16-bit gates trap_parse() takes the frame apart in 16-bit pieces. */
#include "guest.h"

#define BOOT_PARAMS_CMD_LINE 0x228

uint64_t gdt[GDT_ENTRIES] __attribute__((aligned(64)));
uint64_t idt[256 * (IS64 ? 2 : 1)] __attribute__((aligned(4096)));
uint8_t tss[8448] __attribute__((aligned(4096)));
static char kernel_stack[16384] __attribute__((used, aligned(4096)));
static char user_stack[8192] __attribute__((used, aligned(4096)));
static char trap_stack[8192] __attribute__((used, aligned(4096)));
__asm__(".globl kernel_stack_top\n.set kernel_stack_top, kernel_stack + 16384 - 64\n"
        ".globl user_stack_top\n.set user_stack_top, user_stack + 8192 - 64\n"
        ".globl trap_stack_top\n.set trap_stack_top, trap_stack + 8192 - 64\n");

const char *guest_arguments = "";
struct trap trap_now;
extern const char run_iret[];

struct __attribute__((packed)) table_pointer {
    uint16_t limit;
    word base;
};

/* ---- strings and memory ---- */

void *memset(void *to, int byte, size_t size)
{
    char *p = to;
    while (size-- > 0)
        *p++ = (char)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    char *p = to;
    const char *q = from;
    while (size-- > 0)
        *p++ = *q++;
    return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const unsigned char *p = a, *q = b;
    for (; size > 0; p++, q++, size--)
        if (*p != *q)
            return *p - *q;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n] != 0)
        n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    for (; *a != 0 && *a == *b; a++, b++)
        ;
    return *a - *b;
}

const char *strstr(const char *s, const char *find)
{
    size_t n = strlen(find);
    for (; *s != 0; s++) {
        size_t i = 0;
        while (i < n && s[i] == find[i])
            i++;
        if (i == n)
            return s;
    }
    return NULL;
}

void *page_alloc_aligned(word size, word alignment)
{
    static word next = 16 * MiB;
    next = (next + alignment - 1) & ~(alignment - 1);
    void *at = (void *)next;
    next += size;
    return memset(at, 0, size);
}

void *page_alloc(unsigned count)
{
    return page_alloc_aligned(count * PAGE, PAGE);
}

/* ---- descriptor tables ---- */

uint64_t descriptor(word base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24 & 0xff) << 56;
}

uint16_t gdt_put(unsigned n, uint64_t value)
{
    gdt[SEL_FREE / 8 + n] = value;
    return (uint16_t)(SEL_FREE + 8 * n);
}

void gdt_load(void)
{
    struct table_pointer pointer = {sizeof gdt - 1, (word)gdt};
    ASM("lgdt %0" ::"m"(pointer) : "memory");
}

void idt_load(word limit)
{
    struct table_pointer pointer = {(uint16_t)limit, (word)idt};
    ASM("lidt %0" ::"m"(pointer) : "memory");
}

void idt_set(unsigned vector, const struct gate_spec *s)
{
    uint64_t low = (s->offset & 0xffff) | (uint64_t)s->selector << 16 | (uint64_t)s->ist << 32 |
                   (uint64_t)(s->type | s->dpl << 5 | (s->absent ? 0 : 0x80)) << 40 |
                   (uint64_t)(s->offset >> 16 & 0xffff) << 48;
#ifdef __x86_64__
    idt[2 * vector] = low;
    idt[2 * vector + 1] = s->offset >> 32;
#else
    idt[vector] = low;
#endif
}

void idt_default(unsigned vector)
{
    bool user = vector == BP || vector == OF || vector == DONE;
    idt_set(vector,
            &(struct gate_spec){
                .offset = (word)trap_stubs + 16 * vector, .selector = SEL_KCODE, .type = 0xe, .dpl = user ? 3 : 0});
}

void tss_set_sp0(word sp)
{
    memcpy(tss + 4, &sp, sizeof sp);
    if (!IS64)
        tss[8] = SEL_KDATA;
}

static void tables_init(void)
{
    gdt[SEL_KCODE / 8] = descriptor(0, 0xfffff, 0x9b, IS64 ? 0xa : 0xc);
    gdt[SEL_KDATA / 8] = descriptor(0, 0xfffff, 0x93, 0xc);
    gdt[SEL_UCODE32 / 8] = descriptor(0, 0xfffff, 0xfb, 0xc);
    gdt[SEL_UDATA / 8] = descriptor(0, 0xfffff, 0xf3, 0xc);
    gdt[SEL_UCODE64 / 8] = descriptor(0, 0xfffff, 0xfb, IS64 ? 0xa : 0xc);
    gdt[SEL_UDATA2 / 8] = descriptor(0, 0xfffff, 0xf3, 0xc);
    gdt[SEL_KCODE32 / 8] = descriptor(0, 0xfffff, 0x9b, 0xc);
    gdt[SEL_KCODE16 / 8] = descriptor(0, 0xffff, 0x9b, 0);
    gdt[SEL_KDATA16 / 8] = descriptor(0, 0xffff, 0x93, 0);
    gdt[SEL_TSS / 8] = descriptor((word)tss, IS64 ? 0x67 : 0x2067, 0x89, 0);
    gdt[SEL_TSS / 8 + 1] = 0;
    gdt_load();
    for (unsigned vector = 0; vector < 256; vector++)
        idt_default(vector);
    idt_load(IDT_LIMIT);
    tss_set_sp0((word)trap_stack_top);
    tss[0x66] = 0x68; /* I/O map: none beyond the limit */
    if (!IS64) {
        tss[0x66] = 0x88; /* room for the interrupt redirection map below; everything is forbidden */
        memset(tss + 0x68, 0xff, sizeof tss - 0x68);
    }
    ASM("ltr %w0" ::"r"(SEL_TSS));
#ifdef __x86_64__
    ASM("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs; pushq %2; pushq $1f; lretq; 1:" ::"r"(
            SEL_KDATA),
        "r"(0), "i"(SEL_KCODE)
        : "memory");
#else
    ASM("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs; ljmp %2, $1f; 1:" ::"r"(SEL_KDATA),
        "r"(0), "i"(SEL_KCODE)
        : "memory");
#endif
}

/* ---- paging ---- */

#ifdef __x86_64__
uint64_t *pte(word gva, unsigned level)
{
    uint64_t *table = (uint64_t *)(cr3_get() & ~0xffful);
    for (unsigned l = 4;; l--) {
        uint64_t *entry = &table[gva >> (12 + 9 * (l - 1)) & 511];
        if (l == level)
            return entry;
        if (!(*entry & PTE_P))
            *entry = (word)page_alloc(1) | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*entry & 0xffffffffff000ull);
    }
}

static void user_window_init(void)
{
    for (word at = 0; at < 64 * MiB; at += 2 * MiB)
        *pte(USER_WINDOW + at, 2) = at | PTE_P | PTE_W | PTE_U | PTE_PS;
}
#endif

/* ---- snippets ---- */

#ifdef __x86_64__

void run_enter(const word *image);

static void trap_parse(struct trap *t)
{
    /* The frame starts on a multiple of 16; so its length shows whether there is an error code: INT n never has one. */
    word *p = (word *)t->frame;
    memcpy(t->raw, p, sizeof t->raw);
    t->has_error = (t->frame & 15) == 0;
    t->error = t->has_error ? *p++ : 0;
    t->regs.ip = p[0];
    t->regs.cs = p[1];
    t->regs.flags = p[2];
    t->regs.sp = p[3];
    t->regs.ss = p[4];
}

static void enter(const struct regs *r)
{
    const word image[] = {r->ds, r->es, r->fs, r->gs, r->r15, r->r14, r->r13, r->r12, r->r11, r->r10,   r->r9, r->r8,
                          r->di, r->si, r->bp, r->bx, r->dx,  r->cx,  r->ax,  r->ip,  r->cs,  r->flags, r->sp, r->ss};
    run_enter(image);
}

#else

void run_enter(const word *image, word ss);

static bool vector_has_error(word vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

static void trap_parse(struct trap *t)
{
    uint64_t ss = gdt[(t->handler_ss & 0xffff) / 8];
    if (!(ss >> 54 & 1))
        t->frame &= 0xffff;
    word at = t->frame + ((ss >> 16 & 0xffffff) | (ss >> 56 << 24));
    const uint32_t *p = (const uint32_t *)at;
    const uint16_t *q = (const uint16_t *)at;
    memcpy(t->raw, p, sizeof t->raw);
    bool narrow = !(idt[t->vector] >> 43 & 1);
    struct regs *r = &t->regs;
    t->has_error = vector_has_error(t->vector);
    unsigned n = t->has_error;
#define SLOT(i) (narrow ? q[(i)] : p[(i)])
    t->error = n ? SLOT(0) : 0;
    r->ip = SLOT(n);
    r->cs = SLOT(n + 1) & 0xffff;
    r->flags = SLOT(n + 2);
    r->ds &= 0xffff;
    r->es &= 0xffff;
    r->fs &= 0xffff;
    r->gs &= 0xffff;
    bool v86 = !narrow && (r->flags & FL_VM);
    if (v86 || (r->cs & 3) > (t->handler_cs & 3)) {
        r->sp = SLOT(n + 3);
        r->ss = SLOT(n + 4) & 0xffff;
    } else {
        r->sp = t->frame + (n + 3) * (narrow ? 2 : 4);
        r->ss = t->handler_ss & 0xffff;
    }
    if (v86) {
        r->es = p[n + 5] & 0xffff;
        r->ds = p[n + 6] & 0xffff;
        r->fs = p[n + 7] & 0xffff;
        r->gs = p[n + 8] & 0xffff;
    }
}

static void enter(const struct regs *r)
{
    bool v86 = r->flags & FL_VM, outer = v86 || (r->cs & 3) != 0;
    word image[] = {v86 ? 0 : r->gs, v86 ? 0 : r->fs, v86 ? 0 : r->es, v86 ? 0 : r->ds, r->di, r->si, r->bp,    0,
                    r->bx,           r->dx,           r->cx,           r->ax,           r->ip, r->cs, r->flags, r->sp,
                    r->ss,           r->es,           r->ds,           r->fs,           r->gs};
    if (outer) {
        run_enter(image, SEL_KDATA);
        return;
    }
    /* At level 0 the frame lies on the snippet's own stack, whose segment has base 0. */
    word size = 15 * sizeof(word);
    word *at = memcpy((void *)(r->sp - size), image, size);
    run_enter(at, r->ss);
}

#endif

word *stack_put(const word *words, unsigned count)
{
    static char places[2][4096] __attribute__((aligned(16)));
    static unsigned turn;
    turn ^= 1;
    return memcpy(places[turn] + 2048, words, count * sizeof *words);
}

struct trap run(const struct regs *regs)
{
    enter(regs);
    struct trap t = trap_now;
    trap_parse(&t);
    if (t.vector == DB)
        t.dr6 = dr6_get();
    return t;
}

void trap_unexpected(void)
{
    struct trap t = trap_now;
    dr7_set(0x400); /* printing must not meet a breakpoint */
    trap_parse(&t);
    trap_print(&t);
    bail_out("an exception outside of a snippet");
}

/* ---- processor ---- */

bool cpu_is_amd(void)
{
    struct cpuid id = cpuid(0, 0);
    return id.ebx == 0x68747541 || id.ebx == 0x6f677948; /* "Auth", "Hygo" */
}

bool cpu_has_7_ebx(unsigned bit)
{
    return cpuid(0, 0).eax >= 7 && (cpuid(7, 0).ebx >> bit & 1);
}

bool cpu_has_1_ecx(unsigned bit)
{
    return cpuid(1, 0).ecx >> bit & 1;
}

void lib_start(const uint8_t *boot_params)
{
    uint32_t line;
    memcpy(&line, boot_params + BOOT_PARAMS_CMD_LINE, sizeof line);
    if (line != 0)
        guest_arguments = (const char *)(word)line;
    tables_init();
#ifdef __x86_64__
    user_window_init();
#endif
    test_main();
    finish();
}
