/* The transport of virtio devices: a PCI function. See virtio.h.
 *
 * Model. Base address 4 is a memory range of four pages, which the vendor capabilities point into:
 *
 *     0000h  common configuration     features, status, the queues' sizes and addresses
 *     1000h  ISR status               one byte; reading it acknowledges the pin
 *     2000h  device configuration     bytes that belong to the device type
 *     3000h  notifications            four bytes a queue
 *
 * The value that is written says which queue is meant. Base address 1 belongs to MSI-X, with a vector for each queue and one for
 * configuration changes. The PCI access capability reaches the range of base address 4 through configuration
 * space, for firmware that runs in real mode.
 *
 * Registers of the common configuration can be accessed with any size that lies in it: a read assembles all fields and cuts out
 * the bytes, a write changes each field that it touches. Fields of a queue are frozen while it is enabled, features once they are
 * accepted (FEATURES_OK). The driver's features are accepted if they are offered ones and VERSION_1 is among them: there is no
 * legacy interface.
 *
 * A device whose driver broke a rule (virtio_break()) sets DEVICE_NEEDS_RESET, tells by a configuration interrupt, and serves
 * nothing more until status 0 is written. While bus mastering is off nothing is served either.
 *
 * Notifications. The device type's handler runs at once, on the thread of the processor that notified. It gets a bounded number of
 * requests (twice the queue's size); for what is left a timer calls it again, so that the lock is free between.
 *
 * Not done: the legacy and transitional interfaces, shared memory regions, queue reset (VIRTIO 1.2).
 *
 * Source: VIRTIO 1.1, 2.1 to 2.4, 3.1, 4.1.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "device/virtio/virtio_internal.h"

#define VENDOR_VIRTIO 0x1af4
#define DEVICE_ID_BASE 0x1040
#define REVISION 1
#define SUBSYSTEM_BASE 0x40

#define STATUS_DRIVER_OK 0x04
#define STATUS_FEATURES_OK 0x08
#define STATUS_NEEDS_RESET 0x40

#define ISR_QUEUE 0x1
#define ISR_CONFIG 0x2

#define BAR_MSIX 1
#define BAR_STRUCTURES 4
#define AT_COMMON 0x0000u
#define AT_ISR 0x1000u
#define AT_DEVICE 0x2000u
#define AT_NOTIFY 0x3000u
#define STRUCTURES_SIZE 0x4000u
#define NOTIFY_MULTIPLIER 4u

/* Vendor capabilities. */
#define CAPABILITY_VENDOR 0x09
#define CAP_TYPE 3
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_SIZE 16u
#define CAP_NOTIFY_MULTIPLIER 16
#define CAP_PCI_DATA 16
enum { CAP_TYPE_COMMON = 1, CAP_TYPE_NOTIFY, CAP_TYPE_ISR, CAP_TYPE_DEVICE, CAP_TYPE_PCI };

/* The common configuration: offset and size of each field, in order. */
enum common_field {
    DEVICE_FEATURE_SELECT,
    DEVICE_FEATURE,
    DRIVER_FEATURE_SELECT,
    DRIVER_FEATURE,
    CONFIG_VECTOR,
    NUM_QUEUES,
    DEVICE_STATUS,
    CONFIG_GENERATION,
    QUEUE_SELECT,
    QUEUE_SIZE,
    QUEUE_VECTOR,
    QUEUE_ENABLE,
    QUEUE_NOTIFY_OFF,
    QUEUE_DESC,
    QUEUE_DESC_HIGH,
    QUEUE_DRIVER,
    QUEUE_DRIVER_HIGH,
    QUEUE_DEVICE,
    QUEUE_DEVICE_HIGH,
};
static const struct {
    uint8_t offset, size;
} fields[] = {
    [DEVICE_FEATURE_SELECT] = {0, 4}, [DEVICE_FEATURE] = {4, 4},    [DRIVER_FEATURE_SELECT] = {8, 4},
    [DRIVER_FEATURE] = {12, 4},       [CONFIG_VECTOR] = {16, 2},    [NUM_QUEUES] = {18, 2},
    [DEVICE_STATUS] = {20, 1},        [CONFIG_GENERATION] = {21, 1}, [QUEUE_SELECT] = {22, 2},
    [QUEUE_SIZE] = {24, 2},           [QUEUE_VECTOR] = {26, 2},     [QUEUE_ENABLE] = {28, 2},
    [QUEUE_NOTIFY_OFF] = {30, 2},     [QUEUE_DESC] = {32, 4},       [QUEUE_DESC_HIGH] = {36, 4},
    [QUEUE_DRIVER] = {40, 4},         [QUEUE_DRIVER_HIGH] = {44, 4}, [QUEUE_DEVICE] = {48, 4},
    [QUEUE_DEVICE_HIGH] = {52, 4},
};
#define COMMON_SIZE 56u

