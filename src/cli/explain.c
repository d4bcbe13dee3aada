/* `ring3 explain`: the lecture's two exercises, run and told.
 *
 * Each is a program of the teaching kernel (guest/primer), which is part of this program: it is booted as any guest is,
 * with `run=PROGRAM` on its command line, and the story between the program's marks is recorded (story.h). The machine
 * follows the count of instructions where the engine can, so that every run is the same to the instruction.
 *
 * For the second exercise somebody has to press a key while the reader waits. That is done when the story says that the
 * other program has begun to run: on the vCPU's thread, at an instruction that is the same in each run.
 *
 * Where guest time is the host's, a tick of the guest's timer may come between the marks when the host is busy. Such a
 * run is done again, a few times; if it cannot be had otherwise, the ticks are shown and said to be ticks.
 *
 * docs/explain.md derives the numbers. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/suggest.h"
#include "cli/commands.h"
#include "cli/embed.h"
#include "cli/status.h"
#include "cli/story.h"
#include "host/chardev.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/machine.h"
#include "machine/pc.h"

#define EXERCISES 2
#define TIMEOUT_NS (60 * NS_PER_S)
#define ATTEMPTS 12u
#define RAM_SIZE (16 * MiB)
#define KEY_A 0x1eu
#define CONSOLE_MAX 4096u

static const struct exercise {
    const char *title, *question, *append;
    uint64_t traps; /* the lecture's answer; 0: it does not ask */
    uint64_t guest_switches, shadow_switches;
    const char *because;
} exercises[EXERCISES] = {
    {"four characters to the screen",
     "A program asks the guest's kernel to write 4 characters to a memory-mapped screen, one at a time.\n"
     "How many exceptions occur on the real hardware?",
     "run=write4", 6, 0, 0,
     "One for the system call, which the monitor reflects into the guest's kernel; one for each of the four stores to\n"
     "the screen, whose page the monitor keeps unmapped; and one for the privileged return to the program. What the\n"
     "kernel does between them runs at full speed, unseen."},
    {"a read() that waits",
     "A program reads from the keyboard and has to wait; another one runs; a key is pressed; the first goes on.\n"
     "How many switches of page tables does the guest make, and how many does the monitor?",
     "run=readblock", 0, 2, 6,
     "The guest loads CR3 twice: to the other program and back. With one shadow table for pretend user and one for\n"
     "pretend kernel mode each of these is a switch for the monitor too, and so is each way into the guest's kernel\n"
     "(the system call, the keyboard's interrupt) and each way out of it (to either program): 2 + 4."},
};

struct options {
    unsigned first, last; /* exercises, from 0 */
    const char *engine, *kernel;
    bool json, help;
};

/* The guest's console: kept to be shown if the exercise fails. */
struct console {
    struct chardev chardev;
    char text[CONSOLE_MAX];
    size_t length;
};

struct explain {
    const struct options *options;
    int kernel_fd;
    char kernel[64]; /* its path */
    struct symbols *symbols;
    struct loop *loop;
    struct console console;
    struct story story;
    struct vm *vm;
    struct timer timeout;
    const char *engine; /* that ran it */
    bool host_clock;
};

/* ---- options ---- */

static bool option_value(int argc, char **argv, int *at, const char *name, const char **value, struct error *err)
{
    const char *equals = strchr(argv[*at], '=');
    if (equals != NULL) {
        *value = equals + 1;
        return true;
    }
    if (*at + 1 >= argc)
        return error_set(err, "explain: --%s needs a value", name);
    *value = argv[++*at];
    return true;
}

static bool option_parse(struct options *o, int argc, char **argv, int *at, struct error *err)
{
    static const char *const names[] = {"engine", "kernel", "json", "help"};
    const char *word = argv[*at], *name = word + (word[1] == '-' ? 2 : 1);
    size_t length = strcspn(name, "=");
    char bare[32], tail[80];
    snprintf(bare, sizeof bare, "%.*s", (int)(length < 31 ? length : 31), name);
    if (strcmp(bare, "engine") == 0)
        return option_value(argc, argv, at, bare, &o->engine, err);
    if (strcmp(bare, "kernel") == 0)
        return option_value(argc, argv, at, bare, &o->kernel, err);
    if (strcmp(name, "json") == 0 || strcmp(name, "help") == 0 || strcmp(name, "h") == 0) {
        *(name[0] == 'j' ? &o->json : &o->help) = true;
        return true;
    }
    return error_set(err, "explain: unknown option '%.60s'%s", word,
                     suggest_tail(bare, names, ARRAY_LEN(names), tail, sizeof tail));
}

static bool options_parse(struct options *o, int argc, char **argv, struct error *err)
{
    *o = (struct options){.last = EXERCISES - 1, .engine = "interpret"};
    bool chosen = false;
    for (int at = 0; at < argc; at++) {
        const char *word = argv[at];
        if (word[0] == '-' && word[1] != 0) {
            if (!option_parse(o, argc, argv, &at, err))
                return false;
            continue;
        }
        bool number = word[0] >= '1' && word[0] < '1' + EXERCISES && word[1] == 0;
        if (chosen || (!number && strcmp(word, "all") != 0))
            return error_set(err, "explain: '%.60s' is not an exercise: say 1, 2 or all", word);
        chosen = true;
        if (number)
            o->first = o->last = (unsigned)(word[0] - '1');
    }
    return true;
}

