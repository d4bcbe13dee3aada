/* Decompression of what kernels are wrapped in, with stock libraries and a bound on the output. Internal to src/boot.
 *
 * Recognised by their magic: gzip, xz, zstd, LZ4 in its legacy frame (the only one the kernel build uses), LZMA
 * ("alone"), bzip2. LZO and LZ4's newer frame are recognised but not decompressed. Data behind the end of the
 * compressed stream is ignored: the kernel build appends the uncompressed size there. */
#ifndef RING3_BOOT_DECOMPRESS_H
#define RING3_BOOT_DECOMPRESS_H

#include "base/error.h"
#include "base/types.h"

enum compression {
    COMPRESSION_NONE,
    COMPRESSION_GZIP,
    COMPRESSION_XZ,
    COMPRESSION_ZSTD,
    COMPRESSION_LZ4,
    COMPRESSION_LZMA,
    COMPRESSION_BZIP2,
    COMPRESSION_LZO,       /* not supported */
    COMPRESSION_LZ4_FRAME, /* not supported */
};

/* Host memory that its holder frees. */
struct buffer {
    uint8_t *bytes;
    uint64_t size;
};

enum compression compression_detect(const uint8_t *bytes, uint64_t size);
const char *compression_name(enum compression compression);
bool compression_supported(enum compression compression);

/* Decompresses `size` bytes at `bytes` into `out`. False with a message when the data is damaged, ends early, is of
 * an unsupported kind, or gives more than `limit` bytes; `out` is then empty. The host memory used is bounded by
 * `limit` and a constant. */
bool decompress(enum compression compression, const uint8_t *bytes, uint64_t size, uint64_t limit, struct buffer *out,
                struct error *err);

/* The first bytes, up to `limit`, as many as there are without error: to look at what is inside. */
bool decompress_head(enum compression compression, const uint8_t *bytes, uint64_t size, uint64_t limit,
                     struct buffer *out);

void buffer_free(struct buffer *buffer);

#endif
