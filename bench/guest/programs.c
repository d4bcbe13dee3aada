/* Rows that are whole programs: applets of busybox, and programs of Debian's packages with their libraries.
 *
 * The packages are not installed anywhere. Their programs are started as people start them, with the dynamic linker
 * and the libraries of the same packages:
 *
 *   PROGRAMS/lib/ld.so --library-path PROGRAMS/lib PROGRAMS/bin/NAME ...
 *
 * so that the host runs the very files that the guests run. They start in the folder of their data, with a file as
 * input and an empty environment, and so write the same everywhere. The output of the first round goes to a file and is
 * summed; that of the others is dropped. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define PATH_SIZE 512
#define ARGUMENTS_MAX 16
#define OUTPUT_SLOT (64 * 1024)

/* What a row runs: filled by its setup. */
static struct {
    char paths[3][PATH_SIZE]; /* what argv points to and is not constant */
    char input[PATH_SIZE];
    const char *argv[ARGUMENTS_MAX];
} command;

static const char *path_make(unsigned slot, const char *dir, const char *name)
{
    snprintf(command.paths[slot], PATH_SIZE, "%s/%s", dir, name);
    return command.paths[slot];
}

/* The rest of a command line, after `at` words. */
static void arguments_set(unsigned at, const char *const *arguments)
{
    while (*arguments != NULL && at < ARGUMENTS_MAX - 1)
        command.argv[at++] = *arguments++;
    command.argv[at] = NULL;
}

static const char *input_set(const char *input)
{
    snprintf(command.input, PATH_SIZE, "%s/%s", input[0] == '/' ? "" : bench_data, input);
    return access(command.input, R_OK) == 0 ? NULL : "its input is not in the image";
}

/* Arguments end with NULL; the first is the applet. */
static const char *busybox_set(const char *input, const char *const *arguments)
{
    command.argv[0] = path_make(0, bench_bin, "busybox");
    if (access(command.argv[0], X_OK) != 0)
        return "no busybox in the image";
    arguments_set(1, arguments);
    return input_set(input);
}

static const char *package_set(const char *input, const char *program, const char *const *arguments)
{
    command.argv[0] = path_make(0, bench_programs, "lib/ld.so");
    command.argv[1] = "--library-path";
    command.argv[2] = path_make(1, bench_programs, "lib");
    command.argv[3] = path_make(2, bench_programs, program);
    if (access(command.argv[0], X_OK) != 0 || access(command.argv[3], X_OK) != 0)
        return "the programs of Debian's packages are not in the image";
    arguments_set(4, arguments);
    return input_set(input);
}

/* FNV-1a of what has been written, so that a wrong result is seen. */
static uint64_t output_sum(int fd)
{
    static unsigned char buffer[OUTPUT_SLOT];
    uint64_t sum = 0xcbf29ce484222325ull;
    ssize_t size;
    if (lseek(fd, 0, SEEK_SET) != 0)
        bench_die("output");
    while ((size = read(fd, buffer, sizeof buffer)) > 0) {
        for (ssize_t i = 0; i < size; i++)
            sum = (sum ^ buffer[i]) * 0x100000001b3ull;
    }
    return sum;
}

static void command_run(int out)
{
    int in = open(command.input, O_RDONLY | O_CLOEXEC), status;
    if (in < 0)
        bench_die(command.input);
    pid_t child = vfork();
    if (child == 0) {
        dup2(in, STDIN_FILENO);
        dup2(out, STDOUT_FILENO);
        if (chdir(bench_data) == 0)
            execve(command.argv[0], (char **)command.argv, (char *[]){NULL});
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        bench_die(command.argv[0]);
    close(in);
}

static void command_rounds(uint64_t n)
{
    char path[PATH_SIZE];
    int out;
    if (bench_checking) {
        snprintf(path, sizeof path, "%s/bench.XXXXXX", bench_tmp);
        out = mkostemp(path, O_CLOEXEC);
        unlink(path);
    } else {
        out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    }
    if (out < 0)
        bench_die("output");
    while (n-- > 0)
        command_run(out);
    if (bench_checking)
        bench_sink = output_sum(out);
    close(out);
}

#define ARGUMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static const char *shell_setup(void)
{
    static char script[PATH_SIZE + 64];
    snprintf(script, sizeof script, "i=0; while [ $i -lt 200 ]; do %s/true; i=$((i+1)); done; echo $i", bench_bin);
    return busybox_set("/dev/null", ARGUMENTS("sh", "-c", script));
}
static const char *sha256_setup(void)
{
    return busybox_set("text-8192", ARGUMENTS("sha256sum"));
}
static const char *gzip_setup(void)
{
    return busybox_set("text-1024", ARGUMENTS("gzip", "-1", "-c"));
}
static const char *sort_setup(void)
{
    return busybox_set("text-1024", ARGUMENTS("sort"));
}
static const char *awk_setup(void)
{
    return busybox_set("text-128", ARGUMENTS("awk", "-f", "words.awk"));
}
static const char *start_setup(void)
{
    return package_set("/dev/null", "bin/xz", ARGUMENTS("--version"));
}
static const char *xz_setup(void)
{
    return package_set("text-256", "bin/xz", ARGUMENTS("-3", "-c"));
}
static const char *perl_setup(void)
{
    return package_set("text-256", "bin/perl", ARGUMENTS("words.pl"));
}
static const char *cc1_setup(void)
{
    return package_set("/dev/null", "bin/cc1", ARGUMENTS("-quiet", "-fpreprocessed", "-O2", "-o", "-", "compile.i"));
}

static const struct row rows[] = {
    {"shell", "sh: 200 x /bin/true", ROW_PROGRAM, 1, shell_setup, command_rounds, NULL},
    {"start", "start of a dynamically linked program (xz)", ROW_PROGRAM, 1, start_setup, command_rounds, NULL},
    {"sha256", "sha256sum of 8 MiB", ROW_PROGRAM, 1, sha256_setup, command_rounds, NULL},
    {"gzip", "gzip -1 of 1 MiB", ROW_PROGRAM, 1, gzip_setup, command_rounds, NULL},
    {"sort-text", "sort of the lines of 1 MiB", ROW_PROGRAM, 1, sort_setup, command_rounds, NULL},
    {"xz", "xz -3 of 256 KiB", ROW_PROGRAM, 1, xz_setup, command_rounds, NULL},
    {"awk", "busybox awk counts the words of 128 KiB", ROW_PROGRAM, 1, awk_setup, command_rounds, NULL},
    {"perl", "perl counts the words of 256 KiB", ROW_PROGRAM, 1, perl_setup, command_rounds, NULL},
    {"cc1", "cc1 -O2 compiles 500 lines (gcc)", ROW_PROGRAM, 1, cc1_setup, command_rounds, NULL},
};
const struct rows program_rows = {rows, ARRAY_LEN(rows)};
