/* bzImages. Internal to src/boot. */
#ifndef RING3_BOOT_LINUX_H
#define RING3_BOOT_LINUX_H

#include "boot/load.h"

/* Loads a file of format IMAGE_BZIMAGE and fills the state. Messages begin with the file's name. */
bool linux_load(struct load *load, const struct boot_file *file, struct error *err);

#endif
