/* libFuzzer entry for the IDE function: disks and CD-ROM drives, with bus master and guest memory, as a hostile driver
 * uses them.
 *
 * The primary channel has a disk and a CD-ROM drive, the secondary one a disk that may not be written, and an empty
 * drive. The first byte of the input says whether images have threads (bit 0) or go by the guest's clock. Then come
 * steps of 8 bytes:
 *
 *     byte 0     what to do (enum step_kind, modulo) in bits 3..0; the channel in bit 4
 *     byte 1     register, size, command or opcode
 *     byte 2, 3  count, little endian
 *     byte 4-7   value, little endian
 *
 * Beside single accesses there are steps that make whole commands, packets and descriptor tables, most of them
 * sensible, so that the states behind them are reached. Sanitizers and check() are the oracle, and that time goes on.
 *
 * Built with: clang -fsanitize=fuzzer,address,undefined ide_fuzz.c, the device, host, memory and base libraries. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/timer.h"
#include "base/types.h"
#include "device/ide.h"
#include "device/pci.h"
#include "host/block.h"
#include "host/loop.h"
#include "memory/memory.h"

#define STEPS_MAX 300u
#define STEP_SIZE 8u
#define RUNS_MAX 64u
#define RAM (1 * MiB)
#define TABLES 0x10000u  /* descriptor tables, 64 KiB */
#define BUFFERS 0x20000u /* 256 KiB that they name */
#define BUFFERS_END 0x60000u
#define DISK_SIZE (300 * KiB + 512)
#define CD_SIZE (200 * KiB + 100)
#define SLOT 1u
#define BUS_MASTER 0xc000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum step_kind {
    STEP_READ,
    STEP_WRITE,
    STEP_COMMAND,
    STEP_PACKET,
    STEP_DATA,
    STEP_TABLE,
    STEP_START,
    STEP_BM,
    STEP_RAM,
    STEP_ADVANCE,
    STEP_CONTROL,
    STEP_CONFIG,
    STEP_MEDIUM,
    STEP_RESET,
    STEP_KINDS
};

struct machine {
    bool threads;
    uint64_t now_ns;
    struct timer_queue queue;
    struct loop *loop;
    struct memory *memory;
    struct pci_host *host;
    struct ide *ide;
    struct block *disk, *cd, *read_only, *other_cd;
};

static uint64_t machine_now(void *opaque)
{
    return ((struct machine *)opaque)->now_ns;
}

static void machine_written(void *opaque, gpa_t gpa, unsigned size)
{
    if (size == 0 || (gpa & PAGE_OFFSET_MASK) + size > PAGE_SIZE || gpa + size > RAM)
        abort(); /* the contract */
}

static struct block *image(struct machine *machine, unsigned n, size_t size, bool read_only)
{
    static int fds[4] = {-1, -1, -1, -1};
    char path[32];
    if (fds[n] < 0) {
        fds[n] = memfd_create("image", 0);
        if (fds[n] < 0 || ftruncate(fds[n], (off_t)size) != 0)
            abort();
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fds[n]);
    const struct block_options options = {
        .raw = true, .read_only = read_only, .queue = machine->threads ? NULL : &machine->queue, .loop = machine->loop};
    struct block *block = block_open(path, &options, NULL);
    if (block == NULL)
        abort();
    return block;
}

