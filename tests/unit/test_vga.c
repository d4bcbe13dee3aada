/* The display adapter, through the ports and the window that a PC has. What becomes of a byte on its way to the planes is compared
 * with a model that knows single bits, written from the manual's description of the graphics controller. The tables of registers are
 * those of the PS/2 technical reference for its modes. */
#include "device_test.h"

#include "device/vga.h"
#include "device/vga_internal.h"

#define WINDOW 0xa0000u
#define LFB 0xe0000000u
#define MMIO 0xe1000000u
#define RAM (2 * MiB)

struct vga_bench {
    struct bench bench;
    struct memory *memory;
    struct pci_host *pci;
    struct vga *vga;
    struct screen_picture picture;
    struct screen_text text;
};

static int setup(void **state)
{
    struct vga_bench *b = test_calloc(1, sizeof *b);
    bench_init(&b->bench);
    b->memory = memory_create_with_device_ram(RAM, VGA_MEMORY_SIZE, NULL, NULL);
    b->pci = pci_host_create(b->memory);
    const struct vga_config config = {
        .memory = b->memory, .queue = &b->bench.queue, .pci = b->pci, .slot = 2, .window_base = WINDOW};
    b->vga = vga_create(&config, NULL);
    assert_non_null(b->vga);
    assert_true(memory_map_ports(b->memory, 0x3b0, VGA_MONO_PORTS, &vga_mono_ops, b->vga, NULL));
    assert_true(memory_map_ports(b->memory, 0x3c0, VGA_COLOR_PORTS, &vga_color_ops, b->vga, NULL));
    assert_true(memory_map_ports(b->memory, 0x1ce, VGA_VBE_PORTS, &vga_vbe_ops, b->vga, NULL));
    assert_true(memory_map_mmio(b->memory, WINDOW, VGA_WINDOW_SIZE, &vga_window_ops, b->vga, NULL));
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct vga_bench *b = *state;
    screen_picture_fini(&b->picture);
    screen_text_fini(&b->text);
    vga_destroy(b->vga);
    pci_host_destroy(b->pci);
    memory_destroy(b->memory);
    test_free(b);
    return 0;
}

static void out(struct vga_bench *b, uint16_t port, uint8_t value)
{
    memory_port_write(b->memory, port, 1, value);
}

static uint8_t in(struct vga_bench *b, uint16_t port)
{
    return (uint8_t)memory_port_read(b->memory, port, 1);
}

/* An index and its register in one word, as programs do it. */
static void indexed(struct vga_bench *b, uint16_t port, unsigned index, uint8_t value)
{
    memory_port_write(b->memory, port, 2, index | (uint32_t)value << 8);
}

static void poke(struct vga_bench *b, gpa_t gpa, uint8_t value)
{
    memory_mmio_write(b->memory, gpa, 1, value);
}

static uint8_t peek(struct vga_bench *b, gpa_t gpa)
{
    return (uint8_t)memory_mmio_read(b->memory, gpa, 1);
}

struct mode {
    uint8_t misc, sr[5], cr[25], gr[9], ar[21];
};

static const struct mode mode_4 = {
    .misc = 0x63,
    .sr = {0x03, 0x09, 0x03, 0x00, 0x02},
    .cr = {0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0x00, 0xc1, 0x00, 0x00, 0x00,
           0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x14, 0x00, 0x96, 0xb9, 0xa2, 0xff},
    .gr = {0x00, 0x00, 0x00, 0x00, 0x00, 0x30, 0x0f, 0x0f, 0xff},
    .ar = {0x00, 0x13, 0x15, 0x17, 0x02, 0x04, 0x06, 0x07, 0x10, 0x11, 0x12,
           0x13, 0x14, 0x15, 0x16, 0x17, 0x01, 0x00, 0x03, 0x00, 0x00},
};
static const struct mode mode_12h = {
    .misc = 0xe3,
    .sr = {0x03, 0x01, 0x0f, 0x00, 0x06},
    .cr = {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0x00, 0x00, 0x00,
           0x00, 0x00, 0x00, 0xea, 0x8c, 0xdf, 0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff},
    .gr = {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x0f, 0xff},
    .ar = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a,
           0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x01, 0x00, 0x0f, 0x00, 0x00},
};
static const struct mode mode_13h = {
    .misc = 0x63,
    .sr = {0x03, 0x01, 0x0f, 0x00, 0x0e},
    .cr = {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x00, 0x00, 0x00,
           0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff},
    .gr = {0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x05, 0x0f, 0xff},
    .ar = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
           0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x41, 0x00, 0x0f, 0x00, 0x00},
};

static void set_attribute(struct vga_bench *b, unsigned index, uint8_t value)
{
    in(b, 0x3da);
    out(b, 0x3c0, (uint8_t)(index | 0x20));
    out(b, 0x3c0, value);
}

