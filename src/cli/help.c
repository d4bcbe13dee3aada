/* `ring3 help`: what ring3 is, its commands, options, keys and exit statuses, with examples that work as they stand. */
#include <stdio.h>
#include <string.h>

#include "base/suggest.h"
#include "base/types.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/status.h"

static const char overview[] = "ring3 runs whole, unmodified x86 PC operating systems in an ordinary process:\n"
                               "no root, no kernel module, and with or without /dev/kvm.\n"
                               "\n"
                               "Usage:\n"
                               "  ring3 run [IMAGE]        boot a guest and stay with it until it ends\n"
                               "  ring3 engines            the ways to execute guest code, and which work here\n"
                               "  ring3 monitor PATH       the console of a running machine's monitor\n"
                               "  ring3 top PATH           what a running machine does, each second\n"
                               "  ring3 screenshot PATH    a picture of a running machine's screen\n"
                               "  ring3 explain [1|2|all]  what a monitor does, trap by trap: two exercises\n"
                               "  ring3 report TRACE       a page for the browser from a run with --trace\n"
                               "  ring3 help [command]     this text, or all about one command\n"
                               "  ring3 --version\n"
                               "\n";

static const char examples[] =
    "Boot what a PC boots: from a disk, or from a CD with a disk to install to:\n"
    "\n"
    "  ring3 run -m 1G disk.img\n"
    "  truncate -s 8G disk.img; ring3 run -m 1G --cdrom installer.iso disk.img\n"
    "\n"
    "Boot Debian's kernel with a busybox initrd (packages: busybox-static, cpio):\n"
    "\n"
    "  mkdir -p root/bin root/dev root/proc root/sys\n"
    "  cp /bin/busybox root/bin\n"
    "  cat > root/init <<'END'\n"
    "  #!/bin/busybox sh\n"
    "  /bin/busybox --install -s /bin\n"
    "  mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys\n"
    "  setsid cttyhack sh\n"
    "  poweroff -f\n"
    "  END\n"
    "  chmod +x root/init\n"
    "  (cd root && find . | cpio -o -H newc | gzip) > initrd.gz\n"
    "  ring3 run --kernel /boot/vmlinuz-$(uname -r) --initrd initrd.gz --append console=ttyS0\n"
    "\n"
    "You get the guest's shell; `exit` powers the guest off, Ctrl-A x quits at once.\n"
    "\n"
    "Use it in a script: commands on standard input, a limit, the exit status:\n"
    "\n"
    "  echo 'uname -a; exit' | ring3 run --timeout 60 --no-reboot --kernel ... --initrd ... \\\n"
    "      --append 'console=ttyS0 panic=-1'; echo $?\n"
    "\n"
    "See what the guest did, as a table and on a timeline (open it in https://ui.perfetto.dev):\n"
    "\n"
    "  ring3 run --stat --trace run.json --kernel ...\n"
    "\n";

static const char keys[] = "Keys while the serial port is on a terminal (all others go to the guest, Ctrl-C too):\n"
                           "  Ctrl-A h                 list these keys\n"
                           "  Ctrl-A x                 quit\n"
                           "  Ctrl-A b                 send a break\n"
                           "  Ctrl-A c                 turn to the monitor, and back\n"
                           "  Ctrl-A t                 time stamps on each line, on or off\n"
                           "  Ctrl-A Ctrl-A            send Ctrl-A\n"
                           "\n";

static void print_statuses(FILE *out)
{
    fputs("Exit status:\n", out);
#define X(id, number, when) fprintf(out, "  %-8d %s\n", number, when);
    CLI_STATUSES(X)
#undef X
    fputs("  odd      " STATUS_DEBUG_EXIT "\n", out);
    fputs("  >128     " STATUS_SIGNAL "\n", out);
}

static void help_overview(void)
{
    fputs(overview, stdout);
    fputs(examples, stdout);
    fputs("'ring3 help run' has the options, keys and exit statuses.\n", stdout);
}

static void help_run(void)
{
    fputs("Usage: ring3 run [options] [IMAGE...]\n       ring3 run --kernel FILE [options] [IMAGE...]\n\nOptions (with one dash or two, VALUE or =VALUE):\n", stdout);
    run_options_help(stdout);
    fputc('\n', stdout);
    fputs(keys, stdout);
    print_statuses(stdout);
    fputc('\n', stdout);
    fputs(examples, stdout);
}

