/* Virtio console. See virtio_console.h.
 *
 * Model. Queue 0 has buffers for what is typed, queue 1 what the guest prints. Either way at most one request is under way: an empty
 * buffer that has been popped because the backend asked how much there is room for, or output of which the backend has not taken
 * everything yet; the backend says when it goes on. Input goes to the guest as it comes, so a buffer is given back after each piece.
 *
 * VIRTIO_CONSOLE_F_EMERG_WRITE: a character can be printed by a write to the configuration, before there are queues.
 *
 * Not offered: several ports (and with them opening and closing), and the console's size, which a stream does not have.
 */
#include "device/virtio/virtio_console.h"

#include <stdlib.h>
#include <string.h>

#define CLASS_COMMUNICATION 0x078000u
#define F_EMERG_WRITE 2
#define CONFIG_SIZE 12u
#define CONFIG_EMERG_WRITE 8u

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUES };

struct request {
    bool taken;
    struct virtio_chain chain;
    uint64_t done; /* bytes that the backend has taken */
};

struct virtio_console {
    struct virtio *virtio;
    struct memory *memory;
    struct chardev *chardev;
    struct request receive, transmit;
};

/* ---- to the guest ---- */

static size_t console_can_receive(void *opaque)
{
    struct virtio_console *console = opaque;
    struct virtqueue *queue = virtio_queue(console->virtio, QUEUE_RECEIVE);
    struct request *request = &console->receive;
    unsigned waiting = virtqueue_waiting(queue);
    while (!request->taken && waiting-- > 0 && virtqueue_pop(queue, &request->chain)) {
        request->taken = request->chain.in_size != 0;
        if (!request->taken) { /* a buffer for nothing */
            virtqueue_push(queue, &request->chain, 0);
            virtqueue_flush(queue);
        }
    }
    return request->taken && virtio_is_ready(console->virtio) ? request->chain.in_size : 0;
}

static void console_receive(void *opaque, const uint8_t *bytes, size_t n)
{
    struct virtio_console *console = opaque;
    struct virtqueue *queue = virtio_queue(console->virtio, QUEUE_RECEIVE);
    struct request *request = &console->receive;
    virtqueue_push(queue, &request->chain,
                   virtio_copy_to(console->memory, request->chain.in, request->chain.in_count, 0, bytes, n));
    request->taken = false;
    virtqueue_flush(queue);
}

/* ---- from the guest ---- */

/* False: the backend has not taken all of it. */
static bool transmit(struct virtio_console *console)
{
    struct request *request = &console->transmit;
    uint64_t skip = request->done;
    for (unsigned i = 0; i < request->chain.out_count; i++) {
        const struct iovec *piece = &request->chain.out[i];
        if (skip >= piece->iov_len) {
            skip -= piece->iov_len;
            continue;
        }
        size_t size = piece->iov_len - skip;
        size_t taken = chardev_write(console->chardev, (const uint8_t *)piece->iov_base + skip, size);
        request->done += taken;
        skip = 0;
        if (taken < size)
            return false;
    }
    virtqueue_push(virtio_queue(console->virtio, QUEUE_TRANSMIT), &request->chain, 0);
    request->taken = false;
    return true;
}

static void transmit_all(struct virtio_console *console)
{
    struct virtqueue *queue = virtio_queue(console->virtio, QUEUE_TRANSMIT);
    struct request *request = &console->transmit;
    bool flowing = !request->taken || transmit(console);
    do {
        virtqueue_set_notify(queue, false);
        while (flowing && virtqueue_pop(queue, &request->chain)) {
            request->taken = true;
            request->done = 0;
            flowing = transmit(console);
        }
        virtqueue_flush(queue);
    } while (flowing && !virtqueue_set_notify(queue, true));
}

static void console_writable(void *opaque)
{
    struct virtio_console *console = opaque;
    virtio_serve(console->virtio, QUEUE_TRANSMIT);
}

/* ---- the device ---- */

static void console_notified(void *dev, unsigned queue)
{
    struct virtio_console *console = dev;
    if (queue == QUEUE_TRANSMIT)
        transmit_all(console);
    else
        chardev_accept_input(console->chardev);
}

static void console_reset(void *dev)
{
    struct virtio_console *console = dev;
    console->receive.taken = console->transmit.taken = false;
    memset(virtio_config(console->virtio), 0, CONFIG_SIZE);
}

static void console_config_written(void *dev, unsigned offset, unsigned size)
{
    struct virtio_console *console = dev;
    if (offset <= CONFIG_EMERG_WRITE && offset + size > CONFIG_EMERG_WRITE)
        chardev_write(console->chardev, &virtio_config(console->virtio)[CONFIG_EMERG_WRITE], 1);
}

static bool console_build(struct virtio_console *console, const struct virtio_bus *bus, struct error *err)
{
    static const struct virtio_ops ops = {.notified = console_notified,
                                          .reset = console_reset,
                                          .config_written = console_config_written,
                                          .name = "virtio-console"};
    const struct virtio_desc desc = {.type = VIRTIO_CONSOLE,
                                     .class_code = CLASS_COMMUNICATION,
                                     .features = 1u << F_EMERG_WRITE,
                                     .queues = QUEUES,
                                     .queue_size = 64,
                                     .config_size = CONFIG_SIZE,
                                     .ops = &ops};
    console->virtio = virtio_create(bus, &desc, console, err);
    if (console->virtio == NULL)
        return false;
    memset(&virtio_config_writable(console->virtio)[CONFIG_EMERG_WRITE], 0xff, 4);
    const struct chardev_frontend frontend = {.can_receive = console_can_receive,
                                              .receive = console_receive,
                                              .writable = console_writable,
                                              .opaque = console};
    chardev_connect(console->chardev, &frontend);
    return true;
}

struct virtio_console *virtio_console_create(const struct virtio_bus *bus, struct chardev *chardev, struct error *err)
{
    struct virtio_console *console = malloc(sizeof *console);
    if (console == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    *console = (struct virtio_console){.memory = bus->memory, .chardev = chardev};
    if (!console_build(console, bus, err)) {
        free(console);
        return NULL;
    }
    return console;
}

void virtio_console_destroy(struct virtio_console *console)
{
    if (console == NULL)
        return;
    chardev_disconnect(console->chardev);
    virtio_destroy(console->virtio);
    free(console);
}
