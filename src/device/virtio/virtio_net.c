/* Virtio network card. See virtio_net.h.
 *
 * Model. Queue 0 has buffers for received frames, queue 1 frames to send, queue 2 commands. A frame lies behind a struct net_header,
 * which the guest and the network understand alike; the card looks at it only to keep out what was not negotiated.
 *
 * Sending. A frame is copied to the network's list, and its buffers go back when the network has sent what it has: one interrupt for
 * many, and the guest's own pacing works. When the network refuses, the frame stays in the ring until then.
 *
 * Receiving. The network's thread brings frames, many under one lock; the guest is interrupted once behind them. A frame takes one
 * request or, with MRG_RXBUF, as many as it needs, whose number is in the first one's header. When there are not enough the guest
 * is asked to notify, and the network keeps the frame; otherwise notifications are off for this queue.
 *
 * Filters. Until the driver says otherwise everything is let through, as the specification wants for drivers without CTRL_RX. With it
 * a frame passes that is for the card's address, for one in its tables, or that a mode lets pass.
 *
 * Not offered: several pairs of queues, VLAN filters, announcements, UDP fragmentation, a maximum transfer unit other than
 * Ethernet's.
 */
#include "device/virtio/virtio_net.h"

#include <stdlib.h>
#include <string.h>

#define CLASS_ETHERNET 0x020000u

enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_CTRL_GUEST_OFFLOADS = 2,
    F_MAC = 5,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_MRG_RXBUF = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_RX_EXTRA = 20,
    F_CTRL_MAC_ADDR = 23,
};

#define CONFIG_MAC 0
#define CONFIG_STATUS 6
#define CONFIG_STATUS_LINK_UP 1
#define CONFIG_SIZE 8

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUE_CONTROL, QUEUES };
#define QUEUE_SIZE 256

/* Commands: class, then number. */
#define CTRL_RX 0
#define CTRL_RX_MODES 6u /* PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST */
#define CTRL_MAC 1
#define CTRL_MAC_TABLE_SET 0
#define CTRL_MAC_ADDR_SET 1
#define CTRL_GUEST_OFFLOADS 5
#define CTRL_GUEST_OFFLOADS_SET 0
#define CTRL_OK 0
#define CTRL_ERR 1

enum { MODE_PROMISC, MODE_ALLMULTI, MODE_ALLUNI, MODE_NOMULTI, MODE_NOUNI, MODE_NOBCAST };

#define TABLE_MAX 64u

struct mac_table {
    uint32_t count;
    bool overflow; /* there were more: all pass */
    uint8_t mac[TABLE_MAX][NET_MAC_SIZE];
};

struct virtio_net {
    struct virtio *virtio;
    struct memory *memory;
    struct virtio_net_config config;
    bool modes[CTRL_RX_MODES];
    struct mac_table unicast, multicast;
};

/* ---- sending ---- */

/* Whether the header asks only for what was negotiated. */
static bool header_is_fair(const struct virtio_net *card, const struct net_header *header)
{
    const struct virtio *virtio = card->virtio;
    switch (header->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_NONE: break;
    case NET_GSO_TCPV4:
        if (!virtio_has(virtio, F_HOST_TSO4) || header->gso_size == 0)
            return false;
        break;
    case NET_GSO_TCPV6:
        if (!virtio_has(virtio, F_HOST_TSO6) || header->gso_size == 0)
            return false;
        break;
    default: return false;
    }
    return !(header->gso_type & NET_GSO_ECN) && !(header->flags & ~NET_HEADER_NEEDS_CSUM) &&
           (header->flags == 0 || virtio_has(virtio, F_CSUM));
}

enum sent { SENT, SENT_NOT_NOW, SENT_NEVER };

static enum sent send_frame(struct virtio_net *card, const struct virtio_chain *chain)
{
    struct net_header header;
    if (card->config.net == NULL ||
        virtio_copy_from(chain->out, chain->out_count, 0, &header, sizeof header) != sizeof header)
        return SENT_NEVER;
    uint64_t size = chain->out_size - sizeof header;
    if (size < NET_ETHERNET_SIZE || size > NET_FRAME_MAX || !header_is_fair(card, &header))
        return SENT_NEVER;
    header.buffers = 0;
    return net_send(card->config.net, &header, chain->out, chain->out_count, sizeof header, size) ? SENT : SENT_NOT_NOW;
}

