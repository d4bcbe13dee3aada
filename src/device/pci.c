/* PCI bus 0 and configuration mechanism 1. See pci.h.
 *
 * Model. Each function has 256 bytes of configuration space and two masks of the same size: bits the guest may write,
 * and bits that a written one clears. Every write goes through them byte by byte; afterwards pci.c looks at what the
 * header now says and makes the outside agree: base addresses are mapped exactly while their space is enabled in the
 * command register and their value is sensible, and the interrupt wire carries what the device drives while INTx is
 * not disabled. `mapped_at` says where a range is mapped now; it is the only record of that.
 *
 * A base address is not mapped while it is zero or reaches to the end of its space: these are the values of an
 * unset register and of one that is being sized (all ones written), and firmware sizes with decoding enabled.
 *
 * The configuration address register decodes double words only, as the 440FX does: bytes and words at CF8h..CFBh belong
 * to other chips (the PIIX3's reset control is at CF9h), so they read as ones and are dropped here.
 *
 * The expansion ROM is a seventh base address, with an enable bit of its own; it is decoded while that and the memory space
 * are enabled. (Chips that share a decoder with another base address do not exist here.)
 *
 * INTx: each PIRQ wire is the OR of the pins soldered to it, kept as a count of asserting functions.
 *
 * Not emulated: other buses and type 1 cycles (reads give ones, as a master abort does), parity and SERR#,
 * the status bits for aborts, configuration mechanism 2.
 */
#include "device/pci.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define CONFIG_ENABLE 0x80000000u
#define CONFIG_ADDRESS_BITS 0x80fffffcu

#define BAR_IO 0x1u
#define BAR_MEMORY64 0x4u
#define BAR_PREFETCHABLE 0x8u
#define NOT_MAPPED UINT64_MAX

struct pci_function_state {
    uint8_t config[PCI_CONFIG_SIZE];
    bool asserted; /* what the device drives on its pin */
};

struct pci_bar {
    enum pci_bar_kind kind;
    uint64_t size; /* 0: not implemented */
    uint64_t mapped_at;
    const struct io_ops *ops; /* NULL: device RAM */
    uint64_t ram_offset;
    void *dev;
};

struct pci_rom {
    uint8_t *bytes; /* NULL: none */
    uint64_t size;
    uint64_t mapped_at;
};

struct pci_function {
    struct pci_host *host;
    unsigned slot;
    void *dev;
    const struct pci_function_ops *ops;
    unsigned capabilities_end;
    bool on_wire; /* whether it is counted in host->asserting */
    struct pci_bar bar[PCI_BARS];
    struct pci_rom rom;
    uint8_t writable[PCI_CONFIG_SIZE];
    uint8_t clearable[PCI_CONFIG_SIZE];
    struct pci_function_state state;
};

struct pci_host_state {
    uint32_t config_address;
};

struct pci_host {
    struct memory *memory;
    struct irq_line pirq[4];
    unsigned asserting[4];
    void (*message)(void *opaque, gpa_t gpa, uint32_t data);
    void *message_opaque;
    struct pci_function *functions[PCI_SLOTS][PCI_FUNCTIONS];
    struct pci_host_state state;
};

uint8_t *pci_config(struct pci_function *function)
{
    return function->state.config;
}

uint8_t *pci_config_writable(struct pci_function *function)
{
    return function->writable;
}

uint8_t *pci_config_clearable(struct pci_function *function)
{
    return function->clearable;
}

static uint32_t get(const uint8_t *bytes, unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)bytes[i] << (8 * i);
    return value;
}

