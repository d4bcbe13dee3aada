/* Checksums and segments: the work that one side of a network leaves to the other. See net_internal.h.
 *
 * A guest may leave the checksum of TCP or UDP to us: the field holds the sum of the pseudo header, and the sum from csum_start on is to
 * be put there, complemented.
 *
 * The other way, segments of one TCP stream that arrive one behind the other are put together to one frame of up to 64 KiB, with the
 * size of a segment in its header, for a guest that would otherwise go 45 times through its own stack. Only what any receiver would treat
 * alike is put together: same addresses, ports, acknowledgement and options, consecutive numbers, no flags but ACK, and PSH on the
 * last; all but the last of the same length.
 *
 * Source: RFC 791, 793, 1071; VIRTIO 1.1, 5.1.6.
 */
#include <string.h>

#include "host/net_internal.h"

#define AT_IP NET_ETHERNET_SIZE
#define IP_SIZE 20u
#define AT_TCP (AT_IP + IP_SIZE)
#define TCP_SIZE 20u
#define TCP_CSUM 16u
#define PROTOCOL_TCP 6u
#define IP_MAX 65535u

#define TCP_PSH 0x08u
#define TCP_ACK 0x10u

/* Of a frame without IP options: offsets from its start. */
enum {
    F_IP_VERSION = AT_IP,
    F_IP_TOS = AT_IP + 1,
    F_IP_LENGTH = AT_IP + 2,
    F_IP_FRAGMENT = AT_IP + 6,
    F_IP_TTL = AT_IP + 8,
    F_IP_PROTOCOL = AT_IP + 9,
    F_IP_CSUM = AT_IP + 10,
    F_IP_ADDRESSES = AT_IP + 12,
    F_TCP_PORTS = AT_TCP,
    F_TCP_SEQUENCE = AT_TCP + 4,
    F_TCP_ACKNOWLEDGE = AT_TCP + 8,
    F_TCP_OFFSET = AT_TCP + 12,
    F_TCP_FLAGS = AT_TCP + 13,
    F_TCP_WINDOW = AT_TCP + 14,
};

static uint16_t get16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static uint32_t get32(const uint8_t *bytes)
{
    return (uint32_t)get16(bytes) << 16 | get16(bytes + 2);
}

