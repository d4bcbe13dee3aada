/* The subjects of `info`. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "engine/postmortem.h"
#include "engine/stats.h"
#include "machine/machine.h"
#include "machine/pc.h"
#include "memory/memory.h"
#include "monitor/internal.h"

/* ---- the machine ---- */

static void info_version(struct call *call)
{
    fprintf(call->out, "%s\n", call->monitor->config.version);
}

static void info_status(struct call *call)
{
    fprintf(call->out, "VM status: %s\n", vm_is_held(call->vm) ? "paused" : "running");
}

static void info_mtree(struct call *call)
{
    memory_describe(call->v->memory, call->out);
}

static void info_drives(struct call *call)
{
    pc_describe_drives(vm_pc(call->vm), call->out);
}

static void describe(struct call *call, enum pc_part part)
{
    pc_describe(vm_pc(call->vm), part, call->monitor->cpu, call->out);
}

static void info_pic(struct call *call)
{
    describe(call, PC_PIC);
}

static void info_vga(struct call *call)
{
    describe(call, PC_VGA);
}

static void info_lapic(struct call *call)
{
    describe(call, PC_LAPIC);
}

static void info_ioapic(struct call *call)
{
    describe(call, PC_IOAPIC);
}

/* ---- processors ---- */

static const char *activity_name(const struct vcpu *v)
{
    switch (v->activity) {
    case ACTIVITY_HLT: return "halted";
    case ACTIVITY_SHUTDOWN: return "shut down";
    case ACTIVITY_WAIT_SIPI: return "waits for SIPI";
    default: return "running";
    }
}

static const char *mode_name(const struct vcpu *v)
{
    if (!(v->cr0 & CR0_PE))
        return "real mode";
    if (vcpu_v86(v))
        return "virtual-8086 mode";
    if (vcpu_long_mode(v))
        return v->code_mode == CODE_64 ? "64-bit mode" : "compatibility mode";
    return v->seg[SEG_CS].attr & SEG_ATTR_DB ? "32-bit protected mode" : "16-bit protected mode";
}

static void info_cpus(struct call *call)
{
    for (unsigned i = 0; i < vm_vcpu_count(call->vm); i++) {
        const struct vcpu *v = vm_vcpu(call->vm, i);
        fprintf(call->out, "%c CPU #%u: pc=0x%016" PRIx64 " cpl %u, %s, %s\n", i == call->monitor->cpu ? '*' : ' ', i,
                v->rip + (v->code_mode == CODE_64 ? 0 : v->seg[SEG_CS].base), v->cpl, mode_name(v), activity_name(v));
    }
}

static void info_registers(struct call *call)
{
    if (call->argc == 0) {
        postmortem_registers(call->v, call->out);
        return;
    }
    if (strcmp(call->argv[0], "-a") != 0) {
        call_fail(call, "'%.40s' is not -a, all processors", call->argv[0]);
        return;
    }
    for (unsigned i = 0; i < vm_vcpu_count(call->vm); i++) {
        fprintf(call->out, "CPU #%u\n", i);
        postmortem_registers(vm_vcpu(call->vm, i), call->out);
    }
}

/* ---- counters ---- */

static void with_stats(struct call *call, void (*show)(struct call *call, const struct stats *stats))
{
    struct stats *stats = calloc(1, sizeof *stats);
    if (stats == NULL) {
        call_fail(call, "out of memory");
        return;
    }
    vm_stats(call->vm, stats);
    show(call, stats);
    free(stats);
}

static void show_irq(struct call *call, const struct stats *stats)
{
    for (unsigned i = 0; i < ARRAY_LEN(stats->interrupts); i++)
        if (stats->interrupts[i] != 0)
            fprintf(call->out, "vector %3u (0x%02x): %" PRIu64 "\n", i, i, stats->interrupts[i]);
}

static void info_irq(struct call *call)
{
    with_stats(call, show_irq);
}

static void show_jit(struct call *call, const struct stats *stats)
{
    if (!stats->translate.present) {
        fprintf(call->out, "nothing was translated; the engine is %s\n", vm_engine(call->vm));
        return;
    }
#define X(name) fprintf(call->out, "%-20s %" PRIu64 "\n", #name, stats->translate.name);
    STATS_TRANSLATE(X)
#undef X
#define X(name) fprintf(call->out, "fault_%-14s %" PRIu64 "\n", #name, stats->translate.faults.name);
    STATS_FAULTS(X)
#undef X
}

static void info_jit(struct call *call)
{
    with_stats(call, show_jit);
}

static void show_shadow(struct call *call, const struct stats *stats)
{
    if (stats->shadow.policy == NULL) {
        fprintf(call->out, "there are no shadow page tables; the engine is %s\n", vm_engine(call->vm));
        return;
    }
    fprintf(call->out, "%-20s %s\n", "policy", stats->shadow.policy);
#define X(name) fprintf(call->out, "%-20s %" PRIu64 "\n", #name, stats->shadow.name);
    STATS_SHADOW(X)
#undef X
}

static void info_shadow(struct call *call)
{
    with_stats(call, show_shadow);
}

static void info_engines(struct call *call)
{
    for (unsigned i = 0; i < engine_count; i++) {
        struct error why_not = {.message = ""};
        bool usable = engines[i]->usable(&why_not), current = strcmp(engines[i]->name, vm_engine(call->vm)) == 0;
        fprintf(call->out, "%c %-12s %s%s\n", current ? '*' : ' ', engines[i]->name,
                usable ? engines[i]->summary : "not usable here: ", usable ? "" : why_not.message);
    }
}

static void info_pci(struct call *call)
{
    pc_describe_devices(vm_pc(call->vm), PC_DEVICES_PCI, call->out);
}

static void info_network(struct call *call)
{
    pc_describe_devices(vm_pc(call->vm), PC_DEVICES_NETWORK, call->out);
}

const struct command monitor_infos[] = {
    {"version", "", "of ring3", 0, false, false, info_version},
    {"status", "", "running or paused", 0, false, false, info_status},
    {"cpus", "", "the processors, where they are", 0, true, false, info_cpus},
    {"registers", "[-a]", "of the current processor, or of all", 1, true, false, info_registers},
    {"mem", "", "linear addresses that are mapped, with their rights: u r w x", 0, true, false, info_mem},
    {"tlb", "", "each page that is mapped, with its entry's bits", 0, true, false, info_tlb},
    {"mtree", "", "physical addresses and ports", 0, false, false, info_mtree},
    {"drives|block", "", "disks, CD-ROM and diskette drives, and what is in them", 0, false, false, info_drives},
    {"pic", "", "the 8259A pair", 0, true, false, info_pic},
    {"ioapic", "", "the I/O APIC's pins", 0, true, false, info_ioapic},
    {"lapic", "", "the current processor's local APIC", 0, true, false, info_lapic},
    {"vga", "", "the display adapter: its mode and registers", 0, false, false, info_vga},
    {"screen", "", "the text on the screen", 0, false, false, info_screen},
    {"pci", "", "PCI functions, with interrupts and base addresses", 0, true, false, info_pci},
    {"network", "", "network cards", 0, false, false, info_network},
    {"irq", "", "interrupts delivered, by vector", 0, true, false, info_irq},
    {"engines", "", "the ways to execute guest code; * is the one in use", 0, false, false, info_engines},
    {"stats", "", "counters, as --stat prints them", 0, true, false, call_stats},
    {"shadow", "", "counters of the shadow page tables", 0, true, false, info_shadow},
    {"jit", "", "counters of the translator", 0, true, false, info_jit},
    {NULL, NULL, NULL, 0, false, false, NULL},
};
