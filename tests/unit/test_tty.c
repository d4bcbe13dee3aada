/* The raw terminal is put back on every way out. Each test has a child whose controlling terminal is a pty of its own;
 * the test looks at the pty's settings from the other side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "host/tty.h"

#define PATIENCE_MS 5000

struct terminal {
    int master, slave;
    char name[64];
    struct termios before;
};

static struct terminal terminal_open(void)
{
    struct terminal t;
    t.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(t.master >= 0);
    assert_int_equal(grantpt(t.master), 0);
    assert_int_equal(unlockpt(t.master), 0);
    assert_int_equal(ptsname_r(t.master, t.name, sizeof t.name), 0);
    t.slave = open(t.name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(t.slave >= 0);
    assert_int_equal(tcgetattr(t.slave, &t.before), 0);
    return t;
}

static void terminal_close(struct terminal *t)
{
    close(t->slave);
    close(t->master);
}

static bool is_raw(const struct terminal *t)
{
    struct termios now;
    assert_int_equal(tcgetattr(t->slave, &now), 0);
    return !(now.c_lflag & (ICANON | ECHO | ISIG));
}

static bool is_as_before(const struct terminal *t)
{
    struct termios now;
    assert_int_equal(tcgetattr(t->slave, &now), 0);
    return now.c_iflag == t->before.c_iflag && now.c_oflag == t->before.c_oflag && now.c_cflag == t->before.c_cflag &&
           now.c_lflag == t->before.c_lflag && memcmp(now.c_cc, t->before.c_cc, sizeof now.c_cc) == 0;
}

static bool becomes(const struct terminal *t, bool (*condition)(const struct terminal *))
{
    for (unsigned ms = 0; ms < PATIENCE_MS; ms += 5) {
        if (condition(t))
            return true;
        usleep(5000);
    }
    return false;
}

static void nothing(void *opaque)
{
}

/* Makes the terminal raw and waits to be ended. */
_Noreturn static void hold_terminal(int fd)
{
    struct loop *loop = loop_create(NULL);
    struct tty *tty = tty_create(fd, loop, nothing, NULL, NULL);
    if (tty == NULL)
        _exit(1);
    for (;;)
        loop_run_once(loop, NULL);
}

/* A child in a session of its own with the terminal as its controlling one. */
static pid_t fork_session(const struct terminal *t, int *fd)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setsid();
        *fd = open(t->name, O_RDWR);
        if (*fd < 0 || ioctl(*fd, TIOCSCTTY, 0) != 0)
            _exit(1);
    }
    return child;
}

static void test_killed(int signal_number)
{
    struct terminal t = terminal_open();
    int fd;
    pid_t child = fork_session(&t, &fd);
    if (child == 0) {
        prctl(PR_SET_DUMPABLE, 0);      /* no core files */
        signal(signal_number, SIG_DFL); /* the test library has handlers of its own */
        hold_terminal(fd);
    }
    assert_true(becomes(&t, is_raw));
    kill(child, signal_number);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signal_number);
    assert_true(becomes(&t, is_as_before));
    terminal_close(&t);
}

static void test_every_death(void **state)
{
    static const int deaths[] = {SIGKILL, SIGTERM, SIGINT, SIGQUIT, SIGABRT, SIGSEGV};
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++)
        test_killed(deaths[i]);
}

/* Orderly: back at once, and no child is left behind. */
static void test_destroy(void **state)
{
    struct terminal t = terminal_open();
    int fd;
    pid_t child = fork_session(&t, &fd);
    if (child == 0) {
        struct loop *loop = loop_create(NULL);
        struct tty *tty = tty_create(fd, loop, nothing, NULL, NULL);
        bool ok = tty != NULL && is_raw(&t);
        tty_destroy(tty);
        ok = ok && is_as_before(&t) && waitpid(-1, NULL, 0) < 0 && errno == ECHILD;
        loop_destroy(loop);
        _exit(ok ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    terminal_close(&t);
}

/* exit() in the middle, without tty_destroy(). */
static void test_exit(void **state)
{
    struct terminal t = terminal_open();
    int fd;
    pid_t child = fork_session(&t, &fd);
    if (child == 0) {
        struct loop *loop = loop_create(NULL);
        _exit(tty_create(fd, loop, nothing, NULL, NULL) != NULL && is_raw(&t) ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_true(becomes(&t, is_as_before));
    terminal_close(&t);
}

/* Settings that somebody else made after us are not touched by the guard. */
static void test_guard_respects_others(void **state)
{
    struct terminal t = terminal_open();
    int fd;
    pid_t child = fork_session(&t, &fd);
    if (child == 0)
        hold_terminal(fd);
    assert_true(becomes(&t, is_raw));
    kill(child, SIGSTOP);
    waitpid(child, NULL, WUNTRACED);
    struct termios others = t.before;
    others.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(t.slave, TCSANOW, &others);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    usleep(200000);
    struct termios now;
    tcgetattr(t.slave, &now);
    assert_int_equal(now.c_lflag, others.c_lflag);
    terminal_close(&t);
}

static void test_suspend_and_continue(void **state)
{
    static const int stops[] = {SIGTSTP, SIGSTOP};
    struct terminal t = terminal_open();
    int fd;
    pid_t child = fork_session(&t, &fd);
    if (child == 0)
        hold_terminal(fd);
    assert_true(becomes(&t, is_raw));
    for (size_t i = 0; i < 4; i++) {
        int status;
        kill(child, stops[i % 2]);
        assert_int_equal(waitpid(child, &status, WUNTRACED), child);
        assert_true(WIFSTOPPED(status));
        if (stops[i % 2] == SIGTSTP)
            assert_true(is_as_before(&t));
        tcsetattr(t.slave, TCSANOW, &t.before); /* as a shell does */
        kill(child, SIGCONT);
        assert_true(becomes(&t, is_raw));
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_true(becomes(&t, is_as_before));
    terminal_close(&t);
}

/* Started in the background the terminal is left alone, until the job comes to the foreground. */
static void test_background(void **state)
{
    struct terminal t = terminal_open();
    int go[2], fd;
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    pid_t shell = fork_session(&t, &fd);
    if (shell == 0) {
        pid_t job = fork();
        if (job == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            setpgid(0, 0);
            hold_terminal(fd);
        }
        setpgid(job, job);
        char byte;
        if (read(go[0], &byte, 1) != 1)
            _exit(1);
        signal(SIGTTOU, SIG_IGN);
        tcsetpgrp(fd, job);
        for (;;)
            pause();
    }
    usleep(400000);
    assert_true(is_as_before(&t));
    assert_int_equal(write(go[1], "x", 1), 1);
    assert_true(becomes(&t, is_raw));
    kill(shell, SIGKILL);
    waitpid(shell, NULL, 0);
    assert_true(becomes(&t, is_as_before));
    close(go[0]);
    close(go[1]);
    terminal_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_death),
        cmocka_unit_test(test_destroy),
        cmocka_unit_test(test_exit),
        cmocka_unit_test(test_guard_respects_others),
        cmocka_unit_test(test_suspend_and_continue),
        cmocka_unit_test(test_background),
    };
    alarm(120);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
