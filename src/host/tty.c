/* The terminal in raw mode.
 *
 * Raw means: every byte the user types goes to the guest (no echo, no line editing, no signals, no flow control, no
 * translation of CR). Output processing stays as it was, so that our own messages and the shell's line ends look right.
 *
 * The guard. A process that is killed cannot tidy up, so a child does it, which lives exactly as long as the terminal
 * is raw. It waits for the end of a pipe (and of a pidfd, because other children of ours may have inherited the pipe),
 * then puts the saved settings back if the terminal is still exactly as we made it: so it does not disturb a shell that
 * was faster. It leaves our session, so it belongs to no job, gets no Ctrl-C and is not stopped by SIGTTOU; it blocks
 * all signals and keeps no descriptor but the pipe and the terminal. The tty kills it and waits for it.
 *
 * Sources: POSIX.1-2017 chapter 11 (General Terminal Interface), termios(3), credentials(7). */
#include "host/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/check.h"
#include "host/clock.h"

#define RECHECK_NS (NS_PER_S / 4)

struct tty {
    int fd;
    int signal_fd;
    struct loop_source *signals;
    sigset_t old_mask;
    struct termios saved, raw;
    bool is_raw;
    struct timer recheck; /* armed while we are in the background */
    void (*claimed)(void *opaque);
    void *opaque;
    const char *goodbye; /* written when the modes are put back; NULL: nothing */
    pid_t guard;         /* 0: none */
    int guard_pipe;
};

/* tcsetattr() without being stopped by SIGTTOU when we are in the background after all. */
static bool terminal_set(int fd, const struct termios *settings)
{
    sigset_t ttou, old;
    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &old);
    int result;
    do
        result = tcsetattr(fd, TCSANOW, settings);
    while (result < 0 && errno == EINTR);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return result == 0;
}

static bool settings_equal(const struct termios *a, const struct termios *b)
{
    return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
           a->c_lflag == b->c_lflag && memcmp(a->c_cc, b->c_cc, sizeof a->c_cc) == 0;
}

static bool in_foreground(int fd)
{
    pid_t group = tcgetpgrp(fd);
    return group < 0 /* not our controlling terminal: no job control on it */ || group == getpgrp();
}

static void say_goodbye(const struct tty *tty)
{
    const char *at = tty->goodbye;
    for (size_t left = at != NULL ? strlen(at) : 0; left > 0;) {
        ssize_t n = write(tty->fd, at, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        at += n;
        left -= (size_t)n;
    }
}

/* Closes all descriptors but the two. */
static void close_others(int a, int b)
{
    unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);
    bool done = true;
    if (low > 0)
        done &= syscall(SYS_close_range, 0u, low - 1, 0u) == 0;
    if (high > low + 1)
        done &= syscall(SYS_close_range, low + 1, high - 1, 0u) == 0;
    done &= syscall(SYS_close_range, high + 1, ~0u, 0u) == 0;
    if (done)
        return;
    long limit = sysconf(_SC_OPEN_MAX); /* before Linux 5.9 */
    for (int fd = 0; fd < (limit > 0 && limit < 65536 ? limit : 65536); fd++) {
        if (fd != a && fd != b)
            close(fd);
    }
}

/* The guard process, with all signals blocked. Only async-signal-safe calls: the parent may have had threads. */
_Noreturn static void guard_run(const struct tty *tty, int pipe_fd, pid_t parent)
{
    setsid();
    prctl(PR_SET_NAME, "ring3-tty-guard");
    if (chdir("/") != 0) {
        /* then we keep a directory busy for as long as our parent does */
    }
    close_others(tty->fd, pipe_fd);
    int pid_fd = (int)syscall(SYS_pidfd_open, parent, 0); /* -1 before Linux 5.3: poll() ignores it */
    struct pollfd fds[2] = {{.fd = pipe_fd, .events = POLLIN}, {.fd = pid_fd, .events = POLLIN}};
    if (getppid() == parent) {
        while (poll(fds, 2, -1) < 0 && errno == EINTR)
            continue;
    }
    struct termios now;
    if (tcgetattr(tty->fd, &now) == 0 && settings_equal(&now, &tty->raw)) {
        tcsetattr(tty->fd, TCSANOW, &tty->saved);
        say_goodbye(tty);
    }
    _exit(0);
}

static bool guard_start(struct tty *tty, struct error *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return error_set(err, "the terminal's guard needs a pipe: %s", strerror(errno));
    /* Blocked before it exists: until setsid() it is in our session, and gets the SIGHUP of our death. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        close(fds[1]);
        guard_run(tty, fds[0], parent);
    }
    int fork_errno = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close(fds[0]);
    if (child < 0) {
        close(fds[1]);
        return error_set(err, "the terminal's guard cannot be started: %s", strerror(fork_errno));
    }
    tty->guard = child;
    tty->guard_pipe = fds[1];
    return true;
}

static void guard_stop(struct tty *tty)
{
    if (tty->guard == 0)
        return;
    kill(tty->guard, SIGKILL); /* not yet waited for, so the number is still its own */
    while (waitpid(tty->guard, NULL, 0) < 0 && errno == EINTR)
        continue;
    close(tty->guard_pipe);
    tty->guard = 0;
}

