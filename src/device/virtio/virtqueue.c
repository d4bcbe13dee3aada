/* Split virtqueues. See virtio.h.
 *
 * Model. A queue has three parts in guest RAM: the descriptor table, the available ring (the driver's: heads of chains, and a
 * running index), and the used ring (ours: heads and lengths, and a running index). They are looked up when the driver enables the
 * queue and used through host pointers from then on; RAM does not move. What we remember of the rings ourselves are three indices;
 * nothing that we act upon is read from the guest twice.
 *
 * Order. The driver writes descriptors, then the index; we read the index (acquire), then descriptors. The other way round we
 * write used elements, then our index (release). Asking for an interrupt or a notification and looking at the other side's index
 * need a full fence between: each side sets its wish first and looks then.
 *
 * What breaks the device (virtio_break()): an index further ahead than the queue is long, a head or a `next` outside of its table,
 * a chain with more descriptors than the queue (which is how loops end), an indirect table in an indirect table, of a length that is
 * no whole number of descriptors, with F_NEXT beside it, or not negotiated, a device-readable part behind a device-writable one,
 * bytes that are not in RAM (readable ones may be in ROM), and 4 GiB or more of them. Pieces without bytes are allowed and left
 * out.
 *
 * Not done: packed rings, VIRTIO_F_IN_ORDER, notification data; none of these is offered.
 *
 * Source: VIRTIO 1.1, 2.6.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "device/virtio/virtio_internal.h"

#define DESC_F_NEXT 1u
#define DESC_F_WRITE 2u
#define DESC_F_INDIRECT 4u
#define AVAIL_F_NO_INTERRUPT 1u
#define USED_F_NO_NOTIFY 1u

struct descriptor {
    uint64_t gpa;
    uint32_t size;
    uint16_t flags, next;
};
_Static_assert(sizeof(struct descriptor) == 16, "as the specification lays it out");

struct used_element {
    uint32_t head, written;
};

/* Both rings begin with flags and index, of two bytes each. Behind their elements is the other side's event index. */
#define RING_FLAGS 0u
#define RING_INDEX 2u
#define RING_ELEMENTS 4u
#define AVAIL_SIZE(n) (RING_ELEMENTS + 2 * (n) + 2)
#define USED_SIZE(n) (RING_ELEMENTS + sizeof(struct used_element) * (n) + 2)

bool virtqueue_init(struct virtqueue *queue, struct virtio *virtio, unsigned index)
{
    *queue = (struct virtqueue){.virtio = virtio, .index = index, .pieces_max = 2u * virtio->queue_size};
    queue->pieces = calloc(queue->pieces_max, sizeof queue->pieces[0]);
    virtqueue_reset(queue);
    return queue->pieces != NULL;
}

void virtqueue_fini(struct virtqueue *queue)
{
    free(queue->pieces);
}

void virtqueue_reset(struct virtqueue *queue)
{
    queue->epoch++;
    queue->more = false;
    queue->state = (struct virtqueue_state){.size = queue->virtio->queue_size, .vector = VIRTIO_NO_VECTOR};
}

/* One piece of RAM, or NULL. */
static uint8_t *ring_map(struct virtqueue *queue, gpa_t gpa, uint64_t size, unsigned align, bool write)
{
    struct iovec piece;
    if (gpa % align != 0 || dma_map(queue->virtio->bus.memory, gpa, size, write, &piece, 1) == 0)
        return NULL;
    return piece.iov_base;
}

bool virtqueue_enable(struct virtqueue *queue)
{
    struct virtqueue_state *state = &queue->state;
    unsigned n = state->size;
    queue->desc = ring_map(queue, state->desc, n * sizeof(struct descriptor), 16, false);
    queue->avail = ring_map(queue, state->avail, AVAIL_SIZE(n), 2, false);
    queue->used = ring_map(queue, state->used, USED_SIZE(n), 4, true);
    state->enabled = queue->desc != NULL && queue->avail != NULL && queue->used != NULL;
    return state->enabled;
}

bool virtqueue_is_enabled(const struct virtqueue *queue)
{
    return queue->state.enabled;
}

static bool usable(const struct virtqueue *queue)
{
    return queue->state.enabled && virtio_is_ready(queue->virtio);
}

static uint16_t ring_get(const uint8_t *ring, unsigned offset)
{
    return __atomic_load_n((const uint16_t *)(const void *)(ring + offset), __ATOMIC_ACQUIRE);
}

