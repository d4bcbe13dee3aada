/* MSI and MSI-X. See pci_msi.h.
 *
 * Model. An interrupt is a memory write that the function makes: four bytes of data at an address, both of which the guest
 * chose. pci_send_message() gives it to the board. A masked interrupt sets its pending bit instead, and is sent when the mask
 * goes. While the capability is disabled nothing becomes pending, since the device uses its pin then.
 *
 * The range of MSI-X has the table in its first half and the pending bits at the start of its second half. It is accessed by
 * double words and quad words, naturally aligned, as the specification demands; other writes are dropped, and other reads give
 * the bytes that lie there. The pending bits are read-only.
 *
 * Not emulated: MSI's extended data and the steering tags of later PCI Express specifications.
 */
#include "device/pci_msi.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define CAPABILITY_MSI 0x05
#define CAPABILITY_MSIX 0x11

/* MSI, with 64-bit address and mask bits. */
#define MSI_CONTROL 2
#define MSI_CONTROL_ENABLE 0x0001u
#define MSI_CONTROL_CAPABLE_SHIFT 1
#define MSI_CONTROL_ENABLED_SHIFT 4
#define MSI_CONTROL_64BIT 0x0080u
#define MSI_CONTROL_MASKING 0x0100u
#define MSI_ADDRESS 4
#define MSI_DATA 12
#define MSI_MASK 16
#define MSI_PENDING 20
#define MSI_LENGTH 24

/* MSI-X. */
#define MSIX_CONTROL 2
#define MSIX_CONTROL_MASK 0x4000u
#define MSIX_CONTROL_ENABLE 0x8000u
#define MSIX_TABLE 4
#define MSIX_PENDING 8
#define MSIX_LENGTH 12
#define MSIX_ENTRY_SIZE 16u
#define MSIX_ENTRY_MASKED 0x1u

enum { ENTRY_ADDRESS_LOW, ENTRY_ADDRESS_HIGH, ENTRY_DATA, ENTRY_CONTROL, ENTRY_WORDS };

struct msix {
    struct pci_function *function;
    unsigned capability; /* offset */
    unsigned vectors;
    unsigned pending_offset;                  /* of the pending bits in the range */
    uint32_t pending[MSIX_VECTORS_MAX / 32];
    uint32_t table[][ENTRY_WORDS];
};

/* ---- MSI ---- */

void msi_init(struct msi *msi, struct pci_function *function, unsigned vectors)
{
    check(vectors != 0 && vectors <= MSI_VECTORS_MAX && (vectors & (vectors - 1)) == 0);
    unsigned at = pci_add_capability(function, CAPABILITY_MSI, MSI_LENGTH);
    *msi = (struct msi){.function = function, .capability = at, .vectors_log2 = (unsigned)__builtin_ctz(vectors)};
    uint8_t *writable = pci_config_writable(function);
    pci_config_set16(function, at + MSI_CONTROL,
                     (uint16_t)(MSI_CONTROL_64BIT | MSI_CONTROL_MASKING | msi->vectors_log2 << MSI_CONTROL_CAPABLE_SHIFT));
    writable[at + MSI_CONTROL] = MSI_CONTROL_ENABLE | 7u << MSI_CONTROL_ENABLED_SHIFT;
    memset(&writable[at + MSI_ADDRESS], 0xff, 8);
    writable[at + MSI_ADDRESS] = 0xfc;
    memset(&writable[at + MSI_DATA], 0xff, 2);
    uint32_t mask = (uint32_t)((1ull << vectors) - 1);
    for (unsigned i = 0; i < 4; i++)
        writable[at + MSI_MASK + i] = (uint8_t)(mask >> (8 * i));
}

bool msi_enabled(const struct msi *msi)
{
    return pci_config_get16(msi->function, msi->capability + MSI_CONTROL) & MSI_CONTROL_ENABLE;
}

static unsigned msi_given_log2(const struct msi *msi)
{
    unsigned given = pci_config_get16(msi->function, msi->capability + MSI_CONTROL) >> MSI_CONTROL_ENABLED_SHIFT & 7;
    return given < msi->vectors_log2 ? given : msi->vectors_log2;
}

static void msi_send(struct msi *msi, unsigned vector)
{
    const struct pci_function *function = msi->function;
    uint64_t address = pci_config_get32(function, msi->capability + MSI_ADDRESS) |
                       (uint64_t)pci_config_get32(function, msi->capability + MSI_ADDRESS + 4) << 32;
    uint32_t data = pci_config_get16(function, msi->capability + MSI_DATA), own = (1u << msi_given_log2(msi)) - 1;
    pci_send_message(function, address, (data & ~own) | vector);
}

bool msi_notify(struct msi *msi, unsigned vector)
{
    check(vector < 1u << msi->vectors_log2);
    if (!msi_enabled(msi))
        return false;
    vector &= (1u << msi_given_log2(msi)) - 1;
    uint32_t pending = pci_config_get32(msi->function, msi->capability + MSI_PENDING);
    if (pci_config_get32(msi->function, msi->capability + MSI_MASK) >> vector & 1)
        pci_config_set32(msi->function, msi->capability + MSI_PENDING, pending | 1u << vector);
    else
        msi_send(msi, vector);
    return true;
}

void msi_config_written(struct msi *msi, unsigned offset, unsigned size)
{
    if (offset + size <= msi->capability || offset >= msi->capability + MSI_LENGTH || !msi_enabled(msi))
        return;
    uint32_t pending = pci_config_get32(msi->function, msi->capability + MSI_PENDING);
    uint32_t mask = pci_config_get32(msi->function, msi->capability + MSI_MASK);
    pci_config_set32(msi->function, msi->capability + MSI_PENDING, pending & mask);
    for (pending &= ~mask; pending != 0; pending &= pending - 1)
        msi_send(msi, (unsigned)__builtin_ctz(pending));
}