/* ---- the machine ---- */

static size_t console_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    struct console *c = container_of(dev, struct console, chardev);
    for (size_t i = 0; i < n && c->length < CONSOLE_MAX - 1; i++)
        c->text[c->length++] = (bytes[i] < ' ' && bytes[i] != '\n') || bytes[i] > '~' ? ' ' : (char)bytes[i];
    return n;
}

static const struct chardev_ops console_ops = {.write = console_write, .name = "explain"};

static void on_timeout(void *opaque)
{
    vm_stop(((struct explain *)opaque)->vm, VM_STOP_TIMEOUT);
}

/* Another program runs, so the reader waits: a key goes down. */
static void press_key(void *opaque, struct vcpu *v)
{
    struct explain *e = opaque;
    struct door *door = v->exit_opaque;
    pthread_mutex_lock(door->lock);
    pc_key(vm_pc(e->vm), KEY_A, true);
    pthread_mutex_unlock(door->lock);
}

/* The kernel from within this program as a file with a name. */
static bool kernel_open(struct explain *e, struct error *err)
{
    if (e->options->kernel != NULL) {
        e->symbols = symbols_read(e->options->kernel, NULL);
        return true;
    }
    size_t done = 0;
    e->kernel_fd = memfd_create("primer.elf", MFD_CLOEXEC);
    while (e->kernel_fd >= 0 && done < embed_primer_size) {
        ssize_t n = write(e->kernel_fd, embed_primer + done, embed_primer_size - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (done < embed_primer_size)
        return error_set(err, "explain: the teaching kernel cannot be put into memory: %s", strerror(errno));
    snprintf(e->kernel, sizeof e->kernel, "/proc/self/fd/%d", e->kernel_fd);
    e->symbols = symbols_parse(embed_primer, embed_primer_size, err);
    return e->symbols != NULL || error_prefix(err, "explain: the teaching kernel");
}

static bool machine_create(struct explain *e, const struct exercise *x, struct error *err)
{
    struct machine_config config = {
        .engine = e->options->engine,
        .ram_size = RAM_SIZE,
        .kernel = e->options->kernel != NULL ? e->options->kernel : e->kernel,
        .append = x->append,
        .no_reboot = true,
        .clock = CLOCK_INSTRUCTIONS,
        .loop = e->loop,
        .serial = &e->console.chardev,
        .observer = &e->story.observer,
    };
    e->vm = vm_create(&config, err);
    if (e->vm == NULL) { /* engines that cannot count follow the host's clock */
        struct error why = *err;
        config.clock = CLOCK_HOST;
        e->host_clock = true;
        e->vm = vm_create(&config, err);
        if (e->vm == NULL)
            *err = why;
    }
    if (e->vm != NULL)
        e->engine = vm_engine(e->vm);
    return e->vm != NULL;
}

static bool machine_run(struct explain *e, struct error *err)
{
    struct vm_result result;
    e->story.other_runs = press_key;
    e->story.opaque = e;
    timer_init(&e->timeout, loop_timers(e->loop), on_timeout, e);
    timer_arm(&e->timeout, clock_monotonic_ns() + TIMEOUT_NS);
    bool ok = vm_run(e->vm, &result, err);
    timer_disarm(&e->timeout);
    if (!ok)
        return false;
    if (!e->story.ended)
        return error_set(err, "explain: the exercise %s; the guest's console: %.600s",
                         e->story.began ? "has begun but not ended" : "has not begun (no byte '[' came to port 402h)",
                         e->console.length > 0 ? e->console.text : "(nothing)");
    return true;
}

/* ---- printing ---- */

/* Whether a timer's tick came between the marks: more interrupts than the exercise has. */
static bool is_disturbed(const struct explain *e, const struct exercise *x)
{
    return e->host_clock && e->story.traps[ACT_INTERRUPT] > (x->guest_switches != 0 ? 1 : 0);
}

static void print_count(FILE *out, const char *before, uint64_t n, const char *one, const char *many)
{
    fprintf(out, "%s%llu %s", before, (unsigned long long)n, n == 1 ? one : many);
}

static void print_answer(const struct explain *e, const struct exercise *x, bool colour, FILE *out)
{
    const struct story *s = &e->story;
    const char *bold = colour ? "\x1b[1m" : "", *plain = colour ? "\x1b[0m" : "";
    unsigned returns = 0, gates = 0, others = 0;
    for (unsigned i = 0; i < s->act_count; i++) {
        const struct act *act = &s->acts[i];
        if (act->kind != ACT_INSTRUCTION || act->sensitivity == INSN_SILENT)
            continue;
        if (act->sensitivity == INSN_GATE)
            gates++;
        else if (act->cpl != 3 && act->cpl_after == 3)
            returns++;
        else
            others++;
    }
    fprintf(out, "\n%straps: %llu%s", bold, (unsigned long long)story_traps(s), plain);
    print_count(out, " = ", gates, "system call", "system calls");
    print_count(out, ", ", returns, "return to user mode", "returns to user mode");
    print_count(out, ", ", others, "other privileged instruction", "other privileged instructions");
    print_count(out, ",\n  ", s->traps[ACT_DEVICE], "access to device memory", "accesses to device memory");
    print_count(out, ", ", s->traps[ACT_EXCEPTION], "exception", "exceptions");
    print_count(out, ", ", s->traps[ACT_INTERRUPT], "interrupt\n", "interrupts\n");
    if (s->silent > 0)
        fprintf(out, "  and %llu sensitive instructions that do not trap and have to be patched or translated\n",
                (unsigned long long)s->silent);
    fprintf(out, "%spage-table switches: %llu by the guest, %llu of shadow tables%s\n", bold,
            (unsigned long long)s->cr3_loads, (unsigned long long)(s->cr3_loads + s->mode_changes), plain);
    if (is_disturbed(e, x))
        fprintf(out, "(Ticks of the guest's timer came in between: this engine follows the host's clock, and the host "
                     "is busy.)\n");
    if (x->traps != 0)
        fprintf(out, "%sthe lecture's answer: %llu%s\n", bold, (unsigned long long)x->traps, plain);
    else
        fprintf(out, "%sthe lecture's answer: %llu and %llu%s\n", bold, (unsigned long long)x->guest_switches,
                (unsigned long long)x->shadow_switches, plain);
    fprintf(out, "%s\n", x->because);
}

static json_t *json_answer(const struct explain *e, const struct exercise *x, unsigned number)
{
    json_t *o = story_json(&e->story), *lecture = json_object();
    json_object_set_new(o, "exercise", json_integer(number + 1));
    json_object_set_new(o, "title", json_string(x->title));
    json_object_set_new(o, "engine", json_string(e->engine));
    if (x->traps != 0)
        json_object_set_new(lecture, "traps", json_integer((json_int_t)x->traps));
    if (x->guest_switches != 0) {
        json_object_set_new(lecture, "guest_switches", json_integer((json_int_t)x->guest_switches));
        json_object_set_new(lecture, "shadow_switches", json_integer((json_int_t)x->shadow_switches));
    }
    json_object_set_new(o, "lecture", lecture);
    return o;
}

static void exercise_report(const struct explain *e, const struct exercise *x, unsigned number, json_t *array)
{
    if (array != NULL) {
        json_array_append_new(array, json_answer(e, x, number));
        return;
    }
    bool colour = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    printf("%sExercise %u: %s%s  (engine %s)\n%s\n\n", colour ? "\x1b[1m" : "", number + 1, x->title,
           colour ? "\x1b[0m" : "", e->engine, x->question);
    story_print(&e->story, colour, stdout);
    print_answer(e, x, colour, stdout);
}

/* `again`: a disturbed run is not reported. */
static bool exercise_attempt(const struct options *o, unsigned number, json_t *array, bool *again, struct error *err)
{
    struct explain e = {.options = o, .kernel_fd = -1, .console = {.chardev = {.ops = &console_ops}}};
    bool ok = kernel_open(&e, err) && story_init(&e.story, e.symbols, err);
    e.loop = ok ? loop_create(err) : NULL;
    ok = ok && e.loop != NULL && machine_create(&e, &exercises[number], err) && machine_run(&e, err);
    vm_destroy(e.vm);
    *again = *again && ok && is_disturbed(&e, &exercises[number]);
    if (ok && !*again)
        exercise_report(&e, &exercises[number], number, array);
    loop_destroy(e.loop);
    story_fini(&e.story);
    symbols_destroy(e.symbols);
    if (e.kernel_fd >= 0)
        close(e.kernel_fd);
    return ok;
}

static bool exercise_run(const struct options *o, unsigned number, json_t *array, struct error *err)
{
    for (unsigned i = 1;; i++) {
        bool again = i < ATTEMPTS;
        if (!exercise_attempt(o, number, array, &again, err))
            return false;
        if (!again)
            return true;
    }
}

int command_explain(int argc, char **argv)
{
    struct options o;
    struct error err;
    if (!options_parse(&o, argc, argv, &err))
        return cli_fail(STATUS_USAGE, &err);
    if (o.help)
        return command_help(1, (char *[]){"explain", NULL});
    json_t *array = o.json ? json_array() : NULL;
    for (unsigned i = o.first; i <= o.last; i++) {
        if (i != o.first && !o.json)
            fputs("\n\n", stdout);
        if (!exercise_run(&o, i, array, &err)) {
            json_decref(array);
            return cli_fail(STATUS_INTERNAL, &err);
        }
    }
    if (o.json && (json_dumpf(array, stdout, JSON_INDENT(2)) != 0 || putchar('\n') == EOF)) {
        json_decref(array);
        error_set(&err, "explain: the output cannot be written: %s", strerror(errno));
        return cli_fail(STATUS_INTERNAL, &err);
    }
    json_decref(array);
    return STATUS_OK;
}
