/* Printing the counters. Both forms walk the same lists, so that they cannot disagree. */
#include "engine/stats.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/symbols.h"
#include "cpu/decode.h"
#include "engine/hot.h"
#include "memory/memory.h"

#define PORTS_SHOWN 12
#define VECTORS_SHOWN 12
#define CALLS_SHOWN 20
#define PLACES_SHOWN 16
#define PLACES_JSON 64
#define PORT_GROUP 8

/* X(field, "name"); the field is the key in JSON */
#define WORK_COUNTERS(X)                                                                                               \
    X(tlb_fills, "TLB fills")                                                                                          \
    X(tlb_flushes, "TLB flushes")                                                                                      \
    X(page_walks, "page walks")                                                                                        \
    X(insns_decoded, "instructions decoded")                                                                           \
    X(code_pages, "code pages")                                                                                        \
    X(code_invalidations, "code invalidations")                                                                        \
    X(host_stubs, "host stubs")

/* A counter and what it counts. */
struct item {
    unsigned index;
    uint64_t count;
};

static int compare_items(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* The counters that are not 0, greatest first. Returns how many. */
static size_t sort_counters(const uint64_t *counters, size_t n, struct item *items)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (counters[i] != 0)
            items[used++] = (struct item){.index = (unsigned)i, .count = counters[i]};
    }
    qsort(items, used, sizeof *items, compare_items);
    return used;
}

static size_t sort_exits(const struct stats *stats, struct item items[EXIT_REASON_COUNT], uint64_t *total)
{
    uint64_t sums[EXIT_REASON_COUNT] = {0};
    *total = 0;
    for (unsigned reason = 0; reason < EXIT_REASON_COUNT; reason++) {
        for (unsigned mode = 0; mode < EXIT_MODE_COUNT; mode++)
            sums[reason] += stats->exits[reason][mode];
        *total += sums[reason];
    }
    return sort_counters(sums, EXIT_REASON_COUNT, items);
}

/* Any of the group's ports may be the one that is somebody's. */
static const char *group_name(const struct memory *memory, unsigned group)
{
    for (unsigned port = group * PORT_GROUP; memory != NULL && port < (group + 1) * PORT_GROUP; port++) {
        const char *name = memory_port_name(memory, (uint16_t)port);
        if (name != NULL)
            return name;
    }
    return NULL;
}

/* The time that vCPUs were not halted, all together. */
static uint64_t busy_ns(const struct stats *stats)
{
    uint64_t all_ns = stats->wall_ns * (stats->threads != 0 ? stats->threads : 1);
    return all_ns > stats->halted_ns ? all_ns - stats->halted_ns : 0;
}

double stats_mips(const struct stats *stats)
{
    uint64_t busy = busy_ns(stats);
    return stats->instructions_partial || busy == 0 ? 0 : (double)stats->instructions * 1e3 / (double)busy;
}

static const char *row_name(unsigned row)
{
    return row < ROW_COUNT ? insn_rows[row].name : "(undefined)";
}

static double ratio(uint64_t a, uint64_t b)
{
    return b == 0 ? 0 : (double)a / (double)b;
}

/* ---- time and places ---- */

static uint64_t reason_ns(const struct stats *stats, unsigned reason)
{
    uint64_t ns = 0;
    for (unsigned mode = 0; mode < EXIT_MODE_COUNT; mode++)
        ns += stats->exit_ns[reason][mode];
    return ns;
}

static uint64_t door_ns(const struct stats *stats)
{
    uint64_t ns = 0;
    for (unsigned reason = 0; reason < EXIT_REASON_COUNT; reason++)
        ns += reason_ns(stats, reason);
    return ns;
}

