/* The option table and its parser.
 *
 * Written for people who know QEMU: names may have one dash or two, values follow as the next word or behind "=", `-m
 * 512` means MiB. An option given twice counts as given last. */
#include "cli/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "base/types.h"
#include "cli/boot_option.h"
#include "engine/engine.h"
#include "engine/trace.h"
#include "gdb/gdb.h"
#include "memory/memory.h"
#include "mmu/shadow.h"

#define RAM_MIN (1 * MiB)
#define RAM_DEFAULT (512 * MiB)
#define SECONDS_MAX 1000000000.0
#define COUNT_MAX 1000000u

enum option_kind {
    OPTION_FLAG,    /* bool */
    OPTION_TEXT,    /* const char * */
    OPTION_SIZE,    /* uint64_t, bytes of RAM */
    OPTION_LENGTH,  /* uint64_t, bytes of a timeline */
    OPTION_SECONDS, /* uint64_t, ns */
    OPTION_CHOICE,  /* an enum that numbers `choices` */
    OPTION_STAT,    /* [=FORM[:FILE]] */
    OPTION_COUNT,   /* unsigned, up to a million */
    OPTION_EVERY,   /* [=N]: unsigned, 1 without a value */
    OPTION_CPUS,    /* unsigned: 1 to MACHINE_CPUS_MAX */
    OPTION_DRIVE,   /* struct drive_list: each one adds a drive */
    OPTION_BOOT,    /* struct boot_choice: cli/boot_option.h */
    OPTION_NIC,     /* struct nic_list: each one adds a network card */
    OPTION_HABIT,   /* accepted because QEMU users type it; what it asks for is so anyway */
};

struct option_row {
    const char *name;
    char letter; /* 0: none */
    enum option_kind kind;
    size_t offset;     /* of the field in struct run_options */
    const char *value; /* what --help calls the value; NULL: none. OPTION_HABIT: the only value that is accepted */
    const char *const *choices; /* NULL-terminated */
    const char *help;           /* lines; NULL: another name, or one that --help is silent about */
};

static const char *const trap_kernel_choices[] = {"direct", "translate", "interpret", NULL};
static const char *const switch_choices[] = {"off", "on", NULL};
static const char *const display_choices[] = {"none", "text", "curses", NULL};
static const char *const vga_choices[] = {"std", "none", NULL};
static const char *const gdb_arch_choices[] = {"auto", "i386", "x86-64", NULL};
static const char *const clock_choices[] = {"host", "instructions", NULL};
static const char *const log_choices[] = {"off", "warn", "info", "debug", NULL};
static const char *const shadow_choices[] = {"ondemand", "tagged", "proactive", "single", NULL};
_Static_assert(SHADOW_ONDEMAND == 0 && SHADOW_TAGGED == 1 && SHADOW_PROACTIVE == 2 && SHADOW_SINGLE == 3,
               "numbers shadow_choices");
_Static_assert(TRAP_KERNEL_DIRECT == 0 && TRAP_KERNEL_TRANSLATE == 1 && TRAP_KERNEL_INTERPRET == 2,
               "numbers trap_kernel_choices");
_Static_assert(DISPLAY_NONE == 0 && DISPLAY_TEXT == 1 && DISPLAY_CURSES == 2, "numbers display_choices");
_Static_assert(VGA_STD == 0 && VGA_NONE == 1, "numbers vga_choices");
_Static_assert(GDB_ARCH_AUTO == 0 && GDB_ARCH_I386 == 1 && GDB_ARCH_X86_64 == 2, "numbers gdb_arch_choices");
_Static_assert(CLOCK_HOST == 0 && CLOCK_INSTRUCTIONS == 1, "numbers clock_choices");
_Static_assert(LOG_OFF == 0 && LOG_WARN == 1 && LOG_INFO == 2 && LOG_DEBUG == 3, "numbers log_choices");
_Static_assert(sizeof(enum clock_kind) == sizeof(int) && sizeof(enum log_level) == sizeof(int), "stored as int");

#define FIELD(name) offsetof(struct run_options, name)

