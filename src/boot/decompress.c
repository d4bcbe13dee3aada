/* Bounded decompression; see decompress.h.
 *
 * Each format is one function that feeds the library and takes what comes out through a `struct sink`. The sink grows
 * by doubling up to one byte more than the limit: the byte too many is how overlong output is noticed, so
 * that a bomb costs no more than the limit. The libraries' own appetite is bounded by their memory limits:
 * liblzma's dictionaries and zstd's windows to 128 MiB, which the kernel's settings (xz: 32 MiB dictionary,
 * zstd -22 --ultra: 128 MiB window) just need.
 *
 * In LZ4's legacy frame nothing marks the end: blocks of a 32-bit size and data, each worth at most 8 MiB, follow
 * the magic to the end of the file. The kernel build appends the uncompressed size, 4 bytes, which would
 * read as another block's size; 4 bytes or fewer at the end are therefore not a block. */
#include "boot/decompress.h"

#include <bzlib.h>
#include <inttypes.h>
#include <limits.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/check.h"

#define LZ4_LEGACY_BLOCK (8 * MiB)
#define DICTIONARY_MAX (128 * MiB)
#define DECODER_MEMORY_MAX (DICTIONARY_MAX + 16 * MiB)
#define SINK_FIRST (64 * KiB)

struct sink {
    uint8_t *bytes;
    uint64_t size;
    uint64_t capacity;
    uint64_t limit;
};

enum result { RESULT_END, RESULT_FULL, RESULT_DAMAGED, RESULT_TRUNCATED, RESULT_NO_MEMORY, RESULT_WINDOW };

static const struct {
    const char *name;
    const uint8_t *magic;
    uint8_t size;
} formats[] = {
    [COMPRESSION_NONE] = {"uncompressed", NULL, 0},
    [COMPRESSION_GZIP] = {"gzip", (const uint8_t[]){0x1f, 0x8b}, 2},
    [COMPRESSION_XZ] = {"xz", (const uint8_t[]){0xfd, '7', 'z', 'X', 'Z', 0}, 6},
    [COMPRESSION_ZSTD] = {"zstd", (const uint8_t[]){0x28, 0xb5, 0x2f, 0xfd}, 4},
    [COMPRESSION_LZ4] = {"LZ4", (const uint8_t[]){0x02, 0x21, 0x4c, 0x18}, 4},
    [COMPRESSION_LZMA] = {"LZMA", (const uint8_t[]){0x5d, 0, 0}, 3},
    [COMPRESSION_BZIP2] = {"bzip2", (const uint8_t[]){'B', 'Z', 'h'}, 3},
    [COMPRESSION_LZO] = {"LZO", (const uint8_t[]){0x89, 'L', 'Z', 'O', 0, 0x0d, 0x0a, 0x1a, 0x0a}, 9},
    [COMPRESSION_LZ4_FRAME] = {"LZ4 frame", (const uint8_t[]){0x04, 0x22, 0x4d, 0x18}, 4},
};

enum compression compression_detect(const uint8_t *bytes, uint64_t size)
{
    for (unsigned i = COMPRESSION_GZIP; i < ARRAY_LEN(formats); i++)
        if (size >= formats[i].size && memcmp(bytes, formats[i].magic, formats[i].size) == 0)
            return (enum compression)i;
    return COMPRESSION_NONE;
}

const char *compression_name(enum compression compression)
{
    check(compression < ARRAY_LEN(formats));
    return formats[compression].name;
}

bool compression_supported(enum compression compression)
{
    return compression >= COMPRESSION_GZIP && compression <= COMPRESSION_BZIP2;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct buffer){0};
}

/* Room for at least one more byte (and for `want` when the limit allows); RESULT_END stands for "go on". */
static enum result sink_grow(struct sink *sink, uint64_t want)
{
    if (sink->size > sink->limit)
        return RESULT_FULL;
    uint64_t most = sink->limit + 1;
    uint64_t need = want < most - sink->size ? sink->size + want : most;
    if (need <= sink->capacity)
        return RESULT_END;
    uint64_t capacity = sink->capacity < SINK_FIRST ? SINK_FIRST : sink->capacity;
    while (capacity < need)
        capacity *= 2;
    if (capacity > most)
        capacity = most;
    uint8_t *bytes = realloc(sink->bytes, capacity);
    if (bytes == NULL)
        return RESULT_NO_MEMORY;
    sink->bytes = bytes;
    sink->capacity = capacity;
    return RESULT_END;
}

