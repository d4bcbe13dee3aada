/* Kernels of user instructions: each a different way in which an execution engine can be slow.
 *
 *   sort       loads, stores and branches that depend on data
 *   list       dependent loads over 256 KiB
 *   crc32      a chain of table look-ups
 *   hash       loads over 8 MiB: the guest's and the engine's TLB
 *   copy       the shortest loop
 *   rep-movs   one instruction that does much
 *   indirect   calls through a table
 *   recursion  calls and returns
 *   divide     64-bit division, in 32-bit code by a library function
 *
 * Built with vectorisation and loop idioms off, so that the source says what is executed. */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

#define NOINLINE __attribute__((noinline))

/* --- sort --- */

#define SORT_COUNT 2048

static int sort_source[SORT_COUNT], sort_work[SORT_COUNT];

static const char *sort_setup(void)
{
    uint64_t seed = 1;
    for (unsigned i = 0; i < SORT_COUNT; i++)
        sort_source[i] = (int)random_next(&seed);
    return NULL;
}

static NOINLINE void sort_ints(int *a, long n)
{
    while (n > 12) {
        int pivot = a[n / 2];
        long i = 0, j = n - 1;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                int t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        sort_ints(a + i, n - i);
        n = j + 1;
    }
    for (long i = 1; i < n; i++) {
        int value = a[i];
        long j = i;
        for (; j > 0 && a[j - 1] > value; j--)
            a[j] = a[j - 1];
        a[j] = value;
    }
}

static void sort_run(uint64_t n)
{
    while (n-- > 0) {
        memcpy(sort_work, sort_source, sizeof sort_work);
        sort_ints(sort_work, SORT_COUNT);
        bench_sink += (unsigned)sort_work[SORT_COUNT / 2];
    }
}

/* --- list --- */

#define LIST_COUNT 4096
#define LIST_STEPS 4095 /* a round does not end where it began */

struct node {
    struct node *next;
    char rest[64 - sizeof(struct node *)];
};

static struct node list_nodes[LIST_COUNT];

