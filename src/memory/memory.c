/* Guest-physical address space. See memory.h for the model.
 *
 * The map of ranges is read without a lock and changes under the device lock. `generation` is odd while it does; who reads
 * looks at it before and after, and reads again if it was odd or another one (a sequence lock: Lameter, "Effective
 * synchronization on Linux/NUMA systems", 2005). What was read meanwhile is thrown away before it is used.
 *
 * Ports: a table of 65,536 bytes names for each port the entry in `port_ranges` that claims it; 0 is nobody. MMIO and
 * ROM ranges are few (tens), kept in an array newest first and searched linearly: the CPU caches what it finds. */
#include "memory/memory.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"

#define MAX_PORT_RANGES 254
#define MAX_RANGES 64
#define MEMORY_END (1ull << 52) /* of guest-physical space, as far as processors reach */

struct port_range {
    const struct io_ops *ops;
    void *dev;
    uint16_t first;
    uint16_t count;
    uint64_t age; /* the higher, the newer: tells who is seen again when a newer range goes */
};

struct range {
    gpa_t base;
    uint64_t size;
    const struct io_ops *ops; /* NULL for a ROM and device RAM */
    void *dev;
    uint8_t *bytes; /* of a ROM, or of device RAM */
    uint8_t *flags; /* of device RAM; else NULL */
};

struct memory {
    uint64_t ram_size;
    uint64_t backing_size; /* with device RAM behind RAM */
    uint64_t taken;        /* of it: RAM, and what devices took */
    int fd;
    uint8_t *ram;
    uint8_t *ram_read_only;
    uint8_t *page_flags; /* one byte a RAM page */
    struct log *log;
    void (*written)(void *opaque, gpa_t gpa, unsigned size);
    void *written_opaque;
    void (*map_changed)(void *opaque);
    void *map_changed_opaque;
    uint64_t generation;
    /* The longest stretch of low RAM that no range lies over: nearly all of it. */
    gpa_t clear_base;
    uint64_t clear_size;
    unsigned range_count;
    struct range ranges[MAX_RANGES]; /* newest first */
    uint8_t port_owner[65536];       /* index into port_ranges plus 1 */
    uint64_t port_age;
    struct port_range port_ranges[MAX_PORT_RANGES];
};

/* How much of low RAM from `base` on no range lies over. */
static uint64_t clear_from(const struct memory *memory, gpa_t base)
{
    gpa_t end = memory->ram_size < MEMORY_LOW_MAX ? memory->ram_size : MEMORY_LOW_MAX;
    for (unsigned i = 0; i < memory->range_count; i++) {
        const struct range *range = &memory->ranges[i];
        if (range->base < end && range->base + (range->size - 1) >= base)
            end = range->base > base ? range->base : base;
    }
    return end > base ? end - base : 0;
}

