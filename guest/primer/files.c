/* Files: a small system of them in memory.
 *
 * Three kinds look alike to a program. What is in the kernel's own image: the programs, which files.S puts there, and a
 * text. What is made at the moment it is read: the list of processes, the list of files. And devices. None can be
 * written but devices, and there are no directories.
 *
 * The build for a whole PC has the first kind on its disk instead (volume.c), where it can be written, too. */
#include "kernel.h"

#ifndef WHOLE_PC
#define PROGRAM(id) extern const uint8_t program_##id[], program_##id##_end[];
#include "programs.def"
#undef PROGRAM

static const char poem[] = "Four traps for four letters, and two for the way:\n"
                           "the call in, the return. That is all there is to pay.\n";
#endif

static word files_make(char *text, size_t size);
static word processes_make(char *text, size_t size);

static const struct file files[] = {
#ifndef WHOLE_PC
#define PROGRAM(id) {.name = #id, .bytes = program_##id, .end = program_##id##_end},
#include "programs.def"
#undef PROGRAM
    {.name = "poem", .bytes = (const uint8_t *)poem, .end = (const uint8_t *)poem + sizeof(poem) - 1},
#endif
    {.name = "files", .make = files_make},
    {.name = "processes", .make = processes_make},
    {.name = "console", .read = console_read, .write = console_write},
#ifdef PARAVIRTUAL
    {.name = "screen", .write = console_write},
#else
    {.name = "screen", .write = screen_write},
#endif
};

const struct file *file_find(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(files); i++)
        if (strcmp(files[i].name, name) == 0)
            return &files[i];
#ifdef WHOLE_PC
    return volume_find(name);
#else
    return NULL;
#endif
}

bool file_is_bytes(const struct file *file)
{
    return file->bytes != NULL || file->entry != NULL;
}

word file_size(const struct file *file)
{
#ifdef WHOLE_PC
    if (file->entry != NULL)
        return volume_size(file->entry);
#endif
    return (word)(file->end - file->bytes);
}

bool file_copy(const struct file *file, word offset, void *to, word n)
{
#ifdef WHOLE_PC
    if (file->entry != NULL)
        return volume_read(file->entry, offset, to, n);
#endif
    if (offset > file_size(file) || n > file_size(file) - offset)
        return false;
    memcpy(to, file->bytes + offset, n);
    return true;
}

struct text {
    char *bytes;
    size_t size, length;
};

static void text_put(void *opaque, char c)
{
    struct text *text = opaque;
    if (text->length < text->size)
        text->bytes[text->length++] = c;
}

static void text_add(struct text *text, const char *words, ...)
{
    va_list arguments;
    va_start(arguments, words);
    format(text_put, text, words, arguments);
    va_end(arguments);
}

static word files_make(char *bytes, size_t size)
{
    struct text text = {.bytes = bytes, .size = size};
#ifdef WHOLE_PC
    for (unsigned i = 0; volume_at(i) != NULL; i++)
        if (volume_at(i)->name[0] != 0)
            text_add(&text, "%s %lu\n", volume_at(i)->name, file_size(volume_at(i)));
#endif
    for (unsigned i = 0; i < ARRAY_LEN(files); i++)
        text_add(&text, "%s\n", files[i].name);
    return text.length;
}

static word processes_make(char *bytes, size_t size)
{
    static const char *const states[] = {"free", "ready", "waiting", "ended"};
    struct text text = {.bytes = bytes, .size = size};
    text_add(&text, "  ID  OF STATE   NAME\n");
    for (struct process *p = processes; p < processes + PROCESS_MAX; p++)
        if (p->state != PROCESS_FREE)
            text_add(&text, "%4d%4d %-7s %s\n", p->pid, p->parent, p == current ? "running" : states[p->state], p->name);
    return text.length;
}

word file_read(struct open_file *open, char *bytes, word n)
{
    static char text[2048];
    const struct file *file = open->file;
    if (file->read != NULL)
        return file->read(bytes, n);
    if (file->make == NULL && !file_is_bytes(file))
        return (word)-1;
    word size = file->make != NULL ? file->make(text, sizeof(text)) : file_size(file);
    word left = open->offset < size ? size - open->offset : 0;
    n = n < left ? n : left;
    if (file->make != NULL)
        memcpy(bytes, text + open->offset, n);
    else if (!file_copy(file, open->offset, bytes, n))
        return (word)-1;
    open->offset += n;
    return n;
}

word file_write(struct open_file *open, const char *bytes, word n)
{
#ifdef WHOLE_PC
    if (open->file->entry != NULL) {
        word done = volume_write(open->file->entry, open->offset, bytes, n);
        open->offset += done != (word)-1 ? done : 0;
        return done;
    }
#endif
    return open->file->write != NULL ? open->file->write(bytes, n) : (word)-1;
}
