/* Network cards on the command line. Written for people who know QEMU: `--net user`, `--nic user,model=virtio-net-pci,mac=...`. A card's
 * own address, if it is not given, is 52:54:00:12:34:56 and up, which is what many images have seen before. */
#include "cli/nets.h"

#include <stdio.h>
#include <string.h>

#include "base/types.h"

#define MAC_SIZE 6u

/* Six bytes; a card's own address, which is no group's. */
static bool parse_mac(const char *text, size_t length, uint8_t mac[MAC_SIZE], struct error *err)
{
    char copy[32], end;
    unsigned byte[MAC_SIZE];
    snprintf(copy, sizeof copy, "%.*s", (int)(length < 31 ? length : 31), text);
    if (length != 17 || strspn(copy, "0123456789abcdefABCDEF:") != 17 ||
        sscanf(copy, "%2x:%2x:%2x:%2x:%2x:%2x%c", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4], &byte[5], &end) !=
            (int)MAC_SIZE)
        return error_set(err, "'%s' is not an address like 52:54:00:12:34:56", copy);
    if (byte[0] & 1)
        return error_set(err, "%s is the address of a group, not of a card", copy);
    for (unsigned i = 0; i < MAC_SIZE; i++)
        mac[i] = (uint8_t)byte[i];
    return true;
}

static bool known_model(const char *text, size_t length)
{
    static const char *const models[] = {"virtio", "virtio-net", "virtio-net-pci"};
    for (unsigned i = 0; i < ARRAY_LEN(models); i++)
        if (strlen(models[i]) == length && memcmp(models[i], text, length) == 0)
            return true;
    return false;
}

/* Takes the card's own options out of the text; the rest is the network's. */
static bool split(const char *text, struct nic_option *nic, struct error *err)
{
    size_t used = 0;
    while (*text != 0) {
        size_t length = strcspn(text, ",");
        const char *value = memchr(text, '=', length);
        size_t name = value != NULL ? (size_t)(value - text) : length, rest = value != NULL ? length - name - 1 : 0;
        if (value != NULL && ((name == 3 && memcmp(text, "mac", 3) == 0) || (name == 7 && memcmp(text, "macaddr", 7) == 0))) {
            if (!parse_mac(value + 1, rest, nic->mac, err))
                return false;
        } else if (value != NULL && name == 5 && memcmp(text, "model", 5) == 0) {
            if (!known_model(value + 1, rest))
                return error_set(err, "model=%.*s: there are only cards of the model virtio", (int)rest, value + 1);
        } else if (!(value != NULL && name == 2 && memcmp(text, "id", 2) == 0)) {
            if (used + length + 2 > sizeof nic->spec)
                return error_set(err, "more than %u characters", NIC_SPEC_MAX);
            if (used != 0)
                nic->spec[used++] = ',';
            memcpy(nic->spec + used, text, length);
            used += length;
        }
        text += length + (text[length] == ',');
    }
    nic->spec[used] = 0;
    return true;
}

bool nics_add(struct nic_list *list, const char *value, struct error *err)
{
    size_t kind = strcspn(value, ",");
    if (strcmp(value, "none") == 0) {
        list->count = 0;
        return true;
    }
    if (kind == 3 && memcmp(value, "nic", 3) == 0)
        return true; /* there is a card for each network */
    if (list->count == NICS_MAX)
        return error_set(err, "more than %u network cards", NICS_MAX);
    struct nic_option *nic = &list->nic[list->count];
    const uint8_t first[MAC_SIZE] = {0x52, 0x54, 0x00, 0x12, 0x34, (uint8_t)(0x56 + list->count)};
    memcpy(nic->mac, first, sizeof first);
    if (!split(value, nic, err))
        return false;
    list->count++;
    return true;
}