static void ring_set(uint8_t *ring, unsigned offset, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)(ring + offset), value, __ATOMIC_RELEASE);
}

/* ---- out of the ring ---- */

/* Where descriptors are being read from: the queue's table or an indirect one. */
struct walk {
    const uint8_t *table;
    uint32_t count; /* entries in it */
    bool indirect;
    unsigned seen;  /* descriptors so far, in both */
    unsigned pieces;
    bool writing;   /* the device-writable part has begun */
};

static bool broken(struct virtqueue *queue, const char *why)
{
    virtio_break(queue->virtio, why);
    return false;
}

static bool walk_into(struct virtqueue *queue, struct walk *walk, const struct descriptor *desc)
{
    if (!virtio_has(queue->virtio, VIRTIO_F_INDIRECT_DESC))
        return broken(queue, "an indirect descriptor, which was not negotiated");
    if (walk->indirect || desc->flags & DESC_F_NEXT)
        return broken(queue, "an indirect descriptor in an indirect table, or with a next one");
    if (desc->size == 0 || desc->size % sizeof *desc != 0)
        return broken(queue, "an indirect table of an odd length");
    walk->table = ring_map(queue, desc->gpa, desc->size, 1, false);
    if (walk->table == NULL)
        return broken(queue, "an indirect table outside of memory");
    walk->count = desc->size / sizeof *desc;
    walk->indirect = true;
    return true;
}

static bool walk_add(struct virtqueue *queue, struct walk *walk, const struct descriptor *desc, struct virtio_chain *chain)
{
    bool write = desc->flags & DESC_F_WRITE;
    if (walk->writing && !write)
        return broken(queue, "a readable descriptor behind a writable one");
    if (write && !walk->writing) {
        walk->writing = true;
        chain->out_count = walk->pieces;
    }
    if (desc->size == 0)
        return true;
    unsigned n = dma_map(queue->virtio->bus.memory, desc->gpa, desc->size, write, &queue->pieces[walk->pieces],
                         queue->pieces_max - walk->pieces);
    if (n == 0)
        return broken(queue, "a descriptor outside of memory");
    walk->pieces += n;
    *(write ? &chain->in_size : &chain->out_size) += desc->size;
    return true;
}

static bool chain_read(struct virtqueue *queue, uint32_t head, struct virtio_chain *chain)
{
    struct walk walk = {.table = queue->desc, .count = queue->state.size};
    *chain = (struct virtio_chain){.head = (uint16_t)head, .epoch = queue->epoch};
    for (uint32_t at = head;;) {
        struct descriptor desc;
        if (at >= walk.count)
            return broken(queue, "a descriptor outside of its table");
        if (walk.seen++ > queue->state.size)
            return broken(queue, "a chain longer than its queue");
        memcpy(&desc, walk.table + at * sizeof desc, sizeof desc);
        if (desc.flags & DESC_F_INDIRECT) {
            if (!walk_into(queue, &walk, &desc))
                return false;
            at = 0;
            continue;
        }
        if (!walk_add(queue, &walk, &desc, chain))
            return false;
        if (!(desc.flags & DESC_F_NEXT))
            break;
        at = desc.next;
    }
    if (chain->out_size + chain->in_size > UINT32_MAX)
        return broken(queue, "a chain of 4 GiB or more");
    if (!walk.writing)
        chain->out_count = walk.pieces;
    chain->in_count = walk.pieces - chain->out_count;
    chain->out = queue->pieces;
    chain->in = queue->pieces + chain->out_count;
    return true;
}

unsigned virtqueue_waiting(struct virtqueue *queue)
{
    if (!usable(queue))
        return 0;
    unsigned waiting = (uint16_t)(ring_get(queue->avail, RING_INDEX) - queue->state.avail_next);
    if (waiting <= queue->state.size)
        return waiting;
    broken(queue, "an available index too far ahead");
    return 0;
}

bool virtqueue_pop(struct virtqueue *queue, struct virtio_chain *chain)
{
    struct virtqueue_state *state = &queue->state;
    if (virtqueue_waiting(queue) == 0)
        return false;
    if (queue->limited && queue->budget == 0) {
        queue->more = true;
        return false;
    }
    if (queue->limited)
        queue->budget--;
    uint16_t head = ring_get(queue->avail, RING_ELEMENTS + 2u * (state->avail_next % state->size));
    if (!chain_read(queue, head, chain))
        return false;
    state->avail_next++;
    return true;
}

void virtqueue_unpop(struct virtqueue *queue, unsigned count)
{
    queue->state.avail_next = (uint16_t)(queue->state.avail_next - count);
}

