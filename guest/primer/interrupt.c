/* Interrupts of devices: the pair of 8259 interrupt controllers.
 *
 * Fifteen lines come together here. The controllers choose the most urgent one that is not masked and raise the
 * processor's one interrupt pin; the processor asks for the vector. Until it is told that the interrupt has been dealt
 * with (EOI), a controller holds back everything that is less urgent.
 *
 * After power-on the vectors collide with the processor's exceptions, an old mistake of the PC; so the first thing that
 * every system does is to move them, by the four initialisation words that follow each other through the same ports.
 *
 * Intel 8259A data sheet. */
#include "kernel.h"

#define PIC1_COMMAND 0x20u
#define PIC1_DATA 0x21u
#define PIC2_COMMAND 0xa0u
#define PIC2_DATA 0xa1u
#define ICW1_INIT_ICW4 0x11u
#define ICW3_CASCADE 2u /* the second controller is at line 2 of the first */
#define ICW4_8086 0x01u
#define OCW2_EOI 0x20u

#ifdef WHOLE_PC
static bool taken_over;
#endif
static uint16_t mask = 0xffff & ~(1u << ICW3_CASCADE);

static void mask_write(void)
{
    out8(PIC1_DATA, (uint8_t)mask);
    out8(PIC2_DATA, (uint8_t)(mask >> 8));
}

void interrupt_init(void)
{
    out8(PIC1_COMMAND, ICW1_INIT_ICW4);
    out8(PIC2_COMMAND, ICW1_INIT_ICW4);
    out8(PIC1_DATA, VECTOR_IRQ);
    out8(PIC2_DATA, VECTOR_IRQ + 8);
    out8(PIC1_DATA, 1u << ICW3_CASCADE);
    out8(PIC2_DATA, ICW3_CASCADE);
    out8(PIC1_DATA, ICW4_8086);
    out8(PIC2_DATA, ICW4_8086);
    mask_write();
}

void interrupt_enable(enum irq irq)
{
#ifdef WHOLE_PC
    if (taken_over) {
        apic_enable(irq);
        return;
    }
#endif
    mask &= (uint16_t)~(1u << irq);
    mask_write();
}

#ifdef WHOLE_PC
/* The timer's line stays behind: each processor has a timer of its own now. */
void interrupt_take_over(void)
{
    taken_over = true;
    for (unsigned irq = IRQ_TIMER + 1; irq < 16; irq++)
        if (irq != ICW3_CASCADE && !(mask & 1u << irq))
            apic_enable((enum irq)irq);
    mask = 0xffff;
    mask_write();
}
#endif

/* The controllers are told first, so that what a handler makes the device do is seen as a new interrupt; nothing can come
 * in before the IRET. */
void interrupt(unsigned irq)
{
#ifdef WHOLE_PC
    if (taken_over)
        apic_eoi();
    else
#endif
    {
        if (irq >= 8)
            out8(PIC2_COMMAND, OCW2_EOI);
        out8(PIC1_COMMAND, OCW2_EOI);
    }
    switch (irq) {
    case IRQ_TIMER:
        timer_tick();
        break;
    case IRQ_KEYBOARD:
        keyboard_interrupt();
        break;
    case IRQ_SERIAL:
        serial_interrupt();
        break;
#ifdef WHOLE_PC
    case IRQ_DISK:
        disk_interrupt();
        break;
#endif
    default: /* a line that went away before it could be asked for: nothing to do */
        break;
    }
}
