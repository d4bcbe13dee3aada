/* The PVH entry. Internal to src/boot. */
#ifndef RING3_BOOT_PVH_H
#define RING3_BOOT_PVH_H

#include "boot/load.h"

/* Claims and writes struct hvm_start_info with the ramdisk as its one module, and fills the state for an entry at
 * `entry`. After load_command_line() and load_initrd(). */
bool pvh_enter(struct load *load, gpa_t entry, struct error *err);

#endif
