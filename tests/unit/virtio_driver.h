/* A driver for virtio devices on the bench: a machine of RAM and a PCI bus, one device in slot 3, and what a guest's driver does with
 * it, in C. Ring contents are written as a hostile driver could.
 *
 * Layout of RAM: queue q has its descriptors at RINGS + q * 10000h, its available ring 4000h and its used ring 8000h behind that;
 * buffers begin at BUFFERS. */
#ifndef RING3_TESTS_UNIT_VIRTIO_DRIVER_H
#define RING3_TESTS_UNIT_VIRTIO_DRIVER_H

#include "device_test.h"

#include "device/pci.h"
#include "device/virtio/virtio.h"

#define DRIVER_RAM (4 * MiB)
#define DRIVER_SLOT 3u
#define DRIVER_MSIX_GPA 0xe0000000u
#define DRIVER_GPA 0xe0010000u
#define DRIVER_RINGS 0x100000u
#define DRIVER_BUFFERS 0x200000u
#define DRIVER_MESSAGES 64u

/* Behind DRIVER_GPA. */
enum { AT_COMMON = 0, AT_ISR = 0x1000, AT_DEVICE = 0x2000, AT_NOTIFY = 0x3000 };
/* Of the common configuration. */
enum {
    COMMON_DEVICE_FEATURE_SELECT = 0,
    COMMON_DEVICE_FEATURE = 4,
    COMMON_DRIVER_FEATURE_SELECT = 8,
    COMMON_DRIVER_FEATURE = 12,
    COMMON_CONFIG_VECTOR = 16,
    COMMON_NUM_QUEUES = 18,
    COMMON_STATUS = 20,
    COMMON_GENERATION = 21,
    COMMON_QUEUE_SELECT = 22,
    COMMON_QUEUE_SIZE = 24,
    COMMON_QUEUE_VECTOR = 26,
    COMMON_QUEUE_ENABLE = 28,
    COMMON_QUEUE_DESC = 32,
    COMMON_QUEUE_DRIVER = 40,
    COMMON_QUEUE_DEVICE = 48,
};
enum { STATUS_ACKNOWLEDGE = 1, STATUS_DRIVER = 2, STATUS_DRIVER_OK = 4, STATUS_FEATURES_OK = 8, STATUS_NEEDS_RESET = 64 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
#define VERSION_1 (1ull << 32)
#define INDIRECT (1ull << 28)
#define EVENT_IDX (1ull << 29)

struct driver_queue {
    gpa_t desc, avail, used;
    uint16_t size;
    uint16_t avail_index, used_index;
};

struct driver {
    struct bench bench;
    struct memory *memory;
    struct pci_host *host;
    struct virtio_bus bus;
    struct driver_queue queue[4];
    unsigned messages; /* sent by MSI-X, ... */
    gpa_t message_gpa[DRIVER_MESSAGES];
    uint32_t message_data[DRIVER_MESSAGES];
    unsigned written; /* calls of the memory's watcher */
};

static inline void driver_message(void *opaque, gpa_t gpa, uint32_t data)
{
    struct driver *driver = opaque;
    driver->message_gpa[driver->messages % DRIVER_MESSAGES] = gpa;
    driver->message_data[driver->messages++ % DRIVER_MESSAGES] = data;
}

static inline void driver_written(void *opaque, gpa_t gpa, unsigned size)
{
    ((struct driver *)opaque)->written++;
}

/* The machine without the device, which the test creates with driver->bus. */
static inline void driver_init(struct driver *driver)
{
    memset(driver, 0, sizeof *driver);
    bench_init(&driver->bench);
    driver->memory = memory_create(DRIVER_RAM, NULL, NULL);
    assert_non_null(driver->memory);
    memory_set_watcher(driver->memory, driver_written, driver);
    driver->host = pci_host_create(driver->memory);
    assert_non_null(driver->host);
    pci_host_set_message_sink(driver->host, driver_message, driver);
    struct irq_line pirq[4];
    for (unsigned i = 0; i < 4; i++)
        pirq[i] = bench_line(&driver->bench, i);
    pci_host_wire(driver->host, pirq);
    driver->bus = (struct virtio_bus){
        .pci = driver->host, .slot = DRIVER_SLOT, .memory = driver->memory, .queue = &driver->bench.queue};
}

static inline void driver_fini(struct driver *driver)
{
    memory_destroy(driver->memory);
}

/* The wire of the device's pin. */
static inline struct bench_line *driver_pin(struct driver *driver)
{
    return &driver->bench.line[pci_route_pin(DRIVER_SLOT, 1)];
}

static inline uint32_t driver_config_get(struct driver *driver, unsigned offset, unsigned size)
{
    return pci_host_read(driver->host, DRIVER_SLOT, 0, offset, size);
}

static inline void driver_config_set(struct driver *driver, unsigned offset, unsigned size, uint32_t value)
{
    pci_host_write(driver->host, DRIVER_SLOT, 0, offset, size, value);
}

/* As firmware places it. */
static inline void driver_map(struct driver *driver)
{
    driver_config_set(driver, PCI_BAR0 + 4, 4, DRIVER_MSIX_GPA);
    driver_config_set(driver, PCI_BAR0 + 16, 4, DRIVER_GPA);
    driver_config_set(driver, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static inline uint64_t driver_get(struct driver *driver, unsigned offset, unsigned size)
{
    return memory_mmio_read(driver->memory, DRIVER_GPA + offset, size);
}

static inline void driver_set(struct driver *driver, unsigned offset, unsigned size, uint64_t value)
{
    memory_mmio_write(driver->memory, DRIVER_GPA + offset, size, value);
}

static inline unsigned driver_status(struct driver *driver)
{
    return (unsigned)driver_get(driver, COMMON_STATUS, 1);
}

static inline uint64_t driver_offered(struct driver *driver)
{
    driver_set(driver, COMMON_DEVICE_FEATURE_SELECT, 4, 0);
    uint64_t low = driver_get(driver, COMMON_DEVICE_FEATURE, 4);
    driver_set(driver, COMMON_DEVICE_FEATURE_SELECT, 4, 1);
    return low | driver_get(driver, COMMON_DEVICE_FEATURE, 4) << 32;
}

/* Reset, features, FEATURES_OK: true if the device accepted them. */
static inline bool driver_negotiate(struct driver *driver, uint64_t features)
{
    driver_set(driver, COMMON_STATUS, 1, 0);
    assert_int_equal(driver_status(driver), 0);
    driver_set(driver, COMMON_STATUS, 1, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    for (unsigned i = 0; i < 2; i++) {
        driver_set(driver, COMMON_DRIVER_FEATURE_SELECT, 4, i);
        driver_set(driver, COMMON_DRIVER_FEATURE, 4, (uint32_t)(features >> (32 * i)));
    }
    driver_set(driver, COMMON_STATUS, 1, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    return driver_status(driver) & STATUS_FEATURES_OK;
}

static inline void driver_queue_init(struct driver *driver, unsigned q, uint16_t size)
{
    struct driver_queue *queue = &driver->queue[q];
    gpa_t base = DRIVER_RINGS + q * 0x10000u;
    *queue = (struct driver_queue){.desc = base, .avail = base + 0x4000, .used = base + 0x8000, .size = size};
    memset(memory_ram(driver->memory, base, 0x10000), 0, 0x10000);
    driver_set(driver, COMMON_QUEUE_SELECT, 2, q);
    driver_set(driver, COMMON_QUEUE_SIZE, 2, size);
    driver_set(driver, COMMON_QUEUE_VECTOR, 2, q + 1);
    driver_set(driver, COMMON_QUEUE_DESC, 8, queue->desc);
    driver_set(driver, COMMON_QUEUE_DRIVER, 8, queue->avail);
    driver_set(driver, COMMON_QUEUE_DEVICE, 8, queue->used);
    driver_set(driver, COMMON_QUEUE_ENABLE, 2, 1);
}

static inline void driver_ready(struct driver *driver)
{
    driver_set(driver, COMMON_STATUS, 1, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

/* All of it, with `queues` queues of a size. */
static inline void driver_start(struct driver *driver, uint64_t features, unsigned queues, uint16_t size)
{
    assert_true(driver_negotiate(driver, features | VERSION_1));
    for (unsigned q = 0; q < queues; q++)
        driver_queue_init(driver, q, size);
    driver_ready(driver);
}

static inline void driver_put(struct driver *driver, gpa_t gpa, const void *bytes, size_t size)
{
    assert_true(memory_write(driver->memory, gpa, bytes, size));
}

static inline uint16_t driver_get16(struct driver *driver, gpa_t gpa)
{
    uint16_t value;
    assert_true(memory_read(driver->memory, gpa, &value, 2));
    return value;
}

static inline void driver_put16(struct driver *driver, gpa_t gpa, uint16_t value)
{
    driver_put(driver, gpa, &value, 2);
}

/* A descriptor, in a table at `table`. */
static inline void driver_desc_at(struct driver *driver, gpa_t table, unsigned i, gpa_t gpa, uint32_t size, uint16_t flags,
                                  uint16_t next)
{
    uint8_t bytes[16];
    memcpy(bytes, &gpa, 8);
    memcpy(bytes + 8, &size, 4);
    memcpy(bytes + 12, &flags, 2);
    memcpy(bytes + 14, &next, 2);
    driver_put(driver, table + 16 * i, bytes, sizeof bytes);
}

static inline void driver_desc(struct driver *driver, unsigned q, unsigned i, gpa_t gpa, uint32_t size, uint16_t flags,
                               uint16_t next)
{
    driver_desc_at(driver, driver->queue[q].desc, i, gpa, size, flags, next);
}

/* Makes a head available, without a notification. */
static inline void driver_offer(struct driver *driver, unsigned q, uint16_t head)
{
    struct driver_queue *queue = &driver->queue[q];
    driver_put16(driver, queue->avail + 4 + 2u * (queue->avail_index % queue->size), head);
    driver_put16(driver, queue->avail + 2, ++queue->avail_index);
}

static inline void driver_notify(struct driver *driver, unsigned q)
{
    driver_set(driver, AT_NOTIFY + 4 * q, 2, q);
}

/* The device's used index. */
static inline uint16_t driver_used(struct driver *driver, unsigned q)
{
    return driver_get16(driver, driver->queue[q].used + 2);
}

struct driver_used {
    uint32_t head, written;
};

/* The next used element; there must be one. */
static inline struct driver_used driver_take(struct driver *driver, unsigned q)
{
    struct driver_queue *queue = &driver->queue[q];
    struct driver_used used;
    assert_int_not_equal(driver_used(driver, q), queue->used_index);
    assert_true(memory_read(driver->memory, queue->used + 4 + 8u * (queue->used_index % queue->size), &used, sizeof used));
    queue->used_index++;
    return used;
}

#endif
