/* The end: power off, or a status for whoever started the machine.
 *
 * Status 0 is a PC's ordinary end, ACPI's S5, at the place where this board's chip set (PIIX4) has it; a system for every
 * PC would read that place from the ACPI tables. Any other status goes to the debug exit port of monitors, which a real
 * PC does not have; there the machine just stops. */
#include "kernel.h"
#include "privileged.h"

#define PM1A_CONTROL 0x604u
#define PM1_SLEEP_ENABLE 0x2000u /* with sleep type 0: S5 */
#define DEBUG_EXIT 0xf4u

void power_off(int status)
{
    interrupts_off();
    if (status != 0)
        out8(DEBUG_EXIT, (uint8_t)status);
    out16(PM1A_CONTROL, PM1_SLEEP_ENABLE);
    for (;;)
        __asm__ volatile("cli; hlt");
}
