/* Hexadecimal digits in packets. */
#include "gdb/internal.h"

int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool hex_number(const char **text, uint64_t *value)
{
    unsigned digits = 0;
    *value = 0;
    for (; hex_digit(**text) >= 0; (*text)++) {
        if (*value >> 60 != 0)
            return false;
        *value = *value << 4 | (unsigned)hex_digit(**text);
        digits++;
    }
    return digits != 0;
}

bool hex_bytes(const char *text, uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int high = hex_digit(text[2 * i]), low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);
        if (low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

void hex_print(FILE *out, const uint8_t *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        fputc(digits[bytes[i] >> 4], out);
        fputc(digits[bytes[i] & 15], out);
    }
}