/* ---- state ---- */

bool virtio_has(const struct virtio *virtio, unsigned bit)
{
    return virtio->state.status & STATUS_FEATURES_OK && virtio->state.driver_features >> bit & 1;
}

bool virtio_is_ready(const struct virtio *virtio)
{
    return (virtio->state.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK &&
           pci_bus_master(virtio->function);
}

uint8_t *virtio_config(struct virtio *virtio)
{
    return virtio->config;
}

uint8_t *virtio_config_writable(struct virtio *virtio)
{
    return virtio->config_writable;
}

struct virtqueue *virtio_queue(struct virtio *virtio, unsigned index)
{
    check(index < virtio->queue_count);
    return &virtio->queues[index];
}

/* ---- interrupts ---- */

static void interrupt(struct virtio *virtio, uint16_t vector, uint8_t isr)
{
    if (msix_enabled(virtio->msix)) {
        if (vector != VIRTIO_NO_VECTOR)
            msix_notify(virtio->msix, vector);
        return;
    }
    virtio->state.isr |= isr;
    pci_irq(virtio->function, true);
}

void virtio_interrupt_queue(struct virtqueue *queue)
{
    interrupt(queue->virtio, queue->state.vector, ISR_QUEUE);
}

static void interrupt_config(struct virtio *virtio)
{
    if (virtio->state.status & STATUS_DRIVER_OK)
        interrupt(virtio, virtio->state.config_vector, ISR_CONFIG);
}

void virtio_config_changed(struct virtio *virtio)
{
    virtio->state.generation++;
    interrupt_config(virtio);
}

void virtio_break(struct virtio *virtio, const char *why)
{
    if (virtio->state.status & STATUS_NEEDS_RESET)
        return;
    log_warn(virtio->bus.log, "%s: the guest's driver broke the rules: %s; the device needs a reset", virtio->ops->name, why);
    virtio->state.status |= STATUS_NEEDS_RESET;
    interrupt_config(virtio);
}

/* ---- notifications ---- */

static void queue_notified(struct virtqueue *queue)
{
    struct virtio *virtio = queue->virtio;
    if (!queue->state.enabled || !virtio_is_ready(virtio))
        return;
    queue->budget = 2u * queue->state.size;
    queue->limited = true;
    queue->more = false;
    virtio->ops->notified(virtio->dev, queue->index);
    queue->limited = false;
    if (queue->more && !timer_armed(&virtio->again))
        timer_arm(&virtio->again, timer_now_ns(virtio->bus.queue) + 1);
}

void virtio_serve(struct virtio *virtio, unsigned queue)
{
    queue_notified(virtio_queue(virtio, queue));
}

static void again_fired(void *opaque)
{
    struct virtio *virtio = opaque;
    for (unsigned i = 0; i < virtio->queue_count; i++)
        if (virtio->queues[i].more)
            queue_notified(&virtio->queues[i]);
}

static void doorbell(struct virtio *virtio, uint64_t value)
{
    unsigned index = value & 0xffff;
    if (index < virtio->queue_count)
        queue_notified(&virtio->queues[index]);
}

/* ---- status and features ---- */

static void device_reset(struct virtio *virtio)
{
    timer_disarm(&virtio->again);
    for (unsigned i = 0; i < virtio->queue_count; i++)
        virtqueue_reset(&virtio->queues[i]);
    uint8_t generation = virtio->state.generation;
    virtio->state = (struct virtio_state){.config_vector = VIRTIO_NO_VECTOR, .generation = generation};
    pci_irq(virtio->function, false);
    if (virtio->ops->reset != NULL)
        virtio->ops->reset(virtio->dev);
}

static bool features_acceptable(const struct virtio *virtio)
{
    uint64_t wanted = virtio->state.driver_features;
    return (wanted & ~virtio->features) == 0 && wanted >> VIRTIO_F_VERSION_1 & 1;
}

static void driver_ready(struct virtio *virtio)
{
    if (virtio->ops->ready != NULL)
        virtio->ops->ready(virtio->dev);
    for (unsigned i = 0; i < virtio->queue_count; i++)
        queue_notified(&virtio->queues[i]);
}

static void set_status(struct virtio *virtio, uint8_t value)
{
    uint8_t before = virtio->state.status;
    if (value == 0) {
        device_reset(virtio);
        return;
    }
    uint8_t status = (uint8_t)((value & ~STATUS_NEEDS_RESET) | before); /* bits go only with a reset */
    if (status & ~before & STATUS_FEATURES_OK && !features_acceptable(virtio))
        status &= (uint8_t)~STATUS_FEATURES_OK;
    if (!(status & STATUS_FEATURES_OK)) /* without features there is nothing to be ready for */
        status &= (uint8_t)~STATUS_DRIVER_OK;
    virtio->state.status = status;
    if (status & ~before & STATUS_DRIVER_OK)
        driver_ready(virtio);
}

/* ---- the common configuration ---- */

static struct virtqueue *selected(struct virtio *virtio)
{
    unsigned index = virtio->state.queue_select;
    return index < virtio->queue_count ? &virtio->queues[index] : NULL;
}

static uint32_t half(uint64_t value, unsigned which)
{
    return which < 2 ? (uint32_t)(value >> (32 * which)) : 0;
}

static uint32_t queue_field(const struct virtqueue *queue, enum common_field field)
{
    const struct virtqueue_state *state = &queue->state;
    switch (field) {
    case QUEUE_SIZE: return state->size;
    case QUEUE_VECTOR: return state->vector;
    case QUEUE_ENABLE: return state->enabled;
    case QUEUE_NOTIFY_OFF: return queue->index;
    case QUEUE_DESC: return half(state->desc, 0);
    case QUEUE_DESC_HIGH: return half(state->desc, 1);
    case QUEUE_DRIVER: return half(state->avail, 0);
    case QUEUE_DRIVER_HIGH: return half(state->avail, 1);
    case QUEUE_DEVICE: return half(state->used, 0);
    default: return half(state->used, 1);
    }
}

static uint32_t field_get(struct virtio *virtio, enum common_field field)
{
    const struct virtio_state *state = &virtio->state;
    const struct virtqueue *queue = selected(virtio);
    switch (field) {
    case DEVICE_FEATURE_SELECT: return state->device_feature_select;
    case DEVICE_FEATURE: return half(virtio->features, state->device_feature_select);
    case DRIVER_FEATURE_SELECT: return state->driver_feature_select;
    case DRIVER_FEATURE: return half(state->driver_features, state->driver_feature_select);
    case CONFIG_VECTOR: return state->config_vector;
    case NUM_QUEUES: return virtio->queue_count;
    case DEVICE_STATUS: return state->status;
    case CONFIG_GENERATION: return state->generation;
    case QUEUE_SELECT: return state->queue_select;
    default: return queue != NULL ? queue_field(queue, field) : 0; /* a size of 0: there is no such queue */
    }
}

static void set_half(uint64_t *value, unsigned which, uint32_t to)
{
    unsigned shift = 32 * which;
    *value = (*value & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)to << shift;
}

/* A vector that there is, or none. */
static uint16_t vector_for(const struct virtio *virtio, uint32_t value)
{
    return value <= virtio->queue_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void queue_enable(struct virtqueue *queue)
{
    struct virtio *virtio = queue->virtio;
    if (!(virtio->state.status & STATUS_FEATURES_OK))
        virtio_break(virtio, "a queue was enabled before the features were chosen");
    else if (!virtqueue_enable(queue))
        virtio_break(virtio, "a queue was enabled whose rings are not in memory, or not aligned");
}

static void queue_field_set(struct virtqueue *queue, enum common_field field, uint32_t value)
{
    struct virtqueue_state *state = &queue->state;
    if (field == QUEUE_VECTOR)
        state->vector = vector_for(queue->virtio, value);
    if (state->enabled)
        return;
    switch (field) {
    case QUEUE_SIZE:
        if (value != 0 && value <= queue->virtio->queue_size && (value & (value - 1)) == 0)
            state->size = (uint16_t)value;
        break;
    case QUEUE_ENABLE:
        if (value == 1)
            queue_enable(queue);
        break;
    case QUEUE_DESC: set_half(&state->desc, 0, value); break;
    case QUEUE_DESC_HIGH: set_half(&state->desc, 1, value); break;
    case QUEUE_DRIVER: set_half(&state->avail, 0, value); break;
    case QUEUE_DRIVER_HIGH: set_half(&state->avail, 1, value); break;
    case QUEUE_DEVICE: set_half(&state->used, 0, value); break;
    case QUEUE_DEVICE_HIGH: set_half(&state->used, 1, value); break;
    default: break;
    }
}

static void field_set(struct virtio *virtio, enum common_field field, uint32_t value)
{
    struct virtio_state *state = &virtio->state;
    switch (field) {
    case DEVICE_FEATURE_SELECT: state->device_feature_select = value; break;
    case DRIVER_FEATURE_SELECT: state->driver_feature_select = value; break;
    case DRIVER_FEATURE:
        if (state->driver_feature_select < 2 && !(state->status & STATUS_FEATURES_OK))
            set_half(&state->driver_features, state->driver_feature_select, value);
        break;
    case CONFIG_VECTOR: state->config_vector = vector_for(virtio, value); break;
    case DEVICE_STATUS: set_status(virtio, (uint8_t)value); break;
    case QUEUE_SELECT: state->queue_select = (uint16_t)value; break;
    default:
        if (selected(virtio) != NULL)
            queue_field_set(selected(virtio), field, value);
    }
}

static uint64_t common_read(struct virtio *virtio, unsigned offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        unsigned first = fields[i].offset, end = first + fields[i].size;
        if (end <= offset || first >= offset + size)
            continue;
        uint64_t field = field_get(virtio, (enum common_field)i);
        value |= first >= offset ? field << (8 * (first - offset)) : field >> (8 * (offset - first));
    }
    return value;
}

static void common_write(struct virtio *virtio, unsigned offset, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        unsigned first = fields[i].offset, end = first + fields[i].size;
        if (end <= offset || first >= offset + size)
            continue;
        uint32_t field = field_get(virtio, (enum common_field)i);
        for (unsigned byte = first; byte < end; byte++) {
            if (byte < offset || byte >= offset + size)
                continue;
            unsigned shift = 8 * (byte - first);
            field = (field & ~(0xffu << shift)) | (uint32_t)(value >> (8 * (byte - offset)) & 0xff) << shift;
        }
        field_set(virtio, (enum common_field)i, field);
    }
}

