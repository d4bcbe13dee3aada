/* The other end of a monitor's socket: one question, one answer. For `ring3 monitor` and `ring3 top`. */
#ifndef RING3_CLI_CLIENT_H
#define RING3_CLI_CLIENT_H

#include <stdbool.h>

#include "base/error.h"

struct client;

/* `where` is the path of a socket, or the number of a process that was started with --monitor unix:PATH. NULL with a
 * message. */
struct client *client_connect(const char *where, struct error *err);
void client_destroy(struct client *client);

/* What the monitor said first. Valid until the next client_ask(). */
const char *client_greeting(const struct client *client);

/* Sends a line and waits for the whole answer, which is valid until the next call. NULL with a message: the connection is
 * gone; client_ended() tells whether in order. */
const char *client_ask(struct client *client, const char *line, struct error *err);
bool client_ended(const struct client *client);

int client_fd(const struct client *client);

#endif
