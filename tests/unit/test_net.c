/* Networks: what their options say, the work on checksums and segments, and a card on a network that sends everything back.
 *
 * Oracles: RFC 1071's example; a receiver that computes sums the slow way and puts segments together by their numbers. */
#include "virtio_driver.h"

#include <stdlib.h>
#include <unistd.h>

#include "device/virtio/virtio_net.h"
#include "host/net_create.h"
#include "host/net_internal.h"

/* ---- options ---- */

static void assert_bad(const char *spec, const char *part)
{
    struct error err = {""};
    struct net *net = net_create(spec, &err);
    if (net != NULL)
        fail_msg("'%s' was accepted", spec);
    if (strstr(err.message, part) == NULL)
        fail_msg("'%s': '%s' does not speak of '%s'", spec, err.message, part);
}

static void test_options(void **state)
{
    static const char *const good[] = {
        "user",
        "user,net=192.168.5.0/24,host=192.168.5.1,dns=192.168.5.2,dhcpstart=192.168.5.9",
        "user,dhcpstart=10.9.0.77,net=10.9.0.0/16",
        "user,restrict=on,loopback=off,ipv6=on,hostname=guest",
        "user,net=10.1.1.0/28",
    };
    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        struct error err = {""};
        struct net *net = net_create(good[i], &err);
        if (net == NULL)
            fail_msg("%s: %s", good[i], err.message);
        assert_string_equal(net_name(net), "user");
        net_destroy(net);
    }
    assert_bad("usr", "usr");
    assert_bad("user,net", "net");
    assert_bad("user,net=10.0.2.0/33", "10.0.2.0/33");
    assert_bad("user,net=10.0.2.0/24x", "10.0.2.0/24x");
    assert_bad("user,net=10.0/24", "10.0/24");
    assert_bad("user,host=10.0.3.2", "10.0.3.2");
    assert_bad("user,host=10.0.2.0", "10.0.2.0");
    assert_bad("user,host=10.0.2.255", "10.0.2.255");
    assert_bad("user,host=10.0.2.3", "addresses of their own");
    assert_bad("user,restrict=maybe", "restrict=maybe");
    assert_bad("user,colour=red", "colour");
    assert_bad("user,=red", "=red");
    assert_bad("user,hostfwd=tcp:8022-:22", "8022");
    assert_bad("user,hostfwd=tcp::8022-:0", "8022");
    assert_bad("user,hostfwd=tcp::8022-:70000", "70000");
    assert_bad("user,hostfwd=tcp::8022:22", "8022");
    assert_bad("user,hostfwd=sctp::8022-:22", "sctp");
    assert_bad("user,hostfwd=tcp:1.2.3:8022-:22", "1.2.3");
    assert_bad("tap", "ifname");
    assert_bad("tap,ifname=a-name-that-is-too-long", "ifname");
    assert_bad("tap,ifname=ring3none,script=/bin/true", "script");
}

/* ---- checksums ---- */

/* The sum of RFC 1071, byte by byte. */
static uint16_t slow_sum(const uint8_t *bytes, size_t size, uint32_t sum)
{
    for (size_t i = 0; i < size; i++)
        sum += i % 2 == 0 ? (uint32_t)bytes[i] << 8 : bytes[i];
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static void test_checksum(void **state)
{
    uint8_t example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0};
    struct net_header header = {.csum_start = 0, .csum_offset = 8};
    assert_true(net_finish_checksum(&header, example, sizeof example));
    assert_int_equal(example[8] << 8 | example[9], 0xffff - 0xddf2);
    uint8_t frame[67];
    for (unsigned size = 4; size <= sizeof frame; size++) {
        for (unsigned i = 0; i < size; i++)
            frame[i] = (uint8_t)(i * 37 + size);
        header = (struct net_header){.csum_start = 1, .csum_offset = 0};
        assert_true(net_finish_checksum(&header, frame, size));
        /* With the field in it the sum is all ones, unless the field was not zero before: then it is that. */
        uint8_t check[67];
        memcpy(check, frame, size);
        uint16_t field = (uint16_t)((1 * 37 + size) % 256 << 8 | (2 * 37 + size) % 256);
        assert_int_equal(slow_sum(check + 1, size - 1, field), 0xffff);
    }
    static const uint16_t outside[][2] = {{66, 0}, {67, 0}, {0, 66}, {60, 6}, {0xffff, 0xffff}, {0, 0xffff}};
    for (unsigned i = 0; i < ARRAY_LEN(outside); i++) {
        header = (struct net_header){.csum_start = outside[i][0], .csum_offset = outside[i][1]};
        assert_false(net_finish_checksum(&header, frame, sizeof frame));
    }
}

