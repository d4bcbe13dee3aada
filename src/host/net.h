/* A network that a network card is plugged into: frames between a device and the host.
 *
 *     frontend (the card)   -- net_send() ------------------>  backend (a thread of its own)
 *     frontend              <-- receive(), received(), ... --  backend
 *
 * Shape. What there is of networks says net_create.h. A card is given a `struct net *` (or NULL: no cable), calls net_connect()
 * once, and net_disconnect() before it dies.
 *
 * Frames are Ethernet's without a checksum, behind a struct net_header that says what work on checksums and segmentation is left
 * for the receiver (the layout is that of virtio-net and of Linux's tap devices). Which work the receiver is willing to do is said
 * by offloads: net_offloads() for what a card may leave to the network, net_set_offloads() the other way.
 *
 * Flow. Neither side ever blocks the other. net_send() copies the frame, and refuses it while too much is waiting. When the frames so far have
 * left `sent` is called, once for many: the time to send on, and to tell the guest, which is then interrupted as seldom. `receive` copies, and refuses a frame while the guest has no room; the backend keeps it and
 * offers it again after net_accept().
 *
 * Threads. A backend has a thread while a card is connected, so that the host's sockets are never waited for, nor their work
 * done, on a vCPU's thread or with the device lock held. The functions here are called under the device lock, except
 * net_connect(), net_disconnect() and net_destroy(), which are called without; callbacks are called with it held, on
 * the backend's thread.
 *
 * Ownership: whoever created the network destroys it, after the card. */
#ifndef RING3_HOST_NET_H
#define RING3_HOST_NET_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

#define NET_MAC_SIZE 6u
#define NET_ETHERNET_SIZE 14u
/* The longest frame: 64 KiB less one of IP, and an Ethernet header with a VLAN tag. */
#define NET_FRAME_MAX (65535u + 18u)

#define NET_HEADER_NEEDS_CSUM 1u  /* the sum from csum_start on is to be put at csum_start + csum_offset */
#define NET_HEADER_DATA_VALID 2u  /* the checksum has been verified */
#define NET_GSO_NONE 0u
#define NET_GSO_TCPV4 1u
#define NET_GSO_TCPV6 4u
#define NET_GSO_ECN 0x80u

struct net_header {
    uint8_t flags, gso_type;
    uint16_t header_size, gso_size, csum_start, csum_offset;
    uint16_t buffers; /* virtio-net's own */
};
_Static_assert(sizeof(struct net_header) == 12, "struct virtio_net_hdr_mrg_rxbuf");

/* Work that a receiver does. */
#define NET_OFFLOAD_CSUM 1u
#define NET_OFFLOAD_TSO4 2u
#define NET_OFFLOAD_TSO6 4u

struct net;

struct net_frontend {
    /* A frame for the guest, in one piece. False: no room now. */
    bool (*receive)(void *opaque, const struct net_header *header, const uint8_t *frame, size_t size);
    void (*received)(void *opaque); /* after some of them: now is the time to interrupt */
    void (*sent)(void *opaque);     /* some of the guest's frames have left, and there is room for more */
    void *opaque;
    pthread_mutex_t *lock; /* the device lock */
};

/* Plugs the card in: false, with a message, if the host gives no thread. `net` may be NULL in all of these. */
bool net_connect(struct net *net, const struct net_frontend *frontend, struct error *err);
void net_disconnect(struct net *net);

/* A frame of the guest: what lies in the pieces from `skip` on, NET_FRAME_MAX bytes at most. False: no room now. */
bool net_send(struct net *net, const struct net_header *header, const struct iovec *pieces, unsigned count, size_t skip,
              size_t size);
/* The guest has room, or has room again. Nothing comes before the first time. */
void net_accept(struct net *net);
/* What the network does for the card. */
unsigned net_offloads(const struct net *net);
/* What the card does for the network, from the next frame on. */
void net_set_offloads(struct net *net, unsigned offloads);
/* The names of kind and place, for people: "user", "tap tap0". "none" for NULL. */
const char *net_name(const struct net *net);

#endif