void msi_reset(struct msi *msi)
{
    pci_config_set32(msi->function, msi->capability + MSI_PENDING, 0);
}

/* ---- MSI-X ---- */

static uint16_t msix_control(const struct msix *msix)
{
    return pci_config_get16(msix->function, msix->capability + MSIX_CONTROL);
}

bool msix_enabled(const struct msix *msix)
{
    return msix_control(msix) & MSIX_CONTROL_ENABLE;
}

static bool msix_masked(const struct msix *msix, unsigned vector)
{
    return msix_control(msix) & MSIX_CONTROL_MASK || msix->table[vector][ENTRY_CONTROL] & MSIX_ENTRY_MASKED;
}

static void msix_send(struct msix *msix, unsigned vector)
{
    const uint32_t *entry = msix->table[vector];
    pci_send_message(msix->function, (uint64_t)entry[ENTRY_ADDRESS_HIGH] << 32 | entry[ENTRY_ADDRESS_LOW],
                     entry[ENTRY_DATA]);
}

bool msix_notify(struct msix *msix, unsigned vector)
{
    check(vector < msix->vectors);
    if (!msix_enabled(msix))
        return false;
    if (msix_masked(msix, vector))
        msix->pending[vector / 32] |= 1u << vector % 32;
    else
        msix_send(msix, vector);
    return true;
}

/* Sends what is pending and not masked any more. */
static void msix_catch_up(struct msix *msix, unsigned first, unsigned count)
{
    if (!msix_enabled(msix))
        return;
    for (unsigned vector = first; vector < first + count; vector++) {
        if (!(msix->pending[vector / 32] >> vector % 32 & 1) || msix_masked(msix, vector))
            continue;
        msix->pending[vector / 32] &= ~(1u << vector % 32);
        msix_send(msix, vector);
    }
}

void msix_config_written(struct msix *msix, unsigned offset, unsigned size)
{
    if (offset + size > msix->capability + MSIX_CONTROL && offset < msix->capability + MSIX_CONTROL + 2)
        msix_catch_up(msix, 0, msix->vectors);
}

void msix_reset(struct msix *msix)
{
    memset(msix->pending, 0, sizeof msix->pending);
    for (unsigned vector = 0; vector < msix->vectors; vector++) {
        memset(msix->table[vector], 0, sizeof msix->table[vector]);
        msix->table[vector][ENTRY_CONTROL] = MSIX_ENTRY_MASKED;
    }
}

static uint32_t msix_read32(const struct msix *msix, unsigned offset)
{
    if (offset < msix->vectors * MSIX_ENTRY_SIZE)
        return msix->table[offset / MSIX_ENTRY_SIZE][offset / 4 % ENTRY_WORDS];
    if (offset >= msix->pending_offset && offset - msix->pending_offset < (msix->vectors + 63) / 64 * 8)
        return msix->pending[(offset - msix->pending_offset) / 4];
    return 0;
}

static uint64_t msix_read(void *dev, uint64_t offset, unsigned size)
{
    const struct msix *msix = dev;
    unsigned at = (unsigned)offset & ~3u, in = (unsigned)offset & 3;
    uint64_t value = msix_read32(msix, at);
    if (in + size > 4)
        value |= (uint64_t)msix_read32(msix, at + 4) << 32;
    return value >> (8 * in);
}

static void msix_write32(struct msix *msix, unsigned offset, uint32_t value)
{
    if (offset >= msix->vectors * MSIX_ENTRY_SIZE)
        return;
    unsigned vector = offset / MSIX_ENTRY_SIZE, word = offset / 4 % ENTRY_WORDS;
    if (word == ENTRY_ADDRESS_LOW)
        value &= ~3u;
    if (word == ENTRY_CONTROL)
        value &= MSIX_ENTRY_MASKED;
    msix->table[vector][word] = value;
    if (word == ENTRY_CONTROL)
        msix_catch_up(msix, vector, 1);
}

static void msix_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct msix *msix = dev;
    if (size < 4 || offset % size != 0)
        return;
    msix_write32(msix, (unsigned)offset, (uint32_t)value);
    if (size == 8)
        msix_write32(msix, (unsigned)offset + 4, (uint32_t)(value >> 32));
}

static const struct io_ops msix_ops = {.read = msix_read, .write = msix_write, .name = "MSI-X table"};

struct msix *msix_create(struct pci_function *function, unsigned bar, unsigned vectors)
{
    check(vectors != 0 && vectors <= MSIX_VECTORS_MAX && bar < PCI_BARS);
    struct msix *msix = calloc(1, sizeof *msix + vectors * sizeof msix->table[0]);
    if (msix == NULL)
        return NULL;
    msix->function = function;
    msix->vectors = vectors;
    msix->pending_offset = PAGE_SIZE / 2;
    while (msix->pending_offset < vectors * MSIX_ENTRY_SIZE)
        msix->pending_offset *= 2;
    msix->capability = pci_add_capability(function, CAPABILITY_MSIX, MSIX_LENGTH);
    pci_config_set16(function, msix->capability + MSIX_CONTROL, (uint16_t)(vectors - 1));
    pci_config_set32(function, msix->capability + MSIX_TABLE, bar);
    pci_config_set32(function, msix->capability + MSIX_PENDING, msix->pending_offset | bar);
    pci_config_writable(function)[msix->capability + MSIX_CONTROL + 1] = (MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK) >> 8;
    pci_set_bar(function, bar, PCI_BAR_MEMORY, false, 2 * msix->pending_offset, &msix_ops, msix);
    msix_reset(msix);
    return msix;
}

void msix_destroy(struct msix *msix)
{
    free(msix);
}