/* ---- segments ---- */

#define SEGMENT 100u
#define HEADERS 54u

/* A segment of a stream whose byte n is n * 7, with good checksums. */
static size_t segment(uint8_t *frame, uint32_t number, unsigned size, uint8_t flags)
{
    static const uint8_t head[HEADERS] = {0x52, 0x54, 0, 1, 2, 3, 0x52, 0x55, 10, 0, 2, 2, 0x08, 0x00, /* Ethernet */
                                          0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15,
                                          0, 80, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 9, 0x50, 0, 0x20, 0, 0, 0, 0, 0};
    memcpy(frame, head, HEADERS);
    frame[16] = (uint8_t)((size + 40) >> 8);
    frame[17] = (uint8_t)(size + 40);
    for (unsigned i = 0; i < 4; i++)
        frame[38 + i] = (uint8_t)(number >> (24 - 8 * i));
    frame[47] = flags;
    for (unsigned i = 0; i < size; i++)
        frame[HEADERS + i] = (uint8_t)((number + i) * 7);
    uint16_t sum = (uint16_t)~slow_sum(frame + 14, 20, 0);
    frame[24] = (uint8_t)(sum >> 8);
    frame[25] = (uint8_t)sum;
    sum = (uint16_t)~slow_sum(frame + 34, size + 20, slow_sum(frame + 26, 8, 6 + size + 20));
    frame[50] = (uint8_t)(sum >> 8);
    frame[51] = (uint8_t)sum;
    return HEADERS + size;
}

static struct net_packet *first_packet(uint32_t number, unsigned size)
{
    struct net_packet *packet = net_packet_create(NET_FRAME_MAX);
    assert_non_null(packet);
    packet->size = (uint32_t)segment(packet->data, number, size, 0x10);
    return packet;
}

static void test_coalesce(void **state)
{
    uint8_t frame[2000];
    struct net_packet *packet = first_packet(0xffffff00, SEGMENT); /* numbers wrap */
    unsigned total = SEGMENT;
    for (unsigned i = 0; i < 10; i++, total += SEGMENT)
        assert_true(net_coalesce(packet, frame, segment(frame, 0xffffff00 + total, SEGMENT, 0x10)));
    assert_true(net_coalesce(packet, frame, segment(frame, 0xffffff00 + total, 33, 0x18)));
    total += 33;
    assert_false(net_coalesce(packet, frame, segment(frame, 0xffffff00 + total, 33, 0x10))); /* the last was short */
    assert_int_equal(packet->size, HEADERS + total);
    for (unsigned i = 0; i < total; i++)
        assert_int_equal(packet->data[HEADERS + i], (uint8_t)((0xffffff00 + i) * 7));
    assert_int_equal(packet->data[16] << 8 | packet->data[17], total + 40);
    assert_int_equal(slow_sum(packet->data + 14, 20, 0), 0xffff);
    assert_int_equal(packet->data[47], 0x18);
    /* The guest's part: the field is the sum of the pseudo header, so finishing it gives a good one. */
    assert_int_equal(packet->header.flags, NET_HEADER_NEEDS_CSUM);
    assert_int_equal(packet->header.gso_type, NET_GSO_TCPV4);
    assert_int_equal(packet->header.gso_size, SEGMENT);
    assert_int_equal(packet->header.header_size, HEADERS);
    assert_true(net_finish_checksum(&packet->header, packet->data, packet->size));
    assert_int_equal(slow_sum(packet->data + 34, total + 20, slow_sum(packet->data + 26, 8, 6 + total + 20)), 0xffff);
    free(packet);
}

