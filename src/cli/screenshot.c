/* `ring3 screenshot`: asks a running machine's monitor for a picture of its screen. The machine writes the file, so the name goes
 * to it as an absolute one. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/types.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/status.h"
#include "monitor/monitor.h"

#define FILE_DEFAULT "screenshot.png"

struct request {
    const char *file, *where;
};

static bool parse(struct request *request, int argc, char **argv, struct error *err)
{
    *request = (struct request){.file = FILE_DEFAULT};
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--output") == 0) {
            if (++i == argc)
                return error_set(err, "screenshot: -o needs the name of a file");
            request->file = argv[i];
        } else if (argv[i][0] == '-') {
            return error_set(err, "screenshot: there is no option '%.80s'; the only one is -o FILE", argv[i]);
        } else if (request->where != NULL) {
            return error_set(err, "screenshot: '%.80s' is one word too many: ring3 screenshot [-o FILE] PATH|PID", argv[i]);
        } else {
            request->where = argv[i];
        }
    }
    if (request->where == NULL)
        return error_set(err, "screenshot: name the socket that `ring3 run --monitor unix:PATH` made, or that run's process number");
    return request->file[0] != 0 || error_set(err, "screenshot: the file's name is empty");
}

int command_screenshot(int argc, char **argv)
{
    struct error err;
    struct request request;
    char directory[MONITOR_LINE_MAX] = "", line[MONITOR_LINE_MAX + 1];
    if (!parse(&request, argc, argv, &err))
        return cli_fail(STATUS_USAGE, &err);
    bool relative = request.file[0] != '/';
    if (relative && getcwd(directory, sizeof directory) == NULL) {
        error_set(&err, "screenshot: the working directory: %s", strerror(errno));
        return cli_fail(STATUS_INTERNAL, &err);
    }
    if ((size_t)snprintf(line, sizeof line, "screendump %s%s%s", directory, relative ? "/" : "", request.file) >= sizeof line) {
        error_set(&err, "screenshot: the file's name is too long");
        return cli_fail(STATUS_USAGE, &err);
    }
    signal(SIGPIPE, SIG_IGN);
    struct client *client = client_connect(request.where, &err);
    if (client == NULL)
        return cli_fail(STATUS_USAGE, &err);
    const char *answer = client_ask(client, line, &err);
    int status = STATUS_OK;
    if (answer == NULL) {
        status = cli_fail(STATUS_INTERNAL, &err);
    } else if (answer[0] != 0) {
        error_set(&err, "screenshot: %.*s", (int)strcspn(answer + (strncmp(answer, "Error: ", 7) == 0 ? 7 : 0), "\n"),
                  answer + (strncmp(answer, "Error: ", 7) == 0 ? 7 : 0));
        status = cli_fail(STATUS_USAGE, &err);
    }
    client_destroy(client);
    return status;
}