static const char *list_setup(void)
{
    static unsigned order[LIST_COUNT];
    uint64_t seed = 2;
    for (unsigned i = 0; i < LIST_COUNT; i++)
        order[i] = i;
    for (unsigned i = LIST_COUNT - 1; i > 0; i--) {
        unsigned j = (unsigned)(random_next(&seed) % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (unsigned i = 0; i < LIST_COUNT; i++)
        list_nodes[order[i]].next = &list_nodes[order[(i + 1) % LIST_COUNT]];
    return NULL;
}

static void list_run(uint64_t n)
{
    struct node *node = list_nodes;
    while (n-- > 0) {
        for (unsigned i = 0; i < LIST_STEPS; i++) {
            node = node->next;
            __asm__("" : "+r"(node));
        }
    }
    bench_sink += (uint64_t)(node - list_nodes);
}

/* --- crc32 --- */

#define CRC_SIZE 4096

static uint32_t crc_table[256];
static unsigned char crc_data[CRC_SIZE];

static const char *crc_setup(void)
{
    uint64_t seed = 3;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
        crc_table[i] = crc;
    }
    for (unsigned i = 0; i < CRC_SIZE; i++)
        crc_data[i] = (unsigned char)random_next(&seed);
    return NULL;
}

static void crc_run(uint64_t n)
{
    uint32_t crc = ~0u;
    while (n-- > 0) {
        for (unsigned i = 0; i < CRC_SIZE; i++)
            crc = crc >> 8 ^ crc_table[(crc ^ crc_data[i]) & 0xff];
    }
    bench_sink += crc;
}

/* --- hash --- */

#define HASH_SLOTS (UINT32_C(1) << 20) /* of 8 bytes: 8 MiB */
#define HASH_KEYS (HASH_SLOTS / 2)
#define HASH_ROUND 1024

static uint64_t *hash_slots;
static uint64_t hash_seed;

static uint32_t hash_of(uint64_t key)
{
    return (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 44);
}

static const char *hash_setup(void)
{
    hash_slots = mmap(NULL, HASH_SLOTS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (hash_slots == MAP_FAILED)
        return "no memory for the table";
    madvise(hash_slots, HASH_SLOTS * 8, MADV_NOHUGEPAGE);
    uint64_t seed = 4;
    for (uint32_t i = 0; i < HASH_KEYS; i++) {
        uint64_t key = random_next(&seed) | 1;
        uint32_t slot = hash_of(key);
        while (hash_slots[slot] != 0 && hash_slots[slot] != key)
            slot = (slot + 1) % HASH_SLOTS;
        hash_slots[slot] = key;
    }
    hash_seed = 4;
    return NULL;
}

/* Looks up the keys in the order in which they came. */
static void hash_run(uint64_t n)
{
    static uint32_t done;
    for (n *= HASH_ROUND; n > 0; n--) {
        uint64_t key = random_next(&hash_seed) | 1;
        uint32_t slot = hash_of(key);
        while (hash_slots[slot] != key && hash_slots[slot] != 0)
            slot = (slot + 1) % HASH_SLOTS;
        bench_sink += slot;
        if (++done == HASH_KEYS) {
            done = 0;
            hash_seed = 4;
        }
    }
}

/* --- copy, rep-movs --- */

#define COPY_SIZE 16384

static char copy_from[COPY_SIZE], copy_to[COPY_SIZE];

static const char *copy_setup(void)
{
    uint64_t seed = 6;
    for (unsigned i = 0; i < COPY_SIZE; i++)
        copy_from[i] = (char)random_next(&seed);
    return NULL;
}

static void copy_check(void)
{
    for (unsigned i = 0; bench_checking && i < COPY_SIZE; i++)
        bench_sink = bench_sink * 31 + (unsigned char)copy_to[i];
}

static void copy_run(uint64_t n)
{
    while (n-- > 0) {
        for (unsigned i = 0; i < COPY_SIZE; i++) {
            copy_to[i] = copy_from[i];
            __asm__ volatile("" ::: "memory");
        }
    }
    copy_check();
}

static void rep_movs_run(uint64_t n)
{
    while (n-- > 0) {
        char *to = copy_to;
        const char *from = copy_from;
        unsigned long count = 4096;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
    copy_check();
}

/* --- indirect --- */

#define INDIRECT_ROUND 1024

static NOINLINE uint32_t op_add(uint32_t x)
{
    return x + 0x1234567;
}
static NOINLINE uint32_t op_xor(uint32_t x)
{
    return x ^ 0x5bd1e995;
}
static NOINLINE uint32_t op_rotate(uint32_t x)
{
    return x << 7 | x >> 25;
}
static NOINLINE uint32_t op_multiply(uint32_t x)
{
    return x * 1664525;
}
static NOINLINE uint32_t op_not(uint32_t x)
{
    return ~x;
}
static NOINLINE uint32_t op_shift(uint32_t x)
{
    return x ^ x >> 13;
}
static NOINLINE uint32_t op_subtract(uint32_t x)
{
    return x - 0x7654321;
}
static NOINLINE uint32_t op_swap(uint32_t x)
{
    return __builtin_bswap32(x);
}

static uint32_t (*volatile const operations[8])(uint32_t) = {op_add, op_xor,   op_rotate,   op_multiply,
                                                             op_not, op_shift, op_subtract, op_swap};

static void indirect_run(uint64_t n)
{
    uint32_t x = 1;
    while (n-- > 0) {
        for (unsigned i = 0; i < INDIRECT_ROUND; i++)
            x = operations[(x >> 11 ^ i) % 8](x);
    }
    bench_sink += x;
}

/* --- recursion --- */

#define FIBONACCI 16
#define FIBONACCI_CALLS 3193

static __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls", "no-inline"))) unsigned
fibonacci(unsigned n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static void recursion_run(uint64_t n)
{
    while (n-- > 0)
        bench_sink += fibonacci(FIBONACCI);
}

/* --- divide --- */

#define DIVIDE_ROUND 256

static void divide_run(uint64_t n)
{
    uint64_t x = 0x123456789abcdef1ull;
    while (n-- > 0) {
        for (unsigned i = 0; i < DIVIDE_ROUND; i++)
            x = (x << 17 ^ x >> 9) + UINT64_MAX / (x | 0x100000001ull);
    }
    bench_sink += x;
}

static const struct row rows[] = {
    {"sort", "integer sort, an element", ROW_COMPUTE, SORT_COUNT, sort_setup, sort_run, NULL},
    {"list", "list walk, a node", ROW_COMPUTE, LIST_STEPS, list_setup, list_run, NULL},
    {"crc32", "CRC-32 by table, a byte", ROW_COMPUTE, CRC_SIZE, crc_setup, crc_run, NULL},
    {"hash", "hash table of 8 MiB, a look-up", ROW_COMPUTE, HASH_ROUND, hash_setup, hash_run, NULL},
    {"copy", "copy loop, a byte", ROW_COMPUTE, COPY_SIZE, copy_setup, copy_run, NULL},
    {"rep-movs", "REP MOVSB of 4 KiB", ROW_COMPUTE, 1, copy_setup, rep_movs_run, NULL},
    {"indirect", "call through a table", ROW_COMPUTE, INDIRECT_ROUND, NULL, indirect_run, NULL},
    {"recursion", "Fibonacci numbers, a call", ROW_COMPUTE, FIBONACCI_CALLS, NULL, recursion_run, NULL},
    {"divide", "64-bit division", ROW_COMPUTE, DIVIDE_ROUND, NULL, divide_run, NULL},
};
const struct rows compute_rows = {rows, ARRAY_LEN(rows)};