static void test_not_coalesced(void **state)
{
    static const struct {
        unsigned at;
        uint8_t value;
    } changes[] = {
        {0, 0x53},  {12, 0x86}, {14, 0x46}, {15, 4},    {20, 0x20}, {22, 63},   {23, 17},   {29, 9}, {33, 9},
        {35, 81},   {36, 0},    {41, 1},    {45, 1},    {46, 0x60}, {47, 0x11}, {47, 0x12}, {47, 0}, {17, 139},
    };
    uint8_t frame[2000];
    for (unsigned i = 0; i < ARRAY_LEN(changes); i++) {
        struct net_packet *packet = first_packet(1000, SEGMENT);
        size_t size = segment(frame, 1000 + SEGMENT, SEGMENT, 0x10);
        frame[changes[i].at] = changes[i].value;
        if (net_can_coalesce(frame, size) && net_coalesce(packet, frame, size))
            fail_msg("a frame with %#x at %u was added", changes[i].value, changes[i].at);
        assert_int_equal(packet->size, HEADERS + SEGMENT);
        free(packet);
    }
    struct net_packet *packet = first_packet(1000, SEGMENT);
    assert_false(net_coalesce(packet, frame, segment(frame, 1000 + SEGMENT, SEGMENT + 1, 0x10))); /* longer */
    assert_false(net_can_coalesce(frame, segment(frame, 1, 0, 0x10)));
    for (size_t size = 0; size < HEADERS; size++)
        assert_false(net_can_coalesce(frame, size));
    packet->data[47] = 0x18; /* pushed: nothing may be added */
    assert_false(net_coalesce(packet, frame, segment(frame, 1000 + SEGMENT, SEGMENT, 0x10)));
    free(packet);
    /* 64 KiB of IP is the end. */
    packet = first_packet(0, 1400);
    unsigned total = 1400;
    while (net_coalesce(packet, frame, segment(frame, total, 1400, 0x10)))
        total += 1400;
    assert_int_equal(total, 65495 / 1400 * 1400);
    free(packet);
}

/* ---- fragments ---- */

/* A fragment with `size` bytes of payload, byte n of the datagram being n * 3. */
static size_t fragment(uint8_t *frame, unsigned id, unsigned offset, unsigned size, bool more)
{
    memset(frame, 0, 34);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[16] = (uint8_t)((size + 20) >> 8);
    frame[17] = (uint8_t)(size + 20);
    frame[19] = (uint8_t)id;
    frame[20] = (uint8_t)((more ? 0x20 : 0) | offset / 8 >> 8);
    frame[21] = (uint8_t)(offset / 8);
    frame[22] = 64;
    frame[23] = 17;
    uint16_t sum = (uint16_t)~slow_sum(frame + 14, 20, 0);
    frame[24] = (uint8_t)(sum >> 8);
    frame[25] = (uint8_t)sum;
    for (unsigned i = 0; i < size; i++)
        frame[34 + i] = (uint8_t)((offset + i) * 3);
    return 34 + size;
}

static void test_fragments(void **state)
{
    static uint8_t frame[66000];
    struct net_fragments fragments = {.next = 0};
    assert_false(net_is_fragment(frame, fragment(frame, 1, 0, 100, false)));
    assert_true(net_is_fragment(frame, fragment(frame, 1, 0, 96, true)));
    assert_true(net_is_fragment(frame, fragment(frame, 1, 96, 5, false)));
    assert_false(net_is_fragment(frame, 33));
    /* Two datagrams, interleaved. */
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 1, 0, 96, true)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 2, 0, 8, true)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 1, 96, 96, true)));
    struct net_packet *two = net_reassemble(&fragments, frame, fragment(frame, 2, 8, 1, false));
    struct net_packet *one = net_reassemble(&fragments, frame, fragment(frame, 1, 192, 5, false));
    assert_non_null(two);
    assert_non_null(one);
    assert_int_equal(two->size, 34 + 9);
    assert_int_equal(one->size, 34 + 197);
    assert_false(net_is_fragment(one->data, one->size));
    assert_int_equal(one->data[16] << 8 | one->data[17], 217);
    assert_int_equal(slow_sum(one->data + 14, 20, 0), 0xffff);
    for (unsigned i = 0; i < 197; i++)
        assert_int_equal(one->data[34 + i], (uint8_t)(i * 3));
    free(one);
    free(two);
    /* The last one alone, a hole, an odd length, a short frame, a bad sum, more than 64 KiB. */
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 3, 96, 5, false)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 4, 0, 96, true)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 4, 104, 5, false)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 4, 96, 5, false)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 5, 0, 95, true)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 5, 95, 5, false)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 6, 0, 96, true) - 1));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 6, 96, 5, false)));
    fragment(frame, 7, 0, 96, true);
    frame[24] ^= 1;
    assert_null(net_reassemble(&fragments, frame, 34 + 96));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 7, 96, 5, false)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 8, 0, 65504, true)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 8, 65504, 12, false)));
    /* More datagrams than are kept: the first are lost. */
    for (unsigned i = 0; i < NET_DATAGRAMS + 1; i++)
        assert_null(net_reassemble(&fragments, frame, fragment(frame, 10 + i, 0, 8, true)));
    assert_null(net_reassemble(&fragments, frame, fragment(frame, 10, 8, 8, false)));
    one = net_reassemble(&fragments, frame, fragment(frame, 11, 8, 8, false));
    assert_non_null(one);
    free(one);
    net_fragments_clear(&fragments);
}

