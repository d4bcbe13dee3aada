/* The memory map; see e820.h. Setting a range cuts it out of those that are there, so the newest wins, and then joins
 * neighbours of one type. At most 128 ranges: everything is linear. */
#include "boot/e820.h"

#include <inttypes.h>
#include <string.h>

static bool append(struct e820_map *map, gpa_t base, gpa_t end, enum boot_range_type type)
{
    if (base >= end || type == BOOT_RANGE_NONE)
        return true;
    struct boot_range *last = map->count > 0 ? &map->ranges[map->count - 1] : NULL;
    if (last != NULL && last->type == type && last->base + last->size == base) {
        last->size += end - base;
        return true;
    }
    if (map->count == E820_MAX)
        return false;
    map->ranges[map->count++] = (struct boot_range){base, end - base, type};
    return true;
}

bool e820_set(struct e820_map *map, gpa_t base, uint64_t size, enum boot_range_type type, struct error *err)
{
    if (size > UINT64_MAX - base)
        return error_set(err, "memory map: the range of %" PRIu64 " bytes at %#" PRIx64 " wraps", size, base);
    gpa_t end = base + size;
    struct e820_map old = *map;
    map->count = 0;
    bool placed = false, ok = true;
    for (unsigned i = 0; i < old.count; i++) {
        const struct boot_range *range = &old.ranges[i];
        gpa_t range_end = range->base + range->size;
        ok = ok && append(map, range->base, range_end < base ? range_end : base, range->type);
        if (!placed && range_end > base) {
            ok = ok && append(map, base, end, type);
            placed = true;
        }
        ok = ok && append(map, range->base > end ? range->base : end, range_end, range->type);
    }
    if (!placed)
        ok = ok && append(map, base, end, type);
    if (!ok) {
        *map = old;
        return error_set(err, "memory map: more than %u ranges", E820_MAX);
    }
    return true;
}

bool e820_is_ram(const struct e820_map *map, gpa_t base, uint64_t size)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct boot_range *range = &map->ranges[i];
        if (range->type == BOOT_RANGE_RAM && base >= range->base && size <= range->size &&
            base - range->base <= range->size - size)
            return true;
    }
    return false;
}
