/* The shell: reads lines, runs programs.
 *
 * The kernel hands out characters as they are typed; what a line is, is decided here, with echo and backspace. A program
 * is run by fork, exec and wait; with & at the end it is not waited for. `exit` ends the shell, and since it is the
 * first process, the machine, with a status. */
#include "lib.h"

#define CTRL(letter) ((letter) - 'A' + 1)

static const char help[] = "help             this\n"
                           "echo WORDS       says them\n"
                           "ls               the files\n"
                           "cat FILE         what is in one\n"
#ifdef WHOLE_PC
                           "write FILE WORDS makes a file of them\n"
                           "copy FROM TO     makes a file like another\n"
                           "rm FILE          removes one\n"
#endif
                           "ps               the processes\n"
                           "sleep MS         waits\n"
                           "kill ID          ends a process\n"
                           "NAME WORDS [&]   runs a program; with & it is not waited for\n"
                           "exit [STATUS]    ends the machine; also poweroff\n"
                           "programs: hello count forktest crash loop bench write4 readblock spinner\n";

static void line_read(char *line, size_t size)
{
    size_t length = 0;
    for (;;) {
        char c;
        if (read(STDIN, &c, 1) != 1)
            exit(1);
        if (c == '\n' || c == '\r')
            break;
        if ((c == '\b' || c == 127) && length > 0) {
            length--;
            write(STDOUT, "\b \b", 3);
        } else if (c == CTRL('U')) {
            for (; length > 0; length--)
                write(STDOUT, "\b \b", 3);
        } else if (c >= ' ' && c < 127 && length < size - 1) {
            line[length++] = c;
            write(STDOUT, &c, 1);
        }
    }
    line[length] = 0;
    write(STDOUT, "\n", 1);
}

static int cat(const char *name)
{
    char bytes[64];
    long n;
    int file = open(name);
    if (file < 0) {
        printf("sh: there is no file '%s'\n", name);
        return 1;
    }
    while ((n = read(file, bytes, sizeof(bytes))) > 0)
        write(STDOUT, bytes, (size_t)n);
    close(file);
    if (n < 0)
        printf("sh: '%s' is not a file to be read\n", name);
    return n < 0;
}

#ifdef WHOLE_PC
/* The first word of `rest`, ended there; *rest goes on behind it. */
static char *word_take(char **rest)
{
    char *first = *rest;
    while (**rest != 0 && **rest != ' ')
        (*rest)++;
    if (**rest == ' ')
        *(*rest)++ = 0;
    return first;
}

static int file_make(char *rest)
{
    int file = create(word_take(&rest));
    if (file < 0 || write(file, rest, strlen(rest)) != (long)strlen(rest) || write(file, "\n", 1) != 1) {
        printf("sh: it cannot be written\n");
        return 1;
    }
    return close(file) != 0;
}

static int file_copy(char *rest)
{
    char bytes[512];
    long n;
    const char *name = word_take(&rest);
    int from = open(name), to = from < 0 ? -1 : create(rest);
    if (to < 0) {
        printf(from < 0 ? "sh: there is no file '%s'\n" : "sh: '%s' cannot be copied there\n", name);
        if (from >= 0)
            close(from);
        return 1;
    }
    while ((n = read(from, bytes, sizeof(bytes))) > 0)
        if (write(to, bytes, (size_t)n) != n)
            break;
    close(from);
    close(to);
    if (n != 0)
        printf("sh: not all of it could be copied\n");
    return n != 0;
}
#endif

static void report(int pid, int status)
{
    printf("[%d] ended with status %d\n", pid, status);
}

static int run(const char *command, bool in_background)
{
    int status = 0, pid = fork(), ended;
    if (pid == 0) {
        exec(command);
        printf("sh: there is no command '%s'\n", command);
        exit(127);
    }
    if (pid < 0) {
        printf("sh: no more processes\n");
        return 1;
    }
    if (in_background) {
        printf("[%d]\n", pid);
        return 0;
    }
    while ((ended = wait(&status, 0)) != pid && ended > 0)
        report(ended, status);
    return status;
}

static int kill_command(int pid)
{
    int result = kill(pid);
    yield(); /* it ends when it comes to run: so that the next prompt can say so */
    return result != 0;
}

/* Whether `line` begins with the word; *rest is what follows. */
static bool word_is(const char *line, const char *word, const char **rest)
{
    size_t n = strlen(word);
    for (size_t i = 0; i < n; i++)
        if (line[i] != word[i])
            return false;
    *rest = line + n;
    if (**rest != 0 && **rest != ' ')
        return false;
    while (**rest == ' ')
        (*rest)++;
    return true;
}

static int command_run(char *line, int last)
{
    const char *rest;
    size_t length = strlen(line);
    bool in_background = false;
    while (length > 0 && (line[length - 1] == ' ' || line[length - 1] == '&')) {
        in_background |= line[length - 1] == '&';
        line[--length] = 0;
    }
    if (length == 0)
        return last;
    if (word_is(line, "help", &rest))
        return printf("%s", help), 0;
    if (word_is(line, "echo", &rest))
        return printf("%s\n", rest), 0;
    if (word_is(line, "ls", &rest))
        return cat("files");
    if (word_is(line, "cat", &rest))
        return cat(rest);
#ifdef WHOLE_PC
    if (word_is(line, "write", &rest))
        return file_make((char *)rest);
    if (word_is(line, "copy", &rest))
        return file_copy((char *)rest);
    if (word_is(line, "rm", &rest)) {
        if (remove(rest) == 0)
            return 0;
        printf("sh: there is no file '%s'\n", rest);
        return 1;
    }
#endif
    if (word_is(line, "ps", &rest))
        return cat("processes");
    if (word_is(line, "sleep", &rest))
        return sleep(number_parse(rest, 1000)), 0;
    if (word_is(line, "kill", &rest))
        return kill_command((int)number_parse(rest, 0));
    if (word_is(line, "exit", &rest))
        exit((int)number_parse(rest, (unsigned)last));
    if (word_is(line, "poweroff", &rest))
        exit(0);
    return run(line, in_background);
}

int main(int argc, char **argv)
{
    char line[COMMAND_SIZE];
    int status = 0, ended, pid;
    for (;;) {
        while ((pid = wait(&ended, WAIT_NOT)) > 0)
            report(pid, ended);
        printf("$ ");
        line_read(line, sizeof(line));
        char *at = line;
        while (*at == ' ')
            at++;
        status = command_run(at, status);
    }
}
