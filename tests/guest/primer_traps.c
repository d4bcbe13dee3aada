/* What a classical monitor would be trapped for while the primer runs: primer_traps ENGINE KERNEL COMMAND-LINE [time].
 *
 * An observer counts between the marks '[' and ']' that programs make at port 402h. For each pair one line is printed:
 *
 *     traps T privileged P gates G silent S mmio M exceptions E interrupts I cr3 C entries W shadow X ns N
 *
 * privileged    instructions that trap without privilege, IRET included
 * gates         INT and the like
 * silent        instructions that do not trap and would have to be patched to do so: counted as traps
 * mmio          accesses to device memory
 * exceptions, interrupts    delivered to the guest, not by an instruction
 * traps         the sum of all these
 * cr3           of the privileged ones, loads of CR3; and switches by hypercall
 * entries       entries of page tables that hypercalls wrote (what the guest stores itself is not seen)
 * shadow        switches of shadow tables, if there is one for pretend kernel and one for pretend user mode of each
 *               address space: loads of CR3 and changes of mode
 * ns            host time; while the rest is counted, sensitive instructions run singly, which is slow. With `time` they do
 *               not, and ns is right, and the other numbers are not
 *
 * Marks themselves do not count. What the guest sends to the serial port goes to standard error. For readblock an
 * 'x' is typed 300 ms after the first mark, when the reader waits for it; ticks of the timer come in between, so only its loads of CR3 are exact.
 * Ends with the status that ring3 would have. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cpu/hypercall_abi.h"
#include "engine/door.h"
#include "engine/engine.h"
#include "host/chardev.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/machine.h"
#include "memory/memory.h"
#include "mmu/shadow.h"

#define MARK_PORT 0x402u
#define TIMEOUT_NS (120 * NS_PER_S)
#define TYPE_AFTER_NS (300 * NS_PER_S / 1000)
#define LOOK_NS (20 * NS_PER_S / 1000)

struct counts {
    uint64_t privileged, gates, silent, mmio, exceptions, interrupts, cr3, entries, shadow;
};

struct session {
    struct observer observer;
    struct chardev serial;
    struct vm *vm;
    struct timer limit, typist;
    _Atomic uint64_t since_ns; /* the last mark '[' */
    struct counts counts;
};

static void report(const struct counts *c, uint64_t ns)
{
    uint64_t traps = c->privileged + c->gates + c->silent + c->mmio + c->exceptions + c->interrupts;
    printf("traps %" PRIu64 " privileged %" PRIu64 " gates %" PRIu64 " silent %" PRIu64 " mmio %" PRIu64
           " exceptions %" PRIu64 " interrupts %" PRIu64 " cr3 %" PRIu64 " entries %" PRIu64 " shadow %" PRIu64
           " ns %" PRIu64 "\n",
           traps, c->privileged, c->gates, c->silent, c->mmio, c->exceptions, c->interrupts, c->cr3, c->entries, c->shadow,
           ns);
}

static void on_mark(struct session *s, char mark)
{
    if (mark == '[') {
        s->counts = (struct counts){0};
        s->since_ns = clock_monotonic_ns();
    } else {
        s->counts.privileged--; /* the OUT that makes this mark */
        report(&s->counts, clock_monotonic_ns() - s->since_ns);
    }
}

static void on_mmu(struct session *s, struct vcpu *v, gpa_t gpa)
{
    for (uint32_t i = 0; i < (uint32_t)v->regs[RCX] && i < RING3_MMU_MAX; i++) {
        struct ring3_mmu_op op;
        if (!memory_read(v->memory, gpa + i * sizeof(op), &op, sizeof(op)))
            return;
        s->counts.entries += op.kind == RING3_MMU_WRITE;
        s->counts.cr3 += op.kind == RING3_MMU_SWITCH;
        s->counts.shadow += op.kind == RING3_MMU_SWITCH;
    }
}