/* ---- the other structures ---- */

static uint64_t isr_read(struct virtio *virtio)
{
    uint8_t isr = virtio->state.isr;
    virtio->state.isr = 0;
    pci_irq(virtio->function, false);
    return isr;
}

static uint64_t config_read(const struct virtio *virtio, unsigned offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        if (offset + i < virtio->config_size)
            value |= (uint64_t)virtio->config[offset + i] << (8 * i);
    return value;
}

static void config_write(struct virtio *virtio, unsigned offset, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++) {
        if (offset + i >= virtio->config_size)
            return;
        uint8_t *byte = &virtio->config[offset + i], mask = virtio->config_writable[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | (value >> (8 * i) & mask));
    }
    if (virtio->ops->config_written != NULL)
        virtio->ops->config_written(virtio->dev, offset, size);
}

static uint64_t structures_read(void *dev, uint64_t offset, unsigned size)
{
    struct virtio *virtio = dev;
    unsigned at = (unsigned)offset & 0xfff;
    switch (offset & ~0xfffull) {
    case AT_COMMON: return common_read(virtio, at, size);
    case AT_ISR: return at == 0 ? isr_read(virtio) : 0;
    case AT_DEVICE: return config_read(virtio, at, size);
    default: return 0;
    }
}

static void structures_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio *virtio = dev;
    unsigned at = (unsigned)offset & 0xfff;
    switch (offset & ~0xfffull) {
    case AT_COMMON: common_write(virtio, at, size, value); break;
    case AT_DEVICE: config_write(virtio, at, size, value); break;
    case AT_NOTIFY:
        if (size >= 2)
            doorbell(virtio, value);
        break;
    default: break;
    }
}