/* ---- the user network itself ---- */

struct listener {
    pthread_mutex_t lock;
    unsigned frames;
    uint8_t last[64];
};

static bool listener_receive(void *opaque, const struct net_header *header, const uint8_t *frame, size_t size)
{
    struct listener *listener = opaque;
    listener->frames++;
    memcpy(listener->last, frame, size < sizeof listener->last ? size : sizeof listener->last);
    return true;
}

static void listener_event(void *opaque)
{
    (void)opaque;
}

/* The last fragment of a datagram whose others never come ends libslirp 4.7. It must not be seen by it: the router still
 * answers afterwards. */
static void test_user_network_lives(void **state)
{
    static const uint8_t arp[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
                                    0x52, 0x54, 0, 0x12, 0x34, 0x56, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2};
    struct listener listener = {.frames = 0};
    pthread_mutex_init(&listener.lock, NULL);
    struct net *net = net_create("user,restrict=on", NULL);
    assert_non_null(net);
    const struct net_frontend frontend = {.receive = listener_receive,
                                          .received = listener_event,
                                          .sent = listener_event,
                                          .opaque = &listener,
                                          .lock = &listener.lock};
    assert_true(net_connect(net, &frontend, NULL));
    static uint8_t frame[2000];
    const struct net_header header = {0};
    pthread_mutex_lock(&listener.lock);
    net_accept(net);
    for (unsigned offset = 8; offset < 65536; offset *= 2) {
        size_t size = fragment(frame, offset, offset, 748, false);
        memcpy(frame + 26, arp + 28, 4);
        memcpy(frame + 30, arp + 38, 4);
        frame[24] = frame[25] = 0;
        uint16_t sum = (uint16_t)~slow_sum(frame + 14, 20, 0);
        frame[24] = (uint8_t)(sum >> 8);
        frame[25] = (uint8_t)sum;
        assert_true(net_send(net, &header, &(struct iovec){frame, size}, 1, 0, size));
    }
    assert_true(net_send(net, &header, &(struct iovec){(void *)(uintptr_t)arp, sizeof arp}, 1, 0, sizeof arp));
    for (unsigned i = 0; i < 5000 && listener.frames == 0; i++) {
        pthread_mutex_unlock(&listener.lock);
        usleep(1000);
        pthread_mutex_lock(&listener.lock);
    }
    assert_int_equal(listener.frames, 1);
    assert_int_equal(listener.last[21], 2); /* a reply, ... */
    assert_memory_equal(&listener.last[28], "\12\0\2\2", 4); /* ... of 10.0.2.2 */
    pthread_mutex_unlock(&listener.lock);
    net_disconnect(net);
    net_destroy(net);
}

/* ---- a card on a network that sends everything back ---- */

struct mirror {
    struct driver driver;
    struct net net;
    struct virtio_net *card;
    pthread_mutex_t lock;
};

static void mirror_prepare(struct net *net, struct net_poll *poll)
{
    (void)net;
}

static void mirror_ready(struct net *net, struct net_poll *poll)
{
    (void)net;
}

static void mirror_send(struct net *net, struct net_packet *packet)
{
    net_deliver_frame(net, packet->data, packet->size);
}

