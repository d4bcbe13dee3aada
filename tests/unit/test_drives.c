/* Drives on the command line: what each way of naming one means, where it goes, what is refused and in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/types.h"
#include "cli/drives.h"

struct given {
    const char *option, *value; /* option NULL: positional */
};

static bool parse(struct drive_list *list, const struct given *given, unsigned count, bool snapshot, struct error *err)
{
    *list = (struct drive_list){0};
    for (unsigned i = 0; i < count; i++)
        if (given[i].option == NULL ? !drives_add_positional(list, given[i].value, err)
                                    : !drives_add(list, given[i].option, given[i].value, err))
            return false;
    return drives_finish(list, snapshot, err);
}
#define PARSE(list, snapshot, err, ...)                                                                                \
    parse(list, (const struct given[]){__VA_ARGS__}, ARRAY_LEN(((const struct given[]){__VA_ARGS__})), snapshot, err)

static void test_keys(void **state)
{
    struct drive_list list;
    struct error err;
    assert_true(PARSE(&list, false, &err,
                      {"drive", "file=a,,b,if=virtio,readonly=on,cache=unsafe,index=3,bootindex=7,id=x,serial=S 1,format=raw"}));
    const struct drive_config *drive = &list.drive[0];
    assert_string_equal(drive->file, "a,b");
    assert_int_equal(drive->interface, DRIVE_VIRTIO);
    assert_true(drive->read_only && drive->unsafe && drive->raw);
    assert_false(drive->snapshot || drive->cdrom);
    assert_int_equal(drive->index, 3);
    assert_int_equal(drive->boot_index, 7);
    assert_string_equal(drive->id, "x");
    assert_string_equal(drive->serial, "S 1");
    drives_free(&list);
    assert_true(PARSE(&list, true, &err, {"drive", "media=cdrom"}, {"hdb", "disk"}));
    assert_null(list.drive[0].file);
    assert_true(list.drive[0].cdrom && list.drive[0].read_only && list.drive[1].snapshot);
    assert_int_equal(list.drive[1].boot_index, -1);
    drives_free(&list);
}

static void test_places(void **state)
{
    struct drive_list list;
    struct error err;
    char iso[] = "/tmp/test_drives.XXXXXX";
    int fd = mkstemp(iso);
    assert_int_equal(pwrite(fd, "CD001", 5, 32769), 5);
    close(fd);
    assert_true(PARSE(&list, false, &err, {"drive", "file=late"}, {NULL, iso}, {NULL, "disk"}, {"hdd", "fixed"}, {"fda", "f"},
                      {"drive", "file=v,if=virtio"}, {"drive", "file=w,if=virtio,index=0"}));
    const struct {
        enum drive_interface interface;
        unsigned index;
        bool cdrom;
    } expected[] = {{DRIVE_IDE, 1, false}, {DRIVE_IDE, 2, true},    {DRIVE_IDE, 0, false},   {DRIVE_IDE, 3, false},
                    {DRIVE_FLOPPY, 0, false}, {DRIVE_VIRTIO, 1, false}, {DRIVE_VIRTIO, 0, false}};
    for (unsigned i = 0; i < ARRAY_LEN(expected); i++) {
        assert_int_equal(list.drive[i].interface, expected[i].interface);
        assert_int_equal(list.drive[i].index, expected[i].index);
        assert_int_equal(list.drive[i].cdrom, expected[i].cdrom);
    }
    drives_free(&list);
    /* The CD-ROM's usual place is taken. */
    assert_true(PARSE(&list, false, &err, {"hdc", "disk"}, {"cdrom", "cd"}));
    assert_int_equal(list.drive[1].index, 0);
    drives_free(&list);
    unlink(iso);
}

static void test_messages(void **state)
{
    static const struct {
        const char *value, *message;
    } cases[] = {
        {"disk.img", "'disk.img' is not KEY=VALUE (the image is file=disk.img)"},
        {"if=ide", "which image? file=FILE is missing"},
        {"file=", "file needs a value"},
        {"file=a,", "'' is not KEY=VALUE (the image is file=)"},
        {"file=a,readonly", "readonly needs a value"},
        {"file=a,readonly=yes", "readonly: 'yes' is not one of off, on"},
        {"file=a,if=sata", "if: 'sata' is not one of ide, virtio, floppy"},
        {"file=a,media=cd", "media: 'cd' is not one of disk, cdrom"},
        {"file=a,media=cdrom,if=virtio", "media=cdrom is possible with if=ide only"},
        {"file=a,cache=none", "cache: 'none' is not one of writeback, unsafe"},
        {"file=a,index=-1", "index: '-1' is not a number from 0 to 15"},
        {"file=a,index=4", "index 4: if=ide has the places 0 to 3"},
        {"file=a,if=floppy,index=2", "index 2: if=floppy has the places 0 to 1"},
        {"file=a,bootindex=x", "bootindex: 'x' is not a number from 0 to 9999"},
        {"file=a,format=qcow2", "format: only 'raw' images can be used: convert it with 'qemu-img convert -O raw a disk.raw'"},
        {"file=a,serial=123456789012345678901", "serial: a serial number has at most 20 characters, all of them printable ASCII"},
        {"file=a,snapshto=on", "there is no 'snapshto' (did you mean 'snapshot'?)"},
    };
    struct drive_list list;
    struct error err;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        assert_false(PARSE(&list, false, &err, {"drive", cases[i].value}));
        assert_string_equal(err.message, cases[i].message);
        drives_free(&list);
    }
    assert_false(PARSE(&list, false, &err, {"fda", "x"}, {"drive", "file=y,if=floppy,index=0"}));
    assert_string_equal(err.message, "two drives at one place: diskette drive A: is to be x and y");
    drives_free(&list);
    assert_false(PARSE(&list, false, &err, {"hda", "1"}, {"hdb", "2"}, {"hdc", "3"}, {"hdd", "4"}, {NULL, "5"}));
    assert_string_equal(err.message, "5: there is no place left: at most 4 ide drives are possible; if=virtio has more");
    drives_free(&list);
    list = (struct drive_list){0};
    for (unsigned i = 0; i < DRIVES_MAX; i++)
        assert_true(drives_add(&list, "drive", "file=a,if=virtio", &err));
    assert_false(drives_add(&list, "drive", "file=a,if=virtio", &err));
    drives_free(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
