/* The virtio transport and its rings, through the registers and the memory that a driver has; MSI and MSI-X. Oracles: VIRTIO 1.1,
 * chapters 2 and 4.1, PCI 3.0, chapter 6.8. */
#include "virtio_driver.h"

#include <stdlib.h>

#include "device/pci_msi.h"

#define FEATURE_ODD (1ull << 3)
#define CONFIG_SIZE 8

/* A device that answers each request with the bytes that it reads, each one more. */
struct echo {
    struct driver driver;
    struct virtio *virtio;
    unsigned notified, readies, resets, config_writes;
    unsigned requests;
    bool hold;   /* leaves requests in the ring */
    bool refill; /* a second processor adds as fast as we take */
    struct virtio_chain *kept;
    bool keep;
};

static void echo_notified(void *dev, unsigned index)
{
    struct echo *echo = dev;
    struct virtqueue *queue = virtio_queue(echo->virtio, index);
    struct virtio_chain chain;
    uint8_t bytes[4096];
    echo->notified++;
    if (echo->hold)
        return;
    do {
        virtqueue_set_notify(queue, false);
        while (virtqueue_pop(queue, &chain)) {
            echo->requests++;
            if (echo->refill)
                driver_offer(&echo->driver, index, 0);
            if (echo->keep) {
                echo->kept = virtio_chain_keep(&chain);
                continue;
            }
            uint64_t n = virtio_copy_from(chain.out, chain.out_count, 0, bytes, sizeof bytes);
            for (uint64_t i = 0; i < n; i++)
                bytes[i]++;
            virtqueue_push(queue, &chain, virtio_copy_to(echo->driver.memory, chain.in, chain.in_count, 0, bytes, n));
        }
        virtqueue_flush(queue);
    } while (!virtqueue_set_notify(queue, true));
}

static void echo_ready(void *dev)
{
    ((struct echo *)dev)->readies++;
}

static void echo_reset(void *dev)
{
    ((struct echo *)dev)->resets++;
}

static void echo_config_written(void *dev, unsigned offset, unsigned size)
{
    ((struct echo *)dev)->config_writes++;
}

static int setup(void **state)
{
    static const struct virtio_ops ops = {.notified = echo_notified,
                                          .ready = echo_ready,
                                          .reset = echo_reset,
                                          .config_written = echo_config_written,
                                          .name = "echo"};
    static const struct virtio_desc desc = {.type = VIRTIO_CONSOLE,
                                            .class_code = 0x078000,
                                            .features = FEATURE_ODD,
                                            .queues = 2,
                                            .queue_size = 16,
                                            .config_size = CONFIG_SIZE,
                                            .ops = &ops};
    struct echo *echo = calloc(1, sizeof *echo);
    driver_init(&echo->driver);
    echo->virtio = virtio_create(&echo->driver.bus, &desc, echo, NULL);
    assert_non_null(echo->virtio);
    virtio_config_writable(echo->virtio)[4] = 0xff;
    driver_map(&echo->driver);
    *state = echo;
    return 0;
}

static int teardown(void **state)
{
    struct echo *echo = *state;
    virtio_chain_free(echo->kept);
    pci_host_destroy(echo->driver.host);
    virtio_destroy(echo->virtio);
    driver_fini(&echo->driver);
    free(echo);
    return 0;
}

/* ---- the function ---- */

/* The offset of the capability of a vendor type, from `at` on in the list; 0: none. */
static unsigned find_capability(struct driver *d, uint8_t id, int type, unsigned from)
{
    unsigned at = from == 0 ? driver_config_get(d, PCI_CAPABILITIES, 1) : driver_config_get(d, from + 1, 1);
    while (at != 0 && (driver_config_get(d, at, 1) != id || (type >= 0 && driver_config_get(d, at + 3, 1) != (unsigned)type)))
        at = driver_config_get(d, at + 1, 1);
    return at;
}

