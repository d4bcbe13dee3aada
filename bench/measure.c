/* Runs a command and says what it cost.
 *
 *   measure [-t SECONDS] [-m TEXT] [-r KIB] -o FILE COMMAND [ARGUMENT...]
 *
 * The command's output goes to FILE, its input is empty. One line is printed:
 *
 *   status=N wall_ns=N cpu_ns=N marker_ns=N rss_kib=N own_kib=N
 *
 *   status      its exit status, 128 + signal, or 124 after SECONDS, when it is killed
 *   wall_ns     from just before fork() to its end
 *   cpu_ns      user and system time of the command and the children it waited for
 *   marker_ns   from the same start until TEXT had appeared in the output; 0: never
 *   rss_kib     the greatest resident size, guest memory included
 *   own_kib     resident when TEXT appeared, without guest memory: without mappings of KIB to KIB + 4 MiB that are not
 *               executable, and without those of a file named ring3-ram; 0: not known
 *
 * The shell's `time` has neither the resolution nor the marker. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RAM_SLACK_KIB 4096
#define STATUS_TIMEOUT 124

struct measurement {
    const char *marker, *output;
    uint64_t timeout_ns, ram_kib;
    uint64_t start_ns, marker_ns, own_kib;
    pid_t child;
    int status;
    bool killed;
    struct rusage usage;
};

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static __attribute__((noreturn)) void fail(const char *what)
{
    fprintf(stderr, "measure: %s: %s\n", what, strerror(errno));
    exit(125);
}

/* The monitor's own resident memory now; 0 when it cannot be read. */
static uint64_t own_memory(pid_t pid, uint64_t ram_kib)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    FILE *smaps = fopen(path, "re");
    if (smaps == NULL)
        return 0;
    bool ram = false, executable = false;
    uint64_t own = 0;
    while (fgets(line, sizeof line, smaps) != NULL) {
        uint64_t kib;
        char perms[8];
        if (sscanf(line, "%*x-%*x %7s", perms) == 1) {
            executable = strchr(perms, 'x') != NULL;
            ram = strstr(line, "ring3-ram") != NULL;
        } else if (sscanf(line, "Size: %" SCNu64, &kib) == 1) {
            ram |= !executable && ram_kib > 0 && kib >= ram_kib && kib <= ram_kib + RAM_SLACK_KIB;
        } else if (sscanf(line, "Rss: %" SCNu64, &kib) == 1 && !ram) {
            own += kib;
        }
    }
    fclose(smaps);
    return own;
}

static pid_t command_start(char *const argv[], int out, int unused)
{
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        fail("fork");
    if (child > 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(125);
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
        _exit(125);
    close(null);
    close(out);
    close(unused);
    execvp(argv[0], argv);
    dprintf(STDERR_FILENO, "measure: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* Looks for the marker in what has come, also across two reads: `kept` bytes of `window` were there before. Returns how
 * many to keep. */
static size_t marker_search(struct measurement *m, char *window, size_t kept, size_t size)
{
    if (m->marker == NULL || m->marker_ns != 0)
        return 0;
    size_t length = strlen(m->marker), all = kept + size;
    if (memmem(window, all, m->marker, length) != NULL) {
        m->marker_ns = clock_ns() - m->start_ns;
        m->own_kib = own_memory(m->child, m->ram_kib);
        return 0;
    }
    size_t keep = all < length - 1 ? all : length - 1;
    memmove(window, window + all - keep, keep);
    return keep;
}

static void output_follow(struct measurement *m, int in)
{
    char window[512 + 4096];
    size_t kept = 0;
    int file = open(m->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0)
        fail(m->output);
    for (;;) {
        int wait_ms = -1;
        if (m->timeout_ns != 0 && !m->killed) {
            uint64_t used_ns = clock_ns() - m->start_ns;
            wait_ms = used_ns >= m->timeout_ns ? 0 : (int)((m->timeout_ns - used_ns) / 1000000 + 1);
        }
        struct pollfd ready = {.fd = in, .events = POLLIN};
        int n = poll(&ready, 1, wait_ms);
        if (n < 0 && errno != EINTR)
            fail("poll");
        if (n == 0) {
            kill(m->child, SIGKILL);
            m->killed = true;
        }
        if (n <= 0)
            continue;
        ssize_t size = read(in, window + kept, 4096);
        if (size <= 0)
            break;
        if (write(file, window + kept, (size_t)size) != size)
            fail(m->output);
        kept = marker_search(m, window, kept, (size_t)size);
    }
    close(file);
}

static void command_measure(struct measurement *m, char *const argv[])
{
    int ends[2], status;
    if (pipe(ends) != 0)
        fail("pipe");
    m->start_ns = clock_ns();
    m->child = command_start(argv, ends[1], ends[0]);
    close(ends[1]);
    output_follow(m, ends[0]);
    while (wait4(m->child, &status, 0, &m->usage) < 0) {
        if (errno != EINTR)
            fail("wait4");
    }
    uint64_t wall_ns = clock_ns() - m->start_ns;
    m->status = m->killed ? STATUS_TIMEOUT : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    const struct timeval *user = &m->usage.ru_utime, *system = &m->usage.ru_stime;
    uint64_t cpu_ns =
        (uint64_t)(user->tv_sec + system->tv_sec) * 1000000000u + (uint64_t)(user->tv_usec + system->tv_usec) * 1000u;
    printf("status=%d wall_ns=%" PRIu64 " cpu_ns=%" PRIu64 " marker_ns=%" PRIu64 " rss_kib=%ld own_kib=%" PRIu64 "\n",
           m->status, wall_ns, cpu_ns, m->marker_ns, m->usage.ru_maxrss, m->own_kib);
}

int main(int argc, char **argv)
{
    struct measurement m = {.output = "/dev/null"};
    int option;
    while ((option = getopt(argc, argv, "+t:m:r:o:")) != -1) {
        switch (option) {
        case 't':
            m.timeout_ns = strtoull(optarg, NULL, 10) * 1000000000u;
            break;
        case 'm':
            m.marker = strlen(optarg) > 0 && strlen(optarg) < 512 ? optarg : NULL;
            break;
        case 'r':
            m.ram_kib = strtoull(optarg, NULL, 10);
            break;
        case 'o':
            m.output = optarg;
            break;
        default:
            return 125;
        }
    }
    if (optind >= argc) {
        fprintf(stderr, "usage: measure [-t SECONDS] [-m TEXT] [-r KIB] -o FILE COMMAND [ARGUMENT...]\n");
        return 125;
    }
    command_measure(&m, argv + optind);
    return 0;
}
