/* Recording and printing a story. See story.h.
 *
 * Which exits belong to which instruction: those that come between begin() and end() of a sensitive instruction are its
 * own. An exit outside of one is an act by itself: a device's memory was touched, an event is being delivered. If a
 * sensitive instruction faults, end() does not come; the exception's exit, for the same rip, becomes the instruction's.
 *
 * Where an act leaves the guest is known when the processor says so: at end(), or at delivered() for events; for device
 * accesses it is the same mode, and the next instruction.
 */
#include "cli/story.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/decode.h"

#define MARK_PORT 0x402u
#define PROCESS_NAME_SIZE 16u /* guest/primer/kernel.h: the name is a process's first member */

/* ---- who ---- */

static void name_clean(char *name)
{
    for (char *p = name; *p != 0; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
}

/* The name of the process that the guest calls its current one. */
static void who_now(const struct story *s, struct vcpu *v, char who[WHO_SIZE])
{
    uint64_t process = 0;
    memset(who, 0, WHO_SIZE);
    if (s->current == 0 || disasm_peek(v, s->current, &process, s->word) != s->word || process == 0 ||
        disasm_peek(v, process, who, PROCESS_NAME_SIZE) != PROCESS_NAME_SIZE)
        memset(who, 0, WHO_SIZE);
    name_clean(who);
}

/* User code runs in this address space: now is the time to know its name. */
static void space_learn(struct story *s, struct vcpu *v)
{
    unsigned i = 0;
    while (i < s->space_count && s->spaces[i].cr3 != v->cr3)
        i++;
    if (i == SPACES_MAX)
        return;
    s->space_count = i == s->space_count ? i + 1 : s->space_count;
    s->spaces[i].cr3 = v->cr3;
    who_now(s, v, s->spaces[i].who);
}

void story_space_name(const struct story *s, uint64_t cr3, char name[32])
{
    for (unsigned i = 0; i < s->space_count; i++) {
        if (s->spaces[i].cr3 == cr3 && s->spaces[i].who[0] != 0) {
            snprintf(name, 32, "%s", s->spaces[i].who);
            return;
        }
    }
    snprintf(name, 32, "space %#" PRIx64, cr3);
}

/* ---- recording ---- */

static void step_add(struct story *s, const struct vcpu *v, uint64_t cr3, bool user, bool by_cr3)
{
    if (s->step_count < STEPS_MAX)
        s->steps[s->step_count++] = (struct step){
            .cr3 = cr3, .guest_ns = v->platform.now_ns(v->platform.opaque), .user = user, .by_cr3 = by_cr3};
}

static void recording_begin(struct story *s, struct vcpu *v)
{
    s->recording = s->began = true;
    s->begin_cr3 = v->cr3;
    s->begin_fills = v->count.tlb_fills;
    space_learn(s, v);
    step_add(s, v, v->cr3, v->cpl == 3, false);
}

static void recording_end(struct story *s, struct vcpu *v)
{
    s->recording = false;
    s->ended = true;
    s->after_pending = false;
    s->tlb_fills = v->count.tlb_fills - s->begin_fills;
}

static void act_begin(const struct story *s, struct vcpu *v, struct act *act, enum act_kind kind)
{
    *act = (struct act){.kind = kind,
                        .guest_ns = v->platform.now_ns(v->platform.opaque),
                        .cpl = v->cpl,
                        .cr3 = v->cr3,
                        .row = ROW_NONE};
    who_now(s, v, act->who);
}

static void act_after(struct act *act, const struct vcpu *v)
{
    act->cpl_after = v->cpl;
    act->rip_after = v->rip;
}

static void act_add(struct story *s, const struct act *act)
{
    if (act->kind == ACT_INSTRUCTION && act->sensitivity == INSN_SILENT)
        s->silent++;
    else
        s->traps[act->kind]++;
    if (s->act_count < ACTS_MAX)
        s->acts[s->act_count++] = *act;
    else
        s->dropped++;
}

static void act_exit(struct act *act, const struct exit *exit, const char *device)
{
    act->exits++;
    if (act->has_exit && exit->reason != EXIT_EXCEPTION) /* what follows from the first, such as a flush */
        return;
    act->has_exit = true;
    act->exit = *exit;
    snprintf(act->device, sizeof act->device, "%s", device != NULL ? device : "");
}

static char mark_of(const struct exit *exit)
{
    bool mark = exit->reason == EXIT_IO_OUT && exit->address == MARK_PORT && exit->size == 1;
    return mark && (exit->value == '[' || exit->value == ']') ? (char)exit->value : 0;
}

static void mark_act(struct story *s, struct vcpu *v, char mark)
{
    if (mark == '[' && !s->began)
        recording_begin(s, v);
    else if (mark == ']' && s->recording)
        recording_end(s, v);
}

static void on_begin(void *opaque, struct vcpu *v, const struct insn *in)
{
    struct story *s = opaque;
    s->is_open = true;
    s->open_mark = 0;
    act_begin(s, v, &s->open, ACT_INSTRUCTION);
    s->open.sensitivity = insn_sensitivity(in);
    s->open.row = in->row;
    s->open.rip = v->rip;
    disasm_at(v, v->rip, s->open.text);
}

static void on_end(void *opaque, struct vcpu *v, const struct insn *in)
{
    struct story *s = opaque;
    if (!s->is_open)
        return;
    s->is_open = false;
    if (s->open_mark != 0) {
        mark_act(s, v, s->open_mark);
        return;
    }
    act_after(&s->open, v);
    if (s->recording)
        act_add(s, &s->open);
}

static void exit_alone(struct story *s, struct vcpu *v, const struct exit *exit, const char *device)
{
    enum act_kind kind;
    switch (exit->reason) {
    case EXIT_MMIO_READ:
    case EXIT_MMIO_WRITE:
        kind = ACT_DEVICE;
        break;
    case EXIT_EXCEPTION:
        kind = ACT_EXCEPTION;
        break;
    case EXIT_INTERRUPT:
    case EXIT_NMI:
        kind = ACT_INTERRUPT;
        break;
    case EXIT_CODE_WRITE:
        return; /* this monitor's own affair */
    default:
        kind = ACT_INSTRUCTION;
        break; /* of an engine that does not say begin and end */
    }
    struct act act;
    act_begin(s, v, &act, kind);
    act.sensitivity = INSN_PRIVILEGED;
    act.rip = exit->rip;
    act.rip_after = exit->rip + disasm_at(v, exit->rip, act.text);
    act.cpl_after = v->cpl;
    act_exit(&act, exit, device);
    act_add(s, &act);
    s->after_pending = kind == ACT_EXCEPTION || kind == ACT_INTERRUPT;
}

static void on_story_exit(void *opaque, struct vcpu *v, const struct exit *exit, const char *device)
{
    struct story *s = opaque;
    char mark = mark_of(exit);
    if (s->recording && exit->reason == EXIT_CR_WRITE && exit->address == 3) {
        s->cr3_loads++;
        step_add(s, v, exit->value, false, true);
    }
    bool own = s->is_open && exit->rip == s->open.rip;
    if (own)
        act_exit(&s->open, exit, device);
    if (mark != 0 && own)
        s->open_mark = mark;
    else if (mark != 0)
        mark_act(s, v, mark);
    if (!s->recording || mark != 0)
        return;
    if (!own) {
        exit_alone(s, v, exit, device);
    } else if (exit->reason == EXIT_EXCEPTION &&
               s->open.sensitivity != INSN_GATE) { /* it has faulted: no end() comes */
        s->is_open = false;
        act_add(s, &s->open);
        s->after_pending = true;
    }
}

static void on_delivered(void *opaque, struct vcpu *v)
{
    struct story *s = opaque;
    s->is_open = false;
    if (s->after_pending && s->act_count > 0 && s->dropped == 0)
        act_after(&s->acts[s->act_count - 1], v);
    s->after_pending = false;
}

static void on_mode(void *opaque, struct vcpu *v, unsigned cpl_before)
{
    struct story *s = opaque;
    bool user = v->cpl == 3;
    if (!s->recording || user == (cpl_before == 3))
        return;
    s->mode_changes++;
    step_add(s, v, v->cr3, user, false);
    if (!user)
        return;
    space_learn(s, v);
    if (v->cr3 != s->begin_cr3 && !s->told_other) {
        s->told_other = true;
        if (s->other_runs != NULL)
            s->other_runs(s->opaque, v);
    }
}

bool story_init(struct story *s, const struct symbols *symbols, struct error *err)
{
    *s = (struct story){.symbols = symbols, .word = 4};
    s->acts = calloc(ACTS_MAX, sizeof *s->acts);
    s->steps = calloc(STEPS_MAX, sizeof *s->steps);
    if (s->acts == NULL || s->steps == NULL) {
        story_fini(s);
        return error_set(err, "out of memory");
    }
    if (!symbols_lookup(symbols, "current", &s->current))
        s->current = 0;
    s->observer = (struct observer){
        .exit = on_story_exit,
        .watch = {.begin = on_begin, .end = on_end, .delivered = on_delivered, .mode = on_mode, .opaque = s}};
    return true;
}

void story_fini(struct story *s)
{
    free(s->acts);
    free(s->steps);
    s->acts = NULL;
    s->steps = NULL;
}

uint64_t story_traps(const struct story *s)
{
    uint64_t n = 0;
    for (unsigned kind = 0; kind < ACT_KIND_COUNT; kind++)
        n += s->traps[kind];
    return n;
}

/* ---- as text ---- */

#define WIDTH 100u
#define BOLD "\x1b[1m"
#define DIM "\x1b[2m"
#define YELLOW "\x1b[33m"
#define GREEN "\x1b[32m"
#define CYAN "\x1b[36m"
#define PLAIN "\x1b[0m"

static bool is_trap(const struct act *act)
{
    return act->kind != ACT_INSTRUCTION || act->sensitivity != INSN_SILENT;
}

/* Whose address space is in force; where that has no name yet, whoever the guest says is current. */
static void act_who(const struct story *s, const struct act *act, char who[32])
{
    story_space_name(s, act->cr3, who);
    if (strncmp(who, "space ", 6) == 0)
        snprintf(who, 32, "%s", act->who);
}

static const char *mode_word(unsigned cpl)
{
    return cpl == 3 ? "user" : "kernel";
}

static void place_text(const struct story *s, uint64_t rip, char text[SYMBOLS_TEXT + 24])
{
    char name[SYMBOLS_TEXT];
    symbols_text(s->symbols, rip, name);
    if (name[0] != 0)
        snprintf(text, SYMBOLS_TEXT + 24, "%s", name);
    else
        snprintf(text, SYMBOLS_TEXT + 24, "%#" PRIx64, rip);
}

/* Words, broken so that lines have at most WIDTH characters; those after the first begin with `indent` spaces. */
static void print_wrapped(FILE *out, const char *text, unsigned column, unsigned indent)
{
    while (*text != 0) {
        size_t word = strcspn(text, " ");
        if (column + word > WIDTH && column > indent) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
        }
        fwrite(text, 1, word, out);
        column += (unsigned)word + 1;
        text += word;
        if (*text == ' ') {
            text++;
            if (column + strcspn(text, " ") <= WIDTH)
                fputc(' ', out);
        }
    }
    fputc('\n', out);
}