static void mirror_destroy(struct net *net)
{
    net_fini(net);
}

static const struct net_ops mirror_ops = {
    .prepare = mirror_prepare, .ready = mirror_ready, .send = mirror_send, .destroy = mirror_destroy};

enum { RX, TX, CONTROL };
#define F_GUEST_CSUM (1ull << 1)
#define F_GUEST_TSO4 (1ull << 7)
#define F_MRG_RXBUF (1ull << 15)
#define F_CTRL_VQ (1ull << 17)
#define F_CTRL_RX (1ull << 18)
#define F_CTRL_MAC_ADDR (1ull << 23)

static int setup(void **state)
{
    struct mirror *mirror = calloc(1, sizeof *mirror);
    driver_init(&mirror->driver);
    pthread_mutex_init(&mirror->lock, NULL);
    mirror->net.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4;
    assert_true(net_init(&mirror->net, &mirror_ops, NULL));
    const struct virtio_net_config config = {
        .net = &mirror->net, .mac = {0x52, 0x54, 0, 1, 2, 3}, .lock = &mirror->lock};
    mirror->card = virtio_net_create(&mirror->driver.bus, &config, NULL);
    assert_non_null(mirror->card);
    driver_map(&mirror->driver);
    *state = mirror;
    return 0;
}

static int teardown(void **state)
{
    struct mirror *mirror = *state;
    virtio_net_unplug(mirror->card);
    pci_host_destroy(mirror->driver.host);
    virtio_net_destroy(mirror->card);
    net_destroy(&mirror->net);
    driver_fini(&mirror->driver);
    free(mirror);
    return 0;
}

/* Waits until queue q has `count` used elements: the network has a thread of its own. */
static void await_used(struct mirror *mirror, unsigned q, uint16_t count)
{
    for (unsigned i = 0; i < 5000; i++) {
        pthread_mutex_lock(&mirror->lock);
        uint16_t used = driver_used(&mirror->driver, q);
        pthread_mutex_unlock(&mirror->lock);
        if (used == count)
            return;
        assert_true(used < count);
        usleep(1000);
    }
    fail_msg("queue %u did not come to %u", q, count);
}

/* `count` receive buffers of a size, at BUFFERS + 10000h and every 10000h, heads 0 .. */
static void post_buffers(struct mirror *mirror, unsigned count, uint32_t size)
{
    for (unsigned i = 0; i < count; i++) {
        driver_desc(&mirror->driver, RX, i, DRIVER_BUFFERS + 0x10000 * (i + 1), size, DESC_WRITE, 0);
        driver_offer(&mirror->driver, RX, (uint16_t)i);
    }
    driver_notify(&mirror->driver, RX);
}

/* Sends a segment, header and frame in two pieces. */
static void send_segment(struct mirror *mirror, uint32_t number, unsigned size)
{
    uint8_t header[12] = {0}, frame[2000];
    struct driver *d = &mirror->driver;
    gpa_t at = DRIVER_BUFFERS + 0x1000 * (number / size % 8); /* not under the feet of the one before */
    size_t n = segment(frame, number, size, 0x10);
    driver_put(d, at, header, sizeof header);
    driver_put(d, at + 0x100, frame, n);
    unsigned head = 2 * (number / size % 8);
    driver_desc(d, TX, head, at, 12, DESC_NEXT, (uint16_t)(head + 1));
    driver_desc(d, TX, head + 1, at + 0x100, (uint32_t)n, 0, 0);
    driver_offer(d, TX, (uint16_t)head);
}

static void locked_start(struct mirror *mirror, uint64_t features)
{
    pthread_mutex_lock(&mirror->lock);
    driver_start(&mirror->driver, features, 3, 16);
    pthread_mutex_unlock(&mirror->lock);
}

