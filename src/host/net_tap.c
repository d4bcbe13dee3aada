/* A tap device of the host: the guest is on an interface of the host's own. See net_create.h.
 *
 * The device must exist and belong to the user (ip tuntap add NAME mode tap user USER), or the process needs CAP_NET_ADMIN; what it is
 * connected to is the host administrator's matter. Frames carry struct net_header in both directions, so that checksums and
 * segments are left to whoever can do them: to the host's network or, as far as the guest has agreed, to the guest.
 *
 * A frame that the device does not take now is lost, as on a wire.
 *
 * Source: the kernel's Documentation/networking/tuntap.rst, linux/if_tun.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/types.h"
#include "host/net_internal.h"

#define DEVICE "/dev/net/tun"
#define READ_AT_ONCE 64u

struct net_tap {
    struct net net;
    int fd;
    unsigned slot; /* in struct net_poll */
};

static void tap_prepare(struct net *net, struct net_poll *turn)
{
    struct net_tap *tap = container_of(net, struct net_tap, net);
    tap->slot = turn->count++;
    turn->fds[tap->slot] = (struct pollfd){.fd = tap->fd, .events = POLLIN};
}

static void tap_ready(struct net *net, struct net_poll *turn)
{
    struct net_tap *tap = container_of(net, struct net_tap, net);
    if (turn->fds[tap->slot].revents == 0)
        return;
    for (unsigned i = 0; i < READ_AT_ONCE; i++) {
        struct net_packet *packet = net_packet_create(NET_FRAME_MAX);
        if (packet == NULL)
            return;
        const struct iovec parts[] = {{.iov_base = &packet->header, .iov_len = sizeof packet->header},
                                      {.iov_base = packet->data, .iov_len = packet->room}};
        ssize_t n = readv(tap->fd, parts, 2);
        if (n < (ssize_t)sizeof packet->header) {
            free(packet);
            return;
        }
        packet->size = (uint32_t)((size_t)n - sizeof packet->header);
        net_deliver(net, packet);
    }
}

static void tap_send(struct net *net, struct net_packet *packet)
{
    struct net_tap *tap = container_of(net, struct net_tap, net);
    const struct iovec parts[] = {{.iov_base = &packet->header, .iov_len = sizeof packet->header},
                                  {.iov_base = packet->data, .iov_len = packet->size}};
    ssize_t n = writev(tap->fd, parts, 2);
    (void)n;
}

static void tap_set_offloads(struct net *net, unsigned offloads)
{
    struct net_tap *tap = container_of(net, struct net_tap, net);
    unsigned long flags = 0;
    if (offloads & NET_OFFLOAD_CSUM)
        flags = TUN_F_CSUM | (offloads & NET_OFFLOAD_TSO4 ? TUN_F_TSO4 : 0) | (offloads & NET_OFFLOAD_TSO6 ? TUN_F_TSO6 : 0);
    ioctl(tap->fd, TUNSETOFFLOAD, flags); /* what the kernel does not know it does itself */
}

static void tap_destroy(struct net *net)
{
    struct net_tap *tap = container_of(net, struct net_tap, net);
    if (tap->fd >= 0)
        close(tap->fd);
    net_fini(net);
    free(tap);
}

static const struct net_ops tap_ops = {.prepare = tap_prepare,
                                       .ready = tap_ready,
                                       .send = tap_send,
                                       .set_offloads = tap_set_offloads,
                                       .destroy = tap_destroy};

static bool tap_open(struct net_tap *tap, const char *name, struct error *err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int size = sizeof(struct net_header);
    tap->fd = open(DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tap->fd < 0)
        return error_set(err, "%s: %s; without privilege '--net user' gives a network", DEVICE, strerror(errno));
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (ioctl(tap->fd, TUNSETIFF, &request) != 0)
        return error_set(err, "%s: %s; the administrator makes it with 'ip tuntap add %s mode tap user %u'", name,
                         strerror(errno), name, getuid());
    if (ioctl(tap->fd, TUNSETVNETHDRSZ, &size) != 0)
        return error_set(err, "%s: the host's kernel is too old for virtio: %s", name, strerror(errno));
    return true;
}

static bool parse_options(const char *text, char name[IFNAMSIZ], struct error *err)
{
    struct net_option option;
    const char *rest = text;
    while (net_option_next(&rest, &option, err)) {
        if (strcmp(option.name, "script") == 0 || strcmp(option.name, "downscript") == 0) {
            if (strcmp(option.value, "no") != 0)
                return error_set(err, "%s=%s: no scripts are run; the device must be ready", option.name, option.value);
        } else if (strcmp(option.name, "ifname") != 0) {
            return error_set(err, "a tap network has no option '%s'; it has ifname", option.name);
        } else if (strlen(option.value) == 0 || strlen(option.value) >= IFNAMSIZ) {
            return error_set(err, "ifname=%s: a name of 1 to %d characters is needed", option.value, IFNAMSIZ - 1);
        } else {
            snprintf(name, IFNAMSIZ, "%.15s", option.value);
        }
    }
    if (rest == NULL)
        return false;
    return name[0] != 0 || error_set(err, "which tap device? tap,ifname=NAME");
}

struct net *net_tap_create(const char *text, struct error *err)
{
    char name[IFNAMSIZ] = "";
    if (!parse_options(text, name, err))
        return NULL;
    struct net_tap *tap = calloc(1, sizeof *tap);
    if (tap == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    tap->fd = -1;
    snprintf(tap->net.name, sizeof tap->net.name, "tap %s", name);
    tap->net.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
    if (!net_init(&tap->net, &tap_ops, err) || !tap_open(tap, name, err)) {
        tap_destroy(&tap->net);
        return NULL;
    }
    return &tap->net;
}