static void set(uint8_t *bytes, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

uint16_t pci_config_get16(const struct pci_function *function, unsigned offset)
{
    check(offset <= PCI_CONFIG_SIZE - 2);
    return (uint16_t)get(&function->state.config[offset], 2);
}

uint32_t pci_config_get32(const struct pci_function *function, unsigned offset)
{
    check(offset <= PCI_CONFIG_SIZE - 4);
    return get(&function->state.config[offset], 4);
}

void pci_config_set16(struct pci_function *function, unsigned offset, uint16_t value)
{
    check(offset <= PCI_CONFIG_SIZE - 2);
    set(&function->state.config[offset], 2, value);
}

void pci_config_set32(struct pci_function *function, unsigned offset, uint32_t value)
{
    check(offset <= PCI_CONFIG_SIZE - 4);
    set(&function->state.config[offset], 4, value);
}

bool pci_bus_master(const struct pci_function *function)
{
    return pci_config_get16(function, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

void pci_host_set_message_sink(struct pci_host *host, void (*message)(void *opaque, gpa_t gpa, uint32_t data),
                               void *opaque)
{
    host->message = message;
    host->message_opaque = opaque;
}

void pci_send_message(const struct pci_function *function, gpa_t gpa, uint32_t data)
{
    if (pci_bus_master(function) && function->host->message != NULL)
        function->host->message(function->host->message_opaque, gpa, data);
}

unsigned pci_route_pin(unsigned slot, unsigned pin)
{
    return (slot - 1 + pin - 1) & 3;
}

/* Makes the wire and the status bit agree with what the device drives and the guest allows. */
static void irq_update(struct pci_function *function)
{
    uint8_t *config = function->state.config;
    bool asserted = function->state.asserted && config[PCI_INTERRUPT_PIN] != 0;
    config[PCI_STATUS] =
        (uint8_t)((config[PCI_STATUS] & ~PCI_STATUS_INTERRUPT) | (asserted ? PCI_STATUS_INTERRUPT : 0));
    bool on_wire = asserted && !(pci_config_get16(function, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
    if (on_wire == function->on_wire)
        return;
    function->on_wire = on_wire;
    unsigned wire = pci_route_pin(function->slot, config[PCI_INTERRUPT_PIN]);
    unsigned before = function->host->asserting[wire];
    function->host->asserting[wire] = on_wire ? before + 1 : before - 1;
    if (before == 0 || function->host->asserting[wire] == 0)
        irq_set(&function->host->pirq[wire], on_wire);
}

void pci_irq(struct pci_function *function, bool level)
{
    function->state.asserted = level;
    irq_update(function);
}

/* Where the guest wants the range now, or NOT_MAPPED. */
static uint64_t bar_wanted(const struct pci_function *function, unsigned index)
{
    const struct pci_bar *bar = &function->bar[index];
    uint16_t command = pci_config_get16(function, PCI_COMMAND);
    uint64_t value = pci_config_get32(function, PCI_BAR0 + 4 * index);
    if (bar->kind == PCI_BAR_MEMORY64)
        value |= (uint64_t)pci_config_get32(function, PCI_BAR0 + 4 * index + 4) << 32;
    uint64_t base = value & ~(bar->size - 1);
    uint64_t limit = bar->kind == PCI_BAR_IO ? 0xffff : bar->kind == PCI_BAR_MEMORY ? UINT32_MAX : UINT64_MAX;
    if (!(command & (bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return NOT_MAPPED;
    /* A 64-bit register is sized half by half: all ones in the low half alone are no address either. */
    if (base == 0 || base > limit || limit - base < bar->size || base + (bar->size - 1) == UINT32_MAX)
        return NOT_MAPPED;
    return base;
}

static void bar_unmap(struct pci_function *function, struct pci_bar *bar)
{
    if (bar->mapped_at == NOT_MAPPED)
        return;
    if (bar->kind == PCI_BAR_IO)
        memory_unmap_device_ports(function->host->memory, (uint16_t)bar->mapped_at, (unsigned)bar->size, bar->dev);
    else
        memory_unmap_device(function->host->memory, bar->mapped_at, bar->dev);
    bar->mapped_at = NOT_MAPPED;
}

static bool bar_map(struct memory *memory, const struct pci_bar *bar, uint64_t wanted)
{
    if (bar->kind == PCI_BAR_IO)
        return memory_map_ports(memory, (uint16_t)wanted, (unsigned)bar->size, bar->ops, bar->dev, NULL);
    if (bar->ops == NULL)
        return memory_map_ram(memory, wanted, bar->size, bar->ram_offset, bar->dev, NULL);
    return memory_map_mmio(memory, wanted, bar->size, bar->ops, bar->dev, NULL);
}

static void bars_update(struct pci_function *function)
{
    struct memory *memory = function->host->memory;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &function->bar[i];
        uint64_t wanted = bar->size != 0 ? bar_wanted(function, i) : NOT_MAPPED;
        if (bar->size == 0 || wanted == bar->mapped_at)
            continue;
        bar_unmap(function, bar);
        if (wanted == NOT_MAPPED)
            continue;
        /* Full tables leave the range unmapped: the guest reads ones there. */
        if (bar_map(memory, bar, wanted))
            bar->mapped_at = wanted;
    }
}

static void rom_unmap(struct pci_function *function)
{
    struct pci_rom *rom = &function->rom;
    if (rom->mapped_at != NOT_MAPPED)
        memory_unmap_device(function->host->memory, rom->mapped_at, rom->bytes);
    rom->mapped_at = NOT_MAPPED;
}

static void rom_update(struct pci_function *function)
{
    struct pci_rom *rom = &function->rom;
    if (rom->bytes == NULL)
        return;
    uint32_t value = pci_config_get32(function, PCI_EXPANSION_ROM);
    uint64_t wanted = value & ~(rom->size - 1);
    bool enabled = value & PCI_EXPANSION_ROM_ENABLE && pci_config_get16(function, PCI_COMMAND) & PCI_COMMAND_MEMORY;
    if (!enabled || wanted == 0 || wanted + (rom->size - 1) == UINT32_MAX)
        wanted = NOT_MAPPED;
    if (wanted == rom->mapped_at)
        return;
    rom_unmap(function);
    if (wanted != NOT_MAPPED && memory_map_rom(function->host->memory, wanted, rom->size, rom->bytes, NULL))
        rom->mapped_at = wanted;
}

static struct pci_function *function_at(struct pci_host *host, unsigned slot, unsigned function)
{
    return slot < PCI_SLOTS && function < PCI_FUNCTIONS ? host->functions[slot][function] : NULL;
}

uint32_t pci_host_read(struct pci_host *host, unsigned slot, unsigned number, unsigned offset, unsigned size)
{
    struct pci_function *function = function_at(host, slot, number);
    uint32_t value;
    if (function == NULL || offset + size > PCI_CONFIG_SIZE)
        return UINT32_MAX >> (32 - 8 * size);
    if (function->ops->config_read != NULL && function->ops->config_read(function->dev, offset, size, &value))
        return value;
    return get(&function->state.config[offset], size);
}

void pci_host_write(struct pci_host *host, unsigned slot, unsigned number, unsigned offset, unsigned size,
                    uint32_t value)
{
    struct pci_function *function = function_at(host, slot, number);
    if (function == NULL || offset + size > PCI_CONFIG_SIZE)
        return;
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i)), *config = &function->state.config[offset + i];
        uint8_t writable = function->writable[offset + i], clearable = function->clearable[offset + i];
        *config = (uint8_t)((*config & ~writable) | (byte & writable));
        *config &= (uint8_t) ~(byte & clearable);
    }
    if (offset < PCI_EXPANSION_ROM + 4 && offset + size > PCI_COMMAND) {
        bars_update(function);
        rom_update(function);
        irq_update(function);
    }
    if (function->ops->config_written != NULL)
        function->ops->config_written(function->dev, offset, size);
}

static uint64_t address_read(void *dev, uint64_t offset, unsigned size)
{
    struct pci_host *host = dev;
    return offset == 0 && size == 4 ? host->state.config_address : UINT32_MAX;
}

static void address_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_host *host = dev;
    if (offset == 0 && size == 4)
        host->state.config_address = (uint32_t)value & CONFIG_ADDRESS_BITS;
}

const struct io_ops pci_address_ops = {
    .read = address_read, .write = address_write, .name = "PCI configuration address"};

/* A data access is one of the addressed function if bus 0 is addressed; it stays within the double word. */
static bool data_hits(const struct pci_host *host, uint64_t offset, unsigned size)
{
    uint32_t address = host->state.config_address;
    return address & CONFIG_ENABLE && (address >> 16 & 0xff) == 0 && offset + size <= 4;
}

static uint64_t data_read(void *dev, uint64_t offset, unsigned size)
{
    struct pci_host *host = dev;
    uint32_t address = host->state.config_address;
    if (!data_hits(host, offset, size))
        return UINT32_MAX;
    return pci_host_read(host, address >> 11 & 31, address >> 8 & 7, (address & 0xfc) + (unsigned)offset, size);
}

static void data_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_host *host = dev;
    uint32_t address = host->state.config_address;
    if (data_hits(host, offset, size))
        pci_host_write(host, address >> 11 & 31, address >> 8 & 7, (address & 0xfc) + (unsigned)offset, size,
                       (uint32_t)value);
}

const struct io_ops pci_data_ops = {.read = data_read, .write = data_write, .name = "PCI configuration data"};

struct pci_host *pci_host_create(struct memory *memory)
{
    struct pci_host *host = calloc(1, sizeof *host);
    if (host == NULL)
        return NULL;
    host->memory = memory;
    return host;
}

void pci_host_wire(struct pci_host *host, const struct irq_line pirq[4])
{
    memcpy(host->pirq, pirq, sizeof host->pirq);
}

void pci_host_destroy(struct pci_host *host)
{
    if (host == NULL)
        return;
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned number = 0; number < PCI_FUNCTIONS; number++) {
            struct pci_function *function = host->functions[slot][number];
            if (function == NULL)
                continue;
            for (unsigned i = 0; i < PCI_BARS; i++)
                if (function->bar[i].size != 0)
                    bar_unmap(function, &function->bar[i]);
            rom_unmap(function);
            free(function->rom.bytes);
            free(function);
        }
    }
    free(host);
}