static void test_function(void **state)
{
    struct driver *d = &((struct echo *)*state)->driver;
    assert_int_equal(driver_config_get(d, PCI_VENDOR_ID, 4), 0x10431af4);
    assert_true(driver_config_get(d, PCI_REVISION, 1) >= 1);
    static const struct {
        int type;
        uint32_t offset, length;
    } expected[] = {{1, 0, 56}, {3, 0x1000, 1}, {4, 0x2000, CONFIG_SIZE}};
    for (unsigned i = 0; i < ARRAY_LEN(expected); i++) {
        unsigned at = find_capability(d, 9, expected[i].type, 0);
        assert_int_not_equal(at, 0);
        assert_int_equal(driver_config_get(d, at + 2, 1), 16);
        assert_int_equal(driver_config_get(d, at + 4, 1), 4);
        assert_int_equal(driver_config_get(d, at + 8, 4), expected[i].offset);
        assert_int_equal(driver_config_get(d, at + 12, 4), expected[i].length);
    }
    unsigned notify = find_capability(d, 9, 2, 0);
    assert_int_equal(driver_config_get(d, notify + 4, 1), 4);
    assert_int_equal(driver_config_get(d, notify + 8, 4), 0x3000);
    assert_int_equal(driver_config_get(d, notify + 12, 4), 8);
    assert_int_equal(driver_config_get(d, notify + 16, 4), 4);
    assert_int_equal(driver_get(d, COMMON_NUM_QUEUES, 2), 2);
}

static void test_access_through_configuration_space(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    unsigned at = find_capability(d, 9, 5, 0);
    assert_int_not_equal(at, 0);
    driver_config_set(d, at + 4, 1, 4);
    driver_config_set(d, at + 8, 4, COMMON_STATUS);
    driver_config_set(d, at + 12, 4, 1);
    driver_config_set(d, at + 16, 1, STATUS_ACKNOWLEDGE);
    assert_int_equal(driver_status(d), STATUS_ACKNOWLEDGE);
    assert_int_equal(driver_config_get(d, at + 16, 1), STATUS_ACKNOWLEDGE);
    driver_config_set(d, at + 8, 4, COMMON_NUM_QUEUES);
    driver_config_set(d, at + 12, 4, 2);
    assert_int_equal(driver_config_get(d, at + 16, 2), 2);
    /* What it cannot reach: another range, outside, unaligned, a length of no access. Plain bytes then. */
    static const uint32_t wrong[][3] = {{1, 0, 4}, {4, 0x4000, 4}, {4, 0xfffffffc, 4}, {4, 1, 2}, {4, 0, 3}, {4, 0, 0}};
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        driver_config_set(d, at + 4, 1, wrong[i][0]);
        driver_config_set(d, at + 8, 4, wrong[i][1]);
        driver_config_set(d, at + 12, 4, wrong[i][2]);
        driver_config_set(d, at + 16, 4, 0);
        assert_int_equal(driver_config_get(d, at + 16, 4), 0);
    }
    assert_int_equal(driver_status(d), STATUS_ACKNOWLEDGE);
}

static void test_features(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    assert_int_equal(driver_offered(d), VERSION_1 | INDIRECT | EVENT_IDX | FEATURE_ODD);
    assert_false(driver_negotiate(d, FEATURE_ODD));             /* without VERSION_1 */
    assert_false(driver_negotiate(d, VERSION_1 | 1));           /* not offered */
    assert_false(driver_negotiate(d, VERSION_1 | 1ull << 34));  /* nor is a packed ring */
    assert_false(virtio_has(echo->virtio, 3));
    driver_ready(d); /* ready for nothing */
    assert_int_equal(driver_status(d) & STATUS_DRIVER_OK, 0);
    assert_int_equal(echo->readies, 0);
    assert_true(driver_negotiate(d, VERSION_1 | FEATURE_ODD));
    driver_set(d, COMMON_DRIVER_FEATURE_SELECT, 4, 0);
    driver_set(d, COMMON_DRIVER_FEATURE, 4, 0); /* too late */
    assert_true(virtio_has(echo->virtio, 3));
    driver_set(d, COMMON_DRIVER_FEATURE_SELECT, 4, 7);
    assert_int_equal(driver_get(d, COMMON_DRIVER_FEATURE, 4), 0);
    driver_ready(d);
    assert_int_equal(echo->readies, 1);
    driver_set(d, COMMON_STATUS, 1, STATUS_ACKNOWLEDGE); /* bits do not go */
    assert_int_equal(driver_status(d), 15);
    unsigned resets = echo->resets;
    driver_set(d, COMMON_STATUS, 1, 0);
    assert_int_equal(driver_status(d), 0);
    assert_int_equal(echo->resets, resets + 1);
}

