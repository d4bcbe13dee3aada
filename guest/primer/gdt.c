/* Segments: the GDT and the TSS.
 *
 * The x86 cannot do without segments, so everybody makes them say nothing: base 0, limit 4 GiB, and all protection is
 * left to paging. What remains of them is the privilege level: code runs in user mode because CS names a descriptor of
 * level 3.
 *
 * One choice is worth a thought. On an interrupt the processor loads CS and SS; DS and ES stay as they were. Most kernels
 * load their own then. But a data segment of level 3 may be used from level 0 as well, and ours are all alike; so this
 * kernel uses the user's DS and ES and never loads any. That saves two instructions for each system call, and under a
 * classical monitor much more: a load of a segment register works in user mode without a fault, with the wrong
 * meaning, and must be found and patched.
 *
 * The TSS is what is left of the hardware's tasks: it says which stack the kernel has when it is entered from user mode
 * (changed at each switch, schedule.c), and which ports user mode may touch. That is one: 402h, the debug console, for
 * the marks by which a program tells an observer where its measurement begins and ends.
 *
 * SDM vol. 3, chapter 3 (descriptors), 8.2 and 8.7 (TSS); vol. 1, 19.5.2 (I/O permission bitmap). */
#include "kernel.h"

#ifdef __x86_64__
#define CODE_FLAGS 0x00afull << 48 /* G, L, limit fffff pages */
#define TSS_STACK(tss) (tss).rsp0
#else
#define CODE_FLAGS 0x00cfull << 48 /* G, D, limit fffff pages */
#define TSS_STACK(tss) (tss).esp0
#endif
#define DATA_FLAGS 0x00cfull << 48
#define LIMIT_LOW 0xffffull
#define ACCESS(byte) ((byte##ull) << 40)
#define TSS_AVAILABLE ACCESS(0x89)

uint64_t gdt[SEL_TSS / 8 + PROCESSOR_MAX * SEL_TSS_STEP / 8] = {
    [SEL_KCODE / 8] = CODE_FLAGS | ACCESS(0x9a) | LIMIT_LOW,
    [SEL_KDATA / 8] = DATA_FLAGS | ACCESS(0x92) | LIMIT_LOW,
    [SEL_UCODE / 8] = CODE_FLAGS | ACCESS(0xfa) | LIMIT_LOW,
    [SEL_UDATA / 8] = DATA_FLAGS | ACCESS(0xf2) | LIMIT_LOW,
};

/* For LGDT, in boot.S as well. */
const struct table_pointer gdt_pointer = {.limit = sizeof(gdt) - 1, .base = (word)gdt};

#define PORT_BITMAP_BYTES (PORT_MARK / 8 + 1)

static struct {
#ifdef __x86_64__
    uint32_t reserved0;
    uint64_t rsp0, rsp1, rsp2, reserved1, ist[7], reserved2;
    uint16_t reserved3;
#else
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, registers[8], segments[6], ldt;
    uint16_t trap;
#endif
    uint16_t port_bitmap_offset;
    uint8_t port_bitmap[PORT_BITMAP_BYTES]; /* a bit that is set forbids */
    uint8_t end;                            /* ones: the processor looks at two bytes */
} __attribute__((packed)) tsses[PROCESSOR_MAX];
#ifdef __x86_64__
_Static_assert(offsetof(__typeof__(tsses[0]), port_bitmap) == 104, "SDM vol. 3, figure 8-11");
#else
_Static_assert(offsetof(__typeof__(tsses[0]), port_bitmap) == 104, "SDM vol. 3, figure 8-2");
#endif

void gdt_init(unsigned processor)
{
    __typeof__(&tsses[0]) tss = &tsses[processor];
    unsigned selector = SEL_TSS + processor * SEL_TSS_STEP;
    memset(tss->port_bitmap, 0xff, sizeof(tss->port_bitmap));
    tss->port_bitmap[PORT_MARK / 8] &= (uint8_t)~(1u << PORT_MARK % 8);
    tss->end = 0xff;
    tss->port_bitmap_offset = offsetof(__typeof__(tsses[0]), port_bitmap);
#ifndef __x86_64__
    tss->ss0 = SEL_KDATA;
#endif
    uint64_t base = (word)tss;
    gdt[selector / 8] =
        TSS_AVAILABLE | (sizeof(*tss) - 1) | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56; /* limit in bytes */
    gdt[selector / 8 + 1] = base >> 32;
    __asm__ volatile("ltr %w0" ::"r"(selector));
}

void kernel_stack_set(word top)
{
    TSS_STACK(tsses[processor_number()]) = top;
}
