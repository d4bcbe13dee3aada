/* Address spaces: page tables.
 *
 *     0                    not mapped: null pointers fault
 *     10000h               the kernel and physical memory, virtual = physical; not for user mode
 *     1000000h (16 MiB)    the program, its data, and its stack at the end
 *     1400000h (20 MiB)    not mapped
 *
 * (In the build for a whole PC the registers of the APICs are in two pages below 10000h.)
 *
 * Each process has tables of its own, but the lower part of all is the same: the lowest tables of the kernel's part are
 * made once and entered in every tree. So a system call or an interrupt need not change address spaces, and the U bit
 * keeps programs out. (A classical monitor cannot leave it at that: its guest's kernel runs in user mode, too. It keeps
 * one shadow of these tables for when the guest pretends to be in kernel mode and one for user mode.)
 *
 * entry_at() is the walk that the processor does, in C, for both geometries: two levels of 1024 entries, or four of 512.
 *
 * fork() copies nothing but tables. What both may write is made read-only for both and marked PTE_COPY; whoever writes
 * first faults and gets a copy (paging_copy_shared()). The kernel itself respects read-only pages (CR0.WP), so a system
 * call that writes into a program's memory does the same without a line of its own.
 *
 * Every change goes through privileged.h: entry_set() and then a commit that says what must be forgotten of the old.
 *
 * SDM vol. 3, chapter 4. */
#include "kernel.h"
#include "privileged.h"

word kernel_root;

static unsigned entry_index(word gva, unsigned level)
{
    return (unsigned)(gva >> (PAGE_SHIFT + PT_INDEX_BITS * level)) & ((1u << PT_INDEX_BITS) - 1);
}

/* The entry for `gva` in the table of the given level: 0 is the lowest, whose entries are pages. NULL if the way there
 * does not exist; with `create` it is made, and NULL means that there is no memory for it. */
static word *entry_at(word root, word gva, unsigned level, bool create)
{
    word table = root;
    for (unsigned at = PT_LEVELS - 1; at > level; at--) {
        word *entry = &((word *)table)[entry_index(gva, at)];
        if (!(*entry & PTE_P)) {
            word page = create ? page_alloc() : 0;
            if (page == 0)
                return NULL;
            entry_set(entry, page | PTE_P | PTE_W | PTE_U); /* what is allowed is said by the lowest entry */
            entries_commit();
        }
        table = *entry & PTE_ADDRESS;
    }
    return &((word *)table)[entry_index(gva, level)];
}

void paging_init(void)
{
    kernel_root = page_alloc();
    for (word page = KERNEL_BASE; page < KERNEL_END; page += PAGE)
        entry_set(entry_at(kernel_root, page, 0, true), page | PTE_P | PTE_W);
#ifdef WHOLE_PC
    for (word page = 0; page < KERNEL_BASE; page += PAGE)
        if (apic_gpa(page) != 0)
            entry_set(entry_at(kernel_root, page, 0, true), apic_gpa(page) | PTE_P | PTE_W | PTE_UNCACHED);
#endif
    paging_load();
}

void paging_load(void)
{
    entries_commit_switch(kernel_root);
    cr0_write(cr0_read() | CR0_PG | CR0_WP | CR0_EM); /* and no floating point: nobody would save its registers */
}

word space_create(void)
{
    word root = page_alloc(), span = PAGE << PT_INDEX_BITS; /* what one lowest table maps */
    if (root == 0)
        return 0;
    for (word gva = 0; gva < KERNEL_END; gva += span) {
        word *entry = entry_at(root, gva, 1, true);
        if (entry == NULL) {
            space_destroy(root);
            return 0;
        }
        entry_set(entry, *entry_at(kernel_root, gva, 1, false));
    }
    entries_commit();
    return root;
}

/* Frees a table and all below it but what is the kernel's. `gva` is where it begins. */
static void table_destroy(word table, unsigned level, word gva)
{
    word span = PAGE << (PT_INDEX_BITS * level);
    for (unsigned i = 0; i < 1u << PT_INDEX_BITS; i++) {
        word entry = ((word *)table)[i];
        bool shared = level == 1 && gva + i * span < KERNEL_END;
        if (!(entry & PTE_P) || shared)
            continue;
        if (level > 0)
            table_destroy(entry & PTE_ADDRESS, level - 1, gva + i * span);
        else
            page_free(entry & PTE_ADDRESS);
    }
    page_free(table);
}

void space_destroy(word root)
{
    entries_commit();
    table_destroy(root, PT_LEVELS - 1, 0);
}

bool space_add(word root, word gva, word page, bool writable)
{
    word *entry = entry_at(root, gva, 0, true);
    if (entry != NULL)
        entry_set(entry, page | PTE_P | PTE_U | (writable ? PTE_W : 0));
    return entry != NULL;
}

word space_page(word root, word gva)
{
    entries_commit();
    word *entry = entry_at(root, gva, 0, false);
    return entry != NULL && (*entry & PTE_P) ? *entry & PTE_ADDRESS : 0;
}

word space_copy(word root)
{
    word copy = space_create();
    if (copy == 0)
        return 0;
    for (word gva = USER_BASE; gva < USER_TOP; gva += PAGE) {
        word *from = entry_at(root, gva, 0, false);
        if (from == NULL || !(*from & PTE_P))
            continue;
        word *to = entry_at(copy, gva, 0, true);
        if (to == NULL) {
            entries_commit_all();
            space_destroy(copy);
            return 0;
        }
        word value = *from & PTE_W ? (*from & ~PTE_W) | PTE_COPY : *from;
        if (value != *from)
            entry_set(from, value);
        entry_set(to, value);
        page_share(value & PTE_ADDRESS);
    }
    entries_commit_all(); /* the parent's own entries have lost a right */
    return copy;
}

bool paging_copy_shared(word gva)
{
    word *entry = gva >= USER_BASE && gva < USER_TOP ? entry_at(current->root, gva, 0, false) : NULL;
    if (entry == NULL || (*entry & (PTE_P | PTE_COPY)) != (PTE_P | PTE_COPY))
        return false;
    word page = *entry & PTE_ADDRESS;
    if (page_users(page) > 1) {
        word copy = page_alloc();
        if (copy == 0) {
            print("%s (%d): no memory\n", current->name, current->pid);
            process_exit(STATUS_KILLED);
        }
        memcpy((void *)copy, (const void *)page, PAGE);
        page_free(page);
        page = copy;
    } /* else the others are gone: it need not be copied */
    entry_set(entry, page | PTE_P | PTE_W | PTE_U);
    entries_commit_page(gva);
    return true;
}

static bool user_range(word gva, word n, word wanted)
{
    if (gva < USER_BASE || gva > USER_TOP || n > USER_TOP - gva)
        return false;
    for (word at = gva & ~(PAGE - 1); at < gva + n; at += PAGE) {
        word *entry = entry_at(current->root, at, 0, false);
        if (entry == NULL || !(*entry & PTE_P) || !(*entry & wanted))
            return false;
    }
    return true;
}

bool user_may_read(word gva, word n)
{
    return user_range(gva, n, PTE_P);
}

bool user_may_write(word gva, word n)
{
    return user_range(gva, n, PTE_W | PTE_COPY);
}

bool user_string(word gva, char *to, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!user_may_read(gva + i, 1))
            return false;
        to[i] = *(const char *)(gva + i);
        if (to[i] == 0)
            return true;
    }
    return false;
}
