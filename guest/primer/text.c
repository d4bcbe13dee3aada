/* Text and bytes: the few functions of a C library that the kernel needs, and its way to speak. */
#include "kernel.h"
#include "privileged.h"

void *memset(void *to, int byte, size_t n)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    for (; n > 0; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n] != 0)
        n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    size_t n = strlen(a) + 1;
    return memcmp(a, b, n <= strlen(b) + 1 ? n : strlen(b) + 1);
}

void name_copy(char *to, const char *from, size_t size)
{
    size_t n = strlen(from);
    n = n < size ? n : size - 1;
    memcpy(to, from, n);
    to[n] = 0;
}

struct line {
    char bytes[80];
    unsigned length;
};

static void line_put(void *opaque, char c)
{
    struct line *line = opaque;
    if (line->length == sizeof(line->bytes)) {
        console_write(line->bytes, line->length);
        line->length = 0;
    }
    line->bytes[line->length++] = c;
}

static void line_print(const char *text, va_list arguments)
{
    struct line line = {.length = 0};
    format(line_put, &line, text, arguments);
    console_write(line.bytes, line.length);
}

void print(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    line_print(text, arguments);
    va_end(arguments);
}

void panic(const char *text, ...)
{
    interrupts_off();
    va_list arguments;
    va_start(arguments, text);
    print("primer: ");
    line_print(text, arguments);
    print("\n");
    va_end(arguments);
    power_off(STATUS_KILLED - 1);
}