static void test_queue_registers(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    assert_true(driver_negotiate(d, VERSION_1));
    driver_set(d, COMMON_QUEUE_SELECT, 2, 1);
    assert_int_equal(driver_get(d, COMMON_QUEUE_SIZE, 2), 16);
    static const uint16_t sizes[] = {0, 3, 17, 32, 0x8000, 0xffff};
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        driver_set(d, COMMON_QUEUE_SIZE, 2, sizes[i]);
        assert_int_equal(driver_get(d, COMMON_QUEUE_SIZE, 2), 16);
    }
    driver_set(d, COMMON_QUEUE_SIZE, 2, 8);
    assert_int_equal(driver_get(d, COMMON_QUEUE_SIZE, 2), 8);
    driver_set(d, COMMON_QUEUE_VECTOR, 2, 2);
    assert_int_equal(driver_get(d, COMMON_QUEUE_VECTOR, 2), 2);
    driver_set(d, COMMON_QUEUE_VECTOR, 2, 3);
    assert_int_equal(driver_get(d, COMMON_QUEUE_VECTOR, 2), 0xffff);
    driver_set(d, COMMON_QUEUE_DESC + 2, 1, 0x12); /* a byte alone */
    driver_set(d, COMMON_QUEUE_DESC + 4, 4, 0x34);
    assert_int_equal(driver_get(d, COMMON_QUEUE_DESC, 8), 0x3400120000);
    driver_set(d, COMMON_QUEUE_SELECT, 2, 2); /* there is none */
    driver_set(d, COMMON_QUEUE_ENABLE, 2, 1);
    assert_int_equal(driver_get(d, COMMON_QUEUE_SIZE, 2), 0);
    assert_int_equal(driver_get(d, COMMON_QUEUE_ENABLE, 2), 0);
    driver_queue_init(d, 0, 8);
    assert_int_equal(driver_get(d, COMMON_QUEUE_ENABLE, 2), 1);
    driver_set(d, COMMON_QUEUE_SIZE, 2, 16); /* frozen */
    driver_set(d, COMMON_QUEUE_DESC, 4, 0);
    driver_set(d, COMMON_QUEUE_ENABLE, 2, 0);
    assert_int_equal(driver_get(d, COMMON_QUEUE_SIZE, 2), 8);
    assert_int_equal(driver_get(d, COMMON_QUEUE_DESC, 4), DRIVER_RINGS);
    assert_int_equal(driver_get(d, COMMON_QUEUE_ENABLE, 2), 1);
    assert_int_equal(driver_status(d) & STATUS_NEEDS_RESET, 0);
}

/* Rings that are not in RAM, or not aligned. */
static void test_bad_rings(void **state)
{
    struct driver *d = &((struct echo *)*state)->driver;
    static const gpa_t wrong[][3] = {{DRIVER_RAM, 0x104000, 0x108000},     {0x100000, DRIVER_RAM - 4, 0x108000},
                                     {0x100000, 0x104000, DRIVER_GPA},     {0x100008, 0x104000, 0x108000},
                                     {0x100000, 0x104001, 0x108000},       {0x100000, 0x104000, 0x108002},
                                     {0x100000, 0x104000, 0xfffffffffffffffc}, {DRIVER_RAM - 16, 0x104000, 0x108000}};
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_true(driver_negotiate(d, VERSION_1));
        driver_set(d, COMMON_QUEUE_SELECT, 2, 0);
        driver_set(d, COMMON_QUEUE_DESC, 8, wrong[i][0]);
        driver_set(d, COMMON_QUEUE_DRIVER, 8, wrong[i][1]);
        driver_set(d, COMMON_QUEUE_DEVICE, 8, wrong[i][2]);
        driver_set(d, COMMON_QUEUE_ENABLE, 2, 1);
        assert_int_equal(driver_get(d, COMMON_QUEUE_ENABLE, 2), 0);
        assert_int_equal(driver_status(d) & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
        driver_ready(d);
        driver_notify(d, 0);
    }
}

