/* Floating point: a matrix of doubles by SSE2 and by the x87, whatever the ABI's own choice is; packed floats by SSE
 * and by AVX. In 32-bit programs Debian's compiler uses the x87, in 64-bit ones SSE2. */
#include <immintrin.h>

#include "bench.h"

#define MATRIX_SIZE 24
#define MATRIX_OPERATIONS (MATRIX_SIZE * MATRIX_SIZE * MATRIX_SIZE)
#define PACKED_COUNT 1024

/* --- matrix --- */

static double matrix_a[MATRIX_SIZE][MATRIX_SIZE], matrix_b[MATRIX_SIZE][MATRIX_SIZE],
    matrix_c[MATRIX_SIZE][MATRIX_SIZE];

static const char *matrix_setup(void)
{
    if (!__builtin_cpu_supports("sse2"))
        return "the processor has no SSE2";
    for (unsigned i = 0; i < MATRIX_SIZE; i++) {
        for (unsigned j = 0; j < MATRIX_SIZE; j++) {
            matrix_a[i][j] = 1.0 / (1 + i + j);
            matrix_b[i][j] = i == j ? 2.0 : 0.5;
        }
    }
    return NULL;
}

#define MATRIX_MULTIPLY(name, options)                                                                                 \
    static __attribute__((noinline, target(options))) void name(void)                                                  \
    {                                                                                                                  \
        for (unsigned i = 0; i < MATRIX_SIZE; i++) {                                                                   \
            for (unsigned j = 0; j < MATRIX_SIZE; j++) {                                                               \
                double sum = 0;                                                                                        \
                for (unsigned k = 0; k < MATRIX_SIZE; k++)                                                             \
                    sum += matrix_a[i][k] * matrix_b[k][j];                                                            \
                matrix_c[i][j] = sum;                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }
MATRIX_MULTIPLY(matrix_multiply_sse, "sse2,fpmath=sse")
MATRIX_MULTIPLY(matrix_multiply_x87, "fpmath=387")

/* Every bit of the result counts: the x87 keeps more of a sum than SSE2 does. */
static void matrix_check(void)
{
    for (unsigned i = 0; bench_checking && i < MATRIX_SIZE * MATRIX_SIZE; i++) {
        union {
            double number;
            uint64_t bits;
        } cell = {matrix_c[i / MATRIX_SIZE][i % MATRIX_SIZE]};
        bench_sink = bench_sink * 31 + cell.bits;
    }
}

static void matrix_sse_run(uint64_t n)
{
    while (n-- > 0)
        matrix_multiply_sse();
    matrix_check();
}

static void matrix_x87_run(uint64_t n)
{
    while (n-- > 0)
        matrix_multiply_x87();
    matrix_check();
}

/* --- sse, avx --- */

static float packed_x[PACKED_COUNT] __attribute__((aligned(32))), packed_y[PACKED_COUNT] __attribute__((aligned(32)));

static const char *sse_setup(void)
{
    for (unsigned i = 0; i < PACKED_COUNT; i++) {
        packed_x[i] = 1.0f / (float)(i + 1);
        packed_y[i] = 1.0f;
    }
    return __builtin_cpu_supports("sse2") ? NULL : "the processor has no SSE2";
}

static const char *avx_setup(void)
{
    sse_setup();
    return __builtin_cpu_supports("avx") ? NULL : "the processor has no AVX";
}

static void packed_check(void)
{
    for (unsigned i = 0; bench_checking && i < PACKED_COUNT; i++) {
        union {
            float number;
            uint32_t bits;
        } cell = {packed_y[i]};
        bench_sink = bench_sink * 31 + cell.bits;
    }
}

static __attribute__((noinline, target("sse2"))) void sse_round(void)
{
    __m128 a = _mm_set1_ps(0.999f);
    for (unsigned i = 0; i < PACKED_COUNT; i += 4)
        _mm_store_ps(&packed_y[i], _mm_add_ps(_mm_mul_ps(_mm_load_ps(&packed_y[i]), a), _mm_load_ps(&packed_x[i])));
}

static __attribute__((noinline, target("avx"))) void avx_round(void)
{
    __m256 a = _mm256_set1_ps(0.999f);
    for (unsigned i = 0; i < PACKED_COUNT; i += 8)
        _mm256_store_ps(&packed_y[i],
                        _mm256_add_ps(_mm256_mul_ps(_mm256_load_ps(&packed_y[i]), a), _mm256_load_ps(&packed_x[i])));
}

static void sse_run(uint64_t n)
{
    while (n-- > 0)
        sse_round();
    packed_check();
}

static void avx_run(uint64_t n)
{
    while (n-- > 0)
        avx_round();
    packed_check();
}

static const struct row rows[] = {
    {"matrix-sse", "matrix, a multiply-add of doubles, SSE2", ROW_COMPUTE, MATRIX_OPERATIONS, matrix_setup,
     matrix_sse_run, NULL},
    {"matrix-x87", "matrix, a multiply-add of doubles, x87", ROW_COMPUTE, MATRIX_OPERATIONS, matrix_setup,
     matrix_x87_run, NULL},
    {"sse", "packed floats, 4 multiply-adds", ROW_COMPUTE, PACKED_COUNT / 4, sse_setup, sse_run, NULL},
    {"avx", "packed floats, 8 multiply-adds", ROW_COMPUTE, PACKED_COUNT / 8, avx_setup, avx_run, NULL},
};
const struct rows vector_rows = {rows, ARRAY_LEN(rows)};
