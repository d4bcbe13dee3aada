/* The AML assembler; see aml.h.
 *
 * The one difficulty of AML is that lengths stand before what they measure and are 1 to 4 bytes long, counting
 * themselves. A begun package reserves nothing: aml_end() moves the contents up by the size of the length once it is
 * known. Packages are small and nested at most five deep, so the moves cost nothing that matters.
 *
 * A mark is the offset at which the PkgLength will stand. */
#include "boot/aml.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_DUAL_NAME = 0x2e,
    AML_MULTI_NAME = 0x2f,
    AML_EXT = 0x5b,
    AML_LOCAL0 = 0x60,
    AML_ARG0 = 0x68,
    AML_STORE = 0x70,
    AML_IF = 0xa0,
    AML_RETURN = 0xa4,
};

enum aml_ext_op { AML_EXT_REGION = 0x80, AML_EXT_FIELD = 0x81, AML_EXT_DEVICE = 0x82, AML_EXT_PROCESSOR = 0x83 };

void aml_init(struct aml *aml)
{
    memset(aml, 0, sizeof *aml);
}

void aml_fini(struct aml *aml)
{
    free(aml->bytes);
    aml_init(aml);
}

static bool reserve(struct aml *aml, size_t size)
{
    if (aml->failed)
        return false;
    if (aml->capacity - aml->size >= size)
        return true;
    size_t capacity = aml->capacity == 0 ? 4096 : aml->capacity;
    while (capacity - aml->size < size)
        capacity *= 2;
    uint8_t *bytes = realloc(aml->bytes, capacity);
    if (bytes == NULL) {
        aml->failed = true;
        return false;
    }
    aml->bytes = bytes;
    aml->capacity = capacity;
    return true;
}

void aml_bytes(struct aml *aml, const void *bytes, size_t size)
{
    if (!reserve(aml, size))
        return;
    memcpy(aml->bytes + aml->size, bytes, size);
    aml->size += size;
}

void aml_u8(struct aml *aml, uint8_t value)
{
    aml_bytes(aml, &value, 1);
}

void aml_u16(struct aml *aml, uint16_t value)
{
    aml_bytes(aml, &value, 2);
}

void aml_u32(struct aml *aml, uint32_t value)
{
    aml_bytes(aml, &value, 4);
}

void aml_u64(struct aml *aml, uint64_t value)
{
    aml_bytes(aml, &value, 8);
}

/* One NameSeg; returns what follows it in the path. */
static const char *name_segment(struct aml *aml, const char *path)
{
    char segment[4] = "____";
    unsigned n = 0;
    for (; *path != '\0' && *path != '.'; path++, n++) {
        bool letter = (*path >= 'A' && *path <= 'Z') || *path == '_';
        bool digit = *path >= '0' && *path <= '9';
        check(n < 4 && (letter || (digit && n > 0)));
        segment[n] = *path;
    }
    check(n > 0);
    aml_bytes(aml, segment, 4);
    return *path == '.' ? path + 1 : path;
}

void aml_path(struct aml *aml, const char *path)
{
    if (*path == '\\')
        aml_u8(aml, (uint8_t)*path++);
    if (*path == '\0') { /* the root itself: RootChar NullName */
        aml_u8(aml, 0);
        return;
    }
    unsigned segments = 1;
    for (const char *p = path; *p != '\0'; p++)
        segments += *p == '.';
    if (segments == 2) {
        aml_u8(aml, AML_DUAL_NAME);
    } else if (segments > 2) {
        aml_u8(aml, AML_MULTI_NAME);
        aml_u8(aml, (uint8_t)segments);
    }
    while (*path != '\0')
        path = name_segment(aml, path);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value == 0) {
        aml_u8(aml, AML_ZERO);
    } else if (value == 1) {
        aml_u8(aml, AML_ONE);
    } else if (value <= UINT8_MAX) {
        aml_u8(aml, AML_BYTE);
        aml_u8(aml, (uint8_t)value);
    } else if (value <= UINT16_MAX) {
        aml_u8(aml, AML_WORD);
        aml_u16(aml, (uint16_t)value);
    } else if (value <= UINT32_MAX) {
        aml_u8(aml, AML_DWORD);
        aml_u32(aml, (uint32_t)value);
    } else {
        aml_u8(aml, AML_QWORD);
        aml_u64(aml, value);
    }
}

void aml_string(struct aml *aml, const char *string)
{
    aml_u8(aml, AML_STRING);
    aml_bytes(aml, string, strlen(string) + 1);
}

