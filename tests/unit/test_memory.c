/* The guest-physical address space: slots, routing, splitting, watching, and what happens where nothing is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "memory/memory.h"

/* A device that remembers its last access and answers with its offset in every byte. */
struct probe {
    uint64_t offset, value;
    unsigned size, reads, writes;
};

static uint64_t probe_read(void *dev, uint64_t offset, unsigned size)
{
    struct probe *p = dev;
    p->offset = offset;
    p->size = size;
    p->reads++;
    return (offset & 0xff) * 0x0101010101010101ull;
}

static void probe_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *p = dev;
    p->offset = offset;
    p->size = size;
    p->value = value;
    p->writes++;
}

static const struct io_ops probe_ops = {.read = probe_read, .write = probe_write, .name = "probe"};

static struct memory *make(uint64_t size)
{
    struct memory *memory = memory_create(size, NULL, NULL);
    assert_non_null(memory);
    return memory;
}

static void test_sizes(void **state)
{
    struct error err;
    const uint64_t bad[] = {0, 4096, 64 * KiB + 1, MEMORY_RAM_MAX + 4096, UINT64_MAX};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_null(memory_create(bad[i], NULL, &err));
        assert_true(strlen(err.message) > 0);
    }
    memory_destroy(NULL);
}

/* RAM below the hole and above 4 GiB; nothing between. */
static void test_slots(void **state)
{
    struct memory *memory = make(9 * GiB);
    assert_int_equal(memory_ram_size(memory), 9 * GiB);
    uint32_t value = 0x12345678, back = 0;
    assert_true(memory_write(memory, 3 * GiB - 4, &value, 4));
    assert_false(memory_write(memory, 3 * GiB - 2, &value, 4));
    assert_false(memory_write(memory, 4 * GiB - 4, &value, 4));
    assert_true(memory_write(memory, 4 * GiB, &value, 4));
    assert_true(memory_write(memory, 10 * GiB - 4, &value, 4));
    assert_false(memory_write(memory, 10 * GiB - 3, &value, 4));
    assert_true(memory_read(memory, 10 * GiB - 4, &back, 4));
    assert_int_equal(back, value);
    assert_int_equal(memory_page(memory, 3 * GiB).kind, PAGE_NONE);
    assert_int_equal(memory_page(memory, 4 * GiB).kind, PAGE_RAM);
    assert_null(memory_ram(memory, 3 * GiB - 4096, 8192));
    assert_non_null(memory_ram(memory, 0, 3 * GiB));
    assert_false(memory_read(memory, UINT64_MAX - 1, &back, 4));
    memory_destroy(memory);
}

static void test_ports(void **state)
{
    struct memory *memory = make(MiB);
    struct probe a = {0}, b = {0};
    assert_true(memory_map_ports(memory, 0x100, 8, &probe_ops, &a, NULL));
    assert_true(memory_map_ports(memory, 0x104, 1, &probe_ops, &b, NULL)); /* over the first */
    assert_int_equal(memory_port_read(memory, 0x102, 2), 0x0202);
    assert_int_equal(a.size, 2);
    assert_int_equal(memory_port_read(memory, 0x104, 1), 0);
    assert_int_equal(b.reads, 1);
    /* over an edge: bytes; over the other's port, but begun and ended at one device: whole (CF8h around CF9h) */
    assert_int_equal(memory_port_read(memory, 0x103, 2), 0x0003);
    assert_int_equal(memory_port_read(memory, 0x103, 4), 0x03030303);
    assert_int_equal(a.size, 4);
    memory_port_write(memory, 0x200, 4, 1); /* nobody */
    assert_int_equal(memory_port_read(memory, 0x200, 2), 0xffff);
    assert_int_equal(memory_port_read(memory, 0xffff, 4), 0xffffffff);
    assert_string_equal(memory_port_name(memory, 0x104), "probe");
    assert_null(memory_port_name(memory, 0x200));
    memory_unmap_ports(memory, 0x104, 1);
    assert_int_equal(memory_port_read(memory, 0x104, 1), 4);
    assert_int_equal(b.reads, 2); /* no more */
    assert_false(memory_map_ports(memory, 0xfff8, 16, &probe_ops, &a, NULL));
    memory_destroy(memory);
}