static void test_one_frame(void **state)
{
    struct mirror *mirror = *state;
    struct driver *d = &mirror->driver;
    uint8_t frame[2000], got[2000];
    locked_start(mirror, 0);
    assert_int_equal(driver_get(d, AT_DEVICE, 4), 0x01005452);
    assert_int_equal(driver_get(d, AT_DEVICE + 6, 2), 1); /* link up */
    pthread_mutex_lock(&mirror->lock);
    post_buffers(mirror, 2, 1526);
    send_segment(mirror, 0, SEGMENT);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, RX, 1);
    await_used(mirror, TX, 1);
    struct driver_used used = driver_take(d, RX);
    assert_int_equal(used.written, 12 + HEADERS + SEGMENT);
    assert_true(memory_read(d->memory, DRIVER_BUFFERS + 0x10000, got, used.written));
    static const uint8_t header[12] = {[10] = 1};
    assert_memory_equal(got, header, 12);
    size_t n = segment(frame, 0, SEGMENT, 0x10);
    assert_memory_equal(got + 12, frame, n);
}

/* Frames that the guest has no room for are kept, in order, until it has. */
static void test_room_later(void **state)
{
    struct mirror *mirror = *state;
    struct driver *d = &mirror->driver;
    locked_start(mirror, 0);
    pthread_mutex_lock(&mirror->lock);
    post_buffers(mirror, 1, 1526);
    for (unsigned i = 0; i < 4; i++)
        send_segment(mirror, i * SEGMENT, SEGMENT);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, TX, 4);
    await_used(mirror, RX, 1);
    usleep(20000);
    await_used(mirror, RX, 1);
    pthread_mutex_lock(&mirror->lock);
    assert_int_equal(driver_get16(d, d->queue[RX].used), 0); /* asks to be notified */
    post_buffers(mirror, 3, 1526);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, RX, 4);
    for (unsigned i = 0; i < 4; i++) {
        struct driver_used used = driver_take(d, RX);
        uint8_t got[2000], frame[2000];
        if (i > 0) { /* the first one's buffer was used again */
            assert_true(memory_read(d->memory, DRIVER_BUFFERS + 0x10000 * (used.head + 1), got, used.written));
            assert_memory_equal(got + 12, frame, segment(frame, i * SEGMENT, SEGMENT, 0x10));
        }
    }
}

/* Several buffers for a long frame, which was several short ones. */
static void test_merged_buffers(void **state)
{
    struct mirror *mirror = *state;
    struct driver *d = &mirror->driver;
    uint8_t got[64 + 8 * 1400 + 200];
    locked_start(mirror, F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4);
    pthread_mutex_lock(&mirror->lock);
    for (unsigned i = 0; i < 8; i++)
        send_segment(mirror, i * 1400, 1400);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, TX, 8);
    pthread_mutex_lock(&mirror->lock);
    post_buffers(mirror, 10, 1500);
    pthread_mutex_unlock(&mirror->lock);
    size_t total = 0, expected = 12 + HEADERS + 8 * 1400;
    await_used(mirror, RX, (uint16_t)((expected + 1499) / 1500));
    while (driver_used(d, RX) != d->queue[RX].used_index) {
        struct driver_used used = driver_take(d, RX);
        assert_true(total + used.written <= sizeof got);
        assert_true(memory_read(d->memory, DRIVER_BUFFERS + 0x10000 * (used.head + 1), got + total, used.written));
        total += used.written;
    }
    assert_int_equal(total, expected);
    assert_int_equal(got[0], NET_HEADER_NEEDS_CSUM);
    assert_int_equal(got[1], NET_GSO_TCPV4);
    assert_int_equal(got[4] | got[5] << 8, 1400);
    assert_int_equal(got[10] | got[11] << 8, (expected + 1499) / 1500);
    for (unsigned i = 0; i < 8 * 1400; i++)
        assert_int_equal(got[12 + HEADERS + i], (uint8_t)(i * 7));
}

