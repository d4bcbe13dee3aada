/* Names of sockets: a path, or HOST:PORT. No names are looked up but localhost's: that could take any time. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/chardev_kinds.h"

#define PORT_MAX 65535ul

bool socket_address_file(const char *path, struct socket_address *address, struct error *err)
{
    *address = (struct socket_address){.file.sun_family = AF_UNIX, .length = sizeof address->file, .is_file = true};
    if (strlen(path) >= sizeof address->file.sun_path)
        return error_set(err, "%s: a socket's path has at most %zu characters", path, sizeof address->file.sun_path - 1);
    strcpy(address->file.sun_path, path);
    strcpy(address->name, path);
    return true;
}

static bool parse_port(const char *text, uint16_t *port)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != 0 || value == 0 || value > PORT_MAX)
        return false;
    *port = htons((uint16_t)value);
    return true;
}

static bool parse_host(const char *host, struct socket_address *address)
{
    address->in = (struct sockaddr_in){.sin_family = AF_INET};
    address->length = sizeof address->in;
    if (*host == 0 || strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &address->in.sin_addr) == 1)
        return true;
    size_t length = strlen(host);
    char bare[INET6_ADDRSTRLEN];
    if (length < 3 || host[0] != '[' || host[length - 1] != ']' || length - 2 >= sizeof bare)
        return false;
    memcpy(bare, host + 1, length - 2);
    bare[length - 2] = 0;
    address->in6 = (struct sockaddr_in6){.sin6_family = AF_INET6};
    address->length = sizeof address->in6;
    return inet_pton(AF_INET6, bare, &address->in6.sin6_addr) == 1;
}

bool socket_address_tcp(const char *text, struct socket_address *address, struct error *err)
{
    uint16_t port;
    const char *colon = strrchr(text, ':');
    *address = (struct socket_address){.length = 0};
    snprintf(address->name, sizeof address->name, "%s", text);
    if (colon == NULL || (size_t)(colon - text) >= sizeof address->name)
        return error_set(err, "tcp:%s: HOST:PORT is expected, such as tcp:127.0.0.1:1234", text);
    if (!parse_port(colon + 1, &port))
        return error_set(err, "tcp:%s: '%s' is not a port from 1 to %lu", text, colon + 1, PORT_MAX);
    char host[sizeof address->name];
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    if (!parse_host(host, address))
        return error_set(err, "tcp:%s: '%s' is neither an address in digits nor localhost", text, host);
    if (address->any.sa_family == AF_INET)
        address->in.sin_port = port;
    else
        address->in6.sin6_port = port;
    return true;
}