static void print_time(const struct stats *stats, FILE *out)
{
    uint64_t awake_ns = busy_ns(stats), samples = 0;
    fprintf(out, "\ntime\n");
    for (unsigned mode = 0; stats->hot != NULL && mode < EXIT_MODE_COUNT; mode++)
        samples += stats->hot->samples[mode];
    for (unsigned mode = 0; samples > 0 && mode < EXIT_MODE_COUNT; mode++)
        if (stats->hot->samples[mode] != 0)
            fprintf(out, "  guest, %-13s %10.2f%%  of %" PRIu64 " samples\n", exit_mode_name(mode),
                    100 * ratio(stats->hot->samples[mode], samples), samples);
    fprintf(out, "  in the door          %10.2f%%  %.3f s\n", 100 * ratio(door_ns(stats), awake_ns),
            (double)door_ns(stats) / 1e9);
    if (stats->translate.present)
        fprintf(out, "  faults of the host   %10.2f%%  %.3f s\n", 100 * ratio(stats->translate.fault_ns, awake_ns),
                (double)stats->translate.fault_ns / 1e9);
    fprintf(out, "  %" PRIu64 " changes to kernel mode, %" PRIu64 " to user mode\n", stats->to_kernel, stats->to_user);
}

static const char *place_name(const struct hot_place *place)
{
    return place->what == HOT_SAMPLE ? "running" : exit_reason_name(place->what);
}

static void print_places(const struct stats *stats, bool samples, FILE *out)
{
    const struct hot_place *top[PLACES_SHOWN];
    char name[SYMBOLS_TEXT];
    size_t n = stats->hot != NULL ? hot_top(stats->hot, samples, top, PLACES_SHOWN) : 0;
    if (n > 0)
        fprintf(out, "\n%s\n", samples ? "where the guest runs (samples, at branches)" : "where the exits come from");
    for (size_t i = 0; i < n; i++) {
        const struct hot_place *p = top[i];
        symbols_text(stats->symbols, p->rip, name);
        fprintf(out, "  %10" PRIu64, p->count);
        if (!samples)
            fprintf(out, " %10.3f ms  %-16s", (double)p->ns / 1e6, place_name(p));
        fprintf(out, "  %-7s %#18" PRIx64 "%s%s\n", exit_mode_name(p->mode), p->rip, name[0] != 0 ? "  " : "", name);
    }
    if (n > 0 && !samples && stats->hot->others > 0)
        fprintf(out, "  %10" PRIu64 "  at places for which the table had no room\n", stats->hot->others);
}

static void print_exits(const struct stats *stats, FILE *out)
{
    struct item items[EXIT_REASON_COUNT];
    uint64_t total, by_mode[EXIT_MODE_COUNT] = {0};
    size_t n = sort_exits(stats, items, &total);
    fprintf(out, "%-18s %14s %7s", "exits", "total", "%");
    for (unsigned mode = 0; mode < EXIT_MODE_COUNT; mode++)
        fprintf(out, " %14s", exit_mode_name(mode));
    if (stats->timed)
        fprintf(out, " %10s %9s", "ms", "ns each");
    fputc('\n', out);
    for (size_t i = 0; i < n; i++) {
        const struct item *item = &items[i];
        fprintf(out, "%-18s %14" PRIu64 " %6.2f%%", exit_reason_name(item->index), item->count,
                100.0 * (double)item->count / (double)total);
        for (unsigned mode = 0; mode < EXIT_MODE_COUNT; mode++) {
            fprintf(out, " %14" PRIu64, stats->exits[item->index][mode]);
            by_mode[mode] += stats->exits[item->index][mode];
        }
        if (stats->timed) {
            uint64_t ns = reason_ns(stats, item->index);
            fprintf(out, " %10.3f %9.0f", (double)ns / 1e6, ratio(ns, item->count));
        }
        fputc('\n', out);
    }
    fprintf(out, "%-18s %14" PRIu64 " %7s", "all", total, "");
    for (unsigned mode = 0; mode < EXIT_MODE_COUNT; mode++)
        fprintf(out, " %14" PRIu64, by_mode[mode]);
    fputc('\n', out);
}

static void print_vectors(const struct stats *stats, FILE *out)
{
    struct item items[256];
    size_t n = sort_counters(stats->exceptions, ARRAY_LEN(stats->exceptions), items);
    if (n > 0)
        fprintf(out, "\nexceptions\n");
    for (size_t i = 0; i < n; i++)
        fprintf(out, "  %-16s %14" PRIu64 "\n", vector_name(items[i].index), items[i].count);
    n = sort_counters(stats->interrupts, ARRAY_LEN(stats->interrupts), items);
    if (n > 0)
        fprintf(out, "\ninterrupts%s\n", n > VECTORS_SHOWN ? " (the most frequent)" : "");
    for (size_t i = 0; i < n && i < VECTORS_SHOWN; i++)
        fprintf(out, "  %#-16x %14" PRIu64 "\n", items[i].index, items[i].count);
}