/* ---- the PCI function ---- */

/* Where the PCI access capability points, if that is an access that the structures take. */
static bool window_target(const struct virtio *virtio, uint32_t *offset, uint32_t *size)
{
    const struct pci_function *function = virtio->function;
    *offset = pci_config_get32(function, virtio->window + CAP_OFFSET);
    *size = pci_config_get32(function, virtio->window + CAP_LENGTH);
    return (pci_config_get32(function, virtio->window + CAP_BAR) & 0xff) == BAR_STRUCTURES &&
           (*size == 1 || *size == 2 || *size == 4) && *offset % *size == 0 && *offset < STRUCTURES_SIZE;
}

static bool function_config_read(void *dev, unsigned offset, unsigned size, uint32_t *value)
{
    struct virtio *virtio = dev;
    unsigned data = virtio->window + CAP_PCI_DATA;
    uint32_t at, length;
    if (offset < data || offset >= data + 4 || !window_target(virtio, &at, &length))
        return false;
    *value = (uint32_t)structures_read(virtio, at, length) >> (8 * (offset - data));
    return true;
}

static void function_config_written(void *dev, unsigned offset, unsigned size)
{
    struct virtio *virtio = dev;
    unsigned data = virtio->window + CAP_PCI_DATA;
    uint32_t at, length;
    msix_config_written(virtio->msix, offset, size);
    if (offset < data + 4 && offset + size > data && window_target(virtio, &at, &length))
        structures_write(virtio, at, length, pci_config_get32(virtio->function, data) & (UINT32_MAX >> (32 - 8 * length)));
}

