/* A network without privilege: libslirp. See net_create.h.
 *
 * Model. libslirp is a TCP/IP stack that plays the other machines of the guest's network: a router that answers DHCP and ping, a name
 * server that passes on to the host's, and the far end of every connection, for which it opens a socket of this process. It is used by
 * the network's thread only, from the thread's start on; before that by whoever creates it. It asks for descriptors and a timeout before
 * each wait and looks at them afterwards; its timers (router advertisements) are counted in milliseconds of the host's clock.
 *
 * What the guest leaves to us: checksums, which are computed here before libslirp verifies them, and TCP segments of up to 64 KiB.
 * libslirp takes those whole: its own segments to the guest are of ordinary size, but it accepts any, since what the guest's segments
 * carry goes on as a stream. Fragments of IPv4 are put together before it sees them (net_fragment.c).
 *
 * The host's own services. As with other users of libslirp the router's address leads to the host's 127.0.0.1, unless loopback=off.
 * Ports that are forwarded to the guest are on 127.0.0.1 unless told otherwise.
 *
 * Not offered: libslirp's TFTP and SMB servers, commands as servers, application gateways.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/types.h"
#include "host/clock.h"
#include "host/net_internal.h"

#define NS_PER_MS 1000000u
#define TIMERS_MAX 8u
#define FORWARDS_MAX 32u

struct user_timer {
    SlirpTimerCb fire;
    void *opaque;
    int64_t deadline_ms; /* INT64_MAX: not armed */
    bool taken;
};

struct net_user {
    struct net net;
    Slirp *slirp;
    struct net_poll *poll; /* of this turn */
    struct user_timer timers[TIMERS_MAX];
    struct net_fragments fragments;
};

struct forward {
    bool udp;
    struct in_addr host, guest;
    unsigned host_port, guest_port;
};

/* What the options say. */
struct user_options {
    struct in_addr net, mask, host, dns, dhcp;
    char name[64];
    bool restrict_, loopback, ipv6;
    struct forward forwards[FORWARDS_MAX];
    unsigned forward_count;
};

/* ---- what libslirp asks of us ---- */

static ssize_t on_send_packet(const void *frame, size_t size, void *opaque)
{
    struct net_user *user = opaque;
    if (size <= NET_FRAME_MAX)
        net_deliver_frame(&user->net, frame, size);
    return (ssize_t)size;
}

static void on_guest_error(const char *message, void *opaque)
{
    /* The guest's own business. */
}

static int64_t on_clock_ns(void *opaque)
{
    return (int64_t)clock_monotonic_ns();
}

static void *on_timer_new(SlirpTimerCb fire, void *fire_opaque, void *opaque)
{
    struct net_user *user = opaque;
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        if (user->timers[i].taken)
            continue;
        user->timers[i] =
            (struct user_timer){.fire = fire, .opaque = fire_opaque, .deadline_ms = INT64_MAX, .taken = true};
        return &user->timers[i];
    }
    return NULL;
}

static void on_timer_free(void *timer, void *opaque)
{
    if (timer != NULL)
        *(struct user_timer *)timer = (struct user_timer){.deadline_ms = INT64_MAX};
}

static void on_timer_mod(void *timer, int64_t deadline_ms, void *opaque)
{
    if (timer != NULL)
        ((struct user_timer *)timer)->deadline_ms = deadline_ms;
}

static void on_poll_fd(int fd, void *opaque)
{
    /* The list of descriptors is made anew for each wait. */
}

static void on_notify(void *opaque)
{
    /* Everything happens on one thread. */
}

static const SlirpCb callbacks = {
    .send_packet = on_send_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock_ns,
    .timer_new = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_poll_fd,
    .unregister_poll_fd = on_poll_fd,
    .notify = on_notify,
};

/* ---- turns ---- */

static const struct {
    int slirp;
    short host;
} poll_events[] = {
    {SLIRP_POLL_IN, POLLIN}, {SLIRP_POLL_OUT, POLLOUT}, {SLIRP_POLL_PRI, POLLPRI},
    {SLIRP_POLL_ERR, POLLERR}, {SLIRP_POLL_HUP, POLLHUP},
};

static int on_add_poll(int fd, int events, void *opaque)
{
    struct net_poll *turn = ((struct net_user *)opaque)->poll;
    if (turn->count == NET_POLL_MAX)
        return -1;
    struct pollfd *entry = &turn->fds[turn->count];
    *entry = (struct pollfd){.fd = fd};
    for (unsigned i = 0; i < ARRAY_LEN(poll_events); i++)
        if (events & poll_events[i].slirp)
            entry->events |= poll_events[i].host;
    return (int)turn->count++;
}

static int on_get_events(int index, void *opaque)
{
    const struct net_poll *turn = ((struct net_user *)opaque)->poll;
    int events = 0;
    if (index < 0 || (unsigned)index >= turn->count)
        return 0;
    for (unsigned i = 0; i < ARRAY_LEN(poll_events); i++)
        if (turn->fds[index].revents & poll_events[i].host)
            events |= poll_events[i].slirp;
    return events;
}

