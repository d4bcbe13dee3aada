/* What a machine's drives are made from: a description of each, before anything is opened. */
#ifndef RING3_MACHINE_DRIVE_H
#define RING3_MACHINE_DRIVE_H

#include <stdbool.h>

#define DRIVES_MAX 16u
#define DRIVES_IDE 4u    /* primary master and slave, secondary master and slave */
#define DRIVES_FLOPPY 2u

enum drive_interface { DRIVE_IDE, DRIVE_VIRTIO, DRIVE_FLOPPY, DRIVE_INTERFACES };

struct drive_config {
    enum drive_interface interface;
    unsigned index;   /* IDE: 0 primary master .. 3 secondary slave; diskette: 0 is A:; virtio: any order */
    bool cdrom;       /* IDE only: a CD-ROM drive */
    const char *file; /* NULL: no medium in it (CD-ROM, diskette) */
    bool read_only;   /* see host/block.h, also for the others */
    bool snapshot;
    bool unsafe;
    bool raw;
    int boot_index;   /* the firmware tries the lowest first; -1: not said */
    const char *id;   /* for people; NULL: none */
    const char *serial; /* serial number, printable; NULL: one is made up */
};

#endif