/* ---- requests ---- */

/* A request of one readable and one writable piece, at descriptors 0 and 1. */
static void put_request(struct driver *d, const char *text, uint32_t room)
{
    driver_put(d, DRIVER_BUFFERS, text, strlen(text));
    driver_desc(d, 0, 0, DRIVER_BUFFERS, (uint32_t)strlen(text), DESC_NEXT, 1);
    driver_desc(d, 0, 1, DRIVER_BUFFERS + 0x1000, room, DESC_WRITE, 0);
}

static void test_request_and_pin(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    char answer[6] = "";
    driver_start(d, 0, 1, 8);
    put_request(d, "HAL89", 16);
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    struct driver_used used = driver_take(d, 0);
    assert_int_equal(used.head, 0);
    assert_int_equal(used.written, 5);
    assert_true(memory_read(d->memory, DRIVER_BUFFERS + 0x1000, answer, 5));
    assert_string_equal(answer, "IBM9:");
    assert_true(driver_pin(d)->level);
    assert_int_equal(driver_get(d, AT_ISR, 1), 1);
    assert_false(driver_pin(d)->level);
    assert_int_equal(driver_get(d, AT_ISR, 1), 0);
    driver_put16(d, d->queue[0].avail, 1); /* no interrupts, please */
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(driver_used(d, 0), 2);
    assert_false(driver_pin(d)->level);
    driver_offer(d, 0, 0);
    driver_set(d, AT_NOTIFY, 2, 77); /* of no queue */
    driver_set(d, AT_NOTIFY, 1, 0);  /* half a notification */
    assert_int_equal(driver_used(d, 0), 2);
}

static void test_not_before_ready(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    assert_true(driver_negotiate(d, VERSION_1));
    driver_queue_init(d, 0, 8);
    put_request(d, "x", 1);
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(driver_used(d, 0), 0);
    driver_ready(d); /* what waited is served then */
    assert_int_equal(driver_used(d, 0), 1);
    driver_config_set(d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* no bus mastering: no access to memory */
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(driver_used(d, 0), 1);
}

static void test_pieces(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    uint8_t bytes[8];
    driver_start(d, INDIRECT, 1, 8);
    driver_put(d, DRIVER_BUFFERS, "abcdefgh", 8);
    /* 0 and 1 directly, the rest in a table; pieces of no bytes between. */
    driver_desc(d, 0, 0, DRIVER_BUFFERS, 3, DESC_NEXT, 5);
    driver_desc(d, 0, 5, DRIVER_BUFFERS + 0x2000, 16 * 5, DESC_INDIRECT, 0);
    driver_desc_at(d, DRIVER_BUFFERS + 0x2000, 0, 0xfffffffffffff000, 0, DESC_NEXT, 3);
    driver_desc_at(d, DRIVER_BUFFERS + 0x2000, 3, DRIVER_BUFFERS + 3, 5, DESC_NEXT, 1);
    driver_desc_at(d, DRIVER_BUFFERS + 0x2000, 1, DRIVER_BUFFERS + 0x1000, 1, DESC_NEXT | DESC_WRITE, 2);
    driver_desc_at(d, DRIVER_BUFFERS + 0x2000, 2, DRIVER_BUFFERS + 0x1ffc, 100, DESC_WRITE, 4);
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    struct driver_used used = driver_take(d, 0);
    assert_int_equal(used.written, 8);
    assert_true(memory_read(d->memory, DRIVER_BUFFERS + 0x1000, bytes, 1));
    assert_true(memory_read(d->memory, DRIVER_BUFFERS + 0x1ffc, bytes + 1, 7));
    assert_memory_equal(bytes, "bcdefghi", 8);
}

/* Whoever watches a page hears of what a device writes there. */
static void test_watched(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    driver_start(d, 0, 1, 8);
    put_request(d, "x", 1);
    memory_watch(d->memory, (DRIVER_BUFFERS + 0x1000) >> PAGE_SHIFT, PAGE_CODE);
    driver_offer(d, 0, 0);
    unsigned before = d->written;
    driver_notify(d, 0);
    assert_int_equal(d->written, before + 1);
    memory_watch(d->memory, d->queue[0].used >> PAGE_SHIFT, PAGE_TABLE);
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(d->written, before + 3);
}

/* Indices count on and wrap; every request is answered once. */
static void test_indices_wrap(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    driver_start(d, EVENT_IDX, 1, 4);
    put_request(d, "x", 1);
    for (unsigned i = 0; i < 70000; i++) {
        driver_put16(d, d->queue[0].avail + 4 + 2 * 4, (uint16_t)i); /* used_event: interrupt for the next */
        driver_offer(d, 0, 0);
        driver_notify(d, 0);
        assert_int_equal(driver_used(d, 0), (uint16_t)(i + 1));
        assert_int_equal(driver_get(d, AT_ISR, 1), 1);
        assert_int_equal(driver_get16(d, d->queue[0].used + 4 + 8 * 4), (uint16_t)(i + 1)); /* avail_event */
    }
    assert_int_equal(echo->requests, 70000);
    driver_put16(d, d->queue[0].avail + 4 + 2 * 4, (uint16_t)(70000 + 2)); /* only after three more */
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(driver_get(d, AT_ISR, 1), 0);
        driver_offer(d, 0, 0);
        driver_notify(d, 0);
    }
    assert_int_equal(driver_get(d, AT_ISR, 1), 1);
}