static void print_act(const struct story *s, const struct act *act, unsigned number, bool colour, FILE *out)
{
    char did[TELL_SIZE], saw[TELL_SIZE], place[SYMBOLS_TEXT + 24], label[24], who[32];
    const char *bold = colour ? BOLD : "", *dim = colour ? DIM : "", *plain = colour ? PLAIN : "";
    const char *tint = !colour ? "" : !is_trap(act) ? DIM : act->cpl == 3 ? GREEN : YELLOW;
    place_text(s, act->rip, place);
    story_tell(s, act, did, saw);
    if (is_trap(act))
        snprintf(label, sizeof label, "trap %u", number);
    else
        snprintf(label, sizeof label, "no trap");
    act_who(s, act, who);
    fprintf(out, "%s%-9s%s %9.3f us  %s%s%s in pretend %s mode at %s%s\n", bold, label, plain,
            (double)(act->guest_ns - s->steps[0].guest_ns) / 1e3, tint, who, who[0] != 0 ? "" : "code",
            mode_word(act->cpl), place, plain);
    fprintf(out, "   %s%s%s%s\n", bold, act->kind == ACT_INTERRUPT ? "before  " : "", act->text, plain);
    fprintf(out, "   %sthe monitor:%s ", dim, plain);
    print_wrapped(out, did, 16, 16);
    fprintf(out, "   %sthe guest:%s   ", dim, plain);
    print_wrapped(out, saw, 16, 16);
}