static void function_reset(void *dev)
{
    struct virtio *virtio = dev;
    msix_reset(virtio->msix);
    virtio->state.generation = 0;
    device_reset(virtio);
}

static unsigned add_capability(struct virtio *virtio, uint8_t type, unsigned bar, uint32_t offset, uint32_t length)
{
    bool more = type == CAP_TYPE_NOTIFY || type == CAP_TYPE_PCI;
    unsigned size = more ? CAP_SIZE + 4 : CAP_SIZE;
    unsigned at = pci_add_capability(virtio->function, CAPABILITY_VENDOR, size);
    uint8_t *config = pci_config(virtio->function);
    config[at + 2] = (uint8_t)size;
    config[at + CAP_TYPE] = type;
    config[at + CAP_BAR] = (uint8_t)bar;
    pci_config_set32(virtio->function, at + CAP_OFFSET, offset);
    pci_config_set32(virtio->function, at + CAP_LENGTH, length);
    return at;
}

static void add_structures(struct virtio *virtio)
{
    struct pci_function *function = virtio->function;
    uint8_t *writable = pci_config_writable(function);
    pci_set_bar(function, BAR_STRUCTURES, PCI_BAR_MEMORY, false, STRUCTURES_SIZE, &virtio->io, virtio);
    add_capability(virtio, CAP_TYPE_COMMON, BAR_STRUCTURES, AT_COMMON, COMMON_SIZE);
    unsigned notify = add_capability(virtio, CAP_TYPE_NOTIFY, BAR_STRUCTURES, AT_NOTIFY,
                                     virtio->queue_count * NOTIFY_MULTIPLIER);
    pci_config_set32(function, notify + CAP_NOTIFY_MULTIPLIER, NOTIFY_MULTIPLIER);
    add_capability(virtio, CAP_TYPE_ISR, BAR_STRUCTURES, AT_ISR, 1);
    if (virtio->config_size != 0)
        add_capability(virtio, CAP_TYPE_DEVICE, BAR_STRUCTURES, AT_DEVICE, virtio->config_size);
    virtio->window = add_capability(virtio, CAP_TYPE_PCI, 0, 0, 0);
    writable[virtio->window + CAP_BAR] = 0xff;
    memset(&writable[virtio->window + CAP_OFFSET], 0xff, CAP_PCI_DATA + 4 - CAP_OFFSET);
}