static void set_mode(struct vga_bench *b, const struct mode *mode)
{
    out(b, 0x3c2, mode->misc);
    for (unsigned i = 0; i < 5; i++)
        indexed(b, 0x3c4, i, mode->sr[i]);
    indexed(b, 0x3d4, 0x11, 0);
    for (unsigned i = 0; i < 25; i++)
        indexed(b, 0x3d4, i, mode->cr[i]);
    for (unsigned i = 0; i < 9; i++)
        indexed(b, 0x3ce, i, mode->gr[i]);
    for (unsigned i = 0; i < 21; i++)
        set_attribute(b, i, mode->ar[i]);
}

/* Each index its own colour: the level of red says which. */
static void set_colors(struct vga_bench *b)
{
    out(b, 0x3c6, 0xff);
    out(b, 0x3c8, 0);
    for (unsigned i = 0; i < 256; i++) {
        out(b, 0x3c9, i & 0x3f);
        out(b, 0x3c9, i >> 6);
        out(b, 0x3c9, 0);
    }
}

static uint32_t color(unsigned i)
{
    unsigned red = i & 0x3f, green = i >> 6;
    return SCREEN_RGB(red << 2 | red >> 4, green << 2 | green >> 4, 0);
}

static uint32_t pixel(struct vga_bench *b, unsigned x, unsigned y)
{
    assert_true(x < b->picture.width && y < b->picture.height);
    return b->picture.pixels[(size_t)y * b->picture.width + x];
}

/* ---- the planes ---- */

#define MODEL_BYTES 64u

struct model {
    uint8_t plane[4][MODEL_BYTES], latch[4];
    uint8_t set_reset, enable, compare, rotate, read_map, mode, ignore, mask, map_mask;
};

static unsigned bit(uint8_t byte, unsigned n)
{
    return byte >> n & 1;
}

static void model_write(struct model *m, unsigned at, uint8_t byte)
{
    unsigned mode = m->mode & 3, turn = m->rotate & 7, function = m->rotate >> 3 & 3;
    for (unsigned p = 0; p < 4; p++) {
        uint8_t result = 0;
        for (unsigned n = 0; n < 8; n++) {
            unsigned data, latch = bit(m->latch[p], n), rotated = bit(byte, (n + turn) % 8), masked = bit(m->mask, n);
            if (mode == 1) {
                result |= (uint8_t)(latch << n);
                continue;
            }
            if (mode == 0)
                data = bit(m->enable, p) ? bit(m->set_reset, p) : rotated;
            else if (mode == 2)
                data = bit(byte, p);
            else
                data = bit(m->set_reset, p);
            if (mode == 3)
                masked &= rotated;
            data = function == 1 ? data & latch : function == 2 ? data | latch : function == 3 ? data ^ latch : data;
            result |= (uint8_t)((masked ? data : latch) << n);
        }
        if (bit(m->map_mask, p))
            m->plane[p][at] = result;
    }
}

static uint8_t model_read(struct model *m, unsigned at)
{
    uint8_t result = 0;
    for (unsigned p = 0; p < 4; p++)
        m->latch[p] = m->plane[p][at];
    if (!(m->mode & 8))
        return m->plane[m->read_map][at];
    for (unsigned n = 0; n < 8; n++) {
        bool same = true;
        for (unsigned p = 0; p < 4; p++)
            same &= !bit(m->ignore, p) || bit(m->latch[p], n) == bit(m->compare, p);
        result |= (uint8_t)(same << n);
    }
    return result;
}

static uint32_t draw(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 8;
}

static void model_set(struct vga_bench *b, struct model *m, uint32_t *seed)
{
    const struct {
        uint16_t port;
        uint8_t index, mask;
        uint8_t *field;
    } registers[] = {
        {0x3ce, 0, 0x0f, &m->set_reset}, {0x3ce, 1, 0x0f, &m->enable}, {0x3ce, 2, 0x0f, &m->compare},
        {0x3ce, 3, 0x1f, &m->rotate},    {0x3ce, 4, 0x03, &m->read_map}, {0x3ce, 5, 0x0b, &m->mode},
        {0x3ce, 7, 0x0f, &m->ignore},    {0x3ce, 8, 0xff, &m->mask},   {0x3c4, 2, 0x0f, &m->map_mask},
    };
    unsigned i = draw(seed) % ARRAY_LEN(registers);
    *registers[i].field = (uint8_t)draw(seed) & registers[i].mask;
    indexed(b, registers[i].port, registers[i].index, *registers[i].field);
}