/* What no driver may send, and buffers that are too short: lost, and the next frame comes. */
static void test_lost_frames(void **state)
{
    struct mirror *mirror = *state;
    struct driver *d = &mirror->driver;
    locked_start(mirror, 0);
    pthread_mutex_lock(&mirror->lock);
    static const struct {
        uint8_t flags, gso;
        uint32_t size;
    } bad[] = {{1, 0, 100}, {0, 1, 100}, {0, 3, 100}, {0, 0x80, 100}, {8, 0, 100}, {0, 0, 13}, {0, 0, 0}, {0, 0, 70000}};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        const uint8_t header[12] = {bad[i].flags, bad[i].gso, [4] = 99};
        driver_put(d, DRIVER_BUFFERS, header, sizeof header);
        driver_desc(d, TX, 0, DRIVER_BUFFERS, 12, DESC_NEXT, 1);
        driver_desc(d, TX, 1, DRIVER_BUFFERS + 0x100, bad[i].size, 0, 0);
        driver_offer(d, TX, 0);
        driver_notify(d, TX);
        assert_int_equal(driver_used(d, TX), i + 1);
    }
    driver_desc(d, TX, 0, DRIVER_BUFFERS, 11, 0, 0); /* not even a header */
    driver_offer(d, TX, 0);
    driver_notify(d, TX);
    assert_int_equal(driver_used(d, TX), ARRAY_LEN(bad) + 1);
    post_buffers(mirror, 1, 100); /* too short for what comes */
    send_segment(mirror, 0, SEGMENT);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, RX, 1);
    assert_int_equal(driver_take(d, RX).written, 0);
    pthread_mutex_lock(&mirror->lock);
    post_buffers(mirror, 1, 1526);
    send_segment(mirror, SEGMENT, SEGMENT);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, RX, 2);
    assert_int_equal(driver_status(d) & STATUS_NEEDS_RESET, 0);
}

/* A command: class, number, data; the answer. */
static uint8_t command(struct driver *d, const void *bytes, uint32_t size)
{
    uint8_t ack = 0xff;
    driver_put(d, DRIVER_BUFFERS, bytes, size);
    driver_put(d, DRIVER_BUFFERS + 0x1000, &ack, 1);
    driver_desc(d, CONTROL, 0, DRIVER_BUFFERS, size, DESC_NEXT, 1);
    driver_desc(d, CONTROL, 1, DRIVER_BUFFERS + 0x1000, 1, DESC_WRITE, 0);
    driver_offer(d, CONTROL, 0);
    driver_notify(d, CONTROL);
    assert_int_equal(driver_take(d, CONTROL).written, 1);
    assert_true(memory_read(d->memory, DRIVER_BUFFERS + 0x1000, &ack, 1));
    return ack;
}

static void test_commands(void **state)
{
    struct mirror *mirror = *state;
    struct driver *d = &mirror->driver;
    locked_start(mirror, F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC_ADDR);
    pthread_mutex_lock(&mirror->lock);
    assert_int_equal(command(d, "\1\1\2\2\2\2\2\2", 8), 0);
    assert_int_equal(driver_get(d, AT_DEVICE, 4), 0x02020202);
    static const struct {
        const char *bytes;
        uint32_t size;
    } bad[] = {{"\1\1\2\2\2\2\2", 7}, {"\1\1\2\2\2\2\2\2\2", 9}, {"\1\0\1\0\0\0", 6}, {"\1\0\1\0\0\0\1\2\3\4\5\6", 12},
               {"\1\0\377\377\377\377", 6}, {"\0\0", 2}, {"\0\2\1", 3}, {"\0\6\1", 3}, {"\5\0\0\0\0\0\0\0\0\0", 10},
               {"\11\0", 2}, {"\0", 1}};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(command(d, bad[i].bytes, bad[i].size), 1);
    /* Neither for its address nor in a table: the filter holds it back; then the table lets it pass. */
    post_buffers(mirror, 4, 1526);
    send_segment(mirror, 0, SEGMENT);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, TX, 1);
    usleep(20000);
    await_used(mirror, RX, 0);
    pthread_mutex_lock(&mirror->lock);
    assert_int_equal(command(d, "\1\0\1\0\0\0\x52\x54\0\1\2\3\0\0\0\0", 16), 0);
    send_segment(mirror, SEGMENT, SEGMENT);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, RX, 1);
    pthread_mutex_lock(&mirror->lock);
    assert_int_equal(command(d, "\1\0\0\0\0\0\0\0\0\0", 10), 0);
    assert_int_equal(command(d, "\0\0\1", 3), 0); /* promiscuous */
    send_segment(mirror, 2 * SEGMENT, SEGMENT);
    driver_notify(d, TX);
    pthread_mutex_unlock(&mirror->lock);
    await_used(mirror, RX, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_coalesce),
        cmocka_unit_test(test_not_coalesced),
        cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_user_network_lives),
        TEST(test_one_frame),
        TEST(test_room_later),
        TEST(test_merged_buffers),
        TEST(test_lost_frames),
        TEST(test_commands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