static void print_tables(const struct story *s, bool colour, FILE *out)
{
    char name[32];
    fprintf(out, "%spage tables in force%s (each line is one switch of the shadow table)\n", colour ? BOLD : "",
            colour ? PLAIN : "");
    for (unsigned i = 0; i < s->step_count; i++) {
        const struct step *step = &s->steps[i];
        story_space_name(s, step->cr3, name);
        fprintf(out, "   %9.3f us  %s%-12s pretend %-6s%s  %s\n", (double)(step->guest_ns - s->steps[0].guest_ns) / 1e3,
                !colour      ? ""
                : step->user ? GREEN
                             : YELLOW,
                name, step->user ? "user" : "kernel", colour ? PLAIN : "",
                i == 0         ? "at the beginning"
                : step->by_cr3 ? "the guest has loaded CR3: its own switch, too"
                : step->user   ? "return to user mode"
                               : "entry to kernel mode");
    }
}

void story_print(const struct story *s, bool colour, FILE *out)
{
    unsigned number = 0;
    for (unsigned i = 0; i < s->act_count; i++) {
        if (is_trap(&s->acts[i]))
            number++;
        print_act(s, &s->acts[i], number, colour, out);
    }
    if (s->dropped > 0)
        fprintf(out, "(%" PRIu64 " more, not shown)\n", s->dropped);
    fputc('\n', out);
    print_tables(s, colour, out);
}