static void test_planes(void **state)
{
    struct vga_bench *b = *state;
    struct model m = {.ignore = 0x0f, .mask = 0xff, .map_mask = 0x0f};
    uint32_t seed = 1;
    set_mode(b, &mode_12h);
    for (unsigned step = 0; step < 200000; step++) {
        unsigned at = draw(&seed) % MODEL_BYTES;
        switch (draw(&seed) % 4) {
        case 0: model_set(b, &m, &seed); break;
        case 1: assert_int_equal(peek(b, WINDOW + at), model_read(&m, at)); break;
        default: {
            uint8_t byte = (uint8_t)draw(&seed);
            poke(b, WINDOW + at, byte);
            model_write(&m, at, byte);
            break;
        }
        }
    }
    for (unsigned p = 0; p < 4; p++)
        for (unsigned at = 0; at < MODEL_BYTES; at++)
            assert_int_equal(b->vga->vram[4 * at + p], m.plane[p][at]);
}

/* Accesses of several bytes are so many single ones. */
static void test_wide(void **state)
{
    struct vga_bench *b = *state;
    set_mode(b, &mode_12h);
    memory_mmio_write(b->memory, WINDOW, 8, 0x8877665544332211);
    assert_int_equal(memory_mmio_read(b->memory, WINDOW + 2, 4), 0x66554433);
    assert_int_equal(b->vga->vram[4 * 7 + 3], 0x88);
}

/* Even addresses are plane 0, odd ones plane 1; at B8000h and nowhere else. */
static void test_odd_even(void **state)
{
    struct vga_bench *b = *state;
    vga_set_text_mode(b->vga);
    memory_mmio_write(b->memory, 0xb8004, 4, 0x1f421e41);
    const uint8_t *cell = b->vga->vram + 4 * 4;
    assert_int_equal(cell[0], 0x41);
    assert_int_equal(cell[1], 0x1e);
    assert_int_equal(cell[8], 0x42);
    assert_int_equal(cell[9], 0x1f);
    assert_int_equal(peek(b, 0xb8005), 0x1e);
    assert_int_equal(peek(b, 0xa0004), 0xff);
    assert_int_equal(peek(b, 0xb0004), 0xff);
    out(b, 0x3c2, 0x65); /* the memory does not answer */
    assert_int_equal(peek(b, 0xb8005), 0xff);
    poke(b, 0xb8005, 0);
    assert_int_equal(cell[1], 0x1e);
}

/* ---- registers ---- */

static void test_registers(void **state)
{
    struct vga_bench *b = *state;
    set_mode(b, &mode_12h);
    out(b, 0x3d4, 0x01);
    assert_int_equal(in(b, 0x3d5), 0x4f);
    indexed(b, 0x3d4, 0x11, 0x8c); /* protects 0 to 7 */
    indexed(b, 0x3d4, 0x01, 0x11);
    indexed(b, 0x3d4, 0x07, 0x00);
    out(b, 0x3d4, 0x01);
    assert_int_equal(in(b, 0x3d5), 0x4f);
    out(b, 0x3d4, 0x07);
    assert_int_equal(in(b, 0x3d5), 0x2e); /* but bit 4 */
    assert_int_equal(in(b, 0x3b4), 0xff); /* the other place */
    out(b, 0x3c2, 0x66);
    out(b, 0x3b4, 0x0f);
    assert_int_equal(in(b, 0x3b4), 0x0f);
    assert_int_equal(in(b, 0x3d4), 0xff);
    assert_int_equal(in(b, 0x3cc), 0x66);
    out(b, 0x3c2, 0x67);
    set_attribute(b, 0x11, 0x5a);
    in(b, 0x3da);
    out(b, 0x3c0, 0x31);
    assert_int_equal(in(b, 0x3c1), 0x5a);
    assert_int_equal(in(b, 0x3c0), 0x31);
    out(b, 0x3c4, 7); /* indices behind the last register */
    out(b, 0x3c5, 0xff);
    assert_int_equal(in(b, 0x3c5), 0);
    out(b, 0x3ce, 0x0f);
    out(b, 0x3cf, 0xff);
    assert_int_equal(in(b, 0x3cf), 0);
    out(b, 0x3d4, 0xff);
    out(b, 0x3d5, 0xff);
    assert_int_equal(in(b, 0x3d5), 0);
}

static void test_dac(void **state)
{
    struct vga_bench *b = *state;
    out(b, 0x3c8, 0xff);
    for (unsigned i = 0; i < 6; i++) /* the index goes on, and round */
        out(b, 0x3c9, (uint8_t)(0xc0 + i));
    assert_int_equal(in(b, 0x3c8), 1);
    out(b, 0x3c7, 0xff);
    assert_int_equal(in(b, 0x3c7), 3);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(in(b, 0x3c9), i); /* six bits */
    out(b, 0x3c8, 7);
    assert_int_equal(in(b, 0x3c7), 0);
    out(b, 0x3c9, 1);
    out(b, 0x3c9, 2); /* a third is missing: nothing is stored */
    out(b, 0x3c7, 7);
    assert_int_equal(in(b, 0x3c9), 0);
}

