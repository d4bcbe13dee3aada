/* What a machine's network cards are made from. */
#ifndef RING3_MACHINE_NIC_H
#define RING3_MACHINE_NIC_H

#include <stdint.h>

#define NICS_MAX 8u

struct net;

struct nic_config {
    struct net *net; /* what the card is plugged into (host/net.h); owned by the caller, outlives the machine */
    uint8_t mac[6];
};

#endif