static const struct option_row rows[] = {
    {"kernel", 0, OPTION_TEXT, FIELD(kernel), "FILE", NULL,
     "the kernel: bzImage, ELF (vmlinux, PVH, or any 32- or 64-bit program)"},
    {"initrd", 0, OPTION_TEXT, FIELD(initrd), "FILE", NULL, "its initial RAM disk"},
    {"append", 0, OPTION_TEXT, FIELD(append), "TEXT", NULL, "its command line, such as \"console=ttyS0\""},
    {"drive", 0, OPTION_DRIVE, FIELD(drives), "file=F[,...]", NULL,
     "a disk image: if=ide|virtio|floppy, media=disk|cdrom,\nreadonly=on, snapshot=on, index=N, bootindex=N, cache=unsafe"},
    {"hda", 0, OPTION_DRIVE, FIELD(drives), "FILE", NULL, "the first IDE disk; also --hdb, --hdc, --hdd"},
    {"hdb", 0, OPTION_DRIVE, FIELD(drives), "FILE", NULL, NULL},
    {"hdc", 0, OPTION_DRIVE, FIELD(drives), "FILE", NULL, NULL},
    {"hdd", 0, OPTION_DRIVE, FIELD(drives), "FILE", NULL, NULL},
    {"cdrom", 0, OPTION_DRIVE, FIELD(drives), "FILE", NULL, "a CD-ROM drive with this ISO image"},
    {"fda", 0, OPTION_DRIVE, FIELD(drives), "FILE", NULL, "the first diskette drive; also --fdb"},
    {"fdb", 0, OPTION_DRIVE, FIELD(drives), "FILE", NULL, NULL},
    {"snapshot", 0, OPTION_FLAG, FIELD(snapshot), NULL, NULL, "write to no image: what the guest writes is thrown away"},
    {"firmware", 0, OPTION_TEXT, FIELD(firmware), "FILE", NULL,
     "without --kernel: the machine's BIOS; SeaBIOS of the\ndistribution by default"},
    {"bios", 0, OPTION_TEXT, FIELD(firmware), "FILE", NULL, NULL},
    {"boot", 0, OPTION_BOOT, FIELD(boot), "ORDER", NULL,
     "what firmware boots from: letters of a (diskette), c (disk),\nd (CD-ROM), n (network); or order=dc,once=d,menu=on"},
    {"memory", 'm', OPTION_SIZE, FIELD(ram_size), "SIZE", NULL, "RAM: 512M (the default), 2G; a bare number is MiB"},
    {"engine", 0, OPTION_TEXT, FIELD(engine), "NAME", NULL,
     "how guest code is executed: auto (the default), or one of\n`ring3 engines`"},
    {"cpu", 0, OPTION_TEXT, FIELD(cpu), "MODEL", NULL,
     "processor model, as in max,-avx2 or x86-64-v2,+aes;\n`--cpu help` lists models and features"},
    {"cpus", 0, OPTION_CPUS, FIELD(cpus), "N", NULL, "how many processors: 1 (the default) to 8"},
    {"smp", 0, OPTION_CPUS, FIELD(cpus), "N", NULL, NULL},
    {"display", 0, OPTION_CHOICE, FIELD(display), "HOW", display_choices,
     "where the machine's screen is seen: none (the default), or text,\nin this terminal, with its keyboard; --serial is null then"},
    {"vga", 0, OPTION_CHOICE, FIELD(vga), "KIND", vga_choices, "display adapter: std (the default), none"},
    {"serial", 0, OPTION_TEXT, FIELD(serial), "TO", NULL,
     "where the first serial port goes: stdio (the default), null,\nfile:PATH, unix:PATH[,server=off][,wait=on], pty"},
    {"debugcon", 0, OPTION_TEXT, FIELD(debugcon), "TO", NULL,
     "the same for the debug console at port 0x402; by default null"},
    {"monitor", 0, OPTION_TEXT, FIELD(monitor), "TO", NULL,
     "where the monitor's console is: none (the default), unix:PATH\nfor `ring3 monitor`, stdio, pty; Ctrl-A c on a terminal"},
    {"net", 0, OPTION_NIC, FIELD(nics), "user|tap[,...]", NULL,
     "a network card: user[,hostfwd=tcp:127.0.0.1:8022-:22]\n[,restrict=on], tap,ifname=NAME; none (the default)"},
    {"nic", 0, OPTION_NIC, FIELD(nics), "user|tap[,...]", NULL, NULL},
    {"virtio-console", 0, OPTION_TEXT, FIELD(virtio_console), "TO", NULL,
     "a virtio console, hvc0 for Linux, that goes where --serial could"},
    {"virtio-rng", 0, OPTION_FLAG, FIELD(virtio_rng), NULL, NULL, "a virtio entropy device"},
    {"gdb", 0, OPTION_TEXT, FIELD(gdb), "TO", NULL,
     "where gdb's `target remote` finds the machine: none (the\ndefault), tcp:127.0.0.1:1234, unix:PATH, stdio"},
    {"s", 0, OPTION_FLAG, FIELD(gdb_here), NULL, NULL, NULL},
    {"gdb-arch", 0, OPTION_CHOICE, FIELD(gdb_arch), "ARCH", gdb_arch_choices,
     "which registers gdb is told of: auto (the default), i386,\nx86-64"},
    {"stopped", 'S', OPTION_FLAG, FIELD(held), NULL, NULL, "do not begin until gdb or the monitor says `continue`"},
    {"kaslr", 0, OPTION_FLAG, FIELD(kaslr), NULL, NULL,
     "enter a bzImage through its own decompressor, which\nrandomises its address (slower)"},
    {"no-reboot", 0, OPTION_FLAG, FIELD(no_reboot), NULL, NULL, "end when the guest resets the machine"},
    {"timeout", 0, OPTION_SECONDS, FIELD(timeout_ns), "SECONDS", NULL, "end after this much host time; 0.5 is fine"},
    {"shadow", 0, OPTION_CHOICE, FIELD(shadow), "POLICY", shadow_choices,
     "how shadow page tables follow the guest's: ondemand, tagged,\nproactive (the default), single; for engines that have them"},
    {"patch", 0, OPTION_CHOICE, FIELD(patch), "on|off", switch_choices,
     "with --engine trap: whether instructions that should trap and\ndo not are patched (on)"},
    {"trap-kernel", 0, OPTION_CHOICE, FIELD(trap_kernel), "HOW", trap_kernel_choices,
     "with --engine trap: how the guest's kernel is executed: direct\n(the default), translate, interpret"},
    {"heat", 0, OPTION_COUNT, FIELD(heat), "N", NULL,
     "how often code is interpreted before it is translated (16);\nfor engines that translate"},
    {"verify", 0, OPTION_EVERY, FIELD(verify), "N", NULL,
     "with --engine translate: compare every Nth block (each,\nwithout N) with the interpreter; a difference ends the run"},
    {"clock", 0, OPTION_CHOICE, FIELD(clock), "KIND", clock_choices,
     "what guest time follows: host (the default), or instructions,\nwhich makes a run repeatable"},
    {"stat", 0, OPTION_STAT, FIELD(stat), "FORM[:FILE]", NULL,
     "count exits, exceptions, interrupts; print them at the end as\ntext (the default) or json, to stderr or FILE"},
    {"trace", 0, OPTION_TEXT, FIELD(trace), "FILE", NULL,
     "write a timeline of every exit, for https://ui.perfetto.dev"},
    {"trace-size", 0, OPTION_LENGTH, FIELD(trace_size), "SIZE", NULL, "how long that file may become: 512M (the default)"},
    {"sensitive", 0, OPTION_FLAG, FIELD(sensitive), NULL, NULL,
     "count for --stat also what a classical monitor would be trapped\nfor: every sensitive instruction (slower)"},
    {"symbols", 0, OPTION_TEXT, FIELD(symbols), "FILE", NULL,
     "names for --stat and --trace: an ELF file (vmlinux) or a\nSystem.map; without, the kernel's own if it is an ELF file"},
    {"log", 0, OPTION_CHOICE, FIELD(log), "LEVEL", log_choices,
     "what the guest does that is odd, to stderr: off (the default),\nwarn, info, debug"},
    {"nographic", 0, OPTION_HABIT, 0, NULL, NULL, NULL},
    {"help", 'h', OPTION_FLAG, FIELD(help), NULL, NULL, "this text"},
};