/* ---- rings that break the rules ---- */

struct bad {
    struct {
        gpa_t gpa;
        uint32_t size;
        uint16_t flags, next;
    } desc[3], table[2]; /* table: at DRIVER_BUFFERS + 2000h */
    uint16_t head;
    uint16_t ahead; /* added to the available index */
    bool no_indirect;
};

static const struct bad bads[] = {
    {.desc = {{DRIVER_BUFFERS, 1, DESC_NEXT, 0}}},                                             /* a loop of one */
    {.desc = {{DRIVER_BUFFERS, 1, DESC_NEXT, 1}, {DRIVER_BUFFERS, 1, DESC_NEXT, 0}}},          /* ... of two */
    {.desc = {{DRIVER_BUFFERS, 1, DESC_NEXT, 8}}},                                             /* next outside */
    {.desc = {{DRIVER_BUFFERS, 1, DESC_NEXT, 0xffff}}},
    {.head = 8},                                                                               /* head outside */
    {.head = 0xffff},
    {.desc = {{DRIVER_BUFFERS, 1, 0, 0}}, .ahead = 8},                                         /* index too far */
    {.desc = {{DRIVER_BUFFERS, 1, 0, 0}}, .ahead = 0xfffe},
    {.desc = {{DRIVER_RAM, 1, 0, 0}}},                                                         /* outside of memory */
    {.desc = {{DRIVER_RAM - 1, 2, 0, 0}}},
    {.desc = {{DRIVER_GPA, 4, DESC_WRITE, 0}}},                                                /* a device's registers */
    {.desc = {{UINT64_MAX, 2, 0, 0}}},                                                         /* around the end */
    {.desc = {{DRIVER_BUFFERS, UINT32_MAX, 0, 0}}},
    {.desc = {{DRIVER_BUFFERS, 1, DESC_WRITE | DESC_NEXT, 1}, {DRIVER_BUFFERS, 1, 0, 0}}},     /* out of order */
    {.desc = {{DRIVER_BUFFERS + 0x2000, 16, DESC_INDIRECT, 0}}, .no_indirect = true},
    {.desc = {{DRIVER_BUFFERS + 0x2000, 16, DESC_INDIRECT | DESC_NEXT, 1}}},
    {.desc = {{DRIVER_BUFFERS + 0x2000, 0, DESC_INDIRECT, 0}}},
    {.desc = {{DRIVER_BUFFERS + 0x2000, 17, DESC_INDIRECT, 0}}},
    {.desc = {{DRIVER_RAM - 16, 32, DESC_INDIRECT, 0}}},
    {.desc = {{DRIVER_GPA, 16, DESC_INDIRECT, 0}}},
    {.desc = {{DRIVER_BUFFERS + 0x2000, 32, DESC_INDIRECT, 0}}, .table = {{DRIVER_BUFFERS + 0x2000, 32, DESC_INDIRECT, 0}}},
    {.desc = {{DRIVER_BUFFERS + 0x2000, 32, DESC_INDIRECT, 0}}, .table = {{DRIVER_BUFFERS, 1, DESC_NEXT, 2}}},
    {.desc = {{DRIVER_BUFFERS + 0x2000, 32, DESC_INDIRECT, 0}},
     .table = {{DRIVER_BUFFERS, 1, DESC_NEXT, 1}, {DRIVER_BUFFERS, 1, DESC_NEXT, 0}}},
};

