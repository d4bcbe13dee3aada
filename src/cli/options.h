/* The options of `ring3 run`: one table says what each is called, what it takes, where it goes, and what --help says.
 */
#ifndef RING3_CLI_OPTIONS_H
#define RING3_CLI_OPTIONS_H

#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "cli/drives.h"
#include "cli/nets.h"
#include "machine/machine.h"

enum stat_form { STAT_NONE, STAT_TEXT, STAT_JSON };

enum display_choice { DISPLAY_NONE, DISPLAY_TEXT, DISPLAY_CURSES };
enum vga_choice { VGA_STD, VGA_NONE };

/* Strings point into argv, or into `drives`. */
struct run_options {
    const char *engine, *kernel, *firmware, *initrd, *append, *cpu, *serial, *debugcon, *monitor, *trace, *symbols, *gdb;
    uint64_t ram_size;   /* bytes */
    uint64_t timeout_ns; /* 0: none */
    uint64_t trace_size; /* bytes, at most */
    enum clock_kind clock;
    enum log_level log;
    enum stat_form stat;
    const char *stat_file; /* NULL: stderr */
    int shadow;            /* enum shadow_policy */
    int trap_kernel;       /* enum trap_kernel */
    int patch;             /* 0: off */
    int vga;               /* enum vga_choice */
    int display;           /* enum display_choice; curses is QEMU's word for text */
    unsigned cpus, heat, verify; /* see struct machine_config */
    bool no_reboot, kaslr, help, sensitive, snapshot;
    struct boot_choice boot;
    bool boot_given;
    struct nic_list nics;
    const char *virtio_console; /* NULL: none */
    bool virtio_rng;
    struct drive_list drives; /* to be freed: drives_free(), also when parsing failed */
    int gdb_arch;          /* enum gdb_arch */
    bool gdb_here, held;   /* -s, -S */
};

/* Parses what follows `ring3 run`. False with a message of one line. With `help` set nothing is checked for
 * completeness. */
bool run_options_parse(struct run_options *options, int argc, char **argv, struct error *err);

/* True for the value of an option whose possible values are to be listed: "help", "?". */
bool option_asks_for_list(const char *value);

/* The table as the list of options for --help. */
void run_options_help(FILE *out);

/* "512" (MiB), "512M", "2G", "1.5G"; suffixes B K M G T of either case. */
bool parse_size(const char *text, uint64_t *bytes, struct error *err);

/* "10", "0.5": seconds, more than 0. */
bool parse_seconds(const char *text, uint64_t *ns, struct error *err);

#endif
