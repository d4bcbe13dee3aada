/* What the board has, in words, and the order of booting, which the user may change while it runs. Drives are in pc_disks.c. */
#include "machine/pc_internal.h"

#include <inttypes.h>
#include <string.h>

#include "host/net.h"

/* ---- PCI ---- */

static const char *class_name(uint16_t class)
{
    static const struct {
        uint16_t class;
        const char *name;
    } names[] = {{0x0100, "SCSI controller"},  {0x0101, "IDE controller"}, {0x0180, "Storage controller"},
                 {0x0200, "Ethernet controller"}, {0x0300, "VGA controller"}, {0x0600, "Host bridge"},
                 {0x0601, "ISA bridge"},       {0x0680, "Bridge"},         {0x0780, "Communication controller"},
                 {0x00ff, "Unclassified device"}};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (names[i].class == class)
            return names[i].name;
    return "Device";
}

/* Sizes are not asked for: that takes writes. */
static void describe_bar(struct pc *pc, unsigned slot, unsigned function, unsigned n, FILE *out)
{
    uint32_t low = pci_host_read(pc->pci, slot, function, PCI_BAR0 + 4 * n, 4);
    bool wide = !(low & 1) && (low & 6) == 4 && n < 5;
    uint64_t base = low;
    if (low == 0)
        return;
    if (low & 1) {
        fprintf(out, "      BAR%u: I/O at 0x%04x\n", n, low & ~3u & 0xffff);
        return;
    }
    if (wide)
        base |= (uint64_t)pci_host_read(pc->pci, slot, function, PCI_BAR0 + 4 * n + 4, 4) << 32;
    fprintf(out, "      BAR%u: %u-bit %smemory at 0x%08" PRIx64 "\n", n, wide ? 64 : 32, low & 8 ? "prefetchable " : "",
            base & ~(uint64_t)15);
}

static void describe_pci(struct pc *pc, FILE *out)
{
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned function = 0; function < 8; function++) {
            uint32_t id = pci_host_read(pc->pci, slot, function, 0, 4);
            if ((id & 0xffff) == 0xffff)
                continue;
            uint16_t class = (uint16_t)pci_host_read(pc->pci, slot, function, 0x0a, 2);
            uint32_t interrupt = pci_host_read(pc->pci, slot, function, 0x3c, 2);
            fprintf(out, "  Bus  0, device %3u, function %u:\n    %s: PCI device %04x:%04x\n", slot, function, class_name(class),
                    id & 0xffff, id >> 16);
            if (interrupt >> 8 != 0)
                fprintf(out, "      IRQ %u, pin %c\n", interrupt & 0xff, 'A' + (int)((interrupt >> 8) - 1) % 4);
            for (unsigned n = 0; n < 6; n++) {
                uint32_t low = pci_host_read(pc->pci, slot, function, PCI_BAR0 + 4 * n, 4);
                describe_bar(pc, slot, function, n, out);
                n += !(low & 1) && (low & 6) == 4;
            }
        }
    }
}

/* ---- network ---- */

static void describe_network(const struct pc *pc, FILE *out)
{
    if (pc->config.nic_count == 0)
        fputs("there are no network cards\n", out);
    for (unsigned i = 0; i < pc->config.nic_count; i++) {
        const struct nic_config *nic = &pc->config.nics[i];
        const uint8_t *m = nic->mac;
        fprintf(out, "virtio-net%u: %02x:%02x:%02x:%02x:%02x:%02x, %s\n", i, m[0], m[1], m[2], m[3], m[4], m[5], net_name(nic->net));
    }
}

void pc_describe_devices(struct pc *pc, enum pc_devices which, FILE *out)
{
    switch (which) {
    case PC_DEVICES_PCI: describe_pci(pc, out); break;
    case PC_DEVICES_NETWORK: describe_network(pc, out); break;
    }
}

/* ---- the order of booting ---- */

bool pc_set_boot_order(struct pc *pc, const char *order, struct error *err)
{
    struct boot_choice *boot = &pc->config.boot;
    if (!pc_has_firmware(pc))
        return error_set(err, "a kernel that is started directly is not looked for on drives");
    if (strlen(order) > BOOT_CHOICE_DEVICES || order[strspn(order, "acdn")] != 0)
        return error_set(err, "'%.40s' is no order: up to %u of the letters a (diskette), c (disk), d (CD-ROM), n (network)", order,
                         BOOT_CHOICE_DEVICES);
    snprintf(boot->order, sizeof boot->order, "%s", order);
    boot->once[0] = 0;
    return true;
}
