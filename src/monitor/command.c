/* The table of commands, and how a line becomes a call.
 *
 * A line is a name, perhaps /FORMAT, and words. A command that takes an expression looks at the rest of the line as it
 * was typed. Names have alternatives as in QEMU (`c` and `cont`); a misspelt one is answered with the nearest. */
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "base/types.h"
#include "machine/machine.h"
#include "monitor/internal.h"

const struct command monitor_commands[] = {
    {"help|?", "[COMMAND]", "list commands, or say more about one", 2, false, false, call_help},
    {"info|i", "[SUBJECT]", "say something about the machine; without SUBJECT list them", ANY_WORDS, false, false, call_info},
    {"stop|s", "", "stop the machine and its time", 0, false, false, call_stop},
    {"cont|c", "", "let it go on", 0, false, false, call_cont},
    {"quit|q", "", "end ring3", 0, false, false, call_quit},
    {"system_reset", "", "reset the machine", 0, false, false, call_reset},
    {"system_powerdown", "", "press the power button (ACPI)", 0, false, false, call_powerdown},
    {"boot_set", "ORDER", "what firmware boots from after a reset: letters of a c d n", 1, false, false, call_boot_set},
    {"nmi", "", "non-maskable interrupt, at pin LINT1 of each processor", 0, false, false, call_nmi},
    {"sendkey", "KEYS [MS]", "press keys together, such as ctrl-alt-delete, for MS milliseconds (100)", 2, false, false, call_sendkey},
    {"screendump", "FILE", "write what the screen shows as PNG, or as a pixmap if FILE ends with .ppm", ANY_WORDS, false, false, call_screendump},
    {"change", "[-f] DRIVE FILE", "put a CD image into a drive of 'info drives'; -f even if the guest has locked it", ANY_WORDS, false, false, call_change},
    {"eject", "[-f] DRIVE", "take the CD out of a drive", 2, false, false, call_eject},
    {"cpu", "N", "the processor that other commands are about", 1, false, false, call_cpu},
    {"engine", "[NAME]", "how guest code is executed from now on; without NAME say how", 1, false, false, call_engine},
    {"x", "/FORMAT EXPRESSION", "memory at a linear address: /10i $pc, /4xg $rsp, /s ...", ANY_WORDS, true, true, call_x},
    {"xp", "/FORMAT EXPRESSION", "memory at a physical address", ANY_WORDS, true, true, call_xp},
    {"print|p", "/FORMAT EXPRESSION", "the value of an expression", ANY_WORDS, true, true, call_print},
    {"gva2gpa", "EXPRESSION", "translate a linear address", ANY_WORDS, true, false, call_gva2gpa},
    {"stats", "[json]", "counters, as --stat prints them", 1, true, false, call_stats},
    {"log", "[LEVEL]", "messages on standard error: off, warn, info, debug", 1, true, false, call_log},
    {NULL, NULL, NULL, 0, false, false, NULL},
};

void call_fail(struct call *call, const char *format, ...)
{
    va_list args;
    fputs("Error: ", call->out);
    va_start(args, format);
    vfprintf(call->out, format, args);
    va_end(args);
    fputc('\n', call->out);
}

/* ---- names ---- */

static bool has_name(const char *alternatives, const char *name, size_t length)
{
    for (const char *at = alternatives; *at != 0;) {
        size_t n = strcspn(at, "|");
        if (n == length && memcmp(at, name, n) == 0)
            return true;
        at += n + (at[n] == '|');
    }
    return false;
}

static const struct command *find(const struct command *table, const char *name, size_t length)
{
    for (const struct command *c = table; c->name != NULL; c++)
        if (has_name(c->name, name, length))
            return c;
    return NULL;
}

static void fail_unknown(struct call *call, const struct command *table, const char *kind, const char *name,
                         const char *help)
{
    char names[64][24], tail[80];
    const char *candidates[64];
    size_t n = 0;
    for (const struct command *c = table; c->name != NULL && n < ARRAY_LEN(names); c++, n++) {
        snprintf(names[n], sizeof names[n], "%.*s", (int)strcspn(c->name, "|"), c->name);
        candidates[n] = names[n];
    }
    call_fail(call, "there is no %s '%.40s'%s; '%s' lists them", kind, name,
              suggest_tail(name, candidates, n, tail, sizeof tail), help);
}

/* ---- calling ---- */

static void run(struct call *call, const struct command *command)
{
    if (command->pause)
        vm_pause(call->vm);
    call->v = vm_vcpu(call->vm, call->monitor->cpu);
    command->run(call);
    if (command->pause)
        vm_resume(call->vm);
}

