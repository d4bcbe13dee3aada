/* Exceptions: the IDT, and what to do when the processor comes into the kernel.
 *
 * The IDT has a gate for each of 256 vectors: exceptions below 32, the sixteen lines of the interrupt controllers from
 * 20h, and INT 80h for system calls, the only one that user mode may call by name. All are interrupt gates: the
 * processor clears the interrupt flag as it comes in and IRET brings it back, so the kernel is not interrupted unless it
 * wants to be. (In the paravirtual build the system call's is a trap gate; privileged.h says why.)
 *
 * Before the way back, if that leads to user mode, is the moment to do what has become due: to give the processor to
 * somebody else, or to end a process that has been killed.
 *
 * SDM vol. 3, chapter 6. */
#include "kernel.h"
#include "privileged.h"

#define GATE_INTERRUPT 0x8eu
#define GATE_TRAP 0x8fu
#define GATE_USER 0x60u /* DPL 3 */

struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
#ifdef __x86_64__
    uint32_t offset_high, reserved;
#endif
};
static struct gate idt[256];

static void gate_set(unsigned vector, uint8_t type)
{
    word handler = (word)vector_stubs + vector * VECTOR_STUB_SIZE;
    idt[vector] = (struct gate){
        .offset_low = (uint16_t)handler,
        .selector = SEL_KCODE,
        .type = type,
        .offset_middle = (uint16_t)(handler >> 16), /* the kernel lies below 4 GiB in both builds */
    };
}

void trap_init(void)
{
    for (unsigned vector = 0; vector < ARRAY_LEN(idt); vector++)
        gate_set(vector, GATE_INTERRUPT);
    gate_set(VECTOR_SYSCALL, (SYSCALL_KEEPS_IF ? GATE_TRAP : GATE_INTERRUPT) | GATE_USER);
    trap_load();
}

void trap_load(void)
{
    struct table_pointer pointer = {.limit = sizeof(idt) - 1, .base = (word)idt};
    __asm__ volatile("lidt %0" ::"m"(pointer));
}

static const char *exception_name(word vector)
{
    static const char *const names[32] = {
        [0] = "divide error",        [1] = "debug exception",       [3] = "breakpoint",
        [4] = "overflow",            [5] = "bound exceeded",        [6] = "invalid opcode",
        [7] = "no coprocessor",      [8] = "double fault",          [10] = "invalid TSS",
        [11] = "segment not present", [12] = "stack fault",         [13] = "general protection fault",
        [14] = "page fault",         [17] = "alignment check",
    };
    return vector < ARRAY_LEN(names) && names[vector] != NULL ? names[vector] : "unexpected interrupt";
}

static void exception(struct frame *f)
{
    word gva = 0;
    if (f->vector == VECTOR_PF) {
        gva = cr2_read();
        if ((f->error & PF_P) && (f->error & PF_W) && paging_copy_shared(gva))
            return; /* the page was shared by fork(): now it is ours, and the write can go on */
    }
    if (!frame_is_user(f))
        panic("%s in the kernel at %lx, error %lx, address %lx", exception_name(f->vector), f->ip, f->error, gva);
    if (f->vector == VECTOR_PF)
        print("%s (%d): page fault at %lx, %s %lx\n", current->name, current->pid, f->ip,
              f->error & PF_W ? "writing" : "reading", gva);
    else
        print("%s (%d): %s at %lx\n", current->name, current->pid, exception_name(f->vector), f->ip);
    process_exit(STATUS_KILLED + (int)f->vector);
}

/* Called by entry32.S, entry64.S. */
void trap(struct frame *f)
{
    bool entered = kernel_enter();
    if (f->vector == VECTOR_SYSCALL)
        syscall(f);
    else if (f->vector >= VECTOR_IRQ && f->vector < VECTOR_IRQ + 16)
        interrupt((unsigned)f->vector - VECTOR_IRQ);
#ifdef WHOLE_PC
    else if (processor_interrupt(f->vector))
        ;
#endif
    else
        exception(f);
    if (frame_is_user(f)) {
        if (schedule_wanted && !current->killed)
            schedule();
        if (current->killed)
            process_exit(STATUS_KILLED);
    }
    kernel_leave(entered);
}