static void on_exit_seen(void *opaque, struct vcpu *v, const struct exit *exit, const char *device)
{
    struct session *s = opaque;
    switch (exit->reason) {
    case EXIT_IO_OUT:
        if (exit->address == MARK_PORT && exit->mode == EXIT_MODE_USER)
            on_mark(s, (char)exit->value);
        break;
    case EXIT_MMIO_READ:
    case EXIT_MMIO_WRITE: s->counts.mmio++; break;
    case EXIT_EXCEPTION: s->counts.exceptions++; break;
    case EXIT_INTERRUPT: s->counts.interrupts++; break;
    case EXIT_CR_WRITE:
        s->counts.cr3 += exit->address == 3;
        s->counts.shadow += exit->address == 3;
        break;
    case EXIT_HYPERCALL:
        if ((uint32_t)exit->address == RING3_HC_MMU)
            on_mmu(s, v, exit->value);
        break;
    default: break;
    }
}

static void on_begin(void *opaque, struct vcpu *v, const struct insn *in)
{
    struct session *s = opaque;
    switch (insn_sensitivity(in)) {
    case INSN_PRIVILEGED: s->counts.privileged++; break;
    case INSN_GATE: s->counts.gates++; break;
    case INSN_SILENT: s->counts.silent++; break;
    case INSN_INNOCENT: break;
    }
}

static void on_mode(void *opaque, struct vcpu *v, unsigned cpl_before)
{
    struct session *s = opaque;
    s->counts.shadow += (cpl_before == 3) != (v->cpl == 3);
}

static size_t serial_write(struct chardev *dev, const uint8_t *bytes, size_t n)
{
    return fwrite(bytes, 1, n, stderr);
}

static const struct chardev_ops serial_ops = {.write = serial_write, .name = "test"};

static void type(void *opaque)
{
    struct session *s = opaque;
    uint64_t since_ns = s->since_ns, now_ns = clock_monotonic_ns();
    if (since_ns == 0 || now_ns - since_ns < TYPE_AFTER_NS)
        timer_arm(&s->typist, now_ns + LOOK_NS);
    else if (chardev_can_receive(&s->serial) > 0)
        chardev_receive(&s->serial, (const uint8_t *)"x", 1);
}

static void give_up(void *opaque)
{
    struct session *s = opaque;
    fprintf(stderr, "primer_traps: no end in sight\n");
    vm_stop(s->vm, VM_STOP_TIMEOUT);
}

static int status_of(const struct vm_result *result)
{
    switch (result->end) {
    case VM_END_POWER_OFF: return 0;
    case VM_END_DEBUG_EXIT: return result->code & 0xff;
    default: fprintf(stderr, "primer_traps: the run ended with %d, code %d\n", (int)result->end, result->code); return 2;
    }
}

int main(int argc, char **argv)
{
    static struct session session;
    struct session *s = &session;
    struct error err = {""};
    struct log log;
    bool timed = argc == 5 && strcmp(argv[4], "time") == 0;
    if (argc != 4 && !timed) {
        fprintf(stderr, "usage: primer_traps ENGINE KERNEL COMMAND-LINE [time]\n");
        return 2;
    }
    log_init(&log, LOG_OFF, NULL, NULL);
    s->serial.ops = &serial_ops;
    s->observer = (struct observer){.exit = on_exit_seen, .watch = {.opaque = s}};
    if (!timed) {
        s->observer.watch.begin = on_begin;
        s->observer.watch.mode = on_mode;
    }
    struct machine_config config = {.engine = argv[1], .kernel = argv[2], .append = argv[3], .ram_size = 32 * MiB,
                                    .shadow = SHADOW_PROACTIVE, .heat = TRANSLATE_HEAT_DEFAULT, .serial = &s->serial,
                                    .observer = &s->observer, .no_reboot = true, .log = &log};
    config.loop = loop_create(&err);
    s->vm = config.loop != NULL ? vm_create(&config, &err) : NULL;
    if (s->vm == NULL) {
        fprintf(stderr, "primer_traps: %s\n", err.message);
        return 2;
    }
    timer_init(&s->limit, loop_timers(config.loop), give_up, s);
    timer_init(&s->typist, loop_timers(config.loop), type, s);
    timer_arm(&s->limit, clock_monotonic_ns() + TIMEOUT_NS);
    if (strstr(argv[3], "readblock") != NULL)
        timer_arm(&s->typist, clock_monotonic_ns() + LOOK_NS);
    struct vm_result result;
    int status = vm_run(s->vm, &result, &err) ? status_of(&result) : 2;
    timer_disarm(&s->limit);
    timer_disarm(&s->typist);
    vm_destroy(s->vm);
    loop_destroy(config.loop);
    return status;
}
