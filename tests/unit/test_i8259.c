/* The interrupt controllers, by the 8259A data sheet's modes. */
#include "device_test.h"

#include "device/i8259.h"

enum { INTR };

struct fixture {
    struct bench bench;
    struct i8259 *pic;
};

static void master(struct fixture *f, unsigned offset, uint8_t value)
{
    bench_write(&i8259_master_ops, f->pic, offset, 1, value);
}

static void slave(struct fixture *f, unsigned offset, uint8_t value)
{
    bench_write(&i8259_slave_ops, f->pic, offset, 1, value);
}

static uint8_t master_in(struct fixture *f, unsigned offset)
{
    return (uint8_t)bench_read(&i8259_master_ops, f->pic, offset, 1);
}

static uint8_t slave_in(struct fixture *f, unsigned offset)
{
    return (uint8_t)bench_read(&i8259_slave_ops, f->pic, offset, 1);
}

static void program(struct fixture *f, uint8_t master_icw4, uint8_t slave_icw4)
{
    static const uint8_t bases[2] = {0x20, 0x28};
    master(f, 0, 0x11);
    master(f, 1, bases[0]);
    master(f, 1, 0x04);
    master(f, 1, master_icw4);
    slave(f, 0, 0x11);
    slave(f, 1, bases[1]);
    slave(f, 1, 0x02);
    slave(f, 1, slave_icw4);
}

static void pulse(struct fixture *f, unsigned n)
{
    i8259_set_irq(f->pic, n, true);
    i8259_set_irq(f->pic, n, false);
}

static struct fixture *start(struct fixture *f)
{
    bench_init(&f->bench);
    f->pic = i8259_create(bench_line(&f->bench, INTR));
    program(f, 0x01, 0x01);
    return f;
}

static void edge_and_priority(void **state)
{
    struct fixture f;
    start(&f);
    assert_false(i8259_pending(f.pic));
    pulse(&f, 4);
    assert_true(f.bench.line[INTR].level);
    pulse(&f, 1);
    assert_int_equal(i8259_ack(f.pic), 0x21);
    assert_false(i8259_pending(f.pic)); /* 4 waits below 1 */
    assert_int_equal(master_in(&f, 0), 0x10);
    master(&f, 0, 0x0b);
    assert_int_equal(master_in(&f, 0), 0x02);
    pulse(&f, 0); /* nests above it */
    assert_int_equal(i8259_ack(f.pic), 0x20);
    master(&f, 0, 0x20);
    assert_int_equal(master_in(&f, 0), 0x02);
    master(&f, 0, 0x20);
    assert_int_equal(i8259_ack(f.pic), 0x24);
    master(&f, 0, 0x64); /* specific */
    assert_int_equal(master_in(&f, 0), 0x00);
    /* A line that stays high asks once. */
    i8259_set_irq(f.pic, 5, true);
    assert_int_equal(i8259_ack(f.pic), 0x25);
    master(&f, 0, 0x20);
    assert_false(i8259_pending(f.pic));
    i8259_destroy(f.pic);
}

static void masking_and_spurious(void **state)
{
    struct fixture f;
    start(&f);
    master(&f, 1, 0x10);
    assert_int_equal(master_in(&f, 1), 0x10);
    pulse(&f, 4);
    assert_false(f.bench.line[INTR].level);
    master(&f, 1, 0x00);
    assert_true(f.bench.line[INTR].level);
    master(&f, 1, 0xff); /* taken back between INTR and INTA */
    assert_int_equal(i8259_ack(f.pic), 0x27);
    master(&f, 0, 0x0b);
    assert_int_equal(master_in(&f, 0), 0x00); /* a spurious interrupt is not in service */
    i8259_destroy(f.pic);
}

static void cascade(void **state)
{
    struct fixture f;
    start(&f);
    pulse(&f, 12);
    pulse(&f, 8);
    assert_int_equal(master_in(&f, 0), 0x04);
    assert_int_equal(i8259_ack(f.pic), 0x28);
    assert_false(i8259_pending(f.pic));
    pulse(&f, 3); /* below the slave */
    assert_false(i8259_pending(f.pic));
    slave(&f, 0, 0x20);
    master(&f, 0, 0x20);
    assert_int_equal(i8259_ack(f.pic), 0x2c);
    slave(&f, 0, 0x20);
    master(&f, 0, 0x20);
    assert_int_equal(i8259_ack(f.pic), 0x23);
    master(&f, 0, 0x20);
    i8259_set_irq(f.pic, 2, true); /* not wired */
    assert_false(i8259_pending(f.pic));
    pulse(&f, 15);
    slave(&f, 1, 0x80); /* the request vanishes on both chips */
    assert_int_equal(i8259_ack(f.pic), 0x27);
    /* A slave that does not answer to 2 leaves the bus floating. */
    slave(&f, 0, 0x11);
    slave(&f, 1, 0x28);
    slave(&f, 1, 0x03);
    slave(&f, 1, 0x01);
    pulse(&f, 9);
    assert_int_equal(i8259_ack(f.pic), 0xff);
    i8259_destroy(f.pic);
}