bool virtqueue_set_notify(struct virtqueue *queue, bool on)
{
    if (!usable(queue))
        return true;
    if (!virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX))
        ring_set(queue->used, RING_FLAGS, on ? 0 : USED_F_NO_NOTIFY);
    else if (on)
        ring_set(queue->used, (unsigned)USED_SIZE(queue->state.size) - 2, queue->state.avail_next);
    if (!on)
        return true;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return queue->more || virtqueue_waiting(queue) == 0;
}

/* ---- back into it ---- */

void virtqueue_push(struct virtqueue *queue, const struct virtio_chain *chain, uint64_t written)
{
    struct virtqueue_state *state = &queue->state;
    if (chain->epoch != queue->epoch || !state->enabled)
        return;
    check(written <= chain->in_size);
    const struct used_element element = {.head = chain->head, .written = (uint32_t)written};
    memcpy(queue->used + RING_ELEMENTS + sizeof element * (state->used_next % state->size), &element, sizeof element);
    state->used_next++;
}

void virtqueue_unpush(struct virtqueue *queue, unsigned count)
{
    check((uint16_t)(queue->state.used_next - queue->state.used_shown) >= count);
    queue->state.used_next = (uint16_t)(queue->state.used_next - count);
}

/* Whether the driver wants an interrupt for what it sees now and did not see `before`. */
static bool wants_interrupt(const struct virtqueue *queue, uint16_t before)
{
    const struct virtqueue_state *state = &queue->state;
    if (!virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX))
        return !(ring_get(queue->avail, RING_FLAGS) & AVAIL_F_NO_INTERRUPT);
    uint16_t event = ring_get(queue->avail, AVAIL_SIZE(state->size) - 2u);
    return (uint16_t)(state->used_shown - event - 1) < (uint16_t)(state->used_shown - before);
}

void virtqueue_flush(struct virtqueue *queue)
{
    struct virtqueue_state *state = &queue->state;
    if (!usable(queue) || state->used_next == state->used_shown)
        return;
    uint16_t before = state->used_shown;
    state->used_shown = state->used_next;
    ring_set(queue->used, RING_INDEX, state->used_shown);
    dma_written(queue->virtio->bus.memory, queue->used, USED_SIZE(state->size)); /* a fence, too */
    if (wants_interrupt(queue, before))
        virtio_interrupt_queue(queue);
}

/* ---- chains ---- */

struct virtio_chain *virtio_chain_keep(const struct virtio_chain *chain)
{
    unsigned count = chain->out_count + chain->in_count;
    struct virtio_chain *kept = malloc(sizeof *kept + count * sizeof(struct iovec));
    if (kept == NULL)
        return NULL;
    *kept = *chain;
    kept->out = (struct iovec *)(kept + 1);
    kept->in = kept->out + chain->out_count;
    memcpy(kept->out, chain->out, count * sizeof(struct iovec));
    return kept;
}

void virtio_chain_free(struct virtio_chain *chain)
{
    free(chain);
}

uint64_t virtio_copy_from(const struct iovec *pieces, unsigned count, uint64_t offset, void *buffer, uint64_t size)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= pieces[i].iov_len) {
            offset -= pieces[i].iov_len;
            continue;
        }
        uint64_t n = pieces[i].iov_len - offset < size - done ? pieces[i].iov_len - offset : size - done;
        memcpy((uint8_t *)buffer + done, (const uint8_t *)pieces[i].iov_base + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

uint64_t virtio_copy_to(struct memory *memory, const struct iovec *pieces, unsigned count, uint64_t offset,
                        const void *buffer, uint64_t size)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= pieces[i].iov_len) {
            offset -= pieces[i].iov_len;
            continue;
        }
        uint64_t n = pieces[i].iov_len - offset < size - done ? pieces[i].iov_len - offset : size - done;
        uint8_t *to = (uint8_t *)pieces[i].iov_base + offset;
        memcpy(to, (const uint8_t *)buffer + done, n);
        dma_written(memory, to, n);
        done += n;
        offset = 0;
    }
    return done;
}

void virtio_written(struct memory *memory, const struct iovec *pieces, unsigned count, uint64_t size)
{
    for (unsigned i = 0; i < count && size > 0; i++) {
        uint64_t n = pieces[i].iov_len < size ? pieces[i].iov_len : size;
        dma_written(memory, pieces[i].iov_base, n);
        size -= n;
    }
}
