/* Between virtio_pci.c, the transport, and virtqueue.c, the rings. Nobody else includes this. */
#ifndef RING3_DEVICE_VIRTIO_VIRTIO_INTERNAL_H
#define RING3_DEVICE_VIRTIO_VIRTIO_INTERNAL_H

#include "device/pci_msi.h"
#include "device/virtio/virtio.h"

#define VIRTIO_NO_VECTOR 0xffffu

struct virtqueue_state {
    /* What the driver has set. */
    uint16_t size;
    uint16_t vector; /* of MSI-X */
    bool enabled;
    gpa_t desc, avail, used;
    /* Where we are; all count on and wrap at 65536. */
    uint16_t avail_next; /* the next request to pop */
    uint16_t used_next;  /* the next to push */
    uint16_t used_shown; /* as far as the driver knows */
};

struct virtqueue {
    struct virtio *virtio;
    unsigned index;
    uint32_t epoch;                     /* goes up with each reset */
    uint8_t *desc, *avail, *used;       /* host pointers to the rings, while enabled */
    unsigned budget;                    /* requests that may be popped, while the device type is in `notified` */
    bool limited, more;                 /* it is; it has used it up */
    struct iovec *pieces;               /* of the last popped request, ... */
    unsigned pieces_max;                /* ... with room for so many */
    struct virtqueue_state state;
};

struct virtio_state {
    uint64_t driver_features;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t config_vector, queue_select;
    uint8_t status, generation, isr;
};

struct virtio {
    struct virtio_bus bus;
    struct pci_function *function;
    struct msix *msix;
    const struct virtio_ops *ops;
    void *dev;
    struct io_ops io;  /* named after the device */
    uint64_t features; /* offered */
    unsigned window;               /* the PCI access capability */
    unsigned queue_count, config_size;
    uint16_t queue_size;
    struct timer again;            /* for queues with more requests than the budget */
    uint8_t config[VIRTIO_CONFIG_MAX], config_writable[VIRTIO_CONFIG_MAX];
    struct virtio_state state;
    struct virtqueue queues[];
};

/* virtqueue.c */
bool virtqueue_init(struct virtqueue *queue, struct virtio *virtio, unsigned index);
void virtqueue_fini(struct virtqueue *queue);
void virtqueue_reset(struct virtqueue *queue);
/* The driver enables it, with what is in `state`. False: the rings are not in RAM, or not aligned. */
bool virtqueue_enable(struct virtqueue *queue);

/* virtio_pci.c */
void virtio_interrupt_queue(struct virtqueue *queue);

#endif
