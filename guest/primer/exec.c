/* exec(): from a file to a running program.
 *
 * An ELF file says which of its bytes go to which address. A new address space is filled with them, then with a stack, and
 * only when nothing can fail any more does it take the place of the old one. So a program that is not there, or not one,
 * leaves the caller as it was.
 *
 * The command line lies at the end of the stack as the one string that was typed; the program finds its address in EBX
 * and cuts it into words itself (user/start.S, user/lib.c).
 *
 * System V ABI (gABI), chapters 4 and 5. */
#include "kernel.h"
#include "privileged.h"

#define STACK_PAGES 4u
#define COMMAND_GVA (USER_TOP - COMMAND_SIZE)

struct elf_header {
    uint8_t ident[16];
    uint16_t type, machine;
    uint32_t version;
    word entry, segments, sections;
    uint32_t flags;
    uint16_t header_size, segment_size, segment_count, section_size, section_count, section_names;
};

#define PT_LOAD 1u
#define SEGMENT_W 2u
struct elf_segment {
    uint32_t type;
#ifdef __x86_64__
    uint32_t flags;
    word offset, address, physical, file_size, memory_size, align;
#else
    word offset, address, physical, file_size, memory_size, flags, align;
#endif
};

#define ELF_MAGIC "\177ELF"
#define ELF_CLASS (BITS == 64 ? 2 : 1)

/* The page of a space at `gva`, made if it is not there. */
static uint8_t *page_make(word root, word gva, bool writable)
{
    word page = space_page(root, gva);
    if (page != 0)
        return (uint8_t *)page;
    page = page_alloc();
    if (page != 0 && !space_add(root, gva, page, writable)) {
        page_free(page);
        page = 0;
    }
    return (uint8_t *)page;
}

static bool segment_load(word root, const struct file *file, const struct elf_segment *s)
{
    word size = file_size(file);
    if (s->memory_size == 0)
        return true;
    if (s->offset > size || s->file_size > size - s->offset || s->file_size > s->memory_size ||
        s->address < USER_BASE || s->address > USER_TOP || s->memory_size > USER_TOP - s->address)
        return false;
    for (word done = 0; done < s->memory_size;) {
        word gva = s->address + done, in_page = gva & (PAGE - 1), some = PAGE - in_page;
        uint8_t *page = page_make(root, gva, s->flags & SEGMENT_W);
        if (page == NULL)
            return false;
        if (some > s->memory_size - done)
            some = s->memory_size - done;
        if (done < s->file_size && !file_copy(file, s->offset + done, page + in_page,
                                              some < s->file_size - done ? some : s->file_size - done))
            return false;
        done += some;
    }
    return true;
}

static bool program_load(word root, const struct file *file, word *entry)
{
    struct elf_header elf;
    if (!file_copy(file, 0, &elf, sizeof(elf)) || memcmp(elf.ident, ELF_MAGIC, 4) != 0 || elf.ident[4] != ELF_CLASS ||
        elf.segment_size != sizeof(struct elf_segment))
        return false;
    for (unsigned i = 0; i < elf.segment_count; i++) {
        struct elf_segment segment;
        if (!file_copy(file, elf.segments + i * sizeof(segment), &segment, sizeof(segment)) ||
            (segment.type == PT_LOAD && !segment_load(root, file, &segment)))
            return false;
    }
    *entry = elf.entry;
    return true;
}

bool exec(const char *command, struct frame *f)
{
    char name[NAME_SIZE];
    size_t length = 0;
    while (length < NAME_SIZE - 1 && command[length] != 0 && command[length] != ' ')
        length++;
    memcpy(name, command, length);
    name[length] = 0;
    const struct file *file = file_find(name);
    if (file == NULL || !file_is_bytes(file))
        return false;

    word root = space_create(), entry;
    if (root == 0)
        return false;
    uint8_t *page = NULL;
    bool loaded = program_load(root, file, &entry);
    for (unsigned i = STACK_PAGES; loaded && i-- > 0;) {
        page = page_make(root, USER_TOP - PAGE - i * PAGE, true);
        loaded = page != NULL;
    }
    if (!loaded) {
        space_destroy(root);
        return false;
    }
    name_copy((char *)page + (COMMAND_GVA & (PAGE - 1)), command, COMMAND_SIZE);
    memcpy(current->name, name, NAME_SIZE);

    word old = current->root;
    current->root = root;
    entries_commit_switch(root);
    if (old != 0 && old != kernel_root)
        space_destroy(old);
    memset(f, 0, sizeof(*f));
    f->ip = entry;
    f->sp = COMMAND_GVA & ~15ul;
    f->bx = COMMAND_GVA;
    f->cs = SEL_UCODE;
    f->ss = SEL_UDATA;
    f->flags = FLAG_1 | FLAG_IF;
    return true;
}
