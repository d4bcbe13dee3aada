/* The backends of character devices, each with its real far end: files, sockets, ptys, pipes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/chardev_create.h"
#include "host/clock.h"

/* A device at the near end that remembers what happened to it. */
struct device {
    struct chardev *dev;
    struct loop *loop;
    size_t room; /* what can_receive() says; shrinks with each byte */
    uint8_t got[8192];
    size_t length;
    unsigned breaks, writables, carriers, quits;
    bool carrier, echo;
    char announced[256], warned[256];
};

static size_t device_can_receive(void *opaque)
{
    return ((struct device *)opaque)->room;
}

static void device_receive(void *opaque, const uint8_t *bytes, size_t n)
{
    struct device *d = opaque;
    assert_true(n > 0 && n <= d->room && d->length + n <= sizeof d->got);
    d->room -= n;
    memcpy(d->got + d->length, bytes, n);
    d->length += n;
    if (d->echo) {
        chardev_write(d->dev, bytes, n);
        d->room += n;
        chardev_accept_input(d->dev);
    }
}

static void device_break(void *opaque)
{
    ((struct device *)opaque)->breaks++;
}

static void device_writable(void *opaque)
{
    ((struct device *)opaque)->writables++;
}

static void device_carrier(void *opaque, bool present)
{
    struct device *d = opaque;
    d->carriers++;
    d->carrier = present;
}

static void device_quit(void *opaque)
{
    ((struct device *)opaque)->quits++;
}

static void device_announce(void *opaque, const char *line)
{
    snprintf(((struct device *)opaque)->announced, 256, "%s", line);
}

static void device_warn(void *opaque, const char *line)
{
    snprintf(((struct device *)opaque)->warned, 256, "%s", line);
}

static bool device_open(struct device *d, const char *spec, struct error *err)
{
    memset(d, 0, sizeof *d);
    d->loop = loop_create(err);
    d->room = sizeof d->got;
    struct chardev_env env = {
        .loop = d->loop,
        .label = "serial0",
        .quit = device_quit,
        .announce = device_announce,
        .warn = device_warn,
        .opaque = d,
    };
    d->dev = chardev_create(spec, &env, err);
    if (d->dev == NULL) {
        loop_destroy(d->loop);
        return false;
    }
    struct chardev_frontend frontend = {
        .can_receive = device_can_receive,
        .receive = device_receive,
        .receive_break = device_break,
        .writable = device_writable,
        .carrier = device_carrier,
        .opaque = d,
    };
    chardev_connect(d->dev, &frontend);
    return true;
}

static void device_close(struct device *d)
{
    chardev_disconnect(d->dev);
    chardev_destroy(d->dev);
    loop_destroy(d->loop);
}

/* Lets the loop turn for that long. */
static void device_turn(struct device *d, unsigned ms)
{
    uint64_t end = clock_monotonic_ns() + ms * 1000000ull;
    loop_set_deadline(d->loop, end);
    while (clock_monotonic_ns() < end)
        loop_run_once(d->loop, NULL);
}

static size_t device_say(struct device *d, const char *text)
{
    return chardev_write(d->dev, (const uint8_t *)text, strlen(text));
}

static char *scratch(void **state, const char *name)
{
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", (char *)*state, name);
    return path;
}