/* Mode 3: 900 dots of 28.322 MHz for each of 449 lines, of which 412 and 413 are the retrace. */
static void test_retrace(void **state)
{
    struct vga_bench *b = *state;
    vga_set_text_mode(b->vga);
    unsigned retraces = 0, in_retrace = 0, shown = 0, samples = 0;
    bool before = false;
    for (; b->bench.now_ns < NS_PER_S; bench_advance(&b->bench, 5000), samples++) {
        uint8_t status = in(b, 0x3da);
        bool now = status & 8;
        retraces += now && !before;
        in_retrace += now;
        shown += !(status & 1);
        before = now;
    }
    assert_in_range(retraces, 70, 71);
    assert_in_range(in_retrace * 1000 / samples, 4, 5);   /* 2 of 449 lines */
    assert_in_range(shown * 1000 / samples, 702, 722);     /* 400 of 449 lines, 720 of 900 dots */
}

/* ---- pictures ---- */

static void test_text_picture(void **state)
{
    struct vga_bench *b = *state;
    uint8_t rows[16];
    vga_set_text_mode(b->vga);
    set_colors(b);
    poke(b, 0xb8000 + 2 * (80 * 3 + 5), 'R');
    poke(b, 0xb8000 + 2 * (80 * 3 + 5) + 1, 0x1e);
    poke(b, 0xb8000 + 2, 0xc4); /* a line, whose ninth dot is as the eighth */
    poke(b, 0xb8000 + 4, 0xdc + 0x20); /* its like outside of C0h to DFh */
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(b->picture.width, 720);
    assert_int_equal(b->picture.height, 400);
    vga_font_draw('R', rows);
    for (unsigned y = 0; y < 16; y++)
        for (unsigned x = 0; x < 9; x++)
            assert_int_equal(pixel(b, 5 * 9 + x, 3 * 16 + y), color(x < 8 && bit(rows[y], 7 - x) ? 0x3e : 0x01));
    assert_int_equal(pixel(b, 9 + 8, 7), color(0x07));
    assert_int_equal(pixel(b, 18 + 8, 7), color(0x00));
    /* The cursor: lines 13 and 14 at the first character. */
    for (unsigned y = 0; y < 16; y++)
        assert_int_equal(pixel(b, 4, y), color(y == 13 || y == 14 ? 0x07 : 0x00));
    indexed(b, 0x3d4, 0x0a, 0x2d);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 4, 13), color(0x00));
    /* Panning by five dots: a ninth and four more are gone. */
    set_attribute(b, 0x13, 4);
    assert_true(vga_render(b->vga, &b->picture));
    for (unsigned x = 0; x < 9; x++)
        assert_int_equal(pixel(b, 5 * 9 + x - 5, 3 * 16 + 4), color(x < 8 && bit(rows[4], 7 - x) ? 0x3e : 0x01));
    /* Off. */
    indexed(b, 0x3c4, 1, 0x20);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 5 * 9 + 3, 3 * 16 + 4), 0);
}

static void test_text(void **state)
{
    struct vga_bench *b = *state;
    assert_true(vga_text(b->vga, &b->text)); /* no mode at all is a text mode of one character */
    vga_set_text_mode(b->vga);
    set_colors(b);
    memory_mmio_write(b->memory, 0xb8000 + 2 * (80 * 24 + 79), 2, 0x9fb0);
    indexed(b, 0x3d4, 0x0e, 0x07);
    indexed(b, 0x3d4, 0x0f, 0xcf); /* 1999, the last */
    assert_true(vga_text(b->vga, &b->text));
    assert_int_equal(b->text.columns, 80);
    assert_int_equal(b->text.rows, 25);
    const struct screen_cell *cell = &b->text.cells[1999];
    assert_int_equal(cell->unicode, 0x2591);
    assert_int_equal(cell->code, 0xb0);
    assert_int_equal(cell->foreground, color(0x3f));
    assert_int_equal(cell->background, color(0x01));
    assert_true(cell->blinks);
    assert_int_equal(b->text.cells[0].unicode, ' ');
    assert_true(b->text.cursor);
    assert_int_equal(b->text.cursor_row, 24);
    assert_int_equal(b->text.cursor_column, 79);
    set_attribute(b, 0x10, 0x04); /* bright background instead of blinking */
    indexed(b, 0x3d4, 0x0d, 80); /* one row on */
    indexed(b, 0x3d4, 0x0a, 0x20);
    assert_true(vga_text(b->vga, &b->text));
    assert_int_equal(b->text.cells[23 * 80 + 79].background, color(0x39));
    assert_false(b->text.cells[23 * 80 + 79].blinks);
    assert_false(b->text.cursor);
    /* Split: from line 160 on memory is shown from its beginning. */
    memory_mmio_write(b->memory, 0xb8000, 2, 0x0741);
    indexed(b, 0x3d4, 0x07, 0x0f);
    indexed(b, 0x3d4, 0x09, 0x0f);
    indexed(b, 0x3d4, 0x18, 159);
    assert_true(vga_text(b->vga, &b->text));
    assert_int_equal(b->text.cells[10 * 80].code, 'A');
    set_mode(b, &mode_12h);
    assert_false(vga_text(b->vga, &b->text));
}

