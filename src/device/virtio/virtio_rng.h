/* Virtio entropy device: one queue of buffers to be filled with random bytes.
 *
 * Threads: under the device lock. Source: VIRTIO 1.1, 5.4.
 */
#ifndef RING3_DEVICE_VIRTIO_VIRTIO_RNG_H
#define RING3_DEVICE_VIRTIO_VIRTIO_RNG_H

#include "device/virtio/virtio.h"

struct virtio_rng;

/* NULL with a message. `random` is where the bytes come from. Destroyed after the PCI host. */
struct virtio_rng *virtio_rng_create(const struct virtio_bus *bus, uint64_t (*random)(void *opaque), void *opaque,
                                     struct error *err);
void virtio_rng_destroy(struct virtio_rng *rng);

#endif