static void machine_create(struct machine *machine, bool threads)
{
    *machine = (struct machine){.threads = threads};
    timer_queue_init(&machine->queue, machine_now, NULL, machine);
    machine->loop = loop_create(NULL);
    machine->memory = memory_create(RAM, NULL, NULL);
    memory_set_watcher(machine->memory, machine_written, machine);
    memory_watch(machine->memory, (BUFFERS >> PAGE_SHIFT) + 1, PAGE_CODE);
    machine->host = pci_host_create(machine->memory);
    machine->disk = image(machine, 0, DISK_SIZE, false);
    machine->cd = image(machine, 1, CD_SIZE, true);
    machine->read_only = image(machine, 2, DISK_SIZE, true);
    machine->other_cd = image(machine, 3, 2048, true);
    const struct ide_config config = {
        .unit = {{{IDE_DISK, machine->disk, "1"}, {IDE_CDROM, machine->cd, "2"}},
                 {{IDE_DISK, machine->read_only, "3"}, {IDE_CDROM, NULL, "4"}}},
        .command_port = {0x1f0, 0x170},
        .control_port = {0x3f6, 0x376},
        .memory = machine->memory,
    };
    machine->ide = ide_create(machine->host, SLOT, &config, NULL);
    if (machine->ide == NULL)
        abort();
}

static void enable(struct machine *machine)
{
    pci_host_write(machine->host, SLOT, 1, 0x40, 4, 0x80008000);
    pci_host_write(machine->host, SLOT, 1, 0x20, 4, BUS_MASTER);
    pci_host_write(machine->host, SLOT, 1, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
}

static void machine_destroy(struct machine *machine)
{
    ide_destroy(machine->ide);
    pci_host_destroy(machine->host);
    block_close(machine->disk);
    block_close(machine->cd);
    block_close(machine->read_only);
    block_close(machine->other_cd);
    memory_destroy(machine->memory);
    loop_destroy(machine->loop);
}

static void settle(struct machine *machine)
{
    if (machine->threads) {
        loop_set_deadline(machine->loop, 0); /* do not wait */
        loop_run_once(machine->loop, NULL);
        return;
    }
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        if (timer_queue_next(&machine->queue) > machine->now_ns)
            return;
        timer_queue_run(&machine->queue);
    }
    abort(); /* a timer that never lets go of the present */
}

struct step {
    unsigned channel, code;
    uint16_t count;
    uint32_t value;
};

static uint16_t port(const struct step *step)
{
    return step->channel ? 0x170 : 0x1f0;
}

static void reg_access(struct machine *machine, const struct step *step, bool write)
{
    unsigned offset = step->code & 7, size = 1u << (step->code >> 3) % 3;
    if (write)
        memory_port_write(machine->memory, (uint16_t)(port(step) + offset), size, step->value);
    else
        (void)memory_port_read(machine->memory, (uint16_t)(port(step) + offset), size);
}

/* The task file at once: value has device and address, count goes to count, and features follow from it. */
static void command(struct machine *machine, const struct step *step)
{
    struct memory *memory = machine->memory;
    uint16_t base = port(step);
    memory_port_write(memory, base + 6, 1, step->value >> 24);
    for (unsigned level = 0; level < 2; level++) {
        memory_port_write(memory, base + 1, 1, step->count >> 4);
        memory_port_write(memory, base + 2, 1, level == 0 ? step->count >> 12 : step->count & 0xff);
        for (unsigned i = 0; i < 3; i++)
            memory_port_write(memory, (uint16_t)(base + 3 + i), 1, level == 0 ? 0 : step->value >> (8 * i) & 0xff);
    }
    memory_port_write(memory, base + 7, 1, step->code);
}

static void packet(struct machine *machine, const struct step *step)
{
    struct memory *memory = machine->memory;
    uint16_t base = port(step);
    uint8_t bytes[12] = {(uint8_t)step->code, (uint8_t)(step->value >> 24), (uint8_t)(step->value >> 28), 0,
                         (uint8_t)(step->value >> 8), (uint8_t)step->value, (uint8_t)(step->count >> 12),
                         (uint8_t)(step->count >> 8), (uint8_t)step->count, (uint8_t)step->count, 0, 0};
    memory_port_write(memory, base + 6, 1, 0x10);
    memory_port_write(memory, base + 1, 1, step->value >> 16 & 1);
    memory_port_write(memory, base + 4, 2, step->value >> 17 & 0x7ff);
    memory_port_write(memory, base + 7, 1, 0xa0);
    for (unsigned i = 0; i < sizeof bytes; i += 2)
        memory_port_write(memory, base, 2, (uint32_t)bytes[i] | (uint32_t)bytes[i + 1] << 8);
}

