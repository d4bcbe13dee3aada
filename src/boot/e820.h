/* The memory map that a guest is given: sorted, disjoint, merged. Internal to src/boot. */
#ifndef RING3_BOOT_E820_H
#define RING3_BOOT_E820_H

#include "boot/boot.h"

#define E820_MAX 128 /* what boot_params holds */

struct e820_map {
    unsigned count;
    struct boot_range ranges[E820_MAX]; /* by base */
};

/* Makes [base, base + size) be `type`, whatever was there. False when it wraps or the map is full. */
bool e820_set(struct e820_map *map, gpa_t base, uint64_t size, enum boot_range_type type, struct error *err);

/* Whether all of [base, base + size) is RAM. */
bool e820_is_ram(const struct e820_map *map, gpa_t base, uint64_t size);

#endif