static void print_ports(const struct stats *stats, const struct memory *memory, FILE *out)
{
    struct item *items = malloc(ARRAY_LEN(stats->ports) * sizeof *items);
    if (items == NULL)
        return;
    size_t n = sort_counters(stats->ports, ARRAY_LEN(stats->ports), items);
    if (n > 0)
        fprintf(out, "\nports%s\n", n > PORTS_SHOWN ? " (the busiest)" : "");
    for (size_t i = 0; i < n && i < PORTS_SHOWN; i++) {
        char range[32];
        const char *name = group_name(memory, items[i].index);
        unsigned first = items[i].index * PORT_GROUP;
        snprintf(range, sizeof range, "%#x-%#x", first, first + PORT_GROUP - 1);
        fprintf(out, "  %-16s %14" PRIu64 "  %s\n", range, items[i].count, name != NULL ? name : "(nobody)");
    }
    free(items);
}

static void print_calls(const struct stats *stats, FILE *out)
{
    struct item items[ARRAY_LEN(stats->calls)];
    size_t n = sort_counters(stats->calls, ARRAY_LEN(stats->calls), items);
    if (n > 0)
        fprintf(out, "\ninstructions called in C%s\n", n > CALLS_SHOWN ? " (the most frequent)" : "");
    for (size_t i = 0; i < n && i < CALLS_SHOWN; i++)
        fprintf(out, "  %-20s %10" PRIu64 " %6.2f%%\n", row_name(items[i].index), items[i].count,
                100 * ratio(items[i].count, stats->translate.helper_calls));
}

static enum insn_sensitivity row_sensitivity(unsigned row)
{
    return insn_sensitivity(&(struct insn){.row = (uint16_t)row});
}

/* Those rows that are sensitive only in some forms (MOV, PUSH, JMP ...) were counted in these forms. MOV has both. */
static const char *sensitivity_name(unsigned row)
{
    switch (row_sensitivity(row)) {
    case INSN_PRIVILEGED: return "traps";
    case INSN_GATE: return "traps: a gate";
    case INSN_SILENT: return "must be patched";
    default: return row == ROW_MOV ? "traps (control, debug registers) or must be patched" : "must be patched";
    }
}

static void print_sensitive(const struct stats *stats, FILE *out)
{
    struct item items[ARRAY_LEN(stats->sensitive)];
    size_t n = sort_counters(stats->sensitive, ARRAY_LEN(stats->sensitive), items);
    fprintf(out, "\nsensitive instructions: what a monitor that runs the kernel without privilege would meet\n");
    for (size_t i = 0; i < n; i++)
        fprintf(out, "  %-16s %14" PRIu64 "  %s\n", row_name(items[i].index), items[i].count,
                sensitivity_name(items[i].index));
}

static void print_translate(const struct stats *stats, FILE *out)
{
    const struct stats_translate *t = &stats->translate;
    fprintf(out, "\ntranslation\n");
    fprintf(out, "  %" PRIu64 " blocks, %" PRIu64 " guest instructions: %" PRIu64 " bytes became %" PRIu64 " (%.1f for 1)\n",
            t->blocks, t->instructions, t->guest_bytes, t->host_bytes, ratio(t->host_bytes, t->guest_bytes));
    fprintf(out, "  %.0f ns for each, %.3f s in all: %.1f%% of the time\n", ratio(t->translate_ns, t->instructions),
            (double)t->translate_ns / 1e9, 100 * ratio(t->translate_ns, busy_ns(stats)));
    fprintf(out, "  %.1f MiB in the cache; %" PRIu64 " flushes, %" PRIu64 " writes to code, %" PRIu64 " blocks made anew\n",
            (double)t->cache_bytes / MiB, t->flushes, t->invalidations, t->reforms);
    fprintf(out, "  entered %" PRIu64 " times, %" PRIu64 " jumps linked, %" PRIu64 " loops, %" PRIu64 " calls of C\n", t->enters,
            t->links, t->loops, t->helper_calls);
    fprintf(out, "  faults:");
#define X(name) fprintf(out, " " #name " %" PRIu64, t->faults.name);
    STATS_FAULTS(X)
#undef X
    fputc('\n', out);
    print_calls(stats, out);
}