static void set16(uint8_t *bytes, unsigned value)
{
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

/* The sum in the host's order of bytes: it comes out right when it is stored in that order, too. */
static uint64_t sum_add(uint64_t sum, const uint8_t *bytes, size_t size)
{
    uint64_t eight;
    for (; size >= 8; bytes += 8, size -= 8) {
        memcpy(&eight, bytes, 8);
        sum += (eight & UINT32_MAX) + (eight >> 32);
    }
    eight = 0;
    memcpy(&eight, bytes, size);
    return sum + (eight & UINT32_MAX) + (eight >> 32);
}

static uint16_t sum_fold(uint64_t sum)
{
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

bool net_finish_checksum(const struct net_header *header, uint8_t *frame, size_t size)
{
    size_t start = header->csum_start, field = start + header->csum_offset;
    if (start >= size || field + 2 > size)
        return false;
    uint16_t sum = (uint16_t)~sum_fold(sum_add(0, frame + start, size - start));
    if (sum == 0) /* which UDP takes for none; to TCP both are the same */
        sum = 0xffff;
    memcpy(frame + field, &sum, sizeof sum);
    return true;
}

static unsigned tcp_header_size(const uint8_t *frame)
{
    return (frame[F_TCP_OFFSET] >> 4) * 4u;
}

static unsigned payload_size(const uint8_t *frame)
{
    return get16(frame + F_IP_LENGTH) - IP_SIZE - tcp_header_size(frame);
}

bool net_can_coalesce(const uint8_t *frame, size_t size)
{
    if (size < AT_TCP + TCP_SIZE || get16(frame + 12) != 0x0800 || frame[F_IP_VERSION] != 0x45 ||
        frame[F_IP_PROTOCOL] != PROTOCOL_TCP || get16(frame + F_IP_FRAGMENT) & 0x3fff)
        return false;
    unsigned header = tcp_header_size(frame), length = get16(frame + F_IP_LENGTH);
    return header >= TCP_SIZE && length > IP_SIZE + header && length + NET_ETHERNET_SIZE == size &&
           (frame[F_TCP_FLAGS] & ~TCP_PSH) == TCP_ACK;
}

static bool same(const uint8_t *a, const uint8_t *b, unsigned offset, unsigned size)
{
    return memcmp(a + offset, b + offset, size) == 0;
}

static bool follows(const struct net_packet *before, const uint8_t *frame, unsigned segment)
{
    const uint8_t *first = before->data;
    unsigned header = tcp_header_size(frame), old = payload_size(first), more = payload_size(frame);
    return same(first, frame, 0, NET_ETHERNET_SIZE) && first[F_IP_TOS] == frame[F_IP_TOS] && first[F_IP_TTL] == frame[F_IP_TTL] &&
           same(first, frame, F_IP_ADDRESSES, 8) && same(first, frame, F_TCP_PORTS, 4) &&
           same(first, frame, F_TCP_ACKNOWLEDGE, 4) && first[F_TCP_OFFSET] == frame[F_TCP_OFFSET] &&
           same(first, frame, AT_TCP + TCP_SIZE, header - TCP_SIZE) && !(first[F_TCP_FLAGS] & TCP_PSH) &&
           get32(frame + F_TCP_SEQUENCE) == get32(first + F_TCP_SEQUENCE) + old && old % segment == 0 && more <= segment &&
           IP_SIZE + header + old + more <= IP_MAX && before->size + more <= before->room;
}

/* The checksums of a frame that a guest is to take apart: the IP header's, and the pseudo header's for TCP. */
static void seal(uint8_t *frame)
{
    uint8_t rest[4] = {0, PROTOCOL_TCP}; /* of the pseudo header */
    memset(frame + F_IP_CSUM, 0, 2);
    uint16_t sum = (uint16_t)~sum_fold(sum_add(0, frame + AT_IP, IP_SIZE));
    memcpy(frame + F_IP_CSUM, &sum, sizeof sum);
    set16(rest + 2, get16(frame + F_IP_LENGTH) - IP_SIZE);
    sum = sum_fold(sum_add(sum_add(0, rest, sizeof rest), frame + F_IP_ADDRESSES, 8));
    memcpy(frame + AT_TCP + TCP_CSUM, &sum, sizeof sum);
}

bool net_coalesce(struct net_packet *before, const uint8_t *frame, size_t size)
{
    if (!net_can_coalesce(before->data, before->size) || (before->header.gso_type != NET_GSO_NONE &&
                                                           before->header.gso_type != NET_GSO_TCPV4))
        return false;
    unsigned segment = before->header.gso_type == NET_GSO_NONE ? payload_size(before->data) : before->header.gso_size;
    if (!follows(before, frame, segment))
        return false;
    unsigned header = AT_TCP + tcp_header_size(frame), more = payload_size(frame);
    memcpy(before->data + before->size, frame + header, more);
    before->size += more;
    set16(before->data + F_IP_LENGTH, before->size - NET_ETHERNET_SIZE);
    memcpy(before->data + F_TCP_WINDOW, frame + F_TCP_WINDOW, 2);
    before->data[F_TCP_FLAGS] |= frame[F_TCP_FLAGS] & TCP_PSH;
    seal(before->data);
    before->header = (struct net_header){.flags = NET_HEADER_NEEDS_CSUM,
                                         .gso_type = NET_GSO_TCPV4,
                                         .header_size = (uint16_t)header,
                                         .gso_size = (uint16_t)segment,
                                         .csum_start = AT_TCP,
                                         .csum_offset = TCP_CSUM};
    return true;
}
