/* See symbols.h. The file is not trusted: every offset in it is checked before it is followed.
 *
 * Of an ELF file the sections of type SHT_SYMTAB are read, and of those the symbols of type function, object or none
 * that lie in a section. Of a System.map the lines "address type name". Where two symbols have one address the first
 * in the file wins, unless it has no type.
 *
 * Source: System V ABI, chapters 4 (symbol table) and 5; nm(1). */
#include "base/symbols.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_LENGTH 128u
#define FILE_MAX (1024 * MiB)
#define REACH_MAX (1 * MiB) /* of a symbol without size */

struct symbol {
    gva_t gva;
    uint64_t size;  /* 0: unknown */
    uint32_t order; /* in the file, and those with a type first */
    char *name;
};

struct symbols {
    struct symbol *list; /* by address, one for each */
    size_t count, room;
};

static bool symbol_add(struct symbols *s, gva_t gva, uint64_t size, bool typed, const char *name, size_t length)
{
    if (length == 0)
        return true;
    if (s->count == s->room) {
        size_t room = s->room == 0 ? 1024 : 2 * s->room;
        struct symbol *list = realloc(s->list, room * sizeof *list);
        if (list == NULL)
            return false;
        s->list = list;
        s->room = room;
    }
    char *copy = strndup(name, length < NAME_MAX_LENGTH ? length : NAME_MAX_LENGTH);
    if (copy == NULL)
        return false;
    for (char *p = copy; *p != 0; p++)
        if (*p <= ' ' || *p > '~')
            *p = '?';
    uint32_t order = (uint32_t)s->count | (typed ? 0 : 1u << 31);
    s->list[s->count++] = (struct symbol){.gva = gva, .size = size, .order = order, .name = copy};
    return true;
}

static int compare_symbols(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    if (x->gva != y->gva)
        return x->gva < y->gva ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static void symbols_sort(struct symbols *s)
{
    if (s->count == 0)
        return;
    qsort(s->list, s->count, sizeof *s->list, compare_symbols);
    size_t kept = 1;
    for (size_t i = 1; i < s->count; i++) {
        if (s->list[i].gva == s->list[kept - 1].gva)
            free(s->list[i].name);
        else
            s->list[kept++] = s->list[i];
    }
    s->count = kept;
}

/* ---- ELF ---- */

struct elf_file {
    const uint8_t *bytes;
    size_t size;
    bool is_64;
};

/* Pointer to `n` bytes at `offset`, or NULL. */
static const uint8_t *elf_at(const struct elf_file *f, uint64_t offset, uint64_t n)
{
    return offset <= f->size && n <= f->size - offset ? f->bytes + offset : NULL;
}

static bool section_read(const struct elf_file *f, uint64_t table, unsigned entry_size, unsigned i, Elf64_Shdr *out)
{
    const uint8_t *at = elf_at(f, table + (uint64_t)i * entry_size, entry_size);
    if (at == NULL || entry_size < (f->is_64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr)))
        return false;
    if (f->is_64) {
        memcpy(out, at, sizeof *out);
        return true;
    }
    Elf32_Shdr s;
    memcpy(&s, at, sizeof s);
    *out = (Elf64_Shdr){.sh_type = s.sh_type, .sh_offset = s.sh_offset, .sh_size = s.sh_size, .sh_link = s.sh_link};
    return true;
}

static bool table_read(struct symbols *s, const struct elf_file *f, const Elf64_Shdr *table, const Elf64_Shdr *strings)
{
    size_t entry_size = f->is_64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
    const uint8_t *at = elf_at(f, table->sh_offset, table->sh_size);
    const char *names = (const char *)elf_at(f, strings->sh_offset, strings->sh_size);
    if (at == NULL || names == NULL)
        return true;
    for (uint64_t n = table->sh_size / entry_size; n > 0; n--, at += entry_size) {
        Elf64_Sym symbol;
        if (f->is_64) {
            memcpy(&symbol, at, sizeof symbol);
        } else {
            Elf32_Sym narrow;
            memcpy(&narrow, at, sizeof narrow);
            symbol = (Elf64_Sym){.st_name = narrow.st_name,
                                 .st_info = narrow.st_info,
                                 .st_shndx = narrow.st_shndx,
                                 .st_value = narrow.st_value,
                                 .st_size = narrow.st_size};
        }
        unsigned type = ELF64_ST_TYPE(symbol.st_info);
        if (type > STT_FUNC || symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= SHN_LORESERVE ||
            symbol.st_name >= strings->sh_size)
            continue;
        const char *name = names + symbol.st_name;
        size_t length = strnlen(name, strings->sh_size - symbol.st_name);
        if (!symbol_add(s, symbol.st_value, symbol.st_size, type != STT_NOTYPE, name, length))
            return false;
    }
    return true;
}

