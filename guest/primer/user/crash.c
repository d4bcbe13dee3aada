/* What a program may not do, each in a child of its own. The kernel ends it, says why, and lives. */
#include "lib.h"

#ifdef __x86_64__
#define STACK_POINTER "rsp"
#else
#define STACK_POINTER "esp"
#endif

static void null_read(void)
{
    (void)*(volatile int *)0;
}

static void kernel_write(void)
{
    *(volatile int *)0x100000 = 0;
}

static void code_write(void)
{
    *(volatile int *)null_read = 0;
}

static void privileged(void)
{
    __asm__ volatile("cli");
}

static void port(void)
{
    __asm__ volatile("outb %%al, $0x64" ::"a"(0xfe)); /* would be a reset */
}

static void divide(void)
{
    __asm__ volatile("xor %%edx, %%edx; div %%edx" ::"a"(1) : "edx", "cc");
}

static void undefined(void)
{
    __asm__ volatile("ud2");
}

static void floating_point(void)
{
    __asm__ volatile("fld1");
}

static void trace(void)
{
    __asm__ volatile("pushf; orl $0x100, (%%" STACK_POINTER "); popf; nop" ::: "cc", "memory");
}

static void segments(void)
{
#ifndef __x86_64__
    __asm__ volatile("xor %%eax, %%eax; mov %%eax, %%ds; mov %%eax, %%es; mov $9, %%eax; int $0x80" ::: "eax", "memory");
#endif
    exit(7); /* the kernel was not disturbed */
}

static void popf_interrupts(void)
{
    __asm__ volatile("pushf; andl $~0x200, (%%" STACK_POINTER "); popf" ::: "cc", "memory"); /* IF does not change, and nothing says so */
    sleep(20); /* the timer still works */
    for (unsigned long start = time(); time() - start < 50;)
        ;
    exit(8);
}

static const struct {
    const char *name;
    void (*run)(void);
    int status;
} cases[] = {
    {"reading at 0", null_read, STATUS_KILLED + 14},
    {"writing the kernel", kernel_write, STATUS_KILLED + 14},
    {"writing its own code", code_write, STATUS_KILLED + 14},
    {"CLI", privileged, STATUS_KILLED + 13},
    {"OUT", port, STATUS_KILLED + 13},
    {"dividing by 0", divide, STATUS_KILLED + 0},
    {"UD2", undefined, STATUS_KILLED + 6},
    {"floating point", floating_point, STATUS_KILLED + 7},
    {"the trap flag", trace, STATUS_KILLED + 1},
    {"null segments", segments, 7},
    {"POPF without IF", popf_interrupts, 8},
};

int main(int argc, char **argv)
{
    int failed = 0;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int status = -1, pid = fork();
        if (pid == 0) {
            cases[i].run();
            exit(99);
        }
        wait(&status, 0);
        printf("%s - %s: status %d\n", status == cases[i].status ? "ok" : "not ok", cases[i].name, status);
        failed += status != cases[i].status;
    }
    printf("crash: %s\n", failed == 0 ? "passed" : "failed");
    return failed != 0;
}
