/* libFuzzer entry for virtio devices: no ring, however broken, and no order of register accesses may break the monitor.
 *
 * A machine with one device of each type. A driver that does it right, up to DRIVER_OK, starts each of them with the features that
 * the input asks for; then the input is a sequence of steps of 12 bytes:
 *
 *     byte 0     what to do (enum step_kind, modulo), byte 1 to which device (modulo)
 *     byte 2, 3  offset, index or flags, little endian
 *     byte 4-11  value, little endian
 *
 * Rings and buffers lie in one small window, so that wild bytes hit descriptors, rings, headers of requests and indirect tables.
 * The network and the console's backend are the harness itself, which takes and gives as the input says. Besides sanitizer
 * reports the harness looks for timers that never let the clock go on.
 *
 * Built with: clang -fsanitize=fuzzer,address,undefined virtio_fuzz.c, the device, host, memory and base libraries; the
 * functions of host/net.h that the card calls are this file's. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/timer.h"
#include "base/types.h"
#include "device/pci.h"
#include "device/virtio/virtio_blk.h"
#include "device/virtio/virtio_console.h"
#include "device/virtio/virtio_net.h"
#include "device/virtio/virtio_rng.h"
#include "host/block.h"
#include "memory/memory.h"

#define STEPS_MAX 512u
#define STEP_SIZE 12u
#define RUNS_MAX 256u
#define FIRST_SLOT 3u
#define QUEUES 3u
#define QUEUE_SIZE 8u
#define RAM (1 * MiB)
#define WINDOW 0x20000u  /* of the rings: 1000h a queue, 4000h a device */
#define BUFFERS 0x30000u /* and of what requests point to */
#define DISK_SIZE (64 * KiB)
#define BARS_GPA 0xe0000000u
#define BARS_STRIDE 0x10000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NET, CONSOLE, RNG, BLK, DEVICES };
enum step_kind { STEP_RAM, STEP_DESC, STEP_OFFER, STEP_NOTIFY, STEP_READ, STEP_WRITE, STEP_CONFIG, STEP_POKE, STEP_ADVANCE,
                 STEP_RESET, STEP_START, STEP_KINDS };

struct net {
    struct net_frontend frontend;
    size_t room; /* frames that it takes */
    unsigned sum;
};

struct machine {
    uint64_t now_ns, random;
    struct timer_queue queue;
    struct memory *memory;
    struct pci_host *host;
    struct virtio_net *net_card;
    struct virtio_console *console;
    struct virtio_rng *rng;
    struct virtio_blk *blk;
    struct block *block;
    struct net net;
    struct chardev chardev;
    size_t chardev_room;
    pthread_mutex_t lock;
    uint16_t avail[DEVICES][QUEUES];
};

/* ---- the network ---- */

bool net_connect(struct net *net, const struct net_frontend *frontend, struct error *err)
{
    net->frontend = *frontend;
    return true;
}

void net_disconnect(struct net *net)
{
    (void)net;
}

bool net_send(struct net *net, const struct net_header *header, const struct iovec *pieces, unsigned count, size_t skip,
              size_t size)
{
    uint64_t total = 0;
    if (net->room == 0)
        return false;
    net->room--;
    for (unsigned i = 0; i < count; i++)
        total += pieces[i].iov_len;
    if (total != skip + size || size > NET_FRAME_MAX)
        abort(); /* the contract */
    for (unsigned i = 0; i < count; i++)
        net->sum += *(const uint8_t *)pieces[i].iov_base;
    return true;
}

void net_accept(struct net *net)
{
    (void)net;
}

unsigned net_offloads(const struct net *net)
{
    return NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
}

void net_set_offloads(struct net *net, unsigned offloads)
{
    (void)net;
}

/* ---- the console's backend ---- */

static size_t chardev_take(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct machine *machine = container_of(dev, struct machine, chardev);
    size_t taken = n < machine->chardev_room ? n : machine->chardev_room;
    machine->chardev_room -= taken;
    return taken;
}

static const struct chardev_ops chardev_ops = {.write = chardev_take, .name = "fuzz"};

/* ---- the machine ---- */

static uint64_t machine_now(void *opaque)
{
    return ((struct machine *)opaque)->now_ns;
}

static uint64_t machine_random(void *opaque)
{
    return ++((struct machine *)opaque)->random;
}

static void machine_written(void *opaque, gpa_t gpa, unsigned size)
{
    if (size == 0 || (gpa & PAGE_OFFSET_MASK) + size > PAGE_SIZE || gpa + size > RAM)
        abort(); /* the contract */
}