static void test_mmio(void **state)
{
    struct memory *memory = make(MiB);
    struct probe dev = {0};
    uint64_t generation = memory_generation(memory);
    assert_true(memory_map_mmio(memory, 0xa0000, 0x2000, &probe_ops, &dev, NULL)); /* hides RAM */
    assert_true(memory_generation(memory) != generation);
    assert_int_equal(memory_page(memory, 0xa1000).kind, PAGE_MMIO);
    assert_null(memory_ram(memory, 0x9f000, 0x2000));
    assert_int_equal(memory_mmio_read(memory, 0xa0010, 8), 0x1010101010101010);
    memory_mmio_write(memory, 0xa1ffc, 4, 0xdeadbeef);
    assert_int_equal(dev.offset, 0x1ffc);
    assert_int_equal(dev.value, 0xdeadbeef);
    /* half in RAM, half in the device: bytes */
    memory_mmio_write(memory, 0x9fffe, 4, 0x44332211);
    uint8_t ram[2];
    assert_true(memory_read(memory, 0x9fffe, ram, 2));
    assert_int_equal(ram[0], 0x11);
    assert_int_equal(ram[1], 0x22);
    assert_int_equal(dev.value, 0x44);
    char byte;
    assert_false(memory_read(memory, 0xa0000, &byte, 1)); /* no DMA to devices */
    assert_int_equal(memory_mmio_read(memory, 0xfee00000, 4), 0xffffffff);
    memory_unmap(memory, 0xa0000);
    assert_int_equal(memory_page(memory, 0xa0000).kind, PAGE_RAM);
    assert_false(memory_map_mmio(memory, 0xa0800, 0x1000, &probe_ops, &dev, NULL));
    assert_false(memory_map_mmio(memory, UINT64_MAX & ~0xfffull, 0x2000, &probe_ops, &dev, NULL));
    memory_destroy(memory);
}

static void test_rom(void **state)
{
    static _Alignas(4096) uint8_t rom[4096] = {1, 2, 3, 4};
    struct memory *memory = make(MiB);
    assert_true(memory_map_rom(memory, 0xf0000, sizeof rom, rom, NULL));
    assert_int_equal(memory_mmio_read(memory, 0xf0000, 4), 0x04030201);
    uint32_t value = 0;
    assert_true(memory_write(memory, 0xf0000, &value, 4)); /* swallowed */
    assert_int_equal(rom[0], 1);
    assert_int_equal(memory_page(memory, 0xf0000).kind, PAGE_ROM);
    memory_destroy(memory);
}

static void note_written(void *opaque, gpa_t gpa, unsigned size)
{
    *(uint64_t *)opaque = gpa << 8 | size;
}

static void test_watch(void **state)
{
    struct memory *memory = make(MiB);
    uint64_t written = UINT64_MAX, value = 0;
    memory_set_watcher(memory, note_written, &written);
    memory_watch(memory, 5, PAGE_CODE);
    assert_int_equal(memory_page_flags(memory)[5], PAGE_CODE);
    assert_true(memory_write(memory, 0x4ff8, &value, 8));
    assert_int_equal(written, UINT64_MAX);
    assert_true(memory_write(memory, 0x4ffc, &value, 8)); /* reaches into page 5 */
    assert_int_equal(written, 0x5000 << 8 | 4);
    assert_true(memory_write(memory, 0x5010, &value, 2));
    assert_int_equal(written, 0x5010 << 8 | 2);
    written = UINT64_MAX;
    memory_unwatch(memory, 5, PAGE_CODE);
    assert_int_equal(*memory_page(memory, 0x5000).flags, 0);
    assert_true(memory_write(memory, 0x5000, &value, 8));
    assert_int_equal(written, UINT64_MAX);
    memory_watch(memory, 1 << 20, PAGE_CODE); /* no RAM there: nothing happens */
    memory_destroy(memory);
}