static void level_triggered(void **state)
{
    struct fixture f;
    start(&f);
    bench_write(&i8259_elcr_ops, f.pic, 0, 2, 0xffff);
    assert_int_equal(bench_read(&i8259_elcr_ops, f.pic, 0, 2), 0xdef8);
    i8259_set_irq(f.pic, 11, true);
    assert_int_equal(i8259_ack(f.pic), 0x2b);
    slave(&f, 0, 0x20);
    master(&f, 0, 0x20);
    assert_true(i8259_pending(f.pic)); /* still high */
    i8259_set_irq(f.pic, 11, false);
    assert_false(i8259_pending(f.pic));
    i8259_set_irq(f.pic, 5, true);
    master(&f, 0, 0x11); /* initialisation does not forget a level */
    assert_int_equal(master_in(&f, 0) & 0x20, 0x20);
    i8259_destroy(f.pic);
}

static void rotation(void **state)
{
    struct fixture f;
    start(&f);
    pulse(&f, 4);
    assert_int_equal(i8259_ack(f.pic), 0x24);
    pulse(&f, 4);
    pulse(&f, 6);
    master(&f, 0, 0xa0); /* rotate on EOI: 4 is now the lowest, 5 the highest */
    assert_int_equal(i8259_ack(f.pic), 0x26);
    master(&f, 0, 0x20);
    master(&f, 0, 0xc3); /* 3 lowest */
    pulse(&f, 3);
    assert_int_equal(i8259_ack(f.pic), 0x24);
    master(&f, 0, 0xe4); /* rotate on specific EOI */
    assert_int_equal(i8259_ack(f.pic), 0x23);
    master(&f, 0, 0x63);
    program(&f, 0x03, 0x01); /* AEOI */
    master(&f, 0, 0x80);     /* rotating */
    pulse(&f, 0);
    pulse(&f, 1);
    assert_int_equal(i8259_ack(f.pic), 0x20);
    pulse(&f, 0);
    assert_int_equal(i8259_ack(f.pic), 0x21);
    assert_int_equal(i8259_ack(f.pic), 0x20);
    master(&f, 0, 0x0b);
    assert_int_equal(master_in(&f, 0), 0x00);
    master(&f, 0, 0x00);
    i8259_destroy(f.pic);
}

static void special_mask_mode(void **state)
{
    struct fixture f;
    start(&f);
    pulse(&f, 1);
    assert_int_equal(i8259_ack(f.pic), 0x21);
    pulse(&f, 6);
    assert_false(i8259_pending(f.pic));
    master(&f, 1, 0x02);
    assert_false(i8259_pending(f.pic));
    master(&f, 0, 0x68);
    assert_int_equal(i8259_ack(f.pic), 0x26); /* lower, but the masked level blocks nothing */
    master(&f, 0, 0x20);
    master(&f, 0, 0x20); /* does not see the masked level */
    master(&f, 0, 0x0b);
    assert_int_equal(master_in(&f, 0), 0x02);
    master(&f, 0, 0x48);
    master(&f, 0, 0x20);
    assert_int_equal(master_in(&f, 0), 0x00);
    i8259_destroy(f.pic);
}

static void special_fully_nested(void **state)
{
    struct fixture f;
    start(&f);
    program(&f, 0x11, 0x01);
    pulse(&f, 12);
    assert_int_equal(i8259_ack(f.pic), 0x2c);
    pulse(&f, 13);
    pulse(&f, 5);
    assert_false(i8259_pending(f.pic));
    pulse(&f, 8); /* the same slave, a better input */
    assert_int_equal(i8259_ack(f.pic), 0x28);
    slave(&f, 0, 0x20);
    slave(&f, 0, 0x0b);
    assert_int_equal(slave_in(&f, 0), 0x10);
    i8259_destroy(f.pic);
}

static void polling(void **state)
{
    struct fixture f;
    start(&f);
    master(&f, 0, 0x0c);
    assert_int_equal(master_in(&f, 0), 0x00);
    pulse(&f, 9);
    master(&f, 0, 0x0c);
    assert_int_equal(master_in(&f, 1), 0x82); /* either register */
    assert_int_equal(master_in(&f, 1), 0x00); /* only the next read */
    slave(&f, 0, 0x0c);
    assert_int_equal(slave_in(&f, 0), 0x81);
    slave(&f, 0, 0x0b);
    assert_int_equal(slave_in(&f, 0), 0x02);
    i8259_destroy(f.pic);
}

static void initialisation(void **state)
{
    struct fixture f;
    start(&f);
    i8259_set_irq(f.pic, 3, true);
    master(&f, 1, 0xff);
    master(&f, 0, 0x13); /* single: no ICW3 */
    assert_int_equal(master_in(&f, 1), 0x00);
    assert_int_equal(master_in(&f, 0), 0x00); /* a high line needs a new edge */
    master(&f, 1, 0x47);
    master(&f, 1, 0x01);
    master(&f, 1, 0x55);
    assert_int_equal(master_in(&f, 1), 0x55);
    master(&f, 1, 0x00);
    pulse(&f, 6);
    assert_int_equal(i8259_ack(f.pic), 0x46);
    master(&f, 0, 0x16); /* no ICW4, interval 4: the low byte of a CALL */
    master(&f, 1, 0x00);
    pulse(&f, 6);
    assert_int_equal(i8259_ack(f.pic), 0x18);
    i8259_reset(f.pic);
    assert_false(i8259_pending(f.pic));
    i8259_destroy(f.pic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(edge_and_priority),
        cmocka_unit_test(masking_and_spurious),
        cmocka_unit_test(cascade),
        cmocka_unit_test(level_triggered),
        cmocka_unit_test(rotation),
        cmocka_unit_test(special_mask_mode),
        cmocka_unit_test(special_fully_nested),
        cmocka_unit_test(polling),
        cmocka_unit_test(initialisation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
