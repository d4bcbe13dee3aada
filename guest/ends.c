/* How a run can end: one of them a boot, chosen by --append. tests/guest/ends.sh knows what must come of each.
 *
 *     exit=N       isa-debug-exit with N
 *     triple       a triple fault in long mode
 *     shutdown-sp  a triple fault for want of a stack
 *     panic        pvpanic
 *     poweroff     ACPI S5 through PM1a
 *     acpi         the same with the sleep type of another state first, which must do nothing
 *     spin, halt   never; for --timeout
 *     cf9, cf9-soft, kbc, port92
 *                  resets; each boot is counted in CMOS RAM, which survives, and printed; the third one exits with 0 */
#include "guest.h"

#define CMOS_COUNT 0x60
#define PM1A_CONTROL 0x604
#define SLP_EN 0x2000

static uint8_t cmos_get(uint8_t index)
{
    outb(0x70, index);
    return inb(0x71);
}

static void cmos_set(uint8_t index, uint8_t value)
{
    outb(0x70, index);
    outb(0x71, value);
}

static bool is(const char *name)
{
    return strcmp(guest_arguments, name) == 0;
}

static void kbc_wait(void)
{
    while (inb(0x64) & 2)
        ;
}

static void reset(void)
{
    if (is("cf9"))
        outb(0xcf9, 0x02), outb(0xcf9, 0x06);
    else if (is("cf9-soft"))
        outb(0xcf9, 0x00), outb(0xcf9, 0x04);
    else if (is("kbc"))
        kbc_wait(), outb(0x64, 0xfe);
    else if (is("port92"))
        outb(0x92, inb(0x92) | 1);
}

/* Things that a reset must undo. */
static void make_a_mess(void)
{
    outb(0x21, 0x55);
    outb(0x43, 0x34);
    cr4_set(cr4_get() | CR4_DE | CR4_PGE);
    dr7_set(0x402);
    wrmsr(MSR_LSTAR, 0x1234);
    *(volatile uint32_t *)0xfee00080 = 0x70;
    memset((void *)0x500, 0xff, 0x100);
}

static void test_resets(void)
{
    uint8_t count = (uint8_t)(cmos_get(CMOS_COUNT) + 1);
    if (count > 1) {
        ok(!(cr4_get() & (CR4_DE | CR4_PGE)) && dr7_get() == 0x400 && rdmsr(MSR_LSTAR) == 0,
           "boot %u: the processor has been reset", count);
        ok(*(volatile uint32_t *)0xfee00080 == 0 && inb(0x21) == 0xfb, "boot %u: so have the chips", count);
    }
    cmos_set(CMOS_COUNT, count);
    ok(true, "boot %u", count);
    if (count == 3)
        finish();
    make_a_mess();
    reset();
    for (;;)
        ASM("hlt");
}

static void power_off(void)
{
    outw(PM1A_CONTROL, SLP_EN);
    for (;;)
        ASM("hlt");
}

void test_main(void)
{
    if (memcmp(guest_arguments, "exit=", 5) == 0) {
        unsigned value = 0;
        for (const char *p = guest_arguments + 5; *p != 0; p++)
            value = value * 10 + (unsigned)(*p - '0');
        outb(0xf4, (uint8_t)value);
    } else if (is("triple")) {
        idt_load(0);
        ASM("ud2");
    } else if (is("shutdown-sp")) {
        ASM("mov %0, %%rsp; push %%rax" ::"r"(0x900000000000));
    } else if (is("panic")) {
        outb(0x505, 1);
    } else if (is("poweroff")) {
        power_off();
    } else if (is("acpi")) {
        outw(PM1A_CONTROL, 5 << 10); /* no SLP_EN */
        power_off();
    } else if (is("spin")) {
        for (;;)
            ;
    } else if (is("halt")) {
        ASM("cli; hlt");
    } else {
        test_resets();
    }
    for (;;)
        ASM("pause");
}
