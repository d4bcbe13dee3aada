/* Virtio devices over PCI: what a device type (network, disk, console ...) needs of its transport and its rings.
 *
 *     virtio_create()  makes the PCI function: common, notify, ISR, device and PCI access structures, MSI-X or a pin, and the
 *                      split rings of `queues` virtqueues
 *     struct virtio_ops is what the device type is told: a queue was notified, the driver is ready, everything is reset
 *     virtqueue_*()    takes requests out of a ring and gives them back
 *
 * A request is a descriptor chain: first bytes that the device reads (`out`), then bytes that it writes (`in`), each a list of
 * pieces of guest RAM as host pointers, good for readv() and writev(). Chains come from a hostile guest. virtqueue_pop() has
 * checked that they end, lie in memory, have their parts in order, and are no longer than the queue; what the bytes say is for
 * the device type to check. It copies what it decides upon, since the guest may change it meanwhile. A ring that breaks the
 * rules gives no more requests: the device then needs a reset (DEVICE_NEEDS_RESET), which the driver is told.
 *
 * A handler of a queue is written as
 *
 *     do {
 *         virtqueue_set_notify(queue, false);
 *         while (virtqueue_pop(queue, &chain)) { ... virtqueue_push(queue, &chain, written); }
 *         virtqueue_flush(queue);
 *     } while (!virtqueue_set_notify(queue, true));
 *
 * Ownership: the device type creates and destroys its struct virtio; it is destroyed after the PCI host.
 * Threads: everything under the device lock, but virtio_copy*(), and what dma_written() may do (memory/dma.h).
 * Source: Virtual I/O Device (VIRTIO) 1.1, chapters 2 and 4.1.
 */
#ifndef RING3_DEVICE_VIRTIO_VIRTIO_H
#define RING3_DEVICE_VIRTIO_VIRTIO_H

#include "base/log.h"
#include "base/timer.h"
#include "device/pci.h"
#include "memory/dma.h"

/* Device types: chapter 5. */
enum virtio_type { VIRTIO_NET = 1, VIRTIO_BLOCK = 2, VIRTIO_CONSOLE = 3, VIRTIO_RNG = 4 };

#define VIRTIO_QUEUES_MAX 64u
#define VIRTIO_QUEUE_SIZE_MAX 1024u
#define VIRTIO_CONFIG_MAX 256u

/* Feature bits that the transport offers and serves by itself; 0 to 23 and 50 up are the device type's. */
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32

struct virtio;
struct virtqueue;

/* What a device type is told; `dev` is given to virtio_create(). Each but `notified` may be NULL. */
struct virtio_ops {
    /* The driver has put requests into the queue; also once for each enabled queue when the driver is ready. Only while the
     * driver is ready. One call gets a bounded number of requests from virtqueue_pop(), so that a guest which never stops asking
     * does not keep the lock; the transport calls again for the rest. */
    void (*notified)(void *dev, unsigned queue);
    /* The driver has chosen its features and set DRIVER_OK. */
    void (*ready)(void *dev);
    /* The driver or the bus resets the device. On return nothing of it touches guest memory any more. The queues have forgotten
     * their requests; chains that are still held are pushed in vain. */
    void (*reset)(void *dev);
    /* The driver has written to the device's configuration; the bytes are stored already where virtio_config_writable() says. */
    void (*config_written)(void *dev, unsigned offset, unsigned size);
    const char *name; /* "virtio-net": for the log */
};

struct virtio_desc {
    enum virtio_type type;
    uint32_t class_code; /* of PCI: 0x020000 is Ethernet */
    uint64_t features;   /* the device type's own */
    unsigned queues;     /* up to VIRTIO_QUEUES_MAX */
    uint16_t queue_size; /* of each, a power of two up to VIRTIO_QUEUE_SIZE_MAX */
    unsigned config_size; /* bytes of configuration, up to VIRTIO_CONFIG_MAX; all zero at first */
    const struct virtio_ops *ops;
};

