/* See format.h. */
#include "format.h"

#include <stdbool.h>

struct field {
    bool left, zeros, is_long;
    int width;
};

static const char *field_parse(const char *text, struct field *field)
{
    *field = (struct field){0};
    for (; *text == '-' || *text == '0'; text++)
        *(*text == '-' ? &field->left : &field->zeros) = true;
    for (; *text >= '0' && *text <= '9'; text++)
        field->width = field->width * 10 + (*text - '0');
    for (; *text == 'l'; text++)
        field->is_long = true;
    return text;
}

static void field_put(void (*put)(void *, char), void *opaque, const struct field *field, const char *s, int length)
{
    for (int i = length; !field->left && i < field->width; i++)
        put(opaque, field->zeros ? '0' : ' ');
    for (int i = 0; i < length; i++)
        put(opaque, s[i]);
    for (int i = length; field->left && i < field->width; i++)
        put(opaque, ' ');
}

static void number_put(void (*put)(void *, char), void *opaque, const struct field *field, unsigned long value,
                       unsigned base, bool negative)
{
    char digits[24], *end = digits + sizeof(digits), *at = end;
    do
        *--at = "0123456789abcdef"[value % base];
    while ((value /= base) != 0);
    if (negative)
        *--at = '-';
    field_put(put, opaque, field, at, (int)(end - at));
}

void format(void (*put)(void *opaque, char c), void *opaque, const char *text, va_list arguments)
{
    for (; *text != 0; text++) {
        if (*text != '%') {
            put(opaque, *text);
            continue;
        }
        struct field field;
        text = field_parse(text + 1, &field);
        long value;
        char c;
        const char *s;
        int length = 0;
        switch (*text) {
        case 'd':
            value = field.is_long ? va_arg(arguments, long) : va_arg(arguments, int);
            number_put(put, opaque, &field, value < 0 ? -(unsigned long)value : (unsigned long)value, 10, value < 0);
            break;
        case 'u':
        case 'x':
            value = field.is_long ? (long)va_arg(arguments, unsigned long) : (long)va_arg(arguments, unsigned);
            number_put(put, opaque, &field, (unsigned long)value, *text == 'u' ? 10 : 16, false);
            break;
        case 's':
            for (s = va_arg(arguments, const char *); s[length] != 0;)
                length++;
            field_put(put, opaque, &field, s, length);
            break;
        case 'c':
            c = (char)va_arg(arguments, int);
            field_put(put, opaque, &field, &c, 1);
            break;
        case 0:
            return;
        default:
            put(opaque, *text);
            break;
        }
    }
}