static void data(struct machine *machine, const struct step *step)
{
    static uint8_t bytes[4096 * 4];
    unsigned size = 1u << (step->code & 3) % 3, count = step->count % 4096 + 1;
    if (step->code & 4)
        memory_port_write_string(machine->memory, port(step), size, bytes, count);
    else
        memory_port_read_string(machine->memory, port(step), size, bytes, count);
}

/* A descriptor, the last one or not; in the buffers, unless the value says otherwise. */
static void table(struct machine *machine, const struct step *step)
{
    uint32_t words[2] = {BUFFERS + step->value % (BUFFERS_END - BUFFERS - 0x10000),
                         step->count | (step->value & 0x80000000u)};
    if (step->value >> 28 == 7)
        words[0] = 0xf0000000u | step->value;
    memory_write(machine->memory, TABLES + 8 * (step->code & 31), words, sizeof words);
}

static void start(struct machine *machine, const struct step *step)
{
    uint16_t bm = (uint16_t)(BUS_MASTER + 8 * step->channel);
    memory_port_write(machine->memory, bm, 1, 0);
    memory_port_write(machine->memory, bm + 2, 1, 6);
    memory_port_write(machine->memory, bm + 4, 4, step->code & 0x80 ? step->value : TABLES + 8 * (step->code & 31));
    memory_port_write(machine->memory, bm, 1, 1 | (step->value & 8));
}

/* Guest memory that the guest itself writes: descriptors and buffers. */
static void ram(struct machine *machine, const struct step *step)
{
    memory_write(machine->memory, TABLES + step->count % (BUFFERS_END - TABLES - 4), &step->value, 4);
}

static void run_step(struct machine *machine, enum step_kind kind, const struct step *step)
{
    struct memory *memory = machine->memory;
    switch (kind) {
    case STEP_READ: reg_access(machine, step, false); break;
    case STEP_WRITE: reg_access(machine, step, true); break;
    case STEP_COMMAND: command(machine, step); break;
    case STEP_PACKET: packet(machine, step); break;
    case STEP_DATA: data(machine, step); break;
    case STEP_TABLE: table(machine, step); break;
    case STEP_START: start(machine, step); break;
    case STEP_BM: memory_port_write(memory, (uint16_t)(BUS_MASTER + (step->code & 15)), 1u << (step->count & 1), step->value); break;
    case STEP_RAM: ram(machine, step); break;
    case STEP_ADVANCE: machine->now_ns += step->value & 0xffffff; break;
    case STEP_CONTROL: memory_port_write(memory, step->channel ? 0x376 : 0x3f6, 1, step->value); break;
    case STEP_CONFIG: pci_host_write(machine->host, SLOT, 1, step->code & 0xff, 1, step->value); break;
    case STEP_MEDIUM:
        ide_change_medium(machine->ide, step->channel, 1,
                          !(step->code & 1) ? NULL : step->channel ? machine->other_cd : machine->cd);
        break;
    default:
        pci_host_reset(machine->host);
        enable(machine);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    struct machine machine;
    machine_create(&machine, size > 0 && input[0] & 1);
    enable(&machine);
    for (size_t i = 1; i + STEP_SIZE <= size && i < STEPS_MAX * STEP_SIZE; i += STEP_SIZE) {
        struct step step = {.channel = input[i] >> 4 & 1, .code = input[i + 1]};
        memcpy(&step.count, input + i + 2, 2);
        memcpy(&step.value, input + i + 4, 4);
        run_step(&machine, (input[i] & 15) % STEP_KINDS, &step);
        settle(&machine);
    }
    machine_destroy(&machine);
    return 0;
}
