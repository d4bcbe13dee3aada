/* printf without a library, for the kernel and for programs: %d %u %x %lx %lu %s %c %%, a width, '-' and '0'. */
#ifndef PRIMER_FORMAT_H
#define PRIMER_FORMAT_H

#include <stdarg.h>

void format(void (*put)(void *opaque, char c), void *opaque, const char *text, va_list arguments);

#endif