static void help_engines(void)
{
    fputs("Usage: ring3 engines\n\n"
          "Lists the ways in which ring3 can execute guest code, best first, and for those that\n"
          "do not work on this host the reason. Choose one with `ring3 run --engine NAME`.\n",
          stdout);
}

static void help_monitor(void)
{
    fputs("Usage: ring3 monitor PATH|PID [COMMAND...]\n\n"
          "Talks to a machine that was started with `ring3 run --monitor unix:PATH`. With COMMAND it\n"
          "prints the answer; else it is a console, with history and completion on a terminal.\n"
          "`help` in it lists the commands.\n\n"
          "  ring3 run --monitor unix:/tmp/mon --kernel ...\n"
          "  ring3 monitor /tmp/mon info registers\n"
          "  ring3 monitor /tmp/mon x/10i '$pc'\n"
          "  ring3 monitor /tmp/mon engine interpret\n",
          stdout);
}

static void help_top(void)
{
    fputs("Usage: ring3 top [-b] [-n SCREENS] [-d SECONDS] PATH|PID\n\n"
          "Shows what a machine does that was started with `ring3 run --monitor unix:PATH`: exits by\n"
          "reason and mode, interrupts, translation, shadow page tables, as rates. q quits.\n\n"
          "  -b          plain text, one screen behind the other; also when not on a terminal\n"
          "  -n SCREENS  how many; without, no end\n"
          "  -d SECONDS  between two (1)\n",
          stdout);
}

static void help_screenshot(void)
{
    fputs("Usage: ring3 screenshot [-o FILE] PATH|PID\n\n"
          "Writes what the screen of a running machine shows, which was started with\n"
          "`ring3 run --monitor unix:PATH`, in text and graphics modes alike. The machine's process\n"
          "writes the file.\n\n"
          "  -o, --output FILE   where to (screenshot.png): PNG, or a pixmap if FILE ends with .ppm\n",
          stdout);
}

static void help_explain(void)
{
    fputs("Usage: ring3 explain [1|2|all] [--engine NAME] [--json] [--kernel FILE]\n\n"
          "Runs two exercises of a lecture on virtual machines in a small teaching kernel and\n"
          "prints the story of every trap: who was running, in which pretend mode, the\n"
          "instruction, what the monitor did, what the guest saw. Then the counts.\n\n"
          "  1   a program writes four characters to a memory-mapped screen: how many traps?\n"
          "  2   a program's read() waits, another runs, a key is pressed: how many switches\n"
          "      of page tables, the guest's and the monitor's?\n\n"
          "  --engine NAME   the engine that runs it (interpret, which is repeatable)\n"
          "  --json          the same as one JSON array\n"
          "  --kernel FILE   another kernel that knows run=write4, run=readblock and the marks\n"
          "                  '[' and ']' at port 0x402\n",
          stdout);
}

static void help_report(void)
{
    fputs("Usage: ring3 report TRACE [-o FILE]\n\n"
          "Makes one page for the browser from what `ring3 run --trace TRACE` has written: the\n"
          "timeline, where the exits come from, the guest's page tables beside the monitor's, the\n"
          "code that ran most with its translation. The page needs nothing else, no network either.\n\n"
          "  -o, --output FILE   where to (TRACE with .html for its ending)\n\n"
          "  ring3 run --trace run.json --kernel ...\n"
          "  ring3 report run.json\n",
          stdout);
}

static void help_help(void)
{
    fputs("Usage: ring3 help [run|engines|monitor|top|screenshot|explain|report]\n", stdout);
}

int command_help(int argc, char **argv)
{
    static const char *const names[] = {"run", "engines", "monitor", "top", "screenshot", "explain", "report", "help"};
    static void (*const pages[])(void) = {help_run, help_engines, help_monitor, help_top, help_screenshot, help_explain, help_report, help_help};
    if (argc == 0) {
        help_overview();
        return STATUS_OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(argv[0], names[i]) == 0) {
            pages[i]();
            return STATUS_OK;
        }
    }
    struct error err;
    char tail[80];
    error_set(&err, "help: there is no command '%.200s'%s", argv[0],
              suggest_tail(argv[0], names, ARRAY_LEN(names), tail, sizeof tail));
    return cli_fail(STATUS_USAGE, &err);
}