static struct block *open_disk(struct machine *machine)
{
    static int fd = -1;
    char path[32];
    if (fd < 0) {
        fd = memfd_create("disk", 0);
        if (fd < 0 || ftruncate(fd, DISK_SIZE) != 0)
            abort();
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct block_options options = {.raw = true, .queue = &machine->queue};
    struct block *block = block_open(path, &options, NULL);
    if (block == NULL)
        abort();
    return block;
}

static void machine_create(struct machine *machine)
{
    *machine = (struct machine){.chardev = {.ops = &chardev_ops}, .net = {.room = 8}, .chardev_room = 64};
    pthread_mutex_init(&machine->lock, NULL);
    timer_queue_init(&machine->queue, machine_now, NULL, machine);
    machine->memory = memory_create(RAM, NULL, NULL);
    memory_set_watcher(machine->memory, machine_written, machine);
    for (unsigned i = 0; i < 4; i++)
        memory_watch(machine->memory, (WINDOW >> PAGE_SHIFT) + 5 * i, PAGE_CODE);
    machine->host = pci_host_create(machine->memory);
    struct virtio_bus bus = {
        .pci = machine->host, .slot = FIRST_SLOT, .memory = machine->memory, .queue = &machine->queue};
    const struct virtio_net_config net = {.net = &machine->net, .mac = {0x52, 0x54, 0, 0, 0, 1}, .lock = &machine->lock};
    machine->net_card = virtio_net_create(&bus, &net, NULL);
    bus.slot = FIRST_SLOT + CONSOLE;
    machine->console = virtio_console_create(&bus, &machine->chardev, NULL);
    bus.slot = FIRST_SLOT + RNG;
    machine->rng = virtio_rng_create(&bus, machine_random, machine, NULL);
    bus.slot = FIRST_SLOT + BLK;
    machine->block = open_disk(machine);
    machine->blk = virtio_blk_create(&bus, machine->block, "fuzz", NULL);
    pci_host_reset(machine->host);
}

static void machine_destroy(struct machine *machine)
{
    virtio_net_unplug(machine->net_card);
    pci_host_destroy(machine->host);
    virtio_net_destroy(machine->net_card);
    virtio_console_destroy(machine->console);
    virtio_rng_destroy(machine->rng);
    virtio_blk_destroy(machine->blk);
    block_close(machine->block);
    memory_destroy(machine->memory);
}

static void settle(struct machine *machine)
{
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        if (timer_queue_next(&machine->queue) > machine->now_ns)
            return;
        timer_queue_run(&machine->queue);
    }
    abort(); /* a timer that never lets go of the present */
}

/* ---- the driver ---- */

static gpa_t registers(unsigned device)
{
    return BARS_GPA + device * BARS_STRIDE;
}

static gpa_t ring(unsigned device, unsigned queue)
{
    return WINDOW + device * 0x4000 + queue * 0x1000;
}

static void reg_write(struct machine *machine, unsigned device, unsigned offset, unsigned size, uint64_t value)
{
    memory_mmio_write(machine->memory, registers(device) + offset, size, value);
}

/* As a good driver would, but for features that are not offered. */
static void start(struct machine *machine, unsigned device, uint64_t features, unsigned queue_size)
{
    pci_host_write(machine->host, FIRST_SLOT + device, 0, PCI_BAR0 + 4, 4, (uint32_t)registers(device) + 0x8000);
    pci_host_write(machine->host, FIRST_SLOT + device, 0, PCI_BAR0 + 16, 4, (uint32_t)registers(device));
    pci_host_write(machine->host, FIRST_SLOT + device, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    reg_write(machine, device, 20, 1, 0);
    reg_write(machine, device, 20, 1, 3);
    for (unsigned i = 0; i < 2; i++) {
        reg_write(machine, device, 0, 4, i);
        uint64_t offered = memory_mmio_read(machine->memory, registers(device) + 4, 4);
        reg_write(machine, device, 8, 4, i);
        reg_write(machine, device, 12, 4, i == 0 ? offered & features : offered);
    }
    reg_write(machine, device, 20, 1, 11);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        reg_write(machine, device, 22, 2, queue);
        reg_write(machine, device, 24, 2, queue_size);
        reg_write(machine, device, 32, 8, ring(device, queue));
        reg_write(machine, device, 40, 8, ring(device, queue) + 0x400);
        reg_write(machine, device, 48, 8, ring(device, queue) + 0x800);
        reg_write(machine, device, 28, 2, 1);
        machine->avail[device][queue] = 0;
        memory_write(machine->memory, ring(device, queue) + 0x402, &machine->avail[device][queue], 2);
    }
    reg_write(machine, device, 20, 1, 15);
}

static void poke(struct machine *machine, unsigned device, unsigned what, uint64_t value)
{
    static uint8_t bytes[NET_FRAME_MAX];
    if (device == NET && what & 1) {
        struct net_header header = {.gso_type = (uint8_t)(value & 1)};
        size_t size = value >> 8 & 0xffff;
        bytes[0] = (uint8_t)(value >> 24);
        machine->net.frontend.receive(machine->net.frontend.opaque, &header, bytes, size);
        if (what & 2)
            machine->net.frontend.received(machine->net.frontend.opaque);
    } else if (device == NET) {
        machine->net.room = value & 31;
        machine->net.frontend.sent(machine->net.frontend.opaque);
    } else if (device == CONSOLE && what & 1) {
        machine->chardev_room = value & 0xffff;
        chardev_notify_writable(&machine->chardev);
    } else if (device == CONSOLE) {
        size_t n = chardev_can_receive(&machine->chardev), wanted = value & 0xff;
        if (n != 0 && wanted != 0)
            chardev_receive(&machine->chardev, bytes, n < wanted ? n : wanted);
    }
}