static int64_t now_ms(void)
{
    return (int64_t)(clock_monotonic_ns() / NS_PER_MS);
}

static void user_prepare(struct net *net, struct net_poll *turn)
{
    struct net_user *user = container_of(net, struct net_user, net);
    uint32_t timeout_ms = UINT32_MAX;
    user->poll = turn;
    slirp_pollfds_fill(user->slirp, &timeout_ms, on_add_poll, user);
    int64_t now = now_ms();
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        const struct user_timer *timer = &user->timers[i];
        if (!timer->taken || timer->deadline_ms == INT64_MAX)
            continue;
        int64_t left = timer->deadline_ms > now ? timer->deadline_ms - now : 0;
        if (left < (int64_t)timeout_ms)
            timeout_ms = (uint32_t)left;
    }
    turn->timeout_ms = timeout_ms > INT32_MAX ? -1 : (int)timeout_ms;
}

static void user_ready(struct net *net, struct net_poll *turn)
{
    struct net_user *user = container_of(net, struct net_user, net);
    user->poll = turn;
    slirp_pollfds_poll(user->slirp, 0, on_get_events, user);
    int64_t now = now_ms();
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        struct user_timer *timer = &user->timers[i];
        if (!timer->taken || timer->deadline_ms > now)
            continue;
        timer->deadline_ms = INT64_MAX;
        timer->fire(timer->opaque);
    }
}

static void user_send(struct net *net, struct net_packet *packet)
{
    struct net_user *user = container_of(net, struct net_user, net);
    if (packet->header.flags & NET_HEADER_NEEDS_CSUM &&
        !net_finish_checksum(&packet->header, packet->data, packet->size))
        return;
    if (!net_is_fragment(packet->data, packet->size)) {
        slirp_input(user->slirp, packet->data, (int)packet->size);
        return;
    }
    struct net_packet *whole = net_reassemble(&user->fragments, packet->data, packet->size);
    if (whole != NULL)
        slirp_input(user->slirp, whole->data, (int)whole->size);
    free(whole);
}

static void user_destroy(struct net *net)
{
    struct net_user *user = container_of(net, struct net_user, net);
    if (user->slirp != NULL)
        slirp_cleanup(user->slirp);
    net_fragments_clear(&user->fragments);
    net_fini(net);
    free(user);
}

static const struct net_ops user_ops = {
    .prepare = user_prepare, .ready = user_ready, .send = user_send, .destroy = user_destroy};

/* ---- options ---- */

static bool parse_address(const struct net_option *option, struct in_addr *address, struct error *err)
{
    return inet_pton(AF_INET, option->value, address) == 1 ||
           error_set(err, "%s=%s is no IPv4 address", option->name, option->value);
}

static struct in_addr at(struct in_addr net, uint32_t n)
{
    return (struct in_addr){.s_addr = net.s_addr | htonl(n)};
}

/* ADDRESS/BITS; the other addresses follow from it. */
static bool parse_net(const struct net_option *option, struct user_options *options, struct error *err)
{
    char text[sizeof option->value];
    unsigned bits = 24;
    char end;
    snprintf(text, sizeof text, "%s", option->value);
    char *slash = strchr(text, '/');
    if (slash != NULL)
        *slash = 0;
    if ((slash != NULL && sscanf(slash + 1, "%2u%c", &bits, &end) != 1) || bits < 8 || bits > 28 ||
        inet_pton(AF_INET, text, &options->net) != 1)
        return error_set(err, "net=%s is not of the form 10.0.2.0/24, with 8 to 28 bits", option->value);
    options->mask.s_addr = htonl(UINT32_MAX << (32 - bits));
    options->net.s_addr &= options->mask.s_addr;
    options->host = at(options->net, 2);
    options->dns = at(options->net, 3);
    options->dhcp = at(options->net, bits == 28 ? 10 : 15);
    return true;
}

/* ADDRESS:PORT or :PORT, up to `end` in *text, which is moved behind it. */
static bool parse_place(const char **text, char end, struct in_addr *address, unsigned *port)
{
    char host[INET_ADDRSTRLEN] = "";
    const char *colon = strchr(*text, ':');
    if (colon == NULL || (size_t)(colon - *text) >= sizeof host)
        return false;
    memcpy(host, *text, (size_t)(colon - *text));
    char *rest;
    unsigned long value = colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &rest, 10) : 0;
    if (value == 0 || value > 65535 || *rest != end || (host[0] != 0 && inet_pton(AF_INET, host, address) != 1))
        return false;
    *port = (unsigned)value;
    *text = rest + 1;
    return true;
}

static bool parse_forward(const struct net_option *option, struct user_options *options, struct error *err)
{
    if (options->forward_count == FORWARDS_MAX)
        return error_set(err, "more than %u ports are forwarded", FORWARDS_MAX);
    struct forward *forward = &options->forwards[options->forward_count++];
    forward->host.s_addr = htonl(INADDR_LOOPBACK);
    const char *text = option->value;
    forward->udp = strncmp(text, "udp:", 4) == 0;
    bool known = forward->udp || strncmp(text, "tcp:", 4) == 0 || text[0] == ':';
    text += text[0] == ':' ? 1 : 4;
    if (!known || !parse_place(&text, '-', &forward->host, &forward->host_port) ||
        !parse_place(&text, 0, &forward->guest, &forward->guest_port))
        return error_set(err, "hostfwd=%s is not of the form tcp:127.0.0.1:8022-:22", option->value);
    return true;
}