static void print_trap(const struct stats_trap *t, FILE *out)
{
    static const char *const traps[] = {
#define X(name) #name,
        STATS_TRAPS(X)
#undef X
    };
    static const char *const works[] = {
#define X(name) #name,
        STATS_TRAP_WORK(X)
#undef X
    };
    const uint64_t trap_counts[] = {
#define X(name) t->name,
        STATS_TRAPS(X)
#undef X
    };
    const uint64_t work_counts[] = {
#define X(name) t->name,
        STATS_TRAP_WORK(X)
#undef X
    };
    fprintf(out, "\ntraps of directly executed code (shadow policy %s)\n", t->policy);
    for (unsigned i = 0; i < sizeof traps / sizeof traps[0]; i++)
        fprintf(out, "  %-16s %12" PRIu64 "\n", traps[i], trap_counts[i]);
    fprintf(out, "work for them\n");
    for (unsigned i = 0; i < sizeof works / sizeof works[0]; i++)
        fprintf(out, "  %-16s %12" PRIu64 "\n", works[i], work_counts[i]);
}

static void print_shadow(const struct stats_shadow *s, FILE *out)
{
    fprintf(out, "\nshadow page tables, %s\n", s->policy);
    fprintf(out, "  %" PRIu64 " fills, %" PRIu64 " before they were needed; %" PRIu64 " flushes, %" PRIu64 " of one page\n",
            s->fills, s->prefills, s->flushes, s->page_flushes);
    fprintf(out, "  %" PRIu64 " switches, %" PRIu64 " to a kept address space: %" PRIu64 " entries brought back, %" PRIu64
            " read again\n",
            s->switches, s->switches_kept, s->entries_restored, s->entries_reread);
    fprintf(out, "  %" PRIu64 " islands made, %" PRIu64 " evictions; %.1f MiB\n", s->islands, s->evictions,
            (double)s->bytes / MiB);
}

static void print_kvm(const struct stats_kvm *k, FILE *out)
{
    fprintf(out, "\nguest mode\n");
    fprintf(out, "  entered %" PRIu64 " times, %" PRIu64 " left at somebody's wish; the state was brought back %" PRIu64 " times\n",
            k->runs, k->interrupted, k->taken);
    fprintf(out, "  interpreted: %" PRIu64 " instructions in %" PRIu64 " stretches; %" PRIu64 " states not accepted\n", k->interpreted,
            k->stretches, k->refused);
}

static void print_end(const struct stats *stats, FILE *out)
{
    double wall_s = (double)stats->wall_ns / 1e9, halted_s = (double)stats->halted_ns / 1e9;
    double guest_s = (double)stats->guest_ns / 1e9;
    char times[24] = "";
    if (stats->threads > 1)
        snprintf(times, sizeof times, " on %u threads", stats->threads);
    fputc('\n', out);
    if (stats->monitor_bytes != 0)
        fprintf(out, "memory of the monitor itself: %.1f MiB\n", (double)stats->monitor_bytes / MiB);
    if (stats->instructions_partial)
        fprintf(out, "%.3f s%s (halted %.3f s; guest time %.3f s); this engine counts instructions only with --clock instructions\n",
                wall_s, times, halted_s, guest_s);
    else
        fprintf(out, "%" PRIu64 " instructions in %.3f s%s (halted %.3f s; guest time %.3f s): %.1f MIPS\n",
                stats->instructions, wall_s, times, halted_s, guest_s, stats_mips(stats));
}

void stats_print(const struct stats *stats, const struct memory *memory, FILE *out)
{
    print_exits(stats, out);
    if (stats->timed)
        print_time(stats, out);
    print_places(stats, false, out);
    print_places(stats, true, out);
    print_vectors(stats, out);
    print_ports(stats, memory, out);
    if (stats->sensitive_counted)
        print_sensitive(stats, out);
    fprintf(out, "\nwork\n");
#define X(field, name) fprintf(out, "  %-20s %10" PRIu64 "\n", name, stats->field);
    WORK_COUNTERS(X)
#undef X
    if (stats->translate.present)
        print_translate(stats, out);
    if (stats->shadow.policy != NULL)
        print_shadow(&stats->shadow, out);
    if (stats->kvm.present)
        print_kvm(&stats->kvm, out);
    if (stats->trap.policy != NULL)
        print_trap(&stats->trap, out);
    print_end(stats, out);
}

