/* The options that name disk images, and the positional argument of `ring3 run`: collected into descriptions of drives.
 * */
#ifndef RING3_CLI_DRIVES_H
#define RING3_CLI_DRIVES_H

#include "base/error.h"
#include "machine/drive.h"

struct drive_list {
    struct drive_config drive[DRIVES_MAX];
    bool placed[DRIVES_MAX];      /* its index was said */
    bool positional[DRIVES_MAX];  /* it was named without an option */
    char *text[DRIVES_MAX];       /* what the strings of drive[] point into; owned */
    unsigned count;
};

/* One option: "drive" with its KEY=VALUE list, "hda" .. "hdd", "cdrom", "fda", "fdb" with a file. False with a message.
 * */
bool drives_add(struct drive_list *list, const char *option, const char *value, struct error *err);

/* `ring3 run disk.img`: a disk, or a CD-ROM if the file begins as one. */
bool drives_add_positional(struct drive_list *list, const char *file, struct error *err);

/* When all options are known: gives places to drives that have none, and refuses two at one place. With `snapshot` no
 * image is written. */
bool drives_finish(struct drive_list *list, bool snapshot, struct error *err);

void drives_free(struct drive_list *list);

#endif