/* --- values --- */

bool parse_size(const char *text, uint64_t *bytes, struct error *err)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return error_set(err, "'%s' is not a size (write 512M or 2G)", text);
    double number = 0, scale = 1;
    for (end = (char *)text; isdigit((unsigned char)*end); end++)
        number = number * 10 + (*end - '0');
    if (*end == '.') {
        for (end++; isdigit((unsigned char)*end); end++)
            number += (*end - '0') * (scale /= 10);
    }
    uint64_t unit = MiB;
    switch (toupper((unsigned char)*end)) {
    case 'B':
        unit = 1;
        break;
    case 'K':
        unit = KiB;
        break;
    case 'M':
    case 0:
        unit = MiB;
        break;
    case 'G':
        unit = GiB;
        break;
    case 'T':
        unit = 1024 * GiB;
        break;
    default:
        return error_set(err, "'%s' is not a size: its unit must be one of B, K, M, G, T", text);
    }
    if (*end != 0 && end[1] != 0)
        return error_set(err, "'%s' is not a size (write 512M or 2G)", text);
    number *= (double)unit;
    if (number >= 18446744073709551616.0)
        return error_set(err, "'%s' is more than 64 bits can address", text);
    *bytes = (uint64_t)number;
    return true;
}

bool parse_seconds(const char *text, uint64_t *ns, struct error *err)
{
    char *end;
    double seconds = strtod(text, &end);
    if (!isdigit((unsigned char)text[0]) || *end != 0 || strpbrk(text, "xX") != NULL)
        return error_set(err, "'%s' is not a number of seconds (write 10 or 0.5)", text);
    if (!(seconds >= 1e-9))
        return error_set(err, "'%s' leaves no time at all", text);
    if (seconds > SECONDS_MAX)
        return error_set(err, "'%s' is more than %.0f seconds", text, SECONDS_MAX);
    *ns = (uint64_t)(seconds * 1e9);
    return true;
}