static void test_bad_specifications(void **state)
{
    static const struct {
        const char *spec, *message;
    } cases[] = {
        {"stido", "'stido' is not one of stdio, null, file:PATH, unix:PATH, tcp:HOST:PORT, pty (did you mean 'stdio'?)"},
        {"", "'' is not one of stdio, null, file:PATH, unix:PATH, tcp:HOST:PORT, pty"},
        {"file", "file needs a path: file:PATH"},
        {"unix:", "unix needs a path: unix:PATH"},
        {"null:x", "null takes nothing behind a colon"},
        {"file:/tmp/x,apend=on", "'apend' is not a setting of file (did you mean 'append'?)"},
        {"unix:/tmp/x,server=maybe", "server=maybe: on or off is expected"},
        {"stdio,wait", "'wait' is not a setting of stdio"},
        {"file:/nonexistent/x", "/nonexistent/x: No such file or directory"},
        {"unix:/nonexistent/x,server=off", "/nonexistent/x: cannot connect: No such file or directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct device d;
        struct error err;
        assert_false(device_open(&d, cases[i].spec, &err));
        assert_string_equal(err.message, cases[i].message);
    }
}

static void test_null(void **state)
{
    struct device d;
    assert_true(device_open(&d, "null", NULL));
    assert_int_equal(device_say(&d, "gone"), 4);
    device_close(&d);
}

static void check_file(const char *path, const char *expected)
{
    char text[200] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    fclose(file);
    assert_string_equal(text, expected);
}

static void test_file(void **state)
{
    char spec[300];
    struct device d;
    snprintf(spec, sizeof spec, "file:%s/with,,comma", (char *)*state);
    for (unsigned i = 0; i < 3; i++) {
        if (i == 2)
            strcat(spec, ",append=on");
        assert_true(device_open(&d, spec, NULL));
        assert_int_equal(device_say(&d, "text\n"), 5);
        device_close(&d); /* flushes without the loop */
    }
    check_file(scratch(state, "with,comma"), "text\ntext\n");
    assert_true(device_open(&d, "file:/dev/full", NULL));
    device_say(&d, "x");
    device_turn(&d, 10);
    assert_string_equal(d.warned, "serial0: /dev/full: No space left on device; output is dropped from here on");
    assert_int_equal(device_say(&d, "more"), 4);
    device_close(&d);
}

static int client_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void test_unix_server(void **state)
{
    char spec[300], text[16] = "";
    const char *path = scratch(state, "socket");
    snprintf(spec, sizeof spec, "unix:%s", path);
    struct device d, other;
    struct error err;
    assert_true(device_open(&d, spec, NULL));
    assert_false(chardev_connected(d.dev));
    assert_int_equal(device_say(&d, "nobody hears"), 12);
    int client = client_connect(path);
    device_turn(&d, 20);
    assert_true(d.carrier && chardev_connected(d.dev));
    device_say(&d, "hello");
    assert_int_equal(write(client, "hi", 2), 2);
    device_turn(&d, 20);
    assert_int_equal(read(client, text, sizeof text), 5);
    assert_string_equal(text, "hello");
    assert_memory_equal(d.got, "hi", 2);
    /* No room: the input stays where it is until there is some. */
    d.room = 0;
    assert_int_equal(write(client, "later", 5), 5);
    device_turn(&d, 20);
    assert_int_equal(d.length, 2);
    d.room = 100;
    chardev_accept_input(d.dev);
    device_turn(&d, 20);
    assert_memory_equal(d.got, "hilater", 7);
    /* The end of its input does not end our output. */
    shutdown(client, SHUT_WR);
    device_turn(&d, 20);
    assert_true(d.carrier);
    device_say(&d, "still");
    device_turn(&d, 20);
    assert_int_equal(read(client, text, sizeof text), 5);
    close(client);
    device_turn(&d, 20);
    assert_false(d.carrier);
    client = client_connect(path);
    device_turn(&d, 20);
    assert_true(d.carrier);
    close(client);
    assert_false(device_open(&other, spec, &err));
    assert_non_null(strstr(err.message, "another process listens there already"));
    device_close(&d);
    assert_int_equal(access(path, F_OK), -1);
}

/* A socket left behind by a process that was killed is taken over; another file is not. */
static void test_unix_stale(void **state)
{
    char spec[300];
    const char *path = scratch(state, "stale");
    snprintf(spec, sizeof spec, "unix:%s,server,nowait", path);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    struct device d;
    struct error err;
    assert_true(device_open(&d, spec, &err));
    device_close(&d);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_false(device_open(&d, spec, &err));
    assert_non_null(strstr(err.message, "it is not a socket"));
}

static void test_unix_back_pressure(void **state)
{
    static uint8_t block[65536 * 2];
    char spec[300];
    const char *path = scratch(state, "full");
    snprintf(spec, sizeof spec, "unix:%s", path);
    struct device d;
    assert_true(device_open(&d, spec, NULL));
    int client = client_connect(path);
    device_turn(&d, 20);
    size_t sent = 0, received = 0;
    for (unsigned i = 0; i < 40; i++) { /* until kernel and backend are full */
        sent += chardev_write(d.dev, block, sizeof block);
        device_turn(&d, 2);
    }
    assert_int_equal(chardev_write(d.dev, block, 1), 0);
    unsigned before = d.writables;
    while (received < sent) {
        ssize_t n = recv(client, block, sizeof block, MSG_DONTWAIT);
        if (n > 0)
            received += (size_t)n;
        device_turn(&d, 1);
    }
    assert_int_equal(received, sent);
    assert_int_equal(d.writables, before + 1);
    close(client);
    device_turn(&d, 20);
    device_close(&d);
}

static void test_unix_client(void **state)
{
    char spec[300], text[8] = "";
    const char *path = scratch(state, "server");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(server, 1), 0);
    snprintf(spec, sizeof spec, "unix:%s,server=off", path);
    struct device d;
    assert_true(device_open(&d, spec, NULL));
    int peer = accept(server, NULL, NULL);
    device_say(&d, "abc");
    device_turn(&d, 20);
    assert_int_equal(read(peer, text, sizeof text), 3);
    close(peer);
    device_turn(&d, 20);
    assert_int_equal(device_say(&d, "dropped"), 7);
    device_close(&d);
    close(server);
}