/* Where devices live. */
struct virtio_bus {
    struct pci_host *pci;
    unsigned slot;
    struct memory *memory;
    struct timer_queue *queue; /* of the guest's time */
    struct log *log;
};

/* NULL with a message. */
struct virtio *virtio_create(const struct virtio_bus *bus, const struct virtio_desc *desc, void *dev,
                             struct error *err);
void virtio_destroy(struct virtio *virtio);

/* What was negotiated; 0 before. `bit` as in the specification. */
bool virtio_has(const struct virtio *virtio, unsigned bit);
/* DRIVER_OK, and the device is not broken. */
bool virtio_is_ready(const struct virtio *virtio);
/* The guest has broken a rule that cannot be answered otherwise: nothing is served until it resets the device. */
void virtio_break(struct virtio *virtio, const char *why);

/* The bytes of the device's configuration, little endian, and which of them the driver may write (ff or 00). */
uint8_t *virtio_config(struct virtio *virtio);
uint8_t *virtio_config_writable(struct virtio *virtio);
/* After a change of what the driver may have read: a new generation, and the interrupt. */
void virtio_config_changed(struct virtio *virtio);

struct virtqueue *virtio_queue(struct virtio *virtio, unsigned index);
/* Calls `notified` as if the driver had notified the queue: when the device can go on with requests that it has left there. */
void virtio_serve(struct virtio *virtio, unsigned queue);

/* ---- requests ---- */

struct virtio_chain {
    uint16_t head;
    uint32_t epoch;       /* of its queue: chains from before a reset are worth nothing */
    unsigned out_count, in_count; /* pieces; those without bytes are left out */
    uint64_t out_size, in_size;   /* bytes, together less than 4 GiB */
    struct iovec *out, *in;       /* in one array, `in` behind `out` */
};

/* The driver has enabled it. */
bool virtqueue_is_enabled(const struct virtqueue *queue);
/* The next request. Its pieces are kept in the queue until the next virtqueue_pop() on it. False: there is none, or the device
 * is not ready. */
bool virtqueue_pop(struct virtqueue *queue, struct virtio_chain *chain);
/* Puts the last `count` requests back as if they had not been popped; no one of them may have been pushed (or it was taken back). */
void virtqueue_unpop(struct virtqueue *queue, unsigned count);
/* How many requests wait, as far as the ring's index tells. */
unsigned virtqueue_waiting(struct virtqueue *queue);
/* Gives a request back, with `written` bytes in it from the start of `in`; the driver sees it after virtqueue_flush(). In any
 * order. */
void virtqueue_push(struct virtqueue *queue, const struct virtio_chain *chain, uint64_t written);
/* Takes back the last `count` that were pushed, all since the last virtqueue_flush(). */
void virtqueue_unpush(struct virtqueue *queue, unsigned count);
/* Shows the driver what was pushed, all at once, and interrupts it if it wants that. */
void virtqueue_flush(struct virtqueue *queue);
/* Whether the driver is asked to notify. Asking it to, false says that requests have come meanwhile, of which it may not tell: look
 * again. */
bool virtqueue_set_notify(struct virtqueue *queue, bool on);

/* A copy of a chain that lives until virtio_chain_free(): for devices that answer later. NULL when out of memory. */
struct virtio_chain *virtio_chain_keep(const struct virtio_chain *chain);
void virtio_chain_free(struct virtio_chain *chain);

/* Copy between a buffer and pieces, `offset` bytes behind their start; return how many bytes there were, up to `size`. Writing tells
 * who watches. */
uint64_t virtio_copy_from(const struct iovec *pieces, unsigned count, uint64_t offset, void *buffer, uint64_t size);
uint64_t virtio_copy_to(struct memory *memory, const struct iovec *pieces, unsigned count, uint64_t offset,
                        const void *buffer, uint64_t size);
/* The first `size` bytes of the pieces were written by somebody else, such as the host's kernel: tells who watches. */
void virtio_written(struct memory *memory, const struct iovec *pieces, unsigned count, uint64_t size);

#endif
