/* What all networks have in common: the thread, and the frames that wait. See net.h and net_internal.h.
 *
 * Model. Two lists. `from_guest` is filled by net_send(), under the device lock, and emptied by the thread; a leaf lock guards it.
 * `to_guest` belongs to the thread: the network adds to its end, and after each turn the thread takes the device lock once and hands
 * over what the guest has room for. While something is left there the network is not asked for more: its sockets fill up, and the
 * far ends learn it from them.
 *
 *     wait; take from_guest, ops->send() each; ops->ready(); device lock: receive() each of to_guest, received(); again
 *
 * Bounds. net_send() refuses beyond SEND_BYTES or SEND_COUNT. What one turn of the network brings is bounded by what it reads in
 * one turn; beyond RECEIVE_BYTES the oldest are kept and new ones dropped, as a full switch does.
 *
 * A wake is a write to an eventfd: when something is added to an empty list, when the guest has room after it had none, and at
 * the end.
 */
#include "host/net.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "host/net_create.h"
#include "host/net_internal.h"

#define SEND_BYTES (2u << 20)
#define SEND_COUNT 1024u
#define RECEIVE_BYTES (8u << 20)
#define DELIVER_AT_ONCE 64u /* frames, before the device lock is let go */

static void list_add(struct net_list *list, struct net_packet *packet)
{
    packet->next = NULL;
    *(list->last != NULL ? &list->last->next : &list->first) = packet;
    list->last = packet;
    list->bytes += packet->size;
    list->count++;
}

static struct net_packet *list_take(struct net_list *list)
{
    struct net_packet *packet = list->first;
    if (packet == NULL)
        return NULL;
    list->first = packet->next;
    if (list->first == NULL)
        list->last = NULL;
    list->bytes -= packet->size;
    list->count--;
    return packet;
}

static void list_clear(struct net_list *list)
{
    for (struct net_packet *packet; (packet = list_take(list)) != NULL;)
        free(packet);
}

bool net_init(struct net *net, const struct net_ops *ops, struct error *err)
{
    net->ops = ops;
    net->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (net->wake_fd < 0)
        return error_set(err, "a network needs an eventfd: %s", strerror(errno));
    pthread_mutex_init(&net->lock, NULL);
    return true;
}

void net_fini(struct net *net)
{
    list_clear(&net->from_guest);
    list_clear(&net->to_guest);
    if (net->wake_fd >= 0)
        close(net->wake_fd);
}

void net_destroy(struct net *net)
{
    if (net == NULL)
        return;
    check(!net->connected);
    net->ops->destroy(net);
}

static void wake(struct net *net)
{
    uint64_t one = 1;
    ssize_t n = write(net->wake_fd, &one, sizeof one); /* full means that a wake is pending anyway */
    (void)n;
}

struct net_packet *net_packet_create(uint32_t room)
{
    struct net_packet *packet = malloc(sizeof *packet + room);
    if (packet != NULL)
        *packet = (struct net_packet){.room = room};
    return packet;
}

/* ---- the card's side ---- */

const char *net_name(const struct net *net)
{
    return net != NULL ? net->name : "none";
}

unsigned net_offloads(const struct net *net)
{
    return net != NULL ? net->offloads : 0;
}

void net_set_offloads(struct net *net, unsigned offloads)
{
    if (net == NULL)
        return;
    pthread_mutex_lock(&net->lock);
    net->wanted_offloads = offloads;
    pthread_mutex_unlock(&net->lock);
    wake(net);
}