/* The tables are bounded; what does not fit is refused with words. */
static void test_full(void **state)
{
    struct memory *memory = make(MiB);
    struct probe dev = {0};
    struct error err = {""};
    unsigned ports = 0, ranges = 0;
    while (ports < 1000 && memory_map_ports(memory, (uint16_t)(0x1000 + ports), 1, &probe_ops, &dev, &err))
        ports++;
    assert_in_range(ports, 100, 999);
    assert_non_null(strstr(err.message, "port"));
    while (ranges < 1000 && memory_map_mmio(memory, GiB + ranges * 4096ull, 4096, &probe_ops, &dev, &err))
        ranges++;
    assert_in_range(ranges, 30, 999);
    assert_non_null(strstr(err.message, "range"));
    memory_destroy(memory);
}

static void piece_is(struct memory *memory, gpa_t from, gpa_t base, uint64_t size, enum page_kind kind, uint8_t *hva)
{
    struct memory_piece piece;
    assert_true(memory_next_piece(memory, from, &piece));
    assert_int_equal(piece.base, base);
    assert_int_equal(piece.size, size);
    assert_int_equal(piece.kind, kind);
    assert_ptr_equal(piece.hva, hva);
}

/* RAM and ROM in pieces: devices hide what is below, ROM is a piece of its own, neighbours on both sides are one. */
static void test_pieces(void **state)
{
    struct memory *memory = make(4 * GiB);
    struct probe dev = {0};
    struct memory_piece piece;
    uint8_t *ram = memory_ram_base(memory);
    static uint8_t rom[2 * PAGE_SIZE] __attribute__((aligned(4096)));
    piece_is(memory, 0, 0, 3 * GiB, PAGE_RAM, ram);
    piece_is(memory, 0x1800, 0x1000, 3 * GiB - 0x1000, PAGE_RAM, ram + 0x1000);
    piece_is(memory, 3 * GiB, 4 * GiB, GiB, PAGE_RAM, ram + 3 * GiB);
    assert_false(memory_next_piece(memory, 5 * GiB, &piece));
    assert_true(memory_map_mmio(memory, 0xa0000, 0x20000, &probe_ops, &dev, NULL));
    assert_true(memory_map_rom(memory, 0xf0000, sizeof rom, rom, NULL));
    assert_true(memory_map_mmio(memory, 0xf1000, 0x1000, &probe_ops, &dev, NULL));
    assert_true(memory_map_mmio(memory, 0xffffffffffff0000, 0x10000, &probe_ops, &dev, NULL));
    piece_is(memory, 0, 0, 0xa0000, PAGE_RAM, ram);
    piece_is(memory, 0xa0000, 0xc0000, 0x30000, PAGE_RAM, ram + 0xc0000);
    piece_is(memory, 0xf0000, 0xf0000, 0x1000, PAGE_ROM, rom);
    piece_is(memory, 0xf1000, 0xf2000, 3 * GiB - 0xf2000, PAGE_RAM, ram + 0xf2000);
    memory_unmap(memory, 0xf1000);
    piece_is(memory, 0xf0000, 0xf0000, 0x2000, PAGE_ROM, rom);
    /* together they are everything that memory_page() calls RAM or ROM */
    uint64_t pages = 0;
    for (gpa_t from = 0; memory_next_piece(memory, from, &piece); from = piece.base + piece.size)
        pages += piece.size >> PAGE_SHIFT;
    assert_int_equal(pages, (4 * GiB - 0x20000) >> PAGE_SHIFT);
    memory_destroy(memory);
}