/* ---- as JSON ---- */

static json_t *hex(uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%#" PRIx64, value);
    return json_string(text);
}

static json_t *json_act(const struct story *s, const struct act *act)
{
    static const char *const kinds[] = {"instruction", "device", "exception", "interrupt"};
    char did[TELL_SIZE], saw[TELL_SIZE], name[SYMBOLS_TEXT], who[32];
    json_t *o = json_object();
    act_who(s, act, who);
    story_tell(s, act, did, saw);
    symbols_text(s->symbols, act->rip, name);
    json_object_set_new(o, "trap", json_boolean(is_trap(act)));
    json_object_set_new(o, "kind", json_string(kinds[act->kind]));
    json_object_set_new(o, "guest_ns", json_integer((json_int_t)act->guest_ns));
    json_object_set_new(o, "who", json_string(who));
    json_object_set_new(o, "cpl", json_integer(act->cpl));
    json_object_set_new(o, "rip", hex(act->rip));
    json_object_set_new(o, "symbol", name[0] != 0 ? json_string(name) : json_null());
    json_object_set_new(o, "instruction", json_string(act->text));
    json_object_set_new(o, "reason", act->has_exit ? json_string(exit_reason_name(act->exit.reason)) : json_null());
    json_object_set_new(o, "device", act->device[0] != 0 ? json_string(act->device) : json_null());
    json_object_set_new(o, "monitor", json_string(did));
    json_object_set_new(o, "guest", json_string(saw));
    json_object_set_new(o, "cpl_after", json_integer(act->cpl_after));
    json_object_set_new(o, "rip_after", hex(act->rip_after));
    return o;
}

json_t *story_json(const struct story *s)
{
    json_t *o = json_object(), *acts = json_array(), *tables = json_array();
    json_object_set_new(o, "traps", json_integer((json_int_t)story_traps(s)));
    json_object_set_new(o, "silent", json_integer((json_int_t)s->silent));
    json_object_set_new(o, "guest_switches", json_integer((json_int_t)s->cr3_loads));
    json_object_set_new(o, "mode_changes", json_integer((json_int_t)s->mode_changes));
    json_object_set_new(o, "shadow_switches", json_integer((json_int_t)(s->cr3_loads + s->mode_changes)));
    json_object_set_new(o, "tlb_fills", json_integer((json_int_t)s->tlb_fills));
    for (unsigned i = 0; i < s->act_count; i++)
        json_array_append_new(acts, json_act(s, &s->acts[i]));
    for (unsigned i = 0; i < s->step_count; i++) {
        char name[32];
        json_t *step = json_object();
        story_space_name(s, s->steps[i].cr3, name);
        json_object_set_new(step, "who", json_string(name));
        json_object_set_new(step, "mode", json_string(s->steps[i].user ? "user" : "kernel"));
        json_object_set_new(step, "cr3", hex(s->steps[i].cr3));
        json_object_set_new(step, "by", json_string(i == 0 ? "begin" : s->steps[i].by_cr3 ? "cr3" : "mode"));
        json_array_append_new(tables, step);
    }
    json_object_set_new(o, "acts", acts);
    json_object_set_new(o, "tables", tables);
    return o;
}