static json_t *json_exits(const struct stats *stats)
{
    struct item items[EXIT_REASON_COUNT];
    uint64_t total;
    size_t n = sort_exits(stats, items, &total);
    json_t *exits = json_object();
    for (size_t i = 0; i < n; i++) {
        json_t *modes = json_object();
        json_object_set_new(modes, "total", json_integer((json_int_t)items[i].count));
        for (unsigned mode = 0; mode < EXIT_MODE_COUNT; mode++)
            json_object_set_new(modes, exit_mode_name(mode),
                                json_integer((json_int_t)stats->exits[items[i].index][mode]));
        if (stats->timed)
            json_object_set_new(modes, "ns", json_integer((json_int_t)reason_ns(stats, items[i].index)));
        json_object_set_new(exits, exit_reason_name(items[i].index), modes);
    }
    return exits;
}

static json_t *json_vectors(const uint64_t *counters, size_t n, bool exceptions)
{
    struct item items[256];
    size_t used = sort_counters(counters, n, items);
    json_t *object = json_object();
    for (size_t i = 0; i < used; i++) {
        char number[8];
        snprintf(number, sizeof number, "%u", items[i].index);
        json_object_set_new(object, exceptions ? vector_name(items[i].index) : number,
                            json_integer((json_int_t)items[i].count));
    }
    return object;
}

static json_t *json_ports(const struct stats *stats, const struct memory *memory)
{
    json_t *array = json_array();
    struct item *items = malloc(ARRAY_LEN(stats->ports) * sizeof *items);
    if (items == NULL)
        return array;
    size_t n = sort_counters(stats->ports, ARRAY_LEN(stats->ports), items);
    for (size_t i = 0; i < n; i++) {
        const char *name = group_name(memory, items[i].index);
        json_t *entry = json_object();
        json_object_set_new(entry, "port", json_integer(items[i].index * PORT_GROUP));
        json_object_set_new(entry, "count", json_integer((json_int_t)items[i].count));
        json_object_set_new(entry, "device", name != NULL ? json_string(name) : json_null());
        json_array_append_new(array, entry);
    }
    free(items);
    return array;
}

static json_t *json_number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *json_translate(const struct stats_translate *t)
{
    json_t *object = json_object(), *faults = json_object();
#define X(name) json_object_set_new(object, #name, json_number(t->name));
    STATS_TRANSLATE(X)
#undef X
#define X(name) json_object_set_new(faults, #name, json_number(t->faults.name));
    STATS_FAULTS(X)
#undef X
    json_object_set_new(object, "faults", faults);
    return object;
}

static json_t *json_trap(const struct stats_trap *t)
{
    json_t *object = json_object();
    json_object_set_new(object, "policy", json_string(t->policy));
#define X(name) json_object_set_new(object, #name, json_number(t->name));
    STATS_TRAPS(X)
    STATS_TRAP_WORK(X)
#undef X
    return object;
}

static json_t *json_shadow(const struct stats_shadow *s)
{
    json_t *object = json_object();
    json_object_set_new(object, "policy", json_string(s->policy));
#define X(name) json_object_set_new(object, #name, json_number(s->name));
    STATS_SHADOW(X)
#undef X
    return object;
}

static json_t *json_kvm(const struct stats_kvm *k)
{
    json_t *object = json_object();
#define X(name) json_object_set_new(object, #name, json_number(k->name));
    STATS_KVM(X)
#undef X
    return object;
}

static json_t *json_rows(const uint64_t *counters, size_t count)
{
    struct item items[ROW_COUNT + 1];
    size_t n = sort_counters(counters, count, items);
    json_t *object = json_object();
    for (size_t i = 0; i < n; i++)
        json_object_set_new(object, row_name(items[i].index), json_number(items[i].count));
    return object;
}

