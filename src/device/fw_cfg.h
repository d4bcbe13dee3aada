/* The firmware configuration device: what the board tells its firmware, item by item.
 *
 * An item is a string of bytes behind a 16-bit key. Some keys are fixed; items with names ("files") get theirs from the
 * device, and the directory, an item itself, tells firmware which. The guest selects a key and then reads byte by byte, or has
 * the device copy into its memory.
 *
 * Threads: everything under the device lock. Errors: only while items are added.
 * Source: QEMU's docs/specs/fw_cfg.rst, the published description of the interface. */
#ifndef RING3_DEVICE_FW_CFG_H
#define RING3_DEVICE_FW_CFG_H

#include "base/error.h"
#include "base/types.h"
#include "memory/memory.h"

#define FW_CFG_SIGNATURE 0x0000u
#define FW_CFG_ID 0x0001u
#define FW_CFG_RAM_SIZE 0x0003u
#define FW_CFG_NOGRAPHIC 0x0004u
#define FW_CFG_NB_CPUS 0x0005u
#define FW_CFG_NUMA 0x000du
#define FW_CFG_BOOT_MENU 0x000eu
#define FW_CFG_MAX_CPUS 0x000fu
#define FW_CFG_FILE_DIR 0x0019u
#define FW_CFG_FILE_FIRST 0x0020u
#define FW_CFG_IRQ0_OVERRIDE 0x8002u

#define FW_CFG_FILES_MAX 64u
#define FW_CFG_NAME_MAX 55u /* characters */
#define FW_CFG_ITEM_MAX (16 * MiB)

struct fw_cfg;

/* With the signature, the ID and an empty directory. `memory` is for the copies. NULL when out of memory. */
struct fw_cfg *fw_cfg_create(struct memory *memory);
void fw_cfg_destroy(struct fw_cfg *fw_cfg);
/* Nothing is selected any more. The items stay. */
void fw_cfg_reset(struct fw_cfg *fw_cfg);

/* Sets an item of a fixed key to a copy of the bytes, in place of what was there. */
bool fw_cfg_set(struct fw_cfg *fw_cfg, uint16_t key, const void *bytes, size_t size, struct error *err);
bool fw_cfg_set_u16(struct fw_cfg *fw_cfg, uint16_t key, uint16_t value, struct error *err);
/* Likewise of a file, which keeps its key when it is set again. */
bool fw_cfg_set_file(struct fw_cfg *fw_cfg, const char *name, const void *bytes, size_t size, struct error *err);

/* The bytes of a file, or NULL: for tests and for people. */
const uint8_t *fw_cfg_file(const struct fw_cfg *fw_cfg, const char *name, size_t *size);

/* Two ports, selector and data (510h on a PC), and eight of the DMA interface (514h); `dev` of both is the device. */
extern const struct io_ops fw_cfg_ops;
extern const struct io_ops fw_cfg_dma_ops;

#endif