static bool parse_ram(const char *text, uint64_t *bytes, struct error *err)
{
    if (!parse_size(text, bytes, err))
        return false;
    if (*bytes < RAM_MIN)
        return error_set(err, "'%s' is too little memory: at least 1M is needed", text);
    if (*bytes > MEMORY_RAM_MAX)
        return error_set(err, "'%s' is too much memory: at most %lluG can be had", text,
                         (unsigned long long)(MEMORY_RAM_MAX / GiB));
    if (*bytes % PAGE_SIZE != 0)
        return error_set(err, "'%s' is not a multiple of 4K", text);
    return true;
}

static bool parse_length(const char *text, uint64_t *bytes, struct error *err)
{
    if (!parse_size(text, bytes, err))
        return false;
    return *bytes >= TRACE_LIMIT_MIN || error_set(err, "'%s' is too little: at least 4K is needed", text);
}

static bool parse_count(const char *text, unsigned *count, struct error *err)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != 0 || value > COUNT_MAX)
        return error_set(err, "'%s' is not a number from 0 to %u", text, COUNT_MAX);
    *count = (unsigned)value;
    return true;
}

static bool parse_cpus(const char *text, unsigned *cpus, struct error *err)
{
    unsigned value = 0;
    if (!parse_count(text, &value, err) || value < 1 || value > MACHINE_CPUS_MAX)
        return error_set(err, "'%s' is not a number of processors from 1 to %u", text, MACHINE_CPUS_MAX);
    *cpus = value;
    return true;
}

