/* What is on the disk, for the kernel, the loader that fetches the kernel, and (in its own words) disk.py, which makes it.
 *
 *     sector 0        the first half of the loader, which the BIOS fetches
 *     1 to 15         its other half
 *     16              the volume's label
 *     17 to 20        the directory: 64 entries
 *     32 and more     files, each in one piece
 */
#ifndef PRIMER_VOLUME_H
#define PRIMER_VOLUME_H

#include <stdint.h>

#define VOLUME_LABEL 16u
#define VOLUME_DIRECTORY 17u
#define VOLUME_FILES 64u
#define VOLUME_DATA 32u
#define VOLUME_MAGIC "primer volume 1"

struct volume_label {
    char magic[16];
    uint32_t sectors;
    uint32_t reserved[3];
    char command_line[128]; /* of the kernel, for the loader */
};

struct volume_entry {
    char name[16]; /* empty: nobody uses this entry */
    uint32_t start, room; /* sectors */
    uint32_t size;        /* bytes */
    uint32_t changed;     /* written to since it was opened; on the disk: whoever wrote has not come to close it */
};
_Static_assert(sizeof(struct volume_entry) == 32, "16 in a sector");

#endif