static void test_planar_picture(void **state)
{
    struct vga_bench *b = *state;
    set_mode(b, &mode_12h);
    set_colors(b);
    indexed(b, 0x3c4, 2, 0x05); /* planes 0 and 2 */
    poke(b, WINDOW + 80 * 479 + 79, 0x81);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(b->picture.width, 640);
    assert_int_equal(b->picture.height, 480);
    assert_int_equal(pixel(b, 632, 479), color(0x05));
    assert_int_equal(pixel(b, 633, 479), color(0x00));
    assert_int_equal(pixel(b, 639, 479), color(0x05));
    set_attribute(b, 0x12, 0x01); /* only plane 0 is shown */
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 632, 479), color(0x01));
    set_attribute(b, 0x12, 0x0f);
    set_attribute(b, 0x13, 3);
    indexed(b, 0x3d4, 0x0d, 80); /* and a line up */
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 629, 478), color(0x05));
    /* Split after line 99, without panning below. */
    poke(b, WINDOW, 0x80);
    indexed(b, 0x3d4, 0x07, 0x2e);
    indexed(b, 0x3d4, 0x09, 0x00);
    indexed(b, 0x3d4, 0x18, 99);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 0, 100), color(0x00));
    set_attribute(b, 0x10, 0x21);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 0, 100), color(0x05));
    assert_int_equal(pixel(b, 0, 99), color(0x00));
}

/* CGA's 320 by 200 in four colours: pairs of bits, even lines first, odd ones 8 KiB behind. */
static void test_cga_picture(void **state)
{
    struct vga_bench *b = *state;
    set_mode(b, &mode_4);
    set_colors(b);
    poke(b, 0xb8000, 0x1b);
    poke(b, 0xb8001, 0xe4);
    poke(b, 0xba000 + 79, 0x03);
    poke(b, 0xb8000 + 80, 0x40);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(b->picture.width, 640);
    assert_int_equal(b->picture.height, 400);
    static const uint8_t palette[4] = {0x00, 0x13, 0x15, 0x17};
    for (unsigned x = 0; x < 8; x++)
        for (unsigned n = 0; n < 4; n++)
            assert_int_equal(pixel(b, 2 * x + n % 2, n / 2), color(palette[x < 4 ? x : 7 - x]));
    assert_int_equal(pixel(b, 639, 2), color(0x17));
    assert_int_equal(pixel(b, 639, 3), color(0x17));
    assert_int_equal(pixel(b, 639, 1), color(0x00));
    assert_int_equal(pixel(b, 0, 4), color(0x13));
}

/* Mode 13h is plain memory, until a register says otherwise. */
static void test_256(void **state)
{
    struct vga_bench *b = *state;
    set_mode(b, &mode_13h);
    set_colors(b);
    struct page_backing page = memory_page(b->memory, WINDOW + 0xf000);
    assert_int_equal(page.kind, PAGE_RAM);
    assert_ptr_equal(page.hva, b->vga->vram + 0xf000);
    assert_int_equal(memory_page(b->memory, 0xb0000).kind, PAGE_MMIO);
    uint8_t byte = 0xa5;
    assert_true(memory_write(b->memory, WINDOW + 320 * 199 + 319, &byte, 1));
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(b->picture.width, 640);
    assert_int_equal(b->picture.height, 400);
    for (unsigned n = 0; n < 4; n++)
        assert_int_equal(pixel(b, 638 + n % 2, 398 + n / 2), color(0xa5));
    assert_int_equal(pixel(b, 637, 399), color(0));
    out(b, 0x3c6, 0x0f); /* the mask of the table's index */
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 639, 399), color(0x05));

    const struct {
        uint16_t port;
        uint8_t index, other, back;
    } reasons[] = {{0x3c4, 2, 0x07, 0x0f}, {0x3c4, 4, 0x06, 0x0e}, {0x3ce, 1, 0x01, 0x00}, {0x3ce, 3, 0x08, 0x00},
                   {0x3ce, 5, 0x41, 0x40}, {0x3ce, 5, 0x48, 0x40}, {0x3ce, 6, 0x0d, 0x05}, {0x3ce, 8, 0x7f, 0xff}};
    for (unsigned i = 0; i < ARRAY_LEN(reasons); i++) {
        indexed(b, reasons[i].port, reasons[i].index, reasons[i].other);
        assert_int_equal(memory_page(b->memory, WINDOW).kind, PAGE_MMIO);
        indexed(b, reasons[i].port, reasons[i].index, reasons[i].back);
        assert_int_equal(memory_page(b->memory, WINDOW).kind, PAGE_RAM);
    }
    /* Through the device it is the same memory. */
    indexed(b, 0x3c4, 2, 0x07);
    poke(b, WINDOW + 2, 0x11);
    poke(b, WINDOW + 3, 0x22); /* plane 3 is masked */
    assert_int_equal(b->vga->vram[2], 0x11);
    assert_int_equal(b->vga->vram[3], 0x00);
    assert_int_equal(peek(b, WINDOW + 320 * 199 + 319), 0xa5);
    out(b, 0x3c2, 0x61);
    assert_int_equal(memory_page(b->memory, WINDOW).kind, PAGE_MMIO);
    vga_reset(b->vga);
    assert_int_equal(memory_page(b->memory, WINDOW).kind, PAGE_MMIO);
}

