/* What a monitor does to a machine, seen from inside. tests/machine/monitor_test.sh plays the user.
 *
 *     CONSOLE counter ADDRESS text ADDRESS code ADDRESS     where there is something to look at, by linear address
 *     CONSOLE ready
 *     CONSOLE key XX       a byte of the keyboard, in scan code set 1
 *     CONSOLE button       the power button was pressed
 *     CONSOLE nmi
 *
 * It polls; a counter goes up meanwhile. Esc (01h) ends it. */
#include "guest.h"

#define PM1_STATUS 0x600
#define PM1_ENABLE 0x602
#define PM1_POWER_BUTTON 0x100
#define SMI_COMMAND 0xb2
#define ACPI_ENABLE 0xf1
#define KEY_ESC 0x01

static volatile uint64_t counter;
static const char text[] = "what the monitor shows\n";

/* Ends when a byte of the keyboard waits, or the button was pressed; an NMI ends it, too. */
CODE(wait, "1: incq (%rdi)\n"
           "in $0x64, %al\n"
           "test $1, %al\n"
           "jnz 2f\n"
           "mov $0x600, %edx\n"
           "in %dx, %ax\n"
           "test $0x100, %eax\n"
           "jz 1b\n"
           "2:");

static void keyboard_wait(void)
{
    while (inb(0x64) & 2)
        ;
}

static void keyboard_open(void)
{
    keyboard_wait();
    outb(0x64, 0x60); /* the command byte: translation, no interrupts */
    keyboard_wait();
    outb(0x60, 0x40);
    keyboard_wait();
    outb(0x60, 0xf4); /* enable scanning */
    while (!(inb(0x64) & 1))
        ;
    inb(0x60); /* ACK */
}

void test_main(void)
{
    bool end = false;
    keyboard_open();
    outb(SMI_COMMAND, ACPI_ENABLE);
    outw(PM1_STATUS, PM1_POWER_BUTTON);
    outw(PM1_ENABLE, PM1_POWER_BUTTON);
    print("CONSOLE counter %lx text %lx code %lx\n", (word)&counter, (word)text, (word)wait);
    print("CONSOLE ready\n");
    while (!end) {
        struct trap t = run_kernel(wait, .di = (word)&counter);
        if (t.vector == 2)
            print("CONSOLE nmi\n");
        if (inw(PM1_STATUS) & PM1_POWER_BUTTON) {
            outw(PM1_STATUS, PM1_POWER_BUTTON);
            print("CONSOLE button\n");
        }
        if (inb(0x64) & 1) {
            uint8_t key = inb(0x60);
            print("CONSOLE key %x\n", key);
            end = key == KEY_ESC;
        }
    }
    ok(true, "the user has pressed Esc");
}
