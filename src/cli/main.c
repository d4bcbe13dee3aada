/* The ring3 program: picks the command. Everything that prints to the user or decides an exit status is in src/cli. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/suggest.h"
#include "base/types.h"
#include "cli/commands.h"
#include "cli/status.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", command_run},
    {"engines", command_engines},
    {"monitor", command_monitor},
    {"top", command_top},
    {"screenshot", command_screenshot},
    {"explain", command_explain},
    {"report", command_report},
    {"help", command_help},
};

static int unknown_command(const char *word)
{
    const char *names[ARRAY_LEN(commands)];
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        names[i] = commands[i].name;
    struct error err;
    char tail[80];
    if (word[0] == '-')
        error_set(&err, "'%.200s' before a command: options follow it, as in 'ring3 run --kernel FILE'", word);
    else
        error_set(&err, "there is no command '%.200s'%s; the commands are run, engines, monitor, top, screenshot, explain, report, help", word,
                  suggest_tail(word, names, ARRAY_LEN(names), tail, sizeof tail));
    return cli_fail(STATUS_USAGE, &err);
}

/* Whoever starts us with a standard descriptor closed must not get our files written to in its place. */
static void fill_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return;
    }
}

int main(int argc, char **argv)
{
    fill_standard_descriptors();
    if (argc < 2) {
        struct error err;
        error_set(&err, "a command is missing: 'ring3 run --kernel FILE' boots a guest, 'ring3 help' says more");
        return cli_fail(STATUS_USAGE, &err);
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0 || strcmp(word, "-version") == 0 || strcmp(word, "-V") == 0) {
        puts("ring3 " RING3_VERSION);
        return STATUS_OK;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-help") == 0 || strcmp(word, "-h") == 0)
        return command_help(argc - 2, argv + 2);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(word, commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    }
    return unknown_command(word);
}