static void transmit(struct virtio_net *card)
{
    struct virtqueue *queue = virtio_queue(card->virtio, QUEUE_TRANSMIT);
    struct virtio_chain chain;
    bool flowing = true, later = false;
    do {
        virtqueue_set_notify(queue, false);
        while (flowing && virtqueue_pop(queue, &chain)) {
            enum sent sent = send_frame(card, &chain);
            later |= sent != SENT_NEVER;
            flowing = sent != SENT_NOT_NOW;
            if (flowing)
                virtqueue_push(queue, &chain, 0);
            else
                virtqueue_unpop(queue, 1);
        }
    } while (flowing && !virtqueue_set_notify(queue, true));
    if (!later) /* nothing will be sent that this could wait for */
        virtqueue_flush(queue);
}

static void net_sent(void *opaque)
{
    struct virtio_net *card = opaque;
    virtqueue_flush(virtio_queue(card->virtio, QUEUE_TRANSMIT));
    virtio_serve(card->virtio, QUEUE_TRANSMIT);
}

/* ---- receiving ---- */

static bool in_table(const struct mac_table *table, const uint8_t *mac)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (memcmp(table->mac[i], mac, NET_MAC_SIZE) == 0)
            return true;
    return table->overflow;
}

static bool passes(const struct virtio_net *card, const uint8_t *mac)
{
    static const uint8_t broadcast[NET_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (card->modes[MODE_PROMISC])
        return true;
    if (memcmp(mac, broadcast, NET_MAC_SIZE) == 0)
        return !card->modes[MODE_NOBCAST];
    if (mac[0] & 1)
        return !card->modes[MODE_NOMULTI] && (card->modes[MODE_ALLMULTI] || in_table(&card->multicast, mac));
    return !card->modes[MODE_NOUNI] &&
           (card->modes[MODE_ALLUNI] || memcmp(mac, &virtio_config(card->virtio)[CONFIG_MAC], NET_MAC_SIZE) == 0 ||
            in_table(&card->unicast, mac));
}

/* Where a byte of a chain lies. */
static uint8_t *byte_at(const struct virtio_chain *chain, uint64_t offset)
{
    for (unsigned i = 0; i < chain->in_count; i++) {
        if (offset < chain->in[i].iov_len)
            return (uint8_t *)chain->in[i].iov_base + offset;
        offset -= chain->in[i].iov_len;
    }
    return NULL;
}

static void set_buffers(struct virtio_net *card, uint8_t *const where[2], unsigned count)
{
    for (unsigned i = 0; i < 2; i++) {
        *where[i] = (uint8_t)(count >> (8 * i));
        dma_written(card->memory, where[i], 1);
    }
}

/* How a frame was placed. */
enum placed { PLACED, PLACED_NOT_NOW, PLACED_NEVER };

static enum placed place_frame(struct virtio_net *card, const struct net_header *header, const uint8_t *frame, size_t size)
{
    struct virtqueue *queue = virtio_queue(card->virtio, QUEUE_RECEIVE);
    bool merge = virtio_has(card->virtio, F_MRG_RXBUF);
    struct net_header shown = *header;
    uint8_t *where[2] = {NULL, NULL};
    unsigned count = 0;
    size_t done = 0;
    shown.buffers = 1;
    do {
        struct virtio_chain chain;
        if (!virtqueue_pop(queue, &chain)) {
            virtqueue_unpush(queue, count);
            virtqueue_unpop(queue, count);
            return PLACED_NOT_NOW;
        }
        uint64_t behind = 0;
        if (count == 0) {
            behind = virtio_copy_to(card->memory, chain.in, chain.in_count, 0, &shown, sizeof shown);
            if (behind < sizeof shown || (!merge && chain.in_size < sizeof shown + size)) {
                virtqueue_push(queue, &chain, 0); /* too short for anything, or for this */
                return PLACED_NEVER;
            }
            where[0] = byte_at(&chain, offsetof(struct net_header, buffers));
            where[1] = byte_at(&chain, offsetof(struct net_header, buffers) + 1);
        }
        uint64_t n = virtio_copy_to(card->memory, chain.in, chain.in_count, behind, frame + done, size - done);
        done += n;
        count++;
        virtqueue_push(queue, &chain, behind + n);
    } while (done < size);
    if (count > 1)
        set_buffers(card, where, count);
    return PLACED;
}

static bool net_receive(void *opaque, const struct net_header *header, const uint8_t *frame, size_t size)
{
    struct virtio_net *card = opaque;
    struct virtqueue *queue = virtio_queue(card->virtio, QUEUE_RECEIVE);
    if (!virtio_is_ready(card->virtio) || !virtqueue_is_enabled(queue) || size < NET_ETHERNET_SIZE ||
        !passes(card, frame))
        return true; /* nobody hears it */
    if (place_frame(card, header, frame, size) != PLACED_NOT_NOW)
        return true;
    if (virtqueue_set_notify(queue, true))
        return false;
    virtqueue_set_notify(queue, false); /* there is more now; enough? */
    if (place_frame(card, header, frame, size) != PLACED_NOT_NOW)
        return true;
    virtqueue_set_notify(queue, true);
    return false;
}

static void net_received(void *opaque)
{
    struct virtio_net *card = opaque;
    virtqueue_flush(virtio_queue(card->virtio, QUEUE_RECEIVE));
}

/* ---- commands ---- */

static bool table_read(const struct virtio_chain *chain, uint64_t *offset, struct mac_table *table)
{
    uint32_t count;
    if (virtio_copy_from(chain->out, chain->out_count, *offset, &count, sizeof count) != sizeof count)
        return false;
    *offset += sizeof count;
    if (*offset + (uint64_t)count * NET_MAC_SIZE > chain->out_size)
        return false;
    *table = (struct mac_table){.count = count <= TABLE_MAX ? count : 0, .overflow = count > TABLE_MAX};
    virtio_copy_from(chain->out, chain->out_count, *offset, table->mac, table->count * NET_MAC_SIZE);
    *offset += (uint64_t)count * NET_MAC_SIZE;
    return true;
}

static bool command_mac(struct virtio_net *card, unsigned number, const struct virtio_chain *chain)
{
    uint64_t offset = 2;
    if (number == CTRL_MAC_ADDR_SET) {
        uint8_t mac[NET_MAC_SIZE];
        if (!virtio_has(card->virtio, F_CTRL_MAC_ADDR) || chain->out_size != offset + sizeof mac ||
            virtio_copy_from(chain->out, chain->out_count, offset, mac, sizeof mac) != sizeof mac)
            return false;
        memcpy(&virtio_config(card->virtio)[CONFIG_MAC], mac, sizeof mac);
        return true;
    }
    struct mac_table unicast, multicast;
    if (number != CTRL_MAC_TABLE_SET || !virtio_has(card->virtio, F_CTRL_RX) ||
        !table_read(chain, &offset, &unicast) || !table_read(chain, &offset, &multicast))
        return false;
    card->unicast = unicast;
    card->multicast = multicast;
    return true;
}

static bool command_mode(struct virtio_net *card, unsigned number, const struct virtio_chain *chain)
{
    uint8_t on;
    if (number >= CTRL_RX_MODES || !virtio_has(card->virtio, number > MODE_ALLMULTI ? F_CTRL_RX_EXTRA : F_CTRL_RX) ||
        virtio_copy_from(chain->out, chain->out_count, 2, &on, 1) != 1)
        return false;
    card->modes[number] = on != 0;
    return true;
}

/* From feature bits, which are the command's bits, too. */
static unsigned guest_offloads(uint64_t features)
{
    if (!(features >> F_GUEST_CSUM & 1))
        return 0;
    return NET_OFFLOAD_CSUM | (features >> F_GUEST_TSO4 & 1 ? NET_OFFLOAD_TSO4 : 0) |
           (features >> F_GUEST_TSO6 & 1 ? NET_OFFLOAD_TSO6 : 0);
}

static uint64_t negotiated_offloads(const struct virtio_net *card)
{
    static const uint8_t bits[] = {F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6};
    uint64_t offloads = 0;
    for (unsigned i = 0; i < ARRAY_LEN(bits); i++)
        offloads |= (uint64_t)virtio_has(card->virtio, bits[i]) << bits[i];
    return offloads;
}

static bool command_offloads(struct virtio_net *card, unsigned number, const struct virtio_chain *chain)
{
    uint64_t wanted;
    if (number != CTRL_GUEST_OFFLOADS_SET || !virtio_has(card->virtio, F_CTRL_GUEST_OFFLOADS) ||
        virtio_copy_from(chain->out, chain->out_count, 2, &wanted, sizeof wanted) != sizeof wanted ||
        (wanted & ~negotiated_offloads(card)) != 0)
        return false;
    net_set_offloads(card->config.net, guest_offloads(wanted));
    return true;
}

static bool command(struct virtio_net *card, const struct virtio_chain *chain)
{
    uint8_t which[2];
    if (virtio_copy_from(chain->out, chain->out_count, 0, which, 2) != 2)
        return false;
    switch (which[0]) {
    case CTRL_RX: return command_mode(card, which[1], chain);
    case CTRL_MAC: return command_mac(card, which[1], chain);
    case CTRL_GUEST_OFFLOADS: return command_offloads(card, which[1], chain);
    default: return false;
    }
}

static void control(struct virtio_net *card)
{
    struct virtqueue *queue = virtio_queue(card->virtio, QUEUE_CONTROL);
    struct virtio_chain chain;
    do {
        virtqueue_set_notify(queue, false);
        while (virtqueue_pop(queue, &chain)) {
            uint8_t ack = command(card, &chain) ? CTRL_OK : CTRL_ERR;
            virtqueue_push(queue, &chain, virtio_copy_to(card->memory, chain.in, chain.in_count, 0, &ack, 1));
        }
        virtqueue_flush(queue);
    } while (!virtqueue_set_notify(queue, true));
}

/* ---- the device ---- */

static void card_notified(void *dev, unsigned index)
{
    struct virtio_net *card = dev;
    switch (index) {
    case QUEUE_RECEIVE:
        virtqueue_set_notify(virtio_queue(card->virtio, index), false);
        net_accept(card->config.net);
        break;
    case QUEUE_TRANSMIT: transmit(card); break;
    default: control(card); break;
    }
}

static void card_ready(void *dev)
{
    struct virtio_net *card = dev;
    card->modes[MODE_PROMISC] = !virtio_has(card->virtio, F_CTRL_RX);
    net_set_offloads(card->config.net, guest_offloads(negotiated_offloads(card)));
}

static void card_reset(void *dev)
{
    struct virtio_net *card = dev;
    uint8_t *config = virtio_config(card->virtio);
    memcpy(&config[CONFIG_MAC], card->config.mac, NET_MAC_SIZE);
    config[CONFIG_STATUS] = card->config.net != NULL ? CONFIG_STATUS_LINK_UP : 0;
    memset(card->modes, 0, sizeof card->modes);
    card->unicast = card->multicast = (struct mac_table){0};
    net_set_offloads(card->config.net, 0);
}

static uint64_t offered_features(const struct virtio_net_config *config)
{
    unsigned offloads = net_offloads(config->net);
    uint64_t features = 1u << F_MAC | 1u << F_MRG_RXBUF | 1u << F_STATUS | 1u << F_CTRL_VQ | 1u << F_CTRL_RX |
                        1u << F_CTRL_RX_EXTRA | 1u << F_CTRL_MAC_ADDR;
    if (offloads & NET_OFFLOAD_CSUM)
        features |= 1u << F_CSUM | 1u << F_GUEST_CSUM | 1u << F_CTRL_GUEST_OFFLOADS;
    if (offloads & NET_OFFLOAD_TSO4)
        features |= 1u << F_HOST_TSO4 | 1u << F_GUEST_TSO4;
    if (offloads & NET_OFFLOAD_TSO6)
        features |= 1u << F_HOST_TSO6 | 1u << F_GUEST_TSO6;
    return features;
}

static bool card_build(struct virtio_net *card, const struct virtio_bus *bus, struct error *err)
{
    static const struct virtio_ops ops = {
        .notified = card_notified, .ready = card_ready, .reset = card_reset, .name = "virtio-net"};
    const struct virtio_desc desc = {.type = VIRTIO_NET,
                                     .class_code = CLASS_ETHERNET,
                                     .features = offered_features(&card->config),
                                     .queues = QUEUES,
                                     .queue_size = QUEUE_SIZE,
                                     .config_size = CONFIG_SIZE,
                                     .ops = &ops};
    card->virtio = virtio_create(bus, &desc, card, err);
    if (card->virtio == NULL)
        return false;
    card_reset(card);
    const struct net_frontend frontend = {.receive = net_receive,
                                          .received = net_received,
                                          .sent = net_sent,
                                          .opaque = card,
                                          .lock = card->config.lock};
    return net_connect(card->config.net, &frontend, err);
}

struct virtio_net *virtio_net_create(const struct virtio_bus *bus, const struct virtio_net_config *config,
                                     struct error *err)
{
    struct virtio_net *card = calloc(1, sizeof *card);
    if (card == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    card->memory = bus->memory;
    card->config = *config;
    if (!card_build(card, bus, err)) {
        virtio_net_destroy(card);
        return NULL;
    }
    return card;
}

void virtio_net_unplug(struct virtio_net *card)
{
    if (card != NULL)
        net_disconnect(card->config.net);
}

void virtio_net_destroy(struct virtio_net *card)
{
    if (card == NULL)
        return;
    virtio_destroy(card->virtio);
    free(card);
}