static void function_reset(struct pci_function *function)
{
    struct pci_function_state *state = &function->state;
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        state->config[i] &= (uint8_t) ~(function->writable[i] | function->clearable[i]);
    state->asserted = false;
    bars_update(function);
    rom_update(function);
    irq_update(function);
    if (function->ops->reset != NULL)
        function->ops->reset(function->dev);
}

void pci_host_reset(struct pci_host *host)
{
    host->state = (struct pci_host_state){0};
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        for (unsigned number = 0; number < PCI_FUNCTIONS; number++)
            if (host->functions[slot][number] != NULL)
                function_reset(host->functions[slot][number]);
}

unsigned pci_free_slot(const struct pci_host *host, unsigned first)
{
    for (unsigned slot = first; slot < PCI_SLOTS; slot++) {
        bool taken = false;
        for (unsigned number = 0; number < PCI_FUNCTIONS; number++)
            taken |= host->functions[slot][number] != NULL;
        if (!taken)
            return slot;
    }
    return PCI_SLOTS;
}

static void header_init(struct pci_function *function, const struct pci_function_desc *desc)
{
    uint8_t *config = function->state.config, *writable = function->writable, *clearable = function->clearable;
    set(&config[PCI_VENDOR_ID], 2, desc->vendor_id);
    set(&config[PCI_DEVICE_ID], 2, desc->device_id);
    set(&config[PCI_STATUS], 2, PCI_STATUS_DEVSEL_MEDIUM);
    config[PCI_REVISION] = desc->revision;
    set(&config[PCI_CLASS], 3, desc->class_code);
    set(&config[PCI_SUBSYSTEM_VENDOR], 2, desc->subsystem_vendor_id);
    set(&config[PCI_SUBSYSTEM_ID], 2, desc->subsystem_id);
    config[PCI_INTERRUPT_PIN] = desc->interrupt_pin;
    set(&writable[PCI_COMMAND], 2,
        PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
            PCI_COMMAND_INTX_DISABLE);
    set(&clearable[PCI_STATUS], 2, 0xf900);
    writable[PCI_CACHE_LINE] = 0xff;
    writable[PCI_LATENCY] = 0xff;
    writable[PCI_INTERRUPT_LINE] = desc->interrupt_pin != 0 ? 0xff : 0;
}

