/* Fuzz target: any bytes to each decompressor, by their magic or, for bytes without one, by the first byte. Output
 * stays within the limit. */
#include <assert.h>

#include "boot/decompress.h"

#define LIMIT (1 * MiB)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return 0;
    enum compression compression = compression_detect(bytes, size);
    if (compression == COMPRESSION_NONE)
        compression = (enum compression)(bytes[0] % (COMPRESSION_LZ4_FRAME + 1));
    struct buffer out;
    struct error err = {0};
    if (decompress(compression, bytes, size, LIMIT, &out, &err))
        assert(out.size <= LIMIT);
    else
        assert(err.message[0] != '\0' && out.bytes == NULL);
    buffer_free(&out);
    if (decompress_head(compression, bytes, size, 100, &out))
        assert(out.size > 0 && out.size <= 100);
    buffer_free(&out);
    return 0;
}
