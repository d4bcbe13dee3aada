/* What the user wants firmware to boot from. */
#ifndef RING3_MACHINE_BOOT_CHOICE_H
#define RING3_MACHINE_BOOT_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#define BOOT_CHOICE_DEVICES 4u

struct boot_choice {
    /* Letters, the most wanted first: a diskette, c disk, d CD-ROM, n network; "": as the board's default. */
    char order[BOOT_CHOICE_DEVICES + 1];
    char once[BOOT_CHOICE_DEVICES + 1]; /* the same, until the first reset; "": no difference */
    bool menu;                          /* firmware offers one */
    uint32_t menu_wait_ms;              /* ... for so long; 0: as long as it likes */
    bool retry;                         /* when nothing can be booted, try again ... */
    uint32_t retry_ms;                  /* ... after so long */
};

#endif