struct pci_function *pci_add_function(struct pci_host *host, unsigned slot, unsigned number,
                                      const struct pci_function_desc *desc, void *dev, struct error *err)
{
    static const struct pci_function_ops no_ops;
    check(desc->interrupt_pin <= 4);
    if (slot >= PCI_SLOTS || number >= PCI_FUNCTIONS) {
        error_set(err, "PCI slot %u.%u does not exist (0.0 to 31.7 do)", slot, number);
        return NULL;
    }
    if (host->functions[slot][number] != NULL) {
        error_set(err, "PCI slot %u.%u is taken", slot, number);
        return NULL;
    }
    struct pci_function *function = calloc(1, sizeof *function);
    if (function == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    *function = (struct pci_function){.host = host,
                                      .slot = slot,
                                      .dev = dev,
                                      .ops = desc->ops != NULL ? desc->ops : &no_ops,
                                      .rom.mapped_at = NOT_MAPPED,
                                      .capabilities_end = 0x40};
    header_init(function, desc);
    host->functions[slot][number] = function;
    bool several = false;
    for (unsigned i = 1; i < PCI_FUNCTIONS; i++)
        several |= host->functions[slot][i] != NULL;
    for (unsigned i = 0; several && i < PCI_FUNCTIONS; i++)
        if (host->functions[slot][i] != NULL)
            host->functions[slot][i]->state.config[PCI_HEADER_TYPE] |= PCI_HEADER_MULTIFUNCTION;
    return function;
}

void pci_set_bar(struct pci_function *function, unsigned index, enum pci_bar_kind kind, bool prefetchable,
                 uint64_t size, const struct io_ops *ops, void *dev)
{
    bool wide = kind == PCI_BAR_MEMORY64;
    check(index + wide < PCI_BARS && function->bar[index].size == 0);
    check(size != 0 && (size & (size - 1)) == 0);
    check(kind == PCI_BAR_IO ? size >= 4 && size <= 0x8000 : size >= PAGE_SIZE);
    check(wide || size <= 0x80000000u);
    function->bar[index] =
        (struct pci_bar){.kind = kind, .size = size, .mapped_at = NOT_MAPPED, .ops = ops, .dev = dev};
    unsigned offset = PCI_BAR0 + 4 * index;
    uint64_t mask = ~(size - 1);
    set(&function->writable[offset], 4, (uint32_t)mask);
    if (wide)
        set(&function->writable[offset + 4], 4, (uint32_t)(mask >> 32));
    uint32_t type = kind == PCI_BAR_IO ? BAR_IO : (wide ? BAR_MEMORY64 : 0) | (prefetchable ? BAR_PREFETCHABLE : 0);
    pci_config_set32(function, offset, type);
}

void pci_set_bar_ram(struct pci_function *function, unsigned index, enum pci_bar_kind kind, bool prefetchable, uint64_t size,
                     uint64_t ram_offset, void *dev)
{
    check(kind != PCI_BAR_IO);
    pci_set_bar(function, index, kind, prefetchable, size, NULL, dev);
    function->bar[index].ram_offset = ram_offset;
}

bool pci_set_rom(struct pci_function *function, const uint8_t *bytes, size_t size, struct error *err)
{
    struct pci_rom *rom = &function->rom;
    check(rom->bytes == NULL);
    if (size == 0 || size > PCI_ROM_MAX)
        return error_set(err, "an expansion ROM of %zu bytes is not possible (at most %llu)", size, PCI_ROM_MAX);
    uint64_t room = PAGE_SIZE;
    while (room < size)
        room *= 2;
    rom->bytes = aligned_alloc(PAGE_SIZE, room);
    if (rom->bytes == NULL)
        return error_set(err, "out of memory");
    rom->size = room;
    memcpy(rom->bytes, bytes, size);
    memset(rom->bytes + size, 0xff, room - size);
    set(&function->writable[PCI_EXPANSION_ROM], 4, (uint32_t) ~(room - 1) | PCI_EXPANSION_ROM_ENABLE);
    return true;
}

unsigned pci_add_capability(struct pci_function *function, uint8_t id, unsigned length)
{
    uint8_t *config = function->state.config;
    unsigned offset = function->capabilities_end;
    check(length >= 2 && offset + length <= PCI_CONFIG_SIZE);
    function->capabilities_end = (offset + length + 3) & ~3u;
    config[offset] = id;
    config[offset + 1] = 0;
    /* At the end of the list, so that the guest meets capabilities in the order of their making. */
    unsigned link = PCI_CAPABILITIES;
    while (config[link] != 0)
        link = config[link] + 1u;
    config[link] = (uint8_t)offset;
    config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    return offset;
}
