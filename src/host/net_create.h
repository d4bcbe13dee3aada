/* The networks that `--net` can name.
 *
 *   user[,option...]      a network of one's own, without privilege: libslirp does TCP, UDP, DHCP and DNS, and what the guest sends
 *                         leaves through sockets of this process
 *   tap,ifname=NAME[,script=no]   a tap device of the host, which somebody has made for this user
 *
 * Options of user:
 *   net=10.0.2.0/24  host=10.0.2.2  dns=10.0.2.3  dhcpstart=10.0.2.15   addresses in the guest's network
 *   hostname=NAME         what DHCP tells the guest
 *   hostfwd=tcp|udp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT           a port of the host that leads to the guest; any number
 *                         of times; without HOSTADDR on 127.0.0.1
 *   restrict=on           the guest reaches nothing but DHCP; forwarded ports reach it
 *   loopback=off          the guest does not reach the host's 127.0.0.1, which is HOST for it
 *   ipv6=on               IPv6, too
 *
 * Threads: the one that makes the machine. */
#ifndef RING3_HOST_NET_CREATE_H
#define RING3_HOST_NET_CREATE_H

#include "base/error.h"
#include "host/net.h"

/* From a specification as above. NULL with a message for a bad one, or when the host refuses. */
struct net *net_create(const char *spec, struct error *err);
/* After the card is gone. NULL is allowed. */
void net_destroy(struct net *net);

#endif
