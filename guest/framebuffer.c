/* Device RAM: the display adapter's memory, which the guest writes like RAM, sees in several places at once, and moves about.
 *
 * What is written at one place is read at the others; base addresses move it and take it away; the window at A0000h is memory while
 * the adapter's registers let bytes through unchanged, and not a moment longer; code that lies there changes when it is written
 * through the other place. Built for both widths, for a flat or identity-mapped address space; it knows the adapter of QEMU's "-vga
 * std" at PCI 0:2.0. */
#include "guest.h"

#define VBE_INDEX 0x1ce
#define VBE_DATA 0x1cf
#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define ADAPTER (0x80000000u | 2u << 11)
#define COMMAND 0x04u
#define BAR0 0x10u
#define ELSEWHERE 0xc4000000u
#define BANK_SIZE 0x10000u

typedef word (*function)(void);

static volatile uint8_t *memory; /* the linear frame buffer */
static volatile uint8_t *const window = (volatile uint8_t *)0xa0000;

static uint32_t pci_read(unsigned offset)
{
    outl(PCI_ADDRESS, ADAPTER | offset);
    return inl(PCI_DATA);
}

static void pci_write(unsigned offset, uint32_t value)
{
    outl(PCI_ADDRESS, ADAPTER | offset);
    outl(PCI_DATA, value);
}

static void vbe(unsigned n, uint16_t value)
{
    outw(VBE_INDEX, (uint16_t)n);
    outw(VBE_DATA, value);
}

static void graphics(unsigned n, uint8_t value)
{
    outw(0x3ce, (uint16_t)(n | value << 8));
}

static uint32_t pattern(uint32_t n)
{
    return n * 2654435761u ^ n >> 3;
}

static void test_places(void)
{
    volatile uint32_t *words = (volatile uint32_t *)memory, *banked = (volatile uint32_t *)window;
    unsigned wrong = 0;
    for (uint32_t i = 0; i < 0x100000; i++)
        words[i] = pattern(i);
    for (uint32_t i = 0; i < 0x100000; i++)
        wrong += words[i] != pattern(i);
    ok_equal(wrong, 0, "4 MiB of the frame buffer keep what is written");
    wrong = 0;
    for (unsigned bank = 0; bank < 64; bank += 9) {
        vbe(5, (uint16_t)bank);
        for (uint32_t i = 0; i < BANK_SIZE / 4; i += 7)
            wrong += banked[i] != pattern(bank * (BANK_SIZE / 4) + i);
        banked[3] = 0x12340000 + bank;
        wrong += words[bank * (BANK_SIZE / 4) + 3] != 0x12340000 + bank;
    }
    ok_equal(wrong, 0, "the banks are the same memory");
    memory[0xffffff] = 0x5a;
    vbe(5, 255);
    ok_equal(window[0xffff], 0x5a, "the last byte is in the last bank");
}

static void test_registers(void)
{
    vbe(5, 2);
    window[0x100] = 0xf0;
    graphics(8, 0x0f); /* the bit mask: the latch's upper half stays */
    (void)window[0x100];
    window[0x100] = 0xaa;
    graphics(8, 0xff);
    ok_equal(window[0x100], 0xfa, "a bit mask turns the window into registers, at once");
    ok_equal(memory[2 * BANK_SIZE + 0x100], 0xfa, "and what they did is in the memory");
    unsigned wrong = 0;
    for (unsigned i = 0; i < 300; i++) { /* back and forth, with translated code in between */
        graphics(3, i & 1 ? 0x18 : 0); /* XOR */
        (void)window[0x200];
        window[0x200] = (uint8_t)i;
        if (!(i & 1))
            wrong += memory[2 * BANK_SIZE + 0x200] != (uint8_t)i;
        else
            wrong += memory[2 * BANK_SIZE + 0x200] != (uint8_t)(i ^ (i - 1));
    }
    graphics(3, 0);
    ok_equal(wrong, 0, "300 changes between memory and registers");
}

/* MOV imm32, EAX; RET. */
static void code_write(volatile uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    for (unsigned i = 0; i < 4; i++)
        at[1 + i] = (uint8_t)(value >> (8 * i));
    at[5] = 0xc3;
}

static word code_call(volatile uint8_t *at)
{
    uint32_t a = 0, c = 0;
    __asm__ volatile("cpuid" : "+a"(a), "+c"(c) : : "ebx", "edx", "memory"); /* for what another mapping wrote */
    return ((function)(uintptr_t)at)();
}

static void test_code(void)
{
    unsigned wrong = 0;
    volatile uint8_t *code = memory + 3 * BANK_SIZE + 0x400;
    vbe(5, 3);
    for (unsigned round = 0; round < 8; round++) {
        code_write(round & 1 ? window + 0x400 : code, 0x1000 + round);
        for (unsigned i = 0; i < 40; i++)
            wrong += code_call(code) != 0x1000 + round || code_call(window + 0x400) != 0x1000 + round;
    }
    ok_equal(wrong, 0, "code there is what was written last, at either place");
    /* The bank is another one now: so is the code. */
    code_write(memory + 4 * BANK_SIZE + 0x400, 0x2222);
    vbe(5, 4);
    ok_equal(code_call(window + 0x400), 0x2222, "code in the window changes with the bank");
}

static void test_moving(void)
{
    uint32_t before = pci_read(BAR0);
    volatile uint8_t *there = (volatile uint8_t *)(uintptr_t)ELSEWHERE;
    memory[0x1234] = 0x77;
    pci_write(BAR0, ELSEWHERE);
    ok_equal(there[0x1234], 0x77, "a base address moves it");
    ok_equal(memory[0x1234], 0xff, "nothing is left behind");
    there[0x1234] = 0x78;
    pci_write(COMMAND, pci_read(COMMAND) & ~2u);
    ok_equal(there[0x1234], 0xff, "without memory decoding it is nowhere");
    pci_write(BAR0, before);
    pci_write(COMMAND, pci_read(COMMAND) | 2);
    ok_equal(memory[0x1234], 0x78, "and is back with what it had");
    unsigned wrong = 0;
    for (unsigned i = 0; i < 200; i++) {
        pci_write(BAR0, i & 1 ? before : ELSEWHERE);
        volatile uint8_t *now = i & 1 ? memory : there;
        wrong += now[0x2000] != (i == 0 ? now[0x2000] : (uint8_t)i);
        now[0x2000] = (uint8_t)(i + 1);
    }
    ok_equal(wrong, 0, "200 moves");
}

void test_main(void)
{
    if (pci_read(0) != 0x11111234) {
        skip("there is no display adapter");
        return;
    }
    memory = (volatile uint8_t *)(uintptr_t)(pci_read(BAR0) & ~15u);
    vbe(4, 0);
    vbe(1, 1024);
    vbe(2, 768);
    vbe(3, 32);
    vbe(4, 0x41);
    test_places();
    test_registers();
    test_code();
    test_moving();
}
