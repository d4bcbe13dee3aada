/* A machine that never runs, and a client of it that types and sometimes does not take what it is told: what the targets for
 * the monitor and for gdb's protocol have in common. */
#ifndef RING3_MACHINE_FUZZ_H
#define RING3_MACHINE_FUZZ_H

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/vcpu.h"
#include "host/chardev.h"
#include "host/loop.h"
#include "machine/machine.h"
#include "memory/memory.h"
#include "mmu/access.h"

#define TABLES_GPA 0x200000u
#define TABLES_SIZE 0x8000u
#define ENTRY 0x100000u

struct client {
    struct chardev dev;
    unsigned mood;  /* how much it takes at a time */
    bool stuck;
};

static size_t client_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct client *c = container_of(dev, struct client, dev);
    c->mood = c->mood * 5 + 1;
    size_t taken = c->mood & 3 ? n : n / 2;
    c->stuck = taken < n;
    return taken;
}

static void client_destroy(struct chardev *dev)
{
    (void)dev;
}

static const struct chardev_ops client_ops = {.write = client_write, .destroy = client_destroy, .name = "fuzz"};

static struct vm *machine_create(struct loop *loop, struct log *log)
{
    /* An ELF file, 64 bits, of one segment: the header's fields, then the program header's, then HLT; JMP to it. */
    static const struct {
        uint8_t offset, size;
        uint64_t value;
    } fields[] = {
        {0, 8, 0x10102464c457f}, {16, 2, 2 /* ET_EXEC */}, {18, 2, 62 /* EM_X86_64 */}, {20, 4, 1}, {24, 8, ENTRY},
        {32, 8, 64 /* e_phoff */}, {52, 2, 64}, {54, 2, 56}, {56, 2, 1},
        {64, 4, 1 /* PT_LOAD */}, {68, 4, 5}, {72, 8, 120 /* p_offset */}, {80, 8, ENTRY}, {88, 8, ENTRY}, {96, 8, 3}, {104, 8, 3},
        {112, 8, 1}, {120, 3, 0xfdebf4},
    };
    uint8_t file[128] = {0};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        memcpy(file + fields[i].offset, &fields[i].value, fields[i].size);
    char path[40];
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    assert(fd >= 0 && write(fd, file, sizeof file) == (ssize_t)sizeof file);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct machine_config config = {.engine = "interpret", .ram_size = 4 * MiB, .kernel = path, .loop = loop, .log = log};
    struct error err;
    struct vm *vm = vm_create(&config, &err);
    if (vm == NULL)
        fprintf(stderr, "machine_fuzz: %s\n", err.message);
    assert(vm != NULL);
    close(fd);
    return vm;
}

/* What the tour of the page tables depends on. */
static void paging_set(struct vcpu *v, uint8_t mode, uint32_t cr3)
{
    static const uint64_t cr4[] = {0, 0, CR4_PSE, CR4_PAE, CR4_PAE};
    mode %= 5;
    v->cr0 = mode == 0 ? CR0_PE : CR0_PE | CR0_PG;
    v->cr4 = cr4[mode];
    v->efer = mode == 4 ? EFER_LME | EFER_LMA | EFER_NXE : EFER_NXE;
    v->cr3 = TABLES_GPA + cr3 % TABLES_SIZE;
    v->seg[SEG_CS].attr = (v->seg[SEG_CS].attr & ~(SEG_ATTR_L | SEG_ATTR_DB)) | (mode == 4 ? SEG_ATTR_L : SEG_ATTR_DB);
    mmu_flush(v);
    vcpu_mode_changed(v);
}

static void type(struct client *c, const uint8_t *bytes, size_t size)
{
    unsigned idle = 0;
    while (size > 0 && idle < 4) {
        if (c->stuck) {
            c->stuck = false;
            chardev_notify_writable(&c->dev);
        }
        size_t n = chardev_can_receive(&c->dev);
        n = n < size ? n : size;
        if (n > 7)
            n = 7;
        idle = n == 0 ? idle + 1 : 0;
        if (n > 0)
            chardev_receive(&c->dev, bytes, n);
        bytes += n;
        size -= n;
    }
}

#endif
