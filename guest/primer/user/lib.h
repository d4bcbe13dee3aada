/* What programs have: the system calls by name, text, and marks. */
#ifndef PRIMER_LIB_H
#define PRIMER_LIB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../syscalls.h"

long system_call(long number, long a, long b, long c); /* start.S */

_Noreturn void exit(int status);
int fork(void);
long read(int file, void *bytes, size_t n);
long write(int file, const void *bytes, size_t n);
int open(const char *name);
int create(const char *name); /* and remove(): only in the build for a whole PC */
int remove(const char *name);
int close(int file);
int wait(int *status, int options);
int exec(const char *command);
int getpid(void);
int kill(int pid);
void sleep(unsigned ms);
unsigned long time(void);
void yield(void);

size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
unsigned number_parse(const char *text, unsigned otherwise); /* decimal; `otherwise` if there is none */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A mark for whoever watches the machine: '[' before what is meant, ']' after it. docs/hypercalls.md. */
static inline void mark(char c)
{
    __asm__ volatile("outb %0, %1" ::"a"(c), "d"((uint16_t)0x402));
}

int main(int argc, char **argv);

#endif
