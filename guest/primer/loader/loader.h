/* What the loader's two languages share. */
#ifndef PRIMER_LOADER_H
#define PRIMER_LOADER_H

#define SECOND_SECTORS 15
#define VOLUME_GPA 0x5000      /* label and directory */
#define BOUNCE_GPA 0x10000     /* 32 KiB, below what every BIOS can reach */
#define KERNEL_FILE_GPA 0x400000

/* ../volume.h, in numbers */
#define VOLUME_LABEL_SECTOR 16
#define VOLUME_SECTORS 5 /* and the directory */
#define ENTRY_SIZE 32
#define ENTRY_START 16
#define ENTRY_SIZE_BYTES 24
#ifdef __ASSEMBLER__
#define VOLUME_LABEL VOLUME_LABEL_SECTOR
#define VOLUME_FILES 64
#endif

#endif