static void test_pty(void **state)
{
    char text[8] = "", name[100];
    struct device d;
    assert_true(device_open(&d, "pty", NULL));
    assert_int_equal(sscanf(d.announced, "char device redirected to %99s (label serial0)", name), 1);
    device_turn(&d, 250);
    assert_false(d.carrier);
    for (unsigned i = 0; i < 2; i++) {
        int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
        assert_true(fd >= 0);
        device_turn(&d, 250);
        assert_true(d.carrier);
        device_say(&d, "out\n");
        assert_int_equal(write(fd, "in\r", 3), 3);
        device_turn(&d, 50);
        assert_int_equal(read(fd, text, sizeof text), 4);
        assert_memory_equal(d.got + i * 3, "in\r", 3);
        close(fd);
        device_turn(&d, 50);
        assert_false(d.carrier);
    }
    device_close(&d);
}

/* Whoever had a pty open goes while the device neither takes what he typed nor has got rid of its output. */
static void test_pty_hangup(void **state)
{
    static uint8_t flood[200000];
    struct device d;
    assert_true(device_open(&d, "pty", NULL));
    char path[64];
    assert_int_equal(sscanf(d.announced, "char device redirected to %63s", path), 1);
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(fd >= 0);
    device_turn(&d, 250);
    assert_true(d.carrier);
    d.room = 0;
    assert_int_equal(write(fd, "typed", 5), 5);
    device_turn(&d, 20);
    assert_true(chardev_write(d.dev, flood, sizeof flood) < sizeof flood);
    device_turn(&d, 20);
    close(fd);
    device_turn(&d, 250);
    assert_false(d.carrier);
    assert_int_not_equal(d.writables, 0);
    assert_int_equal(chardev_write(d.dev, flood, sizeof flood), sizeof flood); /* into the void */
    struct timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    device_turn(&d, 300);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    assert_true((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec < 50000000);
    assert_false(d.carrier);
    d.room = 100;
    device_turn(&d, 250);
    assert_int_equal(d.length, 5); /* what was typed is not lost */
    assert_memory_equal(d.got, "typed", 5);
    device_close(&d);
}

/* Runs a device that echoes, or takes no input at all, on stdio in a child until `ms` have passed or it is told to
 * quit; its exit status is the number of breaks, plus 100 when it was told to quit. */
static pid_t fork_stdio(int in, int out, bool session, bool deaf, unsigned ms)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    if (session) {
        setsid();
        ioctl(in, TIOCSCTTY, 0);
    }
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    static struct device d;
    if (!device_open(&d, "stdio", NULL))
        _exit(99);
    d.echo = true;
    if (deaf)
        d.room = 0;
    device_say(&d, "ready\n");
    for (unsigned i = 0; i < ms / 5 && d.quits == 0; i++)
        device_turn(&d, 5);
    device_close(&d);
    if (d.warned[0] != 0)
        _exit(50);
    _exit((int)(d.breaks + d.quits * 100));
}

