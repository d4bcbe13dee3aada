/* The command line: what is accepted, what it means, and the message for everything else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/suggest.h"
#include "base/types.h"
#include "cli/options.h"
#include "mmu/shadow.h"

/* Splits at spaces. */
static bool parse(struct run_options *options, const char *line, struct error *err)
{
    static char copy[512];
    char *words[32], *save = NULL;
    int n = 0;
    strcpy(copy, line);
    for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save))
        words[n++] = word;
    err->message[0] = 0;
    return run_options_parse(options, n, words, err);
}

static void test_defaults(void **state)
{
    struct run_options o;
    struct error err;
    assert_true(parse(&o, "--kernel k", &err));
    assert_string_equal(o.kernel, "k");
    assert_string_equal(o.engine, "auto");
    assert_string_equal(o.serial, "stdio");
    assert_string_equal(o.debugcon, "null");
    assert_int_equal(o.ram_size, 512 * MiB);
    assert_int_equal(o.timeout_ns, 0);
    assert_int_equal(o.clock, CLOCK_HOST);
    assert_int_equal(o.log, LOG_OFF);
    assert_int_equal(o.stat, STAT_NONE);
    assert_int_equal(o.shadow, SHADOW_PROACTIVE);
    assert_int_equal(o.heat, TRANSLATE_HEAT_DEFAULT);
    assert_int_equal(o.verify, 0);
    assert_false(o.no_reboot || o.kaslr || o.help);
    assert_null(o.initrd);
    assert_null(o.append);
    assert_null(o.cpu);
    assert_null(o.trace);
}

static void test_all(void **state)
{
    struct run_options o;
    struct error err;
    assert_true(parse(&o,
                      "-kernel k --initrd=i -append a=b -m 2G -engine interpret --cpu max,-avx2 -serial null "
                      "--debugcon=file:x --kaslr -no-reboot --timeout 0.5 --clock=instructions --stat=json:s.json "
                      "--trace t -log debug -nographic -display none --shadow tagged -heat=0 --verify=100",
                      &err));
    assert_string_equal(o.initrd, "i");
    assert_string_equal(o.append, "a=b");
    assert_int_equal(o.ram_size, 2 * GiB);
    assert_string_equal(o.engine, "interpret");
    assert_string_equal(o.cpu, "max,-avx2");
    assert_string_equal(o.serial, "null");
    assert_string_equal(o.debugcon, "file:x");
    assert_true(o.kaslr && o.no_reboot);
    assert_int_equal(o.timeout_ns, 500000000);
    assert_int_equal(o.clock, CLOCK_INSTRUCTIONS);
    assert_int_equal(o.stat, STAT_JSON);
    assert_string_equal(o.stat_file, "s.json");
    assert_string_equal(o.trace, "t");
    assert_int_equal(o.log, LOG_DEBUG);
    assert_int_equal(o.shadow, SHADOW_TAGGED);
    assert_int_equal(o.heat, 0);
    assert_int_equal(o.verify, 100);
}

static void test_forms(void **state)
{
    struct run_options o;
    struct error err;
    assert_true(parse(&o, "--kernel a --kernel b --stat=json --stat", &err)); /* the last one counts */
    assert_string_equal(o.kernel, "b");
    assert_int_equal(o.stat, STAT_TEXT);
    assert_true(parse(&o, "--kernel k --append=", &err)); /* empty on purpose */
    assert_string_equal(o.append, "");
    assert_true(parse(&o, "--kernel k --append -v", &err)); /* a value may begin with a dash */
    assert_string_equal(o.append, "-v");
    assert_true(parse(&o, "--help", &err) && o.help);
    assert_true(parse(&o, "-h", &err) && o.help);
    assert_true(parse(&o, "--cpu help", &err));
    assert_true(parse(&o, "--memory=64 --kernel k", &err));
    assert_int_equal(o.ram_size, 64 * MiB);
    assert_true(parse(&o, "--verify --kernel k", &err)); /* its value can only follow behind "=" */
    assert_int_equal(o.verify, 1);
    assert_string_equal(o.kernel, "k");
    assert_true(parse(&o, "--heat 1000000 --shadow=ondemand --verify --verify=0 --kernel k", &err));
    assert_int_equal(o.heat, 1000000);
    assert_int_equal(o.shadow, SHADOW_ONDEMAND);
    assert_int_equal(o.verify, 0);
}

