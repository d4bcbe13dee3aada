/* Virtio console: one port, a stream of bytes to and from a chardev. Linux calls it hvc0.
 *
 * Threads: under the device lock. Source: VIRTIO 1.1, 5.3.
 */
#ifndef RING3_DEVICE_VIRTIO_VIRTIO_CONSOLE_H
#define RING3_DEVICE_VIRTIO_VIRTIO_CONSOLE_H

#include "device/virtio/virtio.h"
#include "host/chardev.h"

struct virtio_console;

/* NULL with a message. `chardev` outlives it. virtio_console_destroy() comes after the PCI host's. */
struct virtio_console *virtio_console_create(const struct virtio_bus *bus, struct chardev *chardev, struct error *err);
void virtio_console_destroy(struct virtio_console *console);

#endif