static bool parse_option(const struct net_option *option, struct user_options *options, struct error *err)
{
    const char *name = option->name;
    if (strcmp(name, "net") == 0)
        return true; /* done already */
    if (strcmp(name, "host") == 0)
        return parse_address(option, &options->host, err);
    if (strcmp(name, "dns") == 0)
        return parse_address(option, &options->dns, err);
    if (strcmp(name, "dhcpstart") == 0)
        return parse_address(option, &options->dhcp, err);
    if (strcmp(name, "hostfwd") == 0)
        return parse_forward(option, options, err);
    if (strcmp(name, "restrict") == 0)
        return net_option_switch(option, &options->restrict_, err);
    if (strcmp(name, "loopback") == 0)
        return net_option_switch(option, &options->loopback, err);
    if (strcmp(name, "ipv6") == 0)
        return net_option_switch(option, &options->ipv6, err);
    if (strcmp(name, "hostname") != 0)
        return error_set(err, "a user network has no option '%s'; it has net, host, dns, dhcpstart, hostname, hostfwd, "
                              "restrict, loopback and ipv6", name);
    if (strlen(option->value) >= sizeof options->name)
        return error_set(err, "hostname=%s is too long", option->value);
    snprintf(options->name, sizeof options->name, "%.63s", option->value);
    return true;
}

static bool in_net(const struct user_options *options, struct in_addr address)
{
    uint32_t host = ntohl(address.s_addr & ~options->mask.s_addr);
    return (address.s_addr & options->mask.s_addr) == options->net.s_addr && host != 0 &&
           host != ntohl(~options->mask.s_addr);
}

static bool parse_options(const char *text, struct user_options *options, struct error *err)
{
    struct net_option option = {.name = "net", .value = "10.0.2.0/24"};
    *options = (struct user_options){.loopback = true};
    if (!parse_net(&option, options, err))
        return false;
    const char *rest = text;
    while (net_option_next(&rest, &option, err)) /* the network first: addresses in it are overridden by the others */
        if (strcmp(option.name, "net") == 0 && !parse_net(&option, options, err))
            return false;
    if (rest == NULL)
        return false;
    for (rest = text; net_option_next(&rest, &option, err);)
        if (!parse_option(&option, options, err))
            return false;
    const struct in_addr places[] = {options->host, options->dns, options->dhcp};
    for (unsigned i = 0; i < ARRAY_LEN(places); i++)
        if (!in_net(options, places[i]))
            return error_set(err, "%s is not a host's address in the guest's network", inet_ntoa(places[i]));
    return (options->host.s_addr != options->dns.s_addr && options->host.s_addr != options->dhcp.s_addr &&
            options->dns.s_addr != options->dhcp.s_addr) ||
           error_set(err, "host, dns and dhcpstart need addresses of their own");
}

static bool add_forwards(struct net_user *user, const struct user_options *options, struct error *err)
{
    for (unsigned i = 0; i < options->forward_count; i++) {
        const struct forward *forward = &options->forwards[i];
        if (slirp_add_hostfwd(user->slirp, forward->udp, forward->host, (int)forward->host_port, forward->guest,
                              (int)forward->guest_port) != 0)
            return error_set(err, "hostfwd: %s port %u of %s cannot be listened on: %s", forward->udp ? "UDP" : "TCP",
                             forward->host_port, inet_ntoa(forward->host), strerror(errno));
    }
    return true;
}

static bool user_start(struct net_user *user, const struct user_options *options, struct error *err)
{
    SlirpConfig config = {
        .version = 1,
        .restricted = options->restrict_,
        .in_enabled = true,
        .vnetwork = options->net,
        .vnetmask = options->mask,
        .vhost = options->host,
        .vdhcp_start = options->dhcp,
        .vnameserver = options->dns,
        .in6_enabled = options->ipv6,
        .vprefix_len = 64,
        .vhostname = options->name[0] != 0 ? options->name : NULL,
        .disable_host_loopback = !options->loopback,
    };
    inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &config.vhost6);
    inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
    user->slirp = slirp_new(&config, &callbacks, user);
    if (user->slirp == NULL)
        return error_set(err, "libslirp does not take this configuration");
    return add_forwards(user, options, err);
}

struct net *net_user_create(const char *text, struct error *err)
{
    struct user_options options;
    if (!parse_options(text, &options, err))
        return NULL;
    struct net_user *user = calloc(1, sizeof *user);
    if (user == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    snprintf(user->net.name, sizeof user->net.name, "user");
    user->net.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
    if (!net_init(&user->net, &user_ops, err) || !user_start(user, &options, err)) {
        user_destroy(&user->net);
        return NULL;
    }
    return &user->net;
}