static unsigned hex_digit(char c)
{
    check((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'));
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

/* Three letters of five bits and four hexadecimal digits, most significant byte first in memory. */
void aml_eisa_id(struct aml *aml, const char *id)
{
    check(strlen(id) == 7);
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; i++) {
        check(id[i] >= 'A' && id[i] <= 'Z');
        value = value << 5 | (uint32_t)(id[i] - '@');
    }
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);
    aml_u8(aml, AML_DWORD);
    aml_u32(aml, __builtin_bswap32(value));
}

void aml_name(struct aml *aml, const char *path)
{
    aml_u8(aml, AML_NAME);
    aml_path(aml, path);
}

void aml_name_integer(struct aml *aml, const char *path, uint64_t value)
{
    aml_name(aml, path);
    aml_integer(aml, value);
}

void aml_return(struct aml *aml)
{
    aml_u8(aml, AML_RETURN);
}

void aml_store(struct aml *aml)
{
    aml_u8(aml, AML_STORE);
}

void aml_arg(struct aml *aml, unsigned n)
{
    check(n < 7);
    aml_u8(aml, (uint8_t)(AML_ARG0 + n));
}

void aml_local(struct aml *aml, unsigned n)
{
    check(n < 8);
    aml_u8(aml, (uint8_t)(AML_LOCAL0 + n));
}

void aml_region_io(struct aml *aml, const char *path, uint16_t port, uint16_t size)
{
    aml_u8(aml, AML_EXT);
    aml_u8(aml, AML_EXT_REGION);
    aml_path(aml, path);
    aml_u8(aml, 1); /* SystemIO */
    aml_integer(aml, port);
    aml_integer(aml, size);
}

size_t aml_scope_begin(struct aml *aml, const char *path)
{
    aml_u8(aml, AML_SCOPE);
    size_t mark = aml->size;
    aml_path(aml, path);
    return mark;
}

size_t aml_device_begin(struct aml *aml, const char *path)
{
    aml_u8(aml, AML_EXT);
    aml_u8(aml, AML_EXT_DEVICE);
    size_t mark = aml->size;
    aml_path(aml, path);
    return mark;
}

size_t aml_method_begin(struct aml *aml, const char *path, unsigned args)
{
    check(args < 8);
    aml_u8(aml, AML_METHOD);
    size_t mark = aml->size;
    aml_path(aml, path);
    aml_u8(aml, (uint8_t)args); /* not serialized, sync level 0 */
    return mark;
}

size_t aml_package_begin(struct aml *aml, uint8_t count)
{
    aml_u8(aml, AML_PACKAGE);
    size_t mark = aml->size;
    aml_u8(aml, count);
    return mark;
}

size_t aml_if_begin(struct aml *aml)
{
    aml_u8(aml, AML_IF);
    return aml->size;
}

size_t aml_field_begin(struct aml *aml, const char *region)
{
    aml_u8(aml, AML_EXT);
    aml_u8(aml, AML_EXT_FIELD);
    size_t mark = aml->size;
    aml_path(aml, region);
    aml_u8(aml, 1); /* ByteAcc, NoLock, Preserve */
    return mark;
}

void aml_field_unit(struct aml *aml, const char *name, unsigned bits)
{
    check(bits < 64 && strchr(name, '.') == NULL);
    name_segment(aml, name);
    aml_u8(aml, (uint8_t)bits); /* a PkgLength of one byte */
}

void aml_processor(struct aml *aml, const char *path, uint8_t id)
{
    aml_u8(aml, AML_EXT);
    aml_u8(aml, AML_EXT_PROCESSOR);
    size_t mark = aml->size;
    aml_path(aml, path);
    aml_u8(aml, id);
    aml_u32(aml, 0); /* no processor register block */
    aml_u8(aml, 0);
    aml_end(aml, mark);
}

/* PkgLength (20.2.4): up to 63 in one byte; else the low nibble, then up to three bytes, with their number on top of
 * the first. */
void aml_end(struct aml *aml, size_t mark)
{
    if (aml->failed)
        return;
    check(mark <= aml->size);
    size_t body = aml->size - mark;
    unsigned length_size = body + 1 < 1u << 6 ? 1 : body + 2 < 1u << 12 ? 2 : body + 3 < 1u << 20 ? 3 : 4;
    size_t length = body + length_size;
    check(length < 1u << 28);
    if (!reserve(aml, length_size))
        return;
    uint8_t *at = aml->bytes + mark;
    memmove(at + length_size, at, body);
    aml->size += length_size;
    if (length_size == 1) {
        at[0] = (uint8_t)length;
        return;
    }
    at[0] = (uint8_t)((length_size - 1) << 6 | (length & 15));
    length >>= 4;
    for (unsigned i = 1; i < length_size; i++, length >>= 8)
        at[i] = (uint8_t)length;
}

/* The buffer's size is a term before the descriptors: always encoded as a word, filled in at the end. */
size_t aml_resources_begin(struct aml *aml)
{
    aml_u8(aml, AML_BUFFER);
    size_t mark = aml->size;
    aml_u8(aml, AML_WORD);
    aml_u16(aml, 0);
    return mark;
}

void aml_resources_end(struct aml *aml, size_t mark)
{
    aml_u8(aml, 0x79); /* end tag, with a checksum of 0: "assume it is right" */
    aml_u8(aml, 0);
    if (aml->failed)
        return;
    size_t size = aml->size - mark - 3;
    check(size <= UINT16_MAX);
    memcpy(aml->bytes + mark + 1, &(uint16_t){(uint16_t)size}, 2);
    aml_end(aml, mark);
}

void aml_resource_io(struct aml *aml, uint16_t port, uint8_t size)
{
    aml_u8(aml, 0x47);
    aml_u8(aml, 1); /* decodes 16 bits */
    aml_u16(aml, port);
    aml_u16(aml, port);
    aml_u8(aml, 1);
    aml_u8(aml, size);
}

void aml_resource_irq(struct aml *aml, unsigned irq)
{
    check(irq < 16);
    aml_u8(aml, 0x22); /* without the flags byte: edge, active high, exclusive */
    aml_u16(aml, (uint16_t)(1u << irq));
}

void aml_resource_dma(struct aml *aml, unsigned channel)
{
    check(channel < 8);
    aml_u8(aml, 0x2a);
    aml_u8(aml, (uint8_t)(1u << channel));
    aml_u8(aml, 0);
}

void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t size, bool writable)
{
    aml_u8(aml, 0x86); /* 32-bit fixed memory range */
    aml_u16(aml, 9);
    aml_u8(aml, writable);
    aml_u32(aml, base);
    aml_u32(aml, size);
}

