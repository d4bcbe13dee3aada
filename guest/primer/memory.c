/* Physical memory: which pages are free, and how many users each has.
 *
 * The kernel's part of every address space maps physical memory to itself up to KERNEL_END, so a physical page can be
 * written to without further ado, and memory beyond that is not used. A page may have several users after fork(): it is
 * free when the last one gives it back.
 *
 * The list of free pages is threaded through the pages themselves. fork() and exec() run with interrupts open, so the
 * list is changed with interrupts off: this is the kernel's one lock, taken the way a single processor takes it. */
#include "kernel.h"
#include "privileged.h"

static word free_list; /* the first word of a free page is the next one */
static unsigned free_count;
static uint8_t users[KERNEL_END / PAGE];

extern char kernel_end[]; /* kernel.ld */

void memory_init(word end)
{
    if (end > KERNEL_END)
        end = KERNEL_END;
    for (word page = end & ~(PAGE - 1); page > (word)kernel_end;) {
        page -= PAGE;
        *(word *)page = free_list;
        free_list = page;
        free_count++;
    }
}

word page_alloc(void)
{
    word flags = interrupts_save();
    word page = free_list;
    if (page != 0) {
        free_list = *(word *)page;
        free_count--;
        users[page / PAGE] = 1;
    }
    interrupts_restore(flags);
    if (page != 0)
        memset((void *)page, 0, PAGE);
    return page;
}

void page_share(word page)
{
    word flags = interrupts_save();
    users[page / PAGE]++;
    interrupts_restore(flags);
}

void page_free(word page)
{
    word flags = interrupts_save();
    if (--users[page / PAGE] == 0) {
        *(word *)page = free_list;
        free_list = page;
        free_count++;
    }
    interrupts_restore(flags);
}

unsigned page_users(word page)
{
    return users[page / PAGE];
}

unsigned pages_free(void)
{
    return free_count;
}