bool net_send(struct net *net, const struct net_header *header, const struct iovec *pieces, unsigned count, size_t skip,
              size_t size)
{
    if (net == NULL || size > NET_FRAME_MAX)
        return true;
    pthread_mutex_lock(&net->lock);
    bool full = net->from_guest.count >= SEND_COUNT || net->from_guest.bytes >= SEND_BYTES;
    pthread_mutex_unlock(&net->lock);
    if (full)
        return false;
    struct net_packet *packet = net_packet_create((uint32_t)size);
    if (packet == NULL)
        return true; /* lost, as a frame may be */
    packet->header = *header;
    for (unsigned i = 0; i < count && packet->size < size; i++) {
        if (skip >= pieces[i].iov_len) {
            skip -= pieces[i].iov_len;
            continue;
        }
        size_t n = pieces[i].iov_len - skip < size - packet->size ? pieces[i].iov_len - skip : size - packet->size;
        memcpy(packet->data + packet->size, (const uint8_t *)pieces[i].iov_base + skip, n);
        packet->size += (uint32_t)n;
        skip = 0;
    }
    pthread_mutex_lock(&net->lock);
    bool first = net->from_guest.first == NULL;
    list_add(&net->from_guest, packet);
    pthread_mutex_unlock(&net->lock);
    if (first)
        wake(net);
    return true;
}

void net_accept(struct net *net)
{
    if (net == NULL)
        return;
    pthread_mutex_lock(&net->lock);
    bool news = !net->accepted;
    net->accepted = true;
    pthread_mutex_unlock(&net->lock);
    if (news)
        wake(net);
}

/* ---- the thread ---- */

void net_deliver(struct net *net, struct net_packet *packet)
{
    if (net->to_guest.bytes >= RECEIVE_BYTES)
        free(packet);
    else
        list_add(&net->to_guest, packet);
}

void net_deliver_frame(struct net *net, const uint8_t *frame, size_t size)
{
    bool more = net->guest_offloads & NET_OFFLOAD_TSO4 && net_can_coalesce(frame, size);
    struct net_packet *last = net->to_guest.last;
    if (more && last != NULL) {
        uint32_t before = last->size;
        if (net_coalesce(last, frame, size)) {
            net->to_guest.bytes += last->size - before;
            return;
        }
    }
    struct net_packet *packet = net_packet_create(more ? NET_FRAME_MAX : (uint32_t)size);
    if (packet == NULL)
        return; /* lost, as a frame may be */
    memcpy(packet->data, frame, size);
    packet->size = (uint32_t)size;
    if (net->guest_offloads & NET_OFFLOAD_CSUM)
        packet->header.flags = NET_HEADER_DATA_VALID;
    net_deliver(net, packet);
}

/* What the other threads have left: true to go on. */
static bool collect(struct net *net, struct net_list *list)
{
    pthread_mutex_lock(&net->lock);
    *list = net->from_guest;
    net->from_guest = (struct net_list){0};
    net->offer |= net->accepted;
    net->started |= net->accepted;
    bool stop = net->stop;
    unsigned offloads = net->wanted_offloads;
    pthread_mutex_unlock(&net->lock);
    if (offloads != net->guest_offloads) {
        net->guest_offloads = offloads;
        if (net->ops->set_offloads != NULL)
            net->ops->set_offloads(net, offloads);
    }
    return !stop;
}

/* As much of to_guest as there is room for. */
static void hand_over(struct net *net)
{
    const struct net_frontend *to = &net->frontend;
    while (net->to_guest.first != NULL && net->offer) {
        struct net_list done = {0};
        pthread_mutex_lock(to->lock);
        /* Under the device lock, so that room which is made from now on is heard of. */
        pthread_mutex_lock(&net->lock);
        net->accepted = false;
        pthread_mutex_unlock(&net->lock);
        while (net->to_guest.first != NULL && done.count < DELIVER_AT_ONCE) {
            const struct net_packet *packet = net->to_guest.first;
            if (!to->receive(to->opaque, &packet->header, packet->data, packet->size)) {
                net->offer = false;
                break;
            }
            list_add(&done, list_take(&net->to_guest));
        }
        to->received(to->opaque);
        pthread_mutex_unlock(to->lock);
        list_clear(&done);
    }
}