enum resource_type { RESOURCE_MEMORY, RESOURCE_IO, RESOURCE_BUS };
#define RESOURCE_FIXED 0x0c /* _MIF and _MAF: both ends are fixed; producer, positive decode */

static void window_u16(struct aml *aml, enum resource_type type, uint8_t flags, uint16_t first, uint16_t last)
{
    aml_u8(aml, 0x88);
    aml_u16(aml, 13);
    aml_u8(aml, type);
    aml_u8(aml, RESOURCE_FIXED);
    aml_u8(aml, flags);
    aml_u16(aml, 0); /* granularity */
    aml_u16(aml, first);
    aml_u16(aml, last);
    aml_u16(aml, 0); /* translation */
    aml_u16(aml, (uint16_t)(last - first + 1));
}

void aml_resource_bus(struct aml *aml, uint16_t first, uint16_t last)
{
    window_u16(aml, RESOURCE_BUS, 0, first, last);
}

void aml_resource_window_io(struct aml *aml, uint16_t first, uint16_t last)
{
    window_u16(aml, RESOURCE_IO, 3 /* entire range */, first, last);
}

void aml_resource_window_memory(struct aml *aml, uint32_t first, uint32_t last, bool cacheable)
{
    aml_u8(aml, 0x87);
    aml_u16(aml, 23);
    aml_u8(aml, RESOURCE_MEMORY);
    aml_u8(aml, RESOURCE_FIXED);
    aml_u8(aml, cacheable ? 3 : 1); /* read-write */
    aml_u32(aml, 0);
    aml_u32(aml, first);
    aml_u32(aml, last);
    aml_u32(aml, 0);
    aml_u32(aml, last - first + 1);
}

void aml_resource_window_memory64(struct aml *aml, uint64_t first, uint64_t last)
{
    aml_u8(aml, 0x8a);
    aml_u16(aml, 43);
    aml_u8(aml, RESOURCE_MEMORY);
    aml_u8(aml, RESOURCE_FIXED);
    aml_u8(aml, 3);
    aml_u64(aml, 0);
    aml_u64(aml, first);
    aml_u64(aml, last);
    aml_u64(aml, 0);
    aml_u64(aml, last - first + 1);
}