static bool parse_choice(const struct option_row *row, const char *text, int *choice, struct error *err)
{
    size_t n = 0;
    char list[128] = "", tail[80];
    for (; row->choices[n] != NULL; n++) {
        if (strcmp(text, row->choices[n]) == 0) {
            *choice = (int)n;
            return true;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", n > 0 ? ", " : "", row->choices[n]);
    }
    return error_set(err, "'%s' is not one of %s%s", text, list,
                     suggest_tail(text, row->choices, n, tail, sizeof tail));
}

static bool parse_stat(struct run_options *options, const char *text, struct error *err)
{
    static const char *const forms[] = {"text", "json"};
    options->stat = STAT_TEXT;
    options->stat_file = NULL;
    if (text == NULL)
        return true;
    size_t length = strcspn(text, ":");
    char form[32], tail[80];
    snprintf(form, sizeof form, "%.*s", (int)(length < 31 ? length : 31), text);
    if (strcmp(form, "json") == 0)
        options->stat = STAT_JSON;
    else if (strcmp(form, "text") != 0)
        return error_set(err, "'%s' is not text or json%s", form,
                         suggest_tail(form, forms, ARRAY_LEN(forms), tail, sizeof tail));
    if (text[length] == ':') {
        if (text[length + 1] == 0)
            return error_set(err, "a file name is missing behind the colon");
        options->stat_file = text + length + 1;
    }
    return true;
}

/* --- options --- */

/* The row that `name` (of `length`) means; NULL if none. */
static const struct option_row *row_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (strlen(rows[i].name) == length && strncmp(rows[i].name, name, length) == 0)
            return &rows[i];
        if (length == 1 && rows[i].letter == name[0] && name[0] != 0)
            return &rows[i];
    }
    return NULL;
}

static size_t dashes(const char *word)
{
    return word[0] != '-' || word[1] == 0 ? 0 : word[1] == '-' ? 2 : 1;
}

static bool option_unknown(const char *word, struct error *err)
{
    const char *names[ARRAY_LEN(rows)];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        names[i] = rows[i].name;
    char name[64];
    const char *bare = word + dashes(word);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(bare, "="), bare);
    const char *nearest = suggest_nearest(name, names, ARRAY_LEN(rows));
    if (nearest != NULL)
        return error_set(err, "unknown option '%.60s' (did you mean '--%s'?)", word, nearest);
    return error_set(err, "unknown option '%.60s' ('ring3 help run' lists them)", word);
}

static bool option_store(struct run_options *options, const struct option_row *row, const char *value,
                         struct error *err)
{
    void *field = (char *)options + row->offset;
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return true;
    case OPTION_TEXT:
        *(const char **)field = value;
        return true;
    case OPTION_SIZE:
        return parse_ram(value, field, err);
    case OPTION_LENGTH:
        return parse_length(value, field, err);
    case OPTION_SECONDS:
        return parse_seconds(value, field, err);
    case OPTION_CHOICE:
        return parse_choice(row, value, field, err);
    case OPTION_STAT:
        return parse_stat(options, value, err);
    case OPTION_COUNT:
        return parse_count(value, field, err);
    case OPTION_EVERY:
        return parse_count(value == NULL ? "1" : value, field, err);
    case OPTION_CPUS:
        return parse_cpus(value, field, err);
    case OPTION_DRIVE:
        return drives_add(field, row->name, value, err);
    case OPTION_BOOT:
        options->boot_given = true;
        return boot_option_parse(value, field, err);
    case OPTION_NIC:
        return nics_add(field, value, err);
    case OPTION_HABIT:
        if (row->value != NULL && strcmp(value, row->value) != 0)
            return error_set(err, "only '%s' is possible", row->value);
        return true;
    }
    return true;
}

/* Its value can only follow behind "=". */
static bool takes_no_word(const struct option_row *row)
{
    return row->kind == OPTION_STAT || row->kind == OPTION_EVERY;
}