static void send_all(struct net *net, struct net_list *list)
{
    if (list->first == NULL)
        return;
    for (struct net_packet *packet; (packet = list_take(list)) != NULL;) {
        net->ops->send(net, packet);
        free(packet);
    }
    pthread_mutex_lock(net->frontend.lock);
    net->frontend.sent(net->frontend.opaque);
    pthread_mutex_unlock(net->frontend.lock);
}

static void *net_run(void *opaque)
{
    struct net *net = opaque;
    struct net_poll *turn = &net->poll;
    for (;;) {
        turn->fds[0] = (struct pollfd){.fd = net->wake_fd, .events = POLLIN};
        turn->count = 1;
        turn->timeout_ms = -1;
        bool listen = net->started && net->to_guest.first == NULL;
        if (listen)
            net->ops->prepare(net, turn);
        int ready = poll(turn->fds, turn->count, turn->timeout_ms);
        check(ready >= 0 || errno == EINTR || errno == ENOMEM);
        if (ready > 0 && turn->fds[0].revents != 0) {
            uint64_t count;
            ssize_t got = read(net->wake_fd, &count, sizeof count);
            (void)got;
        }
        struct net_list list;
        if (!collect(net, &list)) {
            list_clear(&list);
            break;
        }
        send_all(net, &list);
        if (listen && ready >= 0)
            net->ops->ready(net, turn);
        hand_over(net);
    }
    return NULL;
}

bool net_connect(struct net *net, const struct net_frontend *frontend, struct error *err)
{
    if (net == NULL)
        return true;
    check(!net->connected);
    net->frontend = *frontend;
    net->offer = net->started = net->accepted = net->stop = false;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for others */
    int failed = pthread_create(&net->thread, NULL, net_run, net);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    net->connected = failed == 0;
    return net->connected || error_set(err, "a network needs a thread: %s", strerror(failed));
}

void net_disconnect(struct net *net)
{
    if (net == NULL || !net->connected)
        return;
    pthread_mutex_lock(&net->lock);
    net->stop = true;
    pthread_mutex_unlock(&net->lock);
    wake(net);
    pthread_join(net->thread, NULL);
    net->connected = false;
}

/* ---- specifications ---- */

bool net_option_next(const char **rest, struct net_option *option, struct error *err)
{
    const char *at = *rest;
    if (at == NULL || *at == 0)
        return false;
    *rest = NULL;
    size_t length = strcspn(at, ","), name = strcspn(at, "=,");
    if (name == length || name == 0)
        return error_set(err, "'%.*s' is not of the form name=value", (int)(length < 100 ? length : 100), at);
    if (name >= sizeof option->name || length - name - 1 >= sizeof option->value)
        return error_set(err, "'%.40s...' is too long", at);
    memcpy(option->name, at, name);
    option->name[name] = 0;
    memcpy(option->value, at + name + 1, length - name - 1);
    option->value[length - name - 1] = 0;
    *rest = at + length + (at[length] == ',');
    return true;
}

bool net_option_switch(const struct net_option *option, bool *on, struct error *err)
{
    static const char *const words[][2] = {{"off", "on"}, {"no", "yes"}, {"n", "y"}};
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned value = 0; value < 2; value++) {
            if (strcmp(option->value, words[i][value]) == 0) {
                *on = value;
                return true;
            }
        }
    }
    return error_set(err, "%s=%s: only 'on' and 'off' are possible", option->name, option->value);
}

struct net *net_create(const char *spec, struct error *err)
{
    static const struct {
        const char *name;
        struct net *(*create)(const char *options, struct error *err);
    } kinds[] = {{"user", net_user_create}, {"tap", net_tap_create}};
    size_t length = strcspn(spec, ",");
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strlen(kinds[i].name) == length && memcmp(spec, kinds[i].name, length) == 0)
            return kinds[i].create(spec + length + (spec[length] == ','), err);
    error_set(err, "'%.60s' is no kind of network: user, tap or none", spec);
    return NULL;
}
