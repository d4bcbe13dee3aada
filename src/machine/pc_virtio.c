/* The board's virtio devices: network cards, a console, an entropy source; each in a PCI slot of its own, from VIRTIO_SLOT on, in
 * this order, so that a guest finds them where they were the last time.
 *
 * Disks are virtio devices, too; they are made with the other drives (pc_disks.c).
 */
#include "machine/pc_internal.h"

#include <string.h>

#define VIRTIO_SLOT 3u /* 2 is the display adapter's, as in other machines of this kind */

bool pc_virtio_bus(struct pc *pc, struct virtio_bus *bus, struct error *err)
{
    *bus = (struct virtio_bus){.pci = pc->pci,
                               .slot = pci_free_slot(pc->pci, VIRTIO_SLOT),
                               .memory = pc->config.memory,
                               .queue = pc->config.queue,
                               .log = pc->config.log};
    return bus->slot < PCI_SLOTS || error_set(err, "all slots of the PCI bus are taken: use fewer devices");
}

static bool create_nics(struct pc *pc, struct error *err)
{
    for (unsigned i = 0; i < pc->config.nic_count; i++) {
        struct virtio_net_config config = {.net = pc->config.nics[i].net, .lock = pc->config.lock};
        struct virtio_bus bus;
        memcpy(config.mac, pc->config.nics[i].mac, sizeof config.mac);
        if (!pc_virtio_bus(pc, &bus, err) || (pc->nics[i] = virtio_net_create(&bus, &config, err)) == NULL)
            return false;
    }
    return true;
}

bool pc_create_virtio(struct pc *pc, struct error *err)
{
    const struct pc_config *config = &pc->config;
    struct virtio_bus bus;
    if (!create_nics(pc, err))
        return false;
    if (config->virtio_console != NULL) {
        pc->console = pc_virtio_bus(pc, &bus, err) ? virtio_console_create(&bus, config->virtio_console, err) : NULL;
        if (pc->console == NULL)
            return false;
    }
    if (config->virtio_rng) {
        pc->rng = pc_virtio_bus(pc, &bus, err) ? virtio_rng_create(&bus, config->ops.random, config->ops.opaque, err) : NULL;
        if (pc->rng == NULL)
            return false;
    }
    return true;
}

void pc_unplug_virtio(struct pc *pc)
{
    for (unsigned i = 0; i < NICS_MAX; i++)
        virtio_net_unplug(pc->nics[i]);
}

void pc_destroy_virtio(struct pc *pc)
{
    for (unsigned i = 0; i < NICS_MAX; i++)
        virtio_net_destroy(pc->nics[i]);
    virtio_console_destroy(pc->console);
    virtio_rng_destroy(pc->rng);
}