/* Unchained ("mode X"): four neighbouring pixels are the four planes of one address. */
static void test_unchained(void **state)
{
    struct vga_bench *b = *state;
    set_mode(b, &mode_13h);
    set_colors(b);
    indexed(b, 0x3c4, 4, 0x06);
    indexed(b, 0x3d4, 0x14, 0x00);
    indexed(b, 0x3d4, 0x17, 0xe3);
    indexed(b, 0x3c4, 2, 0x08);
    poke(b, WINDOW + 80 * 10 + 1, 0x33);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 2 * 7, 20), color(0x33));
    assert_int_equal(pixel(b, 2 * 6, 20), color(0x00));
    indexed(b, 0x3d4, 0x0d, 1); /* four pixels on */
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 2 * 3, 20), color(0x33));
    set_attribute(b, 0x13, 4); /* and two */
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 2 * 1, 20), color(0x33));
}

/* ---- the extensions ---- */

static void vbe(struct vga_bench *b, unsigned index, uint16_t value)
{
    memory_port_write(b->memory, 0x1ce, 2, index);
    memory_port_write(b->memory, 0x1cf, 2, value);
}

static uint16_t vbe_get(struct vga_bench *b, unsigned index)
{
    memory_port_write(b->memory, 0x1ce, 2, index);
    return (uint16_t)memory_port_read(b->memory, 0x1cf, 2);
}

static void vbe_mode(struct vga_bench *b, uint16_t width, uint16_t height, uint16_t bits, uint16_t enable)
{
    vbe(b, VBE_ENABLE, 0);
    vbe(b, VBE_XRES, width);
    vbe(b, VBE_YRES, height);
    vbe(b, VBE_BPP, bits);
    vbe(b, VBE_ENABLE, enable);
}

static void map_bars(struct vga_bench *b)
{
    pci_host_write(b->pci, 2, 0, PCI_BAR0, 4, LFB);
    pci_host_write(b->pci, 2, 0, PCI_BAR0 + 8, 4, MMIO);
    pci_host_write(b->pci, 2, 0, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
}

static void test_vbe(void **state)
{
    struct vga_bench *b = *state;
    map_bars(b);
    assert_int_equal(vbe_get(b, VBE_ID), 0xb0c5);
    vbe(b, VBE_ID, 0xb0c0);
    assert_int_equal(vbe_get(b, VBE_ID), 0xb0c0);
    vbe(b, VBE_ID, 0xb0c6);
    assert_int_equal(vbe_get(b, VBE_ID), 0xb0c0);
    assert_int_equal(vbe_get(b, VBE_MEMORY_64K), 256);
    memset(b->vga->vram, 0x55, VGA_MEMORY_SIZE);
    vbe_mode(b, 1024, 768, 32, VBE_ENABLED | VBE_LINEAR);
    assert_int_equal(vbe_get(b, VBE_VIRT_WIDTH), 1024);
    assert_int_equal(vbe_get(b, VBE_VIRT_HEIGHT), 4096);
    assert_int_equal(b->vga->vram[1024 * 768 * 4 - 1], 0);
    assert_int_equal(b->vga->vram[1024 * 768 * 4], 0x55);
    uint32_t value = 0x00123456;
    assert_true(memory_write(b->memory, LFB + 4 * (1024 * 767 + 1023), &value, 4));
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(b->picture.width, 1024);
    assert_int_equal(b->picture.height, 768);
    assert_int_equal(pixel(b, 1023, 767), 0x123456);
    vbe(b, VBE_XRES, 640); /* not while it is on */
    assert_int_equal(vbe_get(b, VBE_XRES), 1024);
    vbe(b, VBE_Y_OFFSET, 100);
    vbe(b, VBE_X_OFFSET, 16); /* no room: the virtual width is the width */
    assert_int_equal(vbe_get(b, VBE_X_OFFSET), 0);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 1023, 667), 0x123456);
    vbe(b, VBE_ENABLE, VBE_ENABLED | VBE_GET_CAPABILITIES);
    assert_int_equal(vbe_get(b, VBE_XRES), VBE_XRES_MAX);
    assert_int_equal(vbe_get(b, VBE_BPP), 32);
    vbe(b, VBE_ENABLE, 0);
    vga_set_text_mode(b->vga);
    assert_true(vga_text(b->vga, &b->text));
}