static bool elf_read(struct symbols *s, const uint8_t *bytes, size_t size)
{
    struct elf_file f = {.bytes = bytes, .size = size, .is_64 = bytes[EI_CLASS] == ELFCLASS64};
    Elf64_Ehdr header = {0};
    if (f.is_64 && size >= sizeof header) {
        memcpy(&header, bytes, sizeof header);
    } else if (!f.is_64 && size >= sizeof(Elf32_Ehdr)) {
        Elf32_Ehdr narrow;
        memcpy(&narrow, bytes, sizeof narrow);
        header.e_shoff = narrow.e_shoff;
        header.e_shnum = narrow.e_shnum;
        header.e_shentsize = narrow.e_shentsize;
    }
    for (unsigned i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr table, strings;
        if (!section_read(&f, header.e_shoff, header.e_shentsize, i, &table) || table.sh_type != SHT_SYMTAB)
            continue;
        if (table.sh_link >= header.e_shnum ||
            !section_read(&f, header.e_shoff, header.e_shentsize, table.sh_link, &strings))
            continue;
        if (!table_read(s, &f, &table, &strings))
            return false;
    }
    return true;
}

/* ---- System.map ---- */

static bool map_read(struct symbols *s, const char *text, size_t size)
{
    const char *end = text + size;
    while (text < end) {
        const char *line_end = memchr(text, '\n', (size_t)(end - text));
        char line[512];
        size_t length = (size_t)((line_end != NULL ? line_end : end) - text);
        size_t used = length < sizeof line - 1 ? length : sizeof line - 1;
        memcpy(line, text, used);
        line[used] = 0;
        uint64_t gva;
        char type;
        int name_at = 0;
        if (sscanf(line, "%" SCNx64 " %c %n", &gva, &type, &name_at) == 2 && name_at > 0 &&
            strchr("AaUu", type) == NULL) {
            const char *name = line + name_at;
            if (!symbol_add(s, gva, 0, true, name, strcspn(name, " \t\r")))
                return false;
        }
        text += length + 1;
    }
    return true;
}

/* ---- both ---- */

struct symbols *symbols_parse(const uint8_t *bytes, size_t size, struct error *err)
{
    struct symbols *s = calloc(1, sizeof *s);
    bool elf = size > EI_CLASS && memcmp(bytes, ELFMAG, SELFMAG) == 0;
    if (s == NULL || !(elf ? elf_read(s, bytes, size) : map_read(s, (const char *)bytes, size))) {
        symbols_destroy(s);
        error_set(err, "no memory for symbols");
        return NULL;
    }
    if (s->count == 0) {
        symbols_destroy(s);
        error_set(err, "has no symbols%s", elf ? " (it is stripped)" : ": give an ELF file or a System.map");
        return NULL;
    }
    symbols_sort(s);
    return s;
}

struct symbols *symbols_read(const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        error_set(err, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    uint8_t *bytes = NULL;
    size_t size = (size_t)st.st_size, done = 0;
    struct symbols *s = NULL;
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > FILE_MAX) {
        error_set(err, "%s: is not a regular file of at most 1 GiB", path);
    } else if ((bytes = malloc(size + 1)) == NULL) {
        error_set(err, "%s: no memory", path);
    } else {
        ssize_t got = 1;
        while (done < size && got > 0) {
            got = read(fd, bytes + done, size - done);
            done += got > 0 ? (size_t)got : 0;
        }
        s = symbols_parse(bytes, done, err);
        if (s == NULL)
            error_prefix(err, "%s", path);
    }
    free(bytes);
    close(fd);
    return s;
}

struct symbols *symbols_read_elf(const char *path)
{
    char magic[SELFMAG] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    bool elf = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && /* nothing is taken out of a pipe */
               read(fd, magic, sizeof magic) == (ssize_t)sizeof magic && memcmp(magic, ELFMAG, SELFMAG) == 0;
    if (fd >= 0)
        close(fd);
    return elf ? symbols_read(path, NULL) : NULL;
}

void symbols_destroy(struct symbols *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->count; i++)
        free(s->list[i].name);
    free(s->list);
    free(s);
}

const char *symbols_find(const struct symbols *s, gva_t gva, uint64_t *offset)
{
    if (s == NULL || s->count == 0 || gva < s->list[0].gva)
        return NULL;
    size_t low = 0, high = s->count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (s->list[middle].gva <= gva)
            low = middle;
        else
            high = middle;
    }
    const struct symbol *symbol = &s->list[low];
    uint64_t reach = symbol->size != 0 ? symbol->size : REACH_MAX;
    if (gva - symbol->gva >= reach)
        return NULL;
    *offset = gva - symbol->gva;
    return symbol->name;
}

bool symbols_lookup(const struct symbols *s, const char *name, gva_t *gva)
{
    for (size_t i = 0; s != NULL && i < s->count; i++) {
        if (strcmp(s->list[i].name, name) == 0) {
            *gva = s->list[i].gva;
            return true;
        }
    }
    return false;
}

const char *symbols_text(const struct symbols *s, gva_t gva, char text[SYMBOLS_TEXT])
{
    uint64_t offset;
    const char *name = symbols_find(s, gva, &offset);
    text[0] = 0;
    if (name != NULL && offset == 0)
        snprintf(text, SYMBOLS_TEXT, "%s", name);
    else if (name != NULL)
        snprintf(text, SYMBOLS_TEXT, "%s+%#" PRIx64, name, offset);
    return text;
}
