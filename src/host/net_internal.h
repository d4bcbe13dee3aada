/* Between net.c, what all networks have in common, and the kinds of them. Nobody else includes this. */
#ifndef RING3_HOST_NET_INTERNAL_H
#define RING3_HOST_NET_INTERNAL_H

#include <poll.h>

#include "base/error.h"
#include "host/net.h"

/* A frame that waits. */
struct net_packet {
    struct net_packet *next;
    struct net_header header;
    uint32_t size, room; /* bytes in `data`, and how many would fit */
    uint8_t data[];
};

struct net_list {
    struct net_packet *first, *last;
    size_t bytes;
    unsigned count;
};

#define NET_POLL_MAX 1024u

/* What one turn of a network's thread waits for. */
struct net_poll {
    struct pollfd fds[NET_POLL_MAX];
    unsigned count;
    int timeout_ms; /* -1: none */
};

/* All run on the network's thread, without a lock. */
struct net_ops {
    /* Adds descriptors, shortens the timeout. Not called while the guest has no room for what waits already. */
    void (*prepare)(struct net *net, struct net_poll *poll);
    /* After the wait. Frames go to net_deliver(). */
    void (*ready)(struct net *net, struct net_poll *poll);
    /* A frame of the guest. */
    void (*send)(struct net *net, struct net_packet *packet);
    /* What the guest does now; may be NULL. */
    void (*set_offloads)(struct net *net, unsigned offloads);
    void (*destroy)(struct net *net); /* frees `net`; any thread, none runs */
};

/* The face of a kind of network, embedded in its struct. */
struct net {
    const struct net_ops *ops;
    char name[32];
    unsigned offloads; /* that it does */
    /* net.c's. */
    struct net_frontend frontend;
    pthread_t thread;
    bool connected;
    int wake_fd;
    struct net_list to_guest; /* the thread's */
    bool started;             /* ... the guest has had room before */
    bool offer;               /* ... the guest may have room */
    unsigned guest_offloads;  /* ... as last told to ops */
    struct net_poll poll;     /* ... */
    pthread_mutex_t lock;     /* for the rest; a leaf */
    struct net_list from_guest;
    bool accepted, stop;
    unsigned wanted_offloads;
};

/* False with a message. */
bool net_init(struct net *net, const struct net_ops *ops, struct error *err);
void net_fini(struct net *net);

/* For a frame of up to `room` bytes. NULL when out of memory. */
struct net_packet *net_packet_create(uint32_t room);
/* For the guest, from the network's thread: takes the packet over. */
void net_deliver(struct net *net, struct net_packet *packet);
/* For the guest likewise, a frame whose checksums are right, which is copied: added to the one before it where that is possible and
 * the guest takes such frames. */
void net_deliver_frame(struct net *net, const uint8_t *frame, size_t size);

/* net_offload.c. The sum that a header asks for; false if it lies outside of the frame. */
bool net_finish_checksum(const struct net_header *header, uint8_t *frame, size_t size);
/* Whether it is a segment of TCP that others may be added to, or that may be added to others. */
bool net_can_coalesce(const uint8_t *frame, size_t size);
/* Adds such a segment to the one before, for a guest that takes them apart itself. False: it does not follow it. */
bool net_coalesce(struct net_packet *before, const uint8_t *frame, size_t size);

/* net_fragment.c. Datagrams of which fragments have come. */
#define NET_DATAGRAMS 4u
struct net_fragments {
    struct net_packet *datagram[NET_DATAGRAMS];
    unsigned next;
};
/* Whether it is a fragment of IPv4. */
bool net_is_fragment(const uint8_t *frame, size_t size);
/* Takes a fragment in: the datagram that it completes, to be freed by the caller; NULL: none yet, or never. */
struct net_packet *net_reassemble(struct net_fragments *fragments, const uint8_t *frame, size_t size);
void net_fragments_clear(struct net_fragments *fragments);

/* The kinds. */
struct net *net_user_create(const char *options, struct error *err);
struct net *net_tap_create(const char *options, struct error *err);

/* The next of "a=b,c=d" from *rest on: into name and value, moving *rest. False at the end, or with a message, and *rest NULL. */
struct net_option {
    char name[16];
    char value[128];
};
bool net_option_next(const char **rest, struct net_option *option, struct error *err);
bool net_option_switch(const struct net_option *option, bool *on, struct error *err);

#endif