static void test_vbe_depths(void **state)
{
    struct vga_bench *b = *state;
    uint8_t *vram = b->vga->vram;
    set_colors(b);
    vbe_mode(b, 640, 480, 8, VBE_ENABLED);
    vram[640 * 2 + 3] = 0x77;
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 3, 2), color(0x77));
    vbe(b, VBE_ENABLE, VBE_ENABLED | VBE_8BIT_DAC); /* the colours stay */
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 3, 2), color(0x77));
    out(b, 0x3c8, 0x77);
    for (unsigned i = 0; i < 3; i++)
        out(b, 0x3c9, (uint8_t)(0xfd + i));
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 3, 2), 0xfdfeff);
    vbe_mode(b, 640, 480, 15, VBE_ENABLED);
    memcpy(vram + 2 * (640 * 2 + 3), &(uint16_t){0x10 << 10 | 0x1f << 5 | 0x01}, 2);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 3, 2), 0x84ff08);
    vbe_mode(b, 640, 480, 16, VBE_ENABLED);
    memcpy(vram + 2 * (640 * 2 + 3), &(uint16_t){0x10 << 11 | 0x3f << 5 | 0x01}, 2);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 3, 2), 0x84ff08);
    vbe_mode(b, 640, 480, 24, VBE_ENABLED);
    memcpy(vram + 3 * (640 * 2 + 3), "\x01\x02\x03", 3);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(pixel(b, 3, 2), 0x030201);
    vbe_mode(b, 800, 600, 4, VBE_ENABLED);
    indexed(b, 0x3ce, 8, 0xff);
    indexed(b, 0x3ce, 5, 0x00);
    indexed(b, 0x3c4, 2, 0x02);
    poke(b, WINDOW + 100 * 2, 0x10);
    set_attribute(b, 2, 0x2a);
    set_attribute(b, 0x12, 0x0f);
    assert_true(vga_render(b->vga, &b->picture));
    assert_int_equal(b->picture.width, 800);
    out(b, 0x3c7, 0x2a);
    assert_int_equal(pixel(b, 3, 2) >> 18, 0x2a);
    assert_int_equal(pixel(b, 4, 2) >> 18, 0);
}

/* 64 KiB of memory at A0000h, any that the guest chooses. */
static void test_vbe_bank(void **state)
{
    struct vga_bench *b = *state;
    indexed(b, 0x3ce, 8, 0xff);
    vbe_mode(b, 1024, 768, 32, VBE_ENABLED);
    vbe(b, VBE_BANK, 47);
    struct page_backing page = memory_page(b->memory, WINDOW + 0x1000);
    assert_int_equal(page.kind, PAGE_RAM);
    assert_ptr_equal(page.hva, b->vga->vram + 47 * 65536 + 0x1000);
    vbe(b, VBE_BANK, 0xffff);
    assert_ptr_equal(memory_page(b->memory, WINDOW).hva, b->vga->vram + 255 * 65536);
    indexed(b, 0x3ce, 8, 0x0f); /* through the device: the same place */
    poke(b, WINDOW + 5, 0xff);
    assert_int_equal(b->vga->vram[255 * 65536 + 5] & 0x0f, 0x0f);
    vbe(b, VBE_ENABLE, 0);
    assert_int_equal(vbe_get(b, VBE_BANK), 0);
}