/* One option at argv[*at], with its value; moves *at behind it. */
static bool option_parse(struct run_options *options, int argc, char **argv, int *at, struct error *err)
{
    const char *word = argv[(*at)++], *name = word + dashes(word), *equals = strchr(name, '=');
    size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);
    const struct option_row *row = row_find(name, length);
    if (row == NULL)
        return option_unknown(word, err);
    const char *value = equals != NULL ? equals + 1 : NULL;
    if (row->value == NULL && value != NULL)
        return error_set(err, "--%s takes no value", row->name);
    if (row->value != NULL && !takes_no_word(row) && value == NULL) {
        const char *next = *at < argc ? argv[*at] : NULL;
        const char *next_name = next != NULL ? next + dashes(next) : NULL;
        if (next == NULL || (dashes(next) > 0 && row_find(next_name, strcspn(next_name, "=")) != NULL))
            return error_set(err, "--%s needs a value: --%s %s", row->name, row->name, row->value);
        value = next;
        (*at)++;
    }
    if (value != NULL && *value == 0 && strcmp(row->name, "append") != 0)
        return error_set(err, "--%s needs a value: --%s %s", row->name, row->name, row->value);
    if (!option_store(options, row, value, err))
        return error_prefix(err, "--%s", row->name);
    return true;
}

bool option_asks_for_list(const char *value)
{
    return value != NULL && (strcmp(value, "help") == 0 || strcmp(value, "?") == 0);
}

/* The screen has the terminal, or else the serial port has. */
static bool display_check(struct run_options *options, struct error *err)
{
    bool shown = options->display != DISPLAY_NONE;
    const struct {
        const char *name, *value;
    } others[] = {{"serial", options->serial}, {"debugcon", options->debugcon}, {"monitor", options->monitor}};
    for (size_t i = 0; i < ARRAY_LEN(others) && shown; i++)
        if (others[i].value != NULL && strcmp(others[i].value, "stdio") == 0)
            return error_set(err, "--%s: the screen has the terminal (--display text): give it another place", others[i].name);
    if (shown && options->vga == VGA_NONE)
        return error_set(err, "--display text shows the display adapter that --vga none takes away: leave one of the two out");
    if (options->serial == NULL)
        options->serial = shown ? "null" : "stdio";
    return true;
}

bool run_options_parse(struct run_options *options, int argc, char **argv, struct error *err)
{
    *options = (struct run_options){
        .engine = "auto",
        .debugcon = "null",
        .monitor = "none",
        .gdb = "none",
        .ram_size = RAM_DEFAULT,
        .cpus = 1,
        .shadow = SHADOW_PROACTIVE,
        .patch = 1,
        .heat = TRANSLATE_HEAT_DEFAULT,
        .trace_size = TRACE_LIMIT_DEFAULT,
    };
    for (int at = 0; at < argc;) {
        if (dashes(argv[at]) == 0 ? !drives_add_positional(&options->drives, argv[at++], err)
                                  : !option_parse(options, argc, argv, &at, err))
            return false;
    }
    if (options->help || option_asks_for_list(options->cpu) || option_asks_for_list(options->engine))
        return true;
    if (!display_check(options, err))
        return false;
    if (!drives_finish(&options->drives, options->snapshot, err))
        return false;
    if (options->kernel != NULL && (options->firmware != NULL || options->boot_given))
        return error_set(err, "--%s is for machines that boot by themselves: leave it out, or leave --kernel out",
                         options->firmware != NULL ? "firmware" : "boot");
    if (options->kernel == NULL && (options->initrd != NULL || options->append != NULL))
        return error_set(err, "--%s is for a kernel: name it with --kernel FILE", options->initrd != NULL ? "initrd" : "append");
    if (options->kernel == NULL && options->firmware == NULL && !options->boot_given && options->drives.count == 0)
        return error_set(err, "nothing to boot: name a disk image, or a kernel with --kernel FILE ('ring3 help run' shows examples)");
    return true;
}

void run_options_help(FILE *out)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct option_row *row = &rows[i];
        if (row->help == NULL)
            continue;
        char left[40], letter[8] = "    ";
        if (row->letter != 0)
            snprintf(letter, sizeof letter, "-%c, ", row->letter);
        const char *format = row->value == NULL ? "%s--%s" : takes_no_word(row) ? "%s--%s[=%s]" : "%s--%s %s";
        snprintf(left, sizeof left, format, letter, row->name, row->value);
        const char *line = row->help;
        for (bool first = true; line != NULL; first = false) {
            size_t length = strcspn(line, "\n");
            fprintf(out, "  %-26s %.*s\n", first ? left : "", (int)length, line);
            line = line[length] == '\n' ? line + length + 1 : NULL;
        }
    }
}
