/* The options that give a machine network cards: --net and --nic, which mean the same here. */
#ifndef RING3_CLI_NETS_H
#define RING3_CLI_NETS_H

#include "base/error.h"
#include "machine/nic.h"

#define NIC_SPEC_MAX 1024u

struct nic_option {
    char spec[NIC_SPEC_MAX]; /* of the network: host/net_create.h */
    uint8_t mac[6];
};

struct nic_list {
    struct nic_option nic[NICS_MAX];
    unsigned count;
};

/* One option's value: what host/net_create.h says, with mac=52:54:00:12:34:56 and model=virtio among it; or "none", which takes
 * those before it away; or "nic", of old, which adds nothing. False with a message. */
bool nics_add(struct nic_list *list, const char *value, struct error *err);

#endif
