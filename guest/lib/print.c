/* TAP on the debug console, and the end of a program. */
#include "guest.h"

#define PORT_DEBUGCON 0x402
#define PORT_DEBUG_EXIT 0xf4

static unsigned checks, failures;

static void put(char c)
{
    outb(PORT_DEBUGCON, (uint8_t)c);
}

static void put_string(const char *s)
{
    while (*s != 0)
        put(*s++);
}

static void put_number(unsigned long long value, unsigned base, unsigned width, char pad)
{
    char digits[24];
    unsigned n = 0;
    do {
        unsigned digit;
        if (base == 16) {
            digit = (unsigned)value & 15;
            value >>= 4;
        } else { /* no 64-bit division without libgcc: decimals are small */
            digit = (unsigned)value % 10;
            value = (unsigned)value / 10;
        }
        digits[n++] = (char)(digit < 10 ? '0' + digit : 'a' + digit - 10);
    } while (value != 0);
    while (n < width && n < sizeof digits)
        digits[n++] = pad;
    while (n > 0)
        put(digits[--n]);
}

static void put_integer(char conversion, unsigned longs, unsigned width, char pad, va_list *arguments)
{
    unsigned long long value = longs == 2   ? va_arg(*arguments, unsigned long long)
                               : longs == 1 ? va_arg(*arguments, unsigned long)
                                            : va_arg(*arguments, unsigned);
    if (conversion == 'd' && (int)value < 0) {
        put('-');
        value = (unsigned)-(int)value;
    }
    put_number(value, conversion == 'x' ? 16 : 10, width, pad);
}

/* %s %c %d %u %x with l, ll, #, a width and zero padding. */
void print_v(const char *format, va_list list)
{
    va_list arguments;
    va_copy(arguments, list);
    for (; *format != 0; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        unsigned width = 0, longs = 0;
        char pad = ' ';
        format++;
        if (*format == '#') {
            put_string("0x");
            format++;
        }
        if (*format == '0')
            pad = *format++;
        while (*format >= '0' && *format <= '9')
            width = width * 10 + (unsigned)(*format++ - '0');
        for (; *format == 'l'; format++)
            longs++;
        if (*format == 's')
            put_string(va_arg(arguments, const char *));
        else if (*format == 'c')
            put((char)va_arg(arguments, int));
        else if (*format == '%')
            put('%');
        else
            put_integer(*format, longs, width, pad, &arguments);
    }
    va_end(arguments);
}

void print(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_v(format, arguments);
    va_end(arguments);
}

static bool ok_v(bool passed, const char *format, va_list arguments)
{
    print("%s %u - ", passed ? "ok" : "not ok", ++checks);
    print_v(format, arguments);
    put('\n');
    failures += !passed;
    return passed;
}

bool ok(bool passed, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    ok_v(passed, format, arguments);
    va_end(arguments);
    return passed;
}

bool ok_equal(uint64_t got, uint64_t expected, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (!ok_v(got == expected, format, arguments))
        note("got %#llx, expected %#llx", (unsigned long long)got, (unsigned long long)expected);
    va_end(arguments);
    return got == expected;
}

void note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    put_string("#   ");
    print_v(format, arguments);
    put('\n');
    va_end(arguments);
}

void skip(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print("ok %u # SKIP ", ++checks);
    print_v(format, arguments);
    put('\n');
    va_end(arguments);
}

static _Noreturn void leave(uint8_t value)
{
    for (;;)
        outb(PORT_DEBUG_EXIT, value);
}

void finish(void)
{
    print("1..%u\n", checks);
    leave(failures != 0);
}

void bail_out(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    put_string("Bail out! ");
    print_v(format, arguments);
    put('\n');
    leave(2);
}

/* ---- checks of traps ---- */

void trap_print(const struct trap *t)
{
    const struct regs *r = &t->regs;
    note("vector %lu error %s%lx cr2 %lx at %lx:%lx flags %lx ss:sp %lx:%lx frame %lx dr6 %lx", t->vector,
         t->has_error ? "" : "none ", t->error, t->cr2, r->cs, r->ip, r->flags, r->ss, r->sp, t->frame, t->dr6);
}

static bool trap_matches(const struct trap *t, word vector, word error, const void *ip)
{
    return t->vector == vector && (error == NO_ERROR ? !t->has_error : t->has_error && t->error == error) &&
           t->regs.ip == (word)ip;
}

static void trap_expected(const struct trap *t, word vector, word error, const void *ip)
{
    trap_print(t);
    note("expected vector %lu error %lx at %lx", vector, error, (word)ip);
}

bool ok_trap(const struct trap *t, word vector, word error, const void *ip, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    bool passed = ok_v(trap_matches(t, vector, error, ip), format, arguments);
    va_end(arguments);
    if (!passed)
        trap_expected(t, vector, error, ip);
    return passed;
}

bool ok_pf(const struct trap *t, word error, word cr2, const void *ip, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    bool passed = ok_v(trap_matches(t, PF, error, ip) && t->cr2 == cr2, format, arguments);
    va_end(arguments);
    if (!passed) {
        trap_expected(t, PF, error, ip);
        note("and cr2 %lx", cr2);
    }
    return passed;
}

bool ok_done(const struct trap *t, const char *end, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    word ip = t->regs.ip;
    bool passed = ok_v(t->vector == DONE && (ip == (word)end + 2 || ip == USER(end) + 2), format, arguments);
    va_end(arguments);
    if (!passed)
        trap_expected(t, DONE, NO_ERROR, end + 2);
    return passed;
}