static bool build(struct virtio *virtio, const struct virtio_desc *desc, struct error *err)
{
    static const struct pci_function_ops ops = {
        .config_read = function_config_read, .config_written = function_config_written, .reset = function_reset};
    const struct pci_function_desc function = {
        .vendor_id = VENDOR_VIRTIO,
        .device_id = (uint16_t)(DEVICE_ID_BASE + desc->type),
        .revision = REVISION,
        .class_code = desc->class_code,
        .subsystem_vendor_id = VENDOR_VIRTIO,
        .subsystem_id = (uint16_t)(SUBSYSTEM_BASE + desc->type),
        .interrupt_pin = 1,
        .ops = &ops,
    };
    virtio->function = pci_add_function(virtio->bus.pci, virtio->bus.slot, 0, &function, virtio, err);
    if (virtio->function == NULL)
        return false;
    virtio->msix = msix_create(virtio->function, BAR_MSIX, desc->queues + 1);
    bool ok = virtio->msix != NULL;
    for (unsigned i = 0; i < desc->queues; i++)
        ok &= virtqueue_init(&virtio->queues[i], virtio, i);
    if (!ok)
        return error_set(err, "out of memory");
    add_structures(virtio);
    return true;
}

struct virtio *virtio_create(const struct virtio_bus *bus, const struct virtio_desc *desc, void *dev, struct error *err)
{
    check(desc->queues != 0 && desc->queues <= VIRTIO_QUEUES_MAX && desc->config_size <= VIRTIO_CONFIG_MAX);
    check(desc->queue_size != 0 && desc->queue_size <= VIRTIO_QUEUE_SIZE_MAX &&
          (desc->queue_size & (desc->queue_size - 1)) == 0);
    struct virtio *virtio = calloc(1, sizeof *virtio + desc->queues * sizeof virtio->queues[0]);
    if (virtio == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    virtio->bus = *bus;
    virtio->ops = desc->ops;
    virtio->dev = dev;
    virtio->io = (struct io_ops){.read = structures_read, .write = structures_write, .name = desc->ops->name};
    virtio->features = desc->features | 1ull << VIRTIO_F_INDIRECT_DESC | 1ull << VIRTIO_F_EVENT_IDX |
                       1ull << VIRTIO_F_VERSION_1;
    virtio->queue_count = desc->queues;
    virtio->queue_size = desc->queue_size;
    virtio->config_size = desc->config_size;
    virtio->state.config_vector = VIRTIO_NO_VECTOR;
    timer_init(&virtio->again, bus->queue, again_fired, virtio);
    if (!build(virtio, desc, err)) {
        virtio_destroy(virtio);
        return NULL;
    }
    return virtio;
}

void virtio_destroy(struct virtio *virtio)
{
    if (virtio == NULL)
        return;
    if (virtio->bus.queue != NULL)
        timer_disarm(&virtio->again);
    msix_destroy(virtio->msix);
    for (unsigned i = 0; i < virtio->queue_count; i++)
        virtqueue_fini(&virtio->queues[i]);
    free(virtio);
}
