/* `ring3 monitor`: a client for the monitor console of a running machine, so that no other program is needed.
 *
 * With words behind the socket they are one command: its answer is printed, and the status says whether it was an error.
 * On a terminal lines are edited here, with history and completion, and sent as a whole. From a pipe or a file
 * every line is sent and answered in turn. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/check.h"
#include "base/types.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/status.h"
#include "monitor/line.h"
#include "monitor/monitor.h"

struct terminal {
    struct client *client;
    struct line *line;
    struct termios before;
    bool done, failed;
    struct error err;
};

/* The greeting, and each answer, without the prompt. False: the machine has ended, or an answer makes no sense. */
static bool say(const char *answer)
{
    fputs(answer, stdout);
    fflush(stdout);
    return strncmp(answer, "Error: ", 7) != 0;
}

static int one_command(struct client *client, int argc, char **argv, struct error *err)
{
    char line[MONITOR_LINE_MAX + 1];
    size_t length = 0;
    for (int i = 0; i < argc; i++) {
        int n = snprintf(line + length, sizeof line - length, "%s%s", i > 0 ? " " : "", argv[i]);
        if ((size_t)n >= sizeof line - length) {
            error_set(err, "monitor: a command has at most %u characters", MONITOR_LINE_MAX);
            return cli_fail(STATUS_USAGE, err);
        }
        length += (size_t)n;
    }
    const char *answer = client_ask(client, line, err);
    if (answer == NULL)
        return client_ended(client) ? STATUS_OK : cli_fail(STATUS_INTERNAL, err);
    return say(answer) ? STATUS_OK : STATUS_USAGE;
}

static int from_file(struct client *client, struct error *err)
{
    char line[MONITOR_LINE_MAX + 2];
    int status = STATUS_OK;
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t length = strcspn(line, "\n");
        if (length == MONITOR_LINE_MAX + 1) {
            error_set(err, "monitor: a line has at most %u characters", MONITOR_LINE_MAX);
            return cli_fail(STATUS_USAGE, err);
        }
        line[length] = 0;
        const char *answer = client_ask(client, line, err);
        if (answer == NULL)
            return client_ended(client) ? status : cli_fail(STATUS_INTERNAL, err);
        if (!say(answer))
            status = STATUS_USAGE;
    }
    return status;
}

/* ---- on a terminal ---- */

static void terminal_write(void *opaque, const char *text, size_t n)
{
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

static void terminal_line(void *opaque, const char *text)
{
    struct terminal *t = opaque;
    const char *answer = client_ask(t->client, text, &t->err);
    if (answer == NULL) {
        t->done = true;
        t->failed = !client_ended(t->client);
        return;
    }
    say(answer);
    line_prompt(t->line);
}

static void terminal_end(void *opaque)
{
    struct terminal *t = opaque;
    puts("");
    t->done = true;
}

static int on_terminal(struct client *client)
{
    struct terminal t = {.client = client};
    struct termios raw;
    if (tcgetattr(STDIN_FILENO, &t.before) != 0) {
        error_set(&t.err, "monitor: the terminal: %s", strerror(errno));
        return cli_fail(STATUS_INTERNAL, &t.err);
    }
    raw = t.before;
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | ISIG | IEXTEN);
    raw.c_iflag &= ~(tcflag_t)(ICRNL | IXON);
    const struct line_ops ops = {.write = terminal_write, .line = terminal_line, .end = terminal_end, .opaque = &t};
    t.line = line_create(MONITOR_PROMPT, &ops);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    line_prompt(t.line);
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = client_fd(client), .events = POLLIN}};
    while (!t.done && poll(fds, 2, -1) >= 0) {
        char keys[256];
        if (fds[1].revents != 0) { /* nothing comes unasked: the machine has ended */
            puts("");
            break;
        }
        ssize_t n = fds[0].revents != 0 ? read(STDIN_FILENO, keys, sizeof keys) : 0;
        if (fds[0].revents != 0 && n <= 0)
            break;
        for (ssize_t i = 0; i < n && !t.done; i++)
            line_key(t.line, keys[i]);
    }
    tcsetattr(STDIN_FILENO, TCSADRAIN, &t.before);
    line_destroy(t.line);
    return t.failed ? cli_fail(STATUS_INTERNAL, &t.err) : STATUS_OK;
}

int command_monitor(int argc, char **argv)
{
    struct error err;
    if (argc == 0) {
        error_set(&err, "monitor: name the socket that `ring3 run --monitor unix:PATH` made, or that run's process number");
        return cli_fail(STATUS_USAGE, &err);
    }
    signal(SIGPIPE, SIG_IGN);
    struct client *client = client_connect(argv[0], &err);
    if (client == NULL)
        return cli_fail(STATUS_USAGE, &err);
    int status;
    if (argc > 1) {
        status = one_command(client, argc - 1, argv + 1, &err);
    } else if (isatty(STDIN_FILENO)) {
        say(client_greeting(client));
        status = on_terminal(client);
    } else {
        status = from_file(client, &err);
    }
    client_destroy(client);
    return status;
}