/* --boot, QEMU's way; --firmware and its other name. */
static void test_boot(void **state)
{
    struct run_options o;
    struct error err;
    assert_true(parse(&o, "--boot c", &err));
    assert_string_equal(o.boot.order, "c");
    assert_true(o.boot_given);
    assert_false(o.boot.menu || o.boot.retry);
    assert_true(parse(&o, "-boot order=dca,once=n,menu=on,splash-time=5000,reboot-timeout=100,strict=off -bios f", &err));
    assert_string_equal(o.boot.order, "dca");
    assert_string_equal(o.boot.once, "n");
    assert_true(o.boot.menu && o.boot.retry);
    assert_int_equal(o.boot.menu_wait_ms, 5000);
    assert_int_equal(o.boot.retry_ms, 100);
    assert_string_equal(o.firmware, "f");
    assert_true(parse(&o, "--boot menu=on --boot once=d,reboot-timeout=-1", &err)); /* what is not said again stays */
    assert_true(o.boot.menu);
    assert_false(o.boot.retry);
    assert_string_equal(o.boot.order, "");
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"--boot x", "--boot: 'x' is no device to boot from: a is the diskette, c the disk, d the CD-ROM, n the network"},
        {"--boot cac", "--boot: 'c' is there twice"},
        {"--boot order=", "--boot: the devices to boot from are missing: letters of acdn"},
        {"--boot menu=maybe", "--boot: menu is on or off, not 'maybe'"},
        {"--boot order=c,menu", "--boot: 'menu' is not KEY=VALUE, as in order=dc,menu=on"},
        {"--boot splash-time=65536", "--boot: splash-time is a number of milliseconds from 0 to 65535, not '65536'"},
        {"--boot reboot-timeout=-2", "--boot: reboot-timeout is a number of milliseconds from 0 to 65535, not '-2'"},
        {"--boot ordr=c", "--boot: 'ordr' is not one of order, once, menu, splash-time, reboot-timeout (did you mean 'order'?)"},
        {"--boot strict=on", "--boot: strict=on is not possible: firmware tries all that it finds"},
        {"--kernel k --boot c", "--boot is for machines that boot by themselves: leave it out, or leave --kernel out"},
        {"--kernel k --firmware f", "--firmware is for machines that boot by themselves: leave it out, or leave --kernel out"},
        {"--boot c --append x", "--append is for a kernel: name it with --kernel FILE"},
        {"--hda d --initrd x", "--initrd is for a kernel: name it with --kernel FILE"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_false(parse(&o, cases[i].line, &err));
        assert_string_equal(err.message, cases[i].message);
        drives_free(&o.drives);
    }
}

static void test_messages(void **state)
{
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"", "nothing to boot: name a disk image, or a kernel with --kernel FILE ('ring3 help run' shows examples)"},
        {"--hda a -hda b", "two drives at one place: the IDE primary master is to be a and b"},
        {"--drive if=ide", "--drive: which image? file=FILE is missing"},
        {"--kernle k", "unknown option '--kernle' (did you mean '--kernel'?)"},
        {"-inird=x", "unknown option '-inird=x' (did you mean '--initrd'?)"},
        {"--no-rebot", "unknown option '--no-rebot' (did you mean '--no-reboot'?)"},
        {"--frobnicate", "unknown option '--frobnicate' ('ring3 help run' lists them)"},
        {"--", "unknown option '--' ('ring3 help run' lists them)"},
        {"--kernel", "--kernel needs a value: --kernel FILE"},
        {"--kernel=", "--kernel needs a value: --kernel FILE"},
        {"--kernel --initrd x", "--kernel needs a value: --kernel FILE"},
        {"--kaslr=yes", "--kaslr takes no value"},
        {"-m huge", "--memory: 'huge' is not a size (write 512M or 2G)"},
        {"-m -5", "--memory: '-5' is not a size (write 512M or 2G)"},
        {"-m 512X", "--memory: '512X' is not a size: its unit must be one of B, K, M, G, T"},
        {"-m 512MM", "--memory: '512MM' is not a size (write 512M or 2G)"},
        {"-m 0", "--memory: '0' is too little memory: at least 1M is needed"},
        {"-m 1T", "--memory: '1T' is too much memory: at most 512G can be had"},
        {"-m 99999999999999999999T", "--memory: '99999999999999999999T' is more than 64 bits can address"},
        {"-m 1048577B", "--memory: '1048577B' is not a multiple of 4K"},
        {"--timeout 0", "--timeout: '0' leaves no time at all"},
        {"--timeout -1", "--timeout: '-1' is not a number of seconds (write 10 or 0.5)"},
        {"--timeout 5m", "--timeout: '5m' is not a number of seconds (write 10 or 0.5)"},
        {"--timeout 1e30", "--timeout: '1e30' is more than 1000000000 seconds"},
        {"--clock hots", "--clock: 'hots' is not one of host, instructions (did you mean 'host'?)"},
        {"--log loud", "--log: 'loud' is not one of off, warn, info, debug"},
        {"--stat=jsno", "--stat: 'jsno' is not text or json (did you mean 'json'?)"},
        {"--stat=json:", "--stat: a file name is missing behind the colon"},
        {"-display sdl", "--display: 'sdl' is not one of none, text, curses"},
        {"--shadow taged", "--shadow: 'taged' is not one of ondemand, tagged, proactive, single (did you mean 'tagged'?)"},
        {"--shadow", "--shadow needs a value: --shadow POLICY"},
        {"--heat", "--heat needs a value: --heat N"},
        {"--heat warm", "--heat: 'warm' is not a number from 0 to 1000000"},
        {"--heat -1", "--heat: '-1' is not a number from 0 to 1000000"},
        {"--heat 1000001", "--heat: '1000001' is not a number from 0 to 1000000"},
        {"--heat 99999999999999999999", "--heat: '99999999999999999999' is not a number from 0 to 1000000"},
        {"--verify=", "--verify needs a value: --verify N"},
        {"--verify=1x", "--verify: '1x' is not a number from 0 to 1000000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run_options o;
        struct error err;
        assert_false(parse(&o, cases[i].line, &err));
        assert_string_equal(err.message, cases[i].message);
        drives_free(&o.drives);
    }
}

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"1", MiB},
        {"512", 512 * MiB},
        {"512m", 512 * MiB},
        {"0.5G", 512 * MiB},
        {"1.5G", 1536 * MiB},
        {"4096K", 4 * MiB},
        {"7B", 7},
        {"1T", 1024 * GiB},
        {"2g", 2 * GiB},
        {"0.25", 256 * KiB},
        {"16777215T", 16777215ull << 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t bytes;
        assert_true(parse_size(cases[i].text, &bytes, NULL));
        assert_int_equal(bytes, cases[i].bytes);
    }
    uint64_t bytes;
    assert_false(parse_size("", &bytes, NULL));
    assert_false(parse_size("M", &bytes, NULL));
    assert_false(parse_size("1..5", &bytes, NULL));
    assert_false(parse_size("16777216T", &bytes, NULL));
}