static void test_bad_requests(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    for (unsigned i = 0; i < ARRAY_LEN(bads); i++) {
        const struct bad *bad = &bads[i];
        driver_start(d, bad->no_indirect ? 0 : INDIRECT, 1, 8);
        for (unsigned n = 0; n < 3; n++)
            driver_desc(d, 0, n, bad->desc[n].gpa, bad->desc[n].size, bad->desc[n].flags, bad->desc[n].next);
        for (unsigned n = 0; n < 2; n++)
            driver_desc_at(d, DRIVER_BUFFERS + 0x2000, n, bad->table[n].gpa, bad->table[n].size, bad->table[n].flags,
                           bad->table[n].next);
        driver_offer(d, 0, bad->head);
        driver_put16(d, d->queue[0].avail + 2, (uint16_t)(d->queue[0].avail_index + bad->ahead));
        echo->requests = 0;
        driver_notify(d, 0);
        assert_int_equal(echo->requests, 0);
        assert_int_equal(driver_used(d, 0), 0);
        assert_int_equal(driver_status(d), 15 | STATUS_NEEDS_RESET);
        assert_int_equal(driver_get(d, AT_ISR, 1), 2); /* the driver is told */
        driver_notify(d, 0);
        assert_int_equal(echo->requests, 0);
        driver_start(d, 0, 1, 8); /* a reset, and all is well */
        put_request(d, "x", 1);
        driver_offer(d, 0, 0);
        driver_notify(d, 0);
        assert_int_equal(echo->requests, 1);
        assert_int_equal(driver_get(d, AT_ISR, 1), 1);
    }
}

/* Another processor that never stops asking does not keep us: the handler comes to an end and goes on by a timer. */
static void test_endless(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    driver_start(d, 0, 1, 8);
    put_request(d, "x", 1);
    echo->refill = true;
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(echo->requests, 16);
    assert_true(timer_queue_next(&d->bench.queue) != TIMER_NEVER);
    bench_jump(&d->bench, 1000);
    assert_int_equal(echo->requests, 32);
    echo->refill = false;
    bench_jump(&d->bench, 1000);
    assert_int_equal(echo->requests, 33);
    assert_true(timer_queue_next(&d->bench.queue) == TIMER_NEVER);
}

/* A request that is answered after a reset is answered to nobody. */
static void test_late_answer(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    driver_start(d, 0, 1, 8);
    put_request(d, "x", 1);
    echo->keep = true;
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    echo->keep = false;
    assert_non_null(echo->kept);
    driver_start(d, 0, 1, 8);
    virtqueue_push(virtio_queue(echo->virtio, 0), echo->kept, 1);
    virtqueue_flush(virtio_queue(echo->virtio, 0));
    assert_int_equal(driver_used(d, 0), 0);
}

static void test_put_back(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    struct virtqueue *queue = virtio_queue(echo->virtio, 0);
    struct virtio_chain first, second;
    driver_start(d, 0, 1, 8);
    echo->hold = true;
    driver_desc(d, 0, 2, DRIVER_BUFFERS, 7, 0, 0);
    driver_desc(d, 0, 3, DRIVER_BUFFERS, 9, 0, 0);
    driver_offer(d, 0, 2);
    driver_offer(d, 0, 3);
    assert_int_equal(virtqueue_waiting(queue), 2);
    assert_true(virtqueue_pop(queue, &first) && virtqueue_pop(queue, &second));
    assert_int_equal(second.out_size, 9);
    virtqueue_push(queue, &first, 0);
    virtqueue_push(queue, &second, 0);
    virtqueue_unpush(queue, 2);
    virtqueue_unpop(queue, 2);
    virtqueue_flush(queue);
    assert_int_equal(driver_used(d, 0), 0);
    assert_true(virtqueue_pop(queue, &first));
    assert_int_equal(first.head, 2);
    assert_int_equal(first.out_size, 7);
}