static unsigned clamp_uint(uint64_t value)
{
    return value < UINT_MAX ? (unsigned)value : UINT_MAX;
}

static enum result gzip_run(struct sink *sink, const uint8_t *bytes, uint64_t size)
{
    z_stream stream = {0};
    if (inflateInit2(&stream, 15 + 16) != Z_OK)
        return RESULT_NO_MEMORY;
    enum result result;
    uint64_t used = 0;
    while ((result = sink_grow(sink, 1)) == RESULT_END) {
        unsigned in = clamp_uint(size - used), room = clamp_uint(sink->capacity - sink->size);
        stream.next_in = (Bytef *)(bytes + used);
        stream.avail_in = in;
        stream.next_out = sink->bytes + sink->size;
        stream.avail_out = room;
        int status = inflate(&stream, Z_NO_FLUSH);
        used += in - stream.avail_in;
        sink->size += room - stream.avail_out;
        if (status == Z_STREAM_END)
            break;
        if (status != Z_OK) {
            result = status == Z_MEM_ERROR   ? RESULT_NO_MEMORY
                     : status == Z_BUF_ERROR ? RESULT_TRUNCATED
                                             : RESULT_DAMAGED;
            break;
        }
    }
    inflateEnd(&stream);
    return result;
}

static enum result bzip2_run(struct sink *sink, const uint8_t *bytes, uint64_t size)
{
    bz_stream stream = {0};
    if (BZ2_bzDecompressInit(&stream, 0, 0) != BZ_OK)
        return RESULT_NO_MEMORY;
    enum result result;
    uint64_t used = 0;
    while ((result = sink_grow(sink, 1)) == RESULT_END) {
        unsigned in = clamp_uint(size - used), room = clamp_uint(sink->capacity - sink->size);
        stream.next_in = (char *)(uintptr_t)(bytes + used);
        stream.avail_in = in;
        stream.next_out = (char *)(sink->bytes + sink->size);
        stream.avail_out = room;
        int status = BZ2_bzDecompress(&stream);
        bool stuck = stream.avail_in == in && stream.avail_out == room;
        used += in - stream.avail_in;
        sink->size += room - stream.avail_out;
        if (status == BZ_STREAM_END)
            break;
        if (status != BZ_OK || stuck) {
            result = status == BZ_OK ? RESULT_TRUNCATED : status == BZ_MEM_ERROR ? RESULT_NO_MEMORY : RESULT_DAMAGED;
            break;
        }
    }
    BZ2_bzDecompressEnd(&stream);
    return result;
}

static enum result lzma_result(lzma_ret status)
{
    switch (status) {
    case LZMA_MEM_ERROR:
        return RESULT_NO_MEMORY;
    case LZMA_MEMLIMIT_ERROR:
        return RESULT_WINDOW;
    case LZMA_BUF_ERROR:
        return RESULT_TRUNCATED;
    default:
        return RESULT_DAMAGED;
    }
}

/* xz (with its x86 branch filter, which kernels use) and LZMA differ in the decoder that is set up. */
static enum result lzma_run(struct sink *sink, const uint8_t *bytes, uint64_t size, bool alone)
{
    lzma_stream stream = LZMA_STREAM_INIT;
    lzma_ret status =
        alone ? lzma_alone_decoder(&stream, DECODER_MEMORY_MAX) : lzma_stream_decoder(&stream, DECODER_MEMORY_MAX, 0);
    if (status != LZMA_OK)
        return lzma_result(status);
    stream.next_in = bytes;
    stream.avail_in = size;
    enum result result;
    while ((result = sink_grow(sink, 1)) == RESULT_END) {
        stream.next_out = sink->bytes + sink->size;
        stream.avail_out = sink->capacity - sink->size;
        status = lzma_code(&stream, LZMA_RUN);
        sink->size = sink->capacity - stream.avail_out;
        if (status == LZMA_STREAM_END)
            break;
        if (status != LZMA_OK) {
            result = lzma_result(status);
            break;
        }
    }
    lzma_end(&stream);
    return result;
}