/* Whatever the registers are told, the picture lies within the memory. */
static void test_vbe_hostile(void **state)
{
    struct vga_bench *b = *state;
    static const uint16_t values[] = {0, 1, 7, 8, 0x0fff, 0x1000, 0x7fff, 0x8000, 0xfff8, 0xffff};
    static const uint16_t depths[] = {0, 1, 4, 8, 15, 16, 24, 32, 33, 0xffff};
    uint32_t seed = 7;
    for (unsigned i = 0; i < 300; i++) {
        vbe_mode(b, values[draw(&seed) % 10], values[draw(&seed) % 10], depths[draw(&seed) % 10], VBE_ENABLED | VBE_NO_CLEAR);
        for (unsigned n = 0; n < 4; n++)
            vbe(b, draw(&seed) % 12, values[draw(&seed) % 10]);
        if (!vga_vbe_enabled(b->vga))
            continue;
        uint64_t planes = vga_vbe_bits(b->vga) == 4 ? 4 : 1;
        vbe(b, VBE_ENABLE, VBE_ENABLED); /* without the capabilities */
        uint64_t last_line = (uint64_t)vga_vbe_pitch(b->vga) * (vbe_get(b, VBE_YRES) - 1u);
        uint64_t end = vga_vbe_start(b->vga) + last_line + (uint64_t)vbe_get(b, VBE_XRES) * vga_vbe_bits(b->vga) / 8 / planes;
        assert_true(end * planes <= VGA_MEMORY_SIZE);
        assert_true(vbe_get(b, VBE_XRES) >= 8 && vbe_get(b, VBE_YRES) >= 1);
        if (i % 20 == 0)
            assert_true(vga_render(b->vga, &b->picture));
        in(b, 0x3da);
    }
}

static void test_mmio(void **state)
{
    struct vga_bench *b = *state;
    map_bars(b);
    assert_int_equal(memory_mmio_read(b->memory, MMIO + 0x500, 2), 0xb0c5);
    memory_mmio_write(b->memory, MMIO + 0x502, 2, 320);
    memory_mmio_write(b->memory, MMIO + 0x504, 2, 200);
    memory_mmio_write(b->memory, MMIO + 0x506, 2, 16);
    memory_mmio_write(b->memory, MMIO + 0x508, 2, VBE_ENABLED);
    assert_int_equal(vbe_get(b, VBE_XRES), 320);
    assert_int_equal(vbe_get(b, VBE_ENABLE), VBE_ENABLED);
    assert_int_equal(memory_mmio_read(b->memory, MMIO + 0x514, 2), 256);
    memory_mmio_write(b->memory, MMIO + 0x402, 1, 0x67); /* 3C2h */
    assert_int_equal(in(b, 0x3cc), 0x67);
    assert_int_equal(memory_mmio_read(b->memory, MMIO + 0x40c, 1), 0x67);
    assert_int_equal(memory_mmio_read(b->memory, MMIO, 8), 0); /* no EDID */
    assert_int_equal(memory_mmio_read(b->memory, MMIO + 0x600, 4), 8);
    assert_int_equal(memory_mmio_read(b->memory, MMIO + 0x604, 4), 0x1e1e1e1e);
    assert_int_equal(pci_host_read(b->pci, 2, 0, 0, 4), 0x11111234);
    assert_int_equal(pci_host_read(b->pci, 2, 0, 8, 4), 0x03000002);
    /* Its memory at the window's very place does not disturb the window. */
    pci_host_write(b->pci, 2, 0, PCI_BAR0 + 8, 4, WINDOW);
    assert_int_equal(memory_mmio_read(b->memory, WINDOW + 0x500, 2), 0xb0c5);
    pci_host_write(b->pci, 2, 0, PCI_BAR0 + 8, 4, MMIO);
    assert_string_equal(memory_mmio_name(b->memory, WINDOW + 0x10000), "VGA memory");
}

/* Every character that is not empty is drawn, and letters differ. */
static void test_font(void **state)
{
    uint8_t all[256][16];
    for (unsigned i = 0; i < 256; i++)
        vga_font_draw((uint8_t)i, all[i]);
    for (unsigned i = '!'; i < 0x7f; i++) {
        assert_memory_not_equal(all[i], all[' '], 16);
        for (unsigned j = i + 1; j < 0x7f; j++)
            assert_memory_not_equal(all[i], all[j], 16);
    }
    for (unsigned i = 0xb3; i < 0xdf; i++)
        for (unsigned j = i + 1; j < 0xdf; j++)
            assert_memory_not_equal(all[i], all[j], 16);
    for (unsigned y = 0; y < 16; y++) {
        assert_int_equal(all[0xdb][y], 0xff);
        assert_int_equal(all[0xc5][y] & 0x18, 0x18); /* the cross reaches all sides */
    }
    assert_int_equal(all[0xc5][7], 0xff);
    assert_int_equal(screen_cp437('A'), 'A');
    assert_int_equal(screen_cp437(0x80), 0xc7);
    assert_int_equal(screen_cp437(0xfe), 0x25a0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_planes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wide, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_even, setup, teardown),
        cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dac, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retrace, setup, teardown),
        cmocka_unit_test_setup_teardown(test_text_picture, setup, teardown),
        cmocka_unit_test_setup_teardown(test_text, setup, teardown),
        cmocka_unit_test_setup_teardown(test_planar_picture, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cga_picture, setup, teardown),
        cmocka_unit_test_setup_teardown(test_256, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unchained, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vbe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vbe_depths, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vbe_bank, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vbe_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mmio, setup, teardown),
        cmocka_unit_test(test_font),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