static void test_device_configuration(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    memcpy(virtio_config(echo->virtio), "\1\2\3\4\5\6\7\10", CONFIG_SIZE);
    assert_true(driver_get(d, AT_DEVICE, 8) == 0x0807060504030201);
    assert_int_equal(driver_get(d, AT_DEVICE + 6, 4), 0x0807);
    driver_set(d, AT_DEVICE + 2, 4, 0xffffffff); /* one byte of these is writable */
    assert_true(driver_get(d, AT_DEVICE, 8) == 0x080706ff04030201);
    assert_int_equal(echo->config_writes, 1);
    driver_set(d, AT_DEVICE + 0x100, 4, 0xffffffff);
    unsigned generation = (unsigned)driver_get(d, COMMON_GENERATION, 1);
    virtio_config_changed(echo->virtio);
    assert_int_equal(driver_get(d, COMMON_GENERATION, 1), (generation + 1) & 0xff);
    assert_int_equal(driver_get(d, AT_ISR, 1), 0); /* nobody is ready to hear it */
    driver_start(d, 0, 1, 8);
    virtio_config_changed(echo->virtio);
    assert_int_equal(driver_get(d, AT_ISR, 1), 2);
}

/* ---- MSI-X ---- */

static void msix_entry(struct driver *d, unsigned vector, uint64_t gpa, uint32_t data, uint32_t control)
{
    memory_mmio_write(d->memory, DRIVER_MSIX_GPA + 16 * vector, 8, gpa);
    memory_mmio_write(d->memory, DRIVER_MSIX_GPA + 16 * vector + 8, 4, data);
    memory_mmio_write(d->memory, DRIVER_MSIX_GPA + 16 * vector + 12, 4, control);
}

static void test_msix(void **state)
{
    struct echo *echo = *state;
    struct driver *d = &echo->driver;
    unsigned at = find_capability(d, 0x11, -1, 0);
    assert_int_equal(driver_config_get(d, at + 2, 2), 2); /* three vectors */
    gpa_t pending = DRIVER_MSIX_GPA + (driver_config_get(d, at + 8, 4) & ~7u);
    assert_int_equal(driver_config_get(d, at + 4, 4), 1);
    assert_int_equal(memory_mmio_read(d->memory, DRIVER_MSIX_GPA + 12, 4), 1); /* masked at first */
    driver_start(d, 0, 1, 8);
    put_request(d, "x", 1);
    msix_entry(d, 1, 0xfee01000, 0x4042, 0);
    driver_config_set(d, at + 2, 2, 0x8000);
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(d->messages, 1);
    assert_int_equal(d->message_gpa[0], 0xfee01000);
    assert_int_equal(d->message_data[0], 0x4042);
    assert_false(driver_pin(d)->level);
    assert_int_equal(driver_get(d, AT_ISR, 1), 0);
    msix_entry(d, 1, 0x123fee02000, 0x43, 1); /* masked: pending */
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(d->messages, 1);
    assert_int_equal(memory_mmio_read(d->memory, pending, 8), 2);
    memory_mmio_write(d->memory, pending, 8, 0); /* read-only */
    assert_int_equal(memory_mmio_read(d->memory, pending, 4), 2);
    memory_mmio_write(d->memory, DRIVER_MSIX_GPA + 16 + 12, 4, 0);
    assert_int_equal(d->messages, 2);
    assert_true(d->message_gpa[1] == 0x123fee02000);
    assert_int_equal(memory_mmio_read(d->memory, pending, 4), 0);
    driver_config_set(d, at + 2, 2, 0xc000); /* all masked */
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(d->messages, 2);
    driver_config_set(d, at + 3, 1, 0x80);
    assert_int_equal(d->messages, 3);
    memory_mmio_write(d->memory, DRIVER_MSIX_GPA + 16 + 8, 2, 0xffff); /* not by words */
    assert_int_equal(memory_mmio_read(d->memory, DRIVER_MSIX_GPA + 16 + 8, 4), 0x43);
    driver_set(d, COMMON_QUEUE_SELECT, 2, 0);
    driver_set(d, COMMON_QUEUE_VECTOR, 2, 0xffff); /* no vector: no interrupt at all */
    driver_offer(d, 0, 0);
    driver_notify(d, 0);
    assert_int_equal(d->messages, 3);
    assert_false(driver_pin(d)->level);
    pci_host_reset(d->host);
    driver_map(d);
    assert_int_equal(driver_config_get(d, at + 2, 2), 2);
    assert_int_equal(memory_mmio_read(d->memory, DRIVER_MSIX_GPA + 16 + 12, 4), 1);
    assert_int_equal(driver_status(d), 0);
}

