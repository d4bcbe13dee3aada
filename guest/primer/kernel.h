/* The kernel's parts and what they offer each other, in the order in which README.md visits them.
 *
 * The kernel is not interrupted but where it opens interrupts itself (privileged.h), so what only system calls touch needs
 * no protection; what interrupts touch too is touched with interrupts off. There is one processor, or, in the build for a
 * whole PC, one processor at a time (processors.c).
 */
#ifndef PRIMER_KERNEL_H
#define PRIMER_KERNEL_H

#include <stdarg.h>

#include "arch.h"
#include "format.h"
#include "syscalls.h"

/* ---- text.c: what a C library would have ---- */
void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
void name_copy(char *to, const char *from, size_t size); /* cut where it must be, always with an end */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- gdt.c ---- */
struct table_pointer {
    uint16_t limit;
    word base;
} __attribute__((packed));
extern uint64_t gdt[];
extern const struct table_pointer gdt_pointer;
void gdt_init(unsigned processor);
void kernel_stack_set(word top); /* where the next entry from user mode finds its stack */

/* ---- trap.c ---- */
void trap_init(void);
void trap_load(void); /* the IDT, on one more processor */
void trap(struct frame *f);

/* ---- interrupt.c ---- */
enum irq { IRQ_TIMER = 0, IRQ_KEYBOARD = 1, IRQ_SERIAL = 4, IRQ_DISK = 14 };
void interrupt_init(void);
void interrupt_take_over(void); /* from the 8259 pair to the I/O APIC: what is enabled, and will be */
void interrupt_enable(enum irq irq);
void interrupt(unsigned irq);

/* ---- memory.c: physical pages ---- */
void memory_init(word end);
word page_alloc(void); /* zeroed; 0: there is none */
void page_share(word page);
void page_free(word page); /* once for each that has it */
unsigned page_users(word page);
unsigned pages_free(void);

/* ---- paging.c: address spaces; a root is what CR3 holds ---- */
void paging_init(void);
void paging_load(void); /* the kernel's tables, on one more processor */
word space_create(void); /* the kernel's part; 0: no memory */
void space_destroy(word root);
bool space_add(word root, word gva, word page, bool writable); /* a page for user mode */
word space_copy(word root);                     /* for fork(); 0: no memory */
word space_page(word root, word gva);           /* the physical page at a user address; 0: none */
bool paging_copy_shared(word gva);              /* in the current space; false: it is not a shared page */
/* Whether the current program may be believed about `n` bytes of its memory. */
bool user_may_read(word gva, word n);
bool user_may_write(word gva, word n);
bool user_string(word gva, char *to, size_t size);
extern word kernel_root;

/* ---- process.c ---- */
#define PROCESS_MAX 32
#define FILE_MAX 8
#define NAME_SIZE 16
#define KERNEL_STACK_SIZE 8192
enum process_state { PROCESS_FREE, PROCESS_READY, PROCESS_WAITING, PROCESS_ENDED };
struct open_file {
    const struct file *file; /* NULL: not open */
    word offset;
};
struct process {
    char name[NAME_SIZE]; /* first, for observers: README.md */
    int pid;
    enum process_state state;
    int parent; /* its pid */
    int status;
    bool killed;
    word root;
    struct processor *runs_on; /* whole PC: NULL, or who executes it */
    const void *waits_for;
    uint64_t wakes_at; /* tick; 0: at none */
    word stack_pointer; /* while it does not run */
    struct open_file files[FILE_MAX];
    _Alignas(16) uint8_t kernel_stack[KERNEL_STACK_SIZE];
};
extern struct process processes[PROCESS_MAX];
#ifdef WHOLE_PC
#define current (processor_here()->process)
#else
extern struct process *current;
#endif
void process_start(const char *command); /* number 1 */
int process_fork(const struct frame *f);
_Noreturn void process_exit(int status);
int process_wait(int *status, bool wait);
int process_kill(int pid);