static void ranges_begin_change(struct memory *memory)
{
    __atomic_store_n(&memory->generation, memory->generation + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void ranges_changed(struct memory *memory)
{
    memory->clear_base = 0;
    memory->clear_size = clear_from(memory, 0);
    for (unsigned i = 0; i < memory->range_count; i++) {
        gpa_t base = memory->ranges[i].base + memory->ranges[i].size;
        uint64_t size = clear_from(memory, base);
        if (size > memory->clear_size) {
            memory->clear_base = base;
            memory->clear_size = size;
        }
    }
    __atomic_store_n(&memory->generation, memory->generation + 1, __ATOMIC_RELEASE);
    if (memory->map_changed != NULL)
        memory->map_changed(memory->map_changed_opaque);
}

#define VIEW_GUARD (16 * PAGE_SIZE) /* without access, on both sides of a view */

static uint8_t *view_create(const struct memory *memory, int protection)
{
    uint8_t *reserved = mmap(NULL, memory->backing_size + 2 * VIEW_GUARD, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return MAP_FAILED;
    if (mmap(reserved + VIEW_GUARD, memory->backing_size, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, memory->fd,
             0) == MAP_FAILED) {
        munmap(reserved, memory->backing_size + 2 * VIEW_GUARD);
        return MAP_FAILED;
    }
    return reserved + VIEW_GUARD;
}

static void view_destroy(const struct memory *memory, uint8_t *view)
{
    if (view != MAP_FAILED)
        munmap(view - VIEW_GUARD, memory->backing_size + 2 * VIEW_GUARD);
}

struct memory *memory_create(uint64_t ram_size, struct log *log, struct error *err)
{
    return memory_create_with_device_ram(ram_size, 0, log, err);
}

static void mark_device_ram(struct memory *memory)
{
    for (uint64_t frame = memory->ram_size >> PAGE_SHIFT; frame < memory->backing_size >> PAGE_SHIFT; frame++)
        memory->page_flags[frame] = PAGE_DEVICE;
}

struct memory *memory_create_with_device_ram(uint64_t ram_size, uint64_t device_size, struct log *log, struct error *err)
{
    check(device_size % PAGE_SIZE == 0 && device_size <= 4 * GiB);
    if (ram_size < 64 * KiB || ram_size > MEMORY_RAM_MAX || ram_size % PAGE_SIZE != 0) {
        error_set(err, "%" PRIu64 " bytes of guest memory are not possible (64 KiB to %llu GiB, whole pages)", ram_size,
                  MEMORY_RAM_MAX / GiB);
        return NULL;
    }
    struct memory *memory = calloc(1, sizeof *memory);
    if (memory == NULL) {
        error_set(err, "out of memory");
        return NULL;
    }
    memory->ram_size = memory->taken = ram_size;
    memory->backing_size = ram_size + device_size;
    memory->log = log;
    memory->ram = memory->ram_read_only = MAP_FAILED;
    memory->page_flags = MAP_FAILED;
    memory->fd = memfd_create("ring3-ram", MFD_CLOEXEC);
    if (memory->fd < 0 || ftruncate(memory->fd, (off_t)memory->backing_size) != 0)
        goto fail;
    memory->ram = view_create(memory, PROT_READ | PROT_WRITE);
    if (memory->ram == MAP_FAILED)
        goto fail;
    memory->ram_read_only = view_create(memory, PROT_READ);
    if (memory->ram_read_only == MAP_FAILED)
        goto fail;
    memory->page_flags = mmap(NULL, memory->backing_size >> PAGE_SHIFT, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory->page_flags == MAP_FAILED)
        goto fail;
    mark_device_ram(memory);
    ranges_begin_change(memory);
    ranges_changed(memory);
    return memory;
fail:
    error_set(err, "the host cannot give %" PRIu64 " MiB of guest memory: %m; choose a smaller -m", (uint64_t)(ram_size / MiB));
    memory_destroy(memory);
    return NULL;
}

void memory_destroy(struct memory *memory)
{
    if (memory == NULL)
        return;
    if (memory->page_flags != MAP_FAILED)
        munmap(memory->page_flags, memory->backing_size >> PAGE_SHIFT);
    view_destroy(memory, memory->ram);
    view_destroy(memory, memory->ram_read_only);
    if (memory->fd >= 0)
        close(memory->fd);
    free(memory);
}

uint64_t memory_ram_size(const struct memory *memory)
{
    return memory->ram_size;
}

uint64_t memory_backing_size(const struct memory *memory)
{
    return memory->backing_size;
}

int memory_fd(const struct memory *memory)
{
    return memory->fd;
}

uint8_t *memory_ram_base(struct memory *memory)
{
    return memory->ram;
}

const uint8_t *memory_ram_view_read_only(const struct memory *memory)
{
    return memory->ram_read_only;
}

const uint8_t *memory_page_flags(const struct memory *memory)
{
    return memory->page_flags;
}

uint64_t memory_generation(const struct memory *memory)
{
    return __atomic_load_n(&memory->generation, __ATOMIC_ACQUIRE);
}

void memory_set_map_watcher(struct memory *memory, void (*changed)(void *opaque), void *opaque)
{
    memory->map_changed = changed;
    memory->map_changed_opaque = opaque;
}

/* Offset into the memfd of the RAM byte at `gpa`, or UINT64_MAX. */
static uint64_t ram_offset(const struct memory *memory, gpa_t gpa)
{
    uint64_t low = memory->ram_size < MEMORY_LOW_MAX ? memory->ram_size : MEMORY_LOW_MAX;
    if (gpa < low)
        return gpa;
    if (gpa >= MEMORY_HIGH_BASE && gpa - MEMORY_HIGH_BASE < memory->ram_size - low)
        return gpa - MEMORY_HIGH_BASE + low;
    return UINT64_MAX;
}

static struct range *range_find(const struct memory *memory, gpa_t gpa)
{
    for (unsigned i = 0; i < memory->range_count; i++) {
        const struct range *range = &memory->ranges[i];
        if (gpa >= range->base && gpa - range->base < range->size)
            return (struct range *)range;
    }
    return NULL;
}

/* What the map says at this moment; it may be changing. */
static struct page_backing page_find(struct memory *memory, gpa_t gpa)
{
    if (likely(gpa - memory->clear_base < memory->clear_size))
        return (struct page_backing){
            .kind = PAGE_RAM, .hva = memory->ram + gpa, .flags = memory->page_flags + (gpa >> PAGE_SHIFT)};
    struct range *range = range_find(memory, gpa);
    if (range != NULL && range->ops != NULL)
        return (struct page_backing){.kind = PAGE_MMIO};
    if (range != NULL)
        return (struct page_backing){.kind = range->flags != NULL ? PAGE_RAM : PAGE_ROM,
                                     .hva = range->bytes + (gpa - range->base),
                                     .flags = range->flags == NULL ? NULL : range->flags + ((gpa - range->base) >> PAGE_SHIFT)};
    uint64_t offset = ram_offset(memory, gpa);
    if (offset == UINT64_MAX)
        return (struct page_backing){.kind = PAGE_NONE};
    return (struct page_backing){
        .kind = PAGE_RAM, .hva = memory->ram + offset, .flags = memory->page_flags + (offset >> PAGE_SHIFT)};
}

struct page_backing memory_page(struct memory *memory, gpa_t gpa)
{
    gpa &= ~PAGE_OFFSET_MASK;
    for (;;) {
        uint64_t generation = memory_generation(memory);
        struct page_backing page = page_find(memory, gpa);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (likely(!(generation & 1) && __atomic_load_n(&memory->generation, __ATOMIC_RELAXED) == generation))
            return page;
        sched_yield(); /* who changes it may be waiting for this core */
    }
}

/* Where device RAM at an offset of the memfd is seen; the map may be changing. */
static gpa_t device_ram_find(const struct memory *memory, uint64_t offset)
{
    for (unsigned i = 0; i < memory->range_count; i++) {
        const struct range *range = &memory->ranges[i];
        uint64_t first = (uint64_t)(range->bytes - memory->ram);
        if (range->flags != NULL && offset >= first && offset - first < range->size)
            return range->base + (offset - first);
    }
    return UINT64_MAX;
}

gpa_t memory_frame_gpa(struct memory *memory, uint64_t frame)
{
    uint64_t offset = frame << PAGE_SHIFT;
    if (likely(offset < memory->ram_size))
        return offset < MEMORY_LOW_MAX ? offset : offset - MEMORY_LOW_MAX + MEMORY_HIGH_BASE;
    for (;;) {
        uint64_t generation = memory_generation(memory);
        gpa_t gpa = device_ram_find(memory, offset);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(generation & 1) && __atomic_load_n(&memory->generation, __ATOMIC_RELAXED) == generation)
            return gpa;
        sched_yield();
    }
}

/* The next address behind `gpa` at which something may begin or end; MEMORY_END if there is none. */
static gpa_t next_boundary(const struct memory *memory, gpa_t gpa)
{
    uint64_t low = memory->ram_size < MEMORY_LOW_MAX ? memory->ram_size : MEMORY_LOW_MAX;
    const gpa_t ram[] = {0, low, MEMORY_HIGH_BASE, MEMORY_HIGH_BASE + memory->ram_size - low};
    gpa_t next = MEMORY_END;
    for (unsigned i = 0; i < ARRAY_LEN(ram); i++)
        if (ram[i] > gpa && ram[i] < next)
            next = ram[i];
    for (unsigned i = 0; i < memory->range_count; i++) {
        gpa_t base = memory->ranges[i].base, end = base + memory->ranges[i].size; /* which may be 2^64, 0 */
        if (base > gpa && base < next)
            next = base;
        if (end > gpa && end < next)
            next = end;
    }
    return next;
}

bool memory_next_piece(struct memory *memory, gpa_t from, struct memory_piece *piece)
{
    for (gpa_t gpa = from & ~PAGE_OFFSET_MASK, end; gpa < MEMORY_END; gpa = end) {
        struct page_backing page = memory_page(memory, gpa);
        end = next_boundary(memory, gpa);
        if (page.kind != PAGE_RAM && page.kind != PAGE_ROM)
            continue;
        *piece = (struct memory_piece){.base = gpa, .size = end - gpa, .kind = page.kind, .hva = page.hva};
        while (end < MEMORY_END) { /* what lies behind may go on where this ends */
            page = memory_page(memory, end);
            if (page.kind != piece->kind || page.hva != piece->hva + piece->size)
                break;
            end = next_boundary(memory, end);
            piece->size = end - piece->base;
        }
        return true;
    }
    return false;
}

uint8_t *memory_ram(struct memory *memory, gpa_t gpa, uint64_t size)
{
    uint64_t first = ram_offset(memory, gpa);
    if (first == UINT64_MAX)
        return NULL;
    if (size > 0) {
        if (gpa + (size - 1) < gpa)
            return NULL;
        uint64_t last = ram_offset(memory, gpa + (size - 1));
        if (last == UINT64_MAX || last - first != size - 1)
            return NULL;
        for (unsigned i = 0; i < memory->range_count; i++) {
            const struct range *range = &memory->ranges[i];
            if (gpa < range->base + range->size && range->base < gpa + size)
                return NULL;
        }
    }
    return memory->ram + first;
}

static bool all_memory(struct memory *memory, gpa_t gpa, uint64_t size)
{
    if (size != 0 && gpa + (size - 1) < gpa)
        return false;
    for (uint64_t done = 0; done < size;) {
        struct page_backing page = memory_page(memory, gpa + done);
        if (page.kind != PAGE_RAM && page.kind != PAGE_ROM)
            return false;
        done += PAGE_SIZE - ((gpa + done) & PAGE_OFFSET_MASK);
    }
    return true;
}

bool memory_read(struct memory *memory, gpa_t gpa, void *buffer, uint64_t size)
{
    if (!all_memory(memory, gpa, size))
        return false;
    for (uint64_t done = 0; done < size;) {
        uint64_t offset = (gpa + done) & PAGE_OFFSET_MASK;
        uint64_t n = PAGE_SIZE - offset < size - done ? PAGE_SIZE - offset : size - done;
        memcpy((uint8_t *)buffer + done, memory_page(memory, gpa + done).hva + offset, n);
        done += n;
    }
    return true;
}

bool memory_write(struct memory *memory, gpa_t gpa, const void *buffer, uint64_t size)
{
    if (!all_memory(memory, gpa, size))
        return false;
    for (uint64_t done = 0; done < size;) {
        uint64_t offset = (gpa + done) & PAGE_OFFSET_MASK;
        uint64_t n = PAGE_SIZE - offset < size - done ? PAGE_SIZE - offset : size - done;
        struct page_backing page = memory_page(memory, gpa + done);
        if (page.kind == PAGE_RAM) {
            memcpy(page.hva + offset, (const uint8_t *)buffer + done, n);
            /* Who watches sets the flag first and reads then: the store must not be late. */
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            if (__atomic_load_n(page.flags, __ATOMIC_RELAXED) & PAGE_WATCHED)
                memory_notify_written(memory, gpa + done, (unsigned)n);
        }
        done += n;
    }
    return true;
}

static bool range_insert(struct memory *memory, struct range range, struct error *err)
{
    if (range.size == 0 || (range.base | range.size) & PAGE_OFFSET_MASK || range.base + (range.size - 1) < range.base)
        return error_set(err, "memory range %#" PRIx64 "+%#" PRIx64 " is not made of whole pages", range.base,
                         range.size);
    if (memory->range_count == MAX_RANGES)
        return error_set(err, "more than %d memory ranges are mapped", MAX_RANGES);
    ranges_begin_change(memory);
    memmove(&memory->ranges[1], &memory->ranges[0], memory->range_count * sizeof range);
    memory->ranges[0] = range;
    memory->range_count++;
    ranges_changed(memory);
    return true;
}

bool memory_map_mmio(struct memory *memory, gpa_t base, uint64_t size, const struct io_ops *ops, void *dev,
                     struct error *err)
{
    return range_insert(memory, (struct range){.base = base, .size = size, .ops = ops, .dev = dev}, err);
}

bool memory_map_rom(struct memory *memory, gpa_t base, uint64_t size, uint8_t *bytes, struct error *err)
{
    return range_insert(memory, (struct range){.base = base, .size = size, .dev = bytes, .bytes = bytes}, err);
}

bool memory_take_device_ram(struct memory *memory, uint64_t size, uint64_t *offset, struct error *err)
{
    check(size % PAGE_SIZE == 0);
    if (size > memory->backing_size - memory->taken)
        return error_set(err, "there are not %" PRIu64 " KiB of device RAM left", (uint64_t)(size / KiB));
    *offset = memory->taken;
    memory->taken += size;
    return true;
}

bool memory_map_ram(struct memory *memory, gpa_t base, uint64_t size, uint64_t offset, void *dev, struct error *err)
{
    check(offset % PAGE_SIZE == 0 && offset >= memory->ram_size && offset <= memory->taken && size <= memory->taken - offset);
    return range_insert(memory,
                        (struct range){.base = base, .size = size, .dev = dev, .bytes = memory->ram + offset,
                                       .flags = memory->page_flags + (offset >> PAGE_SHIFT)},
                        err);
}

static void range_remove(struct memory *memory, unsigned i)
{
    ranges_begin_change(memory);
    memory->range_count--;
    memmove(&memory->ranges[i], &memory->ranges[i + 1], (memory->range_count - i) * sizeof(struct range));
    ranges_changed(memory);
}

void memory_unmap(struct memory *memory, gpa_t base)
{
    for (unsigned i = 0; i < memory->range_count; i++) {
        if (memory->ranges[i].base == base) {
            range_remove(memory, i);
            return;
        }
    }
}

void memory_unmap_device(struct memory *memory, gpa_t base, const void *dev)
{
    for (unsigned i = 0; i < memory->range_count; i++) {
        if (memory->ranges[i].base == base && memory->ranges[i].dev == dev) {
            range_remove(memory, i);
            return;
        }
    }
}

bool memory_map_ports(struct memory *memory, uint16_t port, unsigned count, const struct io_ops *ops, void *dev,
                      struct error *err)
{
    if (count == 0 || port + count > 65536)
        return error_set(err, "port range %#x+%u is not possible", port, count);
    for (unsigned i = 0; i < MAX_PORT_RANGES; i++) {
        struct port_range *range = &memory->port_ranges[i];
        if (range->ops == NULL) {
            *range = (struct port_range){.ops = ops, .dev = dev, .first = port, .count = (uint16_t)count,
                                         .age = ++memory->port_age};
            memset(&memory->port_owner[port], (int)i + 1, count);
            return true;
        }
    }
    return error_set(err, "more than %d port ranges are mapped", MAX_PORT_RANGES);
}

/* Gives the ports of `range` back to the newest of the ranges below it. */
static void port_range_remove(struct memory *memory, struct port_range *range)
{
    unsigned gone = (unsigned)(range - memory->port_ranges) + 1;
    range->ops = NULL;
    for (unsigned p = range->first; p < (unsigned)range->first + range->count; p++) {
        if (memory->port_owner[p] != gone)
            continue;
        uint64_t age = 0;
        memory->port_owner[p] = 0;
        for (unsigned i = 0; i < MAX_PORT_RANGES; i++) {
            const struct port_range *below = &memory->port_ranges[i];
            if (below->ops != NULL && p - below->first < below->count && below->age > age) {
                age = below->age;
                memory->port_owner[p] = (uint8_t)(i + 1);
            }
        }
    }
}

void memory_unmap_ports(struct memory *memory, uint16_t port, unsigned count)
{
    for (unsigned i = 0; i < MAX_PORT_RANGES; i++) {
        struct port_range *range = &memory->port_ranges[i];
        if (range->ops != NULL && range->first == port && range->count == count) {
            port_range_remove(memory, range);
            return;
        }
    }
}

void memory_unmap_device_ports(struct memory *memory, uint16_t port, unsigned count, const void *dev)
{
    for (unsigned i = 0; i < MAX_PORT_RANGES; i++) {
        struct port_range *range = &memory->port_ranges[i];
        if (range->ops != NULL && range->first == port && range->count == count && range->dev == dev) {
            port_range_remove(memory, range);
            return;
        }
    }
}

static uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

static uint64_t ops_read(const struct io_ops *ops, void *dev, uint64_t offset, unsigned size)
{
    return ops->read == NULL ? ones(size) : ops->read(dev, offset, size) & ones(size);
}

static void ops_write(const struct io_ops *ops, void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if (ops->write != NULL)
        ops->write(dev, offset, size, value & ones(size));
}

uint64_t memory_mmio_read(struct memory *memory, gpa_t gpa, unsigned size)
{
    struct range *range = range_find(memory, gpa);
    if (range != NULL && range->ops != NULL && gpa - range->base + size <= range->size)
        return ops_read(range->ops, range->dev, gpa - range->base, size);
    uint64_t value = ones(size);
    if (memory_read(memory, gpa, &value, size))
        return value;
    if (size > 1 && (range != NULL || range_find(memory, gpa + size - 1) != NULL)) {
        value = 0;
        for (unsigned i = 0; i < size; i++)
            value |= memory_mmio_read(memory, gpa + i, 1) << (8 * i);
        return value;
    }
    log_info(memory->log, "guest read %u bytes at %#" PRIx64 ", where nothing is", size, gpa);
    return ones(size);
}

void memory_mmio_write(struct memory *memory, gpa_t gpa, unsigned size, uint64_t value)
{
    struct range *range = range_find(memory, gpa);
    if (range != NULL && range->ops != NULL && gpa - range->base + size <= range->size) {
        ops_write(range->ops, range->dev, gpa - range->base, size, value);
        return;
    }
    if (memory_write(memory, gpa, &value, size))
        return;
    if (size > 1 && (range != NULL || range_find(memory, gpa + size - 1) != NULL)) {
        for (unsigned i = 0; i < size; i++)
            memory_mmio_write(memory, gpa + i, 1, value >> (8 * i) & 0xff);
        return;
    }
    log_info(memory->log, "guest wrote %#" PRIx64 " (%u bytes) at %#" PRIx64 ", where nothing is", value, size, gpa);
}

static const struct port_range *port_find(const struct memory *memory, uint16_t port)
{
    unsigned owner = memory->port_owner[port];
    return owner == 0 ? NULL : &memory->port_ranges[owner - 1];
}

uint32_t memory_port_read(struct memory *memory, uint16_t port, unsigned size)
{
    const struct port_range *range = port_find(memory, port);
    unsigned last = port + size - 1u;
    if (last <= 0xffff && port_find(memory, (uint16_t)last) == range) {
        if (range != NULL)
            return (uint32_t)ops_read(range->ops, range->dev, (uint64_t)port - range->first, size);
        log_debug(memory->log, "guest read port %#x, where nothing is", port);
        return (uint32_t)ones(size);
    }
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= memory_port_read(memory, (uint16_t)(port + i), 1) << (8 * i);
    return value;
}

void memory_port_write(struct memory *memory, uint16_t port, unsigned size, uint32_t value)
{
    const struct port_range *range = port_find(memory, port);
    unsigned last = port + size - 1u;
    if (last <= 0xffff && port_find(memory, (uint16_t)last) == range) {
        if (range != NULL)
            ops_write(range->ops, range->dev, (uint64_t)port - range->first, size, value);
        else
            log_debug(memory->log, "guest wrote %#x to port %#x, where nothing is", value, port);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        memory_port_write(memory, (uint16_t)(port + i), 1, value >> (8 * i) & 0xff);
}

unsigned memory_port_read_string(struct memory *memory, uint16_t port, unsigned size, uint8_t *bytes, unsigned count)
{
    const struct port_range *range = port_find(memory, port);
    unsigned done = 0;
    if (range != NULL && range->ops->read_string != NULL && port - range->first + size <= range->count)
        done = range->ops->read_string(range->dev, port - range->first, size, bytes, count);
    if (done != 0)
        return done;
    uint32_t value = memory_port_read(memory, port, size);
    memcpy(bytes, &value, size);
    return 1;
}

unsigned memory_port_write_string(struct memory *memory, uint16_t port, unsigned size, const uint8_t *bytes,
                                  unsigned count)
{
    const struct port_range *range = port_find(memory, port);
    unsigned done = 0;
    if (range != NULL && range->ops->write_string != NULL && port - range->first + size <= range->count)
        done = range->ops->write_string(range->dev, port - range->first, size, bytes, count);
    if (done != 0)
        return done;
    uint32_t value = 0;
    memcpy(&value, bytes, size);
    memory_port_write(memory, port, size, value);
    return 1;
}

const char *memory_port_name(const struct memory *memory, uint16_t port)
{
    const struct port_range *range = port_find(memory, port);
    return range != NULL ? range->ops->name : NULL;
}

const char *memory_mmio_name(const struct memory *memory, gpa_t gpa)
{
    struct range *range = range_find(memory, gpa);
    return range != NULL && range->ops != NULL ? range->ops->name : NULL;
}

void memory_set_watcher(struct memory *memory, void (*written)(void *opaque, gpa_t gpa, unsigned size), void *opaque)
{
    memory->written = written;
    memory->written_opaque = opaque;
}

void memory_watch(struct memory *memory, uint64_t gpfn, enum page_flag why)
{
    struct page_backing page = memory_page(memory, gpfn << PAGE_SHIFT);
    if (page.kind == PAGE_RAM)
        __atomic_fetch_or(page.flags, (uint8_t)why, __ATOMIC_RELAXED);
}

void memory_unwatch(struct memory *memory, uint64_t gpfn, enum page_flag why)
{
    struct page_backing page = memory_page(memory, gpfn << PAGE_SHIFT);
    if (page.kind == PAGE_RAM)
        __atomic_fetch_and(page.flags, (uint8_t)~why, __ATOMIC_RELAXED);
}

void memory_notify_written(struct memory *memory, gpa_t gpa, unsigned size)
{
    check(memory->written != NULL);
    memory->written(memory->written_opaque, gpa, size);
}

/* ---- for people ---- */

static void describe_line(FILE *out, uint64_t first, uint64_t last, unsigned digits, const char *kind, const char *name)
{
    fprintf(out, "  %0*" PRIx64 "-%0*" PRIx64 " %-4s %s\n", (int)digits, first, (int)digits, last, kind, name);
}

/* Ranges by address; of two that begin at one place the newer comes first. */
static int compare_ranges(const void *a, const void *b)
{
    const struct range *left = *(const struct range *const *)a, *right = *(const struct range *const *)b;
    if (left->base != right->base)
        return left->base < right->base ? -1 : 1;
    return left < right ? -1 : 1;
}

static void describe_space(const struct memory *memory, FILE *out)
{
    const struct range *sorted[MAX_RANGES];
    uint64_t low = memory->ram_size < MEMORY_LOW_MAX ? memory->ram_size : MEMORY_LOW_MAX;
    bool high_shown = memory->ram_size <= MEMORY_LOW_MAX;
    for (unsigned i = 0; i < memory->range_count; i++)
        sorted[i] = &memory->ranges[i];
    qsort(sorted, memory->range_count, sizeof sorted[0], compare_ranges);
    fprintf(out, "memory\n");
    describe_line(out, 0, low - 1, 16, "ram", "RAM");
    for (unsigned i = 0; i <= memory->range_count; i++) {
        const struct range *range = i < memory->range_count ? sorted[i] : NULL;
        if (!high_shown && (range == NULL || range->base >= MEMORY_HIGH_BASE)) {
            describe_line(out, MEMORY_HIGH_BASE, MEMORY_HIGH_BASE + (memory->ram_size - low) - 1, 16, "ram", "RAM above 4 GiB");
            high_shown = true;
        }
        if (range != NULL)
            describe_line(out, range->base, range->base + (range->size - 1), 16,
                          range->ops != NULL ? "i/o" : range->flags != NULL ? "ram" : "rom",
                          range->ops != NULL ? range->ops->name : range->flags != NULL ? "device RAM" : "ROM");
    }
}

void memory_describe(const struct memory *memory, FILE *out)
{
    describe_space(memory, out);
    fprintf(out, "ports\n");
    for (unsigned port = 0; port < 65536;) {
        unsigned owner = memory->port_owner[port], first = port;
        while (port < 65536 && memory->port_owner[port] == owner)
            port++;
        if (owner != 0)
            describe_line(out, first, port - 1, 4, "i/o", memory->port_ranges[owner - 1].ops->name);
    }
}

/* ---- windows ---- */

uint8_t *memory_window_create(void)
{
    void *window = mmap(NULL, 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return window == MAP_FAILED ? NULL : window;
}

void memory_window_destroy(uint8_t *window)
{
    if (window != NULL)
        munmap(window, 2 * PAGE_SIZE);
}

bool memory_window_set(const struct memory *memory, uint8_t *window, unsigned n, const uint8_t *page)
{
    uint64_t offset = (uint64_t)(page - memory->ram);
    check(n < 2 && offset < memory->backing_size);
    return mmap(window + n * PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory->fd,
                (off_t)offset) != MAP_FAILED;
}