static struct termios raw_settings(const struct termios *from)
{
    struct termios raw = *from;
    raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN | ISIG);
    raw.c_cflag &= ~(tcflag_t)(CSIZE | PARENB);
    raw.c_cflag |= CS8;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    return raw;
}

/* The guard must exist before the terminal is raw, and must know raw as the driver took it: so it is told what we are
 * going to ask for, and a second one is started in the odd case that the driver made something else of that. */
static bool tty_raw(struct tty *tty, struct error *err)
{
    if (tcgetattr(tty->fd, &tty->saved) != 0)
        return error_set(err, "the terminal's settings cannot be read: %s", strerror(errno));
    tty->raw = raw_settings(&tty->saved);
    if (!guard_start(tty, err))
        return false;
    struct termios taken;
    if (!terminal_set(tty->fd, &tty->raw) || tcgetattr(tty->fd, &taken) != 0) {
        error_set(err, "the terminal cannot be made raw: %s", strerror(errno));
        terminal_set(tty->fd, &tty->saved);
        guard_stop(tty);
        return false;
    }
    if (!settings_equal(&taken, &tty->raw)) {
        guard_stop(tty);
        tty->raw = taken;
        guard_start(tty, NULL); /* without one we are only less safe */
    }
    tty->is_raw = true;
    timer_disarm(&tty->recheck);
    return true;
}

static void tty_restore(struct tty *tty)
{
    if (tty->is_raw) {
        terminal_set(tty->fd, &tty->saved);
        say_goodbye(tty);
    }
    guard_stop(tty);
    tty->is_raw = false;
}

void tty_adopt(struct tty *tty, const char *goodbye)
{
    struct termios now;
    tty->goodbye = goodbye;
    if (!tty->is_raw || tcgetattr(tty->fd, &now) != 0)
        return;
    guard_stop(tty);
    tty->raw = now;
    guard_start(tty, NULL); /* without one we are only less safe */
}

bool tty_claim(struct tty *tty)
{
    if (in_foreground(tty->fd) && (tty->is_raw || tty_raw(tty, NULL)))
        return true;
    /* Shells do not tell a running job that it has come to the foreground. */
    timer_arm(&tty->recheck, clock_monotonic_ns() + RECHECK_NS);
    return false;
}

static void tty_recheck(void *opaque)
{
    struct tty *tty = opaque;
    if (tty_claim(tty))
        tty->claimed(tty->opaque);
}

static void tty_suspend(struct tty *tty)
{
    tty_restore(tty);
    kill(getpid(), SIGSTOP); /* the whole process stops in here; SIGCONT then makes it raw again, see tty_signal() */
}

static void tty_signal(void *opaque, unsigned events)
{
    struct tty *tty = opaque;
    struct signalfd_siginfo info;
    if (read(tty->signal_fd, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGTSTP) {
        tty_suspend(tty);
        return;
    }
    struct termios now;
    if (tty->is_raw && tcgetattr(tty->fd, &now) == 0 && !settings_equal(&now, &tty->raw)) {
        /* After SIGSTOP: the shell has put its own settings in place. */
        guard_stop(tty);
        tty->is_raw = false;
    }
    if (tty_claim(tty))
        tty->claimed(tty->opaque);
}

struct tty *tty_create(int fd, struct loop *loop, void (*claimed)(void *opaque), void *opaque, struct error *err)
{
    struct tty *tty = calloc(1, sizeof *tty);
    check(tty != NULL);
    tty->fd = fd;
    tty->claimed = claimed;
    tty->opaque = opaque;
    timer_init(&tty->recheck, loop_timers(loop), tty_recheck, tty);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTSTP);
    sigaddset(&signals, SIGCONT);
    pthread_sigmask(SIG_BLOCK, &signals, &tty->old_mask);
    tty->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (tty->signal_fd < 0) {
        error_set(err, "the terminal's signals cannot be received: %s", strerror(errno));
        goto fail;
    }
    if (in_foreground(fd) && !tty_raw(tty, err))
        goto fail;
    tty->signals = loop_add(loop, tty->signal_fd, LOOP_READ, tty_signal, tty);
    if (!tty->is_raw)
        tty_claim(tty);
    return tty;

fail:
    if (tty->signal_fd >= 0)
        close(tty->signal_fd);
    pthread_sigmask(SIG_SETMASK, &tty->old_mask, NULL);
    free(tty);
    return NULL;
}

void tty_destroy(struct tty *tty)
{
    if (tty == NULL)
        return;
    tty_restore(tty);
    timer_disarm(&tty->recheck);
    loop_remove(tty->signals);
    close(tty->signal_fd);
    pthread_sigmask(SIG_SETMASK, &tty->old_mask, NULL);
    free(tty);
}