static void test_suggestions(void **state)
{
    static const char *const words[] = {"kernel", "initrd", "append"};
    assert_string_equal(suggest_nearest("kernle", words, 3), "kernel");
    assert_string_equal(suggest_nearest("KERNEL", words, 3), "kernel");
    assert_string_equal(suggest_nearest("init", words, 3), "initrd");
    assert_null(suggest_nearest("", words, 3));
    assert_null(suggest_nearest("x", words, 3));
    assert_null(suggest_nearest("something else entirely", words, 3));
    assert_null(suggest_nearest("a word that is far longer than any option could be, so long", words, 3));
}

static void test_nets(void **state)
{
    struct run_options o;
    struct error err;
    assert_true(parse(&o, "--kernel k", &err));
    assert_int_equal(o.nics.count, 0);
    drives_free(&o.drives);
    assert_true(parse(&o, "--kernel k --net user,restrict=on --nic user,model=virtio-net-pci,mac=02:00:00:00:aB:07,net=10.1.0.0/16 "
                          "-net nic", &err));
    assert_int_equal(o.nics.count, 2);
    assert_string_equal(o.nics.nic[0].spec, "user,restrict=on");
    assert_memory_equal(o.nics.nic[0].mac, "\x52\x54\x00\x12\x34\x56", 6);
    assert_string_equal(o.nics.nic[1].spec, "user,net=10.1.0.0/16");
    assert_memory_equal(o.nics.nic[1].mac, "\x02\x00\x00\x00\xab\x07", 6);
    drives_free(&o.drives);
    assert_true(parse(&o, "--kernel k --net user --net none --virtio-rng --virtio-console pty", &err));
    assert_int_equal(o.nics.count, 0);
    assert_true(o.virtio_rng);
    assert_string_equal(o.virtio_console, "pty");
    drives_free(&o.drives);
    static const char *const bad[][2] = {
        {"user,mac=52:54:00:12:34", "is not an address"},       {"user,mac=52:54:00:12:34:5g", "is not an address"},
        {"user,mac=52:54:00:12:34:567", "is not an address"},   {"user,mac=01:00:00:00:00:00", "of a group"},
        {"user,model=e1000", "model=e1000"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        char line[128];
        snprintf(line, sizeof line, "--kernel k --nic %s", bad[i][0]);
        assert_false(parse(&o, line, &err));
        if (strstr(err.message, bad[i][1]) == NULL)
            fail_msg("%s: %s", bad[i][0], err.message);
        drives_free(&o.drives);
    }
    assert_false(parse(&o, "--kernel k --net user --net user --net user --net user --net user --net user --net user --net user "
                           "--net user", &err));
    drives_free(&o.drives);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_nets), cmocka_unit_test(test_all),   cmocka_unit_test(test_forms),
        cmocka_unit_test(test_boot),
        cmocka_unit_test(test_messages), cmocka_unit_test(test_sizes), cmocka_unit_test(test_suggestions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