/* Device RAM: behind RAM in the memfd, seen where the device says, never where nobody does. */
static void test_device_ram(void **state)
{
    struct memory *memory = memory_create_with_device_ram(1 * MiB, 256 * KiB, NULL, NULL);
    struct error err;
    uint64_t offset, other;
    int first, second;
    assert_non_null(memory);
    assert_int_equal(memory_ram_size(memory), 1 * MiB);
    assert_int_equal(memory_backing_size(memory), 1 * MiB + 256 * KiB);
    assert_true(memory_take_device_ram(memory, 128 * KiB, &offset, &err));
    assert_int_equal(offset, 1 * MiB);
    assert_true(memory_take_device_ram(memory, 64 * KiB, &other, &err));
    assert_int_equal(other, 1 * MiB + 128 * KiB);
    assert_false(memory_take_device_ram(memory, 128 * KiB, &other, &err));
    assert_int_equal(memory_page(memory, 1 * MiB).kind, PAGE_NONE);
    assert_int_equal(memory_frame_gpa(memory, 256), UINT64_MAX);
    assert_int_equal(memory_frame_gpa(memory, 255), 0xff000);

    assert_true(memory_map_ram(memory, 0xe0000000, 128 * KiB, offset, &first, &err));
    struct page_backing page = memory_page(memory, 0xe0001000);
    assert_int_equal(page.kind, PAGE_RAM);
    assert_ptr_equal(page.hva, memory_ram_base(memory) + 1 * MiB + 4096);
    assert_ptr_equal(page.flags, memory_page_flags(memory) + 257);
    assert_int_equal(*page.flags, PAGE_DEVICE);
    assert_int_equal(memory_page(memory, 0xe0020000).kind, PAGE_NONE);
    assert_int_equal(memory_frame_gpa(memory, 257), 0xe0001000);
    uint32_t value = 0x12345678, read = 0;
    assert_true(memory_write(memory, 0xe0001ffe, &value, 4));
    assert_true(memory_read(memory, 0xe0001ffe, &read, 4));
    assert_int_equal(read, value);
    assert_int_equal(memory_ram_base(memory)[1 * MiB + 0x2001], 0x12);
    assert_int_equal(memory_ram_view_read_only(memory)[1 * MiB + 0x2001], 0x12);
    assert_null(memory_ram(memory, 0xe0000000, 4096)); /* it is not the machine's RAM */

    /* A part of it a second time, over RAM; the newest place is the one name of the page. */
    assert_true(memory_map_ram(memory, 0xa0000, 64 * KiB, offset, &second, &err));
    assert_true(memory_read(memory, 0xa1ffe, &read, 4));
    assert_int_equal(read, value);
    assert_int_equal(memory_frame_gpa(memory, 257), 0xa1000);
    struct memory_piece piece;
    assert_true(memory_next_piece(memory, 0xa0000, &piece));
    assert_int_equal(piece.base, 0xa0000);
    assert_int_equal(piece.size, 64 * KiB);
    assert_true(memory_next_piece(memory, 1 * MiB, &piece));
    assert_int_equal(piece.base, 0xe0000000);
    assert_int_equal(piece.size, 128 * KiB);
    assert_int_equal(piece.kind, PAGE_RAM);

    memory_unmap_device(memory, 0xa0000, &second);
    assert_ptr_equal(memory_page(memory, 0xa0000).hva, memory_ram_base(memory) + 0xa0000);
    memory_unmap_device(memory, 0xe0000000, &second); /* not his */
    assert_int_equal(memory_frame_gpa(memory, 257), 0xe0001000);
    memory_unmap_device(memory, 0xe0000000, &first);
    assert_int_equal(memory_frame_gpa(memory, 257), UINT64_MAX);
    memory_destroy(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_slots), cmocka_unit_test(test_ports),
        cmocka_unit_test(test_mmio),  cmocka_unit_test(test_rom),   cmocka_unit_test(test_watch),
        cmocka_unit_test(test_full),  cmocka_unit_test(test_pieces), cmocka_unit_test(test_device_ram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
