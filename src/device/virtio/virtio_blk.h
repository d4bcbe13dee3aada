/* Virtio block device: a disk image as one queue of requests, several in flight.
 *
 * Threads: under the device lock. Source: VIRTIO 1.1, 5.2.
 */
#ifndef RING3_DEVICE_VIRTIO_VIRTIO_BLK_H
#define RING3_DEVICE_VIRTIO_VIRTIO_BLK_H

#include "device/virtio/virtio.h"

struct block;
struct virtio_blk;

/* NULL with a message. `block` outlives it; `serial` has up to 20 characters and is copied. Destroyed after the PCI
 * host. */
struct virtio_blk *virtio_blk_create(const struct virtio_bus *bus, struct block *block, const char *serial,
                                     struct error *err);
void virtio_blk_destroy(struct virtio_blk *blk);

#endif
