/* Virtio network card: frames between the guest and a network (host/net.h).
 *
 * Threads: under the device lock; creation and destruction without, since the network's thread begins and ends with them.
 * Source: VIRTIO 1.1, 5.1.
 */
#ifndef RING3_DEVICE_VIRTIO_VIRTIO_NET_H
#define RING3_DEVICE_VIRTIO_VIRTIO_NET_H

#include "device/virtio/virtio.h"
#include "host/net.h"

struct virtio_net;

struct virtio_net_config {
    struct net *net; /* outlives the card; NULL: no cable */
    uint8_t mac[NET_MAC_SIZE];
    pthread_mutex_t *lock; /* the device lock */
};

/* NULL with a message. */
struct virtio_net *virtio_net_create(const struct virtio_bus *bus, const struct virtio_net_config *config,
                                     struct error *err);
/* No frame comes after it; before the PCI host's and virtio_net_destroy(). NULL is allowed in both. */
void virtio_net_unplug(struct virtio_net *card);
void virtio_net_destroy(struct virtio_net *card);

#endif