static json_t *json_time(const struct stats *stats)
{
    json_t *object = json_object(), *samples = json_object();
    json_object_set_new(object, "door_ns", json_number(door_ns(stats)));
    json_object_set_new(object, "to_kernel", json_number(stats->to_kernel));
    json_object_set_new(object, "to_user", json_number(stats->to_user));
    for (unsigned mode = 0; stats->hot != NULL && mode < EXIT_MODE_COUNT; mode++)
        json_object_set_new(samples, exit_mode_name(mode), json_number(stats->hot->samples[mode]));
    json_object_set_new(object, "samples", samples);
    return object;
}

static json_t *json_places(const struct stats *stats, bool samples)
{
    const struct hot_place *top[PLACES_JSON];
    char text[SYMBOLS_TEXT];
    size_t n = hot_top(stats->hot, samples, top, PLACES_JSON);
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) {
        const struct hot_place *p = top[i];
        json_t *entry = json_object();
        snprintf(text, sizeof text, "%#" PRIx64, p->rip);
        json_object_set_new(entry, "rip", json_string(text));
        json_object_set_new(entry, "mode", json_string(exit_mode_name(p->mode)));
        json_object_set_new(entry, "count", json_number(p->count));
        if (!samples) {
            json_object_set_new(entry, "reason", json_string(place_name(p)));
            json_object_set_new(entry, "ns", json_number(p->ns));
        }
        symbols_text(stats->symbols, p->rip, text);
        json_object_set_new(entry, "symbol", text[0] != 0 ? json_string(text) : json_null());
        json_array_append_new(array, entry);
    }
    return array;
}

json_t *stats_json(const struct stats *stats, const struct memory *memory)
{
    json_t *root = json_object();
    json_object_set_new(root, "instructions", stats->instructions_partial ? json_null() : json_number(stats->instructions));
    json_object_set_new(root, "wall_ns", json_number(stats->wall_ns));
    json_object_set_new(root, "halted_ns", json_number(stats->halted_ns));
    json_object_set_new(root, "threads", json_number(stats->threads));
    json_object_set_new(root, "guest_ns", json_number(stats->guest_ns));
    json_object_set_new(root, "mips", stats->instructions_partial ? json_null() : json_real(stats_mips(stats)));
    json_object_set_new(root, "monitor_bytes", stats->monitor_bytes != 0 ? json_number(stats->monitor_bytes) : json_null());
    json_object_set_new(root, "exits", json_exits(stats));
    json_object_set_new(root, "exceptions", json_vectors(stats->exceptions, ARRAY_LEN(stats->exceptions), true));
    json_object_set_new(root, "interrupts", json_vectors(stats->interrupts, ARRAY_LEN(stats->interrupts), false));
    json_object_set_new(root, "ports", json_ports(stats, memory));
#define X(field, name) json_object_set_new(root, #field, json_integer((json_int_t)stats->field));
    WORK_COUNTERS(X)
#undef X
    if (stats->translate.present) {
        json_object_set_new(root, "translate", json_translate(&stats->translate));
        json_object_set_new(root, "calls", json_rows(stats->calls, ARRAY_LEN(stats->calls)));
    }
    if (stats->shadow.policy != NULL)
        json_object_set_new(root, "shadow", json_shadow(&stats->shadow));
    if (stats->kvm.present)
        json_object_set_new(root, "kvm", json_kvm(&stats->kvm));
    if (stats->trap.policy != NULL)
        json_object_set_new(root, "trap", json_trap(&stats->trap));
    if (stats->timed)
        json_object_set_new(root, "time", json_time(stats));
    if (stats->sensitive_counted)
        json_object_set_new(root, "sensitive", json_rows(stats->sensitive, ARRAY_LEN(stats->sensitive)));
    if (stats->hot != NULL) {
        json_object_set_new(root, "top_exits", json_places(stats, false));
        json_object_set_new(root, "top_samples", json_places(stats, true));
    }
    return root;
}

bool stats_print_json(const struct stats *stats, const struct memory *memory, FILE *out, struct error *err)
{
    json_t *root = stats_json(stats, memory);
    errno = 0;
    bool ok = json_dumpf(root, out, JSON_INDENT(2)) == 0 && fputc('\n', out) != EOF;
    json_decref(root);
    if (!ok)
        return error_set(err, "the statistics cannot be written: %s", strerror(errno != 0 ? errno : EIO));
    return true;
}