static int child_status(pid_t child)
{
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_stdio_pipes(void **state)
{
    int in[2], out[2];
    char text[100] = "";
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t child = fork_stdio(in[0], out[1], false, false, 300);
    assert_int_equal(write(in[1], "a\001xb", 4), 4); /* not a terminal: Ctrl-A is a byte like others */
    close(in[1]);                                    /* the end of input changes nothing */
    assert_int_equal(child_status(child), 0);
    assert_int_equal(read(out[0], text, sizeof text), 10);
    assert_memory_equal(text, "ready\na\001xb", 10);
    assert_int_equal(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0); /* what others share with us is as it was */
    close(in[0]);
    close(out[0]);
    close(out[1]);
}

static void test_stdio_file_and_closed_pipe(void **state)
{
    int out[2];
    const char *path = scratch(state, "input");
    int in = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(in, "from a file", 11), 11);
    lseek(in, 0, SEEK_SET);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t child = fork_stdio(in, out[1], false, false, 100);
    assert_int_equal(child_status(child), 0);
    char text[100] = "";
    assert_int_equal(read(out[0], text, sizeof text), 17);
    assert_string_equal(text, "ready\nfrom a file");
    close(out[0]);
    child = fork_stdio(in, out[1], false, false, 100);
    close(out[1]);
    assert_int_equal(child_status(child), 50); /* warned, and lived on */
    close(in);
}

/* Reads until `text` has come, at most 5 s. */
static void expect(int fd, const char *text)
{
    static char got[4096];
    size_t length = 0;
    uint64_t end = clock_monotonic_ns() + 5000000000ull;
    memset(got, 0, sizeof got);
    while (clock_monotonic_ns() < end && strstr(got, text) == NULL) {
        ssize_t n = read(fd, got + length, sizeof got - 1 - length);
        if (n > 0)
            length += (size_t)n;
        else
            usleep(2000);
    }
    assert_non_null(strstr(got, text));
}

static void type(int fd, const char *keys)
{
    assert_int_equal(write(fd, keys, strlen(keys)), strlen(keys));
}

static int open_terminal(int *slave)
{
    char name[64];
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    assert_int_equal(grantpt(master), 0);
    assert_int_equal(unlockpt(master), 0);
    assert_int_equal(ptsname_r(master, name, sizeof name), 0);
    *slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    return master;
}

static void test_stdio_keys(void **state)
{
    int slave, master = open_terminal(&slave);
    pid_t child = fork_stdio(slave, slave, true, false, 20000);
    expect(master, "ready");
    type(master, "abc\003");
    expect(master, "abc\003"); /* echoed by the device, not by the terminal; Ctrl-C is a byte */
    type(master, "\001h");
    expect(master, "Ctrl-A x       quit");
    type(master, "\001\001<\001a>");
    expect(master, "\001<\001>");
    type(master, "\001b\001b");
    type(master, "\001t\nstamped");
    expect(master, "] stamped"); /* [00:00:00.012] */
    type(master, "\001x");
    expect(master, "ring3: quit");
    assert_int_equal(child_status(child), 102);
    close(slave);
    close(master);
}

/* A guest that has stopped reading can still be quit, however much was pasted into it before. */
static void test_stdio_paste_then_quit(void **state)
{
    static char text[1000];
    int slave, master = open_terminal(&slave);
    pid_t child = fork_stdio(slave, slave, true, true, 20000);
    expect(master, "ready");
    memset(text, 'p', sizeof text);
    for (unsigned sent = 0; sent < 100 * sizeof text;) {
        ssize_t n = write(master, text, sizeof text);
        sent += n > 0 ? (unsigned)n : 0;
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
            usleep(1000);
        }
    }
    usleep(100000); /* until the terminal has room */
    type(master, "\001x");
    expect(master, "ring3: quit");
    assert_int_equal(child_status(child), 100);
    close(slave);
    close(master);
}

static int make_scratch(void **state)
{
    static char directory[] = "/tmp/ring3-chardev-XXXXXX";
    *state = mkdtemp(directory);
    return *state == NULL;
}

static int remove_scratch(void **state)
{
    static const char *const names[] = {"with,comma", "stale", "server", "input"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(scratch(state, names[i]));
    return rmdir(*state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_specifications),
        cmocka_unit_test(test_null),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_unix_server),
        cmocka_unit_test(test_unix_stale),
        cmocka_unit_test(test_unix_back_pressure),
        cmocka_unit_test(test_unix_client),
        cmocka_unit_test(test_pty),
        cmocka_unit_test(test_pty_hangup),
        cmocka_unit_test(test_stdio_pipes),
        cmocka_unit_test(test_stdio_file_and_closed_pipe),
        cmocka_unit_test(test_stdio_keys),
        cmocka_unit_test(test_stdio_paste_then_quit),
    };
    alarm(120);
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