/* Cuts `words`, a copy of the rest of the line. False: there are too many for the command. */
static bool cut(struct call *call, const struct command *command, char *words)
{
    char *save = NULL;
    call->argc = 0;
    for (char *word = strtok_r(words, " \t", &save); word != NULL; word = strtok_r(NULL, " \t", &save)) {
        if (call->argc == command->args_max || call->argc == WORDS_MAX) {
            if (command->args_max == ANY_WORDS)
                return true;
            call_fail(call, "'%.40s' is one word too many: %.*s%s%s", word, (int)strcspn(command->name, "|"), command->name,
                      *command->args != 0 ? " " : "", command->args);
            return false;
        }
        call->argv[call->argc++] = word;
    }
    return true;
}

static void call_in(struct call *call, const struct command *table, const char *kind, const char *help, char *line)
{
    while (isspace((unsigned char)*line))
        line++;
    size_t length = strcspn(line, " \t/");
    const struct command *command = find(table, line, length);
    char *rest = line + length;
    if (command == NULL) {
        line[length] = 0;
        fail_unknown(call, table, kind, line, help);
        return;
    }
    call->format = NULL;
    if (command->format && rest[strspn(rest, " \t")] == '/')
        rest += strspn(rest, " \t"); /* `x /4xb`, as well as `x/4xb` */
    if (*rest == '/') {
        if (!command->format) {
            call_fail(call, "%.*s takes no format", (int)length, line);
            return;
        }
        call->format = rest + 1;
        rest += strcspn(rest, " \t");
    }
    if (*rest != 0)
        *rest++ = 0;
    while (isspace((unsigned char)*rest))
        rest++;
    char words[MONITOR_LINE_MAX + 1];
    snprintf(words, sizeof words, "%s", rest);
    call->rest = rest;
    if (cut(call, command, words))
        run(call, command);
}

void call_info(struct call *call)
{
    char line[MONITOR_LINE_MAX + 1];
    if (call->argc == 0) {
        for (const struct command *c = monitor_infos; c->name != NULL; c++)
            fprintf(call->out, "info %-12s -- %s\n", c->name, c->help);
        return;
    }
    snprintf(line, sizeof line, "%s", call->rest);
    call_in(call, monitor_infos, "subject", "info", line);
}

void monitor_execute(struct monitor *monitor, const char *line, FILE *out)
{
    struct call call = {.monitor = monitor, .vm = monitor->config.vm, .out = out};
    char copy[MONITOR_LINE_MAX + 1];
    while (isspace((unsigned char)*line))
        line++;
    if (*line == 0 || *line == '#')
        return;
    if (strlen(line) > MONITOR_LINE_MAX) {
        call_fail(&call, "a line has at most %u characters", MONITOR_LINE_MAX);
        return;
    }
    snprintf(copy, sizeof copy, "%s", line);
    copy[strcspn(copy, "\r\n")] = 0;
    call_in(&call, monitor_commands, "command", "help", copy);
}

/* ---- help and completion ---- */

static void help_row(FILE *out, const char *prefix, const struct command *c)
{
    char left[64];
    snprintf(left, sizeof left, "%s%s%s%s", prefix, c->name, *c->args != 0 ? " " : "", c->args);
    fprintf(out, "%-28s -- %s\n", left, c->help);
}

void call_help(struct call *call)
{
    const struct command *table = monitor_commands;
    const char *prefix = "";
    for (unsigned i = 0; i < call->argc; i++) {
        const struct command *c = find(table, call->argv[i], strlen(call->argv[i]));
        if (c == NULL) {
            fail_unknown(call, table, i == 0 ? "command" : "subject", call->argv[i], i == 0 ? "help" : "info");
            return;
        }
        bool more = c->run == call_info && table == monitor_commands;
        if (!more || i + 1 == call->argc)
            help_row(call->out, prefix, c);
        if (!more)
            return;
        table = monitor_infos;
        prefix = "info ";
    }
    if (table == monitor_commands || call->argc == 1)
        for (const struct command *c = table; c->name != NULL; c++)
            help_row(call->out, prefix, c);
}

const char *monitor_candidate(const char *line, unsigned n, size_t *begin)
{
    const struct command *table = monitor_commands;
    size_t at = strspn(line, " \t"), word = strcspn(line + at, " \t");
    if (line[at + word] != 0) {
        const struct command *c = find(table, line + at, word);
        bool help = c != NULL && c->run == call_help, info = c != NULL && c->run == call_info;
        at += word;
        at += strspn(line + at, " \t");
        word = strcspn(line + at, " \t");
        if ((!help && !info) || line[at + word] != 0)
            return NULL;
        table = info ? monitor_infos : monitor_commands;
    }
    *begin = at;
    for (const struct command *c = table; c->name != NULL; c++)
        if (strncmp(c->name, line + at, word) == 0 && n-- == 0)
            return c->name;
    return NULL;
}