static enum result zstd_run(struct sink *sink, const uint8_t *bytes, uint64_t size)
{
    ZSTD_DStream *stream = ZSTD_createDStream();
    if (stream == NULL)
        return RESULT_NO_MEMORY;
    ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, 27);
    ZSTD_inBuffer in = {bytes, size, 0};
    enum result result;
    while ((result = sink_grow(sink, 1)) == RESULT_END) {
        ZSTD_outBuffer out = {sink->bytes, sink->capacity, sink->size};
        size_t in_before = in.pos;
        size_t status = ZSTD_decompressStream(stream, &out, &in);
        bool stuck = in.pos == in_before && out.pos == sink->size;
        sink->size = out.pos;
        if (status == 0)
            break;
        if (ZSTD_isError(status) || stuck) {
            ZSTD_ErrorCode code = ZSTD_getErrorCode(status);
            result = stuck && !ZSTD_isError(status)                     ? RESULT_TRUNCATED
                     : code == ZSTD_error_memory_allocation             ? RESULT_NO_MEMORY
                     : code == ZSTD_error_frameParameter_windowTooLarge ? RESULT_WINDOW
                                                                        : RESULT_DAMAGED;
            break;
        }
    }
    ZSTD_freeDStream(stream);
    return result;
}

static enum result lz4_run(struct sink *sink, const uint8_t *bytes, uint64_t size)
{
    uint64_t at = 4;
    enum result result;
    while ((result = sink_grow(sink, LZ4_LEGACY_BLOCK)) == RESULT_END && size - at > 4) {
        uint32_t block;
        memcpy(&block, bytes + at, sizeof block);
        at += 4;
        if (block == 0x184c2102) /* another frame, concatenated */
            continue;
        if (block > size - at)
            return RESULT_TRUNCATED;
        if (block == 0 || block > (uint32_t)LZ4_compressBound(LZ4_LEGACY_BLOCK))
            return RESULT_DAMAGED;
        uint64_t room = sink->capacity - sink->size;
        int target = (int)(room < LZ4_LEGACY_BLOCK ? room : LZ4_LEGACY_BLOCK);
        int n = LZ4_decompress_safe_partial((const char *)bytes + at, (char *)sink->bytes + sink->size, (int)block,
                                            target, target);
        if (n < 0)
            return RESULT_DAMAGED;
        sink->size += (unsigned)n;
        at += block;
    }
    return result;
}

static enum result run(enum compression compression, struct sink *sink, const uint8_t *bytes, uint64_t size)
{
    switch (compression) {
    case COMPRESSION_GZIP:
        return gzip_run(sink, bytes, size);
    case COMPRESSION_XZ:
        return lzma_run(sink, bytes, size, false);
    case COMPRESSION_LZMA:
        return lzma_run(sink, bytes, size, true);
    case COMPRESSION_ZSTD:
        return zstd_run(sink, bytes, size);
    case COMPRESSION_LZ4:
        return size < 4 ? RESULT_TRUNCATED : lz4_run(sink, bytes, size);
    case COMPRESSION_BZIP2:
        return bzip2_run(sink, bytes, size);
    default:
        return RESULT_DAMAGED;
    }
}

bool decompress(enum compression compression, const uint8_t *bytes, uint64_t size, uint64_t limit, struct buffer *out,
                struct error *err)
{
    *out = (struct buffer){0};
    const char *name = compression_name(compression);
    if (!compression_supported(compression))
        return error_set(err, "%s data cannot be decompressed here", name);
    struct sink sink = {.limit = limit};
    enum result result = run(compression, &sink, bytes, size);
    if (result == RESULT_END && sink.size > limit)
        result = RESULT_FULL;
    if (result == RESULT_END) {
        *out = (struct buffer){sink.bytes, sink.size};
        return true;
    }
    free(sink.bytes);
    switch (result) {
    case RESULT_FULL:
        return error_set(err, "the %s data decompresses to more than %" PRIu64 " bytes", name, limit);
    case RESULT_TRUNCATED:
        return error_set(err, "the %s data ends early; the file is truncated", name);
    case RESULT_NO_MEMORY:
        return error_set(err, "out of memory");
    case RESULT_WINDOW:
        return error_set(err, "the %s data needs a dictionary of more than %llu MiB", name, DICTIONARY_MAX / MiB);
    default:
        return error_set(err, "the %s data is damaged", name);
    }
}

bool decompress_head(enum compression compression, const uint8_t *bytes, uint64_t size, uint64_t limit,
                     struct buffer *out)
{
    *out = (struct buffer){0};
    if (!compression_supported(compression) || limit == 0)
        return false;
    struct sink sink = {.limit = limit - 1};
    enum result result = run(compression, &sink, bytes, size);
    if (sink.size == 0 || result == RESULT_NO_MEMORY) {
        free(sink.bytes);
        return false;
    }
    *out = (struct buffer){sink.bytes, sink.size};
    return true;
}
