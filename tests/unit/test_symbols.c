/* Names for addresses: from ELF symbol tables, System.maps, and from files that are neither, or lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/symbols.h"

static struct symbols *parse(const char *text)
{
    struct error err;
    return symbols_parse((const uint8_t *)text, strlen(text), &err);
}

static void test_map(void **state)
{
    char text[SYMBOLS_TEXT];
    struct symbols *s = parse("0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n"
                              "ffffffff81000000 T startup_64\nffffffff81000040 t second\tmodule\n"
                              "                 U missing\nnonsense\nffffffff81000100 T \nffffffff81000200 D last");
    assert_non_null(s);
    assert_string_equal(symbols_text(s, 0xffffffff81000000, text), "_text"); /* the first of two */
    assert_string_equal(symbols_text(s, 0xffffffff81000012, text), "_text+0x12");
    assert_string_equal(symbols_text(s, 0xffffffff81000040, text), "second");
    assert_string_equal(symbols_text(s, 0xffffffff81000180, text), "second+0x140");
    assert_string_equal(symbols_text(s, 0xffffffff81000200, text), "last");
    assert_string_equal(symbols_text(s, 0x1000, text), "");             /* before the first */
    assert_string_equal(symbols_text(s, 0xffffffff91000200, text), ""); /* far behind the last */
    assert_string_equal(symbols_text(NULL, 0x1000, text), "");
    gva_t gva;
    assert_true(symbols_lookup(s, "last", &gva) && gva == 0xffffffff81000200);
    assert_false(symbols_lookup(s, "fixed_percpu_data", &gva));
    symbols_destroy(s);
}

/* Two functions and something undefined, for either width. */
struct elf64 {
    Elf64_Ehdr header;
    Elf64_Shdr sections[3];
    Elf64_Sym symbols[4];
    char strings[32];
};
struct elf32 {
    Elf32_Ehdr header;
    Elf32_Shdr sections[3];
    Elf32_Sym symbols[4];
    char strings[32];
};

#define ELF_FILL(f, bits)                                                                                              \
    do {                                                                                                               \
        memset(&(f), 0, sizeof(f));                                                                                    \
        memcpy((f).header.e_ident, ELFMAG, SELFMAG);                                                                   \
        (f).header.e_ident[EI_CLASS] = ELFCLASS##bits;                                                                 \
        (f).header.e_shoff = offsetof(struct elf##bits, sections);                                                     \
        (f).header.e_shnum = 3;                                                                                        \
        (f).header.e_shentsize = sizeof(Elf##bits##_Shdr);                                                             \
        (f).sections[1].sh_type = SHT_SYMTAB;                                                                          \
        (f).sections[1].sh_offset = offsetof(struct elf##bits, symbols);                                               \
        (f).sections[1].sh_size = sizeof(f).symbols;                                                                   \
        (f).sections[1].sh_link = 2;                                                                                   \
        (f).sections[2].sh_type = SHT_STRTAB;                                                                          \
        (f).sections[2].sh_offset = offsetof(struct elf##bits, strings);                                               \
        (f).sections[2].sh_size = sizeof(f).strings;                                                                   \
        memcpy((f).strings, "\0main\0helper\0label", 19);                                                              \
        (f).symbols[1] =                                                                                               \
            (Elf##bits##_Sym){.st_name = 1, .st_info = STT_FUNC, .st_shndx = 1, .st_value = 0x1000, .st_size = 16};    \
        (f).symbols[2] =                                                                                               \
            (Elf##bits##_Sym){.st_name = 6, .st_info = STT_FUNC, .st_shndx = 1, .st_value = 0x1020, .st_size = 16};    \
        (f).symbols[3] = (Elf##bits##_Sym){.st_name = 13, .st_info = STT_NOTYPE, .st_shndx = 1, .st_value = 0x1000};   \
    } while (0)

static void check_elf(const void *bytes, size_t size)
{
    char text[SYMBOLS_TEXT];
    struct symbols *s = symbols_parse(bytes, size, NULL);
    assert_non_null(s);
    assert_string_equal(symbols_text(s, 0x1000, text), "main"); /* not the label without type */
    assert_string_equal(symbols_text(s, 0x100f, text), "main+0xf");
    assert_string_equal(symbols_text(s, 0x1010, text), ""); /* sizes are obeyed */
    assert_string_equal(symbols_text(s, 0x1021, text), "helper+0x1");
    symbols_destroy(s);
}

static void test_elf(void **state)
{
    struct elf64 wide;
    struct elf32 narrow;
    ELF_FILL(wide, 64);
    ELF_FILL(narrow, 32);
    check_elf(&wide, sizeof wide);
    check_elf(&narrow, sizeof narrow);
}

/* Every byte of the file changed in turn, and every shorter file: whatever comes of it, no harm is done. */
static void test_hostile(void **state)
{
    struct elf64 file;
    for (size_t at = 0; at < sizeof file; at++) {
        for (unsigned i = 0; i < 4; i++) {
            ELF_FILL(file, 64);
            ((uint8_t *)&file)[at] = (uint8_t[]){0xff, 0x80, 0x7f, 0x03}[i];
            symbols_destroy(symbols_parse((const uint8_t *)&file, sizeof file, NULL));
        }
        ELF_FILL(file, 64);
        uint8_t *shorter = malloc(at + 1); /* so that a sanitizer sees the end */
        memcpy(shorter, &file, at);
        symbols_destroy(symbols_parse(shorter, at, NULL));
        free(shorter);
    }
    struct error err;
    assert_null(symbols_parse((const uint8_t *)"hello\n", 6, &err));
    assert_string_equal(err.message, "has no symbols: give an ELF file or a System.map");
    assert_null(symbols_read("/nonexistent/map", &err));
    assert_string_equal(err.message, "/nonexistent/map: No such file or directory");
    assert_null(symbols_read("/dev/zero", &err));
    assert_string_equal(err.message, "/dev/zero: is not a regular file of at most 1 GiB");
    char text[SYMBOLS_TEXT];
    struct symbols *s = parse("1000 T <script>\x1b[31m\n");
    assert_string_equal(symbols_text(s, 0x1000, text), "<script>?[31m");
    symbols_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_elf),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