/* ---- steps ---- */

struct step {
    unsigned device;
    uint16_t at;
    uint64_t value;
};

static void step_access(struct machine *machine, const struct step *step, bool write)
{
    unsigned size = 1u << (step->at >> 14);
    unsigned offset = (step->at & 0x3fff) | (step->value >> 60 == 15 ? 0x8000 : 0);
    gpa_t gpa = registers(step->device) + (offset & ~(size - 1));
    if (write)
        memory_mmio_write(machine->memory, gpa, size, step->value);
    else
        (void)memory_mmio_read(machine->memory, gpa, size);
}

static void step_config(struct machine *machine, const struct step *step)
{
    unsigned size = 1u << (step->at >> 8) % 3, offset = step->at & 0xff & ~(size - 1);
    if (step->at & 0x8000)
        (void)pci_host_read(machine->host, FIRST_SLOT + step->device, 0, offset, size);
    else
        pci_host_write(machine->host, FIRST_SLOT + step->device, 0, offset, size, (uint32_t)step->value);
}

/* A descriptor of the queue's table, or of the indirect tables among the buffers, most of them sensible. */
static void step_desc(struct machine *machine, const struct step *step)
{
    unsigned queue = (step->at & 3) % QUEUES, index = step->at >> 2 & 7;
    uint64_t gpa = BUFFERS + (step->value & 0x7fff);
    uint32_t size = (uint32_t)(step->value >> 16 & 0x3ff);
    if (step->at & 0x4000)
        gpa = step->value;
    if (step->at & 0x2000)
        size = (uint32_t)(step->value >> 8);
    uint16_t flags = step->at >> 5 & 7, next = step->at >> 8 & 15;
    if (flags & 4 && !(step->at & 0x6000)) { /* an indirect table that may be one */
        gpa &= ~15ull;
        size = (size & 7) * 16;
    }
    uint8_t bytes[16];
    memcpy(bytes, &gpa, 8);
    memcpy(bytes + 8, &size, 4);
    memcpy(bytes + 12, &flags, 2);
    memcpy(bytes + 14, &next, 2);
    gpa_t table = step->at & 0x8000 ? BUFFERS + (step->value >> 32 & 0x7ff0) : ring(step->device, queue);
    memory_write(machine->memory, table + 16 * index, bytes, sizeof bytes);
}

static void step_offer(struct machine *machine, const struct step *step)
{
    unsigned queue = (step->at & 3) % QUEUES;
    uint16_t *avail = &machine->avail[step->device][queue], head = step->at >> 2 & 7, ahead = step->value & 0xffff;
    memory_write(machine->memory, ring(step->device, queue) + 0x404 + 2 * (*avail % QUEUE_SIZE), &head, 2);
    *avail = (uint16_t)(*avail + (step->at & 0x8000 ? ahead : 1));
    memory_write(machine->memory, ring(step->device, queue) + 0x402, avail, 2);
}

static void run_step(struct machine *machine, enum step_kind kind, const struct step *step)
{
    uint64_t value = step->value;
    switch (kind) {
    case STEP_RAM: memory_write(machine->memory, WINDOW + step->at * 3u % (BUFFERS + 0x8000 - WINDOW), &value, 8); break;
    case STEP_DESC: step_desc(machine, step); break;
    case STEP_OFFER: step_offer(machine, step); break;
    case STEP_NOTIFY: reg_write(machine, step->device, 0x3000, 2, step->at & 3); break;
    case STEP_READ: step_access(machine, step, false); break;
    case STEP_WRITE: step_access(machine, step, true); break;
    case STEP_CONFIG: step_config(machine, step); break;
    case STEP_POKE: poke(machine, step->device, step->at, value); break;
    case STEP_ADVANCE: machine->now_ns += value & 0xffffff; break;
    case STEP_RESET: pci_host_reset(machine->host); break;
    default: start(machine, step->device, value, step->at & 1 ? QUEUE_SIZE : 1u << (step->at >> 1 & 3)); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct machine machine;
    machine_create(&machine);
    for (unsigned device = 0; device < DEVICES; device++)
        start(&machine, device, size > device ? (data[device] & 1 ? ~0ull : ~(1ull << 29 | 1ull << 15)) : ~0ull, QUEUE_SIZE);
    for (size_t i = DEVICES; i + STEP_SIZE <= size && i < STEPS_MAX * STEP_SIZE; i += STEP_SIZE) {
        struct step step = {.device = data[i + 1] % DEVICES};
        memcpy(&step.at, data + i + 2, 2);
        memcpy(&step.value, data + i + 4, 8);
        run_step(&machine, data[i] % STEP_KINDS, &step);
        settle(&machine);
    }
    machine_destroy(&machine);
    return 0;
}