/* ---- MSI, on a function without a device ---- */

static void test_msi(void **state)
{
    struct driver *d = &((struct echo *)*state)->driver;
    static const struct pci_function_desc desc = {.vendor_id = 0x1234, .device_id = 0x5678};
    struct pci_function *function = pci_add_function(d->host, 5, 0, &desc, NULL, NULL);
    struct msi msi;
    msi_init(&msi, function, 4);
    unsigned at = msi.capability;
    assert_int_equal(pci_host_read(d->host, 5, 0, at, 1), 5);
    assert_int_equal(pci_host_read(d->host, 5, 0, at + 2, 2), 0x0184); /* masks, 64 bits, four vectors */
    assert_false(msi_notify(&msi, 0));
    pci_host_write(d->host, 5, 0, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    pci_host_write(d->host, 5, 0, at + 4, 4, 0xfee00003);
    pci_host_write(d->host, 5, 0, at + 8, 4, 1);
    pci_host_write(d->host, 5, 0, at + 12, 2, 0x4061);
    pci_host_write(d->host, 5, 0, at + 2, 2, 0x0001 | 1 << 4); /* two of them */
    assert_true(msi_notify(&msi, 0) && msi_notify(&msi, 3));
    assert_true(d->message_gpa[0] == 0x1fee00000);
    assert_int_equal(d->message_data[0], 0x4060);
    assert_int_equal(d->message_data[1], 0x4061); /* 3 shares with 1 */
    pci_host_write(d->host, 5, 0, at + 2, 2, 0x0001 | 7 << 4); /* more than there are: four */
    pci_host_write(d->host, 5, 0, at + 16, 4, 0xffffffff);
    assert_int_equal(pci_host_read(d->host, 5, 0, at + 16, 4), 0xf);
    assert_true(msi_notify(&msi, 2));
    assert_int_equal(d->messages, 2);
    assert_int_equal(pci_host_read(d->host, 5, 0, at + 20, 4), 4);
    pci_host_write(d->host, 5, 0, at + 16, 4, 1);
    msi_config_written(&msi, at + 16, 4);
    assert_int_equal(d->messages, 3);
    assert_int_equal(d->message_data[2], 0x4062);
    assert_int_equal(pci_host_read(d->host, 5, 0, at + 20, 4), 0);
    pci_host_write(d->host, 5, 0, PCI_COMMAND, 2, 0); /* no bus master, no message */
    assert_true(msi_notify(&msi, 1));
    assert_int_equal(d->messages, 3);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_function),
        TEST(test_access_through_configuration_space),
        TEST(test_features),
        TEST(test_queue_registers),
        TEST(test_bad_rings),
        TEST(test_request_and_pin),
        TEST(test_not_before_ready),
        TEST(test_pieces),
        TEST(test_watched),
        TEST(test_indices_wrap),
        TEST(test_bad_requests),
        TEST(test_endless),
        TEST(test_late_answer),
        TEST(test_put_back),
        TEST(test_device_configuration),
        TEST(test_msix),
        TEST(test_msi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
