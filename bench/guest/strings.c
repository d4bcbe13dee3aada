/* String functions: strlen, strcmp, strchr, memchr, memcpy, memset on 256 bytes.
 *
 *   strings        the C library's, on aligned strings; it chooses them by CPUID
 *   strings-odd    the same, on strings that begin at odd addresses
 *   words-odd      our own, a machine word at a time by general registers, at odd addresses: each access is unaligned,
 *                  some cross a cache line, and the same instructions are executed everywhere */
#include <string.h>

#include "bench.h"

#define STRING_SIZE 256
#define STRING_FUNCTIONS 6
#define STRING_ROOM (STRING_SIZE + 64)

#define WORD_SIZE sizeof(unsigned long)
#define WORD_ONES (~0ul / 255)
#define WORD_HIGHS (WORD_ONES * 128)

static char string_a[STRING_ROOM] __attribute__((aligned(64))), string_b[STRING_ROOM] __attribute__((aligned(64))),
    string_to[STRING_ROOM] __attribute__((aligned(64)));
static unsigned string_at_a, string_at_b, string_at_to;

static const char *strings_setup(void)
{
    char *a = string_a + string_at_a, *b = string_b + string_at_b;
    for (unsigned i = 0; i < STRING_SIZE; i++)
        a[i] = b[i] = (char)('a' + i % 25);
    b[STRING_SIZE - 2] = 'z';
    a[STRING_SIZE] = b[STRING_SIZE] = '\0';
    return NULL;
}

static const char *strings_odd_setup(void)
{
    string_at_a = 3;
    string_at_b = 13;
    string_at_to = 5;
    return strings_setup();
}

static void strings_check(void)
{
    for (unsigned i = 0; bench_checking && i < STRING_ROOM; i++)
        bench_sink = bench_sink * 31 + (unsigned char)string_to[i];
}

static void strings_run(uint64_t n)
{
    const char *volatile a = string_a + string_at_a, *volatile b = string_b + string_at_b;
    char *volatile to = string_to + string_at_to;
    while (n-- > 0) {
        bench_sink += strlen(a);
        bench_sink += strcmp(a, b) < 0;
        bench_sink += (uint64_t)(strchr(b, 'z') - b);
        bench_sink += memchr(a, 'z', STRING_SIZE) == NULL;
        memset(to, 'x', STRING_SIZE);
        memcpy(to, a, STRING_SIZE - 1);
    }
    strings_check();
}

/* --- a word at a time --- */

static inline unsigned long word_load(const char *from)
{
    unsigned long word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline void word_store(char *to, unsigned long word)
{
    memcpy(to, &word, sizeof word);
}

/* Not 0 when a byte of the word is 0; its lowest bit then belongs to the first one. */
static inline unsigned long word_zero(unsigned long word)
{
    return (word - WORD_ONES) & ~word & WORD_HIGHS;
}

static __attribute__((noinline)) size_t words_length(const char *text)
{
    size_t at = 0;
    unsigned long zero;
    while ((zero = word_zero(word_load(text + at))) == 0)
        at += WORD_SIZE;
    return at + (size_t)__builtin_ctzl(zero) / 8;
}

static __attribute__((noinline)) int words_compare(const char *a, const char *b)
{
    size_t at = 0;
    while (word_load(a + at) == word_load(b + at) && word_zero(word_load(a + at)) == 0)
        at += WORD_SIZE;
    while (a[at] == b[at] && a[at] != '\0')
        at++;
    return (unsigned char)a[at] - (unsigned char)b[at];
}

static __attribute__((noinline)) size_t words_find(const char *text, char wanted, size_t size)
{
    unsigned long pattern = WORD_ONES * (unsigned char)wanted, zero;
    for (size_t at = 0; at + WORD_SIZE <= size; at += WORD_SIZE) {
        zero = word_zero(word_load(text + at) ^ pattern);
        if (zero != 0)
            return at + (size_t)__builtin_ctzl(zero) / 8;
    }
    return size;
}

static __attribute__((noinline)) void words_copy(char *to, const char *from, size_t size)
{
    size_t at = 0;
    for (; at + WORD_SIZE <= size; at += WORD_SIZE)
        word_store(to + at, word_load(from + at));
    for (; at < size; at++)
        to[at] = from[at];
}

static __attribute__((noinline)) void words_fill(char *to, char byte, size_t size)
{
    for (size_t at = 0; at + WORD_SIZE <= size; at += WORD_SIZE)
        word_store(to + at, WORD_ONES * (unsigned char)byte);
}

static void words_run(uint64_t n)
{
    const char *volatile a = string_a + string_at_a, *volatile b = string_b + string_at_b;
    char *volatile to = string_to + string_at_to;
    while (n-- > 0) {
        bench_sink += words_length(a);
        bench_sink += words_compare(a, b) < 0;
        bench_sink += words_find(b, 'z', STRING_SIZE);
        bench_sink += words_find(a, 'z', STRING_SIZE);
        words_fill(to, 'x', STRING_SIZE);
        words_copy(to, a, STRING_SIZE - 1);
    }
    strings_check();
}

static const struct row rows[] = {
    {"strings", "C string function on 256 bytes", ROW_COMPUTE, STRING_FUNCTIONS, strings_setup, strings_run, NULL},
    {"strings-odd", "the same at odd addresses", ROW_COMPUTE, STRING_FUNCTIONS, strings_odd_setup, strings_run, NULL},
    {"words-odd", "the same by unaligned words", ROW_COMPUTE, STRING_FUNCTIONS, strings_odd_setup, words_run, NULL},
};
const struct rows string_rows = {rows, ARRAY_LEN(rows)};
