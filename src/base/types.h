/* The address types. The bare word "address" never stands alone in ring3:
 *
 *   gva_t  a guest linear (virtual) address, segment base already added
 *   gpa_t  a guest physical address
 *   hva    a host pointer; always written as a pointer type
 */
#ifndef RING3_BASE_TYPES_H
#define RING3_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gva_t;
typedef uint64_t gpa_t;

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096u
#define PAGE_OFFSET_MASK 0xfffull

#define KiB 1024ull
#define MiB (1024ull * KiB)
#define GiB (1024ull * MiB)

#define NS_PER_S 1000000000ull

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#endif
