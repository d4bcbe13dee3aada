/* A kernel with a Multiboot header that says what it was told: lines on port 402h, then the end through port F4h with 0 if
 * all that can be checked here is right. Built with VERSION 1 or 2; with FLAT as a file that is no ELF file and names its
 * addresses in the header; with REQUIRE as one that requires something. Multiboot Specification 0.6.96, Multiboot2
 * Specification 2.0. */
#include <stddef.h>
#include <stdint.h>

extern char load_start[], load_end[], bss_end[];
void entry(void);

#if VERSION == 1
#ifdef FLAT
#define FLAGS 0x10003
#elif defined(REQUIRE)
#define FLAGS 0x8003
#else
#define FLAGS 0x7
#endif
struct header {
    uint32_t magic, flags, checksum;
    const void *header, *load, *load_end, *bss_end;
    void (*entry)(void);
    uint32_t mode, width, height, depth;
};
__attribute__((section(".header"), used)) static const struct header header = {
    0x1badb002, FLAGS, -(0x1badb002u + FLAGS),
#ifdef FLAT
    &header, load_start, load_end, bss_end, entry,
#else
    0, 0, 0, 0, 0,
#endif
    1, 80, 25, 0};
#else
struct tag {
    uint16_t type, flags;
    uint32_t size;
};
static const struct header {
    uint32_t magic, architecture, length, checksum;
    struct tag request;
    uint32_t requested[4];
    struct tag unknown;
#ifdef FLAT
    struct tag address;
    const void *at, *load, *load_end, *bss_end;
    struct tag entry;
    void (*entry_at)(void);
    uint32_t pad;
#endif
    struct tag end;
} header;
__attribute__((section(".header"), used, aligned(8))) static const struct header header = {
    0xe85250d6, 0, sizeof header, -(0xe85250d6u + sizeof header),
    {1, 0, 24},
#ifdef REQUIRE
    {4, 6, 17, 6}, /* EFI's memory map */
#else
    {4, 6, 15, 3},
#endif
    {0x7777, 1, 8}, /* optional: not to be minded */
#ifdef FLAT
    {2, 0, 24}, &header, load_start, load_end, bss_end, {3, 0, 12}, entry, 0,
#endif
    {0, 0, 8}};
#endif

__asm__(".globl entry\n"
        "entry: mov $stack_top, %esp\n"
        "push $0\n popf\n"
        "push %ebx\n push %eax\n call main\n"
        ".bss\n .align 16\n stack: .skip 8192\n stack_top:\n .text\n");

static volatile uint32_t zeros[64]; /* bss: must be zero */
volatile uint32_t data = 0x12345678;

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("out %0, %1" : : "a"(value), "Nd"(port));
}

static void text(const char *s)
{
    while (*s != 0)
        out8(0x402, (uint8_t)*s++);
}

static void number(uint32_t n)
{
    text("0x");
    for (int shift = 28; shift >= 0; shift -= 4)
        out8(0x402, (uint8_t)"0123456789abcdef"[n >> shift & 15]);
}

static void line(const char *name, uint32_t n)
{
    text(name);
    text("=");
    number(n);
    text("\n");
}

static void words(const char *name, const char *s)
{
    text(name);
    text("=");
    text(s);
    text("\n");
}

static void *pointer(uint32_t gpa)
{
    return (void *)(uintptr_t)gpa;
}

static void module(uint32_t start, uint32_t end, const char *string)
{
    words("module", string);
    line("module size", end - start);
    line("module aligned", (start & 4095) == 0);
    text("module text=");
    for (uint32_t i = start; i < end && i < start + 16; i++)
        out8(0x402, *(const uint8_t *)pointer(i));
    text("\n");
}

/* ELF section headers, 32 bits: the names are to be found at the addresses. */
static void sections(uint32_t count, uint32_t size, uint32_t names, const uint8_t *table)
{
    uint32_t found = 0;
    const char *strings = pointer(*(const uint32_t *)(table + names * size + 12));
    for (uint32_t i = 1; i < count; i++) {
        const uint32_t *s = (const uint32_t *)(table + i * size);
        const char *name = strings + s[0];
        if (name[0] == '.' && name[1] == 's' && name[2] == 'y' && name[3] == 'm' && s[3] != 0 && s[5] != 0)
            found = 1;
    }
    line("symbols", found);
}

static void map_entry(uint64_t base, uint64_t length, uint32_t type)
{
    if (base == 0x100000) {
        line("ram from 1M", (uint32_t)length);
        line("ram type", type);
    }
}

#if VERSION == 1
static void tell(uint32_t info)
{
    const uint32_t *i = pointer(info);
    line("flags", i[0]);
    line("lower", i[1]);
    line("upper", i[2]);
    words("cmdline", pointer(i[4]));
    line("modules", i[5]);
    for (uint32_t n = 0; n < i[5]; n++) {
        const uint32_t *m = (const uint32_t *)pointer(i[6]) + 4 * n;
        module(m[0], m[1], pointer(m[2]));
    }
    if (i[0] & 1u << 5)
        sections(i[7], i[8], i[10], pointer(i[9]));
    for (uint32_t at = i[12]; at < i[12] + i[11]; at += *(const uint32_t *)pointer(at) + 4) {
        const uint32_t *e = pointer(at);
        map_entry(e[1] | (uint64_t)e[2] << 32, e[3] | (uint64_t)e[4] << 32, e[5]);
    }
    if (i[0] & 1u << 9)
        words("loader", pointer(i[16]));
}
#else
static uint32_t sum(const uint8_t *bytes, uint32_t size)
{
    uint32_t total = 0;
    while (size-- > 0)
        total += *bytes++;
    return total & 0xff;
}

static void tell(uint32_t info)
{
    const uint32_t *end = pointer(info + *(const uint32_t *)pointer(info));
    line("aligned", (info & 7) == 0);
    for (const uint32_t *t = pointer(info + 8); t < end && t[0] != 0; t = pointer(((uint32_t)(uintptr_t)t + t[1] + 7) & ~7u)) {
        switch (t[0]) {
        case 1: words("cmdline", (const char *)(t + 2)); break;
        case 2: words("loader", (const char *)(t + 2)); break;
        case 3: module(t[2], t[3], (const char *)(t + 4)); break;
        case 4: line("lower", t[2]), line("upper", t[3]); break;
        case 6:
            for (uint32_t at = 16; at < t[1]; at += t[2]) {
                const uint64_t *e = (const uint64_t *)((const uint8_t *)t + at);
                map_entry(e[0], e[1], (uint32_t)e[2]);
            }
            break;
        case 9: sections(t[2], t[3], t[4], (const uint8_t *)(t + 5)); break;
        case 14: line("rsdp 1 sum", sum((const uint8_t *)(t + 2), 20)); break;
        case 15: line("rsdp 2 sum", sum((const uint8_t *)(t + 2), 36)); break;
        default: break;
        }
    }
}
#endif

__attribute__((used)) void main(uint32_t magic, uint32_t info)
{
    uint32_t cr0, any = 0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    for (unsigned i = 0; i < 64; i++)
        any |= zeros[i];
    line("magic", magic);
    line("cr0", cr0 & 0x80000001);
    line("bss", any);
    line("data", data);
    tell(info);
    out8(0xf4, 0);
    for (;;)
        __asm__ volatile("hlt");
}