/* ---- processors.c ---- */
#ifdef WHOLE_PC
#define PROCESSOR_MAX 8u
struct processor {
    struct process *process; /* `current`, on this one */
    bool wants_schedule;
    volatile bool running;
    uint8_t apic_id;
};
extern struct processor processors[PROCESSOR_MAX];
extern unsigned processor_count;
static inline unsigned processor_number(void)
{
    word task;
    __asm__ volatile("str %0" : "=r"(task)); /* volatile: whoever has waited may be on another one */
    return (unsigned)(task - SEL_TSS) / SEL_TSS_STEP;
}
static inline struct processor *processor_here(void)
{
    return &processors[processor_number()];
}
void kernel_lock(void);
void kernel_unlock(void);
bool kernel_enter(void); /* true: to be left by kernel_leave() */
static inline void kernel_leave(bool entered)
{
    if (entered)
        kernel_unlock();
}
void processors_find(void);
void processors_start(void);
void processors_wake(void);
void processor_main(void);
bool processor_interrupt(word vector);
struct process *idle_here(void);
bool apic_has(void);
word apic_gpa(word gva);
void apic_enable(enum irq irq);
void apic_eoi(void);
extern const char startup_begin[], startup_end[]; /* startup.S */
#else
#define PROCESSOR_MAX 1u
static inline unsigned processor_number(void)
{
    return 0;
}
static inline bool kernel_enter(void)
{
    return false;
}
static inline void kernel_leave(bool entered)
{
}
static inline void processors_wake(void)
{
}
#endif

/* ---- schedule.c ---- */
#ifdef WHOLE_PC
#define schedule_wanted (processor_here()->wants_schedule)
#else
extern bool schedule_wanted;
#endif
void schedule(void);
void sleep_on(const void *what);
void wake(const void *what);

/* ---- exec.c ---- */
/* Makes the current process run a program; false with everything as it was: there is no such program. */
bool exec(const char *command, struct frame *f);

/* ---- syscall.c ---- */
void syscall(struct frame *f);

/* ---- files.c ---- */
struct volume_entry;
struct file {
    const char *name;
    struct volume_entry *entry;                         /* a file on the disk: volume.c */
    const uint8_t *bytes, *end;                         /* a file in memory */
    word (*make)(char *text, size_t size);              /* or a text made when it is read */
    word (*read)(char *bytes, word n);                  /* or a device; (word)-1: interrupted */
    word (*write)(const char *bytes, word n);
};
const struct file *file_find(const char *name);
word file_read(struct open_file *open, char *bytes, word n);
word file_write(struct open_file *open, const char *bytes, word n);
bool file_is_bytes(const struct file *file);
word file_size(const struct file *file); /* of one that is bytes */
bool file_copy(const struct file *file, word offset, void *to, word n);

/* ---- disk.c, volume.c: in the build for a whole PC ---- */
#define SECTOR 512u
bool disk_init(void);
void disk_interrupt(void);
uint32_t disk_sectors(void);
bool disk_read(uint32_t sector, unsigned from, void *to, unsigned n); /* within one sector */
bool disk_write(uint32_t sector, unsigned at, const void *from, unsigned n);
bool disk_flush(void);
bool volume_mount(void);
const struct file *volume_find(const char *name);
const struct file *volume_at(unsigned i); /* NULL: that is one too many; its name may be empty */
const struct file *volume_create(const char *name);
bool volume_remove(const char *name);
word volume_size(const struct volume_entry *entry);
bool volume_read(const struct volume_entry *entry, word offset, void *to, word n);
word volume_write(struct volume_entry *entry, word offset, const void *from, word n);
void volume_close(struct volume_entry *entry);

/* ---- timer.c ---- */
#define TICK_MS 10u
void timer_init(void);
void timer_tick(void);
uint64_t timer_now(void); /* ticks since the start */
void timer_sleep(uint64_t ms);

/* ---- keyboard.c, screen.c, serial.c, console.c ---- */
void keyboard_init(void);
void keyboard_interrupt(void);
void screen_init(void);
void screen_put(char c);
void screen_show_cursor(void);
word screen_write(const char *bytes, word n);
void serial_init(void);
void serial_put(char c);
void serial_interrupt(void);
void serial_resume(void);
void console_init(void);
bool console_input(char c); /* false: there is no room */
bool console_full(void);
word console_read(char *bytes, word n);
word console_write(const char *bytes, word n);

/* ---- power.c ---- */
#define PORT_MARK 0x402u
_Noreturn void power_off(int status);

#endif
