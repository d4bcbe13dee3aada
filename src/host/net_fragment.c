/* Fragments of IPv4, put together before libslirp sees them. See net_internal.h.
 *
 * Why here: libslirp 4.7 of Debian 12 follows wild pointers when the last fragment of a datagram comes without those before it, so any
 * guest could end the monitor with one frame. It never sees a fragment now. What it gets instead is one frame of up to 64 KiB,
 * which it takes.
 *
 * Model. A guest's stack sends the fragments of a datagram one behind the other, and nothing between it and us changes their
 * order. So a datagram is a buffer that grows at its end: the fragment at 0 begins it, each next one must begin where it
 * ends, the one without MF completes it. Anything else is lost, as on a bad wire. A few datagrams may be under way at a time; a new one
 * takes the place of the one begun first.
 *
 * Source: RFC 791, 2.3 and 3.1.
 */
#include <stdlib.h>
#include <string.h>

#include "host/net_internal.h"

#define AT_IP NET_ETHERNET_SIZE
#define IP_SIZE 20u
#define AT_TOTAL (AT_IP + 2)
#define AT_ID (AT_IP + 4)
#define AT_FRAGMENT (AT_IP + 6)
#define AT_PROTOCOL (AT_IP + 9)
#define AT_CSUM (AT_IP + 10)
#define AT_ADDRESSES (AT_IP + 12)
#define FRAGMENT_RESERVED 0x8000u
#define FRAGMENT_DF 0x4000u
#define FRAGMENT_MF 0x2000u
#define FRAGMENT_OFFSET 0x1fffu
#define DATAGRAM_MAX 65535u

static unsigned get16(const uint8_t *bytes)
{
    return (unsigned)(bytes[0] << 8 | bytes[1]);
}

static void set16(uint8_t *bytes, unsigned value)
{
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

/* All ones for a good header. */
static unsigned header_sum(const uint8_t *ip, unsigned size)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < size; i += 2)
        sum += get16(ip + i);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

bool net_is_fragment(const uint8_t *frame, size_t size)
{
    return size >= AT_IP + IP_SIZE && get16(frame + 12) == 0x0800 && get16(frame + AT_FRAGMENT) & ~FRAGMENT_DF;
}

static bool same_datagram(const struct net_packet *packet, const uint8_t *frame)
{
    return packet != NULL && memcmp(packet->data + AT_ID, frame + AT_ID, 2) == 0 &&
           packet->data[AT_PROTOCOL] == frame[AT_PROTOCOL] &&
           memcmp(packet->data + AT_ADDRESSES, frame + AT_ADDRESSES, 8) == 0;
}

/* The place of the datagram that the frame belongs to; a place for a new one, if it begins one; or NULL. */
static struct net_packet **find(struct net_fragments *fragments, const uint8_t *frame, bool begins)
{
    for (unsigned i = 0; i < NET_DATAGRAMS; i++)
        if (same_datagram(fragments->datagram[i], frame))
            return &fragments->datagram[i];
    return begins ? &fragments->datagram[fragments->next++ % NET_DATAGRAMS] : NULL;
}

static void forget(struct net_packet **place)
{
    free(*place);
    *place = NULL;
}

struct net_packet *net_reassemble(struct net_fragments *fragments, const uint8_t *frame, size_t size)
{
    unsigned header = (frame[AT_IP] & 15u) * 4, total = get16(frame + AT_TOTAL), field = get16(frame + AT_FRAGMENT);
    unsigned offset = (field & FRAGMENT_OFFSET) * 8;
    bool more = field & FRAGMENT_MF;
    if (frame[AT_IP] >> 4 != 4 || header < IP_SIZE || total <= header || AT_IP + total > size ||
        field & FRAGMENT_RESERVED || (more && (total - header) % 8 != 0) || header_sum(frame + AT_IP, header) != 0xffff)
        return NULL;
    struct net_packet **place = find(fragments, frame, offset == 0);
    if (place == NULL)
        return NULL;
    if (offset == 0) {
        forget(place);
        *place = net_packet_create(AT_IP + DATAGRAM_MAX);
        if (*place == NULL)
            return NULL;
        memcpy((*place)->data, frame, AT_IP + header);
        (*place)->size = AT_IP + header;
    }
    struct net_packet *packet = *place;
    unsigned first_header = (packet->data[AT_IP] & 15u) * 4, payload = total - header;
    if (offset != packet->size - AT_IP - first_header || payload > packet->room - packet->size) {
        forget(place);
        return NULL;
    }
    memcpy(packet->data + packet->size, frame + AT_IP + header, payload);
    packet->size += payload;
    if (more)
        return NULL;
    *place = NULL;
    set16(packet->data + AT_TOTAL, packet->size - AT_IP);
    set16(packet->data + AT_FRAGMENT, 0);
    set16(packet->data + AT_CSUM, 0);
    set16(packet->data + AT_CSUM, ~header_sum(packet->data + AT_IP, first_header) & 0xffff);
    return packet;
}

void net_fragments_clear(struct net_fragments *fragments)
{
    for (unsigned i = 0; i < NET_DATAGRAMS; i++)
        forget(&fragments->datagram[i]);
}
