/* See lib.h. */
#include "lib.h"

#include "../format.h"

#define WORDS_MAX 16

void exit(int status)
{
    for (;;)
        system_call(SYS_EXIT, status, 0, 0);
}

int fork(void)
{
    return (int)system_call(SYS_FORK, 0, 0, 0);
}

long read(int file, void *bytes, size_t n)
{
    return system_call(SYS_READ, file, (long)bytes, (long)n);
}

long write(int file, const void *bytes, size_t n)
{
    return system_call(SYS_WRITE, file, (long)bytes, (long)n);
}

int open(const char *name)
{
    return (int)system_call(SYS_OPEN, (long)name, 0, 0);
}

int create(const char *name)
{
    return (int)system_call(SYS_CREATE, (long)name, 0, 0);
}

int remove(const char *name)
{
    return (int)system_call(SYS_REMOVE, (long)name, 0, 0);
}

int close(int file)
{
    return (int)system_call(SYS_CLOSE, file, 0, 0);
}

int wait(int *status, int options)
{
    return (int)system_call(SYS_WAIT, (long)status, options, 0);
}

int exec(const char *command)
{
    return (int)system_call(SYS_EXEC, (long)command, 0, 0);
}

int getpid(void)
{
    return (int)system_call(SYS_GETPID, 0, 0, 0);
}

int kill(int pid)
{
    return (int)system_call(SYS_KILL, pid, 0, 0);
}

void sleep(unsigned ms)
{
    system_call(SYS_SLEEP, ms, 0, 0);
}

unsigned long time(void)
{
    return (unsigned long)system_call(SYS_TIME, 0, 0, 0);
}

void yield(void)
{
    system_call(SYS_YIELD, 0, 0, 0);
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
    while (*a != 0 && *a == *b)
        a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

unsigned number_parse(const char *text, unsigned otherwise)
{
    unsigned value = 0;
    if (text == NULL || *text < '0' || *text > '9')
        return otherwise;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (unsigned)(*text - '0');
    return value;
}

struct line {
    char bytes[80];
    unsigned length;
};

static void line_put(void *opaque, char c)
{
    struct line *line = opaque;
    if (line->length == sizeof(line->bytes)) {
        write(STDOUT, line->bytes, line->length);
        line->length = 0;
    }
    line->bytes[line->length++] = c;
}

void printf(const char *text, ...)
{
    struct line line = {.length = 0};
    va_list arguments;
    va_start(arguments, text);
    format(line_put, &line, text, arguments);
    va_end(arguments);
    write(STDOUT, line.bytes, line.length);
}

/* Called by start.S with the command line, which it cuts into words. */
void user_start(char *command)
{
    char *argv[WORDS_MAX + 1];
    int argc = 0;
    while (argc < WORDS_MAX) {
        while (*command == ' ')
            command++;
        if (*command == 0)
            break;
        argv[argc++] = command;
        while (*command != 0 && *command != ' ')
            command++;
        if (*command == ' ')
            *command++ = 0;
    }
    argv[argc] = NULL;
    exit(main(argc, argv));
}
