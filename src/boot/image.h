/* Files that the user names: reading them, and saying what a file is that is no kernel. Internal to src/boot. */
#ifndef RING3_BOOT_IMAGE_H
#define RING3_BOOT_IMAGE_H

#include "boot/boot.h"
#include "boot/decompress.h"

#define IMAGE_KERNEL_ADVICE "give --kernel a bzImage (vmlinuz), an ELF vmlinux or another x86 ELF kernel"
#define IMAGE_INITRD_ADVICE "give --initrd an initial ramdisk (a cpio archive, usually compressed)"

/* Reads all of `path`. At most `limit` bytes; `advice` ends the message when the file is of no use: "give --kernel
 * a bzImage ...". Messages begin with the path. */
bool image_read(const char *path, uint64_t limit, const char *advice, struct buffer *out, struct error *err);

enum image_format { IMAGE_BZIMAGE, IMAGE_ELF, IMAGE_UNKNOWN };

/* What a kernel file is; IMAGE_UNKNOWN is everything that cannot be booted. */
enum image_format image_format(const struct boot_file *file);

/* Describes a file of format IMAGE_UNKNOWN and what to do about it. Always false. */
bool image_refuse(const struct boot_file *file, struct error *err);

#endif
