/* Virtio entropy device. See virtio_rng.h.
 *
 * A request gets at most REQUEST_MAX bytes, however long it is: the specification lets a device give fewer, and the lock is held
 * meanwhile. Drivers ask again.
 */
#include "device/virtio/virtio_rng.h"

#include <stdlib.h>

#define CLASS_OTHER 0x00ff00u
#define REQUEST_MAX 1024u

struct virtio_rng {
    struct virtio *virtio;
    struct memory *memory;
    uint64_t (*random)(void *opaque);
    void *opaque;
};

static void rng_notified(void *dev, unsigned index)
{
    struct virtio_rng *rng = dev;
    struct virtqueue *queue = virtio_queue(rng->virtio, index);
    struct virtio_chain chain;
    do {
        virtqueue_set_notify(queue, false);
        while (virtqueue_pop(queue, &chain)) {
            uint64_t bytes[REQUEST_MAX / sizeof(uint64_t)];
            uint64_t size = chain.in_size < REQUEST_MAX ? chain.in_size : REQUEST_MAX;
            for (unsigned i = 0; i * sizeof bytes[0] < size; i++)
                bytes[i] = rng->random(rng->opaque);
            virtqueue_push(queue, &chain, virtio_copy_to(rng->memory, chain.in, chain.in_count, 0, bytes, size));
        }
        virtqueue_flush(queue);
    } while (!virtqueue_set_notify(queue, true));
}

struct virtio_rng *virtio_rng_create(const struct virtio_bus *bus, uint64_t (*random)(void *opaque), void *opaque,
                                     struct error *err)
{
    static const struct virtio_ops ops = {.notified = rng_notified, .name = "virtio-rng"};
    const struct virtio_desc desc = {
        .type = VIRTIO_RNG, .class_code = CLASS_OTHER, .queues = 1, .queue_size = 64, .ops = &ops};
    struct virtio_rng *rng = malloc(sizeof *rng);
    if (rng == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    *rng = (struct virtio_rng){.memory = bus->memory, .random = random, .opaque = opaque};
    rng->virtio = virtio_create(bus, &desc, rng, err);
    if (rng->virtio == NULL) {
        free(rng);
        return NULL;
    }
    return rng;
}

void virtio_rng_destroy(struct virtio_rng *rng)
{
    if (rng == NULL)
        return;
    virtio_destroy(rng->virtio);
    free(rng);
}
