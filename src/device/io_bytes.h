/* Byte-wide chips on a wider bus: the bus passes 1, 2, 4 or 8 byte accesses, an 8-bit chip sees them as that many
 * single ones at rising offsets, lowest first, as the ISA bus splits them. */
#ifndef RING3_DEVICE_IO_BYTES_H
#define RING3_DEVICE_IO_BYTES_H

#include <stdint.h>

static inline uint64_t io_read_bytes(void *dev, uint64_t offset, unsigned size,
                                     uint8_t (*read_byte)(void *dev, unsigned offset))
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_byte(dev, (unsigned)offset + i) << (8 * i);
    return value;
}

static inline void io_write_bytes(void *dev, uint64_t offset, unsigned size, uint64_t value,
                                  void (*write_byte)(void *dev, unsigned offset, uint8_t value))
{
    for (unsigned i = 0; i < size; i++)
        write_byte(dev, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
}

#endif
