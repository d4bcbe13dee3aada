/* See client.h. An answer ends with the prompt at the start of a line; the prompt is not part of it.
 *
 * A process is asked for its socket by way of its command line in /proc, and its working directory there. */
#include "cli/client.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/types.h"
#include "monitor/monitor.h"

#define CMDLINE_MAX 65536u

struct client {
    int fd;
    bool ended; /* the far end closed in order */
    char *text;
    size_t length, capacity;
};

/* ---- finding the socket ---- */

/* "unix:PATH,server=on" to PATH; double commas are single ones. */
static bool socket_of(const char *specification, char *path, size_t size)
{
    size_t n = 0;
    if (strncmp(specification, "unix:", 5) != 0)
        return false;
    for (const char *at = specification + 5; *at != 0; at++) {
        if (*at == ',' && *++at != ',')
            break;
        if (n + 1 < size)
            path[n++] = *at;
    }
    path[n] = 0;
    return n > 0;
}

/* The words of a command line, zero-terminated one behind the other. */
static bool find_option(const char *words, size_t size, char *path, size_t path_size)
{
    bool found = false;
    for (size_t at = 0; at < size; at += strlen(words + at) + 1) {
        const char *word = words + at;
        size_t next = at + strlen(word) + 1;
        if (word[0] != '-')
            continue;
        word += word[1] == '-' ? 2 : 1;
        if (strncmp(word, "monitor=", 8) == 0)
            found = socket_of(word + 8, path, path_size);
        else if (strcmp(word, "monitor") == 0 && next < size)
            found = socket_of(words + next, path, path_size);
    }
    return found;
}

static bool socket_of_process(const char *number, char *path, size_t size, struct error *err)
{
    char name[64], found[256], *words = calloc(1, CMDLINE_MAX + 1);
    check(words != NULL);
    snprintf(name, sizeof name, "/proc/%.20s/cmdline", number);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, words, CMDLINE_MAX) : -1;
    if (fd >= 0)
        close(fd);
    bool ok = n > 0 && find_option(words, (size_t)n, found, sizeof found);
    free(words);
    if (n <= 0)
        return error_set(err, "there is no process %.20s", number);
    if (!ok)
        return error_set(err, "process %.20s was not started with --monitor unix:PATH", number);
    snprintf(path, size, found[0] == '/' ? "%.0s%s" : "/proc/%.20s/cwd/%s", number, found);
    return true;
}

/* ---- talking ---- */

static bool send_all(struct client *client, const char *text, size_t n, struct error *err)
{
    while (n > 0) {
        ssize_t put = send(client->fd, text, n, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            client->ended = errno == EPIPE || errno == ECONNRESET;
            return error_set(err, "the monitor is gone: %s", strerror(errno));
        }
        text += put;
        n -= (size_t)put;
    }
    return true;
}

static bool prompt_seen(const struct client *client)
{
    const size_t n = sizeof MONITOR_PROMPT - 1;
    if (client->length < n || memcmp(client->text + client->length - n, MONITOR_PROMPT, n) != 0)
        return false;
    return client->length == n || client->text[client->length - n - 1] == '\n';
}

static bool receive(struct client *client, struct error *err)
{
    client->length = 0;
    do {
        if (client->capacity - client->length < 4096) {
            client->capacity = client->capacity * 2 + 65536;
            client->text = realloc(client->text, client->capacity);
            check(client->text != NULL);
        }
        ssize_t got = recv(client->fd, client->text + client->length, client->capacity - client->length - 1, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            client->ended = got == 0 || errno == ECONNRESET;
            return error_set(err, "the monitor is gone%s%s", got < 0 ? ": " : "", got < 0 ? strerror(errno) : "");
        }
        client->length += (size_t)got;
    } while (!prompt_seen(client));
    client->length -= sizeof MONITOR_PROMPT - 1;
    client->text[client->length] = 0;
    return true;
}

struct client *client_connect(const char *where, struct error *err)
{
    char path[512];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(path, sizeof path, "%.500s", where);
    if (where[0] != 0 && where[strspn(where, "0123456789")] == 0 && !socket_of_process(where, path, sizeof path, err))
        return NULL;
    if (strlen(path) >= sizeof address.sun_path) {
        error_set(err, "%s: a socket's path has at most %zu characters", path, sizeof address.sun_path - 1);
        return NULL;
    }
    strcpy(address.sun_path, path);
    struct client *client = calloc(1, sizeof *client);
    check(client != NULL);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        error_set(err, "%s: no monitor answers there: %s", path, strerror(errno));
    } else if (receive(client, err)) {
        return client;
    }
    client_destroy(client);
    return NULL;
}

void client_destroy(struct client *client)
{
    if (client == NULL)
        return;
    if (client->fd >= 0)
        close(client->fd);
    free(client->text);
    free(client);
}

const char *client_greeting(const struct client *client)
{
    return client->text;
}

const char *client_ask(struct client *client, const char *line, struct error *err)
{
    if (!send_all(client, line, strlen(line), err) || !send_all(client, "\n", 1, err) || !receive(client, err))
        return NULL;
    return client->text;
}

bool client_ended(const struct client *client)
{
    return client->ended;
}

int client_fd(const struct client *client)
{
    return client->fd;
}
